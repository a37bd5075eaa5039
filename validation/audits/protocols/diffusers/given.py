r"""Times and levels given to set_timesteps: a scheduler given its own makes the same grid.

A flow scheduler takes levels before its shift, so that given ones are shifted like the default ones: a convention, as
long as the times that the network is told are those of the levels.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, convention, judged, not_applicable
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.options import Build, raised
from refdiff.validation.audits.protocols.diffusers.playing import constructed, set_steps
from refdiff.validation.audits.subject import Subject

STEPS = 10
BOUND = 16 * float(np.finfo(np.float32).eps)
INDEX = 0.01  # of a time between two indices: linear and logarithmic interpolation differ by less
ALIAS = frozenset(
    {"LTXEulerAncestralRFScheduler"}
)  # its timesteps are another name of sigmas, one for each, and the last is no step
RULE = "16 roundings of float32"


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
    taken = inspect.signature(default.set_timesteps).parameters
    stages = int(getattr(default, "order", 1))
    if "timesteps" in taken and build.kind.__name__ not in ALIAS:
        times = to_numpy(default.timesteps)[::stages].tolist()
        yield from _again(build, default, "timesteps", [times])
    if "sigmas" in taken and build.kind.__name__ not in ALIAS and getattr(default, "sigmas", None) is not None:
        every = to_numpy(default.sigmas).astype(float).tolist()
        yield from _again(build, default, "sigmas", [every, every[:-1]])


def _again(build: Build, default: Any, name: str, ways: list[list[float]]) -> Iterator[Finding]:
    """One of the ways of giving them must make the default grid; a list must do."""
    import torch

    refused: list[str] = []
    raises: list[str] = []
    gaps: list[tuple[float, str]] = []
    listed: list[tuple[float, str]] = []
    together = True
    for values in ways:
        for form in (list(values), np.array(values), torch.tensor(values)):
            scheduler = deepcopy(constructed(build.kind, build.options))
            try:
                set_steps(scheduler, None, **{name: form}, **build.at_steps)
            except Exception as error:  # whatever foreign code raises
                if raised(error):
                    refused.append(str(error))
                elif isinstance(form, list):
                    raises.append(f"{type(error).__name__}: {error}")
                continue
            together = together and _together(scheduler)
            gaps.append(_apart(default, scheduler))
            listed += gaps[-1:] if isinstance(form, list) else []
    script = (
        f"{build.made(STEPS).script()}\ngiven = scheduler.{name}.tolist()\nprint(given)\n"
        f"scheduler.set_timesteps({name}=given)\nprint(scheduler.timesteps, getattr(scheduler, 'sigmas', None))"
    )
    best, said = min(listed or gaps, default=(np.inf, ""))
    if len(raises) == len(ways):
        yield Finding(
            "",
            f"custom {name}",
            Verdict.WRONG,
            f"a list of its own {name} raises {raises[0]}",
            best,
            BOUND,
            f"{name} in a list",
            RULE,
            script,
        )
    if refused and not gaps:
        yield not_applicable("", f"custom {name}", refused[0])
    elif together and _shifted(default, build) and best > BOUND:
        yield convention(
            "", f"custom {name}", f"given {name} are shifted, or turned, like the default ones", place=name
        )
    elif gaps:
        yield judged(
            "",
            f"custom {name}",
            best,
            BOUND,
            f"given its own {name}: {said or 'the same grid'}",
            rule=RULE,
            place=name,
            script=script,
        )


def _together(scheduler: Any) -> bool:
    """Whether a flow's times are those of its levels."""
    size = scheduler.config.get("num_train_timesteps")
    if size is None or not hasattr(scheduler, "sigmas"):
        return False
    times, levels = (to_numpy(part).astype(float) for part in (scheduler.timesteps, scheduler.sigmas))
    return bool(np.allclose(times, size * levels[: len(times)], rtol=1e-5, atol=1.0))


def _shifted(scheduler: Any, build: Build) -> bool:
    config = scheduler.config
    shifts = [getattr(config, option, 1.0) not in (None, 1.0) for option in ("shift", "flow_shift")]
    return (
        any(shifts)
        or bool(build.at_steps)
        or bool(getattr(config, "shift_terminal", None))
        or bool(getattr(config, "invert_sigmas", False))
    )


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
