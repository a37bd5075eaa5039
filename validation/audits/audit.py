r"""An audit: the subjects of targets, put to every check, one after the other or in several processes.

What a check yields does not depend on which process it ran in, so results are the same for any number of jobs.
"""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

import refdiff
from refdiff.validation.audits.checks import Check, common
from refdiff.validation.audits.findings import Finding, Verdict, not_applicable
from refdiff.validation.audits.protocols.protocol import Protocol, protocols
from refdiff.validation.audits.scripts import reproduced
from refdiff.validation.audits.sources import Source, method_of, source_of
from refdiff.validation.audits.subject import Sampler, Subject
from refdiff.validation.audits.targets import Target, audited, installed
from refdiff.validation.parallel import spread

# folders of refdiff's own code (validation/ need not lie in the package's), and what it stands on: errors that come
# from there alone say nothing of what is audited
OWN = (Path(refdiff.__file__).parent, Path(__file__).parents[1])
BENEATH, PYTHON = frozenset({"llvmlite", "numba", "numpy", "scipy"}), Path(os.__file__).parent


@dataclass(frozen=True)
class Result:
    """What was found about one subject.

    Attributes:
        name, member, protocol, library, version, options: whose findings these are.
        findings: in the order of the checks, with details of plain values.
        steps: the numbers of steps with which it was made.
        seconds: from start to end, on the clock.
        audited, method: the code that was audited, and that of the method that it is compared with; None where there
            is none, or no place of it is known.
    """

    name: str
    member: str
    protocol: str
    library: str
    version: str
    options: Mapping[str, Any]
    findings: tuple[Finding, ...]
    steps: tuple[int, ...]
    seconds: float
    audited: Source | None = None
    method: Source | None = None


@dataclass(frozen=True)
class Unit:
    """A subject, by its target and its place among the target's subjects; place -1 where they cannot be listed."""

    target: Target
    place: int
    name: str
    why: str = ""


def units(targets: Iterable[Target]) -> list[Unit]:
    """The subjects of all targets."""
    found = []
    for target in targets:
        try:
            found += [Unit(target, place, one.name) for place, one in enumerate(_subjects(target))]
        except (
            Exception,
            SystemExit,
        ) as error:  # foreign code may raise anything, and one class is not all
            found.append(Unit(target, -1, target.member, f"{type(error).__name__}: {error}"))
    return found


def results(
    chosen: Sequence[Unit], *, quick: bool = False, questions: re.Pattern[str] | None = None, jobs: int = 1
) -> Generator[tuple[int, Result], None, None]:
    """Results as they are found, each with the place of its unit in `chosen`.

    Args:
        questions: only the checks of which a name matches, see `names`.
        jobs: processes at work; 1 is this process.
    """
    if jobs == 1:
        for place, unit in enumerate(chosen):
            yield place, result(unit, quick, questions)
        return
    with closing(spread(result, [(unit, quick, questions) for unit in chosen], jobs)) as done:
        for place, future in done:
            yield place, _received(chosen[place], future)


def result(unit: Unit, quick: bool = False, questions: re.Pattern[str] | None = None) -> Result:
    """The result about one subject."""
    start = time.perf_counter()
    if unit.place < 0:
        return _broken(unit, f"its options cannot be listed: {unit.why}")
    subject = _subjects(unit.target)[unit.place]
    protocol, steps = protocols()[unit.target.protocol], set[int]()
    chosen = [one for one in checks(protocol) if questions is None or any(map(questions.search, names(one)))]
    with silence():
        found = reproduced(examine([_counted(subject, steps)], protocol, chosen, quick=quick))
        method = _method(subject, steps)
    library = subject.library or protocol.library or ""
    return Result(
        name=unit.name,
        member=unit.target.member,
        protocol=protocol.name,
        library=library,
        version=subject.version or installed(library) or "",
        options=plain(dict(subject.options)),
        findings=tuple(_plain(replace(one, about=unit.target.about)) for one in found),
        steps=tuple(sorted(steps)),
        seconds=time.perf_counter() - start,
        audited=source_of(audited(unit.target)),
        method=method,
    )


def examine(
    subjects: Iterable[Subject],
    protocol: Protocol,
    chosen: Iterable[Check] | None = None,
    *,
    quick: bool = False,
) -> Iterator[Finding]:
    """The findings about each subject, by the checks of every protocol and by this one's own."""
    asked = checks(protocol) if chosen is None else tuple(chosen)
    for subject in subjects:
        for check in asked:
            if not subject.checks or set(names(check)) & set(subject.checks):
                yield from _guarded(check, subject, quick)


def checks(protocol: Protocol) -> tuple[Check, ...]:
    """What is examined under a protocol."""
    return (*common(), *protocol.checks)


def names(check: Check) -> tuple[str, ...]:
    """What a check is known by: its function's name, its file's, and the question that the file states."""
    module, own = getattr(check, "__module__", ""), getattr(check, "__name__", "check")
    stated = getattr(check, "__globals__", {}).get("QUESTION", "")
    return tuple(dict.fromkeys(filter(None, (own.replace("_", " "), module.rpartition(".")[2], stated))))


def _guarded(check: Check, subject: Subject, quick: bool) -> Iterator[Finding]:
    try:
        yield from check(subject, quick)
    except (Exception, SystemExit) as error:  # foreign code may raise anything, and one check must not end the audit
        said = f"{type(error).__name__}: {error}"
        if _own(error):
            yield not_applicable(subject.name, names(check)[0], f"refdiff's check broke, which says nothing: {said}")
        else:
            yield Finding(subject.name, names(check)[0], Verdict.WRONG, f"breaks: {said}", place="exception")


def _own(error: BaseException) -> bool:
    """Whether no line that led to the error is of what is audited: all are refdiff's, or of what it stands on."""
    return all(_beneath(Path(frame.filename)) for frame in traceback.extract_tb(error.__traceback__))


def _beneath(path: Path) -> bool:
    if any(path.is_relative_to(home) for home in OWN):
        return True
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1] in BENEATH
    return path.is_relative_to(PYTHON)


# ---------------------------------------------------------------------- subjects in this process

_listed: dict[str, list[Subject]] = {}


def _subjects(target: Target) -> list[Subject]:
    """The subjects of a target, listed once in a process."""
    key = repr(target)
    if key not in _listed:
        with silence():
            _listed[key] = list(target.subjects())
    return _listed[key]


def _counted(subject: Subject, steps: set[int]) -> Subject:
    """The subject, which notes the numbers of steps that it is built with."""

    def build(count: int) -> Sampler:
        made = subject.build(count)
        steps.add(int(count))
        return made

    return replace(subject, build=build)


def _method(subject: Subject, steps: Iterable[int]) -> Source | None:
    """The claimed method, from the first number of steps with which the sampler can be made."""
    for count in sorted(steps):
        try:
            claim = subject.build(count).claim
        except (Exception, SystemExit):  # told by the checks
            continue
        return None if claim is None else method_of(claim)
    return None


@contextmanager
def silence() -> Iterator[None]:
    """Warnings and logs of foreign code are not the audit's."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _broken(unit: Unit, why: str) -> Result:
    protocol = protocols()[unit.target.protocol]
    finding = Finding(unit.name, "subject", Verdict.WRONG, why, place="exception", about=unit.target.about)
    return Result(unit.name, unit.target.member, protocol.name, protocol.library or "", "", {}, (finding,), (), 0.0)


def _received(unit: Unit, future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        return _broken(unit, "a worker process ended early: killed, or out of memory")
    except (Exception, SystemExit) as error:  # the worker could not import the target
        return _broken(unit, f"{type(error).__name__}: {error}")


# ---------------------------------------------------------------------- plain values


def _plain(finding: Finding) -> Finding:
    """The finding with details that any process and JSON can take, and numbers of Python."""
    number, bound = (None if value is None else float(value) for value in (finding.number, finding.bound))
    return replace(finding, number=number, bound=bound, details=plain(finding.details))


def plain(value: Any) -> Any:
    """Numbers, words, lists and tables of them; anything else by what it prints as."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return str(value)
