"""Pictures of tables of samplers: their weights as heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from refdiff.arguments import Array, one_of
from refdiff.plotting.colours import diverging, readable_on, sequential
from refdiff.samplers.tableau import Tableau, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar

PARTS = ("states", "outputs", "noise")
DECADES = 3  # colours are logarithmic over so many below the largest weight, linear beneath
NAME = (2.8, 1.3)  # the room of a name such as y_10, across and up, in sizes of its font
DIGITS = (3, 2, 1)
MINUS = "\N{MINUS SIGN}"
SMALLEST, LEAST = 5.0, 0.5  # a number can be read if it has so many points, and this part of the size of words
WIDTH = 0.66  # of a digit, in sizes of its font (0.64 in matplotlib's own)
ROOM = 0.8  # the part of a cell that a number may fill: layouts make axes smaller when they are drawn


def tableau(axes: Axes, table: Tableau, part: str = "outputs") -> Axes:
    """The weights of a table written out, y_k = start_k x + sum_j outputs_kj o_j + sum_m noise_km z_m, as a heat map.

    Rows are stages, columns evaluations j or normals m; cells of no weight are empty. Colours are logarithmic in the
    weight away from 0. In the cells stand numbers where all of them fit, or else signs, which a print in grey would
    lose. Weights that differ between axes, or are matrices, are drawn by their spectral norms.

    Args:
        axes: what is drawn on.
        table: of any sampler.
        part: outputs, noise, or states: the weights that each stage gives to earlier ones, as the table has them.

    Raises:
        ValueError: an unknown part, or noise of a deterministic table.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> from refdiff import FlowMatching
        >>> from refdiff.plotting import tableau
        >>> from refdiff.samplers.ddim import ddim
        >>> axes = tableau(Figure().subplots(), ddim(FlowMatching(), [1.0, 0.5, 0.25]))  # 0.5 D0, then 0.25 D0 + 0.5 D1
        >>> print([float(text.get_text()) for text in axes.texts])
        [0.5, 0.25, 0.5]
    """
    one_of("part", part, PARTS)
    if part == "noise" and not table.stochastic:
        raise ValueError(f"table must be stochastic to have weights of noise, got {table!r}")
    cells, signed = _numbers(_weights(table, part))
    from matplotlib.colors import SymLogNorm

    peak = float(np.abs(cells).max()) or 1.0
    norm = SymLogNorm(peak * 10.0**-DECADES, linscale=0.5, vmin=-peak if signed else 0.0, vmax=peak)
    colors = diverging() if signed else sequential()
    image = axes.imshow(cells, cmap=colors, norm=norm, aspect="auto", interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, label="weight" if signed else "norm of the weight")
    _signed_decades(bar, peak, signed)
    _name(axes, table, part)
    _write(axes, cells, np.asarray(image.to_rgba(cells))[..., :3])
    return axes


def _weights(table: Tableau, part: str) -> Array:
    """The weights of stages 1, 2, ... on what its columns stand for, (s - 1, n, *axes)."""
    if part == "states":
        size = table.stages
        weights = np.zeros((size, size - 1, *table.axes), dtype=table.states.dtype)
        for k in range(size):
            for j, weight in table.row(k)[0]:
                weights[k, j] = weight
        return weights[1:]
    rolled = table.unroll()
    return rolled.noise[1:] if part == "noise" else rolled.outputs[1:, table.evaluated]


def _numbers(weights: Array) -> tuple[Array, bool]:
    """Weights (s, n, *axes) as one number each, and whether these are the weights themselves, not their norms."""
    own = weights.astype(float)  # of mpmath numbers too
    if own.ndim == 2:
        return own, True
    first = own[:, :, 0, 0] if own.ndim == 4 else own[:, :, 0]
    if (own == spread(first, own.shape[2:])).all():
        return first, True
    norms = np.linalg.norm(own, 2, axis=(2, 3)) if own.ndim == 4 else np.abs(own).max(axis=2)
    return np.asarray(norms), False


def _name(axes: Axes, table: Tableau, part: str) -> None:
    """Names of rows and columns, as in the table as text."""
    letter, columns, what = {
        "states": ("y", np.arange(table.stages - 1), "earlier stage"),
        "outputs": ("D", np.flatnonzero(table.evaluated), f"{table.prediction.replace('_', ' ')} at stage"),
        "noise": ("z", np.arange(table.draws), "normal"),
    }[part]
    rows = np.arange(1, table.stages)
    named = ((axes.xaxis, letter, columns), (axes.yaxis, "y", rows))
    for (axis, sign, numbers), cell, room in zip(named, _cell(axes, len(rows), len(columns)), NAME, strict=True):
        places = range(0, len(numbers), max(1, int(np.ceil(room * _small() / cell))))
        axis.set_ticks(places, [f"${sign}_{{{numbers[i]}}}$" for i in places])
        axis.set_tick_params(length=0)
    axes.set_xlabel(what)
    axes.set_ylabel("stage")


def _signed_decades(bar: Colorbar, peak: float, signed: bool) -> None:
    """Ticks at 0 and at the powers of ten of the logarithmic part."""
    top = int(np.floor(np.log10(peak) + 1e-9))
    powers = [10.0**k for k in range(top - DECADES + 1, top + 1) if 10.0**k > 2 * peak * 10.0**-DECADES]
    below = [(-ten, f"$-10^{{{np.log10(ten):.0f}}}$") for ten in powers[::-1]] if signed else []
    above = [(ten, f"$10^{{{np.log10(ten):.0f}}}$") for ten in powers]
    ticks = [*below, (0.0, "0"), *above]
    bar.set_ticks([place for place, _ in ticks], labels=[text for _, text in ticks])
    bar.ax.minorticks_off()


def _write(axes: Axes, cells: Array, colors: Array) -> None:
    """The numbers that are not 0, in a size in which all fit, each with as many digits as fit; or else signs."""
    from matplotlib import rcParams

    wide, tall = ROOM * _cell(axes, *cells.shape)
    places = np.argwhere(cells != 0).tolist()
    smallest = max(SMALLEST, LEAST * float(rcParams["font.size"]))
    longest = {n: max((len(_short(cells[k, j], n)) for k, j in places), default=1) for n in (1, 2)}
    size = min(_small(), 0.8 * tall, max(wide / (WIDTH * longest[2]), smallest))
    if size < smallest:
        return
    for k, j in places:
        texts = [_short(cells[k, j], n) for n in DIGITS] if size * WIDTH * longest[1] <= wide else []
        fitting = [text for text in texts if len(text) * WIDTH * size <= wide] or ["+" if cells[k, j] > 0 else MINUS]
        axes.text(j, k, fitting[0], ha="center", va="center", size=size, color=readable_on(colors[k, j]))


def _small() -> float:
    """The size, in points, of names and numbers."""
    from matplotlib import rcParams

    return 0.85 * float(rcParams["font.size"])


def _cell(axes: Axes, rows: int, columns: int) -> Array:
    """The width and height of a cell, in points."""
    return np.array(axes.get_window_extent().size) * 72 / axes.figure.dpi / [columns, rows]


def _short(number: float, digits: int) -> str:
    """A number with so many digits, the shorter of 0.00012 and 1.2e-4."""
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    fixed = f"{number:.{max(digits - 1 - int(exponent), 0)}f}"
    return min(fixed, f"{mantissa}e{int(exponent)}", key=len).replace("-", MINUS)
