"""Register tiles and their NumPy twins against sums of higher precision, to bounds that follow from the sums' lengths.

With u = eps / 2, a sum of n products in any order errs by at most (n + 1) u times the sum of their sizes; it makes no
difference whether a product and a sum round once or twice.
"""

import mpmath as mp
import numpy as np
import pytest

from refdiff.kernels.numba import plain_tiles, tiles
from refdiff.kernels.numba.compiling import compiled
from refdiff.kernels.numba.tiles import LANES

KINDS = [np.float64, np.float32]
WIDER = {np.float32: np.float64, np.float64: np.longdouble}
LEAST = {np.float64: -500.0, np.float32: -60.0}  # no power below 2^LEAST is made
# counts around the rows of a tile (1, 2 or 4), axes around what absorb holds in registers (4)
COUNTS = [1, 2, 3, 4, 5, 7, 8, 63, 64]
AXES = [1, 2, 3, 4, 5, 6, 7, 8, 11]


@compiled
def all_logits(first, last, x, c, p, w, offsets, count, l, top, wl, wtop):
    for _ in range(first, last):
        tiles.logits(x, c, p, offsets, count, l, top)
        tiles.weighted_logits(x, c, w, offsets, count, wl, wtop)


@compiled
def absorbed(first, last, l, top, slopes, m, total, shrink, out, rows, total_2, out_2):
    for _ in range(first, last):
        tiles.absorb(rows, top, m, total_2, out_2)
        tiles.absorb_sloped(l, top, slopes, m, total, shrink, out)


@compiled
def multiplied(first, last, x, c, count, out, begin, sums, m):
    for _ in range(first, last):
        tiles.products(x, c, count, out)
        tiles.accumulate(x, m, begin, sums.shape[0], sums)


def draw(kind, seed=0, *, lanes=LANES, dim=3, count=8):
    """Numbers of sizes 1e-3..1e3, of both signs."""
    rng = np.random.default_rng(seed)

    def numbers(*shape):
        return (rng.standard_normal(shape) * 10 ** rng.uniform(-3, 3, shape)).astype(kind)

    return numbers, numbers(dim, lanes), numbers(count, dim)


def unit_roundoff(kind):
    return np.finfo(kind).eps / 2


def errs_at_most(found, exact, bound, kind):
    """found within `bound` u of exact; doubled where NumPy has nothing longer than float64 for `exact`."""
    slack = 1 if np.finfo(WIDER[kind]).eps < np.finfo(kind).eps / 1000 else 2
    assert np.isfinite(found).all()
    excess = np.abs(found - exact) / (slack * unit_roundoff(kind) * bound + np.finfo(kind).tiny)
    assert excess.max() <= 1, excess.max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tile", ["compiled", "plain"])
def test_logits_err_by_the_length_of_their_sums(kind, tile):
    for dim in AXES:
        for count in COUNTS:
            numbers, x, c = draw(kind, dim, dim=dim, count=count)
            # far rows too: differences of squares would lose the digits that differences keep
            x += kind(100)
            c += kind(100)
            p, w, offsets = numbers(count, 2), numbers(count, dim), numbers(count)
            size = count + 2
            l, wl = np.full((size, LANES), np.nan, kind), np.full((size, LANES), np.nan, kind)
            start = numbers(LANES)
            top, wtop = start.copy(), start.copy()
            if tile == "compiled":
                all_logits(0, 1, x, c, p, w, offsets, count, l, top, wl, wtop)
            else:
                plain_tiles.logits(x, c, p, offsets, count, l, top)
                plain_tiles.weighted_logits(x, c, w, offsets, count, wl, wtop)
            wide = WIDER[kind]
            squares = (x.astype(wide) - c.astype(wide)[:, :, None]) ** 2
            for found, most, weights in ((l, top, np.repeat(p[:, :1], dim, axis=1)), (wl, wtop, w)):
                terms = weights.astype(wide)[:, :, None] * squares
                exact = offsets.astype(wide)[:, None] + terms.sum(axis=1)
                # the difference 2 in the square, 2 products, dim sums, the offset's sum
                errs_at_most(found[:count], exact, (dim + 5) * np.abs(terms).sum(axis=1) + np.abs(exact), kind)
                assert np.isnan(found[count:]).all()
                assert np.array_equal(most, np.maximum(start, found[:count].max(axis=0)))


@compiled
def all_inner(first, last, x, c, p, offsets, squares, count, l, top):
    for _ in range(first, last):
        tiles.inner_logits(x, c, p, offsets, squares, count, l, top)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tile", ["compiled", "plain"])
def test_logits_by_products_err_by_the_sizes_of_their_terms(kind, tile):
    for dim in AXES:
        for count in COUNTS:
            numbers, x, c = draw(kind, dim, dim=dim, count=count)
            p, offsets, squares = numbers(count, 2), numbers(count), np.abs(numbers(LANES))
            l, top = np.full((count + 2, LANES), np.nan, kind), numbers(LANES)
            start = top.copy()
            if tile == "compiled":
                all_inner(0, 1, x, c, p, offsets, squares, count, l, top)
            else:
                plain_tiles.inner_logits(x, c, p, offsets, squares, count, l, top)
            wide = WIDER[kind]
            terms = c.astype(wide)[:, :, None] * x.astype(wide)
            ends = [np.abs(offsets.astype(wide))[:, None], np.abs(p[:, :1].astype(wide) * squares.astype(wide))]
            exact = offsets.astype(wide)[:, None] + p[:, :1].astype(wide) * squares.astype(wide) + terms.sum(axis=1)
            errs_at_most(l[:count], exact, (dim + 3) * (np.abs(terms).sum(axis=1) + ends[0] + ends[1]), kind)
            assert np.isnan(l[count:]).all()
            assert np.array_equal(top, np.maximum(start, l[:count].max(axis=0)))


def test_a_logit_of_minus_infinity_leaves_the_largest_one():
    x, c = np.full((2, LANES), 1e200), np.zeros((3, 2))
    p, w, offsets = -np.ones((3, 2)), -np.ones((3, 2)), np.zeros(3)
    l, top = np.zeros((3, LANES)), np.full(LANES, -5.0)
    wl, wtop = l.copy(), top.copy()
    with np.errstate(over="ignore"):
        all_logits(0, 1, x, c, p, w, offsets, 3, l, top, wl, wtop)
    assert np.isneginf(l).all()
    assert np.isneginf(wl).all()
    assert (top == -5.0).all()
    assert (wtop == -5.0).all()


def absorb(kind, l, top, slopes, m, axes, tile, seed=1):
    """What `absorb` and `absorb_sloped` leave, and what they began with."""
    numbers, *_ = draw(kind, seed)
    starts = [np.abs(numbers(l.shape[1])), numbers(l.shape[1]), numbers(axes, l.shape[1])]
    sloped, plain = [a.copy() for a in starts], [starts[0].copy(), starts[2].copy()]
    rows, other = l.copy(), l.copy()
    if tile == "compiled":
        absorbed(0, 1, rows, top, slopes, m, *sloped, other, *plain)
    else:
        plain_tiles.absorb_sloped(rows, top, slopes, m, *sloped)
        plain_tiles.absorb(other, top, m, *plain)
    return rows, other, sloped, plain, starts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tile", ["compiled", "plain"])
def test_absorbed_sums_err_by_their_length(kind, tile):
    wide = WIDER[kind]
    for axes in AXES:
        for count in COUNTS:
            numbers, *_ = draw(kind, axes)
            l = -np.abs(numbers(count, LANES)) % kind(40)
            top, slopes, m = l.max(axis=0), numbers(count, 2), numbers(count, axes)
            rows, other, sloped, plain, starts = absorb(kind, l, top, slopes, m, axes, tile)
            r = rows.astype(wide)
            assert np.array_equal(rows, other)  # the same powers with slopes and without
            for found, start, factors in zip(
                (*sloped, *plain),
                (*starts, starts[0], starts[2]),
                (np.ones((count, 1)), slopes[:, :1], m, np.ones((count, 1)), m),
                strict=True,
            ):
                terms = np.einsum("kj,ki->kji", factors.astype(wide), r)
                exact = start.astype(wide) + terms.sum(axis=0).reshape(start.shape)
                size = np.abs(start) + np.abs(terms).sum(axis=0).reshape(start.shape)
                errs_at_most(found, exact, (count + 2) * size, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_powers_of_two_are_right_to_one_and_a_half_ulps_down_to_where_they_stop(kind):
    rng = np.random.default_rng(3)
    least = LEAST[kind]
    depths = rng.uniform(0, -least, (64, LANES)) ** rng.choice([1.0, 0.3, 0.01], (64, LANES))
    l = -depths.astype(kind)
    l[0, :5] = 0.0, -0.5, np.nextafter(kind(-0.5), kind(-1)), -1.0, least
    rows, *_ = absorb(kind, l, np.zeros(LANES, kind), np.zeros((64, 1), kind), np.zeros((64, 1), kind), 1, "compiled")
    assert rows[0, 0] == 1
    assert rows[0, 3] == 0.5
    assert rows[0, 4] == kind(2.0) ** kind(least)
    ulp = np.spacing(rows)
    assert (np.abs(rows - np.exp2(l.astype(WIDER[kind]))) / ulp).max() < 1.5
    with mp.workdps(40):
        for value, power, one in zip(l.flat[:300], rows.flat[:300], ulp.flat[:300], strict=True):
            assert abs(mp.mpf(float(power)) - mp.mpf(2) ** mp.mpf(float(value))) < 1.5 * mp.mpf(float(one))


@pytest.mark.skipif(tiles.absorb is plain_tiles.absorb, reason="NumPy makes subnormal numbers of its own accord")
@pytest.mark.parametrize("kind", KINDS)
def test_no_power_is_so_small_that_products_with_it_are_subnormal(kind):
    l = np.full((2, LANES), -1e30, kind)
    l[1] = LEAST[kind] - 1
    rows, *_ = absorb(kind, l, np.zeros(LANES, kind), np.zeros((2, 1), kind), np.zeros((2, 1), kind), 1, "compiled")
    assert (rows == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tile", ["compiled", "plain"])
def test_products_along_and_across_err_by_their_length(kind, tile):
    wide = WIDER[kind]
    for dim in AXES:
        for count in COUNTS:
            numbers, x, c = draw(kind, dim, dim=dim, count=count)
            m, begin = numbers(dim, count), min(count - 1, dim % 5)
            start, first = numbers(count + 2, LANES), numbers(count, LANES)
            out, sums = start.copy(), first.copy()
            if tile == "compiled":
                multiplied(0, 1, x, c, count, out, begin, sums, m)
            else:
                plain_tiles.products(x, c, count, out)
                plain_tiles.accumulate(x, m, begin, count, sums)
            assert np.array_equal(out[count:], start[count:])
            assert np.array_equal(sums[:begin], first[:begin])
            for found, old, factors in ((out[:count], start[:count], c), (sums[begin:], first[begin:], m.T[begin:])):
                terms = np.einsum("kj,ji->kji", factors.astype(wide), x.astype(wide))
                size = np.abs(old) + np.abs(terms).sum(axis=1)
                errs_at_most(found, old.astype(wide) + terms.sum(axis=1), (dim + 2) * size, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_depends_bit_by_bit_on_nothing_but_itself(kind):
    lanes, count, dim = 2 * LANES, 7, 5
    numbers, x, c = draw(kind, 9, lanes=lanes, dim=dim, count=count)
    x, c, offsets, tops = x % 2, c % 2, numbers(count) % 2, numbers(lanes) % 2  # logits of ordinary size
    p, w, m = -np.abs(numbers(count, 2)) % 3 - 3, -np.abs(numbers(count, dim)) % 3 - 3, numbers(count, dim)
    totals, outs = np.abs(numbers(lanes)), numbers(dim, lanes)
    products, sums = numbers(count, lanes), numbers(count, lanes)

    def everything(order):
        """All results for the lanes in this order."""
        l, wl = np.empty((count, len(order)), kind), np.empty((count, len(order)), kind)
        top, wtop, out, more = tops[order], tops[order], outs[:, order], outs[:, order]
        out, more = np.ascontiguousarray(out), np.ascontiguousarray(more)
        total, other, shrink = totals[order], totals[order], totals[order]
        here, made, kept = (np.ascontiguousarray(a[:, order]) for a in (x, products, sums))
        all_logits(0, 1, here, c, p, w, offsets, count, l, top, wl, wtop)
        logits, rows = l.copy(), l.copy()
        absorbed(0, 1, l, top, p, m, total, shrink, out, rows, other, more)
        multiplied(0, 1, here, c, count, made, 1, kept, np.ascontiguousarray(c.T))
        return np.concatenate(
            [logits, l, rows, wl, top[None], wtop[None], total[None], shrink[None], out, more, made, kept]
        )

    order = np.random.default_rng(1).permutation(lanes)
    whole = everything(np.arange(lanes))
    assert np.array_equal(everything(order), whole[:, order], equal_nan=True)
    assert np.array_equal(everything(order[:LANES]), whole[:, order[:LANES]], equal_nan=True)
    assert np.isfinite(whole).all()
    assert len(np.unique(whole)) > lanes * (3 * count + 2 * dim)
