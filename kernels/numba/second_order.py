r"""Second derivatives of the mixture at one time, for blocks of points: divergence, Jacobian, posterior covariance.

With t_k = x - a m_k, components' outputs o_k = mu m_k + B_k t_k and gradients g_k = -T_k^-1 t_k as in `mixture`,

    output       o = sum_k r_k o_k                          gradient   g = sum_k r_k g_k = grad log p
    Jacobian     do/dx = sum_k r_k B_k + sum_k r_k (o_k - o)(g_k - g)'                 as dr_k/dx = r_k (g_k - g)
    divergence   div o = sum_k r_k tr B_k + sum_k r_k (o_k - o).(g_k - g)

A flow dx/dt = v has d log p / dt = -div v along it. The first sweep over the components finds o and g, the second
sums what is centred at them: no two large numbers meet, and a mean that is off by a rounding error changes nothing,
as the products (o - o*)(g - g*)' are of second order. Responsibilities are made anew in each sweep, so no array of
points times components exists. Where all components have one covariance, both fields are means in disguise:

    o_k - o = (mu - B a)(m_k - c),    g_k - g = T^-1 a (m_k - c),    c = sum_k r_k m_k
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
from numba import config

from refdiff.kernels.numba.compiling import compiled, inlined, shared, wide_vectors
from refdiff.kernels.numba.mixture import LOG2_E, TILE, Mixture, evaluate, load, store, workspace
from refdiff.kernels.numba.tiles import LANES, accumulate, logits, products, weighted_logits
from refdiff.kernels.numba.vector_math import exp2_nonpositive, log

if not config.DISABLE_JIT:
    from numba.core import cgutils

    from refdiff.kernels.numba.simd_tiles import ROWS, _Emitter, _intrinsic
else:
    ROWS = 1

COLUMNS = 2  # vectors of lanes in a tile of `contracted`, which needs three rows of points beside the sums

# What a block needs besides the workspace of `evaluate`: at of other outputs, points and fields in a basis, tables of a
# tile of components (mu m_k, b_k, 1 / T_k, (mu - b_k a) a / T_k, tr B_k), rows and sums.
Second = namedtuple(
    "Second",
    "base others turned output mean gradient targets slopes gaps weights traces rows total spare one none",
)


@shared
def workspace_second(x: Any, mixture: Any, at: Any) -> Any:
    """Room for the functions of this module, on points of the type of x."""
    kind, dim = x.dtype, mixture.means.shape[1]
    axes = max(mixture.variances.shape[1], at.shape[-1])
    return Second(
        workspace(x, dim, axes),
        np.empty((5, at.shape[-1]), kind),
        np.empty((dim, LANES), kind),
        np.empty((dim, LANES), kind),
        np.empty((dim, LANES), kind),
        np.empty((dim, LANES), kind),
        np.empty((TILE, dim), kind),
        np.empty((TILE, axes), kind),
        np.empty((TILE, axes), kind),
        np.empty((TILE, axes), kind),
        np.empty(TILE, kind),
        np.empty((TILE, LANES), kind),
        np.empty(LANES, kind),
        np.empty(LANES, kind),
        np.empty((dim, LANES), kind),
        np.empty((0, dim, dim), kind),
    )


# ---------------------------------------------------------------------- the tile of two affine fields


def _contraction(rows: int, wide: bool) -> Any:
    """(x, o, g, c, targets, slopes, gaps, traces, first, out): see `contracted`."""

    def emit(e: _Emitter) -> None:
        x, o, g, c, targets, slopes, gaps, traces, first, out = e.arrays
        ks = [e.plus(first, r) for r in range(rows)]
        groups, begins = e.lane_groups(e.size(x, 1), COLUMNS)
        with groups as group:
            lanes = begins(group.index)
            sums = [[e.variable(e.spread(traces, k)) for _ in lanes] for k in ks]
            with cgutils.for_range(e.builder, e.size(x, 0)) as axis:
                j = axis.index
                s = j if wide else e.integer(0)
                xs, os, gs = ([e.load(array, j, lane) for lane in lanes] for array in (x, o, g))
                for k, line in zip(ks, sums, strict=True):
                    centre, target = e.spread(c, k, j), e.spread(targets, k, j)
                    slope, gap = e.spread(slopes, k, s), e.spread(gaps, k, s)
                    for v, slot in enumerate(line):
                        t = e.sub(xs[v], centre)
                        left = e.add(e.sub(target, os[v]), e.mul(slope, t))
                        right = e.add(gs[v], e.mul(gap, t))
                        e.builder.store(e.sub(e.value(slot), e.mul(left, right)), slot)
            for k, line in zip(ks, sums, strict=True):
                for slot, lane in zip(line, lanes, strict=True):
                    e.store(e.value(slot), out, k, lane)

    return _intrinsic(emit, 10)


def _contraction_in_python(rows: int, wide: bool) -> Any:
    def tile(x, o, g, c, targets, slopes, gaps, traces, first, out):  # type: ignore[no-untyped-def]
        for k in range(first, first + rows):
            t = x - c[k][:, None]
            b, p = (table[k][:, None] if wide else table[k, 0] for table in (slopes, gaps))
            out[k] = traces[k] - ((targets[k][:, None] - o + b * t) * (g + p * t)).sum(axis=0)

    return tile


_make = _contraction_in_python if config.DISABLE_JIT else _contraction
_narrow_4, _narrow_1, _wide_4, _wide_1 = (_make(rows, wide) for wide in (False, True) for rows in (ROWS, 1))


@inlined
def _contracted(x: Any, work: Any, count: int, out: Any) -> None:
    """out[k] = tr B_k + (o_k - o).(g_k - g) for the first components of the tables."""
    b, o, g = work.base, work.output, work.gradient
    whole = count - count % ROWS
    if work.slopes.shape[1] == 1:
        for k in range(0, whole, ROWS):
            _narrow_4(x, o, g, b.centres, work.targets, work.slopes, work.gaps, work.traces, k, out)
        for k in range(whole, count):
            _narrow_1(x, o, g, b.centres, work.targets, work.slopes, work.gaps, work.traces, k, out)
    else:
        for k in range(0, whole, ROWS):
            _wide_4(x, o, g, b.centres, work.targets, work.slopes, work.gaps, work.traces, k, out)
        for k in range(whole, count):
            _wide_1(x, o, g, b.centres, work.targets, work.slopes, work.gaps, work.traces, k, out)


# ---------------------------------------------------------------------- parts of both sweeps


@inlined
def _others(at: Any, work: Any, mu: float, gamma: float) -> Any:
    """Parameters of another output at the same time."""
    for s in range(at.shape[1]):
        work.others[0, s], work.others[1, s], work.others[2, s] = at[0, s], at[1, s], mu
        work.others[3, s], work.others[4, s] = 0, gamma
    return work.others


@shared
def _centres(x: Any, mixture: Any, at: Any, work: Any) -> None:
    """The first sweep: work.output and work.gradient at x; with one covariance, work.mean and from it the others."""
    dim, logp = x.shape[0], work.total[:0]
    if mixture.variances.shape[0] > 1 or mixture.bases.shape[0] > 1:
        evaluate(x, mixture, _others(at, work, 0, -1), work.base, work.gradient, logp)
        evaluate(x, mixture, at, work.base, work.output, logp)
        return
    evaluate(x, mixture, _others(at, work, 1, 0), work.base, work.mean, logp)
    for j in range(dim):
        s, v = 0 if at.shape[1] == 1 else j, mixture.variances[0, 0 if mixture.variances.shape[1] == 1 else j]
        a = at[0, s]
        t = a * a * v + at[1, s]
        b = (at[3, s] * v + at[4, s]) / t
        for i in range(LANES):
            c = work.mean[j, i]
            work.output[j, i] = at[2, s] * c + b * (x[j, i] - a * c)
            work.gradient[j, i] = (a * c - x[j, i]) / t


@shared
def _tables(mixture: Any, at: Any, work: Any, begin: int, size: int) -> None:
    """Numbers of the components begin .. begin + size - 1 on axes where their covariances are diagonal."""
    variances, dim, axes = mixture.variances, mixture.means.shape[1], work.slopes.shape[1]
    one, flat, still = variances.shape[0] == 1, variances.shape[1] == 1, at.shape[1] == 1
    base, kind = work.base, mixture.means.dtype.type
    bits, half = kind(LOG2_E), kind(0.5)
    for k in range(size):
        for j in range(axes):
            v, s = variances[0 if one else begin + k, 0 if flat else j], 0 if still else j
            a, mu = at[0, s], at[2, s]
            t = a * a * v + at[1, s]
            base.spread[j] = t
            base.precisions[k, j] = bits * -half / t
            work.gaps[k, j] = kind(1) / t
            work.slopes[k, j] = b = (at[3, s] * v + at[4, s]) / t
            work.weights[k, j] = (mu - b * a) * a / t
        for j in range(axes):
            base.spread[j] = log(base.spread[j])
        trace, total_log = kind(0), kind(0)
        for j in range(axes):
            trace += work.slopes[k, j]
            total_log += base.spread[j]
        copies = kind(dim // axes)
        work.traces[k] = copies * trace
        base.offsets[k] = bits * (mixture.log_weights[begin + k] - half * copies * total_log)
        for j in range(dim):
            s, m = 0 if still else j, mixture.means[begin + k, j]
            base.centres[k, j] = at[0, s] * m
            work.targets[k, j] = at[2, s] * m


@inlined
def _responsible(x: Any, work: Any, size: int) -> None:
    """Rows of responsibilities, up to a factor: 2^(l - top), and their sum into total."""
    base = work.base
    if base.precisions.shape[1] == 1:
        logits(x, base.centres, base.precisions, base.offsets, size, base.rows, base.rescale)
    else:
        weighted_logits(x, base.centres, base.precisions, base.offsets, size, base.rows, base.rescale)
    _powers(base.rows, base.top, size, work.total)


@inlined
def _powers(rows: Any, top: Any, size: int, total: Any) -> None:
    # What is too small to be felt is 0: what it would be multiplied with grows like the logits. Float32 ends at 2^-126.
    least, zero = rows.dtype.type(-500), rows.dtype.type(0)
    for k in range(size):
        row = rows[k]
        for i in range(LANES):
            fall = row[i] - top[i]
            r = exp2_nonpositive(fall) if fall >= least else zero
            row[i] = r
            total[i] += r


@inlined
def _without_basis(mixture: Any, work: Any) -> Any:
    """The mixture in its basis, where its covariances are diagonal."""
    return Mixture(mixture.means, mixture.variances, mixture.log_weights, work.none, mixture.leaves, mixture.boxes)


@inlined
def _forward(x: Any, basis: Any, out: Any) -> None:
    """U' x, in a basis."""
    out[:] = 0
    accumulate(x, basis, 0, x.shape[0], out)


@inlined
def _back(x: Any, basis: Any, out: Any) -> None:
    """U x, out of a basis."""
    out[:] = 0
    products(x, basis, x.shape[0], out)


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
    work.total[:] = 0
    divergence[:] = 0
    turns = mixture.bases.shape[0]
    if turns > 1:
        _centres(x, mixture, at, work)
        _full_divergence(x, mixture, at, work, divergence)
    elif turns == 1:
        _forward(x, mixture.bases[0], work.turned)
        _divergence(work.turned, _without_basis(mixture, work), at, work, divergence)
        _back(work.output, mixture.bases[0], out)
    else:
        _divergence(x, mixture, at, work, divergence)
    if turns != 1:
        out[:] = work.output
    for i in range(LANES):
        divergence[i] /= work.total[i]


@shared
def _divergence(x: Any, mixture: Any, at: Any, work: Any, divergence: Any) -> None:
    wide_vectors()
    one = mixture.variances.shape[0] == 1
    _centres(x, mixture, at, work)
    for begin in range(0, mixture.means.shape[0], TILE):
        size = min(TILE, mixture.means.shape[0] - begin)
        _tables(mixture, at, work, begin, size)
        if one and work.weights.shape[1] == 1:
            means = mixture.means[begin : begin + size]
            logits(work.mean, means, work.weights, work.traces, size, work.rows, work.spare)
        elif one:
            means = mixture.means[begin : begin + size]
            weighted_logits(work.mean, means, work.weights, work.traces, size, work.rows, work.spare)
        else:
            _contracted(x, work, size, work.rows)
        _responsible(x, work, size)
        for k in range(size):
            r, value = work.base.rows[k], work.rows[k]
            for i in range(LANES):
                divergence[i] += r[i] * value[i] if r[i] > 0 else x.dtype.type(0)  # the value may be an infinity


@inlined
def _full_component(x: Any, mixture: Any, at: Any, work: Any, k: int, t: Any) -> None:
    """t = U_k' (x - a m_k), the responsibility of component k up to a factor in row 0, and b_k and 1 / T_k."""
    dim, base, basis = x.shape[0], work.base, mixture.bases[k]
    kind, row = x.dtype.type, work.base.rows[0]
    for j in range(dim):
        c = at[0, 0] * mixture.means[k, j]
        for i in range(LANES):
            base.spare[j, i] = x[j, i] - c
    _forward(base.spare, basis, t)
    row[:] = 0
    log_det = kind(0)
    for e in range(dim):
        v = mixture.variances[k, 0 if mixture.variances.shape[1] == 1 else e]
        spread = at[0, 0] * at[0, 0] * v + at[1, 0]
        log_det += log(spread)
        work.gaps[0, e] = p = kind(1) / spread
        work.slopes[0, e] = (at[3, 0] * v + at[4, 0]) / spread
        for i in range(LANES):
            row[i] += t[e, i] * t[e, i] * p
    for i in range(LANES):
        row[i] = kind(LOG2_E) * (mixture.log_weights[k] - kind(0.5) * (log_det + row[i]))
    _powers(base.rows, base.top, 1, work.total)


@shared
def _full_divergence(x: Any, mixture: Any, at: Any, work: Any, divergence: Any) -> None:
    """The same in the basis of each component: o_k - o and g_k - g are turned, their product stays."""
    wide_vectors()
    dim, t, left, right = x.shape[0], work.base.turned, work.one, work.turned
    for k in range(mixture.means.shape[0]):
        _full_component(x, mixture, at, work, k, t)
        for j in range(dim):
            target = at[2, 0] * mixture.means[k, j]
            for i in range(LANES):
                work.base.spare[j, i] = target - work.output[j, i]
        _forward(work.base.spare, mixture.bases[k], left)
        _forward(work.gradient, mixture.bases[k], right)
        trace = x.dtype.type(0)
        for e in range(dim):
            trace += work.slopes[0, e]
        work.spare[:] = trace
        for e in range(dim):
            b, p = work.slopes[0, e], work.gaps[0, e]
            for i in range(LANES):
                work.spare[i] -= (left[e, i] + b * t[e, i]) * (right[e, i] + p * t[e, i])
        for i in range(LANES):
            r = work.base.rows[0, i]
            divergence[i] += r * work.spare[i] if r > 0 else x.dtype.type(0)


@compiled
def divergence(first: int, last: int, points: Any, mixture: Any, at: Any, out: Any) -> None:
    """Divergences (n,) of the output at points (n, d), for the blocks first .. last - 1 of LANES points."""
    x = np.empty((points.shape[1], LANES), points.dtype)
    o, value = np.empty_like(x), np.empty(LANES, points.dtype)
    work = workspace_second(points, mixture, at)
    for block in range(first, last):
        count = load(points, block * LANES, x)
        evaluate_divergence(x, mixture, at, work, o, value)
        out[block * LANES : block * LANES + count] = value[:count]
