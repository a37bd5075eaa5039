r"""A step of a solver of diffrax as a compiled program that asks NumPy for the drift and the normals.

The velocity is asked for through a callback, which runs where the compiled step is; points beyond the batch are zeros,
so that one compiled step serves many batches. For the reverse equation the terms are MultiTerm(ODETerm, ControlTerm)
over a path whose W and H are normals from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.protocols.integrators.ways import REVERSING, Diffusion, Drift

BATCH = 64  # points of a compiled program, or the next power of two


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """float64 in JAX, where that is wanted, until these calls end: in all threads, for callbacks run in others."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


class _Asked:
    """What a compiled program asks for: set before each run."""

    def __init__(self) -> None:
        self.count = 0
        self.drift: Drift = lambda _, x: x
        self.normal: Callable[[], Array] = lambda: np.zeros((1, 1))
        self.steps: dict[tuple[float, float], tuple[Array, Array]] = {}

    def slope(self, u: Any, y: Any) -> Array:
        y = np.asarray(y)
        found = np.zeros_like(y)
        found[: self.count] = self.drift(float(u), y[: self.count, None])[:, 0]
        return np.asarray(found)

    def noise(self, a: Any, b: Any, like: Any, area: bool) -> tuple[Array, Array]:
        key = (float(a), float(b))
        if key not in self.steps:
            h = key[1] - key[0]
            pair = (np.sqrt(h) * self.normal(), np.sqrt(h / 12) * self.normal() if area else np.zeros((self.count, 1)))
            self.steps[key] = tuple(self._padded(part, like) for part in pair)  # type: ignore[assignment]
        return self.steps[key]

    def _padded(self, part: Array, like: Any) -> Array:
        found = np.zeros(like.shape, like.dtype)
        found[: self.count] = part[:, 0]
        return found


@cache
def program(name: str, stochastic: bool, dtype: str, size: int) -> tuple[_Asked, Any, Any]:
    """What a solver asks, the terms that ask it, and one step of the solver, compiled."""
    import diffrax
    import jax

    asked, solver = _Asked(), getattr(diffrax, name)()

    def slope(u: Any, y: Any, args: Any) -> Any:  # noqa: ARG001
        return jax.pure_callback(asked.slope, jax.ShapeDtypeStruct(y.shape, y.dtype), u, y)

    terms: Any = diffrax.ODETerm(slope)
    if stochastic:
        terms = diffrax.MultiTerm(terms, _control(diffrax, name, asked, dtype, size))

    def first(y: Any, a: Any, b: Any) -> Any:
        return solver.init(terms, a, b, y, None)

    def step(y: Any, state: Any, a: Any, b: Any) -> Any:
        found = solver.step(terms, a, b, y, None, state, False)
        return found[0], found[3]

    return asked, jax.jit(first), jax.jit(step)


def _control(diffrax: Any, name: str, asked: _Asked, dtype: str, size: int) -> Any:
    """G(u) dw, each point with its own path."""
    import jax
    import jax.numpy as jnp

    areas = name in ("SEA", "SRA1", "ShARK", "GeneralShARK", "SPaRK", "SlowRK")

    def spread(u: Any, y: Any, args: Any) -> Any:  # noqa: ARG001
        def at_time(at: Any) -> Array:
            return np.asarray(REVERSING.diffusion(float(at)), dtype=dtype)

        given = jax.pure_callback(at_time, jax.ShapeDtypeStruct((), dtype), u, vmap_method="sequential")
        return given * jnp.eye(y.shape[0], dtype=dtype)

    class Path(diffrax.AbstractBrownianPath):  # type: ignore[misc]
        t0: Any = 0.0
        t1: Any = 1.0
        levy_area: Any = diffrax.SpaceTimeLevyArea if areas else diffrax.BrownianIncrement

        def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:  # noqa: ARG002
            shape = jax.ShapeDtypeStruct((size,), dtype)
            call = partial(_noise, asked, size, dtype, areas)
            increment, area = jax.pure_callback(call, (shape, shape), t0, t1)
            if not use_levy:
                return increment
            if not areas:
                return diffrax.BrownianIncrement(dt=t1 - t0, W=increment)
            return diffrax.SpaceTimeLevyArea(dt=t1 - t0, W=increment, H=area)

    return diffrax.ControlTerm(spread, Path())


def _noise(asked: _Asked, size: int, dtype: str, areas: bool, a: Any, b: Any) -> tuple[Array, Array]:
    return asked.noise(a, b, np.empty(size, dtype), areas)


def integrate(
    name: str,
    stochastic: bool,
    drift: Drift,
    diffusion: Diffusion,  # noqa: ARG001
    x: Array,
    clock: Array,
    normal: Callable[[], Array],
) -> Array:
    """The solver's steps over the clock, the state at its end."""
    dtype = str(clock.dtype)
    with precision(dtype):
        size = BATCH
        while size < len(x):
            size *= 2
        asked, first, step = program(name, stochastic, dtype, size)
        asked.count, asked.drift, asked.normal, asked.steps = len(x), drift, normal, {}
        y = np.zeros(size, dtype)
        y[: len(x)] = x[:, 0]
        state = first(y, clock[0], clock[1])
        for before, after in pairwise(clock):
            y, state = step(y, state, before, after)
        return np.array(y)[: len(x), None]
