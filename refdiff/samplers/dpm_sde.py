r"""SDE-DPM-Solver(++) and the stochastic DPM++ samplers of k-diffusion.

In lambda = log(alpha / sigma) the reverse SDEs with a share eta of the noise, whose marginals are the process's, are

    d(x / sigma) = -eta (x / sigma) dlambda + (1 + eta) e^lambda D dlambda + sqrt(2 eta) dw

With H = (1 + eta) h, h = lambda_t - lambda_s, and D frozen over a step this is solved exactly (order 1):

    x_t = sigma_t / sigma_s e^{-eta h} x_s + alpha_t (1 - e^{-H}) D_s + sigma_t sqrt(1 - e^{-2 eta h}) z

The multistep methods extrapolate D, with d1 = (D_s - D_r) h / (lambda_s - lambda_r) for the evaluation at r before s:

    midpoint  + alpha_t (1 - e^{-H}) d1 / 2              heun  + alpha_t (1 - (1 - e^{-H}) / H) d1

and order 3 puts the parabola through three evaluations into int_0^1 H e^{-H (1 - u)} D du.

The noise prediction eps in place of D has (eta = 1)

    x_t = alpha_t / alpha_s x_s - 2 sigma_t (e^h - 1) eps_s + sigma_t sqrt(e^{2h} - 1) z

DPM++ SDE and DPM++ 2S ancestral evaluate a point between s and t; they split a step to t as DDIM does, into a part of
x that is kept and fresh noise c z, c = eta times the posterior's standard deviation. Both splits are in ddim.py.
Sources: Lu et al. 2022b (DPM-Solver++, SDE-DPM-Solver++), k-diffusion (Crowson 2022), PODA-226.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from refdiff.arguments import one_of, real_scalar
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import flow_step, split
from refdiff.samplers.dpm_solver import Multistep, multistep_table
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import expm1, log, root
from refdiff.samplers.recorder import Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

# The share of the extrapolated change d1 that a multistep method adds, divided by 1 - e^{-H}.
SOLVER_TYPES = ("midpoint", "heun")
# The clock of the Brownian path whose increments DPM++ SDE uses twice in a step.
PATHS = ("sigma", "snr", "independent")


def sde_dpm_solver(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    solver_type: str = "midpoint",
    lower_order_final: bool = False,
    euler_at_final: bool = False,
    halved_curvature: bool = False,
) -> Tableau:
    """SDE-DPM-Solver-1, -2M and -3M: the reverse SDE (eta = 1) with the noise prediction extrapolated.

    The first steps are of order 1, 2. A last step to sigma = 0 gives the denoised point.

    Args:
        process, times: the process and the decreasing grid (n + 1,), which starts where alpha > 0.
        order: 1, 2 or 3, one more than the degree of the polynomial; the weak order is at most 2.
        solver_type: midpoint or heun, for steps of order 2.
        lower_order_final, euler_at_final, halved_curvature: as for `dpm_solver_multistep`.

    Raises:
        ValueError: a grid that starts at alpha = 0, an order or solver type that does not exist.
    """
    rules = Multistep(order, solver_type, lower_order_final, euler_at_final, halved_curvature, SOLVER_TYPES)
    return multistep_table(f"SDE-DPM-Solver-{order}" + "M" * (order > 1), process, times, "noise", rules, eta=1.0)


def sde_dpm_solver_pp(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    solver_type: str = "midpoint",
    eta: float = 1.0,
    s_noise: float = 1.0,
    lower_order_final: bool = False,
    euler_at_final: bool = False,
    halved_curvature: bool = False,
) -> Tableau:
    """SDE-DPM-Solver++-1, -2M and -3M; -2M is k-diffusion's DPM++ 2M SDE.

    A step next to an infinite lambda is of order 1: from alpha = 0 (and the step after it, whose extrapolation has
    no finite step behind it), and to sigma = 0, where it gives the denoised point. The first steps are of order 1, 2.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0.
        order: 1, 2 or 3, one more than the degree of the polynomial; the weak order is at most 2.
        solver_type: midpoint or heun, for steps of order 2.
        eta: the noise of the SDE, 0 the probability flow and 1 the reverse SDE.
        s_noise: a factor on the noise that is added.
        lower_order_final, euler_at_final, halved_curvature: as for `dpm_solver_pp_multistep`.

    Raises:
        ValueError: an order or solver type that does not exist, negative eta or s_noise.
    """
    rules = Multistep(order, solver_type, lower_order_final, euler_at_final, halved_curvature, SOLVER_TYPES)
    return _data_sde(f"SDE-DPM-Solver++-{order}" + "M" * (order > 1), process, times, rules, eta, s_noise)


def _data_sde(
    name: str, process: AffineProcess | Schedule, times: ArrayLike, rules: Multistep, eta: float, s_noise: float
) -> Tableau:
    eta, s_noise = real_scalar("eta", eta, low=0), real_scalar("s_noise", s_noise, low=0)
    return multistep_table(name, process, times, "denoiser", rules, eta=eta, s_noise=s_noise)


def dpmpp_3m_sde(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    published: bool = True,
) -> Tableau:
    """DPM++ 3M SDE: D extrapolated by a parabola.

    The published weights take the second divided difference h^2 D[s, r, q] for h^2 D'' and not for h^2 D'' / 2, so
    that the quadratic term is counted half and the order without noise is 2; `published=False` counts it in full, which
    is the exponential Adams method of order 3 (SA-Solver-P-3 with tau^2 = eta). The first two steps are of orders
    1 and 2 (heun); steps next to an infinite lambda as in `sde_dpm_solver_pp`.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0.
        eta: the noise of the SDE, 0 the probability flow and 1 the reverse SDE.
        s_noise: a factor on the noise that is added.
        published: k-diffusion's weights, or those of the parabola.

    Raises:
        ValueError: negative eta or s_noise.
    """
    name = "DPM++ 3M SDE" if published else "DPM++ 3M SDE, full parabola"
    return _data_sde(name, process, times, Multistep(3, "heun", halved_curvature=published), eta, s_noise)


def dpmpp_sde(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    r: float = 0.5,
    eta: float = 1.0,
    s_noise: float = 1.0,
    path: str = "sigma",
) -> Tableau:
    """DPM++ SDE: a stochastic step to a point between, then the whole step with both denoisers.

    The noise of the whole step z and that of the part z_m belong to one Brownian path: z = sqrt(w) z_m +
    sqrt(1 - w) z', where w is the share of the path's clock that the part takes. k-diffusion's path runs in
    rho = sigma / alpha, w = (rho_s - rho_m) / (rho_s - rho_t); the noise of the reverse SDE itself runs in rho^-2,
    w = (rho_m^-2 - rho_s^-2) / (rho_t^-2 - rho_s^-2). Independent normals (w = 0) lower the weak order to 1.
    A step from alpha = 0 or to sigma = 0 is a DDIM step with this eta, the latter giving the denoised point.

    Args:
        process, times: the process, the same on all axes, and the decreasing grid (n + 1,).
        r: where the point between lies in lambda, in (0, 1].
        eta: the share of the posterior's standard deviation that is added.
        s_noise: a factor on the noise that is added.
        path: sigma (k-diffusion), snr or independent.

    Raises:
        ValueError: r outside (0, 1], negative eta or s_noise, an unknown path, a process that differs between axes.
    """
    r = real_scalar("r", r, low=0, high=1, open_low=True)
    eta, s_noise = real_scalar("eta", eta, low=0), real_scalar("s_noise", s_noise, low=0)
    one_of("path", path, PATHS)
    rec = Recorder("DPM++ SDE", process, times, "denoiser")
    rec.scalar("a point between in log_snr")
    x = rec.start
    for s, t in rec.steps:
        d = rec.evaluate(x, s)
        kept, c = split(s, t, eta)
        if s.pure_noise or t.clean:
            x = flow_step(x, d, s, t, kept) + rec.noise(s_noise * c)
            continue
        m, h = t if r == 1 else rec.between(s, t, r), t.log_snr - s.log_snr
        kept_m, c_m = split(s, m, eta)
        u, whole = flow_step(x, d, s, m, kept_m), State({})
        if eta * s_noise > 0:
            part = rec.normal()
            u = u + s_noise * c_m * part
            share = {"sigma": expm1(-r * h) / expm1(-h), "snr": expm1(2 * r * h) / expm1(2 * h)}.get(path, 0.0)
            whole = root(share) * part + rec.noise(root(1 - share))
        d = (1 - 1 / (2 * r)) * d + 1 / (2 * r) * rec.evaluate(u, m)
        x = flow_step(x, d, s, t, kept) + s_noise * c * whole
    return rec.finish(x)


def dpmpp_2s_ancestral(
    process: AffineProcess | Schedule, times: ArrayLike, *, eta: float = 1.0, s_noise: float = 1.0
) -> Tableau:
    """DPM++ 2S ancestral: a step of DPM-Solver++(2S) to less than sigma_t, then noise up to sigma_t.

    The point between is the middle in lambda of s and the level below t: t itself for eta = 1. A step from alpha = 0,
    to sigma = 0, or to pure noise (eta so large that nothing of x is kept) is a DDIM step with this eta.

    Args:
        process, times: the process, the same on all axes, and the decreasing grid (n + 1,).
        eta: the share of the posterior's standard deviation that is added, sigma_t at most.
        s_noise: a factor on the noise that is added.

    Raises:
        ValueError: negative eta or s_noise, eta > 1 such that the point between has less noise than any time of the
            process, a process that differs between axes.
    """
    eta, s_noise = real_scalar("eta", eta, low=0), real_scalar("s_noise", s_noise, low=0)
    rec = Recorder("DPM++ 2S ancestral", process, times, "denoiser")
    rec.scalar("a point between in log_snr")
    x, cleanest = rec.start, rec.at(0.0).log_snr
    for s, t in rec.steps:
        d = rec.evaluate(x, s)
        kept, c = split(s, t, eta)
        if s.pure_noise or kept == 0:  # the latter also where t is clean
            x = flow_step(x, d, s, t, kept)
        else:
            below = log(t.alpha / kept)
            middle = t.log_snr if eta == 1 else (s.log_snr + below) / 2
            if middle > cleanest:
                raise ValueError(f"eta must leave the point between within the process, log_snr at most {cleanest}, "
                                 f"got eta = {eta} and {middle}")  # fmt: skip
            m = t if eta == 1 else rec.at_log_snr(middle)
            u = flow_step(x, d, s, m, m.sigma)
            x = flow_step(x, rec.evaluate(u, m), s, t, kept)
        x = x + rec.noise(s_noise * c)
    return rec.finish(x)


# Orders are weak: W2 of the output law. Extrapolating D by its newest values gives weak order 2 and not more, however
# high the polynomial: noise is drawn within a step too, and only its first moment in the integral of D is met.
_LU, _K = "Lu et al. 2022b (DPM-Solver++)", "k-diffusion (Crowson 2022)"
FAMILIES = (
    # the constant of the first order is a difference of the ends and vanishes from pure noise to data
    Family("sde-dpm-solver-1", sde_dpm_solver, 1, "n", _LU, {"order": 1}),
    Family("sde-dpm-solver-2m", sde_dpm_solver, 2, "n", _LU),
    Family("sde-dpm-solver-2m-heun", sde_dpm_solver, 2, "n", _LU, {"solver_type": "heun"}),
    Family("sde-dpmpp-1", sde_dpm_solver_pp, 1, "n", _LU, {"order": 1}, starts_pure=True),
    Family("dpmpp-2m-sde", sde_dpm_solver_pp, 2, "n", f"{_LU}; {_K}", starts_pure=True),
    Family("dpmpp-2m-sde-heun", sde_dpm_solver_pp, 2, "n", f"{_LU}; {_K}", {"solver_type": "heun"}, starts_pure=True),
    Family("dpmpp-3m-sde", dpmpp_3m_sde, 2, "n", _K, starts_pure=True),
    # the quadratic term counted half leaves a local error in h^3; counted in full, the first step caps the order at 2
    Family("dpmpp-3m-sde-ode", dpmpp_3m_sde, 2, "n", _K, {"eta": 0.0}, starts_pure=True),
    Family(
        "dpmpp-3m-sde-ode-full",
        dpmpp_3m_sde,
        3,
        "n",
        _K,
        {"eta": 0.0, "published": False},
        startup=2,
        exact_steps=2,
        starts_pure=True,
    ),
    Family("dpmpp-sde", dpmpp_sde, 2, "2n", _K, starts_pure=True),
    Family("dpmpp-sde-snr", dpmpp_sde, 2, "2n", _K, {"path": "snr"}, starts_pure=True),
    # D at the point between has no part of the step's own noise, which costs h^2 in each step's covariance
    Family("dpmpp-sde-independent", dpmpp_sde, 1, "2n", _K, {"path": "independent"}, starts_pure=True),
    Family("dpmpp-2s-ancestral", dpmpp_2s_ancestral, 2, "2n", _K, starts_pure=True),
)
