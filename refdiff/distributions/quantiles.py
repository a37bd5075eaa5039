r"""Distribution functions and quantiles of laws on the line, and the monotone maps that they make.

    F(x) = sum_k w_k Phi(z_k(x)),   z_k(x) = (x - m_k) / s_k,      F^-1(p) = inf {x: F(x) >= p}

F is small in one tail and 1 - F in the other; in a gap between components both are large and yet nothing changes. All
three are one case when a component counts by the tail that lies on the side of the point: with R the components right
of it and L those left of it,

    F(x) - sum_L w_k  =  A(x) - B(x),      A = sum_R w_k Phi(z_k),   B = sum_L w_k Phi(-z_k),

two sums of small positive terms that logarithms hold at any distance. What has mass sum_k w_k Phi(z_k) to its left is
therefore the root of

    log(A(y) + B) - log(B(y) + A),         A, B from the given z_k,  A(y), B(y) from z_k(y),

which increases in y. It lies between the least and the largest of the points m_k + s_k z_k that each component would
answer, and Newton's steps, kept there by bisection, find it. A component without variance is a step of F, which
bisection runs into from both sides. Sources: TOPB-55, DMI-01 (the law).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtri_exp

from refdiff.arguments import Array, points, precise_as, real_array
from refdiff.distributions.covariances import TILE, TOO_FAR
from refdiff.distributions.mixture import GaussianMixture
from refdiff.distributions.moments import gather, log_total

HALF = float(np.log(0.5))
LOG_ROOT = 0.5 * float(np.log(2 * np.pi))
EPS = float(np.finfo(float).eps)
# 53 halvings leave nothing of a bracket that an end of it is larger than, and at most every other step is no halving
ITERATIONS = 128


def log_cdf(law: GaussianMixture, x: ArrayLike, *, upper: bool = False) -> Array:
    """log F(x), or log (1 - F(x)) with `upper`, of a law on the line at points x (..., 1), shape (...).

    Raises:
        TypeError: the law is none of this library's.
        ValueError: it is not on the line, or x has another shape.
    """
    _on_the_line("law", law)
    rows, restore = points("x", x, 1)
    return restore(gather(_log_tails(law, standardized(law, part))[int(upper)] for part in _parts(law, rows)))


def cdf(law: GaussianMixture, x: ArrayLike, *, upper: bool = False) -> Array:
    """F(x) = P(X <= x), or 1 - F(x) with `upper`, of a law on the line at points x (..., 1), shape (...).

    Both keep their digits where they are small, as `log_cdf` does where they underflow.

    Examples:
        >>> from refdiff.distributions import Gaussian, cdf
        >>> print(cdf(Gaussian([0.0], 1.0), [[0.0], [1.96]]).round(3))
        [0.5   0.975]
    """
    found = np.exp(log_cdf(law, real_array("x", x), upper=upper))
    return np.asarray(precise_as(x, found))


def quantile(law: GaussianMixture, p: ArrayLike, *, upper: bool = False) -> Array:
    """The points (..., 1) with F = p, or with 1 - F = p where `upper`, of a law on the line for p (...) in [0, 1].

    Where F jumps or rests: inf {x: F(x) >= p}, and with `upper` the same for 1 - p, which p is too small to be
    subtracted from.

    Raises:
        TypeError: the law is none of this library's.
        ValueError: it is not on the line, or some p is no probability.

    Examples:
        >>> from refdiff.distributions import GaussianMixture, quantile
        >>> law = GaussianMixture.isotropic([[-3.0], [3.0]], 1e-4)
        >>> print(quantile(law, [0.25, 0.75]).round(6).ravel())  # the medians of the two halves
        [-3.  3.]
    """
    levels = real_array("p", p)
    if ((levels < 0) | (levels > 1)).any():
        raise ValueError(f"p must lie in [0, 1], got {levels[(levels < 0) | (levels > 1)].flat[0]}")
    with np.errstate(divide="ignore"):
        found = log_quantile(law, np.log(levels), upper=upper)
    return np.asarray(precise_as(p, found))


def log_quantile(law: GaussianMixture, log_p: ArrayLike, *, upper: bool = False) -> Array:
    """`quantile` of probabilities given as logarithms, log_p (...) in [-inf, 0], shape (..., 1).

    Raises:
        TypeError: the law is none of this library's.
        ValueError: it is not on the line, or some p is no probability.
    """
    _on_the_line("law", law)
    levels = real_array("log_p", log_p, finite=False)
    if not (levels <= 0).all():
        raise ValueError(f"log_p must lie in [-inf, 0], got {levels[~(levels <= 0)].flat[0]}")
    z = ndtri_exp(levels.reshape(-1, 1))
    found = equal_mass(law, np.broadcast_to(-z if upper else z, (levels.size, law.count)))
    result = found.reshape(*levels.shape, 1)
    return np.asarray(precise_as(log_p, result))


def monotone_map(source: GaussianMixture, target: GaussianMixture, x: ArrayLike) -> Array:
    """F_target^-1(F_source(x)) for points x (..., 1) of a law on the line: the increasing map between the two laws.

    It is the optimal map for every convex cost. Its digits are those of F: in a gap of the source, where F rests, they
    are fewer than those of x.

    Raises:
        TypeError: a law is none of this library's.
        ValueError: one is not on the line, x has another shape, or the source has points of positive mass, which no
            map can spread out.
    """
    for name, law in (("source", source), ("target", target)):
        _on_the_line(name, law)
    if source.covariances.singular:
        raise ValueError("source must have no point of positive mass: no map spreads one out")
    rows, restore = points("x", x, 1)

    def one(part: Array) -> Array:
        lower, upper = _log_tails(source, standardized(source, part))
        z = np.where(lower <= upper, ndtri_exp(np.minimum(lower, 0.0)), -ndtri_exp(np.minimum(upper, 0.0)))
        return equal_mass(target, np.broadcast_to(z[:, None], (len(part), target.count)))

    return restore(gather(one(part) for part in _parts(target, rows))[:, None])


# ---------------------------------------------------------------------- components on the line


def standardized(law: GaussianMixture, x: Array) -> Array:
    """z_k = (x - m_k) / s_k of points x (n, 1), shape (n, K); infinite where s_k = 0, +inf at the point itself."""
    means, std = law.means[:, 0], _std(law)
    away = x - means
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(std > 0, away / std, np.where(away >= 0, np.inf, -np.inf))


def equal_mass(law: GaussianMixture, z: Array) -> Array:
    """The points y (n,) of a law on the line with sum_k w_k Phi(z_k(y)) = sum_k w_k Phi(z_nk), for z (n, K).

    Raises:
        ValueError: a z so far out that the logarithm of its tail is no float64 number.
    """
    step = max(1, TILE // law.count)
    return gather(_roots(law, z[start : start + step]) for start in range(0, max(1, len(z)), step))


def _roots(law: GaussianMixture, z: Array) -> Array:
    """The same for rows that fit a tile."""
    means, std = law.means[:, 0], _std(law)
    with np.errstate(invalid="ignore"):
        answers = np.where(std > 0, means + std * z, means)
    low, high = answers.min(axis=1), answers.max(axis=1)
    # no mass to the left, or none to the right: an end of the support, which may be infinite
    ends = np.isinf(z).all(axis=1)
    y: Array = np.where(ends & (z[:, 0] < 0), low, high)
    ways = np.flatnonzero((low < high) & ~ends)
    if ways.size:
        sought = _Sought(law, z[ways])
        y[ways] = _search(sought, answers[ways], low[ways], high[ways])
    return y


class _Sought:
    """The function whose roots are sought: log(A(y) + B) - log(B(y) + A), one for each row of z."""

    def __init__(self, law: GaussianMixture, z: Array) -> None:
        self.law, self.std = law, _std(law)
        self.side = np.where(z < 0, 1.0, -1.0)
        self.a, self.b = self._sums(self.law.log_weights + log_ndtr(self.side * z), self.side)
        if np.isneginf(np.maximum(self.a, self.b)).any():
            raise ValueError(TOO_FAR.format(what="a point of the line"))
        with np.errstate(divide="ignore", invalid="ignore"):  # a point has no density, whatever its weight
            self.density = law.log_weights - np.log(self.std) - LOG_ROOT

    @staticmethod
    def _sums(logs: Array, side: Array) -> tuple[Array, Array]:
        right = side > 0
        return log_total(np.where(right, logs, -np.inf)), log_total(np.where(right, -np.inf, logs))

    def at(self, y: Array, rows: NDArray[np.intp]) -> tuple[Array, Array]:
        """The function and its derivative at y (m,), one point for each of these `rows` (m,)."""
        z, side = standardized(self.law, y[:, None]), self.side[rows]
        a, b = self._sums(self.law.log_weights + log_ndtr(side * z), side)
        first, second = np.logaddexp(a, self.b[rows]), np.logaddexp(b, self.a[rows])
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = np.where(side > 0, first[:, None], second[:, None])
            densities = np.where(self.std > 0, np.exp(self.density - 0.5 * z * z - scaled), 0.0)
            return first - second, densities.sum(axis=1)


def _search(sought: _Sought, answers: Array, low: Array, high: Array) -> Array:
    """Newton's steps inside a bracket that shrinks; a halving where one leaves it or brings little."""
    atoms = np.unique(sought.law.means[sought.std == 0, 0])
    spacing = EPS * np.maximum(np.abs(low), np.abs(high))
    y = np.clip(answers @ sought.law.weights, low, high)
    # where F rests at p itself, rounding may not say that p has not been reached
    slack = 8 * EPS * (1 + np.minimum(np.abs(sought.a), np.abs(sought.b))) * (atoms.size > 0)
    before, left = np.full(len(y), np.inf), np.arange(len(y))
    for _ in range(ITERATIONS):
        value, slope = sought.at(y[left], left)
        here = y[left]
        less = value < -slack[left]
        low[left], high[left] = np.where(less, here, low[left]), np.where(less, high[left], here)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            newton = here - value / slope
        # beside atoms F jumps where no slope says so: only the bracket may end the search
        last = (np.abs(newton - here) <= spacing[left]) & (atoms.size == 0)
        good = (newton > low[left]) & (newton < high[left]) & (np.abs(value) < 0.5 * before[left])
        y[left] = np.where(good | last, np.clip(newton, low[left], high[left]), 0.5 * (low[left] + high[left]))
        before[left] = np.where(good, np.abs(value), np.inf)
        left = left[~last & (high[left] - low[left] > spacing[left])]
        if not left.size:
            break
    if atoms.size:  # the jump that the bracket has closed on
        jump = atoms[np.minimum(np.searchsorted(atoms, low), len(atoms) - 1)]
        y = np.where((jump >= low) & (jump <= high), jump, y)
    return y


def _log_tails(law: GaussianMixture, z: Array) -> tuple[Array, Array]:
    """log F and log (1 - F) from z (n, K), each from the other where it is above 1/2."""
    lower, upper = (log_total(law.log_weights + log_ndtr(side * z)) for side in (1.0, -1.0))
    with np.errstate(divide="ignore"):
        from_upper, from_lower = (np.log1p(-np.exp(np.minimum(tail, 0.0))) for tail in (upper, lower))
    return np.where(lower > HALF, from_upper, lower), np.where(upper > HALF, from_lower, upper)


def _std(law: GaussianMixture) -> Array:
    """s_k, shape (K,)."""
    variances = law.covariances.dense(1)[:, 0, 0]
    return np.broadcast_to(np.sqrt(variances), (law.count,))


def _parts(law: GaussianMixture, rows: Array) -> list[Array]:
    step = max(1, TILE // law.count)
    return [rows[start : start + step] for start in range(0, max(1, len(rows)), step)]


def _on_the_line(name: str, law: GaussianMixture) -> None:
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"{name} must be a Gaussian, GaussianMixture or Empirical, got {law!r}")
    if law.dim != 1:
        raise ValueError(f"{name} must be on the line, got {law.dim} dimensions")
