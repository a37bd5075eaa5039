"""Picard iteration against the steps one after another, the operator's series, and Algorithm 8 on plain numbers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refdiff import AffineProcess, ExactModel, FlowMatching, Gaussian, GaussianMixture, VEPower, VPCosine, VPLinear
from refdiff.samplers.clocks import CLOCKS
from refdiff.samplers.ddim import ddim
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.order import fit, reference_flow
from refdiff.samplers.picard import paradigms, picard
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform

MIXTURE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
X = np.array([[0.3], [-1.0], [2.0]])
SCHEDULES = [VPLinear(), VPCosine(), FlowMatching(), VEPower()]


def plain(v, x, times, window, tolerance):
    """Algorithm 8 with the corrected anchor, for one drift dx/dt = v(x, t)."""
    steps = len(times) - 1
    path, left, sweeps, calls = {0: x}, 0, 0, 0
    for j in range(1, min(window, steps) + 1):
        path[j] = x
    while left < steps:
        count = min(window, steps - left)
        slopes = [v(path[left + i], times[left + i]) for i in range(count)]
        calls += count
        sums, new = 0 * x, dict(path)
        for j in range(count):
            sums = sums + (times[left + j + 1] - times[left + j]) * slopes[j]
            new[left + j + 1] = path[left] + sums
        errors = {j: ((new[left + j] - path[left + j]) ** 2).sum(axis=1).max() for j in range(1, count)}
        stride = min([j for j in errors if errors[j] > tolerance] + [count])
        for r in range(1, stride + 1):
            if left + count + r <= steps:
                new[left + count + r] = new[left + count]
        path, left, sweeps = new, left + stride, sweeps + 1
    return path[steps], sweeps, calls


@pytest.mark.parametrize("window", [1, 4, 20])
@pytest.mark.parametrize("tolerance", [0.0, 1e-8, 1e-3])
def test_the_sliding_window_is_algorithm_8_with_its_anchor_corrected(window, tolerance):
    schedule, times = FlowMatching(), np.linspace(0.95, 0.05, 21)
    model = ExactModel(MIXTURE, schedule)
    found = paradigms(schedule, model, X, times, window=window, tolerance=tolerance, clock="t")
    x, sweeps, calls = plain(model.velocity, X, times, window, tolerance)
    assert np.abs(found.x - x).max() < 1e-13
    if tolerance:  # at tolerance 0 rounding decides when a point has settled
        assert (found.sweeps, found.nfe) == (sweeps, calls)
    assert sum(found.strides) == 20
    assert len(found.strides) == found.sweeps


@given(st.integers(1, 12), st.sampled_from(SCHEDULES), st.sampled_from(list(CLOCKS)))
@settings(max_examples=15)
def test_without_tolerance_it_is_eulers_method_in_any_clock(window, schedule, clock):
    times, model = uniform(schedule, 10, start=0.9 * schedule.T, end=0.05 * schedule.T), ExactModel(MIXTURE, schedule)
    found = paradigms(schedule, model, X, times, window=window, clock=clock)
    path = run(runge_kutta(schedule, times, method="euler", clock=clock), model, X, trajectory=True)
    assert np.abs(found.path - path).max() < 1e-12 * np.abs(path).max()


def test_in_the_coordinates_of_ddim_the_fixed_point_is_ddim_down_to_sigma_zero():
    schedule, times = VPLinear(), np.linspace(0.9, 0.0, 21)
    model = ExactModel(MIXTURE, schedule)
    for clock in ("rho", "ratio"):
        found = paradigms(schedule, model, X, times, window=7, clock=clock)
        assert np.abs(found.x - run(ddim(schedule, times), model, X)).max() < 1e-12


def test_a_window_of_one_takes_a_sweep_a_step():
    found = paradigms(VPLinear(), ExactModel(MIXTURE, VPLinear()), X, np.linspace(0.9, 0.1, 13), window=1)
    assert (found.sweeps, found.nfe, found.strides) == (12, 12, (1,) * 12)


def test_the_error_falls_with_the_tolerance_and_sweeps_rise():
    times, model = np.linspace(0.9, 0.05, 41), ExactModel(MIXTURE, VPLinear())
    exact = run(ddim(VPLinear(), times), model, X)
    runs = [paradigms(VPLinear(), model, X, times, window=10, tolerance=tol) for tol in (1e-2, 1e-5, 1e-8, 1e-11)]
    errors = [np.abs(one.x - exact).max() for one in runs]
    assert all(b < a / 5 for a, b in pairwise(errors))
    assert all(one.sweeps <= other.sweeps for one, other in pairwise(runs))
    assert runs[0].sweeps < 40 < runs[0].nfe


@pytest.mark.parametrize("clock", CLOCKS)
def test_after_k_sweeps_the_first_points_are_eulers(clock):
    schedule, times = FlowMatching(), np.linspace(0.9, 0.1, 7)
    model = ExactModel(MIXTURE, schedule)
    for k in range(1, 7):
        # the table of k sweeps on the first k steps of the grid is Euler's there
        euler = run(runge_kutta(schedule, times[: k + 1], method="euler", clock=clock), model, X)
        found = run(picard(schedule, times[: k + 1], sweeps=k, clock=clock), model, X)
        assert np.abs(found - euler).max() < 1e-12 * np.abs(euler).max()


@given(st.integers(1, 6), st.integers(1, 8))
def test_the_table_of_sweeps_is_the_iteration_on_numbers(steps, sweeps):
    schedule, times = VPLinear(), np.linspace(0.9, 0.1, steps + 1)
    alpha, rho = schedule.alpha(times), schedule.sigma(times) / schedule.alpha(times)

    def sampler(model, x, _normal):
        answers, path = {}, [x / alpha[0]] * (steps + 1)
        for k in range(sweeps):
            for i in range(min(k, steps), steps):
                answers[i] = model(alpha[i] * path[i], times[i])
            moves = [(rho[i + 1] - rho[i]) * answers[i] for i in range(steps)]
            path = [x / alpha[0] + sum(moves[:j]) for j in range(steps + 1)]
        return alpha[-1] * path[-1]

    table = picard(schedule, times, sweeps=sweeps)
    read = impulse_response(sampler, schedule, prediction="noise", start_time=0.9, end_time=0.1)
    assert read.difference(table) < 1e-12
    assert table.nfe == sum(steps - k for k in range(min(sweeps, steps)))


def test_the_trapezoidal_rule_is_of_order_2():
    schedule, law = FlowMatching(), GaussianMixture.isotropic([[-1.0], [1.5]], 0.25, [0.4, 0.6])
    model = ExactModel(law, schedule)
    exact, counts = reference_flow(model, X, 0.9, 0.1), (10, 20)
    for trapezoidal, order in ((False, 1), (True, 2)):
        errors = [
            np.abs(
                paradigms(
                    schedule,
                    model,
                    X,
                    np.linspace(0.9, 0.1, n + 1),
                    window=5,
                    tolerance=1e-22,
                    clock="t",
                    trapezoidal=trapezoidal,
                ).x
                - exact
            ).max()
            for n in counts
        ]
        assert abs(fit(counts, errors, 1e-12, 3).order - order) < 0.1


def test_the_trapezoidal_fixed_point_satisfies_the_implicit_rule():
    schedule, times = FlowMatching(), np.linspace(0.9, 0.0, 9)
    model = ExactModel(Gaussian([0.7], 0.25), schedule)
    path = paradigms(schedule, model, X, times, tolerance=1e-28, clock="t", trapezoidal=True, window=3).path
    for j in range(8):
        mean = (model.velocity(path[j], times[j]) + model.velocity(path[j + 1], times[j + 1])) / 2
        assert np.abs(path[j + 1] - path[j] - (times[j + 1] - times[j]) * mean).max() < 1e-12


def test_axes_shapes_and_precision():
    process = AffineProcess([VPLinear(), FlowMatching()])
    law = Gaussian([0.7, -0.2], np.array([0.25, 1.5]))
    x = np.ones((2, 3, 2), dtype=np.float32)
    found = paradigms(process, ExactModel(law, process), x, np.linspace(0.9, 0.1, 6), window=2)
    assert found.x.shape == x.shape
    assert found.x.dtype == np.float32
    assert found.path.shape == (6, 2, 3, 2)
    table = picard(process, np.linspace(0.9, 0.1, 6), sweeps=5)
    assert np.abs(run(table, ExactModel(law, process), x) - found.x).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"tolerance": -1.0}, "tolerance must be"),
        ({"tolerance": [0.1, 0.1]}, "tolerance must be"),
        ({"clock": "x"}, "clock must be one of"),
        ({"trapezoidal": True}, "tolerance must be positive"),
        ({"times": [0.9, 0.0], "clock": "1/rho"}, "times must end where sigma > 0"),
        ({"times": [0.9, 0.0], "trapezoidal": True, "tolerance": 1e-3}, "times must end where sigma > 0"),
        ({"times": [1.0, 0.5]}, "times must start where alpha > 0"),
        ({"times": [0.2, 0.5]}, "times must decrease"),
    ],
)
def test_bad_input(options, message):
    model, times = ExactModel(MIXTURE, FlowMatching()), options.pop("times", np.linspace(0.9, 0.1, 6))
    with pytest.raises(ValueError, match=message):
        paradigms(FlowMatching(), model, X, times, **options)


def test_more_bad_input():
    with pytest.raises(ValueError, match="x must have shape"):
        paradigms(FlowMatching(), ExactModel(MIXTURE, FlowMatching()), 0.3, [0.9, 0.1])
    with pytest.raises(ValueError, match="sweeps must be at least 1"):
        picard(FlowMatching(), [0.9, 0.1], sweeps=0)
    with pytest.raises(ValueError, match="times must end where sigma > 0"):
        picard(FlowMatching(), [0.9, 0.0], clock="log_snr")
    with pytest.raises(RuntimeError, match="max_sweeps must be larger"):
        paradigms(VPLinear(), ExactModel(MIXTURE, VPLinear()), X, np.linspace(0.9, 0.1, 9), window=1, max_sweeps=2)
