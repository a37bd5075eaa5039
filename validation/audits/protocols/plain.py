r"""Functions of times: f(model, x, times), model(x, t), in NumPy, torch or JAX, on a grid for the claimed family.

    plain     the model answers what the family asks for: the denoiser, the noise, the score, a velocity
    impulse   refdiff's own form f(model, x, normal), with times of its own that it tells the model

A convention that differs in what the model answers or in what it is told is a line of its own file: `of_times`.

What the times mean is said by the claim `process`, by the function's attribute of that name, or is vp-linear; what the
model answers, by `prediction_type` or the attribute `prediction`. Where a parameter of f is called `normal` or `rng`
it gets the audit's normals, by calls normal() or rng.standard_normal(); otherwise those that it draws are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.families import Family
from refdiff.samplers.impulse import Sampler as Play
from refdiff.samplers.impulse import listen
from refdiff.schedules import Schedule
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.arrays import Edge, edge_of, to_numpy
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Sampler, Subject

# lambda at the two ends of a grid: sigma / alpha from 20 down to 0.06, where nothing is near a limit; no steps lead to
# a level of 1, at which options switch
SPAN = (-3.0, 2.83)
# Steps shrink from 4/3 of their mean to 2/3: where all are equal, a ratio of steps upside down is still 1.
UNEVEN = 1 / 3
FINE = 256  # places for a step


def grid_of(process: Schedule, family: Family | None, steps: int, *, clean: bool = True) -> Array:
    """Shrinking steps in the family's clock, or t where nothing is claimed; to sigma = 0 where it may, with `clean`."""
    start, end = (float(process.time_of_log_snr(lam)) for lam in SPAN)
    if family is None:
        return shrinking(np.linspace(start, end, FINE * steps + 1))
    if not clean or not family.ends_clean or steps == 1:
        return shrinking(family.grid(process, FINE * steps, start, end))
    return np.append(shrinking(family.grid(process, FINE * (steps - 1), start, end)), 0.0)


def shrinking(fine: Array) -> Array:
    """Of places in equal steps, FINE for each, a grid whose steps shrink smoothly: errors on it have their order."""
    count = (len(fine) - 1) // FINE
    u = np.linspace(0.0, 1.0, count + 1)
    places = (len(fine) - 1) * (u + UNEVEN * np.sin(np.pi * u) / np.pi)
    return np.asarray(fine[np.rint(places).astype(int)])


def play(
    function: Any, given: tuple[Array, ...], options: Mapping[str, Any], dtype: str, arrays: Edge | None = None
) -> Play:
    """f(model, x, *given, **options) as a sampler, in the arrays of a library, of those that it says or imports."""
    edge = arrays or edge_of(function)

    def call(network: Any, start: Any, normal: callables.Normal) -> Any:
        sources = {"normal": lambda: edge.to(normal(), start), "rng": callables.generator(normal)}
        more = {name: source for name, source in sources.items() if callables.accepts(function, name)}
        return function(network, start, *(edge.to(g.astype(dtype)) for g in given), **more, **options)

    return callables.play(function, edge, dtype, call)


def time_itself(process: Schedule, t: Any) -> float:  # noqa: ARG001
    """What networks are told in most conventions: the time of the process."""
    return float(t)


def of_times(
    name: str, summary: str, prediction: str | None = None, told: Callable[[Schedule, Any], float] = time_itself
) -> Protocol:
    """The protocol of functions f(model, x, times).

    Args:
        name, summary: as in --list.
        prediction: what the model answers; what the family asks for where it is None.
        told: (process, what the model is told) -> the time of the process.
    """

    def wrap(function: Any, request: Request) -> Subject:
        process = callables.process_of(function, request, "vp-linear")
        family = callables.family_of(request)
        called = callables.name_of(function, request.options)

        def build(steps: int) -> Sampler:
            grid = grid_of(process, family, steps)
            return Sampler(
                name=called,
                play=play(function, (grid,), request.options, request.dtype),
                dtype=edge_of(function).dtype(request.dtype),
                claim=callables.claim_of(function, request, grid, process, prediction),
                told=lambda t: told(process, t),
                trained=process,
            )

        return Subject(called, build, protocol=name, options=tuple(request.options.items()))

    return Protocol(name, summary, wrap, given=3)


def wrap_impulse(function: Any, request: Request) -> Subject:
    """f(model, x, normal): its grid is its attribute `times`, or else the times that it tells its model, and 0."""
    process, edge = callables.process_of(function, request, "vp-linear"), edge_of(function)
    name = callables.name_of(function, request.options)

    def run(model: callables.Model, x: Array, normal: callables.Normal) -> Array:
        with callables.drawn(function, normal, edge, edge.to(np.asarray(x, dtype=request.dtype))):
            return to_numpy(function(model, np.asarray(x, dtype=request.dtype), normal, **request.options))

    def build(_: int) -> Sampler:
        grid = getattr(function, "times", None)
        if grid is None:
            grid = [*dict.fromkeys(float(t) for t in listen(run, tolerance=np.inf).times), 0.0]
        grid = np.asarray(grid, dtype=float)
        claim = callables.claim_of(function, request, grid, process)
        dtype = np.dtype(request.dtype)
        return Sampler(name, run, dtype, claim, float, process)

    return Subject(name, build, protocol="impulse", steps=(1,), options=tuple(request.options.items()))


PROTOCOLS = (
    of_times("plain", "f(model, x, times), model(x, t) -> what the family asks for"),
    Protocol("impulse", "f(model, x, normal), as refdiff's impulse_response has it", wrap_impulse, given=3),
)
