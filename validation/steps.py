r"""How fine a stencil must be, and rates of densities by stencils.

    in space   h = FINE s         s the least standard deviation of a component: the length on which p bends
    in time    h = FINE tau       1 / tau = max(|f|, (sigma^2)' / s^2, |alpha'| (1 + max |m|) / s, 1 / t, 1 / (T - t))

A 9-point difference with step s / 25 truncates at 25^-8 = 7e-12 and loses 25 eps, or 25^2 eps in a second derivative.
Densities are differentiated relative to their value at the point, so that far tails keep their digits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.schedules import Schedule
from refdiff.validation.cases import ModelCase
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import derivative

# Stencil steps as a fraction of the length or time on which p bends.
FINE = 1 / 25


def time_scale(case: ModelCase) -> float:
    """The time on which p_t bends: that of its narrowest variance and of its means, and the way to both ends."""
    c, std = case.process.coefficients(case.t), smallest_std(case.model.marginal(case.t))
    rates = np.abs(c.f), c.dvariance / std**2, np.abs(c.dalpha) * (1 + np.abs(case.law.means).max()) / std
    return float(min(case.t, case.process.T - case.t, 1 / max(np.max(rate) for rate in rates)))


def relative_density(law: GaussianMixture, x: Array, power: float = 1.0) -> Callable[[Array], Array]:
    """y -> (p(y) / p(x))^power, (n, d) to (n,), for y near the points x: what stencils in space differentiate."""
    at_x = law.logpdf(x)
    return lambda y: np.asarray(np.exp(power * (law.logpdf(y) - at_x)))


def relative_rate(log_density: Callable[[float], Array], h: float) -> Array:
    """p'(0) / p(0) (n,) by differences of p = exp(log_density) in its one argument: of p, and not of log p."""
    here = log_density(0.0)
    return derivative(lambda u: np.asarray(np.exp(log_density(u) - here)), 0.0, h)


def later(schedule: Schedule, t: float, h: float) -> float:
    """The time of `schedule` at which lambda = log(alpha / sigma) is larger by h than at t."""
    return float(schedule.time_of_log_snr(schedule.log_snr(t) + h))
