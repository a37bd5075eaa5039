r"""The entropic plan of a point set with itself, whose two potentials are one.

    f  <-  (f + f') / 2,      f'_i = -eps log sum_j a_j exp((f_j - c_ij) / eps)

Taken in turns, potentials of a set with itself converge like the second eigenvalue of the plan squared, which is near
1 where a few points are close to each other and far from the rest. Near the solution f' turns an error h into -M h,
with the plan's Markov matrix M. Where exp(-c / eps) is a positive kernel, as for powers of the distance up to the
second, its eigenvalues are in [0, 1], and the mean of both has those of (I - M) / 2: every error is halved at least,
at any eps. Sources: PODB-75; Knight, Ruiz and Ucar 2014, "A symmetry preserving algorithm for matrix scaling"; Feydy et
al. 2019, "Interpolating between optimal transport and MMD using Sinkhorn divergences".
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import real_scalar, whole_number
from refdiff.metrics.compared import Compared, is_points, sides
from refdiff.transport.costs import Ground, ground_cost
from refdiff.transport.sinkhorn import EntropicPlan, Unconverged, sinkhorn
from refdiff.transport.soft_minima import side

STEPS = 40  # usual, to a tolerance of 1e-12: errors are halved


def self_sinkhorn(
    p: Compared,
    epsilon: float,
    *,
    cost: Ground = "half-squared",
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> EntropicPlan:
    """The entropic plan of p and p.

    Args:
        p: a law of points, or points (n, d) of equal weights.
        epsilon, cost, tolerance, max_iterations: as of `sinkhorn`, which is called for costs that are no powers of the
            distance up to the second.

    Raises:
        TypeError: an argument is nothing of the kind.
        ValueError: p has no points, or a number is out of range.
        Unconverged: the marginal error stays above the tolerance.
    """
    (p, _), _ = sides(p, p)
    if not is_points(p):
        raise ValueError(f"p must be a law of points, without variances, got {p!r}")
    ground = ground_cost(cost, (p.count, p.count))
    if not ground.of_distance or ground.order > 2:
        return sinkhorn(p, p, epsilon, cost=cost, tolerance=tolerance, max_iterations=max_iterations)
    e = real_scalar("epsilon", epsilon, low=0, open_low=True)
    tolerance = real_scalar("tolerance", tolerance, low=0, open_low=True)
    most = whole_number("max_iterations", max_iterations, low=1)
    kept = np.isfinite(p.log_weights)
    x, a = p.means[kept], p.weights[kept]
    sums, errors, near = side(ground, x, x, p.log_weights[kept], STEPS), list[float](), None
    f = np.zeros(len(x))
    while len(errors) < most:
        near = sums.minima(f, e, near)
        new = e * near
        with np.errstate(over="ignore"):  # of a start that is far off
            rows = np.exp((f - new) / e)
        errors.append(2 * float(a @ np.abs(rows - 1)))
        if errors[-1] <= tolerance:
            break
        f = 0.5 * (f + new)
    everywhere = np.empty(p.count)
    everywhere[kept] = f
    if not kept.all():
        everywhere[~kept] = e * side(ground, p.means[~kept], x, p.log_weights[kept], 1).minima(f, e)
    value = 2 * a @ f - e * float(a @ rows - 1)
    plan = EntropicPlan(
        p, p, ground, e, everywhere, everywhere, float(value), errors[-1], len(errors), np.array(errors)
    )
    if errors[-1] > tolerance:
        raise Unconverged(
            f"the marginal error is {errors[-1]:.3g} after {most} iterations, not {tolerance:g}: allow for more", plan
        )
    return plan
