r"""Chains on the line as matrices: what ULA and MALA keep for any mixture, and how fast, by quadrature.

    (T f)(x) = int k(x, y) f(y) dy ~ sum_j T_ij f(x_j),      T_ij = k(x_i, x_j) w,  rows of sum 1

ULA's k is N(y; x + h s(x), 2 h), smooth: a trapezoidal rule finer than sqrt(2 h) has its stationary law and its second
eigenvalue to rounding. MALA's is that times the acceptance, and the rest stays at x; min(1, .) has a kink, so that the
second eigenvalue is right to the square of the spacing, while detailed balance holds node by node. 1 - |second
eigenvalue| = h lambda_1 + O(h^2) with the generator's lambda_1 (`mixing`). Sources: PODA-306, PODA-309.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import eigs

from refdiff.arguments import Array, real_array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.langevin.adjusted import Place, Proposal
from refdiff.langevin.line import stds
from refdiff.langevin.preconditioner import Preconditioner
from refdiff.langevin.target import target_of

REACH = 9.0
SMOOTH, KINKED = 1.5, 8.0  # nodes in a standard deviation of the step: e^(-2 pi^2 1.5^2) = 5e-20
LEAVING = 1e-9  # what a step may take beyond the nodes of the target's mass
MOST = 4000  # nodes: a matrix of 128 MB


@dataclass(frozen=True, eq=False)
class LineChain:
    """A Markov chain on nodes of the line.

    Attributes:
        x: the nodes, shape (n,), a `spacing` apart.
        spacing: their distance.
        matrix: T, shape (n, n): the probabilities of going from a node to another one.
        law: the target.
    """

    x: Array
    spacing: float
    matrix: Array
    law: GaussianMixture

    @cached_property
    def target(self) -> Array:
        """The target's masses at the nodes, shape (n,)."""
        masses = np.exp(self.law.logpdf(self.x[:, None]))
        return np.asarray(masses / masses.sum())

    @cached_property
    def stationary(self) -> Array:
        """The masses at the nodes that the chain keeps, shape (n,): its left eigenvector of the eigenvalue 1."""
        # w T = w with the sum of w in place of one of the equations, which depend on each other
        system = self.matrix.T - np.eye(len(self.x))
        row = int(np.argmax(self.target))
        system[row] = 1.0
        right = np.zeros(len(self.x))
        right[row] = 1.0
        return np.asarray(np.linalg.solve(system, right))

    @cached_property
    def second_eigenvalue(self) -> float:
        """The largest |eigenvalue| but 1: what one step of many leaves of a distance, up to 1e-14 by rounding.

        Where barriers leave less than that of a rate, `mixing` has the generator's, without a step.
        """
        found = eigs(self.matrix, 2, v0=np.ones(len(self.x)), return_eigenvectors=False, tol=0)
        return float(np.sort(np.abs(found))[0])

    def after(self, steps: int, start: ArrayLike) -> Array:
        """Masses at the nodes after so many `steps` from the masses `start`, both (n,)."""
        masses = real_array("start", start, ndim=(1,))
        for _ in range(whole_number("steps", steps)):
            masses = masses @ self.matrix
        return masses

    def total_variation(self, masses: ArrayLike) -> float:
        """The total variation between `masses` (n,) at the nodes and the target's."""
        return float(np.abs(real_array("masses", masses, ndim=(1,)) - self.target).sum() / 2)

    def moment(self, masses: ArrayLike, power: int) -> float:
        """E x^power of `masses` (n,) at the nodes; power is a whole number."""
        return float(real_array("masses", masses, ndim=(1,)) @ self.x ** whole_number("power", power))


def unadjusted_chain(law: GaussianMixture, step_size: float, fineness: float = SMOOTH) -> LineChain:
    """The unadjusted Langevin algorithm on the line.

    Args:
        law: the target, a mixture with a density, d = 1.
        step_size: h > 0.
        fineness: nodes in sqrt(2 h), and at least in the least standard deviation of the law.

    Raises:
        TypeError: no law.
        ValueError: it is not on the line, has no density, or needs too many nodes; or chains leave the nodes, which
            reach nine standard deviations beyond the components: the step is not stable.
    """
    x, spacing, proposal = _nodes(law, step_size, fineness, None)
    place = proposal.at(x[:, None])
    away = x - place.mean
    h = proposal.h
    matrix = spacing * np.exp(-(away**2) / (4 * h)) / np.sqrt(4 * np.pi * h)
    total = matrix.sum(axis=1)
    if np.exp(place.log_density) @ np.abs(1 - total) * spacing > LEAVING:
        raise ValueError(f"step_size must keep chains near the law, got {h}, at which they leave it")
    return LineChain(x, spacing, matrix / np.maximum(total, np.finfo(float).tiny)[:, None], law)


def adjusted_chain(
    law: GaussianMixture, step_size: float, *, truncation: float | None = None, fineness: float = KINKED
) -> LineChain:
    """The Metropolis-adjusted Langevin algorithm on the line.

    Args:
        law: the target, a mixture with a density, d = 1.
        step_size: h > 0.
        truncation: the length that longer scores are shortened to (MALTA), or None.
        fineness: nodes in sqrt(2 h), and at least in the least standard deviation of the law.

    Raises:
        TypeError: no law.
        ValueError: it is not on the line, has no density, or needs too many nodes.
    """
    x, spacing, proposal = _nodes(law, step_size, fineness, truncation)
    n = len(x)
    place = proposal.at(x[:, None])
    matrix = np.empty((n, n))
    for i in range(n):  # all at once would take ten such matrices
        start = _taken(place, np.full(n, i))
        matrix[i] = proposal.log_density(start, place.x) + np.minimum(proposal.log_ratio(start, place), 0.0)
    matrix = spacing * np.exp(matrix) / np.sqrt(4 * np.pi * proposal.h)
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return LineChain(x, spacing, matrix, law)


def _taken(place: Place, rows: NDArray[np.intp]) -> Place:
    return Place(place.x[rows], place.log_density[rows], place.mean[rows], place.local)


def _nodes(
    law: GaussianMixture, step_size: float, fineness: float, truncation: float | None
) -> tuple[Array, float, Proposal]:
    std = stds(law)
    proposal = Proposal(target_of(law), step_size, Preconditioner(), truncation)
    per = real_scalar("fineness", fineness, low=1)
    low, high = float((law.means[:, 0] - REACH * std).min()), float((law.means[:, 0] + REACH * std).max())
    spacing = min(np.sqrt(2 * proposal.h), float(std.min())) / per
    count = int((high - low) / spacing) + 2
    if count > MOST:
        raise ValueError(f"step_size must need at most {MOST} nodes, got {proposal.h}, which needs {count}")
    return low + spacing * np.arange(count), spacing, proposal
