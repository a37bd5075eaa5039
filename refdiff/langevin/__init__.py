"""Langevin's methods: the equations that keep a law, chains of their steps, what these keep and how fast they mix."""

from refdiff.langevin.adjusted import Chains, gaussian_acceptance, mala, warm_up
from refdiff.langevin.annealed import Annealed, adjusted_predictor_corrector, annealed_chains
from refdiff.langevin.discrete_laws import (
    AffineStep,
    kinetic_step,
    largest_step,
    largest_unadjusted_step,
    unadjusted_step,
)
from refdiff.langevin.hamiltonian import hmc
from refdiff.langevin.kinetic import Kinetics
from refdiff.langevin.line_chains import LineChain, adjusted_chain, unadjusted_chain
from refdiff.langevin.mixing import muckenhoupt, relaxation_rates, relaxation_times, spectral_gap
from refdiff.langevin.overdamped import langevin_equation, unadjusted_langevin
from refdiff.langevin.preconditioner import Preconditioner
from refdiff.langevin.target import Target, target_of
from refdiff.langevin.underdamped import Phase, kinetic_equation, underdamped_langevin
from refdiff.langevin.wells import Wells, passage_time, wells_of

__all__ = [
    "AffineStep",
    "Annealed",
    "Chains",
    "Kinetics",
    "LineChain",
    "Phase",
    "Preconditioner",
    "Target",
    "Wells",
    "adjusted_chain",
    "adjusted_predictor_corrector",
    "annealed_chains",
    "gaussian_acceptance",
    "hmc",
    "kinetic_equation",
    "kinetic_step",
    "langevin_equation",
    "largest_step",
    "largest_unadjusted_step",
    "mala",
    "muckenhoupt",
    "passage_time",
    "relaxation_rates",
    "relaxation_times",
    "spectral_gap",
    "target_of",
    "unadjusted_chain",
    "unadjusted_langevin",
    "unadjusted_step",
    "underdamped_langevin",
    "warm_up",
    "wells_of",
]
