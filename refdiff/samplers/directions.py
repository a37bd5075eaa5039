"""Grids of times, checked: strictly from noise to data, or from data to noise. Source: PODC9-01."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array


def decreasing(times: ArrayLike, final: float) -> Array:
    """A grid of times (n + 1,), strictly decreasing within [0, T], T the `final` time.

    Raises:
        ValueError: fewer than two times, times that do not decrease, or times outside [0, T].
    """
    grid = real_array("times", times, ndim=(1,))
    if grid.size < 2:
        raise ValueError(f"times must hold at least two times, got {grid.size}")
    if (np.diff(grid) >= 0).any():
        where = int(np.argmax(np.diff(grid) >= 0))
        raise ValueError(f"times must decrease from noise to data, got {grid[where]} and then {grid[where + 1]}")
    if grid[0] > final or grid[-1] < 0:
        raise ValueError(f"times must lie in [0, {final}], got {grid[0]} to {grid[-1]}")
    return grid


def increasing(times: ArrayLike, final: float) -> Array:
    """A grid from data to noise (n + 1,), strictly increasing within [0, T], T the `final` time.

    Raises:
        ValueError: fewer than two times, times that do not increase, or times outside [0, T].
    """
    grid = real_array("times", times, ndim=(1,))
    if (np.diff(grid) <= 0).any():
        where = int(np.argmax(np.diff(grid) <= 0))
        raise ValueError(f"times must increase from data to noise, got {grid[where]} and then {grid[where + 1]}")
    return decreasing(grid[::-1], final)[::-1]
