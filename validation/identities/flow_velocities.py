r"""Velocities that carry densities: of diffusion alone, of conditional paths, and of mixtures of such paths.

    Fick               J = -D grad rho,  v = J / rho = -D grad log rho,  rho_t = rho_0 * N(0, 2 D t)
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
from scipy.special import ndtr
from scipy.stats import cauchy, logistic, norm

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture
from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching, FunctionSchedule, VEPower
from refdiff.validation import numeric
from refdiff.validation.cases import Case, LawCase, ModelCase, ProcessCase
from refdiff.validation.identities.fokker_planck import FINE, dot, smallest_std
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity

TOPIC = "Velocities of densities"


@identity(
    "diffusion equation",
    topic=TOPIC,
    formula=r"\partial_t p = \nabla \cdot (D \nabla p) = -\nabla \cdot (p\,v),\quad v = -D \nabla \log p,\quad"
    r" p_t = p_0 * N(0, 2 D t)",
    covers=["TOPB-21", "TOPB-22", "PHY-03", "PHY-04", "PHY-78"],
    over="laws",
    evidence=DERIVATIVE,
    control="the variance D t in place of 2 D t",
    needs=lambda case: case.law.dim <= 5,
)
def diffusion_equation(case: LawCase, wrong: bool) -> Sides:
    """A stencil in time of the convolved density against score and Hessian, for a random matrix D."""
    d, std = case.law.dim, smallest_std(case.law)
    root = case.rng.standard_normal((d, d))
    diffusivity = std**2 * (root @ root.T / d + np.eye(d))
    x, rise = case.x, 1.0 if wrong else 2.0
    here = case.law.convolve(2 * diffusivity)
    s, hessian, at_x = here.score(x), here.hessian(x), here.logpdf(x)
    rate = numeric.derivative(
        lambda u: np.exp(case.law.convolve((2 + rise * u) * diffusivity).logpdf(x) - at_x), 0.0, FINE
    )
    size = np.abs(diffusivity * hessian).sum(axis=(1, 2)) + np.abs(np.einsum("ni,ij,nj->n", s, diffusivity, s))
    return Sides(rate, np.einsum("ij,nij->n", diffusivity, hessian + s[:, :, None] * s[:, None, :]), scale=size)


@identity(
    "heat kernel in Fourier space and by quadrature",
    topic=TOPIC,
    formula=r"\mathcal{F}_t(\omega) = \mathcal{F}_0(\omega)\,e^{-\sigma_t^2 |\omega|^2 / 2},\quad"
    r" p_t(x) = \int p_0(x + \sigma_t z)\,N(z; 0, I)\,dz,\quad \sigma_t^2 = 2 \int_0^t D",
    covers=["TOPB-22", "PHY-67", "PHY-78"],
    over="laws",
    evidence=QUADRATURE,
    control="exp(-sigma^2 omega^2)",
    needs=lambda case: case.law.count <= 64,
)
def heat_kernel(case: LawCase, wrong: bool) -> list[Sides]:
    """The first coordinate: spectral solution on a wide periodic box, and Gauss-Hermite sum, against components."""
    law = case.law.marginal([0])
    low, high, std = law.means.min(), law.means.max(), smallest_std(law)
    variance = std**2
    margin = 9 * np.sqrt(law.covariances.dense(1).max() + variance)
    # six points a standard deviation: the spectrum has fallen to exp(-(6 pi)^2 / 2) at the end of the band
    count = int(2 ** np.ceil(np.log2(6 * (high - low + 2 * margin) / std)))
    x, space = np.linspace(low - margin, high + margin, count, endpoint=False, retstep=True)
    omega = 2 * np.pi * np.fft.rfftfreq(count, space)
    start, end = np.exp(law.logpdf(x[:, None])), np.exp(law.convolve(variance).logpdf(x[:, None]))
    decay = np.exp(-variance * omega**2 * (1.0 if wrong else 0.5))
    z, w = numeric.hermite(60)
    chosen = x[:: max(1, count // 32)]
    averaged = np.exp(law.logpdf((chosen[:, None] + std * (1.0 if not wrong else 2**0.5) * z)[..., None])) @ w
    return [
        Sides(np.fft.irfft(np.fft.rfft(start) * decay, count), end, scale=end.max()),
        Sides(averaged, np.exp(law.convolve(variance).logpdf(chosen[:, None])), scale=end.max()),
    ]


@identity(
    "Fick's law from a random walk",
    topic=TOPIC,
    formula=r"J = -D \nabla \rho,\quad D = s^2 / 2 \tau",
    covers=["PHY-01"],
    over="laws",
    evidence=ORDER,
    control="D = s^2 / tau",
    needs=lambda case: case.law.count <= 64,
)
def fick(case: LawCase, wrong: bool) -> Sides:
    """The net share of mass that one step N(0, s^2) carries over a plane, over s^2, for s to 0; tau is 1."""
    law = case.law.marginal([0])
    x, m, std = case.x[:, :1], law.means[:, 0], np.sqrt(law.covariances.dense(1)[:, 0, 0])
    z, w = numeric.hermite(40)
    at_x = law.logpdf(x)
    density, gradient = np.exp(at_x), np.exp(at_x) * law.score(x)[:, 0]

    def crossing(s: float) -> Array:
        # a step s z carries over x the mass that lies between x - s z and x: to the left where it is negative
        carried = [ndtr((x - m) / std) - ndtr((x - s * node - m) / std) for node in z]
        return np.asarray(np.einsum("z,znk,k->n", w, np.array(carried), law.weights) / s**2)

    found = numeric.extrapolate([crossing(0.3 * smallest_std(law) / 2**j) for j in range(4)], first=2, step=2)
    return Sides(found, -(1.0 if wrong else 0.5) * gradient, scale=density / smallest_std(law))


@identity(
    "Fick flux with state-dependent diffusivity",
    topic=TOPIC,
    formula=r"v = -D(x) \nabla \log p \;\Rightarrow\; \partial_t p = \nabla \cdot (D(x) \nabla p)",
    covers=["TOPB-21"],
    over="once",
    evidence=DERIVATIVE,
    control="Ito's form (D p)'' of the right side",
)
def state_dependent_fick(case: Case, wrong: bool) -> Sides:
    """D = c x^2 on x > 0: in y = log x the equation is q_t = c (q_y + q_yy), solved by q = N(y; m - c t, v + 2 c t)."""
    c, m, v, t = (*case.rng.uniform(0.2, 1.0, 3), 0.5)

    def q(y: Array, time: float) -> Array:
        return np.asarray(np.exp(Gaussian([m - c * time], v + 2 * c * time).logpdf(y[:, None])))

    y = np.linspace(m - 1, m + 1, 7)
    h = FINE * np.sqrt(v)
    rate = numeric.derivative(lambda u: q(y, t + u), 0.0, h)

    def flux(at: Array) -> Array:
        # D p' = c x^2 q_y / x;  Ito's (D p)' = c (x^2 q)_y / x
        slope = numeric.derivative(lambda u: q(at + u, t), 0.0, h)
        return np.asarray(c * np.exp(at) * (slope + (2 * q(at, t) if wrong else 0.0)))

    return Sides(rate, np.exp(-y) * numeric.derivative(lambda u: flux(y + u), 0.0, h))


@identity(
    "controls that stop and reverse diffusion",
    topic=TOPIC,
    formula=r"u = \kappa D \nabla \log \rho:\quad -\nabla \cdot (\rho u - D \nabla \rho)"
    r" = (1 - \kappa) D \Delta \rho;\quad \kappa = 1 \text{ stops},\; \kappa = 2 \text{ reverses}",
    covers=["PHY-05", "PHY-06", "PHY-07"],
    over="laws",
    evidence=DERIVATIVE,
    control="u = -v, which only stops, for the reversal",
    needs=lambda case: case.law.dim <= 3,
)
def diffusion_controls(case: LawCase, wrong: bool) -> list[Sides]:
    """Stencils of the flux against score and Hessian; the reversed density's rate is minus the forward one."""
    law, x, std = case.law, case.x, smallest_std(case.law)
    at_x, h, s = law.logpdf(x), FINE * std, law.score(x)

    def density(y: Array) -> Array:
        return np.asarray(np.exp(law.logpdf(y) - at_x))

    spreading = numeric.laplacian(density, x, h)
    advection = numeric.divergence(lambda y: density(y)[:, None] * law.score(y), x, h)
    exact, size = law.laplacian(x) + dot(s, s), dot(s, s) + law.dim / std**2
    pairs = ((0.4, 0.6), (1.0, 0.0), (1.0 if wrong else 2.0, -1.0))
    return [Sides(spreading - kappa * advection, rest * exact, scale=size) for kappa, rest in pairs]


# ---------------------------------------------------------------------- named velocities


def named(case: ModelCase) -> bool:
    """Whether one schedule has alpha = 1 or alpha^2 + sigma^2 = 1."""
    c = case.process.coefficients(case.t)
    return not case.process.per_axis and bool(c.alpha == 1 or abs(c.alpha**2 + c.sigma**2 - 1) < 1e-14)


@identity(
    "velocities of variance-preserving and variance-exploding processes",
    topic=TOPIC,
    formula=r"v = -\tfrac{\beta}{2}(x + s) = -\tfrac{\beta}{2}\Bigl(x - \frac{\epsilon^*}{\sqrt{1 - \bar\alpha}}\Bigr),"
    r"\quad v = -\dot\sigma \sigma s = \tfrac{\dot\sigma}{\sigma}(x - D)",
    covers=["DMI-58", "TOPB-23"],
    control="twice the rate: beta in place of beta / 2, (sigma^2)' in place of sigma' sigma",
    needs=named,
)
def named_velocities(case: ModelCase, wrong: bool) -> list[Sides]:
    """E[alpha' x_0 + sigma' eps | x], where one of the two conventions applies, with beta = -(alpha^2)' / alpha^2."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x, case.t
    s, eps, denoised = model.score(x, t), model.noise(x, t), model.denoiser(x, t)
    moments = c.dalpha * denoised + c.dsigma * eps
    size = np.abs(c.dalpha * denoised) + np.abs(c.dsigma * eps)
    factor = 2 if wrong else 1
    if c.alpha == 1:
        ratio = c.dsigma / c.sigma
        return [
            Sides(moments, -factor * c.dsigma * c.sigma * s, scale=size),
            Sides(moments, factor * ratio * (x - denoised), scale=size + ratio * (np.abs(x) + np.abs(denoised))),
        ]
    half = -factor * c.dalpha / c.alpha
    size = size + np.abs(half) * (np.abs(x) + np.abs(s))
    return [
        Sides(moments, -half * (x + s), scale=size),
        Sides(moments, -half * (x - eps / np.sqrt(-np.expm1(2 * np.log(c.alpha)))), scale=size),
    ]


@identity(
    "velocity towards a Gaussian of any variance",
    topic=TOPIC,
    formula=r"v = -\tfrac{\beta}{2} (x + \sigma^2 \nabla \log \rho),\quad"
    r" \rho = N(0, \sigma^2 I):\; v = 0,\quad \rho = N(0, \beta t I):\; v = \frac{x}{2t}",
    covers=["PHY-82", "PHY-85", "PHY-91"],
    over="once",
    control="v = x / t",
)
def expansion_velocities(case: Case, wrong: bool) -> list[Sides]:
    """The exact velocity of dx = -beta / 2 x dt + sigma sqrt(beta) dw, at rest and not; and of a point that spreads."""
    beta, variance, t = (*case.rng.uniform(0.5, 2.0, 2), 0.7)
    schedule = FunctionSchedule(
        lambda t: np.exp(-beta * t / 2),
        lambda t: np.sqrt(-variance * np.expm1(-beta * t)),
        2.0,
        lambda t: -beta / 2 * np.exp(-beta * t / 2),
        lambda t: variance * beta * np.exp(-beta * t) / (2 * np.sqrt(-variance * np.expm1(-beta * t))),
    )
    moving = ExactModel(random_mixture(2, 3, case.seed, "full"), schedule)
    resting = ExactModel(Gaussian(np.zeros(2), variance), schedule)
    x = moving.sample(5, t, case.rng)
    s = moving.score(x, t)
    size = beta * (np.abs(x) + variance * np.abs(s)).max()
    sides = [
        Sides(moving.velocity(x, t), -beta / 2 * (x + variance * s), scale=size),
        Sides(resting.velocity(x, t), 0.0, scale=size),
    ]
    # a point at 0 under the variance s(t) = t^2p: v = s' x / 2 s, which for s = t does not know beta
    for power in (0.5, 1.0, 1.7):
        spreading = ExactModel(Empirical(np.zeros((1, 2))), VEPower(power, T=10.0))
        rate = 2 * power / t
        v = spreading.velocity(x, t)
        sides.append(Sides(v, rate * x / (1 if wrong else 2)))
        # div v - v . x / s = -(s' / 2 s)(|x|^2 / s - d)
        left = spreading.velocity_divergence(x, t) - dot(v, x) / t ** (2 * power)
        sides.append(Sides(left, -rate / 2 * (dot(x, x) / t ** (2 * power) - 2)))
    return sides


# ---------------------------------------------------------------------- marginal paths and regression


@identity(
    "marginal velocity between two mixtures",
    topic=TOPIC,
    formula=r"v_t(x) = \sum_{ij} r_{ij}(x)\,\mathbb{E}[\dot a x_0 + \dot b x_1 | x, ij]"
    r" \;\Rightarrow\; \partial_t p = -\nabla \cdot (p v)",
    covers=["PODB-33", "PODB-35", "PODB-37", "TOPB-50"],
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
    at_x, h = here.logpdf(x), FINE * smallest_std(here)

    def flux(y: Array) -> Array:
        within = np.einsum("kij,nkj->nki", gain, y[:, None, :] - here.means) + da * m0 + db * m1
        r = np.broadcast_to(weights, (len(y), 6)) if wrong else here.responsibilities(y)
        return np.asarray(np.exp(here.logpdf(y) - at_x)[:, None] * np.einsum("nk,nki->ni", r, within))

    rate = numeric.derivative(lambda u: np.exp(law(t + u).logpdf(x) - at_x), 0.0, 0.1 * h)
    speed = np.abs(da * m0 + db * m1).max() + np.abs(gain).max()
    return Sides(rate, -numeric.divergence(flux, x, h), scale=speed * FINE / h)


@identity(
    "conditional and marginal regression differ by a constant",
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
    "score matching and denoising score matching",
    topic=TOPIC,
    formula=r"L_{SM} = L_{DSM} - (\tfrac{d}{\sigma^2} - \mathbb{E}|\nabla \log p|^2)",
    covers=["PODB-31"],
    over="processes",
    control="d / sigma^2 alone, without the norm of the score",
)
def score_matching_constant(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Gaussian data and affine models A x + b, both losses from second moments of (x, eps)."""
    rng, d, c = case.rng, 3, case.process.coefficients(case.t)
    alpha, sigma = float(c.alpha), float(c.sigma)
    root = rng.standard_normal((d, d))
    # data about as wide as the noise
    cov = sigma**2 / alpha**2 * (root @ root.T + np.eye(d))
    mean = rng.standard_normal(d) * sigma / alpha
    p = alpha**2 * cov + sigma**2 * np.eye(d)
    precision, m = np.linalg.inv(p), alpha * mean
    sides = []
    for _ in range(2):
        a, b = rng.standard_normal((d, d)) / sigma**2, rng.standard_normal(d) / sigma
        offset = a @ m + b
        # A x + b - s = (A + P^-1)(x - m) + A m + b;  A x + b + eps / sigma with Cov(x, eps) = sigma I
        matched = np.trace((a + precision) @ p @ (a + precision).T) + offset @ offset
        denoised = np.trace(a @ p @ a.T) + 2 * np.trace(a) + d / sigma**2 + offset @ offset
        constant = d / sigma**2 - (0.0 if wrong else np.trace(precision))
        sides.append(Sides(matched, denoised - constant, scale=np.trace(a @ p @ a.T) + d / sigma**2 + offset @ offset))
    return sides


@identity(
    "conditional velocity of a curved path",
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
    "straight paths from any prior",
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
