r"""The same result by every way to the same thing.

    predictions    every prediction type with an exact network: they answer the same question in other words
    begin index    a run that begins at step k, by index or by time, is the claimed method on the rest of the grid
    one by one     points of a batch do not know of each other
    number type    float32, float16 and bfloat16 states against float64, and the state's type is kept
    scaled         start and answers times 4: the result times 4, exactly but for what underflows
    state          a scheduler that has run before, was set to other steps before, was copied, or was made from_config
    output         a step's output as a tuple and by name

A run asks the exact network of data N(m, v I), at the level that the claim has at each evaluation. Rounding may change
a result by 16 roundings of its terms, and by as much as the same roundings of its states and of the answers do: that is
measured, by the largest change over 6 runs with both off by one rounding, times 6 (a sixth of the worst, or
more, but for one case in a thousand).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import NotLinear
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, judged, not_applicable
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.exposed import Read, answer, read
from refdiff.validation.audits.protocols.diffusers.options import FLOW, Build, raised, subject_of
from refdiff.validation.audits.protocols.diffusers.playing import Made, drawn, set_steps
from refdiff.validation.audits.steps import Mismatch, compare
from refdiff.validation.audits.subject import Sampler, Subject

STEPS = 8
RUNS, WORST, OPERATIONS = 6, 6.0, 16
TYPES = ("float32", "float16", "bfloat16")
RULE = "16 roundings, and 96 times the largest change over 6 runs whose states and answers are off by one"
MEAN, VARIANCE = np.array([0.8, -0.3]), 0.5
# orders, or a share of noise for each time, that are planned for the whole grid
PLANNED = frozenset({"DPMSolverSinglestepScheduler", "SASolverScheduler", "TCDScheduler"})
COMBINED = frozenset({"PNDMScheduler"})  # it combines answers as they are, and is another method with each prediction
Answers = Callable[[Array, int], Array]


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


class TypeChanged(TypeError):
    """A step gives another number type than it is given."""


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


# ---------------------------------------------------------------------- runs


def run(
    made: Made,
    network: Answers,
    start: Array,
    *,
    scheduler: Any = None,
    dtype: str = "float64",
    named: bool = False,
) -> Array:
    """A pipeline's run, with an answer for each shown state and number of the evaluation, and normals of a seed."""
    import torch

    scheduler = made.new() if scheduler is None else scheduler
    state = torch.from_numpy(np.array(start)).to(getattr(torch, dtype))
    rng = np.random.default_rng(5)
    normals = rng.standard_normal((4 * len(scheduler.timesteps) + 4, 1, start.shape[1]))
    draws = iter(normals)
    with drawn(scheduler, lambda: np.repeat(next(draws), len(start), axis=0), state):
        for k, t in enumerate(scheduler.timesteps):
            shown = scheduler.scale_model_input(state, t) if hasattr(scheduler, "scale_model_input") else state
            answer = to_torch(network(to_numpy(shown.double()), k)).to(state.dtype)
            state = _stepped(scheduler, answer, t, state, made.at_step, named)
    if state.dtype != getattr(torch, dtype):
        raise TypeChanged(f"a state of {dtype} became one of {state.dtype}")
    return to_numpy(state.double())


def _stepped(scheduler: Any, answer: Any, t: Any, state: Any, at_step: Any, named: bool) -> Any:
    taken = inspect.signature(scheduler.step).parameters
    if "return_dict" not in taken:
        return scheduler.step(answer, t, state, **at_step)[0]
    out = scheduler.step(answer, t, state, return_dict=named, **at_step)
    return out.prev_sample if named else out[0]


def exact(read: Read, prediction: str | None = None, off: tuple[float, int] = (0.0, 0)) -> Answers:
    """The exact network of Gaussian data; `off` = (eps, seed) has states and answers off by a rounding at random."""
    scales = read.claim.scales(read.table)
    eps, seed = off
    rng = np.random.default_rng(seed)

    def network(shown: Array, k: int) -> Array:
        a, s = read.level(k)
        if eps:
            shown = shown * (1 + eps * rng.choice([-1.0, 1.0], shown.shape))
        x = shown / scales[k] / read.scale(k)
        clean = MEAN + a * VARIANCE / (a * a * VARIANCE + s * s) * (x - a * MEAN)
        found = answer(prediction or read.claim.prediction, x, clean, a, s)
        if found is None:
            raise ValueError(f"no answer is known for {read.claim.prediction}")
        signs = rng.choice([-1.0, 1.0], found.shape)
        return np.asarray(found * (1 + eps * signs))

    return network


def start_of(read: Read, points: int = 3) -> Array:
    """Starts of the right size."""
    a, s = read.level(0)
    size = float(np.hypot(a, s)) * read.scale(0)
    return np.random.default_rng(3).standard_normal((points, 2)) * size


def slack(read: Read, eps: float, result: Array, start: Array) -> float:
    """What rounding may change in a result."""
    moved = max(
        float(np.abs(run(read.made, exact(read, off=(eps, seed)), start) - result).max()) for seed in range(RUNS)
    )
    return WORST * OPERATIONS * moved + OPERATIONS * eps * float(np.abs(result).max())


def _eps(dtype: str) -> float:
    import torch

    return float(torch.finfo(getattr(torch, dtype)).eps)


def _highest(dtype: str) -> float:
    import torch

    return float(torch.finfo(getattr(torch, dtype)).max)


# ---------------------------------------------------------------------- the ways


def predictions(read: Read) -> Iterator[Finding]:
    """The same run with every prediction type that the class takes."""
    made = read.made
    own = getattr(made.new().config, "prediction_type", None)
    if (
        own is None
        or made.kind.__name__ in COMBINED
        or _own_units(made)
        or made.kind.__name__.endswith("InverseScheduler")
    ):
        return
    start = start_of(read)
    right = run(made, exact(read), start)
    bound = slack(read, _eps("float32"), right, start)
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
        allowed = bound + slack(other, _eps("float32"), found, start)
        gap = float(np.abs(found - right).max())
        text = f"an exact network that answers {name} ends {gap:.3g} away from one that answers {own}"
        yield judged("", "prediction types", gap, allowed, text, rule=RULE, place=name)


def _own_units(made: Made) -> bool:
    """Whether its claim measures states by the data's standard deviation, so that its loop is one of its own."""
    return hasattr(made.new().config, "sigma_data")


def _claimed(build: Build, like: Read) -> Read | None:
    subject = subject_of(build)
    try:
        return read(subject, like.made.steps)
    except Exception:  # a class may not have this prediction type
        return None


def resumed(read: Read) -> Iterator[Finding]:
    """A run from a later step, read step by step against the claim on the rest of the grid."""
    made, scheduler = read.made, read.made.new()
    if _own_units(made) or not hasattr(scheduler, "set_begin_index"):  # others keep no count of their steps
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
        except ValueError:  # a method with a plan for the whole grid has none for a part of it
            return
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
        scheduler, state = made.new(), to_torch(np.asarray(x, dtype=float))
        if by_index:
            scheduler.set_begin_index(index)
        with drawn(scheduler, normal, state):
            for t in scheduler.timesteps[index:]:
                shown = scheduler.scale_model_input(state, t) if hasattr(scheduler, "scale_model_input") else state
                answer = to_torch(model(to_numpy(shown), to_numpy(t).item()))
                state = _stepped(scheduler, answer, t, state, made.at_step, False)
        return to_numpy(state)

    return sampler


def batches(read: Read) -> Iterator[Finding]:
    """A batch, and its points one by one, with the same normals."""
    start = start_of(read)
    together = run(read.made, exact(read), start)
    apart = np.concatenate([run(read.made, exact(read), start[i : i + 1]) for i in range(len(start))])
    gap = float(np.abs(together - apart).max())
    bound = slack(read, _eps("float32"), together, start)
    yield judged("", "batch", gap, bound, f"points one by one end {gap:.3g} away", rule=RULE, place="one by one")


def types(read: Read) -> Iterator[Finding]:
    """States of fewer digits."""
    start = to_numpy(to_torch(start_of(read)).bfloat16().double())
    right = run(read.made, exact(read), start)
    for name in TYPES:
        if 100 * np.abs(start).max() > _highest(name):  # the states of a run may be too large for it
            continue
        try:
            found = run(read.made, exact(read), start, dtype=name)
        except Exception as error:  # whatever foreign code raises
            text = f"{name}: {type(error).__name__}: {error}"
            yield Finding("", "number type", Verdict.WRONG, text, place=name)
            continue
        gap, eps = float(np.abs(found - right).max()), _eps(name)
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
    bound = OPERATIONS * _eps("float32") * float(np.abs(small).max())
    yield judged(
        "",
        "scaled",
        gap,
        bound,
        f"four times the start and the answers ends {gap:.3g} away from four times the result",
        rule="16 roundings of the result",
        place="scaled",
    )


def states(read: Read) -> Iterator[Finding]:
    """Schedulers with a past, and copies."""
    made, start = read.made, start_of(read)
    right = run(made, exact(read), start)
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
        bound = OPERATIONS * _eps("float32") * float(np.abs(right).max())
        yield judged("", "state", gap, bound, f"{name}: the result is {gap:.3g} away", rule="16 roundings", place=name)


def _after_run(read: Read) -> Any:
    scheduler = read.made.new()
    run(read.made, exact(read), start_of(read), scheduler=scheduler)
    set_steps(scheduler, read.made.steps, **read.made.at_steps)
    return scheduler


def _after_others(read: Read) -> Any:
    scheduler = read.made.new()
    set_steps(scheduler, read.made.steps + 3, **read.made.at_steps)
    state = to_torch(start_of(read))
    for t in scheduler.timesteps[:2]:
        shown = scheduler.scale_model_input(state, t) if hasattr(scheduler, "scale_model_input") else state
        state = _stepped(scheduler, shown, t, state, read.made.at_step, False)
    set_steps(scheduler, read.made.steps, **read.made.at_steps)
    return scheduler


def _copied(read: Read) -> Any:
    return deepcopy(read.made.new())


def _from_config(read: Read) -> Any:
    scheduler = read.made.kind.from_config(read.made.new().config)  # type: ignore[attr-defined]
    set_steps(scheduler, read.made.steps, **read.made.at_steps)
    return scheduler


def outputs(read: Read) -> Iterator[Finding]:
    """A step's output by name is that of the tuple."""
    if "return_dict" not in inspect.signature(read.made.new().step).parameters:
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
