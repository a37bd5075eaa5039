r"""Soft minima over weighted points, the halves of Sinkhorn's iteration, without the array of pairs.

    M_i = -log sum_j 2^l_ij,      l_ij = h_j - |u_i - v_j|^r,      h_j = log2(b_j) + g_j log2(e) / eps

for points u, v in units in which the cost is eps log(2) |u - v|^r. Near the solution M_i hardly changes, so that a
guess of it, the last one, is as good as the largest l for keeping a sum in range, and a sum takes one pass:

    sum_j 2^(l_ij + guess_i)        is right where it is within [2^-40, 2^40] (float32: [2^-8, 2^8])

Groups of points where it is not, or where there is no guess, look for the largest l first. Where axes are many, l comes
from |u|^2 - 2 u.v + |v|^2: off by roundings of |u|^2 + |v|^2, as potentials of that size are anyway.

Groups of points and tiles of points v have boxes. A tile whose largest possible l + guess is below -128 in a group is
left out: 2^35 such terms are below a rounding of a sum above 2^-40. Sums are made tile by tile, in the order of points
v: a result depends on which points are in its group, and on nothing else.
"""

from __future__ import annotations

from typing import Any

from refdiff.kernels.numba.compiling import compiled, shared, wide_vectors
from refdiff.kernels.numba.lanes import aligned, borrowed, keep
from refdiff.kernels.numba.soft_tiles import (
    FAR,
    GROUP_BYTES,
    TILE,
    add_terms,
    distances,
    logits_of,
    new_room,
    tile_sums,
)
from refdiff.kernels.numba.tiles import LANES, absorb
from refdiff.kernels.numba.vector_math import LOG2_E, log

MANY = 12  # axes from which products are faster
NOTHING = -128.0  # bits

# ---------------------------------------------------------------------- blocks


@shared
def _enter(u: Any, guess: Any, block: int, room: Any) -> Any:
    """A block of points u with lengths, boxes and guesses, the last point again where there are no more; how many."""
    groups, dim, width = room.u.shape
    for g in range(groups):
        for i in range(width):
            place = min(block * LANES + g * width + i, len(u) - 1)
            room.guess[g, i] = guess[place]
            room.lengths[g, i] = 0
            for j in range(dim):
                value = u[place, j]
                room.u[g, j, i] = value
                room.lengths[g, i] += value * value
        for j in range(dim):
            low, high = room.u[g, j, 0], room.u[g, j, 0]
            for i in range(1, width):
                low, high = min(low, room.u[g, j, i]), max(high, room.u[g, j, i])
            room.boxes[g, 0, j], room.boxes[g, 1, j] = low, high
    return min(LANES, len(u) - block * LANES)


@shared
def _begin(room: Any, products: bool, lift: Any) -> None:
    """Where l begins in open groups, which are closed again where a guess is missing."""
    for g in range(len(room.open)):
        most = room.guess[g, 0]
        for i in range(room.guess.shape[1]):
            guess = room.guess[g, i]
            room.open[g] = room.open[g] and guess == guess
            most = max(most, guess)
            room.start[g, i] = guess - lift - (room.lengths[g, i] if products else room.lengths.dtype.type(0))
        room.highest[g] = most


@shared
def _felt(box: Any, other: Any, order: float, height: Any) -> Any:
    """Whether the largest l + guess of a group in one box and a tile in another may be felt, from their sum here."""
    square = box.dtype.type(0)
    for j in range(box.shape[1]):
        gap = max(box[0, j] - other[1, j], other[0, j] - box[1, j])
        if gap > 0:
            square += gap * gap
    if order != 2.0:
        return not height - square ** (0.5 * order) < NOTHING
    return not height - square < NOTHING


@shared
def _sweep(room: Any, to: Any, order: float, fast: bool) -> None:
    """The sums of all open groups; with those of |u - v|^r where that is not the `fast` way."""
    products = len(to.lowered) > 0
    for g in range(len(room.open)):
        if room.open[g]:
            room.sums[g] = 0
    for tile in range(len(to.highest)):
        begin = tile * TILE
        for g in range(len(room.open)):
            if not room.open[g] or not _felt(room.boxes[g], to.boxes[tile], order, room.highest[g] + to.highest[tile]):
                continue
            if not fast:
                distances(room, g, to, begin, order)
                add_terms(room.rows, to.h, begin, room.start[g], room.part, room.sums[g])
            elif products:
                tile_sums(room.u[g], to.doubled, to.lowered, room.start[g], begin, begin + TILE, True, room.sums[g, 0])
            else:
                tile_sums(room.u[g], to.v, to.h, room.start[g], begin, begin + TILE, False, room.sums[g, 0])


@shared
def _guess(room: Any, to: Any, order: float) -> None:
    """The guess that serves where no other does: less the largest l, in open groups."""
    for g in range(len(room.open)):
        if room.open[g]:
            top = room.start[g]
            top[:] = FAR
            for begin in range(0, len(to.h), TILE):
                logits_of(room, g, to, begin, order, top)
            for i in range(len(top)):
                room.guess[g, i] = -top[i]


# ---------------------------------------------------------------------- kernels


@compiled
def soft_minima(first: int, last: int, u: Any, to: Any, order: float, guess: Any, minima: Any) -> None:
    """M in bits at points u (n, d), for the blocks first .. last - 1 of LANES points.

    Args:
        u: points, shape (n, d).
        to: `Points` v.
        order: r.
        guess: of M in bits, shape (n,); NaN where there is none.
        minima: for M.
    """
    wide_vectors()
    owned = new_room(u)
    room, points = borrowed(owned), borrowed(to)
    kind, double, width = u.dtype.type, u.itemsize == 8, room.guess.shape[1]
    # sums are lowered so that terms are below 1
    lift, spread = kind(64.0 if double else 16.0), kind(40.0 if double else 8.0)
    low, high = 2.0 ** (-spread - lift), 2.0 ** (spread - lift)
    for block in range(first, last):
        held = _enter(u, guess, block, room)
        for g in range(len(room.open)):
            room.open[g] = g * width < held
        _begin(room, len(points.lowered) > 0, lift)
        _sweep(room, points, order, order == 2.0)
        again = False
        for g in range(len(room.open)):
            right = room.open[g]
            for i in range(width):
                right = right and low <= room.sums[g, 0, i] <= high
            room.open[g] = not right and g * width < held
            again = again or room.open[g]
        if again:
            _guess(room, points, order)
            _begin(room, len(points.lowered) > 0, lift)
            _sweep(room, points, order, order == 2.0)
        for i in range(held):
            g, lane = i // width, i % width
            minima[block * LANES + i] = room.guess[g, lane] - lift - kind(LOG2_E) * log(room.sums[g, 0, lane])
    keep(owned)


@compiled
def soft_means(first: int, last: int, u: Any, to: Any, order: float, minima: Any, values: Any, means: Any) -> None:
    """sum_j 2^(l_ij + M_i) v_j for the blocks first .. last - 1 of LANES points, in all axes of v.

    Args:
        u: points, shape (n, d).
        to: `Points` v.
        order: r.
        minima: M in bits, shape (n,).
        values: at the points v, shape (m, k).
        means: for the result, shape (n, k).
    """
    wide_vectors()
    owned, kept = new_room(u), aligned((values.shape[1], GROUP_BYTES // u.itemsize), u.dtype)
    room, points, out, table = borrowed(owned), borrowed(to), borrowed(kept), borrowed(values)
    width = room.guess.shape[1]
    spare, total = room.part[0], room.part[1]
    for block in range(first, last):
        held = _enter(u, minima, block, room)
        for g in range(-(-held // width)):
            top = room.start[g]
            for i in range(width):
                top[i] = -room.guess[g, i]
            most, total[:], out[:] = -top.min(), 0, 0
            for tile in range(len(points.highest)):
                if _felt(room.boxes[g], points.boxes[tile], order, most + points.highest[tile]):
                    logits_of(room, g, points, tile * TILE, order, spare)
                    absorb(room.rows, top, table[tile * TILE : tile * TILE + TILE], total, out)
            for i in range(min(width, held - g * width)):
                for j in range(out.shape[0]):
                    means[block * LANES + g * width + i, j] = out[j, i] / total[i]
    keep(owned)
    keep(kept)


@compiled
def mean_powers(first: int, last: int, u: Any, to: Any, order: float, minima: Any, means: Any) -> None:
    """sum_j 2^(l_ij + M_i) |u_i - v_j|^r by differences, for the blocks first .. last - 1 of LANES points.

    Args:
        u: points, shape (n, d).
        to: `Points` v.
        order: r.
        minima: M in bits, shape (n,).
        means: for the result, shape (n,).
    """
    wide_vectors()
    owned = new_room(u)
    room, points = borrowed(owned), borrowed(to)
    width = room.guess.shape[1]
    for block in range(first, last):
        held = _enter(u, minima, block, room)
        for g in range(len(room.open)):
            room.open[g] = g * width < held
        _begin(room, False, u.dtype.type(0))
        _sweep(room, points, order, False)
        for i in range(held):
            g, lane = i // width, i % width
            means[block * LANES + i] = room.sums[g, 1, lane] / room.sums[g, 0, lane]
    keep(owned)
