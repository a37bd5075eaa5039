"""Adaptive sums over intervals, and quantiles of points."""

import numpy as np
import pytest
from scipy.special import ndtri

from refdiff import Gaussian, GaussianMixture
from refdiff.distributions import Empirical, quantile
from refdiff.expectations import Quadrature
from refdiff.metrics.line import adaptive, inverse, potential_against, quantile_integral


def test_bends_and_jumps_are_found_by_halving():
    found, change = adaptive(lambda x: np.abs(x - 1 / 3), np.array([0.0, 1.0]), Quadrature(1e-12))
    assert abs(found - 5 / 18) <= max(change, 1e-15)
    found, change = adaptive(lambda x: (x > 1 / 3) * 1.0, np.array([0.0, 1.0]), Quadrature(1e-12))
    assert abs(found - 2 / 3) <= max(change, 1e-12)
    assert change < 1e-11
    assert adaptive(np.zeros_like, np.array([0.0, 1.0]), Quadrature()) == (0.0, 0.0)


def test_too_few_nodes_say_so():
    with pytest.raises(ValueError, match="route must be a Quadrature with more nodes"):
        adaptive(lambda x: np.abs(x) ** 0.1, np.array([-1.0, 1.0]), Quadrature(1e-12, most=100))


def test_quantiles_of_points_are_those_of_the_library():
    law = Empirical([[3.0], [1.0], [2.0], [0.0]], [0.2, 0.3, 0.5, 0.0])
    p = np.array([0.01, 0.29, 0.31, 0.79, 0.81, 0.999])
    np.testing.assert_array_equal(inverse(law)(ndtri(p)), quantile(law, p)[:, 0])


def test_the_integral_of_points_is_their_sum():
    p, q = Empirical([[0.0], [4.0]], [0.25, 0.75]), Empirical([[1.0], [2.0]])
    exact = 0.25 * 1 + 0.25 * 27 + 0.5 * 8
    np.testing.assert_allclose(quantile_integral(p, q, 3.0, Quadrature(1e-12))[0], exact, rtol=1e-11)


def test_a_potential_against_many_points_of_a_law_is_that_against_the_law():
    law = GaussianMixture.isotropic([[-1.0], [2.0]], [0.3, 1.0])
    points = Empirical([[0.3], [-2.0], [1.0]], [0.2, 0.5, 0.3])
    fine = Empirical(quantile(law, (np.arange(10_000) + 0.5) / 10_000))
    f, g = (potential_against(points, one, 2.0) for one in (law, fine))
    np.testing.assert_allclose(f, g, atol=1e-2)  # 2 |x' - y| steps of 1e-4 / density, of 0.05 or more


@pytest.mark.parametrize("count", [20, 3000])
def test_many_points_against_a_normal_have_their_exact_sum_with_few_nodes_each(count):
    x = np.sort(np.random.default_rng(1).normal(0.3, 2.0, count))
    z = ndtri(np.arange(count + 1) / count)
    phi = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    ends = np.where(np.isfinite(z), z, 0) * phi
    # int (x - z)^2 phi(z) dz over (a, b) = x^2 / n - 2 x [phi(a) - phi(b)] + 1 / n - [b phi(b) - a phi(a)]
    exact = (x**2 / count + 2 * x * np.diff(phi) + 1 / count - np.diff(ends)).sum()
    rule = Quadrature(1e-9, most=10_000 + 25 * count)
    found, change = quantile_integral(Empirical(x[:, None]), Gaussian([0.0], 1.0), 2.0, rule)
    # levels are sums of up to `count` roundings, and all costs together jump by some ten
    assert abs(found - exact) <= change + 10 * count * np.finfo(float).eps
    assert change <= 1e-9 * exact
