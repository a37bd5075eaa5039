r"""Runs of a scheduler with the exact network of data N(m, v I), at the level that the claim has at each evaluation.

Rounding may change a result by 16 roundings of its terms, and by as much as the same roundings of its states and of the
answers do: that is measured, by the largest change over 6 runs with both off by one rounding, times 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.claimed import Read, answer
from refdiff.validation.audits.protocols.diffusers.normals import drawn
from refdiff.validation.audits.protocols.diffusers.playing import Made, looped, taken
from refdiff.validation.audits.rounding import OPERATIONS, PERTURBED, WORST

RULE = (
    f"{OPERATIONS} roundings, and {OPERATIONS * WORST:g} times the largest change over {PERTURBED} runs whose states "
    "and answers are off by one"
)
MEAN, VARIANCE = np.array([0.8, -0.3]), 0.5
Answers = Callable[[Array, int], Array]


class TypeChanged(TypeError):
    """A step gives another number type than it is given."""


def run(
    made: Made,
    network: Answers,
    start: Array,
    *,
    scheduler: Any = None,
    dtype: str = "float64",
    named: bool = False,
) -> Array:
    """A pipeline's run, with an answer for each shown state and number of the evaluation, and normals of a seed.

    Raises:
        TypeChanged: the states end in another number type than they start in.
    """
    import torch

    scheduler = made.again() if scheduler is None else scheduler
    state = torch.from_numpy(np.array(start)).to(getattr(torch, dtype))
    rng = np.random.default_rng(5)
    normals = rng.standard_normal((4 * len(scheduler.timesteps) + 4, 1, start.shape[1]))
    draws = iter(normals)
    with drawn(scheduler, lambda: np.repeat(next(draws), len(start), axis=0), state):
        state = looped(
            scheduler,
            state,
            lambda x, _, k: to_torch(network(to_numpy(x.double()), k)).to(x.dtype),
            lambda answer, t, x, _: stepped(scheduler, answer, t, x, made.at_step, named),
        )
    if state.dtype != getattr(torch, dtype):
        raise TypeChanged(f"a state of {dtype} became one of {state.dtype}")
    return to_numpy(state.double())


def stepped(scheduler: Any, answer: Any, t: Any, state: Any, at_step: Any, named: bool = False) -> Any:
    """The next state by the scheduler's step: of the output by name, or of the tuple."""
    if "return_dict" not in taken(scheduler, "step"):
        return scheduler.step(answer, t, state, **at_step)[0]
    out = scheduler.step(answer, t, state, return_dict=named, **at_step)
    return out.prev_sample if named else out[0]


def exact(read: Read, prediction: str | None = None, off: tuple[float, int] = (0.0, 0)) -> Answers:
    """The exact network of Gaussian data; `off` = (eps, seed) has states and answers off by a rounding at random."""
    scales = read.claim.scales(read.table)
    eps, seed = off
    rng = np.random.default_rng(seed)

    def network(shown: Array, k: int) -> Array:
        a, s = read.level(k)
        if eps:
            shown = shown * (1 + eps * rng.choice([-1.0, 1.0], shown.shape))
        x = shown / scales[k] / read.scale(k)
        clean = MEAN + a * VARIANCE / (a * a * VARIANCE + s * s) * (x - a * MEAN)
        found = answer(prediction or read.claim.prediction, x, clean, a, s)
        if found is None:
            raise ValueError(f"no answer is known for {read.claim.prediction}")
        signs = rng.choice([-1.0, 1.0], found.shape)
        return np.asarray(found * (1 + eps * signs))

    return network


def start_of(read: Read, points: int = 3) -> Array:
    """Starts of the right size."""
    a, s = read.level(0)
    size = float(np.hypot(a, s)) * read.scale(0)
    return np.random.default_rng(3).standard_normal((points, 2)) * size


def slack(read: Read, eps: float, result: Array, start: Array) -> float:
    """What rounding may change in a result."""
    moved = max(
        float(np.abs(run(read.made, exact(read, off=(eps, seed)), start) - result).max()) for seed in range(PERTURBED)
    )
    return WORST * OPERATIONS * moved + OPERATIONS * eps * float(np.abs(result).max())


def eps_of(dtype: str = "float32") -> float:
    """The spacing of numbers in a type."""
    import torch

    return float(torch.finfo(getattr(torch, dtype)).eps)


def highest(dtype: str) -> float:
    """The largest number of a type."""
    import torch

    return float(torch.finfo(getattr(torch, dtype)).max)
