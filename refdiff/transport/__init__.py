"""Transport between laws: couplings, the optimal ones, and the optimal ones with an entropy.

laws of pairs       `PairLaw`: `independent`, `component_pairs`, `gaussian_pairs`, `point_pairs`, `image_pairs`
optimal             `optimal_map` of Gaussians, `optimal_image` of points, `optimal_pairs`
                    `mixture_pairs`, optimal among couplings of components with components
entropic            `entropic_plan`, `entropic_pairs`, `entropic_cost`, `sinkhorn_divergence`, `sinkhorn_slope`
                    of Gaussians: `GaussianPlan` with `QuadraticPotential`s, `entropic_barycentre`
                    and how it tends to its limits: `little_noise`, `much_noise`; others' units: `Regulariser`
                    of points: `sinkhorn`, `self_sinkhorn`, an `EntropicPlan`; `Unconverged` where it does not end
                    of points on a GPU, arrays of CuPy: `sinkhorn`, with weights as `DevicePoints`
shortest ways       `displacement`: `Displacement` of Gaussians and points, `LineDisplacement`, `QuantileMean`
barycentres         `gaussian_barycentre`, `line_barycentre`, `point_barycentre`: `Barycentre`
Brenier             `check_map`, a `MapCheck`; `asymmetry`, `monge_ampere_residual`, `cyclical_gap`, `monotone_gap`
                    `optimal_potentials`, `c_transform`, `c_transform_of_points`; `PerturbedGaussian` a known map
geometry            `least_velocity`, `kinetic_energy`, `exponential_map`, `generalized_geodesic`
gradient flows      `FreeEnergy`: `flow`, and `step` of Jordan, Kinderlehrer and Otto

Examples:
    Points 0 and 1, of weight 1/2 each, to themselves: off the diagonal e^(-c / eps) = e^-1 of what is on it.

    >>> import numpy as np
    >>> from refdiff.transport import sinkhorn
    >>> plan = sinkhorn([[0.0], [1.0]], [[0.0], [1.0]], 0.5)
    >>> np.allclose(plan.coupling(), np.array([[1, np.exp(-1)], [np.exp(-1), 1]]) / (2 + 2 * np.exp(-1)))
    True
"""

from refdiff.transport.barycentres import Barycentre, gaussian_barycentre, line_barycentre, point_barycentre
from refdiff.transport.brenier import (
    MapCheck,
    asymmetry,
    c_transform,
    c_transform_of_points,
    check_map,
    cyclical_gap,
    monge_ampere_residual,
    monotone_gap,
    optimal_potentials,
)
from refdiff.transport.device_points import DevicePoints
from refdiff.transport.displacement import Displacement, LineDisplacement, displacement
from refdiff.transport.entropic import (
    entropic_cost,
    entropic_pairs,
    entropic_plan,
    sinkhorn_divergence,
    sinkhorn_slope,
)
from refdiff.transport.entropic_barycentres import entropic_barycentre
from refdiff.transport.entropic_gaussian import GaussianPlan, QuadraticPotential
from refdiff.transport.entropic_limits import Regulariser, little_noise, much_noise
from refdiff.transport.gaussian_maps import optimal_image, optimal_map, optimal_pairs
from refdiff.transport.geometry import (
    exponential_map,
    generalized_geodesic,
    kinetic_energy,
    least_velocity,
)
from refdiff.transport.jko import FreeEnergy
from refdiff.transport.mixture_pairs import mixture_pairs
from refdiff.transport.pairs import (
    PairLaw,
    component_pairs,
    gaussian_pairs,
    image_pairs,
    independent,
    point_pairs,
)
from refdiff.transport.perturbed import PerturbedGaussian
from refdiff.transport.quantile_means import QuantileMean
from refdiff.transport.self_transport import self_sinkhorn
from refdiff.transport.sinkhorn import EntropicPlan, Unconverged, sinkhorn

__all__ = [
    "Barycentre",
    "DevicePoints",
    "Displacement",
    "EntropicPlan",
    "FreeEnergy",
    "GaussianPlan",
    "LineDisplacement",
    "MapCheck",
    "PairLaw",
    "PerturbedGaussian",
    "QuadraticPotential",
    "QuantileMean",
    "Regulariser",
    "Unconverged",
    "asymmetry",
    "c_transform",
    "c_transform_of_points",
    "check_map",
    "component_pairs",
    "cyclical_gap",
    "displacement",
    "entropic_barycentre",
    "entropic_cost",
    "entropic_pairs",
    "entropic_plan",
    "exponential_map",
    "gaussian_barycentre",
    "gaussian_pairs",
    "generalized_geodesic",
    "image_pairs",
    "independent",
    "kinetic_energy",
    "least_velocity",
    "line_barycentre",
    "little_noise",
    "mixture_pairs",
    "monge_ampere_residual",
    "monotone_gap",
    "much_noise",
    "optimal_image",
    "optimal_map",
    "optimal_pairs",
    "optimal_potentials",
    "point_barycentre",
    "point_pairs",
    "self_sinkhorn",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_slope",
]
