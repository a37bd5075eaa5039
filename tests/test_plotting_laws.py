"""Pictures of laws: regions hold the masses they are said to hold."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.path import Path
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import ndtri

from refdiff import Empirical, Gaussian, GaussianMixture
from refdiff.distributions import cdf, random_mixture
from refdiff.plotting import density, density_in_time, sequential
from refdiff.plotting.laws import FINE, _cut, _levels

MASSES = (0.5, 0.8, 0.95)
LINE = GaussianMixture.isotropic([[-2.0], [0.0], [1.0]], [0.3, 1e-4, 0.2], [0.4, 0.2, 0.4])  # one of them narrow


def axes():
    return Figure().subplots()


def test_the_regions_of_a_gaussian_are_its_ellipses():
    law, drawn = Gaussian([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]]), axes()
    assert density(drawn, law, masses=MASSES, cells=400, filled=False) is drawn
    (lines,) = drawn.collections
    distances = []
    for path in lines.get_paths():
        away = path.vertices - law.mean()
        distances.append((away * np.linalg.solve(law.cov(), away.T).T).sum(axis=1).mean())
    # a mass m of a Gaussian in the plane is where the squared distance is below -2 log(1 - m); cells are 1/50 wide
    assert_allclose(sorted(distances), -2 * np.log1p(-np.array(MASSES)), rtol=0.02)


def test_shaded_regions_end_where_lines_are_drawn():
    law = Gaussian([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]])
    regions = density(axes(), law, masses=MASSES, cells=400).collections
    found = []
    for region in regions:
        (curve,) = (part for path in region.get_paths() for part in path.to_polygons())
        away = curve - law.mean()
        found.append((away * np.linalg.solve(law.cov(), away.T).T).sum(axis=1))
    for distances, mass in zip(found, MASSES[::-1], strict=True):
        assert_allclose(distances, -2 * np.log1p(-mass), rtol=0.03)  # cells are 1/50 wide


def test_components_of_no_weight_take_no_room():
    law = GaussianMixture.isotropic([[0.0, 0.0], [100.0, 100.0]], 1.0, [1.0, 0.0])
    assert density(axes(), law).get_xlim()[1] < 10
    drawn = density(axes(), GaussianMixture.isotropic([[0.0], [100.0]], 1.0, [1.0, 0.0]))
    assert drawn.get_xlim()[1] < 10


def test_a_curve_is_cut_where_it_crosses_a_level():
    places, tops = _cut(np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 0.0]), 0.5)
    assert_allclose(places, [0.0, 0.25, 1.0, 2.5, 3.0])
    assert_allclose(tops, [0.0, 0.5, 2.0, 0.5, 0.0])


@pytest.mark.statistical
@pytest.mark.parametrize("mass", MASSES)
def test_regions_in_the_plane_hold_their_masses(mass):
    """A false alarm with probability 6e-7 for each mass: 5 standard errors of a share, beside what cells decide."""
    law, count = random_mixture(2, 4, 3, "full"), 40_000
    drawn = density(axes(), law, masses=[mass], cells=400, filled=False)
    curves = [Path(part) for path in drawn.collections[0].get_paths() for part in path.to_polygons()]
    x = law.sample(count, 7)
    inside = np.sum([curve.contains_points(x) for curve in curves], axis=0) % 2  # in a hole it is inside twice
    # what is beyond the grid, 6e-5 of a component each way and axis, counts as outside; a cell holds 1e-4 at most
    error = 5 * np.sqrt(mass * (1 - mass) / count) + 4 * 6e-5 + 1e-4
    assert abs(inside.mean() - mass) < error
    assert abs(inside.mean() - (mass - 0.05)) > error


@pytest.mark.parametrize("covariance", [[[1e-4, 0.0], [0.0, 1e-4]], [[1.0, 0.9], [0.9, 1.0]]], ids=["small", "oblique"])
def test_narrow_components_in_the_plane_are_not_missed(covariance):
    law = GaussianMixture.full([[-20.03, 0.0], [10.0, 1.02]], [covariance, covariance])
    drawn = density(axes(), law, masses=MASSES, filled=False).collections[0]
    for path, mass in zip(drawn.get_paths(), MASSES[::-1], strict=True):
        curves = path.to_polygons()
        assert len(curves) == 2
        for curve in curves:
            (mean,) = (one for one in law.means if np.linalg.norm(one - curve.mean(axis=0)) < 2.0)
            away = curve - mean
            distances = (away * np.linalg.solve(covariance, away.T).T).sum(axis=1)
            # a level is that of a place, and up to 8 of one height are within together
            assert abs(-np.expm1(-distances.mean() / 2) - mass) < 8 / (2 * np.pi * FINE**2)


def test_a_region_smaller_than_a_cell_is_drawn_within_one():
    for mass, small in ((1e-9, True), (0.5, False)):
        drawn = density(axes(), Gaussian([0.0, 0.0], 1.0), masses=[mass])
        drawn.figure.draw_without_rendering()
        corners = [np.zeros((1, 2)), *(path.vertices for one in drawn.collections for path in one.get_paths())]
        # 200 places over 8 deviations: no farther than the places beside those next to the mean
        assert (np.abs(np.concatenate(corners)).max() <= 1.5 * 8 / 199) == small


def test_what_is_no_law_is_said():
    with pytest.raises(TypeError, match="law must be a GaussianMixture, got list"):
        density(axes(), [0.0])


def test_no_density_is_white_over_time():
    (image,) = density_in_time(axes(), lambda x, t: 0 * x[:, 0] + t, [0.0, 1.0], [0.0, 1.0]).collections
    assert_allclose(image.to_rgba([0.0])[0, :3], 1.0, atol=1e-6)
    assert image.to_rgba([1.0])[0, 0] < 0.9  # the least here, which is not 0


def shaded(drawn):
    """The intervals of the line that every region shades, the largest region first."""
    return [[(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in one.get_paths()]
            for one in drawn.collections]  # fmt: skip


def test_regions_of_a_gaussian_on_the_line_are_its_central_intervals():
    regions = shaded(density(axes(), Gaussian([1.0], 4.0), masses=MASSES))
    # the level is found on cells of 1/80 deviations
    expected = [1 + 2 * ndtri((1 + mass) / 2) for mass in MASSES[::-1]]
    assert_allclose([high for ((_, high),) in regions], expected, atol=2 / 80)
    assert_allclose([low for ((low, _),) in regions], 2 - np.array(expected), atol=2 / 80)


def test_regions_on_the_line_hold_their_masses_beside_a_narrow_component():
    regions = shaded(density(axes(), LINE, masses=MASSES))
    held = [sum(np.diff(cdf(LINE, np.array(interval)[:, None]))[0] for interval in one) for one in regions]
    assert_allclose(held, MASSES[::-1], atol=5e-3)  # of which a cell holds up to 0.4 / 80
    assert len(regions[0]) > 1
    coarse = GaussianMixture.isotropic(LINE.means, [0.3, 0.05, 0.2], LINE.weights)
    assert abs(sum(np.diff(cdf(coarse, np.array(one)[:, None]))[0] for one in regions[0]) - 0.95) > 5e-3  # another law


def test_the_curve_on_the_line_is_the_density():
    drawn = density(axes(), LINE, filled=False)
    (curve,) = drawn.lines
    x, heights = curve.get_xydata().T
    expected = sum(
        w * np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
        for w, m, v in zip((0.4, 0.2, 0.4), (-2, 0, 1), (0.3, 1e-4, 0.2), strict=True)
    )
    assert_allclose(heights, expected, rtol=1e-12, atol=1e-300)
    assert heights.max() > 0.99 * np.exp(LINE.logpdf(np.array([[0.0]])))[0]  # the narrow peak is not missed
    assert not drawn.collections


def test_regions_are_paler_the_more_they_hold():
    for law in (LINE, random_mixture(2, 3, 0, "full")):
        drawn = density(axes(), law)
        assert len(drawn.collections) == 3
        opaque = [one.get_alpha() for one in drawn.collections]
        assert (np.diff(opaque) > 0).all()  # the largest region is drawn first


def test_levels_hold_their_masses():
    heights = np.array([[4.0, 3.0], [2.0, 1.0]])
    assert_array_equal(_levels(heights, np.array([0.3, 0.65, 0.95])), [1.0, 3.0, 4.0])
    # cells of other sizes: 4 x 1, 3 x 4, 2 x 1 and 1 x 2 of 20
    sizes = np.array([[1.0, 4.0], [1.0, 2.0]])
    assert_array_equal(_levels(heights, np.array([0.19, 0.21, 0.85]), sizes), [2.0, 3.0, 4.0])


def test_densities_in_time_are_drawn_at_their_times_and_places():
    times, x = np.array([0.0, 0.5, 1.0]), np.linspace(-3, 3, 50)
    laws = {t: Gaussian([t], 0.1 + t) for t in times.tolist()}
    drawn = density_in_time(axes(), lambda at, t: laws[t].logpdf(at), times, x)
    (image,) = drawn.collections
    assert_array_equal(image.get_coordinates()[0, :, 0], times)
    assert_array_equal(image.get_coordinates()[:, 0, 1], x)
    heights = np.asarray(image.get_array()).reshape(50, 3)
    for k, law in enumerate(laws.values()):
        exact = np.exp(-((x - law.mean()) ** 2) / (2 * law.cov()[0, 0])) / np.sqrt(2 * np.pi * law.cov()[0, 0])
        assert_allclose(heights[:, k] ** 2, exact, rtol=1e-12)


def test_colours_of_a_density_in_time_are_those_asked_for():
    def drawn(**options):
        return (
            density_in_time(axes(), lambda x, t: -(x[:, 0] ** 2), [0, 1], [0, 1], **options).collections[0].get_cmap()
        )

    assert drawn() == sequential()
    assert drawn(cmap="viridis").name == "viridis"
    assert drawn(cmap=sequential("#009e73")) == sequential("#009e73")


def test_a_density_may_be_zero():
    def uniform(x, t):
        return np.where(np.abs(x[:, 0]) < t, -np.log(2 * t), -np.inf)

    (image,) = density_in_time(axes(), uniform, [1.0, 2.0], [-1.5, 0.0, 1.5]).collections
    assert_allclose(np.asarray(image.get_array()).reshape(3, 2) ** 2, [[0, 0.25], [0.5, 0.25], [0, 0.25]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: density(axes(), Gaussian([0.0] * 3, 1.0)), "law must be on the line or the plane, got dimension 3"),
        (lambda: density(axes(), LINE, masses=[0.5, 0.5]), r"masses must increase in \(0, 1\)"),
        (lambda: density(axes(), LINE, masses=[]), r"masses must increase in \(0, 1\)"),
        (lambda: density(axes(), LINE, masses=[0.5, 1.0]), r"masses must increase in \(0, 1\)"),
        (lambda: density(axes(), LINE, masses=[np.nan]), "masses must be finite"),
        (lambda: density(axes(), LINE, cells=1), "cells must be at least 2"),
        (lambda: density(axes(), Gaussian([0.0, 0.0], 1.0), cells=1), "cells must be at least 2"),
        (lambda: density(axes(), Empirical([[0.0, 0.0], [1.0, 1.0]])), "has no density"),
        (lambda: density(axes(), Empirical([[0.0], [1.0]])), "has no density"),
        (lambda: density(axes(), Gaussian([0.0, 0.0], [[1, 1 - 1e-6], [1 - 1e-6, 1]])), "too narrow for 200 cells"),
        (lambda: density_in_time(axes(), lambda x, t: 1e4 + x[:, 0], [0, 1], [0, 1]), "below 1000.0 or -inf, got 1"),
        (lambda: density_in_time(axes(), lambda x, t: x[:, 0], [0.0], [0, 1]), "times must be 2 or more"),
        (lambda: density_in_time(axes(), lambda x, t: x[:, 0], [0, 1], [1, 0]), "x must be 2 or more that increase"),
        (lambda: density_in_time(axes(), lambda x, t: x, [0, 1], [0, 1]), "log_density must answer with shape"),
        (
            lambda: density_in_time(axes(), lambda x, t: x[:, 0] * np.nan, [0, 1], [0, 1]),
            "log_density must answer with",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
