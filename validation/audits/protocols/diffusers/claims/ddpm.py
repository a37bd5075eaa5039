r"""Ancestral samplers: DDPM of every kind of variance, unCLIP's and Wuerstchen's.

    x_t = kappa x_s + gamma D + sqrt(v) z      (refdiff.samplers.ancestral), with the variance v of the class

    fixed_small       the posterior's, at least 1e-20         fixed_large        that of the process from t to s
    fixed_small_log   the same by way of its logarithm        fixed_large_log    the same by way of its logarithm
    learned           what the network answers                learned_range      interpolated, logarithms by (v + 1) / 2

Ho et al. and Nichol and Dhariwal add no noise in the last step of the chain, whatever its length. For the learned kinds
the network answers twice the channels; the second half is a fixed number here, so that the sampler is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.ancestral import mean_weights
from refdiff.samplers.ddim import posterior_std, step_variance
from refdiff.samplers.numbers import Number, root
from refdiff.samplers.recorder import Point, Recorder, State
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
    striding,
)
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler, Variant

LEAST = 1e-20  # of a variance, in all classes
ANSWERED = 0.25  # of the second half of the channels: not 0, where a sign would not show
Variance = Callable[[Point, Point, int], Number]


def step(variance: Variance, again: bool = False) -> Rule:
    """An ancestral step. With a ratio a_s / a_t that is off, so is beta, in gamma and in the variance.

    Where alpha is made `again`, as 1 - beta, the ratio in kappa is off as well, by a rounding of 1.
    """

    def rule(rec: Recorder, x: State, s: Point, t: Point, i: int, off: float) -> State:
        kappa, gamma = mean_weights(s, t)
        share = off * (s.alpha / t.alpha / s.sigma) ** 2  # of beta / (1 - a_s)
        clean, added = rec.evaluate(x, s), variance(s, t, i)
        beta = step_variance(s, t)
        kappa = root(kappa**2 + off * (t.sigma / s.sigma) ** 4) if again else kappa
        added = added * (1 + share * s.sigma**2 / beta) if beta > 0 else added
        moved: State = kappa * x + (gamma + t.alpha * share) * clean + rec.noise(root(added))
        return moved

    return rule


def small(s: Point, t: Point, _: int = 0) -> Number:
    """The posterior's variance, at least 1e-20."""
    return max(float(posterior_std(s, t)) ** 2, LEAST)


def large(s: Point, t: Point, _: int = 0) -> Number:
    """The variance that the process adds from t to s."""
    return float(step_variance(s, t))


def between(s: Point, t: Point, _: int = 0) -> Number:
    """The geometric mean of the two, with the share (v + 1) / 2 of the large one."""
    share = (ANSWERED + 1) / 2
    return large(s, t) ** share * small(s, t) ** (1 - share)


VARIANCES: Mapping[str, Variance] = {
    "fixed_small": small,
    "fixed_small_log": small,
    "fixed_large": large,
    "fixed_large_log": large,
    "learned": lambda s, t, i: ANSWERED,
    "learned_range": between,
}


def ddpm(made: Made) -> Sampler:
    """DDPMScheduler and DDPMParallelScheduler."""
    scheduler = made.scheduler
    found, kind = levels(scheduler, 1.0), scheduler.config.variance_type
    variance, last = VARIANCES[kind], len(found.times) - 1

    def claimed(s: Point, t: Point, i: int) -> Number:
        # what is small is added in a last step that does not start at t = 0 too, where it is the least there is
        return variance(s, t, i) if i < last or (variance is small and found.times[-1] > 0) else 0.0

    noisy: tuple[Variant, ...] = ()
    if found.times[-1] > 0 and variance is not small:
        said = "adds noise in its last step: it asks whether t > 0, not whether the step is the last"
        noisy = (Variant(said, on_grid("DDPM", step(variance))),)
    return sampler(
        made,
        on_grid("DDPM", step(claimed)),
        found,
        moved=by_ratio,
        player=played(made, _learned(made)) if kind.startswith("learned") else None,
        conventions=("a variance is at least 1e-20",) if variance in (small, between) else (),
        variants=noisy + striding("DDPM", step(claimed), found),
    )


def _learned(made: Made) -> Callable[..., Any]:
    """A network of twice the channels, of which the second half answers a fixed number."""

    def call(scheduler: Any, answer: Any, t: Any, state: Any, _: int) -> Any:
        import torch

        both = torch.cat([answer, torch.full_like(answer, ANSWERED)], dim=1)
        return scheduler.step(both, t, state, return_dict=False, **made.at_step)[0]

    return call


def unclip(made: Made) -> Sampler:
    """UnCLIPScheduler, told its next timestep as the pipelines do: by itself it moves to t - 1."""
    scheduler = made.scheduler
    found, kind = levels(scheduler, 1.0), scheduler.config.variance_type
    variance, last = VARIANCES[kind], len(found.times) - 1

    def call(scheduler: Any, answer: Any, t: Any, state: Any, i: int) -> Any:
        import torch

        if kind == "learned_range":
            answer = torch.cat([answer, torch.full_like(answer, ANSWERED)], dim=1)
        following = scheduler.timesteps[i + 1] if i < last else None
        return scheduler.step(answer, t, state, prev_timestep=following, return_dict=False, **made.at_step)[0]

    return sampler(
        made,
        on_grid("DDPM", step(lambda s, t, i: variance(s, t, i) if i < last else 0.0, again=True), exact_end=False),
        found,
        moved=by_ratio,
        player=played(made, call),
        conventions=("the next timestep must be passed as prev_timestep, which is t - 1 otherwise",),
    )


def wuerstchen(made: Made) -> Sampler:
    """DDPMWuerstchenScheduler: alpha-bar is a function of t in [0, 1], within [0.0001, 0.9999]."""
    scheduler = made.scheduler
    bars = to_numpy(scheduler._alpha_cumprod(scheduler.timesteps, scheduler.timesteps.device)).astype(float)
    times, theta = to_numpy(scheduler.timesteps).astype(float), rho(bars)
    found = Levels(theta, tuple(range(len(theta) - 1)), float(theta[-1]), 1)

    def call(scheduler: Any, answer: Any, t: Any, state: Any, _: int) -> Any:
        return scheduler.step(answer, t.expand(len(state)), state, return_dict=False, **made.at_step)[0]

    made_sampler = sampler(
        made,
        on_grid("DDPM", step(lambda s, t, i: small(s, t) if i < len(theta) - 2 and s.t > t.t else 0.0)),
        found,
        prediction="noise",
        moved=by_ratio,
        player=played(made, call, lambda scheduler: scheduler.timesteps[:-1]),
        dtype=np.dtype(np.float32),
        conventions=("alpha-bar ends at 0.9999", "the last of the timesteps is the end, of no step"),
    )
    return _told_by(made_sampler, times[::-1], theta[::-1])


def _told_by(one: Sampler, times: Array, theta: Array) -> Sampler:
    return replace(one, told=lambda t: float(np.interp(float(t), times, theta)))


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {
    "DDPMScheduler": ddpm,
    "DDPMParallelScheduler": ddpm,
    "UnCLIPScheduler": unclip,
    "DDPMWuerstchenScheduler": wuerstchen,
}
