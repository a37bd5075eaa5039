r"""DPM-Solver-v3: its steps.

    N_new = e^{-A} N - B,   A = int a,   B = int e^{-A} b,      x_t = E x_s - int E(lambda, t) e^A (N_new + B) dlambda

with N_new a polynomial through its values at lambda_s and at the evaluations before. On alpha = 1 (EDM) constant l, a
and b leave integrals of exponentials, which are written out here; a step of the sampler is compared with them, with
its error in terms of N_new', with DDIM, and with the exact flow of Gaussian data.
"""

from __future__ import annotations

from math import factorial

import numpy as np

from refdiff.arguments import Array
from refdiff.processes.affine import motion
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.dpm_solver_v3 import Statistics, dpm_solver_v3, sample_dpm_solver_v3, step
from refdiff.samplers.propagation import flow
from refdiff.samplers.v3_statistics import denoiser_statistics, gaussian_statistics, noise_statistics
from refdiff.schedules import VEPower
from refdiff.validation.cases import Case, ModelCase, ProcessCase
from refdiff.validation.identities.dpm_solver_v3 import TOPIC, aligned, linear, without
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import extrapolate, integral

EDM = VEPower(T=1e4)  # alpha = 1, lambda = -log t


@identity(
    "The transformed nonlinear part",
    topic=TOPIC,
    formula=r"N^{\text{new}} = e^{-A}N - \int e^{-A}b,\quad N^{\text{new}\prime} = e^{-A}[N' - (aN + b)],\quad N ="
    r" e^{A}\Big[N^{\text{new}} + \int e^{-A}b\Big]",
    covers=["PODC9-43"],
    refutes=["PODC9-43"],
    over="once",
    control="the last integral without its factor e^A, as printed in the first line of the inversion",
    evidence=QUADRATURE,
)
def transformed(case: Case, wrong: bool) -> list[Sides]:
    """N from the integral of the rate of N_new, and a frozen step of the sampler against its closed form."""
    a, l, p, q = case.rng.uniform(0.3, 1.0, 4)
    s, h = -0.4, 0.7

    def n(lam: Array) -> Array:
        return np.asarray(np.sin(2 * lam) + p * lam)

    def b(lam: Array) -> Array:
        return np.asarray(q * np.cos(lam))

    def decay(lam: Array) -> Array:  # A of a (1 + cos) / 2
        return np.asarray(np.exp(-a * (lam - s + np.sin(lam) - np.sin(s)) / 2))

    def rate(lam: Array) -> Array:
        return np.asarray(decay(lam) * (2 * np.cos(2 * lam) + p - a * (1 + np.cos(lam)) / 2 * n(lam) - b(lam)))

    end = np.array(s + h)
    shift = integral(lambda r: decay(r) * b(r), s, s + h)
    new = n(np.array(s)) + integral(rate, s, s + h)
    inverse = new / decay(end) + (shift if wrong else shift / decay(end))
    # the frozen step, with constant l, a and b = q
    frozen, start = step(EDM, s + h, [s], linear(l, a, q)), case.rng.standard_normal(2)
    grown = (np.exp(a * h) - np.exp(-l * h)) / (a + l)
    offset = q / a * (grown + np.expm1(-l * h) / l)
    expected = np.exp(-l * h) * start[0] - grown * start[1] - offset
    found = frozen.gain[0] * start[0] - frozen.weights[0][0] * start[1] - frozen.offset[0]
    return [
        Sides(new, decay(end) * n(end) - shift, 3.0),
        Sides(inverse, n(end), 3.0),
        Sides(found, expected, np.abs(start).sum() + q),
    ]


@identity(
    "Derivatives from a Vandermonde system",
    topic=TOPIC,
    formula=r"R_n\begin{pmatrix}N'/1!\\ \vdots\\ N^{(n)}/n!\end{pmatrix} = \begin{pmatrix}N(\lambda_{i_1}) -"
    r" N(\lambda_s)\\ \vdots\end{pmatrix},\quad (R_n)_{kj} = \delta_k^j:\quad \text{exact for polynomials of}"
    r" \text{ degree } n",
    covers=["PODC9-44"],
    refutes=["PODC9-44"],
    over="once",
    control="the right-hand side in the order of the printed example",
)
def vandermonde(case: Case, wrong: bool) -> list[Sides]:
    """Derivatives of a random polynomial; its integral over a step by the sampler's weights."""
    sides = []
    for n in (1, 2, 3):
        poly = np.polynomial.Polynomial(case.rng.standard_normal(n + 1))
        deltas, s = -np.cumsum(case.rng.uniform(0.2, 0.5, n)), 0.3
        right = poly(s + deltas) - poly(s)
        found = np.linalg.solve(deltas[:, None] ** np.arange(1, n + 1), right[::-1] if wrong else right)
        exact = [poly.deriv(k)(s) / factorial(k) for k in range(1, n + 1)]
        sides.append(Sides(found, exact, np.linalg.cond(deltas[:, None] ** np.arange(1, n + 1)) * np.abs(exact).max()))
        nodes = [s, *(s + deltas)]
        weights = np.array(step(EDM, s + 0.4, nodes, linear(0.0)).weights)[:, 0]
        area = poly.integ()(s + 0.4) - poly.integ()(s)
        sides.append(Sides(weights @ poly(np.array(nodes)), area, np.abs(weights) @ np.abs(poly(np.array(nodes)))))
    return sides


@identity(
    "Local errors of the higher orders",
    topic=TOPIC,
    formula=r"\tilde x_t - \Psi(x_s) = c_n h^{n+2}N^{(n+1)} + O(h^{n+3}),\qquad c = \tfrac{1}{2}, \tfrac{5}{12},"
    r" \tfrac{3}{8}, \tfrac{251}{720}",
    covers=["PODC9-44", "PODC9-41"],
    over="once",
    control="an error of h^(n+1) only, one power less",
    evidence=ORDER,
)
def local_errors(case: Case, wrong: bool) -> list[Sides]:
    """Steps on N = sin with l = a = b = 0 and equal steps before, extrapolated, against the constants of Adams."""
    s, sides = float(case.rng.uniform(0.2, 1.2)), []
    for n, constant in enumerate((1 / 2, 5 / 12, 3 / 8, 251 / 720)):
        ratios = []
        for h in 0.4 / 2.0 ** np.arange(5):
            nodes = [s - j * h for j in range(n + 1)]
            weights = np.array(step(EDM, s + h, nodes, linear(0.0)).weights)[:, 0]
            area = np.cos(s) - np.cos(s + h)
            ratios.append(np.asarray((area - weights @ np.sin(nodes)) / h ** (n + 1 if wrong else n + 2)))
        slope = (np.cos(s), -np.sin(s), -np.cos(s), np.sin(s))[n]
        sides.append(Sides(extrapolate(ratios), constant * slope, 1.0))
    return sides


@identity(
    "The error of a step of higher order",
    topic=TOPIC,
    formula=r"\tilde x_t - \Psi = \int\Big(\int_{\lambda_s}^{\lambda}N^{\text{new}\prime}\Big)E\,d\lambda -"
    r" \sum_{k=1}^n\sum_j (R_n^{-1})_{kj}\int_{\lambda_s}^{\lambda_{i_j}}N^{\text{new}\prime}\int E\,(\lambda -"
    r" \lambda_s)^k\,d\lambda\quad\big(\tfrac{dx}{d\lambda} = Lx - N\big)",
    covers=["PODC9-45"],
    refutes=["PODC9-45"],
    over="once",
    control="Proposition 9.7.1 as printed: the sign of the first term, and without k!",
    evidence=QUADRATURE,
)
def higher_order_error(case: Case, wrong: bool) -> list[Sides]:
    """The sampler's step on N_new = sin 2u + 0.3 u^2 less the exact integral, against the proposition; n = 1, 2, 3."""
    l, a, b = case.rng.uniform(0.2, 0.9, 3)
    s, h, sides = 0.2, 0.6, []
    t = s + h

    def new(u: Array) -> Array:
        return np.asarray(np.sin(2 * u) + 0.3 * u**2)

    def kernel(u: Array) -> Array:
        return np.asarray(np.exp(-l * (t - u)) * np.exp(a * (u - s)))

    def shift(u: Array) -> Array:
        return np.asarray(-b * np.expm1(-a * (u - s)) / a)

    exact = np.exp(-l * h) - integral(lambda u: kernel(u) * (new(u) + shift(u)), s, t)  # from x_s = 1
    for n in (1, 2, 3):
        deltas = -np.cumsum(case.rng.uniform(0.2, 0.4, n))
        nodes = s + np.concatenate([[0.0], deltas])
        found = step(EDM, t, nodes.tolist(), linear(l, a, b))
        values = np.exp(a * (nodes - s)) * (new(nodes) + shift(nodes))
        made = found.gain[0] - sum(w[0] * v for w, v in zip(found.weights, values, strict=True)) - found.offset[0]
        inverse = np.linalg.inv(deltas[:, None] ** np.arange(1, n + 1))
        differences = new(nodes[1:]) - new(nodes[:1])
        first = integral(lambda u: (new(u) - new(np.array(s))) * kernel(u), s, t)
        rest = 0.0
        for k in range(1, n + 1):
            moment = integral(lambda u, k=k: (u - s) ** k * kernel(u), s, t)  # type: ignore[misc]
            rest += float(inverse[k - 1] @ differences * moment) / (factorial(k) if wrong else 1)
        # the printed form, for dx/dlambda = L x + N, has a plus before the first term; here all signs are turned
        sides.append(Sides(made - exact, -first - rest if wrong else first - rest, 1 + np.abs(values).max()))
    return sides


@identity(
    "Old parameterizations as special cases",
    topic=TOPIC,
    formula=r"(\ell, a, b) = \Big(0, \frac{d\log\sigma}{d\lambda}, 0\Big)\ (\epsilon),\quad \Big(1,"
    r" \frac{d\log\alpha}{d\lambda}, 0\Big)\ (x):\quad \text{the first-order step is DDIM}",
    covers=["PODC9-46"],
    refutes=["PODC9-46"],
    over="processes",
    control="(0, -1, 0) and (1, 0, 0) for every schedule",
    most=6,
)
def special_cases(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The table of two steps against DDIM's, for a model that answers the noise; a against alpha' and sigma'."""
    times = [case.t, (case.s + case.t) / 2, case.s]
    start, outputs, _ = to_prediction(ddim(case.process, times), "noise").unroll()
    given: tuple[Statistics, Statistics] = (noise_statistics(case.process), denoiser_statistics(case.process))
    if wrong:
        given = (linear(0.0, -1.0), linear(1.0, 0.0))
    c, lam = case.schedule.coefficients(case.t), np.atleast_1d(case.schedule.log_snr(case.t))
    speed = case.schedule.dlog_snr(case.t)
    rates = (c.dsigma / c.sigma / speed, c.dalpha / c.alpha / speed)
    sides = []
    for statistics, rate in zip(given, rates, strict=True):
        sides.append(Sides(statistics.scaling(lam)[0, 0], rate, 1.0))
        one, others, _ = dpm_solver_v3(case.process, times, statistics=statistics, order=1).unroll()
        sides += [Sides(one, start), Sides(others, outputs)]
    return sides


@identity(
    "DPM-Solver-v3 is exact for Gaussian data",
    topic=TOPIC,
    formula=r"x_0\sim\mathcal{N}(m, S):\quad \ell^* = \frac{\sigma^2}{V},\ N = -\frac{\sigma^2\alpha m}{V},\ a = 0,"
    r" \ b = N':\quad \tilde x_t = \alpha_t m + \sqrt{V_t/V_s}\,(x_s - \alpha_s m)",
    covers=["PODC9-47"],
    control="b = 0",
    needs=aligned,
)
def exact(case: ModelCase, wrong: bool) -> list[Sides]:
    """One step, and three of order 2, against the exact flow."""
    statistics = gaussian_statistics(case.law, case.process)
    statistics = without(statistics) if wrong else statistics
    one, two = case.process.coefficients(case.t), case.process.coefficients(case.s)
    gain, offset = flow(motion(one), motion(two), case.law.mean(), np.diagonal(case.law.cov()))
    target, sides = gain * case.x + offset, []
    # what a step adds up: x_s and the noise, carried by at most alpha_t / alpha_s
    size = np.abs(target).max() + two.alpha / one.alpha * np.abs(case.x).max()
    for steps, order in ((1, 1), (3, 2)):
        times = np.linspace(case.t, case.s, steps + 1)
        found = sample_dpm_solver_v3(case.process, case.model, case.x, times, statistics=statistics, order=order)
        sides.append(Sides(found, target, size))
    return sides
