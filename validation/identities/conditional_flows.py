r"""Paths made from flows: one map for each condition, the marginal velocity by averaging over the posterior.

A flow Psi_t(. | z) with Psi_0 = identity gives the path Psi_t(x_0 | z) and the velocity

    v_t(x | z) = (d Psi_t / dt)(Psi_t^-1(x | z) | z),    affine: Psi_t = mu_t(z) + A_t x_0,  v = mu' + A' A^-1 (x - mu)

with the density p_0(A^-1 (x - mu)) / |det A|, Gaussian or not. Scale families p_t(x | y) = t^-d h(|x - y| / t) have
the velocity (x - y) / t whatever h is: only the weights of the posterior mean D_h in dx/dt = (x - D_h) / t know it.
A path that is straight for every condition is curved on average, unless the data are one point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import expm
from scipy.special import logsumexp, softmax

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, random_mixture
from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching
from refdiff.validation.cases import Case
from refdiff.validation.identities.interpolants import STEP, continuity
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, divergence, hermite, legendre, product_rule

TOPIC = "Interpolants and flow-first paths"


@identity(
    "Flow between two isotropic Gaussians",
    topic=TOPIC,
    formula=r"\Psi_t(x) = \mu_t + \frac{\sigma_t}{\sigma_0}(x - \mu_0),\quad v_t(x) = \frac{\sigma_t'}{\sigma_t}(x -"
    r" \mu_t) + \mu_t',\quad"
    r" \Psi_{t\sharp}\mathcal{N}(\mu_0, \sigma_0^2 I) = \mathcal{N}(\mu_t, \sigma_t^2 I)",
    covers=["PODB-39", "PODB-45"],
    refutes=["PODB-45"],
    over="once",
    control="the affine template with mu_t = mu(t): mu(t) + sigma(t) x / sigma(0)",
    evidence=DERIVATIVE,
)
def gaussian_bridge(case: Case, wrong: bool) -> list[Sides]:
    """A curved centre and an oscillating width: the map by stencil, its image, and the continuity equation."""
    first, second, wave = case.rng.standard_normal((3, 2))
    x, t = case.rng.standard_normal((4, 2)), 0.2 + 0.6 * case.rng.random()

    def centre(u: float) -> Array:
        return np.asarray((1 - u) * first + u * second + np.sin(3 * u) * wave)

    def width(u: float) -> float:
        return 1.2 + 0.5 * float(np.cos(4 * u))

    def flow(u: float) -> Array:
        return centre(u) + width(u) / width(0) * (x - (0 if wrong else 1) * centre(0))

    def velocity(y: Array, u: float) -> Array:
        rate = second - first + 3 * np.cos(3 * u) * wave
        return np.asarray(-2 * np.sin(4 * u) / width(u) * (y - centre(u)) + rate)

    image = Gaussian(centre(0), width(0) ** 2).affine(width(t) / width(0), flow(t)[0] - width(t) / width(0) * x[0])
    here = Gaussian(centre(t), width(t) ** 2)
    return [
        Sides(derivative(flow, t, STEP), velocity(flow(t), t)),
        Sides(image.logpdf(x), here.logpdf(x)),
        continuity(lambda y, u: Gaussian(centre(u), width(u) ** 2).logpdf(y), velocity, x, t),
    ]


@identity(
    "Affine flow conditioned on a point",
    topic=TOPIC,
    formula=r"\Psi_t(x_0|z) = \mu_t(z) + A_t x_0:\quad v_t(x|z) = (\partial_t\Psi_t)(\Psi_t^{-1}(x|z)|z) = \mu_t' +"
    r" A_t' A_t^{-1}(x - \mu_t),"
    r"\quad p_t(x|z) = \frac{p_0(A_t^{-1}(x - \mu_t))}{|\det A_t|}",
    covers=["PODB-45", "PODB-46"],
    refutes=["PODB-46"],
    over="once",
    control="d/dt Psi_t^-1 taken at Psi_t(x): the inner and the outer map exchanged",
    evidence=DERIVATIVE,
)
def affine_flow(case: Case, wrong: bool) -> list[Sides]:
    """A_t = expm(t B) on a mixture that is not Gaussian: map by stencil, density by pushing, continuity equation."""
    source = random_mixture(2, 3, case.rng, "full", spread=0.8).convolve(0.5)
    # a generator of about 0.4 squeezes the law by no more than about a half within the unit of time
    generator, z = 0.4 * case.rng.standard_normal((2, 2)), case.rng.standard_normal(2)
    x0, t = source.sample(4, case.rng), 0.2 + 0.6 * case.rng.random()

    def flow(u: float) -> Array:
        return np.asarray(np.sin(u) * z + x0 @ expm(u * generator).T)

    def velocity(y: Array, u: float) -> Array:
        if wrong:  # -A^-1 (mu' + A' A^-1 (y - mu)), the rate of Psi_u^-1(y) at fixed y
            inner = np.cos(u) * z + (y - np.sin(u) * z) @ generator.T
            return np.asarray(-inner @ expm(-u * generator).T)
        return np.asarray(np.cos(u) * z + (y - np.sin(u) * z) @ generator.T)

    def log_density(y: Array, u: float) -> Array:
        back = (y - np.sin(u) * z) @ expm(-u * generator).T
        return np.asarray(source.logpdf(back) - u * np.trace(generator))

    pushed = source.affine(expm(t * generator), np.sin(t) * z)
    size = np.abs(velocity(flow(t), t)).max() + np.abs(flow(t)).max()
    return [
        Sides(derivative(flow, t, STEP), velocity(flow(t), t), size),
        Sides(log_density(flow(t), t), pushed.logpdf(flow(t)), 1 + np.abs(pushed.logpdf(flow(t))).max()),
        continuity(log_density, velocity, flow(t), t),
    ]


@identity(
    "General path from a point to noise of any law",
    topic=TOPIC,
    formula=r"x_t = \mu_t(x_0) + \sigma_t x_1:\quad f_t(x|x_0) = \dot\mu_t + \frac{\dot\sigma_t}{\sigma_t}(x -"
    r" \mu_t),\quad \nabla\!\cdot f = d\,"
    r"\frac{\dot\sigma_t}{\sigma_t},\quad p_t(x|x_0) = \sigma_t^{-d} p_1\Big(\frac{x - \mu_t}{\sigma_t}\Big)",
    covers=["TOPB-53"],
    refutes=["TOPB-53"],
    over="once",
    control="sigma / sigma in place of sigma' / sigma",
    evidence=DERIVATIVE,
)
def general_path(case: Case, wrong: bool) -> list[Sides]:
    """mu_t nonlinear in x_0, noise from a mixture: velocity of the path, divergence, continuity equation."""
    noise = random_mixture(2, 3, case.rng, "full", spread=0.8).convolve(0.5)
    x0, t = case.rng.standard_normal(2), 0.4 + 0.4 * case.rng.random()
    x1, half = noise.sample(4, case.rng), np.pi / 2

    def centre(u: float) -> Array:
        return np.asarray(np.cos(half * u) * (x0 + np.sin(np.pi * u) * np.tanh(x0)))

    def width(u: float) -> float:
        return float(np.sin(half * u))

    def velocity(y: Array, u: float) -> Array:
        rate = -half * np.sin(half * u) * (x0 + np.sin(np.pi * u) * np.tanh(x0))
        rate = rate + np.cos(half * u) * np.pi * np.cos(np.pi * u) * np.tanh(x0)
        growth = 1.0 if wrong else half * np.cos(half * u) / width(u)
        return np.asarray(rate + growth * (y - centre(u)))

    def path(u: float) -> Array:
        return centre(u) + width(u) * x1

    spread = divergence(lambda y: velocity(y, t), path(t), STEP)
    return [
        Sides(derivative(path, t, STEP), velocity(path(t), t), np.abs(path(t)).max() + np.abs(x0).max()),
        Sides(spread, 2 * half * np.cos(half * t) / width(t), 1.0 + np.abs(spread).max()),
        continuity(lambda y, u: noise.logpdf((y - centre(u)) / width(u)) - 2 * np.log(width(u)), velocity, path(t), t),
    ]


# Logarithms of radial profiles h(r), up to a constant: Gaussian, Cauchy, exponential, hyperbolic secant squared.
PROFILES: dict[str, Callable[[Array, int], Array]] = {
    "Gaussian": lambda r, d: np.asarray(-r * r / 2),
    "Cauchy": lambda r, d: np.asarray(-(d + 1) / 2 * np.log1p(r * r)),
    "exponential": lambda r, d: -r,
    "sech^2": lambda r, d: np.asarray(-2 * np.log(np.cosh(r))),
}


@dataclass(frozen=True)
class ScaleFamily:
    """p_t(x) = sum_k w_k t^-d h(|x - x_k| / t) / C: data x_k (K, d), log_weights log w_k (K,), profile h."""

    data: Array
    log_weights: Array
    profile: str

    def joint(self, x: Array, t: float) -> Array:
        """log w_k + log of the kernel of x_k, shape (n, K)."""
        dim = self.data.shape[1]
        radius = np.linalg.norm(x[:, None, :] - self.data, axis=2) / t
        return np.asarray(self.log_weights + PROFILES[self.profile](radius, dim) - dim * np.log(t))

    def log_density(self, x: Array, t: float) -> Array:
        """log p_t(x), shape (n,)."""
        return np.asarray(logsumexp(self.joint(x, t), axis=1))

    def velocity(self, x: Array, t: float) -> Array:
        """(x - D_h) / t with the posterior mean D_h, shape (n, d)."""
        return np.asarray((x - softmax(self.joint(x, t), axis=1) @ self.data) / t)


@identity(
    "One velocity for every scale family",
    topic=TOPIC,
    formula=r"p_t(x|y) = t^{-d} h(\|x - y\|/t)\ \Rightarrow\ f_t(x|y) = \frac{x - y}{t},\qquad \frac{dx}{dt} ="
    r" \frac{x - D_h(x, t)}{t}",
    covers=["TOPB-46"],
    over="once",
    control="the Gaussian posterior mean under every kernel",
    evidence=DERIVATIVE,
)
def scale_families(case: Case, wrong: bool) -> list[Sides]:
    """Five weighted points under four kernels on the line and in space: continuity equation by stencils."""
    sides = []
    for d in (1, 3):
        data, t = case.rng.standard_normal((5, d)), 1.5 + case.rng.random()
        logs = np.log(case.rng.dirichlet(np.ones(5)))
        # away from the points, where the exponential kernel has a cusp
        x = 3 * (1.5 + case.rng.random((3, d)))

        gaussian = ScaleFamily(data, logs, "Gaussian")
        for profile in PROFILES:
            family = ScaleFamily(data, logs, profile)
            sides.append(continuity(family.log_density, (gaussian if wrong else family).velocity, x, t))
    return sides


# ---------------------------------------------------------------------- straightness


@identity(
    "Straight conditions, curved trajectories: Gaussian data",
    topic=TOPIC,
    formula=r"\mathcal{N}(0, I) \to \mathcal{N}(m, s^2 I):\quad S = \int_0^1 \mathbb{E}\|\dot x_t - (x_1 - x_0)\|^2"
    r" dt = d\,s\,(2 - \tfrac{\pi}{2})",
    covers=["PODB-44"],
    over="once",
    control="straight trajectories: S = 0",
    evidence=QUADRATURE,
)
def straightness(case: Case, wrong: bool) -> Sides:
    """The exact velocity along the closed flow map t m + sqrt((1-t)^2 + t^2 s^2) x_0, integrated, in two dimensions."""
    mean, std = case.rng.standard_normal(2), 0.4 + case.rng.random()
    model = ExactModel(Gaussian(mean, std**2), FlowMatching())
    x0, chance = product_rule(hermite(4), 2)
    times, w = legendre(40)

    def bend(t: float) -> float:
        x = t * mean + np.hypot(1 - t, t * std) * x0
        off = -model.velocity(x, 1 - t) - (mean + (std - 1) * x0)
        return float(chance @ (off**2).sum(axis=1))

    total = sum(one * bend(t) for t, one in zip(times, w, strict=True))
    return Sides(total, 0.0 if wrong else 2 * std * (2 - np.pi / 2), 1.0)


@identity(
    "Straight conditions, curved trajectories: one point and two",
    topic=TOPIC,
    formula=r"\text{one data point } y:\quad v_t((1 - t)x_0 + t y) = y - x_0\ \text{for all } t",
    covers=["TOPB-54"],
    over="once",
    control="the line to one of two data points taken for a trajectory",
)
def one_atom(case: Case, wrong: bool) -> list[Sides]:
    """The exact velocity of a point set on the line from x_0 to its point."""
    x0, y, other = case.rng.standard_normal((3, 2))
    model = ExactModel(Empirical([y, other] if wrong else [y]), FlowMatching())
    sides = []
    for t in (0.1, 0.4, 0.7, 0.95):
        x = (1 - t) * x0 + t * y
        # the velocity is a difference of points divided by the distance 1 - t that is left
        sides.append(Sides(-model.velocity(x, 1 - t), y - x0, (np.abs(x).max() + np.abs(y).max()) / (1 - t)))
    return sides
