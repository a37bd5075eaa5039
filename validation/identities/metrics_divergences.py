r"""Divergences of laws: the family of alpha, overlaps of Gaussians, metrics among them, and bounds between them.

    D_a(p || q) = int q f_a(p / q),   f_a'' = u^(a - 2),       D_a(p || q) = D_{1 - a}(q || p)
    int p^a q^(1 - a) = exp( -[a (1 - a) d' S^-1 d + log det S - (1 - a) log det S_p - a log det S_q] / 2 )
    H^2 <= TV <= H sqrt(2 - H^2),   TV^2 <= KL / 2,   TV^2 / 2 <= JS <= TV log 2,   KL <= log(1 + chi^2)

with S = (1 - a) S_p + a S_q, d = m_p - m_q and H^2 = 1 - int sqrt(p q). Sources: PODA-104; Tsybakov 2009,
"Introduction to nonparametric estimation", section 2.4, for the bounds.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.expectations import Quadrature
from refdiff.metrics import FDivergence, alpha_divergence, divergence, fisher_divergence, own_divergence
from refdiff.validation.cases import Case
from refdiff.validation.identities.metrics_transport import TOPIC, at_most, line_mixture
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import covariances, half_and_half, line
from refdiff.validation.numeric import hermite, product_rule

RULE = Quadrature(1e-11)


def by(name: str | FDivergence, p: GaussianMixture, q: GaussianMixture) -> float:
    """A divergence of laws p and q, called by its `name`; total variation on the line by crossings."""
    return float(divergence(p, q, name, None if name == "total-variation" else RULE).value)


@identity(
    "Overlaps of Gaussians",
    topic=TOPIC,
    formula=r"\log \int p^a q^{1 - a} = -\tfrac12 \big[ a (1 - a) \delta^\top S^{-1} \delta + \log \det S"
    r" - (1 - a) \log \det S_p - a \log \det S_q \big],\quad S = (1 - a) S_p + a S_q",
    covers=["PODA-104"],
    over="once",
    evidence=QUADRATURE,
    control="a and 1 - a exchanged in S",
)
def overlaps(case: Case, wrong: bool) -> list[Sides]:
    """Gauss-Hermite of (p / q)^a under q, a Gaussian integral whose exponent is no polynomial, against D_a."""
    rng, found = case.rng, []
    z, w = product_rule(hermite(48), 2)
    for a in (-0.4, 0.3, 0.5, 0.8, 1.4):
        m, n = 0.4 * rng.standard_normal((2, 2))
        p, q = (
            Gaussian(mean, np.eye(2) + 0.2 * np.outer(v, v))
            for mean, v in zip((m, n), rng.uniform(-1, 1, (2, 2)), strict=True)
        )
        s, t = covariances(p)[0], covariances(q)[0]
        x = n + z @ np.linalg.cholesky(t).T
        direct = w @ np.exp(a * (p.logpdf(x) - q.logpdf(x)))
        mixed = a * s + (1 - a) * t if wrong else (1 - a) * s + a * t
        dets = [np.linalg.slogdet(part)[1] for part in (mixed, s, t)]
        log = -0.5 * (a * (1 - a) * (m - n) @ np.linalg.solve(mixed, m - n) + dets[0] - (1 - a) * dets[1] - a * dets[2])
        closed = divergence(p, q, alpha_divergence(a)).value * a * (a - 1) + 1
        found += [Sides(np.exp(log), direct), Sides(closed, np.exp(log))]
    return found


@identity(
    "The family of alpha divergences",
    topic=TOPIC,
    formula=r"D_a(p \| q) = \tfrac{1}{a (a - 1)} \big[\int p^a q^{1 - a} - 1\big] = D_{1 - a}(q \| p),"
    r"\quad \lim_{a \to 1} D_a = \mathrm{KL}(p \| q)",
    covers=["PODA-104"],
    over="once",
    evidence=QUADRATURE,
    control="p and q not exchanged",
)
def family(case: Case, wrong: bool) -> list[Sides]:
    """Sums over the line of p^a q^(1 - a) against the library, for mixtures; the KL divergence between a = 1 -+ h."""
    rng = case.rng
    p, q = line_mixture(rng), line_mixture(rng).convolve(0.5)
    x, step = line(p, q)
    logs = p.logpdf(x), q.logpdf(x)
    found = []
    for a in (-0.2, 0.25, 0.5, 0.75, 1.3):
        total = float(np.exp(a * logs[0] + (1 - a) * logs[1]).sum() * step)
        found += [
            Sides(by(alpha_divergence(a), p, q), (total - 1) / (a * (a - 1))),
            Sides(by(alpha_divergence(1 - a), *((p, q) if wrong else (q, p))), by(alpha_divergence(a), p, q)),
        ]
    h = 1e-3  # the mean of both is off by h^2 / 2 of a second derivative; of four, by h^4
    near = [by(alpha_divergence(1 + k * h), p, q) for k in (-2, -1, 1, 2)]
    found.append(Sides((4 * (near[1] + near[2]) - (near[0] + near[3])) / 6, by("kl", p, q)))
    return found


@identity(
    "Bounds between divergences",
    topic=TOPIC,
    formula=r"H^2 \le \mathrm{TV} \le H \sqrt{2 - H^2},\ \mathrm{TV}^2 \le \tfrac12 \mathrm{KL},"
    r"\ \tfrac12 \mathrm{TV}^2 \le \mathrm{JS} \le \mathrm{TV} \log 2,\ \mathrm{KL} \le \log(1 + \chi^2)",
    covers=["PODA-104"],
    over="once",
    evidence=QUADRATURE,
    control="Pinsker's constant 1/4 in place of 1/2",
)
def bounds(case: Case, wrong: bool) -> list[Sides]:
    """Mixtures, and Gaussians of one variance near each other, where TV^2 / KL comes to 1 / pi."""
    rng, found = case.rng, []
    near = Gaussian([0.0], 1.0), Gaussian([0.05], 1.0)
    for p, q in ((line_mixture(rng), line_mixture(rng).convolve(0.8)), near):
        tv, kl, js, h2, chi = (by(name, p, q) for name in ("total-variation", "kl", "js", "hellinger", "chi-squared"))
        found += [
            at_most(h2, tv),
            at_most(tv, np.sqrt(h2 * (2 - h2))),
            at_most(tv**2, kl / (4 if wrong else 2)),
            at_most(tv**2 / 2, js),
            at_most(js, tv * np.log(2)),
            at_most(kl, np.log1p(chi)),
            at_most(tv, 1.0),
            at_most(js, np.log(2)),
        ]
    return found


@identity(
    "Roots of divergences that are metrics",
    topic=TOPIC,
    formula=r"d(p, q) \le d(p, r) + d(r, q),\quad d = \sqrt{\mathrm{JS}},\ H,\ \mathrm{TV}",
    covers=["PODA-104"],
    over="once",
    evidence=QUADRATURE,
    control="the Jensen-Shannon divergence without its root",
)
def triangles(case: Case, wrong: bool) -> list[Sides]:
    """Three mixtures in all orders, and two laws that hardly overlap with their half and half between them."""
    rng = case.rng
    apart = Gaussian([-6.0], 0.5), Gaussian([6.0], 0.5)
    triples = [[line_mixture(rng) for _ in range(3)], [*apart, half_and_half(*apart)]]
    found = []
    for laws in triples:
        sides = np.array([_metrics(laws[i], laws[j], 1.0 if wrong else 0.5) for i, j in ((0, 1), (0, 2), (1, 2))])
        for k in range(3):  # each side against the two others
            found += [at_most(whole, rest) for whole, rest in zip(sides[k], sides.sum(axis=0) - sides[k], strict=True)]
    return found


def _metrics(p: GaussianMixture, q: GaussianMixture, power: float) -> list[float]:
    return [by("js", p, q) ** power, by("hellinger", p, q) ** 0.5, by("total-variation", p, q)]


@identity(
    "Every f-divergence is Fisher information nearby",
    topic=TOPIC,
    formula=r"D_f(p(\cdot - h) \| p) = \tfrac12 f''(1)\, h^2 J(p) + O(h^3),"
    r"\quad D_F(p(\cdot - h) \| p) = h^2\, \mathbb{E} (\partial^2 \log p)^2 + O(h^3)",
    covers=["PODA-103", "PODA-104"],
    over="once",
    evidence=DERIVATIVE,
    control="f'' of Jensen-Shannon taken for that of KL, 1/4 for 1",
)
def nearby(case: Case, wrong: bool) -> list[Sides]:
    """Shifts by h and -h, extrapolated in h^2, against sums of squared scores over the line."""
    p = line_mixture(case.rng)
    x, step = line(p)
    weights = np.exp(p.logpdf(x)) * step
    information = float(weights @ p.score(x)[:, 0] ** 2)
    curvature = float(weights @ p.hessian(x)[:, 0, 0] ** 2)
    curved: list[tuple[FDivergence | str, float]] = [
        ("kl", 1.0),
        ("reverse-kl", 1.0),
        ("js", 1.0 if wrong else 0.25),
        ("hellinger", 0.25),
        ("chi-squared", 2.0),
        (own_divergence(lambda u: (u - 1) ** 2 / (u + 1), 1.0, 1.0), 1.0),
    ]

    def even(value: Array) -> float:
        """From h = 1/100, 1/200, 1/400, 1/800 to 0: what is left is of order h^8."""
        for level in (4.0, 16.0, 64.0):
            value = (level * value[1:] - value[:-1]) / (level - 1)
        return float(value[0])

    steps = 0.01 / 2.0 ** np.arange(4)
    shifted = [(h, p.affine(1.0, h), p.affine(1.0, -h)) for h in steps]
    found = []
    for f, second in curved:
        means = np.array([(by(f, a, p) + by(f, b, p)) / (2 * h**2) for h, a, b in shifted])
        found.append(Sides(even(means), 0.5 * second * information))
    fisher = [
        (fisher_divergence(a, p, RULE).value + fisher_divergence(b, p, RULE).value) / (2 * h**2) for h, a, b in shifted
    ]
    return [*found, Sides(even(np.array(fisher)), curvature)]
