"""Schroedinger bridges: of all processes with two given marginals the nearest to a reference.

references          a Process, a Schedule or eps of sqrt(eps) w (`BrownianReference`); their bridges: `ReferenceBridges`
from potentials     `MixtureBridge`, exact in every marginal, of mixtures, points or an `ExponentialSum`
Gaussians           `GaussianBridge`: closed forms for every linear reference and covariances of any rank
their costs         `action` (motion, Fisher information, entropies), `energies` at a time, `little_noise`: the limit
iterations          `proportional_fitting`, `refit` (half bridges of pairs); `reversed_chains` (DSB)
point sets          `PointBridge`, from the weights of Sinkhorn
"""

from refdiff.schroedinger.fitting import Fitting, canonical_correlations, proportional_fitting, refit
from refdiff.schroedinger.gaussian import GaussianBridge
from refdiff.schroedinger.gaussian_costs import Action, Energies, LittleNoise, action, energies, little_noise
from refdiff.schroedinger.mixtures import MixtureBridge
from refdiff.schroedinger.points import PointBridge
from refdiff.schroedinger.potentials import ExponentialSum
from refdiff.schroedinger.reference import BrownianReference, ReferenceBridges, reference_process
from refdiff.schroedinger.reversals import ReversedChains, reversed_chains

__all__ = [
    "Action",
    "BrownianReference",
    "Energies",
    "ExponentialSum",
    "Fitting",
    "GaussianBridge",
    "LittleNoise",
    "MixtureBridge",
    "PointBridge",
    "ReferenceBridges",
    "ReversedChains",
    "action",
    "canonical_correlations",
    "energies",
    "little_noise",
    "proportional_fitting",
    "reference_process",
    "refit",
    "reversed_chains",
]
