"""refdiff: the reference implementation of the mathematics of diffusion generative models.

The names below are imported when they are first used, so that `import refdiff` (and the command line's --help) does
not wait for SciPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refdiff.channels import Channel as Channel
    from refdiff.distributions import Empirical as Empirical
    from refdiff.distributions import Gaussian as Gaussian
    from refdiff.distributions import GaussianMixture as GaussianMixture
    from refdiff.model import ExactModel as ExactModel
    from refdiff.predictions import PREDICTIONS as PREDICTIONS
    from refdiff.predictions import convert as convert
    from refdiff.processes import AffineProcess as AffineProcess
    from refdiff.processes import BetaTable as BetaTable
    from refdiff.processes import beta_table as beta_table
    from refdiff.schedules import Alignment as Alignment
    from refdiff.schedules import FlowMatching as FlowMatching
    from refdiff.schedules import FunctionSchedule as FunctionSchedule
    from refdiff.schedules import Schedule as Schedule
    from refdiff.schedules import SubVP as SubVP
    from refdiff.schedules import Transformed as Transformed
    from refdiff.schedules import Trigonometric as Trigonometric
    from refdiff.schedules import VEGeometric as VEGeometric
    from refdiff.schedules import VEPower as VEPower
    from refdiff.schedules import VPCosine as VPCosine
    from refdiff.schedules import VPLinear as VPLinear

__version__ = "0.1.0"

_ROOMS = {
    "refdiff.channels": ["Channel"],
    "refdiff.distributions": ["Empirical", "Gaussian", "GaussianMixture"],
    "refdiff.model": ["ExactModel"],
    "refdiff.predictions": ["PREDICTIONS", "convert"],
    "refdiff.processes": ["AffineProcess", "BetaTable", "beta_table"],
    "refdiff.schedules": [
        "Alignment",
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
    ],
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'refdiff' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
