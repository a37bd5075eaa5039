r"""Restart sampling: an ODE sampler that goes back up by fresh noise, several times, through chosen intervals.

When the solver arrives at t_low, then K times, with y = x / alpha and rho = sigma / alpha,

    up     y_high = y_low + S_noise sqrt(rho_high^2 - rho_low^2) z        the kernel of the process from low to high
    down   the same solver from t_high to t_low

The way up keeps the marginals and contracts the total variation of what has gone wrong before; the way down adds the
error of a solver once more. With exact steps down every p_t is kept, so the weak order is the order of the solver as
long as the ways down are refined along with the grid.
Source: Xu et al. 2023, Algorithm 1. Its code places the points of a way down by Karras' rule,
rho_i^(1/7) equally spaced, and takes t_low to the nearest time of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import one_of, real_array, real_scalar, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.edm import at_rho, euler_step, raised, second_order_step
from refdiff.samplers.families import Family
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

SOLVERS = {"euler": euler_step, "heun": second_order_step}


class Interval(NamedTuple):
    """Where to restart.

    Attributes:
        low, high: times of the process, low < high; low is taken to the nearest time of the grid after its first.
        repeats: K, how often.
        steps: steps of each way down, at Karras' points; None takes the times of the grid itself, from the one
            nearest to high. (The paper's code counts points, which is one more.)
    """

    low: float
    high: float
    repeats: int = 1
    steps: int | None = None


def restart(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    intervals: Sequence[Interval | tuple[float, ...]] | None = None,
    solver: str = "heun",
    s_noise: float = 1.0,
    exponent: float = 7.0,
) -> Tableau:
    """Restart sampling (Xu et al. 2023).

    Args:
        process, times: the process and the decreasing grid (n + 1,). Heun's steps from alpha = 0 and to sigma = 0 are
            Euler's.
        intervals: `Interval`s or tuples (low, high, repeats, steps), done in this order where several share their low
            end; None is one restart of the whole grid, from its last time back to its first.
        solver: heun or euler.
        s_noise: a factor of the added noise.
        exponent: Karras' exponent for intervals with steps of their own.

    Raises:
        ValueError: an unknown solver, an interval that is empty, lies outside the process or the grid, or (with steps
            of its own) starts where alpha = 0 or on a per-axis process.
    """
    one_of("solver", solver, SOLVERS)
    s_noise = real_scalar("s_noise", s_noise, low=0)
    exponent = real_scalar("exponent", exponent, low=0, open_low=True)
    rec = Recorder(f"Restart, {solver}", process, times, "denoiser")
    if intervals is None:
        intervals = [Interval(rec.points[-1].t, rec.points[0].t)]
    paths = [_path(rec, interval, exponent) for interval in _intervals(intervals)]
    step = SOLVERS[solver]
    x = rec.start
    for s, t in rec.steps:
        x = step(rec, x, s, t)
        for repeats, down in paths:
            for _ in range(repeats if down[-1] is t else 0):
                x = raised(rec, x, t, down[0], s_noise)
                for a, b in pairwise(down):
                    x = step(rec, x, a, b)
    return rec.finish(x)


def _intervals(given: Sequence[Interval | tuple[float, ...]]) -> list[Interval]:
    try:
        return [Interval(*one) for one in given]
    except TypeError:
        raise TypeError(f"intervals must be tuples (low, high, repeats, steps), got {given!r}") from None


def _path(rec: Recorder, interval: Interval, exponent: float) -> tuple[int, list[Point]]:
    """How often, and the points of the way down; the last is the point of the grid itself."""
    first, last = rec.process.T, 0.0
    low = real_scalar("intervals: low", interval.low, low=last, high=first)
    high = real_scalar("intervals: high", interval.high, low=last, high=first)
    repeats = whole_number("intervals: repeats", interval.repeats)
    grid = real_array("times", [point.t for point in rec.points])
    if not grid[-1] <= low <= grid[0]:
        raise ValueError(f"intervals: low must lie within the grid, {grid[-1]} to {grid[0]}, got {low}")
    end = 1 + int(np.argmin(np.abs(grid[1:] - low)))
    if interval.steps is None:
        start = int(np.argmin(np.abs(grid - high)))
        if start >= end:
            raise ValueError(f"intervals must hold a step of the grid, got ({low}, {high}) at t = {grid[end]}")
        return repeats, rec.points[start : end + 1]
    steps = whole_number("intervals: steps", interval.steps, low=1)
    top, bottom = rec.at(high), rec.points[end]
    rec.scalar("restarts with steps of their own")
    if top.pure_noise:
        raise ValueError(f"intervals: high must lie where alpha > 0 for steps of its own, got {high}")
    if high <= bottom.t:
        raise ValueError(f"intervals: high must be noisier than low, got {high} and {bottom.t} on the grid")
    roots = np.linspace(float(top.rho) ** (1 / exponent), float(bottom.rho) ** (1 / exponent), steps + 1)
    return repeats, [top, *(at_rho(rec, value**exponent) for value in roots[1:-1]), bottom]


_SOURCE = "Xu et al. 2023"

# The default interval: the grid down, back up by noise, and down once more.
FAMILIES = (
    Family("restart-heun", restart, 2, "4n", _SOURCE, starts_pure=True),
    Family("restart-euler", restart, 1, "2n", _SOURCE, {"solver": "euler"}, starts_pure=True),
)
