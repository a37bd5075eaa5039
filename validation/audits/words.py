r"""Places and terms of a table in the words of whoever wrote the sampler: steps, evaluations, noise levels.

Steps and evaluations are counted from 1, as in a progress bar; stages, of the table, from 0. A noise level is
sigma / alpha, whatever the time is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.samplers import Tableau


@dataclass(frozen=True, order=True)
class Term:
    """A term of a step: of an earlier stage ("y"), an output ("o") or a normal ("z"), and its number in the table."""

    kind: str
    index: int


class Words:
    """How stages and terms of a table on a grid are called."""

    def __init__(self, table: Tableau, grid: Array) -> None:
        self.table, self.grid = table, np.asarray(grid, dtype=float)
        with np.errstate(divide="ignore"):
            self.levels: Array = table.coefficients.sigma / table.coefficients.alpha
        # 1, 2, ... at the evaluated stages, 0 at the others
        self.evaluations: NDArray[np.int_] = np.where(table.evaluated, np.cumsum(table.evaluated), 0)

    @cached_property
    def steps(self) -> list[int]:
        """The step of the grid that every stage belongs to, counted from 1; 0 for the start.

        A step is over when the grid's next time is reached, and the next one begins with the first stage elsewhere. A
        stage on the way back up begins one if it only adds noise (churn); a node inside the step does not.
        """
        way = 1.0 if self.grid[0] > self.grid[-1] else -1.0
        times, grid = way * self.table.times, way * self.grid
        step, found = 0, [0]
        for k in range(1, self.table.stages):
            reached = times[k - 1] <= grid[min(step, len(grid) - 1)]
            back = times[k] > times[k - 1]
            if reached and times[k] != times[k - 1] and not (back and self.table.row(k)[1]):
                step += 1
            found.append(min(max(step, 1), len(grid) - 1))
        return found

    def place(self, stage: int) -> str:
        """Where a stage is: its step, what becomes of it, and its noise level."""
        if stage == self.table.stages - 1:
            return f"step {self.steps[stage]}, the output"
        number = self.evaluations[stage]
        becomes = f"the state shown to evaluation {number}" if number else "a state that is never shown"
        where = f"{becomes}, at noise level {self.levels[stage]:.5g}"
        return f"the start ({where})" if stage == 0 else f"step {self.steps[stage]} ({where})"

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
        return f"the state at evaluation {number}" if number else f"the hidden state of step {self.steps[term.index]}"
