"""Soft minima on the device: orders, types and numbers of axes against mpmath and SciPy, in roundings of what is felt.

A square |x - y|^2 is off by d + 2 roundings, a power of it by r / 2 times that and 4 more, l by one of each of its
terms and one more; the sum by one for each term of a chunk, each chunk of a tile, each tile of a part and each part,
and M by two of itself. What l is off by reaches M by the shares r_ij of the points.
"""

import mpmath
import numpy as np
import pytest
from emulator import cupy as stand_in
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from refdiff.kernels.cuda import device, sinkhorn

CASES = [(1, 2.0, "f8"), (3, 1.0, "f8"), (3, 1.5, "f8"), (16, 2.0, "f8"), (17, 2.0, "f8"), (40, 3.0, "f8"),
         (3, 2.0, "f4"), (17, 2.0, "f4")]  # fmt: skip
SCALE = 0.75  # exact in float32


@pytest.fixture(autouse=True)
def long_ways(monkeypatch):
    """Parts of several tiles, and blocks that take rows in turn, of few points."""
    monkeypatch.setattr(sinkhorn, "PARTS", 2)
    monkeypatch.setattr(device, "WAVES", 1)


def problem(dim, kind, n=260, m=700, seed=0):
    """Points and heights, of which the last y is felt by the first x."""
    rng = np.random.default_rng(seed)
    x, y, h = (rng.normal(size=size).astype(kind) for size in ((n, dim), (m, dim), m))
    y[-1] = 0.875 * x[0]
    return x, y, h


def minima(cupy, x, y, h, order, scale=SCALE, products=False):
    given = (cupy.asarray(one) for one in (x, y, h))
    return sinkhorn.soft_minima(*given, scale, order, products).get()


def plain(x, y, h, order, scale=SCALE):
    """l in bits and M in float64, by SciPy."""
    l = h.astype(float) - scale * cdist(x.astype(float), y.astype(float)) ** order
    return l, -logsumexp(l * np.log(2), axis=1) / np.log(2)


def precise(x, y, h, order, scale=SCALE):
    """M of one point x (d,), by mpmath."""
    with mpmath.workdps(40):
        u, v = (mpmath.matrix(one.astype(float).tolist()) for one in (x, y))
        squares = [mpmath.fsum((u[a] - v[j, a]) ** 2 for a in range(len(x))) for j in range(len(y))]
        powers = [2 ** (float(h[j]) - scale * s ** mpmath.mpf(order / 2)) for j, s in enumerate(squares)]
        return float(-mpmath.log(mpmath.fsum(powers), 2))


def roundings(x, y, h, order, kind, scale=SCALE, products=False):
    """A bound of what M is off by, shape (n,)."""
    l, m = plain(x, y, h, order, scale)
    shares, powers = np.exp2(l + m[:, None]), scale * cdist(x.astype(float), y.astype(float)) ** order
    if products:
        powers = 2 * scale * np.add.outer((x * x).sum(axis=1), (y * y).sum(axis=1))
    parts, length = sinkhorn.parts_of(len(y))
    terms = 8 + sinkhorn.TILE // 8 + length // sinkhorn.TILE + parts
    of_logits = (shares * ((order / 2 * (x.shape[1] + 2) + 5) * powers + abs(h) + abs(l))).sum(axis=1)
    return np.finfo(kind).eps / 2 * (of_logits + 2 * abs(m) + 2 * terms)


@pytest.mark.parametrize(("dim", "order", "kind"), CASES)
def test_minima_are_those_of_mpmath_and_scipy_to_roundings(cupy, dim, order, kind):
    x, y, h = problem(dim, kind)
    found, bound = minima(cupy, x, y, h, order), roundings(x, y, h, order, kind)
    assert found.dtype == kind
    few = [0, 259]
    exact = np.array([precise(x[i], y, h, order) for i in few])
    assert (abs(found[few] - exact) <= bound[few]).all()
    # SciPy in float64 has the same roundings, where kinds are the same
    expected = plain(x, y, h, order)[1]
    assert (abs(found - expected) <= 2 * bound).all()
    # a tail that is one short, and a tail that is there twice
    assert (abs(plain(x, y[:-1], h[:-1], order)[1] - expected) > 2 * bound).any()
    assert (abs(plain(x, y[np.r_[:700, 699]], h[np.r_[:700, 699]], order)[1] - expected) > 2 * bound).any()
    assert (abs(plain(x, y, h, 1.001 * order)[1] - expected) > 2 * bound).any()


def test_products_are_off_by_roundings_of_lengths(cupy):
    x, y, h = problem(40, "f8")
    found, bound = minima(cupy, x, y, h, 2.0, products=True), roundings(x, y, h, 2.0, "f8", products=True)
    assert abs(found[0] - precise(x[0], y, h, 2.0)) <= bound[0]
    assert (abs(found - plain(x, y, h, 2.0)[1]) <= 2 * bound).all()
    far = minima(cupy, x + 1e7, y + 1e7, h, 2.0, products=True)
    assert (abs(far - found) > 2 * bound).all()  # so differences are taken there


@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 3), (1, 129, 3), (129, 1, 3), (65, 33, 17), (1, 1, 17)])
def test_any_numbers_of_points_fill_tiles(cupy, n, m, dim):
    x, y, h = problem(dim, "f8", n, m)
    order = 1.0 if dim == 3 else 2.0
    assert (abs(minima(cupy, x, y, h, order) - plain(x, y, h, order)[1]) <= 2 * roundings(x, y, h, order, "f8")).all()


@pytest.mark.parametrize("dim", [3, 17])
def test_far_points_and_heights_of_any_size_are_felt_where_they_count(cupy, dim):
    """Clusters 10^4 apart at heights up to 10^9 bits: the largest l is met late, and most terms are not felt."""
    x, y, h = problem(dim, "f8")
    order = 1.0 if dim == 3 else 2.0
    x[50:], y[350:], h[::2] = x[50:] + 1e4, y[350:] + 1e4, 40 * h[::2]
    for heights in (h, h + 1e9, np.sort(1e3 * h), -np.sort(-1e3 * h)):
        bound = 2 * roundings(x, y, heights, order, "f8")
        assert (abs(minima(cupy, x, y, heights, order) - plain(x, y, heights, order)[1]) <= bound).all()


@pytest.mark.parametrize("dim", [3, 17])
def test_points_without_weight_are_not_felt_and_what_is_no_number_is(cupy, dim):
    x, y, h = problem(dim, "f8")
    order = 1.0 if dim == 3 else 2.0
    h[::3] = -np.inf
    there, bound = np.isfinite(h), roundings(x, y, np.where(np.isfinite(h), h, -1e3), order, "f8")
    found = minima(cupy, x, y, h, order)
    assert (abs(found - plain(x, y[there], h[there], order)[1]) <= 2 * bound).all()
    assert (minima(cupy, x, y, np.full(700, -np.inf), order) == np.inf).all()
    wrong = x.copy()
    wrong[70, 1] = np.nan
    seen = minima(cupy, wrong, y, h, order)
    assert np.isnan(seen[70])
    assert (np.delete(seen, 70) == np.delete(found, 70)).all()
    h[699], y[690:] = np.nan, 1e6  # too far to be felt, were it a number, as all are that are taken with it
    assert np.isnan(minima(cupy, x, y, h, order)).all()


@pytest.mark.parametrize(("dim", "order"), [(3, 1.0), (17, 2.0)])
def test_means_powers_and_shares_are_those_of_all_pairs(cupy, dim, order):
    x, y, h = problem(dim, "f8")
    l, m = plain(x, y, h, order)
    values = np.random.default_rng(1).normal(size=(700, 9))
    given = [*(cupy.asarray(one) for one in (x, y, h)), SCALE, order, cupy.asarray(m)]
    means, powers, shares = (
        sinkhorn.soft_means(*given, cupy.asarray(values)).get(),
        sinkhorn.mean_powers(*given).get(),
        sinkhorn.shares(*given).get(),
    )
    exact, costs = np.exp2(l + m[:, None]), cdist(x, y) ** order
    # shares are off by what M and its own logits are, and 2 of their roundings
    part = np.log(2) * 4 * roundings(x, y, h, order, "f8")[:, None] + np.finfo(float).eps * (dim + 4) * SCALE * costs
    assert (abs(shares - exact.T) <= (exact * part + 1e-300).T).all()
    assert (abs(means - exact @ values) <= 3 * (exact * part) @ abs(values)).all()
    # M is wanted about as it is: weights are divided by their sum
    rough = sinkhorn.soft_means(*given[:-1], cupy.asarray(m + 3), cupy.asarray(values)).get()
    assert (abs(rough - exact @ values) <= 3 * (exact * part) @ abs(values)).all()
    assert (abs(powers - (exact * costs).sum(axis=1)) <= 3 * (exact * part * costs).sum(axis=1)).all()
    assert (abs(exact @ np.roll(values, 1, axis=0) - exact @ values) > 3 * (exact * part) @ abs(values)).all()
    assert (abs((exact * costs).sum(axis=1) - powers) < abs((exact[:, 1:] * costs[:, :-1]).sum(axis=1) - powers)).all()


@pytest.mark.parametrize(("dim", "order"), [(3, 1.0), (17, 2.0)])
def test_neither_neighbours_nor_orders_of_threads_nor_tiles_of_rows_change_a_bit(monkeypatch, dim, order):
    x, y, h = problem(dim, "f8")
    with stand_in.standing_in() as cupy:
        whole = minima(cupy, x, y, h, order)
        for cupy.state.order in ("forward", "backward"):
            assert (minima(cupy, x, y, h, order) == whole).all()
        assert (minima(cupy, x[77:99], y, h, order) == whole[77:99]).all()
        monkeypatch.setattr(sinkhorn, "SMALL", 0)
        row = 2 * sinkhorn.parts_of(700)[0] * 8
        cupy.state.total, cupy.state.launches = 2 * 50 * row, []
        assert (minima(cupy, x, y, h, order) == whole).all()
        assert [launch[0] for launch in cupy.state.launches] == ["minima", "join_minima"] * 6
        cupy.state.total = row
        with pytest.raises(MemoryError, match=f"soft minima needs {row} bytes"):
            minima(cupy, x, y, h, order)


def test_means_of_many_axes_hold_as_many_rows_as_fit(monkeypatch):
    x, y, h = problem(17, "f8")
    with stand_in.standing_in() as cupy:
        given = [*(cupy.asarray(one) for one in (x, y, h)), SCALE, 2.0, cupy.asarray(plain(x, y, h, 2.0)[1])]
        values = cupy.asarray(y[:, :1])
        whole = sinkhorn.soft_means(*given, values).get()
        monkeypatch.setattr(sinkhorn, "SMALL", 0)
        cupy.state.total, cupy.state.launches = 2 * 100 * 700 * 8, []
        assert (sinkhorn.soft_means(*given, values).get() == whole).all()
        assert [launch[0] for launch in cupy.state.launches].count("shares") == 3
        with pytest.raises(MemoryError, match="700 x 260 numbers do not fit"):
            sinkhorn.shares(*given)


@pytest.mark.parametrize("count", [1, 128, 129, 4096, 4097, 10**6, 10**7])
def test_parts_cover_all_points_and_are_few(count):
    parts, length = sinkhorn.parts_of(count)
    assert (parts - 1) * length < count <= parts * length
    assert parts <= sinkhorn.PARTS
    assert length % sinkhorn.TILE == 0
