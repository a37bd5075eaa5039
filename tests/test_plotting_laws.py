"""Pictures of laws: regions hold the masses they are said to hold."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from refdiff import Empirical, Gaussian
from refdiff.distributions import random_mixture
from refdiff.plotting import density, density_in_time
from refdiff.plotting.laws import _levels


def axes():
    return Figure().subplots()


def test_the_regions_of_a_gaussian_are_its_ellipses():
    law, drawn = Gaussian([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]]), axes()
    masses = (0.5, 0.8, 0.95)
    assert density(drawn, law, masses=masses, cells=400, filled=False) is drawn
    (lines,) = drawn.collections
    distances = []
    for path in lines.get_paths():
        away = path.vertices - law.mean()
        distances.append((away * np.linalg.solve(law.cov(), away.T).T).sum(axis=1).mean())
    # a mass m of a Gaussian in the plane is where the squared distance is below -2 log(1 - m); cells are 1/50 wide
    np.testing.assert_allclose(sorted(distances), -2 * np.log1p(-np.array(masses)), rtol=0.02)


def test_levels_hold_their_masses():
    heights = np.array([[4.0, 3.0], [2.0, 1.0]])
    np.testing.assert_array_equal(_levels(heights, np.array([0.3, 0.65, 0.95])), [1.0, 3.0, 4.0])


def test_a_shaded_law_is_drawn_region_by_region():
    drawn = axes()
    density(drawn, random_mixture(2, 3, 0, "full"))
    assert len(drawn.collections) == 3


def test_densities_in_time_are_drawn_at_their_times():
    drawn = density_in_time(axes(), lambda t: Gaussian([t], 0.1 + t), [0.0, 0.5, 1.0], cells=50)
    (image,) = drawn.collections
    heights = np.asarray(image.get_array()).reshape(50, 3)
    assert image.get_coordinates().shape == (50, 3, 2)
    # the square root of the height of a peak, on a grid of steps 0.2: at most half a step away
    np.testing.assert_allclose(heights.max(axis=0), (2 * np.pi * np.array([0.1, 0.6, 1.1])) ** -0.25, rtol=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: density(axes(), Gaussian([0.0], 1.0)), "law must be on the plane, got dimension 1"),
        (lambda: density(axes(), Gaussian([0.0, 0.0], 1.0), masses=[0.5, 0.5]), r"masses must increase in \(0, 1\)"),
        (lambda: density(axes(), Empirical([[0.0, 0.0], [1.0, 1.0]])), "has no density"),
        (lambda: density_in_time(axes(), lambda t: Gaussian([t], 1.0), [0.0]), "times must be two or more"),
        (lambda: density_in_time(axes(), lambda t: Gaussian([t, t], 1.0), [0, 1]), "laws on the line, got dimension 2"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
