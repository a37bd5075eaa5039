r"""Picard iteration, and ParaDiGMS: all steps of a grid at once, until nothing changes.

    (L y)(u) = y(u_0) + int_{u_0}^u F(y(r), r) dr              the exact path is the fixed point
    y_j^(k+1) = y_0 + sum_{i<j} (u_{i+1} - u_i) F(y_i^(k), u_i)      on a grid: its fixed point is Euler's method

After k sweeps from a constant path the first k + 1 points are those of Euler's method, so as many sweeps as steps give
all of it; far fewer do to a tolerance, and the evaluations of one sweep do not wait for each other. In the coordinates
x/alpha against sigma/alpha, or any other in which Euler's step is DDIM, the fixed point is DDIM (clocks of
`clocks`).

A sliding window of p steps holds its left end l fixed, updates l + 1 .. l + p from there, and moves on to the first
point that still changes: that point has its final value, because all before it had. The trapezoidal rule

    y_j = y_l + sum_{i<j} h_i (F_i + F_{i+1}) / 2

has the implicit trapezoidal method as its fixed point, of order 2.

A fixed number of sweeps is a table (`picard`); a tolerance depends on the data, and `paradigms` stands beside.
Sources: PODC9-49..53, PODD-60 (Shih et al. 2023).
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, points, real_array, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.clocks import Clock, clock_named
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.running import Model, asking
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule


class Parallel(NamedTuple):
    """The output of a parallel run with its path and what it cost.

    Attributes:
        x: points at the last time, shape (..., d).
        path: points at every time of the grid, shape (steps + 1, ..., d).
        sweeps: rounds of evaluations that wait for each other.
        nfe: evaluations of the model in all, those of a round counted one by one.
        strides: by how many points the window moved after each sweep.
    """

    x: Array
    path: Array
    sweeps: int
    nfe: int
    strides: tuple[int, ...]


def picard(process: AffineProcess | Schedule, times: ArrayLike, *, sweeps: int = 3, clock: str = "rho") -> Tableau:
    """A fixed number of Picard sweeps over the whole grid from the constant path, as a table.

    Args:
        process, times: the process and the decreasing grid (n + 1,), which may end where sigma = 0 in the clocks t,
            rho, ratio and angle, and start where alpha = 0 in t, 1/rho, ratio and angle.
        sweeps: as many as steps, or more, are Euler's method in the clock.
        clock: t, rho, 1/rho, ratio, angle or log_snr.

    Raises:
        ValueError: an unknown clock, or a grid with an end where it is infinite.
    """
    sweeps, time = whole_number("sweeps", sweeps, low=1), clock_named(clock)
    rec = _recorder(f"{sweeps} Picard sweeps in {clock}", process, times, clock, time)
    u, scales = [time.value(p) for p in rec.points], [time.scale(p) for p in rec.points]
    anchor = rec.start / scales[0]
    path, slopes = [anchor] * len(u), list[State]()

    def slope(i: int) -> State:
        x = rec.start if i == 0 else scales[i] * path[i]
        result: State = time.rate(x, rec.evaluate(x, rec.points[i]), rec.points[i])
        return result

    for k in range(min(sweeps, len(rec.steps))):
        # the points up to i = k are Euler's, and what the model says before k stays as it is
        slopes = slopes[:k] + [slope(i) for i in range(k, len(rec.steps))]
        moves = [(b - a) * f for (a, b), f in zip(pairwise(u), slopes, strict=True)]
        path = list(accumulate(moves, initial=anchor))
    return rec.finish(scales[-1] * path[-1])


def paradigms(
    process: AffineProcess | Schedule,
    model: Model,
    x: ArrayLike,
    times: ArrayLike,
    *,
    window: int | None = None,
    tolerance: ArrayLike = 0.0,
    clock: str = "rho",
    trapezoidal: bool = False,
    max_sweeps: int = 10_000,
) -> Parallel:
    """Picard iteration in a sliding window (ParaDiGMS).

    Args:
        process, times: the process and the decreasing grid (n + 1,), ends as in `picard`.
        model: an ExactModel, or a function (x, t) -> what the clock asks for.
        x: points at the first time, shape (..., d); the window moves on when all of them have settled.
        window: p, how many steps are taken at once; the whole grid unless given. 1 is Euler's method.
        tolerance: how much |x^(k+1) - x^(k)|^2, summed over the axes, may be at a point that counts as settled: a
            number, or one for each time of the grid but the first. 0 gives Euler's method to rounding.
        clock: t, rho, 1/rho, ratio, angle or log_snr.
        trapezoidal: the rule of second order in place of left endpoints. Its points follow from their own slopes, so
            the window stops before the first point that still changes, and the tolerance must not be 0.
        max_sweeps: how many sweeps to make.

    Raises:
        ValueError: an unknown clock, a window or tolerance that does not fit the grid, or negative.
        RuntimeError: the end is not reached in `max_sweeps` sweeps.
    """
    time = clock_named(clock)
    rec = _recorder("ParaDiGMS", process, times, clock, time)
    steps = len(rec.steps)
    width = whole_number("window", steps if window is None else window, low=1)
    allowed = real_array("tolerance", tolerance, ndim=(0, 1))
    if allowed.shape not in ((), (steps,)) or (allowed < 0).any():
        raise ValueError(f"tolerance must be a number or {steps} numbers, none negative, got shape {allowed.shape}")
    if trapezoidal and not allowed.all():
        raise ValueError(
            "tolerance must be positive for the trapezoidal rule, whose points settle to rounding only, got 0"
        )
    if trapezoidal and rec.points[-1].clean and clock == "rho":
        raise ValueError("times must end where sigma > 0: the trapezoidal rule asks for the noise there, got 0")
    limits = np.broadcast_to(allowed, (steps,))
    rows, restore = points("x", x, np.atleast_1d(real_array("x", x)).shape[-1])
    drift = _Drift(time, model, rec)
    path = np.stack([_coordinates(time, rec.points[0], rows)] * (steps + 1))
    left, strides = 0, list[int]()
    while left < steps:
        if len(strides) == whole_number("max_sweeps", max_sweeps, low=1):
            raise RuntimeError(f"max_sweeps must be larger: the window stands at {left} of {steps} steps")
        count = min(width, steps - left)
        moves = drift.increments(path, left, count, trapezoidal)
        fresh = path[left] + np.cumsum(moves, axis=0)
        changed = np.array([drift.change(left + 1 + j, path, fresh[j]) for j in range(count)])
        path[left + 1 : left + 1 + count] = fresh
        # with left endpoints the first point that still changes follows from settled ones: it has its final value
        moving = np.flatnonzero(changed > limits[left : left + count])
        stride = count if not moving.size else int(moving[0]) + (0 if trapezoidal else 1)
        path[left + 1 + count : left + 1 + count + stride] = fresh[-1]  # new points start from the right edge
        left += stride
        strides.append(stride)
    out = np.stack([restore(time.scale(p) * y) for p, y in zip(rec.points, path, strict=True)])
    return Parallel(out[-1], out, len(strides), drift.calls, tuple(strides))


def _recorder(name: str, process: AffineProcess | Schedule, times: ArrayLike, clock: str, time: Clock) -> Recorder:
    rec = Recorder(name, process, times, time.prediction)
    if rec.points[0].pure_noise and not time.starts_pure:
        raise ValueError(f"times must start where alpha > 0: {clock} is infinite there, got {rec.points[0].t}")
    if rec.points[-1].clean and not time.ends_clean:
        raise ValueError(f"times must end where sigma > 0: {clock} is infinite there, got {rec.points[-1].t}")
    return rec


def _coordinates(time: Clock, point: Point, x: Array) -> Array:
    return np.asarray(x / time.scale(point))


class _Drift:
    """dy/du at the points of a path, counting evaluations."""

    def __init__(self, time: Clock, model: Model, rec: Recorder) -> None:
        self.time, self.points, self.calls = time, rec.points, 0
        self.ask = asking(model, time.prediction)

    def __call__(self, i: int, y: Array) -> Array:
        point = self.points[i]
        x = np.asarray(self.time.scale(point) * y)
        self.calls += 1
        return np.asarray(self.time.rate(x, self.ask(x, point.t), point))

    def increments(self, path: Array, left: int, count: int, trapezoidal: bool) -> Array:
        """h_i F_i, or h_i (F_i + F_{i+1}) / 2, for the steps of the window."""
        nodes = range(left, left + count + trapezoidal)
        slopes = np.stack([self(i, path[i]) for i in nodes])
        u = [self.time.value(self.points[i]) for i in range(left, left + count + 1)]
        h = np.stack([np.broadcast_to(b - a, path.shape[2:]) for a, b in pairwise(u)])
        return np.asarray(h[:, None] * ((slopes[:-1] + slopes[1:]) / 2 if trapezoidal else slopes))

    def change(self, i: int, path: Array, fresh: Array) -> float:
        """max over points of |x^(k+1) - x^(k)|^2 at grid point i."""
        moved = self.time.scale(self.points[i]) * (fresh - path[i])
        return float((moved**2).sum(axis=-1).max())
