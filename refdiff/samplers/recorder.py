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

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, one_of
from refdiff.predictions import PREDICTIONS
from refdiff.processes import AffineProcess, Motion, Process
from refdiff.processes.affine import motion
from refdiff.samplers.directions import decreasing, increasing
from refdiff.samplers.numbers import Number
from refdiff.samplers.tableau import Tableau, stacked
from refdiff.schedules import Coefficients, Schedule

Symbol = tuple[str, int]  # ("state" | "output" | "normal", index)
SCALARS = "process must have one alpha and sigma, or one for each axis, for this sampler: an AffineProcess or Schedule"


@dataclass(frozen=True)
class Point:
    """A time with the coefficients of the process there, each a scalar or one value for each axis.

    Of a process with matrices in their place `motion` holds them, and `coefficients` raises a ValueError: `kept` is
    what there is.
    """

    t: float
    kept: Coefficients | Motion

    @property
    def coefficients(self) -> Coefficients:
        """alpha, sigma and the rest.

        Raises:
            ValueError: the process has matrices in their place.
        """
        if isinstance(self.kept, Motion):
            raise ValueError(SCALARS)
        return self.kept

    @property
    def motion(self) -> Motion:
        """A, A', C, R and the rest, as operators."""
        return self.kept if isinstance(self.kept, Motion) else motion(self.kept)

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
        if isinstance(self.kept, Motion):
            return not self.kept.noise.any()
        return bool(np.any(self.sigma == 0))

    @cached_property
    def pure_noise(self) -> bool:
        """Whether alpha = 0 (on any axis), where lambda and rho are infinite, or a matrix A has no inverse."""
        if isinstance(self.kept, Motion):
            return operators.singular(self.kept.gain)
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
        return self * (np.linalg.inv(divisor) if _is_matrix(divisor) else 1 / divisor)


def _product(factor: Number, weight: Any) -> Any:
    if _is_matrix(weight) or _is_matrix(factor):
        return operators.product(np.asarray(factor), np.asarray(weight))
    return factor * weight


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
        process: an AffineProcess or a Schedule; any Process for a sampler that asks for no alpha and sigma.
        times: the grid (n + 1,), strictly decreasing within [0, T], at least two times.
        prediction: what the model answers: denoiser, noise, score, velocity or v_prediction.
        towards_noise: the grid increases instead, for an inversion, which runs from data to noise.

    Attributes:
        points: the grid as Points.   steps: the pairs (s, t) of neighbours.   start: x at the first time.

    Raises:
        TypeError: what is no process.
        ValueError: an unknown prediction, a grid that is none, or (of schedules) alpha = 0 at two of its times.
    """

    def __init__(
        self,
        name: str,
        process: Process | Schedule,
        times: ArrayLike,
        prediction: str = "denoiser",
        *,
        towards_noise: bool = False,
    ) -> None:
        if isinstance(process, Schedule):
            process = AffineProcess(process)
        if not isinstance(process, Process) and not hasattr(process, "coefficients"):
            raise TypeError(f"process must be a Process or a Schedule, got {process!r}")
        one_of("prediction", prediction, PREDICTIONS)
        self.name, self.prediction = name, prediction
        self.process: Process = process.centred if isinstance(process, Process) else process
        grid = (increasing if towards_noise else decreasing)(times, process.T)
        self.points = self._points(grid)
        # channels of matrices know the way between two times that are without a signal
        if not self.matrices and any(p.pure_noise for p in (self.points[:-1] if towards_noise else self.points[1:])):
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
        return Point(t, self.process.motion(t) if self.matrices else self.affine.coefficients(t))

    @property
    def matrices(self) -> bool:
        """Whether the process has matrices in place of alpha and sigma."""
        return isinstance(self.process, Process) and not isinstance(self.process, AffineProcess)

    def rates(self, p: Point) -> tuple[Number, Number]:
        """f and g^2 at the point p, or F and D."""
        if self.matrices:
            return self.process.drift(p.t), self.process.diffusion(p.t)
        return p.coefficients.f, p.coefficients.g2

    def at_log_snr(self, log_snr: Number) -> Point:
        """The Point where log_snr, log(alpha / sigma), has this value, for a process that is the same on all axes."""
        self.scalar("a point of given log_snr")
        return self.at(self.affine.schedules[0].time_of_log_snr(log_snr))

    @property
    def affine(self) -> AffineProcess:
        """The process, where it has schedules.

        Raises:
            ValueError: it has matrices in their place.
        """
        if self.matrices:
            raise ValueError(SCALARS)
        return cast(AffineProcess, self.process)  # or an ExtendedProcess, which has what is asked of it here

    def between(self, s: Point, t: Point, part: float) -> Point:
        """The Point a given part of the way from s to t in log_snr, both of finite log_snr."""
        return self.at_log_snr(s.log_snr + part * (t.log_snr - s.log_snr))

    def scalar(self, use: str) -> None:
        """Nothing where the process is the same on all axes.

        Raises:
            ValueError: one schedule for each axis, or matrices, with the `use` that needs one schedule.
        """
        if self.affine.per_axis:
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


# ---------------------------------------------------------------------- symbols to arrays


@dataclass
class _Band:
    """Weights of a short window: entry (k, i) belongs to the symbol newest(k) - 1 - i."""

    entries: list[tuple[int, int, Any]] = field(default_factory=list)

    def array(self, rows: int, shape: tuple[int, ...], least: int) -> Array:
        values = [np.asarray(weight) for _, _, weight in self.entries]
        width = max([least, *(place + 1 for _, place, _ in self.entries)])
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
    dims = {kind: [np.shape(weight) for _, _, weight in band.entries] for kind, band in bands.items()}
    axes = next((shape[:1] for shapes in dims.values() for shape in shapes if shape), ())
    square = {kind: any(len(shape) == 2 for shape in shapes) for kind, shapes in dims.items()}
    of_stages = axes * 2 if square["state"] or square["output"] else axes
    of_noise = axes * 2 if square["normal"] or len(of_stages) == 2 else axes
    size = len(stages)
    return Tableau(
        name=name,
        prediction=prediction,
        times=np.array([s.point.t for s in stages]),
        coefficients=stacked([s.point.kept for s in stages]),
        evaluated=np.array([s.evaluated for s in stages]),
        states=bands["state"].array(size, of_stages, 1),
        outputs=bands["output"].array(size, of_stages, 1),
        noise=bands["normal"].array(size, of_noise, 0),
        normals=np.array([s.normals for s in stages]) if normals else np.zeros(size, dtype=int),
    )
