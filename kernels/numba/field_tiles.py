r"""Contractions of two fields on the components, the tiles of `second_order`.

With x, o, g of shape (d, lanes), t = x - c_k and tables whose axis s is j, or 0 for all j where they have one column,

    contracted   out[k, i] = trace_k - sum_j (target_kj - o_j + b_ks t_j)(g_j + p_ks t_j)    at lane i
    outer        out[j, l, i] += sum_k r[k, i] left[k, j, i] right[k, l, i]

Deviations are made in registers in the first, and read from memory in the second, where each serves d times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config

if config.DISABLE_JIT:

    def contracted(x: Any, o: Any, g: Any, tables: Any, count: int, out: Any) -> None:
        """out[k] = trace_k - sum_j (target_kj - o_j + b_k t_j)(g_j + p_k t_j) for the first `count` components."""
        c, targets, slopes, gaps, traces = (table[:count, ..., None] for table in tables)
        t = x - c
        out[:count] = traces - ((targets - o + slopes * t) * (g + gaps * t)).sum(axis=1)

    def outer(r: Any, left: Any, right: Any, count: int, out: Any) -> None:
        """out[j, l] += sum_k r[k] left[k, j] right[k, l] over the first `count` components."""
        out += np.einsum("ki,kji,kli->jli", r[:count], left[:count], right[:count])

else:
    from numba.core import cgutils

    from refdiff.kernels.numba.compiling import inlined
    from refdiff.kernels.numba.vector_code import ROWS, Emitter, intrinsic_of

    COLUMNS = 2  # vectors of lanes in a tile of `contracted`, whose three rows of points take registers too

    def _contraction(rows: int, wide: bool) -> Any:
        """(x, o, g, c, targets, slopes, gaps, traces, first, out): results first .. first + rows - 1."""

        def emit(e: Emitter) -> None:
            x, o, g, c, targets, slopes, gaps, traces, first, out = e.arrays
            ks = [e.plus(first, r) for r in range(rows)]
            groups, begins = e.lane_groups(e.size(x, 1), COLUMNS)
            with groups as group:
                lanes = begins(group.index)
                sums = [[e.variable(e.spread(traces, k)) for _ in lanes] for k in ks]
                with cgutils.for_range(e.builder, e.size(x, 0)) as axis:
                    j = axis.index
                    s = j if wide else e.integer(0)
                    xs, os, gs = ([e.load(array, j, lane) for lane in lanes] for array in (x, o, g))
                    for k, line in zip(ks, sums, strict=True):
                        centre, target = e.spread(c, k, j), e.spread(targets, k, j)
                        slope, gap = e.spread(slopes, k, s), e.spread(gaps, k, s)
                        for v, slot in enumerate(line):
                            t = e.sub(xs[v], centre)
                            left = e.add(e.sub(target, os[v]), e.mul(slope, t))
                            right = e.add(gs[v], e.mul(gap, t))
                            e.builder.store(e.sub(e.value(slot), e.mul(left, right)), slot)
                for k, line in zip(ks, sums, strict=True):
                    for slot, lane in zip(line, lanes, strict=True):
                        e.store(e.value(slot), out, k, lane)

        return intrinsic_of(emit, 10)

    def _outer(rows: int, columns: int) -> Any:
        """(r, left, right, count, j, l, out): results j .. j + rows - 1, l .. l + columns - 1."""

        def emit(e: Emitter) -> None:
            r, left, right, count, j, l, out = e.arrays
            js, ls = [e.plus(j, i) for i in range(rows)], [e.plus(l, i) for i in range(columns)]
            groups, begins = e.lane_groups(e.size(r, 1), 1)
            with groups as group:
                (lane,) = begins(group.index)
                sums = [[e.variable(e.load(out, p, q, lane)) for q in ls] for p in js]
                with cgutils.for_range(e.builder, count) as component:
                    k = component.index
                    weight = e.load(r, k, lane)
                    rights = [e.load(right, k, q, lane) for q in ls]
                    for p, line in zip(js, sums, strict=True):
                        weighted = e.mul(e.load(left, k, p, lane), weight)
                        for value, slot in zip(rights, line, strict=True):
                            e.add_product(slot, weighted, value)
                for p, line in zip(js, sums, strict=True):
                    for q, slot in zip(ls, line, strict=True):
                        e.store(e.value(slot), out, p, q, lane)

        return intrinsic_of(emit, 7)

    _narrow_4, _narrow_1, _wide_4, _wide_1 = (_contraction(n, wide) for wide in (False, True) for n in (ROWS, 1))
    _outer_44, _outer_41, _outer_14, _outer_11 = (_outer(n, m) for n in (ROWS, 1) for m in (ROWS, 1))

    @inlined
    def contracted(x: Any, o: Any, g: Any, tables: Any, count: int, out: Any) -> None:
        """out[k] = trace_k - sum_j (target_kj - o_j + b_k t_j)(g_j + p_k t_j) for the first `count` components."""
        c, targets, slopes, gaps, traces = tables
        whole = count - count % ROWS
        if slopes.shape[1] == 1:
            for k in range(0, whole, ROWS):
                _narrow_4(x, o, g, c, targets, slopes, gaps, traces, k, out)
            for k in range(whole, count):
                _narrow_1(x, o, g, c, targets, slopes, gaps, traces, k, out)
        else:
            for k in range(0, whole, ROWS):
                _wide_4(x, o, g, c, targets, slopes, gaps, traces, k, out)
            for k in range(whole, count):
                _wide_1(x, o, g, c, targets, slopes, gaps, traces, k, out)

    @inlined
    def outer(r: Any, left: Any, right: Any, count: int, out: Any) -> None:
        """out[j, l] += sum_k r[k] left[k, j] right[k, l] over the first `count` components."""
        dim = out.shape[0]
        whole = dim - dim % ROWS
        for j in range(0, whole, ROWS):
            for l in range(0, whole, ROWS):
                _outer_44(r, left, right, count, j, l, out)
            for l in range(whole, dim):
                _outer_41(r, left, right, count, j, l, out)
        for j in range(whole, dim):
            for l in range(0, whole, ROWS):
                _outer_14(r, left, right, count, j, l, out)
            for l in range(whole, dim):
                _outer_11(r, left, right, count, j, l, out)
