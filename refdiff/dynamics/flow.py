r"""Flow maps of exact models: where the probability flow takes points, and what becomes of their density.

    dx/dt = v(x, t),      d log p_t(x_t) / dt = -div v(x_t, t),      x given at `start`, wanted at `end`

Both directions, and both ends of time wherever p_t has a density. Two routes that share no equation:

    NumPy    each process in its own time, with `ExactModel.velocity` and `velocity_divergence`, by SciPy's steps
    Numba    x = r y, r = sqrt(alpha^2 + sigma^2): y runs on the circle (alpha / r, sigma / r), which is the same for
             all processes, in a clock smooth up to both ends; log p_t(x) = log p(y) - d log r; see kernels' `adaptive`

The pairs are Dormand and Prince's 8(5,3) and 5(4), with SciPy's coefficients. Sources: PODC8-01, PODC9-01, PODD-57.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import backends
from refdiff.arguments import Array, points
from refdiff.distributions.covariances import TOO_FAR
from refdiff.dynamics.stepping import METHODS, Flow, Run, Steps, times_with_density, why
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess

_Place = tuple[float, float, float]  # of the circle, by its c, 1 - c and r
USUAL = 300  # evaluations of a run, for the choice between NumPy and Numba


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
            so is the error of log p over rtol (1 + |change|). The kernel takes atol in units of x at the end.
        log_density: whether the change of log p is wanted.
        max_steps: attempts after which a group of points is given up.
        threads: of the Numba kernel.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: an unknown method, a time outside [0, T], a tolerance too small, or no density at one of the times
            (a point set where sigma = 0).
        Unfinished: some group of points needs more steps, or none is short enough.
    """
    start, end = times_with_density(model, start=start, end=end)
    how = Steps(method, rtol, atol, max_steps)
    rows, restore = points("x", x, model.dim)
    before, after = (model.process.offset(t).value for t in (start, end))
    model, rows = model.centred, rows - before
    run = Run(rows, np.zeros(len(rows)) if log_density else None, start, end)
    process = _compiled(model, len(rows), (start, end)) if start != end and len(rows) else None
    if process is not None:
        _by_kernel(model, process, run, rows, how, threads)
    else:
        for group in run.groups(how.sharing):
            run.together(group, lambda at, t: _field(model, at, t, log_density), how)
    run.x += after
    return run.flow(restore)


def _field(model: ExactModel, x: Array, t: float, log_density: bool) -> tuple[Array, Array | None]:
    """The velocity at x (n, d) in the process's own time, and the rate of log p along it."""
    return model.velocity(x, t), -model.velocity_divergence(x, t) if log_density else None


def _compiled(model: ExactModel, count: int, ends: tuple[float, float]) -> AffineProcess | None:
    """The process where Numba does this: one schedule for all axes, worth it, a law kernels take at the ends."""
    law, process = model.distribution, model.process
    if not isinstance(process, AffineProcess) or process.per_axis:
        return None
    if not backends.numba_pays(count, law.count, law.dim, USUAL):
        return None
    from refdiff import compiled  # late: Numba takes a third of a second to import

    places = [_place(process, t) for t in ends]
    applies = all(compiled.applies(law, np.array([[c], [left * (1 + c)]])) for c, left, _ in places)
    return process if applies else None


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
    process: AffineProcess,
    run: Run,
    rows: Array,
    how: Steps,
    threads: int | None,
) -> None:
    """All points, in blocks of LANES, through the kernel."""
    from refdiff import compiled
    from refdiff.kernels.numba import adaptive
    from refdiff.kernels.numba.compiling import blocks
    from refdiff.kernels.numba.tiles import LANES

    mixture, (first, last) = compiled.mixture(model.distribution), (_place(process, t) for t in (run.start, run.end))
    way = _way(mixture, first, last, how)
    count = -(-len(rows) // LANES)
    counts, reached = np.zeros((count, 4), dtype=np.int64), np.zeros(count)
    arguments = (rows / first[2], _pair(how.method), way, mixture, run.x, run.change, counts, reached)
    blocks(adaptive.flow, count, *arguments, threads=threads)
    run.x *= last[2]
    if run.change is not None:
        run.change -= model.dim * np.log(last[2] / first[2])
    for block, group in enumerate(run.groups(LANES)):
        ended, accepted, rejected, evaluations = counts[block].tolist()
        run.counts[group] = evaluations, accepted, rejected
        if ended == adaptive.TOO_SHORT and accepted + rejected == 0:
            raise ValueError(TOO_FAR.format(what="x"))
        if ended != adaptive.DONE:
            part = (reached[block] - way.start) / (way.end - way.start)
            run.fail(group, f"{why(ended == adaptive.TOO_SHORT, how.max_steps)} after {part:.3g} of the way")


def _way(mixture: Any, first: _Place, last: _Place, how: Steps) -> Any:
    """Where the kernel's flow goes and how."""
    from refdiff.kernels.numba.adaptive import Way

    # the variance under which no component varies, and the extent beyond which none reaches
    delta = min(float(mixture.variances.min()) / 2, 1.0)
    floor = 1 / np.sqrt(1 + (mixture.means**2).sum(axis=1).max() + mixture.variances.max())
    start, end = (_clock(place, delta, floor) for place in (first, last))
    return Way(start, end, delta, floor, how.rtol, how.atol / last[2], how.max_steps)


def _place(process: AffineProcess, t: float) -> _Place:
    """c = alpha / r, 1 - c and r = sqrt(alpha^2 + sigma^2) at a time."""
    c = process.coefficients(t)
    alpha, sigma = float(c.alpha), float(c.sigma)
    r = float(np.hypot(alpha, sigma))
    return alpha / r, (sigma / r) * (sigma / (r + alpha)), r


def _clock(place: _Place, delta: float, floor: float) -> float:
    """u = log((1 - c + delta) / (c + floor)^2) / 2."""
    c, left, _ = place
    return float(np.log(left + delta) / 2 - np.log(c + floor))
