r"""DDIM.

    x_t = alpha_t x* + sqrt(sigma_t^2 - c^2) eps* + c z,        c = eta sigma_t / sigma_s  sqrt(sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2)

from s to t < s, with x* = D(x_s, s) and eps* = (x_s - alpha_s x*) / sigma_s. eta = 0 is deterministic, eta = 1 the
DDPM posterior. Sources: PODC9-08, PODC9-15, DMI-32..37, TOPA-44.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from refdiff.arguments import real_scalar
from refdiff.processes import AffineProcess
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, expm1, root
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule


def posterior_std(s: Point, t: Point) -> Number:
    """The standard deviation of x_t given x_s and x_0: sigma_t sqrt(1 - e^{2 (lambda_s - lambda_t)}), t < s.

    The same as sigma_t / sigma_s sqrt(sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2), without its cancellation.
    """
    return t.sigma * root(-expm1(2 * (s.log_snr - t.log_snr)))


def ddim(process: AffineProcess | Schedule, times: ArrayLike, *, eta: float = 0.0) -> Tableau:
    """DDIM with a share eta of the DDPM posterior's standard deviation.

    Args:
        process, times: the process and the decreasing grid; it may start where alpha = 0 and end where sigma = 0.
        eta: 0 deterministic, 1 the DDPM posterior; larger values while the noise fits into sigma_t.

    Raises:
        ValueError: eta so large that a step's noise exceeds sigma_t.
    """
    eta = real_scalar("eta", eta, low=0)
    rec = Recorder(f"DDIM, eta = {eta:g}" if eta else "DDIM", process, times, "denoiser")
    x = rec.start
    for s, t in rec.steps:
        d = rec.evaluate(x, s)
        eps = (x - s.alpha * d) / s.sigma
        c = eta * posterior_std(s, t)
        x = t.alpha * d + root(t.sigma**2 - c**2) * eps + rec.noise(c)
    return rec.finish(x)


FAMILIES = (
    Family("ddim", ddim, 1, "n", "PODC9-08, TOPA-47 (Song et al. 2021)", starts_pure=True),
    Family("ddim-eta1", ddim, 1, "n", "PODC9-15, DMI-33 (Song et al. 2021)", {"eta": 1.0}, starts_pure=True),
)
