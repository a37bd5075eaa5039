"""Barycentres of Gaussians, of laws on the line and of point sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture, wasserstein
from refdiff.metrics import wasserstein as distance
from refdiff.transport import optimal_map
from refdiff.transport.barycentres import _bound, gaussian_barycentre, line_barycentre, point_barycentre
from refdiff.transport.displacement import displacement


def drawn(seed: int, dim: int) -> Gaussian:
    law = random_mixture(dim, 1, seed, "full")
    return Gaussian(law.means[0], law.covariances.operator())


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_the_mean_of_maps_is_the_identity_and_the_gap_closes(seed, dim, count):
    laws, w = [drawn(seed + i, dim) for i in range(count)], np.random.default_rng(seed).dirichlet(np.ones(count))
    best = gaussian_barycentre(laws, w)
    ways = [optimal_map(best.law, law) for law in laws]
    gain = sum(one * np.asarray(way.gain) for one, way in zip(w, ways, strict=True))
    np.testing.assert_allclose(gain, np.eye(dim), atol=1e-12)
    assert abs(best.value - best.bound) <= 1e-12 * (1 + best.value)
    assert best.residual < 1e-12
    squares = [wasserstein(best.law, law) ** 2 for law in laws]
    assert best.value == pytest.approx(w @ squares, abs=1e-11)


def test_the_bound_holds_for_every_law_from_the_first_step_on():
    laws = [drawn(i, 3) for i in range(3)]
    best = gaussian_barycentre(laws, [1, 2, 1])
    for most in (1, 2):
        rough = gaussian_barycentre(laws, [1, 2, 1], start=np.diag([9.0, 0.1, 1.0]), tolerance=10.0, most=most)
        assert rough.steps == most
        assert rough.bound < best.value < rough.value
    centred, w = [Gaussian(np.zeros(3), law.cov()) for law in laws], np.array([1, 2, 1]) / 4
    # at the end they are one number, each by products, a root and a solve of d terms of this size: 3 d roundings
    off = 2 * 3 * 3 * np.finfo(float).eps * (best.value + w @ [np.trace(law.cov()) for law in laws])
    assert abs(best.value - best.bound) <= off
    least = gaussian_barycentre(centred, w)
    for seed in range(5):
        other = drawn(seed + 10, 3)
        assert w @ [wasserstein(other, law) ** 2 for law in laws] > best.value
        # from anywhere: what the maps of a law prove is below the least, and near it of second order
        for size, slack in ((1.0, np.inf), (0.01, 1e-2)):
            s = (1 - size) * least.law.cov() + size * other.cov()
            ways = [np.asarray(optimal_map(Gaussian(np.zeros(3), s), law).gain) for law in centred]
            middle = np.einsum("i,ijk->jk", w, ways)
            bound = _bound([law.cov() for law in centred], w, ways, middle, s)
            assert least.value - size * slack < bound < least.value


def test_of_two_it_lies_on_the_shortest_way():
    p, q = drawn(1, 4), drawn(2, 4)
    best, there = gaussian_barycentre([p, q], [0.7, 0.3]), displacement(p, q).marginal(0.3)
    np.testing.assert_allclose(best.law.cov(), there.cov(), atol=1e-13)
    np.testing.assert_allclose(best.law.mean(), there.mean(), atol=1e-13)
    assert best.value == pytest.approx(0.21 * wasserstein(p, q) ** 2)


def test_starts_lead_to_one_barycentre_and_commuting_ones_are_closed():
    laws = [drawn(i, 3) for i in range(4)]
    one, other = gaussian_barycentre(laws), gaussian_barycentre(laws, start=np.diag([1.0, 2.0, 30.0]))
    np.testing.assert_allclose(one.law.cov(), other.law.cov(), atol=1e-13)
    axes = gaussian_barycentre([Gaussian(np.zeros(2), [1.0, 4.0]), Gaussian(np.ones(2), [9.0, 0.0])])
    np.testing.assert_allclose(axes.law.cov(), np.diag([4.0, 1.0]))
    assert axes.value == pytest.approx(0.5 + 1 + 1)
    turned = gaussian_barycentre([Gaussian(np.zeros(2), np.diag([1.0, 4.0])), Gaussian(np.ones(2), [9.0, 0.0])])
    np.testing.assert_allclose(turned.law.cov(), np.diag([4.0, 1.0]), atol=1e-12)
    wide = gaussian_barycentre([Gaussian(np.zeros(3000), 1.0), Gaussian(np.zeros(3000), 9.0)])
    assert wide.law.covariances.operator() == pytest.approx(4.0)


def test_singular_laws_have_one_with_a_proof():
    rng = np.random.default_rng(0)
    roots = [rng.standard_normal((4, 2)) for _ in range(3)]
    laws = [Gaussian(np.zeros(4), f @ f.T) for f in roots]
    assert gaussian_barycentre([*laws, drawn(1, 4)], tolerance=1e-9).gap < 1e-8
    assert gaussian_barycentre(laws, tolerance=1e-9).gap < 1e-8
    flat = Gaussian([0.0, 0.0], np.diag([1.0, 0.0]))
    alone = gaussian_barycentre([flat, Gaussian([5.0, 0.0], np.diag([0.0, 1.0]))], [1.0, 0.0])
    np.testing.assert_allclose(alone.law.cov(), flat.cov(), atol=1e-15)
    point = gaussian_barycentre([Gaussian([0.0, 2.0], np.zeros((2, 2))), Gaussian([2.0, 0.0], 0.0)])
    np.testing.assert_allclose(point.law.mean(), [1.0, 1.0])
    assert point.value == pytest.approx(2.0)


def test_slow_descents_go_on_to_the_law_and_stop_where_they_may():
    rng = np.random.default_rng(0)
    laws = [Gaussian(np.zeros(20), f @ f.T / 20) for f in rng.standard_normal((4, 20, 20))]
    best = gaussian_barycentre(laws)
    assert best.residual < 1e-10  # steps shrink by about a half each, and the gap closes long before
    early = gaussian_barycentre(laws, tolerance=1e-9, most=best.steps // 2)
    assert early.steps == best.steps // 2
    assert early.gap < 1e-8


@pytest.mark.parametrize("scale", [1e-14, 1e14])
def test_units_do_not_matter(scale):
    laws = [drawn(i, 3) for i in range(3)]
    scaled = gaussian_barycentre([Gaussian(law.mean(), scale * law.cov()) for law in laws])
    np.testing.assert_allclose(scaled.law.cov(), scale * gaussian_barycentre(laws).law.cov(), rtol=1e-11)


def test_on_the_line_it_is_nearer_than_other_laws():
    laws = [random_mixture(1, 2, 1), random_mixture(1, 3, 2)]
    best = line_barycentre(laws, [1, 3])
    mean = 0.25 * laws[0].mean() + 0.75 * laws[1].mean()
    np.testing.assert_allclose(best.mean(), mean)
    # of two laws: variance is that of both less what the distance takes
    w2 = displacement(*laws).cost()
    both = sum(w * (law.cov()[0, 0] + law.mean()[0] ** 2) for w, law in zip((0.25, 0.75), laws, strict=True))
    assert best.variance() + mean[0] ** 2 == pytest.approx(both - 0.1875 * w2, rel=1e-9)


def test_point_sets_in_the_plane_and_on_the_line():
    rng = np.random.default_rng(1)
    sets = [Empirical(rng.standard_normal((k, 2)), rng.dirichlet(np.ones(k))) for k in (4, 3, 5)]
    best = point_barycentre(sets, [1, 1, 2])
    assert best.value == pytest.approx(best.bound, rel=1e-12)
    w = np.array([1, 1, 2]) / 4
    # its own distances are no more than those of its tuples, and the program is the least of all laws
    assert w @ [distance(best.law, one).value ** 2 for one in sets] == pytest.approx(best.value, rel=1e-9)
    pair = point_barycentre(sets[:2], [0.4, 0.6])
    assert pair.value == pytest.approx(0.24 * distance(sets[0], sets[1]).value ** 2, rel=1e-9)
    line = [Empirical(one.means[:, :1], one.weights) for one in sets]
    flat = [Empirical(one.means * [1.0, 0.0], one.weights) for one in sets]  # the program knows of no line
    ranks, program = point_barycentre(line, w), point_barycentre(flat, w)
    assert ranks.value == pytest.approx(program.value, rel=1e-9)
    assert distance(Empirical(ranks.law.means * [1.0, 0.0], ranks.law.weights), program.law).value < 1e-7
    many = [Empirical(rng.standard_normal((2000, 1))) for _ in range(3)]
    best = point_barycentre(many)
    np.testing.assert_allclose(best.law.means[:, 0], sum(np.sort(one.means[:, 0]) for one in many) / 3, atol=1e-14)


def test_what_does_not_fit_is_named():
    p = drawn(1, 2)
    with pytest.raises(ValueError, match="laws must be at least one"):
        gaussian_barycentre([])
    with pytest.raises(ValueError, match=r"laws must be at least one, all of one dimension, got \[1, 2\]"):
        gaussian_barycentre([p, drawn(1, 1)])
    with pytest.raises(TypeError, match="laws must be Gaussians, GaussianMixtures or Empiricals, got 3"):
        line_barycentre([3])
    with pytest.raises(ValueError, match="weights must be 1 numbers >= 0"):
        gaussian_barycentre([p], [-1.0])
    with pytest.raises(TypeError, match="laws must be Gaussians, got GaussianMixture"):
        gaussian_barycentre([p, random_mixture(2, 3, 1)])
    for start in (0.0, np.diag([1.0, 0.0])):
        with pytest.raises(ValueError, match="start must vary in every direction in which a law does"):
            gaussian_barycentre([p, drawn(2, 2)], start=start)
    with pytest.raises(ValueError, match=r"start of shape \(3, 3\)"):
        gaussian_barycentre([p, drawn(2, 2)], start=np.eye(3))
    with pytest.raises(ValueError, match=r"most must be more steps than 1 for .*, got a gap of \d\S*[1-9]"):
        gaussian_barycentre([p, drawn(2, 2)], most=1)
    with pytest.raises(ValueError, match="laws must be point sets"):
        point_barycentre([GaussianMixture.isotropic([[0.0]], 1.0)])
    with pytest.raises(ValueError, match="at most 65536 tuples of points, got 300 x 300"):
        point_barycentre([Empirical(np.zeros((300, 2)) + np.arange(300)[:, None])] * 2)
