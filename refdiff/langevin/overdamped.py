r"""Overdamped Langevin: the equation that keeps p, and its Euler-Maruyama step, the unadjusted Langevin algorithm.

    dx = [(M + Q) grad log p + div(M + Q)] dt + sqrt(2) M^(1/2) dw
    x <- x + h [(M + Q) grad log p + div(M + Q)] + sqrt(2 h) R z,        R R' = M,  z ~ N(0, I)

The step keeps another law than p, off by O(h) (`discrete_laws`: exactly, for Gaussians). Texts that write h / 2 and
sqrt(h) mean twice this h. A normal is that of its chain and step: `random.normals(seed, [particle + i], draw + k, d)`.
Sources: PODA-306, PODA-307; Roberts and Tweedie 1996.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff import random
from refdiff.arguments import Array, points, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.langevin.preconditioner import Preconditioner, preconditioner_of
from refdiff.langevin.target import Target, target_of
from refdiff.stochastic.equation import StochasticEquation


def langevin_equation(
    target: Target | GaussianMixture, preconditioner: Preconditioner | ArrayLike = 1.0
) -> StochasticEquation:
    """The stochastic equation of overdamped Langevin dynamics, which keeps the target.

    Args:
        target: a Target or a law with a density (`target_of` makes one of a model at a time).
        preconditioner: a Preconditioner, or a constant M: a number, (d,) or (d, d).

    Raises:
        TypeError: no target.
        ValueError: no density, or a preconditioner on another dimension.
    """
    goal = target_of(target)
    by = preconditioner_of(preconditioner, goal.dim)

    def drift(x: Array, t: float) -> Array:  # noqa: ARG001
        return by.at(x).drift(goal.score_at(x))

    if not by.varies:
        root = np.sqrt(2) * by.at(np.zeros((1, goal.dim))).root
        return StochasticEquation(drift, lambda t: root, goal.dim)
    return StochasticEquation(drift, lambda x, t: np.sqrt(2) * by.at(x).root, goal.dim, additive=False)


def unadjusted_langevin(
    target: Target | GaussianMixture,
    x: ArrayLike,
    *,
    step_size: float,
    steps: int,
    seed: int | np.random.Generator,
    preconditioner: Preconditioner | ArrayLike = 1.0,
    particle: int = 0,
    draw: int = 0,
    trajectory: bool = False,
) -> Array:
    """Chains of the unadjusted Langevin algorithm.

    Args:
        target: a Target or a law with a density; only its score is asked.
        x: where the chains start, shape (..., d).
        step_size: h > 0.
        steps: how many, one evaluation each.
        seed: an int in [0, 2^64), or a generator, from which a key is drawn.
        preconditioner: a Preconditioner, or a constant M: a number, (d,) or (d, d).
        particle: the number of the first chain.
        draw: the number of the first draw: a run that goes on after n steps has those of its seed with draw = n.
        trajectory: return all points, shape (steps + 1, ..., d), and not only the last ones.

    Returns:
        The points, as float32 where x is float32; all arithmetic is float64.

    Raises:
        TypeError: no target.
        ValueError: an argument out of range, or a chain that has run away to where the score is not finite.
    """
    goal = target_of(target)
    by, h = preconditioner_of(preconditioner, goal.dim), real_scalar("step_size", step_size, low=0, open_low=True)
    count, key = whole_number("steps", steps), random.seed_key(seed)
    rows, restore = points("x", x, goal.dim)
    chains = range(whole_number("particle", particle), particle + len(rows))
    kept = [rows]
    for k in range(whole_number("draw", draw), draw + count):
        here = by.at(rows)
        z = random.normals(key, chains, k, goal.dim)
        rows = rows + h * here.drift(goal.score_at(rows)) + np.sqrt(2 * h) * here.colour(z)
        if trajectory:
            kept.append(rows)
    return np.stack([restore(y) for y in kept]) if trajectory else restore(rows)
