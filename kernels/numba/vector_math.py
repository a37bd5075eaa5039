r"""Elementary functions that compile into straight vector code.

A call to the C library keeps a loop scalar. Written as a reduction to a short interval, a polynomial there and
arithmetic on the bits of the exponent, without a branch, the same function becomes vector instructions in any loop:

    exp       x = n ln 2 + r, |r| <= ln(2)/2                 e^x = 2^n e^r
    log       x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2)  log x = e ln 2 + 2 artanh s, s = f / (2 + f)
    sincos    4 x = n + t, |t| <= 1/2                        (sin, cos)(pi t/2) turned by n quarters, of x in turns

Each function takes a float64 or a float32 (anything else counts as float64) and answers in kind, from compiled code
and from Python alike; Python's call also takes arrays, and does the same arithmetic with NumPy. No step depends on
whether a product and a sum are fused into one operation.

A docstring states the largest error among 10^6 arguments, |computed - exact| / ulp(exact), against mpmath (float32:
against arithmetic of 64 bits): compiled for a machine that fuses products and sums, and without fusing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from refdiff.kernels.numba.compiling import FAST
from refdiff.kernels.numba.vector_coefficients import COS_QUARTERS, EXP, EXP2, LOG, SIN_QUARTERS
from refdiff.kernels.numba.vector_steps import (
    choose,
    exponent,
    mantissa,
    odd,
    polynomial,
    times_power,
    times_power_or_zero,
    turned,
)

OPTIONS: Any = {"error_model": "numpy", "fastmath": FAST, "forceinline": True}

# ---------------------------------------------------------------------- one body for two precisions

SHIFT = {np.float64: 1.5 * 2.0**52, np.float32: 1.5 * 2.0**23}  # adding it rounds to a whole number in the lowest bits
LN2, LOG2_E, HALF_LOG_2PI = 0.6931471805599453, 1.4426950408889634, 0.9189385332046727
# ln 2 in two parts, the first so short that its product with an exponent is exact
LN2_HIGH = {np.float64: 6.93147180369123816490e-01, np.float32: 0.693359375}
LN2_LOW = {np.float64: 1.90821492927058770002e-10, np.float32: -2.12194440054690583e-4}


def _both(make: Callable[[Any], Callable[..., Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The arithmetic of a documented name: make(kind) returns it for one kind of number.

    Compiled code calls it by the type of the argument; Python's call runs it on NumPy numbers or arrays.
    """
    bodies = {kind: make(kind) for kind in (np.float64, np.float32)}
    body = register_jitable(**OPTIONS)(bodies[np.float64])

    def named(name: Callable[..., Any]) -> Callable[..., Any]:
        def public(x: Any) -> Any:
            x = np.asarray(x)
            kind = np.float32 if x.dtype == np.float32 else np.float64
            with np.errstate(all="ignore"):
                value = bodies[kind](x.astype(kind))
            return tuple(v[()] for v in value) if isinstance(value, tuple) else value[()]

        public.__name__ = public.__qualname__ = name.__name__
        public.__doc__ = name.__doc__

        @overload(public, jit_options=OPTIONS)
        def _(x):  # type: ignore[no-untyped-def]
            if isinstance(x, types.Float):
                return bodies[np.float32 if x == types.float32 else np.float64]
            return lambda x: body(np.float64(x))

        return public

    return named


# ---------------------------------------------------------------------- exp


def _reduction(kind: Any) -> tuple[Any, Any, Any, Any]:
    """1 / ln 2, SHIFT and the two parts of ln 2."""
    return kind(1 / math.log(2)), kind(SHIFT[kind]), kind(LN2_HIGH[kind]), kind(LN2_LOW[kind])


def _make_exp_nonpositive(kind: Any) -> Callable[..., Any]:
    log2e, shift, high, low = _reduction(kind)
    coefficients = tuple(kind(c) for c in (1.0, 1.0, *EXP[kind]))
    least = kind(-708.39 if kind is np.float64 else -87.33)

    def body(x):  # type: ignore[no-untyped-def]
        shifted = x * log2e + shift
        n = shifted - shift
        r = (x - n * high) - n * low
        return times_power_or_zero(polynomial(r, coefficients), shifted, x >= least)

    return body


@_both(_make_exp_nonpositive)
def exp_nonpositive(x: Any) -> Any:
    """e^x for x <= 0, in as few instructions as can be; 0 below -708.39 (float32: -87.33), and for -inf.

    For no other x.

    Error at most 0.92 ulps (float32: 0.88), without fusing 1.19 (1.21).
    """


def _make_exp2_nonpositive(kind: Any) -> Callable[..., Any]:
    shift, coefficients = kind(SHIFT[kind]), tuple(kind(c) for c in (1.0, *EXP2[kind]))
    least = kind(-1022 if kind is np.float64 else -126)

    def body(x):  # type: ignore[no-untyped-def]
        shifted = x + shift
        return times_power_or_zero(polynomial(x - (shifted - shift), coefficients), shifted, x >= least)

    return body


@_both(_make_exp2_nonpositive)
def exp2_nonpositive(x: Any) -> Any:
    """2^x for x <= 0, with two instructions less than e^x; 0 below -1022 (float32: -126), and for -inf.

    For no other x.

    Error at most 0.93 ulps (float32: 0.94), without fusing 1.20 (1.17).
    """


def _make_exp(kind: Any) -> Callable[..., Any]:
    log2e, shift, high, low = _reduction(kind)
    coefficients = tuple(kind(c) for c in (1.0, 1.0, *EXP[kind]))
    least, largest, zero = kind(-746 if kind is np.float64 else -104), kind(710 if kind is np.float64 else 89), kind(0)
    # 2^n itself need not be a number: one factor 2^(n + 64) or 2^(n - 64) is, and the other rounds only once
    small, large = kind(2.0**-64), kind(2.0**64)

    def body(x):  # type: ignore[no-untyped-def]
        x = choose(largest, x, x > largest)
        x = choose(least, x, x < least)
        shifted = x * log2e + shift
        n = shifted - shift
        p = polynomial((x - n * high) - n * low, coefficients)
        negative = x < zero
        return p * times_power(choose(large, small, negative), shifted) * choose(small, large, negative)

    return body


@_both(_make_exp)
def exp(x: Any) -> Any:
    """e^x: through the subnormals to 0, and to inf.

    Error at most 0.91 ulps (float32: 0.90), without fusing 1.19 (1.18).
    """


# ---------------------------------------------------------------------- log


def _make_log(kind: Any) -> Callable[..., Any]:
    """e ln 2 + log(1 + f), with 2 artanh s = f - (f^2/2 - s (f^2/2 + s^2 LOG)), f being exact."""
    coefficients, high, low = tuple(kind(c) for c in LOG[kind]), kind(LN2_HIGH[kind]), kind(LN2_LOW[kind])
    least, scale, lift, half, two = kind(np.finfo(kind).tiny), kind(2.0**54), kind(54), kind(0.5), kind(2)
    zero, one, infinity, nan = kind(0), kind(1), kind(np.inf), kind(np.nan)

    def body(x):  # type: ignore[no-untyped-def]
        subnormal = x < least
        normal = choose(x * scale, x, subnormal)
        e = exponent(normal) - choose(lift, zero, subnormal)
        f = mantissa(normal) - one
        s = f / (two + f)
        z = s * s
        square = half * f * f
        # adding 0 keeps the low part of e ln 2 a number of its own, not a product that is fused with a sum
        value = e * high + (f - (square - (s * (square + z * polynomial(z, coefficients)) + (e * low + zero))))
        value = choose(value, x, x < infinity)
        value = choose(value, nan, x >= zero)
        return choose(-infinity, value, x == zero)

    return body


@_both(_make_log)
def log(x: Any) -> Any:
    """The natural logarithm: -inf of 0, NaN of what is negative.

    Error at most 0.81 ulps (float32: 0.81), without fusing 0.80 (0.83).
    """


# ---------------------------------------------------------------------- sine and cosine


def _make_sincos_turns(kind: Any) -> Callable[..., Any]:
    sine, cosine = tuple(kind(c) for c in SIN_QUARTERS[kind]), tuple(kind(c) for c in (1.0, *COS_QUARTERS[kind]))
    high = kind(np.pi / 2)
    low = kind(6.123233995736766e-17) if kind is np.float64 else kind(np.pi / 2 - float(np.float32(np.pi / 2)))
    four, one, shift = kind(4), kind(1), kind(SHIFT[kind])

    def body(x):  # type: ignore[no-untyped-def]
        quarters = four * x
        shifted = quarters + shift
        t = quarters - (shifted - shift)
        z = t * t
        s, c = t * high + t * (low + z * polynomial(z, sine)), polynomial(z, cosine)
        swap = odd(shifted)
        return turned(choose(c, s, swap), shifted), turned(choose(s, c, swap), shifted + one)

    return body


@_both(_make_sincos_turns)
def sincos_turns(x: Any) -> Any:
    """(sin 2 pi x, cos 2 pi x) for |x| <= 2^20, exact where x is a whole number of quarters.

    Error at most 1.00 ulps (float32: 0.97), without fusing 1.54 (1.57).
    """
