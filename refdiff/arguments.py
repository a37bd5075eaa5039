"""Arguments checked at the door: every public function turns its input into finite float64 arrays here.

An error names the argument (`name`), what it was (`value`) and what was expected, before any work is done: TypeError
where it is no such thing at all, ValueError where it is one that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def real_array(name: str, value: ArrayLike, *, ndim: tuple[int, ...] | None = None, finite: bool = True) -> Array:
    """`value` as a float64 array of its shape, with one of these numbers of dimensions `ndim`, any where left out.

    Raises:
        TypeError: it does not hold real numbers.
        ValueError: it is ragged, has another number of dimensions, or is not finite where `finite` asks for that.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a regular array of numbers: {error}") from None
    except TypeError as error:  # of CuPy, whose arrays are not copied without being asked
        raise TypeError(f"{name} must be numbers that NumPy takes: {error}") from None
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if ndim is not None and array.ndim not in ndim:
        wanted = " or ".join(str(n) for n in ndim)
        raise ValueError(f"{name} must have {wanted} dimensions, got shape {array.shape}")
    array = array.astype(np.float64)
    if finite and not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
    return array


def real_scalar(name: str, value: Any, *, low: float = -np.inf, high: float = np.inf, open_low: bool = False) -> float:
    """`value` as a finite float in [low, high] (or (low, high] with `open_low`).

    Raises:
        TypeError: it is no real number.
        ValueError: it is several numbers, or not in that interval.
    """
    if isinstance(value, float) and isfinite(value) and low <= value <= high and not (open_low and value == low):
        return float(value)  # times are checked so often that making an array of each would cost more than its use
    array = real_array(name, value)
    if array.ndim != 0:
        raise ValueError(f"{name} must be one number, got shape {array.shape}")
    number = float(array)
    if not low <= number <= high or (open_low and number == low):
        raise ValueError(f"{name} must lie in {'(' if open_low else '['}{low}, {high}], got {number}")
    return number


def whole_number(name: str, value: Any, *, low: int = 0, high: int | None = None) -> int:
    """`value` as an int of at least `low` (and at most `high`).

    Raises:
        TypeError: it is no whole number.
        ValueError: it is too small or too large.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < low or (high is not None and value > high):
        bound = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {bound}, got {value}")
    return int(value)


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    """`value` if it is one of the known words.

    Raises:
        ValueError: it is none of them.
    """
    words = tuple(known)
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}, got {value!r}")
    return value


def points(name: str, value: ArrayLike, dim: int) -> tuple[Array, Callable[[Array], Array]]:
    """Points of shape (..., dim) as (n, dim), and the way back.

    The way back sends (n, ...) to the leading shape of the input, as float32 when the input was float32:
    all arithmetic in between is float64.

    Raises:
        TypeError: the points are not real numbers.
        ValueError: they have another last dimension than `dim`, or are not finite.
    """
    single = getattr(value, "dtype", None) == np.float32
    array = real_array(name, value)
    if array.ndim == 0 or array.shape[-1] != dim:
        raise ValueError(f"{name} must have shape (..., {dim}), got {array.shape}")
    lead = array.shape[:-1]

    def restore(result: Array) -> Array:
        shaped: Array = result.reshape(lead + result.shape[1:])[()]
        return single_precision(shaped) if single else shaped

    return array.reshape(-1, dim), restore


def answered(name: str, value: ArrayLike, shape: tuple[int, ...], *, finite: bool = False) -> Array:
    """What a user's function of this `name` answered (`value`), as an array of the `shape` that was asked for.

    Raises:
        TypeError: it does not hold real numbers.
        ValueError: it has another shape, or is not finite where `finite` asks for that.
    """
    array = real_array(name, value, finite=finite)
    if array.shape != shape:
        raise ValueError(f"{name} must answer with shape {shape}, got {array.shape}")
    return array


def single_precision(result: Array) -> Array:
    """The result rounded to float32 in its shape, infinite beyond the range of float32."""
    with np.errstate(over="ignore"):
        return result.astype(np.float32)


def precise_as(value: Any, result: Array) -> Any:
    """The result of `value` in its shape (...), as float32 where the value was float32."""
    return single_precision(result) if getattr(value, "dtype", None) == np.float32 else result[()]


def indices(name: str, value: ArrayLike, dim: int) -> NDArray[np.intp]:
    """Distinct coordinates in 0..dim-1, shape (k,), at least one; negative ones count from the end.

    Raises:
        TypeError: they are no list of whole numbers.
        ValueError: one is not a coordinate, or is there twice.
    """
    try:
        array = np.atleast_1d(np.asarray(value))
    except ValueError as error:
        raise ValueError(f"{name} must be a list of whole numbers: {error}") from None
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be a list of whole numbers, got {value!r}")
    if array.min() < -dim or array.max() >= dim:
        raise ValueError(f"{name} must lie in -{dim}..{dim - 1}, got {array.tolist()}")
    array = array.astype(np.intp) % dim
    if np.unique(array).size != array.size:
        raise ValueError(f"{name} must be distinct, got {array.tolist()}")
    return array


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """A NumPy generator from an explicit seed, or the generator itself; None is refused."""
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng(whole_number("seed", seed))
