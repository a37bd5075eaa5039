"""Laws with exact scores that stay in their class under affine Gaussian channels."""

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
