"""Changes of schedules: clocks and scales, alignments, and schedules given as functions."""

import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Alignment, FlowMatching, FunctionSchedule, SubVP, Transformed, Trigonometric, VEPower, VPLinear
from refdiff.schedules import Amplified
from refdiff.validation.numeric import derivative


@given(st.sampled_from([VPLinear(), FlowMatching(), VEPower(T=1.0), SubVP()]), st.floats(0.1, 0.9))
def test_a_transformed_schedule_is_the_base_with_the_chain_rule(base, t):
    c = np.array([1 + t * t, 2 * t, 2.0])
    schedule = Transformed(base, lambda t: (t**2, 2 * t, 2.0), lambda t: (1 + t * t, 2 * t, 2.0))
    np.testing.assert_allclose(schedule.alpha(t), c[0] * base.alpha(t * t), rtol=1e-14)
    np.testing.assert_allclose(schedule.log_snr(t), base.log_snr(t * t), rtol=1e-12, atol=1e-14)
    for name, of in plain.RATES.items():
        slope = derivative(lambda u, of=of: getattr(schedule.coefficients(u), of), t, 2e-3 * min(t, 1 - t))
        np.testing.assert_allclose(getattr(schedule.coefficients(t), name), slope, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(schedule.time_of_log_snr(schedule.log_snr(t)), t, rtol=1e-12)


def test_a_transformed_schedule_has_its_own_drift_and_diffusion():
    schedule = Transformed(VPLinear(), lambda t: (t**2, 2 * t, 2.0), lambda t: (1 + t * t, 2 * t, 2.0))
    c = schedule.coefficients([0.2, 0.5, 0.9])
    np.testing.assert_allclose(c.f, c.dalpha / c.alpha, rtol=1e-12)
    np.testing.assert_allclose(c.g2, c.dvariance - 2 * c.f * c.sigma**2, rtol=1e-11)
    np.testing.assert_allclose(c.dvariance, 2 * c.sigma * c.dsigma, rtol=1e-12)


def test_without_a_scale_a_transformed_schedule_keeps_its_own():
    def clock(t):
        return t**2, 2 * t, 2.0

    bare, ones = Transformed(SubVP(), clock), Transformed(SubVP(), clock, lambda t: (1.0, 0.0, 0.0))
    for one, other in zip(bare.coefficients([0.2, 0.9]), ones.coefficients([0.2, 0.9]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_early_curvature_of_a_transformed_sigma_does_not_cancel():
    # sigma = sin(u) with u = 1.1 t: sigma'' = -1.21 sin(u), which (sigma^2)'' - 2 sigma'^2 = O(1) - O(1) would lose
    schedule = Transformed(Trigonometric(), lambda t: (1.1 * t, 1.1, 0.0))
    for t in (1e-3, 1e-6, 1e-9):
        np.testing.assert_allclose(schedule.coefficients(t).d2sigma, -1.21 * np.sin(1.1 * t), rtol=1e-13)


@given(st.floats(0.05, 0.95))
def test_an_alignment_carries_one_schedule_onto_the_other(t):
    source, target = VPLinear(), FlowMatching()
    match = Alignment(source, target)
    tau, scale = match.tau(t), match.scale(t)
    np.testing.assert_allclose(scale * source.alpha(tau), target.alpha(t), rtol=1e-12)
    np.testing.assert_allclose(scale * source.sigma(tau), target.sigma(t), rtol=1e-12)


@given(st.floats(0.05, 0.95))
def test_function_schedules_find_derivatives_they_are_not_given(u):
    bare = FunctionSchedule(lambda t: np.exp(-t), lambda t: np.sqrt(-np.expm1(-2 * t)), 3.0)
    t = 3 * u
    # SciPy's adaptive stencil promises about the square root of eps where the function is smooth
    np.testing.assert_allclose(bare.f(t), -1.0, rtol=1e-7)
    np.testing.assert_allclose(bare.g2(t), 2.0, rtol=1e-6)


def test_the_variance_of_functions_has_a_slope_where_sigma_has_none():
    schedule = FunctionSchedule(
        lambda t: np.exp(-t),
        lambda t: np.sqrt(-np.expm1(-2 * t)),
        1.0,
        lambda t: -np.exp(-t),
        lambda t: np.exp(-2 * t) / np.sqrt(-np.expm1(-2 * t)),
    )
    c = schedule.coefficients([0.0, 0.5])
    np.testing.assert_allclose(c.dvariance, 2 * np.exp([0.0, -1.0]), rtol=1e-7)  # that of SciPy's stencil
    np.testing.assert_allclose(c.g2, 2, rtol=1e-7)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: FunctionSchedule(None, np.sin), "alpha_of"),
        (lambda: FunctionSchedule(np.cos, None), "sigma_of"),
        (lambda: FunctionSchedule(np.cos, np.sin, 1.0, 3.0), "dalpha_of"),
        (lambda: Transformed(VPLinear(), None), "clock"),
        (lambda: Transformed(VPLinear(), np.sin, 3.0), "scale"),
        (lambda: Transformed(np.sin, np.sin), "base"),
    ],
)
def test_what_must_be_a_function_of_time_is_one(make, name):
    with pytest.raises(TypeError, match=f"^{name} must be a"):
        make()


def test_a_clock_that_starts_at_rest_meets_an_infinite_rate_of_sigma_in_its_limit():
    # sigma = sqrt(beta_min t) to leading order, so on the clock t^2 it starts at the rate sqrt(beta_min)
    schedule = Transformed(VPLinear(0.1, 20.0), lambda t: (t**2, 2 * t, 2.0))
    np.testing.assert_allclose(schedule.dsigma(0.0), np.sqrt(0.1), rtol=1e-15)
    np.testing.assert_allclose(schedule.sigma(1e-6) / 1e-6, np.sqrt(0.1), rtol=1e-9)


@given(st.sampled_from([VPLinear(), FlowMatching(), VEPower(T=1.0), SubVP()]), st.floats(0.1, 0.9), st.floats(0.05, 20))
def test_an_amplified_schedule_has_the_signal_of_its_base_and_so_many_times_its_noise(base, t, factor):
    schedule = Amplified(base, factor)
    c, given = schedule.coefficients(t), base.coefficients(t)
    assert (c.alpha, c.dalpha, c.f) == (given.alpha, given.dalpha, given.f)
    np.testing.assert_allclose(c.sigma, factor * given.sigma, rtol=1e-15)
    np.testing.assert_allclose(c.log_snr, np.log(c.alpha / c.sigma), atol=1e-13)
    np.testing.assert_allclose(c.g2, c.dvariance - 2 * c.f * c.sigma**2, rtol=1e-9)
    for name, of in plain.RATES.items():
        slope = derivative(lambda u, of=of: getattr(schedule.coefficients(u), of), t, 2e-3 * min(t, 1 - t))
        np.testing.assert_allclose(getattr(c, name), slope, rtol=1e-7, atol=1e-8 * max(1, factor**2))
    np.testing.assert_allclose(schedule.time_of_log_snr(c.log_snr), t, rtol=1e-9)
    assert schedule.T == base.T
    assert schedule.time_of_log_snr(np.inf) == 0


def test_noise_is_multiplied_by_a_positive_number():
    with pytest.raises(ValueError, match="factor must lie in"):
        Amplified(VPLinear(), 0.0)
    with pytest.raises(TypeError, match="base must be a Schedule"):
        Amplified(2.0, VPLinear())
