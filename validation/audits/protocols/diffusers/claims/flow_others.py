r"""Further schedulers on the flow path x = (1 - sigma) x_0 + sigma eps.

FlowMapEuler         Euler with a mean velocity over the step
LTXEulerAncestralRF  down to sigma_t (1 + eta (sigma_t / sigma_s - 1)), and up to sigma_t by the flow's own noise
MiniMaxH3            Euler; the network is told 1 - sigma and answers x_0 - eps
Piflow               Euler's steps of a policy x_0(t), which the network gives on a grid of times
Helios               Euler, or UniPC, here Euler in one stage
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.edm import euler_step, raised
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import FLOW
from refdiff.validation.audits.protocols.diffusers.claims.euler import levels_of
from refdiff.validation.audits.protocols.diffusers.claims.flow_match import flow_euler, in_flow
from refdiff.validation.audits.protocols.diffusers.playing import Made, play
from refdiff.validation.audits.subject import Sampler


def flow_map(made: Made) -> Sampler:
    """FlowMapEulerDiscreteScheduler, whose network answers the mean velocity from its time to the next one."""
    return in_flow(made, flow_euler, 1)


def ltx_ancestral(made: Made) -> Sampler:
    """LTXEulerAncestralRFScheduler."""
    config = made.scheduler.config
    return in_flow(made, lambda grid: ancestral(grid, float(config.eta), float(config.s_noise)), 1)


def ancestral(grid: Array, eta: float, s_noise: float) -> Tableau:
    """Euler down to sigma_t (1 + eta (sigma_t / sigma_s - 1)), then the flow's own noise up to sigma_t."""
    rec = Recorder(f"Euler ancestral on a flow, eta = {eta:g}", FLOW, grid, "denoiser")
    x = rec.start
    for s, t in rec.steps:
        down = rec.at(t.t * (1 + eta * (t.t / s.t - 1)))
        x = euler_step(rec, x, s, down)
        x = x if t.clean or down.t == t.t else raised(rec, x, down, t, s_noise)
    return rec.finish(x)


def minimax(made: Made) -> Sampler:
    """MiniMaxH3Scheduler: n levels from 1 to 0, so n - 1 steps."""
    return in_flow(made, flow_euler, 1, told=lambda t: 1 - float(t), sign=-1.0)


def piflow(made: Made) -> Sampler:
    """PiflowScheduler with a policy that is constant: the network's answer, repeated for every time of its grid."""
    scheduler = made.scheduler
    shift, eps = float(scheduler.config.shift), float(scheduler.eps)
    grid = np.append(levels_of(scheduler)[:-1], shift * eps / (1 + (shift - 1) * eps))
    inner = play(made)

    def sampler(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        return inner(lambda shown, t: np.tile(model(shown, t), scheduler.n_grid), x, normal)

    said = (f"the last step ends at t = {eps:g}, not at 0", "the policy is taken to be constant over a step")
    return in_flow(made, flow_euler, 1, grid=grid, sampler=sampler, conventions=said)


def helios(made: Made) -> Sampler:
    """HeliosScheduler in one stage, by Euler; nothing is claimed of its stages of growing size."""
    config = made.scheduler.config
    if config.stages != 1 or config.scheduler_type != "euler":
        return Sampler(made.name, play(made), np.dtype(np.float32), script=made.script())
    return in_flow(made, flow_euler, 1)


CLASSES: dict[str, Callable[[Made], Sampler]] = {
    "FlowMapEulerDiscreteScheduler": flow_map,
    "LTXEulerAncestralRFScheduler": ltx_ancestral,
    "MiniMaxH3Scheduler": minimax,
    "PiflowScheduler": piflow,
    "HeliosScheduler": helios,
}
