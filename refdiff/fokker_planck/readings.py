r"""What is read off densities on a grid: the score, the flux through every face, and the density that stays.

    s_i = (log p_(i+1) - log p_(i-1)) / (2 h)                   grad log p, of second order
    (A p)_i = -sum_k (J_k(i + 1/2) - J_k(i - 1/2)) / h_k        J_k = h_k times what passes a face in a unit of time
    A p = 0,  sum_i p_i V = 1

The score is a difference of logarithms, as the fluxes are fitted to exponentials: that of a Gaussian is exact but for
what means over cells differ from values. A jump along a diagonal passes two faces, and does so by either way in halves.
Sources: PODD-76, PODD-77, DMI-56, DMI-59.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.linalg import splu

from refdiff.arguments import Array, precise_as
from refdiff.fokker_planck.fluxes import Rates
from refdiff.fokker_planck.grid import Grid
from refdiff.fokker_planck.operator import FokkerPlanck, known


def grid_score(grid: Grid, density: ArrayLike) -> Array:
    """grad log p at the centres of the cells of a `grid`, shape (..., *cells, d), for a `density` (..., *cells).

    Differences are central, one-sided ones of second order in the cells at the ends. float32 in, float32 out.

    Raises:
        ValueError: the density does not fit the grid, or is not positive everywhere.
    """
    p = grid.check("density", density)
    if (p <= 0).any():
        raise ValueError(f"density must be positive to have a score, got {p.min()}")
    log_p, h = np.log(p), grid.spacing
    parts = [np.gradient(log_p, h[k], axis=p.ndim - grid.dim + k, edge_order=2) for k in range(grid.dim)]
    return np.asarray(precise_as(density, np.stack(parts, axis=-1)))


def face_fluxes(operator: FokkerPlanck, density: ArrayLike, t: float, *, to_data: bool = False) -> tuple[Array, ...]:
    """J_k on the faces across each axis k, as many shapes (*cells) with one more along k.

    Args:
        operator: the equation on its grid.
        density: p, shape (*cells).
        t: the time, a scalar.
        to_data: whether time runs from noise to data: then fluxes are those in the elapsed time.

    Raises:
        TypeError: no FokkerPlanck.
        ValueError: the density does not fit the grid.
    """
    grid = known(operator).grid
    p = grid.check("density", density)
    if p.shape != grid.shape:
        raise ValueError(f"density must have shape {grid.shape}, got {p.shape}")
    found = [np.zeros([n + (k == axis) for k, n in enumerate(grid.shape)]) for axis in range(grid.dim)]
    for rates in operator.rates(t, to_data=to_data):
        _pass(operator, rates, p, found)
    for axis, fluxes in enumerate(found):
        if operator.boundary[axis] == "periodic":  # the first face is the last one
            ends = np.moveaxis(fluxes, axis, 0)
            ends[0] += ends[-1]
            ends[-1] = ends[0]
    return tuple(found)


def _pass(operator: FokkerPlanck, rates: Rates, p: Array, found: list[Array]) -> None:
    """Add what jumps along one step carry through the faces on their ways."""
    shape, h = operator.grid.shape, operator.grid.spacing
    axes = [k for k, move in enumerate(rates.step) if move]
    ways = list(permutations(axes))
    for way, rate in ((1, rates.up), (-1, rates.down)):
        carried = (rate * p).ravel() / len(ways)
        for order in ways:
            places = [part.ravel() for part in np.indices(shape)]
            flow = carried
            for axis in order:
                move = way * rates.step[axis]
                face = [*places]
                face[axis] = places[axis] + (move > 0)
                np.add.at(found[axis], tuple(face), move * h[axis] * flow)
                after = places[axis] + move
                # who is out is gone: absorbed, with no second face to pass
                inside = (after >= 0) & (after < shape[axis])
                if operator.boundary[axis] == "periodic":
                    inside[:] = True
                places[axis] = after % shape[axis]
                flow = np.where(inside, flow, 0.0)


def stationary(operator: FokkerPlanck, t: float = 0.0) -> Array:
    """The density that the equation with the coefficients of time t keeps, shape (*cells), of mass one.

    Args:
        operator: the equation on its grid, with walls that do not absorb.
        t: the time, a scalar.

    Raises:
        TypeError: no FokkerPlanck.
        ValueError: a wall absorbs, or some cells are not reached from all others, so that none or several stay.

    Examples:
        >>> import numpy as np
        >>> from refdiff import Gaussian
        >>> from refdiff.fokker_planck import FokkerPlanck, Grid, stationary
        >>> cells = Grid(-6.0, 6.0, 240)
        >>> keeping = FokkerPlanck(cells, lambda x, t: -x, lambda x, t: 2.0)  # dx = -x dt + sqrt(2) dw
        >>> print(abs(stationary(keeping) - cells.averages(Gaussian([0.0], 1.0))).max() < 1e-3)  # of second order
        True
    """
    if "absorbing" in known(operator).boundary:
        raise ValueError(f"operator must keep the mass to have a stationary density, got boundary {operator.boundary}")
    matrix = operator.matrix(t).tocsc()
    size = matrix.shape[0]
    # one cell is given the density 1; the second time it is the fullest one, which no other exceeds by far
    pinned = size // 2
    for _ in range(2):
        others = np.delete(np.arange(size), pinned)
        inflow = -matrix[:, [pinned]].toarray()[others, 0]
        try:
            # the diagonal is the largest of its column: no pivots
            factors = splu(matrix[others][:, others], diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        except RuntimeError:
            raise ValueError("operator must connect all cells to have one stationary density") from None
        p = np.insert(factors.solve(inflow), pinned, 1.0)
        if not np.isfinite(p).all() or p.max() <= 0:
            raise ValueError("operator must connect all cells to have one stationary density")
        pinned = int(p.argmax())
    density = np.maximum(p, 0.0).reshape(operator.grid.shape)
    return np.asarray(density / operator.grid.mass(density))
