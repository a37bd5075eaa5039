r"""DDIM: from s to t < s with one clean point x* = D(x_s, s) and one noise eps* = (x_s - alpha_s x*) / sigma_s,

    x_t = alpha_t x* + sqrt(sigma_t^2 - c^2) eps* + c z,     0 <= c <= sigma_t.

Every c keeps p(x_t | x_0) when x* = x_0. With h = lambda_t - lambda_s > 0 the usual choices are

    eta            c = eta sigma_t sqrt(1 - e^{-2h})         eta = 1 is the DDPM posterior
    reverse SDE    c = sigma_t sqrt(1 - e^{-2 k^2 h})        dx = [f x - (1 + k^2)/2 g^2 s] dt + k g dw, x* frozen

They agree for eta = k = 0 and 1, and to first order in h for eta = k: eta^2 (1 - e^{-2h}) = 1 - e^{-2 k^2 h}. Every k
fits into sigma_t, and k = infinity is c = sigma_t, where x_t is x* noised afresh. Freezing eps* instead of x* gives

    x_t = alpha_t/alpha_s x_s - (1 + k^2) sigma_t (e^h - 1) eps* + k sigma_t sqrt(e^{2h} - 1) z

another sampler for k > 0. The other families are made of the step functions of this file. Sources: PODC9-08, PODC9-15,
DMI-32..37, TOPA-44, RDX-09; Song, Meng and Ermon 2021; Zhang, Tao and Chen 2022 (gDDIM).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, one_of, real_array, real_scalar
from refdiff.processes import AffineProcess, Process
from refdiff.samplers import matrix_steps
from refdiff.samplers.conversions import compose, to_prediction
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, exp, expm1, root
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule


def posterior_std(s: Point, t: Point) -> Number:
    """The standard deviation of x_t given x_s and x_0: sigma_t sqrt(1 - e^{2 (lambda_s - lambda_t)}), t < s.

    The same as sigma_t / sigma_s sqrt(sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2), without its cancellation.
    """
    return t.sigma * root(-expm1(2 * (s.log_snr - t.log_snr)))


def step_variance(s: Point, t: Point) -> Number:
    """sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2 = sigma_s^2 (1 - e^{2 (lambda_s - lambda_t)}), t < s.

    The variance of x_s given x_t, which the process adds on its way from t to s.
    """
    return -(s.sigma**2) * expm1(2 * (s.log_snr - t.log_snr))


def kept_share(s: Point, t: Point, eta: Number) -> Number:
    """1 - c^2 / sigma_t^2 for c = eta posterior_std(s, t), as 1 - eta^2 + eta^2 e^{2 (lambda_s - lambda_t)}.

    Nothing cancels at eta = 1; negative where eta asks for more noise than sigma_t.
    """
    return (1 - eta) * (1 + eta) + eta**2 * exp(2 * (s.log_snr - t.log_snr))


def fitting_share(s: Point, t: Point, eta: Number) -> Number:
    """`kept_share`, which must not be negative where sigma_t > 0.

    Raises:
        ValueError: eta asks for more noise than sigma_t.
    """
    kept = kept_share(s, t, eta)
    # at eta^2 (1 - e^{-2h}) = 1 rounding, of the size of eta^2 times that of lambda, may leave less than zero
    if np.any((kept < -1e-13 * (1 + eta**2)) & (t.sigma > 0)):
        raise ValueError(f"eta must leave eta sqrt(1 - e^(-2h)) <= 1, the noise at most sigma_t, got {eta} in the "
                         f"step from {s.t} to {t.t}")  # fmt: skip
    return kept * (kept > 0)


def split(s: Point, t: Point, eta: Number) -> tuple[Number, Number]:
    """(kept, c) with kept^2 + c^2 = sigma_t^2: c is eta posterior_std(s, t), sigma_t at most."""
    return t.sigma * root(kept_share(s, t, eta)), np.minimum(t.sigma, eta * posterior_std(s, t) if eta else 0.0)


def sde_split(s: Point, t: Point, square: Number) -> tuple[Number, Number]:
    """(kept, c) = sigma_t (e^{-k^2 h}, sqrt(1 - e^{-2 k^2 h})), of the reverse SDE with k^2 = square."""
    if not square:  # h may be infinite
        return t.sigma, 0.0
    h = t.log_snr - s.log_snr
    return t.sigma * exp(-square * h), t.sigma * root(-expm1(-2 * square * h))


def flow_step(x: State, clean: State, s: Point, t: Point, kept: Number) -> State:
    """alpha_t x* + kept eps*: the probability flow with x* frozen, to where alpha_t x_0 has noise of size kept."""
    ratio = kept / s.sigma
    moved: State = ratio * x + (t.alpha - ratio * s.alpha) * clean
    return moved


def noise_of(x: State, clean: State, s: Point) -> State:
    """eps* = (x - alpha x*) / sigma."""
    noise: State = (x - s.alpha * clean) / s.sigma
    return noise


def frozen_noise(s: Point, t: Point, kept: Number) -> tuple[Number, Number]:
    """The weights of x and eps* in the flow with eps* frozen, to where alpha_t x_0 has noise of size kept."""
    return t.alpha / s.alpha, kept - t.alpha * s.rho


def frozen_step(s: Point, t: Point, square: Number, frozen: str) -> tuple[Number, Number, Number]:
    """The weights of x, of the frozen prediction and of z in the exact step of the reverse SDE with k^2 = square.

    frozen is denoiser or noise. They are finite at sigma_t = 0, and at alpha_s = 0 for the denoiser.
    """
    if frozen == "denoiser":
        kept, fresh = sde_split(s, t, square)
        carried = kept / s.sigma
        return carried, t.alpha - carried * s.alpha, fresh
    carried, weight = frozen_noise(s, t, t.sigma)
    # sigma_t sqrt(e^{2h} - 1) is what the process adds from t to s, scaled by alpha_t / alpha_s
    fresh = carried * root(square * step_variance(s, t)) if np.any(square) else 0.0  # h may be infinite
    return carried, (1 + square) * weight, fresh


def per_step(
    name: str, value: ArrayLike, steps: int, *, ndim: tuple[int, ...] = (0, 1, 2), negative: bool = True
) -> Array:
    """A value that is one number for all steps, or one row for each, as shape (n, ...).

    Args:
        name, value: of the argument.
        steps: n.
        ndim: the numbers of dimensions that the value may have; 0 is one number for all.
        negative: whether it may be negative.

    Raises:
        ValueError: another shape, or a negative number.
    """
    array = real_array(name, value, ndim=ndim)
    if array.ndim and len(array) != steps:
        least = "be one number or" if 0 in ndim else "have"
        raise ValueError(f"{name} must {least} one entry for each of {steps} steps, got shape {array.shape}")
    if not negative and (array < 0).any():
        raise ValueError(f"{name} must not be negative, got {array.min()}")
    return array if array.ndim else np.full(steps, array)


def ddim(process: Process | Schedule, times: ArrayLike, *, eta: float = 0.0, noise: ArrayLike | None = None) -> Tableau:
    """DDIM with a share eta of the DDPM posterior's standard deviation, or with a given noise in each step.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0. With
            matrices in place of alpha and sigma eta must be 0 or 1, see `gddim` for what lies between.
        eta: 0 deterministic, 1 the DDPM posterior; larger values while the noise fits into sigma_t (a step to
            sigma = 0 adds none).
        noise: the standard deviation c of each step, in place of eta: one number, or one for each step, (n,) or (n, d).

    Raises:
        ValueError: a step's noise below 0 or above sigma_t; both eta and noise.

    Examples:
        >>> from refdiff import FlowMatching
        >>> from refdiff.samplers.ddim import ddim
        >>> print(ddim(FlowMatching(), [1.0, 0.5, 0.25]))  # Euler's method on straight paths
        <Tableau DDIM: 2 evaluations of the denoiser, 3 stages, deterministic>
        coordinate x; D_j is the denoiser at y_j, z_m a unit normal
        y0    t = 1              * = x
        y1    t = 0.5            * = +0.5 y0 +0.5 D0
        y2    t = 0.25             = +0.5 y1 +0.5 D1
    """
    eta = real_scalar("eta", eta, low=0)
    name = f"DDIM, eta = {eta:g}" if eta else "DDIM" if noise is None else "DDIM with given noise"
    rec = Recorder(name, process, times, "denoiser")
    if rec.matrices:
        if eta not in (0, 1) or noise is not None:
            raise ValueError(f"eta must be 0 or 1 for a process with matrices, and noise None, got {eta} and {noise!r}")
        return replace(gddim(process, times, stochasticity=eta), name=name)
    if noise is None:
        for s, t in rec.steps:
            fitting_share(s, t, eta)
        parts = [split(s, t, eta) for s, t in rec.steps]
    elif eta:
        raise ValueError(f"eta and noise exclude each other, got eta = {eta} and noise")
    else:
        given = per_step("noise", noise, len(rec.steps), negative=False)
        for c, (_, t) in zip(given, rec.steps, strict=True):
            if np.any(c > t.sigma):
                raise ValueError(f"noise must be at most sigma_t, {t.sigma} at t = {t.t}, got {c}")
        # (sigma - c)(sigma + c) keeps the digits of sigma^2 - c^2 near c = sigma
        parts = [(root((t.sigma - c) * (t.sigma + c)), c) for c, (_, t) in zip(given, rec.steps, strict=True)]
    x = rec.start
    for (kept, c), (s, t) in zip(parts, rec.steps, strict=True):
        x = flow_step(x, rec.evaluate(x, s), s, t, kept) + rec.noise(c)
    return rec.finish(x)


def gddim(
    process: Process | Schedule, times: ArrayLike, *, stochasticity: float = 1.0, frozen: str = "denoiser"
) -> Tableau:
    """The exact step of dx = [f x - (1 + k^2)/2 g^2 score] dt + k g dw with a frozen prediction.

    Its multistep form, for k = 0, is `matrix_deis`.

    Args:
        process, times: the process, any of them (see `matrix_steps`), and the decreasing grid (n + 1,). With the noise
            frozen, the grid must start where alpha > 0, and a last step to sigma = 0 still adds noise of the size
            k alpha_t sigma_s / alpha_s.
        stochasticity: k >= 0, the lambda of the gDDIM paper: 0 is DDIM, 1 the reverse SDE.
        frozen: "denoiser" gives DDIM with c = sigma_t sqrt(1 - e^{-2 k^2 h}), "noise" the first-order
            SDE-DPM-Solver at k = 1, whose error of first order cancels on Gaussian data in equal steps of lambda
            from pure noise to clean data: n (std - std*) tends to a multiple of u/(1+u)^(1+k^2) at the end less that
            at the start, u = (sigma / (alpha s))^2.

    Raises:
        ValueError: a negative k, another prediction than these two, alpha = 0 at the start with the noise frozen.

    Source: RDX-09; Zhang, Tao and Chen 2022, theorem 1 (their alpha is this alpha^2); Lu et al. 2022.

    Examples:
        >>> from refdiff import Gaussian, VEPower
        >>> from refdiff.samplers import propagate
        >>> from refdiff.samplers.ddim import gddim
        >>> table = gddim(VEPower(), [2.0, 1.0], stochasticity=1.0)
        >>> print(propagate(table, Gaussian([0.0], 0.0)).output.cov().round(6))  # exact on a point, noise and all
        [[1.]]
    """
    k = real_scalar("stochasticity", stochasticity, low=0)
    one_of("frozen", frozen, ("denoiser", "noise"))
    rec = Recorder(f"gDDIM, k = {k:g}, {frozen} frozen", process, times, "denoiser")
    if frozen == "noise":
        rec.finite_log_snr("a frozen noise is carried by alpha_t / alpha_s", last=False)
    x = rec.start
    for s, t in rec.steps:
        clean = rec.evaluate(x, s)
        if rec.matrices:
            carried, weight, fresh = matrix_steps.frozen_step(rec.process, s, t, k, frozen)
            x = carried * x + weight * clean + rec.noise(fresh)
            continue
        carried, weight, fresh = frozen_step(s, t, k * k, frozen)
        held = clean if frozen == "denoiser" else noise_of(x, clean, s)
        x = carried * x + weight * held + rec.noise(fresh)
    return rec.finish(x)


def ddim_inversion(process: AffineProcess | Schedule, times: ArrayLike, *, evaluate_at: str = "cleaner") -> Tableau:
    """From data to noise: DDIM's step with s and t exchanged, x_s = alpha_s x* + sigma_s eps* from t < s.

    The model's noise is asked for, so that the grid may start at sigma = 0 where data have a density (eps* = 0).

    Args:
        process, times: the process and the increasing grid (n + 1,); it may end where alpha = 0.
        evaluate_at: the time the model is told at x_t: "cleaner", its own time t, or "noisier", the time s it goes
            to, as null-text inversion and diffusers' inverse scheduler have it. Both are of first order.

    Raises:
        ValueError: times that do not increase, or another place than these two.

    Source: Song, Meng and Ermon 2021, section 4.3; Mokady et al. 2023 for the noisier time.
    """
    one_of("evaluate_at", evaluate_at, ("cleaner", "noisier"))
    rec = Recorder("DDIM inversion", process, times, "noise", towards_noise=True)
    x = rec.start
    for t, s in rec.steps:
        here = rec.keep(x, t)
        # the same point, told to the model under another time, is another stage of the table
        eps = rec.evaluate(State(dict(here.terms)), t if evaluate_at == "cleaner" else s)
        carried, weight = frozen_noise(t, s, s.sigma)
        x = carried * here + weight * eps
    return rec.finish(x)


def ddim_round_trip(process: AffineProcess | Schedule, times: ArrayLike, *, evaluate_at: str = "cleaner") -> Tableau:
    """Inversion along the increasing times (n + 1,) and DDIM back along them: the identity up to O(1/n).

    On Gaussian data of standard deviation s the deviation from the mean comes back multiplied by
    prod cos^2(theta_{i+1} - theta_i), tan theta = sigma / (alpha s): encoding and decoding shrink alike, and their
    errors add up. The model is asked for v, which says x* and eps* at both ends of time; evaluate_at as for
    `ddim_inversion`.
    """
    there = ddim_inversion(process, times, evaluate_at=evaluate_at)
    back = ddim(process, np.asarray(times)[::-1])
    return compose(to_prediction(there, "v_prediction"), to_prediction(back, "v_prediction"))


FAMILIES = (
    Family("ddim", ddim, 1, "n", "PODC9-08, TOPA-47 (Song et al. 2021)", starts_pure=True),
    Family("ddim-eta1", ddim, 1, "n", "PODC9-15, DMI-33 (Song et al. 2021)", {"eta": 1.0}, starts_pure=True),
    Family("ddim-eta-half", ddim, 1, "n", "PODC9-15, TOPA-45 (Song et al. 2021)", {"eta": 0.5}, starts_pure=True),
    Family("gddim", gddim, 1, "n", "RDX-09 (Zhang et al. 2022)", {"stochasticity": 0.5}, starts_pure=True),
)
