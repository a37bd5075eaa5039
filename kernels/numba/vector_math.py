r"""Elementary functions that compile into straight vector code.

A call to the C library keeps a loop scalar. Written as a reduction to a short interval, a polynomial there and
arithmetic on the bits of the exponent, without a branch, the same function becomes vector instructions in any loop:

    exp       x = n ln 2 + r, |r| <= ln(2)/2                 e^x = 2^n e^r
    expm1     the same                                       e^x - 1 = (2^n - 1) + 2^n (e^r - 1)
    log       x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2)  log x = e ln 2 + 2 artanh s, s = f / (2 + f)
    log1p     1 + x = u + c, u rounded                       log u + c / u
    sincos    x = n pi/2 + r, |r| <= pi/4                    (sin r, cos r) turned by n quarters

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
from refdiff.kernels.numba.vector_coefficients import COS, COS_QUARTERS, EXP2, LOG, SIN, SIN_QUARTERS
from refdiff.kernels.numba.vector_coefficients import EXP as EXP
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


def _make_expm1(kind: Any) -> Callable[..., Any]:
    log2e, shift, high, low = _reduction(kind)
    coefficients = tuple(kind(c) for c in EXP[kind])
    least, largest = (kind(-40), kind(710)) if kind is np.float64 else (kind(-20), kind(89))
    half, two, tiny = kind(0.5), kind(2), kind(2.0**-108 if kind is np.float64 else 2.0**-50)

    def body(x):  # type: ignore[no-untyped-def]
        y = choose(largest, x, x > largest)
        y = choose(least, y, y < least)
        shifted = y * log2e + shift
        n = shifted - shift
        first, second = y - n * high, n * low
        r = first - second
        rest = r * r * polynomial(r, coefficients) + ((first - r) - second)
        # half of (2^n - 1) + 2^n r with its rounding error, so that 2^n may be 2^1024
        power = times_power(half, shifted)
        constant, linear = power - half, power * r
        total = constant + linear
        found = total - constant
        lost = (constant - (total - found)) + (linear - found)
        return choose(x, two * (total + (lost + power * rest)), x * x < tiny)

    return body


@_both(_make_expm1)
def expm1(x: Any) -> Any:
    """e^x - 1, of small x too; of -0.0 it is -0.0.

    Error at most 1.07 ulps (float32: 1.05), without fusing 1.07 (1.07).
    """


# ---------------------------------------------------------------------- log


def _make_log_of(kind: Any) -> Callable[..., Any]:
    """e ln 2 + log(1 + f) + c for a tiny c: 2 artanh s = f - (f^2/2 - s (f^2/2 + s^2 LOG)), f being exact."""
    coefficients, high, low = tuple(kind(c) for c in LOG[kind]), kind(LN2_HIGH[kind]), kind(LN2_LOW[kind])
    half, two = kind(0.5), kind(2)

    @register_jitable(**OPTIONS)
    def log_of(e, f, c):  # type: ignore[no-untyped-def]
        s = f / (two + f)
        z = s * s
        square = half * f * f
        return e * high + (f - (square - (s * (square + z * polynomial(z, coefficients)) + (e * low + c))))

    made: Callable[..., Any] = log_of
    return made


def _make_log(kind: Any) -> Callable[..., Any]:
    log_of, least, scale = _make_log_of(kind), kind(np.finfo(kind).tiny), kind(2.0**54)
    zero, one, lift, infinity, nan = kind(0), kind(1), kind(54), kind(np.inf), kind(np.nan)

    def body(x):  # type: ignore[no-untyped-def]
        subnormal = x < least
        normal = choose(x * scale, x, subnormal)
        e = exponent(normal) - choose(lift, zero, subnormal)
        value = log_of(e, mantissa(normal) - one, zero)
        value = choose(value, x, x < infinity)
        value = choose(value, nan, x >= zero)
        return choose(-infinity, value, x == zero)

    return body


@_both(_make_log)
def log(x: Any) -> Any:
    """The natural logarithm: -inf of 0, NaN of what is negative.

    Error at most 0.81 ulps (float32: 0.81), without fusing 0.80 (0.83).
    """


def _make_log1p(kind: Any) -> Callable[..., Any]:
    log_of, zero, one, infinity, nan = _make_log_of(kind), kind(0), kind(1), kind(np.inf), kind(np.nan)

    def body(x):  # type: ignore[no-untyped-def]
        u = one + x
        found = u - one
        c = ((one - (u - found)) + (x - found)) / u
        e = exponent(u)
        near = e == zero  # there f = x is exact
        value = log_of(e, choose(x, mantissa(u) - one, near), choose(zero, c, near))
        value = choose(nan, value, x < -one)
        value = choose(-infinity, value, x == -one)
        # NaN, infinity and both zeros are what they were
        return choose(value, x, (x < infinity) & (x != zero))

    return body


@_both(_make_log1p)
def log1p(x: Any) -> Any:
    """log(1 + x), of small x too: -inf of -1, NaN below it, -0.0 of -0.0.

    Error at most 0.82 ulps (float32: 0.81), without fusing 0.82 (0.81).
    """


# ---------------------------------------------------------------------- sine and cosine

PI_2 = (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21)  # 33, 33 and 53 bits
REACH = 2.0**20  # so far n has 20 bits, and its products with the first two parts of pi/2 are exact


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


def _make_sincos(kind: Any) -> Callable[..., Any]:
    # a float32 is reduced and evaluated as a float64, with polynomials that suffice for the float32 result
    sine, cosine = tuple(SIN[kind]), (-0.5, *COS[kind])
    two_pi, shift, reach, nan = 2 / math.pi, SHIFT[np.float64], REACH, math.nan
    first, second, third = PI_2

    def body(x):  # type: ignore[no-untyped-def]
        y = np.float64(x)
        shifted = y * two_pi + shift
        n = shifted - shift
        near = y - n * first  # exact, as is n * second
        nearer = near - n * second
        rest = ((near - nearer) - n * second) - n * third
        r = nearer + rest
        low = (nearer - r) + rest
        z = r * r
        s = r + (z * r * polynomial(z, sine) + low)
        c = 1.0 + (z * polynomial(z, cosine) - r * low)
        swap = odd(shifted)
        within = y * y <= reach * reach
        s, c = turned(choose(c, s, swap), shifted), turned(choose(s, c, swap), shifted + 1.0)
        return kind(choose(s, nan, within)), kind(choose(c, nan, within))

    return body


@_both(_make_sincos)
def sincos(x: Any) -> Any:
    """(sin x, cos x) for |x| <= 2^20, and NaN beyond: there a phase is better held in turns, for sincos_turns.

    Error at most 1.13 ulps (float32: 0.51), without fusing 1.33 (0.51).
    """
