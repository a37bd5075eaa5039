r"""The mixture at one time and the steps of the samplers, once for all libraries of arrays.

`xp` is numpy, jax.numpy or torch; points are columns, x of shape (d, n), so that sums over components run along n.
With the notation of `problems`, every average over components is sum_k r_k (a_k + b_k x):

    denoiser   b_k = alpha v_k / T_k,   a_k = (1 - alpha b_k) m_k
    score      b_k = -1 / T_k,          a_k = alpha m_k / T_k

Its logits are computed in one of some forms, of which each library takes the one that is fastest there:

    axes      sum_j (x_j - alpha m_kj)^2, and the averages as products of matrices
    sums      the same, and the averages as sums of products, which a compiler can fuse with the exponentials
    matmul    |x|^2 - 2 x.m + |m|^2, a product of matrices; the terms are of the size of the distances here
    cdist     as axes, by SciPy, for NumPy's arrays only: reference answers with many axes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from scipy.spatial.distance import cdist

from refdiff.validation.benchmarks.mixtures import Mixture

FORMS = ("axes", "sums", "matmul")
FEW_AXES = 16  # where a program with all axes written out is not too long


def forms(dim: int) -> Sequence[str]:
    """The forms worth trying for points with so many axes."""
    return FORMS if dim <= FEW_AXES else ("matmul",)


class Arrays(NamedTuple):
    """A mixture in some library: means (K, d), variances (K,), log weights (K,)."""

    means: Any
    variances: Any
    log_weights: Any

    @staticmethod
    def of(mixture: Mixture, convert: Callable[[Any], Any]) -> Arrays:
        """The arrays, each converted."""
        return Arrays(convert(mixture.means), convert(mixture.variances), convert(mixture.log_weights))


class Level(NamedTuple):
    """A mixture at one time: centres alpha m (K, d), precisions 1 / T (K, 1), offsets log w - d/2 log 2 pi T (K, 1)."""

    centres: Any
    precision: Any
    offset: Any


def level(xp: Any, law: Arrays, alpha: Any, variance: Any) -> Level:
    """The mixture noised with alpha and sigma^2 = variance."""
    spread = alpha * alpha * law.variances + variance
    offset = law.log_weights - law.means.shape[1] / 2 * xp.log(2 * math.pi * spread)
    return Level(alpha * law.means, (1 / spread)[:, None], offset[:, None])


def log_joint(xp: Any, at: Level, x: Any, form: str) -> Any:
    """log w_k N_k(x), shape (K, n)."""
    if form == "matmul":
        c, p = at.centres, at.precision
        constant = at.offset - 0.5 * p * (c * c).sum(1)[:, None]
        return xp.matmul(c * p, x) + constant - 0.5 * p * (x * x).sum(0)
    if form == "cdist":
        return at.offset - 0.5 * at.precision * cdist(at.centres, x.T, "sqeuclidean")
    squared = 0.0
    for j in range(x.shape[0]):
        apart = x[j] - at.centres[:, j, None]
        squared = squared + apart * apart
    return at.offset - 0.5 * at.precision * squared


def log_density(xp: Any, law: Arrays, x: Any, form: str) -> Any:
    """log p(x), shape (n,)."""
    logits = log_joint(xp, level(xp, law, 1.0, 0.0), x, form)
    peak = xp.amax(logits, 0)
    return peak + xp.log(xp.exp(logits - peak).sum(0))


def pair_sums(xp: Any, law: Arrays, x: Any, form: str) -> Any:
    """sum_k w_k exp(-|x - m_k|^2 / 2 v_k), shape (n,)."""
    at = level(xp, law, 1.0, 0.0)._replace(offset=law.log_weights[:, None])
    return xp.exp(log_joint(xp, at, x, form)).sum(0)


def average(xp: Any, at: Level, x: Any, a: Any, b: Any, form: str) -> Any:
    """sum_k r_k (a_k + b_k x) with a (K, d) and b (K, 1)."""
    logits = log_joint(xp, at, x, form)
    e = xp.exp(logits - xp.amax(logits, 0))
    if form == "sums":
        moved = xp.stack([(a[:, j, None] * e).sum(0) for j in range(x.shape[0])])
        return (moved + (b * e).sum(0) * x) / e.sum(0)
    return (xp.matmul(a.T, e) + xp.matmul(b.T, e) * x) / e.sum(0)


def denoiser(xp: Any, law: Arrays, x: Any, sigma: Any, form: str) -> Any:
    """E[x_0 | x_0 + sigma eps = x], shape (d, n)."""
    at = level(xp, law, 1.0, sigma * sigma)
    b = law.variances[:, None] * at.precision
    return average(xp, at, x, (1 - b) * law.means, b, form)


def score(xp: Any, law: Arrays, x: Any, alpha: Any, variance: Any, form: str) -> Any:
    """grad log p of alpha x_0 + sigma eps at x, shape (d, n)."""
    at = level(xp, law, alpha, variance)
    return average(xp, at, x, at.centres * at.precision, -at.precision, form)


def divergence(xp: Any, law: Arrays, x: Any, sigma: Any, form: str) -> Any:
    """That of (x - D(x)) / sigma, -sigma tr Hess log p = sigma (|s|^2 - sum_k r_k (|x - m_k|^2 / T_k - d) / T_k)."""
    at = level(xp, law, 1.0, sigma * sigma)
    logits = log_joint(xp, at, x, form)
    e = xp.exp(logits - xp.amax(logits, 0))
    squared = -2 * (logits - at.offset)  # |x - m_k|^2 / T_k
    s = average(xp, at, x, at.centres * at.precision, -at.precision, form)
    curved = (e * (squared - x.shape[0]) * at.precision).sum(0) / e.sum(0)
    return sigma * ((s * s).sum(0) - curved)


def kernel_rows(xp: Any, x: Any, y: Any, length: Any, energy: bool, form: str) -> Any:
    """sum_j k(x_i, y_j), shape (n,), with k = exp(-|x - y|^2 / 2 length^2) or, of the energy distance, -|x - y|."""
    if form == "matmul":
        squared = (x * x).sum(0)[:, None] + (y * y).sum(0) - 2 * xp.matmul(x.T, y)
    else:
        squared = 0.0
        for j in range(x.shape[0]):
            apart = x[j, :, None] - y[j]
            squared = squared + apart * apart
    if energy:
        return -xp.sqrt(xp.clip(squared, 0.0, None)).sum(1)
    return xp.exp(squared * (-0.5 / length**2)).sum(1)


# ---------------------------------------------------------------------- steps

Denoiser = Callable[[Any, Any], Any]


def heun_step(denoise: Denoiser, x: Any, s: Any, t: Any) -> Any:
    """Heun's step of dx/dsigma = (x - D) / sigma from s to t > 0."""
    first = (x - denoise(x, s)) / s
    y = x + (t - s) * first
    return x + (t - s) / 2 * (first + (y - denoise(y, t)) / t)


def multistep(denoise: Denoiser, x: Any, before: Any, sigma: Any, ratio: Any, further: Any) -> tuple[Any, Any]:
    """A step of DPM-Solver++(2M) by the numbers of a row of `problems.Multistep`, and D there, which was `before`."""
    d = denoise(x, sigma)
    return ratio * x + (1 - ratio) * (d + further * (d - before)), d


def euler_maruyama_step(score: Any, x: Any, h: Any, f: Any, g2: Any, noise: Any) -> Any:
    """x - h (f x - g^2 score) + sqrt(g^2 h) noise."""
    return x - h * (f * x - g2 * score) + (g2 * h) ** 0.5 * noise
