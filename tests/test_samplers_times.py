"""Grids: their ends, their clocks, other libraries' formulas, and the best grid of DDIM."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.distributions import Gaussian
from refdiff.processes import AffineProcess, BetaTable, LinearProcess, beta_table
from refdiff.samplers.angles import loss
from refdiff.samplers.ddim import ddim
from refdiff.samplers.propagation import propagate
from refdiff.samplers.times import (
    GRIDS,
    SPACINGS,
    TABLE_GRIDS,
    exponential,
    karras,
    leading,
    linspace,
    log_snr_power,
    optimal_ddim,
    power,
    quadratic,
    trailing,
    uniform,
    uniform_angle,
    uniform_in,
    uniform_log_snr,
    uniform_rho,
)
from refdiff.schedules import FlowMatching, SubVP, VEGeometric, VEPower, VPCosine, VPLinear

SCHEDULES = [VPLinear(), FlowMatching(), VEPower(T=80.0), VPCosine(), SubVP(), VEGeometric(), beta_table.linear()]
TABLE = beta_table.linear()
CONTINUOUS = {name: grid for name, grid in GRIDS.items() if name not in TABLE_GRIDS}


@given(
    st.sampled_from(sorted(CONTINUOUS)),
    st.sampled_from(SCHEDULES),
    st.integers(1, 40),
    st.floats(0.01, 0.4),
    st.floats(0.5, 1.0),
)
def test_grids_decrease_and_hit_both_ends_exactly(name, schedule, steps, low, high):
    start, end = high * schedule.T, low * schedule.T
    if schedule.alpha(start) == 0:
        start = 0.99 * schedule.T
    times = CONTINUOUS[name](schedule, steps, start=start, end=end)
    assert times.shape == (steps + 1,)
    assert (times[0], times[-1]) == (start, end)
    assert (np.diff(times) < 0).all()


@given(st.sampled_from(sorted(SPACINGS)), st.sampled_from(SCHEDULES), st.integers(2, 30))
def test_clocks_advance_by_equal_steps(clock, schedule, steps):
    times = uniform_in(schedule, steps, clock, start=0.95 * schedule.T, end=0.03 * schedule.T)
    moved = np.diff(SPACINGS[clock].of_log_snr(schedule.log_snr(times)))
    np.testing.assert_allclose(moved, moved.mean(), rtol=1e-11)


@given(st.sampled_from(sorted(SPACINGS)), st.floats(-6, 6))
def test_clocks_have_their_inverse(clock, lam):
    forward, back = SPACINGS[clock]
    # near an end the clock itself has lost the digits: its slope says how many
    h = 1e-4
    slope = abs(forward(lam + h) - forward(lam - h)) / (2 * h)
    assert abs(back(forward(lam)) - lam) < 1e-15 * (10 + 10 * (abs(forward(lam)) + 1e-3) / slope)


def test_grids_in_closed_form():
    straight, u = FlowMatching(), np.linspace(1, 0, 9)
    np.testing.assert_allclose(uniform(straight, 8), u, rtol=1e-15)
    np.testing.assert_allclose(quadratic(straight, 8), u**2, rtol=1e-14)
    np.testing.assert_allclose(power(straight, 8, exponent=3), u**3, rtol=1e-14)
    np.testing.assert_allclose(uniform_angle(VPCosine(0.0), 8), u, rtol=1e-14)
    np.testing.assert_allclose(uniform_in(straight, 8, "share"), u, rtol=1e-14)
    np.testing.assert_allclose(uniform_rho(VEPower(T=80.0), 8), 80 * u, rtol=1e-14)
    np.testing.assert_allclose(uniform_log_snr(VEPower(T=80.0), 8, end=0.01), 0.01 * 8000**u, rtol=1e-14)  # geometric
    np.testing.assert_allclose(log_snr_power(VEPower(T=80.0), 8, end=0.01), 80 * 8000 ** -((1 - u) ** 2), rtol=1e-13)
    # alpha_bar = e^-B: equal steps in its log are equal steps of B, which are those of t for a constant rate
    np.testing.assert_allclose(uniform_in(VPLinear(3.0, 3.0), 8, "log_alpha_bar"), u, rtol=1e-13)


# ---------------------------------------------------------------------- k-diffusion and diffusers


def test_karras_is_the_formula_of_k_diffusion():
    schedule, low, high = VEPower(T=80.0), 0.002, 80.0
    for rho in (7.0, 3.0, 1.0):
        ramp = np.linspace(0, 1, 10)
        expected = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        # for rho = 1 the formula cancels at sigma_min
        np.testing.assert_allclose(karras(schedule, 9, end=low, rho=rho), expected, rtol=1e-11)
        appended = karras(schedule, 10, end=low, rho=rho, append_clean=True)
        np.testing.assert_allclose(appended, np.append(expected, 0.0), rtol=1e-11)
    table = VPLinear()
    sigmas = np.exp(-table.log_snr(karras(table, 9, start=0.9, end=0.1)))
    np.testing.assert_allclose(np.diff(sigmas ** (1 / 7)), np.diff(sigmas[[0, -1]] ** (1 / 7)).item() / 9, rtol=1e-11)


def test_exponential_is_the_formula_of_k_diffusion():
    expected = np.exp(np.linspace(np.log(80), np.log(0.002), 10))
    found = exponential(VEPower(T=80.0), 10, end=0.002, append_clean=True)
    np.testing.assert_allclose(found, np.append(expected, 0.0), rtol=1e-13)


def test_karras_tends_to_exponential():
    schedule = VEPower(T=80.0)
    one, two = karras(schedule, 9, end=0.002, rho=1e7), exponential(schedule, 9, end=0.002)
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_karras_and_rho_reach_clean_data():
    for schedule in (FlowMatching(), VPCosine()):
        times = karras(schedule, 5, start=0.9 * schedule.T)
        assert times[-1] == 0
        rho = np.exp(-schedule.log_snr(times))
        np.testing.assert_allclose(rho, rho[0] * np.linspace(1, 0, 6) ** 7, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("size", [1000, 999, 50])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 16, 48, 50])
def test_spacings_are_the_formulas_of_diffusers(size, steps):
    table = beta_table.linear(size)
    top = (np.arange(0, steps) * (size // steps)).round()[::-1].astype(np.int64)
    np.testing.assert_array_equal(leading(table, steps), [*(top + 1), 0])
    if top.max() < size - 1:
        np.testing.assert_array_equal(leading(table, steps, steps_offset=1), [*(top + 2), 0])
        np.testing.assert_array_equal(leading(table, steps, steps_offset=1, set_alpha_to_one=False), [*(top + 2), 1])
    evenly = np.linspace(0, size - 1, steps).round()[::-1].astype(np.int64)
    np.testing.assert_array_equal(linspace(table, steps), [*(evenly + 1), 0])
    last = np.round(np.arange(size, 0, -size / steps)).astype(np.int64) - 1
    np.testing.assert_array_equal(trailing(table, steps), [*(last + 1), 0])
    assert trailing(table, steps)[0] == size  # the only spacing that starts at the end at any number of steps


def test_all_spacings_are_the_whole_table_at_its_size():
    for grid in TABLE_GRIDS.values():
        np.testing.assert_array_equal(grid(TABLE, 1000), np.arange(1000, -1, -1))


@given(st.integers(1, 300), st.data())
def test_trailing_never_leaves_the_table(size, data):
    steps = data.draw(st.integers(1, size))
    for grid in TABLE_GRIDS.values():
        times = grid(beta_table.linear(size), steps)
        assert times.shape == (steps + 1,)
        assert (np.diff(times) < 0).all()


# ---------------------------------------------------------------------- the best grid of DDIM


@pytest.mark.parametrize("std", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("schedule", [FlowMatching(), VPCosine(), VEPower(T=80.0)], ids=lambda s: type(s).__name__)
def test_one_deviation_has_equal_angles(std, schedule):
    times = optimal_ddim(schedule, 12, std=std)
    angles = np.arctan2(schedule.sigma(times), schedule.alpha(times) * std)
    np.testing.assert_allclose(np.diff(angles), -(angles[0] - angles[-1]) / 12, rtol=1e-12)
    found = propagate(ddim(schedule, times), Gaussian([0.3], std**2))
    lost = np.cos(angles[0] / 12) ** 12
    np.testing.assert_allclose(np.sqrt(found.output.cov()), std * lost, rtol=1e-13)


@pytest.mark.parametrize("std", [[1.0, 0.1], [2.0, 0.5, 0.05], [1.0, 1.0, 1.0, 0.3, 0.0]])
@pytest.mark.parametrize("ends", [{}, {"start": 0.98, "end": 0.02}])
@pytest.mark.parametrize("steps", [2, 10])
def test_no_grid_nearby_is_better_and_no_equal_angles_are(std, ends, steps):
    schedule, law = FlowMatching(), Gaussian(np.zeros(len(std)), np.array(std) ** 2)

    def distance(times):
        return propagate(ddim(schedule, times), law).wasserstein()

    best = optimal_ddim(schedule, steps, std=std, **ends)
    least = distance(best)
    for one in std[:-1]:
        assert least <= distance(optimal_ddim(schedule, steps, std=one, **ends))
    rng = np.random.default_rng(0)
    for size in (1e-4, 1e-2, 0.3):
        for _ in range(10):
            moved = best.copy()
            moved[1:-1] += (
                size * rng.uniform(-0.5, 0.5, steps - 1) * np.minimum(-np.diff(best)[1:], -np.diff(best)[:-1])
            )
            assert distance(moved) >= least - 1e-14


def test_the_loss_is_what_propagation_finds_and_its_gradient_what_differences_do():
    schedule, std = FlowMatching(), np.array([2.0, 0.5])
    times = uniform(schedule, 5, start=0.9, end=0.1)
    angles = np.arctan2(schedule.sigma(times), schedule.alpha(times))
    weights = schedule.alpha(0.1) ** 2 * std**2 + schedule.sigma(0.1) ** 2
    value, slope = loss(angles, 1 / std, weights)
    found = propagate(ddim(schedule, times), Gaussian([0.0, 0.0], std**2))
    assert value == pytest.approx(found.wasserstein() ** 2, rel=1e-12)
    for i in range(4):
        step = 1e-6 * (np.arange(6) == i + 1)
        numeric = (loss(angles + step, 1 / std, weights)[0] - loss(angles - step, 1 / std, weights)[0]) / 2e-6
        assert slope[i] == pytest.approx(numeric, rel=1e-6, abs=1e-9)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform(VPLinear(), 0), "steps must be at least 1"),
        (lambda: uniform(VPLinear(), 3, start=0.1, end=0.5), "start must be noisier"),
        (lambda: uniform(VPLinear(), 3, start=2.0), "start must lie in"),
        (lambda: power(VPLinear(), 3, exponent=0), "exponent must lie in"),
        (lambda: uniform_in(VPLinear(), 3, "phase"), "clock must be one of log_snr, rho"),
        (lambda: uniform_log_snr(VPLinear(), 3), "start and end must have finite log_snr"),
        (lambda: uniform_log_snr(FlowMatching(), 3, end=0.1), "start and end must have finite log_snr"),
        (lambda: uniform_rho(FlowMatching(), 3), "start and end must have finite rho"),
        (lambda: karras(FlowMatching(), 3), "start and end must have finite rho"),
        (lambda: karras(VEPower(T=80.0), 3, rho=0), "rho must lie in"),
        (lambda: karras(VEPower(T=80.0), 3, append_clean=True), "end must have sigma > 0"),
        (lambda: karras(VEPower(T=80.0), 3, end=0.0, append_clean=True), "end must have sigma > 0"),
        (lambda: karras(VEPower(T=80.0), 1, end=0.1, append_clean=True), "steps must be at least 2"),
        (lambda: uniform_angle(AffineProcess([VPLinear()]), 3), "same on all axes"),
        (lambda: leading(VPLinear(), 3), "process must be a BetaTable"),
        (lambda: leading(TABLE, 1001), "steps must be at most"),
        (lambda: leading(TABLE, 1000, steps_offset=1), "steps_offset must keep indices below 1000"),
        (lambda: leading(TABLE, 10, set_alpha_to_one=False), "set_alpha_to_one must be True"),
        (lambda: linspace(TABLE, 10, set_alpha_to_one=False), "set_alpha_to_one must be True"),
        (lambda: optimal_ddim(VPLinear(), 3, std=0), "std must be >= 0"),
        (lambda: optimal_ddim(VPLinear(), 3, std=[1.0, -1.0]), "std must be >= 0"),
        (lambda: uniform(VPLinear(), 10, start=1.0, end=1.0 - 1e-15), "steps must be so few"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_table_may_come_as_a_process():
    table = BetaTable(np.array([0.1, 0.2, 0.3]))
    np.testing.assert_array_equal(trailing(AffineProcess(table), 3), [3, 2, 1, 0])


def test_grids_in_t_are_those_of_any_process():
    process = LinearProcess(-np.eye(2), np.eye(2), T=2.0)
    np.testing.assert_array_equal(uniform(process, 4), [2.0, 1.5, 1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="in t, got matrices"):
        GRIDS["karras"](process, 4)


@pytest.mark.parametrize("grid", GRIDS.values())
def test_a_process_that_is_none_is_refused(grid):
    with pytest.raises(TypeError, match="process must be a Process or a Schedule"):
        grid(0.5, 5)
