r"""Integration by parts against a Gaussian: Stein's identity, SURE, and score matching for a general operator.

With y = theta + sigma z, z ~ N(0, I), theta = alpha x_0, and any smooth D:

    E[z . u(z)]            = E[div u(z)]
    E[(y - theta) . a(y)]  = sigma^2 E[div a(y)]
    SURE(D; y)             = |D(y) - y|^2 + 2 sigma^2 div D(y) - d sigma^2,     E SURE = E |D(y) - theta|^2
    least risk             = d sigma^2 - sigma^4 E |grad log p|^2,             D = y + sigma^2 grad log p = E[theta | y]

For a linear operator L with adjoint L+ and any field g, under p:

    D_L(p || q)            = E |L p / p - L q / q|^2
    E |g - L p / p|^2 / 2  = E [|g|^2 / 2 - L+ g] + E |L p / p|^2 / 2
    L = grad               L+ g = -div g                    L p / p = grad log p            (Hyvarinen)
    L = y + sigma^2 grad   L+ g = y . g - sigma^2 div g     L p / p = E[theta | y]
    L = grad grad'         L+ G = sum_ij d_i d_j G_ij       sigma^4 L p / p = E[(y - theta)(y - theta)' | y] - sigma^2 I

Where p is a density p_t, L p / p comes from Bayes' rule and expectations are sums over p_t (`expectations.grid`). Given
one x_0 they are sums over a grid in units of the noise: a pole of the denoiser between two components s apart lies
pi / s from the reals and s / 2 from the nearest mean, so the sum with spacing h errs by exp(-2 pi^2 / (s h) - s^2 / 8),
and by 2 pi / h times that for a Jacobian, whose pole is double: 1e-12 and 5e-11 at most at h = 1/8.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import scalar
from refdiff.validation.expectations import grid, small
from refdiff.validation.identities.densities import segment
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import cubature
from refdiff.validation.numeric import hermite, lattice, legendre, product_rule, ticks

TOPIC = "Tweedie, Stein and score matching"


def squared(x: Array) -> Array:
    """|x|^2 of points (n, d)."""
    return np.asarray(np.square(x).sum(axis=1))


def normal_grid(dim: int) -> tuple[Array, Array]:
    """Points z (n, dim) and weights of the sum that stands for E f(z), z ~ N(0, I).

    Beyond 7.5 lies e^(-7.5^2 / 2) = 6e-13 of the mass, where a quadratic integrand has grown by 56.
    """
    axis = ticks(-7.5, 7.5, 1 / 8)
    z = lattice(*[axis] * dim)
    z = z[squared(z) < 7.5**2]
    weights: Array = np.exp(-0.5 * squared(z))
    return z, weights / weights.sum()


def planar(case: ModelCase) -> bool:
    """Whether expectations over the noise of one x_0 are cheap, and sigma is one number."""
    return (case.law.dim == 1 or (case.law.dim == 2 and case.law.count <= 25)) and scalar(case)


def gridded(case: ModelCase) -> bool:
    """Whether expectations over the whole of p_t are cheap, and sigma is one number."""
    return small(case) and scalar(case)


class Field(NamedTuple):
    """g(x) = k x + a sin(w . x) with a and w (d,)."""

    k: float
    a: Array
    w: Array

    @classmethod
    def random(cls, rng: np.random.Generator, law: GaussianMixture) -> Field:
        """A random field with waves as long as the law is wide."""
        width = np.sqrt(np.trace(law.cov()) / law.dim)
        return cls(rng.normal(), width * rng.standard_normal(law.dim), rng.standard_normal(law.dim) / width)

    def __call__(self, x: Array) -> Array:
        return self.k * x + np.sin(x @ self.w)[:, None] * self.a

    def divergence(self, x: Array) -> Array:
        """div g at x (n, d), shape (n,)."""
        return np.asarray(self.k * x.shape[1] + np.cos(x @ self.w) * (self.a @ self.w))


# ---------------------------------------------------------------------- Stein


@identity(
    "Stein's identity for polynomials",
    topic=TOPIC,
    formula=r"\mathbb{E}\, z^\top u(z) = \mathbb{E}\, \nabla \cdot u(z),\quad z \sim \mathcal{N}(0, I)",
    covers=["PODD-105"],
    over="once",
    control="the derivative lowers the power without its factor",
)
def stein_polynomials(case: Case, wrong: bool) -> list[Sides]:
    """Powers on the line, then fields u_i = c_i prod_j z_j^n_ij in space, by Gauss-Hermite of sufficient degree."""
    rng, (nodes, weights) = case.rng, hermite(12)
    found = []
    for n in range(1, 9):
        left, right = weights @ nodes ** (n + 1), (1 if wrong else n) * weights @ nodes ** (n - 1)
        found.append(Sides(left, right, scale=weights @ np.abs(nodes) ** (n + 1)))
    z, weight = product_rule((nodes, weights), 3)
    left = right = scale = np.zeros(())
    for i, powers in enumerate(rng.integers(0, 6, (3, 3))):
        c, lowered = rng.normal(), powers - np.eye(3, dtype=int)[i]
        terms = c * z[:, i] * (z**powers).prod(axis=1)
        left, scale = left + weight @ terms, scale + weight @ np.abs(terms)
        if powers[i]:
            right = right + c * (1 if wrong else powers[i]) * (weight @ (z**lowered).prod(axis=1))
    return [*found, Sides(left, right, scale=scale)]


@identity(
    "Stein's identity for a denoiser",
    topic=TOPIC,
    formula=r"\mathbb{E}[(x_t - \alpha x_0)^\top a(x_t) | x_0] = \sigma^2\, \mathbb{E}[\nabla \cdot a(x_t) | x_0],"
    r"\quad a(x) = \mathbb{E}[x_0 | x_t = x]",
    covers=["PODD-105"],
    over="models",
    evidence=QUADRATURE,
    control="sigma in place of sigma^2",
    needs=lambda case: case.law.dim == 1 or (case.law.dim == 2 and case.law.count <= 25),
    most=8,
)
def stein_denoiser(case: ModelCase, wrong: bool) -> Sides:
    """A sum over the noise of one x_0: the exact denoiser against the trace of its Jacobian, axis by axis."""
    c, start = case.process.coefficients(case.t), case.law.sample(1, case.rng)
    z, weights = normal_grid(case.law.dim)
    x = c.alpha * start + c.sigma * z
    a, jacobian = case.model.denoiser(x, case.t), case.model.denoiser_jacobian(x, case.t)
    noise = c.sigma if wrong else c.sigma**2
    left = weights @ (c.sigma * z * a)
    right = weights @ (noise * np.einsum("nii->ni", jacobian))
    return Sides(left, right, scale=weights @ np.abs(c.sigma * z * a))


# ---------------------------------------------------------------------- SURE


@identity(
    "Stein's unbiased risk estimate",
    topic=TOPIC,
    formula=r"\mathbb{E}\big[\|D(\tilde x) - \tilde x\|^2 + 2 \sigma^2 \nabla \cdot D(\tilde x) - d \sigma^2"
    r" \,\big|\, x\big]"
    r" = \mathbb{E}\big[\|D(\tilde x) - x\|^2 \,\big|\, x\big]",
    covers=["PODA-321", "PODD-106"],
    over="models",
    evidence=QUADRATURE,
    control="sigma^2 div D without its factor 2",
    needs=planar,
    most=10,
)
def sure(case: ModelCase, wrong: bool) -> Sides:
    """Sums over the noise of one x = alpha x_0, for a denoiser that is deliberately not the best one."""
    c, rng, d = case.process.coefficients(case.t), case.rng, case.law.dim
    clean, shrink = c.alpha * case.law.sample(1, rng), rng.uniform(0.5, 0.9)
    z, weights = normal_grid(d)
    x = clean + c.sigma * z
    guess = shrink * c.alpha * case.model.denoiser(x, case.t)
    divergence = shrink * c.alpha * np.trace(case.model.denoiser_jacobian(x, case.t), axis1=1, axis2=2)
    penalty = (1 if wrong else 2) * c.sigma**2 * divergence
    left = weights @ (squared(guess - x) + penalty) - d * c.sigma**2
    scale = weights @ (squared(guess - x) + np.abs(penalty)) + d * c.sigma**2
    return Sides(left, weights @ squared(guess - clean), scale=scale)


@identity(
    "SURE of linear and thresholding denoisers",
    topic=TOPIC,
    formula=r"D = K \tilde x:\ \mathbb{E}\,\mathrm{SURE} = \|(K - I) x\|^2 + \sigma^2 \|K\|_F^2;"
    r"\quad D = \operatorname{sign}(\tilde x) (|\tilde x| - \lambda)_+:"
    r"\ \nabla \cdot D = \mathbf{1}\{|\tilde x| > \lambda\}",
    covers=["PODA-321", "PODD-106"],
    over="once",
    control="the divergence of the identity map, d",
)
def sure_closed_form(case: Case, wrong: bool) -> list[Sides]:
    """SURE by cubature, or piece by piece between the kinks, against the closed forms of both risks."""
    rng, d = case.rng, 5
    k, x, sigma = rng.standard_normal((d, d)), rng.standard_normal(d), rng.uniform(0.3, 2.0)
    y, weights = cubature(Gaussian(x, sigma**2))
    estimate = weights @ squared(y @ k.T - y) + sigma**2 * (2 * (d if wrong else np.trace(k)) - d)
    risk = squared((k @ x - x)[None])[0] + sigma**2 * np.square(k).sum()
    # soft threshold at l of y = m + z, in units of sigma
    m, l = rng.uniform(-2, 2), rng.uniform(0.5, 1.5)
    nodes, weight = legendre(64)
    knots = np.array([m - 10, -l, l, m + 10])
    y1 = knots[:-1, None] + np.diff(knots)[:, None] * nodes
    density = np.exp(-0.5 * (y1 - m) ** 2) / np.sqrt(2 * np.pi) * np.diff(knots)[:, None] * weight
    guess = np.sign(y1) * np.maximum(np.abs(y1) - l, 0)
    slope = np.ones_like(y1) if wrong else np.abs(y1) > l
    estimate1 = (density * ((guess - y1) ** 2 + 2 * slope - 1)).sum()
    inside = ndtr(l - m) - ndtr(-l - m)
    tails = [(l - m) * np.exp(-0.5 * (l + m) ** 2), (l + m) * np.exp(-0.5 * (l - m) ** 2)]
    risk1 = 1 + l**2 + (m**2 - l**2 - 1) * inside - sum(tails) / np.sqrt(2 * np.pi)
    return [
        Sides(estimate, risk, scale=risk + sigma**2 * (2 * np.abs(np.diag(k)).sum() + d)),
        Sides(estimate1, risk1, scale=(density * ((guess - y1) ** 2 + 3)).sum()),
    ]


@identity(
    "Bayes optimality of the SURE minimiser",
    topic=TOPIC,
    formula=r"\mathbb{E}\,\mathrm{SURE}(D) - \mathbb{E}\,\mathrm{SURE}(D^*) = \mathbb{E}\|D - D^*\|^2,"
    r"\quad \mathbb{E}\,\mathrm{SURE}(D^*) = \mathbb{E} \operatorname{tr} \operatorname{Cov}[\alpha x_0 | x_t]"
    r" = d \sigma^2 - \sigma^4\, \mathbb{E}\|\nabla \log p_t\|^2",
    covers=["PODA-322"],
    over="models",
    evidence=QUADRATURE,
    control="sigma^2 in place of sigma^4",
    needs=gridded,
)
def bayes_risk(case: ModelCase, wrong: bool) -> list[Sides]:
    """Sums over p_t: the posterior variance against the score; any field's SURE against its distance to Bayes' mean."""
    c, d, marginal = case.process.coefficients(case.t), case.law.dim, case.model.marginal(case.t)
    sums = grid(case, case.t)
    x, weights = sums.x, sums.weights
    variance = c.alpha**2 * weights @ sums.variance.sum(axis=1)
    noise = d * c.sigma**2
    right = noise - c.sigma ** (2 if wrong else 4) * weights @ squared(sums.score)
    field, best = Field.random(case.rng, marginal), c.alpha * sums.answer("denoiser")
    terms = squared(field(x) - x), 2 * c.sigma**2 * field.divergence(x)
    excess = weights @ squared(field(x) - best)
    scale = weights @ (terms[0] + np.abs(terms[1])) + noise
    return [
        Sides(variance, right, scale=noise),
        Sides(weights @ (terms[0] + terms[1]) - noise, variance + excess, scale=scale),
    ]


@identity(
    "SURE and Hyvarinen's objective",
    topic=TOPIC,
    formula=r"D = x + \sigma^2 s:\quad \frac{\mathrm{SURE}(D; x)}{2 \sigma^4}"
    r" = \operatorname{tr} \nabla s + \tfrac12 \|s\|^2 + \frac{d}{2 \sigma^2}",
    covers=["PODA-323"],
    over="models",
    control="the constant without its 1/2",
    needs=scalar,
)
def sure_and_hyvarinen(case: ModelCase, wrong: bool) -> Sides:
    """Point by point: SURE from Bayes' denoiser and its Jacobian, the objective from the score and its divergence."""
    c, d, x = case.process.coefficients(case.t), case.law.dim, case.x
    marginal, v = case.model.marginal(case.t), c.sigma**2
    guess = c.alpha * case.model.denoiser(x, case.t)
    divergence = c.alpha * np.trace(case.model.denoiser_jacobian(x, case.t), axis1=1, axis2=2)
    left = (squared(guess - x) + 2 * v * divergence - d * v) / (2 * v**2)
    score = marginal.score(x)
    right = marginal.laplacian(x) + 0.5 * squared(score) + d / (1 if wrong else 2) / v
    # D - x is a difference of numbers of the size of x: its square is known to eps |D - x| |x|
    residual = np.sqrt(squared(guess - x)) * (np.sqrt(squared(guess)) + np.sqrt(squared(x)))
    return Sides(left, right, scale=(residual + 2 * v * np.abs(divergence) + d * v) / (2 * v**2))


# ---------------------------------------------------------------------- general operators


@identity(
    "Generalised Fisher divergence",
    topic=TOPIC,
    formula=r"D_{\mathcal{L}}(p \| q)"
    r" = \mathbb{E}_p \left\| \tfrac{\mathcal{L} p}{p} - \tfrac{\mathcal{L} q}{q} \right\|^2"
    r" = \sigma^4 D_F(p_t \| q_t) \text{ for } \mathcal{L} = x + \sigma^2 \nabla,"
    r"\quad \nabla \log p_t = \tfrac{1}{\sigma^2} \big( \tfrac{\mathcal{L} p_t}{p_t} - x \big)",
    covers=["PODA-324"],
    over="models",
    evidence=QUADRATURE,
    control="sigma^2 in place of sigma^4",
    needs=lambda case: case.law.dim == 1 and scalar(case),
)
def generalised_fisher(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' denoisers of two data laws against their scores; the density rebuilt from a denoiser (completeness)."""
    c, other = case.process.coefficients(case.t), Gaussian(case.law.mean(), case.law.cov() + 0.1)
    p, q = case.model.marginal(case.t), ExactModel(other, case.process)
    sums = grid(case, case.t)
    x, weights = sums.x, sums.weights
    gap = c.alpha * (sums.answer("denoiser") - q.denoiser(x, case.t))
    scores = sums.score, q.score(x, case.t)
    fisher = weights @ squared(scores[0] - scores[1])
    # late in time the two laws are almost one, and each difference is known to the rounding of its terms
    scale = weights @ (np.abs(gap) * c.sigma**2 * (np.abs(scores[0]) + np.abs(scores[1]))).sum(axis=1)
    start, end = case.x[:2]
    u, weight = segment(p, start, end)
    y = start + u[:, None] * (end - start)
    slope = (c.alpha * case.model.denoiser(y, case.t) - y) @ (end - start) / c.sigma**2
    logs = p.logpdf(case.x[:2])
    return [
        Sides(weights @ squared(gap), c.sigma ** (2 if wrong else 4) * fisher, scale=scale),
        Sides(weight @ slope, logs[1] - logs[0], scale=np.abs(logs).max() + case.law.dim),
    ]


def _objective(g: Array, adjoint: Array, target: Array, weights: Array) -> Sides:
    """E |g - L p / p|^2 / 2 against E [|g|^2 / 2 - L+ g] + E |L p / p|^2 / 2."""
    expanded = 0.5 * squared(g) - adjoint + 0.5 * squared(target)
    scale = weights @ (0.5 * squared(g) + np.abs(adjoint) + 0.5 * squared(target))
    return Sides(0.5 * weights @ squared(g - target), weights @ expanded, scale=scale)


@identity(
    "Generalised score matching",
    topic=TOPIC,
    formula=r"\tfrac12 \mathbb{E}_p \left\| g - \tfrac{\mathcal{L} p}{p} \right\|^2"
    r" = \mathbb{E}_p \big[ \tfrac12 \|g\|^2 - \mathcal{L}^\dagger g \big]"
    r" + \tfrac12 \mathbb{E}_p \left\| \tfrac{\mathcal{L} p}{p} \right\|^2,"
    r"\quad \mathcal{L} f = x f + \sigma^2 \nabla f,\ \mathcal{L}^\dagger g = x \cdot g - \sigma^2 \nabla \cdot g",
    covers=["PODA-325", "PODA-326"],
    refutes=["PODA-326"],
    over="models",
    evidence=QUADRATURE,
    control="the printed operator x f' + sigma^2 grad f",
    needs=gridded,
)
def generalised_score_matching(case: ModelCase, wrong: bool) -> list[Sides]:
    """Sums over p_t with L p / p from Bayes' rule, for grad, x + sigma^2 grad and grad grad', against any field."""
    c, d, marginal = case.process.coefficients(case.t), case.law.dim, case.model.marginal(case.t)
    sums = grid(case, case.t)
    x, weights = sums.x, sums.weights
    g, v = Field.random(case.rng, marginal), c.sigma**2
    denoising = (x * g(x)).sum(axis=1) - v * g.divergence(x)
    if wrong:
        return [_objective(g(x), denoising, (x + v) * sums.score, weights)]
    mean, covariance = c.alpha * sums.answer("denoiser"), case.model.posterior_covariance(x, case.t)
    score = (mean - x) / v
    noise = c.alpha**2 * covariance + np.einsum("ni,nj->nij", mean - x, mean - x)
    curvature = (noise - v * np.eye(d)) / v**2
    # G_ij = C_ij sin(w . x) with a symmetric C: L+ G = -w'C w sin(w . x)
    matrix = np.outer(g.a, g.a)
    wave = np.sin(x @ g.w)
    tensor = (wave[:, None, None] * matrix).reshape(-1, d * d)
    return [
        _objective(g(x), -g.divergence(x), score, weights),
        _objective(g(x), denoising, mean, weights),
        _objective(tensor, -(g.w @ matrix @ g.w) * wave, curvature.reshape(-1, d * d), weights),
    ]
