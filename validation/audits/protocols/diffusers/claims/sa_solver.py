r"""SA-Solver: stochastic Adams methods, with tau read at the time of every step's start.

The class takes its weights as differences of antiderivatives e^{c lambda} (lambda^3 - ...) at both ends, in float32,
which loses digits: with four evaluations weights are off by 1e-2 at 100 steps, more than rounding of the levels
explains. The same formulas in double precision are right to 1e-10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.sa_solver import sa_solver
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule
from refdiff.validation.audits.protocols.diffusers.claims.exponential import lambda_solver, length_zero
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler

FEW_STEPS = "with two evaluations the first moment is H/2, as in the official code, in place of the integral's"


def solver(made: Made) -> Sampler:
    """SASolverScheduler."""
    scheduler = made.scheduler
    config = scheduler.config
    p, q, data = config.predictor_order, config.corrector_order, config.algorithm_type == "data_prediction"
    amounts = [float(scheduler.tau_func(t)) for t in scheduler.timesteps]

    def method(process: Schedule, levels: Array) -> Tableau:
        starts = np.asarray(levels[:-1])
        return sa_solver(
            process,
            levels,
            predictor_order=p,
            corrector_order=q,
            tau=lambda level: amounts[int(np.argmin(np.abs(starts - level)))],
            prediction="denoiser" if data else "noise",
            few_steps=data,
            lower_order_final=bool(config.lower_order_final),
        )

    conventions = (*((FEW_STEPS,) if data else ()), *length_zero(scheduler))
    order = min(p + 1, q, 2)
    return lambda_solver(made, scheduler, method, order, conventions=conventions, evaluations=max(p, q))


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {"SASolverScheduler": solver}
