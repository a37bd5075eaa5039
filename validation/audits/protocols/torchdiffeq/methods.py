r"""What the methods of torchdiffeq are, and odeint over a clock.

Fixed-grid methods take the times as their grid. Adaptive ones are held to a grid by a tolerance that accepts every
step and a first and largest step of the grid's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.runge_kutta import Method
from refdiff.samplers.runge_kutta import combined as weighted
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch, untracked
from refdiff.validation.audits.protocols.integrators.schemes import Build, combined, one_step
from refdiff.validation.audits.protocols.integrators.ways import Diffusion, Drift

# method -> (what it is, its order)
FIXED: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "euler": ("euler", 1),
        "midpoint": ("midpoint", 2),
        "heun2": ("heun", 2),
        "heun3": ("heun3", 3),
        "rk4": ("rk38", 4),
    }
)
ADAPTIVE: Mapping[str, float] = MappingProxyType(
    {"dopri8": 8, "dopri5": 5, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 2}
)
ADAMS = ("explicit_adams", "implicit_adams")
# options of each kind of method; first_step, max_step and step_size are the audit's
OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    dict.fromkeys(FIXED, ("perturb",))
    | dict.fromkeys(ADAMS, ("max_order", "max_iters", "perturb"))
    | dict.fromkeys(ADAPTIVE, ("min_step", "safety", "ifactor", "dfactor", "max_num_steps"))
)
ANY = 1e30  # a tolerance that accepts every step and every iteration
SOURCE = "Hairer, Norsett, Wanner 1993"


def integrate(
    method: str, options: Mapping[str, Any], drift: Drift, x: Array, clock: Array, tolerance: float | None = None
) -> Array:
    """odeint over the clock, the state at its last time."""
    from torchdiffeq import odeint

    def func(t: Any, y: Any) -> Any:
        return to_torch(drift(float(t), to_numpy(y)).astype(clock.dtype), like=y)

    loose = {} if tolerance is None else {"rtol": tolerance, "atol": tolerance}
    with untracked():  # it warns of iterations that are stopped after the first, as wanted
        found = odeint(func, to_torch(x), to_torch(clock), method=method, options=dict(options), **loose)
    return to_numpy(found[-1])


def held(
    method: str,
    options: Mapping[str, Any],
    drift: Drift,
    diffusion: Diffusion,  # noqa: ARG001
    x: Array,
    clock: Array,
    normal: Callable[[], Array],  # noqa: ARG001
) -> Array:
    """An adaptive method whose every step is one of the clock's."""
    h = float(clock[1] - clock[0])
    return integrate(method, {**options, "first_step": h, "max_step": h}, drift, x, clock[[0, -1]], ANY)


def fixed(
    method: str,
    options: Mapping[str, Any],
    drift: Drift,
    diffusion: Diffusion,  # noqa: ARG001
    x: Array,
    clock: Array,
    normal: Callable[[], Array],  # noqa: ARG001
) -> Array:
    """A method that takes the clock for its grid."""
    return integrate(method, options, drift, x, clock, ANY if method == "implicit_adams" else None)


def tableau(method: str) -> tuple[Array, Array, Array, Array]:
    """A, b, the embedded b and the weights in the middle of a step, as the library has them."""
    from torchdiffeq._impl.odeint import SOLVERS

    kind = SOLVERS[method]
    size = len(kind.tableau.c_sol)
    A = np.zeros((size, size))
    for i, row in enumerate(kind.tableau.beta):
        A[i + 1, : i + 1] = to_numpy(row)
    b = to_numpy(kind.tableau.c_sol)
    return A, b, b - to_numpy(kind.tableau.c_error), to_numpy(kind.mid)


def held_build(method: str) -> Build:
    """What an adaptive method is when its steps are given."""
    named = {"dopri5": "dormand-prince", "bosh3": "bogacki-shampine", "fehlberg2": "fehlberg2", "adaptive_heun": "heun"}
    if method in named:
        return one_step(named[method])
    A, b, *_ = tableau(method)  # of order 8 by its conditions: the numbers are examined by themselves
    return one_step(combined(Method(A[:-1, :-1], b[:-1]), again=True))


def stale(method: str) -> Build:
    """The method with the last slope of a step as the first one of the next, whatever point that slope was at."""
    A, b, *_ = tableau(method)

    def build(process: Schedule, times: ArrayLike, noise: float = 0.0) -> Tableau:  # noqa: ARG001
        rec = Recorder("stale slopes", process, times, "velocity")
        x = rec.start
        first = rec.evaluate(x, rec.points[0])
        for s, t in rec.steps:
            h, slopes = s.t - t.t, [first]
            for row in A[1:]:
                point = rec.at(s.t - float(row.sum()) * h) if row.sum() < 1 else t
                slopes.append(rec.evaluate(x - h * weighted(row.tolist(), slopes), point))
            x = rec.keep(x - h * weighted(b.tolist(), slopes), t)
            first = slopes[-1]
        return rec.finish(x)

    return build


def name_of(method: str, options: Mapping[str, Any]) -> str:
    """As in reports."""
    said = "".join(f", {k}={v!r}" for k, v in options.items())
    return f"odeint(method={method!r}{said})"
