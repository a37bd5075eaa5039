r"""Ito's formula along paths: what a function of a solution does, and what is left of it at finite steps.

    dh(x, t) = [d_t h + b . grad h + 1/2 tr(D Hess h)] dt + grad h . G dw          D = G G'
             = d_t h dt + grad h . dx + 1/2 tr(D Hess h) |dt|                      time running either way
    d(x . y) = x . dy + y . dx + dx . dy,          sum_i dx_i . dy_i -> int tr(G_x G_y') dt

Along the states of a path the residual is h(x_N) - h(x_0) less the sum of the second line over the steps, fields taken
at their start. It is a sum of terms of mean O(h^2) and size O(h), so that it falls like h^(1/2) on each path and like h
on average; for h = |x|^2 it is sum (|dx|^2 - tr(D) dt) exactly. Without the second-order term it tends to that term's
integral and not to 0: the ordinary chain rule. Sources: PODD-80, PODD-81, PODD-82, PODD-83; Ito 1951.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, points, precise_as
from refdiff.model import ExactModel
from refdiff.path_measures.girsanov import noise_of, steps_of
from refdiff.stochastic.equation import StochasticEquation

Field = Callable[[Array, float], ArrayLike]


@dataclass(frozen=True, eq=False)
class Smooth:
    """A function h(x, t) with its derivatives, at points x (n, d).

    Args:
        value: (x, t) -> h, shape (n,).
        gradient: (x, t) -> grad h, shape (n, d).
        hessian: (x, t) -> Hess h, shape (n, d, d).
        rate: (x, t) -> d_t h, shape (n,); 0 unless given.

    Raises:
        TypeError: one is no function.
    """

    value: Field
    gradient: Field
    hessian: Field
    rate: Field | None = None

    def __post_init__(self) -> None:
        for name in ("value", "gradient", "hessian", "rate"):
            given = getattr(self, name)
            if not callable(given) and not (name == "rate" and given is None):
                raise TypeError(f"{name} must be a function, got {given!r}")

    @staticmethod
    def log_density(model: ExactModel) -> Smooth:
        """log p_t of a model.

        Raises:
            TypeError: the model is no ExactModel.
        """
        if not isinstance(model, ExactModel):
            raise TypeError(f"model must be an ExactModel, got {model!r}")
        return Smooth(model.log_density, model.score, model.hessian, model.log_density_rate)

    def value_at(self, x: Array, t: float) -> Array:
        """h at points x (n, d), shape (n,)."""
        return answered("value", self.value(x, t), x.shape[:1])

    def gradient_at(self, x: Array, t: float) -> Array:
        """grad h at points x (n, d), shape (n, d)."""
        return answered("gradient", self.gradient(x, t), x.shape)

    def rate_at(self, x: Array, t: float) -> Array:
        """d_t h at points x (n, d), shape (n,)."""
        return np.zeros(len(x)) if self.rate is None else answered("rate", self.rate(x, t), x.shape[:1])

    def spreading(self, equation: StochasticEquation, x: Array, t: float) -> Array:
        """1/2 tr(D Hess h) of an equation at points x (n, d), shape (n,)."""
        hessian = answered("hessian", self.hessian(x, t), (*x.shape, x.shape[1]))
        d = noise_of(equation, x, t)
        if d.ndim == 3:
            return np.asarray(0.5 * (d * hessian).sum(axis=(1, 2)))
        return np.asarray(0.5 * (d * np.einsum("nii->ni", hessian)).sum(axis=1))


def generator(equation: StochasticEquation, function: Smooth, x: ArrayLike, t: float) -> Any:
    """d_t h + b . grad h + 1/2 tr(D Hess h), the mean rate of h along dx = b dt + G dw with dt > 0, shape (...).

    Args:
        equation: dx = b dt + G dw.
        function: h.
        x: points of shape (..., d).
        t: one time.

    Examples:
        >>> import numpy as np
        >>> from refdiff.path_measures import Smooth, generator
        >>> from refdiff.stochastic import StochasticEquation
        >>> square = Smooth(lambda x, t: x[:, 0] ** 2, lambda x, t: 2 * x, lambda x, t: np.full((len(x), 1, 1), 2.0))
        >>> free = StochasticEquation(lambda x, t: 0 * x, lambda t: 1.0, 1)
        >>> print(generator(free, square, [[3.0]], 0.0))  # E w^2 grows by 1 per unit of time
        [1.]
    """
    rows, restore = points("x", x, equation.dim)
    carried = (equation.drift_at(rows, t) * function.gradient_at(rows, t)).sum(axis=1)
    return restore(function.rate_at(rows, t) + carried + function.spreading(equation, rows, t))


def ito_residual(
    equation: StochasticEquation,
    function: Smooth,
    paths: ArrayLike,
    times: ArrayLike,
    *,
    second_order: bool = True,
) -> Any:
    """h(x_N) - h(x_0) - sum [d_t h dt + grad h . dx + 1/2 tr(D Hess h) |dt|] along paths, shape (...).

    Args:
        equation: whose D the paths have; its drift does not enter.
        function: h.
        paths: x at the times, shape (N + 1, ..., d).
        times: increasing or decreasing, shape (N + 1,).
        second_order: whether Ito's term is in the sum; without it the sum is the ordinary chain rule.

    Raises:
        TypeError: no equation, or no Smooth function.
    """
    if not isinstance(equation, StochasticEquation):
        raise TypeError(f"equation must be a StochasticEquation, got {equation!r}")
    if not isinstance(function, Smooth):
        raise TypeError(f"function must be a Smooth, got {function!r}")
    when, states, lead = steps_of(paths, times, equation.dim)
    total = function.value_at(states[-1], float(when[-1])) - function.value_at(states[0], float(when[0]))
    for i, h in enumerate(np.diff(when)):
        x, t = states[i], float(when[i])
        total = total - h * function.rate_at(x, t) - (function.gradient_at(x, t) * (states[i + 1] - x)).sum(axis=1)
        if second_order:
            total = total - np.abs(h) * function.spreading(equation, x, t)
    return precise_as(paths, total.reshape(lead))


def covariation(paths: ArrayLike, others: ArrayLike) -> Any:
    """sum_i dx_i . dy_i of paths and others, both (N + 1, ..., d), shape (...): x . y less both sums of x . dy, y . dx.

    Raises:
        ValueError: shapes that differ, or have no steps.

    Examples:
        >>> from refdiff.path_measures import covariation
        >>> path = [[0.0], [1.0], [-1.0]]
        >>> print(covariation(path, path))  # 1^2 + 2^2
        5.0
    """
    x, y = np.asarray(paths), np.asarray(others)
    if x.shape != y.shape or x.ndim < 2 or len(x) < 2:
        raise ValueError(f"others must have the shape of paths, (N + 1, ..., d), got {y.shape} and {x.shape}")
    found = (np.diff(x.astype(float), axis=0) * np.diff(y.astype(float), axis=0)).sum(axis=(0, -1))
    return precise_as(paths, np.asarray(found))
