r"""Responsibility-weighted moments of fields over the components of a mixture.

    <u>_n = sum_k r_nk u_nk            Cov(u, v)_n = sum_k r_nk (u_nk - <u>_n)(v_nk - <v>_n)'

Scores, denoisers, Hessians, posterior covariances and velocities are such moments of affine fields u_k(x). A field
is evaluated a tile of components at a time, so memory stays O((n + K) d); second moments are centred first, so that
two large numbers never meet. Weights r have shape (n, K), `dim` is d. Sources: TOPA-35, PHY-24, where the moments of
mixtures stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions.covariances import tiles

# A field sends a slice of the components to its values there, shape (rows, slice, d).
Field = Callable[[slice], Array]


def average(r: Array, field: Field, dim: int) -> Array:
    """sum_k r_nk u_nk, shape (n, d)."""
    result = np.zeros((len(r), dim))
    for ks in tiles(len(r), r.shape[1], dim):
        result += np.einsum("nk,nkd->nd", r[:, ks], field(ks))
    return result


def cross(r: Array, u: Field, v: Field, dim: int) -> Array:
    """sum_k r_nk (u_nk - <u>)(v_nk - <v>)', shape (n, d, d)."""
    mean_u, mean_v = average(r, u, dim), average(r, v, dim)
    result = np.zeros((len(r), dim, dim))
    for ks in tiles(len(r), r.shape[1], dim):
        left = r[:, ks, None] * (u(ks) - mean_u[:, None])
        result += np.swapaxes(left, 1, 2) @ (v(ks) - mean_v[:, None])
    return result


def cross_trace(r: Array, u: Field, v: Field, dim: int) -> Array:
    """sum_k r_nk (u_nk - <u>).(v_nk - <v>), shape (n,)."""
    mean_u, mean_v = average(r, u, dim), average(r, v, dim)
    result = np.zeros(len(r))
    for ks in tiles(len(r), r.shape[1], dim):
        result += np.einsum("nk,nkd,nkd->n", r[:, ks], u(ks) - mean_u[:, None], v(ks) - mean_v[:, None])
    return result


def gather(parts: Iterator[Array]) -> Array:
    """The parts (m, ...) one below the other, shape (n, ...)."""
    return np.concatenate(list(parts))


def log_total(logits: Array) -> Array:
    """log sum_k e^l_nk of logits l (n, K), shape (n,), -inf where every l is.

    SciPy's logsumexp is ten times slower where K is small.
    """
    peak = logits.max(axis=1)
    base = np.where(np.isneginf(peak), 0.0, peak)
    with np.errstate(divide="ignore"):
        return np.asarray(base + np.log(np.exp(logits - base[:, None]).sum(axis=1)))
