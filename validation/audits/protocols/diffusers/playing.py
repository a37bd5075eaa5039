r"""A scheduler of diffusers as a sampler: the loop of a pipeline, with a model, a start and normals from outside.

    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x).prev_sample

Normals are drawn inside `step` by `randn_tensor` of the scheduler's module, or by a Brownian tree, and both are
replaced while it is played. Levels follow from `alphas_cumprod`, in which the network was trained: at a time between
two entries log sigma is linear, as the schedulers themselves have it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.impulse import Sampler as Play
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch

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


def set_steps(scheduler: Any, steps: int | None, **more: Any) -> None:
    """set_timesteps with the arguments that this class takes."""
    taken = inspect.signature(scheduler.set_timesteps).parameters
    if steps is None:
        scheduler.set_timesteps(**more)
    elif "num_inference_steps" in taken or not taken:
        scheduler.set_timesteps(num_inference_steps=steps, **more)
    else:
        scheduler.set_timesteps(steps, **more)


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
        taken = "generator" in inspect.signature(scheduler.step).parameters
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            own = {"generator": torch.Generator().manual_seed(seed)} if taken else {}
            return self._run(scheduler, model, self._start(x), own)

    def _start(self, x: Array) -> Any:
        return to_torch(np.asarray(x, dtype=self.made.dtype))

    def _run(self, scheduler: Any, model: Network, state: Any, more: Mapping[str, Any]) -> Array:
        arguments = {**_accepted(scheduler.step, self.made.at_step), **more}
        for t in scheduler.timesteps:
            shown = scheduler.scale_model_input(state, t) if hasattr(scheduler, "scale_model_input") else state
            answer = to_torch(model(to_numpy(shown).astype(float), to_numpy(t).item()), like=state)
            state = scheduler.step(answer, t, state, **arguments)[0]
        return to_numpy(state)


def play(made: Made) -> Play:
    """The sampler that a pipeline would run."""
    return Played(made)


def _accepted(step: Callable[..., Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(step).parameters
    unknown = sorted(set(wanted) - set(parameters))
    if unknown:
        raise ValueError(f"step takes {', '.join(parameters)}; got {', '.join(unknown)}")
    return {"return_dict": False, **wanted} if "return_dict" in parameters else dict(wanted)


@contextmanager
def drawn(scheduler: Any, normal: Callable[[], Array], like: Any) -> Iterator[None]:
    """The scheduler's normals come from `normal`."""

    def randn_tensor(shape: Any, *_: Any, **__: Any) -> Any:
        return to_torch(normal(), like=like).reshape(tuple(shape))

    class Path:
        """A Brownian path in the class's own clock, made of unit normals where it is asked for.

        (W(t) - W(s)) / sqrt|t - s| for any two points of the clock, as BrownianTreeNoiseSampler gives it: beyond the
        known points the path goes on by sqrt(gap) z, between two of them it is a bridge. So increments over
        intervals that overlap share their normals, as they do in the library; those over disjoint intervals are unit
        normals of their own. An interval of length zero has 0 / 0, there as here.
        """

        def __init__(self, *_: Any, transform: Callable[[Any], Any] = lambda x: x, **__: Any) -> None:
            self.known: dict[float, Array] = {}
            self.transform = transform

        def at(self, point: float) -> Array:
            if point not in self.known:
                below = max((p for p in self.known if p < point), default=None)
                above = min((p for p in self.known if p > point), default=None)
                ends = [p for p in (below, above) if p is not None]
                if len(ends) == 2:
                    low, high = ends
                    part = (point - low) / (high - low)
                    middle = (1 - part) * self.known[low] + part * self.known[high]
                    self.known[point] = middle + np.sqrt((point - low) * (1 - part)) * normal()
                elif ends:
                    self.known[point] = self.known[ends[0]] + np.sqrt(abs(point - ends[0])) * normal()
                else:
                    self.known[point] = np.zeros(())  # only increments matter
            return self.known[point]

        def __call__(self, start: Any, end: Any) -> Any:
            s, t = (float(self.transform(to_torch(np.asarray(to_numpy(one), dtype=float)))) for one in (start, end))
            with np.errstate(invalid="ignore", divide="ignore"):
                return to_torch((self.at(s) - self.at(t)) / np.sqrt(abs(s - t)) * np.ones(like.shape), like=like)

    replaced = {"randn_tensor": randn_tensor, "BrownianTreeNoiseSampler": Path}
    modules = {sys.modules[kind.__module__] for kind in type(scheduler).__mro__ if kind.__module__ in sys.modules}
    patches = [patch.object(m, name, new) for m in modules for name, new in replaced.items() if hasattr(m, name)]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


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
