r"""Laws on the line whose quantiles are means of others': geodesics and barycentres there.

    Q = sum_i w_i F_i^-1,      x(X) = w_b X + sum_i w_i T_i(X),   T_i = F_i^-1 o F_b,      p(x) = p_b(X) / x'(X)

where b is one of the laws, of positive weight and with a density; T_i' = p_b / (p_i o T_i). x(X) increases at least as
fast as w_b X does, which brackets the X of an x. Sums of optimal maps are optimal on the line, so that W_2(Q_1, Q_2) is
the L2 distance of quantiles: the line is flat. Sources: PODB-70, PODB-72; Agueh and Carlier 2011, "Barycenters in the
Wasserstein space".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, points, precise_as, real_array, whole_number
from refdiff.distributions import Empirical, GaussianMixture, cdf, monotone_map, quantile
from refdiff.distributions.mixture import law as law_of
from refdiff.expectations import Quadrature
from refdiff.metrics.compared import is_points, weighted_points
from refdiff.metrics.line import adaptive, inverse, levels_of

REACH = 9.5  # normal deviates whose mass is 2e-21, also beside a square


@dataclass(frozen=True, eq=False)
class QuantileMean:
    """The law on the line with the quantiles sum_i w_i F_i^-1.

    Args:
        laws: any laws on the line.
        weights: w_i, shape (n,). Weights below 0 extrapolate, which is a law while the sum still increases.

    Raises:
        TypeError: one is no law.
        ValueError: none is given, one is not on the line, or the weights do not fit.
    """

    laws: tuple[GaussianMixture, ...]
    weights: Array

    def __init__(self, laws: Sequence[GaussianMixture], weights: ArrayLike) -> None:
        w = real_array("weights", weights, ndim=(1,))
        if (dim := one_space(laws)) != 1:
            raise ValueError(f"laws must be on the line, got {dim} dimensions")
        if len(laws) != len(w):
            raise ValueError(f"weights must be as many as the laws, got {len(w)} for {len(laws)}")
        object.__setattr__(self, "laws", tuple(laws))
        object.__setattr__(self, "weights", w)

    # ------------------------------------------------------------------ quantiles, moments and samples

    def quantile(self, p: ArrayLike, *, upper: bool = False) -> Array:
        """The points (..., 1) of probabilities p (...), or of 1 - p where `upper`."""
        levels = real_array("p", p)
        found = [w * quantile(law, levels, upper=upper) for w, law in zip(self.weights, self.laws, strict=True)]
        return np.asarray(precise_as(p, np.asarray(sum(found[1:], found[0]))))

    def mean(self) -> Array:
        """E x = sum_i w_i E x_i, shape (1,)."""
        return np.asarray(self.weights @ np.stack([law.mean() for law in self.laws]))

    def cov(self) -> Array:
        """Cov x, shape (1, 1), to the rule of `variance`."""
        return np.array([[self.variance()]])

    def variance(self, rule: Quadrature | None = None) -> float:
        """int (Q - E x)^2 du, by a rule of the tolerance 1e-9 unless given."""
        m = float(self.mean()[0])
        return self.average(lambda x: (x - m) ** 2, rule)

    def average(self, function: Callable[[Array], Array], rule: Quadrature | None = None) -> float:
        """E f(x) = int f(Q(u)) du.

        Args:
            function: f from (n,) to (n,).
            rule: the tolerance, 1e-9 unless given.

        Raises:
            TypeError: f is no function.
        """
        if not callable(function):
            raise TypeError(f"function must be a function of points (n,), got {function!r}")
        ways = [inverse(law) for law in self.laws]

        def integrand(z: Array) -> Array:
            x = sum(w * way(z) for w, way in zip(self.weights, ways, strict=True))
            return np.asarray(np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) * function(np.asarray(x)))

        levels = np.concatenate([levels_of(law) for law in self.laws])
        knots = np.unique(np.concatenate([np.linspace(-REACH, REACH, 20), levels[np.abs(levels) < REACH]]))
        return adaptive(integrand, knots, Quadrature() if rule is None else rule)[0]

    def sample(self, n: int, seed: int | np.random.Generator) -> Array:
        """`n` independent draws by a `seed`, shape (n, 1)."""
        z = generator(seed).standard_normal(whole_number("n", n))  # a level can be 0, a normal deviate is finite
        return np.asarray(sum(w * inverse(law)(z) for w, law in zip(self.weights, self.laws, strict=True)))[:, None]

    # ------------------------------------------------------------------ densities

    def origin(self, x: ArrayLike) -> Array:
        """The point X (..., 1) of the law `base` that is carried to x (..., 1)."""
        rows, restore = points("x", x, 1)
        return restore(self._origins(rows)[0])

    def cdf(self, x: ArrayLike) -> Array:
        """P(X <= x) at points x (..., 1), shape (...)."""
        rows, restore = points("x", x, 1)
        return restore(cdf(self.laws[self.base], self._origins(rows)[0]))

    def logpdf(self, x: ArrayLike) -> Array:
        """log p(x) at points x (..., 1), shape (...): -inf where there is no mass, in a gap that a map leaves."""
        rows, restore = points("x", x, 1)
        found, slope, felt = self._origins(rows)
        with np.errstate(divide="ignore"):
            logs = self.laws[self.base].logpdf(found) - np.log(slope)
        return restore(np.where(felt, logs, -np.inf))

    def carried(self, of: int, x: ArrayLike) -> Array:
        """T(X) (..., 1) where X is the point of the law `of` that belongs to x (..., 1): the optimal map to that law.

        Raises:
            ValueError: there is no such law.
        """
        which = whole_number("of", of, high=len(self.laws) - 1)
        rows, restore = points("x", x, 1)
        found = self._origins(rows)[0]
        return restore(found if which == self.base else _image(self.laws[self.base], self.laws[which], found))

    @property
    def base(self) -> int:
        """b, the law of the largest weight that has no point of positive mass.

        Raises:
            ValueError: there is none of positive weight, so that this law may have points of positive mass itself.
        """
        w = [-np.inf if law.covariances.singular else float(w) for law, w in zip(self.laws, self.weights, strict=True)]
        if max(w) <= 0:
            raise ValueError("laws must have one with a density and a positive weight for densities, got none")
        return int(np.argmax(w))

    def _origins(self, x: Array) -> tuple[Array, Array, Array]:
        """X (n, 1), the slope x'(X) (n,), and whether x(X) = x, not a gap, (n,), for x (n, 1)."""
        from scipy.optimize.elementwise import find_root  # late: half a second to import

        b = self.base
        if (self.weights < 0).any():
            raise ValueError(f"weights must not be negative for densities, got {self.weights.tolist()}")
        where = x[:, 0]
        value, slope = self._moved(x, b)
        # slopes are at least w_b: the root is no farther away than this, and a little more for rounding
        away = np.abs(value - where) / self.weights[b] * (1 + 1e-9) + 1e-9 * (1 + np.abs(where))

        def gap(X: Array, x: Array) -> Array:
            return np.asarray(self._moved(X.reshape(-1, 1), b)[0].reshape(X.shape) - x)

        found = np.asarray(find_root(gap, (where - away, where + away), args=(where,)).x)[:, None]
        value, slope = self._moved(found, b)
        # where maps do not jump the equation is met; a jump leaves a gap between two points of positive mass
        felt = np.abs(value - where) <= 1e-6 * np.maximum(np.abs(where), slope * (np.abs(found[:, 0]) + 1))
        return found, slope, felt

    def _moved(self, X: Array, b: int) -> tuple[Array, Array]:
        """x(X) and x'(X), each (n,)."""
        value, slope = self.weights[b] * X[:, 0], np.full(len(X), self.weights[b])
        mine = self.laws[b].logpdf(X)
        for i, (w, law) in enumerate(zip(self.weights, self.laws, strict=True)):
            if i == b or w == 0:
                continue
            image = _image(self.laws[b], law, X)
            value = value + w * image[:, 0]
            if not is_points(law):
                slope = slope + w * _slope(law, mine, image)
        return value, slope


def _image(source: GaussianMixture, target: GaussianMixture, x: Array) -> Array:
    """The increasing map at x (n, 1), shape (n, 1); among points a rank says which, with no search."""
    if not is_points(target):
        return monotone_map(source, target, x)
    places, ladder = _ladder(target)
    return places[np.searchsorted(ladder[:-1], cdf(source, x))][:, None]


def _slope(law: GaussianMixture, mine: Array, image: Array) -> Array:
    """T'(X) (n,) at images T(X) (n, 1) in a law that is no point set, with log p_b(X) (n,): 0 where T stays a while."""
    if not law.covariances.singular:
        return np.asarray(np.exp(mine - law.logpdf(image)))
    variances = np.broadcast_to(law.covariances.dense(1)[:, 0, 0], law.count)
    wide = variances > 0
    mass = np.logaddexp.reduce(law.log_weights[wide])
    rest = law_of(law.log_weights[wide] - mass, law.means[wide], law.covariances[np.flatnonzero(wide)])
    stays = (image == law.means[~wide, 0]).any(axis=1)
    return np.where(stays, 0.0, np.exp(mine - rest.logpdf(image) - mass))


def _ladder(law: GaussianMixture) -> tuple[Array, Array]:
    """The points of a law of them in order, and the levels at which each ends, both (n,)."""
    x, a = weighted_points(law)
    order = np.argsort(x[:, 0], kind="stable")
    return x[order, 0], np.cumsum(a[order])


def one_space(laws: Sequence[GaussianMixture]) -> int:
    """The dimension of `laws` that all live in one space, at least one of them.

    Raises:
        TypeError: one is no law.
        ValueError: there are none, or dimensions differ.
    """
    for law in laws:
        if not isinstance(law, GaussianMixture):
            raise TypeError(f"laws must be Gaussians, GaussianMixtures or Empiricals, got {law!r}")
    if len(dims := sorted({law.dim for law in laws})) != 1:
        raise ValueError(f"laws must be at least one, all of one dimension, got {dims or 'none'}")
    return dims[0]


def quantile_mean_of_points(laws: Sequence[GaussianMixture], weights: ArrayLike) -> GaussianMixture:
    """The same for point sets on the line, as the point set that it is: at most as many points as all have together.

    Args:
        laws: laws of points.
        weights: w_i, shape (n,).

    Raises:
        ValueError: a law is no point set on the line, or the weights do not fit.
    """
    w = QuantileMean(laws, weights).weights
    for law in laws:
        if not is_points(law):
            raise ValueError(f"laws must be point sets, got {law!r}")
    ladders = [_ladder(law) for law in laws]
    ends = np.unique(np.concatenate([total[:-1] for _, total in ladders] + [np.ones(1)]))
    masses = np.diff(ends, prepend=0.0)
    middle = ends - 0.5 * masses
    steps = zip(w, ladders, strict=True)
    found = sum(one * x[np.minimum(np.searchsorted(total, middle), len(x) - 1)] for one, (x, total) in steps)
    return Empirical(np.asarray(found)[:, None], masses)
