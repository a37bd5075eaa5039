"""Exact errors of kernel estimates, against sums over grids, samples and the orders that theory has for them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refdiff import Empirical, Gaussian, GaussianMixture
from refdiff.distributions import random_mixture
from refdiff.physics import (
    amise,
    bend_overlap,
    density_estimate,
    estimate_bias,
    estimate_mean,
    estimate_variance,
    integrated_bias,
    mean_squared_error,
    mise,
    optimal_bandwidth,
    overlap,
    roughness,
    spreading_rate,
)
from refdiff.validation.numeric import extrapolate

SEEDS = st.integers(0, 2**32 - 1)
LINE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
STORAGES = ("isotropic", "diagonal", "shared", "full")


def plane(reach=8.0, step=0.15):
    """A grid (n, 2) and its cell; the least deviation of a random mixture is 0.316, two steps."""
    axis = np.arange(-reach, reach, step)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2), step**2


@pytest.mark.parametrize("storage", STORAGES)
def test_overlaps_and_roughness_are_the_integrals(storage):
    p, q = random_mixture(2, 3, 1, storage, spread=1.5), random_mixture(2, 2, 2, "full", spread=1.5)
    x, cell = plane()
    ones, twos = np.exp(p.logpdf(x)), np.exp(q.logpdf(x))
    np.testing.assert_allclose(overlap(p, q), ones @ twos * cell, rtol=1e-10)
    np.testing.assert_allclose(overlap(p, q), overlap(q, p), rtol=1e-12)
    for shape in (1.0, [0.5, 2.0], [[1.0, 0.3], [0.3, 0.5]]):
        bends = [2 * a * spreading_rate(law, x, np.asarray(shape) / 2) for a, law in ((ones, p), (twos, q))]
        np.testing.assert_allclose(bend_overlap(p, q, shape), bends[0] @ bends[1] * cell, rtol=1e-9)
        np.testing.assert_allclose(roughness(p, shape), bends[0] @ bends[0] * cell, rtol=1e-9)


def test_a_point_set_overlaps_with_a_density():
    q = random_mixture(2, 2, 2)
    points = Empirical([[0.0, 1.0], [1.0, 1.0]], [0.3, 0.7])
    exact = [0.3, 0.7] @ np.exp(q.logpdf(points.means))
    np.testing.assert_allclose([overlap(points, q), overlap(q, points)], exact, rtol=1e-13)


def test_mean_and_variance_are_those_of_samples():
    """20000 estimates of 12 points each: |z| < 4.5, a false alarm in 7e-6 of seeds for each of 8 numbers."""
    rng, x, h, count = np.random.default_rng(3), np.array([[-2.0], [-1.0], [0.5], [4.0]]), 0.16, 12
    data = LINE.sample(20_000 * count, rng).reshape(20_000, count)
    kernels = np.exp(-((x[:, None] - data) ** 2) / (2 * h)) / np.sqrt(2 * np.pi * h)
    drawn = kernels.mean(axis=-1)
    mean, variance = estimate_mean(LINE, x, h), estimate_variance(LINE, x, h, count)
    assert (np.abs(drawn.mean(axis=1) - mean) < 4.5 * np.sqrt(variance / 20_000)).all()
    squares = (drawn - mean[:, None]) ** 2
    assert (np.abs(squares.mean(axis=1) - variance) < 4.5 * squares.std(axis=1) / np.sqrt(20_000)).all()
    one = density_estimate(data[0][:, None], h)
    np.testing.assert_allclose(np.exp(one.logpdf(x)), drawn[:, 0], rtol=1e-12)


def test_a_kernel_so_wide_that_it_hardly_varies_has_no_negative_variance():
    x = np.linspace(-3, 3, 7)[:, None]
    d, v = x - LINE.means[:, 0], LINE.covariances.variances[:, 0]
    second, fourth = (d**2 + v) @ LINE.weights, (d**4 + 6 * d**2 * v + 3 * v**2) @ LINE.weights
    for h in (1e3, 1e6, 1e10, 1e20):
        found, square = estimate_variance(LINE, x, h, 5), estimate_mean(LINE, x, h) ** 2
        assert (found >= 0).all()
        # k(x - X) / k(0) = 1 - (x - X)^2 / 2 h + ..., with (x - X)^2 of up to 60; logarithms of up to 50 round by 1e-14
        leading = square * (fourth - second**2) / (4 * h**2) / 5
        np.testing.assert_allclose(found, leading, rtol=60 / h, atol=2e-14 * square.max())


@given(SEEDS, st.integers(1, 4), st.sampled_from(STORAGES))
def test_the_bias_is_of_second_order_in_the_width(seed, dim, storage):
    rng, law = np.random.default_rng(seed), random_mixture(dim, 3, seed, storage)
    x, root = law.sample(4, rng), rng.normal(size=(dim, dim))
    kernel = 0.1 * (root @ root.T / np.abs(root @ root.T).max())
    density = np.exp(law.logpdf(x))
    scales = 0.01 / 4.0 ** np.arange(5)
    gaps = [(estimate_mean(law, x, s * kernel) - density) / s for s in scales]
    found, exact = extrapolate(gaps, ratio=4.0), estimate_bias(law, x, kernel)
    np.testing.assert_allclose(found, exact, atol=1e-6 * density.max() * (1 + dim))


@pytest.mark.parametrize("kernel", [1e-3, 0.05, 2.0, [0.1, 0.4], [[0.2, 0.1], [0.1, 0.3]]])
def test_errors_integrate_to_mise(kernel):
    law = random_mixture(2, 3, 4, "full", spread=1.5)
    x, cell = plane(reach=12.0)
    exact = mean_squared_error(law, x, kernel, 30).sum() * cell
    # the kernel's own variance is a constant over N beyond the grid for a wide one: R(k) / N is of p * N(0, H / 2)
    np.testing.assert_allclose(mise(law, kernel, 30), exact, rtol=1e-8)


def test_narrow_kernels_have_a_bias_with_all_its_digits():
    # int (p * k - p)^2 -> h^4 / 4 int p''^2 (1 + O(h^2)), of which three overlaps would leave nothing at h = 1e-4
    ratios = [integrated_bias(LINE, h * h) / (h**4 / 4 * roughness(LINE)) for h in (1e-4, 1e-5)]
    np.testing.assert_allclose(ratios, 1.0, atol=[2e-6, 2e-8][0])
    assert abs(ratios[1] - 1) < 2e-8
    # both ways meet where the kernel stops being narrow: tr H S^-1 = 1 / 4 at h = 0.15
    below, above = (integrated_bias(LINE, h * h) for h in (0.15 * (1 - 1e-9), 0.15 * (1 + 1e-9)))
    np.testing.assert_allclose(below, above, rtol=1e-7)
    assert above > below > above * (1 - 1e-7)


def test_amise_is_what_is_left_of_mise():
    counts = np.array([10**6, 10**8, 10**10])
    ratios = []
    for n in counts.tolist():
        h = optimal_bandwidth(LINE, n, criterion="amise")
        ratios.append(mise(LINE, h * h, n) / amise(LINE, h * h, n) - 1)
    # both remainders are of the order h^2 ~ N^(-2/5) and h (from 1/N against 1/(N h)) ~ N^(-1/5)
    assert abs(ratios[-1]) < 0.02
    assert abs(ratios[2]) < abs(ratios[1]) < abs(ratios[0])


@given(st.integers(1, 8), st.integers(1, 10**6), st.floats(0.1, 10.0))
def test_the_bandwidth_of_a_gaussian_is_silvermans(dim, count, std):
    law = Gaussian(np.zeros(dim), std**2)
    silverman = std * (4 / ((dim + 2) * count)) ** (1 / (dim + 4))
    np.testing.assert_allclose(optimal_bandwidth(law, count, criterion="amise"), silverman, rtol=1e-12)


@settings(max_examples=3)
@given(SEEDS, st.sampled_from([1, 7, 300, 10**5]))
def test_no_other_bandwidth_has_less_error(seed, count):
    law = random_mixture(1, 3, seed)
    best = optimal_bandwidth(law, count)
    least = mise(law, best**2, count)
    others = best * np.geomspace(0.02, 50, 12)
    assert all(mise(law, h * h, count) >= least * (1 - 1e-12) for h in others)


def test_a_shape_is_whitened():
    # a matrix that makes all axes alike changes p by its determinant, and the bandwidth not at all
    law, a = random_mixture(2, 2, 7), np.array([[1.0, 0.4], [0.0, 2.0]])
    turned = law.affine(a)
    found = [
        optimal_bandwidth(law, 50, criterion=c) / optimal_bandwidth(turned, 50, a @ a.T, criterion=c)
        for c in ("mise", "amise")
    ]
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)


def test_refusals_name_the_argument():
    for function in (estimate_mean, estimate_bias):
        with pytest.raises(TypeError, match="law must be"):
            function(None, [0.0], 1.0)
        with pytest.raises(ValueError, match="kernel must not be negative"):
            function(LINE, [0.0], -1.0)
    with pytest.raises(ValueError, match="kernel must not be singular"):
        estimate_variance(LINE, [0.0], 0.0, 3)
    with pytest.raises(ValueError, match="count must be at least 1"):
        mise(LINE, 1.0, 0)
    with pytest.raises(ValueError, match="criterion must be one of"):
        optimal_bandwidth(LINE, 3, criterion="rule of thumb")
    with pytest.raises(ValueError, match="no density"):
        integrated_bias(Empirical([[0.0]]), 1.0)
    with pytest.raises(ValueError, match="no density"):
        roughness(Empirical([[0.0]]))
    with pytest.raises(ValueError, match="same dimension"):
        overlap(LINE, Gaussian([0.0, 0.0], 1.0))
    with pytest.raises(ValueError, match="shape of shape"):
        bend_overlap(LINE, LINE, [1.0, 2.0])


def test_float32_and_batches():
    x = np.zeros((2, 3, 1), dtype=np.float32)
    for found in (
        estimate_mean(LINE, x, 0.1),
        estimate_variance(LINE, x, 0.1, 5),
        estimate_bias(LINE, x, 0.1),
        mean_squared_error(LINE, x, 0.1, 5),
    ):
        assert found.dtype == np.float32
        assert found.shape == (2, 3)
