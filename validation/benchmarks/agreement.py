r"""Whether two answers agree.

Numbers:  error = max |a - b| / max(|b|, median |b|),  each number relative to itself or, near 0, to a usual one.

Samples of one law:  for the statistics s of each draw (y_j, y_j y_k, cos 2 y_j) and both sample sizes,

    z = max |mean s(a) - mean s(b)| / sqrt(var s(a) / n_a + var s(b) / n_b)

which agree when z is below the level that m independent normals would exceed with probability FALSE_ALARM at most,
m the number of statistics (Bonferroni).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from refdiff.arguments import Array

FALSE_ALARM = 1e-6


class Agreement(NamedTuple):
    """How far apart, how far they may be, and what is measured: a relative error, or a number of standard errors."""

    error: float
    allowed: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the answers agree; an error that is not a number does not."""
        return bool(self.error <= self.allowed)


def of_numbers(answer: Any, reference: Any, allowed: float) -> Agreement:
    """Of an answer with the leading rows that a reference has.

    Raises:
        ValueError: the answer has another shape, or fewer rows.
    """
    a, b = np.asarray(answer, dtype=float), np.asarray(reference, dtype=float)
    if a.shape[1:] != b.shape[1:] or len(a) < len(b):
        raise ValueError(f"answer must have the shape of the reference, {b.shape}, or more rows, got {a.shape}")
    a = a[: len(b)]
    size = np.maximum(np.abs(b), np.median(np.abs(b)))
    apart = np.abs(a - b)
    # 0 against 0 agrees
    return Agreement(float(np.max(np.divide(apart, size, out=apart.copy(), where=size > 0))), allowed, "relative")


def of_samples(answer: Any, reference: Any) -> Agreement:
    """Of two samples, shapes (n_a, d) and (n_b, d), with one law."""
    a, b = _statistics(np.asarray(answer, dtype=float)), _statistics(np.asarray(reference, dtype=float))
    spread = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
    z = np.abs(a.mean(axis=0) - b.mean(axis=0)) / spread
    return Agreement(float(np.max(z)), float(norm.isf(FALSE_ALARM / 2 / z.size)), "standard errors")


def _statistics(y: Array) -> Array:
    """One row of statistics for each draw."""
    j, k = np.triu_indices(y.shape[1])
    return np.concatenate([y, y[:, j] * y[:, k], np.cos(2 * y)], axis=1)
