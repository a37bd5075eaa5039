"""Entropy, divergences and distances of Gaussians against quadrature, mpmath and the printed formula."""

import mpmath as mp
import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal, norm

from refdiff import Gaussian, GaussianMixture, testing
from refdiff.distributions import entropy, kl_divergence, total_variation, wasserstein

GAUSSIANS = testing.distributions(dim=3, kinds=["gaussian"])


def printed(p, q):
    """(tr S_Q^-1 S_P - d + (m_Q - m_P)' S_Q^-1 (m_Q - m_P) + log det S_Q / det S_P) / 2 to 100 digits."""
    with mp.workdps(100):
        (_, mp_, sp), (_, mq, sq) = plain.parts(p), plain.parts(q)
        a, b = mp.matrix(sp[0].tolist()), mp.matrix(sq[0].tolist())
        delta, inverse = mp.matrix((mq[0] - mp_[0]).tolist()), b**-1
        trace = sum((inverse * a)[i, i] for i in range(p.dim))
        total = trace - p.dim + (delta.T * inverse * delta)[0] + mp.log(mp.det(b) / mp.det(a))
        return float(total / 2)


@given(GAUSSIANS)
def test_entropy_is_scipys(p):
    _, m, s = plain.parts(p)
    expected = multivariate_normal(m[0], s[0]).entropy()
    assert abs(entropy(p) - expected) <= 100 * plain.EPS * (np.linalg.cond(s[0]) + 10)


@given(GAUSSIANS, GAUSSIANS)
def test_kl_is_the_printed_formula_in_high_precision(p, q):
    worst = max(np.linalg.cond(plain.parts(law)[2][0]) for law in (p, q))
    expected = printed(p, q)
    assert abs(kl_divergence(p, q) - expected) <= 100 * plain.EPS * worst * (1 + expected)


@pytest.mark.parametrize("seed", range(6))
def test_kl_and_entropy_of_correlated_gaussians_are_the_printed_formulas(seed):
    rng = np.random.default_rng(seed)  # what `GAUSSIANS` draws is mostly diagonal
    roots = rng.standard_normal((2, 3, 3))
    p, q = (Gaussian(rng.standard_normal(3), root @ root.T + 0.1 * np.eye(3)) for root in roots)
    plainer = Gaussian(rng.standard_normal(3), rng.random(3) + 0.1)
    for one, other in ((p, q), (p, plainer), (plainer, p)):
        np.testing.assert_allclose(kl_divergence(one, other), printed(one, other), rtol=1e-12)
    np.testing.assert_allclose(entropy(p), multivariate_normal(p.mean(), p.cov()).entropy(), rtol=1e-13)


@given(testing.points(2, 1), st.floats(1e-12, 1e-3))
def test_kl_of_close_gaussians_keeps_its_digits(mean, step):
    p = Gaussian(mean[0], 1.0)
    q = Gaussian(mean[0], 1 + step)
    delta = float(mp.mpf(1 + step) - 1)  # what rounding made of the step
    with mp.workdps(50):
        expected = mp.log(1 + mp.mpf(delta)) - 1 + 1 / (1 + mp.mpf(delta))
    # an eigenvalue is rounded by eps beside delta
    np.testing.assert_allclose(kl_divergence(p, q), float(expected), rtol=1e-14 + 4 * plain.EPS / delta)


@given(GAUSSIANS)
def test_kl_of_a_law_to_itself_is_zero(p):
    # its eigenvalues are zero to rounding, their squares to its square
    assert 0 <= kl_divergence(p, p) <= (100 * plain.EPS * np.linalg.cond(plain.parts(p)[2][0])) ** 2


@pytest.mark.parametrize(("narrow", "wide"), [(1e-3, 1.0), (1e-12, 1.0), (1e-30, 1.0), (1e-30, 1e30), (1.0, 1e-30)])
@pytest.mark.parametrize("dense", [False, True])
def test_kl_between_very_different_scales_keeps_its_digits(narrow, wide, dense):
    def law(variance):
        return Gaussian([0.0, 0.0], np.diag([variance, 1.0]) if dense else [variance, 1.0])

    with mp.workdps(100):
        ratio = mp.mpf(narrow) / mp.mpf(wide)
        expected = float((ratio - 1 - mp.log(ratio)) / 2)
    np.testing.assert_allclose(kl_divergence(law(narrow), law(wide)), expected, rtol=1e-13)


def test_kl_is_an_expectation_of_the_log_ratio_by_quadrature():
    p, q = Gaussian([0.3], 0.5), Gaussian([-0.2], 0.9)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    x = (0.3 + np.sqrt(0.5) * nodes)[:, None]
    # the log ratio is a quadratic: 20 nodes are exact
    expected = weights / np.sqrt(2 * np.pi) @ (p.logpdf(x) - q.logpdf(x))
    np.testing.assert_allclose(kl_divergence(p, q), expected, rtol=1e-13)


def test_only_gaussians_with_a_density_of_one_dimension_are_compared():
    mixture, point = GaussianMixture.isotropic([[0.0], [1.0]], 1.0), Gaussian([0.0], 0.0)
    with pytest.raises(TypeError, match="gaussian must be a Gaussian"):
        entropy(mixture)
    with pytest.raises(TypeError, match="q must be a Gaussian"):
        kl_divergence(Gaussian([0.0], 1.0), mixture)
    with pytest.raises(ValueError, match="p's covariance is singular"):
        kl_divergence(point, Gaussian([0.0], 1.0))
    with pytest.raises(ValueError, match="same dimension"):
        kl_divergence(Gaussian([0.0], 1.0), Gaussian([0.0, 0.0], 1.0))


# ---------------------------------------------------------------------- Wasserstein distance, total variation


@given(st.integers(0, 2**32))
def test_wasserstein_is_the_trace_formula_of_dowson_and_landau(seed):
    rng = np.random.default_rng(seed)
    a, b = (m @ m.T + 0.1 * np.eye(3) for m in rng.standard_normal((2, 3, 3)))
    p, q = Gaussian(rng.standard_normal(3), a), Gaussian(rng.standard_normal(3), b)
    square = np.sum((p.mean() - q.mean()) ** 2) + np.trace(a + b - 2 * sqrtm(sqrtm(a) @ b @ sqrtm(a)).real)
    np.testing.assert_allclose(wasserstein(p, q), np.sqrt(square), rtol=1e-7)  # the formula's own cancellation
    np.testing.assert_allclose(wasserstein(p, q), wasserstein(q, p), rtol=1e-10)


def test_wasserstein_of_close_laws_keeps_its_digits():
    base = np.array([[2.0, 0.5], [0.5, 1.0]])
    # S (1 + e)^2: the optimal map is the factor 1 + e
    for e in (1e-3, 1e-6, 1e-9):
        found = wasserstein(Gaussian([0.0, 0.0], base), Gaussian([0.0, 0.0], base * (1 + e) ** 2))
        np.testing.assert_allclose(found, e * np.sqrt(3.0), rtol=1e-15 * 100 / e)


def test_wasserstein_to_a_point_is_the_root_mean_square_distance():
    p = Gaussian([1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(wasserstein(p, Gaussian([0.0, 0.0], 0.0)), np.sqrt(5 + 3), rtol=1e-12)
    np.testing.assert_allclose(wasserstein(Gaussian([0.0, 0.0], 0.0), p), np.sqrt(5 + 3), rtol=1e-12)
    np.testing.assert_allclose(wasserstein(Gaussian([1.0], 4.0), Gaussian([1.0], 1.0)), 1.0, rtol=1e-15)


@given(st.integers(0, 2**32), st.integers(2, 4))
def test_wasserstein_from_a_law_on_a_line_has_its_own_closed_form(seed, dim):
    # S_P = v v': tr (S_P^(1/2) S_Q S_P^(1/2))^(1/2) = sqrt(v' S_Q v)
    rng = np.random.default_rng(seed)
    v, root = rng.standard_normal(dim), rng.standard_normal((dim, dim))
    p, q = Gaussian(np.zeros(dim), np.outer(v, v)), Gaussian(np.ones(dim), root @ root.T)
    square = dim + v @ v + np.trace(root @ root.T) - 2 * np.linalg.norm(root.T @ v)
    # the formula cancels to half the digits where the laws are close; here they are 1 apart
    np.testing.assert_allclose(wasserstein(p, q), np.sqrt(square), rtol=1e-7)
    np.testing.assert_allclose(wasserstein(q, p), np.sqrt(square), rtol=1e-7)
    assert wasserstein(p, p) <= 1e-7 * np.linalg.norm(v)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 3), st.floats(0.1, 3))
def test_total_variation_is_half_the_integral_of_the_difference(m, n, a, b):
    y = np.linspace(-40, 40, 400001)
    expected = np.trapezoid(np.abs(norm.pdf(y, m, a) - norm.pdf(y, n, b)), y) / 2
    # kinks at the crossings: an error of h^2 times the jump of the slope
    np.testing.assert_allclose(total_variation(Gaussian([m], a * a), Gaussian([n], b * b)), expected, atol=1e-6)


def test_total_variation_of_close_laws_keeps_its_digits():
    for e in (1e-4, 1e-8):
        # shifts: 2 Phi(e/2) - 1; scales: e times the density's total of |x d log p/dx + 1| / 2
        np.testing.assert_allclose(
            total_variation(Gaussian([0.0], 1.0), Gaussian([e], 1.0)), e / np.sqrt(2 * np.pi), rtol=1e-7
        )
        np.testing.assert_allclose(
            total_variation(Gaussian([0.0], 1.0), Gaussian([0.0], (1 + e) ** 2)),
            2 * e * norm.pdf(1.0),
            rtol=2 * e + 1e-7,
        )


@pytest.mark.parametrize("shift", [-1.0, 1e-3, 1.0])
@pytest.mark.parametrize("step", [1e-3, 1e-8, 1e-14])
def test_total_variation_of_shifted_laws_of_nearly_one_scale_keeps_its_digits(shift, step):
    scale = 1 + step
    with mp.workdps(60):
        m, b = mp.mpf(shift), mp.sqrt(mp.mpf(scale**2))
        # log p = log q where (b^2 - 1) x^2 + 2 m x - m^2 - 2 b^2 log b = 0
        root = mp.sqrt(m**2 + (b**2 - 1) * (m**2 + 2 * b**2 * mp.log(b)))
        x, y = (-m - root) / (b**2 - 1), (-m + root) / (b**2 - 1)
        expected = abs((mp.ncdf(y) - mp.ncdf(x)) - (mp.ncdf((y - m) / b) - mp.ncdf((x - m) / b)))
    found = total_variation(Gaussian([0.0], 1.0), Gaussian([shift], scale**2))
    np.testing.assert_allclose(found, float(expected), rtol=1e-15 / min(abs(shift), 0.1))


def test_total_variation_of_points_is_zero_or_one():
    assert total_variation(Gaussian([1.0], 0.0), Gaussian([1.0], 0.0)) == 0.0
    assert total_variation(Gaussian([1.0], 0.0), Gaussian([1.0], 1.0)) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wasserstein(Gaussian([0.0], 1.0), Gaussian([0.0, 0.0], 1.0)), "p and q must have the same dimension"),
        (lambda: total_variation(*[Gaussian([0.0, 0.0], 1.0)] * 2), "p and q must have one dimension"),
        (
            lambda: total_variation(Gaussian([0.0], 1.0), Gaussian([0.0, 0.0], 1.0)),
            "one dimension, got 1 and 2",
        ),
        (
            lambda: total_variation(Gaussian([0.0, 0.0], 1.0), Gaussian([0.0], 1.0)),
            "one dimension, got 2 and 1",
        ),
    ],
)
def test_distances_between_different_spaces_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
