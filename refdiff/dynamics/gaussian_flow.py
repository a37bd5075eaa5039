r"""Flow maps of Gaussian data, in closed form or as a rotation.

With data N(m, S) and x_t = A x_0 + b + R eps, p_t = N(c, P), c = A m + b, P = A S A' + C, and the flow is affine:

    dx/dt = c' + J (x - c),   J = Q P^-1,   Q = A' S A^T + F C + D/2           (A' a rate, A^T transposed; Q + Q^T = P')
    x_e = c_e + M (x_s - c_s),   M P_s M^T = P_e

M is known but for a rotation: M = P_e^(1/2) U P_s^(-1/2) with symmetric roots r of P, where on the eigenvectors of P

    U' = O U,   O_ij = (Q_ij r_i - Q_ji r_j) / (r_i r_j (r_i + r_j)),   antisymmetric

which is 0 where Q and P commute: one schedule for all axes, or axes of their own and data along them. There

    M = (P_e P_s^-1)^(1/2),        for a point mass  sigma_e / sigma_s.

Elsewhere (matrix processes, or data across axes that are noised at different rates) Gauss steps carry U to rounding,
and keep it a rotation; it does not turn with the size of the noise. Sources: PODD-118, RDX-19, RDX-20c.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff import operators
from refdiff.arguments import Array, real_scalar
from refdiff.channels import Channel
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.distributions.mixture import Gaussian
from refdiff.model import ExactModel
from refdiff.operators import Operator
from refdiff.processes.affine import AffineProcess
from refdiff.processes.motion import Process
from refdiff.processes.transition import Linear, over
from refdiff.schedules import Schedule


def gaussian_flow(law: Gaussian, process: Process | Schedule, start: float, end: float) -> Channel:
    """The flow map of Gaussian data from time `start` to time `end`, as a channel without noise.

    Args:
        law: the data, a Gaussian; a point mass where its covariance is 0.
        process: any process, or a Schedule.
        start, end: in [0, T], in either order. There must be a density at the start, and at the end where the map has
            no closed form.

    Returns:
        The channel x -> M x + b: M is a number or (d,) where it is diagonal in what is given, else (d, d).

    Raises:
        TypeError: the law is no Gaussian, or the process is none.
        ValueError: they do not fit each other, a time is outside [0, T], or there is no density.

    Examples:
        >>> from refdiff import Gaussian, VEPower
        >>> from refdiff.dynamics import gaussian_flow
        >>> way = gaussian_flow(Gaussian([3.0], 4.0), VEPower(), 0.0, 1.5)  # m + sqrt((4 + 1.5^2) / 4) (x - m)
        >>> print(way.gain.round(6), way.offset.round(6), way.noise)
        1.25 [-0.75] 0.0
    """
    if not isinstance(law, Gaussian):
        raise TypeError(f"law must be a Gaussian, got {law!r}")
    model = ExactModel(law, process)
    start, end = (real_scalar(name, t, low=0, high=model.process.T) for name, t in (("start", start), ("end", end)))
    if start == end:
        return Channel()
    before, after = model.marginal(start), model.marginal(end)
    if before.covariances.singular:
        raise ValueError(NO_DENSITY.format(what="the covariance at the start"))
    gain = _gain(law, model.process, start, end)
    if gain is None:
        if after.covariances.singular:
            raise ValueError(NO_DENSITY.format(what="the covariance at the end"))
        gain = _turned(law, model.process, start, end)
    return Channel(gain, after.means[0] - operators.apply(gain, before.means[0]))


def _gain(law: Gaussian, process: Process, start: float, end: float) -> Operator | None:
    """M where all that enters commutes, or where there are no data to commute with."""
    data = law.covariance
    if isinstance(process, AffineProcess) and (data.ndim < 2 or not process.per_axis):
        values, axes = np.linalg.eigh(data) if data.ndim == 2 else (data, None)
        first, last = (process.coefficients(t) for t in (start, end))
        # of a matrix without full rank rounding makes eigenvalues below 0
        before, after = (c.alpha**2 * np.maximum(values, 0.0) + c.sigma**2 for c in (first, last))
        stretch = np.asarray(np.sqrt(after / before))
        return stretch if axes is None else np.asarray((axes * stretch) @ axes.T)
    return None if data.any() else process.noise_channel(start, end).gain


def _turned(law: Gaussian, process: Process, start: float, end: float) -> Array:
    """M of matrix processes, or of data across axes that are noised at different rates."""
    dim = law.dim
    data = operators.dense(law.covariance, dim)

    def rates(t: float) -> tuple[Array, Array]:
        m = process.motion(t)
        gain, dgain, noise, spread = (operators.dense(part, dim) for part in (m.gain, m.dgain, m.noise, m.spread))
        return gain @ data @ gain.T + noise, dgain @ data @ gain.T + spread

    return covariance_flow(rates, start, end)


def covariance_flow(rates: Callable[[float], tuple[Array, Array]], start: float, end: float) -> Array:
    """M = P_e^(1/2) U P_s^(-1/2) of dx/dt = Q P^-1 x from the time `start` to the time `end`, shape (d, d).

    Args:
        rates: t -> P and Q, each (d, d), with P' = Q + Q': P regular but perhaps at the end.
        start, end: the times, in either order.

    Raises:
        ValueError: P and Q change from one time to the next at all times, as around a time at which P is singular.
    """

    def roots(t: float) -> tuple[Array, Array, Array]:
        """r (d,), the eigenvectors of P (d, d), and Q."""
        covariance, q = rates(t)
        values, axes = np.linalg.eigh(covariance)
        return np.sqrt(np.maximum(values, 0.0)), axes, q

    def turning(t: float) -> Array:
        r, axes, q = roots(t)
        within = axes.T @ q @ axes
        whole = (within * r[:, None] - within.T * r) / (np.multiply.outer(r, r) * np.add.outer(r, r))
        return np.asarray(axes @ whole @ axes.T)

    (first, before, _), (last, after, _) = roots(start), roots(end)
    dim = len(first)
    still = Linear(turning, lambda _: np.zeros(dim), lambda _: np.zeros((dim, 1)))
    turn = over(still, start, end).gain
    return np.asarray((after * last) @ after.T @ turn @ (before / first) @ before.T)
