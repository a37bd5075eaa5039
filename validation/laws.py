r"""Laws for the second side of an identity: densities, square roots, moments and flows that the library does not use.

    log N(x; m, S)      by eigenvectors, where the library has Cholesky factors
    cubature            the 2 d points m +- sqrt(d) a_i, with a_i the columns of a square root of S, have the mean and
                        covariance of N(m, S), so that their average of a quadratic is exact
    box, line           grids on which sums of a density converge to rounding
    cdf                 the distribution function of a mixture on the line
    gaussian_flow       alpha_e m + (V_e V_s^-1)^(1/2) (x - alpha_s m),  V = alpha^2 S + sigma^2 I

and random Gaussians and matrices that are well conditioned.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.schedules import Coefficients, Schedule
from refdiff.validation.numeric import lattice, ticks


def log_normal(x: Array, mean: Array, covariance: Array) -> Array:
    """log N(x; mean, covariance) by eigenvectors, for x (..., d)."""
    values, axes = np.linalg.eigh(covariance)
    return diagonal_log_normal((x - mean) @ axes, np.zeros(()), values)


def diagonal_log_normal(x: Array, mean: Array, variance: Array) -> Array:
    """log N(x; mean, diag(variance)) for x (..., d)."""
    result: Array = -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(axis=-1)
    return result


def square_root(covariance: Array) -> Array:
    """The symmetric A with A A' = covariance, shape (d, d)."""
    values, axes = np.linalg.eigh(covariance)
    result: Array = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    return result


def covariances(law: GaussianMixture) -> Array:
    """S_k as matrices, shape (K, d, d)."""
    return np.broadcast_to(law.covariances.dense(law.dim), (law.count, law.dim, law.dim))


def smallest_std(law: GaussianMixture) -> float:
    """The smallest standard deviation of a component along any direction: the length on which the density bends."""
    return float(np.sqrt(np.linalg.eigvalsh(law.covariances.dense(law.dim)).min()))


def noised_variance(c: Coefficients, data: float | Array) -> Array:
    """alpha^2 s^2 + sigma^2 from coefficients c: the variance of x_t for data of variance s^2, a scalar or (d,)."""
    return np.asarray(c.alpha**2 * data + c.sigma**2)


def cubature(law: GaussianMixture) -> tuple[Array, Array]:
    """Points (n, d) and weights (n,), n = 2 d K, that average cubic polynomials exactly within each component."""
    roots = np.sqrt(law.dim) * np.stack([square_root(s) for s in covariances(law)])
    points = law.means[:, None, :] + np.concatenate([roots, -roots], axis=1)
    return points.reshape(-1, law.dim), np.repeat(law.weights, 2 * law.dim) / (2 * law.dim)


def box(law: GaussianMixture) -> tuple[Array, float]:
    """A grid (n, 2) with the area of its cells on which sums of a Gaussian in the plane converge to rounding.

    The trapezoidal sum of a Gaussian with spacing h errs by 2 exp(-2 pi^2 s^2 / h^2): 1e-17 at h = 0.7 s.
    """
    s = covariances(law)[0]
    spacing = 0.7 * np.sqrt(np.linalg.eigvalsh(s)[0])
    axes = (
        m + np.arange(-9 * np.sqrt(v), 9 * np.sqrt(v), spacing) for m, v in zip(law.means[0], np.diag(s), strict=True)
    )
    return lattice(*axes), spacing**2


def line(*laws: GaussianMixture) -> tuple[Array, float]:
    """A grid (n, 1) and its spacing, on which sums of p log(p / q) and the like over the line converge to rounding.

    log p branches where p vanishes in the complex plane, at a distance a of some pi s^2 / |m_j - m_k| from the line,
    and the trapezoidal rule errs by exp(-2 pi a / h): with h = s_min / 32 below 1e-16 for means up to 17 s_min apart.
    """
    spreads = np.sqrt(np.concatenate([covariances(p).ravel() for p in laws]))
    means = np.concatenate([p.means.ravel() for p in laws])
    step = spreads.min() / 32
    reach = 9 * spreads.max()
    return ticks(means.min() - reach, means.max() + reach, step)[:, None], step


def cdf(law: GaussianMixture, x: Array | float) -> Array:
    """The distribution function of a law on the line, for x of any shape (...)."""
    std = np.sqrt(covariances(law)[:, 0, 0])
    return np.asarray(ndtr((np.asarray(x)[..., None] - law.means[:, 0]) / std) @ law.weights)


def half_and_half(p: GaussianMixture, q: GaussianMixture) -> GaussianMixture:
    """(p + q) / 2."""
    return GaussianMixture.full(
        np.concatenate([p.means, q.means]),
        np.concatenate([covariances(p), covariances(q)]),
        np.concatenate([p.weights, q.weights]) / 2,
    )


def gaussian_flow(
    law: GaussianMixture, schedule: Schedule, start: float, end: float, x: Array, power: float = 0.5
) -> Array:
    """alpha_e m + (V_e V_s^-1)^power (x - alpha_s m) at points x (n, d), on the principal axes of a Gaussian law.

    With `power` 1/2 it is the flow map of `schedule` from the time `start` to `end`.
    """
    values, axes = np.linalg.eigh(law.cov())
    a, b = schedule.coefficients(start), schedule.coefficients(end)
    stretch = (noised_variance(b, values) / noised_variance(a, values)) ** power
    return np.asarray(b.alpha * law.mean() + (x - a.alpha * law.mean()) @ axes * stretch @ axes.T)


def gaussian(rng: np.random.Generator, dim: int) -> Gaussian:
    """A random Gaussian in `dim` dimensions with a full covariance, eigenvalues in [0.1, 1], drawn from `rng`."""
    drawn = random_mixture(dim, 1, rng, "full")
    return Gaussian(drawn.means[0], covariances(drawn)[0])


def well_conditioned(rng: np.random.Generator, dim: int) -> Array:
    """A random matrix (dim, dim) with singular values in [0.5, 1.5], drawn from `rng`."""
    return np.asarray(np.linalg.qr(rng.standard_normal((dim, dim)))[0] * rng.uniform(0.5, 1.5, dim))
