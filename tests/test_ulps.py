"""Every basic function against mpmath: within 16 ulps of what the rounding of its inputs costs."""

import mpmath as mp
import numpy as np
import pytest

from refdiff.validation.vectors import exact, ulps

# A score or a moment is a sum over d coordinates and K components, two operators deep: 16 roundings.
BOUND = 16.0
FUNCTIONS = (
    "log density",
    "score",
    "denoiser",
    "posterior covariance",
    "alpha",
    "sigma",
    "log_snr",
    "f",
    "g2",
    "time_of_log_snr",
)


@pytest.fixture(scope="module")
def worst():
    return ulps.worst_errors()


def test_every_function_is_compared(worst):
    assert set(worst) == set(FUNCTIONS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_errors_stay_within_the_rounding_of_the_inputs(worst, function):
    found = worst[function]
    assert found.of_size <= BOUND, f"{found.of_size:.3g} ulps in {found.size_case}"


def test_sigma_is_right_to_16_ulps_of_its_own_value_at_every_time(worst):
    assert worst["sigma"].of_result <= 16, worst["sigma"].result_case


def test_an_ulp_is_the_spacing_of_float64_at_the_exact_value():
    value = exact.Value([mp.mpf(1)], [mp.mpf(4)])
    one_off = np.nextafter(1.0, 2.0)
    found = ulps.Worst().including("a", one_off, value).including("b", 1.0, value)
    assert (found.of_result, found.of_size, found.result_case) == (1.0, 0.25, "a")
    assert ulps.Worst().including("c", np.nan, value).of_result == np.inf


def test_the_high_precision_side_notices_a_wrong_formula():
    # noise sigma in place of sigma^2 must be wrong by far more than any bound
    o = exact.Observed([0.5, 0.5], [[0.0], [2.0]], [np.eye(1), np.eye(1)], [0.7], 0.8, 0.36)
    wrong = exact.Observed([0.5, 0.5], [[0.0], [2.0]], [np.eye(1), np.eye(1)], [0.7], 0.8, 0.6)
    for name, value in o.values().items():
        computed = [float(entry) for entry in wrong.values()[name].entries]
        assert ulps.Worst().including("wrong", computed, value).of_size > 1e10
        exactly = [float(entry) for entry in value.entries]
        assert ulps.Worst().including("right", exactly, value).of_size <= 0.5


def test_the_report_names_every_function_and_its_worst_cases(worst):
    printed = ulps.report(worst)
    for function in FUNCTIONS:
        assert function in printed
        assert worst[function].size_case in printed
