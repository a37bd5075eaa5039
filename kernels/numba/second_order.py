r"""Second derivatives of the mixture at one time, for blocks of points: divergence, Jacobian, posterior covariance.

With t_k = x - a m_k, outputs o_k = mu m_k + B_k t_k and gradients g_k = -T_k^-1 t_k of the components of `mixture`,

    output       o = sum_k r_k o_k                          gradient   g = sum_k r_k g_k = grad log p
    Jacobian     do/dx = sum_k r_k B_k + sum_k r_k (o_k - o)(g_k - g)'                 as dr_k/dx = r_k (g_k - g)
    divergence   div o = sum_k r_k tr B_k + sum_k r_k (o_k - o).(g_k - g)
    covariance   Cov[x_0 | x] = sum_k r_k C_k + sum_k r_k (D_k - D)(D_k - D)',     C_k = S_k q T_k^-1, D the denoiser

Along a flow dx/dt = v(x, t), d log p / dt = -div v. The Jacobian is a posterior covariance in disguise: the score's
is the Hessian of log p, the denoiser's alpha Cov / sigma^2. Responsibilities are made anew in each of the two sweeps
of `fields`: no array of points times components exists but their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.kernels.numba.compiling import compiled, inlined, shared, wide_vectors
from refdiff.kernels.numba.field_tiles import contracted, outer
from refdiff.kernels.numba.fields import (
    GROUP,
    back,
    find_centres,
    find_fields,
    forward,
    logit_rows,
    on_axes,
    powers,
    workspace_second,
)
from refdiff.kernels.numba.lanes import aligned, borrowed, copy, keep, load, store, store_line
from refdiff.kernels.numba.laws import TILE, slope, spread
from refdiff.kernels.numba.tiles import LANES, accumulate, logits, products, weighted_logits

# ---------------------------------------------------------------------- divergence


@shared
def evaluate_divergence(x: Any, mixture: Any, at: Any, work: Any, out: Any, divergence: Any) -> None:
    """Output and its divergence at the points of a block.

    Args:
        x: points, shape (d, LANES).
        mixture: a Mixture.
        at: a, q, mu, beta, gamma, shape (5, 1 or d).
        work: a workspace_second.
        out: for o, shape (d, LANES).
        divergence: for div o, shape (LANES,).
    """
    wide_vectors()
    y, parts = on_axes(x, mixture, work)
    zero, group = x.dtype.type(0), TILE if parts.bases.shape[0] == 0 else len(work.left)
    find_centres(y, parts, at, work)
    work.total[:] = 0
    divergence[:] = 0
    for begin in range(0, len(parts.means), group):
        size = min(group, len(parts.means) - begin)
        if parts.bases.shape[0] == 0:
            _traces(y, parts, at, work, begin, size)
        else:
            find_fields(y, parts, at, work, begin, size)
            for k in range(size):
                work.rows[k] = work.traces[k]
                for j in range(x.shape[0]):
                    for i in range(LANES):
                        work.rows[k, i] += work.left[k, j, i] * work.right[k, j, i]
        for k in range(size):
            r, value = work.base.rows[k], work.rows[k]
            for i in range(LANES):
                divergence[i] += r[i] * value[i] if r[i] > 0 else zero  # the value may be infinite where r is 0
    for i in range(LANES):
        divergence[i] /= work.total[i]
    if mixture.bases.shape[0] == 1:
        back(work.output, mixture.bases[0], out)
    else:
        copy(work.output, out)


@shared
def _traces(x: Any, mixture: Any, at: Any, work: Any, begin: int, size: int) -> None:
    """tr B_k + (o_k - o).(g_k - g) and responsibilities, where covariances are diagonal."""
    wide_vectors()
    base = work.base
    logit_rows(x, mixture, at, work, begin, size, work.lane)
    powers(base.rows, size, base.top, work.total)
    means = mixture.means[begin : begin + size]
    if mixture.variances.shape[0] > 1:
        tables = (base.centres, work.targets, work.slopes, work.gaps, work.traces)
        contracted(x, work.output, work.gradient, tables, size, work.rows)
    elif work.weights.shape[1] == 1:
        logits(work.mean, means, work.weights[:size], work.traces, size, work.rows, work.lane)
    else:
        weighted_logits(work.mean, means, work.weights[:size], work.traces, size, work.rows, work.lane)


# ---------------------------------------------------------------------- arrays of points


@compiled
def divergence(first: int, last: int, points: Any, mixture: Any, at: Any, out: Any, outputs: Any) -> None:
    """div o (n,) at points (n, d), for the blocks first .. last - 1 of LANES points.

    `outputs` takes o (n, d), or has shape (0, d) where they are not wanted.
    """
    dim, kind = points.shape[1], points.dtype
    x, o, value = aligned((dim, LANES), kind), aligned((dim, LANES), kind), aligned((LANES,), kind)
    owned = workspace_second(points, mixture, at)
    work, law, numbers = borrowed(owned), borrowed(mixture), borrowed(at)
    for block in range(first, last):
        count = load(points, block * LANES, x)
        evaluate_divergence(borrowed(x), law, numbers, work, borrowed(o), borrowed(value))
        store_line(value, count, block * LANES, out)
        if len(outputs) > 0:
            store(o, count, block * LANES, outputs)
    keep(owned)


@shared
def _slope_matrices(mixture: Any, at: Any, kind: Any) -> Any:
    """B_k as rows (K, d d), for components with a basis each; (0, d d) for others."""
    count, dim = mixture.means.shape
    flat = mixture.variances.shape[1] == 1
    matrices = np.zeros((count if mixture.bases.shape[0] > 1 else 0, dim * dim), kind)
    for k in range(len(matrices)):
        basis = mixture.bases[k]
        for e in range(dim):
            v = mixture.variances[k, 0 if flat else e]
            b = slope(at, 0, v, spread(at, 0, v))
            for j in range(dim):
                for l in range(dim):
                    matrices[k, j * dim + l] += basis[j, e] * b * basis[l, e]
    return matrices


@compiled
def jacobian(first: int, last: int, points: Any, mixture: Any, at: Any, out: Any) -> None:
    """do/dx (n, d, d) at points (n, d), rows for o and columns for x: blocks first .. last - 1 of LANES points."""
    dim, kind = points.shape[1], points.dtype
    x = aligned((dim, LANES), kind)
    total, spare = aligned((dim, dim, LANES), kind), aligned((dim, dim, LANES), kind)
    matrices = _slope_matrices(mixture, at, kind)
    owned = workspace_second(points, mixture, at, GROUP)
    work, law = borrowed(owned), borrowed(mixture)
    for block in range(first, last):
        count = load(points, block * LANES, x)
        _jacobian(borrowed(x), law, borrowed(at), work, borrowed(matrices), borrowed(total), borrowed(spare))
        for i in range(count):
            for j in range(dim):
                for l in range(dim):
                    out[block * LANES + i, j, l] = total[j, l, i]
    keep((owned, matrices))


@shared
def _jacobian(x: Any, mixture: Any, at: Any, work: Any, matrices: Any, total: Any, spare: Any) -> None:
    """do/dx into total (d, d, LANES), at the points of a block."""
    wide_vectors()
    dim, turns = x.shape[0], mixture.bases.shape[0]
    y, parts = on_axes(x, mixture, work)
    find_centres(y, parts, at, work)
    total[:] = 0
    work.averages[:] = 0
    work.total[:] = 0
    for begin in range(0, len(parts.means), GROUP):
        size = min(GROUP, len(parts.means) - begin)
        find_fields(y, parts, at, work, begin, size)
        rows = work.base.rows[:size]
        outer(rows, work.left, work.right, size, total)
        if turns > 1:
            accumulate(rows, matrices[begin : begin + size], 0, dim * dim, total.reshape((dim * dim, LANES)))
        else:
            accumulate(rows, work.slopes, 0, len(work.averages), work.averages)
    for j in range(dim):
        if turns <= 1:
            total[j, j] += work.averages[0 if len(work.averages) == 1 else j]
        for l in range(dim):
            for i in range(LANES):
                total[j, l, i] /= work.total[i]
    if turns == 1:  # U J U'
        back(total.reshape((dim, dim * LANES)), mixture.bases[0], spare.reshape((dim, dim * LANES)))
        for j in range(dim):
            back(spare[j], mixture.bases[0], total[j])


@compiled
def covariance_times(first: int, last: int, points: Any, vectors: Any, mixture: Any, at: Any, out: Any) -> None:
    """Cov[x_0 | x] u (n, d) for points x and vectors u (n, d): blocks first .. last - 1 of LANES points.

    Of `at` only a and q count. No d x d matrix is formed.
    """
    dim, kind = points.shape[1], points.dtype
    x, u, total = np.empty((dim, LANES), kind), np.empty((dim, LANES), kind), np.empty((dim, LANES), kind)
    spare, turned = np.empty((dim, LANES), kind), np.empty((dim, LANES), kind)
    denoiser = np.zeros_like(at)
    for j in range(at.shape[1]):
        denoiser[0, j], denoiser[1, j], denoiser[2, j], denoiser[3, j] = at[0, j], at[1, j], 1, at[0, j]
    work = workspace_second(points, mixture, at, GROUP)
    for block in range(first, last):
        count = load(points, block * LANES, x)
        load(vectors, block * LANES, u)
        _covariance_times(x, u, mixture, denoiser, work, spare, turned, total)
        store(total, count, block * LANES, out)


@shared
def _covariance_times(x: Any, u: Any, mixture: Any, at: Any, work: Any, spare: Any, turned: Any, total: Any) -> None:
    """Cov[x_0 | x] u into total, at the points of a block; u is overwritten."""
    wide_vectors()
    dim, turns = x.shape[0], mixture.bases.shape[0]
    y, parts = on_axes(x, mixture, work)
    if turns == 1:
        forward(u, mixture.bases[0], spare)
        copy(spare, u)
    find_centres(y, parts, at, work)
    total[:] = 0
    work.averages[:] = 0
    work.total[:] = 0
    for begin in range(0, len(parts.means), GROUP):
        size = min(GROUP, len(parts.means) - begin)
        find_fields(y, parts, at, work, begin, size)
        for k in range(size):
            _add_between(work.base.rows[k], work.left[k], u, work.lane, total)
            if turns > 1:
                forward(u, mixture.bases[begin + k], turned)
                for e in range(dim):
                    for i in range(LANES):
                        turned[e, i] *= work.base.rows[k, i] * work.rests[k, e]
                products(turned, mixture.bases[begin + k], dim, total)
        if turns <= 1:
            accumulate(work.base.rows[:size], work.rests, 0, len(work.averages), work.averages)
    for j in range(dim):
        within = work.averages[0 if len(work.averages) == 1 else j]
        for i in range(LANES):
            total[j, i] = (total[j, i] + within[i] * u[j, i]) / work.total[i]
    if turns == 1:
        back(total, mixture.bases[0], spare)
        copy(spare, total)


@inlined
def _add_between(r: Any, field: Any, u: Any, lane: Any, total: Any) -> None:
    """total += r field (field . u)."""
    lane[:] = 0
    for j in range(len(u)):
        for i in range(LANES):
            lane[i] += field[j, i] * u[j, i]
    for i in range(LANES):
        lane[i] *= r[i]
    for j in range(len(u)):
        for i in range(LANES):
            total[j, i] += field[j, i] * lane[i]


@compiled
def responsibilities(first: int, last: int, points: Any, mixture: Any, at: Any, out: Any) -> None:
    """r_k (n, K) at points (n, d): blocks first .. last - 1 of LANES points. Of `at` only a and q count."""
    x = np.empty((points.shape[1], LANES), points.dtype)
    work = workspace_second(points, mixture, at)
    for block in range(first, last):
        count = load(points, block * LANES, x)
        _responsibilities(x, mixture, at, work, out[block * LANES : block * LANES + count])


@shared
def _responsibilities(x: Any, mixture: Any, at: Any, work: Any, out: Any) -> None:
    """r_k at the first points of a block."""
    wide_vectors()
    y, parts = on_axes(x, mixture, work)
    work.total[:] = 0
    work.base.top[:] = np.finfo(x.dtype).min
    count = len(parts.means)
    for begin in range(0, count, TILE):
        logit_rows(y, parts, at, work, begin, min(TILE, count - begin), work.base.top)
    for begin in range(0, count, TILE):
        size = min(TILE, count - begin)
        logit_rows(y, parts, at, work, begin, size, work.lane)
        powers(work.base.rows, size, work.base.top, work.total)
        for i in range(len(out)):
            for k in range(size):
                out[i, begin + k] = work.base.rows[k, i]
    for i in range(len(out)):
        for k in range(count):
            out[i, k] /= work.total[i]
