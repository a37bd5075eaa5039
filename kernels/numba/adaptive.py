r"""Embedded Runge-Kutta steps along the probability flow, one step size for each block of points.

Up to its scale r = sqrt(alpha^2 + sigma^2) every process with one alpha and one sigma is the same path

    x / r = y = c x_0 + s eps,      c = alpha / r,   s = sigma / r,   c^2 + s^2 = 1,

so a flow map is this path run from one c to another, and no schedule is known here. With any clock u the velocity
dy/du is the output of `mixture.evaluate` for (a, q, mu, beta, gamma) = (c, s^2, c', c c', -c c'), c' = dc/du: as
(s^2)' / 2 = -c c', nothing is divided by s or c. The clock is

    u = log((1 - c + delta) / (c + floor)^2) / 2

about log(s / c) in between, where steps should grow with the noise; below s^2 ~ 2 delta, the least variance of the
data, it is linear in s^2, and below c ~ floor, the inverse of their extent, linear in c. These are the variables in
which the flow is smooth up to both ends. With g = c + floor it inverts in closed form,

    e^2u g^2 + g = 1 + floor + delta,      c' = -2 e^2u g^2 / (1 + 2 e^2u g).

On request log p is one more row of the state, d log p / du = -div. The error of a step is the worst lane's: the RMS
over the axes of error / (atol + rtol max(|y|, |y_new|)), or error / (atol + rtol max(1, |change|)) of log p. Steps
follow Hairer, Norsett and Wanner, Solving ODEs I, sections II.4 and II.10, as SciPy's do.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numba
import numpy as np

from refdiff.kernels.numba.compiling import compiled, inlined, shared
from refdiff.kernels.numba.fields import workspace_second
from refdiff.kernels.numba.lanes import aligned, borrowed, copy, keep, load, store
from refdiff.kernels.numba.mixture import evaluate
from refdiff.kernels.numba.second_order import evaluate_divergence
from refdiff.kernels.numba.tiles import LANES

# A pair of methods with s stages: nodes (s + 1,), rows (s + 1, s) of which the last is the new point, whose slope is
# the first of the next step; errors (1 or 2, s + 1), the weights of one error, or of Dormand and Prince's two;
# exponent: a step's error is proportional to its length to this power.
Pair = namedtuple("Pair", "nodes rows errors exponent")

# Where a flow goes and how: u at the start and the end, delta, floor; rtol, atol; the number of attempts.
Way = namedtuple("Way", "start end delta floor rtol atol attempts")

# What is known of a block: how it ended, accepted and rejected steps, evaluations.
ENDED, STEPS, REJECTED, EVALUATIONS = range(4)
DONE, TOO_MANY, TOO_SHORT = range(3)

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0  # the usual safety factor, and how much a step may change at once
ONE = np.ones(1)
LOWEST = np.finfo(np.float64).min  # the largest logit before there is one
SPACING = 1e-15  # shorter steps, relative to u, are no steps in float64

# A part that becomes lines of the kernel. Every function that calls the mixture's costs seconds to compile, however
# short it is: the whole of what it calls is optimised again.
_expanded = numba.njit(inline="always")

# The points and log p (rows, LANES), the next ones, an error, all slopes, what lanes have, the numbers of the mixture.
Room = namedtuple("Room", "y new error slopes norms at none work")


@shared
def _place(u: float, way: Any, at: Any) -> None:
    """The numbers of the mixture at u."""
    total = 1 + way.floor + way.delta
    w = math.exp(2 * u)
    g = 2 * total / (1 + math.sqrt(1 + 4 * w * total))
    # rounding errors of c and 1 - c are relative to floor and delta, which is all the flow feels; it may not see T <= 0
    c, left = max(g - way.floor, 0.0), max(w * g * g - way.delta, 0.0)
    rate = -2 * w * g * g / (1 + 2 * w * g)
    at[0, 0], at[1, 0] = c, left * (1 + c)
    at[2, 0], at[3, 0], at[4, 0] = rate, rate * c, -rate * c


@_expanded
def _velocity(u: float, y: Any, way: Any, mixture: Any, room: Any, change: Any, slope: Any) -> None:
    """dy/du, and -div below it where log p is wanted."""
    _place(u, way, room.at)
    if change is None:
        evaluate(y, mixture, room.at, room.work.base, slope, room.none)
    else:
        dim = mixture.means.shape[1]
        evaluate_divergence(y[:dim], mixture, room.at, room.work, slope[:dim], slope[dim])
        for i in range(LANES):
            slope[dim, i] = -slope[dim, i]
    for i in range(LANES):
        if not room.work.base.top[i] > LOWEST:  # all logits are -inf, or not numbers
            slope[0, i] = np.nan


@inlined
def _weighted(h: float, weights: Any, slopes: Any, j: int, line: Any) -> None:
    """h sum_s weights_s slopes_s of row j."""
    line[:] = 0
    for s in range(len(weights)):
        weight, slope = h * weights[s], slopes[s, j]
        if weight != 0:
            for i in range(LANES):
                line[i] += weight * slope[i]


@shared
def _advance(y: Any, h: float, weights: Any, slopes: Any, out: Any) -> None:
    """out = y + h sum_s weights_s slopes_s."""
    for j in range(y.shape[0]):
        line, old = out[j], y[j]
        _weighted(h, weights, slopes, j, line)
        for i in range(LANES):
            line[i] += old[i]


@shared
def _norms(v: Any, y: Any, new: Any, dim: int, way: Any, out: Any) -> None:
    """Mean squares of v in tolerances, for each lane: over the axes into out[0], of log p into out[1]."""
    out[:] = 0
    for j in range(v.shape[0]):
        row, part, before, after = out[0 if j < dim else 1], v[j], y[j], new[j]
        least = 0.0 if j < dim else 1.0  # an error of a log is a relative one of what it is the log of
        share = 1 / dim if j < dim else 1.0
        for i in range(LANES):
            scaled = part[i] / (way.atol + way.rtol * max(least, max(abs(before[i]), abs(after[i]))))
            row[i] += share * scaled * scaled


@inlined
def _worst(out: Any) -> float:
    """The root of the largest; infinite where one is not a number."""
    worst = 0.0
    for row in range(2):
        for i in range(LANES):
            if not out[row, i] <= worst:
                worst = out[row, i] if out[row, i] > worst else np.inf
    return math.sqrt(worst)


@shared
def _error(h: float, pair: Any, dim: int, way: Any, room: Any) -> float:
    """The error of a step of length h in tolerances."""
    norms = room.norms
    for e in range(len(pair.errors)):
        for j in range(room.y.shape[0]):
            _weighted(h, pair.errors[e], room.slopes, j, room.error[j])
        _norms(room.error, room.y, room.new, dim, way, norms[e])
    if len(pair.errors) == 2:  # the fifth order's error, made smaller where the third order's is larger still
        for row in range(2):
            for i in range(LANES):
                fifth, third = norms[0, row, i], norms[1, row, i]
                if fifth > 0:
                    norms[0, row, i] = fifth * (fifth / (fifth + 0.01 * third))
    return _worst(norms[0])


@_expanded
def _first_step(pair: Any, way: Any, mixture: Any, room: Any, change: Any) -> Any:
    """A first step of which the error should be 1/100 or so, from the sizes of y, y' and y''."""
    dim, y, slopes, norms = mixture.means.shape[1], room.y, room.slopes, room.norms[0]
    length, side = abs(way.end - way.start), 1.0 if way.end > way.start else -1.0
    _norms(y, y, y, dim, way, norms)
    d0 = _worst(norms)
    _norms(slopes[0], y, y, dim, way, norms)
    d1 = _worst(norms)
    if not d1 < np.inf:  # there is no slope, and no step
        return 0.0
    h = min(length, 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1)
    _advance(y, side * h, ONE, slopes, room.new)
    _velocity(way.start + side * h, room.new, way, mixture, room, change, slopes[1])
    for j in range(y.shape[0]):
        for i in range(LANES):
            room.error[j, i] = slopes[1, j, i] - slopes[0, j, i]
    _norms(room.error, y, y, dim, way, norms)
    bend = max(d1, _worst(norms) / h)
    second = max(1e-6, 1e-3 * h) if bend <= 1e-15 else (0.01 / bend) ** (1 / pair.exponent)
    return min(length, min(100 * h, second))


@_expanded
def _solve(pair: Any, way: Any, mixture: Any, room: Any, change: Any, counts: Any) -> Any:
    """room.y from the start of the way to its end, or as far as it gets; where that is."""
    dim, stages, slopes = mixture.means.shape[1], len(pair.nodes) - 1, room.slopes
    u, side = way.start, 1.0 if way.end > way.start else -1.0
    counts[:] = 0
    length, refused = 0.0, False
    if u != way.end:
        _velocity(u, room.y, way, mixture, room, change, slopes[0])
        length = _first_step(pair, way, mixture, room, change)
        counts[EVALUATIONS] = 2
    while u != way.end:
        left = abs(way.end - u)
        final = length >= left
        if counts[STEPS] + counts[REJECTED] >= way.attempts:
            counts[ENDED] = TOO_MANY
            break
        if not (final or length > SPACING * max(1.0, abs(u))):  # not a number, too
            counts[ENDED] = TOO_SHORT
            break
        after = way.end if final else u + side * length
        h = after - u
        for s in range(1, stages + 1):
            _advance(room.y, h, pair.rows[s, :s], slopes, room.new)
            when = after if s == stages else u + pair.nodes[s] * h
            _velocity(when, room.new, way, mixture, room, change, slopes[s])
        counts[EVALUATIONS] += stages
        error = _error(h, pair, dim, way, room)
        if error <= 1:
            copy(room.new, room.y)
            copy(slopes[stages], slopes[0])
            counts[STEPS] += 1
            u = after
            factor = GROW if error == 0 else SAFETY * error ** (-1 / pair.exponent)
            length = abs(h) * min(1.0 if refused else GROW, max(SHRINK, factor))
            refused = False
        else:  # an infinite error, too
            counts[REJECTED] += 1
            length = abs(h) * max(SHRINK, SAFETY * error ** (-1 / pair.exponent))
            refused = True
    return u


@compiled
def flow(
    first: int,
    last: int,
    points: Any,
    pair: Any,
    way: Any,
    mixture: Any,
    out: Any,
    change: Any,
    counts: Any,
    reached: Any,
) -> None:
    """Points y along the flow, for the blocks first .. last - 1 of LANES points.

    Args:
        points: y at the start, shape (n, d), float64.
        pair, way, mixture: a Pair, a Way and a Mixture.
        out: for y at the end, shape (n, d).
        change: for log p(end) - log p(start), shape (n,), or None where it is not wanted.
        counts: for (DONE or why not, steps accepted, rejected, evaluations) of each block, shape (blocks, 4), int64.
        reached: for the u of each block at which `out` is, shape (blocks,).
    """
    dim, kind, stages = points.shape[1], points.dtype, len(pair.nodes)
    at = np.empty((5, 1), kind)
    rows = dim if change is None else dim + 1
    owned = Room(
        aligned((rows, LANES), kind),
        aligned((rows, LANES), kind),
        aligned((rows, LANES), kind),
        aligned((stages, rows, LANES), kind),
        aligned((2, 2, LANES), kind),
        at,
        np.empty(0, kind),
        workspace_second(points, mixture, at),
    )
    room, law = borrowed(owned), borrowed(mixture)
    for block in range(first, last):
        room.y[:] = 0
        count = load(points, block * LANES, room.y[:dim])
        reached[block] = _solve(pair, way, law, room, change, counts[block])
        store(room.y[:dim], count, block * LANES, out)
        if change is not None:
            for i in range(count):
                change[block * LANES + i] = room.y[dim, i]
    keep(owned)
