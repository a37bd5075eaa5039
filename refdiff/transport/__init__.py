"""Transport between laws: couplings, the optimal ones, and the optimal ones with an entropy.

laws of pairs       `PairLaw`: `independent`, `component_pairs`, `gaussian_pairs`, `point_pairs`, `image_pairs`
optimal             `optimal_map` of Gaussians, `optimal_image` of points, `optimal_pairs`
entropic            `entropic_pairs`, `entropic_cost`, `entropic_potentials`, `entropic_map`; `GaussianPlan`
                    of points: `sinkhorn`, an `EntropicPlan`; `Unconverged` where it does not end
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
from refdiff.transport.sinkhorn import EntropicPlan, Unconverged, sinkhorn

__all__ = [
    "EntropicPlan",
    "GaussianPlan",
    "PairLaw",
    "QuadraticPotential",
    "Unconverged",
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
    "sinkhorn",
]
