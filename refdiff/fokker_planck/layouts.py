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

from refdiff.arguments import Array
from refdiff.fokker_planck.fluxes import Rates, Step
from refdiff.fokker_planck.sweeps import Line


class Layout(NamedTuple):
    """Where the cells of lines along a step are.

    `shape` is that of the grid and `axis` the one along which lines run, `lines` of them. Of a row across them `starts`
    are the lines of its first cells, shape (n,), or None where lines are columns or rows of the grid; `wrap` says
    whether lines close to rings, and `turned` whether they run against the step.
    """

    shape: tuple[int, ...]
    axis: int
    wrap: bool
    lines: int = 0
    starts: tuple[int, ...] | None = None
    turned: bool = False

    def take(self, density: Array) -> Array:
        """The lines (n, m) of a density (*cells), or of rates that broadcast to one: then perhaps only one line."""
        if self.starts is None:
            return np.moveaxis(density, self.axis, 0).reshape(density.shape[self.axis], -1)
        rows = np.moveaxis(np.broadcast_to(density, self.shape), self.axis, 0)
        found = np.zeros((len(rows), self.lines))
        for line, row, start in zip(found, rows, self.starts, strict=True):
            end = start + len(row)
            line[start:end] = row[: self.lines - start]
            if end > self.lines:  # round the ring
                line[: end - self.lines] = row[self.lines - start :]
        return found

    def put(self, lines: Array) -> Array:
        """The density (*cells) of lines (n, m)."""
        moved = (self.shape[self.axis], *self.shape[: self.axis], *self.shape[self.axis + 1 :])
        if self.starts is None:
            return np.ascontiguousarray(np.moveaxis(lines.reshape(moved), 0, self.axis))
        found = np.empty(moved)
        for line, row, start in zip(lines, found, self.starts, strict=True):
            end = start + len(row)
            row[: self.lines - start] = line[start:end]
            if end > self.lines:
                row[self.lines - start :] = line[: end - self.lines]
        return np.ascontiguousarray(np.moveaxis(found, 0, self.axis))

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
        return Layout(shape, axis, rings[axis])
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
    if rings[across]:
        many, starts = m, [-slope * i % m for i in range(n)]
    else:
        many, starts = n + m - 1, [n - 1 - i if slope > 0 else i for i in range(n)]
    return Layout(shape, along, all(rings), many, tuple(starts), turned=step[along] < 0)
