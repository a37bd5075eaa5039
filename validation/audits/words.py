r"""Places and terms of a table in the words of whoever wrote the sampler: steps, evaluations, noise levels.

Steps and evaluations are counted from 1, as in a progress bar; stages, of the table, from 0. A noise level is
sigma / alpha, whatever the time is called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.samplers import Tableau
from refdiff.validation.audits.terms import Term


class Words:
    """How stages and terms of a table on a grid are called; `build` makes the table of another grid."""

    def __init__(self, table: Tableau, grid: Array, build: Callable[[Array], Tableau]) -> None:
        self.table, self.grid, self.build = table, np.asarray(grid, dtype=float), build
        with np.errstate(divide="ignore"):
            self.levels: Array = table.scalars.sigma / table.scalars.alpha
        # 1, 2, ... at the evaluated stages, 0 at the others
        self.evaluations: NDArray[np.int_] = np.where(table.evaluated, np.cumsum(table.evaluated), 0)

    @cached_property
    def steps(self) -> list[int]:
        """The step of the grid that every stage belongs to, counted from 1; 0 for the start.

        Step j ends at the grid's time j, so a stage belongs to it if it changes with that time and with none after it.
        """
        found = [0, *[0] * (self.table.stages - 1)]
        for j in range(1, len(self.grid)):
            moved = self.grid.copy()
            moved[j] += 1e-3 * (self.grid[j - 1] - self.grid[j])
            try:
                other = self.build(moved)
            except ValueError:  # no such grid
                continue
            for k in range(1, self.table.stages):
                if k >= other.stages or self._differs(other, k):
                    found[k] = j
        return found

    def _differs(self, other: Tableau, k: int) -> bool:
        if abs(other.times[k] - self.table.times[k]) > 1e-9 * abs(self.table.times[k]):
            return True
        for one, two in zip(self.table.row(k), other.row(k), strict=True):
            if [j for j, _ in one] != [j for j, _ in two]:
                return True
            if any(np.abs(v - w).max() > 1e-9 * np.abs(w).max() for (_, w), (_, v) in zip(one, two, strict=True)):
                return True
        return False

    def number(self, stage: int, term: Term | None = None) -> int:
        """The step in which a stage is made, or in which this term of it is.

        Noise that raises a state to more than its step's end (churn) belongs to the next one.
        """
        step = self.steps[stage]
        if step < len(self.grid) - 1 and self._raised(stage) and term is not None and term.kind == "z":
            return step + 1
        return max(step, min(stage, 1))

    def _raised(self, stage: int) -> bool:
        """Whether the stage is noisier than the end of its step, by noise that is added there."""
        way = 1.0 if self.grid[0] > self.grid[-1] else -1.0
        above = way * self.table.times[stage] > way * self.grid[self.steps[stage]] * (1 + way * 1e-9)
        return bool(above and self.table.row(stage)[2])

    def place(self, stage: int, term: Term | None = None) -> str:
        """Where a stage is: the step (of this term of it), what becomes of it, and its noise level."""
        step = self.number(stage, term)
        if stage == self.table.stages - 1:
            return f"step {step}, the output"
        number = self.evaluations[stage]
        becomes = f"the state shown to evaluation {number}" if number else "a state that is never shown"
        where = f"{becomes}, at noise level {self.levels[stage]:.5g}"
        return f"the start ({where})" if stage == 0 else f"step {step} ({where})"

    def term(self, term: Term, prediction: str) -> str:
        """What a term is."""
        if term.kind == "z":
            drawn = term.index < self.table.draws
            return f"normal {term.index + 1}" if drawn else "a normal that the method does not draw"
        number = self.evaluations[term.index]
        if term.kind == "o":
            return (
                f"the {prediction.replace('_', ' ')} of evaluation {number} (noise level {self.levels[term.index]:.5g})"
            )
        if term.index == 0:
            return "the start"
        return f"the state at evaluation {number}" if number else f"the hidden state of step {self.number(term.index)}"
