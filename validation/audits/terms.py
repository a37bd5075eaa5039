"""The terms of a table, and its outputs in terms of what a network answers in another prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refdiff.predictions import weights
from refdiff.samplers import Tableau
from refdiff.schedules import Coefficients


@dataclass(frozen=True, order=True)
class Term:
    """A term of a step: of an earlier stage ("y"), an output ("o") or a normal ("z"), and its number in the table."""

    kind: str
    index: int


def turned(table: Tableau, prediction: str) -> dict[int, tuple[float, float]]:
    """(a, b) for every evaluated stage: the output of the table's prediction is a y + b times the answer there.

    Raises:
        ValueError: the two predictions do not determine each other at one of the stages.
    """
    at = np.flatnonzero(table.evaluated)
    c = Coefficients(*(part[at] for part in table.scalars))
    of_x, of_answer = weights(c, prediction, table.prediction)
    return dict(zip(at.tolist(), zip((of_x * table.scale[at]).tolist(), of_answer.tolist(), strict=True), strict=True))


def terms_of(table: Tableau, k: int) -> list[tuple[Term, float]]:
    """The terms of a stage with their weights."""
    return [
        (Term(kind, index), float(np.ravel(weight)[0]))
        for kind, found in zip("yoz", table.row(k), strict=True)
        for index, weight in found
    ]
