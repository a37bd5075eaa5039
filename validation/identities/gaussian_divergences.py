r"""Divergences in closed form: Kullback-Leibler, cross-entropy, Fisher.

    KL(p || q)   = E_p log p - E_p log q = CE(p, q) - H(p)
    KL(P || Q)   = [tr S_Q^-1 S_P - d + |m_P - m_Q|^2_{S_Q^-1} + log det S_Q / det S_P] / 2       for Gaussians
    CE(p, Q)     = H(P) + KL(P || Q)          for Gaussian Q and P = N(E_p x, Cov_p x): maximum likelihood is moments
    D_F(p || q)  = E_p |grad log p - grad log q|^2

For Gaussians log p - log q is quadratic and the score difference affine: cubature gives both divergences exactly.
Integrals over the line are sums over a fine grid (`line`).
"""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr

from refdiff.distributions import Empirical, Gaussian, GaussianMixture, entropy, kl_divergence, random_mixture
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import covariances, cubature, gaussian, line, log_normal, well_conditioned
from refdiff.validation.numeric import lattice

TOPIC = "Divergences"
DIMS = (1, 2, 5, 16)


def matched(law: GaussianMixture) -> Gaussian:
    """The Gaussian with the mean and covariance of the law."""
    return Gaussian(law.mean(), law.cov())


# ---------------------------------------------------------------------- Kullback-Leibler


@identity(
    "KL divergence of Gaussians",
    topic=TOPIC,
    formula=r"\mathrm{KL}(P \| Q) = \tfrac12 \big[ \operatorname{tr} \Sigma_Q^{-1} \Sigma_P - d"
    r" + (\mu_Q - \mu_P)^\top \Sigma_Q^{-1} (\mu_Q - \mu_P) + \log \tfrac{\det \Sigma_Q}{\det \Sigma_P} \big]",
    covers=["DMI-12"],
    over="once",
    control="the ratio of determinants upside down",
)
def kl_of_gaussians(case: Case, wrong: bool) -> list[Sides]:
    """E_P[log P - log Q] by cubature against the library and against the printed form; affine maps leave it alone."""
    rng, found = case.rng, []
    for d in DIMS:
        p, q = gaussian(rng, d), gaussian(rng, d)
        s, t, shift = covariances(p)[0], covariances(q)[0], p.means[0] - q.means[0]
        points, weights = cubature(p)
        logs = log_normal(points, p.means[0], s), log_normal(points, q.means[0], t)
        terms = [
            np.trace(np.linalg.solve(t, s)),
            shift @ np.linalg.solve(t, shift),
            -d,
            (-1 if wrong else 1) * (np.linalg.slogdet(t)[1] - np.linalg.slogdet(s)[1]),
        ]
        scale = weights @ (np.abs(logs[0]) + np.abs(logs[1]))
        gain, offset = well_conditioned(rng, d), rng.standard_normal(d)
        moved = kl_divergence(p.affine(gain, offset), q.affine(gain, offset))
        found += [
            Sides(weights @ (logs[0] - logs[1]), 0.5 * sum(terms), scale=scale),
            Sides(kl_divergence(p, q), 0.5 * sum(terms), scale=scale),
            Sides(moved, kl_divergence(p, q), scale=scale),
            Sides(kl_divergence(p, p), 0.0, scale=1.0),
        ]
    return found


@identity(
    "KL divergence of Gaussians, special covariances",
    topic=TOPIC,
    formula=r"\tfrac12 \sum_i \big[ \tfrac{v_{P,i} + \delta_i^2}{v_{Q,i}} - 1 + \log \tfrac{v_{Q,i}}{v_{P,i}} \big],"
    r"\quad \tfrac12 \big[ d (r - 1 - \log r) + \tfrac{\|\delta\|^2}{v_Q} \big],\ r = \tfrac{v_P}{v_Q},"
    r"\quad \tfrac{\|\delta\|^2}{2 v}",
    covers=["DMI-13"],
    over="once",
    control="r is the ratio of standard deviations",
)
def kl_special(case: Case, wrong: bool) -> list[Sides]:
    """Diagonal, isotropic and equal isotropic covariances: the short forms against cubature of log P - log Q."""
    rng, found = case.rng, []
    for d in DIMS:
        m, n = rng.standard_normal((2, d))
        u, v = rng.uniform(0.1, 2.0, (2, d))
        gap = m - n
        r = np.sqrt(u[0] / v[0]) if wrong else u[0] / v[0]
        forms = [
            (u, v, 0.5 * ((u + gap**2) / v - 1 + np.log(v / u)).sum()),
            (u[0], v[0], 0.5 * (d * (r - 1 - np.log(r)) + gap @ gap / v[0])),
            (u[0], u[0], gap @ gap / (2 * u[0])),
        ]
        for spread_p, spread_q, form in forms:
            p, q = Gaussian(m, spread_p), Gaussian(n, spread_q)
            points, weights = cubature(p)
            logs = p.logpdf(points), q.logpdf(points)
            scale = weights @ (np.abs(logs[0]) + np.abs(logs[1]))
            found += [Sides(weights @ (logs[0] - logs[1]), form, scale=scale), Sides(kl_divergence(p, q), form)]
    return found


@identity(
    "KL divergence of nearly equal Gaussians",
    topic=TOPIC,
    formula=r"\mathrm{KL} = \tfrac12 \|\delta\|^2_{\Sigma_Q^{-1}}"
    r" + \tfrac12 \sum_{n \ge 2} \tfrac{(-1)^n}{n} \operatorname{tr} E^n,\quad E = \Sigma_Q^{-1} (\Sigma_P - \Sigma_Q)",
    covers=["DMI-12"],
    over="once",
    control="the printed form in double precision, where tr - d + log det cancels",
)
def kl_near(case: Case, wrong: bool) -> list[Sides]:
    """Covariances 1e-6 and 1e-3 apart: the library against a trace series, relative to the divergence itself."""
    rng, found = case.rng, []
    for d in DIMS:
        for size in (1e-6, 1e-3):
            q = gaussian(rng, d)
            t = covariances(q)[0]
            change = rng.standard_normal((d, d)) * size / d
            s = t @ (np.eye(d) + change)
            s, shift = 0.5 * (s + s.T), size * rng.standard_normal(d)
            p = Gaussian(q.means[0] + shift, s)
            # what was stored, after rounding, is what the divergence is of
            shift, e = p.means[0] - q.means[0], np.linalg.solve(t, s - t)
            series = sum((-1) ** n * np.trace(np.linalg.matrix_power(e, n)) / n for n in range(2, 9))
            distance = shift @ np.linalg.solve(t, shift)
            printed = np.trace(np.linalg.solve(t, s)) - d + np.linalg.slogdet(t)[1] - np.linalg.slogdet(s)[1]
            left = 0.5 * (distance + printed) if wrong else kl_divergence(p, q)
            found.append(Sides(left, 0.5 * (distance + series)))
    return found


@identity(
    "Cross-entropy, entropy and maximum likelihood",
    topic=TOPIC,
    formula=r"-\mathbb{E}_p \log Q = H(P) + \mathrm{KL}(P \| Q),"
    r"\quad P = \mathcal{N}(\mathbb{E}_p x, \operatorname{Cov}_p x),\ H(P) = \tfrac12 \log\det 2 \pi e \Sigma_P",
    covers=["PODA-101"],
    refutes=["PODA-101"],
    over="laws",
    control="H enters the split of KL with the printed sign, KL = CE + H",
    needs=lambda case: case.law.dim <= 16,
)
def cross_entropy(case: LawCase, wrong: bool) -> list[Sides]:
    """Cubature over the law against closed forms; least at Q = P, so the likeliest Gaussian has the law's moments."""
    law, p = case.law, matched(case.law)
    points, weights = cubature(law)
    found = []
    for q in (p, gaussian(case.rng, law.dim)):
        logs = log_normal(points, q.means[0], covariances(q)[0])
        h = -entropy(p) if wrong else entropy(p)
        found.append(Sides(-weights @ logs, h + kl_divergence(p, q), scale=weights @ np.abs(logs) + law.dim))
    return found


@identity(
    "Empirical negative log-likelihood",
    topic=TOPIC,
    formula=r"\hat L = -\tfrac1N \sum_i \log q(x^{(i)}),"
    r"\quad \mathbb{E} \hat L = -\mathbb{E}_p \log q,"
    r"\ \operatorname{Var} \hat L = \tfrac1N \operatorname{Var}_p \log q",
    covers=["PODA-102"],
    over="once",
    control="the variance of one term in place of the variance of the mean",
)
def empirical_likelihood(case: Case, wrong: bool) -> list[Sides]:
    """Every sample of size 3 from a weighted point set, enumerated; the model q is a mixture."""
    rng = case.rng
    points, q = rng.standard_normal((4, 2)), random_mixture(2, 3, rng)
    p = Empirical(points, rng.dirichlet(np.ones(4)))
    draws = lattice(*[np.arange(4)] * 3)
    chance = p.weights[draws].prod(axis=1)
    loss = -q.logpdf(points[draws]).mean(axis=1)
    cross = -p.weights @ q.logpdf(points)
    spread = p.weights @ (q.logpdf(points) + cross) ** 2
    return [
        Sides(chance @ loss, cross),
        Sides(chance @ (loss - chance @ loss) ** 2, spread / (1 if wrong else 3), scale=chance @ loss**2),
    ]


# ---------------------------------------------------------------------- Fisher


@identity(
    "Fisher divergence of Gaussians",
    topic=TOPIC,
    formula=r"D_F(P \| Q) = \mathbb{E}_P \|\nabla \log P - \nabla \log Q\|^2"
    r" = \operatorname{tr}(B \Sigma_P B) + \|\Sigma_Q^{-1} (\mu_P - \mu_Q)\|^2,\quad B = \Sigma_Q^{-1} - \Sigma_P^{-1}",
    covers=["PODA-103"],
    over="once",
    control="the factor 1/2 of the score-matching loss",
)
def fisher_of_gaussians(case: Case, wrong: bool) -> list[Sides]:
    """Cubature of the library's scores against the closed form by inverse matrices."""
    rng, found = case.rng, []
    for d in DIMS:
        p, q = gaussian(rng, d), gaussian(rng, d)
        s, t = covariances(p)[0], covariances(q)[0]
        points, weights = cubature(p)
        left = weights @ np.square(p.score(points) - q.score(points)).sum(axis=1)
        b = np.linalg.inv(t) - np.linalg.inv(s)
        right = np.trace(b @ s @ b) + np.square(np.linalg.solve(t, p.means[0] - q.means[0])).sum()
        scale = weights @ (np.square(p.score(points)).sum(axis=1) + np.square(q.score(points)).sum(axis=1))
        found.append(Sides(left, (0.5 if wrong else 1.0) * right, scale=scale))
    return found


@identity(
    "Fisher divergence overlooks the weights of separate modes",
    topic=TOPIC,
    formula=r"p, q = \sum_\pm w_\pm \mathcal{N}(\pm m, 1),\ m \to \infty:"
    r"\quad D_F(p \| q) \to 0,\ \mathrm{KL}(p \| q) \to \sum_\pm w^p_\pm \log \tfrac{w^p_\pm}{w^q_\pm}",
    covers=["PODA-103"],
    refutes=["PODA-103"],
    over="once",
    control="D_F = 0 only where p = q, as printed: KL would vanish as well",
)
def separate_modes(case: Case, wrong: bool) -> list[Sides]:
    """At m = 9 the overlap e^(-m^2 / 2) = 3e-18 is below rounding: D_F is 0 and KL that of the weights alone."""
    a, b = case.rng.uniform(0.1, 0.9, 2)
    p, q = (GaussianMixture.isotropic([[-9.0], [9.0]], 1.0, [w, 1 - w]) for w in (a, b))
    x, step = line(p, q)
    density = np.exp(p.logpdf(x)) * step
    of_weights = rel_entr(a, b) + rel_entr(1 - a, 1 - b)
    fisher = density @ np.square(p.score(x) - q.score(x))[:, 0]
    kl = density @ (p.logpdf(x) - q.logpdf(x))
    return [Sides(fisher, 0.0, scale=1.0), Sides(kl, 0.0 if wrong else of_weights, scale=1.0)]
