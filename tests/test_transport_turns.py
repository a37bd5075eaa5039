"""Updates in turns: errors that are known at no cost, how far they go, and that going beyond does no harm."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.transport.costs import Cost
from refdiff.transport.soft_minima import PlainSide, masses
from refdiff.transport.turns import LARGEST, LATE, Pace, Turns, updated


def turns(accelerated, n=9, m=7, seed=0, with_costs=False):
    rng = np.random.default_rng(seed)
    costs = Cost(matrix=rng.random((n, m)))
    log_a, log_b = (np.log(rng.dirichlet(np.ones(k))) for k in (n, m))
    x, y = np.zeros((n, 1)), np.zeros((m, 1))
    rows, columns = PlainSide(costs, x, y, log_b), PlainSide(costs.swapped(), y, x, log_a)
    held = partial(masses, costs, x, y, log_a, log_b) if with_costs else None
    return Turns(rows, columns, np.zeros(m), accelerated, held), costs.matrix


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
    pace, h = Pace(), 0.7
    for k in range(4):
        w = pace.next(h**k)
    # the convergence of plain turns is h itself
    assert w == pytest.approx(2 / (1 + np.sqrt(1 - h)), rel=1e-12)
    # at that w convergence is w - 1, from which nothing more follows, until less is tried
    ways = [pace.next((w - 1) ** k) for k in range(30)]
    assert ways[:4] == [w] * 4
    assert min(ways) == 1


def test_what_was_too_short_is_mended_from_the_rate_at_hand():
    pace, h = Pace(), 0.93
    for k in range(4):
        w = pace.next(0.7**k)
    # the slower eigenvalue of over-relaxed turns for h: (l + w - 1)^2 = l h w^2
    roots = np.roots([1.0, 2 * (w - 1) - h * w**2, (w - 1) ** 2])
    now, k = w, 0
    while now == w:
        now, k = pace.next(roots.max() ** k), k + 1
    assert now == pytest.approx(2 / (1 + np.sqrt(1 - h)), rel=1e-9)
    assert now < LARGEST


def turned(h, plateau, most=10_000):
    """Iterations of two numbers whose plain turns converge like h, after norms that hardly fall for a while."""
    pace, u, v, w = Pace(), 1.0, 1.0, 1.0
    for k in range(plateau):
        w = pace.next(np.exp(-1e-6 * k))
    for count in range(most):
        u += w * (h**0.5 * v - u)
        v += w * (h**0.5 * u - v)
        if np.hypot(u, v) < 1e-12:
            return count
        w = pace.next(np.hypot(u, v))
    return most


@pytest.mark.parametrize("h", [0.3, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("plateau", [0, 20, 200])
def test_plateaus_do_not_set_the_pace_of_what_follows(h, plateau):
    plain = np.log(1e-12) / np.log(h)
    # 2 - w has fallen as far as the plateau was long, and needs about that long to rise
    assert turned(h, plateau) < plain + 20 + 3 * plateau
    if plateau == 0 and h > 0.5:
        assert turned(h, 0) < 5 * np.log(1e12) / (2 * np.sqrt(1 - h))


@pytest.mark.parametrize("epsilon", [0.05, 0.01, 0.003])
def test_going_beyond_never_takes_longer(epsilon):
    for seed in range(3):
        (slow, _), (fast, _) = (turns(way, 8, 8, seed) for way in (False, True))
        most = slow.until(epsilon, 1e-10, 20_000)
        assert fast.until(epsilon, 1e-10, 20_000) <= most + 20


@pytest.mark.parametrize("most", [LATE + 2, LATE + 3, LATE + 5])
def test_steps_of_newtons_leave_rows_right_and_raise_the_dual_value(most):
    before, after = (newton(k) for k in (most, most + 1))
    for one in (before, after):
        masses = np.exp((one.f[:, None] + one.g - one.rows.cost.matrix) / 0.004) * np.outer(one.a, one.b)
        np.testing.assert_allclose(masses.sum(axis=1), one.a, rtol=1e-10)
        assert one.errors[-1] == pytest.approx(np.abs(masses.sum(axis=0) - one.b).sum(), rel=1e-6, abs=1e-12)
    assert before.a @ before.f + before.b @ before.g < after.a @ after.f + after.b @ after.g


def test_newtons_direction_solves_for_columns_to_first_order():
    one = newton(LATE + 3)
    step = one._direction(0.004)
    h, sums = 1e-4 / np.abs(step).max(), []
    for sign in (-1, 1):
        f = 0.004 * one.rows.minima(one.g + sign * h * 0.004 * step, 0.004)
        logs = (f[:, None] + one.g + sign * h * 0.004 * step - one.rows.cost.matrix) / 0.004
        sums.append((np.exp(logs) * np.outer(one.a, one.b)).sum(axis=0))
    now = (sums[0] + sums[1]) / 2
    # by h^2 and roundings of 1e-15 / h
    np.testing.assert_allclose((sums[1] - sums[0]) / (2 * h), one.b - now, atol=1e-6)
    assert np.abs(one.b - now).max() > 0.01


def test_newtons_steps_end_doubling_the_digits():
    one = newton(200)
    assert len(one.errors) < LATE + 30
    before, after = np.log(one.errors[-3:-1])
    assert after < 1.5 * before < -15


def newton(most):
    one, _ = turns(True, with_costs=True)
    one.until(0.004, 1e-13, most)
    return one


def test_norms_that_grow_or_vanish_change_nothing():
    pace = Pace()
    for norm in (1.0, 2.0, 4.0, 8.0, 0.0, 0.0, 1.0):
        assert pace.next(norm) == 1


def test_rates_that_have_not_settled_change_nothing():
    pace, norm = Pace(), 1.0
    for rate in (0.3, 0.6, 0.8, 0.9, 0.95):
        norm *= rate
        assert pace.next(norm) == 1
    # 2 - w is halved at most
    assert pace.next(0.95 * norm) == 1.5 < 2 / (1 + np.sqrt(1 - 0.95))
