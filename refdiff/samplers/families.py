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

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.processes import AffineProcess
from refdiff.samplers.order import Order, measure_order
from refdiff.samplers.tableau import Tableau
from refdiff.samplers.times import uniform, uniform_in
from refdiff.schedules import Schedule, VPLinear


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
        on_gaussians: the order for Gaussian data, where it is higher than on other laws.
        measure: what `measured` does otherwise for this family (span, counts, floor, process).
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
    on_gaussians: float | None = None
    measure: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __call__(self, process: AffineProcess | Schedule, times: ArrayLike, **more: Any) -> Tableau:
        """The table of this sampler on a grid."""
        return self.build(process, times, **{**self.options, **more})

    def grid(self, process: AffineProcess | Schedule, steps: int, start: float, end: float) -> Array:
        """Equal steps in the clock of the family, shape (n + 1,)."""
        if self.clock == "t":
            return uniform(process, steps, start=start, end=end)
        return uniform_in(process, steps, self.clock, start=start, end=end)

    def measured(self, law: GaussianMixture, *, as_run: bool = False, **more: Any) -> Order:
        """The order on a law, from equal steps of the family's clock.

        The default span, lambda from -1 to 1.2 (sigma / alpha from 2.7 to 0.30), is one on which equal steps are fine
        in every clock: a real sampler's range is a thousand times as wide in sigma / alpha, and a linear grid over it
        shows an order only after as many steps.

        Args:
            law: the data.
            as_run: with the family's own lower-order start, and not after `exact_steps` exact ones.
            more: process, span (two values of lambda) and what `measure_order` takes.
        """
        asked = {"process": VPLinear(), "span": (-1.0, 1.2), **self.measure, **more}
        schedule: Schedule = asked.pop("process")
        start, end = (float(schedule.time_of_log_snr(lam)) for lam in asked.pop("span"))
        return measure_order(
            lambda times: self(schedule, times),
            law,
            schedule,
            lambda n: self.grid(schedule, n, start, end),
            exact_steps=0 if as_run else self.exact_steps,
            **asked,
        )

    def evaluations(self, steps: int) -> int:
        """The function evaluations for so many steps between finite ends, by the formula `nfe`."""
        count = 0
        for term in self.nfe.replace(" ", "").replace("-", "+-").split("+"):
            factor, _, rest = term.partition("n")
            count += int(factor or 1) * steps if "n" in term else int(rest or factor)
        return count


@cache
def families() -> Mapping[str, Family]:
    """All families by name.

    Raises:
        ValueError: two of the same name.

    Examples:
        >>> from refdiff.samplers import families
        >>> heun = families()["edm-heun"]
        >>> print(heun.order, heun.evaluations(10))  # two evaluations a step
        2 20
    """
    found: dict[str, Family] = {}
    package = import_module("refdiff.samplers")
    for module in pkgutil.iter_modules(package.__path__):
        for one in getattr(import_module(f"refdiff.samplers.{module.name}"), "FAMILIES", ()):
            if one.name in found:
                raise ValueError(f"name must be unique among families, got {one.name!r} twice")
            found[one.name] = one
    return MappingProxyType(found)
