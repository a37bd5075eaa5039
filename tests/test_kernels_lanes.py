"""The memory that blocks are worked on in: where it begins, whose it is, and points as blocks and back."""

import gc
from collections import namedtuple

import numpy as np
import pytest

from refdiff.kernels.numba.compiling import compiled
from refdiff.kernels.numba.lanes import LINE, aligned, borrowed, keep, load, store
from refdiff.kernels.numba.tiles import LANES

Pair = namedtuple("Pair", "whole part")


@compiled
def rooms(first, last, like, places, sizes):
    for i in range(first, last):
        kind = like.dtype
        flat, table, block = aligned((i + 1,), kind), aligned((i + 1, 3), kind), aligned((2, i + 1, 5), kind)
        flat[:], table[:], block[:] = 1, 1, 1  # all of it may be written
        for j, room in enumerate((flat.ctypes.data, table.ctypes.data, block.ctypes.data)):
            places[i, j] = room
        sizes[i, 0], sizes[i, 1], sizes[i, 2] = flat.size, table.size, block.size


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_rooms_begin_with_a_cache_line_and_are_as_large_as_asked(kind):
    places, sizes = np.ones((40, 3), np.int64), np.zeros((40, 3), np.int64)
    rooms(0, 40, np.zeros(1, kind), places, sizes)
    assert not (places % LINE).any()
    assert np.array_equal(sizes, [[i + 1, 3 * (i + 1), 10 * (i + 1)] for i in range(40)])


@compiled
def through_what_is_borrowed(first, last, whole, out):
    for block in range(first, last):
        owned = Pair(np.zeros(1000), whole)
        lent = borrowed(owned)
        for i in range(1000):
            lent.whole[i] = i
        out[block] = lent.whole.sum() + borrowed(lent.part)[1]
        lent.part[0] += 1
        keep(owned)


def test_what_is_borrowed_is_the_owners_memory_and_costs_it_no_reference():
    whole, out = np.array([0.0, 0.5]), np.zeros(3000)
    for _ in range(3):
        through_what_is_borrowed(0, 3000, whole, out)
        gc.collect()
        np.ones(1000)  # would lie where memory was given back too early
    assert (out == 999 * 500 + 0.5).all()
    assert np.array_equal(whole, [9000.0, 0.5])


@compiled
def there_and_back(first, last, points, out, counts):
    x = aligned((points.shape[1], LANES), points.dtype)
    for block in range(first, last):
        counts[block] = load(points, block * LANES, x)
        store(x, counts[block], block * LANES, out)


@pytest.mark.parametrize("count", [1, LANES - 1, LANES, 2 * LANES + 3])
def test_points_come_back_from_blocks_as_they_were(count):
    blocks = -(-count // LANES)
    points = np.random.default_rng(count).standard_normal((count, 3))
    out, counts = np.zeros((count, 3)), np.zeros(blocks, np.int64)
    there_and_back(0, blocks, points, out, counts)
    assert np.array_equal(out, points)
    assert counts.sum() == count
