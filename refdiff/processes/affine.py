r"""Processes: what turns times into channels.

    x_t | x_0  ~  N(alpha_t x_0 + b_t, sigma_t^2)                                          `kernel(t)`
    x_t | x_s  ~  N(b_t + r (x_s - b_s), sigma_t^2 - r^2 sigma_s^2),  r = alpha_t / alpha_s   `channel(s, t)`, s <= t

The transition variance is computed as -sigma_t^2 expm1(2 (lambda_t - lambda_s)), which does not cancel for close
times. One schedule gives a scalar process; several give a per-axis process, whose gains are diagonals. The offset b is
zero unless given; a process with one is the process without it, of x - b_t (`AffineProcess.centred`), which is how
samplers take it. Its equation is dx = [f x + (b' - f b)] dt + g dw. Sources: PODB-01, PODB-06, TOPA-04, RDX-05, RDX-53.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array, real_scalar
from refdiff.channels import Channel
from refdiff.operators import Operator
from refdiff.processes.motion import NO_OFFSET, Motion, Offset
from refdiff.schedules import Coefficients, Schedule

# times that are kept, of all processes: what is kept are numbers, which no one can change
KEPT = 256


@lru_cache(maxsize=KEPT)
def _kept(schedules: tuple[Schedule, ...], t: float) -> tuple[Coefficients, ...]:
    return tuple(schedule.coefficients(t) for schedule in schedules)


def motion(c: Coefficients, offset: Offset = NO_OFFSET) -> Motion:
    """The motion of x = alpha x_0 + b + sigma eps with coefficients c, scalars or (d,), and the offset b."""
    return Motion(c.alpha, c.dalpha, c.d2alpha, c.sigma**2, c.sigma, c.dvariance / 2, c.d2variance / 2, offset)


@dataclass(frozen=True)
class AffineProcess:
    """The process x_t = alpha_t x_0 + b_t + sigma_t eps of one schedule, or of one schedule for each axis.

    Args:
        schedules: a Schedule, or a sequence of d Schedules with the same T.
        offset: t -> (b_t, b'_t, b''_t), each a number or (d,); zero unless given.

    Raises:
        TypeError: what is no Schedule, or an offset that is no function.
        ValueError: no schedule, or different final times.
    """

    schedules: tuple[Schedule, ...]
    per_axis: bool
    offsets: Callable[[float], tuple[ArrayLike, ArrayLike, ArrayLike]] | None

    def __init__(
        self,
        schedules: Schedule | tuple[Schedule, ...] | list[Schedule],
        offset: Callable[[float], tuple[ArrayLike, ArrayLike, ArrayLike]] | None = None,
    ) -> None:
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
        if offset is not None and not callable(offset):
            raise TypeError(f"offset must be a function of time, got {offset!r}")
        object.__setattr__(self, "schedules", many)
        object.__setattr__(self, "offsets", offset)
        object.__setattr__(self, "per_axis", not isinstance(schedules, Schedule))

    @property
    def T(self) -> float:
        """The final time."""
        return self.schedules[0].T

    @property
    def axes(self) -> int | None:
        """d of a per-axis process; None where one schedule serves every dimension."""
        return len(self.schedules) if self.per_axis else None

    def coefficients(self, t: float) -> Coefficients:
        """alpha, sigma and the rest at one time, each a scalar or, per axis, a diagonal (d,)."""
        t = real_scalar("t", t)
        each = self._numbers(t)
        if not self.per_axis:
            return Coefficients(*(np.asarray(value) for value in each[0]))
        return Coefficients(*np.array(each).T.copy())

    def log_snr(self, t: float) -> Array:
        """lambda(t), a scalar or one per axis."""
        values = np.array([one.log_snr for one in self._numbers(real_scalar("t", t))])
        return values if self.per_axis else values[0]

    def _numbers(self, t: float) -> tuple[Coefficients, ...]:
        """What each schedule says at a time: kernel, drift and diffusion are asked for one after the other."""
        try:
            return _kept(self.schedules, t)
        except TypeError:  # of a schedule that cannot be hashed nothing is kept
            return _kept.__wrapped__(self.schedules, t)

    def offset(self, t: float) -> Offset:
        """b_t, b'_t and b''_t, each a number or (d,).

        Raises:
            ValueError: t outside [0, T], or what was given answers with other than three such values.
        """
        t = real_scalar("t", t, low=0, high=self.T)
        if self.offsets is None:
            return NO_OFFSET
        parts = [real_array("offset", part, ndim=(0, 1)) for part in self.offsets(t)]
        if len(parts) != 3:
            raise ValueError(f"offset must answer with b, b' and b'', got {len(parts)} values")
        return Offset(*parts)

    @property
    def centred(self) -> AffineProcess:
        """The process of x - b_t: the same schedules without an offset."""
        return self if self.offsets is None else AffineProcess(self.schedules if self.per_axis else self.schedules[0])

    def kernel(self, t: float) -> Channel:
        """The channel from clean data to time t: gain alpha, offset b, noise sigma^2."""
        c = self.coefficients(t)
        return Channel(c.alpha, self.offset(t).value, c.sigma**2)

    def channel(self, s: float, t: float) -> Channel:
        """The channel from time s to time t.

        Raises:
            ValueError: s > t, or alpha_s = 0 (the past cannot be scaled back from pure noise).

        Examples:
            >>> import numpy as np
            >>> from refdiff import AffineProcess, VPLinear
            >>> process = AffineProcess(VPLinear(2.0, 2.0, 4.0))
            >>> step = process.channel(1.0, 1.0 + np.log(2))  # x_t = e^-(t - s) x_s + noise, wherever s is
            >>> print(round(float(step.gain), 6), round(float(step.noise), 6))
            0.5 0.75
        """
        s, t = real_scalar("s", s, low=0, high=self.T), real_scalar("t", t, low=0, high=self.T)
        if s > t:
            raise ValueError(f"s must not exceed t, got s = {s} and t = {t}")
        here, there = self.coefficients(s), self.coefficients(t)
        if s == t:
            return Channel()
        if (here.alpha == 0).any():
            raise ValueError(f"s must have alpha(s) > 0, got s = {s}")
        drop, gain = self.log_snr(t) - self.log_snr(s), there.alpha / here.alpha
        offset = self.offset(t).value - gain * self.offset(s).value
        return Channel(gain, offset, -(there.sigma**2) * np.expm1(2 * drop))

    def noise_channel(self, s: float, t: float, stochasticity: float = 0.0) -> Channel:
        """From y_s to y_t, y = x - alpha x_0 - b, both ways in time: the gain sigma_t / sigma_s e^(-k^2 |h|).

        Args:
            s, t: the times, h the difference of their half-log-SNRs.
            stochasticity: k >= 0, 0 unless t <= s.

        Raises:
            ValueError: sigma_s = 0, or noise on the way to noise.
        """
        s, t = real_scalar("s", s, low=0, high=self.T), real_scalar("t", t, low=0, high=self.T)
        k = real_scalar("stochasticity", stochasticity, low=0)
        if k and t > s:
            raise ValueError(f"t must not exceed s where there is noise, got s = {s}, t = {t} and stochasticity = {k}")
        here, there = self.coefficients(s), self.coefficients(t)
        if (here.sigma == 0).any():
            raise ValueError(f"s must have sigma(s) > 0, got s = {s}")
        if k == 0 or s == t:
            return Channel(there.sigma / here.sigma)
        with np.errstate(invalid="ignore"):  # pure noise, or clean data, at both times
            h = there.log_snr - here.log_snr
        h = np.where(np.isnan(h), 0.0, h)
        return Channel(there.sigma / here.sigma * np.exp(-k * k * h), 0.0, -(there.sigma**2) * np.expm1(-2 * k * k * h))

    def motion(self, t: float) -> Motion:
        """The channel from clean data with its rates: A = alpha, R = sigma and S = (sigma^2)' / 2."""
        return motion(self.coefficients(t), self.offset(t))

    def drift(self, t: float) -> Operator:
        """f(t) = alpha'/alpha."""
        return self.coefficients(t).f

    def force(self, t: float) -> Array:
        """b' - f b, a number or (d,); 0 without an offset, also where f is infinite."""
        offset = self.offset(t)
        if offset is NO_OFFSET:
            return offset.rate
        with np.errstate(invalid="ignore"):  # at the end of time f may be infinite, and so is the force
            return np.asarray(offset.rate - self.drift(t) * offset.value)

    def diffusion(self, t: float) -> Operator:
        """g2(t)."""
        return self.coefficients(t).g2
