r"""Solvers of the reverse SDEs as tables, against quadratures in the schedule's own time, Bayes' rule and constants.

With a share k = tau^2 of noise and the score (alpha D - x) / sigma^2, from s down to t < s,

    dx = ((f + b) x - b alpha D) dt + sqrt(k) g dw,      b = (1 + k) g^2 / (2 sigma^2),      E(u) = exp int_u^t (f + b)

    E x_t = E(s) x_s - int_s^t E b alpha D du            Var x_t = int_t^s k g^2 E^2 du

for any D that is a known function of time: a multistep method is exact where D is a polynomial in lambda of the degree
that it interpolates. Over n equal steps of lambda, Lambda in all, on Gaussian data of variance v, with
w = v + (sigma / alpha)^2,

    n (Var(x_t) / alpha_t^2 - w_t)  ->  -Lambda v (1 - w_t^2 / w_s^2)

for one evaluation a step (k = 1) and for DPM++ SDE with independent normals alike, for any place of its second
evaluation: each step's covariance lacks what the noise before that point adds. On one Brownian path the limit is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.samplers.dpm_sde import dpmpp_3m_sde, dpmpp_sde, sde_dpm_solver, sde_dpm_solver_pp
from refdiff.samplers.propagation import propagate
from refdiff.samplers.sa_solver import sa_solver
from refdiff.samplers.tableau import Tableau
from refdiff.samplers.times import uniform_log_snr
from refdiff.schedules import FlowMatching, Schedule, VEPower, VPLinear
from refdiff.validation.cases import Case, ProcessCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identities.ddim_samplers import between
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import extrapolate, integral, legendre

TOPIC = "SDE solvers"


def moments(
    schedule: Schedule,
    s: float,
    t: float,
    share: float,
    prediction: str,
    output: Callable[[Array], Array],
    count: int = 48,
) -> tuple[float, float, float]:
    """(factor of x_s, what a known output adds, variance) of the reverse SDE, by `count` Gauss-Legendre nodes in time.

    The output is the denoiser or the noise, as `prediction` says, at lambdas (m,).
    """

    def rates(times: Array) -> tuple[Array, Array, Array]:
        c = schedule.coefficients(times)
        if prediction == "noise":
            return c.f, (1 + share) * c.g2 / (2 * c.sigma), c.g2
        pull = (1 + share) * c.g2 / (2 * c.sigma**2)
        return c.f + pull, -pull * c.alpha, c.g2

    nodes, weights = legendre(count)

    def factor(times: Array) -> Array:
        grid = times[:, None] + (t - times[:, None]) * nodes
        return np.asarray(np.exp((t - times) * (rates(grid)[0] @ weights)))

    def added(times: Array) -> Array:
        return np.asarray(factor(times) * rates(times)[1] * output(schedule.log_snr(times)))

    return (
        float(factor(np.array([s]))[0]),
        float(integral(added, s, t, count)),
        float(integral(lambda times: share * rates(times)[2] * factor(times) ** 2, t, s, count)),
    )


def last_step(tableau: Tableau, output: Callable[[Array], Array]) -> tuple[float, float, float, float]:
    """The same scalars of a table's last step, with its outputs read from `output`; and the size of their terms."""
    states, outputs, drawn = tableau.row(tableau.stages - 1)
    ((_, factor),) = states
    terms = [w * output(tableau.scalars.log_snr[j]) for j, w in outputs]
    return float(factor), float(sum(terms)), float(sum(w**2 for _, w in drawn)), float(np.sum(np.abs(terms)))


def compared(
    case: ProcessCase, tableau: Tableau, share: float, output: Callable[[Array], Array], count: int = 48
) -> Iterator[Sides]:
    """The last step of a table against the SDE with an output known at lambdas (m,), by `count` nodes."""
    s, t = (float(time) for time in np.unique(tableau.times)[1::-1])
    expected = moments(case.schedule, s, t, share, tableau.prediction, output, count)
    *found, size = last_step(tableau, output)
    yield Sides(found[0], expected[0])
    yield Sides(found[1], expected[1], size)
    yield Sides(found[2], expected[2])


@identity(
    "One frozen prediction solves the reverse SDE exactly",
    topic=TOPIC,
    formula=r"x_t = \frac{\sigma_t}{\sigma_s}e^{-\eta h}x_s + \alpha_t(1 - e^{-(1+\eta)h})D +"
    r" \sigma_t\sqrt{1 - e^{-2\eta h}}\,z;\qquad \frac{\alpha_t}{\alpha_s}x_s - 2\sigma_t(e^h - 1)\epsilon +"
    r" \sigma_t\sqrt{e^{2h} - 1}\,z",
    covers=["PODA-226", "PODC9-07"],
    over="processes",
    control="the share of the noise squared: eta taken for tau, where tau^2 = eta",
    evidence=QUADRATURE,
    needs=smooth,
)
def frozen(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The tables of order 1 against means and variances by quadrature in time."""
    times, constant = [case.t, case.s], np.ones_like
    for eta in (0.0, 0.4, 1.0):
        table = sde_dpm_solver_pp(case.process, times, order=1, eta=eta)
        yield from compared(case, table, eta**2 if wrong else eta, constant)
    yield from compared(case, sde_dpm_solver(case.process, times, order=1), 1.0, constant)


@identity(
    "A frozen denoiser in the reverse SDE is the DDPM posterior",
    topic=TOPIC,
    formula=r"\frac{\sigma_t}{\sigma_s}e^{-h}x_s + \alpha_t(1 - e^{-2h})D + \sigma_t\sqrt{1 - e^{-2h}}\,z \sim"
    r" p(x_t \mid x_s, x_0 = D)",
    covers=["PODC9-15", "PODC9-13", "PODA-226"],
    over="processes",
    control="the noise of the step with a frozen noise prediction, sigma_t^2 (e^{2h} - 1)",
)
def posterior(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The weights of the table against Bayes' rule for the kernel and the transition."""
    a, b = case.schedule.coefficients(case.t), case.schedule.coefficients(case.s)
    channel = case.process.channel(case.s, case.t)
    precision = 1 / b.sigma**2 + channel.gain**2 / channel.noise
    other = sde_dpm_solver(case.process, [case.t, case.s], order=1)
    table = sde_dpm_solver_pp(case.process, [case.t, case.s], order=1)
    return [
        Sides(table.states[-1, 0], channel.gain / channel.noise / precision),
        # with the data at rest at 1: alpha_s of the whole less what x_s brings
        Sides(table.outputs[-1, 0], b.alpha / b.sigma**2 / precision, b.alpha),
        Sides((other if wrong else table).noise[-1, 0] ** 2, 1 / precision),
        Sides(table.states[-1, 0] * a.alpha + table.outputs[-1, 0], b.alpha),
    ]


@identity(
    "Stochastic Adams methods integrate polynomials of lambda exactly",
    topic=TOPIC,
    formula=r"\alpha_t\sum_j w_j D(\lambda_j) = \sigma_t\int_{\lambda_s}^{\lambda_t} e^{-\tau^2(\lambda_t - \lambda)}"
    r"(1 + \tau^2)e^\lambda D(\lambda)\,d\lambda,\qquad \deg D < \text{number of evaluations}",
    covers=["PODC9-32", "PODC9-34"],
    over="processes",
    control="DPM++ 3M SDE with the published weights, which count the quadratic term half",
    evidence=QUADRATURE,
    needs=smooth,
    most=12,
)
def polynomials(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """2M (heun), 3M with the whole parabola and SA-Solver on random polynomials against quadrature in time.

    With the noise prediction SDE-DPM-Solver-2M as well.
    """
    rng = case.rng
    times, centre = between(case, 5, rng), float(case.schedule.log_snr(case.s))
    length = centre - float(case.schedule.log_snr(case.t))
    tables = [(1.0, 1, sde_dpm_solver(case.process, times, solver_type="heun"))]
    for tau in (0.0, 0.8):
        tables += [
            (tau**2, 1, sde_dpm_solver_pp(case.process, times, solver_type="heun", eta=tau**2)),
            (tau**2, 2, dpmpp_3m_sde(case.process, times, eta=tau**2, published=wrong)),
            (tau**2, 3, sa_solver(case.process, times, predictor_order=4, corrector_order=0, tau=tau)),
            (
                tau**2,
                2,
                sa_solver(case.process, times, predictor_order=3, corrector_order=0, tau=tau, prediction="noise"),
            ),
        ]
    for share, degree, table in tables:
        c = rng.standard_normal(degree + 1)

        def output(lam: Array, c: Array = c) -> Array:
            return np.asarray(np.polynomial.polynomial.polyval((lam - centre) / length, c))

        yield from compared(case, table, share, output, 24)  # a fifth of the way


@identity(
    "Independent normals in DPM++ SDE cost its second order, one Brownian path does not",
    topic=TOPIC,
    formula=r"n\Big(\frac{\mathrm{Var}(x_t)}{\alpha_t^2} - w_t\Big) \to -\Lambda v\Big(1 - \frac{w_t^2}{w_s^2}\Big)"
    r"\ \text{(independent, or one evaluation)},\quad 0\ \text{(one path)},\qquad w = v + \sigma^2/\alpha^2",
    covers=["PODA-226"],
    over="once",
    control="independent normals with the limit of one path",
    evidence=ORDER,
)
def paths(case: Case, wrong: bool) -> Iterator[Sides]:
    """Exact output variances over doubled numbers of steps, extrapolated, against the closed constant."""
    rng = case.rng
    schedule: Schedule = (VPLinear(), FlowMatching(), VEPower(T=20.0))[case.seed % 3]
    ends, v, r = (-rng.uniform(0.3, 1.2), rng.uniform(0.3, 1.2)), rng.uniform(0.2, 1.5), rng.uniform(0.3, 1.0)
    start, end = (float(schedule.time_of_log_snr(lam)) for lam in ends)
    w_s, w_t = (v + np.exp(-2 * lam) for lam in ends)
    size = (ends[1] - ends[0]) * v * (1 - (w_t / w_s) ** 2)

    def limit(build: Callable[[Array], Tableau]) -> Array:
        values = []
        for n in (6, 12, 24, 48):
            law = propagate(build(uniform_log_snr(schedule, n, start=start, end=end)), Gaussian([0.0], v)).output
            values.append(n * (np.asarray(law.cov())[0, 0] / schedule.alpha(end) ** 2 - w_t))
        return extrapolate(values)

    for path, expected in (("independent", 0.0 if wrong else -size), (("sigma", "snr")[case.seed % 2], 0.0)):
        yield Sides(limit(partial(dpmpp_sde, schedule, r=r, path=path)), expected, size)
    yield Sides(limit(partial(sde_dpm_solver_pp, schedule, order=1)), -size, size)
