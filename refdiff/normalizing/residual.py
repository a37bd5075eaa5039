r"""Residual flows: a step along a field that contracts, with an inverse by fixed-point iteration.

    f(z) = z + g(z),    |g(a) - g(b)| <= q |a - b|,  q < 1:    f is one to one and onto, det df/dz > 0
    inverse    z_0 = x, z_{k+1} = x - g(z_k):     |z_k - z*| <= q^k / (1 - q) |z_1 - z_0|
    log det    log det(I + dg/dz): exact, cut off after n terms, by probes, or by random lengths (`log_determinants`)

Euler's method for dx/dt = v(x, t) is a stack of such layers with g = h v, and with more and smaller steps

    log det(I + h dv/dx) = h div v + O(h^2):    their sum tends to int div v dt along the flow

with an error of first order: the limit is a continuous flow, a neural ODE where v is a network.
Sources: PODB-21, PODB-22, PODD-71, PODD-72; Behrmann et al. 2019, Chen et al. 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, generator, points, real_array, real_scalar, whole_number
from refdiff.normalizing.bijections import Composition
from refdiff.normalizing.layers import Function
from refdiff.normalizing.log_determinants import Roulette, power_terms, probe_terms, remainder

EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class Residual:
    """f(z) = z + g(z).

    Args:
        dim: d.
        function: g, from (n, d) to (n, d), row by row.
        differential: dg/dz, from (n, d) to (n, d, d).
        lipschitz: q, a Lipschitz constant of g in the Euclidean norm, in [0, 1). Without one, f must have an inverse
            for another reason, and only what needs no inverse is answered.

    Raises:
        ValueError: q is not in [0, 1).
    """

    dim: int
    function: Function
    differential: Function
    lipschitz: float | None

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)
        if self.lipschitz is not None and not 0 <= real_scalar("lipschitz", self.lipschitz) < 1:
            raise ValueError(f"lipschitz must lie in [0, 1), got {self.lipschitz}")

    def _moved(self, rows: Array) -> Array:
        return answered("function", self.function(rows), rows.shape)

    def _slopes(self, rows: Array) -> Array:
        return answered("differential", self.differential(rows), (len(rows), self.dim, self.dim))

    def _contraction(self) -> float:
        if self.lipschitz is None:
            raise ValueError("lipschitz must be below 1 for the series and the inverse, got None")
        return float(self.lipschitz)

    def forward(self, z: ArrayLike) -> Any:
        """z + g(z) for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(rows + self._moved(rows))

    def jacobian(self, z: ArrayLike) -> Any:
        """I + dg/dz for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(np.eye(self.dim) + self._slopes(rows))

    def log_det(self, z: ArrayLike) -> Any:
        """log |det(I + dg/dz)| for z of shape (..., d), by an LU factorisation."""
        rows, restore = points("z", z, self.dim)
        return restore(np.linalg.slogdet(np.eye(self.dim) + self._slopes(rows))[1])

    # ------------------------------------------------------------------ the inverse

    def iterates(self, x: ArrayLike, count: int) -> Array:
        """z_0..z_count of the fixed-point iteration for x of shape (..., d), shape (count + 1, ..., d)."""
        rows, _ = points("x", x, self.dim)
        found = [rows]
        for _ in range(whole_number("count", count)):
            found.append(rows - self._moved(found[-1]))
        return np.stack(found).reshape(count + 1, *np.shape(x))

    def inverse_error(self, first: ArrayLike, count: int) -> Any:
        """q^k / (1 - q) |z_1 - z_0| for k = count: a bound on |z_k - z*| from lengths `first` of any shape (...)."""
        q = self._contraction()
        return q ** whole_number("count", count) / (1 - q) * np.abs(real_array("first", first))

    def inverse(self, x: ArrayLike) -> Any:
        """The z of x of shape (..., d), iterated row by row until it moves by rounding errors only.

        Raises:
            ValueError: no q < 1 is known, or a step is longer than q times the one before: q is no Lipschitz constant.
        """
        q = self._contraction()
        rows, restore = points("x", x, self.dim)
        z, left = rows.copy(), np.arange(len(rows))
        step = np.full(len(rows), np.nan)  # of the iteration before: none
        # q^k < eps ends every row whose claim is true; two more for rounding errors
        for _ in range(3 + (int(np.log(EPS) / np.log(q)) if q > 0 else 0)):
            moved = self._moved(z[left])
            following = rows[left] - moved
            size = np.linalg.norm(rows[left], axis=1) + np.linalg.norm(moved, axis=1)
            length = np.linalg.norm(following - z[left], axis=1)
            # g is rounded by some eps of its own terms, which may be larger than their sum
            longer = length > q * (1 + 1e-6) * step[left] + 1e-12 * size
            if longer.any():
                worst = float((length[longer] / step[left][longer]).max())
                raise ValueError(f"lipschitz must bound how far g moves, got {q}, and two points with {worst:.6g}")
            z[left], step[left] = following, length
            left = left[length > 2 * EPS * size]
            if not left.size:
                break
        return restore(z)

    # ------------------------------------------------------------------ log det by the series

    def log_det_series(self, z: ArrayLike, terms: int) -> Any:
        """sum_{k <= terms} (-1)^(k+1) tr (dg/dz)^k / k for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(power_terms(self._slopes(rows), terms).sum(axis=1))

    def series_error(self, terms: int) -> float:
        """A bound on what the series leaves out after so many terms, for every z: `remainder` at q, a scalar."""
        return float(remainder(self._contraction(), terms, self.dim))

    def log_det_probes(self, z: ArrayLike, probes: ArrayLike, terms: int) -> Any:
        """The series with v'J^k v averaged over probes v (m, d) for tr J^k, for z of shape (..., d).

        With probes of E v v' = I its mean is that of the series cut off after `terms`.
        """
        rows, restore = points("z", z, self.dim)
        return restore(self._probed(rows, probes, terms).sum(axis=2).mean(axis=1))

    def log_det_roulette(
        self, z: ArrayLike, probes: ArrayLike, roulette: Roulette, seed: int | np.random.Generator
    ) -> Any:
        """The probes' series with a random length for every point and probe: its mean is log det itself.

        Args:
            z: points (..., d).
            probes: v, shape (m, d), with E v v' = I.
            roulette: the law of the lengths.
            seed: of the lengths.
        """
        rows, restore = points("z", z, self.dim)
        count = len(real_array("probes", probes, ndim=(2,)))
        lengths = roulette.lengths((len(rows), count), generator(seed))
        terms = self._probed(rows, probes, int(lengths.max(initial=0)))
        return restore(roulette.estimate(terms, lengths).mean(axis=1))

    def _probed(self, rows: Array, probes: ArrayLike, terms: int) -> Array:
        """Terms (n, m, terms) of rows (n, d) and probes (m, d)."""
        self._contraction()
        v = real_array("probes", probes, ndim=(2,))
        if v.shape[1] != self.dim or not len(v):
            raise ValueError(f"probes must have shape (m, {self.dim}) with m >= 1, got {v.shape}")
        slopes = self._slopes(rows)
        return probe_terms(lambda u: u @ slopes, np.broadcast_to(v, (len(rows), *v.shape)), terms)


def tanh_residual(outer: ArrayLike, inner: ArrayLike, bias: ArrayLike) -> Residual:
    """g(z) = A tanh(W z + c), a contraction by |A|_2 |W|_2.

    Args:
        outer: A, shape (d, k).
        inner: W, shape (k, d).
        bias: c, shape (k,).

    Raises:
        ValueError: shapes that do not fit, or a product of norms that is not below 1.
    """
    a, w, c = real_array("outer", outer, ndim=(2,)), real_array("inner", inner, ndim=(2,)), real_array("bias", bias)
    if a.shape != w.T.shape or c.shape != (len(w),):
        raise ValueError(f"outer, inner and bias must be (d, k), (k, d) and (k,), got {a.shape}, {w.shape}, {c.shape}")
    q = float(np.linalg.norm(a, 2) * np.linalg.norm(w, 2))
    if q >= 1:
        raise ValueError(f"outer and inner must have norms whose product is below 1, got {q}")

    def differential(z: Array) -> Array:
        return np.asarray(a * (1 - np.tanh(z @ w.T + c) ** 2)[:, None, :] @ w)

    return Residual(len(a), lambda z: np.tanh(z @ w.T + c) @ a.T, differential, q)


def euler_layers(
    velocity: Callable[[Array, float], ArrayLike],
    jacobian: Callable[[Array, float], ArrayLike],
    times: ArrayLike,
    dim: int,
    lipschitz: float | None = None,
) -> Composition:
    """Euler's method for dx/dt = v(x, t) as a normalizing flow: x <- x + h v(x, t) from each time to the next.

    Args:
        velocity: v, from x (n, d) and t to (n, d), for example that of an ExactModel.
        jacobian: dv/dx, from x (n, d) and t to (n, d, d).
        times: shape (m + 1,), in any direction.
        dim: d.
        lipschitz: a Lipschitz constant of v in x at all these times; without one the flow has no inverse here.

    Raises:
        ValueError: fewer than two times, or a step so long that |h| times the constant is not below 1.

    Examples:
        >>> import numpy as np
        >>> from refdiff.normalizing import euler_layers
        >>> flow = euler_layers(lambda x, t: -x, lambda x, t: -np.ones((len(x), 1, 1)), [0.0, 0.5, 1.0], 1)
        >>> print(flow.forward([[4.0]]), flow.log_det([[4.0]]).round(6))  # (1 - h)^2 x, 2 log(1 - h)
        [[1.]] [-1.386294]
    """
    steps = real_array("times", times, ndim=(1,))
    if len(steps) < 2:
        raise ValueError(f"times must be at least two, got {len(steps)}")
    bound = None if lipschitz is None else real_scalar("lipschitz", lipschitz, low=0)
    longest = float(np.abs(np.diff(steps)).max())
    if bound is not None and longest * bound >= 1:
        raise ValueError(f"times must have steps shorter than 1 / lipschitz = {1 / bound}, got {longest}")

    def layer(t: float, h: float) -> Residual:
        return Residual(
            dim,
            lambda z: h * np.asarray(velocity(z, t)),
            lambda z: h * np.asarray(jacobian(z, t)),
            None if bound is None else abs(h) * bound,
        )

    return Composition([layer(float(s), float(t - s)) for s, t in pairwise(steps)])
