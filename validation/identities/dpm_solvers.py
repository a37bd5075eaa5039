r"""DPM-Solver: the weights of its tables, and the leading errors of its steps on Gaussian data.

A step of a table is x_t = carry x_s + sum_j w_j eps(x_j, lambda_j). Where it integrates the polynomial through its
nodes, sum_j w_j (lambda_j - lambda_s)^k / k! = -alpha_t int e^-lambda (lambda - lambda_s)^k / k! dlambda.

Along the flow of N(m, s^2), x = alpha m + sqrt(V) z with a fixed z, and with q = alpha^2 s^2 / V, q' = 2 q (1 - q),

    sigma eps / (sqrt(V) z) = 1 - q,    eps' = -q eps,    eps'' = (3q^2 - 2q) eps,    eps''' = (-4q + 18q^2 - 15q^3) eps

and sigma d eps / dx = 1 - q. So the error of one step over h^3 tends to a number that depends on q alone, in units of
sqrt(V) z, whatever the schedule. With the inner point at lambda_s + gamma h, and h phi_2 as its weight,

    x_t - exact  =  -[(gamma/4 - 1/6) eps'' + gamma/4 (1 - q) eps'] sigma h^3 + O(h^4),

and eps' / 12 more in the bracket where half of h phi_1 is its weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.samplers.conversions import butcher, to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.dpm_solver import dpm_solver, dpm_solver_multistep, expansion
from refdiff.samplers.kdiffusion import dpm2
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import FlowMatching, Schedule, VEPower
from refdiff.validation.cases import Case, ProcessCase
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import noised_variance
from refdiff.validation.numeric import extrapolate, legendre
from refdiff.validation.steps import later

TOPIC = "DPM-Solver"
GAMMAS = (0.25, 0.5, 2 / 3, 1.0)
# Steps h = 0.2, 0.1, ..., 0.0125: Richardson's table removes four powers of h and leaves the product of the steps,
# 3e-7, times the next coefficient; rounding adds some eps |x| / h^3, 1e-9.
HALVINGS = 5
LIMIT = 1e-5


# ---------------------------------------------------------------------- tables and the exact integral


def last_weights(table: Tableau) -> tuple[Array, Array, Array]:
    """Weights w_j (n,) of the last step, lambda_j (n,) of their evaluations, and the weight of its first point."""
    states, outputs, _ = table.row(table.stages - 1)
    where = [j for j, _ in outputs]
    return np.array([w for _, w in outputs]), table.scalars.log_snr[where], np.array(states[0][1])


def moments(schedule: Schedule, table: Tableau, start: float, degree: int) -> Sides:
    """sum_j w_j (lambda_j - lambda_s)^k / k!, k <= degree, of the last step, from `start`, against Gauss-Legendre."""
    w, lam, _ = last_weights(table)
    b = schedule.coefficients(table.times[-1])
    first, last = float(schedule.log_snr(start)), float(b.log_snr)
    u, v = legendre()
    found, exact, size = [], [], []
    for k in range(degree + 1):
        terms = w * (lam - first) ** k / factorial(k)
        node = first + (last - first) * u
        integral = (last - first) * v @ (np.exp(-node if table.prediction == "noise" else node) * (node - first) ** k)
        found.append(terms.sum())
        exact.append((-b.alpha if table.prediction == "noise" else b.sigma) * integral / factorial(k))
        size.append(np.abs(terms).sum())
    return Sides(found, exact, np.array(size))


@identity(
    "DPM-Solver's weights are exponential moments",
    topic=TOPIC,
    formula=r"\sum_j w_j \frac{(\lambda_j - \lambda_s)^k}{k!} = -\alpha_t\int_{\lambda_s}^{\lambda_t}"
    r" e^{-\lambda}\frac{(\lambda - \lambda_s)^k}{k!}d\lambda = -\sigma_t h^{k+1}\varphi_{k+1}(h),\qquad k < n",
    covers=["PODC9-23"],
    over="processes",
    control="half the weight of eps_s for h eps', as in the algorithm boxes",
    evidence=QUADRATURE,
    most=12,
)
def noise_moments(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The last row of tables of order 1, 2 and 3, single step and multistep, against quadrature in lambda."""
    kind, p = "dpmsolver" if wrong else "taylor", case.schedule
    one, three = [case.t, case.s], np.linspace(case.t, case.s, 4)
    singles = [dpm_solver(p, one, order=1), dpm_solver(p, one, r1=0.3, solver_type=kind)]
    singles.append(dpm_solver(p, one, order=3, r1=0.2, r2=0.9, solver_type=kind))
    multis = [dpm_solver_multistep(p, three, order=n, solver_type=kind) for n in (2, 3)]
    return [moments(p, table, case.t, k) for k, table in enumerate(singles)] + [
        moments(p, table, three[2], k) for k, table in enumerate(multis, 1)
    ]


@identity(
    "DPM-Solver-1 is the DDIM table",
    topic=TOPIC,
    formula=r"x_t = \frac{\alpha_t}{\alpha_s}x_s - \sigma_t(e^h - 1)\epsilon^* = \alpha_t x^* + \sigma_t\epsilon^*,"
    r"\qquad \sigma_t(e^h - 1) = \alpha_t\frac{\sigma_s}{\alpha_s} - \sigma_t",
    covers=["PODC9-24"],
    over="processes",
    control="h with the whole log signal-to-noise ratio for lambda",
    most=12,
)
def first_order(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The rows of both DPM-Solver-1 tables, of DDIM's in noise, and of e^h - 1, to sigma = 0 where that is the end."""
    p = case.schedule
    grid = np.array([case.t, (case.s + case.t) / 2, case.s, 0.0])
    if p.alpha(0.0) == 0 or p.sigma(0.0) != 0:
        grid = grid[:-1]
    tables = [dpm_solver(p, grid, order=1), dpm_solver_multistep(p, grid, order=1)]
    tables.append(to_prediction(ddim(p, grid), "noise"))
    a, b = p.coefficients(grid[:-1]), p.coefficients(grid[1:])
    with np.errstate(invalid="ignore"):
        growth = b.sigma * np.expm1((2 if wrong else 1) * (b.log_snr - a.log_snr))
    # sigma e^h at sigma = 0, by the ratio
    limit = b.alpha * a.sigma / a.alpha - b.sigma
    growth = np.where(b.sigma == 0, limit, growth)
    carry = b.alpha / a.alpha
    sides = [Sides(growth, limit, carry * a.sigma)]
    for table in tables:
        sides += [Sides(table.states[1:, 0], carry), Sides(table.outputs[1:, 0], -growth, carry * a.sigma)]
    return sides


@identity(
    "DPM-Solver-2 is the midpoint rule at the geometric mean",
    topic=TOPIC,
    formula=r"\frac{d(x/\alpha)}{d\rho} = \epsilon^*,\ \rho = \frac{\sigma}{\alpha}:\qquad b = (0, 1),\quad c_2 ="
    r" a_{21} = \frac{\sqrt{\rho_s\rho_t} - \rho_s}{\rho_t - \rho_s} = \frac{1}{1 + \sqrt{\rho_t/\rho_s}}",
    covers=["PODC9-26", "PODC9-25"],
    over="processes",
    control="the node at the arithmetic mean, as in the classical midpoint rule",
)
def midpoint_rule(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Runge-Kutta coefficients of both one-step tables in sigma / alpha against the means of its ends."""
    p, sides = case.schedule, []
    r = np.exp(p.log_snr(case.t) - p.log_snr(case.s))  # rho_t / rho_s
    node = 0.5 if wrong else 1 / (1 + np.sqrt(r))
    # the weights of evaluations are differences of sigma / alpha, divided by the largest of these
    size = (1 + r) / (1 - r)
    for build in (dpm_solver, dpm2):
        table = butcher(build(p, [case.t, case.s]), "x/alpha")
        sides += [
            Sides(table.b, [0.0, 1.0], size),
            Sides(table.c, [0.0, node], size),
            Sides(table.A, [[0.0, 0.0], [node, 0.0]], size),
        ]
    return sides


# ---------------------------------------------------------------------- errors of one step on Gaussian data


@dataclass(frozen=True)
class Path:
    """One trajectory of the flow of data N(mean, std^2) on the line, from time t on: x = alpha m + sqrt(V) z."""

    schedule: Schedule
    t: float
    mean: float
    std: float
    z: float

    @property
    def model(self) -> ExactModel:
        """The exact model of the data."""
        return ExactModel(Gaussian([self.mean], self.std**2), self.schedule)

    def root(self, t: float) -> float:
        """sqrt(V_t) z, in whose units errors are given."""
        c = self.schedule.coefficients(t)
        return float(np.sqrt(noised_variance(c, self.std**2))) * self.z

    def x(self, t: float) -> Array:
        """The point at time t, shape (1, 1)."""
        return np.array([[self.schedule.alpha(t) * self.mean + self.root(t)]])

    @property
    def q(self) -> float:
        """alpha^2 s^2 / V at the start."""
        ratio = float(np.exp(2 * self.schedule.log_snr(self.t))) * self.std**2
        return ratio / (1 + ratio)

    def later(self, h: float) -> float:
        """The time at which lambda is larger by h than at the start."""
        return later(self.schedule, self.t, h)


def drawn(case: Case, schedule: Schedule | None = None, q: float | None = None) -> Path:
    """A path with q between 0.15 and 0.85 unless it is given; on the straight schedule unless another is given."""
    rng, schedule = case.rng, FlowMatching() if schedule is None else schedule
    q = rng.uniform(0.15, 0.85) if q is None else q
    t = schedule.T * rng.uniform(0.35, 0.65)
    std = np.exp(-schedule.log_snr(t)) * np.sqrt(q / (1 - q))
    return Path(schedule, t, float(std * rng.standard_normal()), float(std), float(rng.uniform(0.5, 1.5)))


def noise_rates(q: float) -> Array:
    """sigma eps, sigma eps', sigma eps'', sigma eps''' in units of sqrt(V) z, shape (4,)."""
    return (1 - q) * np.array([1.0, -q, 3 * q**2 - 2 * q, -4 * q + 18 * q**2 - 15 * q**3])


def remainder(path: Path, end: Callable[[float], Array], power: int, h: float = 0.2) -> float:
    """The limit of (end - exact) / h^power in units of sqrt(V) z; `end` is the step to a later time, shape (1, 1)."""
    values = []
    for k in range(HALVINGS):
        step = h / 2**k
        t = path.later(step)
        values.append((end(t) - path.x(t)).item() / (step**power * path.root(path.t)))
    return float(extrapolate(values))


def one_step(path: Path, build: Callable[..., Tableau], power: int, **options: Any) -> float:
    """The limit of the error over h^power for one step of a sampler that is built with these options."""
    return remainder(
        path, lambda t: run(build(path.schedule, [path.t, t], **options), path.model, path.x(path.t)), power
    )


@identity(
    "Local errors of the Taylor steps with analytic derivatives",
    topic=TOPIC,
    formula=r"x_t - \Big[\frac{\alpha_t}{\alpha_s}x_s - \sigma_t\sum_{k<n}h^{k+1}\varphi_{k+1}(h)\,\epsilon^{(k)}\Big]"
    r" = -\frac{\sigma_s\,\epsilon^{(n)}}{(n + 1)!}h^{n+1} + O(h^{n+2})",
    covers=["PODC9-23"],
    over="once",
    control="the partial derivative in lambda at a fixed x in place of the total one along the trajectory",
    evidence=ORDER,
    tolerance=LIMIT,
)
def taylor_steps(case: Case, wrong: bool) -> list[Sides]:
    """Steps with the weights of the sampler and closed derivatives against the closed flow, on alpha = 1."""
    path = drawn(case, VEPower(T=1e3))
    rates, sides = noise_rates(path.q), []
    given = rates.copy()
    if wrong:  # eps = sigma (x - m) / (s^2 + sigma^2) with sigma = e^-lambda
        given[1] = (1 - path.q) * (1 - 2 * path.q)
    for n in (1, 2, 3):

        def end(t: float, n: int = n) -> Array:
            rec = Recorder("", path.schedule, [path.t, t], "noise")
            s, last = rec.points
            carry, w = expansion("noise", s, last, n)
            h = last.log_snr - s.log_snr
            eps = given * path.root(path.t) / s.sigma
            return np.asarray(carry * path.x(path.t) + sum(w[k] * h**k * eps[k] for k in range(n)))

        sides.append(Sides(remainder(path, end, n + 1), rates[n] / factorial(n + 1), np.abs(rates).max()))
    return sides


def second_order_error(q: float, gamma: float, taylor: bool) -> float:
    """The limit of the error over h^3 of DPM-Solver-2, in its taylor form or with half of h phi_1 as a weight."""
    _, first, second, _ = noise_rates(q)
    return -float((gamma / 4 - 1 / 6) * second + gamma / 4 * (1 - q) * first + (0 if taylor else first / 12))


@identity(
    "Local errors of DPM-Solver-2 for every gamma",
    topic=TOPIC,
    formula=r"x_t - \Psi = -\sigma h^3\Big[\Big(\frac{\gamma}{4} - \frac16\Big)\epsilon'' + \frac{\gamma}{4}"
    r"\frac{\sigma^2}{V}\epsilon' + \frac{\epsilon'}{12}[\text{half weight}]\Big] + O(h^4)",
    covers=["PODC9-25", "PODC9-26"],
    over="once",
    control="the two forms said to be one",
    evidence=ORDER,
    tolerance=LIMIT,
)
def every_gamma(case: Case, wrong: bool) -> list[Sides]:
    """Tables of the paper's form and of the one with exact weights, run on Gaussian data, against the constants."""
    path = drawn(case)
    q, sides, size = path.q, [], np.abs(noise_rates(path.q)).max()
    for gamma in GAMMAS:
        exact = one_step(path, dpm_solver, 3, r1=gamma, solver_type="taylor")
        half = one_step(path, dpm_solver, 3, r1=gamma)
        sides += [
            Sides(exact, second_order_error(q, gamma, True), size),
            Sides(half, second_order_error(q, gamma, wrong), size),
        ]
    return sides


@identity(
    "The gamma with the least error",
    topic=TOPIC,
    formula=r"\gamma^* = \frac{\tfrac16\epsilon''}{\tfrac14\epsilon'' + \tfrac14\frac{\sigma^2}{V}\epsilon'}"
    r" = \frac23\,\frac{2 - 3q}{3 - 4q}:\quad x_t - \Psi = O(h^4);\qquad \epsilon_x = 0:\ \gamma^* = \tfrac23",
    covers=["PODC9-25"],
    over="once",
    control="gamma = 1/2, said to have the least constant",
    evidence=ORDER,
    tolerance=LIMIT,
)
def best_gamma(case: Case, wrong: bool) -> list[Sides]:
    """The error over h^3 vanishes at gamma*, which moves with q; for a noise that depends on time only, at 2/3.

    On Gaussian data gamma* is never 1/2, which leaves q (1 - q) / 24; what is typical of other data is not said.
    """
    path = drawn(case, q=case.rng.uniform(0.05, 0.45))
    best = 2 / 3 * (2 - 3 * path.q) / (3 - 4 * path.q)
    size = np.abs(noise_rates(path.q)).max()
    found = one_step(path, dpm_solver, 3, r1=0.5 if wrong else best, solver_type="taylor")
    # eps = lambda^2 for every x: alpha_t int e^-lambda lambda^2 = alpha_t [-e^-lambda (lambda^2 + 2 lambda + 2)]
    values = []
    for k in range(HALVINGS):
        grid = [path.t, path.later(0.2 / 2**k)]
        ends = path.schedule.coefficients(grid)
        primitive = -np.exp(-ends.log_snr) * (ends.log_snr**2 + 2 * ends.log_snr + 2)
        table = dpm_solver(path.schedule, grid, r1=0.5 if wrong else 2 / 3, solver_type="taylor")
        step = run(table, lambda x, t: np.full_like(x, path.schedule.log_snr(t) ** 2), np.zeros((1, 1))).item()
        values.append((step + ends.alpha[1] * np.diff(primitive).item()) / (0.2 / 2**k) ** 3)
    return [Sides(found, 0.0, size), Sides(extrapolate(values), 0.0, 2 * path.schedule.sigma(path.t))]


@identity(
    "DPM-Solver-3 has its order at r2 = 2/3 only",
    topic=TOPIC,
    formula=r"x_t - \Psi = -\sigma h^3\frac{3r_2 - 2}{12}\cdot\begin{cases}\epsilon'' & \text{two evaluations}\\"
    r" \dfrac{r_1}{r_2 - r_1}\dfrac{\sigma^2}{V}\epsilon' & \text{parabola}\end{cases} + O(h^4)",
    covers=["PODC9-23"],
    over="once",
    control="no error at h^3 for any inner points",
    evidence=ORDER,
    tolerance=LIMIT,
)
def third_order(case: Case, wrong: bool) -> list[Sides]:
    """Tables with r2 free, run on Gaussian data, against the error that the first inner stage leaves in them."""
    path = drawn(case)
    (_, first, second, _), sides = noise_rates(path.q), []
    for r1, r2 in ((1 / 5, 2 / 3), (1 / 3, 0.9)):
        gap = 0.0 if wrong else -(3 * r2 - 2) / 12
        for kind, rate in (("dpmsolver", second), ("taylor", r1 / (r2 - r1) * (1 - path.q) * first)):
            found = one_step(path, dpm_solver, 3, order=3, r1=r1, r2=r2, solver_type=kind)
            sides.append(Sides(found, gap * rate, np.abs(noise_rates(path.q)).max()))
    return sides
