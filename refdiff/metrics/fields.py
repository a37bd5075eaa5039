r"""Fields of points: every y_j pulls or pushes x along the difference, by a function of their distance alone.

    F(x) = sum_j w_j phi(|x - y_j|^2) (x - y_j)

    gradient of a kernel k     phi = 2 dk / d(r^2)                 F = grad sum_j w_j k(x, y_j)
    inverse powers             phi = (r^2 + e^2)^(-n / 2)          F = sum_j w_j (x - y_j) / (|x - y_j|^2 + e^2)^(n/2)

n = d is the force between charges in d dimensions, whose shells pull as points do outside and not at all inside; with
data in d dimensions, n = d + 1 and e = t it is the field of PFGM at height t, F_x, and F_t is the sum of t phi. The
gradient flow of MMD^2 is x' = F_y(x) - F_x(x), of fields of two means: of points, and of those that move to them.
A point is not moved by itself: where r = 0 a term is 0, also where phi has no value. Squares of distances and powers of
them are numbers of the points' type: points less than 1e-162 apart (float32 on a GPU: 1e-23) are one, small terms 0.
Sources: TOPB-26..30; Arbel et al. 2019, "Maximum mean discrepancy gradient flow".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, one_of, points, real_array, real_scalar
from refdiff.backends import array_module, on_device
from refdiff.distributions.covariances import TILE
from refdiff.metrics.pairs import device_scale
from refdiff.metrics.similarities import Kernel


@dataclass(frozen=True)
class Force:
    """phi(r^2) = strength k(scale r^2), with k as of `kind`.

    Attributes:
        kind: GAUSSIAN 2^l, POWER (1 + l)^-power, PULL 2^(-sqrt l) / sqrt l, INVERSE l^-power; the last two 0 at l = 0.
        scale: l / r^2.
        power: see kind.
        strength: see above.

    Raises:
        ValueError: the kind is none of these.
    """

    kind: str
    scale: float
    power: float
    strength: float

    def __post_init__(self) -> None:
        one_of("kind", self.kind, _VALUES)

    def values(self, squares: Array) -> Array:
        """phi of `squares` of distances, any shape (...)."""
        return self.strength * _VALUES[self.kind](self.scale * squares, self.power)


def _apart(function: Callable[[Array], Array], l: Array) -> Array:
    zero = l == 0
    return np.where(zero, 0.0, function(np.where(zero, 1.0, l)))


_VALUES: dict[str, Callable[[Array, float], Array]] = {
    "GAUSSIAN": lambda l, _: np.exp2(l),
    "POWER": lambda l, a: np.asarray(np.exp(-a * np.log1p(l))),
    "PULL": lambda l, _: _apart(lambda l: np.exp2(-np.sqrt(l)) / np.sqrt(l), l),
    "INVERSE": lambda l, a: _apart(lambda l: l**-a, l),
}
# phi = 2 dk / d(r^2), from the scale p and the power a of a kernel as compiled code has it
_GRADIENTS: dict[str, Callable[[float, float], Force]] = {
    "GAUSSIAN": lambda p, _: Force("GAUSSIAN", p, 1.0, 2 * p * float(np.log(2))),
    "LAPLACE": lambda p, _: Force("PULL", p, 1.0, -p * float(np.log(2))),
    "POWER": lambda p, a: Force("POWER", p, a + 1, -2 * a * p),
    "DISTANCE": lambda p, _: Force("INVERSE", p, 0.5, -1.0),
}


def kernel_gradient(kernel: Kernel) -> Force:
    """The force that is the gradient of a kernel in its first point.

    Raises:
        TypeError: it is no kernel.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a Kernel, got {kernel!r}")
    name, scale, power = kernel.compiled
    return _GRADIENTS[name](scale, power)


def inverse_power(power: float, softening: float = 0.0) -> Force:
    """phi = (r^2 + e^2)^(-n / 2), n = `power` > 0 and e = `softening` >= 0: away from points of positive weight.

    In units of e, with x / e, y / e and a softening of 1, a field is e^(n - 1) times what it is: where n is large, that
    is the way to ratios of it.

    Raises:
        ValueError: a number is not in its range, or e^-n or e^-2 has not the digits of float64.
    """
    n = real_scalar("power", power, low=0, open_low=True)
    e = real_scalar("softening", softening, low=0)
    if e == 0:
        return Force("INVERSE", 1.0, n / 2, 1.0)
    with np.errstate(over="ignore"):
        scale, strength = float(np.float64(e) ** -2), float(np.float64(e) ** -n)
    if not all(np.finfo(float).tiny <= found < np.inf for found in (scale, strength)):  # less has lost digits
        raise ValueError(f"softening must have a power -2 and -{n} in float64, got {e}: 1 in units of itself has both")
    return Force("POWER", scale, n / 2, strength)


def pair_field(force: Force | Kernel, x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> Any:
    """F at points x.

    Points that are arrays of CuPy are answered on their GPU, in float32 where both x and y are, else in float64; sums
    over many lose none of that precision. The answer is float32 where x is, float64 otherwise.

    Args:
        force: an answer of `inverse_power`, or a kernel, whose gradient it is then.
        x: shape (..., d).
        y: shape (m, d), at least one.
        weights: w, shape (m,), of any sign; 1 / m when left out, which makes a mean.

    Returns:
        Shape (..., d).

    Raises:
        MemoryError: sums for a part of the points do not fit on the GPU.
        TypeError: the force is none, points are not real numbers, or some are arrays of CuPy and others not.
        ValueError: shapes do not fit, a number is not finite, arrays are on different GPUs, float32 on a GPU cannot
            hold the scale of the force, or points are so near that the force is infinite, or so far apart that squares
            of distances are where it feels them.

    Examples:
        >>> from refdiff.metrics import inverse_power, pair_field
        >>> print(pair_field(inverse_power(3), [[2.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]).round(6))  # (x - y) / r^3
        [[0.25 0.   0.  ]]
    """
    if not isinstance(force, Force):
        if not isinstance(force, Kernel):
            raise TypeError(f"force must be a Force or a Kernel, got {force!r}")
        force = kernel_gradient(force)
    there = [on_device(value) for value in (x, y, weights) if value is not None]
    if all(there):
        return _on_device(force, x, y, weights)
    if any(there):
        raise TypeError(f"x, y and weights must all be arrays of CuPy or none, got {there.count(True)} of {len(there)}")
    to = real_array("y", y, ndim=(2,))
    if 0 in to.shape:
        raise ValueError(f"y must be at least one point of shape (m, d), got shape {to.shape}")
    rows, restore = points("x", x, to.shape[1])
    w = np.full(len(to), 1 / len(to)) if weights is None else real_array("weights", weights)
    if w.shape != (len(to),):
        raise ValueError(f"weights must have shape ({len(to)},), got {w.shape}")
    _near_enough(force, rows, to)
    return restore(_finite(_sums(force, rows, to, w)))


def _near_enough(force: Force, x: Any, y: Any) -> None:
    # exponentials are 0 where squares are infinite; powers are not nothing beside the distance that they multiply
    if force.kind in ("GAUSSIAN", "PULL") or not len(x):
        return
    size = array_module(x).abs
    reach = float(size(x).max()) + float(size(y).max())
    if not max(1.0, float(force.scale)) * x.shape[1] * reach * reach <= float(np.finfo(x.dtype).max):
        raise ValueError(
            f"x and y must be so near that {x.dtype} can hold squares of their distances, got coordinates that differ "
            f"by up to {reach:.3g}"
        )


def _finite(field: Any) -> Any:
    if not bool(array_module(field).isfinite(field).all()):
        raise ValueError(
            "x and y must be so far apart, or weights so small, that the force is finite, got one beyond all numbers, "
            "which a softening bounds"
        )
    return field


def _sums(force: Force, x: Array, y: Array, weights: Array) -> Array:
    result = np.empty(x.shape)
    step = max(1, TILE // y.size)
    for rows in (slice(start, start + step) for start in range(0, len(x), step)):
        away = x[rows, None] - y
        with np.errstate(over="ignore", invalid="ignore"):  # who asked for it is told
            pulls = weights * force.values(np.einsum("imd,imd->im", away, away))
            result[rows] = np.einsum("im,imd->id", pulls, away)
    return result


def _on_device(force: Force, x: Any, y: Any, weights: Any) -> Any:
    from refdiff.cuda import points  # late: nothing but GPUs needs it
    from refdiff.kernels.cuda import pair_sums
    from refdiff.kernels.cuda.device import cupy

    if y.ndim != 2 or 0 in y.shape:
        raise ValueError(f"y must be at least one point of shape (m, d), got shape {y.shape}")
    if weights is not None and weights.shape != (len(y),):
        raise ValueError(f"weights must have shape ({len(y)},), got {weights.shape}")
    if len(devices := sorted({part.device.id for part in (x, y, weights) if part is not None})) > 1:
        raise ValueError(f"x, y and weights must be on one GPU, got {devices}")
    with x.device:
        rows, restore = points("x", x, y.shape[1])
        to, kept = points("y", y, y.shape[1])[0], rows.dtype
        dtype = np.promote_types(kept, to.dtype)
        rows, to = rows.astype(dtype, copy=False), to.astype(dtype, copy=False)
        device_scale("force", force.scale, dtype)
        _near_enough(force, rows, to)
        if weights is None:
            w, strength = cupy().ones(len(y), dtype=dtype), force.strength / len(y)
        else:
            w, strength = points("weights", weights, len(y))[0].ravel().astype(dtype, copy=False), force.strength
        found = pair_sums.field(getattr(pair_sums, force.kind), force.scale, force.power, rows, to, w)
        return restore(_finite(strength * found).astype(kept, copy=False))
