"""Processes, grids and laws that the command line knows by name, and the options that choose them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from refdiff.distributions import GaussianMixture
    from refdiff.processes import AffineProcess
    from refdiff.samplers.families import Family
    from refdiff.schedules import Schedule


def processes() -> Mapping[str, Callable[[], AffineProcess | Schedule]]:
    """The processes that the command line knows by name."""
    from refdiff.processes import catalogue

    return catalogue()


def laws() -> dict[str, GaussianMixture]:
    """The laws that the command line knows by name."""
    import numpy as np

    from refdiff.distributions import Empirical, Gaussian, GaussianMixture

    return {
        "gaussian": Gaussian([0.7], 0.25),
        "normal": Gaussian([0.0], 1.0),
        "spectrum": Gaussian(np.zeros(64), 1.0 / np.arange(1.0, 65.0) ** 2),
        "mixture": GaussianMixture.isotropic([[-1.0], [1.2]], [0.09, 0.25], [0.4, 0.6]),
        "points": Empirical([[-1.0], [1.0]]),
    }


class Named(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click
    """A name in a table that is made when it is asked for: --help of another command does not wait for SciPy."""

    def __init__(self, what: str, table: Callable[[], Mapping[str, Any]]) -> None:
        self.name, self.table = what, table

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """The names, for --help."""
        return f"[{'|'.join(self.table())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if the table has it."""
        if value not in self.table():
            self.fail(f"{value!r} must be a {self.name}: {', '.join(self.table())}", param, ctx)
        return value


def grids() -> Mapping[str, Any]:
    """The grids of times that the command line knows by name."""
    from refdiff.samplers.times import GRIDS

    return GRIDS


PROCESS = click.option(
    "--process", default="vp-linear", show_default=True, type=Named("process", processes), help="The noising process."
)
GRID = click.option(
    "--grid",
    default="uniform-log-snr",
    show_default=True,
    type=Named("grid", grids),
    help="How times are spaced.",
)
START = click.option("--start", type=float, help="The first (noisiest) time  [default: T, or where lambda = -5]")
END = click.option("--end", type=float, help="The last time  [default: where lambda = 4]")


def family(name: str) -> Family:
    """The family of samplers of this name.

    Raises:
        click.UsageError: there is none; the message has those that are spelled like it.
    """
    from refdiff.samplers.families import families

    known = families()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "see them with refdiff samplers --no-measure"
        raise click.UsageError(f"{name!r} is no sampler; {hint}")
    return known[name]
