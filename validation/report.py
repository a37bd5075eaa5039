r"""What a run of the identities found: the verdict in a line, and everything as JSON for machines."""

from __future__ import annotations

import math
import os
import platform
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

import refdiff
from refdiff.validation.identity import REJECTION, ROUNDING
from refdiff.validation.runner import Outcome

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Run:
    """Outcomes in the order of the registry, and what they are outcomes of.

    Attributes:
        asked: how many identities were to be run; more than the outcomes after an interrupt.
        level, seed: of the cases.
        data: what the given data is, "" for the built-in cases.
        seconds: from start to end, on the clock.
    """

    outcomes: tuple[Outcome, ...]
    asked: int
    level: str
    seed: int
    data: str
    seconds: float

    @property
    def interrupted(self) -> bool:
        """Whether identities are missing."""
        return len(self.outcomes) < self.asked

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that are FAILED or BLIND."""
        return [one for one in self.outcomes if not one.passed]

    @cached_property
    def topics(self) -> dict[str, list[Outcome]]:
        """Outcomes by topic, topics in the order they first appear."""
        found: dict[str, list[Outcome]] = {}
        for one in self.outcomes:
            found.setdefault(one.identity.topic, []).append(one)
        return found

    @property
    def verdict(self) -> str:
        """One line: how many hold or which fail, and the rounding error that came nearest to its tolerance."""
        ran = [one for one in self.outcomes if one.verdict != "n/a"]
        bad, cases = self.failures, sum(one.cases for one in ran)
        names = ", ".join(repr(one.identity.name) for one in bad[:3]) + (", ..." if len(bad) > 3 else "")
        verb = "fails" if len(bad) == 1 else "fail"
        what = f"{len(bad)} of {counted(len(ran), 'identity')} {verb}: {names}" if bad else "Nothing ran"
        if ran and not bad:
            what = f"{counted(len(ran), 'identity')} hold{'s' * (len(ran) == 1)} on {counted(cases, 'case')}"
        idle = len(self.outcomes) - len(ran)
        parts = [what, f"{idle} do not apply"] if idle else [what]
        rounding = [one for one in ran if one.identity.evidence is ROUNDING and not one.raised]
        if rounding:
            worst = max(rounding, key=lambda one: one.error / one.identity.tolerance)
            parts.append(
                f"worst rounding error {brief(worst.error)} of tolerance {brief(worst.identity.tolerance)} "
                f"in {worst.identity.name!r}" + f" ({worst.worst})" * bool(worst.worst)
            )
        parts.append(f"{self.seconds:.1f} s")
        stopped = f"INTERRUPTED after {len(self.outcomes)} of {self.asked}. " if self.interrupted else ""
        return stopped + "; ".join(parts) + "."


def counted(n: int, noun: str) -> str:
    """n with its noun, in the plural where it must be."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{n} {noun if n == 1 else plural}"


def brief(value: float) -> str:
    """A value in two digits, with a power of ten where they need one: 3.1e-15, 1e-12, 0, 7, 450, inf."""
    if value == 0 or not math.isfinite(value) or 0.1 <= abs(value) < 1000:
        return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def remark(one: Outcome) -> str:
    """Why an outcome, one, is what it is, in words; "" for a plain success."""
    if one.raised:
        return f"the check broke: {one.raised}"
    if one.verdict == "n/a":
        return "no case it applies to"
    if not math.isfinite(one.error):
        return f"a value that is not a finite number, in {one.worst}"
    if one.verdict == "FAILED":
        return f"{brief(one.error / one.identity.tolerance)} tolerances apart, in {one.worst}"
    if one.verdict == "BLIND":
        return f"the negative control missed by {brief(one.control)} tolerances only, {REJECTION:g} are asked for"
    return "" if math.isfinite(one.control) else "the negative control gave a value that is not a finite number"


# ---------------------------------------------------------------------- machines


def environment() -> dict[str, Any]:
    """Versions and the machine, without importing anything large."""
    return {
        "refdiff": refdiff.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("numpy", "scipy")},
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processors": os.cpu_count(),
    }


def as_json(run: Run) -> dict[str, Any]:
    """Everything as plain values; numbers that are not finite are None, and `remark` says so."""
    return {
        "format": FORMAT,
        "version": refdiff.__version__,
        "seed": run.seed,
        "level": run.level,
        "data": run.data or None,
        "platform": environment(),
        "passed": not run.failures and not run.interrupted,
        "interrupted": run.interrupted,
        "verdict": run.verdict,
        "counts": dict(Counter(one.verdict for one in run.outcomes)),
        "seconds": round(run.seconds, 3),
        "identities": [_entry(one) for one in run.outcomes],
    }


def _entry(one: Outcome) -> dict[str, Any]:
    ran = one.verdict != "n/a"
    return {
        "name": one.identity.name,
        "topic": one.identity.topic,
        "formula": one.identity.formula,
        "covers": list(one.identity.covers),
        "refutes": list(one.identity.refutes),
        "over": one.identity.over,
        "evidence": one.identity.evidence.name,
        "tolerance": one.identity.tolerance,
        "error": _finite(one.error) if ran else None,
        "worst_case": one.worst or None,
        "control": one.identity.control,
        "control_score": _finite(one.control) if ran else None,
        "cases": one.cases,
        "seconds": round(one.seconds, 4),
        "verdict": one.verdict,
        "remark": remark(one),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
