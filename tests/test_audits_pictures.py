"""The pictures of an audit: what is drawn, read back from pixels and colours, is what was measured."""

import math
import re

import numpy as np
import pytest
from audit_runs import WEIGHTS, W, finding, run, some
from hypothesis import given
from hypothesis import strategies as st

from refdiff.validation.audits import page, pictures

PIXEL = 0.051  # places are rounded to a tenth of a pixel


def points(text):
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def line(ticks):
    """10^(a pixel + b) from the labels of an axis, which says nothing of how it was made."""
    (first, low), (last, high) = ticks[0], ticks[-1]
    slope = (math.log10(float(high)) - math.log10(float(low))) / (last - first)
    return lambda pixel: 10 ** (math.log10(float(low)) + slope * (pixel - first))


def drawn_work():
    return pictures.work(pictures.curves([("x=1", some()[1].findings[0])]))


def test_curves_read_back_are_the_errors():
    p = drawn_work()
    (curve,) = p["curves"]
    for pixels, key in ((curve.points, "errors"), (curve.method, "method")):
        details = some()[1].findings[0].details
        back_x, back_y = line(p["x"]), line(p["y"])
        counts, errors = zip(*[(back_x(a), back_y(b)) for a, b in points(pixels)], strict=True)
        # a pixel is (decades / length) ln 10 of a number
        np.testing.assert_allclose(counts, details["counts"], rtol=2 * PIXEL * math.log(10) * 0.41 / pictures.WIDTH)
        decades = math.log10(float(p["y"][-1][1]) / float(p["y"][0][1]))
        np.testing.assert_allclose(errors, details[key], rtol=2 * PIXEL * math.log(10) * decades / pictures.HEIGHT)
        wrong = np.array(details[key]) * 1.1
        assert not np.allclose(errors, wrong, rtol=2 * PIXEL * math.log(10) * decades / pictures.HEIGHT)


@given(st.floats(0.2, 6.0), st.floats(1e-8, 1.0), st.floats(0.5, 2.0))
def test_the_triangle_has_the_slope_of_the_order_and_lies_under_the_curve(order, error, bend):
    errors = [error, error * 2.0**-order * bend, error * 4.0**-order]
    one = pictures.Curve("", False, list(zip((8.0, 16.0, 32.0), errors, strict=True)), [], order, order)
    top, foot, right = pictures.triangle(one)
    assert top[0] == foot[0]
    assert foot[1] == right[1]
    assert math.log(top[1] / right[1]) / math.log(right[0] / top[0]) == pytest.approx(order)
    ends = dict(one.points)
    assert top[1] < ends[top[0]]
    assert right[1] < ends[right[0]]


def test_no_triangle_where_no_order_was_fitted():
    assert pictures.triangle(pictures.Curve("", False, [(1.0, 1.0), (2.0, 0.5)], [], None, None)) == []
    assert pictures.work(pictures.curves([("a", some()[0].findings[0])]))["triangle"] == ""


def test_bars_read_back_are_errors_over_bounds():
    p = pictures.steps(finding("A", "q", W, steps=[[0, 3e-5, 1e-6], [1, 4e-7, 1e-6], [2, 2.0, 1e-4]]))
    back = line(p["ticks"])
    decades = math.log10(float(p["ticks"][-1][1]) / float(p["ticks"][0][1]))
    rtol = 2 * PIXEL * math.log(10) * decades / p["height"]
    np.testing.assert_allclose([back(bar["tall"]) for bar in p["bars"]], [30.0, 0.4, 2e4], rtol=rtol)
    assert back(p["one"]) == pytest.approx(1.0, rel=rtol)
    assert [bar["wrong"] for bar in p["bars"]] == [True, False, True]


def test_what_is_no_number_is_wrong_and_at_the_end():
    p = pictures.steps(some()[1].findings[2])
    assert [bar["wrong"] for bar in p["bars"]] == [False, True, True]
    assert p["bars"][2]["tall"] == p["height"]
    axis = pictures.axis([1e-3, 5.0], 300.0)
    assert axis == (-3, 1, 300.0)
    assert axis.at(1e-1) - axis.at(1e-2) == pytest.approx(axis.at(1.0) - axis.at(1e-1)) == 75.0
    assert (axis.at(0.0), axis.at(math.inf), axis.at(math.nan)) == (0.0, 300.0, 300.0)


def test_details_that_mean_something_else_are_no_picture():
    assert pictures.steps(finding("A", "step counts", W, steps=[1, 2, 3])) is None
    assert pictures.curve({"counts": [1, 2], "errors": 3}, "errors") == []
    assert pictures.weights(finding("A", "q", W, weights=[1.0])) is None
    assert pictures.work([]) is None


@given(st.floats(1e-12, 1e12), st.floats(1e-12, 1.0), st.booleans())
def test_a_colour_says_the_size_of_a_weight_to_its_shade(most, part, minus):
    weight = -most * part if minus else most * part
    level = pictures.level(weight, most, 4.0)
    assert level == 0 or (level < 0) == minus
    # the inverse: a shade k is log10(|w| / m) from 4 (k/5 - 1) less a shade to there; 0 is all below
    upper = 10.0 ** (4.0 * (abs(level) / 5 - 1))
    assert part <= upper * (1 + 1e-9)
    assert level == 0 or part >= upper * 10**-0.8 * (1 - 1e-9)


def test_cells_say_the_weights_and_where_they_differ():
    p = pictures.weights(finding("A", "q", W, weights=WEIGHTS))
    assert p["columns"] == [("start", "x"), ("answer 1", "o1"), ("own normal 1", "n1")]
    assert p["own"]
    sampler, claimed, off = p["panels"]
    assert [[one.number for one in row] for _, row in sampler.rows] == [["1", "", ""], ["0.5", "-0.25", "0.002"]]
    assert [[one.number for one in row] for _, row in claimed.rows] == [["1", "", ""], ["0.5", "-0.5", ""]]
    assert [[one.number for one in row] for _, row in off.rows] == [["", "", ""], ["", "0.25", "0.002"]]
    assert [one.tint for one in off.rows[1][1]] == ["", "p5", "p2"]
    assert sampler.rows[1][1][1].text == "\N{MINUS SIGN}0.25"


@pytest.mark.parametrize(
    ("weight", "said"),
    [(157.41, "157"), (-129.6, "−130"), (-99999.4, "−99999"), (123456.0, "1e5"), (99.996, "100"), (-93.28, "−93.28"),
     (0.0049, "5e-3"), (-2e-12, "−2e-12")],
)  # fmt: skip
def test_a_cell_says_as_much_of_a_weight_as_it_has_room_for(weight, said):
    one = {**WEIGHTS, "found": [[weight, 0.0, 0.0], [0.0, 0.0, 0.0]], "claimed": [[0.0] * 3] * 2}
    sampler, *_ = pictures.weights(finding("A", "q", W, weights=one))["panels"]
    assert sampler.rows[0][1][0].text == said


def test_the_page_draws_all_of_them():
    html = page.page(run())
    assert html.count('<polyline class="curve') == 5  # at length; in the overview of two sets, the method of one
    assert html.count("<polygon") == 2
    assert len(re.findall(r'<rect class="stage( over)?"', html)) == 0  # of the place that is told at length
    assert html.count('<figure class="weights">') == 1
    assert len(re.findall(r'<td class="[pn][1-5]"', html)) == 4 + 3 + 2
