"""Noising processes: schedules made into channels, and tables of betas."""

from refdiff.processes import beta_table
from refdiff.processes.affine import AffineProcess
from refdiff.processes.beta_table import BetaTable, PosteriorCoefficients
from refdiff.processes.bridge import Bridge
from refdiff.processes.catalogue import catalogue
from refdiff.processes.chain import Chain
from refdiff.processes.linear_sde import LinearProcess
from refdiff.processes.matrix_families import (
    critically_damped_langevin,
    data_axes,
    ornstein_uhlenbeck,
    positions,
    variance_preserving,
    with_velocity,
)
from refdiff.processes.motion import Motion, Offset, Process
from refdiff.processes.principal_axes import PrincipalAxes
from refdiff.processes.rotating import Rotating

__all__ = [
    "AffineProcess",
    "BetaTable",
    "Bridge",
    "Chain",
    "LinearProcess",
    "Motion",
    "Offset",
    "PosteriorCoefficients",
    "PrincipalAxes",
    "Process",
    "Rotating",
    "beta_table",
    "catalogue",
    "critically_damped_langevin",
    "data_axes",
    "ornstein_uhlenbeck",
    "positions",
    "variance_preserving",
    "with_velocity",
]
