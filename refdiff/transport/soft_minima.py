r"""Soft minima of a cost over weighted points, without the matrix of all pairs.

    M(x_i) = -log sum_j b_j exp((g_j - c(x_i, y_j)) / eps),      E_i v = sum_j r_ij v_j

with r_ij proportional to b_j exp((g_j - c(x_i, y_j)) / eps). Both halves of an iteration of Sinkhorn's are the first;
products of a plan with vectors are the second. Sources: PODB-75.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions.covariances import TILE
from refdiff.transport.costs import Cost


@dataclass(frozen=True, eq=False)
class Side:
    """One half of a problem: sums over the points y for each x.

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

    def minima(self, g: Array, epsilon: float) -> Array:
        """M at the points x, shape (n,), for g (m,) and eps = `epsilon`."""
        result = np.empty(len(self.x))
        for places, rows in self._logits(g, epsilon):
            most = rows.max(axis=1)
            result[places] = -most - np.log(np.exp(rows - most[:, None]).sum(axis=1))
        return result

    def means(self, g: Array, epsilon: float, values: Array) -> Array:
        """E_i v of values (m, k), shape (n, k), for g (m,) and eps = `epsilon`."""
        result = np.empty((len(self.x), values.shape[1]))
        for places, rows in self._logits(g, epsilon):
            weights = np.exp(rows - rows.max(axis=1, keepdims=True))
            result[places] = weights @ values / weights.sum(axis=1, keepdims=True)
        return result

    def mean_costs(self, g: Array, epsilon: float) -> Array:
        """E_i c(x_i, y), shape (n,), for g (m,) and eps = `epsilon`."""
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
