"""What is compared: laws, which are known, and samples, of which only draws are.

An array of points stands for the law that it was drawn from: what is estimated from it has a standard error. A law,
`Empirical` among them, stands for itself. So a metric of two point sets is exact for `Empirical(x)` and has the error
of sampling for x. Weighted points are an `Empirical`. Sources: PODA-102, the empirical law of a sample.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array
from refdiff.distributions import Empirical, GaussianMixture
from refdiff.distributions.covariances import Diagonal

Compared: TypeAlias = GaussianMixture | ArrayLike


class Side(NamedTuple):
    """One of two that are compared.

    Attributes:
        law: itself, or the empirical law of a sample.
        drawn: whether it is a sample.
    """

    law: GaussianMixture
    drawn: bool


def sides(p: Compared, q: Compared) -> tuple[Side, Side]:
    """Both p and q, each a law or a sample of points (n, d), after a check that they live in one space.

    Raises:
        TypeError: one is neither a law nor an array of real numbers.
        ValueError: a sample is empty, not finite or not of shape (n, d), or the dimensions differ.
    """
    first, second = _side("p", p), _side("q", q)
    if first.law.dim != second.law.dim:
        raise ValueError(f"p and q must have the same dimension, got {first.law.dim} and {second.law.dim}")
    return first, second


def _side(name: str, value: Any) -> Side:
    if isinstance(value, GaussianMixture):
        return Side(value, drawn=False)
    x = real_array(name, value)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be a law, or at least one point of shape (n, d), got shape {x.shape}")
    return Side(Empirical(x), drawn=True)


def is_points(law: GaussianMixture) -> bool:
    """Whether a law has all its mass on points: no component has a variance."""
    stored = law.covariances
    return not (stored.variances if isinstance(stored, Diagonal) else stored.matrices).any()


def weighted_points(law: GaussianMixture) -> tuple[Array, Array]:
    """The points (n, d) and weights (n,), which sum to 1, of a law of points, without those of weight 0."""
    kept = np.isfinite(law.log_weights)
    weights = law.weights[kept]
    return law.means[kept], weights / weights.sum()
