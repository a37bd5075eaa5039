"""Optimal maps and couplings of Gaussians, point sets and laws on the line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from refdiff import operators
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture, wasserstein
from refdiff.metrics import wasserstein as distance
from refdiff.transport import optimal_image, optimal_map, optimal_pairs

SEEDS = st.integers(0, 10**6)


def drawn(seed: int, dim: int, kind: str = "full") -> Gaussian:
    law = random_mixture(dim, 1, seed, kind)
    return Gaussian(law.means[0], law.covariances.operator())


@given(SEEDS, st.integers(1, 6))
def test_the_map_is_the_printed_product_of_roots_and_carries_one_law_to_the_other(seed, dim):
    p, q = drawn(seed, dim), drawn(seed + 1, dim)
    way = optimal_map(p, q)
    root = np.real(sqrtm(p.cov()))
    inverse = np.linalg.inv(root)
    np.testing.assert_allclose(way.gain, inverse @ np.real(sqrtm(root @ q.cov() @ root)) @ inverse, atol=1e-12)
    np.testing.assert_array_equal(way.gain, way.gain.T)
    pushed = way.push(p)
    np.testing.assert_allclose(pushed.mean(), q.mean(), atol=1e-13)
    np.testing.assert_allclose(pushed.cov(), q.cov(), atol=1e-13)


@given(SEEDS, st.integers(1, 6))
def test_the_map_back_is_the_inverse(seed, dim):
    p, q = drawn(seed, dim), drawn(seed + 1, dim)
    both = optimal_map(q, p).compose(optimal_map(p, q))
    np.testing.assert_allclose(both.gain, np.eye(dim), atol=1e-12)
    np.testing.assert_allclose(both.offset, 0, atol=1e-12)


@given(SEEDS, st.integers(2, 5), st.integers(1, 5), st.integers(1, 5))
def test_singular_laws_have_a_map_where_none_has_to_be_split(seed, dim, rank, lower):
    rng = np.random.default_rng(seed)
    f = rng.standard_normal((dim, min(rank, dim)))
    g = rng.standard_normal((dim, min(lower, dim)))
    p, q = Gaussian(rng.standard_normal(dim), f @ f.T), Gaussian(rng.standard_normal(dim), g @ g.T)
    pairs = optimal_pairs(p, q)
    assert pairs.cost() == pytest.approx(wasserstein(p, q) ** 2, abs=1e-6)  # W2 is a root of rounding there
    if g.shape[1] > f.shape[1]:  # almost surely no subspace of fewer dimensions holds the other's image
        with pytest.raises(ValueError, match="no gradient map spreads a point out"):
            optimal_map(p, q)
        return
    way = optimal_map(p, q)
    worst = np.linalg.cond(f) * np.linalg.cond(g) * max(1, np.abs(way.gain).max()) ** 2
    np.testing.assert_allclose(way.gain @ p.cov() @ way.gain, q.cov(), atol=1e-13 * worst)
    assert np.linalg.eigvalsh(way.gain).min() > -1e-12 * np.abs(way.gain).max()
    np.testing.assert_allclose(p.cov() @ way.gain, pairs.cross_covariance(), atol=1e-12 * worst)


def test_what_the_cost_does_not_decide_is_independent():
    line, flat = Gaussian([0.0, 0.0], [1.0, 0.0]), Gaussian([1.0, 2.0], [[1.0, 0.5], [0.5, 2.0]])
    pairs = optimal_pairs(line, flat)
    np.testing.assert_allclose(pairs.cross_covariance(), [[1.0, 0.5], [0.0, 0.0]], atol=1e-15)
    assert pairs.cost() == pytest.approx(7.0)
    for storage in (np.asarray, np.diag):
        one, other = Gaussian([0.0, 0.0], storage([1.0, 0.0])), Gaussian([0.0, 0.0], storage([0.0, 3.0]))
        assert not optimal_pairs(one, other).cross_covariance().any()
        with pytest.raises(ValueError, match="no gradient map spreads a point out"):
            optimal_map(one, other)  # of one dimension each, and across


def test_points_of_one_place_and_two_points():
    here, there, wide = Gaussian([1.0, 2.0], 0.0), Gaussian([0.0, 3.0], 0.0), Gaussian([0.0, 0.0], np.eye(2))
    np.testing.assert_allclose(optimal_image(here, there, [1.0, 2.0]), [0.0, 3.0])
    np.testing.assert_allclose(optimal_image(wide, there, [[1.0, 2.0], [5.0, 6.0]]), [[0.0, 3.0]] * 2)
    assert optimal_map(here, there).gain.ndim == 0
    with pytest.raises(ValueError, match="spreads a point out"):
        optimal_map(here, wide)
    assert optimal_pairs(here, wide).cost() == pytest.approx(7.0)


def test_storage_stays_and_many_dimensions_cost_nothing():
    d = 3000
    p, q = Gaussian(np.zeros(d), 2.0), Gaussian(np.ones(d), 8.0)
    way, pairs = optimal_map(p, q), optimal_pairs(p, q)
    assert way.gain.shape == ()
    assert float(way.gain) == 2.0
    assert pairs.cost() == pytest.approx(d * (1 + 2.0), rel=1e-13)
    axes = optimal_map(p, Gaussian(np.zeros(d), np.arange(d) * 1.0))
    np.testing.assert_allclose(axes.gain, np.sqrt(np.arange(d) / 2), rtol=1e-14)
    rng = np.random.default_rng(0)
    s, r = rng.uniform(0.1, 2, (2, 4))
    mixed = optimal_map(Gaussian(np.zeros(4), s), Gaussian(np.zeros(4), np.diag(r)))
    np.testing.assert_allclose(mixed.gain, np.diag(np.sqrt(r / s)), atol=1e-15)


def test_badly_conditioned_laws_keep_their_image():
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    p = Gaussian(np.zeros(4), turn @ np.diag(10.0 ** np.array([0, -4, -8, -12])) @ turn.T)
    q = Gaussian(np.zeros(4), np.eye(4) + 0.3)
    way = optimal_map(p, q)  # of gains up to 1e6
    np.testing.assert_allclose(way.push(p).cov(), q.cov(), atol=1e-3)  # S itself is known to eps 1e12 in its last axis
    back = optimal_map(q, p)
    np.testing.assert_allclose(back.push(q).cov(), p.cov(), atol=1e-14)


def test_the_coupling_of_gaussians_is_the_graph_of_the_map():
    p, q = drawn(5, 3), drawn(6, 3)
    pairs, way = optimal_pairs(p, q), optimal_map(p, q)
    x, y = pairs.sample(50, 1)
    np.testing.assert_allclose(y, operators.apply(way.gain, x) + way.offset, atol=1e-6)  # of a root of rounding
    assert pairs.cost() == pytest.approx(wasserstein(p, q) ** 2, rel=1e-12)
    swapped = pairs.swapped().cross_covariance()
    np.testing.assert_allclose(swapped, optimal_pairs(q, p).cross_covariance(), atol=1e-13)


@pytest.mark.parametrize("dim", [1, 3])
def test_point_sets_are_coupled_at_the_least_cost(dim):
    rng = np.random.default_rng(dim)
    p = Empirical(rng.standard_normal((7, dim)), [1, 0, 2, 1, 1, 3, 1])
    q = Empirical(rng.standard_normal((5, dim)))
    pairs = optimal_pairs(p, q)
    assert pairs.cost() == pytest.approx(distance(p, q).value ** 2, rel=1e-10)
    np.testing.assert_allclose(pairs.first.mean(), p.mean(), atol=1e-12)
    np.testing.assert_allclose(pairs.second.cov(), q.cov(), atol=1e-12)


def test_one_point_has_one_coupling_with_any_law():
    p, point = random_mixture(2, 3, 1), Empirical([[1.0, 2.0]])
    for pairs in (optimal_pairs(p, point), optimal_pairs(point, p)):
        assert pairs.cost() == pytest.approx(np.trace(p.cov()) + ((p.mean() - [1.0, 2.0]) ** 2).sum())


def test_images_of_mixtures_on_the_line_increase_and_keep_single_precision():
    p, q = random_mixture(1, 3, 1), random_mixture(1, 2, 2)
    x = np.linspace(-2, 2, 9)[:, None]
    image = optimal_image(p, q, x)
    assert (np.diff(image[:, 0]) > 0).all()
    np.testing.assert_allclose(optimal_image(q, p, image), x, atol=1e-9)
    gauss = optimal_image(drawn(1, 2), drawn(2, 2), np.zeros((2, 3, 2), dtype=np.float32))
    assert gauss.dtype == np.float32
    assert gauss.shape == (2, 3, 2)


def test_what_does_not_fit_is_named():
    p, q = drawn(1, 2), random_mixture(2, 3, 1)
    with pytest.raises(TypeError, match="q must be a Gaussian, got GaussianMixture"):
        optimal_map(p, q)
    with pytest.raises(TypeError, match="p must be a Gaussian, GaussianMixture or Empirical"):
        optimal_pairs([[0.0]], q)
    with pytest.raises(ValueError, match="same dimension, got 2 and 3"):
        optimal_map(p, drawn(1, 3))
    with pytest.raises(ValueError, match="on the line optimal_image has its map"):
        optimal_pairs(p, q)
    with pytest.raises(ValueError, match="mixtures have no closed map"):
        optimal_image(p, q, np.zeros(2))
    with pytest.raises(ValueError, match="x must have shape"):
        optimal_image(p, p, np.zeros(3))
    with pytest.raises(ValueError, match="no point of positive mass"):
        optimal_image(Empirical([[0.0], [1.0]]), GaussianMixture.isotropic([[0.0], [1.0]], 1.0), [[0.5]])
