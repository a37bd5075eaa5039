r"""Mixtures in many axes on the device, by products of matrices: outputs, log densities and divergences.

The formulas are those of kernels.numba.mixture and kernels.numba.second_order. Points and components come in tiles, and
a tile of both in three steps: logits, weights r relative to the largest logit so far, weights times means. With c amid
the m_k and X = x - a c,

    o = (sum_k r_k (mu - b_k a) (m_k - c) + X sum_k r_k b_k) / sum_k r_k + mu c

so no array of all points times all components exists. Where noise is little beside |X| both sums cancel, but then few
components are felt: what points make of few is sum_k r_k (mu m_k + b_k (x - a m_k)), by differences. Which logits come
from a product, and which from differences, `wide_tiles` says. Every product has the same shape, points being padded:
the answer for a point does not depend on how many there are beside it, as cuBLAS answers products of one shape in one
way. One point costs as much as a tile of them. Products in float32 are of float32 numbers unless the environment
variable CUPY_TF32 says otherwise, which is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from refdiff.kernels.cuda import wide_full
from refdiff.kernels.cuda.device import cupy
from refdiff.kernels.cuda.wide_tiles import (
    PAIR_THREADS,
    ROW_THREADS,
    Problem,
    Room,
    cutoff_of,
    differences,
    points_at_once,
    problem,
    room,
    sweep,
)


@dataclass(frozen=True)
class Sums:
    """Of all points: the largest logit, totals (n,), sums or outputs (n, d), log densities (n,)."""

    tops: Any
    totals: Any
    sums: Any
    logp: Any


# ---------------------------------------------------------------------- sums


def summed(p: Problem, x: Any, work: Room) -> Sums:
    """Outputs and log densities at points x (n, d), and what they were made of."""
    xp, (n, dim), dtype = cupy(), x.shape, p.centre.dtype
    least = float(np.finfo(dtype).min)  # finite: a logit of -infinity less this one is no NaN
    found = Sums(xp.full(n, least, dtype), xp.zeros(n, dtype), xp.empty((n, dim), dtype), xp.empty(n, dtype))
    cutoff = cutoff_of(len(p.mixture.means), dtype)
    for tile, rows, logits in sweep(p, x, work, found.tops):
        size, height, taken = tile.stop - tile.start, len(work.away), rows.stop - rows.start
        ends = found.tops[rows], found.totals[rows], work.falls, *work.felt
        numbers = p.numbers[tile.start :], np.int64(len(p.mixture.means))
        given = np.int64(taken), np.int64(size), *numbers, cutoff, logits
        p.run("weights", taken * ROW_THREADS, *given, *ends, shared=ROW_THREADS // 32 * x.itemsize)
        weights, whole = logits.reshape(height, size), size * dim
        tables = [
            work.tables[i * whole : (i + 1) * whole].reshape(size, dim) for i in ((2, 3) if p.form == 2 else (0,))
        ]
        for part, table in zip(work.parts, tables, strict=True):
            xp.matmul(weights, table, out=part)
        slopes = work.tables[3 * whole :] if p.form == 2 else p.each
        law = p.mixture.means[tile], p.when, p.centre, slopes, *numbers, np.int32(tile.start == 0)
        made = work.falls, *work.felt, work.parts[0], work.parts[-1], work.away, found.sums[rows]
        p.run("absorb", taken * dim, x[rows], np.int64(taken), np.int32(dim), *law, *made)
    p.run("finish", n * dim, np.int64(n), np.int32(dim), found.tops, found.totals, found.sums, found.logp)
    return found


def turned(x: Any, matrix: Any) -> Any:
    """x (n, d) times a matrix (d, d), by products of one shape."""
    xp, height = cupy(), points_at_once(x.shape[1])
    out, rest = xp.empty(x.shape, x.dtype), len(x) % height
    for first in range(0, len(x) - rest, height):
        xp.matmul(x[first : first + height], matrix, out=out[first : first + height])
    if rest:
        padded = xp.zeros((height, x.shape[1]), x.dtype)
        padded[:rest] = x[len(x) - rest :]
        out[len(x) - rest :] = xp.matmul(padded, matrix)[:rest]
    return out


def refuse_short_products(dtype: Any) -> None:
    """Check that products of numbers of a type are not of shorter ones.

    Raises:
        ValueError: CUPY_TF32 is set, and numbers are float32.
    """
    if dtype == np.float32 and int(os.environ.get("CUPY_TF32", "0")) > 0:
        raise ValueError("CUPY_TF32 must not be set: products in float32 are then of numbers with 10 bits, not 23")


def predict(x: Any, mixture: Any, at: Any, route: str | None = None) -> tuple[Any, Any]:
    """Outputs (n, d) and log densities (n,) at points x (n, d).

    Args:
        x: points, contiguous, of the type of the mixture's arrays.
        mixture: a Mixture (means (K, d), variances (K or 1, 1 or d), log_weights (K,), bases (0, 1 or K, d, d)).
        at: a, q, mu, beta, gamma, NumPy's, shape (5, 1) or without bases also (5, d).
        route: one of ROUTES; chosen by tiles where not given. Components with a basis each have differences alone.

    Raises:
        MemoryError: not even a tile with one component fits in half of what memory is free.
        ValueError: CUPY_TF32 is set, and numbers are float32.
    """
    refuse_short_products(x.dtype)
    turns = len(mixture.bases)
    if turns > 1:
        return wide_full.predict(x, mixture, at)
    y = turned(x, mixture.bases[0]) if turns else x
    p = problem(mixture, at, route, False)
    found = summed(p, y, room(p, False))
    return (turned(found.sums, mixture.bases[0].T) if turns else found.sums), found.logp


# ---------------------------------------------------------------------- divergence


def divergence(x: Any, mixture: Any, at: Any, route: str | None = None) -> tuple[Any, Any]:
    """Outputs (n, d) and their divergences (n,) at points x (n, d): arguments and errors as of `predict`.

    Two sweeps, as in kernels.numba.fields: no two large numbers meet in a sum of products.

    Raises:
        MemoryError: as `predict` does.
        ValueError: likewise.
    """
    refuse_short_products(x.dtype)
    turns = len(mixture.bases)
    if turns > 1:
        return wide_full.divergence(x, mixture, at)
    y = turned(x, mixture.bases[0]) if turns else x
    out, found = (_of_one if len(mixture.variances) == 1 else _of_own)(y, mixture, at, route)
    return (turned(out, mixture.bases[0].T) if turns else out), found


def other(at: Any, mu: float, gamma: float) -> Any:
    """Parameters of another output at the same time."""
    made = np.zeros_like(at)
    made[:2], made[2], made[4] = at[:2], mu, gamma
    return made


def _of_one(x: Any, mixture: Any, at: Any, route: str | None) -> tuple[Any, Any]:
    """Where all components have one covariance: with c = sum_k r_k m_k, tr B + sum_k r_k w.(m_k - c)^2."""
    xp, dim = cupy(), x.shape[1]
    p = problem(mixture, other(at, 1, 0), route, True)
    work = room(p, True)
    found = summed(p, x, work)
    when = xp.asarray(np.ascontiguousarray(at.astype(x.dtype)))
    a, q, mu, beta, gamma = when
    v = mixture.variances[0]
    t = a * a * v + q
    b = (beta * v + gamma) / t
    away = x - a * found.sums
    out = mu * found.sums + b * away
    weight = (mu - b * a) * a / t
    trace = b.sum() * (dim // b.size)
    total = xp.zeros(len(x), x.dtype)
    ones = xp.ones(1, x.dtype)
    spread = -ones if p.form else -weight
    for tile, rows, logits in sweep(p, x, work, found.tops):
        size = tile.stop - tile.start
        numbers = xp.concatenate([xp.broadcast_to(trace, (size,)), xp.broadcast_to(spread, (size,))])
        differences(p, found.sums[rows], mixture.means[tile], ones, weight, (numbers, size), work.values)
        _average(p, rows, size, logits, work, found, total)
    return out, total


def _of_own(x: Any, mixture: Any, at: Any, route: str | None) -> tuple[Any, Any]:
    """Where components have variances of their own: sum_k r_k (tr B_k + (o_k - o).(g_k - g))."""
    xp, dim = cupy(), x.shape[1]
    gradient = problem(mixture, other(at, 0, -1), route, True)
    g = summed(gradient, x, room(gradient, True)).sums
    p = problem(mixture, at, route, True)
    work = room(p, True)
    found = summed(p, x, work)
    total = xp.zeros(len(x), x.dtype)
    for tile, rows, logits in sweep(p, x, work, found.tops):
        size, taken = tile.stop - tile.start, rows.stop - rows.start
        values = work.values[: taken * size]
        slopes = work.tables[3 * size * dim :] if p.form == 2 else work.tables
        precisions = work.tables[size * dim :] if p.form == 2 else work.tables
        points = x[rows], found.sums[rows], g[rows], np.int64(taken), mixture.means[tile], np.int64(size), np.int32(dim)
        tables = p.when, slopes, precisions, p.numbers[tile.start :], np.int64(len(mixture.means))
        items = -(-taken // 64) * -(-size // 64) * PAIR_THREADS
        shared = (6 if p.form == 2 else 4) * 8 * 65 * x.itemsize
        p.run("contractions", items, *points, *tables, values, shared=shared, threads=PAIR_THREADS)
        _average(p, rows, size, logits, work, found, total)
    return found.sums, total


def _average(p: Problem, rows: slice, size: int, logits: Any, work: Room, found: Sums, total: Any) -> None:
    n = rows.stop - rows.start
    sums = found.tops[rows], found.totals[rows], total[rows]
    sizes = np.int64(n), np.int64(size)
    p.run("average", n * ROW_THREADS, *sizes, logits, work.values, *sums, shared=ROW_THREADS // 32 * p.centre.itemsize)
