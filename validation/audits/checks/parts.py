r"""Functions beside the samplers: grids, splits of a step, conversions. Each is its own subject, with its own answers.

A part says what it gave, what is right and how far rounding may put the two apart; this check words the findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, judged
from refdiff.validation.audits.subject import Sampler, Subject, no_sampler

QUESTION = "parts"


class Answer(NamedTuple):
    """What a part was asked, gave and should have given.

    Attributes:
        place: the question: "karras, 10 steps".
        found, right, bound: numbers, and how far they may be apart, of shapes that broadcast.
        rule: what the bound follows from.
    """

    place: str
    found: ArrayLike
    right: ArrayLike
    bound: ArrayLike
    rule: str


@dataclass(frozen=True)
class Part(Subject):
    """A function with its questions.

    Args:
        answers: quick -> what it gave to each question; raises what the library raises.
    """

    build: Callable[[int], Sampler] = no_sampler
    checks: tuple[str, ...] = (QUESTION,)
    answers: Callable[[bool], Iterator[Answer]] | None = None
    script: str = ""


def parts(subject: Subject, quick: bool) -> Iterator[Finding]:
    """One finding for each question."""
    if not isinstance(subject, Part) or subject.answers is None:
        return
    try:
        for answer in subject.answers(quick):
            yield _judged(subject, answer)
    except Exception as error:  # whatever the foreign code raises
        text = f"{type(error).__name__}: {error}"
        yield Finding(subject.name, QUESTION, Verdict.WRONG, text, place="exception", script=subject.script)


def _judged(subject: Part, answer: Answer) -> Finding:
    found, right = np.asarray(answer.found, dtype=float), np.asarray(answer.right, dtype=float)
    details: dict[str, Any] = {"rule": answer.rule, "place": answer.place, "script": subject.script}
    if found.shape != right.shape:
        text = f"{answer.place}: shape {found.shape}, should be {right.shape}"
        return judged(subject.name, QUESTION, np.inf, 0.0, text, **details)
    bound = np.broadcast_to(np.asarray(answer.bound, dtype=float), right.shape)
    same = (found == right) | (np.isnan(found) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.where(np.isfinite(found), np.abs(found - right), np.inf))
    if not right.size:
        return judged(subject.name, QUESTION, 0.0, 0.0, f"{answer.place}: right, there is nothing", **details)
    ratio = error / np.maximum(bound, np.finfo(float).tiny)
    i = np.unravel_index(int(np.argmax(ratio)), ratio.shape) if ratio.ndim else ()
    text = f"{answer.place}: right"
    if not error[i] <= bound[i]:
        where = f" in entry {', '.join(map(str, i))}" if i else ""
        text = f"{answer.place}: {found[i]:.8g}{where}, should be {right[i]:.8g}"
    return judged(subject.name, QUESTION, float(error[i]), float(bound[i]), text, **details)


CHECKS: tuple[Check, ...] = (parts,)
