"""Laws of whole paths: likelihood ratios, divergences, reversals, bridges, and what paths cost."""

from refdiff.path_measures.bridges import PinnedBridge, bridge_paths
from refdiff.path_measures.doob import EndLaw, EndWeight, doob
from refdiff.path_measures.girsanov import PathRatio, Reweighted, girsanov, log_ratio, reweighted
from refdiff.path_measures.ito import Smooth, covariation, generator, ito_residual

__all__ = [
    "EndLaw",
    "EndWeight",
    "PathRatio",
    "PinnedBridge",
    "Reweighted",
    "Smooth",
    "bridge_paths",
    "covariation",
    "doob",
    "generator",
    "girsanov",
    "ito_residual",
    "log_ratio",
    "reweighted",
]
