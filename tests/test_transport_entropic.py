"""Entropic transport of Gaussians and of points by one name, and Sinkhorn's divergence: its limits, zeros and slope."""

import mixtures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refdiff import Empirical, Gaussian
from refdiff.channels import Channel
from refdiff.distributions import random_mixture, wasserstein
from refdiff.transport import (
    EntropicPlan,
    GaussianPlan,
    entropic_cost,
    entropic_pairs,
    entropic_plan,
    optimal_pairs,
    sinkhorn_divergence,
    sinkhorn_slope,
)

SEEDS = st.integers(0, 2**32 - 1)


def gaussian(rng, d=3, rank=None):
    a = rng.standard_normal((d, rank or d))
    return Gaussian(rng.standard_normal(d), a @ a.T)


def point_sets(seed, n=6, m=5):
    p = mixtures.law("points", 2, n, seed)
    q = mixtures.law("points", 2, m, seed + 1)
    return p.affine(0.3), q.affine(0.2, [0.5, -0.2])


# ---------------------------------------------------------------------- plans of both kinds


def test_plans_of_both_kinds_answer_the_same_questions():
    rng = np.random.default_rng(0)
    gaussians, points = (gaussian(rng, 2), gaussian(rng, 2)), point_sets(1)
    for (p, q), kind in ((gaussians, GaussianPlan), (points, EntropicPlan)):
        plan = entropic_plan(p, q, 0.5, tolerance=1e-12)
        assert isinstance(plan, kind)
        assert plan.value == pytest.approx(plan.mean_cost() + 0.5 * plan.kl(), rel=1e-10)
        assert plan.value == pytest.approx(entropic_cost(p, q, 0.5), rel=1e-8)
        pairs = entropic_pairs(p, q, 0.5)
        assert 0.5 * pairs.cost() == pytest.approx(plan.mean_cost(), rel=1e-8)
        x = rng.standard_normal((3, 2))
        for one in 1e-5 * np.eye(2):
            values = [plan.potential(at) for at in (x + one, x - one)]
            slope = (values[0] - values[1]) / 2e-5
            np.testing.assert_allclose(slope, (x - plan.barycentric(x)) @ one / 1e-5, atol=1e-8)


def test_discrete_plans_of_many_quantiles_tend_to_the_gaussian_one():
    u, w = np.polynomial.hermite_e.hermegauss(40)
    p, q = Gaussian([0.3], 1.0), Gaussian([-0.5], 0.36)
    nodes = [Empirical((law.mean()[0] + np.sqrt(law.cov()[0, 0]) * u)[:, None], w / w.sum()) for law in (p, q)]
    for channel in (Channel(noise=1.0), Channel(0.6, 0.2, 0.7)):
        points, plan = entropic_plan(*nodes, 0.8, channel, tolerance=1e-13), entropic_plan(p, q, 0.8, channel)
        assert points.value == pytest.approx(plan.value, rel=1e-10)
        assert points.kl() == pytest.approx(plan.kl(), rel=1e-9)
        x = np.array([[-1.0], [0.4], [2.0]])
        np.testing.assert_allclose(points.barycentric(x), plan.barycentric(x), atol=1e-9)
        np.testing.assert_allclose(points.potential(x), plan.f(x), atol=1e-9)


def test_a_point_and_a_gaussian_are_coupled_too():
    point, q = Empirical([[1.0, 0.0]]), Gaussian([0.0, 0.0], 2.0)
    assert entropic_cost(point, q, 0.3) == pytest.approx(2.5, rel=1e-15)
    assert sinkhorn_divergence(point, point, 0.3) == 0
    assert sinkhorn_divergence(point, Empirical([[0.0, 1.0]]), 0.3) == pytest.approx(1.0, rel=1e-14)


def test_arrays_are_points_of_equal_weight():
    p, q = (Empirical(law.means) for law in point_sets(4))
    x, y = p.means, q.means
    assert entropic_cost(x, y, 0.5) == entropic_cost(p, q, 0.5)
    assert sinkhorn_divergence(x, y, 0.5) == sinkhorn_divergence(p, q, 0.5)
    np.testing.assert_array_equal(sinkhorn_slope(x, y, 0.5, x), sinkhorn_slope(p, q, 0.5, x))
    assert entropic_pairs(x, y, 0.5).cost() == entropic_pairs(p, q, 0.5).cost()


# ---------------------------------------------------------------------- the divergence


@given(SEEDS, st.sampled_from([(3, 3), (3, 1), (2, 3), (1, 2)]), st.sampled_from([0.0, 1e-3, 0.3, 10.0]))
def test_divergence_of_gaussians_is_a_divergence(seed, ranks, epsilon):
    rng = np.random.default_rng(seed)
    p, q = (gaussian(rng, 3, rank) for rank in ranks)
    found = sinkhorn_divergence(p, q, epsilon)
    raw = entropic_cost(p, q, epsilon) - 0.5 * (entropic_cost(p, p, epsilon) + entropic_cost(q, q, epsilon))
    size = np.trace(p.cov() + q.cov()) + ((p.mean() - q.mean()) ** 2).sum()
    assert found == pytest.approx(raw, abs=1e-14 * size)
    assert found > 1e-3 * size / (1 + epsilon)
    assert sinkhorn_divergence(q, p, epsilon) == pytest.approx(found, rel=1e-12)
    assert sinkhorn_divergence(p, p, epsilon) <= 1e-25 * size
    assert epsilon == 0 or entropic_cost(p, p, epsilon) > 0.01 * min(epsilon, size)  # what it mends


@given(SEEDS)
def test_limits_of_the_divergence(seed):
    rng = np.random.default_rng(seed)
    p, q = gaussian(rng), gaussian(rng)
    assert sinkhorn_divergence(p, q, 0.0) == pytest.approx(0.5 * wasserstein(p, q) ** 2, rel=1e-9)
    shift, change = ((p.mean() - q.mean()) ** 2).sum(), p.cov() - q.cov()
    e = 1e5 * np.trace(p.cov() + q.cov())
    found = sinkhorn_divergence(p, q, e) - 0.5 * shift
    # |S - R|^2 / (4 eps), to (s / eps)^2 of it
    assert found == pytest.approx((change**2).sum() / (4 * e), rel=1e-8, abs=1e-15 * shift)


def test_close_gaussians_keep_the_digits_that_the_terms_have():
    p = Gaussian(np.zeros(2), [1.0, 4.0])
    for epsilon in (1e-3, 1e3):  # eps rounding errors of eps^2 / s or s^2 / eps, not of s
        for step in (1e-2, 1e-3):
            q = Gaussian(np.zeros(2), np.array([1.0, 4.0]) * (1 + step) ** 2)
            ratio = sinkhorn_divergence(p, q, epsilon) / step**2
            wanted = 2.5 if epsilon < 1 else 4 * (1 + 16) / (4 * epsilon)
            assert ratio == pytest.approx(wanted, rel=2 * step + 1e-5)


@given(SEEDS, st.sampled_from(["half-squared", "squared", 1.0, 1.5]), st.sampled_from([0.3, 100.0]))
@settings(max_examples=12)
def test_divergence_of_points_is_a_divergence(seed, cost, epsilon):
    p, q = point_sets(seed % 1000)
    found = sinkhorn_divergence(p, q, epsilon, cost=cost, tolerance=1e-10)
    assert found > 1e-4
    assert sinkhorn_divergence(q, p, epsilon, cost=cost, tolerance=1e-10) == pytest.approx(found, abs=1e-8)
    assert abs(sinkhorn_divergence(p, p, epsilon, cost=cost, tolerance=1e-12)) < 1e-10


def test_limits_of_the_divergence_of_points():
    p, q = point_sets(3)
    assert sinkhorn_divergence(p, q, 0.02, max_iterations=100_000) == pytest.approx(
        0.5 * optimal_pairs(p, q).cost(), abs=0.02)  # fmt: skip
    loud = sinkhorn_divergence(p, q, 1e6, tolerance=1e-13)
    assert loud == pytest.approx(0.5 * ((p.mean() - q.mean()) ** 2).sum(), rel=1e-5)
    # for |x - y| half of the energy distance
    between, *within = (
        a.weights @ np.linalg.norm(a.means[:, None] - b.means, axis=-1) @ b.weights for a, b in ((p, q), (p, p), (q, q))
    )
    energy = sinkhorn_divergence(p, q, 1e6, cost=1.0, tolerance=1e-13)
    assert energy == pytest.approx(between - 0.5 * sum(within), abs=1e-5)


def test_slope_is_the_derivative_in_points_and_in_gaussians():
    p, q = point_sets(5)
    x, w, h = p.means, p.weights, 1e-4
    slope = sinkhorn_slope(p, q, 0.5, x, tolerance=1e-12)
    for i, j in ((0, 1), (3, 0)):
        values = []
        for sign in (1, -1):
            moved = x.copy()
            moved[i, j] += sign * h
            values.append(sinkhorn_divergence(Empirical(moved, w), q, 0.5, tolerance=1e-12))
        assert (values[0] - values[1]) / (2 * h) == pytest.approx(w[i] * slope[i, j], abs=1e-7)
    rng = np.random.default_rng(0)
    p, q = gaussian(rng), gaussian(rng)
    direction, push = rng.standard_normal((3, 3)), rng.standard_normal(3)
    values = [sinkhorn_divergence(p.affine(np.eye(3) + s * h * direction, s * h * push), q, 0.5) for s in (1, -1)]
    # E slope(x) . (D x + u), by points that have p's moments
    roots = np.sqrt(3) * np.linalg.cholesky(p.cov()).T
    nodes = p.mean() + np.vstack([roots, -roots])
    mean = (sinkhorn_slope(p, q, 0.5, nodes) * (nodes @ direction.T + push)).sum(axis=1).mean()
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(mean, rel=1e-6)


def test_slopes_vanish_where_the_laws_agree_and_single_precision_stays():
    p, q = point_sets(2)
    x = p.means.astype(np.float32)
    assert sinkhorn_slope(p, q, 0.5, x).dtype == np.float32
    np.testing.assert_allclose(sinkhorn_slope(p, p, 0.5, p.means, tolerance=1e-13), 0, atol=1e-11)


def test_refusals():
    p, q = point_sets(0)
    g, two = Gaussian([0.0, 1.0], 1.0), random_mixture(2, 2, 0)
    for match, make in [
        ("must be Gaussians or point sets", lambda: entropic_plan(g, two, 0.5)),
        ("must be Gaussians or point sets", lambda: entropic_plan(p, g, 0.5)),
        ("must have the same dimension", lambda: entropic_plan(p, Gaussian([0.0], 1.0), 0.5)),
        ("cost must be half-squared", lambda: sinkhorn_divergence(g, g, 0.5, cost="squared")),
        ("got a matrix", lambda: sinkhorn_divergence(p, p, 0.5, cost=np.ones((p.count, p.count)))),
        ("q must be a Gaussian like", lambda: sinkhorn_divergence(g, q, 0.5)),
        ("x must have shape", lambda: sinkhorn_slope(p, q, 0.5, np.zeros((2, 3)))),
    ]:
        with pytest.raises(ValueError, match=match):
            make()
