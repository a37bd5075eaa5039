r"""Isotropic mixtures and point sets with many axes: matrix products where they are exact enough.

With c near the mean of the m_k, X = x - a c and Y_k = a (m_k - c),

    |x - a m_k|^2 = |X|^2 + |Y_k|^2 - 2 X.Y_k    is off by    e_k = 2 g |X| |Y_k| + g' (|X| + |Y_k|)^2 at most,

where g and g' are roundings times the length of the longest sum (Cauchy and Schwarz; sums run over panels of axes, so
this is a panel and the number of panels). A product costs half the instructions of a difference and its square, and
in float32 a quarter. C is the cutoff of `pruning`: what is smaller than the largest logit by C is not felt. A point
takes one of two ways; which one depends on it and on the mixture only:

    sparse   Float32 products bound all logits from above and below. The components whose upper bound is within C of the
             largest lower bound, if they are few, are evaluated again by differences, and only they are summed.
    dense    Products in full precision, and differences where e_k is not as small as the rounding of the differences
             (16 |x - a m_k|^2 < (|X| + |Y_k|)^2) and the component is felt. The weighted sum is a second product. It
             cancels with X where such components are felt, and those points take the sparse way after all.

What is dense is guessed from a sample, for a point as far from its component as noise is; a wrong guess costs time.
In the dense way components are in PARTS ranges with a largest logit and sums of their own, merged in order: a few
points keep all threads busy, and no result depends on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refdiff.kernels.numba.compiling import blocks
from refdiff.kernels.numba.point_products import CHUNK, GROUP_BYTES, ROWS
from refdiff.kernels.numba.point_screen import BAND, SCREENED, felt, repair, scout, screen
from refdiff.kernels.numba.point_sums import PARTS, gather, merge
from refdiff.kernels.numba.vector_math import LOG2_E

QUERIES = 256  # points at a time: a component that is read from memory serves all
FEW = 8  # a point that feels more than 1 / FEW of the components is dense
SPARE = 10.0  # as in `pruning`


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
    """c of `pruning`, at the time of `at`, shape (5, 1)."""
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
    centre = mixture.means[::step].mean(axis=0, dtype=np.float64).astype(points.dtype)
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
        left = _sparse(points, rows, mixture, at, centre, cutoff, FEW, out, logp, threads)
        full += list(left)
        done += len(rows) - len(left)
        if progress is not None:
            progress(done, n)
    for first in range(0, len(full), size):
        rows = np.asarray(full[first : first + size])
        left = _dense(points, rows, mixture, at, centre, cutoff, out, logp, threads)
        if len(left) > 0:
            _sparse(points, left, mixture, at, centre, cutoff, 0, out, logp, threads)
        done += len(rows)
        if progress is not None:
            progress(done, n)


def _sparse(
    points: Any,
    rows: Any,
    mixture: Any,
    at: Any,
    centre: Any,
    cutoff: float,
    few: int,
    out: Any,
    logp: Any,
    threads: Any,
) -> NDArray[np.int64]:
    """The sparse way for some rows of points; those that feel more than 1 / few components are left, and returned."""
    centred = points[rows] - at[0, 0] * centre
    sample = mixture.means[:: max(1, len(mixture.means) // 64)] - centre
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
    many = few * counts.reshape(-1)[: len(rows)] > max(few * few, -(-len(mixture.means) // BAND))
    kept = np.flatnonzero(~many)
    chosen = np.stack([kept, rows[kept]], axis=1)
    bounds, lowest = upper.reshape(len(upper), -1), least.reshape(-1)
    if len(kept) > 0:
        blocks(
            *(repair, len(kept), points, mixture, at, bounds, lowest, chosen, cutoff, out, logp),
            threads=threads,
        )
    return np.asarray(rows[many])


def _dense(
    points: Any, rows: Any, mixture: Any, at: Any, centre: Any, cutoff: float, out: Any, logp: Any, threads: Any
) -> NDArray[np.int64]:
    """The dense way for some rows of points; those whose sums cancel with X are left, and returned."""
    dim = points.shape[1]
    x = _grouped(points[rows] - at[0, 0] * centre, points.dtype)
    groups, _, lanes = x.shape
    places = _padded(rows, lanes)
    again = points[places.reshape(-1)]
    norms = np.sqrt(np.square(x, dtype=np.float64).sum(axis=1))
    tops, totals, slopes = (np.empty((PARTS, groups, lanes), points.dtype) for _ in range(3))
    strained = np.empty((PARTS, groups, lanes), np.int8)
    sums = np.empty((PARTS, groups, -(-dim // ROWS) * ROWS, lanes), points.dtype)
    blocks(
        *(gather, PARTS, x, norms, again, mixture, at, centre, cutoff * LOG2_E, tops, totals, slopes, sums, strained),
        threads=threads,
    )
    places.reshape(-1)[len(rows) :] = -1
    blocks(merge, groups, x, at, centre, tops, totals, slopes, sums, places, out, logp, threads=threads)
    return np.asarray(rows[strained.any(axis=0).reshape(-1)[: len(rows)]])
