"""Pictures of tables of samplers: their weights as heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from refdiff.arguments import Array, one_of
from refdiff.plotting.colours import diverging, readable_on, sequential
from refdiff.samplers.tableau import Tableau, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("states", "outputs", "noise")
DECADES = 3  # that the logarithmic part of the colours spans: weights below 1e-3 of the largest are on the linear part
SMALLEST = 5.0  # points, of a number that can be read
WIDTH = 0.66  # of a digit, in sizes of its font


def tableau(axes: Axes, table: Tableau, part: str = "outputs") -> Axes:
    """The weights of a table written out, y_k = start_k x + sum_j outputs_kj o_j + sum_m noise_km z_m, as a heat map.

    Rows are stages, columns evaluations j or normals m; colours are logarithmic away from 0, numbers stand in the cells
    where they fit. A weight that differs between axes, or is a matrix, is drawn by its spectral norm.

    Args:
        axes: what is drawn on.
        table: of any sampler.
        part: outputs, noise, or states: the weights that each stage gives to earlier ones, as the table has them.

    Raises:
        ValueError: an unknown part, or noise of a deterministic table.
    """
    one_of("part", part, PARTS)
    if part == "noise" and not table.stochastic:
        raise ValueError(f"table must draw noise to have weights of it, got {table!r}")
    weights, names = _weights(table, part)
    cells, signed = _numbers(weights)
    from matplotlib.colors import SymLogNorm

    peak = float(np.abs(cells).max()) or 1.0
    norm = SymLogNorm(peak * 10.0**-DECADES, linscale=0.5, vmin=-peak if signed else 0.0, vmax=peak)
    image = axes.imshow(
        cells, cmap=diverging() if signed else sequential(), norm=norm, aspect="auto", interpolation="nearest"
    )
    rows = [rf"$y_{{{k}}}$" for k in range(1, table.stages)]
    for axis, labels in ((axes.xaxis, names), (axes.yaxis, rows)):
        thin = max(1, -(-len(labels) // 12))
        axis.set_ticks(range(0, len(labels), thin), labels[::thin])
    axes.figure.colorbar(image, ax=axes, label="weight" if signed else "norm of the weight")
    _write(axes, cells, image.to_rgba(cells)[..., :3])
    return axes


def _weights(table: Tableau, part: str) -> tuple[Array, list[str]]:
    """The weights of stages 1, 2, ... (s - 1, n, *axes), and the names of the columns."""
    if part == "states":
        size = table.stages
        weights = np.zeros((size, size - 1, *table.axes))
        for k in range(size):
            for j, weight in table.row(k)[0]:
                weights[k, j] = weight
        return weights[1:], [rf"$y_{{{j}}}$" for j in range(size - 1)]
    rolled = table.unroll()
    if part == "noise":
        return rolled.noise[1:], [rf"$z_{{{m}}}$" for m in range(table.draws)]
    asked = np.flatnonzero(table.evaluated)
    return rolled.outputs[1:, asked], [rf"$o_{{{j}}}$" for j in asked]


def _numbers(weights: Array) -> tuple[Array, bool]:
    """Weights (s, n, *axes) as one number each, and whether these are the weights themselves, not their norms."""
    own = weights.astype(float)
    if own.ndim == 2:
        return own, True
    first = own[(..., *[0] * (own.ndim - 2))]
    if (own == spread(first, own.shape[2:])).all():
        return first, True
    return np.asarray(np.linalg.norm(own, 2, axis=(2, 3)) if own.ndim == 4 else np.abs(own).max(axis=2)), False


def _write(axes: Axes, cells: Array, colors: Array) -> None:
    """The numbers that are not 0, all in one size, where one is found that fits."""
    from matplotlib import rcParams

    box = axes.get_window_extent().size / axes.figure.dpi * 72 / np.array(cells.shape[::-1])
    for digits in (3, 2, 1):
        texts = {(k, j): f"{cells[k, j]:.{digits}g}" for k, j in np.argwhere(cells != 0).tolist()}
        longest = max(map(len, texts.values()), default=1)
        size = min(0.8 * rcParams["font.size"], 0.7 * box[1], 0.8 * box[0] / (WIDTH * longest))
        if size >= SMALLEST:
            for (k, j), text in texts.items():
                axes.text(j, k, text, ha="center", va="center", size=size, color=readable_on(colors[k, j]))
            return
