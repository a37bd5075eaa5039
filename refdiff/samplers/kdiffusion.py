r"""The samplers that k-diffusion made known: Euler ancestral, DPM2 and DPM2 ancestral.

With y = x / alpha, rho = sigma / alpha and d = eps* at y_s, an ancestral step goes down further than to t and adds
noise for the way back up:

    rho_up   = min(rho_t, eta rho_t sqrt(rho_s^2 - rho_t^2) / rho_s),    rho_down = sqrt(rho_t^2 - rho_up^2)
    Euler      y_t = y_s + (rho_down - rho_s) d                + S_noise rho_up z
    DPM2       y_t = y_s + (rho_down - rho_s) d'               + S_noise rho_up z
               d' = eps* at y_s + (rho_mid - rho_s) d, rho_mid = sqrt(rho_s rho_down)

DPM2 itself has rho_down = rho_t, no noise, and EDM's churn: it is DPM-Solver-2, the midpoint rule with its node at the
geometric mean. alpha_t rho_up is eta times the standard deviation of the DDPM posterior, so Euler ancestral is DDIM
with that eta on every process, up to S_noise and the minimum. An exact way down followed by exact noise keeps p_t
whatever eta is: the weak order is the order of the solver. At eta = 1 rho_down = rho_t^2 / rho_s, and the midpoint of
DPM2 ancestral is rho_t itself.
Sources: PODC9-26, PODC9-15, PODC9-55 (k-diffusion: sample_euler_ancestral, sample_dpm_2, sample_dpm_2_ancestral).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import real_scalar
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import flow_step, frozen_noise, split
from refdiff.samplers.edm import Churn, euler_step, moved, noise_prediction
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import log
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule


def euler_ancestral(
    process: AffineProcess | Schedule, times: ArrayLike, *, eta: float = 1.0, s_noise: float = 1.0
) -> Tableau:
    """Euler ancestral.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0.
        eta: 0 is Euler; 1 the DDPM posterior; beyond the value where rho_up reaches rho_t it has no further effect.
        s_noise: a factor of the added noise.

    Raises:
        ValueError: eta or s_noise negative.
    """
    eta, s_noise = real_scalar("eta", eta, low=0), real_scalar("s_noise", s_noise, low=0)
    rec = Recorder(f"Euler ancestral, eta = {eta:g}", process, times, "denoiser")
    x = rec.start
    for s, t in rec.steps:
        down, up = split(s, t, eta)
        x = flow_step(x, rec.evaluate(x, s), s, t, down) + rec.noise(s_noise * up)
    return rec.finish(x)


def dpm2(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
    s_noise: float = 1.0,
) -> Tableau:
    """DPM2: the midpoint rule in rho with its node at the geometric mean, after EDM's churn.

    Args:
        process, times: the process, the same on all axes, and the decreasing grid (n + 1,). The step from alpha = 0 and
            the step to sigma = 0, which have no geometric mean, are Euler's.
        s_churn, s_tmin, s_tmax, s_noise: as in `edm_euler`.

    Raises:
        ValueError: an option outside its range, churn beyond the end of the process, or a per-axis process.
    """
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise)
    rec = Recorder(f"DPM2{churn}", process, times, "denoiser")
    rec.scalar("a midpoint in log_snr")
    x = rec.start
    for (s, t), hat in zip(rec.steps, churn.points(rec), strict=True):
        x = _midpoint_step(rec, churn(rec, x, s, hat), hat, t)
    return rec.finish(x)


def _midpoint_step(rec: Recorder, x: State, s: Point, t: Point) -> State:
    if s.pure_noise or t.clean:
        return euler_step(rec, x, s, t)
    middle = rec.between(s, t, 0.5)
    first = noise_prediction(rec, x, s)
    return moved(x, noise_prediction(rec, moved(x, first, s, middle), middle), s, t)


def dpm2_ancestral(
    process: AffineProcess | Schedule, times: ArrayLike, *, eta: float = 1.0, s_noise: float = 1.0
) -> Tableau:
    """DPM2 ancestral: the way down by the midpoint rule with its node at sqrt(rho_s rho_down).

    Args:
        process, times: the process, the same on all axes, and the decreasing grid (n + 1,). The way down is Euler's
            from alpha = 0 and where rho_down = 0: to sigma = 0, and for an eta at its limit. (There k-diffusion leaves
            out the noise too, which loses variance; here it is added.)
        eta, s_noise: as in `euler_ancestral`. Above 1 the midpoint lies below rho_t, which must be in the process.

    Raises:
        ValueError: eta or s_noise negative, a per-axis process, or a midpoint outside the process.
    """
    eta, s_noise = real_scalar("eta", eta, low=0), real_scalar("s_noise", s_noise, low=0)
    rec = Recorder(f"DPM2 ancestral, eta = {eta:g}", process, times, "denoiser")
    rec.scalar("a midpoint in log_snr")
    x = rec.start
    for s, t in rec.steps:
        down, up = split(s, t, eta)
        if s.pure_noise or down == 0:
            x = flow_step(x, rec.evaluate(x, s), s, t, down)
        else:
            middle = rec.at_log_snr((s.log_snr + log(t.alpha) - log(down)) / 2)
            first = noise_prediction(rec, x, s)
            second = noise_prediction(rec, moved(x, first, s, middle), middle)
            carried, weight = frozen_noise(s, t, down)
            x = carried * x + weight * second
        x = x + rec.noise(s_noise * up)
    return rec.finish(x)


_K = "(k-diffusion)"

FAMILIES = (
    Family("euler-ancestral", euler_ancestral, 1, "n", f"PODC9-15, TOPA-44 {_K}", starts_pure=True),
    Family("euler-ancestral-half", euler_ancestral, 1, "n", f"PODC9-15 {_K}", {"eta": 0.5}, starts_pure=True),
    Family("dpm2", dpm2, 2, "2n", f"PODC9-26 {_K}", starts_pure=True),
    Family("dpm2-churn", dpm2, 2, "2n", f"PODC9-26 {_K}", {"s_churn": 4.0, "s_tmax": 1.0}, starts_pure=True),
    Family("dpm2-ancestral", dpm2_ancestral, 2, "2n", f"PODC9-26 {_K}", starts_pure=True),
    Family("dpm2-ancestral-half", dpm2_ancestral, 2, "2n", f"PODC9-26 {_K}", {"eta": 0.5}, starts_pure=True),
)
