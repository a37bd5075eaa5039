r"""Underdamped Langevin: its equation on positions and momenta, and chains of the splitting schemes of `kinetic`.

    dx = M^-1 p dt,   dp = [grad log pi(x) - Gamma M^-1 p] dt + sqrt(2) Gamma^(1/2) dw

A scheme asks one force for each place at which it kicks: one a step, as the last kick of BAOAB and the first one of the
next step are at the same place. With momenta left out they start in equilibrium, N(0, M). Normals are numbered as they
are used: `random.normals(seed, [particle + i], draw + k, d)`, the momentum's first. Sources: PODA-307, RDX-43.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.langevin.draws import Draws
from refdiff.langevin.kinetic import Flight, Kinetics, letters
from refdiff.langevin.target import Target, target_of
from refdiff.operators import Operator
from refdiff.stochastic.equation import StochasticEquation


@dataclass(frozen=True, eq=False)
class Phase:
    """Positions and momenta of chains.

    Attributes:
        x: positions, shape (..., d), or (steps + 1, ..., d) of a trajectory.
        momentum: p, in the same shape.
        draw: the number of the next draw, for a run that goes on.
        evaluations: how many forces were asked, for each chain.
    """

    x: Array
    momentum: Array
    draw: int
    evaluations: int


def kinetic_equation(target: Target | GaussianMixture, kinetics: Kinetics | None = None) -> StochasticEquation:
    """The stochastic equation of (x, p) on R^2d.

    Args:
        target: a Target or a law with a density, of x.
        kinetics: mass and friction, 1 and 1 where left out.

    Raises:
        TypeError: no target.
        ValueError: no density, or kinetics on another dimension.
    """
    goal = target_of(target)
    dim, by = goal.dim, (kinetics or Kinetics()).fits(goal.dim)
    slowed = operators.product(by.friction, by.inverse)
    noise = np.zeros((2 * dim, dim))
    noise[dim:] = np.sqrt(2) * operators.dense(operators.root(by.friction), dim)

    def drift(y: Array, t: float) -> Array:  # noqa: ARG001
        x, p = y[:, :dim], y[:, dim:]
        force = goal.score_at(np.ascontiguousarray(x)) - operators.apply(slowed, p)
        return np.concatenate([operators.apply(by.inverse, p), force], axis=1)

    return StochasticEquation(drift, lambda t: noise, 2 * dim, motions=dim)


def underdamped_langevin(
    target: Target | GaussianMixture,
    x: ArrayLike,
    momentum: ArrayLike | None = None,
    *,
    step_size: float,
    steps: int,
    seed: int | np.random.Generator,
    scheme: str = "BAOAB",
    kinetics: Kinetics | None = None,
    particle: int = 0,
    draw: int = 0,
    trajectory: bool = False,
) -> Phase:
    """Chains of a splitting scheme.

    Args:
        target: a Target or a law with a density; only its score is asked.
        x: positions to start from, shape (..., d).
        momentum: p, shape of x; drawn from N(0, M) where left out.
        step_size: h > 0.
        steps: how many.
        seed: an int in [0, 2^64), or a generator, from which a key is drawn.
        scheme: a word of A, B and O such as BAOAB, OBABO or ABOBA; of U and B such as UBU; or E, exponential Euler.
        kinetics: mass and friction, 1 and 1 where left out.
        particle: the number of the first chain.
        draw: the number of the first draw.
        trajectory: return all steps, shape (steps + 1, ..., d), and not only the last one.

    Raises:
        TypeError: no target.
        ValueError: an argument out of range, or a chain that has run away to where the force is not finite.
    """
    goal = target_of(target)
    word, by = letters(scheme), (kinetics or Kinetics()).fits(goal.dim)
    h, count = real_scalar("step_size", step_size, low=0, open_low=True), whole_number("steps", steps)
    rows, restore = points("x", x, goal.dim)
    draws = Draws(seed, rows, particle, draw)
    if momentum is None:
        p = operators.apply(by.root, draws.normals())
    elif np.shape(momentum) != np.shape(x):
        raise ValueError(f"momentum must have the shape of x, {np.shape(x)}, got {np.shape(momentum)}")
    else:
        p, _ = points("momentum", momentum, goal.dim)
    state = Splitting(goal, by, {(letter, part): part * h for letter, part in word}, rows, p)
    kept = [(rows, p)]
    for _ in range(count):
        for place in word:
            state.flow(place, draws)
        if trajectory:
            kept.append((state.x, state.p))
    found = kept if trajectory else [(state.x, state.p)]
    xs, ps = (np.stack([restore(one) for one in part]) for part in zip(*found, strict=True))
    if not trajectory:
        xs, ps = xs[0], ps[0]
    return Phase(xs, ps, draws.next, state.evaluations)


class Splitting:
    """Positions and momenta that flows move.

    Args:
        target: of the positions.
        kinetics: mass and friction.
        times: for every letter and its part of a step, how long it flows.
        x, p: positions and momenta (n, d).
    """

    def __init__(
        self, target: Target, kinetics: Kinetics, times: dict[tuple[str, float], float], x: Array, p: Array
    ) -> None:
        self.target, self.kinetics, self.x, self.p = target, kinetics, x, p
        self.times, self.evaluations = times, 0
        self._force: Array | None = None
        self._bath: dict[tuple[str, float], tuple[Operator, Operator]] = {}
        self._flights: dict[tuple[str, float], Flight] = {}
        for (letter, part), h in times.items():
            if letter == "O":
                self._bath[letter, part] = kinetics.ornstein_uhlenbeck(h)
            if letter in "UE":
                self._flights[letter, part] = kinetics.flight(h)

    @property
    def force(self) -> Array:
        """grad log pi at the positions, asked once for each place, shape (n, d)."""
        if self._force is None:
            self._force = self.target.score_at(self.x)
            self.evaluations += 1
        return self._force

    def flow(self, place: tuple[str, float], draws: Draws) -> None:
        """One letter of a scheme with its part of the step, a `place`, with normals from `draws`."""
        letter, h = place[0], self.times[place]
        if letter == "B":
            self.p = self.p + h * self.force
        elif letter == "A":
            self._moved(self.x + h * operators.apply(self.kinetics.inverse, self.p))
        elif letter == "O":
            decay, spread = self._bath[place]
            self.p = operators.apply(decay, self.p) + operators.apply(spread, draws.normals())
        else:
            self._fly(self._flights[place], letter == "E", draws)

    def _fly(self, flight: Flight, forced: bool, draws: Draws) -> None:
        z, other, apply = draws.normals(), draws.normals(), operators.apply
        x = self.x + apply(flight.drift, self.p) + apply(flight.cross, z) + apply(flight.apart, other)
        p = apply(flight.decay, self.p) + apply(flight.spread, z)
        if forced:
            x, p = x + apply(flight.far, self.force), p + apply(flight.near, self.force)
        self.p = p
        self._moved(x)

    def _moved(self, x: Array) -> None:
        self.x, self._force = x, None
