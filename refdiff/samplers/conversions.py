r"""The same sampler written otherwise: another prediction, another coordinate, two in a row, the tail of one.

With o_j = a_j x_j + b_j p_j (another prediction p at the same point) a weight w on o_j is a weight w a_j on the
stage and w b_j on p_j; with x_k = c_k u_k (another coordinate u) a weight w from x_j to x_k is w c_j / c_k from u_j
to u_k. The sampler, as a map, stays what it is. Sources: PODC9-08, PODC9-55, PODC10-17.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from refdiff import operators
from refdiff.arguments import Array, one_of, whole_number
from refdiff.predictions import PREDICTIONS, weights
from refdiff.processes import Motion
from refdiff.samplers.tableau import COORDINATES, Tableau, parts, sliced, spread, stacked
from refdiff.schedules import Coefficients


def to_prediction(tableau: Tableau, prediction: str) -> Tableau:
    """The same sampler for a model that answers another prediction.

    Raises:
        ValueError: a stage is evaluated where the two predictions do not determine each other (alpha or sigma = 0).
    """
    one_of("prediction", prediction, PREDICTIONS)
    if prediction == tableau.prediction:
        return tableau
    scale, each = tableau.scale, {int(j): tableau.at(int(j)) for j in np.flatnonzero(tableau.evaluated)}
    found = {j: weights(c, prediction, tableau.prediction) for j, c in each.items()}
    reach = max(tableau.window[:2])
    states, outputs = _widened(tableau.states, reach), _widened(tableau.outputs, reach)
    axes = np.broadcast_shapes(tableau.axes, *(part.shape for pair in found.values() for part in pair))
    states, outputs = (spread(part, axes) for part in (states, outputs))
    times = np.matmul if len(axes) == 2 else np.multiply
    for j, pair in found.items():
        of_x, of_new = (operators.dense(part, axes[0]) if len(axes) == 2 else part for part in pair)
        for k in range(j + 1, min(j + 1 + reach, tableau.stages)):
            w = outputs[k, k - 1 - j].copy()
            states[k, k - 1 - j] += times(w, of_x) * scale[j]
            outputs[k, k - 1 - j] = times(w, of_new)
    return replace(tableau, prediction=prediction, states=states, outputs=outputs)


def to_coordinate(tableau: Tableau, coordinate: str) -> Tableau:
    """The same sampler with stages that hold x, x/alpha or x/sigma.

    Raises:
        ValueError: a stage lies where the new coordinate is infinite (alpha = 0, or sigma = 0).

    Examples:
        >>> from refdiff import VPLinear
        >>> from refdiff.samplers import families, to_coordinate
        >>> process = VPLinear()
        >>> table = families()["ddim"](process, [1.0, 0.5, 0.1])
        >>> moved = to_coordinate(table, "x/alpha")  # the same sampler, told otherwise
        >>> to_coordinate(moved, "x").close(table)
        True
    """
    one_of("coordinate", coordinate, COORDINATES)
    if coordinate == tableau.coordinate:
        return tableau
    new = replace(tableau, coordinate=coordinate).scale
    if (new == 0).any():
        at = tableau.times[(new == 0).reshape(tableau.stages, -1).any(axis=1)][0]
        raise ValueError(f"coordinate must be finite at every stage, got {coordinate} at t = {at}")
    ratio = tableau.scale / new  # what a stage's old value is multiplied by
    axes = np.broadcast_shapes(tableau.axes, ratio.shape[1:])
    states, outputs = spread(tableau.states, axes).copy(), spread(tableau.outputs, axes) * _rows(ratio, axes)
    for k in range(tableau.stages):
        for i in range(min(k, states.shape[1])):
            states[k, i] *= ratio[k] / ratio[k - 1 - i]
    if tableau.noise.ndim == 4:
        noise = tableau.noise * ratio.reshape(len(ratio), 1, -1, 1)
    else:
        noise = spread(tableau.noise, axes) * _rows(ratio, axes)
    return replace(tableau, coordinate=coordinate, states=states, outputs=outputs, noise=noise)


def compose(first: Tableau, second: Tableau) -> Tableau:
    """First one sampler, then the other, as one table: the second starts at the first one's output.

    Raises:
        ValueError: the second does not start at the time where the first ends, or acts on other axes.

    Examples:
        >>> from refdiff import FlowMatching
        >>> from refdiff.samplers import compose
        >>> from refdiff.samplers.ddim import ddim
        >>> both = compose(ddim(FlowMatching(), [1.0, 0.5]), ddim(FlowMatching(), [0.5, 0.25]))
        >>> both.close(ddim(FlowMatching(), [1.0, 0.5, 0.25]))
        True
    """
    if first.times[-1] != second.times[0]:
        raise ValueError(f"second must start at t = {first.times[-1]}, where first ends, got {second.times[0]}")
    sizes = [{axes[0] for axes in (table.axes, table.noise.shape[2:]) if axes} for table in (first, second)]
    if len(set.union(*sizes)) > 1:
        raise ValueError(f"second must act on {sizes[0].pop()} axes like first, got {sizes[1].pop()}")
    second = to_coordinate(to_prediction(second, first.prediction), first.coordinate)
    axes = np.broadcast_shapes(first.axes, second.axes)
    square = max(first.noise.ndim, second.noise.ndim) == 4
    dims = (first.noise.shape[2:] or second.noise.shape[2:])[:1] * 2 if square else axes

    def joined(name: str) -> Array:
        parts = [getattr(first, name), getattr(second, name)[1:]]
        width = max(part.shape[1] for part in parts)
        shape = dims if name == "noise" else axes
        return np.concatenate([spread(_widened(part, width), shape) for part in parts])

    if isinstance(first.coefficients, Motion) or isinstance(second.coefficients, Motion):
        coefficients = _motions([*map(first.motion, range(first.stages)), *map(second.motion, range(1, second.stages))])
    else:
        both = zip(first.coefficients, second.coefficients, strict=True)
        coefficients = Coefficients(*(np.concatenate(_equal_axes(a, b[1:])) for a, b in both))
    return Tableau(
        name=first.name if first.name == second.name else f"{first.name}, then {second.name}",
        prediction=first.prediction,
        times=np.concatenate([first.times, second.times[1:]]),
        coefficients=coefficients,
        evaluated=np.concatenate([first.evaluated[:-1], second.evaluated]),
        states=joined("states"),
        outputs=joined("outputs"),
        noise=joined("noise"),
        normals=np.concatenate([first.normals, first.draws + second.normals[1:]]),
        coordinate=first.coordinate,
    )


def truncate(tableau: Tableau, stage: int) -> Tableau:
    """The sampler from one of its stages on, as for a start from noised data in the middle of the grid.

    Raises:
        ValueError: a later stage refers to what lies before (the history of a multistep method, a midpoint):
            build the family on the shorter grid instead.
    """
    k = whole_number("stage", stage, high=tableau.stages - 2)
    for later in range(k + 1, tableau.stages):
        states, outputs, drawn = tableau.row(later)
        if any(j < k for j, _ in states + outputs) or any(m < tableau.normals[k] for m, _ in drawn):
            raise ValueError(f"stage must not cut off what stage {later} refers to, got {k}")
    rest = {name: getattr(tableau, name)[k:].copy() for name in ("times", "evaluated", "states", "outputs", "noise")}
    for name in ("states", "outputs", "noise"):
        rest[name][0] = 0.0  # the start is given, and not computed from what lay before
    coefficients = sliced(tableau.coefficients, slice(k, None))
    return replace(tableau, coefficients=coefficients, normals=tableau.normals[k:] - tableau.normals[k], **rest)


class Butcher(NamedTuple):
    """y_k = y_0 + h sum_j A_kj o_j at clock_0 + c_k h, and y_0 + h sum_j b_j o_j at the end: A (s, k), b and c (k,)."""

    A: Array
    b: Array
    c: Array
    h: float


# coordinate: the prediction and the clock in which dy / d clock = prediction along the probability flow
FLOWS = {"x/alpha": "noise", "x/sigma": "denoiser", "x": "velocity"}


def butcher(tableau: Tableau, coordinate: str = "x/alpha") -> Butcher:
    """A deterministic table of one step as a Runge-Kutta method.

    In x/alpha the clock is sigma/alpha and o the noise, in x/sigma it is alpha/sigma and o the denoiser, in x it is t
    and o the velocity.

    Raises:
        ValueError: an unknown coordinate, a stochastic table, or stages that are not y_0 plus multiples of outputs
            (an exponential integrator in this coordinate).

    Examples:
        >>> from refdiff import VEPower
        >>> from refdiff.samplers import butcher
        >>> from refdiff.samplers.edm import edm_heun
        >>> heun = butcher(edm_heun(VEPower(), [3.0, 1.0]))
        >>> print((heun.A + 0.0).round(6).tolist(), heun.b.round(6), heun.h)  # the trapezoidal rule, from rho = 3 to 1
        [[0.0, 0.0], [1.0, 0.0]] [0.5 0.5] -2.0
    """
    one_of("coordinate", coordinate, FLOWS)
    if tableau.stochastic or tableau.axes:
        raise ValueError("tableau must be deterministic and the same on all axes to be a Runge-Kutta method")
    table = to_coordinate(to_prediction(tableau, FLOWS[coordinate]), coordinate)
    rolled, at = table.unroll(), np.flatnonzero(table.evaluated)
    if np.abs(rolled.start - 1).max() > 1e-12:
        raise ValueError(f"tableau must have stages y_0 + sum of outputs in {coordinate}, got a weight "
                         f"{rolled.start[np.abs(rolled.start - 1).argmax()]} on y_0")  # fmt: skip
    c = table.scalars
    clock = {"x/alpha": c.sigma / c.alpha, "x/sigma": c.alpha / c.sigma, "x": table.times}[coordinate]
    h = clock[-1] - clock[0]
    return Butcher(rolled.outputs[at][:, at] / h, rolled.outputs[-1, at] / h, (clock[at] - clock[0]) / h, float(h))


# ---------------------------------------------------------------------- shapes


def _rows(values: Array, axes: tuple[int, ...]) -> Array:
    """(s,) or (s, *axes) as what multiplies (s, w, *axes)."""
    return values.reshape(len(values), 1, *(values.shape[1:] or [1] * len(axes)))


def _widened(band: Array, width: int) -> Array:
    return np.pad(band, [(0, 0), (0, width - band.shape[1])] + [(0, 0)] * (band.ndim - 2))


def _motions(each: list[Motion]) -> Coefficients | Motion:
    """Motions of several processes, in the widest of their storages; what one does not know, none does."""
    known = set.intersection(*(set(parts(one)) for one in each))
    widest = max((part.shape for one in each for part in parts(one).values()), key=len)
    missing: dict[str, Any] = dict.fromkeys({"d2gain", "dspread"} - known)

    def alike(one: Motion) -> Motion:
        shared = {name: spread(parts(one)[name], widest, 0) for name in known}
        return one._replace(**missing | shared)

    return stacked([alike(one) for one in each])


def _equal_axes(a: Array, b: Array) -> tuple[Array, Array]:
    """(s, *axes) arrays with the same axes."""
    dims = np.broadcast_shapes(a.shape[1:], b.shape[1:])

    def broadcast(part: Array) -> Array:
        return np.broadcast_to(part if part.shape[1:] == dims else part[:, None], (len(part), *dims))

    return broadcast(a), broadcast(b)
