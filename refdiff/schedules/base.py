r"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, for t in [0, T], data at 0 and noise at T.

    lambda(t) = log(alpha / sigma)         half the log signal-to-noise ratio
    f(t)  = alpha' / alpha                 drift of   dx = f x dt + g dw
    g2(t) = (sigma^2)' - 2 f sigma^2       = -2 sigma^2 lambda'

sigma is a standard deviation. A family is one method: the eleven numbers at t (`Coefficients`), each from its own
closed form, so that nothing cancels at the ends: 1 - alpha^2 comes from expm1 or a product of sines, alpha = 0 at
t = T is exact, and where sigma' is infinite (variance-preserving at t = 0) the finite (sigma^2)' stands beside it.
Sources: PODB-01..04, PODA-423, PODA-424, TOPA-71..74, PODD-22.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array


class Coefficients(NamedTuple):
    """Everything a schedule says at the times t, each of the shape of t.

    dalpha is alpha', d2alpha alpha'', and so are dsigma and d2sigma, dvariance and d2variance of the variance sigma^2;
    log_snr is log(alpha / sigma).
    """

    alpha: Array
    dalpha: Array  # alpha'
    d2alpha: Array
    sigma: Array
    dsigma: Array
    d2sigma: Array
    dvariance: Array  # (sigma^2)', finite where sigma' is not
    d2variance: Array  # (sigma^2)''
    f: Array
    g2: Array
    log_snr: Array  # log(alpha / sigma), also where alpha underflows


class Schedule(ABC):
    """alpha(t), sigma(t) and what follows from them. Times are scalars or arrays in [0, T]; results have their shape.

    A schedule is a value: what it says of a time does not change, and processes keep it.

    Raises:
        ValueError: a time outside [0, T].
    """

    T: float

    @abstractmethod
    def _coefficients(self, t: Array) -> Coefficients:
        """The coefficients at checked times."""

    @abstractmethod
    def _time(self, lam: Array) -> Array:
        """The time at which log(alpha / sigma) is lam, not yet clipped to [0, T]."""

    def coefficients(self, t: ArrayLike) -> Coefficients:
        """alpha, sigma, their first and second derivatives, (sigma^2)', (sigma^2)'', f, g2 and log_snr at t.

        Examples:
            >>> from refdiff import FlowMatching
            >>> c = FlowMatching().coefficients(0.25)  # alpha = 1 - t, sigma = t, f = -1 / (1 - t), g2 = 2 t / (1 - t)
            >>> print(c.alpha, c.sigma, round(float(c.g2), 6))
            0.75 0.25 0.666667
        """
        times = real_array("t", t)
        if ((times < 0) | (times > self.T)).any():
            raise ValueError(f"t must lie in [0, {self.T}], got {times[(times < 0) | (times > self.T)].flat[0]}")
        with np.errstate(
            divide="ignore", invalid="ignore", over="ignore"
        ):  # infinite derivatives at the ends are the true limits
            found = self._coefficients(times)
        return found if times.ndim else Coefficients(*(value[()] for value in found))  # numbers for one time

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
        return self.coefficients(t).log_snr

    def dlog_snr(self, t: ArrayLike) -> Any:
        """lambda'(t) = -g2 / (2 sigma^2), -inf at both ends that lambda reaches."""
        c = self.coefficients(t)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(c.sigma == 0, -np.inf, -c.g2 / (2 * c.sigma**2))[()]

    def time_of_log_snr(self, lam: ArrayLike) -> Any:
        """The inverse of `log_snr`: the time in [0, T] with log(alpha / sigma) = lam.

        From the family's closed form, or by bracketing where it has none.

        Raises:
            ValueError: lam is not a value that the schedule reaches.

        Examples:
            >>> from refdiff import VEPower
            >>> print(round(float(VEPower().time_of_log_snr(-1.0)), 6))  # sigma = t = e^-lambda
            2.718282
        """
        target = real_array("lam", lam, finite=False)
        low, high = self.log_snr(self.T), self.log_snr(0.0)
        # what rounding can add to a lambda computed at an end of [0, T]; an infinite lambda is reached or not
        slack = 1e-12 * (1 + np.abs(np.where(np.isfinite(target), target, 0.0)))
        if np.isnan(target).any() or ((target < low - slack) | (target > high + slack)).any():
            raise ValueError(f"lam must lie in [{low}, {high}], got {target}")
        with np.errstate(all="ignore"):
            first = self._time(target)
        # 0 / 0: a lambda so high that its time is nothing beside any other
        t = np.clip(np.where(np.isnan(first), 0.0, first), 0.0, self.T)
        return np.where(target >= high, 0.0, np.where(target <= low, self.T, t))[()]


def differentiable(
    a: Array, da: Array, d2a: Array, s: Array, ds: Array, d2s: Array, f: Array | None = None
) -> Coefficients:
    """Coefficients from a = alpha, s = sigma and their finite derivatives da, d2a, ds, d2s, all of the shape of t.

    f is given where alpha'/alpha may underflow to 0/0.
    """
    f = da / a if f is None else f
    dvariance = 2 * s * ds
    g2 = dvariance - 2 * f * s * s
    return Coefficients(a, da, d2a, s, ds, d2s, dvariance, 2 * (ds * ds + s * d2s), f, g2, np.log(a) - np.log(s))


def variance_preserving(a: Array, da: Array, d2a: Array, variance: Array, f: Array) -> Coefficients:
    """Coefficients with alpha^2 + sigma^2 = 1, where (sigma^2)' = -2 alpha alpha' and g2 = -2 f.

    From a = alpha, its derivatives da and d2a, the variance sigma^2 and f, all of the shape of t.
    """
    dvariance, d2variance = -2 * a * da, -2 * (da * da + a * d2a)
    s, ds, d2s = from_variance(variance, dvariance, d2variance)
    return Coefficients(a, da, d2a, s, ds, d2s, dvariance, d2variance, f, -2 * f, np.log(a) - np.log(s))


def from_variance(variance: Array, dvariance: Array, d2variance: Array) -> tuple[Array, Array, Array]:
    """sigma, sigma' and sigma'' from the variance sigma^2, dvariance = (sigma^2)' and d2variance, of the shape of t."""
    s = np.sqrt(variance)
    # where the variance starts like t^2 (a rate beta that starts at 0), sigma starts like t, even in its next term
    flat = (s == 0) & (dvariance == 0)
    ds = np.where(flat, np.sqrt(np.maximum(d2variance, 0) / 2), dvariance / (2 * s))
    return s, ds, np.where(flat, 0.0, (d2variance - 2 * ds * ds) / (2 * s))


def from_rate(total: Array, beta: Array, dbeta: Array) -> Coefficients:
    """Variance-preserving coefficients from a rate beta: alpha = e^(-B/2), sigma^2 = 1 - e^-B.

    From total = B = int_0^t beta, beta and dbeta = beta', all of the shape of t.
    """
    a, variance = np.exp(-total / 2), -np.expm1(-total)
    regular = variance_preserving(a, -beta * a / 2, (beta * beta / 4 - dbeta / 2) * a, variance, -beta / 2)
    return regular._replace(log_snr=-(total + np.log(variance)) / 2)
