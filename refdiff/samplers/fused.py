r"""A whole run in one kernel: a table and an exact model as the arrays that `kernels.numba.tableau` takes.

    y_k = sum_i states[k, i] y_{k-1-i} + sum_i outputs[k, i] o_{k-1-i} + sum_i noise[k, i] z_{n_k - 1 - i}

as `running` says it, with all stages of a block of points before the next block: the second route to every sampler.
Source: PODC9-08, whose exact predictions the outputs are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from refdiff import compiled
from refdiff.arguments import Array
from refdiff.kernels.numba import tableau as kernel
from refdiff.model import ExactModel
from refdiff.samplers.tableau import Tableau

Places = NDArray[np.int64]

UNSTABLE = "stages must stay finite, got one that is not: steps are unstable, or x is too far from every component"


def run(
    tableau: Tableau,
    model: ExactModel,
    x: Array,
    seed: int,
    particle: int,
    trajectory: bool,
    progress: Callable[[int, int], None] | None,
) -> Array | None:
    """The output (n, d) of a sampler for checked points x (n, d), or all stages (s, n, d) of its trajectory.

    The arguments are those of `running.run`, with a key for the seed; progress is told of the share of the work that
    is done, and particle is the number of the first row.

    None where the fused kernel cannot run this table on this model: matrix-valued noise weights, numbers that are not
    float64, or a law to which kernels do not apply.
    """
    if tableau.noise.ndim > 3 or {tableau.states.dtype, tableau.outputs.dtype, tableau.noise.dtype} != {
        np.dtype(float)
    }:
        return None
    table = _table(tableau, model)
    if not all(compiled.applies(model.distribution, when) for when in table.at[tableau.evaluated]):
        return None
    out = np.empty(x.shape)
    kept = np.empty((tableau.stages if trajectory else 0, *x.shape))
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.int64)

    def tell(done: int, count: int) -> None:
        if progress is not None:
            progress(done * tableau.nfe // count, tableau.nfe)

    arguments = (
        np.ascontiguousarray(x),
        table,
        compiled.pruned(model.distribution),
        key,
        np.uint64(particle),
        out,
        kept,
    )
    compiled.over_blocks(kernel.run, len(x), *arguments, progress=tell)
    return compiled.finite(kept if trajectory else out, UNSTABLE)


def _table(tableau: Tableau, model: ExactModel) -> kernel.Table:
    """The table and the model's coefficients at its times, as the kernel takes them."""
    # the newest stage lies beside those it is made of
    window = (max(tableau.window[:2]) + 1, max(tableau.window[2], 1))
    kinds, found, weights, starts = terms(tableau)
    return kernel.Table(
        kinds,
        found % np.array([window[0], window[0], window[1]])[kinds],
        weights,
        starts,
        np.array(tableau.normals, dtype=np.int64),
        np.array(tableau.evaluated),
        np.array(tableau.scale, dtype=float).reshape(tableau.stages, -1),
        whens(tableau, model),
        np.array(window, dtype=np.int64),
    )


def terms(tableau: Tableau) -> tuple[Places, Places, Array, Places]:
    """The terms of all stages whose weights are no matrices, as lists.

    Returns:
        Kinds, shape (E,): 0 a stage, 1 an output, 2 a normal; its number among them (E,); weights (E, 1 or d); and
        starts (s + 1,): stage k has the terms starts[k] .. starts[k + 1] - 1.
    """
    kinds: list[int] = []
    places: list[int] = []
    weights: list[Array] = []
    starts = [0]
    for k in range(tableau.stages):
        for kind, row in enumerate(tableau.row(k)):
            found = [(j, np.atleast_1d(w)) for j, w in row if np.ndim(w) < 2]
            kinds += [kind] * len(found)
            places += [j for j, _ in found]
            weights += [w for _, w in found]
        starts.append(len(kinds))
    width = max([len(w) for w in weights], default=1)
    spread = np.array([np.broadcast_to(w, (width,)) for w in weights], dtype=float).reshape(-1, width)
    return np.array(kinds, np.int64), np.array(places, np.int64), spread, np.array(starts, np.int64)


def whens(tableau: Tableau, model: ExactModel) -> Array:
    """What kernels are told of the model's process at every stage, shape (s, 5, 1 or d); 0 where none is asked."""
    evaluated = np.flatnonzero(tableau.evaluated)
    times = tableau.times[evaluated].tolist()
    asked = [compiled.at(model.affine.coefficients(t), tableau.prediction) for t in times]
    found = np.zeros((tableau.stages, *(asked or [compiled.STATIC])[0].shape))
    found[evaluated] = asked or 0.0
    return found
