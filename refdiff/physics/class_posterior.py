r"""The posterior of classes, and what it becomes when their densities are kernel estimates.

    f_c = pi_c p_c / sum_j pi_j p_j                                               by Bayes, of any number of classes
    f^_c                                                          the same of kernel estimates p^_j from N_j points

    to leading order in H     E f^_c - f_c = f_c (r_c - sum_j f_j r_j),    r_j = tr(H grad grad p_j) / 2 p_j
    to leading order in 1/N   the rest     = f_c (sum_j f_j^2 a_j - f_c a_c),    a_j = Var p^_j / (E p^_j)^2

the first of which is h^2 f (1 - f) (lap p_1 / p_1 - lap p_2 / p_2) / 2 for two classes and H = h^2 I. The second is
what the ratio of expectations leaves out, to which PHY-102 sets the expectation of the ratio equal: a bias that no
bandwidth takes away, of order 1 / (N h^d). At every N and H it is exact as one integral,

    A / (A + B) = int_0^inf A e^(-s A) e^(-s B) ds,    A = pi_c / N_c sum_i k(x - X_i)
    E f^_c      = int N_c E[y_c e^(-y_c)] phi_c^(N_c - 1) prod_(j != c) phi_j^(N_j) du,      phi_j = E e^(-y_j),

y_j = e^u pi_j / N_j k(x - X), s = e^u, because independent points make products of expectations over one point X.
Sources: PHY-98, PHY-102.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from refdiff import operators
from refdiff.arguments import Array, points, real_array, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.distributions.covariances import Dense
from refdiff.expectations import Quadrature, integral
from refdiff.operators import Operator
from refdiff.physics.fick import spreading_rate
from refdiff.physics.kernel_density import log_roughness

# The step of the trapezoidal rule in u = log s: its integrand is analytic for |Im u| < pi / 2, so that it errs by
# e^(-pi^2 / STEP)
STEP = 0.25
# How many u go together, and with how many nodes: 130 MB on the line, and where a lattice has more axes.
LINE, SPACE = (64, 2**17), (8, 2**20)
CHANGE = 1e-6  # of the last halving: what is left is of the size of its square
LEFT_OUT = 1e-16  # of the integral, on either side
MOST = 64_000  # the largest u / 2: kernels down to 1/350 of the distances within a class


def class_posterior(laws: Sequence[GaussianMixture], x: ArrayLike, priors: ArrayLike | None = None) -> Array:
    """f_c at points x (..., d), shape (..., C).

    Args:
        laws: p_c, one for each class.
        x: the points.
        priors: pi_c, shape (C,), equal when left out.

    Raises:
        TypeError: a law is none of this library's.
        ValueError: no class, laws of different dimensions or without a density, or priors that are none.

    Examples:
        >>> import numpy as np
        >>> from refdiff import Gaussian
        >>> from refdiff.physics import class_posterior
        >>> found = class_posterior([Gaussian([-1.0], 1.0), Gaussian([1.0], 1.0)], [[0.5]])
        >>> np.allclose(found[0, 1], 1 / (1 + np.exp(-1)))  # the logistic function of 2 x
        True
    """
    logs = _logs(laws, priors)
    rows, restore = points("x", x, laws[0].dim)
    return restore(softmax(logs + np.stack([law.logpdf(rows) for law in laws], axis=1), axis=1))


def smoothed_posterior(
    laws: Sequence[GaussianMixture], x: ArrayLike, kernel: ArrayLike, priors: ArrayLike | None = None
) -> Array:
    """pi_c E p^_c / sum_j pi_j E p^_j at points x (..., d), shape (..., C): f^ for N to infinity.

    Args:
        laws: p_c, one for each class.
        x: the points.
        kernel: H, of all classes.
        priors: pi_c, shape (C,), equal when left out.

    Raises:
        TypeError: a law is none of this library's.
        ValueError: no class, laws of different dimensions, or a kernel or priors that are none.
    """
    _logs(laws, priors)
    h = operators.covariance("kernel", kernel)
    return class_posterior([law.convolve(h) for law in laws], x, priors)


def smoothing_bias(
    laws: Sequence[GaussianMixture], x: ArrayLike, kernel: ArrayLike, priors: ArrayLike | None = None
) -> Array:
    """f_c (r_c - sum_j f_j r_j) at points x (..., d), shape (..., C): what the width of the kernel does.

    Args:
        laws: p_c, one for each class.
        x: the points.
        kernel: H, of all classes.
        priors: pi_c, shape (C,), equal when left out.

    Raises:
        TypeError: a law is none of this library's.
        ValueError: no class, laws of different dimensions or without a density, or a kernel or priors that are none.
    """
    _logs(laws, priors)
    rows, restore = points("x", x, laws[0].dim)
    h = operators.covariance("kernel", kernel)
    f = class_posterior(laws, rows, priors)
    r = np.stack([spreading_rate(law, rows, h / 2) for law in laws], axis=1)
    return restore(f * (r - (f * r).sum(axis=1, keepdims=True)))


def counting_bias(
    laws: Sequence[GaussianMixture],
    x: ArrayLike,
    kernel: ArrayLike,
    counts: Sequence[int],
    priors: ArrayLike | None = None,
) -> Array:
    """f_c (sum_j f_j^2 a_j - f_c a_c) at points x (..., d), shape (..., C): what few points do, to order 1 / N.

    Args:
        laws: p_c, one for each class.
        x: the points.
        kernel: H, of all classes, not singular; f is the posterior of the smoothed densities.
        counts: N_c, one for each class.
        priors: pi_c, shape (C,), equal when left out.

    Raises:
        TypeError: a law is none of this library's, or a count no whole number.
        ValueError: no class, laws of different dimensions, or a kernel, counts or priors that are none.
    """
    _logs(laws, priors)
    rows, restore = points("x", x, laws[0].dim)
    h, n = operators.covariance("kernel", kernel), _counts(laws, counts)
    f = smoothed_posterior(laws, rows, h, priors)
    more = log_roughness(h, laws[0].dim)
    excess = [more + law.convolve(h / 2).logpdf(rows) - 2 * law.convolve(h).logpdf(rows) for law in laws]
    a = np.expm1(np.stack(excess, axis=1)) / n
    return restore(f * ((f**2 * a).sum(axis=1, keepdims=True) - f * a))


def expected_posterior(
    laws: Sequence[GaussianMixture],
    x: ArrayLike,
    kernel: ArrayLike,
    counts: Sequence[int],
    priors: ArrayLike | None = None,
    rule: Quadrature | None = None,
) -> Array:
    """E f^_c at points x (..., d), shape (..., C), exact for any numbers of points.

    Args:
        laws: p_c, one for each class, of few dimensions.
        x: the points.
        kernel: H, of all classes, not singular.
        counts: N_c, one for each class.
        priors: pi_c > 0, shape (C,), equal when left out.
        rule: how expectations over one point are summed, until they change by CHANGE when left out; f^ has N times
            their error.

    Raises:
        TypeError: a law is none of this library's, or a count no whole number.
        ValueError: no class, laws of different dimensions, a kernel, counts or priors that are none, too many nodes,
            or a kernel so narrow that points are too far from each other for it.
    """
    logs, n = _logs(laws, priors), _counts(laws, counts)
    if np.isneginf(logs).any():
        raise ValueError(f"priors must be positive here, got {np.exp(logs).tolist()}")
    h = operators.covariance("kernel", kernel)
    operators.fits("kernel", h, laws[0].dim)
    if operators.singular(h):
        raise ValueError(f"kernel must not be singular, got {h.tolist()}")
    rows, restore = points("x", x, laws[0].dim)
    way = Quadrature(CHANGE, (LINE if laws[0].dim == 1 else SPACE)[1]) if rule is None else rule
    return restore(np.array([_expected(laws, row, h, logs - np.log(n), n, way) for row in rows]).reshape(-1, len(laws)))


def _expected(
    laws: Sequence[GaussianMixture], x: Array, kernel: Operator, logs: Array, counts: Array, rule: Quadrature
) -> Array:
    """E f^_c at one point x (d,), by blocks of the trapezoidal rule in u; `logs` are log pi_c / N_c."""
    white, many = Dense(operators.dense(kernel, len(x))[None]).whitener[0], (LINE if len(x) == 1 else SPACE)[0]

    def block(first: int) -> Array:
        u = STEP * np.arange(first, first + many)
        phi, psi = np.empty((2, len(laws), many))
        for c, law in enumerate(laws):
            phi[c], psi[c] = integral(law, partial(_transforms, x=x, white=white, u=u + logs[c]), rule, 1.0)[0]
        phi = np.maximum(phi, np.finfo(float).tiny)  # where no kernel is left, as log 0 of what counts for nothing
        whole = np.exp((counts[:, None] * np.log(phi)).sum(axis=0))
        return np.asarray(STEP * counts[:, None] * psi / phi * whole)

    # E y <= e^u pi / N: below this u all kernels together are less than what is left out
    start = int(np.floor((np.log(LEFT_OUT) - np.log(len(laws)) - (logs + np.log(counts)).max()) / STEP))
    total = np.zeros(len(laws))
    for first in range(start, int(2 * MOST / STEP), many):
        found = block(first)
        total += found.sum(axis=1)
        if total.sum() > 0.5 and found[:, -1].sum() <= LEFT_OUT * STEP:
            return total
    raise ValueError(f"kernel must be wider, got points that are too far from {x.tolist()} for it")


def _transforms(at: Array, x: Array, white: Array, u: Array) -> Array:
    """e^-y and y e^-y for y = e^u k(x - X) / k(0) at nodes X (n, d) and exponents u (m,), shape (n, 2, m)."""
    logs = np.minimum(u - 0.5 * (((at - x) @ white.T) ** 2).sum(axis=1)[:, None], 700.0)  # e^700 is finite
    y = np.exp(logs)
    kept = np.exp(-y)
    return np.stack([kept, y * kept], axis=1)


def _logs(laws: Sequence[GaussianMixture], priors: ArrayLike | None) -> Array:
    """log pi_c, normalised, of laws that are some."""
    if not laws:
        raise ValueError("laws must be one for each class, got none")
    for law in laws:
        if not isinstance(law, GaussianMixture):
            raise TypeError(f"laws must be Gaussians, GaussianMixtures or Empiricals, got {law!r}")
    if len({law.dim for law in laws}) > 1:
        raise ValueError(f"laws must have the same dimension, got {[law.dim for law in laws]}")
    weights = np.ones(len(laws)) if priors is None else real_array("priors", priors, ndim=(1,))
    if weights.shape != (len(laws),) or (weights < 0).any() or not weights.any():
        raise ValueError(f"priors must be {len(laws)} numbers >= 0, not all 0, got {weights.tolist()}")
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights / weights.sum()))


def _counts(laws: Sequence[GaussianMixture], counts: Sequence[int]) -> Array:
    """N_c as numbers."""
    if len(counts) != len(laws):
        raise ValueError(f"counts must be {len(laws)}, one for each class, got {len(counts)}")
    return np.array([whole_number("counts", n, low=1) for n in counts], dtype=np.float64)
