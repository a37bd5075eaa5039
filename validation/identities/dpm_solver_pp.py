r"""DPM-Solver++: moments, the affine extrapolation of 2M, the errors of its steps, and what clipping changes.

    sigma_t int e^lambda (lambda - lambda_s)^k / k! dlambda = alpha_t h^(k+1) phi_(k+1)(-h)
    beta(h) = (h - 1 + e^-h) / (1 - e^-h) = sum_{n>=1} B_n^+ h^n / n! = h/2 + h^2/12 - h^4/720 + ...

On Gaussian data, with q = alpha^2 s^2 / V and in units of sqrt(V) z (see `dpm_solvers`),

    alpha (D - m) = q,      D' = (1 - q) (D - m),      D'' = (1 - q)(1 - 3q) (D - m),      alpha dD/dx = q

so the errors of one step over h^3 are closed. Those of DPM-Solver-2 and of 2S are opposite numbers.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from scipy.special import bernoulli

from refdiff.arguments import Array
from refdiff.distributions import Empirical
from refdiff.model import ExactModel
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.deis import deis
from refdiff.samplers.dpm_solver import dpm_solver, dpm_solver_multistep, expansion
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp, dpm_solver_pp_multistep
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.running import run
from refdiff.samplers.tableau import Tableau
from refdiff.samplers.times import uniform_log_snr
from refdiff.schedules import VEPower
from refdiff.validation.cases import Case, ModelCase, ProcessCase
from refdiff.validation.conditions import scalar
from refdiff.validation.identities.dpm_solvers import (
    LIMIT,
    Path,
    drawn,
    last_weights,
    moments,
    noise_rates,
    one_step,
    remainder,
)
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import legendre

TOPIC = "DPM-Solver++"


# ---------------------------------------------------------------------- weights


@identity(
    "Exponential moments of the data prediction",
    topic=TOPIC,
    formula=r"\sigma_t\int_{\lambda_s}^{\lambda_t} e^\lambda\frac{(\lambda - \lambda_s)^k}{k!}d\lambda ="
    r" \alpha_t h^{k+1}\varphi_{k+1}(-h),\quad k = 0, 1, 2",
    covers=["PODC9-32"],
    refutes=["PODC9-32"],
    over="processes",
    control="e^lambda_s h^(k+1) phi_(k+1)(h), which holds for k = 0 only",
    evidence=QUADRATURE,
)
def data_moments(case: ProcessCase, wrong: bool) -> Sides:
    """The weights that the sampler is built of against Gauss-Legendre in lambda."""
    rec = Recorder("", case.schedule, [case.t, case.s], "denoiser")
    s, t = rec.points
    h, (u, v) = t.log_snr - s.log_snr, legendre()
    _, w = expansion("denoiser", s, t, 3)
    found = [w[k] * h**k for k in range(3)]
    if wrong:
        closed = [np.expm1(h), np.expm1(h) - h, np.expm1(h) - h - h**2 / 2]
        found = [t.sigma * np.exp(s.log_snr) * part for part in closed]
    node = h * u
    exact = [t.alpha * h * (v @ (np.exp(node - h) * node**k)) / factorial(k) for k in range(3)]
    return Sides(found, exact, np.abs(exact))


@identity(
    "DPM-Solver++'s steps integrate their interpolants",
    topic=TOPIC,
    formula=r"\sum_j w_j p(\lambda_j) = \sigma_t\int_{\lambda_s}^{\lambda_t} e^\lambda p(\lambda)\,d\lambda,\qquad"
    r" \deg p < n;\qquad w_j = \sigma_t\int_{\lambda_s}^{\lambda_t} e^\lambda l_j(\lambda)\,d\lambda",
    covers=["PODC9-32", "PODC9-34", "PODC9-37"],
    over="processes",
    control="half of the parabola's second derivative in 3M, as in the released code",
    evidence=QUADRATURE,
    most=12,
)
def interpolants(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Rows in Newton's form (differences) against quadrature of monomials and of the Lagrange basis."""
    p, one, four = case.schedule, [case.t, case.s], np.linspace(case.t, case.s, 4)
    three = dpm_solver_pp_multistep(p, four, order=3, halved_curvature=wrong)
    two = dpm_solver_pp_multistep(p, four, order=2, solver_type="heun")
    sides = [
        moments(p, dpm_solver_pp(p, one, order=1), case.t, 0),
        moments(p, dpm_solver_pp(p, one, r1=0.4, solver_type="heun"), case.t, 1),
        moments(p, dpm_solver_pp(p, one, order=3, r1=0.3, r2=0.8, solver_type="heun"), case.t, 2),
        moments(p, two, four[2], 1),
        moments(p, three, four[2], 2),
    ]
    start, b = float(p.log_snr(four[2])), p.coefficients(case.s)
    u, v = legendre()
    for table in (two, three):
        w, lam, _ = last_weights(table)
        node = start + (b.log_snr - start) * u
        # l_j by a linear system for its coefficients: a third way to write the same interpolant
        powers = np.vander((lam - start) / (b.log_snr - start), increasing=True)
        basis = np.vander(u, len(lam), increasing=True) @ np.linalg.inv(powers)
        exact = b.sigma * (b.log_snr - start) * ((v * np.exp(node)) @ basis)
        sides.append(Sides(w, exact, np.abs(exact).sum()))
    return sides


@identity(
    "Multistep DPM-Solver is DEIS in lambda",
    topic=TOPIC,
    formula=r"w_j = -\alpha_t\int_{\lambda_s}^{\lambda_t} e^{-\lambda}l_j(\lambda)\,d\lambda:\qquad"
    r"\text{divided differences (Newton)} = \text{cardinal polynomials (Lagrange)}",
    covers=["PODC9-37"],
    over="processes",
    control="DEIS in the schedule's own time, said to be the same whatever the time",
    most=12,
)
def newton_and_lagrange(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Two families written in different bases, converted to one prediction, row by row."""
    p, grid, sides = case.schedule, np.linspace(case.t, case.s, 5), []
    newton = dpm_solver_multistep(p, grid, order=3, solver_type="taylor")
    other = to_prediction(deis(p, grid, degree=2, clock="t" if wrong else "log_snr"), "noise")
    for k in range(1, newton.stages):
        mine, theirs = dict(newton.row(k)[1]), dict(other.row(k)[1])
        found = np.array([mine.get(j, 0.0) for j in range(k)])
        # DEIS asks for the denoiser: multiples of x as large as the change of sigma / alpha cancel
        size = np.abs(found).sum() + newton.states[k, 0] * p.sigma(grid[k - 1])
        sides.append(Sides(found, np.array([theirs.get(j, 0.0) for j in range(k)]), size))
    return sides


@identity(
    "2M's beta and its simplification",
    topic=TOPIC,
    formula=r"D_i = x^*_{i-1} + \beta(h_i)\frac{x^*_{i-1} - x^*_{i-2}}{h_{i-1}},\qquad \beta(h) = \frac{h - 1 +"
    r" e^{-h}}{1 - e^{-h}} = \sum_{n \ge 1}\frac{B_n^+}{n!}h^n,\qquad D^{sim}: \beta = \frac{h}{2}",
    covers=["PODC9-34", "PODC9-35"],
    over="once",
    control="the ratio of the steps inverted: h_{i-1} / h_i",
)
def beta(case: Case, wrong: bool) -> list[Sides]:
    """Weights of the tables against Bernoulli numbers and against h / 2; equal steps give (3/2, -1/2)."""
    schedule, rng, sides = VEPower(T=1e3), case.rng, []
    numbers = bernoulli(40)
    numbers[1] = 1 / 2  # B_1^+
    for h in rng.uniform(0.05, 1.0, 4):
        before = rng.uniform(0.3, 3) * h
        grid = np.exp([before + h, h, 0.0])
        series = sum(numbers[n] * h**n / factorial(n) for n in range(1, 41))
        for kind, share in (("heun", series), ("midpoint", h / 2)):
            w, _, carry = last_weights(dpm_solver_pp_multistep(schedule, grid, solver_type=kind))
            new, old = w / (1 - np.exp(-h))
            slope = share * before / h**2 if wrong else share / before
            sides += [Sides([new, old], [1 + slope, -slope], 1 + 2 * slope), Sides(carry, np.exp(-h))]
    grid = uniform_log_snr(schedule, 2, start=np.exp(1.3), end=0.9)
    w, _, _ = last_weights(dpm_solver_pp_multistep(schedule, grid))
    equal = np.array([1.0, 1.0]) if wrong else np.array([3.0, -1.0])
    return [*sides, Sides(w / w.sum(), equal / 2)]


@identity(
    "2M with beta is exact for an affine prediction",
    topic=TOPIC,
    formula=r"x^* = a + b\lambda:\quad x_t = \frac{\sigma_t}{\sigma_s}x_s + \sigma_t\big[e^\lambda(a + b\lambda -"
    r" b)\big]_{\lambda_s}^{\lambda_t} = x_t^{2M},\qquad x_t^{sim} - x_t = \alpha_t(1 - e^{-h})\Big(\frac{h}{2} -"
    r" \beta(h)\Big)b",
    covers=["PODC9-34", "PODC9-31"],
    over="processes",
    control="the simplified D^sim said to be exact",
)
def affine(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Runs on a prediction that depends on time only, last step against the primitive of e^lambda (a + b lambda)."""
    p, (a, b, x), sides = case.schedule, case.rng.standard_normal(3), []
    grid = np.array([case.t, 0.6 * case.t + 0.4 * case.s, case.s])
    s, t = (p.coefficients(time) for time in grid[1:])
    h = t.log_snr - s.log_snr

    def predict(y: Array, when: float) -> Array:
        return np.full_like(y, a + b * p.log_snr(when))

    for kind in ("heun", "midpoint"):
        table = dpm_solver_pp_multistep(p, grid, solver_type=kind)
        _, middle, end = run(table, predict, np.array([[x]]), trajectory=True).ravel()
        ends = [t.alpha * (a + b * t.log_snr - b), -t.sigma / s.sigma * s.alpha * (a + b * s.log_snr - b)]
        gap = 0.0
        if kind == "midpoint" and not wrong:
            gap = t.alpha * b * (-np.expm1(-h) * h / 2 - (h - 1 + np.exp(-h)))
        # the extrapolation multiplies what it extrapolates by the ratio of the steps
        ratio = 1 + h / (s.log_snr - p.log_snr(grid[0]))
        size = abs(t.sigma / s.sigma * middle) + t.alpha * ratio * (
            abs(a) + abs(b) * (1 + np.abs([s.log_snr, h]).sum())
        )
        sides.append(Sides(end, t.sigma / s.sigma * middle + sum(ends) + gap, size))
    return sides


# ---------------------------------------------------------------------- errors of one step on Gaussian data


def data_rates(q: float) -> Array:
    """alpha (D - m), alpha D', alpha D'' in units of sqrt(V) z, shape (3,)."""
    return q * np.array([1.0, 1 - q, (1 - q) * (1 - 3 * q)])


def multistep_error(path: Path, order: int, **options: Any) -> float:
    """The limit of the error over h^3 of a multistep table's last step after an exact history of equal steps.

    The order and the options are those of the table.
    """

    def end(t: float) -> Array:
        h = path.schedule.log_snr(t) - path.schedule.log_snr(path.t)
        table = dpm_solver_pp_multistep(
            path.schedule, [*(path.later(-k * h) for k in range(order - 1, 0, -1)), path.t, t], order=order, **options
        )
        return last_step(table, path)

    return remainder(path, end, 3)


def last_step(table: Tableau, path: Path) -> Array:
    """The output, shape (1, 1), where all stages before it lie on the exact trajectory."""
    states, outputs, _ = table.row(table.stages - 1)
    times = table.times
    total = sum(w * path.x(times[j]) for j, w in states)
    return np.asarray(total + sum(w * path.model.denoiser(path.x(times[j]), times[j]) for j, w in outputs))


@identity(
    "Local errors of 2S for every r",
    topic=TOPIC,
    formula=r"x_t - \Psi = \alpha h^3\Big[\Big(\frac{r}{4} - \frac16\Big)D'' - \frac{r}{4}\frac{\alpha^2 s^2}{V}D' -"
    r" \frac{D'}{12}[\text{half weight}]\Big] + O(h^4)",
    covers=["PODC9-33", "PODC9-32"],
    over="once",
    control="the half weight said to be the exact one",
    evidence=ORDER,
    tolerance=LIMIT,
)
def single_steps(case: Case, wrong: bool) -> list[Sides]:
    """Tables of 2S, with both weights and the inner point free, run on Gaussian data, against the constants."""
    path = drawn(case)
    (_, first, second), sides = data_rates(path.q), []
    for r in (0.3, 0.5, 1.0):
        for kind, more in (("midpoint", 0.0 if wrong else first / 12), ("heun", 0.0)):
            expected = (r / 4 - 1 / 6) * second - r / 4 * path.q * first - more
            sides.append(Sides(one_step(path, dpm_solver_pp, 3, r1=r, solver_type=kind), expected, path.q))
    return sides


@identity(
    "Solvers of second order by their measured errors",
    topic=TOPIC,
    formula=r"\frac{x_t - \Psi}{\sqrt V z\,h^3}\to\ \frac{qp}{8}\ \text{DPM-Solver-2},\ -\frac{qp}{8}\ \text{2S},"
    r"\ -\frac{qp(2 - 5q)}{4}\ \text{2M},\ \frac{6p^2 - 2p - 3p^3}{6}\ \text{Heun in }\lambda;\qquad p = 1 - q",
    covers=["PODC9-37"],
    refutes=["PODC9-37"],
    over="once",
    control="Heun in log-SNR time = DPM-Solver-2 where the linear term vanishes, and Euler in lambda = DDIM",
    evidence=ORDER,
    tolerance=LIMIT,
)
def measured_table(case: Case, wrong: bool) -> list[Sides]:
    """Tables run on Gaussian data, alpha = 1 so that no linear term is left, against four different constants."""
    path = drawn(case, VEPower(T=1e4))
    q, p = path.q, 1 - path.q
    midpoint, heun = q * p / 8, (6 * p**2 - 2 * p - 3 * p**3) / 6
    sides = [
        Sides(one_step(path, dpm_solver, 3), midpoint, 1.0),
        Sides(one_step(path, dpm_solver_pp, 3), -midpoint, 1.0),
        Sides(multistep_error(path, 2), -q * p * (2 - 5 * q) / 4, 1.0),
        Sides(one_step(path, runge_kutta, 3, method="heun", clock="log_snr"), midpoint if wrong else heun, 1.0),
    ]
    # first order: DDIM is Euler's step in sigma, and in lambda Euler's step is another one
    euler = remainder(path, lambda t: _euler(path, t, in_sigma=False), 2)
    ddim = remainder(path, lambda t: _euler(path, t, in_sigma=True), 2)
    one = one_step(path, dpm_solver, 2, order=1)
    return [*sides, Sides(one, ddim, 1.0), Sides(euler - one, 0.0 if wrong else -noise_rates(q)[0] / 2, 1.0)]


def _euler(path: Path, t: float, in_sigma: bool) -> Array:
    """One plain Euler step in sigma = t or in lambda, where alpha = 1."""
    h = path.schedule.log_snr(t) - path.schedule.log_snr(path.t)
    step = t - path.t if in_sigma else -path.t * h
    return np.asarray(path.x(path.t) + step * path.model.noise(path.x(path.t), path.t))


@identity(
    "Local errors of 2M and 3M with an exact history",
    topic=TOPIC,
    formula=r"x_t - \Psi = -\alpha h^3\Big[\frac{5}{12}D'' + \frac{D'}{12}[\text{half weight}]\Big]\ (2M),\qquad"
    r" O(h^4)\ (3M),\qquad -\frac{\alpha h^3}{12}D''\ (\text{3M with half the second derivative})",
    covers=["PODC9-35", "PODC9-34", "PODC9-37"],
    over="once",
    control="3M of the released code said to be of third order",
    evidence=ORDER,
    tolerance=LIMIT,
)
def multisteps(case: Case, wrong: bool) -> list[Sides]:
    """The last rows of tables on exact states of a Gaussian trajectory against the constants."""
    path = drawn(case)
    _, first, second = data_rates(path.q)
    rows = (
        (multistep_error(path, 2), -5 / 12 * second - first / 12),
        (multistep_error(path, 2, solver_type="heun"), -5 / 12 * second),
        (multistep_error(path, 3), 0.0),
        (multistep_error(path, 3, halved_curvature=True), 0.0 if wrong else -second / 12),
    )
    return [Sides(found, expected, 1.0) for found, expected in rows]


# ---------------------------------------------------------------------- thresholding


@identity(
    "Clipping to the data's range changes nothing without guidance",
    topic=TOPIC,
    formula=r"x^*(x, t) \in \mathrm{conv}\{x_k\} \subset [\min_k x_k, \max_k x_k]:\quad \mathrm{clip}(x^*) = x^*"
    r"\ \text{along every run}",
    covers=["PODC9-36"],
    control="a guided prediction D + 2 (D_c - D), which leaves the range",
    needs=lambda case: isinstance(case.law, Empirical) and scalar(case) and case.law.count < 100,
)
def thresholding(case: ModelCase, wrong: bool) -> Sides:
    """A run of 2M with the exact prediction of a point set against the run with every prediction clipped."""
    low, high = case.law.means.min(axis=0), case.law.means.max(axis=0)
    # the class c: the half of the points that is highest on the first axis
    chosen = case.law.means[:, 0] > np.median(case.law.means[:, 0])
    part = ExactModel(Empirical(case.law.means[chosen]), case.process)

    def predict(y: Array, t: float) -> Array:
        plain = case.model.denoiser(y, t)
        return np.asarray(plain + 2 * (part.denoiser(y, t) - plain) if wrong else plain)

    def clipped(y: Array, t: float) -> Array:
        return np.clip(predict(y, t), low, high)

    table = dpm_solver_pp_multistep(case.process, np.append(np.linspace(case.t, 0.05 * case.t, 8), 0.0))
    return Sides(run(table, clipped, case.x), run(table, predict, case.x))
