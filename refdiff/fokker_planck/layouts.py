r"""Densities on a grid as lines of cells along a step between neighbours, and back.

    (1,), (1, 0)    columns as they are        (0, 1)    transposed
    (1, 1), (1, -1)    cell (i, j) in row i of the line j - i, or j + i: a sheared array, with empty places at its ends

Where the second axis is a ring the sheared lines wrap round it; where the first one is, the axes change places; where
both are, lines close only if one axis has a multiple of the other one's cells. Sources: PODD-76.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.fokker_planck.fluxes import Rates, Step
from refdiff.fokker_planck.sweeps import Line


class Layout(NamedTuple):
    """Where the cells of lines along a step are.

    `shape` is that of the grid and `axis` the one along which lines run; `cells` are the flat cells (n, m) of m lines,
    the number of cells for an empty place, or None where lines are columns or rows of the grid; `wrap` says whether
    they close to rings, and `turned` whether they run against the step.
    """

    shape: tuple[int, ...]
    axis: int
    cells: NDArray[np.intp] | None
    wrap: bool
    turned: bool = False

    def take(self, density: Array) -> Array:
        """The lines (n, m) of a density (*cells), or of rates that broadcast to one: then perhaps only one line."""
        if self.cells is None:
            return np.moveaxis(density, self.axis, 0).reshape(density.shape[self.axis], -1)
        flat = np.append(np.broadcast_to(density, self.shape).ravel(), 0.0)
        return np.asarray(flat[self.cells])

    def put(self, lines: Array) -> Array:
        """The density (*cells) of lines (n, m)."""
        if self.cells is None:
            moved = [self.shape[self.axis], *self.shape[: self.axis], *self.shape[self.axis + 1 :]]
            return np.ascontiguousarray(np.moveaxis(lines.reshape(moved), 0, self.axis))
        count = int(np.prod(self.shape))
        found = np.empty(count + 1)
        found[self.cells] = lines
        return found[:count].reshape(self.shape)

    def line(self, rates: Rates) -> Line:
        """The rates along the lines."""
        given = [part for part in rates[1:] if part is not None]
        taken = [np.ascontiguousarray(self.take(part)) for part in given]
        # pairs of what goes up and what goes down
        up, down, *excess = [taken[k ^ self.turned] for k in range(len(taken))]
        return Line(up, down, self.wrap, *excess)


def layout(shape: tuple[int, ...], step: Step, boundaries: Sequence[str]) -> Layout:
    """The lines along a `step` on a grid of this `shape` with these `boundaries`.

    Raises:
        ValueError: diagonals of a torus that do not close.
    """
    rings = [kind == "periodic" for kind in boundaries]
    if sum(map(abs, step)) == 1:
        axis = step.index(1)
        return Layout(shape, axis, None, rings[axis])
    slope = step[0] * step[1]
    # lines run along an axis that is no ring, or else along one that has a multiple of the other one's cells
    along = 0 if not rings[0] or (rings[1] and shape[0] % shape[1] == 0) else 1
    across = 1 - along
    n, m = shape[along], shape[across]
    if all(rings) and n % m:
        raise ValueError(
            f"boundary must not be periodic along both axes of {shape[0]} x {shape[1]} cells with correlated noise, as "
            "diagonals do not close: take cells of which one number is a multiple of the other, or method exponential"
        )
    rows = np.arange(n)[:, None]
    if rings[across]:
        columns = (np.arange(m) + slope * rows) % m
        inside = np.ones(columns.shape, dtype=bool)
    else:
        first = -(n - 1) if slope > 0 else 0
        columns = np.arange(first, first + n + m - 1) + slope * rows
        inside = (columns >= 0) & (columns < m)
    places = (rows, columns) if along == 0 else (columns, rows)
    cells = np.where(inside, places[0] * shape[1] + places[1], shape[0] * shape[1])
    return Layout(shape, along, cells, all(rings), turned=step[along] < 0)
