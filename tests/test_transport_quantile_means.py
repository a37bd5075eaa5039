"""Laws on the line whose quantiles are means of others'."""

import numpy as np
import pytest

from refdiff.distributions import Empirical, Gaussian, GaussianMixture, quantile
from refdiff.distributions.covariances import Diagonal
from refdiff.expectations import Quadrature
from refdiff.transport.quantile_means import QuantileMean, quantile_mean_of_points

P = GaussianMixture.isotropic([[-2.0], [1.0]], [0.3, 0.5], [0.4, 0.6])
Q = GaussianMixture.isotropic([[-1.0], [0.0], [3.0]], [0.2, 0.1, 0.4], [0.2, 0.3, 0.5])
POINTS = Empirical([[2.0], [-1.0]], [0.7, 0.3])


def test_densities_distribution_functions_and_quantiles_are_of_one_law():
    law = QuantileMean([P, Q], [0.4, 0.6])
    x = np.linspace(-8, 8, 401)[:, None]
    density = np.exp(law.logpdf(x)) * 0.04
    assert density.sum() == pytest.approx(1, abs=1e-12)
    assert density @ x[:, 0] == pytest.approx(law.mean()[0], abs=1e-11)
    assert density @ x[:, 0] ** 2 - law.mean()[0] ** 2 == pytest.approx(law.variance(), abs=1e-10)


@pytest.mark.parametrize("others", [(Q,), (POINTS,), (Q, POINTS)], ids=["densities", "points", "both"])
def test_levels_come_back(others):
    law = QuantileMean([P, *others], np.full(1 + len(others), 1 / (1 + len(others))))
    levels = np.array([0.01, 0.1, 0.45, 0.8, 0.99])
    np.testing.assert_allclose(law.cdf(law.quantile(levels)), levels, rtol=1e-10)
    np.testing.assert_allclose(law.quantile(levels, upper=True), law.quantile(1 - levels), rtol=1e-10)


def test_beside_points_the_pieces_of_a_density_are_moved_and_scaled():
    law, edge = QuantileMean([P, POINTS], [0.5, 0.5]), float(quantile(P, 0.3)[0])
    x = np.linspace(-4, 4, 200)[:, None]
    low, high = (np.where(keep, 2 * np.exp(P.logpdf(y)), 0.0) for y, keep in (
        (2 * x + 1, 2 * x[:, 0] + 1 < edge), (2 * x - 2, 2 * x[:, 0] - 2 > edge)))  # fmt: skip
    np.testing.assert_allclose(np.exp(law.logpdf(x)), low + high, rtol=1e-10)
    assert law.logpdf([0.5 * edge]) == -np.inf  # from (edge - 1) / 2 to (edge + 2) / 2 there is no mass
    assert float(law.cdf([0.5 * edge])) == pytest.approx(0.3, abs=1e-9)


def test_beside_a_law_of_a_point_and_a_density_slopes_are_densities():
    mixed = GaussianMixture(np.log([0.4, 0.6]), np.array([[0.5], [-1.0]]), Diagonal(np.array([[0.0], [1.5]])))
    law, h = QuantileMean([P, mixed], [0.6, 0.4]), 1e-4
    # on both sides of the point, and at places that it alone is carried to: there P is scaled by 0.6
    x, inside = np.array([-2.0, -0.5, 2.5, 0.7, 0.9])[:, None], 3
    slope = (law.cdf(x + h) - law.cdf(x - h)) / (2 * h)
    np.testing.assert_allclose(np.exp(law.logpdf(x)), slope, atol=1e-6)  # of h^2 and of levels that are known to 1e-12
    np.testing.assert_allclose(law.carried(1, x[inside:]), 0.5, atol=1e-15)
    here = (x[inside:] - 0.4 * 0.5) / 0.6
    np.testing.assert_allclose(law.logpdf(x[inside:]), P.logpdf(here) - np.log(0.6), rtol=1e-12)
    np.testing.assert_allclose(law.quantile(law.cdf(x)), x, atol=1e-9)


def test_the_mean_of_gaussians_is_the_gaussian_of_their_mean_deviation():
    law, x = QuantileMean([Gaussian([1.0], 4.0), Gaussian([-2.0], 1.0)], [0.25, 0.75]), np.linspace(-6, 5, 12)[:, None]
    exact = Gaussian([-1.25], 1.25**2)
    np.testing.assert_allclose(law.logpdf(x), exact.logpdf(x), rtol=1e-12)
    assert law.variance() == pytest.approx(1.25**2, rel=1e-12)
    np.testing.assert_array_equal(law.cov(), [[law.variance()]])
    np.testing.assert_allclose(law.carried(0, x), 1.0 + 2 * (x + 1.25) / 1.25, atol=1e-12)
    drawn = law.sample(4000, 1)
    assert drawn.shape == (4000, 1)
    assert law.sample(0, 1).shape == (0, 1)
    assert abs(drawn.mean() + 1.25) < 4.5 * 1.25 / np.sqrt(4000)  # |z| < 4.5: one alarm in 150 000 seeds
    assert abs(drawn.var() / 1.25**2 - 1) < 4.5 * np.sqrt(2 / 4000)


def test_extrapolated_quantiles_have_moments_and_no_density():
    law = QuantileMean([Gaussian([0.0], 1.0), Gaussian([1.0], 4.0)], [-0.5, 1.5])
    assert law.mean()[0] == pytest.approx(1.5)
    assert law.variance() == pytest.approx(2.5**2)
    with pytest.raises(ValueError, match="weights must not be negative for densities"):
        law.logpdf([0.0])


def test_means_of_point_sets_are_point_sets():
    rng = np.random.default_rng(0)
    p, q = Empirical(rng.standard_normal((5, 1)), rng.dirichlet(np.ones(5))), Empirical(rng.standard_normal((3, 1)))
    found, law = quantile_mean_of_points([p, q], [0.3, 0.7]), QuantileMean([p, q], [0.3, 0.7])
    assert found.count == 7
    assert found.weights.sum() == pytest.approx(1)
    levels = np.linspace(0.03, 0.97, 40)
    below = np.cumsum(found.weights)
    np.testing.assert_allclose(found.means[np.searchsorted(below, levels)], law.quantile(levels), atol=1e-14)
    assert law.variance(Quadrature(1e-8)) == pytest.approx(float(found.cov()[0, 0]), rel=1e-6)


def test_single_precision_and_shapes_are_kept():
    law = QuantileMean([P, Q], [0.5, 0.5])
    assert law.quantile(np.float32([[0.2, 0.5]])).dtype == np.float32
    assert law.quantile([[0.2, 0.5]]).shape == (1, 2, 1)
    assert law.logpdf(np.zeros((2, 3, 1), dtype=np.float32)).shape == (2, 3)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="weights must be as many as the laws"):
        QuantileMean([P, Q], [1.0])
    with pytest.raises(ValueError, match="laws must be at least one, all of one dimension, got none"):
        QuantileMean([], [])
    with pytest.raises(ValueError, match="laws must be on the line, got 2"):
        QuantileMean([Gaussian([0.0, 1.0], 1.0)], [1.0])
    with pytest.raises(ValueError, match="laws must have one with a density"):
        QuantileMean([POINTS, POINTS], [0.5, 0.5]).logpdf([0.0])
    with pytest.raises(ValueError, match="laws must be point sets"):
        quantile_mean_of_points([P], [1.0])
    with pytest.raises(ValueError, match=r"of must be in 0\.\.1"):
        QuantileMean([P, Q], [0.5, 0.5]).carried(2, [0.0])
    with pytest.raises(TypeError, match="function must be a function"):
        QuantileMean([P], [1.0]).average(3.0)
