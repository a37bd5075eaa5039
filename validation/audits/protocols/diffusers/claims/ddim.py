r"""DDIM, its inverse, and CogVideoX's two samplers.

    x_t = alpha_t D + sqrt(sigma_t^2 - c^2) eps + c z,     c = eta times the posterior's standard deviation

The inverse goes from the cleaner t to the noisier s with the noise that the network sees at x_t when it is told s:
its answer is one of level s, whatever it predicts. CogVideoX's DPM sampler is SDE-DPM-Solver++(2M).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.ddim import flow_step, sde_split, split
from refdiff.samplers.numbers import expm1, root
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.findings import Verdict
from refdiff.validation.audits.protocols.diffusers.claims import PREDICTIONS
from refdiff.validation.audits.protocols.diffusers.claims.products import (
    BARS,
    Levels,
    Rule,
    by_level,
    by_ratio,
    levels,
    on_grid,
    played,
    sampler,
    striding,
)
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler, Variant

INDEPENDENT = "takes eta and does not use it: the sampler is the same for all of them"


def step(eta: float) -> Rule:
    """A step of DDIM. The noise's variance is off with the ratio a_s / a_t and by a rounding of its own."""

    def rule(rec: Recorder, x: State, s: Point, t: Point, _: int, off: float) -> State:
        kept, fresh = split(s, t, eta)
        if eta and off:
            moved = ((eta * s.alpha / t.alpha * t.sigma / s.sigma) ** 2 + fresh**2) * off
            kept, fresh = root(kept**2 - moved), root(fresh**2 + moved)
        return flow_step(x, rec.evaluate(x, s), s, t, kept) + rec.noise(fresh)

    return rule


def ddim(made: Made) -> Sampler:
    """DDIMScheduler and DDIMParallelScheduler."""
    eta, found = float(made.at_step.get("eta", 0.0)), levels(made.scheduler)
    rule = step(eta)
    return sampler(
        made,
        on_grid("DDIM", rule),
        found,
        moved=by_ratio if eta else by_level,
        conventions=_ends(found),
        variants=striding("DDIM", rule, found),
    )


def _ends(found: Levels) -> tuple[str, ...]:
    return () if found.end == 0 else ("ends at alphas_cumprod[0]",)


def cogvideox_ddim(made: Made) -> Sampler:
    """CogVideoXDDIMScheduler, with the eta that it takes."""
    eta, found = float(made.at_step.get("eta", 0.0)), levels(made.scheduler)
    rule = step(eta)
    deaf = (Variant(INDEPENDENT, on_grid("DDIM", step(0.0))),) if eta else ()
    return sampler(
        made,
        on_grid("DDIM", rule),
        found,
        moved=by_ratio if eta else by_level,
        conventions=_ends(found),
        variants=deaf + striding("DDIM", step(0.0), found),
    )


def inverse(made: Made) -> Sampler:
    """DDIMInverseScheduler: from its initial alpha-bar up to the last of its timesteps."""
    scheduler = made.scheduler
    found = levels(scheduler, float(scheduler.initial_alpha_cumprod))
    kind = PREDICTIONS[scheduler.config.prediction_type]
    rising = np.append(found.end, found.all[list(found.times)])
    strode = np.array([found.all[t] if t >= 0 else found.end for t in (t - found.stride for t in found.times)])
    convert = _CONVERTED.get(kind)
    variants = []
    if not np.array_equal(strode, rising[:-1]):
        said = f"starts its steps {found.stride} timesteps before their ends, where the last ones did not end"
        variants.append(Variant(said, lambda grid: _upward(strode, grid[1:], "noise", _from_noise)))
    if convert is not None:
        said = f"turns the {kind} into a noise at the level of the state, not at the one that its network is told"
        build = lambda grid: _upward(grid[:-1], grid[1:], kind, convert)  # noqa: E731
        variants.append(Variant(said, build, verdict=Verdict.CONVENTION))
        if variants[:-1]:
            both = f"{variants[0].name}, and {said}"
            variants.append(Variant(both, lambda grid: _upward(strode, grid[1:], kind, convert)))
    one = sampler(
        made,
        lambda grid: _upward(grid[:-1], grid[1:], "noise", _from_noise),
        found,
        conventions=("the network is told the level that a step goes to", *_starts(found)),
        variants=tuple(variants),
    )
    assert one.claim is not None
    return replace(one, claim=replace(one.claim, grid=rising))


def _starts(found: Levels) -> tuple[str, ...]:
    return () if found.end == 0 else ("starts at alphas_cumprod[0]",)


Rise = Callable[[State, State, Point, Point], State]  # (x, answer, from the cleaner, to the noisier) -> new x


def _upward(starts: Array, ends: Array, prediction: str, rise: Rise) -> Tableau:
    """Steps of an inversion: the network sees the cleaner point and is told the noisier one."""
    rec = Recorder("DDIM inversion", BARS, [starts[0], BARS.T], prediction, towards_noise=True)
    x, t, s = rec.start, rec.points[0], rec.points[0]
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        t, s = (t if i == 0 else rec.at(float(start))), rec.at(float(end))
        here = rec.keep(x, t)
        x = rise(here, rec.evaluate(State(dict(here.terms)), s), t, s)
    return rec.finish(x, s)


def _from_noise(x: State, noise: State, t: Point, s: Point) -> State:
    moved: State = s.alpha / t.alpha * x + (s.sigma - s.alpha * t.rho) * noise
    return moved


def _from_v(x: State, v: State, t: Point, s: Point) -> State:
    clean, noise = t.alpha * x - t.sigma * v, t.sigma * x + t.alpha * v
    moved: State = s.alpha * clean + s.sigma * noise
    return moved


def _from_denoiser(x: State, clean: State, t: Point, s: Point) -> State:
    return flow_step(x, clean, t, s, s.sigma)


_CONVERTED: Mapping[str, Rise] = {"v_prediction": _from_v, "denoiser": _from_denoiser}


def cogvideox_dpm(made: Made) -> Sampler:
    """CogVideoXDPMScheduler: SDE-DPM-Solver++(2M), whose last step is of order 1."""
    scheduler = made.scheduler
    found = levels(scheduler)
    last = len(found.times) - 1

    def call(scheduler: Any, answer: Any, t: Any, state: Any, i: int) -> Any:
        old = scheduler.audited if i else None
        back = scheduler.timesteps[i - 1] if i else None
        new, scheduler.audited = scheduler.step(answer, old, t, back, state, return_dict=False, **made.at_step)
        return new

    return sampler(
        made,
        on_grid("SDE-DPM-Solver++-2M", _second(lambda i: i == last)),
        found,
        player=played(made, call),
        order=2,
        conventions=_ends(found),
        variants=striding("SDE-DPM-Solver++-2M", _second(lambda i: found.times[i] < found.stride), found),
    )


def _second(first_order: Callable[[int], bool]) -> Rule:
    """A step of refdiff's sde_dpm_solver_pp, to a point where the next one need not start."""
    earlier: list[tuple[Point, State]] = []

    def rule(rec: Recorder, x: State, s: Point, t: Point, i: int, _: float) -> State:
        d, h = rec.evaluate(x, s), t.log_snr - s.log_snr
        kept, fresh = sde_split(s, t, 1.0)
        x = flow_step(x, d, s, t, kept)
        if i and not first_order(i):
            point, d_last = earlier[-1]
            x = x - t.alpha * expm1(-2 * h) / 2 * (h / (s.log_snr - point.log_snr)) * (d - d_last)
        earlier[:] = [(s, d)]
        return x + rec.noise(fresh)

    return rule


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {
    "DDIMScheduler": ddim,
    "DDIMParallelScheduler": ddim,
    "DDIMInverseScheduler": inverse,
    "CogVideoXDDIMScheduler": cogvideox_ddim,
    "CogVideoXDPMScheduler": cogvideox_dpm,
}
