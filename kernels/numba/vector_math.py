r"""Elementary functions that compile into straight vector code.

A call to the C library keeps a loop scalar. Written as a reduction to a short interval, a polynomial there and
arithmetic on the exponent's bits, without a branch, the same function becomes vector instructions in any loop:

    exp     x = n ln 2 + r, |r| <= ln(2)/2:          e^x = 2^n e^r
    log     x = 2^e m, sqrt(1/2) <= m < sqrt(2):     log x = e ln 2 + log m,  log m = 2 artanh((m - 1)/(m + 1))

Each function takes a float64 or a float32 (anything else counts as float64) and answers in kind, from compiled code
and from Python alike; Python's call also takes arrays, and does the same arithmetic with NumPy. No step depends on
whether a product and a sum are fused into one operation.

Coefficients are minimax: found by Remez exchange in 60 digits for the relative error of the function, the
leading ones fixed at their exact values, then rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, overload, type_callable

from refdiff.kernels.numba.compiling import FAST

# ---------------------------------------------------------------------- steps Python has no words for


def _choose(condition: Any, yes: Any, no: Any) -> Any:
    """One of two values, both computed: a select, never a branch."""
    return np.where(condition, yes, no)


@type_callable(_choose)
def _type_choose(context):  # type: ignore[no-untyped-def]
    return lambda condition, yes, no: yes if yes == no else None


@lower_builtin(_choose, types.Boolean, types.Float, types.Float)
def _lower_choose(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    return builder.select(*arguments)


def _polynomial(x: Any, coefficients: tuple[Any, ...]) -> Any:
    """c0 + c1 x + c2 x^2 + ... by Horner's rule."""
    value = coefficients[-1]
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


@type_callable(_polynomial)
def _type_polynomial(context):  # type: ignore[no-untyped-def]
    return lambda x, coefficients: x


@lower_builtin(_polynomial, types.Float, types.UniTuple)
def _lower_polynomial(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    x, coefficients = arguments
    terms = [builder.extract_value(coefficients, i) for i in range(signature.args[1].count)]
    value = terms[-1]
    for c in terms[-2::-1]:
        value = builder.fadd(builder.fmul(value, x, flags=("contract",)), c, flags=("contract",))
    return value


def _times_power(y: Any, shifted: Any) -> Any:
    """2^n y by adding n to the exponent of y, for shifted = n + SHIFT; y and 2^n y are normal numbers."""
    kind = y.dtype.type
    whole, digits = (np.int64, 52) if kind is np.float64 else (np.int32, 23)
    return ((shifted.view(whole) << whole(digits)) + y.view(whole)).view(kind)


@type_callable(_times_power)
def _type_times_power(context):  # type: ignore[no-untyped-def]
    return lambda y, shifted: y


@lower_builtin(_times_power, types.Float, types.Float)
def _lower_times_power(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    y, shifted = arguments
    whole, digits = (ir.IntType(64), 52) if signature.return_type == types.float64 else (ir.IntType(32), 23)
    power = builder.shl(builder.bitcast(shifted, whole), whole(digits))
    return builder.bitcast(builder.add(power, builder.bitcast(y, whole)), y.type)


# ---------------------------------------------------------------------- one body for two precisions

LN2_HIGH = {np.float64: 6.93147180369123816490e-01, np.float32: 0.693359375}  # n times it is exact for every exponent n
LN2_LOW = {np.float64: 1.90821492927058770002e-10, np.float32: -2.12194440e-4}
SHIFT = {np.float64: 1.5 * 2.0**52, np.float32: 1.5 * 2.0**23}  # adding it rounds to an integer in the lowest bits

# (e^r - 1 - r) / r^2 on |r| <= ln(2)/2; the error of e^r is 2^-57.9 and 2^-28.3 of it
EXP = {
    np.float64: (0.5000000000000011, 0.16666666666666413, 0.041666666666530155, 0.008333333333494466,
                 0.0013888888943630153, 0.00019841269506567152, 2.4801493098862284e-05, 2.7557586384852627e-06,
                 2.763024839522162e-07, 2.500005795652183e-08),
    np.float32: (0.4999999344778962, 0.16666520631801726, 0.04166838804854759, 0.008368716870689998,
                 0.0013814598416706768),
}  # fmt: skip


def _both(make: Callable[[type], Callable[..., Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a documented name its arithmetic: compiled by the type of the first argument, or run by NumPy."""
    bodies = {kind: make(kind) for kind in (np.float64, np.float32)}

    def named(name: Callable[..., Any]) -> Callable[..., Any]:
        def public(x: Any) -> Any:
            x = np.asarray(x)
            kind = np.float32 if x.dtype == np.float32 else np.float64
            with np.errstate(all="ignore"):
                value = bodies[kind](x.astype(kind))
            return tuple(v[()] for v in value) if isinstance(value, tuple) else value[()]

        public.__name__, public.__doc__, public.__module__ = name.__name__, name.__doc__, name.__module__
        public.__qualname__ = name.__qualname__

        @overload(public, jit_options={"error_model": "numpy", "fastmath": FAST, "forceinline": True})
        def _(x):  # type: ignore[no-untyped-def]
            return bodies[np.float32 if x == types.float32 else np.float64]

        return public

    return named


def _make_exp_nonpositive(kind: Any) -> Callable[..., Any]:
    log2e, shift, high, low = kind(1 / math.log(2)), kind(SHIFT[kind]), kind(LN2_HIGH[kind]), kind(LN2_LOW[kind])
    coefficients = tuple(kind(c) for c in (1.0, 1.0, *EXP[kind]))
    least = kind(-708.39 if kind is np.float64 else -87.33)
    zero = kind(0)

    def body(x):  # type: ignore[no-untyped-def]
        shifted = x * log2e + shift
        n = shifted - shift
        r = (x - n * high) - n * low
        return _choose(x > least, _times_power(_polynomial(r, coefficients), shifted), zero)

    return body


@_both(_make_exp_nonpositive)
def exp_nonpositive(x: Any) -> Any:
    """e^x for x <= 0, and 0 for x below -708.39 (float32: -87.33), -inf included; other x are not meant."""
