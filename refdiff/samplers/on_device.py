r"""A run on a GPU: one kernel through all stages of an exact model, or a loop of kernels that make a stage each.

    y_k = sum_i states[k, i] y_{k-1-i} + sum_i outputs[k, i] o_{k-1-i} + sum_i noise[k, i] z_{n_k - 1 - i}

as `running` says it, in the precision of the points. The one kernel takes points in few axes, whose coordinates are
registers; the loop takes everything else: more axes, many components, functions of arrays, given stages and normals,
weights that are matrices; a tile of points after the other where all do not fit in memory. Source: PODC9-08, as of
`fused`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from refdiff import cuda
from refdiff.backends import on_device
from refdiff.kernels.cuda import mixture as mixtures
from refdiff.kernels.cuda import philox
from refdiff.kernels.cuda import tableau as kernels
from refdiff.kernels.cuda.device import cupy, rows_at_once
from refdiff.model import ExactModel
from refdiff.samplers.fused import UNSTABLE, terms, whens
from refdiff.samplers.tableau import Tableau

Ask = Callable[[Any, int], Any]


def run(
    tableau: Tableau,
    model: Any,
    x: Any,
    key: int,
    particle: int,
    normals: Any | None,
    given: Mapping[int, Any],
    trajectory: bool,
    progress: Callable[[int, int], None] | None,
) -> Any:
    """The output (n, d) of a sampler for points on a device, or all stages (s, n, d).

    Args:
        tableau: the sampler.
        model: an ExactModel without an offset, or a function of points and time.
        x: checked points (n, d), contiguous.
        key: the seed of the normals.
        particle: the number of the first row.
        normals: the normals themselves, (draws, n, d), or none.
        given: stages (n, d) that are not computed.
        trajectory: whether all stages are asked for.
        progress: as of `running.run`; by the one kernel it is called at the end.

    Raises:
        TypeError: the table has numbers that are no float64.
        ValueError: the law has no density, or kernels do not apply to it; stages are not finite.
    """
    if {tableau.states.dtype, tableau.outputs.dtype, tableau.noise.dtype} != {np.dtype(float)}:
        raise TypeError("tableau must hold float64 numbers for points on a GPU, got numbers of another type")
    exact = isinstance(model, ExactModel)
    when = whens(tableau, model) if exact else np.zeros(0)
    for k in np.flatnonzero(tableau.evaluated) if exact else ():
        cuda.applies(model.distribution, when[k], x.dtype)
    if exact and normals is None and not given and _fused(tableau, cuda.mixture(model.distribution, x.dtype)):
        table = _table(tableau, when)
        law = cuda.mixture(model.distribution, x.dtype)
        found = cuda.finite(kernels.run(x, table, law, key, particle, trajectory), UNSTABLE)
        if progress is not None:
            progress(tableau.nfe, tableau.nfe)
        return found
    ask = _exactly(tableau, model, when, x) if exact else _asking(tableau, model)
    found = _tiles(_Parts(tableau, ask, key, x.dtype), x, particle, normals, given, trajectory, progress)
    return cuda.finite(found, UNSTABLE)


def _fused(tableau: Tableau, law: mixtures.Mixture) -> bool:
    """Whether one kernel takes all stages of a law.

    It takes few axes, and vectors for weights, and not so many components that few points would leave a device idle:
    those are summed in parts, whatever the batch, so that no batch changes a bit.
    """
    matrices = max(tableau.states.ndim, tableau.outputs.ndim, tableau.noise.ndim) > 3
    count, dim = law.means.shape
    return not matrices and dim <= mixtures.MOST and mixtures.parts(count)[1] == 1


def numbers(name: str, value: Any, dtype: Any) -> Any:
    """An array of real and finite numbers on the current device, of the type `dtype`; `value` is called `name`.

    Raises:
        TypeError: it is no array of CuPy, or does not hold real numbers.
        ValueError: it is not finite, or on another device.
    """
    if not on_device(value):
        raise TypeError(f"{name} must be an array of CuPy like x, got {type(value).__name__}")
    if value.dtype.kind not in "buif":
        raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
    _here(name, value)
    return cuda.finite(cupy().ascontiguousarray(value, dtype=dtype), f"{name} must be finite")


def _here(name: str, value: Any) -> None:
    if value.device.id != cupy().cuda.Device().id:  # where kernels, which are given addresses, would not find it
        raise ValueError(f"{name} must be on the GPU of x, {cupy().cuda.Device().id}, got one on {value.device.id}")


def _table(tableau: Tableau, when: Any) -> kernels.Table:
    kinds, places, weights, starts = terms(tableau)
    scale = np.array(tableau.scale, dtype=float).reshape(tableau.stages, -1)
    return kernels.Table(kinds, places, weights, starts, tableau.evaluated, scale, when, tableau.window[:2])


def _exactly(tableau: Tableau, model: ExactModel, when: Any, x: Any) -> Ask:
    law = cuda.mixture(model.distribution, x.dtype)
    moved = tableau.coordinate != "x"
    return lambda y, k: mixtures.predict(_scaled(tableau, k, y) if moved else y, law, when[k])[0]


def _asking(tableau: Tableau, model: Callable[[Any, float], Any]) -> Ask:
    """A function as one of stages, whose answers are checked."""

    def ask(y: Any, k: int) -> Any:
        t = float(tableau.times[k])
        answer = model(_scaled(tableau, k, y), t)
        if not on_device(answer):
            raise TypeError(f"model must answer with an array of CuPy, as its points are, got {type(answer).__name__}")
        if answer.dtype.kind not in "buif":
            raise TypeError(f"model must answer with real numbers, got dtype {answer.dtype}")
        if answer.shape != y.shape:
            raise ValueError(f"model must answer with the shape of its points, {y.shape}, got {answer.shape}")
        _here("an answer of model", answer)
        cuda.finite(answer, f"model must answer with finite numbers, got one that is not at t = {t}")
        return cupy().ascontiguousarray(answer, dtype=y.dtype)

    return ask


def _scaled(tableau: Tableau, k: int, y: Any) -> Any:
    """The stage in the coordinate of the model: a new array, with which a function may do what it likes."""
    return y * cuda.constant(tableau.scale[k], y)


class _Parts:
    """What all tiles of a loop have in common: the terms of every stage, those of vectors on the device."""

    def __init__(self, tableau: Tableau, ask: Ask, key: int, dtype: Any) -> None:
        self.tableau, self.ask, self.key = tableau, ask, key
        self.kinds, self.places, weights, self.starts = terms(tableau)
        self.weights = cupy().asarray(weights.astype(dtype))
        self.draws = cupy().asarray(self.places.astype(np.uint32))

    def stage(self, k: int, like: Any, kept: tuple[dict[int, Any], ...], drawn: Mapping[int, Any], first: int) -> Any:
        """Stage k from the stages, outputs and normals that are kept; those not in `drawn` are made by counter."""
        own = slice(self.starts[k], self.starts[k + 1])
        arrays = [(*kept, drawn)[kind] for kind in self.kinds[own]]
        split = own.start + sum(kind < 2 or bool(drawn) for kind in self.kinds[own])
        sources = [array[int(j)] for array, j in zip(arrays, self.places[own.start : split], strict=False)]
        weights, noise = self.weights[own.start : split], self.weights[split : own.stop]
        y = kernels.combine(like, sources, weights, self.draws[split : own.stop], noise, self.key, first)
        for kind, row in enumerate(self.tableau.row(k)):
            for j, weight in row:
                if np.ndim(weight) == 2:
                    source = kept[kind][j] if kind < 2 else drawn[j] if drawn else self.normal(j, like, first)
                    y += source @ cuda.constant(weight.T, like)
        return y

    def normal(self, m: int, like: Any, first: int) -> Any:
        """z_m of the particles from number `first` on."""
        particles = cupy().arange(len(like), dtype=np.uint64) + np.uint64(first)
        return philox.normals(self.key, particles, m, like.shape[1], like.dtype)


def _tiles(
    parts: _Parts,
    x: Any,
    particle: int,
    normals: Any | None,
    given: Mapping[int, Any],
    trajectory: bool,
    progress: Callable[[int, int], None] | None,
) -> Any:
    """The output, or all stages, of as many points at a time as fit."""
    tableau, (n, dim) = parts.tableau, x.shape
    out = cupy().empty((tableau.stages, n, dim) if trajectory else (n, dim), x.dtype)
    # beside the window: the newest stage, the model's points, its answer and what it is made of
    rows = sum(tableau.window[:2]) + 4
    tile = rows_at_once(n, rows * dim * x.itemsize, 0, "a run of this table")
    for first in range(0, n, max(1, tile)):
        part = slice(first, min(first + tile, n))
        drawn = {} if normals is None else {m: normals[m, part] for m in range(tableau.draws)}
        held = {k: y[part] for k, y in given.items()}
        for k, y in enumerate(_stages(parts, x[part], particle + first, drawn, held)):
            if trajectory:
                out[k, part] = y
            elif k + 1 == tableau.stages:
                out[part] = y
            if progress is not None and tableau.evaluated[k]:
                done = int(tableau.evaluated[: k + 1].sum())
                progress((first * tableau.nfe + (part.stop - first) * done) // n, tableau.nfe)
    return out


def _stages(parts: _Parts, x: Any, first: int, drawn: Mapping[int, Any], given: Mapping[int, Any]) -> Iterator[Any]:
    """Every stage of some points, one after the other, when the model has been asked there."""
    tableau = parts.tableau
    stages: dict[int, Any] = {}
    outputs: dict[int, Any] = {}
    for k in range(tableau.stages):
        if k in given:
            stages[k] = given[k]
        else:
            stages[k] = x if k == 0 else parts.stage(k, x, (stages, outputs), drawn, first)
        if tableau.evaluated[k]:
            outputs[k] = parts.ask(stages[k], k)
        yield stages[k]
        for old, back in zip((stages, outputs), tableau.window[:2], strict=True):
            old.pop(k - back, None)
