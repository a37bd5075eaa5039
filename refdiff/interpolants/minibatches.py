r"""Pairs as minibatches make them: n points of each law, joined at the least cost within the batch.

n = 1 pairs independent points, n -> infinity the optimal ones; in between the law of pairs has the two marginals for
every n, and costs less for every larger one. On the line points are joined by their ranks, so that for N(m_0, s_0^2)
and N(m_1, s_1^2), with the means mu_i of the order statistics of n normals,

    Cov(x_0, x_1) = s_0 s_1 sum_i mu_i^2 / n  =  0, 1 / pi, 3 / (2 pi), ... times s_0 s_1 for n = 1, 2, 3

Sources: PODB-33, PODB-35; Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch
optimal transport"; Pooladian et al. 2023, "Multisample flow matching".
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import generator, whole_number
from refdiff.distributions import Empirical, GaussianMixture
from refdiff.metrics.couplings import optimal_coupling
from refdiff.transport import PairLaw, independent, point_pairs


def minibatch_pairs(
    p: GaussianMixture, q: GaussianMixture, size: int, batches: int, seed: int | np.random.Generator
) -> PairLaw:
    """The pairs (x_i, y_i) of many batches: size times `batches` points of each law, joined batch by batch.

    Args:
        p: the law of x_0.
        q: the law of x_1.
        size: n, how many of each are in a batch.
        batches: how many.
        seed: of the draws.

    Raises:
        TypeError: p or q is no law of this library's, or no seed.
        ValueError: dimensions that differ, or a size or number below 1.
    """
    independent(p, q)  # which says what is no pair of laws
    n, count, rng = whole_number("size", size, low=1), whole_number("batches", batches, low=1), generator(seed)
    x, y = p.sample(n * count, rng).reshape(count, n, p.dim), q.sample(n * count, rng).reshape(count, n, q.dim)
    firsts, seconds, masses = [], [], []
    for one, other in zip(x, y, strict=True):
        found = optimal_coupling(Empirical(one), Empirical(other), 2.0)
        firsts.append(one[found.rows])
        seconds.append(other[found.columns])
        masses.append(found.masses)
    return point_pairs(np.concatenate(firsts), np.concatenate(seconds), np.concatenate(masses))
