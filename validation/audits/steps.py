r"""A sampler read step by step against the table that it claims to be.

Impulses show the weights of (start, outputs, normals) in every state that a sampler asks its network about, and in its
output: rows Y_k. The claimed table says

    Y_k = sum_i states[k, i] Y_{k-1-i} + sum_i outputs[k, i] e(o_{k-1-i}) + sum_i noise[k, i] e(z_{...})

With the Y's that the sampler really has on the right, what is left over is the error of step k alone: an error of an
earlier step does not show again. Stages that the table does not evaluate are not seen, and are made from the seen ones
as the table says. A step that is off is explained by the weights that it would have to have: those of the same terms
if they suffice, else the terms that it should not have.

Normals are compared up to their signs, which no law knows, and those of weight zero everywhere are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.predictions import weights
from refdiff.samplers import Tableau
from refdiff.samplers.impulse import Heard, listen
from refdiff.schedules import Coefficients
from refdiff.validation.audits.subject import Claim, Sampler

# Roundings of a coefficient beyond those that the perturbed grids show: a dozen operations of a step, each half a unit.
OPERATIONS = 16
# Grids that are off by one rounding of every level, up or down at random: the largest change over so many of them is
# a sixth of the worst possible one or more, but for one case in a thousand.
PERTURBED, WORST = 6, 6.0


class Term(NamedTuple):
    """A term of a step: of an earlier stage ("y"), an output ("o") or a normal ("z"), and its number."""

    kind: str
    index: int

    def __str__(self) -> str:
        names = {"y": "the state of stage", "o": "the model's output at stage", "z": "normal"}
        return f"{names[self.kind]} {self.index}"


@dataclass(frozen=True)
class Step:
    """A step of the sampler beside the claimed one.

    Attributes:
        stage: of the table; stage 0 is the start.
        error: what is left over, and `bound`, what rounding may leave, relative to the largest weight of the step.
        weights: each term with the claimed weight and the one that the sampler has (NaN where no weights of these
            terms make the step).
        extra: terms that the claimed step does not have, with the sampler's weights.
        row, right: the weights of (start, outputs, normals) in the sampler's state after this step, and what the claimed
            step makes of the sampler's own earlier states.
    """

    stage: int
    error: float
    bound: float
    weights: tuple[tuple[Term, float, float], ...]
    extra: tuple[tuple[Term, float], ...] = ()
    row: Array = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)
    right: Array = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)

    @property
    def wrong(self) -> bool:
        """Whether more is left over than rounding leaves."""
        return not self.error <= self.bound

    def __str__(self) -> str:
        if not self.wrong:
            return f"stage {self.stage} is right"
        off = sorted(self.weights, key=lambda w: -abs(w[1] - w[2]))
        said = [f"the weight of {term} is {found:.8g}, should be {right:.8g}{_ratio(found, right)}"
                for term, right, found in off[:2] if abs(found - right) > self.bound * max(1.0, abs(right))]  # fmt: skip
        said += [f"it has {weight:.8g} of {term}, which the method does not use" for term, weight in self.extra[:2]]
        return f"stage {self.stage}: " + ("; ".join(said) or "no weights of the method's terms make this step")


def _ratio(found: float, right: float) -> str:
    """What the weight was multiplied by, where that is a simple number."""
    if right == 0 or not np.isfinite(found):
        return ""
    for name, value in {"half of it": 0.5, "twice of it": 2.0, "minus it": -1.0, "left out": 0.0}.items():
        if abs(found / right - value) < 1e-4:
            return f" ({name})"
    return ""


class Mismatch(ValueError):
    """The sampler has not the evaluations or normals of the table, so that steps cannot be matched."""


@dataclass(frozen=True)
class Comparison:
    """All steps, and what the sampler showed and told its network."""

    heard: Heard
    table: Tableau
    steps: tuple[Step, ...]

    @property
    def wrong(self) -> tuple[Step, ...]:
        """The steps that are off."""
        return tuple(step for step in self.steps if step.wrong)


def compare(sampler: Sampler, claim: Claim | None = None) -> Comparison:
    """Read a sampler and compare its steps with its claim's.

    Raises:
        NotLinear: the sampler is no table.
        Mismatch: it has another number of evaluations or of normals than its claim.
    """
    claim = sampler.claim if claim is None else claim
    if claim is None:
        raise ValueError(f"{sampler.name} must claim a table to be compared with it")
    heard = listen(sampler.play, tolerance=1e4 * sampler.eps)
    table = claim.table()
    rows, normals = _rows(heard, claim, table)
    moved = [claim.table(grid) for grid in _perturbed(claim, sampler.eps)]
    return Comparison(heard, table, tuple(_steps(table, moved, rows, normals, claim.prediction, sampler.eps)))


def _perturbed(claim: Claim, eps: float) -> Iterator[Array]:
    """The grid with what every time is made from off by a rounding; the ends stay."""
    rng = np.random.default_rng(0)
    for _ in range(PERTURBED):
        yield claim.moved(claim.grid, eps * rng.choice([-1.0, 1.0], len(claim.grid)))


def _rows(heard: Heard, claim: Claim, table: Tableau) -> tuple[dict[int, Array], list[int]]:
    """The row of every stage that is seen, and which of the table's normals the columns of normals are."""
    nfe, at = len(heard.times), np.flatnonzero(table.evaluated)
    if nfe != len(at):
        raise Mismatch(f"the sampler asks its network {nfe} times, the method {len(at)} times")
    rows = heard.rows.copy()
    rows[:-1] /= claim.scales(table)[:, None]
    noise = rows[:, 1 + nfe :]
    used = np.flatnonzero(np.abs(noise).max(axis=0, initial=0.0) > 0)
    theirs = sorted({m for k in range(table.stages) for m, w in table.row(k)[2] if np.any(w)})
    if len(used) != len(theirs):
        raise Mismatch(f"the sampler adds {len(used)} normals, the method {len(theirs)}")
    rows = np.concatenate([rows[:, : 1 + nfe], noise[:, used]], axis=1)
    return dict(zip([*at.tolist(), table.stages - 1], rows, strict=True)), theirs


def _turned(table: Tableau, stage: int, prediction: str) -> tuple[float, float]:
    """(a, b): the output of the table's prediction is a y + b times the answer that the sampler gets at this stage."""
    c = Coefficients(*(part[stage] for part in table.coefficients))
    of_x, of_answer = weights(c, prediction, table.prediction)
    return float(of_x * table.scale[stage]), float(of_answer)


def _steps(
    table: Tableau, moved: list[Tableau], rows: dict[int, Array], normals: list[int], prediction: str, eps: float
) -> Iterator[Step]:
    at = np.flatnonzero(table.evaluated).tolist()
    width = 1 + len(at) + len(normals)
    places = {Term("o", stage): 1 + i for i, stage in enumerate(at)}
    places |= {Term("z", m): 1 + len(at) + i for i, m in enumerate(normals)}
    unit = np.eye(width)
    known = {0: unit[0]}
    signs: dict[int, float] = {}
    turned = {j: _turned(table, j, prediction) for j in at}

    def vector(term: Term) -> Array:
        if term.kind == "y":
            return known[term.index]
        if term.kind == "z":
            return unit[places[term]] * signs.get(term.index, 1.0)
        of_x, of_answer = turned[term.index]
        return of_x * known[term.index] + of_answer * unit[places[term]]

    def made(source: Tableau, k: int) -> Array:
        return sum((w * vector(term) for term, w in _terms(source, k)), np.zeros(width))

    for k in range(1, table.stages):
        if k in rows:
            for term, w in _terms(table, k):  # a normal that is used for the first time has the sign that it has here
                if term.kind == "z" and term.index not in signs:
                    signs[term.index] = -1.0 if rows[k][places[term]] * w < 0 else 1.0
        right = made(table, k)
        if k not in rows:
            known[k] = right
            continue
        known[k] = rows[k]
        size = max(float(np.abs(rows[k]).max()), float(np.abs(right).max()))
        terms = sum((np.abs(w * vector(term)) for term, w in _terms(table, k)), np.zeros(width))
        drift = max((float(np.abs(made(other, k) - right).max()) for other in moved), default=0.0)
        bound = WORST * drift + OPERATIONS * eps * float(terms.max())
        error = float(np.abs(rows[k] - right).max())
        claimed = tuple((t, w, w) for t, w in _terms(table, k))
        step = Step(k, error / size, bound / size, claimed, row=rows[k], right=right)
        earlier = [t for t in (*places, *(Term("y", j) for j in known)) if t.kind == "z" or t.index < k]
        yield _explained(step, rows[k], {t: vector(t) for t in earlier}, size)


def _terms(table: Tableau, k: int) -> list[tuple[Term, float]]:
    return [
        (Term(kind, index), float(np.ravel(weight)[0]))
        for kind, found in zip("yoz", table.row(k), strict=True)
        for index, weight in found
    ]


def _explained(step: Step, row: Array, vectors: dict[Term, Array], size: float) -> Step:
    """The weights that a step which is off has: other weights of as few terms as make it."""
    if not step.wrong:
        return step
    claimed = {t: w for t, w, _ in step.weights}
    left = row - sum((w * vectors[t] for t, w in claimed.items()), np.zeros_like(row))
    allowed = max(4 * step.bound, 1e-3 * step.error) * size  # what may stay unexplained of an error that is larger
    for kinds in ("o", "z", "y", "oz", "oyz"):
        terms = [t for t in claimed if t.kind in kinds]
        if terms and (found := _weights(left, [vectors[t] for t in terms], allowed)) is not None:
            new = claimed | {t: claimed[t] + f for t, f in zip(terms, found, strict=True)}
            return replace(step, weights=tuple((t, w, new[t]) for t, w in claimed.items()))
    # terms that the method does not have: outputs and normals first, then states, the fewest that do
    others = [t for t in vectors if t not in claimed and (t.kind != "y" or t.index == 0)]
    terms = [*claimed, *others]
    found = np.linalg.lstsq(np.stack([vectors[t] for t in terms], axis=1), left)[0]
    new = {t: claimed.get(t, 0.0) + float(f) for t, f in zip(terms, found, strict=True)}
    extra = sorted(((t, new[t]) for t in others if abs(new[t]) > allowed), key=lambda e: -abs(e[1]))
    return replace(step, weights=tuple((t, w, new[t]) for t, w in claimed.items()), extra=tuple(extra))


def _weights(left: Array, vectors: list[Array], allowed: float) -> list[float] | None:
    """Weights with which the vectors make what is left, or None."""
    basis = np.stack(vectors, axis=1)
    found = np.linalg.lstsq(basis, left)[0]
    return found.tolist() if np.abs(basis @ found - left).max() <= allowed else None
