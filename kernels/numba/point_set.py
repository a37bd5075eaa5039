r"""Isotropic mixtures and point sets with many axes: matrix products where they are exact enough.

With y_k = a m_k, a centre b near their mean, X = x - b and Y_k = y_k - b, both rounded relative to themselves,

    |x - y_k|^2 = |X|^2 + |Y_k|^2 - 2 X.Y_k      is off by    e_k = 2 g |X| |Y_k| + g' (|X| + |Y_k|)^2 at most,

where g and g' are roundings times the length of the longest sum (Cauchy and Schwarz; sums run over panels of axes, so
this is a panel and the number of panels). A product costs half the instructions of a difference and its square, and
in float32 a quarter. c is the cutoff of `pruning`: what is smaller than the largest logit by c is not felt. A point
takes one of two ways; which one depends on it and on the mixture only:

    sparse   Float32 products bound all logits from above and below. The components whose upper bound is within c of the
             largest lower bound, if they are few, are evaluated again by differences, and only they are summed.
    dense    Products in full precision, and differences where e_k is not as small as the rounding of the differences
             (16 |x - y_k|^2 < (|X| + |Y_k|)^2) and the component is felt. The weighted sum is a second product.

What is dense is guessed from a sample, for a point as far from its component as noise is; a wrong guess costs time.
In the dense way components are in PARTS ranges with a largest logit and sums of their own, merged in order: a few
points keep all threads busy, and no result depends on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config
from numpy.typing import NDArray

from refdiff.kernels.numba.compiling import blocks, compiled, inlined, shared, wide_vectors
from refdiff.kernels.numba.vector_math import exp2_nonpositive, exp_nonpositive, log

if config.DISABLE_JIT:
    VECTOR_BYTES, COLUMNS = 64, 1
else:
    from numba.core import cgutils

    from refdiff.kernels.numba.simd_tiles import COLUMNS, VECTOR_BYTES, _Emitter, _intrinsic

GROUP_BYTES = COLUMNS * VECTOR_BYTES  # of one axis of a group of points: the columns of a tile
ROWS = 6 if VECTOR_BYTES == 64 else 2  # 24 of 32 registers hold sums, or 8 of 16
CHUNK = 96  # components at a time, whole tiles: their weights in a group of points are 24 kB
PANEL = 128  # axes at a time: a group of points has 32 kB of them
BAND = 16  # components that share one bound
PARTS, SCREENED = 16, 64  # ranges of components, of the dense and of the sparse way
QUERIES = 256  # points at a time: a component that is read from memory serves all
SAMPLE = 64  # components that decide between the two ways
FEW = 8  # a point that feels more than 1 / FEW of the components is dense
SPARE = 10.0  # as in `pruning`
HALF_LOG_2PI, LN2, LOG2_E = 0.9189385332046727, 0.6931471805599453, 1.4426950408889634


# ---------------------------------------------------------------------- tiles


def _product(across: bool) -> Any:
    """(x, c, first, out): out[first + r] += sum_s c[first + r, s] x[s], or c[s, first + r] x[s], for r < ROWS."""

    def emit(e: _Emitter) -> None:
        x, c, first, out = e.arrays
        ks = [e.plus(first, r) for r in range(ROWS)]
        lanes = [e.integer(v * e.width) for v in range(COLUMNS)]
        sums = [[e.variable(e.constant(0.0)) for _ in lanes] for _ in ks]
        with cgutils.for_range(e.builder, e.size(x, 0)) as step:
            xs = [e.load(x, step.index, lane) for lane in lanes]
            for k, line in zip(ks, sums, strict=True):
                entry = e.spread(c, k, step.index) if across else e.spread(c, step.index, k)
                for value, slot in zip(xs, line, strict=True):
                    e.add_product(slot, value, entry)
        # the sum of a panel is made alone: its rounding errors do not grow with the number of panels
        for k, line in zip(ks, sums, strict=True):
            for slot, lane in zip(line, lanes, strict=True):
                e.store(e.add(e.load(out, k, lane), e.value(slot)), out, k, lane)

    return _intrinsic(emit, 4)


def _differences(e: _Emitter) -> None:
    """(u, m, k, a, out): vectors of partial sums of |u - a m_k|^2, for the axes that fill COLUMNS vectors."""
    u, m, k, a, out = e.arrays
    scale = e.spread(a, e.integer(0))
    sums = [e.variable(e.constant(0.0)) for _ in range(COLUMNS)]
    step = e.integer(COLUMNS * e.width)
    with cgutils.for_range(e.builder, e.builder.sdiv(e.size(u, 0), step)) as block:
        start = e.builder.mul(block.index, step)
        for v, slot in enumerate(sums):
            j = e.plus(start, v * e.width)
            # a m is rounded before the difference, as where it is a table
            t = e.sub(e.load(u, j), e.builder.fmul(e.load(m, k, j), scale))
            e.add_product(slot, t, t)
    for v, slot in enumerate(sums):
        e.store(e.value(slot), out, e.integer(v * e.width))


if config.DISABLE_JIT:

    def _across(x: Any, c: Any, first: int, out: Any) -> None:
        out[first : first + ROWS] += c[first : first + ROWS, : len(x)] @ x

    def _along(x: Any, c: Any, first: int, out: Any) -> None:
        out[first : first + ROWS] += c[: len(x), first : first + ROWS].T @ x

    def squared_distance(u: Any, m: Any, k: int, a: Any, partial: Any) -> Any:  # noqa: ARG001
        t = u - a[0] * m[k]
        return t @ t

else:
    _across, _along = _product(True), _product(False)
    _partial = _intrinsic(_differences, 5)

    @inlined
    def squared_distance(u: Any, m: Any, k: int, a: Any, partial: Any) -> Any:
        """|u - a m_k|^2, along the axes."""
        _partial(u, m, k, a, partial)
        total = partial[0]
        for i in range(1, len(partial)):
            total += partial[i]
        for j in range(len(u) - len(u) % len(partial), len(u)):
            t = u[j] - a[0] * m[k, j]
            total += t * t
        return total


@inlined
def _room(x: Any) -> Any:
    return np.empty(GROUP_BYTES // x.itemsize, x.dtype)


@inlined
def _variance(mixture: Any, at: Any, k: int) -> Any:
    """v_k and T_k."""
    v = mixture.variances[0 if mixture.variances.shape[0] == 1 else k, 0]
    return v, at[0, 0] * at[0, 0] * v + at[1, 0]


@inlined
def _offset(mixture: Any, t: Any, k: int) -> Any:
    """log w_k - d/2 log T_k."""
    return np.float64(mixture.log_weights[k]) - 0.5 * mixture.means.shape[1] * log(np.float64(t))


@shared
def _logits_by_products(x: Any, mixture: Any, at: Any, centre: Any, scale: float, begin: int, pack: Any, l: Any) -> int:
    """l[g, k] = scale Y_(begin + k).X of the points of all groups; how many components there were."""
    wide_vectors()
    means, a, kind = mixture.means, at[0, 0], x.dtype.type
    size, dim = min(CHUNK, means.shape[0] - begin), means.shape[1]
    l[:] = 0
    for first in range(0, dim, PANEL):
        last = min(first + PANEL, dim)
        for k in range(CHUNK):
            line = pack[k]
            if k < size:
                source = means[begin + k]
                for j in range(first, last):
                    line[j - first] = kind((a * source[j] - centre[j]) * scale)
            else:
                line[:] = 0
        for g in range(x.shape[0]):
            part, sums = x[g, first:last], l[g]
            for k in range(0, size, ROWS):
                _across(part, pack, k, sums)
    return size


# ---------------------------------------------------------------------- the sparse way


@compiled
def scout(first: int, last: int, points: Any, mixture: Any, at: Any, cutoff: float, dense: Any) -> None:
    """Whether points (n, d) are likely to feel most components; blocks are points."""
    partial, scale, count = _room(points), at[0], mixture.means.shape[0]
    sample = min(SAMPLE, count)
    found = np.empty(sample, np.float64)
    for i in range(first, last):
        expected = 0.0
        for s in range(sample):
            k = s * count // sample
            t = _variance(mixture, at, k)[1]
            offset = _offset(mixture, t, k)
            found[s] = offset - 0.5 * squared_distance(points[i], mixture.means, k, scale, partial) / t
            expected += (offset - 0.5 * points.shape[1]) / sample
        top = max(expected, found.max())
        dense[i] = 2 * (found >= top - cutoff).sum() >= sample


@compiled
def screen(
    first: int,
    last: int,
    x: Any,
    norms: Any,
    shrunk: Any,
    mixture: Any,
    at: Any,
    centre: Any,
    scale: float,
    upper: Any,
    lower: Any,
) -> None:
    """Bounds of logits by float32 products, for the ranges first .. last - 1 of SCREENED ranges of components.

    Args:
        x: X times a number for each point, float32, shape (groups, d, lanes).
        norms, shrunk: |X| and that number, float64, shape (groups, lanes).
        centre, scale: b, and a number by which Y is multiplied.
        upper: for the largest bound of each band of BAND components, shape (bands, groups, lanes).
        lower: for the largest lower bound in each range, shape (SCREENED, groups, lanes).
    """
    wide_vectors()
    means = mixture.means
    count, dim = means.shape
    groups, lanes = norms.shape
    chunks = -(-count // CHUNK)
    pack, l = np.empty((CHUNK, PANEL), np.float32), np.empty((groups, CHUNK, lanes), np.float32)
    partial = _room(means)
    # of float32: both factors, a panel, the panels; of means' kind: X, Y and their squares
    short = 1.1 * 2.0**-24 * (PANEL + -(-dim // PANEL) + 4)
    own = 1.1 * np.finfo(means.dtype).eps * (dim + 16)
    tiny = dim * 2.0**-120  # products of float32 numbers below the normal range, each less than 2^-126
    for part in range(first, last):
        lower[part] = -np.inf
        for chunk in range(part * chunks // SCREENED, (part + 1) * chunks // SCREENED):
            begin = chunk * CHUNK
            size = _logits_by_products(x, mixture, at, centre, scale, begin, pack, l)
            bands = upper[begin // BAND : begin // BAND + CHUNK // BAND]
            bands[:] = -np.inf
            for k in range(size):
                norm = math.sqrt(np.float64(squared_distance(centre, means, begin + k, at[0], partial)))
                t = np.float64(_variance(mixture, at, begin + k)[1])
                offset, half = _offset(mixture, t, begin + k), 0.5 / t
                for g in range(groups):
                    row, most, least = l[g, k], bands[k // BAND, g], lower[part, g]
                    for i in range(lanes):
                        n = norms[g, i]
                        unit = 2 / (shrunk[g, i] * scale)
                        both = (n + norm) * (n + norm)
                        off = 2 * short * n * norm + own * both + tiny * unit
                        square = n * n + norm * norm - np.float64(row[i]) * unit
                        high = offset - half * max(square - off, 0.0)
                        low = offset - half * (square + off)
                        # overflow in float32 is not a number here, and bounds nothing
                        high = high if square - square == 0 else np.inf
                        most[i] = high if high > most[i] else most[i]
                        least[i] = low if low > least[i] and square - square == 0 else least[i]


@compiled
def felt(first: int, last: int, upper: Any, least: Any, counts: Any) -> None:
    """How many bands hold a component that a point may feel; blocks are groups of points."""
    wide_vectors()
    for g in range(first, last):
        counts[g] = 0
        for band in range(upper.shape[0]):
            for i in range(upper.shape[2]):
                counts[g, i] += np.int64(not upper[band, g, i] < least[g, i])


@compiled
def repair(
    first: int,
    last: int,
    points: Any,
    mixture: Any,
    at: Any,
    upper: Any,
    least: Any,
    chosen: Any,
    cutoff: float,
    out: Any,
    logp: Any,
) -> None:
    """Outputs and log densities from the components with a bound not below `least`; blocks are points `chosen`.

    Args:
        upper, least: shapes (bands, queries) and (queries,).
        chosen: pairs (query, row of points, out and logp), shape (m, 2).
    """
    wide_vectors()
    means, partial, kind = mixture.means, _room(points), points.dtype.type
    count, dim = means.shape
    a, mu, beta, gamma = at[0, 0], at[2, 0], at[3, 0], at[4, 0]
    places, l = np.empty(count, np.int64), np.empty(count, np.float64)
    for block in range(first, last):
        query, i = chosen[block]
        x, o = points[i], out[i]
        found = 0
        for band in range(upper.shape[0]):
            if upper[band, query] < least[query]:
                continue
            for k in range(band * BAND, min(band * BAND + BAND, count)):
                t = _variance(mixture, at, k)[1]
                square = squared_distance(x, means, k, at[0], partial)
                places[found], l[found] = k, _offset(mixture, t, k) - 0.5 * np.float64(square) / t
                found += 1
        top, total = l[:found].max(), 0.0
        o[:] = 0
        for s in range(found):
            if l[s] < top - cutoff:
                continue
            r = exp_nonpositive(l[s] - top)
            total += r
            m = means[places[s]]
            v, t = _variance(mixture, at, places[s])
            pull, slope = kind(r * mu), kind(r * (beta * v + gamma) / t)
            for j in range(dim):
                o[j] += pull * m[j] + slope * (x[j] - a * m[j])
        for j in range(dim):
            o[j] /= kind(total)
        logp[i] = top + log(total) - dim * HALF_LOG_2PI


# ---------------------------------------------------------------------- the dense way


@compiled
def gather(
    first: int,
    last: int,
    x: Any,
    norms: Any,
    points: Any,
    mixture: Any,
    at: Any,
    centre: Any,
    cutoff: float,
    tops: Any,
    totals: Any,
    slopes: Any,
    sums: Any,
) -> None:
    """Largest logits, in bits, and sums for the ranges first .. last - 1 of PARTS ranges of components.

    Args:
        x: X, shape (groups, d, lanes).
        norms: |X|, float64, shape (groups, lanes).
        points: the same points as rows, shape (groups * lanes, d).
        tops, totals, slopes: shape (PARTS, groups, lanes); slopes for sum_k r_k b_k.
        sums: for sum_k r_k (mu m_k - b_k Y_k), shape (PARTS, groups, d and more, lanes), whole tiles.
    """
    wide_vectors()
    means, kind = mixture.means, x.dtype.type
    count, dim = means.shape
    groups, _, lanes = x.shape
    a, mu, beta, gamma = at[0, 0], at[2, 0], at[3, 0], at[4, 0]
    chunks = -(-count // CHUNK)
    pack, l = np.empty((CHUNK, PANEL), x.dtype), np.empty((groups, CHUNK, lanes), x.dtype)
    wide = np.empty((CHUNK, -(-PANEL // ROWS) * ROWS), x.dtype)
    partial, b = _room(means), np.empty(CHUNK, x.dtype)
    offsets, scales, lengths = np.empty(CHUNK, np.float64), np.empty(CHUNK, np.float64), np.empty(CHUNK, np.float64)
    low, fall, some = np.empty(lanes, np.float64), np.empty(lanes, x.dtype), np.empty(groups, np.bool_)
    share = np.finfo(x.dtype).eps * (PANEL + -(-dim // PANEL) + 16)
    fine = 64 * np.finfo(x.dtype).eps
    span = wide.shape[1]
    for part in range(first, last):
        tops[part], totals[part], slopes[part], sums[part] = np.finfo(x.dtype).min, 0, 0, 0
        for chunk in range(part * chunks // PARTS, (part + 1) * chunks // PARTS):
            begin = chunk * CHUNK
            size = _logits_by_products(x, mixture, at, centre, kind(1), begin, pack, l)
            for k in range(size):
                v, t = _variance(mixture, at, begin + k)
                offsets[k] = LOG2_E * _offset(mixture, t, begin + k)
                scales[k], b[k] = 0.5 * LOG2_E / t, (beta * v + gamma) / t
                lengths[k] = math.sqrt(np.float64(squared_distance(centre, means, begin + k, at[0], partial)))
            # logits of products, and in `low` a bound of the largest from below
            for g in range(groups):
                for i in range(lanes):
                    low[i] = tops[part, g, i]
                for k in range(size):
                    row = l[g, k]
                    for i in range(lanes):
                        n = norms[g, i]
                        square = max(n * n + lengths[k] * lengths[k] - 2 * np.float64(row[i]), 0.0)
                        both = (n + lengths[k]) * (n + lengths[k])
                        logit = offsets[k] - scales[k] * square
                        row[i] = kind(logit)
                        low[i] = max(low[i], logit - scales[k] * share * both)
                for start in range(0, size, BAND):  # a band of components stays in cache while points pass
                    for i in range(lanes):
                        n = norms[g, i]
                        for k in range(start, min(start + BAND, size)):
                            both = (n + lengths[k]) * (n + lengths[k])
                            logit, off = np.float64(l[g, k, i]), scales[k] * share * both
                            square = (offsets[k] - logit) / scales[k]
                            exact = 16 * square >= both or off <= fine
                            if exact or logit + off < low[i] - cutoff:
                                continue
                            square = squared_distance(points[g * lanes + i], means, begin + k, at[0], partial)
                            l[g, k, i] = kind(offsets[k] - scales[k] * np.float64(square))
            # weights
            for g in range(groups):
                top, total, slope = tops[part, g], totals[part, g], slopes[part, g]
                for i in range(lanes):
                    fall[i] = top[i]
                for k in range(size):
                    for i in range(lanes):
                        top[i] = max(top[i], l[g, k, i])
                rises = False
                for i in range(lanes):
                    rises |= fall[i] < top[i]
                    fall[i] = fall[i] - top[i]
                    fall[i] = exp2_nonpositive(fall[i]) if fall[i] > kind(-500) else kind(0)
                    total[i] *= fall[i]
                    slope[i] *= fall[i]
                if rises:
                    for j in range(dim):
                        line = sums[part, g, j]
                        for i in range(lanes):
                            line[i] *= fall[i]
                felt_here = kind(0)
                for k in range(size):
                    row = l[g, k]
                    for i in range(lanes):
                        s = row[i] - top[i]
                        row[i] = r = exp2_nonpositive(s) if s > -cutoff else kind(0)
                        total[i] += r
                        slope[i] += b[k] * r
                    felt_here = max(felt_here, row.max())
                some[g] = felt_here > 0
            if not some.any():
                continue
            for begin_axis in range(0, dim, span):
                end_axis = min(begin_axis + span, dim)
                for k in range(size):
                    line, source = wide[k], means[begin + k]
                    for j in range(begin_axis, end_axis):
                        m = source[j]
                        line[j - begin_axis] = mu * m - b[k] * (a * m - centre[j])
                    line[end_axis - begin_axis :] = 0
                for g in range(groups):
                    if some[g]:
                        weights, into = l[g, :size], sums[part, g, begin_axis:]
                        for j in range(0, end_axis - begin_axis, ROWS):
                            _along(weights, wide, j, into)


@compiled
def merge(
    first: int, last: int, x: Any, tops: Any, totals: Any, slopes: Any, sums: Any, rows: Any, out: Any, logp: Any
) -> None:
    """The sums of all parts, in their order, as outputs and log densities; blocks are groups of points.

    Args:
        rows: where in out and logp each point belongs, -1 for none, shape (groups, lanes).
    """
    wide_vectors()
    dim, lanes, kind = x.shape[1], x.shape[2], x.dtype.type
    top, total, slope = np.empty(lanes, x.dtype), np.empty(lanes, x.dtype), np.empty(lanes, x.dtype)
    scale = np.empty((tops.shape[0], lanes), x.dtype)
    line = np.empty(lanes, x.dtype)
    for g in range(first, last):
        top[:], total[:], slope[:] = tops[0, g], 0, 0
        for part in range(1, tops.shape[0]):
            for i in range(lanes):
                top[i] = max(top[i], tops[part, g, i])
        for part in range(tops.shape[0]):
            for i in range(lanes):
                fall = tops[part, g, i] - top[i]
                scale[part, i] = exp2_nonpositive(fall) if fall > kind(-500) else kind(0)
                total[i] += totals[part, g, i] * scale[part, i]
                slope[i] += slopes[part, g, i] * scale[part, i]
        for j in range(dim):
            for i in range(lanes):
                line[i] = x[g, j, i] * slope[i]
            for part in range(tops.shape[0]):
                source = sums[part, g, j]
                for i in range(lanes):
                    line[i] += source[i] * scale[part, i]
            for i in range(lanes):
                if rows[g, i] >= 0:
                    out[rows[g, i], j] = line[i] / total[i]
        for i in range(lanes):
            if rows[g, i] >= 0:
                logp[rows[g, i]] = kind(LN2) * top[i] + log(total[i]) - kind(dim * HALF_LOG_2PI)


# ---------------------------------------------------------------------- all points


def _grouped(x: NDArray[Any], kind: Any) -> NDArray[Any]:
    """Rows (n, d) as groups (groups, d, lanes), the last row again where there are no more."""
    lanes = GROUP_BYTES // np.dtype(kind).itemsize
    whole = np.empty((-(-len(x) // lanes), x.shape[1], lanes), kind)
    for g, group in enumerate(whole):
        part = x[g * lanes : (g + 1) * lanes]
        group[:, : len(part)] = part.T
        group[:, len(part) :] = part[-1][:, None]
    return whole


def _padded(values: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Numbers of points (n,) as (groups, lanes), the last again where there are no more."""
    padding = np.full(-len(values) % lanes, values[-1])
    return np.concatenate([values, padding]).reshape(-1, lanes)


def cutoff_of(mixture: Any, at: NDArray[Any]) -> float:
    """c of `pruning`."""
    t = at[0, 0] ** 2 * mixture.variances + at[1, 0]
    roundings = -math.log(np.finfo(mixture.means.dtype).eps / 2)
    return math.log(len(mixture.means)) + roundings + SPARE + 0.5 * math.log(t.max() / t.min())


def predict_points(
    points: NDArray[Any],
    mixture: Any,
    at: NDArray[Any],
    out: NDArray[Any],
    logp: NDArray[Any],
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """What `mixture.predict` writes, for an isotropic mixture; it pays from some 32 axes on.

    Args:
        points: x, shape (n, d), of the type of the mixture's means.
        mixture: a Mixture with variances (K or 1, 1), without bases.
        at: a, q, mu, beta, gamma, shape (5, 1).
        out, logp: for outputs (n, d) and log densities (n,).
        threads: how many at a time; Numba's number unless given.
        progress: called with (points done, points in all).
    """
    n, cutoff = len(points), cutoff_of(mixture, at)
    step = max(1, len(mixture.means) // 1024)
    centre = at[0, 0] * mixture.means[::step].mean(axis=0, dtype=np.float64).astype(points.dtype)
    # memory: sums of the dense way, bounds of the sparse way
    size = QUERIES
    while size > 64 and size * max(PARTS * points.shape[1], len(mixture.means) // BAND) > 2**24:
        size //= 2
    dense = np.zeros(n, np.bool_)
    blocks(scout, n, points, mixture, at, cutoff, dense, threads=threads)
    sparse, full = list(np.flatnonzero(~dense)), list(np.flatnonzero(dense))
    done = 0
    for first in range(0, len(sparse), size):
        rows = np.asarray(sparse[first : first + size])
        left = _sparse(points, rows, mixture, at, centre, cutoff, out, logp, threads)
        full += list(left)
        done += len(rows) - len(left)
        if progress is not None:
            progress(done, n)
    for first in range(0, len(full), size):
        rows = np.asarray(full[first : first + size])
        _dense(points, rows, mixture, at, centre, cutoff, out, logp, threads)
        done += len(rows)
        if progress is not None:
            progress(done, n)


def _sparse(
    points: Any, rows: Any, mixture: Any, at: Any, centre: Any, cutoff: float, out: Any, logp: Any, threads: Any
) -> NDArray[np.int64]:
    """The sparse way for some rows of points; those that feel too many components are left, and returned."""
    centred = points[rows] - centre
    sample = at[0, 0] * mixture.means[:: max(1, len(mixture.means) // 64)] - centre
    largest = np.abs(centred).max(axis=1).astype(np.float64)
    # powers of 2 that bring the largest coordinates to about 1
    shrunk = np.exp2(-np.frexp(np.where(largest > 0, largest, 1.0))[1])
    scale = float(np.exp2(-np.frexp(max(float(np.abs(sample).max()), 1e-300))[1]))
    norms = np.sqrt(np.square(centred, dtype=np.float64).sum(axis=1))
    x = _grouped(centred * shrunk[:, None], np.float32)
    groups, _, lanes = x.shape
    chunks = -(-len(mixture.means) // CHUNK)
    upper = np.empty((chunks * (CHUNK // BAND), groups, lanes))
    lower = np.empty((SCREENED, groups, lanes))
    blocks(
        *(screen, SCREENED, x, _padded(norms, lanes), _padded(shrunk, lanes), mixture, at, centre, scale, upper, lower),
        threads=threads,
    )
    least = lower.max(axis=0) - cutoff
    counts = np.empty((groups, lanes), np.int64)
    blocks(felt, groups, upper, least, counts, threads=threads)
    many = counts.reshape(-1)[: len(rows)] * BAND * FEW > max(len(mixture.means), BAND * FEW * FEW)
    kept = np.flatnonzero(~many)
    chosen = np.stack([kept, rows[kept]], axis=1)
    upper, least = upper.reshape(len(upper), -1), least.reshape(-1)
    if len(kept) > 0:
        blocks(
            *(repair, len(kept), points, mixture, at, upper, least, chosen, cutoff, out, logp),
            threads=threads,
        )
    return np.asarray(rows[many])


def _dense(
    points: Any, rows: Any, mixture: Any, at: Any, centre: Any, cutoff: float, out: Any, logp: Any, threads: Any
) -> None:
    """The dense way for some rows of points."""
    dim = points.shape[1]
    x = _grouped(points[rows] - centre, points.dtype)
    groups, _, lanes = x.shape
    places = _padded(rows, lanes)
    again = points[places.reshape(-1)]
    norms = np.sqrt(np.square(x, dtype=np.float64).sum(axis=1))
    tops, totals, slopes = (np.empty((PARTS, groups, lanes), points.dtype) for _ in range(3))
    sums = np.empty((PARTS, groups, -(-dim // ROWS) * ROWS, lanes), points.dtype)
    blocks(
        *(gather, PARTS, x, norms, again, mixture, at, centre, cutoff * LOG2_E, tops, totals, slopes, sums),
        threads=threads,
    )
    places.reshape(-1)[len(rows) :] = -1
    blocks(merge, groups, x, tops, totals, slopes, sums, places, out, logp, threads=threads)
