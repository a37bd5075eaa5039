r"""Numerical routes for the second side of an identity: stencils, quadrature nodes, extrapolation.

None of them knows a formula of the theory, which is what makes them a second route.

    derivative   8th-order central difference:  f'(x) ~ sum_k c_k (f(x + k h) - f(x - k h)) / h
    integrals    Gauss-Hermite for N(m, s^2), Gauss-Legendre on an interval, products of rules
    extrapolate  Richardson's table for a quantity with an error expansion in powers of h
    runge_kutta  one step of the classical method of order 4
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array

# Weights of the 9-point central differences, exact for polynomials of degree 8 (9).
FIRST = np.array([4 / 5, -1 / 5, 4 / 105, -1 / 280])
SECOND = np.array([8 / 5, -1 / 5, 8 / 315, -1 / 560])
SECOND_CENTRE = -205 / 72

Function = Callable[[Array], Array]


def derivative(function: Callable[[float], Array], t: float, h: float) -> Array:
    """d function / dt at t, of the shape of its values, with step h: a fiftieth of the scale on which it bends."""
    steps = (c * (np.asarray(function(t + k * h)) - function(t - k * h)) for k, c in enumerate(FIRST, 1))
    return np.asarray(sum(steps) / h)


def second_derivative(function: Callable[[float], Array], t: float, h: float) -> Array:
    """d^2 function / dt^2 at t with step h, of the shape of its values."""
    steps = (c * (np.asarray(function(t + k * h)) + function(t - k * h)) for k, c in enumerate(SECOND, 1))
    return np.asarray((sum(steps) + SECOND_CENTRE * np.asarray(function(t))) / h**2)


def jacobian(function: Function, x: Array, h: float) -> Array:
    """d function_i / dx_j at points x (n, d): shape (n, ..., d) for a function (n, d) -> (n, ...)."""
    columns = [derivative(_along(function, x, e), 0.0, h) for e in np.eye(x.shape[1])]
    return np.stack(columns, axis=-1)


def divergence(function: Function, x: Array, h: float) -> Array:
    """sum_i d function_i / dx_i at points x (n, d), shape (n,)."""
    return np.asarray(np.einsum("nii->n", jacobian(function, x, h)))


def laplacian(function: Function, x: Array, h: float) -> Array:
    """sum_i d^2 function / dx_i^2 at points x (n, d), shape (n,), for a function (n, d) -> (n,)."""
    return np.asarray(sum(second_derivative(_along(function, x, e), 0.0, h) for e in np.eye(x.shape[1])))


def dot(u: Array, v: Array) -> Array:
    """Inner products of rows: u (..., d) and v (..., d) to (...)."""
    return np.asarray((u * v).sum(axis=-1))


def ticks(low: float, high: float, spacing: float) -> Array:
    """low, low + spacing, ... up to high (n,); np.arange steps by the rounded difference of its first two numbers."""
    return low + spacing * np.arange(int((high - low) / spacing) + 1, dtype=np.float64)


def lattice(*axes: NDArray[Any]) -> NDArray[Any]:
    """The points (n, d) of the grid with these d axes, the last of them running fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def products_after(factors: Array) -> Array:
    """prod_{j > k} factors_j for every k, shape (n,): what the later steps of a chain make of an entry of step k."""
    return np.append(np.cumprod(factors[:0:-1])[::-1], 1.0)


def runge_kutta(v: Callable[[Array, float], Array], x: Array, t: float, h: float) -> Array:
    """x (n, d) after one step h of the classical Runge-Kutta method for dx/dt = v(x, t)."""
    k1 = v(x, t)
    k2 = v(x + h / 2 * k1, t + h / 2)
    k3 = v(x + h / 2 * k2, t + h / 2)
    return np.asarray(x + h / 6 * (k1 + 2 * k2 + 2 * k3 + v(x + h * k3, t + h)))


def _along(function: Function, x: Array, direction: Array) -> Callable[[float], Array]:
    """u -> function(x + u direction)."""
    return lambda u: function(x + u * direction)


@cache
def hermite(count: int = 64) -> tuple[Array, Array]:
    """Nodes z and weights w (count,) with sum w f(z) = E f(z) for N(0, 1) and f of degree 2 count - 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / np.sqrt(2 * np.pi)


@cache
def legendre(count: int = 64) -> tuple[Array, Array]:
    """Nodes and weights (count,) on [0, 1], exact for polynomials of degree 2 count - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def product_rule(rule: tuple[Array, Array], dim: int) -> tuple[Array, Array]:
    """The nodes (m, dim) and weights (m,), m = n^dim, of a rule of n nodes on the line, along each of `dim` axes."""
    nodes, weights = (lattice(*[part] * dim) for part in rule)
    return nodes, weights.prod(axis=1)


def integral(function: Function, start: float, end: float, count: int = 64) -> Array:
    """int_start^end of a function of the nodes (m,) with values (m, ...), by Gauss-Legendre with `count` nodes."""
    u, w = legendre(count)
    return np.asarray((end - start) * np.tensordot(w, function(start + (end - start) * u), axes=1))


def extrapolate(values: list[Array], ratio: float = 2.0, first: int = 1, step: int = 1) -> Array:
    """The limit, in shape too, of values at h, h / ratio, ... with errors in h^first, h^(first + step), ..."""
    table = [np.asarray(value, dtype=float) for value in values]
    for level in range(len(values) - 1):
        factor = ratio ** (first + level * step)
        table = [(factor * b - a) / (factor - 1) for a, b in pairwise(table)]
    return table[0]
