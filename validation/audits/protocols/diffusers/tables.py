r"""Levels and times of a scheduler, each against its definition.

    spacing          linspace, leading or trailing by Table 2 of Lin et al. 2024; solvers drop the last of n + 1
    levels           sigma / alpha of alphas_cumprod at the times; Karras, exponential, beta between the levels of the
                     first and last times, of the ends of training, or those that the options name; flow levels, which
                     are equally spaced before the shift s sigma / (1 + (s - 1) sigma)
    told times       a time whose level in the table is the step's: exactly, or rounded to whole numbers
    final level      0, or the lowest level that the network was trained at
    first level      one step that starts at the clean end takes no noise away

A level that is computed in float64 and stored in float32 is off by 8 roundings, with those of its ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import betaincinv

from refdiff.arguments import Array
from refdiff.samplers.times import exponential, karras
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, convention, judged
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.options import Build, raised
from refdiff.validation.audits.protocols.diffusers.playing import Made, trained_levels
from refdiff.validation.audits.protocols.diffusers.precision import EPS
from refdiff.validation.audits.protocols.diffusers.robustness import JUMPING
from refdiff.validation.audits.subject import Subject

STEPS, QUICK = (1, 7, 10), (10,)
SOLVERS = ("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver")
# their grids are their own: skipped indices of another sampler's grid, or indices that rise
OWN_GRID = JUMPING | {"LCMScheduler", "TCDScheduler", "DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"}
FAMILIES = ("karras", "exponential", "beta", "lu", "flow")
STORED = 8 * EPS
RULE = "8 roundings of float32"


def grids(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Times and levels of some numbers of steps."""
    build = subject.source
    if not isinstance(build, Build):
        return
    for steps in QUICK if quick else STEPS:
        made = build.made(steps)
        try:
            scheduler = made.new()
        except Exception as error:  # robustness tells what raises
            if raised(error):
                continue
            return
        for one in (*spaced(scheduler, made), *levels(scheduler, made), *told(scheduler, made), *ends(scheduler, made)):
            yield _named(subject.name, one, made)


def _named(subject: str, finding: Finding, made: Made) -> Finding:
    shown = f"{made.script()}\nprint(scheduler.timesteps)\nprint(getattr(scheduler, 'sigmas', None))"
    place = f"{made.steps} steps, {finding.place}" if finding.verdict is not Verdict.CONVENTION else finding.place
    return replace(finding, subject=subject, script=shown, place=place)


def _family(config: Any) -> str:
    """The family of levels that the options ask for, or "" for those of the spaced times."""
    flags = [name for name in FAMILIES if getattr(config, f"use_{name}_{'lambdas' if name == 'lu' else 'sigmas'}", 0)]
    return flags[0] if flags else ""


def starts_of(scheduler: Any) -> Array:
    """The times that begin a step, shape (n,)."""
    return to_numpy(scheduler.timesteps).astype(float)[:: int(getattr(scheduler, "order", 1))]


def spaced_times(config: Any, n: int, kind: str) -> Array:
    """n times by the definition of the spacing, shape (n,), falling."""
    size, more = config.num_train_timesteps, int(kind.startswith(SOLVERS))
    if config.timestep_spacing == "linspace":
        return np.linspace(0, size - 1, n + more)[::-1][:n]
    if config.timestep_spacing == "leading":
        offset = getattr(config, "steps_offset", 0)
        return np.asarray(np.arange(n + more)[::-1][:n] * (size // (n + more)) + offset, dtype=float)
    return np.asarray(size - np.arange(n) * size / n - 1)


def spaced(scheduler: Any, made: Made) -> Iterator[Finding]:
    """Times by their definition."""
    config, kind = scheduler.config, made.kind.__name__
    spacing = getattr(config, "timestep_spacing", None)
    if (
        spacing is None
        or _family(config)
        or kind in OWN_GRID
        or getattr(config, "lambda_min_clipped", -np.inf) > -np.inf
        or getattr(config, "timestep_type", "") == "continuous"
    ):
        return
    times, n = starts_of(scheduler), made.steps
    size, right = config.num_train_timesteps, spaced_times(config, n, kind)
    if len(times) != n:
        yield Finding("", "spacing", Verdict.WRONG, f"{len(times)} times where {n} were asked for", place="count")
        return
    # a rounded half may go either way
    whole = bool((times == np.round(times)).all())
    bound = 0.5 + size * EPS if whole else 4 * size * EPS
    k = int(np.argmax(np.abs(times - right)))
    yield judged(
        "",
        "spacing",
        abs(times[k] - right[k]),
        bound,
        f"{spacing}: time {k} is {times[k]:.8g}, by its definition {right[k]:.8g}",
        rule="half a step where times are whole",
        place="times",
    )


def own_levels(scheduler: Any, made: Made) -> Array | None:
    """One level for each step and the final one, or None where the class has no such levels."""
    found = getattr(scheduler, "sigmas", None)
    if found is None or made.kind.__name__ in OWN_GRID | JUMPING:
        return None
    every = to_numpy(found).astype(float)
    stages = int(getattr(scheduler, "order", 1))
    count = len(scheduler.timesteps)
    if every.ndim != 1 or (len(every) != count + 1 if stages == 1 else len(every) < count + 1):
        return None
    return np.append(every[::stages][: (count + 1) // stages if stages > 1 else count], every[-1])


def levels(scheduler: Any, made: Made) -> Iterator[Finding]:
    """Levels at the times, or of the family that is asked for."""
    own, config = own_levels(scheduler, made), scheduler.config
    bars = getattr(scheduler, "alphas_cumprod", None)
    if own is None:
        if getattr(scheduler, "sigmas", None) is not None and bars is not None and made.kind.__name__ not in OWN_GRID:
            text = f"{len(scheduler.sigmas)} levels for {len(scheduler.timesteps)} times"
            yield Finding("", "levels", Verdict.WRONG, text, place="count")
        return
    n, family = len(own) - 1, _family(config)
    if bars is None:
        unshifted = made.kind.__name__.startswith("Flow") and family in ("", "flow")
        family = "flow" if unshifted else getattr(config, "sigma_schedule", family)
        if not family or getattr(config, "invert_sigmas", False) or not np.isfinite(own).all():
            return
    if family == "" and bars is not None:
        size = len(bars)
        table = trained_levels(scheduler)
        times = starts_of(scheduler)
        if getattr(config, "timestep_type", "") == "continuous" or times.max() > size - 1:
            return
        right = np.interp(times, np.arange(size), table)
        # between two indices log sigma may be linear as well as sigma
        slack = np.abs(np.exp(np.interp(times, np.arange(size), np.log(table))) - right)
        yield _worst("levels at the times", own[:n], right, slack + STORED * right)
    elif family == "flow":
        yield from _flow(config, made, own)
    elif n > 1 and not getattr(config, "use_flow_sigmas", False):
        yield _worst(
            f"{family} levels",
            own[:n],
            of_family(family, own[0], own[n - 1], n, getattr(config, "rho", 7.0)),
            STORED * own[:n],
        )
        if (known := family_ends(scheduler, made)) is not None:
            yield _between(family, own[[0, n - 1]], known)


def family_ends(scheduler: Any, made: Made) -> tuple[list[tuple[float, float]], ...] | None:
    """Between which levels the first and the last one of a family may lie; None where its options do not say.

    sigma_max and sigma_min where they are given, the ends of training, or the levels of the first and last spaced
    times, which may be rounded to whole ones.
    """
    config = scheduler.config
    options = getattr(config, "sigma_max", None), getattr(config, "sigma_min", None)
    named = [None if one is None else [(float(one), float(one))] for one in options]
    if getattr(scheduler, "alphas_cumprod", None) is None:
        ends = tuple(one for one in named if one is not None)
        return ends if len(ends) == 2 else None
    if not hasattr(config, "timestep_spacing"):
        return None
    table = trained_levels(scheduler)
    times = spaced_times(config, made.steps, made.kind.__name__)[[0, -1]]
    found = []
    for one, end, t in zip(named, table[[-1, 0]], times, strict=True):
        near = np.interp([t - 0.5, t + 0.5], np.arange(len(table)), table)
        found.append(one or [(float(end), float(end)), (float(near[0]), float(near[1]))])
    return tuple(found)


def _between(family: str, own: Array, known: tuple[list[tuple[float, float]], ...]) -> Finding:
    """Both ends of a family against what they may be."""
    gaps = [
        min(max(low - level, level - high, 0.0) / high for low, high in ranges)
        for level, ranges in zip(own.tolist(), known, strict=True)
    ]
    k = int(np.argmax(gaps))
    right = " or ".join(f"{high:.8g}" for _, high in known[k])
    text = f"{family} levels: the {('first', 'last')[k]} one is {own[k]:.8g}, should be {right}"
    return judged("", "levels", gaps[k], STORED, text, rule=RULE, place=f"ends of {family} levels")


def of_family(family: str, high: float, low: float, count: int, rho: float = 7.0) -> Array:
    """`count` levels from high to low."""
    if family == "karras":
        return karras(EXPLODING, count - 1, start=high, end=low, rho=rho)
    if family == "beta":
        return np.asarray(low + (high - low) * betaincinv(0.6, 0.6, np.linspace(1, 0, count)))
    return exponential(EXPLODING, count - 1, start=high, end=low)


def _worst(place: str, found: Array, right: Array, bound: Array) -> Finding:
    k = int(np.argmax(np.abs(found - right) / bound))
    text = f"{place}: level {k} is {found[k]:.8g}, should be {right[k]:.8g}"
    return judged("", "levels", abs(found[k] - right[k]) / right[k], bound[k] / right[k], text, rule=RULE, place=place)


def flow_shift(config: Any, at_steps: Mapping[str, Any]) -> float:
    """s of the shift s sigma / (1 + (s - 1) sigma): of the options, or of the mu that set_timesteps is given."""
    if "mu" in at_steps:
        mu = float(at_steps["mu"])
        return mu if getattr(config, "time_shift_type", "") == "linear" else float(np.exp(mu))
    return float(getattr(config, "flow_shift", getattr(config, "shift", 1.0)) or 1.0)


def _flow(config: Any, made: Made, own: Array) -> Iterator[Finding]:
    """Flow levels are equally spaced before the shift."""
    if getattr(config, "shift_terminal", None) or len(own) < 4:
        return
    shift = flow_shift(config, made.at_steps)
    base = own[:-1] / (shift - (shift - 1) * own[:-1])
    equal = np.linspace(base[0], base[-1], len(base))
    bound = STORED * np.maximum(base, 1 - base) * max(shift, 1.0) + 2e-6 * (base > 1 - 1e-5)
    k = int(np.argmax(np.abs(base - equal) / (bound + STORED)))
    yield judged(
        "",
        "levels",
        abs(base[k] - equal[k]),
        float(bound[k] + STORED),
        f"flow levels: level {k} is {base[k]:.8g} before the shift, should be {equal[k]:.8g}",
        rule=RULE,
        place="flow levels",
    )


def told(scheduler: Any, made: Made) -> Iterator[Finding]:
    """Whether the time of each step is that of its level."""
    own, config = own_levels(scheduler, made), scheduler.config
    bars = getattr(scheduler, "alphas_cumprod", None)
    if own is None or not np.isfinite(own).all():
        return
    times = starts_of(scheduler)
    n = len(times)
    if hasattr(scheduler, "precondition_noise"):
        cosine = "Cosine" in made.kind.__name__
        right = np.arctan(own[:n]) * 2 / np.pi if cosine else np.log(own[:n]) / 4
        k = int(np.argmax(np.abs(times - right)))
        yield judged(
            "",
            "told times",
            abs(times[k] - right[k]),
            STORED * max(1.0, abs(right[k])),
            f"time {k} is {times[k]:.8g}, of its level {right[k]:.8g}",
            rule=RULE,
            place="c_noise",
        )
        return
    flow = _family(config) == "flow" or bars is None
    size = config.num_train_timesteps if hasattr(config, "num_train_timesteps") else 0
    if getattr(config, "timestep_type", "") == "continuous" and config.prediction_type == "v_prediction":
        right, unit = 0.25 * np.log(own[:n]), 0.0
    elif flow:
        if own[0] > 1 or not size:
            return
        right, unit = size * own[:n], 1.0
    else:
        table = trained_levels(scheduler)
        if (np.diff(table) <= 0).any():
            return
        right, unit = np.interp(np.log(own[:n]), np.log(table), np.arange(len(table))), 1.0
    gap = np.abs(times - right)
    k = int(np.argmax(gap))
    text = f"time {k} is {times[k]:.8g}, and its level {own[k]:.6g} is that of {right[k]:.8g}"
    exact = 0.01 if unit else STORED * 10  # of an index: what linear instead of logarithmic interpolation leaves
    whole = bool((times == np.round(times)).all())
    if exact < gap[k] <= 0.5 * unit + 0.01 and (whole or not flow):
        yield convention("", "told times", "times are rounded to whole numbers", place="rounded")
    elif gap[k] > 0.5 and unit and whole and ((right - times > -0.01) & (right - times < 1.01)).all():
        yield convention("", "told times", "times are cut to whole numbers, which is off by up to 1", place="cut")
    else:
        yield judged("", "told times", gap[k], exact, text, rule="a hundredth of an index", place="times")


def ends(scheduler: Any, made: Made) -> Iterator[Finding]:
    """The final level, and the first one of a single step."""
    own, config = own_levels(scheduler, made), scheduler.config
    bars = getattr(scheduler, "alphas_cumprod", None)
    if own is None or getattr(config, "invert_sigmas", False) or not np.isfinite(own).all():
        return
    final, lowest = own[-1], lowest_level(config, bars)
    if final == 0:
        if getattr(config, "final_sigmas_type", "zero") == "sigma_min":
            yield Finding("", "final level", Verdict.WRONG, "it is 0, should be sigma_min", 0.0, 0.0, "final level")
    elif lowest is None or final > lowest * (1 + STORED):
        text = f"the run ends at level {final:.6g} and leaves its noise; the lowest level of training is "
        yield Finding("", "final level", Verdict.WRONG, f"{text}{lowest:.6g}", final, lowest, "final level", RULE)
    else:
        yield convention("", "final level", f"the run ends at sigma_min = {final:.6g}", place="sigma_min")
    linear = getattr(config, "timestep_spacing", "") == "linspace" and not getattr(config, "use_flow_sigmas", False)
    if made.steps == 1 and bars is not None and linear:
        highest = np.sqrt(float((1 - bars[-1]) / bars[-1])) if float(bars[-1]) else np.inf
        if own[0] < 0.01 * highest:
            text = f"one step starts at level {own[0]:.4g}, where the noise of the start is {highest:.4g}"
            yield Finding("", "first level", Verdict.WRONG, text, own[0], 0.01 * highest, "one step")


def lowest_level(config: Any, bars: Any) -> float | None:
    """The lowest level of training."""
    if getattr(config, "use_flow_sigmas", False) or (bars is None and hasattr(config, "shift")):
        # index 1 of N, shifted
        shift = float(getattr(config, "flow_shift", getattr(config, "shift", 1.0)))
        least = 1 / getattr(config, "num_train_timesteps", 1000)
        return shift * least / (1 + (shift - 1) * least)
    if bars is not None:
        first = float(bars[0])
        return float(np.sqrt((1 - first) / first))
    return float(config.sigma_min) if getattr(config, "sigma_min", None) is not None else None


CHECKS: tuple[Check, ...] = (grids,)
