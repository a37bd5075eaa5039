r"""A stochastic differential equation, as functions of points and time.

    dx = b(x, t) dt + G(x, t) dw,      w a Brownian motion in R^m,      Ito's sense

Time may run either way. Where it runs to data dt is negative, b dt has the sign of dt, and dw ~ N(0, |dt| I): the
equation that reverses dx = f dt + g dw has the drift b = f - g^2 grad log p_t then. Sources: PODD-62..65, PODB-67.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, answered, whole_number
from refdiff.operators import Operator


@dataclass(frozen=True, eq=False)
class StochasticEquation:
    """dx = b(x, t) dt + G dw on R^d.

    Args:
        drift: (x, t) -> b at points x (n, d), shape (n, d).
        noise: t -> G, a scalar, a diagonal (d,) or a matrix (d, m), where the noise is additive; else (x, t) -> G at
            points x (n, d), a diagonal (n, d) or matrices (n, d, m).
        dim: d.
        additive: whether G depends on time only.
        motions: m, how many Brownian motions there are; d unless given.
        linear: t -> F, an operator on R^d, with b = F x + a rest: what exponential methods take exactly.
        slope: (x, t) -> how G changes with x (n, d): dG_i / dx_i (n, d) of a diagonal, dG_ij / dx_l as (n, d, m, d) of
            matrices. `noise_slope` takes differences where it is left out.
        euler: (x, times, seed, particle, trajectory) -> what `solve` answers with Euler-Maruyama, faster.

    Raises:
        TypeError: drift, noise, linear, slope or euler is no function.
        ValueError: dim or motions is less than 1.
    """

    drift: Callable[[Array, float], ArrayLike]
    noise: Callable[[float], ArrayLike] | Callable[[Array, float], ArrayLike]
    dim: int
    additive: bool = True
    motions: int = 0
    linear: Callable[[float], ArrayLike] | None = None
    slope: Callable[[Array, float], ArrayLike] | None = None
    euler: Callable[[Array, Array, int, int, bool], Array] | None = None

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)
        object.__setattr__(self, "motions", whole_number("motions", self.motions or self.dim, low=1))
        for name in ("drift", "noise", "linear", "slope", "euler"):
            given, optional = getattr(self, name), name in ("linear", "slope", "euler")
            if not (callable(given) or (optional and given is None)):
                raise TypeError(f"{name} must be a function, got {given!r}")

    def drift_at(self, x: ArrayLike, t: float) -> Array:
        """b at points x (n, d), shape (n, d).

        Raises:
            ValueError: x is not of this shape, or the answer has another one or is not finite.
        """
        x = self._points(x)
        return answered(f"drift at t = {t}", self.drift(x, t), x.shape, finite=True)

    def noise_at(self, x: ArrayLike, t: float) -> Array:
        """G at points x (n, d): an operator where the noise is additive, else (n, d) or (n, d, m).

        Raises:
            ValueError: x is not of this shape where it matters, or the answer does not fit d and m or is not finite.
        """
        if self.additive:
            return self._operator(self.noise(t), t)  # type: ignore[call-arg, arg-type]
        x = self._points(x)
        found = np.asarray(self.noise(x, t))  # type: ignore[call-arg, arg-type]
        diagonal = found.ndim == 2 and self.motions == self.dim
        return answered(f"noise at t = {t}", found, x.shape if diagonal else (*x.shape, self.motions), finite=True)

    def scattered(self, x: Array, t: float, dw: Array) -> Array:
        """G dw at points x (n, d) for increments dw (n, m), shape (n, d)."""
        g = self.noise_at(x, t)
        if self.additive:
            return operators.apply(g, dw)
        return g * dw if g.ndim == 2 else np.einsum("nij,nj->ni", g, dw)

    def linear_at(self, t: float) -> Operator:
        """F, an operator on R^d; 0 where the equation does not say.

        Raises:
            ValueError: the answer is no operator on R^d, or is not finite.
        """
        if self.linear is None:
            return np.zeros(())
        f = operators.operator("linear", self.linear(t))
        if f.shape not in ((), (self.dim,), (self.dim, self.dim)):
            raise ValueError(f"linear must answer with an operator on R^{self.dim}, got shape {f.shape}")
        return f

    def noise_slope(self, x: Array, t: float) -> Array:
        """How G changes at points x (n, d): dG_i / dx_i (n, d) where G is a diagonal, else dG_ij / dx_l (n, d, m, d).

        Central differences, good to ten digits, where the equation does not know. What does not depend on x has none.

        Raises:
            ValueError: the noise is additive, or an answer does not fit.
        """
        if self.additive:
            raise ValueError("noise must depend on x to have a slope there, got additive noise")
        if self.slope is not None:
            shape = self.noise_at(x, t).shape
            return answered("slope", self.slope(x, t), shape if len(shape) == 2 else (*shape, self.dim), finite=True)
        step = np.cbrt(np.finfo(float).eps) * (1 + np.abs(x))
        if self.noise_at(x[:1], t).ndim == 2:  # of each axis alone: all move at once
            return np.asarray((self.noise_at(x + step, t) - self.noise_at(x - step, t)) / (2 * step))
        columns = []
        for axis in range(self.dim):
            moved = np.where(np.arange(self.dim) == axis, step, 0.0)
            change = self.noise_at(x + moved, t) - self.noise_at(x - moved, t)
            columns.append(change / (2 * step[:, axis, None, None]))
        return np.stack(columns, axis=-1)

    def covariance_rate(self, x: Array, t: float) -> Array:
        """D = G G' at points x (n, d): an operator where the noise is additive, else (n, d) or (n, d, d)."""
        g = self.noise_at(x, t)
        if self.additive:
            return g @ g.T if g.ndim == 2 else g * g
        return g * g if g.ndim == 2 else np.einsum("nik,njk->nij", g, g)

    def _points(self, x: ArrayLike) -> Array:
        points = np.asarray(x)
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise ValueError(f"x must have shape (n, {self.dim}), got {points.shape}")
        return points

    def _operator(self, value: ArrayLike, t: float) -> Operator:
        g = operators.operator(f"noise at t = {t}", value)
        shapes = [(self.dim, self.motions), *([(), (self.dim,)] if self.motions == self.dim else [])]
        if g.shape not in shapes:
            raise ValueError(f"noise at t = {t} must answer with one of the shapes {shapes}, got {g.shape}")
        return g
