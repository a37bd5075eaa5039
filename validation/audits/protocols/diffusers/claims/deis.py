r"""DEIS with polynomials in log rho: the class's solver type logrho is lambdaAB, as log rho = -lambda.

The table is written for the noise, as the class computes it: alpha_t / alpha_s x_s is large where alpha_s is small, and
what other predictions have there is a difference of large terms, to their rounding. The class takes its weights as
differences of antiderivatives, rho (log^2 rho - ...) at both ends, in float32, which loses digits: 1e-4 for order 3 at
100 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from refdiff.arguments import Array
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.deis import deis
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule
from refdiff.validation.audits.protocols.diffusers.claims.exponential import (
    UNIT_CIRCLE,
    Method,
    falls,
    lambda_solver,
    length_zero,
    on_unit_circle,
)
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler


def multistep(made: Made) -> Sampler:
    """DEISMultistepScheduler."""
    scheduler = made.scheduler
    config = scheduler.config
    order, few = config.solver_order, falls(scheduler)

    def for_the_denoiser(process: Schedule, levels: Array) -> Tableau:
        return deis(process, levels, degree=order - 1, clock="log_snr", lower_order_final=few)

    def in_noise(one: Method) -> Method:
        return lambda process, levels: to_prediction(one(process, levels), "noise")

    off_circle = config.get("use_flow_sigmas") and config.prediction_type == "v_prediction"
    return lambda_solver(
        made,
        scheduler,
        in_noise(for_the_denoiser),
        min(order, 2),
        # the noise is made from x_0, which is made from v
        variants={UNIT_CIRCLE: in_noise(on_unit_circle(for_the_denoiser))} if off_circle else {},
        conventions=length_zero(scheduler),
        evaluations=order,
    )


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {"DEISMultistepScheduler": multistep}
