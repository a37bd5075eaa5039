r"""Writing a sampler once, as its algorithm: states are symbols, and the table builds itself.

    rec = Recorder("DDIM", process, times, "denoiser")
    x = rec.start
    for s, t in rec.steps:                               # from the noisier s to the cleaner t
        d = rec.evaluate(x, s)                           # one call of the model, at x and the time of s
        x = t.alpha * d + t.sigma * (x - s.alpha * d) / s.sigma
    return rec.finish(x)

A `State` is a linear combination of the stages recorded so far, of the model's outputs there and of independent unit
normals. Evaluating a state makes it a stage: later combinations refer to it by its index, which is what keeps the
window of a table short. So a state is evaluated before it is used: in `a * x + b * rec.evaluate(x, s)` Python would
multiply x while it is still the combination that it was made of. Source: tableau.py, whose tables are built here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, one_of, real_array
from refdiff.predictions import PREDICTIONS
from refdiff.processes import AffineProcess
from refdiff.samplers.numbers import Number
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients, Schedule

Symbol = tuple[str, int]  # ("state" | "output" | "normal", index)


@dataclass(frozen=True)
class Point:
    """A time with the coefficients of the process there, each a scalar or one value for each axis."""

    t: float
    coefficients: Coefficients

    @property
    def alpha(self) -> Number:
        """The signal factor."""
        return self.coefficients.alpha

    @property
    def sigma(self) -> Number:
        """The noise standard deviation."""
        return self.coefficients.sigma

    @property
    def log_snr(self) -> Number:
        """lambda = log(alpha / sigma), infinite at the ends."""
        return self.coefficients.log_snr

    @cached_property
    def rho(self) -> Number:
        """sigma / alpha, the noise level of x / alpha: infinite at alpha = 0."""
        with np.errstate(divide="ignore"):
            return self.sigma / self.alpha

    @cached_property
    def clean(self) -> bool:
        """Whether sigma = 0 (on any axis), where lambda is infinite."""
        return bool(np.any(self.sigma == 0))

    @cached_property
    def pure_noise(self) -> bool:
        """Whether alpha = 0 (on any axis), where lambda and rho are infinite."""
        return bool(np.any(self.alpha == 0))


@dataclass(frozen=True)
class State:
    """A linear combination of recorded stages, outputs and normals: sums, differences, multiples by a number.

    Args:
        terms: the weight of every symbol in it.
    """

    terms: dict[Symbol, Any]
    __array_ufunc__ = None  # so that numpy number * State comes here

    def __add__(self, other: State) -> State:
        total = dict(self.terms)
        for symbol, weight in other.terms.items():
            total[symbol] = _add(total[symbol], weight) if symbol in total else weight
        return State(total)

    def __neg__(self) -> State:
        return State({symbol: -weight for symbol, weight in self.terms.items()})

    def __sub__(self, other: State) -> State:
        return self + (-other)

    def __mul__(self, factor: Number) -> State:
        return State({symbol: _product(factor, weight) for symbol, weight in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: Number) -> State:
        return State({symbol: _product(1 / divisor, weight) for symbol, weight in self.terms.items()})


def _product(factor: Number, weight: Any) -> Any:
    return operators.product(np.asarray(factor), weight) if _is_matrix(weight) else factor * weight


def _add(a: Any, b: Any) -> Any:
    return operators.add(np.asarray(a), np.asarray(b)) if _is_matrix(a) or _is_matrix(b) else a + b


def _is_matrix(weight: Any) -> bool:
    return isinstance(weight, np.ndarray) and weight.ndim == 2


@dataclass
class _Stage:
    point: Point
    row: dict[Symbol, Any]
    normals: int
    evaluated: bool = False


class Recorder:
    """Records an algorithm on symbolic states as a Tableau.

    Args:
        name: what the table is called.
        process: an AffineProcess or a Schedule.
        times: the grid (n + 1,), strictly decreasing within [0, T], at least two times.
        prediction: what the model answers: denoiser, noise, score, velocity or v_prediction.
        towards_noise: the grid increases instead, for an inversion, which runs from data to noise.

    Attributes:
        points: the grid as Points.   steps: the pairs (s, t) of neighbours.   start: x at the first time.

    Raises:
        TypeError: what is no process.
        ValueError: an unknown prediction, a grid that is none, or alpha = 0 at more than one of its times.
    """

    def __init__(
        self,
        name: str,
        process: AffineProcess | Schedule,
        times: ArrayLike,
        prediction: str = "denoiser",
        *,
        towards_noise: bool = False,
    ) -> None:
        if isinstance(process, Schedule):
            process = AffineProcess(process)
        if not isinstance(process, AffineProcess) and not hasattr(process, "coefficients"):
            raise TypeError(f"process must be an AffineProcess or a Schedule, got {process!r}")
        one_of("prediction", prediction, PREDICTIONS)
        self.name, self.process, self.prediction = name, process, prediction
        grid = (increasing if towards_noise else decreasing)(times, process.T)
        self.points = self._points(grid)
        if any(point.pure_noise for point in (self.points[:-1] if towards_noise else self.points[1:])):
            raise ValueError("times must have alpha > 0 but at the noisy end of the grid, got two with alpha = 0")
        self.steps = list(pairwise(self.points))
        self._stages: list[_Stage] = [_Stage(self.points[0], {}, 0)]
        self._normals = 0
        self.start = State({("state", 0): 1.0})

    # ------------------------------------------------------------------ points of the process

    def _points(self, times: Array) -> list[Point]:
        """The Points at these times, of every schedule at once."""
        if not isinstance(self.process, AffineProcess):
            return [self.at(float(t)) for t in times]
        each = [schedule.coefficients(times) for schedule in self.process.schedules]
        parts = [np.stack(values, axis=1) if self.process.per_axis else values[0] for values in zip(*each, strict=True)]
        return [Point(float(t), Coefficients(*values)) for t, *values in zip(times, *parts, strict=True)]

    def at(self, t: float) -> Point:
        """The Point at time t."""
        return Point(t, self.process.coefficients(t))

    def at_log_snr(self, log_snr: Number) -> Point:
        """The Point where log_snr, log(alpha / sigma), has this value, for a process that is the same on all axes."""
        self.scalar("a point of given log_snr")
        return self.at(self.process.schedules[0].time_of_log_snr(log_snr))

    def between(self, s: Point, t: Point, part: float) -> Point:
        """The Point a given part of the way from s to t in log_snr, both of finite log_snr."""
        return self.at_log_snr(s.log_snr + part * (t.log_snr - s.log_snr))

    def scalar(self, use: str) -> None:
        """Nothing where the process is the same on all axes.

        Raises:
            ValueError: one schedule for each axis, with the `use` that needs one.
        """
        if self.process.per_axis:
            raise ValueError(f"process must be the same on all axes for {use}, got one schedule for each axis")

    def finite_log_snr(self, reason: str, *, last: bool = True) -> None:
        """Nothing where alpha > 0 at the first time, and (with `last`) sigma > 0 at the last one.

        Raises:
            ValueError: an end where lambda is infinite, with the reason why it must not be.
        """
        if self.points[0].pure_noise:
            raise ValueError(f"times must start where alpha > 0: {reason}, got {self.points[0].t}")
        if last and self.points[-1].clean:
            raise ValueError(f"times must end where sigma > 0: {reason}, got {self.points[-1].t}")

    # ------------------------------------------------------------------ the algorithm

    def evaluate(self, x: State, point: Point) -> State:
        """The model's output at x and the time of the point: one function evaluation, and x becomes a stage."""
        index = self._index(x, point)
        self._stages[index].evaluated = True
        return State({("output", index): 1.0})

    def keep(self, x: State, point: Point) -> State:
        """x as a stage at a point without an evaluation, for what later steps refer to."""
        self._index(x, point)
        return x

    def normal(self) -> State:
        """A fresh unit normal, shape of x, to be used in one or more stages."""
        self._normals += 1
        return State({("normal", self._normals - 1): 1.0})

    def noise(self, weight: Number) -> State:
        """weight times a fresh unit normal; nothing is drawn where the weight is zero."""
        return self.normal() * weight if np.any(weight) else State({})

    def finish(self, x: State, point: Point | None = None) -> Tableau:
        """The table whose output is x, at the last time of the grid unless another point is given."""
        self._append(x, self.points[-1] if point is None else point)
        return _tableau(self.name, self.prediction, self._stages, self._normals)

    def _index(self, x: State, point: Point) -> int:
        """The stage that x is at this time, made on the way if there is none."""
        (symbol, weight), *more = x.terms.items() or [(("", 0), 0.0)]
        if symbol[0] == "state" and not more and np.all(weight == 1) and self._stages[symbol[1]].point.t == point.t:
            return symbol[1]
        return self._append(x, point)

    def _append(self, x: State, point: Point) -> int:
        self._stages.append(_Stage(point, dict(x.terms), self._normals))
        index = len(self._stages) - 1
        x.terms.clear()  # the same value under its new name
        x.terms["state", index] = 1.0
        return index


def decreasing(times: ArrayLike, final: float) -> Array:
    """A grid of times (n + 1,), strictly decreasing within [0, T], T the `final` time.

    Raises:
        ValueError: fewer than two times, times that do not decrease, or times outside [0, T].
    """
    grid = real_array("times", times, ndim=(1,))
    if grid.size < 2:
        raise ValueError(f"times must hold at least two times, got {grid.size}")
    if (np.diff(grid) >= 0).any():
        where = int(np.argmax(np.diff(grid) >= 0))
        raise ValueError(f"times must decrease from noise to data, got {grid[where]} and then {grid[where + 1]}")
    if grid[0] > final or grid[-1] < 0:
        raise ValueError(f"times must lie in [0, {final}], got {grid[0]} to {grid[-1]}")
    return grid


def increasing(times: ArrayLike, final: float) -> Array:
    """A grid from data to noise (n + 1,), strictly increasing within [0, T], T the `final` time.

    Raises:
        ValueError: fewer than two times, times that do not increase, or times outside [0, T].
    """
    grid = real_array("times", times, ndim=(1,))
    if (np.diff(grid) <= 0).any():
        where = int(np.argmax(np.diff(grid) <= 0))
        raise ValueError(f"times must increase from data to noise, got {grid[where]} and then {grid[where + 1]}")
    return decreasing(grid[::-1], final)[::-1]


# ---------------------------------------------------------------------- symbols to arrays


@dataclass
class _Band:
    """Weights of a short window: entry (k, i) belongs to the symbol newest(k) - 1 - i."""

    entries: list[tuple[int, int, Any]] = field(default_factory=list)

    def array(self, rows: int, axes: Callable[[list[Any]], tuple[int, ...]], least: int) -> Array:
        values = [np.asarray(weight) for _, _, weight in self.entries]
        width = max([least, *(place + 1 for _, place, _ in self.entries)])
        shape = axes(values)
        extended = any(value.dtype == object for value in values)
        array = np.zeros((rows, width, *shape), dtype=object if extended else float)
        for (row, place, _), value in zip(self.entries, values, strict=True):
            array[row, place] = operators.dense(value, shape[0]) if len(shape) == 2 else value
        return array


def _tableau(name: str, prediction: str, stages: list[_Stage], normals: int) -> Tableau:
    bands = {"state": _Band(), "output": _Band(), "normal": _Band()}
    for k, stage in enumerate(stages):
        for (kind, index), weight in stage.row.items():
            newest = stage.normals if kind == "normal" else k
            if np.any(weight):
                bands[kind].entries.append((k, newest - 1 - index, weight))
    dims = [np.shape(weight) for band in bands.values() for _, _, weight in band.entries]
    axes = next((shape[:1] for shape in dims if shape), ())
    flat, size = (lambda _: axes), len(stages)
    matrices = max((np.ndim(weight) for _, _, weight in bands["normal"].entries), default=0) == 2
    each = [np.asarray([getattr(s.point.coefficients, part) for s in stages]) for part in Coefficients._fields]
    return Tableau(
        name=name,
        prediction=prediction,
        times=np.array([s.point.t for s in stages]),
        coefficients=Coefficients(*each),
        evaluated=np.array([s.evaluated for s in stages]),
        states=bands["state"].array(size, flat, 1),
        outputs=bands["output"].array(size, flat, 1),
        noise=bands["normal"].array(size, (lambda _: axes * 2) if matrices else flat, 0),
        normals=np.array([s.normals for s in stages]) if normals else np.zeros(size, dtype=int),
    )
