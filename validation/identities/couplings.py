r"""Couplings: which of them bound W2, which scores are one-sided Lipschitz, and the term that noise adds.

For a coupling y = T(x) of p and q, by parts,

    E (x - y).(grad log p(x) - grad log q(y)) = E tr(DT + DT^-1) - 2 d

which is >= 0 where DT is symmetric and positive, as of every optimal map and of every increasing one on the line, and
4 (cos theta - 1) where it turns the plane by theta. The proof by flows of equations with noise needs it >= 0; flows of
affine scores with a curl do turn, and there the distance of their solutions exceeds the bound, which one shared noise
obeys. Printed is the term with grad p for grad log p, and half of it. Sources: TOPB-59, TOPB-65, TOPB-66.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, monotone_map, random_mixture, wasserstein
from refdiff.expectations import Quadrature
from refdiff.model import ExactModel
from refdiff.path_measures import (
    AffineScore,
    LipschitzScore,
    coupled_flows,
    coupled_law,
    score_rate,
    wasserstein_bound,
)
from refdiff.schedules import VEPower, VPLinear
from refdiff.transport import optimal_image
from refdiff.transport.gaussian_maps import optimal_roots
from refdiff.validation.cases import Case
from refdiff.validation.identities.coupling_proofs import largest
from refdiff.validation.identities.wasserstein_bounds import below
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import covariances, cubature, gaussian, line, square_root, well_conditioned

TOPIC = "Stability of samplers"
CURL = np.array([[0.0, 1.0], [-1.0, 0.0]])


@identity(
    "Every coupling bounds the Wasserstein distance, and the optimal one is it",
    topic=TOPIC,
    formula=r"\mathcal{W}_2[p, q]^2 \le \mathbb{E}_\gamma \|x - y\|^2,\quad"
    r" \operatorname{Cov}_\gamma(x, y) = \Sigma_p^{1/2} K \Sigma_q^{1/2},\ \|K\| \le 1",
    covers=["TOPB-59"],
    over="once",
    tolerance=1e-7,
    control="K = I, the common normal, taken for the optimal one",
)
def couplings(case: Case, wrong: bool) -> list[Sides]:
    """Gaussians of any covariances, one of them singular: to the root of rounding, as W2 is a root there."""
    rng, sides = case.rng, []
    for d in (1, 2, 5):
        p, q = gaussian(rng, d), gaussian(rng, d)
        flat = Gaussian(q.mean(), np.diag(np.append(np.zeros(1), np.ones(d - 1))) @ q.cov() @ np.diag(
            np.append(np.zeros(1), np.ones(d - 1))))  # fmt: skip
        for other in (q, flat):
            a, b = square_root(p.cov()), square_root(other.cov())
            shift, least = ((p.mean() - other.mean()) ** 2).sum(), wasserstein(p, other)
            roots = optimal_roots(p.cov(), other.cov())
            if wrong:
                roots = np.vstack([a, b])
            gap = roots[:d] - roots[d:]
            sides += [
                Sides(np.sqrt(shift + (gap**2).sum()), least),
                Sides(roots[:d] @ roots[:d].T, p.cov()),
                Sides(roots[d:] @ roots[d:].T, other.cov(), scale=1.0),
            ]
            k = rng.standard_normal((d, d))
            k /= np.linalg.norm(k, 2)
            cost = shift + np.trace(p.cov() + other.cov() - 2 * a @ k @ b)
            sides.append(below(least, float(np.sqrt(cost))))
    return sides


@identity(
    "Which scores are one-sided Lipschitz",
    topic=TOPIC,
    formula=r"(s_t(x) - s_t(y)) \cdot (x - y) \le \Lambda \|x - y\|^2,\quad \Lambda = \max_{jk} \lambda_{\max}"
    r"\big(-P^{-1} + \tfrac14 v_{jk} v_{jk}^\top\big),\ v_{jk} = P^{-1} (m_j - m_k)",
    covers=["TOPB-59", "TOPB-65"],
    over="once",
    evidence=QUADRATURE,
    control="the rate of the components alone, which two of them violate",
)
def lipschitz_scores(case: Case, wrong: bool) -> list[Sides]:
    """Point sets under noise and components of one covariance are; the text's examples need components that cross.

    With precisions diag(1, 1/4) and diag(1/4, 1) two components weigh the same along x = (u, u) however large u is, and
    there the largest eigenvalue of the derivative is -5/8 + 9 u^2 / 32.
    """
    rng, sides = case.rng, []
    points = rng.standard_normal((12, 3))
    model, t = ExactModel(Empirical(points), VPLinear()), float(rng.uniform(0.2, 0.6))
    c, here = model.affine.coefficients(t), model.marginal(t)
    spread = max(np.linalg.norm(one - other) for one in points for other in points)
    alone = -1 / c.sigma**2
    rate = alone if wrong else score_rate(here)
    x, y = here.sample(60, rng), here.sample(60, rng)
    secants = ((model.score(x, t) - model.score(y, t)) * (x - y)).sum(axis=1) / ((x - y) ** 2).sum(axis=1)
    sides += [
        Sides(np.minimum(rate - secants, 0), 0.0, scale=abs(alone)),
        Sides(score_rate(here), c.alpha**2 * spread**2 / (4 * c.sigma**4) + alone),
    ]
    two = GaussianMixture.shared(random_mixture(3, 2, rng).means, gaussian(rng, 3).cov())
    # the two weigh the same where the line of the means crosses a plane; there the eigenvalue is the rate
    means, precision = two.means, np.linalg.inv(covariances(two)[0])
    gap = means[1] - means[0]
    level = 0.5 * (means[1] @ precision @ means[1] - means[0] @ precision @ means[0]) - np.log(
        two.weights[1] / two.weights[0]
    )
    base = means[0] + gap * (level - gap @ precision @ means[0]) / (gap @ precision @ gap)
    within = -np.linalg.eigvalsh(precision)[0]
    crossing = GaussianMixture.diagonal(np.zeros((2, 2)), [[1.0, 4.0], [4.0, 1.0]])
    for u in (1.0, 10.0, 100.0):
        sides.append(Sides(largest(crossing.hessian(np.array([u, u]))), 9 * u**2 / 32 - 5 / 8))
    sides.append(Sides(largest(two.hessian(base)), within if wrong else score_rate(two), scale=np.abs(precision).max()))
    return sides


@identity(
    "Displacement convexity, in the words of scores",
    topic=TOPIC,
    formula=r"\mathbb{E} (x - T) \cdot (\nabla \log p(x) - \nabla \log q(T)) = \mathbb{E}"
    r" \operatorname{tr}\big(DT + (DT)^{-1}\big) - 2 d \ge 0\ \text{for}\ T\ \text{optimal};\quad"
    r" R_\theta:\ 4 (\cos\theta - 1)",
    covers=["TOPB-65"],
    refutes=["TOPB-65"],
    over="once",
    evidence=QUADRATURE,
    control="grad p(x) in the place of grad log p(x), as printed twice",
)
def displacement_convexity(case: Case, wrong: bool) -> list[Sides]:
    """Affine maps of Gaussians, the optimal one among them, by cubature; mixtures on the line under their quantiles."""
    rng, sides = case.rng, []
    for d in (1, 2, 4):
        p, q = gaussian(rng, d), gaussian(rng, d)
        nodes, weights = cubature(p)
        linear = optimal_image(p, q, np.eye(d) + p.mean()) - q.mean()  # rows, of a symmetric matrix
        free = well_conditioned(rng, d)
        for slope, end in ((linear, q), (free, p.affine(free, rng.standard_normal(d)))):
            image = end.mean() + (nodes - p.mean()) @ slope.T
            mine = p.score(nodes) * (np.exp(p.logpdf(nodes))[:, None] if wrong else 1.0)
            left = weights @ ((nodes - image) * (mine - end.score(image))).sum(axis=1)
            right = np.trace(slope) + np.trace(np.linalg.inv(slope)) - 2 * d
            sides.append(Sides(left, right, scale=np.abs(slope).sum() + np.abs(np.linalg.inv(slope)).sum()))
            if slope is linear:
                sides.append(below(0.0, float(right)))
    turn, root = 0.8, np.diag([1.0, 2.0])
    c, s = np.cos(turn), np.sin(turn)
    slope, p = root @ np.array([[c, -s], [s, c]]) @ np.linalg.inv(root), Gaussian([0.0, 0.0], [1.0, 4.0])
    nodes, weights = cubature(p)
    found = weights @ ((nodes - nodes @ slope.T) * (p.score(nodes) - p.score(nodes @ slope.T))).sum(axis=1)
    sides += [Sides(found, 4 * (c - 1)), Sides(round(float(found), 4), -1.2132)]
    for _ in range(3):
        one, other = (
            GaussianMixture.isotropic(
                rng.uniform(-1, 1, (3, 1)), rng.uniform(0.2, 0.6, 3), rng.dirichlet(np.ones(3) * 9)
            )
            for _ in range(2)
        )
        x, step = line(one)
        image, density = monotone_map(one, other, x), np.exp(one.logpdf(x))
        slopes = np.exp(one.logpdf(x) - other.logpdf(image))
        mine = one.score(x) * (density[:, None] if wrong else 1.0)
        left = step * density @ ((x - image) * (mine - other.score(image)))[:, 0]
        right = step * density @ (slopes + 1 / slopes - 2)
        sides += [Sides(left, right), below(0.0, float(left))]
    return sides


@identity(
    "What noise adds when it is made a flow",
    topic=TOPIC,
    formula=r"-\tfrac{d}{dt} \mathbb{E}\|x - y\|^2 = -2\,\mathbb{E} (x - y) \cdot \big[(f - g^2 \nabla \log p)(x)"
    r" - (f - g^2 \hat s)(y)\big] - g^2\,\mathbb{E} (x - y) \cdot (\nabla \log p(x) - \nabla \log q(y))",
    covers=["TOPB-65"],
    refutes=["TOPB-65"],
    over="once",
    control="the printed factor g^2/2, beside a square that is derived as in the proof",
)
def extra_term(case: Case, wrong: bool) -> list[Sides]:
    """The two flows move the cubature points of a coupling; the square of their distance is a quadratic in time."""
    rng, sides = case.rng, []
    for d in (1, 3):
        p, joint = gaussian(rng, d), gaussian(rng, 2 * d)
        nodes, weights = cubature(joint)
        x, y = nodes[:, :d], nodes[:, d:]
        p, q = (Gaussian(joint.mean()[part], joint.cov()[part, part]) for part in (slice(0, d), slice(d, None)))
        drift, g2, slope = rng.uniform(-1, 1), rng.uniform(0.5, 2), rng.standard_normal((d, d))
        wrong_score = y @ slope.T
        one = drift * x - 0.5 * g2 * p.score(x)
        other = drift * y - g2 * wrong_score + 0.5 * g2 * q.score(y)
        ahead, behind = (weights @ ((x + t * one - y - t * other) ** 2).sum(axis=1) for t in (1.0, -1.0))
        direct = (x - y) * (drift * x - g2 * p.score(x) - drift * y + g2 * wrong_score)
        added = (x - y) * (p.score(x) - q.score(y))
        right = -weights @ (2 * direct + (0.5 if wrong else 1.0) * g2 * added).sum(axis=1)
        sides.append(Sides(-(ahead - behind) / 2, right, scale=ahead + behind))
    return sides


def curled(v0: float, omega: float) -> AffineScore:
    """s^ = -x / (v0 + t^2) + omega J x in the plane, points of shape (n, 2), with omega the curl."""
    return AffineScore(lambda t: np.eye(2) / (v0 + t * t) - omega * CURL, lambda _: 0.0, 2)


@identity(
    "Flows of a score with a curl come apart by more than the bound",
    topic=TOPIC,
    formula=r"\hat s = -x / V_t + \omega J x:\quad q_t = p_t,\quad \mathbb{E}\|x_0 - y_0\|^2_{\text{flows}}"
    r" = 2 d V_0 (1 - \cos \omega T^2) > \text{bound}^2 \ge \mathbb{E}\|x_0 - y_0\|^2_{\text{one noise}}",
    covers=["TOPB-65", "TOPB-66"],
    over="once",
    evidence=QUADRATURE,
    control="the distance under one noise in the place of the flows'",
)
def flows_turn(case: Case, wrong: bool) -> list[Sides]:
    """VE in the plane: the flow (16.24) turns, with q_t = p_t, so that the printed road to the bound is closed."""
    rng, sides = case.rng, []
    for _ in range(2):
        v0, end, omega = rng.uniform(0.2, 0.5), rng.uniform(1.0, 1.5), rng.uniform(0.1, 0.3)
        model = ExactModel(Gaussian([0.0, 0.0], v0), VEPower(1.0, T=end))
        score = curled(v0, omega)
        bound = wasserstein_bound(model, score, stochasticity=1.0).value
        shared = coupled_law(model, score, stochasticity=1.0)

        def rate(t: float, state: Array, v0: float = v0, omega: float = omega) -> Array:
            # (16.24): -g^2 s^ + g^2/2 grad log q, with q_t = p_t
            slope = 2 * t * (np.eye(2) / (v0 + t * t) - omega * CURL) - t * np.eye(2) / (v0 + t * t)
            return np.asarray((slope @ state.reshape(2, 2)).ravel())

        def straight(t: float, state: Array, v0: float = v0) -> Array:
            return t * state / (v0 + t * t)

        maps = [
            solve_ivp(field, (end, 0.0), np.eye(2).ravel(), "DOP853", rtol=1e-12, atol=1e-14).y[:, -1].reshape(2, 2)
            for field in (straight, rate)
        ]
        apart = np.sqrt(v0 + end**2) * np.linalg.norm(maps[0] - maps[1])
        between = maps[1] @ np.linalg.inv(maps[0])
        theta = omega * end**2
        sides += [
            Sides(apart, np.sqrt(4 * v0 * (1 - np.cos(theta)))),
            Sides(np.trace(between + np.linalg.inv(between)) - 4, 4 * (np.cos(theta) - 1)),
            Sides(shared.generated.cov(), v0 * np.eye(2)),
            below(shared.distance, bound),
            below(bound, shared.distance if wrong else apart),
        ]
    return sides


@identity(
    "Another law's score, from its own prior, makes that law",
    topic=TOPIC,
    formula=r"\hat s = \nabla \log q_t:\quad \mathbb{E} \|x_0 - y_0\|^2_{\text{flows}} = \int_0^1 \big(F_p^{-1}(u)"
    r" - F_q^{-1}(u)\big)^2 du = \mathcal{W}_2[p_0, q_0]^2 \le \text{bound}^2",
    covers=["TOPB-56", "TOPB-59", "TOPB-63"],
    over="once",
    tolerance=1e-6,  # of the flow's steps, rtol = 1e-8, and of the sum over their starts
    control="q started from p_T",
    most=1,
)
def another_law(case: Case, wrong: bool) -> list[Sides]:
    """Mixtures on the line, where flows couple optimally: their distance by quantiles, the bound for any noise."""
    rng, rule = case.rng, Quadrature(1e-2)
    p = GaussianMixture.isotropic([[-0.8], [0.8]], 0.6, rng.dirichlet([9, 9]))
    q = GaussianMixture.isotropic([[-0.5], [rng.uniform(0.9, 1.2)]], 0.5, rng.dirichlet([9, 9]))
    model, other = ExactModel(p, VPLinear()), ExactModel(q, VPLinear())
    score, end = LipschitzScore.exact(other), 0.5
    prior = None if wrong else other.marginal(end)
    flows = coupled_flows(model, score, rule, prior=prior, end=end, rtol=1e-8).value
    x, step = line(p)
    square = float(step * np.exp(p.logpdf(x)) @ ((x - monotone_map(p, q, x)) ** 2)[:, 0])
    if wrong:
        return [Sides(flows, square)]
    bounds = [
        wasserstein_bound(
            model, score, stochasticity=k, prior=other.marginal(end), end=end, route=rule, tolerance=1e-4
        ).value
        for k in (0.0, 1.0)
    ]
    return [Sides(flows, square), *(below(float(np.sqrt(square)), bound) for bound in bounds)]
