"""Posteriors of classes from kernel estimates: their biases to leading order, and exactly, at any number of points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Empirical, Gaussian, GaussianMixture
from refdiff.distributions import random_mixture
from refdiff.expectations import Quadrature
from refdiff.physics import (
    class_posterior,
    counting_bias,
    density_estimate,
    expected_posterior,
    smoothed_posterior,
    smoothing_bias,
)
from refdiff.validation.numeric import extrapolate

SEEDS = st.integers(0, 2**32 - 1)
PAIR = (Gaussian([0.0], 1.0), GaussianMixture.isotropic([[1.5], [-2.0]], [0.5, 0.3]))
WHERE = np.array([[0.7], [0.0], [-3.0]])


@given(SEEDS, st.integers(1, 5), st.integers(1, 4))
def test_bayes_rule_for_any_number_of_classes(seed, count, dim):
    rng = np.random.default_rng(seed)
    laws, priors = [random_mixture(dim, 2, seed + c) for c in range(count)], rng.dirichlet(np.ones(count))
    x = laws[0].sample(6, rng).reshape(2, 3, dim)
    joint = np.stack([prior * np.exp(law.logpdf(x)) for law, prior in zip(laws, priors, strict=True)], axis=-1)
    found = class_posterior(laws, x, 7 * priors)
    np.testing.assert_allclose(found, joint / joint.sum(axis=-1, keepdims=True), rtol=1e-10, atol=1e-14)
    assert found.shape == (2, 3, count)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-14)


@given(SEEDS, st.integers(2, 4), st.integers(1, 3))
def test_the_leading_bias_is_what_narrow_kernels_do(seed, count, dim):
    rng = np.random.default_rng(seed)
    laws, priors = [random_mixture(dim, 2, seed + c) for c in range(count)], rng.dirichlet(np.ones(count))
    x, kernel = laws[0].sample(4, rng), np.diag(rng.uniform(0.02, 0.1, dim))
    scales = 1 / 4.0 ** np.arange(2, 8)
    plain = class_posterior(laws, x, priors)
    gaps = [(smoothed_posterior(laws, x, s * kernel, priors) - plain) / s for s in scales]
    bias = smoothing_bias(laws, x, kernel, priors)
    size = 1 + (np.abs(x).max() + 4) ** 2
    np.testing.assert_allclose(extrapolate(gaps, ratio=4.0), bias, atol=2e-7 * size)
    np.testing.assert_allclose(bias.sum(axis=1), 0, atol=1e-13 * size)


def test_one_point_of_each_class_is_a_double_integral():
    y, step = np.linspace(-9, 9, 1801, retstep=True)
    logs = -((y - 0.7) ** 2) / (2 * 0.09)
    ratio = 1 / (1 + 0.25 * np.exp(logs - logs[:, None]))  # priors 4 to 1
    first, second = (np.exp(law.logpdf(y[:, None])) * step for law in PAIR)
    found = expected_posterior(PAIR, [0.7], 0.09, [1, 1], [0.8, 0.2])
    np.testing.assert_allclose(found[0], first @ ratio @ second, rtol=1e-10)


@pytest.mark.parametrize("counts", [(1, 1), (20, 20), (3, 50)])
def test_the_expected_posteriors_of_all_classes_are_one_together(counts):
    found = expected_posterior(PAIR, WHERE[:1], 0.09, counts)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-9)


def test_three_classes_in_the_plane():
    laws = [random_mixture(2, 1, i) for i in range(3)]
    found = expected_posterior(laws, [0.5, 0.5], 2.0, [2, 3, 4], [0.2, 0.3, 0.5], Quadrature(1e-6))
    assert found.shape == (3,)
    np.testing.assert_allclose(found.sum(), 1, atol=1e-5)


def test_samples_agree_and_the_ratio_of_expectations_does_not():
    """E f^ of (100): 60 000 pairs of 20 points, |z| < 4.5 (7e-6); the printed equality is six errors away."""
    rng, runs, n = np.random.default_rng(0), 60_000, 20
    sums = [np.exp(-((law.sample(runs * n, rng).reshape(runs, n) - 0.7) ** 2) / 0.18).sum(axis=1) for law in PAIR]
    f = sums[0] / (sums[0] + sums[1])
    mean, error = f.mean(), f.std() / np.sqrt(runs)
    exact, printed = expected_posterior(PAIR, [0.7], 0.09, [n, n])[0], smoothed_posterior(PAIR, [0.7], 0.09)[0]
    assert abs(mean - exact) < 4.5 * error
    assert exact - printed > 5 * error
    one = [density_estimate(law.sample(n, 1), 0.09) for law in PAIR]
    np.testing.assert_allclose(class_posterior(one, [0.7]).sum(), 1)


@pytest.mark.parametrize("where", [0, 1])
def test_the_gap_falls_as_one_over_the_number_of_points(where):
    x, counts = WHERE[where : where + 1], (100, 200, 400, 800)
    plain = smoothed_posterior(PAIR, x, 0.09)
    gaps = [n * (expected_posterior(PAIR, x, 0.09, (n, 2 * n)) - plain) for n in counts]
    leading = 100 * counting_bias(PAIR, x, 0.09, (100, 200))
    np.testing.assert_allclose(extrapolate(gaps), leading, rtol=1e-5)


def test_refusals_name_the_argument():
    with pytest.raises(ValueError, match="laws must be one for each class"):
        class_posterior([], [0.0])
    with pytest.raises(TypeError, match="laws must be"):
        class_posterior([PAIR[0], 3], [0.0])
    with pytest.raises(ValueError, match="same dimension"):
        class_posterior([PAIR[0], Gaussian([0.0, 0.0], 1.0)], [0.0])
    with pytest.raises(ValueError, match="priors must be 2 numbers"):
        class_posterior(PAIR, [0.0], [1.0, -1.0])
    with pytest.raises(ValueError, match="counts must be 2"):
        counting_bias(PAIR, [0.0], 1.0, [1])
    with pytest.raises(ValueError, match="kernel must not be singular"):
        expected_posterior(PAIR, [0.0], 0.0, [1, 1])
    with pytest.raises(ValueError, match="priors must be positive"):
        expected_posterior(PAIR, [0.0], 1.0, [1, 1], [1.0, 0.0])
    with pytest.raises(ValueError, match="no density"):
        class_posterior([Empirical([[0.0]]), PAIR[1]], [0.0])


def test_a_class_without_a_prior_has_no_posterior_and_float32_stays():
    x = WHERE.astype(np.float32)
    found = class_posterior(PAIR, x, [0.0, 1.0])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 1]] * 3)
    for found in (smoothing_bias(PAIR, x, 0.1), counting_bias(PAIR, x, 0.1, (5, 5))):
        assert found.dtype == np.float32
