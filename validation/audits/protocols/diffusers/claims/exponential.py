r"""What the solvers in lambda = log(alpha / sigma) have in common: DPM-Solver, DEIS, UniPC, SA-Solver.

States are x = alpha x_0 + sigma eps on the levels of `scheduler.sigmas`, which are

    rho = sigma / alpha, alpha^2 + sigma^2 = 1        without flow sigmas
    sigma, alpha = 1 - sigma                          with them

The classes have lambda as fl(fl(log alpha) - fl(log sigma)), off by a rounding of alpha, of sigma and of each
logarithm: by 2 + |log alpha| + |log sigma| roundings. So far are the levels of perturbed grids apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule
from refdiff.validation.audits.levels import FLOW, PRESERVING, falling, strictly
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.claims import PREDICTIONS
from refdiff.validation.audits.protocols.diffusers.playing import Made, play, told_level
from refdiff.validation.audits.subject import Claim, Sampler, Variant

Method = Callable[[Schedule, Array], Tableau]

UNIT_CIRCLE = "takes v for one of alpha^2 + sigma^2 = 1, where alpha + sigma = 1: D and e are off by alpha^2 + sigma^2"
# a smaller difference of lambda is no step
REPEATED = 1e-6
# with fewer steps than this the classes let the order fall at the end
FEW = 15


CUT = ("flow", "exponential", "beta")  # families of levels whose times are cut, not rounded, to whole numbers


def lambda_solver(
    made: Made,
    scheduler: Any,
    method: Method,
    order: float,
    *,
    variants: Mapping[str, Method] = MappingProxyType({}),
    conventions: tuple[str, ...] = (),
    towards_noise: bool = False,
    evaluations: int = 1,
) -> Sampler:
    """A sampler of x on the levels of `scheduler.sigmas`.

    Args:
        made, scheduler: what is played, and one of it that has its steps.
        method: (process, decreasing levels) -> the table; levels increase where it goes towards noise.
        order: that it has as run.
        variants: slips by their names.
        conventions: as for a claim.
        towards_noise: an inversion.
        evaluations: how many a step combines, where weights are differences of antiderivatives; see `rounded`.
    """
    config = scheduler.config
    flow = bool(config.get("use_flow_sigmas"))
    if flow and config.prediction_type == "v_prediction":
        variants = {UNIT_CIRCLE: on_unit_circle(method), **variants}
    process: Schedule = FLOW if flow else PRESERVING
    levels = to_numpy(scheduler.sigmas).astype(float)

    def on_levels(one: Method) -> Callable[[Array], Tableau]:
        if towards_noise:
            return lambda levels: one(process, strictly(_rising(levels)[::-1])[::-1])
        return lambda levels: one(process, strictly(levels))

    claim = Claim(
        build=on_levels(method),
        grid=levels if towards_noise else falling(levels),
        process=process,
        prediction=PREDICTIONS[config.prediction_type],
        order=order,
        source=made.kind.__name__,
        conventions=conventions,
        variants=tuple(Variant(name, on_levels(one)) for name, one in variants.items()),
        moved=rounded(process, evaluations),
    )
    return Sampler(
        name=made.name,
        play=play(made),
        dtype=np.dtype(np.float32),
        # the answer eps - x_0 means nothing of states that are not (1 - sigma) x_0 + sigma eps
        claim=None if config.prediction_type == "flow_prediction" and not flow else claim,
        told=(lambda t: float(t) / config.num_train_timesteps) if flow else told_level(scheduler),
        trained=process,
        told_within=1.0 if any(config.get(f"use_{kind}_sigmas") for kind in CUT) else 0.0,
        script=made.script(),
    )


def on_unit_circle(method: Method) -> Method:
    """With D = alpha x - sigma v and e = sigma x + alpha v, which are alpha^2 + sigma^2 times what they should be."""

    def slip(process: Schedule, levels: Array) -> Tableau:
        table = method(process, levels)
        c, outputs = table.scalars, table.outputs.copy()
        square = c.alpha**2 + c.sigma**2
        for k in range(table.stages):
            for i in range(min(k, outputs.shape[1])):
                outputs[k, i] *= square[k - 1 - i]
        return replace(table, outputs=outputs)

    return slip


def _rising(levels: Array) -> Array:
    if levels[0] >= levels[-1]:
        raise ValueError(f"levels must rise from data to noise for an inversion, got {levels[0]:.6g} at the start and "
                         f"{levels[-1]:.6g} at the end")  # fmt: skip
    return levels


def rounded(process: Schedule, evaluations: int = 1) -> Callable[[Array, Array], Array]:
    """(levels, errors) -> the levels whose lambda is off by as many errors as its computation has roundings.

    Some classes write the polynomial through m + 1 evaluations in powers of lambda, and integrate each power by a
    difference of antiderivatives. Those of e^lambda lambda^j are at most e^lambda (j + |lambda|)^j, the coefficients
    symmetric functions of the nodes over m gaps: these terms are ((m + 2 |lambda|) / gap)^m times what a weight is for
    a unit of lambda, and round as if lambda were off by so many roundings; where that is more than a part of the gap,
    nothing of the weight is left.
    """
    m = evaluations - 1

    def moved(levels: Array, errors: Array) -> Array:
        c = process.coefficients(levels)
        with np.errstate(divide="ignore", invalid="ignore"):
            lam = np.log(c.alpha) - np.log(c.sigma)
            size = 2 + np.abs(np.log(c.alpha)) + np.abs(np.log(c.sigma))
            gaps = np.abs(np.diff(lam, prepend=np.inf, append=np.inf))
            gaps[~(gaps > REPEATED)] = np.inf
            gap = np.minimum(gaps[:-1], gaps[1:])
            off = np.minimum(np.abs(errors) * ((m + 2 * np.abs(lam)) / gap) ** m, gap / 4)
            off = np.sign(errors) * np.maximum(np.abs(errors) * size, off if m else 0.0)
        # d log(level) / d lambda, but for its sign
        slope = 1 - levels if process is FLOW else np.ones_like(levels)
        return np.asarray(levels * (1 + np.where(levels > 0, off, 0.0) * slope))

    return moved


def falls(scheduler: Any) -> bool:
    """Whether the order falls at the end: an option that holds on short grids."""
    return bool(scheduler.config.lower_order_final) and len(scheduler.timesteps) < FEW


def length_zero(scheduler: Any) -> tuple[str, ...]:
    """The convention of a last step that goes nowhere, if it has one."""
    last, end = to_numpy(scheduler.sigmas)[-2:]
    return ("the last step has length zero: its evaluation is not used",) if last == end else ()
