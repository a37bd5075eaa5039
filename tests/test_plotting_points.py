"""Pictures of points: each curve, each pair, each mass and each line of a grid is where its points are."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from refdiff import Empirical, Gaussian
from refdiff.plotting import carried_grid, pairs, plan, trajectories
from refdiff.plotting.colours import luminance
from refdiff.plotting.points import DENSE, FAINTEST, SEVERAL
from refdiff.transport import optimal_map, sinkhorn

GENERATOR = np.random.default_rng(0)
PATHS = GENERATOR.standard_normal((4, 3, 2))
X, Y = GENERATOR.standard_normal((5, 2)), GENERATOR.standard_normal((7, 2))
PLAN = sinkhorn(Empirical(X), Empirical(Y), 0.5).coupling()


def axes():
    return Figure().subplots()


def test_every_particle_is_one_curve_with_its_ends():
    drawn = trajectories(axes(), PATHS)
    (curves,) = drawn.collections
    assert_array_equal(np.array(curves.get_segments()), np.swapaxes(PATHS, 0, 1))
    for dots, ends in zip(drawn.lines, (PATHS[0], PATHS[-1]), strict=True):
        assert_array_equal(dots.get_xydata(), ends)


def test_paths_on_the_line_are_drawn_over_time():
    times = np.linspace(0, 1, 4)
    (curves,) = trajectories(axes(), PATHS[:, :, :1], times).collections
    segments = np.array(curves.get_segments())
    assert_array_equal(segments[:, :, 0], np.broadcast_to(times, (3, 4)))
    assert_array_equal(segments[:, :, 1], PATHS[:, :, 0].T)


def test_a_path_of_one_time_is_its_point():
    drawn = trajectories(axes(), PATHS[:1].astype(np.float32))
    assert_allclose(drawn.lines[0].get_xydata(), drawn.lines[1].get_xydata())


def test_many_points_are_an_image_in_vector_files_and_few_are_lines():
    rough = GENERATOR.standard_normal((DENSE // 10 + 1, 10, 2))
    many, ends = GENERATOR.standard_normal((2, SEVERAL + 1, 2)), GENERATOR.standard_normal((2, 200, 2))
    dense = [trajectories(axes(), rough), trajectories(axes(), many), pairs(axes(), *many)]
    dense.append(plan(axes(), np.ones((200, 200)), *ends))
    few = [trajectories(axes(), PATHS), pairs(axes(), *PATHS[:2]), plan(axes(), PLAN, X, Y)]
    assert all(drawn.collections[0].get_rasterized() for drawn in dense)
    assert all(drawn.lines[0].get_rasterized() and drawn.lines[1].get_rasterized() for drawn in dense[1:3])
    assert not any(artist.get_rasterized() for drawn in few for artist in (*drawn.collections, *drawn.lines))


def test_pairs_are_segments_as_thick_as_their_masses():
    drawn = pairs(axes(), PATHS[0], PATHS[1], [0.5, 0.0, 0.25])
    (segments,) = drawn.collections
    assert_array_equal(np.array(segments.get_segments()), np.stack(PATHS[:2], axis=1)[[0, 2]])
    widths = segments.get_linewidths()
    assert_allclose(widths[0], 2 * widths[1])
    alike = pairs(axes(), PATHS[0], PATHS[1], [5.0, 0.0, 2.5]).collections[0]
    assert_allclose(alike.get_linewidths(), widths)  # of the largest mass, whatever the unit
    for dots, ends in zip(drawn.lines, PATHS[:2], strict=True):
        assert_array_equal(dots.get_xydata(), ends[[0, 2]])


def test_segments_of_a_plan_are_as_opaque_as_their_masses():
    (segments,) = plan(axes(), PLAN, X, Y).collections
    colors = zip(segments.get_segments(), segments.get_colors(), strict=True)
    found = {tuple(ends.ravel()): color[3] for ends, color in colors}
    masses = {(*X[i], *Y[j]): PLAN[i, j] for i in range(5) for j in range(7)}
    assert found.keys() == {ends for ends, mass in masses.items() if mass > FAINTEST * PLAN.max()}
    assert_allclose([found[ends] for ends in found], [masses[ends] / PLAN.max() for ends in found])
    assert (np.diff(segments.get_colors()[:, 3]) >= 0).all()  # the heaviest on top
    for dots, ends in zip(plan(axes(), PLAN, X, Y).lines, (X, Y), strict=True):
        assert_array_equal(dots.get_xydata(), ends)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_plan_on_the_line_is_darker_where_it_has_more_mass(shape):
    x, y = X[:, 0], Y[:, 1]  # in no order
    (image,) = plan(axes(), PLAN, x.reshape(shape), y.reshape(shape)).collections
    held, corners = np.asarray(image.get_array()), image.get_coordinates()
    for i in range(5):
        for j in range(7):
            column = np.flatnonzero((corners[0, :-1, 0] < x[i]) & (x[i] < corners[0, 1:, 0]))
            row = np.flatnonzero((corners[:-1, 0, 1] < y[j]) & (y[j] < corners[1:, 0, 1]))
            assert_array_equal(held[row, column], [PLAN[i, j]])
    order = np.argsort(held, axis=None)
    assert (np.diff(luminance(image.to_rgba(held.ravel()[order])[:, :3])) <= 0).all()
    image.set_cmap("jet")
    assert not (np.diff(luminance(image.to_rgba(held.ravel()[order])[:, :3])) <= 0).all()


def test_no_mass_is_white_on_the_line():
    (image,) = plan(axes(), [[0.0, 1.0], [1.0, 0.5]], [0.0, 1.0], [0.0, 1.0]).collections
    assert_allclose(image.to_rgba([0.0])[0, :3], 1.0, atol=1e-6)


P, Q = Gaussian([0.0, 0.0], 1.0), Gaussian([2.0, -1.0], [[2.0, 0.8], [0.8, 0.5]])


def test_lines_of_a_carried_grid_are_images_of_lines():
    there, back = optimal_map(P, Q), optimal_map(Q, P)
    across, up = np.linspace(-2, 2, 5), np.linspace(-1, 1, 3)

    def lines(inverse):
        (drawn,) = carried_grid(axes(), lambda x: x @ there.gain.T + there.offset, across, up, cells=20).collections
        return [line @ inverse.gain.T + inverse.offset for line in drawn.get_segments()]

    came = lines(back)
    assert len(came) == 8
    for line, x in zip(came[:5], across, strict=True):
        assert_allclose(line, np.stack([np.full(21, x), np.linspace(-1, 1, 21)], axis=1), atol=1e-12)
    for line, y in zip(came[5:], up, strict=True):
        assert_allclose(line, np.stack([np.linspace(-2, 2, 21), np.full(21, y)], axis=1), atol=1e-12)
    assert np.abs(lines(there)[0][:, 0] - across[0]).max() > 0.1


def test_lines_bend_where_the_map_does():
    (drawn,) = carried_grid(axes(), lambda x: np.sin(x[:, ::-1]), [0.0, 1.0], [0.0, 2.0]).collections
    first = drawn.get_segments()[0]  # x = 0, y from 0 to 2
    assert_allclose(first, np.stack([np.sin(np.linspace(0, 2, 201)), np.zeros(201)], axis=1), atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trajectories(axes(), np.zeros((2, 3, 3))), r"paths must have shape \(m, n, 1\) or \(m, n, 2\)"),
        (lambda: trajectories(axes(), np.zeros((2, 0, 2))), "with m, n >= 1"),
        (lambda: trajectories(axes(), np.zeros((2, 3, 1))), "times must be given"),
        (lambda: trajectories(axes(), np.zeros((2, 3, 1)), [0.0]), r"times must have shape \(2,\)"),
        (lambda: trajectories(axes(), PATHS * np.nan), "paths must be finite"),
        (lambda: pairs(axes(), np.zeros((2, 2)), np.zeros((3, 2))), r"one shape \(n, 2\)"),
        (lambda: pairs(axes(), np.zeros((2, 2)), np.zeros((2, 2)), [1.0, -1.0]), "masses must be >= 0 and not all 0"),
        (lambda: pairs(axes(), np.zeros((2, 2)), np.zeros((2, 2)), [1.0]), r"masses must have shape \(2,\)"),
        (lambda: plan(axes(), PLAN.T, X, Y), r"masses must have shape \(5, 7\), got \(7, 5\)"),
        (lambda: plan(axes(), -PLAN, X, Y), "masses must be >= 0"),
        (lambda: plan(axes(), 0 * PLAN, X, Y), "not all 0"),
        (lambda: plan(axes(), PLAN * np.nan, X, Y), "masses must be finite"),
        (lambda: plan(axes(), PLAN, X, Y[:, 0]), "x and y must be on the line or in the plane"),
        (lambda: plan(axes(), np.eye(3), np.eye(3), np.eye(3)), "x and y must be on the line or in the plane"),
        (lambda: plan(axes(), np.eye(2), [1.0, 1.0], [0.0, 1.0]), "x must be distinct on the line, got 1.0 twice"),
        (lambda: carried_grid(axes(), lambda x: x, [0.0], [0.0, 1.0]), "x must be 2 or more that increase"),
        (lambda: carried_grid(axes(), lambda x: x[0], [0, 1], [0, 1]), r"map must answer with shape \(804, 2\)"),
        (lambda: carried_grid(axes(), lambda x: x * np.nan, [0, 1], [0, 1]), "map must be finite"),
        (lambda: carried_grid(axes(), lambda x: x, [0, 1], [0, 1], cells=0), "cells must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
