"""Pictures of points: the curves they run on, and whom they are paired with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def trajectories(
    axes: Axes,
    paths: ArrayLike,
    times: ArrayLike | None = None,
    *,
    color: str = "0.35",
    first: str = "#0072b2",
    last: str = "#d55e00",
    alpha: float = 0.5,
) -> Axes:
    """Curves in the plane, or on the line over time, with a dot where each begins and ends.

    Args:
        axes: what is drawn on.
        paths: points at m times, shape (m, n, 2), or (m, n, 1) on the line.
        times: of the points on the line, shape (m,).
        color: of the curves.
        first, last: the colours of the dots.
        alpha: how opaque curves are.

    Raises:
        ValueError: points that are neither in the plane nor on the line, or times that do not fit.
    """
    from matplotlib.collections import LineCollection

    points = real_array("paths", paths, ndim=(3,))
    if points.shape[-1] not in (1, 2) or len(points) == 0:
        raise ValueError(f"paths must have shape (m, n, 1) or (m, n, 2), got {points.shape}")
    if points.shape[-1] == 1:
        points = _over_time(points, times)
    axes.add_collection(LineCollection(list(np.swapaxes(points, 0, 1)), colors=color, linewidths=0.7, alpha=alpha))
    for ends, shade in ((points[0], first), (points[-1], last)):
        axes.plot(*ends.T, ".", color=shade, markersize=2.5)
    return axes


def pairs(axes: Axes, x: ArrayLike, y: ArrayLike, masses: ArrayLike | None = None, *, color: str = "0.35") -> Axes:
    """A segment from each x to its y, thicker for more mass.

    Args:
        axes: what is drawn on.
        x, y: the pairs, each (n, 2).
        masses: of the pairs, shape (n,), all the same where left out; those of 0 are not drawn.
        color: of the segments.

    Raises:
        ValueError: shapes that do not fit, or a negative mass.
    """
    from matplotlib.collections import LineCollection

    first, second = (real_array(name, value, ndim=(2,)) for name, value in (("x", x), ("y", y)))
    if first.shape != second.shape or first.shape[1] != 2:
        raise ValueError(f"x and y must have one shape (n, 2), got {first.shape} and {second.shape}")
    mass = np.ones(len(first)) if masses is None else real_array("masses", masses, ndim=(1,))
    if mass.shape != first.shape[:1] or (mass < 0).any():
        raise ValueError(f"masses must be {len(first)} numbers >= 0, got {mass}")
    felt = mass > 0
    widths = 0.6 * mass[felt] / mass.max(initial=1e-300)
    axes.add_collection(
        LineCollection(list(np.stack([first[felt], second[felt]], axis=1)), colors=color, linewidths=widths.tolist())
    )
    axes.plot(*first[felt].T, ".", color="#0072b2", markersize=2.5)
    axes.plot(*second[felt].T, ".", color="#d55e00", markersize=2.5)
    return axes


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
