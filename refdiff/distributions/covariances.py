r"""The covariances of K components, in two storages and four shapes.

    Diagonal   variances (K, 1) isotropic, (K, d) diagonal, (1, d) or (1, 1) shared by all components
    Dense      matrices  (K, d, d) full, (1, d, d) shared by all components

Both answer the same questions about S_k: S_k x, S_k^-1 x, log det S_k, (x - m_k)' S_k^-1 (x - m_k),
A S_k A', S_k + C, and the covariance left after observing y = A x + N(0, C). Singular covariances are kept and
moved freely; only the questions that need an inverse refuse them.

Questions are about points x in d = `dim` dimensions, components `ks` (a slice of the K), `means` (K, d), `labels` (n,)
that say the component of each point, `weights` w_nk (n, K), operators `a` and `c` in any storage. Sources: DMI-10,
RDX-05, PHY-25, of which these are the linear algebra.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from refdiff import operators
from refdiff.arguments import Array
from refdiff.operators import Operator

# Elements of one temporary: 8 MB of float64, about a core's share of cache.
TILE = 2**20
ONE = np.ones(())

NO_DENSITY = (
    "{what} is singular, so the law has no density and no score there "
    "(a point set at sigma = 0, or a covariance without full rank): push it through a noisy channel first"
)
TOO_FAR = "{what} must be near enough to a component for float64, got a log density of -inf"


def tiles(rows: int, count: int, dim: int) -> Iterator[slice]:
    """Slices of `count` components such that a (rows, slice, dim) temporary stays within TILE elements."""
    step = max(1, TILE // max(1, rows * dim))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _of(array: Array, ks: slice) -> Array:
    """The components `ks` of an array whose first axis is K or shared."""
    part: Array = array[ks]
    return array if array.shape[0] == 1 else part


@dataclass(frozen=True, eq=False)
class Diagonal:
    """S_k = diag(v_k); `variances` has shape (K or 1, d or 1)."""

    variances: Array

    def __getitem__(self, index: NDArray[np.intp] | slice) -> Diagonal:
        return self if self.variances.shape[0] == 1 else Diagonal(self.variances[index])

    @cached_property
    def singular(self) -> bool:
        """Whether some S_k has no inverse."""
        return bool((self.variances == 0).any())

    def operator(self) -> Operator:
        """S_1 in the storage it has: a variance or variances (d,)."""
        first: Array = self.variances[0]
        return first.reshape(()) if first.size == 1 else first

    def log_det(self, dim: int) -> Array:
        """log det S_k, shape (K or 1,)."""
        logs = np.log(self.variances)
        return np.asarray(dim * logs[:, 0] if logs.shape[1] == 1 else logs.sum(axis=1))

    def squared_distance(self, x: Array, means: Array) -> Array:
        """(x - m_k)' S_k^-1 (x - m_k), shape (n, K); differences are taken before squaring, so nothing cancels."""
        from scipy.spatial.distance import cdist  # late: a quarter of the time to import this package

        spread = self.variances
        if spread.shape[1] == 1:
            return np.asarray(cdist(x, means, "sqeuclidean") / spread[:, 0])
        if spread.shape[0] == 1:
            return np.asarray(cdist(x, means, "sqeuclidean", w=1 / spread[0]))
        result = np.empty((len(x), len(means)))
        for ks in tiles(len(x), *means.shape):
            delta = x[:, None, :] - means[ks]
            result[:, ks] = np.einsum("nkd,nkd,kd->nk", delta, delta, 1 / spread[ks])
        return result

    def multiply(self, x: Array, ks: slice) -> Array:
        """S_k x for x of shape (n, k, d)."""
        return x * _of(self.variances, ks)

    def solve(self, x: Array, ks: slice) -> Array:
        """S_k^-1 x for x of shape (n, k, d)."""
        return x / _of(self.variances, ks)

    def inverse(self) -> Diagonal:
        """S_k^-1."""
        return Diagonal(1 / self.variances)

    def colour(self, z: Array, labels: NDArray[np.intp]) -> Array:
        """Unit normals z (n, d) turned into draws of N(0, S_label)."""
        return z * np.sqrt(self[labels].variances)

    def sandwich(self, a: Operator) -> Covariances:
        """A S_k A'."""
        if a.ndim < 2:
            return Diagonal(a * a * self.variances)
        spread = np.broadcast_to(self.variances, (len(self.variances), a.shape[1]))
        return Dense((a * spread[:, None, :]) @ a.T)

    def plus(self, c: Operator, dim: int) -> Covariances:
        """S_k + C."""
        if c.ndim < 2:
            return Diagonal(self.variances + c)
        return Dense(self.dense(dim) + c)

    def after(self, a: Operator, c: Operator, dim: int) -> Covariances:
        """The covariance of x given y = A x + N(0, C):  v c / (a^2 v + c) on diagonals."""
        if max(a.ndim, c.ndim) == 2:
            return Dense(self.dense(dim)).after(a, c, dim)
        total = a * a * self.variances + c
        # v / total first: v c may overflow or underflow where v c / total does not
        ratio = np.divide(self.variances, total, out=np.zeros(total.shape), where=total > 0)
        return Diagonal(np.where(total > 0, ratio * c, self.variances))

    def gain(self, a: Operator, observed: Covariances, dim: int) -> Covariances:
        """G_k = S_k A' T_k^-1, the regression of x on y, where `observed` holds T_k = A S_k A' + C."""
        if isinstance(observed, Dense):
            return Dense(self.dense(dim)).gain(a, observed, dim)
        return Diagonal(a * self.variances / observed.variances)

    def marginal(self, kept: NDArray[np.intp]) -> Diagonal:
        """The covariances of the coordinates `kept`."""
        return self if self.variances.shape[1] == 1 else Diagonal(self.variances[:, kept])

    def dense(self, dim: int) -> Array:
        """The matrices, shape (K or 1, d, d)."""
        return np.eye(dim) * np.broadcast_to(self.variances, (len(self.variances), dim))[:, None, :]

    def average(self, weights: Array, dim: int) -> Array:
        """sum_k w_nk S_k, shape (n, d, d)."""
        spread = np.broadcast_to(_weighted(weights, self.variances), (len(weights), dim))
        return np.eye(dim) * spread[:, None, :]

    def average_trace(self, weights: Array, dim: int, left: Operator = ONE) -> Array:
        """sum_k w_nk tr(A S_k) with the operator `left` for A, shape (n,)."""
        share = np.broadcast_to(np.diag(left) if left.ndim == 2 else left, (dim,))
        traces = self.variances[:, 0] * share.sum() if self.variances.shape[1] == 1 else self.variances @ share
        return _weighted(weights, traces)


@dataclass(frozen=True, eq=False)
class Dense:
    """S_k as symmetric positive semi-definite matrices, shape (K or 1, d, d)."""

    matrices: Array

    def __getitem__(self, index: NDArray[np.intp] | slice) -> Dense:
        return self if self.matrices.shape[0] == 1 else Dense(self.matrices[index])

    @cached_property
    def factor(self) -> Array | None:
        """Lower Cholesky factors, or None where a pivot is lost to rounding: the matrix is singular."""
        try:
            factor = np.asarray(np.linalg.cholesky(self.matrices), dtype=np.float64)
        except np.linalg.LinAlgError:
            return None
        pivots = np.diagonal(factor, axis1=1, axis2=2) ** 2
        scale = np.diagonal(self.matrices, axis1=1, axis2=2)
        # a pivot is the variance left after the earlier coordinates; d eps of the whole is what rounding leaves
        return None if (pivots <= pivots.shape[1] * np.finfo(float).eps * scale).any() else factor

    @cached_property
    def singular(self) -> bool:
        """Whether some S_k has no inverse up to rounding."""
        return self.factor is None

    @cached_property
    def whitener(self) -> Array:
        """L_k^-1 with S_k = L_k L_k', shape (K or 1, d, d).

        Raises:
            ValueError: some S_k is singular.
        """
        if self.factor is None:
            raise ValueError(NO_DENSITY.format(what="covariance"))
        return np.asarray(np.linalg.inv(self.factor))

    def operator(self) -> Operator:
        """S_1 as a matrix (d, d)."""
        first: Array = self.matrices[0]
        return first

    def log_det(self, dim: int) -> Array:  # noqa: ARG002  (the dimension is in the matrices)
        """log det S_k, shape (K or 1,)."""
        return np.asarray(-2 * np.log(np.diagonal(self.whitener, axis1=1, axis2=2)).sum(axis=1))

    def squared_distance(self, x: Array, means: Array) -> Array:
        """(x - m_k)' S_k^-1 (x - m_k), shape (n, K), as |L_k^-1 (x - m_k)|^2."""
        result = np.empty((len(x), len(means)))
        for ks in tiles(len(x), *means.shape):
            white = _apply(_of(self.whitener, ks), x[:, None, :] - means[ks])
            result[:, ks] = np.einsum("nkd,nkd->nk", white, white)
        return result

    def multiply(self, x: Array, ks: slice) -> Array:
        """S_k x for x of shape (n, k, d)."""
        return _apply(_of(self.matrices, ks), x)

    def solve(self, x: Array, ks: slice) -> Array:
        """S_k^-1 x for x of shape (n, k, d)."""
        white = _of(self.whitener, ks)
        return _apply(np.swapaxes(white, 1, 2), _apply(white, x))

    def inverse(self) -> Dense:
        """S_k^-1."""
        return Dense(np.swapaxes(self.whitener, 1, 2) @ self.whitener)

    def colour(self, z: Array, labels: NDArray[np.intp]) -> Array:
        """Unit normals z (n, d) turned into draws of N(0, S_label); eigenvectors serve where Cholesky cannot."""
        factor = self.factor
        if factor is None:
            values, vectors = np.linalg.eigh(self.matrices)
            factor = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
        if len(factor) == 1:
            return np.asarray(z @ factor[0].T)
        result = np.empty_like(z)
        for k in np.unique(labels):
            result[labels == k] = z[labels == k] @ factor[k].T
        return result

    def sandwich(self, a: Operator) -> Dense:
        """A S_k A'."""
        if a.ndim == 2:
            return Dense(_symmetric(a @ self.matrices @ a.T))
        return Dense(a[..., None] * self.matrices * a if a.ndim == 1 else a * a * self.matrices)

    def plus(self, c: Operator, dim: int) -> Dense:
        """S_k + C."""
        return Dense(self.matrices + operators.dense(c, dim))

    def after(self, a: Operator, c: Operator, dim: int) -> Dense:
        """The covariance of x given y = A x + N(0, C), in Joseph's form.

        (I - G A) S (I - G A)' + G C G' with G = S A' (A S A' + C)^-1: a sum of two positive semi-definite terms,
        where S - G A S is a difference that loses definiteness when C is small.
        """
        matrix = operators.dense(a, dim)
        noise = operators.dense(c, len(matrix))
        observed = self.sandwich(matrix).plus(c, len(matrix))
        gain = self.gain(a, observed, dim).matrices
        kept = np.eye(dim) - gain @ matrix
        # what rounding leaves of an exact zero, in units of the standard deviations: solving multiplies it by cond(T)
        std = np.sqrt(np.diagonal(self.matrices, axis1=1, axis2=2))
        zero = 4 * dim * np.finfo(float).eps * np.linalg.cond(observed.matrices)[:, None, None]
        kept[np.abs(kept) * std[:, None, :] <= zero * std[:, :, None]] = 0.0
        joseph = kept @ self.matrices @ np.swapaxes(kept, 1, 2) + gain @ noise @ np.swapaxes(gain, 1, 2)
        return Dense(_symmetric(joseph))

    def gain(self, a: Operator, observed: Covariances, dim: int) -> Dense:
        """G_k = S_k A' T_k^-1, the regression of x on y, where `observed` holds T_k = A S_k A' + C.

        Raises:
            ValueError: some T_k is singular.
        """
        if observed.singular:
            raise ValueError(NO_DENSITY.format(what="the covariance of y"))
        matrix = operators.dense(a, dim)
        # solved, not multiplied by an inverse: a factor cond(T) less rounding
        adjoint = np.linalg.solve(observed.dense(len(matrix)), matrix @ self.matrices)
        return Dense(np.swapaxes(adjoint, 1, 2))

    def marginal(self, kept: NDArray[np.intp]) -> Dense:
        """The covariances of the coordinates `kept`."""
        return Dense(self.matrices[:, kept[:, None], kept])

    def dense(self, dim: int) -> Array:  # noqa: ARG002
        """The matrices, shape (K or 1, d, d)."""
        return self.matrices

    def average(self, weights: Array, dim: int) -> Array:
        """sum_k w_nk S_k, shape (n, d, d)."""
        return _weighted(weights, self.matrices.reshape(-1, dim * dim)).reshape(-1, dim, dim)

    def average_trace(self, weights: Array, dim: int, left: Operator = ONE) -> Array:
        """sum_k w_nk tr(A S_k) with the operator `left` for A, shape (n,)."""
        if left.ndim == 2:
            return _weighted(weights, np.einsum("ij,kji->k", left, self.matrices))
        return _weighted(weights, np.diagonal(self.matrices, axis1=1, axis2=2) @ np.broadcast_to(left, (dim,)))


Covariances: TypeAlias = Diagonal | Dense


def _weighted(weights: Array, values: Array) -> Array:
    """sum_k w_nk values_k, where one value may be shared by all k."""
    if len(values) == 1:
        return np.asarray(np.multiply.outer(weights.sum(axis=1), values[0]))
    return weights @ values


def _apply(matrices: Array, x: Array) -> Array:
    """M_k x_nk for matrices (k or 1, e, d) and points (n, k, d)."""
    if len(matrices) == 1:
        return np.asarray(x @ matrices[0].T)
    return np.asarray(np.swapaxes(np.swapaxes(x, 0, 1) @ np.swapaxes(matrices, 1, 2), 0, 1))


def _symmetric(matrices: Array) -> Array:
    return np.asarray(0.5 * (matrices + np.swapaxes(matrices, -1, -2)))
