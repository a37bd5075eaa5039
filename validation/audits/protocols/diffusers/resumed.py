"""A run that begins at a later step, by its index or by its time, read step by step against the rest of the claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.findings import Finding, Verdict, judged
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.claimed import Read
from refdiff.validation.audits.protocols.diffusers.normals import drawn
from refdiff.validation.audits.protocols.diffusers.playing import Made, looped
from refdiff.validation.audits.protocols.diffusers.runs import stepped
from refdiff.validation.audits.steps import compare
from refdiff.validation.audits.subject import Sampler

# orders, or a share of noise for each time, that are planned for the whole grid
PLANNED = frozenset({"DPMSolverSinglestepScheduler", "SASolverScheduler", "TCDScheduler"})


def own_units(read: Read) -> bool:
    """Whether its claim measures states by the data's standard deviation, so that its loop is one of its own."""
    return hasattr(read.scheduler.config, "sigma_data")


def resumed(read: Read) -> Iterator[Finding]:
    """A run from a later step, read step by step against the claim on the rest of the grid."""
    made, scheduler = read.made, read.scheduler
    if own_units(read) or not hasattr(scheduler, "set_begin_index"):  # others keep no count of their steps
        return
    if made.kind.__name__ in PLANNED or getattr(scheduler.config, "invert_sigmas", False):
        return
    stages = int(getattr(scheduler, "order", 1))
    times, grid = to_numpy(scheduler.timesteps), read.claim.grid
    if stages * (len(grid) - 1) - (stages - 1) != len(times):
        return
    for k in (1, len(grid) // 2, len(grid) - 2):
        claim = replace(read.claim, grid=grid[k:], variants=())
        try:
            claim.table()
        except ValueError:  # a method with a plan for the whole grid has none for this part of it
            continue
        for way in ("by index", "by time"):
            place = f"{way}, step {k}"
            try:
                sampler = Sampler(made.name, _later(made, k * stages, way == "by index"), np.dtype(np.float32), claim)
                wrong = compare(sampler).wrong
            except Exception as error:  # whatever foreign code raises
                text = f"{place}: {type(error).__name__}: {error}"
                yield Finding("", "begin index", Verdict.WRONG, text, place=place)
                continue
            text = f"{place}: {len(wrong)} steps are off; {wrong[0]}" if wrong else f"{place}: the rest is right"
            yield judged(
                "",
                "begin index",
                max((w.error for w in wrong), default=0.0),
                max((w.bound for w in wrong), default=1.0),
                text,
                rule="as for coefficients",
                place=place,
            )


def _later(made: Made, index: int, by_index: bool) -> Any:
    def sampler(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        scheduler, state = made.again(), to_torch(np.asarray(x, dtype=float))
        if by_index:
            scheduler.set_begin_index(index)
        with drawn(scheduler, normal, state):
            return to_numpy(
                looped(
                    scheduler,
                    state,
                    lambda x, t, _: to_torch(model(to_numpy(x), to_numpy(t).item())),
                    lambda answer, t, x, _: stepped(scheduler, answer, t, x, made.at_step),
                    scheduler.timesteps[index:],
                )
            )

    return sampler
