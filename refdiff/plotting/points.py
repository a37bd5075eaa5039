"""Pictures of points: the curves they run on, whom they are paired with, and where a map takes a grid of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, real_array, whole_number
from refdiff.plotting.colours import FIRST, LAST, NEUTRAL, sequential
from refdiff.plotting.fields import edges, increasing
from refdiff.plotting.styles import dot, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINTEST = 1 / 255  # of the largest mass: what is less opaque is not seen
DENSE = 50_000  # points of lines, more of which are an image in a vector file: some 1 MB of .svg
SEVERAL = 5_000  # the same of lines and of dots


def trajectories(
    axes: Axes,
    paths: ArrayLike,
    times: ArrayLike | None = None,
    *,
    color: str = NEUTRAL,
    first: str = FIRST,
    last: str = LAST,
    alpha: float = 0.5,
) -> Axes:
    """Curves in the plane, or on the line over time, with a dot where each begins and ends.

    Points are joined by straight lines: paths of an equation with noise are as rough as their times are fine. A few
    curves are as thick as the style's lines, many are thinner.

    Args:
        axes: what is drawn on.
        paths: points at m times, shape (m, n, 2), or (m, n, 1) on the line.
        times: of the points on the line, shape (m,), its horizontal axis; in the plane they are not used.
        color: of the curves.
        first, last: the colours of the dots.
        alpha: how opaque curves are.

    Raises:
        ValueError: points that are neither in the plane nor on the line, or times that do not fit.
    """
    from matplotlib.collections import LineCollection

    points = real_array("paths", paths, ndim=(3,))
    if points.shape[-1] not in (1, 2) or points.size == 0:
        raise ValueError(f"paths must have shape (m, n, 1) or (m, n, 2) with m, n >= 1, got {points.shape}")
    if points.shape[-1] == 1:
        points = _over_time(points, times)
    curves = list(np.swapaxes(points, 0, 1))
    width, dense = thin(len(curves)), points.size > 2 * DENSE or len(curves) > SEVERAL
    axes.add_collection(LineCollection(curves, colors=color, linewidths=width, alpha=alpha, rasterized=dense))
    _dots(axes, points[0], first)
    _dots(axes, points[-1], last)
    return axes


def pairs(axes: Axes, x: ArrayLike, y: ArrayLike, masses: ArrayLike | None = None, *, color: str = NEUTRAL) -> Axes:
    """A segment from each x to its y, thicker for more mass.

    Args:
        axes: what is drawn on.
        x, y: the pairs, each (n, 2).
        masses: of the pairs, shape (n,), all the same where left out; those of 0 are not drawn.
        color: of the segments.

    Raises:
        ValueError: shapes that do not fit, a negative mass, or no mass at all.
    """
    from matplotlib.collections import LineCollection

    first, second = (real_array(name, value, ndim=(2,)) for name, value in (("x", x), ("y", y)))
    if first.shape != second.shape or first.shape[1] != 2:
        raise ValueError(f"x and y must have one shape (n, 2), got {first.shape} and {second.shape}")
    mass = _felt(np.ones(len(first)) if masses is None else masses, first.shape[:1])
    felt = mass > 0
    widths = thin() * mass[felt] / mass.max()
    ends, dense = np.stack([first[felt], second[felt]], axis=1), len(widths) > SEVERAL
    axes.add_collection(LineCollection(list(ends), colors=color, linewidths=widths.tolist(), rasterized=dense))
    _dots(axes, ends[:, 0], FIRST)
    _dots(axes, ends[:, 1], LAST)
    return axes


def plan(axes: Axes, masses: ArrayLike, x: ArrayLike, y: ArrayLike, *, color: str = FIRST) -> Axes:
    """The masses of a plan between points: on the line a heat map, in the plane segments as opaque as their masses.

    Args:
        axes: what is drawn on.
        masses: between x_i and y_j, shape (n, m).
        x, y: the points, (n,) and (m,) or (n, 1) and (m, 1) on the line, (n, 2) and (m, 2) in the plane.
        color: of the segments; the heat map has the colours of `sequential(color)`, white where there is no mass.

    Raises:
        ValueError: shapes that do not fit, a negative mass, no mass at all, or two points at one place of the line.
    """
    first, second = (real_array(name, value, ndim=(1, 2)) for name, value in (("x", x), ("y", y)))
    first, second = (one[:, None] if one.ndim == 1 else one for one in (first, second))
    if first.shape[1] != second.shape[1] or first.shape[1] not in (1, 2):
        raise ValueError(f"x and y must be on the line or in the plane, got shapes {first.shape} and {second.shape}")
    mass = _felt(masses, (len(first), len(second)))
    if first.shape[1] == 2:
        return _segments(axes, mass, first, second, color)
    orders = [np.argsort(one[:, 0]) for one in (first, second)]
    across, up = first[orders[0], 0], second[orders[1], 0]
    for name, places in (("x", across), ("y", up)):
        if (np.diff(places) == 0).any():
            raise ValueError(f"{name} must be distinct on the line, got {places[1:][np.diff(places) == 0][0]} twice")
    shown = mass[np.ix_(*orders)].T
    axes.pcolormesh(edges(across), edges(up), shown, cmap=sequential(color), vmin=0.0, rasterized=True)
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    return axes


def carried_grid(
    axes: Axes,
    map: Callable[[Array], ArrayLike],
    x: ArrayLike,
    y: ArrayLike,
    *,
    color: str = NEUTRAL,
    cells: int = 200,
) -> Axes:
    """The lines of a grid carried by a map of the plane.

    Args:
        axes: what is drawn on.
        map: points (n, 2) -> points (n, 2).
        x, y: where the lines of the grid cross the axes, increasing, (m,) and (k,), at least 2 of each.
        color: of the lines.
        cells: how many pieces each line is carried in.

    Raises:
        ValueError: lines that do not increase, or a map that answers with another shape or with no numbers.
    """
    from matplotlib.collections import LineCollection

    across, up = (increasing(name, value, 2) for name, value in (("x", x), ("y", y)))
    along = np.linspace(0.0, 1.0, whole_number("cells", cells, low=1) + 1)
    ends = [(one[0] + along * (one[-1] - one[0])) for one in (across, up)]
    upright = np.stack(np.broadcast_arrays(across[:, None], ends[1]), axis=-1)
    level = np.stack(np.broadcast_arrays(ends[0], up[:, None]), axis=-1)
    lines = np.concatenate([upright, level])
    images = answered("map", map(lines.reshape(-1, 2)), (lines[..., 0].size, 2), finite=True)
    axes.add_collection(LineCollection(list(images.reshape(lines.shape)), colors=color, linewidths=thin()))
    axes.autoscale_view()
    return axes


def _felt(value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Masses of this shape, none negative and not all 0.

    Raises:
        ValueError: another shape, a negative mass or none at all.
    """
    mass = real_array("masses", value)
    if mass.shape != shape:
        raise ValueError(f"masses must have shape {shape}, got {mass.shape}")
    if (mass < 0).any() or not mass.any():
        raise ValueError(f"masses must be >= 0 and not all 0, got a least one of {mass.min(initial=0.0)}")
    return mass


def _segments(axes: Axes, mass: Array, first: Array, second: Array, color: str) -> Axes:
    """A segment for every mass of a plan in the plane."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    i, j = np.nonzero(mass > FAINTEST * mass.max())
    opaque = mass[i, j] / mass.max()
    order = np.argsort(opaque)  # the heaviest on top
    shades = np.concatenate([np.broadcast_to(to_rgb(color), (len(i), 3)), opaque[:, None]], axis=1)[order]
    ends = np.stack([first[i], second[j]], axis=1)[order]
    lines = LineCollection(list(ends), colors=shades.tolist(), linewidths=thin(), rasterized=len(i) > SEVERAL)
    axes.add_collection(lines)
    _dots(axes, first, FIRST)
    _dots(axes, second, LAST)
    return axes


def _dots(axes: Axes, places: Array, color: str) -> None:
    """Dots at places (n, 2), above lines."""
    axes.plot(*places.T, ".", color=color, markersize=dot(), zorder=3, rasterized=len(places) > SEVERAL)


def _over_time(points: Array, times: ArrayLike | None) -> Array:
    """Points on the line (m, n, 1) as points (t, x), shape (m, n, 2).

    Raises:
        ValueError: the times are missing, or not m.
    """
    if times is None:
        raise ValueError("times must be given for paths on the line")
    when = real_array("times", times, ndim=(1,))
    if when.shape != points.shape[:1]:
        raise ValueError(f"times must have shape {points.shape[:1]} like paths, got {when.shape}")
    return np.concatenate([np.broadcast_to(when[:, None, None], points.shape), points], axis=2)
