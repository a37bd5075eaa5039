r"""Points on a GPU, as much of a law as entropic plans ask for.

Laws hold arrays of NumPy, and nothing goes to a GPU or comes back without being asked: so points that are there are
laws of another kind, of which places and weights are known. Both sides of a plan are on one GPU, where all is done
whatever the current device, and of one type, float64 or float32, in which all is computed. Sources: PODB-75.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from refdiff.backends import array_module, on_device
from refdiff.metrics.compared import sides

Function = TypeVar("Function", bound=Callable[..., Any])


def where_it_is(function: Function) -> Function:
    """A function that makes the GPU of its first argument there, a plan or points, the current device."""

    @wraps(function)
    def there(*arguments: Any, **options: Any) -> Any:
        for one in (*arguments, *options.values()):
            array = getattr(one, "log_weights", getattr(one, "f", one))
            if on_device(array):
                with array.device:
                    return function(*arguments, **options)
        return function(*arguments, **options)

    return there  # type: ignore[return-value]


class DevicePoints:
    """Points with weights, all of them arrays of CuPy.

    Args:
        points: shape (n, d), float32 or else float64.
        weights: w_k >= 0, shape (n,), equal when left out.

    Attributes:
        means: the points, shape (n, d).
        log_weights: log w_k of weights that sum to 1, shape (n,).

    Raises:
        TypeError: they are no arrays of CuPy, or hold no real numbers.
        ValueError: there are none, shapes do not fit, or numbers are not finite or negative.
    """

    def __init__(self, points: Any, weights: Any = None) -> None:
        self.means, self.log_weights = points_of("points", points), None
        with self.means.device:
            self.log_weights = self._logs(weights)

    def __repr__(self) -> str:
        return f"DevicePoints({self.count} in {self.dim} axes, {self.means.dtype})"

    def _logs(self, weights: Any) -> Any:
        xp, n = array_module(self.means), len(self.means)
        if weights is None:
            return xp.full(n, -np.log(n), dtype=self.means.dtype)
        given = numbers("weights", weights, (n,), self.means)
        if float(given.min()) < 0 or not float(given.max()) > 0:
            raise ValueError("weights must be at least 0, and some of them above")
        logs = xp.log(given) - xp.log(given.max())  # sums of weights may overflow
        return logs - xp.log(xp.exp(logs).sum())

    @property
    def count(self) -> int:
        """n."""
        return len(self.means)

    @property
    def dim(self) -> int:
        """d."""
        return int(self.means.shape[1])

    @property
    @where_it_is
    def weights(self) -> Any:
        """w_k, shape (n,)."""
        return array_module(self.log_weights).exp(self.log_weights)


def on_gpu(value: Any) -> bool:
    """Whether `value`, a side of a plan, is on a GPU."""
    return isinstance(value, DevicePoints) or on_device(value)


def two_laws(p: Any, q: Any) -> tuple[Any, Any]:
    """Both sides p and q of a plan: two laws, those of arrays of NumPy their empirical ones, or two `DevicePoints`.

    Raises:
        TypeError: one is nothing of the kind, or is not on a GPU where the other is.
        ValueError: a side is empty or not finite, or dimensions or types differ.
    """
    if on_gpu(p) or on_gpu(q):
        return device_sides(p, q)
    first, second = sides(p, q)
    return first.law, second.law


def device_sides(p: Any, q: Any) -> tuple[DevicePoints, DevicePoints]:
    """Both sides p and q of a plan, one of which is on a GPU.

    Raises:
        TypeError: one is not on the GPU.
        ValueError: a side is empty or not finite, or dimensions, types or GPUs differ.
    """
    for name, value, other in (("p", p, "q"), ("q", q, "p")):
        if not on_gpu(value):
            raise TypeError(
                f"{name} must be points on the GPU as {other} is, got {type(value).__name__}: copy either by "
                "cupy.asarray or cupy.asnumpy"
            )
    named = (("p", p), ("q", q))
    first, second = (
        one if isinstance(one, DevicePoints) else DevicePoints(points_of(name, one)) for name, one in named
    )
    for what, one, two in (
        ("dimension", first.dim, second.dim),
        ("type", first.means.dtype, second.means.dtype),
        ("GPU", first.means.device.id, second.means.device.id),
    ):
        if one != two:
            raise ValueError(f"p and q must have the same {what}, got {one} and {two}")
    return first, second


def points_of(name: str, value: Any) -> Any:
    """At least one point on a GPU, contiguous, shape (n, d), of an argument called `name`.

    Raises:
        TypeError: `value` is no array of CuPy, or holds no real numbers.
        ValueError: it is empty, not finite or of another shape.
    """
    if _there(name, value).ndim != 2 or 0 in value.shape:
        raise ValueError(f"{name} must have shape (n, d), with at least one point, got {value.shape}")
    return points_near(name, value, value.shape[1], None)[0]


def numbers(name: str, value: Any, shape: tuple[int, ...] | None, like: Any) -> Any:
    """Finite numbers of a shape on a GPU, contiguous, of the type of an array `like` them, of an argument `name`.

    Raises:
        TypeError: `value` is no array of CuPy, or holds no real numbers.
        ValueError: it is not finite, or of another shape where one is given.
    """
    if shape not in (None, _there(name, value).shape):
        raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
    return points_near(name, value.reshape(-1, 1), 1, like)[0].reshape(value.shape)


def points_near(name: str, value: Any, dim: int, like: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Points (..., dim) on a GPU as (n, dim) of the type of an array `like` them, if there is one, and the way back.

    Args:
        name: of the argument.
        value: the points.
        dim: axes.
        like: an array, or None.

    Raises:
        TypeError: `value` is no array of CuPy, or holds no real numbers.
        ValueError: it is not finite, of another shape, or on another GPU.
    """
    from refdiff import cuda  # late: it takes longer to import than all of this package

    # kernels are given addresses, and would not see it
    if like is not None and _there(name, value).device.id != like.device.id:
        raise ValueError(f"{name} must be on the GPU {like.device.id}, where the others are, got {value.device.id}")
    rows, restore = cuda.points(name, _there(name, value), dim)
    return (rows if like is None else rows.astype(like.dtype, copy=False)), restore


def _there(name: str, value: Any) -> Any:
    if not on_device(value):
        raise TypeError(f"{name} must be an array of CuPy, got {type(value).__name__}")
    return value
