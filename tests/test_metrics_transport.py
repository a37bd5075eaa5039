"""Wasserstein distances: two routes for each, closed cases, coverage of the standard errors, and what is refused."""

import numpy as np
import pytest
from scipy.stats import norm, wasserstein_distance

from refdiff import Gaussian, GaussianMixture
from refdiff.distributions import Empirical, cdf, random_mixture
from refdiff.distributions import wasserstein as of_gaussians
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.metrics import sliced_wasserstein, wasserstein
from refdiff.metrics.transport import directions

RULE = Quadrature(1e-11)
STEP = np.array([3.0, 4.0])
P = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
Q = GaussianMixture.isotropic([[-40.0], [40.0]], [0.01, 0.04], [0.3, 0.7])


@pytest.mark.parametrize(("p", "q"), [(P, Gaussian([1.0], 4.0)), (P, Q)], ids=["near", "gap"])
def test_w1_of_quantiles_is_the_area_between_distribution_functions(p, q):
    x = np.linspace(-60, 60, 40_001)
    f, g = cdf(p, x[:, None]), cdf(q, x[:, None])
    # h^2 / 8 = 1e-6 times the change of slope at every crossing is what the trapezoidal rule errs by
    area = np.trapezoid(np.abs(f - g), x)
    assert abs(wasserstein(p, q, 1, RULE).value - area) < 1e-5


def test_gaussians_are_a_closed_case_of_quantiles_of_couplings_and_of_directions():
    p, q = Gaussian([0.3], 0.5), Gaussian([1.0], 4.0)
    closed = wasserstein(p, q)
    assert (closed.value, closed.error, closed.route) == (pytest.approx(of_gaussians(p, q), rel=1e-15), 0.0, "closed")
    # E |a + b z|^p of a normal, for the affine map between the two
    a, b = 0.7, 2 - np.sqrt(0.5)
    folded = b * np.sqrt(2 / np.pi) * np.exp(-0.5 * (a / b) ** 2) + a * (1 - 2 * norm.cdf(-a / b))
    np.testing.assert_allclose(wasserstein(p, q, 1, RULE).value, folded, rtol=1e-10)
    np.testing.assert_allclose(wasserstein(p, q, 4, RULE).value ** 4, a**4 + 6 * a**2 * b**2 + 3 * b**4, rtol=1e-10)
    np.testing.assert_allclose(wasserstein(p, q, 2 + 1e-9, RULE).value, closed.value, rtol=1e-8)


def test_high_orders_reach_into_the_tails():
    p, q, order = Gaussian([0.0], 1.0), Gaussian([0.0], 4.0), 20
    moment = np.prod(np.arange(1.0, order, 2))  # E |z|^20
    np.testing.assert_allclose(wasserstein(p, q, order, RULE).value ** order, moment, rtol=1e-9)


def test_points_and_components_without_variance_are_quantiles_too():
    points = Empirical([[0.0], [1.0], [1.0], [5.0]], [0.2, 0.3, 0.5, 0.0])
    mixed = GaussianMixture.isotropic([[0.0], [1.0], [2.0]], [0.0, 0.0, 0.0], [0.2, 0.8, 0.0])
    assert wasserstein(points, mixed).value == 0
    half = GaussianMixture.isotropic([[0.0], [3.0]], [0.0, 1.0])
    # half of the mass stays at 0, half is N(3, 1)
    expected = 0.5 * (3 * norm.cdf(3) + norm.pdf(3) + -3 * norm.cdf(-3) + norm.pdf(3))
    np.testing.assert_allclose(wasserstein(half, Empirical([[0.0]]), 1, RULE).value, expected, rtol=1e-10)
    np.testing.assert_allclose(wasserstein(half, Empirical([[0.0]])).value ** 2, 5.0, rtol=1e-15)
    np.testing.assert_allclose(wasserstein(half, half, 1, RULE).value, 0, atol=1e-15)


def test_one_point_has_one_coupling_in_any_dimension():
    law = random_mixture(4, 3, 1, "full")
    found = wasserstein(law, Empirical([np.ones(4)]))
    np.testing.assert_allclose(found.value**2, np.trace(law.cov()) + ((law.mean() - 1) ** 2).sum(), rtol=1e-14)
    assert found.route == "closed"


def test_samples_on_the_line_agree_with_scipy_and_have_a_standard_error():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(300, 1)), rng.normal(1, 2, (200, 1)), rng.dirichlet(np.ones(300))
    w[:10] = 0
    found = wasserstein(Empirical(x, w), Empirical(y), 1)
    np.testing.assert_allclose(found.value, wasserstein_distance(x[:, 0], y[:, 0], w), rtol=1e-12)
    assert found.error <= 1e-12
    assert found.route == "closed"
    drawn = wasserstein(x, y, 1)
    assert drawn.route == "monte carlo"
    assert drawn.value == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-12)
    single = wasserstein(x.astype(np.float32), y.astype(np.float32), 1)
    np.testing.assert_allclose(single.value, drawn.value, rtol=1e-6)


def coverage(estimate, exact, runs):
    """z-scores of `runs` estimates."""
    found = [estimate(seed) for seed in range(runs)]
    return np.array([(one.value - exact) / one.error for one in found])


@pytest.mark.parametrize("kind", ["samples", "against a law"])
def test_standard_errors_cover_the_distance_of_the_laws(kind):
    p, q = Gaussian([0.0], 1.0), Gaussian([2.0], 2.25)

    def estimate(seed):
        x = p.sample(400, seed)
        return (
            wasserstein(x, q, 2, Quadrature(1e-8))
            if kind == "against a law"
            else wasserstein(x, q.sample(600, 1000 + seed))
        )

    z = coverage(estimate, of_gaussians(p, q), 200)
    # 200 z-scores: their mean has the deviation 0.071, their variance 0.1; 4.5 of these is a false alarm in 7e-6. The
    # bias of the plug-in, of order 1 / n, is below a tenth of a standard error here
    assert abs(z.mean()) < 4.5 * 0.071 + 0.1
    assert abs(z.var() - 1) < 4.5 * 0.1


def test_more_dimensions_have_couplings_that_prove_themselves():
    rng = np.random.default_rng(1)
    x, y, w = rng.normal(size=(40, 3)), rng.normal(1, 2, (40, 3)), rng.dirichlet(np.ones(40))
    equal = wasserstein(Empirical(x), Empirical(y), 1.5)
    assert equal.error < 1e-12
    weighted = wasserstein(Empirical(x, w), Empirical(y), 1.5)
    assert weighted.error < 1e-7  # HiGHS's tolerance
    shifted = wasserstein(Empirical(x), Empirical(x + np.array([3.0, 0.0, 4.0])))
    np.testing.assert_allclose(shifted.value, 5, rtol=1e-14)
    assert wasserstein(x, x).value == 0
    assert wasserstein(x, x).error == 0
    # of a distance near 0 the root of a power's error is less than what the slope of a root makes of it
    assert 0 < wasserstein(x, x + 1e-9).error < 1e-4
    line = rng.normal(size=(40, 1))
    assert (wasserstein(line, line).value, wasserstein(line, line).error) == (0, 0)
    moved = line * (1 + 1e-9)
    assert 0 < wasserstein(line, moved).error < 1e-4
    assert wasserstein(x[:1], y).error == np.inf
    assert np.isfinite(wasserstein(x, y).error)


def test_a_sliced_distance_of_gaussians_is_a_mean_over_directions():
    p, q = Gaussian(np.zeros(3), 1.0), Gaussian([1.0, 2.0, 2.0], 4.0)
    found = sliced_wasserstein(p, q, MonteCarlo(600, 1))
    # |m|^2 / d + (s - t)^2; 4.5 standard errors: a false alarm in 7e-6 of seeds
    assert abs(found.value - np.sqrt(9 / 3 + 1)) < 4.5 * found.error
    assert found.value < wasserstein(p, q).value
    again = sliced_wasserstein(p, q, MonteCarlo(600, 1))
    assert again.value == found.value


def test_sliced_distances_of_mixtures_points_and_samples():
    law, route = random_mixture(2, 2, 3, "full"), MonteCarlo(6, 5)
    shift = law.affine(1.0, STEP)
    theta = directions(2, route)
    expected = np.sqrt(np.mean((theta @ STEP) ** 2))
    np.testing.assert_allclose(sliced_wasserstein(law, shift, route, 2, Quadrature(1e-8)).value, expected, rtol=1e-7)
    x = law.sample(50, 1)
    known = sliced_wasserstein(Empirical(x), Empirical(x + STEP), route)
    np.testing.assert_allclose(known.value, expected, rtol=1e-12)
    drawn = sliced_wasserstein(x, x + STEP, route)
    assert drawn.error > known.error
    assert sliced_wasserstein(x, x, route).value == 0


def test_the_error_of_a_sliced_distance_counts_samples_and_directions():
    p, q = Gaussian(np.zeros(2), 1.0), Gaussian([2.0, 0.0], 1.0)
    exact = np.sqrt(4 / 2)
    z = coverage(
        lambda seed: sliced_wasserstein(p.sample(200, seed), q.sample(200, 500 + seed), MonteCarlo(12, seed)), exact, 60
    )
    # 60 z-scores; 4.5 deviations as above, and a bias of a tenth of a standard error
    assert abs(z.mean()) < 4.5 / np.sqrt(60) + 0.1
    assert abs(z.var() - 1) < 4.5 * np.sqrt(2 / 59)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((P, P, 0.5, RULE), ValueError, "order must lie"),
        ((P, Gaussian([0.0, 1.0], 1.0)), ValueError, "p and q must have the same dimension, got 1 and 2"),
        ((P, Q), ValueError, "route must be a Quadrature"),
        ((P, Q, 2, MonteCarlo(9, 1)), TypeError, "route must be a Quadrature, over quantiles"),
        (
            (np.zeros((0, 2)), np.ones((3, 2))),
            ValueError,
            r"p must be a law, or at least one point .* got shape \(0, 2\)",
        ),
        ((np.ones((3, 2)), np.ones(3)), ValueError, "q must be a law, or at least one point"),
        ((np.full((2, 1), np.nan), P), ValueError, "p must be finite"),
        (("a law", P), TypeError, "p must hold real numbers"),
        ((random_mixture(2, 2, 1), random_mixture(2, 2, 2)), ValueError, "there is no exact distance"),
        ((np.zeros((600, 2)), np.zeros((601, 2))), ValueError, "at most 262144 pairs of points for a program, got 600"),
    ],
    ids=["order", "dimension", "no route", "route", "empty", "shape", "nan", "type", "no way", "many"],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        wasserstein(*arguments)


def test_sliced_distances_ask_for_directions():
    with pytest.raises(TypeError, match="route must be a MonteCarlo, over directions"):
        sliced_wasserstein(P, Q, RULE)
