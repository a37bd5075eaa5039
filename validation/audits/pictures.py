r"""The pictures of an audit as numbers: where lines, bars and cells are, for inline SVG in the colours of the page.

    steps     how far every step is from the claimed one, in units of what rounding may leave
    work      error against numbers of steps, where an order is a slope; dotted, the claimed method's own error
    weights   what every state is made of: by the sampler, as claimed, and the difference

Axes are logarithmic. In `weights` a colour is a level of -5 to 5,

    sign(w) ceil(5 (1 + log10(|w| / m) / D)),   m the largest |w| of the panel (of the first two), D decades; 0 below
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from refdiff.validation.audits.findings import Finding
from refdiff.validation.report import brief

WIDTH, HEIGHT = 300.0, 170.0  # of the plane of a picture, in pixels
COLOURS = 6  # of curves in one picture; more are told apart by nothing
BELOW = 0.45  # a slope triangle stands at this share of the error that it is about
LEVELS, DECADES, DECADES_OFF = 5, 4.0, 3.0
NUMBERED = 8  # columns of weights; where there are more, cells have no room for numbers


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


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.inf


# ---------------------------------------------------------------------- steps


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


# ---------------------------------------------------------------------- work


class Curve(NamedTuple):
    """Errors over numbers of steps, those of the claimed method on the same grids, and the orders that were fitted."""

    name: str
    wrong: bool
    points: list[tuple[float, float]]
    method: list[tuple[float, float]]
    found: float | None
    claimed: float | None


class Drawn(NamedTuple):
    """A curve in a picture: as `Curve`, with its points as SVG takes them."""

    name: str
    wrong: bool
    points: str
    method: str
    found: float | None
    claimed: float | None


def curves(findings: Iterable[tuple[str, Finding]]) -> list[Curve]:
    """One curve for each named finding that has measured errors; of one name, the first."""
    known: dict[str, Curve] = {}
    for name, one in findings:
        if points := curve(one.details, "errors"):
            orders = one.details.get("orders")
            found, claimed = orders if isinstance(orders, list) and len(orders) == 2 else (None, None)
            wrong = one.verdict.value == "wrong"
            known.setdefault(name, Curve(name, wrong, points, curve(one.details, "method"), found, claimed))
    return list(known.values())


def curve(details: Mapping[str, Any], whose: str) -> list[tuple[float, float]]:
    """(steps, error) of a finding that has measured errors over several numbers of steps."""
    counts, errors = (details.get(name) for name in ("counts", whose))
    if not isinstance(counts, list) or not isinstance(errors, list) or len(counts) != len(errors):
        return []
    pairs = [(_number(n), _number(e)) for n, e in zip(counts, errors, strict=True)]
    pairs = [(n, e) for n, e in pairs if n > 0 and e > 0 and math.isfinite(e)]
    return pairs if len(pairs) > 1 else []


def work(drawn: Sequence[Curve]) -> dict[str, Any] | None:
    """The work-precision picture of some curves, with a slope triangle at the order of the first."""
    if not drawn:
        return None
    chosen = drawn[:COLOURS]
    every = [point for one in chosen for point in (*one.points, *one.method)]
    corners = triangle(chosen[0])
    counts = sorted({n for n, _ in every})
    x = Axis(math.log10(counts[0]) - 0.05, math.log10(counts[-1]) + 0.05, WIDTH)
    y = axis([e for _, e in (*every, *corners)], HEIGHT)

    def placed(points: list[tuple[float, float]]) -> str:
        return " ".join(f"{x.at(n)},{round(HEIGHT - y.at(e), 1)}" for n, e in points)

    return {
        "curves": [
            Drawn(one.name, one.wrong, placed(one.points), placed(one.method), one.found, one.claimed) for one in chosen
        ],
        "triangle": placed(corners),
        "label": (x.at(corners[0][0]), round(HEIGHT - y.at(math.sqrt(corners[0][1] * corners[1][1])), 1))
        if corners
        else None,
        "x": [(x.at(n), f"{n:g}") for n in counts[-6:]],
        "y": [(round(HEIGHT - at, 1), label) for at, label in y.ticks],
        "left_out": len(drawn) - len(chosen),
    }


def triangle(one: Curve) -> list[tuple[float, float]]:
    """(steps, error) of the corners of a slope triangle under a curve, at its order: left top and foot, right foot."""
    if one.found is None:
        return []
    i = max(0, (len(one.points) - 1) // 2)
    (left, first), (right, second) = one.points[i], one.points[i + 1]
    fall = (left / right) ** one.found
    top = BELOW * min(first, second / fall)  # under both points
    return [(left, top), (left, top * fall), (right, top * fall)]


# ---------------------------------------------------------------------- weights


class Weight(NamedTuple):
    """A cell: its colour as a CSS class ("p1" to "p5", "n1" to "n5" for negative ones), in short, and in full."""

    tint: str
    text: str
    number: str


class Panel(NamedTuple):
    """A table of weights: what it is, the largest of it, and the rows by their names."""

    name: str
    most: float
    rows: list[tuple[str, list[Weight]]]


def weights(finding: Finding) -> dict[str, Any] | None:
    """The weights of a sampler's states, those that are claimed, and the difference, as three panels."""
    told = finding.details.get("weights")
    if not isinstance(told, Mapping) or not {"rows", "columns", "found", "claimed", "left_out"} <= set(told):
        return None
    found, claimed = ([[_number(w) for w in row] for row in told[name]] for name in ("found", "claimed"))
    off = [[a - b for a, b in zip(one, two, strict=True)] for one, two in zip(found, claimed, strict=True)]
    both, other = largest([*found, *claimed]), largest(off)
    numbered = len(told["columns"]) <= NUMBERED
    return {
        "columns": [(name, _short(name)) for name in told["columns"]],
        "own": any(_short(name)[0] == "n" for name in told["columns"]),
        "numbered": numbered,
        "panels": [
            _panel("the sampler", told["rows"], found, both, DECADES, numbered),
            _panel("claimed", told["rows"], claimed, both, DECADES, numbered),
            _panel("difference", told["rows"], off, other, DECADES_OFF, numbered),
        ],
        "left_out": told["left_out"],
        "blank": (10**-DECADES, 10**-DECADES_OFF),
    }


def _panel(
    name: str, rows: list[str], numbers: list[list[float]], most: float, decades: float, numbered: bool
) -> Panel:
    def cell(weight: float) -> Weight:
        tint = level(weight, most, decades)
        if not tint:
            return Weight("", "", "")
        full = f"{weight:.8g}"
        return Weight(f"{'p' if tint > 0 else 'n'}{abs(tint)}", _brief(weight) if numbered else "", full)

    return Panel(name, most, [(row, [cell(w) for w in those]) for row, those in zip(rows, numbers, strict=True)])


def largest(numbers: Iterable[Iterable[float]]) -> float:
    """The largest finite magnitude; 1 where all are zero."""
    return max((abs(w) for row in numbers for w in row if math.isfinite(w)), default=0.0) or 1.0


def level(weight: float, most: float, decades: float) -> int:
    """The colour of a weight, see above; the last one where it is no number."""
    if weight == 0:
        return 0
    if not math.isfinite(weight):
        return LEVELS
    size = math.ceil(LEVELS * (1 + math.log10(abs(weight) / most) / decades))
    return max(0, min(size, LEVELS)) * (1 if weight > 0 else -1)


def _brief(weight: float) -> str:
    """A number of at most six characters: two decimals, of large ones none, and a power of ten at last."""
    if 0.01 <= abs(weight) < 99.995:
        text = f"{weight:.2f}"
    elif 1 < abs(weight) < 99999.5:
        text = f"{weight:.0f}"
    else:
        text = f"{weight:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return text.replace("-", "\N{MINUS SIGN}", 1) if weight < 0 else text


def _short(name: str) -> str:
    """The letter of a term: x the start, o the network's answers, z the method's normals, n the sampler's own."""
    kind, _, number = name.partition(" ")
    return {"start": "x", "answer": "o", "normal": "z"}.get(kind, "n") + number.rpartition(" ")[2]
