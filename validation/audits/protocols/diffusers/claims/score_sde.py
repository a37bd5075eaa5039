r"""Score-SDE's samplers (Song et al. 2021), in the loops of their pipelines.

    exploding    reverse diffusion: y + (sigma_s^2 - sigma_t^2) S + sqrt(sigma_s^2 - sigma_t^2) z  on a geometric grid
    preserving   Euler-Maruyama for dx = [-beta x / 2 - beta S] dt + sqrt(beta) dw, the score S by -noise / std

The corrector of the exploding class takes its step from the sizes of its score and its noise: no table, and left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.impulse import Sampler as Play
from refdiff.samplers.numbers import sqrt
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.reverse_sde import euler_maruyama, reverse_diffusion, reverse_drift
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import VPLinear
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.normals import drawn
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Claim, Sampler, Variant


def exploding(made: Made) -> Sampler:
    """ScoreSdeVeScheduler: its predictor, without the noise of the last step, as its pipeline ends."""
    scheduler = _exploding(made)
    levels, shown = (to_numpy(part).astype(float) for part in (scheduler.discrete_sigmas, scheduler.sigmas))
    claim = Claim(
        build=lambda grid: reverse_diffusion(EXPLODING, grid, final="mean"),
        grid=np.concatenate([levels[::-1], [0.0]]),
        process=EXPLODING,
        prediction="score",
        order=1,
        source=made.kind.__name__,
        conventions=(
            "the predictor alone",
            "the last step leaves out its noise",
            "the network is told levels of times down to sampling_eps, the steps have levels of times down to 0",
        ),
    )
    return Sampler(
        name=made.name,
        play=_exploding_loop(made),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=float,
        trained=EXPLODING,
        script=f"{made.script()}\nscheduler.set_sigmas({made.steps})",
        told_within=float(np.abs(levels[::-1] - shown).max()),
    )


def _exploding(made: Made) -> Any:
    scheduler = made.again()
    scheduler.set_sigmas(made.steps)
    return scheduler


def _exploding_loop(made: Made) -> Play:
    def sampler(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        scheduler = _exploding(made)
        y = mean = to_torch(np.asarray(x, dtype=made.dtype))
        with drawn(scheduler, normal, y):
            for i, t in enumerate(scheduler.timesteps):
                score = to_torch(model(to_numpy(y).astype(float), float(scheduler.sigmas[i])), like=y)
                y, mean = scheduler.step_pred(score, t, y, return_dict=False)
        return to_numpy(mean)

    return sampler


def preserving(made: Made) -> Sampler:
    """ScoreSdeVpScheduler: n times from 1 to sampling_eps, and from there to 0."""
    scheduler = made.scheduler
    process = VPLinear(scheduler.config.beta_min, scheduler.config.beta_max)
    times = to_numpy(scheduler.timesteps).astype(float)
    claim = Claim(
        build=lambda grid: euler_maruyama(process, np.minimum(grid, 1.0)),
        grid=np.concatenate([times, [0.0]]),
        process=process,
        prediction="noise",
        order=1,
        source=made.kind.__name__,
        variants=(
            Variant(
                "takes steps of 1/n between times that are (1 - sampling_eps)/(n - 1) apart, "
                "and std from 1 - exp in float32",
                lambda grid: _equal_steps(process, np.minimum(grid, 1.0)),
            ),
        ),
    )
    return Sampler(
        name=made.name,
        play=_preserving_loop(made),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=float,
        trained=process,
        script=made.script(),
    )


def _equal_steps(process: VPLinear, grid: Array) -> Tableau:
    """Euler-Maruyama with steps of 1/n; the score by the std of float32, where 1 - exp(2 c) cancels for small t."""
    rec = Recorder("Euler-Maruyama, steps of 1/n", process, grid, "noise")
    x, h = rec.start, 1 / len(rec.steps)
    for s, _ in rec.steps:
        log_mean = np.float32(-0.25 * s.t**2 * (process.beta_max - process.beta_min) - 0.5 * s.t * process.beta_min)
        score = rec.evaluate(x, s) / -float(np.sqrt(np.float32(1) - np.exp(2 * log_mean)))
        x = x - h * reverse_drift(rec, x, score, s, 1.0) + rec.noise(sqrt(s.coefficients.g2 * h))
    return rec.finish(x)


def _preserving_loop(made: Made) -> Play:
    def sampler(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        scheduler = made.again()
        y = to_torch(np.asarray(x, dtype=made.dtype))
        with drawn(scheduler, normal, y):
            for t in scheduler.timesteps:
                noise = to_torch(model(to_numpy(y).astype(float), float(t)), like=y)
                y = scheduler.step_pred(noise, y, t)[0]
        return to_numpy(y)

    return sampler


CLASSES: dict[str, Callable[[Made], Sampler]] = {
    "ScoreSdeVeScheduler": exploding,
    "ScoreSdeVpScheduler": preserving,
}
