r"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, for t in [0, T], data at 0 and noise at T.

    lambda(t) = log(alpha / sigma)         half the log signal-to-noise ratio
    f(t)  = alpha' / alpha                 drift of   dx = f x dt + g dw
    g2(t) = (sigma^2)' - 2 f sigma^2       = -2 sigma^2 lambda'

sigma is a standard deviation. A family is one method: the ten numbers at t (`Coefficients`), each from its own
closed form, so that nothing cancels at the ends: 1 - alpha^2 comes from expm1 or a product of sines, alpha = 0 at
t = T is exact, and where sigma' is infinite (variance-preserving at t = 0) the finite (sigma^2)' stands beside it.
Sources: PODB-01..04, PODA-423, PODA-424, TOPA-71..74, PODD-22.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.differentiate import derivative
from scipy.optimize.elementwise import find_root
from scipy.special import expit

from refdiff.arguments import Array, real_array, real_scalar


class Coefficients(NamedTuple):
    """Everything a schedule says at the times t, each of the shape of t."""

    alpha: Array
    dalpha: Array
    d2alpha: Array
    sigma: Array
    dsigma: Array
    d2sigma: Array
    dvariance: Array  # (sigma^2)'
    d2variance: Array  # (sigma^2)''
    f: Array
    g2: Array


class Schedule(ABC):
    """alpha(t), sigma(t) and what follows from them. Times are scalars or arrays in [0, T]; results have their shape.

    Raises:
        ValueError: a time outside [0, T].
    """

    T: float

    @abstractmethod
    def _coefficients(self, t: Array) -> Coefficients:
        """The coefficients at checked times."""

    @abstractmethod
    def _time(self, lam: Array) -> Array:
        """The time at which log(alpha / sigma) is lam, unpolished and not yet clipped to [0, T]."""

    def coefficients(self, t: ArrayLike) -> Coefficients:
        """alpha, sigma, their first and second derivatives, (sigma^2)', (sigma^2)'', f and g2 at t."""
        times = real_array("t", t)
        if ((times < 0) | (times > self.T)).any():
            raise ValueError(f"t must lie in [0, {self.T}], got {times[(times < 0) | (times > self.T)].flat[0]}")
        with np.errstate(divide="ignore", invalid="ignore"):  # infinite derivatives at the ends are the true limits
            return self._coefficients(times)

    def alpha(self, t: ArrayLike) -> Any:
        """The signal factor alpha(t) >= 0."""
        return self.coefficients(t).alpha

    def sigma(self, t: ArrayLike) -> Any:
        """The noise standard deviation sigma(t) >= 0."""
        return self.coefficients(t).sigma

    def dalpha(self, t: ArrayLike) -> Any:
        """alpha'(t)."""
        return self.coefficients(t).dalpha

    def dsigma(self, t: ArrayLike) -> Any:
        """sigma'(t), infinite at t = 0 for variance-preserving schedules."""
        return self.coefficients(t).dsigma

    def f(self, t: ArrayLike) -> Any:
        """The drift rate alpha'/alpha, -inf where alpha = 0."""
        return self.coefficients(t).f

    def g2(self, t: ArrayLike) -> Any:
        """The squared diffusion coefficient (sigma^2)' - 2 f sigma^2, inf where alpha = 0."""
        return self.coefficients(t).g2

    def log_snr(self, t: ArrayLike) -> Any:
        """lambda(t) = log(alpha / sigma), half the log signal-to-noise ratio: inf at sigma = 0, -inf at alpha = 0."""
        c = self.coefficients(t)
        with np.errstate(divide="ignore"):
            return np.log(c.alpha) - np.log(c.sigma)

    def dlog_snr(self, t: ArrayLike) -> Any:
        """lambda'(t) = alpha'/alpha - sigma'/sigma."""
        c = self.coefficients(t)
        with np.errstate(divide="ignore", invalid="ignore"):
            return c.f - c.dsigma / c.sigma

    def time_of_log_snr(self, lam: ArrayLike) -> Any:
        """The inverse of `log_snr`: the time in [0, T] with log(alpha / sigma) = lam.

        A closed form of the family, then one Newton step on lambda(t), which removes what the closed form cancels.

        Raises:
            ValueError: lam is not a value that the schedule reaches.
        """
        target = real_array("lam", lam, finite=False)
        low, high = self.log_snr(self.T), self.log_snr(0.0)
        slack = 1e-12 * (1 + np.abs(target))  # what rounding can add to a lambda computed at an end of [0, T]
        if np.isnan(target).any() or ((target < low - slack) | (target > high + slack)).any():
            raise ValueError(f"lam must lie in [{low}, {high}], got {target}")
        with np.errstate(all="ignore"):
            t = np.clip(self._time(target), 0.0, self.T)
            step = (self.log_snr(t) - target) / self.dlog_snr(t)
        t = np.clip(np.where(np.isfinite(step), t - step, t), 0.0, self.T)
        return np.where(target >= high, 0.0, np.where(target <= low, self.T, t))[()]


def differentiable(a: Array, da: Array, d2a: Array, s: Array, ds: Array, d2s: Array) -> Coefficients:
    """Coefficients from alpha, sigma and their finite derivatives."""
    f, dvariance = da / a, 2 * s * ds
    return Coefficients(a, da, d2a, s, ds, d2s, dvariance, 2 * (ds * ds + s * d2s), f, dvariance - 2 * f * s * s)


def variance_preserving(a: Array, da: Array, d2a: Array, variance: Array, f: Array) -> Coefficients:
    """Coefficients with alpha^2 + sigma^2 = 1, where (sigma^2)' = -2 alpha alpha' and g2 = -2 f."""
    s = np.sqrt(variance)
    dvariance, d2variance = -2 * a * da, -2 * (da * da + a * d2a)
    ds = dvariance / (2 * s)
    return Coefficients(a, da, d2a, s, ds, (d2variance - 2 * ds * ds) / (2 * s), dvariance, d2variance, f, -2 * f)


def from_rate(total: Array, beta: Array, dbeta: Array) -> Coefficients:
    """Variance-preserving coefficients from B = int_0^t beta, beta and beta': alpha = e^(-B/2), sigma^2 = 1 - e^-B."""
    a = np.exp(-total / 2)
    return variance_preserving(a, -beta * a / 2, (beta * beta / 4 - dbeta / 2) * a, -np.expm1(-total), -beta / 2)


@dataclass(frozen=True)
class VPLinear(Schedule):
    """Variance-preserving with beta(t) = beta_min + (beta_max - beta_min) t / T:  dx = -beta x / 2 dt + sqrt(beta) dw.

    Args:
        beta_min, beta_max: rates at 0 and T, 0 <= beta_min <= beta_max, not both 0.
        T: final time. Source: PODA-424.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    T: float = 1.0

    def __post_init__(self) -> None:
        real_scalar("beta_min", self.beta_min, low=0)
        real_scalar("beta_max", self.beta_max, low=self.beta_min, open_low=self.beta_min == 0)
        real_scalar("T", self.T, low=0, open_low=True)

    def _coefficients(self, t: Array) -> Coefficients:
        slope = (self.beta_max - self.beta_min) / self.T
        return from_rate(t * (self.beta_min + slope * t / 2), self.beta_min + slope * t, np.full_like(t, slope))

    def _time(self, lam: Array) -> Array:
        total = np.logaddexp(0.0, -2 * lam)  # B = log(1 + sigma^2 / alpha^2)
        slope = (self.beta_max - self.beta_min) / self.T
        root = np.sqrt(self.beta_min**2 + 2 * slope * total)
        return 2 * total / (self.beta_min + root)


@dataclass(frozen=True)
class VPCosine(Schedule):
    """Variance-preserving with alpha(t) = cos(A(t)) / cos(A(0)), A(t) = (pi/2) (t/T + s) / (1 + s): alpha(T) = 0.

    Args:
        s: the offset that keeps beta small but positive at 0 (0.008 in improved DDPM), s >= 0; s = 0 is the
            trigonometric path.
        T: final time.
    """

    s: float = 0.008
    T: float = 1.0

    def __post_init__(self) -> None:
        real_scalar("s", self.s, low=0)
        real_scalar("T", self.T, low=0, open_low=True)

    def _coefficients(self, t: Array) -> Coefficients:
        speed = np.pi / (2 * (1 + self.s) * self.T)
        start, left = np.pi / 2 * self.s / (1 + self.s), speed * (self.T - t)  # A(0) and pi/2 - A(t): cos A = sin left
        a = np.sin(left) / np.cos(start)
        da = -speed * np.cos(left) / np.cos(start)
        variance = np.sin(speed * t) * np.sin(speed * t + 2 * start) / np.cos(start) ** 2  # 1 - alpha^2
        return variance_preserving(a, da, -(speed**2) * a, variance, da / a)

    def _time(self, lam: Array) -> Array:
        start = np.pi / 2 * self.s / (1 + self.s)
        angle = np.arccos(np.sqrt(expit(2 * lam)) * np.cos(start))
        return np.asarray((angle - start) * 2 * (1 + self.s) * self.T / np.pi)


@dataclass(frozen=True)
class SubVP(Schedule):
    """Sub-variance-preserving: alpha = e^(-B/2), sigma = 1 - e^-B, with the linear rate of `VPLinear`."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    T: float = 1.0

    def __post_init__(self) -> None:
        VPLinear(self.beta_min, self.beta_max, self.T)  # the same rate, under the same conditions

    def _coefficients(self, t: Array) -> Coefficients:
        slope = (self.beta_max - self.beta_min) / self.T
        total, beta = t * (self.beta_min + slope * t / 2), self.beta_min + slope * t
        a, kept = np.exp(-total / 2), np.exp(-total)
        s, ds = -np.expm1(-total), beta * kept
        return differentiable(a, -beta * a / 2, (beta * beta / 4 - slope / 2) * a, s, ds, (slope - beta * beta) * kept)

    def _time(self, lam: Array) -> Array:
        # sigma / alpha = 2 sinh(B / 2) = e^-lam
        total = 2 * np.arcsinh(np.exp(-lam) / 2)
        slope = (self.beta_max - self.beta_min) / self.T
        return 2 * total / (self.beta_min + np.sqrt(self.beta_min**2 + 2 * slope * total))


@dataclass(frozen=True)
class VEGeometric(Schedule):
    """Variance-exploding: alpha = 1, g2(t) = (s^2)' with s(t) = sigma_min (sigma_max / sigma_min)^(t/T).

    Two conventions are in use. By default sigma = s, as in score-SDE: then sigma(0) = sigma_min and the law at t = 0
    is the data blurred by sigma_min. With `clean_start` sigma^2 = s^2 - sigma_min^2, the kernel of the SDE started
    from the data themselves.

    Args:
        sigma_min, sigma_max: 0 < sigma_min < sigma_max.
        T: final time.
        clean_start: whether sigma(0) = 0. Source: PODA-423, whose prior and kernel mix the two.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    T: float = 1.0
    clean_start: bool = False

    def __post_init__(self) -> None:
        real_scalar("sigma_min", self.sigma_min, low=0, open_low=True)
        real_scalar("sigma_max", self.sigma_max, low=self.sigma_min, open_low=True)
        real_scalar("T", self.T, low=0, open_low=True)

    def _coefficients(self, t: Array) -> Coefficients:
        one, zero = np.ones_like(t), np.zeros_like(t)
        rate = np.log(self.sigma_max / self.sigma_min) / self.T
        grown = self.sigma_min**2 * np.exp(2 * rate * t)
        dvariance, d2variance = 2 * rate * grown, 4 * rate**2 * grown
        s = self.sigma_min * np.sqrt(np.expm1(2 * rate * t)) if self.clean_start else self.sigma_min * np.exp(rate * t)
        ds = dvariance / (2 * s)
        d2s = (d2variance - 2 * ds * ds) / (2 * s)
        return Coefficients(one, zero, zero, s, ds, d2s, dvariance, d2variance, zero, dvariance)

    def _time(self, lam: Array) -> Array:
        log_ratio = -lam - np.log(self.sigma_min)  # log(sigma / sigma_min)
        grown = np.logaddexp(0.0, 2 * log_ratio) / 2 if self.clean_start else log_ratio
        return np.asarray(grown * self.T / np.log(self.sigma_max / self.sigma_min))


@dataclass(frozen=True)
class VEPower(Schedule):
    """Variance-exploding: alpha = 1, sigma(t) = t^power. Power 1 is EDM's sigma = t, power 1/2 the heat equation.

    Args:
        power: exponent > 0.
        T: final time, 80 in EDM.
    """

    power: float = 1.0
    T: float = 80.0

    def __post_init__(self) -> None:
        real_scalar("power", self.power, low=0, open_low=True)
        real_scalar("T", self.T, low=0, open_low=True)

    def _coefficients(self, t: Array) -> Coefficients:
        p, one, zero = self.power, np.ones_like(t), np.zeros_like(t)
        ds = np.ones_like(t) if p == 1 else p * t ** (p - 1)
        d2s = zero if p == 1 else p * (p - 1) * t ** (p - 2)
        dvariance = one if p == 0.5 else 2 * p * t ** (2 * p - 1)
        d2variance = zero if p == 0.5 else 2 * p * (2 * p - 1) * t ** (2 * p - 2)
        return Coefficients(one, zero, zero, t**p, ds, d2s, dvariance, d2variance, zero, dvariance)

    def _time(self, lam: Array) -> Array:
        return np.exp(-lam / self.power)


@dataclass(frozen=True)
class FlowMatching(Schedule):
    """The straight path alpha = 1 - t, sigma = t on [0, 1], data at t = 0."""

    T: float = 1.0

    def __post_init__(self) -> None:
        if self.T != 1:
            raise ValueError(f"T must be 1, where the straight path ends, got {self.T}")

    def _coefficients(self, t: Array) -> Coefficients:
        one, zero = np.ones_like(t), np.zeros_like(t)
        return differentiable(1 - t, -one, zero, t, one, zero)

    def _time(self, lam: Array) -> Array:
        return np.asarray(expit(-lam))


@dataclass(frozen=True)
class Trigonometric(Schedule):
    """alpha = cos t, sigma = sigma_d sin t on [0, pi/2]: an arc from data of scale sigma_d to noise of that scale.

    Args:
        sigma_d: the data scale > 0. Source: PODD-22, PODB-59.
    """

    sigma_d: float = 1.0
    T: float = np.pi / 2

    def __post_init__(self) -> None:
        real_scalar("sigma_d", self.sigma_d, low=0, open_low=True)
        if self.T != np.pi / 2:
            raise ValueError(f"T must be pi/2, where the arc ends, got {self.T}")

    def _coefficients(self, t: Array) -> Coefficients:
        cos, sin = np.sin(self.T - t), np.sin(t)
        return differentiable(cos, -sin, -cos, self.sigma_d * sin, self.sigma_d * cos, -self.sigma_d * sin)

    def _time(self, lam: Array) -> Array:
        return np.arctan(np.exp(-lam) / self.sigma_d)


Function = Callable[[Array], Array]


@dataclass(frozen=True)
class FunctionSchedule(Schedule):
    """Any schedule given as functions of time; derivatives left out are taken numerically (SciPy's adaptive stencil).

    Args:
        alpha_of, sigma_of: vectorised functions on [0, T] with alpha / sigma decreasing.
        T: final time.
        dalpha_of, dsigma_of, d2alpha_of, d2sigma_of: derivatives where they are known.
    """

    alpha_of: Function
    sigma_of: Function
    T: float = 1.0
    dalpha_of: Function | None = None
    dsigma_of: Function | None = None
    d2alpha_of: Function | None = None
    d2sigma_of: Function | None = None

    def __post_init__(self) -> None:
        for name in ("alpha_of", "sigma_of"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function of time, got {getattr(self, name)!r}")
        real_scalar("T", self.T, low=0, open_low=True)

    def _coefficients(self, t: Array) -> Coefficients:
        dalpha = self.dalpha_of or self._slope(self.alpha_of)
        dsigma = self.dsigma_of or self._slope(self.sigma_of)
        d2alpha = self.d2alpha_of or self._slope(dalpha)
        d2sigma = self.d2sigma_of or self._slope(dsigma)
        values = (g(t) for g in (self.alpha_of, dalpha, d2alpha, self.sigma_of, dsigma, d2sigma))
        return differentiable(*(np.broadcast_to(np.asarray(v, dtype=float), t.shape) for v in values))

    def _slope(self, function: Function) -> Function:
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
        clock: t -> (tau, tau', tau''), increasing, with tau(0) = 0 and tau(T) <= base.T.
        scale: t -> (c, c', c''), positive; None leaves the scale.
        T: final time of the new clock. Sources: PODB-58, PODB-59.
    """

    base: Schedule
    clock: Callable[[Array], tuple[Array, Array, Array]]
    scale: Callable[[Array], tuple[Array, Array, Array]] | None = None
    T: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.base, Schedule):
            raise TypeError(f"base must be a Schedule, got {self.base!r}")
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
        _, dv, d2v = chain(square, (base.sigma**2, base.dvariance, base.d2variance))
        # lambda' = lambda'_base tau' and g2 = -2 sigma^2 lambda': scale^2 tau' times the base's
        return Coefficients(a, da, d2a, s, ds, d2s, dv, d2v, base.f * dtau + dc / c, c * c * dtau * base.g2)

    def _time(self, lam: Array) -> Array:
        return invert_log_snr(self, lam)


def invert_log_snr(schedule: Schedule, lam: Array) -> Array:
    """The time with log(alpha / sigma) = lam by bracketing, for schedules without a closed inverse.

    The root of sigma cos(theta) - alpha sin(theta) with tan(theta) = e^-lam: bounded also where alpha or sigma is 0.
    """
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
    sqrt(alpha^2 + sigma^2) there. Sources: PODB-58, PODB-59.
    """

    source: Schedule
    target: Schedule

    def tau(self, t: ArrayLike) -> Any:
        """The source's time for the target's time t."""
        return self.source.time_of_log_snr(self.target.log_snr(t))

    def scale(self, t: ArrayLike) -> Any:
        """c(t)."""
        there, here = self.source.coefficients(self.tau(t)), self.target.coefficients(t)
        return np.hypot(here.alpha, here.sigma) / np.hypot(there.alpha, there.sigma)
