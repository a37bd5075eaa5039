r"""The sparse way of `point_set`: float32 products bound all logits, differences evaluate the few that are felt.

scout     guesses from a sample which points feel most components, and should go the dense way
screen    for bands of components the largest upper bound of their logits, and the largest lower bound of all
felt      how many bands a point feels
repair    the logits of these bands by differences, and the sums
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refdiff.kernels.numba.compiling import compiled, wide_vectors
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
)
from refdiff.kernels.numba.vector_math import HALF_LOG_2PI, exp_nonpositive, log

BAND = 16  # components that share one bound
SCREENED = 64  # ranges of components
SAMPLE = 64  # components that decide between the two ways


@compiled
def scout(first: int, last: int, points: Any, mixture: Any, at: Any, cutoff: float, dense: Any) -> None:
    """Whether points (n, d) are likely to feel most components; blocks are points."""
    partial, scale, count = room(points), at[0], mixture.means.shape[0]
    sample = min(SAMPLE, count)
    found = np.empty(sample, np.float64)
    # half of |x - a m|^2 / T of noise, which is d with a standard deviation of sqrt(2 d); three of them more
    typical = 0.5 * points.shape[1] + 3 * math.sqrt(0.5 * points.shape[1])
    for i in range(first, last):
        expected = 0.0
        for s in range(sample):
            k = s * count // sample
            t = variance(mixture, at, k)[1]
            constant = offset(mixture, t, k)
            found[s] = constant - 0.5 * squared_distance(points[i], mixture.means, k, scale, partial) / t
            expected += (constant - typical) / sample
        top = max(expected, found.max())
        dense[i] = 2 * (found >= top - cutoff).sum() >= sample


@compiled
def screen(
    first: int,
    last: int,
    x: Any,
    norms: Any,
    shrunk: Any,
    mixture: Any,
    at: Any,
    centre: Any,
    scale: float,
    upper: Any,
    lower: Any,
) -> None:
    """Bounds of logits by float32 products, for the ranges first .. last - 1 of SCREENED ranges of components.

    Args:
        x: X times a number for each point, float32, shape (groups, d, lanes).
        norms, shrunk: |X| and that number, float64, shape (groups, lanes).
        centre, scale: c, and a number by which M is multiplied.
        upper: for the largest bound of each band of BAND components, shape (bands, groups, lanes).
        lower: for the largest lower bound in each range, shape (SCREENED, groups, lanes).
    """
    wide_vectors()
    means = mixture.means
    count, dim = means.shape
    groups, lanes = norms.shape
    chunks = -(-count // CHUNK)
    pack = np.empty((panels(dim), CHUNK, STRIDE), np.float32)
    l, partial, one = np.empty((groups, CHUNK, lanes), np.float32), room(means), np.ones(1, means.dtype)
    a, eps = np.float64(at[0, 0]), np.finfo(means.dtype).eps
    # of float32: both factors, a panel, the panels; of the kind of means: X, M and their squares, and a c
    short = 1.1 * 2.0**-24 * (PANEL + panels(dim) + 4)
    own = 1.1 * eps * (dim + 16)
    shift = 0.0
    for j in range(dim):
        shift += np.float64(centre[j]) * np.float64(centre[j])
    shift = 4 * eps * abs(a) * math.sqrt(shift)
    tiny = dim * 2.0**-120  # products of float32 numbers below the normal range, each less than 2^-126
    for part in range(first, last):
        lower[part] = -np.inf
        for chunk in range(part * chunks // SCREENED, (part + 1) * chunks // SCREENED):
            begin = chunk * CHUNK
            size = tables(mixture, centre, scale, begin, pack)
            inner_products(x, pack, size, l)
            bands = upper[begin // BAND : begin // BAND + CHUNK // BAND]
            bands[:] = -np.inf
            for k in range(size):
                length = abs(a) * math.sqrt(np.float64(squared_distance(centre, means, begin + k, one, partial)))
                t = np.float64(variance(mixture, at, begin + k)[1])
                constant, half = offset(mixture, t, begin + k), 0.5 / t
                for g in range(groups):
                    row, most, least = l[g, k], bands[k // BAND, g], lower[part, g]
                    for i in range(lanes):
                        n = norms[g, i]
                        unit = 2 * a / (shrunk[g, i] * scale)
                        both = n + length
                        off = 2 * short * n * length + (own * both + shift) * both + tiny * abs(unit)
                        square = n * n + length * length - np.float64(row[i]) * unit
                        high = constant - half * max(square - off, 0.0)
                        low = constant - half * (square + off)
                        # overflow in float32 is not a number here, and bounds nothing
                        high = high if square - square == 0 else np.inf
                        most[i] = high if high > most[i] else most[i]
                        least[i] = low if low > least[i] and square - square == 0 else least[i]


@compiled
def felt(first: int, last: int, upper: Any, least: Any, counts: Any) -> None:
    """How many bands hold a component that a point may feel; blocks are groups of points."""
    wide_vectors()
    for g in range(first, last):
        counts[g] = 0
        for band in range(upper.shape[0]):
            for i in range(upper.shape[2]):
                counts[g, i] += np.int64(not upper[band, g, i] < least[g, i])


@compiled
def repair(
    first: int,
    last: int,
    points: Any,
    mixture: Any,
    at: Any,
    upper: Any,
    least: Any,
    chosen: Any,
    cutoff: float,
    out: Any,
    logp: Any,
) -> None:
    """Outputs and log densities from the components with a bound not below `least`; blocks are points `chosen`.

    Args:
        upper, least: shapes (bands, queries) and (queries,).
        chosen: pairs (query, row of points, out and logp), shape (m, 2).
    """
    wide_vectors()
    means, partial, kind = mixture.means, room(points), points.dtype.type
    count, dim = means.shape
    a, mu, beta, gamma = at[0, 0], at[2, 0], at[3, 0], at[4, 0]
    places, l = np.empty(count, np.int64), np.empty(count, np.float64)
    for block in range(first, last):
        query, i = chosen[block]
        x, o = points[i], out[i]
        found = 0
        for band in range(upper.shape[0]):
            if upper[band, query] < least[query]:
                continue
            for k in range(band * BAND, min(band * BAND + BAND, count)):
                t = variance(mixture, at, k)[1]
                square = squared_distance(x, means, k, at[0], partial)
                places[found], l[found] = k, offset(mixture, t, k) - 0.5 * np.float64(square) / t
                found += 1
        top, total = l[:found].max(), 0.0
        o[:] = 0
        for s in range(found):
            if l[s] < top - cutoff:
                continue
            r = exp_nonpositive(l[s] - top)
            total += r
            m = means[places[s]]
            v, t = variance(mixture, at, places[s])
            pull, slope = kind(r * mu), kind(r * (beta * v + gamma) / t)
            for j in range(dim):
                o[j] += pull * m[j] + slope * (x[j] - a * m[j])
        for j in range(dim):
            o[j] /= kind(total)
        logp[i] = top + log(total) - dim * HALF_LOG_2PI
