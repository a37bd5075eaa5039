"""Points as blocks of lanes, and back, and the memory in which blocks are worked on.

Copies are loops: Numba's assignment of one array to another brings along the text of its error messages, which takes
seconds to compile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from refdiff.kernels.numba.compiling import inlined, shared
from refdiff.kernels.numba.tiles import LANES

LINE = 64  # bytes of a cache line: a vector of this length that begins elsewhere is read and written in two halves


@shared
def aligned(shape: Any, kind: Any) -> Any:
    """An empty array that begins with a cache line."""
    size = 1
    for side in shape:
        size *= side
    whole = np.empty(size + LINE, kind)
    begin = -whole.ctypes.data % LINE // whole.itemsize
    return whole[begin : begin + size].reshape(shape)


def borrowed(value: Any) -> Any:
    """The arrays of a tuple, or an array, without their counts of references.

    Each count is an atomic operation, wherever an array is passed on or taken from a tuple: together as long as the
    arithmetic of a small block. Who borrows must `keep` the value that owns the memory until the end.
    """
    return value


def keep(value: Any) -> None:
    """Nothing: but the value is needed until here."""


@type_callable(borrowed)
def _(_context: Any) -> Any:
    return lambda value: value


@lower_builtin(borrowed, types.Array)
@lower_builtin(borrowed, types.BaseTuple)
def _(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return _borrowed(context, builder, signature.args[0], values[0])


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, value)
        return context.make_tuple(
            builder, kind, [_borrowed(context, builder, k, v) for k, v in zip(kind.types, parts, strict=True)]
        )
    return value


@type_callable(keep)
def _(_context: Any) -> Any:
    return lambda _value: types.none


@lower_builtin(keep, types.Any)
def _(context: Any, _builder: Any, _signature: Any, _values: Any) -> Any:
    return context.get_dummy_value()


@inlined
def load(points: Any, first: int, x: Any) -> Any:
    """Rows first.. of points (n, d) as a block x; the last row again where there are no more. How many there were."""
    count = min(LANES, points.shape[0] - first)
    for i in range(LANES):
        for j in range(points.shape[1]):
            x[j, i] = points[first + min(i, count - 1), j]
    return count


@inlined
def store(x: Any, count: int, first: int, points: Any) -> None:
    """The first `count` lanes of a block as rows first.. of points (n, d)."""
    for i in range(count):
        for j in range(points.shape[1]):
            points[first + i, j] = x[j, i]


@inlined
def store_line(line: Any, count: int, first: int, numbers: Any) -> None:
    """The first `count` entries of a line as the entries first.. of numbers."""
    for i in range(count):
        numbers[first + i] = line[i]


@inlined
def copy(source: Any, out: Any) -> None:
    """One block into another."""
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[j, i] = source[j, i]
