r"""Reversing a diffusion: the backward equation, two times together, and the family of reverse equations.

    forward            dx = f dt + g dw,   D = g g'
    two times          p(x3|x1) = int p(x3|x2) p(x2|x1) dx2
    backward equation  d_t1 p(x2|x1) = -f(x1) . grad_1 p - div_1 D grad_1 p / 2
    the family         dx = [f - (1 + l^2) / 2 D s] dt + l g dw,  dt < 0:  l = 0 the flow, l = 1 Anderson's reversal

The joint density P(x1, x2) = p(x1) p(x2|x1) of two times obeys, in t1, the Fokker-Planck equation of the l = 1 drift
run backward, which is the whole proof. With elapsed time dtau = -dt > 0 the drift changes its sign and the noise does
not; the source swaps the two clocks (RDX-B16), and the swap is a negative control here.
Laws in closed form: mixtures pushed through a random matrix equation (matrix exponentials), or through a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import random_mixture
from refdiff.validation import numeric
from refdiff.validation.cases import Case, LawCase, ModelCase, ProcessCase
from refdiff.validation.conditions import differentiable
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import dot
from refdiff.validation.steps import FINE, relative_density, relative_rate, time_scale

TOPIC = "Reverse-time equations"


@dataclass(frozen=True)
class LinearSDE:
    """dx = F x dt + g dw with drift F and diffusion D = g g', both constant and (d, d)."""

    drift: Array
    diffusion: Array

    def channel(self, duration: float) -> Channel:
        """x_t | x_0 = N(U x_0, S), t the duration, from one block exponential.

        U = exp(F t),   S = int_0^t exp(F r) D exp(F' r) dr
        """
        d = len(self.drift)
        block = expm(duration * np.block([[self.drift, self.diffusion], [np.zeros((d, d)), -self.drift.T]]))
        noise = block[:d, d:] @ block[:d, :d].T
        return Channel(block[:d, :d], 0.0, (noise + noise.T) / 2)

    def rate(self, x: Array, std: float) -> float:
        """A bound on how fast densities of deviation std change at points x (n, d): what a stencil in time resolves."""
        drift, noise = np.linalg.norm(self.drift, 2), np.linalg.norm(self.diffusion, 2)
        return float(drift * (1 + np.abs(x).max() / std) + noise / std**2)


def random_sde(case: Case, dim: int = 3) -> LinearSDE:
    """Rotating and stretching drift, correlated noise, on R^dim."""
    drift, root = case.rng.standard_normal((2, dim, dim))
    return LinearSDE(0.7 * drift, root @ root.T + 0.2 * np.eye(dim))


@identity(
    "Family of reverse equations of a matrix process",
    topic=TOPIC,
    formula=r"dx = [F x - \tfrac{1 + \lambda^2}{2} D \nabla \log p_t]\,dt + \lambda g\,d\bar w,\quad dt < 0",
    covers=["RDX-09", "RDX-B16"],
    refutes=["RDX-B16"],
    over="once",
    evidence=QUADRATURE,
    control="the printed sign: dx = -[...] dt with dt < 0",
)
def matrix_family(case: Case, wrong: bool) -> Sides:
    """Moment equations in the elapsed time from P(1) back to P(0.2), against the law pushed forward."""
    sde, law = random_sde(case), random_mixture(3, 1, case.seed, "full")
    f, d, first, last = sde.drift, sde.diffusion, 0.2, 1.0
    start, end = sde.channel(first).push(law), sde.channel(last).push(law)
    sign = 1 if wrong else -1

    def rate(tau: float, state: Array) -> Array:
        here, rates = sde.channel(last - tau).push(law), []
        attraction = d @ np.linalg.inv(here.cov())
        for lam, (mean, *cov) in zip((0.0, 0.5, 1.0, 1.5 - tau), state.reshape(4, 4, 3), strict=True):
            pull = 0.5 * (1 + lam**2) * attraction
            moved = (f + pull) @ cov
            rates += [sign * ((f + pull) @ mean - pull @ here.mean()), sign * (moved + moved.T) + lam**2 * d]
        return np.concatenate([np.ravel(part) for part in rates])

    state = np.tile(np.append(end.mean(), end.cov()), 4)
    found = solve_ivp(rate, (0, last - first), state, "DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    expected = np.append(start.mean(), start.cov())
    return Sides(found.reshape(4, -1), expected, scale=np.abs(expected).max())


@identity(
    "Fokker-Planck equation of a matrix process, drift and diffusion traded",
    topic=TOPIC,
    formula=r"\partial_t p = -\nabla \cdot (p f) + \tfrac12 \nabla \cdot D \nabla p"
    r" = -\nabla \cdot (p [f - \tfrac{1 + \lambda^2}{2} D s]) - \tfrac{\lambda^2}{2} \nabla \cdot (p D s)",
    covers=["RDX-B1", "RDX-B15"],
    over="once",
    evidence=DERIVATIVE,
    control="(1 + lambda)^2 / 2 in the drift",
)
def lambda_split(case: Case, wrong: bool) -> list[Sides]:
    """Stencils in time of the pushed density against stencils in space of its fluxes, for mixture data."""
    sde, law, t = random_sde(case), random_mixture(3, 4, case.seed, "full"), 0.6
    here = sde.channel(t).push(law)
    x = here.sample(4, case.rng)
    ratio, h = relative_density(here, x), FINE * smallest_std(here)

    def divergence(share: float) -> Array:
        """div(p [F y - share D s]) / p."""

        def flux(y: Array) -> Array:
            drift = y @ sde.drift.T - share * here.score(y) @ sde.diffusion
            return np.asarray(ratio(y)[:, None] * drift)

        return numeric.divergence(flux, x, h)

    rate = relative_rate(lambda u: sde.channel(t + u).push(law).logpdf(x), FINE / sde.rate(x, smallest_std(here)))
    s, hessian = here.score(x), here.hessian(x)
    curvature = hessian + s[:, :, None] * s[:, None, :]
    spreading = np.einsum("ij,nij->n", sde.diffusion, curvature)
    forward = -np.trace(sde.drift) - dot(x @ sde.drift.T, s) + 0.5 * spreading
    size = np.trace(sde.diffusion) / smallest_std(here) ** 2
    sides = [Sides(rate, forward, scale=size)]
    for lam in (0.6, 1.0):
        share = (1 + lam) ** 2 / 2 if wrong else (1 + lam**2) / 2
        sides.append(Sides(rate, -divergence(share) - 0.5 * lam**2 * spreading, scale=size))
    return sides


@identity(
    "Probability flow of a point under a matrix process",
    topic=TOPIC,
    formula=r"\frac{dx}{dt} = F x + \tfrac12 D \Sigma^{-1} (x - K(t, 0)\,x_0)",
    covers=["RDX-10"],
    over="once",
    evidence=QUADRATURE,
    control="D in place of D / 2",
)
def point_flow(case: Case, wrong: bool) -> list[Sides]:
    """Affine flow from t = 0.3 to 1: mean and covariance of the image of N(K x_0, Sigma) against the kernel."""
    sde, x0, first, last = random_sde(case), case.rng.standard_normal(3), 0.3, 1.0
    f, share = sde.drift, (1.0 if wrong else 0.5) * sde.diffusion

    def rate(t: float, state: Array) -> Array:
        kernel, (mean, *columns) = sde.channel(t), state.reshape(4, 3)
        pull = share @ np.linalg.inv(kernel.noise)
        # the columns are tangents of the flow, kept as rows
        return np.concatenate([f @ mean + pull @ (mean - kernel.gain @ x0), *((f + pull) @ u for u in columns)])

    start, end = sde.channel(first), sde.channel(last)
    root = np.linalg.cholesky(start.noise)
    # a point off the mean by the first column of the root, carried with all columns
    initial = np.concatenate([start.gain @ x0 + root[:, 0], *root.T])
    point, *columns = solve_ivp(rate, (first, last), initial, "DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(4, 3)
    moved = np.array(columns).T
    return [Sides(moved @ moved.T, end.noise), Sides(point, end.gain @ x0 + moved[:, 0])]


@identity(
    "Backward Kolmogorov equation",
    topic=TOPIC,
    formula=r"\partial_{t_1} p(x_2|x_1) = -f(x_1) \cdot \nabla_1 p - \tfrac12 \nabla_1 \cdot D \nabla_1 p",
    covers=["RDX-B8"],
    over="once",
    evidence=DERIVATIVE,
    control="the sign of the diffusion as in the forward equation",
)
def backward_kolmogorov(case: Case, wrong: bool) -> Sides:
    """A stencil in the start time against derivatives in the start point: grad = U' S^-1 (x2 - U x1)."""
    sde, gap = random_sde(case), 0.5
    x1 = case.rng.standard_normal(3)
    kernel = sde.channel(gap)
    x2 = kernel.at(x1).sample(6, case.rng)
    # starting later makes the gap shorter
    std = np.sqrt(np.linalg.eigvalsh(kernel.noise)[0])
    rate = relative_rate(lambda u: sde.channel(gap - u).logpdf(x2, x1), FINE / sde.rate(np.vstack([x1, x2]), std))
    precision = np.linalg.inv(kernel.noise)
    gradient = (x2 - kernel.gain @ x1) @ precision @ kernel.gain
    curvature = gradient[:, :, None] * gradient[:, None, :] - kernel.gain.T @ precision @ kernel.gain
    second = 0.5 * np.einsum("ij,nij->n", sde.diffusion, curvature)
    size = np.abs(gradient @ sde.drift @ x1) + np.trace(sde.diffusion @ kernel.gain.T @ precision @ kernel.gain)
    return Sides(rate, -gradient @ (sde.drift @ x1) + (second if wrong else -second), scale=size)


@identity(
    "Reversal of the joint density of two times",
    topic=TOPIC,
    formula=r"\partial_{t_1} P = -\nabla_1 \cdot (P [f - D \nabla \log p(x_1)]) - \tfrac12 \nabla_1 \cdot D \nabla_1 P,"
    r"\quad P = p(x_1)\,p(x_2|x_1)",
    covers=["RDX-B11", "PODA-407"],
    evidence=DERIVATIVE,
    control="D / 2 in the drift, the probability flow's",
    needs=differentiable,
)
def joint_reversal(case: ModelCase, wrong: bool) -> list[Sides]:
    """A stencil of log P in the earlier time against scores; and (B13), the product rule that the proof rests on."""
    model, process, t, dim = case.model, case.process, case.t, case.law.dim
    later = t + 0.5 * time_scale(case)
    c, h = process.coefficients(t), FINE * 0.2 * time_scale(case)
    x2 = process.channel(t, later).sample(case.x, case.rng)

    def kernel(time: float) -> tuple[Array, Array]:
        step = process.channel(time, later)
        return np.broadcast_to(step.gain, dim), np.broadcast_to(step.noise, dim)

    def log_joint(time: float) -> Array:
        a, v = kernel(time)
        return np.asarray(model.log_density(case.x, time) - 0.5 * ((x2 - a * case.x) ** 2 / v + np.log(v)).sum(axis=1))

    rate = relative_rate(lambda u: log_joint(t + u), h)
    a, v = kernel(t)
    s, hessian = model.score(case.x, t), model.hessian(case.x, t)
    g2, f, k = np.broadcast_to(c.g2, dim), np.broadcast_to(c.f, dim), a * (x2 - a * case.x) / v
    gradient, bend = s + k, np.einsum("nii->ni", hessian) - a**2 / v
    pull = 0.5 if wrong else 1.0
    drift = -f * (1 + case.x * gradient) + pull * g2 * (np.einsum("nii->ni", hessian) + s * gradient)
    size = np.abs(f) * (1 + np.abs(case.x * gradient)) + g2 * (gradient**2 + s**2 + k**2 + np.abs(bend) + a**2 / v)
    right = (drift - 0.5 * g2 * (bend + gradient**2)).sum(axis=1)

    def outer(u: Array, w: Array) -> Array:
        return u[:, :, None] * w[:, None, :]

    kernel_bend = -np.diag(a**2 / v)
    product = (
        -(hessian + kernel_bend + outer(gradient, gradient))
        + (hessian + outer(gradient, s))
        + (hessian + outer(s, gradient))
        - (hessian + outer(s, s))
    )
    terms = np.abs(hessian) + outer(np.abs(s) + np.abs(k), np.abs(s) + np.abs(k)) + (a**2 / v).max()
    return [
        Sides(rate, right, scale=size.sum(axis=1)),
        Sides(-(kernel_bend + outer(k, k)), product, scale=terms),
    ]


@identity(
    "Chapman-Kolmogorov equation",
    topic=TOPIC,
    formula=r"p(x_t|x_s) = \int p(x_t|x_u)\,p(x_u|x_s)\,dx_u",
    covers=["RDX-B6"],
    over="processes",
    evidence=QUADRATURE,
    control="variances added without the squared gain of the second step",
)
def chapman_kolmogorov(case: ProcessCase, wrong: bool) -> Sides:
    """Gauss-Hermite average of the second kernel over the first, against the kernel of both."""
    middle = (case.s + case.t) / 2
    first, second = case.process.channel(case.s, middle), case.process.channel(middle, case.t)
    whole = case.process.channel(case.s, case.t)
    z, w = numeric.hermite(120)
    x = case.rng.standard_normal()
    spread = np.sqrt(whole.noise)
    y = whole.gain * x + spread * np.linspace(-2, 2, 5)
    # the second kernel, as a function of x_u in units of the first one's deviation, has precision r^2:
    # averaging against the wider of the two keeps the Hermite sum convergent
    ratio = second.gain * np.sqrt(first.noise) / np.sqrt(second.noise)
    if ratio < 1:
        u = first.gain * x + np.sqrt(first.noise) * z
        values = np.exp(-0.5 * (y[:, None] - second.gain * u) ** 2 / second.noise) / np.sqrt(second.noise)
    else:
        u = (y[:, None] + np.sqrt(second.noise) * z) / second.gain
        values = np.exp(-0.5 * (u - first.gain * x) ** 2 / first.noise) / np.sqrt(first.noise) / second.gain
    variance = first.noise + second.noise if wrong else whole.noise
    return Sides(values @ w, np.exp(-0.5 * (y - whole.gain * x) ** 2 / variance) / np.sqrt(variance))


@identity(
    "Reverse equation at a frozen time",
    topic=TOPIC,
    formula=r"dx = 2 \tau \nabla \log \pi\,ds + \sqrt{2 \tau}\,dw \text{ leaves } \pi^2 / \textstyle\int \pi^2",
    covers=["PODA-408"],
    refutes=["PODA-408"],
    over="laws",
    evidence=DERIVATIVE,
    control="pi as the stationary density: the drift is twice that of Langevin's equation",
    needs=lambda case: case.law.dim <= 3,
)
def frozen_reverse(case: LawCase, wrong: bool) -> Sides:
    """Stencils of the Fokker-Planck right side, in units of tau."""
    law, x = case.law, case.x
    h, density = FINE / 2 * smallest_std(law), relative_density(law, x, 1 if wrong else 2)
    advection = numeric.divergence(lambda y: 2 * density(y)[:, None] * law.score(y), x, h)
    s = law.score(x)
    return Sides(advection, numeric.laplacian(density, x, h), scale=4 * dot(s, s) + 2 / smallest_std(law) ** 2)
