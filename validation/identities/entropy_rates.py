r"""Entropy, Fisher information and divergence along the noise: de Bruijn's identity, I-MMSE, two starts.

    noise            grad_C h(x + C^(1/2) z) = J / 2,       J = E s s'                    de Bruijn
    any process      dh(p_t)/dt = tr F + tr(D J) / 2 = E div v
    a signal         grad_L I(x; L^(1/2) x + z) = E Cov[x | y] / 2                        I-MMSE
    two starts       d KL(p_t | q_t) / dt = -E |grad log p_t/q_t|^2_D / 2

Integrals are sums over lattices of the components' own axes on one side, and over a grid of x or closed on the other;
rates are stencils.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, entropy, random_mixture
from refdiff.dynamics import (
    differential_entropy,
    divergence_rate,
    entropy_rate,
    fisher_information,
)
from refdiff.expectations import Quadrature
from refdiff.metrics import divergence
from refdiff.model import ExactModel
from refdiff.objectives.errors import mean_covariance
from refdiff.objectives.information import continuous_loss
from refdiff.processes import AffineProcess, LinearProcess, Process, critically_damped_langevin
from refdiff.schedules import FlowMatching, VEPower, VPLinear
from refdiff.validation.cases import Case, LawCase, ModelCase
from refdiff.validation.conditions import differentiable
from refdiff.validation.expectations import grid, small
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, smallest_std, well_conditioned
from refdiff.validation.numeric import derivative
from refdiff.validation.steps import FINE

TOPIC = "Entropy and information along the noise"
RULE = Quadrature(1e-8)  # on the difference of two sums, of which the finer has twice the digits
COARSE = Quadrature(1e-5)


def few(law: GaussianMixture) -> bool:
    """Whether expectations over a law cost little: closed forms, or lattices on the line."""
    return law.dim == 1 or law.count == 1


def route(law: GaussianMixture) -> Quadrature | None:
    """Closed forms where there are any, and lattices elsewhere."""
    return None if law.count == 1 else RULE


def in_the_plane(rng: np.random.Generator) -> GaussianMixture:
    """Two components in the plane that are no needles."""
    return random_mixture(2, 2, rng, "full").convolve(0.3)


def symmetric(rng: np.random.Generator, dim: int) -> Array:
    """A random symmetric direction (dim, dim) of norm 1."""
    root = rng.standard_normal((dim, dim))
    return np.asarray((root + root.T) / np.linalg.norm(root + root.T, 2))


# ---------------------------------------------------------------------- de Bruijn, and rates along a process


@identity(
    "De Bruijn's identity",
    topic=TOPIC,
    formula=r"\tfrac{d}{du}\, h(x + (C + u E)^{1/2} z) = \tfrac12 \operatorname{tr}(E J),\quad"
    r" J = \mathbb{E}\,\nabla \log p\, \nabla \log p^\top = -\mathbb{E}\,\nabla^2 \log p",
    covers=["RDX-46"],
    over="laws",
    evidence=DERIVATIVE,
    control="J in place of J / 2",
    needs=lambda case: few(case.law),
    most=6,
)
def de_bruijn(case: LawCase, wrong: bool) -> Iterator[Sides]:
    """Stencils of entropies in a direction E of covariances, against J by scores; a mixture in the plane besides."""
    yield from _bruijn(case.law, case.rng, wrong)
    if case.law.count == 1:
        yield from _bruijn(in_the_plane(case.rng), case.rng, wrong)


def _bruijn(law: GaussianMixture, rng: np.random.Generator, wrong: bool) -> Iterator[Sides]:
    d, noise = law.dim, smallest_std(law) ** 2
    found = fisher_information(law.convolve(noise), route(law)).value
    for e in (np.eye(d), symmetric(rng, d)):
        slope = derivative(
            lambda u, e=e: np.asarray(
                differential_entropy(law.convolve(noise * (np.eye(d) + u * e)), route(law)).value  # type: ignore[misc]
            ),
            0.0,
            FINE,
        )
        expected = (1.0 if wrong else 0.5) * noise * np.trace(e @ found)
        yield Sides(slope, expected, scale=d)


@identity(
    "Entropy rate of a noised law",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} h(p_t) = \mathbb{E}\,\nabla \cdot v = \operatorname{tr} F + \tfrac12 \operatorname{tr} D J",
    covers=["RDX-46", "PODD-107"],
    evidence=QUADRATURE,
    control="D in place of D / 2",
    needs=lambda case: small(case) and case.law.count <= 8 and differentiable(case, 2),
    most=8,
)
def rate_of_entropy(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' velocity over lattices of the components, against scores and density rates summed over a grid of x."""
    nodes, process, t, d = grid(case, case.t), case.process, case.t, case.law.dim
    f, noise = (np.broadcast_to(part, (d,)) for part in (process.drift(t), process.diffusion(t)))
    told = entropy_rate(case.model, t, RULE).value
    spreading = (1.0 if wrong else 0.5) * nodes.mean(nodes.score**2) @ noise
    rates = case.model.log_density_rate(nodes.x, t)
    logs = case.model.log_density(nodes.x, t)
    size = np.abs(f).sum() + spreading
    return [
        Sides(told, f.sum() + spreading, scale=size),
        Sides(told, -nodes.mean(rates * logs), scale=size + nodes.mean(np.abs(rates * logs))),
    ]


def every_kind(rng: np.random.Generator) -> list[tuple[Process, int]]:
    """Scalar, per-axis and matrix processes with the dimension of their data."""
    pushed = LinearProcess(-0.5 * well_conditioned(rng, 2), well_conditioned(rng, 2), 1.0, force=rng.standard_normal(2))
    return [
        (AffineProcess(VPLinear()), 2),
        (AffineProcess(VEPower(0.5, T=1.0)), 1),
        (AffineProcess([VPLinear(), FlowMatching()]), 2),
        (critically_damped_langevin(1), 2),
        (pushed, 2),
    ]


@identity(
    "Two starts under one noise are told apart less and less",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} \mathrm{KL}(p_t \| q_t) = -\tfrac12\,\mathbb{E}_{p_t}\,"
    r"\nabla \log \tfrac{p_t}{q_t} \cdot D\, \nabla \log \tfrac{p_t}{q_t}",
    covers=["RDX-46"],
    over="once",
    evidence=DERIVATIVE,
    control="D in place of D / 2",
)
def two_starts(case: Case, wrong: bool) -> Iterator[Sides]:
    """Stencils in time of the divergence of a mixture and a Gaussian, and of its closed form for two Gaussians."""
    rng, factor = case.rng, 2.0 if wrong else 1.0
    for place, (process, dim) in enumerate(every_kind(rng)):
        yield _told_apart(process, (gaussian(rng, dim), gaussian(rng, dim)), None, factor)
        if place in (1, 2, 4):  # lattices for one process of each kind: noise that is a number, one an axis, a matrix
            first, second = (random_mixture(dim, count, rng, "full").convolve(1.0) for count in (2, 1))
            yield _told_apart(process, (first, second), COARSE, factor)


def _told_apart(
    process: Process, laws: tuple[GaussianMixture, GaussianMixture], way: Quadrature | None, factor: float
) -> Sides:
    t, h = 0.5 * process.T, 0.01 * process.T

    def apart(u: float) -> Array:
        p, q = (process.kernel(t + u).push(law) for law in laws)
        return np.asarray(divergence(p, q, "kl", way).value)

    told = factor * divergence_rate(ExactModel(laws[0], process), laws[1], t, way).value
    return Sides(derivative(apart, 0.0, h), told, scale=(apart(0.0) + laws[0].dim) / process.T)


def normal(law: GaussianMixture) -> Gaussian:
    """The Gaussian with the moments of a law."""
    return Gaussian(law.mean(), law.cov())


# ---------------------------------------------------------------------- I-MMSE


@identity(
    "Information and the least squared error",
    topic=TOPIC,
    formula=r"\tfrac{d}{du}\, I(x; (\Lambda + u E)^{1/2} x + z)"
    r" = \tfrac12 \operatorname{tr}(E\, \mathbb{E}\operatorname{Cov}[x | y]),"
    r"\quad \tfrac{d}{d\,\mathrm{snr}} I = \tfrac12 \mathrm{mmse}",
    covers=["PODB-10"],
    over="laws",
    evidence=DERIVATIVE,
    control="mmse in place of mmse / 2, the constant of complex channels",
    needs=lambda case: few(case.law),
    most=6,
)
def i_mmse(case: LawCase, wrong: bool) -> Iterator[Sides]:
    """Stencils of h(y) - h(z) in the channel's precision, against Bayes' posterior covariances."""
    yield from _of_errors(case.law, case.rng, wrong)
    if case.law.count == 1:
        yield from _of_errors(in_the_plane(case.rng), case.rng, wrong)


def _of_errors(law: GaussianMixture, rng: np.random.Generator, wrong: bool) -> Iterator[Sides]:
    d, snr = law.dim, 1 / smallest_std(law) ** 2
    still = np.zeros((d, d))

    def information(precision: Array) -> Array:
        # y' = x + Lambda^(-1/2) z says as much as y, and h(y') - h(Lambda^(-1/2) z) = I
        noise = np.linalg.inv(precision)
        told = differential_entropy(law.convolve(noise), route(law)).value
        return np.asarray(told - entropy(Gaussian(still[0], noise)))

    # the kernel of x + Lambda^(-1/2) z, Lambda = snr I, as that of a process at one time
    process = VEPower(0.5, T=2 / snr)
    left = operators.dense(mean_covariance(ExactModel(law, process), 1 / snr, route(law)), d)
    for e in (np.eye(d), symmetric(rng, d)):
        slope = derivative(lambda u, e=e: information(snr * (np.eye(d) + u * e)), 0.0, FINE)  # type: ignore[misc]
        yield Sides(slope, (1.0 if wrong else 0.5) * snr * np.trace(e @ left), scale=d)


@identity(
    "The continuous loss is a difference of entropies",
    topic=TOPIC,
    formula=r"-\tfrac12 \int_s^t \operatorname{tr}(J'\, \mathbb{E}\operatorname{Cov}[x_0 | x_u])\,du"
    r" = I(x_0; x_s) - I(x_0; x_t),"
    r"\quad I(x_0; x_t) = h(x_t) - \tfrac12 \log\det 2 \pi e\, C_t",
    covers=["PODB-10", "DMI-27"],
    over="once",
    evidence=QUADRATURE,
    control="h(x_t) alone: the noise's own entropy left out",
)
def information_lost(case: Case, wrong: bool) -> Iterator[Sides]:
    """The variational bound's integral over time of Bayes' errors, against densities at its two ends."""
    rng = case.rng
    for process, dim in every_kind(rng)[:3]:
        law = random_mixture(dim, 2, rng, "full") if dim < 2 else gaussian(rng, dim)
        model, ends = ExactModel(law, process), np.array([0.3, 0.8]) * process.T
        loss = float(continuous_loss(model, *ends, route=route(law)).value)
        known = []
        for t in ends:
            own = 0.0 if wrong else entropy(Gaussian(np.zeros(dim), process.kernel(t).noise))
            known.append(differential_entropy(model.marginal(t), route(law)).value - own)
        yield Sides(loss, known[0] - known[1], scale=dim)
