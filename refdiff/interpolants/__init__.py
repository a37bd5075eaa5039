"""Paths between two laws: interpolants of pairs, their exact velocities and scores, and flows that follow them.

joining a pair      `linear`, `trigonometric`, `brownian`, `from_schedule`, or any `ScalarInterpolant`
what is learnt      `InterpolantModel`: velocity, score, density, posteriors, equations with any noise
rectified flow      `rectify` -> `FlowCoupling`: the coupling by the exact flow, closed where it has a closed form
once more           `reflow` -> `StraightFlow`: the rectified flow of a map, by Newton's steps; where lines cross
objectives          `conditional_loss`, `marginal_loss`, their `matching_gap`; `posterior_variance`, `over_time`
energies            `energy_bounds`: `conditional_energy`, `marginal_energy`, `energy_density`; `optimal_schedule`
samples             `carry`, in fixed steps
"""

from refdiff.interpolants.carrying import carry
from refdiff.interpolants.energies import (
    EnergyBounds,
    conditional_energy,
    energy_bounds,
    energy_density,
    marginal_energy,
    optimal_schedule,
)
from refdiff.interpolants.interpolant import (
    Blend,
    Curve,
    Interpolant,
    ScalarInterpolant,
    brownian,
    from_schedule,
    linear,
    trigonometric,
)
from refdiff.interpolants.model import InterpolantModel
from refdiff.interpolants.objectives import (
    conditional_loss,
    marginal_loss,
    matching_gap,
    over_time,
    posterior_variance,
)
from refdiff.interpolants.rectified import FlowCoupling, rectify
from refdiff.interpolants.reflow import MapCoupling, StraightFlow, reflow
from refdiff.interpolants.retiming import Retiming

__all__ = [
    "Blend",
    "Curve",
    "EnergyBounds",
    "FlowCoupling",
    "Interpolant",
    "InterpolantModel",
    "MapCoupling",
    "Retiming",
    "ScalarInterpolant",
    "StraightFlow",
    "brownian",
    "carry",
    "conditional_energy",
    "conditional_loss",
    "energy_bounds",
    "energy_density",
    "from_schedule",
    "linear",
    "marginal_energy",
    "marginal_loss",
    "matching_gap",
    "optimal_schedule",
    "over_time",
    "posterior_variance",
    "rectify",
    "reflow",
    "trigonometric",
]
