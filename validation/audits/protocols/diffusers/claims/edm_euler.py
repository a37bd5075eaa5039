r"""Schedulers of EDM networks: Euler with EDM's preconditioning, and the deprecated KarrasVe, which is Algorithm 2.

EDM's network F gives D(y) = c_skip y + c_out F(c_in y) with c_skip = sd^2 / (sigma^2 + sd^2),
c_out = sigma sd / sqrt(sigma^2 + sd^2), c_in = 1 / sqrt(sigma^2 + sd^2), sd = sigma_data. In units of sd, with
rho = sigma / sd, this is D = y / (1 + rho^2) + rho / sqrt(1 + rho^2) F: F is minus the v-prediction. So both schedulers
are played in units of sd, by a network of v, or of noise, whose sign is turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.edm import edm_euler, edm_heun
from refdiff.samplers.impulse import Sampler as Play
from refdiff.validation.audits.levels import EXPLODING, PRESERVING, falling
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.claims.euler import (
    before_churn_variants,
    churn_of,
    levels_of,
    on_levels,
    shown_by_level,
    varied,
)
from refdiff.validation.audits.protocols.diffusers.normals import drawn
from refdiff.validation.audits.protocols.diffusers.playing import Made, play
from refdiff.validation.audits.subject import Claim, Sampler


def in_units(sampler: Play, unit: float = 1.0, sign: float = 1.0) -> Play:
    """A sampler whose states are in units, and whose network's answers have another sign."""

    def scaled(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        return sampler(lambda shown, t: sign * model(shown, t), unit * np.asarray(x), normal) / unit

    return scaled


def edm(made: Made) -> Sampler:
    """EDMEulerScheduler: F is minus v for prediction_type epsilon, and v itself for v_prediction."""
    scheduler, options = made.scheduler, churn_of(made)
    unit = float(scheduler.config.sigma_data)
    # levels of churn are in units of sd as well
    options |= {name: options[name] / unit for name in ("s_tmin", "s_tmax") if name in options}
    sign = -1.0 if scheduler.config.prediction_type == "epsilon" else 1.0
    claim = Claim(
        build=on_levels(lambda levels: edm_euler(PRESERVING, levels, **options)),
        grid=falling(levels_of(scheduler)) / unit,
        process=PRESERVING,
        prediction="v_prediction",
        coordinate="x/alpha",
        shown=shown_by_level,
        order=1,
        source=made.kind.__name__,
        conventions=("a network F with EDM's preconditioning", f"states in units of sigma_data = {unit:g}"),
        variants=varied(before_churn_variants("v_prediction", options)),
    )
    return Sampler(
        name=made.name,
        play=in_units(play(made), unit, sign),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=lambda t: float(np.exp(4 * float(t))) / unit,
        trained=PRESERVING,
        script=made.script(),
    )


def karras_ve(made: Made) -> Sampler:
    """KarrasVeScheduler in its pipeline's loop; the network answers (D - y) / sigma, minus the noise."""
    made = replace(made, at_step={})
    scheduler = made.scheduler
    config = scheduler.config
    # the schedule is indexed by the times, which count down
    grid = np.concatenate([to_numpy(scheduler.schedule).astype(float)[::-1], [0.0]])
    churn = {"s_churn": config.s_churn, "s_tmin": config.s_min, "s_tmax": config.s_max, "s_noise": config.s_noise}
    claim = Claim(
        build=on_levels(lambda levels: edm_heun(EXPLODING, levels, **churn)),
        grid=grid,
        process=EXPLODING,
        prediction="noise",
        order=2,
        source=made.kind.__name__,
    )
    return Sampler(
        name=made.name,
        play=in_units(_karras_ve_loop(made), sign=-1.0),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=float,
        trained=EXPLODING,
        script=made.script(),
    )


def _karras_ve_loop(made: Made) -> Play:
    def sampler(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        scheduler = made.again()
        y = to_torch(np.asarray(x, dtype=made.dtype))

        def answer(state: Any, sigma: Any) -> Any:
            return to_torch(model(to_numpy(state).astype(float), float(sigma)), like=y)

        with drawn(scheduler, normal, y):
            for t in scheduler.timesteps:
                sigma = scheduler.schedule[t]
                lower = scheduler.schedule[t - 1] if t > 0 else 0
                high, sigma_hat = scheduler.add_noise_to_input(y, sigma)
                step = scheduler.step(answer(high, sigma_hat), sigma_hat, lower, high)
                if lower != 0:
                    step = scheduler.step_correct(
                        answer(step.prev_sample, lower), sigma_hat, lower, high, step.prev_sample, step.derivative
                    )
                y = step.prev_sample
        return to_numpy(y)

    return sampler


CLASSES: dict[str, Callable[[Made], Sampler]] = {"EDMEulerScheduler": edm, "KarrasVeScheduler": karras_ve}
