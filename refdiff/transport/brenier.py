r"""Whether a map is the optimal one: Brenier's theorem, the Monge-Ampere equation and Kantorovich's potentials.

    T optimal for |x - y|^2 / 2   <=>   T = grad u, u convex     and then   q(T(x)) det DT(x) = p(x), DT = DT' >= 0
    pairs (x_i, y_i) optimal      <=>   sum_i |x_i - y_i|^2 <= sum_i |x_i - y_pi(i)|^2  for every permutation pi
    f = |x|^2 / 2 - u,  g = f^c,  f^c(y) = min_x { |x - y|^2 / 2 - f(x) },    E_p f + E_q g = W_2(p, q)^2 / 2

Three failures are told apart: a map that is no gradient (DT is not symmetric), one that is the gradient of something
not convex, and one that carries p to something other than q. Channels without noise, flow maps and bijections can be
asked; of points alone only cyclical monotonicity is left to see. Sources: PODB-71, PODB-73, PODB-94; Brenier 1991;
Rockafellar 1966; Gangbo and McCann 1996.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, answered, points, precise_as, real_array, real_scalar
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture
from refdiff.metrics import optimal_coupling, wasserstein
from refdiff.transport.entropic_gaussian import QuadraticPotential
from refdiff.transport.gaussian_maps import optimal_map


@runtime_checkable
class SmoothMap(Protocol):
    """A map of R^d to itself with a derivative; every bijection of `refdiff.normalizing` and every flow map is one."""

    def forward(self, z: ArrayLike) -> Any:
        """T(z) for z of shape (..., d)."""

    def jacobian(self, z: ArrayLike) -> Any:
        """DT at z of shape (..., d), shape (..., d, d)."""


@runtime_checkable
class Density(Protocol):
    """What has a density; the mixtures of this library do, and laws that bijections push forward."""

    @property
    def dim(self) -> int:
        """d."""

    def logpdf(self, x: ArrayLike) -> Any:
        """log p(x) for x of shape (..., d), shape (...)."""


@dataclass(frozen=True, eq=False)
class MapCheck:
    """What a map does at some points, n of them.

    Attributes:
        asymmetry: |DT - DT'| / |DT| in Frobenius' norm, shape (n,): 0 where it is a gradient.
        least: the least eigenvalue of (DT + DT') / 2, shape (n,): >= 0 where it is monotone.
        residual: log q(T(x)) + log |det DT| - log p(x), shape (n,): 0 where it carries p to q.
        cyclical: what a permutation of the images would save, E |x - T(x)|^2 less the least of all: 0 where optimal.
    """

    asymmetry: Array
    least: Array
    residual: Array
    cyclical: float

    def optimal(self, tolerance: float) -> bool:
        """Whether nothing speaks against an optimal map by more than the `tolerance`.

        Raises:
            ValueError: it is negative.
        """
        bound = real_scalar("tolerance", tolerance, low=0)
        worst = np.array([self.asymmetry.max(), -self.least.min(), np.abs(self.residual).max(), self.cyclical])
        return bool((worst <= bound).all())  # what is no number speaks against it


def check_map(way: SmoothMap | Channel, p: Density, q: Density, x: ArrayLike) -> MapCheck:
    """Brenier's conditions and the Monge-Ampere equation of a map of p to q, at given points.

    Args:
        way: T, with `forward` and `jacobian`, or a channel without noise as `optimal_map` returns.
        p: the law of x.
        q: the law that T(x) should have.
        x: points of p, shape (n, d); cyclical monotonicity takes all pairs of them.

    Raises:
        TypeError: the map, p or q lacks a method.
        ValueError: the points do not fit the laws, the map answers with other shapes, or it is a channel with noise.
    """
    if not isinstance(way, SmoothMap | Channel):
        raise TypeError(f"way must be a Channel or have the methods forward and jacobian, got {way!r}")
    for name, law in (("p", p), ("q", q)):
        if not isinstance(law, Density):
            raise TypeError(f"{name} must have a density, logpdf, got {law!r}")
    rows, _ = points("x", x, p.dim)
    if not len(rows):
        raise ValueError("x must be at least one point, got none")
    image, slope = _carried(way, rows)
    return MapCheck(
        asymmetry(slope),
        np.asarray(np.linalg.eigvalsh(0.5 * (slope + np.swapaxes(slope, 1, 2)))[:, 0]),
        monge_ampere_residual(p, q, rows, image, slope),
        cyclical_gap(rows, image),
    )


def _carried(way: SmoothMap | Channel, x: Array) -> tuple[Array, Array]:
    """T(x) (n, d) and DT(x) (n, d, d) at points x (n, d)."""
    dim = x.shape[1]
    if isinstance(way, Channel):
        if way.noise.any():
            raise ValueError(f"way must have no noise, got {way.noise}")
        image = operators.apply(way.gain, x) + way.offset
        return answered("way", image, x.shape), np.tile(operators.dense(way.gain, dim), (len(x), 1, 1))
    image = answered("way.forward", way.forward(x), x.shape)
    return image, answered("way.jacobian", way.jacobian(x), (*x.shape, dim))


def asymmetry(jacobian: ArrayLike) -> Any:
    """|J - J'| / |J| of matrices (..., d, d) in Frobenius' norm, shape (...): 0 for gradients, at most 2, 0 for J = 0.

    Args:
        jacobian: J.

    Raises:
        ValueError: the matrices are not square.
    """
    j = real_array("jacobian", jacobian)
    if j.ndim < 2 or j.shape[-1] != j.shape[-2]:
        raise ValueError(f"jacobian must be square matrices (..., d, d), got shape {j.shape}")
    odd, size = (np.linalg.norm(part, axis=(-2, -1)) for part in (j - np.swapaxes(j, -2, -1), j))
    return precise_as(jacobian, np.divide(odd, size, out=np.zeros(np.shape(odd)), where=size > 0))


def monge_ampere_residual(p: Density, q: Density, x: ArrayLike, image: ArrayLike, jacobian: ArrayLike) -> Any:
    """log q(T(x)) + log |det DT(x)| - log p(x), shape (...): 0 where T carries p to q and nothing is covered twice.

    Args:
        p, q: laws with densities.
        x: points (..., d).
        image: T(x), shape (..., d).
        jacobian: DT(x), shape (..., d, d).
    """
    return q.logpdf(image) + np.linalg.slogdet(real_array("jacobian", jacobian))[1] - p.logpdf(x)


def cyclical_gap(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
    """sum w_i |x_i - y_i|^2 less the least cost of all couplings of the same points: 0 where cyclically monotone.

    Args:
        x, y: pairs of points, both (n, d).
        weights: w_i, shape (n,), equal when left out.

    Raises:
        ValueError: shapes that do not fit, weights that are no weights, or more points than can be coupled.
    """
    first, second = Empirical(x, weights), Empirical(y, weights)
    if first.means.shape != second.means.shape:
        raise ValueError(f"y must have the shape {first.means.shape} of x, got {second.means.shape}")
    cost = float(first.weights @ ((first.means - second.means) ** 2).sum(axis=1) / first.weights.sum())
    return max(cost - optimal_coupling(first, second, 2.0).cost, 0.0)


def monotone_gap(x: ArrayLike, y: ArrayLike) -> float:
    """The least (x_i - x_j) . (y_i - y_j) of all pairs: < 0 where two points would do better to change places.

    That none does is necessary, and on the line sufficient: a rotation by less than a right angle is monotone and no
    gradient.

    Args:
        x, y: pairs of points, both (n, d).

    Raises:
        ValueError: shapes that do not fit.
    """
    first, second = real_array("x", x, ndim=(2,)), real_array("y", y, ndim=(2,))
    if first.shape != second.shape or not first.size:
        raise ValueError(f"y must have the shape {first.shape} of x, not empty, got {second.shape}")
    inner = first @ second.T
    own = np.diag(inner)
    return float((own[:, None] + own - inner - inner.T).min())


# ---------------------------------------------------------------------- potentials


def optimal_potentials(p: Gaussian, q: Gaussian) -> tuple[QuadraticPotential, QuadraticPotential]:
    """f and g of two Gaussians for the cost |x - y|^2 / 2: x - grad f is the optimal map, E_p f = E_q g = W_2^2 / 4.

    Args:
        p, q: Gaussians with maps to each other: of the same range.

    Raises:
        TypeError: one is no Gaussian.
        ValueError: dimensions differ, or there is no map one way.
    """
    there, back = optimal_map(p, q), optimal_map(q, p)
    half = 0.25 * wasserstein(p, q).value ** 2
    return _potential(p, q, there.gain, half), _potential(q, p, back.gain, half)


def _potential(p: GaussianMixture, q: GaussianMixture, gain: Array, mean: float) -> QuadraticPotential:
    hessian = _less(np.ones(()), gain, p.dim)
    # E f = value + tr (H S) / 2
    if max(hessian.ndim, p.covariances.operator().ndim) < 2:
        bend = float(np.broadcast_to(hessian * p.covariances.operator(), p.dim).sum())
    else:
        bend = float((operators.dense(hessian, p.dim) * p.cov()).sum())
    return QuadraticPotential(p.means[0], mean - 0.5 * bend, p.means[0] - q.means[0], hessian)


def c_transform(f: QuadraticPotential) -> QuadraticPotential:
    """f^c(y) = min_x { |x - y|^2 / 2 - f(x) } of a quadratic f.

    Args:
        f: with a Hessian below the identity, without which there is no least.

    Raises:
        ValueError: the Hessian has an eigenvalue >= 1.
    """
    h, d = np.asarray(f.hessian), len(f.centre)
    top = float(np.linalg.eigvalsh(h)[-1] if h.ndim == 2 else h.max())
    if top >= 1:
        raise ValueError(f"f must have a Hessian below the identity, got the eigenvalue {top}")
    bend = _less(np.ones(()), operators.inverse(_less(np.ones(()), h, d)), d)
    # about y = c - s the least is at x = c
    return QuadraticPotential(f.centre - f.slope, 0.5 * float(f.slope @ f.slope) - f.value, -f.slope, bend)


def c_transform_of_points(f: ArrayLike, x: ArrayLike, y: ArrayLike) -> Any:
    """f^c(y) = min_i { |x_i - y|^2 / 2 - f_i } at points y (..., d), shape (...).

    Args:
        f: the potential at the points x, shape (n,).
        x: points, shape (n, d).
        y: points, shape (..., d).

    Raises:
        ValueError: shapes that do not fit.
    """
    from scipy.spatial.distance import cdist  # late: a quarter of the time to import this package

    where, values = real_array("x", x, ndim=(2,)), real_array("f", f, ndim=(1,))
    if len(where) != len(values) or not len(where):
        raise ValueError(f"f must have one value for each of the {len(where)} points, got {len(values)}")
    rows, restore = points("y", y, where.shape[1])
    return restore((0.5 * cdist(rows, where, "sqeuclidean") - values).min(axis=1))


def _less(a: Array, b: Array, dim: int) -> Array:
    """A - B, a matrix where B is one."""
    return operators.dense(a, dim) - b if b.ndim == 2 else np.asarray(a - b)
