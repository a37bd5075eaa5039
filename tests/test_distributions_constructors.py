"""The laws people reach for have the geometry they claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from refdiff import Empirical, GaussianMixture
from refdiff.distributions import checkerboard, from_samples, grid, random_mixture, ring, swiss_roll, two_moons


@given(st.integers(1, 20), st.floats(0.1, 10), st.floats(0.01, 1))
def test_ring_has_equal_components_at_equal_distance(count, radius, std):
    law = ring(count, radius, std)
    np.testing.assert_allclose(np.hypot(*law.means.T), radius, rtol=1e-14)
    np.testing.assert_allclose(law.weights, 1 / count, rtol=1e-14)
    np.testing.assert_allclose(law.covariances.dense(2)[0], std**2 * np.eye(2), rtol=1e-14)
    if count > 1:
        np.testing.assert_allclose(law.mean(), 0, atol=1e-14 * radius)


@given(st.integers(1, 4), st.integers(1, 3), st.floats(0.1, 3.0))
def test_grid_is_centred_with_the_variance_of_a_lattice(side, dim, spacing):
    law = grid(side, spacing, 0.5, dim)
    assert law.means.shape == (side**dim, dim)
    assert len(np.unique(law.means.round(9), axis=0)) == side**dim
    np.testing.assert_allclose(law.mean(), 0, atol=1e-13)
    # a uniform law on side points: spacing^2 (side^2 - 1) / 12
    np.testing.assert_allclose(law.cov(), np.eye(dim) * (0.25 + spacing**2 * (side**2 - 1) / 12), atol=1e-12)


@given(st.integers(0, 2**32), st.integers(2, 6))
def test_checkerboard_points_lie_on_dark_squares(seed, squares):
    law = checkerboard(50, seed, squares)
    square = np.floor(law.means + squares / 2).astype(int)
    assert (square.sum(axis=1) % 2 == 0).all()
    assert ((square >= 0) & (square < squares)).all()


@given(st.integers(0, 2**32))
def test_moons_without_noise_lie_on_two_half_circles(seed):
    x = two_moons(50, seed, 0.0).means
    upper = np.abs(np.hypot(*x.T) - 1) < 1e-12
    lower = np.abs(np.hypot(x[:, 0] - 1, x[:, 1] - 0.5) - 1) < 1e-12
    assert (upper | lower).all()
    assert (x[upper & ~lower, 1] >= 0).all()
    assert (x[lower & ~upper, 1] <= 0.5).all()


@given(st.integers(0, 2**32), st.sampled_from([2, 3]))
def test_roll_without_noise_lies_on_its_spiral(seed, dim):
    x = swiss_roll(50, seed, 0.0, dim).means
    turn = np.hypot(x[:, 0], x[:, -1])
    assert ((turn >= 1.5 * np.pi) & (turn <= 4.5 * np.pi)).all()
    np.testing.assert_allclose(x[:, 0], turn * np.cos(turn), atol=1e-12)
    np.testing.assert_allclose(x[:, -1], turn * np.sin(turn), atol=1e-12)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32))
def test_random_mixtures_are_regular_and_the_same_for_the_same_seed(dim, count, seed):
    for kind in ("isotropic", "diagonal", "shared", "full"):
        law, again = (random_mixture(dim, count, seed, kind) for _ in range(2))
        np.testing.assert_array_equal(law.means, again.means)
        values = np.linalg.eigvalsh(law.covariances.dense(dim))
        assert ((values > 0.0999) & (values < 1.0001)).all()
        assert law.count == count


def test_from_samples_is_the_point_set_or_its_kernel_estimate():
    x = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert isinstance(from_samples(x), Empirical)
    law = from_samples(x, [1, 3], bandwidth=0.5)
    expected = 0.25 * multivariate_normal(x[0], 0.25).pdf([1, 1]) + 0.75 * multivariate_normal(x[1], 0.25).pdf([1, 1])
    np.testing.assert_allclose(np.exp(law.logpdf([1, 1])), expected, rtol=1e-14)
    assert isinstance(law, GaussianMixture)


@pytest.mark.parametrize("build", [checkerboard, two_moons, swiss_roll])
def test_random_laws_need_a_seed_and_repeat_with_it(build):
    np.testing.assert_array_equal(build(5, 3).means, build(5, 3).means)
    with pytest.raises(TypeError, match="seed"):
        build(5, None)
