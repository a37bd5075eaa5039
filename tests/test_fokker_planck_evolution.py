"""Densities carried in time: their orders, their mass and their sign, forward, back, and with whatever method."""

from functools import cache

import numpy as np
import pytest

from refdiff import backends
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.fokker_planck import FokkerPlanck, Grid, evolve
from refdiff.fokker_planck.sweeps import METHODS
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, LinearProcess, critically_damped_langevin, ornstein_uhlenbeck
from refdiff.schedules import FlowMatching, Schedule, VEPower, VPLinear
from refdiff.stochastic import marginal_family

EVERY = [*METHODS, "exponential"]


@pytest.fixture(autouse=True)
def _on_kernels():
    with backends.use("numba"):
        yield


LINE = GaussianMixture.isotropic([[-1.0], [2.0]], [0.2, 0.5])
PLANE = GaussianMixture.isotropic([[-1.0, 0.0], [2.0, 1.0]], [0.3, 0.5])
TURNING = ornstein_uhlenbeck([[1.0, 2.0], [-2.0, 1.0]], noise=np.eye(2), T=3.0)
CORRELATED = ornstein_uhlenbeck([[1.0, 2.0], [-2.0, 1.0]], noise=[[1.0, 0.0], [0.5, 0.8]], T=3.0)


def process_kernel(process, t):
    return (process if not isinstance(process, Schedule) else AffineProcess(process)).kernel(t)


def covering(process, law, t, cells):
    """The equation on a grid around a law and what the process makes of it by the time t."""
    return FokkerPlanck.of(process, Grid.around([law, process_kernel(process, t).push(law)], cells))


def distance(p, q):
    return np.abs(p - q).max() / q.max()


# the rates of a schedule without a stationary density at any time do not commute with each other
PROBLEMS = {
    "line": (FlowMatching(), LINE, 0.2, 0.7, 40),
    "axes": (AffineProcess([VPLinear(0.1, 8.0), FlowMatching()]), PLANE, 0.1, 0.6, 12),
    "turning": (TURNING, PLANE, 0.0, 0.5, 16),
    "correlated": (CORRELATED, PLANE, 0.0, 0.5, 16),
}


@cache
def posed(name):
    """A problem's start, operator, times and the solution on its grid, extrapolated to steps of no length."""
    process, law, start, end, cells = PROBLEMS[name]
    first = ExactModel(law, process).marginal(start)
    operator = covering(process, first, end, cells)
    times = [start, end]
    coarse, fine = (
        evolve(operator, first, times, step=(end - start) / n, method="exponential").densities[-1] for n in (32, 64)
    )
    # errors of even orders of the step alone: what is left is of the fourth
    return first, operator, times, fine + (fine - coarse) / 3


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", EVERY)
def test_methods_have_their_orders_in_time(name, method):
    first, operator, times, exact = posed(name)
    if method == "exponential" and operator.steady:
        assert distance(evolve(operator, first, times, step=9, method=method).densities[-1], exact) < 1e-13
        return
    # the weights of Patankar are close to 1 only where a step changes little
    counts = {"euler": (20, 40), "patankar": (80, 160)}.get(method, (10, 20))
    length = times[1] - times[0]
    found = [evolve(operator, first, times, step=length / n, method=method).densities[-1] for n in counts]
    errors = [distance(p, exact) for p in found]
    order = METHODS[method].order if method in METHODS else 2
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)
    assert errors[1] < 0.05


@pytest.mark.parametrize(
    "process",
    [VPLinear(0.1, 8.0), VEPower(0.5, T=2.0), FlowMatching(), VPLinear(2.0, 2.0, T=3.0)],
    ids=["VP", "VE", "flow matching", "OU"],
)
def test_closed_forms_are_met_to_second_order_in_space_and_time(process):
    # from t = 0.1 on: where D(0) = 0 the first steps are upwind, and the errors h^2 log(1 / h)
    model = ExactModel(LINE, process)
    start = model.marginal(0.1)
    errors = []
    for n in (50, 100):
        operator = covering(process, start, 0.6, n)
        found = evolve(operator, start, [0.1, 0.3, 0.6], step=0.5 / n)
        exact = [operator.grid.averages(model.marginal(t)) for t in found.times]
        errors.append([distance(p, q) for p, q in zip(found.densities, exact, strict=True)])
        assert found.drift < 1e-13
    assert errors[0][0] == 0
    rates = np.log2(np.array(errors[0][1:]) / errors[1][1:])
    assert (rates > 1.7).all()
    assert max(errors[1]) < 0.01


@pytest.mark.parametrize("name", ["turning", "correlated"])
def test_a_thousand_steps_keep_the_mass_and_the_sign(name):
    process, law, _, _, _ = PROBLEMS[name]
    operator = covering(process, law, 1.0, 9)
    found = evolve(operator, law, np.linspace(0, 2, 5), step=2 / 1000)
    assert found.steps == 1000
    assert found.drift < 1e-13
    assert (found.densities >= 0).all()


@pytest.mark.parametrize("method", ["euler", "patankar", "exponential"])
@pytest.mark.parametrize("step", [1e-3, 0.1, 10.0])
def test_positive_methods_are_positive_at_every_peclet_number(method, step):
    # |b| h / D up to 500, from one cell alone
    grid = Grid([-1, -1], [1, 1], 9)
    operator = FokkerPlanck(grid, lambda x, _: 30 * np.stack([x[:, 1], -x[:, 0]], -1), lambda *_: 0.01, steady=True)
    start = np.zeros(grid.shape)
    start[6, 2] = 1.0
    found = evolve(operator, start, [0, 2 * step], step=step, method=method)
    assert (found.densities >= 0).all()
    assert found.drift < 1e-13


def test_central_differences_go_negative_where_fitted_ones_do_not():
    grid = Grid(-1, 1, 20)
    start = np.zeros(20)
    start[4] = 10.0
    lowest = {}
    for fit in ("fitted", "hybrid", "upwind", "central"):
        operator = FokkerPlanck(grid, lambda x, _: 5 + 0 * x, lambda *_: 0.1, fit=fit)
        lowest[fit] = evolve(operator, start, [0, 0.1], step=0.01, method="exponential").densities.min()
    assert min(lowest["fitted"], lowest["hybrid"], lowest["upwind"]) >= 0
    assert lowest["central"] < -0.1


def test_linear_methods_of_second_order_are_negative_after_long_steps():
    operator = covering(VPLinear(2.0, 2.0, T=3.0), LINE, 1.0, 60)
    start = np.zeros(60)
    start[30] = 1.0
    assert evolve(operator, start, [0, 1], step=1.0, method="crank-nicolson").densities.min() < -0.1
    assert evolve(operator, start, [0, 1], step=1.0, method="patankar").densities.min() >= 0


@pytest.mark.parametrize(("k", "order"), [(0.0, 1), (0.5, 2), (1.0, 2), (2.0, 2)])
def test_every_reversal_has_the_marginals_of_the_process(k, order):
    model = ExactModel(LINE, VPLinear(0.1, 8.0))
    errors = []
    for n in (80, 160):
        grid = Grid.around([model.marginal(0.1), model.marginal(0.5)], n, 1e-10)
        operator = FokkerPlanck.of_equation(marginal_family(model, k), grid)
        found = evolve(operator, model.marginal(0.5), [0.5, 0.3, 0.1], step=1 / n)
        errors.append(
            [
                distance(p, grid.averages(model.marginal(t)))
                for p, t in zip(found.densities[1:], (0.3, 0.1), strict=True)
            ]
        )
    rates = np.log2(np.array(errors[0]) / errors[1])
    assert (rates > order - 0.3).all()
    assert np.max(errors[1]) < (0.004 if k else 0.04)


def without_noise():
    """The probability flow, and positions that only velocities move: laws, times, and how to make the equation."""
    model = ExactModel(LINE, VPLinear(0.1, 8.0))
    yield (
        model.marginal,
        (0.5, 0.1),
        lambda grid: FokkerPlanck.of_equation(marginal_family(model, 0.0), grid, fit="limited"),
    )
    langevin = critically_damped_langevin(1, beta=2.0, T=3.0)
    start = GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.0]], [0.3, 0.4])
    yield ExactModel(start, langevin).marginal, (0.0, 0.4), lambda grid: FokkerPlanck.of(langevin, grid, fit="limited")


@pytest.mark.parametrize("case", [0, 1], ids=["flow", "Langevin"])
def test_limited_fluxes_are_positive_and_of_second_order_without_noise(case):
    law_at, times, make = list(without_noise())[case]
    errors = []
    for n in (64, 128) if case == 0 else (32, 64):
        grid = Grid.around([law_at(t) for t in times], n, 1e-10)
        found = evolve(make(grid), law_at(times[0]), times, step=1 / n)
        errors.append(distance(found.densities[-1], grid.averages(law_at(times[-1]))))
        assert (found.densities >= 0).all()
        assert found.drift < 1e-13
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.25)
    # upwind fluxes are off by a twentieth and more
    assert errors[1] < 0.01


@pytest.mark.parametrize("boundary", ["no-flux", "periodic", "absorbing"])
def test_limited_fluxes_stay_positive_from_one_cell_alone(boundary):
    grid = Grid([-1, -1], [1, 1], 9)
    turn = lambda x, _: 30 * np.stack([x[:, 1], -x[:, 0]], -1)  # noqa: E731
    operator = FokkerPlanck(grid, turn, lambda *_: 0.0, fit="limited", boundary=boundary, steady=True)
    start = np.zeros(grid.shape)
    start[6, 2] = 1.0
    for step in (1e-3, 0.03, 10.0):
        found = evolve(operator, start, [0, 3 * step], step=step)
        assert (found.densities >= 0).all()
        assert found.drift < 1e-13 or boundary == "absorbing"


def test_limited_fluxes_survive_steps_after_which_cells_have_too_little_to_divide_by():
    grid = Grid([-1, -1], [1, 1], 7)
    turn = lambda x, _: 1e3 * np.stack([x[:, 1], -x[:, 0]], -1) + 0.3  # noqa: E731
    noise = np.array([[1.0, 0.6], [0.6, 1.0]])
    start = np.zeros(grid.shape)
    start[1, 2] = 1.0
    operator = FokkerPlanck(grid, turn, lambda *_: noise, fit="limited", steady=True)
    found = evolve(operator, start, [0, 2e60], step=1e60)
    assert (found.densities >= 0).all()
    assert found.drift < 1e-13


def test_the_reversed_drift_with_the_wrong_sign_leads_elsewhere():
    model = ExactModel(LINE, VPLinear(0.1, 8.0))
    grid = Grid.around([model.marginal(0.1), model.marginal(0.5)], 100, 1e-10)
    right = FokkerPlanck.of_equation(marginal_family(model, 1.0), grid)
    wrong = FokkerPlanck(grid, lambda x, t: -right.drift(x, t), right.diffusion)
    found = evolve(wrong, model.marginal(0.5), [0.5, 0.1], step=0.01).densities[-1]
    assert distance(found, grid.averages(model.marginal(0.1))) > 0.5


@pytest.mark.parametrize("name", ["axes", "turning", "correlated"])
@pytest.mark.parametrize(
    "boundary", ["no-flux", "absorbing", ("periodic", "no-flux"), ("no-flux", "periodic")], ids=str
)
def test_kernels_and_numpy_carry_a_density_alike(name, boundary):
    process, law, start, end, _ = PROBLEMS[name]
    operator = FokkerPlanck.of(process, Grid([-3, -3], [4, 4], (9, 11)), boundary=boundary)
    found = []
    for backend in ("numpy", "numba"):
        with backends.use(backend):
            found.append(evolve(operator, law, [start, end], step=0.1).densities)
    assert np.allclose(*found, rtol=1e-12, atol=0)


def test_noise_that_is_correlated_for_a_part_of_the_time_is_so_on_the_grid():
    def noise(t):
        return np.linalg.cholesky([[1.0, max(0.0, t - 0.1)], [max(0.0, t - 0.1), 1.0]])

    process = LinearProcess(lambda _: -np.eye(2), noise, 1.0)
    operator = covering(process, PLANE, 0.8, 48)
    found = evolve(operator, PLANE, [0.0, 0.8], step=0.04)
    exact = operator.grid.averages(ExactModel(PLANE, process).marginal(0.8))
    # without the correlation it is off by a tenth
    assert distance(found.densities[-1], exact) < 0.03


def test_absorbing_walls_let_out_what_theory_says():
    # Brownian motion between absorbing walls: the mass decays as e^(-pi^2 D t / (2 L^2)) from the first mode
    errors = []
    for n in (20, 40):
        grid = Grid(0, 1, n)
        faces = grid.faces(0)
        start = -np.diff(np.cos(np.pi * faces)) / np.pi / grid.volume
        operator = FokkerPlanck(grid, lambda x, _: 0 * x, lambda *_: 1.0, boundary="absorbing", steady=True)
        found = evolve(operator, start, [0, 0.3], step=1, method="exponential")
        errors.append(distance(found.densities[-1], start * np.exp(-(np.pi**2) * 0.15)))
    assert errors[1] < 2e-3
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_on_a_ring_a_drift_turns_the_density_round():
    grid = Grid(0, 1, 64)
    x = grid.centres(0)
    operator = FokkerPlanck(grid, lambda x, _: 2 + 0 * x, lambda *_: 0.1, boundary="periodic", steady=True)
    found = evolve(operator, 1 + np.cos(2 * np.pi * x), [0, 0.25], step=0.005).densities[-1]
    turned = 1 + np.exp(-0.05 * (2 * np.pi) ** 2 * 0.25) * np.cos(2 * np.pi * (x - 0.5))
    assert distance(found, turned) < 0.01


def test_times_precision_and_laws():
    grid = Grid(-3, 3, 10)
    operator = FokkerPlanck(grid, lambda x, _: -x, lambda *_: 1.0, steady=True)
    start = grid.averages(Gaussian([0.0], 0.5))
    found = evolve(operator, start.astype(np.float32), [0.0, 0.25, 1.0], step=0.1)
    assert found.densities.dtype == np.float32
    assert found.densities.shape == (3, 10)
    assert found.steps == 3 + 8
    only = evolve(operator, Gaussian([0.0], 0.5), [0.3], step=1.0)
    assert np.array_equal(only.densities[0], start)
    assert only.steps == 0


@pytest.mark.parametrize("method", ["patankar", "tr-bdf2", "exponential"])
def test_what_is_asked_for_on_the_way_is_where_one_would_start_again(method):
    _, law, _, _, _ = PROBLEMS["correlated"]
    operator = covering(CORRELATED, law, 1.0, 13)
    through = evolve(operator, law, [0.0, 0.1, 0.5], step=0.1, method=method).densities
    first = evolve(operator, law, [0.0, 0.1], step=0.1, method=method).densities[-1]
    assert np.array_equal(through[1], first)
    assert np.array_equal(through[2], evolve(operator, first, [0.1, 0.5], step=0.1, method=method).densities[-1])


def test_kernels_are_chosen_for_all_that_is_to_be_done_and_not_for_every_interval(monkeypatch):
    asked = []
    monkeypatch.setattr("refdiff.fokker_planck.evolution.kernels_pay", lambda *work: bool(asked.append(work)))
    operator = covering(CORRELATED, PLANE, 1.0, 13)
    evolve(operator, PLANE, np.linspace(0, 1, 11), step=0.05)
    assert asked == [(169, 13, 2 * 2 * 20)]


def test_differences_of_densities_and_nothing_at_all_have_a_drift():
    operator = covering(CORRELATED, PLANE, 1.0, 13)
    start = operator.grid.averages(PLANE)
    difference = evolve(operator, start - start[::-1], [0, 1], step=0.1, method="tr-bdf2")
    assert difference.drift < 1e-14
    assert evolve(operator, 0 * start, [0, 1], step=0.1).drift == 0


def test_a_law_that_does_not_fit_the_grid_is_refused_unless_it_is_cut_off():
    operator = FokkerPlanck(Grid(-3, 3, 10), lambda x, _: -x, lambda *_: 1.0)
    law = Gaussian([3.0], 0.25)
    with pytest.raises(ValueError, match="start must lie on Grid"):
        evolve(operator, law, [0, 1], step=0.1)
    assert evolve(operator, operator.grid.averages(law), [0, 1], step=0.1).mass == pytest.approx(0.5)


LIMITED = FokkerPlanck(Grid(-1, 1, 10), lambda x, _: -x, lambda *_: 1.0, fit="limited")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"operator": 1}, TypeError, "operator"),
        ({"start": np.ones(4)}, ValueError, "start"),
        ({"start": np.ones((2, 10))}, ValueError, "start must have shape"),
        ({"start": -np.ones(10)}, ValueError, "start must not be negative"),
        ({"times": [0, 1, 0.5]}, ValueError, "times must increase or decrease"),
        ({"times": []}, ValueError, "times"),
        ({"times": 1.0}, ValueError, "times"),
        ({"step": 0.0}, ValueError, "step"),
        ({"method": "leapfrog"}, ValueError, "method must be one of"),
        ({"operator": LIMITED, "method": "euler"}, ValueError, "method must be patankar"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, words):
    operator = FokkerPlanck(Grid(-1, 1, 10), lambda x, _: -x, lambda *_: 1.0)
    given = {"operator": operator, "start": np.ones(10), "times": [0, 1], "step": 0.1} | change
    with pytest.raises(error, match=words):
        evolve(given.pop("operator"), given.pop("start"), given.pop("times"), **given)
