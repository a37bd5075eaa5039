"""Restart sampling against its algorithm on numbers; the way up is the process's own kernel."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from sampling import (
    GAUSSIAN,
    SCHEDULES,
    SIGMA_LAW,
    heard_in_sigma,
    levels,
    order_of,
    seen_through_alpha,
    sigma_grid,
)

from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.samplers.edm import edm_euler, edm_heun
from refdiff.samplers.order import gaussian_error
from refdiff.samplers.propagation import propagate
from refdiff.samplers.restart import Interval, restart
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching, VPLinear

SIGMAS = {
    "one": [(0.3, 2.0, 2, 3)],
    "two": [(0.05, 0.4, 1, 2), (1.0, 10.0, 3, 1)],
    "of the grid": [(0.3, 2.0, 2, None)],
}
CASES = [(solver, which) for solver in ("heun", "euler") for which in SIGMAS]


def plain(denoiser, x, sigmas, normal, intervals, solver, s_noise=1.0):
    """Xu et al. 2023 on x with sigma alone; intervals are (low, high, repeats, steps) in sigma."""

    def step(x, a, b):
        d = (x - denoiser(x, a)) / a
        if solver == "euler" or b == 0:
            return x + (b - a) * d
        guess = x + (b - a) * d
        return x + (b - a) * (d + (guess - denoiser(guess, b)) / b) / 2

    for a, b in pairwise(sigmas):
        x = step(x, a, b)
        for low, high, repeats, steps in intervals:
            if b != sigmas[1:][np.argmin(np.abs(sigmas[1:] - low))]:
                continue
            if steps is None:
                path = sigmas[np.argmin(np.abs(sigmas - high)) : list(sigmas).index(b) + 1]
            else:
                path = (high ** (1 / 7) + np.arange(steps + 1) / steps * (b ** (1 / 7) - high ** (1 / 7))) ** 7
            for _ in range(repeats):
                x = x + s_noise * np.sqrt(path[0] ** 2 - path[-1] ** 2) * normal()
                for one, two in pairwise(path):
                    x = step(x, one, two)
    return x


def snapped(schedule, times, intervals):
    """Intervals in sigma whose ends (of the grid, where it is meant) are times of the grid, in sigma and in t."""
    sigmas = levels(schedule, times)
    places = [np.argmin(np.abs(np.log(sigmas[1:-1] / low))) + 1 for low, *_ in intervals]
    tops = [np.argmin(np.abs(np.log(sigmas[:-1] / high))) for _, high, *_ in intervals]
    rest = [one[2:] for one in intervals]
    in_sigma = [(sigmas[p], sigmas[q], *r) for p, q, r in zip(places, tops, rest, strict=True)]
    return in_sigma, [(times[p], times[q], *r) for p, q, r in zip(places, tops, rest, strict=True)]


@pytest.mark.parametrize(("solver", "which"), CASES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_map_is_the_plain_algorithm_seen_through_x_over_alpha(schedule, solver, which):
    times = sigma_grid(schedule, 9, clean=True)
    in_sigma, intervals = snapped(schedule, times, SIGMAS[which])
    table = restart(schedule, times, intervals=intervals, solver=solver, s_noise=1.01)
    assert table.draws == sum(one[2] for one in intervals)
    algorithm = partial(plain, intervals=in_sigma, solver=solver, s_noise=1.01)
    seen_through_alpha(algorithm, table, schedule, times)


@pytest.mark.parametrize(("solver", "which"), CASES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_impulses_through_the_plain_algorithm_read_the_table(schedule, solver, which):
    times = sigma_grid(schedule, 9)
    in_sigma, intervals = snapped(schedule, times, SIGMAS[which])
    found = heard_in_sigma(partial(plain, intervals=in_sigma, solver=solver), schedule, times)
    assert found.difference(restart(schedule, times, intervals=intervals, solver=solver)) < 1e-12


# ---------------------------------------------------------------------- orders


@pytest.mark.parametrize(("solver", "expected"), [("heun", 2), ("euler", 1)])
@pytest.mark.parametrize("intervals", [None, [(0.3, 0.6, 2), (0.1, 0.2, 1)]], ids=["whole grid", "two intervals"])
def test_the_weak_order_is_the_order_of_the_solver_where_ways_down_are_refined_with_the_grid(
    solver, expected, intervals
):
    build, grid = partial(restart, intervals=intervals, solver=solver), partial(sigma_grid, VPLinear())
    assert abs(order_of(build, VPLinear(), grid, counts=(64, 128)) - expected) < 0.1


def test_a_way_down_of_fixed_steps_leaves_an_error_that_the_grid_does_not_remove():
    tables = [restart(VPLinear(), sigma_grid(VPLinear(), n), intervals=[(0.02, 0.6, 1, 4)]) for n in (64, 256)]
    coarse, fine = (gaussian_error(table, GAUSSIAN) for table in tables)
    assert fine > 0.9 * coarse


# ---------------------------------------------------------------------- the way up


def test_without_repeats_restart_is_its_solver():
    times = sigma_grid(VPLinear(), 6, clean=True)
    for solver, build in (("heun", edm_heun), ("euler", edm_euler)):
        table = restart(VPLinear(), times, intervals=[(0.2, 0.6, 0)], solver=solver)
        assert table.close(build(VPLinear(), times))


def test_each_restart_forgets_the_start_by_the_correlation_of_its_ends():
    # up by alpha_high / alpha_low, down by the flow's sqrt(V_low / V_high)
    schedule, times, low, high = VPLinear(), sigma_grid(VPLinear(), 200), 0.02, 0.5
    laws = [propagate(restart(schedule, times, intervals=[(low, high, k)]), GAUSSIAN) for k in range(3)]
    gains = np.ravel([law.channel().gain for law in laws])
    high = times[np.argmin(np.abs(times - high))]
    a, b = (schedule.coefficients(t) for t in (times[-1], high))
    variances = [c.alpha**2 * 0.25 + c.sigma**2 for c in (a, b)]
    expected = b.alpha / a.alpha * np.sqrt(variances[0] / variances[1])
    assert expected < 0.9
    np.testing.assert_allclose(gains[1:] / gains[:-1], expected, rtol=1e-3)


def test_a_low_end_between_two_times_is_taken_to_the_nearest():
    times = sigma_grid(VPLinear(), 6)
    between = 0.9 * times[4] + 0.1 * times[3]
    table = restart(VPLinear(), times, intervals=[Interval(between, 0.6, 1, 2)])
    assert table.close(restart(VPLinear(), times, intervals=[(times[4], 0.6, 1, 2)]))


# ---------------------------------------------------------------------- ends of the grid, axes, bad input


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("solver", ["heun", "euler"])
def test_grids_from_alpha_zero_to_sigma_zero_give_finite_tables(solver, n):
    table = restart(FlowMatching(), np.linspace(1.0, 0.0, n + 1), solver=solver)
    x = np.random.default_rng(0).standard_normal((4, 1))
    assert np.isfinite(run(table, ExactModel(SIGMA_LAW, FlowMatching()), x, seed=0, trajectory=True)).all()


def test_a_restart_from_clean_data_has_steps_of_its_own():
    times = np.linspace(0.9, 0.0, 5)
    table = restart(VPLinear(), times, intervals=[(0.0, 0.5, 1, 3)])
    assert table.nfe == (2 * 4 - 1) + (2 * 3 - 1)
    assert np.isfinite(table.unroll().noise).all()


def test_each_axis_of_a_per_axis_process_is_restarted_on_its_own():
    schedules, times = [VPLinear(), FlowMatching()], np.linspace(0.9, 0.05, 5)
    law = Gaussian([0.3, -0.4], [0.5, 2.0])
    rng = np.random.default_rng(3)
    x, normals = rng.standard_normal((6, 2)), rng.standard_normal((1, 6, 2))
    found = run(restart(AffineProcess(schedules), times), ExactModel(law, AffineProcess(schedules)), x, normals=normals)
    for j, schedule in enumerate(schedules):
        one = ExactModel(Gaussian(law.mean()[j : j + 1], law.cov()[j, j]), schedule)
        alone = run(restart(schedule, times), one, x[:, [j]], normals=normals[:, :, [j]])
        np.testing.assert_allclose(found[:, [j]], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk4"}, "solver must be one of euler, heun"),
        ({"s_noise": -1.0}, "s_noise"),
        ({"exponent": 0.0}, "exponent"),
        ({"intervals": [(0.05, 0.6)]}, "low must lie within the grid"),
        ({"intervals": [(0.5, 0.5)]}, "intervals must hold a step"),
        ({"intervals": [(0.5, 0.4, 1, 3)]}, "high must be noisier than low"),
        ({"intervals": [(0.5, 0.5, 1, 3)]}, "high must be noisier than low"),
        ({"intervals": [(0.5, 1.4)]}, "high must lie in"),
        ({"intervals": [(0.5, 0.7, -1)]}, "repeats"),
        ({"intervals": [(0.5, 0.7, 1, 0)]}, "steps"),
        ({"intervals": [(0.5, 1.0, 1, 3)]}, "alpha > 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        restart(FlowMatching(), [0.9, 0.5, 0.1], **options)


@pytest.mark.parametrize("intervals", [0.5, [0.5], [(0.5,)], [(0.5, 0.9, 1, 2, 3)]])
def test_intervals_that_are_none_are_refused(intervals):
    with pytest.raises(TypeError, match="intervals must be tuples"):
        restart(FlowMatching(), [0.9, 0.5, 0.1], intervals=intervals)


def test_steps_of_its_own_refuse_a_process_for_each_axis():
    with pytest.raises(ValueError, match="same on all axes"):
        restart(AffineProcess([VPLinear(), FlowMatching()]), [0.9, 0.5, 0.1], intervals=[(0.5, 0.8, 1, 2)])
