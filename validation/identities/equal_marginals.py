r"""One family of marginals, many processes: the probability flow and every stochastic equation around it.

With gamma(t) >= 0 free, v = f - g^2 s / 2 the velocity of the flow and s = grad log p_t,

    forward    dx = [v + gamma^2 / 2 s] dt + gamma dw                     p_t for every gamma; gamma = g the process
    backward   dx = [v - gamma^2 / 2 s] dt + gamma dw,  dt < 0            p_t for every gamma; gamma = g Anderson's

share p_t but not their paths: for Gaussian data of variance P_t and gamma^2 = k g^2, running back from t to u leaves

    Cov(x_u, x_t) = P_t (P_u / P_t)^((1 + k) / 2) (alpha_t / alpha_u)^k,

which is the forward process's alpha_t / alpha_u P_u only at k = 1. gamma = 0 is the flow: in one dimension the
quantile map, for Gaussians the map x -> m_t + P_t^(1/2) P_s^(-1/2) (x - m_s), and along it log p falls by int div v.
In y = x / alpha and r = sigma / alpha the flow is the DDIM equation dy = eps dr; in lambda it is semi-linear.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import bernoulli, comb, ndtr

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import BetaTable, beta_table
from refdiff.schedules import Coefficients, VPLinear
from refdiff.validation import numeric
from refdiff.validation.cases import Case, LawCase, ModelCase, ProcessCase, TableCase
from refdiff.validation.identities.fokker_planck import (
    FINE,
    dot,
    relative_density,
    smallest_std,
    smooth,
    time_scale,
)
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity

TOPIC = "Equal marginals and the probability flow"


@identity(
    "stochastic equations with equal marginals",
    topic=TOPIC,
    formula=r"\partial_t p = -\nabla \cdot ([v \pm \tfrac{\gamma^2}{2} s]\,p) \pm \tfrac{\gamma^2}{2} \Delta p,"
    r"\quad v = f - \tfrac12 g^2 s",
    covers=["PODB-67", "PODA-413", "PODA-407", "TOPA-64", "TOPA-78", "TOPA-82", "TOPA-83", "TOPA-84", "TOPB-62"],
    refutes=["PODB-67"],
    evidence=DERIVATIVE,
    control="the Laplacian with the forward sign in the equation of the backward process, as in the proof",
    needs=lambda case: smooth(case, 2) and not case.process.per_axis,
)
def family(case: ModelCase, wrong: bool) -> list[Sides]:
    """Component rates in time against stencils of the fluxes in space, gamma^2 = 0, 1/2, 1, 3 times g^2."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x, case.t
    h, ratio, rate = FINE * smallest_std(model.marginal(t)), relative_density(case, t), model.log_density_rate(x, t)
    linear = numeric.divergence(lambda y: ratio(y)[:, None] * c.f * y, x, h)
    pull = numeric.divergence(lambda y: ratio(y)[:, None] * model.score(y, t), x, h)
    spreading = numeric.laplacian(ratio, x, h)
    s = model.score(x, t)
    sides = []
    for k in (0.0, 0.5, 1.0, 3.0):
        size = np.abs(linear) + (1 + k) * c.g2 * (dot(s, s) + case.law.dim * (FINE / h) ** 2)
        forward = -linear + 0.5 * (1 - k) * c.g2 * pull + 0.5 * k * c.g2 * spreading
        noise = -0.5 * k * c.g2 * spreading
        backward = -linear + 0.5 * (1 + k) * c.g2 * pull + (-noise if wrong else noise)
        sides += [Sides(forward, rate, scale=size), Sides(backward, rate, scale=size)]
    return sides


@identity(
    "moments and correlations of the family for Gaussian data",
    topic=TOPIC,
    formula=r"\dot P = 2 (f + \tfrac{g^2 \pm \gamma^2}{2 P}) P \mp \gamma^2,\quad"
    r" \mathrm{Cov}(x_s, x_t) = P_t (P_s / P_t)^{(1 + k)/2} (\alpha_t / \alpha_s)^k,\; \gamma^2 = k g^2",
    covers=["PODA-407", "PODA-412", "PODA-413", "PODA-415", "PODA-416", "PODB-67", "TOPA-64", "TOPA-83", "TOPA-84"],
    refutes=["PODA-410", "PODA-415"],
    over="processes",
    evidence=QUADRATURE,
    control="the drift +[f - g^2 s] of the decreasing clock run in the elapsed time",
    needs=lambda case: not isinstance(case.schedule, BetaTable),
)
def family_moments(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Moment equations integrated back to s (and forward to t) against the pushed moments and the closed form."""
    k = np.array([0.0, 0.5, 1.0, 2.0])
    at_s, at_t = (case.schedule.coefficients(time) for time in (case.s, case.t))
    mean = case.rng.standard_normal()
    # data about as wide as the noise, so that neither hides the other
    v0 = case.rng.uniform(0.3, 3) * float(at_s.sigma * at_t.sigma)

    def variance(c: Coefficients) -> Array:
        return np.asarray(c.alpha**2 * v0 + c.sigma**2)

    def integrate(start: float, end: float, sign: int, initial: Array) -> Array:
        """Moments from start to end; sign +1 for the forward family and -1 for the backward one, both in t."""

        def rate(tau: float, state: Array) -> Array:
            # the elapsed time tau runs from 0 to 1, evenly in log t
            t = start * (end / start) ** tau
            c, speed = case.schedule.coefficients(t), t * np.log(end / start)
            m, p, cross = state.reshape(3, 4)
            exact = variance(c)
            slope = c.f + 0.5 * (1 - sign * k) * c.g2 / exact
            pull = slope - c.f
            if wrong and sign < 0:
                speed = -speed
            moved = np.array([slope * m - pull * c.alpha * mean, 2 * slope * p, slope * cross])
            moved *= speed
            # noise adds variance per elapsed time, whichever way the clock runs
            moved[1] += k * c.g2 * abs(speed)
            return moved.ravel()

        end_state = solve_ivp(rate, (0, 1), initial.ravel(), "DOP853", rtol=1e-11, atol=0).y[:, -1]
        return np.asarray(end_state.reshape(3, 4))

    ones, sides = np.ones(4), []
    for sign, here, there, ends in ((1, at_s, at_t, (case.s, case.t)), (-1, at_t, at_s, (case.t, case.s))):
        p, q = variance(here), variance(there)
        found = integrate(*ends, sign, np.array([here.alpha * mean * ones, p * ones, p * ones]))
        cross = p * (q / p) ** (0.5 * (1 - sign * k)) * (there.alpha / here.alpha) ** (sign * k)
        sides.append(Sides(found[0] - there.alpha * mean, 0.0, scale=np.sqrt(q) + np.abs(there.alpha * mean)))
        sides.append(Sides(found[1:], np.array([q * ones, cross]), scale=np.array([q * ones, cross])))
    # only Anderson's member has the correlations of the forward process
    return [*sides, Sides(cross[2], at_t.alpha / at_s.alpha * variance(at_s))]


def gaussian_flow(case: ModelCase, t: float, power: float = 0.5) -> tuple[Array, Array]:
    """The flow map of Gaussian data from time case.t to t: images of case.x, and the matrix (P_t P_s^-1)^power."""
    start, end = case.model.marginal(case.t), case.model.marginal(t)
    values, basis = np.linalg.eigh(case.law.cov())
    then, now = (case.process.coefficients(time) for time in (case.t, t))
    stretch = (now.alpha**2 * values + now.sigma**2) / (then.alpha**2 * values + then.sigma**2)
    matrix = basis * stretch**power @ basis.T
    return end.mean() + (case.x - start.mean()) @ matrix, matrix


@identity(
    "probability flow of Gaussian data",
    topic=TOPIC,
    formula=r"\Psi_{s \to t}(x) = m_t + P_t^{1/2} P_s^{-1/2} (x - m_s),\quad"
    r" \partial_t \Psi_{s \to t} = v(\Psi_{s \to t}, t)",
    covers=["PODA-409", "PODA-411", "PODB-32", "TOPA-52", "TOPA-85", "PHY-04", "PHY-82"],
    evidence=DERIVATIVE,
    control="P_t P_s^-1 in place of its square root",
    needs=lambda case: case.law.count == 1 and smooth(case) and not case.process.per_axis,
)
def gaussian_map(case: ModelCase, wrong: bool) -> list[Sides]:
    """A stencil in time of the map against the velocity; and the law of the image."""
    power, h = 1.0 if wrong else 0.5, FINE * time_scale(case)
    rate = numeric.derivative(lambda u: gaussian_flow(case, case.t + u, power)[0], 0.0, h)
    image, matrix = gaussian_flow(case, case.s, power)
    start, end = case.model.marginal(case.t), case.model.marginal(case.s)
    c = case.process.coefficients(case.t)
    size = np.abs(c.dalpha * case.law.mean()).max() + np.abs(c.dvariance / smallest_std(start)) + np.abs(c.f * case.x)
    offset = image[0] - matrix @ case.x[0]
    pushed = start.affine(matrix, offset)
    return [
        Sides(rate, case.model.velocity(case.x, case.t), scale=size),
        Sides(pushed.cov(), end.cov()),
        Sides(pushed.mean(), end.mean(), scale=np.abs(matrix).max() * np.abs(case.x).max() + np.abs(end.mean()).max()),
    ]


@identity(
    "velocity of Gaussian data from the rates of its moments",
    topic=TOPIC,
    formula=r"v = (f + \tfrac12 g^2 P^{-1})\,x - \tfrac12 g^2 P^{-1} m",
    covers=["PODA-416"],
    control="g^2 in place of g^2 / 2",
    needs=lambda case: case.law.count == 1,
)
def affine_velocity(case: ModelCase, wrong: bool) -> Sides:
    """P and m from the schedule alone against Bayes' denoiser and the score."""
    c, d = case.process.coefficients(case.t), case.law.dim
    alpha, sigma, f, g2 = (np.broadcast_to(value, (d,)) for value in (c.alpha, c.sigma, c.f, c.g2))
    p = alpha[:, None] * case.law.cov() * alpha + np.diag(sigma**2)
    pull = (1.0 if wrong else 0.5) * g2 * np.linalg.solve(p, (case.x - alpha * case.law.mean()).T).T
    size = np.abs(f * case.x) + np.abs(pull) + g2 * np.linalg.norm(case.x) / np.sqrt(np.linalg.eigvalsh(p)[0])
    return Sides(case.model.velocity(case.x, case.t), f * case.x + pull, scale=size)


@identity(
    "skewness and the second derivative of a velocity",
    topic=TOPIC,
    formula=r"v = \sum_k c_k\,\mathrm{He}_k(y):\quad \tfrac{d}{dt}\,\mathbb{E}(y - \bar y)^3 = 6 c_2"
    r" \ne 3 v''(\bar y)",
    covers=["PODA-416"],
    refutes=["PODA-416"],
    over="once",
    evidence=DERIVATIVE,
    control="c_2 read off v'' at the mean, as if higher Taylor terms did not matter",
)
def skewness_rate(case: Case, wrong: bool) -> Sides:
    """A stencil of the third central moment of y + dt v(y), y ~ N(0, 1): it vanishes with c_2 alone, not with v''."""
    coefficients = case.rng.standard_normal(6)
    y, w = numeric.hermite(40)
    v = np.polynomial.hermite_e.hermeval(y, coefficients)

    def third_moment(dt: float) -> Array:
        moved = y + dt * v
        return np.asarray(w @ (moved - w @ moved) ** 3)

    bend = np.polynomial.hermite_e.hermeval(0.0, np.polynomial.hermite_e.hermeder(coefficients, 2))
    expected = 3 * bend if wrong else 6 * coefficients[2]
    return Sides(numeric.derivative(third_moment, 0.0, 1e-2), expected, scale=w @ (3 * y**2 * np.abs(v)))


def cdf(law: GaussianMixture, x: Array) -> Array:
    """The distribution function of a one-dimensional mixture."""
    std = np.sqrt(law.covariances.dense(1)[:, 0, 0])
    return np.asarray(ndtr((x - law.means[:, 0]) / std) @ law.weights)


@identity(
    "push-forward and likelihood by the probability flow",
    topic=TOPIC,
    formula=r"(\Psi_{s \to t})_\# p_s = p_t,\quad \log p_t(\Psi_{s \to t}(x)) = \log p_s(x)"
    r" - \int_s^t \nabla \cdot v(\Psi_{s \to u}(x), u)\,du",
    covers=[
        "DMI-57",
        "PODA-409",
        "PODA-411",
        "PODB-23",
        "PODB-32",
        "PODB-36",
        "TOPA-85",
        "TOPA-86",
        "TOPB-19",
        "TOPB-23",
    ],
    refutes=["PODA-411"],
    evidence=QUADRATURE,
    control="the push-forward by the map of the other direction",
    needs=lambda case: smooth(case, 2) and 1 < case.law.count <= 8 and not case.process.per_axis,
)
def flow(case: ModelCase, wrong: bool) -> list[Sides]:
    """DOP853 for points and log densities: in one dimension the distribution function is carried too."""
    model, d, x = case.model, case.law.dim, case.model.sample(2, case.s, case.rng)
    start, end = (case.t, case.s) if wrong else (case.s, case.t)

    def rate(tau: float, state: Array) -> Array:
        t = start * (end / start) ** tau
        y = state[: x.size].reshape(x.shape)
        speed = t * np.log(end / start)
        return np.asarray(speed * np.append(model.velocity(y, t).ravel(), -model.velocity_divergence(y, t)))

    state = np.append(x.ravel(), model.log_density(x, case.s))
    # two orders below the tolerance: what the flow stretches, errors grow with
    found = solve_ivp(rate, (0, 1), state, "DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    image, log_density = found[: x.size].reshape(x.shape), found[x.size :]
    sides = [Sides(log_density, model.log_density(image, case.t), scale=d + np.abs(log_density).max())]
    if d == 1:
        sides.append(Sides(cdf(model.marginal(case.t), image), cdf(model.marginal(case.s), x), scale=1.0))
    return sides


@identity(
    "velocities with the same marginals are not unique",
    topic=TOPIC,
    formula=r"\nabla \cdot (p w) = 0,\; w = J s + p^{-1} J \nabla \psi,\; J' = -J \;\Rightarrow\;"
    r" \partial_t p = -\nabla \cdot (p\,[v + w])",
    covers=["PODB-34", "PODA-412"],
    evidence=DERIVATIVE,
    control="J with a symmetric part",
    needs=lambda case: smooth(case, 2) and case.law.dim == 2,
)
def rotating_velocity(case: ModelCase, wrong: bool) -> Sides:
    """Component rates in time against a stencil of the flux with a circulating part, psi = cos(k . x)."""
    model, x, t, d, rng = case.model, case.x, case.t, case.law.dim, case.rng
    h, ratio = FINE * smallest_std(model.marginal(t)), relative_density(case, t)
    root = rng.standard_normal((d, d))
    j = root - (0.0 if wrong else 1.0) * root.T
    c = case.process.coefficients(t)
    j *= np.max(c.g2)
    k = FINE / h * rng.standard_normal(d)

    def flux(y: Array) -> Array:
        circulating = ratio(y)[:, None] * model.score(y, t) - np.sin(y @ k)[:, None] * k
        return np.asarray(ratio(y)[:, None] * model.velocity(y, t) + circulating @ j.T)

    s = model.score(x, t)
    size = np.abs(c.f * x).sum(axis=1) * np.linalg.norm(s, axis=1) + np.abs(j).max() * (dot(s, s) + (FINE / h) ** 2)
    return Sides(-numeric.divergence(flux, x, h), model.log_density_rate(x, t), scale=size)


# ---------------------------------------------------------------------- the flow in other clocks


@identity(
    "probability flow as the DDIM equation and in log-SNR",
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
    "exponential integral of the flow in log-SNR",
    topic=TOPIC,
    formula=r"x_t = \frac{\alpha_t}{\alpha_s} x_s"
    r" - \alpha_t \int_{\lambda_s}^{\lambda_t} e^{-\lambda} \epsilon^*\,d\lambda",
    covers=["PODC9-21"],
    over="processes",
    evidence=QUADRATURE,
    control="e^lambda in place of e^-lambda",
)
def exponential_integral(case: ProcessCase, wrong: bool) -> Sides:
    """The closed path of one-dimensional Gaussian data, the noise along it integrated by Gauss-Legendre."""
    mean, start = case.rng.standard_normal(2)
    c, z = case.schedule.coefficients([case.s, case.t]), numeric.legendre(64)
    # data between the two noises, in units of alpha
    v0 = np.prod(c.sigma / c.alpha)
    mean, start = mean * np.sqrt(v0), start * np.sqrt(v0)
    ends = case.schedule.log_snr([case.s, case.t])
    lam = ends[0] + (ends[1] - ends[0]) * z[0]
    ratio = np.exp(-lam)
    # x / alpha - mean grows with the deviation of the law of x / alpha; noise = sigma (x - alpha m) / P
    first = np.exp(-ends[0])
    path = start * np.sqrt((v0 + ratio**2) / (v0 + first**2))
    integrand = np.exp(lam if wrong else -lam) * ratio * path / (v0 + ratio**2)
    integral = (ends[1] - ends[0]) * (z[1] @ integrand)
    end = mean + start * np.sqrt((v0 + np.exp(-2 * ends[1])) / (v0 + first**2))
    return Sides(c.alpha[1] * (mean + start - integral), c.alpha[1] * end, scale=c.alpha[1] * (abs(mean) + abs(start)))


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
    x, eps = case.rng.standard_normal((2, len(alpha)))
    step = before * (x - sigma * eps) / alpha + quiet * eps
    if wrong:
        step = (x - betas / sigma * eps) / np.sqrt(1 - betas)
    euler = before * (x / alpha - (sigma / alpha - quiet / before) * eps)
    return Sides(step, euler, scale=before * (np.abs(x) + np.abs(eps)) / alpha)


@identity(
    "orders of Euler, Heun and Runge-Kutta in three clocks",
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
    "logarithm of Su's schedule",
    topic=TOPIC,
    formula=r"\log \bar\alpha_t = \tfrac12 \sum_{k \le t} \log(1 - \tfrac{0.02 k}{T}) ="
    r" -0.005\,\tfrac{t (t + 1)}{T} - \sum_{j \ge 2} \tfrac{1}{2j} (\tfrac{0.02}{T})^j S_j(t)",
    covers=["TOPA-54", "TOPA-55"],
    refutes=["TOPA-55"],
    over="once",
    control="-5 s^2 - 0.005 s for the first term whatever T is, as exp(-5 s^2) says",
)
def su_schedule(case: Case, wrong: bool) -> list[Sides]:
    """The table against its series in power sums, by Faulhaber's formula; every term is negative, hence the bound."""
    sides = []
    for steps in (100, 1000, int(case.rng.integers(50, 500))):
        table, t = beta_table.su(steps), np.arange(1.0, steps + 1)
        leading = -5 * (t / steps) ** 2 - 0.005 * t / steps if wrong else -0.005 * t * (t + 1) / steps
        # the terms from j = 9 on add 0.02^9 T / 180 < 3e-15
        rest = [(0.02 / steps) ** j / (2 * j) * power_sum(t, j) for j in range(2, 9)]
        sides.append(Sides(np.log(table.alpha_bar) / 2, leading - sum(rest)))
    return sides


def power_sum(t: Array, j: int) -> Array:
    """1^j + ... + t^j by Faulhaber's formula, with the Bernoulli number B_1 = +1/2."""
    numbers = bernoulli(j) * (-1.0) ** np.arange(j + 1)
    terms = (comb(j + 1, i) * numbers[i] * t ** (j + 1 - i) for i in range(j + 1))
    return np.asarray(sum(terms) / (j + 1))


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
        Sides([square.process.coefficients(s).f, square.process.coefficients(s).g2], [-10 * s, 20 * s]),
    ]
