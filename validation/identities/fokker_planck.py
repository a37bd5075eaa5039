r"""Continuity and Fokker-Planck equations of the noised densities, in the four ways they can be seen.

    dx = f dt + g dw           d_t p = -div(f p) + (g^2 / 2) lap p = -div(v p),    v = f - (g^2 / 2) grad log p
    divided by p               d_t log p = -div f - f . s + (g^2 / 2)(tr H + |s|^2),   s, H = grad, Hessian of log p
    along the flow             d log p / dt = d_t log p + v . s = -div v
    tested with phi            d/dt E phi = E[grad phi . v] = E[grad phi . f + (g^2 / 2) lap phi]
    one Euler-Maruyama step    p_dt = p + dt (-div(f p) + (g^2 / 2) lap p) + O(dt^2)

The left sides come from the component rates of the model, from stencils in time of the log density, or from closed
characteristic functions; the right sides from the score and the Hessian, from stencils in space, or from quadrature.
Where the diffusion D(x) depends on the state, Ito's equation has sum_ij d_i d_j (D_ij p) / 2, while a Fick flux
-D grad p gives div(D grad p): they differ by div(p div D) / 2.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.validation import numeric
from refdiff.validation.cases import Case, LawCase, ModelCase
from refdiff.validation.conditions import differentiable, scalar
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import dot
from refdiff.validation.steps import FINE, relative_density, relative_rate, time_scale

TOPIC = "Continuity and Fokker-Planck equations"


def rate_by_stencil(case: ModelCase) -> Array:
    """d_t p / p at the points of the case, shape (n,), from the log density alone."""
    return relative_rate(lambda u: case.model.log_density(case.x, case.t + u), FINE * time_scale(case))


@identity(
    "Continuity equation along the flow",
    topic=TOPIC,
    formula=r"\partial_t \log p + v \cdot \nabla \log p = -\nabla \cdot v",
    covers=["DMI-55", "DMI-57", "PODA-410", "PODB-14", "PODB-23", "PODB-37", "TOPB-19", "TOPB-20", "PHY-02"],
    refutes=["PODB-23"],
    control="the partial derivative in time in place of the derivative along the path",
    most=12,
)
def continuity(case: ModelCase, wrong: bool) -> Sides:
    """Component rates in time against the divergence of the velocity, which is made of Bayes' denoiser."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x[:3], case.t
    rate, v, s = model.log_density_rate(x, t), model.velocity(x, t), model.score(x, t)
    div = model.velocity_divergence(x, t)
    terms = dot(np.abs(c.dalpha * model.denoiser(x, t)) + np.abs(0.5 * c.dvariance * s), np.abs(s))
    return Sides(rate + (0 if wrong else dot(v, s)), -div, scale=np.abs(rate) + terms + np.abs(div))


@identity(
    "Fokker-Planck equation",
    topic=TOPIC,
    formula=r"\partial_t p = -\nabla \cdot (f p) + \tfrac12 g^2 \Delta p",
    covers=["DMI-56", "PODB-14", "TOPA-81", "PODA-410", "PHY-02", "PHY-81"],
    refutes=["PHY-81"],
    control="-f d p - g^2 lap p / 2: without the advection x . grad p and with the diffusion reversed",
)
def fokker_planck(case: ModelCase, wrong: bool) -> Sides:
    """Component rates in time against score and Hessian."""
    c, s = case.process.coefficients(case.t), case.model.score(case.x, case.t)
    hessian = np.einsum("nii->ni", case.model.hessian(case.x, case.t))
    f, g2 = np.broadcast_to(c.f, s.shape), np.broadcast_to(c.g2, s.shape)
    advection, spreading = f * case.x * s, 0.5 * g2 * (hessian + s**2)
    terms = -f - spreading if wrong else -f - advection + spreading
    size = np.abs(f) + np.abs(advection) + 0.5 * g2 * (np.abs(hessian) + s**2)
    return Sides(case.model.log_density_rate(case.x, case.t), terms.sum(axis=1), scale=size.sum(axis=1))


@identity(
    "Fokker-Planck and continuity equations by stencils",
    topic=TOPIC,
    formula=r"\partial_t p = -\nabla \cdot (p f) + \tfrac12 g^2 \Delta p = -\nabla \cdot (p v)",
    covers=["DMI-55", "DMI-56", "DMI-57", "PODB-14", "PODB-37", "TOPA-81", "TOPB-20", "PHY-02"],
    refutes=["TOPB-20"],
    evidence=DERIVATIVE,
    control="d_t log p in place of d_t p",
    needs=lambda case: differentiable(case, 2) and scalar(case),
)
def by_stencils(case: ModelCase, wrong: bool) -> list[Sides]:
    """Nothing but the log density and the drift, differentiated numerically in time and in space."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x, case.t
    here = model.marginal(t)
    h, ratio = FINE * smallest_std(here), relative_density(here, x)
    p = np.exp(model.log_density(x, t))
    rate = rate_by_stencil(case) * (1.0 if wrong else p)
    advection = -numeric.divergence(lambda y: ratio(y)[:, None] * c.f * y, x, h)
    spreading = 0.5 * c.g2 * numeric.laplacian(ratio, x, h)
    flow = -numeric.divergence(lambda y: ratio(y)[:, None] * model.velocity(y, t), x, h)
    # the terms before they cancel: grad p / p squared, and the 1 / std^2 of the components in lap p / p
    size = p * (np.abs(advection) + 0.5 * c.g2 * (dot(model.score(x, t), model.score(x, t)) + (FINE / h) ** 2))
    return [Sides(rate, p * (advection + spreading), scale=size), Sides(rate, p * flow, scale=size)]


def panels(law: GaussianMixture) -> tuple[Array, Array]:
    """Quadrature nodes (m,) and weights (m,) on the line, fine where a component of a one-dimensional law is narrow."""
    std = np.sqrt(law.covariances.dense(1)[:, 0])
    edges = np.unique((law.means + std * np.arange(-10, 11)).ravel())
    nodes, weights = numeric.legendre(16)
    width = np.diff(edges)[:, None]
    return (edges[:-1, None] + width * nodes).ravel(), (width * weights).ravel()


@identity(
    "Weak form of the Fokker-Planck equation",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt}\mathbb{E}\varphi = \mathbb{E}[\nabla\varphi \cdot v]"
    r" = \mathbb{E}[\nabla\varphi \cdot f + \tfrac12 g^2 \Delta\varphi]",
    covers=["DMI-56", "PODB-14", "PODB-36", "PODA-410"],
    evidence=QUADRATURE,
    control="g^2 in place of g^2 / 2",
    needs=lambda case: case.law.dim == 1,
)
def weak_form(case: ModelCase, wrong: bool) -> list[Sides]:
    """phi = cos(k x + 1): the rate of the closed characteristic function against integrals over p_t."""
    c, law = case.process.coefficients(case.t), case.law
    alpha, dalpha, dvariance, f, g2 = (float(np.squeeze(v)) for v in (c.alpha, c.dalpha, c.dvariance, c.f, c.g2))
    m, v = law.means[:, 0], law.covariances.dense(1)[:, 0, 0]
    pushed = case.model.marginal(case.t)
    k = 1 / np.sqrt(pushed.cov()[0, 0])
    exponent = 1j * (k * alpha * m + 1) - 0.5 * k**2 * (alpha**2 * v + np.squeeze(c.sigma) ** 2)
    rates = 1j * k * dalpha * m - 0.5 * k**2 * (2 * alpha * dalpha * v + dvariance)
    rate, size = law.weights @ np.real(rates * np.exp(exponent)), law.weights @ np.abs(rates)
    x, w = panels(pushed)
    w = w * np.exp(pushed.logpdf(x[:, None]))
    slope, bend = -k * np.sin(k * x + 1), -(k**2) * np.cos(k * x + 1)
    flow = case.model.velocity(x[:, None], case.t)[:, 0]
    generator = slope * f * x + (1.0 if wrong else 0.5) * g2 * bend
    return [
        Sides(rate, w @ (slope * flow), scale=size + w @ np.abs(slope * flow)),
        Sides(rate, w @ generator, scale=size + w @ (np.abs(slope * f * x) + 0.5 * g2 * np.abs(bend))),
    ]


@identity(
    "Euler-Maruyama step of a density",
    topic=TOPIC,
    formula=r"p_{\Delta t}(x) = \int N(x; y + f \Delta t, g^2 \Delta t)\,p(y)\,dy"
    r" = p + \Delta t\,\partial_t p + O(\Delta t^2)",
    covers=["PODB-12", "RDX-B1", "TOPA-80", "PHY-76"],
    refutes=["PHY-76"],
    evidence=ORDER,
    control="int k(z) tr[z z'] dz = 1 in place of the dimension",
)
def euler_maruyama_step(case: ModelCase, wrong: bool) -> Sides:
    """The exact law of one step from p_t, its first-order change extrapolated, against the component rates."""
    c, here = case.process.coefficients(case.t), case.model.marginal(case.t)
    at_x, s = here.logpdf(case.x), here.score(case.x)
    noise = c.g2 / case.law.dim if wrong else c.g2
    # the exponent of p changes by about dt g^2 times the squared score and the inverse variance
    fastest = np.abs(c.f) + np.abs(c.f * case.x * s).max() + c.g2 * (1 / smallest_std(here) ** 2 + dot(s, s).max())
    step = 0.02 / np.max(fastest)

    def change(dt: float) -> Array:
        return np.asarray(np.expm1(here.affine(1 + c.f * dt).convolve(noise * dt).logpdf(case.x) - at_x) / dt)

    found = numeric.extrapolate([change(step / 2**k) for k in range(3)])
    hessian = np.einsum("nii->ni", here.hessian(case.x))
    size = np.abs(c.f) * (1 + np.abs(case.x * s)) + 0.5 * c.g2 * (np.abs(hessian) + s**2)
    return Sides(found, case.model.log_density_rate(case.x, case.t), scale=size.sum(axis=1))


@identity(
    "Taylor expansion of Gaussian smoothing",
    topic=TOPIC,
    formula=r"\mathbb{E}\,\varphi(x + \sigma z) = \varphi + \tfrac{\sigma^2}{2}\Delta\varphi"
    r" + \tfrac{\sigma^4}{8}\Delta^2\varphi + O(\sigma^6)",
    covers=["PODB-13", "PHY-76"],
    over="once",
    evidence=ORDER,
    control="E z^4 = 1 in place of 3 on the diagonal",
)
def gaussian_smoothing(case: Case, wrong: bool) -> Sides:
    """phi = cos(k . x) + (q . x)^4 in two dimensions by Gauss-Hermite quadrature, the remainder over sigma^4."""
    rng = case.rng
    x, k, q = rng.standard_normal((3, 2))
    points, weights = numeric.product_rule(numeric.hermite(40), 2)

    def phi(y: Array) -> Array:
        return np.asarray(np.cos(y @ k) + (y @ q) ** 4)

    second = -(k @ k) * np.cos(x @ k) + 12 * (q @ q) * (x @ q) ** 2
    fourth = (k @ k) ** 2 * np.cos(x @ k) + 24 * (q @ q) ** 2
    if wrong:
        fourth -= 2 / 3 * (np.sum(k**4) * np.cos(x @ k) + 24 * np.sum(q**4))
    sigmas = [0.4 / 2**j for j in range(4)]
    remainders = [(weights @ phi(x + s * points) - phi(x) - s**2 / 2 * second) / s**4 for s in sigmas]
    return Sides(numeric.extrapolate(remainders, first=2, step=2), fourth / 8)


@identity(
    "Dirac calculus",
    topic=TOPIC,
    formula=r"p(x) f(x) = \mathbb{E}_y[f(y)\,\delta(x - y)],\quad"
    r" \nabla[p f] = \mathbb{E}_y[f(y) \nabla_x \delta(x - y)]",
    covers=["TOPA-79"],
    over="laws",
    evidence=ORDER,
    control="the gradient taken of f outside: p grad f",
    needs=lambda case: case.law.dim <= 5,
)
def dirac_calculus(case: LawCase, wrong: bool) -> list[Sides]:
    """f(y) = y and delta a Gaussian of variance h^2: averages over y are Bayes' posterior moments under that noise."""
    law, x, d = case.law, case.x, case.law.dim
    s, at_x = law.score(x), law.logpdf(x)
    widths = [0.1 * smallest_std(law) / 2**j for j in range(4)]
    densities, values, gradients = [], [], []
    for h in widths:
        blur = Channel(noise=h**2)
        mean, cov = blur.posterior_mean(law, x), blur.posterior_cov(law, x)
        density = np.exp(law.convolve(h**2).logpdf(x) - at_x)[:, None]
        densities.append(density)
        values.append(density * mean)
        # E[y_i (y_j - x_j) | x] / h^2, with d delta / dx_j = (y_j - x_j) / h^2 delta
        gradients.append(density[..., None] * (cov + mean[:, :, None] * (mean - x)[:, None, :]) / h**2)
    exact = np.eye(d) + (0.0 if wrong else x[:, :, None] * s[:, None, :])
    return [
        Sides(numeric.extrapolate(densities, first=2, step=2), 1.0),
        Sides(numeric.extrapolate(values, first=2, step=2), x),
        Sides(numeric.extrapolate(gradients, first=2, step=2), exact),
    ]


@identity(
    "Density carried by a contraction",
    topic=TOPIC,
    formula=r"v = -\tfrac{\beta}{2} x:\quad \partial_t \rho = \tfrac{\beta}{2} (d\,\rho + x \cdot \nabla \rho)",
    covers=["PHY-66"],
    refutes=["PHY-66"],
    over="laws",
    evidence=DERIVATIVE,
    control="beta rho d / 2, the derivative along the motion in place of the one at a fixed point",
    needs=lambda case: case.law.dim <= 16,
)
def contraction(case: LawCase, wrong: bool) -> Sides:
    """A stencil in beta t of the density of exp(-beta t / 2) x against the score."""
    x, s = case.x, case.law.score(case.x)
    advection = 0.0 if wrong else dot(x, s)
    step = FINE / (1 + np.linalg.norm(x, axis=1).max() / smallest_std(case.law))
    rate = relative_rate(lambda u: case.law.affine(np.exp(-u / 2)).logpdf(x), step)
    return Sides(rate, 0.5 * (case.law.dim + advection), scale=case.law.dim + dot(np.abs(x), np.abs(s)))


@identity(
    "Volume change over a short step",
    topic=TOPIC,
    formula=r"\log \det(I + \Delta t\,\nabla v) = \Delta t\,\nabla \cdot v"
    r" - \tfrac{\Delta t^2}{2} \mathrm{tr}\,(\nabla v)^2 + O(\Delta t^3),\quad \nabla \cdot v = -\tfrac{d \log p}{dt}",
    covers=["TOPB-19"],
    evidence=ORDER,
    control="the second-order term with the other sign",
    needs=lambda case: case.law.dim <= 16,
)
def volume_change(case: ModelCase, wrong: bool) -> Sides:
    """Determinants from the Jacobian, the divergence from the density along the flow; the remainder over dt^2."""
    model, x, t, d = case.model, case.x, case.t, case.law.dim
    jacobian = model.velocity_jacobian(x, t)
    divergence = -(model.log_density_rate(x, t) + dot(model.velocity(x, t), model.score(x, t)))
    # where the flow is at rest (p_t constant) the two terms of its Jacobian cancel, and f is one of them
    fastest = max(np.abs(jacobian).sum(axis=(1, 2)).max(), np.max(np.abs(case.process.coefficients(t).f)))
    longest = 0.02 / fastest
    remainders = [
        (np.linalg.slogdet(np.eye(d) + dt * jacobian)[1] - dt * divergence) / dt**2
        for dt in longest / 2.0 ** np.arange(4)
    ]
    second = (0.5 if wrong else -0.5) * np.einsum("nij,nji->n", jacobian, jacobian)
    return Sides(numeric.extrapolate(remainders), second, scale=fastest**2)


@identity(
    "State-dependent diffusion",
    topic=TOPIC,
    formula=r"\partial_t p = -\nabla \cdot (f p) + \tfrac12 \sum_{ij} \partial_i \partial_j (D_{ij} p),\quad"
    r" v = f - \tfrac12 \nabla \cdot D - \tfrac12 D \nabla \log p",
    covers=["DMI-59"],
    refutes=["DMI-59"],
    over="once",
    evidence=DERIVATIVE,
    control="div(D grad p) / 2, the printed form",
)
def state_dependent_diffusion(case: Case, wrong: bool) -> Sides:
    """Coupled geometric Brownian motions dx_i = r_i x_i dt + x_i (B dw)_i: lognormal, with D_ij = x_i x_j (B B')_ij."""
    rng, d = case.rng, 3
    b, r, start = 0.4 * rng.standard_normal((d, d)), rng.standard_normal(d), rng.standard_normal(d)
    c = b @ b.T + 0.1 * np.eye(d)
    t = 0.8

    def logarithms(time: float) -> Gaussian:
        return Gaussian(start + (r - np.diag(c) / 2) * time, 0.3 * np.eye(d) + c * time)

    log_x = logarithms(t).sample(4, rng)
    x, at_x = np.exp(log_x), logarithms(t).logpdf(log_x) - log_x.sum(axis=1)

    def relative(y: Array, time: float = t) -> Array:
        return np.asarray(np.exp(logarithms(time).logpdf(np.log(y)) - np.log(y).sum(axis=1) - at_x))

    def flux(y: Array) -> Array:
        # p v, with (div D)_i = sum_j d_j (x_i x_j c_ij) = x_i (sum_j c_ij + c_ii)
        s = (logarithms(t).score(np.log(y)) - 1) / y
        spread = 0.0 if wrong else y * (c.sum(axis=1) + np.diag(c))
        return np.asarray(relative(y)[:, None] * (r * y - 0.5 * spread - 0.5 * y * ((y * s) @ c)))

    h = FINE * smallest_std(logarithms(t)) * x
    rate = numeric.derivative(lambda u: relative(x, t + u), 0.0, 0.01)
    # each axis has its own length, proportional to x: the divergence in the units u = y / h
    div = numeric.divergence(lambda u: flux(u * h) / h, x / h, 1.0)
    return Sides(rate, -div)
