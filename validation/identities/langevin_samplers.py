r"""Langevin's iteration as tables, on Gaussian data: annealing, its stability, and what the printed loop leaves out.

At one noise level of variance T, and with the step eta_l = delta sigma_l^2 / sigma_1^2 at level l,

    V <- (1 - eta / T)^2 V + 2 eta,      V -> T / (1 - eta / 2T)
    stable for eta < 2 T:                delta / sigma_1^2 < 2 (1 + S / sigma_l^2)

The printed algorithm visits the levels L..2 and starts at N(0, I). Its output is a draw for sigma_2 and not for
sigma_1: for one data point .02929 in place of .01053, on ten levels from 10 to .1 with delta = .001. The loop has to go
on to level 1, and its start is N(0, sigma_L^2).
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.processes import AffineProcess
from refdiff.samplers.langevin import annealed_langevin, langevin, predictor_corrector
from refdiff.samplers.propagation import propagate
from refdiff.schedules import VEPower
from refdiff.validation.cases import Case, ProcessCase
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import noised_variance

TOPIC = "Langevin samplers"
PROCESS = AffineProcess(VEPower(T=20.0))


def levels(rng: np.random.Generator, count: int) -> Array:
    """Decreasing noise levels in a geometric row, shape (count,)."""
    return np.geomspace(rng.uniform(5, 15), rng.uniform(0.05, 0.2), count)


@identity(
    "Annealed Langevin on Gaussian data, level by level",
    topic=TOPIC,
    formula=r"V \leftarrow (1 - \eta_l / T_l)^2 V + 2 \eta_l,\quad T_l = S + \sigma_l^2,\quad"
    r" \eta_l = \delta \sigma_l^2 / \sigma_1^2",
    covers=["PODA-331", "PODA-317"],
    over="once",
    control="Song and Ermon's alpha_i taken for eta, twice the step",
)
def annealed(case: Case, wrong: bool) -> list[Sides]:
    """The table propagated, in either convention of the step, against the recursion from N(0, sigma_L^2)."""
    sigmas, data, delta = levels(case.rng, 6), case.rng.uniform(0.2, 2), case.rng.uniform(0.1, 1)
    delta *= sigmas[-1] ** 2
    mean, m, v = 0.7, 0.0, sigmas[0] ** 2
    for sigma in sigmas:
        eta, target = (1 if wrong else 0.5) * delta * sigma**2 / sigmas[-1] ** 2, data + sigma**2
        for _ in range(5):
            m, v = m + eta / target * (mean - m), (1 - eta / target) ** 2 * v + 2 * eta
    sides = []
    for size, convention in ((delta, "song-ermon"), (delta / 2, "eta")):
        table = annealed_langevin(PROCESS, sigmas, step_size=size, steps=5, convention=convention)
        found = propagate(table, Gaussian([mean], data), Gaussian([0.0], sigmas[0] ** 2)).output
        sides += [Sides(found.cov(), v), Sides(found.mean(), m, scale=mean)]
    return sides


@identity(
    "Annealing has to visit the last noise level",
    topic=TOPIC,
    formula=r"\text{one data point: } V \to \frac{\sigma_1^2}{1 - \delta / 2 \sigma_1^2},"
    r"\quad \text{in general: } V \to \frac{T_1}{1 - \eta_1 / 2 T_1};\quad"
    r" \text{first step: } V = (1 - \eta / T)^2 \sigma_L^2 + 2 \eta",
    covers=["PODA-331", "PODA-317"],
    refutes=["PODA-331"],
    over="once",
    control="the loop and the start of the printed algorithm, l = L, ..., 2 from N(0, I)",
)
def last_level(case: Case, wrong: bool) -> list[Sides]:
    """So many steps that the start is forgotten to rounding, for one point and for a spread out law; and one step."""
    sigmas, sides = levels(case.rng, 3), []
    relative = case.rng.uniform(0.3, 0.6)
    visited = sigmas[:-1] if wrong else sigmas
    for data in (0.0, 0.5 * sigmas[-1] ** 2):
        delta = relative * sigmas[-1] ** 2
        own = delta * (visited[-1] / sigmas[-1]) ** 2  # eta at the last level visited
        table = annealed_langevin(PROCESS, visited, step_size=own, steps=90)
        target = data + sigmas[-1] ** 2
        sides.append(Sides(propagate(table, Gaussian([0.0], data)).output.cov(), target / (1 - delta / (2 * target))))
    first, eta = sigmas[0], 0.1 * sigmas[0] ** 2
    one = propagate(
        langevin(PROCESS, first, step_size=eta, steps=1),
        Gaussian([0.0], 1.0),
        Gaussian([0.0], 1 if wrong else first**2),
    )
    sides.append(Sides(one.output.cov(), (1 - eta / (1 + first**2)) ** 2 * first**2 + 2 * eta))
    return sides


@identity(
    "Langevin's step is stable below twice the variance",
    topic=TOPIC,
    formula=r"\eta = 2 T:\ V_n = V_0 + 4 n T;\qquad \eta = 2 T (1 + a):\ V_n + \frac{T}{a} ="
    r" (1 + 2 a)^{2n} \left( V_0 + \frac{T}{a} \right)",
    covers=["PODA-331", "PODA-317"],
    over="processes",
    control="the bound eta < T",
)
def stability(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Eight steps at the bound, inside it and outside of it, against the closed solution of the recursion."""
    c, data, start = case.process.coefficients(case.t), 0.4, 2.5
    target, sides = noised_variance(c, data), []
    for a in (0.0, -0.3, 0.2):
        eta = float((1 if wrong else 2) * target * (1 + a))
        found = propagate(
            langevin(case.process, case.t, step_size=eta, steps=8),
            Gaussian([0.0], data),
            Gaussian([0.0], start * target),
        ).output
        if a == 0:
            expected = target * (start + 32)
        else:
            # 1 - eta / T = -(1 + 2 a); the fixed point T / (1 - eta / 2T) is -T / a
            fixed = -target / a
            expected = fixed + (1 + 2 * a) ** 16 * (start * target - fixed)
        sides.append(Sides(found.cov(), expected))
    return sides


@identity(
    "A corrector keeps its own stationary law, and hands on what it misses",
    topic=TOPIC,
    formula=r"V_t \leftarrow (1 - \eta / P_t)^2 V_t + 2 \eta,\quad \eta = 2 (r \sigma_t)^2;\qquad"
    r" V_t \to \frac{P_t}{1 - \eta / 2 P_t}",
    covers=["PODA-317"],
    over="processes",
    control="the step 2 r^2 sigma in place of 2 (r sigma)^2",
    most=12,
)
def corrected(case: ProcessCase, wrong: bool) -> list[Sides]:
    """One step of reverse diffusion with corrections, propagated, against both recursions; 60 forget the predictor."""
    schedule, data, ratio = case.schedule, 0.5, 0.5
    (a, b), sides = (schedule.coefficients(u) for u in (case.t, case.s)), []
    start, target = (noised_variance(c, data) for c in (a, b))
    factor = a.alpha / b.alpha
    spread = case.process.channel(case.s, case.t).noise
    reached = (2 - factor - spread / start) ** 2 * start + spread
    eta = 2 * ratio**2 * (b.sigma if wrong else b.sigma**2)
    for count in (1, 3, 60):
        table = predictor_corrector(case.process, [case.t, case.s], corrector_steps=count, snr=ratio)
        v = reached
        for _ in range(count):
            v = (1 - eta / target) ** 2 * v + 2 * eta
        size = max(v, ((2 + factor + spread / start) ** 2 * start + spread) * abs(1 - eta / target) ** (2 * count))
        found = propagate(table, Gaussian([0.0], data)).output.cov()
        sides.append(Sides(found, v, scale=size))
    if eta / target > 0.25:
        sides.append(Sides(found, target / (1 - eta / (2 * target))))
    return sides
