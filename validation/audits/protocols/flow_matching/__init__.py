r"""The package flow_matching: its ODE solvers, its schedulers, its affine paths and what is made of them.

Its time s runs from noise, s = 0, to data, s = 1:

    X_s = alpha_s X_1 + sigma_s X_0,    velocity dX/ds = alpha' X_1 + sigma' X_0,    snr = alpha / sigma

On the Euclidean space the Riemannian solver is a Runge-Kutta method like any other. Discrete flows are jump processes,
of which there is no table. Sources: Lipman et al. 2023, 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.schedules import FlowMatching
from refdiff.validation.audits.checks.parts import Part
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch, untracked
from refdiff.validation.audits.protocols.flow_matching.paths import PARTS
from refdiff.validation.audits.protocols.flow_matching.schedulers import LIBRARY, scheduler, schedulers, version
from refdiff.validation.audits.protocols.integrators.schemes import adams, one_step
from refdiff.validation.audits.protocols.integrators.ways import FLOWING, Diffusion, Drift, Driven, Way, driven
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Subject

SOLVERS: Mapping[str, Mapping[str, tuple[str, float]]] = MappingProxyType(
    {
        "ODESolver": {
            "euler": ("euler", 1),
            "midpoint": ("midpoint", 2),
            "heun2": ("heun", 2),
            "heun3": ("heun3", 3),
            "rk4": ("rk38", 4),
            "explicit_adams": ("adams", 4),
        },
        "RiemannianODESolver": {"euler": ("euler", 1), "midpoint": ("midpoint", 2), "rk4": ("rk38", 4)},
    }
)
OPTIONS = ("method", "step_size", "late")
LATE = Way(FlowMatching(), 0.5, 0.0)  # from the middle of the path on


# ---------------------------------------------------------------------- solvers


def integrate(
    kind: str,
    method: str,
    by_size: bool,
    start: float,
    drift: Drift,
    diffusion: Diffusion,  # noqa: ARG001
    x: Array,
    clock: Array,
    normal: Callable[[], Array],  # noqa: ARG001
) -> Array:
    """solver.sample from s = start over the clock, by its times or by the size of its steps."""
    from flow_matching import solver as solvers
    from flow_matching.utils.manifolds import Euclidean

    def velocity(x: Any, t: Any) -> Any:
        return to_torch(drift(float(t) - start, to_numpy(x)).astype(clock.dtype), like=x)

    solver = solvers.ODESolver(velocity) if kind == "ODESolver" else solvers.RiemannianODESolver(Euclidean(), velocity)
    times = to_torch((start + clock).astype(clock.dtype))
    size = float(clock[1] - clock[0]) if by_size else None
    with untracked():
        found = solver.sample(
            x_init=to_torch(x), step_size=size, method=method, time_grid=times[[0, -1]] if by_size else times
        )
    return to_numpy(found)


def sampler(kind: str, method: str, by_size: bool, late: bool, dtype: str, steps: int) -> Driven:
    """A solver with a method."""
    known, order = SOLVERS[kind][method]
    way = LATE if late else FLOWING
    clock = way.clock(steps, dtype)
    start = 1 - way.start
    said = f"step_size={float(clock[1]):g}, time_grid=torch.tensor([{start}, 1.0])"
    first = "Euclidean(), velocity" if kind == "RiemannianODESolver" else "velocity"
    script = (
        f"import torch\nfrom flow_matching.solver import {kind}\nfrom flow_matching.utils.manifolds import Euclidean\n"
        "asked = []\ndef velocity(x, t):\n    asked.append(float(t))\n    return torch.zeros_like(x)\n"
        f"{kind}({first}).sample(torch.ones(1, 1), method={method!r}, "
        + (said if by_size else f"step_size=None, time_grid=torch.linspace({start}, 1, {steps + 1})")
        + f")\nprint(asked)  # {steps} steps from {start} to 1"
    )
    found = driven(
        _name(kind, method, by_size, late, dtype),
        partial(integrate, kind, method, by_size, start),
        way,
        clock,
        adams(12, implicit=False) if known == "adams" else one_step(known),
        order=None if known == "adams" else order,
        source="Lipman et al. 2024; Hairer, Norsett, Wanner 1993",
        script=script,
    )
    # the Riemannian solver makes the times of steps by size in float32, whatever the points are
    return replace(found, dtype=np.dtype(np.float32)) if by_size and kind == "RiemannianODESolver" else found


def _name(kind: str, method: str, by_size: bool, late: bool, dtype: str) -> str:
    said = (", step_size" if by_size else "") + (", from s=0.5" if late else "")
    return f"{kind}(method={method!r}{said}{f', {dtype}' if dtype != 'float64' else ''})"


def subject(
    kind: str,
    method: str,
    by_size: bool = False,
    late: bool = False,
    dtype: str = "float64",
    steps: tuple[int, ...] = (),
) -> Subject:
    """A solver with a method; steps by size are powers of two, whose lengths add up exactly, unless they are given."""
    steps = steps or ((2, 4, 8, 16) if by_size or late else (1, 2, 5, 10))
    name = _name(kind, method, by_size, late, dtype)
    build = partial(sampler, kind, method, by_size, late, dtype)
    return Subject(name, build, LIBRARY, version(), LIBRARY, steps, (("method", method),))


def wrap(target: Any, request: Request) -> Subject:
    """A solver class; options method, step_size (steps by their size) and late (true: from s = 0.5).

    Raises:
        ValueError: it is not the library's own, or an option or a value of one is unknown.
    """
    from flow_matching import solver

    kind = getattr(target, "__name__", str(target))
    if target is not getattr(solver, kind, None):
        raise ValueError(f"{kind} must be flow_matching's own; a solver of yours goes by the protocol velocity")
    if kind not in SOLVERS:
        raise ValueError(f"{kind} must be one of {', '.join(SOLVERS)}: discrete flows are jump processes, not tables")
    options = callables.settings(request, OPTIONS)
    method, late, size = options.get("method", "euler"), bool(options.get("late")), options.get("step_size")
    if method not in SOLVERS[kind]:
        raise ValueError(f"method must be one of {', '.join(SOLVERS[kind])}, got {method!r}")
    if size is None:
        return subject(kind, method, False, late, request.dtype)
    whole = (LATE if late else FLOWING).start
    steps = round(whole / float(size)) if 0 < float(size) < whole else 0
    if not steps or abs(steps * float(size) - whole) > 1e-9:
        raise ValueError(f"step_size must be {whole:g} over a whole number from 2 on, got {size!r}")
    return subject(kind, method, True, late, request.dtype, (steps,))


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Solvers by method, schedulers, paths."""

    def solver(kind: str) -> Iterator[Subject]:
        for method in SOLVERS[kind]:
            yield subject(kind, method)
            yield subject(kind, method, by_size=True)
            if not quick:
                yield subject(kind, method, dtype="float32")
                yield subject(kind, method, late=True)
        yield subject(kind, "midpoint", by_size=True, late=True)

    def schedule(name: str) -> Iterator[Subject]:
        yield scheduler(name, "float64")
        if not quick and schedulers()[name][1] is not None:
            yield scheduler(name, "float32")

    def part(name: str) -> Iterator[Subject]:
        yield Part(name, library=LIBRARY, version=version(), protocol=LIBRARY, answers=PARTS[name])

    found: dict[str, Callable[[], Iterator[Subject]]] = {kind: partial(solver, kind) for kind in SOLVERS}
    found |= {name: partial(schedule, name) for name in schedulers()}
    return found | {name: partial(part, name) for name in PARTS}


PROTOCOLS = (
    Protocol(
        "flow_matching",
        "ODESolver(velocity).sample(x_init, ...)",
        wrap,
        LIBRARY,
        members,
        options=OPTIONS,
        given=None,
    ),
)
