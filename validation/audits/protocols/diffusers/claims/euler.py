r"""Euler's methods on noise levels, and what every scheduler on `scheduler.sigmas` has in common.

States are noised by sigma = rho, y = x_0 + sigma eps, and shown to the network as y / sqrt(1 + sigma^2). With churn
(EDM's Algorithm 2) the network is asked after the noise has been raised from sigma to sigma_hat:

    y_hat = y + s_noise sqrt(sigma_hat^2 - sigma^2) z,   d = (y_hat - D(y_hat; sigma_hat)) / sigma_hat

A loop that asks the network before `step` adds the noise has D(y; sigma) there instead, and the noise it adds is never
taken out again: for data of one point, D = 0, a step to sigma = 0 leaves a variance of 2 gamma (1 + gamma) sigma^2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.edm import Churn, edm_euler
from refdiff.samplers.kdiffusion import euler_ancestral
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import PRESERVING, falling, strictly
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.claims import PREDICTIONS
from refdiff.validation.audits.protocols.diffusers.playing import Made, play, told_level, trained_levels
from refdiff.validation.audits.subject import Claim, Sampler, Variant

FAMILIES = ("karras", "exponential", "beta")
CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")


def shown_by_level(rho: Array) -> Array:
    """What y is multiplied by before the network sees it: 1 / sqrt(1 + sigma^2)."""
    return np.asarray(1 / np.sqrt(1 + rho * rho))


def levels_of(scheduler: Any) -> Array:
    """The sigmas of a scheduler, as numbers of this side."""
    return to_numpy(scheduler.sigmas).astype(float)


def in_sigma(
    made: Made,
    build: Callable[[Array], Tableau],
    order: float,
    grid: Array | None = None,
    variants: tuple[Variant, ...] = (),
    conventions: tuple[str, ...] = (),
) -> Sampler:
    """A sampler on the levels of `scheduler.sigmas`, or on a grid that is given."""
    scheduler = made.scheduler
    claim = Claim(
        build=on_levels(build),
        grid=falling(levels_of(scheduler) if grid is None else grid),
        process=PRESERVING,
        prediction=PREDICTIONS[scheduler.config.prediction_type],
        coordinate="x/alpha",
        shown=shown_by_level,
        order=order,
        source=made.kind.__name__,
        conventions=conventions,
        variants=varied(variants),
    )
    return Sampler(
        name=made.name,
        play=play(made),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=told(made, scheduler),
        trained=PRESERVING,
        script=made.script(),
    )


def on_levels(build: Callable[[Array], Tableau]) -> Callable[[Array], Tableau]:
    """The table of levels that may repeat."""
    return lambda levels: build(strictly(levels))


def varied(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """The variants on levels that may repeat."""
    return tuple(replace(one, build=on_levels(one.build)) for one in variants)


def told(made: Made, scheduler: Any) -> Callable[[Any], float]:
    """The level of a time, as the scheduler itself has it.

    t = log(sigma) / 4 where times are continuous. Else sigma of the training table, between two entries of which it is
    linear where levels are made from times, and log sigma is where times are made from levels: for levels of a family,
    levels that are given, and the midpoints of DPM2, which are every second time.
    """
    config = scheduler.config
    if config.get("timestep_type") == "continuous" and config.prediction_type == "v_prediction":
        return lambda t: float(np.exp(4 * float(t)))
    by_log = told_level(scheduler)
    if "sigmas" in made.at_steps or any(config.get(f"use_{name}_sigmas") for name in FAMILIES):
        return by_log
    sigmas = trained_levels(scheduler)
    times = to_numpy(scheduler.timesteps).astype(float)
    midpoints = frozenset(times[1::2].tolist() if hasattr(scheduler, "sigmas_interpol") else ())

    def level(t: Any) -> float:
        return by_log(t) if float(t) in midpoints else float(np.interp(float(t), np.arange(len(sigmas)), sigmas))

    return level


# ---------------------------------------------------------------------- churn

# an estimate of x_0 from x at `hat`, from the answer given for the levels of `at`
ESTIMATES: Mapping[str, Callable[[State, State, Point, Point], State]] = MappingProxyType(
    {
        "noise": lambda x, answer, at, hat: (x - hat.sigma * answer) / hat.alpha,
        "denoiser": lambda x, answer, at, hat: answer,
        "v_prediction": lambda x, answer, at, hat: (at.alpha**2 / hat.alpha) * x - at.sigma * answer,
    }
)


def churn_of(made: Made) -> dict[str, float]:
    """EDM's options, as step is given them."""
    return {name: made.at_step[name] for name in CHURN if name in made.at_step}


def asked_before_churn(
    grid: Array, prediction: str, options: Mapping[str, float], *, taken_at_hat: bool, process: Any = PRESERVING
) -> Tableau:
    """Euler with churn whose network is asked before the noise is raised.

    Args:
        prediction: what the network answers.
        options: of the churn.
        taken_at_hat: whether a v-prediction is taken for one at sigma_hat, or at sigma.
    """
    churn = Churn(**{"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": np.inf, "s_noise": 1.0, **options})
    rec = Recorder("Euler, asked before the churn", process, grid, prediction)
    x = rec.start
    for (s, t), hat in zip(rec.steps, churn.points(rec), strict=True):
        answer = rec.evaluate(x, s)
        x = churn(rec, x, s, hat)
        clean = ESTIMATES[prediction](x, answer, hat if taken_at_hat else s, hat)
        x = t.alpha * clean + (t.sigma / hat.sigma) * (x - hat.alpha * clean)
    return rec.finish(x)


def before_churn_variants(prediction: str, options: Mapping[str, float]) -> tuple[Variant, ...]:
    """What a scheduler makes of churn when the loop asks the network first."""
    if not options.get("s_churn"):
        return ()
    said = "asks the network before it adds the churn's noise, which stays in"
    found = [Variant(said, lambda grid: asked_before_churn(grid, prediction, options, taken_at_hat=True))]
    if prediction == "v_prediction":
        more = f"{said}, and takes v at sigma where the state is at sigma_hat"
        found.append(Variant(more, lambda grid: asked_before_churn(grid, prediction, options, taken_at_hat=False)))
    return tuple(found)


# ---------------------------------------------------------------------- the classes


def euler(made: Made) -> Sampler:
    """EulerDiscreteScheduler."""
    options = churn_of(made)
    prediction = PREDICTIONS[made.scheduler.config.prediction_type]
    return in_sigma(
        made,
        lambda grid: edm_euler(PRESERVING, grid, **options),
        1,
        variants=before_churn_variants(prediction, options),
    )


def ancestral(made: Made) -> Sampler:
    """EulerAncestralDiscreteScheduler, of eta = 1."""
    return in_sigma(made, lambda grid: euler_ancestral(PRESERVING, grid), 1)


CLASSES: dict[str, Callable[[Made], Sampler]] = {
    "EulerDiscreteScheduler": euler,
    "EulerAncestralDiscreteScheduler": ancestral,
}
