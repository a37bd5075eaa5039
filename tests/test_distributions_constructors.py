"""The laws people reach for have the geometry they claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, multivariate_normal, uniform

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


# False alarms below: five standard errors or a level of 1e-6 each, at seeds that are fixed.


@pytest.mark.statistical
@pytest.mark.parametrize("build", [two_moons, swiss_roll])
def test_noise_is_normal_and_independent_on_every_axis(build):
    n = 2000
    noise = (build(n, 5, 0.2).means - build(n, 5, 0.0).means) / 0.2
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=5 / np.sqrt(n))
    np.testing.assert_allclose(np.cov(noise.T), np.eye(noise.shape[1]), atol=5 * np.sqrt(2 / n))
    assert kstest(noise.ravel(), "norm").pvalue > 1e-6


@pytest.mark.statistical
def test_moons_and_rolls_and_squares_are_filled_evenly():
    n = 2000
    x = two_moons(n, 0, 0.0).means
    upper = np.abs(np.hypot(*x.T) - 1) < 1e-12
    assert abs(upper.sum() - n / 2) < 5 * np.sqrt(n) / 2
    assert kstest(np.arctan2(x[upper, 1], x[upper, 0]), uniform(0, np.pi).cdf).pvalue > 1e-6
    assert kstest(np.arctan2(0.5 - x[~upper, 1], 1 - x[~upper, 0]), uniform(0, np.pi).cdf).pvalue > 1e-6
    x = swiss_roll(n, 0, 0.0).means
    assert kstest(np.hypot(x[:, 0], x[:, 2]), uniform(1.5 * np.pi, 3 * np.pi).cdf).pvalue > 1e-6
    assert kstest(x[:, 1], uniform(0, 21).cdf).pvalue > 1e-6
    assert 20.9 < x[:, 1].max() <= 21  # below by chance: (1 - 0.1 / 21)^2000 = 7e-5
    x = checkerboard(n, 0).means
    for axis in range(2):
        assert kstest(x[:, axis], uniform(-2, 4).cdf).pvalue > 1e-6


@pytest.mark.statistical
def test_random_mixtures_have_normal_means_and_log_uniform_variances():
    law = random_mixture(1, 2000, 0, "diagonal", spread=3.0)
    assert kstest(law.means[:, 0] / 3.0, "norm").pvalue > 1e-6
    assert kstest(-np.log10(law.covariances.variances[:, 0]), "uniform").pvalue > 1e-6
    # a flat Dirichlet draw is of exponential weights
    assert kstest(law.weights * 2000, "expon").pvalue > 1e-6


def test_laws_are_those_of_their_documented_defaults():
    for default, explicit in (
        (ring(), ring(8, 4.0, 0.3)),
        (grid(), grid(5, 2.0, 0.2, 2)),
        (checkerboard(9, 0), checkerboard(9, 0, 4)),
        (two_moons(9, 0), two_moons(9, 0, 0.05)),
        (swiss_roll(9, 0), swiss_roll(9, 0, 0.05, 3)),
        (random_mixture(2, 3, 0), random_mixture(2, 3, 0, "isotropic", 2.0)),
    ):
        np.testing.assert_array_equal(default.means, explicit.means)
        np.testing.assert_array_equal(default.covariances.dense(explicit.dim), explicit.covariances.dense(explicit.dim))


@pytest.mark.parametrize(
    ("make", "least", "named"),
    [
        (lambda n: ring(n), 1, "count"),
        (lambda n: ring(radius=n), 0, "radius"),
        (lambda n: ring(std=n), 0, "std"),
        (lambda n: grid(n), 1, "side"),
        (lambda n: grid(2, dim=n), 1, "dim"),
        (lambda n: grid(2, std=n), 0, "std"),
        (lambda n: checkerboard(n, 0), 1, "n"),
        (lambda n: checkerboard(2, 0, n), 2, "squares"),
        (lambda n: two_moons(n, 0), 1, "n"),
        (lambda n: two_moons(2, 0, n), 0, "noise"),
        (lambda n: swiss_roll(n, 0), 1, "n"),
        (lambda n: swiss_roll(2, 0, n), 0, "noise"),
        (lambda n: swiss_roll(2, 0, 0.1, n), 2, "dim"),
        (lambda n: swiss_roll(2, 0, 0.1, -n), -3, "dim"),
        (lambda n: random_mixture(n, 2, 0), 1, "dim"),
        (lambda n: random_mixture(2, n, 0), 1, "count"),
        (lambda n: random_mixture(2, 2, 0, spread=n), 0, "spread"),
        (lambda n: from_samples([[0.0]], bandwidth=n), 0, "bandwidth"),
    ],
)
def test_the_least_size_is_a_law_and_one_less_is_refused(make, least, named):
    assert make(least).count >= 1
    with pytest.raises(ValueError, match=f"^{named} must"):
        make(least - 1)


@pytest.mark.parametrize("build", [checkerboard, two_moons, swiss_roll])
def test_random_laws_need_a_seed_and_repeat_with_it(build):
    np.testing.assert_array_equal(build(5, 3).means, build(5, 3).means)
    with pytest.raises(TypeError, match="seed"):
        build(5, None)
