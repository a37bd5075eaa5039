"""Displacement interpolation of Gaussians, points and laws on the line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture, wasserstein
from refdiff.expectations import Quadrature
from refdiff.interpolants import InterpolantModel, linear
from refdiff.transport import independent
from refdiff.transport.displacement import Displacement, LineDisplacement, displacement

P = GaussianMixture.isotropic([[-2.0], [1.0]], [0.3, 0.5], [0.4, 0.6])
Q = GaussianMixture.isotropic([[-1.0], [0.0], [3.0]], [0.2, 0.1, 0.4], [0.2, 0.3, 0.5])
LOOSE = Quadrature(1e-6)


def drawn(seed: int, dim: int) -> Gaussian:
    law = random_mixture(dim, 1, seed, "full")
    return Gaussian(law.means[0], law.covariances.operator())


@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 1))
def test_the_energy_is_the_squared_distance_at_all_times(seed, dim, t):
    p, q = drawn(seed, dim), drawn(seed + 1, dim)
    way = displacement(p, q)
    assert way.energy(t) == pytest.approx(wasserstein(p, q) ** 2, rel=1e-11)


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_distances_along_the_way_are_those_of_times(seed, s, t):
    way = displacement(drawn(seed, 3), drawn(seed + 1, 3))
    assert wasserstein(way.marginal(s), way.marginal(t)) ** 2 == pytest.approx((s - t) ** 2 * way.cost(), abs=1e-11)


def test_points_keep_their_velocity_and_arrive():
    p, q = drawn(1, 3), drawn(2, 3)
    way, x = displacement(p, q), drawn(1, 3).sample(5, 3)
    for t in (0.2, 0.5, 0.9, 1.0):
        there = way.image(x, 0.0, t)
        np.testing.assert_allclose(way.velocity(there, t), way.velocity(x, 0.0), atol=1e-12)
        np.testing.assert_allclose(way.image(there, t, 0.0), x, atol=1e-12)
    assert way.velocity(np.float32(x), 0.3).dtype == np.float32


def test_the_flow_of_optimal_pairs_is_the_displacement():
    p, q = drawn(1, 3), drawn(2, 3)
    way = displacement(p, q)
    model, x = InterpolantModel(way.pairs, linear()), drawn(3, 3).sample(5, 1)
    for t in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(model.velocity(x, t), way.velocity(x, t), atol=1e-11)
        np.testing.assert_allclose(model.marginal(t).cov(), way.marginal(t).cov(), atol=1e-14)
        np.testing.assert_allclose(model.acceleration(x, t), 0, atol=1e-10)  # straight


def test_lines_are_shortest_as_far_as_the_extent_says():
    way = displacement(drawn(1, 3), drawn(2, 3))
    low, high = way.extent
    p = way.pairs.first
    assert low < 0 < 1 < high
    for t in (0.99 * low, 0.99 * high):
        assert wasserstein(p, way.marginal(t)) == pytest.approx(abs(t) * np.sqrt(way.cost()), rel=1e-9)
        assert way.energy(t) == pytest.approx(way.cost(), rel=1e-9)
    for t in (1.2 * low, 1.2 * high):
        assert wasserstein(p, way.marginal(t)) < (1 - 1e-6) * abs(t) * np.sqrt(way.cost())
        with pytest.raises(ValueError, match=r"t must lie between .*, where the lines meet, got"):
            way.velocity(np.zeros(3), t)
        with pytest.raises(ValueError, match="end must lie between"):
            way.image(np.zeros(3), 0.5, t)
    shift = displacement(Gaussian([0.0], 1.0), Gaussian([3.0], 1.0))
    assert shift.extent == (-np.inf, np.inf)
    np.testing.assert_allclose(shift.velocity([[7.0]], -5.0), 3.0)


def test_singular_laws_have_velocities_inside_their_way():
    way = displacement(Gaussian([0.0, 0.0], [1.0, 0.0]), Gaussian([1.0, 1.0], [0.0, 2.0]))
    for t in (0.1, 0.5, 0.9):
        assert way.energy(t) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="spreads a point out"):
        way.velocity([0.0, 0.0], 0.0)
    full = displacement(Gaussian([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]]), drawn(2, 2))
    assert full.energy(0.3) == pytest.approx(full.cost())


@given(st.integers(0, 10**6), st.integers(1, 5), st.data())
def test_of_any_ranks_there_are_maps_from_inside_the_way(seed, dim, data):
    rng, ranks = np.random.default_rng(seed), [data.draw(st.integers(0, dim)) for _ in range(2)]
    f, g = (rng.standard_normal((dim, rank)) for rank in ranks)
    way = displacement(Gaussian(rng.standard_normal(dim), f @ f.T), Gaussian(rng.standard_normal(dim), g @ g.T))
    for t in (0.1, 0.5, 0.8):
        assert way.energy(t) == pytest.approx(way.cost(), rel=1e-10)


def test_points_move_along_lines():
    rng = np.random.default_rng(0)
    way = displacement(Empirical(rng.standard_normal((6, 2))), Empirical(rng.standard_normal((6, 2))))
    assert isinstance(way.marginal(0.5), Empirical)
    half = displacement(way.marginal(0.0), way.marginal(0.5))
    assert half.cost() == pytest.approx(way.cost() / 4)
    with pytest.raises(ValueError, match="pairs must be Gaussian"):
        way.velocity(np.zeros(2), 0.5)


def test_many_dimensions_cost_nothing():
    way = displacement(Gaussian(np.zeros(3000), 1.0), Gaussian(np.ones(3000), 4.0))
    assert way.energy(0.4) == pytest.approx(6000)
    assert way.velocity(np.zeros(3000), 0.4).shape == (3000,)


def test_mixtures_on_the_line_keep_their_energy_and_obey_continuity():
    way = displacement(P, Q)
    assert isinstance(way, LineDisplacement)
    for t in (0.0, 0.3, 1.0):
        assert way.energy(t, LOOSE) == pytest.approx(way.cost(), rel=1e-6)
    # the points at (x, t) come from where they are at t -+ h, with the density of the same mass
    x, h = np.linspace(-3, 4, 15)[:, None], 1e-3
    ahead, behind = way.image(x, 0.4, 0.4 + h), way.image(x, 0.4, 0.4 - h)
    np.testing.assert_allclose((ahead - behind) / (2 * h), way.velocity(x, 0.4), atol=1e-10)
    np.testing.assert_allclose(way.marginal(0.4 + h).cdf(ahead), way.marginal(0.4 - h).cdf(behind), atol=1e-10)


def test_equal_laws_stay():
    way = displacement(P, P)
    assert way.cost() == 0
    assert way.energy(0.5, Quadrature(1e-3)) == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(way.image([[-1.0], [0.5]], 0.0, 1.0), [[-1.0], [0.5]], atol=1e-14)


def test_velocities_from_either_end_are_one():
    way = LineDisplacement(P, Q)
    back, x = LineDisplacement(Q, P), np.linspace(-3, 4, 5)[:, None]
    for t in (0.1, 0.5, 0.7):
        np.testing.assert_allclose(way.velocity(x, t), -back.velocity(x, 1 - t), atol=1e-9)


def test_a_point_set_spreads_out_on_the_line():
    points = Empirical([[-1.0], [2.0]], [0.3, 0.7])
    out, home = displacement(points, P), displacement(P, points)
    for t in (0.1, 0.6, 1.0):
        assert out.energy(t, LOOSE) == pytest.approx(out.cost(), rel=1e-6)
        assert home.energy(1 - t, LOOSE) == pytest.approx(out.cost(), rel=1e-6)
    gap = 0.5 * (home.marginal(0.5).quantile(0.3) + home.marginal(0.5).quantile(0.3 + 1e-9))
    assert np.isfinite(home.velocity(gap, 0.5)).all()
    with pytest.raises(ValueError, match="laws must have one with a density"):
        out.velocity([0.0], 0.0)


def test_what_does_not_fit_is_named():
    with pytest.raises(TypeError, match="pairs must be a PairLaw"):
        Displacement(P)
    with pytest.raises(ValueError, match="pairs must be optimal, got a cost of 5 where 1 is the least"):
        Displacement(independent(Gaussian([0.0], 1.0), Gaussian([0.0], 4.0)))
    with pytest.raises(ValueError, match="optimal coupling of mixtures is no mixture"):
        displacement(random_mixture(2, 3, 1), random_mixture(2, 2, 2))
    with pytest.raises(ValueError, match="t must lie in"):
        displacement(P, Q).marginal(1.5)
    with pytest.raises(ValueError, match="pairs must be Gaussian"):
        Displacement(independent(P, Q)).energy(0.5)
