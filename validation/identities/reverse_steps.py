r"""One step back in time: Bayes' rule, its exponent completed to a square, and the kernel to first order.

    exactly            p(x_t | x_{t+dt}) = p(x_{t+dt} | x_t) p(x_t) / p(x_{t+dt})
    expanded           log p_{t+dt}(x + dx) = log p_t + dx . s + dt d_t log p + dx . H dx / 2 + O(dt^(3/2))
    to first order     p(x_t | x_{t+dt}) = N(x - [f - g^2 s] dt, g^2 dt) + O(dt^2),   s = grad log p_t
    Gaussian data      A = 1 / v + a^2 / r^2,  B = m / v + a x' / r^2:   N(B / A, 1 / A),   a = 1 + f dt, r^2 = g^2 dt

The exact side conditions the law at t on the channel from t to t + dt. |dx|^2 is of the order of dt, so that the
Hessian stands beside the time derivative. Many short steps multiply to the transition over an interval.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.validation import numeric
from refdiff.validation.cases import ModelCase, ProcessCase
from refdiff.validation.conditions import scalar, smooth, tabulated
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import dot, products_after
from refdiff.validation.steps import time_scale

TOPIC = "Reverse-time equations"


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
    "Completing the square in the reverse exponent",
    topic=TOPIC,
    formula=r"-\tfrac{|\Delta x - f \Delta t|^2 + 2 g^2 \Delta t\, \Delta x \cdot s"
    r" + 2 g^2 \Delta t^2 \partial_t \log p}{2 g^2 \Delta t} = -\tfrac{|\Delta x - (f - g^2 s) \Delta t|^2}"
    r"{2 g^2 \Delta t} + \Delta t\,(\tfrac12 g^2 |s|^2 - f \cdot s - \partial_t \log p)",
    covers=["TOPA-63"],
    refutes=["TOPA-63"],
    control="minus signs before both terms with 2 g^2, as printed in the second line of (5.6)",
    needs=scalar,
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
    "First-order Taylor expansion of log p over a random step",
    topic=TOPIC,
    formula=r"\log p_{t+\Delta t}(x + \Delta x) = \log p_t + \Delta x \cdot s + \Delta t\,\partial_t \log p"
    r" + \tfrac12 \Delta x \cdot H \Delta x + O(\Delta t^{3/2}),\quad |\Delta x|^2 \sim \Delta t",
    covers=["TOPA-62"],
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
    "Reverse kernel over a short step",
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
    rate = max(np.max(c.g2) / smallest_std(here) ** 2, np.max(np.abs(c.f)), np.max(np.abs(c.dvariance / c.sigma**2)))
    # within one interval of a table, where its rate is constant
    longest = min(0.02 / rate, 0.2 * (case.process.T - t), 0.5 if tabulated(case.process) else np.inf)
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
    "Reverse kernel of Gaussian data",
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
    "Transition density as a path integral",
    topic=TOPIC,
    formula=r"p(x_t|x_s) = \lim_{N \to \infty} \int \prod_{k} p(x_{k \Delta t}|x_{(k-1) \Delta t})\,dx_k",
    covers=["TOPA-66"],
    over="processes",
    evidence=ORDER,
    control="noise variance (g dt)^2 in place of g^2 dt",
    needs=smooth,
)
def path_integral(case: ProcessCase, wrong: bool) -> Sides:
    """The product of N Euler-Maruyama kernels, extrapolated in 1 / N, against the kernel of the whole interval."""
    # equal ratios of sigma: a schedule that grows over decades is resolved by steps that grow with it
    whole, values = case.process.channel(case.s, case.t), []
    for count in (32, 64, 128, 256, 512):
        times = case.s * (case.t / case.s) ** np.linspace(0, 1, count + 1)
        c, dt = case.schedule.coefficients(times[:-1]), np.diff(times)
        a, noise = 1 + c.f * dt, c.g2 * dt * (dt if wrong else 1)
        values.append(np.array([a.prod(), (products_after(a) ** 2 * noise).sum()]))
    expected = np.array([whole.gain.item(), whole.noise.item()])
    return Sides(numeric.extrapolate(values), expected, scale=expected)
