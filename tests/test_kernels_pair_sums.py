"""The kernel of pair sums: every function against NumPy, the same for any number of threads, and its limits."""

from math import fsum

import numpy as np
import pytest

from refdiff.kernels.numba import pair_sums
from refdiff.kernels.numba.compiling import blocks


def sums_of(x, y, w, name, scale, power, threads=None, products=False):
    sums, squares = np.empty(len(x)), np.empty(len(x))
    kind = getattr(pair_sums, name)
    count = -(-len(x) // pair_sums.LANES)
    blocks(pair_sums.row_sums, count, x, y, w, kind, scale, power, products, sums, squares, threads=threads)
    return sums, squares


FUNCTIONS = {
    ("GAUSSIAN", -1.3, 1.0): lambda l: np.exp2(l),
    ("LAPLACE", 0.8, 1.0): lambda l: np.exp2(-np.sqrt(l)),
    ("POWER", 0.8, 0.5): lambda l: 1 / np.sqrt(1 + l),
    ("POWER", 0.8, 1.0): lambda l: 1 / (1 + l),
    ("POWER", 0.8, 2.3): lambda l: (1 + l) ** -2.3,
    ("DISTANCE", 1.0, 1.0): lambda l: np.sqrt(l),
}


@pytest.mark.parametrize("count", [1, 31, 33, 100])
@pytest.mark.parametrize("kind", FUNCTIONS, ids=["gaussian", "laplace", "root", "reciprocal", "power", "distance"])
def test_sums_are_those_of_numpy(kind, count):
    rng = np.random.default_rng(count)
    x, y, w = rng.normal(size=(150, 3)), rng.normal(size=(count, 3)), rng.random(count)
    values = FUNCTIONS[kind](kind[1] * ((x[:, None] - y) ** 2).sum(axis=2))
    sums, squares = sums_of(x, y, w, *kind)
    np.testing.assert_allclose(sums, values @ w, rtol=1e-14)
    np.testing.assert_allclose(squares, values**2 @ w, rtol=1e-14)


def test_no_result_depends_on_threads_or_neighbours():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(700, 5)), rng.normal(size=(90, 5)), rng.random(90)
    one = sums_of(x, y, w, "LAPLACE", 1.0, 1.0, threads=1)
    for threads in (2, 3):
        np.testing.assert_array_equal(sums_of(x, y, w, "LAPLACE", 1.0, 1.0, threads=threads), one)
    np.testing.assert_array_equal(sums_of(x[5:9], y, w, "LAPLACE", 1.0, 1.0), np.array(one)[:, 5:9])


def test_near_points_keep_their_distance_and_far_ones_add_nothing():
    x = np.array([[1e8, 0.0], [1e8 + 2.0**-20, 0.0]])
    w = np.array([0.0, 1.0])
    assert sums_of(x, x, w, "DISTANCE", 1.0, 1.0)[0].tolist() == [2.0**-20, 0.0]
    far = np.array([[0.0], [1e3], [1e200]])
    np.testing.assert_array_equal(sums_of(far, far[:1], np.ones(1), "GAUSSIAN", -1.0, 1.0)[0], [1, 0, 0])
    np.testing.assert_array_equal(sums_of(far, far[:1], np.ones(1), "LAPLACE", 1.0, 1.0)[0], [1, 0, 0])


def test_many_terms_err_by_their_number_of_tiles_at_most():
    x = np.zeros((1, 1))
    y = np.sqrt(np.arange(100_000.0))[:, None]
    sums = sums_of(x, y, np.full(100_000, 0.1), "DISTANCE", 1.0, 1.0)[0]
    exact = fsum(0.1 * np.sqrt(np.arange(100_000.0)))
    assert (
        abs(sums[0] / exact - 1) < 1e-13
    )  # 32 + 3125 additions in a row would at worst err by 3.5e-13, one by one 1e-11


@pytest.mark.parametrize("kind", [("GAUSSIAN", -0.02, 1.0), ("POWER", 0.02, 0.5), ("POWER", 0.02, 2.3)])
def test_products_serve_where_points_are_near_their_middle(kind):
    rng = np.random.default_rng(3)
    x, y, w = rng.normal(size=(140, 30)), rng.normal(size=(75, 30)), rng.random(75)
    x[:75] = y
    code = getattr(pair_sums, kind[0])
    assert pair_sums.by_products(y, code, kind[1])
    exact = (
        FUNCTIONS[kind] if kind in FUNCTIONS else {"GAUSSIAN": np.exp2, "POWER": lambda l: (1 + l) ** -kind[2]}[kind[0]]
    )
    values = exact(kind[1] * ((x[:, None] - y) ** 2).sum(axis=2))
    sums, squares = sums_of(x, y, w, *kind, products=True)
    # 2 |l| + 3 p |y|^2 is 7 at most: some tens of roundings with those of the products' sums
    np.testing.assert_allclose(sums, values @ w, rtol=1e-14)
    np.testing.assert_allclose(squares, values**2 @ w, rtol=2e-14)
    assert not pair_sums.by_products(40 * y, code, kind[1])
    assert not pair_sums.by_products(y[:, :3], code, kind[1])
    assert not pair_sums.by_products(y, pair_sums.LAPLACE, kind[1])
