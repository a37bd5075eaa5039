r"""Planar flows: a step along one direction u, whose length depends on one projection w.z.

    f(z) = z + u h(w.z + b),    det df/dz = 1 + w.u h'(w.z + b)     (matrix determinant lemma)

In y = w.z + b the map is r = y + c h(y), c = w.u, and z = x - u h(y): f has an inverse where this one function of one
variable has. With h' between two slopes that is where 1 + c h' keeps its sign. For tanh, of slopes (0, 1], it is
c >= -1; at c = -1 the map is still one to one, but its volume vanishes on the plane y = 0.

    constrained:   u + (m(w.u) - w.u) w / |w|^2,    m(s) = -1 + log(1 + e^s),    so that w.u becomes m(w.u) > -1

which changes every u, also one that needs no change: u = 0 gives w.u = log 2 - 1. Sources: PODB-20; Rezende and
Mohamed 2015 (their section 4.1 and appendix A).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import elementwise
from scipy.special import expit

from refdiff.arguments import Array, answered, points, real_array, real_scalar


@dataclass(frozen=True, eq=False)
class Activation:
    """A smooth function h of one variable, and what is known of it.

    Args:
        function, derivative: h and h', from (n,) to (n,).
        slopes: the infimum and the supremum of h'.
        values: the infimum and the supremum of h, infinite where it has none.
        isolated: whether h' takes these slopes at single points at most, so that y + c h(y) stays strictly monotone
            where 1 + c h' only touches 0.

    Raises:
        ValueError: a pair is no interval.
    """

    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    slopes: tuple[float, float]
    values: tuple[float, float] = (-np.inf, np.inf)
    isolated: bool = False

    def __post_init__(self) -> None:
        slopes = real_array("slopes", self.slopes)
        values = real_array("values", self.values, finite=False)
        for name, pair in (("slopes", slopes), ("values", values)):
            if pair.shape != (2,) or not pair[0] <= pair[1]:
                raise ValueError(f"{name} must be an infimum and a supremum, got {getattr(self, name)}")

    def bends(self, c: float) -> tuple[float, float]:
        """The infimum and the supremum of 1 + c h'."""
        low, high = sorted(1 + c * slope for slope in self.slopes)
        return low, high

    def invertible(self, c: float) -> bool:
        """Whether y -> y + c h(y) maps the line onto itself one to one."""
        low, high = self.bends(c)
        touching = self.isolated and bool(np.isfinite(self.values).all())  # an unbounded h may leave half the line out
        return low > 0 or high < 0 or (touching and high > low and (low == 0 or high == 0))

    def solve(self, c: float, r: Array) -> Array:
        """The y with y + c h(y) = r for r of shape (n,), by Chandrupatla's bracketed roots."""
        if not r.size:
            return r
        low, high = self.bends(c)
        first = np.abs(c * answered("function", self.function(r), r.shape))
        slope = min(abs(low), abs(high))
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(first == 0, 0.0, first / slope)  # the least slope meets r from y = r within this
        shifts = sorted((-c * value if c else 0.0) for value in self.values)  # y - r = -c h(y)
        # wider than the rounding errors of both ends; SciPy starts no search on an empty bracket
        slack = 1e-9 * (1 + np.abs(r) + np.minimum(reach, np.abs(shifts).max()))
        left = r + np.maximum(-reach, shifts[0]) - slack
        right = r + np.minimum(reach, shifts[1]) + slack
        found = elementwise.find_root(lambda y, r: y + c * self.function(y) - r, (left, right), args=(r,), maxiter=200)
        return np.asarray(found.x)


def _slope_of_tanh(y: Array) -> Array:
    """1 - tanh^2 = 4 s(2y) s(-2y) with the logistic s, which has no cancellation for large y."""
    return np.asarray(4 * expit(2 * y) * expit(-2 * y))


TANH = Activation(np.tanh, _slope_of_tanh, (0.0, 1.0), (-1.0, 1.0), isolated=True)


@dataclass(frozen=True, eq=False)
class Planar:
    """f(z) = z + u h(w.z + b).

    Args:
        u, w: vectors (d,).
        b: a number.
        h: the activation; tanh when left out.

    Raises:
        ValueError: vectors of different shapes, or no inverse: 1 + w.u h' changes its sign.

    Examples:
        >>> from refdiff.normalizing import Planar
        >>> layer = Planar(u=[1.0, 0.0], w=[1.0, 1.0])  # z + u tanh(w.z): at 0 the determinant is 1 + w.u
        >>> print(layer.log_det([[0.0, 0.0]]).round(6))  # log 2
        [0.693147]
    """

    u: Array
    w: Array
    b: float
    h: Activation = TANH

    def __init__(self, u: ArrayLike, w: ArrayLike, b: float = 0.0, h: Activation = TANH) -> None:
        first, second = real_array("u", u, ndim=(1,)), real_array("w", w, ndim=(1,))
        if first.shape != second.shape or not first.size:
            raise ValueError(f"w must have the shape of u, at least (1,), got {second.shape} and {first.shape}")
        for name, value in (("u", first), ("w", second), ("b", real_scalar("b", b)), ("h", h)):
            object.__setattr__(self, name, value)
        if not h.invertible(self.product):
            raise ValueError(
                f"w.u must leave 1 + w.u h' of one sign for an inverse, got w.u = {self.product} and h' in {h.slopes}"
            )

    @staticmethod
    def constrained(u: ArrayLike, w: ArrayLike, b: float = 0.0, h: Activation = TANH) -> Planar:
        """The planar flow of any u and w, both (d,), and b, whose u is moved along w until w.u = m(w.u) / sup h'.

        Raises:
            ValueError: the activation h has a negative slope, or no positive one.
        """
        if not (h.slopes[0] >= 0 and h.slopes[1] > 0):
            raise ValueError(f"h must increase for the constrained form, got slopes {h.slopes}")
        first, second = real_array("u", u, ndim=(1,)), real_array("w", w, ndim=(1,))
        square = second @ second
        if square == 0:  # a shift
            return Planar(first, second, b, h)
        product = second @ first
        # w.u is rounded by d eps |w| |u|: for a very negative product it stays so far above -1
        slack = 4 * len(first) * np.finfo(float).eps * (1 + np.linalg.norm(first) * np.sqrt(square))
        target = max(np.logaddexp(0.0, product), slack) - 1
        target /= h.slopes[1]
        return Planar(first + (target - product) * second / square, second, b, h)

    @property
    def dim(self) -> int:
        """d."""
        return len(self.u)

    @property
    def product(self) -> float:
        """w.u."""
        return float(self.w @ self.u)

    def _bend(self, rows: Array) -> Array:
        """w.u h'(w.z + b) at rows z (n, d)."""
        return self.product * answered("derivative", self.h.derivative(rows @ self.w + self.b), (len(rows),))

    def forward(self, z: ArrayLike) -> Any:
        """z + u h(w.z + b) for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(
            rows + np.outer(answered("function", self.h.function(rows @ self.w + self.b), (len(rows),)), self.u)
        )

    def inverse(self, x: ArrayLike) -> Any:
        """x - u h(y) with y + w.u h(y) = w.x + b, for x of shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        y = self.h.solve(self.product, rows @ self.w + self.b)
        z = rows - np.outer(answered("function", self.h.function(y), (len(rows),)), self.u)
        square = self.w @ self.w
        if square > 0:  # for a long u the difference cancels: y says where z is along w
            z += np.outer((y - self.b - z @ self.w) / square, self.w)
        return restore(z)

    def log_det(self, z: ArrayLike) -> Any:
        """log |1 + w.u h'(w.z + b)| for z of shape (..., d), -inf where the volume vanishes."""
        rows, restore = points("z", z, self.dim)
        bend = self._bend(rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            return restore(np.where(bend > -1, np.log1p(bend), np.log(np.abs(1 + bend))))

    def jacobian(self, z: ArrayLike) -> Any:
        """I + h'(w.z + b) u w' for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        slope = answered("derivative", self.h.derivative(rows @ self.w + self.b), (len(rows),))
        return restore(np.eye(self.dim) + slope[:, None, None] * np.outer(self.u, self.w))
