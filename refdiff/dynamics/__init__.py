"""Dynamics of exact models: flow maps."""

from refdiff.dynamics import equilibrium
from refdiff.dynamics.flow import flow
from refdiff.dynamics.quantiles import quantile_flow
from refdiff.dynamics.stepping import Flow, Unfinished

__all__ = ["Flow", "Unfinished", "equilibrium", "flow", "quantile_flow"]
