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
from refdiff.fokker_planck.grid import Grid
from refdiff.fokker_planck.layouts import layout
from refdiff.fokker_planck.lines import Sweep, kernels_pay
from refdiff.fokker_planck.operator import FokkerPlanck, known
from refdiff.fokker_planck.sweeps import METHODS

EXPONENTIAL = "exponential"
# of Poisson's law in one sum: beyond, e^-m is small beside what sums of its terms are rounded to
MOST = 64.0
# of a law that is to be carried: what lies outside of the grid is lost
OUTSIDE = 0.01


@dataclass(frozen=True, eq=False)
class Evolution:
    """Densities at times.

    Attributes:
        times: shape (m,).
        densities: shape (m, *cells), the first of them the start.
        mass: the integrals of the densities, shape (m,).
        drift: the largest change of the mass, relative to the integral of the start, or of |p| where it has signs.
        steps: how many steps were taken.
    """

    times: Array
    densities: Array
    mass: Array
    drift: float
    steps: int


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
            which is averaged over them and may have a hundredth of itself outside: `averages` of the grid cut more off.
        times: shape (m,), m >= 1, all increasing or, for a reversal from noise to data, all decreasing.
        step: the longest step in time; each interval is divided evenly.
        method: patankar, euler, crank-nicolson, tr-bdf2 or exponential.

    Raises:
        TypeError: no FokkerPlanck.
        ValueError: an unknown method, times that turn round, no step, a law that does not fit the grid, a density with
            negative values where the method is patankar, or another method where fluxes are limited.

    Examples:
        >>> import numpy as np
        >>> from refdiff import Gaussian, VEPower
        >>> from refdiff.fokker_planck import FokkerPlanck, Grid, evolve
        >>> heat, cells = VEPower(power=0.5), Grid(-12.0, 12.0, 240)  # variance 1 + t
        >>> found = evolve(FokkerPlanck.of(heat, cells), Gaussian([0.0], 1.0), [0.0, 3.0], step=0.05)
        >>> x, p = cells.points, found.densities[-1]
        >>> print(abs(cells.mass(p * x[:, 0] ** 2) - 4) < 0.01, found.drift < 1e-12)
        True True
    """
    grid = known(operator).grid
    one_of("method", method, [*METHODS, EXPONENTIAL])
    if operator.fit == "limited" and method != "patankar":
        raise ValueError(f"method must be patankar where fluxes are limited, got {method!r}")
    single = getattr(start, "dtype", None) == np.float32
    p = _averages(grid, start) if isinstance(start, GaussianMixture) else grid.check("start", start)
    if p.shape != grid.shape:
        raise ValueError(f"start must have shape {grid.shape}, got {p.shape}")
    if method == "patankar" and (p < 0).any():
        raise ValueError(f"start must not be negative for the method patankar, got {p.min()}")
    t, parts = intervals(times, step)
    found = _exponential(operator, p, parts) if method == EXPONENTIAL else _split(operator, p, parts, method)
    densities = np.stack([p, *found])
    mass, amount = grid.mass(densities), float(grid.mass(np.abs(p)))
    drift = float(np.abs(mass - mass[0]).max()) / amount if amount > 0 else 0.0
    steps = sum(len(nodes) - 1 for nodes in parts)
    return Evolution(t, single_precision(densities) if single else densities, mass, drift, steps)


def intervals(times: ArrayLike, step: float) -> tuple[Array, list[Array]]:
    """The times (m,), and of each interval between them the nodes (n,) of steps of equal length, at most `step`.

    Raises:
        ValueError: times that turn round, or no step.
    """
    longest, t = real_scalar("step", step, low=0, open_low=True), real_array("times", times, ndim=(1,))
    if t.size == 0 or not ((np.diff(t) > 0).all() or (np.diff(t) < 0).all()):
        raise ValueError(f"times must increase or decrease, got {t.tolist()}")
    parts = []
    for begin, end in pairwise(t.tolist()):
        # an interval of whole steps up to rounding is not cut into one more
        steps = max(1, int(np.ceil(abs(end - begin) / longest - 1e-9)))
        parts.append(begin + (end - begin) * np.linspace(0.0, 1.0, steps + 1))
    return t, parts


def _averages(grid: Grid, law: GaussianMixture) -> Array:
    p = grid.averages(law)
    if grid.mass(p) < 1 - OUTSIDE:
        raise ValueError(f"start must lie on {grid!r}, got a law that has only {grid.mass(p):.3g} of its mass there")
    return p


# ---------------------------------------------------------------------- splitting


def _split(operator: FokkerPlanck, p: Array, parts: list[Array], method: str) -> Iterator[Array]:
    """The density (*cells) at the last nodes (n,) in time of every part."""
    grid, order = operator.grid, METHODS[method].order
    compiled = kernels_pay(p.size, max(grid.shape), order * grid.dim * sum(len(nodes) - 1 for nodes in parts))
    sweeps: dict[Step, Sweep] = {}
    rooms = [np.empty(p.shape) for _ in range(2)]
    for nodes in parts:
        to_data = bool(nodes[-1] < nodes[0])
        for step, begin, end in pieces(operator, nodes, order):
            if step not in sweeps or not operator.steady:
                rates = operator.rates_along(step, (begin + end) / 2, to_data=to_data)
                if rates is None:
                    continue
                lines = sweeps[step].layout if step in sweeps else layout(grid.shape, step, operator.boundary)
                sweeps[step] = Sweep(lines, lines.line(rates), method, compiled)
            # never the room that p is in
            p = sweeps[step].advance(p, abs(end - begin), rooms[p is rooms[0]])
        yield p.copy()


def pieces(operator: FokkerPlanck, nodes: Array, order: int) -> Iterator[tuple[Step, float, float]]:
    """Which lines move over which intervals of time, one after the other, in a method of this `order`.

    Args:
        operator: the equation on its grid.
        nodes: the ends of the steps in time, shape (n,).
        order: 1 or 2.
    """
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


def _exponential(operator: FokkerPlanck, p: Array, parts: list[Array]) -> Iterator[Array]:
    """The density (*cells) at the last nodes (n,) in time of every part, by uniformization."""
    flat = p.ravel()
    matrix: Any = None
    for nodes in parts:
        to_data = bool(nodes[-1] < nodes[0])
        for a, b in pairwise(nodes.tolist()):
            if matrix is None or not operator.steady:
                matrix = operator.matrix((a + b) / 2, to_data=to_data)
            flat = uniformized(matrix, flat, abs(b - a))
        yield flat.reshape(p.shape)


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
