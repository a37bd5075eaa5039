r"""DPM-Solver++: DPM-Solver for the data prediction, DDIM at first order.

    2S   u   = sigma_m / sigma_s x + alpha_m (1 - e^(-r h)) D(x, s)              at lambda_m = lambda_s + r h
         x_t = sigma_t / sigma_s x + alpha_t (1 - e^-h) [(1 - 1/2r) D(x, s) + 1/2r D(u, m)]
    2M   x_t = sigma_t / sigma_s x + alpha_t (1 - e^-h) [(1 + 1/2r) D_i - 1/2r D_(i-1)],    r = h_before / h

The brackets (solver_type midpoint) put 1/2 where the interpolant through both evaluations has
(h - 1 + e^-h) / (h (1 - e^-h)) = 1/2 + h/12 + ... (solver_type heun). 3S and 3M take a parabola. On the grid that ends
at sigma = 0 the last step is of first order, x_t = alpha_t D: h is infinite, and slopes in lambda mean nothing there;
a grid that ends at sigma_min > 0 has no such step. At alpha = 0 likewise the first step is DDIM.

Sources: PODC9-31..35 (Lu et al. 2022b); `dpm_solver` has the steps.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from refdiff.processes import AffineProcess
from refdiff.samplers.dpm_solver import Multistep, multistep_table, singlestep_table
from refdiff.samplers.families import Family
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule


def dpm_solver_pp(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    r1: float | None = None,
    r2: float | None = None,
    solver_type: str = "midpoint",
) -> Tableau:
    """DPM-Solver++ single step, 2S and 3S: `order` evaluations a step, inside the step, of the denoiser.

    Order 2 holds for every r1. Order 3 needs r2 = 2/3 and falls to 2 elsewhere: the first inner stage is off by
    O(h^2), and only there does its weight vanish with h.

    Args:
        process, times: the process and the decreasing grid (n + 1,); a step from alpha = 0 or onto sigma = 0 is DDIM.
        order: 1, 2 or 3.
        r1, r2: where the inner evaluations are, as parts of the step in lambda: 0 < r1 < r2 <= 1.
        solver_type: midpoint (diffusers), dpmsolver (the authors' code: as midpoint, with an exact weight in the
            second inner stage of order 3), heun (taylor) with exact weights.

    Raises:
        ValueError: an unknown order or solver_type, parts that are not increasing in (0, 1] or not used, or inner
            points for a process that is not the same on all axes.
    """
    return singlestep_table(f"DPM-Solver++({order}S)", process, times, "denoiser", order, r1, r2, solver_type)


def dpm_solver_pp_multistep(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    solver_type: str = "midpoint",
    lower_order_final: bool = False,
    euler_at_final: bool = False,
    halved_curvature: bool = False,
    towards_noise: bool = False,
) -> Tableau:
    """DPM-Solver++ multistep, 2M and 3M: one evaluation of the denoiser a step.

    The first steps are of order 1, 2, as far as there is a history, which caps the order as run at 2.

    Args:
        process, times: the process and the decreasing grid (n + 1,); a step from alpha = 0 or onto sigma = 0 is DDIM.
        order: 1, 2 or 3.
        solver_type: the weight of the slope in steps of order 2: midpoint (dpmsolver) or heun (taylor).
        lower_order_final: the last steps have an order of at most the number of steps left; implementations do so
            on short grids (below 10 or 15 steps), which is left to the caller here.
        euler_at_final: the last step has order 1.
        halved_curvature: in order 3 take half of the interpolant's second derivative, as the authors' released code
            and what follows it do; the order is then 2.
        towards_noise: the grid increases from sigma > 0, and the same steps invert the flow.

    Raises:
        ValueError: an unknown order or solver_type.
    """
    rules = Multistep(order, solver_type, lower_order_final, euler_at_final, halved_curvature)
    return multistep_table(f"DPM-Solver++({order}M)", process, times, "denoiser", rules, towards_noise=towards_noise)


# As run, 3M has order 2: its first step has a local error O(h^2), and there is one of it.
S2, S3 = "PODC9-33 (Lu et al. 2022b)", "PODC9-32 (Lu et al. 2022b)"
M2, M3 = "PODC9-34, PODC9-35 (Lu et al. 2022b)", "PODC9-32, PODC9-37 (Lu et al. 2022b)"
HEUN = {"solver_type": "heun"}
FAMILIES = (
    Family("dpmpp-2s", dpm_solver_pp, 2, "2n", S2, {"order": 2}, starts_pure=True),
    Family("dpmpp-2s-heun", dpm_solver_pp, 2, "2n", S2, {"order": 2, **HEUN}, starts_pure=True),
    Family("dpmpp-3s", dpm_solver_pp, 3, "3n", S3, {"order": 3}, starts_pure=True),
    Family("dpmpp-3s-heun", dpm_solver_pp, 3, "3n", S3, {"order": 3, **HEUN}, starts_pure=True),
    Family("dpmpp-2m", dpm_solver_pp_multistep, 2, "n", M2, {"order": 2}, starts_pure=True),
    Family("dpmpp-2m-heun", dpm_solver_pp_multistep, 2, "n", M2, {"order": 2, **HEUN}, starts_pure=True),
    Family("dpmpp-3m", dpm_solver_pp_multistep, 3, "n", M3, {"order": 3}, 2, 2, starts_pure=True),
    Family(
        "dpmpp-3m-halved",
        dpm_solver_pp_multistep,
        2,
        "n",
        M3,
        {"order": 3, "halved_curvature": True},
        starts_pure=True,
    ),
)
