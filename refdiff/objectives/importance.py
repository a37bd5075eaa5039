r"""The likelihood of a chain by importance sampling: log p(x_0) = log E w, x_1..x_T drawn from the noising of x_0.

    log w = log prior(x_T) + sum_{i=2}^T log p(x_{i-1} | x_i) + log p(x_0 | x_1)
            - log q(x_1 | x_0) - sum_{i=2}^T log q(x_i | x_{i-1})

    log p(x_0) ~ log (1/n) sum_j w_j,      E log w = -(variational bound at x_0)  <=  log p(x_0)

With the exact reverse kernels q(x_{i-1} | x_i), mixtures for data that are one, the exact decoder and prior p_T every
weight is p_0(x_0): the spread of log w is rounding. The logarithm of a mean is low by about half its squared standard
error on average, and no better than its effective sample size (sum w)^2 / sum w^2 says. The decoder needs a covariance
of its own: DDPM's kernel to the data has variance 0, so that (21) of its text is undefined. Sources: DMI-29, DMI-30,
DMI-38.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, precise_as, real_array, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.expectations import Route
from refdiff.model import ExactModel
from refdiff.objectives.bounds import standard_prior
from refdiff.objectives.errors import coloured
from refdiff.objectives.reverse import ReverseStep, Variances, noisy_times, posterior_logpdf, reverse_steps
from refdiff.random import normals, seed_key

EXACT = "exact"  # kernels
Step = Callable[[Array, Array], Array]  # log p(x_{i-1} | x_i) of rows (n, d) and (n, d), shape (n,)


@dataclass(frozen=True, eq=False)
class LogMean:
    """The logarithm of a mean of weights.

    Attributes:
        value: log (1/n) sum w, shape (...).
        error: its standard error to first order, that of the mean over the mean, shape (...).
        effective: the effective sample size (sum w)^2 / sum w^2, between 1 and n, shape (...).
    """

    value: Any
    error: Any
    effective: Any


@dataclass(frozen=True, eq=False)
class ImportanceLikelihood:
    """log p(x_0) by importance sampling, of each data point.

    Attributes:
        log_density: the logarithm of the mean weight, its standard error and effective sample size.
        bound: the mean of log w, whose expectation is minus the variational bound at x_0, shape (...).
        bound_error: its standard error, shape (...).
        log_weights: log w, shape (..., n).
    """

    log_density: LogMean
    bound: Any
    bound_error: Any
    log_weights: Array


def log_mean_exp(log_weights: ArrayLike) -> LogMean:
    """log of the mean of e^log_weights over the last axis of an array (..., n); -inf is a weight of 0.

    Raises:
        ValueError: fewer than two weights, or one that is infinite or not a number.
    """
    logs = real_array("log_weights", log_weights, finite=False)
    if logs.ndim == 0 or logs.shape[-1] < 2:
        raise ValueError(f"log_weights must hold at least two weights, got shape {logs.shape}")
    if np.isnan(logs).any() or np.isposinf(logs).any():
        raise ValueError("log_weights must be finite, or -inf")
    count = logs.shape[-1]
    peak = logs.max(axis=-1, keepdims=True)
    peak = np.where(np.isneginf(peak), 0.0, peak)
    weights = np.exp(logs - peak)
    mean = weights.mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = peak[..., 0] + np.log(mean)
        error = np.where(mean > 0, weights.std(axis=-1, ddof=1) / np.sqrt(count) / mean, np.inf)
        effective = np.where(mean > 0, count * mean**2 / (weights**2).mean(axis=-1), 0.0)
    return LogMean(*(precise_as(log_weights, np.asarray(part)) for part in (value, error, effective)))


def importance_sampling(
    model: ExactModel,
    times: ArrayLike,
    x0: ArrayLike,
    samples: int,
    seed: int | np.random.Generator,
    *,
    kernels: Variances = EXACT,
    decoder: str | ArrayLike = "matched",
    prior: GaussianMixture | None = None,
    route: Route | None = None,
) -> ImportanceLikelihood:
    """log p(x_0) of a chain of reverse kernels.

    Args:
        model: the data and their noising.
        times: t_1 < ... < t_T, shape (T,), with noise at t_1.
        x0: points of shape (..., d).
        samples: n, how many paths for each point.
        seed: an int in [0, 2^64), or a generator, from which a key is drawn once; a path depends on the key, the place
            of its point and its number alone.
        kernels: exact for q(x_{i-1} | x_i) and q(x_0 | x_1) themselves; or small, large, matched or T - 1 covariances,
            for DDPM's Gaussian kernels with the exact denoiser.
        decoder: the covariance of DDPM's p(x_0 | x_1), or matched; of no use with exact kernels.
        prior: of x_T; left out, p_T for exact kernels, and the law of x_T for data N(0, I) for others.
        route: how the covariances of matched kernels are found for data that are not Gaussian.

    Returns:
        The estimates, float32 for float32 points.

    Raises:
        TypeError: the model is no ExactModel, or the prior no law.
        ValueError: times, covariances, points or a number of samples that do not fit, or a law without density.

    Examples:
        >>> import numpy as np
        >>> from refdiff import ExactModel, Gaussian, VPLinear
        >>> from refdiff.objectives import importance_sampling
        >>> model = ExactModel(Gaussian([0.0], 1.0), VPLinear())
        >>> found = importance_sampling(model, [0.1, 0.5, 1.0], [[0.0]], 10, seed=0)  # by exact reverse kernels
        >>> print(found.log_density.value.round(6), np.ptp(found.log_weights) < 1e-12)  # -log(2 pi) / 2, by every path
        [-0.918939] True
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    if prior is not None and not isinstance(prior, GaussianMixture):
        raise TypeError(f"prior must be a Gaussian, GaussianMixture or None, got {prior!r}")
    rows, restore = points("x0", x0, model.dim)
    samples, key = whole_number("samples", samples, low=2), seed_key(seed)
    when = noisy_times(times, model.process, model.dim)
    exact = isinstance(kernels, str) and kernels == EXACT
    back = _exact(model, when) if exact else _gaussian(model, reverse_steps(model, when, kernels, decoder, route))
    last = prior
    if last is None:
        last = model.marginal(float(when[-1])) if exact else standard_prior(model.process, model.dim)
    forward = [model.process.kernel(when[0])]
    forward += [model.process.channel(s, t) for s, t in pairwise(when.tolist())]
    found = np.empty((len(rows), samples))
    for place, point in enumerate(rows):
        numbers = range(place * samples, (place + 1) * samples)
        found[place] = _log_weights(point, numbers, key, forward, back, last)
    logs = log_mean_exp(found)
    mean = LogMean(*(restore(np.asarray(one)) for one in (logs.value, logs.error, logs.effective)))
    spread = found.std(axis=1, ddof=1) / np.sqrt(samples)
    return ImportanceLikelihood(mean, restore(found.mean(axis=1)), restore(spread), restore(found))


def _log_weights(
    point: Array, numbers: range, key: int, forward: list[Channel], back: list[Step], prior: GaussianMixture
) -> Array:
    """log w of the paths with these numbers from one point (d,), shape (n,)."""
    here = np.broadcast_to(point, (len(numbers), len(point)))
    total = np.zeros(len(numbers))
    for draw, (channel, kernel) in enumerate(zip(forward, back, strict=True)):
        z = normals(key, numbers, draw, len(point))
        there = operators.apply(channel.gain, here) + channel.offset + coloured(channel, z)
        total += kernel(here, there) - channel.logpdf(there, here)
        here = there
    return np.asarray(total + prior.logpdf(here))


def _exact(model: ExactModel, times: Array) -> list[Step]:
    """The kernels q(x_0 | x_1), q(x_1 | x_2), ...: Bayes' rule for each channel and the law before it."""
    process = model.process
    pairs = [(process.kernel(times[0]), model.distribution)]
    for s, t in pairwise(times.tolist()):
        pairs.append((process.channel(s, t), model.marginal(s)))

    def of(channel: Channel, law: GaussianMixture) -> Step:
        return lambda x, y: posterior_logpdf(channel, law, x, y)

    return [of(*pair) for pair in pairs]


def _gaussian(model: ExactModel, steps: list[ReverseStep]) -> list[Step]:
    """DDPM's decoder and kernels."""

    def of(step: ReverseStep) -> Step:
        noise = Gaussian(np.zeros(model.dim), step.noise)
        return lambda x, y: noise.logpdf(x - step.mean(model.denoiser(y, step.t), y))

    return [of(step) for step in steps]
