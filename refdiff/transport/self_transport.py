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
from refdiff.backends import array_module
from refdiff.metrics.compared import Compared
from refdiff.transport.costs import Ground
from refdiff.transport.device_points import DevicePoints, where_it_is
from refdiff.transport.sinkhorn import EntropicPlan, Unconverged, largest_cost, problem, sinkhorn
from refdiff.transport.soft_minima import side
from refdiff.transport.turns import PATIENCE

STEPS = 40  # usual, to a tolerance of 1e-12: errors are halved


@where_it_is
def self_sinkhorn(
    p: Compared | DevicePoints,
    epsilon: float,
    *,
    cost: Ground = "half-squared",
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> EntropicPlan:
    """The entropic plan of p and p.

    Args:
        p: a law of points, or points (n, d) of equal weights; on a GPU as of `sinkhorn`.
        epsilon, cost, tolerance, max_iterations: as of `sinkhorn`, which is called for costs that are no powers of the
            distance up to the second.

    Raises:
        TypeError: an argument is nothing of the kind.
        ValueError: p has no points, a number is out of range, or costs overflow in units of eps.
        Unconverged: the marginal error stays above the tolerance.
    """
    law, _, ground = problem(p, p, cost)
    if not ground.of_distance or ground.order > 2:
        return sinkhorn(law, law, epsilon, cost=cost, tolerance=tolerance, max_iterations=max_iterations)
    e = real_scalar("epsilon", epsilon, low=0, open_low=True)
    tolerance = real_scalar("tolerance", tolerance, low=0, open_low=True)
    most = whole_number("max_iterations", max_iterations, low=1)
    largest_cost(ground, law.means, law.means, e)
    xp = array_module(law.log_weights)
    kept = xp.isfinite(law.log_weights)
    x, a = law.means[kept], law.weights[kept]
    sums, errors, near, lost = side(ground, x, x, law.log_weights[kept], STEPS), list[float](), None, 0
    f = 0 * a
    while len(errors) < most:
        near = sums.minima(f, e, near)
        new = e * near
        with np.errstate(over="ignore"):  # of a start that is far off
            rows = xp.exp((f - new) / e)
        errors.append(2 * float(a @ abs(rows - 1)))
        if f.dtype == np.float32:  # whose roundings may be more than the tolerance
            lost += errors[-1] <= 4 * float(np.finfo("f4").eps) * float(abs(f).max()) / e
        if errors[-1] <= tolerance or lost > PATIENCE:
            break
        f = 0.5 * (f + new)
    everywhere = xp.empty_like(law.log_weights)
    everywhere[kept] = f
    if not kept.all():
        everywhere[~kept] = e * side(ground, law.means[~kept], x, law.log_weights[kept], 1).minima(f, e)
    value = 2 * a @ f - e * float(a @ rows - 1)
    plan = EntropicPlan(
        law, law, ground, e, everywhere, everywhere, float(value), errors[-1], len(errors), np.array(errors)
    )
    if not errors[-1] <= tolerance:  # no number, either
        raise Unconverged(
            f"the marginal error is {errors[-1]:.3g} after {len(errors)} iterations, not {tolerance:g}: "
            f"{'take a larger tolerance' if lost > PATIENCE else 'allow for more'}",
            plan,
        )
    return plan
