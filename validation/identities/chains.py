r"""Chains of Gaussian steps: what their losses are for any asymptotic scale, and what their limits are.

The chain x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(sigma^2 beta_t) eps has abar_t = prod (1 - beta), and

    E[x_{t-1} | x_t] = (x_t - sigma beta_t / sqrt(1 - abar_t) eps*(x_t)) / sqrt(1 - beta_t),
    eps* = E[eps | x_t] = -sigma sqrt(1 - abar_t) grad log q(x_t)

with sigma also where a text writes its formulas for sigma = 1.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import random_mixture
from refdiff.processes import Chain
from refdiff.validation.cases import Case
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import cubature, gaussian, line
from refdiff.validation.numeric import extrapolate, hermite

SCALE = np.sqrt(1.7)  # the standard deviation that the chains tend to: not 1, so that a lost sigma shows


def random_chain(case: Case, steps: int = 6) -> tuple[Chain, Array]:
    """A chain of asymptotic scale SCALE with random betas, and these, shape (N,), N = `steps`."""
    betas = case.rng.uniform(0.1, 0.6, steps)
    return Chain.noh_lee(betas, SCALE), betas


@identity(
    "The weighted and the plain noise loss of a chain with any scale",
    topic="Regression losses",
    formula=r"\mathbb{E}\,|f_\theta - \mathbb{E}[x_{t-1} | x_t, x_0]|^2"
    r" = \frac{\sigma^2 \beta_t^2}{(1-\beta_t)(1-\bar\alpha_t)}\, \mathbb{E}\,|\varepsilon - \varepsilon_\theta|^2,"
    r"\quad \min_\theta \mathbb{E}\,|\varepsilon - \varepsilon_\theta|^2 = d"
    r" - \sigma^2 (1-\bar\alpha_t)\, \mathbb{E}\,|s_t|^2",
    covers=["PHY-42", "PHY-43"],
    refutes=["PHY-42", "PHY-43"],
    over="once",
    evidence=QUADRATURE,
    control="sigma dropped from the network's mean and from the weight, as printed in (42) and (43)",
)
def losses_of_any_scale(case: Case, wrong: bool) -> list[Sides]:
    """Bridges and noise on Gauss-Hermite nodes of (x_0, eps); the marginal's score on a line; the mean by Bayes."""
    chain, betas = random_chain(case)
    law, t, z_w = random_mixture(1, 3, case.rng), 4, hermite(64)
    beta, kept = betas[t - 1], np.prod(1 - betas[:t])
    sigma = 1.0 if wrong else SCALE
    slope, phase = case.rng.uniform(0.5, 1.0), case.rng.uniform(0, 3)

    def network(x: Array) -> Array:
        return np.asarray(0.8 * np.sin(slope * x + phase))

    def mean(x: Array, noise: Array) -> Array:
        return np.asarray((x - sigma * beta / np.sqrt(1 - kept) * noise) / np.sqrt(1 - beta))

    x0, noise = (part[..., None] for part in np.meshgrid(np.arange(3 * 64), z_w[0], indexing="ij"))
    x0 = (law.means + np.sqrt(law.covariances.dense(1)[:, :, 0]) * z_w[0])[np.divmod(x0, 64)]
    weights = np.multiply.outer(np.outer(law.weights, z_w[1]).ravel(), z_w[1])
    xt = np.sqrt(kept) * x0 + SCALE * np.sqrt(1 - kept) * noise
    step = chain.bridge(t - 1, t).mean(xt, x0)
    by_mean = float((weights * (mean(xt, network(xt)) - step)[..., 0] ** 2).sum())
    by_noise = float((weights * (noise - network(xt))[..., 0] ** 2).sum())
    weight = sigma**2 * beta**2 / ((1 - beta) * (1 - kept))

    marginal = chain.marginal(t, law)
    nodes, cell = line(marginal)
    density = np.exp(marginal.logpdf(nodes)) * cell
    best = -SCALE * np.sqrt(1 - kept) * marginal.score(nodes)
    least = 1 - density @ best[:, 0] ** 2
    some = marginal.sample(4, case.rng)
    back = np.array([chain.posterior(t - 1, t, law, y).mean() for y in some])
    return [
        Sides(by_mean, weight * by_noise),
        Sides(by_noise, least + density @ (network(nodes) - best)[:, 0] ** 2),
        Sides(least, kept / (SCALE**2 * (1 - kept)) * (density @ chain.kernel(t).posterior_variance(law, nodes))),
        Sides(mean(some, -SCALE * np.sqrt(1 - kept) * marginal.score(some)), back, scale=np.abs(some).max()),
    ]


@identity(
    "The empirical loss of a step back is least squares",
    topic="Regression losses",
    formula=r"\hat L_t(f) = \tfrac1N \sum_i |f(x_{t,i}) - x_{t-1,i}|^2:\quad"
    r" \arg\min = \mathbb{E}[x_{t-1} | x_t],\quad \min = \operatorname{tr} \operatorname{Cov}[x_{t-1} | x_t]",
    covers=["PHY-35", "PHY-34"],
    over="once",
    control="the forward step undone, f = x_t / sqrt(1 - beta_t)",
)
def empirical_loss(case: Case, wrong: bool) -> list[Sides]:
    """A sample with exactly the moments of the chain, fitted by least squares, against the reverse channel."""
    chain, betas = random_chain(case)
    law, t, dim = gaussian(case.rng, 3), 3, 3
    pairs = cubature(chain.joint(law).marginal(np.arange((t - 1) * dim, (t + 1) * dim)))[0]
    before, after = pairs[:, :dim], np.column_stack([pairs[:, dim:], np.ones(len(pairs))])
    fitted, *_ = np.linalg.lstsq(after, before, rcond=None)
    if wrong:
        fitted = np.vstack([np.eye(dim) / np.sqrt(1 - betas[t - 1]), np.zeros(dim)])
    left = ((before - after @ fitted) ** 2).sum() / len(pairs)
    exact = chain.reverse(t - 1, t, law)
    return [
        Sides(fitted[:dim].T, exact.gain),
        Sides(fitted[dim], exact.offset, scale=np.abs(law.means).max()),
        Sides(left, np.trace(exact.noise)),
    ]


@identity(
    "The velocity of a chain: a drift, and noise that has none",
    topic="Kernel and SDE",
    formula=r"\frac{\sqrt{1-\beta h}-1}{h} = -\tfrac12 \beta - \tfrac18 \beta^2 h + O(h^2),\quad"
    r" \operatorname{Var}\Big[\frac{x_{t+h}-x_t}{h} \Big| x_t\Big] = \frac{\sigma^2 \beta}{h}",
    covers=["PHY-62", "PHY-55"],
    over="once",
    evidence=ORDER,
    control="the drift -beta x, with the half lost",
)
def velocity_of_a_chain(case: Case, wrong: bool) -> list[Sides]:
    """One step of the chain and many short ones at five step sizes, extrapolated, against rate and stationary law."""
    rate, time = case.rng.uniform(0.5, 2.0), 0.7
    drifts, seconds, variances, many = [], [], [], []
    for n in 8 * 2 ** np.arange(5):
        h = time / n
        step = Chain.noh_lee([rate * h], SCALE)
        gain = float(step.kernel(1).gain)
        drift = np.expm1(0.5 * np.log1p(-rate * h)) / h
        drifts.append(np.asarray((gain - 1) / h))
        seconds.append(np.asarray((drift + (rate if wrong else rate / 2)) / h))
        variances.append(step.kernel(1).noise / h)
        many.append(Chain.noh_lee(np.full(n, rate * h), SCALE).kernel(int(n)).noise)
    return [
        Sides(extrapolate(drifts), -rate if wrong else -rate / 2),
        Sides(extrapolate(seconds), -(rate**2) / 8),
        Sides(variances, SCALE**2 * rate),
        Sides(extrapolate(many), -(SCALE**2) * np.expm1(-rate * time)),
    ]


@identity(
    "Langevin's iteration on a Gaussian settles beside it",
    topic="Langevin samplers",
    formula=r"x \leftarrow x + \tfrac h2 \nabla \log p(x) + \sqrt h\, z:\quad"
    r" \operatorname{Cov} x \to S (I - \tfrac h4 S^{-1})^{-1} = S + \tfrac h4 I + O(h^2)",
    covers=["TOPA-16"],
    over="once",
    control="the covariance S of p itself",
)
def unadjusted_langevin(case: Case, wrong: bool) -> list[Sides]:
    """The stationary law of the step as a chain, by the discrete Lyapunov equation, against the eigenvectors of S."""
    law = gaussian(case.rng, 4)
    values, axes = np.linalg.eigh(law.cov())
    sides = []
    for h in values.min() * np.array([1.5, 0.1]):
        hessian = law.hessian(law.mean())
        step = Channel(np.eye(4) + h / 2 * hessian, -h / 2 * hessian @ law.mean(), h)
        settled = Chain([step]).stationary()
        spread = axes * (values if wrong else values / (1 - h / (4 * values))) @ axes.T
        # solved with the condition number of S, twice
        size = values.max() * values.max() / h
        sides += [Sides(settled.covariance, spread, scale=size), Sides(settled.mean, law.mean(), scale=size)]
    return sides
