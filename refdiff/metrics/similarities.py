r"""Kernels of distance, as mixtures of Gaussians over their scales, and their means over laws.

    k(r) = int e^(-s r^2) mu(ds)

    gaussian            e^(-r^2 / 2 L^2)               one scale s = 1 / 2 L^2
    laplace             e^(-r / L)                     mu(ds) = a e^(-a^2 / 4 s) / (2 sqrt(pi) s^(3/2)) ds,  a = 1 / L
    rational quadratic  (1 + r^2 / c)^-b               mu(ds) = c^b s^(b - 1) e^(-c s) / Gamma(b) ds
    distance            -r = int (e^(-s r^2) - 1)      mu(ds) = s^(-3/2) / (2 sqrt(pi)) ds

so that a mean over x - y ~ N(m, S), S with eigenvalues e_i, is one integral whatever the dimension:

    E e^(-s |x - y|^2) = prod_i (1 + 2 s e_i)^(-1/2) e^(-s m_i^2 / (1 + 2 s e_i))

In u = log s everything is analytic for |Im u| < pi / 2: sums with spacing h err by e^(-pi^2 / h), which is rounding for
h = 1/4, and 3e-9 for the h = 1/2 that says how far the sum is off. Sources: PODA-104 (distances of laws); Schoenberg
1938, "Metric spaces and completely monotone functions"; Gretton et al. 2012, "A kernel two-sample test".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from refdiff.arguments import Array, real_scalar
from refdiff.distributions import GaussianMixture
from refdiff.distributions.covariances import TILE, Diagonal

SPACING = 0.25  # of log s
NOTHING = -36.0  # the logarithm of what is lost in rounding
LOG_4PI = float(np.log(4 * np.pi))


@dataclass(frozen=True)
class Kernel:
    """A kernel of the squared distance.

    Attributes:
        name: what it is called.
        values: k from squared distances, any shape (...).
        compiled: kind, scale and power of `row_sums`, the same function in compiled code.
        at_zero: k(0).
        scales: from the size of distances squared to the nodes s (m,) and weights (m,) of the integral over scales.
        shifted: whether it is int (e^(-s r^2) - 1) mu(ds).
    """

    name: str
    values: Callable[[Array], Array]
    compiled: tuple[str, float, float]
    at_zero: float
    scales: Callable[[float], tuple[Array, Array]]
    shifted: bool = False


def gaussian_kernel(length: float) -> Kernel:
    """e^(-r^2 / 2 L^2), L = `length` > 0."""
    s = 0.5 / _length(length) ** 2
    one = np.array([s]), np.ones(1)
    return Kernel("gaussian", lambda r2: np.exp(-s * r2), ("GAUSSIAN", -s / np.log(2), 1.0), 1.0, lambda _: one)


def laplace_kernel(length: float) -> Kernel:
    """e^(-r / L), L = `length` > 0."""
    a = 1 / _length(length)

    def scales(_size: float) -> tuple[Array, Array]:
        # from where e^(-a^2 / 4 s) is nothing to where a / sqrt(s) is
        u = 2 * np.log(a) + _nodes(np.log(0.25 / -NOTHING), -2 * NOTHING)
        return np.exp(u), SPACING * np.exp(np.log(a) - 0.5 * u - 0.5 * LOG_4PI - 0.25 * a * a * np.exp(-u))

    return Kernel("laplace", lambda r2: np.exp(-a * np.sqrt(r2)), ("LAPLACE", (a / np.log(2)) ** 2, 1.0), 1.0, scales)


def rational_quadratic_kernel(length: float, alpha: float = 1.0) -> Kernel:
    """(1 + r^2 / (2 a L^2))^-a, L = `length` > 0 and a = `alpha` > 0: the Gaussian kernel for large a."""
    b = real_scalar("alpha", alpha, low=0, open_low=True)
    return _rational("rational-quadratic", 2 * b * _length(length) ** 2, b)


def inverse_multiquadric_kernel(length: float, power: float = 0.5) -> Kernel:
    """(1 + r^2 / L^2)^-b, L = `length` > 0 and b = `power` > 0."""
    b = real_scalar("power", power, low=0, open_low=True)
    return _rational("inverse-multiquadric", _length(length) ** 2, b)


def _rational(name: str, c: float, b: float) -> Kernel:
    # (c s)^b e^(-c s) is e^(-b v^2 / 2) at c s = b e^v near its top, and nothing below e^(NOTHING / b) or far above b
    spacing = SPACING / max(1.0, np.sqrt(b / 2))

    def scales(_size: float) -> tuple[Array, Array]:
        u = _nodes(NOTHING / b + min(0.0, np.log(b)), np.log(-2 * NOTHING + 4 * b), spacing)
        return np.exp(u) / c, spacing * np.exp(b * u - np.exp(u) - gammaln(b))

    return Kernel(name, lambda r2: (1 + r2 / c) ** -b, ("POWER", 1 / c, b), 1.0, scales)


def _distance_scales(size: float) -> tuple[Array, Array]:
    # (e^(-s r^2) - 1) / sqrt(s) falls as sqrt(s) and as 1 / sqrt(s)
    u = -np.log(size) + _nodes(2 * NOTHING, -2 * NOTHING)
    return np.exp(u), SPACING * np.exp(-0.5 * u - 0.5 * LOG_4PI)


# The kernel of the energy distance: conditionally positive.
DISTANCE = Kernel("distance", lambda r2: -np.sqrt(r2), ("DISTANCE", 1.0, 1.0), 0.0, _distance_scales, shifted=True)


def _length(value: float) -> float:
    return real_scalar("length", value, low=0, open_low=True)


def _nodes(low: float, high: float, spacing: float = SPACING) -> Array:
    return spacing * np.arange(np.floor(low / spacing), np.ceil(high / spacing) + 2)


# ---------------------------------------------------------------------- means over laws


def means_over(kernel: Kernel, p: GaussianMixture, q: GaussianMixture) -> tuple[Array, Array]:
    """E k(|x - y|) for y ~ q and x of each component of p, and its change when every second scale is left out, (K,)."""
    size = float(np.trace(p.cov()) + np.trace(q.cov()) + ((p.mean() - q.mean()) ** 2).sum())
    s, w = kernel.scales(size or 1.0)
    coarse = 2 * w * (np.arange(len(w)) % 2 == 0) if len(w) > 1 else w
    both = np.stack([w, coarse])
    result = np.zeros((2, p.count))
    for rows, squares, spreads in _differences(p, q):
        step = max(1, TILE // (8 * squares.size))
        for part in (slice(start, start + step) for start in range(0, len(s), step)):
            widened = 2 * s[part, None, None, None] * spreads
            falls = s[part, None, None] * (squares / (1 + widened)).sum(axis=-1)
            values = (np.expm1 if kernel.shifted else np.exp)(-0.5 * np.log1p(widened).sum(axis=-1) - falls)
            result[:, rows] += both[:, part] @ (values @ q.weights)
    return result[0], np.abs(result[0] - result[1])


def _differences(p: GaussianMixture, q: GaussianMixture) -> Iterator[tuple[slice, Array, Array]]:
    """Slices of k components of p, and for them against the L of q m_i^2, (k, L, d), and e_i, (k or 1, L or 1, d)."""
    step = max(1, TILE // (8 * q.count * p.dim))
    one, two = p.covariances, q.covariances
    if isinstance(one, Diagonal) and isinstance(two, Diagonal):
        for rows in (slice(start, start + step) for start in range(0, p.count, step)):
            spreads = one[rows].variances[:, None, :] + two.variances
            squares = (p.means[rows, None] - q.means) ** 2
            yield rows, squares, np.broadcast_to(spreads, (*spreads.shape[:2], p.dim))
        return
    first, second = one.dense(p.dim), two.dense(p.dim)
    for k, spread in enumerate(first):
        values, axes = np.linalg.eigh(spread + second)
        begin, end = (0, p.count) if len(first) == 1 else (k, k + 1)
        for rows in (slice(start, min(start + step, end)) for start in range(begin, end, step)):
            turned = np.swapaxes(np.swapaxes(p.means[rows, None] - q.means, 0, 1) @ axes, 0, 1)
            yield rows, turned**2, np.maximum(values, 0.0)[None]
