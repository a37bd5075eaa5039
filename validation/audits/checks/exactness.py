r"""Data for which the claimed method is exact: the foreign one must be exact there too.

Every first-order exponential method is exact for a point mass, some methods for N(0, 1), some for any Gaussian. Which
ones follows from the claimed table: its output for Gaussian data is known without Monte Carlo. A deterministic method
is exact if its map is that of the probability flow, a stochastic one if the law of its output is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from refdiff.arguments import Array
from refdiff.processes.affine import motion
from refdiff.samplers import Tableau
from refdiff.samplers.propagation import flow
from refdiff.schedules import Coefficients
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, judged, not_applicable
from refdiff.validation.audits.reading import FEW, FEW_QUICK, Read, Unreadable, counts, read
from refdiff.validation.audits.rows import RULE, Rows
from refdiff.validation.audits.subject import Subject

QUESTION = "exactness"
# mean and variance
LAWS: Mapping[str, tuple[float, float]] = {"a point mass": (1.3, 0.0), "N(0, 1)": (0.0, 1.0), "a Gaussian": (0.7, 0.25)}


def exactness(subject: Subject, quick: bool) -> Iterator[Finding]:
    """The output for every law on which the claimed table is exact."""
    for steps in counts(subject, quick, FEW, FEW_QUICK):
        place = f"{steps} steps"
        try:
            found = read(subject, steps)
        except Unreadable as why:
            yield not_applicable(subject.name, QUESTION, f"{place}: {why}")
            continue
        findings = list(_on_laws(subject.name, found, place))
        yield from findings or [
            not_applicable(subject.name, QUESTION, f"{place}: the method is exact on no simple law")
        ]


def _on_laws(name: str, found: Read, place: str) -> Iterator[Finding]:
    table = found.table
    # roundings of float64 in the method's own numbers, where the sampler's are coarser
    fine = np.finfo(float).eps / found.sampler.eps
    for law, (mean, variance) in LAWS.items():

        def numbers(rows: Rows, mean: float = mean, variance: float = variance) -> Array:
            return summary(rows, mean, variance)

        try:
            right, bound = exact(table, mean, variance), found.allowed(numbers)
        except ValueError:  # evaluated where a point mass has no density
            continue
        method = np.abs(numbers(found.mine) - right)
        if not (method <= fine * bound).all():
            continue  # the method is not exact there
        bound = bound + method
        off = np.abs(numbers(found.theirs) - right)
        worst = int(np.argmax(off / bound))
        what = "law of the output" if table.stochastic else "map"
        values = f"{NAMES[table.stochastic][worst]} is off by {off[worst]:.3g} of the target's size"
        said = f"exact on {law}" if (off <= bound).all() else f"not exact on {law}, as the method is: {values}"
        yield judged(name, QUESTION, float(off[worst]), float(bound[worst]), f"{place}: the {what} is {said}",
                     rule=RULE, place=f"{place}, {law}", script=found.sampler.script)  # fmt: skip


NAMES = {False: ("its slope", "its offset", "its noise"), True: ("its mean", "its variance")}


def summary(rows: Rows, mean: float, variance: float) -> Array:
    """What there is to compare, in units of the target's size: slope, offset and noise of a map; mean and variance."""
    table = rows.table
    out = rows.output(mean, variance)
    spread, start, size, scale = _sizes(table, mean, variance)
    if not table.stochastic:
        added = float(np.linalg.norm(out.noise))  # by a sampler that should add none
        return np.array([out.gain * spread, out.offset + out.gain * start, added]) * scale / size
    variance_out = (out.gain * spread) ** 2 + float(out.noise @ out.noise)
    return np.array([(out.offset + out.gain * start) * scale / size, variance_out * scale**2 / size**2])


def exact(table: Tableau, mean: float, variance: float) -> Array:
    """The same numbers for the probability flow, or for p_t at the end."""
    first, last = (Coefficients(*(part[k] for part in table.scalars)) for k in (0, -1))
    spread, start, size, _ = _sizes(table, mean, variance)
    if table.stochastic:
        return np.array([last.alpha * mean / size, (last.alpha**2 * variance + last.sigma**2) / size**2])
    gain, offset = flow(motion(first), motion(last), np.array([mean]), np.array([variance]))
    x_spread, x_start = spread * table.scale[0], start * table.scale[0]
    return np.array([gain[0] * x_spread, offset[0] + gain[0] * x_start, 0.0]) / size


def _sizes(table: Tableau, mean: float, variance: float) -> tuple[float, float, float, float]:
    """Standard deviation and mean of the start in the sampler's coordinate, the root mean square of x at the end, and
    what turns the output into x.
    """
    c = table.scalars
    before, after = (float(c.alpha[k] ** 2 * variance + c.sigma[k] ** 2) for k in (0, -1))
    size = float(np.sqrt((c.alpha[-1] * mean) ** 2 + after))
    first = float(table.scale[0])
    return np.sqrt(before) / first, float(c.alpha[0]) * mean / first, size, float(table.scale[-1])


CHECKS: tuple[Check, ...] = (exactness,)
