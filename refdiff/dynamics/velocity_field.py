r"""Flows of velocity fields that a user brings, a trained network's for one.

    dx/dt = v(x, t),      d log p_t(x_t) / dt = -div v(x_t, t),      div v = tr dv/dx = sum_i e_i' (dv/dx) e_i

Such a field is asked for its velocity, and for the divergence or for products (dv/dx) u, which is what automatic
differentiation gives. Time may run in either direction and mean what it likes; nothing is known of marginals.
Sources: PODB-22, PODB-23, PODB-27.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, points, real_scalar, whole_number
from refdiff.dynamics.stepping import Flow, Run, Steps

# Points that go through one solver together unless `batch` says otherwise: a network answers for many at once.
BATCH = 256


@dataclass(frozen=True, eq=False)
class VelocityField:
    """A field dx/dt = v(x, t) on R^d, by functions of points x (n, d) and one time t.

    Arrays in and out are NumPy's. A network in torch, `of` making a tensor of an array, is asked like this:

        VelocityField(
            lambda x, t: net(of(x), t).numpy(),
            dim,
            jvp=lambda x, t, u: torch.func.jvp(lambda y: net(y, t), (of(x),), (of(u),))[1].numpy(),
        )

    A ValueError that one of them raises on the way says that a step went too far, which is then shortened; at the start
    it is the caller's.

    Args:
        velocity: (x, t) -> v, shape (n, d).
        dim: d.
        divergence: (x, t) -> div v, shape (n,).
        jvp: (x, t, u) -> (dv/dx) u for one vector a point, u and the answer of shape (n, d).

    Raises:
        TypeError: velocity, divergence or jvp is no function.
        ValueError: dim is less than 1.
    """

    velocity: Callable[[Array, float], ArrayLike]
    dim: int
    divergence: Callable[[Array, float], ArrayLike] | None = None
    jvp: Callable[[Array, float, Array], ArrayLike] | None = None

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)
        for name in ("velocity", "divergence", "jvp"):
            function = getattr(self, name)
            if not callable(function) and (name == "velocity" or function is not None):
                raise TypeError(f"{name} must be a function, got {function!r}")

    def at(self, x: Array, t: float) -> Array:
        """v at points x (n, d), shape (n, d).

        Raises:
            ValueError: what `velocity` answers has another shape, or is not finite.
        """
        return answered("velocity", self.velocity(x, t), x.shape, finite=True)

    def products(self, x: Array, t: float, u: Array) -> Array:
        """The forms u'(dv/dx) u for m vectors a point, u (n, m, d), at x (n, d): shape (n, m).

        Raises:
            ValueError: there is no `jvp`, or its answer has another shape than x or is not finite.
        """
        if self.jvp is None:
            raise ValueError("jvp must be given, for probes of the divergence")
        forms = np.empty(u.shape[:2])
        for k in range(u.shape[1]):
            forms[:, k] = (u[:, k] * answered("jvp", self.jvp(x, t, u[:, k]), x.shape, finite=True)).sum(axis=-1)
        return forms

    def jacobian(self, x: Array, t: float) -> Array:
        """dv/dx at x (n, d), a product along every axis, shape (n, d, d).

        Raises:
            ValueError: there is no `jvp`, or its answer has another shape than x or is not finite.
        """
        if self.jvp is None:
            raise ValueError("jvp must be given, for a Jacobian")
        axes = (np.broadcast_to(e, x.shape).copy() for e in np.eye(self.dim))
        return np.stack([answered("jvp", self.jvp(x, t, e), x.shape, finite=True) for e in axes], axis=-1)

    def volume_rate(self, x: Array, t: float) -> Array:
        """The exact divergence at x (n, d), shape (n,): by `divergence`, or else by a product along every axis.

        Raises:
            ValueError: there is neither, or the answer has another shape or is not finite.
        """
        if self.divergence is not None:
            return answered("divergence", self.divergence(x, t), x.shape[:1], finite=True)
        if self.jvp is None:
            raise ValueError("divergence or jvp must be given, for a log density")
        rate = np.zeros(len(x))
        for axis in range(self.dim):  # one at a time: all of them are as large as the Jacobian
            e = np.zeros((len(x), 1, self.dim))
            e[:, :, axis] = 1
            rate += self.products(x, t, e)[:, 0]
        return rate


def field_flow(
    field: VelocityField,
    x: ArrayLike,
    start: float,
    end: float,
    *,
    log_density: bool = False,
    method: str = "dop853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    max_steps: int = 10_000,
    batch: int = BATCH,
) -> Flow:
    """The flow map of a velocity field from time `start` to time `end`, in either direction.

    Args:
        field: a VelocityField.
        x: points at the time `start`, shape (..., d).
        log_density: whether the change of log p is wanted, by the exact divergence.
        method: dop853, or dopri5 for loose tolerances.
        rtol, atol: of each step, for every point: the RMS over the axes of error / (atol + rtol |x|) is at most 1, and
            so is the error of log p over rtol (1 + |change|). A field in float32 has noise of 1e-7: take 1e-5.
        max_steps: attempts after which a batch is given up.
        batch: how many points go through one solver together, with common steps.

    Raises:
        TypeError: the field is no VelocityField.
        ValueError: an unknown method, a tolerance too small, no divergence where one is needed, or a field whose
            answers have another shape than asked or are not finite at x.
        Unfinished: some batch needs more steps, or none is short enough.

    Examples:
        >>> import numpy as np
        >>> from refdiff.dynamics import VelocityField, field_flow
        >>> field = VelocityField(lambda x, t: -x, 1, divergence=lambda x, t: np.full(len(x), -1.0))
        >>> found = field_flow(field, [[1.0]], 0.0, np.log(2), log_density=True)
        >>> print(found.x.round(6), found.log_density_change.round(6))  # e^-t, and t: what shrinks gets denser
        [[0.5]] [0.693147]
    """
    if not isinstance(field, VelocityField):
        raise TypeError(f"field must be a VelocityField, got {field!r}")
    how, batch = Steps(method, rtol, atol, max_steps), whole_number("batch", batch, low=1)
    rows, restore = points("x", x, field.dim)
    start, end = real_scalar("start", start), real_scalar("end", end)
    run = Run(rows, np.zeros(len(rows)) if log_density else None, start, end)
    for group in run.groups(batch):
        run.together(group, lambda at, t: (field.at(at, t), -field.volume_rate(at, t) if log_density else None), how)
    return run.flow(restore)
