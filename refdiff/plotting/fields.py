"""Pictures of fields in the plane: arrows, streamlines, and errors as an image of their logarithms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, real_array, real_scalar
from refdiff.plotting.colours import FIRST, NEUTRAL, sequential
from refdiff.plotting.styles import thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar

Field = Callable[[Array], ArrayLike]
LONGEST = 0.95  # of an arrow, in distances between neighbours


def arrows(axes: Axes, field: Field, x: ArrayLike, y: ArrayLike, *, color: str = FIRST, unit: bool = False) -> Axes:
    """The vectors of a field at the places of a grid, as arrows in the units of the axes, the longest to its neighbour.

    Args:
        axes: what is drawn on.
        field: points (n, 2) -> vectors (n, 2).
        x, y: increasing places (m,) and (k,).
        color: of the arrows; with `unit` they get darker shades of it the longer the vectors are.
        unit: directions only, lengths as colours; a colour bar may be drawn of axes.collections[-1].

    Raises:
        ValueError: places that do not increase, or a field that answers with another shape or with no numbers.
    """
    across, up = (increasing(name, value) for name, value in (("x", x), ("y", y)))
    places = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    vectors = answered("field", field(places), places.shape, finite=True)
    lengths = np.linalg.norm(vectors, axis=1)
    if unit:
        vectors = vectors / np.where(lengths > 0, lengths, 1.0)[:, None]
    gap = min([float(np.diff(one).min()) for one in (across, up) if len(one) > 1], default=1.0)
    longest = float(np.linalg.norm(vectors, axis=1).max())
    scale = longest / (LONGEST * gap) if longest > 0 else 1.0
    how = {"angles": "xy", "scale_units": "xy", "scale": scale, "pivot": "tail"}
    if unit:
        axes.quiver(*places.T, *vectors.T, lengths, cmap=sequential(color), **how)
    else:
        axes.quiver(*places.T, *vectors.T, color=color, **how)
    return axes


def streamlines(
    axes: Axes, field: Field, x: ArrayLike, y: ArrayLike, *, density: float = 1.0, color: str = NEUTRAL
) -> Axes:
    """Curves that follow a field, which is interpolated between the places of a grid.

    Args:
        axes: what is drawn on.
        field: points (n, 2) -> vectors (n, 2).
        x, y: evenly spaced places (m,) and (k,), at least 2 of each.
        density: how close curves are, 1 for some thirty across the axes.
        color: of the curves.

    Raises:
        ValueError: places that are not evenly spaced, a density that is not above 0, or a field that answers with
            another shape or with no numbers.
    """
    across, up = (_even(name, value) for name, value in (("x", x), ("y", y)))
    close = real_scalar("density", density, low=0.0, open_low=True)
    places = np.stack(np.meshgrid(across, up), axis=-1)
    vectors = answered("field", field(places.reshape(-1, 2)), (places[..., 0].size, 2), finite=True)
    u, v = vectors.T.reshape(2, *places.shape[:2])
    axes.streamplot(across, up, u, v, density=close, color=color, linewidth=thin())
    return axes


def error_map(
    axes: Axes,
    error: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    floor: float = 1e-16,
    ceiling: float | None = None,
    label: str = "error",
) -> Axes:
    """log10 |error| as an image with a colour bar: white for the smallest, dark for the largest.

    Args:
        axes: what is drawn on.
        error: at every place, shape (k, m): rows are y, columns x.
        x, y: increasing places (m,) and (k,).
        floor: what errors below it, as 0 is, are drawn as.
        ceiling: what errors above it, as inf is, are drawn as.
        label: of the colour bar.

    Raises:
        ValueError: shapes that do not fit, an error that is no number, or infinite where there is no ceiling; a floor
            that is not in (0, ceiling).
    """
    across, up = (increasing(name, value) for name, value in (("x", x), ("y", y)))
    found = np.abs(real_array("error", error, ndim=(2,), finite=False))
    if found.shape != (len(up), len(across)):
        raise ValueError(f"error must have shape {(len(up), len(across))} of y and x, got {found.shape}")
    high = np.inf if ceiling is None else real_scalar("ceiling", ceiling)
    low = real_scalar("floor", floor, low=0.0, open_low=True)
    if not low < high:
        raise ValueError(f"ceiling must be above the floor {low}, got {high}")
    if np.isnan(found).any() or (ceiling is None and np.isinf(found).any()):
        raise ValueError("error must be numbers, and finite where no ceiling is given, got nan or inf")
    logs = np.log10(np.clip(found, low, high))
    top = max(float(logs.max()), float(logs.min()) + 1e-9)  # one colour for one number
    image = axes.pcolormesh(
        edges(across, axes.get_xscale()), edges(up, axes.get_yscale()), logs, cmap=sequential(),
        vmin=logs.min(), vmax=top, rasterized=True,
    )  # fmt: skip
    bar = axes.figure.colorbar(image, ax=axes, label=label)
    _decades(bar)
    return axes


def _decades(bar: Colorbar) -> None:
    """Powers of ten as the ticks of a bar of logarithms."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    bar.locator = MaxNLocator(6, integer=True)
    bar.formatter = FuncFormatter(lambda power, _: rf"$10^{{{power:.3g}}}$")
    bar.update_ticks()


def increasing(name: str, value: ArrayLike, least: int = 1) -> Array:
    """The `value` of an argument of this `name` as places that increase, shape (m,), at least `least` of them.

    Raises:
        ValueError: they do not, or are too few.
    """
    places = real_array(name, value, ndim=(1,))
    if len(places) < least or (np.diff(places) <= 0).any():
        raise ValueError(f"{name} must be {least} or more that increase, got {places}")
    return places


def _even(name: str, value: ArrayLike) -> Array:
    """Evenly spaced places, at least two.

    Raises:
        ValueError: they are not.
    """
    places = increasing(name, value, 2)
    even = np.linspace(places[0], places[-1], len(places))
    # matplotlib's own bound on steps is 1e-5 of the whole
    if np.abs(places - even).max() > 1e-6 * (places[-1] - places[0]):
        raise ValueError(f"{name} must be evenly spaced, got {places}")
    return even


def edges(places: Array, scale: str = "linear") -> Array:
    """The ends of the cells around places (m,), shape (m + 1,): middles between neighbours, by the axis' scale."""
    if scale == "log":
        return np.exp(edges(np.log(places)))
    if len(places) == 1:
        return places + np.array([-0.5, 0.5])
    middles = (places[1:] + places[:-1]) / 2
    return np.concatenate([[2 * places[0] - middles[0]], middles, [2 * places[-1] - middles[-1]]])
