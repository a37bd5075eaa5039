r"""Bhattacharyya's affinity of two classes as a potential, and the force with which one pushes the other away.

    U(p, q) = int sqrt(p q) dx,    B = -log U >= 0,    1 - U = int (sqrt p - sqrt q)^2 / 2, Hellinger's H^2
    dU/dt   = int q v . grad sqrt(p / q) / 2 = -int F . v dx                   where q moves with a velocity v
    F       = -q grad sqrt(p / q) / 2 = -sqrt(p q) (grad log p - grad log q) / 4          the force on q, from p

Gaussians N(m, P) and N(n, Q), with M = (P + Q) / 2 and u = m - n, have closed forms:

    B       = u' M^-1 u / 8 + sum_i log cosh(log(r_i) / 2) / 2,     r_i the eigenvalues of P^-1 Q
    int F   = -(U / 4) M^-1 u = -dU/dn

so that the total force pushes along Fisher's discriminant direction M^-1 u exactly, for different covariances too (at
every point F has that direction where P = Q), but away from p: U falls. PHY-111 leaves the sign open. Of mixtures
everything is summed where sqrt(p q) is, under the mixture of the sqrt(p_k q_l) (`metrics.overlaps.geometric_mean`):
far from each other B has its digits too. Sources: PHY-103, PHY-108, PHY-110, PHY-111.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, answered, points, real_array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.expectations import Estimate, Route, expectation
from refdiff.metrics import divergence
from refdiff.metrics.compared import same_space
from refdiff.metrics.overlaps import geometric_mean, log_overlap

Velocity = Callable[[Array], ArrayLike]


def affinity(p: GaussianMixture, q: GaussianMixture, route: Route | None = None) -> Estimate:
    """U = int sqrt(p q) dx in [0, 1] of two laws p and q, by a `route`; in closed form for two Gaussians and None.

    Raises:
        TypeError: p or q is none of this library's laws, or route is none.
        ValueError: p and q differ in dimension or one has no density, or there is no route and no closed form.
    """
    _pair(p, q)
    if (log := _closed_log(p, q, route)) is not None:
        return Estimate(float(np.exp(log)), 0.0, "closed")
    kept, log = _kept(p, q, route)
    return _scaled(kept, np.exp(log))


def bhattacharyya_distance(p: GaussianMixture, q: GaussianMixture, route: Route | None = None) -> Estimate:
    """B = -log U of two laws p and q, by a `route`; in closed form for two Gaussians and None, to its last digits.

    Raises:
        TypeError: p or q is none of this library's laws, or route is none.
        ValueError: p and q differ in dimension or one has no density, or there is no route and no closed form.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.physics import bhattacharyya_distance
        >>> found = bhattacharyya_distance(Gaussian([0.0], 1.0), Gaussian([2.0], 1.0))  # |m - n|^2 / 8
        >>> print(round(float(found.value), 6))
        0.5
    """
    _pair(p, q)
    if (log := _closed_log(p, q, route)) is not None:
        return Estimate(-log, 0.0, "closed")
    kept, log = _kept(p, q, route)
    if log + np.log(kept.value) < np.log(0.5):
        return Estimate(-log - np.log(kept.value), kept.error / kept.value, kept.route)
    lost = divergence(p, q, "hellinger", route)  # 1 - U has the digits then
    return Estimate(-np.log1p(-lost.value), lost.error / (1 - lost.value), lost.route)


def force(p: GaussianMixture, q: GaussianMixture, x: ArrayLike) -> Array:
    """F on q from p at points x (..., d), shape (..., d): per volume, 0 where sqrt(p q) underflows.

    Raises:
        TypeError: p or q is none of this library's laws.
        ValueError: p and q differ in dimension, or one has no density.
    """
    _pair(p, q)
    rows, restore = points("x", x, p.dim)
    root = np.exp(0.5 * (p.logpdf(rows) + q.logpdf(rows)))
    return np.asarray(restore(-0.25 * root[:, None] * (p.score(rows) - q.score(rows))))


def total_force(p: GaussianMixture, q: GaussianMixture, route: Route | None = None) -> Estimate:
    """int F dx on q from p, shape (d,), by a `route`; in closed form for two Gaussians and None.

    Raises:
        TypeError: p or q is none of this library's laws, or route is none.
        ValueError: p and q differ in dimension or one has no density, or there is no route and no closed form.
    """
    _pair(p, q)
    if (log := _closed_log(p, q, route)) is not None:
        pull = -0.25 * np.exp(log) * fisher_direction(p, q)
        return Estimate(pull, np.zeros(p.dim), "closed")
    return _weighted(p, q, lambda x: -0.25 * (p.score(x) - q.score(x)), route)


def potential_rate(p: GaussianMixture, q: GaussianMixture, velocity: Velocity, route: Route | None = None) -> Estimate:
    """dU/dt = -int F . v dx where q moves with a velocity.

    Args:
        p: the law that rests.
        q: the law that moves.
        velocity: v, of points (n, d), shape (n, d); sqrt(p q) v has to vanish at infinity.
        route: how to sum.

    Raises:
        TypeError: p or q is none of this library's laws, or route is none.
        ValueError: p and q differ in dimension or one has no density, there is no route, or v has another shape.
    """
    _pair(p, q)

    def power(x: Array) -> Array:
        moved = answered("velocity", velocity(x), x.shape)
        return np.asarray(0.25 * ((p.score(x) - q.score(x)) * moved).sum(axis=1))[:, None]

    found = _weighted(p, q, power, route)
    return Estimate(found.value[0], found.error[0], found.route)


def affine_rate(p: Gaussian, q: Gaussian, gain: ArrayLike, offset: ArrayLike = 0.0) -> float:
    """dU/dt for Gaussians where q moves with v = A x + b, in closed form.

    dlog U = u'M^-1 n' / 4 + u'M^-1 Q' M^-1 u / 16 + tr((Q^-1 - M^-1) Q') / 4,   n' = A n + b,  Q' = A Q + Q A'

    Args:
        p: N(m, P), which rests.
        q: N(n, Q), which moves.
        gain: A, a number, (d,) or (d, d).
        offset: b, shape (d,) or a number.

    Raises:
        TypeError: p or q is no Gaussian.
        ValueError: p and q differ in dimension, one is singular, or A or b does not fit.
    """
    _pair(p, q)
    for name, law in (("p", p), ("q", q)):
        if not isinstance(law, Gaussian):
            raise TypeError(f"{name} must be a Gaussian here, got {law!r}")
    a = operators.operator("gain", gain)
    operators.fits("gain", a, p.dim)
    moved = operators.dense(a, p.dim) @ q.cov()
    b = real_array("offset", offset, ndim=(0, 1))
    operators.fits("offset", b, p.dim)
    grown, shift = moved + moved.T, operators.apply(a, q.mean()) + b
    middle, w = (p.cov() + q.cov()) / 2, fisher_direction(p, q)
    volume = np.trace(np.linalg.solve(q.cov(), grown)) - np.trace(np.linalg.solve(middle, grown))
    return float(np.exp(log_overlap(p, q, 0.5)) * (w @ shift / 4 + w @ grown @ w / 16 + volume / 4))


def fisher_direction(p: GaussianMixture, q: GaussianMixture) -> Array:
    """M^-1 (m - n) with the moments of two laws p and q, M = (P + Q) / 2, shape (d,): not normalised.

    Raises:
        TypeError: p or q is none of this library's laws.
        ValueError: p and q differ in dimension, or M is singular.
    """
    same_space(p, q)
    middle = (p.cov() + q.cov()) / 2
    if operators.singular(middle):
        raise ValueError("p and q must spread along every direction together, got a singular mean of covariances")
    return np.asarray(np.linalg.solve(middle, p.mean() - q.mean()))


def _kept(p: GaussianMixture, q: GaussianMixture, route: Route | None) -> tuple[Estimate, float]:
    """U over the mass of the mixture under which it is summed, in (0, 1], and the logarithm of that mass."""
    law, log = geometric_mean(p, q)
    return expectation(law, _shared(p, q, law, log), route), log


def _weighted(
    p: GaussianMixture, q: GaussianMixture, function: Callable[[Array], Array], route: Route | None
) -> Estimate:
    """The integral of sqrt(p q) times a function of points (n, d) with values (n, m), shape (m,)."""
    law, log = geometric_mean(p, q)
    shared = _shared(p, q, law, log)
    return _scaled(expectation(law, lambda x: shared(x)[:, None] * function(x), route, _steepest(p, q)), np.exp(log))


def _shared(p: GaussianMixture, q: GaussianMixture, law: GaussianMixture, log: float) -> Callable[[Array], Array]:
    """sqrt(p q) over e^log times the density of `law`, in (0, 1], as a function of points (n, d)."""
    return lambda x: np.exp((p.logpdf(x) + q.logpdf(x)) / 2 - law.logpdf(x) - log)


def _scaled(found: Estimate, factor: float) -> Estimate:
    return Estimate(factor * found.value, factor * found.error, found.route)


def _steepest(p: GaussianMixture, q: GaussianMixture) -> float:
    """The size of a score: one over the least deviation of a component."""
    return float(max(law.covariances.inverse().dense(law.dim).trace(axis1=1, axis2=2).max() for law in (p, q)) ** 0.5)


def _pair(p: GaussianMixture, q: GaussianMixture) -> None:
    """Check that p and q are laws on one space, with densities."""
    same_space(p, q)
    for name, law in (("p", p), ("q", q)):
        if law.covariances.singular:
            raise ValueError(NO_DENSITY.format(what=f"a covariance of {name}"))


def _closed_log(p: GaussianMixture, q: GaussianMixture, route: Route | None) -> float | None:
    """log U, where there is a closed form and it is asked for."""
    if route is None and isinstance(p, Gaussian) and isinstance(q, Gaussian):
        return log_overlap(p, q, 0.5)
    return None
