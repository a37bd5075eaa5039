"""UniPC: UniP-p, corrected by UniC-p after every step but the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from refdiff.arguments import Array
from refdiff.samplers.tableau import Tableau
from refdiff.samplers.unipc import unipc
from refdiff.schedules import Schedule
from refdiff.validation.audits.protocols.diffusers.claims.exponential import lambda_solver, length_zero
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler


def multistep(made: Made) -> Sampler:
    """UniPCMultistepScheduler; with a predictor of another class (solver_p) nothing is claimed."""
    scheduler = made.scheduler
    config = scheduler.config
    order = config.solver_order
    # the class takes steps that do not exist for none
    skipped = [step for step in config.disable_corrector if 0 <= step < len(scheduler.timesteps)]

    def method(process: Schedule, levels: Array) -> Tableau:
        return unipc(
            process,
            levels,
            order=order,
            solver_type=config.solver_type,
            prediction="denoiser" if config.predict_x0 else "noise",
            disable_corrector=skipped,
            lower_order_final=bool(config.lower_order_final),
        )

    # the first step has a predictor of order 1 that is corrected to order 2, the last one with falling orders order 1
    run = 2 if config.lower_order_final or skipped else min(order + 1, 3)
    sampler = lambda_solver(made, scheduler, method, run, conventions=length_zero(scheduler))
    return sampler if config.get("solver_p") is None else replace(sampler, claim=None)


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {"UniPCMultistepScheduler": multistep}
