r"""Quadrature on the line for laws that Langevin samples: panels that are fine where log p bends or falls steeply.

    int f dx ~ sum_i w_i f(x_i),      int_low^x_i f dy ~ sum_j C_ij f(x_j)

A panel holds the nodes of Gauss-Legendre; C integrates the polynomial through them up to each of them.
Source: PODA-309.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, real_scalar
from refdiff.distributions import GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.samplers.numbers import gauss_legendre, lagrange_integrals

REACH = 14.0  # standard deviations: of the square of the twentieth Hermite function 1e-17 lies beyond
# In a panel log p changes by at most so much, and bends on no shorter a scale: twelve nodes leave 1e-13 of an integral.
SLOPE, BEND, ORDER, HALVINGS = 6.0, 1.2, 12, 40
MOST = 50_000  # panels

Mobility = float | Callable[[Array], ArrayLike]


def stds(law: GaussianMixture) -> Array:
    """The standard deviations of the components of a `law` on the line, shape (K,).

    Raises:
        TypeError: no law.
        ValueError: it is not on the line, or has no density.
    """
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"law must be a Gaussian or GaussianMixture, got {law!r}")
    if law.dim != 1:
        raise ValueError(f"law must be on the line, got {law.dim} dimensions")
    if law.covariances.singular:
        raise ValueError(NO_DENSITY.format(what="the law"))
    return np.broadcast_to(np.sqrt(law.covariances.dense(1)[:, 0, 0]), (law.count,))


def panels(law: GaussianMixture, low: float | None = None, high: float | None = None) -> tuple[Array, Array, Array]:
    """Gauss-Legendre panels for a `law` on the line, fine where log p bends.

    Args:
        law: a mixture with a density, d = 1.
        low, high: the ends, fourteen standard deviations beyond all components where they are left out.

    Returns:
        Nodes (n, 1), weights (n,) and the edges of the panels (n / ORDER + 1,).

    Raises:
        TypeError: no law.
        ValueError: it is not on the line, has no density, or needs too many panels.
    """
    std = stds(law)
    marks = np.unique(np.concatenate([law.means[:, 0] + k * std for k in (-REACH, 0, REACH)]))
    start, end = marks[0] if low is None else low, marks[-1] if high is None else high
    near = 1e-3 * std.min()  # marks that near to the next one need no panel of their own
    marks = marks[(marks > start + near) & (marks < end - near)]
    edges = np.concatenate([[start], marks[np.diff(marks, prepend=start) > near], [end]])
    places = np.linspace(0, 1, 9)
    for _ in range(HALVINGS):
        width = np.diff(edges)
        inside = (edges[:-1, None] + width[:, None] * places).reshape(-1, 1)
        slope, bend = (
            np.abs(part).reshape(-1, len(places)).max(axis=1) * power
            for part, power in ((law.score(inside), width / SLOPE), (law.hessian(inside), (width / BEND) ** 2))
        )
        coarse = np.maximum(slope, bend) > 1
        if not coarse.any():
            break
        if len(edges) + coarse.sum() > MOST:
            raise ValueError(f"law must need at most {MOST} panels, got one whose score is too steep between its modes")
        edges = np.sort(np.concatenate([edges, (edges[:-1] + width / 2)[coarse]]))
    nodes, weights = gauss_legendre(ORDER)
    width = np.diff(edges)[:, None]
    return (edges[:-1, None] + width * nodes).reshape(-1, 1), (width * weights).ravel(), edges


def cumulative(weights: Array, edges: Array) -> Array:
    """The matrix of int_low^x_i of functions at the nodes of panels, of `weights` (n,) and `edges`, shape (n, n)."""
    n, width = len(weights), np.diff(edges)
    panel = np.arange(n) // ORDER
    found = np.where(panel[:, None] > panel, weights, 0.0)
    inner = _within()
    for k, h in enumerate(width):
        rows = slice(k * ORDER, (k + 1) * ORDER)
        found[rows, rows] = h * inner
    return found


@cache
def _within() -> Array:
    """int_0^u_i of the polynomials through the nodes u of one panel of width 1, shape (ORDER, ORDER)."""
    nodes, _ = gauss_legendre(ORDER)
    return np.array([lagrange_integrals(nodes.tolist(), 0.0, u) for u in nodes])


def mobilities(mobility: Mobility, x: Array) -> Array:
    """M at points x (n, 1), shape (n,), of a number or a function `mobility`.

    Raises:
        ValueError: M is not positive.
    """
    if not callable(mobility):
        return np.full(len(x), real_scalar("mobility", mobility, low=0, open_low=True))
    found = answered("mobility", mobility(x), x.shape, finite=True)[:, 0]
    if not (found > 0).all():
        raise ValueError(f"mobility must be positive, got {found.min()}")
    return found
