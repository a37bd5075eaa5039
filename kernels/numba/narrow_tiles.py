"""Tiles one vector of lanes wide, for the few lanes of a block that want a leaf of a tree."""

from __future__ import annotations

from typing import Any

from numba import config

from refdiff.kernels.numba import tiles
from refdiff.kernels.numba.compiling import inlined

if config.DISABLE_JIT:
    VECTOR_BYTES = 8
else:
    from numba.core import cgutils

    from refdiff.kernels.numba.vector_code import VECTOR_BYTES, Emitter, intrinsic_of

__all__ = ["VECTOR_BYTES", "leaf_logits", "leaf_sums"]

ROWS = 8  # of a tile: as many sums as hide the time that a fused product takes


def _narrow_logits(rows: int) -> Any:
    """(x, c, p, offsets, first, l, top): as `logits` of the components first .. first + rows - 1."""

    def emit(e: Emitter) -> None:
        x, c, p, offsets, first, l, top = e.arrays
        ks = [e.plus(first, r) for r in range(rows)]
        groups, begins = e.lane_groups(e.size(x, 1), 1)
        with groups as group:
            (lane,) = begins(group.index)
            sums = [e.variable(e.constant(0.0)) for _ in ks]
            with cgutils.for_range(e.builder, e.size(x, 0)) as axis:
                value = e.load(x, axis.index, lane)
                for k, total in zip(ks, sums, strict=True):
                    t = e.sub(value, e.spread(c, k, axis.index))
                    e.add_product(total, t, t)
            most = e.load(top, lane)
            for k, total in zip(ks, sums, strict=True):
                logit = e.add(e.mul(e.value(total), e.spread(p, k, e.integer(0))), e.spread(offsets, k))
                most = e.maximum(logit, most)
                e.store(logit, l, k, lane)
            e.store(most, top, lane)

    return intrinsic_of(emit, 7)


def _narrow_weights(e: Emitter) -> None:
    """(l, top, slopes, total, shrink): rows of l become r = 2^(l - top), total += r, shrink += slope r."""
    l, top, slopes, total, shrink = e.arrays
    groups, begins = e.lane_groups(e.size(l, 1), 1)
    with groups as group:
        (lane,) = begins(group.index)
        most, sums = e.load(top, lane), [e.variable(e.load(array, lane)) for array in (total, shrink)]
        with cgutils.for_range(e.builder, e.size(l, 0)) as component:
            k = component.index
            r = e.exp2_nonpositive(e.sub(e.load(l, k, lane), most))
            e.store(r, l, k, lane)
            e.builder.store(e.add(e.value(sums[0]), r), sums[0])
            e.add_product(sums[1], r, e.spread(slopes, k, e.integer(0)))
        for array, slot in zip((total, shrink), sums, strict=True):
            e.store(e.value(slot), array, lane)


def _narrow_sums(rows: int) -> Any:
    """(l, m, first, out): out[first + r] += sum_k m[k, first + r] l[k]."""

    def emit(e: Emitter) -> None:
        l, m, first, out = e.arrays
        js = [e.plus(first, r) for r in range(rows)]
        groups, begins = e.lane_groups(e.size(l, 1), 1)
        with groups as group:
            (lane,) = begins(group.index)
            sums = [e.variable(e.load(out, j, lane)) for j in js]
            e.add_products([[slot] for slot in sums], l, [lane], e.entries(m, js, False))
            for j, slot in zip(js, sums, strict=True):
                e.store(e.value(slot), out, j, lane)

    return intrinsic_of(emit, 4)


if config.DISABLE_JIT:

    def leaf_logits(x: Any, work: Any, size: int, l: Any, top: Any) -> None:
        tiles.logits(x, work.centres, work.precisions, work.offsets, size, l, top)

    def leaf_sums(l: Any, top: Any, slopes: Any, pulls: Any, total: Any, shrink: Any, out: Any) -> None:
        tiles.absorb_sloped(l, top, slopes, pulls, total, shrink, out)

else:
    _logits_8, _logits_1 = _narrow_logits(ROWS), _narrow_logits(1)
    _sums_8, _sums_2, _sums_1 = (_narrow_sums(rows) for rows in (ROWS, 2, 1))
    _weights = intrinsic_of(_narrow_weights, 5)

    @inlined
    def leaf_logits(x: Any, work: Any, size: int, l: Any, top: Any) -> None:
        """l = the logits of a leaf's components, and the largest so far in each lane into top."""
        whole = size - size % ROWS
        for first in range(0, whole, ROWS):
            _logits_8(x, work.centres, work.precisions, work.offsets, first, l, top)
        for first in range(whole, size):
            _logits_1(x, work.centres, work.precisions, work.offsets, first, l, top)

    @inlined
    def leaf_sums(l: Any, top: Any, slopes: Any, pulls: Any, total: Any, shrink: Any, out: Any) -> None:
        """Rows l become r = 2^(l - top), summed: into total, with the slopes into shrink, with the pulls into out."""
        _weights(l, top, slopes, total, shrink)
        axes = out.shape[0]
        whole, pairs = axes - axes % ROWS, axes - axes % 2
        for first in range(0, whole, ROWS):
            _sums_8(l, pulls, first, out)
        for first in range(whole, pairs, 2):
            _sums_2(l, pulls, first, out)
        for first in range(pairs, axes):
            _sums_1(l, pulls, first, out)
