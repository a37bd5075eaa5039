r"""Flow maps on the line, by quantiles.

    d/dt F_t(x_t) = (d_t F_t)(x_t) + p_t(x_t) v(x_t, t) = 0,     as d_t p_t = -(p_t v)' integrates to d_t F_t = -p_t v,

so every flow that carries p_s to p_t keeps the mass to its left, and with it the order of points:

    x_t = F_t^-1(F_s(x_s)),          dx_t / dx_s = p_s(x_s) / p_t(x_t).

No differential equation, no step and no schedule enters: this is the exact side of every test of a solver on the line.
As p_s and p_t are the same components with the same weights, the equation F_t(y) = F_s(x) is solved component against
component (`distributions.quantiles`), and it keeps its digits in both tails and in the gaps between the components.
Towards a point set at sigma = 0 the map is the limit, which is many-to-one: each point falls on an atom, and there is
none back. Sources: TOPB-55, PODD-53, PODD-118.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, points, real_scalar
from refdiff.distributions.quantiles import equal_mass, standardized
from refdiff.dynamics.stepping import times_with_density
from refdiff.model import ExactModel


def quantile_flow(model: ExactModel, x: ArrayLike, start: float, end: float) -> Array:
    """The flow map F_end^-1(F_start(x)) of an exact model on the line, from time `start` to time `end`.

    Args:
        model: an ExactModel of one dimension, under any process.
        x: points at the time `start`, shape (..., 1).
        start, end: in [0, T], in either order. There must be a density at the start.

    Returns:
        The points at the time `end`, shape (..., 1).

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: it is not on the line, a time is outside [0, T], there is no density at the start, or a point is so
            far out that the logarithm of its tail is no float64 number.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.dynamics import quantile_flow
        >>> model = ExactModel(Gaussian([3.0], 4.0), VEPower())
        >>> print(quantile_flow(model, [[5.0]], 0.0, 1.5).round(6))  # one standard deviation above the mean: 3 + 2.5
        [[5.5]]
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    if model.dim != 1:
        raise ValueError(f"model must be on the line, got {model.dim} dimensions")
    rows, restore = points("x", x, 1)
    start, end = (real_scalar(name, t, low=0, high=model.process.T) for name, t in (("start", start), ("end", end)))
    if start == end:
        return restore(rows)
    before, after = model.marginal(start), model.marginal(end)
    times_with_density(model, start=start)
    if not rows.size:
        return restore(np.empty((0, 1)))
    return restore(equal_mass(after, standardized(before, rows))[:, None])
