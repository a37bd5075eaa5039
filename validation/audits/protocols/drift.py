r"""Drift and diffusion functions, in Euler's loop, where a wrong coefficient is one of a state, the score or a normal.

    make(score) -> drift(u, x), or an object with f(u, x) and g(u, x) (torchsde's);  score(x, t);  u = start - t

See integrators/ways.py for the equation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.reverse_sde import euler_maruyama
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.arrays import Edge, edge_named, to_numpy
from refdiff.validation.audits.protocols.integrators.ways import Way
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Claim, Sampler, Subject

OPTIONS = ("arrays", "process", "noise", "start", "end", "direction")


def wrap(make: Callable[[Any], Any], request: Request) -> Subject:
    """A function that makes a drift of a score, in Euler's loop.

    Options: arrays (numpy, torch or jax; torch unless given), process (as for other protocols), noise (k), start, end
    (T and T / 1000 unless given), and direction: "u" for a drift of u = start - t as above, "t" for dx/dt at t itself.

    Raises:
        ValueError: an option or a value of one is unknown.
    """
    options = callables.settings(request, OPTIONS)
    edge, direction = edge_named(options.get("arrays", "torch")), options.get("direction", "u")
    schedule = callables.process_named(options.get("process", "vp-linear"))
    start, end = float(options.get("start", schedule.T)), float(options.get("end", 1e-3 * schedule.T))
    way = Way(schedule, start, end, float(options.get("noise", 1.0)))
    if direction not in ("u", "t"):
        raise ValueError(f"direction must be u or t, got {direction!r}")
    name = callables.name_of(make, {})

    def build(steps: int) -> Sampler:
        clock = way.clock(steps, request.dtype)

        def play(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
            return _euler(make, model, way, edge, direction, clock, x, normal)

        claim = Claim(
            lambda grid: euler_maruyama(schedule, grid, noise=way.noise),
            way.grid(clock),
            schedule,
            "score",
            order=1,
            source="Anderson 1982, Song et al. 2021",
        )
        return Sampler(name=name, play=play, dtype=np.dtype(request.dtype), claim=claim, told=float, trained=schedule)

    return Subject(name, build, protocol="drift", options=tuple(request.options.items()))


def _euler(
    make: Callable[[Any], Any],
    model: Callable[[Array, Any], Array],
    way: Way,
    edge: Edge,
    direction: str,
    clock: Array,
    x: Array,
    normal: Callable[[], Array],
) -> Array:
    def score(y: Any, t: Any) -> Any:
        return edge.to(model(to_numpy(y).astype(float), float(np.ravel(to_numpy(t))[0])).astype(clock.dtype))

    made = make(score)
    rate, spread = getattr(made, "f", made), getattr(made, "g", None)
    at = clock if direction == "u" else way.grid(clock).astype(clock.dtype)
    y = np.asarray(x, dtype=clock.dtype)
    for before, after, place in zip(clock[:-1], clock[1:], at[:-1], strict=True):
        given, h = (edge.to(place), edge.to(y)), after - before
        moved = to_numpy(rate(*given)) * (h if direction == "u" else -h)
        # a drift alone comes with the method's noise; a diffusion that is there is used, and must be 0 on the flow
        size = way.diffusion(float(before)) if spread is None else to_numpy(spread(*given)).reshape(-1, 1)
        noisy = bool(way.noise or np.any(size))
        y = np.asarray(y + moved + size * np.sqrt(h) * normal() if noisy else y + moved, dtype=clock.dtype)
    return np.asarray(y, dtype=float)


PROTOCOLS = (
    Protocol(
        "drift",
        "make(score) -> drift(u, x), or an object with f and g",
        wrap,
        options=OPTIONS,
        given=None,
    ),
)
