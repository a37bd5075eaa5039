r"""Optimal couplings of mixtures among those that are mixtures: whole components go to whole components.

    MW_2^2 = min { sum_jk m_jk W_2(p_j, q_k)^2 : m has the weights as sums }
           = min { E |x - y|^2 : couplings that are Gaussian mixtures }
    W_2 <= MW_2 <= W_2 + (2 sum_j w_j tr S_j)^(1/2) + (2 sum_k v_k tr R_k)^(1/2)

The optimal coupling of mixtures has no closed form; this one is a `PairLaw` with exact flows, its cost bounds W_2 and
is near it for components that are narrow beside their distances. Sources: PODB-70, PODB-71; Delon and Desolneux 2020,
"A Wasserstein-type distance in the space of Gaussian mixture models".
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions import wasserstein as between
from refdiff.distributions.covariances import Covariances, Dense, Diagonal
from refdiff.distributions.mixture import law
from refdiff.metrics.compared import same_space
from refdiff.metrics.couplings import planned
from refdiff.transport.gaussian_maps import optimal_pairs
from refdiff.transport.pairs import PairLaw

MOST = 2**16  # pairs of components, each of which has a distance of its own


def mixture_pairs(p: GaussianMixture, q: GaussianMixture) -> PairLaw:
    """The coupling of two mixtures that sends components to components optimally, each pair of them optimally coupled.

    Of Gaussians and of point sets it is `optimal_pairs`; of others its cost is MW_2^2, above W_2^2.

    Args:
        p: the law of x_0.
        q: the law of x_1.

    Raises:
        TypeError: one is no law.
        ValueError: dimensions differ, or there are more than 65536 pairs of components.
    """
    same_space(p, q)
    first, second = (np.flatnonzero(np.isfinite(one.log_weights)) for one in (p, q))
    if len(first) * len(second) > MOST:
        raise ValueError(f"p and q must have at most {MOST} pairs of components, got {len(first)} x {len(second)}")
    ones, others = ([_component(one, int(k)) for k in kept] for one, kept in ((p, first), (q, second)))
    costs = np.array([[between(a, b) ** 2 for b in others] for a in ones])
    weights = [one.weights[kept] / one.weights[kept].sum() for one, kept in ((p, first), (q, second))]
    best = planned(costs, *weights)
    felt = best.masses > 0
    rows, columns, masses = best.rows[felt], best.columns[felt], best.masses[felt]
    logs = np.log(masses / masses.sum())
    crosses = [optimal_pairs(ones[j], others[k]).cross for j, k in zip(rows, columns, strict=True)]
    j, k = first[rows], second[columns]
    return PairLaw(
        law(logs, p.means[j], p.covariances[j]), law(logs, q.means[k], q.covariances[k]), _stacked(crosses, p.dim)
    )


def _component(mixture: GaussianMixture, k: int) -> Gaussian:
    stored = mixture.covariances[np.array([k])]
    return Gaussian(mixture.means[k], stored.operator())


def _stacked(blocks: list[Covariances], dim: int) -> Covariances:
    """Blocks of one component each, as one of all."""
    if all(isinstance(block, Diagonal) for block in blocks):
        stored = [block.variances for block in blocks if isinstance(block, Diagonal)]
        wide = max(v.shape[1] for v in stored)
        return Diagonal(np.concatenate([np.broadcast_to(v, (1, wide)) for v in stored]))
    dense: list[Array] = [block.dense(dim) for block in blocks]
    return Dense(np.concatenate(dense))
