r"""One workload from beginning to end.

    reference answer  ->  each contender's best candidate, found on part of the points  ->  its answer at full size,
    compared with the reference  ->  alternating rounds, with this machine's limits measured in each  ->  peak memory
    ->  refdiff's cost at some sizes

A contender that cannot run here, or breaks, says why and takes no further part; one whose answer is wrong is timed
all the same, and reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from refdiff.validation.benchmarks import agreement, contenders, growth, measuring, peers_numpy
from refdiff.validation.benchmarks.agreement import Agreement
from refdiff.validation.benchmarks.contenders import OWN, Contender
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.places import Place
from refdiff.validation.benchmarks.problems import Problem
from refdiff.validation.benchmarks.workloads import Goal, Workload

# the values of a size whose exponent is fitted at the tiny level, that of tests
TINY = (2, 4)


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        level: full, quick or tiny sizes.
        peers: take part where installed.
        threads: what each contender may use.
        rounds, budget: see `measuring.alternate`.
    """

    level: str = "full"
    peers: bool = False
    threads: int = 2
    rounds: int = measuring.ROUNDS
    budget: float = measuring.BUDGET


@dataclass(frozen=True)
class Entry:
    """One contender in one workload.

    Attributes:
        name, versions: who.
        variant: its fastest candidate, and `tried` the seconds a point of all.
        first: seconds of the variant's first run, on all points or those it was tried on: what compiling takes is here.
        seconds: of each round, after runs to warm up; empty where `problem` says what went wrong.
        ratio: how many times longer it took than refdiff, the median over common rounds.
        agreement: its answer against the reference.
        extra_bytes: peak memory during a run; None where it is not known.
    """

    name: str
    versions: Mapping[str, str]
    variant: str = ""
    tried: Mapping[str, float] = field(default_factory=dict)
    first: float | None = None
    seconds: Sequence[float] = ()
    ratio: float | None = None
    agreement: Agreement | None = None
    extra_bytes: int | None = None
    problem: str = ""

    @property
    def median(self) -> float | None:
        """Median seconds."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def wrong(self) -> bool:
        """Whether its answer was compared and is not the reference's."""
        return self.agreement is not None and not self.agreement.holds


@dataclass(frozen=True)
class Reached:
    """A goal, what was measured, and whether that is as asked for; None where nothing was measured."""

    goal: str
    measured: float | None
    reached: bool | None


@dataclass(frozen=True)
class Outcome:
    """What one workload gave.

    Attributes:
        missing: what would have to be installed, by contender.
        limits: medians over the rounds, as `machine` answered.
        fractions: refdiff's useful work in each second over the limit of the same round, medians.
        growth: fits by size.
    """

    workload: Workload
    sizes: Mapping[str, int]
    entries: Sequence[Entry]
    missing: Mapping[str, Sequence[str]]
    limits: Any
    fractions: Mapping[str, float]
    goals: Sequence[Reached]
    growth: Mapping[str, growth.Fit]

    @property
    def failed(self) -> bool:
        """Whether refdiff broke, or any answer is wrong."""
        return any(one.wrong or (one.name == OWN.name and one.problem) for one in self.entries)


def measure(
    workload: Workload,
    plan: Plan,
    machine: Callable[[], Any],
    tell: Callable[[str], None] = lambda _: None,
    field: Sequence[Contender] | None = None,
    place: Place | None = None,
) -> Outcome:
    """Measure a workload.

    Args:
        workload, plan: what, and how.
        machine: measures the limits, as `limits.Machine`: named numbers.
        tell: is told what is done next.
        field: who takes part, refdiff first; those of the place unless given.
        place: where it runs; the processors unless given.
    """
    place = CPU if place is None else place
    problem = place.problem(workload.problem(plan.level))
    everyone = contenders.of_kind(workload.kind, place.contenders) if field is None else list(field)
    asked = [one for one in everyone if plan.peers or not one.peer]
    tell("reference answer")
    check = place.check(workload, problem, plan.threads)
    found: dict[str, tuple[Entry, Candidate | None]] = {}
    for one in asked:
        if not one.missing:
            tell(one.name)
            found[one.name] = _prepared(one, problem, plan, check, place)
    running = {
        name: Guarded(partial(candidate.run, candidate.share(len(problem.x))))
        for name, (_, candidate) in found.items()
        if candidate is not None
    }
    tell("rounds")
    rounds = None
    if running:
        rounds = measuring.alternate(running, machine, plan.rounds, plan.budget, place.clock, place.rest)
    entries = []
    for name, (entry, candidate) in found.items():
        if candidate is not None and running[name].problem:
            entry = Entry(name, entry.versions, problem=running[name].problem)
        elif rounds is not None and candidate is not None:
            tell(f"memory of {name}")
            entry = _measured(entry, rounds, running, len(problem.x) / candidate.share(len(problem.x)), place)
        entries.append(entry)
    tell("growth")
    own = next((one for one in entries if one.name == OWN.name), None)
    noted = rounds.before if rounds is not None else [machine()]
    fractions = _fractions(problem, own.seconds if own else (), noted)
    return Outcome(
        workload,
        problem.sizes,
        entries,
        {one.name: one.missing for one in asked if one.missing},
        type(noted[0])(*(statistics.median(column) for column in zip(*noted, strict=True))),
        fractions,
        _goals(workload, entries, own, fractions),
        _growth(workload, plan) if own is not None and not own.problem else {},
    )


def _check(workload: Workload, problem: Problem, threads: int) -> Callable[[Any], Agreement]:
    reference = peers_numpy.reference(problem, threads)
    allowed = workload.allowed if problem.allowed is None else problem.allowed
    if allowed is None:
        return lambda answer: agreement.of_samples(answer, reference)
    return lambda answer: agreement.of_numbers(answer, reference, allowed)


def _prepared(
    one: Contender, problem: Problem, plan: Plan, check: Callable[[Any], Agreement], place: Place
) -> tuple[Entry, Candidate | None]:
    """The contender's best candidate, warm, with its answer compared; or what went wrong."""
    entry = Entry(one.name, one.versions)
    try:
        ways = list(one.candidates(problem, plan.threads))
        found = measuring.fastest(ways, len(problem.x), clock=place.clock) if len(ways) > 1 else None
        best, tried = (ways[0], {}) if found is None else found[:2]
        start = place.clock()
        answer = best.run(best.share(len(problem.x)))
        first = place.clock() - start if found is None else found.first[best.label]
        agreed = check(answer)
    except Exception as error:  # of any library, in any state: the others go on
        return Entry(one.name, one.versions, problem=in_words(error)), None
    return Entry(entry.name, entry.versions, best.label, tried, agreement=agreed, first=first), best


def in_words(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


class Guarded:
    """A function that is run many times until it breaks, as in a machine's memory that others fill; then never more."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._run, self.problem = run, ""

    def __call__(self) -> None:
        """Run it."""
        try:
            if not self.problem:
                self._run()
        except Exception as error:  # of any library, in any state: the others go on
            self.problem = in_words(error)


def _measured(
    entry: Entry,
    rounds: measuring.Rounds[Any],
    running: Mapping[str, Guarded],
    scale: float,
    place: Place,
) -> Entry:
    """The entry with seconds of all points, `scale` times those it was run on."""
    own = running.get(OWN.name)
    ratio = scale * rounds.ratio(entry.name, OWN.name) if own is not None and not own.problem else None
    extra = place.extra_bytes(running[entry.name])
    seconds = [scale * one for one in rounds.seconds[entry.name]]
    return replace(entry, seconds=seconds, ratio=ratio, extra_bytes=extra)


def _fractions(problem: Problem, seconds: Sequence[float], noted: Sequence[Any]) -> dict[str, float]:
    """Work per second over the limit, the median over rounds, for each limit that the work has a number for."""
    amounts = problem.work._asdict()
    if "products" in noted[0]._fields:  # matrix products by tensor cores may be beyond what else does operations
        amounts["products"] = amounts["flops"]
    return {
        name: statistics.median(amount / s / getattr(limit, name) for s, limit in zip(seconds, noted, strict=True))
        for name, amount in amounts.items()
        if amount is not None and seconds
    }


CPU = Place(
    contenders.CONTENDERS, _check, time.perf_counter, lambda: time.sleep(measuring.REST), measuring.peak_extra_bytes
)


def _goals(
    workload: Workload, entries: Sequence[Entry], own: Entry | None, fractions: Mapping[str, float]
) -> list[Reached]:
    def ratio(goal: Goal) -> float | None:
        return min((e.ratio for e in entries if e.name in goal.against and e.ratio and not e.wrong), default=None)

    found = [_reached(goal.text, ratio(goal), goal.least) for goal in workload.goals]
    for name, least in workload.limit.items():
        found.append(_reached(f"{least:.0%} of the limit in {name}", fractions.get(name), least))
    if workload.memory is not None:
        extra = None if own is None else own.extra_bytes
        below = None if extra is None else extra < workload.memory
        found.append(Reached(f"extra memory below {workload.memory / 1e6:g} MB", extra, below))
    return found


def _reached(goal: str, measured: float | None, least: float) -> Reached:
    return Reached(goal, measured, None if measured is None else measured >= least)


def _growth(workload: Workload, plan: Plan) -> dict[str, growth.Fit]:
    """The exponents of refdiff's cost."""
    fits = {}
    for axis, values in workload.grows.items():
        base, sizes = workload.base, values[: 3 if plan.level == "quick" else None]
        if plan.level == "tiny":
            base, sizes = workload.tiny, TINY
        fits[axis] = growth.fit(sizes, [_cost(workload, {**base, axis: size}, plan) for size in sizes])
    return fits


def _cost(workload: Workload, sizes: Mapping[str, int], plan: Plan) -> float:
    """The least seconds of three warm runs."""
    problem = workload.problem("full", **sizes)
    (own,) = OWN.candidates(problem, plan.threads)
    own.run(len(problem.x))
    seconds = []
    for _ in range(1 if plan.level == "tiny" else 3):
        start = time.perf_counter()
        own.run(len(problem.x))
        seconds.append(time.perf_counter() - start)
    return float(np.min(seconds))
