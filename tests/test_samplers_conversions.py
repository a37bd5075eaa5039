"""A sampler written otherwise is the same map; two in a row are one after the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import tableaus

from refdiff import PREDICTIONS, ExactModel, FlowMatching, GaussianMixture, VPLinear
from refdiff.samplers.conversions import butcher, compose, to_coordinate, to_prediction, truncate
from refdiff.samplers.ddim import ddim
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run

LAW = GaussianMixture.isotropic([[-1.0, 0.5], [1.2, 0.0]], [0.09, 0.25], [0.4, 0.6])
PROCESS = VPLinear()
MODEL = ExactModel(LAW, PROCESS)


def close(found, expected):
    # conversions divide by alpha and sigma, at least 0.05 in these tables
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * max(1, np.abs(expected).max()))


@given(tableaus(process=PROCESS), st.sampled_from(PREDICTIONS), st.integers(0, 2**32))
def test_another_prediction_is_the_same_map(tableau, prediction, seed):
    x = np.random.default_rng(seed).standard_normal((4, 2))
    converted = to_prediction(tableau, prediction)
    assert converted.prediction == prediction
    close(run(converted, MODEL, x, 1), run(tableau, MODEL, x, 1))


@given(tableaus(process=PROCESS), st.sampled_from(PREDICTIONS))
def test_predictions_convert_back(tableau, prediction):
    assert to_prediction(to_prediction(tableau, prediction), tableau.prediction).close(tableau, 1e-11)


@given(tableaus(process=PROCESS), st.sampled_from(["x/alpha", "x/sigma"]), st.integers(0, 2**32))
def test_another_coordinate_is_the_same_map(tableau, coordinate, seed):
    x = np.random.default_rng(seed).standard_normal((4, 2))
    converted = to_coordinate(tableau, coordinate)
    scale = converted.scale
    close(run(converted, MODEL, x / scale[0], 1) * scale[-1], run(tableau, MODEL, x, 1))
    assert to_coordinate(converted, "x").close(tableau, 1e-12)


@given(tableaus(process=PROCESS, per_axis=2), st.integers(0, 2**32))
def test_weights_for_each_axis_convert_like_numbers(tableau, seed):
    x = np.random.default_rng(seed).standard_normal((4, 2))
    other = to_coordinate(to_prediction(tableau, "score"), "x/sigma")
    close(run(other, MODEL, x / other.scale[0], 1) * other.scale[-1], run(tableau, MODEL, x, 1))


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 1.0]), st.integers(0, 2**32))
def test_two_samplers_in_a_row_are_one_table(m, n, eta, seed):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0.05, 1, m + n + 1))[::-1]
    one, two = ddim(PROCESS, times[: m + 1], eta=eta), ddim(PROCESS, times[m:], eta=eta)
    both = compose(one, to_coordinate(to_prediction(two, "velocity"), "x/alpha"))
    assert both.close(ddim(PROCESS, times, eta=eta))
    x = rng.standard_normal((3, 2))
    normals = rng.standard_normal((both.draws, 3, 2))
    middle = run(one, MODEL, x, normals=normals[: one.draws])
    close(run(both, MODEL, x, normals=normals), run(two, MODEL, middle, normals=normals[one.draws :]))


def test_the_tail_of_a_table_is_the_sampler_on_the_tail_of_the_grid():
    times = np.linspace(0.9, 0.1, 6)
    assert truncate(ddim(PROCESS, times, eta=0.5), 2).close(ddim(PROCESS, times[2:], eta=0.5))


def test_a_history_is_not_cut_off():
    rec = Recorder("two outputs", PROCESS, [0.9, 0.6, 0.3])
    first = rec.evaluate(rec.start, rec.points[0])
    x = rec.keep(rec.start + first, rec.points[1])
    tableau = rec.finish(x + 2.0 * rec.evaluate(x, rec.points[1]) - first)
    with pytest.raises(ValueError, match="stage must not cut off what stage 2 refers to, got 1"):
        truncate(tableau, 1)


def test_a_normal_that_is_used_again_is_not_cut_off():
    rec = Recorder("one normal twice", PROCESS, [0.9, 0.6, 0.3])
    z = rec.normal()
    x = rec.keep(rec.start + z, rec.points[1])
    tableau = rec.finish(x - 0.5 * z)
    with pytest.raises(ValueError, match="stage must not cut off what stage 2 refers to, got 1"):
        truncate(tableau, 1)


def test_tables_with_numbers_and_with_matrices_of_noise_follow_each_other():
    matrix = np.array([[1.0, 0.5], [0.0, 2.0]])
    rec = Recorder("matrix", PROCESS, [0.6, 0.3])
    first, second = ddim(PROCESS, [0.9, 0.6], eta=1.0), rec.finish(0.5 * rec.start + rec.noise(matrix))
    found = compose(first, to_coordinate(second, "x/sigma")).unroll().noise[-1]
    np.testing.assert_allclose(found, [0.5 * first.noise[1, 0] * np.eye(2), matrix], rtol=1e-14)


def test_a_stochastic_table_is_no_runge_kutta_method():
    with pytest.raises(ValueError, match="tableau must be deterministic"):
        butcher(ddim(PROCESS, [0.8, 0.3], eta=1.0))


def test_a_midpoint_step_is_the_midpoint_method_in_its_coordinate():
    rec = Recorder("midpoint", FlowMatching(), [0.8, 0.4], "velocity")
    s, t = rec.points
    middle = rec.at(0.6)
    x = rec.start
    u = x + (middle.t - s.t) * rec.evaluate(x, s)
    found = butcher(rec.finish(x + (t.t - s.t) * rec.evaluate(u, middle)), "x")
    np.testing.assert_allclose(found.A, [[0, 0], [0.5, 0]], atol=1e-15)
    np.testing.assert_allclose(found.b, [0, 1], atol=1e-15)
    np.testing.assert_allclose(found.c, [0, 0.5], atol=1e-15)


@pytest.mark.parametrize("coordinate", ["x/alpha", "x/sigma"])
def test_ddim_is_euler_in_both_scaled_coordinates(coordinate):
    found = butcher(ddim(PROCESS, [0.8, 0.3]), coordinate)
    np.testing.assert_allclose(found.A, [[0]], atol=1e-15)
    np.testing.assert_allclose(found.b, [1], rtol=1e-14)
    with pytest.raises(ValueError, match="tableau must have stages y_0"):
        butcher(ddim(PROCESS, [0.8, 0.3]), "x")  # an exponential integrator there: not Runge-Kutta


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: to_prediction(t, "x0"), "prediction must be one of .* got 'x0'"),
        (lambda t: to_coordinate(t, "y"), "coordinate must be one of .* got 'y'"),
        (lambda t: to_coordinate(t, "x/sigma"), "coordinate must be finite at every stage, got x/sigma at t = 0.0"),
        (lambda t: compose(t, t), "second must start at t = 0.0, where first ends, got 1.0"),
        (lambda t: truncate(t, 9), "stage must be in 0..2, got 9"),
        (lambda t: butcher(t, "t"), "coordinate must be one of .* got 't'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(ddim(PROCESS, [1.0, 0.6, 0.3, 0.0]))


def test_a_prediction_that_says_nothing_at_pure_noise_is_refused():
    with pytest.raises(ValueError, match="leave noise and denoiser equivalent"):
        to_prediction(ddim(FlowMatching(), [1.0, 0.5]), "noise")
