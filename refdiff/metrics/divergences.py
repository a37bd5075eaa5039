r"""f-divergences of laws, and the Fisher divergence, each with an error.

    D_f(p || q) = E_m h(l),         m = (p + q) / 2,  l = log p - log q,        h as in `generators`
    D_F(p || q) = E_m [ 2 / (1 + e^-l) |grad l|^2_W ]  =  E_p |grad log p - grad log q|^2_W

Under m no weight is above 2, and what grows no faster than a power of l has all moments. For D_a with a > 1 (for a < 0
with p and q exchanged) p^a q^(1 - a) has heavier tails: Gaussians that bound it join m (`overlaps`), or it is infinite.
Points of positive mass add up beside the densities. Sources: PODA-101, PODA-103, PODA-104, DMI-12; Liese and Vajda
2006, "On divergences and informations in statistics and information theory", for parts that are singular to each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from refdiff import operators
from refdiff.arguments import Array, one_of
from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence
from refdiff.distributions import total_variation as of_gaussians
from refdiff.distributions.covariances import Dense
from refdiff.expectations import Estimate, MonteCarlo, Route, checked, draws, integral, name_of
from refdiff.metrics.compared import Parts, merged, parts, same_space
from refdiff.metrics.crossings import total_variation_on_line
from refdiff.metrics.generators import NAMED, FDivergence, alpha_divergence
from refdiff.metrics.overlaps import bounding, log_overlap

# From log p - log q (n,), r (n,) and points (n, d) to e^r times what is averaged under (p + q) / 2, (n,).
Integrand = Callable[[Array, "Array | float", Array], Array]
APART = 0x9E3779B97F4A7C15  # from one seed to the next: draws of p, of q and of a bound are independent


def divergence(p: GaussianMixture, q: GaussianMixture, f: FDivergence | str, route: Route | None = None) -> Estimate:
    """D_f(p || q), infinite where it is.

    Args:
        p: a law.
        q: a law.
        f: a name of `NAMED`, or an `FDivergence`.
        route: for what has no closed form. Point sets have one for every f, two Gaussians for the family of alpha,
            and densities on the line for total variation, by crossings, which are taken for any Quadrature too. Monte
            Carlo takes so many draws of p, and of q.

    Returns:
        Its error is 0 in closed form; for crossings on the line, what a coarser search changes. A standard error does
        not know what no draw has met: of laws that hardly overlap, what a bounded divergence is below its bound.

    Raises:
        TypeError: p or q is no law, or no such route or f.
        ValueError: dimensions differ, the name is not known, a route is needed, a covariance is singular without being
            0, or it is not known whether the integral is finite (see `overlaps.bounding`).

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.metrics import divergence
        >>> print(round(float(divergence(Gaussian([2.0], 1.0), Gaussian([0.0], 1.0), "kl").value), 6))  # |m - n|^2 / 2
        2.0
    """
    same_space(p, q)
    f = NAMED[one_of("f", f, NAMED)] if isinstance(f, str) else f
    if not isinstance(f, FDivergence):
        raise TypeError(f"f must be a name or an FDivergence, got {f!r}")
    if f.alpha is not None and f.alpha < 0:  # D_a(p || q) = D_{1 - a}(q || p)
        return divergence(q, p, alpha_divergence(1 - f.alpha, f.name, f.factor), route)
    first, second = parts("p", p), parts("q", q)
    points = _on_points(f, first, second)
    if first.density is None or second.density is None:
        lone = f.slope if second.density is None else f.at_zero
        rest = first.rest + second.rest  # one of them is 0
        return Estimate(points + (lone * rest if rest else 0.0), 0.0, "closed")
    if points == np.inf:
        return Estimate(np.inf, 0.0, "closed")
    found = _of_densities(first.density, second.density, (first.rest, second.rest), f, route)
    return Estimate(found.value + points, found.error, found.route)


def fisher_divergence(
    p: GaussianMixture, q: GaussianMixture, route: Route | None = None, *, weight: ArrayLike = 1.0
) -> Estimate:
    """E_p |grad log p - grad log q|^2_W, infinite where a law has no density.

    Args:
        p: a law.
        q: a law.
        route: None in closed form, which two Gaussians have.
        weight: W, a number, a diagonal (d,) or a positive semi-definite matrix (d, d).

    Raises:
        TypeError: p or q is no law, or no such route.
        ValueError: dimensions differ, the weight does not fit, a route is needed, or a covariance is singular without
            being 0.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.metrics import fisher_divergence
        >>> found = fisher_divergence(Gaussian([2.0], 1.0), Gaussian([0.0], 1.0))  # scores are 2 apart
        >>> print(round(float(found.value), 6))
        4.0
    """
    same_space(p, q)
    w = operators.covariance("weight", weight)
    operators.fits("weight", w, p.dim)
    first, second = parts("p", p), parts("q", q)
    one, two = first.density, second.density
    if one is None or two is None or len(first.masses) or len(second.masses):
        return Estimate(np.inf, 0.0, "closed")
    if route is None and isinstance(one, Gaussian) and isinstance(two, Gaussian):
        return Estimate(_fisher_of_gaussians(one, two, operators.dense(w, p.dim)), 0.0, "closed")

    def square(l: Array, r: Array | float, x: Array) -> Array:
        gap = one.score(x) - two.score(x)
        return np.asarray(2 * expit(l) * np.exp(r) * (gap * operators.apply(w, gap)).sum(axis=1))

    size = sum(float(np.trace(law.covariances.inverse().dense(law.dim), axis1=1, axis2=2).max()) for law in (one, two))
    return _mean((one, two), (1.0, 1.0), square, checked(route), size * float(np.abs(w).max()))


# ---------------------------------------------------------------------- points of positive mass


def _on_points(f: FDivergence, first: Parts, second: Parts) -> float:
    """sum_x q(x) f(p(x) / q(x)) over the points with a mass under p or q."""
    places = np.concatenate([first.places, second.places])
    if not len(places):
        return 0.0
    where = np.unique(places, axis=0, return_inverse=True)[1].ravel()
    count, split = int(where.max()) + 1, len(first.places)
    a = np.bincount(where[:split], first.masses, count)
    b = np.bincount(where[split:], second.masses, count)
    both = (a > 0) & (b > 0)
    total = 0.5 * (a + b)[both] @ f.weighted(np.log(a[both]) - np.log(b[both]), 0.0) if both.any() else 0.0
    for limit, mass in ((f.slope, a[b == 0].sum()), (f.at_zero, b[a == 0].sum())):
        total += limit * mass if mass else 0.0
    return float(total)


# ---------------------------------------------------------------------- densities


def _of_densities(
    p: GaussianMixture, q: GaussianMixture, masses: tuple[float, float], f: FDivergence, route: Route | None
) -> Estimate:
    if route is None and masses == (1.0, 1.0) and isinstance(p, Gaussian) and isinstance(q, Gaussian):
        if f.alpha is not None:
            return Estimate(f.factor * _alpha_of_gaussians(p, q, f.alpha), 0.0, "closed")
        if f is NAMED["total-variation"] and p.dim == 1:
            return Estimate(of_gaussians(p, q), 0.0, "closed")
    if f is NAMED["total-variation"] and p.dim == 1 and not isinstance(route, MonteCarlo):
        # |p - q| bends: sums of two spacings may agree by chance where both are off
        return Estimate(*total_variation_on_line(p, q, masses), "closed")
    heavier: tuple[GaussianMixture, ...] = ()
    if f.alpha is not None and f.alpha > 1:
        if (bound := bounding(p, q, f.alpha)) is None:
            return Estimate(np.inf, 0.0, "closed")
        heavier = (bound,)
    size = sum(law.dim + float(np.abs(law.covariances.log_det(law.dim)).max()) / 2 for law in (p, q))
    return _mean((p, q, *heavier), masses, lambda l, r, _: f.weighted(l, r), checked(route), size)


def _mean(
    laws: tuple[GaussianMixture, ...], masses: tuple[float, float], function: Integrand, route: Route, scale: float
) -> Estimate:
    """The integral of a function under (p + q) / 2 with p and q of these masses; other laws lend their draws.

    Args:
        laws: p, q and what else bounds the integrand.
        masses: of p and q.
        function: of l, r and x.
        route: of the mean under a mixture of all laws.
        scale: the size of the function, or what of it rounding is relative to.
    """
    p, q = laws[:2]
    logs = np.log(masses)
    shares = np.array([*masses, *[0.5 * sum(masses)] * (len(laws) - 2)])
    shares = shares / shares.sum()
    proposal = merged(laws, shares)

    def weighted(x: Array) -> Array:
        a, b = p.logpdf(x) + logs[0], q.logpdf(x) + logs[1]
        if len(laws) == 2:
            return function(a - b, np.log(sum(masses) / 2), x)
        return function(a - b, np.logaddexp(a, b) - np.log(2) - proposal.logpdf(x), x)

    if isinstance(route, MonteCarlo):
        found = [weighted(draws(law, route.samples, (route.seed + i * APART) % 2**64)) for i, law in enumerate(laws)]
        means, variances = (np.array(part) for part in zip(*[(v.mean(), v.var(ddof=1)) for v in found], strict=True))
        return Estimate(float(shares @ means), float(np.sqrt(shares**2 @ variances / route.samples)), name_of(route))
    value, change = integral(proposal, weighted, route, scale)
    return Estimate(float(value), change, name_of(route))


# ---------------------------------------------------------------------- Gaussians


def _alpha_of_gaussians(p: Gaussian, q: Gaussian, a: float) -> float:
    if a in (0, 1):
        return kl_divergence(p, q) if a == 1 else kl_divergence(q, p)
    with np.errstate(over="ignore"):  # beyond the range of floats it is infinite too
        return float(np.expm1(log_overlap(p, q, a)) / (a * (a - 1)))


def _fisher_of_gaussians(p: Gaussian, q: Gaussian, weight: Array) -> float:
    """E |B (x - m_p) + Q (m_p - m_q)|^2_W with B = Q (S_p - S_q) P: a difference of inverses would cancel."""
    spread, target = p.cov(), q.cov()
    white = Dense(spread[None]).whitener[0]
    # B S_p B' = G G' with G = Q (S_p - S_q) L^-T
    slope = np.linalg.solve(target, (spread - target) @ white.T)
    shift = np.linalg.solve(target, p.means[0] - q.means[0])
    return float(np.trace(slope.T @ weight @ slope) + shift @ weight @ shift)
