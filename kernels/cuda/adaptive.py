r"""Embedded Runge-Kutta steps along the probability flow on the device, with the steps of kernels.numba.adaptive.

Up to MOST axes one kernel takes groups of THREADS points from end to end, each with a step size of its own: the groups
and the steps of the CPU. Points in more axes go through `stepping`, all that fit at once with one step size.

Where numbers are float32, so are points, slopes, errors and tolerances; the clock is float64.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from refdiff.kernels.cuda import mixture as mixtures
from refdiff.kernels.cuda import stepping
from refdiff.kernels.cuda.device import THREADS, cupy, kernel, launch, rows_at_once
from refdiff.kernels.cuda.mixture import Mixture
from refdiff.kernels.cuda.stepping import Course
from refdiff.kernels.numba.adaptive import Pair, Way

# Blocks for each multiprocessor: two or four run at once, and slopes of many more would take memory for nothing.
BLOCKS = 8
SHARED = 128, 32  # of a block, beside the mixture and the table: bytes for where it is, numbers for its warps

# y at the end (n, d) and log p(end) - log p(start), (n,) or None; for each group of `size` points (DONE or why not,
# steps accepted, rejected, evaluations), int64 (groups, 4), and the u at which y is, float64 (groups,), NumPy's.
Ended = namedtuple("Ended", "y change counts reached size")


def flow(points: Any, pair: Pair, way: Way, mixture: Mixture, log: bool) -> Ended:
    """Points y along the flow.

    Args:
        points: y at the start, shape (n, d), n > 0, contiguous, float64 or float32.
        pair, way: as of kernels.numba.adaptive.
        mixture: a Mixture of the type of the points.
        log: whether the change of log p is wanted.

    Raises:
        MemoryError: there is no room for the slopes of one group.
    """
    if points.shape[1] > mixtures.MOST:
        at = lambda u: place(u, way.delta, way.floor)  # noqa: E731
        return stepped(points, pair, Course(way.start, way.end, at, way.rtol, way.atol, way.attempts), mixture, log)
    xp, (n, dim) = cupy(), points.shape
    groups = -(-n // THREADS)
    counts, reached = xp.empty((groups, 4), np.int64), xp.empty(groups)
    out, change = xp.empty(points.shape, points.dtype), xp.empty(n if log else 0, points.dtype)
    numbers = mixtures.numbers(mixture, True, points.itemsize)
    rows = np.ascontiguousarray(stepping.table(pair)[: stepping.PROBE, :-1])  # y itself is not in the kernel's
    numbers |= {"STAGES": rows.shape[1] - 1, "ERRORS": len(pair.errors), "LOG": int(log)}
    group_bytes = THREADS * (rows.shape[1] + 1) * (dim + log) * points.itemsize
    most = BLOCKS * xp.cuda.Device().attributes["MultiProcessorCount"]
    blocks = rows_at_once(min(groups, most), group_bytes, 0, "the adaptive flow")
    slopes = xp.empty(blocks * group_bytes // points.itemsize, points.dtype)
    given = points, np.int64(n), *mixtures.arguments(mixture, numbers), xp.asarray(pair.nodes), xp.asarray(rows)
    where = *map(np.float64, (*way[:4], pair.exponent, way.rtol, way.atol)), np.int32(min(way.attempts, 2**31 - 1))
    shared = mixtures.shared_bytes(numbers, points.itemsize) + SHARED[0] + (SHARED[1] + rows.size) * points.itemsize
    run = kernel("adaptive", "flow", points.dtype, **numbers)
    launch(run, blocks * THREADS, *given, *where, slopes, out, change, counts, reached, shared=shared)
    return Ended(out, change if log else None, counts.get(), reached.get(), THREADS)


def stepped(points: Any, pair: Pair, course: Course, mixture: Mixture, log: bool) -> Ended:
    """Points along a flow in groups as large as memory allows, one step size for each group.

    Args:
        points: at the start, shape (n, d), n > 0, contiguous, float64 or float32.
        pair: as of kernels.numba.adaptive.
        course: where to, in a time of which the flow of the mixture is known.
        mixture: a Mixture of the type of the points.
        log: whether the change of log p is wanted.

    Raises:
        MemoryError: there is no room for the slopes of one point.
    """
    xp, (n, dim) = cupy(), points.shape
    y, change = xp.empty(points.shape, points.dtype), xp.empty(n if log else 0, points.dtype)
    # slopes, y, another point; and what is made at a time by the mixture and by array expressions
    size = rows_at_once(n, (len(pair.nodes) + 2 + 4) * (dim + log) * points.itemsize, 0, "the adaptive flow")
    counts: list[Any] = []
    reached: list[float] = []
    for rows in (slice(k, min(k + size, n)) for k in range(0, n, size)):
        # copied, so that the slopes of a group are let go before the next
        y[rows], part, how, u = stepping.together(points[rows], pair, course, mixture, log)
        if log:
            change[rows] = part
        del part
        counts.append(how)
        reached.append(u)
    return Ended(y, change if log else None, np.array(counts), np.array(reached), size)


def place(u: float, delta: float, floor: float) -> Any:
    """The numbers (5, 1) of the mixture at u: as `_place` of kernels.numba.adaptive."""
    total, w = 1 + floor + delta, math.exp(2 * u)
    g = 2 * total / (1 + math.sqrt(1 + 4 * w * total))
    c, left = max(g - floor, 0.0), max(w * g * g - delta, 0.0)
    rate = -2 * w * g * g / (1 + 2 * w * g)
    return np.array([[c], [left * (1 + c)], [rate], [rate * c], [-rate * c]])
