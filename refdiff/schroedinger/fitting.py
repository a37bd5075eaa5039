r"""Iterative proportional fitting (IPF): half bridges by turns, from a reference to the Schroedinger bridge.

    P^0 = p R,    P^1 = the law of x_0 given x_1 of P^0, with x_1 ~ q,    P^2 = that of x_1 given x_0, with x_0 ~ p, ...

Each half step is the nearest law to the last with one right marginal, a Sinkhorn step for point sets, and for
Gaussians Bayes' rule: every iterate has the density exp(x' K y) u_n(x) v_n(y) with the K = A' N^-1 of the reference
x_1 = A x_0 + b + N(0, N). With V_n and W_n the covariances of x_0 given x_1 and of x_1 given x_0, p = N(m, S) and
q = N(n, T), that is

    V = S^(1/2) (I + S^(1/2) K W K' S^(1/2))^-1 S^(1/2),      W = T^(1/2) (I + T^(1/2) K' V K T^(1/2))^-1 T^(1/2)

which forgets its rounding and takes singular S and T. Its fixed point is `GaussianPlan`, whose canonical correlations
are r = 2 w / (1 + (1 + 4 w^2)^(1/2)) of the singular values w of S^(1/2) K T^(1/2). Near it a cycle of two half steps
takes the error e of the mean of x_1 to G G~ e and the error E of its covariance to G G~ E (G G~)', G and G~ the
regressions of x_1 on x_0 and of x_0 on x_1, so that

    means contract by r_i^2, covariances by r_i^2 r_j^2 (i <= j)

Brownian motion of rate eps has K = I / eps: one dimension has r = c / (s t), and eps -> 0 means r -> 1, where nothing
contracts. A half step takes v_n = KL(right marginal || marginal of P^n) = KL(P^(n+1) || P^n) from KL(P* || P^n). Of one
marginal v_0 >= v_2 >= .. by data processing, two conditional laws between them, so that the v of cycle m is at most
KL(P* || P^0) / (m + 1) before any rate shows. From one half step to the next v and KL(P^n || P*) may well rise.
Sources: PODB-75, PODB-82, PODB-90, PODB-92; De Bortoli, Thornton, Heng and Doucet 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from refdiff import operators
from refdiff.arguments import Array, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, kl_divergence
from refdiff.distributions.mixture import law
from refdiff.processes import Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.reference import reference_process
from refdiff.transport import GaussianPlan, PairLaw, image_pairs


@dataclass(frozen=True, eq=False)
class ProportionalFitting:
    """The iterates of proportional fitting between Gaussians.

    Attributes:
        first, second: p and q.
        reference: the channel x_0 -> x_1 that the iterates begin with.
        plans: P^0, P^1, .., one for each half step: P^n has the first marginal for even n, the second for odd n.
    """

    first: Gaussian
    second: Gaussian
    reference: Channel
    plans: tuple[PairLaw, ...]

    @cached_property
    def limit(self) -> PairLaw:
        """P*, the static Schroedinger bridge."""
        return self._plan.pairs()

    @cached_property
    def correlations(self) -> Array:
        """r_i, the canonical correlations of the limit, decreasing, shape (d,)."""
        found, w = np.zeros(self.first.dim), np.sort(self._plan.singular_values)[::-1]
        found[: len(w)] = 2 * w / (1 + np.hypot(1.0, 2 * w))  # r with r / (1 - r^2) = w
        return found

    @cached_property
    def _plan(self) -> GaussianPlan:
        return GaussianPlan(self.first, self.second, 1.0, self.reference)

    @property
    def mean_rates(self) -> Array:
        """r_i^2, what a cycle of two half steps leaves of errors of the means, decreasing, shape (d,)."""
        return self.correlations**2

    @property
    def covariance_rates(self) -> Array:
        """r_i^2 r_j^2, i <= j, what a cycle leaves of errors of covariances, decreasing, shape (d (d + 1) / 2,)."""
        products = np.multiply.outer(self.mean_rates, self.mean_rates)
        return np.sort(products[np.triu_indices(len(products))])[::-1]

    def divergences(self) -> Array:
        """KL(P* || P^n) of every iterate, decreasing, shape (n + 1,).

        Raises:
            ValueError: p or q is singular.
        """
        best = _joint(self.limit)
        return np.array([kl_divergence(best, _joint(plan)) for plan in self.plans])

    def marginal_divergences(self) -> Array:
        """KL(p || P^n_0) and KL(q || P^n_1) of every iterate, shape (n + 1, 2).

        Raises:
            ValueError: p or q is singular.
        """
        right = self.first, self.second
        found = [
            [kl_divergence(law, _one(half)) for law, half in zip(right, (plan.first, plan.second), strict=True)]
            for plan in self.plans
        ]
        return np.array(found)


def proportional_fitting(
    p: Gaussian, q: Gaussian, reference: Channel | Process | Schedule | float, half_steps: int, T: float | None = None
) -> ProportionalFitting:
    """`half_steps` half bridges, the first to the second marginal, from the reference with x_0 ~ p.

    Args:
        p, q: the laws of x_0 and of x_1, Gaussians, singular ones too.
        reference: x_0 -> x_1, a Channel with noise in every direction; or what has one from 0 to T: a Process, a
            Schedule, eps of Brownian motion sqrt(eps) w.
        half_steps: how many, two to a cycle.
        T: the end; the process's own unless given, 1 of Brownian motion.

    Raises:
        TypeError: p or q is no Gaussian, or the reference none of these.
        ValueError: dimensions that do not fit, a reference without noise in every direction, eps or T out of range, or
            a T beside a Channel.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.schroedinger import proportional_fitting
        >>> unit = Gaussian([0.0], 1.0)
        >>> found = proportional_fitting(unit, unit, 1.5, half_steps=2)  # the limit's correlation r: 1 - r^2 = eps r
        >>> print(found.correlations.round(6), found.mean_rates.round(6))  # a cycle leaves r^2 of an error
        [0.5] [0.25]
    """
    if not isinstance(reference, Channel):
        process, end = reference_process(reference, T)
        reference = process.channel(0.0, end)
    elif T is not None:
        raise ValueError(f"T must be left out where the reference is a Channel, got {T}")
    GaussianPlan(p, q, 1.0, reference)  # refuses what does not fit
    count, dim = whole_number("half_steps", half_steps), p.dim
    roots = [operators.root(operators.dense(law.covariance, dim)) for law in (p, q)]
    plans = [image_pairs(p, reference)]
    spread = operators.dense(reference.noise, dim)
    pull = np.linalg.solve(spread, operators.dense(reference.gain, dim)).T
    for n in range(1, count + 1):
        to_second = n % 2 == 1
        # of what is given now the marginal becomes right; what is fitted was right in the last iterate
        (fitted, root), given = ((p, roots[0]), q) if to_second else ((q, roots[1]), p)
        force = pull if to_second else pull.T
        spread = _conditional(root, force @ spread @ force.T)
        last = plans[-1] if to_second else plans[-1].swapped()
        gain = spread @ force
        offset = fitted.means[0] - gain @ last.second.means[0]
        plan = image_pairs(given, Channel(gain, offset, spread))
        plans.append(plan.swapped() if to_second else plan)
    return ProportionalFitting(p, q, reference, tuple(plans))


def refit(pairs: PairLaw, *, first: GaussianMixture | None = None, second: GaussianMixture | None = None) -> PairLaw:
    """A half bridge: one marginal replaced, the law of the other given it kept.

    Args:
        pairs: a Gaussian law of pairs, or one of points, every pair of its points listed once.
        first, second: the new marginal, one of the two: a Gaussian, or the points of `pairs` with other weights.

    Raises:
        TypeError: pairs is no PairLaw, or the marginal is of another kind than the pairs.
        ValueError: both marginals or none; a dimension that does not fit; points that the pairs do not have or whose
            pairs weigh nothing; of Gaussians, a marginal to be replaced that is singular.
    """
    if not isinstance(pairs, PairLaw):
        raise TypeError(f"pairs must be a PairLaw, got {pairs!r}")
    if (first is None) == (second is None):
        raise ValueError("first and second must not both be given, nor both be left out")
    if first is not None:
        return refit(pairs.swapped(), second=first).swapped()
    target: Any = second
    kind: type[GaussianMixture] = Gaussian if pairs.count == 1 and isinstance(target, Gaussian) else Empirical
    if not isinstance(target, kind) or (kind is Empirical and not _of_points(pairs)):
        raise TypeError(f"second must be a Gaussian for Gaussian pairs, or points for pairs of points, got {target!r}")
    if target.dim != pairs.dim:
        raise ValueError(f"second must have dimension {pairs.dim}, got {target.dim}")
    if kind is Empirical:
        return _reweighted(pairs, target)
    old = operators.dense(_one(pairs.second).covariance, pairs.dim)
    if operators.singular(old):
        raise ValueError("pairs must have a second law with a density, whose conditional laws are known everywhere")
    cross = pairs.cross_covariance()
    gain = np.linalg.solve(old, cross.T).T
    left = operators.dense(_one(pairs.first).covariance, pairs.dim) - gain @ cross.T
    offset = pairs.first.means[0] - gain @ pairs.second.means[0]
    return image_pairs(target, Channel(gain, offset, 0.5 * (left + left.T))).swapped()


# ---------------------------------------------------------------------- parts


def _conditional(root: Array, information: Array) -> Array:
    """R (I + R J R)^-1 R of a root R of the covariance and the information J."""
    inner = np.eye(len(root)) + root @ information @ root
    found = root @ np.linalg.solve(0.5 * (inner + inner.T), root)
    return np.asarray(0.5 * (found + found.T))


def _one(half: GaussianMixture) -> Gaussian:
    assert isinstance(half, Gaussian)  # a law of one component is
    return half


def _joint(plan: PairLaw) -> Gaussian:
    return _one(plan.mixture())


def _of_points(pairs: PairLaw) -> bool:
    """Whether both halves are point sets."""
    return all(not half.covariances.dense(half.dim).any() for half in (pairs.first, pairs.second))


def _reweighted(pairs: PairLaw, second: GaussianMixture) -> PairLaw:
    """Pairs of points with the weights of `second` in their second half."""
    everywhere = np.concatenate([second.means, pairs.second.means])
    _, where = np.unique(everywhere, axis=0, return_inverse=True)
    known, mine = np.split(where.ravel(), [second.count])
    wanted, has = (np.full(where.max() + 1, -np.inf) for _ in range(2))
    np.logaddexp.at(wanted, known, second.log_weights)
    np.logaddexp.at(has, mine, pairs.first.log_weights)
    if (np.isneginf(has) & ~np.isneginf(wanted)).any():
        raise ValueError("second must have no points but those of the pairs")
    kept = ~np.isneginf(wanted[mine]) & ~np.isneginf(pairs.first.log_weights)
    logs = (pairs.first.log_weights + wanted[mine] - has[mine])[kept]
    first, second_half = (law(logs, half.means[kept], half.covariances) for half in (pairs.first, pairs.second))
    return PairLaw(first, second_half)
