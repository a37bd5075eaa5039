r"""Every number of steps, every option and every pair of options: nothing breaks, and no step goes astray.

runs      no exception but the class's own refusals
finite    no NaN and no infinity in the output, from unit starts and unit outputs
count     the times are as many as were asked for (a method of two evaluations in a step has 2 n - 1)
order     times fall (rise, in an inverse scheduler), levels fall, and no step has length zero
range     a time that is an index of the table of betas is one of 0 .. N - 1
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.impulse import Sampler as Play
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.checks.coefficients import coefficients
from refdiff.validation.audits.findings import Finding, Verdict, not_applicable
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.options import Build, raised, sampler_of, subject_of, sweep
from refdiff.validation.audits.protocols.diffusers.playing import Made, play
from refdiff.validation.audits.subject import Subject

QUESTION = "step counts"
PRIMES = (101, 499, 997)
EVERY, SOME, QUICK = (*range(1, 61), *PRIMES, 1000), (1, 2, 3, 4, 7, 10, 14, 15, 16, 20, 37, 60, 1000), (1, 2, 3, 10)
FEW = (1, 3, 16)  # for pairs of options; 16 is above the 15 steps at which "lower order final" ends
RUN = 60  # no run with more steps: what a thousand steps could show, their times and levels show
SHAPE = (1, 3, 2)  # of states: what thresholds, or learns a variance, needs channels
ROUNDINGS = 8 * float(np.finfo(np.float32).eps)  # of a level, within which two are one
READ = 6  # steps at which a pair's coefficients are read
# their times do not fall step by step, or are one more than the steps
JUMPING = frozenset({"RePaintScheduler", "PNDMScheduler", "DDPMWuerstchenScheduler"})


def step_counts(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Runs over numbers of steps; what is wrong is told once, at the first number where it is."""
    build = subject.source
    if not isinstance(build, Build):
        return
    counts = subject.steps or (QUICK if quick else EVERY if not _set(build) else SOME)
    troubles: dict[str, list[tuple[int, str, Verdict]]] = {}
    refused = 0
    for steps in counts:
        made = build.made(steps)
        for kind, text, verdict in examined(made):
            if kind == "refused":
                refused += 1
            else:
                troubles.setdefault(kind, []).append((steps, text, verdict))
    for kind, found in troubles.items():
        steps, text, verdict = found[0]
        more = f"; and with {len(found) - 1} more numbers of steps" if len(found) > 1 else ""
        yield Finding(
            subject.name,
            QUESTION,
            verdict,
            f"{steps} steps: {text}{more}",
            place=kind,
            script=script(build.made(steps)),
            details={"steps": [s for s, _, _ in found]},
        )
    if not troubles and refused == len(counts):
        yield not_applicable(subject.name, QUESTION, "the class refuses every number of steps")
    elif not troubles:
        said, run = f", {refused} refused by the class" if refused else "", len(counts) - refused
        yield Finding(subject.name, QUESTION, Verdict.OK, f"{run} numbers of steps run{said}", place="all")


def _set(build: Build) -> bool:
    return bool(build.options or build.at_step)


def pairs(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Every pair of options of a class, examined with its default subject: it runs, and its coefficients are right."""
    build = subject.source
    if quick or not isinstance(build, Build) or _set(build):
        return
    found = sweep(build.kind, quick=False)
    wrong = 0
    for pair in found.pairs:
        troubles = list(_pair(pair))
        wrong += any(one.verdict is Verdict.WRONG for one in troubles)
        yield from troubles
    said = f"{len(found.pairs)} pairs of options tried, {wrong} wrong; the class refuses {len(found.refused)}"
    yield Finding(
        subject.name,
        "option pairs",
        Verdict.NOT_APPLICABLE if not found.pairs else Verdict.OK,
        said,
        details={"pairs": len(found.pairs), "refused": len(found.refused)},
    )


def _pair(build: Build) -> Iterator[Finding]:
    name = build.made(READ).name
    for steps in FEW:
        made = build.made(steps)
        for kind, text, verdict in examined(made):
            if kind != "refused" and verdict is Verdict.WRONG:
                yield Finding(name, QUESTION, verdict, f"{steps} steps: {text}", place=kind, script=script(made))
    for one in coefficients(subject_of(build, steps=(READ,)), True):
        if one.verdict is Verdict.WRONG:
            yield one


def examined(made: Made) -> Iterator[tuple[str, str, Verdict]]:
    """What is wrong with one number of steps: (what, text, verdict)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scheduler = made.new()
        except Exception as error:  # whatever foreign code raises
            yield _exception("set_timesteps", error)
            return
        found = list(timed(scheduler, made))
        yield from found
        if made.steps <= RUN or any(verdict is Verdict.WRONG for _, _, verdict in found):
            yield from _run(made)


def _run(made: Made) -> Iterator[tuple[str, str, Verdict]]:
    """A run on unit normals; three channels and twice as many answers where a variance is learned."""
    rng = np.random.default_rng(made.steps)
    learned = str(made.options.get("variance_type")).startswith("learned")
    try:
        sampler = _player(made)
        output = sampler(
            lambda x, t: rng.standard_normal((x.shape[0], (1 + learned) * x.shape[1], *x.shape[2:])),
            rng.standard_normal(SHAPE),
            lambda: rng.standard_normal(SHAPE),
        )
    except Exception as error:  # whatever foreign code raises
        yield _exception("runs", error)
        return
    if not np.isfinite(output).all():
        yield "finite", "the output is not finite for a start and outputs of unit normals", Verdict.WRONG


def _player(made: Made) -> Play:
    """The loop that the class's claim plays, where there is one: some classes need more than a pipeline's usual."""
    try:
        return sampler_of(made).play
    except Exception:  # a claim may be made for fewer options than there are
        return play(made)


def _exception(where: str, error: Exception) -> tuple[str, str, Verdict]:
    if isinstance(error, ValueError | NotImplementedError) and raised(error):
        return "refused", str(error), Verdict.NOT_APPLICABLE
    return where, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", Verdict.WRONG


def timed(scheduler: Any, made: Made) -> Iterator[tuple[str, str, Verdict]]:
    """What is wrong with the times and levels that a scheduler has."""
    times = to_numpy(scheduler.timesteps).astype(float)
    if times.ndim != 1 or not times.size or not np.isfinite(times).all():
        yield "times", f"timesteps are {times}", Verdict.WRONG
        return
    wanted = evaluations(scheduler, made.steps)
    if wanted is not None and len(times) != wanted:
        yield "count", f"{len(times)} timesteps where {wanted} were asked for", Verdict.WRONG
    yield from _range(scheduler, times)
    levels = levels_of(scheduler, len(times))
    if made.kind.__name__ in JUMPING:
        return
    if levels is not None:
        yield from _falling(scheduler, times, levels)
    # the times of KDPM2's middles follow from levels, and are examined as what the network is told
    elif len(times) > 1 and not made.kind.__name__.endswith("InverseScheduler") and made.kind.__name__[:5] != "KDPM2":
        steps = np.diff(times)
        if (steps >= 0).any():
            k = int(np.argmax(steps >= 0))
            yield "order", f"timesteps go from {times[k]:g} to {times[k + 1]:g} in step {k}", Verdict.WRONG


def _falling(scheduler: Any, times: Array, levels: Array) -> Iterator[tuple[str, str, Verdict]]:
    if not np.isfinite(levels).all():
        yield "levels", f"sigmas are {levels}", Verdict.WRONG
        return
    inverse = len(levels) > 1 and type(scheduler).__name__.endswith("InverseScheduler")
    inverse = inverse or bool(getattr(scheduler.config, "invert_sigmas", False))
    sign = -1.0 if inverse else 1.0
    # two stages in a step have their levels twice, and only a step's end must be lower
    own = levels[:: int(getattr(scheduler, "order", 1))] if len(levels) > len(times) else levels
    own = np.append(own, levels[-1]) if own[-1] != levels[-1] else own
    steps = sign * np.diff(own)
    steps[np.abs(steps) <= ROUNDINGS * np.abs(own[1:])] = 0.0
    if (steps > 0).any():
        k = int(np.argmax(steps > 0))
        yield "order", f"levels go from {own[k]:.8g} to {own[k + 1]:.8g} in step {k}", Verdict.WRONG
    if (steps[:-1] == 0).any():
        k = int(np.argmax(steps == 0))
        yield "zero length", f"step {k} goes from level {own[k]:.8g} to itself", Verdict.WRONG
    elif steps[-1] == 0:
        said = "the last step goes from the last level to itself: its evaluation is not used"
        yield "last step", said, Verdict.CONVENTION
    turned = sign * np.diff(times[:: int(getattr(scheduler, "order", 1))])
    if (turned > 0).any():
        k = int(np.argmax(turned > 0))
        yield "times", f"timesteps rise from {times[k]:g} to {times[k + 1]:g}", Verdict.WRONG
    elif (turned == 0).any() and (steps < 0).all():
        yield "repeated times", "rounded times repeat where levels do not", Verdict.CONVENTION


def _range(scheduler: Any, times: Array) -> Iterator[tuple[str, str, Verdict]]:
    bars = getattr(scheduler, "alphas_cumprod", None)
    config = scheduler.config
    if bars is None or getattr(config, "timestep_type", "") == "continuous" or getattr(config, "use_flow_sigmas", 0):
        return
    last = len(bars) - 1
    if times.max() > last or times.min() < 0:
        off = times.max() if times.max() > last else times.min()
        yield "range", f"a timestep is {off:g}, where the network's are 0 to {last}", Verdict.WRONG


def evaluations(scheduler: Any, steps: int) -> int | None:
    """How many times there must be, or None where that is a matter of the class."""
    name = type(scheduler).__name__
    if name in JUMPING:
        return None
    return 2 * steps - 1 if getattr(scheduler, "order", 1) == 2 else steps


def levels_of(scheduler: Any, count: int) -> Array | None:
    """The scheduler's sigmas where it has one for every time and an end."""
    levels = getattr(scheduler, "sigmas", None)
    if levels is None:
        return None
    found = to_numpy(levels).astype(float)
    return found if found.ndim == 1 and len(found) in (count, count + 1) else None


def script(made: Made) -> str:
    """A program that shows times, levels and a run."""
    arguments = "".join(f", {k}={v!r}" for k, v in made.at_step.items())
    return (
        f"import torch\n{made.script()}\nprint(len(scheduler.timesteps), scheduler.timesteps)\n"
        "print(getattr(scheduler, 'sigmas', None))\nx = torch.ones(1, 2)\nfor t in scheduler.timesteps:\n"
        "    shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, 'scale_model_input') else x\n"
        f"    x = scheduler.step(torch.ones_like(shown), t, x{arguments})[0]\nprint(x)"
    )


def unread(subject: Subject, _: bool) -> Iterator[Finding]:
    """A class for which nothing is claimed is named."""
    build = subject.source
    if isinstance(build, Build) and not _set(build):
        from refdiff.validation.audits.protocols.diffusers.claims import readers

        if build.kind.__name__ not in readers():
            yield not_applicable(
                subject.name, "class", "no method is claimed for this class; only its runs are examined"
            )


CHECKS: tuple[Check, ...] = (step_counts, pairs, unread)
