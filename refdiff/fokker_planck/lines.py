r"""Sweeps over all lines of a grid along one step between neighbours, in NumPy or on kernels.

A sweep carries every line by itself over one interval of time (`sweeps`). Kernels do many lines side by side, with
the same result on any number of threads; rings, and what is too little work to load kernels for, stay with NumPy.
Sources: PODD-76.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff import backends
from refdiff.arguments import Array
from refdiff.fokker_planck.layouts import Layout
from refdiff.fokker_planck.sweeps import GAMMA, METHODS, Line

# what a row of a line costs in NumPy, in components of a mixture on no axes: some microseconds
ROW = 100
# from so many cells, ten milliseconds, a sweep is worth the threads that share it
SHARED = 2**20
# the part of a step for which each method solves
PARTS = {"euler": 1.0, "patankar": 1.0, "crank-nicolson": 0.5, "tr-bdf2": GAMMA / 2}


def kernels_pay(cells: int, longest: int, sweeps: int) -> bool:
    """Whether Numba is to do so many sweeps of a grid of `cells`, in lines of the `longest` number at most."""
    rows = longest + cells // 500  # from 500 lines on NumPy's rows are arithmetic, and not calls
    return backends.numba_pays(rows * sweeps, ROW, 0)


class Sweep:
    """The lines along one step of a grid, and how they move.

    Args:
        layout: where their cells are.
        line: their rates, shapes (n, m) or (n, 1).
        method: one of METHODS.
        compiled: whether kernels may do it.
    """

    def __init__(self, layout: Layout, line: Line, method: str, compiled: bool) -> None:
        self.layout, self.line, self.method = layout, line, method
        self.compiled = compiled and not line.wrap and line.ahead is None
        self._pivots: dict[float, Array] = {}

    def advance(self, density: Array, dt: float, room: Array) -> Array:
        """A density (*cells) after the time dt, a new array or, where kernels do it, in `room` (*cells)."""
        if not self.compiled:
            return self.layout.put(METHODS[self.method].step(self.layout.take(density), dt, self.line))
        if self.layout.starts is not None:
            lines = self.layout.take(density)
            return self.layout.put(self._on_kernel(lines, False, dt, np.empty_like(lines)))
        columns = (len(density), -1)
        self._on_kernel(density.reshape(columns), self.layout.axis == 1, dt, room.reshape(columns))
        return room

    def _on_kernel(self, lines: Array, rows: bool, dt: float, out: Array) -> Array:
        from refdiff.kernels.numba import tridiagonal  # late: Numba takes a third of a second to import
        from refdiff.kernels.numba.compiling import blocks, ready

        up, down = self.line.up, self.line.down
        count = -(-lines.shape[0 if rows else 1] // tridiagonal.WIDTH)
        number = list(METHODS).index(self.method)
        arguments: Any = (lines, rows, up, down, dt, number, self._pivots_of(dt), out)
        if lines.size >= SHARED:
            blocks(tridiagonal.advance, count, *arguments)
        else:
            ready(tridiagonal.advance, 0, 0, *arguments)
            tridiagonal.advance(0, count, *arguments)
        return out

    def _pivots_of(self, dt: float) -> Array:
        """What all lines have in common where they are alike, shape (3, n), made once for every length of step."""
        up, down = self.line.up, self.line.down
        if up.shape[1] > 1:
            return np.zeros((3, 0))
        if dt not in self._pivots:
            from refdiff.kernels.numba.tridiagonal import eliminate

            self._pivots[dt] = np.empty((3, len(up)))
            eliminate(up, down, dt * PARTS[self.method], self._pivots[dt])
        return self._pivots[dt]
