r"""Orders of convergence, measured: strong ones on shared paths, weak ones from exact moments or on common noise.

    strong   e(n) = sqrt(E |x_n - x*|^2) ~ C n^-p         x* exact on the same path, or the run of 2 n steps
    weak     E f(x_n) - E f(x(T)) ~ C n^-q                moments of linear equations without sampling, and
                                                          E [f(x_n) - f(x_2n)] on common noise

One step of a method on a linear equation is linear in x and a polynomial in the increments, so that Gauss-Hermite sums
give E x and E x x' after it from those before. A run is any function of a path (`Increments`): `followed` makes one of
an equation and a method, `tabled` one of a sampler's table, whose normals become the path's. Error bars leave out one
group of particles after the other. Sources: PODD-64, PODC9-12; Giles 2008 (multilevel Monte Carlo), for common noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_array, whole_number
from refdiff.samplers.running import Model
from refdiff.samplers.running import run as run_table
from refdiff.samplers.tableau import Tableau
from refdiff.stochastic.brownian_steps import Increments, Piece, monotonic
from refdiff.stochastic.equation import StochasticEquation
from refdiff.stochastic.solvers import METHODS, advanced, solve, taken

Run = Callable[[Increments], Array]
GROUPS = 16
NODES = 4  # of Gauss-Hermite, exact to degree 7: squares of steps cubic in dw and quadratic in H have 6; signs too


class Measured(NamedTuple):
    """A measured order.

    Attributes:
        order: minus the slope of log error over log n.
        error: the standard error of the order.
        counts: the numbers of steps.
        errors: the error at each of them.
    """

    order: float
    error: float
    counts: tuple[int, ...]
    errors: tuple[float, ...]


class Limit(NamedTuple):
    """The limit of E f(x_n): the value () or (k,), and its standard error."""

    value: Array
    error: Array


# ---------------------------------------------------------------------- runs


def followed(equation: StochasticEquation, x: ArrayLike, method: str = "euler-maruyama") -> Run:
    """`solve` for an equation from points x (n, d) by a method, as a function of a path whose particles are 0..n-1."""
    return lambda path: np.asarray(solve(equation, x, path.times, method, path=path), dtype=float)


def tabled(build: Callable[[Array], Tableau], model: Model, x: ArrayLike) -> Run:
    """A sampler's table for a model from points x (n, d), as a function of a path.

    The table's normals are dw / sqrt(h) of the path's steps, one after the other; where it draws two a step, sqrt(12 /
    h) H follows each.

    Args:
        build: the path's times (k + 1,) -> the table. A sampler whose steps have two parts, each with noise of its own,
            takes every second time.
        model: what the table asks.
        x: where to start, shape (n, d).
    """

    def follow(path: Increments) -> Array:
        table, steps = build(path.times), len(path.times) - 1
        if table.draws not in (steps, 2 * steps):
            raise ValueError(f"build must give a table with one or two normals for each of {steps} steps, got one "
                             f"with {table.draws}")  # fmt: skip
        normals = path.unit
        if table.draws > steps:
            normals = np.stack([path.unit, path.unit_areas], axis=1).reshape(-1, *path.unit.shape[1:])
        return np.asarray(run_table(table, model, x, normals=normals), dtype=float)

    return follow


# ---------------------------------------------------------------------- strong


def strong_order(run: Run, path: Increments, counts: Sequence[int], reference: ArrayLike | None = None) -> Measured:
    """The strong order of a run, on one path for all numbers of steps.

    Args:
        run: path -> end points (n, d).
        path: the finest path; counts divide its number of steps.
        counts: numbers of steps, at least two.
        reference: the end points (n, d) themselves, of particles that share the path's; unless given, errors are
            distances of runs of n and 2 n steps, which fall with the same order.

    Raises:
        ValueError: counts that do not divide the path's steps, too few of them, or an error that is 0.
    """
    numbers = _counts(path, counts, doubled=reference is None)
    ends = {n: np.asarray(run(_coarse(path, n))) for n in numbers}
    exact = None if reference is None else real_array("reference", reference)
    squares = np.array([((ends[n] - (ends[2 * n] if exact is None else exact)) ** 2).sum(axis=1) for n in counts])
    if not squares.any(axis=1).all():
        raise ValueError("counts must leave an error to measure, got runs that are exact")
    means = squares.mean(axis=1)

    def slope(values: Array) -> float:
        return float(-np.polyfit(np.log(counts), 0.5 * np.log(values), 1)[0])

    without = np.array([slope(squares[:, kept].mean(axis=1)) for kept in _jackknife(squares.shape[1])])
    error = np.sqrt((len(without) - 1) * np.var(without))
    return Measured(slope(means), float(error), tuple(counts), tuple(np.sqrt(means).tolist()))


def _coarse(path: Increments, steps: int) -> Increments:
    return path.coarsened((len(path.times) - 1) // steps)


def _counts(path: Increments, counts: Sequence[int], doubled: bool) -> list[int]:
    """All numbers of steps that are run."""
    if len(counts) < 2:
        raise ValueError(f"counts must be at least two numbers of steps, got {list(counts)}")
    every = {whole_number("counts", n, low=1) for n in counts}
    every |= {2 * n for n in every} if doubled else set()
    steps = len(path.times) - 1
    if any(steps % n for n in every):
        raise ValueError(f"counts must divide the path's {steps} steps, got {sorted(every)}")
    return sorted(every)


def _jackknife(count: int) -> list[Array]:
    """Which particles are left, for each group that is left out."""
    groups = min(GROUPS, count)
    if groups < 2:
        raise ValueError(f"path must have at least two particles, got {count}")
    return [np.arange(count) % groups != left for left in range(groups)]


# ---------------------------------------------------------------------- weak, on common noise


def weak_order(run: Run, path: Increments, counts: Sequence[int], statistic: Callable[[Array], Array]) -> Measured:
    """The weak order of a run for one statistic, from E [f(x_n) - f(x_2n)] on common noise.

    Differences are weighted by their standard errors; those under three of them are left out.

    Args:
        run: path -> end points (n, d).
        path: the finest path; counts and their doubles divide its number of steps.
        counts: numbers of steps.
        statistic: points (n, d) -> f, shape (n,).

    Raises:
        ValueError: counts that do not divide the path's steps, or fewer than two differences above their noise.
    """
    numbers = _counts(path, counts, doubled=True)
    values = {n: np.asarray(statistic(np.asarray(run(_coarse(path, n))))) for n in numbers}
    changes = np.array([values[n] - values[2 * n] for n in counts])
    means, errors = changes.mean(axis=1), changes.std(axis=1, ddof=1) / np.sqrt(changes.shape[1])
    clear = np.abs(means) > 3 * errors
    if clear.sum() < 2:
        raise ValueError(f"counts must give two differences above their noise, got {means} with {errors}")
    order, error = _weighted(np.asarray(counts)[clear], np.abs(means[clear]), errors[clear])
    return Measured(order, error, tuple(counts), tuple(np.abs(means).tolist()))


def _weighted(counts: Array, values: Array, errors: Array) -> tuple[float, float]:
    """Minus the slope of log values over log counts, by least squares with relative errors; and its error."""
    weights = values / errors
    design = np.stack([np.ones(len(counts)), -np.log(counts)], axis=1) * weights[:, None]
    order = np.linalg.lstsq(design, np.log(values) * weights)[0][1]
    return float(order), float(np.sqrt(np.linalg.inv(design.T @ design)[1, 1]))


def weak_limit(run: Run, path: Increments, order: float, statistic: Callable[[Array], Array]) -> Limit:
    """The limit of E f(x_n) from runs of all the path's steps and of half of them, on common noise.

    (2^q f(x_n) - f(x_n/2)) / (2^q - 1) leaves the next power of h.

    Args:
        run: path -> end points (n, d).
        path: the finer path, of an even number of steps.
        order: q, the weak order.
        statistic: points (n, d) -> f, shape (n,) or (n, k).
    """
    fine, coarse = (np.asarray(statistic(np.asarray(run(part)))) for part in (path, path.coarsened(2)))
    values = (2**order * fine - coarse) / (2**order - 1)
    return Limit(values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values)))


# ---------------------------------------------------------------------- weak, without sampling


def linear_moments(
    equation: StochasticEquation, method: str, times: ArrayLike, mean: ArrayLike, covariance: ArrayLike
) -> tuple[Array, Array]:
    """The exact mean (d,) and covariance (d, d) of a method's output for a linear equation.

    Args:
        equation: b and G are affine in x.
        method: one of METHODS.
        times: the grid, shape (k + 1,).
        mean, covariance: those of x at the first time, (d,) and an operator on R^d.

    Raises:
        ValueError: the equation is not linear, or its noise multiplies x and has more than two motions.

    Examples:
        >>> import numpy as np
        >>> from refdiff.stochastic import StochasticEquation, linear_moments
        >>> equation = StochasticEquation(lambda x, t: -x, lambda t: np.sqrt(2), 1)
        >>> mean, covariance = linear_moments(equation, "euler-maruyama", [0.0, 0.5, 1.0], [1.0], 0.0)
        >>> print(mean.round(6), covariance.round(6))  # m <- m / 2, P <- P / 4 + 2 h, twice
        [0.25] [[1.25]]
    """
    grid, (m, p) = monotonic("times", times), _start(equation, mean, covariance)
    chosen, (z, w) = METHODS[method], _nodes(equation)
    taken(chosen, equation, m[None], float(grid[0]))
    corners = np.concatenate([np.zeros((1, equation.dim)), np.eye(equation.dim), np.full((1, equation.dim), 2.0)])
    x = np.tile(corners, (len(z), 1))
    rows = np.repeat(z, len(corners), axis=0)
    for s, t in pairwise(grid.tolist()):
        h = abs(t - s)
        dw, area = np.split(rows * np.sqrt(h), 2, axis=1)
        after = advanced(chosen, equation, x, s, t, Piece(dw, area / np.sqrt(12)))
        found = after.reshape(len(z), len(corners), -1)
        offset, gain = found[:, 0], np.swapaxes(found[:, 1:-1] - found[:, :1], 1, 2)
        expected = offset + 2 * gain.sum(axis=2)
        if np.abs(found[:, -1] - expected).max() > 1e-8 * (1 + np.abs(expected).max()):
            raise ValueError(f"equation must be linear in x, got one that is not at t = {s}")
        second = p + np.outer(m, m)
        ends = gain @ m
        square = np.einsum("q,qij,jk,qlk->il", w, gain, second, gain)
        cross = np.einsum("q,qi,qj->ij", w, ends, offset)
        m = w @ (ends + offset)
        p = square + cross + cross.T + np.einsum("q,qi,qj->ij", w, offset, offset) - np.outer(m, m)
    return m, p


def exact_moments(
    equation: StochasticEquation, start: float, end: float, mean: ArrayLike, covariance: ArrayLike
) -> tuple[Array, Array]:
    """The mean (d,) and covariance (d, d) of the solution of a linear equation, by their own equations.

    With dx = (F x + u) dt + G dw: m' = F m + u, P' = F P + P F' +- E G G', integrated to 1e-12.

    Args:
        equation: b and G are affine in x.
        start, end: the times.
        mean, covariance: those of x at the start, (d,) and an operator on R^d.

    Examples:
        >>> import numpy as np
        >>> from refdiff.stochastic import StochasticEquation, exact_moments
        >>> equation = StochasticEquation(lambda x, t: -x, lambda t: np.sqrt(2), 1)
        >>> mean, covariance = exact_moments(equation, 0.0, np.log(2), [1.0], 0.0)
        >>> print(mean.round(6), covariance.round(6))  # e^-t, 1 - e^-2t
        [0.5] [[0.75]]
    """
    from scipy.integrate import solve_ivp  # late: it takes longer to import than all of this package

    first, d = _start(equation, mean, covariance), equation.dim
    sign = 1.0 if end > start else -1.0

    def rate(t: float, state: Array) -> Array:
        m, p = state[:d], state[d:].reshape(d, d)
        drift = equation.drift_at(np.concatenate([m[None], np.eye(d), np.zeros((1, d))]), t)
        f = (drift[1:-1] - drift[-1]).T
        # 2 d points with this mean and covariance average the squares of what is linear
        root = np.sqrt(d) * operators.root(p)
        rates = equation.covariance_rate(np.concatenate([m + root, m - root]), t)
        spread = operators.dense(rates, d) if equation.additive else _matrices(rates).mean(axis=0)
        return np.concatenate([drift[0], (f @ p + p @ f.T + sign * spread).ravel()])

    state = np.concatenate([first[0], first[1].ravel()])
    found = solve_ivp(rate, (start, end), state, "DOP853", rtol=1e-12, atol=1e-13 * np.abs(state).max()).y[:, -1]
    return found[:d], found[d:].reshape(d, d)


def _matrices(rates: Array) -> Array:
    """Diagonals (n, d) as matrices (n, d, d); those as they are."""
    return rates[:, :, None] * np.eye(rates.shape[1]) if rates.ndim == 2 else rates


def _start(equation: StochasticEquation, mean: ArrayLike, covariance: ArrayLike) -> tuple[Array, Array]:
    m, p = real_array("mean", mean, ndim=(1,)), operators.covariance("covariance", covariance)
    if m.shape != (equation.dim,):
        raise ValueError(f"mean must have shape ({equation.dim},), got {m.shape}")
    operators.fits("covariance", p, equation.dim)
    return m, operators.dense(p, equation.dim)


def _nodes(equation: StochasticEquation) -> tuple[Array, Array]:
    """Unit normals (q, 2 m) and weights (q,): exact for squares of what a step does with them."""
    size: Any = 2 * equation.motions
    if equation.additive:  # a step is linear in them
        corners = np.sqrt(size) * np.eye(size)
        return np.concatenate([corners, -corners]), np.full(2 * size, 0.5 / size)
    if equation.motions > 2:
        raise ValueError(f"equation must have at most two motions where noise multiplies x, got {equation.motions}")
    z, w = np.polynomial.hermite_e.hermegauss(NODES)
    grid = np.stack(np.meshgrid(*[z] * size, indexing="ij"), axis=-1).reshape(-1, size)
    weights = np.stack(np.meshgrid(*[w / w.sum()] * size, indexing="ij"), axis=-1).reshape(-1, size).prod(axis=1)
    return grid, weights
