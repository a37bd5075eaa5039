r"""Flow maps of exact models: where the probability flow takes points, and what becomes of their density.

    dx/dt = v(x, t),      d log p_t(x_t) / dt = -div v(x_t, t),      x given at `start`, wanted at `end`

Both directions, and both ends of time wherever p_t has a density. Two routes that share no equation:

    NumPy    each process in its own time, with `ExactModel.velocity` and `velocity_divergence`, by SciPy's steps
    Numba    x = r y, r = sqrt(alpha^2 + sigma^2): y runs on the circle (alpha / r, sigma / r), which is the same for
             all processes, in a clock smooth up to both ends; log p_t(x) = log p(y) - d log r; see kernels' `adaptive`

The pairs are Dormand and Prince's 8(5,3) and 5(4), with SciPy's coefficients. Sources: PODC8-01, PODC9-01, PODD-57.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff import backends
from refdiff.arguments import Array, points, real_scalar
from refdiff.backends import on_device
from refdiff.dynamics import circle
from refdiff.dynamics.stepping import Flow, Run, Steps, times_with_density
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess

# rtol and atol unless given; and on a GPU for points of float32, where LEAST_SINGLE is SciPy's least rtol of that type
TOLERANCES, SINGLE_TOLERANCES = (1e-10, 1e-12), (1e-4, 1e-6)
LEAST_SINGLE = float(100 * np.finfo(np.float32).eps)
USUAL = 300  # evaluations of a run, for the choice between NumPy and Numba


def flow(
    model: ExactModel,
    x: ArrayLike,
    start: float,
    end: float,
    *,
    method: str = "dop853",
    rtol: float | None = None,
    atol: float | None = None,
    log_density: bool = False,
    max_steps: int = 10_000,
    threads: int | None = None,
) -> Flow:
    """The flow map of dx/dt = velocity(x, t) from time `start` to time `end`, in either direction.

    Args:
        model: an ExactModel.
        x: points at the time `start`, shape (..., d). Those of CuPy are answered on their GPU, by points and changes of
            CuPy, in their precision: see `device_flow`.
        method: dop853, or dopri5 for loose tolerances.
        rtol, atol: of each step, for every point: the RMS over the axes of error / (atol + rtol |x|) is at most 1, and
            so is the error of log p over rtol (1 + |change|). The kernel takes atol in units of x at the end. 1e-10 and
            1e-12 unless given; 1e-4 and 1e-6 for float32 on a GPU, where rtol is at least 1.2e-5.
        log_density: whether the change of log p is wanted.
        max_steps: attempts after which a group of points is given up.
        threads: of the Numba kernel.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: an unknown method, a time outside [0, T], a tolerance too small, or no density at one of the times
            (a point set where sigma = 0).
        Unfinished: some group of points needs more steps, or none is short enough.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.dynamics import flow
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower())
        >>> found = flow(model, [[1.0]], 0.0, 3.0, log_density=True)  # x sqrt(1 + t^2)
        >>> print(found.x.round(6), found.log_density_change.round(6))  # sqrt(10), -log sqrt(10)
        [[3.162278]] [-1.151293]
    """
    start, end = times_with_density(model, start=start, end=end)
    how = Steps(method, *tolerances(x, rtol, atol), max_steps)
    if on_device(x):
        from refdiff.dynamics import device_flow  # late: Numba takes a third of a second to import

        return device_flow.flow(model, x, start, end, how, log_density)
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


def tolerances(x: ArrayLike, rtol: float | None, atol: float | None) -> tuple[float, float]:
    """rtol and atol, what is usual for points x in place of None.

    Args:
        x: points, shape (..., d).
        rtol, atol: as of `flow`.

    Raises:
        ValueError: rtol is too small for what computes x.
    """
    single = on_device(x) and getattr(x, "dtype", None) == np.float32
    usual = SINGLE_TOLERANCES if single else TOLERANCES
    rtol = usual[0] if rtol is None else real_scalar("rtol", rtol)
    if single and rtol < LEAST_SINGLE:
        raise ValueError(f"rtol must be at least {LEAST_SINGLE:.3g} for points of float32 on a GPU, which computes in "
                         f"float32, got {rtol}: pass points of float64, or a larger rtol")  # fmt: skip
    return rtol, usual[1] if atol is None else atol


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

    applies = all(compiled.applies(law, circle.when(circle.place(process, t))) for t in ends)
    return process if applies else None


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

    mixture, first, last = (
        compiled.mixture(model.distribution),
        *(circle.place(process, t) for t in (run.start, run.end)),
    )
    way = circle.way(mixture, first, last, how)
    count = -(-len(rows) // LANES)
    counts, reached = np.zeros((count, 4), dtype=np.int64), np.zeros(count)
    arguments = (rows / first[2], circle.pair(how.method), way, mixture, run.x, run.change, counts, reached)
    blocks(adaptive.flow, count, *arguments, threads=threads)
    run.x *= last[2]
    if run.change is not None:
        run.change -= model.dim * np.log(last[2] / first[2])
    circle.record(run, counts, (reached - way.start) / (way.end - way.start), LANES, how)
