r"""Wasserstein distances, exact and sliced.

    W_p(p, q)^p  = min { E |x - y|^p : x ~ p, y ~ q }
    SW_p(p, q)^p = E_theta W_p(theta.x, theta.y)^p,     theta uniform on the sphere

Gaussians have W_2 in closed form, laws on the line any W_p by their quantiles, point sets by an optimal coupling. The
distance of samples is that of their empirical laws. Its expectation is above that of the laws, by n^(-1/d) in d > 2
dimensions; about that expectation it varies as a mean does, with f and g the optimal potentials:

    W_p^p(p_n, q_m) - E W_p^p(p_n, q_m)  ~  N(0, Var f(x) / n + Var g(y) / m)

The standard error is this one, of the power carried to the root; where p = q it is of higher order, and 0 here.
Sources: TOPB-59, PODB-71, PODB-81; del Barrio and Loubes 2019, "Central limit theorems for empirical transportation
cost in general dimension"; Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refdiff.arguments import Array, real_scalar
from refdiff.distributions import Gaussian
from refdiff.distributions import wasserstein as of_gaussians
from refdiff.expectations import Estimate, MonteCarlo, Quadrature, checked
from refdiff.metrics.compared import Compared, Side, is_points, sides
from refdiff.metrics.couplings import optimal_coupling
from refdiff.metrics.line import potential_against, quantile_integral
from refdiff.random import normals

DIRECTION = 0  # which draw of a counter a direction is
NONE = np.zeros(1)


def wasserstein(p: Compared, q: Compared, order: float = 2.0, route: Quadrature | None = None) -> Estimate:
    """W_p(p, q) of laws, or samples (n, d) of them.

    Args:
        p: a law or a sample.
        q: a law or a sample.
        order: p >= 1, the power of the distance.
        route: for laws on the line that are neither Gaussian nor points.

    Returns:
        The error is 0 in closed form, for couplings the gap to a lower bound, which says that they are optimal.

    Raises:
        TypeError: p or q is neither a law nor an array of real numbers, or the route is no Quadrature.
        ValueError: the order is below 1, dimensions differ, a route is needed, or in more than one dimension a law
            that is neither a Gaussian nor a point set (or there are too many points).

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.metrics import wasserstein
        >>> found = wasserstein(Gaussian([3.0], 1.0), Gaussian([0.0], 25.0))  # sqrt(3^2 + (5 - 1)^2)
        >>> print(round(float(found.value), 6))
        5.0
        >>> found = wasserstein([[0.0], [1.0]], [[3.0], [2.0]], order=1)  # of samples: 0 to 2, 1 to 3
        >>> print(round(float(found.value), 6))
        2.0
    """
    order = real_scalar("order", order, low=1.0)
    return _root(_power(*sides(p, q), order, route), order)


def sliced_wasserstein(
    p: Compared, q: Compared, route: MonteCarlo, order: float = 2.0, inner: Quadrature | None = None
) -> Estimate:
    """SW_p(p, q) of laws, or samples (n, d) of them, from directions by counter.

    Args:
        p: a law or a sample.
        q: a law or a sample.
        route: how many directions, and their seed.
        order: p >= 1, the power of the distance.
        inner: for the distance along a direction of laws that are neither Gaussian nor points.

    Returns:
        The error is that of the mean over directions and, of samples, that of sampling beside it.

    Raises:
        TypeError: p or q is neither a law nor an array of real numbers, or the route is no MonteCarlo.
        ValueError: the order is below 1, dimensions differ, or `inner` is needed.
    """
    order = real_scalar("order", order, low=1.0)
    if not isinstance(route, MonteCarlo):
        raise TypeError(f"route must be a MonteCarlo, over directions, got {route!r}")
    first, second = sides(p, q)
    found = [
        _power(_along(first, theta), _along(second, theta), order, inner) for theta in directions(first.law.dim, route)
    ]
    powers = np.array([one.value for one in found])
    # the potentials of a mean of distances are the means of theirs
    f, g = (np.mean([one.potentials[side] for one in found], axis=0) for side in (0, 1))
    variance = powers.var(ddof=1) / len(powers) + _of_mean(f, first) + _of_mean(g, second)
    error = float(np.sqrt(variance)) + float(np.mean([one.inexact for one in found]))
    return _root(Power(float(powers.mean()), error, "monte carlo", (f, g), 0.0), order)


def directions(dim: int, route: MonteCarlo) -> Array:
    """Unit vectors (n, dim), uniform on the sphere, n and their seed as the `route` says."""
    z = normals(route.seed, route.samples, DIRECTION, dim)
    return np.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))


# ---------------------------------------------------------------------- the power of a distance


class Power(NamedTuple):
    """W_p^p by a route.

    Attributes:
        value: W_p^p.
        error: of it, as in `Estimate`.
        route: as in `Estimate`.
        potentials: f and g at the points of each side that is a sample, shape (n,); a zero elsewhere, shape (1,).
        inexact: what the computation itself is off by, without sampling.
    """

    value: float
    error: float
    route: str
    potentials: tuple[Array, Array]
    inexact: float


def _power(first: Side, second: Side, order: float, route: Quadrature | None) -> Power:
    if order == 2 and (square := _closed_square(first, second)) is not None:
        return Power(square, 0.0, "closed", (NONE, NONE), 0.0)
    p, q = first.law, second.law
    if is_points(p) and is_points(q):
        best = optimal_coupling(p, q, order)
        f, g = (
            potential if side.drawn else NONE for potential, side in zip(best.potentials, (first, second), strict=True)
        )
        return _with_sampling(best.cost, max(best.cost - best.bound, 0.0), "closed", (f, g), first, second)
    if p.dim > 1:
        raise ValueError(
            f"p and q must be Gaussian (for order 2), on the line or points, got {p!r} and {q!r} for order {order}: "
            "there is no exact distance; sliced distances take any laws, and samples have a coupling"
        )
    rule = checked(route)
    if not isinstance(rule, Quadrature):
        raise TypeError(f"route must be a Quadrature, over quantiles, got {rule!r}")
    value, change = quantile_integral(p, q, order, rule)
    f = potential_against(first.law, second.law, order) if first.drawn else NONE
    g = potential_against(second.law, first.law, order) if second.drawn else NONE
    return _with_sampling(value, change, "quadrature", (f, g), first, second)


def _with_sampling(
    value: float, inexact: float, route: str, potentials: tuple[Array, Array], first: Side, second: Side
) -> Power:
    if not (first.drawn or second.drawn):
        return Power(value, inexact, route, potentials, inexact)
    variance = _of_mean(potentials[0], first) + _of_mean(potentials[1], second)
    return Power(value, float(np.sqrt(variance)) + inexact, "monte carlo", potentials, inexact)


def _of_mean(potential: Array, side: Side) -> float:
    """The variance of the mean of a potential (n,) over a sample; infinite for one point, which says nothing of it."""
    if not side.drawn:
        return 0.0
    return float(potential.var(ddof=1) / len(potential)) if len(potential) > 1 else np.inf


def _closed_square(first: Side, second: Side) -> float | None:
    """W_2^2 where laws, not samples, have it in closed form: Gaussians, and any law against a single point."""
    if first.drawn or second.drawn:
        return None
    p, q = first.law, second.law
    for law, other in ((p, q), (q, p)):
        if is_points(law) and law.count == 1:  # one coupling only
            return float(np.trace(other.cov()) + ((other.mean() - law.means[0]) ** 2).sum())
    if isinstance(p, Gaussian) and isinstance(q, Gaussian):
        return of_gaussians(p, q) ** 2
    return None


def _along(side: Side, theta: Array) -> Side:
    return side._replace(law=side.law.affine(theta[None]))


def _root(power: Power, order: float) -> Estimate:
    """W_p, with the error of the root: by its slope, but at most as far as roots of numbers so near can be apart."""
    value = power.value ** (1 / order)
    if power.error == 0:
        return Estimate(value, 0.0, power.route)
    slope = order * value ** (order - 1)
    error = power.error ** (1 / order)
    return Estimate(value, min(error, power.error / slope) if slope > 0 else error, power.route)
