"""Noising processes: schedules made into channels, and tables of betas."""

from refdiff.processes import beta_table
from refdiff.processes.affine import AffineProcess, Process
from refdiff.processes.beta_table import BetaTable, PosteriorCoefficients

__all__ = ["AffineProcess", "BetaTable", "PosteriorCoefficients", "Process", "beta_table"]
