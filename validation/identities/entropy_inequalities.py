r"""Inequalities of entropy, and how it is lost on the way to rest: Shannon, Stam, log-Sobolev, the H-theorem.

    sums             N(x + y) >= N(x) + N(y),  J(x + y)^-1 >= J(x)^-1 + J(y)^-1           N = e^(2h/d) / (2 pi e)
    to rest          KL(p | pi) <= E |grad log p/pi|^2_S / 2,  pi = N(m, S);   KL falls at least like e^(-2 rho t)
    a Markov chain   d KL(p | q) / dt = -sum_(i != j) A_ij p_j (r - 1 - log r),  r = (p_i / q_i) / (p_j / q_j)

The last line is the H-theorem of any chain, whatever it settles at: finite volumes inherit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from scipy.linalg import expm
from scipy.special import rel_entr

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence, random_mixture
from refdiff.dynamics import (
    Relaxation,
    differential_entropy,
    equilibrium,
    fisher_information,
)
from refdiff.metrics import divergence, fisher_divergence
from refdiff.validation.cases import Case
from refdiff.validation.identities.entropy_rates import RULE, TOPIC, normal, route
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import covariances, gaussian, well_conditioned
from refdiff.validation.numeric import derivative
from refdiff.validation.steps import FINE

# ---------------------------------------------------------------------- sums of independent variables


def sum_of(p: GaussianMixture, q: GaussianMixture) -> GaussianMixture:
    """The law of x + y for independent x and y."""
    pairs = list(product(range(p.count), range(q.count)))
    a, b = covariances(p), covariances(q)
    return GaussianMixture.full(
        np.array([p.means[i] + q.means[j] for i, j in pairs]),
        np.array([a[i] + b[j] for i, j in pairs]),
        np.array([p.weights[i] * q.weights[j] for i, j in pairs]),
    )


@identity(
    "Entropy power, Stam's inequality and their product",
    topic=TOPIC,
    formula=r"N(x + y) \ge N(x) + N(y),\quad J(x + y)^{-1} \succeq J(x)^{-1} + J(y)^{-1},\quad"
    r" \tfrac1d N \operatorname{tr} J \ge 1,\quad N = \tfrac{1}{2 \pi e} e^{2 h / d}",
    covers=["PODA-101", "PODA-103"],
    over="once",
    evidence=QUADRATURE,
    control="deviations in place of powers: N = e^(h / d)",
)
def sums(case: Case, wrong: bool) -> Iterator[Sides]:
    """Mixtures, for which nothing is equal; Gaussians of one shape, for which both are."""
    rng = case.rng

    def power(law: GaussianMixture) -> float:
        told = differential_entropy(law, route(law)).value
        return float(np.exp((1 if wrong else 2) * told / law.dim) / (2 * np.pi * np.e) ** (0.5 if wrong else 1.0))

    def inverse(law: GaussianMixture) -> Array:
        return np.linalg.inv(fisher_information(law, route(law)).value)

    for dim in (1, 2):
        p, q = (random_mixture(dim, 2, rng, "full").affine(0.3) for _ in range(2))
        both = sum_of(p, q)
        least = np.linalg.eigvalsh(inverse(both) - inverse(p) - inverse(q)).min()
        held = [power(both) - power(p) - power(q), least, power(p) * np.trace(np.linalg.inv(inverse(p))) / dim - 1]
        yield from (Sides(min(one, 0.0), 0.0, scale=1.0) for one in held)
    shape = gaussian(rng, 3)
    first, second = Gaussian(shape.mean(), 0.7 * shape.cov()), Gaussian(rng.standard_normal(3), 1.9 * shape.cov())
    whole = sum_of(first, second)
    yield Sides(power(whole), power(first) + power(second))
    yield Sides(inverse(whole), inverse(first) + inverse(second))


# ---------------------------------------------------------------------- on the way to rest


@identity(
    "Log-Sobolev inequality of a Gaussian, and how divergence decays",
    topic=TOPIC,
    formula=r"\mathrm{KL}(p \| \pi) \le \tfrac12\,\mathbb{E}_p \Big|\nabla \log \tfrac{p}{\pi}\Big|^2_S,"
    r"\quad \mathrm{KL}(p_t \| \pi) \le e^{-2 \rho t}\, \mathrm{KL}(p_0 \| \pi),\quad \pi = \mathcal{N}(m, S)",
    covers=["RDX-46"],
    over="once",
    evidence=QUADRATURE,
    control="a rate of 4 rho, as if the diffusion constant were D and not D / 2",
)
def log_sobolev(case: Case, wrong: bool) -> Iterator[Sides]:
    """Mixtures on their way under a drift with circulation; equality for a shift along the slowest axis without any."""
    rng, factor = case.rng, 4.0 if wrong else 2.0
    for dim in (1, 2):
        target, noise = gaussian(rng, dim), well_conditioned(rng, dim)
        d, q = noise @ noise.T, rng.standard_normal((dim, dim))
        drift = equilibrium.equilibrating_drift(d, q - q.T, target.cov())
        motion = Relaxation(drift, d, -drift @ target.mean())
        slowest = -equilibrium.numerical_abscissa(drift, target.cov())
        start = random_mixture(dim, 2, rng, "full")
        before = divergence(start, target, "kl", RULE).value
        bound = fisher_divergence(start, target, RULE, weight=target.cov()).value / 2
        yield Sides(max(before - bound, 0.0), 0.0, scale=before)
        for t in (0.1, 0.5, 2.0):
            left = divergence(motion.channel(t).push(start), target, "kl", RULE).value
            yield Sides(max(left - np.exp(-factor * slowest * t) * before, 0.0), 0.0, scale=before)
    target = gaussian(rng, 3)
    values, axes = np.linalg.eigh(target.cov())
    shifted = Gaussian(target.mean() + axes[:, -1], target.cov())
    motion = Relaxation(-np.linalg.inv(target.cov()) / 2, np.eye(3), np.linalg.solve(target.cov(), target.mean()) / 2)
    rho, before = 0.5 / values[-1], kl_divergence(shifted, target)
    bound = fisher_divergence(shifted, target, weight=target.cov()).value / 2
    yield Sides(before, bound)
    for t in (0.5, 3.0):
        left = kl_divergence(normal(motion.channel(t).push(shifted)), target)
        yield Sides(left, np.exp(-factor * rho * t) * before)


def random_chain(rng: np.random.Generator, count: int) -> Array:
    """Rates A (count, count) of a chain in which some jumps are never made, columns that sum to 0."""
    rates = rng.exponential(size=(count, count)) * (rng.random((count, count)) < 0.6)
    rates += np.eye(count, k=1) + np.eye(count, k=1 - count)  # a ring, so that every state is reached
    np.fill_diagonal(rates, 0.0)
    return np.asarray(rates - np.diag(rates.sum(axis=0)))


@identity(
    "H-theorem of a Markov chain",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} \mathrm{KL}(p \| q) = -\sum_{i \ne j} A_{ij} p_j (r_{ij} - 1 - \log r_{ij}) \le 0,\quad"
    r" r_{ij} = \tfrac{p_i q_j}{q_i p_j},\quad \dot p = A p,\ \dot q = A q",
    covers=["RDX-46"],
    over="once",
    evidence=DERIVATIVE,
    control="the symmetric form with (r - 1) log r / 2, which asks for detailed balance",
)
def chain(case: Case, wrong: bool) -> Iterator[Sides]:
    """Stencils of the divergence under exact steps, and steps that never raise it: exact ones, and implicit Euler's."""
    rng, count = case.rng, 7
    rates, (p, q) = random_chain(rng, count), (rng.dirichlet(np.ones(count), 2) + 1 / count) / 2
    r = (p / q)[:, None] / (p / q)
    loss = 0.5 * (r - 1) * np.log(r) if wrong else r - 1 - np.log(r)
    told = -(rates * p * loss)[~np.eye(count, dtype=bool)].sum()

    def apart(step: Array) -> float:
        return float(rel_entr(step @ p, step @ q).sum())

    h = FINE / 4 / np.abs(rates).max()
    moved = derivative(lambda u: np.asarray(apart(expm(u * rates))), 0.0, h)
    size = (rates * p * np.abs(loss))[~np.eye(count, dtype=bool)].sum()
    yield Sides(moved, told, scale=size + np.abs(rates).max() * apart(np.eye(count)))
    before = apart(np.eye(count))
    for step in (0.1, 1.0, 10.0):
        exact, implicit = expm(step * rates), np.linalg.inv(np.eye(count) - step * rates)
        for way in (np.asarray(exact), np.asarray(implicit, dtype=np.float64)):
            yield Sides(max(apart(way) - before, 0.0), 0.0, scale=before)
