"""Pictures of fields: arrows and curves go where the field goes, errors are their logarithms."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from refdiff import ExactModel, VPLinear
from refdiff.distributions import ring
from refdiff.plotting import arrows, error_map, sequential, streamlines
from refdiff.plotting.fields import LONGEST, edges

MODEL = ExactModel(ring(6, 2.0, 0.4), VPLinear())
X, Y = np.linspace(-2.0, 2.0, 9), np.linspace(-1.0, 3.0, 7)


def score(x):
    return MODEL.score(x, 0.3)


def turned(x):
    return score(x) @ [[0.0, 1.0], [-1.0, 0.0]]


def axes(**size):
    return Figure(**size).subplots()


def drawn_directions(quiver):
    """Unit vectors in pixels, from the tail of every arrow to its tip, which is what is farthest from the tail."""
    quiver.figure.draw_without_rendering()
    tips = [path.vertices[np.argmax(np.linalg.norm(path.vertices, axis=1))] for path in quiver.get_paths()]
    return np.array(tips) / np.linalg.norm(tips, axis=1)[:, None]


def expected_directions(drawn, field):
    """The same of the field, by moving a little along it and seeing where that is in pixels."""
    places = np.stack(np.meshgrid(X, Y), axis=-1).reshape(-1, 2)
    pixels = [drawn.transData.transform(at) for at in (places, places + 1e-6 * field(places))]
    moved = pixels[1] - pixels[0]
    return moved / np.linalg.norm(moved, axis=1)[:, None]


def shortfall(found, expected):
    """The largest distance of unit vectors, over arrows that are not so short that matplotlib draws dots."""
    sizes = np.linalg.norm(score(np.stack(np.meshgrid(X, Y), axis=-1).reshape(-1, 2)), axis=1)
    return np.linalg.norm(found - expected, axis=1)[sizes > 0.1 * sizes.max()].max()


@pytest.mark.parametrize("unit", [False, True])
def test_arrows_point_along_the_field_on_the_screen_too(unit):
    drawn = arrows(axes(figsize=(9, 3)), score, X, Y, unit=unit)  # a unit across is not a unit up
    found = drawn_directions(drawn.collections[0])
    # matplotlib too finds the angle by a small step in data, of 1e-3 of the axes, and subtracts pixels: 1e-13 / 1e-3
    assert shortfall(found, expected_directions(drawn, score)) < 1e-6
    assert shortfall(found, expected_directions(drawn, turned)) > 1.0


def test_arrows_that_ignore_the_units_of_the_axes_are_found():
    drawn = axes(figsize=(9, 3))
    places = np.stack(np.meshgrid(X, Y), axis=-1).reshape(-1, 2)
    quiver = drawn.quiver(*places.T, *score(places).T)  # matplotlib's default: angles of the screen
    assert shortfall(drawn_directions(quiver), expected_directions(drawn, score)) > 0.1


def test_arrows_are_in_units_of_the_axes_and_the_longest_reaches_its_neighbour():
    places = np.stack(np.meshgrid(X, Y), axis=-1).reshape(-1, 2)
    quiver = arrows(axes(), score, X, Y).collections[0]
    drawn = np.stack([quiver.U, quiver.V], axis=1) / quiver.scale
    sizes, lengths = (np.linalg.norm(one, axis=1) for one in (score(places), drawn))
    assert lengths.max() == pytest.approx(LONGEST * (X[1] - X[0]))
    assert_allclose(lengths / lengths.max(), sizes / sizes.max())
    assert_allclose(quiver.get_offsets(), places)


def test_arrows_between_uneven_places_do_not_reach_over_the_nearest():
    quiver = arrows(axes(), score, [-2.0, 0.0, 0.1], [-1.0, 1.0]).collections[0]
    assert (np.hypot(quiver.U, quiver.V) / quiver.scale).max() == pytest.approx(LONGEST * 0.1)


def test_lengths_of_unit_arrows_are_colours():
    places = np.stack(np.meshgrid(X, Y), axis=-1).reshape(-1, 2)
    quiver = arrows(axes(), score, X, Y, unit=True).collections[0]
    assert_allclose(np.hypot(quiver.U, quiver.V), 1.0)
    assert_allclose(quiver.get_array(), np.linalg.norm(score(places), axis=1))


@pytest.mark.parametrize("unit", [False, True])
def test_a_field_may_vanish_and_have_one_place(unit):
    nothing = arrows(axes(), lambda x: 0 * x, X, Y, unit=unit)
    nothing.figure.draw_without_rendering()
    assert not np.hypot(nothing.collections[0].U, nothing.collections[0].V).any()
    one = arrows(axes(), lambda x: 0 * x + [3.0, 4.0], [0.0], [0.0], unit=unit).collections[0]
    one.figure.draw_without_rendering()
    assert_allclose(np.stack([one.U, one.V], axis=1) / one.scale, LONGEST * np.array([[0.6, 0.8]]))


def along(drawn, field):
    """The cosines between pieces of drawn curves and the field in their middles."""
    curves = drawn.collections[0].get_segments()
    moved = np.concatenate([np.diff(curve, axis=0) for curve in curves])
    middles = np.concatenate([(curve[1:] + curve[:-1]) / 2 for curve in curves])
    went = (moved != 0).any(axis=1)
    moved, there = moved[went], field(middles[went])
    return (moved * there).sum(axis=1) / np.linalg.norm(moved, axis=1) / np.linalg.norm(there, axis=1)


def spiral(x):
    return x @ [[-0.5, 1.0], [-1.0, -0.5]] + [0.3, 0.0]


def test_streamlines_follow_the_field():
    drawn = streamlines(axes(), spiral, X, Y)  # linear, so that interpolation is exact
    # matplotlib takes steps of up to 1/30 of the axes, with errors of up to 0.003 of them: 0.09 in angle
    assert along(drawn, spiral).min() > np.cos(0.09)
    assert along(drawn, spiral).size > 500
    assert along(drawn, lambda x: -spiral(x)).max() < 0
    assert np.median(along(drawn, lambda x: x @ [[-0.5, -1.0], [1.0, -0.5]])) < np.cos(0.09)


def test_denser_streamlines_are_more():
    few, many = (len(streamlines(axes(), spiral, X, Y, density=d).collections[0].get_segments()) for d in (0.5, 2.0))
    assert many > 2 * few


def test_streamlines_of_nothing_are_none():
    assert not streamlines(axes(), lambda x: 0 * x, X, Y).collections[0].get_segments()


ERRORS = np.random.default_rng(0).standard_normal((7, 9)) * 10.0 ** np.arange(-9, 0)


def image(drawn):
    (found,) = drawn.collections
    return found


def test_an_error_map_holds_the_logarithms_of_the_errors_at_their_places():
    found = image(error_map(axes(), ERRORS, X, Y))
    assert_allclose(np.asarray(found.get_array()), np.log10(np.abs(ERRORS)), rtol=1e-14)
    corners = found.get_coordinates()
    for k, j in ((0, 0), (3, 5), (6, 8)):
        (left, low), (right, high) = corners[k, j], corners[k + 1, j + 1]
        assert left < X[j] < right
        assert low < Y[k] < high
    assert found.norm.vmin == np.log10(np.abs(ERRORS)).min()
    assert not np.allclose(np.asarray(found.get_array()), np.log(np.abs(ERRORS)))


def test_larger_errors_are_darker():
    found = image(error_map(axes(), ERRORS, X, Y))
    grey = found.to_rgba(np.sort(np.asarray(found.get_array()), axis=None))[:, :3].mean(axis=1)
    assert (np.diff(grey) <= 0).all()
    assert found.cmap == sequential()


def test_errors_beyond_floor_and_ceiling_are_drawn_as_these():
    errors = np.array([[0.0, 1e-20, 1e-8], [1.0, 1e9, np.inf]])
    found = image(error_map(axes(), errors, [0, 1, 2], [0, 1], floor=1e-10, ceiling=100.0))
    assert_allclose(np.asarray(found.get_array()), [[-10, -10, -8], [0, 2, 2]])
    assert (found.norm.vmin, found.norm.vmax) == (-10.0, 2.0)


def test_maps_with_a_ceiling_have_the_same_colours():
    maps = [image(error_map(axes(), scale * ERRORS, X, Y, ceiling=10.0)) for scale in (1.0, 1e-3)]
    assert_allclose(*(found.to_rgba([-3.0]) for found in maps))
    free = [image(error_map(axes(), scale * ERRORS, X, Y)) for scale in (1.0, 1e-3)]
    assert not np.allclose(*(found.to_rgba([-3.0]) for found in free))


@pytest.mark.parametrize("error", [0.0, 1e-5])
def test_errors_that_are_all_the_same_are_one_colour(error):
    drawn = error_map(axes(), [[error, error]], [0.0, 1.0], [2.0])
    drawn.figure.draw_without_rendering()
    assert len(np.unique(image(drawn).to_rgba(image(drawn).get_array()).reshape(-1, 4), axis=0)) == 1


@pytest.mark.parametrize(
    ("errors", "ends"),
    [
        ([1e-3, 1e-2], "neither"),
        ([1e-5, 1e-2], "min"),
        ([1e-3, np.inf], "max"),
        ([0.0, 20.0], "both"),
        ([1e-4, 1.0], "neither"),
    ],
)
def test_colour_bars_are_pointed_where_errors_are_beyond_them(errors, ends):
    assert image(error_map(axes(), [errors], [0, 1], [0], floor=1e-4, ceiling=1.0)).colorbar.extend == ends


@pytest.mark.parametrize(("error", "name"), [(0.0, "$10^{-16}$"), (1e-5, "$10^{-5}$")])
def test_colour_bars_of_one_error_name_it_once(error, name):
    drawn = error_map(axes(), [[error, error]], [0.0, 1.0], [2.0])
    drawn.figure.draw_without_rendering()
    assert [tick.get_text() for tick in image(drawn).colorbar.ax.get_yticklabels()] == [name]


def test_colour_bars_name_powers_of_ten():
    drawn = error_map(axes(), ERRORS, X, Y, label="off by")
    drawn.figure.draw_without_rendering()
    bar = image(drawn).colorbar
    assert bar.ax.get_ylabel() == "off by"
    words = [tick.get_text() for tick in bar.ax.get_yticklabels()]
    assert words == [rf"$10^{{{round(power)}}}$" for power in bar.get_ticks()]


def test_maps_side_by_side_share_a_colour_bar():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    for several, label in ((left, None), (right, "error")):
        error_map(several, ERRORS, X, Y, floor=1e-3, ceiling=1.0, label=label)
    assert [image(several).colorbar is None for several in (left, right)] == [True, False]
    assert len(figure.axes) == 3
    assert image(left).get_clim() == image(right).get_clim()
    assert (image(left).get_array() == image(right).get_array()).all()


def test_colour_bars_of_less_than_two_decades_name_numbers():
    drawn = error_map(axes(), np.linspace(2e-3, 5e-3, 63).reshape(7, 9), X, Y)
    drawn.figure.draw_without_rendering()
    bar = image(drawn).colorbar
    words = [tick.get_text() for tick in bar.ax.get_yticklabels()]
    numbers = [float(word.strip("$").replace(r" \cdot 10^{", "e").replace("}", "")) for word in words]
    assert len(words) > 2
    assert_allclose(numbers, 10 ** np.asarray(bar.get_ticks()), rtol=0.005)  # of three digits


def test_cells_end_in_the_middle_between_places_on_the_scale_of_the_axis():
    assert_allclose(edges(np.array([0.0, 1.0, 3.0])), [-0.5, 0.5, 2.0, 4.0])
    assert_allclose(edges(np.array([1.0, 100.0]), "log"), [0.1, 10.0, 1000.0])
    assert_allclose(edges(np.array([2.0])), [1.5, 2.5])
    drawn = axes()
    drawn.set_xscale("log")
    assert_allclose(
        image(error_map(drawn, [[1.0, 2.0]], [1.0, 100.0], [0.0])).get_coordinates()[0, :, 0], [0.1, 10, 1000]
    )


def test_single_precision_is_enough():
    assert_allclose(
        np.asarray(image(error_map(axes(), ERRORS.astype(np.float32), X, Y)).get_array()),
        np.log10(np.abs(ERRORS)),
        atol=1e-7,  # float32's spacing over log 10
    )
    arrows(axes(), lambda x: score(x).astype(np.float32), X.astype(np.float32), Y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: arrows(axes(), score, [1.0, 0.0], Y), "x must be 1 or more that increase"),
        (lambda: arrows(axes(), score, X, []), "y must be 1 or more that increase"),
        (lambda: arrows(axes(), lambda x: x[:, 0], X, Y), r"field must answer with shape \(63, 2\), got \(63,\)"),
        (lambda: arrows(axes(), lambda x: x * np.nan, X, Y), "field must be finite"),
        (lambda: streamlines(axes(), score, [0.0], Y), "x must be 2 or more that increase"),
        (lambda: streamlines(axes(), score, [0.0, 1.0, 3.0], Y), "x must be evenly spaced"),
        (lambda: streamlines(axes(), score, X, Y, density=0.0), "density must lie in"),
        (lambda: streamlines(axes(), lambda x: x * np.nan, X, Y), "field must be finite"),
        (lambda: error_map(axes(), ERRORS.T, X, Y), r"error must have shape \(7, 9\), a row for each y"),
        (lambda: error_map(axes(), ERRORS * np.nan, X, Y), "error must hold numbers"),
        (lambda: error_map(axes(), ERRORS * np.nan, X, Y, ceiling=1.0), "error must hold numbers"),
        (lambda: error_map(axes(), ERRORS * np.inf, X, Y), "finite ones where no ceiling is given"),
        (lambda: error_map(axes(), np.where(ERRORS > 0.1, np.nan, ERRORS), X, Y), "error must hold numbers"),
        (lambda: error_map(axes(), np.where(ERRORS > 0.1, np.inf, ERRORS), X, Y), "error must hold numbers"),
        (lambda: error_map(axes(), ERRORS, X, Y, floor=0.0), "floor must lie in"),
        (lambda: error_map(axes(), ERRORS, X, Y, floor=0.1, ceiling=0.1), "ceiling must be above the floor 0.1"),
        (
            lambda: error_map(axes(), ERRORS, X, Y, floor=1.0, ceiling=0.1),
            "ceiling must be above the floor 1.0",
        ),
        (
            lambda: error_map(Figure().add_subplot(xscale="log"), ERRORS, X, Y),
            "x must be above 0 on a logarithmic axis, got -2.0",
        ),
        (lambda: error_map(axes(), ERRORS, X, [0, np.nan]), "y must be finite"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
