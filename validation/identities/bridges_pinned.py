r"""Doob's transform: bridges, weighted ends, laws made from a point, posteriors as conditioned reversals.

    dx = [b + D grad log h] dt + G dw,      d_t h + b . grad h + 1/2 tr(D Hess h) = 0

Bridges by Bayes' rule are the solutions of their equation; a law q at the end costs KL(q || p_e), which is half of the
integral of |grad log h|_D^2; the reversed diffusion conditioned on its end x_0 is the reversal for that one point, so
that a posterior is a Doob transform too.
"""

from __future__ import annotations

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, kl_divergence, random_mixture
from refdiff.model import ExactModel
from refdiff.path_measures.affine import AffineEquation
from refdiff.path_measures.bridges import PinnedBridge, solved
from refdiff.path_measures.doob import EndLaw, EndWeight, Weight, doob
from refdiff.processes import AffineProcess, LinearProcess, Process
from refdiff.schedules import VEPower, VPLinear
from refdiff.stochastic import forward_equation, marginal_family
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import differentiable
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, smallest_std
from refdiff.validation.steps import FINE

TOPIC = "Conditioned and weighted paths"


def references(rng: np.random.Generator) -> dict[str, Process]:
    """Processes on the plane: Brownian motion, one schedule, for each axis, matrices with a force, singular noise."""
    drift, noise = rng.standard_normal((2, 2, 2))
    turning = LinearProcess(drift - np.eye(2), noise + 2 * np.eye(2), force=rng.standard_normal(2))
    return {
        "Brownian motion": AffineProcess(VEPower(0.5, T=1.0)),
        "VP": AffineProcess(VPLinear(0.5, 3.0)),
        "per axis": AffineProcess([VPLinear(0.5, 3.0), VEPower(0.5, T=1.0)]),
        "matrices": turning,
        "Langevin": LinearProcess([[0.0, 2.0], [-1.0, -2.0]], [[0.0], [1.7]]),
    }


def pulled_equation(process: Process, end: Array, share: float) -> AffineEquation:
    """The bridge of a process on the plane to a point, its `end` (2,), with that share of its pull."""

    def pull(u: float) -> tuple[Array, Array]:
        """D K' N^-1 and K of the channel to the end."""
        step = process.channel(u, process.T)
        weight = operators.apply(step.gain.T, solved(step.noise, np.eye(2)))
        return operators.dense(process.diffusion(u), 2) @ weight.T, operators.dense(step.gain, 2)

    def linear(u: float) -> Array:
        reach, gain = pull(u)
        return np.asarray(operators.dense(process.drift(u), 2) - share * reach @ gain)

    def force(u: float) -> Array:
        left = end - np.broadcast_to(process.channel(u, process.T).offset, (2,))
        return np.asarray(process.force(u) + share * pull(u)[0] @ left)

    return AffineEquation(linear, force, lambda u: operators.root(process.diffusion(u)), 2)


@identity(
    "A pinned bridge solves its equation",
    topic=TOPIC,
    formula=r"dx = [F x + u + D K^\top N^{-1} (x_e - K x - k)]\, dt + G\, dw,\ x_s = a:\quad"
    r" x_t \sim p(x_t | x_s = a, x_e);\quad F = 0:\ a + \tfrac{t - s}{e - s} (x_e - a),\ \tfrac{(t - s)(e - t)}{e - s}",
    covers=["PODA-403", "PODB-80"],
    over="once",
    control="half of the pull",
)
def bridge_equation(case: Case, wrong: bool) -> list[Sides]:
    """Bayes' rule with two channels against Gauss steps of the equation, for every kind of process."""
    rng, (s, t), found, share = case.rng, (0.2, 0.7), [], 0.5 if wrong else 1.0
    start, end = rng.standard_normal((2, 2))
    for name, process in references(rng).items():
        bridge, last = PinnedBridge(process, start, end, s), process.T
        equation = pulled_equation(process, end, share)
        law, by_steps = bridge.at(t), equation.transition(s, t).at(start)
        found += [Sides(by_steps.mean(), law.mean()), Sides(by_steps.cov(), law.cov())]
        if name == "Brownian motion":
            part = (t - s) / (last - s)
            found.append(Sides(law.mean(), start + part * (end - start)))
            found.append(Sides(law.cov(), (1 - part) * (t - s) * np.eye(2)))
    return found


@identity(
    "Doob's function solves the backward equation",
    topic=TOPIC,
    formula=r"\partial_t \log h + b \cdot \nabla \log h + \tfrac12 \mathrm{tr}(D \nabla^2 \log h)"
    r" + \tfrac12 |\nabla \log h|_D^2 = 0",
    covers=["RDX-B8", "PODB-80"],
    over="once",
    evidence=DERIVATIVE,
    control="Ito's term taken of log h alone, without |grad log h|^2 / 2",
)
def backward_equation(case: Case, wrong: bool) -> list[Sides]:
    """Stencils in time and space of h for mixtures of ends, weighted or as a law from a point, and of its gradient."""
    rng, t, found = case.rng, 0.5, []
    ends = random_mixture(2, 3, rng, "full")
    start = rng.standard_normal(2)
    for process in references(rng).values():
        for weight in (EndWeight(process, ends), EndLaw(process, ends, start)):
            x = process.kernel(t).at(start).sample(3, rng)
            found += _backward_terms(weight, process, x, t, wrong)
    return found


def _backward_terms(weight: Weight, process: Process, x: Array, t: float, wrong: bool) -> list[Sides]:
    """The terms of the backward equation of log h at points x (n, 2), which add up to 0, and the gradient."""
    pull, d = weight.gradient(x, t), operators.dense(process.diffusion(t), 2)
    bend = numeric.jacobian(lambda y: np.asarray(weight.gradient(y, t)), x, 0.02)
    terms = np.stack(
        [
            numeric.derivative(lambda u: np.asarray(weight.log_h(x, t + u)), 0.0, 0.01),
            (forward_equation(process, 2).drift_at(x, t) * pull).sum(axis=1),
            0.5 * np.einsum("ij,nij->n", d, bend),
            0.5 * np.einsum("ni,ij,nj->n", pull, d, pull),
        ]
    )
    slopes = numeric.jacobian(lambda y: np.asarray(weight.log_h(y, t)), x, 0.02)
    return [
        Sides((terms[:3] if wrong else terms).sum(axis=0), 0.0, scale=np.abs(terms).sum(axis=0)),
        Sides(slopes, pull, scale=np.abs(pull).max() + 1),
    ]


@identity(
    "What a law at the end costs",
    topic=TOPIC,
    formula=r"\tfrac12 \mathbb{E} \int_s^e |\nabla \log h|_D^2\, dt = \mathrm{KL}(q \| p_e(\cdot | x_s)),"
    r"\quad dx = [b + D \nabla \log h]\, dt + G\, dw,\ x_s\ \text{one point}",
    covers=["PODB-77", "PODD-91"],
    over="once",
    evidence=QUADRATURE,
    control="without the factor 1/2",
)
def cost_of_an_end(case: Case, wrong: bool) -> list[Sides]:
    """Gaussian ends: the mean of |grad log h|^2 over q_t, integrated over time, against the divergence of two laws."""
    rng, found = case.rng, []
    start, ends = 0.5 * rng.standard_normal(2), gaussian(rng, 2)
    for process in list(references(rng).values())[2:]:
        weight = EndLaw(process, ends, start)

        def rate(t: float, process: Process = process, weight: EndLaw = weight) -> float:
            law = weight.marginal(t)
            unit, roots = np.eye(2), np.linalg.cholesky(law.cov())
            # an affine field by its values at three points
            origin = weight.gradient(law.mean(), t)
            slope = np.stack([weight.gradient(law.mean() + e, t) - origin for e in unit], axis=1)
            d = operators.dense(process.diffusion(t), 2)
            return float(origin @ d @ origin + np.trace(roots.T @ slope.T @ d @ slope @ roots))

        # times crowd at both ends, where bridges bend
        nodes, w = numeric.legendre(48)
        angle = np.sin(0.5 * np.pi * nodes) ** 2
        speed = 0.5 * np.pi * np.sin(np.pi * nodes)
        energy = 0.5 * process.T * (w * speed) @ np.array([rate(process.T * u) for u in angle])
        free = process.kernel(process.T).at(start)
        cost = kl_divergence(ends, Gaussian(free.mean(), free.cov()))
        found.append(Sides(2 * energy if wrong else energy, cost))
    return found


@identity(
    "A reversal conditioned on its end is the reversal for that point",
    topic=TOPIC,
    formula=r"b = f - g^2 \nabla \log p_t,\ h = p(x_0 | x_t):\quad"
    r" b - g^2 \nabla_x \log h = f - g^2 \nabla_x \log p(x_t | x_0)",
    covers=["PODB-07", "PODB-80"],
    evidence=DERIVATIVE,
    control="half of the pull, that of a flow",
    needs=lambda case: differentiable(case, 3) and not case.law.covariances.singular,
    most=9,
)
def conditioned_reversal(case: ModelCase, wrong: bool) -> Sides:
    """A stencil of the posterior density by Bayes' rule; against the exact model of one data point."""
    model, t, clean = case.model, case.t, case.law.sample(1, case.rng)
    x = case.process.kernel(t).sample(np.repeat(clean, 3, axis=0), case.rng)

    def log_h(y: Array) -> Array:
        return np.array([model.posterior(one, t).logpdf(clean[0]) for one in y])

    def gradient(y: Array, u: float) -> Array:  # noqa: ARG001
        step = FINE * min(smallest_std(model.marginal(t)), float(np.min(case.process.coefficients(t).sigma)))
        return (0.5 if wrong else 1.0) * numeric.jacobian(log_h, y, step)

    conditioned = doob(marginal_family(model), gradient, to_data=True)
    point = marginal_family(ExactModel(Empirical(clean), case.process))
    g2, s = np.max(case.process.diffusion(t)), case.process.kernel(t).at(clean[0]).score(x)
    size = g2 * (np.abs(s) + np.abs(model.score(x, t)) + 1 / np.min(case.process.coefficients(t).sigma))
    right = point.drift_at(x, t)
    return Sides(conditioned.drift_at(x, t), right, scale=np.maximum(size, np.abs(right)))


@identity(
    "Paths weighted by their end follow Bayes' rule",
    topic=TOPIC,
    formula=r"dP^h / dP = h(x_e, e) / h(x_s, s):\quad p^h(x_t) = p(x_t | x_s)\, h(x_t, t) / h(x_s, s)",
    covers=["PODB-80"],
    over="once",
    control="the weight at the end forgotten: the free law",
)
def weighted_marginals(case: Case, wrong: bool) -> list[Sides]:
    """Bridges to the reweighted ends, against the free density times h."""
    rng, found, t = case.rng, [], 0.6
    ends, start = random_mixture(2, 3, rng, "full"), rng.standard_normal(2)
    for process in references(rng).values():
        weight, free = EndWeight(process, ends), process.kernel(t).at(start)
        x = free.sample(4, rng)
        logs = free.logpdf(x), weight.log_h(x, t), weight.log_h(start, 0.0)
        right = logs[0] if wrong else logs[0] + logs[1] - logs[2]
        found.append(Sides(weight.marginal(t, start).logpdf(x), right, scale=sum(np.abs(one) for one in logs)))
    return found
