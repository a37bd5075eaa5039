"""Conversions between predictions, against the exact model, which computes each from its own definition."""

import matrices
import numpy as np
import pytest

from refdiff import PREDICTIONS, ExactModel, FlowMatching, Trigonometric, VEPower, VPLinear, convert
from refdiff.distributions import random_mixture
from refdiff.predictions import weights
from refdiff.processes import AffineProcess, LinearProcess, PrincipalAxes

PROCESSES = {
    "vp": AffineProcess(VPLinear()),
    "edm": AffineProcess(VEPower()),
    "flow": AffineProcess(FlowMatching()),
    "trigonometric": AffineProcess(Trigonometric(0.5)),
    "per axis": AffineProcess([VPLinear(), FlowMatching(), VPLinear(1.0, 5.0)]),
}


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
def test_a_converted_prediction_is_the_models_own(process, source, target):
    model = ExactModel(random_mixture(3, 4, 0, "full"), process)
    t = 0.37 * process.T
    x = model.sample(5, t, 1).reshape(5, 1, 3)
    found = convert(model.predict(x, t, source), x, t, process, source, target)
    expected = model.predict(x, t, target)
    # dividing by alpha, sigma or W amplifies rounding by at most max(1, sigma)^2 / min(alpha, sigma)^2 < 1e4 here
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * (1 + np.abs(x).max() + np.abs(expected).max()))


@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
def test_a_conversion_is_its_weights_of_the_point_and_the_prediction(source, target):
    process, t = PROCESSES["per axis"], 0.37
    x, value = np.random.default_rng(0).standard_normal((2, 4, 3))
    a, b = weights(process.coefficients(t), source, target)
    found = convert(value, x, t, process, source, target)
    np.testing.assert_allclose(a * x + b * value, found, rtol=1e-12, atol=1e-12 * np.abs(found).max())


@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
def test_predictions_of_a_process_with_an_offset_are_those_of_its_model(source, target):
    process = AffineProcess(VPLinear(), lambda t: (np.array([1.0, -t, t * t]), [0.0, -1.0, 2 * t], [0.0, 0.0, 2.0]))
    model, t = ExactModel(random_mixture(3, 4, 0, "full"), process), 0.3
    x = model.sample(5, t, 1)
    found = convert(model.predict(x, t, source), x, t, process, source, target)
    np.testing.assert_allclose(found, model.predict(x, t, target), rtol=1e-11, atol=1e-11)


def test_one_axis_at_which_the_source_is_silent_is_enough_to_refuse():
    process = AffineProcess([FlowMatching(), VPLinear()])
    with pytest.raises(ValueError, match="t must leave noise and denoiser equivalent"):
        convert([[1.0, 1.0]], [[1.0, 1.0]], 1.0, process, "noise", "denoiser")


def test_noise_gives_the_score_where_alpha_is_zero():
    x, noise = np.array([[0.3, -1.0]]), np.array([[1.0, 2.0]])
    np.testing.assert_array_equal(convert(noise, x, 1.0, FlowMatching(), "noise", "score"), -noise)


@pytest.mark.parametrize(
    ("t", "source", "target"), [(0.0, "denoiser", "noise"), (1.0, "noise", "denoiser"), (0.0, "velocity", "score")]
)
def test_a_time_at_which_the_source_does_not_determine_the_target_is_refused(t, source, target):
    with pytest.raises(ValueError, match="t must leave"):
        convert([[1.0]], [[1.0]], t, FlowMatching(), source, target)


def test_float32_comes_back_as_float32():
    x = np.ones((2, 3), dtype=np.float32)
    assert convert(x, x, 0.5, FlowMatching(), "noise", "denoiser").dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([[1.0]], [[1.0]], 0.5, FlowMatching(), "epsilon", "score"), "source"),
        (([[1.0]], [[1.0]], 0.5, FlowMatching(), "noise", "flow"), "target"),
        (([[1.0]], [[1.0, 2.0]], 0.5, FlowMatching(), "noise", "score"), "value"),
        (([[1.0], [2.0]], [[1.0]], 0.5, FlowMatching(), "noise", "score"), "value"),
        ((1.0, 1.0, 0.5, FlowMatching(), "noise", "score"), "x"),
        (([[1.0]], [[1.0]], 1.5, FlowMatching(), "noise", "score"), "t"),
        (([[np.nan]], [[1.0]], 0.5, FlowMatching(), "noise", "score"), "value"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        convert(*arguments)


# ---------------------------------------------------------------------- processes turned away from the axes

TURN = np.array([[0.8, -0.6], [0.6, 0.8]])
NAMES = ("denoiser", "noise", "score", "velocity")


@pytest.mark.parametrize("schedules", [VPLinear(), [VPLinear(), VPLinear(1.0, 5.0)]], ids=["one", "two"])
@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("target", NAMES)
def test_turned_axes_turn_the_conversion(schedules, source, target):
    along = AffineProcess(schedules)
    value, x = np.random.default_rng(0).standard_normal((2, 3, 2))
    found = convert(value @ TURN.T, x @ TURN.T, 0.5, PrincipalAxes(along, TURN), source, target)
    np.testing.assert_allclose(found, convert(value, x, 0.5, along, source, target) @ TURN.T, atol=1e-12)


def test_turned_axes_of_which_one_has_no_signal_left_are_told_by_what_is_determined():
    along = AffineProcess([VPLinear(), FlowMatching()])  # alpha = 0 at T on the second
    process = PrincipalAxes(along, TURN)
    value, x = np.random.default_rng(1).standard_normal((2, 3, 2))
    for target in ("noise", "score", "velocity"):
        found = convert(value @ TURN.T, x @ TURN.T, 1.0, process, "denoiser", target)
        np.testing.assert_allclose(found, convert(value, x, 1.0, along, "denoiser", target) @ TURN.T, atol=1e-12)
    for target in ("denoiser", "velocity"):  # where turning leaves a rounding of 0 to divide by
        with pytest.raises(ValueError, match=f"noise and {target} equivalent"):
            convert(value, x, 1.0, process, "noise", target)


@pytest.mark.parametrize("source", [name for name in PREDICTIONS if name != "v_prediction"])
@pytest.mark.parametrize("target", [name for name in PREDICTIONS if name != "v_prediction"])
def test_a_prediction_under_matrices_and_a_force_is_converted_too(source, target):
    """Condition numbers of A, R and D are below 1e2 here."""
    made = matrices.Coefficients(3, 6)
    process = LinearProcess(made.drift, made.noise, force=made.force)
    model = ExactModel(random_mixture(3, 4, 0, "full"), process)
    x = model.sample(5, 0.5, 1).reshape(5, 1, 3)
    found = convert(model.predict(x, 0.5, source), x, 0.5, process, source, target)
    expected = model.predict(x, 0.5, target)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())
    assert np.abs(process.offset(0.5).value).min() > 1e-3
