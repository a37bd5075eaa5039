r"""DPM-Solver-v3: its equation and its statistics.

    dx/dlambda = L x - N,   L = (log alpha)' - l,   N = sigma eps - l x

    l* = E sigma d eps/dx,   a* = Cov(N', N) / Var N,   b* = E N' - a* E N

The equation is checked with any smooth l, the statistics under the exact p_lambda. What the text prints has the sign
of N changed between two of its equations, and integrates towards the wrong end. Steps are in `dpm_solver_v3_steps`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.consistency import flow_map
from refdiff.samplers.dpm_solver_v3 import Statistics, sample_dpm_solver_v3
from refdiff.samplers.v3_statistics import (
    gaussian_statistics,
    least_squares,
    linear_part,
    nonlinear_part,
    optimal_statistics,
)
from refdiff.schedules import Schedule
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import one_gaussian, scalar, smooth
from refdiff.validation.expectations import grid, joint, small
from refdiff.validation.identities.parameterizations import sizes
from refdiff.validation.identity import DERIVATIVE, MONTE_CARLO, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, extrapolate, legendre

TOPIC = "DPM-Solver-v3"


def linear(l: float, a: float = 0.0, b: float = 0.0) -> Statistics:
    """Constant l, a and b."""

    def constant(value: float) -> Callable[[Array], Array]:
        return lambda lams: np.full((len(lams), 1), value)

    return Statistics(constant(l), constant(a), constant(b), lambda u: l * u[:, None], lambda u: a * u[:, None])


def wave(case: Case) -> tuple[Statistics, Callable[[Array], Array]]:
    """Random smooth l, a and b, and l', which sends lambdas (m,) to (m, 1)."""
    l, a, b = case.rng.uniform(0.2, 0.8, 3)
    given = Statistics(
        lambda u: l + 0.3 * np.sin(u)[:, None],
        lambda u: a * np.cos(u)[:, None],
        lambda u: b * np.cos(2 * u)[:, None],
        lambda u: l * u[:, None] - 0.3 * np.cos(u)[:, None],
        lambda u: a * np.sin(u)[:, None],
    )
    return given, lambda u: 0.3 * np.cos(u)[:, None]


def without(given: Statistics) -> Statistics:
    """The same l as in the given statistics, with a = b = 0."""
    zero = linear(0.0)
    return Statistics(given.linear, zero.scaling, zero.bias, given.linear_integral, zero.scaling_integral)


def gaussian(case: ModelCase) -> bool:
    """One Gaussian, one smooth schedule."""
    return one_gaussian(case) and smooth(case)


def aligned(case: ModelCase) -> bool:
    """A Gaussian along the axes."""
    covariance = case.law.cov()
    return gaussian(case) and not (covariance - np.diag(np.diagonal(covariance))).any()


def ends(case: ModelCase) -> tuple[Schedule, float, float]:
    """The schedule, and lambda at the start and at the end of a step."""
    schedule = case.process.schedules[0]
    return schedule, float(schedule.log_snr(case.t)), float(schedule.log_snr(case.s))


# ---------------------------------------------------------------------- the equation


@identity(
    "The modified linear part",
    topic=TOPIC,
    formula=r"\frac{dx}{d\lambda} = \Big(\frac{d\log\alpha}{d\lambda} - \ell\Big)x - (\sigma\epsilon^* - \ell x)"
    r"\quad\forall\,\ell\in\mathbb{R}^D",
    covers=["PODC9-38"],
    refutes=["PODC9-40"],
    control="dx = L x + N with the same N, as the text goes on",
    needs=scalar,
)
def modified(case: ModelCase, wrong: bool) -> Sides:
    """The velocity by Bayes over lambda' against L x - N with the score, for a random diagonal l."""
    c, x = case.process.coefficients(case.t), case.x
    l, denoiser = case.rng.standard_normal(case.law.dim), case.model.denoiser(case.x, case.t)
    rate = -c.g2 / (2 * c.sigma**2)
    velocity = c.dalpha * denoiser + c.dvariance / (2 * c.sigma**2) * (x - c.alpha * denoiser)
    rest = -(c.sigma**2) * case.model.score(x, case.t) - l * x
    size = sizes(c, x, denoiser).velocity / abs(rate) + np.abs(l).max() * np.abs(x).max()
    size = size + abs(c.f / rate) * np.abs(x).max() + np.abs(x).max() + c.alpha * np.abs(denoiser).max()
    return Sides(velocity / rate, (c.f / rate - l) * x + (rest if wrong else -rest), size)


@identity(
    "Variation of constants with any linear part",
    topic=TOPIC,
    formula=r"x_t = E(\lambda_s, \lambda_t)x_s - \int_{\lambda_s}^{\lambda_t}E(\lambda, \lambda_t)N\,d\lambda,\quad"
    r" E(r, t) = e^{+\int_r^t L};\qquad \tilde x_t = E x_s - N_s\int E(\lambda, \lambda_t)d\lambda",
    covers=["PODC9-40"],
    refutes=["PODC9-40"],
    control="the kernel E(lambda, lambda_s)",
    evidence=QUADRATURE,
    needs=gaussian,
)
def variation(case: ModelCase, wrong: bool) -> list[Sides]:
    """Quadrature along the exact flow of a Gaussian against its end; the sampler's frozen step against quadrature."""
    schedule, first, last = ends(case)
    given, carry = without(wave(case)[0]), flow_map(case.model)
    u, w = legendre(64)
    lams = first + u * (last - first)
    times = schedule.time_of_log_snr(lams)
    path = [carry(case.x, case.t, float(t)) for t in times]
    noise = np.array([schedule.sigma(t) * case.model.noise(y, float(t)) for y, t in zip(path, times, strict=True)])
    rest = noise - given.linear(lams)[:, :, None] * np.array(path)

    def factor(start: Array, end: float) -> Array:
        grown = given.linear_integral(start) - given.linear_integral(np.array([end]))
        return np.asarray(
            schedule.alpha(schedule.time_of_log_snr(end)) / schedule.alpha(schedule.time_of_log_snr(start))
        )[:, None] * np.exp(grown)

    kernel = factor(lams, first if wrong else last)[:, 0] * w * (last - first)
    gain = factor(np.array([first]), last)[0, 0]
    exact = carry(case.x, case.t, case.s)
    start = schedule.sigma(case.t) * case.model.noise(case.x, case.t) - given.linear(np.array([first]))[0] * case.x
    frozen = sample_dpm_solver_v3(case.process, case.model, case.x, [case.t, case.s], statistics=given, order=1)
    size = gain * np.abs(case.x).max() + np.abs(kernel).sum() * np.abs(rest).max()
    return [
        Sides(gain * case.x - np.tensordot(kernel, rest, axes=1), exact, size),
        Sides(gain * case.x - kernel.sum() * start, frozen, size),
    ]


@identity(
    "The first-order error of a frozen step",
    topic=TOPIC,
    formula=r"\tilde x_t - \Psi(x_s) = -\int E(\lambda, \lambda_t)(\lambda_s - \lambda)N^{(1)}d\lambda + O(h^3):\quad"
    r" \frac{\tilde x_t - \Psi(x_s)}{h^2}\to\tfrac{1}{2}N^{(1)},\qquad N = \sigma\epsilon^* - \ell x",
    covers=["PODC9-41"],
    refutes=["PODC9-41"],
    control="the sign of the text, whose N enters the equation with another sign than it is defined",
    evidence=ORDER,
    needs=lambda case: gaussian(case) and case.law.dim <= 5,
)
def first_order_error(case: ModelCase, wrong: bool) -> Sides:
    """Steps of h = 0.2, 0.1, ... from the exact flow, extrapolated, against dN/dlambda from the acceleration."""
    schedule, first, _ = ends(case)
    given, slope = wave(case)
    given, carry = without(given), flow_map(case.model)
    at, ratios = np.array([first]), []
    for k in range(4):
        h = 0.2 / 2**k
        end = float(schedule.time_of_log_snr(first + h))
        frozen = sample_dpm_solver_v3(case.process, case.model, case.x, [case.t, end], statistics=given, order=1)
        ratios.append((frozen - carry(case.x, case.t, end)) / h**2)
    n, rate = nonlinear_part(case.model, case.x, case.t, given.linear(at)[0], slope(at)[0])
    return Sides(extrapolate(ratios), -rate / 2 if wrong else rate / 2, np.abs(rate).max() + np.abs(n).max())


# ---------------------------------------------------------------------- the statistics


@identity(
    "The best linear part",
    topic=TOPIC,
    formula=r"\ell^*_d = \mathbb{E}\,\sigma\,\partial_d\epsilon^*_d = 1 -"
    r" \frac{\alpha^2}{\sigma^2}\mathbb{E}\,\text{Cov}(x_0|x)_{dd} = \mathbb{E}\,\epsilon_d^{*2}\in[0, 1],\quad"
    r" \mathbb{E}|\nabla N_{\ell^* + \delta}|^2 - \mathbb{E}|\nabla N_{\ell^*}|^2 = |\delta|^2",
    covers=["PODC9-39"],
    control="alpha / sigma without the square",
    evidence=QUADRATURE,
    needs=lambda case: scalar(case) and small(case) and case.law.count <= 25,
    most=6,
)
def best_linear_part(case: ModelCase, wrong: bool) -> list[Sides]:
    """The Hessian's expectation, Bayes' variances, the squared noise and the loss itself, by sums over x_t."""
    c, nodes = case.process.coefficients(case.t), grid(case, case.t)
    ratio = c.alpha / c.sigma if wrong else (c.alpha / c.sigma) ** 2
    best = linear_part(case.model, nodes.x, nodes.weights, case.t)
    gradients = np.eye(case.law.dim) - c.alpha * case.model.denoiser_jacobian(nodes.x, case.t)  # of sigma eps
    shift = case.rng.standard_normal(case.law.dim)

    def loss(l: Array) -> Array:
        return nodes.mean(((gradients - np.diag(l)) ** 2).sum(axis=(1, 2)))

    size = 1 + c.alpha**2 / c.sigma**2 * np.trace(case.law.cov())
    sides = [
        Sides(best, 1 - ratio * nodes.mean(nodes.variance), size),
        Sides(best, nodes.mean(nodes.answer("noise") ** 2), size),
        Sides(best, np.clip(best, 0, 1), size),
        Sides(loss(best + shift) - loss(best), (shift**2).sum(), loss(best + shift)),
    ]
    if case.law.count == 1:
        v = c.alpha**2 * np.diagonal(case.law.cov()) + c.sigma**2
        sides += [Sides(best, c.sigma**2 / v, 1.0)] if aligned(case) else []
    return sides


@identity(
    "The best parameterization by least squares",
    topic=TOPIC,
    formula=r"(a^*, b^*) = \arg\min\mathbb{E}|N^{(1)} - (aN + b)|^2:\quad a^* ="
    r" \frac{\text{Cov}(N^{(1)}, N)}{\text{Var}\,N},\quad b^* = \mathbb{E}N^{(1)} - a^*\mathbb{E}N",
    covers=["PODC9-42"],
    control="Cov(N, N') over Var N' in place of Var N",
    evidence=QUADRATURE,
    needs=lambda case: smooth(case) and small(case) and 1 < case.law.count <= 25,
    most=5,
)
def best_parameterization(case: ModelCase, wrong: bool) -> list[Sides]:
    """Covariances by moments of (x_0, eps) against the orthogonal factors of the weighted least-squares problem."""
    nodes, l = joint(case, case.t), case.rng.uniform(0.2, 0.8, case.law.dim)
    n, rate = nonlinear_part(case.model, nodes.xt, case.t, l, np.zeros(case.law.dim))
    found = least_squares(rate, n, nodes.weights) if wrong else least_squares(n, rate, nodes.weights)
    root, sides = np.sqrt(nodes.weights), []
    for d in range(case.law.dim):
        columns = np.stack([root * n[:, d], root], axis=1)
        q, r = np.linalg.qr(columns)
        solution = np.linalg.solve(r, q.T @ (root * rate[:, d]))
        sides.append(Sides(found[:, d], solution))
    return sides


@identity(
    "The rate of the nonlinear part along the flow",
    topic=TOPIC,
    formula=r"\frac{d}{d\lambda}\big[\sigma\epsilon^* - \ell x\big] = \sigma\Big[\Big(\frac{d\log\alpha}{d\lambda} -"
    r" 1\Big)\epsilon^* + \frac{d\epsilon^*}{d\lambda}\Big] - \ell'x - \ell\frac{dx}{d\lambda}",
    covers=["PODC9-41", "PODC9-42"],
    control="the term of l' left out",
    evidence=DERIVATIVE,
    needs=lambda case: gaussian(case) and case.law.dim <= 5,
)
def rate_along_the_flow(case: ModelCase, wrong: bool) -> list[Sides]:
    """N from the velocity; its rate by the acceleration against a stencil along the exact flow of a Gaussian."""
    schedule, first, _ = ends(case)
    (given, slope), carry = wave(case), flow_map(case.model)

    def n(u: float) -> Array:
        t = float(schedule.time_of_log_snr(first + u))
        x = carry(case.x, case.t, t)
        return np.asarray(schedule.sigma(t) * case.model.noise(x, t) - given.linear(np.array([first + u]))[0] * x)

    at = np.array([first])
    dl = 0 * slope(at)[0] if wrong else slope(at)[0]
    value, rate = nonlinear_part(case.model, case.x, case.t, given.linear(at)[0], dl)
    # the stencil reaches four steps towards the noise, where lambda ends
    h = min(0.02, (first - float(schedule.log_snr(schedule.T))) / 5)
    size = np.abs(rate).max() + np.abs(value).max() + np.abs(case.x).max()
    # dx/dlambda = (log alpha)' x - l x - N
    c, speed = schedule.coefficients(case.t), float(schedule.dlog_snr(case.t))
    rest = (c.f * case.x - case.model.velocity(case.x, case.t)) / speed - given.linear(at)[0] * case.x
    return [Sides(rate, derivative(n, 0.0, h), size), Sides(value, rest, size)]


@identity(
    "Statistics tabulated in advance",
    topic=TOPIC,
    formula=r"\ell^*, a^*, b^* \text{ on a grid in } \lambda:\quad \int\ell,\ \int a,\ \int e^{-\int a}b\ \text{ from"
    r" the table}",
    covers=["PODC9-48"],
    control="int l without the half before the logarithm",
    evidence=QUADRATURE,
    needs=lambda case: aligned(case) and case.law.dim == 1 and small(case),
)
def tabulated_statistics(case: ModelCase, wrong: bool) -> list[Sides]:
    """Expectations on a grid of x, tabulated at Chebyshev nodes of lambda, against a Gaussian's closed forms."""
    _, first, last = ends(case)
    exact = gaussian_statistics(case.law, case.process)
    # l has its poles pi / 2 away from the real line: with so many nodes for a length its series ends below 1e-12, and
    # the derivative that b needs amplifies rounding by the square of their number, to 1e-10
    found = optimal_statistics(case.model, case.t, case.s, count=30 + int(10 * (last - first)))
    lams, both = np.linspace(first, last, 7), np.array([first, last])
    integral = np.diff(found.linear_integral(both), axis=0)
    if wrong:  # lambda - log(1 + e^{2 lambda} S) for lambda - log(1 + e^{2 lambda} S) / 2
        integral = 2 * integral - (last - first)
    u, w = legendre(64)
    inner = first + u * (last - first)
    bias = (last - first) * (w @ found.bias(inner))  # a = 0
    expected = (last - first) * (w @ exact.bias(inner))
    size = np.abs(exact.bias(lams)).max() + np.abs(exact.linear(lams)).max()
    return [
        Sides(found.linear(lams), exact.linear(lams), 1.0),
        Sides(found.bias(lams), exact.bias(lams), size),
        Sides(integral, np.diff(exact.linear_integral(both), axis=0), last - first),
        Sides(bias, expected, size * (last - first)),
    ]


@identity(
    "Statistics from draws",
    topic=TOPIC,
    formula=r"\frac{1}{n}\sum_i\sigma\,\partial\epsilon^*(x_i)\to 1 -"
    r" \frac{\alpha^2}{\sigma^2}\mathbb{E}\,\text{Var}(x_0|x),\qquad x_i\sim p_\lambda",
    covers=["PODC9-48"],
    control="the share alpha^2 / sigma^2 Var(x_0|x) in place of one less it",
    evidence=MONTE_CARLO,
    needs=lambda case: (
        scalar(case) and case.law.dim == 1 and 1 < case.law.count <= 25 and not case.law.covariances.singular
    ),
)
def drawn_statistics(case: ModelCase, wrong: bool) -> Sides:
    """The sampler's mean over 20000 draws against Bayes' variances summed over x_t, in standard errors.

    What is averaged is bounded: the mean of so many is normal, and beyond 7 standard errors once in 4e11 draws.
    """
    c, nodes, count = case.process.coefficients(case.t), grid(case, case.t), 20_000
    x = case.model.sample(count, case.t, case.rng)
    found = linear_part(case.model, x, np.full(count, 1 / count), case.t)[0]
    error = (c.sigma**2 * case.model.hessian(x, case.t)).std() / np.sqrt(count)
    exact = 1 - (c.alpha / c.sigma) ** 2 * nodes.mean(nodes.variance)[0]
    return Sides((1 - found if wrong else found) / error, exact / error, 1.0)
