r"""Score matching, flow matching and their constants, with every expectation an exact sum.

For a regression target tau = A x_0 + B eps (the score of the kernel, a velocity, the noise, the clean data) and any
field phi, expanding the square at the conditional mean tau* = E[tau | x_t] gives

    E |phi(x_t) - tau|^2  =  E |phi(x_t) - tau*(x_t)|^2  +  E tr Cov[tau | x_t]        (conditional = marginal + C)

and Stein's identity turns the score's own loss into one without the score:

    E |phi - grad log p|^2 / 2  =  E [div phi + |phi|^2 / 2]  +  E |grad log p|^2 / 2

Left sides are sums over (x_0, eps), exact because phi is a cubic polynomial; right sides are sums over x_t against
the exact p_t, score and posterior (`expectations`).
"""

from __future__ import annotations

import numpy as np

from refdiff.distributions import GaussianMixture
from refdiff.validation.cases import Case, LawCase, ModelCase
from refdiff.validation.expectations import cubics, grid, joint, small
from refdiff.validation.identities.tweedie import diagonals, radius
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import extrapolate, hermite, jacobian, product_rule, second_derivative

TOPIC = "Tweedie, Stein and score matching"


@identity(
    "Implicit score matching",
    topic=TOPIC,
    formula=r"\tfrac12 \mathbb{E}\|\phi - \nabla \log p_t\|^2 "
    r"= \mathbb{E}[\nabla \cdot \phi + \tfrac12 \|\phi\|^2] + \tfrac12 \mathbb{E}\|\nabla \log p_t\|^2",
    covers=["PODA-310", "PODA-313", "PODD-102", "PODA-305"],
    refutes=["PODA-305"],
    evidence=QUADRATURE,
    control="the trace with the other sign: phi = -grad E with + tr Hess E, as printed for energies",
    needs=small,
)
def implicit(case: ModelCase, wrong: bool) -> list[Sides]:
    """The loss against the score on the grid; the loss without the score as polynomial moments of (x_0, eps)."""
    g, j = grid(case, case.t), joint(case, case.t)
    fisher = g.mean((g.score**2).sum(axis=1))
    sides = []
    for phi in cubics(case, float(np.sqrt(fisher / case.law.dim))):
        explicit = g.mean(((phi(g.x) - g.score) ** 2).sum(axis=1)) / 2
        trace, square = j.mean(phi.divergence(j.xt)), j.mean((phi(j.xt) ** 2).sum(axis=1)) / 2
        right = (-trace if wrong else trace) + square + fisher / 2
        sides.append(Sides(explicit, right, scale=abs(trace) + square + fisher / 2))
    return sides


@identity(
    "The cross term of score matching",
    topic=TOPIC,
    formula=r"\mathbb{E}[\phi(x_t) \cdot \nabla \log p_t(x_t \mid x_0)] = \mathbb{E}[\phi \cdot \nabla \log p_t] "
    r"= -\mathbb{E}[\nabla \cdot \phi]",
    covers=["TOPB-75", "PODD-102", "PODD-103"],
    refutes=["TOPB-75"],
    evidence=QUADRATURE,
    control="E |grad log p_t(x_t | x_0)|^2 for E grad log p_t(x_t | x_0) in the conditional mean, as printed",
    needs=small,
)
def cross_term(case: ModelCase, wrong: bool) -> list[Sides]:
    """Moments of (x_0, eps) against the grid, and against the divergence."""
    (a, v), g, j = diagonals(case), grid(case, case.t), joint(case, case.t)
    sides = []
    for phi in cubics(case, 1.0):
        score = g.score
        if wrong:
            score = (g.score**2 + a**2 / v**2 * g.variance).sum(axis=1, keepdims=True)
        conditional = j.mean((phi(j.xt) * -j.eps / np.sqrt(v)).sum(axis=1))
        size = j.mean(np.abs(phi(j.xt) * j.eps / np.sqrt(v)).sum(axis=1))
        marginal = g.mean((phi(g.x) * score).sum(axis=1))
        by_parts = -j.mean(phi.divergence(j.xt))
        sides += [Sides(conditional, marginal, scale=size), Sides(conditional, by_parts, scale=size)]
    return sides


@identity(
    "Score matching is denoising score matching plus a constant",
    topic=TOPIC,
    formula=r"L_{SM} - L_{DSM} = \tfrac12\left(\mathbb{E}\|\nabla \log p_t\|^2 - d / \sigma_t^2\right) "
    r"= -\frac{\alpha_t^2}{2 \sigma_t^4} \mathbb{E}\, \mathrm{tr}\, \mathrm{Cov}[x_0 \mid x_t]",
    covers=[
        "PODA-313",
        "PODA-314",
        "PODA-315",
        "PODB-31",
        "PODB-53",
        "PODD-103",
        "TOPA-69",
        "TOPB-25",
        "TOPB-57",
        "TOPB-75",
    ],
    evidence=QUADRATURE,
    control="d / sigma for d / sigma^2 in the constant",
    needs=small,
)
def denoising(case: ModelCase, wrong: bool) -> list[Sides]:
    """Two losses of two fields, by grid and by moments of (x_0, eps), against the constant by Fisher and by Bayes."""
    (a, v), g, j = diagonals(case), grid(case, case.t), joint(case, case.t)
    fisher = g.mean((g.score**2).sum(axis=1))
    by_score = (fisher - (np.sqrt(1 / v) if wrong else 1 / v).sum()) / 2
    by_bayes = -g.mean(a**2 / v**2 @ g.variance.T) / 2
    sides = []
    for phi in cubics(case, float(np.sqrt(1 / v.min()))):
        marginal = g.mean(((phi(g.x) - g.score) ** 2).sum(axis=1)) / 2
        conditional = j.mean(((phi(j.xt) + j.eps / np.sqrt(v)) ** 2).sum(axis=1)) / 2
        size = conditional + (1 / v).sum() / 2
        sides += [Sides(marginal - conditional, constant, scale=size) for constant in (by_score, by_bayes)]
    return sides


@identity(
    "Score matching over noise levels",
    topic=TOPIC,
    formula=r"\sum_i \omega_i (L_{DSM} - L_{SM})(t_i) = \tfrac12 \sum_i \omega_i \frac{\alpha_i^2}{\sigma_i^4} "
    r"\mathbb{E}\, \mathrm{tr}\, \mathrm{Cov}[x_0 \mid x_{t_i}], \quad \omega_i = \sigma_i^2",
    covers=["PODA-328", "PODA-418"],
    evidence=QUADRATURE,
    control="omega = sigma in the constant",
    needs=lambda case: case.law.dim == 1 and small(case),
)
def levels(case: ModelCase, wrong: bool) -> Sides:
    """The losses |sigma phi + eps|^2 / 2 and |sigma (phi - score)|^2 / 2 summed over two times, against Bayes."""
    gap, constant, size = 0.0, 0.0, 0.0
    for t, phi in zip((case.s, case.t), cubics(case, 1.0), strict=True):
        g, j, c = grid(case, t), joint(case, t), case.process.coefficients(t)
        field, weight = phi.at(case.model.marginal(t)), (c.sigma if wrong else c.sigma**2).item()
        conditional = j.mean(((c.sigma * field(j.xt) + j.eps) ** 2).sum(axis=1)) / 2
        marginal = g.mean((c.sigma**2 * (field(g.x) - g.score) ** 2).sum(axis=1)) / 2
        gap += float(conditional - marginal)
        size += float(conditional + 0.5)
        constant += weight * (c.alpha**2 / c.sigma**4).item() * g.mean(g.variance).item() / 2
    return Sides(gap, constant, scale=size)


@identity(
    "Stein's identity for the score itself",
    topic=TOPIC,
    formula=r"\mathbb{E}\,\Delta \log p_t = -\mathbb{E}\|\nabla \log p_t\|^2, \quad "
    r"\mathbb{E}\,\mathrm{tr}\,\mathrm{Cov}[x_s \mid x_t] "
    r"= \frac{\beta^2}{a^2}(d - \beta^2 \mathbb{E}\|\nabla \log p_t\|^2)",
    covers=["PODA-311", "TOPA-38b"],
    evidence=QUADRATURE,
    control="beta for beta^2 on the Fisher information; its sign in Stein's identity",
    needs=small,
)
def stein(case: ModelCase, wrong: bool) -> list[Sides]:
    """The mean Laplacian and Bayes' mean variance of one step, against the Fisher information, all on the grid."""
    g, step = grid(case, case.t), case.process.channel(case.s, case.t)
    fisher = g.mean(g.score**2)
    laplacian = g.mean(case.model.marginal(case.t).laplacian(g.x))
    variance = g.mean(step.posterior_variance(case.model.marginal(case.s), g.x))
    right = step.noise / step.gain**2 * (1 - (np.sqrt(step.noise) if wrong else step.noise) * fisher)
    size = (step.noise / step.gain**2).max() * case.law.dim
    return [
        Sides(laplacian, fisher.sum() if wrong else -fisher.sum()),
        Sides(variance, right.sum(), scale=size),
    ]


@identity(
    "Sliced score matching",
    topic=TOPIC,
    formula=r"\mathbb{E}_u[u^\top A u + \tfrac12 (u^\top s)^2] = \mathrm{tr} A + \tfrac12 \|s\|^2, \quad "
    r"\mathrm{Var}[u^\top A u] = 2 \|A\|_F^2 \text{ or } 2 (\|A\|_F^2 - \sum_i A_{ii}^2)",
    covers=["PODA-312"],
    control="the variance of normal probes for probes of signs",
    needs=lambda case: 1 < case.law.dim <= 5,
)
def sliced(case: ModelCase, wrong: bool) -> list[Sides]:
    """All sign vectors, and Gauss-Hermite for normal ones, against the Laplacian and the squared score."""
    d, s = case.law.dim, case.model.score(case.x, case.t)
    law, hessian = case.model.marginal(case.t), case.model.hessian(case.x, case.t)
    frobenius, diagonal = (hessian**2).sum(axis=(1, 2)), np.einsum("nii->ni", hessian)
    signs = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    sides = []
    for rule, less in ((signs, 1.0), (hermite(3), 0.0)):
        u, w = product_rule(rule, d)
        quadratic = np.einsum("ui,nij,uj->nu", u, hessian, u)
        mean = quadratic @ w
        variance = (quadratic - mean[:, None]) ** 2 @ w
        # the mean of two independent probes, over all pairs: half the variance
        pairs = ((quadratic[:, :, None] + quadratic[:, None, :]) / 2 - mean[:, None, None]) ** 2 @ w @ w
        exact = 2 * (frobenius - (0.0 if wrong else less) * (diagonal**2).sum(axis=1))
        loss, size = law.laplacian(case.x) + (s**2).sum(axis=1) / 2, d * frobenius.max() ** 0.5 + (s**2).sum(axis=1)
        sides += [
            Sides(mean + (u @ s.T).T ** 2 @ w / 2, loss, scale=size),
            Sides(variance, exact, scale=2 * frobenius),
            Sides(pairs, exact / 2, scale=frobenius),
        ]
    return sides


@identity(
    "The score at small noise",
    topic=TOPIC,
    formula=r"\lim_{\sigma \to 0} (\nabla \log p_\sigma - \nabla \log p) / \sigma^2 = \tfrac12 \nabla (\Delta p / p)",
    covers=["PODA-316"],
    over="laws",
    evidence=ORDER,
    control="without the 1/2",
    needs=lambda case: case.law.dim <= 5,
)
def small_noise(case: LawCase, wrong: bool) -> Sides:
    """The remainder at four noise levels, extrapolated, against differences of Delta p / p = tr Hess + |score|^2."""
    law, x = case.law, case.x
    # the responsibilities change over s^2 / R, and noise matters once it is of that size
    scale = smallest_std(law) ** 2 / radius(law)
    variances = (0.2 * scale) ** 2 * 4.0 ** -np.arange(4)
    limit = extrapolate([(law.convolve(v).score(x) - law.score(x)) / v for v in variances], ratio=4.0)
    ratio = jacobian(lambda y: law.laplacian(y) + (law.score(y) ** 2).sum(axis=1), x, scale / 40)
    return Sides(limit, ratio * (1.0 if wrong else 0.5))


@identity(
    "The score at large noise",
    topic=TOPIC,
    formula=r"\lim_{\sigma \to \infty} \left(x + \sigma^2 \nabla \log p_\sigma(x)\right) = \mathbb{E} x_0",
    covers=["PODA-316"],
    over="laws",
    evidence=ORDER,
    control="shrinkage to the origin",
)
def large_noise(case: LawCase, wrong: bool) -> Sides:
    """The denoised points at four noise levels, extrapolated, against the mean of the data."""
    law, x = case.law, case.x
    variances = (10 * radius(law)) ** 2 * 4.0 ** np.arange(4)
    limit = extrapolate([x + v * law.convolve(v).score(x) for v in variances], ratio=4.0)
    return Sides(limit, np.zeros(law.dim) if wrong else np.broadcast_to(law.mean(), x.shape), scale=radius(law))


@identity(
    "A negative divergence of the score is not yet a mode",
    topic=TOPIC,
    formula=r"p = \tfrac12 N(m e_1, s^2 I) + \tfrac12 N(-m e_1, s^2 I): \ s < m < \sqrt2 s \Rightarrow "
    r"\mathrm{tr}\,\nabla s(0) < 0 < \partial_1 s_1(0) = (m^2 - s^2) / s^4",
    covers=["PODA-311"],
    over="once",
    evidence=DERIVATIVE,
    control="the sign of the trace for the sign of every eigenvalue",
)
def saddle(case: Case, wrong: bool) -> list[Sides]:
    """Second differences of the log density at its stationary point, against the eigenvalues in closed form."""
    rng = case.rng
    s = rng.uniform(0.5, 2)
    m = s * rng.uniform(1.1, 1.35)
    law = GaussianMixture.isotropic([[m, 0.0], [-m, 0.0]], s**2)
    # the two axes at once: points h e_1 and h e_2
    curvature = second_derivative(lambda h: law.logpdf(h * np.eye(2)), 0.0, s / 20)
    exact = np.array([(m**2 - s**2) / s**4, -1 / s**2])
    signs = np.full(2, np.sign(law.laplacian(np.zeros(2)))) if wrong else np.array([1.0, -1.0])
    return [
        Sides(law.score(np.zeros(2)), np.zeros(2), scale=1 / s),
        Sides(curvature, exact),
        Sides(law.laplacian(np.zeros(2)), exact.sum()),
        Sides(np.sign(curvature), signs),
        Sides(np.sign(exact.sum()), -1.0),
    ]
