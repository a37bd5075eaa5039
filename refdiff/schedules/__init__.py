"""Noise schedules: alpha(t), sigma(t) and everything that follows from them."""

from refdiff.schedules.base import Coefficients, Schedule, differentiable, from_rate, variance_preserving
from refdiff.schedules.changes import Alignment, Amplified, FunctionSchedule, Transformed
from refdiff.schedules.families import FlowMatching, SubVP, Trigonometric, VEGeometric, VEPower, VPCosine, VPLinear

__all__ = [
    "Alignment",
    "Amplified",
    "Coefficients",
    "FlowMatching",
    "FunctionSchedule",
    "Schedule",
    "SubVP",
    "Transformed",
    "Trigonometric",
    "VEGeometric",
    "VEPower",
    "VPCosine",
    "VPLinear",
    "differentiable",
    "from_rate",
    "variance_preserving",
]
