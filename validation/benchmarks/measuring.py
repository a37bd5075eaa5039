r"""Measuring side by side: alternating repetitions, medians of ratios, peak memory.

Machines drift: another process starts, the clock is lowered. So the contenders take turns, A B C A B C ..., and what is
compared is taken within one round:

    ratio of B to A = median over rounds of (seconds of B in the round / seconds of A in the round)

A contender whose runs are long drops out when it has used its share of time; its ratio is over the rounds it was in.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

Before = TypeVar("Before")

ROUNDS, BUDGET = 7, 25.0  # repetitions, and seconds for all those of one contender
REST = 0.1  # OpenBLAS's threads wait 2^26 cycles before they sleep, some 30 ms; OpenMP's less


class Rounds(NamedTuple, Generic[Before]):
    """Seconds by contender, one for each round it was in (always the first ones), and what came before each round."""

    seconds: dict[str, list[float]]
    before: list[Before]

    def median(self, name: str) -> float:
        """Median seconds of one contender."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """The median over common rounds of how many times longer `name` takes than `to`."""
        return statistics.median(
            a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=False)
        )  # the shorter list ends it: rounds in which both took part


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    before: Callable[[], Before],
    rounds: int = ROUNDS,
    budget: float = BUDGET,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[], object] = lambda: time.sleep(REST),
) -> Rounds[Before]:
    """Run the contenders in turns.

    Args:
        contenders: what to run, already warm, by name.
        before: called at the beginning of each round, for instance to measure the machine.
        rounds: how many rounds at most, at least one.
        budget: seconds after which a contender takes no further part; all take part in the first round, and the first
            contender, with which the others are compared, in every round.
        clock: seconds, increasing.
        rest: called before each run: threads of the run before may still wait for work, and take time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    noted, first = [], next(iter(contenders))
    for _ in range(rounds):
        # not once more where that would overrun the budget
        within = {n: sum(s) + (s[-1] if s else 0) <= budget or not s for n, s in seconds.items()}
        if not any(within[name] for name in contenders if name != first or len(contenders) == 1):
            break
        noted.append(before())
        for name, run in contenders.items():
            if within[name] or name == first:
                rest()
                with _collected():
                    start = clock()
                    run()
                    seconds[name].append(clock() - start)
    return Rounds(seconds, noted)


@contextmanager
def _collected() -> Any:
    """No garbage collection inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# ---------------------------------------------------------------------- the best of several


class Candidate(NamedTuple):
    """One way to do a computation.

    Attributes:
        label: what it is called.
        run: does it for the first so many points, and returns the answers as an array.
        least: points that a shorter run must have to be typical.
        family, size: the way without the size of its chunks, and that size.
        most: points beyond which its seconds are only proportional, so that it is run on these and its seconds are
            scaled; 0 for all.
    """

    label: str
    run: Callable[[int], Any]
    least: int = 1
    family: str = ""
    size: int = 0
    most: int = 0

    def share(self, n: int) -> int:
        """The points it is run on for n."""
        return min(n, self.most or n)


class Search(NamedTuple):
    """The fastest candidate, and of each by its label: seconds a point, and seconds of its first run.

    The first run is where libraries compile; what it takes besides is that of so many points as were tried.
    """

    best: Candidate
    seconds: dict[str, float]
    first: dict[str, float]


def fastest(
    candidates: Sequence[Candidate], n: int, share: int = 8, clock: Callable[[], float] = time.perf_counter
) -> Search:
    """The candidate with the fewest seconds a point, and the seconds of all tried, on 1/share of n points.

    First all families at one size of chunks, then all sizes in the best family.

    Raises:
        ValueError: no candidate.
    """
    if not candidates:
        raise ValueError("candidates must hold at least one, got none")
    seconds: dict[str, float] = {}
    firsts: dict[str, float] = {}

    def better(some: Sequence[Candidate]) -> Candidate:
        for one in some:
            if one.label not in seconds:
                points = min(n, max(1, n // share, one.least))
                least = min(seconds.values(), default=float("inf"))
                firsts[one.label], seconds[one.label] = _timed(one, points, least, clock)
        return min(some, key=lambda one: seconds[one.label])

    sizes = sorted({one.size for one in candidates})
    middle = sizes[len(sizes) // 2]
    first = better([one for one in candidates if one.size == middle])
    return Search(better([one for one in candidates if one.family == first.family]), seconds, firsts)


def _timed(one: Candidate, points: int, best: float, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of a run to warm up (to compile, perhaps); seconds a point of one more, or of three if among the best."""
    start = clock()
    one.run(points)
    first = clock() - start
    timed: list[float] = []
    while len(timed) < 3 and min(timed, default=0.0) <= 1.5 * best:
        start = clock()
        one.run(points)
        timed.append((clock() - start) / points)
    return first, min(timed)


# ---------------------------------------------------------------------- memory


def peak_extra_bytes(run: Callable[[], object]) -> int | None:
    """By how much the resident memory of this process grows while a warm function runs; None where it is not known.

    Linux keeps the peak and can be told to forget it; elsewhere, and where that is forbidden, a thread looks every
    millisecond. Memory that allocators kept from earlier runs is first given back.
    """
    if not Path("/proc/self/statm").exists():
        return None
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = _resident()
    if _forget_peak():
        run()
        return max(0, _status("VmHWM") - before)
    seen, done = [before], threading.Event()

    def look() -> None:
        while not done.wait(1e-3):
            seen.append(_resident())

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        run()
    finally:
        done.set()
        watching.join()
    return max(seen) - before


def _forget_peak() -> bool:
    """Whether the peak of resident memory was reset to what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _status("VmHWM") <= _status("VmRSS") + (1 << 20)


def _resident() -> int:
    return _status("VmRSS")


def _status(name: str) -> int:
    """A size from /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
