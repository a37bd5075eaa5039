r"""Elementary functions of sampler coefficients, on floats, arrays and mpmath numbers alike.

    phi_m(h) = (e^h - sum_{j<m} h^j / j!) / h^m = int_0^1 e^{(1-u) h} u^{m-1} / (m-1)! du,     phi_m(0) = 1 / m!

The families are written with these, so that a table can also be built in high precision, where rounding would hide
the order of a sampler. Sources: PODC9-18, PODC9-23, PODC9-32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import factorial
from typing import Any

import numpy as np

from refdiff.arguments import Array

Number = Any  # a float, an array (d,) with one value for each axis, or an mpmath number


def _extended(x: Number) -> bool:
    """Whether x is an mpmath number, or an array of them."""
    return hasattr(x, "_mpf_") or getattr(x, "dtype", None) == np.dtype(object)


def _function(name: str) -> Callable[[Number], Number]:
    plain = getattr(np, name)

    def call(x: Number) -> Number:
        if not _extended(x):
            return plain(x)
        import mpmath

        return np.frompyfunc(getattr(mpmath, name), 1, 1)(x)

    call.__name__, call.__doc__ = name, f"numpy.{name}, or mpmath's."
    return call


exp, expm1, log, sqrt = (_function(name) for name in ("exp", "expm1", "log", "sqrt"))


def root(variance: Number) -> Number:
    """sqrt(variance), with what rounding left below zero taken as zero."""
    return sqrt(variance * (variance > 0))


# sum_j h^j / (j + m)! is complete in double precision after so many terms where |h| <= 1
_TERMS = 20


def phi(m: int, h: Number) -> Number:
    """phi_m(h), m >= 0: a power series near 0, the recursion phi_m = (phi_{m-1} - 1 / (m-1)!) / h elsewhere."""
    if m == 0:
        return exp(h)
    if _extended(h):
        return _extended_phi(m, h)
    if np.ndim(h) == 0:
        return _scalar_phi(m, float(h))
    h = np.asarray(h, dtype=float)
    small = np.where(np.abs(h) <= 1, h, 0.0)
    series = np.polynomial.polynomial.polyval(small, [1 / factorial(j + m) for j in range(_TERMS)])
    large = np.where(np.abs(h) <= 1, 1.0, h)
    value = np.expm1(large) / large
    for j in range(1, m):
        value = (value - 1 / factorial(j)) / large
    return np.where(np.abs(h) <= 1, series, value)


def _scalar_phi(m: int, h: float) -> float:
    """`phi` of one number, ten times as fast without arrays."""
    if abs(h) <= 1:
        value = 0.0
        for j in reversed(range(_TERMS)):
            value = value * h + 1 / factorial(j + m)
        return value
    value = float(np.expm1(h)) / h
    for j in range(1, m):
        value = (value - 1 / factorial(j)) / h
    return value


def _extended_phi(m: int, h: Number) -> Number:
    import mpmath

    # the difference e^h - 1 - ... - h^(m-1) / (m-1)! loses m times the digits of h
    with mpmath.extradps(5 + m * max(0, int(-mpmath.log10(abs(h) + mpmath.mpf(10) ** -mpmath.mp.dps)))):
        return (mpmath.exp(h) - sum(h**j / mpmath.factorial(j) for j in range(m))) / h**m


def exponential_moments(k: Number, count: int) -> list[Number]:
    """int_0^1 k e^{k (1 - u)} u^j du = j! k phi_{j+1}(k) for j < count."""
    return [expm1(k), *(factorial(j) * k * phi(j + 1, k) for j in range(1, count))][:count]


def exponential_integrals(nodes: Sequence[Number], k: Number) -> list[Number]:
    """int_0^1 k e^{k (1 - u)} l_j(u) du for each node, with l_j as in `lagrange`."""
    return vandermonde(nodes, exponential_moments(k, len(nodes)))


def vandermonde(nodes: Sequence[Number], moments: Sequence[Number]) -> list[Number]:
    """The weights with sum_i nodes_i^j weights_i = moments_j for j = 0, 1, ...: Bjorck and Pereyra (1970).

    Nodes and moments may be arrays with one value for each axis.
    """
    weights, n = list(moments), len(nodes)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            weights[i] = weights[i] - nodes[k] * weights[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            weights[i] = weights[i] / (nodes[i] - nodes[i - k - 1])
        for i in range(k, n - 1):
            weights[i] = weights[i] - weights[i + 1]
    return weights


@cache
def gauss_legendre(count: int) -> tuple[Array, Array]:
    """Nodes and weights on [0, 1], each (count,), exact for polynomials of degree 2 count - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def lagrange(nodes: Sequence[Number], x: Number) -> list[Number]:
    """The values at x of the polynomials l_j with l_j(nodes_i) = 1 for i = j and 0 otherwise."""
    values = []
    for j, own in enumerate(nodes):
        value = 1.0
        for i, other in enumerate(nodes):
            value = value * ((x - other) / (own - other)) if i != j else value
        values.append(value)
    return values


def lagrange_integrals(
    nodes: Sequence[Number],
    start: Number,
    end: Number,
    weight: Callable[[Number], Number] = lambda _: 1.0,
    count: int | None = None,
) -> list[Number]:
    """int_start^end weight(x) l_j(x) dx for each of the nodes.

    Gauss-Legendre with `count` points: the default is exact without a weight; 32 reach rounding for a smooth one.
    """
    points, weights = gauss_legendre(len(nodes) // 2 + 1 if count is None else count)
    totals: list[Number] = [0.0 for _ in nodes]
    for u, w in zip(points, weights, strict=True):
        x = start + u * (end - start)
        factor = w * (end - start) * weight(x)
        totals = [total + factor * value for total, value in zip(totals, lagrange(nodes, x), strict=True)]
    return totals
