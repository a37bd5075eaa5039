r"""Running identities: every check on its cases, then its negative control on the same cases.

An identity holds when its worst error is within tolerance and its control misses by REJECTION tolerances on some
case; a control that is not rejected says that the check could not have failed, and counts as a failure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from refdiff import backends
from refdiff.distributions import GaussianMixture
from refdiff.validation.cases import KINDS, Case
from refdiff.validation.identity import REGISTRY, REJECTION, Identity


@dataclass(frozen=True)
class Outcome:
    """What one identity scored.

    Attributes:
        error: the worst scaled error and `worst`, the case it came from.
        control: the largest error of the negative control, in tolerances (at level quick, the first that rejects it).
        cases: how many cases it ran on, in these seconds; 0 where none applies (only with given data).
        raised: what an exception said, or "".
    """

    identity: Identity
    error: float
    worst: str
    control: float
    cases: int
    seconds: float
    raised: str = ""

    @property
    def verdict(self) -> str:
        """ok, FAILED (an error above tolerance), BLIND (the control was not rejected) or n/a (no case applies)."""
        if self.cases == 0 and not self.raised:
            return "n/a"
        if self.raised or not self.error <= self.identity.tolerance:
            return "FAILED"
        return "ok" if self.control >= REJECTION else "BLIND"

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict in ("ok", "n/a")


def run(chosen: Identity, cases: Iterable[Case], level: str = "default") -> Outcome:
    """The outcome of one identity on these cases (those it does not apply to are passed over).

    The control is tried on every case for its largest miss; at level quick only until a case rejects it. What a check
    does not itself give to another backend is done by NumPy: the identities prove the reference.

    Examples:
        >>> from refdiff.validation.cases import KINDS
        >>> from refdiff.validation.runner import registry, run
        >>> tweedie = registry()["Tweedie, first order"]
        >>> found = run(tweedie, KINDS[tweedie.over]("quick", 0, None), level="quick")
        >>> print(found.verdict, found.error < tweedie.tolerance, found.control > 100)
        ok True True
    """
    with backends.use("numpy"):
        return _run(chosen, cases, level)


def _run(chosen: Identity, cases: Iterable[Case], level: str) -> Outcome:
    start = time.perf_counter()
    error, worst, control, count = 0.0, "", 0.0, 0
    applicable: list[Case] = []
    try:
        for case in cases:
            if chosen.needs(case):
                applicable.append(case)
        for case in _share(chosen, applicable, level):
            count += 1
            worst = worst or case.name
            found = chosen.error(case)
            if not found <= error:
                error, worst = found, case.name
            if level == "quick" and control >= REJECTION:
                continue
            missed = chosen.error(case, wrong=True) / chosen.tolerance
            # not a number is no evidence: a mistake must give a wrong number to be rejected by it
            control = max(control, missed if np.isfinite(missed) else 0.0)
    except Exception as problem:  # a check that breaks is a failure to report, not to stop at
        return Outcome(chosen, np.inf, case.name, control, count, time.perf_counter() - start, f"{problem!r}")
    return Outcome(chosen, error, worst, control, count, time.perf_counter() - start)


def _share(chosen: Identity, applicable: list[Case], level: str) -> list[Case]:
    """All cases that an identity applies to; of a costly one `most` of them, evenly spread, half as many if quick."""
    if level == "thorough" or chosen.most is None:
        return applicable
    count = min(len(applicable), chosen.most if level == "default" else (chosen.most + 1) // 2)
    return [applicable[i * len(applicable) // count] for i in range(count)]


def run_all(
    chosen: Iterable[Identity], level: str = "default", seed: int = 0, given: dict[str, GaussianMixture] | None = None
) -> Iterator[Outcome]:
    """The outcomes of many identities on the cases of a level and a seed; `given` laws replace the default ones."""
    cases: dict[str, list[Case]] = {}
    for one in chosen:
        if one.over not in cases:
            cases[one.over] = list(KINDS[one.over](level, seed, given))
        yield run(one, cases[one.over], level)


def registry() -> dict[str, Identity]:
    """Every identity by name, after importing all files of validation/identities."""
    from refdiff.validation.identities import load

    load()
    return REGISTRY
