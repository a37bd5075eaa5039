r"""Steps of vector code that Python has no words for: a select, and arithmetic on the bits of a float.

Each is a Python function, which does the step with NumPy on numbers and arrays, and beside it what LLVM is given in
compiled code. In both, for float64 and float32 alike,

    x = 2^e m          e and m are read off the bits of a normal x
    shifted = n + S    S = 1.5 * 2^52 (float32: 2^23): adding it to a float rounds to the whole number n and leaves n
                       in the lowest bits, from where a shift brings it to the exponent or the sign of another float
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, type_callable

DIGITS = {64: 52, 32: 23}  # of the mantissa
SQRT_HALF = {64: 0x3FE6A09E667F3BCD, 32: 0x3F3504F3}  # the bits of sqrt(1/2)
ONE = {64: 0x3FF0000000000000, 32: 0x3F800000}
WHOLE = {64: 0x4330000000000000, 32: 0x4B000000}  # the bits of 2^52 and 2^23, where the lowest bit counts 1


def _size(x: Any) -> tuple[int, Any, Any]:
    """How many bits x has, and the kinds of whole and of real numbers of that size."""
    return (64, np.uint64, np.float64) if x.dtype == np.float64 else (32, np.uint32, np.float32)


def _lowers(name: Callable[..., Any], *arguments: Any, result: Any = None) -> Callable[..., Any]:
    """The decorated function writes the LLVM code of a Python function: (builder, *values) -> value.

    The result is of the type of the first argument unless another is given.
    """

    @type_callable(name)
    def typing(_context):  # type: ignore[no-untyped-def]
        def answer(*given):  # type: ignore[no-untyped-def]
            return result or given[0]

        answer.__signature__ = inspect.signature(name)  # type: ignore[attr-defined]
        return answer

    def lowered(lower: Callable[..., Any]) -> Callable[..., Any]:
        lower_builtin(name, *arguments)(lambda _context, builder, _signature, values: lower(builder, *values))
        return lower

    return lowered


def _as_bits(builder: Any, value: Any) -> tuple[Any, Any, int]:
    """The bits of a float as a whole number, the type of that, and its size."""
    size = 64 if value.type == ir.DoubleType() else 32
    return builder.bitcast(value, ir.IntType(size)), ir.IntType(size), size


def choose(yes: Any, no: Any, condition: Any) -> Any:
    """`yes` where the condition holds, else `no`; both are computed, nothing branches."""
    return np.where(condition, yes, no)


@_lowers(choose, types.Float, types.Float, types.Boolean)
def _(builder: Any, yes: Any, no: Any, condition: Any) -> Any:
    return builder.select(condition, yes, no)


def polynomial(x: Any, coefficients: tuple[Any, ...]) -> Any:
    """c0 + c1 x + c2 x^2 + ... by Horner's rule."""
    value = coefficients[-1]
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


@_lowers(polynomial, types.Float, types.UniTuple)
def _(builder: Any, x: Any, coefficients: Any) -> Any:
    terms = [builder.extract_value(coefficients, i) for i in range(coefficients.type.count)]
    value = terms[-1]
    for c in terms[-2::-1]:
        value = builder.fadd(builder.fmul(value, x, flags=("contract",)), c, flags=("contract",))
    return value


def times_power(y: Any, shifted: Any) -> Any:
    """2^n y by adding n to the exponent of y, for shifted = n + SHIFT; y and 2^n y are normal numbers."""
    size, whole, real = _size(y)
    return ((shifted.view(whole) << whole(DIGITS[size])) + y.view(whole)).view(real)


@_lowers(times_power, types.Float, types.Float)
def _(builder: Any, y: Any, shifted: Any) -> Any:
    (bits, whole, size), (n, _, _) = _as_bits(builder, y), _as_bits(builder, shifted)
    return builder.bitcast(builder.add(builder.shl(n, whole(DIGITS[size])), bits), y.type)


def times_power_or_zero(y: Any, shifted: Any, condition: Any) -> Any:
    """2^n y where the condition holds, else 0: chosen among whole numbers, the zero costs no instruction of its own."""
    return np.where(condition, times_power(y, shifted), y.dtype.type(0))


@_lowers(times_power_or_zero, types.Float, types.Float, types.Boolean)
def _(builder: Any, y: Any, shifted: Any, condition: Any) -> Any:
    (bits, whole, size), (n, _, _) = _as_bits(builder, y), _as_bits(builder, shifted)
    product = builder.add(builder.shl(n, whole(DIGITS[size])), bits)
    return builder.bitcast(builder.select(condition, product, whole(0)), y.type)


def exponent(x: Any) -> Any:
    """e of x = 2^e m with sqrt(1/2) <= m < sqrt(2), for a positive normal x."""
    size, whole, real = _size(x)
    biased = (x.view(whole) + whole(ONE[size] - SQRT_HALF[size])) >> whole(DIGITS[size])
    return (biased | whole(WHOLE[size])).view(real) - real(2.0 ** DIGITS[size] + (ONE[size] >> DIGITS[size]))


@_lowers(exponent, types.Float)
def _(builder: Any, x: Any) -> Any:
    # without a conversion from whole numbers, which AVX2 has not in 64 bits
    bits, whole, size = _as_bits(builder, x)
    biased = builder.lshr(builder.add(bits, whole(ONE[size] - SQRT_HALF[size])), whole(DIGITS[size]))
    real = builder.bitcast(builder.or_(biased, whole(WHOLE[size])), x.type)
    return builder.fsub(real, x.type(2.0 ** DIGITS[size] + (ONE[size] >> DIGITS[size])))


def mantissa(x: Any) -> Any:
    """m of x = 2^e m with sqrt(1/2) <= m < sqrt(2), for a positive normal x."""
    size, whole, real = _size(x)
    moved = x.view(whole) + whole(ONE[size] - SQRT_HALF[size])
    return ((moved & whole(2 ** DIGITS[size] - 1)) + whole(SQRT_HALF[size])).view(real)


@_lowers(mantissa, types.Float)
def _(builder: Any, x: Any) -> Any:
    bits, whole, size = _as_bits(builder, x)
    moved = builder.add(bits, whole(ONE[size] - SQRT_HALF[size]))
    kept = builder.and_(moved, whole(2 ** DIGITS[size] - 1))
    return builder.bitcast(builder.add(kept, whole(SQRT_HALF[size])), x.type)


def odd(shifted: Any) -> Any:
    """Whether n is odd, for shifted = n + SHIFT."""
    _, whole, _ = _size(shifted)
    return (shifted.view(whole) & whole(1)) != 0


@_lowers(odd, types.Float, result=types.boolean)
def _(builder: Any, shifted: Any) -> Any:
    bits, whole, _ = _as_bits(builder, shifted)
    return builder.icmp_unsigned("!=", builder.and_(bits, whole(1)), whole(0))


def turned(y: Any, shifted: Any) -> Any:
    """y, or -y where n modulo 4 is 2 or 3, for shifted = n + SHIFT."""
    size, whole, real = _size(y)
    return (((shifted.view(whole) & whole(2)) << whole(size - 2)) ^ y.view(whole)).view(real)


@_lowers(turned, types.Float, types.Float)
def _(builder: Any, y: Any, shifted: Any) -> Any:
    (bits, whole, size), (n, _, _) = _as_bits(builder, y), _as_bits(builder, shifted)
    sign = builder.shl(builder.and_(n, whole(2)), whole(size - 2))
    return builder.bitcast(builder.xor(sign, bits), y.type)
