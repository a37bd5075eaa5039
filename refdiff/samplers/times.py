r"""Time grids: n + 1 times from noise to data, equally spaced in some function of time.

    uniform, quadratic, power       t^(1/p) with p = 1, 2, any
    uniform_in                      a clock: a function of lambda = log(alpha / sigma) alone, see `SPACINGS`
    uniform_log_snr, exponential    lambda = -log(sigma/alpha)
    uniform_rho, karras             sigma/alpha and its seventh root
    uniform_angle, optimal_ddim     arctan(sigma/alpha), and arctan(sigma/(alpha s)): best for DDIM on N(m, s^2) data
    log_snr_power                   lambda_0 + u^p (lambda_n - lambda_0)
    leading, trailing, linspace     indices of a table of betas, as diffusers' DDIM and DDPM schedulers space them

Every grid takes a process, its number of steps n, and (but for a table's indices) its ends, start and end, the times T
and 0 unless given. DPM-Solver's "logSNR", diffusers' exponential sigmas and its Lu lambdas (whose rho is 1) are one
grid, uniform_log_snr.
Sources: PODC9-11, PODC9-22, PODC9-27, DMI-37, DMI-80, TOPA-48; Karras et al. 2022; Lu et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit, logit

from refdiff.arguments import Array, one_of, real_array, real_scalar, whole_number
from refdiff.processes import AffineProcess, BetaTable, Process
from refdiff.samplers.angles import least_loss
from refdiff.schedules import Schedule

Noising = Process | Schedule

# ---------------------------------------------------------------------- equal steps in a power of t


def uniform(process: Noising, steps: int, *, start: float | None = None, end: float | None = None) -> Array:
    """Equal steps in t, shape (n + 1,)."""
    return power(process, steps, start=start, end=end, exponent=1.0)


def quadratic(process: Noising, steps: int, *, start: float | None = None, end: float | None = None) -> Array:
    """Equal steps in sqrt(t), shape (n + 1,): t = T u^2, the quadratic grid of Song, Meng and Ermon 2021."""
    return power(process, steps, start=start, end=end, exponent=2.0)


def power(
    process: Noising, steps: int, *, start: float | None = None, end: float | None = None, exponent: float = 2.0
) -> Array:
    """Equal steps in t^(1/exponent), shape (n + 1,): finer near the data for an exponent above 1."""
    first, last = _ends(process, start, end)
    exponent = real_scalar("exponent", exponent, low=0, open_low=True)
    if exponent == 1:
        return _grid(first, np.linspace(first, last, _count(steps) + 1)[1:-1], last)
    inner = np.linspace(first ** (1 / exponent), last ** (1 / exponent), _count(steps) + 1)[1:-1]
    return _grid(first, inner**exponent, last)


# ---------------------------------------------------------------------- equal steps in a function of lambda


class Spacing(NamedTuple):
    """A monotone function of lambda = log(alpha / sigma), `of_log_snr`, and its inverse, for arrays of any shape."""

    of_log_snr: Callable[[Array], Array]
    log_snr: Callable[[Array], Array]


SPACINGS: Mapping[str, Spacing] = MappingProxyType(
    {
        "log_snr": Spacing(lambda lam: lam, lambda c: c),
        "rho": Spacing(lambda lam: np.exp(-lam), lambda c: -np.log(c)),
        "angle": Spacing(lambda lam: np.arctan(np.exp(-lam)), lambda c: -np.log(np.tan(c))),
        "share": Spacing(lambda lam: expit(-lam), lambda c: -logit(c)),
        "alpha_bar": Spacing(lambda lam: expit(2 * lam), lambda c: logit(c) / 2),
        "log_alpha_bar": Spacing(lambda lam: log_expit(2 * lam), lambda c: -np.log(np.expm1(-c)) / 2),
        "log_variance": Spacing(lambda lam: log_expit(-2 * lam), lambda c: np.log(np.expm1(-c)) / 2),
    }
)


def uniform_in(
    process: Noising, steps: int, clock: str, *, start: float | None = None, end: float | None = None
) -> Array:
    """Equal steps in one of `SPACINGS`, shape (n + 1,).

    Raises:
        ValueError: an unknown clock, one that is infinite at an end, or a process with one schedule for each axis.
    """
    one_of("clock", clock, SPACINGS)
    return _spaced(process, steps, SPACINGS[clock], clock, start, end)


def uniform_log_snr(process: Noising, steps: int, *, start: float | None = None, end: float | None = None) -> Array:
    """Equal steps in lambda = log(alpha / sigma), shape (n + 1,); both ends must have a finite lambda."""
    return uniform_in(process, steps, "log_snr", start=start, end=end)


def uniform_rho(process: Noising, steps: int, *, start: float | None = None, end: float | None = None) -> Array:
    """Equal steps in rho = sigma / alpha, shape (n + 1,), from a start where alpha > 0."""
    return uniform_in(process, steps, "rho", start=start, end=end)


def uniform_angle(process: Noising, steps: int, *, start: float | None = None, end: float | None = None) -> Array:
    """Equal steps in arctan(sigma / alpha), shape (n + 1,), from pure noise to clean data if need be."""
    return uniform_in(process, steps, "angle", start=start, end=end)


def log_snr_power(
    process: Noising, steps: int, *, start: float | None = None, end: float | None = None, exponent: float = 2.0
) -> Array:
    """lambda_start + u^exponent (lambda_end - lambda_start), shape (n + 1,): above 1 finer near the noise."""
    exponent = real_scalar("exponent", exponent, low=0, open_low=True)
    return _spaced(process, steps, SPACINGS["log_snr"], "log_snr", start, end, exponent)


def karras(
    process: Noising,
    steps: int,
    *,
    start: float | None = None,
    end: float | None = None,
    rho: float = 7.0,
    append_clean: bool = False,
) -> Array:
    """Equal steps in (sigma/alpha)^(1/rho), shape (n + 1,), from sigma_max at the start to sigma_min at the end.

    Args:
        process, steps: the process and the number of steps.
        start, end: the times of sigma_max and sigma_min.
        rho: 7 in Karras et al. 2022; 1 gives equal steps in sigma/alpha, infinity would give `uniform_log_snr`.
        append_clean: the last step goes on from sigma_min to 0, as k-diffusion appends a zero.
    """
    rho = real_scalar("rho", rho, low=0, open_low=True)
    clock = Spacing(lambda lam: np.exp(-lam / rho), lambda c: -rho * np.log(c))
    return _appended(process, steps, append_clean, end, lambda n: _spaced(process, n, clock, "rho", start, end))


def exponential(
    process: Noising,
    steps: int,
    *,
    start: float | None = None,
    end: float | None = None,
    append_clean: bool = False,
) -> Array:
    """Equal steps in log(sigma/alpha), shape (n + 1,): k-diffusion's exponential sigmas and diffusers' Lu lambdas.

    The arguments are those of `karras`, whose limit it is for rho = infinity.
    """
    return _appended(process, steps, append_clean, end, lambda n: uniform_log_snr(process, n, start=start, end=end))


def _spaced(
    process: Noising,
    steps: int,
    clock: Spacing,
    name: str,
    start: float | None,
    end: float | None,
    exponent: float = 1.0,
) -> Array:
    first, last = _ends(process, start, end)
    schedule = one_schedule(process)
    u = np.linspace(0, 1, _count(steps) + 1)[1:-1] ** exponent
    with np.errstate(over="ignore", divide="ignore"):
        a, b = (float(clock.of_log_snr(np.asarray(schedule.log_snr(t)))) for t in (first, last))
    if not np.isfinite([a, b]).all():
        raise ValueError(f"start and end must have finite {name}, got {a} at t = {first} and {b} at t = {last}")
    return _grid(first, schedule.time_of_log_snr(clock.log_snr(a + u * (b - a))), last)


def _appended(process: Noising, steps: int, append: bool, end: float | None, build: Callable[[int], Array]) -> Array:
    """A grid with its last step to t = 0, where the other steps end at `end` > 0."""
    if not append:
        return build(steps)
    if end is None or float(np.max(one_schedule(process).coefficients(real_scalar("end", end)).sigma)) == 0:
        raise ValueError(f"end must have sigma > 0 where the clean time is appended, got {end}")
    if _count(steps) < 2:
        raise ValueError(f"steps must be at least 2 where the clean time is appended, got {steps}")
    return np.append(build(steps - 1), 0.0)


# ---------------------------------------------------------------------- indices of a table


def leading(process: Noising, steps: int, *, steps_offset: int = 0, set_alpha_to_one: bool = True) -> Array:
    """diffusers' "leading" spacing: indices i (N // n) + steps_offset for i = n - 1, ..., 0, and the end (n + 1,).

    Args:
        process: a BetaTable of N betas; index i of diffusers, counted from 0, is the time i + 1.
        steps: n, at most N.
        steps_offset: 1 in Stable Diffusion.
        set_alpha_to_one: end at t = 0, or else at alpha_bar_1, which is t = 1, from later indices.

    Raises:
        ValueError: not a table, more steps than betas, an index outside it, or the same time twice.

    Note that diffusers' DDIM steps from an index to that index less N // n, whatever the next index is: for the
    other two spacings the two differ where n does not divide N. This grid steps to the next index.
    """
    size, n = _table(process, steps)
    chosen = np.arange(n, dtype=float)[::-1] * (size // n) + whole_number("steps_offset", steps_offset)
    return _indexed(chosen, size, set_alpha_to_one)


def trailing(process: Noising, steps: int, *, set_alpha_to_one: bool = True) -> Array:
    """diffusers' "trailing" spacing: indices round(N - i N / n) - 1 for i < n, and the end (n + 1,); see `leading`."""
    size, n = _table(process, steps)
    # arange and not i N / n: where N - i N / n is a half, its rounding decides; it can also return one number too many
    return _indexed(np.round(np.arange(size, 0, -size / n))[:n] - 1, size, set_alpha_to_one)


def linspace(process: Noising, steps: int, *, set_alpha_to_one: bool = True) -> Array:
    """diffusers' "linspace" spacing: n rounded indices from N - 1 to 0, and the end (n + 1,); see `leading`."""
    size, n = _table(process, steps)
    return _indexed(np.linspace(0, size - 1, n).round()[::-1], size, set_alpha_to_one)


def _table(process: Noising, steps: int) -> tuple[int, int]:
    """N and n."""
    schedule = one_schedule(process)
    if not isinstance(schedule, BetaTable):
        raise ValueError(f"process must be a BetaTable for a grid of its indices, got {schedule!r}")
    if _count(steps) > schedule.steps:
        raise ValueError(f"steps must be at most the table's {schedule.steps}, got {steps}")
    return schedule.steps, steps


def _indexed(chosen: Array, size: int, set_alpha_to_one: bool) -> Array:
    """Indices counted from 0 as times, with the end."""
    if chosen.max() > size - 1:
        raise ValueError(f"steps_offset must keep indices below {size}, got {chosen.max()}")
    if not set_alpha_to_one and chosen.min() == 0:
        raise ValueError("set_alpha_to_one must be True where index 0, at t = 1, is visited already")
    return _decreasing(np.append(chosen + 1, 0.0 if set_alpha_to_one else 1.0))


# ---------------------------------------------------------------------- the best grid for DDIM


def optimal_ddim(
    process: Noising,
    steps: int,
    *,
    start: float | None = None,
    end: float | None = None,
    std: ArrayLike = 1.0,
) -> Array:
    """The grid on which DDIM is closest in W2 to N(m, diag(std^2)) data with the exact model.

    A run multiplies the deviation along axis j by P_j = prod_i cos(theta_j(t_i) - theta_j(t_{i+1})), with tan theta_j =
    sigma / (alpha std_j), and W2^2 = sum_j V_j (1 - P_j)^2, V = alpha^2 std^2 + sigma^2 at the end. One std: equal
    angles. Several: the minimum, found from equal angles by quasi-Newton steps on W2^2 and a root of its gradient.

    Args:
        process, steps, start, end: as for every grid; pure noise and clean data are allowed.
        std: standard deviations >= 0 of the data along their principal axes, (d,) or one, at least one above 0.

    Raises:
        ValueError: standard deviations that are negative, or all 0.

    Source: PODC9-11.
    """
    first, last = _ends(process, start, end)
    schedule, n = one_schedule(process), _count(steps)
    given = np.atleast_1d(real_array("std", std, ndim=(0, 1)))
    if (given < 0).any() or not given.any():
        raise ValueError(f"std must be >= 0 with one above 0, got {given.tolist()}")
    # a point has no angle to lose, and its variance none of W2
    values, counts = np.unique(given[given > 0], return_counts=True)
    centre = float(np.exp(np.average(np.log(values), weights=counts)))
    noisy, clean = (float(np.arctan2(schedule.sigma(t), schedule.alpha(t) * centre)) for t in (first, last))
    angles = np.linspace(noisy, clean, n + 1)
    if len(values) > 1 and n > 1:
        c = schedule.coefficients(last)
        weights = counts * (c.alpha**2 * values**2 + c.sigma**2)
        angles = least_loss(angles, centre / values, weights / weights.sum())
    return _grid(first, schedule.time_of_log_snr(-np.log(centre * np.tan(angles[1:-1]))), last)


# ---------------------------------------------------------------------- what every grid does


def _count(steps: int) -> int:
    return whole_number("steps", steps, low=1)


def one_schedule(process: Noising, use: str = "a grid that is not in t") -> Schedule:
    """The schedule of a process that is the same on all axes.

    Raises:
        TypeError: what is no process.
        ValueError: one schedule for each axis or matrices, with the `use` that needs one schedule.
    """
    if isinstance(process, Schedule):
        return process
    if isinstance(noising := _process(process), AffineProcess) and not noising.per_axis:
        return noising.schedules[0]
    got = "one schedule for each axis" if isinstance(process, AffineProcess) else "matrices"
    raise ValueError(f"process must be the same on all axes for {use}, got {got}")


def _process(process: Noising) -> Noising:
    if isinstance(process, Process | Schedule):
        return process
    raise TypeError(f"process must be a Process or a Schedule, got {process!r}")


def _ends(process: Noising, start: float | None, end: float | None) -> tuple[float, float]:
    final = _process(process).T
    first = final if start is None else real_scalar("start", start, low=0, high=final)
    last = 0.0 if end is None else real_scalar("end", end, low=0, high=final)
    if first <= last:
        raise ValueError(f"start must be noisier (later) than end, got start = {first} and end = {last}")
    return first, last


def _grid(first: float, inner: Array, last: float) -> Array:
    """Both ends exactly as given, and the times between them."""
    return _decreasing(np.concatenate([[first], inner, [last]]))


def _decreasing(times: Array) -> Array:
    if (np.diff(times) >= 0).any():
        where = int(np.argmax(np.diff(times) >= 0))
        raise ValueError(f"steps must be so few that times differ, got {times[where]} and then {times[where + 1]}")
    return times


TABLE_GRIDS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {"leading": leading, "trailing": trailing, "linspace": linspace}
)

# by name, as on the command line: (process, steps, start=, end=) -> times; those of TABLE_GRIDS take no start and end
GRIDS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "uniform": uniform,
        "quadratic": quadratic,
        "power": power,
        "uniform-log-snr": uniform_log_snr,
        "log-snr-power": log_snr_power,
        "uniform-rho": uniform_rho,
        "uniform-angle": uniform_angle,
        "karras": karras,
        "exponential": exponential,
        "optimal-ddim": optimal_ddim,
        **TABLE_GRIDS,
    }
)
