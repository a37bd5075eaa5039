"""Laws of whole paths: likelihood ratios, divergences, reversals, bridges, costs; how far wrong scores lead.

Examples:
    A score that is off by one at every time costs int g^2 |error|^2 / 2 dt over the paths:

    >>> from refdiff import ExactModel, Gaussian, VEPower
    >>> from refdiff.path_measures import AffineScore, path_kl
    >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower(power=0.5, T=1.0))
    >>> exact = AffineScore.exact(model)  # -(x - 0) / (1 + t)
    >>> shifted = AffineScore(exact.precision, lambda t: 1.0 + t, 1)  # -(x - 1 - t) / (1 + t)
    >>> print(round(path_kl(model, shifted).value, 6))
    0.5
"""

from refdiff.path_measures.affine import AffineEquation, affine_forward, affine_reverse, forward_joint, reverse_joint
from refdiff.path_measures.bridges import PinnedBridge, bridge_paths
from refdiff.path_measures.chains import chain_kl, reverse_kernel
from refdiff.path_measures.control import (
    AffineControl,
    ControlCost,
    affine_control,
    controlled,
    linear_cost,
    optimal_control,
    path_costs,
)
from refdiff.path_measures.coupled import CoupledLaw, coupled_flows, coupled_law, coupled_paths
from refdiff.path_measures.divergences import PathDivergence, conditional_kl, path_kl
from refdiff.path_measures.doob import EndLaw, EndWeight, doob
from refdiff.path_measures.feynman_kac import FeynmanKac, Quadratic, path_log_weights
from refdiff.path_measures.girsanov import PathRatio, Reweighted, girsanov, log_ratio, reweighted
from refdiff.path_measures.gradient_flow import dissipation, kl_gradient_flow
from refdiff.path_measures.ito import Smooth, covariation, generator, ito_residual
from refdiff.path_measures.scores import AffineScore, LipschitzScore, score_rate
from refdiff.path_measures.stability import Stability, growth_rate, score_error, wasserstein_bound

__all__ = [
    "AffineControl",
    "AffineEquation",
    "AffineScore",
    "ControlCost",
    "CoupledLaw",
    "EndLaw",
    "EndWeight",
    "FeynmanKac",
    "LipschitzScore",
    "PathDivergence",
    "PathRatio",
    "PinnedBridge",
    "Quadratic",
    "Reweighted",
    "Smooth",
    "Stability",
    "affine_control",
    "affine_forward",
    "affine_reverse",
    "bridge_paths",
    "chain_kl",
    "conditional_kl",
    "controlled",
    "coupled_flows",
    "coupled_law",
    "coupled_paths",
    "covariation",
    "dissipation",
    "doob",
    "forward_joint",
    "generator",
    "girsanov",
    "growth_rate",
    "ito_residual",
    "kl_gradient_flow",
    "linear_cost",
    "log_ratio",
    "optimal_control",
    "path_costs",
    "path_kl",
    "path_log_weights",
    "reverse_joint",
    "reverse_kernel",
    "reweighted",
    "score_error",
    "score_rate",
    "wasserstein_bound",
]
