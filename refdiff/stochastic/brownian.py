r"""Brownian paths by counter: the same path under every grid, in either direction, with its areas.

A step of length h has an increment and a space-time area, independent of each other:

    W = w_t - w_s ~ N(0, h),     H = 1/h int_s^t [w_u - w_s - (u - s)/h W] du ~ N(0, h / 12),
    int_s^t (w_u - w_s) du = h (W / 2 + H)

Two steps next to each other, the parts r and q = 1 - r of both, make W = W1 + W2, H = r H1 + q H2 + (q W1 - r W2)/2.
Backwards, a step has the increment -W and the same area H. Split at r, with S = r^3 + q^3 and unit normals z, z',

    W1 = r W + 2 Y,   W2 = q W - 2 Y,     Y  = 3 r q H + sqrt(h r q S) / 2 z
    H1 = r^2 (H - Y) / S + c q z',        H2 = q^2 (H - Y) / S - c r z',       c = sqrt(h r q / (12 S))

which has the law of two independent steps, given what they make. So a path is a tree: the steps between its own times
are independent, each is halved again and again, and the normals of a node are a draw of its own. Nothing is stored;
what a particle sees does not depend on who else is asked for. Times within `depth` halvings are told apart by the
exact law; closer ones share a last piece, which each of them splits by that law, with the same normals: between them
the increment is smooth in time, and the area not below that of the piece.

Sources: PODA-403, PODD-63, PODD-64; Foster, Lyons and Oberhauser 2020, "An optimal polynomial approximation of Brownian
motion"; Roessler 2010, whose I_(1,0) is h (W / 2 + H).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff.arguments import Array, whole_number
from refdiff.random import DRAWS, normals, seed_key
from refdiff.stochastic.brownian_steps import SAME, Increments, Particles, Piece, joined, monotonic, numbers, split

DEPTH = 24  # halvings, if there are draws enough: 6e-8 of a step


@dataclass(frozen=True, eq=False)
class BrownianPath:
    """A Brownian motion between two times, for any particle, on any grid.

    Between two of its own times a path is what `refdiff.random.normals` draws: the step from times[c] to times[c + 1]
    has dw = sqrt(h) z and H = sqrt(h / 12) z' with (z, z') = normals(seed, particles, c, 2 m).

    Args:
        seed: an int in [0, 2^64), or a generator, from which a key is drawn once.
        times: the path's own times, shape (k + 1,), monotonic: the first and the last one alone, or the grid of a run,
            whose steps cost least.
        motions: m.
        depth: how often a step between own times is halved, at most; 24 unless given, or what 2^32 draws allow.

    Raises:
        ValueError: times that are not monotonic, no motion, or so great a depth that draws run out.

    Examples:
        >>> import numpy as np
        >>> from refdiff.stochastic import BrownianPath
        >>> path = BrownianPath(seed=0, times=[0.0, 1.0])
        >>> coarse, fine = (path.values(np.linspace(0, 1, n), np.arange(5)) for n in (3, 9))
        >>> np.allclose(coarse, fine[::4])  # the same path on both grids
        True
    """

    seed: int | np.random.Generator
    times: Array
    motions: int = 1
    depth: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", seed_key(self.seed))
        object.__setattr__(self, "times", monotonic("times", self.times))
        whole_number("motions", self.motions, low=1)
        most = int(np.log2(DRAWS / self.cells)) - 1
        depth = min(DEPTH, most) if self.depth == -1 else self.depth
        object.__setattr__(self, "depth", whole_number("depth", depth, low=0, high=most))

    @property
    def cells(self) -> int:
        """How many steps the path's own times have."""
        return len(self.times) - 1

    def increment(self, s: float, t: float, particles: Particles) -> Piece:
        """w_t - w_s and the area between for any two times within the path's, for particles (n,), each (n, m).

        Raises:
            ValueError: s = t up to rounding, or one lies outside the path's times.
        """
        return next(self.steps([s, t], particles))

    def increments(self, times: ArrayLike, particles: Particles) -> Increments:
        """The path on a grid (k + 1,) within its times, in either direction, for particles (n,).

        Raises:
            ValueError: times that are not monotonic, or outside the path's.
        """
        grid, who = monotonic("times", times), numbers(particles)
        dw, area = (np.stack(part) for part in zip(*self.steps(grid, who), strict=True))
        return Increments(grid, dw, area, who)

    def values(self, times: ArrayLike, particles: Particles) -> Array:
        """w at monotonic times (k,) for particles (n,), less w at the first of them: shape (k, n, m)."""
        dw = self.increments(times, particles).dw
        return np.concatenate([np.zeros_like(dw[:1]), np.cumsum(dw, axis=0)])

    def steps(self, times: ArrayLike, particles: Particles) -> Iterator[Piece]:
        """The steps between monotonic times (k + 1,), in their order and direction, for particles (n,), one by one.

        Raises:
            ValueError: times that are not monotonic, or outside the path's.
        """
        grid, who = monotonic("times", times), numbers(particles)
        forth = bool((grid[0] < grid[1]) == (self.times[0] < self.times[1]))
        places = self._located(grid)
        return self._walk(places if forth else places[::-1], who, forth)

    # ------------------------------------------------------------------ the tree

    def _located(self, times: Array) -> list[tuple[int, float]]:
        """The cell of every time, and where in it, in units of its last pieces.

        What is a border of pieces up to rounding is taken as one: a rounding error of a time would move w by its root.
        """
        own = self.times if self.times[0] < self.times[1] else -self.times
        at = times if self.times[0] < self.times[1] else -times
        slack = SAME * np.abs(own).max()
        if at.min() < own[0] - slack or at.max() > own[-1] + slack:
            raise ValueError(f"times must lie between {self.times[0]} and {self.times[-1]}, got {times}")
        cell = np.clip(np.searchsorted(own, at, side="right") - 1, 0, self.cells - 1)
        width, count = np.diff(own)[cell], 2.0**self.depth
        place = np.clip((at - own[cell]) / width, 0.0, 1.0) * count
        near = np.rint(place)
        place = np.where(np.abs(place - near) <= slack / width * count, near, place)
        over = place == count
        found = list(zip((cell + over).tolist(), np.where(over, 0.0, place).tolist(), strict=True))
        for k, (one, two) in enumerate(pairwise(found)):
            if one == two:
                raise ValueError(f"times must be apart by more than rounding, got {times[k]} and {times[k + 1]}")
        return found

    def _walk(self, places: Sequence[tuple[int, float]], who: NDArray[np.uint64], forth: bool) -> Iterator[Piece]:
        """The steps between increasing places, from the last one where not `forth`, and backwards."""
        sought = places if forth else places[::-1]
        made, length, aim = None, 0.0, 1
        within: dict[int, list[float]] = {}
        for cell, place in places:  # they increase
            if place > 0:
                within.setdefault(cell, []).append(place)
        for cell in range(places[0][0], places[-1][0] + 1)[:: 1 if forth else -1]:
            for start, end, piece in self._cell(cell, within.get(cell, []), who, forth) if cell < self.cells else ():
                first, last = (cell, start), (cell, end) if end < 2.0**self.depth else (cell + 1, 0.0)
                if first < places[0] or last > places[-1]:
                    continue
                h = (end - start) * abs(self.times[cell + 1] - self.times[cell])
                if made is None:
                    made, length = piece, h
                else:
                    pair = (made, piece, length) if forth else (piece, made, h)
                    made, length = joined(pair[0], pair[1], pair[2] / (length + h)), length + h
                if (last if forth else first) == sought[aim]:
                    yield made if forth else Piece(-made.dw, made.area)
                    made, aim = None, aim + 1

    def _cell(
        self, cell: int, cuts: list[float], who: NDArray[np.uint64], forth: bool
    ) -> Iterator[tuple[float, float, Piece]]:
        """(start, end, piece) for the parts of a step between own times that cuts ask for; backwards if not `forth`."""
        h, z = abs(float(self.times[cell + 1] - self.times[cell])), self._normals(cell, 0, who)
        whole = Piece(np.sqrt(h) * z[:, : self.motions], np.sqrt(h / 12) * z[:, self.motions :])
        yield from self._node(cell, 1, whole, h, (0.0, 2.0**self.depth), cuts, who, forth)

    def _node(
        self,
        cell: int,
        node: int,
        piece: Piece,
        h: float,
        ends: tuple[float, float],
        cuts: list[float],
        who: NDArray[np.uint64],
        forth: bool,
    ) -> Iterator[tuple[float, float, Piece]]:
        """The parts of a node of the tree, of length h between `ends`: itself, or those of its halves."""
        start, end = ends
        if not cuts:
            yield start, end, piece
            return
        z = self._normals(cell, node, who)
        if end - start == 1:
            yield from _within(piece, h, start, cuts, z, forth)
            return
        middle = (start + end) / 2
        first, second = split(piece, h, 0.5, z)
        halves = [
            (2 * node, first, (start, middle), [c for c in cuts if c < middle]),
            (2 * node + 1, second, (middle, end), [c for c in cuts if c > middle and c < end]),
        ]
        for number, half, borders, asked in halves if forth else halves[::-1]:
            yield from self._node(cell, number, half, h / 2, borders, asked, who, forth)

    def _normals(self, cell: int, node: int, who: NDArray[np.uint64]) -> Array:
        """The normals (n, 2 m) of a node: of a whole step for node 0, of its first halving for node 1."""
        return normals(int(self.seed), who, node * self.cells + cell, 2 * self.motions)  # type: ignore[arg-type]


def _within(
    piece: Piece, h: float, start: float, cuts: list[float], z: Array, forth: bool
) -> Iterator[tuple[float, float, Piece]]:
    """The parts of a last piece: all of one function of the time within it."""
    borders = [start, *cuts, start + 1]
    # from the start of the piece to each border
    heads = [None, *(split(piece, h, cut - start, z)[0] for cut in cuts), piece]
    found: list[tuple[float, float, Piece]] = []
    for k in range(len(borders) - 1):
        before, upto = heads[k], heads[k + 1]
        assert upto is not None  # only the first is
        if before is not None:
            a, b = borders[k] - start, borders[k + 1] - start
            dw = upto.dw - before.dw
            integral = b * (upto.dw / 2 + upto.area) - a * (before.dw / 2 + before.area) - (b - a) * before.dw
            upto = Piece(dw, integral / (b - a) - dw / 2)
        found.append((borders[k], borders[k + 1], upto))
    return iter(found if forth else found[::-1])
