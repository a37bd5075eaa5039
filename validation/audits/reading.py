r"""What several checks ask of a subject at one number of steps, done once: the sampler, and how it compares."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import NotLinear, Tableau
from refdiff.samplers.impulse import Heard
from refdiff.validation.audits.findings import Verdict
from refdiff.validation.audits.rounding import OPERATIONS, WORST
from refdiff.validation.audits.rows import Rows, claimed, rehearsed
from refdiff.validation.audits.rows import heard as heard_rows
from refdiff.validation.audits.steps import Comparison, Mismatch, compare, hear
from refdiff.validation.audits.subject import Claim, Sampler, Subject, Variant
from refdiff.validation.audits.told import Told, told

STEPS, QUICK = (1, 2, 3, 5, 10, 20), (5,)
FEW, FEW_QUICK = (5, 20), (5,)  # for questions about whole runs


@dataclass(frozen=True)
class Read:
    """A sampler that could be read.

    Attributes:
        sampler, claim: the foreign sampler, and what it should be; the known choice that it makes, if it makes one.
        comparison: the two step by step.
        first: the comparison with the sampler's own claim, where it makes a known choice or slip; None where the two
            have not the same evaluations.
        variant: the known choice or slip that it makes, if any.
    """

    sampler: Sampler
    claim: Claim
    comparison: Comparison
    first: Comparison | None
    variant: Variant | None = None

    @property
    def table(self) -> Tableau:
        """The claimed table."""
        return self.comparison.table

    @cached_property
    def mine(self) -> Rows:
        """The claimed table as rows."""
        return claimed(self.claim, self.table)

    @cached_property
    def theirs(self) -> Rows:
        """The foreign sampler as rows."""
        return heard_rows(self.comparison, self.claim)

    @cached_property
    def rehearsals(self) -> tuple[Rows, ...]:
        """The claimed table as arithmetic of the sampler's precision may make it."""
        return tuple(rehearsed(self.claim, self.comparison.moved, self.sampler.eps))

    @cached_property
    def told(self) -> Told | None:
        """What the network is told; None where nothing says what times mean.

        Raises:
            ValueError: as by `told.told`.
        """
        return told(self.sampler, self.claim, self.comparison)

    def allowed(self, numbers: Callable[[Rows], Array]) -> Array:
        """What rounding may do to numbers that are made of rows, one bound for each."""
        right = numbers(self.mine)
        changes = [np.abs(numbers(rows) - right) for rows in self.rehearsals]
        return np.asarray(
            WORST * np.max(changes, axis=0, initial=0.0) + OPERATIONS * self.sampler.eps * (1 + np.abs(right))
        )


class Unreadable(ValueError):
    """There is nothing to compare, and why; `defect` where that is the sampler's fault."""

    def __init__(self, why: str, *, defect: bool = False) -> None:
        super().__init__(why)
        self.defect = defect


def read(subject: Subject, steps: int) -> Read:
    """The sampler of so many steps beside its claim.

    Raises:
        Unreadable: it breaks, claims nothing, is not linear or has not the evaluations of its claim.
    """
    if steps not in subject.memory:
        try:
            subject.memory[steps] = _read(subject, steps)
        except Unreadable as why:
            subject.memory[steps] = why
    found: Read | Unreadable = subject.memory[steps]
    if isinstance(found, Unreadable):
        raise found
    return found


def _read(subject: Subject, steps: int) -> Read:
    try:
        sampler = subject.build(steps)
        heard = None if sampler.claim is None else hear(sampler)
    except NotLinear as error:
        raise Unreadable(str(error)) from error
    except (Exception, SystemExit) as error:  # whatever the foreign code raises
        raise Unreadable(f"{type(error).__name__}: {error}", defect=True) from error
    if sampler.claim is None or heard is None:
        raise Unreadable("nothing is claimed: name a family")
    try:
        return _compared(sampler, sampler.claim, heard)
    except Mismatch as error:
        raise Unreadable(str(error), defect=True) from error
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if _refused(error):  # the grid is the sampler's, and no method has steps on it
            raise Unreadable(said, defect=True) from error
        raise Unreadable(f"refdiff's claim breaks, which says nothing: {said}") from error


def _refused(error: Exception) -> bool:
    """Whether a method says by a `raise` of its own that it has no such grid; what else breaks is refdiff's fault."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ValueError) and "raise " in linecache.getline(frame.f_code.co_filename, line)


def _compared(sampler: Sampler, claim: Claim, heard: Heard) -> Read:
    """The sampler beside its claim, or beside the known choice that explains all that is wrong.

    Raises:
        Mismatch: as by `compare`, where no variant explains it.
    """
    mismatch, first = Mismatch(), None
    try:
        first = compare(sampler, claim, heard)
    except Mismatch as error:
        mismatch = error
    if first is not None and not first.wrong:
        return Read(sampler, claim, first, first)
    for variant in claim.variants:
        made = replace(claim, build=variant.build)
        try:
            found = compare(sampler, made, heard)
        except Mismatch:
            continue
        if not found.wrong:
            slip = variant.verdict is Verdict.WRONG
            taken = (claim, first) if slip and first is not None else (made, found)
            return Read(sampler, *taken, first, variant)
    if first is None:
        raise mismatch
    return Read(sampler, claim, first, first)


def counts(subject: Subject, quick: bool, many: tuple[int, ...], few: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of steps to try: those that the subject is meant for, or these."""
    return subject.steps or (few if quick else many)
