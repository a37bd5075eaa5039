r"""Point sets blurred by kernels: density estimates, their bias, their classes, their score.

estimate    rho_h(x) = sum_i w_i N(x; x_i, h^2)           its integral is 1
bias        rho * N(0, h^2) = rho + (h^2 / 2) lap rho + O(h^4): diffusion for a time h^2 / 2D
classes     rho_1 / (rho_1 + rho_2) = sigmoid(log rho_1 - log rho_2)
levels      p_s' = p_s * N(0, s'^2 - s^2) for s < s'
score       -Sigma^-1 (x - U xbar(x)), xbar the posterior mean of the points: the exact minimiser of the
            denoising loss over the set, not a guess
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Empirical, from_samples, random_mixture
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import covariances, gaussian, half_and_half, smallest_std, well_conditioned
from refdiff.validation.numeric import extrapolate, jacobian, laplacian, ticks
from refdiff.validation.steps import FINE, relative_density

TOPIC = "Densities and scores"


@identity(
    "A kernel density estimate is a mixture of mass one",
    topic=TOPIC,
    formula=r"\rho_h(x) = \frac{1}{N} \sum_i \frac{1}{\sqrt{2\pi} h} e^{-(x - x_i)^2 / 2h^2},"
    r" \quad \int \rho_h\, dx = 1",
    covers=["PHY-97"],
    refutes=["PHY-97"],
    over="once",
    evidence=QUADRATURE,
    control="the exponent -(x - x')^2 / 2h, as printed in (97)",
)
def density_estimate(case: Case, wrong: bool) -> list[Sides]:
    """The library's kernel mixture against the sum of kernels written out, and its integral by the trapezoid rule."""
    rng = case.rng
    data, h = rng.normal(size=(20, 1)), rng.uniform(0.1, 0.5)
    # a spacing of half a standard deviation leaves exp(-8 pi^2); the printed kernel is wider, of deviation sqrt(h)
    x = ticks(data.min() - 9, data.max() + 9, h / 2)
    spread = h if wrong else h**2
    written = (np.exp(-((x[:, None] - data[:, 0]) ** 2) / (2 * spread)) / (np.sqrt(2 * np.pi) * h)).mean(axis=1)
    estimate = np.exp(from_samples(data, bandwidth=h).logpdf(x[:, None]))
    return [Sides(estimate, written), Sides(written.sum() * h / 2, 1.0), Sides(estimate.sum() * h / 2, 1.0)]


@identity(
    "The bias of a kernel density estimate is diffusion",
    topic=TOPIC,
    formula=r"\frac{\rho * \mathcal{N}(0, h^2) - \rho}{h^2} \to \tfrac12 \Delta \rho",
    covers=["PHY-99"],
    over="laws",
    evidence=ORDER,
    control="the Laplacian without its half",
    needs=lambda case: case.law.dim <= 5,
)
def estimate_bias(case: LawCase, wrong: bool) -> Sides:
    """Narrower and narrower kernels on the exact density, against its Laplacian by stencils, both relative to p(x)."""
    std, x, here = smallest_std(case.law), case.x, case.law.logpdf(case.x)
    widths = std / 6 / 2.0 ** np.arange(5)
    gaps = [np.expm1(case.law.convolve(h**2).logpdf(x) - here) / h**2 for h in widths]
    bend = laplacian(relative_density(case.law, x), x, std * FINE)
    return Sides(extrapolate(gaps, first=2, step=2), (1.0 if wrong else 0.5) * bend, scale=np.abs(bend).max())


@identity(
    "Class posterior of two densities",
    topic=TOPIC,
    formula=r"\frac{\rho_1}{\rho_1 + \rho_2} = \operatorname{sigmoid}(\log \rho_1 - \log \rho_2)",
    covers=["PHY-98"],
    over="laws",
    control="densities in place of their logarithms",
    needs=lambda case: case.law.dim <= 5,
)
def class_posterior(case: LawCase, wrong: bool) -> Sides:
    """Responsibilities of the two halves of one mixture, against the two mixtures' own densities."""
    rng, d = case.rng, case.law.dim
    first, second = (random_mixture(d, 3, rng, "isotropic") for _ in range(2))
    both = half_and_half(first, second)
    x = both.sample(6, rng)
    log_1, log_2 = first.logpdf(x), second.logpdf(x)
    right = expit(np.exp(log_1) - np.exp(log_2)) if wrong else expit(log_1 - log_2)
    # an exponent is known to eps times its size
    return Sides(both.responsibilities(x)[:, :3].sum(axis=1), right, scale=1 + np.abs(log_1) + np.abs(log_2))


@identity(
    "Marginals of ascending noise levels are a semigroup",
    topic="Forward kernels",
    formula=r"p_{\sigma'}(x) = \int p_\sigma(x - u)\, \mathcal{N}(u; 0, \sigma'^2 - \sigma^2)\, du",
    covers=["PODA-327"],
    over="laws",
    evidence=QUADRATURE,
    control="the level added in place of the difference of the squares",
    needs=lambda case: case.law.dim == 1,
)
def noise_levels(case: LawCase, wrong: bool) -> Sides:
    """The trapezoid rule on the law of the lower level, against the law of the higher one."""
    low, high = np.sort(case.rng.uniform(0.2, 2.0, 2))
    added = high**2 if wrong else high**2 - low**2
    lower, higher = case.law.convolve(low**2), case.law.convolve(high**2)
    # the product of two bells is no narrower than this; half of it as a spacing leaves exp(-8 pi^2)
    width = (1 / (smallest_std(lower) ** 2) + 1 / added) ** -0.5
    u = ticks(-9 * np.sqrt(added), 9 * np.sqrt(added), width / 2)
    kernel = np.exp(-(u**2) / (2 * added)) / np.sqrt(2 * np.pi * added)
    integral = np.exp(lower.logpdf(case.x[:, None] - u[:, None])) @ kernel * width / 2
    return Sides(integral, np.exp(higher.logpdf(case.x)))


@identity(
    "The score of a weighted point set under a matrix kernel",
    topic=TOPIC,
    formula=r"\nabla \log \sum_i w_i\, \mathcal{N}(x; U x^{(i)}, \Sigma) = -\Sigma^{-1} (x - U \bar x(x)),"
    r" \quad \bar x = \sum_i r_i(x)\, x^{(i)}",
    covers=["RDX-28", "RDX-26"],
    over="once",
    evidence=DERIVATIVE,
    control="the mean of the points by their prior weights",
)
def point_set_score(case: Case, wrong: bool) -> list[Sides]:
    """Posterior weights by softmax over the points, against the pushed law and a stencil of the kernels' sum."""
    rng, d = case.rng, 3
    points, weights = rng.normal(size=(12, d)), rng.dirichlet(np.ones(12))
    kernel = Channel(well_conditioned(rng, d), noise=covariances(gaussian(rng, d))[0])
    x = kernel.sample(points[:5], rng)
    logs = np.log(weights) + kernel.logpdf(x[:, None], points)
    mean = np.broadcast_to(weights @ points, x.shape) if wrong else softmax(logs, axis=1) @ points
    score = -np.linalg.solve(kernel.noise, (x - mean @ kernel.gain.T).T).T

    def log_sum(y: Array) -> Array:
        return np.asarray(np.log(np.exp(kernel.logpdf(y[:, None], points)) @ weights))

    step = np.sqrt(np.linalg.eigvalsh(kernel.noise)[0]) * FINE
    pushed = kernel.push(Empirical(points, weights))
    return [Sides(pushed.score(x), score), Sides(jacobian(log_sum, x, step), score)]
