r"""What the two ways of `point_set` share: centred tables of components, tiles of matrix products, exact distances.

    tables      M_k = m_k - c, panel by panel of axes, of CHUNK components at a time
    products    l[k, i] = sum_j M[k, j] x[j, i],    out[j, i] += sum_k M[k, j] l[k, i]
    distance    |x - a m_k|^2 of one point and one component, by differences, along the axes

A tile holds ROWS results in COLUMNS vectors of points in registers. The sum of a panel is made alone and added once,
so that rounding errors grow with the length of a panel and the number of panels, and not with the number of axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config

from refdiff.kernels.numba.compiling import inlined, shared, wide_vectors
from refdiff.kernels.numba.lanes import LINE
from refdiff.kernels.numba.laws import spread
from refdiff.kernels.numba.vector_math import log

if config.DISABLE_JIT:
    VECTOR_BYTES, COLUMNS = 64, 1
else:
    from llvmlite import ir
    from numba.core import cgutils

    from refdiff.kernels.numba.vector_code import COLUMNS, VECTOR_BYTES, Emitter, intrinsic_of

GROUP_BYTES = COLUMNS * VECTOR_BYTES  # of one axis of a group of points: the columns of a tile
ROWS = 6 if VECTOR_BYTES == 64 else 2  # 24 of 32 registers hold sums, or 8 of 16
CHUNK = 96  # components at a time, whole tiles: their weights in a group of points are 24 kB
PANEL = 126  # axes at a time, whole tiles: a group of points has 32 kB of them
STRIDE = 136  # from one row of a panel to the next: 17 cache lines, so that rows do not fight for the same places


# ---------------------------------------------------------------------- tiles


def _product(across: bool) -> Any:
    """(x, c, first, out): out[first + r] += sum_s c[first + r, s] x[s], or c[s, first + r] x[s], for r < ROWS."""

    def emit(e: Emitter) -> None:
        x, c, first, out = e.arrays
        ks = [e.plus(first, r) for r in range(ROWS)]
        lanes = [e.integer(v * e.width) for v in range(COLUMNS)]
        sums = [[e.variable(e.constant(0.0)) for _ in lanes] for _ in ks]
        e.add_products(sums, x, lanes, e.entries(c, ks, across))
        for k, line in zip(ks, sums, strict=True):
            for slot, lane in zip(line, lanes, strict=True):
                e.store(e.add(e.load(out, k, lane), e.value(slot)), out, k, lane)

    return intrinsic_of(emit, 4)


def _differences(e: Emitter) -> None:
    """(u, m, k, a, out): vectors of partial sums of |u - a m_k|^2, for the axes that fill COLUMNS vectors."""
    u, m, k, a, out = e.arrays
    scale = e.spread(a, e.integer(0))
    sums = [e.variable(e.constant(0.0)) for _ in range(COLUMNS)]
    step = e.integer(COLUMNS * e.width)
    with cgutils.for_range(e.builder, e.builder.sdiv(e.size(u, 0), step)) as block:
        start = e.builder.mul(block.index, step)
        for v, slot in enumerate(sums):
            j = e.plus(start, v * e.width)
            # a m is rounded before the difference, as where it is a table
            t = e.sub(e.load(u, j), e.builder.fmul(e.load(m, k, j), scale))
            e.add_product(slot, t, t)
    for v, slot in enumerate(sums):
        e.store(e.value(slot), out, e.integer(v * e.width))


def _fetch_lines(e: Emitter) -> None:
    """(a, first, count): asks for so many cache lines of a contiguous array from its item `first` on; never faults."""
    a, first, count = e.arrays
    byte, number = ir.IntType(8), ir.IntType(32)
    ask = cgutils.get_or_insert_function(
        e.builder.module,
        ir.FunctionType(ir.VoidType(), [byte.as_pointer(), number, number, number]),
        "llvm.prefetch.p0",
    )
    start = e.builder.add(e.builder.ptrtoint(a.data, e.integer), e.builder.mul(first, e.integer(e.item)))
    with cgutils.for_range(e.builder, count) as line:
        place = e.builder.add(start, e.builder.mul(line.index, e.integer(LINE)))
        # to be read, soon and often, as data
        e.builder.call(ask, [e.builder.inttoptr(place, byte.as_pointer()), number(0), number(3), number(1)])


if config.DISABLE_JIT:

    def _fetch(a: Any, first: int, count: int) -> None:
        pass

    def _across(x: Any, c: Any, first: int, out: Any) -> None:
        out[first : first + ROWS] += c[first : first + ROWS, : len(x)] @ x

    def _along(x: Any, c: Any, first: int, out: Any) -> None:
        out[first : first + ROWS] += c[: len(x), first : first + ROWS].T @ x

    def squared_distance(u: Any, m: Any, k: int, a: Any, partial: Any) -> Any:  # noqa: ARG001
        t = u - a[0] * m[k]
        return t @ t

else:
    _across, _along = _product(True), _product(False)
    _partial = intrinsic_of(_differences, 5)
    _fetch = intrinsic_of(_fetch_lines, 3)

    @inlined
    def squared_distance(u: Any, m: Any, k: int, a: Any, partial: Any) -> Any:
        """|u - a m_k|^2, along the axes."""
        _partial(u, m, k, a, partial)
        total = partial[0]
        for i in range(1, len(partial)):
            total += partial[i]
        for j in range(len(u) - len(u) % len(partial), len(u)):
            t = u[j] - a[0] * m[k, j]
            total += t * t
        return total


@inlined
def room(x: Any) -> Any:
    """A row of partial sums for squared_distance."""
    return np.empty(GROUP_BYTES // x.itemsize, x.dtype)


@inlined
def variance(mixture: Any, at: Any, k: int) -> Any:
    """v_k and T_k."""
    v = mixture.variances[0 if mixture.variances.shape[0] == 1 else k, 0]
    return v, spread(at, 0, v)


@inlined
def offset(mixture: Any, t: Any, k: int) -> Any:
    """log w_k - d/2 log T_k."""
    return np.float64(mixture.log_weights[k]) - 0.5 * mixture.means.shape[1] * log(np.float64(t))


@inlined
def panels(dim: int) -> int:
    """How many panels so many axes are."""
    return -(-dim // PANEL)


@shared
def tables(mixture: Any, centre: Any, scale: float, begin: int, pack: Any) -> Any:
    """Rows M_k times a number of CHUNK components in panels, shape (panels, CHUNK, STRIDE); how many there are."""
    wide_vectors()
    means = mixture.means
    size, dim, kind = min(CHUNK, means.shape[0] - begin), means.shape[1], pack.dtype.type
    for k in range(CHUNK):  # each row in one go, as memory likes it
        for p in range(pack.shape[0]):
            line, first = pack[p, k], p * PANEL
            width = min(PANEL, dim - first)
            if k < size:
                source = means[begin + k]
                for j in range(width):
                    line[j] = kind((source[first + j] - centre[first + j]) * scale)
                line[width:] = 0
            else:
                line[:] = 0
    return size


@shared
def inner_products(x: Any, pack: Any, size: int, l: Any) -> None:
    """l[g, k] = M_k.x of the points x (groups, d, lanes)."""
    l[:] = 0
    groups, dim, lanes = x.shape
    tiles = -(-size // ROWS)
    lines = -(-PANEL * lanes * x.itemsize // LINE // tiles)  # of a group's panel for each tile of the one before
    rows = -(-CHUNK * STRIDE * x.itemsize // LINE // (tiles * groups))
    for p in range(pack.shape[0]):
        for g in range(groups):
            part, table, sums = x[g, p * PANEL : (p + 1) * PANEL], pack[p], l[g]
            following = (g + 1) * dim + p * PANEL if g + 1 < groups else (p + 1) * PANEL
            for n in range(tiles):
                # what comes next is on its way from the last cache while this is computed
                _fetch(x, following * lanes + n * lines * LINE // x.itemsize, lines)
                _fetch(pack, (p + 1) * CHUNK * STRIDE + (g * tiles + n) * rows * LINE // x.itemsize, rows)
                _across(part, table, n * ROWS, sums)


@shared
def weighted_sums(l: Any, pack: Any, size: int, wanted: Any, dim: int, out: Any) -> None:
    """out[g, j] += sum_k M[k, j] l[g, k] for the groups that want it."""
    groups, length, lanes = out.shape
    lines = ROWS * lanes * out.itemsize // LINE
    for p in range(pack.shape[0]):
        width = min(PANEL, dim - p * PANEL)
        tiles = -(-width // ROWS)
        rows = -(-CHUNK * STRIDE * l.itemsize // LINE // (tiles * groups))
        for g in range(groups):
            if wanted[g]:
                weights, table, sums = l[g, :size], pack[p], out[g, p * PANEL :]
                for n in range(tiles):
                    following = p * PANEL + (n + 1) * ROWS if n + 1 < tiles else length + p * PANEL
                    _fetch(out, (g * length + following) * lanes, lines)
                    _fetch(pack, (p + 1) * CHUNK * STRIDE + (g * tiles + n) * rows * LINE // l.itemsize, rows)
                    _along(weights, table, n * ROWS, sums)
