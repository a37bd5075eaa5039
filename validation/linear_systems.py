r"""Matrix SDEs as cases, and the frame of their noise by integration.

    U' = F U,   Sigma' = F Sigma + Sigma F' + D,   V' = (F + D Sigma^-1 / 2) V,     V_start V_start' = Sigma_start

from 0 (U = I, Sigma = 0) to the start of V, and on, with DOP853 at its least tolerance: nothing here asks a process for
more than F and D. The five systems are those that the spec gives numbers for: random F and G in 3 and in 2 dimensions
and variance-preserving noise in 3, which do not commute in time; axes that stand still, along which everything
commutes; critically damped Langevin dynamics, where noise enters through the velocity alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.processes import LinearProcess, critically_damped_langevin, variance_preserving
from refdiff.validation.cases import Case
from refdiff.validation.numeric import legendre

# V is compared between these times; the final time of all systems is 1
START, END = 0.3, 0.9
# of integrals over F, D and V between them, which bend on times of 1/3: right to 1e-13
NODES = 24
# SciPy takes no less than 100 eps for rtol
RTOL, ATOL = 3e-14, 1e-15
KINDS = ("random 3 x 3", "random 2 x 2", "variance-preserving", "axes that stand still", "Langevin")


class Frames(NamedTuple):
    """The evolution U, the covariance Sigma and the frame V at times (m,), each (m, d, d)."""

    evolution: Array
    covariance: Array
    frame: Array


@dataclass(frozen=True, eq=False)
class System:
    """One matrix SDE with a starting point.

    Attributes:
        kind: one of KINDS.   process: the equation.   x0: the one clean point, shape (d,).   eps: noise (d,).
        turn: an orthogonal matrix (d, d), another choice of frame.
    """

    kind: str
    process: LinearProcess
    x0: Array
    eps: Array
    turn: Array

    @property
    def dim(self) -> int:
        """d."""
        return self.process.axes

    @cached_property
    def along(self) -> Frames:
        """U, Sigma and V at START, at the nodes of `legendre(NODES)` between, and at END, V from Cholesky's root."""
        return self.solved(START, *(START + (END - START) * legendre(NODES)[0]), END)

    def solved(self, *times: float, start: float = START, frame: Array | None = None) -> Frames:
        """U, Sigma and V at rising times from `start` on, V from `frame` (d, d), Cholesky's root of Sigma if none."""
        before = self._run(np.stack([np.eye(self.dim), np.zeros((self.dim, self.dim))]), 0.0, np.array([start]))[0]
        first = np.linalg.cholesky(before[1]) if frame is None else frame
        both = np.concatenate([before, first[None]])
        return Frames(*np.swapaxes(self._run(both, start, np.array(times)), 0, 1))

    def path(self, x: Array, start: float, end: float) -> Array:
        """x (d,) after the flow dx/dt = F x + D Sigma^-1 (x - U x_0) / 2 of one clean point x_0, start < end.

        Forwards only: Sigma is carried along, and backwards its equation multiplies what errors it has.
        """
        before = self._run(np.stack([np.eye(self.dim), np.zeros((self.dim, self.dim))]), 0.0, np.array([start]))[0]

        def slope(t: float, flat: Array) -> Array:
            (u, sigma), y = flat[: -self.dim].reshape(before.shape), flat[-self.dim :]
            f, d = self.process.drift(t), self.process.diffusion(t)
            moved = f @ sigma
            pulled = np.linalg.solve(sigma, y - u @ self.x0)
            return np.concatenate([(f @ u).ravel(), (moved + moved.T + d).ravel(), f @ y + d @ pulled / 2])

        state = np.append(before, x)
        return np.asarray(
            solve_ivp(slope, (start, end), state, method="DOP853", rtol=RTOL, atol=ATOL).y[-self.dim :, -1]
        )

    def _run(self, state: Array, start: float, times: Array) -> Array:
        """U, Sigma and, where given, V at rising times (m,) from their state (2 or 3, d, d): (m, 2 or 3, d, d)."""

        def slope(t: float, flat: Array) -> Array:
            u, sigma, *v = flat.reshape(state.shape)
            f, d = self.process.drift(t), self.process.diffusion(t)
            moved = f @ sigma
            rates = [f @ u, moved + moved.T + d, *((f + np.linalg.solve(sigma, d).T / 2) @ one for one in v)]
            return np.concatenate([rate.ravel() for rate in rates])

        if times[-1] == start:
            return np.broadcast_to(state, (len(times), *state.shape))
        found = solve_ivp(slope, (start, times[-1]), state.ravel(), method="DOP853", rtol=RTOL, atol=ATOL, t_eval=times)
        return np.asarray(found.y.T.reshape(len(times), *state.shape))


def systems(case: Case, *kinds: str) -> list[System]:
    """The systems of these kinds, of all without any, with the random numbers of the case."""
    return [_system(kind, case.name, case.seed) for kind in kinds or KINDS]


@cache
def _system(kind: str, name: str, seed: int) -> System:
    """One for each case, so that what it has solved for one check serves the next."""
    rng = Case(f"{kind}, {name}", seed).rng
    dim = 2 if kind in ("random 2 x 2", "Langevin") else 3
    a, b, g, h = rng.standard_normal((4, dim, dim))
    axes = np.linalg.qr(a)[0]
    rates = rng.uniform(0.5, 2.0, (2, dim))
    made = {
        "random 3 x 3": lambda: LinearProcess(lambda t: a + np.sin(2 * t) * b, lambda t: g + t * h + np.eye(dim)),
        "random 2 x 2": lambda: LinearProcess(lambda t: a + np.cos(3 * t) * b, lambda t: g + t * h + np.eye(dim)),
        "variance-preserving": lambda: variance_preserving(lambda t: np.eye(dim) + t * g + np.sin(3 * t) * h),
        "axes that stand still": lambda: variance_preserving(lambda t: axes * np.sqrt(rates[0] + t * rates[1])),
        "Langevin": lambda: critically_damped_langevin(1),
    }
    x0, eps = rng.standard_normal((2, dim))
    return System(kind, made[kind](), x0, eps, np.linalg.qr(b)[0])
