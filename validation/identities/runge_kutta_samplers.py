r"""Runge-Kutta samplers: their order on the probability flow, and where Euler's method is DDIM.

For Gaussian data the flow is affine, x -> G x + b, and so is every sampler; the gains are compared with the exact
sqrt(V_t / V_s), V = alpha^2 S + sigma^2, in the clock in which the method runs. With e(n) the error of n equal steps,

    log2 e(n) / e(2n) -> p

On a path whose V is quadratic in the clock the explicit midpoint method has order 3, not 2: its local error at h^3 is
-v1 v2 / 4 + v1^3 / 16 in both V = 1 + v1 h + v2 h^2 and the method.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.order import gaussian_error
from refdiff.samplers.runge_kutta import METHODS, Method, defect, rooted_trees, runge_kutta
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching, Schedule, VEPower
from refdiff.validation.cases import Case, ModelCase, ProcessCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.numeric import extrapolate
from refdiff.validation.numeric import runge_kutta as rk4

TOPIC = "Runge-Kutta samplers"
LAW = Gaussian([1.0], 0.25)
FLAT = Method(np.outer(METHODS["rk4"].c, np.eye(4)[0]), METHODS["rk4"].b)


@cache
def slope(schedule: Schedule, rule: Method, start: float, end: float) -> Array:
    """log2 e(n) / e(2n) of a rule on 20 to 160 equal steps in t from start to end, extrapolated in 1/n: a scalar."""

    def error(n: int) -> float:
        return gaussian_error(runge_kutta(schedule, np.linspace(start, end, n + 1), method=rule), LAW)

    errors = [error(n) for n in (20, 40, 80, 160)]
    return extrapolate([np.asarray(np.log2(a / b)) for a, b in pairwise(errors)])


@identity(
    "Orders of Runge-Kutta methods on the probability flow",
    topic=TOPIC,
    formula=r"x_{n+1} = x_n + h\sum_i b_i k_i,\quad k_i = v(x_n + h\sum_j A_{ij}k_j, t_n + c_i h):\quad"
    r" \log_2\frac{e(n)}{e(2n)}\to p,\qquad b\cdot\Phi(\tau) = \frac{1}{\gamma(\tau)}\ \ \forall\,|\tau|\le p",
    covers=["PODD-57", "PODD-58", "PODD-59"],
    over="once",
    evidence=ORDER,
    control="every slope of the method at x + c h k_1: order 2 for 4",
    most=2,
)
def orders(case: Case, wrong: bool) -> list[Sides]:
    """Slopes of exact errors on the VE Gaussian from t = 3 to 0.1 against the number of k_i; the trees' defects."""
    sides = []
    for stages, name in ((1, "euler"), (2, "heun"), (4, "rk4")):
        rule = METHODS[name]
        if wrong and stages == 4:
            rule = FLAT
        sides.append(Sides(slope(VEPower(), rule, 3.0, 0.1), stages))
    # a method of order 2 for every place of its second slope
    part = case.rng.uniform(0.7, 1.0)
    general = Method(np.array([[0, 0], [part, 0]]), np.array([1 - 1 / (2 * part), 1 / (2 * part)]))
    sides.append(Sides(slope(VEPower(), general, 3.0, 0.1), 2))
    trees = [defect(METHODS["rk4"], tree) for size in range(1, 5) for tree in rooted_trees(size)]
    return [*sides, Sides(trees, np.zeros(len(trees)), 1.0)]


@identity(
    "The midpoint method gains an order on Gaussian data",
    topic=TOPIC,
    formula=r"V = \alpha^2 S + \sigma^2 = 1 + v_1 h + v_2 h^2:\quad \sqrt{V} - \Big[1 + \frac{h V'(h/2)}{2V(h/2)}"
    r"\Big(1 + \frac{h}{4}V'(0)\Big)\Big] = O(h^4)",
    covers=["PODD-58"],
    over="once",
    evidence=ORDER,
    control="Heun's method in place of the midpoint",
)
def midpoint(_: Case, wrong: bool) -> list[Sides]:
    """The slope of the exact errors on the straight path and on the VE path; Ralston's method stays at 2."""
    rule = METHODS["heun" if wrong else "midpoint"]
    return [
        Sides(slope(FlowMatching(), rule, 0.9, 0.3), 3),
        Sides(slope(VEPower(), rule, 3.0, 0.1), 3),
        Sides(slope(VEPower(), METHODS["ralston"], 3.0, 0.1), 2),
    ]


@identity(
    "Euler's table in three clocks is DDIM's",
    topic=TOPIC,
    formula=r"\text{Euler in } \frac{\sigma}{\alpha},\ \frac{\alpha}{\sigma},\ \frac{\sigma}{\alpha + \sigma}:\quad"
    r" y_k = \text{start}_k\,x + \sum_j \text{outputs}_{kj}\,D_j \text{ equal DDIM's}",
    covers=["PODC9-55", "PODC9-09"],
    refutes=["PODC9-09"],
    over="processes",
    control="Euler's table in t, said to be DDIM for every schedule",
)
def euler_tables(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Unrolled weights of two steps, all for a model that answers the denoiser."""
    times = [case.t, (case.s + case.t) / 2, case.s]
    start, outputs, _ = ddim(case.process, times).unroll()
    c, sides = case.process.coefficients(case.t), []
    for clock in ("t",) if wrong else ("rho", "1/rho", "ratio"):
        table = to_prediction(runge_kutta(case.process, times, method="euler", clock=clock), "denoiser")
        one, others, _ = table.unroll()
        # x is carried by alpha_t / alpha_s where the method keeps the noise, and D multiplies what is left of that
        size = case.process.coefficients(case.s).alpha / c.alpha
        sides += [Sides(one, start, size), Sides(others, outputs, size * (1 + c.alpha))]
    return sides


@identity(
    "One trajectory for all schedules",
    topic=TOPIC,
    formula=r"y = \frac{x}{\alpha},\ \rho = \frac{\sigma}{\alpha}:\quad \frac{dy}{d\rho} = \epsilon^*(y, \rho)"
    r" \text{ and every Runge-Kutta step of it, whatever } (\alpha, \sigma)",
    covers=["PODC9-55"],
    control="the same steps in the schedule's own time",
    needs=lambda case: smooth(case) and case.law.dim <= 16,
    most=12,
)
def one_trajectory(case: ModelCase, wrong: bool) -> Sides:
    """RK4's table in sigma/alpha on the case's process against its four slopes of y on EDM's, from the same y."""
    schedule, clock = case.process.schedules[0], "t" if wrong else "rho"
    times = np.array([case.t, 0.6 * case.t + 0.4 * case.s, case.s])
    rhos = np.exp(-schedule.log_snr(times))
    one = run(runge_kutta(schedule, times, clock=clock), case.model, case.x) / schedule.alpha(case.s)
    edm = ExactModel(case.law, VEPower(T=float(1.1 * rhos[0])))

    def noise(y: Array, rho: float) -> Array:
        return np.asarray((y - edm.denoiser(y, rho)) / rho)

    y = start = case.x / schedule.alpha(case.t)
    for s, t in pairwise(rhos.tolist()):
        y = rk4(noise, y, s, t - s)
    return Sides(one, y, np.abs(start).max() + np.abs(one).max())
