r"""Soft minima of a cost over weighted points, without the matrix of all pairs.

    M(x_i) = -log sum_j b_j exp((g_j - c(x_i, y_j)) / eps),      E_i v = sum_j r_ij v_j

with r_ij proportional to b_j exp((g_j - c(x_i, y_j)) / eps). Both halves of an iteration of Sinkhorn's are the first;
products of a plan with vectors are the second. NumPy works through tiles, kernels take over where `backends` says so
and the cost is a power of the distance. Points on a GPU stay there. Sources: PODB-75.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.backends import numba_pays, on_device
from refdiff.distributions.covariances import TILE
from refdiff.transport.costs import Cost

SOON = 20  # how often a side is asked: an iteration or two, and then it is over, is rare
LOG2_E = float(1 / np.log(2))
# Products are off by roundings of lengths in units of eps log 2: below this, by less than 2^-35 of what they sum
LONG = 2.0**16


class Side(Protocol):
    """One half of a problem: sums over the points y for each x, for potentials g (m,) and eps = `epsilon`."""

    @property
    def log_weights(self) -> Array:
        """log b_j, shape (m,)."""

    def minima(self, g: Array, epsilon: float, near: Array | None = None) -> Array:
        """M at the points x, shape (n,); values `near` (n,) it, where they are known, save time."""

    def means(self, g: Array, epsilon: float, values: Array) -> Array:
        """E_i v of values (m, k), shape (n, k)."""

    def mean_costs(self, g: Array, epsilon: float) -> Array:
        """E_i c(x_i, y), shape (n,)."""


def side(cost: Cost, x: Array, y: Array, log_weights: Array, asked: int = SOON) -> Side:
    """The half for points x (n, d) of sums over y (m, d) with log b = `log_weights` (m,) and a cost c(x, y).

    Args:
        asked: how often it will be asked.
    """
    if on_device(x):
        return CudaSide(cost, x, y, log_weights)
    if cost.of_distance and numba_pays(len(x), len(y), x.shape[1], asked):
        return CompiledSide(cost, x, y, log_weights)
    return PlainSide(cost, x, y, log_weights)


@dataclass(frozen=True, eq=False)
class PlainSide:
    """A `Side` in NumPy.

    Attributes:
        cost: c(x, y).
        x: points, shape (n, d).
        y: points, shape (m, d).
        log_weights: log b_j, shape (m,).
    """

    cost: Cost
    x: Array
    y: Array
    log_weights: Array

    def minima(self, g: Array, epsilon: float, near: Array | None = None) -> Array:  # noqa: ARG002
        """M (n,), as `Side` has it; what is `near` is not needed."""
        result = np.empty(len(self.x))
        for places, rows in self._logits(g, epsilon):
            most = rows.max(axis=1)
            result[places] = -most - np.log(np.exp(rows - most[:, None]).sum(axis=1))
        return result

    def means(self, g: Array, epsilon: float, values: Array) -> Array:
        """E_i v of `values` (m, k), as `Side` has it."""
        result = np.empty((len(self.x), values.shape[1]))
        for places, rows in self._logits(g, epsilon):
            weights = np.exp(rows - rows.max(axis=1, keepdims=True))
            result[places] = weights @ values / weights.sum(axis=1, keepdims=True)
        return result

    def mean_costs(self, g: Array, epsilon: float) -> Array:
        """As `Side` has it."""
        result = np.empty(len(self.x))
        for places, rows in self._logits(g, epsilon):
            weights = np.exp(rows - rows.max(axis=1, keepdims=True))
            costs = self.cost.rows(places, self.x, self.y)
            result[places] = (weights * costs).sum(axis=1) / weights.sum(axis=1)
        return result

    def _logits(self, g: Array, epsilon: float) -> Iterator[tuple[slice, Array]]:
        offsets = g / epsilon + self.log_weights
        step = max(1, TILE // len(self.y))
        for start in range(0, len(self.x), step):
            places = slice(start, start + step)
            yield places, offsets - self.cost.rows(places, self.x, self.y) / epsilon


class CompiledSide:
    """A `Side` in Numba's kernels: points go in an order in which neighbours are near each other.

    Args:
        cost: c(x, y), a power of the distance.
        x: points, shape (n, d).
        y: points, shape (m, d).
        log_weights: log b_j, shape (m,).

    Attributes:
        log_weights: log b_j.
    """

    def __init__(self, cost: Cost, x: Array, y: Array, log_weights: Array) -> None:
        from refdiff.kernels.numba import sinkhorn, soft_tiles  # late: Numba takes a third of a second to import

        self._kernels, self._tiles, self._cost, self.log_weights = sinkhorn, soft_tiles, cost, log_weights
        middle = 0.5 * (x.mean(axis=0) + y.mean(axis=0))
        self._to_x, self._to_y = (near_first(z, soft_tiles.TILE, sinkhorn.MANY) for z in (x, y))
        self._x, self._y = x[self._to_x] - middle, y[self._to_y] - middle
        self._epsilon, self._u = np.nan, self._x
        self._points: tuple[Array, Array, Array, Array]

    def minima(self, g: Array, epsilon: float, near: Array | None = None) -> Array:
        """As `Side` has it."""
        guess = np.full(len(self._x), np.nan) if near is None else LOG2_E * near[self._to_x]
        return self._back(self._minima(self._heights(g, epsilon), guess) / LOG2_E)

    def means(self, g: Array, epsilon: float, values: Array) -> Array:
        """E_i v of `values` (m, k), as `Side` has it."""
        to, result = self._heights(g, epsilon), np.empty((len(self._x), values.shape[1]))
        table = np.zeros((len(to.h), values.shape[1]))
        table[: len(values)] = values[self._to_y]
        self._ask(self._kernels.soft_means, to, self._minima(to, np.full(len(self._x), np.nan)), table, result)
        return self._back(result)

    def mean_costs(self, g: Array, epsilon: float) -> Array:
        """As `Side` has it."""
        to, result = self._heights(g, epsilon), np.empty(len(self._x))
        self._ask(self._kernels.mean_powers, to, self._minima(to, np.full(len(self._x), np.nan)), result)
        return self._back(result * (epsilon / LOG2_E))

    def _minima(self, to: Any, guess: Array) -> Array:
        result = np.empty(len(self._x))
        self._ask(self._kernels.soft_minima, to, guess, result)
        return result

    def _ask(self, kernel: Any, to: Any, *arrays: Array) -> None:
        from refdiff.kernels.numba.compiling import blocks
        from refdiff.kernels.numba.tiles import LANES

        blocks(kernel, -(-len(self._x) // LANES), self._u, to, float(self._cost.order), *arrays)

    def _back(self, answer: Array) -> Array:
        result = np.empty_like(answer)
        result[self._to_x] = answer
        return result

    def _heights(self, g: Array, epsilon: float) -> Any:
        """The points y in units of eps, in whole tiles, with potentials."""
        tile = self._tiles.TILE
        if epsilon != self._epsilon:
            unit = (self._cost.scale * LOG2_E / epsilon) ** (1 / self._cost.order)
            v = unit * np.concatenate([self._y, np.repeat(self._y[-1:], -len(self._y) % tile, axis=0)])
            self._u, self._epsilon = np.ascontiguousarray(unit * self._x), epsilon
            tiles, squares = v.reshape(-1, tile, v.shape[1]), (v * v).sum(axis=1)
            boxes = np.ascontiguousarray(np.stack([tiles.min(axis=1), tiles.max(axis=1)], axis=1))
            longest = max(squares.max(), (self._u**2).sum(axis=1).max())
            products = self._cost.order == 2 and v.shape[1] >= self._kernels.MANY and longest <= LONG
            self._points = v, 2 * v if products else v[:0], squares if products else squares[:0], boxes
        v, doubled, squares, boxes = self._points
        h = np.full(len(v), self._tiles.FAR)
        h[: len(g)] = LOG2_E * (g / epsilon + self.log_weights)[self._to_y]
        lowered = h[: len(squares)] - squares
        return self._tiles.Points(v, h, doubled, lowered, boxes, h.reshape(-1, tile).max(axis=1))


class CudaSide:
    """A `Side` in CUDA's kernels, for points and weights on a GPU; in float32 where they are.

    Args:
        cost: c(x, y), a power of the distance.
        x: points, shape (n, d), contiguous.
        y: points, shape (m, d), contiguous.
        log_weights: log b_j, shape (m,).

    Attributes:
        log_weights: log b_j.
    """

    def __init__(self, cost: Cost, x: Any, y: Any, log_weights: Any) -> None:
        from refdiff.kernels.cuda import sinkhorn  # late: it is asked where there is a GPU

        self._kernels, self._cost, self.log_weights = sinkhorn, cost, log_weights
        self._points = x, y

    def minima(self, g: Array, epsilon: float, near: Array | None = None) -> Any:  # noqa: ARG002
        """As `Side` has it; what is `near` saves nothing."""
        h, scale = self._units(g, epsilon)
        middle, longest = self._centred
        products = scale * longest <= LONG
        points = middle if products else self._points
        return self._kernels.soft_minima(*points, h, scale, self._cost.order, products) / LOG2_E

    def means(self, g: Array, epsilon: float, values: Array) -> Any:
        """E_i v of `values` (m, k), as `Side` has it."""
        given = *self._points, *self._units(g, epsilon), self._cost.order
        return self._kernels.soft_means(*given, self._kernels.soft_minima(*given), values)

    def mean_costs(self, g: Array, epsilon: float) -> Any:
        """As `Side` has it."""
        given = *self._points, *self._units(g, epsilon), self._cost.order
        return self._cost.scale * self._kernels.mean_powers(*given, self._kernels.soft_minima(*given))

    def shares(self, g: Array, epsilon: float, heights: Array) -> Any:
        """b_j exp((g_j - c(x_i, y_j)) / eps + H_i), shape (m, n): a row for each point y.

        Args:
            g: potentials, shape (m,).
            epsilon: eps.
            heights: H, shape (n,).
        """
        given = *self._points, *self._units(g, epsilon), self._cost.order
        return self._kernels.shares(*given, LOG2_E * heights)

    @cached_property
    def _centred(self) -> tuple[tuple[Any, Any], float]:
        """Points for products, about their middle, and the largest squared length, inf where products do not serve."""
        x, y = self._points
        # in float32 products would lose what differences keep
        if self._cost.order != 2 or x.dtype != np.float64 or x.shape[1] <= self._kernels.NARROW or not len(x):
            return (x, y), np.inf
        middle = 0.5 * (x.mean(axis=0) + y.mean(axis=0))
        x, y = x - middle, y - middle
        return (x, y), max(float((z * z).sum(axis=1).max()) for z in (x, y))

    def _units(self, g: Array, epsilon: float) -> tuple[Any, float]:
        """log b + g / eps, and what a power of the distance is worth, in bits."""
        return LOG2_E * (g / epsilon + self.log_weights), LOG2_E * self._cost.scale / epsilon


def masses(
    cost: Cost, x: Array, y: Array, log_a: Array, log_b: Array, f: Array, g: Array, epsilon: float
) -> Array:  # fmt: skip
    """m_ij = a_i b_j exp((f_i + g_j - c_ij) / eps), shape (n, m), where the points are.

    Args:
        cost: c(x, y).
        x, y: points, shapes (n, d) and (m, d).
        log_a, log_b: logarithms of their weights, shapes (n,) and (m,).
        f, g: potentials, shapes (n,) and (m,).
        epsilon: eps.

    Raises:
        MemoryError: they do not fit on the GPU where the points are.
    """
    if on_device(f):
        return CudaSide(cost, y, x, log_a).shares(f, epsilon, g / epsilon + log_b)  # type: ignore[no-any-return]
    logs = np.add.outer(f, g) - cost.rows(slice(None), x, y)
    logs /= epsilon
    logs += np.add.outer(log_a, log_b)
    return np.asarray(np.exp(logs, out=logs))


def near_first(x: Array, tile: int, most: int) -> NDArray[np.intp]:
    """An order of points x (n, d) in which each `tile` of them is near each other, by halves along the widest axis.

    From `most` axes on halves are not near enough to matter, and the order stays.
    """
    order = np.arange(len(x))
    parts = [(0, len(x))] if x.shape[1] < most else []
    while parts:
        first, last = parts.pop()
        if last - first <= tile:
            continue
        here = x[order[first:last]]
        axis = np.argmax(here.max(axis=0) - here.min(axis=0))
        # whole tiles, so that none has points of two parts
        half = tile * (-(-(last - first) // tile) // 2)
        order[first:last] = order[first:last][np.argsort(here[:, axis], kind="stable")]
        parts += [(first, first + half), (first + half, last)]
    return order
