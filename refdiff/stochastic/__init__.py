"""Stochastic equations: of exact models and of one's own, Brownian paths, solvers and orders, Langevin's methods."""

from refdiff.stochastic.adjusted import Chains, gaussian_acceptance, mala, warm_up
from refdiff.stochastic.annealed import Annealed, adjusted_predictor_corrector, annealed_chains
from refdiff.stochastic.brownian import BrownianPath
from refdiff.stochastic.brownian_steps import Increments
from refdiff.stochastic.discrete_laws import (
    AffineStep,
    kinetic_step,
    largest_step,
    largest_unadjusted_step,
    unadjusted_step,
)
from refdiff.stochastic.equation import StochasticEquation
from refdiff.stochastic.families import forward_equation, marginal_family
from refdiff.stochastic.hamiltonian import hmc
from refdiff.stochastic.kinetic import Kinetics
from refdiff.stochastic.line_chains import LineChain, adjusted_chain, unadjusted_chain
from refdiff.stochastic.mixing import muckenhoupt, relaxation_rates, relaxation_times, spectral_gap
from refdiff.stochastic.orders import (
    exact_moments,
    followed,
    linear_moments,
    strong_order,
    tabled,
    weak_limit,
    weak_order,
)
from refdiff.stochastic.overdamped import langevin_equation, unadjusted_langevin
from refdiff.stochastic.preconditioner import Preconditioner
from refdiff.stochastic.solvers import solve
from refdiff.stochastic.target import Target, target_of
from refdiff.stochastic.underdamped import Phase, kinetic_equation, underdamped_langevin
from refdiff.stochastic.wells import Wells, passage_time, wells_of

__all__ = [
    "AffineStep",
    "Annealed",
    "BrownianPath",
    "Chains",
    "Increments",
    "Kinetics",
    "LineChain",
    "Phase",
    "Preconditioner",
    "StochasticEquation",
    "Target",
    "Wells",
    "adjusted_chain",
    "adjusted_predictor_corrector",
    "annealed_chains",
    "exact_moments",
    "followed",
    "forward_equation",
    "gaussian_acceptance",
    "hmc",
    "kinetic_equation",
    "kinetic_step",
    "langevin_equation",
    "largest_step",
    "largest_unadjusted_step",
    "linear_moments",
    "mala",
    "marginal_family",
    "muckenhoupt",
    "passage_time",
    "relaxation_rates",
    "relaxation_times",
    "solve",
    "spectral_gap",
    "strong_order",
    "tabled",
    "target_of",
    "unadjusted_chain",
    "unadjusted_langevin",
    "unadjusted_step",
    "underdamped_langevin",
    "warm_up",
    "weak_limit",
    "weak_order",
    "wells_of",
]
