r"""What an audit found, as one HTML page that stands alone: pictures are inline SVG, nothing is fetched.

Two kinds of pictures, with logarithmic axes:

    steps   how far every step is from the claimed one, in units of what rounding may leave
    work    error against numbers of steps, where an order is a slope; dotted, the claimed method's own error
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from refdiff.validation.audits.findings import Finding, Verdict, worst
from refdiff.validation.audits.report import SHORT, Line, Run
from refdiff.validation.report import brief, environment

WIDTH, HEIGHT = 300.0, 170.0  # of the plane of a picture, in pixels
COLOURS = 6  # of curves in one picture; more are told apart by nothing


class Cell(NamedTuple):
    """A question about a class: the worst verdict, and on how many sets of options it is so."""

    verdict: Verdict
    those: int
    total: int


def page(run: Run) -> str:
    """The HTML page."""
    import jinja2

    known = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    known.filters.update(brief=brief, short=SHORT.__getitem__)
    template = known.from_string(resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    return template.render(
        run=run,
        environment=environment(),
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        questions=list(dict.fromkeys(one.question for one in run.findings)),
        matrix=matrix(run),
        members={member: lines for member, lines in run.lines.items() if any(map(_speaks, lines))},
        quiet=[member for member, lines in run.lines.items() if not any(map(_speaks, lines))],
        findings_of=findings_of,
        steps=steps,
        work=work,
        V=Verdict,
        width=WIDTH,
        height=HEIGHT,
    )


def _speaks(line: Line) -> bool:
    return line.worst.verdict in (Verdict.WRONG, Verdict.CONVENTION)


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
            count = sum(one.worst.verdict is verdict for one in of_question)
            found[member][question] = Cell(verdict, count, len(of_question))
    return found


def findings_of(line: Line) -> list[Finding]:
    """The findings that a line stands for, those of its verdict."""
    return [one for one in line.result.findings if one.question == line.question and one.verdict is line.worst.verdict]


# ---------------------------------------------------------------------- pictures


class Axis(NamedTuple):
    """A logarithmic axis over whole decades: numbers to pixels, and its ticks (pixel, label)."""

    low: float
    high: float
    length: float

    def at(self, value: float) -> float:
        """Where a number is; what lies beyond is at the end."""
        power = math.log10(value) if value > 0 and math.isfinite(value) else (self.low if value <= 0 else self.high)
        return round(self.length * (min(max(power, self.low), self.high) - self.low) / (self.high - self.low), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """At most six decades with their labels."""
        every = max(1, math.ceil((self.high - self.low) / 6))
        return [(self.at(10.0**p), f"1e{p}") for p in range(math.ceil(self.low), math.floor(self.high) + 1, every)]


def axis(values: Sequence[float], length: float) -> Axis:
    """The decades that hold all positive finite values."""
    powers = [math.log10(v) for v in values if v > 0 and math.isfinite(v)] or [0.0]
    low, high = math.floor(min(powers)), math.ceil(max(powers))
    return Axis(low, max(high, low + 1), length)


def steps(finding: Finding) -> dict[str, Any] | None:
    """The picture of a finding's steps: bars of error over bound, and the line at 1."""
    found = finding.details.get("steps")
    if not isinstance(found, list) or not found or not all(isinstance(s, list) and len(s) == 3 for s in found):
        return None
    ratios = [(int(stage), _number(error) / (_number(bound) or 1.0)) for stage, error, bound in found]
    y = axis([1e-2, 10.0, *(ratio for _, ratio in ratios)], HEIGHT / 2)
    wide = WIDTH / len(ratios)
    bars = [
        {
            "x": round(i * wide + 0.1 * wide, 2), "wide": round(0.8 * wide, 2), "tall": y.at(ratio),
            "wrong": not ratio <= 1, "title": f"stage {stage}: {brief(ratio)} times what rounding may leave",
        }
        for i, (stage, ratio) in enumerate(ratios)
    ]  # fmt: skip
    return {
        "bars": bars,
        "one": y.at(1.0),
        "ticks": y.ticks,
        "height": HEIGHT / 2,
        "first": ratios[0][0],
        "last": ratios[-1][0],
    }


def work(lines: Sequence[Line]) -> dict[str, Any] | None:
    """The work-precision picture of a class: one curve for each set of options, the wrong ones first."""
    curves: dict[str, Curve] = {}
    for line in sorted(lines, key=lambda one: one.worst.verdict is not Verdict.WRONG):
        for one in line.result.findings:
            if one.question == line.question and (points := curve(one.details, "errors")):
                name = line.result.name.removeprefix(line.result.member).strip("()") or "default"
                curves.setdefault(name, Curve(one.verdict is Verdict.WRONG, points, curve(one.details, "method")))
    if not curves:
        return None
    chosen = dict(list(curves.items())[:COLOURS])
    every = [point for one in chosen.values() for point in (*one.points, *one.method)]
    counts = sorted({n for n, _ in every})
    x = Axis(math.log10(counts[0]) - 0.05, math.log10(counts[-1]) + 0.05, WIDTH)
    y = axis([e for _, e in every], HEIGHT)

    def placed(points: list[tuple[float, float]]) -> str:
        return " ".join(f"{x.at(n)},{round(HEIGHT - y.at(e), 1)}" for n, e in points)

    drawn = [
        {"name": name, "wrong": one.wrong, "points": placed(one.points), "method": placed(one.method)}
        for name, one in chosen.items()
    ]
    return {
        "curves": drawn,
        "x": [(x.at(n), f"{n:g}") for n in counts[-6:]],
        "y": [(round(HEIGHT - at, 1), label) for at, label in y.ticks],
        "left_out": len(curves) - len(chosen),
    }


class Curve(NamedTuple):
    """Errors over numbers of steps, and those of the claimed method on the same grids."""

    wrong: bool
    points: list[tuple[float, float]]
    method: list[tuple[float, float]]


def curve(details: Mapping[str, Any], whose: str) -> list[tuple[float, float]]:
    """(steps, error) of a finding that has measured errors over several numbers of steps."""
    counts, errors = (details.get(name) for name in ("counts", whose))
    if not isinstance(counts, list) or not isinstance(errors, list) or len(counts) != len(errors):
        return []
    pairs = [(_number(n), _number(e)) for n, e in zip(counts, errors, strict=True)]
    pairs = [(n, e) for n, e in pairs if n > 0 and e > 0 and math.isfinite(e)]
    return pairs if len(pairs) > 1 else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.inf
