"""DEIS with polynomials in log rho: the class's solver type logrho is lambdaAB, as log rho = -lambda."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from refdiff.arguments import Array
from refdiff.samplers.deis import deis
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule
from refdiff.validation.audits.protocols.diffusers.claims.exponential import falls, lambda_solver, length_zero
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler


def multistep(made: Made) -> Sampler:
    """DEISMultistepScheduler."""
    scheduler = made.new()
    order, few = scheduler.config.solver_order, falls(scheduler)

    def method(process: Schedule, levels: Array) -> Tableau:
        return deis(process, levels, degree=order - 1, clock="log_snr", lower_order_final=few)

    return lambda_solver(made, scheduler, method, min(order, 2), conventions=length_zero(scheduler))


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {"DEISMultistepScheduler": multistep}
