"""The backward equation on grids: dual to the forward one to rounding, of second order; hitting times and chances."""

import numpy as np
import pytest
from scipy.integrate import quad, simpson
from scipy.linalg import expm

from refdiff.distributions import Gaussian
from refdiff.fokker_planck import FokkerPlanck, Grid, evolve, expectation, hitting_probability, mean_hitting_time
from refdiff.fokker_planck.backward import solve_transposed
from refdiff.fokker_planck.sweeps import Line, solve
from refdiff.model import ExactModel
from refdiff.processes import LinearProcess
from refdiff.schedules import VPLinear
from refdiff.stochastic import marginal_family

METHODS = ("euler", "crank-nicolson", "tr-bdf2", "exponential")
LINE = Grid([-4.0], [4.0], 60)
PLANE = Grid([-3.0, -4.0], [3.0, 4.0], [14, 18])
TURNING = LinearProcess([[-1.0, 0.6], [-0.6, -0.5]], [[0.8, 0.0], [0.2, 0.7]], T=1.0)


def waves(boundary):
    """Rates that depend on x and t, on a ring or not."""
    return FokkerPlanck(
        LINE,
        lambda x, t: np.sin(np.pi * x / 4) * (1 + t),
        lambda x, t: 1.2 + np.cos(np.pi * x / 4) + 0 * t,
        boundary=boundary,
    )


OPERATORS = [
    pytest.param(FokkerPlanck.of(VPLinear(), LINE), id="line"),
    pytest.param(waves("absorbing"), id="absorbing"),
    pytest.param(waves("periodic"), id="ring"),
    pytest.param(FokkerPlanck.of(VPLinear(), PLANE), id="plane"),
    pytest.param(FokkerPlanck.of(TURNING, PLANE), id="correlated"),
    pytest.param(FokkerPlanck.of(TURNING, PLANE, boundary=("absorbing", "periodic")), id="correlated, walls"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_expectations_and_densities_have_one_product_at_all_times(operator, method):
    rng, shape = np.random.default_rng(0), operator.grid.shape
    p, phi, times = rng.exponential(size=shape), rng.standard_normal(shape), np.array([0.1, 0.25, 0.4, 0.5])
    density = evolve(operator, p, times, step=0.04, method=method).densities
    u = expectation(operator, phi, times[::-1], step=0.04, method=method)[::-1]
    axes = tuple(range(1, density.ndim))
    products = (density * u).sum(axis=axes)
    size = (density * np.abs(u)).sum(axis=axes).max()
    assert np.ptp(products) < 1e-12 * size  # some hundred operations a step on numbers of that size


@pytest.mark.parametrize("method", ["tr-bdf2", "exponential"])
def test_the_product_is_kept_on_the_way_to_data_too(method):
    model = ExactModel(Gaussian([0.5], 0.6), VPLinear())
    operator = FokkerPlanck.of_equation(marginal_family(model), LINE)
    times = np.array([0.9, 0.6, 0.4])
    p, phi = LINE.averages(model.marginal(0.9)), np.cos(LINE.points[:, 0])
    density = evolve(operator, p, times, step=0.02, method=method).densities
    u = expectation(operator, phi, times[::-1], step=0.02, method=method)[::-1]
    products = (density * u).sum(axis=1) * LINE.volume
    np.testing.assert_allclose(products, products[0], rtol=1e-12)
    exact = np.exp(-0.5 * model.marginal(0.4).cov()[0, 0]) * np.cos(model.marginal(0.4).mean()[0])
    assert abs(products[0] - exact) < 2e-3


@pytest.mark.parametrize("wrap", [False, True])
def test_the_transposed_solve_is_the_transpose_of_the_solve(wrap):
    rng, n = np.random.default_rng(1), 7
    line = Line(*rng.exponential(size=(2, n, 1)), wrap)
    eye = np.eye(n)
    forward, back = solve(eye, 50.0, line), solve_transposed(eye, 50.0, line)
    np.testing.assert_allclose(back, forward.T, rtol=1e-13)


@pytest.mark.parametrize("process", [VPLinear(), TURNING], ids=["scalar", "matrix"])
def test_expectations_are_those_of_the_kernel_to_second_order(process):
    s, t, errors = 0.3, 0.6, []
    dim = process.axes or 1 if isinstance(process, LinearProcess) else 1
    link = ExactModel(Gaussian(np.zeros(dim), 1.0), process).process.channel(s, t)
    k = np.array([0.9, 0.5])[:dim]
    for cells in (40, 80):
        grid = Grid(np.full(dim, -8.0), np.full(dim, 8.0), cells)
        operator = FokkerPlanck.of(process, grid)
        phi = np.cos(grid.points @ k)
        u = expectation(operator, phi, [t, s], step=0.3 / (cells / 4))[-1]
        gain = link.gain * np.eye(dim) if np.ndim(link.gain) < 2 else link.gain
        noise = link.noise * np.eye(dim) if np.ndim(link.noise) < 2 else link.noise
        exact = np.exp(-0.5 * k @ noise @ k) * np.cos(grid.points @ gain.T @ k)
        inside = (np.abs(grid.points) < 3).all(axis=-1)
        errors.append(np.abs(u - exact)[inside].max())
    assert 1.7 < np.log2(errors[0] / errors[1]) < 2.3, errors


def test_positive_methods_keep_between_the_least_and_the_largest_payoff():
    phi = (LINE.points[:, 0] > 0.3).astype(float)
    for method in ("euler", "exponential"):
        u = expectation(waves("no-flux"), phi, [1.0, 0.0], step=0.5, method=method)
        assert u.min() >= 0
        assert u.max() <= 1 + 1e-14


def test_constants_are_expected_and_walls_pay_nothing():
    ones = np.ones(60)
    for method in METHODS:
        for kept in ("no-flux", "periodic"):
            u = expectation(waves(kept), ones, [1.0, 0.0], step=0.1, method=method)
            np.testing.assert_allclose(u, 1.0, rtol=1e-12)
        alive = expectation(waves("absorbing"), ones, [1.0, 0.5, 0.0], step=0.02, method=method)
        assert (np.diff(alive, axis=0) < 0).all()  # the chance to be inside still


# ---------------------------------------------------------------------- hitting


def brownian(grid, drift, diffusion, boundary="no-flux"):
    return FokkerPlanck(grid, lambda x, _: np.full_like(x, drift), lambda *_: diffusion, boundary=boundary, steady=True)


def test_a_drifting_particle_reaches_one_end_first_with_the_chance_of_its_scale_function():
    grid, b, d = Grid([0.0], [1.0], 50), 1.5, 0.8
    x, target, avoided = grid.points[:, 0], np.arange(50) == 49, np.arange(50) == 0
    found = hitting_probability(brownian(grid, b, d), target, avoided)
    scale = np.exp(-2 * b * x / d)
    # the fluxes are exact for constant coefficients, and so is what solves them
    np.testing.assert_allclose(found, (scale[0] - scale) / (scale[0] - scale[-1]), rtol=1e-12)


def test_a_double_well_is_crossed_with_the_chance_of_its_scale_function_to_second_order():
    errors = []
    for cells in (41, 123):  # every third centre of the finer grid is one of the coarser
        grid = Grid([-2.0], [2.0], cells)
        x = grid.points[:, 0]
        operator = FokkerPlanck(grid, lambda x, _: x - x**3, lambda *_: 0.5, steady=True)
        first, last = (np.argmin(np.abs(x - at)) for at in (-40 / 41, 40 / 41))
        found = hitting_probability(operator, np.arange(cells) >= last, np.arange(cells) <= first)
        # the scale function's slope is e^(2 phi / D), phi = x^4 / 4 - x^2 / 2
        scale = [quad(lambda y: np.exp(4 * (y**4 / 4 - y**2 / 2)), x[first], at)[0] for at in x[[cells // 2 + 4, last]]]
        errors.append(abs(found[cells // 2 + 4] - scale[0] / scale[1]))
    assert errors[1] < errors[0] / 8, errors


def test_the_mean_exit_time_of_a_brownian_motion_is_closed():
    grid = Grid([-1.0], [2.0], 64)
    x = grid.points[:, 0]
    found = mean_hitting_time(brownian(grid, 0.0, 0.7, "absorbing"))
    exact = (x + 1) * (2 - x) / 0.7
    # walls are half a cell away, where the quadratic's second difference misses h^2 / 4 of its bend
    np.testing.assert_allclose(found, exact, atol=grid.spacing[0] ** 2 / 0.7)


def test_the_mean_time_is_the_integral_of_the_chance_to_be_inside():
    operator = FokkerPlanck(LINE, lambda x, _: -x, lambda *_: 2.0, boundary="absorbing", steady=True)
    target = np.abs(LINE.points[:, 0]) > 2
    found = mean_hitting_time(operator, target)
    # the same walls made of the target's cells: nothing comes back from them
    inner = operator.matrix(0.0).T.toarray()[~target][:, ~target]
    times, h = np.linspace(0, 60, 2401, retstep=True)
    step, alive = expm(h * inner), [np.ones((~target).sum())]
    for _ in times[1:]:
        alive.append(step @ alive[-1])
    middle = (~target).sum() // 2
    np.testing.assert_allclose(simpson([a[middle] for a in alive], dx=h), found[~target][middle], rtol=1e-5)


def test_a_set_that_is_never_reached_is_refused():
    still = FokkerPlanck(LINE, lambda x, _: 0 * x, lambda *_: 1.0, steady=True)
    with pytest.raises(ValueError, match="never end"):
        mean_hitting_time(still)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: expectation("A", np.ones(60), [1, 0], step=0.1), TypeError, "operator"),
        (
            lambda: expectation(waves("periodic"), np.ones(60), [1, 0], step=0.1, method="patankar"),
            ValueError,
            "method",
        ),
        (lambda: mean_hitting_time(FokkerPlanck.of(VPLinear(), LINE, fit="limited")), ValueError, "linear"),
        (lambda: expectation(waves("periodic"), np.ones((2, 60)), [1, 0], step=0.1), ValueError, "payoff"),
        (lambda: expectation(waves("periodic"), np.ones(60), [1, 0, 0.5], step=0.1), ValueError, "times"),
        (lambda: expectation(waves("periodic"), np.ones(60), [1, 0], step=0.0), ValueError, "step"),
        (lambda: hitting_probability(waves("periodic"), np.ones(60)), ValueError, "target"),
        (lambda: hitting_probability(waves("periodic"), np.zeros(60, bool)), ValueError, "target must hold"),
        (lambda: hitting_probability(waves("periodic"), np.ones(60, bool), np.ones(60, bool)), ValueError, "avoided"),
        (lambda: mean_hitting_time(waves("periodic"), np.ones(59, bool)), ValueError, "target"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_single_precision_in_is_single_precision_out():
    phi = np.cos(LINE.points[:, 0]).astype(np.float32)
    u = expectation(waves("periodic"), phi, [0.2, 0.1], step=0.05)
    assert u.dtype == np.float32


@pytest.mark.parametrize("noise", [1e-6, 1e6])
def test_paths_that_never_end_are_seen_at_every_speed(noise):
    # columns of fast rates miss to zero by more than slow rates are
    operator = FokkerPlanck(Grid(-3, 3, 40), lambda x, _: -noise * x, lambda *_: 2.3 * noise, steady=True)
    with pytest.raises(ValueError, match="paths never end"):
        mean_hitting_time(operator)
