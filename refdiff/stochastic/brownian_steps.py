r"""A path on one grid: increments and areas of its steps, joined to those of coarser grids, split to finer ones.

Formulas are those of `brownian`, where the law is said. Sums leave nothing out: what a coarse grid sees is what the
steps of a fine one add up to. Sources: PODA-403, PODD-63, PODD-64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff.arguments import Array, real_array, whole_number
from refdiff.random import PARTICLES

SAME = 8 * np.finfo(float).eps  # times are the same up to this, relative to the largest: w moves by the root of it

Particles = ArrayLike | range | int


class Piece(NamedTuple):
    """A step of a path: the increment dw and the space-time area, each (n, m)."""

    dw: Array
    area: Array


@runtime_checkable
class Path(Protocol):
    """What drives a stochastic equation: increments and areas over the steps of any grid that it knows."""

    @property
    def motions(self) -> int:
        """m, how many independent motions there are."""

    def steps(self, times: ArrayLike, particles: Particles) -> Iterator[Piece]:
        """The steps between monotonic times (k + 1,), in their order and direction, for particles (n,)."""


def joined(first: Piece, second: Piece, share: float) -> Piece:
    """A first and a second step (n, m) next to each other as one, of which `share` in (0, 1) is the first."""
    r, q = share, 1 - share
    area = r * first.area + q * second.area + 0.5 * (q * first.dw - r * second.dw)
    return Piece(first.dw + second.dw, area)


def split(piece: Piece, h: float, share: float, z: Array) -> tuple[Piece, Piece]:
    """A piece of length h > 0 as two, of which `share` in (0, 1) is the first, from unit normals z (n, 2 m)."""
    r, q, m = share, 1 - share, piece.dw.shape[1]
    cubes = r**3 + q**3
    y = 3 * r * q * piece.area + 0.5 * np.sqrt(h * r * q * cubes) * z[:, :m]
    rest, own = (piece.area - y) / cubes, np.sqrt(h * r * q / (12 * cubes)) * z[:, m:]
    first = Piece(r * piece.dw + 2 * y, r * r * rest + q * own)
    return first, Piece(q * piece.dw - 2 * y, q * q * rest - r * own)


@dataclass(frozen=True, eq=False)
class Increments:
    """A path written down on one grid.

    Args:
        times: the grid, shape (k + 1,), monotonic.
        dw: increments from each time to the next, shape (k, n, m).
        area: space-time areas, shape (k, n, m); 0 where they are not known, which only methods of strong order 1 at
            most and coarser grids made of many steps can do with.
        particles: the numbers of the particles, shape (n,).

    Raises:
        ValueError: shapes that do not fit each other, or times that are not monotonic.
    """

    times: Array
    dw: Array
    area: Array
    particles: NDArray[np.uint64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", monotonic("times", self.times))
        for name in ("dw", "area"):
            object.__setattr__(self, name, real_array(name, getattr(self, name), ndim=(3,)))
        if self.dw.shape != self.area.shape or self.dw.shape[:2] != (len(self.times) - 1, len(self.particles)):
            wanted = (len(self.times) - 1, len(self.particles))
            raise ValueError(f"dw and area must have shape (*{wanted}, m), got {self.dw.shape} and {self.area.shape}")

    @property
    def motions(self) -> int:
        """m, how many independent motions there are."""
        return int(self.dw.shape[2])

    @property
    def unit(self) -> Array:
        """dw / sqrt(h), the unit normals that the increments are made of, shape (k, n, m)."""
        return np.asarray(self.dw / np.sqrt(np.abs(np.diff(self.times)))[:, None, None])

    @property
    def unit_areas(self) -> Array:
        """sqrt(12 / h) H, unit normals independent of `unit`, shape (k, n, m)."""
        return np.asarray(self.area * np.sqrt(12 / np.abs(np.diff(self.times)))[:, None, None])

    def coarsened(self, factor: int) -> Increments:
        """The same path on every `factor`-th time, by sums.

        Raises:
            ValueError: the factor does not divide the number of steps.
        """
        count = len(self.times) - 1
        if count % whole_number("factor", factor, low=1):
            raise ValueError(f"factor must divide the number of steps {count}, got {factor}")
        return self.on(self.times[::factor])

    def reversed(self) -> Increments:
        """The same path from its end to its start."""
        return Increments(self.times[::-1], -self.dw[::-1], self.area[::-1], self.particles)

    def on(self, times: ArrayLike) -> Increments:
        """The same path on some of its times, shape (j + 1,), in either direction.

        Raises:
            ValueError: a time that is none of the path's.
        """
        wanted = monotonic("times", times)
        if (wanted[0] < wanted[1]) != (self.times[0] < self.times[1]):
            return self.reversed().on(wanted)
        at = _places(self.times, wanted)
        made = [self._over(int(a), int(b)) for a, b in pairwise(at)]
        dw, area = (np.stack(part) for part in zip(*made, strict=True))
        return Increments(wanted, dw, area, self.particles)

    def steps(self, times: ArrayLike, particles: Particles) -> Iterator[Piece]:
        """The steps between some of its times (j + 1,), in either direction, for its own particles (n,).

        Raises:
            ValueError: a time that is none of the path's, or other particles.
        """
        asked = numbers(particles)
        if not np.array_equal(asked, self.particles):
            raise ValueError(f"particles must be those of the path, {len(self.particles)} of them, got {len(asked)}")
        found = self.on(times)
        return (Piece(dw, area) for dw, area in zip(found.dw, found.area, strict=True))

    def _over(self, first: int, last: int) -> Piece:
        """The steps from one place to another as one."""
        h, w = np.abs(np.diff(self.times))[first:last, None, None], self.dw[first:last]
        before = np.cumsum(w, axis=0) - w
        integral = (h * (before + 0.5 * w + self.area[first:last])).sum(axis=0)
        total = w.sum(axis=0)
        return Piece(total, integral / h.sum() - 0.5 * total)


def monotonic(name: str, value: ArrayLike) -> Array:
    """`value` as at least two strictly increasing or decreasing times (k + 1,); `name` is what messages call it.

    Raises:
        ValueError: it is no such grid.
    """
    times = real_array(name, value, ndim=(1,))
    steps = np.diff(times)
    if len(times) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"{name} must be at least two times that increase, or decrease, got {times}")
    return times


def numbers(particles: Particles) -> NDArray[np.uint64]:
    """The numbers of particles, shape (n,), of an int n for the first n of them, a range or an array (n,).

    Raises:
        ValueError: they are no whole numbers in [0, 2^64).
    """
    if isinstance(particles, (int, np.integer)):
        return np.arange(whole_number("particles", particles), dtype=np.uint64)
    found = np.asarray(particles, dtype=None if len(particles) else np.uint64)  # type: ignore[arg-type]
    # NumPy takes whole numbers on both sides of 2^63 for floats
    if isinstance(particles, (list, tuple)) and all(isinstance(one, int) and 0 <= one < PARTICLES for one in particles):
        found = np.array(particles, dtype=np.uint64)
    if found.ndim != 1 or found.dtype.kind not in "iu" or (found.size and found.min() < 0):
        raise ValueError(f"particles must be whole numbers (n,) that are not negative, got {particles!r}")
    return found.astype(np.uint64)


def _places(own: Array, wanted: Array) -> NDArray[np.intp]:
    """Where times (j,) are among own ones (k,), both in the same direction."""
    sign = 1.0 if own[0] < own[1] else -1.0
    right = np.clip(np.searchsorted(sign * own, sign * wanted), 1, len(own) - 1)
    nearer = np.abs(own[right - 1] - wanted) <= np.abs(own[right] - wanted)
    at = np.where(nearer, right - 1, right)
    if (np.abs(own[at] - wanted) > SAME * np.abs(own).max()).any():
        raise ValueError(f"times must be some of the path's {len(own)} times, got {wanted}")
    return np.asarray(at)
