r"""Tiles of points x components of a mixture in many axes, and their logits: by products of matrices or by differences.

With c amid the m_k, X = x - a c and Y_k = a (m_k - c), in units of the T_k,

    |x - a m_k|^2 = |X|^2 + |Y_k|^2 - 2 X.Y_k    is off by    e_k = u (d + 16) (|X| + |Y_k|)^2 at most,

u half a unit in the last place, in whatever order sums are made; differences are off by u (d + 2) |x - a m_k|^2. So

    products       serve where |Y_k|^2 <= d for all of a tile: (|X| + |Y_k|)^2 <= 2 |x - a m_k|^2 + 8 |Y_k|^2, so logits
                   are off by twice what differences are off by and 6 u (d + 16) d bits, whatever x is
    screened       elsewhere: what may be felt, and is off by more than 16 times what differences are off by, is found
                   by differences. The largest logit less its error bounds what is felt: a component smaller than that
                   by log2 K + 40 bits and the bits of the type weighs less than a rounding, however many there are
    differences    of all pairs, to be compared with
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from refdiff.kernels.cuda.device import cupy, kernel, launch, rows_at_once

TILE = 4096  # components: a product of matrices this long fills a device with half of the points below
TALL = ((256, 2048), (np.inf, 512))  # points, by axes: products of few axes need more of them to be worth a launch
PAIR_THREADS, ROW_THREADS, STEP, FAN = 256, 128, 16, {4: 8, 8: 4}  # as in wide.cuh, FAN by bytes of a number
LOG2_E = 1.4426950408889634
SPARE = 40.0  # bits: components so narrow that |B_k| sqrt(T_k) is 2^24 times that of others are felt all the same
SAMPLE = 64  # components at least, whose median is c: 1/6 of what they are apart from where it would be for all
FEW = 8  # as in wide.cuh
ROUTES = ("products", "screened", "differences")


def points_at_once(dim: int) -> int:
    """Points of a tile."""
    return next(height for most, height in TALL if dim < most)


@dataclass(frozen=True)
class Problem:
    """A mixture without bases at one time, as kernels take it: of `form` 0, 1 or 2 as wide.cu says."""

    form: int
    mixture: Any
    when: Any  # a, q, mu, beta, gamma, (5, 1) where form is 0 and (5, d) otherwise
    centre: Any  # c, (d,)
    axes: Any  # log2(e) / (2 T_j), (d,), of form 1
    each: Any  # slopes and pulls, (2, d), of form 1
    numbers: Any  # (5 K,)
    size: int  # components of a tile
    routes: tuple[str, ...]  # of the tiles
    twice: float
    strides: tuple[Any, Any]  # of variances

    def run(self, name: str, items: int, *arguments: Any, shared: int = 0, threads: int = ROW_THREADS) -> None:
        """Launch a kernel of wide.cu."""
        chosen = kernel("wide", name, self.centre.dtype, FORM=self.form)
        launch(chosen, items, *arguments, shared=shared, threads=threads)


@dataclass(frozen=True)
class Room:
    """What a tile of points and components needs: flat arrays, but for the points'."""

    tables: Any  # 1 or 4 times (components, d)
    logits: Any  # (points, components)
    squares: Any  # the same, where lengths of points differ between components
    values: Any  # the same, for what is averaged
    away: Any  # X, (points, d)
    factor: Any  # what tables are multiplied with
    parts: Any  # (1 or 2, points, d)
    lengths: Any  # (points,), as those that follow
    lows: Any
    falls: Any
    felt: tuple[Any, ...]  # as `picks` has them


# ---------------------------------------------------------------------- the problem


def _form(mixture: Any, at: Any) -> int:
    if mixture.variances.shape[1] == 1 and at.shape[1] == 1:
        return 0
    return 1 if len(mixture.variances) == 1 else 2


def centre_of(means: Any) -> Any:
    """A point (d,) amid most means (K, d): their median on each axis, which a few that are far off do not move.

    What is summed about c is off by u |c|, so it must not be far from components because others are.
    """
    some = cupy().sort(means[:: max(1, len(means) // SAMPLE)], axis=0)
    return some[(len(some) - 1) // 2].copy()


def problem(mixture: Any, at: Any, route: str | None, values: bool) -> Problem:
    """What kernels need to know of a mixture (K, d) without bases at a time `at`, shape (5, 1 or d) of NumPy.

    Args:
        mixture: a Mixture.
        at: a, q, mu, beta, gamma.
        route: one of ROUTES for all tiles; without, products or screened as each tile allows.
        values: whether an array of points times components is needed beside logits.

    Raises:
        MemoryError: a tile of one component does not fit.
    """
    xp, (count, dim), form = cupy(), mixture.means.shape, _form(mixture, at)
    dtype = mixture.means.dtype
    when = xp.asarray(np.ascontiguousarray(np.broadcast_to(at, (5, dim if form else 1))).astype(dtype))
    centre = centre_of(mixture.means)
    axes, each, log_det = when, when, when
    if form == 1:
        a, q, mu, beta, gamma = when
        v = mixture.variances[0]
        t = a * a * v + q
        b = (beta * v + gamma) / t
        axes, each, log_det = 0.5 * LOG2_E / t, xp.stack([b, mu - b * a]), xp.log(t).sum()
    parts = mixture.variances.shape[1]
    strides = np.int32(0 if len(mixture.variances) == 1 else parts), np.int32(parts > 1)
    numbers = xp.empty(5 * count, dtype)
    made = kernel("wide", "numbers", dtype, FORM=form)
    law = mixture.means, mixture.variances, mixture.log_weights, np.int64(count), np.int32(dim)
    launch(made, 32 * count, *law, *strides, when, centre, axes, log_det, numbers)
    height = points_at_once(dim)
    wide, tall = (4, 2 + values) if form == 2 else (1, 1 + values)
    fixed = dtype.itemsize * height * (dim * (4 if form == 2 else 3) + 5 + 2 * (1 + FEW) * ROW_THREADS // 32)
    row = dtype.itemsize * (wide * dim + height * tall)
    size = rows_at_once(min(count, TILE), row, fixed, f"a tile of {height} points in {dim} axes")
    size = size if size >= min(count, TILE) or size < 64 else size - size % 64
    twice = 2.0 * float(at[0, 0]) if form == 0 else 2.0
    made_routes = (route,) * -(-count // size) if route else _routes(numbers, count, dim, size)
    return Problem(form, mixture, when, centre, axes, each, numbers, size, made_routes, twice, strides)


def _routes(numbers: Any, count: int, dim: int, size: int) -> tuple[str, ...]:
    """Products for tiles in which log2(e) / 2 |Y|^2 is at most log2(e) / 2 d, screened for others."""
    squares = numbers[count : 2 * count] * numbers[2 * count : 3 * count]
    most = cupy().stack([squares[first : first + size].max() for first in range(0, count, size)]).get()
    return tuple(ROUTES[0] if one <= 0.5 * LOG2_E * dim else ROUTES[1] for one in most)


def room(p: Problem, values: bool) -> Room:
    """Room for one tile of points and components."""
    xp, dim, dtype = cupy(), p.mixture.means.shape[1], p.centre.dtype
    height, own = points_at_once(dim), p.form == 2
    pairs = height * p.size
    away = xp.zeros((height, dim), dtype)
    return Room(
        xp.empty((4 if own else 1) * p.size * dim, dtype),
        xp.empty(pairs, dtype),
        xp.empty(pairs if own else 0, dtype),
        xp.empty(pairs if values else 0, dtype),
        away,
        xp.zeros((height, dim), dtype) if p.form else away,
        xp.empty((2 if own else 1, height, dim), dtype),
        xp.empty(height, dtype),
        xp.empty(height, dtype),
        xp.empty(height, dtype),
        picks(height, dtype),
    )


def picks(height: int, dtype: Any) -> tuple[Any, ...]:
    """For so many points: sums of weights and slopes (2, n), and which components are felt, with what weights."""
    xp, warps = cupy(), ROW_THREADS // 32
    felt = xp.empty((height, warps, 1 + FEW), np.int32)
    return xp.empty((2, height), dtype), felt, xp.empty((height, warps, FEW), dtype)


def cutoff_of(count: int, dtype: Any) -> Any:
    """Bits below the largest logit at which none of so many components is felt."""
    return np.dtype(dtype).type(np.log2(count) + np.finfo(dtype).nmant + SPARE)


# ---------------------------------------------------------------------- logits


def _shared_bytes(form: int, side: int, itemsize: int) -> int:
    """Of a block of `differences`."""
    return itemsize * (2 * STEP * (side + 1) + STEP + (0, STEP, STEP * (side + 1))[form])


def differences(
    p: Problem,
    points: Any,
    means: Any,
    gain: Any,
    weights: Any,
    numbers: tuple[Any, int],
    out: Any,
    screen: tuple[Any, ...] | None = None,
) -> None:
    """offset - precision |x - gain m|^2 of pairs, (n, k) in out.

    Args:
        p: the problem.
        points: x, shape (n, d).
        means: m, shape (k, d).
        gain: of all axes or of each, shape (1 or d,).
        weights: of the squares, (d,) where the form is 1 and k d of them where it is 2.
        numbers: offsets, precisions and so on as a flat array, and how many apart they are.
        out: flat, where logits of products are if there is a screen.
        screen: lengths of points, what is felt at least, and the error and the cutoff of `needed` in wide.cu.
    """
    n, count, dtype = len(points), len(means), points.dtype.type
    side = STEP * FAN[points.itemsize]
    items = -(-n // side) * -(-count // side) * PAIR_THREADS
    sizes = np.int64(n), means, np.int64(count), np.int32(means.shape[1])
    law = gain, np.int32(gain.size > 1), weights, numbers[0], np.int64(numbers[1])
    rest = *(screen or (out, out, dtype(0), dtype(0))), np.int32(screen is not None), out[: n * count]
    shared = _shared_bytes(p.form, side, points.itemsize)
    p.run("differences", items, points, *sizes, *law, *rest, shared=shared, threads=PAIR_THREADS)


def _logits(p: Problem, x: Any, tile: slice, route: str, work: Room, tops: Any) -> Any:
    """Logits of points x with a tile of components, as a flat array (points, components)."""
    xp, (n, dim), dtype = cupy(), x.shape, p.centre.dtype.type
    height, size, count = len(work.away), tile.stop - tile.start, len(p.mixture.means)
    flat = work.logits[: height * size]
    found, table = flat.reshape(height, size), work.tables[: size * dim].reshape(size, dim)
    precisions = work.tables[size * dim : 2 * size * dim] if p.form == 2 else p.axes
    law = p.mixture.means[tile], p.when.ravel()[: p.when.shape[1]], precisions, (p.numbers[tile.start :], count)
    if route == "differences":
        differences(p, x, *law, flat)
        return flat
    lengths = work.lengths
    if p.form == 2:
        lengths = work.squares[: height * size]
        xp.matmul(work.away, table.T, out=found)
        xp.matmul(work.factor, precisions.reshape(size, dim).T, out=lengths.reshape(height, size))
    else:
        xp.matmul(work.factor, table.T, out=found)
    share = dtype(0.5 * np.finfo(dtype).eps * (dim + 16))
    given = np.int64(n), np.int64(size), law[-1][0], np.int64(count), lengths, dtype(p.twice), share, tops
    p.run("logits", n * ROW_THREADS, *given, flat, work.lows, shared=ROW_THREADS // 32 * x.itemsize)
    if route == "screened":
        differences(p, x, *law, flat, (lengths, work.lows, share, cutoff_of(count, dtype)))
    return flat


def sweep(p: Problem, x: Any, work: Room, tops: Any) -> Iterator[tuple[slice, slice, Any]]:
    """Tiles of components and of points, and their logits, flat; those of points are innermost."""
    (count, dim), n = p.mixture.means.shape, len(x)
    for number, route in enumerate(p.routes):
        tile = slice(number * p.size, min((number + 1) * p.size, count))
        size = tile.stop - tile.start
        variances = p.mixture.variances[tile if p.strides[0] else slice(None)]
        law = p.mixture.means[tile], variances, np.int64(size), np.int32(dim), *p.strides
        p.run("tables", size * dim, *law, p.when, p.centre, work.tables)
        for first in range(0, n, len(work.away)):
            rows = slice(first, min(first + len(work.away), n))
            given = x[rows], np.int64(rows.stop - first), np.int32(dim), p.when, p.centre, p.axes
            p.run("centred", (rows.stop - first) * 32, *given, work.away, work.factor, work.lengths)
            yield tile, rows, _logits(p, x[rows], tile, route, work, tops[rows])
