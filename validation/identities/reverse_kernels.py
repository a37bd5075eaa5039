r"""Reverse kernels: one step back, given the data point or averaged over it.

With s < t, g = alpha_t / alpha_s and q = sigma_t^2 - g^2 sigma_s^2, Bayes' rule for the Markov chain gives

    p(x_s | x_t, x_0) = p(x_t | x_s) p(x_s | x_0) / p(x_t | x_0)
                      = N( (g sigma_s^2 / sigma_t^2) x_t + (alpha_s q / sigma_t^2) x_0 ,  q sigma_s^2 / sigma_t^2 )
    p(x_s | x_t)      = p(x_t | x_s) p_s(x_s) / p_t(x_t) = int p(x_s | x_t, x_0) p(x_0 | x_t) dx_0
    E[x_s | x_t]      = (x_t + q grad log p_t(x_t)) / g

For one step of a table of betas, g^2 = 1 - beta and q = beta: DDPM's posterior.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.distributions.covariances import Diagonal
from refdiff.processes import AffineProcess
from refdiff.validation.cases import ModelCase, TableCase
from refdiff.validation.identities.forward_kernels import signal_and_noise
from refdiff.validation.identity import Sides, identity

TOPIC = "Reverse kernels"


def lemma(process: AffineProcess, s: float, t: float) -> tuple[Array, Array, Array]:
    """The weights of x_t and x_0 and the variance of p(x_s | x_t, x_0), as the lemma writes them."""
    here, there, step = process.coefficients(s), process.coefficients(t), process.channel(s, t)
    of_xt = step.gain * here.sigma**2 / there.sigma**2
    return of_xt, here.alpha * step.noise / there.sigma**2, step.noise * here.sigma**2 / there.sigma**2


def normal_logpdf(x: Array, mean: Array, variance: Array) -> Array:
    """log N(x; mean, diag(variance)), summed over the last axis."""
    result: Array = -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(axis=-1)
    return result


@identity(
    "The posterior between two times, from the joint Gaussian",
    topic=TOPIC,
    formula=r"p(x_s \mid x_t, x_0) = \mathcal{N}\Big(\tfrac{g \sigma_s^2}{\sigma_t^2} x_t +"
    r" \tfrac{\alpha_s \sigma_{t|s}^2}{\sigma_t^2} x_0,\ \tfrac{\sigma_{t|s}^2 \sigma_s^2}{\sigma_t^2} I\Big)",
    covers=["PODB-07", "PHY-25", "PHY-26", "PODA-215"],
    control="sigma_s / sigma_t in place of their squares",
)
def posterior_by_schur(case: ModelCase, wrong: bool) -> list[Sides]:
    """The lemma against the Schur complement of Cov(x_s, x_t | x_0), and marginalised back to p(x_s | x_0)."""
    here, there = case.process.coefficients(case.s), case.process.coefficients(case.t)
    of_xt, of_x0, variance = lemma(case.process, case.s, case.t)
    if wrong:
        of_xt = of_xt * there.sigma / here.sigma
    x0 = case.law.sample(len(case.x), case.rng)
    cross = there.alpha / here.alpha * here.sigma**2
    mean = here.alpha * x0 + cross / there.sigma**2 * (case.x - there.alpha * x0)
    size = np.abs(here.alpha * x0).max() + np.abs(case.x).max()
    return [
        Sides(of_xt * case.x + of_x0 * x0, mean, scale=size),
        Sides(variance, here.sigma**2 - cross**2 / there.sigma**2, scale=here.sigma**2),
        Sides(of_xt * there.alpha + of_x0, here.alpha),
        Sides(of_xt**2 * there.sigma**2 + variance, here.sigma**2),
    ]


@identity(
    "The posterior is the forward channel reversed",
    topic=TOPIC,
    formula=r"p(x_s \mid x_t, x_0):\ \text{Bayes' rule for } x_s \mid x_0 \sim \mathcal{N}(\alpha_s x_0, \sigma_s^2 I)",
    covers=["PODB-07", "PHY-25"],
    control="the variance of the forward step in place of the posterior's",
)
def posterior_by_reversal(case: ModelCase, wrong: bool) -> list[Sides]:
    """The channel (s, t) turned round on the law of x_s given x_0, against the lemma; from s = 0 it lands on x_0."""
    here, x0 = case.process.coefficients(case.s), case.law.mean()
    of_xt, of_x0, variance = lemma(case.process, case.s, case.t)
    step = case.process.channel(case.s, case.t)
    back = step.reverse(Gaussian(here.alpha * x0, here.sigma**2))
    sides = [
        Sides(back.gain, of_xt),
        Sides(back.offset, of_x0 * x0, scale=np.abs(here.alpha * x0).max() + 1e-300),
        Sides(back.noise, step.noise if wrong else variance),
    ]
    start = case.process.coefficients(0.0)
    if not np.any(start.sigma):
        home = case.process.kernel(case.t).reverse(Gaussian(start.alpha * x0, start.sigma**2))
        sides += [Sides(home.gain, 0.0), Sides(home.noise, 0.0), Sides(home.offset, x0)]
    return sides


@identity(
    "Bayes' rule for the reverse conditional",
    topic=TOPIC,
    formula=r"\log p(x_s \mid x_t, x_0) = \log p(x_t \mid x_s) + \log p(x_s \mid x_0) - \log p(x_t \mid x_0)",
    covers=["PODB-05", "PODA-213", "PHY-25"],
    control="the normaliser p(x_t | x_0) taken at time s",
)
def bayes_quotient(case: ModelCase, wrong: bool) -> Sides:
    """Three channel densities at points x_s that are not special, against the density of the lemma."""
    process, x0, xt = case.process, case.law.sample(1, case.rng)[0], case.x[0]
    of_xt, of_x0, variance = lemma(process, case.s, case.t)
    mean = of_xt * xt + of_x0 * x0
    xs = mean + 3 * np.sqrt(variance) * case.rng.standard_normal((5, case.law.dim))
    likelihood = np.array([process.channel(case.s, case.t).logpdf(xt, x) for x in xs])
    prior, evidence = process.kernel(case.s).logpdf(xs, x0), process.kernel(case.s if wrong else case.t).logpdf(xt, x0)
    size = np.abs(likelihood) + np.abs(prior) + np.abs(evidence) + case.law.dim
    return Sides(likelihood + prior - evidence, normal_logpdf(xs, mean, variance), scale=size)


@identity(
    "The reverse transition as a mixture",
    topic=TOPIC,
    formula=r"p(x_s \mid x_t) = \int p(x_s \mid x_t, x_0)\, p(x_0 \mid x_t)\, dx_0"
    r" = p(x_t \mid x_s)\, p_s(x_s) / p_t(x_t)",
    covers=["PODA-213", "PHY-24", "PODB-05"],
    control="the variance of the forward step in place of the posterior's",
)
def reverse_mixture(case: ModelCase, wrong: bool) -> list[Sides]:
    """The posterior of x_0 pushed through the lemma, against the quotient of exact densities."""
    xt, step = case.x[0], case.process.channel(case.s, case.t)
    of_xt, of_x0, variance = lemma(case.process, case.s, case.t)
    averaged = Channel(of_x0, of_xt * xt, step.noise if wrong else variance).push(case.model.posterior(xt, case.t))
    xs = averaged.sample(4, case.rng)
    likelihood = np.array([step.logpdf(xt, x) for x in xs])
    prior, evidence = case.model.log_density(xs, case.s), case.model.log_density(xt, case.t)
    size = np.abs(likelihood) + np.abs(prior) + np.abs(evidence) + case.law.dim
    by_bayes = step.posterior(case.model.marginal(case.s), xt).logpdf(xs)
    return [
        Sides(averaged.logpdf(xs), likelihood + prior - evidence, scale=size),
        Sides(averaged.logpdf(xs), by_bayes, scale=size),
    ]


@identity(
    "The reverse mixture in precision form",
    topic=TOPIC,
    formula=r"p(x_s \mid x_t, k) ="
    r" \mathcal{N}\Big(v_k\big(\tfrac{\alpha_s m_k}{V_{k,s}} + \tfrac{g x_t}{q}\big), v_k\Big),"
    r"\quad \tfrac{1}{v_k} = \tfrac{1}{V_{k,s}} + \tfrac{g^2}{q},\quad V_{k,s} = \alpha_s^2 s_k^2 + \sigma_s^2",
    covers=["PODA-213"],
    control="the precision of the forward step without g^2",
    needs=lambda case: isinstance(case.law.covariances, Diagonal),
)
def precision_form(case: ModelCase, wrong: bool) -> list[Sides]:
    """Variances, means and weights of the conditioned mixture, against precisions added up."""
    here, there = case.process.coefficients(case.s), case.process.coefficients(case.t)
    step, xt, law = case.process.channel(case.s, case.t), case.x[0], case.law
    assert isinstance(law.covariances, Diagonal)
    before = here.alpha**2 * law.covariances.variances + here.sigma**2
    after = np.broadcast_to(there.alpha**2 * law.covariances.variances + there.sigma**2, law.means.shape)
    variance = 1 / (1 / before + (1 if wrong else step.gain**2) / step.noise)
    means = variance * (here.alpha * law.means / before + step.gain * xt / step.noise)
    logs = law.log_weights + normal_logpdf(xt, there.alpha * law.means, after)
    weights = np.exp(logs - np.logaddexp.reduce(logs))
    found = step.posterior(case.model.marginal(case.s), xt)
    assert isinstance(found.covariances, Diagonal)
    # a log density of size L is known to L eps, and so is a weight relative to itself
    return [
        Sides(found.covariances.variances, variance),
        Sides(found.means, means, scale=np.abs(found.means).max() + np.abs(xt).max()),
        Sides(found.weights, weights, scale=1 + np.abs(logs).min()),
    ]


@identity(
    "Tweedie's formula for one step",
    topic=TOPIC,
    formula=r"\mathbb{E}[x_s \mid x_t] = \big(x_t + \sigma_{t|s}^2 \nabla \log p_t(x_t)\big) / g",
    covers=["TOPA-05"],
    control="the noise of the whole way, sigma_t^2, in place of the step's",
)
def one_step_tweedie(case: ModelCase, wrong: bool) -> Sides:
    """Bayes' mean of x_s given x_t against the score; the noise of the step averages to -sqrt(q) score."""
    step = case.process.channel(case.s, case.t)
    noise = case.process.coefficients(case.t).sigma ** 2 if wrong else step.noise
    correction = noise * case.model.score(case.x, case.t)
    mean = step.posterior_mean(case.model.marginal(case.s), case.x)
    size = (np.abs(case.x) + np.abs(correction)).max() / np.min(step.gain)
    return Sides(mean, (case.x + correction) / step.gain, scale=size)


@identity(
    "DDPM's posterior, step by step",
    topic=TOPIC,
    formula=r"\tilde\mu = \frac{\sqrt{\bar\alpha_{t-1}} \beta_t}{1-\bar\alpha_t} x_0 +"
    r" \frac{\sqrt{1-\beta_t} (1-\bar\alpha_{t-1})}{1-\bar\alpha_t} x_t,\quad"
    r" \tilde\beta_t = \Big(\frac{1-\beta_t}{\beta_t} + \frac{1}{1-\bar\alpha_{t-1}}\Big)^{-1}",
    covers=["TOPA-28", "TOPA-29", "PHY-29", "PODA-215", "PHY-26"],
    refutes=["TOPA-28"],
    over="tables",
    control="the denominators sqrt(beta_t) and sqrt(1 - abar_t) printed in (3.9)",
    needs=lambda case: case.table.steps > 1,
)
def ddpm_posterior(case: TableCase, wrong: bool) -> list[Sides]:
    """The table's posterior against added precisions for t >= 2; at t = 1 it is x_0 itself."""
    alpha, variance = signal_and_noise(case.table)
    b, found = case.table.betas, case.table.posterior()
    of_xt, of_x0 = found.of_xt, found.of_x0
    if wrong:
        of_xt, of_x0 = np.sqrt(1 - b) * variance[:-1] / np.sqrt(b), alpha[:-1] * b / np.sqrt(variance[1:])
    precision = (1 - b[1:]) / b[1:] + 1 / variance[1:-1]
    return [
        Sides([found.of_x0[0], found.of_xt[0], found.variance[0]], [1.0, 0.0, 0.0]),
        Sides(found.variance[1:], 1 / precision, scale=found.variance[1:]),
        Sides(of_xt[1:], np.sqrt(1 - b[1:]) / b[1:] / precision),
        Sides(of_x0[1:], alpha[1:-1] / variance[1:-1] / precision),
        Sides(precision * b[1:] * variance[1:-1], variance[2:], scale=variance[2:]),  # (3.8)
    ]


@identity(
    "What the two weights of DDPM's posterior add up to",
    topic=TOPIC,
    formula=r"A_t + B_t = \frac{a + b}{1 + a b},\quad a = \sqrt{\bar\alpha_{t-1}},\ b = \sqrt{1 - \beta_t};"
    r"\qquad A_t^2 / \tilde\beta_t = \mathrm{SNR}_{t-1} - \mathrm{SNR}_t",
    covers=["PODA-215"],
    over="tables",
    control="weights that add up to 1",
    needs=lambda case: case.table.steps > 1,
)
def weight_sum(case: TableCase, wrong: bool) -> list[Sides]:
    """The table's coefficients against two functions of alpha alone."""
    alpha, variance = signal_and_noise(case.table)
    found, step = case.table.posterior(), np.sqrt(1 - case.table.betas)
    total = np.ones_like(step) if wrong else (alpha[:-1] + step) / (1 + alpha[:-1] * step)
    snr = alpha[1:] ** 2 / variance[1:]
    gained = found.of_x0[1:] ** 2 / found.variance[1:]
    return [Sides(found.of_x0 + found.of_xt, total), Sides(gained, snr[:-1] - snr[1:], scale=snr[:-1])]
