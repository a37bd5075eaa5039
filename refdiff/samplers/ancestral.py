r"""Ancestral sampling: DDPM, Improved DDPM, VDM.

    x_t = E[x_t | x_s, x_0 = D] + sqrt(v) z
    E[x_t | x_s, x_0] = alpha_{s|t} sigma_t^2 / sigma_s^2 x_s + alpha_t sigma_{s|t}^2 / sigma_s^2 x_0

from s to t < s, with alpha_{s|t} = alpha_s / alpha_t and sigma_{s|t}^2 = sigma_s^2 - alpha_{s|t}^2 sigma_t^2 what the
process does from t to s, and the variance v one of

    posterior      sigma_{s|t}^2 sigma_t^2 / sigma_s^2             exact for data of one point         ("fixed small")
    beta           sigma_{s|t}^2                                   exact where Var x_t is constant     ("fixed large")
    interpolated   exp(v log beta + (1 - v) log posterior)                                             ("learned range")
    given          one number for each step

The grid may skip times: the formulas are those of the chain on the grid. On all indices N, N-1, ..., 0 of a BetaTable
this is Ho's sampler. VDM's ancestral sampler, and the one of (4.4.8), is `ddpm` with the posterior variance: only the
letters differ. Nothing is subtracted from 1: with q = e^{2 (lambda_s - lambda_t)} the weights are
sigma_t / sigma_s sqrt(q) and alpha_t (1 - q), and sigma_{s|t}^2 = sigma_s^2 (1 - q).
Sources: DMI-23, PODA-225, PODB-11, PHY-46, TOPA-49.
"""

from __future__ import annotations

from collections.abc import Iterator

from numpy.typing import ArrayLike

from refdiff.arguments import Array
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import fitting_share, per_step, posterior_std, step_variance
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, exp, expm1, log, root, sqrt
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

VARIANCES = ("posterior", "beta", "interpolated")


def mean_weights(s: Point, t: Point, eta: Number = 1.0) -> tuple[Number, Number]:
    """The weights (kappa, gamma) of x_s and x_0 in the mean of x_t, for the noise eta posterior_std(s, t).

    kappa = sqrt(sigma_t^2 - c^2) / sigma_s and gamma = alpha_t - alpha_s kappa keep p_t(x_t | x_0) for every c; eta = 1
    is Bayes' posterior. gamma is written as alpha_t (1 - q)(1 + eta^2 q) / (1 + sqrt(q (1 - eta^2 (1 - q)))), of
    positive terms.

    Raises:
        ValueError: eta so large that the noise exceeds sigma_t.
    """
    drop = s.log_snr - t.log_snr
    q, fresh = exp(2 * drop), -expm1(2 * drop)
    kept = fitting_share(s, t, eta)
    kappa = t.sigma / s.sigma * sqrt(kept)
    gamma = t.alpha * fresh * (1 + eta**2 * q) / (1 + sqrt(q * kept))
    return kappa, gamma


def ddpm(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    variance: str | ArrayLike = "posterior",
    v: ArrayLike = 0.5,
    final_noise: bool = False,
) -> Tableau:
    """DDPM's ancestral sampler on any grid.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0.
        variance: posterior, beta or interpolated; or the variance of each step, shape (n,) or (n, d), used as it is.
        v: the share of log beta when interpolated, one number or one for each step, shape (n,) or (n, d); outside of
            [0, 1] it extrapolates.
        final_noise: whether beta and interpolated noise is added in a step to sigma = 0 too. The papers add none. Where
            it is interpolated there, log posterior = -inf is replaced by that of the step before (by beta's in a grid
            of one step), as Improved DDPM clips it.

    Raises:
        ValueError: an unknown or negative variance, or arrays without one entry for each step.

    Source: DMI-23, PODA-225, PODB-11, TOPA-46, TOPA-50 (Ho et al. 2020; Nichol and Dhariwal 2021; Kingma et al. 2021).
    """
    if isinstance(variance, str) and variance not in VARIANCES:
        raise ValueError(f"variance must be one of {', '.join(VARIANCES)} or an array, got {variance!r}")
    kind = variance if isinstance(variance, str) else "given"
    rec = Recorder(f"DDPM, {kind} variance", process, times, "denoiser")
    variances: Iterator[Number]
    if not isinstance(variance, str):
        variances = iter(per_step("variance", variance, len(rec.steps), ndim=(1, 2), negative=False))
    elif kind == "interpolated":
        variances = _interpolated(rec, per_step("v", v, len(rec.steps)), final_noise)
    elif kind == "beta":
        variances = (step_variance(s, t) * (final_noise or t.sigma > 0) for s, t in rec.steps)
    else:
        variances = (posterior_std(s, t) ** 2 for s, t in rec.steps)
    x = rec.start
    for (s, t), added in zip(rec.steps, variances, strict=True):
        kappa, gamma = mean_weights(s, t)
        d = rec.evaluate(x, s)
        x = kappa * x + gamma * d + rec.noise(root(added))
    return rec.finish(x)


def _interpolated(rec: Recorder, shares: Array, final_noise: bool) -> Iterator[Number]:
    """exp(v log beta + (1 - v) log posterior), with the posterior of the step before where it is zero."""
    last: Number = 0.0  # the newest posterior variance that is not zero
    for (s, t), w in zip(rec.steps, shares, strict=True):
        beta, small = step_variance(s, t), posterior_std(s, t) ** 2
        moves = beta > 0  # a table may hold a beta of zero
        beta, last = beta + (1 - moves), small + last * (small == 0)
        clipped = last + beta * (last == 0)
        yield exp(w * log(beta) + (1 - w) * log(clipped)) * (moves * (final_noise or t.sigma > 0))


# Weak order 1 for every choice: a step's variance is off by a multiple of h^2, and Gaussian means are exact.
FAMILIES = (
    Family("ddpm", ddpm, 1, "n", "DMI-23, PODB-11 (Ho et al. 2020; Kingma et al. 2021)", starts_pure=True),
    Family("ddpm-beta", ddpm, 1, "n", "PODA-225 (Ho et al. 2020)", {"variance": "beta"}, starts_pure=True),
    Family(
        "ddpm-interpolated",
        ddpm,
        1,
        "n",
        "TOPA-88 (Nichol and Dhariwal 2021)",
        {"variance": "interpolated"},
        starts_pure=True,
    ),
)
