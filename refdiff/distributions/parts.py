"""The parts a mixture is made of, checked: means, variances, matrices, weights.

A `value` is what the caller gave under the `name` that messages call it by; `ndim` are the numbers of dimensions that
it may have, `shape` is (K, d), that of the means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff import operators
from refdiff.arguments import Array, real_array
from refdiff.distributions.moments import log_total


def means_of(value: ArrayLike, name: str = "means") -> Array:
    """At least one point, shape (K, d).

    Raises:
        ValueError: there is no point, or no coordinate.
    """
    array = real_array(name, value, ndim=(2,))
    if 0 in array.shape:
        raise ValueError(f"{name} must hold at least one point of at least one coordinate, got shape {array.shape}")
    return array


def variances_of(value: ArrayLike, ndim: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Variances >= 0 of this shape, or of its last dimensions.

    Raises:
        ValueError: they have another shape, or one is negative.
    """
    array = real_array("variances", value, ndim=ndim)
    if array.shape != shape[len(shape) - array.ndim :]:
        raise ValueError(f"variances must have shape {shape}, or its last dimensions, got {array.shape}")
    if (array < 0).any():
        raise ValueError(f"variances must not be negative, got {array.min()}")
    return array


def matrices_of(name: str, value: ArrayLike, ndim: int, shape: tuple[int, ...]) -> Array:
    """One covariance (d, d), or one for each component (K, d, d), for means of this shape.

    Raises:
        ValueError: they have another shape, or one is not positive semi-definite.
    """
    array = real_array(name, value, ndim=(ndim,))
    wanted = (*shape, shape[1])[3 - ndim :]
    if array.shape != wanted:
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    return operators.semi_definite(name, array)


def log_weights(weights: ArrayLike | None, count: int) -> NDArray[np.float64]:
    """Normalised log weights of `count` components, shape (K,): equal ones for None; zeros and 1e-300 are kept.

    Raises:
        ValueError: there are more or fewer, one is negative, or all are zero.
    """
    if weights is None:
        return np.full(count, -np.log(count))
    array = real_array("weights", weights, ndim=(1,))
    if array.shape != (count,):
        raise ValueError(f"weights must have shape ({count},), got {array.shape}")
    if (array < 0).any():
        raise ValueError(f"weights must not be negative, got {array.min()}")
    if not array.any():
        raise ValueError("weights must not all be zero")
    with np.errstate(divide="ignore"):  # log 0 = -inf is the log weight of a component that is never drawn
        logs = np.log(array)
    return np.asarray(logs - log_total(logs[None]))
