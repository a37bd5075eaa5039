"""Noising processes: schedules made into channels, and tables of betas."""

from refdiff.processes import beta_table
from refdiff.processes.affine import AffineProcess, Offset, Process
from refdiff.processes.beta_table import BetaTable, PosteriorCoefficients
from refdiff.processes.catalogue import catalogue

__all__ = ["AffineProcess", "BetaTable", "Offset", "PosteriorCoefficients", "Process", "beta_table", "catalogue"]
