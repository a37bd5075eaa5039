r"""Markovian fitting: the step of cross-covariances, its rates, what it wins, and marginals of mixtures.

int_0^1 du / (s (1 - u)^2 + B u (1 - u) + t u^2) = D^(-1/2) log((B + D^(1/2)) / (B - D^(1/2))),   D = B^2 - 4 s t
                                                 = 2 |D|^(-1/2) arctan2(|D|^(1/2), B)             for D < 0
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, kl_divergence, random_mixture
from refdiff.interpolants import InterpolantModel, brownian
from refdiff.schroedinger import GaussianBridge, ReferenceBridges, end_pairs, markovian_rates
from refdiff.transport import gaussian_pairs, independent
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian
from refdiff.validation.numeric import derivative, divergence, dot, laplacian, legendre

TOPIC = "Schroedinger bridges"


def next_cross(s: float, t: float, c: float, epsilon: float) -> float:
    """(s t)^(1/2) exp(-(eps / 2) int du / P_u) of variances s and t, a covariance c and eps = `epsilon`."""
    b = 2 * c + epsilon
    d = b * b - 4 * s * t
    if d > 0:
        passed = np.log((b + np.sqrt(d)) / (b - np.sqrt(d))) / np.sqrt(d)
    else:
        passed = 2 * np.arctan2(np.sqrt(-d), b) / np.sqrt(-d)
    return float(np.sqrt(s * t) * np.exp(-0.5 * epsilon * passed))


def of_line(r: float) -> float:
    """The rate of Markovian fitting on the line, where c / (c + eps) = `r`."""
    return float(r / (1 - r) * ((1 + r) / (1 - r) * np.log(1 / r) - 2))


@identity(
    "A step of Markovian fitting on the line",
    topic=TOPIC,
    formula=r"c \to s_0 s_1 \exp\Big(-\frac{\varepsilon}{2}\int_0^1 \frac{du}{\Sigma_u}\Big),\qquad c = c^* \iff"
    r" c(c + \varepsilon) = s_0^2 s_1^2",
    covers=["PODB-82", "PODB-92"],
    control="the whole of eps in place of its half",
    over="once",
)
def line_step(case: Case, wrong: bool) -> list[Sides]:
    """The flow of the affine drift against the integral in closed form, from any c and at the fixed point."""
    rng, sides = case.rng, []
    for epsilon in (0.4, 5.0):
        s, t = rng.uniform(0.3, 2.0, 2)
        fixed = (-epsilon + np.sqrt(epsilon**2 + 4 * s * t)) / 2
        for c in (float(rng.uniform(-0.9, 0.9) * np.sqrt(s * t)), fixed):
            pairs = gaussian_pairs(Gaussian([0.3], s), Gaussian([-1.0], t), c)
            found = end_pairs(InterpolantModel(pairs, ReferenceBridges(epsilon))).cross_covariance()
            expected = next_cross(s, t, c, epsilon)
            sides.append(Sides(found, expected**2 / np.sqrt(s * t) if wrong else expected))
            if c == fixed:
                sides.append(Sides(found, fixed))
    return sides


@identity(
    "Rates of Markovian fitting",
    topic=TOPIC,
    formula=r"\frac{dc'}{dc} = \frac{r}{1-r}\Big(\frac{1+r}{1-r}\log\frac{1}{r} - 2\Big),\qquad \text{of turns in the"
    r" plane}:\ \frac{r}{1-r}\log\frac{1}{r},\qquad r = \frac{c}{c + \varepsilon}",
    covers=["PODB-92"],
    control="the rate r^2 of proportional fitting",
    over="once",
    evidence=DERIVATIVE,
    most=2,
)
def rates(case: Case, wrong: bool) -> list[Sides]:
    """Stencils of the closed step on the line against the formula, and the library there and for multiples of I."""
    rng, sides = case.rng, []
    for epsilon in (0.05, 0.7, 5.0):
        s, t = (float(v) for v in rng.uniform(0.3, 2.0, 2))
        c = (-epsilon + np.sqrt(epsilon**2 + 4 * s * t)) / 2
        r = c / (c + epsilon)
        rate = r * r if wrong else of_line(r)

        def step(x: float, s: float = s, t: float = t, epsilon: float = epsilon) -> Array:
            return np.array([next_cross(s, t, x, epsilon)])

        bridge = GaussianBridge(Gaussian([0.0], s), Gaussian([1.0], t), epsilon)
        sides += [Sides(derivative(step, c, 0.02 * c), rate, 1.0), Sides(markovian_rates(bridge.model), rate, 1.0)]
    plane = GaussianBridge(Gaussian([0.0, 0.0], s), Gaussian([1.0, 0.0], t), 0.7)
    c = plane.pairs.cross_covariance()[0, 0]
    turn = c / 0.7 * np.log(1 + 0.7 / c)
    return [*sides, Sides(markovian_rates(plane.model), [turn, *[of_line(c / (c + 0.7))] * 3], 1.0)]


@identity(
    "What a Markovian projection wins",
    topic=TOPIC,
    formula=r"\mathrm{KL}(\Pi\|P^*) = \mathrm{KL}(\Pi\|M) + \mathrm{KL}(M\|P^*) = \frac{1}{2\varepsilon}\int_0^1"
    r" \mathbb{E}\Big|\mathbb{E}\Big[\frac{x_1 - x_t}{1-t}\Big|x_0,x_t\Big] - b_M\Big|^2 + \mathbb{E}|b_M - b_*|^2 dt",
    covers=["PODB-92", "PODB-76"],
    control="without the first part, what is lost by not being Markov",
    over="once",
    evidence=QUADRATURE,
)
def projection(case: Case, wrong: bool) -> Sides:
    """Divergence of the pairs against integrals over time of what drifts differ by, from matrices alone."""
    rng, epsilon = case.rng, 0.8
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    best, eye = GaussianBridge(p, q, epsilon).pairs, np.eye(2)
    pairs = independent(p, q)
    s, t, c = p.cov(), q.cov(), np.zeros((2, 2))
    nodes, weights = legendre(64)
    total = 0.0
    for u, w in zip(nodes, weights, strict=True):
        spread = (1 - u) ** 2 * s + u**2 * t + u * (1 - u) * ((c + c.T) + epsilon * eye)
        of_end = ((1 - u) * c.T + u * t) @ np.linalg.inv(spread)  # E[x_1 | x_u]
        own = best.cross_covariance()
        noise = (1 - u) ** 2 * s + u**2 * t + u * (1 - u) * ((own + own.T) + epsilon * eye)
        of_best = ((1 - u) * own.T + u * t) @ np.linalg.inv(noise)
        apart = of_end - of_best  # marginals have one mean
        seen = np.block([[s, (1 - u) * s + u * c], [((1 - u) * s + u * c).T, spread]])
        both = np.hstack([c.T, (1 - u) * c.T + u * t])
        lost = np.trace(both @ np.linalg.solve(seen, both.T)) - np.trace(of_end @ spread @ of_end.T)
        won = np.trace(apart @ spread @ apart.T)
        total += w * (won + (0.0 if wrong else lost)) / (2 * epsilon * (1 - u) ** 2)
    return Sides(kl_divergence(pairs.mixture(), best.mixture()), total)


@identity(
    "Markovian projections of mixtures keep the marginals",
    topic=TOPIC,
    formula=r"\partial_t \log p_t = -\nabla\cdot b - b\cdot\nabla\log p_t + \frac{\varepsilon}{2}\frac{\Delta p_t}{p_t}"
    r",\qquad b = \mathbb{E}\Big[\frac{x_1 - x_t}{1-t}\Big|x_t\Big]",
    covers=["PODB-92", "PODB-80"],
    control="the velocity for the drift",
    over="once",
    evidence=DERIVATIVE,
)
def marginals(case: Case, wrong: bool) -> Sides:
    """Stencils of p_t in time and space, with the drift from the expected end of pairs of mixtures."""
    rng, epsilon, t = case.rng, 0.6, 0.4
    model = InterpolantModel(
        independent(random_mixture(2, 2, rng, "full"), random_mixture(2, 3, rng, "full")), brownian(epsilon)
    )
    x = model.sample(4, t, rng)

    def drift(y: Array) -> Array:
        return np.asarray(model.velocity(y, t) if wrong else (model.expected_second(y, t) - y) / (1 - t))

    def density(y: Array) -> Array:
        return np.asarray(np.exp(model.log_density(y, t)))

    h = 0.008
    rate = derivative(lambda u: np.asarray(model.log_density(x, u)), t, h)
    curved = 0.5 * epsilon * laplacian(density, x, h) / density(x)
    moved = divergence(drift, x, h) + dot(drift(x), model.score(x, t))
    return Sides(rate, curved - moved, np.abs(moved).max() + np.abs(curved).max())
