r"""DPM2 and DPM2 ancestral of k-diffusion: a midpoint in log sigma, between levels that the scheduler lists twice.

`sigmas` is s_0, s_1, s_1, ..., 0, 0, 0, and `sigmas_interpol` holds the midpoints in between. The ancestral class finds
the way down as sigma_down^2 = sigma_next^2 - sigma_up^2 in float32, where sigma_down = sigma_next^2 / sigma: what
rounding leaves of the difference is off by (sigma / sigma_next)^2 roundings, and may be zero or below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.edm import euler_step, moved, noise_prediction
from refdiff.samplers.kdiffusion import dpm2, dpm2_ancestral
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import PRESERVING
from refdiff.validation.audits.protocols.diffusers.claims.euler import in_sigma, levels_of
from refdiff.validation.audits.protocols.diffusers.playing import Made, trained_levels
from refdiff.validation.audits.subject import Sampler, Variant


def _grid(made: Made) -> Array:
    sigmas = levels_of(made.scheduler)
    return np.concatenate([sigmas[:1], sigmas[1:-1:2]])


def _rounded(sampler: Sampler, made: Made, within: float = 0.0) -> Sampler:
    """Times of Karras's levels are rounded to whole numbers, those of the midpoints are not."""
    return replace(sampler, told_within=0.5 if made.options.get("use_karras_sigmas") else within)


def kdpm2(made: Made) -> Sampler:
    """KDPM2DiscreteScheduler."""
    return _rounded(in_sigma(made, lambda levels: dpm2(PRESERVING, levels), 2, _grid(made)), made)


def ancestral(made: Made) -> Sampler:
    """KDPM2AncestralDiscreteScheduler, of eta = 1."""
    variants = (Variant("finds sigma_down as a difference that cancels in float32", cancelled),)
    grid = _grid(made)
    sampler = in_sigma(made, lambda levels: dpm2_ancestral(PRESERVING, levels), 2, grid, variants)
    return _rounded(sampler, made, _lost_in_time(made, grid))


def _lost_in_time(made: Made, grid: Array) -> float:
    """How far the cancellation moves the time of a midpoint.

    Six operations make sigma_down^2 of numbers of the size of sigma_next^2, half a rounding each: its relative error is
    3 eps (sigma / sigma_next)^2, that of the midpoint sqrt(sigma sigma_down) a quarter of it.
    """
    logs = np.log(trained_levels(made.scheduler))
    high, low = grid[:-2], grid[1:-1]  # the last step, to 0, has no midpoint
    error = 0.75 * np.finfo(np.float32).eps * (high / low) ** 2
    per_time = np.interp(np.log(low), logs, np.gradient(logs))
    return float((error / per_time).max(initial=0.0))


def cancelled(levels: Array) -> Tableau:
    """DPM2 ancestral with the ways up and down of float32, where the difference is not zero."""
    rec = Recorder("DPM2 ancestral in float32", PRESERVING, levels, "denoiser")
    x = rec.start
    for s, t in rec.steps:
        if t.clean:
            x = euler_step(rec, x, s, t)
            continue
        high, low = np.float32(s.rho), np.float32(t.rho)
        up = np.sqrt(low**2 * (high**2 - low**2) / high**2)
        down = float(np.sqrt(np.maximum(low**2 - up**2, np.finfo(np.float32).tiny)))
        end, middle = (rec.at_log_snr(-np.log(level)) for level in (down, np.sqrt(s.rho * down)))
        first = noise_prediction(rec, x, s)
        second = noise_prediction(rec, moved(x, first, s, middle), middle)
        x = (t.alpha / end.alpha) * moved(x, second, s, end) + rec.noise(t.alpha * float(up))
    return rec.finish(x)


CLASSES: dict[str, Callable[[Made], Sampler]] = {
    "KDPM2DiscreteScheduler": kdpm2,
    "KDPM2AncestralDiscreteScheduler": ancestral,
}
