r"""Flow maps of exact models: where the probability flow takes points, and what becomes of their density.

    dx/dt = v(x, t),      d log p_t(x_t) / dt = -div v(x_t, t),      x given at `start`, wanted at `end`

Both directions, and both ends of time wherever p_t has a density. Two routes that share no equation:

    NumPy    each process in its own time, with `ExactModel.velocity` and `velocity_divergence`, by SciPy's steps
    Numba    x = r y, r = sqrt(alpha^2 + sigma^2): y runs on the circle (alpha / r, sigma / r), which is the same for
             all processes, in a clock smooth up to both ends; log p_t(x) = log p(y) - d log r; see kernels' `adaptive`

The pairs are Dormand and Prince's 8(5,3) and 5(4), with SciPy's coefficients. Sources: PODC8-01, PODC9-01, PODD-57.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff import backends
from refdiff.arguments import Array, one_of, points, real_scalar, whole_number
from refdiff.distributions.covariances import NO_DENSITY, TOO_FAR
from refdiff.dynamics.stepping import LEAST_RTOL, METHODS, steps, why
from refdiff.model import ExactModel

# Points that NumPy takes through one solver. Each is as exact as alone: see `_together`.
GROUP = 16
_Place = tuple[float, float, float]  # of the circle, by its c, 1 - c and r
USUAL = 300  # evaluations of a run, for the choice between NumPy and Numba


@dataclass(frozen=True, eq=False)
class Flow:
    """Points at the end of a flow, and what it took.

    Attributes:
        x: shape (..., d).
        log_density_change: log p_end(x_end) - log p_start(x_start) = -int div v dt from start to end, shape (...);
            None where it was not asked for.
        evaluations, steps, rejected: of the velocity, accepted steps and rejected ones, shape (...). Points are taken
            in groups with common steps, so each number is that of the point's group.
    """

    x: Array
    log_density_change: Any
    evaluations: NDArray[np.int64]
    steps: NDArray[np.int64]
    rejected: NDArray[np.int64]


class Unfinished(RuntimeError):
    """Some points did not reach the end: the message says why, and `flow` has those that did; others are NaN there."""

    def __init__(self, message: str, flow: Flow) -> None:
        super().__init__(message)
        self.flow = flow


class _Run:
    """Results for n points, filled group by group."""

    def __init__(self, x: Array, log_density: bool) -> None:
        self.x, self.change = x.copy(), np.zeros(len(x)) if log_density else None
        self.counts = np.zeros((len(x), 3), dtype=np.int64)  # evaluations, steps, rejected
        self.failures: list[tuple[slice, str]] = []

    def fail(self, group: slice, why: str) -> None:
        self.failures.append((group, why))
        for part in (self.x, self.change):
            if part is not None:
                part[group] = np.nan

    def flow(self, restore: Callable[[Any], Any]) -> Flow:
        counts = [self.counts[:, k].reshape(np.shape(restore(self.x))[:-1])[()] for k in range(3)]
        return Flow(restore(self.x), None if self.change is None else restore(self.change), *counts)


def flow(
    model: ExactModel,
    x: ArrayLike,
    start: float,
    end: float,
    *,
    method: str = "dop853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    log_density: bool = False,
    max_steps: int = 10_000,
    threads: int | None = None,
) -> Flow:
    """The flow map of dx/dt = velocity(x, t) from time `start` to time `end`, in either direction.

    Args:
        model: an ExactModel.
        x: points at the time `start`, shape (..., d).
        method: dop853, or dopri5 for loose tolerances.
        rtol, atol: of each step, for every point: the RMS over the axes of error / (atol + rtol |x|) is at most 1, and
            so is the error of log p over rtol max(1, |change|). The kernel takes atol in units of x at the end.
        log_density: whether the change of log p is wanted.
        max_steps: attempts after which a group of points is given up.
        threads: of the Numba kernel.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: an unknown method, a time outside [0, T], a tolerance too small, or no density at one of the times
            (a point set where sigma = 0).
        Unfinished: some group of points needs more steps, or none is short enough.
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    one_of("method", method, METHODS)
    rows, restore = points("x", x, model.dim)
    start, end = (real_scalar(name, t, low=0, high=model.process.T) for name, t in (("start", start), ("end", end)))
    rtol = real_scalar("rtol", rtol, low=LEAST_RTOL)
    atol = real_scalar("atol", atol, low=0, open_low=True)
    attempts = whole_number("max_steps", max_steps, low=1)
    if any(model.marginal(t).covariances.singular for t in (start, end)):
        raise ValueError(NO_DENSITY.format(what="a component covariance"))
    before, after = (model.process.offset(t).value for t in (start, end))
    model, rows = model.centred, rows - before
    run = _Run(rows, log_density)
    if start != end and len(rows):
        if _compiled(model, len(rows), (start, end)):
            _by_kernel(model, run, rows, start, end, method, (rtol, atol), attempts, threads)
        else:
            for group in _groups(len(rows), GROUP):
                _together(model, run, group, start, end, method, (rtol, atol), attempts)
    run.x += after
    result = run.flow(restore)
    if run.failures:
        group, why = run.failures[0]
        others = f" ({len(run.failures)} groups in all)" if len(run.failures) > 1 else ""
        where = f"points {group.start}..{group.stop - 1}"
        raise Unfinished(f"the flow from t = {start} to {end} does not end for {where}{others}: {why}", result)
    return result


def _groups(count: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _compiled(model: ExactModel, count: int, ends: tuple[float, float]) -> bool:
    """Whether this is done by Numba: one schedule for all axes, worth it, and a law that kernels take at both ends."""
    law = model.distribution
    if model.process.per_axis or not backends.numba_pays(count, law.count, law.dim, USUAL):
        return False
    from refdiff import compiled  # late: Numba takes a third of a second to import

    places = [_place(model, t) for t in ends]
    return all(compiled.applies(law, np.array([[c], [left * (1 + c)]])) for c, left, _ in places)


# ---------------------------------------------------------------------- NumPy: in the process's own time


def _together(
    model: ExactModel,
    run: _Run,
    group: slice,
    start: float,
    end: float,
    method: str,
    tolerance: tuple[float, float],
    attempts: int,
) -> None:
    """A group of points through one of SciPy's solvers.

    SciPy takes the RMS over all numbers; in tolerances smaller by sqrt(points) it bounds that of each point.
    """
    x = run.x[group]
    low, high = min(start, end), max(start, end)

    def slope(t: float, state: Array) -> Array:
        if not np.isfinite(state).all():  # a step far too long, which is rejected
            return np.full_like(state, np.nan)
        t = min(max(t, low), high)  # a rounding error may not leave [0, T]
        at = state[: x.size].reshape(x.shape)
        try:
            moved = model.velocity(at, t).ravel()
            return moved if run.change is None else np.append(moved, -model.velocity_divergence(at, t))
        except ValueError:  # too far from all components, likewise
            return np.full_like(state, np.nan)

    model.velocity(x, start)  # no step is made from where there is no density
    state = x.ravel() if run.change is None else np.append(x, run.change[group])
    stricter = np.sqrt(len(x))
    rtol, atol = max(tolerance[0] / stricter, LEAST_RTOL), tolerance[1] / stricter
    absolute = np.append(np.full(x.size, atol), np.full(len(state) - x.size, rtol))
    reached = steps(slope, start, state, end, method=method, rtol=rtol, atol=absolute, attempts=attempts)
    run.counts[group] = reached.evaluations, reached.steps, reached.rejected
    if reached.problem:
        run.fail(group, f"{reached.problem} at t = {reached.t}")
        return
    run.x[group] = reached.state[: x.size].reshape(x.shape)
    if run.change is not None:
        run.change[group] = reached.state[x.size :]


# ---------------------------------------------------------------------- Numba: on the circle


@cache
def _pair(method: str) -> Any:
    """SciPy's coefficients as the kernel takes them."""
    from refdiff.kernels.numba.adaptive import Pair

    solver = METHODS[method]
    stages = solver.n_stages
    rows = np.zeros((stages + 1, stages))
    rows[:stages, : solver.A.shape[1]] = solver.A[:stages]
    rows[stages] = solver.B
    errors = np.array([solver.E5, solver.E3] if method == "dop853" else [solver.E])
    return Pair(np.append(solver.C[:stages], 1.0), rows, errors, solver.error_estimator_order + 1.0)


def _by_kernel(
    model: ExactModel,
    run: _Run,
    rows: Array,
    start: float,
    end: float,
    method: str,
    tolerance: tuple[float, float],
    attempts: int,
    threads: int | None,
) -> None:
    """All points, in blocks of LANES, through the kernel."""
    from refdiff import compiled
    from refdiff.kernels.numba import adaptive
    from refdiff.kernels.numba.compiling import blocks
    from refdiff.kernels.numba.tiles import LANES

    mixture, (first, last) = compiled.mixture(model.distribution), (_place(model, t) for t in (start, end))
    way = _way(mixture, first, last, tolerance, attempts)
    count = -(-len(rows) // LANES)
    counts, reached = np.zeros((count, 4), dtype=np.int64), np.zeros(count)
    arguments = (rows / first[2], _pair(method), way, mixture, run.x, run.change, counts, reached)
    blocks(adaptive.flow, count, *arguments, threads=threads)
    run.x *= last[2]
    if run.change is not None:
        run.change -= model.dim * np.log(last[2] / first[2])
    for block, group in enumerate(_groups(len(rows), LANES)):
        ended, accepted, rejected, evaluations = counts[block].tolist()
        run.counts[group] = evaluations, accepted, rejected
        if ended == adaptive.TOO_SHORT and accepted + rejected == 0:
            raise ValueError(TOO_FAR.format(what="x"))
        if ended != adaptive.DONE:
            part = (reached[block] - way.start) / (way.end - way.start)
            run.fail(group, f"{why(ended == adaptive.TOO_SHORT, attempts)} after {part:.3g} of the way")


def _way(mixture: Any, first: _Place, last: _Place, tolerance: tuple[float, float], attempts: int) -> Any:
    """Where the kernel's flow goes and how."""
    from refdiff.kernels.numba.adaptive import Way

    # the variance under which no component varies, and the extent beyond which none reaches
    delta = min(float(mixture.variances.min()) / 2, 1.0)
    floor = 1 / np.sqrt(1 + (mixture.means**2).sum(axis=1).max() + mixture.variances.max())
    start, end = (_clock(place, delta, floor) for place in (first, last))
    return Way(start, end, delta, floor, tolerance[0], tolerance[1] / last[2], attempts)


def _place(model: ExactModel, t: float) -> _Place:
    """c = alpha / r, 1 - c and r = sqrt(alpha^2 + sigma^2) at a time."""
    c = model.process.coefficients(t)
    alpha, sigma = float(c.alpha), float(c.sigma)
    r = float(np.hypot(alpha, sigma))
    return alpha / r, (sigma / r) * (sigma / (r + alpha)), r


def _clock(place: _Place, delta: float, floor: float) -> float:
    """u = log((1 - c + delta) / (c + floor)^2) / 2."""
    c, left, _ = place
    return float(np.log(left + delta) / 2 - np.log(c + floor))
