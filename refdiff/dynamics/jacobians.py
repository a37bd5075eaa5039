r"""The Jacobian of a flow map, by the variational equation.

    dx/dt = v(x, t),     dM/dt = (dv/dx) M,  M = I at the start:      M = d x_end / d x_start
    log |det M| = int div v dt = log p_start(x_start) - log p_end(x_end)          (Liouville)

M is never singular, however strongly it contracts: flow maps are injective, and on the line increasing. Its entries are
numbers of the state beside x, held to the same tolerance; the integral of div v, which knows nothing of M, is carried
along as a check on it. For Gaussian data M is the gain of `gaussian_flow`. Sources: PODD-53, PODD-118, TOPB-19.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff.arguments import Array, points
from refdiff.dynamics.stepping import LEAST_RTOL, Run, Steps, times_with_density
from refdiff.model import ExactModel


@dataclass(frozen=True, eq=False)
class FlowJacobian:
    """Points at the end of a flow, and how they move with where they start.

    Attributes:
        x: shape (..., d).
        jacobian: M = d x_end / d x_start, shape (..., d, d).
        log_volume: int div v dt from start to end along each path, shape (...): what log |det M| should be.
        evaluations: of the velocity with its Jacobian, shape (...).
    """

    x: Array
    jacobian: Array
    log_volume: Any
    evaluations: NDArray[np.int64]

    @property
    def log_determinant(self) -> Any:
        """log |det M| from M itself, shape (...)."""
        return np.linalg.slogdet(self.jacobian)[1]


def flow_jacobian(
    model: ExactModel,
    x: ArrayLike,
    start: float,
    end: float,
    *,
    method: str = "dop853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    max_steps: int = 10_000,
) -> FlowJacobian:
    """The flow map of `flow` and its Jacobian, for a batch of points.

    Args:
        model: an ExactModel.
        x: points at the time `start`, shape (..., d).
        start, end: in [0, T], in either order.
        method: dop853, or dopri5 for loose tolerances.
        rtol, atol: of each step, as of `flow`, over the coordinates of a point and the entries of its M together.
        max_steps: attempts after which a group of points is given up.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: what `flow` refuses.
        Unfinished: some group of points needs more steps, or none is short enough.

    Examples:
        >>> from refdiff import ExactModel, FlowMatching, Gaussian
        >>> from refdiff.dynamics import flow_jacobian
        >>> model = ExactModel(Gaussian([0.0, 0.0], [1.0, 4.0]), FlowMatching())
        >>> found = flow_jacobian(model, [[3.0, 5.0]], 0.0, 1.0)  # to N(0, I): the axes by 1 and 1/2
        >>> print(found.jacobian.round(6) + 0.0)
        [[[1.  0. ]
          [0.  0.5]]]
    """
    start, end = times_with_density(model, start=start, end=end)
    how, dim = Steps(method, rtol, atol, max_steps), model.dim
    rows, restore = points("x", x, dim)
    before, after = (model.process.offset(t).value for t in (start, end))
    centred, count = model.centred, len(rows)
    # the RMS over d + d^2 numbers bounds that over the d coordinates in tolerances smaller by sqrt(d + 1)
    stricter = Steps(method, max(how.rtol / np.sqrt(dim + 1), LEAST_RTOL), how.atol / np.sqrt(dim + 1), how.max_steps)
    unit = np.broadcast_to(np.eye(dim).ravel(), (count, dim * dim))
    volume = np.zeros(count)
    run = Run(np.hstack([rows - before, unit]), volume, start, end)

    def rates(state: Array, t: float) -> tuple[Array, Array | None]:
        at, matrices = state[:, :dim], state[:, dim:].reshape(-1, dim, dim)
        turned = centred.velocity_jacobian(at, t) @ matrices
        return np.hstack([centred.velocity(at, t), turned.reshape(len(at), -1)]), centred.velocity_divergence(at, t)

    for group in run.groups(stricter.sharing):
        run.together(group, rates, stricter)
    run.flow(lambda part: part)  # which says what did not end
    counts = run.counts[:, 0].reshape(np.shape(restore(rows))[:-1])[()]
    jacobian = restore(run.x[:, dim:].reshape(-1, dim, dim))
    return FlowJacobian(restore(run.x[:, :dim] + after), jacobian, restore(volume), counts)
