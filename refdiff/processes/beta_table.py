r"""Any table of betas as a variance-preserving schedule: x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) eps, i = 1..N.

    B_i = -sum_{j<=i} log(1 - beta_j),    alpha_i = e^(-B_i / 2) = sqrt(alpha_bar_i),    sigma_i^2 = -expm1(-B_i)

1 - alpha_bar is never formed by subtraction. Time is the index, t in [0, N]; between indices B is linear, so the
table is also the continuous schedule with a piecewise constant rate that passes through it (derivatives at an index
are those of the step that follows it). `steps` is N. The same steps as channels, to any asymptotic scale, are
`Chain.noh_lee(betas, scale)`. Sources: DMI-14, DMI-16..18, PODA-210, TOPA-13, TOPA-28.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array, real_scalar, whole_number
from refdiff.schedules import Coefficients, Schedule, from_rate


class PosteriorCoefficients(NamedTuple):
    """q(x_{i-1} | x_i, x_0) = N(of_x0 x_0 + of_xt x_i, variance I) for each step i = 1..N, each shape (N,)."""

    of_x0: Array
    of_xt: Array
    variance: Array


@dataclass(frozen=True, eq=False)
class BetaTable(Schedule):
    """The schedule of a table of betas.

    Args:
        betas: beta_1..beta_N, shape (N,), each in [0, 1), the first positive; the last may be 1 (zero terminal
            signal-to-noise).

    Raises:
        ValueError: there are none, or one lies elsewhere.

    Examples:
        >>> from refdiff import BetaTable
        >>> table = BetaTable([0.5, 0.5])
        >>> print(table.alpha_bar.round(6))
        [0.5  0.25]
        >>> print(table.posterior().variance.round(6))  # beta_2 (1 - alpha_bar_1) / (1 - alpha_bar_2) = 1/3
        [0.       0.333333]
    """

    betas: Array
    total: Array = field(init=False, repr=False)  # B_0..B_N

    def __post_init__(self) -> None:
        betas = real_array("betas", self.betas, ndim=(1,))
        if betas.size == 0:
            raise ValueError("betas must not be empty")
        if (betas < 0).any() or (betas > 1).any() or (betas[:-1] == 1).any() or betas[0] == 0:
            raise ValueError(f"betas must lie in [0, 1), the first above 0 and the last up to 1, got {betas}")
        object.__setattr__(self, "betas", betas)
        with np.errstate(divide="ignore"):
            object.__setattr__(self, "total", np.append(0.0, -np.cumsum(np.log1p(-betas))))

    def __repr__(self) -> str:
        return f"BetaTable({self.steps} betas, {self.betas[0]:.6g} to {self.betas[-1]:.6g})"

    @property
    def T(self) -> float:  # type: ignore[override]
        """N, the number of steps."""
        return float(len(self.betas))

    @property
    def steps(self) -> int:
        """N."""
        return len(self.betas)

    @property
    def alpha_bar(self) -> Array:
        """alpha_bar_1..alpha_bar_N = prod (1 - beta), shape (N,)."""
        return np.exp(-self.total[1:])

    def posterior(self) -> PosteriorCoefficients:
        """The DDPM posterior of every step.

        of_x0 = sqrt(alpha_bar_{i-1}) beta_i / (1 - alpha_bar_i),
        of_xt = sqrt(1 - beta_i) (1 - alpha_bar_{i-1}) / (1 - alpha_bar_i),
        variance = beta_i (1 - alpha_bar_{i-1}) / (1 - alpha_bar_i), which is 0 at i = 1.
        """
        noise = -np.expm1(-self.total)
        before, after = noise[:-1], noise[1:]
        return PosteriorCoefficients(
            np.exp(-self.total[:-1] / 2) * self.betas / after,
            np.sqrt(1 - self.betas) * before / after,
            self.betas * before / after,
        )

    def _coefficients(self, t: Array) -> Coefficients:
        step = np.minimum(np.floor(t).astype(int), self.steps - 1)
        part = t - step
        with np.errstate(divide="ignore"):
            rate = -np.log1p(-self.betas[step])
        # a last beta of 1 has infinite rate: B jumps to infinity right after its index
        total = self.total[step] + np.where(part > 0, part * rate, 0.0)
        regular = from_rate(total, rate, np.zeros_like(rate))
        ended = np.isinf(total)
        slopes = ("dalpha", "d2alpha", "dsigma", "d2sigma", "dvariance", "d2variance")
        return regular._replace(**{name: np.where(ended, 0.0, getattr(regular, name)) for name in slopes})

    def _time(self, lam: Array) -> Array:
        total = np.logaddexp(0.0, -2 * lam)
        finite = np.isfinite(self.total)
        return np.asarray(np.interp(total, self.total[finite], np.flatnonzero(finite).astype(float)))

    def zero_terminal_snr(self) -> BetaTable:
        """The table rescaled so that alpha_N = 0: sqrt(alpha_bar) shifted to end at 0 and scaled to keep its start.

        Raises:
            ValueError: the table has one step only.
        """
        if self.steps < 2:
            raise ValueError(
                "betas must have at least two steps to be rescaled to a zero terminal signal-to-noise ratio"
            )
        root, later = np.exp(-self.total[1:] / 2), self.betas[1:]
        kept = root - root[-1]
        # 1 - (kept_i / kept_{i-1})^2, with the difference kept_{i-1} - kept_i taken without cancellation
        drop = root[:-1] * later / (1 + np.sqrt(1 - later))
        betas = drop * (kept[:-1] + kept[1:]) / kept[:-1] ** 2
        return BetaTable(np.concatenate([self.betas[:1], betas[:-1], [1.0]]))


def linear(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> BetaTable:
    """DDPM's table: beta evenly spaced from beta_start to beta_end."""
    return BetaTable(np.linspace(*_range(beta_start, beta_end), whole_number("steps", steps, low=1)))


def scaled_linear(steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> BetaTable:
    """Latent diffusion's table: sqrt(beta) evenly spaced, for betas from beta_start to beta_end."""
    start, end = _range(beta_start, beta_end)
    return BetaTable(np.linspace(np.sqrt(start), np.sqrt(end), whole_number("steps", steps, low=1)) ** 2)


def squared_cosine(steps: int = 1000, s: float = 0.008, cap: float = 0.999) -> BetaTable:
    """Improved DDPM's table: alpha_bar(u) = cos^2(pi/2 (u + s) / (1 + s)), beta_i = 1 - ratio, at most `cap`."""
    steps, cap = whole_number("steps", steps, low=1), real_scalar("cap", cap, low=0, high=1, open_low=True)
    s = real_scalar("s", s, low=0)
    angle = np.pi / 2 * (np.arange(steps + 1) / steps + s) / (1 + s)
    # 1 - cos^2 b / cos^2 a = sin(b - a) sin(b + a) / cos^2 a: no cancellation in the small early betas
    early, late = angle[:-1], angle[1:]
    return BetaTable(np.minimum(np.sin(late - early) * np.sin(late + early) / np.cos(early) ** 2, cap))


def sigmoid(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, reach: float = 6.0) -> BetaTable:
    """beta = beta_start + (beta_end - beta_start) / (1 + e^-u) with u evenly spaced in [-reach, reach]."""
    start, end = _range(beta_start, beta_end)
    reach = real_scalar("reach", reach, low=0)
    u = np.linspace(-reach, reach, whole_number("steps", steps, low=1))
    return BetaTable(start + (end - start) / (1 + np.exp(-u)))


def su(steps: int = 1000) -> BetaTable:
    """Su's table: one-step signal factors sqrt(1 - 0.02 i / N), that is beta_i = 0.02 i / N. Source: TOPA-13."""
    steps = whole_number("steps", steps, low=1)
    return BetaTable(0.02 * np.arange(1, steps + 1) / steps)


TABLES = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "squared_cosine": squared_cosine,
    "sigmoid": sigmoid,
    "su": su,
}


# as in `refdiff.processes.catalogue`
PROCESSES = {"ddpm": linear, "scaled-linear": scaled_linear, "squared-cosine": squared_cosine}


def from_alpha_bar(alpha_bar: ArrayLike) -> BetaTable:
    """The table with these cumulative products alpha_bar_1..alpha_bar_N, shape (N,), decreasing in [0, 1).

    Raises:
        ValueError: they do not decrease, lie elsewhere, or are 0 before the last step.

    Examples:
        >>> from refdiff.processes.beta_table import from_alpha_bar
        >>> print(from_alpha_bar([0.9, 0.45]).betas.round(6))
        [0.1 0.5]
    """
    products = real_array("alpha_bar", alpha_bar, ndim=(1,))
    if products.size == 0 or (np.diff(products) > 0).any() or (products < 0).any() or (products >= 1).any():
        raise ValueError(f"alpha_bar must decrease within [0, 1), got {products}")
    before = np.append(1.0, products[:-1])
    if (before == 0).any():
        raise ValueError("alpha_bar may be 0 only at the last step")
    return BetaTable((before - products) / before)


def _range(start: Any, end: Any) -> tuple[float, float]:
    return (
        real_scalar("beta_start", start, low=0, high=1, open_low=True),
        real_scalar("beta_end", end, low=0, high=1, open_low=True),
    )
