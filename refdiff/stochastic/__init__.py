"""Stochastic equations: of exact models and of one's own, Brownian paths, solvers and their orders."""

from refdiff.stochastic.brownian import BrownianPath
from refdiff.stochastic.brownian_steps import Increments
from refdiff.stochastic.equation import StochasticEquation
from refdiff.stochastic.families import forward_equation, marginal_family
from refdiff.stochastic.orders import (
    exact_moments,
    followed,
    linear_moments,
    strong_order,
    tabled,
    weak_limit,
    weak_order,
)
from refdiff.stochastic.solvers import solve

__all__ = [
    "BrownianPath",
    "Increments",
    "StochasticEquation",
    "exact_moments",
    "followed",
    "forward_equation",
    "linear_moments",
    "marginal_family",
    "solve",
    "strong_order",
    "tabled",
    "weak_limit",
    "weak_order",
]
