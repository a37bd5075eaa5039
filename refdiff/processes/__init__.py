"""Noising processes: schedules made into channels, and tables of betas."""

from refdiff.processes import beta_table
from refdiff.processes.affine import AffineProcess
from refdiff.processes.beta_table import BetaTable, PosteriorCoefficients
from refdiff.processes.bridge import Bridge
from refdiff.processes.catalogue import catalogue
from refdiff.processes.chain import Chain
from refdiff.processes.linear_sde import LinearProcess
from refdiff.processes.motion import Motion, Offset, Process
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
    "Process",
    "Rotating",
    "beta_table",
    "catalogue",
]
