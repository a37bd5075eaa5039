"""Pictures of laws: regions of highest density in the plane, a density in time on the line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, real_array, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.plotting.colours import FIRST, sequential

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

MASSES = (0.5, 0.8, 0.95)
REACH = 4.0  # standard deviations of a component beyond its mean: 6e-5 of it are outside


def density(
    axes: Axes,
    law: GaussianMixture,
    *,
    masses: Sequence[float] = MASSES,
    color: str = FIRST,
    cells: int = 200,
    filled: bool = True,
) -> Axes:
    """The smallest regions that hold these masses, shaded, or as lines in the plane; on the line beneath the density.

    Args:
        axes: what is drawn on.
        law: a law on R or R^2 with a density.
        masses: the masses of the regions, increasing in (0, 1).
        color: of all of them, paler for larger masses.
        cells: of the grid along each axis.
        filled: shaded, or lines; on the line the curve alone.

    Raises:
        ValueError: a law in more dimensions or without a density, or masses that do not increase in (0, 1).

    Examples:
        >>> from matplotlib.figure import Figure
        >>> from refdiff import Gaussian
        >>> from refdiff.plotting import density
        >>> axes = Figure().subplots()
        >>> density(axes, Gaussian([0.0, 0.0], 1.0), masses=(0.5, 0.9)) is axes
        True
    """
    if law.dim not in (1, 2):
        raise ValueError(f"law must be on the line or the plane, got dimension {law.dim}")
    held = real_array("masses", masses, ndim=(1,))
    if held.size == 0 or (np.diff(held) <= 0).any() or held[0] <= 0 or held[-1] >= 1:
        raise ValueError(f"masses must increase in (0, 1), got {list(masses)}")
    if law.dim == 1:
        return _curve(axes, law, held, color, whole_number("cells", cells, low=2), filled)
    x, y = (_reach(law, axis, whole_number("cells", cells, low=2)) for axis in (0, 1))
    logs = law.logpdf(np.stack(np.meshgrid(x, y), axis=-1))
    peak = logs.max()
    levels = _levels(np.exp(logs - peak), held)
    if not filled:
        axes.contour(x, y, np.exp(logs - peak), levels=levels, colors=color, linewidths=0.8)
        return axes
    for level, shade in zip(levels, np.linspace(0.18, 0.45, len(levels)), strict=True):
        axes.contourf(x, y, np.exp(logs - peak), levels=[level, 1.0], colors=[color], alpha=float(shade))
    return axes


def density_in_time(
    axes: Axes,
    log_density: Callable[[Array, float], ArrayLike],
    times: ArrayLike,
    x: ArrayLike,
    *,
    cmap: str | Colormap | None = None,
) -> Axes:
    """Densities on the line over time, as an image of their square roots, which shows what is thin.

    Args:
        axes: what is drawn on; time is its horizontal axis.
        log_density: (x, t) -> log p_t(x) at points x (n, 1), shape (n,).
        times: increasing times (m,), m >= 2.
        x: increasing places (n,), n >= 2.
        cmap: the colours, or matplotlib's name of them; `sequential` where left out.

    Raises:
        ValueError: times or x do not increase, or log_density answers with another shape.
    """
    when, where = (real_array(name, value, ndim=(1,)) for name, value in (("times", times), ("x", x)))
    for name, steps in (("times", when), ("x", where)):
        if len(steps) < 2 or (np.diff(steps) <= 0).any():
            raise ValueError(f"{name} must be two or more that increase, got {steps}")
    logs = [answered("log_density", log_density(where[:, None], t), where.shape) for t in when.tolist()]
    axes.pcolormesh(
        when, where, np.exp(0.5 * np.array(logs).T), cmap=cmap or sequential(), shading="gouraud", rasterized=True
    )
    axes.set_xlabel("t")
    axes.set_ylabel("x")
    return axes


def _curve(axes: Axes, law: GaussianMixture, masses: Array, color: str, cells: int, filled: bool) -> Axes:
    """The density of a law on the line, with the regions that hold these masses shaded beneath."""
    x = np.unique(np.concatenate([_reach(law, 0, cells + 1), _around(law)]))
    heights = np.exp(law.logpdf(x[:, None]))
    axes.plot(x, heights, color=color, linestyle="-")
    if filled:
        middles = (heights[1:] + heights[:-1]) / 2
        levels = _levels(middles, masses, np.diff(x))
        for level, shade in zip(levels, np.linspace(0.18, 0.45, len(levels)), strict=True):
            axes.fill_between(x, heights, where=heights >= level, color=color, alpha=float(shade), linewidth=0)
    axes.set_xlabel("x")
    return axes


def _around(law: GaussianMixture) -> Array:
    """Places on the line around every component, fine in its own standard deviations."""
    deviation = np.sqrt(np.diagonal(law.covariances.dense(law.dim), axis1=1, axis2=2)[:, 0])
    felt = law.weights > 0
    return (law.means[felt] + deviation[felt, None] * np.linspace(-REACH, REACH, 81)).ravel()


def _reach(law: GaussianMixture, axis: int, cells: int) -> Array:
    """Places (cells,) along an axis that reach beyond every component."""
    deviation = np.sqrt(np.diagonal(law.covariances.dense(law.dim), axis1=1, axis2=2)[:, axis])
    felt = law.weights > 0
    low, high = law.means[:, axis] - REACH * deviation, law.means[:, axis] + REACH * deviation
    return np.linspace(low[felt].min(), high[felt].max(), cells)


def _levels(heights: Array, masses: Array, sizes: Array | float = 1.0) -> Array:
    """The heights above which these masses are, for the heights of cells of these sizes, increasing."""
    order = np.argsort(heights, axis=None)[::-1]
    sorted_heights = heights.ravel()[order]
    mass = sorted_heights * np.broadcast_to(sizes, heights.shape).ravel()[order]
    held = np.cumsum(mass) / mass.sum()
    found = sorted_heights[np.minimum(np.searchsorted(held, masses), held.size - 1)]
    return np.asarray(np.unique(found))
