"""The kernels of soft minima: every order and number of axes against NumPy, with any guess, far points and threads."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from refdiff.kernels.numba import sinkhorn, soft_tiles
from refdiff.kernels.numba.compiling import blocks
from refdiff.kernels.numba.tiles import LANES


def points(v, h, products=False):
    """`Points` of v (m, d) with heights h (m,), filled up to whole tiles."""
    spare = -len(v) % soft_tiles.TILE
    v = np.concatenate([v, np.repeat(v[-1:], spare, axis=0)])
    h = np.concatenate([h, np.full(spare, soft_tiles.FAR)]).astype(v.dtype)
    tiles = v.reshape(-1, soft_tiles.TILE, v.shape[1])
    boxes = np.ascontiguousarray(np.stack([tiles.min(axis=1), tiles.max(axis=1)], axis=1))
    doubled, lowered = (2 * v, h - (v * v).sum(axis=1)) if products else (v[:0], h[:0])
    return soft_tiles.Points(v, h, doubled, lowered, boxes, h.reshape(-1, soft_tiles.TILE).max(axis=1))


def over(kernel, u, to, *arguments, threads=None):
    blocks(kernel, -(-len(u) // LANES), u, to, *arguments, threads=threads)


def minima(u, to, order=2.0, guess=None, threads=None):
    found = np.empty(len(u), u.dtype)
    guess = np.full(len(u), np.nan, u.dtype) if guess is None else guess
    over(sinkhorn.soft_minima, u, to, order, guess, found, threads=threads)
    return found


def plain(u, v, h, order):
    """l in bits, and M."""
    l = h - cdist(u, v) ** order
    most = l.max(axis=1)
    return l, -most - np.log2(np.exp2(l - most[:, None]).sum(axis=1))


@pytest.mark.parametrize("count", [1, 31, 33, 100])
@pytest.mark.parametrize(("dim", "order"), [(1, 2.0), (2, 2.0), (3, 2.0), (5, 2.0), (2, 1.0), (3, 1.5), (2, 3.0)])
def test_minima_means_and_costs_are_those_of_numpy(dim, order, count):
    rng = np.random.default_rng(count)
    u, v, h = rng.normal(size=(150, dim)), rng.normal(size=(count, dim)), rng.normal(size=count)
    l, m = plain(u, v, h, order)
    to = points(v, h)
    found = minima(u, to, order)
    # some roundings of |l|, below 100 here
    np.testing.assert_allclose(found, m, atol=2e-13)
    table, means, powers = rng.normal(size=(len(to.h), 5)), np.empty((150, 5)), np.empty(150)
    over(sinkhorn.soft_means, u, to, order, found, table, means)
    over(sinkhorn.mean_powers, u, to, order, found, powers)
    shares = np.exp2(l + m[:, None])
    np.testing.assert_allclose(means, shares @ table[:count], atol=1e-12)
    np.testing.assert_allclose(powers, (shares * cdist(u, v) ** order).sum(axis=1), rtol=1e-12)


def test_products_serve_where_axes_are_many():
    rng = np.random.default_rng(1)
    u, v, h = rng.normal(size=(140, 30)), rng.normal(size=(75, 30)), rng.normal(size=75)
    l, m = plain(u, v, h, 2.0)
    to = points(v, h, products=True)
    found, means = minima(u, to), np.empty((140, 2))
    np.testing.assert_allclose(found, m, atol=1e-12)
    table = rng.normal(size=(len(to.h), 2))
    over(sinkhorn.soft_means, u, to, 2.0, found, table, means)
    np.testing.assert_allclose(means, np.exp2(l + m[:, None]) @ table[:75], atol=1e-11)


@pytest.mark.parametrize("order", [2.0, 1.0])
def test_no_guess_is_so_wrong_that_a_result_is(order):
    rng = np.random.default_rng(2)
    u, v, h = 3 * rng.normal(size=(200, 2)), 3 * rng.normal(size=(90, 2)), 50 * rng.normal(size=90)
    to, m = points(v, h), plain(u, v, h, order)[1]
    for off in (0.0, 39.0, -39.0, 41.0, -41.0, 1e3, -1e3, 1e9, -1e9):
        np.testing.assert_allclose(minima(u, to, order, m + off), m, atol=1e-12)
    mixed = np.where(np.arange(200) == 70, 1e4, m)
    np.testing.assert_allclose(minima(u, to, order, mixed), m, atol=1e-12)


def test_tiles_that_are_left_out_are_not_felt():
    """Ten clusters far apart: each point feels the tiles of its own, and a lone point those of whichever is nearest."""
    rng = np.random.default_rng(3)
    centres = 200.0 * np.arange(10)[:, None] * np.ones(2)
    v = (centres[:, None] + rng.normal(size=(10, 64, 2))).reshape(-1, 2)
    u = np.concatenate([(centres[:, None] + rng.normal(size=(10, 32, 2))).reshape(-1, 2), [[-1e4, 3e4]]])
    h = rng.normal(size=640)
    for order in (2.0, 1.0):
        m = plain(u, v, h, order)[1]
        for guess in (None, m, m + 30):
            # roundings of |u - v|^r, up to 1e9, are all that is off
            np.testing.assert_allclose(minima(u, points(v, h), order, guess), m, rtol=1e-15, atol=1e-12)


def test_points_without_weight_are_not_felt():
    rng = np.random.default_rng(4)
    u, v, h = rng.normal(size=(40, 2)), rng.normal(size=(70, 2)), rng.normal(size=70)
    h[::3] = -np.inf
    there = np.isfinite(h)
    np.testing.assert_array_equal(minima(u, points(v[there], h[there])).shape, (40,))
    np.testing.assert_allclose(minima(u, points(v, h)), plain(u, v[there], h[there], 2.0)[1], atol=1e-13)


def test_no_result_depends_on_threads():
    rng = np.random.default_rng(5)
    u, v, h = rng.normal(size=(700, 3)), rng.normal(size=(90, 3)), rng.normal(size=90)
    to = points(v, h)
    one = minima(u, to, threads=1)
    for threads in (2, 3):
        np.testing.assert_array_equal(minima(u, to, threads=threads), one)
    np.testing.assert_array_equal(minima(u[:LANES], to), one[:LANES])


def test_single_precision_is_right_to_its_roundings():
    rng = np.random.default_rng(6)
    u, v, h = (rng.normal(size=shape).astype(np.float32) for shape in ((200, 2), (90, 2), (90,)))
    m = plain(u, v, h, 2.0)[1]
    for off in (np.nan, 0.0, 7.0, -9.0, 300.0, -300.0):
        found = minima(u, points(v, h), guess=(m + off).astype(np.float32))
        assert found.dtype == np.float32
        # |l| is below 64, and a guess that is kept below 16 from it
        np.testing.assert_allclose(found, m, atol=64 * 2.0**-22)
