"""Pictures of points: each curve and each pair is where its points are."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from refdiff.plotting import pairs, trajectories

PATHS = np.random.default_rng(0).standard_normal((4, 3, 2))


def axes():
    return Figure().subplots()


def test_every_particle_is_one_curve_with_its_ends():
    drawn = trajectories(axes(), PATHS)
    (curves,) = drawn.collections
    np.testing.assert_array_equal(np.array(curves.get_segments()), np.swapaxes(PATHS, 0, 1))
    for dots, ends in zip(drawn.lines, (PATHS[0], PATHS[-1]), strict=True):
        np.testing.assert_array_equal(dots.get_xydata(), ends)


def test_paths_on_the_line_are_drawn_over_time():
    times = np.linspace(0, 1, 4)
    (curves,) = trajectories(axes(), PATHS[:, :, :1], times).collections
    segments = np.array(curves.get_segments())
    np.testing.assert_array_equal(segments[:, :, 0], np.broadcast_to(times, (3, 4)))
    np.testing.assert_array_equal(segments[:, :, 1], PATHS[:, :, 0].T)


def test_pairs_are_segments_as_thick_as_their_masses():
    drawn = pairs(axes(), PATHS[0], PATHS[1], [0.5, 0.0, 0.25])
    (segments,) = drawn.collections
    np.testing.assert_array_equal(np.array(segments.get_segments()), np.stack(PATHS[:2], axis=1)[[0, 2]])
    widths = segments.get_linewidths()
    np.testing.assert_allclose(widths[0], 2 * widths[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trajectories(axes(), np.zeros((2, 3, 3))), r"paths must have shape \(m, n, 1\) or \(m, n, 2\)"),
        (lambda: trajectories(axes(), np.zeros((2, 3, 1))), "times must be given"),
        (lambda: trajectories(axes(), np.zeros((2, 3, 1)), [0.0]), r"times must have shape \(2,\)"),
        (lambda: pairs(axes(), np.zeros((2, 2)), np.zeros((3, 2))), r"one shape \(n, 2\)"),
        (lambda: pairs(axes(), np.zeros((2, 2)), np.zeros((2, 2)), [1.0, -1.0]), "masses must be 2 numbers >= 0"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
