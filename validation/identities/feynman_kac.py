r"""Feynman and Kac's formula and the control that it solves.

    u(x, t) = E[exp(int V) phi(x_e) | x_t = x],      S = -log u = min E[int (|u|^2 / 2 - V) dt - log phi]

Closed values by Riccati's equation against joint Gaussians of the states at many times, whose sums tend to the
integrals in even powers of the step; against Cameron and Martin's cosines; and against the costs of affine controls by
their moments, of which none is less and each is more by the divergence of its paths from the best ones.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.path_measures.affine import AffineEquation, affine_forward
from refdiff.path_measures.control import AffineControl, affine_control, linear_cost
from refdiff.path_measures.doob import EndWeight
from refdiff.path_measures.feynman_kac import FeynmanKac, Quadratic
from refdiff.processes import Chain, LinearProcess
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian

TOPIC = "Conditioned and weighted paths"
BROWNIAN = AffineEquation(lambda t: 0.0, lambda t: 0.0, lambda t: 1.0, 1)


def reference(rng: np.random.Generator) -> LinearProcess:
    """A process on the plane with a force, neither matrix commuting with the other."""
    drift, noise = rng.standard_normal((2, 2, 2))
    return LinearProcess(drift - np.eye(2), noise, force=rng.standard_normal(2))


def positive(rng: np.random.Generator, size: float = 1.0) -> Quadratic:
    """A quadratic that falls in every direction, of a size."""
    root = rng.standard_normal((2, 2))
    return Quadratic(size * (root @ root.T + 0.2 * np.eye(2)), size * rng.standard_normal(2), float(rng.normal()))


@identity(
    "Feynman and Kac's formula by Riccati's equation",
    topic=TOPIC,
    formula=r"\log \mathbb{E}[e^{\int V} \varphi(x_e)] = -\tfrac12 x^\top \Pi x + \pi \cdot x + \varpi,"
    r"\quad \dot\Pi = \Pi D \Pi - \Pi F - F^\top \Pi - Q,\qquad"
    r" \mathbb{E}\, e^{-\frac{\lambda^2}{2} \int_0^T w^2} = (\cosh \lambda T)^{-1/2}",
    covers=["RDX-B8"],
    over="once",
    evidence=QUADRATURE,
    control="without Ito's term tr(D Pi) / 2",
)
def closed_form(case: Case, wrong: bool) -> list[Sides]:
    """Gaussian integrals over the states at 8 .. 128 times, with trapezoidal sums of V, extrapolated in the step."""
    rng = case.rng
    process, potential, terminal = reference(rng), positive(rng), positive(rng)
    formula = FeynmanKac(affine_forward(process, 2), potential, terminal, 0.0, 1.0)
    start = rng.standard_normal(2)

    def by_states(steps: int) -> Array:
        times = np.linspace(0.0, 1.0, steps + 1)
        joint = Chain.of(process, times).joint(Gaussian(start, 0.0))
        mean, cov = joint.means[0][2:], joint.cov()[2:, 2:]
        weights = np.append(np.full(steps - 1, 1.0), 0.5) / steps
        q, slope = np.kron(np.diag(weights), potential.curvature), np.kron(weights, potential.slope)
        q[-2:, -2:] += terminal.curvature
        slope[-2:] += terminal.slope
        # E exp(-x'Qx/2 + q.x) for x ~ N(m, S)
        tilted = np.eye(len(mean)) + q @ cov
        pulled = slope - q @ mean
        value = -0.5 * mean @ q @ mean + slope @ mean + 0.5 * pulled @ cov @ np.linalg.solve(tilted, pulled)
        own = potential.at(start[None])[0] / (2 * steps)  # half of V at the start
        constant = potential.constant * (1 - 1 / (2 * steps)) + terminal.constant
        return np.array(value - 0.5 * np.linalg.slogdet(tilted)[1] + own + constant)

    found = numeric.extrapolate([by_states(2**j) for j in range(3, 8)], first=2, step=2)
    exact = float(formula.log_h(start, 0.0))
    rate, horizon = rng.uniform(0.5, 2.0, 2)
    wave = FeynmanKac(BROWNIAN, Quadratic([[rate**2]]), Quadratic([[0.0]]), 0.0, float(horizon))
    if wrong:
        exact -= float(numeric.integral(lambda t: np.array([_ito(formula, u) for u in t]), 0.0, 1.0, 16))
    return [
        Sides(exact, found, scale=np.abs(exact) + 1),
        Sides(wave.log_h([0.0], 0.0), -0.5 * np.log(np.cosh(rate * horizon))),
    ]


def _ito(formula: FeynmanKac, t: float) -> float:
    """-tr(D Pi) / 2 at a time t: what Ito's term adds to log u per time."""
    d = operators.dense(formula.equation.diffusion_at(t), formula.equation.dim)
    return -0.5 * float(np.trace(d @ formula.quadratics(t)[0].curvature))


@identity(
    "Feynman and Kac's equation, and its logarithm",
    topic=TOPIC,
    formula=r"\partial_t u + b \cdot \nabla u + \tfrac12 \mathrm{tr}(D \nabla^2 u) + V u = 0,\quad S = -\log u:\ "
    r"\partial_t S + b \cdot \nabla S + \tfrac12 \mathrm{tr}(D \nabla^2 S) - \tfrac12 |\nabla S|_D^2 = V",
    covers=["RDX-B8"],
    over="once",
    evidence=DERIVATIVE,
    control="the potential with the other sign",
)
def equations(case: Case, wrong: bool) -> list[Sides]:
    """Stencils of u in time and space for terminal weights that are mixtures; without V Doob's function by channels."""
    rng, t = case.rng, 0.4
    process, potential = reference(rng), positive(rng)
    equation = affine_forward(process, 2)
    ends = random_mixture(2, 2, rng, "full")
    formula = FeynmanKac(equation, potential, Quadratic.log_densities(ends), 0.0, 1.0)
    x = rng.standard_normal((4, 2))
    at_x = formula.log_h(x, t)

    def u(y: Array, time: float = t) -> Array:
        return np.asarray(np.exp(formula.log_h(y, time) - at_x))

    def gradient(y: Array) -> Array:
        return np.asarray(u(y)[:, None] * formula.gradient(y, t))

    d, drift = operators.dense(equation.diffusion_at(t), 2), equation.equation().drift_at(x, t)
    slope, bend = formula.gradient(x, t), numeric.jacobian(gradient, x, 0.02)
    terms = [
        numeric.derivative(lambda s: u(x, t + s), 0.0, 0.01),
        (drift * slope).sum(axis=1),
        0.5 * np.einsum("ij,nij->n", d, bend),
        (-1 if wrong else 1) * potential.at(x),
    ]
    hessian = bend - slope[:, :, None] * slope[:, None, :]
    rate = numeric.derivative(lambda s: np.asarray(formula.log_h(x, t + s)), 0.0, 0.01)
    logarithm = (
        rate + terms[1] + 0.5 * np.einsum("ij,nij->n", d, hessian) + 0.5 * np.einsum("ni,ij,nj->n", slope, d, slope)
    )
    free = FeynmanKac(equation, Quadratic(np.zeros((2, 2))), Quadratic.log_densities(ends), 0.0, 1.0)
    weight = EndWeight(process, ends)
    size = sum(np.abs(term) for term in terms)
    return [
        Sides(sum(terms), 0.0, scale=size),
        Sides(logarithm, -terms[3], scale=size),
        Sides(free.log_h(x, t), weight.log_h(x, t), scale=np.abs(weight.log_h(x, t)) + 1),
        Sides(free.gradient(x, t), weight.gradient(x, t), scale=np.abs(weight.gradient(x, t)).max()),
    ]


@identity(
    "The least cost of steering is -log u",
    topic=TOPIC,
    formula=r"J(u) = \mathbb{E}\Big[\int_0^e \big(\tfrac12 |u|^2 - V\big) dt - \log \varphi(x_e)\Big]"
    r" = -\log h(x_0, 0) + \tfrac12 \mathbb{E}_u \int_0^e |u - u^*|^2 dt,\quad u^* = G^\top \nabla \log h",
    covers=["PODB-77"],
    over="once",
    evidence=QUADRATURE,
    control="the effort without its factor 1/2",
)
def least_cost(case: Case, wrong: bool) -> list[Sides]:
    """Moments of the best control and of another one; what the other costs more is the divergence of its paths."""
    rng = case.rng
    process, potential, terminal = reference(rng), positive(rng, 0.5), positive(rng, 0.5)
    equation, law = affine_forward(process, 2), Gaussian(rng.standard_normal(2), 0.0)
    formula = FeynmanKac(equation, potential, terminal, 0.0, 1.0)
    best = affine_control(equation, formula)
    gain, offset = 0.4 * rng.standard_normal((2, 2)), rng.standard_normal(2)
    other = AffineControl(lambda t: best.gain_at(t) + gain * t, lambda t: best.offset_at(t) + offset)
    least = float(formula.log_h(law.means[0], 0.0))
    first = linear_cost(equation, best, potential, terminal, law, 0.0, 1.0)
    second = linear_cost(equation, other, potential, terminal, law, 0.0, 1.0)
    # the same paths, with the difference of the controls for a running cost
    apart = linear_cost(
        equation,
        other,
        lambda t: Quadratic(t * t * gain.T @ gain, -t * gain.T @ offset, -0.5 * float(offset @ offset)),
        Quadratic(np.zeros((2, 2))),
        law,
        0.0,
        1.0,
    )
    share = 2.0 if wrong else 1.0
    return [
        Sides(share * first.effort + first.running + first.terminal, -least, scale=first.effort + np.abs(least) + 1),
        Sides(share * second.effort + second.running + second.terminal + least, apart.running, scale=second.effort + 1),
        Sides(second.effort, apart.effort),
    ]


@identity(
    "Law of the controlled paths: Doob's transform of what is weighted",
    topic=TOPIC,
    formula=r"dx = [b + D \nabla \log h]\, dt + G\, dw:\quad p^*(x_t) = p(x_t | x_0)\, h(x_t, t) / h(x_0, 0)"
    r"\quad (V = 0)",
    covers=["PODB-80"],
    over="once",
    evidence=QUADRATURE,
    control="half of the control, that of a flow",
)
def controlled_law(case: Case, wrong: bool) -> list[Sides]:
    """The affine equation with the best control, by Gauss steps, against Bayes' rule for a Gaussian weight."""
    rng = case.rng
    process, ends, start = reference(rng), gaussian(rng, 2), rng.standard_normal(2)
    equation = affine_forward(process, 2)
    formula = FeynmanKac(equation, Quadratic(np.zeros((2, 2))), Quadratic.log_densities(ends), 0.0, 1.0)
    best, share = affine_control(equation, formula), 0.5 if wrong else 1.0

    def linear(t: float) -> Array:
        return np.asarray(equation.linear_at(t) + share * equation.noise_at(t) @ best.gain_at(t))

    def force(t: float) -> Array:
        return np.asarray(equation.force_at(t) + share * equation.noise_at(t) @ best.offset_at(t))

    steered, found = AffineEquation(linear, force, equation.noise, 2), []
    law: GaussianMixture = Gaussian(start, 0.0)
    for s, t in pairwise((0.0, 0.5, 1.0)):
        law = steered.transition(s, t).push(law)
        known = EndWeight(process, ends).marginal(t, start)
        found += [Sides(law.mean(), known.mean()), Sides(law.cov(), known.cov())]
    return found
