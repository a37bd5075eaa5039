r"""Paths of a flow, of an exact model or of a field: points at many times, and at any time between them.

    dx/dt = v(x, t),     x at times[0] given, wanted at times[1], times[2], ... and between       (either direction)

Two ways to answer, both by the solvers of `flow`:

    flow         from each time to the next, by kernel or by SciPy, and between two times a flow from the earlier one:
                 every answer is as exact as a flow to there, and asks the model.
    interpolate  one run of SciPy's steps, read off their interpolants, which then answer without the model.

The interpolants of the 8(5,3) pair are of order 7, those of the 5(4) pair of order 4. Measured against `quantile_flow`
on mixtures on the line, at tolerances from 1e-6 to 1e-12, they err by 2 to 10 and by 8 to 25 times what the steps do.
With a hundred times on the way they take a half to a tenth of the evaluations; flows err less than their tolerance
by two orders and more there, as every time is the end of a step. Sources: PODD-50, PODD-56, PODC9-01; Hairer, Norsett
and Wanner 1993, "Solving Ordinary Differential Equations I", section II.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import OdeSolution, OdeSolver

from refdiff.arguments import Array, points, real_array
from refdiff.dynamics.flow import flow
from refdiff.dynamics.stepping import Run, Steps, times_with_density
from refdiff.dynamics.velocity_field import VelocityField, field_flow
from refdiff.model import ExactModel

# (k, t) -> x (n, d) and the change of log p (n,) or None at a time t between times k and k + 1
Between = Callable[[int, float], tuple[Array, Array | None]]
Rows = tuple[Array, Array | None]


@dataclass(frozen=True, eq=False)
class Path:
    """Points along the flow.

    Attributes:
        times: t_0, t_1, ..., shape (m,), in the order of the path.
        x: the points at these times, shape (m, ..., d).
        log_density_change: log p_t(x_t) - log p_{t_0}(x_{t_0}), shape (m, ...); None where it was not asked for.
        evaluations: of the velocity for each point, all times together, shape (...).
    """

    times: Array
    x: Array
    log_density_change: Any
    evaluations: NDArray[np.int64]
    _restore: Callable[[Any], Any] = field(repr=False)
    _between: Between = field(repr=False)
    _rows: Rows = field(repr=False)  # what x and log_density_change show, (m, n, d) and (m, n), in float64

    def __call__(self, t: ArrayLike) -> Any:
        """The points at one time t, shape (..., d), or at times (q,), shape (q, ..., d)."""
        return self.at(t)[0]

    def at(self, t: ArrayLike) -> tuple[Any, Any]:
        """Points and changes of log p (None where not asked for) at one time t, or at times (q,) in any order.

        Returns:
            Arrays of shapes (..., d) and (...), or (q, ..., d) and (q, ...).

        Raises:
            ValueError: a time that the path does not pass.
            Unfinished: a flow between two times does not end.
        """
        when = real_array("t", t, ndim=(0, 1))
        low, high = sorted((float(self.times[0]), float(self.times[-1])))
        if ((when < low) | (when > high)).any():
            raise ValueError(f"t must lie in [{low}, {high}], got {when[(when < low) | (when > high)].flat[0]}")
        found = [self._read(float(one)) for one in when.reshape(-1)]
        x, change = self._rows[0][:0], None if self._rows[1] is None else self._rows[1][:0]
        if found:
            x = np.stack([one for one, _ in found])
            change = None if change is None else np.stack([one for _, one in found if one is not None])
        points_there, changes = _shown(x, self._restore), None if change is None else _shown(change, self._restore)
        if when.ndim:
            return points_there, changes
        return points_there[0], None if changes is None else changes[0]

    def _read(self, t: float) -> tuple[Array, Array | None]:
        """At a time that the path passes: what is known, or from the last time before it."""
        x, change = self._rows
        known = np.flatnonzero(self.times == t)
        if known.size:
            return x[known[0]], None if change is None else change[known[0]]
        passed = self.times < t if self.times[0] < self.times[-1] else self.times > t
        return self._between(int(np.flatnonzero(passed)[-1]), t)


def path(
    model: ExactModel | VelocityField,
    x: ArrayLike,
    times: ArrayLike,
    *,
    method: str = "dop853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    log_density: bool = False,
    interpolate: bool = False,
    max_steps: int = 10_000,
    threads: int | None = None,
) -> Path:
    """The flow of points at many times: the probability flow of a model, or that of a field.

    Args:
        model: an ExactModel or a VelocityField.
        x: points at the first time, shape (..., d).
        times: increasing or decreasing, in [0, T] of a model, shape (m,), m >= 1; equal neighbours are allowed.
        method: dop853, or dopri5 for loose tolerances.
        rtol, atol: of each step, as of `flow`.
        log_density: whether the changes of log p are wanted.
        interpolate: read SciPy's steps off their interpolants, in place of a flow from each time to the next.
        max_steps: attempts after which a group of points is given up, for each flow.
        threads: of the Numba kernel, which fields have none of.

    Raises:
        TypeError: the model is neither.
        ValueError: times that turn back or leave [0, T], and what `flow` or `field_flow` refuses.
        Unfinished: some group of points does not reach one of the times.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.dynamics import path
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower())
        >>> print(path(model, [[1.0]], [0.0, 0.75, 2.4]).x.ravel().round(6))  # sqrt(1 + t^2)
        [1.   1.25 2.6 ]
    """
    if not isinstance(model, (ExactModel, VelocityField)):
        raise TypeError(f"model must be an ExactModel or a VelocityField, got {model!r}")
    how = Steps(method, rtol, atol, max_steps)
    rows, restore = points("x", x, model.dim)
    when = _monotone(times, (0.0, model.process.T) if isinstance(model, ExactModel) else (-np.inf, np.inf))
    if isinstance(model, ExactModel):
        for t in when.tolist():
            times_with_density(model, times=t)
    if interpolate:
        return _interpolated(model, rows, when, how, log_density, restore)

    def onward(at: Array, start: float, end: float) -> Any:
        options: Any = {"method": method, "rtol": rtol, "atol": atol, "max_steps": max_steps}
        if isinstance(model, VelocityField):
            return field_flow(model, at, start, end, log_density=log_density, **options)
        return flow(model, at, start, end, log_density=log_density, threads=threads, **options)

    xs, changes = [rows], [np.zeros(len(rows))]
    evaluations = np.zeros(len(rows), dtype=np.int64)
    for start, end in zip(when[:-1].tolist(), when[1:].tolist(), strict=True):
        found = onward(xs[-1], start, end)
        xs.append(found.x)
        changes.append(changes[-1] + found.log_density_change if log_density else changes[-1])
        evaluations += found.evaluations
    all_x, all_changes = np.stack(xs), np.stack(changes) if log_density else None

    def between(k: int, t: float) -> tuple[Array, Array | None]:
        found = onward(all_x[k], float(when[k]), t)
        return found.x, None if all_changes is None else all_changes[k] + found.log_density_change

    return _path(when, (all_x, all_changes), evaluations, restore, between)


def _interpolated(
    model: ExactModel | VelocityField,
    rows: Array,
    when: Array,
    how: Steps,
    log_density: bool,
    restore: Callable[[Any], Any],
) -> Path:
    """The path by one run of SciPy's steps for each group of points, and their interpolants."""
    first, last = when[[0, -1]].tolist()

    def offset(t: float) -> Array:
        return np.zeros(()) if isinstance(model, VelocityField) else model.process.offset(t).value

    centred = model if isinstance(model, VelocityField) else model.centred
    run = Run(rows - offset(first), np.zeros(len(rows)) if log_density else None, first, last)

    def rates(at: Array, t: float) -> tuple[Array, Array | None]:
        if isinstance(centred, VelocityField):
            return centred.at(at, t), -centred.volume_rate(at, t) if log_density else None
        return centred.velocity(at, t), -centred.velocity_divergence(at, t) if log_density else None

    start, solutions = run.x.copy(), {}
    for group in run.groups(how.sharing):
        ends: list[float] = [run.start]
        pieces: list[Any] = []

        def keep(solver: OdeSolver, ends: list[float] = ends, pieces: list[Any] = pieces) -> None:
            ends.append(float(solver.t))
            pieces.append(solver.dense_output())

        run.together(group, rates, how, keep)
        if pieces:
            solutions[group.start] = (group, OdeSolution(np.array(ends), pieces))
    run.flow(restore)  # which says what did not end

    def between(_: int, t: float) -> tuple[Array, Array | None]:
        x, change = start.copy(), np.zeros(len(rows))
        for group, solution in solutions.values():
            size = x[group].size
            state = solution(t)
            x[group] = state[:size].reshape(x[group].shape)
            change[group] = state[size:] if log_density else 0.0
        return x + offset(t), change if log_density else None

    found = [between(k, float(t)) for k, t in enumerate(when)]
    x = np.stack([one for one, _ in found])
    x[when == when[0]] = rows
    changes = np.stack([change for _, change in found if change is not None]) if log_density else None
    return _path(when, (x, changes), run.counts[:, 0], restore, between)


def _path(when: Array, rows: Rows, counts: NDArray[np.int64], restore: Callable[[Any], Any], between: Between) -> Path:
    """The path in the shape that `restore` brings rows to."""
    x, change = (None if part is None else _shown(part, restore) for part in rows)
    evaluations = counts.reshape(np.shape(restore(rows[0][0]))[:-1])[()]
    return Path(when, np.asarray(x), change, evaluations, restore, between, rows)


def _shown(parts: Array, restore: Callable[[Any], Any]) -> Array:
    """Rows (m, n, ...) as restored, (m, ..., ...); m may be 0."""
    if len(parts):
        return np.stack([restore(part) for part in parts])
    like = np.asarray(restore(np.zeros(parts.shape[1:])))
    return np.zeros((0, *like.shape), dtype=like.dtype)


def _monotone(times: ArrayLike, ends: tuple[float, float]) -> Array:
    """Times that go one way, between these ends."""
    when = real_array("times", times, ndim=(1,))
    if not when.size:
        raise ValueError("times must hold at least one time, got none")
    outside = (when < ends[0]) | (when > ends[1])
    if outside.any():
        raise ValueError(f"times must lie in [{ends[0]:g}, {ends[1]:g}], got {when[outside][0]}")
    steps = np.diff(when)
    if (steps < 0).any() and (steps > 0).any():
        raise ValueError(f"times must increase or decrease, got {when.tolist()}")
    return when
