r"""Which evaluation and which normal of a foreign sampler is which of its claimed table.

Evaluations are matched by their order. Normals are paired where they are first used, stage by stage; where that does
not make the two alike, by the rotation Q that brings the sampler's normals nearest to the table's,

    min |F Q - C|,   F, C the weights of the normals in everything that is seen,   Q = U V' for F'C = U S V'

Unit normals that are rotated are unit normals: if F F' = C C', the laws are the same, and F Q = C.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import Tableau
from refdiff.samplers.impulse import Heard
from refdiff.validation.audits.subject import Claim, Sampler
from refdiff.validation.audits.words import Words


class Mismatch(ValueError):
    """The sampler has not the evaluations of the table, so that steps cannot be matched."""


class Drawn(NamedTuple):
    """A normal of the sampler and the normal of the table that it is (None where the other has none), and its sign."""

    heard: int | None
    table: int | None
    sign: float


def aligned(
    heard: Heard, claim: Claim, table: Tableau, words: Words, sampler: Sampler
) -> tuple[dict[int, Array], list[Drawn]]:
    """The row of every stage that is seen, normals in the order of `Drawn`, which pairs those first used at one stage.

    Raises:
        Mismatch: another number of evaluations.
    """
    nfe, at = len(heard.times), np.flatnonzero(table.evaluated)
    if nfe != len(at):
        raise Mismatch(f"the sampler asks its network {nfe} times, the method {len(at)} times"
                       + _first_other(heard, claim, table, words, sampler))  # fmt: skip
    rows = heard.rows.copy()
    rows[:-1] /= claim.scales(table)[:, None]
    seen = [*at.tolist(), table.stages - 1]
    noise = rows[:, 1 + nfe :]
    columns: list[Drawn] = []
    used: set[int] = set()
    for k, row in zip(seen, noise, strict=True):
        theirs = [m for m in np.flatnonzero(row).tolist() if all(m != c.heard for c in columns)]
        ours = sorted({m for j in range(k + 1) for m, w in table.row(j)[2] if np.any(w)} - used)
        used |= set(ours)
        both = max(len(theirs), len(ours))
        padded = ([*x, *[None] * (both - len(x))] for x in (theirs, ours))
        columns += [Drawn(h, t, 1.0) for h, t in zip(*padded, strict=True)]
    empty = np.zeros(len(rows))
    part = [empty if c.heard is None else noise[:, c.heard] for c in columns]
    rows = np.concatenate([rows[:, : 1 + nfe], np.reshape(part, (len(part), len(rows))).T], axis=1)
    return dict(zip(seen, rows, strict=True)), columns


def _first_other(heard: Heard, claim: Claim, table: Tableau, words: Words, sampler: Sampler) -> str:
    """The first evaluation at another level than the method's, where the sampler's times can be read."""
    if sampler.told is None:
        return ""
    levels = words.levels[table.evaluated]
    for number, (t, level) in enumerate(zip(heard.times, levels, strict=False), start=1):
        c = (sampler.trained or claim.process).coefficients(sampler.told(t))
        told = float(c.sigma / c.alpha)
        if abs(told - level) > 1e-3 * level:
            step = words.number(int(np.flatnonzero(table.evaluated)[number - 1]) + 1)
            return f": evaluation {number} is at noise level {told:.5g}, the method's (in step {step}) at {level:.5g}"
    return ""


def rotation(found: Array, claimed: Array) -> Array:
    """Q, shape (normals of the sampler, normals of the table), of orthonormal columns or rows."""
    u, _, v = np.linalg.svd(found.T @ claimed, full_matrices=False)
    return np.asarray(u @ v)
