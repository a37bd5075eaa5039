r"""Register tiles in the vector instructions of this machine; `tiles` says what they compute.

A tile of ROWS results times COLUMNS vectors of lanes stays in registers while a sum runs, so that a number loaded once
serves several times; `vector_code` says why its instructions are written out. Sums run in the order of their index,
and may fuse a product with a sum.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils

from refdiff.kernels.numba.compiling import shared
from refdiff.kernels.numba.vector_code import ROWS, Emitter, intrinsic_of

ABSORBED = 2  # vectors of lanes in a tile that absorbs


def _logits(rows: int, weighted: bool) -> Any:
    """(x, c, p, offsets, first, l, top): logits of the components first .. first + rows - 1."""

    def emit(e: Emitter) -> None:
        x, c, p, offsets, first, l, top = e.arrays
        ks = [e.plus(first, r) for r in range(rows)]
        groups, begins = e.lane_groups(e.size(x, 1))
        with groups as group:
            lanes = begins(group.index)
            sums = [[e.variable(e.constant(0.0)) for _ in lanes] for _ in ks]
            with cgutils.for_range(e.builder, e.size(x, 0)) as axis:
                xs = [e.load(x, axis.index, lane) for lane in lanes]
                for k, line in zip(ks, sums, strict=True):
                    centre = e.spread(c, k, axis.index)
                    weight = e.spread(p, k, axis.index) if weighted else None
                    for value, total in zip(xs, line, strict=True):
                        t = e.sub(value, centre)
                        e.add_product(total, t if weight is None else e.mul(t, weight), t)
            tops = [e.load(top, lane) for lane in lanes]
            zero = e.integer(0)
            for k, line in zip(ks, sums, strict=True):
                offset = e.spread(offsets, k)
                scale = None if weighted else e.spread(p, k, zero)
                for v, lane in enumerate(lanes):
                    total = e.value(line[v])
                    logit = e.add(total if scale is None else e.mul(total, scale), offset)
                    tops[v] = e.maximum(logit, tops[v])
                    e.store(logit, l, k, lane)
            for value, lane in zip(tops, lanes, strict=True):
                e.store(value, top, lane)

    return intrinsic_of(emit, 7)


def _inner(rows: int) -> Any:
    """(x, c, p, offsets, squares, first, l, top): logits of the components first .. first + rows - 1 by products."""

    def emit(e: Emitter) -> None:
        x, c, p, offsets, squares, first, l, top = e.arrays
        ks, zero = [e.plus(first, r) for r in range(rows)], e.integer(0)
        groups, begins = e.lane_groups(e.size(x, 1))
        with groups as group:
            lanes = begins(group.index)
            lengths = [e.load(squares, lane) for lane in lanes]
            sums = []
            for k in ks:
                offset, scale = e.spread(offsets, k), e.spread(p, k, zero)
                sums.append([e.variable(e.add(e.mul(scale, length), offset)) for length in lengths])
            e.add_products(sums, x, lanes, e.entries(c, ks, True))
            tops = [e.load(top, lane) for lane in lanes]
            for k, line in zip(ks, sums, strict=True):
                for v, lane in enumerate(lanes):
                    logit = e.value(line[v])
                    tops[v] = e.maximum(logit, tops[v])
                    e.store(logit, l, k, lane)
            for value, lane in zip(tops, lanes, strict=True):
                e.store(value, top, lane)

    return intrinsic_of(emit, 8)


def _absorption(axes: int, sloped: bool) -> Any:
    """(l, top, slopes, m, total, shrink, out): all rows of l, the first axes of out; shrink only where sloped."""

    def emit(e: Emitter) -> None:
        l, top, slopes, m, total, shrink, out = e.arrays
        places = [e.integer(j) for j in range(axes)]
        groups, begins = e.lane_groups(e.size(l, 1), ABSORBED)
        with groups as group:
            lanes = begins(group.index)
            tops = [e.load(top, lane) for lane in lanes]
            sums = [(total, ())] + [(shrink, ())] * sloped + [(out, (j,)) for j in places]
            held = [[e.variable(e.load(array, *where, lane)) for lane in lanes] for array, where in sums]
            with cgutils.for_range(e.builder, e.size(l, 0)) as component:
                k = component.index
                rs = [
                    e.exp2_nonpositive(e.sub(e.load(l, k, lane), most)) for lane, most in zip(lanes, tops, strict=True)
                ]
                for r, lane, slot in zip(rs, lanes, held[0], strict=True):
                    e.builder.store(e.add(e.value(slot), r), slot)
                    e.store(r, l, k, lane)
                factors = [e.spread(slopes, k, e.integer(0))] * sloped + [e.spread(m, k, j) for j in places]
                for factor, line in zip(factors, held[1:], strict=True):
                    for r, slot in zip(rs, line, strict=True):
                        e.add_product(slot, r, factor)
            for (array, where), line in zip(sums, held, strict=True):
                for slot, lane in zip(line, lanes, strict=True):
                    e.store(e.value(slot), array, *where, lane)

    return intrinsic_of(emit, 7)


def _product(rows: int, across: bool) -> Any:
    """(x, c, first, out): out[first + r] += sum_s c[first + r, s] x[s], or c[s, first + r] x[s]."""

    def emit(e: Emitter) -> None:
        x, c, first, out = e.arrays
        ks = [e.plus(first, r) for r in range(rows)]
        groups, begins = e.lane_groups(e.size(x, 1))
        with groups as group:
            lanes = begins(group.index)
            sums = [[e.variable(e.load(out, k, lane)) for lane in lanes] for k in ks]
            e.add_products(sums, x, lanes, e.entries(c, ks, across))
            for k, line in zip(ks, sums, strict=True):
                for slot, lane in zip(line, lanes, strict=True):
                    e.store(e.value(slot), out, k, lane)

    return intrinsic_of(emit, 4)


_logit_tiles = {weighted: (_logits(ROWS, weighted), _logits(1, weighted)) for weighted in (False, True)}
_product_tiles = {across: (_product(ROWS, across), _product(1, across)) for across in (False, True)}

_logit_4, _logit_1 = _logit_tiles[False]
_inner_4, _inner_1 = _inner(ROWS), _inner(1)
_weighted_4, _weighted_1 = _logit_tiles[True]
_across_4, _across_1 = _product_tiles[True]
_along_4, _along_1 = _product_tiles[False]
_absorb_1, _absorb_2, _absorb_3, _absorb_4 = (_absorption(axes, False) for axes in range(1, 5))
_sloped_1, _sloped_2, _sloped_3, _sloped_4 = (_absorption(axes, True) for axes in range(1, 5))


@shared
def logits(x: Any, c: Any, p: Any, offsets: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + p_k |x - c_k|^2 for k < count, and the largest so far in each lane into top."""
    whole = count - count % ROWS
    for first in range(0, whole, ROWS):
        _logit_4(x, c, p, offsets, first, l, top)
    for first in range(whole, count):
        _logit_1(x, c, p, offsets, first, l, top)


@shared
def inner_logits(x: Any, c: Any, p: Any, offsets: Any, squares: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + p_k squares + c_k . x for k < count, and the largest so far in each lane into top."""
    whole = count - count % ROWS
    for first in range(0, whole, ROWS):
        _inner_4(x, c, p, offsets, squares, first, l, top)
    for first in range(whole, count):
        _inner_1(x, c, p, offsets, squares, first, l, top)


@shared
def weighted_logits(x: Any, c: Any, p: Any, offsets: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + sum_j p_kj (x_j - c_kj)^2 for k < count, and the largest so far in each lane into top."""
    whole = count - count % ROWS
    for first in range(0, whole, ROWS):
        _weighted_4(x, c, p, offsets, first, l, top)
    for first in range(whole, count):
        _weighted_1(x, c, p, offsets, first, l, top)


@shared
def products(x: Any, c: Any, count: int, out: Any) -> None:
    """out[k] += sum_j c[k, j] x[j] for k < count."""
    whole = count - count % ROWS
    for first in range(0, whole, ROWS):
        _across_4(x, c, first, out)
    for first in range(whole, count):
        _across_1(x, c, first, out)


@shared
def accumulate(l: Any, m: Any, begin: int, count: int, out: Any) -> None:
    """out[j] += sum_k m[k, j] l[k] for begin <= j < count, over the rows k of l."""
    whole = count - (count - begin) % ROWS
    for first in range(begin, whole, ROWS):
        _along_4(l, m, first, out)
    for first in range(whole, count):
        _along_1(l, m, first, out)


@shared
def absorb(l: Any, top: Any, m: Any, total: Any, out: Any) -> None:
    """Rows l become 2^(l - top), and are summed: into total, and with the rows of m into out."""
    axes = out.shape[0]
    if axes == 1:
        _absorb_1(l, top, m, m, total, total, out)
    elif axes == 2:
        _absorb_2(l, top, m, m, total, total, out)
    elif axes == 3:
        _absorb_3(l, top, m, m, total, total, out)
    else:
        _absorb_4(l, top, m, m, total, total, out)
        accumulate(l, m, 4, axes, out)


@shared
def absorb_sloped(l: Any, top: Any, slopes: Any, m: Any, total: Any, shrink: Any, out: Any) -> None:
    """The same, and with the slopes into shrink."""
    axes = out.shape[0]
    if axes == 1:
        _sloped_1(l, top, slopes, m, total, shrink, out)
    elif axes == 2:
        _sloped_2(l, top, slopes, m, total, shrink, out)
    elif axes == 3:
        _sloped_3(l, top, slopes, m, total, shrink, out)
    else:
        _sloped_4(l, top, slopes, m, total, shrink, out)
        accumulate(l, m, 4, axes, out)
