"""The geometry of Gaussians: least velocities, lengths of curves, curvature."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, random_mixture, wasserstein
from refdiff.metrics import wasserstein as distance
from refdiff.transport import optimal_map
from refdiff.transport.displacement import displacement
from refdiff.transport.geometry import (
    exponential_map,
    generalized_geodesic,
    kinetic_energy,
    least_velocity,
)


def drawn(seed: int, dim: int) -> Gaussian:
    law = random_mixture(dim, 1, seed, "full")
    return Gaussian(law.means[0], law.covariances.operator())


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_the_least_velocity_moves_the_law_and_no_other_costs_less(seed, dim):
    rng, law = np.random.default_rng(seed), drawn(seed, dim)
    free = rng.standard_normal((dim, dim))
    rate = free @ law.cov() + law.cov() @ free.T  # what x -> free (x - m) does
    best = least_velocity(law, np.ones(dim), rate)
    np.testing.assert_allclose(best.gain, best.gain.T, atol=1e-10)
    np.testing.assert_allclose(best.gain @ law.cov() + law.cov() @ best.gain, rate, atol=1e-10)
    other = Channel(free, np.ones(dim) - free @ law.mean())
    assert kinetic_energy(law, best) <= kinetic_energy(law, other) + 1e-10


def test_the_velocity_of_the_shortest_way_is_the_least_one():
    way, h = displacement(drawn(1, 3), drawn(2, 3)), 1e-3
    here, ahead, behind = (way.marginal(0.4 + s) for s in (0, h, -h))
    rates = ((ahead.mean() - behind.mean()) / (2 * h), (ahead.cov() - behind.cov()) / (2 * h))
    found, x = least_velocity(here, *rates), here.sample(4, 1)
    np.testing.assert_allclose(x @ found.gain.T + found.offset, way.velocity(x, 0.4), atol=1e-10)
    assert kinetic_energy(here, found) == pytest.approx(way.cost(), rel=1e-10)


def test_every_other_curve_is_longer():
    p, q = drawn(1, 2), drawn(2, 2)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    total = 0.0
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):  # covariances that are blended
        here = Gaussian(p.mean(), (1 - t) * p.cov() + t * q.cov())
        total += w * kinetic_energy(here, least_velocity(here, q.mean() - p.mean(), q.cov() - p.cov()))
    assert total > 1.001 * wasserstein(p, q) ** 2


def test_exponentials_return_what_maps_take():
    p, q = drawn(1, 3), drawn(2, 3)
    way = optimal_map(p, q)
    v = Channel(way.gain - np.eye(3), way.offset)
    np.testing.assert_allclose(exponential_map(p, v).cov(), q.cov(), atol=1e-13)
    np.testing.assert_allclose(exponential_map(p, v, 0.3).cov(), displacement(p, q).marginal(0.3).cov(), atol=1e-13)
    assert kinetic_energy(p, v) == pytest.approx(wasserstein(p, q) ** 2)


def curvature_excess(p, q, r, t):
    """What W_2(p_t, r)^2 has more than in a flat space."""
    mid, one, two, between = (
        distance(*pair).value ** 2 for pair in ((displacement(p, q).marginal(t), r), (p, r), (q, r), (p, q))
    )
    return mid - (1 - t) * one - t * two + t * (1 - t) * between


@given(st.integers(0, 10**6), st.integers(1, 3), st.floats(0, 1))
def test_squares_of_distances_are_curved_one_way_and_convex_another(seed, dim, t):
    p, q, r = (drawn(seed + i, dim) for i in range(3))
    assert curvature_excess(p, q, r, t) >= -1e-11
    if dim == 1:
        assert curvature_excess(p, q, r, t) == pytest.approx(0, abs=1e-11)
    along = generalized_geodesic(r, p, q, t)
    first, second = optimal_map(r, p), optimal_map(r, q)
    apart = kinetic_energy(r, Channel(first.gain - second.gain, first.offset - second.offset))
    exact = (1 - t) * wasserstein(p, r) ** 2 + t * wasserstein(q, r) ** 2 - t * (1 - t) * apart
    assert wasserstein(along, r) ** 2 == pytest.approx(exact, abs=1e-10)
    assert apart >= wasserstein(p, q) ** 2 - 1e-10


def test_commuting_covariances_are_flat_and_points_are_curved():
    p, q, r = Gaussian([0.0, 1.0], [1.0, 2.0]), Gaussian([1.0, 0.0], [3.0, 0.1]), Gaussian([0.0, 0.0], [0.2, 5.0])
    assert curvature_excess(p, q, r, 0.3) == pytest.approx(0, abs=1e-14)
    cross, there = (
        [Empirical([[2.0, 1.0], [-2.0, -1.0]]), Empirical([[2.0, -1.0], [-2.0, 1.0]])],
        [[0.0, 1.0], [0.0, -1.0]],
    )
    # |(2, 0) - (0, 1)|^2 = 5, |(2, 1) - (0, 1)|^2 = 4, |(2, 1) - (2, -1)|^2 = 4: 5 - 4 + 1
    assert curvature_excess(*cross, Empirical(there), 0.5) == pytest.approx(2.0)
    assert generalized_geodesic(r, p, q, 0.5).covariances.operator().ndim == 1


def test_singular_laws_and_what_does_not_fit():
    flat = Gaussian([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]])
    found = least_velocity(flat, np.zeros(2), np.ones((2, 2)))
    np.testing.assert_allclose(found.gain, np.ones((2, 2)) / 4, atol=1e-14)
    for law, rate in ((flat, np.eye(2)), (Gaussian([0.0, 0.0], [1.0, 0.0]), [0.0, 1.0])):
        with pytest.raises(ValueError, match="between directions in which law has no variance"):
            least_velocity(law, np.zeros(2), rate)
    assert not least_velocity(Gaussian([0.0], 0.0), [1.0], 0.0).gain.any()
    np.testing.assert_allclose(least_velocity(Gaussian([0.0, 0.0], [1.0, 4.0]), np.zeros(2), 2.0).gain, [1.0, 0.25])
    with pytest.raises(ValueError, match="covariance_rate must be symmetric"):
        least_velocity(flat, np.zeros(2), [[0.0, 1.0], [0.0, 0.0]])
    with pytest.raises(TypeError, match="law must be a Gaussian"):
        least_velocity(random_mixture(2, 2, 1), np.zeros(2), 0.0)
    with pytest.raises(TypeError, match="velocity must be a Channel"):
        kinetic_energy(flat, 1.0)
    for call in (kinetic_energy, exponential_map):
        with pytest.raises(ValueError, match="velocity must have no noise"):
            call(flat, Channel(noise=1.0))
        with pytest.raises(ValueError, match=r"of shape \(3,\) does not act on dimension 2"):
            call(flat, Channel(1.0, np.zeros(3)))
    with pytest.raises(TypeError, match="velocity must be a Channel"):
        exponential_map(flat, 1.0)
