r"""Statistics for DPM-Solver-v3: l, a and b as functions of lambda.

What makes N move least, and then N_new, along the flow, in mean square under p_lambda, for each coordinate:

    l* = E sigma d eps/dx = 1 - (alpha / sigma)^2 E Var(x_0 | x)         in [0, 1]
    a* = Cov(N', N) / Var N,     b* = E N' - a* E N                      N' = dN/dlambda along the flow

with a* = 0 where N does not vary, as for Gaussian data, where N = -l alpha m. Two parameterizations of old are special
cases: (l, a, b) = (0, (log sigma)', 0) freezes the noise and (1, (log alpha)', 0) the denoiser, both DDIM at order 1.

In place of a trained network's averages over draws, expectations under the exact p_lambda: in closed form for a
Gaussian, by a trapezoidal sum in one dimension, over draws elsewhere. Sources: PODC9-39, PODC9-42, PODC9-46..48 (Zheng
et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from refdiff.arguments import Array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.samplers.dpm_solver_v3 import Statistics
from refdiff.samplers.times import one_schedule
from refdiff.schedules import Schedule


def noise_statistics(process: AffineProcess | Schedule) -> Statistics:
    """(l, a, b) = (0, (log sigma)', 0), with which N_new is sigma_s times the noise: DDIM at order 1."""
    schedule = one_schedule(process, "statistics in lambda")
    return Statistics(
        _zero,
        lambda lams: log_alpha_rate(schedule, lams) - 1,
        _zero,
        _zero,
        lambda lams: np.log(_sigma(schedule, lams))[:, None],
    )


def denoiser_statistics(process: AffineProcess | Schedule) -> Statistics:
    """(l, a, b) = (1, (log alpha)', 0), with which N_new is -alpha_s times the denoiser: DDIM at order 1."""
    schedule = one_schedule(process, "statistics in lambda")
    return Statistics(
        lambda lams: np.ones((len(lams), 1)),
        lambda lams: log_alpha_rate(schedule, lams),
        _zero,
        lambda lams: lams[:, None],
        lambda lams: np.log(_alpha(schedule, lams))[:, None],
    )


def gaussian_statistics(law: GaussianMixture, process: AffineProcess | Schedule) -> Statistics:
    """l*, a* = 0 and b* of a Gaussian with a covariance along the axes, in closed form.

    With S the variances: l = 1 / (1 + e^{2 lambda} S), int l = lambda - log(1 + e^{2 lambda} S) / 2, N = -l alpha m.

    Raises:
        ValueError: a law that is not one Gaussian along the axes.
        TypeError: what is no such law at all.
    """
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"law must be a Gaussian, got {law!r}")
    covariance, mean, schedule = law.cov(), law.mean(), one_schedule(process, "statistics in lambda")
    variances = np.diagonal(covariance)
    if law.count > 1 or (covariance - np.diag(variances)).any():
        raise ValueError(f"law must be a Gaussian with a diagonal covariance, got {law!r}")
    with np.errstate(divide="ignore"):
        log_variances = np.log(variances)

    def linear(lams: Array) -> Array:
        return 1 / (1 + np.exp(2 * lams)[:, None] * variances)

    def bias(lams: Array) -> Array:
        l = linear(lams)
        return -_alpha(schedule, lams)[:, None] * mean * l * (log_alpha_rate(schedule, lams) - 2 * (1 - l))

    return Statistics(
        linear,
        _zero,
        bias,
        lambda lams: lams[:, None] - 0.5 * np.logaddexp(0, 2 * lams[:, None] + log_variances),
        _zero,
    )


def optimal_statistics(
    model: ExactModel,
    start: float,
    end: float,
    *,
    count: int = 64,
    samples: int | None = None,
    seed: int | np.random.Generator = 0,
) -> Statistics:
    """l*, a* and b* of any data between two times, tabulated at Chebyshev nodes in lambda.

    Args:
        model: the law and a process that is the same on all axes.
        start, end: the noisier and the cleaner time, of finite lambda.
        count: how many nodes; the table is their interpolation, whose antiderivatives are exact.
        samples: draws of p_lambda for the expectations (Monte Carlo, the same for every lambda); needed for more than
            one dimension, where the default, a trapezoidal sum exact to rounding, is not to be had.
        seed: for the draws.

    Raises:
        ValueError: more than one dimension without samples, or times of infinite lambda.
        TypeError: what is no ExactModel.
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    model = model.centred
    schedule, law = one_schedule(model.affine, "statistics in lambda"), model.distribution
    count = whole_number("count", count, low=2)
    ends = [real_scalar(name, t, low=0, high=schedule.T) for name, t in (("start", start), ("end", end))]
    low, high = (float(schedule.log_snr(t)) for t in ends)
    if not np.isfinite([low, high]).all() or low >= high:
        raise ValueError(f"start must be noisier than end, both of finite lambda, got lambda = {low} and {high}")
    if samples is None and law.dim > 1:
        raise ValueError(f"samples must be given in more than one dimension, got data of dimension {law.dim}")
    z = chebyshev.chebpts1(count)
    lams = low + (z + 1) / 2 * (high - low)
    times = [float(t) for t in schedule.time_of_log_snr(lams)]
    nodes = [_expectation(model, t, samples, seed) for t in times]
    linear = np.array([linear_part(model, x, w, t) for (x, w), t in zip(nodes, times, strict=True)])
    table = _Table.fit(low, high, linear)
    slopes = table.derivative()(lams)
    rest = np.array(
        [
            least_squares(*nonlinear_part(model, x, t, l, dl), w)
            for (x, w), t, l, dl in zip(nodes, times, linear, slopes, strict=True)
        ]
    )
    scaling, bias = (_Table.fit(low, high, rest[:, part]) for part in (0, 1))
    return Statistics(table, scaling, bias, table.integral(), scaling.integral())


def linear_part(model: ExactModel, x: Array, weights: Array, t: float) -> Array:
    """l* = E sigma d eps_d / dx_d = -sigma^2 E H_dd at t from points (n, d) with weights (n,), shape (d,)."""
    sigma = model.affine.coefficients(t).sigma
    return np.asarray(-(sigma**2) * (weights @ np.diagonal(model.hessian(x, t), axis1=1, axis2=2)))


def nonlinear_part(model: ExactModel, x: Array, t: float, l: Array, dl: Array) -> tuple[Array, Array]:
    """N = sigma eps - l x and dN/dlambda along the flow at points (n, d) and time t, for given l and dl/dlambda.

    With y = x / alpha and rho = e^-lambda: eps = dy/drho, and d eps/dlambda = -rho d^2y/drho^2.
    """
    c, eps = model.affine.coefficients(t), model.noise(x, t)
    rho, velocity = c.sigma / c.alpha, model.velocity(x, t)
    drho = (c.dsigma - rho * c.dalpha) / c.alpha
    d2rho = (c.d2sigma - 2 * c.dalpha * drho - rho * c.d2alpha) / c.alpha
    dy = (velocity - c.f * x) / c.alpha
    d2y = (model.acceleration(x, t) - c.d2alpha * x / c.alpha - 2 * c.dalpha * dy) / c.alpha
    deps = -rho * (d2y - eps * d2rho) / drho**2
    rate = -c.f * rho / drho  # (log alpha)' in lambda
    return c.sigma * eps - l * x, c.sigma * ((rate - 1) * eps + deps) - dl * x - l * (rate * x - c.sigma * eps)


def least_squares(n: Array, dn: Array, weights: Array) -> Array:
    """a* and b* of dn against n (m, d) in mean square with weights (m,), shape (2, d): a* = 0 where n does not vary."""
    mean, rate = weights @ n, weights @ dn
    variance, covariance = weights @ (n - mean) ** 2, weights @ ((n - mean) * (dn - rate))
    fixed = variance <= (1e-12 * np.abs(n).max(axis=0)) ** 2
    a = np.where(fixed, 0.0, covariance / np.where(fixed, 1.0, variance))
    return np.array([a, rate - a * mean])


def log_alpha_rate(schedule: Schedule, lams: Array) -> Array:
    """d log alpha / d lambda at lambdas `lams` (m,), shape (m, 1)."""
    c = schedule.coefficients(schedule.time_of_log_snr(lams))
    return np.asarray(-2 * c.sigma**2 * c.f / c.g2)[:, None]


def _expectation(
    model: ExactModel, t: float, samples: int | None, seed: int | np.random.Generator
) -> tuple[Array, Array]:
    """Points (n, d) and weights (n,) of p_t."""
    if samples is not None:
        return model.sample(whole_number("samples", samples, low=2), t, seed), np.full(samples, 1 / samples)
    law = model.marginal(t)
    std = np.sqrt(law.covariances.dense(1)[:, 0, 0])
    low, high = float((law.means[:, 0] - 9 * std).min()), float((law.means[:, 0] + 9 * std).max())
    # ten nodes in the least standard deviation sum analytic densities to rounding
    x = np.arange(low, high, float(std.min()) / 10)[:, None]
    weights = np.exp(law.logpdf(x))
    return x, weights / weights.sum()


@dataclass(frozen=True, eq=False)
class _Table:
    """A Chebyshev series (k, d) on [low, high]."""

    low: float
    high: float
    series: Array

    @classmethod
    def fit(cls, low: float, high: float, values: Array) -> _Table:
        """The interpolation of values (m, d) at the m Chebyshev nodes."""
        count = len(values)
        series = 2 / count * (chebyshev.chebvander(chebyshev.chebpts1(count), count - 1).T @ values)
        series[0] /= 2
        return cls(low, high, series)

    def __call__(self, lams: Array) -> Array:
        z = 2 * (lams - self.low) / (self.high - self.low) - 1
        if (np.abs(z) > 1 + 1e-9).any():
            raise ValueError(f"times must have lambda in [{self.low}, {self.high}], where the statistics are known, "
                             f"got {lams[np.argmax(np.abs(z))]}")  # fmt: skip
        return np.asarray(chebyshev.chebval(z, self.series).T)

    def derivative(self) -> _Table:
        return _Table(self.low, self.high, chebyshev.chebder(self.series, scl=2 / (self.high - self.low)).astype(float))

    def integral(self) -> _Table:
        return _Table(self.low, self.high, chebyshev.chebint(self.series, scl=(self.high - self.low) / 2).astype(float))


def _alpha(schedule: Schedule, lams: Array) -> Array:
    return np.asarray(schedule.alpha(schedule.time_of_log_snr(lams)))


def _sigma(schedule: Schedule, lams: Array) -> Array:
    return np.asarray(schedule.sigma(schedule.time_of_log_snr(lams)))


def _zero(lams: Array) -> Array:
    return np.zeros((len(lams), 1))
