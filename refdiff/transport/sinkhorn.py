r"""Entropic optimal transport of point sets: Sinkhorn's iteration on potentials.

    min { sum_ij m_ij c_ij + eps sum_ij m_ij log(m_ij / a_i b_j) : sum_j m_ij = a_i, sum_i m_ij = b_j }
    m_ij = a_i b_j exp((f_i + g_j - c_ij) / eps)
    f_i  = -eps log sum_j b_j exp((g_j - c_ij) / eps)        rows sum to a
    g_j  = -eps log sum_i a_i exp((f_i - c_ij) / eps)        columns sum to b

f and g are taken in turns, in logarithms, so that no eps is too small. (f + t, g - t) is the same plan. With f = f(g)
the plan's rows are right, and what its columns lack is known when g is next computed.

Updates may go beyond, and Newton's steps end what is small: `turns` says how. Points on a GPU stay there, with their
potentials: a few numbers come back from each pair of updates. Sources: PODB-74, PODB-75; Cuturi 2013, "Sinkhorn
distances"; Pooladian and Niles-Weed 2021, "Entropic estimation of optimal transport maps", for the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, points, real_array, real_scalar, whole_number
from refdiff.backends import array_module, on_device
from refdiff.distributions import GaussianMixture
from refdiff.metrics.compared import Compared, is_points
from refdiff.transport.costs import Cost, Ground, ground_cost
from refdiff.transport.device_points import DevicePoints, numbers, on_gpu, points_near, two_laws, where_it_is
from refdiff.transport.pairs import PairLaw, component_pairs
from refdiff.transport.soft_minima import Side, masses, side
from refdiff.transport.turns import Turns

HELD = 2**26  # masses of a coupling that are held: half a gigabyte
# eps falls by a factor at a time, after a few updates or when the marginal error is small enough to go on
COOLER, ROUGH, SOON = 4.0, 0.1, 10


@dataclass(frozen=True, eq=False)
class EntropicPlan:
    """A coupling of points with an entropy, by its potentials. Points of weight 0 have potentials too.

    Of points on a GPU, all arrays but `errors` are CuPy's, those that are given and those that are answered.

    Attributes:
        p: the law of x, n points, or `DevicePoints`.
        q: the law of y, m points, or `DevicePoints`.
        cost: c(x, y).
        epsilon: eps.
        f: potentials of x, shape (n,).
        g: potentials of y, shape (m,).
        value: the dual value sum a f + sum b g - eps (total mass - 1), which no coupling's cost is below.
        marginal_error: sum_i |sum_j m_ij - a_i| + sum_j |sum_i m_ij - b_j|.
        iterations: pairs of updates.
        errors: the marginal error met in each of them, shape (iterations,).
    """

    p: GaussianMixture
    q: GaussianMixture
    cost: Cost
    epsilon: float
    f: Array
    g: Array
    value: float
    marginal_error: float
    iterations: int
    errors: Array

    def __repr__(self) -> str:
        return f"EntropicPlan({self.p.count} x {self.q.count} points, epsilon={self.epsilon:g})"

    def swapped(self) -> EntropicPlan:
        """The same coupling of (y, x)."""
        return EntropicPlan(self.q, self.p, self.cost.swapped(), self.epsilon, self.g, self.f, self.value,
                            self.marginal_error, self.iterations, self.errors)  # fmt: skip

    # ------------------------------------------------------------------ the coupling

    @where_it_is
    def coupling(self) -> Array:
        """m_ij, shape (n, m).

        Raises:
            ValueError: there are more than 2^26 pairs of points, and they are not on a GPU.
            MemoryError: they do not fit on the GPU where the points are.
        """
        p, q = self.p, self.q
        if p.count * q.count > HELD and not on_device(self.f):
            raise ValueError(
                f"p and q must have at most {HELD} pairs of points for a matrix, got {p.count} x {q.count}"
            )
        return masses(self.cost, p.means, q.means, p.log_weights, q.log_weights, self.f, self.g, self.epsilon)

    def pairs(self) -> PairLaw:
        """The coupling as a law of pairs, its halves p and q.

        Where the marginal error is above 1e-9, masses are first lowered to what rows and columns may hold, and what is
        missing added as a product (Altschuler, Weed and Rigollet 2017), which moves less than twice that error.

        Raises:
            TypeError: the points are on a GPU.
            ValueError: as of `coupling`.
        """
        if on_device(self.f):
            raise TypeError("pairs() answers with a law, which holds arrays of NumPy: points on a GPU have coupling()")
        masses, a, b = self.coupling(), self.p.weights, self.q.weights
        if self.marginal_error > 1e-9:
            for sums, weights in ((masses.sum(axis=1)[:, None], a[:, None]), (masses.sum(axis=0), b)):
                masses *= np.minimum(1.0, np.divide(weights, sums, out=np.ones_like(sums), where=sums > 0))
            rows, columns = a - masses.sum(axis=1), b - masses.sum(axis=0)
            if rows.sum() > 0:
                masses += np.outer(np.maximum(rows, 0), np.maximum(columns, 0)) / rows.sum()
        return component_pairs(self.p, self.q, masses)

    @where_it_is
    def plan_times(self, v: ArrayLike) -> Array:
        """sum_j m_ij v_j, shape (n,) or (n, k), without the matrix.

        Args:
            v: numbers at the points y, shape (m,) or (m, k).

        Raises:
            ValueError: v has another shape.
        """
        values = self._numbers("v", v)
        if len(values) != self.q.count:
            raise ValueError(f"v must have {self.q.count} rows, one for each point of q, got shape {values.shape}")
        half, logs = self._side(), self.p.log_weights + self.f / self.epsilon
        sums = array_module(logs).exp(logs - half.minima(self.g, self.epsilon))
        means = half.means(self.g, self.epsilon, values.reshape(len(values), -1))
        result: Array = (sums[:, None] * means).reshape(-1, *values.shape[1:])
        return result

    @where_it_is
    def mean_cost(self) -> float:
        """sum_ij m_ij c_ij."""
        return float(self.p.weights @ self._side().mean_costs(self.g, self.epsilon))

    @where_it_is
    def kl(self) -> float:
        """sum_ij m_ij log(m_ij / a_i b_j), the divergence from the product of p and q."""
        columns = self.swapped().plan_times(0 * self.f + 1)
        return float((self.p.weights @ self.f + columns @ self.g - self.mean_cost()) / self.epsilon)

    # ------------------------------------------------------------------ at other points

    @where_it_is
    def potential(self, x: ArrayLike) -> Array:
        """f(x) = -eps log sum_j b_j exp((g_j - c(x, y_j)) / eps) at any points.

        Args:
            x: points, shape (..., d).
        """
        where, restore = self._points("x", x)
        return restore(self.epsilon * self._side(where).minima(self.g, self.epsilon))

    @where_it_is
    def barycentric(self, x: ArrayLike | None = None) -> Array:
        """E[y | x], the entropic map, at any points x (..., d), or at those of p where x is left out.

        For half of the squared distance it is x - grad f(x).

        Args:
            x: points, shape (..., d).
        """
        if x is None:
            return self._side().means(self.g, self.epsilon, self.q.means)
        where, restore = self._points("x", x)
        return restore(self._side(where).means(self.g, self.epsilon, self.q.means))

    @where_it_is
    def log_density(self, x: ArrayLike, y: ArrayLike) -> Array:
        """log of the density (f(x) + g(y) - c(x, y)) / eps of the plan to the product of p and q, shape (...).

        Args:
            x: points, shape (..., d).
            y: as many points, shape (..., d).

        Raises:
            ValueError: x and y have different shapes.
        """
        where, restore = self._points("x", x)
        other, _ = self._points("y", y)
        if np.shape(x) != np.shape(y):
            raise ValueError(f"y must have the shape {np.shape(x)} of x, got {np.shape(y)}")
        f, g = self.potential(where), self.swapped().potential(other)
        return restore((f + g - self.cost.between(where, other)) / self.epsilon)

    def _points(self, name: str, x: Any) -> tuple[Array, Callable[[Array], Array]]:
        """Points (..., d) of where the plan is as (n, d), and the way back."""
        if not on_device(self.f):
            return points(name, x, self.p.dim)
        return points_near(name, x, self.p.dim, self.f)

    def _numbers(self, name: str, value: Any) -> Any:
        """Numbers (m,) or (m, k) of where the plan is."""
        found = numbers(name, value, None, self.f) if on_device(self.f) else real_array(name, value)
        if found.ndim not in (1, 2):
            raise ValueError(f"{name} must have 1 or 2 dimensions, got shape {found.shape}")
        return found

    def _side(self, x: Array | None = None) -> Side:
        if x is not None and self.cost.matrix is not None:
            raise ValueError("cost must be a function of points to be asked elsewhere, got a matrix")
        return side(self.cost, self.p.means if x is None else x, self.q.means, self.q.log_weights, asked=1)


class Unconverged(RuntimeError):
    """The marginal error is above the tolerance after all iterations: `message` says so, `plan` is what there is."""

    def __init__(self, message: str, plan: EntropicPlan) -> None:
        super().__init__(message)
        self.plan = plan


@where_it_is
def sinkhorn(
    p: Compared | DevicePoints,
    q: Compared | DevicePoints,
    epsilon: float,
    *,
    cost: Ground = "half-squared",
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
    start: ArrayLike | None = None,
    accelerated: bool = True,
    annealed: bool = True,
) -> EntropicPlan:
    """The entropic optimal plan of two laws of points.

    Args:
        p, q: laws of points, or points (n, d) and (m, d) of equal weights; arrays of CuPy or `DevicePoints`, both, stay
            on their GPU and are computed in float32 where they are: potentials are off by 6e-8 of their size then, and
            the marginal error by that over eps.
        epsilon: eps > 0, in units of the cost.
        cost: "half-squared", "squared", a number r for |x - y|^r, a function of points (n, d) and (m, d) that answers
            with shape (n, m), or that matrix; on a GPU, powers of the distance only.
        tolerance: of the marginal error.
        max_iterations: pairs of updates after which it is given up.
        start: potentials g, shape (m,), to start from, those of a similar problem.
        accelerated: whether updates may go beyond, and Newton's steps follow where up to 2048 points in all do not end
            soon: they end quickly even where eps is 10^-6 of the cost. In float32 there are no Newton's steps.
        annealed: whether larger eps come first, where there is no `start`.

    Raises:
        TypeError: an argument is nothing of the kind, or one of p and q is on a GPU and the other is not.
        ValueError: a law has no points, dimensions differ, a number is out of range, or costs overflow in units of eps.
        Unconverged: the marginal error stays above the tolerance.
    """
    epsilon = real_scalar("epsilon", epsilon, low=0, open_low=True)
    tolerance = real_scalar("tolerance", tolerance, low=0, open_low=True)
    max_iterations = whole_number("max_iterations", max_iterations, low=1)
    first, second, ground = problem(p, q, cost)
    begin = _start(second, start)
    kept, other = (array_module(begin).isfinite(law.log_weights) for law in (first, second))
    x, y, logs, log_b = first.means[kept], second.means[other], first.log_weights[kept], second.log_weights[other]
    felt = ground.part(kept, other)
    rows, columns = side(felt, x, y, log_b), side(felt.swapped(), y, x, logs)
    largest = largest_cost(felt, x, y, epsilon)
    # in float32 potentials have lost what Newton's steps would gain
    held = partial(masses, felt, x, y, logs, log_b) if begin.dtype == np.float64 else None
    turns = Turns(rows, columns, begin[other], accelerated, held)
    if annealed and start is None:
        level = largest / COOLER
        while level > COOLER * epsilon:
            turns.until(level, ROUGH, 3 * SOON if turns.newton else SOON)
            level /= COOLER
    count = turns.until(epsilon, tolerance, max_iterations)
    plan = _plan(first, second, ground, epsilon, turns, count)
    if not plan.marginal_error <= tolerance:  # no number, either
        met = f"the marginal error is {plan.marginal_error:.3g} after {count} iterations, not {tolerance:g}"
        if count < max_iterations:
            size = max(float(abs(plan.f).max()), float(abs(plan.g).max()))
            raise Unconverged(
                f"{met}, as potentials of {size:.3g} are rounded: take a larger tolerance or epsilon", plan
            )
        raise Unconverged(f"{met}: allow for more, or take a larger epsilon than {epsilon:g}", plan)
    return plan


def problem(p: Any, q: Any, cost: Ground) -> tuple[Any, Any, Cost]:
    """Both sides p and q, laws of points or `DevicePoints`, and the cost.

    Raises:
        TypeError: an argument is nothing of the kind, or one of p and q is on a GPU and the other is not.
        ValueError: a law has no points, or dimensions differ.
    """
    first, second = two_laws(p, q)
    if on_gpu(first) and (callable(cost) or np.ndim(cost) > 0):
        raise TypeError("cost must be a power of the distance of points on a GPU, got a function or a matrix")
    for name, law in (("p", first), ("q", second)):
        if not on_gpu(law) and not is_points(law):
            raise ValueError(f"{name} must be a law of points, without variances, got {law!r}")
    return first, second, ground_cost(cost, (first.count, second.count))


def largest_cost(cost: Cost, x: Array, y: Array, epsilon: float) -> float:
    """About the largest |c|.

    Args:
        cost: c(x, y).
        x, y: points, shapes (n, d) and (m, d).
        epsilon: eps.

    Raises:
        ValueError: it overflows in units of eps.
    """
    largest, kind = cost.largest(x, y), x.dtype
    if not 2 * largest / epsilon <= float(np.finfo(kind).max):  # in bits, and as much of potentials
        raise ValueError(
            f"epsilon must be larger, or points nearer: costs of {largest:g} over {epsilon:g} are beyond {kind}"
        )
    return largest


def _start(q: Any, start: Any) -> Any:
    """Potentials g to begin with, shape (m,)."""
    if start is None:
        return array_module(q.log_weights).zeros_like(q.log_weights)
    if on_device(q.log_weights):
        return numbers("start", start, (q.count,), q.log_weights)
    begin = real_array("start", start)
    if begin.shape != (q.count,):
        raise ValueError(f"start must have shape {(q.count,)}, one for each point of q, got {begin.shape}")
    return begin


def _plan(p: Any, q: Any, cost: Cost, epsilon: float, turns: Turns, count: int) -> EntropicPlan:
    """The plan of potentials at points with a weight."""
    shift = 0.5 * (turns.a @ turns.f - turns.b @ turns.g)  # both of (f + t, g - t) get one mean
    xp = array_module(turns.f)
    f, g = xp.empty_like(p.log_weights), xp.empty_like(q.log_weights)
    kept, other = xp.isfinite(p.log_weights), xp.isfinite(q.log_weights)
    f[kept], g[other] = turns.f - shift, turns.g + shift
    if not kept.all():
        half = side(cost.part(~kept, other), p.means[~kept], q.means[other], q.log_weights[other])
        f[~kept] = epsilon * half.minima(g[other], epsilon)
    if not other.all():
        half = side(cost.part(kept, ~other).swapped(), q.means[~other], p.means[kept], p.log_weights[kept])
        g[~other] = epsilon * half.minima(f[kept], epsilon)
    value = turns.a @ turns.f + turns.b @ turns.g - epsilon * (turns.total - 1)
    return EntropicPlan(
        p, q, cost, epsilon, f, g, float(value), turns.errors[-1], count, np.array(turns.errors[-count:])
    )
