r"""Ground costs c(x, y) between points, as what loops over tiles of pairs need.

    half-squared   |x - y|^2 / 2     the default: eps is then the noise of the Brownian motion whose bridge a plan gives
    squared        |x - y|^2
    a number r     |x - y|^r, r > 0
    a function     c(x, y) of points (n, d) and (m, d), answered with shape (n, m)
    a matrix       c_ij at the points of two laws, shape (n, m)

Sources: PODB-70, PODB-74.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff.arguments import Array, answered, one_of, real_array, real_scalar

Ground: TypeAlias = str | float | Callable[[Array, Array], ArrayLike] | ArrayLike
Chosen: TypeAlias = NDArray[np.bool_]
NAMED = {"half-squared": (0.5, 2.0), "squared": (1.0, 2.0)}


@dataclass(frozen=True, eq=False)
class Cost:
    """c(x, y), by `scale` |x - y|^`order` where neither a function nor a matrix is given.

    Attributes:
        scale, order: of the power of a distance.
        function: c of points (n, d) and (m, d), shape (n, m).
        matrix: c_ij at the points of the two laws, shape (n, m).
    """

    scale: float = 0.0
    order: float = 0.0
    function: Callable[[Array, Array], ArrayLike] | None = None
    matrix: Array | None = None

    @property
    def of_distance(self) -> bool:
        """Whether c is a power of the distance."""
        return self.scale > 0

    def values(self, x: Array, y: Array) -> Array:
        """c at points x (n, d) and y (m, d), shape (n, m).

        Raises:
            ValueError: the cost is a matrix, which says nothing of other points, or the user's function answers with
                another shape or what is not finite.
        """
        if self.matrix is not None:
            raise ValueError("cost must be a function of points to be asked elsewhere, got a matrix")
        if self.function is not None:
            return answered("cost", self.function(x, y), (len(x), len(y)), finite=True)
        from scipy.spatial.distance import cdist  # late: a quarter of the time to import this package

        if self.order == 2:
            return self.scale * np.asarray(cdist(x, y, "sqeuclidean"))
        return self.scale * np.asarray(cdist(x, y)) ** self.order

    def between(self, x: Array, y: Array) -> Array:
        """c(x_i, y_i) of as many points x (n, d) as y (n, d), shape (n,)."""
        if self.of_distance:
            squares = ((x - y) ** 2).sum(axis=1)
            powers: Array = self.scale * squares ** (0.5 * self.order)
            return powers
        return np.array([self.values(u[None], v[None])[0, 0] for u, v in zip(x, y, strict=True)])

    def rows(self, places: slice, x: Array, y: Array) -> Array:
        """The rows `places` of c at the points x (n, d) and y (m, d) of the two laws, shape (rows, m)."""
        return self.matrix[places] if self.matrix is not None else self.values(x[places], y)

    def swapped(self) -> Cost:
        """c(y, x)."""
        if self.matrix is not None:
            return Cost(matrix=np.ascontiguousarray(self.matrix.T))
        if self.function is not None:
            function = self.function
            return Cost(function=lambda y, x: np.asarray(function(x, y)).T)
        return self

    def part(self, rows: Chosen, columns: Chosen) -> Cost:
        """c of some points only, those of the masks `rows` (n,) and `columns` (m,)."""
        return self if self.matrix is None else Cost(matrix=self.matrix[np.ix_(rows, columns)])

    def largest(self, x: Array, y: Array) -> float:
        """About the largest |c| at points x (n, d) and y (m, d), no less of a power of the distance; it may be inf."""
        if self.of_distance:
            middle = 0.5 * (x.mean(axis=0) + y.mean(axis=0))
            with np.errstate(over="ignore"):  # inf says so
                far = [sqrt(float(((z - middle) ** 2).sum(axis=1).max())) for z in (x, y)]
                return float(self.scale * np.float64(far[0] + far[1]) ** self.order)
        return float(np.abs(self.rows(slice(0, 32), x, y)).max())


def ground_cost(cost: Ground, shape: tuple[int, int]) -> Cost:
    """The cost as asked for, between sets of points of these sizes `shape`.

    Raises:
        TypeError: it is nothing of the kind.
        ValueError: an unknown name, an order that is not positive, or a matrix of another shape.
    """
    if isinstance(cost, str):
        return Cost(*NAMED[one_of("cost", cost, NAMED)])
    if callable(cost):
        return Cost(function=cost)
    if np.ndim(cost) == 0:
        return Cost(1.0, real_scalar("cost", cost, low=0, open_low=True))
    matrix = real_array("cost", cost)
    if matrix.shape != shape:
        raise ValueError(f"cost must have shape {shape} as a matrix, got {matrix.shape}")
    return Cost(matrix=matrix)
