r"""DPM-Solver and UniPC: model_fn(x, t) = eps, and a noise schedule object with marginal_alpha, marginal_std,
marginal_lambda and inverse_lambda.

    a function     f(model_fn, x, noise_schedule, times, **options), on shrinking steps of the family's clock, sigma > 0
    a class        kind(model_fn, noise_schedule, **options).sample(x, steps=..., skip_type=..., **options)

A class makes its grid itself, of `skip_type`: from t_start = T to t_end = 1e-3 in time_uniform (equal in t),
time_quadratic (in sqrt t) or logSNR (in lambda). Options go to `sample` where it has them, else to the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import times as grids
from refdiff.samplers.impulse import Sampler as Play
from refdiff.schedules import Schedule
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.arrays import Edge, edge_of, to_numpy
from refdiff.validation.audits.protocols.plain import grid_of
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Sampler, Subject

END = 1e-3  # the t_end of the authors' code, 1 / total_N
SKIPS: Mapping[str, Callable[[Schedule, int], Array]] = {
    "time_uniform": lambda process, steps: grids.uniform(process, steps, end=END),
    "time_quadratic": lambda process, steps: grids.quadratic(process, steps, end=END),
    "logSNR": lambda process, steps: grids.uniform_log_snr(process, steps, end=END),
}


class NoiseSchedule:
    """A refdiff schedule as such solvers see it, in their arrays."""

    schedule, total_N = "continuous", 1000

    def __init__(self, process: Schedule, edge: Edge) -> None:
        self._process, self._edge, self.T = process, edge, process.T

    def _of(self, function: Callable[[Array], Array], t: Any) -> Any:
        return self._edge.to(np.asarray(function(to_numpy(t).astype(float))), t)

    def marginal_log_mean_coeff(self, t: Any) -> Any:
        """log alpha."""
        return self._of(lambda u: np.log(self._process.alpha(u)), t)

    def marginal_alpha(self, t: Any) -> Any:
        """alpha."""
        return self._of(self._process.alpha, t)

    def marginal_std(self, t: Any) -> Any:
        """sigma."""
        return self._of(self._process.sigma, t)

    def marginal_lambda(self, t: Any) -> Any:
        """lambda = log(alpha / sigma)."""
        return self._of(self._process.log_snr, t)

    def inverse_lambda(self, lamb: Any) -> Any:
        """The t of this lambda; beyond the ends by a rounding it is the end."""
        low, high = self._process.log_snr(self.T), self._process.log_snr(0.0)
        return self._of(lambda u: self._process.time_of_log_snr(np.clip(u, low, high)), lamb)


def play(function: Any, process: Schedule, grid: Array, options: Mapping[str, Any], dtype: str) -> Play:
    """The function, or an object of the class, as a sampler."""
    edge = edge_of(function, "torch")

    def call(network: Callable[..., Any], start: Any, _: callables.Normal) -> Any:
        schedule = NoiseSchedule(process, edge)
        if not hasattr(function, "sample"):
            return function(network, start, schedule, edge.to(grid.astype(dtype)), **options)
        sample = inspect.signature(function.sample).parameters
        at_sample = {k: v for k, v in options.items() if k in sample} | {"steps": len(grid) - 1}
        made = function(network, schedule, **{k: v for k, v in options.items() if k not in sample})
        found = made.sample(start, **at_sample)
        return found[0] if isinstance(found, tuple) else found

    return callables.play(function, edge, dtype, call)


def wrap(function: Any, request: Request) -> Subject:
    """A function, or a class with `sample`.

    Raises:
        ValueError: skip_type, the process or the family is unknown.
    """
    process = callables.process_of(function, request, "vp-linear")
    family = callables.family_of(request)
    skip = request.options.get("skip_type", "time_uniform")
    if skip not in SKIPS:
        raise ValueError(f"skip_type must be one of {', '.join(SKIPS)}, got {skip!r}")

    def build(steps: int) -> Sampler:
        own = inspect.isclass(function)
        grid = SKIPS[skip](process, steps) if own else grid_of(process, family, steps, clean=False)
        return Sampler(
            name=callables.name_of(function, request.options),
            play=play(function, process, grid, request.options, request.dtype),
            dtype=edge_of(function, "torch").dtype(request.dtype),
            claim=callables.claim_of(function, request, grid, process, "noise"),
            told=float,
            trained=process,
        )

    name = callables.name_of(function, request.options)
    return Subject(name, build, protocol="model_fn", options=tuple(request.options.items()))


PROTOCOLS = (
    Protocol("model_fn", "f(model_fn, x, noise_schedule, times), or a class with sample(x, steps=...)", wrap, given=2),
)
