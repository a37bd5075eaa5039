r"""One deterministic step from t to s, seen in every coordinate in which it is Euler's or exact.

    x_s = alpha_s x* + sigma_s eps*,     x_t = alpha_t x* + sigma_t eps*      (x*, eps* the predictions at x_t)

is at once

    Euler for x/alpha against sigma/alpha with eps*           Euler for x/sigma against alpha/sigma with x*
    Euler for x/(alpha + sigma) against sigma/(alpha + sigma) with eps* - x*
    the exponential integrator with eps* (or x*) frozen, in t and in lambda
    a rotation by theta_t - theta_s with tan theta = sigma/alpha, when alpha^2 + sigma^2 = 1

Plain Euler on the velocity is the step only where alpha and sigma are affine in the time used; freezing the score is
never.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.model import ExactModel
from refdiff.schedules import Coefficients, VEPower
from refdiff.validation.cases import ModelCase
from refdiff.validation.conditions import preserving, scalar, smooth
from refdiff.validation.identities.parameterizations import from_score, sizes
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, legendre

TOPIC = "DDIM family"


def ends(case: ModelCase) -> tuple[Coefficients, Coefficients]:
    """The coefficients at the noisier start t and at the cleaner end s of a step."""
    return case.process.coefficients(case.t), case.process.coefficients(case.s)


def step(a: Coefficients, b: Coefficients, x: Array, denoiser: Array) -> Array:
    """alpha_s x* + sigma_s eps* (n, d), from the coefficients a at t and b at s, x and the denoiser x* (n, d)."""
    return np.asarray(b.alpha * denoiser + b.sigma * (x - a.alpha * denoiser) / a.sigma)


def terms(a: Coefficients, b: Coefficients, x: Array, denoiser: Array) -> Array:
    """The largest term, a scalar, of some form of `step` with the same a, b, x and denoiser.

    These are x alpha_s/alpha_t, sigma_s eps* and alpha_s x*.
    """
    size, ratio = sizes(a, x, denoiser), b.alpha / a.alpha
    return np.asarray(ratio * np.abs(x).max() + (b.sigma + ratio * a.sigma) * size.noise + b.alpha * size.denoiser)


@identity(
    "The DDIM step in all parameterizations",
    topic=TOPIC,
    formula=r"x_s = \frac{\alpha_s}{\alpha_t}x_t - \alpha_s\Big(\frac{\sigma_t}{\alpha_t} -"
    r" \frac{\sigma_s}{\alpha_s}\Big)\epsilon^*"
    r" = \frac{\sigma_s}{\sigma_t}x_t + \Big(\alpha_s - \alpha_t\frac{\sigma_s}{\sigma_t}\Big)x^*"
    r" = \frac{\alpha_s}{\alpha_t}x_t + \sigma_t^2\Big(\frac{\alpha_s}{\alpha_t} - \frac{\sigma_s}{\sigma_t}\Big)s^*"
    r" = \alpha_s x^* - \sigma_s\sigma_t s^*",
    covers=["PODC9-08", "PODC8-13", "PODC9-24", "PODC9-07"],
    control="e^h - 1 with h half as large: lambda as the whole log signal-to-noise ratio",
    most=12,
)
def parameterizations(case: ModelCase, wrong: bool) -> list[Sides]:
    """Forms with the differentiated log density against the form with Bayes' denoiser."""
    (a, b), x = ends(case), case.x
    denoiser, score = case.model.denoiser(x, case.t), case.model.score(x, case.t)
    target, size = step(a, b, x, denoiser), terms(a, b, x, denoiser)
    slope, ratio, fall = from_score(a, x, score), b.alpha / a.alpha, b.sigma / a.sigma
    h = case.process.log_snr(case.s) - case.process.log_snr(case.t)
    forms = [
        ratio * x - b.alpha * (a.sigma / a.alpha - b.sigma / b.alpha) * slope.noise,
        ratio * x - b.sigma * np.expm1(h / 2 if wrong else h) * slope.noise,
        fall * x + (b.alpha - a.alpha * fall) * denoiser,
        ratio * x + a.sigma**2 * (ratio - fall) * score,
        b.alpha * denoiser - b.sigma * a.sigma * score,
        b.alpha * slope.denoiser + b.sigma * slope.noise,
    ]
    return [Sides(form, target, size) for form in forms]


@identity(
    "The DDIM step as a rotation",
    topic=TOPIC,
    formula=r"\alpha^2 + \sigma^2 = 1:\quad x_s = \cos(\theta_t - \theta_s)\,x_t - \sin(\theta_t -"
    r" \theta_s)\,(\alpha_t\epsilon^* - \sigma_t x^*),"
    r"\quad \frac{x_s}{\sqrt{\bar\alpha_s}} = \frac{x_t}{\sqrt{\bar\alpha_t}} + \Big[\sqrt{\tfrac{1}{\bar\alpha_s} - 1}"
    r" - \sqrt{\tfrac{1}{\bar\alpha_t} - 1}\Big]\epsilon^*",
    covers=["PODC9-08", "RDX-37"],
    control="the v of the rotation with the sign of x* changed",
    needs=preserving,
)
def rotation(case: ModelCase, wrong: bool) -> list[Sides]:
    """The rotation of (x, v) and the step in sqrt(1/alpha_bar - 1), from the score, against Bayes' step."""
    (a, b), x = ends(case), case.x
    denoiser = case.model.denoiser(x, case.t)
    slope = from_score(a, x, case.model.score(x, case.t))
    turn = np.arctan2(a.sigma, a.alpha) - np.arctan2(b.sigma, b.alpha)
    v = a.alpha * slope.noise + (1 if wrong else -1) * a.sigma * slope.denoiser
    root_a, root_b = a.alpha, b.alpha
    ratios = np.sqrt(np.expm1(-2 * np.log(root_b))) - np.sqrt(np.expm1(-2 * np.log(root_a)))
    target, size = step(a, b, x, denoiser), terms(a, b, x, denoiser)
    return [
        Sides(np.cos(turn) * x - np.sin(turn) * v, target, size),
        Sides(root_b * (x / root_a + ratios * slope.noise), target, size),
    ]


@identity(
    "The step on one clean point and one noise",
    topic=TOPIC,
    formula=r"x_t = \alpha_t x_0 + \sigma_t\epsilon:\ \frac{\alpha_s}{\alpha_t}x_t - \Big(\frac{\alpha_s}{\alpha_t}"
    r" - \frac{\sigma_s}{\sigma_t}\Big)"
    r"(x_t - \alpha_t x_0) = \alpha_s x_0 + \sigma_s\epsilon,\qquad \mathbb{E}[x_s\mid x_t] = \text{the step with }"
    r" \nabla\log p_t",
    covers=["PODD-11"],
    control="the ratio of the noises left out",
    most=12,
)
def one_point(case: ModelCase, wrong: bool) -> list[Sides]:
    """The conditional step for drawn pairs, and its average over the posterior against the step with the score."""
    a, b = ends(case)
    clean, noise = case.rng.standard_normal((2, *case.x.shape))
    ratio, fall = b.alpha / a.alpha, (0.0 if wrong else b.sigma / a.sigma)

    def conditional(x: Array, x0: Array) -> Array:
        return np.asarray(ratio * x - (ratio - fall) * (x - a.alpha * x0))

    x, denoiser = case.x, case.model.denoiser(case.x, case.t)
    average = ratio * x + a.sigma**2 * (ratio - b.sigma / a.sigma) * case.model.score(x, case.t)
    drawn = a.alpha * clean + a.sigma * noise
    return [
        Sides(conditional(drawn, clean), b.alpha * clean + b.sigma * noise, terms(a, b, drawn, clean)),
        Sides(conditional(x, denoiser), average, terms(a, b, x, denoiser)),
    ]


@identity(
    "DDIM as a conditional flow",
    topic=TOPIC,
    formula=r"\Psi_{t\to s}(x|x_0) = \frac{\sigma_s}{\sigma_t}x + \Big(\alpha_s -"
    r" \alpha_t\frac{\sigma_s}{\sigma_t}\Big)x_0,\quad v_t(x|x_0) = \frac{\sigma'}{\sigma}x + \Big(\alpha' -"
    r" \alpha\frac{\sigma'}{\sigma}\Big)x_0:\quad \partial_s\Psi_{t\to s} = v_s(\Psi_{t\to s}|x_0),\quad"
    r" \Psi_{m\to s}\circ\Psi_{t\to m} = \Psi_{t\to s},\quad \mathbb{E}[v_t(x|x_0)|x] = v^*",
    covers=["PODC9-17"],
    control="sigma^2 in place of sigma in the ratio of the map",
    evidence=DERIVATIVE,
    needs=lambda case: smooth(case) and case.law.count < 100,
    most=12,
)
def conditional_flow(case: ModelCase, wrong: bool) -> list[Sides]:
    """The map by stencil in its end time, in two parts, and its velocity averaged by Bayes against the score's."""
    schedule, x, x0 = case.process.schedules[0], case.x, case.rng.standard_normal(case.x.shape)

    def flow(start: float, end: float, y: Array) -> Array:
        a, b = schedule.coefficients(start), schedule.coefficients(end)
        fall = (b.sigma / a.sigma) ** (2 if wrong else 1)
        return np.asarray(fall * y + (b.alpha - a.alpha * fall) * x0)

    def velocity(y: Array, when: float, clean: Array) -> Array:
        c = schedule.coefficients(when)
        return np.asarray(c.dsigma / c.sigma * y + (c.dalpha - c.alpha * c.dsigma / c.sigma) * clean)

    middle, end, c = (case.s + case.t) / 2, flow(case.t, case.s, x), schedule.coefficients(case.t)
    # the map bends on the scale of the time itself near 0, and of what is left near T
    h = 0.02 * min(case.s, schedule.T - case.s)
    speed = velocity(end, case.s, x0)
    average = velocity(x, case.t, case.model.denoiser(x, case.t))
    exact = from_score(c, x, case.model.score(x, case.t)).velocity
    return [
        Sides(derivative(lambda u: flow(case.t, u, x), case.s, h), speed, np.abs(end).max() / case.s),
        Sides(flow(middle, case.s, flow(case.t, middle, x)), end, np.abs(x).max() + np.abs(x0).max()),
        Sides(average, exact, sizes(c, x, case.model.denoiser(x, case.t)).velocity),
    ]


@identity(
    "EDM: Euler's step in sigma is DDIM",
    topic=TOPIC,
    formula=r"\alpha = 1,\ \sigma = t:\quad x_s = x_t + (s - t)\,v^* = x_t - (t - s)\,\epsilon^* = \frac{s}{t}x_t +"
    r" \Big(1 - \frac{s}{t}\Big)x^*,\quad x_s - x^* = \frac{s}{t}(x_t - x^*),\qquad v^* = +\epsilon^* = \frac{x -"
    r" x^*}{t}",
    covers=["PODC9-10", "PODD-31"],
    refutes=["PODC9-10"],
    control="v* = -eps*",
    needs=scalar,
    most=12,
)
def edm(case: ModelCase, wrong: bool) -> list[Sides]:
    """The case's law on the EDM schedule, between times with the case's ratios sigma / alpha."""
    (a, b), model = ends(case), ExactModel(case.law, VEPower(T=1e4))
    t, s, x = float(a.sigma / a.alpha), float(b.sigma / b.alpha), case.x / a.alpha
    denoiser, noise = model.denoiser(x, t), -t * model.score(x, t)
    velocity = -noise if wrong else model.velocity(x, t)
    target = s / t * x + (1 - s / t) * denoiser
    size = np.abs(x).max() + np.abs(denoiser).max()
    return [
        Sides(x + (s - t) * velocity, target, size),
        Sides(x - (t - s) * noise, target, size),
        Sides(x + (t - s) * t * model.score(x, t), target, size),
        Sides(velocity, (x - denoiser) / t, size / t),
        Sides(x + (s - t) * velocity - denoiser, s / t * (x - denoiser), size),
    ]


@identity(
    "The coordinates in which the step is Euler's",
    topic=TOPIC,
    formula=r"\frac{d(x/\alpha)}{d(\sigma/\alpha)} = \epsilon^*,\quad \frac{d(x/\sigma)}{d(\alpha/\sigma)} = x^*,\quad"
    r" \frac{d(x/(\alpha+\sigma))}{d(\sigma/(\alpha+\sigma))} = \epsilon^* - x^*",
    covers=["PODC9-55", "DMI-76", "PODC9-09"],
    refutes=["PODC9-09", "PODC9-17"],
    control="plain Euler on the velocity in the schedule's own time, said to be DDIM for every schedule",
    needs=scalar,
    most=12,
)
def coordinates(case: ModelCase, wrong: bool) -> list[Sides]:
    """The probability-flow velocity in each coordinate is a prediction, and Euler's step there is the DDIM step."""
    (a, b), x, model = ends(case), case.x, case.model
    denoiser, velocity = model.denoiser(x, case.t), model.velocity(x, case.t)
    target, size = step(a, b, x, denoiser), terms(a, b, x, denoiser)
    if wrong:
        return [Sides(x + (case.s - case.t) * velocity, target, size)]
    slope = from_score(a, x, model.score(x, case.t))
    rows = (
        (a.alpha, a.dalpha, b.alpha, a.sigma, a.dsigma, b.sigma, slope.noise),
        (a.sigma, a.dsigma, b.sigma, a.alpha, a.dalpha, b.alpha, slope.denoiser),
        (
            a.alpha + a.sigma,
            a.dalpha + a.dsigma,
            b.alpha + b.sigma,
            a.sigma,
            a.dsigma,
            b.sigma,
            slope.noise - slope.denoiser,
        ),
    )
    sides, moved = [], sizes(a, x, denoiser)
    for scale, dscale, end, top, dtop, last, prediction in rows:
        rate = (dtop - top * dscale / scale) / scale  # (top / scale)'
        carried = velocity - dscale / scale * x
        bound = (moved.velocity + np.abs(dscale / scale) * np.abs(x).max()) / np.abs(scale * rate)
        sides.append(Sides(carried / (scale * rate), prediction, bound + moved.noise + moved.denoiser))
        euler = end * (x / scale + (last / end - top / scale) * prediction)
        sides.append(
            Sides(
                euler,
                target,
                size + end / scale * np.abs(x).max() + np.abs(end * top / scale) * np.abs(prediction).max(),
            )
        )
    return sides


# ---------------------------------------------------------------------- exact solutions with a frozen prediction


@identity(
    "The step as an exact solution with frozen noise",
    topic=TOPIC,
    formula=r"\text{VP, } r = -\log\alpha:\ \frac{dx}{dr} = -x + \frac{\hat\epsilon}{\sqrt{1 - e^{-2r}}};\qquad"
    r"\text{straight, } r = -\log(1 - \rho):\ \frac{dx}{dr} = -(x - \hat\epsilon)",
    covers=["DMI-74", "DMI-76"],
    refutes=["DMI-74"],
    control="dx/dr = -(x - eps) on the variance-preserving path",
    evidence=QUADRATURE,
    needs=preserving,
)
def frozen_noise(case: ModelCase, wrong: bool) -> list[Sides]:
    """Variation of constants in r against the step, on the case's path and on the straight path of equal ratios."""
    (a, b), x, model = ends(case), case.x, case.model
    noise = -a.sigma * model.score(x, case.t)
    u, w = legendre(64)
    start, length = -np.log(a.alpha), np.log(a.alpha / b.alpha)
    decay = np.exp(-length)
    inside = np.exp(-length * (1 - u)) / (1.0 if wrong else np.sqrt(-np.expm1(-2 * (start + length * u))))
    denoiser = model.denoiser(x, case.t)
    size = terms(a, b, x, denoiser)
    rho_a, rho_b = a.sigma / (a.alpha + a.sigma), b.sigma / (b.alpha + b.sigma)
    y, kept = x / (a.alpha + a.sigma), (1 - rho_b) / (1 - rho_a)
    straight = (1 - rho_b) * denoiser + rho_b * (y - (1 - rho_a) * denoiser) / rho_a
    return [
        Sides(decay * x + length * (w @ inside) * noise, step(a, b, x, denoiser), size),
        Sides(kept * y + (1 - kept) * noise, straight, size / (b.alpha + b.sigma)),
    ]


@identity(
    "The time in which Euler's step is DDIM",
    topic=TOPIC,
    formula=r"\dot x = -\tfrac{1}{2}\beta\Big(x - \frac{\epsilon^*}{\sqrt{1 - \bar\alpha}}\Big):\quad"
    r"\frac{x_s}{\sqrt{\bar\alpha_s}} = \frac{x_t}{\sqrt{\bar\alpha_t}} + \Delta\sqrt{\tfrac{1 -"
    r" \bar\alpha}{\bar\alpha}}\;\epsilon^*",
    covers=["DMI-75"],
    refutes=["DMI-75"],
    control="Euler's step for x in the time alpha_bar",
    needs=preserving,
)
def step_variable(case: ModelCase, wrong: bool) -> list[Sides]:
    """The differential equation against the exact velocity; its Euler step in sqrt(1/alpha_bar - 1) against DDIM."""
    (a, b), x, model = ends(case), case.x, case.model
    denoiser = model.denoiser(x, case.t)
    noise = (x - a.alpha * denoiser) / a.sigma
    euler = b.alpha * (x / a.alpha + (b.sigma / b.alpha - a.sigma / a.alpha) * noise)
    if wrong:
        euler = x + (b.alpha**2 - a.alpha**2) / (2 * a.alpha**2) * (x - noise / a.sigma)
    size = sizes(a, x, denoiser)
    drift = np.abs(a.f) * (np.abs(x).max() + size.noise / a.sigma)
    target = b.alpha * denoiser - b.sigma * a.sigma * model.score(x, case.t)
    return [
        Sides(a.f * (x - noise / a.sigma), a.f * x - a.g2 / 2 * model.score(x, case.t), drift),
        Sides(euler, target, terms(a, b, x, denoiser)),
    ]
