r"""The kernel and its stochastic differential equation, from one to the other and back.

    dx = f x dt + g dw:   f = (log alpha)',   g^2 = (sigma^2)' - 2 f sigma^2 = -2 sigma^2 lambda'
    moments               m' = f m,   P' = 2 f P + g^2
    solved, E(s -> t) = exp int_s^t f:   m_t = E m_s,   P_t = E^2 P_s + int_s^t E(u -> t)^2 g^2(u) du
    Euler-Maruyama        m <- (1 + f h) m,   P <- (1 + f h)^2 P + g^2 h:   first order in h, with known constants

The integrals use f and g^2 only; the kernel uses alpha and sigma only. Integrals over a table of betas are split at its
indices, where f and g^2 jump.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.processes import BetaTable
from refdiff.schedules import FunctionSchedule, Schedule, VPLinear
from refdiff.validation.cases import Case, ProcessCase, with_gaussian_data
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import noised_variance
from refdiff.validation.numeric import derivative, extrapolate, legendre, products_after

TOPIC = "Kernel and SDE"
STEPS = 128 * 2 ** np.arange(5)


def turning(case: ProcessCase) -> bool:
    """Smooth, and not the heat equation, whose constant f = 0 and g^2 Euler-Maruyama steps exactly."""
    c = case.process.coefficients(case.s)
    return smooth(case) and bool(c.f != 0 or c.d2variance != 0)


def edges(schedule: Schedule, s: float, t: float, count: int = 8) -> Array:
    """Ends (n + 1,) of the panels into which [s, t] is cut: at a table's indices, else n = `count` equal panels."""
    if isinstance(schedule, BetaTable):
        return np.unique(np.concatenate([[s], np.arange(np.ceil(s), np.floor(t) + 1), [t]]))
    return np.linspace(s, t, count + 1)


def panels(schedule: Schedule, s: float, t: float, count: int = 8) -> tuple[Array, Array]:
    """Gauss-Legendre nodes (m,) and weights (m,) on [s, t], on `count` panels or those of a table."""
    nodes, weights = legendre(6 if isinstance(schedule, BetaTable) else 24)
    ends = edges(schedule, s, t, count)
    lengths = np.diff(ends)[:, None]
    return (ends[:-1, None] + lengths * nodes).ravel(), (lengths * weights).ravel()


def growth(schedule: Schedule, s: float, t: float) -> tuple[float, Array, Array, Array]:
    """E(s -> t) by quadrature of f, and nodes u, weights and E(u -> t), all (m,), for integrals over [s, t]."""
    nodes, weights = legendre(6 if isinstance(schedule, BetaTable) else 24)
    ends = edges(schedule, s, t)
    u, w = panels(schedule, s, t)
    u = u.reshape(-1, len(nodes))
    left = ends[1:, None] - u
    to_end = schedule.f(u[..., None] + left[..., None] * nodes) @ weights * left
    whole = schedule.f(u) @ weights * np.diff(ends)
    later = np.append(np.cumsum(whole[:0:-1])[::-1], 0.0)
    return float(np.exp(whole.sum())), u.ravel(), w, np.exp(to_end + later[:, None]).ravel()


@identity(
    "The moments of the SDE are the kernel",
    topic=TOPIC,
    formula=r"\frac{\alpha_t}{\alpha_s} = e^{\int_s^t f},\qquad"
    r" \sigma_t^2 = \Big(\frac{\alpha_t}{\alpha_s}\Big)^2 \sigma_s^2 + \int_s^t e^{2\int_u^t f} g^2(u)\, du",
    covers=["PODA-404", "PODA-405", "PODA-425", "PODB-03", "TOPA-72", "TOPA-73", "PODD-54", "PODD-86"],
    refutes=["TOPA-73"],
    over="processes",
    evidence=QUADRATURE,
    control="the square missing on the left of g^2 = alpha^2 (sigma^2 / alpha^2)', as printed in (5.21)",
)
def moments_of_sde(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Nested quadrature of f and g^2 from s, and from the data, against alpha and sigma."""
    sides = []
    for start in (case.s, 0.0):
        here, there = case.schedule.coefficients(start), case.schedule.coefficients(case.t)
        gain, u, weights, to_end = growth(case.schedule, start, case.t)
        g2 = case.schedule.g2(u)
        added = weights @ (to_end**2 * (g2**2 if wrong else g2))
        sides += [
            Sides(gain * here.alpha, there.alpha, scale=there.alpha),
            Sides(gain**2 * here.sigma**2 + added, there.sigma**2, scale=there.sigma**2),
        ]
        if start:
            sides.append(Sides(added, case.process.channel(start, case.t).noise))
    return sides


@identity(
    "Mean and covariance move by the outer product rule",
    topic=TOPIC,
    formula=r"\dot m = f m,\quad \dot P = 2 f P + g^2 I,\quad"
    r" \frac{d}{dt} \mathbb{E}\, x x^{\mathsf T} = 2 f\, \mathbb{E}\, x x^{\mathsf T} + g^2 I,\quad"
    r" \frac{d}{dt} \mathbb{E}\, |x|^2 = 2 f\, \mathbb{E}\, |x|^2 + d\, g^2",
    covers=["PODD-88", "PODA-425"],
    over="processes",
    evidence=DERIVATIVE,
    control="the noise d g^2 of the inner product rule, which is the one cited, in the equation of the outer product",
    needs=smooth,
)
def moment_equations(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Stencils in time of the moments of pushed data with a full covariance, against f and g^2."""
    data, t = with_gaussian_data(case), case.t
    h, c, dim = min(t, case.process.T - t) / 100, case.schedule.coefficients(t), data.law.dim

    def moments(u: float) -> tuple[Array, Array]:
        law = data.model.marginal(u)
        return law.mean(), law.cov()

    def second(u: float) -> Array:
        mean, covariance = moments(u)
        return covariance + np.outer(mean, mean)

    mean, covariance = moments(t)
    added, rate = c.g2 * (dim if wrong else 1) * np.eye(dim), 1 / (100 * h)  # what h resolves
    size = (2 * np.abs(c.f) + rate) * np.abs(second(t)).max() + c.g2
    return [
        Sides(derivative(lambda u: moments(u)[0], t, h), c.f * mean, scale=(np.abs(c.f) + rate) * np.abs(mean).max()),
        Sides(derivative(lambda u: moments(u)[1], t, h), 2 * c.f * covariance + added, scale=size),
        Sides(derivative(second, t, h), 2 * c.f * second(t) + added, scale=size),
        Sides(
            derivative(lambda u: np.trace(second(u)), t, h),
            2 * c.f * np.trace(second(t)) + dim * c.g2,
            scale=dim * size,
        ),
    ]


@identity(
    "Drift and diffusion are derivatives of the kernel",
    topic=TOPIC,
    formula=r"f = \frac{d \log \alpha}{dt},\quad g^2 = \frac{d\sigma^2}{dt} - 2 f \sigma^2 = -2\sigma^2 \lambda'"
    r" = \alpha^2 \frac{d}{dt}\frac{\sigma^2}{\alpha^2} = 2\alpha\sigma \frac{d}{dt}\frac{\sigma}{\alpha}",
    covers=["PODB-03", "TOPA-73", "TOPA-72", "PODC9-02"],
    over="processes",
    evidence=DERIVATIVE,
    control="lambda read as the whole log signal-to-noise ratio: g^2 = -sigma^2 lambda'",
)
def coefficients_of_sde(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Stencils of alpha, sigma, log alpha, sigma^2, lambda and sigma / alpha against the schedule's own rates."""
    schedule = case.schedule
    # inside a step of a table everything is smooth; elsewhere the nearest end of time sets the scale
    t, h = (case.t, min(case.t, schedule.T - case.t) / 100) if smooth(case) else (np.floor(case.t) + 0.5, 0.1)
    c = schedule.coefficients(t)
    rate = derivative(lambda u: np.log(schedule.alpha(u)), t, h)
    by_variance = derivative(lambda u: schedule.sigma(u) ** 2, t, h) - 2 * rate * c.sigma**2
    by_log_snr = (-1 if wrong else -2) * c.sigma**2 * derivative(schedule.log_snr, t, h)
    by_ratio = c.alpha**2 * derivative(lambda u: (schedule.sigma(u) / schedule.alpha(u)) ** 2, t, h)
    by_root = 2 * c.alpha * c.sigma * derivative(lambda u: schedule.sigma(u) / schedule.alpha(u), t, h)
    size = np.abs(c.dvariance) + 2 * np.abs(c.f) * c.sigma**2
    return [
        Sides(rate, c.f, scale=np.abs(c.f) + 1 / schedule.T),
        Sides(derivative(schedule.alpha, t, h), c.dalpha, scale=np.abs(c.dalpha) + c.alpha / schedule.T),
        Sides(derivative(schedule.sigma, t, h), c.dsigma),
        Sides(derivative(lambda u: schedule.sigma(u) ** 2, t, h), c.dvariance),
        *(Sides(found, c.g2, scale=size) for found in (by_variance, by_log_snr, by_ratio, by_root)),
    ]


@identity(
    "Euler-Maruyama converges to the kernel with order 1",
    topic=TOPIC,
    formula=r"\frac{m_h - m}{h\, m} \to -\frac{f_t - f_s}{2} - \frac12 \int_s^t f^2,\qquad"
    r" \frac{P_h - P}{h} \to"
    r" \int_s^t \frac{\alpha_t^2}{\alpha_u^2} \Big( f^2 \sigma^2 - \tfrac12 (\sigma^2)'' \Big) du",
    covers=["PODA-402", "PODA-404", "TOPA-58", "TOPA-72", "PODB-16"],
    over="processes",
    evidence=ORDER,
    control="noise g h in place of g sqrt(h)",
    needs=turning,
)
def euler_maruyama(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The exact recursion of mean and variance at five step sizes, extrapolated, against the leading constants."""
    here, there = case.schedule.coefficients(case.s), case.schedule.coefficients(case.t)
    means, variances = [], []
    for n in STEPS:
        h = (case.t - case.s) / n
        c = case.schedule.coefficients(case.s + h * np.arange(n))
        factors = 1 + c.f * h
        after = products_after(factors)
        noise = c.g2 * h**2 if wrong else c.g2 * h
        reached = factors.prod() ** 2 * here.sigma**2 + (after**2 * noise).sum()
        means.append((factors.prod() * here.alpha / there.alpha - 1) / h)
        variances.append((reached - there.sigma**2) / h)
    u, weights = panels(case.schedule, case.s, case.t)
    c = case.schedule.coefficients(u)
    kept = weights * (there.alpha / c.alpha) ** 2
    ends, bend = 0.5 * (there.f - here.f), 0.5 * weights @ c.f**2
    size = kept @ (c.f**2 * c.sigma**2 + 0.5 * np.abs(c.d2variance))
    return [
        Sides(extrapolate(means), -ends - bend, scale=np.abs(ends) + bend),
        Sides(extrapolate(variances), kept @ (c.f**2 * c.sigma**2 - 0.5 * c.d2variance), scale=size),
    ]


@identity(
    "One Euler-Maruyama step is right to second order",
    topic=TOPIC,
    formula=r"\mathrm{KL}\big(\mathcal{N}((1 + f h) x, g^2 h)\,\|\, p(x_{t+h} \mid x_t = x)\big) / h^2"
    r" \to \tfrac14 \big( f + (\log g)' \big)^2",
    covers=["TOPA-59", "PODA-402"],
    over="processes",
    evidence=ORDER,
    control="(log g^2)' in place of (log g)'",
    needs=turning,
)
def short_time_density(case: ProcessCase, wrong: bool) -> Sides:
    """The divergence of the step from the exact transition at five step sizes, against its leading constant."""
    schedule, t = case.schedule, case.s
    c, x = schedule.coefficients(t), schedule.sigma(t)
    found, steps = [], (case.t - case.s) / STEPS
    for h in steps:
        exact = case.process.channel(t, t + h)
        excess = c.g2 * h / exact.noise - 1
        miss = (1 + c.f * h - exact.gain) * x
        found.append(0.5 * (excess - np.log1p(excess) + miss**2 / exact.noise) / h**2)
    rate = derivative(schedule.g2, t, min(t, schedule.T - t) / 100) / c.g2
    constant = 0.25 * (c.f + (rate if wrong else rate / 2)) ** 2
    return Sides(extrapolate(found), constant, scale=0.25 * (np.abs(c.f) + np.abs(rate) / 2) ** 2)


@identity(
    "Discrete chains tend to the variance-preserving SDE",
    topic=TOPIC,
    formula=r"\frac{1}{h}\Big( \prod_i (1 - \beta(t_i) h)\, e^{B} - 1 \Big) \to"
    r" -\frac{\beta(T) - \beta(0)}{2} - \frac12 \int_0^T \beta^2",
    covers=["PODA-401", "DMI-58", "PHY-55"],
    refutes=["PODA-401"],
    over="once",
    evidence=ORDER,
    control="beta_t without the step size, as printed in L1899: the mean is then 0",
)
def chain_to_sde(case: Case, wrong: bool) -> list[Sides]:
    """abar, mean and variance of chains with beta_i = beta(t_i) h, against e^-B and the SDE's kernel."""
    low, high = case.rng.uniform(0.05, 0.3), case.rng.uniform(0.5, 0.9)
    schedule = VPLinear(low, high, T=2.0)
    c = schedule.coefficients(schedule.T)
    signals, spreads, start, limit = [], [], 0.3, 1.7  # data variance, and the variance that the chain tends to
    for n in STEPS:
        h = schedule.T / n
        beta = schedule.g2(h * np.arange(1, n + 1))
        kept = 1 - (beta if wrong else beta * h)
        after = products_after(kept)
        spread = kept.prod() * start + limit * ((1 - kept) * after).sum()
        signals.append((kept.prod() / c.alpha**2 - 1) / h)
        spreads.append((spread - (c.alpha**2 * start + c.sigma**2 * limit)) / h)
    u, weights = panels(schedule, 0.0, schedule.T)
    constant = -0.5 * (high - low) - 0.5 * weights @ schedule.g2(u) ** 2
    return [
        Sides(extrapolate(signals), constant),
        Sides(extrapolate(spreads), constant * c.alpha**2 * (start - limit)),
    ]


@identity(
    "Variation of constants along the flow",
    topic=TOPIC,
    formula=r"x_t = E(s \to t)\, x_s + \int_s^t E(u \to t)\, N(x_u, u)\, du,\quad N = -\tfrac12 g^2 \nabla \log p_u",
    covers=["PODD-55", "PODD-54"],
    over="processes",
    evidence=QUADRATURE,
    control="N = -g^2 grad log p, the drift of the reverse SDE",
)
def variation_of_constants(case: ProcessCase, wrong: bool) -> Sides:
    """Quadrature of f and of N along a trajectory of Gaussian data, against the trajectory."""
    mean, spread, z = 0.8, 0.36, 1.3  # x_u = alpha_u m + std_u z is a trajectory of the probability flow

    def path(u: Array | float) -> tuple[Array, Array]:
        c = case.schedule.coefficients(u)
        std = np.sqrt(noised_variance(c, spread))
        return c.alpha * mean + std * z, -z / std

    gain, u, weights, to_end = growth(case.schedule, case.s, case.t)
    pull = -0.5 * (2 if wrong else 1) * case.schedule.g2(u) * path(u)[1]
    return Sides(gain * path(case.s)[0] + weights @ (to_end * pull), path(case.t)[0])


@identity(
    "Data and noise decouple along a diffusion, and stay coupled along its flow",
    topic=TOPIC,
    formula=r"\operatorname{Cov}(x_0, x_t) = \alpha_t s_0^2,\quad \operatorname{corr}(x_0, \hat x_0) = r^2;\qquad"
    r" \text{flow: } e^{\int_s^t \partial_x v} = \mathrm{std}_t / \mathrm{std}_s,\ \operatorname{corr}(x_s, x_t) = 1",
    covers=["PHY-54"],
    over="processes",
    evidence=QUADRATURE,
    control="the diffusion's correlation alpha_t s_0 / std_t in place of the flow's",
)
def coupling(case: ProcessCase, wrong: bool) -> list[Sides]:
    """There and exactly back again correlates x_0 with its copy by r^2; the flow's slope is an integral over time."""
    law, forward = Gaussian([0.4], 0.6), case.process.kernel(case.t)
    there_and_back = forward.reverse(law).compose(forward)
    correlation = forward.gain * np.sqrt(0.6 / forward.push(law).cov().item())
    if wrong:
        return [Sides(correlation, 1.0)]
    u, weights = panels(case.schedule, case.s, case.t)
    first, last, between = (noised_variance(case.schedule.coefficients(time), 0.6) for time in (case.s, case.t, u))
    # the flow of Gaussian data is linear: dv/dx = f + g^2 / (2 var), and corr(x_s, x_t) = slope std_s / std_t
    slope = np.exp(weights @ (case.schedule.f(u) + 0.5 * case.schedule.g2(u) / between))
    return [Sides(there_and_back.gain, correlation**2), Sides(slope * np.sqrt(first / last), 1.0)]


@identity(
    "A negative drift alone does not forget the data",
    topic=TOPIC,
    formula=r"\lim_{t \to \infty} m_t / x_0 = \exp \int_0^\infty f,\qquad f = -(1 + t)^{-2}:\ e^{-1}",
    covers=["PODA-406"],
    refutes=["PODA-406"],
    over="once",
    evidence=QUADRATURE,
    control="the limit 0 that L1996 concludes from f <= 0",
)
def forgetting(case: Case, wrong: bool) -> list[Sides]:
    """The schedule's drift integrated to infinity, and its gain at a late time carried on, against the limit."""
    power = case.rng.uniform(1.5, 3.0)  # f = -(1 + t)^-power
    schedule = FunctionSchedule(
        lambda t: np.exp(((1 + t) ** (1 - power) - 1) / (power - 1)),
        lambda t: t,
        50.0,
        lambda t: -((1 + t) ** -power) * np.exp(((1 + t) ** (1 - power) - 1) / (power - 1)),
        np.ones_like,
        np.zeros_like,  # alpha'' does not enter f
        np.zeros_like,
    )
    limit = 0.0 if wrong else np.exp(-1 / (power - 1))
    y, weights = (part * np.log1p(schedule.T) for part in legendre(32))  # t = e^y - 1
    inside = weights @ (schedule.f(np.expm1(y)) * np.exp(y))
    beyond = -((1 + schedule.T) ** (1 - power)) / (power - 1)
    return [Sides(np.exp(inside + beyond), limit), Sides(schedule.alpha(schedule.T) * np.exp(beyond), limit)]
