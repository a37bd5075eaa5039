r"""One family of marginals, many processes: the probability flow and every stochastic equation around it.

With gamma(t) >= 0 free, v = f - g^2 s / 2 the velocity of the flow and s = grad log p_t,

    forward    dx = [v + gamma^2 / 2 s] dt + gamma dw                     p_t for every gamma; gamma = g the process
    backward   dx = [v - gamma^2 / 2 s] dt + gamma dw,  dt < 0            p_t for every gamma; gamma = g Anderson's

share p_t but not their paths: for Gaussian data of variance P_t and gamma^2 = k g^2, running back from t to u leaves

    Cov(x_u, x_t) = P_t (P_u / P_t)^((1 + k) / 2) (alpha_t / alpha_u)^k,

which is the forward process's alpha_t / alpha_u P_u only at k = 1. gamma = 0 is the flow: in one dimension the
quantile map, for Gaussians the map x -> m_t + P_t^(1/2) P_s^(-1/2) (x - m_s), and along it log p falls by int div v.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase, ProcessCase
from refdiff.validation.conditions import differentiable, one_gaussian, scalar, smooth
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import cdf, gaussian_flow, noised_variance, smallest_std
from refdiff.validation.numeric import dot
from refdiff.validation.steps import FINE, relative_density, time_scale

TOPIC = "Equal marginals and the probability flow"


@identity(
    "Stochastic equations with equal marginals",
    topic=TOPIC,
    formula=r"\partial_t p = -\nabla \cdot ([v \pm \tfrac{\gamma^2}{2} s]\,p) \pm \tfrac{\gamma^2}{2} \Delta p,"
    r"\quad v = f - \tfrac12 g^2 s",
    covers=["PODB-67", "PODA-413", "PODA-407", "TOPA-64", "TOPA-82", "TOPA-83", "TOPA-84", "TOPB-62"],
    refutes=["PODB-67"],
    evidence=DERIVATIVE,
    control="the Laplacian with the forward sign in the equation of the backward process, as in the proof",
    needs=lambda case: differentiable(case, 2) and scalar(case),
)
def family(case: ModelCase, wrong: bool) -> list[Sides]:
    """Component rates in time against stencils of the fluxes in space, gamma^2 = 0, 1/2, 1, 3 times g^2."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x, case.t
    here, rate = model.marginal(t), model.log_density_rate(x, t)
    h, ratio = FINE * smallest_std(here), relative_density(here, x)
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
    "Moments and correlations of the family for Gaussian data",
    topic=TOPIC,
    formula=r"\dot P = 2 (f + \tfrac{g^2 \pm \gamma^2}{2 P}) P \mp \gamma^2,\quad"
    r" \mathrm{Cov}(x_s, x_t) = P_t (P_s / P_t)^{(1 + k)/2} (\alpha_t / \alpha_s)^k,\; \gamma^2 = k g^2",
    covers=["PODA-407", "PODA-412", "PODA-413", "PODA-415", "PODA-416", "PODB-67", "TOPA-64", "TOPA-83", "TOPA-84"],
    refutes=["PODA-410", "PODA-415"],
    over="processes",
    evidence=QUADRATURE,
    control="the drift +[f - g^2 s] of the decreasing clock run in the elapsed time",
    needs=lambda case: smooth(case) and case.s < 0.5 * case.process.T,
    most=9,
)
def family_moments(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Moment equations integrated back to s (and forward to t) against the pushed moments and the closed form."""
    k = np.array([0.0, 0.5, 1.0, 2.0])
    at_s, at_t = (case.schedule.coefficients(time) for time in (case.s, case.t))
    mean = case.rng.standard_normal()
    # data about as wide as the noise, so that neither hides the other
    v0 = case.rng.uniform(0.3, 3) * float(at_s.sigma * at_t.sigma)

    def integrate(start: float, end: float, sign: int, initial: Array) -> Array:
        """Moments from start to end; sign +1 for the forward family and -1 for the backward one, both in t."""

        def rate(tau: float, state: Array) -> Array:
            # the elapsed time tau runs from 0 to 1, evenly in log t
            t = start * (end / start) ** tau
            c, speed = case.schedule.coefficients(t), t * np.log(end / start)
            m, p, cross = state.reshape(3, 4)
            exact = noised_variance(c, v0)
            slope = c.f + 0.5 * (1 - sign * k) * c.g2 / exact
            pull = slope - c.f
            if wrong:
                speed = -speed
            moved = np.array([slope * m - pull * c.alpha * mean, 2 * slope * p, slope * cross])
            moved *= speed
            # noise adds variance per elapsed time, whichever way the clock runs
            moved[1] += k * c.g2 * abs(speed)
            return moved.ravel()

        # the control misses by far more than it errs
        rtol = 1e-6 if wrong else 1e-11
        end_state = solve_ivp(rate, (0, 1), initial.ravel(), "DOP853", rtol=rtol, atol=0).y[:, -1]
        return np.asarray(end_state.reshape(3, 4))

    ones, sides = np.ones(4), []
    runs = ((1, at_s, at_t, (case.s, case.t)), (-1, at_t, at_s, (case.t, case.s)))
    for sign, here, there, ends in runs[1:] if wrong else runs:
        p, q = noised_variance(here, v0), noised_variance(there, v0)
        found = integrate(*ends, sign, np.array([here.alpha * mean * ones, p * ones, p * ones]))
        cross = p * (q / p) ** (0.5 * (1 - sign * k)) * (there.alpha / here.alpha) ** (sign * k)
        sides.append(Sides(found[0] - there.alpha * mean, 0.0, scale=np.sqrt(q) + np.abs(there.alpha * mean)))
        sides.append(Sides(found[1:], np.array([q * ones, cross]), scale=np.array([q * ones, cross])))
    # only Anderson's member, the last integrated and third of k, has the correlations of the forward process
    step = case.process.channel(case.s, case.t)
    return [*sides, Sides(found[2, 2], step.gain * noised_variance(at_s, v0))]


@identity(
    "Probability flow of Gaussian data",
    topic=TOPIC,
    formula=r"\Psi_{s \to t}(x) = m_t + P_t^{1/2} P_s^{-1/2} (x - m_s),\quad"
    r" \partial_t \Psi_{s \to t} = v(\Psi_{s \to t}, t)",
    covers=["PODA-409", "PODA-411", "PODB-32", "TOPA-52", "TOPA-85", "PHY-04", "PHY-82", "PODC9-01"],
    evidence=DERIVATIVE,
    control="P_t P_s^-1 in place of its square root",
    needs=lambda case: one_gaussian(case) and smooth(case),
)
def gaussian_map(case: ModelCase, wrong: bool) -> list[Sides]:
    """Stencils of the map in time, at its start and where it leads, against the velocity; the law of the image."""
    schedule, law, x = case.process.schedules[0], case.law, case.x

    def flow(end: float, start: Array = x) -> Array:
        return gaussian_flow(law, schedule, case.t, end, start, 1.0 if wrong else 0.5)

    rate = numeric.derivative(lambda u: flow(case.t + u), 0.0, FINE * time_scale(case))
    # where it leads, the map bends on the scale of the time itself near 0, and of what is left near T
    later = numeric.derivative(flow, case.s, 0.02 * min(case.s, case.process.T - case.s))
    velocity = case.model.velocity(gaussian_flow(law, schedule, case.t, case.s, x), case.s)
    image, origin, columns = flow(case.s), flow(case.s, 0 * x[:1])[0], flow(case.s, np.eye(law.dim))
    start, end = case.model.marginal(case.t), case.model.marginal(case.s)
    pushed = start.affine((columns - origin).T, origin)
    c = case.process.coefficients(case.t)
    size = np.abs(c.dalpha * law.mean()).max() + np.abs(c.dvariance / smallest_std(start)) + np.abs(c.f * x)
    reach = np.abs(columns - origin).max() * np.abs(x).max() + np.abs(end.mean()).max()
    return [
        Sides(rate, case.model.velocity(x, case.t), scale=size),
        Sides(later, velocity, scale=np.abs(velocity).max() + np.abs(image).max() / case.s),
        Sides(pushed.cov(), end.cov()),
        Sides(pushed.mean(), end.mean(), scale=reach),
    ]


@identity(
    "Velocity of Gaussian data from the rates of its moments",
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
    # both sides add up f x, and the entries of P^-1 with those of x - m
    terms = g2 * (np.abs(case.x - alpha * case.law.mean()) @ np.abs(np.linalg.inv(p)))
    size = (np.abs(f * case.x) + terms).max()
    return Sides(case.model.velocity(case.x, case.t), f * case.x + pull, scale=size)


@identity(
    "Skewness and the second derivative of a velocity",
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


@identity(
    "Push-forward and likelihood by the probability flow",
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
    needs=lambda case: differentiable(case, 2) and 1 < case.law.count <= 8 and 0.1 < case.s / case.process.T < 0.5,
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
    # two orders below the tolerance: what the flow stretches, errors grow with; the control misses by far more
    rtol = 1e-6 if wrong else 1e-11
    found = solve_ivp(rate, (0, 1), state, "DOP853", rtol=rtol, atol=rtol / 10).y[:, -1]
    image, log_density = found[: x.size].reshape(x.shape), found[x.size :]
    sides = [Sides(log_density, model.log_density(image, case.t), scale=d + np.abs(log_density).max())]
    if d == 1:
        sides.append(Sides(cdf(model.marginal(case.t), image[:, 0]), cdf(model.marginal(case.s), x[:, 0]), scale=1.0))
    return sides


@identity(
    "Velocities with the same marginals are not unique",
    topic=TOPIC,
    formula=r"\nabla \cdot (p w) = 0,\; w = J s + p^{-1} J \nabla \psi,\; J' = -J \;\Rightarrow\;"
    r" \partial_t p = -\nabla \cdot (p\,[v + w])",
    covers=["PODB-34", "PODA-412"],
    evidence=DERIVATIVE,
    control="J with a symmetric part",
    needs=lambda case: differentiable(case, 2) and case.law.dim == 2,
)
def rotating_velocity(case: ModelCase, wrong: bool) -> Sides:
    """Component rates in time against a stencil of the flux with a circulating part, psi = cos(k . x)."""
    model, x, t, d, rng = case.model, case.x, case.t, case.law.dim, case.rng
    here = model.marginal(t)
    h, ratio = FINE * smallest_std(here), relative_density(here, x)
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
