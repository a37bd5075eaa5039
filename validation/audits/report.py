r"""What an audit found, as lines for a terminal and as JSON for machines.

A line is one subject and question: the worst of its findings, in how many places it is so, and whether a baseline has
it already. What is ok, and what there is nothing to examine of, is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import refdiff
from refdiff.validation.audits.audit import Result, Unit, plain
from refdiff.validation.audits.baseline import Baseline, Entry
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols.protocol import protocols
from refdiff.validation.audits.targets import installed
from refdiff.validation.report import brief, counted, environment

FORMAT = 1
STYLES = {Verdict.WRONG: "bold red", Verdict.CONVENTION: "yellow", Verdict.OK: "green", Verdict.NOT_APPLICABLE: "dim"}
SHORT = {Verdict.WRONG: "wrong", Verdict.CONVENTION: "convention", Verdict.OK: "ok", Verdict.NOT_APPLICABLE: "n/a"}


@dataclass(frozen=True)
class Line:
    """The findings of one question about one subject.

    Attributes:
        worst: the finding that speaks for them.
        count: how many have its verdict, of `total`.
        known: whether a baseline has all that are wrong.
    """

    result: Result
    question: str
    worst: Finding
    count: int
    total: int
    known: bool

    @property
    def label(self) -> str:
        """The verdict in a word."""
        return "known" if self.known else SHORT[self.worst.verdict]

    @property
    def text(self) -> str:
        """The sentence, and where else it is so."""
        more = f" ({self.count} of {self.total} places)" if self.count > 1 else ""
        return self.worst.text + more


@dataclass(frozen=True, eq=False)
class Run:
    """Results in the order of the targets, and what they are results of.

    Attributes:
        asked: how many subjects were to be examined; more than the results after an interrupt.
        baseline: what is known; empty where no file was given.
    """

    results: tuple[Result, ...]
    asked: int
    quick: bool
    seconds: float
    baseline: Baseline = field(default_factory=Baseline)

    @property
    def interrupted(self) -> bool:
        """Whether results are missing."""
        return len(self.results) < self.asked

    @cached_property
    def findings(self) -> list[Finding]:
        """All of them."""
        return [one for result in self.results for one in result.findings]

    @cached_property
    def verdicts(self) -> Counter[Verdict]:
        """How many findings ended how."""
        return Counter(one.verdict for one in self.findings)

    @cached_property
    def new(self) -> list[Finding]:
        """The wrong findings that no baseline has."""
        return self.baseline.new(self.results)

    @cached_property
    def fixed(self) -> Mapping[str, Entry]:
        """What the baseline has and is gone."""
        return self.baseline.fixed(self.results, self.quick)

    @cached_property
    def lines(self) -> dict[str, list[Line]]:
        """The lines of every member, worst first within a subject."""
        found: dict[str, list[Line]] = {}
        for result in self.results:
            found.setdefault(result.member, []).extend(self._lines(result))
        return found

    def _lines(self, result: Result) -> Iterator[Line]:
        questions: dict[str, list[Finding]] = {}
        for one in result.findings:
            questions.setdefault(one.question, []).append(one)
        ranks = list(Verdict)
        for question, findings in questions.items():
            # of several that are wrong, one that is new speaks, and of those the one that is furthest from its bound
            worst = min(findings, key=lambda f: (ranks.index(f.verdict), f.key in self.baseline.known, -_excess(f)))
            known = worst.verdict is Verdict.WRONG and worst.key in self.baseline.known
            count = sum(one.verdict is worst.verdict for one in findings)
            yield Line(result, question, worst, count, len(findings), known)

    @property
    def libraries(self) -> dict[str, str]:
        """The audited libraries with their versions."""
        return {one.library: one.version for one in self.results if one.library}

    @property
    def coverage(self) -> dict[str, int]:
        """How much ran: classes, sets of options, and samplers (a set of options at a number of steps)."""
        return {
            "members": len({one.member for one in self.results}),
            "subjects": len(self.results),
            "samplers": sum(len(one.steps) for one in self.results),
            "findings": len(self.findings),
        }

    @property
    def idle(self) -> bool:
        """Whether nothing could be examined."""
        return all(one.verdict is Verdict.NOT_APPLICABLE for one in self.findings)

    @property
    def verdict(self) -> str:
        """One sentence with all the counts."""
        bad, known = self.verdicts[Verdict.WRONG], self.verdicts[Verdict.WRONG] - len(self.new)
        nothing = "Nothing could be examined" if self.idle else "Nothing is wrong"
        what = nothing if not bad else f"{counted(bad, 'finding')} {'is' if bad == 1 else 'are'} wrong"
        if known:
            what += f", of which {known} {'is' if known == 1 else 'are'} known"
        rest = (Verdict.CONVENTION, Verdict.OK, Verdict.NOT_APPLICABLE)
        words = {Verdict.CONVENTION: "by convention"}
        counts = [f"{self.verdicts[one]} {words.get(one, one.value)}" for one in rest if self.verdicts[one]]
        ran = self.coverage
        size = f"{counted(ran['members'], 'name')}, {counted(ran['subjects'], 'set')} of options, "
        size += f"{counted(ran['samplers'], 'sampler')} in {self.seconds:.1f} s"
        gone = f" {counted(len(self.fixed), 'known finding')} {'is' if len(self.fixed) == 1 else 'are'} fixed."
        stopped = f"INTERRUPTED after {len(self.results)} of {self.asked}. " if self.interrupted else ""
        return stopped + "; ".join([what, *counts, size]) + "." + gone * bool(self.fixed)


def _excess(finding: Finding) -> float:
    """By how many bounds a number misses; infinite where there is none."""
    if finding.number is None or not finding.bound or not math.isfinite(finding.number):
        return math.inf
    return finding.number / finding.bound


# ---------------------------------------------------------------------- terminal


def head(chosen: Sequence[Unit], quick: bool) -> Iterator[str]:
    """What is about to be examined."""
    libraries = {protocols()[unit.target.protocol].library for unit in chosen if not unit.target.where}
    versions = [f"{name} {installed(name)}" for name in sorted(filter(None, libraries))]
    size = [counted(len({unit.target.member for unit in chosen}), "name"), counted(len(chosen), "set") + " of options"]
    yield ", ".join([f"refdiff {refdiff.__version__}", *versions, *size, *["quick"] * quick])


def shown(run: Run, verbose: bool = False) -> Iterator[Any]:
    """Lines for a terminal: what is wrong and what is a convention, or everything; then the sentence."""
    from rich.text import Text

    width = max((len(one.question) for lines in run.lines.values() for one in lines), default=0)
    for member, lines in run.lines.items():
        wanted = [one for one in lines if verbose or one.worst.verdict in (Verdict.WRONG, Verdict.CONVENTION)]
        if wanted:
            yield Text(member, style="bold")
        yield from (_text(one, about, width) for one, about in _folded(wanted, verbose))
    for entry in run.fixed.values():
        yield Text.assemble(("fixed       ", "green"), f"{entry.subject} {entry.question}: was: {entry.text}")
    yield Text(f"\n{run.verdict}" if run.results else run.verdict, style="bold")


def _folded(lines: list[Line], verbose: bool) -> Iterator[tuple[Line, str]]:
    """Lines with what they are about; a convention that many sets of options share is one line."""
    shared = Counter((one.question, one.worst.text) for one in lines)
    told = set()
    for one in lines:
        key, about = (one.question, one.worst.text), one.result.name.removeprefix(one.result.member)
        if one.worst.verdict is Verdict.CONVENTION and not verbose and shared[key] > 1:
            if key in told:
                continue
            told.add(key)
            about = f"{about} and {counted(shared[key] - 1, 'other set')}"
        yield one, about


def _text(line: Line, about: str, width: int) -> Any:
    from rich.text import Text

    style = "dim" if line.known else STYLES[line.worst.verdict]
    what = f"  {line.question:<{width}}  " + ("" if about in ("", "()") else f"{about} ")
    number, bound = line.worst.number, line.worst.bound
    measured = "" if number is None or bound is None else f" [{brief(number)}, bound {brief(bound)}]"
    return Text.assemble((f"  {line.label:<10}", style), what, line.text, (measured, "dim"))


# ---------------------------------------------------------------------- machines


def as_json(run: Run) -> dict[str, Any]:
    """Everything as plain values; numbers that are not finite are words."""
    return {
        "format": FORMAT,
        "version": refdiff.__version__,
        "platform": environment(),
        "libraries": run.libraries,
        "quick": run.quick,
        "passed": not (run.new or run.idle or run.interrupted),
        "interrupted": run.interrupted,
        "verdict": run.verdict,
        "counts": {verdict.value: run.verdicts[verdict] for verdict in Verdict},
        "new": len(run.new),
        "coverage": run.coverage,
        "seconds": round(run.seconds, 3),
        "fixed": [{"key": key, "was": entry.text} for key, entry in run.fixed.items()],
        "subjects": [_subject(one, run.baseline) for one in run.results],
    }


def _subject(result: Result, baseline: Baseline) -> dict[str, Any]:
    return {
        "name": result.name,
        "member": result.member,
        "protocol": result.protocol,
        "library": result.library,
        "version": result.version,
        "options": finite(plain(result.options)),
        "steps": list(result.steps),
        "seconds": round(result.seconds, 3),
        "audited": result.audited and result.audited._asdict(),
        "method": result.method and result.method._asdict(),
        "findings": [_finding(one, baseline) for one in result.findings],
    }


def _finding(one: Finding, baseline: Baseline) -> dict[str, Any]:
    return {
        "key": one.key,
        "question": one.question,
        "verdict": one.verdict.value,
        "known": one.verdict is Verdict.WRONG and one.key in baseline.known,
        "text": one.text,
        "number": finite(one.number),
        "bound": finite(one.bound),
        "place": one.place,
        "rule": one.rule,
        "script": one.script,
        "details": finite(plain(one.details)),
    }


def finite(value: Any) -> Any:
    """Plain values with words for the numbers that JSON has none for: "nan", "inf", "-inf"."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
