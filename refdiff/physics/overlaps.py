r"""Integrals over products of two mixtures, in closed form: integrals of Gaussians in one variable more.

    int p q              = sum_jk w_j v_k N(m_j - n_k; 0, S_j + T_k)
    int (L p)(L q)       = sum_jk w_j v_k L^2 N(m_j - n_k; 0, S_j + T_k),      L = sum_ab H_ab d_a d_b

and with N = N(u; 0, V), g = V^-1 u:   L N = (g'H g - tr H V^-1) N,

    L^2 N = [(g'H g - tr H V^-1)^2 - 4 g'H V^-1 H g + 2 tr (H V^-1)^2] N

For H = I this is int lap p lap q, the roughness that the bandwidth of a density estimate depends on; H = I and p = q
in one dimension is int p''^2. Sources: PHY-99, whose error these integrals measure; Marron and Wand 1992.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY, Diagonal, tiles
from refdiff.metrics.compared import same_space
from refdiff.operators import Operator


def overlap(p: GaussianMixture, q: GaussianMixture) -> float:
    """int p q dx of two laws, one of which may be a point set.

    Raises:
        TypeError: p or q is none of this library's laws.
        ValueError: the dimensions differ, or a component of p and one of q are both singular.
    """
    same_space(p, q)
    return float(sum(w @ np.exp(q.convolve(s).logpdf(m)) for w, m, s in _grouped(p)))


def bend_overlap(p: GaussianMixture, q: GaussianMixture, shape: ArrayLike = 1.0) -> float:
    """int (L p)(L q) dx of two laws, L = sum_ab H_ab d_a d_b: int lap p lap q for H = 1.

    Args:
        p: one law.
        q: the other; one of both may be a point set.
        shape: H, a number, one for each axis (d,) or a positive semi-definite matrix (d, d).

    Raises:
        TypeError: p or q is none of this library's laws.
        ValueError: the dimensions differ, a component of p and one of q are both singular, or H is negative.
    """
    same_space(p, q)
    h = operators.covariance("shape", shape)
    operators.fits("shape", h, p.dim)
    return float(sum(w @ _bends(q.convolve(s), m, operators.dense(h, p.dim)) for w, m, s in _grouped(p)))


def _bends(law: GaussianMixture, x: Array, h: Array) -> Array:
    """L^2 of the density of `law` at points x (n, d), shape (n,)."""
    if law.covariances.singular:
        raise ValueError(NO_DENSITY.format(what="a covariance of p and q together"))
    inverse = law.covariances.inverse().dense(law.dim)
    turned = h @ inverse  # H V^-1, shape (K or 1, d, d)
    trace, square = np.einsum("kii->k", turned), np.einsum("kij,kji->k", turned, turned)
    log_det = law.covariances.log_det(law.dim) + law.dim * np.log(2 * np.pi)
    logs = law.log_weights - 0.5 * (law.covariances.squared_distance(x, law.means) + log_det)
    result = np.zeros(len(x))
    for ks in tiles(len(x), *law.means.shape):
        own = (slice(0, 1) if len(part) == 1 else ks for part in (inverse, trace, square))
        precision, traced, squared = (part[k] for part, k in zip((inverse, trace, square), own, strict=True))
        g = np.squeeze(precision @ (x[:, None, :] - law.means[ks])[..., None], axis=-1)
        hg = g @ h
        turning = np.squeeze(precision @ hg[..., None], axis=-1)
        bend = ((g * hg).sum(axis=2) - traced) ** 2 - 4 * (hg * turning).sum(axis=2) + 2 * squared
        result += (bend * np.exp(logs[:, ks])).sum(axis=1)
    return result


def _grouped(p: GaussianMixture) -> Iterator[tuple[Array, Array, Operator]]:
    """Weights (k,), means (k, d) and the common covariance of the components of p that have one."""
    c = p.covariances
    if len(c.variances if isinstance(c, Diagonal) else c.matrices) == 1:
        yield p.weights, p.means, c.operator()
        return
    for k in range(p.count):
        yield p.weights[k : k + 1], p.means[k : k + 1], p.covariances[slice(k, k + 1)].operator()
