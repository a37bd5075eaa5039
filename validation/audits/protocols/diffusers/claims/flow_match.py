r"""Schedulers of flow matching: x = (1 - sigma) x_0 + sigma eps, a network of the velocity eps - x_0, times in [0, 1].

    Euler        x + (sigma_t - sigma_s) v, which is DDIM on this path
    stochastic   (1 - sigma_t)(x - sigma_s v) + sigma_t z: to the data at once, then noised afresh
    Heun         the trapezoidal rule in sigma

`invert_sigmas` lists 1 - sigma for networks that answer x_0 - eps and are told 1 - sigma: the sampler is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.clocks import CLOCKS
from refdiff.samplers.consistency import gamma_sampling
from refdiff.samplers.edm import Churn, edm_euler, raised
from refdiff.samplers.impulse import Sampler as Play
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.runge_kutta import METHODS, runge_kutta_step
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import FLOW, falling, strictly
from refdiff.validation.audits.protocols.diffusers.claims.edm_euler import in_units
from refdiff.validation.audits.protocols.diffusers.claims.euler import churn_of, levels_of
from refdiff.validation.audits.protocols.diffusers.playing import Made, play
from refdiff.validation.audits.subject import Claim, Sampler, Variant


def in_flow(
    made: Made,
    build: Callable[[Array], Tableau],
    order: float | None,
    *,
    grid: Array | None = None,
    told: Callable[[Any], float] | None = None,
    sign: float = 1.0,
    sampler: Play | None = None,
    variants: tuple[Variant, ...] = (),
    conventions: tuple[str, ...] = (),
) -> Sampler:
    """A sampler on the levels of `scheduler.sigmas`, whose network answers sign times the velocity.

    Args:
        told: of a time, sigma; by default the time is sigma times num_train_timesteps.
        sampler: where the loop is not that of `play`.
    """
    scheduler = made.scheduler
    trained = float(scheduler.config.get("num_train_timesteps", 1000))
    levels = falling(levels_of(scheduler) if grid is None else grid)

    def on_levels(make: Callable[[Array], Tableau]) -> Callable[[Array], Tableau]:
        return lambda given: make(strictly(np.clip(given, 0.0, 1.0)))

    claim = Claim(
        build=on_levels(build),
        grid=levels,
        process=FLOW,
        prediction="velocity",
        order=order,
        source=made.kind.__name__,
        conventions=conventions,
        variants=tuple(Variant(v.name, on_levels(v.build), v.verdict) for v in variants),
    )
    return Sampler(
        name=made.name,
        play=in_units(play(made) if sampler is None else sampler, sign=sign),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=(lambda t: float(t) / trained) if told is None else told,
        trained=FLOW,
        script=made.script(),
    )


def flow_euler(grid: Array) -> Tableau:
    """Euler's method in sigma."""
    return edm_euler(FLOW, grid)


def renoised(grid: Array) -> Tableau:
    """To the data at once, then noised afresh."""
    return gamma_sampling(FLOW, grid, gamma=1.0)


def euler(made: Made) -> Sampler:
    """FlowMatchEulerDiscreteScheduler; newer releases take the options of churn and leave them alone."""
    if made.scheduler.config.get("stochastic_sampling", False):
        return _perhaps_inverted(made, renoised, None)
    churn = _churn(made)
    said = f"asks before it adds the churn's noise, and {UNSCALED}"
    slips = (Variant(said, lambda grid: _unscaled(grid, churn, heun=False)),) if churn.s_churn else ()
    return _perhaps_inverted(made, flow_euler, 1, slips)


def lcm(made: Made) -> Sampler:
    """FlowMatchLCMScheduler, without its upscaling."""
    return _perhaps_inverted(made, renoised, None)


def _perhaps_inverted(
    made: Made, build: Callable[[Array], Tableau], order: float | None, variants: tuple[Variant, ...] = ()
) -> Sampler:
    """By invert_sigmas the clock runs from noise at 0 to data at 1."""
    scheduler = made.scheduler
    if not scheduler.config.get("invert_sigmas", False):
        return in_flow(made, build, order, variants=variants)
    trained = float(scheduler.config.num_train_timesteps)
    return in_flow(
        made,
        build,
        order,
        grid=1 - levels_of(scheduler),
        told=lambda t: 1 - float(t) / trained,
        sign=-1.0,
        variants=(Variant("takes x - s v, the noise, for the data, and ends in noise", _noise_for_data),)
        if build is renoised
        else (),
        conventions=("invert_sigmas: the network is told 1 - sigma and answers x_0 - eps",),
    )


def _noise_for_data(grid: Array) -> Tableau:
    """What (1 - s')(x - s v) + s' z is on a clock s = 1 - sigma with v = x_0 - eps: x - s v is the noise eps."""
    rec = Recorder("renoised on an inverted clock", FLOW, grid, "velocity")
    x = rec.start
    for s, t in rec.steps:
        noise = x + s.alpha * rec.evaluate(x, s)
        x = t.sigma * noise + rec.noise(t.alpha)
    return rec.finish(x)


# ---------------------------------------------------------------------- Heun, and churn on a flow


UNSCALED = "adds it without scaling the data, off the path of the flow"


def _churn(made: Made) -> Churn:
    return Churn(**{"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": np.inf, "s_noise": 1.0, **churn_of(made)})


def heun(made: Made) -> Sampler:
    """FlowMatchHeunDiscreteScheduler, in which every level between the ends is listed twice."""
    sigmas, churn = levels_of(made.scheduler), _churn(made)
    said = (
        f"asks before it adds the churn's noise, {UNSCALED}, and shares s_churn out to its 2n - 1 evaluations in place "
        "of its n steps"
    )
    return in_flow(
        made,
        lambda grid: churned_heun(grid, churn),
        2,
        grid=np.concatenate([sigmas[:1], sigmas[1::2]]),
        variants=(Variant(said, lambda grid: _unscaled(grid, churn, heun=True)),) if churn.s_churn else (),
    )


def _share(churn: Churn, s: Point, count: int) -> float:
    """gamma, by which sigma is raised."""
    return min(churn.s_churn / count, np.sqrt(2) - 1) if churn.s_tmin <= s.t <= churn.s_tmax else 0.0


def churned_heun(grid: Array, churn: Churn) -> Tableau:
    """The trapezoidal rule in sigma, after the process's own noise from sigma to (1 + gamma) sigma, at most 1.

    A step to sigma = 0 is Euler's.
    """
    rec = Recorder("Heun in sigma", FLOW, grid, "denoiser")
    x = rec.start
    for s, t in rec.steps:
        gamma = _share(churn, s, len(rec.steps))
        hat = rec.at(min(1.0, (1 + gamma) * s.t)) if gamma and not s.pure_noise else s
        x = x if hat is s else raised(rec, x, s, hat, churn.s_noise)
        x = runge_kutta_step(rec, CLOCKS["t"], x, hat, t, METHODS["heun"])
    return rec.finish(x)


def _unscaled(grid: Array, churn: Churn, *, heun: bool) -> Tableau:
    """EDM's lines on a flow: x_hat = x + sqrt(sigma_hat^2 - sigma^2) z, with v / (1 + gamma) of before the noise."""
    rec = Recorder("EDM's churn on a flow", FLOW, grid, "velocity")
    x, evaluations = rec.start, 2 * len(rec.steps) - 1 if heun else len(rec.steps)
    for s, t in rec.steps:
        gamma = _share(churn, s, evaluations)
        v, dt = rec.evaluate(x, s), t.t - (1 + gamma) * s.t
        x = x + rec.noise(churn.s_noise * s.t * np.sqrt(gamma * (2 + gamma)))
        slope = v / (1 + gamma)
        if heun and not t.clean:
            slope = (slope + rec.evaluate(x + dt * slope, t)) / 2
        x = x + dt * slope
    return rec.finish(x)


CLASSES: dict[str, Callable[[Made], Sampler]] = {
    "FlowMatchEulerDiscreteScheduler": euler,
    "FlowMatchHeunDiscreteScheduler": heun,
    "FlowMatchLCMScheduler": lcm,
}
