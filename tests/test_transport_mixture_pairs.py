"""Couplings of mixtures that send components to components at the least cost."""

import numpy as np
import pytest

from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture, ring, wasserstein
from refdiff.expectations import Quadrature
from refdiff.interpolants import InterpolantModel, linear
from refdiff.metrics import wasserstein as distance
from refdiff.transport import independent, optimal_pairs
from refdiff.transport.mixture_pairs import mixture_pairs


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "shared", "full"])
def test_the_coupling_has_its_marginals_and_costs_less_than_independence(kind):
    p, q = random_mixture(3, 4, 1, kind), random_mixture(3, 3, 2, kind)
    pairs, x = mixture_pairs(p, q), np.random.default_rng(0).standard_normal((5, 3))
    np.testing.assert_allclose(pairs.first.logpdf(x), p.logpdf(x), rtol=1e-9)
    np.testing.assert_allclose(pairs.second.logpdf(x), q.logpdf(x), rtol=1e-9)
    assert pairs.cost() < 0.6 * independent(p, q).cost()
    assert pairs.mixture().covariances.dense(6).shape == (pairs.count, 6, 6)


def test_on_the_line_the_cost_lies_between_its_bounds():
    p, q = random_mixture(1, 3, 1), random_mixture(1, 4, 2)
    w2 = distance(p, q, 2.0, Quadrature()).value
    spread = sum(np.sqrt(2 * law.weights @ law.covariances.dense(1)[:, 0, 0]) for law in (p, q))
    found = np.sqrt(mixture_pairs(p, q).cost())
    assert w2 < found < w2 + spread
    narrow = [GaussianMixture.isotropic(law.means, 1e-8, law.weights) for law in (p, q)]
    assert mixture_pairs(*narrow).cost() == pytest.approx(distance(*narrow, 2.0, Quadrature(1e-6)).value ** 2, rel=1e-3)


def test_it_is_the_optimal_coupling_of_gaussians_and_of_points():
    p, q = random_mixture(3, 1, 1, "full"), random_mixture(3, 1, 2, "full")
    pair = mixture_pairs(p, q)
    assert pair.cost() == pytest.approx(wasserstein(Gaussian(p.means[0], p.cov()), Gaussian(q.means[0], q.cov())) ** 2)
    np.testing.assert_allclose(pair.cross_covariance(), optimal_pairs(p, q).cross_covariance(), atol=1e-13)
    rng = np.random.default_rng(0)
    x, y = Empirical(rng.standard_normal((5, 2)), [1, 2, 0, 1, 1]), Empirical(rng.standard_normal((4, 2)))
    assert mixture_pairs(x, y).cost() == pytest.approx(optimal_pairs(x, y).cost(), rel=1e-9)


def test_components_travel_whole():
    inner, outer = ring(6, 2.0, 0.2), ring(6, 5.0, 0.4)
    pairs = mixture_pairs(inner, outer)
    assert pairs.count == 6
    assert pairs.cost() == pytest.approx(9 + 2 * 0.04)
    half = InterpolantModel(pairs, linear()).marginal(0.5)
    radii = np.linalg.norm(half.means, axis=1)
    np.testing.assert_allclose(radii, 3.5)
    np.testing.assert_allclose(half.covariances.dense(2), np.broadcast_to(0.09 * np.eye(2), (6, 2, 2)), atol=1e-14)


def test_components_of_one_place_are_told_by_their_covariances():
    p = GaussianMixture.isotropic(np.zeros((2, 2)), [1.0, 9.0])
    for spread in ([1.0, 9.0], [9.0, 1.0]):
        assert mixture_pairs(p, GaussianMixture.isotropic(np.zeros((2, 2)), spread)).cost() == pytest.approx(
            0, abs=1e-14
        )


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="same dimension, got 2 and 3"):
        mixture_pairs(random_mixture(2, 2, 1), random_mixture(3, 2, 1))
    wide = GaussianMixture.isotropic(np.arange(300.0)[:, None], 1.0)
    with pytest.raises(ValueError, match="at most 65536 pairs of components, got 300 x 300"):
        mixture_pairs(wide, wide)
