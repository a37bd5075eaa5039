r"""What the benchmarks found, as tables for people and as JSON for machines."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from refdiff.validation.benchmarks.places import Place
from refdiff.validation.benchmarks.suite import CPU, Entry, Outcome, Plan
from refdiff.validation.report import brief, environment

if TYPE_CHECKING:
    from rich.table import Table

    from refdiff.validation.benchmarks.contenders import Contender

FORMAT = 1
# what changes the speed of a library without a trace in its version
VARIABLES = ("OMP_", "OPENBLAS_", "MKL_", "NUMBA_", "XLA_", "REFDIFF_")

DEFINITIONS = {
    "seconds": "median over alternating rounds, warm",
    "first run": "seconds of the first run of that variant, with what it compiles; on an eighth of the points where "
    "variants were tried",
    "ratio": "median over rounds of seconds / refdiff's seconds in the round",
    "useful flops": "4 n K d for each evaluation: distances and weighted mean, one multiply-add an element "
    "(log density: 2 n K d)",
    "useful exponentials": "n K for each evaluation",
    "useful bytes": "points read and written once (point set: its points as well)",
    "fraction": "useful work / refdiff's seconds / the limit measured in the same round",
    "limits": "dgemm of NumPy; exp on arrays in cache, the faster of NumPy's and refdiff's; bytes read and written "
    "by a copy",
    "memory": "peak resident memory during one warm run, less that before it",
    "growth": "exponent of refdiff's cost in one size, least squares in logarithms, +- the residual's root mean square",
}


def head(plan: Plan, place: Place | None = None) -> list[str]:
    """What is run, on what, and what the numbers mean."""
    about, place = environment(), place or CPU
    machine = f"{about['system']}, {about['machine']}, {about['processors']} processors"
    lines = [f"refdiff {about['refdiff']}, level {plan.level}, {plan.threads} threads, {place.dtype}; {machine}"]
    lines += [place.about] if place.about else []
    if variables := _variables():
        lines.append(" ".join(f"{name}={value}" for name, value in variables.items()))
    return [*lines, *(f"{name}: {words}" for name, words in definitions(place).items())]


def definitions(place: Place) -> dict[str, str]:
    """What the numbers mean there."""
    return {**DEFINITIONS, **place.definitions}


def sizes(given: Mapping[str, int]) -> str:
    """Sizes in words."""
    return ", ".join(f"{name} = {size:,}" for name, size in given.items())


def versions(one: Entry | Contender) -> str:
    """The distributions behind a contender."""
    return ", ".join(f"{name} {version}" for name, version in one.versions.items())


# ---------------------------------------------------------------------- for people


def shown(outcome: Outcome) -> Iterator[str | Table]:
    """A workload's lines and table."""
    yield f"\n{outcome.workload.name}: {outcome.workload.title}, {sizes(outcome.sizes)}"
    yield _table(outcome.entries)
    for one in outcome.entries:
        if one.problem:
            yield f"  {one.name} did not run: {one.problem}"
    for name, needed in outcome.missing.items():
        yield f"  {name}: not installed: pip install {' '.join(needed)}"
    for goal in outcome.goals:
        verdict = {None: "not measured", True: "reached", False: "NOT REACHED"}[goal.reached]
        measured = "" if goal.measured is None else f"{brief(goal.measured)}, "
        yield f"  goal {goal.goal}: {measured}{verdict}"
    words, unit = outcome.limits.words, {"exponentials": "G/s", "bytes": "GB/s"}
    rates = (
        f"{words[n]} {value / 1e9:.{2 if n == 'exponentials' else 1}f} {unit.get(n, 'GFLOP/s')}"
        for n, value in outcome.limits._asdict().items()
    )
    yield "  limits: " + ", ".join(rates)
    if outcome.fractions:
        yield "  refdiff reaches " + ", ".join(f"{outcome.fractions[n]:.1%} of {words[n]}" for n in outcome.fractions)
    if outcome.growth:
        fits = (f"{axis}^{fit.exponent:.2f} (+-{fit.residual:.2f})" for axis, fit in outcome.growth.items())
        yield "  refdiff's cost grows as " + ", ".join(fits)


def _table(entries: Sequence[Entry]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column, justify in (
        ("  contender", "left"),
        ("seconds", "right"),
        ("ratio", "right"),
        ("rounds", "right"),
        ("first run", "right"),
        ("memory", "right"),
        ("answer", "left"),
        ("variant", "left"),
    ):
        table.add_column(column, justify=justify, no_wrap=column != "variant")  # type: ignore[arg-type]
    for one in entries:
        if not one.problem:
            table.add_row(*_row(one))
    return table


def _row(one: Entry) -> Iterable[str]:
    yield f"  {one.name}"
    yield "" if one.median is None else f"{one.median:.4g}"
    yield "" if one.ratio is None else f"{one.ratio:.2f}"
    yield str(len(one.seconds))
    yield "" if one.first is None else f"{one.first:.4g}"
    yield "unknown" if one.extra_bytes is None else f"{one.extra_bytes / 1e6:.1f} MB"
    yield "" if one.agreement is None else _agreement(one)
    yield one.variant


def _agreement(one: Entry) -> str:
    found = one.agreement
    assert found is not None
    unit = "" if found.unit == "relative" else " s.e."
    return (
        f"{brief(found.error)}{unit}" if found.holds else f"WRONG: {brief(found.error)} > {brief(found.allowed)}{unit}"
    )


# ---------------------------------------------------------------------- for machines


def as_json(
    outcomes: Sequence[Outcome], plan: Plan, interrupted: bool = False, place: Place | None = None
) -> dict[str, Any]:
    """Everything as plain values; numbers that are not finite are None."""
    place = place or CPU
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": environment(),
        "variables": _variables(),
        "plan": vars(plan),
        "device": place.about or "processors",
        "dtype": place.dtype,
        "definitions": definitions(place),
        "passed": not interrupted and not any(one.failed for one in outcomes),
        "interrupted": interrupted,
        "workloads": [_workload(one) for one in outcomes],
    }


def _workload(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.workload.name,
        "title": outcome.workload.title,
        "kind": outcome.workload.kind,
        "sizes": dict(outcome.sizes),
        "contenders": [_entry(one) for one in outcome.entries],
        "not_installed": {name: list(needed) for name, needed in outcome.missing.items()},
        "limits_per_second": _numbers(outcome.limits._asdict()),
        "fractions": _numbers(outcome.fractions),
        "goals": [
            {"goal": one.goal, "measured": _number(one.measured), "reached": one.reached} for one in outcome.goals
        ],
        "growth": {
            axis: {name: _number(value) for name, value in fit._asdict().items()}
            for axis, fit in outcome.growth.items()
        },
    }


def _entry(one: Entry) -> dict[str, Any]:
    agreed = None
    if one.agreement is not None:
        agreed = {**one.agreement._asdict(), "error": _number(one.agreement.error), "holds": one.agreement.holds}
    return {
        "name": one.name,
        "versions": dict(one.versions),
        "variant": one.variant,
        "seconds_a_point_of_variants": _numbers(one.tried),
        "seconds": [_number(value) for value in one.seconds],
        "median_seconds": _number(one.median),
        "first_seconds": _number(one.first),
        "ratio": _number(one.ratio),
        "answer": agreed,
        "peak_extra_bytes": one.extra_bytes,
        "problem": one.problem or None,
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _variables() -> dict[str, str]:
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
