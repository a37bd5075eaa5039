r"""Diffusion alone: Fick's law, the heat equation, and velocities that follow or oppose the flux.

    Fick         J = -D grad p,   D = s^2 / 2 tau for a random walk with steps of variance s^2 in time tau
    diffusion    d_t p = div(D grad p) = -div(p v),   v = J / p = -D grad log p
    heat kernel  p_t = p_0 * N(0, 2 D t),   in Fourier space a factor exp(-D |omega|^2 t)
    control      u = k D grad log p adds a drift:  d_t p = (1 - k) D lap p,   at rest for k = 1 and reversed for k = 2

Where D(x) depends on the state, Fick's flux gives div(D grad p), not Ito's sum_ij d_i d_j (D_ij p).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.validation import numeric
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import dot
from refdiff.validation.steps import FINE, relative_density, relative_rate

TOPIC = "Continuity and Fokker-Planck equations"


@identity(
    "Diffusion equation",
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
    s, hessian = here.score(x), here.hessian(x)
    rate = relative_rate(lambda u: case.law.convolve((2 + rise * u) * diffusivity).logpdf(x), FINE)
    size = np.abs(diffusivity * hessian).sum(axis=(1, 2)) + np.abs(np.einsum("ni,ij,nj->n", s, diffusivity, s))
    return Sides(rate, np.einsum("ij,nij->n", diffusivity, hessian + s[:, :, None] * s[:, None, :]), scale=size)


@identity(
    "Heat kernel in Fourier space and by quadrature",
    topic=TOPIC,
    formula=r"\mathcal{F}_t(\omega) = \mathcal{F}_0(\omega)\,e^{-\sigma_t^2 |\omega|^2 / 2},\quad"
    r" p_t(x) = \int p_0(x + \sigma_t z)\,N(z; 0, I)\,dz,\quad \sigma_t^2 = 2 \int_0^t D",
    covers=["TOPB-22", "PHY-67"],
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
    "Controls that stop and reverse diffusion",
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
    h, s, density = FINE * std, law.score(x), relative_density(law, x)
    spreading = numeric.laplacian(density, x, h)
    advection = numeric.divergence(lambda y: density(y)[:, None] * law.score(y), x, h)
    exact, size = law.laplacian(x) + dot(s, s), dot(s, s) + law.dim / std**2
    pairs = ((0.4, 0.6), (1.0, 0.0), (1.0 if wrong else 2.0, -1.0))
    return [Sides(spreading - kappa * advection, rest * exact, scale=size) for kappa, rest in pairs]
