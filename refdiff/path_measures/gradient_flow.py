r"""The gradient flow of KL(q || p) in Wasserstein's geometry, and the forward process as one.

    dq/dt = -div(q M grad log p/q),     dx/dt = M (grad log p - grad log q_t)(x)          M the mobility, symmetric
    dKL(q_t || p)/dt = -E_{q_t} (grad log p/q_t)' M grad log p/q_t                        `dissipation`

q_t is the law of Langevin's equation dx = M grad log p dt + (2 M)^(1/2) dw from q_0, so for Gaussian p = N(m, S) it is
noising by an Ornstein-Uhlenbeck process,

    q_t = N(m + K (a - m), S + K (B - S) K'),   K = e^(-t M S^-1),   for q_0 = N(a, B), and for each part of a mixture,

and the particles' flow is the probability flow of the exact model with data q_0: `kl_gradient_flow` is that model, with
`flow` for its particles. Noising towards N(0, I) is the gradient flow of KL to N(0, I). Sources: TOPB-77; Jordan,
Kinderlehrer and Otto 1998.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.expectations import Estimate, Route
from refdiff.metrics import fisher_divergence
from refdiff.model import ExactModel
from refdiff.processes import ornstein_uhlenbeck


def kl_gradient_flow(
    target: Gaussian, start: GaussianMixture, *, mobility: ArrayLike = 1.0, T: float = 1.0
) -> ExactModel:
    """The model whose marginals are q_t and whose probability flow moves the particles.

    Args:
        target: p, a Gaussian with a density.
        start: q_0, of any components.
        mobility: M, a number, (d,) or a symmetric matrix (d, d), >= 0.
        T: the final time.

    Raises:
        TypeError: the target is no Gaussian, or the start no law.
        ValueError: dimensions that differ, a target without a density, or a mobility that is not positive
            semi-definite.
    """
    if not isinstance(target, Gaussian):
        raise TypeError(f"target must be a Gaussian, got {target!r}")
    m = _mobility(mobility, target, start)
    if target.covariances.singular:
        raise ValueError(NO_DENSITY.format(what="target's covariance"))
    d = target.dim
    precision = operators.dense(operators.inverse(target.covariance), d)
    rate = operators.dense(m, d) @ precision
    return ExactModel(start, ornstein_uhlenbeck(rate, stationary=target.covariance, mean=target.means[0], T=T))


def dissipation(
    target: GaussianMixture, law: GaussianMixture, *, mobility: ArrayLike = 1.0, route: Route | None = None
) -> Estimate:
    """E_q (grad log p/q)' M (grad log p/q), minus the rate of KL(q || p) along its gradient flow.

    Args:
        target: p, any mixture with a density.
        law: q, any mixture with a density.
        mobility: M, a number, (d,) or (d, d).
        route: how the expectation is taken; None in closed form, which two Gaussians have.

    Raises:
        TypeError: the target or the law is none.
        ValueError: dimensions that differ, no density, a mobility that does not fit, or no route where one is needed.
    """
    m = _mobility(mobility, target, law)
    for name, one in (("target", target), ("law", law)):
        if one.covariances.singular:
            raise ValueError(NO_DENSITY.format(what=f"{name}'s covariance"))
    return fisher_divergence(law, target, route, weight=m)


def _mobility(mobility: ArrayLike, target: GaussianMixture, law: GaussianMixture) -> Array:
    for name, one in (("target", target), ("law", law)):
        if not isinstance(one, GaussianMixture):
            raise TypeError(f"{name} must be a Gaussian or a GaussianMixture, got {one!r}")
    if target.dim != law.dim:
        raise ValueError(f"target must have the dimension {law.dim} of the law it is the target of, got {target.dim}")
    m = operators.covariance("mobility", mobility)
    operators.fits("mobility", m, target.dim)
    return m
