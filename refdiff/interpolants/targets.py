r"""What may be regressed on x_t, and what the regression finds.

    U = G x_0 + H x_1 + g + (a part in z),   N = Cov(U, x_t | x_0, x_1),   Q = Cov(U | x_0, x_1)

    velocity   A' x_0 + B' x_1 + b' + R' z          N = S             Q = S V^-1 S'
    first      x_0                                  N = 0             Q = 0
    second     x_1                                  N = 0             Q = 0
    noise      z, with the symmetric R = V^(1/2)    N = R             Q = I
    score      -V^-1 R z, whose mean is grad log p  N = -I            Q = V^-1

On component k, where x_t ~ N(c_k, M_k) and Cov(U, x_t | k) = R_k, the regression is affine, and with averages <.>
under the responsibilities at x

    E[U | x] = <u_k + R_k M_k^-1 (x - c_k)>,     tr Cov[U | x] = <tr(T_k - R_k M_k^-1 R_k')> + tr Cov(u_k(x))

Regression on x_t and one of the ends is the same on R^2d: y = [[A, B], [0, I]] (x_0, x_1) + ... Sources: PODB-33,
PODB-35, PODB-41, DMI-63, TOPB-68; Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic interpolants".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refdiff import operators
from refdiff.arguments import Array, one_of
from refdiff.distributions import GaussianMixture
from refdiff.distributions.affine_means import affine_mean
from refdiff.distributions.blocks import plus, transposed
from refdiff.distributions.covariances import Covariances, Dense, Diagonal
from refdiff.distributions.mixture import law
from refdiff.distributions.moments import Field, cross_trace, gather, twice
from refdiff.interpolants.interpolant import Blend
from refdiff.operators import Operator
from refdiff.transport import PairLaw

ZERO, ONE = np.zeros(()), np.ones(())


class Target(NamedTuple):
    """U = G x_0 + H x_1 + g + (a part in z): first is G, second H, offset g, spread N and noise Q, operators all.

    An operator is a number, a diagonal (d,) or a matrix (d, d).
    """

    first: Operator
    second: Operator
    offset: Array
    spread: Operator
    noise: Operator


def _velocity(now: Blend) -> Target:
    rates = (now.dfirst, now.dsecond, now.doffset, now.spread)
    if not all(np.isfinite(rate).all() for rate in rates):
        raise ValueError(f"t must be a time at which the interpolant has finite rates, got {rates}")
    if not now.spread.any():
        return Target(*rates, ZERO)
    left = operators.product(now.spread, operators.inverse(_rank(now)))
    return Target(*rates, operators.product(left, now.spread.T))


def _noise(now: Blend) -> Target:
    return Target(ZERO, ZERO, ZERO, operators.root(now.noise), ONE)


def _score(now: Blend) -> Target:
    return Target(ZERO, ZERO, ZERO, -ONE, operators.inverse(_rank(now)))


def _rank(now: Blend) -> Operator:
    if operators.singular(now.noise):
        raise ValueError(f"t must be a time with noise in every direction for this target, got the noise {now.noise}")
    return now.noise


TARGETS: dict[str, Callable[[Blend], Target]] = {
    "velocity": _velocity,
    "first": lambda _: Target(ONE, ZERO, ZERO, ZERO, ZERO),
    "second": lambda _: Target(ZERO, ONE, ZERO, ZERO, ZERO),
    "noise": _noise,
    "score": _score,
}


def target_at(name: str, now: Blend) -> Target:
    """The target of that name at the time of a blend `now`.

    Raises:
        ValueError: an unknown name, or a target without a variance there: the rate of a bridge's noise at its ends.
    """
    return TARGETS[one_of("target", name, TARGETS)](now)


class Regression:
    """The regression of a target U, `what`, on x_t, for `pairs` joined by the blend `now`.

    Attributes:
        law: of x_t, p_t.
        aim: the law of U, with the same weights.
        gains: R_k = Cov(U, x_t | k), in the storage of the parts, shape (K or 1, d, d).
    """

    def __init__(self, pairs: PairLaw, now: Blend, what: Target) -> None:
        self.law: GaussianMixture = pairs.blend(now.first, now.second, now.offset, now.noise)
        self.aim: GaussianMixture = pairs.blend(what.first, what.second, what.offset, what.noise)
        _, gains = pairs.regression((what.first, what.second), (now.first, now.second))
        self.gains: Covariances = plus(gains, what.spread)

    @property
    def dim(self) -> int:
        """d, the dimension of x_t."""
        return self.law.dim

    @property
    def size(self) -> float:
        """E |U|^2."""
        return float(
            self.aim.weights @ (self.aim.means**2).sum(axis=1)
            + self.aim.covariances.average_trace(self.aim.weights[None], self.dim)[0]
        )

    def mean(self, x: Array) -> Array:
        """E[U | x_t = x] at points x (n, d), shape (n, d)."""
        return affine_mean(self.law, self.aim.means, self.gains, x)

    def variance(self, x: Array) -> Array:
        """tr Cov[U | x_t = x] at points x (n, d), shape (n,): what no function of x_t predicts."""
        left = self._left()

        def one(part: Array) -> Array:
            r, u = self.law.posterior_weights(part), self._fields(part)
            return r @ np.broadcast_to(left, (self.law.count,)) + cross_trace(r, twice(u), self.dim)

        return gather(one(part) for part in self.law.parts(x))

    def joint(self) -> GaussianMixture:
        """The law of (x_t, U) on R^2d."""
        return joined(self.law, self.aim, self.gains)

    def affine(self) -> tuple[Array, Array]:
        """W (d, d) and w (d,) with E[U | x_t = x] = W x + w, of pairs of one component; M may be singular."""
        d = self.dim
        m = self.law.covariances.dense(d)[0]
        gain = self.gains.dense(d)[0] @ np.linalg.pinv(m, rcond=8 * d * np.finfo(float).eps, hermitian=True)
        return gain, self.aim.means[0] - gain @ self.law.means[0]

    def _fields(self, x: Array) -> Field:
        g = self.law.gradients(x)
        return lambda ks: self.aim.means[ks] - self.gains.multiply(g(ks), ks)

    def _left(self) -> Array:
        """tr(T_k - R_k M_k^-1 R_k') >= 0, shape (K or 1,)."""
        inverse, dim = self.law.covariances.inverse(), self.dim
        aim, gains = self.aim.covariances, self.gains
        if isinstance(inverse, Diagonal) and isinstance(aim, Diagonal) and isinstance(gains, Diagonal):
            left = np.maximum(aim.variances - gains.variances**2 * inverse.variances, 0.0)
            return np.asarray(left.sum(axis=1) * (dim if left.shape[1] == 1 else 1))
        t, r, m = aim.dense(dim), gains.dense(dim), inverse.dense(dim)
        return np.asarray(np.maximum(np.trace(t, axis1=1, axis2=2) - np.einsum("kij,kjl,kil->k", *_same(r, m, r)), 0.0))


def joined(p: GaussianMixture, q: GaussianMixture, cross: Covariances) -> GaussianMixture:
    """The law of (x, u) with halves p and q of the same components and Cov(u, x | k) = cross, shape (K or 1, d, d)."""
    return PairLaw(p, q, transposed(cross)).mixture()


class GivenEnd(NamedTuple):
    """U regressed on x_t and one end: weight is the chance of this part, law that of what is known.

    read sends rows of it (n, d or 2 d) to the points x_t and the means E[U | x_t, end], each (n, d).
    """

    weight: float
    law: GaussianMixture
    read: Callable[[Array], tuple[Array, Array]]
    regression: Regression


def given_end(pairs: PairLaw, now: Blend, what: Target, *, first: bool) -> list[GivenEnd]:
    """The regression of a target `what` on x_t and x_0 (`first`) or x_1: one part, or one for each atom of that end.

    Args:
        pairs: of the ends.
        now: how they are joined.
        what: the target.
        first: whether x_0 is given, not x_1.

    Raises:
        ValueError: the end has atoms and a density both.
    """
    end = pairs.first if first else pairs.second
    spread = end.covariances
    if isinstance(spread, Diagonal) and not spread.variances.any():
        return _atoms(pairs, now, what, end)
    if isinstance(spread, Diagonal) and spread.variances.shape[0] > 1 and (spread.variances == 0).all(axis=1).any():
        raise ValueError("given must be an end that is a point set or has a density, got a mixture of both")
    d = pairs.dim
    whole, nothing = pairs.mixture(), np.zeros((d, d))
    still = law(whole.log_weights, np.zeros((whole.count, 2 * d)), Diagonal(np.zeros((1, 1))))
    known = np.hstack([np.eye(d), nothing] if first else [nothing, np.eye(d)])

    def stacked(left: Operator, right: Operator, below: Array) -> Array:
        return np.vstack([np.hstack([operators.dense(left, d), operators.dense(right, d)]), below])

    def widened(a: Operator) -> Array:
        return np.block([[operators.dense(a, d), nothing], [nothing, nothing]])

    def longer(b: Array) -> Array:
        return np.concatenate([np.broadcast_to(b, (d,)), np.zeros(d)])

    blend = Blend(stacked(now.first, now.second, known), ZERO, widened(now.noise), ZERO, ZERO, ZERO)
    lifted = Target(stacked(what.first, what.second, np.zeros((d, 2 * d))), ZERO, longer(what.offset),
                    widened(what.spread), widened(what.noise))  # fmt: skip
    found = Regression(PairLaw(whole, still), blend._replace(offset=longer(now.offset)), lifted)
    return [GivenEnd(1.0, found.law, lambda rows: (rows[:, :d], found.mean(rows)[:, :d]), found)]


def _atoms(pairs: PairLaw, now: Blend, what: Target, end: GaussianMixture) -> list[GivenEnd]:
    _, place = np.unique(end.means, axis=0, return_inverse=True)
    parts = []
    for j in range(int(place.max()) + 1):
        kept = np.flatnonzero(place.reshape(-1) == j)
        logs = end.log_weights[kept]
        total = np.logaddexp.reduce(logs)
        first, second = (law(logs - total, p.means[kept], p.covariances[kept]) for p in (pairs.first, pairs.second))
        # an atom does not vary, so that nothing varies with it
        found = Regression(PairLaw(first, second), now, what)
        parts.append(GivenEnd(float(np.exp(total)), found.law, _reading(found), found))
    return parts


def _reading(found: Regression) -> Callable[[Array], tuple[Array, Array]]:
    return lambda x: (x, found.mean(x))


def _same(*blocks: Array) -> list[Array]:
    """Blocks (K or 1, d, d) as equally many."""
    count = max(len(block) for block in blocks)
    return [np.broadcast_to(block, (count, *block.shape[1:])) for block in blocks]


def dense_law(p: GaussianMixture) -> tuple[Array, Array]:
    """The mean (d,) and the covariance (d, d) of a law p of one component."""
    return p.means[0], Dense(p.covariances.dense(p.dim)).matrices[0]
