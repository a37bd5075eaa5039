r"""The squared error that the exact denoiser leaves, weighted by a matrix Q,

    e_t(x_0) = E[(x_0 - D(x_t))' Q (x_0 - D(x_t)) | x_0],      E e_t = tr(Q E Cov[x_0 | x_t])

over the noise for given data, or over the data too. For Gaussian data x_0 - D = (I - G A)(x_0 - m) - G xi with G the
gain of Bayes' rule and xi ~ N(0, C) the noise of the kernel (A, b, C), which makes both closed. Everything else is an
expectation over x_t by quadrature, or over one set of draws for all times, so that sums over times and integrals have
a standard error of their own. Sources: PODA-217, PODB-10, DMI-X6 in DMI-27.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.covariances import TILE
from refdiff.expectations import START, MonteCarlo, Route, checked, draws, integral, name_of
from refdiff.model import ExactModel
from refdiff.operators import Operator
from refdiff.random import normals


def form(q: Operator, u: Array) -> Array:
    """u' Q u for an operator q and vectors u (..., d), shape (...)."""
    if q.ndim == 2:
        return np.asarray(np.einsum("...i,ij,...j->...", u, q, u))
    return np.asarray((q * u**2).sum(axis=-1))


def trace(q: Operator, s: Operator, dim: int) -> float:
    """tr(Q S) of two operators q and s on R^dim (`dim`)."""
    if max(q.ndim, s.ndim) < 2:
        return float(np.broadcast_to(q * s, (dim,)).sum())
    return float((operators.dense(q, dim) * operators.dense(s, dim).T).sum())


def pulled(a: Operator, w: Operator, name: str) -> Operator:
    """A' W^-1 A of an operator a and a covariance w, scalars, diagonals or (d, d) matrices; `name` is that of W.

    Raises:
        ValueError: W is singular.
    """
    if max(a.ndim, w.ndim) < 2:
        if not np.all(w > 0):
            raise ValueError(f"{name} must have full rank, got {w}")
        return a * a / w
    dim = len(a) if a.ndim == 2 else len(w)
    matrix = operators.dense(a, dim)
    try:
        root = np.linalg.cholesky(operators.dense(w, dim))
    except np.linalg.LinAlgError:
        raise ValueError(f"{name} must have full rank, got {w.tolist()}") from None
    white = np.linalg.solve(root, matrix)
    return np.asarray(white.T @ white)


def one_gaussian(law: GaussianMixture) -> Gaussian | None:
    """A law of one component as a Gaussian, a single point too; None for others."""
    return Gaussian(law.means[0], law.covariances.operator()) if law.count == 1 else None


@dataclass(frozen=True, eq=False)
class Errors:
    """The errors at points x_0, or on average over the data, by one route for all times.

    Args:
        model: the data and their noising.
        x0: points (m, d), or None for the average over the data.
        route: a Quadrature or a MonteCarlo; None where the data are Gaussian, for the closed form.
    """

    model: ExactModel
    x0: Array | None
    route: Route | None

    def __post_init__(self) -> None:
        if self.route is not None or one_gaussian(self.model.distribution) is None:
            checked(self.route)

    @property
    def name(self) -> str:
        """The name of the route."""
        return name_of(self.route)

    def weighted(self, t: float, q: Operator) -> tuple[Array, Array]:
        """The errors under the weight q at a time t, and what quadrature may err by.

        Shapes (m,), or (m, n) for the n draws of Monte Carlo, m = 1 for the average.
        """
        if self.route is None:
            found = self._closed(t, q)
            return found, np.zeros_like(found)
        if isinstance(self.route, MonteCarlo):
            return self._drawn(t, q), np.zeros(1)
        law, kernel = self.model.distribution, self.model.process.kernel(t)
        laws = [kernel.push(law)] if self.x0 is None else [kernel.at(x) for x in self.x0]
        scale = trace(q, best_linear(kernel, law), self.model.dim)
        pairs = [integral(one, self._function(t, q, i), self.route, scale) for i, one in enumerate(laws)]
        values, changes = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        return values, changes

    def _function(self, t: float, q: Operator, i: int) -> Callable[[Array], Array]:
        if self.x0 is None:
            return lambda x: posterior_form(self.model, x, t, q)
        point = self.x0[i]
        return lambda x: form(q, point - self.model.denoiser(x, t))

    def _closed(self, t: float, q: Operator) -> Array:
        law, kernel, dim = one_gaussian(self.model.distribution), self.model.process.kernel(t), self.model.dim
        assert law is not None  # checked when made
        back = kernel.reverse(law)
        if self.x0 is None:
            return np.array([trace(q, back.noise, dim)])
        kept = operators.add(-operators.product(back.gain, kernel.gain), identity(back.gain, kernel.gain, dim))
        noise = trace(q, operators.sandwich(back.gain, kernel.noise), dim)
        return form(q, operators.apply(kept, self.x0 - law.means[0])) + noise

    @cached_property
    def _start(self) -> tuple[Array, Array]:
        """Data and unit noises of the draws, shapes (m or 1, n or 1, d) and (n, d)."""
        assert isinstance(self.route, MonteCarlo)
        samples, key, law = self.route.samples, self.route.seed, self.model.distribution
        noise = normals(key, samples, START + 1, self.model.process.kernel(self.model.process.T).push(law).dim)
        return (draws(law, samples, key)[None] if self.x0 is None else self.x0[:, None]), noise

    def _drawn(self, t: float, q: Operator) -> Array:
        start, z = self._start
        kernel = self.model.process.kernel(t)
        moved = operators.apply(kernel.gain, start) + kernel.offset
        x = moved + coloured(kernel, z)
        if self.x0 is None:
            return posterior_form(self.model, x[0], t, q)[None]
        return form(q, start - self.model.denoiser(x, t))


def best_linear(kernel: Channel, law: GaussianMixture) -> Operator:
    """The covariance that the best affine estimate of x_0 leaves: that of a Gaussian with the moments of the law."""
    return kernel.reverse(Gaussian(law.mean(), law.cov())).noise


def identity(a: Operator, b: Operator, dim: int) -> Operator:
    """I of R^dim (`dim`) in the storage of the product of the operators a and b."""
    return np.eye(dim) if max(a.ndim, b.ndim) == 2 else np.ones(())


def coloured(channel: Channel, z: Array) -> Array:
    """Unit normals z (n, d) as draws of a channel's noise."""
    noise = Gaussian(np.zeros(z.shape[1]), channel.noise)
    return noise.covariances.colour(z, np.zeros(len(z), dtype=np.intp))


def posterior_form(model: ExactModel, x: Array, t: float, q: Operator) -> Array:
    """tr(Q Cov[x_0 | x_t = x]) at points x (n, d) of a time t for an operator q, shape (n,)."""
    if q.ndim == 0:
        return np.asarray(q * model.process.kernel(t).posterior_variance(model.distribution, x))
    matrix, step = operators.dense(q, model.dim), max(1, TILE // model.dim**2)
    parts = (model.posterior_covariance(x[i : i + step], t) for i in range(0, len(x), step))
    return np.concatenate([np.einsum("ij,nji->n", matrix, part) for part in parts])


def mean_covariance(model: ExactModel, t: float, route: Route | None) -> Operator:
    """E Cov[x_0 | x_t] at a time t as an operator: closed for Gaussian data, otherwise a (d, d) matrix by a `route`."""
    law, kernel = model.distribution, model.process.kernel(t)
    alone = one_gaussian(law)
    if alone is not None:
        return kernel.reverse(alone).noise
    way = checked(route)
    if not isinstance(way, MonteCarlo):
        scale = trace(np.ones(()), best_linear(kernel, law), model.dim)
        return integral(kernel.push(law), lambda x: model.posterior_covariance(x, t), way, scale)[0]
    z = normals(way.seed, way.samples, START + 1, kernel.push(law).dim)
    start = draws(law, way.samples, way.seed)
    x = operators.apply(kernel.gain, start) + kernel.offset + coloured(kernel, z)
    step = max(1, TILE // model.dim**2)
    parts = (model.posterior_covariance(x[i : i + step], t).sum(axis=0) for i in range(0, len(x), step))
    return np.asarray(sum(parts) / way.samples)


def estimate(values: Array, slack: ArrayLike) -> tuple[Array, Array]:
    """Values (m,) with the errors `slack`, or from `values` (m, n) of draws their means and standard errors."""
    if values.ndim == 1:
        return values, np.broadcast_to(slack, values.shape)
    return values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
