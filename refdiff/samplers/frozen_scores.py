r"""What a frozen score adds in a step of an exponential integrator.

    x_t = K(t, s) x_s + (1 + k^2)/2 int_t^s K(t, u) D_u du S + noise,      K(t, u) = K(u, t)^-1,  t < s

Sources: PODB-65, PODC9-05, PODC9-09, RDX-20.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import quad_vec

from refdiff import operators
from refdiff.arguments import Array
from refdiff.operators import Operator
from refdiff.processes import AffineProcess, Process
from refdiff.samplers.matrix_steps import backward_gain
from refdiff.samplers.numbers import gauss_legendre
from refdiff.schedules import Schedule

# so many nodes reach rounding on a panel of length 1, half as wide as the strip |Im| < pi / 4 where sigma is analytic
NODES = 20


def frozen_score_weight(process: Process, s: float, t: float) -> Operator:
    """int_t^s K(t, u) D_u du, t < s, an operator: a scalar, (d,) or (d, d)."""
    if isinstance(process, AffineProcess):
        each = [of_schedule(one, s, t) for one in process.schedules]
        return np.asarray(each if process.per_axis else each[0])

    def integrand(u: float) -> Array:
        return operators.product(backward_gain(process, u, t), process.diffusion(u))

    # relative to the integral, whose integrand is smooth: rounding
    return np.asarray(quad_vec(integrand, t, s, epsrel=1e-13, epsabs=0)[0])


def of_schedule(schedule: Schedule, s: float, t: float) -> float:
    """int_t^s alpha_t / alpha_u g_u^2 du = 2 alpha_t int sigma drho, over rho = sigma / alpha from t to s.

    With alpha^2 + sigma^2 = 1 (g^2 = -2 f) it is 2 (alpha_t / alpha_s - 1), otherwise a quadrature in log(1 + rho),
    a clock that is finite at sigma = 0 and even over decades of rho.
    """
    a, b = schedule.coefficients(s), schedule.coefficients(t)
    if a.g2 == -2 * a.f and b.g2 == -2 * b.f:
        return float(2 * (b.alpha - a.alpha) / a.alpha)
    low, high = np.log1p(b.sigma / b.alpha), np.log1p(a.sigma / a.alpha)
    edges = np.linspace(low, high, int(np.ceil(high - low)) + 1)
    nodes, weights = gauss_legendre(NODES)
    w = (edges[:-1, None] + np.diff(edges)[:, None] * nodes).ravel()
    sigma = schedule.sigma(schedule.time_of_log_snr(-np.log(np.expm1(w))))
    return float(2 * b.alpha * (np.diff(edges)[:, None] * weights).ravel() @ (sigma * np.exp(w)))
