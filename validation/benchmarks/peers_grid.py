r"""Densities in the plane by others, and in closed form.

    SciPy     Crank and Nicolson along one axis and along the other by turns, central fluxes, banded matrices
    py-pde    its expressions on its Numba backend, compiled once; Euler's steps, as long as is stable

Explicit steps are stable up to h^2 / 4 for a Laplacian in the plane. At that step Euler's error is within what is
allowed, and Runge-Kutta's steps, fixed or adaptive, are at most twice as long for four to six stages: no way of
py-pde's takes fewer evaluations. What it compiles is kept and counts in its first run alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import solve_banded

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.processes import LinearProcess
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.problems import SIDE, GridDensity

BANDED_STEPS = 32  # the fewest of a few that keep to the error: its own is as large as that in space
STABLE = 0.95  # of the longest stable step


def closed(problem: GridDensity) -> Array:
    """The density at the points, shape (n,)."""
    mixture = problem.mixture
    law = GaussianMixture.isotropic(mixture.means, mixture.variances, np.exp(mixture.log_weights))
    process = LinearProcess(problem.drift, np.sqrt(2) * np.eye(2), T=1.0)
    return np.asarray(np.exp(process.kernel(problem.time).push(law).logpdf(problem.x)))


# ---------------------------------------------------------------------- SciPy


def scipy_candidates(problem: GridDensity, threads: int) -> list[Candidate]:  # noqa: ARG001
    """One."""
    n = len(problem.x)

    def go(points: int) -> Array:
        return np.asarray(banded(problem).ravel()[problem.places[:points]])

    return [Candidate("", go, n)]


def banded(problem: GridDensity) -> Array:
    """The density (cells, cells), a half step along x between steps along y."""
    cells, p = len(problem.start), problem.start
    h, dt = 2 * SIDE / cells, problem.time / BANDED_STEPS
    centres = SIDE * ((2 * np.arange(cells) + 1) / cells - 1)
    faces = SIDE * (2 * np.arange(1, cells) / cells - 1)
    # drift at the faces along an axis (first index) of every line (second index)
    drifts = [problem.drift[k, k] * faces[:, None] + problem.drift[k, 1 - k] * centres for k in range(2)]
    half, whole, other = (
        _matrices(drift, h, step)
        for drift, step in zip([drifts[0], drifts[0], drifts[1]], [dt / 2, dt, dt], strict=True)
    )
    p = _step(p, half)
    for step in range(BANDED_STEPS):
        p = _step(p.T, other).T
        p = _step(p, whole if step < BANDED_STEPS - 1 else half)
    return p


def _matrices(drift: Array, h: float, dt: float) -> tuple[Array, Array, Array]:
    """Below, on and above the diagonal of dt / 2 times the operator of every line, shapes (cells, lines)."""
    forth, back = drift / (2 * h) + 1 / h**2, -drift / (2 * h) + 1 / h**2  # of p below and above each face
    none = np.zeros((1, drift.shape[1]))
    below, above = np.concatenate([none, forth]), np.concatenate([back, none])
    middle = -np.concatenate([forth, none]) - np.concatenate([none, back])
    return dt / 2 * below, dt / 2 * middle, dt / 2 * above


def _step(p: Array, matrices: tuple[Array, Array, Array]) -> Array:
    """(1 - A)^-1 (1 + A) p for all lines (cells, lines) at once: one long banded matrix."""
    below, middle, above = matrices
    right = p + middle * p
    right[1:] += below[1:] * p[:-1]
    right[:-1] += above[:-1] * p[1:]
    bands = np.zeros((3, p.size))
    bands[0, 1:] = -above.T.ravel()[:-1]
    bands[1] = 1 - middle.T.ravel()
    bands[2, :-1] = -below.T.ravel()[1:]
    found = solve_banded((1, 1), bands, right.T.ravel(), overwrite_ab=True, overwrite_b=True, check_finite=False)
    return np.asarray(found.reshape(p.shape[::-1]).T)


# ---------------------------------------------------------------------- py-pde


def pde_candidates(problem: GridDensity, threads: int) -> list[Candidate]:  # noqa: ARG001
    """One: Euler's steps at the limit of stability."""
    import pde
    from pde.solvers import EulerSolver

    cells, n = len(problem.start), len(problem.x)
    (a, b), (c, d) = problem.drift.tolist()
    # -div(F x p) + lap p
    flow = f"({-a} * x + {-b} * y) * d_dx(p) + ({-c} * x + {-d} * y) * d_dy(p)"
    equation = pde.PDE({"p": f"laplace(p) + {flow} + {-(a + d)} * p"}, bc={"value": 0})
    grid = pde.CartesianGrid([[-SIDE, SIDE], [-SIDE, SIDE]], cells)
    solver = EulerSolver(equation, backend="numba")
    longest = STABLE * (2 * SIDE / cells) ** 2 / 4
    step = problem.time / math.ceil(problem.time / longest)
    kept: list[Callable[..., Any]] = []

    def go(points: int) -> Array:
        state = pde.ScalarField(grid, problem.start)
        if not kept:
            kept.append(solver.make_stepper(state, step))
        kept[0](state, 0.0, problem.time)
        return np.asarray(state.data.ravel()[problem.places[:points]])

    return [Candidate("explicit Euler", go, n)]
