r"""DEIS: the noise prediction continued by a polynomial of degree n in a clock c, integrated exactly.

With y = x / alpha and rho = sigma / alpha the probability flow is dy/drho = eps, hence from s to t < s

    x_t = (alpha_t / alpha_s) x_s + sum_{j<=n} C_j eps_j,     C_j = alpha_t int_{rho_s}^{rho_t} l_j(c(rho)) drho

over the last n + 1 nodes, which is (1/2) int (g^2 / sigma)(alpha_t / alpha_tau) l_j(tau) dtau in time. As
sum_j C_j = sigma_t - alpha_t rho_s is DDIM's weight, the step is DDIM's plus sum_{j>=1} C_j (eps_j - eps_0), which is
how it is written here: nothing cancels where alpha_s is small.

    tAB        c = t       Gauss-Legendre quadrature in arsinh rho, in panels graded towards 0
    rhoAB      c = rho     polynomials: the linear multistep method of k-diffusion in other words
    lambdaAB   c = lambda  -sigma_t sum_k c_jk k! h^(k+1) phi_(k+1)(h),   l_j(lambda_s + u h) = sum_k c_jk u^k
    rhoRK      an explicit Runge-Kutta method for dy/drho = eps

Degree n has local error h^(n+2), and global order n + 1 if the first n values are that good. The ramp starts with
degrees 0, 1, ..., whose local errors are h^2, h^3, ...: the one step of degree 0 costs the global order min(n + 1, 2).
A Runge-Kutta start of order 4 in rho has local error h^5, hence min(n + 1, 5).

For Gaussian data eps = a y + const with a = rho / (s^2 + rho^2), and the h^3 of the midpoint rule is
a''/24 + a a'/4 + a^3/6 = 0: there rhoRK's midpoint is of order 3, on other data of order 2.

The first step from alpha = 0, where rho is infinite, is DDIM's with the data prediction; so is a step to sigma = 0 in
lambda. Sources: PODC9-18, PODC9-19, PODC9-20, PODC9-37; Zhang and Chen 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, one_of, whole_number
from refdiff.processes import AffineProcess, BetaTable
from refdiff.samplers.adams import EARLY, STARTS, History
from refdiff.samplers.clocks import CLOCKS
from refdiff.samplers.ddim import flow_step, noise_of
from refdiff.samplers.edm import euler_step
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, exponential_integrals, gauss_legendre, lagrange, lagrange_integrals
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.runge_kutta import METHODS, combined, runge_kutta_step
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

# the names of the family by the clock that the polynomial is in
VARIANTS = {"t": "tAB", "rho": "rhoAB", "log_snr": "lambdaAB"}

# t(rho) is singular at rho = +-i, and near 0 where the rate starts near 0 (VP linear: at +-i beta_0 / sqrt(2 beta')).
# Panels of arsinh rho that are at most 4 long and a factor 4 wide keep both away: 32 points gain a factor 3^64.
_POINTS, _PANEL, _RATIO = 32, 4.0, 4.0
_NEGLIGIBLE = 1e-8  # of the range of arsinh rho, where any rule will do


def deis(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    degree: int = 3,
    clock: str = "t",
    start: str = "ramp",
    lower_order_final: bool = False,
) -> Tableau:
    """DEIS with polynomials of a given degree: tAB-DEIS unless another clock is given.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0.
        degree: of the polynomial, n >= 0; 0 is DDIM. Grids of fewer steps use the degrees there are.
        clock: t, rho or log_snr, what the polynomial is in.
        start: "ramp", degrees 0, 1, ..., n; or "runge-kutta", the first n steps by the classical method of order 4
            in rho (not to sigma = 0, nor from alpha = 0), for a process that is the same on all axes.
        lower_order_final: the last steps have fewer nodes: no more than steps are left.

    Raises:
        ValueError: a degree below 0, an unknown clock or start.
    """
    degree = whole_number("degree", degree)
    clock, start = one_of("clock", clock, tuple(VARIANTS)), one_of("start", start, STARTS)
    rec = Recorder(f"DEIS {VARIANTS[clock]}{degree}", process, times, "denoiser")
    x, history, node = rec.start, History(degree + 1), CLOCKS[clock].value
    for left, (s, t) in zip(range(len(rec.steps), 0, -1), rec.steps, strict=True):
        d = rec.evaluate(x, s)
        eps, ddim_step = noise_of(x, d, s), flow_step(x, d, s, t, t.sigma)
        most = left if lower_order_final else degree + 1
        if not np.any(abs(node(s)) == np.inf):
            history.add(node(s), eps)
        if s.pure_noise or np.any(abs(node(t)) == np.inf):
            x = ddim_step
        elif start == "runge-kutta" and not history.full and not t.clean:
            x = runge_kutta_step(rec, CLOCKS["rho"], x, s, t, METHODS["rk4"])
        else:
            weights = noise_weights(rec.affine, s, t, history.nodes[:most], clock)
            earlier: list[State] = [value - eps for value in history.values[1:most]]
            x = ddim_step + combined(weights[1:], earlier)
    return rec.finish(x)


def deis_rk(process: AffineProcess | Schedule, times: ArrayLike, *, method: str = "heun") -> Tableau:
    """rhoRK-DEIS: an explicit Runge-Kutta method in sigma/alpha with the noise prediction.

    Args:
        process, times: the process and the decreasing grid (n + 1,); the first step from alpha = 0 is DDIM's, and so is
            the last one to sigma = 0 unless the method only looks between (midpoint).
        method: heun (EDM's), midpoint, kutta3, rk4, or another of METHODS in runge_kutta.py.

    Raises:
        ValueError: an unknown method, or a process that differs between the axes for a method that looks between.
    """
    rule = METHODS[one_of("method", method, tuple(METHODS))]
    rec = Recorder(f"DEIS rhoRK {method}", process, times, "denoiser")
    rho, x = CLOCKS["rho"], rec.start
    for s, t in rec.steps:
        x = euler_step(rec, x, s, t) if s.pure_noise else runge_kutta_step(rec, rho, x, s, t, rule)
    return rec.finish(x)


# ---------------------------------------------------------------------- weights


def noise_weights(process: AffineProcess, s: Point, t: Point, nodes: list[Number], clock: str) -> list[Number]:
    """C_j = alpha_t int_{rho_s}^{rho_t} l_j(c(rho)) drho for nodes given in the clock, from finite rho_s.

    Raises:
        ValueError: an unknown clock.
    """
    one_of("clock", clock, tuple(VARIANTS))
    if clock == "rho":
        return [t.alpha * weight for weight in lagrange_integrals(nodes, s.rho, t.rho)]
    if clock == "log_snr":
        h = t.log_snr - s.log_snr
        # the nodes in units of the step, where the newest is 0
        return [-t.sigma * weight for weight in exponential_integrals([(node - s.log_snr) / h for node in nodes], h)]
    each = [_in_time(one, s.t, t.t, nodes) for one in process.schedules]
    return list(t.alpha * (np.transpose(each) if process.per_axis else np.asarray(each[0])))


def _in_time(schedule: Schedule, start: float, end: float, nodes: list[Number]) -> Array:
    """int l_j(t(rho)) drho from t = start to end, with rho = sinh u: shape (nodes,)."""
    ends = np.arcsinh(np.exp(-schedule.log_snr(_breaks(schedule, start, end))))
    edges = np.array([*(edge for a, b in pairwise(ends) for edge in _graded(a, b)), ends[-1]])
    points, weights = gauss_legendre(_POINTS)
    widths = np.diff(edges)[:, None]
    u = edges[:-1, None] + widths * points
    times = schedule.time_of_log_snr(-np.log(np.sinh(u)))
    return np.array([np.sum(widths * weights * np.cosh(u) * values) for values in lagrange(nodes, times)])


def _graded(start: float, end: float) -> Iterator[float]:
    """The starts of panels from start down to end >= 0, each at most _PANEL long and a factor _RATIO wide."""
    edge = start
    while edge > end:
        yield edge
        edge = max(edge - _PANEL, edge / _RATIO, end)
        edge = end if edge < _NEGLIGIBLE * start else edge


def _breaks(schedule: Schedule, start: float, end: float) -> Array:
    """Times between which t(rho) is smooth: a table of betas has its kinks at its indices."""
    if not isinstance(schedule, BetaTable):
        return np.array([start, end])
    inner = np.arange(np.ceil(start) - 1, np.floor(end), -1.0)
    return np.concatenate([[start], inner, [end]])


def _adams(degree: int, clock: str, name: str) -> Family:
    return Family(
        f"deis-{name}{degree}",
        deis,
        degree + 1,
        "n",
        "PODC9-19, PODC9-20 (Zhang and Chen 2023)",
        {"degree": degree, "clock": clock},
        startup=min(degree + 1, 2),  # one step of degree 0 leaves its h^2
        exact_steps=degree,
        clock=clock,
        starts_pure=True,
        measure=EARLY if clock == "rho" else {},
    )


def _runge_kutta(method: str, order: int, nfe: str, on_gaussians: float | None = None) -> Family:
    return Family(
        f"deis-rho-{method}",
        deis_rk,
        order,
        nfe,
        "PODC9-55, TOPA-53 (Zhang and Chen 2023)",
        {"method": method},
        clock="rho",
        starts_pure=True,
        on_gaussians=on_gaussians,
    )


FAMILIES = (
    *(_adams(degree, "t", "tab") for degree in (0, 1, 2, 3)),
    *(_adams(degree, "rho", "rhoab") for degree in (1, 2, 3)),
    *(_adams(degree, "log_snr", "lambdaab") for degree in (1, 2, 3)),
    Family(
        "deis-tab3-rk",
        deis,
        4,
        "n + 9",
        "PODC9-19 (Zhang and Chen 2023)",
        {"degree": 3, "start": "runge-kutta"},
        exact_steps=3,
        clock="t",
        starts_pure=True,
    ),
    _runge_kutta("midpoint", 2, "2n", on_gaussians=3),
    _runge_kutta("heun", 2, "2n"),
    _runge_kutta("kutta3", 3, "3n"),
    _runge_kutta("rk4", 4, "4n"),
)
