"""Transport between laws: couplings, the optimal ones, and the optimal ones with an entropy.

laws of pairs       `PairLaw`: `independent`, `component_pairs`, `gaussian_pairs`, `point_pairs`, `image_pairs`
"""

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
    "point_pairs",
]
