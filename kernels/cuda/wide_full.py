r"""Mixtures in many axes whose components have a basis each, on the device, by products of matrices.

    t = x - a m_k,    t U_k,    logits,    r_k relative to the largest so far,    sum_k r_k (mu m_k + (b_k t U_k) U_k')

for groups of components at a time; differences come first, so that no product cancels. Every product has one shape, as
in `wide`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from refdiff.kernels.cuda.device import cupy, kernel, launch, rows_at_once
from refdiff.kernels.cuda.wide_tiles import cutoff_of, picks

ROW_THREADS = 128  # as in wide.cuh
MOST = 256  # components of a group
ENTRIES = 2**25  # of a group's points: more make products no faster
HEIGHT = 512  # points of a tile


@dataclass(frozen=True)
class Group:
    """Some components, and room for a tile of points with them."""

    law: tuple[Any, ...]  # means (k, d), k and d
    variances: tuple[Any, ...]  # and their strides
    bases: Any
    numbers: Any  # offsets and traces from theirs on
    when: Any
    first: bool

    def run(self, name: str, items: int, *arguments: Any) -> None:
        """Launch a kernel of wide_full.cu."""
        launch(kernel("wide_full", name, self.when.dtype), items, *arguments)


def _groups(mixture: Any, when: Any, size: int) -> Iterator[Group]:
    xp, (count, dim), dtype = cupy(), mixture.means.shape, mixture.means.dtype
    own, parts = len(mixture.variances) > 1, mixture.variances.shape[1]
    strides = np.int32(parts if own else 0), np.int32(parts > 1)
    numbers = xp.empty(2 * count, dtype)
    made = mixture.variances, *strides, mixture.log_weights, np.int64(count), np.int32(dim), when, numbers
    launch(kernel("wide_full", "offsets", dtype), 32 * count, *made)
    for first in range(0, count, size):
        part = slice(first, min(first + size, count))
        law = mixture.means[part], np.int64(part.stop - first), np.int32(dim)
        variances = mixture.variances[part if own else slice(None)], *strides
        yield Group(law, variances, mixture.bases[part], numbers[first:], when, first == 0)


@dataclass(frozen=True)
class Tiles:
    """Room for a group and a tile of points: `fields` (2 or 3, components, points, d), pairs, numbers of points."""

    fields: Any
    pairs: Any
    values: Any
    falls: Any
    felt: tuple[Any, ...]  # as `picks` has them
    size: int


def _tiles(mixture: Any, fields: int) -> Tiles:
    xp, (count, dim), dtype = cupy(), mixture.means.shape, mixture.means.dtype
    most = min(count, MOST, max(1, ENTRIES // (HEIGHT * dim)))
    row = dtype.itemsize * (HEIGHT * (fields * dim + 2) + dim * dim)  # products copy matrices that are transposed
    fixed = dtype.itemsize * (HEIGHT + 2 * count)
    size = rows_at_once(most, row, fixed, f"a tile of {HEIGHT} points in {dim} axes with matrices of their own")
    pairs, values = (xp.empty(HEIGHT * size, dtype) for _ in range(2))
    made = xp.zeros((fields, size, HEIGHT, dim), dtype)
    return Tiles(made, pairs, values, xp.empty(HEIGHT, dtype), picks(HEIGHT, dtype), size)


def _sweep(x: Any, mixture: Any, at: Any, work: Tiles) -> Iterator[tuple[Group, slice, Any, Any]]:
    """Groups and tiles of points, t in the bases (components, points, d), and room beside it; logits are in pairs."""
    xp = cupy()
    when = xp.asarray(np.ascontiguousarray(at.ravel()).astype(x.dtype))
    for group in _groups(mixture, when, work.size):
        count = int(group.law[1])
        for first in range(0, len(x), HEIGHT):
            rows = slice(first, min(first + HEIGHT, len(x)))
            n = rows.stop - first
            away, turned = work.fields[0, :count], work.fields[1, :count]
            sizes = np.int64(n), np.int64(HEIGHT)
            group.run("deviations", count * x[rows].size, x[rows], *sizes, *group.law, when, away)
            xp.matmul(away, group.bases, out=turned)
            law = *group.variances, group.numbers, *group.law[1:], when
            group.run("logits", 32 * n * count, turned, *sizes, *law, work.pairs)
            yield group, rows, turned, away


def _scaled(group: Group, rows: slice, turned: Any, weights: Any, kind: int, out: Any) -> None:
    """b t with weights (kind 1) or without (0), or -t / T (2)."""
    n, (count, dim) = rows.stop - rows.start, group.law[1:]
    sizes = turned, np.int64(n), np.int64(HEIGHT), *group.variances, count, dim
    group.run("scaled", int(count) * n * int(dim), *sizes, group.when, weights, np.int32(kind), out)


@dataclass(frozen=True)
class Sums:
    """Of all points: the largest logit, totals (n,), sums or outputs (n, d), log densities (n,)."""

    tops: Any
    totals: Any
    sums: Any
    logp: Any


def _summed(x: Any, mixture: Any, at: Any, work: Tiles) -> Sums:
    xp, (n, dim), dtype = cupy(), x.shape, x.dtype
    least = float(np.finfo(dtype).min)
    found = Sums(xp.full(n, least, dtype), xp.zeros(n, dtype), xp.empty((n, dim), dtype), xp.empty(n, dtype))
    weights, finish = (kernel("wide", name, dtype, FORM=1) for name in ("weights", "finish"))
    cutoff = cutoff_of(len(mixture.means), dtype)
    for group, rows, turned, away in _sweep(x, mixture, at, work):
        taken, count = rows.stop - rows.start, group.law[1]
        given = np.int64(taken), count, group.numbers, np.int64(0), cutoff, work.pairs
        ends = found.tops[rows], found.totals[rows], work.falls, *work.felt
        launch(weights, taken * ROW_THREADS, *given, *ends, shared=ROW_THREADS // 32 * x.itemsize, threads=ROW_THREADS)
        _scaled(group, rows, turned, work.pairs, 1, turned)
        xp.matmul(turned, group.bases.transpose(0, 2, 1), out=away)
        law = np.int64(taken), np.int64(HEIGHT), *group.law, group.when, work.pairs, np.int32(group.first), work.falls
        group.run("absorb", taken * dim, away, *law, found.sums[rows])
    sums = found.tops, found.totals, found.sums, found.logp
    launch(finish, n * dim, np.int64(n), np.int32(dim), *sums)
    return found


def predict(x: Any, mixture: Any, at: Any) -> tuple[Any, Any]:
    """Outputs (n, d) and log densities (n,) at points x (n, d).

    Args:
        x: points, contiguous, of the type of the mixture's arrays.
        mixture: a Mixture with K > 1 bases.
        at: a, q, mu, beta, gamma, NumPy's, shape (5, 1).

    Raises:
        MemoryError: not even one component fits in half of what memory is free.
    """
    found = _summed(x, mixture, at, _tiles(mixture, 2))
    return found.sums, found.logp


def divergence(x: Any, mixture: Any, at: Any) -> tuple[Any, Any]:
    """Outputs (n, d) and their divergences (n,) at points x (n, d); arguments and errors as of `predict`."""
    xp, dtype = cupy(), x.dtype
    work = _tiles(mixture, 3)
    gradient = np.zeros_like(at)
    gradient[:2], gradient[4] = at[:2], -1
    g = _summed(x, mixture, gradient, work).sums
    found = _summed(x, mixture, at, work)
    total = xp.zeros(len(x), dtype)
    for group, rows, turned, away in _sweep(x, mixture, at, work):
        n, count = rows.stop - rows.start, group.law[1]
        back, left = group.bases.transpose(0, 2, 1), work.fields[2, : int(count)]
        _scaled(group, rows, turned, work.pairs, 0, away)
        xp.matmul(away, back, out=left)
        _scaled(group, rows, turned, work.pairs, 2, turned)
        xp.matmul(turned, back, out=away)
        traces = group.numbers[len(mixture.means) :]
        sizes = np.int64(n), np.int64(HEIGHT), *group.law, group.when, traces
        group.run("contractions", 32 * n * int(count), left, away, *sizes, found.sums[rows], g[rows], work.values)
        ends = work.pairs, work.values, found.tops[rows], found.totals[rows], total[rows]
        shared, average = ROW_THREADS // 32 * x.itemsize, kernel("wide", "average", dtype, FORM=1)
        launch(average, n * ROW_THREADS, np.int64(n), count, *ends, shared=shared, threads=ROW_THREADS)
    return found.sums, total
