r"""Entropy, divergence and Fisher information of densities on grids, and how finite volumes lose divergence.

    H_h  = -sum_i h p_i log p_i                   = H  + (h^2 / 24) tr J + ...        the means over cells know less
    KL_h = sum_i h p_i log(p_i / q_i)             = KL - (h^2 / 24) tr J(p | q) + ...
    J_ij = E_p [d_i log p/q  d_j log p/q]         = 4 int q  d_i sqrt(p/q)  d_j sqrt(p/q) dx
    -dKL/dt = sum_(i != j) A_ij p_j (r - 1 - log r),   r = (p_i / q_i) / (p_j / q_j)   d p / dt = A p,  d q / dt = A q

J is taken of differences of square roots between neighbours, which stay finite where a density is 0, with the root of
q_i q_(i+1) for q between them; q = 1 makes it Fisher's information of p. The last line holds exactly, for any rates:
it is what tr(D J(p | q)) / 2 is on the grid, to second order, and is never negative, so that KL falls under every exact
step, and under every implicit one of Euler's (both are stochastic matrices).
Sources: PODD-76, RDX-46, PODA-101, PODA-103.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr, xlogy

from refdiff.arguments import Array
from refdiff.fokker_planck.fluxes import BOUNDARIES, ROUNDING
from refdiff.fokker_planck.grid import Grid
from refdiff.fokker_planck.operator import FokkerPlanck, known


def grid_entropy(grid: Grid, density: ArrayLike) -> Array:
    """H = -int p log p of densities (..., *cells) in nats, shape (...).

    Args:
        grid: the cells.
        density: p >= 0, means over the cells.

    Raises:
        ValueError: a shape that does not fit, or a negative density.

    Examples:
        >>> import numpy as np
        >>> from refdiff.fokker_planck import Grid, grid_entropy
        >>> print(round(float(grid_entropy(Grid(0.0, 2.0, 8), np.full(8, 0.5))), 6))  # uniform on a length of 2: log 2
        0.693147
    """
    p = _density(grid, "density", density)
    return np.asarray(-_sum(grid, xlogy(p, p)))


def grid_relative_entropy(grid: Grid, p: ArrayLike, q: ArrayLike) -> Array:
    """KL(p | q) = int p log p/q of densities (..., *cells) in nats, shape (...): infinite where q = 0 < p.

    Args:
        grid: the cells.
        p: >= 0, means over the cells.
        q: as p, of a shape that broadcasts against it.

    Raises:
        ValueError: a shape that does not fit, or a negative density.
    """
    return np.asarray(_sum(grid, rel_entr(_density(grid, "p", p), _density(grid, "q", q))))


def grid_information(
    grid: Grid, density: ArrayLike, other: ArrayLike | None = None, *, boundary: str | Sequence[str] = "no-flux"
) -> Array:
    """J = E_p of the outer square of grad log p, or of grad log p/q, for densities (..., *cells): shape (..., d, d).

    Args:
        grid: the cells.
        density: p >= 0, means over the cells.
        other: q > 0, of a shape that broadcasts against p; 1 where left out.
        boundary: periodic where the last cell of an axis is a neighbour of the first, for all axes or one for each.

    Raises:
        ValueError: a shape that does not fit, a negative density, an empty cell of q, or an unknown boundary.
    """
    p = _density(grid, "density", density)
    kinds = [boundary] * grid.dim if isinstance(boundary, str) else list(boundary)
    if len(kinds) != grid.dim or not set(kinds) <= set(BOUNDARIES):
        raise ValueError(f"boundary must be of {', '.join(BOUNDARIES)}, for all axes or one for each, got {boundary!r}")
    q = np.ones(grid.shape) if other is None else _density(grid, "other", other)
    if not (q > 0).all():
        raise ValueError("other must be positive in every cell, got 0")
    p, q = np.broadcast_arrays(p, q)
    rings = [kind == "periodic" for kind in kinds]
    slopes = [_slope(grid, p, q, axis, rings[axis]) for axis in range(grid.dim)]
    found = np.zeros((*p.shape[: p.ndim - grid.dim], grid.dim, grid.dim))
    for axis, slope in enumerate(slopes):
        found[..., axis, axis] = 4 * _sum(grid, slope**2)
    if grid.dim == 2:
        # both slopes at the corners of cells, as means over the two faces that meet there
        corners = [_mean(slope, 1 - axis - grid.dim, rings[1 - axis]) for axis, slope in enumerate(slopes)]
        found[..., 0, 1] = found[..., 1, 0] = 4 * _sum(grid, corners[0] * corners[1])
    return found


def divergence_loss(
    operator: FokkerPlanck, p: ArrayLike, q: ArrayLike, t: float = 0.0, *, to_data: bool = False
) -> float:
    """-dKL(p | q)/dt on the grid, exactly, when both densities (*cells) follow d p / dt = A p.

    It is never negative, but for what absorbing walls take of either: sum_i a_i p_i log(p_i / q_i) with their rates a.

    Args:
        operator: the equation.
        p: > 0, or there is no derivative: it is infinite where a density flows into an empty cell.
        q: > 0.
        t: the time, a scalar.
        to_data: whether time runs from noise to data.

    Raises:
        TypeError: no FokkerPlanck.
        ValueError: a density of another shape, a negative one, or an empty cell of q.
    """
    grid = known(operator).grid
    first, second = (_density(grid, name, value) for name, value in (("p", p), ("q", q)))
    if first.shape != grid.shape or second.shape != grid.shape or not (second > 0).all():
        raise ValueError(f"p and q must have the shape {grid.shape}, q positive, got {first.shape} and {second.shape}")
    matrix = operator.matrix(t, to_data=to_data)
    rates = matrix.tocoo()
    with np.errstate(divide="ignore"):
        logs = (np.log(first) - np.log(second)).ravel()
    jumps = (rates.row != rates.col) & (rates.data > 0) & (first.ravel()[rates.col] > 0)
    to, start = rates.row[jumps], rates.col[jumps]
    change = logs[to] - logs[start]
    with np.errstate(over="ignore"):
        lost = np.where(np.isneginf(change), np.inf, np.expm1(change) - change)
    mass = first.ravel()[start] * rates.data[jumps]
    leaving = -np.asarray(matrix.sum(axis=0)).ravel()
    walls = (leaving > -ROUNDING * matrix.diagonal()) & (first.ravel() > 0)
    taken = (leaving * first.ravel())[walls] @ logs[walls]
    return float((mass * lost).sum() + taken) * grid.volume


# ---------------------------------------------------------------------- parts


def _density(grid: Grid, name: str, value: ArrayLike) -> Array:
    p = grid.check(name, value)
    if (p < 0).any():
        raise ValueError(f"{name} must not be negative, got {p.min()}")
    return p


def _sum(grid: Grid, values: Array) -> Array:
    """The integral of values (..., n[, m]) of cells, faces or corners."""
    return np.asarray(values.sum(axis=tuple(range(-grid.dim, 0))) * grid.volume)


def _slope(grid: Grid, p: Array, q: Array, axis: int, ring: bool) -> Array:
    """sqrt(q) d sqrt(p/q) / dx_axis at the faces between cells."""
    along = axis - grid.dim
    p0, q0, p1, q1 = (_ends(part, along, ring)[k] for k in range(2) for part in (p, q))
    ratio = np.sqrt(np.sqrt(q0 / q1))  # with q = sqrt(q0 q1) between: sqrt(q p1 / q1) - sqrt(q p0 / q0)
    return np.asarray((np.sqrt(p1) * ratio - np.sqrt(p0) / ratio) / grid.spacing[axis])


def _ends(values: Array, axis: int, ring: bool) -> tuple[Array, Array]:
    """The values before and after every face along an axis."""
    if ring:
        return values, np.roll(values, -1, axis=axis)
    n = values.shape[axis]
    return np.take(values, range(n - 1), axis=axis), np.take(values, range(1, n), axis=axis)


def _mean(values: Array, axis: int, ring: bool) -> Array:
    before, after = _ends(values, axis, ring)
    return np.asarray((before + after) / 2)
