"""Laws of pairs: halves, moments, conditionals and affine functions, against matrices and samples, in every storage."""

import mixtures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import KINDS, SHIFT, TURN, build
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from refdiff import Empirical, Gaussian, GaussianMixture
from refdiff.channels import Channel
from refdiff.distributions.covariances import Dense, Diagonal
from refdiff.transport import (
    component_pairs,
    gaussian_pairs,
    image_pairs,
    independent,
    point_pairs,
)


def blocks(pair):
    """Weights, means (K, 2d) and covariances (K, 2d, 2d), put together by hand."""
    d, k = pair.dim, pair.count
    s, c, t = (
        np.broadcast_to(b.dense(d), (k, d, d)) for b in (pair.first.covariances, pair.cross, pair.second.covariances)
    )
    matrices = np.zeros((k, 2 * d, 2 * d))
    matrices[:, :d, :d], matrices[:, :d, d:], matrices[:, d:, :d], matrices[:, d:, d:] = s, c, c.swapaxes(1, 2), t
    return pair.first.weights, np.hstack([pair.first.means, pair.second.means]), matrices


@pytest.mark.parametrize("kind", KINDS)
def test_halves_weights_and_the_whole_agree(kind):
    pair = build(kind)
    weights, means, matrices = blocks(pair)
    np.testing.assert_array_equal(pair.first.weights, pair.second.weights)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    whole = pair.mixture()
    np.testing.assert_array_equal(whole.means, means)
    np.testing.assert_array_equal(np.broadcast_to(whole.covariances.dense(4), matrices.shape), matrices)
    np.testing.assert_allclose(pair.cross_covariance(), whole.cov()[:2, 2:], atol=1e-13)
    assert (np.linalg.eigvalsh(matrices) >= -1e-14 * np.abs(matrices).max()).all()
    turned = pair.swapped()
    np.testing.assert_allclose(turned.cross_covariance(), pair.cross_covariance().T, atol=1e-15)
    np.testing.assert_array_equal(turned.swapped().cross.dense(2), pair.cross.dense(2))


@pytest.mark.parametrize("kind", KINDS)
def test_affine_functions_of_a_pair_have_the_law_that_matrices_say(kind):
    pair = build(kind)
    weights, means, matrices = blocks(pair)
    forms = [
        (0.4, 0.6, 0.0, 0.0),
        ([0.5, 2.0], -1.0, SHIFT, 0.3),
        (TURN, [1.0, 0.0], 2.0, [0.1, 0.2]),
        (1.0, TURN, SHIFT, TURN @ TURN.T),
    ]
    for first, second, offset, noise in forms:
        found = pair.blend(first, second, offset, noise)
        maps = [np.eye(2) * np.asarray(one) if np.ndim(one) < 2 else np.asarray(one) for one in (first, second)]
        gain, extra = np.hstack(maps), np.eye(2) * np.asarray(noise) if np.ndim(noise) < 2 else noise
        np.testing.assert_allclose(found.weights, weights, atol=1e-15)
        np.testing.assert_allclose(found.means, means @ gain.T + offset, atol=1e-13)
        size = np.abs(matrices).max() + np.abs(extra).max()
        expected = gain @ matrices @ gain.T + extra
        np.testing.assert_allclose(
            np.broadcast_to(found.covariances.dense(2), expected.shape), expected, atol=1e-14 * size
        )
        assert found.cov() == pytest.approx(pair.mixture().affine(gain).cov() + extra, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_regressions_are_blocks_of_the_joint_law(kind):
    pair = build(kind)
    _, means, matrices = blocks(pair)
    for of, on in [((1.0, 0.0), (0.3, 0.7)), ((-1.0, 1.0), (0.0, 1.0)), ((TURN, [1.0, 2.0]), ([0.5, 1.5], TURN))]:
        maps = [
            np.hstack([np.eye(2) * np.asarray(o) if np.ndim(o) < 2 else o for o in pair_of]) for pair_of in (of, on)
        ]
        mean, spread = pair.regression(tuple(map(np.asarray, of)), tuple(map(np.asarray, on)))
        np.testing.assert_allclose(mean, means @ maps[0].T, atol=1e-13)
        expected = maps[0] @ matrices @ maps[1].T
        np.testing.assert_allclose(np.broadcast_to(spread.dense(2), expected.shape), expected, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_of_the_pair(kind):
    pair, n = build(kind), 40_000
    x, y = pair.sample(n, 5)
    both, whole = np.hstack([x, y]), pair.mixture()
    # five standard errors of a mean and of a second moment: one alarm in a million numbers, the seed is fixed
    errors = np.sqrt(np.diag(whole.cov()) / n)
    assert (np.abs(both.mean(axis=0) - whole.mean()) <= 5 * errors + 1e-12).all()
    centred = both - whole.mean()
    products = centred[:, :, None] * centred[:, None, :]
    slack = 5 * products.std(axis=0) / np.sqrt(n) + 1e-12
    assert (np.abs(products.mean(axis=0) - whole.cov()) <= slack).all()
    gap = ((x - y) ** 2).sum(axis=1)
    assert abs(gap.mean() - pair.cost()) <= 5 * gap.std() / np.sqrt(n) + 1e-12


def test_samples_of_correlated_gaussians_in_space_have_their_moments():
    rng, n = np.random.default_rng(0), 20_000
    whole = np.cov(rng.standard_normal((6, 12)))  # eigenvectors of matrices in the plane may be symmetric, here not
    pair = gaussian_pairs(Gaussian(np.zeros(3), whole[:3, :3]), Gaussian(np.zeros(3), whole[3:, 3:]), whole[:3, 3:])
    both = np.hstack(pair.sample(n, 1))
    products = both[:, :, None] * both[:, None, :]
    # 36 moments at five standard errors, the seed is fixed
    assert (np.abs(products.mean(axis=0) - whole) < 5 * products.std(axis=0) / np.sqrt(n)).all()


@pytest.mark.parametrize(
    ("kind", "gain"), [("a map", TURN), ("a scaling", np.diag([1.7, -0.3])), ("a map to a point", np.zeros((2, 2)))]
)
def test_samples_of_a_map_lie_on_its_graph(kind, gain):
    x, y = build(kind).sample(100, 0)
    np.testing.assert_allclose(y, x @ gain.T + SHIFT, atol=1e-13)


def test_samples_of_pairs_of_points_are_such_pairs():
    x, y = build("pairs of points").sample(50, 1)
    np.testing.assert_allclose(y, x @ TURN + SHIFT, atol=1e-14)
    assert len(np.unique(x, axis=0)) == 5


@pytest.mark.parametrize("dim", [1, 3, 32])
def test_degenerate_directions_of_a_coupling_stay_degenerate_in_samples(dim):
    rng = np.random.default_rng(dim)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    flat = basis[:, : max(1, dim // 2)] @ basis[:, : max(1, dim // 2)].T
    x, y = gaussian_pairs(Gaussian(np.zeros(dim), flat), Gaussian(np.ones(dim), flat), -flat).sample(20, 0)
    np.testing.assert_allclose(y, 1 - x @ flat, atol=1e-13)


# ---------------------------------------------------------------------- one half given


@pytest.mark.parametrize(
    "kind", ["independent", "isotropic", "diagonal", "components", "Gaussians", "Gaussians, numbers", "a noisy image"]
)
def test_the_law_given_one_half_is_the_joint_density_over_the_half(kind):
    pair = build(kind)
    weights, means, matrices = blocks(pair)
    x, rest = pair.sample(1, 3)[0][0], np.random.default_rng(0).standard_normal((4, 2))
    known = pair.given_first(x)
    terms = [
        np.log(w) + multivariate_normal(m, s).logpdf(np.hstack([np.tile(x, (4, 1)), rest]))
        for w, m, s in zip(weights, means, matrices, strict=True)
        if kind != "a noisy image"
    ]
    if terms:
        expected = logsumexp(terms, axis=0) - pair.first.logpdf(x)
        np.testing.assert_allclose(known.logpdf(rest), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(pair.swapped().given_second(x).cov(), known.cov(), atol=1e-13)


def test_the_law_given_a_half_of_a_map_is_its_image():
    pair, x = build("a map"), np.array([0.3, -0.8])
    known = pair.given_first(x)
    np.testing.assert_allclose(known.mean(), TURN @ x + SHIFT, atol=1e-13)
    np.testing.assert_allclose(known.cov(), 0, atol=1e-13)
    np.testing.assert_allclose(pair.given_second(TURN @ x + SHIFT).mean(), x, atol=1e-12)


def test_the_law_given_a_point_is_that_of_its_partners():
    points, partners = np.array([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [5.0, 5.0], [3.0, 3.0]])
    known = point_pairs(points, partners, [0.5, 0.25, 0.25]).given_first([0.0, 1.0])
    np.testing.assert_allclose(known.mean(), (2 * partners[0] + partners[2]) / 3, atol=1e-15)
    image = image_pairs(Empirical(points[:2]), Channel(2.0, SHIFT, 0.5))
    np.testing.assert_allclose(image.given_first(points[1]).mean(), 2 * points[1] + SHIFT)
    np.testing.assert_allclose(image.given_first(points[1]).cov(), 0.5 * np.eye(2))
    # points are stored with matrices of zeros where a channel with a matrix made them
    turned = image_pairs(Empirical(points), Channel(TURN, SHIFT))
    for pair in (turned, turned.swapped()):
        known = pair.given_first(pair.first.means[1])
        np.testing.assert_allclose(known.mean(), pair.second.means[1], atol=1e-15)
        np.testing.assert_array_equal(known.cov(), 0.0)
    back = np.array([multivariate_normal(2 * x + SHIFT, 0.5).pdf([2.0, 3.0]) for x in points[:2]])
    np.testing.assert_allclose(image.given_second([2.0, 3.0]).mean(), back @ points[:2] / back.sum(), rtol=1e-12)


def test_a_law_of_points_and_densities_is_given_at_both():
    mixed = GaussianMixture(np.log([0.25, 0.75]), np.zeros((2, 2)), Diagonal(np.array([[0.0], [2.0]])))
    masses = np.array([[0.25, 0.0], [0.35, 0.4]])
    pair = component_pairs(mixed, GaussianMixture.isotropic([[0.0, 0.0], [3.0, 3.0]], 1.0, [0.6, 0.4]), masses)
    np.testing.assert_allclose(pair.given_first([0.0, 0.0]).mean(), 0.0)  # the point has all mass there
    np.testing.assert_allclose(pair.given_first([1.0, 0.0]).mean(), 3 * 0.4 / 0.75)
    np.testing.assert_allclose(pair.swapped().given_second([0.5, 0.5]).mean(), 3 * 0.4 / 0.75)


def test_what_is_given_must_be_possible():
    pair = build("points with a mixture")
    with pytest.raises(ValueError, match="x must be a point of the first law"):
        pair.given_first([0.1, 0.2])
    with pytest.raises(ValueError, match="x must be one point, got 2"):
        pair.given_first([[0.1, 0.2], [0.3, 0.4]])
    with pytest.raises(ValueError, match="x must have shape"):
        pair.given_second([0.1, 0.2, 0.3])
    flat = gaussian_pairs(Gaussian([0, 0], [1.0, 0.0]), Gaussian([0, 0], 1.0), [0.5, 0.0])
    with pytest.raises(ValueError, match="no density"):
        flat.given_first([0.3, 0.0])


# ---------------------------------------------------------------------- makers


def test_components_without_mass_are_left_out_and_storage_stays_diagonal():
    p, q = (
        mixtures.law("isotropic", 3, 4, weights=np.full(4, 0.25)),
        mixtures.law("diagonal", 3, 4, weights=np.full(4, 0.25)),
    )
    matched = component_pairs(p, q, np.eye(4) / 4)
    assert matched.count == 4
    assert independent(p, q).count == 16
    assert isinstance(matched.blend(0.3, 0.7, 0.0, 0.1).covariances, Diagonal)
    assert matched.blend(0.3, [0.7, 0.7, 0.7]).covariances.variances.shape == (4, 3)
    assert isinstance(matched.blend(np.eye(3), 0.7).covariances, Dense)
    points = independent(mixtures.law("points", 3, 5), Gaussian(np.zeros(3), 1.0)).blend(0.5, 0.5)
    assert points.covariances.variances.shape == (1, 1)
    assert type(point_pairs([[1.0]], [[2.0]]).blend(1.0, 1.0)) is Gaussian
    assert type(point_pairs([[1.0], [2.0]], [[2.0], [5.0]]).blend(1.0, 1.0)) is Empirical


@given(st.floats(-50, 50), st.floats(1e-6, 1e6))
def test_what_cancels_in_a_blend_is_nothing(centre, spread):
    p = Gaussian([centre, 1.0], spread)
    for channel in (Channel(1.0, 3.0, 0.0), Channel(np.eye(2), 3.0, 0.0)):
        difference = image_pairs(p, channel).blend(-1.0, 1.0)
        np.testing.assert_array_equal(difference.cov(), 0)
        np.testing.assert_allclose(difference.mean(), 3.0, atol=1e-13)


def test_costs_are_known():
    p, q = Gaussian([0.0, 0.0], 1.0), Gaussian([3.0, 4.0], 4.0)
    assert independent(p, q).cost() == pytest.approx(25 + 2 * 5)
    assert gaussian_pairs(p, q, 2.0).cost() == pytest.approx(25 + 2 * 1)
    assert gaussian_pairs(p, q, -2.0).cost() == pytest.approx(25 + 2 * 9)
    assert point_pairs([[0.0], [1.0]], [[2.0], [5.0]], [3, 1]).cost() == pytest.approx(0.75 * 4 + 0.25 * 16)
    assert repr(independent(p, q)) == "PairLaw(1 x R^2 x R^2)"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p, q: independent(p, 3), TypeError, "q must be a Gaussian, GaussianMixture or Empirical"),
        (lambda p, q: independent([[1.0]], q), TypeError, "p must be"),
        (lambda p, q: independent(p, Gaussian([0.0], 1.0)), ValueError, "q must have the dimension 2 of p, got 1"),
        (lambda p, q: component_pairs(p, q, np.ones(2) / 2), ValueError, "masses must have 2 dimensions"),
        (lambda p, q: component_pairs(p, q, np.ones((2, 2)) / 4), ValueError, r"masses must have shape \(1, 2\)"),
        (lambda p, q: component_pairs(p, q, [[0.9, 0.1]]), ValueError, "masses must have the weights as column sums"),
        (lambda p, q: component_pairs(p, q, [[0.5 + 1e-7, 0.5 - 1e-7]]), ValueError, "weights as column sums"),
        (lambda p, q: component_pairs(q, p, [[0.9], [0.1]]), ValueError, "masses must have the weights as row sums"),
        (lambda p, q: component_pairs(p, q, [[1.5, -0.5]]), ValueError, "masses must not be negative, got -0.5"),
        (lambda p, q: gaussian_pairs(p, q, 0.1), TypeError, "q must be a Gaussian"),
        (lambda p, q: gaussian_pairs(p, p, 1.5), ValueError, "cross must be a cross-covariance of p and q"),
        (lambda p, q: gaussian_pairs(p, p, np.ones((3, 2))), ValueError, "cross must be a number, or have"),
        (lambda p, q: gaussian_pairs(p, p, [1.0, 1.0, 1.0]), ValueError, "cross must be a number"),
        (lambda p, q: point_pairs([[1.0]], [[1.0], [2.0]]), ValueError, r"y must have the shape \(1, 1\) of x"),
        (lambda p, q: point_pairs([[1.0]], [1.0]), ValueError, "y must have 2 dimensions"),
        (lambda p, q: point_pairs([[1.0]], [[2.0]], [-1.0]), ValueError, "weights"),
        (lambda p, q: image_pairs(p, TURN), TypeError, "channel must be a Channel"),
        (lambda p, q: image_pairs(3.0, Channel(1.0, 0.0, 0.0)), TypeError, "p must be a Gaussian"),
        (lambda p, q: image_pairs(p, Channel(np.ones((3, 2)), 0.0, 0.0)), ValueError, "channel must have 2 outputs"),
        (lambda p, q: independent(p, q).blend(np.ones((3, 2)), 1.0), ValueError, "first must be a number, or have"),
        (lambda p, q: independent(p, q).blend(1.0, [1.0] * 3), ValueError, "second must be a number, or have"),
        (lambda p, q: independent(p, q).blend(1.0, 1.0, [1.0] * 3), ValueError, "offset of shape"),
        (lambda p, q: independent(p, q).blend(1.0, 1.0, 0.0, -1.0), ValueError, "noise must not be negative"),
        (lambda p, q: independent(p, q).blend(1.0, 1.0, 0.0, [1.0] * 3), ValueError, "noise of shape"),
        (lambda p, q: independent(p, q).sample(-1, 0), ValueError, "n must be at least 0"),
        (lambda p, q: independent(p, q).sample(1, None), TypeError, "seed must be a whole number"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    p, q = Gaussian([0.0, 1.0], 1.0), GaussianMixture.isotropic([[0.0, 0.0], [1.0, 1.0]], 0.5)
    with pytest.raises(error, match=message):
        call(p, q)
