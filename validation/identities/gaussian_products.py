r"""Products and conditionals of Gaussians: what Bayes' rule does to densities that are exponentials of quadratics.

    x' eta - x' L x / 2        = log N(x; L^-1 eta, L^-1) + const
    N(x; m, S) N(x; n, T)      = N(m; n, S + T) N(x; m*, S*),   S*^-1 = S^-1 + T^-1,   S*^-1 m* = S^-1 m + T^-1 n
    x_a | x_b                  ~ N(m_a + S_ab S_bb^-1 (x_b - m_b), S_aa - S_ab S_bb^-1 S_ba)
    p(x)                       = p(x_1) p(x_2 | x_1) p(x_3 | x_1, x_2) ...

The library conditions by gains in Joseph's form; the second routes here add and cut up precision matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identities.gaussians import TOPIC
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import covariances, gaussian, log_normal


def precision_form(p: Gaussian) -> tuple[Array, Array]:
    """S^-1 (d, d) and S^-1 m (d,)."""
    precision = np.linalg.inv(covariances(p)[0])
    return precision, precision @ p.means[0]


# ---------------------------------------------------------------------- products


@identity(
    "Completing the square",
    topic=TOPIC,
    formula=r"-\tfrac12 x^\top \Lambda x + x^\top \eta"
    r" = -\tfrac12 (x - \mu)^\top \Lambda (x - \mu) + \tfrac12 \mu^\top \Lambda \mu,\quad \mu = \Lambda^{-1} \eta",
    covers=["DMI-09"],
    over="once",
    control="mu' Lambda mu without its factor 1/2",
)
def completed_square(case: Case, wrong: bool) -> list[Sides]:
    """The quadratic itself against the log density it completes to."""
    rng, found = case.rng, []
    for d in (1, 3, 8):
        precision, eta, x = covariances(gaussian(rng, d))[0], rng.standard_normal(d), rng.standard_normal((6, d))
        s = np.linalg.inv(precision)
        law = Gaussian(s @ eta, 0.5 * (s + s.T))
        quadratic = -0.5 * np.einsum("ni,ij,nj->n", x, precision, x) + x @ eta
        peak = 0.5 * np.linalg.slogdet(2 * np.pi * s)[1] + (1.0 if wrong else 0.5) * eta @ s @ eta
        scale = np.abs(law.logpdf(x)) + np.abs(quadratic) + abs(peak)
        found.append(Sides(quadratic, law.logpdf(x) + peak, scale=scale))
    return found


@identity(
    "Product of two Gaussians",
    topic=TOPIC,
    formula=r"\mathcal{N}(x; \mu_p, \Sigma_p)\, \mathcal{N}(x; \mu_q, \Sigma_q)"
    r" = \mathcal{N}(\mu_p; \mu_q, \Sigma_p + \Sigma_q)\, \mathcal{N}(x; \mu, \Sigma),"
    r"\quad \Sigma^{-1} = \Sigma_p^{-1} + \Sigma_q^{-1},\ \mu = \Sigma (\Sigma_p^{-1} \mu_p + \Sigma_q^{-1} \mu_q)",
    covers=["DMI-10"],
    over="once",
    control="the constant with Sigma_p in place of Sigma_p + Sigma_q",
)
def product_of_two(case: Case, wrong: bool) -> list[Sides]:
    """Point by point with the constant; the library's Bayes rule by gains against sums of precisions."""
    rng, found = case.rng, []
    for d in (1, 3, 6):
        p, q, x = gaussian(rng, d), gaussian(rng, d), rng.standard_normal((6, d))
        if d == 6:
            p, q = Gaussian(p.means[0], 0.3), Gaussian(q.means[0], 0.8)
        s, t = covariances(p)[0], covariances(q)[0]
        # x ~ p observed as mu_q = x + N(0, S_q)
        product = Channel(noise=t).posterior(p, q.means[0])
        evidence = log_normal(p.means[0], q.means[0], s if wrong else s + t)
        left, right = log_normal(x, p.means[0], s) + log_normal(x, q.means[0], t), product.logpdf(x)
        (a, u), (b, v) = precision_form(p), precision_form(q)
        found += [
            Sides(left, evidence + right, scale=np.abs(left) + abs(evidence) + np.abs(right)),
            Sides(covariances(product)[0], np.linalg.inv(a + b)),
            Sides(product.means[0], np.linalg.solve(a + b, u + v), scale=np.abs(u) + np.abs(v)),
        ]
    return found


@identity(
    "Product of n Gaussians",
    topic=TOPIC,
    formula=r"\prod_k \mathcal{N}(x; \mu_k, \Sigma_k) \propto \mathcal{N}(x; \mu, \Sigma),"
    r"\quad \Sigma^{-1} = \sum_k \Sigma_k^{-1},\ \mu = \Sigma \sum_k \Sigma_k^{-1} \mu_k",
    covers=["DMI-11"],
    over="once",
    control="the mean of the precisions in place of their sum",
)
def product_of_many(case: Case, wrong: bool) -> list[Sides]:
    """Folding by Bayes' rule in two orders against the sum of precisions; the constant is the product of evidences."""
    rng, found = case.rng, []
    factors, x = [gaussian(rng, 3) for _ in range(5)], rng.standard_normal((6, 3))
    precision, shifted = (sum(parts) for parts in zip(*map(precision_form, factors), strict=True))
    mean, s = np.linalg.solve(precision, shifted), np.linalg.inv(precision) * (len(factors) if wrong else 1)
    for order in (factors, factors[::-1]):
        folded: GaussianMixture = order[0]
        evidence = 0.0
        for q in order[1:]:
            step = Channel(noise=covariances(q)[0])
            evidence += float(step.push(folded).logpdf(q.means[0]))
            folded = step.posterior(folded, q.means[0])
        separate = np.array([log_normal(x, q.means[0], covariances(q)[0]) for q in factors])
        scale = np.abs(separate).sum(axis=0) + abs(evidence)
        found += [
            Sides(covariances(folded)[0], s),
            Sides(folded.means[0], mean, scale=np.abs(shifted).max()),
            Sides(separate.sum(axis=0), evidence + log_normal(x, mean, s), scale=scale),
        ]
    return found


# ---------------------------------------------------------------------- conditioning


def _conditional_by_precision(law: GaussianMixture, given: NDArray[np.intp], values: Array) -> GaussianMixture:
    """The law of the other coordinates, from the blocks of each precision matrix: S_a|b = (S^-1)_aa^-1."""
    others = np.setdiff1d(np.arange(law.dim), given)
    means, spreads, logs = [], [], []
    for weight, mean, s in zip(law.log_weights, law.means, covariances(law), strict=True):
        precision = np.linalg.inv(s)
        left = np.linalg.inv(precision[np.ix_(others, others)])
        means.append(mean[others] - left @ precision[np.ix_(others, given)] @ (values - mean[given]))
        spreads.append(0.5 * (left + left.T))
        logs.append(weight + log_normal(values, mean[given], s[np.ix_(given, given)]))
    return GaussianMixture.full(np.array(means), np.array(spreads), np.exp(np.array(logs) - logsumexp(logs)))


@identity(
    "Gaussian conditioning",
    topic=TOPIC,
    formula=r"\mu_{a|b} = \mu_a + \Sigma_{ab} \Sigma_b^{-1} (x_b - \mu_b),"
    r"\quad \Sigma_{a|b} = \Sigma_a - \Sigma_{ab} \Sigma_b^{-1} \Sigma_{ba},\quad p(x) = p(x_a | x_b)\, p(x_b)",
    covers=["PHY-25"],
    over="laws",
    control="Sigma_a in place of Sigma_{a|b}",
    needs=lambda case: 2 <= case.law.dim <= 16,
)
def conditioning(case: LawCase, wrong: bool) -> list[Sides]:
    """The library's conditional against the blocks of the precision matrix, and joint = conditional x marginal."""
    law, x = case.law, case.x[0]
    given = case.rng.permutation(law.dim)[: law.dim // 2]
    others = np.setdiff1d(np.arange(law.dim), given)
    found, expected = law.conditional(given, x[given]), _conditional_by_precision(law, given, x[given])
    spread = law.marginal(others) if wrong else expected
    joint, marginal = law.logpdf(x), law.marginal(given).logpdf(x[given])
    conditional = found.logpdf(x[others])
    return [
        Sides(found.means, expected.means),
        Sides(covariances(found), covariances(spread)),
        Sides(found.weights, expected.weights),
        Sides(joint, conditional + marginal, scale=abs(conditional) + abs(marginal) + law.dim),
    ]


@identity(
    "Autoregressive factorisation",
    topic=TOPIC,
    formula=r"p(x) = \prod_i p(x_i | x_{<i})",
    covers=["PODA-106"],
    over="laws",
    control="each factor is the marginal of its coordinate",
    needs=lambda case: 2 <= case.law.dim <= 5,
)
def autoregressive(case: LawCase, wrong: bool) -> Sides:
    """The product of exact conditionals, one coordinate at a time, against the joint density."""
    law, left, scale = case.law, np.zeros(2), np.zeros(2)
    for n, x in enumerate(case.x[:2]):
        for i in range(law.dim):
            known = np.arange(0 if wrong else i)
            rest = law.conditional(known, x[known]) if known.size else law
            factor = rest.marginal([i - known.size]).logpdf(x[i : i + 1])
            left[n] += factor
            scale[n] += abs(factor) + 1
    return Sides(left, law.logpdf(case.x[:2]), scale=scale)
