"""Probability flows beside optimal maps."""

import numpy as np
import pytest

from refdiff.distributions import Gaussian, GaussianMixture, cdf, monotone_map, random_mixture
from refdiff.dynamics import FlowMap
from refdiff.dynamics.optimality import check_flow, flow_cost, ornstein_uhlenbeck_map
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.metrics import wasserstein
from refdiff.model import ExactModel
from refdiff.schedules import VPLinear
from refdiff.transport import optimal_map

THREE = GaussianMixture.isotropic([[1.5, 0.0], [-0.8, 1.2], [-0.5, -1.4]], [0.3, 0.5, 0.2], [0.4, 0.35, 0.25])
FULL = Gaussian([1.0, 0.0], [[1.0, 0.5], [0.5, 2.0]])
NORMAL = Gaussian([0.0, 0.0], 1.0)
X = np.array([[0.3, 0.2], [1.0, 1.0]])


def test_the_flow_of_gaussian_data_ends_at_the_optimal_map():
    found, way = check_flow(ornstein_uhlenbeck_map(FULL), X[:1]), optimal_map(FULL, NORMAL)
    np.testing.assert_allclose(found.jacobian, way.gain[None], atol=1e-8)  # rtol = 1e-10
    np.testing.assert_allclose(found.image, X[:1] @ way.gain + way.offset, atol=1e-8)
    assert found.asymmetry.max() < 1e-12
    assert np.abs(found.commutator).max() < 1e-12


def test_on_the_line_it_is_the_increasing_map():
    law = random_mixture(1, 3, 1)
    x = law.sample(2, 1)
    found = check_flow(ornstein_uhlenbeck_map(law), x)
    np.testing.assert_allclose(found.image, monotone_map(law, Gaussian([0.0], 1.0), x), atol=1e-8)
    assert not found.asymmetry.any()
    assert (found.least > 0).all()
    np.testing.assert_allclose(cdf(Gaussian([0.0], 1.0), found.image), cdf(law, x), atol=1e-8)


def test_three_components_turn_the_plane():
    found = check_flow(ornstein_uhlenbeck_map(THREE), X[:1])
    off = found.jacobian[0, 0, 1], found.jacobian[0, 1, 0]
    assert off == pytest.approx((0.185295, 0.179665), abs=1e-6)
    assert found.asymmetry[0] == pytest.approx(abs(off[0] - off[1]) * np.sqrt(2) / np.linalg.norm(found.jacobian[0]))
    assert found.least.min() > 0  # monotone, and no gradient


def test_a_flow_costs_the_distance_on_the_line_and_no_less_elsewhere():
    law = Gaussian([0.5], 2.0)
    short = FlowMap(ExactModel(law, VPLinear()), 0.0, 0.5, rtol=1e-7)
    exact = wasserstein(law, short.model.marginal(0.5)).value ** 2
    assert flow_cost(short, Quadrature(1e-3)).value == pytest.approx(exact, rel=1e-5)
    way = FlowMap(ExactModel(THREE, VPLinear()), 0.0, 0.3, rtol=1e-4, atol=1e-6)
    apart, there = flow_cost(way, MonteCarlo(50, 1)), way.model.marginal(0.3)
    # Gelbrich: no two laws of these means and covariances are nearer than the Gaussians
    gelbrich = wasserstein(*(Gaussian(law.mean(), law.cov()) for law in (THREE, there))).value ** 2
    assert apart.value + 4.5 * apart.error > gelbrich
    assert apart.value - 4.5 * apart.error < 10 * gelbrich


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="start must be before the end"):
        ornstein_uhlenbeck_map(FULL, 1.0, end=1.0)
    with pytest.raises(TypeError, match="way must be a FlowMap"):
        check_flow(FULL, X)
    with pytest.raises(TypeError, match="way must be a FlowMap"):
        flow_cost(FULL, MonteCarlo(10, 1))
    with pytest.raises(ValueError, match="x must have shape"):
        check_flow(ornstein_uhlenbeck_map(FULL), [[0.0]])
