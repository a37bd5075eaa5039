r"""Interpolants: how a pair of points is joined, x_t = A_t x_0 + B_t x_1 + b_t + R_t z on [0, T].

    A_0 = I, B_0 = 0;   A_T = 0, B_T = I;   V = R R',   spread S with S + S' = V'

At one time that is a `Blend` with its rates: numbers a, b and c for most, matrices for bridges of linear processes.
Times run from the first law, at 0, to the second, at T. The noise enters by V and S alone, which stay finite where
c' does not: of a bridge, c^2 = eps t (1 - t), S = c c' = eps (1 - 2 t) / 2. Sources: PODB-40, PODB-41, PODB-43, DMI-60,
TOPB-53, TOPB-67; Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic interpolants".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from refdiff.arguments import Array, real_array, real_scalar
from refdiff.operators import Operator
from refdiff.schedules import Schedule

ZERO = np.zeros(())


class Blend(NamedTuple):
    """x_t = A x_0 + B x_1 + b + R z at one time, with rates; each part but offsets is an operator: (), (d,), (d, d).

    first is A, second B, offset b, noise V = R R' and spread S with S + S' = V': E[R' z | x_t] = -S grad log p_t.
    dfirst, dsecond and doffset are A', B' and b', d2first, d2second, d2offset and dspread A'', B'', b'' and S'; the
    operators among the latter are None where they are not known.
    """

    first: Operator
    second: Operator
    noise: Operator
    dfirst: Operator
    dsecond: Operator
    spread: Operator
    d2first: Operator | None = None
    d2second: Operator | None = None
    dspread: Operator | None = None
    offset: Array = ZERO
    doffset: Array = ZERO
    d2offset: Array = ZERO


@runtime_checkable
class Interpolant(Protocol):
    """How a pair of points is joined on [0, T]."""

    @property
    def T(self) -> float:
        """The final time."""

    def at(self, t: float) -> Blend:
        """The blend of a time t in [0, T]."""


# a function of time with its first and second derivative
Curve = Callable[[float], tuple[float, float, float]]


@dataclass(frozen=True)
class ScalarInterpolant:
    """x_t = a x_0 + b x_1 + c z with numbers a, b and c.

    Args:
        first: t -> (a, a', a'').
        second: t -> (b, b', b'').
        variance: t -> (c^2, (c^2)', (c^2)''), nothing where left out.
        T: the final time.

    Raises:
        TypeError: one of them is no function.
        ValueError: T is not positive.
    """

    first: Curve
    second: Curve
    variance: Curve | None = None
    T: float = 1.0

    def __post_init__(self) -> None:
        for name in ("first", "second", "variance"):
            curve = getattr(self, name)
            if not callable(curve) and (name != "variance" or curve is not None):
                raise TypeError(f"{name} must be a function t -> (value, rate, acceleration), got {curve!r}")
        real_scalar("T", self.T, low=0, open_low=True)

    def at(self, t: float) -> Blend:
        """The blend of a time t in [0, T].

        Raises:
            ValueError: t is outside, or a curve does not answer with a finite value and two derivatives; these may be
                infinite at an end, where there is a marginal but no velocity.
        """
        now = real_scalar("t", t, low=0, high=self.T)
        a, b = (_three(name, curve(now)) for name, curve in (("first", self.first), ("second", self.second)))
        v = _three("variance", self.variance(now)) if self.variance is not None else np.zeros(3)
        if v[0] < 0:
            raise ValueError(f"variance must not be negative, got {v[0]} at t = {now}")
        (value, rate, bend), halves = zip(a, b, v, strict=True), np.array([1.0, 1.0, 0.5])
        return Blend(*(np.asarray(part) for part in (*value, *(rate * halves), *(bend * halves))))

    def retimed(self, clock: Curve, T: float = 1.0) -> ScalarInterpolant:
        """The interpolant at the times rho(t): same marginals, at other times.

        Args:
            clock: t -> (rho, rho', rho''), with rho(0) = 0 and rho(T) the final time of this one.
            T: the final time of the new one.
        """

        def curve(old: Curve) -> Curve:
            def new(t: float) -> tuple[float, float, float]:
                rho, rate, acceleration = clock(t)
                value, slope, bend = old(rho)
                return value, slope * rate, bend * rate**2 + slope * acceleration

            return new

        variance = None if self.variance is None else curve(self.variance)
        return ScalarInterpolant(curve(self.first), curve(self.second), variance, T)


def linear(noise: float = 0.0) -> ScalarInterpolant:
    """x_t = (1 - t) x_0 + t x_1 + c z, with a constant c = `noise`: rectified flow, or a beam about it."""
    return ScalarInterpolant(lambda t: (1 - t, -1.0, 0.0), lambda t: (t, 1.0, 0.0), _constant(noise))


def trigonometric(noise: float = 0.0) -> ScalarInterpolant:
    """x_t = cos(pi t / 2) x_0 + sin(pi t / 2) x_1 + c z, with a constant c = `noise`."""
    u = np.pi / 2

    def cosine(t: float) -> tuple[float, float, float]:
        return np.sin(u * (1 - t)), -u * np.cos(u * (1 - t)), -(u**2) * np.sin(u * (1 - t))

    def sine(t: float) -> tuple[float, float, float]:
        return np.sin(u * t), u * np.cos(u * t), -(u**2) * np.sin(u * t)

    return ScalarInterpolant(cosine, sine, _constant(noise))


def brownian(epsilon: float, T: float = 1.0) -> ScalarInterpolant:
    """x_t = (1 - t/T) x_0 + (t/T) x_1 + sqrt(eps t (T - t) / T) z: bridges of sqrt(eps) w, the noise rate `epsilon`.

    Raises:
        ValueError: epsilon is negative, or T is not positive.

    Examples:
        >>> from refdiff.interpolants import brownian
        >>> blend = brownian(2.0).at(0.25)  # variance eps t (1 - t)
        >>> print(blend.first, blend.second, blend.noise)
        0.75 0.25 0.375
    """
    e, end = real_scalar("epsilon", epsilon, low=0), real_scalar("T", T, low=0, open_low=True)
    return ScalarInterpolant(
        lambda t: ((end - t) / end, -1 / end, 0.0),
        lambda t: (t / end, 1 / end, 0.0),
        lambda t: (e * t * (end - t) / end, e * (end - 2 * t) / end, -2 * e / end),
        end,
    )


def from_schedule(schedule: Schedule) -> ScalarInterpolant:
    """x_t = alpha x_0 + sigma x_1 of a schedule: x_0 the data, x_1 ~ N(0, I) the noise, T the schedule's.

    Raises:
        TypeError: no schedule.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be a Schedule, got {schedule!r}")

    def alpha(t: float) -> tuple[float, float, float]:
        c = schedule.coefficients(t)
        return float(c.alpha), float(c.dalpha), float(c.d2alpha)

    def sigma(t: float) -> tuple[float, float, float]:
        c = schedule.coefficients(t)
        return float(c.sigma), float(c.dsigma), float(c.d2sigma)

    return ScalarInterpolant(alpha, sigma, T=schedule.T)


def _constant(noise: float) -> Curve | None:
    c = real_scalar("noise", noise, low=0)
    return (lambda t: (c**2, 0.0, 0.0)) if c else None


def _three(name: str, value: Any) -> Array:
    found = real_array(name, value, finite=False)
    if found.shape != (3,):
        raise ValueError(f"{name} must answer with a value and two derivatives, got shape {found.shape}")
    if np.isnan(found).any() or np.isinf(found[0]):
        raise ValueError(f"{name} must answer with a finite value and derivatives, got {found}")
    return found
