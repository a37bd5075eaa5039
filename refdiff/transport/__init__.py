"""Transport between laws: couplings, the optimal ones, and the optimal ones with an entropy.

laws of pairs       `PairLaw`: `independent`, `component_pairs`, `gaussian_pairs`, `point_pairs`, `image_pairs`
optimal             `optimal_map` of Gaussians, `optimal_image` of points, `optimal_pairs`
entropic            `entropic_pairs`, `entropic_cost`, `entropic_potentials`, `entropic_map`; `GaussianPlan`
"""

from refdiff.transport.entropic import entropic_cost, entropic_map, entropic_pairs, entropic_potentials
from refdiff.transport.entropic_gaussian import GaussianPlan, QuadraticPotential
from refdiff.transport.gaussian_maps import optimal_image, optimal_map, optimal_pairs
from refdiff.transport.pairs import (
    PairLaw,
    component_pairs,
    gaussian_pairs,
    image_pairs,
    independent,
    point_pairs,
)

__all__ = [
    "GaussianPlan",
    "PairLaw",
    "QuadraticPotential",
    "component_pairs",
    "entropic_cost",
    "entropic_map",
    "entropic_pairs",
    "entropic_potentials",
    "gaussian_pairs",
    "image_pairs",
    "independent",
    "optimal_image",
    "optimal_map",
    "optimal_pairs",
    "point_pairs",
]
