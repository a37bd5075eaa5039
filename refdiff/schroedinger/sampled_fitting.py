r"""A step of Markovian fitting by samples, for pairs of any kind: what DSBM does, with the exact drift for its network.

    x_0 ~ p,    dx = b dt + G dw,   b = E[drift of the bridge | x_t],      (x_0, x_T) the next pairs

and the same from x_T ~ q backwards. Of n drawn pairs, which are points, b is exact again: the next step leads one drawn
law of pairs to another, as training on a finite set does, and moves its two marginals by Euler's steps and by chance.
At the points themselves, at time 0, there is no score, but b = A' x_0 + B' E[x_T | x_0] + b' where G is the bridges'
own noise. Sources: PODB-92; Shi, De Bortoli, Campbell and Doucet 2023, "Diffusion Schroedinger bridge matching".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator
from refdiff.interpolants import InterpolantModel
from refdiff.random import seed_key
from refdiff.schroedinger.markovian import Noise, noise_of
from refdiff.stochastic import solve
from refdiff.stochastic.brownian_steps import monotonic
from refdiff.transport import PairLaw, point_pairs

Drift = Callable[[Array, float], ArrayLike]


def drawn_pairs(
    model: InterpolantModel, times: ArrayLike, n: int, seed: int | np.random.Generator, noise: Noise | None = None
) -> PairLaw:
    """`n` pairs (x_0, x_T) of the Markov process of any pairs, by Euler's steps: a step of fitting for mixtures.

    The pairs are points, from which the next step may start, forward or backward (DSBM takes them by turns).

    Args:
        model: pairs and how they are joined. Laws without a density at the first time must be points, and then the
            noise that of the bridges.
        times: the grid of the steps, from 0 to T, or from T to 0 for the process run backwards, shape (k + 1,).
        n: how many.
        seed: of the starts and of the paths.
        noise: t -> G, the reference's unless given.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: no noise is given or known, it is not that of the bridges where points are joined, or a grid that
            is not monotonic between 0 and T.
    """
    if not isinstance(model, InterpolantModel):
        raise TypeError(f"model must be an InterpolantModel, got {model!r}")
    grid, rng = monotonic("times", times), generator(seed)
    if {grid[0], grid[-1]} != {0.0, model.T}:
        raise ValueError(f"times must lead from 0 to T = {model.T}, or back, got {grid[0]} to {grid[-1]}")
    backward, g = bool(grid[0] > 0), noise_of(model, noise)
    equation = model.equation(g, backward=backward)
    pairs = model.pairs.swapped() if backward else model.pairs
    if not pairs.first.covariances.dense(model.dim).any():
        equation = replace(equation, drift=_from_points(equation.drift, model, g, backward=backward))
    starts = model.sample(n, float(grid[0]), rng)
    ends = solve(equation, starts, grid, seed=seed_key(rng))
    return point_pairs(ends, starts) if backward else point_pairs(starts, ends)


def _from_points(drift: Drift, model: InterpolantModel, noise: Noise, *, backward: bool) -> Drift:
    """A `drift` that is known at the points of the first law too, of the second `backward`, where there is no score.

    Away from them by the noise of the bridges alone, it is A' x_0 + B' E[x_T | x_0] + b' there.
    """
    pairs, start = (model.pairs.swapped(), model.T) if backward else (model.pairs, 0.0)
    now, sign = model.interpolant.at(start), -1 if backward else 1
    spread, g = 2 * sign * operators.dense(now.spread, model.dim), operators.operator("noise", noise(start))
    own = operators.dense(g @ g.T if g.ndim == 2 else g * g, model.dim)
    if np.abs(spread - own).max() > 1e-8 * np.abs(own).max():  # roots and rates of the reference, to rounding
        raise ValueError(f"noise must be that of the bridges where points are joined, with G G' = {spread}, got {own}")
    kept = pairs.first.weights > 0
    w = pairs.first.weights[kept, None]
    atoms, which = np.unique(pairs.first.means[kept], axis=0, return_inverse=True)
    total, ends = np.zeros((len(atoms), 1)), np.zeros_like(atoms)
    np.add.at(total, which.ravel(), w)
    np.add.at(ends, which.ravel(), w * pairs.second.means[kept])
    ends /= total
    of_start, of_end = (now.dsecond, now.dfirst) if backward else (now.dfirst, now.dsecond)

    def known(x: Array, t: float) -> Array:
        if t != start:
            return np.asarray(drift(x, t))
        _, at = np.unique(np.concatenate([atoms, x]), axis=0, return_inverse=True)
        return np.asarray(operators.apply(of_start, x) + operators.apply(of_end, ends[at.ravel()[len(atoms):]])
                          + now.doffset)  # fmt: skip

    return known
