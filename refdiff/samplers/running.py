r"""Running a table: the NumPy loop, or the fused kernel on an exact model where `backends` says so.

    y_k = sum_i states[k, i] y_{k-1-i} + sum_i outputs[k, i] o_{k-1-i} + sum_i noise[k, i] z_{n_k - 1 - i}

Only the window is kept, so a thousand steps of many points need the memory of a few. Normals are drawn when they are
needed, by counter: z_m of a particle depends on the seed, the particle's number and m, and not on the batch it is in.

A process with an offset b is run as the process without it, of x - b_t: a table needs no constants. Source: tableau.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators, random
from refdiff.arguments import Array, points, real_array, whole_number
from refdiff.backends import numba_pays, on_device
from refdiff.model import ExactModel, without_offset
from refdiff.samplers.tableau import Tableau

Model = ExactModel | Callable[[Array, float], ArrayLike]


def run(
    tableau: Tableau,
    model: Model,
    x: ArrayLike,
    seed: int | np.random.Generator | None = None,
    *,
    particle: int = 0,
    normals: ArrayLike | None = None,
    given: Mapping[int, ArrayLike] | None = None,
    trajectory: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """Run the sampler from x.

    Args:
        tableau: the sampler.
        model: an ExactModel, or a function (x, t) -> the tableau's prediction at points x of shape (n, d).
        x: where to start, shape (..., d), in the tableau's coordinate. For an array of CuPy the run is on its GPU: a
            function gets arrays of CuPy and answers with them, and so are normals and given stages.
        seed: for the normals of a stochastic sampler: an int in [0, 2^64), or a generator, from which a key is drawn.
            Draw m of row i of x is `random.normals(seed, [particle + i], m, d)`.
        particle: the number of the first row of x: with it, a batch in parts has the points of the batch in one.
        normals: the normals themselves, shape (draws, ..., d), in place of a seed.
        given: stages that are put where they are given, shape of x, and not computed: an exact history, a correction.
        trajectory: return every stage, shape (stages, ..., d), and not only the output.
        progress: called with (evaluations done, evaluations in all) after each evaluation; by the kernel, which takes
            some points through all stages before others, with the share of the work that is done.

    Returns:
        The output (..., d), as float32 when x is float32. All arithmetic is float64, but on a GPU that of float32
        points is float32.

    Raises:
        TypeError: what is no tableau, or no model; arrays of NumPy among those of CuPy, or the other way round.
        ValueError: neither seed nor normals for a stochastic sampler, or both; a model's answer of another shape than
            its points, or not finite.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.samplers import run
        >>> from refdiff.samplers.ddim import ddim
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower())  # D = x / (1 + sigma^2)
        >>> print(run(ddim(VEPower(), [3.0, 1.0, 0.0]), model, [[5.0]]).round(6))  # 5 -> 2 -> 1
        [[1.]]
    """
    if not isinstance(tableau, Tableau):
        raise TypeError(f"tableau must be a Tableau, got {tableau!r}")
    if on_device(x):
        return _on_device(tableau, model, x, seed, particle, normals, given, trajectory, progress)  # type: ignore[no-any-return]
    start = real_array("x", x)
    if start.ndim == 0:
        raise ValueError("x must have shape (..., d), got one number")
    rows, restore = points("x", x, start.shape[-1])
    _fits(tableau, rows.shape[1])
    first = whole_number("particle", particle, high=random.PARTICLES - max(1, len(rows)))
    key = _key(tableau, seed, normals)
    draw = _drawing(tableau, key, first, normals, start.shape, rows.shape)
    held = _given(tableau, given, start.shape, rows.shape)
    moved = _offsets(tableau, model)
    plain = model.centred if isinstance(model, ExactModel) else model
    held, rows = {k: y - moved[k] for k, y in held.items()}, rows - moved[0]
    ask = asking(plain, tableau.prediction)
    found: Array | list[Array] | None = None
    if isinstance(plain, ExactModel) and not held and normals is None and _numba_pays(tableau, plain, len(rows)):
        from refdiff.samplers import fused  # late: Numba takes a third of a second to import

        found = fused.run(tableau, plain, rows, key, first, trajectory, progress)
    if found is None:
        found = _loop(tableau, ask, rows, draw, held, trajectory, progress)
    if trajectory:
        return np.stack([restore(y + b) for y, b in zip(found, moved, strict=True)])
    return restore(np.asarray(found) + moved[-1])


def _on_device(
    tableau: Tableau,
    model: Model,
    x: Any,
    seed: int | np.random.Generator | None,
    particle: int,
    normals: Any | None,
    given: Mapping[int, Any] | None,
    trajectory: bool,
    progress: Callable[[int, int], None] | None,
) -> Any:
    """What `run` answers for x on a device."""
    from refdiff import cuda  # late: Numba takes a third of a second to import
    from refdiff.samplers import on_device as device

    if x.ndim == 0:
        raise ValueError("x must have shape (..., d), got one number")
    with x.device:
        # kernels are compiled for the axes of the law, and find no others
        rows, _ = cuda.points("x", x, model.dim if isinstance(model, ExactModel) else x.shape[-1])
        _fits(tableau, rows.shape[1])
        first = whole_number("particle", particle, high=random.PARTICLES - max(1, len(rows)))
        key = _key(tableau, seed, normals)
        convert = partial(device.numbers, dtype=rows.dtype)
        drawn = None if normals is None else _normals(tableau, normals, x.shape, rows.shape, convert)
        held = _given(tableau, given, x.shape, rows.shape, convert)
        moved = _offsets(tableau, model)
        plain = model.centred if isinstance(model, ExactModel) else model
        asking(plain, tableau.prediction)
        if moved.any():
            held = {k: y - cuda.constant(moved[k], rows) for k, y in held.items()}
            rows = rows - cuda.constant(moved[0], rows)
        found = device.run(tableau, plain, rows, key, first, drawn, held, trajectory, progress)
        if moved.any():
            found += cuda.constant(moved[:, None] if trajectory else moved[-1], rows)
        return found.reshape((tableau.stages, *x.shape) if trajectory else x.shape)


def _loop(
    tableau: Tableau,
    ask: Callable[[Array, float], Array],
    rows: Array,
    draw: Callable[[int], Array],
    given: Mapping[int, Array],
    trajectory: bool,
    progress: Callable[[int, int], None] | None,
) -> Array | list[Array]:
    """The output (n, d), or all stages, stage by stage in NumPy."""
    scale, width = tableau.scale, max(tableau.window[:2])
    stages: dict[int, Array] = {0: rows}
    outputs: dict[int, Array] = {}
    drawn: dict[int, Array] = {}
    kept = [rows]
    done = 0
    for k in range(tableau.stages):
        if k > 0:
            for m in range(int(tableau.normals[k - 1]), int(tableau.normals[k])):
                drawn[m] = draw(m)
            y = np.zeros_like(rows)
            for source, terms in zip((stages, outputs, drawn), tableau.row(k), strict=True):
                for j, weight in terms:
                    y = y + operators.apply(weight, source[j])
            stages[k] = y = given.get(k, y)
            if trajectory:
                kept.append(y)
        if tableau.evaluated[k]:
            outputs[k] = ask(scale[k] * stages[k], float(tableau.times[k]))
            done += 1
            if progress is not None:
                progress(done, tableau.nfe)
        for old in (stages, outputs):
            old.pop(k - width, None)
        for m in [m for m in drawn if m < tableau.normals[k] - tableau.window[2]]:
            del drawn[m]
    return kept if trajectory else stages[tableau.stages - 1]


def asking(model: Model, prediction: str) -> Callable[[Array, float], Array]:
    """A model as a function of points (n, d) and time to a prediction, whose answers are checked.

    Raises:
        TypeError: what is neither an ExactModel nor a function.
        ValueError: an ExactModel whose process has an offset; and from the function, an answer of another shape than
            its points, or not finite.
    """
    if not isinstance(model, ExactModel) and not callable(model):
        raise TypeError(f"model must be an ExactModel or a function of x and t, got {model!r}")
    if isinstance(model, ExactModel):
        without_offset(model)

    def ask(x: Array, t: float) -> Array:
        if isinstance(model, ExactModel):
            answer = np.asarray(model.predict(x, t, prediction))
        else:
            found = model(x, t)
            if on_device(found):
                raise TypeError("model must answer with an array of NumPy, as its points are, got one of CuPy")
            answer = np.asarray(found, dtype=float)
        if answer.shape != x.shape:
            raise ValueError(f"model must answer with the shape of its points, {x.shape}, got {answer.shape}")
        if not np.isfinite(answer).all():
            raise ValueError(f"model must answer with finite numbers, got {answer[~np.isfinite(answer)].flat[0]} "
                             f"at t = {t}")  # fmt: skip
        return answer

    return ask


def _offsets(tableau: Tableau, model: Model) -> Array:
    """What a stage in the tableau's coordinate is more than in that of x - b_t, shape (s, 1) or (s, d)."""
    if not isinstance(model, ExactModel) or model is model.centred:
        return np.zeros((tableau.stages, 1))
    offsets = [model.process.offset(float(t)).value for t in tableau.times]
    return np.array([np.broadcast_to(b / m, (model.dim,)) for b, m in zip(offsets, tableau.scale, strict=True)])


def _given(
    tableau: Tableau,
    given: Mapping[int, Any] | None,
    shape: tuple[int, ...],
    flat: tuple[int, ...],
    convert: Callable[[str, Any], Any] = real_array,
) -> dict[int, Any]:
    """The stages that are given, as rows."""
    placed = {k: convert("given", y) for k, y in (given or {}).items()}
    for k, y in placed.items():
        if not 0 < k < tableau.stages or y.shape != shape:
            raise ValueError(f"given must hold stages 1..{tableau.stages - 1} of shape {shape}, got {k}: {y.shape}")
    return {k: y.reshape(flat) for k, y in placed.items()}


def _numba_pays(tableau: Tableau, model: ExactModel, rows: int) -> bool:
    return numba_pays(rows, model.distribution.count, model.dim, tableau.nfe)


def _fits(tableau: Tableau, dim: int) -> None:
    for axes in (tableau.axes, tableau.noise.shape[2:]):
        if axes and axes[0] != dim:
            raise ValueError(f"x must have {axes[0]} axes like the tableau's weights, got {dim}")


def _key(tableau: Tableau, seed: int | np.random.Generator | None, normals: ArrayLike | None) -> int:
    """The key of the normals; 0 where none are drawn from one."""
    if normals is not None and seed is not None:
        raise ValueError("seed and normals exclude each other, got both")
    if normals is not None or tableau.draws == 0:
        return 0
    if seed is None:
        raise ValueError(f"seed must be given for a sampler that draws {tableau.draws} normals, got None")
    return random.seed_key(seed)


def _drawing(
    tableau: Tableau, key: int, first: int, normals: ArrayLike | None, shape: tuple[int, ...], flat: tuple[int, ...]
) -> Callable[[int], Array]:
    """m -> z_m of all rows."""
    if normals is not None:
        given = _normals(tableau, normals, shape, flat)
        return lambda m: np.asarray(given[m])
    return lambda m: random.normals(key, range(first, first + flat[0]), m, flat[1])


def _normals(
    tableau: Tableau,
    normals: Any,
    shape: tuple[int, ...],
    flat: tuple[int, ...],
    convert: Callable[[str, Any], Any] = real_array,
) -> Any:
    """The normals that are given, as rows, (draws, n, d)."""
    given = convert("normals", normals)
    if given.shape != (tableau.draws, *shape):
        raise ValueError(f"normals must have shape {(tableau.draws, *shape)}, got {given.shape}")
    return given.reshape((tableau.draws, *flat))
