r"""The dense way of `point_set`: two matrix products, repaired by differences where the first one cancels.

    X.M_k -> logits l_k -> r_k = 2^(l_k - top) -> sum_k r_k (mu - b_k a) M_k,      M_k = m_k - c,  X = x - a c

and the output is (that + X sum_k r_k b_k) / sum_k r_k + mu c. Components come in PARTS ranges, and in each range in
chunks with an online log-sum-exp; the ranges are merged in their order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refdiff.kernels.numba.compiling import compiled, shared, wide_vectors
from refdiff.kernels.numba.laws import pull, slope
from refdiff.kernels.numba.point_products import (
    CHUNK,
    PANEL,
    STRIDE,
    inner_products,
    offset,
    panels,
    room,
    squared_distance,
    tables,
    variance,
    weighted_sums,
)
from refdiff.kernels.numba.vector_math import HALF_LOG_2PI, LN2, LOG2_E, exp2_nonpositive, log

PARTS = 16  # ranges of components
RELOADED = 16  # components that stay in cache while points pass that need them again


@shared
def _logits(
    norms: Any,
    points: Any,
    mixture: Any,
    at: Any,
    centre: Any,
    cutoff: float,
    begin: int,
    size: int,
    table: Any,
    tops: Any,
    strained: Any,
    l: Any,
) -> None:
    """Products l become logits, in bits, by differences where that is needed.

    table: for offset, log2(e) / (2 T), |Y| and b of each component.
    strained: becomes 1 for points that needed a difference, shape (groups, lanes).
    """
    wide_vectors()
    means, kind = mixture.means, l.dtype.type
    dim, lanes, a = means.shape[1], l.shape[2], np.float64(at[0, 0])
    partial, one, low = room(means), np.ones(1, means.dtype), np.empty(lanes, np.float64)
    eps = np.finfo(l.dtype).eps
    share, fine = eps * (PANEL + panels(dim) + 16), 64 * eps
    for k in range(size):
        v, t = variance(mixture, at, begin + k)
        table[0, k], table[1, k] = LOG2_E * offset(mixture, t, begin + k), 0.5 * LOG2_E / t
        table[2, k] = abs(a) * math.sqrt(np.float64(squared_distance(centre, means, begin + k, one, partial)))
        table[3, k] = slope(at, 0, v, t)
    for g in range(l.shape[0]):
        n = norms[g]
        for i in range(lanes):
            low[i] = tops[g, i]  # a bound of the largest logit from below
        for k in range(size):
            row, length = l[g, k], table[2, k]
            for i in range(lanes):
                square = max(n[i] * n[i] + length * length - 2 * a * np.float64(row[i]), 0.0)
                logit = table[0, k] - table[1, k] * square
                row[i] = kind(logit)
                low[i] = max(low[i], logit - table[1, k] * share * (n[i] + length) * (n[i] + length))
        for start in range(0, size, RELOADED):
            for i in range(lanes):
                for k in range(start, min(start + RELOADED, size)):
                    both = (n[i] + table[2, k]) * (n[i] + table[2, k])
                    logit, off = np.float64(l[g, k, i]), table[1, k] * share * both
                    exact = 16 * (table[0, k] - logit) >= table[1, k] * both or off <= fine
                    if exact or logit + off < low[i] - cutoff:
                        continue
                    strained[g, i] = 1
                    square = np.float64(squared_distance(points[g * lanes + i], means, begin + k, at[0], partial))
                    l[g, k, i] = kind(table[0, k] - table[1, k] * square)


@shared
def _weights(at: Any, table: Any, size: int, cutoff: float, l: Any, top: Any, total: Any, slope: Any, sums: Any) -> Any:
    """Logits l become r (mu - b a) of one group, r summed in total and r b in slope; whether any is felt.

    What was summed before is brought to the new largest logit, sums (d, lanes) too.
    """
    wide_vectors()
    kind, lanes = l.dtype.type, l.shape[1]
    fall = np.empty(lanes, l.dtype)
    for i in range(lanes):
        fall[i] = top[i]
    for k in range(size):
        for i in range(lanes):
            top[i] = max(top[i], l[k, i])
    rises = False
    for i in range(lanes):
        rises |= fall[i] < top[i]
        fall[i] = fall[i] - top[i]
        fall[i] = exp2_nonpositive(fall[i]) if fall[i] > kind(-500) else kind(0)
        total[i] *= fall[i]
        slope[i] *= fall[i]
    if rises:
        for j in range(sums.shape[0]):
            line = sums[j]
            for i in range(lanes):
                line[i] *= fall[i]
    least, most = kind(-cutoff), kind(0)
    for k in range(size):
        row, b = l[k], kind(table[3, k])
        drawn = pull(at, 0, b)
        for i in range(lanes):
            s = row[i] - top[i]
            r = exp2_nonpositive(s) if s > least else kind(0)
            total[i] += r
            slope[i] += b * r
            row[i] = drawn * r
            most = max(most, r)
    return most > 0


@compiled
def gather(
    first: int,
    last: int,
    x: Any,
    norms: Any,
    points: Any,
    mixture: Any,
    at: Any,
    centre: Any,
    cutoff: float,
    tops: Any,
    totals: Any,
    slopes: Any,
    sums: Any,
    strained: Any,
) -> None:
    """Largest logits, in bits, and sums for the ranges first .. last - 1 of PARTS ranges of components.

    Args:
        x: X, shape (groups, d, lanes).
        norms: |X|, float64, shape (groups, lanes).
        points: the same points as rows, shape (groups * lanes, d).
        cutoff: c of `pruning`, in bits.
        tops, totals, slopes: shape (PARTS, groups, lanes); slopes for sum_k r_k b_k.
        sums: for sum_k r_k (mu - b_k a) M_k, shape (PARTS, groups, d and more, lanes), whole tiles.
        strained: for 1 where sums cancel with X, int8, shape (PARTS, groups, lanes).
    """
    means = mixture.means
    count, dim = means.shape
    groups, _, lanes = x.shape
    chunks = -(-count // CHUNK)
    pack, l = np.empty((panels(dim), CHUNK, STRIDE), x.dtype), np.empty((groups, CHUNK, lanes), x.dtype)
    table, wanted = np.empty((4, CHUNK), np.float64), np.empty(groups, np.bool_)
    for part in range(first, last):
        tops[part], totals[part], slopes[part], sums[part] = np.finfo(x.dtype).min, 0, 0, 0
        strained[part] = 0
        for chunk in range(part * chunks // PARTS, (part + 1) * chunks // PARTS):
            begin = chunk * CHUNK
            size = tables(mixture, centre, x.dtype.type(1), begin, pack)
            inner_products(x, pack, size, l)
            _logits(norms, points, mixture, at, centre, cutoff, begin, size, table, tops[part], strained[part], l)
            for g in range(groups):
                wanted[g] = _weights(
                    at, table, size, cutoff, l[g], tops[part, g], totals[part, g], slopes[part, g], sums[part, g]
                )
            weighted_sums(l, pack, size, wanted, dim, sums[part])


@compiled
def merge(
    first: int,
    last: int,
    x: Any,
    at: Any,
    centre: Any,
    tops: Any,
    totals: Any,
    slopes: Any,
    sums: Any,
    rows: Any,
    out: Any,
    logp: Any,
) -> None:
    """The sums of all parts, in their order, as outputs and log densities; blocks are groups of points.

    Args:
        rows: where in out and logp each point belongs, -1 for none, shape (groups, lanes).
    """
    wide_vectors()
    dim, lanes, kind = x.shape[1], x.shape[2], x.dtype.type
    top, total, slope = np.empty(lanes, x.dtype), np.empty(lanes, x.dtype), np.empty(lanes, x.dtype)
    scale = np.empty((tops.shape[0], lanes), x.dtype)
    line = np.empty(lanes, x.dtype)
    for g in range(first, last):
        for i in range(lanes):
            top[i], total[i], slope[i] = tops[0, g, i], 0, 0
        for part in range(1, tops.shape[0]):
            for i in range(lanes):
                top[i] = max(top[i], tops[part, g, i])
        for part in range(tops.shape[0]):
            for i in range(lanes):
                fall = tops[part, g, i] - top[i]
                scale[part, i] = exp2_nonpositive(fall) if fall > kind(-500) else kind(0)
                total[i] += totals[part, g, i] * scale[part, i]
                slope[i] += slopes[part, g, i] * scale[part, i]
        for j in range(dim):
            for i in range(lanes):
                line[i] = x[g, j, i] * slope[i]
            for part in range(tops.shape[0]):
                source = sums[part, g, j]
                for i in range(lanes):
                    line[i] += source[i] * scale[part, i]
            for i in range(lanes):
                if rows[g, i] >= 0:
                    out[rows[g, i], j] = line[i] / total[i] + at[2, 0] * centre[j]
        for i in range(lanes):
            if rows[g, i] >= 0:
                logp[rows[g, i]] = kind(LN2) * top[i] + log(total[i]) - kind(dim * HALF_LOG_2PI)
