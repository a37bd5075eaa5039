r"""Discrete Langevin steps, and the laws that they keep: the bias of the unadjusted ones, and steps that have none.

    unadjusted     P = (K - eta K M K / 2)^-1 on N(m, S), K = S^-1,      S / (1 - eta / 2S) along an axis
                   p_eta = p [1 + eta (lap log p / 2 + |grad log p|^2 / 4 - mean) + O(eta^2)]
    adjusted       p(x) q(y | x) a(x, y) = p(y) q(x | y) a(y, x)
    BAOAB          Cov x = S at every step size, friction and mass; Cov p = M - h^2 K / 4

The sources state the first step without saying that it keeps another law than p, and no other step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import solve_discrete_lyapunov

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.langevin import (
    Kinetics,
    Preconditioner,
    kinetic_step,
    largest_unadjusted_step,
    target_of,
    unadjusted_chain,
    unadjusted_step,
)
from refdiff.langevin.adjusted import Proposal
from refdiff.langevin.kinetic import SCHEMES
from refdiff.validation import laws, numeric
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identity import ORDER, Sides, identity

TOPIC = "Langevin steps"


def spd(rng: np.random.Generator, dim: int) -> Array:
    """A random positive definite matrix (dim, dim) with eigenvalues in [0.2, 1.5]."""
    axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return np.asarray((axes * rng.uniform(0.2, 1.5, dim)) @ axes.T)


def skew(rng: np.random.Generator, dim: int) -> Array:
    """A random antisymmetric matrix (dim, dim)."""
    a = rng.standard_normal((dim, dim))
    return np.asarray((a - a.T) / 2)


@identity(
    "Unadjusted Langevin, and the law that it keeps",
    topic=TOPIC,
    formula=r"x \leftarrow x + \eta (M + Q) \nabla \log p(x) + \sqrt{2 \eta}\, M^{1/2} z,\quad"
    r" P = A P A^{\mathsf T} + 2 \eta M,\quad Q = 0: P = \left(K - \tfrac{\eta}{2} K M K\right)^{-1}",
    covers=["PODA-306", "PODA-307"],
    over="once",
    control="the normal times sqrt(eta), as in texts whose score is times eta / 2",
)
def kept(case: Case, wrong: bool) -> Iterator[Sides]:
    """The library's law against SciPy's discrete equation, the closed form, and sixty-four steps of one axis."""
    rng, factor = case.rng, 1.0 if wrong else 2.0
    for dim in (1, 2, 5):
        law, matrix, turn = laws.gaussian(rng, dim), spd(rng, dim), skew(rng, dim)
        k = np.linalg.inv(laws.covariances(law)[0])
        for q in (np.zeros((dim, dim)), turn):
            by = Preconditioner(matrix, q)
            eta = rng.uniform(0.1, 0.8) * largest_unadjusted_step(law, by)
            found = unadjusted_step(law, eta, by).stationary.cov()
            moved = np.eye(dim) - eta * (matrix + q) @ k
            yield Sides(found, solve_discrete_lyapunov(moved, factor * eta * matrix))
            if not q.any():
                yield Sides(found, factor / 2 * np.linalg.inv(k - eta / 2 * k @ matrix @ k))
    s, v = rng.uniform(0.5, 2), 0.0
    eta = rng.uniform(0.3, 1.0) * s
    for _ in range(64):
        v = (1 - eta / s) ** 2 * v + factor * eta
    # what is left of the start is (1 - eta / s)^128 < 1e-19
    yield Sides(v, s / (1 - eta / (2 * s)))


@identity(
    "The unadjusted law of any mixture, to first order",
    topic=TOPIC,
    formula=r"p_\eta = p \left[1 + \eta \left(\tfrac12 \Delta \log p + \tfrac14 |\nabla \log p|^2"
    r" + \tfrac14 \mathbb{E} |\nabla \log p|^2\right)\right] + O(\eta^2)",
    covers=["PODA-306"],
    over="once",
    evidence=ORDER,
    control="without the Laplacian",
)
def first_order(case: Case, wrong: bool) -> Sides:
    """The stationary law of the chain as a matrix, (p_eta / p - 1) / eta extrapolated to eta = 0."""
    law = GaussianMixture.isotropic(case.rng.uniform(-1.5, 1.5, (2, 1)), case.rng.uniform(0.7, 1.2, 2), [0.4, 0.6])
    points = np.linspace(law.means.min() - 1, law.means.max() + 1, 9)
    ratios = []
    for eta in (0.08, 0.04, 0.02):
        chain = unadjusted_chain(law, eta, 2.0)
        density = chain.stationary / chain.spacing
        log_ratio = np.log(density) - law.logpdf(chain.x[:, None])
        near = np.abs(chain.x - points[:, None]).argmin(axis=1)[:, None] + np.arange(-5, 6)
        local = [np.polyfit(chain.x[rows] - x, log_ratio[rows], 10)[-1] for x, rows in zip(points, near, strict=True)]
        ratios.append(np.expm1(local) / eta)
    x, step = laws.line(law)
    mean_square = step * np.exp(law.logpdf(x)) @ law.score(x)[:, 0] ** 2
    s, bend = law.score(points[:, None])[:, 0], law.laplacian(points[:, None])
    return Sides(numeric.extrapolate(ratios), (0 if wrong else 0.5) * bend + (s**2 + mean_square) / 4)


@identity(
    "Metropolis' rule makes Langevin's step reversible",
    topic=TOPIC,
    formula=r"p(x)\, q(y|x)\, a(x, y) = p(y)\, q(x|y)\, a(y, x),\quad"
    r" a = \min\left(1, \frac{p(y)\, q(x|y)}{p(x)\, q(y|x)}\right),\quad"
    r" q(\cdot|x) = \mathcal{N}(x + \eta M \nabla \log p, 2 \eta M)",
    covers=["PODA-306"],
    over="laws",
    control="accepted by p(y) / p(x) alone, as if the proposal were symmetric",
)
def reversible(case: LawCase, wrong: bool) -> Iterator[Sides]:
    """Logarithms of both flows between neighbouring points, with q by eigenvectors; truncated scores too."""
    law, x = case.law, case.x
    y, size = np.roll(x, 1, axis=0), laws.smallest_std(law)
    matrix = spd(case.rng, law.dim)
    for truncation in (None, 0.5 / size):
        eta = 0.5 * size**2
        proposal = Proposal(target_of(law), eta, Preconditioner(matrix), truncation)

        def flow(a: Array, b: Array, proposal: Proposal = proposal, truncation: float | None = truncation) -> Array:
            s, here, there = law.score(a), proposal.at(a), proposal.at(b)
            if truncation is not None:
                s = s * np.minimum(1, truncation / np.linalg.norm(s, axis=1, keepdims=True))
            q = laws.log_normal(b, a + 0.5 * size**2 * s @ matrix, size**2 * matrix)
            ratio = law.logpdf(b) - law.logpdf(a) if wrong else proposal.log_ratio(here, there)
            return np.asarray(law.logpdf(a) + q + np.minimum(ratio, 0))

        forth, back = flow(x, y), flow(y, x)
        # squares of distances over least variances, which q's logarithm adds up
        terms = np.sum((x - y) ** 2, axis=1) / (0.2 * size**2) + numeric.dot(law.score(x), law.score(x)) * size**2
        yield Sides(forth, back, scale=np.abs(forth) + terms + np.roll(terms, 1))


@identity(
    "Positions under BAOAB have no bias on Gaussians",
    topic=TOPIC,
    formula=r"\text{BAOAB, ABOBA: } \mathrm{Cov}\, x = S;\quad \text{BAOAB: } \mathrm{Cov}\, p = M - \tfrac{h^2}{4} K;"
    r"\quad \text{OBABO: } \mathrm{Cov}\, x = \left(K - \tfrac{h^2}{4} K M^{-1} K\right)^{-1}",
    covers=["PODA-306", "PODA-307"],
    over="once",
    control="OBABO's letters in place of BAOAB's and ABOBA's",
)
def unbiased_positions(case: Case, wrong: bool) -> Iterator[Sides]:
    """The closed forms against SciPy's discrete equation for the step's matrices, any mass and friction."""
    rng = case.rng
    for dim in (1, 2, 4):
        law, by = laws.gaussian(rng, dim), Kinetics(spd(rng, dim), spd(rng, dim))
        s = laws.covariances(law)[0]
        k, mass = np.linalg.inv(s), by.mass
        h = rng.uniform(0.3, 0.7) * 2 / np.sqrt(np.linalg.eigvals(np.linalg.solve(mass, k)).real.max())
        shadow = np.linalg.inv(k - h * h / 4 * k @ np.linalg.solve(mass, k))
        for scheme, x, p in (("BAOAB", s, mass - h * h / 4 * k), ("ABOBA", s, None), ("OBABO", shadow, mass)):
            step = kinetic_step(law, h, "OBABO" if wrong else scheme, by)
            found = solve_discrete_lyapunov(np.eye(2 * dim) + step.deviation, step.noise)
            yield Sides(step.stationary.cov(), found)
            # the discrete equation loses what a step leaves of the slowest motion
            size = np.abs(found).max() / (1 - step.spectral_radius)
            yield Sides(found[:dim, :dim], x, scale=size)
            if p is not None:
                yield Sides(found[dim:, dim:], p, scale=size)


@identity(
    "Weak orders of kinetic schemes",
    topic=TOPIC,
    formula=r"\mathrm{Cov}_h\, x - S = O(h^2) \text{ (palindromes of A, B, O, U)},\quad O(h) \text{ (E)};\quad"
    r" \text{OBABO: } \tfrac{h^2}{4} M^{-1} + O(h^4)",
    covers=["PODA-306"],
    over="once",
    evidence=ORDER,
    control="order two for the exponential Euler method",
)
def kinetic_orders(case: Case, wrong: bool) -> Iterator[Sides]:
    """Biases of stationary covariances at h and h / 2, in the ratio 2^order, extrapolated."""
    rng = case.rng
    law, by = laws.gaussian(rng, 2), Kinetics(spd(rng, 2), spd(rng, 2))
    s = laws.covariances(law)[0]
    h = 0.005 * np.sqrt(np.linalg.eigvalsh(s)[0])
    sizes = (h, h / 2, h / 4)
    for scheme in SCHEMES:
        if scheme in ("BAOAB", "ABOBA"):  # no bias has no order
            continue
        order = 1 if scheme == "E" else 2
        biases = [kinetic_step(law, u, scheme, by).positions.cov() - s for u in sizes]
        norms = [float(np.linalg.norm(bias)) for bias in biases]
        slopes = [np.array([np.log2(norms[i] / norms[i + 1])]) for i in (0, 1)]
        yield Sides(numeric.extrapolate(slopes, first=order), 2 if wrong else order)
        if scheme == "OBABO":
            scaled = [bias / u**2 for bias, u in zip(biases, sizes, strict=True)]
            yield Sides(numeric.extrapolate(scaled, first=2, step=2), np.linalg.inv(by.mass) / 4)
