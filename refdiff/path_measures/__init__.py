"""Laws of whole paths: likelihood ratios, divergences, reversals, bridges, costs; how far wrong scores lead."""

from refdiff.path_measures.bridges import PinnedBridge, bridge_paths
from refdiff.path_measures.coupled import CoupledLaw, coupled_flows, coupled_law, coupled_paths
from refdiff.path_measures.doob import EndLaw, EndWeight, doob
from refdiff.path_measures.girsanov import PathRatio, Reweighted, girsanov, log_ratio, reweighted
from refdiff.path_measures.ito import Smooth, covariation, generator, ito_residual
from refdiff.path_measures.scores import AffineScore, LipschitzScore, score_rate
from refdiff.path_measures.stability import Stability, growth_rate, score_error, wasserstein_bound

__all__ = [
    "AffineScore",
    "CoupledLaw",
    "EndLaw",
    "EndWeight",
    "LipschitzScore",
    "PathRatio",
    "PinnedBridge",
    "Reweighted",
    "Smooth",
    "Stability",
    "bridge_paths",
    "coupled_flows",
    "coupled_law",
    "coupled_paths",
    "covariation",
    "doob",
    "generator",
    "girsanov",
    "growth_rate",
    "ito_residual",
    "log_ratio",
    "reweighted",
    "score_error",
    "score_rate",
    "wasserstein_bound",
]
