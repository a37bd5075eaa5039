"""Pictures of errors: lines are the errors, triangles have the slopes that they state."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from refdiff import Gaussian, VPLinear
from refdiff.plotting import PALETTE, convergence, work_precision
from refdiff.samplers import families
from refdiff.samplers.compare import Measured
from refdiff.samplers.compare import work_precision as measured_work

STEPS = 2 ** np.arange(3, 9)
ROWS = [
    Measured("first", 5, 5, 1e-1),
    Measured("second", 5, 10, 2e-1),
    Measured("first", 10, 10, 1e-3),
    Measured("second", 10, 20, 2e-2),
    Measured("exact", 5, 5, 0.0),
    Measured("diverging", 5, 5, np.inf),
    Measured("missing", 5, 0, None, "no table here"),
]


def axes():
    return Figure().subplots()


def slope(patch):
    """-d log error / d log steps along the side of a triangle that is neither level nor upright."""
    corners = np.unique(np.log(patch.get_xy()), axis=0)
    assert len(corners) == 3
    moved = [b - a for a, b in ((corners[0], corners[1]), (corners[0], corners[2]), (corners[1], corners[2]))]
    (long,) = [one for one in moved if np.abs(one).min() > 1e-9]
    return -long[1] / long[0]


def words(drawn):
    return [text.get_text() for text in drawn.texts]


@pytest.mark.parametrize("order", [1, 2.5, 3])
def test_a_triangle_has_the_slope_it_states_whatever_the_errors(order):
    drawn = convergence(axes(), STEPS, 5.0 / STEPS**2, order=order)
    (triangle,) = drawn.patches
    assert slope(triangle) == pytest.approx(order, abs=1e-12)
    assert words(drawn) == [f"{order:g}", "1"]
    assert slope(triangle) != pytest.approx(order + 0.01)


@pytest.mark.parametrize("order", [0.68, 2.25])
def test_what_is_written_beside_a_triangle_stays_within_the_frame(order):
    def beside(drawn):
        drawn.figure.draw_without_rendering()
        return drawn.texts[0].get_window_extent().x1 < drawn.get_window_extent().x1

    drawn = convergence(axes(), STEPS, STEPS**-order, order=order)
    assert beside(drawn)
    drawn.margins(x=0.05)
    assert not beside(drawn)  # matplotlib's own margins are too narrow


@pytest.mark.parametrize("order", [2, -1])
def test_sides_of_a_triangle_are_marked_in_their_middles(order):
    drawn = convergence(axes(), STEPS, STEPS ** -float(order), order=order)
    corners = drawn.patches[0].get_xy()[:3]
    (left, right), (low, high) = ((np.min(c), np.max(c)) for c in corners.T)
    side = right if order > 0 else left
    rise, run = drawn.texts
    assert_allclose(rise.xy, (side, np.sqrt(low * high)))
    assert_allclose(run.xy, (np.sqrt(left * right), high))
    assert [rise.get_ha(), run.get_va()] == ["left" if order > 0 else "right", "bottom"]


def test_a_fitted_triangle_has_the_slope_of_the_errors():
    drawn = convergence(axes(), STEPS, 5.0 * STEPS**-2.25, order="fit")
    assert slope(drawn.patches[0]) == pytest.approx(2.25, abs=1e-9)  # a power law is what is fitted
    assert words(drawn) == ["2.25", "1"]


@pytest.mark.parametrize("name", ["ddim", "dpmpp-3m"])
def test_the_fit_is_the_measured_order(name):
    found = families()[name].measured(Gaussian([0.7], 0.25))
    drawn = convergence(axes(), found.counts, found.errors, order="fit")
    assert slope(drawn.patches[0]) == pytest.approx(found.order, abs=1e-12)
    assert abs(found.order - families()[name].order) < 0.05


def test_rounding_has_no_part_in_a_fit_nor_a_triangle():
    errors = np.maximum(1e-6 * (STEPS / 8.0) ** -4, 2e-10)
    drawn = convergence(axes(), STEPS, errors, order="fit", floor=2.2e-10)
    assert slope(drawn.patches[0]) == pytest.approx(4, abs=1e-9)
    assert drawn.patches[0].get_xy()[:, 0].max() == 64  # 128 steps are at the floor
    assert slope(convergence(axes(), STEPS, errors, order="fit", floor=0.0).patches[0]) < 3


def test_triangles_stand_clear_of_their_line():
    for errors in (1.0 / STEPS, 3.0 / STEPS**4, STEPS**0.5, np.array([1, 8, 2, 4, 1, 0.5])):
        for order in (1, 4, "fit"):
            corners = convergence(axes(), STEPS, errors, order=order).patches[0].get_xy()
            for n, height in corners:
                assert height >= 1.9 * errors[STEPS == n][0]  # 2, less rounding and a line that bends


def test_the_line_is_the_errors():
    drawn = convergence(axes(), STEPS, 5.0 / STEPS, label="mine", color="#009e73")
    (line,) = drawn.lines
    assert_allclose(line.get_xydata(), np.stack([STEPS, 5.0 / STEPS], axis=1))
    assert (line.get_label(), line.get_color()) == ("mine", "#009e73")
    assert (drawn.get_xscale(), drawn.get_yscale()) == ("log", "log")
    assert not drawn.patches


def test_errors_of_zero_are_left_out():
    (line,) = convergence(axes(), STEPS[:3], [1.0, 0.0, 0.1], order=1).lines
    assert_allclose(line.get_xdata(), [8, 32])


def test_one_error_is_enough_but_for_a_fit():
    drawn = convergence(axes(), [8], [0.1], order=2)
    assert slope(drawn.patches[0]) == pytest.approx(2)
    with pytest.raises(ValueError, match="errors must have two above the floor 1e-12 before one below it"):
        convergence(axes(), [8], [0.1], order="fit")


def test_lines_differ_in_colour_and_marker_and_ticks_are_all_their_steps():
    drawn = axes()
    for k in range(9):
        convergence(drawn, STEPS + k, 1.0 / STEPS)
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in drawn.lines}
    assert len(looks) == 9
    assert len({line.get_marker() for line in drawn.lines}) == 9  # in grey too
    assert drawn.lines[0].get_color() == PALETTE[0]
    ticks = drawn.get_xticks()
    assert_allclose(ticks[:2], [8, 10])  # 9 would run into 8
    assert (ticks[1:] / ticks[:-1] > 1.15).all()


def test_single_precision_is_enough():
    errors = (5.0 / STEPS**2).astype(np.float32)
    assert slope(convergence(axes(), STEPS, errors, order="fit").patches[0]) == pytest.approx(2, abs=1e-5)


def test_work_is_drawn_against_precision():
    drawn = work_precision(axes(), ROWS)
    lines = {line.get_label(): line.get_xydata().tolist() for line in drawn.lines}
    assert lines == {"second": [[10, 0.2], [20, 0.02]], "first": [[5, 0.1], [10, 0.001]]}
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == ["second", "first"]  # as they end
    assert [label.get_text() for label in drawn.get_xticklabels()] == ["5", "10", "20"]
    assert [to_hex(line.get_color()) for line in drawn.lines] == list(PALETTE[:2])


def test_work_precision_draws_what_compare_measures():
    rows = list(measured_work({"ddim": families()["ddim"]}, VPLinear(), Gaussian([0.7], 0.25), [5, 10]))
    (line,) = work_precision(axes(), rows).lines
    assert_allclose(line.get_xydata(), [[row.nfe, row.wasserstein] for row in rows])


def test_infinite_errors_are_left_out_and_have_no_part_in_the_order():
    errors = np.where(STEPS < 20, np.inf, 1.0 / STEPS**2)
    drawn = convergence(axes(), STEPS, errors, order="fit")
    assert_allclose(drawn.lines[0].get_xdata(), STEPS[STEPS >= 20])
    assert words(drawn) == ["2.00", "1"]


def test_ticks_are_counts_of_steps_beside_lines_across_the_axes():
    def shown(name):
        drawn = axes()
        if name:
            getattr(drawn, name)(1e-3)  # spans 0 to 1 in parts of the axes, which are no steps
        return convergence(drawn, STEPS, 1.0 / STEPS).get_xticks()

    assert_allclose(shown("axhline"), STEPS)
    assert_allclose(shown(None), STEPS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: work_precision(axes(), []), "rows must hold at least one distance above 0"),
        (lambda: work_precision(axes(), ROWS[4:]), "rows must hold at least one distance above 0"),
        (lambda: convergence(axes(), [1, 2], [1.0]), r"errors must be 2 numbers >= 0 like steps"),
        (lambda: convergence(axes(), [1, 2], [1.0, -1.0]), "errors must be 2 numbers >= 0"),
        (lambda: convergence(axes(), [1, 2], [0.0, 0.0]), "not all 0"),
        (lambda: convergence(axes(), [1, 2], [1.0, np.nan]), "errors must be 2 numbers >= 0"),
        (lambda: convergence(axes(), [1, 2], [np.inf, 0.0]), "not all 0 or inf"),
        (lambda: convergence(axes(), [2, 1], [1.0, 1.0]), "steps must be 1 or more that increase"),
        (lambda: convergence(axes(), [0, 1], [1.0, 1.0]), "steps must be above 0, got 0.0"),
        (lambda: convergence(axes(), [1, 2], [1.0, 1.0], order="two"), "order must be a number or 'fit', got 'two'"),
        (lambda: convergence(axes(), [1, 2], [1.0, 1.0], order=np.inf), "order must be finite"),
        (lambda: convergence(axes(), [1, 2], [1.0, 1.0], floor=-1.0), "floor must lie in"),
        (lambda: convergence(axes(), [1, 2], [1e-15, 1e-16], order="fit"), "errors must have two above the floor"),
        (lambda: convergence(axes(), [1, 2, 4], [0.1, 0.0, 0.1], order="fit"), "errors must have two above the floor"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
