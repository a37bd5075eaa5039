r"""Metropolis-adjusted kinetic Langevin: Hamiltonian Monte Carlo and its generalisation, which keep p itself.

    p <- c p + sqrt(1 - c^2) M^(1/2) z,    c the persistence
    (y, p') from (x, p) by L leapfrog steps:  p + h s(x) / 2,  x + h M^-1 p,  p + h s(x) / 2,    s = grad log pi
    accepted with probability  min(1, exp(H(x, p) - H(y, p'))),  H = -log pi + p' M^-1 p / 2;  else p <- -p at x

c = 0 is Hamiltonian Monte Carlo, and with L = 1 it is MALA with the step h^2 / 2 and M^-1 for its preconditioner. With
c = e^(-gamma h) and L = 1 it is OBABO adjusted (Horowitz): without the change of sign of p at a rejection the wrong law
would be kept. On N(0, S), L = 1, the energy error is (h^2 / 8)(|s(y)|^2 - |s(x)|^2) in the norm of M^-1. Sources:
PODA-306, PODA-307; Duane et al. 1987; Horowitz 1991.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.langevin.adjusted import Chains, Tally, inside
from refdiff.langevin.draws import Draws
from refdiff.langevin.kinetic import Kinetics
from refdiff.langevin.target import Target, target_of


class Leapfrog:
    """So many steps of the leapfrog for a target, and their energies.

    Args:
        target: with a density.
        step_size: h > 0.
        leapfrogs: L, at least 1.
        kinetics: whose mass is M.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, target: Target, step_size: float, leapfrogs: int, kinetics: Kinetics) -> None:
        self.target, self.kinetics = target, kinetics.fits(target.dim)
        self.h = real_scalar("step_size", step_size, low=0, open_low=True)
        self.count = whole_number("leapfrogs", leapfrogs, low=1)

    def kinetic_energy(self, p: Array) -> Array:
        """p' M^-1 p / 2 of momenta p (n, d), shape (n,)."""
        return np.asarray((p * operators.apply(self.kinetics.inverse, p)).sum(axis=1) / 2)

    def __call__(self, x: Array, p: Array, score: Array) -> tuple[Array, Array, Array, Array]:
        """Positions, momenta and scores after L steps from x, p and the score there, all (n, d), and log pi there (n,).

        Where pi = 0 on the way there is no force: the path can be gone back as it is, and what ends there is refused.
        """
        log_p = np.zeros(len(x))
        for _ in range(self.count):
            p = p + self.h / 2 * score
            x = x + self.h * operators.apply(self.kinetics.inverse, p)
            log_p, score = self.field(x)
            p = p + self.h / 2 * score
        return x, p, score, log_p

    def field(self, x: Array) -> tuple[Array, Array]:
        """log pi (n,) and grad log pi (n, d) at points x (n, d), the gradient 0 where pi = 0."""
        log_p = self.target.log_density_at(x)
        there = np.isfinite(log_p)
        if there.all():
            return log_p, self.target.score_at(x)
        found = np.zeros_like(x)
        found[there] = self.target.score_at(x[there])
        return log_p, found


def hmc(
    target: Target | GaussianMixture,
    x: ArrayLike,
    momentum: ArrayLike | None = None,
    *,
    step_size: float,
    steps: int,
    seed: int | np.random.Generator,
    leapfrogs: int = 1,
    persistence: float = 0.0,
    mass: ArrayLike = 1.0,
    particle: int = 0,
    draw: int = 0,
    trajectory: bool = False,
) -> Chains:
    """Chains of (generalised) Hamiltonian Monte Carlo.

    Args:
        target: a Target with a log density, or a law with a density.
        x: where the chains start, shape (..., d), with pi > 0.
        momentum: p, shape of x; drawn from N(0, M) where left out.
        step_size: h > 0, of one leapfrog step.
        steps: how many proposals.
        seed: an int in [0, 2^64), or a generator, from which a key is drawn.
        leapfrogs: L >= 1, evaluations for each proposal.
        persistence: c in [0, 1): 0 forgets the momentum at every proposal.
        mass: M, a positive number, (d,) or (d, d).
        particle: the number of the first chain.
        draw: the number of the first draw, of two a proposal; one more comes first where the momentum is left out.
        trajectory: return all points, shape (steps + 1, ..., d), and not only the last ones.

    Raises:
        TypeError: no target.
        ValueError: an argument out of range, no density, or a start where pi = 0.
    """
    goal, by = target_of(target), Kinetics(mass, 0.0)
    leapfrog, c = Leapfrog(goal, step_size, leapfrogs, by), real_scalar("persistence", persistence, low=0, high=1)
    if c == 1:
        raise ValueError("persistence must be below 1: a momentum that is kept for ever explores one energy alone")
    rows, restore = points("x", x, goal.dim)
    draws = Draws(seed, rows, particle, draw)
    log_p, score = inside(goal, rows), goal.score_at(rows)
    if momentum is None:
        p = operators.apply(by.root, draws.normals())
    elif np.shape(momentum) != np.shape(x):
        raise ValueError(f"momentum must have the shape of x, {np.shape(x)}, got {np.shape(momentum)}")
    else:
        p, _ = points("momentum", momentum, goal.dim)
    tally, kept = Tally(len(rows)), [rows]
    for _ in range(whole_number("steps", steps)):
        p = c * p + np.sqrt((1 - c) * (1 + c)) * operators.apply(by.root, draws.normals())
        y, other, score_y, log_y = leapfrog(rows, p, score)
        log_ratio = log_y - log_p + leapfrog.kinetic_energy(p) - leapfrog.kinetic_energy(other)
        taken = np.log(draws.uniforms()) <= log_ratio
        column = taken[:, None]
        rows, p = np.where(column, y, rows), np.where(column, other, -p)
        score, log_p = np.where(column, score_y, score), np.where(taken, log_y, log_p)
        tally.add(np.exp(np.minimum(log_ratio, 0.0)), taken)
        if trajectory:
            kept.append(rows)
    found = np.stack([restore(y) for y in kept]) if trajectory else restore(rows)
    probability, accepted = (restore(part) for part in tally.means())
    return Chains(found, probability, accepted, draws.next, restore(p))
