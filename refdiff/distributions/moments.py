r"""Responsibility-weighted moments of fields over the components of a mixture.

    <u>_n = sum_k r_nk u_nk            Cov(u, v)_n = sum_k r_nk (u_nk - <u>_n)(v_nk - <v>_n)'

Scores, denoisers, Hessians, posterior covariances and velocities are such moments of affine fields u_k(x). A field
is evaluated once, a tile of components at a time, so memory stays O((n + K) d); second moments are centred first, so
that two large numbers never meet. Weights r have shape (n, K) and sum to 1 over k, `dim` is d. Sources: TOPA-35,
PHY-24, where the moments of mixtures stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions.covariances import tiles

# A field sends a slice of the components to its values there, shape (rows, slice, d).
Field = Callable[[slice], Array]
# Two fields, of which what they share is computed once.
Fields = Callable[[slice], tuple[Array, Array]]


def average(r: Array, field: Field, dim: int) -> Array:
    """sum_k r_nk u_nk, shape (n, d)."""
    result = np.zeros((len(r), dim))
    for ks in tiles(len(r), r.shape[1], dim):
        result += np.einsum("nk,nkd->nd", r[:, ks], field(ks))
    return result


def cross(r: Array, fields: Fields, dim: int) -> Array:
    """sum_k r_nk (u_nk - <u>)(v_nk - <v>)', shape (n, d, d)."""
    result = np.zeros((len(r), dim, dim))
    for w, u, v in _centred(r, fields, dim):
        result += np.swapaxes(w[:, :, None] * u, 1, 2) @ v
    return result


def cross_trace(r: Array, fields: Fields, dim: int) -> Array:
    """sum_k r_nk (u_nk - <u>).(v_nk - <v>), shape (n,)."""
    result = np.zeros(len(r))
    for w, u, v in _centred(r, fields, dim):
        result += np.einsum("nk,nkd,nkd->n", w, u, v)
    return result


def twice(field: Field) -> Fields:
    """A field beside itself, for its own covariance."""

    def both(ks: slice) -> tuple[Array, Array]:
        u = field(ks)
        return u, u

    return both


def _centred(r: Array, fields: Fields, dim: int) -> Iterator[tuple[Array, Array, Array]]:
    """Weights (n, k) and two fields (n, k, d) about means, whose products add up to those about the whole mean.

    Each tile is evaluated once, about its own mean; then the means of the tile and of all before it are two points
    about theirs, with the product of their distances weighted by the masses a b / (a + b).
    """
    mass, mean_u, mean_v = np.zeros(len(r)), np.zeros((len(r), dim)), np.zeros((len(r), dim))
    for ks in tiles(len(r), r.shape[1], dim):
        w, (u, v) = r[:, ks], fields(ks)
        here = w.sum(axis=1)
        unit = (w / np.where(here > 0, here, 1.0)[:, None])[:, None, :]
        tile_u, tile_v = (unit @ u)[:, 0], (unit @ v)[:, 0]
        same, u = v is u, u - tile_u[:, None]
        yield w, u, u if same else v - tile_v[:, None]
        share = np.divide(here, mass + here, out=np.zeros(len(r)), where=here > 0)
        gap_u, gap_v = tile_u - mean_u, tile_v - mean_v
        if ks.start:
            yield (mass * share)[:, None], gap_u[:, None], gap_v[:, None]
        mass, mean_u, mean_v = mass + here, mean_u + share[:, None] * gap_u, mean_v + share[:, None] * gap_v


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
