r"""Samplers of distilled networks: to an estimate g of x_0, and noised again (refdiff.samplers.consistency).

    LCM           g = c_skip x + c_out D,   x_t = alpha_t g + sigma_t z,   and g itself at last
    TCD           x_t from x_s by DDIM to a cleaner time of floor((1 - eta) t), then noised to t; DDIM with given noise
    CM            g = c_skip x + c_out F of x_0 + sigma eps,   x_t = g + sqrt(sigma_t^2 - sigma_min^2) z
    SCM           TrigFlow, alpha = cos t and sigma = sin t in units of sigma_data:   x_t = cos t g + sin t z
    decoder       g = c_skip x + c_out F,   x_t = alpha_t g + sigma_t z in two steps

F is a network's own answer, which is no prediction of a noisy point but for TrigFlow's, where it is v.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.consistency import Boundary, consistency_boundary, lcm_boundary
from refdiff.samplers.ddim import flow_step
from refdiff.samplers.numbers import root
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.schedules import Coefficients, Schedule, Trigonometric, differentiable
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.claims.products import (
    Levels,
    Rule,
    by_ratio,
    levels,
    on_grid,
    played,
    rho,
    sampler,
)
from refdiff.validation.audits.protocols.diffusers.playing import Made, play
from refdiff.validation.audits.subject import Claim, Sampler, Variant

LCM_SIGMA_DATA = 0.5


def again(boundary: Boundary | None, least: float = 0.0) -> Rule:
    """To the estimate g and back to the noise of t, less the one of level `least` that g has."""

    def rule(rec: Recorder, x: State, s: Point, t: Point, _: int, off: float) -> State:
        g = rec.evaluate(x, s)
        if boundary is not None:
            skip, out = boundary(s)
            g = skip * x + out * g
        # both squares are rounded before their difference
        variance = (t.sigma - least * t.alpha) * (t.sigma + least * t.alpha) + off * (t.sigma**2 if least else 0.0)
        noised: State = t.alpha * g + rec.noise(root(variance))
        return noised

    return rule


def lcm(made: Made) -> Sampler:
    """LCMScheduler."""
    scheduler = made.scheduler
    found = replace(levels(scheduler), end=0.0)
    weights = lcm_boundary(LCM_SIGMA_DATA, scheduler.config.timestep_scaling)
    told = found.grid[:-1]

    def boundary(p: Point) -> tuple[Any, Any]:
        nearest = found.times[int(np.argmin(np.abs(told - p.t)))]
        return weights(replace(p, t=float(nearest)))

    rule = again(boundary)
    noisy = on_grid("LCM", rule, ends=np.append(found.grid[1:-1], found.grid[-2]))
    said = "noises its output to the level of its last timestep: it counts steps from those that strength cut off"
    return sampler(
        made,
        on_grid("LCM", rule),
        found,
        order=None,
        conventions=("c_skip and c_out are made of ten times the timestep",),
        variants=(Variant(said, noisy),),
    )


def tcd(made: Made) -> Sampler:
    """TCDScheduler, which ends at t = 0 whatever set_alpha_to_one says."""
    scheduler, eta = made.scheduler, float(made.at_step.get("eta", 0.3))
    found = levels(scheduler)
    found = replace(found, end=float(found.all[0]))
    following = np.array([*found.times[1:], 0])
    # float32 as the class has it: floor((1 - eta) t) of a t for which the product is a whole number
    cleaner = found.all[np.floor(np.float32(1 - eta) * following.astype(np.float32)).astype(int)]
    last = len(following) - 1

    def rule(rec: Recorder, x: State, s: Point, t: Point, i: int, off: float) -> State:
        between = rec.at(float(cleaner[i]) if eta and i < last else t.t)
        # 1 - a_t / a_between = alpha_t^2 (rho_t^2 - rho_between^2), and its ratio is rounded before the difference
        gap = t.alpha**2 * (t.rho - between.rho) * (t.rho + between.rho)
        fresh = root(gap + off * (t.alpha / between.alpha) ** 2) if gap > 0 else 0.0
        clean = rec.evaluate(x, s)
        return flow_step(x, clean, s, t, root(t.sigma**2 - fresh**2)) + rec.noise(fresh)

    return sampler(
        made,
        on_grid("TCD", rule),
        found,
        moved=by_ratio,
        conventions=("ends at alphas_cumprod[0], whatever set_alpha_to_one says", "no noise in the last step"),
    )


def cm(made: Made) -> Sampler:
    """CMStochasticIterativeScheduler; the network sees x / sqrt(sigma^2 + sigma_data^2)."""
    scheduler = made.scheduler
    config = scheduler.config
    grid = to_numpy(scheduler.sigmas).astype(float)
    rule = again(consistency_boundary(config.sigma_data, config.sigma_min), config.sigma_min)

    def noised(rec: Recorder, x: State, s: Point, t: Point, i: int, off: float) -> State:
        moved = rule(rec, x, s, t, i, off)
        return State({k: w * config.s_noise if k[0] == "normal" else w for k, w in moved.terms.items()})

    claim = Claim(
        build=on_grid("consistency sampling", noised, EXPLODING),
        grid=grid,
        process=EXPLODING,
        prediction="denoiser",
        shown=lambda level: 1 / np.sqrt(level**2 + config.sigma_data**2),
        source=made.kind.__name__,
        conventions=("ends at sigma_min, where the estimate is one of x at sigma_min",),
        moved=by_ratio,
    )
    return Sampler(made.name, play(made), np.dtype(np.float32), claim, script=made.script())


@dataclass(frozen=True)
class Arc(Schedule):
    """alpha = cos t and sigma = sin t, also a little beyond pi / 2, where the class starts: at 1.5708."""

    T: float = 2.0

    def _coefficients(self, t: Array) -> Coefficients:
        cos, sin = np.cos(t), np.sin(t)
        return differentiable(cos, -sin, -cos, sin, cos, -sin)

    def _time(self, lam: Array) -> Array:
        return np.arctan(np.exp(-lam))


def scm(made: Made) -> Sampler:
    """SCMScheduler in units of sigma_data, by the loop of its pipeline."""
    if made.steps != 2 and "intermediate_timesteps" not in made.at_steps:
        made = replace(made, at_steps={**made.at_steps, "intermediate_timesteps": None})
    scheduler = made.scheduler
    unit = scheduler.config.sigma_data

    def call(scheduler: Any, answer: Any, t: Any, state: Any, _: int) -> Any:
        return scheduler.step(answer * unit, t, state * unit, return_dict=False, **made.at_step)[0] / unit

    claim = Claim(
        build=on_grid("consistency sampling", again(None), Arc()),
        grid=to_numpy(scheduler.timesteps).astype(float),
        process=Arc(),
        prediction="v_prediction",
        source=made.kind.__name__,
        conventions=("the last of the timesteps is the end, of no step", "1.5708 is 3.7e-6 beyond pi / 2"),
    )
    return Sampler(
        name=made.name,
        play=played(made, call, lambda scheduler: scheduler.timesteps[:-1]),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=lambda t: min(float(t), np.pi / 2),
        trained=Trigonometric(),
        script=made.script(),
    )


def decoder(made: Made) -> Sampler:
    """ConsistencyDecoderScheduler, of two steps."""
    scheduler = made.scheduler
    every = rho(to_numpy(scheduler.sqrt_alphas_cumprod).astype(float) ** 2)
    found = Levels(every, tuple(int(t) for t in to_numpy(scheduler.timesteps)), 0.0, 1)
    sigma_data = scheduler.config.sigma_data
    return sampler(
        made,
        on_grid("consistency sampling", again(consistency_boundary(sigma_data, 0.0))),
        found,
        prediction="denoiser",
        dtype=np.dtype(np.float32),
        order=None,
        shown=lambda level: np.sqrt((1 + level**2) / (level**2 + sigma_data**2)),
    )


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {
    "LCMScheduler": lcm,
    "TCDScheduler": tcd,
    "CMStochasticIterativeScheduler": cm,
    "SCMScheduler": scm,
    "ConsistencyDecoderScheduler": decoder,
}
