r"""The circle on which all probability flows with one alpha and one sigma are the same, and the clock there.

    x = r y,     r = sqrt(alpha^2 + sigma^2),     c = alpha / r,     u = log((1 - c + delta) / (c + floor)^2) / 2

These are what kernels ask of a flow: where on the circle it starts and ends, in which clock, and with which steps; see
kernels.numba.adaptive for the formulas, and for what delta and floor are. Sources: PODC8-01, PODC9-01.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from refdiff.distributions.covariances import TOO_FAR
from refdiff.dynamics.stepping import METHODS, Run, Steps, why
from refdiff.processes import AffineProcess

Place = tuple[float, float, float]  # of the circle, by its c, 1 - c and r


@cache
def pair(method: str) -> Any:
    """SciPy's coefficients of a `method` as kernels take them."""
    from refdiff.kernels.numba.adaptive import Pair

    solver = METHODS[method]
    stages = solver.n_stages
    rows = np.zeros((stages + 1, stages))
    rows[:stages, : solver.A.shape[1]] = solver.A[:stages]
    rows[stages] = solver.B
    errors = np.array([solver.E5, solver.E3] if method == "dop853" else [solver.E])
    return Pair(np.append(solver.C[:stages], 1.0), rows, errors, solver.error_estimator_order + 1.0)


def place(process: AffineProcess, t: float) -> Place:
    """c = alpha / r, 1 - c and r = sqrt(alpha^2 + sigma^2) of a process at the time t."""
    c = process.coefficients(t)
    alpha, sigma = float(c.alpha), float(c.sigma)
    r = float(np.hypot(alpha, sigma))
    return alpha / r, (sigma / r) * (sigma / (r + alpha)), r


def when(place: Place) -> Any:
    """c and s^2 of a place, as `compiled.applies` asks for them."""
    c, left, _ = place
    return np.array([[c], [left * (1 + c)]])


def way(mixture: Any, first: Place, last: Place, how: Steps) -> Any:
    """Where a kernel's flow of a mixture, NumPy's, goes from the place `first` to `last`, and how."""
    from refdiff.kernels.numba.adaptive import Way

    # the variance under which no component varies, and the extent beyond which none reaches
    delta = min(float(mixture.variances.min()) / 2, 1.0)
    floor = 1 / np.sqrt(1 + (mixture.means**2).sum(axis=1).max() + mixture.variances.max())
    start, end = (_clock(place, delta, floor) for place in (first, last))
    return Way(start, end, delta, floor, how.rtol, how.atol / last[2], how.max_steps)


def _clock(place: Place, delta: float, floor: float) -> float:
    c, left, _ = place
    return float(np.log(left + delta) / 2 - np.log(c + floor))


def record(run: Run, counts: Any, parts: Any, size: int, how: Steps) -> None:
    """Note what a kernel says of groups of `size` points, and give up those that did not end.

    Args:
        run: the results.
        counts: how a group ended, steps accepted, rejected and evaluations, shape (groups, 4).
        parts: of the way that groups went, shape (groups,).
        size: of a group.
        how: the steps.

    Raises:
        ValueError: at some point there is no velocity to begin with.
    """
    from refdiff.kernels.numba import adaptive

    for block, group in enumerate(run.groups(size)):
        ended, accepted, rejected, evaluations = counts[block].tolist()
        run.counts[group] = evaluations, accepted, rejected
        if ended == adaptive.TOO_SHORT and accepted + rejected == 0:
            raise ValueError(TOO_FAR.format(what="x").replace("float64", run.x.dtype.name))
        if ended != adaptive.DONE:
            run.fail(group, f"{why(ended == adaptive.TOO_SHORT, how.max_steps)} after {parts[block]:.3g} of the way")
