r"""Velocities that carry densities: of conditional paths, and of mixtures of such paths.

    conditional path   x_t = X(u, t) invertible in u:  f_t(x) = d_t X, equally -(d phi / dx)^-1 d_t phi for u = phi_t(x)
    its density        p_t(x) = p(phi_t(x)) |det d phi_t / dx| = p_T(x_T) exp(int_t^T div f ds)
    marginal path      p_t(x) = sum_z pi(z) p_t(x|z)  is carried by  v_t(x) = E[v_t(x|z) | x_t = x]
    regression         E[|phi - v_t(x|z)|^2 | x] = |phi - v_t(x)|^2 + tr Cov[v_t(x|z) | x]

The last line, averaged over x, is the constant between the conditional losses (flow and score matching) and the
marginal ones. Densities are differentiated by stencils; posteriors are written as explicit sums over components.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import cauchy, logistic, norm

from refdiff.arguments import Array
from refdiff.distributions import Empirical, GaussianMixture, random_mixture
from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.identity import DERIVATIVE, Sides, identity
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import dot
from refdiff.validation.steps import FINE, relative_density, relative_rate

TOPIC = "Interpolants and flow-first paths"


@identity(
    "Marginal velocity between two mixtures",
    topic=TOPIC,
    formula=r"v_t(x) = \sum_{ij} r_{ij}(x)\,\mathbb{E}[\dot a x_0 + \dot b x_1 | x, ij]"
    r" \;\Rightarrow\; \partial_t p = -\nabla \cdot (p v)",
    covers=["PODB-33", "PODB-37", "TOPB-50"],
    over="once",
    evidence=DERIVATIVE,
    control="prior weights of the pairs in place of their posterior",
)
def bridge_velocity(case: Case, wrong: bool) -> Sides:
    """x_t = a x_0 + b x_1 with a random coupling of the components: a mixture over pairs, its flux by stencils."""
    rng, t = case.rng, 0.6
    source, target = random_mixture(2, 2, case.seed, "full"), random_mixture(2, 3, case.seed + 1, "full")
    pairs = [(i, j) for i in range(2) for j in range(3)]
    weights = rng.dirichlet(np.ones(6))
    m0, m1 = (np.array([law.means[k[part]] for k in pairs]) for part, law in enumerate((source, target)))
    s0, s1 = (law.covariances.dense(2)[[k[part] for k in pairs]] for part, law in enumerate((source, target)))

    def path(time: float) -> tuple[float, float]:
        return np.cos(time), time**2

    def law(time: float) -> GaussianMixture:
        a, b = path(time)
        return GaussianMixture.full(a * m0 + b * m1, a**2 * s0 + b**2 * s1, weights)

    (a, b), (da, db), here = path(t), (-np.sin(t), 2 * t), law(t)
    # regression of a' x_0 + b' x_1 on x_t within a pair: covariance over variance
    gain = (a * da * s0 + b * db * s1) @ np.linalg.inv(a**2 * s0 + b**2 * s1)
    x = here.sample(5, rng)
    ratio, h = relative_density(here, x), FINE * smallest_std(here)

    def flux(y: Array) -> Array:
        within = np.einsum("kij,nkj->nki", gain, y[:, None, :] - here.means) + da * m0 + db * m1
        r = np.broadcast_to(weights, (len(y), 6)) if wrong else here.responsibilities(y)
        return np.asarray(ratio(y)[:, None] * np.einsum("nk,nki->ni", r, within))

    rate = relative_rate(lambda u: law(t + u).logpdf(x), 0.1 * h)
    speed = np.abs(da * m0 + db * m1).max() + np.abs(gain).max()
    return Sides(rate, -numeric.divergence(flux, x, h), scale=speed * FINE / h)


@identity(
    "Conditional and marginal regression differ by a constant",
    topic=TOPIC,
    formula=r"\mathbb{E}[|\varphi - v_t(x|x_0)|^2 \,|\, x] = |\varphi - v_t(x)|^2"
    r" + \mathrm{tr}\,\mathrm{Cov}[v_t(x|x_0)|x]",
    covers=["PODB-31", "PODB-35", "TOPB-50", "TOPB-51"],
    control="the marginal loss alone",
    needs=lambda case: case.law.covariances.singular and case.law.count <= 64 and case.law.count > 1,
)
def regression_gap(case: ModelCase, wrong: bool) -> list[Sides]:
    """Point sets: the left side summed over the points with weights by hand, the right from the model's predictions."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x, case.t
    deviation = (x[:, None, :] - c.alpha * case.law.means) / c.sigma
    logits = case.law.log_weights - 0.5 * (deviation**2).sum(axis=2)
    r = np.exp(logits - logits.max(axis=1, keepdims=True))
    r /= r.sum(axis=1, keepdims=True)
    phi = case.rng.standard_normal(x.shape)
    spread = np.einsum("nii->ni", model.posterior_covariance(x, t))
    flow = c.dalpha * case.law.means + c.dsigma * deviation
    sides = []
    # with eps = (x - alpha x_0) / sigma: flow alpha' x_0 + sigma' eps, score -eps / sigma, and their slopes in x_0
    for conditional, marginal, slope in (
        (flow, model.velocity(x, t), c.dalpha - c.dsigma * c.alpha / c.sigma),
        (-deviation / c.sigma, model.score(x, t), c.alpha / c.sigma**2),
    ):
        target = phi * np.abs(marginal).max()
        left = np.einsum("nk,nkd->n", r, (target[:, None, :] - conditional) ** 2)
        gap = 0.0 if wrong else (slope**2 * spread).sum(axis=1)
        sides.append(Sides(left, dot(target - marginal, target - marginal) + gap, scale=left))
    return sides


@identity(
    "Conditional velocity of a curved path",
    topic=TOPIC,
    formula=r"f_t(x|x_0) = -(\partial_x \varphi)^{-1} \partial_t \varphi,\quad"
    r" p_t(x_t|x_0) = p_T(\varphi_t) |\partial_x \varphi_t| = p_T(x_T) \exp \int_t^T \nabla \cdot f_s\,ds",
    covers=["TOPB-48", "TOPB-49"],
    over="once",
    evidence=DERIVATIVE,
    control="without the minus sign",
)
def curved_path(case: Case, wrong: bool) -> list[Sides]:
    """x_t = x_0 + t u + t (1 - t) u^3 / 20, u = x_1 - x_0, inverted by root finding and differentiated by stencils."""
    x0, x1 = case.rng.standard_normal(2)
    u, h, t = x1 - x0, 0.02, 0.55
    t_nodes, w = numeric.legendre(12)

    def path(time: float, start: float = u) -> float:
        return float(x0 + time * start + 0.05 * time * (1 - time) * start**3)

    def endpoint(x: float, time: float) -> float:
        """phi_t(x|x_0): the x_1 whose path passes x."""
        return float(x0 + brentq(lambda v: path(time, v) - x, -20, 20, xtol=1e-15, rtol=1e-15))

    def velocity(x: float, time: float) -> float:
        slope = numeric.derivative(lambda y: np.asarray(endpoint(y, time)), x, h)
        change = numeric.derivative(lambda s: np.asarray(endpoint(x, s)), time, h)
        return float(-(-1 if wrong else 1) * change / slope)

    def divergence(time: float) -> float:
        """div f on the path: the rate of the log of the stretch d x_t / d u."""
        stretch = 1 * time + 0.15 * time * (1 - time) * u**2
        return float((1 + 0.15 * (1 - 2 * time) * u**2) / stretch)

    x = path(t)
    times = t + (1 - t) * t_nodes
    integral = (1 - t) * (w @ [divergence(time) for time in times])
    slope = numeric.derivative(lambda y: np.asarray(endpoint(y, t)), x, h)
    by_stencil = numeric.derivative(lambda y: np.asarray(velocity(y, t)), x, 4 * h)
    return [
        Sides(velocity(x, t), u + 0.05 * (1 - 2 * t) * u**3, scale=1 + abs(u)),
        Sides(by_stencil, divergence(t), scale=1 / t),
        # p_T cancels: the factor between p_t at x_t and p_T at x_T
        Sides(slope, np.exp((-1 if wrong else 1) * integral)),
    ]


@identity(
    "Straight paths from any prior",
    topic=TOPIC,
    formula=r"p_t(x|x_0) = t^{-1} p_1\bigl(\tfrac{x - x_0}{t} + x_0\bigr),\quad v = \tfrac{x - \mathbb{E}[x_0|x]}{t}"
    r" \;\Rightarrow\; \partial_t F_t(x) = -p_t v",
    covers=["TOPB-50", "TOPB-52"],
    refutes=["TOPB-52"],
    over="once",
    evidence=DERIVATIVE,
    control="the mean (1 + t) x_0",
)
def straight_paths(case: Case, wrong: bool) -> list[Sides]:
    """Three atoms and a Gaussian, logistic or Cauchy prior: the rate of the distribution function is minus the flux."""
    rng, t = case.rng, 0.6
    atoms, weights = rng.standard_normal(3), rng.dirichlet(np.ones(3))
    x = np.linspace(-2, 2, 9)
    keep = 1 if wrong else -1
    priors = (norm(), logistic(), cauchy())
    sides = []
    for prior in priors:
        # the prior's quantile that is carried to x, for every atom
        z = (x[:, None] - (1 + keep * t) * atoms) / t
        density = weights * prior.pdf(z) / t
        p = density.sum(axis=1)
        denoised = density @ atoms / p

        def cdf(time: float, prior=prior) -> Array:  # type: ignore[no-untyped-def]  # SciPy's laws have no types
            return np.asarray(prior.cdf((x[:, None] - (1 - time) * atoms) / time) @ weights)

        rate = numeric.derivative(cdf, t, 0.01)
        sides.append(Sides(rate, -(x - denoised) / t * p))
    model = ExactModel(Empirical(atoms[:, None], weights), FlowMatching())
    z = (x[:, None] - (1 + keep * t) * atoms) / t
    r = weights * norm.pdf(z)
    exact = (x - r @ atoms / r.sum(axis=1)) / t
    return [*sides, Sides(model.velocity(x[:, None], t)[:, 0], exact)]
