r"""Multistep DPM-Solvers on EDM's levels: y = x_0 + sigma eps, and a network F between EDM's preconditioners.

    D(y; sigma) = c_skip y + c_out F(c_in y; c_noise)
    c_skip = s^2 / (sigma^2 + s^2),    c_out = +- sigma s / sqrt(sigma^2 + s^2),    c_in = 1 / sqrt(sigma^2 + s^2)

with s = sigma_data. In units of s, that is for y / s, sigma / s and x_0 / s, the
network with the minus sign (prediction_type v_prediction) is the v-prediction of a variance-preserving process, and
the one with the plus sign, EDM's own, which the classes call epsilon, is minus that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import PRESERVING, falling, strictly
from refdiff.validation.audits.protocols.diffusers.claims.dpm_solver import multistep_methods
from refdiff.validation.audits.protocols.diffusers.claims.edm_euler import in_units
from refdiff.validation.audits.protocols.diffusers.claims.euler import levels_of, shown_by_level
from refdiff.validation.audits.protocols.diffusers.claims.exponential import Method, falls, length_zero
from refdiff.validation.audits.protocols.diffusers.playing import Made, play
from refdiff.validation.audits.subject import Claim, Sampler, Variant

SIGNS: Mapping[str, float] = {"epsilon": -1.0, "v_prediction": 1.0}
EPSILON = "epsilon means EDM's network F in D = c_skip y + c_out F, which is no noise"


def preconditioned(made: Made, algorithm: str, level: Callable[[float], float]) -> Sampler:
    """A class with sigma_data and sigma_schedule; `level` is the sigma that its network takes a time for."""
    scheduler = made.scheduler
    config = scheduler.config
    unit, sign = float(config.sigma_data), SIGNS.get(config.prediction_type, 1.0)
    order = config.solver_order
    method, slips = multistep_methods(
        algorithm, order, config.solver_type, falls(scheduler), bool(config.get("euler_at_final"))
    )

    def on_levels(one: Method) -> Callable[[Array], Tableau]:
        return lambda levels: one(PRESERVING, strictly(levels))

    claim = Claim(
        build=on_levels(method),
        grid=falling(levels_of(scheduler)) / unit,
        process=PRESERVING,
        prediction="v_prediction",
        coordinate="x/alpha",
        shown=shown_by_level,
        order=min(order, 2),
        source=made.kind.__name__,
        conventions=(*((EPSILON,) if sign < 0 else ()), *length_zero(scheduler)),
        variants=tuple(Variant(name, on_levels(one)) for name, one in slips.items()),
        moved=_moved,
    )
    return Sampler(
        name=made.name,
        play=in_units(play(made), unit, sign),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=lambda t: level(float(t)) / unit,
        trained=PRESERVING,
        script=made.script(),
    )


def _moved(levels: Array, errors: Array) -> Array:
    """With log sigma off by one rounding, and by that of its argument."""
    with np.errstate(divide="ignore"):
        size = np.where(levels > 0, 1 + np.abs(np.log(levels)), 0.0)
    return np.asarray(levels * (1 + errors * size))


def edm(made: Made) -> Sampler:
    """EDMDPMSolverMultistepScheduler: times are log(sigma) / 4."""
    algorithm = made.scheduler.config.algorithm_type
    return preconditioned(made, algorithm, lambda t: float(np.exp(4 * t)))


def cosine(made: Made) -> Sampler:
    """CosineDPMSolverMultistepScheduler: SDE-DPM-Solver++ in times 2 / pi atan(sigma).

    Its order is 1 or 2; a Brownian path gives unit normals over its steps, which do not overlap.
    """
    return preconditioned(made, "sde-dpmsolver++", lambda t: float(np.tan(np.pi / 2 * t)))


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {
    "EDMDPMSolverMultistepScheduler": edm,
    "CosineDPMSolverMultistepScheduler": cosine,
}
