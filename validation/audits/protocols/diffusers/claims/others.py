r"""RePaint, which goes down and up again, and RFD4-Proteina's flow with a rescaled score.

RePaint steps down by DDIM of eta, and undoes steps by the process itself: from the level where it is, by the betas that
lie between there and the level that the network is told next. Where everything is unknown (mask = 0) that is all. The
class draws a normal for each beta; they are read by impulses and stand here as one normal of the same variance.

RFD4-Proteina: x = t x_0 + (1 - t) e, t from 0 to 1. With the score S = -e / (1 - t) multiplied by

    r(t) = (q s^2 + 1) / (q s^2 / k + 1),   q = t^2 / (1 - t)^2      the score of N(0, s^2 / k) over that of N(0, s^2)

the velocity is v = (x + (1 - t) r S) / t, and a step x + v dt, or in the middle of the time
x + (v + g r S) dt + sqrt(2 g dt) z, where g is 1 / (t + 0.01) or pi / 2 sin a / (cos a + 0.01), a = (1 - t) pi / 2,
over r^2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.impulse import Sampler as Play
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import FLOW
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.claims.ddim import step
from refdiff.validation.audits.protocols.diffusers.claims.products import BARS, by_ratio, levels, on_grid, played
from refdiff.validation.audits.protocols.diffusers.normals import drawn
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Claim, Sampler, Variant


def repaint(made: Made) -> Sampler:
    """RePaintScheduler by the loop of its pipeline, with nothing known; short jumps, unless others are asked for."""
    made = made if made.at_steps else replace(made, at_steps={"jump_length": 2, "jump_n_sample": 2})
    scheduler = made.scheduler
    found = levels(scheduler)
    betas = to_numpy(scheduler.betas).astype(float)
    walk = [int(t) for t in to_numpy(scheduler.timesteps)]
    moves = [(walk[0], -1), *pairwise(walk)]  # the first step is one down, whatever comes before
    indices = sorted(set(walk), reverse=True)
    rule = step(float(scheduler.eta))

    def undone(last: int) -> Array:
        # from where the step at `last` ended up to `last`
        return betas[max(last - found.stride, -1) + 1 : last + 1]

    def table(grid: Array, up: Callable[[int], Array]) -> Tableau:
        times, errors = grid if grid.ndim == 2 else (grid, np.zeros_like(grid))
        level = dict(zip([*indices, -1], times.tolist(), strict=True))
        off = dict(zip(indices, errors.tolist(), strict=False))
        rec = Recorder("RePaint", BARS, [times[0], 0.0], "denoiser")
        x, end = rec.start, rec.points[0]
        for i, t in enumerate(walk):
            if i == 0 or t < walk[i - 1]:
                s = rec.at(level[t])
                below = t - found.stride
                end = rec.at(level[below] if below in level else found.all[below] if below >= 0 else times[-1])
                x = rule(rec, x, s, end, i, 0.0 if end.clean else off[t])
            else:
                kept = float(np.prod(1 - up(walk[i - 1])))
                x = np.sqrt(kept) * x + rec.noise(np.sqrt(1 - kept))
        return rec.finish(x, end)

    said = "undoes a step by the betas above it, and is noisier then than its network is told"
    wrong = Variant(said, lambda grid: table(grid, lambda last: betas[last : last + found.stride]))
    claim = Claim(
        build=lambda grid: table(grid, undone),
        grid=np.append(found.all[indices], found.end),
        process=BARS,
        prediction="noise",
        moved=by_ratio,
        source=made.kind.__name__,
        conventions=("nothing is known: mask = 0",),
        variants=(wrong,) if found.stride > 1 and any(t > last for last, t in moves[1:]) else (),
    )
    return Sampler(made.name, _painting(made), np.dtype(np.float32), claim, found.told, BARS, made.script())


def _painting(made: Made) -> Play:
    """The loop of RePaintPipeline."""

    def run(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        scheduler = made.again()
        state = to_torch(np.asarray(x, dtype=made.dtype))
        last = scheduler.timesteps[0] + 1
        for t in scheduler.timesteps:
            if t < last:
                answer = to_torch(model(to_numpy(state).astype(float), to_numpy(t).item()), like=state)
                with drawn(scheduler, normal, state):
                    state = scheduler.step(answer, t, state, 0 * state, 0 * state, return_dict=False)[0]
            else:
                kept, added = _undo(scheduler, last)
                state = kept * state + added * to_torch(normal(), like=state)
            last = t
        return to_numpy(state)

    return run


def _undo(scheduler: Any, last: Any) -> tuple[float, float]:
    """The factor on x in undo_step, and the standard deviation of what it adds, from impulses."""
    count = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    pulses = np.eye(1 + count)[:, :, None]  # of the start, and of every normal
    left = iter(pulses[1:])
    start = to_torch(pulses[0])
    with drawn(scheduler, lambda: next(left), start):
        weights = to_numpy(scheduler.undo_step(start, last))[:, 0]
    return float(weights[0]), float(np.linalg.norm(weights[1:]))


def proteina(made: Made) -> Sampler:
    """RFD4ProteinaScheduler, for points of one coordinate that are all emitted."""
    scheduler = made.scheduler
    config = scheduler.config

    def call(scheduler: Any, answer: Any, t: Any, state: Any, _: int) -> Any:
        import torch

        given, x = -answer[:, None], state[:, None]  # their velocity points to the data
        everywhere = torch.ones(x.shape[:2], dtype=torch.bool)
        return scheduler.step(given, t, x, everywhere, return_dict=False)[0][:, 0]

    def rule(rec: Recorder, x: State, s: Point, t: Point, _: int, off: float) -> State:
        time, dt = s.alpha, t.alpha - s.alpha
        q = (time / s.sigma) ** 2 * config.tsr_sigma**2
        # a rounding of r counts in x / t - r x / t, thousands of times near t = 0
        ratio = (q + 1) / (q / config.tsr_k + 1) * (1 + off)
        score = ratio * ((s.alpha * rec.evaluate(x, s) - x) / s.sigma**2)
        change = (x + s.sigma * score) / time
        if time > config.t_lim_ode or time < config.t_lim_ode_below:
            moved: State = x + dt * change
            return moved
        g = _noise(time, config.noise_mode) / ratio**2
        moved = x + dt * (change + g * score) + rec.noise(np.sqrt(2 * g * dt))
        return moved

    claim = Claim(
        build=on_grid("RFD4-Proteina", rule, FLOW, exact_end=False),
        grid=1 - to_numpy(scheduler._times).astype(float),
        process=FLOW,
        prediction="velocity",
        order=1,
        source=made.kind.__name__,
        moved=lambda grid, errors: np.stack([1 - (1 - grid) * (1 + errors), errors]),
        conventions=("no noise near both ends of time",),
    )
    return Sampler(
        name=made.name,
        play=played(made, call),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=lambda t: 1 - float(t),
        trained=FLOW,
        script=made.script(),
    )


def _noise(time: float, mode: str) -> float:
    time = min(max(time, 0.0), 1 - 1e-5)
    if mode == "tan":
        angle = (1 - time) * np.pi / 2
        return float(np.pi / 2 * np.sin(angle) / (np.cos(angle) + 1e-2))
    return 1 / (time + 1e-2)


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {"RePaintScheduler": repaint, "RFD4ProteinaScheduler": proteina}
