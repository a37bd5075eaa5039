"""Bridges made for solvers: masses of components, points as a special case, plans and moments in many dimensions."""

import numpy as np
import pytest
from schroedinger_cases import LAWS, REFERENCES

from refdiff import Empirical, GaussianMixture
from refdiff.distributions import random_mixture
from refdiff.schroedinger import balanced_bridge, benchmark_bridge, point_bridge

EACH_REFERENCE = pytest.mark.parametrize("reference", REFERENCES.values(), ids=list(REFERENCES))


@EACH_REFERENCE
@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_every_component_has_the_mass_of_its_weight(reference, kind):
    first, second = random_mixture(2, 3, 1, kind), random_mixture(2, 4, 2, kind)
    bridge = balanced_bridge(first, second, reference)
    masses = bridge.pairs.first.weights.reshape(4, 3)
    np.testing.assert_allclose(masses.sum(axis=0), first.weights, atol=1e-11)
    np.testing.assert_allclose(masses.sum(axis=1), second.weights, atol=1e-11)


def test_of_points_it_is_their_bridge():
    p, q = LAWS["points"], Empirical([[1.0, 0.0], [-1.0, 0.5]], [0.3, 0.7])
    one, other = balanced_bridge(p, q, 0.5), point_bridge(p, q, 0.5, tolerance=1e-12)
    x = np.random.default_rng(1).standard_normal((4, 2))
    np.testing.assert_allclose(one.forward_drift(x, 0.4), other.forward_drift(x, 0.4), rtol=1e-10)
    np.testing.assert_allclose(one.log_density(x, 0.4), other.log_density(x, 0.4), rtol=1e-9)


def test_many_dimensions_keep_all_components():
    first, second = random_mixture(128, 3, 1, "isotropic"), random_mixture(128, 4, 2, "isotropic")
    bridge = balanced_bridge(first, second, 64.0)
    assert bridge.marginal(0.0).count == 12
    assert abs(bridge.pairs.first.weights.sum() - 1) < 1e-12
    x = bridge.sample([0.5], 5, 3)[0]
    np.testing.assert_allclose(bridge.marginal(0.5).logpdf(x), bridge.log_density(x, 0.5), rtol=1e-11)


@pytest.mark.parametrize("dim", [1, 2, 64])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
def test_plans_of_benchmarks_are_the_mixtures_that_they_say(dim, epsilon):
    bridge = benchmark_bridge(dim, epsilon, 3, 4)
    x = np.random.default_rng(5).standard_normal(dim)
    given, origin = bridge.conditional_plan(x), bridge.conditional_plan(np.zeros(dim))
    np.testing.assert_allclose(np.linalg.norm(origin.means, axis=1), 5.0, rtol=1e-9)
    np.testing.assert_allclose(origin.weights, 1 / 3, rtol=1e-8)
    # the plan given x is that given 0, tilted by e^(x . y / eps): its components moved by S_j x, of covariance eps S_j
    shapes = origin.covariances.dense(dim)
    np.testing.assert_allclose(given.means, origin.means + np.einsum("kij,j->ki", shapes, x) / epsilon, rtol=1e-8)
    np.testing.assert_allclose(given.covariances.dense(dim), shapes, rtol=1e-8, atol=1e-10)
    values = np.linalg.eigvalsh(shapes) / epsilon
    assert dim == 1 or np.ptp(values, axis=1).min() > 0.05
    assert values.min() > 0.5 - 1e-9
    assert values.max() < 1.5 + 1e-9


def test_draws_of_a_benchmark_follow_its_drift():
    bridge = benchmark_bridge(2, 1.0, 3, 6, radius=2.0)
    x, y = bridge.sample_pairs(4000, 7)
    plan = np.array([bridge.conditional_plan(one).mean() for one in x[:250]])
    left = y[:250] - plan
    assert (np.abs(left.mean(axis=0)) < 4.5 * left.std(axis=0) / np.sqrt(250)).all()
    np.testing.assert_allclose(bridge.forward_drift(x[:5], 0.0), plan[:5] - x[:5], rtol=1e-10)


def test_refusals():
    with pytest.raises(ValueError, match="dim must be"):
        benchmark_bridge(0, 1.0)
    with pytest.raises(ValueError, match="spread must lie"):
        benchmark_bridge(2, 1.0, spread=(2.0, 1.0))
    with pytest.raises(ValueError, match="epsilon"):
        benchmark_bridge(2, -1.0)
    with pytest.raises(ValueError, match="dimension"):
        balanced_bridge(GaussianMixture.isotropic([[0.0]], 1.0), LAWS["full"], 0.5)
