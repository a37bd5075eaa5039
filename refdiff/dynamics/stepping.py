r"""Points and their log densities along SciPy's adaptive steps: what flows along time have in common.

    dx/dt = v(x, t),      d c / dt = r(x, t) beside it: of log p, r = -div v

Points go in groups through one solver, with common steps; each is as exact as alone. The pairs are those of Dormand
and Prince, 8(5,3) and 5(4), as SciPy has them. Source: Hairer, Norsett and Wanner 1993, "Solving Ordinary Differential
Equations I", sections II.4, II.5 and II.10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import DOP853, RK45, OdeSolver

from refdiff.arguments import Array, one_of, real_scalar, whole_number
from refdiff.model import ExactModel

METHODS = MappingProxyType({"dop853": DOP853, "dopri5": RK45})
# Points that NumPy takes through one solver unless told otherwise. Each is as exact as alone: see `Run.together`.
GROUP = 16
# Points of a flow map, whose slopes cost little more for many: 256 go ten times as fast as sixteen at a time.
MOST = 256
# SciPy's least rtol: below it, rounding errors of the slopes are errors of steps
LEAST_RTOL = 100 * np.finfo(float).eps


def times_with_density(model: ExactModel, **times: float) -> list[float]:
    """The `times`, by name, of an exact `model`, at which its law has a density.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: a time lies outside [0, T], or the law is singular there.
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    found = []
    for name, value in times.items():
        found.append(t := real_scalar(name, value, low=0, high=model.process.T))
        if model.marginal(t).covariances.singular:
            law = f"{model.distribution} has none, as every point set where sigma = 0; a small time will do"
            raise ValueError(f"{name} must be a time at which the data have a density, got {t}: {law}")
    return found


@dataclass(frozen=True)
class Steps:
    """How steps are chosen.

    Args:
        method: dop853, or dopri5 for loose tolerances.
        rtol, atol: of each step, relative and absolute.
        max_steps: attempts after which it is given up.

    Raises:
        ValueError: an unknown method, or a tolerance too small.
    """

    method: str
    rtol: float
    atol: float
    max_steps: int

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        object.__setattr__(self, "rtol", real_scalar("rtol", self.rtol, low=LEAST_RTOL))
        object.__setattr__(self, "atol", real_scalar("atol", self.atol, low=0, open_low=True))
        object.__setattr__(self, "max_steps", whole_number("max_steps", self.max_steps, low=1))

    @property
    def sharing(self) -> int:
        """How many points may share a solver with tolerances above SciPy's least: NumPy waits for its calls."""
        return int(min(MOST, max(1.0, (self.rtol / LEAST_RTOL) ** 2)))


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


class Run:
    """Results for points x (n, d) on their way from `start` to `end`, filled group by group.

    Args:
        change: what is integrated beside the points, as it is at the start, shape (n,) or (n, m); None for nothing.
    """

    def __init__(self, x: Array, change: Array | None, start: float, end: float) -> None:
        self.x, self.change, self.start, self.end = x.copy(), change, start, end
        self.counts = np.zeros((len(x), 3), dtype=np.int64)  # evaluations, steps, rejected
        self.failures: list[tuple[slice, str]] = []

    def groups(self, size: int) -> Iterator[slice]:
        """Slices of at most `size` points; none where there is no way to go."""
        count = 0 if self.start == self.end else len(self.x)
        return (slice(first, min(first + size, count)) for first in range(0, count, size))

    def fail(self, group: slice, problem: str) -> None:
        """Give up a group of points because of a problem."""
        self.failures.append((group, problem))
        for part in (self.x, self.change):
            if part is not None:
                part[group] = np.nan

    def flow(self, restore: Callable[[Any], Any]) -> Flow:
        """The points and counts in the shape to which `restore` brings (n, ...).

        Raises:
            Unfinished: some group was given up.
        """
        counts = [self.counts[:, k].reshape(restore(self.x).shape[:-1])[()] for k in range(3)]
        result = Flow(restore(self.x), None if self.change is None else restore(self.change), *counts)
        if self.failures:
            group, problem = self.failures[0]
            others = f" ({len(self.failures)} groups in all)" if len(self.failures) > 1 else ""
            where = f"points {group.start}..{group.stop - 1}"
            way = f"the flow from t = {self.start} to {self.end}"
            raise Unfinished(f"{way} does not end for {where}{others}: {problem}", result)
        return result

    def together(
        self,
        group: slice,
        field: Callable[[Array, float], tuple[Array, Array | None]],
        how: Steps,
        after: Callable[[OdeSolver], None] | None = None,
    ) -> None:
        """Take a group of points to the end through one of SciPy's solvers.

        SciPy takes the RMS over all numbers. In tolerances smaller by sqrt(numbers / d) that of x bounds the RMS over
        the axes of each point, and in tolerances smaller by sqrt(numbers) the error of each number beside.

        Args:
            field: (x (n, d), t) -> the velocity (n, d) and the rate of what is integrated beside, if anything.
            how: the tolerances, for every point.
            after: called with the solver after every accepted step, for what lies inside it.
        """
        x, beside = self.x[group], None if self.change is None else self.change[group]
        low, high = min(self.start, self.end), max(self.start, self.end)

        def slope(t: float, state: Array) -> Array:
            if not np.isfinite(state).all():  # a step far too long, which is rejected
                return np.full_like(state, np.nan)
            t = min(max(t, low), high)  # a rounding error may not leave [start, end]
            try:
                v, rate = field(state[: x.size].reshape(x.shape), t)
            except ValueError:  # too far from all components, likewise
                return np.full_like(state, np.nan)
            return v.ravel() if rate is None else np.append(v, rate)

        field(x, self.start)  # no step is made from where there is no velocity
        # a copy: interpolants of the first step keep it, and x becomes what is at the end
        state = x.flatten() if beside is None else np.append(x, beside)
        of_point = np.arange(state.size) < x.size
        stricter = np.sqrt(np.where(of_point, state.size / x.shape[1], state.size))
        rtol = np.maximum(how.rtol / stricter, LEAST_RTOL)
        atol = np.where(of_point, how.atol / stricter, rtol)  # errors of logarithms are relative ones
        solver = METHODS[how.method](slope, self.start, state, self.end, rtol=rtol, atol=atol)
        attempted = accepted = 0
        while solver.status == "running" and attempted < how.max_steps:
            solver.step()
            if solver.status != "failed":
                accepted += 1
                if after is not None:
                    after(solver)
            attempted = (solver.nfev - 2) // solver.n_stages
        self.counts[group] = solver.nfev, accepted, attempted - accepted
        if solver.status != "finished":
            self.fail(group, f"{why(solver.status == 'failed', how.max_steps)} at t = {solver.t}")
            return
        self.x[group] = solver.y[: x.size].reshape(x.shape)
        if beside is not None:
            beside[:] = solver.y[x.size :].reshape(beside.shape)


def why(too_short: bool, max_steps: int) -> str:
    """What is said of a flow that does not end, because its steps are `too_short` or `max_steps` are used up."""
    return "no step is short enough" if too_short else f"max_steps = {max_steps} must be larger"
