r"""How entropic transport tends to transport without noise and to independence, and what its divergence is free of.

    V_eps = W_2^2 / 2 - (d eps / 2) log(2 pi eps) + eps (H(p) + H(q)) / 2 + (eps^2 / 8) int_0^1 I(p_t) dt + ...
    T_eps = T_0 + (eps / 2) grad log p + ...,           C_eps = C_0 - (eps / 2) I + ...
    V_eps = E c - E [c - E(c|x) - E(c|y) + E c]^2 / (2 eps) + ...       expectations of independent x and y

The text's proof that V_eps tends to V_0 takes KL(gamma_0 || p x q) for finite, which it is not where a map couples two
densities: V_eps - V_0 is of order eps log(1 / eps) there. Between points it is finite, and the proof holds.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import rel_entr

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, entropy, monotone_map, wasserstein
from refdiff.metrics import optimal_coupling
from refdiff.transport import (
    GaussianPlan,
    entropic_barycentre,
    entropic_cost,
    optimal_map,
    optimal_pairs,
    sinkhorn_divergence,
)
from refdiff.validation.cases import Case
from refdiff.validation.identities.entropic_gaussians import TOPIC, half_squares, turns
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, line
from refdiff.validation.numeric import derivative, extrapolate, integral

HALVES = 0.2 * 0.5 ** np.arange(5)  # of a scale: eps from which limits are extrapolated


def beginning(dim: int, epsilon: float, entropies: float, least: float) -> float:
    """W_2^2 / 2 - (d eps / 2) log(2 pi eps) + eps (H(p) + H(q)) / 2.

    Args:
        dim: d.
        epsilon: eps.
        entropies: H(p) + H(q).
        least: W_2^2 / 2.
    """
    return least - 0.5 * dim * epsilon * float(np.log(2 * np.pi * epsilon)) + 0.5 * epsilon * entropies


def fisher_on_the_way(p: Gaussian, q: Gaussian) -> float:
    """The integral over t in [0, 1] of tr S_t^-1, S_t = (I + t (A - I)) S (I + t (A - I)), A the map of `p` to `q`."""
    eye, a = np.eye(p.dim), operators.dense(optimal_map(p, q).gain, p.dim)

    def trace(t: Array) -> Array:
        moves = eye + t[:, None, None] * (a - eye)
        return np.asarray(np.trace(np.linalg.inv(moves @ p.cov() @ moves), axis1=1, axis2=2))

    return float(integral(trace, 0.0, 1.0))


@identity(
    "What little noise adds to the cost of Gaussians",
    topic=TOPIC,
    formula=r"V_\varepsilon = \tfrac12 \mathcal{W}_2^2 - \tfrac{D \varepsilon}{2} \log(2 \pi \varepsilon)"
    r" + \tfrac{\varepsilon}{2} \big(H(p) + H(q)\big) + \tfrac{\varepsilon^2}{8} \int_0^1 I(p_t)\, dt"
    r" + O(\varepsilon^4),"
    r"\quad \mathrm{KL}(\gamma_\varepsilon \| p \otimes q) \sim \tfrac{D}{2} \log \tfrac1\varepsilon",
    covers=["PODB-87"],
    refutes=["PODB-87"],
    over="once",
    evidence=ORDER,
    tolerance=1e-6,  # rounding of V over eps^2, and what four steps of extrapolation leave
    control="V_eps - V_0 of order eps, as with the printed finite KL of the optimal plan: no log eps",
)
def little_noise(case: Case, wrong: bool) -> list[Sides]:
    """The remainder over eps^2, and that of KL over eps, extrapolated; the other side is quadrature over the way."""
    rng, found = case.rng, []
    for d in (1, 2, 4):
        p, q = gaussian(rng, d), gaussian(rng, d)
        least, entropies = 0.5 * wasserstein(p, q) ** 2, entropy(p) + entropy(q)
        scale = float(GaussianPlan(p, q, 1.0).singular_values.min())
        costs, divergences = [], []
        for epsilon in scale * HALVES:
            plan = GaussianPlan(p, q, epsilon)
            first = beginning(d, epsilon, entropies, least)
            if wrong:
                first += 0.5 * d * epsilon * np.log(epsilon)
            costs.append((plan.value - first) / epsilon**2)
            # the derivative of V in eps
            slope = 0.5 * entropies - 0.5 * d * (np.log(2 * np.pi * epsilon) + 1)
            divergences.append((plan.kl() - slope) / epsilon)
        way = fisher_on_the_way(p, q)
        found += [
            Sides(extrapolate(costs, first=2, step=2), way / 8),
            Sides(extrapolate(divergences, first=2, step=2), way / 4),
            Sides(1 / GaussianPlan(p, q, 0.0).kl(), 0.0, scale=1.0),
        ]
    return found


@identity(
    "What little noise adds to the cost of any laws with densities",
    topic=TOPIC,
    formula=r"\big(V_\varepsilon - \tfrac12 \mathcal{W}_2^2 + \tfrac{\varepsilon}{2} \log(2 \pi \varepsilon) -"
    r" \tfrac{\varepsilon}{2} (H(p) + H(q))\big) / \varepsilon^2 \to \tfrac18 \int_0^1 I(p_t)\, dt",
    covers=["PODB-87"],
    over="once",
    evidence=ORDER,
    control="half of the Fisher information",
    most=1,
)
def little_noise_on_the_line(case: Case, wrong: bool) -> list[Sides]:
    """Mixtures on the line: turns on a grid against entropies by sums and the shortest way by quantiles."""
    rng = case.rng
    p = GaussianMixture.isotropic([[-0.8], [0.6]], [0.5, 0.8], rng.dirichlet([9, 9]))
    q = GaussianMixture.isotropic([[-0.5], [1.0]], [0.7, 0.6], rng.dirichlet([9, 9]))
    x = np.linspace(-7.0, 7.0, 401)[:, None]
    step = float(x[1, 0] - x[0, 0])
    a, b = (np.exp(law.logpdf(x)) * step for law in (p, q))
    a, b, cost = a / a.sum(), b / b.sum(), half_squares(x, x)
    fine, spacing = line(p, q)
    density = np.exp(p.logpdf(fine)) * spacing
    entropies = -sum(spacing * (np.exp(law.logpdf(fine)) * law.logpdf(fine)).sum() for law in (p, q))
    image = monotone_map(p, q, fine)
    least = 0.5 * float(density @ ((image - fine) ** 2)[:, 0])
    rates = []
    for epsilon in (0.32, 0.16, 0.08):
        u, v, kernel = np.ones(len(x)), np.ones(len(x)), np.exp(-cost / epsilon)
        for _ in range(int(24 / epsilon)):  # the correlation squared is 1 - eps / s, with s some 0.8, or less
            u = 1 / (kernel @ (b * v))
            v = 1 / (kernel @ (a * u))
        value = epsilon * float(a @ np.log(u) + b @ np.log(v))
        rates.append(np.asarray((value - beginning(1, epsilon, entropies, least)) / epsilon**2))
    # T' = p / q(T), T'' = T' (s_p - s_q(T) T'): the score at (1 - t) x + t T(x)
    first = np.exp(p.logpdf(fine) - q.logpdf(image))
    second = first * (p.score(fine)[:, 0] - q.score(image)[:, 0] * first)

    def information(t: Array) -> Array:
        stretch = 1 + np.multiply.outer(t, first - 1)
        return np.asarray((((p.score(fine)[:, 0] - np.multiply.outer(t, second) / stretch) / stretch) ** 2) @ density)

    way = float(integral(information, 0.0, 1.0, 12))
    return [Sides(extrapolate(rates, first=2, step=2), way / (16 if wrong else 8))]


@identity(
    "Where noise moves maps and couplings",
    topic=TOPIC,
    formula=r"T_\varepsilon = T_0 + \tfrac{\varepsilon}{2} \nabla \log p + O(\varepsilon^2),\quad"
    r" C_\varepsilon = C_0 - \tfrac{\varepsilon}{2} I + O(\varepsilon^2),\quad"
    r" x - \nabla(f_{pq} - f_{pp}) = T_0 + O(\varepsilon^2)",
    covers=["PODB-87"],
    over="once",
    evidence=ORDER,
    tolerance=1e-6,  # rounding over eps, and what four steps of extrapolation leave
    control="eps times the score, not half of it",
)
def moved_maps(case: Case, wrong: bool) -> list[Sides]:
    """Differences to the optimal map and coupling over eps, or over eps^2 to that there is a limit, extrapolated."""
    rng, found = case.rng, []
    for d in (1, 2, 4):
        p, q = gaussian(rng, d), gaussian(rng, d)
        x, way, best = p.sample(5, rng), optimal_map(p, q), optimal_pairs(p, q).cross_covariance()
        ideal = operators.apply(way.gain, x) + way.offset
        scale = float(GaussianPlan(p, q, 1.0).singular_values.min())
        own = np.linalg.eigvalsh(p.cov())[0]
        maps, crosses, mended = [], [], []
        for epsilon in min(scale, own) * HALVES:
            plan, within = GaussianPlan(p, q, epsilon), GaussianPlan(p, p, epsilon)
            moved = plan.barycentric(x)
            maps.append((moved - ideal) / epsilon)
            crosses.append((plan.pairs().cross_covariance() - best) / epsilon)
            mended.append((moved - within.barycentric(x) + x - ideal) / epsilon)
        share = 1.0 if wrong else 0.5
        found += [
            Sides(extrapolate(maps), share * p.score(x)),
            Sides(extrapolate(crosses), -share * np.eye(d)),
            Sides(extrapolate(mended), 0.0, scale=np.abs(p.score(x)).max()),
        ]
    return found


@identity(
    "What little noise adds to the cost of points",
    topic=TOPIC,
    formula=r"\frac{V_\varepsilon - V_0}{\varepsilon} = \min_{\gamma \text{ optimal}} \mathrm{KL}(\gamma \| a b^\top)"
    r" + O(e^{-\Delta / \varepsilon})",
    covers=["PODB-87"],
    over="once",
    evidence=QUADRATURE,
    control="the KL of an optimal plan that is not the most spread out, or of the product",
    most=2,
)
def little_noise_of_points(case: Case, wrong: bool) -> list[Sides]:
    """A linear program's plan against turns, at eps a 35th of the gap; and a square, where two plans are best."""
    rng = case.rng
    p = Empirical(rng.standard_normal((4, 2)), rng.dirichlet(np.full(4, 4.0)))
    q = Empirical(3 * rng.standard_normal((5, 2)), rng.dirichlet(np.full(5, 4.0)))
    plan = optimal_coupling(p, q, 2.0)
    masses, cost = np.zeros((4, 5)), half_squares(p.means, q.means)
    masses[plan.rows, plan.columns] = plan.masses
    f, g = (0.5 * one for one in plan.potentials)
    slack = (cost - f[:, None] - g)[masses == 0].min()
    epsilon = slack / 35  # e^-35 is 6e-16
    kl = rel_entr(masses, np.outer(p.weights, q.weights)).sum()
    ended = turns(p.weights, q.weights, cost, epsilon, 100_000)
    value = p.weights @ ended.f + q.weights @ ended.g
    # two corners of a square to the other two: either way, or half of each, which is the product
    x, y, half = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]]), np.full(2, 0.5)
    tied = turns(half, half, half_squares(x, y), 0.01)
    return [
        Sides((value - 0.5 * plan.cost) / epsilon, 0.0 if wrong else kl),
        Sides(ended.masses, masses, scale=1.0),
        Sides((half @ (tied.f + tied.g) - 0.5) / 0.01, np.log(2) if wrong else 0.0, scale=1.0),
        Sides(tied.masses, 0.25),
    ]


@identity(
    "Much noise leaves the independent coupling, and what it still sees",
    topic=TOPIC,
    formula=r"V_\varepsilon = \mathbb{E} c - \frac{1}{2 \varepsilon} \mathbb{E} \big(c - \mathbb{E}[c | x]"
    r" - \mathbb{E}[c | y] + \mathbb{E} c\big)^2 + O(\varepsilon^{-2}),"
    r"\quad C_\varepsilon = \Sigma_0 \Sigma_1 / \varepsilon + O(\varepsilon^{-3})",
    covers=["PODB-75"],
    over="once",
    evidence=ORDER,
    tolerance=1e-6,  # rounding times eps, and what five steps of extrapolation leave
    control="the variance of c, whole",
)
def much_noise(case: Case, wrong: bool) -> list[Sides]:
    """Points with any costs by turns, and Gaussians, at eps = 10, 20, 40, ... of their scale, extrapolated."""
    rng, found = case.rng, []
    a, b, cost = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(6)), rng.uniform(0, 3, (4, 6))
    rest = cost - (cost @ b)[:, None] - a @ cost + a @ cost @ b
    seen = cost - a @ cost @ b if wrong else rest
    shares = []
    for large in 10 * 2.0 ** np.arange(6):
        ended = turns(a, b, cost, large)
        shares.append((a @ ended.f + b @ ended.g - a @ cost @ b) * large)
    found.append(Sides(extrapolate(shares), -0.5 * a @ seen**2 @ b))
    for d in (1, 3):
        p, q = gaussian(rng, d), gaussian(rng, d)
        crosses = [GaussianPlan(p, q, e).pairs().cross_covariance() * e for e in 10 * 2.0 ** np.arange(6)]
        found.append(Sides(extrapolate(crosses, first=2, step=2), p.cov() @ q.cov()))
    return found


# ---------------------------------------------------------------------- the divergence


@identity(
    "The debiased divergence of Gaussians",
    topic=TOPIC,
    formula=r"S_\varepsilon = V_\varepsilon(p, q) - \tfrac12 V_\varepsilon(p, p) - \tfrac12 V_\varepsilon(q, q)"
    r" = \tfrac12 \mathcal{W}_2^2 + \tfrac{\varepsilon^2}{8} \Big(\int_0^1 I(p_t)\, dt - \tfrac{I(p) + I(q)}{2}\Big)"
    r" + O(\varepsilon^4),\quad S_\varepsilon \ge \varepsilon \Big(1 - \mathbb{E}_{p \otimes q}"
    r" e^{(f_{pp} + f_{qq} - c) / \varepsilon}\Big) \ge 0",
    covers=["PODB-87"],
    over="once",
    evidence=ORDER,
    tolerance=1e-6,  # as above
    control="V_eps itself, which is not 0 for equal laws and is eps log eps from W_2^2 / 2",
)
def debiased(case: Case, wrong: bool) -> list[Sides]:
    """The remainder over eps^2, extrapolated; the bound by an integral of e to a quadratic; what equal laws give."""
    rng, found = case.rng, []
    ask = entropic_cost if wrong else sinkhorn_divergence
    for d in (1, 2, 4):
        p, q = gaussian(rng, d), gaussian(rng, d)
        least = 0.5 * wasserstein(p, q) ** 2
        scale = float(min(np.linalg.eigvalsh(one.cov())[0] for one in (p, q)))
        rates = [(ask(p, q, e) - least) / e**2 for e in scale * HALVES]
        way = fisher_on_the_way(p, q) - 0.5 * sum(np.trace(np.linalg.inv(one.cov())) for one in (p, q))
        found.append(Sides(extrapolate(rates, first=2, step=2), way / 8))
        found.append(Sides(ask(p, p, 0.7), 0.0, scale=np.trace(p.cov())))
        bound = 0.7 * (1 - shared_kernel(p, q, 0.7))
        value = ask(p, q, 0.7)
        found.append(Sides(min(bound, 0.0), 0.0, scale=1.0))
        found.append(Sides(min(value - bound, 0.0), 0.0, scale=1.0))
    return found


def shared_kernel(p: Gaussian, q: Gaussian, epsilon: float) -> float:
    """E exp((f_pp(x) + f_qq(y) - c(x, y)) / eps), eps = `epsilon`, for independent x ~ p and y ~ q, by determinants."""
    f, g, d = GaussianPlan(p, p, epsilon).f, GaussianPlan(q, q, epsilon).f, p.dim
    eye, shift = np.eye(d), p.mean() - q.mean()
    blocks = [np.linalg.inv(one.cov()) + (eye - operators.dense(h.hessian, d)) / epsilon
              for one, h in ((p, f), (q, g))]  # fmt: skip
    matrix = np.block([[blocks[0], -eye / epsilon], [-eye / epsilon, blocks[1]]])
    # exponent at the means, its slope there, and its curvature -matrix; f and g have no slope at their own means
    slope = np.concatenate([f.slope - shift, g.slope + shift]) / epsilon
    peak = (f.value + g.value - 0.5 * shift @ shift) / epsilon + 0.5 * slope @ np.linalg.solve(matrix, slope)
    logs = [np.linalg.slogdet(one)[1] for one in (p.cov(), q.cov(), matrix)]
    return float(np.exp(peak - 0.5 * sum(logs)))


def objective(kind: str, p: Gaussian, epsilon: float, centre: Array, direction: Array, h: float) -> Array:
    """What barycentres of one law p make least, for eps = `epsilon`, at S = `centre` + h `direction`, (d, d) each.

    Args:
        kind: of barycentre.
    """
    q = Gaussian(p.mean(), centre + h * direction)
    if kind == "debiased":
        return np.asarray(sinkhorn_divergence(p, q, epsilon))
    return np.asarray(entropic_cost(p, q, epsilon) - (epsilon * entropy(q) if kind == "entropy" else 0.0))


@identity(
    "The law nearest in entropic cost is narrower",
    topic=TOPIC,
    formula=r"\arg\min_q V_\varepsilon(p, q):\ \Sigma_q = (\Sigma_p - \varepsilon I)_+,\quad"
    r" \arg\min_q \{V_\varepsilon(p, q) - \varepsilon H(q)\}:\ \Sigma_q = \Sigma_p + \varepsilon I,\quad"
    r" \arg\min_q S_\varepsilon(p, q) = p",
    covers=["PODB-74"],
    over="once",
    evidence=DERIVATIVE,
    control="p itself for all three",
)
def narrower(case: Case, wrong: bool) -> list[Sides]:
    """Stencils of the three objectives in a random direction of S vanish there; barycentres of one law are these."""
    rng, found = case.rng, []
    for d in (1, 3):
        p = gaussian(rng, d)
        epsilon = 0.4 * float(np.linalg.eigvalsh(p.cov())[0])
        direction = rng.standard_normal((d, d))
        direction = 0.5 * (direction + direction.T) / np.linalg.norm(direction, 2)
        for kind, shift in (("product", -epsilon), ("entropy", epsilon), ("debiased", 0.0)):
            centre = p.cov() + (0.0 if wrong else shift) * np.eye(d)

            way = partial(objective, kind, p, epsilon, centre, direction)
            slope = derivative(way, 0.0, 0.02 * epsilon)
            found.append(Sides(slope, 0.0, scale=1.0))
            found.append(Sides(entropic_barycentre([p, p], epsilon, kind=kind).cov(), centre, scale=1.0))
    return found
