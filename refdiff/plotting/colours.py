r"""Colours: a palette that colour-blind eyes tell apart, and perceptually uniform maps.

Maps run along polylines of OKLab at constant speed. OKLab is nearly Euclidean for perceived differences, so equal steps
of the data are nearly equal steps for the eye; its L is lightness, so a map whose L is monotone is also one in grey:

    (l, m, s) = M_1 (R, G, B),   (L, a, b) = M_2 (l^(1/3), m^(1/3), s^(1/3)),   R, G, B linear

Sources: Okabe and Ito, "Color universal design" (2008); Ottosson, "A perceptual color space for image processing"
(2020); IEC 61966-2-1 (sRGB); WCAG 2.2 (contrast).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

# Okabe and Ito's colours, those that stand out from white most first; their yellow (#f0e442) is left out: on white its
# contrast is 1.3.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
FIRST, LAST = PALETTE[:2]
NEUTRAL, DARK = "0.35", "0.15"  # of many thin lines, and of what must stand out on shaded regions

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear sRGB's primaries
WHITE = np.array([1.0, 0.0, 0.0])
SHADE = np.array([0.5, 0.6, 0.6])  # what a colour is multiplied by in OKLab, to be its dark shade
_ENTRIES = 257  # of a map: one for every level of a channel of eight bits, odd to have a middle
# the arms of the diverging map: (L, chroma) where they bend and end, in hues (degrees) of the palette's first two
_BEND, _END, _HUES = (0.65, 0.12), (0.38, 0.09), (244.0, 47.5)


def sequential(color: str = FIRST, *, palest: float = 0.0) -> ListedColormap:
    """Colours from white through `color` to a dark shade of it, for what is >= 0.

    Args:
        color: any that matplotlib knows.
        palest: the part of the map that is left out at its white end, in [0, 1).

    Raises:
        ValueError: no such color, or another palest.
    """
    from matplotlib.colors import to_rgb

    if not 0 <= palest < 1:
        raise ValueError(f"palest must lie in [0, 1), got {palest}")
    middle = _oklab(_linear(np.array(to_rgb(color))))
    return _map("sequential", [WHITE, middle, middle * SHADE], palest)


def diverging() -> ListedColormap:
    """Colours from dark blue through white to dark vermillion, equally dark at equal distances from the middle."""
    left, right = ([_polar(*at, hue) for at in (_END, _BEND)] for hue in _HUES)
    return _map("diverging", [*left, WHITE, *right[::-1]])


def luminance(colors: ArrayLike) -> Array:
    """The relative luminance Y of colours (..., 3), shape (...): from 0, black, to 1, white.

    Args:
        colors: sRGB in [0, 1], shape (..., 3).
    """
    return np.asarray(_linear(real_array("colors", colors)) @ _LUMINANCE)


def readable_on(color: ArrayLike) -> str:
    """Black or white, whichever has more contrast (Y_1 + 0.05) / (Y_2 + 0.05) with this colour: at least 4.58.

    Args:
        color: what is written on, sRGB in [0, 1], shape (3,).
    """
    y = float(luminance(color))
    return "black" if (y + 0.05) / 0.05 >= 1.05 / (y + 0.05) else "white"


def _map(name: str, corners: list[Array], start: float = 0.0) -> ListedColormap:
    """The map along a polyline of OKLab, at constant speed, from a part of it on."""
    from matplotlib.colors import ListedColormap

    places = np.array(corners)
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    even = np.linspace(start * arc[-1], arc[-1], _ENTRIES)
    lab = np.stack([np.interp(even, arc, column) for column in places.T], axis=-1)
    return ListedColormap(np.clip(_displayed(lab), 0.0, 1.0), name=name)


def _polar(lightness: float, chroma: float, hue: float) -> Array:
    angle = np.radians(hue)
    return np.array([lightness, chroma * np.cos(angle), chroma * np.sin(angle)])


def _linear(srgb: Array) -> Array:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _oklab(linear: Array) -> Array:
    return np.asarray(np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T)


def _displayed(lab: Array) -> Array:
    """OKLab as sRGB."""
    linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONES).T
    bright = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, bright)
