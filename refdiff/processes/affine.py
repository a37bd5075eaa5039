r"""Processes: what turns times into channels.

    x_t | x_0  ~  N(alpha_t x_0, sigma_t^2)                                        `kernel(t)`
    x_t | x_s  ~  N(alpha_t / alpha_s x_s, sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)   `channel(s, t)`, s <= t

The transition variance is computed as -sigma_t^2 expm1(2 (lambda_t - lambda_s)), which does not cancel for close
times. One schedule gives a scalar process; several give a per-axis process, whose gains are diagonals.
Sources: PODB-01, PODB-06, TOPA-04, RDX-53.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from refdiff.arguments import Array, real_scalar
from refdiff.channels import Channel
from refdiff.operators import Operator
from refdiff.schedules import Coefficients, Schedule


class Process(Protocol):
    """A linear Gaussian noising process on [0, T], data at 0: dx = F(t) x dt + dw with covariance D(t) dt."""

    @property
    def T(self) -> float:
        """The final time."""

    def kernel(self, t: float) -> Channel:
        """The channel from clean data to time t."""

    def channel(self, s: float, t: float) -> Channel:
        """The channel from time s to time t, s <= t."""

    def drift(self, t: float) -> Operator:
        """F(t)."""

    def diffusion(self, t: float) -> Operator:
        """D(t) = G G'."""


@dataclass(frozen=True)
class AffineProcess:
    """The process x_t = alpha_t x_0 + sigma_t eps of one schedule, or of one schedule for each axis.

    Args:
        schedules: a Schedule, or a sequence of d Schedules with the same T.

    Raises:
        ValueError: no schedule, or different final times.
    """

    schedules: tuple[Schedule, ...]
    per_axis: bool

    def __init__(self, schedules: Schedule | tuple[Schedule, ...] | list[Schedule]) -> None:
        if not isinstance(schedules, (Schedule, tuple, list)):
            raise TypeError(f"schedules must be a Schedule or a sequence of them, got {schedules!r}")
        many = (schedules,) if isinstance(schedules, Schedule) else tuple(schedules)
        if not many:
            raise ValueError("schedules must not be empty")
        for schedule in many:
            if not isinstance(schedule, Schedule):
                raise TypeError(f"schedules must be Schedule objects, got {schedule!r}")
        if len({schedule.T for schedule in many}) > 1:
            raise ValueError(f"schedules must share one final time T, got {[schedule.T for schedule in many]}")
        object.__setattr__(self, "schedules", many)
        object.__setattr__(self, "per_axis", not isinstance(schedules, Schedule))

    @property
    def T(self) -> float:
        """The final time."""
        return self.schedules[0].T

    def coefficients(self, t: float) -> Coefficients:
        """alpha, sigma and the rest at one time, each a scalar or, per axis, a diagonal (d,)."""
        t = real_scalar("t", t)
        each = [schedule.coefficients(t) for schedule in self.schedules]
        if not self.per_axis:
            return Coefficients(*(np.asarray(value) for value in each[0]))
        return Coefficients(*(np.array(values) for values in zip(*each, strict=True)))

    def log_snr(self, t: float) -> Array:
        """lambda(t), a scalar or one per axis."""
        values = np.array([schedule.log_snr(t) for schedule in self.schedules])
        return values if self.per_axis else values[0]

    def kernel(self, t: float) -> Channel:
        """The channel from clean data to time t: gain alpha, noise sigma^2."""
        c = self.coefficients(t)
        return Channel(c.alpha, 0.0, c.sigma**2)

    def channel(self, s: float, t: float) -> Channel:
        """The channel from time s to time t.

        Raises:
            ValueError: s > t, or alpha_s = 0 (the past cannot be scaled back from pure noise).
        """
        s, t = real_scalar("s", s, low=0, high=self.T), real_scalar("t", t, low=0, high=self.T)
        if s > t:
            raise ValueError(f"s must not exceed t, got s = {s} and t = {t}")
        here, there = self.coefficients(s), self.coefficients(t)
        if s == t:
            return Channel()
        if (here.alpha == 0).any():
            raise ValueError(f"s must have alpha(s) > 0, got s = {s}")
        drop = self.log_snr(t) - self.log_snr(s)
        return Channel(there.alpha / here.alpha, 0.0, -(there.sigma**2) * np.expm1(2 * drop))

    def drift(self, t: float) -> Operator:
        """f(t) = alpha'/alpha."""
        return self.coefficients(t).f

    def diffusion(self, t: float) -> Operator:
        """g2(t)."""
        return self.coefficients(t).g2
