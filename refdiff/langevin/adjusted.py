r"""Metropolis-adjusted Langevin: the step of `overdamped` as a proposal, which keeps p itself.

    y = x + h [(M + Q) s(x) + div(M + Q)] + sqrt(2 h) R z,      s = grad log p
    accepted with probability  min(1, p(y) q(x | y) / (p(x) q(y | x))),    q(y | x) = N(y; mean(x), 2 h M(x))

MALA; with a truncation c the score is shortened to the length c where it is longer (MALTA), so that a chain comes back
from far out. A constant Q makes a proposal that circulates, of which the rule takes the use away again: what is kept is
right all the same. Draw 2 k is the normals of step k, draw 2 k + 1 its uniforms. On N(0, I_d), with x in equilibrium,

    log ratio = (h / 4)(|x|^2 - |y|^2),      |y|^2 - |x|^2 = a X - b X',    a, b = sqrt(h^4 / 4 + 2 h) +- h^2 / 2

with independent X, X' ~ chi^2_d. The chain is reversible, so its mean acceptance is 2 P(|y| < |x|), that is, with
B ~ Beta(d/2, d/2), 2 P(B < b / (a + b)). For h = l d^(-1/3) this tends to 2 Phi(-sqrt(l^3 / 8)) as d grows, and h
times it is largest where it is .574. Sources: PODA-306, PODA-309; Roberts and Tweedie 1996; Roberts and Rosenthal 1998.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

from refdiff import operators
from refdiff.arguments import Array, points, real_array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.langevin.draws import Draws
from refdiff.langevin.preconditioner import Local, Preconditioner, preconditioner_of
from refdiff.langevin.target import Target, target_of

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Chains:
    """Where chains are, and what they accepted on their way.

    Attributes:
        x: the points, shape (..., d), or (steps + 1, ..., d) of a trajectory.
        probability: the mean probability of acceptance of each chain, shape (...); nan where there was no step.
        accepted: the share of steps that each chain accepted, shape (...); nan where there was no step.
        draw: the number of the next draw, for a run that goes on.
        momentum: p after the last step, shape (..., d), where chains have momenta.
    """

    x: Array
    probability: Array
    accepted: Array
    draw: int
    momentum: Array | None = None


class Place(NamedTuple):
    """Points x (n, d) with log_density (n,), the mean (n, d) of a proposal from them, and the local preconditioner."""

    x: Array
    log_density: Array
    mean: Array
    local: Local


class Proposal:
    """N(mean(x), 2 h M(x)) of a target.

    Args:
        target: with a density.
        step_size: h > 0.
        preconditioner: on the target's dimension, M not singular.
        truncation: the length that scores are shortened to, or None.

    Raises:
        ValueError: an argument is out of range, or M is singular.
    """

    def __init__(
        self, target: Target, step_size: float, preconditioner: Preconditioner, truncation: float | None
    ) -> None:
        self.target, self.h = target, real_scalar("step_size", step_size, low=0, open_low=True)
        self.by = preconditioner.fits(target.dim)
        self.truncation = None if truncation is None else real_scalar("truncation", truncation, low=0, open_low=True)
        if not callable(self.by.matrix) and operators.singular(np.asarray(self.by.matrix)):
            raise ValueError("preconditioner must have a positive definite matrix where steps are rejected by density")

    def at(self, x: Array, log_density: Array | None = None) -> Place:
        """What is asked at points x (n, d), with log_density (n,) where it is known; p > 0 there."""
        log_p = self.target.log_density_at(x) if log_density is None else log_density
        score, local = self.target.score_at(x), self.by.at(x)
        if self.truncation is not None:
            length = np.linalg.norm(score, axis=1, keepdims=True)
            score = score * (self.truncation / np.maximum(length, self.truncation))
        return Place(x, log_p, x + self.h * local.drift(score), local)

    def draw(self, place: Place, normals: Array) -> Array:
        """Points y (n, d) proposed from a place with these normals (n, d)."""
        return np.asarray(place.mean + np.sqrt(2 * self.h) * place.local.colour(normals))

    def log_density(self, start: Place, y: Array) -> Array:
        """log q(y | x) of proposals y (n, d) from `start`, up to what does not depend on x and y, shape (n,)."""
        away = start.local.whitened(y - start.mean)
        return np.asarray(-(away * away).sum(axis=1) / (4 * self.h) - start.local.log_det())

    def log_ratio(self, here: Place, there: Place) -> Array:
        """log of p(y) q(x | y) / (p(x) q(y | x)) for steps from `here` x to `there` y, shape (n,)."""
        moved = self.log_density(there, here.x) - self.log_density(here, there.x)
        return np.asarray(there.log_density - here.log_density + moved)

    def moved(self, here: Place, y: Array, log_uniforms: Array) -> tuple[Place, Array, Mask]:
        """The place after accepting or not from `here` to y (n, d) by `log_uniforms` (n,).

        Returns:
            The place, the probabilities (n,) and whether each was accepted (n,).
        """
        log_p = self.target.log_density_at(y)
        possible = np.isfinite(log_p)
        there = self.at(np.where(possible[:, None], y, here.x), np.where(possible, log_p, here.log_density))
        log_ratio = np.where(possible, self.log_ratio(here, there), -np.inf)
        taken = log_uniforms <= log_ratio
        column = taken[:, None]
        place = Place(
            np.where(column, there.x, here.x),
            np.where(taken, there.log_density, here.log_density),
            np.where(column, there.mean, here.mean),
            there.local.only(taken, here.local),
        )
        return place, np.exp(np.minimum(log_ratio, 0.0)), taken


def mala(
    target: Target | GaussianMixture,
    x: ArrayLike,
    *,
    step_size: float,
    steps: int,
    seed: int | np.random.Generator,
    preconditioner: Preconditioner | ArrayLike = 1.0,
    truncation: float | None = None,
    particle: int = 0,
    draw: int = 0,
    trajectory: bool = False,
) -> Chains:
    """Chains of the Metropolis-adjusted Langevin algorithm.

    Args:
        target: a Target with a log density, or a law with a density.
        x: where the chains start, shape (..., d), with p > 0.
        step_size: h > 0.
        steps: how many, one evaluation of score and density each.
        seed: an int in [0, 2^64), or a generator, from which a key is drawn.
        preconditioner: a Preconditioner, or a constant M: a number, (d,) or (d, d).
        truncation: the length that longer scores are shortened to (MALTA), or None.
        particle: the number of the first chain.
        draw: the number of the first draw, of two a step.
        trajectory: return all points, shape (steps + 1, ..., d), and not only the last ones.

    Raises:
        TypeError: no target.
        ValueError: an argument out of range, no density, or a start where p = 0.
    """
    goal = target_of(target)
    proposal = Proposal(goal, step_size, preconditioner_of(preconditioner, goal.dim), truncation)
    rows, restore = points("x", x, goal.dim)
    draws = Draws(seed, rows, particle, draw)
    place = proposal.at(rows, inside(goal, rows))
    tally, kept = Tally(len(rows)), [rows]
    for _ in range(whole_number("steps", steps)):
        y = proposal.draw(place, draws.normals())
        place, probability, taken = proposal.moved(place, y, np.log(draws.uniforms()))
        tally.add(probability, taken)
        if trajectory:
            kept.append(place.x)
    found = np.stack([restore(y) for y in kept]) if trajectory else restore(place.x)
    probability, accepted = (restore(part) for part in tally.means())
    return Chains(found, probability, accepted, draws.next)


def inside(target: Target, x: Array) -> Array:
    """log p at starting points x (n, d) of a `target`, shape (n,).

    Raises:
        ValueError: p = 0 at one of them.
    """
    found = target.log_density_at(x)
    if np.isneginf(found).any():
        raise ValueError(f"x must start where the density is positive, got {x[np.isneginf(found)][0]}")
    return found


class Tally:
    """What each of so many `chains` accepted."""

    def __init__(self, chains: int) -> None:
        self.steps, self.probability, self.accepted = 0, np.zeros(chains), np.zeros(chains)

    def add(self, probability: Array, taken: Mask) -> None:
        """Count one step of every chain: its `probability` (n,), and whether it was `taken` (n,)."""
        self.steps += 1
        self.probability, self.accepted = self.probability + probability, self.accepted + taken

    def means(self) -> tuple[Array, Array]:
        """The mean probability of acceptance and the share accepted, each (n,), nan without a step."""
        if not self.steps:
            return np.full_like(self.probability, np.nan), np.full_like(self.accepted, np.nan)
        return self.probability / self.steps, self.accepted / self.steps


def gaussian_acceptance(step_size: ArrayLike, dim: int) -> Array:
    """The mean acceptance of MALA in equilibrium on N(0, I_d), exactly.

    Args:
        step_size: h > 0, any shape (...); with M = S those of N(m, S) too.
        dim: d.

    Returns:
        2 P(Beta(d/2, d/2) < b / (a + b)), shape (...).

    Raises:
        ValueError: a step size is not positive.

    Examples:
        >>> from refdiff.langevin import gaussian_acceptance
        >>> print(round(float(gaussian_acceptance(1.0, 2)), 6))  # a = 2, b = 1, and B is uniform: 2 / 3
        0.666667
    """
    h = real_array("step_size", step_size)
    if not (h > 0).all():
        raise ValueError(f"step_size must be positive, got {h.min()}")
    half = whole_number("dim", dim, low=1) / 2
    root = np.sqrt(h**4 / 4 + 2 * h)
    return np.asarray(2 * betainc(half, half, (root - h * h / 2) / (2 * root)))[()]


def warm_up(
    sampler: Callable[[Array, float, int], Chains],
    x: ArrayLike,
    *,
    step_size: float,
    rounds: int = 50,
    goal: float = 0.574,
) -> tuple[float, Chains]:
    """A step size at which chains accept as often as they should, by stochastic approximation; and where they are then.

    log h <- log h + 2 k^(-3/5) (acceptance - goal) after round k, over all chains, with k = 1 throughout a first third
    that may have far to go; the answer is the mean of log h over the last half. It depends on the chains: samples are
    those taken after it, at that step size.

    Args:
        sampler: (x, step_size, draw) -> Chains: mala or hmc with the seed and the steps of a round.
        x: where the chains start, shape (..., d).
        step_size: the first one, > 0.
        rounds: how often the sampler is called, at least 2.
        goal: the mean probability of acceptance, in (0, 1): .574 for MALA, .651 for Hamiltonian steps.

    Raises:
        ValueError: an argument out of range.
    """
    log_h = float(np.log(real_scalar("step_size", step_size, low=0, open_low=True)))
    count, wanted = whole_number("rounds", rounds, low=2), real_scalar("goal", goal, low=0, high=1, open_low=True)
    found = Chains(np.asarray(x), np.zeros(()), np.zeros(()), 0)
    late = []
    for k in range(1, count + 1):
        found = sampler(found.x, float(np.exp(log_h)), found.draw)
        log_h += 2 * max(1, k - count // 3) ** -0.6 * (float(np.mean(found.probability)) - wanted)
        if 2 * k > count:
            late.append(log_h)
    return float(np.exp(np.mean(late))), found
