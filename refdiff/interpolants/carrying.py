r"""Carrying points along a field in fixed steps, by any explicit Runge-Kutta method.

    k_i = v(x + h sum_j a_ij k_j, t + c_i h),     x + h sum_i b_i k_i      from each time to the next, either way

`field_flow` keeps a tolerance; these steps are what a sampler of flow matching takes, with the error C h^p of their
order. Sources: TOPB-70, PODB-36, PODB-47.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, one_of, points, real_array
from refdiff.dynamics import VelocityField
from refdiff.interpolants.model import InterpolantModel
from refdiff.samplers.runge_kutta import METHODS, Method


def carry(
    model: InterpolantModel | VelocityField | Callable[[Array, float], ArrayLike],
    x: ArrayLike,
    times: ArrayLike,
    *,
    method: Method | str = "rk4",
) -> Any:
    """Points of the first of the times, carried through all of them to the last, shape (..., d).

    Args:
        model: an InterpolantModel, whose velocity is taken, a VelocityField, or a velocity: a function (x, t) of points
            (n, d), as a network is.
        x: points, shape (..., d).
        times: t_0, t_1, ..., in either order, shape (n + 1,); `np.linspace(0, 1, n + 1)` for n equal steps.
        method: a Method, or the name of one: euler, midpoint, heun, ralston, rk4, ...

    Raises:
        TypeError: the model is none of them.
        ValueError: no times, times that turn back, an unknown method, or a velocity that is not defined at a stage.
    """
    if not (isinstance(model, (InterpolantModel, VelocityField)) or callable(model)):
        raise TypeError(f"model must be an InterpolantModel, a VelocityField or a function (x, t), got {model!r}")
    rule = method if isinstance(method, Method) else METHODS[one_of("method", method, METHODS)]
    field = model.field() if isinstance(model, InterpolantModel) else model
    if not isinstance(field, VelocityField):
        field = VelocityField(field, np.shape(x)[-1] if np.ndim(x) else 1)
    (state, restore), when = points("x", x, field.dim), real_array("times", times, ndim=(1,))
    steps = np.diff(when)
    if not when.size or ((steps < 0).any() and (steps > 0).any()):
        raise ValueError(f"times must be at least one, increasing or decreasing, got {when.tolist()}")
    for t, end, h in zip(when[:-1].tolist(), when[1:].tolist(), steps.tolist(), strict=True):
        slopes = np.zeros((rule.stages, *state.shape))
        for i, (row, part) in enumerate(zip(rule.A, rule.c.tolist(), strict=True)):
            inside = end if part == 1 else t + part * h  # the end itself, not what rounding makes of it
            slopes[i] = field.at(state + h * np.tensordot(row, slopes, axes=1), inside)
        state = state + h * np.tensordot(rule.b, slopes, axes=1)
    return restore(state)
