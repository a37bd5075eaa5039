r"""Flow-matching solvers: f(velocity, x, times) -> x at the last time.

Most libraries have noise at s = 0 and data at s = 1,

    x_s = (1 - s) eps + s x_0,    dx/ds = velocity(x, s) = -v(x, 1 - s)

with v the velocity of refdiff's path, whose data lie at t = 1 - s = 0. The solver is given the increasing times s and
the velocity that belongs to them, so that neither needs a sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.levels import FLOW
from refdiff.validation.audits.protocols import callables, plain
from refdiff.validation.audits.protocols.arrays import edge_named, edge_of
from refdiff.validation.audits.protocols.integrators.ways import FLOWING, TIMES
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Sampler, Subject


def wrap(solver: Any, request: Request) -> Subject:
    """A solver; options: arrays (numpy, torch or jax; torch unless given) and data_at, 1 unless given, or 0.

    With data_at = 0 the times decrease from 1 to 0 and the velocity is v(x, t) itself. Any further options are passed
    on. A family is one of refdiff's, as "fm-euler", "fm-heun", "fm-rk4".

    Raises:
        ValueError: data_at, arrays or the family is unknown.
    """
    options = dict(request.options)
    edge = edge_named(options.pop("arrays")) if "arrays" in options else edge_of(solver, "torch")
    data_at = options.pop("data_at", 1)
    if data_at not in (0, 1):
        raise ValueError(f"data_at must be 0 or 1, got {data_at}")
    callables.family_of(request)  # refused here where it does not exist
    name = callables.name_of(solver, options)

    def time(s: Any) -> float:
        first = float(np.ravel(s)[0])
        return min(max(1 - first if data_at else first, 0.0), 1.0)

    def build(steps: int) -> Sampler:
        clock = FLOWING.clock(steps, request.dtype)
        times = clock if data_at else (1 - clock).astype(request.dtype)
        grid = 1 - times.astype(float) if data_at else times.astype(float)
        run = plain.play(solver, (times,), options, request.dtype, edge)

        def play(model: callables.Model, x: Array, normal: callables.Normal) -> Array:
            sign = -1.0 if data_at else 1.0
            return run(lambda y, s: sign * model(y, time(s)), x, normal)

        kind = np.dtype(request.dtype)
        return Sampler(
            name=name,
            play=play,
            dtype=kind,
            claim=callables.claim_of(solver, request, grid, FLOW, "velocity"),
            told=float,
            trained=FLOW,
            told_within=TIMES * float(np.finfo(kind).eps),
        )

    return Subject(name, build, protocol="velocity", options=tuple(request.options.items()))


PROTOCOLS = (
    Protocol("velocity", "f(velocity, x, times), data at time 1", wrap, options=("arrays", "data_at"), given=3),
)
