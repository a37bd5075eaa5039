r"""Reversing a diffusion: Bayes' rule over one step, the backward equation, and the family of reverse equations.

    forward            dx = f dt + g dw,   D = g g'
    backward equation  d_t1 p(x2|x1) = -f(x1) . grad_1 p - div_1 D grad_1 p / 2
    one step back      p(x_t | x_t+dt) = N(x - [f - D s] dt, D dt) + O(dt^2),  s = grad log p_t
    the family         dx = [f - (1 + l^2) / 2 D s] dt + l g dw,  dt < 0:  l = 0 the flow, l = 1 Anderson's reversal

The joint density P(x1, x2) = p(x1) p(x2|x1) of two times obeys, in t1, the Fokker-Planck equation of the l = 1 drift
run backward, which is the whole proof. With elapsed time dtau = -dt > 0 the drift changes its sign and the noise does
not; the sources swap the two clocks (RDX-B16, PODA-410, PODA-415), and each swap is a negative control here.
Laws in closed form: mixtures pushed through a random matrix equation (matrix exponentials), or through a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, random_mixture
from refdiff.processes import BetaTable
from refdiff.validation import numeric
from refdiff.validation.cases import Case, LawCase, ModelCase, ProcessCase
from refdiff.validation.identities.fokker_planck import FINE, dot, smallest_std, smooth, time_scale
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity

TOPIC = "Reverse-time equations"


@dataclass(frozen=True)
class LinearSDE:
    """dx = F x dt + g dw with D = g g', both constant."""

    drift: Array
    diffusion: Array

    def channel(self, duration: float) -> Channel:
        """x_t | x_0 = N(U x_0, S), U = exp(F t), S = int_0^t exp(F r) D exp(F' r) dr from one block exponential."""
        d = len(self.drift)
        block = expm(duration * np.block([[self.drift, self.diffusion], [np.zeros((d, d)), -self.drift.T]]))
        noise = block[:d, d:] @ block[:d, :d].T
        return Channel(block[:d, :d], 0.0, (noise + noise.T) / 2)

    def rate(self, x: Array, std: float) -> float:
        """A bound on how fast densities of this deviation change at the points x: what a stencil in time resolves."""
        drift, noise = np.linalg.norm(self.drift, 2), np.linalg.norm(self.diffusion, 2)
        return float(drift * (1 + np.abs(x).max() / std) + noise / std**2)


def random_sde(case: Case, dim: int = 3) -> LinearSDE:
    """Rotating and stretching drift, correlated noise."""
    drift, root = case.rng.standard_normal((2, dim, dim))
    return LinearSDE(0.7 * drift, root @ root.T + 0.2 * np.eye(dim))


@identity(
    "family of reverse equations of a matrix process",
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
    at_x, h = here.logpdf(x), FINE * smallest_std(here)

    def divergence(share: float) -> Array:
        """div(p [F y - share D s]) / p."""

        def flux(y: Array) -> Array:
            drift = y @ sde.drift.T - share * here.score(y) @ sde.diffusion
            return np.asarray(np.exp(here.logpdf(y) - at_x)[:, None] * drift)

        return numeric.divergence(flux, x, h)

    rate = numeric.derivative(
        lambda u: np.exp(sde.channel(t + u).push(law).logpdf(x) - at_x), 0.0, FINE / sde.rate(x, smallest_std(here))
    )
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
    "probability flow of a point under a matrix process",
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
    "backward Kolmogorov equation",
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
    at = kernel.logpdf(x2, x1)
    # starting later makes the gap shorter
    std = np.sqrt(np.linalg.eigvalsh(kernel.noise)[0])
    rate = numeric.derivative(
        lambda u: np.exp(sde.channel(gap - u).logpdf(x2, x1) - at), 0.0, FINE / sde.rate(np.vstack([x1, x2]), std)
    )
    precision = np.linalg.inv(kernel.noise)
    gradient = (x2 - kernel.gain @ x1) @ precision @ kernel.gain
    curvature = gradient[:, :, None] * gradient[:, None, :] - kernel.gain.T @ precision @ kernel.gain
    second = 0.5 * np.einsum("ij,nij->n", sde.diffusion, curvature)
    size = np.abs(gradient @ sde.drift @ x1) + np.trace(sde.diffusion @ kernel.gain.T @ precision @ kernel.gain)
    return Sides(rate, -gradient @ (sde.drift @ x1) + (second if wrong else -second), scale=size)


@identity(
    "reversal of the joint density of two times",
    topic=TOPIC,
    formula=r"\partial_{t_1} P = -\nabla_1 \cdot (P [f - D \nabla \log p(x_1)]) - \tfrac12 \nabla_1 \cdot D \nabla_1 P,"
    r"\quad P = p(x_1)\,p(x_2|x_1)",
    covers=["RDX-B11", "PODA-407"],
    evidence=DERIVATIVE,
    control="D / 2 in the drift, the probability flow's",
    needs=smooth,
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

    here = log_joint(t)
    rate = numeric.derivative(lambda u: np.exp(log_joint(t + u) - here), 0.0, h)
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


# ---------------------------------------------------------------------- one step back


@identity(
    "Bayes' rule for one step back",
    topic=TOPIC,
    formula=r"\log p(x_t|x_{t+\Delta t}) = \log p(x_{t+\Delta t}|x_t) + \log p(x_t) - \log p(x_{t+\Delta t})",
    covers=["TOPA-61"],
    control="the two marginals exchanged",
)
def bayes_step(case: ModelCase, wrong: bool) -> Sides:
    """The conditioned mixture of the earlier law against the three densities."""
    step, earlier, y = case.process.channel(case.s, case.t), case.model.marginal(case.s), case.x[0]
    posterior = step.posterior(earlier, y)
    x = posterior.sample(5, case.rng)
    forward = np.array([step.logpdf(y, point) for point in x])
    prior, evidence = earlier.logpdf(x), case.model.log_density(y, case.t)
    right = forward + (evidence - prior if wrong else prior - evidence)
    # the exponents, and what they feel of the rounding of x: a deviation is known to eps |x|
    size = np.abs(forward) + np.abs(prior) + np.abs(evidence) + np.linalg.norm(x, axis=1) / smallest_std(earlier)
    return Sides(posterior.logpdf(x), right, scale=size)


@identity(
    "completing the square in the reverse exponent",
    topic=TOPIC,
    formula=r"-\tfrac{|\Delta x - f \Delta t|^2 + 2 g^2 \Delta t\, \Delta x \cdot s"
    r" + 2 g^2 \Delta t^2 \partial_t \log p}{2 g^2 \Delta t} = -\tfrac{|\Delta x - (f - g^2 s) \Delta t|^2}"
    r"{2 g^2 \Delta t} + \Delta t\,(\tfrac12 g^2 |s|^2 - f \cdot s - \partial_t \log p)",
    covers=["TOPA-63"],
    refutes=["TOPA-63"],
    control="minus signs before both terms with 2 g^2, as printed in the second line of (5.6)",
    needs=lambda case: not case.process.per_axis,
)
def completed_square(case: ModelCase, wrong: bool) -> Sides:
    """Both lines of the exponent at a random step of size g sqrt(dt)."""
    c, dt = case.process.coefficients(case.t), 0.01 * case.t
    s, rate = case.model.score(case.x, case.t), case.model.log_density_rate(case.x, case.t)
    f, g2, sign = c.f * case.x, c.g2, -1 if wrong else 1
    dx = np.sqrt(g2 * dt) * case.rng.standard_normal(case.x.shape)
    numerator = dot(dx - f * dt, dx - f * dt) + sign * 2 * g2 * dt * (dot(dx, s) + dt * rate)
    rest = dx - (f - g2 * s) * dt
    right = -dot(rest, rest) / (2 * g2 * dt) + dt * (0.5 * g2 * dot(s, s) - dot(f, s) - rate)
    size = dot(np.abs(dx) + np.abs(f * dt) + g2 * dt * np.abs(s), np.abs(dx) + np.abs(f * dt) + g2 * dt * np.abs(s))
    return Sides(-numerator / (2 * g2 * dt), right, scale=size / (2 * g2 * dt) + dt * np.abs(rate))


@identity(
    "first-order Taylor expansion of log p over a random step",
    topic=TOPIC,
    formula=r"\log p_{t+\Delta t}(x + \Delta x) = \log p_t + \Delta x \cdot s + \Delta t\,\partial_t \log p"
    r" + \tfrac12 \Delta x \cdot H \Delta x + O(\Delta t^{3/2}),\quad |\Delta x|^2 \sim \Delta t",
    covers=["TOPA-62"],
    refutes=["TOPA-62"],
    evidence=ORDER,
    control="without the Hessian term, which is of the order of the one in dt that is kept",
    needs=lambda case: case.law.dim <= 5,
)
def taylor_of_log_density(case: ModelCase, wrong: bool) -> Sides:
    """The remainder over dt for dx = 0.8 g sqrt(dt) e, with e a random direction."""
    model, x, t = case.model, case.x, case.t
    g, here = np.sqrt(case.process.coefficients(t).g2), model.log_density(x, t)
    s, rate = model.score(x, t), model.log_density_rate(x, t)
    std = smallest_std(model.marginal(t))
    e = case.rng.standard_normal(x.shape)
    e *= 0.8 * g / np.linalg.norm(e, axis=1, keepdims=True)
    longest = 0.05 * min(np.sqrt(time_scale(case)), std / np.max(g))

    def remainder(h: float) -> Array:
        return np.asarray((model.log_density(x + h * e, t + h**2) - here - h * dot(e, s)) / h**2 - rate)

    found = numeric.extrapolate([remainder(longest / 2**k) for k in range(5)])
    bend = 0.5 * np.einsum("ni,nij,nj->n", e, model.hessian(x, t), e)
    size = np.abs(rate) + 0.5 * dot(e, e) * (1 / std**2 + dot(s, s))
    return Sides(found, 0.0 if wrong else bend, scale=size)


@identity(
    "reverse kernel over a short step",
    topic=TOPIC,
    formula=r"p(x_t|x_{t+\Delta t}) = N(x - [f - g^2 \nabla \log p]\,\Delta t,\; g^2 \Delta t\, I) + O(\Delta t^2)",
    covers=["PODB-15", "PODA-407", "TOPA-64", "TOPA-65", "TOPA-63"],
    refutes=["TOPA-65"],
    evidence=ORDER,
    control="the printed +[f - g^2 s] dt for the step back in time",
    needs=lambda case: case.law.dim <= 16,
)
def reverse_step(case: ModelCase, wrong: bool) -> list[Sides]:
    """Mean and covariance of the exact posterior of x_t, over the step and extrapolated to 0, against Anderson's."""
    model, x, t, d = case.model, case.x, case.t, case.law.dim
    c, here = case.process.coefficients(t), model.marginal(t)
    table = any(isinstance(schedule, BetaTable) for schedule in case.process.schedules)
    rate = max(np.max(c.g2) / smallest_std(here) ** 2, np.max(np.abs(c.f)), np.max(np.abs(c.dvariance / c.sigma**2)))
    # within one interval of a table, where its rate is constant
    longest = min(0.02 / rate, 0.2 * (case.process.T - t), 0.5 if table else np.inf)
    means, covariances = [], []
    for dt in longest / 2.0 ** np.arange(4):
        step = case.process.channel(t, t + dt)
        means.append((step.posterior_mean(here, x) - x) / dt)
        covariances.append(step.posterior_cov(here, x) / dt)
    s = model.score(x, t)
    drift = c.f * x - c.g2 * s
    size = np.abs(c.f * x) + np.abs(c.g2 * s) + np.max(c.g2) / smallest_std(here)
    noise = np.diag(np.broadcast_to(c.g2, d))
    return [
        Sides(numeric.extrapolate(means), drift if wrong else -drift, scale=size),
        Sides(numeric.extrapolate(covariances), noise, scale=noise.max()),
    ]


@identity(
    "reverse kernel of Gaussian data",
    topic=TOPIC,
    formula=r"A = \tfrac1{s^2} + \tfrac{a^2}{r^2},\; B = \tfrac{m}{s^2} + \tfrac{a x'}{r^2};\quad"
    r" \tfrac BA = x' + \Delta[-(f + \tfrac{g^2}{s^2}) x' + \tfrac{g^2}{s^2} m] + O(\Delta^2)",
    covers=["PODA-414", "PODA-415"],
    over="processes",
    evidence=ORDER,
    control="f x' - g^2 grad log p, the drift of the decreasing clock on the increasing one",
)
def gaussian_reverse_step(case: ProcessCase, wrong: bool) -> list[Sides]:
    """One Euler step reversed: in closed form against the conditioned channel, and expanded in the step."""
    c, (m, x) = case.process.coefficients(case.t), case.rng.standard_normal(2)
    f, g2, v = float(c.f), float(c.g2), float(case.rng.uniform(0.5, 2)) * float(c.sigma) ** 2
    m, x = m * np.sqrt(v), x * np.sqrt(v)
    longest, closed, channel = 0.01 / (abs(f) + g2 / v), [], []
    steps = longest / 2.0 ** np.arange(4)
    for dt in steps:
        a, r2 = 1 + f * dt, g2 * dt
        precision, weighted = 1 / v + a**2 / r2, m / v + a * x / r2
        closed.append(np.array([weighted / precision, 1 / precision]))
        back = Channel(a, 0.0, r2).reverse(Gaussian([m], v))
        channel.append(np.array([(back.gain * x + back.offset).item(), back.noise.item()]))
    change = [(value - [x, 0.0]) / dt for value, dt in zip(closed, steps, strict=True)]
    drift = f * x + g2 * (x - m) / v
    size = np.array([(abs(f) + g2 / v) * (abs(x) + abs(m)), g2])
    return [
        Sides(np.array(closed), np.array(channel)),
        Sides(numeric.extrapolate(change), [drift if wrong else -drift, g2], scale=size),
    ]


@identity(
    "transition density as a path integral",
    topic=TOPIC,
    formula=r"p(x_t|x_s) = \lim_{N \to \infty} \int \prod_{k} p(x_{k \Delta t}|x_{(k-1) \Delta t})\,dx_k",
    covers=["TOPA-66"],
    over="processes",
    evidence=ORDER,
    control="noise variance (g dt)^2 in place of g^2 dt",
    needs=lambda case: not isinstance(case.schedule, BetaTable),
)
def path_integral(case: ProcessCase, wrong: bool) -> Sides:
    """The product of N Euler-Maruyama kernels, extrapolated in 1 / N, against the kernel of the whole interval."""
    # equal ratios of sigma: a schedule that grows over decades is resolved by steps that grow with it
    whole, values = case.process.channel(case.s, case.t), []
    for count in (32, 64, 128, 256, 512):
        times = case.s * (case.t / case.s) ** np.linspace(0, 1, count + 1)
        c, dt = case.schedule.coefficients(times[:-1]), np.diff(times)
        a, noise = 1 + c.f * dt, c.g2 * dt * (dt if wrong else 1)
        carried = np.append(np.cumprod(a[::-1])[::-1], 1.0)
        values.append(np.array([carried[0], (carried[1:] ** 2 * noise).sum()]))
    expected = np.array([whole.gain.item(), whole.noise.item()])
    return Sides(numeric.extrapolate(values), expected, scale=expected)


@identity(
    "reverse equation at a frozen time",
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
    at_x, h, power = law.logpdf(x), FINE / 2 * smallest_std(law), 1 if wrong else 2

    def density(y: Array) -> Array:
        return np.asarray(np.exp(power * (law.logpdf(y) - at_x)))

    advection = numeric.divergence(lambda y: 2 * density(y)[:, None] * law.score(y), x, h)
    s = law.score(x)
    return Sides(advection, numeric.laplacian(density, x, h), scale=4 * dot(s, s) + 2 / smallest_std(law) ** 2)
