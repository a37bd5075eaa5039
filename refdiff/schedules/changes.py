r"""Schedules made from functions of time or from other schedules.

    FunctionSchedule   alpha(t), sigma(t) as the caller's functions
    Transformed        x_t = c(t) x^base_tau(t): another clock and another scale on the same path
    Amplified          x_t = alpha x_0 + c sigma eps: the same signal in c times the noise
    Alignment          the clock and the scale by which one schedule is another

Two schedules with the same range of log(alpha / sigma) differ by a clock and a scale only: equal signal-to-noise
ratios fix tau(t), the ratio of the total scales fixes c(t). Sources: PODB-58, PODB-59, RDX-53.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from refdiff.arguments import Array, real_scalar
from refdiff.schedules.base import Coefficients, Schedule, differentiable, from_variance

Function = Callable[[Array], Array]


@dataclass(frozen=True)
class FunctionSchedule(Schedule):
    """Any schedule given as functions of time; derivatives left out are taken numerically (SciPy's adaptive stencil).

    Args:
        alpha_of, sigma_of: vectorised functions on [0, T] with alpha / sigma decreasing.
        T: final time.
        dalpha_of, dsigma_of, d2alpha_of, d2sigma_of: derivatives where they are known.

    Raises:
        TypeError: one of them is no function.
        ValueError: T is not positive.

    Examples:
        >>> import numpy as np
        >>> from refdiff import FunctionSchedule
        >>> mine = FunctionSchedule(lambda t: np.exp(-t), lambda t: np.sqrt(1 - np.exp(-2 * t)), T=3.0)  # beta = 2
        >>> c = mine.coefficients(0.7)
        >>> print(round(float(c.f), 6), round(float(c.g2), 6))  # dx = -x dt + sqrt(2) dw
        -1.0 2.0
    """

    alpha_of: Function
    sigma_of: Function
    T: float = 1.0
    dalpha_of: Function | None = None
    dsigma_of: Function | None = None
    d2alpha_of: Function | None = None
    d2sigma_of: Function | None = None

    def __post_init__(self) -> None:
        for name in ("alpha_of", "sigma_of", "dalpha_of", "dsigma_of", "d2alpha_of", "d2sigma_of"):
            given = getattr(self, name)
            if not callable(given) and (given is not None or name in ("alpha_of", "sigma_of")):
                raise TypeError(f"{name} must be a function of time, got {given!r}")
        real_scalar("T", self.T, low=0, open_low=True)

    def _coefficients(self, t: Array) -> Coefficients:
        dalpha = self.dalpha_of or self._slope(self.alpha_of)
        dsigma = self.dsigma_of or self._slope(self.sigma_of)
        d2alpha = self.d2alpha_of or self._slope(dalpha)
        d2sigma = self.d2sigma_of or self._slope(dsigma)
        values = (g(t) for g in (self.alpha_of, dalpha, d2alpha, self.sigma_of, dsigma, d2sigma))
        c = differentiable(*(np.broadcast_to(np.asarray(v, dtype=float), t.shape) for v in values))
        unknown = np.isnan(c.dvariance)
        if not unknown.any():
            return c
        # sigma' is infinite where sigma = 0: the variance itself has a slope there, which is g2
        slope = self._slope(lambda u: np.asarray(self.sigma_of(u), dtype=float) ** 2)(t)
        dvariance = np.where(unknown, slope, c.dvariance)
        return c._replace(dvariance=dvariance, g2=np.where(unknown, slope, c.g2))

    def _slope(self, function: Function) -> Function:
        from scipy.differentiate import derivative  # late: it takes longer to import than all of this package

        def slope(t: Array) -> Array:
            # one-sided at the ends of [0, T]; the stencil reaches initial_step away and halves it from there
            reach = 0.02 * self.T
            side = np.where(t < reach, 1, np.where(t > self.T - reach, -1, 0))
            return np.asarray(derivative(function, t, initial_step=reach, step_direction=side, order=8).df)

        return slope

    def _time(self, lam: Array) -> Array:
        return invert_log_snr(self, lam)


@dataclass(frozen=True)
class Transformed(Schedule):
    """Another clock and another scale on the same path: x_t = c(t) x^base_tau(t).

    Args:
        base: the schedule that is followed.
        clock: t -> (tau, tau', tau''), each of the shape of t, increasing, with tau(0) = 0 and tau(T) <= base.T.
        scale: t -> (c, c', c''), positive; None leaves the scale.
        T: final time of the new clock.

    Raises:
        TypeError: base is no schedule, or clock or scale no function.
        ValueError: T is not positive.

    Examples:
        >>> import numpy as np
        >>> from refdiff import FlowMatching, Transformed
        >>> squared = Transformed(FlowMatching(), lambda t: (t**2, 2 * t, 2 + 0 * t))  # tau = t^2
        >>> c = squared.coefficients(0.5)
        >>> print(c.alpha, c.sigma, c.dsigma)
        0.75 0.25 1.0
    """

    base: Schedule
    clock: Callable[[Array], tuple[Array, Array, Array]]
    scale: Callable[[Array], tuple[Array, Array, Array]] | None = None
    T: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.base, Schedule):
            raise TypeError(f"base must be a Schedule, got {self.base!r}")
        for name in ("clock", "scale"):
            given = getattr(self, name)
            if not callable(given) and (given is not None or name == "clock"):
                raise TypeError(f"{name} must be a function of time, got {given!r}")
        real_scalar("T", self.T, low=0, open_low=True)

    def _coefficients(self, t: Array) -> Coefficients:
        tau, dtau, d2tau = (np.broadcast_to(v, t.shape) for v in self.clock(t))
        scale = self.scale(t) if self.scale else (1.0, 0.0, 0.0)
        c, dc, d2c = (np.broadcast_to(v, t.shape) for v in scale)
        base = self.base.coefficients(tau)

        Three = tuple[Array, Array, Array]  # a function of time with its first and second derivative

        def chain(factor: Three, value: Three) -> Three:
            (k, dk, d2k), (u, du, d2u) = factor, value
            slope, bend = du * dtau, d2u * dtau**2 + du * d2tau
            return k * u, dk * u + k * slope, d2k * u + 2 * dk * slope + k * bend

        a, da, d2a = chain((c, dc, d2c), (base.alpha, base.dalpha, base.d2alpha))
        s, ds, d2s = chain((c, dc, d2c), (base.sigma, base.dsigma, base.d2sigma))
        square = c * c, 2 * c * dc, 2 * (dc * dc + c * d2c)
        v, dv, d2v = chain(square, (base.sigma**2, base.dvariance, base.d2variance))
        # an infinite sigma' of the base can meet a clock that stands still: the variance knows what comes of it
        known, _, ds_v, d2s_v = np.isfinite(base.dsigma), *from_variance(v, dv, d2v)
        ds, d2s = np.where(known, ds, ds_v), np.where(known, d2s, d2s_v)
        # lambda' = lambda'_base tau' and g2 = -2 sigma^2 lambda': scale^2 tau' times the base's
        f, g2 = base.f * dtau + dc / c, c * c * dtau * base.g2
        return Coefficients(a, da, d2a, s, ds, d2s, dv, d2v, f, g2, base.log_snr)

    def _time(self, lam: Array) -> Array:
        return invert_log_snr(self, lam)


@dataclass(frozen=True)
class Amplified(Schedule):
    """The schedule `base` with its noise multiplied: alpha, and `factor` times sigma.

    Args:
        base: the schedule of alpha and sigma.
        factor: the multiple of its noise, positive.

    Raises:
        TypeError: base is no schedule.
        ValueError: the factor is not positive.
    """

    base: Schedule
    factor: float

    def __post_init__(self) -> None:
        if not isinstance(self.base, Schedule):
            raise TypeError(f"base must be a Schedule, got {self.base!r}")
        object.__setattr__(self, "factor", real_scalar("factor", self.factor, low=0, open_low=True))

    @property
    def T(self) -> float:  # type: ignore[override]
        """The final time."""
        return self.base.T

    def _coefficients(self, t: Array) -> Coefficients:
        c, k = self.base.coefficients(t), self.factor
        stds = {name: k * getattr(c, name) for name in ("sigma", "dsigma", "d2sigma")}
        variances = {name: k * k * getattr(c, name) for name in ("dvariance", "d2variance", "g2")}
        return c._replace(**stds, **variances, log_snr=c.log_snr - np.log(k))

    def _time(self, lam: Array) -> Array:
        return np.asarray(self.base.time_of_log_snr(lam + np.log(self.factor)))


def invert_log_snr(schedule: Schedule, lam: Array) -> Array:
    """The time with log(alpha / sigma) = lam, of the shape of lam, by bracketing: for schedules without an inverse.

    The root of sigma cos(theta) - alpha sin(theta) with tan(theta) = e^-lam: bounded also where alpha or sigma is 0.
    """
    from scipy.optimize.elementwise import find_root  # late: it takes longer to import than all of this package

    cos, sin = np.sqrt(expit(2 * lam)), np.sqrt(expit(-2 * lam))

    def mismatch(t: Array, cos: Array, sin: Array) -> Array:
        c = schedule.coefficients(np.clip(t, 0.0, schedule.T))
        return c.sigma * cos - c.alpha * sin

    ends = np.zeros_like(lam), np.full_like(lam, schedule.T)
    return np.asarray(find_root(mismatch, ends, args=(cos, sin)).x)


@dataclass(frozen=True)
class Alignment:
    """How one schedule is another, rescaled and run on another clock: x^target_t = c(t) x^source_tau(t).

    tau(t) is where the source has the target's signal-to-noise ratio, c(t) the ratio of the total scales
    sqrt(alpha^2 + sigma^2) there; both have the shape of t.

    Raises:
        TypeError: source or target is no schedule.

    Examples:
        >>> from refdiff import Alignment, FlowMatching, VEPower
        >>> way = Alignment(source=VEPower(), target=FlowMatching())  # EDM's x at sigma = t / (1 - t), times 1 - t
        >>> print(round(float(way.tau(0.75)), 6), round(float(way.scale(0.75)), 6))
        3.0 0.25
    """

    source: Schedule
    target: Schedule

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            if not isinstance(getattr(self, name), Schedule):
                raise TypeError(f"{name} must be a Schedule, got {getattr(self, name)!r}")

    def tau(self, t: ArrayLike) -> Any:
        """The source's time for the target's time t."""
        return self.source.time_of_log_snr(self.target.log_snr(t))

    def scale(self, t: ArrayLike) -> Any:
        """c(t)."""
        there, here = self.source.coefficients(self.tau(t)), self.target.coefficients(t)
        return np.hypot(here.alpha, here.sigma) / np.hypot(there.alpha, there.sigma)
