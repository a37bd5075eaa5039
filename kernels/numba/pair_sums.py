r"""Sums of a kernel over all pairs of two sets of points, without the array of pairs.

    S_i = sum_j w_j k(|x_i - y_j|^2),      T_i = sum_j w_j k(|x_i - y_j|^2)^2

    GAUSSIAN   k = 2^l                       l = p r^2,  p < 0
    LAPLACE    k = 2^(-sqrt l)               l = p r^2,  p > 0
    POWER      k = (1 + l)^-a                l = p r^2,  p > 0,  with a root or a reciprocal where a is 1/2 or 1
    DISTANCE   k = sqrt l                    l = r^2

Lanes are points x; points y come in tiles that stay in cache. Squares of differences keep their digits where points
are near each other, which matters in a square root. |x|^2 - 2 x.y + |y|^2 takes fewer instructions where axes are
many, and errs by roundings of p (|x|^2 + |y|^2) <= 2 |l| + 3 p |y|^2: it serves the two functions that are smooth at
l = 0 while p |y|^2 is below the number of axes (`by_products`). Partial sums of a tile are added once, so that rounding
errors grow with the number of tiles and the length of one. A point's sums depend on nothing but y and w.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refdiff.kernels.numba.compiling import compiled, shared, wide_vectors
from refdiff.kernels.numba.lanes import aligned, borrowed, keep, load, store_line
from refdiff.kernels.numba.tiles import LANES, inner_logits, logits
from refdiff.kernels.numba.vector_math import LOG2_E, exp2_nonpositive, log

GAUSSIAN, LAPLACE, POWER, DISTANCE = range(4)
TILE = 32  # points y at a time: their squares to a block of lanes are 32 kB
MANY = 12  # axes from which products are faster
LEAST = -500.0  # a power of two below it is nothing: its square would be a subnormal number, which takes long


@shared
def _kernel(kind: int, power: float, size: int, rows: Any) -> None:
    """Rows l (size, LANES) become k."""
    wide_vectors()
    if kind == GAUSSIAN:
        for k in range(size):
            row = rows[k]
            for i in range(LANES):
                l = min(row[i], 0.0)  # a product may have rounded above
                row[i] = exp2_nonpositive(l) if l > LEAST else 0.0
    elif kind == LAPLACE:
        for k in range(size):
            row = rows[k]
            for i in range(LANES):
                l = -math.sqrt(row[i])
                row[i] = exp2_nonpositive(l) if l > LEAST else 0.0
    elif kind == DISTANCE:
        for k in range(size):
            row = rows[k]
            for i in range(LANES):
                row[i] = math.sqrt(row[i])
    elif power == 1.0:
        for k in range(size):
            row = rows[k]
            for i in range(LANES):
                row[i] = 1.0 / (1.0 + row[i])
    elif power == 0.5:
        for k in range(size):
            row = rows[k]
            for i in range(LANES):
                row[i] = 1.0 / math.sqrt(1.0 + row[i])
    else:
        slope = -power * LOG2_E
        for k in range(size):
            row = rows[k]
            for i in range(LANES):
                l = slope * log(1.0 + row[i])
                row[i] = exp2_nonpositive(l) if l > LEAST else 0.0


@shared
def _sum(rows: Any, weights: Any, begin: int, size: int, part: Any, total: Any) -> None:
    """Weighted rows and their squares are added to total (2, LANES), by way of part (2, LANES)."""
    wide_vectors()
    part[:] = 0
    first, second = part[0], part[1]
    for k in range(size):
        row, w = rows[k], weights[begin + k]
        for i in range(LANES):
            value = w * row[i]
            first[i] += value
            second[i] += value * row[i]
    for m in range(2):
        for i in range(LANES):
            total[m, i] += part[m, i]


def by_products(y: Any, kind: int, scale: float) -> bool:
    """Whether products serve for points y (m, d), which should be about 0, a kind of kernel and its scale p."""
    if y.shape[1] < MANY or kind not in (GAUSSIAN, POWER):
        return False
    return bool(abs(scale) * (y * y).sum(axis=1).max() <= y.shape[1])


@compiled
def row_sums(
    first: int,
    last: int,
    x: Any,
    y: Any,
    weights: Any,
    kind: int,
    scale: float,
    power: float,
    products: bool,
    sums: Any,
    squares: Any,
) -> None:
    """S (n,) and T (n,) at points x (n, d), for the blocks first .. last - 1 of LANES points.

    Args:
        x: points, shape (n, d).
        y: points, shape (m, d).
        weights: w, shape (m,).
        kind: GAUSSIAN, LAPLACE, POWER or DISTANCE.
        scale: p, what a squared distance is multiplied with.
        power: a.
        products: whether products serve.
        sums: for S.
        squares: for T.
    """
    wide_vectors()
    count, dim = y.shape
    owned = (
        aligned((dim, LANES), x.dtype),
        aligned((TILE, LANES), x.dtype),
        aligned((2, LANES), x.dtype),
        aligned((2, LANES), x.dtype),
        aligned((2, LANES), x.dtype),
        np.full((TILE, 1), scale, x.dtype),
        np.zeros(TILE, x.dtype),
        np.zeros((TILE, dim), x.dtype),
    )
    lanes, rows, part, total, spare, scales, offsets, table = borrowed(owned)
    points, masses = borrowed(y), borrowed(weights)
    lengths, top = spare[0], spare[1]
    for block in range(first, last):
        held = load(x, block * LANES, lanes)
        total[:] = 0
        lengths[:] = 0
        for j in range(dim):
            for i in range(LANES):
                lengths[i] += lanes[j, i] * lanes[j, i]
        for begin in range(0, count, TILE):
            size = min(TILE, count - begin)
            if products:
                for k in range(size):
                    length = 0.0
                    for j in range(dim):
                        value = points[begin + k, j]
                        length += value * value
                        table[k, j] = -2 * scale * value
                    offsets[k] = scale * length
                inner_logits(lanes, table, scales, offsets, lengths, size, rows, top)
            else:
                logits(lanes, points[begin : begin + size], scales, offsets, size, rows, top)
            _kernel(kind, power, size, rows)
            _sum(rows, masses, begin, size, part, total)
        store_line(total[0], held, block * LANES, sums)
        store_line(total[1], held, block * LANES, squares)
    keep(owned)
