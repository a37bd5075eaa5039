r"""Energies, normalising constants and scores: what each of them says about a density.

    p = exp(-E) / Z,  Z = int exp(-E)        E + c gives the same p;  E - d on A gives e^d P(A) / (1 - P(A) + e^d P(A))
    grad log p = -grad E                     no Z in it
    log p(x) - log p(x_0) = int_0^1 s(x_0 + u (x - x_0)) . (x - x_0) du       so the score has all of p in it
    d/dtheta E_data log p_theta = -E_data dE/dtheta + E_p_theta dE/dtheta
    grad log p(x | y) = grad log p(x) + grad log p(y | x)                     the same x, noisy or not, in all three
    log p_x(f(z)) = log p_z(z) - log |det df/dz|

The sign is that of p = exp(-E) / Z throughout. Unnormalised densities are written out here with inverse matrices,
which the library never forms. Sums over grids of entire functions that decay like a Gaussian err like exp(-c / h^2).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import kv, logsumexp

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.validation.cases import Case, LawCase, ModelCase
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import box, cdf, covariances, gaussian, smallest_std, well_conditioned
from refdiff.validation.numeric import derivative, jacobian, legendre, ticks

TOPIC = "Densities and scores"


def segment(law: GaussianMixture, start: Array, end: Array) -> tuple[Array, Array]:
    """Nodes u in [0, 1] (m,) and weights (m,), for integrals of the score along start + u (end - start).

    The score has poles at pi s^2 / |m_j - m_k| from the line: on panels twice as long 16 nodes err by 2.4^-32 = 1e-12.
    """
    nodes, weights = legendre(16)
    apart = np.linalg.norm(law.means[:, None] - law.means, axis=-1).max()
    panel = 2 * np.pi * smallest_std(law) ** 2 / max(apart, smallest_std(law))
    count = 1 + int(np.linalg.norm(end - start) / panel)
    return ((np.arange(count)[:, None] + nodes) / count).ravel(), np.tile(weights, count) / count


def negative_energy(law: GaussianMixture, constant: float) -> Callable[[Array], Array]:
    """-E of points (n, d): exp(-E) = e^constant sum_k w_k det S_k^(-1/2) exp(-|x - m_k|^2_{S_k^-1} / 2)."""
    inverses, s = np.linalg.inv(covariances(law)), covariances(law)
    logs = law.log_weights - 0.5 * np.linalg.slogdet(s)[1] + constant

    def function(x: Array) -> Array:
        gap = x[:, None, :] - law.means
        return np.asarray(logsumexp(logs - 0.5 * np.einsum("nki,kij,nkj->nk", gap, inverses, gap), axis=1))

    return function


# ---------------------------------------------------------------------- energies


@identity(
    "Partition function",
    topic=TOPIC,
    formula=r"Z = \int e^{-E};\quad E = \tfrac12 (x - \mu)^\top \Sigma^{-1} (x - \mu)"
    r" \to (2\pi)^{d/2} \sqrt{\det \Sigma},"
    r"\quad E = a x^2 + b x^4 \to \tfrac12 \sqrt{a / b}\, e^{a^2 / 8b} K_{1/4}(a^2 / 8b)",
    covers=["PODA-105"],
    over="once",
    control="det Sigma without its square root",
)
def partition_function(case: Case, wrong: bool) -> list[Sides]:
    """Sums of exp(-E) over grids in the plane and on the line against closed forms; log Z = -E - log p at any point."""
    rng = case.rng
    p = gaussian(rng, 2)
    x, area = box(p)
    gap, s = x - p.means[0], covariances(p)[0]
    total = area * np.exp(-0.5 * np.einsum("ni,ij,nj->n", gap, np.linalg.inv(s), gap)).sum()
    a, b = rng.uniform(0.3, 2.0, 2)
    y, z = ticks(-8, 8, 0.02), a**2 / (8 * b)
    quartic = 0.02 * np.exp(-a * y**2 - b * y**4).sum()
    z_plane = 2 * np.pi * np.linalg.det(s) ** (1.0 if wrong else 0.5)
    some = x[:: len(x) // 7]
    height = 0.5 * np.einsum("ni,ij,nj->n", some - p.means[0], np.linalg.inv(s), some - p.means[0])
    return [
        Sides(total, z_plane),
        Sides(-height - p.logpdf(some), np.log(z_plane), scale=height + 1),
        Sides(quartic, 0.5 * np.sqrt(a / b) * np.exp(z) * kv(0.25, z)),
    ]


@identity(
    "Energies up to a constant",
    topic=TOPIC,
    formula=r"E \to E - \delta \mathbf{1}_A:\quad P'(A) = \frac{e^\delta P(A)}{1 - P(A) + e^\delta P(A)}",
    covers=["PODA-301"],
    over="once",
    control="e^delta P(A), not normalised again",
)
def energy_shift(case: Case, wrong: bool) -> list[Sides]:
    """A double well integrated piece by piece, the energy lowered on a set of two intervals or everywhere."""
    rng = case.rng
    inside = np.sort(rng.uniform(-2, 2, 4))
    knots = np.concatenate([[-4.0], inside, [4.0]])
    nodes, weights = legendre(96)
    x = knots[:-1, None] + np.diff(knots)[:, None] * nodes
    dx = np.diff(knots)[:, None] * weights
    energy = (x**2 - 1.5) ** 2 + rng.normal() * x
    member = np.array([0, 1, 0, 1, 0])[:, None] == 1

    def probability(e: Array) -> tuple[float, Array]:
        density = np.exp(-e) / (dx * np.exp(-e)).sum()
        return float((dx * density * member).sum()), density

    delta, c = rng.uniform(-2, 2), rng.uniform(-5, 5)
    before, density = probability(energy)
    raised = np.exp(delta) * before
    return [
        Sides(probability(energy - delta * member)[0], raised if wrong else raised / (1 - before + raised)),
        Sides(probability(energy + c)[1], density),
    ]


@identity(
    "Gradient of an energy model's likelihood",
    topic=TOPIC,
    formula=r"\nabla_\theta \mathbb{E}_{\text{data}} \log p_\theta"
    r" = -\mathbb{E}_{\text{data}} \nabla_\theta E_\theta + \mathbb{E}_{p_\theta} \nabla_\theta E_\theta",
    covers=["PODA-302"],
    over="once",
    evidence=DERIVATIVE,
    control="data and model exchanged",
)
def energy_likelihood(case: Case, wrong: bool) -> Sides:
    """E = theta_1 x + theta_2 x^2 + theta_3 x^4: the derivative of the likelihood against two means of powers."""
    rng = case.rng
    data, theta = rng.standard_normal(9), np.array([rng.normal(), rng.uniform(0.2, 1.0), rng.uniform(0.2, 1.0)])
    x = ticks(-8, 8, 0.02)

    def features(y: Array) -> Array:
        return np.stack([y, y**2, y**4])

    def likelihood(thetas: Array) -> Array:
        z = 0.02 * np.exp(-thetas @ features(x)).sum(axis=1)
        return np.asarray(-(thetas @ features(data)).mean(axis=1) - np.log(z))

    left = jacobian(likelihood, theta[None], 0.005)[0]
    model = np.exp(-theta @ features(x))
    right = -features(data).mean(axis=1) + features(x) @ model / model.sum()
    return Sides(left, -right if wrong else right)


# ---------------------------------------------------------------------- change of variables


@identity(
    "Change of variables, affine",
    topic=TOPIC,
    formula=r"x = A z + b:\quad \log p_x(x) = \log p_z(z) - \log |\det A|",
    covers=["PODA-107"],
    over="laws",
    control="+ log |det A|, the Jacobian of the map in place of its inverse",
    needs=lambda case: case.law.dim <= 16,
)
def affine_change(case: LawCase, wrong: bool) -> Sides:
    """The density of the pushed law against the density before the map."""
    rng, law, z = case.rng, case.law, case.x
    gain, offset = well_conditioned(rng, law.dim), rng.standard_normal(law.dim)
    volume = (-1 if wrong else 1) * np.linalg.slogdet(gain)[1]
    right = law.logpdf(z) - volume
    return Sides(law.affine(gain, offset).logpdf(z @ gain.T + offset), right, scale=np.abs(right) + law.dim)


@identity(
    "Change of variables, quantile map",
    topic=TOPIC,
    formula=r"x = F_q^{-1}(F_p(z)):\quad \log q(x) = \log p(z) + \log \left| \frac{dz}{dx} \right|",
    covers=["PODA-107"],
    over="once",
    evidence=DERIVATIVE,
    control="dx/dz in place of dz/dx",
)
def quantile_change(case: Case, wrong: bool) -> Sides:
    """The increasing map of one mixture to another, its slope by differences, against both densities."""
    rng = case.rng
    # modes closer than their width: in a gap between modes the map would be as steep as the density is low
    p, q = (GaussianMixture.isotropic(rng.uniform(-1, 1, (3, 1)), rng.uniform(0.5, 1.0, 3)) for _ in range(2))

    def back(x: float) -> Array:
        level = cdf(q, x)
        return np.asarray(brentq(lambda z: cdf(p, z) - level, -20, 20, xtol=1e-15, rtol=1e-15))

    x = q.mean()[0] + rng.uniform(-1, 1, 3)
    z = np.array([back(y) for y in x])
    slope = np.array([derivative(back, y, 0.02) for y in x])
    left, right = q.logpdf(x[:, None]), p.logpdf(z[:, None])
    return Sides(left, right + (-1 if wrong else 1) * np.log(slope), scale=1 + np.abs(right).max())


# ---------------------------------------------------------------------- scores


@identity(
    "Score from an unnormalised density",
    topic=TOPIC,
    formula=r"\nabla \log p = \nabla \log \tilde p = -\nabla E,\quad p = \tilde p / Z",
    covers=["PODA-303"],
    over="laws",
    evidence=DERIVATIVE,
    control="+grad E, the sign of p = exp(E) / Z",
    needs=lambda case: case.law.dim <= 5,
)
def score_without_constant(case: LawCase, wrong: bool) -> Sides:
    """The library's score against the derivative of a log density with an arbitrary constant."""
    function = negative_energy(case.law, case.rng.uniform(-50, 50))
    gradient = jacobian(function, case.x, smallest_std(case.law) / 50)
    return Sides(case.law.score(case.x), -gradient if wrong else gradient)


@identity(
    "Density from the score",
    topic=TOPIC,
    formula=r"\log p(x) = \log p(x_0) + \int_0^1 \nabla \log p(x_0 + u (x - x_0))^\top (x - x_0)\, du",
    covers=["PODA-304"],
    over="laws",
    evidence=QUADRATURE,
    control="a field that is no gradient: the score plus a rotation",
    needs=lambda case: case.law.dim <= 16,
)
def density_from_score(case: LawCase, wrong: bool) -> list[Sides]:
    """Gauss-Legendre along a straight line and along a broken one, against the log density."""
    law, (start, end, corner) = case.law, case.x[:3]
    turn = np.triu(np.ones((law.dim, law.dim)), 1) / law.dim
    rotation = turn - turn.T if wrong else np.zeros_like(turn)

    def integral(a: Array, b: Array) -> float:
        u, weights = segment(law, a, b)
        x = a + u[:, None] * (b - a)
        return float(weights @ (law.score(x) + x @ rotation.T) @ (b - a))

    logs = law.logpdf(case.x[:3])
    scale = np.abs(logs).max() + law.dim
    return [
        Sides(integral(start, end), logs[1] - logs[0], scale=scale),
        Sides(integral(start, corner) + integral(corner, end), logs[1] - logs[0], scale=scale),
    ]


@identity(
    "Posterior score",
    topic=TOPIC,
    formula=r"\nabla \log p_t(x | y) = \nabla \log p_t(x) + \nabla \log p_t(y | x)",
    covers=["DMI-83"],
    over="models",
    evidence=DERIVATIVE,
    control="the likelihood of clean data, p(y | x_0) at x_0 = x",
    needs=lambda case: case.law.dim <= 2,
    most=12,
)
def posterior_score(case: ModelCase, wrong: bool) -> list[Sides]:
    """y a linear measurement of x_0, then y the component x_0 came from: conditioned first, or likelihood last."""
    law, rng, kernel = case.law, case.rng, case.process.kernel(case.t)
    x, marginal = case.x[:1], case.model.marginal(case.t)
    step = smallest_std(marginal) / 50
    measurement = Channel(rng.standard_normal((1, law.dim)), noise=0.3)
    y = measurement.push(law).sample(1, rng)[0]

    def log_likelihood(points: Array) -> Array:
        if wrong:
            return np.array([measurement.logpdf(y, z) for z in points])
        return np.array([measurement.push(kernel.posterior(law, z)).logpdf(y) for z in points])

    conditioned = kernel.push(measurement.posterior(law, y)).score(x)
    likelihood = jacobian(log_likelihood, x, step)
    k = int(rng.choice(law.count, p=law.weights / law.weights.sum()))
    component = kernel.push(Gaussian(law.means[k], covariances(law)[k]))
    label = jacobian(lambda z: component.logpdf(z) - marginal.logpdf(z), x, step)
    score = case.model.score(x, case.t)
    return [
        Sides(conditioned, score + likelihood, scale=np.abs(score).max() + np.abs(likelihood).max()),
        Sides(component.score(x), score + label, scale=np.abs(score).max() + np.abs(label).max()),
    ]


def _matrix_kernel(case: LawCase) -> tuple[Channel, Array]:
    """A kernel x = K x_0 + N(0, Sigma) with dense K and Sigma, and draws from it."""
    rng, d = case.rng, case.law.dim
    kernel = Channel(well_conditioned(rng, d), noise=covariances(gaussian(rng, d))[0])
    return kernel, kernel.sample(case.x, rng)


@identity(
    "Conditional score of a matrix kernel",
    topic=TOPIC,
    formula=r"\nabla_x \log p(x | x_0) = -\Sigma^{-1} (x - K x_0)",
    covers=["RDX-08", "PODD-110"],
    over="laws",
    evidence=DERIVATIVE,
    control="K transposed",
    needs=lambda case: case.law.dim <= 5,
)
def conditional_score(case: LawCase, wrong: bool) -> Sides:
    """The derivative of the kernel's log density against the formula."""
    (kernel, x), start = _matrix_kernel(case), case.x[0]
    step = np.sqrt(np.linalg.eigvalsh(kernel.noise)[0]) / 50
    gain = kernel.gain.T if wrong else kernel.gain
    slope = jacobian(lambda z: np.asarray(kernel.logpdf(z, start)), x, step)
    return Sides(slope, -np.linalg.solve(kernel.noise, (x - gain @ start).T).T)


@identity(
    "Tweedie's formula for a matrix kernel",
    topic=TOPIC,
    formula=r"\mathbb{E}[x_0 | x] = K^{-1} (x + \Sigma \nabla \log p(x))",
    covers=["RDX-08"],
    over="laws",
    control="K transposed",
    needs=lambda case: case.law.dim <= 16,
)
def matrix_tweedie(case: LawCase, wrong: bool) -> Sides:
    """Bayes' mean against the score of the pushed law."""
    kernel, x = _matrix_kernel(case)
    gain = kernel.gain.T if wrong else kernel.gain
    correction = kernel.push(case.law).score(x) @ kernel.noise
    # K^-1 stretches by at most 2
    scale = 2 * (np.abs(x).max() + np.abs(correction).max())
    return Sides(kernel.posterior_mean(case.law, x), np.linalg.solve(gain, (x + correction).T).T, scale=scale)
