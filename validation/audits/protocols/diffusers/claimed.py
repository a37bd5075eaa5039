"""A scheduler at some steps beside its claim: the levels that it should have at each of its times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.samplers import Tableau
from refdiff.schedules import Coefficients
from refdiff.validation.audits.protocols.diffusers.options import Build
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Claim, Subject

STEPS = 10
PLAIN = frozenset({"CMStochasticIterativeScheduler"})  # has a sigma_data, and states in the unit of the data


@dataclass(frozen=True)
class Read:
    """A scheduler at some steps, and what its claim has at each of its times: scales of x, and alpha and sigma."""

    made: Made
    claim: Claim
    table: Tableau
    at: NDArray[np.int_]

    def level(self, k: int) -> tuple[float, float]:
        """(alpha, sigma) at time k."""
        return self._of(self.table.scalars, k)

    def scale(self, k: int) -> float:
        """What x is multiplied by in the sampler's coordinate at time k."""
        return 1 / float(self.table.scale[self.at[k]])

    @cached_property
    def scheduler(self) -> Any:
        """One that is set to its steps, only to be looked at."""
        return self.made.scheduler

    @cached_property
    def unit(self) -> float:
        """The standard deviation of data in which the claim measures states and levels, where the class has one."""
        scheduler = self.scheduler
        plain = hasattr(scheduler, "alphas_cumprod") or type(scheduler).__name__ in PLAIN
        return 1.0 if plain else float(getattr(scheduler.config, "sigma_data", 1.0))

    def _of(self, c: Coefficients, k: int) -> tuple[float, float]:
        return float(c.alpha[self.at[k]]), float(c.sigma[self.at[k]])

    @property
    def first(self) -> list[int]:
        """Times that begin a step."""
        stages = int(getattr(self.scheduler, "order", 1))
        return list(range(0, len(self.at), stages))


def read(subject: Subject, steps: int = STEPS) -> Read | None:
    """The subject with its claim, or None where nothing is claimed or a claim has other evaluations than times."""
    build = subject.source
    if not isinstance(build, Build):
        return None
    made = build.made(steps)
    try:
        scheduler, claim = made.scheduler, build(steps).claim
        table = None if claim is None else claim.table()
    except Exception:  # what does not run is told by robustness
        return None
    if claim is None or table is None:
        return None
    at = np.flatnonzero(table.evaluated)
    return Read(made, claim, table, at) if len(at) == len(scheduler.timesteps) else None


def answer(prediction: str, x: Array, point: Array, a: float, s: float) -> Array | None:
    """What an exact network answers where the data are one point, or None for a prediction of another kind."""
    noise = (x - a * point) / s
    answers = {"denoiser": point, "noise": noise, "v_prediction": a * noise - s * point, "velocity": noise - point}
    return answers.get(prediction)
