r"""Tweedie's formulas: the derivatives of the log density are the cumulants of the posterior.

For x_t = alpha x_0 + sigma eps and any vector u, with w = sigma^2 u / alpha,

    log p_t(x + h w) - log p_t(x) + (quadratic in h)  =  log E[exp(h u'x_0) | x_t = x]

so the k-th derivative along w is the k-th cumulant of u'x_0 under the posterior (plus the quadratic's, for k <= 2):

    alpha   E[x_0 | x]       = x + sigma^2 grad log p              alpha^2 Cov[x_0 | x] = sigma^2 I + sigma^4 Hess log p
    alpha^3 kappa_3[x_0 | x] = sigma^6 grad^3 log p                alpha / sigma^2 Cov[x_0 | x] = d E[x_0 | x] / dx

One side is Bayes' rule component by component, the other a derivative of the log density of the pushed law, in
closed form or by differences. With one noise level for each axis, sigma^2 and alpha are diagonals.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import gamma, poisson

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import spread_out
from refdiff.validation.identity import DERIVATIVE, Sides, identity
from refdiff.validation.laws import covariances, smallest_std
from refdiff.validation.numeric import derivative, jacobian, second_derivative

TOPIC = "Tweedie, Stein and score matching"


def diagonals(case: ModelCase) -> tuple[Array, Array]:
    """alpha and sigma^2 at time t as vectors (d,)."""
    c = case.process.coefficients(case.t)
    return np.broadcast_to(c.alpha, (case.law.dim,)), np.broadcast_to(c.sigma**2, (case.law.dim,))


def radius(law: GaussianMixture) -> float:
    """The extent of the data: the farthest component mean and the widest component, in quadrature."""
    spread = np.linalg.eigvalsh(law.covariances.dense(law.dim)).max()
    return float(np.sqrt(((law.means - law.mean()) ** 2).sum(axis=1).max() + max(spread, 0.0)))


def bend(case: ModelCase) -> float:
    """The length on which log p_t bends away from a quadratic: s^2 / (alpha R), s^2 the least component variance."""
    least = smallest_std(case.model.marginal(case.t)) ** 2
    return float(least / (case.process.coefficients(case.t).alpha.max() * radius(case.law)))


def posterior_size(case: ModelCase) -> float:
    """The natural width of x_0 given x_t: sigma / alpha, but not more than the extent of the data."""
    a, v = diagonals(case)
    return min(float((np.sqrt(v) / a).max()), radius(case.law))


@identity(
    "Tweedie, first order",
    topic=TOPIC,
    formula=r"\mathbb{E}[x_0 \mid x_t] = \frac{x_t + \sigma_t^2 \nabla \log p_t(x_t)}{\alpha_t}",
    covers=["PODA-318", "PODD-104", "DMI-66"],
    control="sigma in place of sigma^2",
)
def first_order(case: ModelCase, wrong: bool) -> Sides:
    """Bayes' posterior mean against the score of the pushed law."""
    c = case.process.coefficients(case.t)
    correction = (c.sigma if wrong else c.sigma**2) * case.model.score(case.x, case.t)
    denoised = case.model.denoiser(case.x, case.t)
    size = (np.abs(case.x) + np.abs(correction)) / c.alpha
    return Sides(denoised, (case.x + correction) / c.alpha, scale=size.max())


@identity(
    "Tweedie, first order by differences",
    topic=TOPIC,
    formula=r"\alpha_t \mathbb{E}[x_0 \mid x_t] = x_t + \sigma_t^2 \nabla \log p_t(x_t)",
    covers=["PODA-318", "PODD-104", "DMI-66"],
    evidence=DERIVATIVE,
    control="without alpha on the left: one ascent step taken for the denoised point",
    needs=lambda case: case.law.dim <= 16 and spread_out(case),
)
def first_order_by_differences(case: ModelCase, wrong: bool) -> Sides:
    """Bayes' posterior mean against differences of the log density."""
    a, v = diagonals(case)
    shift = v * jacobian(case.model.marginal(case.t).logpdf, case.x, bend(case) / 40)
    denoised = case.model.denoiser(case.x, case.t) * (1.0 if wrong else a)
    return Sides(denoised, case.x + shift, scale=(np.abs(case.x) + np.abs(shift)).max())


@identity(
    "Tweedie, second order",
    topic=TOPIC,
    formula=r"\alpha_t^2 \mathrm{Cov}[x_0 \mid x_t] = \sigma_t^2 I + \sigma_t^4 \nabla^2 \log p_t(x_t)",
    covers=["PODA-320", "PODD-104"],
    control="sigma^2 in place of sigma^4 on the Hessian",
)
def second_order(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' posterior covariance against the Hessian of the log density, and against the denoiser's Jacobian."""
    (a, v), x = diagonals(case), case.x[:2]
    covariance = case.model.posterior_covariance(x, case.t)
    weight = np.diag(v) if wrong else np.outer(v, v)
    curved = weight * case.model.hessian(x, case.t)
    # near a data point sigma^2 I and sigma^4 Hess nearly cancel: rounding is relative to either of them
    size = (np.diag(v) + np.abs(curved)) / np.outer(a, a)
    slope = case.model.denoiser_jacobian(x, case.t)
    return [
        Sides(covariance, (np.diag(v) + curved) / np.outer(a, a), scale=size.max()),
        Sides(covariance, slope * v / a),
    ]


@identity(
    "The denoiser's Jacobian is the posterior covariance",
    topic=TOPIC,
    formula=r"\sigma_t^2 \partial \mathbb{E}[x_0 \mid x_t] / \partial x_t = \alpha_t \mathrm{Cov}[x_0 \mid x_t]",
    covers=["PODA-320"],
    evidence=DERIVATIVE,
    control="sigma in place of sigma^2",
    needs=lambda case: case.law.dim <= 5 and spread_out(case),
    most=12,
)
def denoiser_jacobian(case: ModelCase, wrong: bool) -> Sides:
    """Differences of the denoiser against Bayes' posterior covariance."""
    a, v = diagonals(case)
    slope = jacobian(lambda x: case.model.denoiser(x, case.t), case.x, bend(case) / 40)
    covariance = case.model.posterior_covariance(case.x, case.t)
    size = posterior_size(case) ** 2 * (a / v).max()
    return Sides(slope, covariance * a / (np.sqrt(v) if wrong else v), scale=size)


def third_cumulant(law: GaussianMixture) -> Array:
    """kappa_3 of a mixture: sum_k w_k (d d d + d_i S_jk + d_j S_ik + d_k S_ij), d = m_k - mean; shape (d, d, d)."""
    w, delta = law.weights, law.means - law.mean()
    mixed = np.einsum("k,ki,kjl->ijl", w, delta, covariances(law))
    symmetric = mixed + mixed.transpose(1, 0, 2) + mixed.transpose(1, 2, 0)
    return np.asarray(np.einsum("k,ki,kj,kl->ijl", w, delta, delta, delta) + symmetric)


@identity(
    "Tweedie, third order",
    topic=TOPIC,
    formula=r"\alpha_t^3 \kappa_3[x_0 \mid x_t] = \sigma_t^6 \nabla^3 \log p_t(x_t)",
    covers=["PODA-320"],
    evidence=DERIVATIVE,
    control="sigma^4 in place of sigma^6",
    needs=lambda case: case.law.dim <= 5 and spread_out(case),
    most=12,
)
def third_order(case: ModelCase, wrong: bool) -> Sides:
    """The third cumulants of the posterior mixtures against differences of the Hessian."""
    a, v = diagonals(case)
    bayes = np.stack([third_cumulant(case.model.posterior(x, case.t)) for x in case.x])
    slope = jacobian(case.model.marginal(case.t).hessian, case.x, bend(case) / 40)
    last = (1.0 if wrong else v) / a
    weight = np.multiply.outer(np.multiply.outer(v / a, v / a), last)
    return Sides(bayes, weight * slope, scale=posterior_size(case) ** 3)


def line_cumulants(law: GaussianMixture, u: Array) -> Array:
    """The first four cumulants (4,) of u'x for u (d,) and x from a mixture, from the moments of its components."""
    spread = np.einsum("i,kij,j->k", u, covariances(law), u)
    mean = law.weights @ law.means @ u
    delta = law.means @ u - mean
    second = law.weights @ (delta**2 + spread)
    third = law.weights @ (delta**3 + 3 * delta * spread)
    fourth = law.weights @ (delta**4 + 6 * delta**2 * spread + 3 * spread**2)
    return np.array([mean, second, third, fourth - 3 * second**2])


def extent(law: GaussianMixture, u: Array) -> float:
    """How far u'x, u (d,), is from its mean: log E exp(h u'x) has no pole within 1 / extent of h = 0, nor bends faster.

    Components of weight below 1e-30 add nothing within that reach, however far they are.
    """
    seen = law.weights > 1e-30
    spread = np.einsum("i,kij,j->k", u, covariances(law), u)
    return float((np.abs((law.means - law.mean()) @ u) + np.sqrt(np.maximum(spread, 0.0)))[seen].max())


@identity(
    "The log-normaliser generates the posterior cumulants",
    topic=TOPIC,
    formula=r"\nabla^k (\log p_t - \log q_0)(x_t) = \kappa_k[\alpha_t x_0 / \sigma_t^2 \mid x_t], \quad k \le 4",
    covers=["PODA-319", "PODA-320"],
    evidence=DERIVATIVE,
    control="log q_0 left out",
    needs=lambda case: case.law.dim <= 16 and spread_out(case),
    most=12,
)
def log_normaliser(case: ModelCase, wrong: bool) -> list[Sides]:
    """Cumulants of u'x_0 from Bayes' components against derivatives of log p_t - log q_0 along a line."""
    a, v = diagonals(case)
    u = case.rng.standard_normal(case.law.dim)
    u /= np.linalg.norm(u)
    law, x, w = case.model.marginal(case.t), case.x[:2], v * u / a
    posteriors = [case.model.posterior(y, case.t) for y in x]
    h = 1 / (30 * max(posterior_size(case), *(extent(posterior, u) for posterior in posteriors)))

    def lam(s: float) -> Array:
        y = x + s * w
        return np.asarray(law.logpdf(y) + (0.0 if wrong else ((y**2 / v).sum(axis=1) / 2)))

    def curvature(s: float) -> Array:
        curved = np.einsum("i,nij,j->n", w, law.hessian(x + s * w), w)
        return np.asarray(curved + (0.0 if wrong else (w**2 / v).sum()))

    bayes = np.array([line_cumulants(posterior, u) for posterior in posteriors]).T
    second, third, fourth = curvature(0.0), derivative(curvature, 0.0, h), second_derivative(curvature, 0.0, h)
    found = [derivative(lam, 0.0, h), second, third, fourth]
    size = posterior_size(case)
    scales = [np.abs(bayes[0]).max() + radius(case.law), size**2, size**3, size**4]
    return [Sides(left, right, scale=scale) for left, right, scale in zip(bayes, found, scales, strict=True)]


@identity(
    "The posterior as an exponential family",
    topic=TOPIC,
    formula=r"p(x_0 \mid x_t) = e^{\eta \cdot x_t - \psi(\eta) - \lambda(x_t)} p(x_0), \eta = \alpha x_0 / \sigma^2",
    covers=["PODA-319"],
    control="psi = |eta|^2 / 2, without sigma^2",
    needs=lambda case: not case.law.covariances.singular,
)
def exponential_family(case: ModelCase, wrong: bool) -> Sides:
    """The density of Bayes' posterior mixture against the exponential tilt of the data density."""
    a, v = diagonals(case)
    bayes, tilt, size = [], [], []
    for x in case.x[:3]:
        posterior = case.model.posterior(x, case.t)
        x0 = posterior.sample(2, case.rng)
        eta = a * x0 / v
        psi = (eta**2).sum(axis=1) / 2 if wrong else (v * eta**2).sum(axis=1) / 2
        lam = case.model.log_density(x, case.t) + (x**2 / v).sum() / 2 + np.log(2 * np.pi * v).sum() / 2
        parts = np.stack([eta @ x, -psi, -lam * np.ones(2), case.law.logpdf(x0)])
        bayes.append(posterior.logpdf(x0))
        tilt.append(parts.sum(axis=0))
        size.append(np.abs(parts).max(axis=0))
    return Sides(bayes, tilt, scale=size)


@identity(
    "Tweedie for Poisson and Gamma noise",
    topic=TOPIC,
    formula=r"\mathbb{E}[e^\eta \mid n] = \frac{(n + 1) p(n + 1)}{p(n)}, \quad "
    r"\mathbb{E}[\eta \mid y] = \frac{d}{dy} \log \frac{p(y)}{q_0(y)}",
    covers=["PODA-319"],
    over="once",
    evidence=DERIVATIVE,
    control="q_0 of the Gamma family without its power of y; n in place of n + 1",
)
def other_families(case: Case, wrong: bool) -> list[Sides]:
    """Rates from a discrete prior: posterior sums over SciPy's likelihoods against ratios and differences of p."""
    rng = case.rng
    rates, prior, shape = rng.uniform(0.5, 6, 5), rng.dirichlet(np.ones(5)), rng.uniform(0.7, 4)
    n, y = np.arange(8), rng.uniform(0.5, 3, 6)
    counts = prior * poisson.pmf(n[:, None], rates)
    robbins = (n + (0 if wrong else 1)) * (prior * poisson.pmf(n[:, None] + 1, rates)).sum(axis=1) / counts.sum(axis=1)

    def lam(s: float) -> Array:
        density = (prior * gamma.pdf((y + s)[:, None], shape, scale=1 / rates)).sum(axis=1)
        return np.asarray(np.log(density) - (0.0 if wrong else (shape - 1) * np.log(y + s)))

    waits = prior * gamma.pdf(y[:, None], shape, scale=1 / rates)
    waits /= waits.sum(axis=1, keepdims=True)
    mean = -waits @ rates
    return [
        Sides((counts @ rates) / counts.sum(axis=1), robbins),
        Sides(mean, derivative(lam, 0.0, 0.01)),
        Sides(waits @ rates**2 - mean**2, second_derivative(lam, 0.0, 0.03)),
    ]
