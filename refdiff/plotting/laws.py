"""Pictures of laws: regions of highest density in the plane and on the line, and a density in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, real_array, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.plotting.colours import FIRST, sequential
from refdiff.plotting.fields import edges, increasing
from refdiff.plotting.styles import thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

MASSES = (0.5, 0.8, 0.95)
MOST = 20_000  # places of a curve
CELLS = 4_000_000  # of the plane, some seconds
FINE = 8.0  # cells on a deviation of a component: each has up to 1 / (2 pi FINE^2) = 0.25 % of its mass
LARGEST = 1000.0  # of log p, whose square root is a number still
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
        cells: of the grid along each axis, beside finer ones around components that are narrow.
        filled: shaded, or lines; on the line the curve alone.

    Raises:
        TypeError: no such law.
        ValueError: a law in more dimensions or without a density, or masses that do not increase in (0, 1);
            in the plane, components so many and narrow that they need more than four million cells.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> from refdiff import Gaussian
        >>> from refdiff.plotting import density
        >>> axes = Figure().subplots()
        >>> density(axes, Gaussian([0.0, 0.0], 1.0), masses=(0.5, 0.9)) is axes
        True
    """
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"law must be a GaussianMixture, got {type(law).__name__}")
    if law.dim not in (1, 2):
        raise ValueError(f"law must be on the line or the plane, got dimension {law.dim}")
    held = real_array("masses", masses, ndim=(1,))
    if held.size == 0 or (np.diff(held) <= 0).any() or held[0] <= 0 or held[-1] >= 1:
        raise ValueError(f"masses must increase in (0, 1), got {list(masses)}")
    if law.dim == 1:
        return _curve(axes, law, held, color, whole_number("cells", cells, low=2), filled)
    x, y = _plane(law, whole_number("cells", cells, low=2))
    logs = law.logpdf(np.stack(np.meshgrid(x, y), axis=-1))
    heights = np.exp(logs - logs.max())
    levels = _levels(heights, held, np.outer(np.diff(edges(y)), np.diff(edges(x))))
    if not filled:
        axes.contour(x, y, heights, levels=levels, colors=color, linewidths=1.2 * thin())
        return axes
    for level, shade in zip(levels, _shades(len(levels)), strict=True):
        axes.contourf(x, y, heights, levels=[level, 2.0], colors=[color], alpha=shade)
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
        ValueError: times or x do not increase, or log_density answers with another shape, or with nan or inf, or with
            more than 1000.
    """
    when, where = (increasing(name, value, 2) for name, value in (("times", times), ("x", x)))
    logs = np.array([answered("log_density", log_density(where[:, None], t), where.shape) for t in when.tolist()])
    if not (logs < LARGEST).all():
        raise ValueError(f"log_density must answer with numbers below {LARGEST} or -inf, got {logs.max()}")
    shades = np.exp(0.5 * logs.T)
    axes.pcolormesh(when, where, shades, cmap=cmap or sequential(), shading="gouraud", vmin=0.0, rasterized=True)
    axes.set_xlabel("t")
    axes.set_ylabel("x")
    return axes


def _curve(axes: Axes, law: GaussianMixture, masses: Array, color: str, cells: int, filled: bool) -> Axes:
    """The density of a law on the line, with the regions that hold these masses shaded beneath."""
    x = np.unique(np.concatenate([_reach(law, 0, cells + 1), _around(law)]))
    heights = np.exp(law.logpdf(x[:, None]))
    axes.plot(x, heights, color=color, linestyle="-")
    if filled:
        levels = _levels((heights[1:] + heights[:-1]) / 2, masses, np.diff(x))
        for level, shade in zip(levels, _shades(len(levels)), strict=True):
            places, tops = _cut(x, heights, float(level))
            axes.fill_between(places, tops, where=(tops >= level).tolist(), color=color, alpha=shade, linewidth=0)
    axes.set_xlabel("x")
    axes.set_ylabel("density")
    return axes


def _shades(count: int) -> list[float]:
    """How opaque regions are that lie on top of each other, the largest first."""
    return [float(shade) for shade in np.linspace(0.18, 0.45, count)]


def _cut(x: Array, heights: Array, level: float) -> tuple[Array, Array]:
    """A curve with the places added where it crosses a level."""
    k = np.flatnonzero((heights[1:] > level) != (heights[:-1] > level))
    crossings = x[k] + (level - heights[k]) / (heights[k + 1] - heights[k]) * (x[k + 1] - x[k])
    places, tops = np.insert(x, k + 1, crossings), np.insert(heights, k + 1, level)
    return places, tops


def _around(law: GaussianMixture) -> Array:
    """Places on the line around every component, fine in its own standard deviations."""
    means, deviations, _ = _components(law, 0)
    # 1/80 of a deviation, on which the densest component has 0.5 % of its mass; coarser where there are many
    count = int(np.clip(MOST // len(means), 33, 80 * 2 * REACH + 1))
    return (means[:, None] + deviations[:, None] * np.linspace(-REACH, REACH, count)).ravel()


def _reach(law: GaussianMixture, axis: int, cells: int) -> Array:
    """Places (cells,) along an axis that reach beyond every component."""
    means, deviations, _ = _components(law, axis)
    return np.linspace((means - REACH * deviations).min(), (means + REACH * deviations).max(), cells)


def _plane(law: GaussianMixture, cells: int) -> tuple[Array, Array]:
    """Places along both axes, finer around components that even ones would miss or draw as corners.

    Raises:
        ValueError: they are too many.
    """
    found = []
    for axis in (0, 1):
        even = _reach(law, axis, cells)
        means, deviations, narrowest = _components(law, axis)
        missed = (narrowest > 0) & (narrowest < FINE * (even[1] - even[0]))  # without a density where it is 0
        counts = np.ceil(2 * REACH * FINE * deviations[missed] / narrowest[missed]) + 1
        if counts.sum() > CELLS:
            raise ValueError(_too_narrow(counts.sum(), cells))
        near = zip(means[missed], deviations[missed], counts.astype(int).tolist(), strict=True)
        found.append(np.unique(np.concatenate([even, *(m + s * np.linspace(-REACH, REACH, n) for m, s, n in near)])))
    x, y = found
    if x.size * y.size > max(CELLS, cells**2):
        raise ValueError(_too_narrow(x.size * y.size, cells))
    return x, y


def _too_narrow(needed: float, cells: int) -> str:
    """Of the cells that are needed where so many along each axis are too wide."""
    return f"law has components too narrow for {cells} cells along each axis: {needed:.0f} are needed around them"


def _components(law: GaussianMixture, axis: int) -> tuple[Array, Array, Array]:
    """Means and standard deviations along an axis, and the least in any direction, of components that weigh anything.

    Each has shape (k,).
    """
    covariances = law.covariances.dense(law.dim)
    felt = law.weights > 0
    variances = (np.diagonal(covariances, axis1=1, axis2=2)[:, axis], np.linalg.eigvalsh(covariances)[:, 0])
    along, least = (np.broadcast_to(np.sqrt(np.maximum(one, 0.0)), felt.shape)[felt] for one in variances)
    return law.means[felt, axis], along, least


def _levels(heights: Array, masses: Array, sizes: Array | float = 1.0) -> Array:
    """The heights above which these masses are, for the heights of cells of these sizes, increasing."""
    order = np.argsort(heights, axis=None)[::-1]
    sorted_heights = heights.ravel()[order]
    mass = sorted_heights * np.broadcast_to(sizes, heights.shape).ravel()[order]
    held = np.cumsum(mass) / mass.sum()
    found = sorted_heights[np.minimum(np.searchsorted(held, masses), held.size - 1)]
    return np.asarray(np.unique(found))
