"""Schroedinger bridges: of all processes with two given marginals the nearest to a reference.

references          a Process, a Schedule or eps of sqrt(eps) w (`BrownianReference`); their bridges: `ReferenceBridges`
from potentials     `MixtureBridge`, exact in every marginal, of mixtures, points or an `ExponentialSum`
Gaussians           `GaussianBridge`: closed forms for every linear reference and covariances of any rank
"""

from refdiff.schroedinger.gaussian import GaussianBridge
from refdiff.schroedinger.mixtures import MixtureBridge
from refdiff.schroedinger.potentials import ExponentialSum
from refdiff.schroedinger.reference import BrownianReference, ReferenceBridges, reference_process

__all__ = [
    "BrownianReference",
    "ExponentialSum",
    "GaussianBridge",
    "MixtureBridge",
    "ReferenceBridges",
    "reference_process",
]
