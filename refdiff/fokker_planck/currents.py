r"""Currents of probability and what they carry, of models and of densities on grids.

    j_i = b_i p - sum_k d_k (D_ik p) / 2,      d_t p = -div j                          dx = b dt + G dw, D = G G'
    v   = j / p = b - div D / 2 - D grad log p / 2                                     the probability flow
    d/dt int_V p = -oint_dV j . n                                                      a box loses what flows out

On a grid derivatives are central differences, one-sided ones of the same order at the ends: what they are of is the
mean over a cell, and both are the values at its centre but for terms of second order in the sides. Where p vanishes
to rounding j still has its sign and v none: it is NaN where a density of its stencil is 0.
Sources: PODD-76, PODD-77, DMI-56, DMI-59.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, real_array, whole_number
from refdiff.fokker_planck.grid import Grid


def outflow(field: Callable[[Array], ArrayLike], low: ArrayLike, high: ArrayLike, nodes: int = 24) -> float:
    """oint field . n dS over the faces of a box, by Gauss-Legendre rules along them.

    Args:
        field: points (n, d) -> vectors (n, d), a current j for one.
        low, high: corners of the box, shape (d,), low < high.
        nodes: along each axis of a face; what is analytic with no singularity within a box of twice the size is exact
            to rounding from 24 on.

    Raises:
        ValueError: corners that are none, fewer than 1 node, or a field whose answer has another shape.
    """
    first, last = real_array("low", low, ndim=(1,)), real_array("high", high, ndim=(1,))
    if first.shape != last.shape or not first.size or not (first < last).all():
        raise ValueError(f"low and high must be corners with low < high, got {first.tolist()} and {last.tolist()}")
    points, weights = np.polynomial.legendre.leggauss(whole_number("nodes", nodes, low=1))
    dim, half = len(first), (last - first) / 2
    total = 0.0
    for axis, (sign, at) in product(range(dim), ((-1.0, first), (1.0, last))):
        lines = [at[k : k + 1] if k == axis else first[k] + half[k] * (points + 1) for k in range(dim)]
        areas = [np.ones(1) if k == axis else half[k] * weights for k in range(dim)]
        face, area = (np.stack(np.meshgrid(*part, indexing="ij"), axis=-1).reshape(-1, dim) for part in (lines, areas))
        total += sign * float(area.prod(axis=1) @ answered("field", field(face), face.shape)[:, axis])
    return total


def probability_current(grid: Grid, density: ArrayLike, drift: ArrayLike, diffusion: ArrayLike) -> Array:
    """j = b p - div(D p) / 2 at the centres of the cells, Ito's current, shape (..., *cells, d).

    Args:
        grid: the cells.
        density: p, shape (..., *cells).
        drift: b at the centres, shape (*cells, d), or (d,) where it is the same everywhere.
        diffusion: D, a number, (d,) or (d, d) where it is the same everywhere, else (*cells, d) or (*cells, d, d).

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    p, b, d = grid.check("density", density), _drift(grid, drift), _diffusion(grid, diffusion)
    spreading = [sum(_slope(grid, d[..., i, k] * p, k) for k in range(grid.dim)) for i in range(grid.dim)]
    return np.asarray(b * p[..., None] - 0.5 * np.stack(spreading, axis=-1))


def flow_velocity(grid: Grid, density: ArrayLike, drift: ArrayLike, diffusion: ArrayLike) -> Array:
    """v = j / p = b - div D / 2 - D grad log p / 2 at the centres of the cells, shape (..., *cells, d).

    Args:
        grid: the cells.
        density: p >= 0, shape (..., *cells); v is NaN at cells that are empty or next to an empty one.
        drift: b at the centres, shape (*cells, d), or (d,) where it is the same everywhere.
        diffusion: D, a number, (d,) or (d, d) where it is the same everywhere, else (*cells, d) or (*cells, d, d).

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or a negative density.
    """
    p, b, d = grid.check("density", density), _drift(grid, drift), _diffusion(grid, diffusion)
    if (p < 0).any():
        raise ValueError(f"density must not be negative, got {p.min()}")
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(p)
        slopes = np.stack([_slope(grid, logs, k) for k in range(grid.dim)], axis=-1)
    slopes = np.where(np.isfinite(slopes), slopes, np.nan)
    pulled = np.einsum("...ik,...k->...i", d, slopes)
    turned = np.zeros_like(b)
    if np.shape(diffusion)[: grid.dim] == grid.shape:  # one for each cell
        turned = np.stack([sum(_slope(grid, d[..., i, k], k) for k in range(grid.dim)) for i in range(grid.dim)], -1)
    return np.asarray(b - 0.5 * turned - 0.5 * pulled)


def grid_divergence(grid: Grid, field: ArrayLike) -> Array:
    """div of a field at the centres of the cells, shape (..., *cells).

    Args:
        grid: the cells.
        field: vectors at the centres, shape (..., *cells, d).

    Raises:
        ValueError: a shape that does not fit.
    """
    f = real_array("field", field, finite=False)
    if f.shape[-grid.dim - 1 :] != (*grid.shape, grid.dim):
        raise ValueError(f"field must have a shape that ends in {(*grid.shape, grid.dim)}, got {f.shape}")
    return np.asarray(sum(_slope(grid, f[..., k], k) for k in range(grid.dim)))


def _slope(grid: Grid, values: Array, axis: int) -> Array:
    """d values / dx_axis of values (..., *cells), of second order also at the ends."""
    return np.asarray(np.gradient(values, grid.spacing[axis], axis=axis - grid.dim, edge_order=2))


def _drift(grid: Grid, drift: ArrayLike) -> Array:
    b = real_array("drift", drift)
    if b.shape not in ((grid.dim,), (*grid.shape, grid.dim)):
        raise ValueError(f"drift must have shape {(*grid.shape, grid.dim)} or {(grid.dim,)}, got {b.shape}")
    return np.broadcast_to(b, (*grid.shape, grid.dim))


def _diffusion(grid: Grid, diffusion: ArrayLike) -> Array:
    """D as matrices (*cells, d, d)."""
    d, dim = real_array("diffusion", diffusion), grid.dim
    wanted = ((), (dim,), (dim, dim), (*grid.shape, dim), (*grid.shape, dim, dim))
    if d.shape not in wanted:
        raise ValueError(f"diffusion must have one of the shapes {wanted}, got {d.shape}")
    if d.shape not in ((dim, dim), (*grid.shape, dim, dim)):
        d = np.broadcast_to(d, (dim,) if d.ndim < 2 else d.shape)[..., None] * np.eye(dim)
    return np.broadcast_to(d, (*grid.shape, dim, dim))
