r"""Every coefficient of every step against the claimed table, read from impulses, and the level told with each state.

A network hears its noise level only through what it is told. The level of a told time is compared, as log sigma/alpha,
with that of the claimed table's stage; a design that rounds times may be off by as much as it rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, judged, not_applicable
from refdiff.validation.audits.reading import QUICK, STEPS, Read, Unreadable, counts, read
from refdiff.validation.audits.rounding import OPERATIONS, PERTURBED, WORST
from refdiff.validation.audits.scripts import exception, impulse
from refdiff.validation.audits.steps import Comparison, Mismatch
from refdiff.validation.audits.subject import Subject
from refdiff.validation.audits.told import Told
from refdiff.validation.audits.weights import weights

QUESTION = "coefficients"
RULE = (
    f"{OPERATIONS} roundings of the sampler's number type in the largest term of a step, and {WORST:g} times the "
    f"largest change of the step over {PERTURBED} grids that are off by one rounding"
)
TOLD = "told level"
TOLD_RULE = (
    f"the change of log sigma/alpha over {OPERATIONS} roundings of the time that is passed, and {WORST:g} times the "
    f"largest change over {PERTURBED} grids that are off by one rounding"
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
        source=found.claim.source,
        conventions=list(found.claim.conventions),
        **({"weights": weights(comparison)} if comparison.wrong else {}),
    )
    if known is None:
        return finding
    return replace(finding, verdict=known.verdict, text=f"{place}: it {known.name}; {_said(comparison)}")


def _said(comparison: Comparison) -> str:
    wrong = comparison.wrong
    if not wrong:
        return f"all {len(comparison.steps)} stages are right"
    return f"{len(wrong)} of {len(comparison.steps)} stages {'is' if len(wrong) == 1 else 'are'} off; {wrong[0]}"


# ---------------------------------------------------------------------- what a network is told


def told_level(subject: Subject, quick: bool) -> Iterator[Finding]:
    """What each evaluation is told, against the level of its state."""
    for steps in counts(subject, quick, STEPS, QUICK):
        place = f"{steps} steps"
        try:
            found = read(subject, steps)
        except Unreadable as why:
            yield not_applicable(subject.name, TOLD, f"{place}: {why}")
            continue
        try:
            levels = found.told
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


def _heard(name: str, found: Read, levels: Told, place: str) -> Finding:
    off, verdict = levels.off, levels.verdict
    first = int(np.argmax(off > levels.bound + levels.design)) if verdict is Verdict.WRONG else int(np.argmax(off))
    text = f"all {len(off)} evaluations are told the level of their state"
    if verdict is Verdict.CONVENTION:
        text = f"times are rounded by design: {_what(found, levels, first)}"
    elif verdict is Verdict.WRONG:
        text = _what(found, levels, first) + _shift(levels, first)
    return Finding(name, TOLD, verdict, f"{place}: {text}", float(off[first]), float(levels.bound[first]), place,
                   TOLD_RULE, found.sampler.script)  # fmt: skip


def _what(found: Read, levels: Told, first: int) -> str:
    """What an evaluation is told, and what its state has."""
    words = found.comparison.words
    stage = int(np.flatnonzero(words.evaluations)[first])
    told, right = (float(np.exp(part[first])) for part in (levels.told, levels.right))
    t = found.comparison.heard.times[first]
    return (
        f"evaluation {first + 1} (in step {words.number(stage + 1)}) is told t = {t}, "
        f"which is noise level {told:.6g}; its state has {right:.6g}"
    )


def _shift(levels: Told, first: int) -> str:
    """Whose level it is, if it is that of a neighbour."""
    for step, name in ((1, "next"), (-1, "previous")):
        other = first + step
        if 0 <= other < len(levels.right):
            same = levels.told[first] == levels.right[other]  # infinite, too
            gap = 0.0 if same else abs(levels.told[first] - levels.right[other])
            if gap <= levels.bound[first] + levels.design[first]:
                return f": that of the {name} evaluation"
    return ""


CHECKS: tuple[Check, ...] = (coefficients, told_level)
