r"""Preconditioners of Langevin's equation: a symmetric M and an antisymmetric Q, constant or functions of the point.

    dx = [(M + Q) grad log p + div(M + Q)] dt + sqrt(2) M^(1/2) dw,       (div A)_i = sum_j d_j A_ij

keeps p: its probability current is -div(p Q) by rows, which has no divergence as Q is antisymmetric, and none at all
where Q = 0. Without the divergence of a state-dependent M the equation keeps another law: on the line p / M, made one.
Sources: PODA-307, RDX-41, RDX-43; Ma, Chen and Fox 2015; Roberts and Stramer 2002.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff import operators
from refdiff.arguments import Array, answered
from refdiff.operators import Operator

Field = Callable[[Array], ArrayLike]
SKEW = 1e-8  # what a text file leaves of Q' = -Q


class Local(NamedTuple):
    """A preconditioner at points x (n, d), which differs among them where it `varies`.

    matrix is M and root R with R R' = M: operators (), (d,), (d, d), or where it varies diagonals (n, d) or matrices
    (n, d, d). skew is Q in the same storages, divergence div(M + Q), shape (n, d) or 0.
    """

    matrix: Array
    root: Array
    skew: Array
    divergence: Array
    varies: bool

    def drift(self, score: Array) -> Array:
        """(M + Q) grad log p + div(M + Q) for the score (n, d) at the points, shape (n, d)."""
        return self._times(self.matrix, score) + self._times(self.skew, score) + self.divergence

    def colour(self, normals: Array) -> Array:
        """R z of normals z (n, d), shape (n, d)."""
        return self._times(self.root, normals)

    def whitened(self, x: Array) -> Array:
        """R^-1 x of vectors x (n, d), shape (n, d)."""
        if self.root.ndim < 2 or (self.varies and self.root.ndim == 2):
            return x / self.root
        return np.asarray(np.linalg.solve(self.root, x[..., None])[..., 0] if self.varies
                          else np.linalg.solve(self.root, x.T).T)  # fmt: skip

    def log_det(self) -> Array:
        """log det M / 2 where M varies, shape (n,), up to a constant where it does not, which cancels."""
        if not self.varies:
            return np.zeros(())
        diagonal = self.root if self.root.ndim == 2 else np.diagonal(self.root, axis1=1, axis2=2)
        return np.asarray(np.log(diagonal).sum(axis=1))

    def only(self, rows: NDArray[np.bool_], other: Local) -> Local:
        """This at the points where `rows` (n,) is true, and `other` at the rest."""
        if not self.varies:
            return self
        matrix, root, skew, divergence = (
            np.where(rows.reshape(-1, *[1] * (one.ndim - 1)), one, two)
            for one, two in zip(self[:4], other[:4], strict=True)
        )
        return Local(matrix, root, skew, divergence, True)

    def _times(self, a: Array, x: Array) -> Array:
        if self.varies and a.ndim == 3:
            return np.asarray(np.einsum("nij,nj->ni", a, x))
        return np.asarray(a * x) if self.varies else operators.apply(a, x)


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """M and Q of Langevin's equation on R^d.

    Args:
        matrix: M, a positive number, (d,) or (d, d), or a function of x (n, d) with values (n, d) or (n, d, d).
        skew: Q, 0 or antisymmetric (d, d), or a function with values (n, d, d).
        divergence: x (n, d) -> div(M + Q), shape (n, d): needed where M or Q is a function.

    Raises:
        TypeError: the divergence is no function.
        ValueError: M is not positive semi-definite, Q not antisymmetric, or a divergence is missing or too much.
    """

    matrix: ArrayLike | Field = 1.0
    skew: ArrayLike | Field = 0.0
    divergence: Field | None = None

    def __post_init__(self) -> None:
        if not callable(self.matrix):
            object.__setattr__(self, "matrix", operators.covariance("matrix", self.matrix))
        if not callable(self.skew):
            q = operators.operator("skew", self.skew)
            if q.ndim != 2 and q.any():
                raise ValueError(f"skew must be 0 or a matrix (d, d), got shape {q.shape}")
            object.__setattr__(self, "skew", _antisymmetric(q) if q.ndim == 2 else np.zeros(()))
        if self.divergence is not None and not callable(self.divergence):
            raise TypeError(f"divergence must be a function, got {self.divergence!r}")
        if self.varies != (self.divergence is not None):
            which = "given where matrix or skew is a function" if self.varies else "left out where both are constant"
            raise ValueError(f"divergence must be {which}")

    @property
    def varies(self) -> bool:
        """Whether M or Q depends on the point."""
        return callable(self.matrix) or callable(self.skew)

    def fits(self, dim: int) -> Preconditioner:
        """Itself, if it acts on R^dim.

        Raises:
            ValueError: it does not.
        """
        for name in ("matrix", "skew"):
            part = getattr(self, name)
            if not callable(part):
                operators.fits(name, part, dim)
        return self

    def at(self, x: Array) -> Local:
        """M, a root of it, Q and the divergence at points x (n, d).

        Raises:
            ValueError: a function answers with another shape, M is not positive definite there, or Q not antisymmetric.
        """
        if not self.varies:
            matrix, skew = np.asarray(self.matrix), np.asarray(self.skew)
            return Local(matrix, operators.root(matrix), skew, np.zeros(()), False)
        matrix = self._evaluated("matrix", x)
        if callable(self.matrix):
            root = _positive_root(matrix)
        else:  # it may be singular
            root = np.broadcast_to(operators.root(np.asarray(self.matrix)), matrix.shape)
        skew = self._evaluated("skew", x)
        skew = skew if skew.ndim == 2 else _antisymmetric(skew)
        assert self.divergence is not None  # varies
        return Local(matrix, root, skew, answered("divergence", self.divergence(x), x.shape, finite=True), True)

    def _evaluated(self, name: str, x: Array) -> Array:
        """M or Q at every point: diagonals (n, d) or matrices (n, d, d)."""
        part, (n, d) = getattr(self, name), x.shape
        if not callable(part):
            return np.broadcast_to(part, (n, d, d) if part.ndim == 2 else (n, d))
        found = np.asarray(part(x))
        matrices = found.ndim == 3 or name == "skew"
        return answered(name, found, (n, d, d) if matrices else (n, d), finite=True)


def preconditioner_of(value: Preconditioner | ArrayLike, dim: int) -> Preconditioner:
    """A preconditioner on R^dim from a `value` that is one, or a constant M: a number, (d,) or (d, d).

    Raises:
        TypeError: M is no array of numbers.
        ValueError: M is not positive semi-definite, or acts on another dimension.
    """
    return (value if isinstance(value, Preconditioner) else Preconditioner(value)).fits(dim)


def constant(preconditioner: Preconditioner) -> tuple[Operator, Operator]:
    """M and Q of a constant preconditioner.

    Raises:
        ValueError: it depends on the point.
    """
    if preconditioner.varies:
        raise ValueError("preconditioner must be constant here, got one that depends on the point")
    return np.asarray(preconditioner.matrix), np.asarray(preconditioner.skew)


def _positive_root(matrix: Array) -> Array:
    """R with R R' = M of diagonals (n, d) or matrices (n, d, d) that a function answered."""
    if matrix.ndim == 2:
        if not (matrix > 0).all():
            raise ValueError(f"matrix must answer with positive diagonals, got {matrix.min()}")
        return np.asarray(np.sqrt(matrix))
    try:
        return np.asarray(np.linalg.cholesky(operators.semi_definite("matrix", matrix)))
    except np.linalg.LinAlgError:
        raise ValueError("matrix must answer with positive definite matrices, got a singular one") from None


def _antisymmetric(q: Array) -> Array:
    if q.shape[-1] != q.shape[-2]:
        raise ValueError(f"skew must be square, got shape {q.shape}")
    mirrored = np.swapaxes(q, -1, -2)
    if (np.abs(q + mirrored) > SKEW * np.abs(q).max(initial=0.0)).any():
        raise ValueError(f"skew must be antisymmetric, got a sum with its transpose of {np.abs(q + mirrored).max()}")
    return np.asarray((q - mirrored) / 2)
