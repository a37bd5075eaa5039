r"""Wiener increments, and the small steps they drive: DDPM's step, Langevin's step.

independent increments   Cov(w_s, w_t) = min(s, t);   w_s | w_r, w_t is a Brownian bridge
Ito's isometry           E |int psi dw|^2 = E int |psi|_F^2 dt for psi that does not know the increment ahead
DDPM against Euler       E[x_{t-h} | x_t] - [x - (f x - g^2 s) h] = h^2 [(f^2 + f') x - (g^2)' s] / 2 + O(h^3)
                         sigma_{t|t-h}^2 - g^2 h                = h^2 [f g^2 - (g^2)' / 2]          + O(h^3)
Langevin                 x + eta s_sigma(x) + sqrt(2 eta) z settles at P (1 - eta / 2P)^-1 with P = S + sigma^2:
                         two biases, from the noise level and from the step
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm, solve_continuous_lyapunov

from refdiff import operators
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.processes import Chain
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity

TOPIC = "Reverse-time equations"


@identity(
    "Independent increments and their bridge",
    topic=TOPIC,
    formula=r"\mathrm{Cov}(w_s, w_t) = \min(s, t), \quad w_s \mid w_r, w_t \sim \mathcal{N}\left(w_r +"
    r" \frac{s - r}{t - r} (w_t - w_r), \frac{(s - r)(t - s)}{t - r}\right)",
    covers=["PODA-403", "PODD-63"],
    over="once",
    control="the bridge's variance without the division by t - r",
)
def wiener(case: Case, wrong: bool) -> list[Sides]:
    """A path built of independent steps, and the middle of two steps conditioned on their ends."""
    rng = case.rng
    steps = rng.exponential(size=6)
    times = np.cumsum(steps)
    build = np.tril(np.ones((6, 6)))  # w at the times, from the increments
    path = Gaussian(np.zeros(6), steps).affine(build)
    (first, second), start, end = steps[:2], rng.normal(size=3), rng.normal(size=3)
    middle = Channel(1.0, 0.0, second).posterior(Channel(1.0, 0.0, first).at(start), end)
    variance = first * second / (1.0 if wrong else first + second)
    return [
        Sides(path.cov(), np.minimum.outer(times, times)),
        Sides(middle.mean(), start + first / (first + second) * (end - start)),
        Sides(middle.cov(), variance * np.eye(3)),
    ]


@identity(
    "Ito's isometry, and what it asks of the integrand",
    topic=TOPIC,
    formula=r"\mathbb{E}\, \Big| \int_0^T \psi\, dw \Big|^2 = \mathbb{E} \int_0^T \|\psi\|_F^2\, dt:\quad"
    r" \psi = e^{A(T-t)} G;\quad \psi = w\ \Rightarrow\ \tfrac12 T^2",
    covers=["PODD-87"],
    over="once",
    evidence=QUADRATURE,
    control="psi = w at the end of each step, which is not adapted: the footnote does not ask for it",
)
def ito_isometry(case: Case, wrong: bool) -> list[Sides]:
    """A covariance by Lyapunov's equation against quadrature of |psi|^2; fourth moments of a path by Wick's theorem."""
    rng, horizon, count = case.rng, case.rng.uniform(0.5, 2.0), 24
    root, noise = 0.4 * rng.standard_normal((3, 3)), rng.standard_normal((3, 2))
    a = -root @ root.T - 0.3 * np.eye(3) + 0.5 * (root - root.T)
    settled, whole = solve_continuous_lyapunov(a, -noise @ noise.T), expm(horizon * a)
    nodes, weights = numeric.legendre(32)
    psi = expm((1 - nodes)[:, None, None] * horizon * a) @ noise
    squares = horizon * weights @ np.einsum("nij,nij->n", psi, psi)
    # a path w_1..w_n, and its increments as rows of sums: all jointly Gaussian
    step = horizon / count
    path = Chain([Channel(1.0, 0.0, step)] * count).joint(Gaussian([0.0], 0.0)).cov()
    ahead, at = np.diff(np.eye(count + 1), axis=0), np.eye(count + 1)[1:] if wrong else np.eye(count + 1)[:-1]
    known, moves, both = at @ path @ at.T, ahead @ path @ ahead.T, at @ path @ ahead.T
    square = np.trace(both) ** 2 + (known * moves).sum() + (both * both.T).sum()  # E (sum_k psi_k dw_k)^2
    return [
        Sides(np.trace(settled - whole @ settled @ whole.T), squares),
        Sides(square, step * np.trace(known)),
        Sides(square + horizon * step / 2, horizon**2 / 2),
    ]


@identity(
    "Score loss and noise loss, point by point",
    topic="Regression losses",
    formula=r"|s_\theta(x_t) - \nabla \log p(x_t|x_0)|^2 = \sigma_t^{-2} |\varepsilon_\theta(x_t) - \varepsilon|^2,"
    r" \quad s_\theta = -\varepsilon_\theta / \sigma_t",
    covers=["TOPA-76"],
    control="a weight of 1 / sigma",
)
def weighted_noise_loss(case: ModelCase, wrong: bool) -> Sides:
    """The score of the pushed law and of the kernel's Gaussian, against the noise left over by Bayes' denoiser."""
    c, rng = case.process.coefficients(case.t), case.rng
    clean, noise = case.law.sample(1, rng), rng.normal(size=(1, case.law.dim))
    x = c.alpha * clean + c.sigma * noise
    kernel = case.process.kernel(case.t).at(clean[0])
    left = (case.model.score(x, case.t) - kernel.score(x)) ** 2
    predicted = (x - c.alpha * case.model.denoiser(x, case.t)) / c.sigma
    right = (predicted - noise) ** 2 / (c.sigma if wrong else c.sigma**2)
    # both sides square a difference of terms of these sizes, divided by sigma^2
    size = (np.abs(x) + np.abs(c.alpha * clean)) / c.sigma**2 + np.abs(kernel.score(x))
    return Sides(left.sum(), right.sum(), scale=np.sum(size**2))


@identity(
    "DDPM's step is Euler's for the reverse equation, to first order",
    topic=TOPIC,
    formula=r"\frac{\mathbb{E}[x_{t-h}|x_t] - [x_t - (f x_t - g^2 s) h]}{h^2} \to"
    r" \tfrac12 [(f^2 + f') x_t - (g^2)' s], \quad \frac{\sigma_{t|t-h}^2 - g^2 h}{h^2} \to f g^2 - \tfrac12 (g^2)'",
    covers=["TOPA-77"],
    evidence=ORDER,
    control="half the score, the drift of the probability flow",
    needs=lambda case: smooth(case) and case.law.dim <= 5,
)
def ddpm_is_euler(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' rule over shorter and shorter steps, which knows no score, against derivatives of f and g^2."""
    t, x, schedule = case.t, case.x, case.process.schedules[0]
    f, g2 = schedule.f(t), schedule.g2(t)
    reach = min(t, case.process.T - t)
    df, dg2 = (numeric.derivative(rate, t, reach / 50) for rate in (schedule.f, schedule.g2))
    s = case.model.score(x, t)
    means, variances = [], []
    for h in reach / 40 / 2.0 ** np.arange(6):
        step = case.process.channel(t - h, t)
        euler = x - (f * x - g2 * s * (0.5 if wrong else 1.0)) * h
        means.append((step.posterior_mean(case.model.marginal(t - h), x) - euler) / h**2)
        variances.append((step.noise - g2 * h) / h**2)
    # the terms of the next order, where these vanish: rates over the time to the nearer end
    terms = (f * f + np.abs(df)) * np.abs(x) + (np.abs(dg2) + g2 / reach) * np.abs(s)
    return [
        Sides(numeric.extrapolate(means), 0.5 * ((f * f + df) * x - dg2 * s), scale=terms.max()),
        Sides(numeric.extrapolate(variances), f * g2 - 0.5 * dg2, scale=abs(f * g2) + abs(dg2) + g2 / reach),
    ]


@identity(
    "Where Langevin's iteration at one noise level settles",
    topic=TOPIC,
    formula=r"x \leftarrow x + \eta \nabla \log p_\sigma(x) + \sqrt{2 \eta}\, z: \quad"
    r" \mathrm{Cov}\, x \to P (1 - \tfrac{\eta}{2} P^{-1})^{-1}, \quad P = \alpha^2 S + \sigma^2",
    covers=["PODA-317"],
    control="the step's bias left out",
    needs=lambda case: isinstance(case.law, Gaussian) and case.law.dim <= 5,
)
def langevin(case: ModelCase, wrong: bool) -> Sides:
    """2^40 steps, as one channel squared forty times with the Hessian of the log density, against the eigenvalues."""
    c, dim = case.process.coefficients(case.t), case.law.dim
    alpha, noise = np.broadcast_to(c.alpha, dim), np.broadcast_to(c.sigma**2, dim)
    values, axes = np.linalg.eigh(np.outer(alpha, alpha) * case.law.cov() + np.diag(noise))
    eta = 0.5 * values.min()
    step = Channel(np.eye(dim) + eta * case.model.hessian(case.x[0], case.t), 0.0, 2 * eta)
    for _ in range(40):
        step = step.compose(step)
    settled = axes * (values if wrong else values / (1 - eta / (2 * values))) @ axes.T
    # a sum of contracting steps: the slowest direction gathers the rounding of its condition number
    return Sides(operators.dense(step.noise, dim), settled, scale=settled.max() * values.max() / values.min())
