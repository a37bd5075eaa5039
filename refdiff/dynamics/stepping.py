r"""One way through SciPy's adaptive steps, which all flows along time take: to the end, or until it cannot be reached.

The pairs are those of Dormand and Prince, 8(5,3) and 5(4), as SciPy has them. Source: Hairer, Norsett and Wanner 1993,
"Solving Ordinary Differential Equations I", sections II.4, II.5 and II.10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import DOP853, RK45

from refdiff.arguments import Array

METHODS = MappingProxyType({"dop853": DOP853, "dopri5": RK45})
# SciPy's least rtol: below it, rounding errors of the slopes are errors of steps
LEAST_RTOL = 100 * np.finfo(float).eps


@dataclass(frozen=True, eq=False)
class Reached:
    """Where steps came to.

    Attributes:
        state: there, shape (k,).
        t: the time.
        problem: why it is not the end, or "".
        evaluations, steps, rejected: of the slope, accepted steps and rejected ones.
    """

    state: Array
    t: float
    problem: str
    evaluations: int
    steps: int
    rejected: int


def steps(
    slope: Callable[[float, Array], Array],
    start: float,
    state: Array,
    end: float,
    *,
    method: str,
    rtol: float,
    atol: ArrayLike,
    attempts: int,
) -> Reached:
    """The state (k,) carried by its slope(t, state) from time `start` to `end`, in either direction.

    Args:
        method: a key of METHODS.
        rtol, atol: of each step: the RMS over all numbers of error / (atol + rtol |state|) is at most 1; atol is a
            number or (k,).
        attempts: steps, accepted or not, after which it is given up.
    """
    solver = METHODS[method](slope, start, state, end, rtol=rtol, atol=atol)
    attempted = accepted = 0
    while solver.status == "running" and attempted < attempts:
        solver.step()
        accepted += solver.status != "failed"
        attempted = (solver.nfev - 2) // solver.n_stages
    problem = "" if solver.status == "finished" else why(solver.status == "failed", attempts)
    return Reached(solver.y, float(solver.t), problem, solver.nfev, accepted, attempted - accepted)


def why(too_short: bool, attempts: int) -> str:
    """What is said of a flow that does not end: its steps became too short, or all `attempts` are used up."""
    return "no step is short enough" if too_short else f"max_steps = {attempts} must be larger"
