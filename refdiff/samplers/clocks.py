r"""The probability flow in a clock u, for the coordinate y = x / m in which dy/du is simple.

    clock       u                         m                         F = dy/du
    t           t                         1                         v                         flow matching
    rho         sigma / alpha             alpha                     e                         EDM, LMS, DEIS
    1/rho       alpha / sigma             sigma                     D
    ratio       sigma / (alpha + sigma)   alpha + sigma             e - D                     the straight path
    angle       arctan(sigma / alpha)     sqrt(alpha^2 + sigma^2)   (alpha e - sigma D) / m   the rotation
    log_snr     lambda                    1                         v / lambda'               Heun in lambda

with x = alpha D + sigma e and v = alpha' D + sigma' e. In rho, 1/rho and ratio D and e enter with constant weights, so
Euler's method there is DDIM; on the straight path x_t = (1 - t) x_0 + t eps it is in t as well.
Sources: PODC9-09, PODC9-28, PODC9-55, DMI-76.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import one_of
from refdiff.samplers.numbers import Number, log, sqrt
from refdiff.samplers.recorder import Point, Recorder, State


@dataclass(frozen=True)
class Clock:
    """A time variable u of the probability flow with the coordinate y = x / scale in which dy/du is simple.

    Attributes:
        prediction: what the model answers.
        value, scale: u and m at a Point.
        log_snr: u to lambda, for the points between; None for t itself.
        rate: (x, answer, point) to dy/du, for arrays and symbolic states alike.
        starts_pure, ends_clean: whether u is finite where alpha = 0, and where sigma = 0.
    """

    prediction: str
    value: Callable[[Point], Number]
    scale: Callable[[Point], Number]
    log_snr: Callable[[Number], Number] | None
    rate: Callable[[Any, Any, Point], Any]
    starts_pure: bool
    ends_clean: bool

    def between(self, rec: Recorder, s: Point, t: Point, part: float) -> Point:
        """The Point a given part of the way from s to t in u."""
        if part in (0, 1):
            return t if part else s
        u = self.value(s) + part * (self.value(t) - self.value(s))
        return rec.at(float(u)) if self.log_snr is None else rec.at_log_snr(self.log_snr(u))

    def moved(self, x: State, s: Point, t: Point, increment: State) -> State:
        """x at t after y has grown by the increment since s."""
        result: State = (self.scale(t) / self.scale(s)) * x + self.scale(t) * increment
        return result

    def slope(self, rec: Recorder, x: State, point: Point) -> State:
        """dy/du at x, by one evaluation: of the clock's own prediction, or of the denoiser if `rec` asks for that."""
        answer = rec.evaluate(x, point)
        if rec.prediction == "denoiser":
            answer = _predicted(self.prediction, x, answer, point)
        found: State = self.rate(x, answer, point)
        return found


def _predicted(prediction: str, x: State, clean: State, point: Point) -> State:
    """A prediction from the denoiser's answer, where sigma > 0."""
    c, noise = point.coefficients, (x - point.alpha * clean) / point.sigma
    made: Mapping[str, Callable[[], State]] = {
        "denoiser": lambda: clean,
        "noise": lambda: noise,
        "velocity": lambda: c.dalpha * clean + c.dsigma * noise,
        "v_prediction": lambda: point.alpha * noise - point.sigma * clean,
    }
    return made[prediction]()


def _answer(x: Any, answer: Any, point: Point) -> Any:  # noqa: ARG001
    return answer


def _along_log_snr(x: Any, velocity: Any, point: Point) -> Any:  # noqa: ARG001
    return velocity * (-2 * point.sigma**2 / point.coefficients.g2)


def _along_ratio(x: Any, v_prediction: Any, point: Point) -> Any:
    """e - D, from v = alpha e - sigma D and x = alpha D + sigma e."""
    square = point.alpha**2 + point.sigma**2
    return x * ((point.sigma - point.alpha) / square) + v_prediction * (_total(point) / square)


def _along_angle(x: Any, v_prediction: Any, point: Point) -> Any:  # noqa: ARG001
    return v_prediction * (1 / _length(point))


def _total(p: Point) -> Number:
    return p.alpha + p.sigma


def _length(p: Point) -> Number:
    return sqrt(p.alpha**2 + p.sigma**2)


def _ratio(p: Point) -> Number:
    return p.sigma / _total(p)


def _angle(p: Point) -> Number:
    # the two sides apart: at alpha = 0 their ratio is infinite
    return np.arctan2(p.sigma, p.alpha)


def _one(p: Point) -> Number:  # noqa: ARG001
    return 1.0


CLOCKS: Mapping[str, Clock] = MappingProxyType(
    {
        "t": Clock("velocity", lambda p: p.t, _one, None, _answer, True, True),
        "rho": Clock("noise", lambda p: p.rho, lambda p: p.alpha, lambda u: -log(u), _answer, False, True),
        "1/rho": Clock("denoiser", lambda p: p.alpha / p.sigma, lambda p: p.sigma, log, _answer, True, False),
        "ratio": Clock("v_prediction", _ratio, _total, lambda u: log(1 / u - 1), _along_ratio, True, True),
        "angle": Clock("v_prediction", _angle, _length, lambda u: -log(np.tan(u)), _along_angle, True, True),
        "log_snr": Clock("velocity", lambda p: p.log_snr, _one, lambda u: u, _along_log_snr, False, False),
    }
)


def clock_named(name: str) -> Clock:
    """The clock of that name.

    Raises:
        ValueError: an unknown name.
    """
    return CLOCKS[one_of("clock", name, CLOCKS)]
