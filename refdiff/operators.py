r"""Linear operators in three storages: a scalar a, a diagonal (d,), a matrix (k, d).

    apply(A, x)       A x                      sandwich(A, S)  A S A'
    product(A, B)     A B                      dense(A, d)     the matrix
    add(A, B)         A + B                    rows(A, d)      the dimension that A maps R^d into
    inverse(A)        A^-1                     root(C)         the symmetric R with R R = C

This module knows which storage an operator has; what stands on it (covariances, channels) asks here. Functions that
check a `value` are given the `name` that messages call it by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array

Operator = Array


def operator(name: str, value: ArrayLike) -> Operator:
    """A scalar, a diagonal or a matrix, as a finite float64 array.

    Raises:
        ValueError: it is empty, has more dimensions or is not finite.
    """
    array = real_array(name, value, ndim=(0, 1, 2))
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    return array


def covariance(name: str, value: ArrayLike) -> Operator:
    """A variance >= 0, variances (d,) >= 0, or a symmetric positive semi-definite (d, d) matrix.

    Semi-definite is meant up to rounding: eigenvalues down to -8 d eps times the largest one are taken as zero.

    Raises:
        ValueError: a variance is negative, or the matrix is not square, symmetric and semi-definite.
    """
    array = operator(name, value)
    if array.ndim < 2:
        if (array < 0).any():
            raise ValueError(f"{name} must not be negative, got {array.min()}")
        return array
    return semi_definite(name, array)


def semi_definite(name: str, matrices: Array) -> Array:
    """Stacked (..., d, d) matrices, symmetrised, after a check that they are positive semi-definite.

    Raises:
        ValueError: one is not square, not symmetric or has a negative eigenvalue.
    """
    if matrices.shape[-1] != matrices.shape[-2]:
        raise ValueError(f"{name} must be square, got shape {matrices.shape}")
    mirrored = np.swapaxes(matrices, -1, -2)
    size = np.abs(matrices).max(axis=(-1, -2), keepdims=True)
    # 1e-8: a covariance that passed through float32 or a text file is still symmetric to this
    if (np.abs(matrices - mirrored) > 1e-8 * size).any():
        raise ValueError(f"{name} must be symmetric, got a difference of {np.abs(matrices - mirrored).max()}")
    symmetric: Array = 0.5 * (matrices + mirrored)
    try:
        np.linalg.cholesky(symmetric)
    except np.linalg.LinAlgError:  # singular or indefinite: only the eigenvalues tell
        values = np.linalg.eigvalsh(symmetric)
        slack = 8 * matrices.shape[-1] * np.finfo(float).eps * values[..., -1:]  # they increase
        if (values < -slack).any():
            raise ValueError(f"{name} must be positive semi-definite, got the eigenvalue {values.min()}") from None
    return symmetric


def rows(a: Operator, dim: int) -> int:
    """The dimension that `a` maps R^dim into."""
    return a.shape[0] if a.ndim == 2 else dim


def fits(name: str, a: Operator, dim: int) -> None:
    """Check that `a` acts on R^dim.

    Raises:
        ValueError: it acts on another dimension.
    """
    if a.ndim > 0 and a.shape[-1] != dim:
        raise ValueError(f"{name} of shape {a.shape} does not act on dimension {dim}")


def apply(a: Operator, x: Array) -> Array:
    """A x for points x of shape (..., d)."""
    return x @ a.T if a.ndim == 2 else a * x


def product(a: Operator, b: Operator) -> Operator:
    """A B of the operators a and b; b may be stacked matrices (..., d, d) too."""
    if a.ndim < 2:
        return a[..., None] * b if a.ndim == 1 and b.ndim >= 2 else a * b
    return a @ b if b.ndim >= 2 else a * b


def add(a: Operator, b: Operator) -> Operator:
    """A + B of the operators a and b; where one is a matrix it says the dimension."""
    if max(a.ndim, b.ndim) < 2:
        return a + b
    dim = len(a) if a.ndim == 2 else len(b)
    return dense(a, dim) + dense(b, dim)


def sandwich(a: Operator, s: Operator) -> Operator:
    """A S A' of the operators a and s."""
    if max(a.ndim, s.ndim) < 2:
        return a * a * s
    if a.ndim == 2:
        return product(a, s) @ a.T
    return a * s * a if a.ndim == 0 else a[:, None] * s * a


def inverse(a: Operator) -> Operator:
    """A^-1 of an operator a."""
    return np.asarray(np.linalg.inv(a) if a.ndim == 2 else 1 / a)


def singular(a: Operator) -> bool:
    """Whether an operator a has no inverse, up to rounding and with its axes in whatever units."""
    if a.ndim < 2:
        return bool((a == 0).any())
    scaled = a
    for axis in (1, 0):
        size = np.linalg.norm(scaled, axis=axis, keepdims=True)
        scaled = scaled / np.where(size > 0, size, 1.0)
    return bool(np.linalg.svd(scaled, compute_uv=False)[-1] <= len(a) * np.finfo(float).eps)


def root(c: Operator) -> Operator:
    """The symmetric R with R R = c, for a positive semi-definite operator c (eigenvalues below 0 count as 0)."""
    if c.ndim < 2:
        return np.asarray(np.sqrt(np.maximum(c, 0.0)))
    values, vectors = np.linalg.eigh(c)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def dense(a: Operator, dim: int) -> Array:
    """The matrix (k, dim) of an operator on R^dim."""
    return a if a.ndim == 2 else np.diag(np.broadcast_to(a, (dim,)))
