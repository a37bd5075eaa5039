"""The schedulers of diffusers: set_timesteps, scale_model_input, step.

playing.py       a scheduler as a sampler: its loop and its times;   normals.py   its normals
claims/          what each class is by its options, one file for each group of classes
options.py       what is tried of what a class exposes
training.py      alphas_cumprod
tables.py        levels and times
given.py         a scheduler given its own times and levels
claimed.py       a scheduler beside the levels of its claim
consistency.py   the same result by every way to the same thing;   runs.py, resumed.py   runs, whole and begun later
exposed.py       initial noise, constants and the rest of what a class has;   noising.py   add_noise, velocities
robustness.py    every number of steps, every option and pair of options
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any

from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, not_applicable
from refdiff.validation.audits.protocols.diffusers import consistency, exposed, given, robustness, tables, training
from refdiff.validation.audits.protocols.diffusers.options import AT_STEP, Build, base_options, subject_of, sweep
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Subject, no_sampler

TOKENS = "its states are tokens, not points with Gaussian noise"
STAGES = "its steps belong to stages of a pyramid of resolutions, each of which is set up by itself"
ONE_STAGE = f"{STAGES}; with stages=1 and scheduler_type='euler' it is Euler's method, and is audited when asked for"
# classes that no audit of samplers in Gaussian noise applies to, and why
BEYOND: Mapping[str, str] = {
    "AmusedScheduler": TOKENS,
    "BlockRefinementScheduler": TOKENS,
    "DiscreteDDIMScheduler": TOKENS,
    "EntropyBoundScheduler": TOKENS,
    "HeliosDMDScheduler": STAGES,
    "HeliosScheduler": ONE_STAGE,
    "VQDiffusionScheduler": TOKENS,
}
# classes of which only the steps are examined: their times rise towards data, or n times are n - 1 steps
UNLIKE = frozenset({"MiniMaxH3Scheduler", "RFD4ProteinaScheduler"})
# options that change the method and not only its grid: with them a subject is put to every check
METHOD = frozenset(
    {
        "solver_order",
        "solver_type",
        "algorithm_type",
        "prediction_type",
        "predict_x0",
        "variance_type",
        "eta",
        "predictor_order",
        "corrector_order",
        "skip_prk_steps",
        "s_churn",
        "order",
        "stochastic_sampling",
    }
)
# what a quick audit asks of options other than the default ones, and a full one of options that change the grid alone
STEPWISE = ("coefficients", "told level", "law")
PARTS = (training, tables, consistency, exposed, given, robustness)
OWN: tuple[Check, ...] = tuple(check for part in PARTS for check in part.CHECKS)
GRIDWISE = ("coefficients", "told level", *(check.__name__ for check in OWN))


def wrap(kind: Any, request: Request) -> Subject:
    """A scheduler class with the options of a request; those that `step` takes are passed there.

    Raises:
        ValueError: neither the constructor nor `step` takes one of them.
    """
    stepwise = {k: v for k, v in request.options.items() if k in AT_STEP or k.startswith("s_")}
    taken = _constructor(kind)
    at_step = {k: v for k, v in stepwise.items() if k not in taken}
    options = {k: v for k, v in request.options.items() if k not in at_step}
    of_step = set(signature(kind.step).parameters)
    unknown = sorted((set(options) - taken) | (set(at_step) - of_step))
    if unknown:
        known = ", ".join(sorted(taken | (of_step & AT_STEP.keys()) | {k for k in of_step if k.startswith("s_")}))
        raise ValueError(f"{kind.__name__} takes {known}; got {', '.join(unknown)}")
    return subject_of(Build(kind, options, at_step, request.dtype))


def _constructor(kind: type) -> set[str]:
    return set(signature(kind.__init__).parameters) - {"self"}  # type: ignore[misc]


def classes() -> dict[str, type]:
    """The scheduler classes of the installed version by name; classes of its public names only."""
    import diffusers
    from diffusers import schedulers

    found: dict[str, type] = {}
    for name in sorted(dir(schedulers)):
        kind: Any = getattr(diffusers, name, None)
        # a class whose backend is missing is a dummy of another module, which raises when it is asked for anything
        own = isinstance(kind, type) and kind.__module__.startswith("diffusers.schedulers.") and name[:4] != "Flax"
        if own and name.endswith("Scheduler") and hasattr(kind, "set_timesteps"):
            found[name] = kind
    return found


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """For every class its default options, every option by itself, and (in the check of pairs) every pair."""
    return {name: partial(_subjects, kind, quick) for name, kind in classes().items()}


def _subjects(kind: type, quick: bool) -> Iterator[Subject]:
    if kind.__name__ in BEYOND:
        yield Subject(f"{kind.__name__}()", no_sampler, "diffusers", protocol="diffusers", checks=(beyond.__name__,))
        return
    for build in sweep(kind, True, lambda build: _complete(build) and (not quick or _whole(build))).singles:
        whole = _whole(build)
        stepwise = kind.__name__ in UNLIKE or (quick and _changed(build))
        yield subject_of(build, STEPWISE if stepwise else () if whole else GRIDWISE)


def _changed(build: Build) -> set[str]:
    """The options that are not those of the default subject."""
    base = base_options(build.kind)
    return {k for k in {**build.options, **build.at_step} if k not in base or build.options.get(k) != base[k]}


def _whole(build: Build) -> bool:
    """Whether it is put to every check: by default, and where an option changes the method."""
    changed = _changed(build)
    return not changed or bool(changed & METHOD)


def _complete(build: Build) -> bool:
    """Whether every argument without a default is given."""
    parameters = list(signature(build.kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    plain = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return all(p.default is not p.empty or p.name in build.options for p in parameters if p.kind in plain)


def beyond(subject: Subject, _: bool) -> Iterator[Finding]:
    """Why a class is not audited, where it is listed; with options that are given it may be."""
    name = subject.name.partition("(")[0]
    if name in BEYOND and subject.source is None:
        yield not_applicable(subject.name, "class", BEYOND[name])


PROTOCOLS = (
    Protocol(
        name="diffusers",
        summary="scheduler.set_timesteps(n), scale_model_input(x, t), step(output, t, x)",
        wrap=wrap,
        library="diffusers",
        members=members,
        checks=(beyond, *OWN),
    ),
)
