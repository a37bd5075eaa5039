r"""Flow-matching solvers: f(velocity, x, times) -> x at the last time.

Most libraries have noise at s = 0 and data at s = 1,

    x_s = (1 - s) eps + s x_0,    dx/ds = velocity(x, s) = -v(x, 1 - s)

with v the velocity of refdiff's path, whose data lie at t = 1 - s = 0. The solver is given the increasing times s and
the velocity that belongs to them, so that neither needs a sign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import families
from refdiff.validation.audits.levels import FLOW
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.drift import ARRAYS, FLOWING, TIMES, asked_times
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Claim, Sampler, Subject


def wrap(solver: Callable[..., Any], request: Request) -> Subject:
    """A solver; options: arrays (numpy, torch or jax; torch unless given) and data_at, 1 unless given, or 0.

    With data_at = 0 the times decrease from 1 to 0 and the velocity is v(x, t) itself. Any further options are passed
    on. A family is one of refdiff's, as "fm-euler", "fm-heun", "fm-rk4".
    """
    options = dict(request.options)
    array = ARRAYS[options.pop("arrays", "torch")]
    data_at = float(options.pop("data_at", 1))
    if data_at not in (0, 1):
        raise ValueError(f"data_at must be 0 or 1, got {data_at}")
    family = None if request.family is None else families()[request.family]
    name = getattr(solver, "__name__", type(solver).__name__)

    def build(steps: int) -> Sampler:
        clock = FLOWING.clock(steps, request.dtype)
        times = clock if data_at else (1 - clock).astype(request.dtype)
        grid = 1 - times.astype(float) if data_at else times.astype(float)

        def play(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:  # noqa: ARG001
            def velocity(y: Any, s: Any) -> Any:
                t = time(float(np.ravel(to_numpy(s))[0]))
                v = model(to_numpy(y).astype(float), t)
                return array((-v if data_at else v).astype(request.dtype))

            found = solver(velocity, array(np.asarray(x, dtype=request.dtype)), array(times), **options)
            return np.asarray(to_numpy(found), dtype=float)

        def time(s: float) -> float:
            return min(max(1 - s if data_at else s, 0.0), 1.0)

        claim = None
        if family is not None:
            claim = Claim(
                lambda where: family(FLOW, where, **request.claimed),
                grid,
                FLOW,
                "velocity",
                order=family.order,
                source=family.source,
            )
        kind = np.dtype(request.dtype)
        within = TIMES * float(np.finfo(kind).eps)
        return Sampler(name=name, play=play, dtype=kind, claim=claim, told=float, trained=FLOW, told_within=within)

    return Subject(name, build, protocol="flow-matching", options=tuple(request.options.items()))


PROTOCOLS = (
    Protocol(
        "flow-matching",
        "f(velocity, x, times), data at time 1",
        wrap,
        checks=(asked_times,),
        options=("arrays", "data_at"),
    ),
)
