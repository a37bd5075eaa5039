"""Interpolants: ends, rates by stencils, clocks, schedules, and what is refused."""

import numpy as np
import pytest

from refdiff import FlowMatching, SubVP, Trigonometric, VEGeometric, VEPower, VPCosine, VPLinear
from refdiff.interpolants import Blend, Interpolant, ScalarInterpolant, brownian, from_schedule, linear, trigonometric
from refdiff.validation.numeric import derivative, second_derivative

BETWEEN = {
    "linear": linear(),
    "linear with noise": linear(0.3),
    "trigonometric": trigonometric(),
    "trigonometric with noise": trigonometric(0.7),
    "Brownian": brownian(0.5),
    "Brownian on [0, 3]": brownian(2.0, 3.0),
    "flow matching": from_schedule(FlowMatching()),
    "retimed": linear(0.2).retimed(lambda t: (t * t * (3 - 2 * t), 6 * t * (1 - t), 6 - 12 * t)),
    "slowed down": brownian(0.5).retimed(lambda t: (t / 4, 0.25, 0.0), 4.0),
}
SCHEDULES = {
    "trigonometric": Trigonometric(),
    "VP": VPLinear(),
    "VP cosine": VPCosine(),
    "sub-VP": SubVP(),
    "VE": VEGeometric(),
    "EDM": VEPower(),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_ends_are_the_two_points(name):
    one = BETWEEN[name]
    assert isinstance(one, Interpolant)
    start, end = one.at(0.0), one.at(one.T)
    np.testing.assert_allclose([start.first, start.second, end.first, end.second], [1, 0, 0, 1], atol=1e-15)
    assert (start.noise == 0) == (name not in ("linear with noise", "trigonometric with noise", "retimed"))
    np.testing.assert_allclose(start.noise, end.noise, atol=1e-15)


@pytest.mark.parametrize("name", [*BETWEEN, *(f"schedule: {one}" for one in SCHEDULES)])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.83])
def test_rates_are_derivatives(name, fraction):
    one = BETWEEN[name] if name in BETWEEN else from_schedule(SCHEDULES[name.removeprefix("schedule: ")])
    t = fraction * one.T
    now, h = one.at(t), 0.02 * one.T
    assert isinstance(now, Blend)
    for value, rate, bend in (("first", "dfirst", "d2first"), ("second", "dsecond", "d2second")):
        curve = lambda u, value=value: getattr(one.at(u), value)  # noqa: E731
        # eighth-order stencils of curves that bend within T: 1e-9 of the largest value over h or h^2
        size = abs(curve(t)) + abs(getattr(now, bend)) * h**2
        assert abs(derivative(curve, t, h) - getattr(now, rate)) <= 1e-7 * size / h
        assert abs(second_derivative(curve, t, h) - getattr(now, bend)) <= 1e-5 * size / h**2
    # V' = 2 S of numbers, whatever the root is
    assert derivative(lambda u: one.at(u).noise, t, h) == pytest.approx(2 * float(now.spread), abs=1e-8)
    assert derivative(lambda u: one.at(u).spread, t, h) == pytest.approx(float(now.dspread), abs=1e-8)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_joins_data_to_noise_with_its_own_coefficients(name):
    schedule = SCHEDULES[name]
    one = from_schedule(schedule)
    assert one.T == schedule.T
    for t in (0.0, 0.4 * schedule.T, schedule.T):
        c, now = schedule.coefficients(t), one.at(t)
        assert (float(now.first), float(now.second), float(now.noise)) == (float(c.alpha), float(c.sigma), 0.0)
        np.testing.assert_array_equal([now.dfirst, now.dsecond], [c.dalpha, c.dsigma])


def test_noise_of_a_bridge_is_finite_where_its_root_is_steep():
    start, end = brownian(0.5).at(0.0), brownian(0.5).at(1.0)
    assert (float(start.noise), float(start.spread), float(end.spread)) == (0.0, 0.25, -0.25)
    assert float(brownian(0.0).at(0.3).noise) == 0
    assert float(linear().at(0.5).noise) == 0


def test_a_clock_moves_marginals_to_other_times():
    clock = lambda t: (np.sin(t), np.cos(t), -np.sin(t))  # noqa: E731
    old = brownian(0.5)
    new = old.retimed(clock, np.pi / 2)
    for t in (0.0, 0.4, 1.3):
        then, now = old.at(np.sin(t)), new.at(t)
        np.testing.assert_allclose([now.first, now.second, now.noise], [then.first, then.second, then.noise])
        np.testing.assert_allclose(now.dfirst, np.cos(t) * then.dfirst)
        np.testing.assert_allclose(now.spread, np.cos(t) * then.spread)
        np.testing.assert_allclose(now.dspread, np.cos(t) ** 2 * then.dspread - np.sin(t) * then.spread)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ScalarInterpolant(1.0, linear().second), TypeError, "first must be a function"),
        (lambda: ScalarInterpolant(linear().first, None), TypeError, "second must be a function"),
        (lambda: ScalarInterpolant(linear().first, linear().second, 0.3), TypeError, "variance must be a function"),
        (lambda: ScalarInterpolant(linear().first, linear().second, T=0.0), ValueError, "T must lie in"),
        (lambda: linear().at(1.1), ValueError, "t must lie in"),
        (lambda: linear().at(-0.1), ValueError, "t must lie in"),
        (lambda: linear().at("now"), TypeError, "t must hold real numbers"),
        (lambda: linear(-0.1), ValueError, "noise must lie in"),
        (lambda: brownian(-1.0), ValueError, "epsilon must lie in"),
        (lambda: brownian(1.0, 0.0), ValueError, "T must lie in"),
        (lambda: from_schedule(linear()), TypeError, "schedule must be a Schedule"),
        (lambda: ScalarInterpolant(lambda t: t, linear().second).at(0.5), ValueError, "first must answer with a value"),
        (
            lambda: ScalarInterpolant(lambda t: (1 / t, 0.0, 0.0) if t else (np.inf, 0.0, 0.0), linear().second).at(
                0.0
            ),
            ValueError,
            "first must answer with a finite value",
        ),
        (
            lambda: ScalarInterpolant(lambda t: (t, np.nan, 0.0), linear().second).at(0.0),
            ValueError,
            "first must answer",
        ),
        (
            lambda: ScalarInterpolant(linear().first, linear().second, lambda t: (-t, -1.0, 0.0)).at(0.5),
            ValueError,
            "variance must not be negative, got -0.5 at t = 0.5",
        ),
    ],
)
def test_what_is_no_interpolant_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
