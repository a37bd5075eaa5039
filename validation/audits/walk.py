r"""The walk through a table's stages that leaves each step's own error, under one reading of what cannot be seen.

With the sampler's own earlier rows in the place of the claimed ones, what is left of a row is the error of its step.
`steps` says which readings there are, and takes the one with the fewest wrong steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import Tableau, to_prediction
from refdiff.validation.audits.explained import Explanation, Language, explain
from refdiff.validation.audits.matching import Drawn
from refdiff.validation.audits.rounding import OPERATIONS, WORST
from refdiff.validation.audits.step import Step
from refdiff.validation.audits.terms import Term, terms_of, turned
from refdiff.validation.audits.words import Words


@dataclass
class Found:
    """A stage as it is and as it should be, and where that is seen."""

    stage: int
    row: Array
    right: Array
    size: float
    error: float
    bound: float
    seen: tuple[int, Array, Array]
    factor: float | None = None


@dataclass
class Reading:
    """All stages, under one reading of what cannot be seen."""

    table: Tableau
    moved: list[Tableau]
    rows: dict[int, Array]
    drawn: list[Drawn]
    prediction: str
    eps: float
    synced: bool = False
    shown: bool = False
    found: list[Found] = field(init=False)

    def __post_init__(self) -> None:
        table = self.table
        at = np.flatnonzero(table.evaluated).tolist()
        self.drawn = list(self.drawn)
        self.unit: Array = np.eye(1 + len(at) + len(self.drawn))
        self.places = {Term("o", stage): 1 + i for i, stage in enumerate(at)}
        # a normal that only the sampler has gets a number beyond the table's
        names = (c.table if c.table is not None else table.draws + i for i, c in enumerate(self.drawn))
        self.places |= {Term("z", m): 1 + len(at) + i for i, m in enumerate(names)}
        self.signs: dict[int, float] = {}
        self.turned: dict[int, tuple[dict[int, tuple[float, float]], Tableau]] = {}
        self.known: dict[int, Array] = {0: self.unit[0]}
        # hidden stages by the moved tables, and what rounding may leave of them
        self.others: list[dict[int, Array]] = [{} for _ in self.moved]
        self.slack: dict[int, float] = {}
        self.found = list(self._walk())
        for i, column in enumerate(self.drawn):
            if column.table is not None:
                self.drawn[i] = column._replace(sign=self.signs.get(column.table, 1.0))

    @property
    def wrong(self) -> list[Found]:
        """The stages that are off."""
        return [f for f in self.found if not f.error <= f.bound]

    @property
    def factors(self) -> int:
        """How many stages are only shown wrongly."""
        return sum(f.factor is not None for f in self.found)

    @cached_property
    def foreign(self) -> float:
        """How many terms that the method does not use there the first wrong stage has; infinite where none make it."""
        first = next((f for f in self.wrong if f.factor is None), None)
        if first is None:
            return 0.0
        explained = self._explained(first)
        return math.inf if explained is None else float(len(explained.extra))

    def turns(self, table: Tableau) -> dict[int, tuple[float, float]]:
        """What outputs of a table are in terms of states and answers."""
        if id(table) not in self.turned:
            self.turned[id(table)] = turned(table, self.prediction), table  # kept, so that the id stays its own
        return self.turned[id(table)][0]

    def vector(self, term: Term, table: Tableau, hidden: dict[int, Array] | None = None) -> Array:
        """The row of a term."""
        if term.kind == "y":
            known = self.known[term.index]
            return known if hidden is None else hidden.get(term.index, known)
        if term.kind == "z":
            return np.asarray(self.unit[self.places[term]] * self.signs.get(term.index, 1.0))
        of_x, of_answer = self.turns(table)[term.index]
        return np.asarray(of_x * self.known[term.index] + of_answer * self.unit[self.places[term]])

    def _made(self, table: Tableau, k: int, hidden: dict[int, Array] | None = None) -> Array:
        if k == 0:
            return np.asarray(self.unit[0])
        return sum((w * self.vector(t, table, hidden) for t, w in terms_of(table, k)), np.zeros(len(self.unit)))

    def _walk(self) -> Iterator[Found]:
        unseen: set[int] = set()
        for k in range(self.table.stages):
            self._turn_normals(k)
            right, terms = self._made(self.table, k), terms_of(self.table, k)
            moved = [self._made(other, k, hidden) for other, hidden in zip(self.moved, self.others, strict=True)]
            # a step may be written y + (c - 1) y for c y: its roundings are then those of y, however small c is
            least = {t: max(abs(w), 1.0) if t.kind == "y" else abs(w) for t, w in terms}
            sizes = sum((c * np.abs(self.vector(t, self.table)) for t, c in least.items()), np.zeros(len(self.unit)))
            rounding = OPERATIONS * self.eps * float(sizes.max())
            rounding += sum(abs(w) * self.slack[t.index] for t, w in terms if t.kind == "y" and t.index in self.slack)
            if k not in self.rows:
                self.known[k], self.slack[k] = right, rounding
                for hidden, row in zip(self.others, moved, strict=True):
                    hidden[k] = row
                unseen.add(k)
                continue
            row = self.rows[k]
            size = max(float(np.abs(row).max()), float(np.abs(right).max())) or 1.0  # both may be zero
            drift = max((float(np.abs(other - right).max()) for other in moved), default=0.0)
            error, bound = float(np.abs(row - right).max()), WORST * drift + rounding or OPERATIONS * self.eps * size
            found = Found(k, row, right, size, error / size, bound / size, (k, row, right))
            through = [(t.index, w) for t, w in terms if t.kind == "y" and t.index in unseen]
            if self.synced and through:  # the newest hidden stage is what this one needs it to be
                h, w = max(through)
                was = self.known[h]
                self.known[h] = was + (row - right) / w
                # read from this row, by the moved tables too, and as exactly as the rest of the row is known
                for other, hidden, made in zip(self.moved, self.others, moved, strict=True):
                    hidden[h] = hidden[h] + (row - made) / dict(terms_of(other, k))[Term("y", h)]
                self.slack[h] = rounding / abs(w) - self.slack[h]
                found = replace(found, stage=h, row=self.known[h], right=was, size=size / abs(w))
                unseen.discard(h)
            if self.shown and not found.error <= found.bound and self.table.evaluated[k] and found.stage == k:
                factor = float(row @ right / (right @ right))
                if np.abs(row - factor * right).max() <= 4 * found.bound * size:
                    found.factor = factor
            self.known[k] = row if found.factor is None else right
            yield found

    def _turn_normals(self, k: int) -> None:
        """A normal that is used for the first time has the sign that it has here."""
        row = self.rows.get(k)
        for term, w in terms_of(self.table, k):
            if term.kind == "z" and term.index not in self.signs and row is not None:
                self.signs[term.index] = -1.0 if row[self.places[term]] * w < 0 else 1.0

    # ------------------------------------------------------------------ what is said of them

    def steps(self, words: Words) -> Iterator[Step]:
        """The stages as steps; what makes a wrong one is looked for when it is asked for."""
        for f in self.found:
            seen, row, right = f.seen
            step = Step(f.stage, f.error, f.bound, words, row, right, seen, f.factor)
            if step.wrong and f.factor is None:
                step = replace(step, explained=partial(self._explained, f), likened=self._like)
            yield step

    def _explained(self, f: Found) -> Explanation | None:
        languages = []
        for prediction in dict.fromkeys((self.table.prediction, self.prediction, "noise", "denoiser")):
            try:
                table = to_prediction(self.table, prediction)
                earlier = [t for t in (*self.places, *(Term("y", j) for j in self.known))
                           if t.kind == "z" or t.index < f.stage]  # fmt: skip
                vectors = {t: self.vector(t, table) for t in earlier}
            except ValueError:  # no such prediction at one of the stages
                continue
            claimed = dict(terms_of(table, f.stage)) if f.stage else {Term("y", 0): 1.0}
            languages.append(Language(prediction, claimed, {**vectors, **({Term("y", 0): self.unit[0]})}))
        allowed = max(4 * f.bound, 1e-3 * f.error) * f.size  # what may stay unexplained of an error that is larger
        return explain(f.row - f.right, languages, allowed)

    def _like(self, step: Step) -> Iterator[tuple[Term, int]]:
        """Weights that are another step's."""
        if step.explanation is None:
            return
        table = to_prediction(self.table, step.explanation.prediction)
        for term, right, weight in step.off:
            near = sorted(range(1, table.stages), key=lambda k: abs(k - step.stage))
            for k in near[1:]:
                other = dict(terms_of(table, k)).get(Term(term.kind, term.index + k - step.stage))
                if other is not None and abs(other - weight) <= 4 * step.bound * max(abs(weight), 1) < abs(
                    right - weight
                ):
                    yield term, step.words.number(k)
                    break
