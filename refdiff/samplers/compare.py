r"""Work against precision: the exact distance of a sampler's output law to the truth, for its number of evaluations.

    W2(law of the output, p_t at the end of the grid)       Gaussian data in any dimension: exactly, by propagation
                                                            mixtures on the line: by quadrature through the sampler

The start is drawn from the exact p_t at the first time, so that all of the distance is the sampler's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refdiff.arguments import Array, one_of, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.processes import AffineProcess
from refdiff.samplers.families import Family
from refdiff.samplers.line import propagate_line
from refdiff.samplers.propagation import propagate
from refdiff.samplers.tableau import Tableau
from refdiff.samplers.times import GRIDS, TABLE_GRIDS
from refdiff.schedules import Schedule

# Half log-SNRs between which samplers are compared where a process reaches beyond: sigma / alpha from 148 to 0.018.
NOISIEST, CLEANEST = -5.0, 4.0


@dataclass(frozen=True)
class Measured:
    """One sampler with one number of steps.

    Attributes:
        sampler: the name of the family.   steps, nfe: of its grid, and its function evaluations.
        wasserstein: W2 of the output law to the truth, or None where there is none.
        problem: why there is none, in words.
    """

    sampler: str
    steps: int
    nfe: int
    wasserstein: float | None
    problem: str = ""


def distance(tableau: Tableau, law: GaussianMixture) -> float:
    """W2 of the output law to p_t at the last time, for Gaussian data or data on the line.

    Raises:
        ValueError: a mixture in more dimensions, or one that the quadrature on the line refuses.
    """
    if law.count == 1:
        return propagate(tableau, law).wasserstein()
    if law.dim > 1:
        raise ValueError(f"law must be Gaussian, or on the line, to have an exact distance, got {law!r}")
    return propagate_line(tableau, law).wasserstein()


def default_span(process: AffineProcess | Schedule) -> tuple[float, float]:
    """The first and last time: where lambda is -5 and 4, or at the ends of the process where it does not get there."""
    schedule = process if isinstance(process, Schedule) else process.schedules[0]
    first = schedule.T if schedule.log_snr(schedule.T) >= NOISIEST else schedule.time_of_log_snr(NOISIEST)
    last = 0.0 if schedule.log_snr(0.0) <= CLEANEST else schedule.time_of_log_snr(CLEANEST)
    return float(first), float(last)


def grid_times(
    process: AffineProcess | Schedule, grid: str, steps: int, start: float | None = None, end: float | None = None
) -> Array:
    """A grid of so many steps n by its name, shape (n + 1,), between the ends of `default_span` unless given others.

    Raises:
        ValueError: an unknown grid, ends outside the process, or ends for a grid that chooses entries of a table.
    """
    one_of("grid", grid, GRIDS)
    if grid in TABLE_GRIDS:
        if start is not None or end is not None:
            raise ValueError(f"start and end must not be given with grid {grid}, which runs through a whole table")
        return GRIDS[grid](process, steps)
    first, last = default_span(process)
    first = first if start is None else real_scalar("start", start, low=0, high=process.T)
    last = last if end is None else real_scalar("end", end, low=0, high=process.T)
    return GRIDS[grid](process, steps, start=first, end=last)


def work_precision(
    samplers: Mapping[str, Family],
    process: AffineProcess | Schedule,
    law: GaussianMixture,
    steps: Sequence[int],
    *,
    grid: str = "uniform-log-snr",
    start: float | None = None,
    end: float | None = None,
) -> Iterator[Measured]:
    """Every sampler on the same grids, one after the other: each is measured when its row is asked for.

    Args:
        samplers: families by name.
        process, law: the process, and the data: a Gaussian, or a mixture or point set on the line.
        steps: numbers of steps, at least 1.
        grid: the name of a time grid (`times.GRIDS`).
        start, end: its ends; `default_span` unless given.

    Returns:
        An iterator, to be gone through once: `list` keeps the rows.

    Raises:
        ValueError: a number of steps below 1, a mixture in more dimensions, or what `grid_times` refuses.

    Examples:
        >>> from refdiff import Gaussian, VPLinear
        >>> from refdiff.samplers import families, work_precision
        >>> ddim, law = families()["ddim"], Gaussian([0.7], 0.25)
        >>> rows = list(work_precision({"ddim": ddim}, VPLinear(), law, [100, 200]))
        >>> print([row.nfe for row in rows], round(rows[0].wasserstein / rows[1].wasserstein, 1))  # of first order
        [100, 200] 2.0
    """
    counts = [whole_number("steps", n, low=1) for n in steps]
    if law.count > 1 and law.dim > 1:
        raise ValueError(f"law must be Gaussian, or on the line, to have an exact distance, got {law!r}")
    grids = [grid_times(process, grid, n, start, end) for n in counts]
    return (_measured(name, family, process, law, times) for name, family in samplers.items() for times in grids)


def _measured(
    name: str, family: Family, process: AffineProcess | Schedule, law: GaussianMixture, times: Array
) -> Measured:
    steps = len(times) - 1
    try:
        tableau = family(process, times)
        with np.errstate(all="ignore"):  # a diverging sampler overflows
            return Measured(name, steps, tableau.nfe, distance(tableau, law))
    except ValueError as error:  # this sampler has no table, or no exact law, here: the others have
        return Measured(name, steps, 0, None, str(error))
