"""f-divergences and the Fisher divergence: closed forms, quadrature and draws agree; infinite values are answers."""

import numpy as np
import pytest

from refdiff import Gaussian, GaussianMixture
from refdiff.distributions import Empirical, kl_divergence, random_mixture, total_variation
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.metrics import alpha_divergence, divergence, fisher_divergence, own_divergence
from refdiff.metrics.generators import NAMED

RULE = Quadrature(1e-10)
P = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
Q = GaussianMixture.isotropic([[-1.0], [1.5]], [0.8, 1.4], [0.6, 0.4])
ALPHAS = [-1.5, -0.5, 0.0, 0.3, 0.5, 1.0, 1.7, 2.0, 3.0]
NAMES = sorted(NAMED)


def integrand(name):
    """(p, q) -> the textbook integrand, without weights or limits."""
    return {
        "kl": lambda p, q: p * np.log(p / q),
        "reverse-kl": lambda p, q: q * np.log(q / p),
        "js": lambda p, q: 0.5 * (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))),
        "hellinger": lambda p, q: 0.5 * (np.sqrt(p) - np.sqrt(q)) ** 2,
        "chi-squared": lambda p, q: (p - q) ** 2 / q,
        "total-variation": lambda p, q: 0.5 * np.abs(p - q),
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_named_divergences_are_those_of_the_books(name):
    x = np.linspace(-12, 12, 24_001)[:, None]
    direct = np.trapezoid(integrand(name)(np.exp(P.logpdf(x)), np.exp(Q.logpdf(x))), x[:, 0])
    found = divergence(P, Q, name, None if name == "total-variation" else RULE)
    # beyond 12 the heaviest integrand is below 1e-20; |p - q| bends, which costs h^2 / 8 of a slope
    np.testing.assert_allclose(found.value, direct, rtol=1e-8 if name != "total-variation" else 1e-6)
    drawn = divergence(P, Q, name, MonteCarlo(20_000, 4))
    assert abs(drawn.value - found.value) < 4.5 * drawn.error  # a false alarm in 7e-6 of seeds
    assert drawn.error < 0.05 * found.value


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gaussians_have_the_family_in_closed_form(alpha):
    rng = np.random.default_rng(7)
    a = rng.standard_normal((2, 2)) / 3
    p, q = Gaussian([0.3, -0.2], np.eye(2) + a @ a.T), Gaussian([0.0, 0.4], 1.3 * np.eye(2) - a @ a.T / 4)
    f = alpha_divergence(alpha)
    closed = divergence(p, q, f)
    assert (closed.route, closed.error) == ("closed", 0.0)
    summed = divergence(p, q, f, Quadrature(1e-9))
    np.testing.assert_allclose(summed.value, closed.value, rtol=1e-8)
    swapped = divergence(q, p, alpha_divergence(1 - alpha))
    np.testing.assert_allclose(swapped.value, closed.value, rtol=1e-12)


def test_limits_of_the_family_are_kl():
    p, q = random_mixture(3, 1, 1, "full"), random_mixture(3, 1, 2, "full")
    assert divergence(p, q, "kl").value == kl_divergence(p, q)
    assert divergence(p, q, "reverse-kl").value == kl_divergence(q, p)
    np.testing.assert_allclose(divergence(p, q, alpha_divergence(1 - 1e-7)).value, kl_divergence(p, q), rtol=1e-5)


@pytest.mark.parametrize("variance", [1.9, 1.99, 1.999])
def test_heavy_tails_are_reached_near_where_chi_squared_becomes_infinite(variance):
    p, q = Gaussian([0.0], variance), Gaussian([0.0], 1.0)
    # int p^2 / q = 1 / (s sqrt(2 - s^2)) for variances s^2 and 1
    exact = 1 / np.sqrt(variance * (2 - variance)) - 1
    np.testing.assert_allclose(divergence(p, q, "chi-squared").value, exact, rtol=1e-12)
    np.testing.assert_allclose(divergence(p, q, "chi-squared", RULE).value, exact, rtol=1e-9)
    drawn = divergence(p, q, "chi-squared", MonteCarlo(20_000, 3))
    assert abs(drawn.value - exact) < 4.5 * drawn.error
    assert drawn.error < 0.02 * exact


def test_infinite_tails_are_answers():
    wide, narrow = Gaussian([0.0], 2.0), Gaussian([0.0], 1.0)
    assert divergence(wide, narrow, "chi-squared").value == np.inf
    assert divergence(wide, narrow, "chi-squared", RULE).value == np.inf
    assert divergence(narrow, wide, alpha_divergence(-1.0)).value == np.inf  # chi-squared the other way round
    # e^900 is no float
    assert divergence(narrow, Gaussian([30.0], 1.0), "chi-squared").value == np.inf
    mixture = GaussianMixture.isotropic([[0.0], [4.0]], [0.1, 2.5])
    assert divergence(mixture, narrow, "chi-squared", RULE).value == np.inf
    assert np.isfinite(divergence(mixture, mixture.convolve(0.1), "chi-squared", RULE).value)


def test_a_tail_that_is_not_known_is_refused():
    # along each axis one component of q is wide enough, along both none is
    p = Gaussian([0.0, 0.0], 2.2)
    q = GaussianMixture.full(np.zeros((2, 2)), [np.diag([9.0, 1.0]), np.diag([1.0, 9.0])])
    with pytest.raises(ValueError, match="must have a component of q that is wide enough"):
        divergence(p, q, "chi-squared", MonteCarlo(100, 1))


def test_nothing_cancels_between_laws_that_are_near():
    step = 1e-6
    found = divergence(P, P.affine(1.0, step), "kl", RULE).value
    x = np.linspace(-12, 12, 24_001)[:, None]
    fisher = np.trapezoid(np.exp(P.logpdf(x)) * P.score(x)[:, 0] ** 2, x[:, 0])
    np.testing.assert_allclose(found, 0.5 * step**2 * fisher, rtol=1e-5)
    np.testing.assert_allclose(divergence(P, P.affine(1.0, step), "js", RULE).value, found / 4, rtol=1e-5)
    for name in NAMES:
        assert divergence(P, P, name, MonteCarlo(50, 1)).value == 0


def test_total_variation_on_the_line_is_exact():
    a, b = Gaussian([0.0], 1.0), Gaussian([1.0], 1.7)
    mixtures = [GaussianMixture.isotropic([one.means[0], one.means[0]], [one.cov()[0, 0]] * 2) for one in (a, b)]
    found = divergence(*mixtures, "total-variation")
    np.testing.assert_allclose(found.value, total_variation(a, b), rtol=1e-13)
    assert found.error < 1e-15
    far = divergence(P, P.affine(1.0, 1e3), "total-variation")
    np.testing.assert_allclose(far.value, 1, rtol=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_bends_on_the_line_are_found_whatever_the_quadrature(seed):
    # sums of |p - q| over two lattices agree by chance to less than both err by
    p, q = random_mixture(1, 3, seed), random_mixture(1, 2, 100 + seed)
    x = np.linspace(-15, 15, 100_001)
    direct = np.trapezoid(0.5 * np.abs(np.exp(p.logpdf(x[:, None])) - np.exp(q.logpdf(x[:, None]))), x)
    found = divergence(p, q, "total-variation", Quadrature(1e-3))
    # the trapezoidal rule errs by h^2 / 8 of the change of slope at every crossing: of some 4 / 0.1 together at most
    assert abs(found.value - direct) < 3e-4**2 / 8 * 40


def test_crossings_on_the_grid_itself_count():
    # equal deviations cross in the middle, which is a node
    found = divergence(*(GaussianMixture.isotropic([[m], [m]], 1.0) for m in (-1.0, 1.0)), "total-variation")
    np.testing.assert_allclose(found.value, total_variation(Gaussian([-1.0], 1.0), Gaussian([1.0], 1.0)), rtol=1e-14)


POINTS = Empirical([[0.0], [1.0], [1.0], [3.0]], [0.2, 0.3, 0.5, 0.0])
OTHERS = Empirical([[0.0], [1.0], [2.0]], [0.5, 0.25, 0.25])


@pytest.mark.parametrize(
    ("name", "apart", "both", "reverse"),
    [
        ("kl", np.inf, 0.2 * np.log(0.4) + 0.8 * np.log(3.2), np.inf),
        ("reverse-kl", np.inf, np.inf, 0.2 * np.log(0.4) + 0.8 * np.log(3.2)),
        ("js", np.log(2), None, None),
        ("hellinger", 1.0, 1 - np.sqrt(0.1) - np.sqrt(0.2), 1 - np.sqrt(0.1) - np.sqrt(0.2)),
        ("chi-squared", np.inf, 0.3**2 / 0.5 + 0.55**2 / 0.25 + 0.25, np.inf),
        ("total-variation", 1.0, 0.55, 0.55),
    ],
)
def test_points_have_closed_forms_and_supports_that_do_not_fit_infinite_ones(name, apart, both, reverse):
    assert divergence(POINTS, P, name).value == pytest.approx(apart)
    assert divergence(P, POINTS, name).value == pytest.approx(apart)
    assert divergence(POINTS, POINTS, name).value == 0
    if both is not None:
        assert divergence(POINTS, OTHERS, name).value == pytest.approx(both, rel=1e-14)
        assert divergence(OTHERS, POINTS, name).value == pytest.approx(reverse, rel=1e-14)


def test_points_and_densities_add_up():
    half = GaussianMixture.isotropic([[0.0], [1.0]], [0.0, 1.0])
    whole = Gaussian([1.0], 1.0)
    # 1/2 log 1/2 + ... : E_whole log whole / (whole / 2) = log 2; the other way the point is nowhere
    np.testing.assert_allclose(divergence(whole, half, "kl", RULE).value, np.log(2), rtol=1e-12)
    assert divergence(half, whole, "kl", RULE).value == np.inf
    np.testing.assert_allclose(divergence(half, whole, "total-variation").value, 0.5, rtol=1e-14)
    third = GaussianMixture.isotropic([[0.0], [1.0]], [0.0, 1.0], [1, 2])
    exact = 0.5 * np.log(0.5 / (1 / 3)) + 0.5 * np.log(0.5 / (2 / 3))
    np.testing.assert_allclose(divergence(half, third, "kl", RULE).value, exact, rtol=1e-12)


def test_own_convex_functions_join():
    triangular = own_divergence(lambda u: (u - 1) ** 2 / (u + 1), at_zero=1.0, slope=1.0)
    x = np.linspace(-12, 12, 24_001)[:, None]
    p, q = np.exp(P.logpdf(x)), np.exp(Q.logpdf(x))
    found = divergence(P, Q, triangular, RULE).value
    np.testing.assert_allclose(found, np.trapezoid((p - q) ** 2 / (p + q), x[:, 0]), rtol=1e-8)
    assert divergence(POINTS, P, triangular).value == 2


@pytest.mark.parametrize(
    ("p", "q", "name"),
    # draws of the same normals for both would make the second variance a fifth
    [(P, Q, "kl"), (Gaussian([0.0], 1.0), Gaussian([2.0], 1.0), "js")],
    ids=["mixtures", "shifted"],
)
def test_monte_carlo_errors_cover_and_means_have_no_bias(p, q, name):
    exact = divergence(p, q, name, RULE).value
    found = [divergence(p, q, name, MonteCarlo(200, seed)) for seed in range(120)]
    z = np.array([(one.value - exact) / one.error for one in found])
    # 120 z-scores: 4.5 deviations of their mean, and of their variance, are a false alarm in 7e-6; the skewness of 200
    # terms moves the mean of z by its third of 1 / sqrt(200)
    assert abs(z.mean()) < 4.5 / np.sqrt(120) + 0.05
    assert abs(z.var() - 1) < 4.5 * np.sqrt(2 / 119)


# ---------------------------------------------------------------------- Fisher


def test_fisher_divergences_of_gaussians_have_three_routes():
    p, q = random_mixture(2, 1, 1, "full"), random_mixture(2, 1, 2, "full")
    weight = np.array([[2.0, 0.3], [0.3, 0.5]])
    for w in (1.0, [1.0, 3.0], weight):
        closed = fisher_divergence(p, q, weight=w)
        summed = fisher_divergence(p, q, Quadrature(1e-6), weight=w)  # the last halving squares what changes
        np.testing.assert_allclose(summed.value, closed.value, rtol=1e-9)
        drawn = fisher_divergence(p, q, MonteCarlo(20_000, 1), weight=w)
        assert abs(drawn.value - closed.value) < 4.5 * drawn.error
    b = np.linalg.inv(q.cov()) - np.linalg.inv(p.cov())
    gap = np.linalg.solve(q.cov(), p.mean() - q.mean())
    np.testing.assert_allclose(fisher_divergence(p, q).value, np.trace(b @ p.cov() @ b) + gap @ gap, rtol=1e-11)


def test_fisher_divergences_of_mixtures_and_of_what_has_no_score():
    x = np.linspace(-14, 14, 28_001)[:, None]
    direct = np.trapezoid(np.exp(P.logpdf(x)) * ((P.score(x) - Q.score(x))[:, 0]) ** 2, x[:, 0])
    np.testing.assert_allclose(fisher_divergence(P, Q, RULE).value, direct, rtol=1e-9)
    assert fisher_divergence(P, P, RULE).value == 0
    assert fisher_divergence(P, POINTS).value == np.inf
    assert fisher_divergence(POINTS, P).value == np.inf


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((P, Q, "renyi", RULE), ValueError, "f must be one of kl, reverse-kl"),
        ((P, Q, np.log, RULE), TypeError, "f must be a name or an FDivergence"),
        ((P, Q, "kl"), ValueError, "route must be a Quadrature or a MonteCarlo"),
        ((P, np.zeros((3, 1)), "kl", RULE), TypeError, "q must be a Gaussian, GaussianMixture or Empirical"),
        ((P, Gaussian([0.0, 0.0], 1.0), "kl", RULE), ValueError, "same dimension, got 1 and 2"),
        ((Gaussian([0.0, 0.0], [1.0, 0.0]), Gaussian([0.0, 0.0], 1.0), "kl"), ValueError, "p's covariance is singular"),
    ],
    ids=["name", "function", "no route", "sample", "dimension", "singular"],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        divergence(*arguments)
