r"""How cost grows: the exponent p in seconds = c size^p, by least squares in logarithms.

    p = Cov(log size, log seconds) / Var(log size),     residual = the root mean square of log seconds - fit

A cost with a constant part, a + b size, has p below 1 at small sizes; the residual says whether one power describes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from refdiff.arguments import real_array


class Fit(NamedTuple):
    """seconds = factor size^exponent, and the root mean square of its errors in log seconds."""

    exponent: float
    factor: float
    residual: float


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Fit:
    """The power law nearest to these costs.

    Raises:
        ValueError: fewer than two different sizes, or a size or a cost that is not positive.
    """
    pair = [real_array(name, values, ndim=(1,)) for name, values in (("sizes", sizes), ("seconds", seconds))]
    if len(pair[0]) != len(pair[1]) or len(np.unique(pair[0])) < 2:
        raise ValueError(f"sizes must hold two different ones at least and one for each cost, got {list(sizes)}")
    if (np.concatenate(pair) <= 0).any():
        raise ValueError(f"sizes and seconds must be positive, got {list(sizes)} and {list(seconds)}")
    x, y = np.log(pair[0]), np.log(pair[1])
    deviation = x - x.mean()
    slope = float(deviation @ y / (deviation @ deviation))
    level = float(y.mean() - slope * x.mean())
    return Fit(slope, float(np.exp(level)), float(np.sqrt(np.mean((y - level - slope * x) ** 2))))
