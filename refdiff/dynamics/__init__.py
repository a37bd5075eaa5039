"""Dynamics of exact models: flow maps."""

from refdiff.dynamics.flow import Flow, Unfinished, flow

__all__ = ["Flow", "Unfinished", "flow"]
