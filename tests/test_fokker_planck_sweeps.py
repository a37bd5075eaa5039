"""Lines of cells, one tridiagonal matrix each: without a subtraction, so positive and exact in every entry."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from refdiff.fokker_planck.fluxes import Rates
from refdiff.fokker_planck.layouts import layout
from refdiff.fokker_planck.sweeps import METHODS, Line, solve


def generator(up, down, wrap):
    """A of one line, shape (n, n)."""
    n = len(up)
    a = -np.diag(up + down)
    for i in range(n):
        if wrap or i + 1 < n:
            a[(i + 1) % n, i] += up[i]
        if wrap or i > 0:
            a[(i - 1) % n, i] += down[i]
    return a


def lines(seed, n=7, m=3, scale=3.0):
    rng = np.random.default_rng(seed)
    return rng.random((n, m)), *rng.exponential(scale, (2, n, m))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 12), wrap=st.booleans(), dt=st.floats(1e-6, 1e6))
def test_a_line_solves_its_system_for_every_step(seed, n, wrap, dt):
    x, up, down = lines(seed, n)
    y = solve(x, dt, Line(up, down, wrap))
    assert (y >= 0).all()
    for k in range(x.shape[1]):
        system = np.eye(n) - dt * generator(up[:, k], down[:, k], wrap)
        # columns that sum to 1: the inverse has sums of 1 too
        assert np.abs(system @ y[:, k] - x[:, k]).max() <= 1e-14 * np.abs(system).max() * y[:, k].max()


@pytest.mark.parametrize("wrap", [False, True], ids=["line", "ring"])
@pytest.mark.parametrize("dt", [0.01, 1e9])
def test_every_entry_has_its_digits_however_small_it_is_and_however_long_the_step(wrap, dt):
    # from one cell alone through twenty: after a short step the last entries are of the size 1e-40
    n = 40
    up, down = np.full((n, 1), 0.5), np.full((n, 1), 2.0)
    if not wrap:
        up[-1] = down[0] = 0
    x = np.zeros((n, 1))
    x[20] = 1.0
    y = solve(x, dt, Line(up, down, wrap))[:, 0]
    with mpmath.workdps(120):
        system = mpmath.eye(n) - mpmath.mpf(dt) * mpmath.matrix(generator(up[:, 0], down[:, 0], wrap).tolist())
        exact = mpmath.lu_solve(system, mpmath.matrix(x.tolist()))
        worst = max(abs(mpmath.mpf(y[i]) / exact[i] - 1) for i in range(n))
    assert y.min() < (1e-30 if dt < 1 else 1)
    assert worst < n * 4 * np.finfo(float).eps


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("wrap", [False, True], ids=["line", "ring"])
def test_methods_have_their_orders(name, wrap):
    x, up, down = lines(5, scale=1.0)
    method, line = METHODS[name], Line(up, down, wrap)
    exact = np.stack([expm(generator(up[:, k], down[:, k], wrap)) @ x[:, k] for k in range(x.shape[1])], axis=1)
    errors = []
    for steps in (32, 64):
        y = x
        for _ in range(steps):
            y = method.step(y, 1 / steps, line)
        errors.append(np.abs(y - exact).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_positive_below_their_bounds_and_not_above(name):
    method = METHODS[name]
    n = 9
    x = np.zeros((n, 1))
    x[n // 2] = 1.0
    line = Line(np.ones((n, 1)), np.ones((n, 1)), True)
    bound = min(method.positive, 1e9)
    assert (method.step(x, 0.999 * bound / 2, line) >= 0).all()
    if np.isfinite(method.positive):
        # far above the neighbours have what the cell itself should have kept
        assert method.step(x, 4 * bound, line).min() < -0.01


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("wrap", [False, True], ids=["line", "ring"])
def test_the_mass_is_kept_over_a_thousand_steps(name, wrap):
    x, up, down = lines(1, n=6, m=1, scale=300.0)
    if not wrap:
        up[-1] = down[0] = 0
    y, line = x, Line(up, down, wrap)
    for _ in range(1000):
        y = METHODS[name].step(y, 0.02, line)
    # pivots of linear methods are rounded alike every time, up to an eps a step; those of patankar follow the density
    assert abs(y.sum() / x.sum() - 1) < (1e-14 if name == "patankar" else 1000 * np.finfo(float).eps)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_still_stays_still_to_rounding(name):
    # weights of x and S x that sum to 1 up to rounding alone would show here: rates of zero leave nothing else
    x = lines(3)[0]
    still = Line(np.zeros_like(x), np.zeros_like(x), False)
    assert np.array_equal(METHODS[name].step(x, 0.1, still), x)


def test_what_walls_absorb_is_lost():
    x, up, down = lines(2)
    y = solve(x, 1.0, Line(up, down, False))
    lost = up[-1] * y[-1] + down[0] * y[0]
    assert np.allclose(x.sum(axis=0) - y.sum(axis=0), lost)


def test_a_step_of_patankar_survives_underflow():
    x = np.array([[1.0], [0.0], [0.0], [5e-324], [0.0]])
    rates = np.full((5, 1), 1e-200)
    rates[[0, -1]] = 0
    y = METHODS["patankar"].step(x, 1.0, Line(rates, rates, False))
    assert np.isfinite(y).all()
    assert (y >= 0).all()
    assert y.sum() == 1


SHAPE = (4, 6)


@pytest.mark.parametrize("step", [(1, 0), (0, 1), (1, 1), (1, -1)])
@pytest.mark.parametrize("rings", [(), (0,), (1,)], ids=["walls", "first", "second"])
def test_lines_follow_their_step(step, rings):
    boundaries = ["periodic" if k in rings else "no-flux" for k in range(2)]
    found = layout(SHAPE, step, boundaries)
    density = np.random.default_rng(0).random(SHAPE)
    taken = found.take(density)
    assert np.array_equal(found.put(taken), density)
    # one step up a line is one step e on the grid
    rates = Rates(step, density, 2 * density)
    line = found.line(rates)
    cells = np.arange(1.0, 25.0).reshape(SHAPE)
    ahead = np.zeros(SHAPE)
    for i, j in np.ndindex(*SHAPE):
        a, b = i + step[0], j + step[1]
        if all(0 <= c < n or k in rings for k, (c, n) in enumerate(zip((a, b), SHAPE, strict=True))):
            ahead[i, j] = cells[a % 4, b % 6]
    moved = np.roll(found.take(cells), 1 if found.turned else -1, axis=0)
    if not found.wrap:
        moved[0 if found.turned else -1] = 0
    there = found.take(cells) > 0
    assert np.array_equal(moved[there], found.take(ahead)[there])
    assert np.array_equal(line.down if found.turned else line.up, taken)


def test_diagonals_of_a_torus_close_where_one_axis_has_a_multiple_of_the_other_ones_cells():
    torus = ["periodic"] * 2
    density = np.random.default_rng(0).random((8, 4))
    for shape in ((8, 4), (4, 8), (5, 5)):
        found = layout(shape, (1, 1), torus)
        assert found.wrap
        p = np.resize(density, shape)
        assert np.array_equal(found.put(found.take(p)), p)
    with pytest.raises(ValueError, match="do not close"):
        layout((6, 4), (1, 1), torus)
