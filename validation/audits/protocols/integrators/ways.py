r"""Equations of diffusion as libraries integrate them, and an integrator of theirs as a sampler.

Diffusion runs backward in t, libraries forward in u = start - t:

    dx = -F du + G dw,    F = (1 + k^2) v - k^2 f x = f x - (1 + k^2) / 2 g^2 S,    G = k g

k = 0 is the probability flow, k = 1 the reverse equation. An integrator is presented with F and G of the exact model,
of which it sees the velocity as impulses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import Tableau
from refdiff.samplers.impulse import Sampler as Play
from refdiff.schedules import Schedule, VPLinear
from refdiff.validation.audits.findings import Verdict
from refdiff.validation.audits.levels import FLOW
from refdiff.validation.audits.protocols.integrators.schemes import Build
from refdiff.validation.audits.subject import Claim, Sampler, Variant

Drift = Callable[[float, Array], Array]  # (u, x) -> dx/du
Diffusion = Callable[[float], float]  # u -> G
TIMES = 8  # roundings of a time: of the grid, the step, the place in it and the change of clock
# (drift, diffusion, x, times u, normal) -> x at the last time, all in NumPy
Run = Callable[[Drift, Diffusion, Array, Array, Callable[[], Array]], Array]


@dataclass(frozen=True)
class Way:
    """Which equation is integrated, and from where to where.

    Args:
        process: whose times these are.
        start, end: times of the noisier and of the cleaner end; u = start - t.
        noise: k, the share of noise.
    """

    process: Schedule
    start: float = 1.0
    end: float = 0.0
    noise: float = 0.0

    def clock(self, steps: int, dtype: str) -> Array:
        """u at the ends of so many equal steps, in the number type of the solver."""
        return np.linspace(0, self.start - self.end, steps + 1).astype(dtype)

    def grid(self, clock: Array) -> Array:
        """The times t of a clock, exactly."""
        return np.asarray(self.start - clock.astype(float))

    def time(self, u: float, eps: float = 0.0) -> float:
        """t at u; within rounding of the end it is the end, of which some solvers keep a rounding away."""
        t = min(max(self.start - float(u), 0.0), self.process.T)
        return self.end if abs(t - self.end) <= TIMES * eps * self.start else t

    def drift(self, model: Callable[[Array, Any], Array], eps: float = 0.0) -> Drift:
        """dx/du by a model that answers the velocity, of a solver whose numbers have these spacings."""
        k2 = self.noise**2

        def rate(u: float, x: Array) -> Array:
            t = self.time(u, eps)
            v = model(np.asarray(x, dtype=float), t)
            return -v if not k2 else k2 * float(self.process.f(t)) * np.asarray(x, dtype=float) - (1 + k2) * v

        return rate

    def diffusion(self, u: float) -> float:
        """G at u."""
        t = self.time(u)
        return self.noise * float(np.sqrt(self.process.g2(t)))

    def gain(self, t: Array, variance: float) -> Array:
        """dx_end / dx_t along the equation without its noise, for data N(0, variance)."""
        c, last = self.process.coefficients(t), self.process.coefficients(self.end)
        ratio = (last.alpha**2 * variance + last.sigma**2) / (c.alpha**2 * variance + c.sigma**2)
        return np.asarray(ratio ** ((1 + self.noise**2) / 2) * (c.alpha / last.alpha) ** self.noise**2)


FLOWING = Way(FLOW)
# rates of size 1 and nothing infinite at either end; a step of 2^-n is a number of every type
REVERSING = Way(VPLinear(beta_min=0.5, beta_max=4.0, T=1.25), 1.25, 0.25, 1.0)


@dataclass(frozen=True)
class Driven(Sampler):
    """An integrator on the equation of a way.

    Args:
        way: the equation.
        strong: the strong order that the integrator is known by for additive noise, or None.
    """

    way: Way = FLOWING
    strong: float | None = None


def driven(
    name: str,
    run: Run,
    way: Way,
    clock: Array,
    build: Build | None,
    *,
    order: float | None = None,
    strong: float | None = None,
    source: str = "",
    variants: tuple[tuple[str, Build, Verdict], ...] = (),
    conventions: tuple[str, ...] = (),
    script: str = "",
) -> Driven:
    """An integrator over the times of a clock; its claim is the table that `build` makes."""
    claim = None
    if build is not None:
        claim = Claim(
            _on(way, build),
            way.grid(clock),
            way.process,
            "velocity",
            order=order,
            source=source,
            conventions=conventions,
            variants=tuple(Variant(said, _on(way, other), verdict) for said, other, verdict in variants),
        )
    return Driven(
        name=name,
        play=_play(run, way, clock),
        dtype=np.dtype(clock.dtype),
        claim=claim,
        told=float,
        trained=way.process,
        script=script,
        # t = start - u is as exact as u, whose roundings are those of the largest time
        told_within=TIMES * float(np.finfo(clock.dtype).eps) * way.start,
        way=way,
        strong=strong,
    )


def _on(way: Way, build: Build) -> Callable[[Array], Tableau]:
    return lambda grid: build(way.process, grid, way.noise)


def _play(run: Run, way: Way, clock: Array) -> Play:
    """Integrators see numbers, each with a path of its own: points of any dimension are laid out in a column."""

    def play(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        shape, start = np.shape(x), np.reshape(np.asarray(x, dtype=clock.dtype), (-1, 1))
        rate = way.drift(model, float(np.finfo(clock.dtype).eps))

        def drift(u: float, column: Array) -> Array:
            return np.reshape(rate(u, np.reshape(column, shape)), (-1, 1))

        found = run(drift, way.diffusion, start, clock, lambda: np.reshape(normal(), (-1, 1)))
        return np.reshape(np.asarray(found, dtype=float), shape)

    return play
