r"""UniPC as a table: exact on polynomials, its relatives, and the constants of its local errors.

UniP-p with solved coefficients is exact where the prediction is a polynomial of degree < p in lambda along the flow,
and its corrector one degree further. Along the flow of Gaussian data of variance v the denoiser is proportional to
D(lambda) = v / sqrt(v + e^{-2 lambda}), its slope in x / alpha is q = v / (v + e^{-2 lambda}), and after an exact
history with equal steps h, l_p(u) = u (u + 1) ... (u + p - 1),

    predictor   (x_t - x*_t) / alpha_t  ~  P h^{p+1},   P = -D^{(p)} / p! int_0^1 l_p
    corrector                           ~  C h^{p+2},   C = -D^{(p+1)} / (p+1)! int_0^1 (u - 1) l_p
                                                     + q P / p! int_0^1 l_p

where the second term is the evaluation at the predicted instead of the corrected point. Both are without the 1/2 of
the paper, which changes them for UniP-2 and UniC-1.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import factorial

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.tableau import Tableau
from refdiff.samplers.unipc import unip, unipc
from refdiff.schedules import VEPower
from refdiff.validation.cases import Case, ProcessCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identities.ddim_samplers import between
from refdiff.validation.identities.sde_solvers import moments
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import extrapolate

TOPIC = "UniPC"


@identity(
    "UniP and UniC integrate polynomials of lambda exactly",
    topic=TOPIC,
    formula=r"\sum_i r_i^{j-1}a_i = \frac{j!\,k\,\varphi_{j+1}(k)}{B(k)}:\quad\text{UniP-}p\text{ exact for}"
    r"\text{ degree} < p,\ \text{UniC-}p\text{ for degree} \le p",
    covers=["PODC9-21", "PODC9-31"],
    over="processes",
    control="a_1 = 1/2 in UniP-2 and UniC-1, as the paper sets it",
    evidence=QUADRATURE,
    needs=smooth,
    most=12,
)
def polynomials(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The rows of the table on random polynomials against the flow integrated in the schedule's own time."""
    rng, schedule = case.rng, case.schedule
    times, centre = between(case, 5, rng), float(schedule.log_snr(case.s))
    length = centre - float(schedule.log_snr(case.t))
    for order, kind, prediction in (
        (1, "bh2", "denoiser"),
        (2, "bh1", "noise"),
        (3, "bh2", "denoiser"),
        (4, "bh1", "noise"),
    ):
        table = unipc(case.process, times, order=order, solver_type=kind, prediction=prediction,
                      lower_order_final=False, halves=wrong)  # fmt: skip
        c = rng.standard_normal(order + 1)

        def output(lam: Array, c: Array = c) -> Array:
            return np.asarray(np.polynomial.polynomial.polyval((lam - centre) / length, c))

        # the last corrected stage, and the output with the highest power left out
        for stage, (s, t), lower in ((table.stages - 2, times[-3:-1], c), (table.stages - 1, times[-2:], c[:-1])):

            def along(lam: Array, lower: Array = lower) -> Array:
                return output(lam, lower)

            factor, total, _ = moments(schedule, float(s), float(t), 0.0, prediction, along, 24)
            states, outputs, _ = table.row(stage)
            terms = [w * along(table.scalars.log_snr[j]) for j, w in outputs]
            yield Sides(states[0][1], factor)
            yield Sides(sum(terms), total, np.sum(np.abs(terms)))


@identity(
    "UniP-2 with B(h) = e^h - 1 is DPM-Solver++(2M), with B(h) = h it is not",
    topic=TOPIC,
    formula=r"x_t = \frac{\sigma_t}{\sigma_s}x_s + \alpha_t(1 - e^{-h})\big((1 + \tfrac{r}{2})D_s -"
    r" \tfrac{r}{2}D_q\big),\qquad r = h / h_{\text{last}}",
    covers=["PODC9-35", "PODC9-34"],
    over="processes",
    control="B(h) = h",
)
def second_order(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The rows of the table against the book's Algorithm 7."""
    times = between(case, 5, case.rng)
    table = unip(case.process, times, solver_type="bh1" if wrong else "bh2", lower_order_final=False)
    c = case.schedule.coefficients(times)
    h = np.diff(c.log_snr)
    yield Sides(table.states[1:, 0], c.sigma[1:] / c.sigma[:-1])
    size = -c.alpha[1:] * np.expm1(-h)
    yield Sides(table.outputs[1, 0], size[0])
    r = h[1:] / h[:-1]
    found = np.stack([table.outputs[2:, 0], table.outputs[2:, 1]])
    yield Sides(found, np.stack([1 + r / 2, -r / 2]) * size[1:], (1 + r) * size[1:])


@identity(
    "UniP-1 is DDIM for either prediction",
    topic=TOPIC,
    formula=r"\frac{\sigma_t}{\sigma_s}x_s - \alpha_t(e^{-h} - 1)D = \frac{\alpha_t}{\alpha_s}x_s -"
    r" \sigma_t(e^h - 1)\epsilon = \alpha_t D + \sigma_t\epsilon",
    covers=["PODC9-24", "PODC9-08"],
    over="processes",
    control="the step of the noise prediction with alpha_t in place of sigma_t",
)
def first_order(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """Both tables, in terms of the denoiser, against alpha_t D + sigma_t eps."""
    times = between(case, 4, case.rng)
    c = case.schedule.coefficients(times)
    ratio, size = c.sigma[1:] / c.sigma[:-1], c.alpha[1:] + c.alpha[:-1] * c.sigma[1:] / c.sigma[:-1]
    for prediction in ("denoiser", "noise"):
        table = to_prediction(unip(case.process, times, order=1, prediction=prediction), "denoiser")
        # in the noise form alpha_t / alpha_s is taken apart again: what eps takes from x is the rest
        carry = c.alpha[1:] / c.alpha[:-1]
        terms = np.maximum(ratio, carry)
        slip = c.alpha[1:] / c.sigma[1:] if wrong and prediction == "noise" else 1.0
        yield Sides(table.states[1:, 0], carry - slip * (carry - ratio), terms)
        yield Sides(table.outputs[1:, 0], c.alpha[1:] - ratio * c.alpha[:-1], size + terms * c.alpha[:-1])


def local_errors(p: int, h: float, lam: float, v: float) -> tuple[float, float]:
    """Errors in x / alpha of predictor and corrector after an exact history of p - 1 steps h, up to lambda = lam."""
    process = VEPower(T=50.0)  # sigma = t, alpha = 1
    grid = np.exp(-(lam + h * np.arange(-(p - 1), 3)))
    table: Tableau = unipc(process, grid, order=p, lower_order_final=False, halves=False)
    at = 2 * p - 1  # the predicted stage of the p-th step, and after it the corrected one
    level = v + table.times**2
    states, outputs = np.sqrt(level), v / np.sqrt(level)
    results = []
    for stage in (at, at + 1):
        kept, seen, _ = table.row(stage)
        value = sum(w * states[j] for j, w in kept) + sum(w * outputs[j] for j, w in seen)
        results.append(float(value - np.sqrt(level[stage])))
        outputs[stage] = v / level[stage] * value
    return results[0], results[1]


def denoiser_series(lam: float, v: float, degree: int) -> list[float]:
    """Taylor coefficients of D = v / sqrt(v + e^{-2 lam}) in lam, by the recurrence of a power of a series."""
    w = [np.exp(-2 * lam) * (-2.0) ** k / factorial(k) for k in range(degree + 1)]
    w[0] += v
    power = [w[0] ** -0.5]
    for n in range(1, degree + 1):  # n w_0 p_n = sum_k (-k/2 - n + k) w_k p_{n-k}
        power.append(sum((k / 2 - n) * w[k] * power[n - k] for k in range(1, n + 1)) / (n * w[0]))
    return [float(v * p) for p in power]


@identity(
    "Local errors of UniP-p and UniC-p",
    topic=TOPIC,
    formula=r"-\frac{D^{(p)}}{p!}\int_0^1 l_p\,h^{p+1},\qquad \Big(-\frac{D^{(p+1)}}{(p+1)!}\int_0^1 (u-1)\,l_p"
    r" - q\frac{D^{(p)}}{p!}\frac{(\int_0^1 l_p)^2}{p!}\Big)h^{p+2},\qquad l_p = u(u+1)\cdots(u+p-1)",
    covers=["PODC9-23", "PODC9-34"],
    over="once",
    control="the corrector as if it were evaluated at the exact point",
    evidence=ORDER,
)
def constants(case: Case, wrong: bool) -> Iterator[Sides]:
    """Errors of one step from an exact history, divided by their power of h and extrapolated, against the constants."""
    lam, v = case.rng.uniform(-0.5, 0.5), case.rng.uniform(0.3, 1.5)
    taylor = denoiser_series(lam, v, 4)
    slope = v / (v + np.exp(-2 * lam))
    for p in (1, 2, 3):
        basis = np.polynomial.Polynomial.fromroots(-np.arange(p))
        first, last = basis.integ()(1.0), (basis * np.polynomial.Polynomial([-1.0, 1.0])).integ()(1.0)
        predictor = -taylor[p] * first
        reused = 0.0 if wrong else slope * predictor * first / factorial(p)
        corrector = -taylor[p + 1] * last + reused
        errors = [local_errors(p, 0.16 / 2**i, lam, v) for i in range(4)]
        for which, power, exact in ((0, p + 1, predictor), (1, p + 2, corrector)):
            scaled = [np.asarray(error[which] / (0.16 / 2**i) ** power) for i, error in enumerate(errors)]
            size = abs(taylor[p] * first) + abs(taylor[p + 1] * last)
            yield Sides(extrapolate(scaled), exact, size)
