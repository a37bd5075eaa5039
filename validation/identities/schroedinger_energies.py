r"""Motion, information and entropy along bridges of Gaussians.

    KL(P || R) = 1/2 int E |v - f|^2 dt + 1/8 int E |grad log p_t|^2 dt + [H(p) + int tr F dt - H(q)] / 2

in D^-1 and D: Benamou and Brenier's problem with Fisher's information, at whose minimum a bridge is. Along a bridge of
Brownian motion E |v|^2 / 2 - eps^2 E |grad log p_t|^2 / 8 is constant and the entropy is concave.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff.arguments import Array
from refdiff.schroedinger import GaussianBridge, action, energies
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identities.schroedinger_gaussian import TOPIC, some
from refdiff.validation.identities.schroedinger_limits import in_the_plane
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian


@identity(
    "The cost is motion, Fisher information and entropies",
    topic=TOPIC,
    formula=r"\mathrm{KL}(P \| R) = \tfrac12 \int \mathbb{E} |v - f|_{D^{-1}}^2 dt + \tfrac18 \int \mathbb{E} |\nabla"
    r" \log p_t|_D^2\, dt + \tfrac12 [H(p) + \int \mathrm{tr} F\, dt - H(q)]",
    covers=["PODB-77", "PODB-78", "PODB-88"],
    over="once",
    evidence=QUADRATURE,
    control="Fisher information with 1/4",
)
def dynamic_formulation(case: Case, wrong: bool) -> list[Sides]:
    """The velocity of the interpolant and covariances, by Gauss-Legendre sums, for Brownian motion."""
    rng, found = case.rng, []
    for name, bridge in some(rng).items():
        parts = action(bridge)
        fisher = 2 * parts.fisher if wrong else parts.fisher
        found.append(Sides(parts.kinetic + fisher + parts.entropies + parts.volume, bridge.cost))
        if name == "Brownian motion":
            nodes, weights = numeric.legendre(48)
            rates = np.array([_rates(bridge, float(t)) for t in nodes])
            found += [Sides(weights @ rates[:, 0], parts.kinetic), Sides(weights @ rates[:, 1], fisher)]
    return found


def _rates(bridge: GaussianBridge, t: float) -> tuple[float, float]:
    """E |v - f|^2 / 2 in D^-1 and E |grad log p_t|_D^2 / 8, from the values of an affine field."""
    law, d = bridge.marginal(t), in_the_plane(np.asarray(bridge.process.diffusion(t)))
    f = in_the_plane(np.asarray(bridge.process.drift(t)))

    def field(x: Array) -> Array:
        return np.asarray(bridge.model.velocity(x, t)) - x @ f.T - bridge.process.force(t)

    centre = field(law.mean()[None])[0]
    slope = (field(law.mean() + np.eye(2)) - centre).T
    moved = np.outer(centre, centre) + slope @ law.cov() @ slope.T
    return float(np.trace(np.linalg.solve(d, moved)) / 2), float(np.trace(d @ np.linalg.inv(law.cov())) / 8)


@identity(
    "No other flow of Gaussians has less motion and information",
    topic=TOPIC,
    formula=r"\frac{d}{d\delta} \int \big(\tfrac12 \mathbb{E} |v|^2 + \tfrac{\varepsilon^2}{8} \mathbb{E} |\nabla \log"
    r" p_t|^2\big) dt\, \Big|_{\delta = 0} = 0,\quad \Sigma_t + \delta\, t (1 - t) H,\ m_t + \delta\, t (1 - t) h",
    covers=["PODB-78", "PODB-88"],
    over="once",
    evidence=DERIVATIVE,
    control="Fisher information with eps^2 / 4",
)
def least_action(case: Case, wrong: bool) -> list[Sides]:
    """Benamou and Brenier's problem with information: stationary at the bridge, along random changes of its path."""
    rng, epsilon = case.rng, 0.8
    bridge = GaussianBridge(gaussian(rng, 2), gaussian(rng, 2), epsilon)
    h, both = rng.standard_normal(2), 0.3 * rng.standard_normal((2, 2))
    both = both + both.T
    nodes, weights = numeric.legendre(24)
    known = [bridge.marginal(float(t)) for t in nodes]
    c, shift = bridge.pairs.cross_covariance(), bridge.q.mean() - bridge.p.mean()

    def value(delta: float) -> Array:
        total = 0.0
        for t, w, law in zip(nodes, weights, known, strict=True):
            cov = law.cov() + delta * t * (1 - t) * both
            rate = 2 * t * bridge.q.cov() - 2 * (1 - t) * bridge.p.cov()
            rate = rate + (1 - 2 * t) * (c + c.T + epsilon * np.eye(2) + delta * both)
            # the velocity L (x - m) with the least energy is a gradient: L Sigma + Sigma L = Sigma', L symmetric
            values, axes = np.linalg.eigh(cov)
            slope = axes @ ((axes.T @ rate @ axes) / np.add.outer(values, values)) @ axes.T
            moved = shift + delta * (1 - 2 * t) * h
            motion = 0.5 * (moved @ moved + np.trace(slope @ cov @ slope))
            total += w * (motion + epsilon**2 * (1 / values).sum() / (4 if wrong else 8))
        return np.asarray(total)

    return [Sides(numeric.derivative(value, 0.0, 0.01), 0.0, scale=value(0.0))]


@identity(
    "Energy along a bridge is conserved, and entropy concave",
    topic=TOPIC,
    formula=r"\frac{d}{dt} \big(\tfrac12 \mathbb{E} |v|^2 - \tfrac{\varepsilon^2}{8} \mathbb{E} |\nabla \log p_t|^2"
    r"\big) = 0,\quad H''(p_t) = -\tfrac{\varepsilon^2}{2} \mathbb{E} \big(|\nabla^2 \log \Psi|^2 + |\nabla^2 \log"
    r" \hat\Psi|^2\big)",
    covers=["PODB-79", "PODB-82"],
    over="once",
    evidence=DERIVATIVE,
    control="the sum of motion and information; one potential's part of the bend alone",
)
def conserved_energy(case: Case, wrong: bool) -> list[Sides]:
    """Levels at five times; second differences of log det Sigma_t / 2."""
    rng, epsilon, found = case.rng, 0.8, []
    bridge = GaussianBridge(gaussian(rng, 3), gaussian(rng, 3), epsilon, 1.4)
    rates = [energies(bridge, t) for t in (0.0, 0.3, 0.7, 1.1, 1.4)]
    levels = np.array([one.kinetic + (1 if wrong else -1) * one.fisher for one in rates])
    found.append(Sides(levels, levels[0]))

    def spread(t: float) -> Array:
        return np.asarray(0.5 * np.linalg.slogdet(bridge.marginal(t).cov())[1])

    for t in (0.5, 0.9):
        one, other = (np.sum(part[0] ** 2) for part in (bridge.system.forward(t), bridge.system.backward(t)))
        bend = -0.5 * epsilon**2 * (one + (0.0 if wrong else other))
        found.append(Sides(numeric.second_derivative(spread, t, 0.02), bend))
    return found


@identity(
    "Densities along a bridge spread with eps / 2",
    topic=TOPIC,
    formula=r"\partial_t p_t = -\nabla \cdot (p_t b^+) + \tfrac{\varepsilon}{2} \Delta p_t = -\nabla \cdot (p_t b^-)"
    r" - \tfrac{\varepsilon}{2} \Delta p_t = -\nabla \cdot (p_t v),\quad dw\ \text{times}\ \sqrt{\varepsilon}",
    covers=["PODB-80", "PODB-81", "PODB-88"],
    refutes=["PODB-88"],
    over="once",
    evidence=DERIVATIVE,
    control="eps Lap p, as printed with sqrt(2 eps) dw",
)
def density_equations(case: Case, wrong: bool) -> list[Sides]:
    """Stencils of log p_t in time and space, each term relative to p_t."""
    rng, epsilon, t = case.rng, 0.6, 0.4
    bridge = GaussianBridge(gaussian(rng, 2), gaussian(rng, 2), epsilon)
    x, share = bridge.marginal(t).sample(4, rng), 1.0 if wrong else 0.5

    def log(y: Array) -> Array:
        return np.asarray(bridge.marginal(t).logpdf(y))

    rate = numeric.derivative(lambda u: bridge.marginal(u).logpdf(x), t, 0.01)
    slope = numeric.jacobian(log, x, 0.02)
    spread = numeric.laplacian(log, x, 0.02) + (slope**2).sum(axis=1)
    fields: list[tuple[Callable[..., Array], float]] = [
        (bridge.forward_drift, share), (bridge.backward_drift, -share), (bridge.velocity, 0.0)
    ]  # fmt: skip
    found = []
    for drift, part in fields:

        def field(y: Array, drift: Callable[..., Array] = drift) -> Array:
            return np.asarray(drift(y, t))

        flux = (slope * field(x)).sum(axis=1) + numeric.divergence(field, x, 0.02)
        terms = np.stack([rate, flux, -part * epsilon * spread])
        found.append(Sides(terms.sum(axis=0), 0.0, scale=np.abs(terms).sum(axis=0)))
    return found
