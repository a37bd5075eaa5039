"""Paths between two laws: flow matching, stochastic interpolants and rectified flow, exactly.

joining a pair      `linear`, `trigonometric`, `brownian`, `from_schedule`, or any `ScalarInterpolant`
what is learnt      `InterpolantModel`: velocity, score, density, posteriors, equations with any noise
rectified flow      `rectify` -> `FlowCoupling`: the coupling by the exact flow, closed where it has a closed form
once more           `reflow` -> `StraightFlow`: the rectified flow of a map, by Newton's steps; where lines cross
objectives          `conditional_loss`, `marginal_loss`, their `matching_gap`; `posterior_variance`, `over_time`
energies            `energy_bounds`: `conditional_energy`, `marginal_energy`, `energy_density`; `optimal_schedule`
samples             `carry`, in fixed steps; pairs as training makes them: `minibatch_pairs`
what it saves       `account`: costs, `straightness` and variance `unexplained`; `displacement_cost`, `euler_error`
gradients only      `rectify_potential` -> `PotentialCoupling`: towards the optimal coupling, at a `potential_rate`

By their names in the literature, with p the law of x_0, q that of x_1, and laws of pairs from `refdiff.transport`:

rectified flow, I-CFM    `InterpolantModel(independent(p, q), linear())`, with sigma `linear(sigma)`
OT-CFM                   `optimal_pairs(p, q)` of Gaussians or points, `minibatch_pairs` of any laws
SB-CFM                   `entropic_pairs(p, q, epsilon)` with `brownian(epsilon)`
flow matching            `marginal_loss` is L_FM, `conditional_loss` L_CFM: with given="second" of one end, as Lipman's
stochastic interpolants  `ScalarInterpolant` with gamma^2 for `variance`, as `linear(c)`; `equation` with any noise
diffusion models         `from_schedule(schedule)`, x_0 the data
reflow, 2-rectified      `reflow(rectify(pairs))`

A network f(x, t) is held against the exact velocity by `marginal_loss(model, f, t, route=MonteCarlo(10_000, 0))` of
`refdiff.expectations`, or over all times `over_time(lambda t: ...)`; `carry(f, x, times)` shows where it leads.
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
