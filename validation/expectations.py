r"""Expectations without sampling, by two routes that share no point and no density.

    Grid     sums over x_t against the exact p_t, trapezoidal, in one or two dimensions
    Joint    sums over (x_0, eps), exact for polynomials: Gauss-Hermite of degree 7 where d <= 2, of degree 3 above

A `Cubic` is a polynomial test field with a closed divergence, so that what a network would be trained to minimise is
an exact sum over (x_0, eps), and what that loss is said to equal a sum over x_t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.validation.cases import ModelCase
from refdiff.validation.numeric import hermite, lattice, product_rule

REACH = 8.5  # standard deviations beyond the outermost components: 2e-17 of the mass is left out
FINE = {1: 10, 2: 6}  # trapezoidal nodes in the least standard deviation for each dimension, see `Grid`
MOST = 320_000  # nodes times components, which take some tens of milliseconds


@dataclass(frozen=True, eq=False)
class Grid:
    """Trapezoidal sums against p_t in one or two dimensions: nodes x (n, d), each for a cell of this length or area.

    The sums converge like e^(-2 pi y / h), with y the distance of the nearest pole. Two components of deviation s at
    distance r s give the score poles at y = pi s / r, where the density has fallen to e^(-r^2 / 8) of its peak: with
    h = s / 6 the product is below e^-22 for every r, with h = s / 10 below e^-31.
    """

    case: ModelCase
    t: float
    x: Array
    cell: float

    @cached_property
    def weights(self) -> Array:
        """p_t(x) dx, shape (n,)."""
        return np.asarray(np.exp(self.case.model.log_density(self.x, self.t)) * self.cell)

    @property
    def score(self) -> Array:
        """The score at the nodes, shape (n, d)."""
        return self.answer("score")

    @cached_property
    def variance(self) -> Array:
        """The posterior variances of the coordinates of x_0 at the nodes, by Bayes, shape (n, d)."""
        return np.diagonal(self.case.model.posterior_covariance(self.x, self.t), axis1=1, axis2=2)

    @cached_property
    def _answers(self) -> dict[str, Array]:
        return {}

    def answer(self, name: str) -> Array:
        """The model's prediction of that name at the nodes, shape (n, d)."""
        if name not in self._answers:
            self._answers[name] = np.asarray(getattr(self.case.model, name)(self.x, self.t))
        return self._answers[name]

    def mean(self, values: Array) -> Array:
        """E values(x_t) from values at the nodes, shape (n, ...)."""
        return np.asarray(self.weights @ values)

    def square(self, values: Array) -> Array:
        """E u u', shape (d, d), from the values u (n, d) at the nodes."""
        return np.asarray((self.weights[:, None] * values).T @ values)


def axes(law: GaussianMixture) -> list[tuple[float, float, int]]:
    """Start, step and number of the nodes on each axis for a law with a density."""
    matrices = law.covariances.dense(law.dim)
    step = float(np.sqrt(np.linalg.eigvalsh(matrices).min())) / FINE[law.dim]
    reach = REACH * np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    low, high = (law.means - reach).min(axis=0), (law.means + reach).max(axis=0)
    return [(float(a), step, int((b - a) / step) + 2) for a, b in zip(low, high, strict=True)]


@lru_cache(maxsize=24)
def grid(case: ModelCase, t: float) -> Grid:
    """The nodes for p_t."""
    lines = [start + step * np.arange(count) for start, step, count in axes(case.model.marginal(t))]
    return Grid(case, t, lattice(*lines), float(np.prod([line[1] - line[0] for line in lines])))


def small(case: ModelCase) -> bool:
    """Whether p_t fits on a grid."""
    if case.law.dim > 2:
        return False
    return bool(np.prod([count for _, _, count in axes(case.model.marginal(case.t))]) * case.law.count <= MOST)


@dataclass(frozen=True)
class Cubic:
    """The gradient field size (constant + linear u + square u^2 + cube u^3), u = (x - centre) / width.

    All are vectors (d,), taken entry by entry, but for `linear`, a symmetric matrix (d, d).
    """

    centre: Array
    width: float
    size: float
    constant: Array
    linear: Array
    square: Array
    cube: Array

    def at(self, law: GaussianMixture) -> Cubic:
        """The same field on the place and scale of another law."""
        return replace(self, centre=law.mean(), width=float(np.sqrt(np.trace(law.cov()) / law.dim)))

    def __call__(self, x: Array) -> Array:
        """The field at x (n, d)."""
        u = (x - self.centre) / self.width
        return self.size * (self.constant + u @ self.linear + self.square * u**2 + self.cube * u**3)

    def divergence(self, x: Array) -> Array:
        """Its divergence, shape (n,)."""
        u = (x - self.centre) / self.width
        slopes = np.diagonal(self.linear) + 2 * self.square * u + 3 * self.cube * u**2
        return np.asarray(self.size / self.width * slopes.sum(axis=1))


def cubics(case: ModelCase, size: float, degree: int = 3) -> list[Cubic]:
    """Two random fields, of that size where p_t has its mass; degree 1 leaves the square and the cube out."""
    rng, d, law = case.rng, case.law.dim, case.model.marginal(case.t)
    higher = np.array([[0.3], [0.1]]) if degree == 3 else np.zeros((2, 1))

    def draw() -> Cubic:
        linear, diagonals = rng.standard_normal((d, d)), higher * rng.standard_normal((2, d))
        return Cubic(np.zeros(d), 1.0, size, rng.standard_normal(d), (linear + linear.T) / 2, *diagonals).at(law)

    return [draw(), draw()]


@dataclass(frozen=True, eq=False)
class Joint:
    """Nodes x0, eps, xt (n, d) and weights (n,): exact for polynomials, of degree 7 where d <= 2 and 3 above."""

    x0: Array
    eps: Array
    xt: Array
    weights: Array

    def mean(self, values: Array) -> Array:
        """E values(x_0, eps) from values at the nodes, shape (n, ...)."""
        return np.asarray(self.weights @ values)

    def square(self, values: Array) -> Array:
        """E u u', shape (d, d), from the values u (n, d) at the nodes."""
        return np.asarray((self.weights[:, None] * values).T @ values)


@lru_cache(maxsize=24)
def joint(case: ModelCase, t: float) -> Joint:
    """The nodes for (x_0, eps) at time t."""
    law, c = case.law, case.process.coefficients(t)
    z, w = normal_nodes(2 * law.dim)
    labels = np.repeat(np.arange(law.count), len(z))
    z, w = np.tile(z, (law.count, 1)), np.tile(w, law.count) * law.weights[labels]
    x0 = law.means[labels] + law.covariances.colour(z[:, : law.dim], labels)
    eps = z[:, law.dim :]
    return Joint(x0, eps, c.alpha * x0 + c.sigma * eps, w)


def normal_nodes(dim: int) -> tuple[Array, Array]:
    """Nodes (n, dim), weights (n,) for N(0, I): Gauss-Hermite of degree 7; +-sqrt(dim) e_j, degree 3, for dim > 4."""
    if dim > 4:
        nodes = np.sqrt(dim) * np.eye(dim)
        return np.concatenate([nodes, -nodes]), np.full(2 * dim, 1 / (2 * dim))
    return product_rule(hermite(4), dim)
