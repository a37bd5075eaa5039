r"""Multistep samplers: Adams-Bashforth, LMS, DEIS and iPNDM against integrals, divided differences and error constants.

    x_t = (alpha_t / alpha_s) x_s + sum_j C_j eps_j,     C_j = (1/2) int_s^t (g^2 / sigma)(alpha_t / alpha_tau) l_j dtau
    sum_j C_j = alpha_t (rho_t - rho_s),                 rho = sigma / alpha,  y = x / alpha,  dy/drho = eps

For Gaussian data of variance v, y = m + c sqrt(v + rho^2) along the flow, whose derivatives are closed. With steps of
length h in rho (from noise to data, h < 0) the Adams-Bashforth method of degree n leaves

    local error     gamma_{n+1} h^(n+2) y^(n+2),     gamma = 1/2, 5/12, 3/8, 251/720
    global error    h^(n+1) gamma_{n+1} int y^(n+2)(r) Phi(r) dr        with the first n values exact
    ramp            h^2 y''(rho_0) Phi(rho_0) / 2 and more for n >= 2: the one step of degree 0 caps the order at 2

with Phi(r) = sqrt((v + rho_end^2) / (v + r^2)), by which the flow carries an error to the end.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import Polynomial

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.samplers.adams import adams_bashforth, lms
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.deis import VARIANTS, deis, noise_weights
from refdiff.samplers.numbers import lagrange
from refdiff.samplers.pndm import ipndm
from refdiff.samplers.propagation import propagate
from refdiff.samplers.recorder import Recorder
from refdiff.schedules import FlowMatching, VEPower
from refdiff.validation.cases import Case, ProcessCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import extrapolate, legendre

TOPIC = "Multistep samplers"
# what the Adams-Bashforth method of degree n leaves of int eps, over h^(n+2) eps^(n+1)
GAMMA = (1 / 2, 5 / 12, 3 / 8, 251 / 720)
COUNTS = (8, 16, 32, 64)


def uneven(case: ProcessCase) -> Array:
    """Times (5,) from the case's t to its s, in steps of different length."""
    return np.asarray(case.t + (case.s - case.t) * np.array([0.0, 0.2, 0.35, 0.6, 1.0]))


def root_derivatives(v: float, r: Array | float) -> list[Array]:
    """sqrt(v + r^2) and its first five derivatives in r, each of the shape of r."""
    r = np.asarray(r, dtype=float)
    q, found, numerator = v + r**2, [], Polynomial([1.0])
    # d^k sqrt(q) = P_k(r) q^(1/2 - k) with P_{k+1} = P_k' q + (1 - 2k) r P_k
    for k in range(6):
        found.append(np.asarray(numerator(r) * q ** (0.5 - k)))
        numerator = numerator.deriv() * Polynomial([v, 0, 1]) + (1 - 2 * k) * Polynomial([0, 1]) * numerator
    return found


class Bed:
    """Gaussian data in EDM, where rho = t, and one trajectory y = m + sqrt(v + rho^2) of its flow."""

    def __init__(self, case: Case) -> None:
        self.v, self.mean = 0.2 + 0.3 * case.rng.random(), case.rng.standard_normal()
        self.first, self.last = 0.7 + 0.1 * case.rng.random(), 0.3
        self.law, self.process = Gaussian([self.mean], self.v), VEPower()

    def error(self, degree: int, times: Array, until: float | None = None) -> Array:
        """Exact flow less rhoAB-DEIS on times (n + 1,), a scalar at the end; stages at `until` and before are exact."""
        table = deis(self.process, times, degree=degree, clock="rho")
        found = propagate(table, self.law, exact_until=until).channel()
        start, end = (self.mean + np.sqrt(self.v + t**2) for t in (times[0], times[-1]))
        return np.asarray(end - (np.ravel(found.gain)[0] * start + np.ravel(found.offset)[0]))

    def carried(self, r: Array | float) -> Array:
        """Phi(r), of the shape of r."""
        return np.asarray(np.sqrt((self.v + self.last**2) / (self.v + np.asarray(r) ** 2)))


@identity(
    "Lagrange polynomials: partition of unity, reproduction, barycentric form",
    topic=TOPIC,
    formula=r"\sum_j \ell_j = 1,\quad \sum_j p(x_j)\ell_j = p\ (\deg p \le n),\quad \ell_j(x) = \frac{w_j/(x -"
    r" x_j)}{\sum_i w_i/(x - x_i)},\ w_j = \prod_{i \ne j}\frac{1}{x_j - x_i}",
    covers=["PODC9-18"],
    over="once",
    control="the polynomials of equally spaced nodes",
)
def lagrange_basis(case: Case, wrong: bool) -> list[Sides]:
    """Products of differences against a polynomial's own coefficients, the barycentric quotient and degrees 0..2."""
    rng, sides = case.rng, []
    for count in (1, 2, 3, 5):
        nodes = np.cumsum(0.3 + rng.random(count))
        x, p = nodes[-1] + rng.random(4), Polynomial(rng.standard_normal(count))
        used = np.linspace(nodes[0], nodes[0] + 2.0, count) if wrong else nodes
        values = np.array([np.broadcast_to(value, x.shape) for value in lagrange(list(used), x)])
        size = np.abs(values).sum(axis=0)
        inverse = np.array([1 / np.prod(np.delete(own - nodes, j)) for j, own in enumerate(nodes)])
        quotient = inverse[:, None] / (x - nodes[:, None])
        sides += [
            Sides(values.sum(axis=0), 1.0, size),
            Sides(p(nodes) @ values, p(x), size * np.abs(p(nodes)).max()),
            Sides(values, quotient / quotient.sum(axis=0), size * np.abs(quotient).sum() / np.abs(quotient.sum())),
        ]
        if count == 2:
            a, b = nodes
            sides.append(Sides(values, [(x - b) / (a - b), (x - a) / (b - a)], size))
        if count == 3:
            a, b, c = nodes
            sides.append(Sides(values[1], (x - a) * (x - c) / ((b - a) * (b - c)), size))
    return sides


@identity(
    "The weights of DEIS are the integrals of the Lagrange basis",
    topic=TOPIC,
    formula=r"C_j = \frac{1}{2}\int_s^t \frac{g_\tau^2}{\sigma_\tau}\frac{\alpha_t}{\alpha_\tau}\ell_j(c(\tau))\,d\tau,"
    r"\qquad c = t,\ \sigma/\alpha,\ \lambda",
    covers=["PODC9-19"],
    over="processes",
    control="the ratio alpha_tau / alpha_t",
    evidence=QUADRATURE,
    needs=smooth,
    most=12,
)
def deis_weights(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Every row of a table that ramps from degree 0 to 3 against 64-point quadrature of the printed integrand."""
    schedule, times, sides = case.schedule, uneven(case), []
    u, w = legendre()
    values = {"t": lambda t: t, "rho": lambda t: schedule.sigma(t) / schedule.alpha(t), "log_snr": schedule.log_snr}
    for clock in VARIANTS:
        table = to_prediction(deis(schedule, times, degree=3, clock=clock), "noise")
        span = np.ptp(values[clock](times))
        for k in range(1, 5):
            tau = times[k - 1] + (times[k] - times[k - 1]) * u
            c, end = schedule.coefficients(tau), schedule.alpha(times[k])
            ratio = c.alpha / end if wrong else end / c.alpha
            kernel = w * (times[k] - times[k - 1]) * c.g2 / (2 * c.sigma) * ratio
            # polynomials through unit values, fitted: no product of differences is formed
            nodes = values[clock](times[k - 1 :: -1])
            powers = ((values[clock](tau) - nodes[0]) / span)[:, None] ** np.arange(k)
            basis = np.linalg.solve(np.vander((nodes - nodes[0]) / span, increasing=True).T, powers.T)
            row = table.outputs[k][:k]
            sides.append(Sides(row, basis @ kernel, np.abs(row).sum()))
    return sides


@identity(
    "The weights of DEIS add up to DDIM's; degree 0 is DDIM",
    topic=TOPIC,
    formula=r"\sum_j C_j = \alpha_t\Big(\frac{\sigma_t}{\alpha_t} - \frac{\sigma_s}{\alpha_s}\Big)",
    covers=["PODC9-20", "PODC9-19", "PODC9-37"],
    refutes=["PODC9-37"],
    over="processes",
    control="DEIS of degree 1 as DDIM, the 'DEIS-1' of the table of equalities",
    needs=smooth,
)
def deis_sum(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Quadratures and closed integrals of the basis against a difference of sigma / alpha; tables against DDIM's."""
    times, sides = uneven(case), []
    rec = Recorder("", case.process, times)
    s, t = rec.points[-2:]
    for clock in VARIANTS:
        values = {"t": lambda p: p.t, "rho": lambda p: p.rho, "log_snr": lambda p: p.log_snr}
        nodes = [values[clock](p) for p in rec.points[-2::-1]]
        weights = np.array(noise_weights(rec.affine, s, t, nodes, clock))
        sides.append(Sides(weights.sum(), t.alpha * (t.sigma / t.alpha - s.sigma / s.alpha), np.abs(weights).sum()))
    # x / alpha by Adams-Bashforth of order 1 in sigma / alpha, and DDIM in its own form
    left, right = (table.unroll() for table in (lms(case.process, times, order=2 if wrong else 1),
                                                ddim(case.process, times)))  # fmt: skip
    size = np.abs(right.outputs).sum() + np.abs(right.start).max()
    return [*sides, Sides(left.outputs[-1], right.outputs[-1], size), Sides(left.start[-1], right.start[-1], size)]


@identity(
    "Newton's and Lagrange's forms of the continuation are one",
    topic=TOPIC,
    formula=r"\sum_j \epsilon_j\int\ell_j\,d\rho = \sum_k \epsilon[\rho_0, \dots, \rho_k]\int\prod_{i<k}(\rho -"
    r" \rho_i)\,d\rho",
    covers=["PODC9-37", "PODC9-55"],
    over="processes",
    control="polynomials in t in place of sigma/alpha",
    needs=smooth,
)
def newton_form(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Divided differences of random outputs and integrals of products against the row of the table."""
    times, eps = uneven(case), case.rng.standard_normal(4)
    c = case.schedule.coefficients(times)
    rho, ratio = c.sigma / c.alpha, c.alpha[-1]
    nodes = rho[-2::-1] - rho[-2]
    table = to_prediction(deis(case.process, times, degree=3, clock="t" if wrong else "rho"), "noise")
    row = table.outputs[-1][:4]
    column, step, terms, product = eps.copy(), rho[-1] - rho[-2], [], Polynomial([1.0])
    for k in range(4):
        terms.append(column[0] * product.integ()(step))
        product = product * Polynomial([-nodes[k], 1.0])
        column = np.diff(column) / (nodes[k + 1 :] - nodes[: -k - 1])
    return [Sides(row @ eps, ratio * np.sum(terms), np.abs(row) @ np.abs(eps) + ratio * np.abs(terms).sum())]


@identity(
    "LMS, DEIS in sigma/alpha and iPNDM with uneven steps are one method",
    topic=TOPIC,
    formula=r"w = \Big(1 + \tfrac{h}{2h_1},\ -\tfrac{h}{2h_1},\ 0\Big) + b\Big(1,\ -1 - \tfrac{h_1}{h_2},"
    r"\ \tfrac{h_1}{h_2}\Big),\quad b = \Big(1 - \frac{h}{3(h + h_1)}\Big)\frac{h(h + h_1)}{2h_1(h_1 + h_2)}",
    covers=["PODC9-55", "PODC9-19"],
    over="once",
    control="b = (1 - h/(3(h + h1)) h(h + h1)/(h1(h1 + h2)))/2, right for equal steps only, as the code is published",
)
def uneven_weights(case: Case, wrong: bool) -> list[Sides]:
    """Four tables of a process with rho = t against the explicit weights of three uneven steps."""
    sigmas = np.cumsum(0.2 + case.rng.random(4))[::-1]
    h2, h1, h = np.diff(sigmas)
    first, second = h / (3 * (h + h1)), h * (h + h1) / (h1 * (h1 + h2))
    b = (1 - first * second) / 2 if wrong else (1 - first) * second / 2
    weights = np.array([1 + h / (2 * h1), -h / (2 * h1), 0]) + b * np.array([1, -1 - h1 / h2, h1 / h2])
    tables = [
        lms(VEPower(), sigmas, order=3),
        deis(VEPower(), sigmas, degree=2, clock="rho"),
        ipndm(VEPower(), sigmas, order=3, variable=True),
        adams_bashforth(VEPower(), sigmas, order=3, clock="t"),
    ]
    size = np.abs(h * weights).sum()
    return [Sides(to_prediction(table, "noise").outputs[-1][:3], h * weights, size) for table in tables]


@identity(
    "A step of degree n leaves h to the n + 2",
    topic=TOPIC,
    formula=r"\lim_{h \to 0}\frac{y(\rho + h) - \hat y}{h^{n+2}} = \gamma_{n+1}\,y^{(n+2)}(\rho),\qquad \gamma ="
    r" \tfrac{1}{2}, \tfrac{5}{12}, \tfrac{3}{8}, \tfrac{251}{720}",
    covers=["PODC9-19"],
    refutes=["PODC9-19"],
    over="once",
    control="the error divided by h^(n+1), as printed",
    evidence=ORDER,
)
def local_error(case: Case, wrong: bool) -> list[Sides]:
    """The last of n + 1 equal steps after exact ones, extrapolated, against derivatives of the closed flow."""
    # a place where none of the derivatives passes through zero
    bed, rho, sides = Bed(case), 0.8, []
    for degree in range(4):
        ratios = []
        for h in -0.16 / 2 ** np.arange(5):
            times = rho + h * np.arange(-degree, 2)
            gap = bed.error(degree, times, times[-2])
            ratios.append(gap / h ** (degree + (1 if wrong else 2)))
        sides.append(Sides(extrapolate(ratios), GAMMA[degree] * root_derivatives(bed.v, rho)[degree + 2]))
    return sides


@identity(
    "The global error of degree n with exact first values is of order n + 1",
    topic=TOPIC,
    formula=r"\lim_{h \to 0}\frac{y_{\mathrm{end}} - \hat y_N}{h^{n+1}} = \gamma_{n+1}\int y^{(n+2)}(r)\,\Phi(r)\,dr",
    covers=["PODC9-19"],
    over="once",
    control="the derivative of order n + 1 in the integral",
    evidence=ORDER,
    most=2,
)
def global_error(case: Case, wrong: bool) -> list[Sides]:
    """Errors at N = 8..64 extrapolated, against the quadrature of what each step leaves, carried to the end."""
    bed, sides = Bed(case), []
    u, w = legendre()
    r = bed.first + (bed.last - bed.first) * u
    for degree in range(4):
        ratios = []
        for count in COUNTS:
            times = np.linspace(bed.first, bed.last, count + 1)
            exact = times[degree] if degree else None
            gap = bed.error(degree, times, exact)
            ratios.append(gap / (times[1] - times[0]) ** (degree + 1))
        rate = root_derivatives(bed.v, r)[degree + (1 if wrong else 2)] * bed.carried(r)
        size = GAMMA[degree] * (bed.last - bed.first)
        sides.append(Sides(extrapolate(ratios), size * w @ rate, abs(size) * w @ np.abs(rate)))
    return sides


@identity(
    "A start that ramps up caps the order at 2",
    topic=TOPIC,
    formula=r"n \ge 2:\quad \lim_{h \to 0}\frac{y_{\mathrm{end}} - \hat y_N}{h^2} ="
    r" \tfrac{1}{2}\,y''(\rho_0)\,\Phi(\rho_0)",
    covers=["PODC9-19"],
    refutes=["PODC9-19"],
    over="once",
    control="no term in h^2: the ramp to full order as one that keeps it",
    evidence=ORDER,
)
def ramp(case: Case, wrong: bool) -> list[Sides]:
    """The error of N steps over h^2, extrapolated, against what the one step of degree 0 leaves, carried to the end."""
    bed, sides = Bed(case), []
    for degree in (2, 3):
        ratios = []
        for count in COUNTS:
            times = np.linspace(bed.first, bed.last, count + 1)
            gap = bed.error(degree, times)
            ratios.append(gap / (times[1] - times[0]) ** 2)
        left = root_derivatives(bed.v, bed.first)[2] * bed.carried(bed.first) / 2
        sides.append(Sides(extrapolate(ratios), 0.0 if wrong else left, abs(left)))
    return sides


@identity(
    "Adams-Bashforth integrates a velocity that is a polynomial in time",
    topic=TOPIC,
    formula=r"x(t) = x(s) + \int_s^t v\,d\tau,\qquad v = \tau^m,\ m < k:\quad \hat x(t) - \hat x(s) = \frac{t^{m+1} -"
    r" s^{m+1}}{m + 1}",
    covers=["PODC9-18", "PODD-56"],
    over="once",
    control="the weights of equal steps on uneven ones",
)
def integral_form(case: Case, wrong: bool) -> list[Sides]:
    """The last step of a run with v = t^m against the integral; the table's weights are those of its own grid."""
    times, sides = 0.95 - 0.9 * np.append(0.0, np.cumsum(0.4 + case.rng.random(6))) / 9, []
    for order in (1, 2, 3, 4, 5):
        grid = np.linspace(times[0], times[0] + 6 * (times[6] - times[5]), 7) if wrong else times
        table = to_prediction(adams_bashforth(FlowMatching(), grid, order=order), "velocity")
        weights = table.outputs[-1][:order]
        for m in range(order):
            values = times[-2::-1][:order] ** m
            exact = (times[-1] ** (m + 1) - times[-2] ** (m + 1)) / (m + 1)
            sides.append(Sides(weights @ values, exact, np.abs(weights) @ values))
    return sides
