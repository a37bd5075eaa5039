r"""What an audit found, as one HTML page that stands alone: pictures are inline SVG, nothing is fetched.

The verdict comes first, then who is asked what as a matrix, then every finding: what is wrong and what is a convention
with its numbers, pictures and program, what is ok and what is not applicable in a line each, by sets of options.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from refdiff.samplers.families import families
from refdiff.validation.audits import pictures
from refdiff.validation.audits.audit import Result, checks, names
from refdiff.validation.audits.findings import Finding, Verdict, worst
from refdiff.validation.audits.protocols.protocol import protocols
from refdiff.validation.audits.report import SHORT, Line, Run
from refdiff.validation.audits.sources import Source
from refdiff.validation.pages import anchors, rendered
from refdiff.validation.report import brief

SPEAKING = (Verdict.WRONG, Verdict.CONVENTION)  # what is told at length
SYMBOLS = {"wrong": "✗", "known": "⊗", "convention": "≈", "ok": "✓", "n/a": "–"}
MANY = 10_000  # findings: of more, what is ok is told without its sentence, so that the page stays at some 3 MB
IDS = ("main", "findings", "findings-none", "overview", "fixed", "methods", "questions")  # of the template's own


class Cell(NamedTuple):
    """A question about a class: the worst verdict, on how many sets of options it is so, and whether it is known."""

    verdict: Verdict
    those: int
    total: int
    known: bool

    @property
    def label(self) -> str:
        """The verdict in a word."""
        return "known" if self.known else SHORT[self.verdict]


@dataclass(frozen=True)
class Member:
    """What is told of a class or function.

    Attributes:
        name: its name.
        lines: what is wrong, then what is known, then conventions; those of one sentence together.
        rest: for every set of options its findings that are in no line, those alike in one row.
        results: the sets of options.
    """

    name: str
    lines: list[list[Line]]
    rest: list[tuple[Result, list[Row]]]
    results: list[Result]

    @cached_property
    def verdict(self) -> str:
        """The worst of all, in a word."""
        return (
            self.lines[0][0].label if self.lines else SHORT[worst(one.finding for _, rows in self.rest for one in rows)]
        )

    @property
    def counts(self) -> str:
        """How many findings ended how, in words."""
        return _counted(one.verdict for result in self.results for one in result.findings)

    @property
    def quiet(self) -> str:
        """What is in `rest`, in words."""
        return _counted(row.finding.verdict for _, rows in self.rest for row in rows for _ in range(row.places))

    @property
    def audited(self) -> list[Source]:
        """Where the audited code is."""
        return list(dict.fromkeys(one.audited for one in self.results if one.audited))

    @property
    def methods(self) -> list[Source]:
        """What it is compared with."""
        return list(dict.fromkeys(one.method for one in self.results if one.method))

    @property
    def work(self) -> dict[str, Any] | None:
        """The work-precision picture, the wrong curves first."""
        said = ((about(result), one) for result in self.results for one in result.findings)
        return pictures.work(sorted(pictures.curves(said), key=lambda one: not one.wrong))


def page(run: Run) -> str:
    """The HTML page."""
    told = sorted(members(run), key=lambda one: list(SYMBOLS).index(one.verdict))
    asked = questions(run)
    pairs = {f"{one.name} {question}" for one in told for question in asked}
    known = methods(run)
    words = {one.__name__: one for one in (about, camel, parts, share, times)}
    return rendered(
        "report.html",
        [__package__],
        {**words, "short": SHORT.__getitem__},
        run=run,
        V=Verdict,
        symbols=SYMBOLS,
        members=told,
        amiss=sum(one.verdict in ("wrong", "known") for one in told),
        matrix=matrix(run),
        questions=asked,
        ids=anchors([*(one.name for one in told), *sorted(pairs), *(f"method {name}" for name in known)], IDS),
        descriptions=descriptions(run),
        rules=rules(run),
        fields=fields(run),
        methods=known,
        shown=shown,
        state=state,
        first=once(),
        terse=len(run.findings) > MANY,
        pictures=pictures,
    )


def members(run: Run) -> Iterator[Member]:
    """What is told of every class, in the order of the run."""
    order, rank = questions(run), ("wrong", "known", "convention")
    for name, lines in run.lines.items():
        same: dict[tuple[int, int, str], list[Line]] = {}
        for one in lines:
            if one.worst.verdict in SPEAKING:
                key = rank.index(one.label), order.index(one.question), one.text
                same.setdefault(key, []).append(one)
        told = [same[key] for key in sorted(same, key=lambda key: key[:2])]
        spoken = {id(f) for group in told for line in group for f in findings_of(line)}
        results = [one for one in run.results if one.member == name]
        rest = [(one, list(rows(f for f in one.findings if id(f) not in spoken))) for one in results]
        yield Member(name, told, [(one, those) for one, those in rest if those], results)


def once() -> Callable[[str], bool]:
    """Whether a word comes for the first time: an id stands on one element."""
    said: set[str] = set()

    def first(word: str) -> bool:
        new = word not in said
        said.add(word)
        return new

    return first


class Row(NamedTuple):
    """The findings of one question, set of options and verdict, by the one nearest to its bound."""

    finding: Finding
    places: int

    @property
    def label(self) -> str:
        """The verdict in a word."""
        return SHORT[self.finding.verdict]


def rows(findings: Iterable[Finding]) -> Iterator[Row]:
    """Findings that are alike as rows."""
    found: dict[tuple[str, Verdict], list[Finding]] = {}
    for one in findings:
        found.setdefault((one.question, one.verdict), []).append(one)
    for those in found.values():
        yield Row(max(those, key=share), len(those))


def shown(line: Line) -> list[Finding]:
    """The findings of a line, that first which is shown at length: of few weights, where it is about weights."""

    def size(one: Finding) -> float:
        told = one.details.get("weights")
        return len(told["columns"]) if isinstance(told, dict) else math.inf

    found = findings_of(line)
    first = min([line.worst, *found], key=size)
    return [first, *(one for one in found if one is not first)]


def matrix(run: Run) -> dict[str, dict[str, Cell]]:
    """The worst verdict for every class and question."""
    found: dict[str, dict[str, Cell]] = {}
    for member, lines in run.lines.items():
        row: dict[str, list[Line]] = {}
        for line in lines:
            row.setdefault(line.question, []).append(line)
        found[member] = {}
        for question, of_question in row.items():
            verdict = worst(one.worst for one in of_question)
            those = [one for one in of_question if one.worst.verdict is verdict]
            found[member][question] = Cell(verdict, len(those), len(of_question), all(one.known for one in those))
    return found


def findings_of(line: Line) -> list[Finding]:
    """The findings that a line stands for, those of its verdict."""
    return [one for one in line.result.findings if one.question == line.question and one.verdict is line.worst.verdict]


def questions(run: Run) -> list[str]:
    """All questions, those first where something is wrong."""
    ranks, found = list(Verdict), dict[str, int]()
    for one in run.findings:
        rank = ranks.index(one.verdict)
        found[one.question] = min(rank, found.get(one.question, rank))
    return sorted(found, key=found.__getitem__)


# ---------------------------------------------------------------------- what can be chosen


def fields(run: Run) -> list[tuple[str, str, list[tuple[str, str, int]]]]:
    """The filters: (key, label, choices with how many findings each has); what leaves no choice is left out.

    Every verdict can be chosen, and both states where there is a baseline: links ask for them.
    """
    pairs = [(result, one) for result in run.results for one in result.findings]
    verdicts = Counter(SHORT[one.verdict] for _, one in pairs)
    states = Counter(state(run, one) for _, one in pairs) if run.baseline.known else {}
    said: list[tuple[str, str, Mapping[str, int]]] = [
        ("library", "library", Counter(result.library for result, _ in pairs if result.library)),
        ("name", "name", Counter(result.member for result, _ in pairs)),
        ("question", "question", Counter(one.question for _, one in pairs)),
        ("verdict", "verdict", {one: verdicts[one] for one in SHORT.values()}),
        ("state", "baseline", {one: states[one] for one in ("new", "known")} if states else {}),
        ("set", "options", Counter(result.name for result, _ in pairs)),
    ]
    return [
        (key, label, [(value, value, count) for value, count in counts.items()])
        for key, label, counts in said
        if len(counts) > 1 or key in ("name", "question")
    ]


def state(run: Run, finding: Finding) -> str:
    """Whether a wrong finding is known to the baseline; "" for others."""
    if finding.verdict is not Verdict.WRONG:
        return ""
    return "known" if finding.key in run.baseline.known else "new"


# ---------------------------------------------------------------------- words


def _counted(verdicts: Iterable[Verdict]) -> str:
    said = Counter(SHORT[one] for one in verdicts)
    return ", ".join(f"{said[name]} {name}" for name in SHORT.values() if said[name])


def descriptions(run: Run) -> dict[str, str]:
    """What is asked under a question, by the checks of this name."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(one.protocol for one in run.results):
        for check in checks(protocols()[name]) if name in protocols() else ():
            text = (check.__doc__ or "").strip().partition("\n")[0]
            for known in names(check):
                found.setdefault(known, text)
    return found


def rules(run: Run) -> dict[str, list[str]]:
    """What the bounds of every question follow from."""
    found: dict[str, dict[str, None]] = {}
    for one in run.findings:
        found.setdefault(one.question, {}).update({one.rule: None} if one.rule else {})
    return {question: list(those) for question, those in found.items()}


class Method(NamedTuple):
    """A claimed method: its code, the members that are compared with it, and what refdiff calls it."""

    source: Source
    members: list[str]
    families: str
    sources: str


def methods(run: Run) -> dict[str, Method]:
    """The methods that were compared with, by name."""
    found: dict[str, Method] = {}
    for source in dict.fromkeys(one.method for one in run.results if one.method):
        own = [f for f in families().values() if f"{f.build.__module__}:{f.build.__qualname__}" == source.name]
        of = dict.fromkeys(one.member for one in run.results if one.method == source)
        listed = ", ".join(f.name + (f" (order {f.order:g})" if f.order is not None else "") for f in own)
        found[source.name] = Method(source, list(of), listed, "; ".join(dict.fromkeys(f.source for f in own)))
    return found


def about(result: Result) -> str:
    """The options of a set, in words."""
    return result.name.removeprefix(result.member).strip("()") or "as it is"


def camel(name: str) -> Any:
    """A name that may be broken before its capitals."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[a-z0-9])(?=[A-Z])", name))


def times(finding: Finding) -> str:
    """A number in units of its bound, in words; "" where it has none."""
    number, bound = finding.number, finding.bound
    if number is None or not bound or not math.isfinite(number):
        return ""
    ratio = number / bound
    return f"{brief(ratio)} times the bound" if ratio > 1 else f"{brief(ratio)} of the bound"


def share(finding: Finding) -> int:
    """Where a number is between nothing (a 10000th of its bound, or less) and its bound, in percent of the decades."""
    number, bound = finding.number, finding.bound
    if number is None or not bound or number <= 0:
        return 0
    ratio = number / bound
    return round(100 * min(max(1 + math.log10(ratio) / 4, 0.0), 1.0)) if math.isfinite(ratio) else 100


def parts(text: str) -> Sequence[str]:
    """A sentence by its semicolons, where it has more than one."""
    found = [one.strip() for one in text.split("; ") if one.strip()]
    return found if len(found) > 2 else [text]
