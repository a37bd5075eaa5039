"""Transport between laws: couplings, the optimal ones, and the optimal ones with an entropy.

laws of pairs       `PairLaw`: `independent`, `component_pairs`, `gaussian_pairs`, `point_pairs`, `image_pairs`
optimal             `optimal_map` of Gaussians, `optimal_image` of points, `optimal_pairs`
"""

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
    "PairLaw",
    "component_pairs",
    "gaussian_pairs",
    "image_pairs",
    "independent",
    "optimal_image",
    "optimal_map",
    "optimal_pairs",
    "point_pairs",
]
