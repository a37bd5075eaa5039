r"""Heun's method in lambda = log(alpha / sigma), plain and exponential.

The probability flow in lambda is semilinear, dx / d lambda = L x + N, in as many ways as there are predictions:

    velocity   L = 0                       N = v* / lambda'          E = 0
    noise      L = d log alpha / d lambda  N = -sigma eps*           E = log(alpha_t / alpha_s)
    score      the same                    N = sigma^2 s*            the same
    denoiser   L = d log sigma / d lambda  N = alpha x*              E = log(sigma_t / sigma_s)

with E = int L d lambda over the step and h = lambda_t - lambda_s. Exponential Heun is

    x_mid = e^E x + h phi_1(E) N_s,      x_t = x_mid + h phi_2(E) (N_mid - N_s),      N_mid = N at (x_mid, t)

and its case E = 0, x_t = x + h (F_s + F_mid) / 2 with F = v* / lambda', is plain Heun, the family heun-log-snr of
`runge_kutta`. It is exact for constant L and N
affine in lambda, and of order 2 otherwise. None of the three is DPM-Solver-2, from which each differs by O(h^3).
Sources: PODC9-28, PODC9-29, PODC9-30 (Lai et al. 2025, equations 9.4.13 and 9.4.14).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

from numpy.typing import ArrayLike

from refdiff.arguments import one_of
from refdiff.processes import AffineProcess
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, exp, log, phi
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule


class Form(NamedTuple):
    """One way to write the flow as L x + N: growth, E over a step, and force, N as a multiple of the prediction."""

    growth: Callable[[Point, Point], Number]
    force: Callable[[Point], Number]


def _rate(p: Point) -> Number:
    """d lambda / dt = -g^2 / (2 sigma^2)."""
    return -p.coefficients.g2 / (2 * p.sigma**2)


FORMS = MappingProxyType(
    {
        "noise": Form(lambda s, t: log(t.alpha / s.alpha), lambda p: -p.sigma),
        "score": Form(lambda s, t: log(t.alpha / s.alpha), lambda p: p.sigma**2),
        "denoiser": Form(lambda s, t: log(t.sigma / s.sigma), lambda p: p.alpha),
        "velocity": Form(lambda s, t: 0.0, lambda p: 1 / _rate(p)),
    }
)


def exponential_heun(process: AffineProcess | Schedule, times: ArrayLike, *, prediction: str = "noise") -> Tableau:
    """Exponential Heun in lambda.

    Args:
        process, times: the process and the decreasing grid (n + 1,), within 0 < alpha and 0 < sigma.
        prediction: what is left in N: noise, score (the same sampler), denoiser, or velocity (plain Heun).

    Raises:
        ValueError: an unknown prediction, or a grid that reaches an end where lambda is infinite.
    """
    one_of("prediction", prediction, FORMS)
    name = "Heun in log_snr" if prediction == "velocity" else f"Exponential Heun, {prediction}"
    rec = Recorder(name, process, times, prediction)
    rec.finite_log_snr("steps in lambda are finite")
    form = FORMS[prediction]
    x = rec.start
    for s, t in rec.steps:
        h, e = t.log_snr - s.log_snr, form.growth(s, t)
        first = form.force(s) * rec.evaluate(x, s)
        x = exp(e) * x + h * phi(1, e) * first
        second = form.force(t) * rec.evaluate(x, t)
        x = x + h * phi(2, e) * (second - first)
    return rec.finish(x)


_PAPER = "PODC9-29 (Lai et al. 2025)"

FAMILIES = (
    Family("exponential-heun-noise", exponential_heun, 2, "2n", _PAPER, ends_clean=False),
    Family(
        "exponential-heun-denoiser", exponential_heun, 2, "2n", _PAPER, {"prediction": "denoiser"}, ends_clean=False
    ),
)
