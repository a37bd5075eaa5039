r"""The same result by every way to the same thing.

    predictions    every prediction type with an exact network: they answer the same question in other words
    begin index    a run that begins at step k, by index or by time, is the claimed method on the rest of the grid
    one by one     points of a batch do not know of each other
    number type    float32, float16 and bfloat16 states against float64, and the state's type is kept
    scaled         start and answers times 4: the result times 4, exactly but for what underflows
    state          a scheduler that has run before, was set to other steps before, was copied, or was made from_config
    output         a step's output as a tuple and by name

Runs, and what rounding may change in them, are those of `runs`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import NotLinear
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, judged, not_applicable
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.claimed import Read, read
from refdiff.validation.audits.protocols.diffusers.options import FLOW, Build, raised, subject_of
from refdiff.validation.audits.protocols.diffusers.playing import looped, set_steps, taken
from refdiff.validation.audits.protocols.diffusers.resumed import own_units, resumed
from refdiff.validation.audits.protocols.diffusers.runs import (
    RULE,
    TypeChanged,
    eps_of,
    exact,
    highest,
    run,
    slack,
    start_of,
    stepped,
)
from refdiff.validation.audits.rounding import OPERATIONS
from refdiff.validation.audits.steps import Mismatch, compare
from refdiff.validation.audits.subject import Subject

STEPS = 8
TYPES = ("float32", "float16", "bfloat16")
COMBINED = frozenset({"PNDMScheduler"})  # it combines answers as they are, and is another method with each prediction


def consistency(subject: Subject, quick: bool) -> Iterator[Finding]:
    """All of it, at one number of steps; only with the default options where it is quick."""
    build = subject.source
    found = read(subject, STEPS) if isinstance(build, Build) and (build.plain or not quick) else None
    if found is None:
        return
    try:
        usual = _usual(found)
    except TypeChanged as error:
        yield Finding(subject.name, "number type", Verdict.WRONG, str(error), place="float64",
                      script=found.made.script())  # fmt: skip
        return
    if not usual:
        yield not_applicable(subject.name, "consistency", "a pipeline's loop does not run it as it is")
        return
    parts = [states, outputs, batches]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (right := _right(subject, found)) is not None:
            # what differs by its steps is told by the coefficients, and would only be told again
            parts += [resumed, scaled] if right else []
            if not subject.checks:  # options of the method, not only of its grid
                parts += [types, *([predictions] if right else [])]
        for part in parts:
            for one in part(found):
                yield replace(one, subject=subject.name, script=one.script or found.made.script())


def _usual(read: Read) -> bool:
    """Whether a pipeline's loop runs it as it is, with an exact network."""
    try:
        return bool(np.isfinite(run(read.made, exact(read), start_of(read))).all())
    except TypeChanged:
        raise
    except Exception:  # robustness tells what does not run
        return False


def _right(subject: Subject, read: Read) -> bool | None:
    """Whether all steps of the whole run are as claimed; None where it is no table."""
    try:
        return not compare(subject.build(read.made.steps)).wrong
    except NotLinear:
        return None
    except Mismatch:
        return False


# ---------------------------------------------------------------------- the ways


def predictions(read: Read) -> Iterator[Finding]:
    """The same run with every prediction type that the class takes."""
    made = read.made
    own = getattr(read.scheduler.config, "prediction_type", None)
    if (
        own is None
        or made.kind.__name__ in COMBINED
        or own_units(read)
        or made.kind.__name__.endswith("InverseScheduler")
    ):
        return
    start = start_of(read)
    right = run(made, exact(read), start)
    bound = slack(read, eps_of(), right, start)
    flow = made.options.get("prediction_type") == FLOW["prediction_type"]
    for name in ("epsilon", "sample", "v_prediction", "flow_prediction"):
        if name == own or name == ("v_prediction" if flow else "flow_prediction"):  # each belongs to its own process
            continue
        options = {**made.options, "prediction_type": name}
        other = _claimed(Build(made.kind, options, made.at_step), read)
        if other is None:
            continue
        try:
            found = run(other.made, exact(other), start)
        except Exception as error:  # whatever foreign code raises
            if not raised(error):
                yield Finding(
                    "", "prediction types", Verdict.WRONG, f"{name}: {type(error).__name__}: {error}", place=name
                )
            continue
        allowed = bound + slack(other, eps_of(), found, start)
        gap = float(np.abs(found - right).max())
        text = f"an exact network that answers {name} ends {gap:.3g} away from one that answers {own}"
        yield judged("", "prediction types", gap, allowed, text, rule=RULE, place=name)


def _claimed(build: Build, like: Read) -> Read | None:
    subject = subject_of(build)
    try:
        return read(subject, like.made.steps)
    except Exception:  # a class may not have this prediction type
        return None


def batches(read: Read) -> Iterator[Finding]:
    """A batch, and its points one by one, with the same normals."""
    start = start_of(read)
    together = run(read.made, exact(read), start)
    apart = np.concatenate([run(read.made, exact(read), start[i : i + 1]) for i in range(len(start))])
    gap = float(np.abs(together - apart).max())
    bound = slack(read, eps_of(), together, start)
    yield judged("", "batch", gap, bound, f"points one by one end {gap:.3g} away", rule=RULE, place="one by one")


def types(read: Read) -> Iterator[Finding]:
    """States of fewer digits."""
    start = to_numpy(to_torch(start_of(read)).bfloat16().double())
    right = run(read.made, exact(read), start)
    for name in TYPES:
        if 100 * np.abs(start).max() > highest(name):  # the states of a run may be too large for it
            continue
        try:
            found = run(read.made, exact(read), start, dtype=name)
        except Exception as error:  # whatever foreign code raises
            text = f"{name}: {type(error).__name__}: {error}"
            yield Finding("", "number type", Verdict.WRONG, text, place=name)
            continue
        gap, eps = float(np.abs(found - right).max()), eps_of(name)
        bound = slack(read, eps, right, start)
        text = f"states of {name} end {gap:.3g} away from those of float64"
        yield judged("", "number type", gap, bound, text, rule=RULE, place=name)


def scaled(read: Read) -> Iterator[Finding]:
    """Start and answers times 4."""
    if read.table.stochastic:
        return
    start = start_of(read)
    kept: list[Array] = []

    def first(shown: Array, k: int) -> Array:
        kept.append(exact(read)(shown, k))
        return kept[-1]

    small = run(read.made, first, start)
    large = run(read.made, lambda shown, k: 4 * kept[k], 4 * start)
    gap = float(np.abs(large / 4 - small).max())
    bound = OPERATIONS * eps_of() * float(np.abs(small).max())
    yield judged(
        "",
        "scaled",
        gap,
        bound,
        f"four times the start and the answers ends {gap:.3g} away from four times the result",
        rule=f"{OPERATIONS} roundings of the result",
        place="scaled",
    )


def states(read: Read) -> Iterator[Finding]:
    """Schedulers with a past, and copies."""
    made, start = read.made, start_of(read)
    right = run(made, exact(read), start, scheduler=made.new())
    ways = {
        "after a run": _after_run,
        "after other steps": _after_others,
        "copied": _copied,
        "from_config": _from_config,
    }
    for name, way in ways.items():
        try:
            found = run(made, exact(read), start, scheduler=way(read))
        except Exception as error:  # whatever foreign code raises
            yield Finding("", "state", Verdict.WRONG, f"{name}: {type(error).__name__}: {error}", place=name)
            continue
        gap = float(np.abs(found - right).max())
        bound = OPERATIONS * eps_of() * float(np.abs(right).max())
        yield judged(
            "", "state", gap, bound, f"{name}: the result is {gap:.3g} away", rule=f"{OPERATIONS} roundings", place=name
        )


def _after_run(read: Read) -> Any:
    scheduler = read.made.new()
    run(read.made, exact(read), start_of(read), scheduler=scheduler)
    set_steps(scheduler, read.made.steps, **read.made.at_steps)
    return scheduler


def _after_others(read: Read) -> Any:
    scheduler = read.made.new()
    set_steps(scheduler, read.made.steps + 3, **read.made.at_steps)
    looped(
        scheduler,
        to_torch(start_of(read)),
        lambda x, *_: x,
        lambda answer, t, x, _: stepped(scheduler, answer, t, x, read.made.at_step),
        scheduler.timesteps[:2],
    )
    set_steps(scheduler, read.made.steps, **read.made.at_steps)
    return scheduler


def _copied(read: Read) -> Any:
    return deepcopy(read.made.new())


def _from_config(read: Read) -> Any:
    scheduler = read.made.kind.from_config(read.scheduler.config)  # type: ignore[attr-defined]
    set_steps(scheduler, read.made.steps, **read.made.at_steps)
    return scheduler


def outputs(read: Read) -> Iterator[Finding]:
    """A step's output by name is that of the tuple."""
    if "return_dict" not in taken(read.scheduler, "step"):
        return
    start = start_of(read)
    gap = float(np.abs(run(read.made, exact(read), start) - run(read.made, exact(read), start, named=True)).max())
    yield judged(
        "",
        "output",
        gap,
        0.0,
        f"prev_sample by name is {gap:.3g} away from the tuple's",
        rule="the same numbers",
        place="return_dict",
    )


CHECKS: tuple[Check, ...] = (consistency,)
