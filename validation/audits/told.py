r"""The noise level that a network is told with each state, beside the level that the claimed table's stage has.

A network hears its level only through the time that is passed. Both are taken as log sigma/alpha; a design that rounds
times may be off by as much as it rounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.findings import Verdict
from refdiff.validation.audits.rounding import OPERATIONS, WORST
from refdiff.validation.audits.steps import Comparison
from refdiff.validation.audits.subject import Claim, Sampler


class Told(NamedTuple):
    """What the network is told with each evaluation, as log sigma/alpha.

    Attributes:
        told, right: of the time passed, and of the claimed stage.
        bound: what rounding may do to the difference.
        design: what the sampler's own rounding of times may do.
    """

    told: Array
    right: Array
    bound: Array
    design: Array

    @property
    def off(self) -> Array:
        """The differences, 0 where both are pure noise: of infinite level, or, by a rounding, of a negative alpha."""
        pure = ~(self.told < np.inf) & ~(self.right < np.inf)
        same = pure | (self.told == self.right)  # both without noise: -inf
        with np.errstate(invalid="ignore"):
            return np.where(same, 0.0, np.abs(self.told - self.right))

    @property
    def verdict(self) -> Verdict:
        """ok within rounding, a convention within the rounding of times."""
        if (self.off <= self.bound).all():
            return Verdict.OK
        return Verdict.CONVENTION if (self.off <= self.bound + self.design).all() else Verdict.WRONG


def told(sampler: Sampler, claim: Claim, comparison: Comparison) -> Told | None:
    """The told levels and the right ones; None where nothing says what times mean.

    Raises:
        ValueError: what is told is no time of the sampler's process.
    """
    if sampler.told is None:
        return None
    trained, means = sampler.trained or claim.process, sampler.told

    def level(t: Any) -> float:
        with np.errstate(divide="ignore"):
            return -float(trained.coefficients(means(t)).log_snr)

    def near(t: Any, by: float) -> Array:
        found = []
        for moved in (t - by, t, t + by):
            try:
                found.append(level(moved))
            except ValueError:  # beyond the ends of time
                continue
        return np.array(found)

    def change(t: Any, by: float) -> float:
        with np.errstate(invalid="ignore"):
            gaps = np.abs(near(t, by) - level(t))
        return float(max(gaps[np.isfinite(gaps)], default=0.0))

    def rounded(t: Any, by: float, right: float) -> float:
        # a time that may be rounded to an end may be that of pure noise, infinitely far away, which is told to a state
        # of a level on that side only
        around = near(t, by)
        slack = OPERATIONS * sampler.eps
        if np.isinf(around).any() and around.min() - slack <= right <= around.max() + slack:
            return float(np.inf)
        return change(t, by)

    words = comparison.words
    with np.errstate(divide="ignore", invalid="ignore"):
        right = np.log(words.levels[comparison.table.evaluated])
        moved = [np.log(_levels(table)) for table in comparison.moved]
    with np.errstate(invalid="ignore"):
        drift = np.nan_to_num(np.max([np.abs(one - right) for one in moved], axis=0, initial=0.0))
    times = comparison.heard.times
    levels = np.array([level(t) for t in times])  # a ValueError where one is no time
    rounding = [change(t, OPERATIONS * _eps(sampler, t) * abs(float(t))) for t in times]
    whole = [0.5 if isinstance(t, int | np.integer) else 0.0 for t in times]
    design = [rounded(t, max(sampler.told_within, half), one) for t, half, one in zip(times, whole, right, strict=True)]
    bound = np.array(rounding) + WORST * drift + OPERATIONS * sampler.eps
    return Told(levels, right, bound, np.array(design))


def _levels(table: Any) -> Array:
    c = table.coefficients
    return np.asarray((c.sigma / c.alpha)[table.evaluated])


def _eps(sampler: Sampler, t: Any) -> float:
    kind = getattr(t, "dtype", None)
    return max(sampler.eps, float(np.finfo(kind).eps)) if kind is not None and kind.kind == "f" else sampler.eps
