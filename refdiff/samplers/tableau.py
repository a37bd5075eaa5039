r"""A sampler as a table of numbers.

With stages y_0 = x, y_1, ..., y_{s-1}, where the last one is the output, and o_j the model's output at (y_j, t_j)
where stage j is evaluated,

    y_k = sum_i states[k, i] y_{k-1-i} + sum_i outputs[k, i] o_{k-1-i} + sum_i noise[k, i] z_{n_k - 1 - i}

with independent unit normals z_0, z_1, ..., of which n_k = normals[k] have been drawn by stage k. Every sampler that
is linear in its states and outputs is such a table: all but adaptive, thresholded and data-dependent ones.

Written out from the start, y_k = start_k x + sum_{j<k} outputs_kj o_j + sum_m noise_km z_m (`unroll`): two tables with
the same unrolled form are the same sampler. PODC9-18 and PODC9-55 are such tables written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refdiff import operators
from refdiff.arguments import Array, one_of, real_array
from refdiff.predictions import PREDICTIONS
from refdiff.processes.affine import motion
from refdiff.processes.motion import Motion
from refdiff.schedules import Coefficients

COORDINATES = ("x", "x/alpha", "x/sigma")


class Unrolled(NamedTuple):
    """y_k = start_k x + sum_j outputs_kj o_j + sum_m noise_km z_m, for every stage k; the shapes are beside."""

    start: Array  # (s, *axes)
    outputs: Array  # (s, s, *axes), strictly lower triangular
    noise: Array  # (s, m, *axes) or (s, m, d, d)


@dataclass(frozen=True, eq=False)
class Tableau:
    """A sampler: stages that are linear in earlier stages, in the model's outputs there and in fresh noise.

    Weights are numbers, one for each axis (*axes = (d,)) or matrices (*axes = (d, d)); noise weights may be matrices
    where the others are not.

    Args:
        name: what the sampler is called.
        prediction: what the model answers: denoiser, noise, score, velocity or v_prediction.
        times: the time of every stage, shape (s,).
        coefficients: alpha, sigma and the rest at these times, each (s,) or (s, d); or the Motion of a process with
            matrices in their place, each (s, d, d).
        evaluated: at which stages the model is called, shape (s,); never at the last, which is the output.
        states: weights of earlier stages, shape (s, w, *axes); entry (k, i) belongs to stage k - 1 - i.
        outputs: weights of the model's outputs at earlier stages, shape (s, w', *axes), likewise.
        noise: weights of unit normals, shape (s, v, *axes) or (s, v, d, d); (k, i) belongs to normal n_k - 1 - i.
        normals: n_k, how many normals have been drawn by stage k, shape (s,).
        coordinate: what a stage holds: x, x/alpha or x/sigma.

    Raises:
        ValueError: arrays that do not fit each other, are not finite, or weights on what does not exist.
    """

    name: str
    prediction: str
    times: Array
    coefficients: Coefficients | Motion
    evaluated: NDArray[np.bool_]
    states: Array
    outputs: Array
    noise: Array
    normals: NDArray[np.int_]
    coordinate: str = "x"

    def __post_init__(self) -> None:
        one_of("prediction", self.prediction, PREDICTIONS)
        one_of("coordinate", self.coordinate, COORDINATES)
        for name in ("times", "states", "outputs", "noise"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        object.__setattr__(self, "evaluated", np.asarray(self.evaluated, dtype=bool))
        object.__setattr__(self, "normals", np.asarray(self.normals, dtype=int))
        size = self.stages
        if self.times.ndim != 1 or size < 2:
            raise ValueError(f"times must have shape (s,) with s >= 2, got {self.times.shape}")
        for name, least in (("evaluated", 1), ("normals", 1), ("states", 2), ("outputs", 2), ("noise", 2)):
            shape = getattr(self, name).shape
            if len(shape) < least or shape[0] != size:
                raise ValueError(f"{name} must have {size} rows like times, got shape {shape}")
        if any(np.shape(part)[:1] != (size,) for part in parts(self.coefficients).values()):
            raise ValueError(f"coefficients must each have {size} entries like times")
        if isinstance(self.coefficients, Motion) and self.coordinate != "x":
            raise ValueError(f"coordinate must be x for a process with matrices, got {self.coordinate!r}")
        if self.states.shape[2:] != self.outputs.shape[2:]:
            raise ValueError(f"states and outputs must have the same axes, got {self.states.shape[2:]} and "
                             f"{self.outputs.shape[2:]}")  # fmt: skip
        self._check_references()
        for name in ("times", "evaluated", "states", "outputs", "noise", "normals"):
            getattr(self, name).setflags(write=False)

    def _check_references(self) -> None:
        """No weight on what comes later, or is never evaluated or drawn."""
        if self.evaluated[-1]:
            raise ValueError("evaluated must be False at the last stage, which is the output")
        if (np.diff(self.normals) < 0).any() or self.normals[0] != 0:
            raise ValueError("normals must start at 0 and never decrease: they count the normals drawn so far")
        for name, newest in (("states", np.arange(self.stages)), ("outputs", np.arange(self.stages))):
            k, i = _places(getattr(self, name))
            source = newest[k] - 1 - i
            if (source < 0).any():
                raise ValueError(f"{name} must refer to earlier stages only, got a weight in row {k[source < 0][0]}")
            if name == "outputs" and not self.evaluated[source].all():
                missing = source[~self.evaluated[source]][0]
                raise ValueError(f"outputs must refer to evaluated stages, got a weight on stage {missing}")
        k, i = _places(self.noise)
        if (self.normals[k] - 1 - i < 0).any() or (k == 0).any():
            raise ValueError("noise must refer to normals that have been drawn, after stage 0")

    # ------------------------------------------------------------------ sizes

    @property
    def stages(self) -> int:
        """s, the number of stages: the start, what lies between, and the output."""
        return len(self.times)

    @property
    def nfe(self) -> int:
        """The number of function evaluations: how often the model is called."""
        return int(self.evaluated.sum())

    @property
    def draws(self) -> int:
        """How many unit normals (each of the shape of x) are drawn."""
        return int(self.normals[-1])

    @property
    def stochastic(self) -> bool:
        """Whether any noise is added."""
        return bool(np.any(self.noise))

    @property
    def window(self) -> tuple[int, int, int]:
        """How far back a stage reaches into stages, outputs and normals."""
        return self.states.shape[1], self.outputs.shape[1], self.noise.shape[1]

    @property
    def axes(self) -> tuple[int, ...]:
        """() where weights are numbers, (d,) where each axis has its own, (d, d) where they are matrices."""
        return self.states.shape[2:]

    @property
    def scale(self) -> Array:
        """What a stage is multiplied by to be an x of the process, shape (s,) or (s, d)."""
        c = self.coefficients
        if isinstance(c, Motion):
            return np.ones(self.stages)
        return {"x": np.ones_like(c.alpha), "x/alpha": c.alpha, "x/sigma": c.sigma}[self.coordinate]

    @property
    def scalars(self) -> Coefficients:
        """alpha, sigma and the rest at every stage, each (s,) or (s, d).

        Raises:
            ValueError: the process has matrices in their place.
        """
        if isinstance(self.coefficients, Motion):
            raise ValueError("tableau must be of a process with one alpha and sigma, or one for each axis, got one "
                             "with matrices")  # fmt: skip
        return self.coefficients

    def at(self, k: int) -> Coefficients | Motion:
        """The coefficients at the time of stage k."""
        return sliced(self.coefficients, k)

    def motion(self, k: int) -> Motion:
        """A, C and the rest at the time of stage k, as operators; without an offset."""
        found = self.at(k)
        return found if isinstance(found, Motion) else motion(found)

    # ------------------------------------------------------------------ the table written out

    def row(self, k: int) -> tuple[list[tuple[int, Array]], list[tuple[int, Array]], list[tuple[int, Array]]]:
        """The terms of stage k: (index, weight) of stages, outputs and normals with a weight that is not zero."""
        states, outputs, noise = self._terms
        return states[k], outputs[k], noise[k]

    @cached_property
    def _terms(self) -> tuple[list[list[tuple[int, Array]]], ...]:
        """The terms of every stage, found once."""

        def of(weights: Array, newest: NDArray[np.int_]) -> list[list[tuple[int, Array]]]:
            found: list[list[tuple[int, Array]]] = [[] for _ in range(self.stages)]
            for k, i in zip(*(places.tolist() for places in _places(weights)), strict=True):
                found[k].append((int(newest[k]) - 1 - i, weights[k, i]))
            return found

        stage = np.arange(self.stages)
        return of(self.states, stage), of(self.outputs, stage), of(self.noise, self.normals)

    def unroll(self) -> Unrolled:
        """Every stage as a combination of the start, the outputs and the normals.

        Examples:
            >>> from refdiff import FlowMatching
            >>> from refdiff.samplers.ddim import ddim
            >>> rows = ddim(FlowMatching(), [1.0, 0.5, 0.25]).unroll()  # x <- (t / s) x + (1 - t / s) D
            >>> print(rows.start, rows.outputs[-1])
            [1.   0.5  0.25] [0.25 0.5  0.  ]
        """
        size, axes, kind = self.stages, self.axes, self.states.dtype
        start, outputs = np.zeros((size, *axes), dtype=kind), np.zeros((size, size, *axes), dtype=kind)
        noise = np.zeros((size, self.draws, *self.noise.shape[2:]), dtype=kind)
        start[0] = np.eye(axes[0]) if len(axes) == 2 else 1.0
        for k in range(1, size):
            states, own, drawn = self.row(k)
            for j, w in states:
                start[k] += w @ start[j] if len(axes) == 2 else w * start[j]
                outputs[k] += w @ outputs[j] if len(axes) == 2 else w * outputs[j]
                noise[k] += operators.product(np.asarray(w), noise[j]) if noise.ndim == 4 else w * noise[j]
            for j, w in own:
                outputs[k, j] += w
            for m, w in drawn:
                noise[k, m] += w
        return Unrolled(start, outputs, noise)

    def difference(self, other: Tableau) -> float:
        """The largest difference of unrolled weights at evaluated stages and at the output, relative to their row.

        Times of evaluation count too, relative to the largest. Numbers are compared with diagonals and matrices as what
        they do to all axes. inf where the two are not comparable: another number of evaluations, draws or axes, another
        prediction or coordinate.
        """
        mine, theirs = np.append(np.flatnonzero(self.evaluated), -1), np.append(np.flatnonzero(other.evaluated), -1)
        shapes = (self.nfe, self.draws, self.prediction, self.coordinate)
        if shapes != (other.nfe, other.draws, other.prediction, other.coordinate):
            return np.inf
        kinds = self.axes, other.axes, self.noise.shape[2:], other.noise.shape[2:]
        if len({axes[0] for axes in kinds if axes}) > 1:
            return np.inf
        common = max(kinds, key=len)
        time_scale = max(self.times.max(), other.times.max(), np.finfo(float).tiny)
        worst = float(np.abs(self.times[mine[:-1]] - other.times[theirs[:-1]]).max(initial=0.0) / time_scale)
        one, two = (_alike(table.unroll(), common) for table in (self, other))
        for k, l in zip(mine, theirs, strict=True):
            pairs = [
                (one.start[k], two.start[l]),
                (one.outputs[k][mine[:-1]], two.outputs[l][theirs[:-1]]),
                (one.noise[k], two.noise[l]),
            ]
            size = max(float(np.abs(part).max(initial=0.0)) for pair in pairs for part in pair)
            gap = max(float(np.abs(np.subtract(a, b)).max(initial=0.0)) for a, b in pairs)
            worst = max(worst, gap / size if size else gap)
        return worst

    def close(self, other: Tableau, tolerance: float = 1e-12) -> bool:
        """Whether the two are the same sampler: `difference` at most the tolerance."""
        return self.difference(other) <= tolerance

    # ------------------------------------------------------------------ for reading

    def __repr__(self) -> str:
        kind = f"{self.draws} normals" if self.stochastic else "deterministic"
        return f"<Tableau {self.name}: {self.nfe} evaluations of the {self.prediction}, {self.stages} stages, {kind}>"

    def __str__(self) -> str:
        """The table, one line for each stage; a weight is one number where it is the same on all axes."""
        head = f"{self!r}\ncoordinate {self.coordinate}; D_j is the {self.prediction} at y_j, z_m a unit normal"
        return "\n".join([head, *(self._line(k) for k in range(self.stages))])

    def _line(self, k: int) -> str:
        if k == 0:
            terms = ["x"]
        else:
            parts = zip(self.row(k), ("y", "D", "z"), strict=True)
            terms = [f"{_said(w)} {letter}{j}" for found, letter in parts for j, w in found]
        point = f"t = {self.times[k]:.8g}"
        return f"y{k:<4d} {point:18s} {'*' if self.evaluated[k] else ' '} = {' '.join(terms) or '0'}"


def _alike(rolled: Unrolled, axes: tuple[int, ...]) -> Unrolled:
    start, outputs, noise = rolled
    return Unrolled(spread(start, axes, 1), spread(outputs, axes), spread(noise, axes))


def spread(band: Array, axes: tuple[int, ...], lead: int = 2) -> Array:
    """The weights `band`, numbers, (d,) or (d, d) after `lead` dimensions, with these axes: (), (d,) or (d, d).

    Numbers become one for each axis, or multiples of the identity; those for each axis diagonal matrices.
    """
    own, before = band.shape[lead:], band.shape[:lead]
    if own == axes:
        return band
    if len(axes) == 2:
        diagonal = np.broadcast_to(band if own else band[..., None], (*before, axes[0]))
        return np.asarray(diagonal[..., None] * np.eye(axes[0]))
    return np.broadcast_to(band[..., None], (*before, *axes)).copy()


def stacked(each: Sequence[Coefficients | Motion]) -> Coefficients | Motion:
    """Coefficients at many times as arrays of them, (s, ...) each, all of one process."""
    first = each[0]
    columns: dict[str, Any] = {name: np.asarray([getattr(one, name) for one in each]) for name in parts(first)}
    return first._replace(**columns)


def sliced(coefficients: Coefficients | Motion, where: int | slice) -> Coefficients | Motion:
    """The coefficients at one of the times, or at some."""
    chosen: dict[str, Any] = {name: part[where] for name, part in parts(coefficients).items()}
    return coefficients._replace(**chosen)


def parts(coefficients: Coefficients | Motion) -> dict[str, Array]:
    """The arrays of coefficients by name, each of the shape of its times, (s, d, d) for the matrices of s times.

    What a process does not know is left out, and so is an offset, which tables do not see.
    """
    every = coefficients._asdict().items()
    return {name: part for name, part in every if part is not None and name != "offset"}


def _numbers(name: str, value: Any) -> Array:
    """Finite numbers; mpmath numbers, in an array of objects, pass."""
    array = np.asarray(value)
    return array if array.dtype == object else real_array(name, array)


def _places(weights: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and place of every weight that is not zero."""
    k, i = np.nonzero((weights != 0).any(axis=tuple(range(2, weights.ndim))))
    return k, i


def _said(weight: Array) -> str:
    """A weight in words: one number, also for multiples of the identity, or the numbers of all axes in brackets."""
    first = np.ravel(weight)[0]
    if (np.asarray(weight) == spread(np.asarray(first), weight.shape, 0)).all():
        return f"{float(first):+.10g}"
    text = np.array2string(weight, precision=5, separator=", ", threshold=16, edgeitems=1, max_line_width=10_000)
    return f"+ {' '.join(text.split())}"


ARRAYS = tuple(f.name for f in fields(Tableau) if f.name not in ("name", "prediction", "coefficients", "coordinate"))
