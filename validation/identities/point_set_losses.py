r"""Denoising score matching on point sets under matrix SDEs: Vincent's identity, its constant, and dropped weights.

For x_t = K x_0 + k + N(0, Sigma), data on points x_i with weights w_i that need not sum to 1, and any field s,

    sum_i w_i E_i |s - grad log p(x_t | x_i)|^2  =  sum_i w_i ( E |s - grad log p_t|^2 - C )

    C = E |grad log p_t|^2 - tr Sigma^-1 = -E tr( Sigma^-1 K Cov[x_0 | x_t] K' Sigma^-1 )  <=  0

with E_i over x_t given x_i and E over its law. For one point C = 0, and the optimum grad log p(x_t | x_0) loses
nothing. Dropping the normalisation scales the loss, and C with it, and leaves the optimum where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Empirical
from refdiff.model import ExactModel
from refdiff.processes import LinearProcess
from refdiff.validation.cases import Case
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import well_conditioned
from refdiff.validation.numeric import hermite, lattice, product_rule, ticks

TOPIC = "Point-set losses"
Field = Callable[[Array], Array]


def random_process(rng: np.random.Generator) -> LinearProcess:
    """A matrix SDE in the plane whose F(t) and G(t) do not commute, with a force."""
    f, g, force = rng.normal(0, 0.5, (2, 2, 2)), well_conditioned(rng, 2), rng.normal(0, 1, 2)
    turn = 0.2 * rng.normal(0, 1, (2, 2))
    return LinearProcess(lambda t: f[0] + t * f[1], lambda t: g + np.sin(3 * t) * turn, force=force)


def fields(rng: np.random.Generator) -> list[Field]:
    """Three cubic fields on the plane, from points (n, 2) to (n, 2): Gauss-Hermite is exact for their squares."""
    a, b, c = rng.normal(0, 0.5, (3, 2, 2))
    return [lambda x: x @ a + b[0], lambda x: (x @ b) ** 2 - c[0], lambda x: a[0] - x @ b + 0.3 * (x @ c) ** 3]


def sums(model: ExactModel, t: float) -> tuple[Array, Array]:
    """Nodes (n, 2) and weights p_t dx (n,) of a lattice in the units of Sigma with the step 1/6.

    In these units two points at the distance r give the score poles at pi / r, where the density has fallen to
    e^(-r^2 / 8): the sum errs by less than e^-22 for every r (see `refdiff.validation.expectations`).
    """
    law, root = model.marginal(t), np.linalg.cholesky(model.process.kernel(t).noise)
    centres = np.linalg.solve(root, law.means.T).T
    low, high = centres.min(axis=0) - 8.5, centres.max(axis=0) + 8.5
    x = lattice(*(ticks(a, b, 1 / 6) for a, b in zip(low, high, strict=True))) @ root.T
    return x, np.linalg.det(root) / 36 * np.exp(law.logpdf(x))


def denoising(model: ExactModel, field: Field, weights: Array, t: float) -> float:
    """sum_i w_i E_i |s - grad log p(x_t | x_i)|^2 with weights w (K,) by Gauss-Hermite around every point."""
    kernel, (z, w) = model.process.kernel(t), product_rule(hermite(8), 2)
    root, total = np.linalg.cholesky(kernel.noise), 0.0
    for point, weight in zip(model.distribution.means, weights, strict=True):
        x = kernel.at(point).mean() + z @ root.T
        target = -np.linalg.solve(root.T, z.T).T
        total += weight * float(w @ ((field(x) - target) ** 2).sum(axis=1))
    return total


@identity(
    "Score matching on point sets under matrix SDEs, weights not normalised",
    topic=TOPIC,
    formula=r"\sum_i w_i \sum_s \mathbb{E}_i\|s - \nabla \log p(x_s|x_i)\|^2 = \sum_i w_i \sum_s"
    r" (\mathbb{E}\|s - \nabla\log p_s\|^2 - C_s),\quad C_s = -\mathbb{E}\,\mathrm{tr}\,"
    r"\Sigma^{-1} K\, \mathrm{Cov}[x_0|x_s]\, K' \Sigma^{-1}",
    covers=["RDX-24", "RDX-27"],
    over="once",
    evidence=QUADRATURE,
    control="the constant not scaled with the weights that are left unnormalised",
)
def vincent(case: Case, wrong: bool) -> Iterator[Sides]:
    """Gauss-Hermite around every point against sums over the plane; the constant by Bayes and by Fisher information."""
    rng = case.rng
    raw = np.array([1.0, 2.0, 0.5])
    model = ExactModel(Empirical(rng.normal(0, 1, (3, 2)), raw), random_process(rng))
    levels, constant, size = [], 0.0, 0.0
    for t in (0.4, 1.0):
        x, w = sums(model, t)
        score = model.score(x, t)
        levels.append((x, w, score))
        kernel = model.process.kernel(t)
        back = np.linalg.solve(kernel.noise, operators.dense(kernel.gain, 2))
        known = np.einsum("n,ij,njk,ik->", w, back, model.posterior_covariance(x, t), back)
        fisher, whole = float(w @ (score**2).sum(axis=1)), float(np.trace(np.linalg.inv(kernel.noise)))
        yield Sides(fisher - whole, -known, scale=whole)
        constant, size = constant - known, size + whole
    for field in fields(rng):
        explicit = sum(float(w @ ((field(x) - score) ** 2).sum(axis=1)) for x, w, score in levels)
        left = sum(denoising(model, field, raw, t) for t in (0.4, 1.0))
        share = constant if wrong else raw.sum() * constant
        yield Sides(left, raw.sum() * explicit - share, scale=left + size)


@identity(
    "Score matching on one point loses nothing",
    topic=TOPIC,
    formula=r"p(x_0) = \delta: \quad \arg\min = \nabla\log p(x_s|x_0) = -\Sigma^{-1}(x_s - K x_0 - k),"
    r"\quad \min = 0,\quad L(s) = \mathbb{E}\|s - \nabla\log p_s\|^2",
    covers=["RDX-25", "RDX-08"],
    over="once",
    evidence=QUADRATURE,
    control="the mean x_0 in place of K x_0 + k",
)
def one_point(case: Case, wrong: bool) -> Iterator[Sides]:
    """The loss by Gauss-Hermite, at the model's score and at other fields, against zero and against sums over p_s."""
    rng = case.rng
    model = ExactModel(Empirical(rng.normal(0, 1, (1, 2))), random_process(rng))
    for t in (0.1, 0.5, 1.0):
        x, w = sums(model, t)
        kernel, point = model.process.kernel(t), model.distribution.means[0]
        mean = point if wrong else operators.apply(kernel.gain, point) + kernel.offset
        optimum = -np.linalg.solve(kernel.noise, (x - mean).T).T
        yield Sides(model.score(x, t), optimum)
        whole = float(np.trace(np.linalg.inv(kernel.noise)))
        found = denoising(model, lambda y, t=t: model.score(y, t), np.ones(1), t)  # type: ignore[misc]
        yield Sides(found, 0.0, scale=whole)
        for field in fields(rng):
            loss = denoising(model, field, np.ones(1), t)
            yield Sides(loss, w @ ((field(x) - optimum) ** 2).sum(axis=1), scale=loss + whole)
