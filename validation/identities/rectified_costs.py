r"""What rectifying pairs costs and saves: exact accounts, convex costs, straightness, gradient fields.

    E|x_1 - x_0|^2 - E|z_1 - z_0|^2 = S + V          lines only
    E c(z_1 - z_0) <= E c(x_1 - x_0)                  every convex c and path a x_0 + b x_1; not with noise

Straight couplings need not be optimal: rotations are fixed, with nothing left to straighten. Fields that are gradients
undo rotations and lead Gaussian pairs to the optimal ones, at a rate known in the plane; but a small loss bounds no
distance from the optimum, and where supports stay apart a loss of 0 does not either. Sources: PODB-50..52, PODB-97,
PODB-98.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import sqrtm

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, monotone_map, random_mixture
from refdiff.expectations import Quadrature
from refdiff.interpolants import (
    InterpolantModel,
    account,
    brownian,
    displacement_cost,
    euler_error,
    linear,
    rectify,
    reflow,
    trigonometric,
)
from refdiff.metrics import wasserstein as distance
from refdiff.transport import PairLaw, gaussian_pairs, independent, optimal_pairs
from refdiff.validation.cases import Case
from refdiff.validation.identities.rectified_flows import dependent
from refdiff.validation.identities.wasserstein_bounds import below
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian
from refdiff.validation.numeric import legendre

TOPIC = "Rectified flow"
RULE = Quadrature(1e-8)


def over_unit(function: Callable[[float], float], count: int = 48) -> float:
    """int_0^1 of a function of time by `count` Gauss-Legendre nodes."""
    times, weights = legendre(count)
    return float(sum(w * function(float(t)) for t, w in zip(times, weights, strict=True)))


def moments(pairs: PairLaw, t: float) -> tuple[Array, Array]:
    """Sigma_t and C_t = Cov(x_1 - x_0, x_t) of lines between Gaussian pairs, each (d, d)."""
    a, b, k = pairs.first.cov(), pairs.second.cov(), pairs.cross_covariance()
    sigma = (1 - t) ** 2 * a + t**2 * b + t * (1 - t) * (k + k.T)
    return sigma, (1 - t) * (k.T - a) + t * (b - k)


def rotation(theta: float) -> Array:
    """The turn of the plane by theta, shape (2, 2)."""
    return np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])


# ---------------------------------------------------------------------- accounts


@identity(
    "Cost falls by straightness and variance: Gaussians",
    topic=TOPIC,
    formula=r"\mathbb{E}\|x_1 - x_0\|^2 - \mathbb{E}\|z_1 - z_0\|^2 = S + V;\quad K = 0:\ V = \tfrac{\pi}{2}"
    r"\operatorname{tr}(T\Sigma_0),\ S = (2 - \tfrac{\pi}{2})\operatorname{tr}(T\Sigma_0)",
    covers=["PODB-50", "PODB-51", "PODB-44"],
    over="once",
    evidence=QUADRATURE,
    control="x_0 and x_1 joined by sines and cosines: the same coupling, another S and V",
)
def gaussian_account(case: Case, wrong: bool) -> list[Sides]:
    """Independent pairs, and noisy rotations, whose flow has a closed form too: S and V by their definitions."""
    rng, d = case.rng, 3
    p, q = gaussian(rng, d), gaussian(rng, d)
    path = trigonometric() if wrong else linear()
    root = np.real(sqrtm(q.cov() @ np.linalg.inv(p.cov())))
    share, alone = np.trace(root @ p.cov()), account(InterpolantModel(independent(p, q), path))
    size = alone.before.value
    sides = [
        Sides(alone.variance.value, np.pi / 2 * share),
        Sides(alone.straightness.value, (2 - np.pi / 2) * share),
        Sides(alone.before.value - alone.after.value, 2 * share),
        Sides(alone.residual, 0.0, scale=size),
    ]
    # x_1 = rho R x_0 + noise: z_t = s^(1/2) R(alpha) z_0 with s = 1 - 2 (1 - c) t (1 - t), alpha' = rho sin(theta) / s
    rho, theta = float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.5, 2.5))
    c, sine = rho * np.cos(theta), rho * np.sin(theta)
    wide, unit, curl = np.sqrt(1 - c * c), Gaussian(np.zeros(2), 1.0), rotation(np.pi / 2)
    noisy = gaussian_pairs(unit, unit, rho * rotation(theta).T)
    found = account(InterpolantModel(noisy, path))

    def left(t: float) -> float:
        sigma, k = moments(noisy, t)
        return float(4 - 4 * c - np.trace(k @ np.linalg.solve(sigma, k.T)))

    def turned(t: float) -> Array:
        s, angle = 1 - 2 * (1 - c) * t * (1 - t), np.arctan((2 * t - 1) * (1 - c) / wide) + np.arctan((1 - c) / wide)
        return np.asarray(np.sqrt(s) * rotation(sine / wide * float(angle)))

    def bend(t: float) -> float:
        s, ds = 1 - 2 * (1 - c) * t * (1 - t), 2 * (1 - c) * (2 * t - 1)
        gap = turned(1.0) - np.eye(2) - (ds / 2 * np.eye(2) + sine * curl) / s @ turned(t)
        return float((gap**2).sum())

    return [
        *sides,
        Sides(found.variance.value, over_unit(left)),
        Sides(found.straightness.value, over_unit(bend)),
        Sides(found.residual, 0.0, scale=found.before.value),
    ]


@identity(
    "Cost falls by straightness and variance: mixtures on the line",
    topic=TOPIC,
    formula=r"S + V = \mathbb{E}\|x_1 - x_0\|^2 - W_2^2(p_0, p_1),\quad S = \int_0^1\mathbb{E}\|z_1 - z_0 - v(z_t, t)"
    r"\|^2 dt,\ V = \int_0^1\mathbb{E}\operatorname{tr}\operatorname{Cov}(x_1 - x_0|x_t) dt",
    covers=["PODB-50"],
    over="once",
    evidence=QUADRATURE,
    tolerance=1e-6,  # two rules agree to 1e-4, and the finer one has twice as many digits
    most=1,
    control="x_0 and x_1 joined by sines and cosines",
)
def line_account(case: Case, wrong: bool) -> list[Sides]:
    """S along quantiles, V by posterior variances, and the cost of the monotone coupling: three routes."""
    rng = case.rng
    p, q = Gaussian([0.3], 0.8), random_mixture(1, 2, rng, "full", spread=0.8).convolve(0.2)
    found = account(InterpolantModel(independent(p, q), trigonometric() if wrong else linear()), Quadrature(1e-4))
    squared = float(distance(p, q, route=RULE).value) ** 2
    size = found.before.value
    return [Sides(found.residual, 0.0, scale=size), Sides(found.after.value, squared, scale=size)]


@identity(
    "Rectified pairs cost no more, whatever the convex cost",
    topic=TOPIC,
    formula=r"\mathbb{E}\,c(z_1 - z_0) \le \int_0^1 \mathbb{E}\,c(v(x_t, t))\,dt \le \mathbb{E}\,c(x_1 - x_0)",
    covers=["PODB-50"],
    over="once",
    evidence=QUADRATURE,
    control="with noise on the way: optimal pairs whose covariances do not commute cost more after it",
)
def convex_costs(case: Case, wrong: bool) -> list[Sides]:
    """Gaussian pairs under four costs and two paths; powers of distances of mixtures, which are least on the line."""
    rng = case.rng
    p, q = Gaussian(np.zeros(2), np.diag([1.0, 4.0])), Gaussian(np.zeros(2), [[2.5, 1.5], [1.5, 2.5]])
    if wrong:
        pairs = optimal_pairs(p, q)
        after = rectify(InterpolantModel(pairs, brownian(2.0))).pairs()
        return [below(after.cost(), pairs.cost())]
    # smooth ones, for which sums over lattices converge fast
    costs: list[Callable[[Array], Array]] = [
        lambda u: np.asarray((u**2).sum(axis=1)),
        lambda u: np.asarray((u**4).sum(axis=1)),
        lambda u: np.asarray(np.cosh(0.3 * u[:, 0] + 0.2 * u[:, 1])),
        lambda u: np.asarray(np.sqrt(1 + (u**2).sum(axis=1)) ** 3),
    ]
    sides = []
    for path in (linear(), trigonometric()):
        pairs = dependent(rng, p, q)
        after, times = rectify(InterpolantModel(pairs, path)).pairs(), legendre(6)
        for cost in costs:
            first, last = (float(displacement_cost(one, cost, RULE).value) for one in (pairs, after))
            sides.append(below(last, first))
            if path.variance is None and cost is costs[0]:
                between = 0.0
                for t, weight in zip(*times, strict=True):
                    sigma, c = moments(pairs, float(t))
                    between += weight * np.trace(c @ np.linalg.solve(sigma, c.T))
                sides += [below(last, between), below(between, first)]
    one, two = (random_mixture(1, 2, rng, "full", spread=0.8).convolve(0.2) for _ in range(2))
    flow = rectify(independent(one, two))
    for power in (2.0, 4.0):
        least = float(distance(one, two, power, route=RULE).value) ** power
        paid = displacement_cost(flow, lambda u, k=power: (u**k).sum(axis=1), RULE)  # type: ignore[misc]
        sides.append(Sides(paid.value, least, scale=10 * least))  # both to 1e-8
    return sides


# ---------------------------------------------------------------------- straightness


@identity(
    "Straightness and variance of repeated rectifications add up to what the cost has fallen by",
    topic=TOPIC,
    formula=r"\sum_{k=0}^{K}(S_k + V_k) = \mathbb{E}\|x_1 - x_0\|^2 - \mathbb{E}\|z_1^{(K+1)} - z_0\|^2,\quad"
    r" \min_{k \le K} S_k \le \frac{\mathbb{E}\|x_1 - x_0\|^2}{K + 1}",
    covers=["PODB-51", "PODB-49"],
    over="once",
    evidence=QUADRATURE,
    control="the sum of all but the first",
)
def telescope(case: Case, wrong: bool) -> list[Sides]:
    """Rectifications of dependent Gaussian pairs, and of a mixture on the line: the second one leaves nothing."""
    rng = case.rng
    pairs = dependent(rng, gaussian(rng, 3), gaussian(rng, 3))
    start, sums, least, sides = pairs.cost(), 0.0, np.inf, []
    for k in range(3):
        found = account(pairs)
        sums += found.straightness.value + found.variance.value if not wrong or k else 0.0
        least = min(least, found.straightness.value)
        pairs = rectify(pairs).pairs()
        sides += [Sides(sums, start - pairs.cost(), scale=start), below(least, start / (k + 1))]
    one, two = (random_mixture(1, 2, rng, "full", spread=0.8).convolve(0.2) for _ in range(2))
    lines = reflow(independent(one, two))
    z = one.sample(5, rng)
    return [
        *sides,
        Sides(found.straightness.value, 0.0, scale=start),
        Sides(found.variance.value, 0.0, scale=start),
        # S = 0 means lines: one step of Euler's method arrives
        Sides(z + lines.velocity(z, 0.0), monotone_map(one, two, z)),
    ]


@identity(
    "Euler's steps before and after rectifying",
    topic=TOPIC,
    formula=r"n^2\,\mathbb{E}\|\hat z_1^{(n)} - z_1\|^2 \to \tfrac14 \mathbb{E}\Big\|\int_0^1 J_{1 \leftarrow t}\,"
    r"\ddot z_t\,dt\Big\|^2,\quad \mathbb{E}\|\hat z_1^{(1)} - z_1\|^2 = \operatorname{tr}\Sigma_1;\quad"
    r" \text{rectified: } 0",
    covers=["PODB-51"],
    over="once",
    evidence=ORDER,
    control="twice the constant",
)
def euler(case: Case, wrong: bool) -> list[Sides]:
    """Errors of products of matrices, extrapolated, against the integral of the acceleration along T_t = M_t."""
    rng, d = case.rng, 2
    p, q = gaussian(rng, d), gaussian(rng, d)
    pairs, root, inverse = independent(p, q), np.real(sqrtm(p.cov())), np.linalg.inv(np.real(sqrtm(p.cov())))
    values, axes = np.linalg.eigh(inverse @ q.cov() @ inverse)

    def part(function: Callable[[float], Array]) -> Callable[[float], Array]:
        return lambda t: np.asarray(root @ (axes * function(t)) @ axes.T @ inverse)

    def radius(t: float) -> Array:
        return np.asarray(np.sqrt((1 - t) ** 2 + t * t * values))

    # M_t = W r W^+, its acceleration W r'' W^+ with r'' = lambda / r^3, and M_1 M_t^-1 before it
    slow = np.zeros((d, d))
    for t, w in zip(*legendre(60), strict=True):
        slow += w * part(lambda u: radius(1.0) / radius(u) * values / radius(u) ** 3)(float(t))
    shift = 0.5 * np.trace(slow @ p.cov() @ slow.T) ** 0.5
    scaled = [n * np.sqrt(euler_error(pairs, n).value) for n in (32, 64, 128)]
    limit = (8 * scaled[2] - 6 * scaled[1] + scaled[0]) / 3
    return [
        Sides(limit, (2 if wrong else 1) * shift),
        Sides(euler_error(pairs, 1).value, np.trace(q.cov())),
        Sides(euler_error(rectify(pairs).pairs(), 1).value, 0.0, scale=1.0),
    ]
