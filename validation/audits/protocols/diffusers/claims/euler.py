"""Schedulers whose states are noised by sigma = rho: x_0 + sigma eps, shown to the network as x / sqrt(1 + sigma^2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.edm import edm_euler
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import PRESERVING
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.playing import Made, play, told_level
from refdiff.validation.audits.subject import Claim, Sampler

PREDICTIONS = {"epsilon": "noise", "sample": "denoiser", "original_sample": "denoiser", "v_prediction": "v_prediction"}


def in_sigma(made: Made, build: Callable[[Array], Tableau], order: float, grid: Array | None = None) -> Sampler:
    """A sampler on the levels of `scheduler.sigmas`."""
    scheduler = made.new()
    levels = to_numpy(scheduler.sigmas).astype(float) if grid is None else grid
    claim = Claim(
        build=build,
        grid=levels,
        process=PRESERVING,
        prediction=PREDICTIONS[scheduler.config.prediction_type],
        coordinate="x/alpha",
        shown=lambda rho: 1 / np.sqrt(1 + rho * rho),
        order=order,
        source=made.kind.__name__,
    )
    return Sampler(
        name=made.name,
        play=play(made),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=told_level(scheduler),
        trained=PRESERVING,
        script=made.script(),
    )


def euler(made: Made) -> Sampler:
    """EulerDiscreteScheduler."""
    churn = {f"s_{k}": made.at_step[f"s_{k}"] for k in ("churn", "tmin", "tmax", "noise") if f"s_{k}" in made.at_step}

    def build(grid: Array) -> Tableau:
        return edm_euler(PRESERVING, grid, **churn)

    return in_sigma(made, build, 1)


CLASSES: dict[str, Callable[[Made], Sampler]] = {"EulerDiscreteScheduler": euler}
