"""add_noise and get_velocity of a scheduler against the levels of its claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.findings import Finding, Verdict, convention, judged
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.claimed import Read
from refdiff.validation.audits.protocols.diffusers.options import raised
from refdiff.validation.audits.protocols.diffusers.precision import EPS
from refdiff.validation.audits.protocols.diffusers.precision import OF_A_NUMBER as RULE
from refdiff.validation.audits.rounding import OPERATIONS

BY_INDEX = frozenset({"ScoreSdeVeScheduler"})  # add_noise takes indices of its own table, not times
ONE_TIME = frozenset({"FlowMatchHeunDiscreteScheduler"})  # scale_noise takes one time for all points
X, E = np.array([0.75, -1.25]), np.array([0.5, 2.0])  # data and noise


def noised(read: Read) -> Iterator[Finding]:
    """add_noise (scale_noise of flows) at the scheduler's times, one by one, in a batch, and for a later beginning."""
    yield from _compared(read, "add_noise", ("add_noise", "scale_noise"), lambda a, s: (a, s))


def velocity(read: Read) -> Iterator[Finding]:
    """get_velocity at the scheduler's times, on the variance-preserving scale."""

    def weights(a: float, s: float) -> tuple[float, float]:
        size = float(np.hypot(a, s))
        return -s / size, a / size

    yield from _compared(read, "get_velocity", ("get_velocity",), weights, scaled=False)


class Way(NamedTuple):
    """One call: at these times at once, after set_begin_index where it `begins` there."""

    name: str
    times: list[int]
    begins: bool = False


class Row(NamedTuple):
    """What a way of calling gives for a time, and how far it is off, relative to its terms."""

    gap: float
    text: str
    time: int
    row: Array


def _compared(
    read: Read,
    question: str,
    names: tuple[str, ...],
    weights: Callable[[float, float], tuple[float, float]],
    scaled: bool = True,
) -> Iterator[Finding]:
    name = next((n for n in names if hasattr(read.scheduler, n)), None)
    if name is None or read.made.kind.__name__ in BY_INDEX:
        return
    unit = np.array([1.0, read.unit])
    right = {k: np.array(weights(*read.level(k))) * (unit * read.scale(k) if scaled else 1.0) for k in read.first}
    found: list[tuple[Way, list[Row]]] = []
    for way in _ways(read, list(right), later=scaled):
        try:
            found.append((way[0], _rows(read, name, way, right)))
        except Exception as error:  # whatever foreign code raises
            if not raised(error):
                text = f"{way[0].name}: {type(error).__name__}: {error}"
                yield Finding("", question, Verdict.WRONG, text, place=way[0].name)
            return
    yield from (_judged(read, question, name, *one, scaled) for one in found)


def _ways(read: Read, times: list[int], later: bool) -> Iterator[list[Way]]:
    """The calls of every way of calling."""
    yield [Way("one by one", [k]) for k in times]
    if read.made.kind.__name__ not in ONE_TIME:
        yield [Way("in a batch", times)]
    if later and hasattr(read.scheduler, "set_begin_index"):
        yield [Way("begin index", [k], True) for k in times]


def _rows(read: Read, name: str, calls: list[Way], right: Mapping[int, Array]) -> list[Row]:
    found: list[Row] = []
    for call in calls:
        scheduler = read.made.again()
        if call.begins:
            scheduler.set_begin_index(call.times[0])
        for row, k in zip(_call(scheduler, name, call.times), call.times, strict=True):
            terms = np.abs(right[k][0] * X) + np.abs(right[k][1] * E)
            gap = float((np.abs(row - right[k][0] * X - right[k][1] * E) / terms).max())
            has = np.linalg.solve(np.stack([X, E], axis=1), row)
            text = (
                f"{call.name}, time {k}: {has[0]:.7g} x_0 + {has[1]:.7g} eps, should be {right[k][0]:.7g} x_0 + "
                f"{right[k][1]:.7g} eps"
            )
            found.append(Row(gap, text, k, row))
    return found


def _judged(read: Read, question: str, name: str, way: Way, rows: list[Row], scaled: bool) -> Finding:
    off = [one for one in rows if not one.gap <= OPERATIONS * EPS]
    unexplained = [one for one in off if not (scaled and _of_the_time(read, one.row, one.time))]
    # what is no number is worst of all
    worst = max(unexplained or rows, key=lambda one: one.gap if one.gap == one.gap else np.inf)
    k = worst.time
    if off and not unexplained:
        said = "add_noise takes the level that the rounded time has in training, not the run's own"
        return convention("", question, said, place=way.name)
    later = f"scheduler.set_begin_index({k})\n" if way.begins else ""
    t = f"scheduler.timesteps[{k}:{k + 1}]"
    order = f"x, {t}, e" if name == "scale_noise" else f"x, e, {t}"
    script = (
        f"import torch\n{read.made.script()}\n{later}"
        "x, e = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])\n"
        f"print(scheduler.{name}({order}))"
    )
    return judged("", question, worst.gap, OPERATIONS * EPS, worst.text, rule=RULE, place=way.name, script=script)


def _of_the_time(read: Read, row: Array, k: int) -> bool:
    """Whether what differs from the run's own level at time k is that of the whole time in alphas_cumprod."""
    scheduler = read.scheduler
    bars, config = getattr(scheduler, "alphas_cumprod", None), scheduler.config
    if bars is None or getattr(config, "use_flow_sigmas", False) or scheduler.timesteps.is_floating_point():
        return False
    bar = float(bars[scheduler.timesteps[k]])
    terms = np.sqrt(bar) * X, np.sqrt(1 - bar) * E
    close = np.abs(row - terms[0] - terms[1]) <= OPERATIONS * EPS * (np.abs(terms[0]) + np.abs(terms[1]))
    return read.scale(0) == 1 and bool(close.all())


def _call(scheduler: Any, name: str, which: list[int]) -> Array:
    """Rows for the same x and noise at several times, shape (times, 2)."""
    rows = len(which)
    points, noise = to_torch(np.tile(X, (rows, 1))), to_torch(np.tile(E, (rows, 1)))
    times = scheduler.timesteps[which]
    given = (points, times, noise) if name == "scale_noise" else (points, noise, times)
    return to_numpy(getattr(scheduler, name)(*given)).astype(float)
