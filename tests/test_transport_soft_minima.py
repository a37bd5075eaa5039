"""Soft minima in tiles and in kernels, and the order in which kernels take points."""

import numpy as np
import pytest
from scipy.special import logsumexp

from refdiff import backends
from refdiff.transport import soft_minima
from refdiff.transport.costs import ground_cost
from refdiff.transport.soft_minima import CompiledSide, PlainSide, near_first, side


def problem(cost, dim, n=70, m=90):
    rng = np.random.default_rng(dim)
    x, y = rng.normal(size=(n, dim)) + 5, rng.normal(size=(m, dim)) + 5
    return ground_cost(cost, (n, m)), x, y, np.log(rng.dirichlet(np.ones(m))), rng.normal(size=m)


@pytest.mark.parametrize("way", [PlainSide, CompiledSide])
@pytest.mark.parametrize(("cost", "dim"), [("half-squared", 2), ("squared", 20), (1.0, 3), (1.5, 1)])
def test_minima_means_and_costs_are_sums_over_all_pairs(cost, dim, way):
    ground, x, y, logs, g = problem(cost, dim)
    half, values = way(ground, x, y, logs), np.random.default_rng(1).normal(size=(90, 2))
    for epsilon in (0.5, 0.05):
        logits = logs + (g - ground.values(x, y)) / epsilon
        exact = -logsumexp(logits, axis=1)
        shares = np.exp(logits + exact[:, None])
        # some roundings of the logits, up to 5000
        np.testing.assert_allclose(half.minima(g, epsilon), exact, atol=2e-11)
        np.testing.assert_allclose(half.minima(g, epsilon, exact + 3), exact, atol=2e-11)
        np.testing.assert_allclose(half.means(g, epsilon, values), shares @ values, atol=2e-11)
        costs = (shares * ground.values(x, y)).sum(axis=1)
        np.testing.assert_allclose(half.mean_costs(g, epsilon), costs, rtol=1e-10)


def test_points_far_from_each_other_in_many_axes_keep_their_differences():
    ground, x, y, logs, g = problem("half-squared", 20)
    y[:40] = x[:40]
    half = CompiledSide(ground, x, y, logs)
    # units in which squared lengths are above 2^16: products would lose what is near
    exact = PlainSide(ground, x, y, logs).minima(g * 1e-4, 1e-5)
    np.testing.assert_allclose(half.minima(g * 1e-4, 1e-5), exact, rtol=1e-14, atol=1e-10)


def test_tiles_of_rows_join(monkeypatch):
    ground, x, y, logs, g = problem(1.0, 2)
    half, values = PlainSide(ground, x, y, logs), np.ones((90, 1))
    whole = half.minima(g, 0.3), half.means(g, 0.3, values), half.mean_costs(g, 0.3)
    monkeypatch.setattr(soft_minima, "TILE", 500)
    for one, other in zip(
        (half.minima(g, 0.3), half.means(g, 0.3, values), half.mean_costs(g, 0.3)), whole, strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_kernels_serve_powers_of_distances_only():
    _, x, y, logs, _ = problem(1.0, 2)
    with backends.use("numba"):
        assert isinstance(side(ground_cost("squared", (70, 90)), x, y, logs), CompiledSide)
        assert isinstance(side(ground_cost(np.ones((70, 90)), (70, 90)), x, y, logs), PlainSide)
    with backends.use("numpy"):
        assert isinstance(side(ground_cost("squared", (70, 90)), x, y, logs), PlainSide)


def test_neighbours_in_order_are_neighbours_in_space():
    x = np.random.default_rng(0).random((1000, 2))
    order = near_first(x, 32, 12)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    widths = [np.ptp(x[order[k : k + 32]], axis=0).prod() for k in range(0, 1000, 32)]
    # 32 tiles of a unit square
    assert np.mean(widths) < 2 / 32
    np.testing.assert_array_equal(near_first(x, 32, 2), np.arange(1000))
