r"""PNDM: noise predictions of several times, combined and carried by DDIM's transfer (refdiff.samplers.pndm).

    the four of a Runge-Kutta step      from its start, by e_1, e_2, e_3, (e_1 + 2 e_2 + 2 e_3 + e_4) / 6
    evaluations 0 and 1 of PLMS         from the start, by e_0, (e_0 + e_1) / 2
    all others                          from where they ask, by Adams-Bashforth's weights

Each moves to the level that the network is told next, for which the half steps of the scheduler are timesteps of its
own. Every prediction is turned into a noise at the point and the level where the network was asked, and then combined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.samplers.pndm import WEIGHTS
from refdiff.samplers.recorder import Recorder, State
from refdiff.samplers.runge_kutta import combined
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.protocols.diffusers.claims import PREDICTIONS
from refdiff.validation.audits.protocols.diffusers.claims.products import BARS, Levels, by_ratio, levels, sampler
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler, Variant

CLASSICAL = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


def pndm(made: Made) -> Sampler:
    """PNDMScheduler."""
    scheduler = made.scheduler
    found, kind = levels(scheduler), PREDICTIONS[scheduler.config.prediction_type]
    pseudo = 0 if scheduler.config.skip_prk_steps else len(scheduler.prk_timesteps)
    bases = _bases(len(found.times), pseudo)
    froms, tos = _strode(found, bases, pseudo)

    def build(told: bool, mixed: bool) -> Callable[[Array], Tableau]:
        def table(grid: Array) -> Tableau:
            times, errors = grid if grid.ndim == 2 else (grid, np.zeros_like(grid))
            start, end = (times[bases], times[1:]) if told else (froms, tos)
            return _table(times[:-1], bases, start, end, pseudo, kind if mixed else "noise", errors)

        return table

    strides = f"moves by T // N = {found.stride} timesteps, or half of them, to levels that its network is not told"
    mixes = "combines the v of different times as if they were of one, which is of first order"
    meets = np.array_equal(froms, found.grid[bases]) and np.array_equal(tos, found.grid[1:])
    variants: tuple[Variant, ...] = () if meets else (Variant(strides, build(False, False)),)
    if kind != "noise":
        variants += (Variant(mixes, build(True, True)),)
        variants += () if meets else (Variant(f"{mixes}; it also {strides}", build(False, True)),)
    return sampler(
        made,
        build(True, False),
        found,
        moved=by_ratio,
        order=2,
        conventions=() if found.end == 0 else ("ends at alphas_cumprod[0]",),
        variants=variants,
    )


def _bases(count: int, pseudo: int) -> NDArray[np.intp]:
    """For every evaluation the one from whose state it moves."""
    bases = np.arange(count)
    bases[:pseudo] = bases[:pseudo] // 4 * 4
    if not pseudo:
        bases[1:2] = 0
    return bases


def _strode(found: Levels, bases: NDArray[np.intp], pseudo: int) -> tuple[Array, Array]:
    """The levels from and to which the class moves: by T // N, or by half of it rounded down."""
    told, stride = np.array(found.times), found.stride
    froms, tos = told[bases].copy(), told - stride
    half = np.arange(pseudo) % 2 == 0
    tos[:pseudo] = told[:pseudo] - np.where(half, stride // 2, 0)
    if not pseudo and len(told) > 1:
        froms[1], tos[1] = told[1] + stride, told[1]
    every = np.append(found.all, found.end)  # below 0 is the end, and beyond the last there is nothing
    moved = [every[np.where(t < 0, -1, np.minimum(t, len(found.all) - 1))] for t in (froms, tos)]
    return moved[0], moved[1]


def _table(
    told: Array, bases: NDArray[np.intp], froms: Array, tos: Array, pseudo: int, mixed: str, errors: Array
) -> Tableau:
    """The table of these moves; with v mixed, what is combined is v, and turned into a noise at the last point."""
    rec = Recorder("PNDM", BARS, [told[0], 0.0], "v_prediction" if mixed == "v_prediction" else "denoiser")
    x, states, answers, history = rec.start, list[State](), list[State](), list[State]()
    for i, level in enumerate(told.tolist()):
        point = rec.points[0] if i == 0 else rec.at(level)
        answer = rec.evaluate(x, point)
        states.append(x)
        answers.append(answer if mixed == "v_prediction" else (x - point.alpha * answer) / point.sigma)
        if i == bases[i]:
            history = [answers[-1], *history[:3]]
        base, s, t = states[bases[i]], rec.at(float(froms[i])), rec.at(float(tos[i]))
        value = _combined(i, pseudo, answers, history)
        noise = s.sigma * base + s.alpha * value if mixed == "v_prediction" else value
        # near pure noise the two terms cancel, and a rounding of the first counts alpha_t / alpha_s times
        x = t.alpha / s.alpha * (1 + float(errors[i])) * base + (t.sigma - t.alpha * s.rho) * noise
    return rec.finish(x)


def _combined(i: int, pseudo: int, answers: list[State], history: list[State]) -> State:
    if i < pseudo:
        return answers[i] if i % 4 < 3 else combined(CLASSICAL, answers[i - 3 :])
    if i == 1 and not pseudo:
        return combined((0.5, 0.5), answers)
    return combined(WEIGHTS[len(history)], history)


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {"PNDMScheduler": pndm}
