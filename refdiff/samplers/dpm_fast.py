r"""DPM-Solver with a given number of evaluations: steps of order 3 (or 2), and lower ones for what is left.

    fast          K = nfe // 3 + 1 steps, of order   3, ..., 3, 2, 1    nfe = 3k
                                                     3, ..., 3, 1       nfe = 3k + 1
                                                     3, ..., 3, 2       nfe = 3k + 2
    single step   a grid of nfe steps, cut into blocks of these lengths: a block of p steps of the grid is one step of
                  order p, whose inner evaluations are at the points of the grid inside it

A last step of order 1 has a local error O(h^2), so the global order is 3 for nfe = 3k + 2 and 2 otherwise. Sources:
PODC9-23 (Lu et al. 2022a); `dpm_solver` has the steps.
"""

from __future__ import annotations

from itertools import accumulate

from numpy.typing import ArrayLike

from refdiff.arguments import one_of, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.dpm_solver import SOLVER_TYPES, check_start, single_step
from refdiff.samplers.families import Family
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule


def mixed_orders(nfe: int, order: int = 3) -> list[int]:
    """The orders of steps that take `nfe` evaluations together: `order` as often as it goes, and the rest."""
    nfe, order = whole_number("nfe", nfe, low=1), whole_number("order", order, low=1, high=3)
    full, left = divmod(nfe, order)
    if order == 3 and left == 0:
        return [3] * (full - 1) + [2, 1]
    return [order] * full + [left] * (left > 0)


def dpm_solver_fast(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    nfe: int | None = None,
    prediction: str = "noise",
    solver_type: str = "dpmsolver",
) -> Tableau:
    """DPM-Solver-fast: `nfe` evaluations in nfe // 3 + 1 steps of mixed order.

    Args:
        process, times: the process and the grid (n + 1,) of n = nfe // 3 + 1 steps, equal ones in lambda in the paper;
            a step from alpha = 0 (denoiser only) or onto sigma = 0 is of first order, and saves evaluations.
        nfe: the number of evaluations; 3n - 1 for a grid of n steps unless given.
        prediction: noise, or denoiser for the steps of DPM-Solver++.
        solver_type: as for DPM-Solver.

    Raises:
        ValueError: a grid that does not have nfe // 3 + 1 steps, an unknown prediction or solver_type, or a start
            at alpha = 0 with the noise.
    """
    one_of("solver_type", solver_type, SOLVER_TYPES)
    one_of("prediction", prediction, ("noise", "denoiser"))
    rec = Recorder("DPM-Solver-fast", process, times, prediction)
    check_start(rec)
    count = len(rec.steps)
    orders = mixed_orders(3 * count - 1 if nfe is None else nfe)
    if len(orders) != count:
        raise ValueError(f"times must have {len(orders)} steps for {nfe} evaluations, got {count}")
    x = rec.start
    for order, (s, t) in zip(orders, rec.steps, strict=True):
        parts = () if t.clean or s.pure_noise else {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}[order]
        x = single_step(rec, s, t, x, [(r, rec.between(s, t, r)) for r in parts], solver_type)
    return rec.finish(x)


def dpm_solver_singlestep(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 3,
    prediction: str = "noise",
    solver_type: str = "dpmsolver",
    lower_order_final: bool = True,
) -> Tableau:
    """DPM-Solver single step with all its evaluations on the grid: one evaluation for each step of the grid.

    Order 3 needs inner points near 1/3 and 2/3, as on a grid that is equal in any smooth function of lambda.

    Args:
        process, times: the process and the decreasing grid (n + 1,). From alpha = 0 (denoiser only) the first step of
            the grid stands alone and is DDIM, and likewise the last one onto sigma = 0.
        order: 1, 2 or 3.
        prediction: noise, or denoiser for the steps of DPM-Solver++.
        solver_type: as for DPM-Solver.
        lower_order_final: what order 3 leaves is taken in orders (2, 1), (1) or (2), what order 2 leaves in order 1.

    Raises:
        ValueError: a number of steps that is no multiple of the order without lower_order_final, an unknown order,
            prediction or solver_type, or a start at alpha = 0 with the noise.
    """
    order = whole_number("order", order, low=1, high=3)
    one_of("solver_type", solver_type, SOLVER_TYPES)
    one_of("prediction", prediction, ("noise", "denoiser"))
    rec = Recorder(f"DPM-Solver-{order} on the grid", process, times, prediction)
    check_start(rec)
    count = len(rec.steps)
    if not lower_order_final and count % order:
        raise ValueError(f"times must have a multiple of {order} steps without lower_order_final, got {count}")
    blocks = mixed_orders(count, order) if lower_order_final else [order] * (count // order)
    if rec.points[0].pure_noise and blocks[0] > 1:
        blocks[:1] = [1, blocks[0] - 1]
    if rec.points[-1].clean and blocks[-1] > 1:
        blocks[-1:] = [blocks[-1] - 1, 1]
    x = rec.start
    for first, size in zip(accumulate(blocks, initial=0), blocks, strict=False):
        s, *inside, t = rec.points[first : first + size + 1]
        # parts of a step are only needed where lambda is finite at both of its ends
        span = t.log_snr - s.log_snr if inside else 1.0
        x = single_step(rec, s, t, x, [((one.log_snr - s.log_snr) / span, one) for one in inside], solver_type)
    return rec.finish(x)


# Order 3 on the grid has no one order: 3 for n = 3k + 2 steps, and 2 otherwise, where the last step has order 1.
FAMILIES = (
    Family("dpm-solver-fast", dpm_solver_fast, 3, "3n - 1", "PODC9-23 (Lu et al. 2022a)"),
    Family("dpm-solver-singlestep-2", dpm_solver_singlestep, 2, "n", "PODC9-26 (Lu et al. 2022a)", {"order": 2}),
    Family("dpm-solver-singlestep-3", dpm_solver_singlestep, None, "n", "PODC9-23 (Lu et al. 2022a)", {"order": 3}),
)
