"""What a table is: its layout, what it refuses, and when two tables are the same sampler."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tables import tableaus

from refdiff import AffineProcess, BetaTable, FlowMatching, VPLinear
from refdiff.samplers.ddim import ddim
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.tableau import ARRAYS

TIMES = np.linspace(1.0, 0.0, 5)


def test_a_long_sampler_of_one_step_memory_has_a_short_window():
    tableau = ddim(VPLinear(), np.linspace(1.0, 0.0, 301), eta=1.0)
    assert tableau.window == (1, 1, 1)
    assert tableau.states.shape == (301, 1)
    assert (tableau.nfe, tableau.stages, tableau.draws) == (300, 301, 299)  # the last step adds no noise


def test_what_a_table_holds_cannot_be_changed():
    tableau = ddim(VPLinear(), TIMES)
    with pytest.raises(ValueError, match="read-only"):
        tableau.states[1, 0] = 2.0


@given(tableaus(), st.floats(1e-3, 1.0), st.integers(0, 2**32))
def test_one_changed_weight_makes_another_sampler(tableau, change, seed):
    k, i = np.argwhere(tableau.outputs)[np.random.default_rng(seed).integers(np.count_nonzero(tableau.outputs))]
    outputs = tableau.outputs.copy()
    outputs[k, i] += change
    assert tableau.close(tableau, 0.0)
    assume(tableau.evaluated[k] or k == tableau.stages - 1)  # other stages may not reach the output
    assert not tableau.close(replace(tableau, outputs=outputs), 1e-9)


def test_tables_with_other_predictions_or_numbers_of_evaluations_are_not_comparable():
    tableau = ddim(VPLinear(), TIMES)
    assert tableau.difference(ddim(VPLinear(), TIMES[:-1])) == np.inf
    assert tableau.difference(replace(tableau, prediction="noise")) == np.inf
    assert tableau.difference(ddim(VPLinear(), TIMES, eta=1.0)) == np.inf
    assert tableau.difference(replace(tableau, coordinate="x/alpha")) == np.inf


def test_tables_differ_in_their_start_their_noise_and_their_times():
    tableau = ddim(VPLinear(), TIMES, eta=1.0)
    for name, index in (("states", (1, 0)), ("noise", (1, 0)), ("times", 1)):
        changed = getattr(tableau, name).copy()
        changed[index] += 0.01
        assert 1e-3 < tableau.difference(replace(tableau, **{name: changed})) < 0.1


def test_differences_are_relative_to_the_weights_of_their_row():
    def scaled(factor):
        rec = Recorder("scaled", VPLinear(), [0.9, 0.5])
        return rec.finish(factor * rec.start + factor * rec.evaluate(rec.start, rec.points[0]))

    for size in (1e-6, 1.0, 1e6):
        np.testing.assert_allclose(scaled(size).difference(scaled(size * 1.001)), 0.001 / 1.001, rtol=1e-9)
    assert scaled(1.0).close(scaled(1.0 + 1e-13))
    assert not scaled(1.0).close(scaled(1.0 + 1e-11))


def test_differences_are_symmetric_and_relative_to_the_later_times():
    tableau = ddim(VPLinear(), TIMES)
    slower = replace(tableau, times=2 * TIMES)
    np.testing.assert_allclose([tableau.difference(slower), slower.difference(tableau)], 0.5, rtol=1e-15)


def test_a_table_written_out_says_what_each_stage_is_of_the_start_and_the_outputs():
    unrolled = ddim(FlowMatching(), [1.0, 0.5, 0.25]).unroll()
    # y1 = y0 / 2 + D0 / 2,  y2 = y1 / 2 + D1 / 2
    np.testing.assert_allclose(unrolled.start, [1.0, 0.5, 0.25], rtol=1e-15)
    np.testing.assert_allclose(unrolled.outputs, [[0, 0, 0], [0.5, 0, 0], [0.25, 0.5, 0]], rtol=1e-15)


def test_the_arrays_of_a_table_are_named():
    assert ARRAYS == ("times", "evaluated", "states", "outputs", "noise", "normals")


def test_a_stage_without_evaluation_changes_no_sampler():
    rec = Recorder("DDIM", VPLinear(), [0.9, 0.5])
    s, t = rec.points
    d = rec.evaluate(rec.start, s)
    kept = rec.keep(t.sigma / s.sigma * rec.start, rec.at(0.7))
    tableau = rec.finish(kept + (t.alpha - s.alpha * t.sigma / s.sigma) * d)
    assert tableau.stages == 3
    assert tableau.nfe == 1
    assert tableau.close(ddim(VPLinear(), [0.9, 0.5]))


def test_the_printed_table_shows_every_stage_and_weight():
    text = str(ddim(FlowMatching(), TIMES))
    assert "DDIM: 4 evaluations of the denoiser, 5 stages, deterministic" in text
    assert text.splitlines()[-4].split() == ["y1", "t", "=", "0.75", "*", "=", "+0.75", "y0", "+0.25", "D0"]
    assert text.splitlines()[-1].split() == ["y4", "t", "=", "0", "=", "+1", "D3"]


def fields(**changes):
    tableau = ddim(VPLinear(), TIMES, eta=1.0)
    return lambda: replace(tableau, **{name: change(getattr(tableau, name)) for name, change in changes.items()})


def at(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (fields(prediction=lambda _: "x0"), "prediction must be one of .* got 'x0'"),
        (fields(coordinate=lambda _: "y"), "coordinate must be one of .* got 'y'"),
        (fields(times=lambda t: t[:1]), r"times must have shape \(s,\) with s >= 2"),
        (fields(times=lambda t: t[:-1]), "evaluated must have 4 rows like times"),
        (fields(states=lambda w: w[:-1]), "states must have 5 rows like times"),
        (fields(states=lambda w: w[:, 0]), r"states must have 5 rows like times, got shape \(5,\)"),
        (fields(outputs=lambda w: w[:, 0]), r"outputs must have 5 rows like times, got shape \(5,\)"),
        (fields(noise=lambda w: w[:, 0]), r"noise must have 5 rows like times, got shape \(5,\)"),
        (fields(states=at((2, 0), np.nan)), "states must be finite, got nan"),
        (fields(states=at((0, 0), 1.0)), "states must refer to earlier stages only, got a weight in row 0"),
        (fields(outputs=lambda w: np.pad(w, [(0, 0), (0, 1)], constant_values=1)), "outputs must refer to earlier"),
        (fields(outputs=lambda w: w[..., None] * np.ones(2)), "states and outputs must have the same axes"),
        (fields(evaluated=at(1, False)), "outputs must refer to evaluated stages, got a weight on stage 1"),
        (fields(evaluated=at(-1, True)), "evaluated must be False at the last stage"),
        (fields(normals=at(3, 0)), "normals must start at 0 and never decrease"),
        (fields(normals=lambda n: n + 1), "normals must start at 0"),
        (fields(noise=at((0, 0), 1.0)), "noise must refer to normals that have been drawn, after stage 0"),
        (fields(normals=lambda n: 0 * n), "noise must refer to normals that have been drawn"),
        (fields(coefficients=lambda c: c._replace(alpha=c.alpha[1:])), "coefficients must each have 5 entries"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------------- the recorder


def test_an_evaluated_state_becomes_a_stage_and_is_evaluated_once():
    rec = Recorder("twice", VPLinear(), [0.9, 0.5])
    s = rec.points[0]
    first, again = rec.evaluate(rec.start, s), rec.evaluate(rec.start, s)
    tableau = rec.finish(first + again)
    assert tableau.nfe == 1
    assert tableau.outputs[-1, 0] == 2.0


def test_the_same_state_at_another_time_is_another_stage():
    rec = Recorder("two times", VPLinear(), [0.9, 0.5])
    s, t = rec.points
    tableau = rec.finish(rec.evaluate(rec.start, s) + rec.evaluate(rec.start, t))
    assert tableau.nfe == 2
    assert tableau.times[tableau.evaluated].tolist() == [0.9, 0.5]


def test_noise_of_weight_zero_draws_nothing():
    rec = Recorder("quiet", VPLinear(), [0.9, 0.5])
    assert rec.finish(rec.start + rec.noise(0.0)).draws == 0


def test_one_normal_in_two_stages_is_one_draw():
    rec = Recorder("shared", VPLinear(), [0.9, 0.5])
    z = rec.normal()
    u = rec.keep(rec.start + 0.5 * z, rec.at(0.7))
    tableau = rec.finish(u - z)
    assert tableau.draws == 1
    np.testing.assert_allclose(tableau.unroll().noise[:, 0], [0.0, 0.5, -0.5])


def test_a_matrix_may_weigh_noise():
    matrix = np.array([[1.0, 0.5], [0.0, 2.0]])
    rec = Recorder("matrix", VPLinear(), [0.9, 0.5])
    z = rec.noise(matrix)
    tableau = rec.finish(2.0 * rec.start + 0.5 * (z + rec.noise(3.0)))
    assert tableau.noise.shape[2:] == (2, 2)
    np.testing.assert_allclose(tableau.unroll().noise[-1], [0.5 * matrix, 1.5 * np.eye(2)])


def test_a_matrix_of_noise_is_scaled_axis_by_axis():
    matrix, factors = np.array([[1.0, 0.5], [0.0, 2.0]]), np.array([2.0, 3.0])
    rec = Recorder("matrix", AffineProcess([VPLinear(), FlowMatching()]), [0.9, 0.5, 0.2])
    direct = factors * rec.noise(matrix)
    x = rec.keep(rec.start + direct, rec.points[1])
    found = rec.finish(factors * x).unroll().noise[:, 0]
    np.testing.assert_allclose(found[1], np.diag(factors) @ matrix)
    np.testing.assert_allclose(found[2], np.diag(factors**2) @ matrix)


def test_a_number_and_a_matrix_on_one_normal_add_up_on_the_diagonal():
    matrix = np.array([[1.0, 0.5], [0.2, 2.0]])
    rec = Recorder("matrix", VPLinear(), [0.9, 0.5])
    z = rec.normal()
    np.testing.assert_allclose(rec.finish(rec.start + 3.0 * z + matrix * z).noise[-1, 0], matrix + 3.0 * np.eye(2))


def test_a_multiple_of_a_stage_is_another_stage():
    rec = Recorder("doubled", VPLinear(), [0.9, 0.5])
    d = rec.evaluate(2.0 * rec.start, rec.points[0])
    tableau = rec.finish(d)
    assert tableau.stages == 3
    np.testing.assert_array_equal(tableau.unroll().start, [1.0, 2.0, 0.0])


def test_the_output_may_lie_at_another_time_than_the_last():
    rec = Recorder("elsewhere", VPLinear(), [0.9, 0.5])
    assert rec.finish(0.5 * rec.start, rec.at(0.2)).times.tolist() == [0.9, 0.2]


def test_normals_that_nothing_uses_make_no_sampler_stochastic():
    rec = Recorder("unused", VPLinear(), [0.9, 0.5])
    rec.normal()
    tableau = rec.finish(0.5 * rec.start)
    assert tableau.draws == 1
    assert not tableau.stochastic


def test_a_grid_towards_noise_increases():
    rec = Recorder("inversion", VPLinear(), [0.1, 0.5, 0.9], towards_noise=True)
    assert [point.t for point in rec.points] == [0.1, 0.5, 0.9]
    for times, message in (([0.5, 0.1], "must increase from data to noise, got 0.5"), ([0.5, 1.5], "must lie in")):
        with pytest.raises(ValueError, match=message):
            Recorder("x", VPLinear(), times, towards_noise=True)


def test_a_clean_end_may_be_allowed():
    rec = Recorder("x", FlowMatching(), [0.9, 0.0])
    rec.finite_log_snr("the last step is another", last=False)
    assert rec.points[-1].clean
    with pytest.raises(ValueError, match="times must end where sigma > 0: it is the same"):
        rec.finite_log_snr("it is the same")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recorder("x", VPLinear(), [0.5]), "times must hold at least two times, got 1"),
        (lambda: Recorder("x", VPLinear(), [0.5, 0.5]), "times must decrease from noise to data, got 0.5 and then 0.5"),
        (lambda: Recorder("x", VPLinear(), [0.1, 0.5]), "times must decrease from noise to data, got 0.1 and then 0.5"),
        (lambda: Recorder("x", VPLinear(), [1.5, 0.5]), r"times must lie in \[0, 1.0\], got 1.5 to 0.5"),
        (lambda: Recorder("x", VPLinear(), [0.5, -0.1]), r"times must lie in \[0, 1.0\]"),
        (lambda: Recorder("x", VPLinear(), [0.5, np.nan]), "times must be finite"),
        (lambda: Recorder("x", VPLinear(), [[0.5, 0.1]]), "times must have 1 dimensions"),
        (lambda: Recorder("x", VPLinear(), [0.5, 0.1], "x0"), "prediction must be one of .* got 'x0'"),
        (
            lambda: Recorder("x", AffineProcess([VPLinear()] * 2), [0.5, 0.1]).at_log_snr(0.0),
            "process must be the same on all axes for a point of given log_snr",
        ),
        (
            lambda: Recorder("x", FlowMatching(), [1.0, 0.1]).finite_log_snr("it divides by alpha"),
            "times must start where alpha > 0: it divides by alpha, got 1.0",
        ),
        (
            lambda: Recorder("x", FlowMatching(), [0.9, 0.0]).finite_log_snr("it takes log sigma"),
            "times must end where sigma > 0: it takes log sigma, got 0.0",
        ),
    ],
)
def test_bad_grids_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_the_noisy_end_may_be_pure_noise():
    table = BetaTable(np.array([0.1, 0.2, 1.0]))  # alpha = 0 from right after index 2
    with pytest.raises(ValueError, match="times must have alpha > 0 but at the noisy end of the grid"):
        Recorder("x", table, [3.0, 2.5, 1.0])
    assert Recorder("x", table, [3.0, 2.0, 1.0]).points[0].pure_noise


def test_a_process_that_is_none_is_refused():
    with pytest.raises(TypeError, match="process must be a Process or a Schedule, got 'vp'"):
        Recorder("x", "vp", [0.5, 0.1])


def test_points_know_their_process():
    rec = Recorder("points", FlowMatching(), [1.0, 0.5, 0.0])
    assert [p.pure_noise for p in rec.points] == [True, False, False]
    assert [p.clean for p in rec.points] == [False, False, True]
    assert rec.points[0].rho == np.inf
    middle = rec.between(rec.at(0.8), rec.at(0.2), 0.5)
    np.testing.assert_allclose(middle.log_snr, 0.0, atol=1e-15)  # halfway between log(1/4) and log(4)
    np.testing.assert_allclose(middle.t, 0.5, rtol=1e-15)
