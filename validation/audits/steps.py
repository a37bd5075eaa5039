r"""A sampler read step by step against the table that it claims to be.

Impulses show the weights of (start, answers, normals) in every state that a sampler asks its network about, and in its
output: rows Y_k. The claimed table says

    Y_k = sum_i states[k, i] Y_{k-1-i} + sum_i outputs[k, i] e(o_{k-1-i}) + sum_i noise[k, i] e(z_{...})

With the Y's that the sampler really has on the right, what is left over is the error of step k alone: an error of an
earlier step does not show again. Two things cannot be seen, and are read both ways:

    a stage that is never evaluated   as the table makes it, or as the next seen stage needs it to be
    a state that is off by a factor   is so itself, or is only shown to the network so

Of these readings the one with the fewest wrong steps is taken; of several, one whose first wrong step has the fewest
terms that the method does not use there, and of those one that finds it in a stage that is never evaluated. Normals are
compared up to their signs, which no law knows, and those of weight zero everywhere are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import Tableau
from refdiff.samplers.impulse import Heard, listen
from refdiff.validation.audits.matching import Drawn, aligned, rotation
from refdiff.validation.audits.matching import Mismatch as Mismatch
from refdiff.validation.audits.rounding import OPERATIONS, PERTURBED
from refdiff.validation.audits.step import Step
from refdiff.validation.audits.subject import Claim, Sampler
from refdiff.validation.audits.walk import Reading
from refdiff.validation.audits.words import Words


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


def hear(sampler: Sampler) -> Heard:
    """What impulses show of a sampler, in its own precision.

    Raises:
        NotLinear: the sampler is no table.
    """
    return listen(sampler.play, tolerance=1e4 * sampler.eps)


def compare(sampler: Sampler, claim: Claim | None = None, heard: Heard | None = None) -> Comparison:
    """Read a sampler and compare its steps with its claim's.

    Args:
        sampler: the foreign one.
        claim: what it is compared with; its own where none is given.
        heard: what `hear` shows of it, where that is known already.

    Raises:
        NotLinear: the sampler is no table.
        Mismatch: it has another number of evaluations than its claim.
        ValueError: nothing is claimed.
    """
    claim = sampler.claim if claim is None else claim
    if claim is None:
        raise ValueError(f"{sampler.name} must claim a table to be compared with it")
    heard = hear(sampler) if heard is None else heard
    table = claim.table()
    words = Words(table, claim.grid, claim.table)
    rows, columns = aligned(heard, claim, table, words, sampler)
    moved = [other for grid in perturbed(claim, sampler.eps) if _alike(other := claim.table(grid), table)]
    first = Reading(table, moved, rows, columns, claim.prediction, sampler.eps)
    readings = [first]
    if first.wrong:  # a state that is never seen, or only shown, may be what is wrong
        hidden = [False, True] if len(rows) < table.stages else [False]
        readings += [replace(first, synced=s, shown=f) for s, f in list(product(hidden, [True, False])) if s or f]
    least = min((len(r.wrong), -r.factors) for r in readings)
    best = min((r for r in readings if (len(r.wrong), -r.factors) == least), key=lambda r: (r.foreign, not r.synced))
    turn = None
    if first.wrong and columns:  # its normals may be other combinations of the table's
        rotated, turn = _rotated(first, heard.draws)
        best = best if turn is None else rotated
    return Comparison(heard, table, tuple(best.steps(words)), tuple(best.drawn), words, tuple(moved), turn)


def _rotated(first: Reading, draws: int) -> tuple[Reading, Array | None]:
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
