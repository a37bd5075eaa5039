"""Schroedinger bridges: of all processes with two given marginals the nearest to a reference.

references          a Process, a Schedule or eps of sqrt(eps) w (`BrownianReference`); their bridges: `ReferenceBridges`
from potentials     `MixtureBridge`, exact in every marginal, of mixtures, points or a `QuadraticPotential`
Gaussians           `GaussianBridge`: closed forms for every linear reference and covariances of any rank
"""

from refdiff.schroedinger.gaussian import GaussianBridge
from refdiff.schroedinger.mixtures import MixtureBridge
from refdiff.schroedinger.potentials import QuadraticPotential
from refdiff.schroedinger.reference import BrownianReference, ReferenceBridges, reference_process

__all__ = [
    "BrownianReference",
    "GaussianBridge",
    "MixtureBridge",
    "QuadraticPotential",
    "ReferenceBridges",
    "reference_process",
]
