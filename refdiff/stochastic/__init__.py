"""Stochastic equations: of exact models and of one's own, Brownian paths, solvers, Langevin's methods."""

from refdiff.stochastic.equation import StochasticEquation
from refdiff.stochastic.families import forward_equation, marginal_family

__all__ = ["StochasticEquation", "forward_equation", "marginal_family"]
