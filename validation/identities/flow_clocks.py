r"""The probability flow in other clocks and under named schedules.

    velocity                           v = f x - g^2 s / 2 = alpha' D + sigma' eps,   eps = -sigma s
    y = x / alpha, r = sigma / alpha   dy = eps dr: the DDIM equation, whose Euler step is DDIM's
    lambda = log(alpha / sigma)        dx/dlambda = (d log alpha / dlambda) x - sigma eps
    variance preserving, exploding     v = -beta / 2 (x + s),   v = -sigma' sigma s
    alpha = exp(-5 s^2)                dx/ds = 10 s (eps / sqrt(1 - exp(-10 s^2)) - x), the limit of Su's table

All are one equation, so that each of them compares Bayes' denoiser, in v, with the score, in eps.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, random_mixture
from refdiff.model import ExactModel
from refdiff.schedules import FunctionSchedule, VEPower, VPLinear
from refdiff.validation import numeric
from refdiff.validation.cases import Case, LawCase, ModelCase, TableCase
from refdiff.validation.conditions import preserving, scalar
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.numeric import dot

TOPIC = "Equal marginals and the probability flow"


@identity(
    "Probability flow as the DDIM equation and in log-SNR",
    topic=TOPIC,
    formula=r"\frac{d(x/\alpha)}{dt} = \epsilon^* \frac{d(\sigma/\alpha)}{dt},\quad"
    r" \frac{dx}{d\lambda} = \frac{d \log \alpha}{d\lambda}\,x - \sigma \epsilon^*,\quad g^2 = -2 \sigma^2 \lambda'",
    covers=["TOPA-52", "TOPA-87", "PODC9-21", "DMI-57"],
    control="sigma' / alpha in place of (sigma / alpha)'",
)
def ddim_equation(case: ModelCase, wrong: bool) -> list[Sides]:
    """The velocity, which is alpha' D - (sigma^2)' s / 2, against the two forms with the predicted noise."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x, case.t
    v, eps = model.velocity(x, t), model.noise(x, t)
    slope = c.dsigma / c.alpha - (0.0 if wrong else c.sigma * c.dalpha / c.alpha**2)
    dlog_snr = c.dalpha / c.alpha - c.dsigma / c.sigma
    scaled = v / c.alpha - c.dalpha / c.alpha**2 * x
    parts = (
        np.abs(c.dalpha * model.denoiser(x, t)) + np.abs(c.dsigma * eps) + np.abs(c.f * x) + np.abs(c.f * c.sigma * eps)
    )
    rates = np.abs(c.f) + np.abs(c.dsigma / c.sigma)
    return [
        Sides(scaled, slope * eps, scale=parts / c.alpha),
        Sides(v / dlog_snr, c.f / dlog_snr * x - c.sigma * eps, scale=parts / np.abs(dlog_snr)),
        Sides(c.g2, -2 * c.sigma**2 * dlog_snr, scale=2 * c.sigma**2 * rates),
        Sides(c.g2, 2 * c.alpha * c.sigma * slope, scale=2 * c.sigma**2 * rates),
    ]


@identity(
    "DDIM is Euler's method in x / alpha",
    topic=TOPIC,
    formula=r"\frac{x_t}{\alpha_t} - \frac{x_{t-1}}{\alpha_{t-1}} ="
    r" \Bigl(\frac{\sigma_t}{\alpha_t} - \frac{\sigma_{t-1}}{\alpha_{t-1}}\Bigr) \epsilon_t",
    covers=["TOPA-51"],
    refutes=["TOPA-53"],
    over="tables",
    control="the mean of the DDPM step, which is said to be the same Euler step",
)
def ddim_is_euler(case: TableCase, wrong: bool) -> Sides:
    """The step alpha_{t-1} x_0 + sigma_{t-1} eps against Euler's, at every index with alpha > 0."""
    alpha, sigma = np.sqrt(case.table.alpha_bar), np.sqrt(-np.expm1(-case.table.total[1:]))
    alpha, sigma, betas = alpha[alpha > 0], sigma[alpha > 0], case.table.betas[alpha > 0]
    before, quiet = np.append(1.0, alpha[:-1]), np.append(0.0, sigma[:-1])
    # sigma / alpha from the schedule's own log-SNR
    ratio = np.exp(-case.table.log_snr(np.arange(len(alpha) + 1.0)))
    x, eps = case.rng.standard_normal((2, len(alpha)))
    step = before * (x - sigma * eps) / alpha + quiet * eps
    if wrong:
        step = (x - betas / sigma * eps) / np.sqrt(1 - betas)
    euler = before * (x / alpha - np.diff(ratio) * eps)
    return Sides(step, euler, scale=before * (np.abs(x) + np.abs(eps)) / alpha)


@identity(
    "Orders of Euler, Heun and Runge-Kutta in three clocks",
    topic=TOPIC,
    formula=r"\log_2 \frac{e(h)}{e(h/2)} \to p:\; 1, 2, 4 \text{ in } s,\; \sigma/\alpha,\; \log(\sigma/\alpha)",
    covers=["TOPA-53"],
    over="once",
    evidence=ORDER,
    control="the order of the local error, p + 1",
)
def solver_orders(case: Case, wrong: bool) -> list[Sides]:
    """y = x / alpha of Gaussian data: dy/dr = r y / (v + r^2), solved by y ~ sqrt(v + r^2), for alpha = exp(-5 s^2)."""
    v, times = case.rng.uniform(0.4, 1.0), np.array([0.45, 0.2])

    def noise_ratio(s: float) -> float:
        return float(np.sqrt(np.expm1(10 * s**2)))

    def change(s: float) -> float:
        return float(10 * s * np.exp(10 * s**2) / noise_ratio(s))

    ends = [noise_ratio(s) for s in times]
    exact = np.sqrt((v + ends[1] ** 2) / (v + ends[0] ** 2))

    def slope(r: float) -> float:
        return r / (v + r**2)

    clocks = (
        (times, lambda s: slope(noise_ratio(s)) * change(s)),
        (ends, slope),
        (np.log(ends), lambda u: slope(np.exp(u)) * np.exp(u)),
    )
    sides = []
    for (start, end), rate in clocks:
        errors: list[Array] = []
        for count in 8 * 2 ** np.arange(6):
            h, y = (end - start) / count, np.ones(3)
            for u in start + h * np.arange(count):
                a, b, d = rate(u) * h, rate(u + h / 2) * h, rate(u + h) * h
                # growth of a linear equation over one step of each method
                k2 = b * (1 + a / 2)
                k3 = b * (1 + k2 / 2)
                y = y * (1 + np.array([a, (a + d * (1 + a)) / 2, (a + 2 * k2 + 2 * k3 + d * (1 + k3)) / 6]))
            errors.append(y - exact)
        order = np.log2(np.abs(np.array(errors[:-1]) / errors[1:]))
        found = numeric.extrapolate(list(order))
        # Runge-Kutta's errors meet rounding on the finer grids, which the orders of the others need
        found[2] = numeric.extrapolate(list(order[:3, 2]))
        sides.append(Sides(found, np.array([1, 2, 4]) + (1 if wrong else 0)))
    return sides


@identity(
    "DDIM equation for alpha = exp(-5 s^2) and exp(-5 s)",
    topic=TOPIC,
    formula=r"\frac{dx}{ds} = 10 s \Bigl(\frac{\epsilon^*}{\sqrt{1 - e^{-10 s^2}}} - x\Bigr),\quad"
    r" \frac{dx}{ds} = 5 \Bigl(\frac{\epsilon^*}{\sqrt{1 - e^{-10 s}}} - x\Bigr)",
    covers=["TOPA-55", "TOPA-56", "TOPA-57"],
    over="laws",
    control="5 and 10 s exchanged",
)
def exponential_schedules(case: LawCase, wrong: bool) -> list[Sides]:
    """The velocities of the rate 20 s and of the constant rate 10; and the change of clock s^2 between them."""
    s = case.rng.uniform(0.2, 0.8)
    square, plain = ExactModel(case.law, VPLinear(0.0, 20.0)), ExactModel(case.law, VPLinear(10.0, 10.0))
    x = square.sample(4, s, case.rng)
    noise, v = square.noise(x, s), square.velocity(x, s)
    rate = 5.0 if wrong else 10 * s
    size = 10 * np.abs(x).max() + 10 * np.abs(noise).max()
    sigma = np.sqrt(-np.expm1(-10 * s**2))
    return [
        Sides(v, rate * (noise / sigma - x), scale=size / sigma),
        Sides(plain.velocity(x, s**2), 5 * (plain.noise(x, s**2) / sigma - x), scale=size / sigma),
        Sides(v, 2 * s * plain.velocity(x, s**2), scale=size / sigma),
        Sides([square.affine.coefficients(s).f, square.affine.coefficients(s).g2], [-10 * s, 20 * s]),
    ]


def named(case: ModelCase) -> bool:
    """Whether one schedule has alpha = 1 or alpha^2 + sigma^2 = 1."""
    return preserving(case) or (scalar(case) and bool(case.process.coefficients(case.t).alpha == 1))


@identity(
    "Velocities of variance-preserving and variance-exploding processes",
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
    "Velocity towards a Gaussian of any variance",
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
        Sides(resting.velocity(x, t), 0.0, scale=beta * np.abs(x).max()),
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
