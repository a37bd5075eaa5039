"""Schroedinger bridges: of all processes with two given marginals the nearest to a reference.

references          a Process, a Schedule or eps of sqrt(eps) w (`BrownianReference`); their bridges: `ReferenceBridges`
LightSB             `MixtureBridge`, exact in every marginal, of potentials: mixtures, points or an `ExponentialSum`
Gaussians           `GaussianBridge`: closed forms for every linear reference and covariances of any rank
their costs         `action` (motion, Fisher information, entropies), `energies` at a time, `little_noise`: the limit
IPF, DSB            `proportional_fitting` of Gaussians, `refit` (half bridges of pairs); of chains `reversed_chains`
IMF, DSBM           `markovian_fitting` of Gaussians, by `markovian_projection` and `end_pairs`, at `markovian_rates`;
                    of any laws, by samples, `drawn_pairs`
point sets          `point_bridge`, a MixtureBridge by the weights of Sinkhorn; `point_plan`
one law             `OneSidedBridge`, a law at one end and a potential at the other; half bridges, diffusion models
one point           Foellmer's process: a GaussianBridge from a Gaussian of variance 0, `path_measures.EndLaw` to any
I2SB, DDBM, DBIM    `bridge_sampler` as a table, the exact network `bridge_denoiser`, laws of stages `bridge_channels`
SDEdit, DDIB        `edit` by a sampler's table, `edit_channel` and `edit_curve` of Gaussians; `dynamics.translate`
any potentials      `SchroedingerSystem`: residuals of its equations and ends; `steering_cost` by potentials
for solvers         `balanced_bridge`, mixtures at both ends; `benchmark_bridge`, as those of Gushchin et al.
"""

from refdiff.schroedinger.benchmarks import balanced_bridge, benchmark_bridge
from refdiff.schroedinger.editing import EditCurve, edit, edit_channel, edit_curve
from refdiff.schroedinger.fitting import ProportionalFitting, proportional_fitting, refit
from refdiff.schroedinger.gaussian import GaussianBridge
from refdiff.schroedinger.gaussian_costs import Action, Energies, LittleNoise, action, energies, little_noise
from refdiff.schroedinger.markovian import (
    MarkovianFitting,
    end_pairs,
    markovian_fitting,
    markovian_projection,
    markovian_rates,
)
from refdiff.schroedinger.mixtures import MixtureBridge
from refdiff.schroedinger.one_sided import OneSidedBridge, backward_half_bridge, forward_half_bridge
from refdiff.schroedinger.points import point_bridge, point_plan
from refdiff.schroedinger.potentials import ExponentialSum
from refdiff.schroedinger.reference import BrownianReference, ReferenceBridges, reference_process
from refdiff.schroedinger.reversals import ReversedChains, reversed_chains
from refdiff.schroedinger.sampled_fitting import drawn_pairs
from refdiff.schroedinger.system import SchroedingerSystem, steering_cost, steering_effort
from refdiff.schroedinger.tableaux import bridge_channels, bridge_denoiser, bridge_sampler

__all__ = [
    "Action",
    "BrownianReference",
    "EditCurve",
    "Energies",
    "ExponentialSum",
    "GaussianBridge",
    "LittleNoise",
    "MarkovianFitting",
    "MixtureBridge",
    "OneSidedBridge",
    "ProportionalFitting",
    "ReferenceBridges",
    "ReversedChains",
    "SchroedingerSystem",
    "action",
    "backward_half_bridge",
    "balanced_bridge",
    "benchmark_bridge",
    "bridge_channels",
    "bridge_denoiser",
    "bridge_sampler",
    "drawn_pairs",
    "edit",
    "edit_channel",
    "edit_curve",
    "end_pairs",
    "energies",
    "forward_half_bridge",
    "little_noise",
    "markovian_fitting",
    "markovian_projection",
    "markovian_rates",
    "point_bridge",
    "point_plan",
    "proportional_fitting",
    "reference_process",
    "refit",
    "reversed_chains",
    "steering_cost",
    "steering_effort",
]
