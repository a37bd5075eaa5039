r"""Optimal transport in closed form: Gaussians in any dimension, laws on the line, point sets.

    T(x) = n + A (x - m),   A = S^(-1/2) (S^(1/2) R S^(1/2))^(1/2) S^(-1/2) = A' >= 0,   A S A = R

is the optimal map of N(m, S) to N(n, R), the gradient of a convex function. In factors S = F F', R = G G' with the
singular values G' F = U D V' nothing is squared, and singular covariances need no other formula:

    C = Cov(x, y) = F V U' G',    A = G U D^+ U' G'   where R has no direction in which S has no part

Without that condition mass has to be split: the optimal coupling is no map, and the one here leaves independent what
the cost does not decide, as the entropic couplings do in their limit. Sources: PODB-70, PODB-71; Dowson and Landau
1982; Bhatia, Jain and Lim 2019, "On the Bures-Wasserstein distance between positive definite matrices".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture, monotone_map
from refdiff.distributions.blocks import plus
from refdiff.metrics import optimal_coupling
from refdiff.metrics.compared import is_points, same_space, weighted_points
from refdiff.operators import Operator
from refdiff.transport.pairs import NOTHING, PairLaw, independent, point_pairs

EPS = float(np.finfo(float).eps)
# Directions of a covariance are known to eps times its condition: those of one subspace are in another up to this.
ALIGNED = float(np.sqrt(EPS))


def optimal_map(p: GaussianMixture, q: GaussianMixture) -> Channel:
    """The optimal map of one Gaussian to another, x -> n + A (x - m) with A = A' >= 0, as a channel without noise.

    Its gain is a number or a diagonal where both covariances are.

    Args:
        p: N(m, S), which may be singular.
        q: N(n, R).

    Raises:
        TypeError: p or q is no law, or no Gaussian (on the line `optimal_image` has maps of mixtures).
        ValueError: dimensions differ, or q varies in a direction in which p does not: no map spreads a point out.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.transport import optimal_map
        >>> way = optimal_map(Gaussian([0.0], 1.0), Gaussian([3.0], 4.0))
        >>> print(way.gain.round(6), way.offset.round(6))
        2.0 [3.]
    """
    _gaussians(p, q)
    gain = _gain(p.covariances.operator(), q.covariances.operator(), p.dim)
    return Channel(gain, q.means[0] - operators.apply(gain, p.means[0]))


def optimal_image(p: GaussianMixture, q: GaussianMixture, x: ArrayLike) -> Any:
    """T(x) for points x (..., d) of p, with T the optimal map of p to q: of Gaussians, or of any laws on the line.

    Raises:
        TypeError: p or q is no law.
        ValueError: dimensions differ, x has another one, or there is no map or none in closed form.
    """
    same_space(p, q)
    if p.count == 1 and q.count == 1:
        rows, restore = points("x", x, p.dim)
        way = optimal_map(p, q)
        return restore(operators.apply(way.gain, rows) + way.offset)
    if p.dim > 1:
        raise ValueError(f"p and q must be Gaussians, or on the line, got {p!r} and {q!r}: mixtures have no closed map")
    return monotone_map(p, q, x)


def optimal_pairs(p: GaussianMixture, q: GaussianMixture) -> PairLaw:
    """The optimal coupling of two laws for |x - y|^2: Gaussians, singular or not, point sets, any law and a point.

    Raises:
        TypeError: p or q is no law.
        ValueError: dimensions differ, there are too many points, or there is no closed coupling: mixtures on the line
            have maps (`optimal_image`), which are no mixtures of pairs.

    Examples:
        >>> from refdiff import Empirical
        >>> from refdiff.transport import optimal_pairs
        >>> pairs = optimal_pairs(Empirical([[0.0], [1.0]]), Empirical([[3.0], [2.0]]))  # 0 to 2 and 1 to 3
        >>> print(round(float(pairs.cost()), 6))
        4.0
    """
    same_space(p, q)
    if is_points(p) and is_points(q):
        best = optimal_coupling(p, q, 2.0)
        (x, _), (y, _) = weighted_points(p), weighted_points(q)
        return point_pairs(x[best.rows], y[best.columns], best.masses)
    if any(one.count == 1 and is_points(one) for one in (p, q)):
        return independent(p, q)  # one coupling only
    if p.count > 1 or q.count > 1:
        raise ValueError(
            f"p and q must be Gaussians or point sets, got {p!r} and {q!r}: the optimal coupling of mixtures is no "
            "mixture; on the line optimal_image has its map"
        )
    cross = _cross(p.covariances.operator(), q.covariances.operator(), p.dim)
    return PairLaw(p, q, plus(NOTHING, cross))


def optimal_roots(p: Array, q: Array) -> Array:
    """[R_p; R_q] (2 d, d) with R R' the covariances `p` and `q` (d, d), singular or not, and E |R_p z - R_q z|^2 least.

    tr R_p R_q' = tr O' S_q^(1/2) S_p^(1/2) is largest for the orthogonal factor O of what stands there.
    """
    one, other = operators.root(p), operators.root(q)
    left, _, right = np.linalg.svd(other @ one)
    return np.vstack([one, other @ left @ right])


def factor(c: Operator, dim: int) -> Array:
    """F (d, r) with F F' = c, a covariance on R^dim of rank r up to rounding: orthogonal columns, the longest last."""
    values, basis = np.linalg.eigh(operators.dense(c, dim))
    kept = values > 8 * dim * EPS * values[-1]  # what `operators.covariance` takes for 0
    return np.asarray(basis[:, kept] * np.sqrt(values[kept]))


# ---------------------------------------------------------------------- A and C


def _gain(s: Operator, r: Operator, dim: int) -> Operator:
    """A, with A S A = R."""
    if max(s.ndim, r.ndim) < 2:
        s, r = np.broadcast_arrays(s, r)
        if ((s == 0) & (r > 0)).any():
            raise _spread_out()
        # 0 where neither varies: the smallest of the maps that are equal on p
        return np.sqrt(np.divide(r, s, out=np.zeros(s.shape), where=s > 0))
    f, g = factor(s, dim), factor(r, dim)
    u, d, vt = np.linalg.svd(g.T @ f, full_matrices=False)
    if f.shape[1] == dim:  # T = S^(-1/2) O D O' S^(-1/2): no singular value is divided by
        half = (f / (f**2).sum(axis=0)) @ (vt.T * np.sqrt(d))
    else:
        angles = np.linalg.svd(_normed(g).T @ _normed(f), compute_uv=False) if g.size else np.ones(0)
        if g.shape[1] > f.shape[1] or (angles < ALIGNED).any():
            raise _spread_out()
        half = g @ (u / np.sqrt(d))
    return np.asarray(half @ half.T)


def _cross(s: Operator, r: Operator, dim: int) -> Operator:
    """C of the optimal coupling."""
    if max(s.ndim, r.ndim) < 2:
        return np.asarray(np.sqrt(s) * np.sqrt(r))
    f, g = factor(s, dim), factor(r, dim)
    u, d, vt = np.linalg.svd(g.T @ f, full_matrices=False)
    felt = d > 8 * dim * EPS * np.linalg.norm(f) * np.linalg.norm(g)
    return np.asarray((f @ vt[felt].T) @ (g @ u[:, felt]).T)


def _normed(factors: Array) -> Array:
    return np.asarray(factors / np.linalg.norm(factors, axis=0))


def _spread_out() -> ValueError:
    return ValueError(
        "p must vary in every direction in which q does: no gradient map spreads a point out (optimal_pairs couples "
        "them all the same)"
    )


def _gaussians(p: GaussianMixture, q: GaussianMixture) -> None:
    same_space(p, q)
    for name, one in (("p", p), ("q", q)):
        if one.count != 1:
            raise TypeError(f"{name} must be a Gaussian, got {one!r}")
