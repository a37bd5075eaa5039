r"""Picard iteration on the probability flow, and ParaDiGMS' sliding window.

For Gaussian data and y = x / alpha against rho = sigma / alpha the flow is dy/drho = rho (S + rho^2)^-1 (y - m). From
the constant path the k-th iterate is a truncated exponential,

    (L^k y)(rho_1) - m = sum_{j<=k} A^j / j!  (y - m),     A = log[(S + rho_1^2) / (S + rho_0^2)] / 2

On a grid the fixed point is Euler's method, reached point by point; a window of p steps gets there too if each of its
points is counted from the left end.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.polynomial import chebyshev

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.samplers.ddim import ddim
from refdiff.samplers.picard import paradigms, picard
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import one_gaussian, scalar, smooth
from refdiff.validation.identity import QUADRATURE, Sides, identity

TOPIC = "Picard iteration"
STEPS = 6


def small(case: ModelCase) -> bool:
    """One schedule, and a model that is quick to ask."""
    return scalar(case) and case.law.dim <= 3 and case.law.count <= 8


def grid(case: ModelCase) -> Array:
    """Equal steps in t, shape (STEPS + 1,)."""
    return np.linspace(case.t, case.s, STEPS + 1)


def in_rho(case: ModelCase, times: Array) -> tuple[Array, Array, Callable[[Array, int], Array]]:
    """rho and alpha along times (m,), and dy/drho at y (n, d) and the i-th of them."""
    schedule = case.process.schedules[0]
    alpha = schedule.alpha(times)
    return (
        np.exp(-schedule.log_snr(times)),
        alpha,
        lambda y, i: np.asarray(case.model.noise(alpha[i] * y, float(times[i]))),
    )


@identity(
    "Picard iterates of a linear flow",
    topic=TOPIC,
    formula=r"y^{(k)} = \mathcal{L}^k[y^{(0)}],\ (\mathcal{L}y)(t) = y(T) + \int_T^t v(y(\tau), \tau)d\tau:\quad"
    r" y^{(k)} - m = \sum_{j\le k}\frac{A^j}{j!}(y^{(0)} - m),\quad A = \int_T^t a = \tfrac{1}{2}\log\frac{S +"
    r" \rho_t^2}{S + \rho_T^2}",
    covers=["PODC9-49", "PODD-60"],
    refutes=["PODC9-49"],
    control="x^(k+1) as k applications of the operator",
    evidence=QUADRATURE,
    needs=lambda case: one_gaussian(case) and smooth(case),
    most=4,
)
def linear_flow(case: ModelCase, wrong: bool) -> list[Sides]:
    """Five applications with the model's noise and Chebyshev integrals against the series in the eigenbasis."""
    schedule, mean = case.process.schedules[0], case.law.mean()
    lams = schedule.log_snr(np.array([case.t, case.s]))
    count, span = 28, lams[1] - lams[0]
    z = chebyshev.chebpts1(count)
    here = lams[0] + (z + 1) / 2 * span
    times, rho = schedule.time_of_log_snr(here), np.exp(-here)
    values = 2 / count * chebyshev.chebvander(z, count - 1).T
    values[0] /= 2
    # from values at the nodes to the integral from the start, at the nodes and at the end
    integrals = chebyshev.chebvander(np.append(z, 1.0), count) @ chebyshev.chebint(values, lbnd=-1) * span / 2
    first = case.x / schedule.alpha(case.t)
    path, end = np.repeat(first[None], count, axis=0), first
    spread, basis = np.linalg.eigh(case.law.cov())
    spread = np.maximum(spread, 0.0)
    rate = 0.5 * np.log((spread + np.exp(-2 * lams[1])) / (spread + np.exp(-2 * lams[0])))
    term = series = (first - mean) @ basis
    sides, size = [], np.abs(first - mean).max() * np.exp(np.abs(rate).max())
    for k in range(1, 6):
        before = end
        slopes = [
            -r * case.model.noise(schedule.alpha(t) * y, float(t)) for r, t, y in zip(rho, times, path, strict=True)
        ]
        moved = first + np.tensordot(integrals, np.array(slopes), axes=1)
        path, end = moved[:-1], moved[-1]
        term = term * rate / k
        series = series + term
        sides.append(Sides((before if wrong else end) - mean, series @ basis.T, size))
    return sides


@identity(
    "Discrete Picard sweeps",
    topic=TOPIC,
    formula=r"y_j^{(k+1)} = y_0 + \sum_{i<j}(\rho_{i+1} - \rho_i)\,\epsilon^*(y_i^{(k)}, \rho_i):\quad y_j^{(k)} ="
    r" y_j^{\text{DDIM}}\ \ \forall j\le k",
    covers=["PODC9-50"],
    control="the sum up to and with the point itself",
    needs=small,
    most=7,
)
def sweeps(case: ModelCase, wrong: bool) -> list[Sides]:
    """Sweeps on numbers against DDIM's trajectory, point by point; the table of three sweeps against the third."""
    times = grid(case)
    rho, alpha, slope = in_rho(case, times)
    steps = np.append(np.diff(rho), 0.0)
    path = np.repeat(case.x[None] / alpha[0], STEPS + 1, axis=0)
    target = run(ddim(case.process, times), case.model, case.x, trajectory=True) / alpha[:, None, None]
    size, sides = np.abs(target).max() + np.abs(rho[0]), []
    for k in range(1, STEPS + 1):
        moves = np.array([steps[i] * slope(path[i], i) for i in range(STEPS + 1)])
        sums = np.cumsum(moves, axis=0)
        path = path[0] + (sums if wrong else np.concatenate([0 * sums[:1], sums[:-1]]))
        sides.append(Sides(path[: k + 1], target[: k + 1], size))
        if k == 3:
            table = run(picard(case.process, times, sweeps=3), case.model, case.x)
            sides.append(Sides(path[-1], table / alpha[-1], size))
    return sides


def algorithm_8(case: ModelCase, times: Array, window: int, tolerance: float, printed: bool) -> tuple[Array, int, int]:
    """The output (n, d), sweeps and calls of ParaDiGMS in (x/alpha, rho), over times (m,), `window` steps at a time.

    A stride ends where the square of a change is above the tolerance; `printed` anchors point j + 1 at point j.
    """
    rho, alpha, slope = in_rho(case, times)
    last = len(times) - 1
    path = [case.x / alpha[0]] * (last + 1)
    left = rounds = calls = 0
    while left < last:
        count = min(window, last - left)
        moves = [(rho[left + i + 1] - rho[left + i]) * slope(path[left + i], left + i) for i in range(count)]
        new = list(path)
        for j in range(count):
            new[left + j + 1] = path[left + j if printed else left] + sum(moves[: j + 1])
        changes = [
            ((alpha[left + j] * (new[left + j] - path[left + j])) ** 2).sum(axis=-1).max() for j in range(1, count)
        ]
        stride = next((j for j, change in enumerate(changes, 1) if change > tolerance), count)
        new[left + count + 1 : left + count + 1 + stride] = [new[left + count]] * min(stride, last - left - count)
        path, left, rounds, calls = new, left + stride, rounds + 1, calls + count
    return alpha[-1] * path[-1], rounds, calls


@identity(
    "ParaDiGMS' sliding window",
    topic=TOPIC,
    formula=r"y_{\ell+j+1}^{(k+1)} = y_\ell^{(k)} + \sum_{i\le j}\Delta\rho_{\ell+i}\,\epsilon^*_{\ell+i},\quad"
    r" \text{stride} = \min\{j:\ |\Delta y_{\ell+j}|^2 > \text{tol}\}\cup\{p\}:\quad"
    r" \text{tol} = 0\ \Rightarrow\ \text{DDIM}",
    covers=["PODC9-51", "PODC9-52"],
    refutes=["PODC9-52"],
    control="the anchor of the printed algorithm, point j for point j + 1",
    needs=small,
    most=6,
)
def sliding_window(case: ModelCase, wrong: bool) -> list[Sides]:
    """The algorithm on numbers and the library's against DDIM without tolerance, against each other with one."""
    times, size = grid(case), np.abs(case.x).max()
    target = run(ddim(case.process, times), case.model, case.x)
    size = size + np.abs(target).max()
    sides = []
    for window in (1, 3, STEPS):
        sides.append(Sides(algorithm_8(case, times, window, 0.0, wrong)[0], target, size))
        sides.append(Sides(paradigms(case.process, case.model, case.x, times, window=window).x, target, size))
    tolerance = float(1e-6 * size**2)
    x, rounds, calls = algorithm_8(case, times, 4, tolerance, wrong)
    found = paradigms(case.process, case.model, case.x, times, window=4, tolerance=tolerance)
    return [*sides, Sides(found.x, x, size), Sides([found.sweeps, found.nfe], [rounds, calls])]


@identity(
    "One step, and the trapezoidal rule",
    topic=TOPIC,
    formula=r"p = 1:\ \text{Euler};\qquad x_{\ell+j+1} = x_\ell - \Delta t\Big[\tfrac{1}{2}v_\ell +"
    r" \sum_{i=1}^{j}v_{\ell+i} + \tfrac{1}{2}v_{\ell+j+1}\Big]:\quad \text{weights of sum } j + 1",
    covers=["PODC9-53"],
    refutes=["PODC9-53"],
    over="once",
    control="the sum of the printed rule, which stops one term early",
)
def trapezoidal(case: Case, wrong: bool) -> list[Sides]:
    """A constant drift; the implicit rule's product for Gaussian data; Euler's table in t."""
    schedule, drift = FlowMatching(), case.rng.standard_normal((3, 2))
    times, start = np.linspace(0.9, 0.1, 9), case.rng.standard_normal((3, 2))
    found = paradigms(schedule, lambda *_: drift, start, times, tolerance=1e-20, clock="t", trapezoidal=True)
    h = times[0] - times[1]
    # weights of the printed rule for x_{l+j+1}: 1/2 + (j - 1) + 1/2
    weights = np.arange(9.0) - (np.arange(9) > 0 if wrong else 0)
    constant = start - h * weights[:, None, None] * drift
    mean, variance = float(case.rng.standard_normal()), float(case.rng.uniform(0.1, 2.0))
    law = Gaussian([mean], variance)
    model, x = ExactModel(law, schedule), case.rng.standard_normal((4, 1))

    def rate(t: float) -> float:
        return float((-(1 - t) * variance + t) / ((1 - t) ** 2 * variance + t**2))

    # u = x - alpha m, as the rule carries alpha m exactly: (u_{j+1} - u_j) / (-h) = (a_j u_j + a_{j+1} u_{j+1}) / 2
    gain = np.prod([(1 - h * rate(s) / 2) / (1 + h * rate(t) / 2) for s, t in pairwise(times.tolist())])
    fixed = (1 - times[-1]) * mean + gain * (x - (1 - times[0]) * mean)
    settled = paradigms(schedule, model, x, times, tolerance=1e-28, clock="t", trapezoidal=True, window=5)
    single = paradigms(schedule, model, x, times, window=1, clock="t")
    euler = run(runge_kutta(schedule, times, method="euler"), model, x)
    size = np.abs(x).max() + abs(mean)
    return [
        Sides(found.path, constant, np.abs(start).max() + np.abs(drift).max()),
        Sides(settled.x, fixed, size),
        Sides(single.x, euler, size),
        Sides([single.sweeps, single.nfe], [8, 8]),
    ]
