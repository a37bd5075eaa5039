r"""Rates of jumps between the cells of a grid that make a Fokker-Planck equation a master equation.

    d_t p = -div J,    J_i = b_i p - sum_j a_ij d_j p - theta sum_j (d_j a_ij) p,    a = D / 2
    theta = 1    Ito:   d_t p = -div(b p) + 1/2 sum_ij d_i d_j (D_ij p)
    theta = 1/2  Stratonovich, for a diagonal D        theta = 0  Fick:   d_t p = -div(b p) + div(D grad p) / 2

In units of the cells' sides a is a sum over the steps e from a cell to its neighbours, and so is the drift:

    a = sum_e w_e e e',   w_x = a_xx - |a_xy|,  w_y = a_yy - |a_xy|,  w_(1,1) = a_xy^+,  w_(1,-1) = a_xy^-
    b = sum_e w_e P_e e,  P_e = e . a^-1 b                       of all such sums the one with the least sum w_e P_e^2

Along e the flux between two cells is exact for a constant drift w P and diffusivity w (Scharfetter and Gummel) with

    J = k+ p_0 - k- p_1,    k+ = w B(-P),    k- = w B(P),    B(z) = z / (e^z - 1),    B(-z) = z + B(z)

Both rates are positive for all P, and k+ / k- = e^P, as detailed balance has it: where b = -a grad phi the grid keeps
e^(-phi). For P << 1 the fluxes are of second order in the sides; for P >> 1 they are upwind and of first, as positive
linear fluxes have to be (Godunov). A correlated D has all w_e >= 0 only if |a_xy| <= a_xx, a_yy in units of the sides,
which for one matrix D cells of the right aspect always have: |D_xy| / D_xx <= h_y / h_x <= D_yy / |D_xy|.

In place of w B(|P|) `central` has w - w |P| / 2, negative for |P| > 2, `hybrid` the positive part of that (Spalding),
which spreads less but keeps no e^(-phi), and `upwind` w, of first order. `limited` is hybrid, and where |P| > 2 it is
corrected by the slopes of p (`sweeps`): positive, of second order without any noise too, but not linear.
Sources: PODD-76, DMI-59.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import exprel

from refdiff.arguments import Array
from refdiff.fokker_planck.grid import Grid

THETA = {"ito": 1.0, "stratonovich": 0.5, "fick": 0.0}
BOUNDARIES = ("no-flux", "periodic", "absorbing")
# what may miss to zero by rounding alone, relative to the whole
ROUNDING = 64 * float(np.finfo(float).eps)

Step = tuple[int, ...]  # to a neighbour, in cells: (1,); (1, 0), (0, 1), (1, 1), (1, -1)


def _bernoulli(weight: Array, speed: Array) -> Array:
    """w B(|P|), 0 without noise."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(weight > 0, weight / exprel(speed / weight), 0.0)


# what both rates have beside the part of the drift that goes their way, from w and w |P|
FITS: dict[str, Callable[[Array, Array], Array]] = {
    "fitted": _bernoulli,
    "hybrid": lambda weight, speed: np.maximum(weight - speed / 2, 0.0),
    "limited": lambda weight, speed: np.maximum(weight - speed / 2, 0.0),
    "upwind": lambda weight, speed: weight + 0 * speed,
    "central": lambda weight, speed: weight - speed / 2,
}


class Rates(NamedTuple):
    """Rates of jumps along one step e, in shapes that broadcast to the cells; what leaves the grid is lost.

    `up` is that from every cell to the one at +e, and `down` to the one at -e; where fluxes are limited, `ahead` and
    `behind` are what these spread too much, |b| / 2 - w where that is positive.
    """

    step: Step
    up: Array
    down: Array
    ahead: Array | None = None
    behind: Array | None = None


def steps(dim: int, correlated: bool) -> tuple[Step, ...]:
    """The steps e in `dim` dimensions: along the axes, and along the diagonals where the noise is correlated."""
    if dim == 1:
        return ((1,),)
    return ((1, 0), (0, 1), (1, 1), (1, -1)) if correlated else ((1, 0), (0, 1))


class Links(NamedTuple):
    """The links along one step e: from one cell to the next, and over the walls.

    `start`, `end` and `middle` are points (m, d); `length`, in steps, and `alive`, whether anything passes, shapes
    that broadcast to `shape`, with m in all; `up` and `down` say which links leave a cell.
    """

    start: Array
    end: Array
    middle: Array
    shape: tuple[int, ...]
    length: Array
    alive: Array
    up: tuple[slice, ...]
    down: tuple[slice, ...]


def links(grid: Grid, step: Step, boundaries: Sequence[str], separable: bool) -> Links:
    """The links along a `step` of a `grid` with these `boundaries`, on one line alone where all are alike.

    Args:
        separable: whether one line along the axis, through the middle of the grid, stands for all.
    """
    ends, lengths, alive, up, down = [], [], [], [], []
    for axis, move in enumerate(step):
        centres, faces = grid.centres(axis), grid.faces(axis)
        if move == 0:
            if separable:
                centres = centres[len(centres) // 2 :][:1]
            ends.append((centres, centres, centres))
            lengths.append(np.ones(len(centres)))
            alive.append(np.ones(len(centres), dtype=bool))
            up.append(slice(None))
            down.append(slice(None))
            continue
        kind = boundaries[axis]
        # beyond a wall: the cell at the other end, or the wall itself, half a step away
        beyond = {"periodic": (centres[-1], centres[0])}.get(kind, (faces[0], faces[-1]))
        padded = np.concatenate([beyond[:1], centres, beyond[1:]])
        ends.append((padded[:-1], padded[1:], faces) if move > 0 else (padded[1:], padded[:-1], faces))
        inner = np.ones(len(faces) - 2)
        lengths.append(np.concatenate([[0.5], inner, [0.5]]) if kind == "absorbing" else np.ones(len(faces)))
        passed = np.ones(len(faces), dtype=bool)
        passed[[0, -1]] = kind != "no-flux"
        alive.append(passed)
        up.append(slice(1, None) if move > 0 else slice(None, -1))
        down.append(slice(None, -1) if move > 0 else slice(1, None))
    start, end, middle = (np.stack(np.meshgrid(*each, indexing="ij"), axis=-1) for each in zip(*ends, strict=True))
    dim, shape = len(step), middle.shape[:-1]
    length = reduce(np.minimum, across(lengths))
    through = reduce(np.logical_and, across(alive))
    begins, stops, middles = (part.reshape(-1, dim) for part in (start, end, middle))
    return Links(begins, stops, middles, shape, length, through, tuple(up), tuple(down))


def across(lines: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The `lines` (n_k,), one for each axis, in shapes that broadcast against each other."""
    return [line.reshape([-1 if k == axis else 1 for k in range(len(lines))]) for axis, line in enumerate(lines)]


def weights(a: Array, step: Step) -> Array:
    """w_e >= 0, shape (m,), along a `step` of `a` in units of the sides: variances (m, d) or matrices (m, 2, 2)."""
    axis = step.index(1)
    if a.ndim == 2:
        return np.asarray(a[:, axis] if sum(map(abs, step)) == 1 else np.zeros(len(a)))
    if step in ((1, 0), (0, 1)):
        return np.asarray(np.maximum(a[:, axis, axis] - np.abs(a[:, 0, 1]), 0.0))
    return np.asarray(np.maximum(step[0] * step[1] * a[:, 0, 1], 0.0))


def drift_along(b: Array, a: Array, weight: Array, step: Step) -> Array:
    """The part (m,) of the drift b (m, d) that goes along a `step`, in units of the sides.

    Where `a` is a matrix it is `weight` times P_e; a drift into which there is no noise goes along the axes.
    """
    axis = step.index(1)
    if a.ndim == 2:
        return np.asarray(b[:, axis])
    pull = _solved(a, b)
    found = weight * (pull @ np.array(step, dtype=float))
    if step in ((1, 0), (0, 1)):
        found = found + (b - np.einsum("mij,mj->mi", a, pull))[:, axis]
    return np.asarray(found)


def _solved(a: Array, b: Array) -> Array:
    """a^-1 b of semi-definite matrices a (m, 2, 2) and b (m, 2), the shortest one where a is singular."""
    trace = a[:, 0, 0] + a[:, 1, 1]
    determinant = a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] ** 2
    singular = determinant <= ROUNDING * trace**2
    adjugate = np.stack(
        [a[:, 1, 1] * b[:, 0] - a[:, 0, 1] * b[:, 1], a[:, 0, 0] * b[:, 1] - a[:, 0, 1] * b[:, 0]], axis=-1
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        regular = adjugate / determinant[:, None]
        # u u' has the pseudo-inverse u u' / |u|^4
        flat = np.where(trace[:, None] > 0, np.einsum("mij,mj->mi", a, b) / trace[:, None] ** 2, 0.0)
    return np.where(singular[:, None], flat, regular)


def fitted(drift: Array, ends: tuple[Array, Array], length: Array, theta: float, fit: str) -> tuple[Array, ...]:
    """k+ and k- of links (...), in units of the sides, and where fluxes are limited what they spread too much.

    Args:
        drift: along the step, shape (...).
        ends: w_e where links start and where they end, shapes that broadcast to (...).
        length: of the links in steps, (...).
        theta: what part of the slope of w_e belongs to the drift.
        fit: one of FITS.
    """
    start, end = ends
    weight = _logarithmic_mean(start, end) / length
    carried = drift - theta * (end - start) / length
    spread = FITS[fit](weight, np.abs(carried))
    rates = np.maximum(carried, 0.0) + spread, np.maximum(-carried, 0.0) + spread
    if fit != "limited":
        return rates
    excess = np.maximum(np.abs(carried) / 2 - weight, 0.0)
    return *rates, np.where(carried > 0, excess, 0.0), np.where(carried < 0, excess, 0.0)


def _logarithmic_mean(u: Array, v: Array) -> Array:
    """(v - u) / log(v / u), with which w^(-theta) is what theta leaves at rest; the mean where one is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(v / u)
        found = u * exprel(ratio)
    return np.where(np.isfinite(found) & (u > 0), found, (u + v) / 2)
