"""Schedules: every derivative by stencils, the ends of time, inverses, clocks and scales."""

import mpmath as mp
import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refdiff
from refdiff import (
    FlowMatching,
    FunctionSchedule,
    SubVP,
    Transformed,
    Trigonometric,
    VEGeometric,
    VEPower,
    VPCosine,
    VPLinear,
    beta_table,
    testing,
)
from refdiff.validation.numeric import derivative

SCHEDULES = testing.schedules()
ENDS = [
    VPLinear(),
    VPLinear(0.0, 20.0),
    VPLinear(1e-3, 1e-3),
    VPCosine(),
    VPCosine(0.0),
    SubVP(),
    SubVP(0.0, 20.0),
    SubVP(0.1, 4000.0),
    VPLinear(0.1, 4000.0),
    VEGeometric(),
    VEGeometric(clean_start=True),
    VEPower(),
    VEPower(0.5),
    VEPower(0.25),
    VEPower(1.5),
    VEPower(2.0),
    VEPower(3.0),
    FlowMatching(),
    Trigonometric(),
    Trigonometric(0.25),
    beta_table.linear(),
    beta_table.squared_cosine(),
    beta_table.scaled_linear().zero_terminal_snr(),
    refdiff.BetaTable(np.array([0.4])),
    refdiff.BetaTable(np.array([1.0])),
    refdiff.BetaTable(np.array([0.1, 0.0, 0.2])),
    FunctionSchedule(lambda t: 1 - t, lambda t: 1.0 * t),
    FunctionSchedule(lambda t: np.exp(-t), lambda t: np.sqrt(-np.expm1(-2 * t))),
    FunctionSchedule(
        lambda t: np.exp(-t),
        lambda t: np.sqrt(-np.expm1(-2 * t)),
        1.0,
        lambda t: -np.exp(-t),
        lambda t: np.exp(-2 * t) / np.sqrt(-np.expm1(-2 * t)),
    ),
    Transformed(VPLinear(), lambda t: (t, 1.0, 0.0), lambda t: (1 + t, 1.0, 0.0)),
    Transformed(FlowMatching(), lambda t: (t * t, 2 * t, 2.0)),
]


def name(schedule):
    """A short name for the report: tables and functions would print themselves at length."""
    if isinstance(schedule, refdiff.BetaTable):
        return f"table of {schedule.steps}"
    return type(schedule).__name__ if isinstance(schedule, (FunctionSchedule, Transformed)) else repr(schedule)


# The formulas of the papers, as printed in `refdiff.schedules.families`.
PRINTED = [
    (VPLinear(0.2, 7.0, 2.0), lambda t: (np.exp(-(0.2 * t + 6.8 * t * t / 4) / 2), None)),
    (
        VPCosine(0.01, 2.0),
        lambda t: (np.cos(np.pi / 2 * (t / 2 + 0.01) / 1.01) / np.cos(np.pi / 2 * 0.01 / 1.01), None),
    ),
    (SubVP(0.2, 7.0, 2.0), lambda t: (b := np.exp(-(0.2 * t + 6.8 * t * t / 4) / 2), 1 - b * b)),
    (VEGeometric(0.02, 30.0, 2.0), lambda t: (1.0, 0.02 * 1500 ** (t / 2))),
    (VEGeometric(0.02, 30.0, 2.0, True), lambda t: (1.0, np.sqrt(0.02**2 * 1500**t - 0.02**2))),
    (VEPower(1.5, 3.0), lambda t: (1.0, t**1.5)),
    (FlowMatching(), lambda t: (1 - t, t)),
    (Trigonometric(0.5), lambda t: (np.cos(t), 0.5 * np.sin(t))),
]


@pytest.mark.parametrize(("schedule", "formula"), PRINTED, ids=[type(schedule).__name__ for schedule, _ in PRINTED])
def test_alpha_and_sigma_are_those_of_the_printed_formula(schedule, formula):
    for t in schedule.T * np.array([0.1, 0.35, 0.6, 0.9]):
        alpha, sigma = formula(t)
        np.testing.assert_allclose(schedule.alpha(t), alpha, rtol=1e-12)
        np.testing.assert_allclose(schedule.sigma(t), np.sqrt(1 - alpha**2) if sigma is None else sigma, rtol=1e-12)
        np.testing.assert_allclose(schedule.time_of_log_snr(schedule.log_snr(t)), t, rtol=1e-13)


def test_schedules_have_the_constants_of_their_papers():
    for made, papers in (
        (VPLinear(), VPLinear(0.1, 20.0, 1.0)),
        (VPCosine(), VPCosine(0.008, 1.0)),
        (SubVP(), SubVP(0.1, 20.0, 1.0)),
        (VEGeometric(), VEGeometric(0.01, 50.0, 1.0, False)),
        (VEPower(), VEPower(1.0, 80.0)),
        (Trigonometric(), Trigonometric(1.0, np.pi / 2)),
        (FlowMatching(), FlowMatching(1.0)),
    ):
        assert made == papers


@pytest.mark.parametrize("schedule", [VPCosine(), VPCosine(0.0), FlowMatching(), Trigonometric()], ids=repr)
def test_pure_noise_at_the_end_is_exact(schedule):
    assert schedule.alpha(schedule.T) == 0
    assert schedule.log_snr(schedule.T) == -np.inf


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda T: FunctionSchedule(np.cos, np.sin, T), "T"),
        (lambda T: Transformed(VPLinear(), lambda t: (t, 1.0, 0.0), None, T), "T"),
    ]
    + [(VEPower, "power"), (Trigonometric, "sigma_d"), (lambda T: VPCosine(0.1, T), "T"), (VEGeometric, "sigma_min")]
    + [(lambda T, kind=kind: kind(T=T), "T") for kind in (VPLinear, VPCosine, SubVP, VEGeometric, VEPower)],
)
def test_what_must_be_positive_may_not_be_zero(make, name):
    with pytest.raises(ValueError, match=rf"^{name} must lie in \(0"):
        make(0.0)


# not where alpha falls by e^-1000 within T, which a stencil does not follow
@pytest.mark.parametrize("schedule", [s for s in ENDS[:20] if getattr(s, "beta_max", 0) < 100], ids=name)
@pytest.mark.parametrize("fraction", [0.3, 0.85])
def test_the_derivatives_of_a_family_are_those_of_its_quantities(schedule, fraction):
    derivatives_are_right(schedule, fraction)


@given(SCHEDULES, st.floats(0.05, 0.95))
def test_every_derivative_is_that_of_the_quantity_before_it(schedule, fraction):
    derivatives_are_right(schedule, fraction)


def derivatives_are_right(schedule, fraction):
    t = fraction * schedule.T
    if isinstance(schedule, refdiff.BetaTable):
        t = np.floor(t) + 0.5  # away from the kinks
    # a stencil of reach 4 h: truncation (h / t)^8 of the singularity at t = 0
    h = 4e-3 * min(t - np.floor(t) if isinstance(schedule, refdiff.BetaTable) else t, schedule.T - t)
    c = schedule.coefficients(t)
    for name, base in plain.RATES.items():
        if base.startswith("d") and isinstance(schedule, FunctionSchedule):
            continue  # its second derivatives are numerical themselves
        expected = derivative(lambda u, base=base: getattr(schedule.coefficients(u), base), t, h)
        size = abs(expected) + abs(getattr(c, base)) / h * 100 * plain.EPS / 1e-7
        assert abs(getattr(c, name) - expected) <= 1e-7 * size, name
    variance = derivative(lambda u: schedule.sigma(u) ** 2, t, h)
    assert abs(c.dvariance - variance) <= 1e-7 * (abs(variance) + c.sigma**2)


@given(SCHEDULES, st.floats(0.02, 0.98))
def test_f_and_g2_are_the_drift_and_diffusion_of_their_definitions(schedule, fraction):
    t = fraction * schedule.T
    c = schedule.coefficients(t)
    np.testing.assert_allclose(c.f, c.dalpha / c.alpha, rtol=1e-12)
    terms = abs(c.dvariance) + 2 * abs(c.f) * c.sigma**2
    # numerical derivatives of a FunctionSchedule carry 1e-9 of their own into both sides alike
    assert abs(c.g2 - (c.dvariance - 2 * c.f * c.sigma**2)) <= 1e-12 * terms
    assert c.g2 >= -1e-9 * terms


@given(SCHEDULES, st.floats(0.02, 0.98))
def test_log_snr_falls_at_the_rate_minus_g2_over_2_sigma2(schedule, fraction):
    t = fraction * schedule.T
    c = schedule.coefficients(t)
    np.testing.assert_allclose(schedule.log_snr(t), np.log(c.alpha / c.sigma), rtol=1e-12, atol=1e-13)
    expected = -c.g2 / (2 * c.sigma**2)
    # f and sigma'/sigma may cancel down to their difference
    assert abs(schedule.dlog_snr(t) - expected) <= 1e-12 * (abs(c.f) + abs(c.dsigma / c.sigma)) + 1e-9 * abs(expected)
    assert schedule.dlog_snr(t) <= 0


@given(SCHEDULES, st.floats(0.001, 0.999))
def test_time_of_log_snr_is_the_inverse(schedule, fraction):
    t = fraction * schedule.T
    lam = float(schedule.log_snr(t))
    back = schedule.time_of_log_snr(lam)
    # a lambda rounded by eps (|log alpha| + |log sigma|) moves the time by that over |lambda'|
    c = schedule.coefficients(t)
    blur = plain.EPS * (1 + abs(np.log(c.alpha)) + abs(np.log(c.sigma))) / abs(schedule.dlog_snr(t))
    assert abs(back - t) <= 32 * (blur + plain.EPS * t)


# not where lambda is finite at t = 0: there early times are differences of it
@pytest.mark.parametrize("exponent", [-3, -6, -9, -12])
@pytest.mark.parametrize("schedule", [s for s in ENDS[:20] if s.sigma(0.0) == 0], ids=name)
def test_time_of_log_snr_keeps_relative_digits_of_early_times(schedule, exponent):
    t = schedule.T * 10.0**exponent
    lam = float(schedule.log_snr(t))
    np.testing.assert_allclose(schedule.time_of_log_snr(lam), t, rtol=32 * plain.EPS * (1 + abs(lam)))


@pytest.mark.parametrize("schedule", ENDS, ids=name)
def test_both_ends_of_time_have_their_limits(schedule):
    for t in (0.0, schedule.T):
        for quantity, value in schedule.coefficients(t)._asdict().items():
            # where sigma' is infinite, a chain rule or a stencil does not know sigma''
            unknown = isinstance(schedule, (FunctionSchedule, Transformed)) and quantity in ("d2sigma", "d2variance")
            assert unknown or not np.isnan(value), f"{quantity} at t = {t}"
        assert schedule.alpha(t) >= 0
        assert schedule.sigma(t) >= 0
    assert schedule.alpha(0.0) == 1 or not isinstance(schedule, VPLinear)
    assert schedule.log_snr(0.0) > schedule.log_snr(schedule.T)
    assert not np.isnan(schedule.dlog_snr([0.0, schedule.T])).any()
    assert (schedule.dlog_snr([0.0, schedule.T]) <= 0).all()
    assert schedule.sigma(0.0) > 0 or schedule.dlog_snr(0.0) == -np.inf


@pytest.mark.parametrize("schedule", ENDS, ids=name)
def test_the_inverse_reaches_both_ends(schedule):
    assert schedule.time_of_log_snr(schedule.log_snr(0.0)) == 0
    assert abs(schedule.time_of_log_snr(schedule.log_snr(schedule.T)) - schedule.T) <= 1e-6 * schedule.T


@pytest.mark.parametrize(
    ("schedule", "end"), [(VPLinear(0.0, 20.0), np.sqrt(10.0)), (VPCosine(0.0), np.pi / 2), (SubVP(0.0, 20.0), 0.0)]
)
def test_sigma_leaves_zero_at_a_finite_rate_where_beta_starts_at_zero(schedule, end):
    np.testing.assert_allclose(schedule.dsigma(0.0), end, rtol=1e-14)
    if not isinstance(schedule, SubVP):
        assert schedule.coefficients(0.0).d2sigma == 0  # sigma is odd in t


@pytest.mark.parametrize("schedule", ENDS, ids=name)
def test_times_keep_their_shape_and_one_time_is_like_many(schedule):
    t = schedule.T * np.linspace(0.1, 0.9, 6).reshape(2, 3)
    single = [[schedule.coefficients(u) for u in row] for row in t]
    for name, many in schedule.coefficients(t)._asdict().items():
        one = [[getattr(c, name) for c in row] for row in single]
        assert many.shape == (2, 3)
        # SciPy's adaptive stencil stops for a whole batch at once, and is good to about the square root of eps
        rtol = 1e-12 if not isinstance(schedule, FunctionSchedule) else 1e-6
        np.testing.assert_allclose(many, one, rtol=rtol, atol=rtol * max(np.abs(many).max(), schedule.alpha(0.0)))
    assert np.shape(schedule.alpha(np.zeros((0,)))) == (0,)
    assert np.shape(schedule.log_snr(0.3 * schedule.T)) == ()
    assert np.shape(schedule.time_of_log_snr(schedule.log_snr(t))) == (2, 3)


@pytest.mark.parametrize("schedule", ENDS[:21], ids=name)
def test_an_infinite_log_snr_is_a_time_only_where_it_is_reached(schedule):
    for lam, t in ((np.inf, 0.0), (-np.inf, schedule.T)):
        if schedule.log_snr(t) == lam:
            assert schedule.time_of_log_snr(lam) == t
        else:
            with pytest.raises(ValueError, match="lam must lie in"):
                schedule.time_of_log_snr(lam)


@given(SCHEDULES, st.floats(1e-6, 10.0))
def test_a_log_snr_that_is_never_reached_is_refused(schedule, beyond):
    low, high = schedule.log_snr(schedule.T), schedule.log_snr(0.0)
    for lam in (low - beyond, high + beyond, np.nan):
        if np.isfinite(lam) or np.isnan(lam):
            with pytest.raises(ValueError, match="lam must lie in"):
                schedule.time_of_log_snr(lam)


@given(st.floats(0.01, 1.0), st.floats(1.0, 30.0), st.floats(1e-8, 1.0))
def test_variance_preserving_sigma_is_exact_where_alpha_rounds_to_one(low, high, t):
    schedule = VPLinear(low, high)
    with mp.workdps(60):
        total = mp.mpf(low) * mp.mpf(t) + (mp.mpf(high) - mp.mpf(low)) * mp.mpf(t) ** 2 / 2
        alpha, sigma = mp.exp(-total / 2), mp.sqrt(1 - mp.exp(-total))
    np.testing.assert_allclose(schedule.sigma(t), float(sigma), rtol=8 * plain.EPS)
    # alpha = e^(-B / 2) carries the rounding of B
    np.testing.assert_allclose(schedule.alpha(t), float(alpha), rtol=8 * plain.EPS * (1 + float(total)))


@given(st.floats(0.0, 1.0))
def test_trigonometric_is_the_cosine_schedule_without_offset_on_a_longer_clock(u):
    arc, cosine = Trigonometric(), VPCosine(0.0)
    np.testing.assert_allclose(arc.alpha(u * np.pi / 2), cosine.alpha(u), atol=2 * plain.EPS)
    np.testing.assert_allclose(arc.sigma(u * np.pi / 2), cosine.sigma(u), atol=2 * plain.EPS)


def test_a_log_snr_beyond_the_ends_is_taken_for_rounding_up_to_a_trillionth():
    schedule = VPLinear(3.0, 3.0)
    low = schedule.log_snr(schedule.T)
    assert low < -0.5
    assert schedule.time_of_log_snr(low - 0.9e-12 * (1 - low)) == schedule.T
    for beyond in (low - 1.1e-12 * (1 - low), [0.0, low - 1.0, 1.0]):
        with pytest.raises(ValueError, match="lam must lie in"):
            schedule.time_of_log_snr(beyond)


@pytest.mark.parametrize("schedule", [VPLinear(0.1, 4000.0), SubVP(0.1, 4000.0), VPLinear(0.0, 20.0)], ids=name)
def test_the_inverse_knows_log_snrs_whose_exponential_overflows(schedule):
    t = schedule.T * np.array([0.3, 0.9, 0.99])
    np.testing.assert_allclose(schedule.time_of_log_snr(schedule.log_snr(t)), t, rtol=1e-14)
    assert schedule.time_of_log_snr(400.0) <= 1e-170


def test_schedules_with_equal_parameters_are_equal_and_hashable():
    assert VPLinear() == VPLinear(0.1, 20.0)
    assert len({VPLinear(), VPLinear(), VPCosine()}) == 2


def test_one_time_gives_numbers_and_many_times_arrays():
    for schedule in ENDS:
        assert all(isinstance(value, float) for value in schedule.coefficients(0.3 * schedule.T))
        assert all(value.shape == (2,) for value in schedule.coefficients([0.3 * schedule.T, 0.4 * schedule.T]))
