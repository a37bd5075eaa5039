r"""Every coefficient of every step against the claimed table, read from impulses, and the level told with each state.

A network hears its noise level only through what it is told. The level of a told time is compared, as log sigma/alpha,
with that of the claimed table's stage; a design that rounds times may be off by as much as it rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, judged, not_applicable
from refdiff.validation.audits.reading import QUICK, STEPS, Read, Unreadable, counts, read
from refdiff.validation.audits.scripts import exception, impulse
from refdiff.validation.audits.steps import OPERATIONS, WORST, Comparison, Mismatch
from refdiff.validation.audits.subject import Sampler, Subject

QUESTION = "coefficients"
RULE = (
    "16 roundings of the sampler's number type in the largest term of a step, and 6 times the largest change of the "
    "step over 6 grids that are off by one rounding"
)
TOLD = "told level"
TOLD_RULE = (
    "the change of log sigma/alpha over 16 roundings of the time that is passed, and 6 times the largest change over 6 "
    "grids that are off by one rounding"
)


def coefficients(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Steps of several grids, each step by itself."""
    for steps in counts(subject, quick, STEPS, QUICK):
        place = f"{steps} steps"
        try:
            found = read(subject, steps)
        except Unreadable as why:
            if why.defect:
                script = _raising(subject, steps, why)
                yield Finding(subject.name, QUESTION, Verdict.WRONG, f"{place}: {why}", place=place, script=script)
            else:
                yield not_applicable(subject.name, QUESTION, f"{place}: {why}")
            continue
        yield _compared(subject.name, found, place)


def _raising(subject: Subject, steps: int, why: Unreadable) -> str:
    if not isinstance(why.__cause__, Exception) or isinstance(why.__cause__, Mismatch):
        return ""
    try:
        return exception(subject.build(steps).script, why.__cause__)
    except Exception:  # it cannot even be made
        return ""


def _compared(name: str, found: Read, place: str) -> Finding:
    sampler, known = found.sampler, found.variant
    if found.first is None:  # another number of evaluations, by a known slip or choice
        assert known is not None
        return Finding(name, QUESTION, known.verdict, f"{place}: it {known.name}", place=place, script=sampler.script)
    comparison = found.first
    worst = max(comparison.steps, key=lambda step: step.error / step.bound)
    finding = judged(
        name,
        QUESTION,
        worst.error,
        worst.bound,
        f"{place}: {_said(comparison)}",
        rule=RULE,
        place=place,
        script=impulse(sampler, comparison) if comparison.wrong else "",
        steps=[(step.stage, step.error, step.bound) for step in comparison.steps],
    )
    if known is None:
        return finding
    return replace(finding, verdict=known.verdict, text=f"{place}: it {known.name}; {_said(comparison)}")


def _said(comparison: Comparison) -> str:
    wrong = comparison.wrong
    if not wrong:
        return f"all {len(comparison.steps)} stages are right"
    return f"{len(wrong)} of {len(comparison.steps)} stages are off; {wrong[0]}"


# ---------------------------------------------------------------------- what a network is told


class Told(NamedTuple):
    """What the network is told with each evaluation, as log sigma/alpha.

    Attributes:
        told, right: of the time passed, and of the claimed stage.
        bound: what rounding may do to the difference.
        design: what the sampler's own rounding of times may do.
    """

    told: Array
    right: Array
    bound: Array
    design: Array

    @property
    def off(self) -> Array:
        """The differences, 0 where both are pure noise: of infinite level, or, by a rounding, of a negative alpha."""
        pure = ~(self.told < np.inf) & ~(self.right < np.inf)
        same = pure | (self.told == self.right)  # both without noise: -inf
        with np.errstate(invalid="ignore"):
            return np.where(same, 0.0, np.abs(self.told - self.right))

    @property
    def verdict(self) -> Verdict:
        """ok within rounding, a convention within the rounding of times."""
        if (self.off <= self.bound).all():
            return Verdict.OK
        return Verdict.CONVENTION if (self.off <= self.bound + self.design).all() else Verdict.WRONG


def told_levels(subject: Subject, quick: bool) -> Iterator[Finding]:
    """What each evaluation is told, against the level of its state."""
    for steps in counts(subject, quick, STEPS, QUICK):
        place = f"{steps} steps"
        try:
            found = read(subject, steps)
        except Unreadable as why:
            yield not_applicable(subject.name, TOLD, f"{place}: {why}")
            continue
        try:
            levels = told(found)
        except ValueError as why:  # it tells what is no time of its process
            yield Finding(
                subject.name, TOLD, Verdict.WRONG, f"{place}: {why}", place=place, script=found.sampler.script
            )
            continue
        if levels is None:
            yield not_applicable(subject.name, TOLD, "nothing says what its times mean")
            return
        if len(levels.off):
            yield _heard(subject.name, found, levels, place)


def told(found: Read) -> Told | None:
    """The told levels and the right ones; None where nothing says what times mean."""
    sampler, claim, comparison = found.sampler, found.claim, found.comparison
    if sampler.told is None:
        return None
    trained, means = sampler.trained or claim.process, sampler.told

    def level(t: Any) -> float:
        with np.errstate(divide="ignore"):
            return -float(trained.coefficients(means(t)).log_snr)

    def change(t: Any, by: float, ends: bool = False) -> float:
        near = []
        for moved in (t - by, t + by):
            try:
                near.append(abs(level(moved) - level(t)))
            except ValueError:  # beyond the ends of time
                continue
        # a time that may be rounded to an end may be that of pure noise, infinitely far away
        return max((gap for gap in near if np.isfinite(gap) or (ends and gap == np.inf)), default=0.0)

    words = comparison.words
    with np.errstate(divide="ignore", invalid="ignore"):
        right = np.log(words.levels[comparison.table.evaluated])
        moved = [np.log(_levels(table)) for table in comparison.moved]
    with np.errstate(invalid="ignore"):
        drift = np.nan_to_num(np.max([np.abs(one - right) for one in moved], axis=0, initial=0.0))
    times = comparison.heard.times
    levels = np.array([level(t) for t in times])  # a ValueError where one is no time
    rounding = [change(t, OPERATIONS * _eps(sampler, t) * abs(float(t))) for t in times]
    whole = [0.5 if isinstance(t, int | np.integer) else 0.0 for t in times]
    design = [change(t, max(sampler.told_within, half), ends=True) for t, half in zip(times, whole, strict=True)]
    bound = np.array(rounding) + WORST * drift + OPERATIONS * sampler.eps
    return Told(levels, right, bound, np.array(design))


def _levels(table: Any) -> Array:
    c = table.coefficients
    return np.asarray((c.sigma / c.alpha)[table.evaluated])


def _eps(sampler: Sampler, t: Any) -> float:
    kind = getattr(t, "dtype", None)
    return max(sampler.eps, float(np.finfo(kind).eps)) if kind is not None and kind.kind == "f" else sampler.eps


def _heard(name: str, found: Read, levels: Told, place: str) -> Finding:
    off, words = levels.off, found.comparison.words
    verdict = levels.verdict
    first = int(np.argmax(off > levels.bound + levels.design)) if verdict is Verdict.WRONG else int(np.argmax(off))
    stage = int(np.flatnonzero(words.evaluations)[first])
    values = (float(np.exp(levels.told[first])), float(np.exp(levels.right[first])))
    t = found.comparison.heard.times[first]
    what = (f"evaluation {first + 1} (in step {words.number(stage + 1)}) is told t = {t}, "
            f"which is noise level {values[0]:.6g}; its state has {values[1]:.6g}")  # fmt: skip
    text = {
        Verdict.OK: f"all {len(off)} evaluations are told the level of their state",
        Verdict.CONVENTION: f"times are rounded by design: {what}",
    }.get(verdict, what + _shift(levels, first))
    return Finding(name, TOLD, verdict, f"{place}: {text}", float(off[first]), float(levels.bound[first]), place,
                   TOLD_RULE, found.sampler.script)  # fmt: skip


def _shift(levels: Told, first: int) -> str:
    """Whose level it is, if it is that of a neighbour."""
    for step, name in ((1, "next"), (-1, "previous")):
        other = first + step
        if 0 <= other < len(levels.right):
            gap = abs(levels.told[first] - levels.right[other])
            if gap <= levels.bound[first] + levels.design[first]:
                return f": that of the {name} evaluation"
    return ""


CHECKS: tuple[Check, ...] = (coefficients, told_levels)
