r"""Two classes that push each other apart: q as a rigid mass in the potential of Bhattacharyya's affinity.

    n'' = int F dx = -dU/dn,      |n'|^2 / 2 + U = constant           q keeps its shape, n is the mean that moves
    n' = int F dx                                                     with friction: down the steepest descent of U

For Gaussians with the mean M of their covariances n'' = -(U / 4) M^-1 (m - n): a straight line only along an
eigenvector of M; Fisher's direction is that of the push at each moment, and turns as q moves away.
Sources: PHY-110, PHY-111.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from refdiff import operators
from refdiff.arguments import Array, real_array, real_scalar
from refdiff.distributions import GaussianMixture
from refdiff.expectations import Route
from refdiff.physics.bhattacharyya import affinity, total_force


@dataclass(frozen=True, eq=False)
class Separation:
    """The way of a rigid mass.

    Attributes:
        times: shape (m,).
        shifts: how far q has moved by then, shape (m, d).
        velocities: shape (m, d).
        potentials: U, shape (m,).
    """

    times: Array
    shifts: Array
    velocities: Array
    potentials: Array


def separate(
    p: GaussianMixture,
    q: GaussianMixture,
    times: ArrayLike,
    *,
    velocity: ArrayLike = 0.0,
    friction: bool = False,
    route: Route | None = None,
    rtol: float = 1e-10,
) -> Separation:
    """The motion of q as a rigid unit mass in the potential U(p, q).

    Args:
        p: the law that rests.
        q: the law that moves, where it is at the first of the times.
        times: increasing, shape (m,).
        velocity: at the start, shape (d,) or a number; of no use with friction.
        friction: whether the velocity is the force (steepest descent) in place of the acceleration.
        route: how forces are summed; None in closed form for Gaussians.
        rtol: of SciPy's DOP853, no better than the route.

    Raises:
        TypeError: p or q is none of this library's laws, or route is none.
        ValueError: p and q differ in dimension or one has no density, there is no route, times do not increase, or the
            velocity does not fit.
        RuntimeError: the solver gives up.
    """
    when, rtol = real_array("times", times, ndim=(1,)), real_scalar("rtol", rtol, low=0, open_low=True)
    if len(when) < 2 or not (np.diff(when) > 0).all():
        raise ValueError(f"times must be two or more that increase, got {when.tolist()}")
    total_force(p, q, route)  # refused here if it is
    dim = p.dim
    start = real_array("velocity", velocity, ndim=(0, 1))
    operators.fits("velocity", start, dim)
    start = np.broadcast_to(start, (dim,))

    def push(shift: Array) -> Array:
        return np.asarray(total_force(p, q.affine(1.0, shift), route).value)

    def rate(_: float, state: Array) -> Array:
        if friction:
            return push(state)
        return np.concatenate([state[dim:], push(state[:dim])])

    first = np.zeros(dim) if friction else np.concatenate([np.zeros(dim), start])
    found = solve_ivp(rate, (when[0], when[-1]), first, "DOP853", t_eval=when, rtol=rtol, atol=rtol)
    if not found.success:
        raise RuntimeError(f"no solution to the tolerance {rtol}: {found.message}")
    shifts = found.y[:dim].T
    velocities = np.array([push(s) for s in shifts]) if friction else found.y[dim:].T
    potentials = np.array([affinity(p, q.affine(1.0, s), route).value for s in shifts])
    return Separation(when, shifts, velocities, potentials)
