r"""Every coefficient of every step against the claimed table, read from impulses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from refdiff.samplers import NotLinear
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, judged, not_applicable
from refdiff.validation.audits.scripts import exception, impulse
from refdiff.validation.audits.steps import Comparison, Mismatch, compare
from refdiff.validation.audits.subject import Sampler, Subject

QUESTION = "coefficients"
STEPS, QUICK = (1, 2, 3, 5, 10, 20), (5,)
RULE = (
    "16 roundings of the sampler's number type in the largest term of a step, and 6 times the largest change of the "
    "step over 6 grids that are off by one rounding"
)


def coefficients(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Steps of several grids, each step by itself."""
    for steps in subject.steps or (QUICK if quick else STEPS):
        try:
            sampler = subject.build(steps)
        except Exception as error:  # whatever the foreign code raises
            text = f"{steps} steps: {type(error).__name__}: {error}"
            yield Finding(subject.name, QUESTION, Verdict.WRONG, text, place=f"{steps} steps")
            continue
        yield from compared(subject.name, sampler, steps)


def compared(name: str, sampler: Sampler, steps: int) -> Iterator[Finding]:
    """The finding on one grid."""
    place = f"{steps} steps"
    if sampler.claim is None:
        yield not_applicable(name, QUESTION, "nothing is claimed: name a family")
        return
    try:
        comparison = compare(sampler)
    except Mismatch as error:
        yield Finding(name, QUESTION, Verdict.WRONG, f"{place}: {error}", place=place)
        return
    except NotLinear as error:
        yield not_applicable(name, QUESTION, f"{place}: {error}")
        return
    except Exception as error:  # whatever the foreign code raises while it runs
        text = f"{place}: {type(error).__name__}: {error}"
        script = exception(sampler.script, error)
        yield Finding(name, QUESTION, Verdict.WRONG, text, place=place, script=script)
        return
    worst = max(comparison.steps, key=lambda step: step.error / step.bound)
    known = _variant(sampler) if comparison.wrong else None
    found = judged(
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
    yield found if known is None else replace(found, verdict=known[1], text=f"{place}: it {known[0]}; {found.text}")


def _said(comparison: Comparison) -> str:
    wrong = comparison.wrong
    if not wrong:
        return f"all {len(comparison.steps)} steps are right"
    return f"{len(wrong)} of {len(comparison.steps)} steps are off; {wrong[0]}"


def _variant(sampler: Sampler) -> tuple[str, Verdict] | None:
    """The known variant that the sampler is, if any."""
    claim = sampler.claim
    for variant in claim.variants if claim else ():
        try:
            if not compare(sampler, replace(claim, build=variant.build)).wrong:  # type: ignore[type-var]
                return variant.name, variant.verdict
        except Mismatch:
            continue
    return None


CHECKS: tuple[Check, ...] = (coefficients,)
