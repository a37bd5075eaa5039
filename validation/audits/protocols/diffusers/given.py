r"""Times and levels given to set_timesteps: a scheduler given its own makes the same grid.

A flow scheduler takes levels before its shift, so that given ones are shifted like the default ones: a convention, as
long as the times that the network is told are those of the levels.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, convention, judged, not_applicable
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.options import Build, raised
from refdiff.validation.audits.protocols.diffusers.playing import constructed, set_steps, taken
from refdiff.validation.audits.protocols.diffusers.precision import EPS
from refdiff.validation.audits.protocols.diffusers.tables import flow_shift
from refdiff.validation.audits.rounding import OPERATIONS
from refdiff.validation.audits.subject import Subject

STEPS = 10
BOUND = OPERATIONS * EPS
SHAPED = 2e-4  # of a level: a list may end in a further 0, and times be cut to whole numbers of a thousand
INDEX = 0.01  # of a time between two indices: linear and logarithmic interpolation differ by less
ALIAS = frozenset(
    {"LTXEulerAncestralRFScheduler"}
)  # its timesteps are another name of sigmas, one for each, and the last is no step
RULE = f"{OPERATIONS} roundings of float32"


def given(subject: Subject, _: bool) -> Iterator[Finding]:
    """The default times and levels, given back."""
    build = subject.source
    if not isinstance(build, Build) or build.at_step:  # nothing but step has arguments of step
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in customs(build):
            yield replace(one, subject=subject.name)


def customs(build: Build) -> Iterator[Finding]:
    """The default times, and the default levels, given back to set_timesteps."""
    made = build.made(STEPS)
    try:
        default = made.new()
    except Exception:  # robustness tells what raises
        return
    names = taken(default, "set_timesteps")
    stages = int(getattr(default, "order", 1))
    if "timesteps" in names and build.kind.__name__ not in ALIAS:
        times = to_numpy(default.timesteps)[::stages].tolist()
        yield from _again(build, default, "timesteps", [times])
    if "sigmas" in names and build.kind.__name__ not in ALIAS and getattr(default, "sigmas", None) is not None:
        every = to_numpy(default.sigmas).astype(float).tolist()
        yield from _again(build, default, "sigmas", [every, every[:-1]])


class Tried(NamedTuple):
    """What set_timesteps makes of given values, in all ways of giving them.

    Attributes:
        refused, raises: the class's own refusals, and what a list raises otherwise.
        gaps: how far each grid is from the default one, relatively, and where; `listed`, those of lists.
        reshaped: whether those of one way are all the given levels, shaped as the options say.
    """

    refused: list[str]
    raises: list[str]
    gaps: list[tuple[float, str]]
    listed: list[tuple[float, str]]
    reshaped: bool


def _again(build: Build, default: Any, name: str, ways: list[list[float]]) -> Iterator[Finding]:
    """One of the ways of giving them must make the default grid; a list must do."""
    question, tried = f"custom {name}", _tried(build, default, name, ways)
    script = (
        f"{build.made(STEPS).script()}\ngiven = scheduler.{name}.tolist()\nprint(given)\n"
        f"scheduler.set_timesteps({name}=given)\nprint(scheduler.timesteps, getattr(scheduler, 'sigmas', None))"
    )
    best, said = min(tried.listed or tried.gaps, default=(np.inf, ""))
    if len(tried.raises) == len(ways):
        text = f"a list of its own {name} raises {tried.raises[0]}"
        yield Finding("", question, Verdict.WRONG, text, best, BOUND, f"{name} in a list", RULE, script)
    if tried.refused and not tried.gaps:
        yield not_applicable("", question, tried.refused[0])
    elif tried.gaps and tried.reshaped and best > BOUND:
        yield convention("", question, f"given {name} are shifted, or turned, like the default ones", place=name)
    elif tried.gaps:
        text = f"given its own {name}: {said or 'the same grid'}"
        yield judged("", question, best, BOUND, text, rule=RULE, place=name, script=script)


def _tried(build: Build, default: Any, name: str, ways: list[list[float]]) -> Tried:
    import torch

    tried, reshaped = Tried([], [], [], [], False), list[list[bool]]()
    for values in ways:
        reshaped.append([])
        for form in (list(values), np.array(values), torch.tensor(values)):
            scheduler = deepcopy(constructed(build.kind, build.options))
            try:
                set_steps(scheduler, None, **{name: form}, **build.at_steps, **_counted(scheduler, values))
            except Exception as error:  # whatever foreign code raises
                if raised(error):
                    tried.refused.append(str(error))
                elif isinstance(form, list):
                    tried.raises.append(f"{type(error).__name__}: {error}")
                continue
            reshaped[-1].append(_reshaped(scheduler, values, name, build))
            tried.gaps.append(_apart(default, scheduler))
            tried.listed.extend(tried.gaps[-1:] if isinstance(form, list) else [])
    return tried._replace(reshaped=any(one and all(one) for one in reshaped))


def _counted(scheduler: Any, values: list[float]) -> dict[str, int]:
    """Their number, where set_timesteps must be told it beside them."""
    count = inspect.signature(scheduler.set_timesteps).parameters.get("num_inference_steps")
    return {} if count is None or count.default is not count.empty else {count.name: len(values)}


def _reshaped(scheduler: Any, values: list[float], name: str, build: Build) -> bool:
    """Whether a flow's levels are the given ones shaped as the options say, and its times those of its levels."""
    config = scheduler.config
    size = config.get("num_train_timesteps")
    if size is None or not hasattr(scheduler, "sigmas"):
        return False
    times, levels = (to_numpy(part).astype(float) for part in (scheduler.timesteps, scheduler.sigmas))
    told = np.allclose(times, size * levels[: len(times)], rtol=1e-5, atol=1.0)
    given = np.array(values) / (size if name == "timesteps" else 1.0)
    right = shaped(given, config, build.at_steps)
    if np.array_equal(right, given):  # nothing is to be shaped
        return False
    return bool(told and np.allclose(levels[: len(times)], right[: len(times)], rtol=0.0, atol=SHAPED))


def shaped(levels: Array, config: Any, at_steps: Mapping[str, Any]) -> Array:
    """Flow levels as a class shapes them, shape (n,).

    s = shift, or that of mu: s sigma / (1 + (s - 1) sigma); then 1 - (1 - sigma) (1 - l) / (1 - sigma_n) where they
    are to end at l = shift_terminal; then 1 - sigma where they are inverted.
    """
    s = flow_shift(config, at_steps)
    found = s * levels / (1 + (s - 1) * levels)
    if terminal := getattr(config, "shift_terminal", None):
        found = 1 - (1 - found) * (1 - terminal) / (1 - found[-1])
    return np.asarray(1 - found if getattr(config, "invert_sigmas", False) else found)


def _apart(one: Any, other: Any) -> tuple[float, str]:
    """How far two grids are apart, relative to their size, and where."""
    for name in ("timesteps", "sigmas"):
        left, right = (getattr(each, name, None) for each in (one, other))
        if left is None or right is None:
            continue
        a, b = to_numpy(left).astype(float), to_numpy(right).astype(float)
        if a.shape != b.shape:
            return np.inf, f"{name} are {len(b)}, should be {len(a)}"
        gap = np.abs(a - b) / np.maximum(np.abs(a), 1e-3)
        if name == "timesteps" and (np.abs(a - b) <= INDEX).all() and a.max() > 10:
            continue
        if not gap.max() <= BOUND:
            k = int(np.argmax(np.where(np.isfinite(gap), gap, np.inf)))
            return (
                float(gap[k]) if np.isfinite(gap[k]) else np.inf
            ), f"{name}[{k}] is {b[k]:.7g}, should be {a[k]:.7g}"
    return 0.0, ""


CHECKS: tuple[Check, ...] = (given,)
