r"""Sums of a kernel over all pairs of two sets of points on the device, without the array of pairs.

    S_i = sum_j w_j k(l_ij),      T_i = sum_j w_j k(l_ij)^2,      F_i = sum_j w_j k(l_ij) (x_i - y_j),

l_ij = p |x_i - y_j|^2 from squares of differences, which keep their digits where points are near each other. Products
of matrices would be faster where axes are many; but the order of their sums depends on how many points there are.

    GAUSSIAN   k = 2^l,           p < 0         DISTANCE   k = sqrt l
    LAPLACE    k = 2^(-sqrt l),   p > 0         PULL       k = 2^(-sqrt l) / sqrt l,  0 where l = 0
    POWER      k = (1 + l)^-a,    p > 0         INVERSE    k = l^-a,  0 where l = 0

A sum is one of runs of RUN terms (4 in wide sums, 16 in wide fields), to which nothing is lost any more: with u half a
unit in the last place of float64 or float32, it errs by (RUN + 1) u sum_j |w_j k_j| and what the k_j err, however many
they are. It depends on nothing but its own x, y and w: chunks of CHUNK points y are added in their order, on however
many multiprocessors they were summed. Squares of distances have the range of the type: in float32 distances below 1e-19
are 0, and such above 1e19 infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.kernels.cuda.device import cupy, kernel, launch, rows_at_once

GAUSSIAN, LAPLACE, POWER, DISTANCE, PULL, INVERSE = range(6)
MOST_NARROW = 16  # axes that a thread holds in registers
CHUNK, TILE, RUN = 2048, 128, 32  # points y to a row of the grid, in shared memory, and added one after the other
SIDE, STEP = 64, 16  # of a tile of pairs, and of what is in shared memory of it
FILLED = 8  # blocks of points for each multiprocessor: where there are fewer, several chunks are worked on together
MOST_ROWS = 2**16 - 1  # of a grid
MOST_HALVES = 64  # up to which 2 a is known to the compiler

Chunks = Callable[[slice, int, int, Any], None]  # of points x: the first chunk, how many, and where their sums go


def row_sums(kind: int, scale: float, power: float, x: Any, y: Any, weights: Any) -> Any:
    """S and T, float64 (n, 2), at points x (n, d), of points y (m, d) with weights (m,), all of one type.

    Args:
        kind: GAUSSIAN, LAPLACE, POWER or DISTANCE.
        scale: p.
        power: a.
        x: points, shape (n, d), contiguous as the other arrays.
        y: points, shape (m, d).
        weights: w, shape (m,).

    Raises:
        MemoryError: not even the sums of one block of points fit.
    """
    m, dim = y.shape
    name = "row_sums" if dim <= MOST_NARROW else "wide_sums"
    run, threads, items = _compiled(name, kind, power, x)

    def chunks(rows: slice, first: int, count: int, parts: Any) -> None:
        at, numbers = x[rows], (np.int64(len(x[rows])), np.int64(m), *([np.int32(dim)] if dim > MOST_NARROW else []))
        numbers = *numbers, np.int64(first), x.dtype.type(scale), x.dtype.type(power)
        launch(run, items(len(at)), at, y, weights, *numbers, parts, shared=_shared(x), threads=threads, rows=count)

    return _summed(chunks, kind, power, x, m, 2, 0)


def field(kind: int, scale: float, power: float, x: Any, y: Any, weights: Any) -> Any:
    """F, float64 (n, d), at points x (n, d), of points y (m, d) with weights (m,), all of one type.

    Args:
        kind: GAUSSIAN, POWER, PULL or INVERSE.
        scale: p.
        power: a.
        x: points, shape (n, d), contiguous as the other arrays.
        y: points, shape (m, d).
        weights: w, shape (m,).

    Raises:
        MemoryError: not even the sums of one block of points fit.
    """
    m, dim = y.shape
    run, threads, items = _compiled("field" if dim <= MOST_NARROW else "wide_field", kind, power, x)

    def chunks(rows: slice, first: int, count: int, parts: Any) -> None:
        at, sizes = x[rows], (np.int64(len(x[rows])), np.int64(m))
        options = {"shared": _shared(x), "threads": threads, "rows": count}
        if dim <= MOST_NARROW:
            numbers = *sizes, np.int64(first), x.dtype.type(scale), x.dtype.type(power)
            launch(run, items(len(at)), at, y, weights, *numbers, parts, **options)
            return
        width = min(count * CHUNK, m - first * CHUNK)
        found = _values(kind, scale, power, at, y, first * CHUNK, width)
        places = np.int32(dim), np.int64(first), np.int64(width)
        launch(run, items(len(at)) * -(-dim // (2 * STEP)), at, y, weights, found, *sizes, *places, parts, **options)

    return _summed(chunks, kind, power, x, m, dim, CHUNK if dim > MOST_NARROW else 0)


def values(kind: int, scale: float, power: float, x: Any, y: Any) -> Any:
    """k of all pairs, (n, m), of points x (n, d) and y (m, d) of one type.

    Args:
        kind: any.
        scale: p.
        power: a.
        x: points, shape (n, d), contiguous.
        y: points, shape (m, d), contiguous.
    """
    return _values(kind, scale, power, x, y, 0, len(y))


def _values(kind: int, scale: float, power: float, x: Any, y: Any, begin: int, width: int) -> Any:
    run, threads, _ = _compiled("pair_values", kind, power, x, wide=True)
    out = cupy().empty((len(x), width), dtype=x.dtype)
    numbers = np.int64(len(x)), np.int64(len(y)), np.int32(x.shape[1]), np.int64(begin), np.int64(width)
    items = -(-len(x) // SIDE) * -(-width // SIDE) * threads
    scalars = x.dtype.type(scale), x.dtype.type(power)
    launch(run, items, x, y, *numbers, *scalars, out, shared=_shared(x, wide=True), threads=threads)
    return out


def _compiled(name: str, kind: int, power: float, x: Any, wide: bool = False) -> tuple[Any, int, Callable[[int], int]]:
    """A kernel, the threads of its blocks, and how many threads so many points x take."""
    whole = kind in (POWER, INVERSE) and 2 * power == int(2 * power) and 0 < 2 * power <= MOST_HALVES
    options, dim = {"KIND": kind, "HALVES": int(2 * power) if whole else 0}, x.shape[1]
    if wide or dim > MOST_NARROW:
        return kernel("pair_sums_wide", name, x.dtype, **options), 4 * SIDE, lambda n: -(-n // SIDE) * 4 * SIDE
    return kernel("pair_sums", name, x.dtype, **options, DIM=dim), TILE, lambda n: n


def _shared(x: Any, wide: bool = False) -> int:
    """Bytes of shared memory of a block."""
    dim, size = int(x.shape[1]), int(x.dtype.itemsize)
    if wide or dim > MOST_NARROW:
        return 2 * STEP * (size * SIDE + 16)  # rows begin at multiples of 16 bytes, and not at the same bank
    return TILE * -(-size * (dim + 1) // 16) * 16  # a point and its weight end at a multiple of 16 bytes


def _filled(dim: int) -> int:
    """How many points x fill the device."""
    blocks = FILLED * int(cupy().cuda.Device().attributes["MultiProcessorCount"])
    return blocks * (TILE if dim <= MOST_NARROW else SIDE)


def _summed(run: Chunks, kind: int, power: float, x: Any, m: int, channels: int, beside: int) -> Any:
    """Sums, float64 (n, channels), of all chunks; `beside` numbers are held for each point and chunk."""
    out = cupy().zeros((len(x), channels), dtype=np.float64)
    if not (out.size and m):
        return out
    merge, count = _compiled("merge", kind, power, x)[0], -(-m // CHUNK)
    filled = _filled(x.shape[1])
    together = min(count, -(-filled // len(x)), MOST_ROWS)
    numbers = 2 * channels * (together + 1) + beside * together
    step = rows_at_once(len(x), int(x.dtype.itemsize) * numbers, 0, f"a sum over {m} pairs")
    if beside:
        step = min(step, filled)
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        n = rows.stop - start
        parts = cupy().empty((together, channels, 2, n), dtype=x.dtype)
        totals = cupy().empty((channels, 2, n), dtype=x.dtype)
        for first in range(0, count, together):
            taken = min(together, count - first)
            run(rows, first, taken, parts)
            ends = np.int32(first == 0), np.int32(first + taken == count)
            sizes = np.int64(n), np.int32(channels), np.int32(taken)
            launch(merge, n * channels, parts, *sizes, *ends, totals, out[rows])
    return out
