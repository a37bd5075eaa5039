r"""A scheduler of diffusers as a sampler: the loop of a pipeline, with a model, a start and normals from outside.

    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x).prev_sample

Normals are drawn inside `step`, and are replaced while it is played: see `normals`. Levels follow from
`alphas_cumprod`, in which the network was trained: at a time between two entries log sigma is linear, as the schedulers
themselves have it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.impulse import Sampler as Play
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.normals import drawn

Network = Callable[[Array, Any], Array]


@dataclass(frozen=True)
class Made:
    """A scheduler class with options and a number of steps.

    Args:
        kind: the class.
        options: of the constructor, those that are not the default.
        steps: num_inference_steps.
        at_steps: further arguments of set_timesteps; with custom timesteps or sigmas in it, `steps` is not passed.
        at_step: further arguments of step, such as eta or s_churn.
        dtype: of the sample.
    """

    kind: type
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    steps: int = 10
    at_steps: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    at_step: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    dtype: str = "float64"

    @property
    def name(self) -> str:
        """As in reports: the class and what was set."""
        said = [f"{k}={v!r}" for given in (self.options, self.at_steps, self.at_step) for k, v in given.items()]
        return f"{self.kind.__name__}({', '.join(said)})"

    def new(self) -> Any:
        """A scheduler, made and set to its steps."""
        scheduler = deepcopy(constructed(self.kind, self.options))
        set_steps(scheduler, None if {"timesteps", "sigmas"} & set(self.at_steps) else self.steps, **self.at_steps)
        return scheduler

    @cached_property
    def scheduler(self) -> Any:
        """One that is set to its steps, only to be looked at, and to be copied."""
        return self.new()

    def again(self) -> Any:
        """A copy of it, for what is asked many times: to set one anew may take longer than the answer."""
        return deepcopy(self.scheduler)

    def script(self) -> str:
        """The lines that make the scheduler, and what its step is given."""
        given = ", ".join(f"{k}={v!r}" for k, v in self.options.items())
        steps = [] if {"timesteps", "sigmas"} & set(self.at_steps) else [str(self.steps)]
        more = ", ".join([*steps, *(f"{k}={v!r}" for k, v in self.at_steps.items())])
        return (
            f"from diffusers import {self.kind.__name__}\n"
            f"scheduler = {self.kind.__name__}({given})\nscheduler.set_timesteps({more})"
            + (f"\nat_step = {dict(self.at_step)!r}" if self.at_step else "")
        )


_constructed: dict[str, Any] = {}
KEPT = 64  # schedulers, each of a few tables


def constructed(kind: type, options: Mapping[str, Any]) -> Any:
    """A scheduler as its constructor leaves it; some take a second for that, so the last ones are kept."""
    key = f"{kind.__module__}.{kind.__qualname__} {id(kind)} {sorted(options.items())!r}"
    if key not in _constructed:
        while len(_constructed) >= KEPT:
            del _constructed[next(iter(_constructed))]
        _constructed[key] = kind(**options)
    return _constructed[key]


def taken(scheduler: Any, method: str) -> tuple[str, ...]:
    """The names of the arguments of a method, in their order."""
    return _names(getattr(type(scheduler), method))


@lru_cache(maxsize=256)
def _names(function: Any) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(function).parameters if name != "self")


def set_steps(scheduler: Any, steps: int | None, **more: Any) -> None:
    """set_timesteps with the arguments that this class takes."""
    names = taken(scheduler, "set_timesteps")
    if steps is None:
        scheduler.set_timesteps(**more)
    elif "num_inference_steps" in names or not names:
        scheduler.set_timesteps(num_inference_steps=steps, **more)
    else:
        scheduler.set_timesteps(steps, **more)


def shown(scheduler: Any, state: Any, t: Any) -> Any:
    """The state as the network sees it at this time."""
    return scheduler.scale_model_input(state, t) if hasattr(scheduler, "scale_model_input") else state


def asked(model: Network) -> Callable[[Any, Any, int], Any]:
    """(shown, t, number of the evaluation) -> the model's answer, of the kind that it is shown."""
    return lambda state, t, _: to_torch(model(to_numpy(state).astype(float), to_numpy(t).item()), like=state)


def looped(
    scheduler: Any,
    state: Any,
    ask: Callable[[Any, Any, int], Any],
    step: Callable[[Any, Any, Any, int], Any],
    times: Iterable[Any] | None = None,
) -> Any:
    """A pipeline's loop over the scheduler's timesteps, or over `times`.

    Args:
        scheduler, state: set to its steps, and the start.
        ask: (shown, t, number of the evaluation) -> answer.
        step: (answer, t, state, number of the evaluation) -> the next state.
        times: those that are stepped through.
    """
    for k, t in enumerate(scheduler.timesteps if times is None else times):
        state = step(ask(shown(scheduler, state, t), t, k), t, state, k)
    return state


@dataclass(frozen=True)
class Played:
    """The sampler that a pipeline would run."""

    made: Made

    def __call__(self, model: Network, x: Array, normal: Callable[[], Array]) -> Array:
        """With normals from outside."""
        scheduler, state = self.made.new(), self._start(x)
        with drawn(scheduler, normal, state):
            return self._run(scheduler, model, state, {})

    def seeded(self, model: Network, x: Array, seed: int) -> Array:
        """With the normals that the scheduler draws by itself, from a generator where its step takes one."""
        import torch

        scheduler = self.made.new()
        takes = "generator" in taken(scheduler, "step")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            own = {"generator": torch.Generator().manual_seed(seed)} if takes else {}
            return self._run(scheduler, model, self._start(x), own)

    def _start(self, x: Array) -> Any:
        return to_torch(np.asarray(x, dtype=self.made.dtype))

    def _run(self, scheduler: Any, model: Network, state: Any, more: Mapping[str, Any]) -> Array:
        arguments = {**_accepted(scheduler, self.made.at_step), **more}
        return to_numpy(
            looped(scheduler, state, asked(model), lambda answer, t, x, _: scheduler.step(answer, t, x, **arguments)[0])
        )


def play(made: Made) -> Play:
    """The sampler that a pipeline would run."""
    return Played(made)


def _accepted(scheduler: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    names = taken(scheduler, "step")
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"step takes {', '.join(names)}; got {', '.join(unknown)}")
    return {"return_dict": False, **wanted} if "return_dict" in names else dict(wanted)


def trained_levels(scheduler: Any) -> Array:
    """sigma / alpha of every training time 0, 1, ..., from alphas_cumprod as the scheduler has it."""
    bars = to_numpy(scheduler.alphas_cumprod).astype(float)
    return np.asarray(np.sqrt((1 - bars) / bars))


def told_level(scheduler: Any) -> Callable[[Any], float]:
    """The level sigma / alpha that a network takes a time for: of the table, with log sigma linear in between."""
    logs = np.log(trained_levels(scheduler))

    def level(t: Any) -> float:
        return float(np.exp(np.interp(float(t), np.arange(len(logs)), logs)))

    return level
