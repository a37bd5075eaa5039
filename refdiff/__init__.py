"""refdiff: the reference implementation of the mathematics of diffusion generative models.

The names below are imported when they are first used, so that `import refdiff` (and the command line's --help) does
not wait for SciPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refdiff.channels import Channel
    from refdiff.distributions import Empirical, Gaussian, GaussianMixture
    from refdiff.model import ExactModel
    from refdiff.predictions import PREDICTIONS, convert
    from refdiff.processes import AffineProcess, BetaTable, LinearProcess, PrincipalAxes, beta_table
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
    "LinearProcess",
    "PrincipalAxes",
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

# Where the names are, the rooms that need least first: what is found in one does not wait for the next.
_ROOMS = ("schedules", "distributions", "channels", "processes", "predictions", "model")
_ELSEWHERE = {"PrincipalAxes": ("processes",)}  # the process; `distributions` has another, the axes of a law


def __getattr__(name: str) -> Any:
    if name in __all__:
        for room in _ELSEWHERE.get(name, _ROOMS):
            module = import_module(f"refdiff.{room}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'refdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
