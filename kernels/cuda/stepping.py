r"""Embedded Runge-Kutta steps on the device for points in many axes, all with one step size, by the host.

    dx/du = v(x, u),      d log p / du = -div v,      v a prediction of a mixture by the numbers `at` of a time

The controller is that of kernels.numba.adaptive. A step size is the worst point's, so that every point is as exact as
alone; many points share it here, where a group of the CPU is 128, and steps are shorter therefore. One number comes
back to the host from each step: its error.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from refdiff.kernels.cuda import second_order
from refdiff.kernels.cuda.device import cupy, kernel, launch
from refdiff.kernels.cuda.mixture import Mixture, predict
from refdiff.kernels.numba.adaptive import DONE, GROW, SAFETY, SHRINK, SPACING, TOO_MANY, TOO_SHORT, Pair

# Where a flow goes, and how: u at the start and the end; the numbers `at`, NumPy's (5, 1 or d), of a u; rtol, atol; the
# number of attempts.
Course = namedtuple("Course", "start end at rtol atol attempts")
FIRST, BEND, PROBE, STATE = range(-4, 0)  # the last rows of a table
WARP = 32


class Slots:
    """Slopes, y and another point, and log p beside them: arrays (slopes + 2, numbers of all points)."""

    def __init__(self, points: Any, pair: Pair, course: Course, mixture: Mixture, log: bool) -> None:
        xp = cupy()
        self.shape, self.log, self.slopes, self.errors = points.shape, log, len(pair.nodes), len(pair.errors)
        self.course, self.mixture = course, mixture
        self.size = points.size + log * len(points)
        self.numbers = xp.empty((self.slopes + 2, self.size), points.dtype)
        self.numbers[self.slopes] = 0
        self.numbers[self.slopes, : points.size] = points.ravel()
        self.rows = xp.asarray(table(pair).astype(points.dtype))
        self.found = xp.empty(len(points), points.dtype)

    def kernel(self, name: str) -> Any:
        """A kernel of the type of the points."""
        return kernel("stepping", name, self.numbers.dtype)

    def slope(self, slot: int, u: float, row: int, h: float) -> None:
        """The slope of a slot, at u and the point to which a row leads with a step of length h."""
        real = self.numbers.dtype.type
        which = np.int64(self.size), np.int32(self.slopes), self.rows, np.int32(row % len(self.rows))
        launch(self.kernel("advance"), self.size, self.numbers, *which, real(h))
        count = self.shape[0] * self.shape[1]
        x, at = self.numbers[self.slopes + 1, :count].reshape(self.shape), self.course.at(u)
        if self.log:
            out, div = second_order.divergence(x, self.mixture, at)
            self.numbers[slot, count:] = -div
        else:
            out = predict(x, self.mixture, at)[0]
        self.numbers[slot, :count] = out.ravel()

    def worst(self, row: int, h: float, count: int = 1, stepped: bool = False) -> float:
        """The worst error by `count` rows, in tolerances at y or, if `stepped`, at the larger of both points."""
        real, place = self.numbers.dtype.type, row % len(self.rows)
        sizes = np.int64(self.shape[0]), np.int32(self.shape[1]), np.int32(self.log), np.int32(self.slopes)
        taken = self.rows, np.int32(place), np.int32(count), real(h), np.int32(self.slopes + stepped)
        asked = real(self.course.rtol), real(self.course.atol)
        launch(self.kernel("squares"), self.shape[0] * WARP, self.numbers, *sizes, *taken, *asked, self.found)
        return math.sqrt(float(self.found.max()))

    def take(self) -> None:
        """Make the other point y, and its slope the first."""
        self.numbers[self.slopes] = self.numbers[self.slopes + 1]
        self.numbers[0] = self.numbers[self.slopes - 1]


def table(pair: Pair) -> Any:
    """What is taken of slopes and of y, float64 (rows, slopes + 1).

    To the points of the stages, of which the first is y, and to the new point; the errors' weights; then FIRST, BEND,
    PROBE and STATE: slope 0, slope 1 less slope 0, y + slope 0, and y.
    """
    slopes = len(pair.nodes)
    rows = np.zeros((slopes + len(pair.errors) + 4, slopes + 1))
    rows[1:slopes, : slopes - 1] = pair.rows[1:]
    rows[slopes:FIRST, :slopes] = pair.errors
    rows[:slopes, slopes] = 1
    rows[FIRST, 0] = 1
    rows[BEND, :2] = -1, 1
    rows[PROBE, [0, slopes]] = 1
    rows[STATE, slopes] = 1
    return rows


def together(points: Any, pair: Pair, course: Course, mixture: Mixture, log: bool) -> tuple[Any, Any, list[int], float]:
    """Points along the flow from end to end, with common steps.

    Args:
        points: at the start, shape (n, d), n > 0.
        pair: as of kernels.numba.adaptive.
        course: where to.
        mixture: a Mixture of the type of the points.
        log: whether the change of log p is wanted.

    Returns:
        Points at the end (n, d); the change of log p (n,), or None; DONE or why not, steps accepted, rejected,
        evaluations; and the u at which the points are.
    """
    slots, (start, end) = Slots(points, pair, course, mixture, log), course[:2]
    ended, u, accepted, rejected, evaluations = DONE, start, 0, 0, 0
    side, stages, refused, length = 1.0 if end > start else -1.0, len(pair.nodes) - 1, False, 0.0
    if u != end:
        slots.slope(0, u, 0, 0.0)
        length = _first_step(slots, pair, side)
        evaluations = 2
    while u != end:
        left = abs(end - u)
        final = length >= left
        if accepted + rejected >= course.attempts or not (final or length > SPACING * max(1.0, abs(u))):
            ended = TOO_MANY if accepted + rejected >= course.attempts else TOO_SHORT
            break
        after = end if final else u + side * length
        h = after - u
        for s in range(1, stages + 1):
            slots.slope(s, after if s == stages else u + pair.nodes[s] * h, s, h)
        evaluations += stages
        error = slots.worst(stages + 1, h, slots.errors, stepped=True)
        factor = GROW if error == 0 else SAFETY * error ** (-1 / pair.exponent)
        length = abs(h) * max(SHRINK, min(factor, 1.0 if refused else GROW))
        refused = not error <= 1
        if refused:
            rejected += 1
        else:
            slots.take()
            accepted, u = accepted + 1, after
    state, count = slots.numbers[slots.slopes], points.size
    change = state[count:] if log else None
    return state[:count].reshape(points.shape), change, [ended, accepted, rejected, evaluations], u


def _first_step(slots: Slots, pair: Pair, side: float) -> float:
    """The length of a first step of which the error should be 1/100 or so, from the sizes of y, y' and y''."""
    course = slots.course
    whole: float = abs(course.end - course.start)
    d0, d1 = slots.worst(STATE, 1.0), slots.worst(FIRST, 1.0)
    if not d1 < math.inf:  # there is no slope, and no step
        return 0.0
    h = min(whole, 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1)
    slots.slope(1, course.start + side * h, PROBE, side * h)
    bend = max(d1, slots.worst(BEND, 1.0) / h)
    second = max(1e-6, 1e-3 * h) if bend <= 1e-15 else float((0.01 / bend) ** (1 / pair.exponent))
    return min(whole, min(100 * h, second))
