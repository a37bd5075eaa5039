"""Distances between laws and between samples, each with an error, and the fields of points.

optimal transport   `wasserstein`, `sliced_wasserstein`, `optimal_coupling`
densities           `divergence` by name (kl, reverse-kl, js, hellinger, chi-squared, total-variation), of the family
                    `alpha_divergence`, or an `own_divergence`; `fisher_divergence`
pairs of points     `mmd_squared` with a `gaussian_kernel`, `laplace_kernel`, `rational_quadratic_kernel` or
                    `inverse_multiquadric_kernel`, and `median_distance` for its length; `energy_distance`
fields of points    `pair_field` of a kernel's gradient or of an `inverse_power`: forces between charges

Samples that are arrays of CuPy have their discrepancies, `median_distance` and fields on their GPU.
"""

from refdiff.metrics.couplings import Coupling, optimal_coupling
from refdiff.metrics.discrepancies import energy_distance, median_distance, mmd_squared
from refdiff.metrics.divergences import divergence, fisher_divergence
from refdiff.metrics.fields import Force, inverse_power, kernel_gradient, pair_field
from refdiff.metrics.generators import FDivergence, alpha_divergence, own_divergence
from refdiff.metrics.similarities import (
    Kernel,
    gaussian_kernel,
    inverse_multiquadric_kernel,
    laplace_kernel,
    rational_quadratic_kernel,
)
from refdiff.metrics.transport import sliced_wasserstein, wasserstein

__all__ = [
    "Coupling",
    "FDivergence",
    "Force",
    "Kernel",
    "alpha_divergence",
    "divergence",
    "energy_distance",
    "fisher_divergence",
    "gaussian_kernel",
    "inverse_multiquadric_kernel",
    "inverse_power",
    "kernel_gradient",
    "laplace_kernel",
    "median_distance",
    "mmd_squared",
    "optimal_coupling",
    "own_divergence",
    "pair_field",
    "rational_quadratic_kernel",
    "sliced_wasserstein",
    "wasserstein",
]
