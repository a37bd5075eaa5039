"""Distances between laws and between samples, each with an error: optimal transport, exact and sliced."""

from refdiff.metrics.couplings import Coupling, optimal_coupling
from refdiff.metrics.transport import sliced_wasserstein, wasserstein

__all__ = ["Coupling", "optimal_coupling", "sliced_wasserstein", "wasserstein"]
