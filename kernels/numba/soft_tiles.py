r"""The tile in which Sinkhorn's iteration spends its time: powers of two of affine functions of squares, summed.

    total_i += sum_k 2^min(0, start_i + h_k - |u_i - v_k|^2)

Everything between the points and the sum stays in registers. With products start_i + h_k + v_k.u_i takes the place of
what is in the exponent. Costs of other orders, and questions other than the sum, go by rows of a tile that are kept.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import config

from refdiff.kernels.numba.compiling import inlined, shared, wide_vectors
from refdiff.kernels.numba.lanes import aligned
from refdiff.kernels.numba.tiles import LANES, inner_logits, logits
from refdiff.kernels.numba.vector_math import exp, exp2_nonpositive, log

if config.DISABLE_JIT:
    GROUP_BYTES = 256
else:
    from numba.core import cgutils

    from refdiff.kernels.numba.vector_code import COLUMNS, ROWS, VECTOR_BYTES, Emitter, intrinsic_of

    GROUP_BYTES = COLUMNS * VECTOR_BYTES  # of one axis of a group of points

TILE = 32  # points v at a time
FAR = -1e30  # l of points that are not there


def _pass(axes: int, products: bool) -> Any:
    """(u, v, h, start, first, last, total): ROWS points v at a time.

    Axes are written out where there are so many, or counted where `axes` is 0.
    """

    def emit(e: Emitter) -> None:
        u, v, h, start, first, last, total = e.arrays
        groups, begins = e.lane_groups(e.size(u, 1))
        with groups as group:
            lanes = begins(group.index)
            starts = [e.load(start, lane) for lane in lanes]
            held = [[e.load(u, e.integer(j), lane) for lane in lanes] for j in range(axes)]
            totals = [e.variable(e.constant(0.0)) for _ in lanes]
            rows = e.integer(ROWS)
            with cgutils.for_range(e.builder, e.builder.sdiv(e.builder.sub(last, first), rows)) as step:
                begin = e.builder.add(first, e.builder.mul(step.index, rows))
                ks = [e.plus(begin, r) for r in range(ROWS)]
                heights = [e.spread(h, k) for k in ks]
                if products:
                    sums = [[e.variable(e.add(start, height)) for start in starts] for height in heights]
                    e.add_products(sums, u, lanes, e.entries(v, ks, True))
                    ls = [[e.value(slot) for slot in line] for line in sums]
                elif axes:
                    ls = [[e.add(start, height) for start in starts] for height in heights]
                    for j in range(axes):
                        for line, k in zip(ls, ks, strict=True):
                            centre = e.spread(v, k, e.integer(j))
                            for i, value in enumerate(held[j]):
                                t = e.sub(value, centre)
                                line[i] = e.sub(line[i], e.mul(t, t))
                else:
                    sums = [[e.variable(e.add(start, height)) for start in starts] for height in heights]
                    with cgutils.for_range(e.builder, e.size(u, 0)) as axis:
                        values = [e.load(u, axis.index, lane) for lane in lanes]
                        for k, line in zip(ks, sums, strict=True):
                            centre = e.spread(v, k, axis.index)
                            for value, slot in zip(values, line, strict=True):
                                t = e.sub(value, centre)
                                e.builder.store(e.sub(e.value(slot), e.mul(t, t)), slot)
                    ls = [[e.value(slot) for slot in line] for line in sums]
                zero = e.constant(0.0)
                for line in ls:
                    for l, slot in zip(line, totals, strict=True):
                        l = e.builder.select(e.builder.fcmp_ordered("<", l, zero), l, zero)
                        e.builder.store(e.add(e.value(slot), e.exp2_nonpositive(l)), slot)
            for slot, lane in zip(totals, lanes, strict=True):
                e.store(e.add(e.load(total, lane), e.value(slot)), total, lane)

    return intrinsic_of(emit, 7)


if config.DISABLE_JIT:

    def tile_sums(u: Any, v: Any, h: Any, start: Any, first: int, last: int, products: bool, total: Any) -> None:
        """The tile of points v_k, first <= k < last, a whole number of ROWS, for points u (d, lanes)."""
        rows, heights = v[first:last], h[first:last, None] + start
        l = heights + rows @ u if products else heights - ((u - rows[:, :, None]) ** 2).sum(axis=1)
        total += np.exp2(np.minimum(l, 0.0)).sum(axis=0)

else:
    _inner, _any = _pass(0, True), _pass(0, False)
    _one, _two, _three = (_pass(axes, False) for axes in (1, 2, 3))

    @shared
    def tile_sums(u: Any, v: Any, h: Any, start: Any, first: int, last: int, products: bool, total: Any) -> None:
        """The tile of points v_k, first <= k < last, a whole number of ROWS, for points u (d, lanes)."""
        axes = u.shape[0]
        if products:
            _inner(u, v, h, start, first, last, total)
        elif axes == 1:
            _one(u, v, h, start, first, last, total)
        elif axes == 2:
            _two(u, v, h, start, first, last, total)
        elif axes == 3:
            _three(u, v, h, start, first, last, total)
        else:
            _any(u, v, h, start, first, last, total)


# ---------------------------------------------------------------------- what tiles are taken from


class Points(NamedTuple):
    """Points v and their heights, in whole tiles.

    Attributes:
        v: points, shape (m, d).
        h: heights, shape (m,).
        doubled, lowered: 2 v and h - |v|^2 for products, of no length where differences serve.
        boxes: of tiles, shape (tiles, 2, d).
        highest: h in each tile, shape (tiles,).
    """

    v: Any
    h: Any
    doubled: Any
    lowered: Any
    boxes: Any
    highest: Any


class Room(NamedTuple):
    """Memory for a block, in groups of lanes.

    Attributes:
        u: points, shape (groups, d, lanes).
        lengths: |u|^2, shape (groups, lanes).
        boxes: of groups, shape (groups, 2, d).
        guess, start: M as guessed, and what l begins with, shape (groups, lanes).
        highest: the largest guess of each group.
        sums: results, shape (groups, 2, lanes).
        open: whether groups are still without a sum.
        rows, part: a tile of one group, shape (TILE, lanes), and sums over it, (2, lanes).
        ones, zeros, minus: scales and offsets of tiles.
    """

    u: Any
    lengths: Any
    boxes: Any
    guess: Any
    start: Any
    highest: Any
    sums: Any
    open: Any
    rows: Any
    part: Any
    ones: Any
    zeros: Any
    minus: Any


@inlined
def new_room(u: Any) -> Any:
    """The memory for blocks of points u (n, d)."""
    kind, dim, width = u.dtype, u.shape[1], GROUP_BYTES // u.itemsize
    groups = LANES // width
    return Room(
        aligned((groups, dim, width), kind),
        aligned((groups, width), kind),
        np.empty((groups, 2, dim), kind),
        aligned((groups, width), kind),
        aligned((groups, width), kind),
        np.empty(groups, kind),
        aligned((groups, 2, width), kind),
        np.empty(groups, np.bool_),
        aligned((TILE, width), kind),
        aligned((2, width), kind),
        np.ones((TILE, 1), kind),
        np.zeros(TILE, kind),
        np.full((TILE, 1), -1, kind),
    )


# ---------------------------------------------------------------------- tiles


@shared
def distances(room: Any, g: int, to: Any, begin: int, order: float) -> None:
    """Rows |u - v|^r of a group and a tile."""
    wide_vectors()
    rows = room.rows
    logits(room.u[g], to.v[begin : begin + TILE], room.ones, room.zeros, TILE, rows, room.part[0])
    if order == 1.0:
        for k in range(TILE):
            row = rows[k]
            for i in range(len(row)):
                row[i] = math.sqrt(row[i])
    elif order != 2.0:
        half = rows.dtype.type(0.5 * order)
        for k in range(TILE):
            row = rows[k]
            for i in range(len(row)):
                row[i] = exp(half * log(row[i]))


@shared
def add_terms(rows: Any, h: Any, begin: int, start: Any, part: Any, sums: Any) -> None:
    """sums (2, lanes) grow by the terms of rows |u - v|^r, and by those times |u - v|^r."""
    wide_vectors()
    # subnormal numbers would take long
    least, zero = rows.dtype.type(-500.0 if rows.itemsize == 8 else -60.0), rows.dtype.type(0)
    part[:] = 0
    first, second = part[0], part[1]
    for k in range(TILE):
        row, height = rows[k], h[begin + k]
        for i in range(len(row)):
            l = min(height - row[i] + start[i], zero)
            term = exp2_nonpositive(l) if l > least else zero
            first[i] += term
            second[i] += term * row[i]
    for m in range(2):
        line, more = sums[m], part[m]
        for i in range(len(line)):
            line[i] += more[i]


@shared
def logits_of(room: Any, g: int, to: Any, begin: int, order: float, top: Any) -> None:
    """Rows l of a group and a tile, and in top (lanes,) the largest l so far."""
    wide_vectors()
    u, rows = room.u[g], room.rows
    if order != 2.0:
        distances(room, g, to, begin, order)
        for k in range(TILE):
            row, height = rows[k], to.h[begin + k]
            for i in range(len(row)):
                l = height - row[i]
                row[i] = l
                top[i] = l if l > top[i] else top[i]
    elif len(to.lowered) > 0:
        heights, places = to.lowered[begin : begin + TILE], to.doubled[begin : begin + TILE]
        # -|u|^2 belongs to it
        inner_logits(u, places, room.minus, heights, room.lengths[g], TILE, rows, top)
    else:
        logits(u, to.v[begin : begin + TILE], room.minus, to.h[begin : begin + TILE], TILE, rows, top)
