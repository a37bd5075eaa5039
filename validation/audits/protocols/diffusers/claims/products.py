r"""Schedulers that read alphas_cumprod at integer timesteps: levels, steps one by one, and how roundings move them.

    x = sqrt(a_t) x_0 + sqrt(1 - a_t) eps,      level rho_t = sqrt((1 - a_t) / a_t)

The clock is the level, and its last time stands for a = 0 (zero terminal signal-to-noise). The grid is the levels of
the scheduler's own timesteps and the one of its final a. A step may have no length (the last one of set_alpha_to_one =
False starts at a_0 and ends there), so tables are made step by step, each by the rule of its family.

Two ways in which roundings enter. DDIM's weights are made of sqrt(a) and sqrt(1 - a), where the difference is exact
for a >= 1/2: a level is off by a rounding of itself. Ancestral weights also hold beta = 1 - a_s / a_t of a step from s
to t, whose ratio r is rounded before the difference: beta is off by r times a rounding, whatever the levels are, and
gamma = alpha_t beta / (1 - a_s) by alpha_t r / (1 - a_s) of them, ten thousand where the data are near.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array
from refdiff.samplers.impulse import Sampler as Play
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients, Schedule
from refdiff.validation.audits.levels import VPLevels
from refdiff.validation.audits.protocols.arrays import dtype_of, to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.claims import PREDICTIONS
from refdiff.validation.audits.protocols.diffusers.normals import drawn
from refdiff.validation.audits.protocols.diffusers.playing import Made, asked, looped, play
from refdiff.validation.audits.subject import Claim, Sampler, Variant


@dataclass(frozen=True)
class BarLevels(VPLevels):
    """alpha = 1 / sqrt(1 + t^2), sigma = t alpha, and at t = T, in place of infinity, alpha = 0 and sigma = 1."""

    def _coefficients(self, t: Array) -> Coefficients:
        regular = super()._coefficients(t)
        limits = {"sigma": 1.0, "f": -np.inf, "g2": np.inf, "log_snr": -np.inf}
        return Coefficients(
            *(np.where(t == self.T, limits.get(name, 0.0), value) for name, value in regular._asdict().items())
        )


BARS = BarLevels()
# (recorder, x, from, to, number of the step, relative error of the ratio of alpha-bars) -> new x
Rule = Callable[[Recorder, State, Point, Point, int, float], State]
Call = Callable[[Any, Any, Any, Any, int], Any]  # (scheduler, answer, t, state, number of the step) -> new state


def rho(bars: ArrayLike) -> Array:
    """The level of every alpha-bar."""
    a = np.asarray(bars, dtype=float)
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(np.sqrt((1 - a) / a), BARS.T))


def by_level(grid: Array, errors: Array) -> Array:
    """Levels with these relative errors; the same time has the same, so that a step without length stays one."""
    once = errors[np.unique(grid, return_inverse=True)[1]]
    return np.where(grid == BARS.T, grid, grid * (1 + once))


def by_ratio(grid: Array, errors: Array) -> Array:
    """The same, and the errors of the ratios as a second row, for `on_grid`."""
    return np.stack([by_level(grid, errors), errors])


@dataclass(frozen=True)
class Levels:
    """The levels of a scheduler: of all training times, of its own timesteps and of the end.

    Attributes:
        all: the level of every training time.
        times: its timesteps, without what lies below 0.
        end: the level at which it ends.
        stride: T // N, by which some classes move in place of going to their next timestep.
    """

    all: Array
    times: tuple[int, ...]
    end: float
    stride: int

    @property
    def grid(self) -> Array:
        """The levels of the timesteps, and the end."""
        return np.append(self.all[list(self.times)], self.end)

    @property
    def strode(self) -> Array:
        """Where steps by the stride end."""
        moved = [t - self.stride for t in self.times]
        return np.array([self.all[t] if t >= 0 else self.end for t in moved])

    @property
    def meets(self) -> bool:
        """Whether steps by the stride end where the next one starts, and the last one at the end."""
        return np.array_equal(self.strode, self.grid[1:])

    def told(self, t: Any) -> float:
        """The level that a network takes a time for."""
        return float(np.interp(float(t), np.arange(len(self.all)), self.all))


def levels(scheduler: Any, end: float | None = None) -> Levels:
    """The levels of a scheduler that is set to its steps; `end` is its final alpha-bar where it has none of its own."""
    every = rho(to_numpy(scheduler.alphas_cumprod))
    final = getattr(scheduler, "final_alpha_cumprod", 1.0) if end is None else end
    steps = getattr(scheduler, "num_inference_steps", None) or len(scheduler.timesteps)
    return Levels(
        all=every,
        # trailing spacing may list a -1 too many, by a rounding of arange
        times=tuple(int(t) for t in to_numpy(scheduler.timesteps) if t >= 0),
        end=float(rho(float(final))),
        stride=scheduler.config.num_train_timesteps // steps,
    )


def chain(name: str, process: Schedule, starts: Array, ends: Array, rule: Rule, errors: Array) -> Tableau:
    """Steps by a rule, each from its start to its end; a start need not be where the step before ended."""
    rec = Recorder(name, process, [starts[0], 0.0], "denoiser")
    x, points = rec.start, [rec.points[0], *map(rec.at, starts[1:].tolist())]
    for i, (s, end) in enumerate(zip(points, ends.tolist(), strict=True)):
        t = points[i + 1] if i + 1 < len(points) and points[i + 1].t == end else rec.at(end)
        x = rule(rec, x, s, t, i, float(errors[i]))
    return rec.finish(x, t)


def on_grid(
    name: str, rule: Rule, process: Schedule = BARS, ends: Array | None = None, exact_end: bool = True
) -> Callable[[Array], Tableau]:
    """grid -> the table of these steps, each to the next time or to an end of its own.

    Where the end is clean its alpha-bar is 1, and the ratio to it has no rounding, unless a class makes it otherwise.
    """

    def build(grid: Array) -> Tableau:
        times, errors = grid if grid.ndim == 2 else (grid, np.zeros_like(grid))
        to = times[1:] if ends is None else ends
        return chain(name, process, times[:-1], to, rule, np.where(exact_end & (to == 0), 0.0, errors[:-1]))

    return build


def striding(name: str, rule: Rule, found: Levels) -> tuple[Variant, ...]:
    """The slip of moving by T // N to where the next step does not start, where that is another grid."""
    if found.meets:
        return ()
    said = f"moves by {found.stride} timesteps, to levels at which its next step does not start"
    return (Variant(said, on_grid(name, rule, ends=found.strode)),)


def played(
    made: Made, step: Call, times: Callable[[Any], Iterable[Any]] = lambda scheduler: scheduler.timesteps
) -> Play:
    """`play` for a class whose `step` must be called otherwise, or not at all of its timesteps."""

    def run(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        scheduler = made.again()
        state = to_torch(np.asarray(x, dtype=made.dtype))
        with drawn(scheduler, normal, state):
            return to_numpy(looped(scheduler, state, asked(model), partial(step, scheduler), times(scheduler)))

    return run


def sampler(
    made: Made,
    build: Callable[[Array], Tableau],
    found: Levels,
    *,
    prediction: str | None = None,
    moved: Callable[[Array, Array], Array] = by_level,
    player: Play | None = None,
    dtype: np.dtype[Any] | None = None,
    **claimed: Any,
) -> Sampler:
    """A sampler of x on the levels of its alpha-bars."""
    scheduler = made.scheduler
    claim = Claim(
        build=build,
        grid=found.grid,
        process=BARS,
        prediction=prediction or PREDICTIONS[scheduler.config.prediction_type],
        moved=moved,
        **{"order": 1, "source": made.kind.__name__, **claimed},
    )
    return Sampler(
        name=made.name,
        play=play(made) if player is None else player,
        dtype=dtype_of(scheduler.alphas_cumprod) if dtype is None else dtype,
        claim=claim,
        told=found.told,
        trained=BARS,
        script=made.script(),
    )
