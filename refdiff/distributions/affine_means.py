r"""Means of affine fields under the responsibilities of a mixture, by products of matrices.

    <u_k + R_k M_k^-1 (x - c_k)>  =  sum_k r_k (u_k - G_k (c_k - o)) + (sum_k r_k G_k) (x - o),     G_k = R_k M_k^-1

A field that is asked for at n points and K components is n K d numbers, of which only K d and d (or d^2) sums over k
are needed. o is the mean of the law, so that what cancels is no larger than its spread: the error is that of c_k, once
rounded, times G_k. Sources: DMI-61, PODB-37.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions.blocks import slopes
from refdiff.distributions.covariances import TILE, Covariances, Diagonal
from refdiff.distributions.mixture import GaussianMixture
from refdiff.distributions.moments import gather


def affine_mean(law: GaussianMixture, values: Array, gains: Covariances, x: Array) -> Array:
    """The mean of u_k + R_k M_k^-1 (x - c_k) under the responsibilities of a law N(c_k, M_k) at x, shape (n, d).

    Args:
        law: of x.
        values: u_k, shape (K, d).
        gains: R_k.
        x: checked points (n, d).

    Raises:
        ValueError: the law has no density, or x is too far away for one.
    """
    parts = law.parts(x)  # which says what has no density
    steep = slopes(gains, law.covariances, law.dim)
    centre = law.mean()
    about = law.means - centre

    def one(part: Array) -> Array:
        r, shift = law.posterior_weights(part), part - centre
        if isinstance(steep, Diagonal):
            g = steep.variances
            return np.asarray(r @ (values - g * about) + (g if len(g) == 1 else r @ g) * shift)
        g = steep.matrices
        offsets = r @ (values - (g @ about[:, :, None])[:, :, 0])
        if len(g) == 1:
            return np.asarray(offsets + shift @ g[0].T)
        return np.asarray(offsets + _turned(r, g, shift))

    return gather(one(part) for part in parts)


def _turned(r: Array, g: Array, shift: Array) -> Array:
    """(sum_k r_nk G_k) x_n for weights r (n, K), matrices g (K, d, d) and rows x = `shift` (n, d)."""
    result, dim = np.empty_like(shift), shift.shape[1]
    step = max(1, TILE // dim**2)
    for start in range(0, len(shift), step):
        rows = slice(start, start + step)
        mixed = (r[rows] @ g.reshape(len(g), -1)).reshape(-1, dim, dim)
        result[rows] = np.einsum("nij,nj->ni", mixed, shift[rows])
    return result
