r"""Densities on a grid carried from time to time.

    d p / dt = (A_1 + A_2 + ...) p        a part for every step between neighbours: axes, and diagonals

    Lie       p <- S_2 S_1 p                      for methods of order 1
    Strang    p <- S_1 S_2(..) S_1 p, halves outside       for those of order 2; halves of two steps that meet are one

S_k carries every line along step k by itself, over its own interval of time and with the rates in the middle of it.
`exponential` splits nothing: p <- e^(dt A) p with the rates in the middle (Magnus), by uniformization,

    e^(dt A) = e^(-m) sum_n m^n / n! (I + A / q)^n,    q = max |A_ii|,   m = q dt,

sums of products of numbers that are not negative: of order 2, and without an error in time where A does not depend on
it; its cost grows as dt / h^2. What each method promises is in METHODS: euler, patankar and exponential keep p >= 0 for
every step, crank-nicolson and tr-bdf2, which are linear and of order 2 at half the cost, for short ones only. All keep
the mass up to rounding, but for what absorbing walls take.

Where there is little noise or none, in a probability flow or in the positions of Langevin dynamics, all are of first
order in space unless fluxes are limited. Sources: PODD-76, PODD-107, PODD-108.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, one_of, real_array, real_scalar, single_precision
from refdiff.distributions import GaussianMixture
from refdiff.fokker_planck.fluxes import Step
from refdiff.fokker_planck.layouts import layout
from refdiff.fokker_planck.lines import Sweep, kernels_pay
from refdiff.fokker_planck.operator import FokkerPlanck
from refdiff.fokker_planck.sweeps import METHODS

EXPONENTIAL = "exponential"
# of Poisson's law in one sum: beyond, e^-m is small beside what sums of its terms are rounded to
MOST = 64.0


@dataclass(frozen=True, eq=False)
class Evolution:
    """Densities at times.

    Attributes:
        times: shape (m,).
        densities: shape (m, *cells), the first of them the start.
        mass: the integrals of the densities, shape (m,).
        steps: how many steps were taken.
    """

    times: Array
    densities: Array
    mass: Array
    steps: int

    @property
    def drift(self) -> float:
        """The largest change of the mass, relative to that of the start."""
        return float(np.abs(self.mass / self.mass[0] - 1).max())


def evolve(
    operator: FokkerPlanck,
    start: GaussianMixture | ArrayLike,
    times: ArrayLike,
    *,
    step: float,
    method: str = "patankar",
) -> Evolution:
    """The densities at given times, from that at the first of them.

    Args:
        operator: the equation on its grid.
        start: the density at times[0], mean values on the cells, shape (*cells) (float32 in, float32 out), or a law,
            which is averaged over them.
        times: shape (m,), m >= 1, all increasing or, for a reversal from noise to data, all decreasing.
        step: the longest step in time; each interval is divided evenly.
        method: patankar, euler, crank-nicolson, tr-bdf2 or exponential.

    Raises:
        TypeError: no FokkerPlanck.
        ValueError: an unknown method, times that turn round, no step, a density with negative values where the method
            is patankar, or another method where fluxes are limited.
    """
    if not isinstance(operator, FokkerPlanck):
        raise TypeError(f"operator must be a FokkerPlanck, got {operator!r}")
    one_of("method", method, [*METHODS, EXPONENTIAL])
    if operator.fit == "limited" and method != "patankar":
        raise ValueError(f"method must be patankar where fluxes are limited, got {method!r}")
    grid, longest = operator.grid, real_scalar("step", step, low=0, open_low=True)
    single = getattr(start, "dtype", None) == np.float32
    p = grid.averages(start) if isinstance(start, GaussianMixture) else grid.check("start", start)
    if p.shape != grid.shape:
        raise ValueError(f"start must have shape {grid.shape}, got {p.shape}")
    if method == "patankar" and (p < 0).any():
        raise ValueError(f"start must not be negative for the method patankar, got {p.min()}")
    t = real_array("times", times, ndim=(1,))
    if t.size == 0 or not ((np.diff(t) > 0).all() or (np.diff(t) < 0).all()):
        raise ValueError(f"times must increase or decrease, got {t.tolist()}")
    found, count = [p], 0
    for begin, end in pairwise(t.tolist()):
        # an interval of whole steps up to rounding is not cut into one more
        steps = max(1, int(np.ceil(abs(end - begin) / longest - 1e-9)))
        nodes = begin + (end - begin) * np.linspace(0.0, 1.0, steps + 1)
        p = _exponential(operator, p, nodes) if method == EXPONENTIAL else _split(operator, p, nodes, method)
        found.append(p)
        count += steps
    densities = np.stack(found)
    mass = grid.mass(densities)
    return Evolution(t, single_precision(densities) if single else densities, mass, count)


# ---------------------------------------------------------------------- splitting


def _split(operator: FokkerPlanck, p: Array, nodes: Array, method: str) -> Array:
    """The density (*cells) at the last of the nodes (n,) in time."""
    to_data, grid = bool(nodes[-1] < nodes[0]), operator.grid
    order = METHODS[method].order
    compiled = kernels_pay(p.size, max(grid.shape), order * grid.dim * (len(nodes) - 1))
    sweeps: dict[Step, Sweep] = {}
    rooms = [np.empty(p.shape) for _ in range(2)]
    for number, (step, begin, end) in enumerate(_pieces(operator, nodes, order)):
        if step not in sweeps or not operator.steady:
            rates = operator.rates_along(step, (begin + end) / 2, to_data=to_data)
            if rates is None:
                continue
            lines = sweeps[step].layout if step in sweeps else layout(grid.shape, step, operator.boundary)
            sweeps[step] = Sweep(lines, lines.line(rates), method, compiled)
        # never the room that p is in
        p = sweeps[step].advance(p, abs(end - begin), rooms[number % 2])
    return p


def _pieces(operator: FokkerPlanck, nodes: Array, order: int) -> Iterator[tuple[Step, float, float]]:
    """Which lines move over which intervals of time, one after the other."""
    middles = (nodes[1:] + nodes[:-1]) / 2
    # noise may be correlated for a part of the time only
    steps = max((operator.steps(t) for t in (middles[:1] if operator.steady else middles).tolist()), key=len)
    first, last = steps[0], steps[-1]
    if order == 1 or len(steps) == 1:
        yield from ((step, a, b) for a, b in pairwise(nodes.tolist()) for step in steps)
        return
    begin = float(nodes[0])
    for a, middle, b in zip(nodes[:-1].tolist(), middles.tolist(), nodes[1:].tolist(), strict=True):
        yield first, begin, middle
        yield from ((step, a, middle) for step in steps[1:-1])
        yield last, a, b
        yield from ((step, middle, b) for step in steps[-2:0:-1])
        begin = middle
    yield first, begin, float(nodes[-1])


# ---------------------------------------------------------------------- the exponential


def _exponential(operator: FokkerPlanck, p: Array, nodes: Array) -> Array:
    """The density (*cells) at the last of the nodes (n,), by uniformization."""
    to_data, flat = bool(nodes[-1] < nodes[0]), p.ravel()
    matrix: Any = None
    for a, b in pairwise(nodes.tolist()):
        if matrix is None or not operator.steady:
            matrix = operator.matrix((a + b) / 2, to_data=to_data)
        flat = uniformized(matrix, flat, abs(b - a))
    return np.asarray(flat.reshape(p.shape))


def uniformized(matrix: Any, p: Array, time: float) -> Array:
    """e^(time A) p for a sparse `matrix` A (N, N) of rates, entries off the diagonal >= 0, and p (N,), shape (N,)."""
    fastest = float(-matrix.diagonal().min())
    if fastest == 0:
        return p
    pieces = int(np.ceil(fastest * time / MOST))
    mean = fastest * time / pieces
    chances = [np.exp(-mean)]
    # Poisson's chances up to where their rest is no more than a rounding of the whole
    while len(chances) < mean or chances[-1] > 1e-18:
        chances.append(chances[-1] * mean / len(chances))
    shares = np.array(chances) / np.sum(chances)
    for _ in range(pieces):
        power, total = p, shares[0] * p
        for share in shares[1:]:
            power = power + (matrix @ power) / fastest
            total = total + share * power
        p = total
    return p
