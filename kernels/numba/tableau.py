r"""The tableau kernel: a block of points runs through a whole sampler without leaving the cache.

    y_k = sum_i w_i y_i + sum_i w_i o_i + sum_i w_i z_i,      o_k = o(scale_k y_k, t_k) where stage k is evaluated

The terms of stage k are the entries starts[k] .. starts[k + 1] - 1 of a list (kind, place, weight): kind 0 an earlier
stage, 1 an earlier output, 2 a normal. Only as many stages, outputs and normals are kept as the table reaches back:
place is the index modulo that number. Normals come from the counter (seed, particle, draw), so that no split of the
batch and no number of threads changes a run.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from refdiff.kernels.numba.compiling import compiled, inlined, wide_vectors
from refdiff.kernels.numba.lanes import aligned, borrowed, keep, load, store
from refdiff.kernels.numba.laws import workspace
from refdiff.kernels.numba.mixture import evaluate
from refdiff.kernels.numba.philox import normals_block
from refdiff.kernels.numba.tiles import LANES

# kinds, places (E,) int64; weights (E, 1 or d); starts (s + 1,), draws (s,) int64; evaluated (s,) bool;
# scale (s, 1 or d); at (s, 5, 1 or d) as `evaluate` wants it; window: how many stages, outputs and normals are kept.
Table = namedtuple("Table", "kinds places weights starts draws evaluated scale at window")


@inlined
def _add(weight: Any, source: Any, y: Any) -> None:
    """y += w source, w a number or one for each axis."""
    wide_vectors()
    dim = y.shape[0]
    for j in range(dim):
        w, line, part = weight[0 if weight.shape[0] == 1 else j], y[j], source[j]
        for i in range(LANES):
            line[i] += w * part[i]


@compiled
def run(
    first: int,
    last: int,
    start: Any,
    table: Any,
    mixture: Any,
    key: Any,
    particle: int,
    out: Any,
    kept: Any,
) -> None:
    """Blocks first .. last - 1 of LANES points through the table.

    Args:
        start: x, shape (n, d).
        table, mixture: a Table and a Mixture.
        key: the low and the high half of the seed, (2,) int64.
        particle: the number of the first row, uint64.
        out: for the output, shape (n, d).
        kept: for every stage, shape (s, n, d), or (0, n, d) where they are not wanted.
    """
    dim, kind, stages = start.shape[1], start.dtype, len(table.draws)
    owned = (
        aligned((table.window[0], dim, LANES), kind),
        aligned((table.window[0], dim, LANES), kind),
        aligned((table.window[1], dim, LANES), kind),
        aligned((dim, LANES), kind),
        np.empty(0, kind),
        workspace(start, dim, max(mixture.variances.shape[1], table.at.shape[2])),
    )
    ys, outputs, normals, point, logp, work = borrowed(owned)
    law, rows = borrowed(mixture), borrowed(table)
    for block in range(first, last):
        count = load(start, block * LANES, ys[0])
        drawn = 0
        for k in range(stages):
            y = ys[k % len(ys)]
            if k > 0:
                while drawn < rows.draws[k]:
                    normals_block(
                        key[0], key[1], particle + np.uint64(block * LANES), drawn, normals[drawn % len(normals)]
                    )
                    drawn += 1
                y[:] = 0
                for e in range(rows.starts[k], rows.starts[k + 1]):
                    place, weight = rows.places[e], rows.weights[e]
                    if rows.kinds[e] == 0:
                        _add(weight, ys[place], y)
                    elif rows.kinds[e] == 1:
                        _add(weight, outputs[place], y)
                    else:
                        _add(weight, normals[place], y)
            if len(kept) > 0:
                store(y, count, block * LANES, kept[k])
            if rows.evaluated[k]:
                point[:] = 0
                _add(rows.scale[k], y, point)
                evaluate(point, law, rows.at[k], work, outputs[k % len(outputs)], logp)
        store(ys[(stages - 1) % len(ys)], count, block * LANES, out)
    keep(owned)
