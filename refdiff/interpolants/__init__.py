"""Paths between two laws: interpolants of pairs, their exact velocities and scores, and flows that follow them.

joining a pair      `linear`, `trigonometric`, `brownian`, `from_schedule`, or any `ScalarInterpolant`
what is learnt      `InterpolantModel`: velocity, score, density, posteriors, equations with any noise
rectified flow      `rectify` -> `FlowCoupling`: the coupling by the exact flow, closed where it has a closed form
once more           `reflow` -> `StraightFlow`: the rectified flow of a map, by Newton's steps; where lines cross
objectives          `conditional_loss`, `marginal_loss`, their `matching_gap`; `posterior_variance`, `over_time`
energies            `energy_bounds`: `conditional_energy`, `marginal_energy`, `energy_density`; `optimal_schedule`
samples             `carry`, in fixed steps; pairs as training makes them: `minibatch_pairs`
what it saves       `account`: costs, `straightness` and variance `unexplained`; `displacement_cost`, `euler_error`
gradients only      `rectify_potential` -> `PotentialCoupling`: towards the optimal coupling, at a `potential_rate`
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
from refdiff.interpolants.minibatches import minibatch_pairs
from refdiff.interpolants.model import InterpolantModel
from refdiff.interpolants.objectives import (
    conditional_loss,
    marginal_loss,
    matching_gap,
    over_time,
    posterior_variance,
)
from refdiff.interpolants.potential import PotentialCoupling, potential_rate, rectify_potential
from refdiff.interpolants.rectified import FlowCoupling, rectify
from refdiff.interpolants.reflow import MapCoupling, StraightFlow, reflow
from refdiff.interpolants.retiming import Retiming
from refdiff.interpolants.straightness import (
    Account,
    account,
    displacement_cost,
    euler_error,
    straightness,
    unexplained,
)

__all__ = [
    "Account",
    "Blend",
    "Curve",
    "EnergyBounds",
    "FlowCoupling",
    "Interpolant",
    "InterpolantModel",
    "MapCoupling",
    "PotentialCoupling",
    "Retiming",
    "ScalarInterpolant",
    "StraightFlow",
    "account",
    "brownian",
    "carry",
    "conditional_energy",
    "conditional_loss",
    "displacement_cost",
    "energy_bounds",
    "energy_density",
    "euler_error",
    "from_schedule",
    "linear",
    "marginal_energy",
    "marginal_loss",
    "matching_gap",
    "minibatch_pairs",
    "optimal_schedule",
    "over_time",
    "posterior_variance",
    "potential_rate",
    "rectify",
    "rectify_potential",
    "reflow",
    "straightness",
    "trigonometric",
    "unexplained",
]
