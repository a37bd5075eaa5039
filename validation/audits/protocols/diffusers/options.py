r"""What is tried of what a scheduler class exposes.

The constructor's signature says which options there are: a Literal lists its values, a boolean has two, and `KNOWN`
has the values of the rest. A sweep is the default options, every option by itself and every pair of options; options
that mean nothing alone (a flow shift without flow sigmas) bring what they need with them. What the class itself
refuses by a `raise ValueError` or NotImplementedError of its own is left out, and counted.
"""

from __future__ import annotations

import inspect
import linecache
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.validation.audits.protocols.diffusers.claims import readers
from refdiff.validation.audits.protocols.diffusers.playing import Made, Played, play
from refdiff.validation.audits.subject import Sampler, Subject

Options = Mapping[str, Any]

# values of options of which the signature says too little
KNOWN: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
        "prediction_type": ("epsilon", "sample", "v_prediction"),
        "timestep_spacing": ("linspace", "leading", "trailing"),
        "interpolation_type": ("linear", "log_linear"),
        "algorithm_type": ("data_prediction", "noise_prediction"),
        "solver_order": (1, 2, 3),
        "predictor_order": (1, 2, 3),
        "corrector_order": (1, 2, 3),
        "steps_offset": (0, 1),
        "flow_shift": (1.0, 3.0),
        "shift": (1.0, 3.0),
        "shift_terminal": (None, 0.1),
        "snr_shift_scale": (3.0, 1.0),
        "rho": (7.0, 5.0),
        "sigma_data": (0.5, 1.0),
        "disable_corrector": ([], [0]),
        "lambda_min_clipped": (-float("inf"), -5.1),
        "eta": (0.0, 0.5, 1.0),
        "original_inference_steps": (50, 25),
        "num_train_timesteps": (1000, 500),
        "schedule_mode": ("log", "power"),
        "noise_mode": ("tan", "1/t"),
        "tsr_k": (2.0, 1.0),
        "tsr_sigma": (1.0, 0.5),
    }
)
# what a class needs to take any number of steps
SHORT: Options = MappingProxyType({"tail_steps": 0})
# at the call of step
AT_STEP: Mapping[str, tuple[Any, ...]] = MappingProxyType({"eta": (0.5, 1.0), "s_churn": (2.0,), "order": (1, 2, 3)})
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# what an option needs to mean something, or to be accepted; only what the class has is set
JOINED: Mapping[tuple[str, Any], Options] = MappingProxyType(
    {
        # a noise says nothing of the data at alpha = 0
        ("rescale_betas_zero_snr", True): {"prediction_type": "v_prediction"},
        ("prediction_type", "flow_prediction"): FLOW,
        ("use_flow_sigmas", True): FLOW,
        ("flow_shift", 3.0): FLOW,
        ("use_dynamic_shifting", True): FLOW,
        ("shift_terminal", 0.1): FLOW,
        ("algorithm_type", "dpmsolver"): {"final_sigmas_type": "sigma_min"},
        ("algorithm_type", "sde-dpmsolver"): {"final_sigmas_type": "sigma_min"},
    }
)
# values that a class's documentation leaves out
EXCEPT = frozenset({("CosineDPMSolverMultistepScheduler", "solver_order", 3)})
# what makes a sampler no table is off unless it is asked about by itself
CLIPPING = ("clip_sample", "clip_denoised", "thresholding")
SHIFT = 0.8  # mu of dynamic shifting


@dataclass(frozen=True)
class Build:
    """The subject's scheduler for every number of steps, as a sampler with its claim or as it is made."""

    kind: type
    options: Options = field(default_factory=lambda: MappingProxyType({}))
    at_step: Options = field(default_factory=lambda: MappingProxyType({}))
    dtype: str = "float64"

    @property
    def at_steps(self) -> dict[str, Any]:
        """What set_timesteps must be told."""
        return {"mu": SHIFT} if self.options.get("use_dynamic_shifting") else {}

    @property
    def plain(self) -> bool:
        """Whether nothing but clipping is set."""
        return not self.at_step and set(self.options) <= set(CLIPPING)

    def made(self, steps: int, **options: Any) -> Made:
        """With further options of the constructor."""
        return Made(self.kind, {**self.options, **options}, steps, self.at_steps, self.at_step, self.dtype)

    def __call__(self, steps: int) -> Sampler:
        return sampler_of(self.made(steps))


def sampler_of(made: Made) -> Sampler:
    """With the claim of its class, where there is one."""
    reader = readers().get(made.kind.__name__)
    if reader is None:
        return Sampler(made.name, play(made), np.dtype(np.float32), script=made.script())
    found = reader(made)
    return replace(found, seeded=found.play.seeded) if isinstance(found.play, Played) else found


@dataclass(frozen=True)
class Sweep:
    """What is tried of a class: single options and pairs, and what it refused, with its words."""

    singles: tuple[Build, ...]
    pairs: tuple[Build, ...]
    refused: tuple[tuple[Build, str], ...]


def sweep(kind: type, quick: bool, wanted: Callable[[Build], bool] = lambda _: True) -> Sweep:
    """Every option that is wanted, and every pair of options unless it is quick.

    Args:
        kind: the class.
        quick: without pairs.
        wanted: which of them; the others are not even tried.
    """
    base = Build(kind, base_options(kind))
    singles = [replace(base, options={**base.options, **one}) for one in _singles(kind)]
    stepwise = [replace(base, at_step={name: value}) for name, value in _at_step(kind)]
    pairs: list[Build] = []
    if not quick:
        plain = [one for one in _singles(kind) if not set(one) & set(CLIPPING)]
        pairs = [replace(base, options={**base.options, **both}) for both in _joined_pairs(plain)]
        pairs += [replace(one, options={**base.options, **two}) for one in stepwise for two in plain]
    found: list[list[Build]] = [[], []]
    refused: list[tuple[Build, str]] = []
    seen: set[str] = set()
    for into, builds in zip(found, ([Build(kind), base, *singles, *stepwise], pairs), strict=True):
        for build in builds:
            if (key := repr(_known(build))) in seen or not wanted(build):
                continue
            seen.add(key)
            why = refusal(build)
            (into.append(build) if why is None else refused.append((build, why)))
    return Sweep(tuple(found[0]), tuple(found[1]), tuple(refused))


def _known(build: Build) -> tuple[Any, ...]:
    """What tells builds apart: options that are the default are no options."""
    default = defaults(build.kind)
    return (
        sorted((k, repr(v)) for k, v in build.options.items() if k not in default or default[k] != v),
        sorted((k, repr(v)) for k, v in build.at_step.items()),
    )


def defaults(kind: type) -> dict[str, Any]:
    """The constructor's options that have a default."""
    return {name: p.default for name, p in _parameters(kind).items() if p.default is not inspect.Parameter.empty}


def base_options(kind: type) -> dict[str, Any]:
    """The default, without clipping, and with a value for what has no default."""
    given = {name: KNOWN[name][0] for name, p in _parameters(kind).items() if p.default is p.empty and name in KNOWN}
    given |= {name: value for name, value in SHORT.items() if name in _parameters(kind)}
    return given | {name: False for name in CLIPPING if defaults(kind).get(name) is True}


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind.__init__).parameters  # type: ignore[misc]


def values(name: str, parameter: inspect.Parameter) -> tuple[Any, ...]:
    """The values of an option beside its default."""
    default = parameter.default
    listed = _literals(parameter.annotation)
    if listed:
        found = listed
    elif isinstance(default, bool):
        found = (True, False)
    elif name == "num_train_timesteps" and isinstance(default, int):
        found = (default // 2,)
    elif name in ("sigma_min", "sigma_max"):
        found = (0.1 if name == "sigma_min" else 10.0,) if default is None else (2 * default,)
    else:
        found = KNOWN.get(name, ())
    return tuple(v for v in found if v != default or type(v) is not type(default))


def _literals(annotation: Any) -> tuple[Any, ...]:
    """The values of Literal[...], also in a union with None."""
    if isinstance(annotation, str):
        return ()
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(v for part in typing.get_args(annotation) for v in _literals(part))
    return ()


def _singles(kind: type) -> list[dict[str, Any]]:
    parameters = _parameters(kind)
    found = []
    for name, parameter in parameters.items():
        for value in values(name, parameter):
            if (kind.__name__, name, _plain(value)) in EXCEPT:
                continue
            needed = {k: v for k, v in JOINED.get((name, _plain(value)), {}).items() if k in parameters}
            found.append({**needed, name: value})
    return found


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | float | int | bool | None) else repr(value)


def _at_step(kind: type) -> Iterator[tuple[str, Any]]:
    taken = inspect.signature(kind.step).parameters if hasattr(kind, "step") else {}
    for name, given in AT_STEP.items():
        if name in taken:
            yield from ((name, value) for value in given if value != taken[name].default)


def _joined_pairs(singles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Two options together, where neither asks for another value of the same option."""
    for one, two in combinations(singles, 2):
        if all(one[k] == two[k] for k in set(one) & set(two)):
            yield {**one, **two}


def refusal(build: Build, steps: int = 4) -> str | None:
    """The words with which the class refuses these options, or None."""
    made = build.made(steps)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            play(made)(lambda x, t: np.zeros_like(x), np.ones((1, 2)), lambda: np.zeros((1, 2)))
    except (ValueError, NotImplementedError) as error:
        return str(error) if raised(error) else None
    except Exception:  # whatever it is, robustness says so
        return None
    return None


def raised(error: BaseException) -> bool:
    """Whether it was raised by a `raise` of the scheduler itself, on purpose, and not by what it called."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    theirs = frame.f_globals.get("__name__", "").partition(".")[0] == "diffusers"
    return theirs and "raise" in linecache.getline(frame.f_code.co_filename, line)


def subject_of(build: Build, checks: tuple[str, ...] = (), steps: tuple[int, ...] = ()) -> Subject:
    """The subject that an audit is about."""
    import diffusers

    made = build.made(10)
    return Subject(
        name=made.name,
        build=build,
        library="diffusers",
        version=diffusers.__version__,
        protocol="diffusers",
        steps=steps,
        options=tuple(build.options.items()),
        checks=checks,
        source=build,
    )
