r"""Wasserstein barycentres: the law least far from several, in the mean of squares.

    V(q) = sum_i w_i W_2(q, p_i)^2,          q N(m, S):   m = sum_i w_i m_i,   S = sum_i w_i (S^(1/2) S_i S^(1/2))^(1/2)

S is a fixed point of S -> M S M, M = sum_i w_i A_i with the maps A_i of N(0, S) to N(0, S_i), and V falls along it.
Each step proves how far it is from the end. Convex u_i with sum_i w_i u_i <= |x|^2 / 2 bound V(q) from below for every
q, by x.y <= u_i(x) + u_i*(y); u_i = x' B_i x / 2 with B_i = M^(-1/2) A_i M^(-1/2), or A_i over the largest eigenvalue
of M where an A_i is singular, make it

    V(q) >= sum_i w_i |m_i - m|^2 + sum_i w_i tr (S_i - B_i^-1 S_i)

with equality at the barycentre, where M = I on the range of S. On the line quantiles are averaged. Point sets have a
linear program over tuples of points, one of each set, whose means carry the barycentre: the multi-marginal problem.
Sources: PODB-70, PODB-71; Agueh and Carlier 2011, "Barycenters in the Wasserstein space"; Alvarez-Esteban, del Barrio,
Cuesta-Albertos and Matran 2016, "A fixed-point approach to barycenters in Wasserstein space".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_array, real_scalar, whole_number
from refdiff.distributions import Empirical, Gaussian, GaussianMixture
from refdiff.metrics import wasserstein
from refdiff.metrics.compared import is_points, weighted_points
from refdiff.operators import Operator
from refdiff.transport.gaussian_maps import ALIGNED, factor, optimal_map
from refdiff.transport.quantile_means import QuantileMean, one_space, quantile_mean_of_points

TUPLES = 2**16  # of points, one of each set: a program of so many masses takes some seconds


@dataclass(frozen=True, eq=False)
class Barycentre:
    """A barycentre with its proof.

    Attributes:
        law: q.
        value: V(q).
        bound: what V of no law is below; at the barycentre it is V, and may be above it by roundings of V and the mean
            of tr S_i.
        residual: the largest entry of M - I on the range of S: 0 at the barycentre, and where that is closed. Where S
            loses a direction in the limit, of singular laws, it is not small on that one; the gap is.
        steps: how many were made.
    """

    law: GaussianMixture
    value: float
    bound: float
    residual: float
    steps: int

    @property
    def gap(self) -> float:
        """value - bound: q is optimal up to this."""
        return max(self.value - self.bound, 0.0)


def gaussian_barycentre(
    laws: Sequence[GaussianMixture],
    weights: ArrayLike | None = None,
    *,
    tolerance: float = 1e-12,
    start: ArrayLike | None = None,
    most: int = 500,
) -> Barycentre:
    """The barycentre of Gaussians, to a gap between value and bound of `tolerance` times the mean of tr S_i.

    Args:
        laws: Gaussians, singular ones too.
        weights: w_i >= 0, shape (n,), equal when left out.
        tolerance: of the gap; closed forms (all covariances diagonal) need none.
        start: S to begin with, a covariance (d, d) whose range holds that of all; the mean of all unless given.
        most: steps, after which there is an error.

    Raises:
        TypeError: a law is no Gaussian.
        ValueError: dimensions or weights do not fit, or the tolerance is not met.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.transport import gaussian_barycentre
        >>> found = gaussian_barycentre([Gaussian([0.0], 1.0), Gaussian([2.0], 9.0)])
        >>> print(found.law.mean().round(6), found.law.cov().round(6))  # the mean of standard deviations 1 and 3
        [1.] [[4.]]
    """
    w = _checked(laws, weights)
    for law in laws:
        if law.count != 1:
            raise TypeError(f"laws must be Gaussians, got {law!r}")
    laws, w = [law for law, one in zip(laws, w, strict=True) if one > 0], w[w > 0]  # the others need no map
    real_scalar("tolerance", tolerance, low=0, open_low=True)
    whole_number("most", most, low=1)
    dim, mean = laws[0].dim, np.asarray(w @ np.stack([law.means[0] for law in laws]))
    shifts = float(w @ np.array([((law.means[0] - mean) ** 2).sum() for law in laws]))
    spreads = [np.asarray(law.covariances.operator()) for law in laws]
    if max(s.ndim for s in spreads) < 2:
        law = Gaussian(mean, np.asarray(sum(one * np.sqrt(s) for one, s in zip(w, spreads, strict=True))) ** 2)
        value = float(w @ np.array([wasserstein(law, one).value ** 2 for one in laws]))
        return Barycentre(law, value, value, 0.0, 0)
    matrices = [operators.dense(s, dim) for s in spreads]
    here = sum(one * s for one, s in zip(w, matrices, strict=True)) if start is None else start
    first = operators.covariance("start", np.asarray(here))
    operators.fits("start", first, dim)
    if start is not None:
        _spread(first, matrices)
    best = _descended(matrices, w, first, tolerance, most)
    law = Gaussian(mean, best.law.covariances.operator())
    return Barycentre(law, best.value + shifts, best.bound + shifts, best.residual, best.steps)


def _spread(here: Operator, matrices: list[Array]) -> None:
    """Every direction in which one of the laws varies is one in which the start does."""
    f = factor(here, len(matrices[0]))
    frame = f / np.linalg.norm(f, axis=0)
    for s in matrices:
        left = s - frame @ (frame.T @ s)
        if np.abs(left).max() > ALIGNED * np.abs(s).max():
            raise ValueError(f"start must vary in every direction in which a law does, got {here.tolist()}")


def _descended(matrices: list[Array], w: Array, here: Operator, tolerance: float, most: int) -> Barycentre:
    """The barycentre of centred Gaussians with these covariances, from `here`."""
    dim = len(matrices[0])
    ends = [Gaussian(np.zeros(dim), s) for s in matrices]
    size = float(w @ np.array([np.trace(s) for s in matrices]))
    s, bound, before = operators.dense(here, dim), -np.inf, np.inf
    for step in range(most + 1):
        law = Gaussian(np.zeros(dim), s)
        ways = [operators.dense(optimal_map(law, one).gain, dim) for one in ends]
        middle = np.asarray(sum(one * a for one, a in zip(w, ways, strict=True)))
        # W_2^2 = tr S + tr S_i - 2 tr A_i S
        value = float(np.trace(s) + size - 2 * np.trace(middle @ s))
        bound = max(bound, _bound(matrices, w, ways, middle, s))
        felt = factor(s, dim)
        frame = felt / np.linalg.norm(felt, axis=0)
        residual = float(np.abs(frame.T @ (middle @ frame - frame)).max(initial=0.0))
        moved = middle @ s @ middle
        change = float(np.linalg.norm(moved - s))
        # the gap is of second order: the law itself goes on while steps shrink fast, to its own rounding
        if value - bound <= tolerance * size and (step == most or not 0 < change < 0.9 * before):
            return Barycentre(law, value, bound, residual, step)
        s, before = 0.5 * (moved + moved.T), change
    raise ValueError(
        f"most must be more steps than {most} for a tolerance of {tolerance}, got a gap of {value - bound:.3g}"
    )


def _bound(matrices: list[Array], w: Array, ways: list[Array], middle: Array, s: Array) -> float:
    """sum w_i tr (S_i - B_i^-1 S_i): beside the root of M what it falls short by is of second order in M - I."""
    size = float(w @ np.array([np.trace(one) for one in matrices]))
    plain = size - float(np.linalg.eigvalsh(middle)[-1] * np.trace(middle @ s))
    felt = [(one, a, s) for one, a, s in zip(w, ways, matrices, strict=True) if one > 0]
    if any(operators.singular(a) for _, a, _ in felt):
        return plain
    root = operators.root(middle)
    halves = [one * np.trace(np.linalg.solve(a, root @ s @ root)) for one, a, s in felt]
    return max(plain, size - float(sum(halves)))


def line_barycentre(laws: Sequence[GaussianMixture], weights: ArrayLike | None = None) -> QuantileMean:
    """The barycentre of any laws on the line, whose quantiles are sum_i w_i F_i^-1.

    Args:
        laws: on the line.
        weights: w_i >= 0, shape (n,), equal when left out.

    Raises:
        TypeError: one is no law.
        ValueError: one is not on the line, or the weights do not fit.
    """
    return QuantileMean(laws, _checked(laws, weights))


def point_barycentre(laws: Sequence[GaussianMixture], weights: ArrayLike | None = None) -> Barycentre:
    """The barycentre of point sets: on the line by ranks, elsewhere of few small ones by a program over tuples.

    min { sum_k m_k sum_i w_i |x_ik - x_k|^2 } over the masses m_k of tuples (x_1k, ..., x_nk) whose i-th points have
    the masses of law i; x_k = sum_i w_i x_ik are the points of the barycentre. The bound is the program's dual.

    Args:
        laws: point sets.
        weights: w_i >= 0, shape (n,), equal when left out.

    Raises:
        TypeError: one is no law.
        ValueError: one is no point set, the weights do not fit, or there are more than 65536 tuples off the line.
    """
    w = _checked(laws, weights)
    for law in laws:
        if not is_points(law):
            raise ValueError(f"laws must be point sets, got {law!r}")
    if laws[0].dim == 1:
        best = quantile_mean_of_points(laws, w)
        value = float(w @ np.array([wasserstein(best, one).value ** 2 for one in laws]))
        return Barycentre(best, value, value, 0.0, 0)
    return _over_tuples(laws, w)


def _over_tuples(laws: Sequence[GaussianMixture], w: Array) -> Barycentre:
    """The barycentre of point sets by HiGHS, with the dual's bound."""
    from scipy import sparse  # late, as the solver is
    from scipy.optimize import linprog

    sets = [weighted_points(law) for law in laws]
    sizes = tuple(len(x) for x, _ in sets)
    if np.prod(np.array(sizes, dtype=float)) > TUPLES:
        raise ValueError(f"laws must have at most {TUPLES} tuples of points, got {' x '.join(map(str, sizes))}")
    labels = np.indices(sizes).reshape(len(sets), -1)
    tuples = np.stack([x[label] for (x, _), label in zip(sets, labels, strict=True)])
    means = np.einsum("i,ikd->kd", w, tuples)
    costs = np.einsum("i,ikd->k", w, (tuples - means) ** 2)
    scale = costs.max() or 1.0  # the solver's tolerances are absolute
    ones, count = np.ones(labels.shape[1]), np.arange(labels.shape[1])
    sums = sparse.vstack([sparse.csr_array((ones, (label, count)), (n, len(count))) for label, n in zip(
        labels, sizes, strict=True)])  # fmt: skip
    found = linprog(costs / scale, A_eq=sums, b_eq=np.concatenate([a for _, a in sets]), method="highs")
    if found.x is None:
        raise ValueError(f"laws must have weights that HiGHS can couple, got its answer: {found.message}")
    masses = np.maximum(found.x, 0.0)
    duals, ends = scale * found.eqlin.marginals, np.cumsum(sizes)[:-1]
    # the last potential takes what the others leave, so that the bound holds however the solver rounds
    parts = np.split(duals, ends)
    rest = costs - sum(part[label] for part, label in zip(parts[:-1], labels[:-1], strict=True))
    last = np.array([rest[labels[-1] == k].min() for k in range(sizes[-1])])
    bound = sum(float(part @ a) for part, (_, a) in zip([*parts[:-1], last], sets, strict=True))
    kept = masses > 0
    law = Empirical(means[kept], masses[kept])
    return Barycentre(law, float(masses @ costs), float(bound), 0.0, int(found.nit))


def _checked(laws: Sequence[GaussianMixture], weights: ArrayLike | None) -> Array:
    """The weights w_i, which sum to 1, of laws on one space."""
    one_space(laws)
    w = np.ones(len(laws)) if weights is None else real_array("weights", weights, ndim=(1,))
    if len(w) != len(laws) or (w < 0).any() or not w.sum() > 0:
        raise ValueError(f"weights must be {len(laws)} numbers >= 0, not all 0, got {w.tolist()}")
    return np.asarray(w / w.sum())
