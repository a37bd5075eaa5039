r"""Running identities, or any work, side by side in worker processes, with the results of one process.

Every case draws its numbers from the seed and its own name, so an outcome does not depend on which process found it,
nor on what ran before. Workers are started afresh (never forked from threads that hold locks) and give linear algebra
one thread each, so that the results are the same to the last bit for any number of them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from refdiff.distributions import GaussianMixture
from refdiff.validation.cases import KINDS, Case
from refdiff.validation.identity import REGISTRY, Identity
from refdiff.validation.runner import Outcome, run, run_all
from refdiff.validation.threads import VARIABLES, limited

Given = dict[str, GaussianMixture] | None
Made = TypeVar("Made")
SPAWN = multiprocessing.get_context("spawn")


def outcomes(
    chosen: Iterable[Identity], level: str = "default", seed: int = 0, given: Given = None, jobs: int = 1
) -> Generator[tuple[int, Outcome], None, None]:
    """Outcomes at a level as they are found by `jobs` processes, each with the place of its identity in `chosen`.

    One job is done in this process, unless its linear algebra has threads. A negative control that `given` data cannot
    reject, because its mistake makes no difference there (equal weights, one component), is judged on the built-in
    cases instead: what the control has to show is that the check can fail.
    """
    listed = list(chosen)
    jobs = max(1, min(jobs, len(listed)))
    if jobs == 1 and limited():
        for place, found in enumerate(run_all(listed, level, seed, given)):
            yield place, _sighted(found, seed, given)
        return
    tasks = [(one.check.__module__, one.name) for one in listed]
    with closing(spread(_one, tasks, jobs, _prepare, (level, seed, given))) as done:
        for place, future in done:
            yield place, _received(listed[place], future)


def spread(
    work: Callable[..., Made],
    tasks: Sequence[tuple[Any, ...]],
    jobs: int,
    prepare: Callable[..., None] | None = None,
    given: tuple[Any, ...] = (),
) -> Generator[tuple[int, Future[Made]], None, None]:
    """work(*task) for every task in `jobs` processes of one thread, as they are done, each with its place in `tasks`.

    Args:
        prepare: called in every worker when it starts, with what is `given`.

    A worker that ends early breaks its pool, and nothing says which of the tasks at work was its own: those go again,
    each alone, so that only the task that ends a worker by itself has a future with BrokenProcessPool. The rest go on
    in a new pool.
    """

    def pooled(left: deque[int], workers: int) -> Generator[tuple[int, Future[Made]], None, None]:
        return _until_broken(work, tasks, left, ProcessPoolExecutor(workers, SPAWN, prepare, given), workers)

    left = deque(range(len(tasks)))
    while left:
        suspects: list[int] = []
        with closing(pooled(left, jobs)) as done:
            for place, future in done:
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(place)
                else:
                    yield place, future
        for place in suspects:
            with closing(pooled(deque([place]), 1)) as done:
                yield from done


def _until_broken(
    work: Callable[..., Made], tasks: Sequence[tuple[Any, ...]], left: deque[int], pool: ProcessPoolExecutor, jobs: int
) -> Generator[tuple[int, Future[Made]], None, None]:
    """The tasks at the places in `left`, which are taken from there as workers are free, until a worker ends early."""
    before = set(multiprocessing.active_children())
    running: dict[Future[Made], int] = {}
    broken = False
    try:
        while running or (left and not broken):
            while left and len(running) < jobs and not broken:
                try:
                    with _quiet_start():
                        future = pool.submit(work, *tasks[left[0]])
                    running[future] = left.popleft()
                except BrokenProcessPool:
                    broken = True
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                broken |= isinstance(future.exception(), BrokenProcessPool)
                yield running.pop(future), future
    finally:  # also on an interrupt: what is running is worth nothing any more
        with _deaf(signal.SIGINT, signal.SIGTERM):
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()


def _received(one: Identity, future: Future[dict[str, Any]]) -> Outcome:
    try:
        return Outcome(one, **future.result())
    except BrokenProcessPool:
        problem = "a worker process ended early: killed, or out of memory"
    except Exception as error:  # the worker could not import the check
        problem = f"{error!r}"
    return Outcome(one, np.inf, "", 0.0, 0, 0.0, problem)


def _sighted(found: Outcome, seed: int, given: Given) -> Outcome:
    """The outcome, with the control's score on the built-in cases where given data could not reject it."""
    if given is None or found.verdict != "BLIND":
        return found
    built_in = run(found.identity, KINDS[found.identity.over]("quick", seed, None), "quick")
    return replace(found, control=max(found.control, built_in.control))


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Processes started here get one thread of linear algebra each, and leave Ctrl-C to this process."""
    old = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
    try:
        with _deaf(signal.SIGINT):  # not SIGTERM, by which they are ended
            yield
    finally:
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf(*signals: signal.Signals) -> Iterator[None]:
    """Signals wait here until the end, and are not heard by processes started here, which inherit the mask.

    Held back and not ignored: one that comes meanwhile must not be lost.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where workers hear it too
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# ---------------------------------------------------------------------- in the worker

_matrix: tuple[str, int, Given] = ("default", 0, None)
_cases: dict[str, list[Case]] = {}


def _prepare(level: str, seed: int, given: Given) -> None:
    global _matrix
    _matrix = (level, seed, given)


def _one(module: str, name: str) -> dict[str, Any]:
    """The outcome of the identity of this name, registered by importing this module, without the identity."""
    importlib.import_module(module)
    one = REGISTRY[name]
    if one.over not in _cases:
        _cases[one.over] = list(KINDS[one.over](*_matrix))
    found = _sighted(run(one, _cases[one.over], _matrix[0]), *_matrix[1:])
    return {field.name: getattr(found, field.name) for field in fields(found) if field.name != "identity"}
