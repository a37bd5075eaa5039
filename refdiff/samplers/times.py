r"""Time grids: n + 1 times from noise to data, equally spaced in some function of time.

uniform         t                          uniform_log_snr      lambda = log(alpha / sigma)
karras          rho^(1/7), rho = sigma / alpha
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array, real_scalar, whole_number
from refdiff.processes import AffineProcess
from refdiff.schedules import Schedule


def uniform(
    process: AffineProcess | Schedule, steps: int, *, start: float | None = None, end: float | None = None
) -> Array:
    """Equal steps in t, from T to 0 unless other ends are given."""
    first, last = _ends(process, start, end)
    return np.linspace(first, last, whole_number("steps", steps, low=1) + 1)


def uniform_log_snr(
    process: AffineProcess | Schedule, steps: int, *, start: float | None = None, end: float | None = None
) -> Array:
    """Equal steps in lambda = log(alpha / sigma); both ends must have a finite lambda."""
    first, last = _ends(process, start, end)
    schedule = _schedule(process)
    a, b = float(schedule.log_snr(first)), float(schedule.log_snr(last))
    if not np.isfinite([a, b]).all():
        raise ValueError(f"start and end must have finite log_snr, got {a} at t = {first} and {b} at t = {last}")
    inner = schedule.time_of_log_snr(np.linspace(a, b, whole_number("steps", steps, low=1) + 1)[1:-1])
    return np.concatenate([[first], inner, [last]])


def _schedule(process: AffineProcess | Schedule) -> Schedule:
    if isinstance(process, Schedule):
        return process
    if process.per_axis:
        raise ValueError("process must be the same on all axes for a grid that is not in t")
    return process.schedules[0]


def _ends(process: AffineProcess | Schedule, start: float | None, end: float | None) -> tuple[float, float]:
    first = process.T if start is None else real_scalar("start", start, low=0, high=process.T)
    last = 0.0 if end is None else real_scalar("end", end, low=0, high=process.T)
    if first <= last:
        raise ValueError(f"start must be noisier (later) than end, got start = {first} and end = {last}")
    return first, last
