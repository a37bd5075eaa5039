r"""What an audit says.

    ok              the number is within its bound
    wrong           it is not, or the implementation breaks where it says it works
    convention      it differs by a choice that has a name, and is right once the choice is made the same
    not applicable  there is nothing to examine, and why

A bound follows from the number type, the count of steps or a false-alarm probability, never from what was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any


class Verdict(Enum):
    """How a question ended; the order is that of reports, worst first."""

    WRONG = "wrong"
    CONVENTION = "differs by convention"
    OK = "ok"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Finding:
    """One answer.

    Attributes:
        subject: what was audited, with the options that matter: "DPMSolverMultistepScheduler(solver_order=3)".
        question: what was examined, a short name from `checks`: "coefficients", "order", "begin index".
        verdict: how it ended.
        text: one sentence with the place (step, term, entry), what was found and what is right.
        number, bound: what was measured and what it may be at most; None where the answer is no number.
        place: where in the subject: "step 7, weight of output 5"; part of what tells one finding from another.
        rule: what the bound follows from.
        script: a program that shows it with the audited library and numpy alone.
        details: numbers for the report.
        about: what tells the subject from another one of its name: where a callable is, and what it is examined as.
    """

    subject: str
    question: str
    verdict: Verdict
    text: str
    number: float | None = None
    bound: float | None = None
    place: str = ""
    rule: str = ""
    script: str = ""
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    about: str = ""

    @property
    def whose(self) -> str:
        """The subject, with what tells it from another one of its name."""
        return " | ".join(filter(None, (self.about, self.subject)))

    @property
    def key(self) -> str:
        """What stays the same from run to run, by which a baseline knows it."""
        return " | ".join([self.whose, self.question, self.place])


def judged(
    subject: str,
    question: str,
    number: float,
    bound: float,
    text: str,
    *,
    rule: str,
    place: str = "",
    script: str = "",
    **details: Any,
) -> Finding:
    """ok where the number is within its bound, wrong where it is not or is not a number."""
    verdict = Verdict.OK if number <= bound else Verdict.WRONG
    return Finding(subject, question, verdict, text, number, bound, place, rule, script, MappingProxyType(details))


def not_applicable(subject: str, question: str, why: str, **details: Any) -> Finding:
    """There is nothing to examine, or to judge of what was measured."""
    return Finding(subject, question, Verdict.NOT_APPLICABLE, why, details=MappingProxyType(details))


def convention(subject: str, question: str, name: str, *, place: str = "", **details: Any) -> Finding:
    """A choice with a name."""
    return Finding(subject, question, Verdict.CONVENTION, name, place=place, details=MappingProxyType(details))


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict of all, not applicable where there is none."""
    ranks = list(Verdict)
    return min((f.verdict for f in findings), key=ranks.index, default=Verdict.NOT_APPLICABLE)
