"""Colours: told apart by colour-blind eyes, as far from each other as their numbers, readable under text."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

from refdiff.plotting import PALETTE, diverging, sequential
from refdiff.plotting.colours import luminance, readable_on

# What eyes without one kind of cones see, on linear sRGB: Machado, Oliveira, Fernandes, "A physiologically-based model
# for simulation of color vision deficiency" (2009), severity 1
SEEN = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# linear sRGB to CIE XYZ (IEC 61966-2-1)
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
APART = 6 * 2.3  # CIE76; 2.3 is a just noticeable difference (Mahy, Van Eycken, Oosterlinck 1994)
# of the largest to the smallest step of a map, by CIE76: viridis, which is uniform in CAM02-UCS, has 2.3
UNIFORM = 2.5
TAB10 = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2")  # matplotlib's own cycle


def cielab(colors, seen="all cones"):
    """CIELAB of sRGB colours (n, 3), as eyes of this kind see them."""
    srgb = np.asarray(colors, dtype=float)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(SEEN[seen]), 0, 1) @ XYZ.T / XYZ.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def nearest(colors, seen):
    places = cielab([to_rgb(one) for one in colors], seen)
    return min(np.linalg.norm(a - b) for a, b in combinations(places, 2))


def steps(colors):
    return np.linalg.norm(np.diff(cielab(colors), axis=0), axis=1)


@pytest.mark.parametrize("seen", SEEN)
def test_colours_of_the_palette_stay_apart_for_all_eyes(seen):
    assert nearest(PALETTE, seen) > APART


def test_colours_of_the_usual_cycle_do_not():
    assert nearest(TAB10, "protanopia") < APART / 2
    assert nearest(TAB10, "deuteranopia") < APART


def test_the_first_colours_stand_out_from_white():
    contrasts = [1.05 / (float(luminance(to_rgb(color))) + 0.05) for color in PALETTE]
    assert min(contrasts[:4]) > 3  # what WCAG 2.2 asks of graphical objects (1.4.11)
    assert contrasts[4] < 3  # it does reject some


@pytest.mark.parametrize("colormap", [sequential(), diverging()], ids=["sequential", "diverging"])
def test_equal_steps_of_maps_look_equal(colormap):
    found = steps(colormap.colors)
    assert found.max() / found.min() < UNIFORM


def test_equal_steps_of_a_rainbow_do_not():
    found = steps(colormaps["jet"](np.linspace(0, 1, 257))[:, :3])
    assert found.max() > 3 * UNIFORM * found.min()


@pytest.mark.parametrize("color", [*PALETTE, "0.15"])
def test_sequential_maps_are_maps_in_grey_too(color):
    lightness = cielab(sequential(color).colors)[:, 0]
    assert (np.diff(lightness) < 0).all()
    assert lightness[0] == pytest.approx(100, abs=0.01)
    assert lightness[-1] < 30
    assert not (np.diff(cielab(colormaps["jet"](np.linspace(0, 1, 257))[:, :3])[:, 0]) < 0).all()


def test_sequential_maps_pass_through_their_colour():
    away = np.linalg.norm(np.asarray(sequential("#009e73").colors) - to_rgb("#009e73"), axis=1)
    assert away.min() < 1 / 255
    assert np.linalg.norm(np.asarray(sequential("#0072b2").colors) - to_rgb("#009e73"), axis=1).min() > 0.1


def test_a_map_may_begin_after_its_white_end():
    whole, part = (np.asarray(sequential(palest=palest).colors) for palest in (0.0, 0.5))
    assert_allclose(part[0], whole[128], atol=1e-12)  # the middle of 257 colours
    assert_allclose(part[-1], whole[-1], atol=1e-12)


def test_diverging_maps_are_as_dark_on_both_sides_and_white_in_the_middle():
    colors = diverging().colors
    lightness = cielab(colors)[:, 0]
    assert (np.diff(lightness[:129]) > 0).all()
    # equal in OKLab; CIELAB's own lightness differs from that for saturated colours
    assert_allclose(lightness, lightness[::-1], atol=2.0)
    assert_allclose(colors[128], 1.0, atol=1e-6)
    red_blue = cielab(colormaps["bwr"](np.linspace(0, 1, 257))[:, :3])[:, 0]
    assert np.abs(red_blue - red_blue[::-1]).max() > 2.0  # a map that is not as dark on both sides


def test_text_is_readable_on_every_colour():
    colors = np.random.default_rng(0).random((2000, 3))
    for color in [*colors, *sequential().colors, *diverging().colors]:
        high, low = sorted((float(luminance(color)), {"black": 0.0, "white": 1.0}[readable_on(color)]), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.2 AA (1.4.3)
    assert readable_on((1.0, 1.0, 0.0)) == "black"
    assert readable_on((0.0, 0.0, 0.5)) == "white"


def test_luminance_is_that_of_cie():
    colors = np.random.default_rng(1).random((50, 3))
    # CIE L* = 116 Y^(1/3) - 16 above 216/24389; primaries are rounded to 4 digits here, to 7 there
    bright = luminance(colors) > 0.01
    assert_allclose(116 * np.cbrt(luminance(colors)[bright]) - 16, cielab(colors)[bright, 0], atol=0.01)


def test_what_is_no_map_is_said():
    with pytest.raises(ValueError, match="'nocolour'"):
        sequential("nocolour")
    with pytest.raises(ValueError, match=r"palest must lie in \[0, 1\), got 1.0"):
        sequential(palest=1.0)
