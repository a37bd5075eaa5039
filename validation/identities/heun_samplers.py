r"""Local errors of second-order samplers, in closed form, and which of them are not each other.

A step of a second-order method errs by C h^3; C is what tells two of them apart. For data N(m, v) the probability flow
stretches x - alpha m by sqrt(V), V = alpha^2 v + sigma^2, and every exact output is affine in it, so C is closed:

    node c in rho = sigma / alpha       C = (1/2 - c) rho v / w^3,   w = v + rho^2       (for H = rho_t - rho_s)
    DPM-Solver-2 in y = x / alpha       C = -rho (q'/12 - q''/24 + J rho q'/8) / sqrt w
    (exponential) Heun in lambda        C = n''/12 - L' n/12 - n n' / (4 S)              S = sqrt V, n = S' - L S

with q = rho / sqrt w, eps* along the trajectory, J = rho / w, and ' = d / d lambda. The first line says that the
midpoint rule in rho is of order 3 on every Gaussian; the other two, that exponential Heun is not DPM-Solver-2.
A table's exact gain less the flow's, over h^3, is the other side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.edm import edm_heun
from refdiff.samplers.exponential_heun import exponential_heun
from refdiff.samplers.kdiffusion import dpm2
from refdiff.samplers.propagation import propagate
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.running import run
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule, VEPower
from refdiff.validation.cases import Case, ProcessCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import noised_variance
from refdiff.validation.numeric import derivative, extrapolate, legendre
from refdiff.validation.steps import later

TOPIC = "Samplers as tables"
VARIANCE = 0.4
STEPS = [0.2 / 2**k for k in range(4)]  # in lambda
plain_table = partial(runge_kutta, method="heun", clock="log_snr")


def stretch(schedule: Schedule, t: float) -> float:
    """sqrt(V) at time t: how far the probability flow of Gaussian data spreads."""
    c = schedule.coefficients(t)
    return float(np.sqrt(noised_variance(c, VARIANCE)))


def excess(table: Tableau, schedule: Schedule) -> float:
    """How much a table of one step stretches beyond the flow, relative to the stretch at its start."""
    gain = float(np.ravel(propagate(table, Gaussian([0.0], VARIANCE)).channel().gain)[0])
    start, end = (stretch(schedule, float(table.times[k])) for k in (0, -1))
    return (gain * start - end) / start


def constant(build: Callable[[list[float]], Tableau], case: ProcessCase) -> Array:
    """The limit of a method's local error over h^3, a scalar, from tables of shrinking steps."""
    tables = [(h, build([case.t, later(case.schedule, case.t, h)])) for h in STEPS]
    return extrapolate([np.asarray(excess(table, case.schedule) / h**3) for h, table in tables])


def coefficients(case: ProcessCase) -> tuple[float, float, float, float]:
    """rho, w and the first and second derivative of q = rho / sqrt(w) in lambda, at the start of the step."""
    rho = float(np.exp(-case.schedule.log_snr(case.t)))
    w = VARIANCE + rho**2
    return rho, w, -rho * VARIANCE / w**1.5, rho * VARIANCE * (VARIANCE - 2 * rho**2) / w**2.5


def dpm_solver_2(case: ProcessCase) -> tuple[float, float]:
    """DPM-Solver-2's constant relative to the stretch alpha sqrt(w), and the size of its terms."""
    rho, w, dq, d2q = coefficients(case)
    parts = np.array([dq / 12, -d2q / 24, rho**2 * dq / (8 * w)]) * -rho / np.sqrt(w)
    return float(parts.sum()), float(np.abs(parts).sum())


# L beyond d log alpha / d lambda, for each prediction that is left in N; the velocity leaves no linear part at all
SHIFTS = {"noise": 0.0, "denoiser": -1.0}


def heun(case: ProcessCase, prediction: str, bent: float = 1.0) -> tuple[float, float]:
    """Heun's constant in lambda relative to the stretch, by polynomials in lambda, and the size of its terms.

    `prediction` is what is left in N, and `bent` a factor of the error of the stage.
    """
    schedule, start = case.schedule, float(case.schedule.log_snr(case.t))
    times = schedule.time_of_log_snr(start + 4 * reach(case) * NODES)
    c, rate = schedule.coefficients(times), schedule.dlog_snr(times)
    spread = np.sqrt(noised_variance(c, VARIANCE))
    linear = np.zeros_like(times) if prediction == "velocity" else c.f / rate + SHIFTS[prediction]
    force = (c.alpha * c.dalpha * VARIANCE + c.dvariance / 2) / (spread * rate) - linear * spread
    (n, slope, bend), (_, drift, _) = (jet(values, 4 * reach(case)) for values in (force, linear))
    size = stretch(schedule, case.t)
    parts = np.array([bend / 12, -drift * n / 12, -bent * n * slope / (4 * size)]) / size
    return float(parts.sum()), float(np.abs(parts).sum())


# Chebyshev points of [-1, 1]: a polynomial through them keeps 1e-10 of a second derivative at 0
NODES = np.cos(np.pi * (np.arange(13) + 0.5) / 13)


def jet(values: Array, width: float) -> Array:
    """A function and its first two derivatives at the middle (3,), from its values at NODES times a half width."""
    fitted = np.polynomial.Polynomial(np.polynomial.polynomial.polyfit(NODES, values, len(NODES) - 1))
    return np.array([fitted.deriv(k)(0.0) / width**k for k in range(3)])


def reach(case: ProcessCase) -> float:
    """A step for stencils in lambda: a fraction of the way to the noisy end of the process, and of lambda's scale."""
    left = float(case.schedule.log_snr(case.t) - case.schedule.log_snr(case.schedule.T))
    return 0.05 * min(left, 1.0)


def roomy(case: ProcessCase) -> bool:
    """Smooth rates, and room for stencils."""
    return smooth(case) and bool(reach(case) > 0.005)


@identity(
    "Local error of EDM's second-order family on Gaussian data",
    topic=TOPIC,
    formula=r"\Phi_\gamma - \Psi = \Big(\tfrac{1}{2} - \gamma\Big)\frac{\rho\,v}{(v + \rho^2)^3}(\Delta\rho)^3 +"
    r" O(\Delta\rho^4):\quad \text{the midpoint rule is of order 3 on every Gaussian}",
    covers=["PODC9-55"],
    over="processes",
    evidence=ORDER,
    control="the error of the quadrature alone, 1/2 - 3/4 of the node, without that of the stage",
    needs=smooth,
    most=6,
)
def second_order_family(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Excess gains of one step for three nodes over (Delta rho)^3, extrapolated, against the constant."""
    rho, w, *_ = coefficients(case)
    # the error is a series in the step over sqrt(w), and a step down ends within the process
    room = rho - float(np.exp(-case.schedule.log_snr(0.0)))
    steps = [min(0.9 * room, 0.2 * np.sqrt(w)) / 2**k for k in range(4)]
    sides, unit = [], rho * VARIANCE / w**3
    for node in (1.0, 0.5, 0.3):
        ratios = []
        for step in steps:
            end = later(case.schedule, case.t, -np.log1p(-step / rho))
            table = edm_heun(case.process, [case.t, end], node=node)
            # the gain of y = x / alpha, over the cube of the step of rho
            alphas = table.scalars.alpha[[0, -1]]
            ratios.append(np.asarray(excess(table, case.schedule) * alphas[0] / alphas[1] / -(step**3)))
        expected = 0.5 - (0.75 * node if wrong else node)
        sides.append(Sides(extrapolate(ratios), expected * unit, unit))
    return sides


@identity(
    "Local error of Heun in lambda, plain and exponential",
    topic=TOPIC,
    formula=r"\dot x = L x + N:\quad \Phi - \Psi = \Big(\frac{\ddot n}{12} - \frac{\dot L n}{12} -"
    r" \frac{N_x \dot n}{4}\Big)h^3 + O(h^4),\quad n = N\text{ along the trajectory};\qquad"
    r" c_1, c_2\text{ are exact only for }\dot L = 0",
    covers=["PODC9-28", "PODC9-29"],
    over="processes",
    evidence=ORDER,
    control="the error of the stage twice as large",
    needs=roomy,
    most=6,
)
def heun_errors(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Excess gains of one step over h^3, extrapolated, for all three ways to split off a linear part."""
    return [
        Sides(
            constant(lambda times, head=head: exponential_heun(case.process, times, prediction=head), case),  # type: ignore[misc]
            *heun(case, head, bent=2.0 if wrong else 1.0),
        )
        for head in ("velocity", "noise", "denoiser")
    ]


@identity(
    "Exponential Heun is not DPM-Solver-2, nor is plain Heun",
    topic=TOPIC,
    formula=r"y = m + \sqrt{v + \rho^2}\,z:\quad \frac{\Phi_{\text{exp-Heun}} - \Phi_{\text{DPM-2}}}{h^3 z} \to"
    r" -\rho\Big(\frac{\ell^2 q}{12} + \frac{(2\ell - 1)q'}{12} + \frac{q''}{8} + \rho J\Big(\frac{q'}{8} +"
    r" \frac{\ell q}{4}\Big)\Big) \ne 0,\qquad \ell = \frac{d\log\sigma}{d\lambda}",
    covers=["PODC9-30"],
    refutes=["PODC9-30"],
    over="processes",
    evidence=ORDER,
    control="no difference",
    needs=roomy,
    most=6,
)
def not_equal(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Differences of the two tables' gains over h^3, extrapolated, against the difference of the two expansions."""
    rho, w, dq, d2q = coefficients(case)
    q, j = rho / np.sqrt(w), rho / w
    ell = float(case.schedule.f(case.t) / case.schedule.dlog_snr(case.t)) - 1
    parts = np.array([ell**2 * q, (2 * ell - 1) * dq, 1.5 * d2q, 12 * rho * j * (dq / 8 + ell * q / 4)]) / 12
    parts = parts * -rho / np.sqrt(w)
    plain, size = heun(case, "velocity")
    other, more = dpm_solver_2(case)
    kept = 0.0 if wrong else 1.0
    exponential, heuns, dpm = (
        constant(lambda times, build=build: build(case.process, times), case)  # type: ignore[misc]
        for build in (exponential_heun, plain_table, dpm2)
    )
    return [
        Sides(exponential - dpm, kept * parts.sum(), np.abs(parts).sum()),
        Sides(heuns - dpm, kept * (plain - other), size + more),
    ]


@identity(
    "Exponential Heun is exact for a constant linear part and a force that is affine in lambda",
    topic=TOPIC,
    formula=r"\dot x = L x + a + b\lambda:\quad x(h) = e^{Lh}x + \int_0^h e^{L(h - \tau)}(a + b\lambda)\,d\tau ="
    r" e^{E}x + hc_1(E)N_0 + hc_2(E)(N_1 - N_0)",
    covers=["PODC9-29"],
    over="once",
    evidence=QUADRATURE,
    control="plain Heun",
)
def affine_force(case: Case, wrong: bool) -> list[Sides]:
    """Tables on alpha = 1 run with given outputs, L = -1 for the denoiser and 0 for the noise, against quadrature."""
    schedule, (a, b) = VEPower(), case.rng.standard_normal(2)
    x, (u, weights) = case.rng.standard_normal((3, 1)), legendre(20)
    start, h = -1.3, 0.9
    times = schedule.time_of_log_snr(np.array([start, start + h / 2, start + h]))
    sides = []
    for head, linear in (("denoiser", -1.0), ("noise", 0.0)):
        # N = alpha D = D, and N = -sigma eps
        def outputs(x: Array, t: float, head: str = head) -> Array:
            force = a + b * schedule.log_snr(t)
            return np.full_like(x, force if head == "denoiser" else -force / t)

        def velocity(x: Array, t: float, linear: float = linear) -> Array:
            # dx / dt = (L x + N) dlambda / dt with dlambda / dt = -1 / t
            return np.asarray(-(linear * x + a + b * schedule.log_snr(t)) / t)

        integral = h * weights @ (np.exp(linear * h * (1 - u)) * (a + b * (start + h * u)))
        table = plain_table(schedule, times) if wrong else exponential_heun(schedule, times, prediction=head)
        found = run(table, velocity if wrong else outputs, x)
        sides.append(Sides(found, np.exp(linear * h) * x + integral, np.abs(x).max() + h * (abs(a) + 2 * abs(b))))
    return sides


@identity(
    "Plain Heun in lambda, whatever the linear part is called",
    topic=TOPIC,
    formula=r"\hat x = x + h(L_s x - \sigma_s\epsilon_s),\quad x_t = x + \tfrac{h}{2}\big(L_s x - \sigma_s\epsilon_s +"
    r" L_t\hat x - \sigma_t\hat\epsilon\big),\qquad L = \frac{d\log\alpha}{d\lambda}",
    covers=["PODC9-28"],
    over="processes",
    evidence=DERIVATIVE,
    control="L = d log sigma / d lambda, with the noise",
    needs=roomy,
    most=10,
)
def plain_heun(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The table for the velocity, converted to the noise, against L by stencils in lambda."""
    schedule, h = case.schedule, 0.3
    times = [case.t, later(schedule, case.t, h)]
    rolled = to_prediction(plain_table(case.process, times), "noise").unroll()
    lam = float(schedule.log_snr(case.t))
    sigma = schedule.sigma(np.array(times))

    def level(lam: float) -> Array:
        c = schedule.coefficients(schedule.time_of_log_snr(lam))
        return np.asarray(np.log(c.sigma if wrong else c.alpha))

    first, last = (float(derivative(level, where, reach(case))) for where in (lam, lam + h))
    # (weight of x, of eps_s, of eps_t)
    guess = np.array([1 + h * first, -h * sigma[0], 0.0])
    end = np.array([1.0, 0.0, 0.0]) + h / 2 * np.array([first, -sigma[0], 0.0])
    end += h / 2 * (last * guess + np.array([0.0, 0.0, -sigma[1]]))
    found = np.column_stack([rolled.start, rolled.outputs[:, :2]])
    size = np.array([1.0, sigma[0], sigma[0]])
    return [Sides(found[1], guess, size), Sides(found[2], end, size)]
