r"""Rectangular grids of cells on the line and in the plane, and the mean densities of laws on their cells.

    cell i = [l + i h, l + (i + 1) h],    p_i = (1 / h) int_cell p dx,    mass sum_i p_i h

What finite volumes carry are means over cells and not values at centres: they differ by h^2 p'' / 24. A mean is a
difference of distribution functions, taken in the tail in which they are small. In the plane a component without
correlations is a product of two of them; one with correlations is integrated along the first axis by Gauss-Legendre,
in closed form along the second, given the first. Sources: PODD-76, PODD-77.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from refdiff.arguments import Array, real_array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.distributions.quantiles import quantile

FEWEST = 3  # cells of an axis: on a ring of two each cell would have the other for both neighbours
NODES = 8  # of Gauss-Legendre along a piece that is at most as long as half a standard deviation: 1e-16 of the integral
PIECES = 64  # of a cell at most: beyond, a component is so narrow that nearly all of it lies in few cells


@dataclass(frozen=True, eq=False)
class Grid:
    """Equal cells on a box in one or two dimensions.

    Args:
        lower: the lower corner, a number or shape (d,).
        upper: the upper corner, a number or shape (d,), above the lower one.
        cells: how many along each axis, at least 3; one number for all axes, or one for each.

    Raises:
        TypeError: the numbers of cells are not whole.
        ValueError: more than two dimensions, a corner that is not above the other one, or too few cells.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.fokker_planck import Grid
        >>> cells = Grid(-8.0, 8.0, 64)
        >>> print(cells.spacing, round(float(cells.mass(cells.averages(Gaussian([0.0], 1.0)))), 9))
        [0.25] 1.0
    """

    lower: Array
    upper: Array
    shape: tuple[int, ...]

    def __init__(self, lower: ArrayLike, upper: ArrayLike, cells: int | Sequence[int]) -> None:
        low, high = (np.atleast_1d(real_array(n, v, ndim=(0, 1))) for n, v in (("lower", lower), ("upper", upper)))
        if low.shape != high.shape or not 1 <= low.size <= 2:
            raise ValueError(f"lower and upper must have one shape, (1,) or (2,), got {low.shape} and {high.shape}")
        if not (low < high).all():
            raise ValueError(f"upper must be above lower = {low.tolist()}, got {high.tolist()}")
        counts = [cells] * low.size if np.ndim(cells) == 0 else list(cells)  # type: ignore[arg-type]
        if len(counts) != low.size:
            raise ValueError(f"cells must be one number or one for each of {low.size} axes, got {len(counts)}")
        object.__setattr__(self, "lower", low)
        object.__setattr__(self, "upper", high)
        object.__setattr__(self, "shape", tuple(whole_number("cells", n, low=FEWEST) for n in counts))

    def __repr__(self) -> str:
        sides = " x ".join(f"[{a:g}, {b:g}]" for a, b in zip(self.lower, self.upper, strict=True))
        return f"Grid({sides}, {' x '.join(map(str, self.shape))} cells)"

    @staticmethod
    def around(
        laws: GaussianMixture | Sequence[GaussianMixture], cells: int | Sequence[int], outside: float = 1e-14
    ) -> Grid:
        """The grid of this many cells on the least box that leaves no more than a stated mass of each law outside.

        Args:
            laws: a law on the line or in the plane, or several: those at the ends of an evolution.
            cells: how many along each axis, as for a Grid.
            outside: the mass of each law that may lie outside the box; every side of it leaves an equal share.

        Raises:
            TypeError: something else than laws.
            ValueError: no law, laws of several or of more than two dimensions, a mass not in (0, 1), or point masses
                that lie in a hyperplane, around which no box has an extent.
        """
        given = list(laws) if isinstance(laws, Iterable) else [laws]
        for law in given:
            if not isinstance(law, GaussianMixture):
                raise TypeError(f"laws must be Gaussians, GaussianMixtures or Empiricals, got {law!r}")
        dims = {law.dim for law in given}
        if len(dims) != 1 or not dims <= {1, 2}:
            raise ValueError(f"laws must be on the line or in the plane, all of one dimension, got {sorted(dims)}")
        share = real_scalar("outside", outside, low=0, high=1, open_low=True) / (2 * dims.pop())
        sides = np.array([[_ends(law, axis, share) for axis in range(law.dim)] for law in given])
        lower, upper = sides[..., 0].min(axis=0), sides[..., 1].max(axis=0)
        if not (lower < upper).all():
            raise ValueError("laws must have an extent along every axis, got point masses at one coordinate")
        return Grid(lower, upper, cells)

    # ------------------------------------------------------------------ places

    @property
    def dim(self) -> int:
        """d, 1 or 2."""
        return len(self.shape)

    @property
    def spacing(self) -> Array:
        """h, the sides of a cell, shape (d,)."""
        return np.asarray((self.upper - self.lower) / self.shape)

    @property
    def volume(self) -> float:
        """The length or the area of a cell."""
        return float(np.prod(self.spacing))

    def faces(self, axis: int) -> Array:
        """The n + 1 ends of the n cells along an axis, shape (n + 1,)."""
        return np.linspace(self.lower[axis], self.upper[axis], self.shape[axis] + 1)

    def centres(self, axis: int) -> Array:
        """The middles of the n cells along an axis, shape (n,)."""
        ends = self.faces(axis)
        return np.asarray((ends[1:] + ends[:-1]) / 2)

    @property
    def points(self) -> Array:
        """The centres of all cells, shape (*cells, d)."""
        return np.stack(np.meshgrid(*[self.centres(k) for k in range(self.dim)], indexing="ij"), axis=-1)

    # ------------------------------------------------------------------ densities

    def mass(self, density: ArrayLike) -> Array:
        """The integral of a `density` (..., *cells), shape (...).

        Raises:
            ValueError: the last dimensions are not those of the cells.
        """
        p = self.check("density", density)
        return np.asarray(p.sum(axis=tuple(range(-self.dim, 0))) * self.volume)

    def check(self, name: str, density: ArrayLike) -> Array:
        """`density`, called `name`, as float64 of shape (..., *cells).

        Raises:
            ValueError: the last dimensions are not those of the cells, or it is not finite.
        """
        p = real_array(name, density)
        if p.shape[-self.dim :] != self.shape:
            raise ValueError(f"{name} must have a shape that ends in {self.shape}, got {p.shape}")
        return p

    def averages(self, law: GaussianMixture) -> Array:
        """The mean density of a law on every cell, shape (*cells): its mass there over the cell's volume.

        Args:
            law: on the line or in the plane as the grid; point masses count for the cells that they lie in.

        Raises:
            TypeError: no law of this library.
            ValueError: a law of another dimension.
        """
        if not isinstance(law, GaussianMixture):
            raise TypeError(f"law must be a Gaussian, a GaussianMixture or an Empirical, got {law!r}")
        if law.dim != self.dim:
            raise ValueError(f"law must have {self.dim} dimensions like the grid, got {law.dim}")
        covariances = law.covariances.dense(law.dim)
        if self.dim == 1:
            parts = _masses(self.faces(0), law.means[:, 0], np.sqrt(covariances[:, 0, 0]))
            return np.asarray(law.weights @ parts / self.volume)
        covariances = np.broadcast_to(covariances, (law.count, 2, 2))
        loose = covariances[:, 0, 1] == 0
        weights, means, stds = law.weights[loose], law.means[loose], np.sqrt(np.einsum("kii->ki", covariances[loose]))
        along, across = (_masses(self.faces(k), means[:, k], stds[:, k]) for k in range(2))
        total = (weights[:, None] * along).T @ across
        for weight, mean, covariance in zip(law.weights[~loose], law.means[~loose], covariances[~loose], strict=True):
            total += weight * self._correlated(mean, covariance)
        return np.asarray(total / self.volume)

    def _correlated(self, mean: Array, covariance: Array) -> Array:
        """The masses (*cells) of one correlated Gaussian, integrated along the first axis."""
        std, slope = np.sqrt(covariance[0, 0]), covariance[1, 0] / covariance[0, 0]
        rest = np.sqrt(max(covariance[1, 1] - slope * covariance[0, 1], 0.0))
        # the law of x_2 given x_1 turns as fast as it is narrow
        scale = min(std, rest / abs(slope)) if rest > 0 else 0.0
        pieces = PIECES if scale == 0 else min(PIECES, max(1, int(np.ceil(2 * self.spacing[0] / scale))))
        u, w = np.polynomial.legendre.leggauss(NODES)
        ends = np.linspace(self.lower[0], self.upper[0], pieces * self.shape[0] + 1)
        half = (ends[1] - ends[0]) / 2
        x = ((ends[1:] + ends[:-1]) / 2)[:, None] + half * u
        z = (x - mean[0]) / std
        density = (np.exp(-0.5 * z**2) / (np.sqrt(2 * np.pi) * std) * half * w).reshape(self.shape[0], -1)
        centres = mean[1] + slope * (x - mean[0])
        total = np.zeros(self.shape)
        for row, (line, middles) in enumerate(zip(density, centres.reshape(self.shape[0], -1), strict=True)):
            if line.any():
                total[row] = line @ _masses(self.faces(1), middles, np.full(len(middles), rest))
        return total


def _masses(faces: Array, means: Array, stds: Array) -> Array:
    """The masses (K, n) of K normals between n + 1 faces, each from the tail on its own side."""
    gap = faces - means[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        # a point mass on a face belongs to both cells in halves
        z = np.where(gap == 0, 0.0, gap / stds[:, None])
    left, right = z[:, :-1], z[:, 1:]
    flipped = left > -right
    return np.asarray(np.where(flipped, ndtr(-left) - ndtr(-right), ndtr(right) - ndtr(left)))


def _ends(law: GaussianMixture, axis: int, share: float) -> list[float]:
    """The two coordinates along an axis beyond each of which a share of the mass lies."""
    line = law.marginal([axis])
    return [quantile(line, share, upper=upper).item() for upper in (False, True)]
