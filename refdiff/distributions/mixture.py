r"""Gaussian mixtures: the closed world of this library.

    p(x) = sum_k w_k N(x; m_k, S_k),      r_k(x) = w_k N(x; m_k, S_k) / p(x)

Every question about a mixture is a responsibility-weighted moment of affine fields. With the component gradient
g_k(x) = -S_k^-1 (x - m_k) and averages <.> under r_k(x):

    grad log p  = <g>                      hess log p = <(g - <g>)(g - <g>)'> - <S^-1>

The Hessian is written as a covariance minus a mean, so the two large terms <g g'> and <g><g>' never meet.
A Gaussian is a mixture of one component; a point set is a mixture of components without variance, which has
moments and samples and can be pushed through channels, but has no density. Sources: DMI-01, TOPA-35, PHY-24.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, wraps

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator, indices, points, real_array, whole_number
from refdiff.backends import numba_pays, on_device
from refdiff.distributions.covariances import NO_DENSITY, TILE, TOO_FAR, Covariances, Dense, Diagonal
from refdiff.distributions.moments import Field, average, cross, cross_trace, gather, log_total, twice
from refdiff.distributions.parts import log_weights, matrices_of, means_of, variances_of
from refdiff.operators import Operator

Method = Callable[["GaussianMixture", ArrayLike], Array]


def _or_compiled(question: str) -> Callable[[Method], Method]:
    """A method whose answer kernels give where `backends` says so, on a GPU always: what is asked about the score."""

    def decorated(method: Method) -> Method:
        @wraps(method)
        def answer(self: GaussianMixture, x: ArrayLike) -> Array:
            if on_device(x):
                from refdiff import cuda  # late: as below

                return cuda.ask(question, self, x)  # type: ignore[no-any-return]
            rows, restore = points("x", x, self.dim)
            if numba_pays(len(rows), self.count, self.dim * (self.dim if question == "jacobian" else 1)):
                from refdiff import compiled  # late: Numba takes a third of a second to import

                if compiled.applies(self, compiled.STATIC):
                    return restore(getattr(compiled, question)(self, rows, compiled.STATIC))
            return method(self, x)

        return answer

    return decorated


@dataclass(frozen=True, eq=False, repr=False)
class GaussianMixture:
    """The law sum_k w_k N(m_k, S_k) on R^d.

    Build one with `isotropic`, `diagonal`, `shared` or `full`, which check their arguments; the constructor itself
    takes parts that are already consistent.

    Attributes:
        log_weights: log w_k, shape (K,), normalised.
        means: m_k, shape (K, d).
        covariances: S_k, a `Diagonal` or `Dense` storage.
    """

    log_weights: Array
    means: Array
    covariances: Covariances

    @staticmethod
    def isotropic(means: ArrayLike, variances: ArrayLike, weights: ArrayLike | None = None) -> GaussianMixture:
        """S_k = v_k I: `means` (K, d), `variances` (K,) or one number, `weights` (K,), equal when left out.

        Raises:
            ValueError: a negative or non-finite weight or variance, weights that sum to 0, shapes that do not fit.
        """
        means = means_of(means)
        spread = variances_of(variances, (0, 1), (len(means),))
        return law(log_weights(weights, len(means)), means, Diagonal(spread.reshape(-1, 1)))

    @staticmethod
    def diagonal(means: ArrayLike, variances: ArrayLike, weights: ArrayLike | None = None) -> GaussianMixture:
        """S_k = diag(v_k): `means` (K, d), `variances` (K, d), or (d,) shared by all components."""
        means = means_of(means)
        spread = variances_of(variances, (1, 2), means.shape)
        return law(log_weights(weights, len(means)), means, Diagonal(np.atleast_2d(spread)))

    @staticmethod
    def shared(means: ArrayLike, covariance: ArrayLike, weights: ArrayLike | None = None) -> GaussianMixture:
        """S_k = S for all components: `means` (K, d), `covariance` (d, d) positive semi-definite."""
        means = means_of(means)
        matrix = matrices_of("covariance", covariance, 2, means.shape)
        return law(log_weights(weights, len(means)), means, Dense(matrix[None]))

    @staticmethod
    def full(means: ArrayLike, covariances: ArrayLike, weights: ArrayLike | None = None) -> GaussianMixture:
        """One matrix a component: `means` (K, d), `covariances` (K, d, d) positive semi-definite."""
        means = means_of(means)
        matrices = matrices_of("covariances", covariances, 3, means.shape)
        return law(log_weights(weights, len(means)), means, Dense(matrices))

    def __repr__(self) -> str:
        storage = type(self.covariances).__name__.lower()
        return f"{type(self).__name__}({self.count} x R^{self.dim}, {storage})"

    # ------------------------------------------------------------------ moments and samples

    @property
    def dim(self) -> int:
        """d, the dimension of x."""
        return int(self.means.shape[1])

    @property
    def count(self) -> int:
        """K, the number of components."""
        return len(self.means)

    @cached_property
    def weights(self) -> Array:
        """w_k, shape (K,)."""
        return np.exp(self.log_weights)

    def mean(self) -> Array:
        """E x = sum_k w_k m_k, shape (d,)."""
        return self.weights @ self.means

    def cov(self) -> Array:
        """Cov x = sum_k w_k (S_k + (m_k - E x)(m_k - E x)'), shape (d, d)."""
        centred: Array = self.means - self.mean()
        within = self.covariances.average(self.weights[None], self.dim)[0]
        return np.asarray(within + (self.weights[:, None] * centred).T @ centred)

    def sample(self, n: int, seed: int | np.random.Generator) -> Array:
        """`n` independent draws, shape (n, d), from an explicit seed or generator."""
        n, rng = whole_number("n", n), generator(seed)
        labels = rng.choice(self.count, size=n, p=self.weights / self.weights.sum())
        return np.asarray(self.means[labels] + self.covariances.colour(rng.standard_normal((n, self.dim)), labels))

    # ------------------------------------------------------------------ density and derivatives

    @_or_compiled("log_density")
    def logpdf(self, x: ArrayLike) -> Array:
        """log p(x) for x of shape (..., d), shape (...).

        Raises:
            ValueError: x has another last dimension, or some S_k is singular (there is no density).
        """
        return self._by_parts(x, lambda part: log_total(self._log_joint(part)))

    @_or_compiled("responsibilities")
    def responsibilities(self, x: ArrayLike) -> Array:
        """r_k(x) = p(component k | x), shape (..., K)."""
        return self._by_parts(x, self.posterior_weights)

    @_or_compiled("prediction")
    def score(self, x: ArrayLike) -> Array:
        """grad log p(x) = -sum_k r_k S_k^-1 (x - m_k), shape (..., d)."""
        return self._by_parts(x, lambda part: average(self.posterior_weights(part), self.gradients(part), self.dim))

    @_or_compiled("jacobian")
    def hessian(self, x: ArrayLike) -> Array:
        """The Hessian of log p(x), shape (..., d, d): Cov_r(g) - sum_k r_k S_k^-1."""

        def one(part: Array) -> Array:
            r, g = self.posterior_weights(part), self.gradients(part)
            return cross(r, twice(g), self.dim) - self.covariances.inverse().average(r, self.dim)

        return self._by_parts(x, one)

    @_or_compiled("divergence")
    def laplacian(self, x: ArrayLike) -> Array:
        """tr hess log p(x) = div score, shape (...), without forming a matrix."""

        def one(part: Array) -> Array:
            r, g = self.posterior_weights(part), self.gradients(part)
            return cross_trace(r, twice(g), self.dim) - self.covariances.inverse().average_trace(r, self.dim)

        return self._by_parts(x, one)

    def parts(self, x: Array) -> Iterator[Array]:
        """Rows of x such that a (rows, K) temporary stays within TILE elements.

        Raises:
            ValueError: the law has no density.
        """
        if self.covariances.singular:
            raise ValueError(NO_DENSITY.format(what="a component covariance"))
        step = max(1, TILE // max(self.count, self.dim))
        return (x[start : start + step] for start in range(0, max(1, len(x)), step))

    def _by_parts(self, x: ArrayLike, answer: Callable[[Array], Array]) -> Array:
        """The answers for parts (n, d) of the points x (..., d), together."""
        rows, restore = points("x", x, self.dim)
        return restore(gather(answer(part) for part in self.parts(rows)))

    def _log_joint(self, x: Array) -> Array:
        """log w_k + log N(x; m_k, S_k), shape (n, K)."""
        result = self.covariances.squared_distance(x, self.means)
        result += self.covariances.log_det(self.dim) + self.dim * np.log(2 * np.pi)
        result *= -0.5
        result += self.log_weights
        return result

    def posterior_weights(self, x: Array) -> Array:
        """Responsibilities of checked points x (n, d), shape (n, K).

        Raises:
            ValueError: a point is so far from all components that its log density is -inf.
        """
        logits = self._log_joint(x)
        peak = logits.max(axis=1, keepdims=True)
        if np.isneginf(peak).any():
            raise ValueError(TOO_FAR.format(what="x"))
        logits -= peak
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return logits

    def gradients(self, x: Array) -> Field:
        """The component gradients g_k(x) = -S_k^-1 (x - m_k) of checked points x (n, d), as a field."""
        return lambda ks: -self.covariances.solve(x[:, None, :] - self.means[ks], ks)

    # ------------------------------------------------------------------ laws made from this law

    def affine(self, gain: ArrayLike, offset: ArrayLike = 0.0) -> GaussianMixture:
        """The law of A x + b: A (`gain`) a scalar, diagonal (d,) or matrix (k, d), b (`offset`) a scalar or (k,)."""
        a = operators.operator("gain", gain)
        operators.fits("gain", a, self.dim)
        b = real_array("offset", offset, ndim=(0, 1))
        operators.fits("offset", b, operators.rows(a, self.dim))
        return law(self.log_weights, operators.apply(a, self.means) + b, self.covariances.sandwich(a))

    def convolve(self, noise: ArrayLike) -> GaussianMixture:
        """The law of x + N(0, C): C = `noise` a variance, variances (d,) or a covariance (d, d)."""
        c = operators.covariance("noise", noise)
        operators.fits("noise", c, self.dim)
        return law(self.log_weights, self.means, self.covariances.plus(c, self.dim))

    def marginal(self, kept: ArrayLike) -> GaussianMixture:
        """The law of the coordinates `kept`, in that order."""
        chosen = indices("kept", kept, self.dim)
        return law(self.log_weights, self.means[:, chosen], self.covariances.marginal(chosen))

    def conditional(self, given: ArrayLike, values: ArrayLike) -> GaussianMixture:
        """The law of the other coordinates (in their order) when the coordinates `given` have these `values`.

        Raises:
            ValueError: nothing is left over, or the law of the given coordinates has no density.
        """
        chosen = indices("given", given, self.dim)
        others = np.setdiff1d(np.arange(self.dim), chosen)
        if others.size == 0:
            raise ValueError(f"given must leave a coordinate over, got all {self.dim}")
        y = points("values", values, len(chosen))[0]
        if len(y) != 1:
            raise ValueError(f"values must be one point, got {len(y)}")
        if isinstance(self.covariances, Diagonal):  # only the weights learn from other coordinates
            left = self.covariances.marginal(others)
            return law(self.marginal(chosen).log_weights_given(y), self.means[:, others], left)
        return self.observe(np.eye(self.dim)[chosen], np.zeros(()), np.zeros(()), y).marginal(others)

    def observe(self, a: Operator, b: Array, c: Operator, y: Array) -> GaussianMixture:
        """The law of x given one y = A x + b + N(0, C); operators a, b, c checked by the caller, y of shape (1, k).

        w_k -> r_k(y), m_k -> m_k + S_k A' (A S_k A' + C)^-1 (y - A m_k - b), S_k by `after`.

        Raises:
            ValueError: y is not one point, or has no density.
        """
        if len(y) != 1:
            raise ValueError(f"y must be one point, got {len(y)}")
        pushed = self.affine(a, b).convolve(c)
        learnt = pushed.log_weights_given(y)
        means = posterior_means(self, pushed, a, y)(slice(0, self.count))[0]
        return law(learnt, means, self.covariances.after(a, c, self.dim))

    def log_weights_given(self, y: Array) -> Array:
        """log r_k(y) of one checked point y (1, d), shape (K,).

        Raises:
            ValueError: the law has no density, or y is so far from all components that its log density is -inf.
        """
        if self.covariances.singular:
            raise ValueError(NO_DENSITY.format(what="the law of y"))
        logits = self._log_joint(y)
        if np.isneginf(logits).all():
            raise ValueError(TOO_FAR.format(what="y"))
        return np.asarray(logits[0] - log_total(logits))


class Gaussian(GaussianMixture):
    """N(m, S) on R^d.

    Args:
        mean: m, shape (d,).
        covariance: S, a variance, variances (d,) or a positive semi-definite (d, d) matrix.

    Raises:
        ValueError: the mean has no coordinate, or S is negative or of another dimension.
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike) -> None:
        m = real_array("mean", mean, ndim=(1,))
        if m.size == 0:
            raise ValueError("mean must have at least one coordinate, got shape (0,)")
        s = operators.covariance("covariance", covariance)
        operators.fits("covariance", s, m.size)
        storage: Covariances = Dense(s[None]) if s.ndim == 2 else Diagonal(s.reshape(1, -1))
        super().__init__(np.zeros(1), m[None], storage)

    @property
    def covariance(self) -> Operator:
        """S in the storage it has: a scalar, (d,) or (d, d)."""
        return self.covariances.operator()


class Empirical(GaussianMixture):
    """The point set sum_k w_k delta(x - x_k): no density, but every channel with noise gives it one.

    Args:
        points: x_k, shape (K, d).
        weights: w_k >= 0, shape (K,), equal when left out.
    """

    def __init__(self, points: ArrayLike, weights: ArrayLike | None = None) -> None:
        where = means_of(points, "points")
        super().__init__(log_weights(weights, len(where)), where, Diagonal(np.zeros((1, 1))))


def law(log_weights: Array, means: Array, covariances: Covariances) -> GaussianMixture:
    """The mixture of parts as of `GaussianMixture`, in the most special class: Gaussian, Empirical or mixture."""
    kind: type[GaussianMixture] = GaussianMixture
    if len(means) == 1:
        kind = Gaussian
    elif isinstance(covariances, Diagonal) and not covariances.variances.any():
        kind = Empirical
    result = object.__new__(kind)
    GaussianMixture.__init__(result, log_weights, means, covariances)
    return result


def posterior_means(prior: GaussianMixture, pushed: GaussianMixture, a: Operator, y: Array) -> Field:
    """The field E[x | y, component k] = m_k + G_k (y - A m_k - b) at y (n, k), with A m_k + b the means of `pushed`."""
    gain = prior.covariances.gain(a, pushed.covariances, prior.dim)
    return lambda ks: prior.means[ks] + gain.multiply(y[:, None, :] - pushed.means[ks], ks)
