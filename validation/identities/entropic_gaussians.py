r"""Entropic transport of Gaussians and of points: closed forms against turns on nodes, and what holds for any coupling.

    E_pi c + eps KL(pi || p x q) = eps KL(pi || R) - eps log Z = V_eps + eps KL(pi || gamma),   R = p q e^(-c / eps) / Z

for every coupling pi. The other side of closed forms is Sinkhorn's algorithm, written here in a few lines, on nodes of
Gauss and Hermite, where it converges like quadrature does: at eps as large as the covariances 40 of them are enough.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, entropy, kl_divergence
from refdiff.transport import GaussianPlan, PairLaw, Regulariser, entropic_plan, gaussian_pairs, sinkhorn
from refdiff.validation.cases import Case
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, square_root, well_conditioned
from refdiff.validation.numeric import hermite, product_rule

TOPIC = "Entropic transport"


class Turns(NamedTuple):
    """What Sinkhorn's algorithm ends with: potentials f (n,) and g (m,), masses (n, m) and the errors met (k,)."""

    f: Array
    g: Array
    masses: Array
    errors: Array


def turns(a: Array, b: Array, cost: Array, epsilon: float, most: int = 500) -> Turns:
    """Turns of masses a (n,) and b (m,) for a `cost` (n, m) and eps = `epsilon`, `most` or until no error is felt."""
    f, g, errors = np.zeros(len(a)), np.zeros(len(b)), list[float]()
    while len(errors) < most and (not errors or errors[-1] > 1e-15):
        f = -epsilon * log_mean((g - cost) / epsilon, b)
        before, g = g, -epsilon * log_mean((f - cost.T) / epsilon, a)
        errors.append(float(b @ np.abs(np.expm1((before - g) / epsilon))))
    masses = a[:, None] * b * np.exp((f[:, None] + g - cost) / epsilon)
    return Turns(f, g, masses, np.array(errors))


def log_mean(x: Array, weights: Array) -> Array:
    """log sum_j w_j exp(x_ij) of rows x (n, m) and `weights` (m,)."""
    peak = x.max(axis=1)
    return np.asarray(peak + np.log(np.exp(x - peak[:, None]) @ weights))


def nodes(law: Gaussian, count: int) -> tuple[Array, Array]:
    """Points (n, d) and masses (n,) of a Gaussian, `count` along each axis."""
    z, w = product_rule(hermite(count), law.dim)
    return law.mean() + z @ square_root(law.cov()), w


def half_squares(x: Array, y: Array) -> Array:
    """|x_i - y_j|^2 / 2 of points x (n, d) and y (m, d)."""
    return np.asarray(0.5 * ((x[:, None] - y) ** 2).sum(axis=-1))


def joint(pairs: PairLaw) -> Gaussian:
    """The law on R^2d of a Gaussian coupling `pairs`."""
    both = pairs.mixture()
    return Gaussian(both.means[0], both.cov())


def some_coupling(rng: np.random.Generator, p: Gaussian, q: Gaussian) -> PairLaw:
    """Gaussians with random correlations, the largest of them 0.8."""
    k = rng.standard_normal((p.dim, p.dim))
    return gaussian_pairs(p, q, square_root(p.cov()) @ (0.8 * k / np.linalg.norm(k, 2)) @ square_root(q.cov()))


@identity(
    "Entropic coupling of Gaussians",
    topic=TOPIC,
    formula=r"C = \tfrac12 \big(\Sigma_0^{1/2} D_\varepsilon \Sigma_0^{-1/2} - \varepsilon I\big),\quad"
    r" D_\varepsilon = (4 \Sigma_0^{1/2} \Sigma_1 \Sigma_0^{1/2} + \varepsilon^2 I)^{1/2},\quad"
    r" \mathrm{KL}(\gamma \| p \otimes q) = -\tfrac12 \log\det(I - \Sigma_0^{-1} C \Sigma_1^{-1} C^\top)",
    covers=["PODB-74", "PODB-75"],
    over="once",
    evidence=QUADRATURE,
    control="for |x - y|^2 the same eps as for its half",
    most=2,
)
def entropic_coupling(case: Case, wrong: bool) -> list[Sides]:
    """Turns on Hermite nodes, on the line and in the plane, against the printed form by roots and the library's."""
    rng, found = case.rng, []
    for d, count in ((1, 40), (1, 40), (2, 18)):
        p, q = gaussian(rng, d), gaussian(rng, d)
        epsilon = float(2 * np.sqrt(np.linalg.norm(p.cov(), 2) * np.linalg.norm(q.cov(), 2)))
        (x, a), (y, b) = nodes(p, count), nodes(q, count)
        ended = turns(a, b, 2 * half_squares(x, y), 2 * epsilon)
        cross = np.einsum("ij,ik,jl->kl", ended.masses, x - p.mean(), y - q.mean())
        e = 2 * epsilon if wrong else epsilon
        root = square_root(p.cov())
        middle = square_root(4 * root @ q.cov() @ root + e**2 * np.eye(d))
        c = 0.5 * (root @ middle @ np.linalg.inv(root) - e * np.eye(d))
        plan = GaussianPlan(p, q, 2 * e, Channel(noise=0.5))
        product = np.linalg.solve(p.cov(), c) @ np.linalg.solve(q.cov(), c.T)
        size = np.sqrt(np.trace(p.cov()) * np.trace(q.cov()))
        kl = rel_entr(ended.masses, np.outer(a, b)).sum()
        found += [
            Sides(cross, c, scale=size),
            Sides(c, plan.pairs().cross_covariance(), scale=size),
            Sides(kl, -0.5 * np.linalg.slogdet(np.eye(d) - product)[1]),
            Sides(kl, plan.kl()),
            Sides((ended.masses * 2 * half_squares(x, y)).sum() + 2 * epsilon * kl, plan.value),
            Sides(a @ ended.f + b @ ended.g, plan.value),
            Sides(ended.f - a @ ended.f, plan.f(x) - a @ plan.f(x), scale=1 + np.abs(plan.f(x)).max()),
            Sides(ended.masses @ y / a[:, None], plan.barycentric(x), scale=1 + np.abs(plan.barycentric(x))),
        ]
    return found


@identity(
    "Entropic costs that any quadratic makes of Gaussians",
    topic=TOPIC,
    formula=r"c = \tfrac12 \|y - A x - b\|_{N^{-1}}^2:\quad \Lambda_{xy} = -A^\top N^{-1} / \varepsilon,\quad"
    r" \mathbb{E} f + \mathbb{E} g = \mathbb{E} c + \varepsilon \mathrm{KL}(\gamma \| p \otimes q)",
    covers=["PODB-74"],
    over="once",
    control="the precision of |x - y|^2 / 2, -I / eps, whatever the cost is",
)
def precision_of_pairs(case: Case, wrong: bool) -> list[Sides]:
    """The inverse of the pair's covariance, and the divergence of laws on R^2d, against the closed forms."""
    rng, found = case.rng, []
    for d in (1, 2, 5):
        p, q, noise = gaussian(rng, d), gaussian(rng, d), gaussian(rng, d).cov()
        gain, offset, epsilon = well_conditioned(rng, d), rng.standard_normal(d), float(rng.uniform(0.5, 2.0))
        plan = GaussianPlan(p, q, epsilon, Channel(gain, offset, noise))
        both = joint(plan.pairs())
        pull = np.eye(d) if wrong else np.linalg.solve(noise, gain)
        precision = np.linalg.inv(both.cov())
        gap = np.hstack([-gain, np.eye(d)])
        residual = Gaussian(gap @ both.mean() - offset, gap @ both.cov() @ gap.T)
        square = residual.cov() + np.outer(residual.mean(), residual.mean())
        cost = 0.5 * np.trace(np.linalg.solve(noise, square))
        product = Gaussian(both.mean(), joint(gaussian_pairs(p, q, 0.0)).cov())
        found += [
            Sides(precision[:d, d:], -pull.T / epsilon, scale=np.abs(precision).max()),
            Sides(plan.value, cost + epsilon * kl_divergence(both, product)),
        ]
    return found


@identity(
    "Entropic transport is the static Schroedinger problem",
    topic=TOPIC,
    formula=r"\mathbb{E}_\pi c + \varepsilon \mathrm{KL}(\pi \| p \otimes q) = \varepsilon \mathrm{KL}(\pi \| \tilde R)"
    r" - \varepsilon \log Z = V_\varepsilon + \varepsilon \mathrm{KL}(\pi \| \gamma) \quad \forall \pi \in \Pi(p, q)",
    covers=["PODB-84"],
    over="once",
    control="without log Z: equal values, not only equal minimizers",
)
def static_problem(case: Case, wrong: bool) -> list[Sides]:
    """Random couplings: of points, by sums, and of Gaussians, with R a Gaussian on R^2d and Z its integral."""
    rng, found = case.rng, []
    x, y = rng.standard_normal((4, 2)), rng.standard_normal((6, 2))
    a, b, cost, epsilon = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(6)), half_squares(x, y), 0.7
    prior = np.outer(a, b) * np.exp(-cost / epsilon)
    log_z = 0.0 if wrong else np.log(prior.sum())
    best = turns(a, b, cost, epsilon)
    value = a @ best.f + b @ best.g
    for _ in range(3):
        other = turns(a, b, rng.standard_normal((4, 6)), 1.0).masses
        objective = (other * cost).sum() + epsilon * rel_entr(other, np.outer(a, b)).sum()
        found += [
            Sides(objective, epsilon * (rel_entr(other, prior / prior.sum()).sum() - log_z)),
            Sides(objective, value + epsilon * rel_entr(other, best.masses).sum(), scale=1.0),
        ]
    for d in (1, 3):
        p, q = gaussian(rng, d), gaussian(rng, d)
        shift = np.linalg.solve(p.cov(), p.mean()), np.linalg.solve(q.cov(), q.mean())
        inverses, eye = (np.linalg.inv(p.cov()), np.linalg.inv(q.cov())), np.eye(d) / epsilon
        precision = np.block([[inverses[0] + eye, -eye], [-eye, inverses[1] + eye]])
        middle = np.linalg.solve(precision, np.concatenate(shift))
        reference = Gaussian(middle, np.linalg.inv(precision))
        # log R = log p + log q - c / eps - log Z, at the middle
        u, v = middle[:d], middle[d:]
        at_middle = p.logpdf(u) + q.logpdf(v) - 0.5 * ((u - v) ** 2).sum() / epsilon - reference.logpdf(middle)
        plan, moved = GaussianPlan(p, q, epsilon), some_coupling(rng, p, q)
        product = joint(gaussian_pairs(p, q, 0.0))
        objective = 0.5 * moved.cost() + epsilon * kl_divergence(joint(moved), product)
        from_reference = kl_divergence(joint(moved), reference) - (0.0 if wrong else at_middle)
        found += [
            Sides(objective, epsilon * from_reference),
            Sides(objective, plan.value + epsilon * kl_divergence(joint(moved), joint(plan.pairs()))),
        ]
    return found


@identity(
    "Couplings of n sources and m targets are n x m",
    topic=TOPIC,
    formula=r"\gamma \in \mathbb{R}^{n \times m},\ \gamma 1 = a,\ \gamma^\top 1 = b:\quad"
    r" \mathrm{KL}(\gamma \| a b^\top) = -H(\gamma) + H(a) + H(b),"
    r"\quad n m \text{ masses under } n + m - 1 \text{ conditions}",
    covers=["PODB-74"],
    refutes=["PODB-74"],
    over="once",
    control="an n x n matrix, as printed: its columns are the first n targets only",
)
def rectangular(case: Case, wrong: bool) -> list[Sides]:
    """Points: n = 3 and m = 5; the library's plan and a random coupling have both sums, and entropies add up."""
    rng, n, m = case.rng, 3, 5
    p, q = (Empirical(rng.standard_normal((k, 2)), rng.dirichlet(np.full(k, 5.0))) for k in (n, m))
    a, b = p.weights, q.weights
    plan = sinkhorn(p, q, 0.6, tolerance=1e-14)
    found = []
    for masses in (plan.coupling(), turns(a, b, rng.standard_normal((n, m)), 1.0).masses):
        kept = masses[:, :n] if wrong else masses
        shannon = [-(w * np.log(w)).sum() for w in (kept, a, b)]
        kl = rel_entr(masses, np.outer(a, b)).sum()
        found += [Sides(kept.sum(axis=1), a), Sides(kl, shannon[1] + shannon[2] - shannon[0])]
    conditions = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return [
        *found,
        Sides(np.linalg.matrix_rank(conditions), n + m - 1),
        Sides(plan.kl(), rel_entr(plan.coupling(), np.outer(a, b)).sum()),
    ]


@identity(
    "Regularisers by relative entropy and by entropy",
    topic=TOPIC,
    formula=r"\varepsilon \mathrm{KL}(\gamma \| p \otimes q) = -\varepsilon H(\gamma) + \varepsilon H(p)"
    r" + \varepsilon H(q),\quad \text{EOT}^{\|x - y\|^2}_{\lambda} = 2\, \text{EOT}^{\|x - y\|^2 / 2}_{\lambda / 2}",
    covers=["PODB-74"],
    over="once",
    control="eps = lambda for |x - y|^2",
)
def regularisers(case: Case, wrong: bool) -> list[Sides]:
    """Entropies of Gaussians on R^2d and of masses, with the cost |x - y|^2, against what is converted."""
    rng, weight = case.rng, float(case.rng.uniform(0.5, 1.5))
    way = Regulariser(weight, 0.5 if wrong else 1.0, "entropy")
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    pairs = GaussianPlan(p, q, weight, Channel(noise=0.5)).pairs()
    objective = pairs.cost() - weight * entropy(joint(pairs))
    found = [Sides(objective, way.objective(GaussianPlan(p, q, way.epsilon).value, entropy(p), entropy(q)))]
    first, second = (Empirical(rng.standard_normal((k, 2)), rng.dirichlet(np.full(k, 5.0))) for k in (4, 5))
    cost = 2 * half_squares(first.means, second.means)
    masses = turns(first.weights, second.weights, cost, weight).masses
    h = [-(one.weights * np.log(one.weights)).sum() for one in (first, second)]
    value = entropic_plan(first, second, way.epsilon, tolerance=1e-14).value
    return [*found, Sides((masses * cost).sum() + weight * (masses * np.log(masses)).sum(), way.objective(value, *h))]


@identity(
    "How fast turns converge",
    topic=TOPIC,
    formula=r"e_{n+1} / e_n \to k^2,\quad k = \frac{2 s}{\varepsilon + \sqrt{\varepsilon^2 + 4 s^2}}"
    r" = \text{the largest correlation of } \gamma",
    covers=["PODB-75"],
    over="once",
    evidence=ORDER,
    tolerance=1e-7,  # errors of 1e-8 and their rounding, 1e-16
    control="one factor k a turn of both",
)
def rate_of_turns(case: Case, wrong: bool) -> list[Sides]:
    """The ratio of the marginal errors of late turns on nodes; the slowest error is linear in x, of eigenvalue k."""
    rng, found = case.rng, []
    for share in (0.8, 2.0):
        p, q = Gaussian([rng.uniform(0.5, 1.0)], rng.uniform(0.5, 1.5)), Gaussian([-0.5], rng.uniform(0.5, 1.5))
        s = float(np.sqrt(p.cov() * q.cov()).item())
        epsilon = share * s
        (x, a), (y, b) = nodes(p, 60), nodes(q, 60)
        k = 2 * s / (epsilon + np.hypot(epsilon, 2 * s))
        last = int(np.log(1e-7) / np.log(k**2))
        errors = turns(a, b, half_squares(x, y), epsilon, last + 1).errors
        found.append(Sides(errors[-1] / errors[-2], k if wrong else k**2))
        plan = GaussianPlan(p, q, epsilon)
        found.append(Sides(plan.pairs().cross_covariance(), [[k * s]]))
    return found
