r"""The schedules of the papers, each a dataclass of its constants and one method of closed forms.

    VPLinear        alpha = e^(-B/2),  sigma^2 = 1 - e^-B,   B = beta_min t + (beta_max - beta_min) t^2 / 2T
    VPCosine        alpha = cos A(t) / cos A(0),  sigma^2 = 1 - alpha^2
    SubVP           alpha = e^(-B/2),  sigma = 1 - e^-B
    VEGeometric     alpha = 1,  sigma = sigma_min (sigma_max / sigma_min)^(t/T)
    VEPower         alpha = 1,  sigma = t^power
    FlowMatching    alpha = 1 - t,  sigma = t
    Trigonometric   alpha = cos t,  sigma = sigma_d sin t

Sources: PODA-423, PODA-424, PODB-02, PODB-59, PODD-22.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from refdiff.arguments import Array, real_scalar
from refdiff.schedules.base import Coefficients, Schedule, differentiable, from_rate, variance_preserving


@dataclass(frozen=True)
class VPLinear(Schedule):
    """Variance-preserving with beta(t) = beta_min + (beta_max - beta_min) t / T:  dx = -beta x / 2 dt + sqrt(beta) dw.

    Args:
        beta_min, beta_max: rates at 0 and T, 0 <= beta_min <= beta_max, not both 0.
        T: final time. Source: PODA-424.

    Examples:
        >>> import numpy as np
        >>> from refdiff import VPLinear
        >>> c = VPLinear(beta_min=2.0, beta_max=2.0).coefficients(np.log(2))  # alpha = e^-t where beta = 2
        >>> print(round(float(c.alpha), 6), round(float(c.sigma**2), 6))
        0.5 0.75
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

    Examples:
        >>> from refdiff import VPCosine
        >>> print(round(float(VPCosine(s=0).alpha(2 / 3)), 6))  # cos(pi t / 2)
        0.5
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
        da = -speed * np.sin(start + speed * t) / np.cos(start)
        variance = np.sin(speed * t) * np.sin(speed * t + 2 * start) / np.cos(start) ** 2  # 1 - alpha^2
        return variance_preserving(a, da, -(speed**2) * a, variance, da / a)

    def _time(self, lam: Array) -> Array:
        speed, start = np.pi / (2 * (1 + self.s) * self.T), np.pi / 2 * self.s / (1 + self.s)
        # early, 1 - alpha^2 = expit(-2 lam) is a quadratic equation for tan(A(t) - A(0)) that does not cancel at t = 0
        q = expit(-2 * lam) * np.cos(start) ** 2
        root = np.sqrt(np.maximum(np.sin(2 * start) ** 2 + 4 * q * (np.cos(2 * start) - q), 0))
        early = np.arctan2(2 * q, np.sin(2 * start) + root) / speed
        # late, alpha itself gives pi/2 - A(t)
        late = self.T - np.arcsin(np.sqrt(expit(2 * lam)) * np.cos(start)) / speed
        return np.asarray(np.where(lam > 0, early, late))


@dataclass(frozen=True)
class SubVP(Schedule):
    """Sub-variance-preserving: alpha = e^(-B/2), sigma = 1 - e^-B, with the linear rate of `VPLinear`.

    Examples:
        >>> from refdiff import SubVP
        >>> c = SubVP().coefficients(0.3)
        >>> print(abs(c.sigma - (1 - c.alpha**2)) < 1e-12)  # below sqrt(1 - alpha^2), which preserves variance
        True
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    T: float = 1.0

    def __post_init__(self) -> None:
        VPLinear(self.beta_min, self.beta_max, self.T)  # the same rate, under the same conditions

    def _coefficients(self, t: Array) -> Coefficients:
        slope = (self.beta_max - self.beta_min) / self.T
        total, beta = t * (self.beta_min + slope * t / 2), self.beta_min + slope * t
        a, kept = np.exp(-total / 2), np.exp(-total)
        s, ds, d2s = -np.expm1(-total), beta * kept, (slope - beta * beta) * kept
        regular = differentiable(a, -beta * a / 2, (beta * beta / 4 - slope / 2) * a, s, ds, d2s, -beta / 2)
        return regular._replace(log_snr=-total / 2 - np.log(s))

    def _time(self, lam: Array) -> Array:
        # sigma / alpha = 2 sinh(B / 2) = e^-lam, which overflows where lam is low: there B = -2 lam and a little more
        ratio = np.exp(-np.abs(lam))
        low = -lam + np.log1p((np.sqrt(1 + 4 * ratio * ratio) - 1) / 2)
        total = 2 * np.where(lam > 0, np.arcsinh(ratio / 2), low)
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

    Examples:
        >>> from refdiff import VEGeometric
        >>> print(round(float(VEGeometric(sigma_min=0.01, sigma_max=1.0).sigma(0.5)), 6))  # the geometric mean
        0.1
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
        return Coefficients(one, zero, zero, s, ds, d2s, dvariance, d2variance, zero, dvariance, -np.log(s))

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

    Examples:
        >>> from refdiff import VEPower
        >>> c = VEPower().coefficients(3.0)  # EDM: sigma = t, g2 = (t^2)'
        >>> print(c.alpha, c.sigma, c.g2)
        1.0 3.0 6.0
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
        return Coefficients(one, zero, zero, t**p, ds, d2s, dvariance, d2variance, zero, dvariance, -p * np.log(t))

    def _time(self, lam: Array) -> Array:
        return np.exp(-lam / self.power)


@dataclass(frozen=True)
class FlowMatching(Schedule):
    """The straight path alpha = 1 - t, sigma = t on [0, 1], data at t = 0.

    Raises:
        ValueError: T is not 1.
    """

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

    Raises:
        ValueError: sigma_d is not positive, or T is not pi/2.

    Examples:
        >>> import numpy as np
        >>> from refdiff import Trigonometric
        >>> c = Trigonometric(sigma_d=0.5).coefficients(np.pi / 3)
        >>> print(round(float(c.alpha), 6), round(float(c.sigma**2), 6))  # 1/2, (1/4) (3/4)
        0.5 0.1875
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


# as in `refdiff.processes.catalogue`
PROCESSES = {
    "vp-linear": VPLinear,
    "vp-cosine": VPCosine,
    "sub-vp": SubVP,
    "flow-matching": FlowMatching,
    "trigonometric": Trigonometric,
    "edm": VEPower,
    "ve": VEGeometric,
}
