"""The schedulers of diffusers: set_timesteps, scale_model_input, step.

playing.py       a scheduler as a sampler: its loop, its normals, its times
claims/          what each class is by its options, one file for each group of classes
options.py       what is tried of what a class exposes
tables.py        betas, levels, times
consistency.py   the same result by every way to the same thing
exposed.py       initial noise, add_noise, velocities, and the rest of what a class has
robustness.py    every number of steps, every option and pair of options
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any

from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, not_applicable
from refdiff.validation.audits.protocols.diffusers import consistency, exposed, given, robustness, tables
from refdiff.validation.audits.protocols.diffusers.options import AT_STEP, Build, base_options, subject_of, sweep
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Sampler, Subject

TOKENS = "its states are tokens, not points with Gaussian noise"
STAGES = "its steps belong to stages of a pyramid of resolutions, each of which is set up by itself"
# classes that no audit of samplers in Gaussian noise applies to, and why
BEYOND: Mapping[str, str] = {
    "AmusedScheduler": TOKENS,
    "BlockRefinementScheduler": TOKENS,
    "DiscreteDDIMScheduler": TOKENS,
    "EntropyBoundScheduler": TOKENS,
    "HeliosDMDScheduler": STAGES,
    "HeliosScheduler": STAGES,
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
OWN: tuple[Check, ...] = (*tables.CHECKS, *consistency.CHECKS, *exposed.CHECKS, *given.CHECKS, *robustness.CHECKS)
GRIDWISE = ("coefficients", *(check.__name__ for check in OWN))


def wrap(kind: Any, request: Request) -> Subject:
    """A scheduler class with the options of a request; those that `step` takes are passed there."""
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
        yield Subject(f"{kind.__name__}()", _no_sampler, "diffusers", protocol="diffusers", checks=(beyond.__name__,))
        return
    for build in sweep(kind, quick=True).singles:
        if not _complete(build):
            continue
        base = base_options(kind)
        changed = {k for k in {**build.options, **build.at_step} if k not in base or build.options.get(k) != base[k]}
        whole = not changed or bool(changed & METHOD)
        if quick and not whole:
            continue
        stepwise = kind.__name__ in UNLIKE or (quick and changed)
        yield subject_of(build, STEPWISE if stepwise else () if whole else GRIDWISE)


def _complete(build: Build) -> bool:
    """Whether every argument without a default is given."""
    parameters = list(signature(build.kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    plain = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return all(p.default is not p.empty or p.name in build.options for p in parameters if p.kind in plain)


def _no_sampler(_: int) -> Sampler:
    raise ValueError("there is no sampler in Gaussian noise to be made")


def beyond(subject: Subject, _: bool) -> Iterator[Finding]:
    """Why a class is not audited."""
    name = subject.name.partition("(")[0]
    if name in BEYOND:
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
