r"""Matrices of components that are no covariances of their own: cross-covariances, their sums, products and slopes.

    L C_k R'        sum of blocks        C_k + A        R_k M_k^-1

Blocks C_k of shape (K or 1, d, d) are stored as `Covariances` are, in diagonals as long as all that enter are.
Sources: DMI-10, RDX-05, of which these are the linear algebra.
"""

from __future__ import annotations

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions.covariances import Covariances, Dense, Diagonal
from refdiff.operators import Operator


def stored(a: Operator) -> Covariances:
    """An operator `a` as the block of all components."""
    return Dense(a[None]) if a.ndim == 2 else Diagonal(a.reshape(1, -1))


def transposed(block: Covariances) -> Covariances:
    """C_k' of each `block`."""
    return Dense(np.swapaxes(block.matrices, 1, 2)) if isinstance(block, Dense) else block


def between(left: Operator, block: Covariances, right: Operator) -> Covariances:
    """L C_k R' of each `block`, for the operators `left` and `right`."""
    if isinstance(block, Diagonal):
        if max(left.ndim, right.ndim) < 2:
            return Diagonal(left * right * block.variances)
        block = Dense(block.dense(max(left.shape[-1:] + right.shape[-1:])))
    inner = operators.product(left, block.matrices)
    return Dense(inner @ right.T if right.ndim == 2 else inner * right)


def total(parts: list[Covariances]) -> Covariances:
    """The sum of blocks, in matrices where one of the `parts` is."""
    diagonals = [part.variances for part in parts if isinstance(part, Diagonal)]
    matrices = [part.matrices for part in parts if isinstance(part, Dense)]
    if not matrices:
        return Diagonal(np.asarray(sum(diagonals[1:], diagonals[0])))
    dim = matrices[0].shape[-1]
    return Dense(np.asarray(sum([Diagonal(one).dense(dim) for one in diagonals] + matrices[1:], matrices[0])))


def plus(block: Covariances, a: Operator) -> Covariances:
    """C_k + A of each `block` with one operator `a`."""
    return total([block, stored(a)])


def slopes(gains: Covariances, spread: Covariances, dim: int) -> Covariances:
    """R_k M_k^-1 on R^dim for the `gains` R_k = Cov(u, x | k) and the `spread` M_k of x: u_k as a function of x.

    Raises:
        ValueError: some M_k is singular.
    """
    inverse = spread.inverse()
    if isinstance(inverse, Diagonal) and isinstance(gains, Diagonal):
        return Diagonal(gains.variances * inverse.variances)
    return Dense(np.asarray(gains.dense(dim) @ inverse.dense(dim)))


def traces(block: Covariances, dim: int) -> Array:
    """tr C_k of each `block` on R^dim, shape (K or 1,)."""
    if isinstance(block, Diagonal):
        sums = block.variances.sum(axis=1)
        return np.asarray(sums * dim if block.variances.shape[1] == 1 else sums)
    return np.asarray(np.trace(block.matrices, axis1=1, axis2=2))
