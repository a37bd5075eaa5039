r"""Multistep DPM-Solvers, their SDE forms and the inversion.

With d1 and d2 the first and second divided differences of the evaluations in units of the step h,

    x_t = kept x + size (c_1 D + c_2 (d1 + r d2) + 2 c_3 d2) + noise

with c_k = int_0^1 H e^{-H (1 - u)} u^{k-1} / (k-1)! du, H = h for the flow and 2 h for the SDE (data prediction). Two
slips of order 3 are known:

    c_3 in place of 2 c_3          half of the interpolant's second derivative: local error h^3, order 2
    c_3 - 1 in place of 2 c_3      (SDE) (1 - e^-H - H) / H^2 - 1/2 where + 1/2 stands: c_3 is O(h), and d2 of size h^2
                                   comes in with a weight of one: local error h^2, order 1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from refdiff.arguments import Array
from refdiff.samplers.ddim import sde_split
from refdiff.samplers.dpm_sde import sde_dpm_solver, sde_dpm_solver_pp
from refdiff.samplers.dpm_solver import differences, dpm_solver_multistep, multi_step, usable
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp_multistep
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule
from refdiff.validation.audits.protocols.diffusers.claims.exponential import Method, falls, lambda_solver, length_zero
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler

HALVED = "takes half of the interpolant's second derivative in order 3"
SUBTRACTED = "has 1/2 with the wrong sign in the weight of the second difference in order 3, and half of the rest"
FAMILIES: Mapping[str, Callable[..., Tableau]] = {
    "dpmsolver": dpm_solver_multistep,
    "dpmsolver++": dpm_solver_pp_multistep,
    "sde-dpmsolver": sde_dpm_solver,
    "sde-dpmsolver++": sde_dpm_solver_pp,
}


def multistep_methods(
    algorithm: str, order: int, solver_type: str, few: bool, euler: bool, **more: Any
) -> tuple[Method, dict[str, Method]]:
    """The table of a multistep DPM-Solver by the options of the classes, and its known slips."""
    family = FAMILIES[algorithm]
    rules: dict[str, Any] = {
        "order": order,
        "solver_type": solver_type,
        "lower_order_final": few,
        "euler_at_final": euler,
    }

    def method(process: Schedule, levels: Array) -> Tableau:
        return family(process, levels, **rules, **more)

    def halved(process: Schedule, levels: Array) -> Tableau:
        return family(process, levels, **rules, **more, halved_curvature=True)

    def subtracted(process: Schedule, levels: Array) -> Tableau:
        return _subtracted(process, levels, **rules)

    slips: dict[str, Method] = {HALVED: halved} if order == 3 else {}
    if order == 3 and algorithm == "sde-dpmsolver++":
        slips[SUBTRACTED] = subtracted
    return method, slips


def _subtracted(
    process: Schedule, levels: Array, order: int, solver_type: str, lower_order_final: bool, euler_at_final: bool
) -> Tableau:
    """SDE-DPM-Solver++-3M with c_3 - 1 in place of 2 c_3."""
    rec = Recorder("SDE-DPM-Solver++-3M, 1/2 subtracted", process, levels, "denoiser")
    x, history = rec.start, list[tuple[Point, State]]()
    for left, (s, t) in zip(range(len(rec.steps), 0, -1), rec.steps, strict=True):
        history = [(s, rec.evaluate(x, s)), *history][:order]
        near = usable(history, t, left, order, lower_order_final, euler_at_final)
        x = multi_step("denoiser", s, t, x, near, solver_type, halved_curvature=True, eta=1.0)
        if len(near) == 3:
            x = x - t.alpha * differences(s, t, near)[1]
        x = x + rec.noise(sde_split(s, t, 1.0)[1])
    return rec.finish(x)


def multistep(made: Made) -> Sampler:
    """DPMSolverMultistepScheduler."""
    scheduler = made.scheduler
    config = scheduler.config
    method, slips = multistep_methods(
        config.algorithm_type,
        config.solver_order,
        config.solver_type,
        falls(scheduler),
        bool(config.get("euler_at_final")),
    )
    return lambda_solver(
        made, scheduler, method, min(config.solver_order, 2), variants=slips, conventions=length_zero(scheduler)
    )


def inverse(made: Made) -> Sampler:
    """DPMSolverMultistepInverseScheduler: the steps of the flow from data to noise; an SDE has no such steps."""
    scheduler = made.scheduler
    config = scheduler.config
    method, slips = multistep_methods(
        config.algorithm_type.removeprefix("sde-"),
        config.solver_order,
        config.solver_type,
        falls(scheduler),
        bool(config.get("euler_at_final")),
        towards_noise=True,
    )
    start = f"it starts at noise level {float(scheduler.sigmas[0]):.4g}, not at data"
    return lambda_solver(
        made,
        scheduler,
        method,
        min(config.solver_order, 2),
        variants=slips,
        conventions=(start, *length_zero(scheduler)),
        towards_noise=True,
    )


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {
    "DPMSolverMultistepScheduler": multistep,
    "DPMSolverMultistepInverseScheduler": inverse,
}
