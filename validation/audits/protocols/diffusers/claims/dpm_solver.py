"""Multistep DPM-Solvers: states are x = alpha x_0 + sigma eps, on the levels of `scheduler.sigmas`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.dpm_solver import dpm_solver_multistep
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp_multistep
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import PRESERVING
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.claims.euler import PREDICTIONS
from refdiff.validation.audits.protocols.diffusers.playing import Made, play, told_level
from refdiff.validation.audits.subject import Claim, Sampler


def preserving(made: Made, build: Callable[[Array], Tableau], order: float) -> Sampler:
    """A sampler of x on the levels of `scheduler.sigmas`."""
    scheduler = made.new()
    claim = Claim(
        build=build,
        grid=to_numpy(scheduler.sigmas).astype(float),
        process=PRESERVING,
        prediction=PREDICTIONS[scheduler.config.prediction_type],
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


def multistep(made: Made) -> Sampler:
    """DPMSolverMultistepScheduler, of algorithms dpmsolver and dpmsolver++."""
    config = made.new().config
    few = config.lower_order_final and made.steps < 15
    family = dpm_solver_pp_multistep if config.algorithm_type == "dpmsolver++" else dpm_solver_multistep

    def build(grid: Array) -> Tableau:
        return family(
            PRESERVING,
            grid,
            order=config.solver_order,
            solver_type=config.solver_type,
            lower_order_final=few,
            euler_at_final=config.euler_at_final or config.final_sigmas_type == "zero",
        )

    return preserving(made, build, config.solver_order)


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {"DPMSolverMultistepScheduler": multistep}
