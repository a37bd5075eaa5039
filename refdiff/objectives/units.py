r"""Nats, bits per dimension, and what densities say about data on a grid of levels.

Data with `levels` values k = 0..levels-1 on every axis lie at y_k = low + (k + 1/2) spacing, in cells that fill
[low, high], or at y_k = low + k spacing, from one end to the other:

    cells    spacing = (high - low) / levels            256 levels in [-1, 1]: 1/128,  + 7 bits per dimension
    ends     spacing = (high - low) / (levels - 1)      x / 127.5 - 1:         2/255,  + 6.9943 bits

A density p of y gives a level the probability P(k) = int_cell p, and by Jensen

    -log2 P(k) / d  <=  [ -E log p(y_k + spacing u) / log 2 ] / d - log2 spacing,        u uniform in [-1/2, 1/2]^d

with equality where p is constant in the cell: the right side is what uniformly dequantised data are reported by. It is
a bound for data on levels, and no entropy of p: at fixed levels no density brings it below 0. A bits-per-dimension
number needs all of it: nats of a density of the scaled data, d, and the spacing. Sources: DMI-29, PODA-421; Theis, van
den Oord and Bethge 2016, "A note on the evaluation of generative models".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, one_of, points, precise_as, real_array, real_scalar, whole_number
from refdiff.expectations import START, Estimate, MonteCarlo, Quadrature, Route, name_of
from refdiff.random import uniforms

PLACES = ("cells", "ends")


def bits(nats: ArrayLike) -> Any:
    """nats / log 2, of the shape of nats."""
    return precise_as(nats, real_array("nats", nats) / np.log(2.0))


def level_spacing(levels: int, low: float = -1.0, high: float = 1.0, place: str = "cells") -> float:
    """The distance of neighbouring levels.

    Args:
        levels: how many, at least 2.
        low, high: the interval.
        place: cells where the cells of all levels fill it, ends where the first and the last level are its ends.

    Raises:
        ValueError: fewer than 2 levels, an empty interval or an unknown place.
    """
    levels, place = whole_number("levels", levels, low=2), one_of("place", place, PLACES)
    low = real_scalar("low", low)
    high = real_scalar("high", high, low=low, open_low=True)
    return (high - low) / (levels if place == "cells" else levels - 1)


def level_values(levels: int, low: float = -1.0, high: float = 1.0, place: str = "cells") -> Array:
    """The levels y_k, shape (levels,), for arguments as of `level_spacing`."""
    spacing = level_spacing(levels, low, high, place)
    return np.asarray(low + spacing * (np.arange(levels) + (0.5 if place == "cells" else 0.0)), dtype=np.float64)


def bits_per_dimension(nats: ArrayLike, dim: int, spacing: float = 1.0) -> Any:
    """nats / (d log 2) - log2 spacing.

    Args:
        nats: minus the log density (or a bound on it) of the scaled data, any shape.
        dim: d.
        spacing: of the levels in the units of the scaled data; 1 leaves the density of those data as it is.

    Returns:
        The shape of nats.

    Raises:
        ValueError: a dimension or spacing that is not positive.

    Examples:
        >>> import numpy as np
        >>> from refdiff.objectives import bits_per_dimension
        >>> print(round(float(bits_per_dimension(6 * np.log(2), 3)), 6))  # six bits in three dimensions
        2.0
        >>> print(round(float(bits_per_dimension(0.0, 1, spacing=2 / 256)), 6))  # density 1 on cells of width 2 / 256
        7.0
    """
    dim, spacing = whole_number("dim", dim, low=1), real_scalar("spacing", spacing, low=0, open_low=True)
    return precise_as(nats, bits(real_array("nats", nats)) / dim - np.log2(spacing))


def nats_of_density(bits_per_dim: ArrayLike, dim: int, spacing: float = 1.0) -> Any:
    """The inverse of `bits_per_dimension`: minus the log density, of the shape of bits_per_dim; `dim` is d.

    Raises:
        ValueError: a dimension or `spacing` that is not positive.
    """
    dim, spacing = whole_number("dim", dim, low=1), real_scalar("spacing", spacing, low=0, open_low=True)
    return precise_as(bits_per_dim, dim * (real_array("bits_per_dim", bits_per_dim) + np.log2(spacing)) * np.log(2.0))


def dequantized(
    log_density: Callable[[Array], Array], x: ArrayLike, spacing: float, route: Route, dim: int | None = None
) -> Estimate:
    """d log spacing + E log p(x + spacing u), u uniform in [-1/2, 1/2]^d: a lower bound on log P of the cell of x.

    Args:
        log_density: log p of points (n, d), shape (n,).
        x: levels, shape (..., d).
        spacing: of the levels.
        route: a Quadrature (products of Gauss-Legendre rules, doubled until they agree), or a MonteCarlo.
        dim: d, or None for the last axis of x.

    Raises:
        TypeError: the route is neither.
        ValueError: shapes that do not fit, a spacing that is not positive, or a tolerance that is not met.
    """
    width = real_scalar("spacing", spacing, low=0, open_low=True)
    array = real_array("x", x)
    if array.ndim == 0:
        raise ValueError("x must have shape (..., d), got one number")
    rows, restore = points("x", x, array.shape[-1] if dim is None else whole_number("dim", dim, low=1))
    offset = rows.shape[1] * np.log(width)
    if isinstance(route, MonteCarlo):
        u = uniforms(route.seed, route.samples, START, rows.shape[1]) - 0.5
        values = np.array([log_density(row + width * u) for row in rows]).reshape(len(rows), route.samples)
        error = values.std(axis=1, ddof=1) / np.sqrt(route.samples)
        return Estimate(restore(offset + values.mean(axis=1)), restore(error), name_of(route))
    if not isinstance(route, Quadrature):
        raise TypeError(f"route must be a Quadrature or a MonteCarlo, got {route!r}")
    pairs = [_cell_mean(log_density, row, width, route) for row in rows]
    means, changes = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return Estimate(restore(offset + means), restore(changes), name_of(route))


def _cell_mean(log_density: Callable[[Array], Array], x: Array, width: float, rule: Quadrature) -> tuple[float, float]:
    """The mean over the cell of x (d,), and the last change."""
    count, before = 4, None
    while True:
        if float(count) ** len(x) > rule.most:
            raise ValueError(
                f"route must be a MonteCarlo, or a Quadrature with more nodes, got {rule} for d = {len(x)}"
            )
        line, share = np.polynomial.legendre.leggauss(count)
        nodes = np.stack(np.meshgrid(*[line / 2] * len(x), indexing="ij"), axis=-1).reshape(-1, len(x))
        weights = np.stack(np.meshgrid(*[share / 2] * len(x), indexing="ij"), axis=-1).reshape(-1, len(x)).prod(axis=1)
        found = float(weights @ log_density(x + width * nodes))
        if before is not None and abs(found - before) <= rule.tolerance * max(1.0, abs(found)):
            return found, abs(found - before)
        count, before = 2 * count, found
