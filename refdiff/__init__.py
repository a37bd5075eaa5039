"""refdiff: the reference implementation of the mathematics of diffusion generative models."""

from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.predictions import PREDICTIONS, convert
from refdiff.processes import AffineProcess, BetaTable, beta_table
from refdiff.schedules import (
    Alignment,
    FlowMatching,
    FunctionSchedule,
    Schedule,
    SubVP,
    Transformed,
    Trigonometric,
    VEGeometric,
    VEPower,
    VPCosine,
    VPLinear,
)

__version__ = "0.1.0"

__all__ = [
    "PREDICTIONS",
    "AffineProcess",
    "Alignment",
    "BetaTable",
    "Channel",
    "Empirical",
    "ExactModel",
    "FlowMatching",
    "FunctionSchedule",
    "Gaussian",
    "GaussianMixture",
    "Schedule",
    "SubVP",
    "Transformed",
    "Trigonometric",
    "VEGeometric",
    "VEPower",
    "VPCosine",
    "VPLinear",
    "beta_table",
    "convert",
]
