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


def test_densities_in_time_are_drawn_at_their_times_and_places():
    times, x = np.array([0.0, 0.5, 1.0]), np.linspace(-3, 3, 50)
    laws = {t: Gaussian([t], 0.1 + t) for t in times.tolist()}
    drawn = density_in_time(axes(), lambda at, t: laws[t].logpdf(at), times, x)
    (image,) = drawn.collections
    np.testing.assert_array_equal(image.get_coordinates()[0, :, 0], times)
    np.testing.assert_array_equal(image.get_coordinates()[:, 0, 1], x)
    heights = np.asarray(image.get_array()).reshape(50, 3)
    for k, law in enumerate(laws.values()):
        exact = np.exp(-((x - law.mean()) ** 2) / (2 * law.cov()[0, 0])) / np.sqrt(2 * np.pi * law.cov()[0, 0])
        np.testing.assert_allclose(heights[:, k] ** 2, exact, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: density(axes(), Gaussian([0.0] * 3, 1.0)), "law must be on the line or the plane, got dimension 3"),
        (lambda: density(axes(), Gaussian([0.0, 0.0], 1.0), masses=[0.5, 0.5]), r"masses must increase in \(0, 1\)"),
        (lambda: density(axes(), Empirical([[0.0, 0.0], [1.0, 1.0]])), "has no density"),
        (lambda: density_in_time(axes(), lambda x, t: x[:, 0], [0.0], [0, 1]), "times must be two or more"),
        (lambda: density_in_time(axes(), lambda x, t: x[:, 0], [0, 1], [1, 0]), "x must be two or more that increase"),
        (lambda: density_in_time(axes(), lambda x, t: x, [0, 1], [0, 1]), "log_density must answer with shape"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
