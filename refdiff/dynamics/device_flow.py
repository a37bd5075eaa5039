r"""Flow maps of points that are CuPy's, on their GPU: those of `flow`, with the kernels of kernels.cuda.

Processes with one alpha and one sigma run on the circle, as with Numba; up to 16 axes in the same groups and steps.
Processes with one for each axis run in their own time. Points of float32 are computed in float32,
with tolerances that float32 can tell. Sources: PODC8-01, PODC9-01, PODD-57.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff import compiled, cuda
from refdiff.dynamics import circle
from refdiff.dynamics.stepping import Flow, Run, Steps
from refdiff.kernels.cuda import adaptive
from refdiff.kernels.cuda.device import cupy
from refdiff.kernels.cuda.stepping import Course
from refdiff.model import ExactModel


def flow(model: ExactModel, x: Any, start: float, end: float, how: Steps, log_density: bool) -> Flow:
    """As `dynamics.flow`, for CuPy's x: points and changes are CuPy's, counts NumPy's.

    Args:
        model, x, start, end, log_density: as of `dynamics.flow`, of which `start` and `end` are checked.
        how: the steps.

    Raises:
        ValueError: a process of matrices, a law that kernels do not take, or points too far from all components.
        MemoryError: slopes do not fit on the device.
        Unfinished: some group of points needs more steps, or none is short enough.
    """
    rows, restore = cuda.points("x", x, model.dim)
    with rows.device:
        process = model.affine
        before, after = (process.offset(t).value for t in (start, end))
        if np.any(before):
            rows = rows - cuda.constant(before, rows)
        change = cupy().zeros(len(rows), rows.dtype) if log_density else None
        run = Run(rows, change, start, end)
        if start != end and len(rows):
            (_in_own_time if process.per_axis else _on_the_circle)(model.centred, run, rows, how)
        if np.any(after):
            run.x += cuda.constant(after, rows)
        return run.flow(restore)


def _on_the_circle(model: ExactModel, run: Run, rows: Any, how: Steps) -> None:
    law, process = model.distribution, model.affine
    first, last = (circle.place(process, t) for t in (run.start, run.end))
    for place in (first, last):
        cuda.applies(law, circle.when(place), rows.dtype)
    way = circle.way(compiled.mixture(law), first, last, how)
    found = adaptive.flow(
        rows / first[2], circle.pair(how.method), way, cuda.mixture(law, rows.dtype), run.change is not None
    )
    run.x = found.y * last[2]
    if run.change is not None:
        run.change = found.change - model.dim * float(np.log(last[2] / first[2]))
    circle.record(run, found.counts, (found.reached - way.start) / (way.end - way.start), found.size, how)


def _in_own_time(model: ExactModel, run: Run, rows: Any, how: Steps) -> None:
    law, process = model.distribution, model.affine

    def at(t: float) -> Any:
        low, high = sorted((run.start, run.end))  # which a rounding error may not leave
        return compiled.at(process.coefficients(min(max(t, low), high)), "velocity")

    for t in (run.start, run.end):
        cuda.applies(law, at(t), rows.dtype)
    course = Course(run.start, run.end, at, how.rtol, how.atol, how.max_steps)
    found = adaptive.stepped(
        rows, circle.pair(how.method), course, cuda.mixture(law, rows.dtype), run.change is not None
    )
    run.x, run.change = found.y, found.change
    circle.record(run, found.counts, (found.reached - run.start) / (run.end - run.start), found.size, how)
