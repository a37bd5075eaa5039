"""The families of samplers, each with what theory says about it: the table behind `refdiff samplers` and the tests.

Every module of this package that lists `FAMILIES` takes part.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

from numpy.typing import ArrayLike

from refdiff.processes import AffineProcess
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule


@dataclass(frozen=True)
class Family:
    """A sampler with its options fixed.

    Attributes:
        name: as on the command line.
        build: (process, times, **options) -> Tableau.
        options: the options that make this member of the family; further ones may be given.
        order: the global order (weak order for a stochastic sampler), or None where no order is meant.
        startup: the order as run where lower-order first steps cap it (else the same), see `exact_steps`.
        exact_steps: after so many exact steps the full order shows.
        nfe: evaluations for n steps, as text: "n", "2n", "2n - 1".
        clock: the variable in which an equal grid shows the order: "t", "log_snr", "rho" (sigma/alpha) or "angle".
        starts_pure, ends_clean: whether the grid may start where alpha = 0, and end where sigma = 0.
        source: spec ids and the paper.
    """

    name: str
    build: Callable[..., Tableau]
    order: float | None
    nfe: str
    source: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    startup: float | None = None
    exact_steps: int = 0
    clock: str = "log_snr"
    starts_pure: bool = False
    ends_clean: bool = True

    def __call__(self, process: AffineProcess | Schedule, times: ArrayLike, **more: Any) -> Tableau:
        """The table of this sampler on a grid."""
        return self.build(process, times, **{**self.options, **more})


@cache
def families() -> Mapping[str, Family]:
    """All families by name."""
    found: dict[str, Family] = {}
    package = import_module("refdiff.samplers")
    for module in pkgutil.iter_modules(package.__path__):
        for one in getattr(import_module(f"refdiff.samplers.{module.name}"), "FAMILIES", ()):
            if one.name in found:
                raise ValueError(f"name must be unique among families, got {one.name!r} twice")
            found[one.name] = one
    return MappingProxyType(found)
