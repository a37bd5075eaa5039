"""Objectives of diffusion models at their optimum: variational bounds, information, likelihood by importance, units."""

from refdiff.expectations import Estimate, MonteCarlo, Quadrature
from refdiff.objectives.bounds import Bound, standard_prior, variational_bound
from refdiff.objectives.importance import ImportanceLikelihood, LogMean, importance_sampling, log_mean_exp
from refdiff.objectives.information import continuous_loss, discrete_loss, mean_squared_error, signal_to_noise
from refdiff.objectives.reverse import ReverseStep, posterior_logpdf, posterior_step
from refdiff.objectives.units import (
    bits,
    bits_per_dimension,
    dequantized,
    level_spacing,
    level_values,
    nats_of_density,
)

__all__ = [
    "Bound",
    "Estimate",
    "ImportanceLikelihood",
    "LogMean",
    "MonteCarlo",
    "Quadrature",
    "ReverseStep",
    "bits",
    "bits_per_dimension",
    "continuous_loss",
    "dequantized",
    "discrete_loss",
    "importance_sampling",
    "level_spacing",
    "level_values",
    "log_mean_exp",
    "mean_squared_error",
    "nats_of_density",
    "posterior_logpdf",
    "posterior_step",
    "signal_to_noise",
    "standard_prior",
    "variational_bound",
]
