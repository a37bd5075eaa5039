r"""Optimal couplings of point sets, and the potentials that prove them optimal.

    min { sum_ij m_ij |x_i - y_j|^p : m >= 0, sum_j m_ij = a_i, sum_i m_ij = b_j }
      = max { sum_i a_i f_i + sum_j b_j g_j : f_i + g_j <= |x_i - y_j|^p }

On the line the coupling of equal ranks is optimal for every p >= 1. It is a staircase of pairs (i, j), and f and g
follow from f_i + g_j = |x_i - y_j|^p along it. In more dimensions it is an assignment where both have n points of
equal weight, and a linear program elsewhere. Whatever g is, f_i = min_j (|x_i - y_j|^p - g_j) goes with it, so a gap
between cost and dual value bounds what a coupling is away from the optimum: it is a proof, not an estimate.
Sources: TOPB-59, PODB-71; Villani 2003, "Topics in optimal transportation", theorem 2.18 for the line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.metrics.compared import weighted_points

# Pairs of which all costs are held: half a gigabyte, and a minute for an assignment; linear programs are slower.
ASSIGNED, PROGRAMMED = 2**24, 2**18
ROUNDS = 1000  # of relaxation of potentials; some tens are usual, and a gap says where they were too few
Places = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Coupling:
    """Masses on pairs of the points x_i of one set and y_j of another, those with a weight, in the order given.

    Attributes:
        rows, columns: i and j of the pairs, shape (m,).
        masses: m_ij of the pairs, shape (m,).
        cost: sum m_ij |x_i - y_j|^p.
        bound: sum a_i f_i + sum b_j g_j, which no coupling's cost is below.
        potentials: f and g, shapes (n,) and (k,).
    """

    rows: Places
    columns: Places
    masses: Array
    cost: float
    bound: float
    potentials: tuple[Array, Array]


def optimal_coupling(p: GaussianMixture, q: GaussianMixture, order: float) -> Coupling:
    """The optimal coupling of two laws of points for the cost |x - y|^p, p = `order` >= 1.

    Raises:
        ValueError: in more than one dimension there are more pairs of points than can be held.

    Examples:
        >>> from refdiff import Empirical
        >>> from refdiff.metrics.couplings import optimal_coupling
        >>> found = optimal_coupling(Empirical([[0.0], [1.0]]), Empirical([[3.0], [2.0]]), 2.0)
        >>> print(found.rows, found.columns, round(found.cost, 6))  # 0 to 2 and 1 to 3
        [0 1] [1 0] 4.0
    """
    (x, a), (y, b) = weighted_points(p), weighted_points(q)
    if x.shape[1] == 1:
        return rank_coupling(x[:, 0], a, y[:, 0], b, order)
    assigned = len(x) == len(y) and a.min() == a.max() and b.min() == b.max()
    most = ASSIGNED if assigned else PROGRAMMED
    if len(x) * len(y) > most:
        raise ValueError(
            f"p and q must have at most {most} pairs of points for {'an assignment' if assigned else 'a program'}, got "
            f"{len(x)} x {len(y)}: sliced distances, the energy distance and MMD take more"
        )
    cost = _costs(x, y, order)
    return _assignment(cost, a) if assigned else planned(cost, a, b)


def rank_coupling(x: Array, a: Array, y: Array, b: Array, order: float) -> Coupling:
    """The coupling of equal ranks of points x (n,) and y (k,) on the line with positive weights a (n,) and b (k,).

    It is optimal for the cost |x - y|^p with any p = `order` >= 1.
    """
    by_x, by_y = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    x, y, a, b = x[by_x], y[by_y], a[by_x], b[by_y]
    above, beyond = np.cumsum(a)[:-1], np.cumsum(b)[:-1]
    # a step of the staircase to the next x or to the next y wherever a rank ends
    levels, to_x = _steps(above, beyond)
    i, j = (np.concatenate([[0], np.cumsum(step)]) for step in (to_x, ~to_x))
    masses, costs = np.maximum(np.diff(levels, prepend=0.0, append=1.0), 0.0), np.abs(x[i] - y[j]) ** order
    # Where both ranks end potentials are not unique: the means of both ways are 0 for equal sets, as are those of laws.
    ways = to_x, ~_steps(beyond, above)[1]
    f, g = np.empty(len(x)), np.empty(len(y))
    f[by_x], g[by_y] = (np.mean(part, axis=0) for part in zip(*[_along(x, y, way, order) for way in ways], strict=True))
    felt = masses > 0
    i, j, masses = by_x[i[felt]], by_y[j[felt]], masses[felt]
    # a and b are sorted
    bound = a @ f[by_x] + b @ g[by_y]
    return Coupling(i, j, masses, float(masses @ costs[felt]), float(bound), (f, g))


def _steps(first: Array, second: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The levels of both (n + k,) in order, and whether each is of the first (n,), which go first where equal."""
    both = np.concatenate([first, second])
    order = np.argsort(both, kind="stable")
    return both[order], order < len(first)


def _along(x: Array, y: Array, to_x: NDArray[np.bool_], order: float) -> tuple[Array, Array]:
    """f and g at sorted points x (n,) and y (k,), equal to the cost together on a staircase with these steps."""
    i, j = (np.concatenate([[0], np.cumsum(step)]) for step in (to_x, ~to_x))
    costs = np.abs(x[i] - y[j]) ** order
    rises = np.diff(costs)
    f, g = (np.concatenate([[0.0], np.cumsum(rises[step])]) for step in (to_x, ~to_x))
    return f, costs[0] + g


def _costs(x: Array, y: Array, order: float) -> Array:
    from scipy.spatial.distance import cdist  # late: a quarter of the time to import this package

    squared = np.asarray(cdist(x, y, "sqeuclidean"))
    return squared if order == 2 else squared ** (order / 2)


def _assignment(cost: Array, a: Array) -> Coupling:
    """Each point to another one, with all pairs' `cost` (n, n)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost)
    matched, g = cost[rows, columns], np.zeros(len(cost))
    for _ in range(ROUNDS):  # f + g = cost on the pairs; f + g <= cost elsewhere once nothing changes
        before, f = g, matched - g[columns]
        g = np.minimum(g, (cost - f[:, None]).min(axis=0))
        if (g == before).all():
            break
    return _proved(cost, a, a, rows, columns, a, g)


def planned(cost: Array, a: Array, b: Array) -> Coupling:
    """The coupling of least cost by a linear program, for all pairs' `cost` (n, k) and weights a (n,) and b (k,).

    Raises:
        ValueError: the solver finds none.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    n, k = cost.shape
    sums = sparse.vstack([sparse.kron(sparse.eye(n), np.ones((1, k))), sparse.kron(np.ones((1, n)), sparse.eye(k))])
    scale = cost.max() or 1.0  # the solver's tolerances are absolute
    found = linprog(cost.ravel() / scale, A_eq=sums.tocsr(), b_eq=np.concatenate([a, b]), method="highs")
    if found.x is None:
        raise ValueError(f"p and q must have weights that HiGHS can couple, got its answer: {found.message}")
    masses = np.maximum(found.x, 0.0)
    felt = np.flatnonzero(masses)
    rows, columns = np.unravel_index(felt, cost.shape)
    return _proved(cost, a, b, rows, columns, masses[felt], scale * found.eqlin.marginals[n:])


def _proved(cost: Array, a: Array, b: Array, rows: Places, columns: Places, masses: Array, g: Array) -> Coupling:
    """The coupling with the best f for g (k,), and then the best g."""
    f = (cost - g).min(axis=1)
    g = (cost - f[:, None]).min(axis=0)
    return Coupling(rows, columns, masses, float(masses @ cost[rows, columns]), float(a @ f + b @ g), (f, g))
