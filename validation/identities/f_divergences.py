r"""f-divergences of densities on the line, and the discriminator that attains one.

D_f(p || q)      = int q f(p / q),   f convex, f(1) = 0
KL               f = u log u
Jensen-Shannon   f = [u log u - (u + 1) log((1 + u) / 2)] / 2,   = KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2
total variation  f = |u - 1| / 2,                                = sup_A |p(A) - q(A)|
max_D E_p log D + E_q log(1 - D) = 2 JS(p, q) - log 4            at D = p / (p + q)
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_expit, ndtr, rel_entr

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence
from refdiff.validation.cases import Case
from refdiff.validation.identities.gaussian_divergences import TOPIC
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import cdf, half_and_half, line
from refdiff.validation.numeric import Function, legendre


def _jensen_shannon(u: Array) -> Array:
    result: Array = 0.5 * (u * np.log(u) - (u + 1) * np.log((1 + u) / 2))
    return result


def _pair(rng: np.random.Generator) -> tuple[GaussianMixture, GaussianMixture]:
    """Two mixtures on the line whose ratio neither overflows nor underflows on the grid."""
    p, q = (
        GaussianMixture.isotropic(rng.uniform(-2, 2, (3, 1)), rng.uniform(0.3, 0.6, 3), rng.dirichlet(np.ones(3) * 4))
        for _ in range(2)
    )
    return p, q


def _relative_entropy(p: GaussianMixture, q: GaussianMixture) -> float:
    """KL(p || q) = E_p log p - E_p log q by a sum over the line."""
    x, step = line(p, q)
    return float(np.exp(p.logpdf(x)) @ (p.logpdf(x) - q.logpdf(x)) * step)


@identity(
    "KL and Jensen-Shannon as f-divergences",
    topic=TOPIC,
    formula=r"D_f(p \| q) = \int q f(p / q),\ f = u \log u \to \mathrm{KL},"
    r"\ f = \tfrac12 [u \log u - (u + 1) \log \tfrac{1 + u}{2}] \to"
    r" \tfrac12 \mathrm{KL}(p \| \tfrac{p + q}2) + \tfrac12 \mathrm{KL}(q \| \tfrac{p + q}2)",
    covers=["PODA-104"],
    over="once",
    control="p f(q / p): the divergence the other way round",
)
def f_divergences(case: Case, wrong: bool) -> list[Sides]:
    """Integrals of q f(p / q) against the closed form for Gaussians, and against two relative entropies."""
    rng = case.rng
    p, q = _pair(rng)
    narrow, wide = Gaussian(rng.uniform(-1, 1, 1), 0.4), Gaussian(rng.uniform(-1, 1, 1), 0.9)

    def integral(f: Function, p: GaussianMixture, q: GaussianMixture) -> float:
        x, step = line(p, q)
        a, b = (q.logpdf(x), p.logpdf(x)) if wrong else (p.logpdf(x), q.logpdf(x))
        return float(np.exp(b) @ f(np.exp(a - b)) * step)

    far = Gaussian([0.0], 0.4), Gaussian([40.0], 0.4)
    apart = [0.5 * _relative_entropy(one, half_and_half(*far)) for one in far]
    both = half_and_half(p, q)
    return [
        Sides(integral(lambda u: u * np.log(u), narrow, wide), kl_divergence(narrow, wide)),
        Sides(integral(_jensen_shannon, p, q), 0.5 * (_relative_entropy(p, both) + _relative_entropy(q, both))),
        # laws that do not overlap reach the upper bound
        Sides(sum(apart), np.log(2)),
    ]


@identity(
    "Total variation",
    topic=TOPIC,
    formula=r"D_f(p \| q) = \tfrac12 \int |p - q| = \sup_A |p(A) - q(A)|,\ f = \tfrac12 |u - 1|;"
    r"\quad = 2 \Phi(\tfrac{|\mu_p - \mu_q|}{2 s}) - 1 \text{ for equal variances } s^2",
    covers=["PODA-104"],
    over="once",
    control="the integral of |p - q| without its 1/2",
)
def total_variation(case: Case, wrong: bool) -> list[Sides]:
    """Gauss-Legendre of q f(p / q) between the crossings of p and q, against distribution functions of {p > q}."""
    rng, found = case.rng, []
    s, m, n = rng.uniform(0.3, 1.0), *rng.uniform(-1, 1, 2)
    equal = Gaussian([m], s**2), Gaussian([n], s**2)
    for p, q in (_pair(rng), equal):

        def excess(y: float, p: GaussianMixture = p, q: GaussianMixture = q) -> float:
            return float(p.logpdf(np.array([y])) - q.logpdf(np.array([y])))

        x = line(p, q)[0][:, 0]
        sign = np.sign(p.logpdf(x[:, None]) - q.logpdf(x[:, None]))
        crossings = [brentq(excess, x[i], x[i + 1], xtol=1e-15) for i in np.flatnonzero(np.diff(sign))]
        # the pieces between crossings, cut at every standard deviation so that Gauss-Legendre sees smooth integrands
        knots = np.unique(np.concatenate([x[[0, -1]], crossings, np.arange(x[0], x[-1], 0.5)]))
        nodes, weights = legendre(32)
        width = np.diff(knots)
        y = (knots[:-1, None] + width[:, None] * nodes).reshape(-1, 1)
        ratio = np.exp(p.logpdf(y) - q.logpdf(y))
        f = (1.0 if wrong else 0.5) * np.abs(ratio - 1)
        divergence = (np.exp(q.logpdf(y)) * f) @ np.multiply.outer(width, weights).ravel()
        ends = np.concatenate([[-np.inf], crossings, [np.inf]])
        above = (np.diff(cdf(p, ends)) - np.diff(cdf(q, ends))).clip(0).sum()
        found.append(Sides(divergence, above))
    return [*found, Sides(divergence, 2 * ndtr(abs(m - n) / (2 * s)) - 1)]


@identity(
    "Optimal discriminator",
    topic=TOPIC,
    formula=r"V(D) = \mathbb{E}_p \log D + \mathbb{E}_q \log(1 - D),"
    r"\quad V(D^*) = 2\, \mathrm{JS}(p, q) - \log 4,\ D^* = \tfrac{p}{p + q},"
    r"\quad V(D^*) - V(D) = \int (p + q)\, \mathrm{KL}(D^* \| D) \ge 0",
    covers=["PODA-108"],
    over="once",
    control="log 2 in place of log 4",
)
def discriminator(case: Case, wrong: bool) -> list[Sides]:
    """The value at D* against relative entropies; at any other D it falls short by a Bernoulli KL divergence."""
    rng = case.rng
    p, q = _pair(rng)
    x, step = line(p, q)
    a, b = np.exp(p.logpdf(x)), np.exp(q.logpdf(x))
    best, other = expit(p.logpdf(x) - q.logpdf(x)), expit(rng.normal() + np.sin(rng.normal() * x[:, 0]))
    # log(1 - D*) from the logit, as 1 - D* is lost where q is small
    value = step * (a @ log_expit(p.logpdf(x) - q.logpdf(x)) + b @ log_expit(q.logpdf(x) - p.logpdf(x)))
    lower = step * (a @ np.log(other) + b @ np.log1p(-other))
    both = half_and_half(p, q)
    bernoulli = rel_entr(best, other) + rel_entr(1 - best, 1 - other)
    return [
        Sides(value, _relative_entropy(p, both) + _relative_entropy(q, both) - np.log(2 if wrong else 4)),
        Sides(value - lower, step * (a + b) @ bernoulli, scale=abs(value) + abs(lower)),
    ]
