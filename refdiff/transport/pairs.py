r"""Laws of pairs: couplings of two laws, as mixtures that know which half is which.

    (x_0, x_1) ~ sum_k w_k N((m_k, n_k), [[S_k, C_k], [C_k', T_k]])

A coupling of mixtures by components, of Gaussians with any cross-covariance, of point sets with any masses, a law with
its image under a channel: each is one of these, and whatever is affine in a pair has a closed form. With y = A x_0 +
B x_1 + b + N(0, V) of component law N(y_k, M_k),

    E[G x_0 + H x_1 | y, k] = G m_k + H n_k + (G (S_k A' + C_k B') + H (C_k' A' + T_k B')) M_k^-1 (y - y_k)

which is all that flow matching, rectified flow and bridges ask of a coupling. Storage stays diagonal where the parts
are. Sources: DMI-60, PODB-33, PODB-40, PODB-70.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff import operators
from refdiff.arguments import Array, generator, points, real_array, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture
from refdiff.distributions.blocks import between, stored, total, transposed
from refdiff.distributions.covariances import Covariances, Dense, Diagonal
from refdiff.distributions.mixture import law
from refdiff.distributions.parts import means_of
from refdiff.operators import Operator

NOTHING = Diagonal(np.zeros((1, 1)))
ONE, ZERO = np.ones(()), np.zeros(())


@dataclass(frozen=True, eq=False, repr=False)
class PairLaw:
    """A law of pairs (x_0, x_1) on R^d x R^d, a mixture over K pairs of components.

    Build one with `independent`, `component_pairs`, `gaussian_pairs`, `point_pairs` or `image_pairs`, which check
    their arguments; the constructor itself takes parts that are already consistent.

    Attributes:
        first: the law of x_0 as K components (m_k, S_k).
        second: the law of x_1 as K components (n_k, T_k), with the weights of `first`.
        cross: the cross-covariances C_k = Cov(x_0, x_1 | k), shape (K or 1, d, d), or diagonals (K or 1, d or 1).
    """

    first: GaussianMixture
    second: GaussianMixture
    cross: Covariances = NOTHING

    def __repr__(self) -> str:
        return f"PairLaw({self.count} x R^{self.dim} x R^{self.dim})"

    @property
    def dim(self) -> int:
        """d, the dimension of x_0 and of x_1."""
        return self.first.dim

    @property
    def count(self) -> int:
        """K, the number of pairs of components."""
        return self.first.count

    def swapped(self) -> PairLaw:
        """The law of (x_1, x_0)."""
        return PairLaw(self.second, self.first, transposed(self.cross))

    def mixture(self) -> GaussianMixture:
        """The law of the pair as one mixture on R^2d, with matrices."""
        d, k = self.dim, self.count
        blocks = (self.first.covariances, self.cross, self.second.covariances)
        s, c, t = (np.broadcast_to(block.dense(d), (k, d, d)) for block in blocks)
        matrices = np.block([[s, c], [np.swapaxes(c, 1, 2), t]])
        return law(self.first.log_weights, np.hstack([self.first.means, self.second.means]), Dense(matrices))

    # ------------------------------------------------------------------ moments and samples

    def cross_covariance(self) -> Array:
        """Cov(x_0, x_1), shape (d, d)."""
        w = self.first.weights
        m, n = self.first.means - self.first.mean(), self.second.means - self.second.mean()
        return np.asarray(self.cross.average(w[None], self.dim)[0] + (w[:, None] * m).T @ n)

    def cost(self) -> float:
        """E |x_0 - x_1|^2."""
        gap = self.blend(1.0, -1.0)
        return float(
            gap.covariances.average_trace(gap.weights[None], self.dim)[0] + gap.weights @ (gap.means**2).sum(1)
        )

    def sample(self, n: int, seed: int | np.random.Generator) -> tuple[Array, Array]:
        """`n` independent pairs by a `seed`, as x_0 and x_1, each (n, d)."""
        n, rng = whole_number("n", n), generator(seed)
        labels = rng.choice(self.count, size=n, p=self.first.weights / self.first.weights.sum())
        z, w = rng.standard_normal((2, n, self.dim))
        x = self.first.covariances.colour(z, labels)
        if self.cross is NOTHING:
            return self.first.means[labels] + x, self.second.means[labels] + self.second.covariances.colour(w, labels)
        return self.first.means[labels] + x, self.second.means[labels] + self._after(x, w, labels)

    def _after(self, x: Array, w: Array, labels: NDArray[np.intp]) -> Array:
        """C' S^-1 x + (T - C' S^-1 C)^(1/2) w, both (n, d); of a map's image no noise of rounding is left."""
        s, c, t = self.first.covariances, self.cross, self.second.covariances
        eps = 8 * np.finfo(float).eps
        if isinstance(s, Diagonal) and isinstance(c, Diagonal) and isinstance(t, Diagonal):
            spread, shared, other = (one[labels].variances for one in (s, c, t))
            slope = shared / np.where(spread > 0, spread, 1.0)
            left = other - slope * shared
            return np.asarray(slope * x + np.sqrt(np.where(left > eps * other, left, 0.0)) * w)
        result = np.empty_like(x)
        for k in np.unique(labels):
            here = labels == k
            spread, shared, other = (one[np.array([k])].dense(self.dim)[0] for one in (s, c, t))
            slope = shared.T @ np.linalg.pinv(spread, rcond=self.dim * eps, hermitian=True)
            values, axes = np.linalg.eigh(other - slope @ shared)
            kept = np.where(values > self.dim * eps * np.trace(other), values, 0.0)
            result[here] = x[here] @ slope.T + (w[here] * np.sqrt(kept)) @ axes.T
        return result

    def given_first(self, x: ArrayLike) -> GaussianMixture:
        """The law of x_1 given one x_0 = x of shape (d,), at which x_0 has a density or an atom.

        Where it has both the atom has all mass.

        Raises:
            ValueError: x is not one point, or x_0 has neither a density nor an atom there.
        """
        where = points("x", x, self.dim)[0]
        if len(where) != 1:
            raise ValueError(f"x must be one point, got {len(where)}")
        atoms = _atoms(self.first)
        if (here := atoms & (self.first.means == where).all(axis=1)).any():
            logs = np.where(here, self.first.log_weights, -np.inf)
            return law(logs - np.logaddexp.reduce(logs), self.second.means, self.second.covariances)
        if atoms.all():
            raise ValueError(f"x must be a point of the first law, got {where[0]}")
        if atoms.any():
            return self._only(np.flatnonzero(~atoms)).given_first(x)
        logs = self.first.log_weights_given(where)
        if self.cross is NOTHING:
            return law(logs, self.second.means, self.second.covariances)
        return self.mixture().conditional(np.arange(self.dim), where[0])

    def given_second(self, x: ArrayLike) -> GaussianMixture:
        """The law of x_0 given one x_1 = x of shape (d,), at which x_1 has a density or an atom."""
        return self.swapped().given_first(x)

    def _only(self, kept: NDArray[np.intp]) -> PairLaw:
        """The law of pairs that come from some of the components."""
        logs = self.first.log_weights[kept] - np.logaddexp.reduce(self.first.log_weights[kept])
        first, second = (law(logs, half.means[kept], half.covariances[kept]) for half in (self.first, self.second))
        return PairLaw(first, second, self.cross[kept])

    # ------------------------------------------------------------------ affine functions of a pair

    def blend(
        self, first: ArrayLike, second: ArrayLike, offset: ArrayLike = 0.0, noise: ArrayLike = 0.0
    ) -> GaussianMixture:
        """The law of A x_0 + B x_1 + b + N(0, V).

        Args:
            first: A, a scalar, (d,) or (d, d).
            second: B, a scalar, (d,) or (d, d).
            offset: b, a scalar or (d,).
            noise: V, a variance, (d,) or (d, d).
        """
        a, b = _square("first", first, self.dim), _square("second", second, self.dim)
        v = operators.covariance("noise", noise)
        operators.fits("noise", v, self.dim)
        shift = real_array("offset", offset, ndim=(0, 1))
        operators.fits("offset", shift, self.dim)
        parts = [between(a, self.first.covariances, a), between(b, self.second.covariances, b), stored(v)]
        if self.cross is not NOTHING:
            parts += [between(a, self.cross, b), between(b, transposed(self.cross), a)]
        means = operators.apply(a, self.first.means) + operators.apply(b, self.second.means) + shift
        return law(self.first.log_weights, means, _rounded(parts))

    def regression(self, of: tuple[Operator, Operator], on: tuple[Operator, Operator]) -> tuple[Array, Covariances]:
        """E[G x_0 + H x_1 | k], shape (K, d), and Cov(G x_0 + H x_1, A x_0 + B x_1 | k), for checked operators.

        Args:
            of: G and H.
            on: A and B.
        """
        (g, h), (a, b) = of, on
        means = operators.apply(g, self.first.means) + operators.apply(h, self.second.means)
        parts = [between(g, self.first.covariances, a), between(h, self.second.covariances, b)]
        if self.cross is not NOTHING:
            parts += [between(g, self.cross, b), between(h, transposed(self.cross), a)]
        return means, total(parts)


# ---------------------------------------------------------------------- couplings


def independent(p: GaussianMixture, q: GaussianMixture) -> PairLaw:
    """x_0 ~ p and x_1 ~ q, independent: all pairs of their components.

    Raises:
        TypeError: p or q is no law of this library's.
        ValueError: their dimensions differ.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.transport import independent
        >>> print(round(float(independent(Gaussian([0.0], 1.0), Gaussian([2.0], 3.0)).cost()), 6))  # 2^2 + 1 + 3
        8.0
    """
    _laws(p, q)
    return component_pairs(p, q, np.exp(np.add.outer(p.log_weights, q.log_weights)))


def component_pairs(p: GaussianMixture, q: GaussianMixture, masses: ArrayLike) -> PairLaw:
    """Component j of p with component k of q with probability m_jk, independent within: pairs of mass 0 are left out.

    Args:
        p: the law of x_0, of K_0 components, whose weights are the row sums of the masses.
        q: the law of x_1, of K_1 components, whose weights are the column sums.
        masses: m_jk >= 0, shape (K_0, K_1).

    Raises:
        TypeError: p or q is no law of this library's.
        ValueError: dimensions or sums that do not fit, or a negative mass.
    """
    _laws(p, q)
    m = real_array("masses", masses, ndim=(2,))
    if m.shape != (p.count, q.count):
        raise ValueError(f"masses must have shape {(p.count, q.count)}, got {m.shape}")
    if (m < 0).any():
        raise ValueError(f"masses must not be negative, got {m.min()}")
    for name, sums, weights in (("row", m.sum(axis=1), p.weights), ("column", m.sum(axis=0), q.weights)):
        # 1e-8: plans come from iterations and linear programs, which stop there
        if np.abs(sums - weights).max() > 1e-8:
            raise ValueError(f"masses must have the weights as {name} sums, got a difference of "
                             f"{np.abs(sums - weights).max():.3g}")  # fmt: skip
    rows, columns = np.nonzero(m)
    logs = np.log(m[rows, columns])
    logs -= np.logaddexp.reduce(logs)
    return PairLaw(law(logs, p.means[rows], p.covariances[rows]), law(logs, q.means[columns], q.covariances[columns]))


def gaussian_pairs(p: Gaussian, q: Gaussian, cross: ArrayLike) -> PairLaw:
    """Gaussians with the cross-covariance C = Cov(x_0, x_1).

    Args:
        p: the law of x_0.
        q: the law of x_1.
        cross: C, a scalar, (d,) or (d, d).

    Raises:
        TypeError: p or q is no Gaussian.
        ValueError: dimensions differ, or the two covariances and C are not the covariance of a pair.
    """
    _laws(p, q)
    for name, one in (("p", p), ("q", q)):
        if not isinstance(one, Gaussian):
            raise TypeError(f"{name} must be a Gaussian, got {one!r}")
    pair = PairLaw(p, q, stored(_square("cross", cross, p.dim)))
    try:
        operators.semi_definite("cross", pair.mixture().covariances.dense(2 * p.dim))
    except ValueError as error:
        raise ValueError(
            f"cross must be a cross-covariance of p and q, got a pair's covariance that is not: {error}"
        ) from None
    return pair


def point_pairs(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> PairLaw:
    """The pairs (x_i, y_i) with weights w_i.

    Args:
        x, y: points, each (n, d).
        weights: w_i >= 0, shape (n,), equal when left out.

    Raises:
        ValueError: shapes that do not fit, or weights that are negative or all zero.
    """
    first, second = (Empirical(means_of(part, name), weights) for name, part in (("x", x), ("y", y)))
    if first.means.shape != second.means.shape:
        raise ValueError(f"y must have the shape {first.means.shape} of x, got {second.means.shape}")
    return PairLaw(first, second)


def image_pairs(p: GaussianMixture, channel: Channel) -> PairLaw:
    """x_0 ~ p and its image x_1 = A x_0 + b + N(0, C): a map where there is no noise, a process between two times.

    Raises:
        TypeError: p is no law of this library's, or channel no Channel.
        ValueError: the channel does not send R^d to R^d.
    """
    _laws(p, p)
    if not isinstance(channel, Channel):
        raise TypeError(f"channel must be a Channel, got {channel!r}")
    if (second := channel.push(p)).dim != p.dim:
        raise ValueError(f"channel must have {p.dim} outputs like inputs, got {second.dim}")
    return PairLaw(p, second, between(ONE, p.covariances, channel.gain))


# ---------------------------------------------------------------------- storage


def _laws(p: Any, q: Any) -> None:
    for name, one in (("p", p), ("q", q)):
        if not isinstance(one, GaussianMixture):
            raise TypeError(f"{name} must be a Gaussian, GaussianMixture or Empirical, got {one!r}")
    if p.dim != q.dim:
        raise ValueError(f"q must have the dimension {p.dim} of p, got {q.dim}")


def _atoms(of: GaussianMixture) -> NDArray[np.bool_]:
    """Which components have no variance, (K,)."""
    stored = of.covariances
    varies = stored.variances.any(axis=1) if isinstance(stored, Diagonal) else stored.matrices.any(axis=(1, 2))
    return np.broadcast_to(~varies, of.count)


def _square(name: str, value: ArrayLike, dim: int) -> Operator:
    a = operators.operator(name, value)
    if a.shape not in ((), (dim,), (dim, dim)):
        raise ValueError(f"{name} must be a number, or have shape ({dim},) or ({dim}, {dim}), got {a.shape}")
    return a


def _rounded(parts: list[Covariances]) -> Covariances:
    """The sum of blocks as covariances: symmetric, and 0 where all that is left of a sum is its rounding."""
    whole, size = total(parts), total([_absolute(part) for part in parts])
    eps = 8 * np.finfo(float).eps
    if isinstance(whole, Diagonal) and isinstance(size, Diagonal):
        return Diagonal(np.where(whole.variances <= eps * size.variances, 0.0, whole.variances))
    kept = np.where(np.abs(whole.dense(0)) <= eps * size.dense(0), 0.0, whole.dense(0))
    return Dense(0.5 * (kept + np.swapaxes(kept, 1, 2)))


def _absolute(block: Covariances) -> Covariances:
    return Diagonal(np.abs(block.variances)) if isinstance(block, Diagonal) else Dense(np.abs(block.matrices))
