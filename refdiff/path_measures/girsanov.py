r"""Girsanov's theorem: how likely a path is under one drift, relative to another one with the same noise.

    dx = b dt + G dw  (P)      dx = c dt + G dw  (Q)      D = G G',      delta = b - c

    log dP/dQ = int delta' D^+ (dx - c dt) - 1/2 int |delta|^2 dt          |delta|^2 = delta' D^+ delta
              = int theta' dw_Q - 1/2 int |theta|^2 dt                     theta = G^+ delta, w_Q Brownian under Q
              = int theta' dw_P + 1/2 int |theta|^2 dt                     w_P = w_Q - int theta dt Brownian under P

The signs belong to the noise: with w_P the printed -1/2 makes E_P log dP/dQ = -KL(P || Q). Sums over steps with all
fields taken at their start are not only near that: they are the logarithm of the ratio of the transition densities

    N(x_{i+1}; x_i + b h, D |h|) / N(x_{i+1}; x_i + c h, D |h|)

of the two Euler-Maruyama chains, at any step, with D depending on x and time running either way. Where D is singular
delta must lie in its range; else the laws have no paths in common, and the logarithm is infinite. Means under P are
means under Q with weights dP/dQ, E_Q dP/dQ = 1. Sources: PODD-89, PODD-92; Girsanov 1960.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, points, precise_as, real_array
from refdiff.stochastic.equation import StochasticEquation

# Drifts that agree where there is no noise are computed on two ways: their difference is rounding of either.
ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class PathRatio:
    """log dP/dQ of paths, in its parts, each of the shape (...) of the paths.

    Attributes:
        integral: int theta' dw_Q, against the noise of the denominator; infinite where P and Q share no paths.
        energy: int |theta|^2 dt >= 0.
    """

    integral: Any
    energy: Any

    @property
    def log_ratio(self) -> Any:
        """log dP/dQ = int theta' dw_Q - energy / 2, shape (...); infinite where only one law has such paths."""
        return self._less(0.5)

    @property
    def integral_of_numerator(self) -> Any:
        """int theta' dw_P = int theta' dw_Q - energy, shape (...): log dP/dQ less energy / 2."""
        return self._less(1.0)

    def _less(self, share: float) -> Any:
        """The integral less so much of the energy, and itself where it is infinite."""
        return (
            self.integral - np.where(np.isfinite(self.energy), share * self.energy, 0.0).astype(self.energy.dtype)[()]
        )


@dataclass(frozen=True, eq=False)
class Reweighted:
    """A mean under P from draws of Q.

    Attributes:
        value: shape (...).
        error: its standard error, shape (...).
        effective: the effective sample size (sum w)^2 / sum w^2.
    """

    value: Any
    error: Any
    effective: float


def girsanov(
    numerator: StochasticEquation, denominator: StochasticEquation, paths: ArrayLike, times: ArrayLike
) -> PathRatio:
    """The parts of log dP/dQ of paths: exact for the two Euler-Maruyama chains at these times.

    Args:
        numerator: the equation of P.
        denominator: the equation of Q, with the same D.
        paths: x at the times, shape (N + 1, ..., d).
        times: shape (N + 1,), increasing or decreasing, at least two.

    Returns:
        Sums over the steps, float32 for float32 paths.

    Raises:
        TypeError: an equation is none.
        ValueError: times in no order, paths of another shape, or equations with different noises.
    """
    for name, one in (("numerator", numerator), ("denominator", denominator)):
        if not isinstance(one, StochasticEquation):
            raise TypeError(f"{name} must be a StochasticEquation, got {one!r}")
    if numerator.dim != denominator.dim:
        raise ValueError(f"denominator must have dimension {numerator.dim}, got {denominator.dim}")
    when, states, lead = steps_of(paths, times, numerator.dim)
    integral, energy = np.zeros(states.shape[1]), np.zeros(states.shape[1])
    for i, h in enumerate(np.diff(when)):
        x, t = states[i], float(when[i])
        b, c = (one.drift_at(x, t) for one in (numerator, denominator))
        d = noise_of(numerator, x, t)
        same_noise(d, noise_of(denominator, x, t), t)
        pulled, square, off = pseudo_products(d, b - c, (np.abs(b) + np.abs(c)).max(axis=-1))
        left = states[i + 1] - x - c * h
        integral += np.sign(h) * np.einsum("nd,nd->n", pulled, left)
        energy += np.abs(h) * square
        if off.any():
            # without noise a path follows one drift or the other: it is moved by off h along off, or not at all
            moved = np.einsum("nd,nd->n", left, off) / h > 0.5 * (off**2).sum(axis=1)
            outside = off.any(axis=1)
            with np.errstate(invalid="ignore"):  # now one drift, now the other: neither law
                integral += np.where(outside, np.where(moved, np.inf, -np.inf), 0.0)
            energy += np.where(outside, np.inf, 0.0)
    return PathRatio(*(precise_as(paths, part.reshape(lead)) for part in (integral, energy)))


def log_ratio(
    numerator: StochasticEquation, denominator: StochasticEquation, paths: ArrayLike, times: ArrayLike
) -> Any:
    """log dP/dQ of paths (N + 1, ..., d) at times (N + 1,), shape (...): that of the two Euler-Maruyama chains.

    P is the law of the numerator, Q that of the denominator, both from the same start; see `girsanov`.

    Examples:
        >>> from refdiff.path_measures import log_ratio
        >>> from refdiff.stochastic import StochasticEquation
        >>> drifting = StochasticEquation(lambda x, t: 0 * x + 1, lambda t: 1.0, 1)  # dx = dt + dw
        >>> free = StochasticEquation(lambda x, t: 0 * x, lambda t: 1.0, 1)
        >>> path = [[0.0], [-1.0], [2.0]]
        >>> print(log_ratio(drifting, free, path, [0.0, 0.5, 1.0]))  # x_1 - x_0 - 1/2, whatever lies between
        1.5
    """
    return girsanov(numerator, denominator, paths, times).log_ratio


def reweighted(values: ArrayLike, log_ratios: ArrayLike, *, normalized: bool = False) -> Reweighted:
    """E_P f from draws of Q, by weights w = dP/dQ.

    Args:
        values: f of each draw, shape (n, ...), n > 1.
        log_ratios: log w of each draw, shape (n,); -inf is a weight of 0.
        normalized: divide by the sum of the weights and not by n: a bias of order 1 / n, but w only up to a factor.

    Raises:
        ValueError: shapes that do not fit, or a ratio that is infinite or not a number.
    """
    logs = real_array("log_ratios", log_ratios, ndim=(1,), finite=False)
    f = real_array("values", values)
    if len(logs) < 2 or f.ndim == 0 or len(f) != len(logs):
        raise ValueError(f"values must have shape (n, ...) for the n > 1 log_ratios, got {f.shape} and {logs.shape}")
    if np.isnan(logs).any() or np.isposinf(logs).any() or np.isneginf(logs).all():
        raise ValueError("log_ratios must be finite, or -inf, and not all -inf")
    peak = logs.max()
    w = np.exp(logs - peak)
    effective = float(np.exp(2 * _log_sum(logs) - _log_sum(2 * logs)))
    columns = w.reshape(-1, *[1] * (f.ndim - 1))
    with np.errstate(over="ignore"):
        total = w.mean() if normalized else np.exp(-peak)
        value = (columns * f).mean(axis=0) / total
        spread = columns * (f - value) if normalized else columns * f
        error = spread.std(axis=0, ddof=1) / np.sqrt(len(f)) / total
    return Reweighted(precise_as(values, value), precise_as(values, error), effective)


# ---------------------------------------------------------------------- steps, and what noise divides by


def steps_of(paths: ArrayLike, times: ArrayLike, dim: int) -> tuple[Array, Array, tuple[int, ...]]:
    """Times (N + 1,), `paths` as (N + 1, n, d), d = `dim`, and the leading shape that the n come from.

    Raises:
        ValueError: the `times` do not increase or decrease, or the paths have another shape.
    """
    when = real_array("times", times, ndim=(1,))
    h = np.diff(when)
    if len(h) < 1 or not ((h > 0).all() or (h < 0).all()):
        raise ValueError(f"times must increase or decrease, at least two of them, got {when}")
    states = points("paths", paths, dim)[0]
    shape = np.shape(paths)
    if len(shape) < 2 or shape[0] != len(when):
        raise ValueError(f"paths must have shape ({len(when)}, ..., {dim}) like the times, got {shape}")
    return when, states.reshape(len(when), -1, dim), shape[1:-1]


def noise_of(equation: StochasticEquation, x: Array, t: float) -> Array:
    """D of an equation at points x (n, d) of a time t: variances (1 or n, 1 or d), or matrices (1 or n, d, d)."""
    d = equation.covariance_rate(x, t)
    if equation.additive:
        d = d[None] if d.ndim else d.reshape(1, 1)
    return d


def pseudo_products(d: Array, delta: Array, size: Array) -> tuple[Array, Array, Array]:
    """D^+ delta (n, d), delta' D^+ delta (n,), and the part of delta out of the range of D, 0 if it is rounding (n, d).

    Args:
        d: D as of `noise_of`.
        delta: vectors (n, d).
        size: of what they are differences of, shape (n,).
    """
    if d.ndim == 3:
        values, axes = np.linalg.eigh(d)
        turned = np.einsum("...ji,...j->...i", axes, delta)
        kept = values > 8 * delta.shape[1] * np.finfo(float).eps * values[..., -1:]
    else:
        values, turned, axes, kept = d, delta, None, d > 0
    inside = np.divide(turned, values, out=np.zeros(delta.shape), where=np.broadcast_to(kept, delta.shape))
    square = (inside * turned).sum(axis=-1)
    rest = np.where(kept, 0.0, turned)
    rest = np.where(np.abs(rest).max(axis=-1, keepdims=True) > ROUNDING * size[:, None], rest, 0.0)
    if axes is None:
        return inside, square, rest
    pulled, off = (np.einsum("...ij,...j->...i", axes, part) for part in (inside, rest))
    return np.asarray(pulled), square, np.asarray(off)


def same_noise(one: Array, other: Array, t: float) -> None:
    """Check that two noises, `one` and the `other` as of `noise_of` a time t, are one.

    Raises:
        ValueError: they differ by more than rounding.
    """
    dense = max(one.ndim, other.ndim) == 3
    dim = max(one.shape[-1], other.shape[-1])
    # as matrices where one of them has matrices
    first, second = (d[..., None] * np.eye(dim) if dense and d.ndim < 3 else d for d in (one, other))
    if np.abs(first - second).max() > ROUNDING * np.abs(first).max():
        raise ValueError(f"denominator must have the noise of the numerator: laws of paths with other noises have no "
                         f"ratio; at t = {t} they differ by {np.abs(first - second).max()}")  # fmt: skip


def _log_sum(logs: Array) -> float:
    """log sum e^logs."""
    return float(np.logaddexp.reduce(logs))
