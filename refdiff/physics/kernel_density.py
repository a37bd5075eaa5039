r"""Kernel density estimates: diffusion for a time h^2 / 2 D, from a sample in place of the law.

    p^(x) = 1/N sum_i k(x - X_i),   k = N(0, H)           a `GaussianMixture` once the X_i are there
    E p^   = p * k = p + tr(H grad grad p) / 2 + O(H^2)                                          bias
    Var p^ = [R(k) (p * N(0, H / 2)) - (p * k)^2] / N,    R(k) = int k^2 = (4 pi)^(-d/2) det H^(-1/2)

since k^2 = R(k) N(0, H / 2). For data from a mixture all of it is exact at every N, and so is its integral,

    MISE   = [R(k) - int (p * k)^2] / N + int (p * k - p)^2
    AMISE  = R(k) / N + h^4 / 4 int (tr H_1 grad grad p)^2        to leading order, H = h^2 H_1
    h_opt  = [d R(k_1) / (N int (tr H_1 grad grad p)^2)]^(1 / (d + 4))     where AMISE is least

The integrals are sums over pairs of components (`overlaps`). The kernel that PHY-97 is printed with has exp(-|x|^2 /
2 h) / h: it has not the mass 1, and its bias is another one. Sources: PHY-97, PHY-99; Marron and Wand 1992; Silverman
1986.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from refdiff import operators
from refdiff.arguments import Array, one_of, points, whole_number
from refdiff.distributions import Empirical, GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.operators import Operator
from refdiff.physics.fick import spreading_rate
from refdiff.physics.overlaps import bend_overlap, overlap

CRITERIA = ("mise", "amise")
# tr H S^-1 up to which a kernel is narrow beside a component. Then the integrand of `integrated_bias` is analytic for
# s > -1 / NARROW, and two rules of NODES nodes err by 17^(-2 NODES); beyond it the overlaps do not cancel.
NARROW, NODES = 0.25, 8
# Bandwidths that are tried, as multiples of the one of AMISE: ten in each of four decades, for few points see what is
# narrow in a law by AMISE's curvature only, and not in MISE.
RANGE, TRIED = (0.1, 1e3), 41


def density_estimate(sample: ArrayLike, kernel: ArrayLike, weights: ArrayLike | None = None) -> GaussianMixture:
    """p^, a mixture with a kernel on every point.

    Args:
        sample: X_i, shape (N, d).
        kernel: H, the kernel's covariance: a variance h^2, variances (d,) or a matrix (d, d).
        weights: of the points, shape (N,), equal when left out.

    Raises:
        ValueError: a negative weight or H, or shapes that do not fit.

    Examples:
        >>> from refdiff.physics import density_estimate
        >>> print(density_estimate([[0.0], [2.0]], 0.25).cov())  # 1 of the points, and the kernel's
        [[1.25]]
    """
    return Empirical(sample, weights).convolve(kernel)


def estimate_mean(law: GaussianMixture, x: ArrayLike, kernel: ArrayLike) -> Array:
    """E p^ = p * k at points x (..., d), shape (...), for data from the `law` p and a `kernel` H.

    Raises:
        TypeError: law is none of this library's.
        ValueError: H is negative or does not fit, or p * k is singular.
    """
    h = _kernel(law, kernel)
    return np.exp(law.convolve(h).logpdf(x))


def estimate_variance(law: GaussianMixture, x: ArrayLike, kernel: ArrayLike, count: int) -> Array:
    """Var p^ at points x (..., d), shape (...).

    Args:
        law: p, of which the data are independent draws.
        x: the points.
        kernel: H, not singular.
        count: N.

    Raises:
        TypeError: law is none of this library's.
        ValueError: H is singular or does not fit, or N < 1.
    """
    h, n = _kernel(law, kernel), whole_number("count", count, low=1)
    rows, restore = points("x", x, law.dim)
    mean = law.convolve(h).logpdf(rows)
    excess = log_roughness(h, law.dim) + law.convolve(h / 2).logpdf(rows) - 2 * mean
    # E k^2 - (E k)^2 = (E k)^2 expm1(.), where k hardly varies no more than rounding, which is cut below 0
    return restore(np.exp(2 * mean) * np.maximum(np.expm1(excess), 0.0) / n)


def estimate_bias(law: GaussianMixture, x: ArrayLike, kernel: ArrayLike) -> Array:
    """tr(H grad grad p) / 2 at points x (..., d), shape (...): the bias of E p^ to leading order.

    Args:
        law: p.
        x: the points.
        kernel: H.

    Raises:
        TypeError: law is none of this library's.
        ValueError: p has no density, or H is negative or does not fit.
    """
    h = _kernel(law, kernel)
    rows, restore = points("x", x, law.dim)
    return restore(np.exp(law.logpdf(rows)) * spreading_rate(law, rows, h / 2))


def mean_squared_error(law: GaussianMixture, x: ArrayLike, kernel: ArrayLike, count: int) -> Array:
    """E (p^ - p)^2 = (E p^ - p)^2 + Var p^ at points x (..., d), shape (...), exact at every N.

    Args:
        law: p.
        x: the points.
        kernel: H, not singular.
        count: N.

    Raises:
        TypeError: law is none of this library's.
        ValueError: p has no density, H is singular or does not fit, or N < 1.
    """
    rows, restore = points("x", x, law.dim)
    here, h = law.logpdf(rows), _kernel(law, kernel)
    bias = np.exp(here) * np.expm1(law.convolve(h).logpdf(rows) - here)
    return restore(bias**2 + estimate_variance(law, rows, h, count))


# ---------------------------------------------------------------------- integrated


def log_roughness(kernel: Operator, dim: int) -> float:
    """log R(k) = log int k^2 of a Gaussian kernel of covariance `kernel` on R^dim (`dim`).

    Raises:
        ValueError: it is singular.
    """
    if operators.singular(kernel):
        raise ValueError(f"kernel must not be singular, got {kernel.tolist()}")
    if kernel.ndim == 2:
        log_det = float(np.linalg.slogdet(kernel)[1])
    else:
        log_det = float(np.broadcast_to(np.log(kernel), (dim,)).sum())
    return -0.5 * (dim * float(np.log(4 * np.pi)) + log_det)


def roughness(law: GaussianMixture, shape: ArrayLike = 1.0) -> float:
    """int (tr H_1 grad grad p)^2 dx of a `law`, int (lap p)^2 for a kernel's `shape` H_1 of 1.

    Raises:
        TypeError: law is none of this library's.
        ValueError: p has no density, or H_1 is negative or does not fit.
    """
    return bend_overlap(law, law, shape)


def integrated_bias(law: GaussianMixture, kernel: ArrayLike) -> float:
    """int (p * k - p)^2 dx of a `law` and a `kernel` H, a number, (d,) or (d, d).

    Three overlaps cancel for narrow kernels. Then it is their second difference g(0) - 2 g(1) + g(2) written as the
    integral of the second derivative of g(s) = int p (p * N(0, s H)), over s with the weights 1 - |s - 1|, and g'' =
    int (L p)(L p_s) / 4 with L = tr(H grad grad) is positive.

    Raises:
        TypeError: law is none of this library's.
        ValueError: p has no density, or H is negative or does not fit.
    """
    h = _kernel(law, kernel)
    if law.covariances.singular:
        raise ValueError(NO_DENSITY.format(what="a component covariance"))
    ratios = np.einsum("ij,kji->k", operators.dense(h, law.dim), law.covariances.inverse().dense(law.dim))
    if ratios.max() > NARROW:
        smooth = law.convolve(h)
        return max(overlap(law, law) - 2 * overlap(law, smooth) + overlap(smooth, smooth), 0.0)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    s = (nodes + 1) / 2  # on [0, 1], and 2 - s on [1, 2], both with the weight s
    both = [bend_overlap(law, law.convolve(u * h), h) + bend_overlap(law, law.convolve((2 - u) * h), h) for u in s]
    return float((weights * s) @ np.array(both)) / 8


def mise(law: GaussianMixture, kernel: ArrayLike, count: int) -> float:
    """E int (p^ - p)^2 dx, exact.

    Args:
        law: p.
        kernel: H, not singular, a number, (d,) or (d, d).
        count: N.

    Raises:
        TypeError: law is none of this library's.
        ValueError: p has no density, H is singular or does not fit, or N < 1.
    """
    h, n = _kernel(law, kernel), whole_number("count", count, low=1)
    smooth = law.convolve(h)
    spread = float(np.exp(log_roughness(h, law.dim))) - overlap(smooth, smooth)
    return spread / n + integrated_bias(law, h)


def amise(law: GaussianMixture, kernel: ArrayLike, count: int) -> float:
    """R(k) / N + int (tr H grad grad p)^2 / 4: MISE to leading order in N and H.

    Args:
        law: p.
        kernel: H, not singular, a number, (d,) or (d, d).
        count: N.

    Raises:
        TypeError: law is none of this library's.
        ValueError: p has no density, H is singular or does not fit, or N < 1.
    """
    h, n = _kernel(law, kernel), whole_number("count", count, low=1)
    return float(np.exp(log_roughness(h, law.dim)) / n + roughness(law, h) / 4)


def optimal_bandwidth(law: GaussianMixture, count: int, shape: ArrayLike = 1.0, criterion: str = "mise") -> float:
    """h for which a kernel of covariance h^2 H_1 has the least error.

    Args:
        law: p.
        count: N.
        shape: H_1, not singular.
        criterion: mise, the global minimum, to some 1e-7 of h as a minimum allows; or amise, in closed form.

    Raises:
        TypeError: law is none of this library's.
        ValueError: p has no density, H_1 is singular or does not fit, N < 1, or no such criterion.

    Examples:
        >>> import numpy as np
        >>> from refdiff import Gaussian
        >>> from refdiff.physics import optimal_bandwidth
        >>> h = optimal_bandwidth(Gaussian([0.0], 1.0), 100, criterion="amise")
        >>> np.allclose(h, (4 / (3 * 100)) ** 0.2)  # Silverman's rule
        True
    """
    h1, n, d = _kernel(law, shape), whole_number("count", count, low=1), law.dim
    one_of("criterion", criterion, CRITERIA)
    leading = float((d * np.exp(log_roughness(h1, d)) / (n * roughness(law, h1))) ** (1 / (d + 4)))
    if criterion == "amise":
        return leading

    def error(log_h: float) -> float:
        return float(np.log(mise(law, np.exp(2 * log_h) * h1, n)))

    tried = np.log(leading * np.geomspace(*RANGE, TRIED))
    best = int(np.argmin([error(log_h) for log_h in tried.tolist()]))
    bracket = tried[max(best - 1, 0)], tried[min(best + 1, TRIED - 1)]
    return float(np.exp(minimize_scalar(error, bounds=bracket, method="bounded", options={"xatol": 1e-9}).x))


def _kernel(law: GaussianMixture, kernel: ArrayLike) -> Operator:
    """H, if it is one for this law."""
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"law must be a Gaussian, GaussianMixture or Empirical, got {law!r}")
    h = operators.covariance("kernel", kernel)
    operators.fits("kernel", h, law.dim)
    return h
