"""Pictures of fields in the plane: arrows, streamlines, and errors as an image of their logarithms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, real_array, real_scalar
from refdiff.plotting.colours import DARK, NEUTRAL, sequential
from refdiff.plotting.styles import thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar

Field = Callable[[Array], ArrayLike]
LONGEST = 0.95  # of an arrow, in distances between neighbours
SHAFT = 1.3  # the width of an arrow's shaft, in thin lines
UNEVEN = 1e-6  # of the whole; matplotlib's own bound is 1e-5


def arrows(axes: Axes, field: Field, x: ArrayLike, y: ArrayLike, *, color: str = DARK, unit: bool = False) -> Axes:
    """The vectors of a field at the places of a grid, as arrows in the units of the axes, the longest to its neighbour.

    Args:
        axes: what is drawn on.
        field: points (n, 2) -> vectors (n, 2).
        x, y: increasing places (m,) and (k,).
        color: of the arrows; with `unit` those of `sequential(color)`, the darkest for the longest vectors.
        unit: directions only, lengths as colours; axes.collections[-1] is what a colour bar takes.

    Raises:
        ValueError: places that do not increase, or a field that answers with another shape or with no numbers.
    """
    across, up = (increasing(name, value) for name, value in (("x", x), ("y", y)))
    places = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    vectors = answered("field", field(places), places.shape, finite=True)
    lengths = np.linalg.norm(vectors, axis=1)
    drawn = vectors / np.where(lengths > 0, lengths, 1.0)[:, None] if unit else vectors
    longest = float(np.linalg.norm(drawn, axis=1).max())
    gap = min([float(np.diff(one).min()) for one in (across, up) if len(one) > 1], default=1.0)
    scale = longest / (LONGEST * gap) if longest > 0 else 1.0
    how: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": scale, "pivot": "tail"}
    how |= {"units": "inches", "width": SHAFT * thin() / 72, "headwidth": 4.0, "headlength": 5.0}
    if unit:
        axes.quiver(*places.T, *drawn.T, lengths, cmap=sequential(color, palest=0.3), **how)
    else:
        axes.quiver(*places.T, *drawn.T, color=color, **how)
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
    axes.streamplot(across, up, u, v, density=close, color=color, linewidth=1.4 * thin(), arrowsize=thin())
    return axes


def error_map(
    axes: Axes,
    error: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    floor: float = 1e-16,
    ceiling: float | None = None,
    label: str | None = "error",
) -> Axes:
    """log10 |error| as an image with a colour bar, the darker the larger.

    Colours span the errors; where there is a ceiling they span floor to ceiling, and maps can be compared. The
    colour bar ends in a point where some errors are beyond it.

    Args:
        axes: what is drawn on.
        error: at every place, shape (k, m): rows are y, columns x.
        x, y: increasing places (m,) and (k,).
        floor: what errors below it, as 0 is, are drawn as.
        ceiling: what errors above it, as inf is, are drawn as.
        label: of the colour bar; None draws none, as beside a map of the same floor and ceiling that has one.

    Raises:
        ValueError: shapes that do not fit, an error that is no number, or infinite where there is no ceiling; a floor
            that is not in (0, ceiling), or places that are not above 0 on a logarithmic axis.
    """
    across, up = (increasing(name, value) for name, value in (("x", x), ("y", y)))
    found = np.abs(real_array("error", error, ndim=(2,), finite=False))
    if found.shape != (len(up), len(across)):
        raise ValueError(f"error must have shape {(len(up), len(across))}, a row for each y, got {found.shape}")
    for name, places, scale in (("x", across, axes.get_xscale()), ("y", up, axes.get_yscale())):
        if scale == "log" and places[0] <= 0:
            raise ValueError(f"{name} must be above 0 on a logarithmic axis, got {places[0]}")
    low = real_scalar("floor", floor, low=0.0, open_low=True)
    high = np.inf if ceiling is None else real_scalar("ceiling", ceiling)
    if low >= high:
        raise ValueError(f"ceiling must be above the floor {low}, got {high}")
    if np.isnan(found).any() or (ceiling is None and np.isinf(found).any()):
        raise ValueError("error must hold numbers, finite ones where no ceiling is given, got nan or inf")
    logs = np.log10(np.clip(found, low, high))
    least, most = (logs.min(), logs.max()) if ceiling is None else (np.log10(low), np.log10(high))
    image = axes.pcolormesh(
        edges(across, axes.get_xscale()),
        edges(up, axes.get_yscale()),
        logs,
        cmap=sequential(),
        vmin=float(least),
        vmax=float(max(most, least + 1e-9)),  # errors that are all the same have a colour too
        rasterized=True,
    )
    if label is not None:
        beyond = ("neither", "min", "max", "both")[int((found < low).any()) + 2 * int((found > high).any())]
        _decades(axes.figure.colorbar(image, ax=axes, label=label, extend=beyond), float(least), float(most))
    return axes


def increasing(name: str, value: ArrayLike, least: int = 1) -> Array:
    """The `value` of an argument of this `name` as places that increase, shape (m,), at least `least` of them.

    Raises:
        ValueError: they do not, or are too few.
    """
    places = real_array(name, value, ndim=(1,))
    if len(places) < least or (np.diff(places) <= 0).any():
        raise ValueError(f"{name} must be {least} or more that increase, got {places}")
    return places


def edges(places: Array, scale: str = "linear") -> Array:
    """The ends (m + 1,) of the cells around places (m,): middles between neighbours, on an axis of this `scale`."""
    if scale == "log":
        return np.asarray(np.exp(edges(np.log(places))))
    if len(places) == 1:
        return np.array([places[0] - 0.5, places[0] + 0.5])
    middles = (places[1:] + places[:-1]) / 2
    return np.concatenate([[2 * places[0] - middles[0]], middles, [2 * places[-1] - middles[-1]]])


def _even(name: str, value: ArrayLike) -> Array:
    """Evenly spaced places, at least two.

    Raises:
        ValueError: they are not.
    """
    places = increasing(name, value, 2)
    even = np.linspace(places[0], places[-1], len(places))
    if np.abs(places - even).max() > UNEVEN * (places[-1] - places[0]):
        raise ValueError(f"{name} must be evenly spaced, got {places}")
    return even


def _decades(bar: Colorbar, low: float, high: float) -> None:
    """Ticks for a bar of logarithms from low to high: powers of ten where it spans some."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    def said(power: float, _: object) -> str:
        if abs(power - round(power)) < 1e-6:
            return rf"$10^{{{round(power)}}}$"
        digits, exponent = f"{10**power:.2e}".split("e")
        return rf"${digits} \cdot 10^{{{int(exponent)}}}$"

    span, alike = high - low, FixedLocator([low])  # of errors that are all the same
    bar.locator = MaxNLocator(6 if span >= 2 else 4, integer=span >= 2) if span > 0 else alike
    bar.formatter = FuncFormatter(said)
    bar.update_ticks()
