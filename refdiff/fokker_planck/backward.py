r"""Kolmogorov's backward equation on a grid: expectations, hitting chances and mean times, of every start at once.

    u(x, s) = E[phi(x_t) | x_s = x]:      -d_s u = b . grad u + 1/2 tr(D grad grad' u)
    on cells                              -d u / ds = A' u,     A of `FokkerPlanck`
    duality                               sum_i p_i(s) u_i(s) = sum_i p_i(t) phi_i,      d p / ds = A p

Steps are the transposes of those of `evolve`, taken in the other order, so that the sums of the duality are one number
up to rounding whatever the steps are, for every method that is linear (patankar is not). With the pivots q and rates of
`sweeps` the transpose of a line's matrix is solved without a subtraction as well,

    z_i = x_i + dt d_i z_(i-1) / q_(i-1),     y_i = (z_i + dt u_i y_(i+1)) / q_i

and rows of A' sum to zero, or less at absorbing walls, where u = 0: with euler and exponential u keeps between the
least and the largest phi. To hit one set before another, and when, are linear equations in A' alone.
Sources: PODD-84, PODD-76.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csc_array, csr_array
from scipy.sparse.csgraph import breadth_first_order
from scipy.sparse.linalg import splu

from refdiff.arguments import Array, one_of, real_scalar, single_precision
from refdiff.fokker_planck.evolution import EXPONENTIAL, intervals, pieces, uniformized
from refdiff.fokker_planck.fluxes import ROUNDING, Step
from refdiff.fokker_planck.layouts import Layout, layout
from refdiff.fokker_planck.operator import FokkerPlanck, known
from refdiff.fokker_planck.sweeps import GAMMA, METHODS, STRETCH, Line, extended

LINEAR = ("euler", "crank-nicolson", "tr-bdf2", EXPONENTIAL)


def expectation(
    operator: FokkerPlanck, payoff: ArrayLike, times: ArrayLike, *, step: float, method: str = "tr-bdf2"
) -> Array:
    """u = E[phi(x_times[0]) | x_s] at every s of the times, shape (m, *cells).

    Args:
        operator: the equation on its grid; absorbing walls pay nothing.
        payoff: phi at the centres, shape (*cells) (float32 in, float32 out).
        times: shape (m,), m >= 1: that of the payoff first, then those at which paths start. They decrease, or increase
            for the equation of a reversal, in which paths run from noise to data.
        step: the longest step in time; each interval is divided evenly.
        method: tr-bdf2, crank-nicolson, euler or exponential.

    Raises:
        TypeError: no FokkerPlanck.
        ValueError: an unknown method or one that is not linear, as limited fluxes are not, times that turn round, a
            payoff of another shape, or no step.
    """
    grid = _operator(operator).grid
    one_of("method", method, LINEAR)
    single = getattr(payoff, "dtype", None) == np.float32
    u = grid.check("payoff", payoff)
    if u.shape != grid.shape:
        raise ValueError(f"payoff must have shape {grid.shape}, got {u.shape}")
    _, parts = intervals(times, step)
    found = [u]
    for part in parts:
        nodes = part[::-1]  # in the order of the paths, as in `evolve`
        u = _exponential(operator, u, nodes) if method == EXPONENTIAL else _split(operator, u, nodes, method)
        found.append(u)
    values = np.stack(found)
    return single_precision(values) if single else values


def hitting_probability(
    operator: FokkerPlanck, target: ArrayLike, avoided: ArrayLike | None = None, t: float = 0.0
) -> Array:
    """The probability of reaching a set of cells before another, and before an absorbing wall, shape (*cells).

    It solves A' u = 0 with u = 1 on the target and u = 0 on what is avoided: the committor.

    Args:
        operator: the equation, whose coefficients are taken at the time t.
        target: whether a cell is in the set, shape (*cells).
        avoided: whether a cell is in the other set, shape (*cells).
        t: a scalar.

    Raises:
        TypeError: no FokkerPlanck.
        ValueError: sets of another shape, that meet or are empty, or cells from which no set and no wall is reached.

    Examples:
        >>> import numpy as np
        >>> from refdiff.fokker_planck import FokkerPlanck, Grid, hitting_probability
        >>> cells = Grid(0.0, 5.0, 5)
        >>> free = FokkerPlanck(cells, lambda x, t: 0 * x, lambda x, t: 1.0)  # Brownian motion: the ruin of a gambler
        >>> print(hitting_probability(free, np.arange(5) == 4, np.arange(5) == 0).round(6) + 0.0)
        [0.   0.25 0.5  0.75 1.  ]
    """
    inside = _cells(operator, "target", target)
    outside = np.zeros_like(inside) if avoided is None else _cells(operator, "avoided", avoided)
    if not inside.any() or (inside & outside).any():
        raise ValueError("target must hold a cell, and none that is avoided")
    return _stopped(operator, inside | outside, inside.astype(np.float64), 0.0, t)


def mean_hitting_time(operator: FokkerPlanck, target: ArrayLike | None = None, t: float = 0.0) -> Array:
    """The mean time until a set of cells or an absorbing wall is reached, shape (*cells): A' u = -1, u = 0 there.

    Args:
        operator: the equation, whose coefficients are taken at the time t.
        target: whether a cell is in the set, shape (*cells); none where left out, so that walls have to be absorbing.
        t: a scalar.

    Raises:
        TypeError: no FokkerPlanck.
        ValueError: a set of another shape, or cells from which it is never reached.

    Examples:
        >>> import numpy as np
        >>> from refdiff.fokker_planck import FokkerPlanck, Grid, mean_hitting_time
        >>> cells = Grid(0.0, 5.0, 5)
        >>> free = FokkerPlanck(cells, lambda x, t: 0 * x, lambda x, t: 1.0)  # a walk with steps at the rate 1
        >>> ends = np.array([True, False, False, False, True])
        >>> print(mean_hitting_time(free, ends).round(6) + 0.0)  # i (n - i)
        [0. 3. 4. 3. 0.]
    """
    found = (
        np.zeros(_operator(operator).grid.shape, dtype=bool) if target is None else _cells(operator, "target", target)
    )
    return _stopped(operator, found, np.zeros(found.shape), 1.0, t)


# ---------------------------------------------------------------------- parts


def _operator(operator: Any) -> FokkerPlanck:
    if known(operator).fit == "limited":
        raise ValueError("operator must have fluxes that are linear in the density, got limited ones")
    return known(operator)


def _cells(operator: FokkerPlanck, name: str, given: ArrayLike) -> NDArray[np.bool_]:
    found = np.asarray(given)
    if found.dtype != bool or found.shape != _operator(operator).grid.shape:
        raise ValueError(f"{name} must say of each of {operator.grid.shape} cells whether it is in it, got {given!r}")
    return found


def _stopped(operator: FokkerPlanck, stop: NDArray[np.bool_], values: Array, rate: float, t: float) -> Array:
    """u with A' u = -rate where paths go on, and u = `values` where they stop, shape (*cells)."""
    matrix = operator.matrix(real_scalar("t", t)).T.tocsr()
    on, flat = ~stop.ravel(), values.ravel().copy()
    rows = matrix[on]
    inner, out, size = rows[:, on], rows[:, ~on], -rows[:, on].diagonal()
    lost = (out.sum(axis=1) > 0) | (-rows.sum(axis=1) > ROUNDING * size)
    if not _all_end(inner, lost):
        raise ValueError(
            "target must be reached from every cell, or a wall absorb, got cells from which paths never end"
        )
    if on.any():
        scaled = csc_array(-inner / size[:, None])
        flat[on] = splu(scaled).solve((out @ flat[~on] + rate) / size)
    return flat.reshape(values.shape)


def _all_end(inner: Any, lost: NDArray[np.bool_]) -> bool:
    """Whether all cells have a way to those from which paths are `lost` (n,), by rates (n, n) from row to column."""
    found = inner.tocoo()
    jumps = (found.data > 0) & (found.row != found.col)
    end, ends = len(lost), np.flatnonzero(lost)
    starts = np.concatenate([found.col[jumps], np.full(len(ends), end)])
    graph = csr_array(
        (np.ones(len(starts)), (starts, np.concatenate([found.row[jumps], ends]))), shape=(end + 1, end + 1)
    )
    return len(breadth_first_order(graph, end, return_predecessors=False)) == end + 1


def _split(operator: FokkerPlanck, u: Array, nodes: Array, method: str) -> Array:
    """u (*cells) at the first of the nodes (n,) in time from that at the last of them."""
    to_data = bool(nodes[-1] < nodes[0])
    layouts: dict[Step, Layout] = {}
    lines: dict[Step, Line] = {}
    for step, begin, end in reversed(list(pieces(operator, nodes, METHODS[method].order))):
        rates = operator.rates_along(step, (begin + end) / 2, to_data=to_data)
        if rates is None:
            continue
        if step not in layouts:
            layouts[step] = layout(operator.grid.shape, step, operator.boundary)
        if step not in lines or not operator.steady:
            lines[step] = layouts[step].line(rates)
        u = layouts[step].put(_backwards(method, layouts[step].take(u), abs(end - begin), lines[step]))
    return u


def _backwards(method: str, x: Array, dt: float, line: Line) -> Array:
    """The transpose of a step of `evolve`: the same function of A', as they are functions of A alone."""
    if method == "euler":
        return solve_transposed(x, dt, line)
    if method == "crank-nicolson":
        return extended(x, solve_transposed(x, dt / 2, line), 2.0)
    part = GAMMA * dt / 2
    return solve_transposed(extended(x, solve_transposed(x, part, line), STRETCH), part, line)


def solve_transposed(x: Array, dt: float, line: Line) -> Array:
    """y of (I - dt A') y = x for lines x (n, m), shape (n, m); dt is a scalar, `line` has the rates."""
    up, down = dt * line.up, dt * line.down
    if not line.wrap:
        return _eliminated(x, up, down)
    # the last cell is taken out of the ring, and what is left lies between two absorbing walls
    inner = _eliminated(x[:-1], up[:-1], down[:-1])
    sent = np.zeros((len(x) - 1, *up.shape[1:]))
    sent[0], sent[-1] = down[0], sent[-1] + up[-2]
    # the share that each cell has of the last one's y, and one less that, which are both sums of what is not negative
    share, rest = _eliminated(sent, up[:-1], down[:-1]), _eliminated(np.ones_like(sent), up[:-1], down[:-1])
    last = (x[-1] + up[-1] * inner[0] + down[-1] * inner[-1]) / (1 + up[-1] * rest[0] + down[-1] * rest[-1])
    return np.concatenate([inner + share * last, np.broadcast_to(last, x[-1:].shape)])


def _eliminated(x: Array, up: Array, down: Array) -> Array:
    """y of (1 + u_i + d_i) y_i - d_i y_(i-1) - u_i y_(i+1) = x_i, y = 0 beyond both ends."""
    n = len(x)
    pivots = np.empty(np.broadcast_shapes(up.shape, down.shape))
    z = np.empty(np.broadcast_shapes(x.shape, pivots.shape))
    left = 1 + down[0]
    z[0] = x[0]
    for i in range(n):
        if i:
            left = 1 + down[i] * (left / pivots[i - 1])
            z[i] = x[i] + down[i] / pivots[i - 1] * z[i - 1]
        pivots[i] = left + up[i]
    z[-1] /= pivots[-1]
    for i in range(n - 2, -1, -1):
        z[i] = (z[i] + up[i] * z[i + 1]) / pivots[i]
    return z


def _exponential(operator: FokkerPlanck, u: Array, nodes: Array) -> Array:
    """u (*cells) at the first of the nodes (n,) by uniformization."""
    to_data, flat = bool(nodes[-1] < nodes[0]), u.ravel()
    matrix: Any = None
    for a, b in reversed(list(pairwise(nodes.tolist()))):
        if matrix is None or not operator.steady:
            matrix = operator.matrix((a + b) / 2, to_data=to_data).T.tocsr()
        flat = uniformized(matrix, flat, abs(b - a))
    return np.asarray(flat.reshape(u.shape))
