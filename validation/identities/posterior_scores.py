r"""The optimum of every regression on x_t is a posterior average; the score is one.

A network that regresses tau = A x_0 + B eps on x_t = alpha x_0 + sigma eps can do no better than E[tau | x_t]; since
eps = (x_t - alpha x_0) / sigma, all targets share one posterior covariance:

    tau = x_0, eps, -eps / sigma, alpha' x_0 + sigma' eps       Cov[tau | x_t] = (A - B alpha / sigma)^2 Cov[x_0 | x_t]
    grad log p_t(x) = E[grad log p_t(x | x_0) | x_t = x] = E[grad p_t(x | x_0)] / E[p_t(x | x_0)]

The averages are found here without Tweedie: by conditioning the joint law of (x_0, eps) on x_t, which is a channel of
two inputs and no noise, or by summing over the data. A ratio of averages over a minibatch is biased by O(1/N).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import gammaln, logsumexp

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Empirical, GaussianMixture
from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching
from refdiff.validation.cases import Case, LawCase, ModelCase
from refdiff.validation.conditions import scalar
from refdiff.validation.expectations import axes
from refdiff.validation.identities.tweedie import bend, diagonals
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import divergence, extrapolate, jacobian
from refdiff.validation.steps import FINE, relative_density

TOPIC = "Tweedie, Stein and score matching"


def with_noise(law: GaussianMixture) -> GaussianMixture:
    """The law of (x_0, eps) on R^2d, eps ~ N(0, I) independent."""
    d, many = law.dim, law.count
    matrices = np.zeros((many, 2 * d, 2 * d))
    matrices[:, :d, :d] = law.covariances.dense(d)
    matrices[:, d:, d:] = np.eye(d)
    means = np.concatenate([law.means, np.zeros((many, d))], axis=1)
    return GaussianMixture.full(means, matrices, law.weights)


def both(a: Array, b: Array, d: int) -> Array:
    """The matrix (a, b) that sends (x_0, eps) to a x_0 + b eps, shape (d, 2d)."""
    return np.concatenate([np.diag(np.broadcast_to(a, (d,))), np.diag(np.broadcast_to(b, (d,)))], axis=1)


def targets(case: ModelCase, t: float) -> dict[str, tuple[Array, Array]]:
    """(A, B) of every regression target at time t."""
    c = case.process.coefficients(t)
    zero, one = np.zeros_like(c.alpha), np.ones_like(c.alpha)
    return {
        "denoiser": (one, zero),
        "noise": (zero, one),
        "score": (zero, -1 / c.sigma),
        "velocity": (c.dalpha, c.dsigma),
        "v_prediction": (-c.sigma, c.alpha),
    }


@identity(
    "Every prediction is a posterior average",
    topic=TOPIC,
    formula=r"\mathbb{E}[A x_0 + B \epsilon \mid x_t]: \quad x^*, \ \epsilon^* = -\sigma s, \ s, \ v^*; \quad "
    r"\mathrm{Cov}[A x_0 + B \epsilon \mid x_t] = (A - B \alpha / \sigma)^2 \mathrm{Cov}[x_0 \mid x_t]",
    covers=["PODB-54", "PODA-329", "DMI-22", "DMI-66", "TOPA-31", "TOPB-50", "TOPB-73", "PODD-109"],
    control="eps* = -sigma^2 s, and the covariance with B alpha for B alpha / sigma",
    needs=lambda case: case.law.dim <= 5,
)
def predictions(case: ModelCase, wrong: bool) -> list[Sides]:
    """The joint law of (x_0, eps) conditioned on x_t, against the model's answers."""
    (a, v), d, x = diagonals(case), case.law.dim, case.x
    prior, c = with_noise(case.law), case.process.coefficients(case.t)
    channel = Channel(both(a, np.sqrt(v), d), 0.0, 0.0)
    mean, covariance = channel.posterior_mean(prior, x), channel.posterior_cov(prior, x[:2])
    spread = case.model.posterior_covariance(x[:2], case.t)
    sides = []
    for name, (of_x0, of_eps) in targets(case, case.t).items():
        average = both(of_x0, of_eps, d)
        answer = getattr(case.model, name)(x, case.t) * (c.sigma if wrong and name == "noise" else 1.0)
        factor = np.broadcast_to(of_x0 - of_eps * (a if wrong else a / np.sqrt(v)), (d,))
        # conditioning cancels the prior's spread, and A D + B E[eps] the two terms of the average
        size = np.abs(average) @ (np.abs(mean).max(axis=0) + np.abs(prior.means).max(axis=0))
        sides.append(Sides(mean @ average.T, answer, scale=size.max()))
        prior_size = np.abs(average) @ np.abs(prior.cov()) @ np.abs(average).T
        sides.append(Sides(average @ covariance @ average.T, np.outer(factor, factor) * spread, scale=prior_size.max()))
    noise = np.sqrt(v) * mean[:, d:]
    x0_hat, size = (x - noise) / a, (np.abs(x) + np.abs(noise)).max() / a.min()
    return [*sides, Sides(x0_hat, case.model.denoiser(x, case.t), scale=size)]


def over_data(case: ModelCase) -> tuple[Array, Array]:
    """Points x_0 (n, d) and log weights: the data points, or a trapezoidal sum against a density on the line."""
    law = case.law
    if isinstance(law, Empirical):
        return law.means, law.log_weights
    a, v = diagonals(case)
    start, step, count = axes(law)[0]
    # the kernel, seen from x_0, has deviation sigma / alpha
    finer = int(np.ceil(step / min(step, float(np.sqrt(v[0]) / a[0]) / 6)))
    x0: Array = start + step / finer * np.arange(count * finer, dtype=float)[:, None]
    return x0, law.logpdf(x0) + float(np.log(step / finer))


@identity(
    "The score as a ratio of expectations over the data",
    topic=TOPIC,
    formula=r"\nabla \log p_t(x) = \frac{\mathbb{E}_{x_0}[\nabla p_t(x \mid x_0)]}{\mathbb{E}_{x_0}[p_t(x \mid x_0)]} "
    r"= \mathbb{E}[\nabla \log p_t(x \mid x_0) \mid x_t = x]",
    covers=["TOPA-67", "TOPB-72", "TOPB-73", "PODB-30", "PODA-418", "PODD-109"],
    evidence=QUADRATURE,
    control="the prior average of grad log p_t(x | x_0), without the weight p_t(x | x_0)",
    needs=lambda case: isinstance(case.law, Empirical) or (case.law.dim == 1 and not case.law.covariances.singular),
)
def ratio_of_expectations(case: ModelCase, wrong: bool) -> list[Sides]:
    """Sums over the data of kernel densities and their gradients against the score of the pushed law."""
    (a, v), (x0, log_weights) = diagonals(case), over_data(case)
    delta = case.x[:, None, :] - a * x0
    logs = log_weights - (delta**2 / v).sum(axis=2) / 2 - np.log(2 * np.pi * v).sum() / 2
    density = logsumexp(logs, axis=1, keepdims=True)
    weights = np.exp(np.broadcast_to(log_weights, logs.shape) if wrong else logs - density)
    score = np.einsum("nk,nkd->nd", weights, -delta / v)
    return [
        Sides(density[:, 0], case.model.log_density(case.x, case.t)),
        Sides(score, case.model.score(case.x, case.t), scale=np.sqrt(1 / v).max()),
    ]


@identity(
    "The score of the kernel",
    topic=TOPIC,
    formula=r"\nabla_{x_t} \log p(x_t \mid x_0) = -(x_t - \alpha_t x_0) / \sigma_t^2 = -\epsilon / \sigma_t",
    covers=["TOPA-75", "PODA-315"],
    evidence=DERIVATIVE,
    control="-eps / sigma^2",
    needs=lambda case: case.law.dim <= 5,
)
def kernel_score(case: ModelCase, wrong: bool) -> list[Sides]:
    """Differences of the log density of the channel against the noise that was added."""
    (a, v), rng = diagonals(case), case.rng
    x0, eps = case.law.sample(1, rng), rng.standard_normal((1, case.law.dim))
    xt, kernel, h = a * x0 + np.sqrt(v) * eps, case.process.kernel(case.t), float(np.sqrt(v.min()))
    slopes = [jacobian(partial(kernel.logpdf, x=z), x[None], h)[0] for x, z in zip(xt, x0, strict=True)]
    size = np.sqrt(1 / v).max()
    return [
        Sides(slopes, -eps / (v if wrong else np.sqrt(v)), scale=size),
        Sides(slopes, (a * x0 - xt) / v, scale=size),
    ]


@identity(
    "Velocity of the straight line",
    topic=TOPIC,
    formula=r"\mathbb{E}[Z - X_0 \mid x] = -\frac{x + \rho \nabla \log p(x)}{1 - \rho}, \quad "
    r"x = (1 - \rho) X_0 + \rho Z; \qquad x - \mathbb{E} X_0 \text{ at } \rho = 1",
    covers=["DMI-67", "DMI-65", "DMI-70"],
    over="laws",
    control="rho^2 on the score",
    needs=lambda case: case.law.dim <= 16,
)
def straight_line(case: LawCase, wrong: bool) -> list[Sides]:
    """The joint law of (X_0, Z) conditioned on x, against the score of the law on the way and the model's velocity."""
    law, d, rng = case.law, case.law.dim, case.rng
    rho, prior, model = rng.uniform(0.2, 0.8), with_noise(case.law), ExactModel(case.law, FlowMatching())
    x = model.sample(5, rho, rng)

    def conditioned(at: float) -> Array:
        channel = Channel(both(np.asarray(1 - at), np.asarray(at), d), 0.0, 0.0)
        mean: Array = channel.posterior_mean(prior, x)
        return mean[:, d:] - mean[:, :d]

    score = law.affine(1 - rho).convolve(rho**2).score(x)
    size = (np.abs(x) + rho * np.abs(score)).max() / (1 - rho) + np.abs(law.means).max()
    found = conditioned(rho)
    sides = [
        Sides(found, -(x + (rho**2 if wrong else rho) * score) / (1 - rho), scale=size),
        Sides(found, model.velocity(x, rho), scale=size),
        Sides(conditioned(1.0), x - law.mean(), scale=size),
        Sides(model.velocity(x, 1.0), x - law.mean(), scale=size),
    ]
    if law.count == 1:  # (rho - (1 - rho) S) ((1 - rho)^2 S + rho^2)^-1 (x - (1 - rho) m) - m
        s = law.cov()
        whole = (1 - rho) ** 2 * s + rho**2 * np.eye(d)
        white = np.linalg.solve(whole, (x - (1 - rho) * law.mean()).T)
        sides.append(Sides(found, ((rho * np.eye(d) - (1 - rho) * s) @ white).T - law.mean(), scale=size))
    return sides


@identity(
    "Denoising error as noise error",
    topic=TOPIC,
    formula=r"\|x_0 - \bar\mu(x_t)\|^2 = \frac{\sigma_t^2}{\alpha_t^2} \|\epsilon - \epsilon_\theta(x_t)\|^2",
    covers=["TOPA-32"],
    refutes=["TOPA-32"],
    control="eps - sigma eps_theta, as printed",
    needs=scalar,
)
def denoising_error(case: ModelCase, wrong: bool) -> Sides:
    """The errors of Bayes' denoiser and of the score's noise at the same draws of (x_0, eps)."""
    c, rng = case.process.coefficients(case.t), case.rng
    x0, eps = case.law.sample(4, rng), rng.standard_normal((4, case.law.dim))
    xt = c.alpha * x0 + c.sigma * eps
    noise = case.model.noise(xt, case.t) * (c.sigma if wrong else 1.0)
    denoised = case.model.denoiser(xt, case.t)
    left = ((x0 - denoised) ** 2).sum(axis=1)
    # the difference is known to eps times the terms that cancel in it, its square to twice the difference times that
    error, terms = np.sqrt(left), np.abs(xt).max() / c.alpha + np.abs(x0).max()
    size = error * (error + 2 * terms) + np.finfo(float).eps * terms**2
    return Sides(left, c.sigma**2 / c.alpha**2 * ((eps - noise) ** 2).sum(axis=1), scale=size)


@identity(
    "Velocities that differ by a divergence-free current",
    topic=TOPIC,
    formula=r"\nabla \cdot (p_t w) = 0 \text{ for } w = J \nabla \log p_t, \ J^\top = -J",
    covers=["DMI-64"],
    evidence=DERIVATIVE,
    control="J symmetric",
    needs=lambda case: 2 <= case.law.dim <= 5,
)
def gauge(case: ModelCase, wrong: bool) -> Sides:
    """Differences of the current p_t w, the density against the score, for its divergence."""
    j = case.rng.standard_normal((case.law.dim, case.law.dim))
    j = j + j.T if wrong else j - j.T
    law, x = case.model.marginal(case.t), case.x
    ratio, h = relative_density(law, x), min(FINE * smallest_std(law), bend(case) / 40)

    def current(y: Array) -> Array:
        """p_t w in units of p_t(x)."""
        return np.asarray(ratio(y)[:, None] * (law.score(y) @ j.T))

    size = np.abs(j).max() * (np.abs(law.hessian(x)).max() + (law.score(x) ** 2).max())
    return Sides(divergence(current, x, h), np.zeros(len(x)), scale=size)


# ---------------------------------------------------------------------- minibatches of three data points


def minibatches(n: int, weights: Array) -> tuple[Array, Array]:
    """All counts (m, 3) of three points of these weights in n draws, and their multinomial probabilities (m,)."""
    first, second = np.triu_indices(n + 1)
    counts = np.stack([first, second - first, n - second], axis=1)
    return counts, np.exp(gammaln(n + 1) - gammaln(counts + 1).sum(axis=1) + counts @ np.log(weights))


def three_points(case: Case) -> tuple[Array, Array, Array, float]:
    """Weights, kernel densities p(x | x_i) and kernel scores at one x, all (3,), and the marginal score there."""
    rng = case.rng
    weights, points, sigma = rng.dirichlet(np.full(3, 5.0)), rng.uniform(-1.5, 1.5, 3), rng.uniform(0.8, 1.5)
    x = rng.uniform(-1, 1)
    law = Empirical(points[:, None], weights).convolve(sigma**2)
    densities = np.exp(-((x - points) ** 2) / (2 * sigma**2)) / np.sqrt(2 * np.pi * sigma**2)
    return weights, densities, (points - x) / sigma**2, float(law.score(np.array([x]))[0])


@identity(
    "A minibatch ratio is a biased score",
    topic=TOPIC,
    formula=r"N \left(\mathbb{E}\frac{\sum_i \nabla p(x \mid x_i)}{\sum_i p(x \mid x_i)} - \nabla \log p(x)\right) "
    r"\to \frac{s \mathrm{Var}\,p - \mathrm{Cov}(p, \nabla p)}{(\mathbb{E} p)^2}",
    covers=["TOPB-72"],
    over="once",
    evidence=ORDER,
    control="the bias taken to be O(1/N^2)",
)
def minibatch_bias(case: Case, wrong: bool) -> Sides:
    """All minibatches of 16 to 256 draws, extrapolated, against the delta method."""
    w, p, score, s = three_points(case)
    biases = []
    for n in (16, 32, 64, 128, 256):
        counts, probability = minibatches(n, w)
        ratio = (counts @ (p * score)) / (counts @ p)
        biases.append(np.asarray((n**2 if wrong else n) * (probability @ ratio - s)))
    mean, covariance = w @ p, w @ (p * p * score) - (w @ p) * (w @ (p * score))
    variance = w @ p**2 - mean**2
    return Sides(
        extrapolate(biases),
        (s * variance - covariance) / mean**2,
        scale=(abs(s) * variance + abs(covariance)) / mean**2,
    )


@identity(
    "The conditional target is unbiased for every batch",
    topic=TOPIC,
    formula=r"\mathbb{E}_{batch} \frac1N \sum_i p(x \mid x_i) \|\phi - \nabla \log p(x \mid x_i)\|^2 "
    r"= p(x) \left(\|\phi - \nabla \log p\|^2 + \mathrm{Var}[\nabla \log p(x \mid x_0) \mid x]\right)",
    covers=["TOPB-74", "TOPB-75"],
    over="once",
    control="the loss to the minibatch ratio in place of the conditional loss",
)
def unbiased_target(case: Case, wrong: bool) -> list[Sides]:
    """All minibatches of 1, 2 and 7 draws against the marginal loss and the posterior variance."""
    w, p, score, s = three_points(case)
    phi = case.rng.standard_normal()
    posterior = w * p / (w @ p)
    exact = (w @ p) * ((phi - s) ** 2 + posterior @ score**2 - (posterior @ score) ** 2)
    sides = []
    for n in (1, 2, 7):
        counts, probability = minibatches(n, w)
        losses = counts @ (p * (phi - score) ** 2) / n
        if wrong:
            ratio = (counts @ (p * score)) / (counts @ p)
            losses = counts @ p / n * (phi - ratio) ** 2
        sides.append(Sides(probability @ losses, exact))
    return sides
