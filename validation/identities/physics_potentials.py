r"""Bhattacharyya's potential between two classes, and the force with which it pushes them apart.

    U = int sqrt(p q) dx,   dU/dt = 1/2 int sqrt(p / q) d_t q = -int F . v dx,   F = -1/2 q grad sqrt(p / q)
    Gaussians   -log U = u'M^-1 u / 8 + log det M / 2 - log det(P Q) / 4,   int F dx = -U / 4 M^-1 u,   M = (P + Q) / 2

Sums over grids and stencils on one side. A law that a velocity carries is summed where its points come from: with y =
x + e v(x), U(e) = int sqrt(p(y) q(x) det(1 + e grad v)) dx.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.expectations import Quadrature
from refdiff.physics import affinity, fisher_direction, force, potential_rate, total_force
from refdiff.validation import laws
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, jacobian, lattice, ticks
from refdiff.validation.steps import FINE

TOPIC = "Potentials between classes"
RULE = Quadrature(1e-11)


def pairs(case: Case) -> Iterator[tuple[Gaussian, Gaussian]]:
    """Gaussians of different covariances, about a deviation apart, on the line and in the plane."""
    rng = case.rng
    for dim in (1, 1, 2, 2):
        p, q = laws.gaussian(rng, dim), laws.gaussian(rng, dim)
        yield p, Gaussian(p.mean() + 0.5 * rng.standard_normal(dim), q.cov())


def nodes(p: Gaussian, q: Gaussian) -> tuple[Array, float]:
    """A grid (n, d) and its cell for sqrt(p q), which is as narrow as the narrower of both and as wide as the wider."""
    if p.dim == 1:
        return laws.line(p, q)
    values = np.concatenate([np.linalg.eigvalsh(law.cov()) for law in (p, q)])
    # as of `laws.box`: the sum of a Gaussian with this spacing errs by 1e-17
    spacing, reach = 0.7 * np.sqrt(values.min()), 9 * np.sqrt(values.max())
    means = np.stack([p.mean(), q.mean()])
    return lattice(*(ticks(m.min() - reach, m.max() + reach, spacing) for m in means.T)), spacing**2


@identity(
    "Bhattacharyya's potential of Gaussians",
    topic=TOPIC,
    formula=r"\int \sqrt{\rho_1 \rho_2}\, dx = \frac{|\Sigma_1|^{1/4} |\Sigma_2|^{1/4}}{|M|^{1/2}}"
    r" e^{-\frac18 (\mu_1 - \mu_2)^\top M^{-1} (\mu_1 - \mu_2)},\quad M = \tfrac12 (\Sigma_1 + \Sigma_2)",
    covers=["PHY-103"],
    over="once",
    evidence=QUADRATURE,
    control="the shared covariance of (111) where the covariances differ",
)
def potential(case: Case, wrong: bool) -> Iterator[Sides]:
    """The closed form against a trapezoidal sum, and a mixture's lattice against the same."""
    for p, q in pairs(case):
        x, cell = nodes(p, q)
        summed = np.exp((p.logpdf(x) + q.logpdf(x)) / 2).sum() * cell
        u = p.mean() - q.mean()
        shared = np.exp(-u @ np.linalg.solve(p.cov(), u) / 8)
        yield Sides(shared if wrong else affinity(p, q).value, summed)
        both = GaussianMixture.full([q.means[0]] * 2, [q.cov()] * 2, [0.3, 0.7])
        yield Sides(affinity(p, both, RULE).value, summed)


def wave(a: Array, x: Array) -> Array:
    """A velocity a_0 + a_1 x + sin(a_2 x) with parameters a (3,) at points x of any shape (...)."""
    return np.asarray(a[0] + a[1] * x + np.sin(a[2] * x))


def carried(p: GaussianMixture, x: Array, velocity: Array, slope: Array, source: Array, e: float) -> Array:
    """The sum over x (n, 1) of sqrt(p(y) q(x) dy/dx), y = x + e v(x).

    Args:
        p: the law that rests.
        x: the nodes.
        velocity, slope: v (n, 1) and v' (n,) there.
        source: log q (n,), with two logarithms of the spacing.
        e: how long q has moved.
    """
    return np.asarray(np.exp((p.logpdf(x + e * velocity) + source + np.log1p(e * slope)) / 2).sum())


@identity(
    "Rate of Bhattacharyya's potential where one class flows",
    topic=TOPIC,
    formula=r"\frac{dU}{dt} = \tfrac12 \int \rho_2 \nabla \sqrt{\rho_1 / \rho_2} \cdot v\, dx,\quad"
    r" \partial_t \rho_2 = -\nabla \cdot (\rho_2 v)",
    covers=["PHY-108"],
    over="once",
    evidence=DERIVATIVE,
    control="without the half of (105)",
)
def potential_flows(case: Case, wrong: bool) -> Iterator[Sides]:
    """A wave of a velocity that carries a mixture, differenced in time, against the integral of force and velocity."""
    rng = case.rng
    for _ in range(3):
        p, q, a = random_mixture(1, 2, rng, spread=1.0), random_mixture(1, 2, rng, spread=1.0), rng.uniform(0.3, 1, 3)
        x, step = laws.line(p, q)
        velocity, slope = wave(a, x), a[1] + a[2] * np.cos(a[2] * x[:, 0])
        moved = partial(carried, p, x, velocity, slope, q.logpdf(x) + 2 * np.log(step))
        # a velocity of up to ten deviations in a unit of time
        told = derivative(moved, 0.0, FINE / 10 * laws.smallest_std(p))
        found = potential_rate(p, q, partial(wave, a), RULE).value
        yield Sides((2.0 if wrong else 1.0) * found, told, scale=1.0)


def ratio(p: GaussianMixture, q: GaussianMixture, here: Array, y: Array) -> Array:
    """sqrt(p / q) at points y (n, d) over its value e^here, shape (n,)."""
    return np.asarray(np.exp((p.logpdf(y) - q.logpdf(y)) / 2 - here))


@identity(
    "Force of Bhattacharyya's potential",
    topic=TOPIC,
    formula=r"F_{1 \to 2} = -\tfrac12 \rho_2 \nabla \sqrt{\rho_1 / \rho_2}"
    r" = -\tfrac14 \sqrt{\rho_1 \rho_2}\, (\nabla \log \rho_1 - \nabla \log \rho_2)",
    covers=["PHY-110"],
    over="once",
    evidence=DERIVATIVE,
    control="the force on the other class",
)
def forces(case: Case, wrong: bool) -> Iterator[Sides]:
    """Stencils of sqrt(p / q) in space; and the sum of the force as minus the slope of U where q is shifted."""
    rng = case.rng
    for dim in (1, 2, 4):
        p, q = random_mixture(dim, 3, rng, "full", spread=0.7), random_mixture(dim, 2, rng, spread=0.7)
        x = q.sample(4, rng)
        here = (p.logpdf(x) - q.logpdf(x)) / 2
        h = FINE * min(laws.smallest_std(law) for law in (p, q))
        slope = jacobian(partial(ratio, p, q, here), x, h)
        exact = -0.5 * np.exp(here + q.logpdf(x))[:, None] * slope
        found = force(q, p, x) if wrong else force(p, q, x)
        yield Sides(found, exact, scale=np.exp(here + q.logpdf(x)).max() / (h / FINE))
    p, q = random_mixture(1, 2, rng, spread=1.0), random_mixture(1, 2, rng, spread=1.0)
    pushed = derivative(lambda u: np.asarray(affinity(p, q.affine(1.0, [u]), RULE).value), 0.0, FINE * 0.3)
    yield Sides((-1.0 if wrong else 1.0) * total_force(p, q, RULE).value, -pushed, scale=1.0)


@identity(
    "The push between Gaussians is along Fisher's direction, away",
    topic=TOPIC,
    formula=r"\int F_{1 \to 2}\, dx = -\tfrac{U}{4}\, M^{-1} (\mu_1 - \mu_2),\quad M = \tfrac12 (\Sigma_1 + \Sigma_2)",
    covers=["PHY-111", "PHY-110"],
    over="once",
    evidence=QUADRATURE,
    control="towards the other class, as a positive constant in (111) would have it",
)
def fisher(case: Case, wrong: bool) -> Iterator[Sides]:
    """Sums of the force field over a grid, for different covariances and for equal ones, against the closed form."""
    for p, q in pairs(case):
        for law in (q, Gaussian(q.mean(), p.cov())):
            x, cell = nodes(p, law)
            summed = force(p, law, x).sum(axis=0) * cell
            closed = affinity(p, law).value / 4 * fisher_direction(p, law)
            yield Sides(closed if wrong else -closed, summed)
