r"""Time grids against closed forms, their densities, and what DDIM loses on each of them.

A grid equal in a clock c(t) has steps dt ~ dc / |c'(t)|. On Gaussian data of standard deviation s a run of DDIM on it,
c from c_0 to c_n in n steps, ends with the ratio of standard deviations 1 - C / n, theta = arctan(sigma / (alpha s)),

    C = (c_n - c_0) / 2 int (theta')^2 dc = (theta_n - theta_0)^2 / 2 + (c_n - c_0) / 2 int (theta' - mean theta')^2 dc

so that equal angles, with theta' constant, lose least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.optimize import minimize

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import ddim
from refdiff.samplers.propagation import propagate
from refdiff.samplers.times import (
    SPACINGS,
    karras,
    leading,
    linspace,
    optimal_ddim,
    trailing,
    uniform,
    uniform_in,
    uniform_log_snr,
)
from refdiff.schedules import FlowMatching, Schedule, VEPower, VPCosine
from refdiff.validation.cases import Case, ProcessCase, TableCase
from refdiff.validation.conditions import preserving, smooth, whole_process
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.numeric import derivative, extrapolate, legendre

TOPIC = "Time grids"

Map = Callable[[Any], Any]


@identity(
    "Equal steps of log-SNR in closed form",
    topic=TOPIC,
    formula=r"\lambda_i = \lambda_T + \tfrac{i}{M}(\lambda_0 - \lambda_T):\quad"
    r" t = \frac{1}{1 + e^\lambda}\ (\mathrm{FM}),\ e^{-\lambda}\ (\mathrm{EDM}),\ \tfrac{2}{\pi}\arctan e^{-\lambda}"
    r"\ (\mathrm{VP\ cos});\quad t_\lambda(\lambda(t)) = t",
    covers=["PODC9-22", "PODC9-27"],
    over="once",
    control="lambda as the whole log signal-to-noise ratio",
)
def log_snr_grids(case: Case, wrong: bool) -> Iterator[Sides]:
    """Grids against inverse maps of their schedules, and their steps of lambda against one another."""
    rate = 2 if wrong else 1
    closed: list[tuple[Schedule, Map, Map]] = [
        (FlowMatching(), lambda t: np.log((1 - t) / t), lambda lam: 1 / (1 + np.exp(rate * lam))),
        (VEPower(T=80.0), lambda t: -np.log(t), lambda lam: np.exp(-rate * lam)),
        (
            VPCosine(0.0),
            lambda t: -np.log(np.tan(np.pi * t / 2)),
            lambda lam: 2 / np.pi * np.arctan(np.exp(-rate * lam)),
        ),
    ]
    for schedule, log_snr, inverse in closed:
        start, end = case.rng.uniform(0.7, 0.95) * schedule.T, case.rng.uniform(0.02, 0.2) * schedule.T
        times = uniform_log_snr(schedule, 11, start=start, end=end)
        lam = log_snr(start) + np.arange(12) / 11 * (log_snr(end) - log_snr(start))
        yield Sides(times, inverse(lam))
        yield Sides(np.diff(log_snr(times)), (lam[-1] - lam[0]) / 11, scale=np.abs(lam).max())


@identity(
    "Grids of equal log-SNR, and Karras' grid",
    topic=TOPIC,
    formula=r"\lambda(t_{i+1}) - \lambda(t_i) = \frac{\lambda(t_n) - \lambda(t_0)}{n},\quad t_\lambda(\lambda(t)) = t;"
    r"\qquad \frac{\sigma_i}{\alpha_i} = \Big(\rho_{\max}^{1/7} + \tfrac{i}{n}(\rho_{\min}^{1/7} -"
    r" \rho_{\max}^{1/7})\Big)^7",
    covers=["PODC9-27"],
    over="processes",
    control="equal steps in t; sigma itself in place of sigma / alpha",
)
def round_trip(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Grids read as log(alpha / sigma) and sigma / alpha, from alpha and sigma; times there and back."""
    times = (uniform if wrong else uniform_log_snr)(case.process, 9, start=case.t, end=case.s)
    c = case.schedule.coefficients(times)
    lam = np.log(c.alpha) - np.log(c.sigma)
    # log alpha, from alpha, is what rounds: it has the digits of 1
    size = np.abs(lam).max() + np.abs(np.log(c.alpha)).max() + 1
    back = case.schedule.time_of_log_snr(case.schedule.log_snr(times))
    c = case.schedule.coefficients(karras(case.process, 10, start=case.t, end=case.s))
    noise = c.sigma if wrong else c.sigma / c.alpha
    high, low = (noise[i] ** (1 / 7) for i in (0, -1))
    return [
        Sides(np.diff(lam), (lam[-1] - lam[0]) / 9, scale=size),
        Sides(back, times),
        Sides(noise, (high + np.arange(11) / 10 * (low - high)) ** 7),
    ]


@identity(
    "How dense a grid of equal log-SNR is",
    topic=TOPIC,
    formula=r"n\,\Delta t \to \frac{\lambda(t_0) - \lambda(t_n)}{|\lambda'(t)|};\quad \lambda' = -\frac{1}{t(1-t)}\ "
    r"(\mathrm{FM}),\ -\frac1t\ (\mathrm{EDM}),\ -\frac{g^2}{2\sigma^2}",
    covers=["PODC9-22"],
    over="processes",
    evidence=ORDER,
    control="lambda' of the whole log signal-to-noise ratio",
    needs=smooth,
)
def density(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The two steps beside the middle of ever finer grids against g^2 and sigma; the two closed forms of lambda'."""
    spans, middle = [], []
    for n in (8, 16, 32):
        times = uniform_log_snr(case.process, n, start=case.t, end=case.s)
        spans.append(np.asarray(n * (times[n // 2 - 1] - times[n // 2 + 1]) / 2))
        middle.append(times[n // 2])
    c = case.schedule.coefficients(middle[0])
    total = case.schedule.log_snr(case.s) - case.schedule.log_snr(case.t)
    slope = c.g2 / (1 if wrong else 2) / c.sigma**2
    t = case.s / case.process.T
    return [
        Sides(extrapolate(spans, first=2, step=2), total / slope),
        Sides(FlowMatching().dlog_snr(t), -1 / (t * (1 - t))),
        Sides(VEPower().dlog_snr(t), -1 / t),
    ]


@identity(
    "Indices of a table",
    topic=TOPIC,
    formula=r"\tau_i = i\lfloor N/n \rfloor + o\ (\text{leading}),\quad N - i N/n - 1\ (\text{trailing}),\quad"
    r" (N-1)\tfrac{i}{n-1}\ (\text{linspace});\qquad \bar\alpha_{\tau} = \prod_{j \le \tau + 1} (1 - \beta_j)",
    covers=["DMI-37", "TOPA-48"],
    over="tables",
    control="index 0 of a library taken for t = 0, before the first beta",
    needs=lambda case: case.table.steps >= 20,
)
def table_grids(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """alpha_bar at the times of the grids against the product of 1 - beta that a library stores at the indices."""
    table, size = case.table, case.table.steps
    stored = np.cumprod(1 - table.betas)
    for n in (1, 4, 5, 10):
        chosen = {
            "leading": (leading(table, n), [i * (size // n) for i in range(n)]),
            "trailing": (trailing(table, n), [round(size - i * size / n) - 1 for i in range(n)][::-1]),
            "linspace": (linspace(table, n), [round((size - 1) * i / max(n - 1, 1)) for i in range(n)]),
        }
        for times, indices in chosen.values():
            alpha = table.alpha(times[:-1] - 1 if wrong else times[:-1])[::-1]
            yield Sides(alpha**2, stored[indices], scale=1.0)
    offset = leading(table, 4, steps_offset=1, set_alpha_to_one=False)
    yield Sides(table.alpha(offset[[-1, -2]]) ** 2, stored[:2], scale=1.0)


# ---------------------------------------------------------------------- what DDIM loses on a grid


@identity(
    "What DDIM loses on each grid",
    topic=TOPIC,
    formula=r"n\Big(1 - \frac{\mathrm{std}}{\mathrm{std}^*}\Big) \to \frac{(\theta_n - \theta_0)^2}{2} +"
    r" \frac{c_n - c_0}{2}\int_{c_0}^{c_n}\Big(\frac{d\theta}{dc} - \frac{\theta_n - \theta_0}{c_n - c_0}\Big)^2 dc",
    covers=["DMI-80", "PODC9-12", "PODC9-11"],
    refutes=["DMI-80"],
    over="processes",
    evidence=ORDER,
    control="equal steps of alpha_bar taken for equal steps of log alpha_bar",
    needs=lambda case: whole_process(case) and preserving(case),
    most=3,
)
def constants(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """Propagated runs of 8 to 64 steps on the grid of every clock, extrapolated, against the integral over lambda."""
    start, end = case.t, 0.2 * case.t
    a, b = (case.schedule.coefficients(t) for t in (start, end))
    std = float(np.sqrt(a.sigma * b.sigma / (a.alpha * b.alpha)))
    lam, (u, w) = np.array([a.log_snr, b.log_snr]), legendre(48)
    inside = lam[0] + u * (lam[1] - lam[0])
    # theta = arctan(e^-lambda / s): d theta / d lambda = -1 / (2 cosh(lambda + log s))
    turning = 1 / (2 * np.cosh(inside + np.log(std)))
    turn = float(-np.diff(np.arctan(np.exp(-lam) / std))[0])
    constant = {}
    for name, clock in SPACINGS.items():
        of_log_snr: Map = clock.of_log_snr
        rate = np.abs([derivative(of_log_snr, float(x), 0.02) for x in inside])
        moved = np.abs(np.diff(clock.of_log_snr(lam)))[0]
        uneven = (lam[1] - lam[0]) * (w @ (rate * (turning / rate - turn / moved) ** 2))
        constant[name] = turn**2 / 2 + moved / 2 * uneven
    for name in ["alpha_bar"] if wrong else SPACINGS:
        errors = []
        for n in (8, 16, 32, 64):
            times = uniform_in(case.process, n, name, start=start, end=end)
            found = propagate(ddim(case.process, times), Gaussian([0.0], std**2))
            errors.append(n * (1 - np.sqrt(found.output.cov() / found.target().cov())))
        yield Sides(extrapolate(errors), constant["log_alpha_bar" if wrong else name])


@identity(
    "The best grid of DDIM",
    topic=TOPIC,
    formula=r"\max_{t_1..t_{N-1}} \prod_i \cos(\theta_i - \theta_{i-1}) = \cos^N\frac{\theta_N - \theta_0}{N},"
    r"\qquad \theta_T = \tfrac\pi2,\ \theta_0 = 0:\ \cos^N\frac{\pi}{2N}",
    covers=["PODC9-11"],
    over="processes",
    control="the angle arctan(sigma / alpha) for data of another standard deviation",
    needs=whole_process,
)
def best(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The propagated law on the grid from T to 0 against the power of one cosine."""
    for std in (0.3, 2.0):
        for steps in (1, 4, 16):
            times = optimal_ddim(case.process, steps, std=1.0 if wrong else std)
            first, last = (case.schedule.coefficients(float(t)) for t in (times[0], times[-1]))
            turn = np.arctan2(first.sigma, first.alpha * std) - np.arctan2(last.sigma, last.alpha * std)
            found = propagate(ddim(case.process, times), Gaussian([0.4], std**2))
            ratio = np.sqrt(found.output.cov() / found.target().cov())
            yield Sides(ratio, np.cos(turn / steps) ** steps, scale=1.0)


@identity(
    "The best grid of DDIM for several variances",
    topic=TOPIC,
    formula=r"\min_{t_1..t_{N-1}} W_2^2 = \min \sum_j V_j \Big(1 - \prod_i \cos(\theta_{j,i} - \theta_{j,i-1})\Big)^2",
    covers=["PODC9-11"],
    over="once",
    control="equal angles for the mean standard deviation",
    most=2,
)
def best_of_several(case: Case, wrong: bool) -> list[Sides]:
    """The propagated W2 on the grid against the least that a search without derivatives finds in log-SNR."""
    std = case.rng.uniform(0.05, 3.0, 3)
    process, law = AffineProcess(FlowMatching()), Gaussian(np.zeros(3), std**2)

    def distance(times: Array) -> float:
        return propagate(ddim(process, times), law).wasserstein()

    found = optimal_ddim(process, 3, std=std.mean() if wrong else std)
    inner = -np.log(found[1:-1] / (1 - found[1:-1]))
    search = minimize(
        lambda lam: distance(np.array([1.0, *(1 / (1 + np.exp(lam))), 0.0])) if lam[0] < lam[1] else np.inf,
        inner + case.rng.uniform(-0.1, 0.1, 2),
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-14},
    )
    return [Sides(distance(found), search.fun)]
