"""A costly smooth function of log t, kept as Chebyshev polynomials on pieces that are halved until they resolve it.

The turning frame of a matrix process is asked for at thousands of times by a table of a few steps, always on the same
way from T down to the last time: each piece is computed once, where it is first met. What no piece resolves, a jump,
is asked of the function itself. Source: RDX-13.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev

from refdiff.arguments import Array

# of the polynomials, and the longest piece in log t
DEGREE = 16
LONGEST = 0.5
# what the last two coefficients may be of the largest, and how often a piece is halved to get there
RESOLVED = 1e-13
HALVINGS = 8
# Or of the function's own rounding, as far as times that differ by this show it: no halving makes that less.
NOISE, NEIGHBOUR = 8.0, 4 * np.finfo(float).eps


class Pieces:
    """`function` of t in (0, T], as a function of u = log(t / T) <= 0.

    Args:
        function: t to values of any shape.
        final: T.
    """

    def __init__(self, function: Callable[[float], Array], final: float) -> None:
        self.function, self.final = function, final
        self._known: dict[tuple[int, int], Array | None] = {}  # (halvings, number) -> coefficients, or None

    def __call__(self, u: float) -> Array:
        """The value at T e^u."""
        for halvings in range(HALVINGS + 1):
            length = LONGEST / 2**halvings
            number = max(0, int(-u / length))
            found = self._piece(halvings, number)
            if found is not None:
                place = 2 * (-u / length - number) - 1  # in [-1, 1]
                return np.asarray(np.tensordot(chebyshev.chebvander(place, DEGREE)[0], found, axes=1))
        return self.function(min(float(self.final * np.exp(u)), self.final))

    def _piece(self, halvings: int, number: int) -> Array | None:
        """The coefficients (degree + 1, ...) on one piece, or None where it does not resolve the function."""
        key = halvings, number
        if key not in self._known:
            nodes = chebyshev.chebpts1(DEGREE + 1)
            times = self.final * np.exp(-(number + (nodes + 1) / 2) * LONGEST / 2**halvings)
            values = np.stack([self.function(float(t)) for t in times])
            found = np.tensordot(np.linalg.inv(chebyshev.chebvander(nodes, DEGREE)), values, axes=1)
            left = np.abs(found[-2:]).max()
            fine = left <= RESOLVED * np.abs(found).max() or left <= NOISE * self._noise(times, values)
            self._known[key] = found if fine else None
        return self._known[key]

    def _noise(self, times: Array, values: Array) -> float:
        """How much values (m, ...) at times (m,) differ from those at neighbouring times, at three of them."""
        chosen = slice(0, len(times), len(times) // 2)
        beside = [self.function(float(t)) for t in times[chosen] * (1 - NEIGHBOUR)]
        return float(np.abs(np.stack(beside) - values[chosen]).max())
