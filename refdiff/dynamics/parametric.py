r"""Velocity fields with parameters and closed derivatives, for what is trained by the gradient of a loss.

    dx/dt = v(x, t; theta),    pull: a -> (a' dv/dx, a' dv/dtheta),    div v with its gradients in x and theta

    linear    v = W x + b                                   theta = (W row by row, b)
    tanh      v = A tanh(W x + t s + c)                     theta = (A row by row, W row by row, s, c)

A field is given at one theta; its derivatives in theta are rows of p numbers. Sources: PODB-22, PODB-26; Chen et al.
2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, real_array, whole_number

Pull = Callable[[Array, float, Array], tuple[ArrayLike, ArrayLike]]


@dataclass(frozen=True, eq=False)
class Integrand:
    """A function l(x, t; theta) of points and a time with its gradients: a running loss, a divergence.

    Args:
        value: x (n, d) and t to l, shape (n,).
        gradient: x (n, d) and t to (dl/dx, dl/dtheta), (n, d) and (n, p).
    """

    value: Callable[[Array, float], ArrayLike]
    gradient: Callable[[Array, float], tuple[ArrayLike, ArrayLike]]


@dataclass(frozen=True, eq=False)
class ParametricField:
    """A velocity v(x, t; theta) at given parameters, by vector-Jacobian products.

    Args:
        dim: d.
        parameters: p, how many numbers theta has; 0 where there are none.
        velocity: x (n, d) and t to v, shape (n, d).
        pull: x (n, d), t and a (n, d) to (a' dv/dx, a' dv/dtheta), (n, d) and (n, p).
        divergence: div v with its gradients, for likelihoods only.
    """

    dim: int
    parameters: int
    velocity: Callable[[Array, float], ArrayLike]
    pull: Pull
    divergence: Integrand | None = None

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)
        whole_number("parameters", self.parameters)

    def slope(self, x: Array, t: float) -> Array:
        """v at x (n, d) and the time t, checked, shape (n, d)."""
        return answered("velocity", self.velocity(x, t), x.shape)

    def pulled(self, x: Array, t: float, a: Array) -> tuple[Array, Array]:
        """a' dv/dx and a' dv/dtheta for a and x (n, d) at the time t, checked, shapes (n, d) and (n, p)."""
        return both("pull", self.pull(x, t, a), x.shape, self.parameters)

    def jacobians(self, x: Array, t: float) -> tuple[Array, Array]:
        """dv/dx and dv/dtheta at x (n, d) and the time t, (n, d, d) and (n, d, p), by d pulls."""
        rows = [self.pulled(x, t, np.tile(e, (len(x), 1))) for e in np.eye(self.dim)]
        return np.stack([one for one, _ in rows], axis=1), np.stack([one for _, one in rows], axis=1)


def check_field(field: ParametricField) -> None:
    """Refuses what is no `field` with parameters.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(field, ParametricField):
        raise TypeError(f"field must be a ParametricField, got {type(field).__name__}")


def both(name: str, parts: tuple[ArrayLike, ArrayLike], shape: tuple[int, ...], count: int) -> tuple[Array, Array]:
    """Gradients in x and in theta that a user's function gave, as arrays of shape (n, d) and (n, p).

    Args:
        name: what messages call the function.
        parts: its answer.
        shape: (n, d).
        count: p.
    """
    in_x, in_theta = parts
    return answered(name, in_x, shape), answered(name, in_theta, (shape[0], count))


def linear_field(matrix: ArrayLike, offset: ArrayLike) -> ParametricField:
    """v = W x + b, with theta = (W row by row, b).

    Args:
        matrix: W, shape (d, d).
        offset: b, shape (d,).

    Raises:
        ValueError: shapes that do not fit.
    """
    w, b = real_array("matrix", matrix, ndim=(2,)), real_array("offset", offset, ndim=(1,))
    d = len(b)
    if w.shape != (d, d) or not d:
        raise ValueError(f"matrix must be (d, d) for an offset (d,), got {w.shape} and {b.shape}")

    def pull(x: Array, _: float, a: Array) -> tuple[Array, Array]:
        return a @ w, np.concatenate([_outer(a, x), a], axis=1)

    trace = np.append(np.eye(d).ravel(), np.zeros(d))
    divergence = Integrand(
        lambda x, _: np.full(len(x), np.trace(w)), lambda x, _: (np.zeros_like(x), np.tile(trace, (len(x), 1)))
    )
    return ParametricField(d, d * d + d, lambda x, _: x @ w.T + b, pull, divergence)


def tanh_field(outer: ArrayLike, inner: ArrayLike, slope: ArrayLike, bias: ArrayLike) -> ParametricField:
    """v = A tanh(W x + t s + c), a network of one layer, with theta = (A, W, s, c), matrices row by row.

    Args:
        outer: A, shape (d, k).
        inner: W, shape (k, d).
        slope: s, shape (k,).
        bias: c, shape (k,).

    Raises:
        ValueError: shapes that do not fit.
    """
    a, w = real_array("outer", outer, ndim=(2,)), real_array("inner", inner, ndim=(2,))
    s, c = real_array("slope", slope, ndim=(1,)), real_array("bias", bias, ndim=(1,))
    d, k = a.shape
    if w.shape != (k, d) or s.shape != (k,) or c.shape != (k,) or not a.size:
        raise ValueError(
            f"outer, inner, slope, bias must be (d, k), (k, d), (k,), (k,), got {[v.shape for v in (a, w, s, c)]}"
        )

    def units(x: Array, t: float) -> tuple[Array, Array]:
        """tanh and its derivative, (n, k)."""
        h = np.tanh(x @ w.T + t * s + c)
        return h, 1 - h**2

    def pull(x: Array, t: float, left: Array) -> tuple[Array, Array]:
        h, dh = units(x, t)
        u = left @ a * dh
        return u @ w, np.concatenate([_outer(left, h), _outer(u, x), t * u, u], axis=1)

    loops = np.einsum("dk,kd->k", a, w)  # div v = sum_k loops_k tanh'

    def gradient(x: Array, t: float) -> tuple[Array, Array]:
        h, dh = units(x, t)
        u = -2 * h * dh * loops
        n = len(x)
        of_outer = (dh[:, None, :] * w.T).reshape(n, d * k)
        of_inner = (dh[:, :, None] * a.T).reshape(n, k * d) + _outer(u, x)
        return u @ w, np.concatenate([of_outer, of_inner, t * u, u], axis=1)

    divergence = Integrand(lambda x, t: units(x, t)[1] @ loops, gradient)
    return ParametricField(d, 2 * d * k + 2 * k, lambda x, t: units(x, t)[0] @ a.T, pull, divergence)


def _outer(u: Array, v: Array) -> Array:
    """u v' of the rows u (n, i) and v (n, j), row by row, (n, i j)."""
    return (u[:, :, None] * v[:, None, :]).reshape(len(u), u.shape[1] * v.shape[1])
