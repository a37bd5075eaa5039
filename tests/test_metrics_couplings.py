"""Couplings have their marginals, potentials prove them, and equal ranks are optimal on the line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.distributions import Empirical
from refdiff.metrics import optimal_coupling
from refdiff.metrics.couplings import rank_coupling


def drawn(seed, n, m, dim, *, ties):
    rng = np.random.default_rng(seed)
    x, y = (np.round(rng.normal(size=(k, dim)), 1 if ties else 9) for k in (n, m))
    return Empirical(x, rng.integers(1, 4, n)), Empirical(y, rng.integers(1, 4, m))


def assert_optimal(coupling, p, q, order, slack):
    """Marginals, feasible potentials, no gap."""
    rows = np.bincount(coupling.rows, coupling.masses, p.count)
    columns = np.bincount(coupling.columns, coupling.masses, q.count)
    np.testing.assert_allclose(rows, p.weights, atol=slack)
    np.testing.assert_allclose(columns, q.weights, atol=slack)
    cost = np.linalg.norm(p.means[:, None] - q.means, axis=-1) ** order
    f, g = coupling.potentials
    assert (f[:, None] + g - cost).max() <= slack * (1 + cost.max())
    np.testing.assert_allclose(coupling.cost, cost[coupling.rows, coupling.columns] @ coupling.masses, rtol=1e-12)
    assert abs(coupling.cost - coupling.bound) <= slack * (1 + cost.max())


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    order=st.floats(1, 5),
    ties=st.booleans(),
)
def test_equal_ranks_are_proved_optimal_on_the_line(seed, n, m, order, ties):
    p, q = drawn(seed, n, m, 1, ties=ties)
    assert_optimal(optimal_coupling(p, q, order), p, q, order, 1e-13)


def test_equal_ranks_are_not_optimal_below_one():
    # a concave cost leaves common mass where it is
    p, q = Empirical([[0.0], [1.0]]), Empirical([[1.0], [2.0]])
    ranks = rank_coupling(p.means[:, 0], p.weights, q.means[:, 0], q.weights, 0.5)
    with pytest.raises(AssertionError):
        assert_optimal(ranks, p, q, 0.5, 1e-13)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.5])
def test_assignments_and_programs_are_proved_optimal(order):
    rng = np.random.default_rng(3)
    x, y = Empirical(rng.normal(size=(30, 3))), Empirical(rng.normal(size=(30, 3)))
    assert_optimal(optimal_coupling(x, y, order), x, y, order, 1e-12)
    p, q = drawn(4, 20, 25, 2, ties=False)
    assert_optimal(optimal_coupling(p, q, order), p, q, order, 1e-7)  # HiGHS's own tolerance


def test_a_program_finds_what_an_assignment_does():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 12, 2))
    equal = optimal_coupling(Empirical(x), Empirical(y), 2.0)
    split = optimal_coupling(Empirical(np.repeat(x, 2, axis=0)), Empirical(y), 2.0)
    np.testing.assert_allclose(split.cost, equal.cost, rtol=1e-8)


def test_points_of_no_weight_take_no_part():
    p, q = Empirical([[0.0, 0.0], [9.0, 9.0]], [1.0, 0.0]), Empirical([[3.0, 4.0]])
    found = optimal_coupling(p, q, 1.0)
    assert found.cost == pytest.approx(5)
    assert found.potentials[0].shape == (1,)
