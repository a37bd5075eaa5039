"""Laws with exact scores that stay in their class under affine Gaussian channels.

Examples:
    A Gaussian N(1, 4) pulls x = 3 back by (1 - 3) / 4; two unit Gaussians at -1 and 1 have the score tanh x - x:

    >>> import numpy as np
    >>> from refdiff.distributions import Empirical, Gaussian, GaussianMixture
    >>> print(Gaussian([1.0], 4.0).score([3.0]))
    [-0.5]
    >>> law = GaussianMixture.isotropic([[-1.0], [1.0]], 1.0)
    >>> print(law.mean(), law.cov())
    [0.] [[2.]]
    >>> x = np.linspace(-3, 3, 7)[:, None]
    >>> np.allclose(law.score(x), np.tanh(x) - x)
    True

    A point set has no density until a channel gives it one:

    >>> points = Empirical([[0.0], [1.0]], weights=[3, 1])
    >>> print(points.mean(), points.cov())
    [0.25] [[0.1875]]
    >>> print(points.convolve(0.5).cov())
    [[0.6875]]
"""

from refdiff.distributions.constructors import (
    checkerboard,
    from_samples,
    grid,
    random_mixture,
    ring,
    swiss_roll,
    two_moons,
)
from refdiff.distributions.divergences import entropy, kl_divergence, total_variation, wasserstein
from refdiff.distributions.mixture import Empirical, Gaussian, GaussianMixture
from refdiff.distributions.principal_axes import PrincipalAxes, pca
from refdiff.distributions.quantiles import cdf, log_cdf, log_quantile, monotone_map, quantile

__all__ = [
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "PrincipalAxes",
    "cdf",
    "checkerboard",
    "entropy",
    "from_samples",
    "grid",
    "kl_divergence",
    "log_cdf",
    "log_quantile",
    "monotone_map",
    "pca",
    "quantile",
    "random_mixture",
    "ring",
    "swiss_roll",
    "total_variation",
    "two_moons",
    "wasserstein",
]
