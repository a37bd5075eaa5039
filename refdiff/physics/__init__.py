"""Diffusion as physics: currents and controls, heat and entropy, potentials between classes.

flux          Fick's law for laws: `diffusive_velocity`, `flux`, `spreading_rate`
controls      of exact models of any process, stopping and reversing: `control`, `controlled_equation` on a `Clock`
expansion     from a point, at no rate in particular: `point_velocity`, `expansion_velocity` of any law
entropy       `entropy_balance` and `total_production`: production, heat, housekeeping, excess
kernels       `density_estimate`, its exact mean, variance and errors, `optimal_bandwidth`; `overlap` of mixtures
classes       `class_posterior`, and that of kernel estimates: its biases, and `expected_posterior` at any N
potentials    Bhattacharyya's `affinity`, `bhattacharyya_distance`, `force`, `total_force`, `separate`
"""

from refdiff.physics.bhattacharyya import (
    affine_rate,
    affinity,
    bhattacharyya_distance,
    fisher_direction,
    force,
    potential_rate,
    total_force,
)
from refdiff.physics.class_posterior import (
    class_posterior,
    counting_bias,
    expected_posterior,
    smoothed_posterior,
    smoothing_bias,
)
from refdiff.physics.controls import (
    Clock,
    control,
    controlled_equation,
    controlled_flux,
    reversing_control,
    stopping_control,
)
from refdiff.physics.expansion import expansion_velocity, point_law, point_path, point_velocity
from refdiff.physics.fick import diffusive_velocity, flux, spreading_rate
from refdiff.physics.kernel_density import (
    amise,
    density_estimate,
    estimate_bias,
    estimate_mean,
    estimate_variance,
    integrated_bias,
    mean_squared_error,
    mise,
    optimal_bandwidth,
    roughness,
)
from refdiff.physics.overlaps import bend_overlap, overlap
from refdiff.physics.separation import Separation, separate
from refdiff.physics.thermodynamics import EntropyBalance, entropy_balance, frozen, total_production

__all__ = [
    "Clock",
    "EntropyBalance",
    "Separation",
    "affine_rate",
    "affinity",
    "amise",
    "bend_overlap",
    "bhattacharyya_distance",
    "class_posterior",
    "control",
    "controlled_equation",
    "controlled_flux",
    "counting_bias",
    "density_estimate",
    "diffusive_velocity",
    "entropy_balance",
    "estimate_bias",
    "estimate_mean",
    "estimate_variance",
    "expansion_velocity",
    "expected_posterior",
    "fisher_direction",
    "flux",
    "force",
    "frozen",
    "integrated_bias",
    "mean_squared_error",
    "mise",
    "optimal_bandwidth",
    "overlap",
    "point_law",
    "point_path",
    "point_velocity",
    "potential_rate",
    "reversing_control",
    "roughness",
    "separate",
    "smoothed_posterior",
    "smoothing_bias",
    "spreading_rate",
    "stopping_control",
    "total_force",
    "total_production",
]
