r"""The Schroedinger bridge of two point sets, from the weights of Sinkhorn.

    K_ij = p(y_j | x_i),   u_i sum_j K_ij v_j = a_i,   v_j sum_i u_i K_ij = b_j,      gamma_ij = u_i K_ij v_j
    Psi(x, t) = sum_j v_j N(y_j; A x + k, N)          Psihat(x, t) = sum_i u_i N(x; B x_i + h, C)
    b+ = F x + u + D A' N^-1 (sum_j w_j(x, t) y_j - A x - k),   w_j the share of j in Psi
    p_t = Psi Psihat = sum_ij gamma_ij N(P y_j + Q x_i + c, V),     the pinned bridges of all pairs

with (A, k, N) the channel of the reference from t to T and (B, h, C) that from 0 to t: the exact drift for data, as the
empirical score is in diffusion. A linear reference is Brownian motion for Sinkhorn, with N^-1/2 (A x_i + k) and N^-1/2
y_j in the place of the points and eps = 1. As eps -> 0 paths become straight lines between the points that an optimal
coupling pairs; as eps -> infinity x_0 and x_T become independent. The first marginal is exact, and the second one as
good as Sinkhorn's. Sources: PODB-74, PODB-76, PODB-79, PODB-80, PODB-81, PODB-83.
"""

from __future__ import annotations

from typing import Any

from refdiff import operators
from refdiff.distributions import GaussianMixture
from refdiff.distributions.mixture import law
from refdiff.distributions.moments import log_total
from refdiff.processes import Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.mixtures import MixtureBridge
from refdiff.schroedinger.potentials import earlier, of_points
from refdiff.schroedinger.reference import reference_process
from refdiff.transport import EntropicPlan, sinkhorn

TOLERANCE, TURNS = 1e-9, 10_000  # of Sinkhorn


def point_bridge(
    p: GaussianMixture,
    q: GaussianMixture,
    process: Process | Schedule | float,
    T: float | None = None,
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = TURNS,
) -> MixtureBridge:
    """The Schroedinger bridge from one point set to another: that of their weighted points as potentials.

    Args:
        p: the law at time 0, of n points.
        q: the law at time T, of m points.
        process: the reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.
        tolerance: of Sinkhorn's marginal error.
        max_iterations: of Sinkhorn.

    Raises:
        TypeError: p or q is no law, or process no reference.
        ValueError: a law with variances, dimensions that differ, or noise that does not reach every direction by T.
        Unconverged: Sinkhorn stays above the tolerance.
    """
    whole, end = reference_process(process, T)
    plan = point_plan(p, q, whole, end, tolerance=tolerance, max_iterations=max_iterations)
    second = _weighted(q, q.log_weights + plan.g / plan.epsilon)
    past, _ = earlier(second, whole.channel(0.0, end), p.means)
    return MixtureBridge(_weighted(p, p.log_weights - past), second, whole, end)


def point_plan(
    p: GaussianMixture,
    q: GaussianMixture,
    process: Process | Schedule | float,
    T: float | None = None,
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = TURNS,
) -> EntropicPlan:
    """The coupling of the ends of `point_bridge`, as Sinkhorn's plan: its masses, its errors, its cost.

    It is that of the points of p, moved to T, and of q, with the variance of the noise on the way as its eps; where
    that noise is no one number, of these in units of the noise, with eps = 1.

    Args:
        p: the law at time 0, of n points.
        q: the law at time T, of m points.
        process: the reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.
        tolerance: of Sinkhorn's marginal error.
        max_iterations: of Sinkhorn.

    Raises:
        TypeError: p or q is no law, or process no reference.
        ValueError: a law with variances, dimensions that differ, or noise that does not reach every direction by T.
        Unconverged: Sinkhorn stays above the tolerance.

    Examples:
        >>> import numpy as np
        >>> from refdiff import Empirical
        >>> from refdiff.schroedinger import point_plan
        >>> ends = Empirical([[0.0], [1.0]])
        >>> plan = point_plan(ends, ends, 0.5)  # Sinkhorn's plan for |x - y|^2 / 2 at eps = 0.5
        >>> np.allclose(plan.coupling()[0, 0], 0.5 / (1 + np.exp(-1)))
        True
    """
    for name, one in (("p", p), ("q", q)):
        _points(name, one)
    whole, end = reference_process(process, T)
    MixtureBridge(p, q, whole, end)  # of potentials yet to be weighted: dimensions are checked
    step = whole.channel(0.0, end)
    if operators.singular(step.noise):
        raise ValueError(f"process must have noise that reaches every direction by T = {end}, got {step.noise}")
    x, y, epsilon = operators.apply(step.gain, p.means) + step.offset, q.means, 1.0
    if step.noise.ndim == 0:
        epsilon = float(step.noise)
    else:
        white = operators.inverse(operators.root(step.noise))
        x, y = operators.apply(white, x), operators.apply(white, y)
    one, two = law(p.log_weights, x, p.covariances), law(q.log_weights, y, q.covariances)
    return sinkhorn(one, two, epsilon, tolerance=tolerance, max_iterations=max_iterations)


def _points(name: str, given: Any) -> None:
    if not isinstance(given, GaussianMixture):
        raise TypeError(f"{name} must be a law of points, as Empirical(x) is, got {type(given).__name__}")
    if not of_points(given):
        raise ValueError(f"{name} must be a law of points, without variances, got {given!r}")


def _weighted(given: GaussianMixture, logs: Any) -> GaussianMixture:
    """The points of a law with other log weights (n,), made to sum to 1."""
    return law(logs - log_total(logs[None])[0], given.means, given.covariances)
