r"""Processes whose clock is the noise level, for grids that implementations give as levels.

    variance preserving   x = (x_0 + rho eps) / sqrt(1 + rho^2),   t = rho = sigma / alpha
    variance exploding    x = x_0 + sigma eps,                     t = sigma
    flow                  x = (1 - t) x_0 + t eps,                 t in [0, 1]

A sampler on such a process has its levels as its times, exactly, whatever schedule they were taken from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refdiff.arguments import Array
from refdiff.schedules import Coefficients, FlowMatching, Schedule, VEPower, variance_preserving

HIGHEST = 1e9  # of levels: above every table's
RISE = 1e-3  # relative, of a level above the one before: thousands of roundings of float32


@dataclass(frozen=True)
class VPLevels(Schedule):
    """alpha = 1 / sqrt(1 + t^2), sigma = t / sqrt(1 + t^2)."""

    T: float = HIGHEST

    def _coefficients(self, t: Array) -> Coefficients:
        square = 1 + t * t
        a = 1 / np.sqrt(square)
        regular = variance_preserving(a, -t * a / square, (2 * t * t - 1) * a / square**2, t * t / square, -t / square)
        # sigma rises linearly from 0, where the square root of the variance says 0 / 0
        rise, bend = a / square, -3 * t * a / square**2
        return regular._replace(sigma=t * a, dsigma=rise, d2sigma=bend, log_snr=-np.log(t))

    def _time(self, lam: Array) -> Array:
        return np.exp(-lam)


PRESERVING, EXPLODING, FLOW = VPLevels(), VEPower(T=HIGHEST), FlowMatching()


def falling(levels: Array) -> Array:
    """The levels of a scheduler's grid, shape (n + 1,), which must fall but for roundings.

    Raises:
        ValueError: a step goes up by more than a thousandth.
    """
    found = np.asarray(levels, dtype=float)
    rises = np.flatnonzero(found[1:] > found[:-1] * (1 + RISE))
    if rises.size:
        i = int(rises[0])
        raise ValueError(f"levels must fall, got a step from {found[i]:.6g} to {found[i + 1]:.6g}")
    return found


def strictly(levels: Array) -> Array:
    """Levels that decrease strictly: where one repeats, or rises by a rounding, it lies 1e-13 below the one before.

    A step between equal levels is then no step, to rounding, but has its evaluation. Whether a grid falls at all is for
    `falling` to say, where it is read.
    """
    found = np.array(levels, dtype=float)
    for i in range(1, len(found)):
        found[i] = min(found[i], found[i - 1] * (1 - 1e-13))
    return found
