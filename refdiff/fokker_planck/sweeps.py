r"""Steps in time of lines of cells, one tridiagonal matrix each, in NumPy: the reference for the kernels.

    (I - dt A) y = x        A y|_i = u_(i-1) y_(i-1) + d_(i+1) y_(i+1) - (u_i + d_i) y_i

u and d are rates of jumps up and down the line; no column of A sums to more than zero. Elimination is written in the
rates and in what is left of the column sums, e, so that nothing is ever subtracted (Grassmann, Taksar and Heyman):

    e_0 = 1 + dt d_0,  e_i = 1 + dt d_i e_(i-1) / q_(i-1),   q_i = e_i + dt u_i        pivots
    z_i = x_i + dt u_(i-1) z_(i-1) / q_(i-1),                y_i = (z_i + dt d_(i+1) y_(i+1)) / q_i

Every y_i is then positive, to a relative error of n roundings however small it is, for steps of every length. (d_0 and
the last u are what walls absorb.) On a ring the last cell is kept to the end, as neighbour of all others in turn.

    euler            y = S x,  S = (I - dt A)^-1                                order 1, positive for every step
    patankar         y_1 = S x,  then (I - dt A W) y = x, W = (x + y_1) / (2 y_1)    order 2, positive for every step
    crank-nicolson   y = x + 2 (S x - x),  S of dt / 2                          order 2, where dt (u_i + d_i) <= 2
    tr-bdf2          y = S [x + 2 (S x - x) / (g (2 - g))],  S of g dt / 2,  g = 2 - sqrt(2)
                                                                order 2, L-stable, where dt (u_i + d_i) <= 1 + sqrt(2)

The last two add what has no mass to x: weights of x and S x that sum to 1 only up to rounding would change the mass by
as much in every step.

No linear method y = R(dt A) x, R rational, is positive for every step and of second order (Bolley and Crouzeix 1978).
That of Burchard, Deleersnijder and Meister (2003), after Patankar, is not linear in x: it weighs the jumps out of a
cell with the mean of what the cell held before and will hold, over what the first stage says. Where fluxes are limited
the rates u and d depend on p themselves, by its slopes: on those of x at first, of y_1 for the other half of the second
stage. Sources: PODD-76.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refdiff.arguments import Array


class Line(NamedTuple):
    """Rates `up` and `down` lines of n cells, shapes (n, m) or (n, 1), and whether they `wrap` to rings.

    Where fluxes are limited `ahead` and `behind` are what upwind rates up and down spread too much, of the same shapes.
    """

    up: Array
    down: Array
    wrap: bool
    ahead: Array | None = None
    behind: Array | None = None


def solve(x: Array, dt: float, line: Line) -> Array:
    """y of (I - dt A) y = x for lines x (n, m), shape (n, m); dt is a scalar, `line` has the rates."""
    up, down = dt * line.up, dt * line.down
    if line.wrap:
        return _solve_ring(x, up, down)
    n = len(x)
    moved = np.empty(np.broadcast_shapes(up.shape, down.shape))
    pivots = np.empty_like(moved)
    z = np.empty(np.broadcast_shapes(x.shape, moved.shape))
    left = 1 + down[0]
    z[0] = x[0]
    for i in range(n):
        if i:
            left = 1 + down[i] * (left / pivots[i - 1])
            z[i] = x[i] + moved[i - 1] * z[i - 1]
        pivots[i] = left + up[i]
        moved[i] = up[i] / pivots[i]
    z[-1] /= pivots[-1]
    for i in range(n - 2, -1, -1):
        z[i] = (z[i] + down[i + 1] * z[i + 1]) / pivots[i]
    return z


def _solve_ring(x: Array, up: Array, down: Array) -> Array:
    """The same on rings: `out` is what cell i sends to the last one, `back` what that sends to cell i."""
    n = len(x)
    pivots = np.empty(np.broadcast_shapes(up.shape, down.shape))
    back = np.empty_like(pivots)
    y = np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, pivots.shape)))
    left, last = np.ones(pivots.shape[1:]), np.ones(pivots.shape[1:])
    out = np.broadcast_to(down[0], left.shape)
    back[0] = up[-1]
    for i in range(n - 1):
        if i:
            share = down[i] / pivots[i - 1]
            left, out = 1 + share * left, share * out
            back[i] = back[i - 1] * (up[i - 1] / pivots[i - 1])
            y[i] += up[i - 1] / pivots[i - 1] * y[i - 1]
        if i == n - 2:  # the neighbours' own jumps lead where the long ones do
            out, back[i] = out + up[i], back[i] + down[-1]
            pivots[i] = left + out
        else:
            pivots[i] = left + up[i] + out
        last = last + back[i] * (left / pivots[i])
        y[-1] += out / pivots[i] * y[i]
    y[-1] /= last
    y[-2] = (y[-2] + back[-2] * y[-1]) / pivots[-2]
    for i in range(n - 3, -1, -1):
        y[i] = (y[i] + down[i + 1] * y[i + 1] + back[i] * y[-1]) / pivots[i]
    return y


def euler(x: Array, dt: float, line: Line) -> Array:
    """Lines x (n, m) after a step `dt` of the implicit Euler method, shape (n, m); `line` has the rates."""
    return solve(x, dt, line)


def patankar(x: Array, dt: float, line: Line) -> Array:
    """Lines x (n, m) >= 0 after a step `dt` of the modified Patankar method, (n, m); `line` has the rates."""
    up, down = _limited(x, line)
    first = solve(x, dt, Line(up, down, line.wrap))
    # where the first stage underflows there is nothing to weigh
    weight = np.divide(x, first, out=np.ones_like(first), where=first > 0)
    later_up, later_down = _limited(first, line)
    return solve(x, dt, Line(0.5 * (up * weight + later_up), 0.5 * (down * weight + later_down), line.wrap))


def _limited(x: Array, line: Line) -> tuple[Array, Array]:
    """Rates up and down lines x (n, m) >= 0: upwind ones, and what the slopes of x take back of them (Fromm).

    The slope of a cell is the mean of the differences on its two sides, and no more than twice what the cell holds, so
    that no rate turns negative. Limits that keep from every overshoot flatten maxima, where they are of first order.
    """
    if line.ahead is None or line.behind is None:
        return line.up, line.down
    around = np.concatenate([x[-1:], x, x[:1]] if line.wrap else [x[:1], x, x[-1:]])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        slope = np.nan_to_num(np.clip(0.5 * (around[2:] - around[:-2]) / x, -2.0, 2.0), nan=0.0)
    return line.up + line.ahead * slope, line.down - line.behind * slope


def crank_nicolson(x: Array, dt: float, line: Line) -> Array:
    """Lines x (n, m) after a step `dt` of the trapezoidal rule, shape (n, m); `line` has the rates."""
    return extended(x, solve(x, dt / 2, line), 2.0)


def extended(x: Array, y: Array, factor: float) -> Array:
    """x (n, m) and a scalar `factor` of the way from it to y (n, m), shape (n, m)."""
    return x + factor * (y - x)


GAMMA = 2 - np.sqrt(2.0)  # with which both stages of TR-BDF2 have one matrix
STRETCH = 2 / (GAMMA * (2 - GAMMA))


def tr_bdf2(x: Array, dt: float, line: Line) -> Array:
    """Lines x (n, m) after a step `dt` of TR-BDF2, shape (n, m); `line` has the rates."""
    part = GAMMA * dt / 2
    return solve(extended(x, solve(x, part, line), STRETCH), part, line)


class Method(NamedTuple):
    """A `step` of lines (n, m), its `order`, and below which scalar dt times rate it is surely `positive`."""

    step: Callable[[Array, float, Line], Array]
    order: int
    positive: float


METHODS = {
    "euler": Method(euler, 1, np.inf),
    "patankar": Method(patankar, 2, np.inf),
    "crank-nicolson": Method(crank_nicolson, 2, 2.0),
    "tr-bdf2": Method(tr_bdf2, 2, 1 + np.sqrt(2.0)),
}
