"""Where contenders run: who they are there, how answers are checked, and what measures time and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from refdiff.validation.benchmarks.agreement import Agreement
from refdiff.validation.benchmarks.contenders import Contender
from refdiff.validation.benchmarks.problems import Problem
from refdiff.validation.benchmarks.workloads import Workload


def as_it_is(problem: Problem) -> Problem:
    """The problem."""
    return problem


@dataclass(frozen=True)
class Place:
    """Processors, or one GPU.

    Attributes:
        contenders: who may take part, refdiff first.
        check: (workload, problem, threads) -> what compares an answer with the reference.
        clock: seconds, increasing; what was asked for before is done when it answers.
        rest: called before each run that is measured.
        extra_bytes: by how much the memory grows while a function runs; None where it is not known.
        problem: the problem as it is given to contenders there, in the type of numbers `dtype`.
        about: the device in words; empty for processors.
        definitions: what the numbers mean there, where that differs.
    """

    contenders: Sequence[Contender]
    check: Callable[[Workload, Problem, int], Callable[[Any], Agreement]]
    clock: Callable[[], float]
    rest: Callable[[], object]
    extra_bytes: Callable[[Callable[[], object]], int | None]
    problem: Callable[[Problem], Problem] = as_it_is
    dtype: str = "float64"
    about: str = ""
    definitions: Mapping[str, str] = field(default_factory=dict)
