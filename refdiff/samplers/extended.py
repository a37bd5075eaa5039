r"""Samplers in as many digits as wanted, for orders that double precision hides.

A family needs numbers alpha_i, sigma_i at its times and log-SNRs in between. Here the float64 alpha_i and sigma_i of
a process are taken as exact, lambda_i = log(alpha_i / sigma_i) is computed in mpmath's precision, and a point asked for
by its lambda has sigma = alpha e^{-lambda} exactly: the points lie on a schedule that differs from the given one in the
16th digit, and on it the sampler is what it is, in full precision. Methods that step in t or use derivatives of the
schedule keep the rounding of those. Sources: PODC9-55.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from refdiff.processes import AffineProcess
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients, Schedule


class ExtendedProcess:
    """A process with one schedule whose coefficients are mpmath numbers. Use it within `mpmath.workdps`."""

    per_axis = False

    def __init__(self, process: AffineProcess | Schedule) -> None:
        schedule = process if isinstance(process, Schedule) else process.schedules[0]
        self.schedule, self.T = schedule, schedule.T
        self.schedules = (self,)
        self._given: dict[float, Any] = {}  # the exact log-SNR that a time was made for

    def coefficients(self, t: float) -> Coefficients:
        """The coefficients at t."""
        import mpmath

        c = Coefficients(*(mpmath.mpf(float(value)) for value in self.schedule.coefficients(t)))
        if t in self._given:
            return c._replace(sigma=c.alpha * mpmath.exp(-self._given[t]), log_snr=self._given[t])
        return c if c.alpha == 0 or c.sigma == 0 else c._replace(log_snr=mpmath.log(c.alpha / c.sigma))

    def log_snr(self, t: float) -> Any:
        """log(alpha / sigma) at t."""
        return self.coefficients(t).log_snr

    def time_of_log_snr(self, log_snr: Any) -> float:
        """A time of the schedule near this log_snr, at which the coefficients then have it exactly."""
        t = float(self.schedule.time_of_log_snr(float(log_snr)))
        while t in self._given and self._given[t] != log_snr:
            t = float(np.nextafter(t, self.T))
        self._given[t] = log_snr
        return t


def on_one_axis(tableau: Tableau) -> Tableau:
    """A table of mpmath numbers with one axis, so that propagation meets arrays everywhere."""
    return replace(
        tableau,
        coefficients=Coefficients(*(part[:, None] for part in tableau.scalars)),
        states=tableau.states[..., None],
        outputs=tableau.outputs[..., None],
        noise=tableau.noise[..., None],
    )
