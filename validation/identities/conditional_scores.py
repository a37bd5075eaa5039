r"""Scores given a label or a measurement, where Bayes' rule can be worked out.

    grad log p_t(x | c) = grad log p_t(x) + grad log p_t(c | x)          p_t(c | x) = int p(c | x_0) p(x_0 | x) dx_0

A label that owns some components of a mixture has a law of its own, and so a model of its own; its classifier is a sum
of responsibilities. A measurement y = A x_0 + sigma_y z turns the law of x_0 into another mixture, whose model has
the conditional score; for Gaussian data the gradient of the likelihood is, with J = dD/dx and C = Cov[x_0 | x],

    grad log p_t(y | x) = J' A' (sigma_y^2 I + A C A')^-1 (y - A D).

Tilting by a reward, p exp(r / beta) / Z, is the same algebra at t = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import entr, expit, logsumexp, rel_entr

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import one_gaussian, scalar
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import derivative, jacobian

TOPIC = "Conditional scores"


def labelled(law: GaussianMixture) -> tuple[GaussianMixture, float]:
    """The law of the components with even index, which carry the label, and the log of its share."""
    chosen = np.arange(0, law.count, 2)
    log_share = float(logsumexp(law.log_weights[chosen]))
    return GaussianMixture(law.log_weights[chosen] - log_share, law.means[chosen], law.covariances[chosen]), log_share


def extent(law: GaussianMixture) -> tuple[float, float]:
    """s and D of a law, its least deviation and the reach of its means: log odds of components turn over s^2 / D."""
    std = smallest_std(law)
    return std, std + float(np.linalg.norm(law.means[:, None] - law.means, axis=2).max())


def several(case: Any) -> bool:
    """Whether the law of a case is a mixture that a label can split, small enough for stencils."""
    return bool(1 < case.law.count < 100 and case.law.dim <= 5 and scalar(case))


@identity(
    "Bayes' rule for conditional scores",
    topic=TOPIC,
    formula=r"\nabla\log p_t(x|c) = \nabla\log p_t(x) + \nabla\log p_t(c|x),\qquad p_t(c|x) = p(c)\,p_t(x|c) / p_t(x)",
    covers=["PODC8-02"],
    control="the classifier of the clean data in place of the noisy one",
    evidence=DERIVATIVE,
    needs=lambda case: several(case) and not case.law.covariances.singular,
    most=9,
)
def conditional_score(case: ModelCase, wrong: bool) -> Sides:
    """The score of the label's own model against the stencil of the logarithm of a sum of responsibilities."""
    own, log_share = labelled(case.law)
    conditional, pushed = ExactModel(own, case.process), case.model.marginal(case.t)
    x = conditional.sample(4, case.t, case.rng)

    def log_classifier(y: Array) -> Array:
        if wrong:
            return np.asarray(log_share + own.logpdf(y) - case.law.logpdf(y))
        # the responsibilities of the labelled components, added up as logarithms: they may underflow
        logits = np.log(np.maximum(pushed.responsibilities(y)[:, ::2], 1e-290))
        return np.asarray(logsumexp(logits, axis=1))

    score, free = conditional.score(x, case.t), case.model.score(x, case.t)
    std, apart = extent(pushed)
    gradient = jacobian(log_classifier, x, 0.03 * std**2 / apart)
    return Sides(score, free + gradient, np.abs(score).max() + apart / std**2)


@identity(
    "The noisy classifier is the clean one averaged over the posterior",
    topic=TOPIC,
    formula=r"p_t(c|x_t) = \int p(c|x_0)\,p(x_0|x_t)\,dx_0",
    covers=["PODC8-04"],
    control="the clean classifier at the posterior mean",
    evidence=QUADRATURE,
    needs=lambda case: case.law.dim == 1 and several(case) and not case.law.covariances.singular,
)
def noisy_classifier(case: ModelCase, wrong: bool) -> Sides:
    """Trapezoidal sums of the clean responsibilities over the posterior law against the noisy responsibilities."""
    x = case.x[:3]
    found = []
    for one in x:
        law = case.model.posterior(one, case.t)
        std = np.sqrt(law.covariances.dense(1)[:, 0, 0])
        low, high = (law.means[:, 0] - 12 * std).min(), (law.means[:, 0] + 12 * std).max()
        # sixteen steps in the smallest standard deviation: the responsibilities have poles off the axis
        grid = np.linspace(low, high, int(16 * (high - low) / std.min()) + 2)[:, None]
        weight = np.exp(law.logpdf(grid)) * (grid[1, 0] - grid[0, 0])
        found.append(weight @ case.law.responsibilities(grid))
    if wrong:
        found = list(case.law.responsibilities(case.model.denoiser(x, case.t)))
    return Sides(np.array(found), case.model.marginal(case.t).responsibilities(x), 1.0)


@identity(
    "Score of a linear measurement",
    topic=TOPIC,
    formula=r"\nabla\log p_t(y|x_t) = J^{\mathsf{T}}A^{\mathsf{T}}(\sigma_y^2 I + A C_t A^{\mathsf{T}})^{-1}(y - A"
    r" x^*(x_t)) = \nabla\log p_t(x_t|y)"
    r" - \nabla\log p_t(x_t)",
    covers=["PODC8-21", "PODC8-02"],
    control="diffusion posterior sampling: the posterior spread A C A' left out",
    needs=one_gaussian,
)
def measurement(case: ModelCase, wrong: bool) -> Sides:
    """The formula against the difference of two models: of the data given y, and of the data."""
    d, x, model = case.law.dim, case.x, case.model
    a = case.rng.standard_normal((max(1, d - 1), d))
    y, variance = case.rng.standard_normal(len(a)), 0.1 + case.rng.random()
    given = ExactModel(Channel(a, np.zeros(len(a)), variance * np.eye(len(a))).posterior(case.law, y), case.process)
    gain, spread = model.denoiser_jacobian(x[0], case.t), model.posterior_covariance(x[0], case.t)
    total = variance * np.eye(len(a)) + (0 if wrong else 1) * a @ spread @ a.T
    missed = y - model.denoiser(x, case.t) @ a.T
    found = np.linalg.solve(total, missed.T).T @ a @ gain
    both = given.score(x, case.t), model.score(x, case.t)
    return Sides(found, both[0] - both[1], sum(np.abs(part).max() for part in both))


@identity(
    "Gradient of a loss on the denoiser",
    topic=TOPIC,
    formula=r"\nabla_x\,\ell(x^*(x, t)) = J^{\mathsf{T}}\nabla\ell(x^*),\qquad J ="
    r" \frac{\alpha}{\sigma^2}\operatorname{Cov}[x_0|x]",
    covers=["PODC8-16"],
    refutes=["PODC8-16"],
    control="grad log l where grad l is needed",
    evidence=DERIVATIVE,
    needs=several,
    most=6,
)
def loss_gradient(case: ModelCase, wrong: bool) -> Sides:
    """A quadratic loss through Bayes' denoiser by stencil against the posterior covariance."""
    c, x = case.process.coefficients(case.t), case.x[:3]
    goal, pushed = case.rng.standard_normal(case.law.dim), case.model.marginal(case.t)

    def loss(y: Array) -> Array:
        return np.asarray(((case.model.denoiser(y, case.t) - goal) ** 2).sum(axis=-1) / 2)

    slope = case.model.denoiser(x, case.t) - goal
    factor = c.alpha / c.sigma**2 * case.model.posterior_covariance(x, case.t)
    found = np.einsum("nij,nj->ni", factor, slope) / (loss(x)[:, None] if wrong else 1)
    std, apart = extent(pushed)
    # Responsibilities turn over s^2 / D, by up to D of the data, so the gradient can be as large as this; where they
    # are settled it vanishes, and an error is measured against a ten-thousandth of it.
    size = np.abs(slope).max() * apart**2 / (c.alpha * std**2)
    return Sides(jacobian(loss, x, 0.03 * std**2 / apart), found, np.maximum(np.abs(found).max(), 1e-4 * size))


# ---------------------------------------------------------------------- tilted laws


@identity(
    "Tilting a law by a reward",
    topic=TOPIC,
    formula=r"J(\pi) = \mathbb{E}_\pi r - \beta\,\mathrm{KL}(\pi\|\pi_{\mathrm{ref}}) = \beta\log Z -"
    r" \beta\,\mathrm{KL}(\pi\|\pi^*),\quad"
    r" \pi^* = \pi_{\mathrm{ref}}e^{r/\beta}/Z;\qquad \mathcal{N}(m, s^2), r = kx:\ \mathcal{N}(m + k s^2/\beta, s^2)",
    covers=["PODC8-08", "PODC8-25", "PODC8-26"],
    over="once",
    control="exp(beta r) for exp(r / beta), the other text's beta",
)
def tilt(case: Case, wrong: bool) -> list[Sides]:
    """Six answers with random probabilities and rewards; a Gaussian with a linear reward."""
    reference, policy = case.rng.dirichlet(np.ones(6), size=2)
    reward, beta = case.rng.standard_normal(6), 0.5 + case.rng.random()
    power = beta if wrong else 1 / beta
    logs = np.log(reference) + power * reward
    log_z = logsumexp(logs)
    best = np.exp(logs - log_z)
    gained = policy @ reward - beta * policy @ np.log(policy / reference)
    implicit = beta * (np.log(best / reference) + log_z)
    m, s, k = case.rng.standard_normal(), 0.3 + case.rng.random(), case.rng.standard_normal()
    x = m + s * case.rng.standard_normal((5, 1))
    log_norm = k * m * power + (k * s * power) ** 2 / 2
    moved = Gaussian([m + k * s**2 / beta], s**2).logpdf(x)
    return [
        Sides(gained, beta * (log_z - policy @ np.log(policy / best)), 1.0 + np.abs(reward).max()),
        Sides(implicit, reward, 1.0 + np.abs(reward).max()),
        Sides(Gaussian([m], s**2).logpdf(x) + k * x[:, 0] * power - log_norm, moved, 1 + np.abs(moved).max()),
    ]


@identity(
    "Cross-entropy of two answers is divergence plus entropy",
    topic=TOPIC,
    formula=r"-y\log p - (1 - y)\log(1 - p) = \mathrm{KL}(\mathrm{B}(y)\|\mathrm{B}(p)) + H(\mathrm{B}(y)),\qquad"
    r" \frac{d}{d\Delta}\Big[\ldots\Big]_{p = \varsigma(\Delta)} = \varsigma(\Delta) - y",
    covers=["PODC8-24", "PODC8-23"],
    over="once",
    control="the sign of the entropy",
    evidence=DERIVATIVE,
)
def cross_entropy(case: Case, wrong: bool) -> list[Sides]:
    """Closed sums with 0 log 0 = 0, and the derivative in the reward gap by a stencil."""
    y = np.append(case.rng.random(4), [0.0, 1.0])
    gap = case.rng.standard_normal(6)

    def loss(delta: Array) -> Array:
        # log sigmoid(u) = -log(1 + e^-u)
        return np.asarray(y * np.logaddexp(0, -delta) + (1 - y) * np.logaddexp(0, delta))

    p = expit(gap)
    divergence = rel_entr(y, p) + rel_entr(1 - y, 1 - p)
    entropy = entr(y) + entr(1 - y)
    return [
        Sides(loss(gap), divergence + (-1 if wrong else 1) * entropy),
        Sides(derivative(lambda u: loss(gap + u), 0.0, 0.02), p - y, 1.0),
    ]


@identity(
    "Pseudo-inverse of a wide measurement",
    topic=TOPIC,
    formula=r"A^\dagger = A^{\mathsf{T}}(A A^{\mathsf{T}})^{-1}:\qquad A A^\dagger y = y,\quad A^\dagger A ="
    r" (A^\dagger A)^{\mathsf{T}},\quad A(x + A^\dagger(y - A x)) = y",
    covers=["PODC8-19"],
    refutes=["PODC8-19"],
    over="once",
    control="the sign of the correction as printed, x - A^+ (y - A x)",
)
def pseudo_inverse(case: Case, wrong: bool) -> list[Sides]:
    """Two of Penrose's conditions, the decomposition by singular values, and the point moved onto the measurement."""
    a, y, x = case.rng.standard_normal((2, 4)), case.rng.standard_normal(2), case.rng.standard_normal(4)
    inverse = np.linalg.solve(a @ a.T, a).T  # A'A, which is printed, has rank 2 of 4 and no inverse
    moved = x + (-1 if wrong else 1) * inverse @ (y - a @ x)
    size = np.linalg.cond(a) ** 2  # what solving with A A' loses
    return [
        Sides(a @ moved, y, size * (np.abs(x).max() + np.abs(y).max())),
        Sides(a @ inverse @ y, y, size * np.abs(y).max()),
        Sides(inverse @ a, (inverse @ a).T, size),
        Sides(inverse, np.linalg.pinv(a), size * np.abs(inverse).max()),
    ]
