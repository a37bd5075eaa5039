"""Updates in turns: errors that are known at no cost, how far they go, and that going beyond does no harm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.transport.costs import Cost
from refdiff.transport.soft_minima import PlainSide
from refdiff.transport.turns import LARGEST, Pace, Turns, updated


def turns(accelerated, n=9, m=7):
    rng = np.random.default_rng(0)
    costs = Cost(matrix=rng.random((n, m)))
    log_a, log_b = (np.log(rng.dirichlet(np.ones(k))) for k in (n, m))
    x, y = np.zeros((n, 1)), np.zeros((m, 1))
    rows, columns = PlainSide(costs, x, y, log_b), PlainSide(costs.swapped(), y, x, log_a)
    return Turns(rows, columns, np.zeros(m), accelerated), costs.matrix


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_the_error_and_the_mass_are_those_of_the_potentials(accelerated, most):
    one, costs = turns(accelerated)
    assert one.until(0.03, 1e-15, most) == most
    masses = np.exp((one.f[:, None] + one.g - costs) / 0.03) * np.outer(one.a, one.b)
    error = np.abs(masses.sum(axis=1) - one.a).sum() + np.abs(masses.sum(axis=0) - one.b).sum()
    assert one.errors[-1] == pytest.approx(error, rel=1e-10)
    assert one.total == pytest.approx(masses.sum(), rel=1e-12)


@given(st.integers(0, 10_000), st.floats(1.0, 1.99), st.floats(0.001, 30.0))
def test_no_update_lowers_the_dual_value(seed, w, size):
    rng = np.random.default_rng(seed)
    a, lacks, f = rng.dirichlet(np.ones(6)), size * rng.standard_normal(6), rng.standard_normal(6)
    epsilon = 0.1
    new, left, total = updated(a, f, lacks, epsilon, w)
    before, after = (a @ p - epsilon * m for p, m in ((f, a @ np.exp(lacks)), (new, total)))
    # of what w = 1 gives, by roundings of the terms
    plain = epsilon * (a @ (np.expm1(lacks) - lacks))
    assert after - before >= 0.005 * plain - 1e-12 * (1 + abs(before) + epsilon * (a @ np.exp(lacks)))
    rest = np.exp(lacks + (new - f) / epsilon)
    assert left == pytest.approx(a @ np.abs(rest - 1), rel=1e-9, abs=1e-9)
    assert total == pytest.approx(a @ rest, rel=1e-9)


def test_updates_go_as_far_as_the_rate_that_is_seen_asks():
    pace, h = Pace(), 0.9
    for k in range(6):
        w = pace.next(h**k)
    # the convergence of plain turns is h itself
    assert w == pytest.approx(2 / (1 + np.sqrt(1 - h)), rel=1e-12)
    # at that w convergence is w - 1, from which nothing more follows
    for k in range(100):
        assert pace.next((w - 1) ** k) == w


def test_what_was_too_short_is_mended_from_the_rate_at_hand():
    pace, h = Pace(), 0.99
    for k in range(6):
        w = pace.next(0.9**k)
    # the slower eigenvalue of over-relaxed turns for h: (l + w - 1)^2 = l h w^2
    roots = np.roots([1.0, 2 * (w - 1) - h * w**2, (w - 1) ** 2])
    now, k = w, 0
    while now == w:
        now, k = pace.next(roots.max() ** k), k + 1
    assert now == pytest.approx(2 / (1 + np.sqrt(1 - h)), rel=1e-9)
    assert now < LARGEST


def test_norms_that_grow_or_vanish_change_nothing():
    pace = Pace()
    for norm in (1.0, 2.0, 4.0, 8.0, 0.0, 0.0, 1.0):
        assert pace.next(norm) == 1


def test_rates_that_have_not_settled_change_nothing():
    pace, norm = Pace(), 1.0
    for rate in (0.3, 0.6, 0.8, 0.9, 0.95):
        norm *= rate
        assert pace.next(norm) == 1
    assert pace.next(0.95 * norm) == pytest.approx(2 / (1 + np.sqrt(1 - 0.95)), rel=1e-12)
