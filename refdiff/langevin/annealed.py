r"""Annealed Langevin and predictor-corrector, adjusted: steps at a level keep its p_t, and only those between err.

    NCSN, adjusted        at each time: MALA steps for p_t, preconditioned by the noise: x + d C_t s_t + sqrt(2 d) R_t z
    between levels        x <- A_t A_s^-1 (x - b_s) + b_t
    predictor-corrector   a step of a table to the next time, then MALA steps there

C_t is the covariance of the noise, sigma_t^2 of a scalar process: d = eta_l / sigma_l^2 is the same at every level of
NCSN, eta_l = d sigma_l^2, and needs no change for noise of any shape. What the unadjusted iteration gets on Gaussian
data is exact by `samplers.propagate`. Sources: PODA-331, PODA-309, PODA-317; Song and Ermon 2019; Song et al. 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators, random
from refdiff.arguments import Array, one_of, points, real_array, real_scalar, whole_number
from refdiff.langevin.adjusted import Chains, mala
from refdiff.langevin.overdamped import unadjusted_langevin
from refdiff.langevin.preconditioner import Preconditioner
from refdiff.langevin.target import target_of
from refdiff.model import ExactModel, without_offset
from refdiff.samplers.langevin import PREDICTORS, predictor_corrector
from refdiff.samplers.running import run


@dataclass(frozen=True, eq=False)
class Annealed:
    """Where annealed chains ended.

    Attributes:
        x: the points, shape (..., d).
        probability: the mean probability of acceptance at each time, shape (n,): 1 where nothing is
            rejected, nan where there was no step or no chain.
        draw: the number of the next draw.
    """

    x: Array
    probability: Array
    draw: int


def annealed_chains(
    model: ExactModel,
    times: ArrayLike,
    x: ArrayLike,
    *,
    step_size: float,
    steps: int,
    seed: int | np.random.Generator,
    adjusted: bool = True,
    particle: int = 0,
    draw: int = 0,
) -> Annealed:
    """Langevin at every time of a grid, from the first to the last, for any process.

    Args:
        model: an ExactModel of a scalar, per-axis or matrix process.
        times: decreasing, shape (n,), the first and the last included; A has an inverse at all but the last.
        x: points at the first time, shape (..., d).
        step_size: d > 0, in units of the noise: eta = d sigma^2.
        steps: how many at each time.
        seed: an int in [0, 2^64), or a generator, from which a key is drawn.
        adjusted: whether Metropolis' rule accepts the steps; where not it is NCSN's iteration.
        particle: the number of the first chain.
        draw: the number of the first draw.

    Raises:
        TypeError: no model.
        ValueError: an argument out of range, noise that is singular at a time, or an A that is.
    """
    grid, key = _times(model, times), random.seed_key(seed)
    size, count = real_scalar("step_size", step_size, low=0, open_low=True), whole_number("steps", steps)
    y, restore = points("x", x, model.dim)
    probability = []
    for i, t in enumerate(grid):
        y = _handed_on(model, y, grid[i - 1], t) if i else y
        found = _corrected(model, y, t, size, count, key, adjusted, particle, draw)
        y, draw = found.x, found.draw
        probability.append(_mean(found.probability))
    return Annealed(restore(y), np.array(probability), draw)


def adjusted_predictor_corrector(
    model: ExactModel,
    times: ArrayLike,
    x: ArrayLike,
    *,
    predictor: str = "reverse-diffusion",
    step_size: float = 0.05,
    steps: int = 1,
    seed: int | np.random.Generator,
    adjusted: bool = True,
    particle: int = 0,
    draw: int = 0,
) -> Annealed:
    """A step of a reverse-time sampler to each next time, and Langevin there, adjusted.

    Args:
        model: an ExactModel of a scalar or per-axis process without an offset.
        times: the decreasing grid (n + 1,), as the predictor needs it; where sigma = 0, at the very end, nothing is
            corrected.
        x: points at the first time, shape (..., d).
        predictor: euler-maruyama, reverse-diffusion, ancestral or exponential.
        step_size: d > 0, in units of the noise: eta = d sigma^2 (score-SDE's 2 snr^2).
        steps: corrections at each time; 0 is the predictor alone.
        seed: an int in [0, 2^64), or a generator, from which a key is drawn.
        adjusted: whether Metropolis' rule accepts the corrections.
        particle: the number of the first chain.
        draw: the number of the first draw.

    Raises:
        TypeError: no model.
        ValueError: an argument out of range, or a grid that the predictor cannot walk.
    """
    one_of("predictor", predictor, tuple(PREDICTORS))
    grid, key = _times(model, times), random.seed_key(seed)
    process = without_offset(model).affine
    size, count = real_scalar("step_size", step_size, low=0, open_low=True), whole_number("steps", steps)
    y, restore = points("x", x, model.dim)
    first = whole_number("particle", particle)
    chains = range(first, first + len(y))
    probability = []
    for s, t in pairwise(grid):
        table = predictor_corrector(process, [s, t], predictor=predictor, corrector_steps=0)
        z = np.array([random.normals(key, chains, draw + k, model.dim) for k in range(table.draws)])
        y, draw = run(table, model, y, normals=z), draw + table.draws
        clean = not np.any(process.kernel(t).noise)
        found = _corrected(model, y, t, size, 0 if clean else count, key, adjusted, particle, draw)
        y, draw = found.x, found.draw
        probability.append(_mean(found.probability))
    return Annealed(restore(y), np.array(probability), draw)


def _mean(probability: Array) -> float:
    """The mean over chains (n,), nan where there are none."""
    return float(np.mean(probability)) if probability.size else np.nan


def _corrected(
    model: ExactModel, y: Array, t: float, size: float, steps: int, key: int, adjusted: bool, particle: int, draw: int
) -> Chains:
    """Langevin steps at one time."""
    if not steps:
        return Chains(y, np.full(len(y), np.nan), np.full(len(y), np.nan), draw)
    noise = model.process.kernel(t).noise
    if operators.singular(noise):
        raise ValueError(f"times must leave noise on every axis where chains are corrected, got t = {t}")
    target, by = target_of(model, t), Preconditioner(noise)
    if adjusted:
        return mala(target, y, step_size=size, steps=steps, seed=key, preconditioner=by, particle=particle, draw=draw)
    found = unadjusted_langevin(
        target, y, step_size=size, steps=steps, seed=key, preconditioner=by, particle=particle, draw=draw
    )
    return Chains(found, np.ones(len(y)), np.ones(len(y)), draw + steps)


def _handed_on(model: ExactModel, y: Array, s: float, t: float) -> Array:
    """A_t A_s^-1 (y - b_s) + b_t."""
    before, after = model.process.kernel(s), model.process.kernel(t)
    if operators.singular(before.gain):
        raise ValueError(f"times must leave a signal on every axis before the last, got t = {s}")
    moved = operators.product(after.gain, operators.inverse(before.gain))
    return np.asarray(operators.apply(moved, y - before.offset) + after.offset)


def _times(model: ExactModel, times: ArrayLike) -> list[float]:
    """The grid of a model, checked."""
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    grid = real_array("times", times, ndim=(1,))
    if not grid.size or (np.diff(grid) >= 0).any():
        raise ValueError(f"times must be decreasing, got {grid.tolist()}")
    if grid[0] > model.process.T or grid[-1] < 0:
        raise ValueError(f"times must lie in [0, {model.process.T}], got {grid[0]} and {grid[-1]}")
    return [float(t) for t in grid]
