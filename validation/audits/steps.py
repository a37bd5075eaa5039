r"""A sampler read step by step against the table that it claims to be.

Impulses show the weights of (start, answers, normals) in every state that a sampler asks its network about, and in its
output: rows Y_k. The claimed table says

    Y_k = sum_i states[k, i] Y_{k-1-i} + sum_i outputs[k, i] e(o_{k-1-i}) + sum_i noise[k, i] e(z_{...})

With the Y's that the sampler really has on the right, what is left over is the error of step k alone: an error of an
earlier step does not show again. Two things cannot be seen, and are read both ways:

    a stage that is never evaluated   as the table makes it, or as the next seen stage needs it to be
    a state that is off by a factor   is so itself, or is only shown to the network so

Of these readings the one with the fewest wrong steps is taken. Normals are compared up to their signs, which no law
knows, and those of weight zero everywhere are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import Tableau, to_prediction
from refdiff.samplers.impulse import Heard, listen
from refdiff.validation.audits.explained import Explanation, Language, explain, ratio
from refdiff.validation.audits.matching import Drawn, aligned, rotation
from refdiff.validation.audits.matching import Mismatch as Mismatch
from refdiff.validation.audits.subject import Claim, Sampler
from refdiff.validation.audits.terms import Term, terms_of, turned
from refdiff.validation.audits.words import Words

# Roundings of a coefficient beyond those that the perturbed grids show: a dozen operations of a step, each half a unit.
OPERATIONS = 16
# Grids that are off by one rounding of every level, up or down at random: the largest change over so many of them is
# a sixth of the worst possible one or more, but for one case in a thousand.
PERTURBED, WORST = 6, 6.0
EXPLAINED = 4  # wrong steps whose weights are looked for; the others are of the same kind


@dataclass(frozen=True)
class Step:
    """A step of the sampler beside the claimed one.

    Attributes:
        stage: of the table; stage 0 is the start.
        error: what is left over, and `bound`, what rounding may leave, relative to the largest weight of the step.
        factor: what the state shown to the network was multiplied by, where that is all that is wrong; else None.
        explanation: the weights that it has; None where it is right, or no weights make it.
        words: how terms are called.
        row, right: the weights of (start, answers, normals as in `Comparison.drawn`) in what is seen of this step, at
            the stage `seen`, and what the claimed step makes of the sampler's own earlier states.
        like: for a term that is off, the step whose weight it has in place of its own.
    """

    stage: int
    error: float
    bound: float
    words: Words
    row: Array = field(compare=False, repr=False)
    right: Array = field(compare=False, repr=False)
    seen: int
    factor: float | None = None
    explanation: Explanation | None = None
    like: tuple[tuple[Term, int], ...] = ()

    @property
    def wrong(self) -> bool:
        """Whether more is left over than rounding leaves."""
        return not self.error <= self.bound

    @property
    def off(self) -> tuple[tuple[Term, float, float], ...]:
        """The terms that are off, the worst first: (term, right, found); what should not be there has right = 0."""
        if self.explanation is None:
            return ()
        terms = [*self.explanation.weights, *((t, 0.0, w) for t, w in self.explanation.extra)]
        wrong = [w for w in terms if abs(w[1] - w[2]) > max(self.bound, 1e-3 * self.error) * max(1.0, abs(w[1]))]
        return tuple(sorted(wrong, key=lambda w: -abs(w[1] - w[2])))

    @property
    def number(self) -> int:
        """The step of the grid, counted from 1; 0 for the start."""
        return self.words.number(self.stage, self.off[0][0] if self.off else None)

    @property
    def place(self) -> str:
        """The same in words, with the noise level and the evaluation that it is shown to."""
        return self.words.place(self.stage, self.off[0][0] if self.off else None)

    def __str__(self) -> str:
        if not self.wrong:
            return f"{self.place}: right"
        if self.factor is not None:
            return f"{self.place}: the network is shown {self.factor:.8g} times what it should see"
        said = [self._said(*found) for found in self.off[:3]]
        return f"{self.place}: " + (
            "; ".join(said) or f"off by {self.error:.3g}, whatever the weights of its terms are"
        )

    def _said(self, term: Term, right: float, found: float) -> str:
        assert self.explanation is not None
        name = self.words.term(term, self.explanation.prediction)
        if all(term != t for t, _, _ in self.explanation.weights):
            return f"it has {found:.8g} of {name}, which the method does not use there"
        like = {t: f" (the weight of step {n})" for t, n in self.like}.get(term, "")
        return f"the weight of {name} is {found:.8g}, should be {right:.8g}{ratio(found, right) or like}"


@dataclass(frozen=True)
class Comparison:
    """All steps, what the sampler showed and told its network, and the tables of grids that are off by a rounding.

    `rotation` turns the sampler's normals into the table's, where they are other combinations of them.
    """

    heard: Heard
    table: Tableau
    steps: tuple[Step, ...]
    drawn: tuple[Drawn, ...]
    words: Words
    moved: tuple[Tableau, ...]
    rotation: Array | None = None

    @property
    def wrong(self) -> tuple[Step, ...]:
        """The steps that are off."""
        return tuple(step for step in self.steps if step.wrong)


def compare(sampler: Sampler, claim: Claim | None = None) -> Comparison:
    """Read a sampler and compare its steps with its claim's.

    Raises:
        NotLinear: the sampler is no table.
        Mismatch: it has another number of evaluations than its claim.
    """
    claim = sampler.claim if claim is None else claim
    if claim is None:
        raise ValueError(f"{sampler.name} must claim a table to be compared with it")
    heard = listen(sampler.play, tolerance=1e4 * sampler.eps)
    table = claim.table()
    words = Words(table, claim.grid, claim.table)
    rows, columns = aligned(heard, claim, table, words, sampler)
    moved = [other for grid in perturbed(claim, sampler.eps) if _alike(other := claim.table(grid), table)]
    first = _Reading(table, moved, rows, columns, claim.prediction, sampler.eps)
    readings = [first]
    if first.wrong:  # a state that is never seen, or only shown, may be what is wrong
        hidden = [False, True] if len(rows) < table.stages else [False]
        readings += [replace(first, synced=s, shown=f) for s, f in list(product(hidden, [True, False])) if s or f]
    best = min(readings, key=lambda r: (len(r.wrong), -sum(f.factor is not None for f in r.found)))
    turn = None
    if first.wrong and columns:  # its normals may be other combinations of the table's
        rotated, turn = _rotated(first, heard.draws)
        best = best if turn is None else rotated
    return Comparison(heard, table, tuple(best.steps(words)), tuple(best.drawn), words, tuple(moved), turn)


def _rotated(first: _Reading, draws: int) -> tuple[_Reading, Array | None]:
    """The sampler with its normals rotated to the table's, and the rotation; None where that does not make it right."""
    table, rows, nfe = first.table, first.rows, int(first.table.evaluated.sum())
    names = [Drawn(None, m, 1.0) for m in range(table.draws)]
    claimed = replace(first, moved=[], rows={}, drawn=names).known
    found, right = (np.array([of[k][1 + nfe :] for k in rows]) for of in (rows, claimed))
    turn = rotation(found, right)
    turned_rows = {k: np.concatenate([row[: 1 + nfe], row[1 + nfe :] @ turn]) for k, row in rows.items()}
    reading = replace(first, rows=turned_rows, drawn=names)
    lost = np.abs(found - found @ turn @ turn.T).max()
    if reading.wrong or lost > OPERATIONS * len(rows) * first.eps * np.abs(found).max():
        return reading, None
    whole = np.zeros((draws, table.draws))
    for column, part in zip(first.drawn, turn, strict=True):
        if column.heard is not None:
            whole[column.heard] = part
    return reading, whole


def perturbed(claim: Claim, eps: float) -> Iterator[Array]:
    """The grid with what every time is made from off by a rounding; ends without noise and without signal stay."""
    rng = np.random.default_rng(0)
    grid, final = claim.grid, claim.process.T
    fixed = (grid == 0) | (claim.process.coefficients(grid).alpha == 0)
    for _ in range(PERTURBED):
        moved = claim.moved(grid, eps * rng.choice([-1.0, 1.0], len(grid)))
        # what a claim puts into further rows are roundings of its own, and no times
        times = np.where(fixed, grid, np.minimum(moved if moved.ndim == 1 else moved[0], final))
        yield times if moved.ndim == 1 else np.stack([times, *moved[1:]])


def _alike(one: Tableau, other: Tableau) -> bool:
    """Whether two tables have the same stages: a rounding may decide whether a level is within a range."""
    return one.stages == other.stages and bool((one.evaluated == other.evaluated).all()) and one.draws == other.draws


# ---------------------------------------------------------------------- one step at a time


@dataclass
class _Found:
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
class _Reading:
    """All stages, under one reading of what cannot be seen."""

    table: Tableau
    moved: list[Tableau]
    rows: dict[int, Array]
    drawn: list[Drawn]
    prediction: str
    eps: float
    synced: bool = False
    shown: bool = False
    found: list[_Found] = field(init=False)

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
    def wrong(self) -> list[_Found]:
        """The stages that are off."""
        return [f for f in self.found if not f.error <= f.bound]

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

    def _walk(self) -> Iterator[_Found]:
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
            found = _Found(k, row, right, size, error / size, bound / size, (k, row, right))
            through = [(t.index, w) for t, w in terms if t.kind == "y" and t.index in unseen]
            if self.synced and through:  # the newest hidden stage is what this one needs it to be
                h, w = max(through)
                was = self.known[h]
                self.known[h] = was + (row - right) / w
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
        """The stages as steps, the first wrong ones explained."""
        explained = [f.stage for f in self.wrong if f.factor is None][:EXPLAINED]
        for f in self.found:
            k = f.stage
            seen, row, right = f.seen
            step = Step(k, f.error, f.bound, words, row, right, seen, f.factor)
            if k in explained:
                step = replace(step, explanation=self._explained(f))
                step = replace(step, like=tuple(self._like(step)))
            yield step

    def _explained(self, f: _Found) -> Explanation | None:
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
