"""Rows of sums over pairs: tiles, kernels and the sorted line agree."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from refdiff import backends
from refdiff.metrics import (
    gaussian_kernel,
    inverse_multiquadric_kernel,
    laplace_kernel,
    pairs,
    rational_quadratic_kernel,
)
from refdiff.metrics.pairs import row_sums
from refdiff.metrics.similarities import DISTANCE

KERNELS = {
    "gaussian": gaussian_kernel(0.7),
    "laplace": laplace_kernel(0.7),
    "rational": rational_quadratic_kernel(0.7, 1.7),
    "cauchy": rational_quadratic_kernel(0.7),
    "multiquadric": inverse_multiquadric_kernel(0.7),
    "distance": DISTANCE,
}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dim", [1, 3, 20])
@pytest.mark.parametrize("name", KERNELS)
def test_sums_are_those_of_all_pairs(name, dim, backend):
    rng = np.random.default_rng(dim)
    x, y, w = rng.normal(size=(131, dim)), rng.normal(size=(70, dim)), rng.random(70)
    values = KERNELS[name].values(cdist(x, y, "sqeuclidean"))
    with backends.use(backend):
        sums, squares = row_sums(KERNELS[name], x, y, w)
    # 70 terms of one sign, each right to some ulps
    np.testing.assert_allclose(sums, values @ w, rtol=1e-13)
    np.testing.assert_allclose(squares, values**2 @ w, rtol=1e-13)


def test_tiles_of_rows_join(monkeypatch):
    x = np.random.default_rng(1).normal(size=(50, 2))
    whole = row_sums(KERNELS["laplace"], x, x, np.ones(50))
    monkeypatch.setattr(pairs, "TILE", 350)
    np.testing.assert_allclose(row_sums(KERNELS["laplace"], x, x, np.ones(50)), whole, rtol=1e-15)


def test_distances_on_the_line_keep_their_digits_far_from_0():
    rng = np.random.default_rng(2)
    x, y = 1e6 + rng.normal(size=(40, 1)), 1e6 + rng.normal(size=(30, 1))
    sums, squares = row_sums(DISTANCE, x, y, np.full(30, 1 / 30))
    np.testing.assert_allclose(-sums, cdist(x, y).mean(axis=1), rtol=1e-13)
    np.testing.assert_allclose(squares, (cdist(x, y) ** 2).mean(axis=1), rtol=1e-13)


@pytest.mark.parametrize("name", KERNELS)
def test_sums_on_a_device_are_those_here(cupy, name):
    rng = np.random.default_rng(4)
    x, y, w = rng.normal(size=(31, 3)), rng.normal(size=(20, 3)), rng.random(20)
    found = row_sums(KERNELS[name], *(cupy.asarray(part) for part in (x, y, w)))
    expected = row_sums(KERNELS[name], x, y, w)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.get(), other, rtol=1e-13)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found[0].get(), expected[1], rtol=1e-3)
