r"""Sampling with a flow map: consistency models, LCM, consistency trajectory models.

A flow map G_{s->t} carries x_s along the probability flow to time t; f(x, s) = G_{s->0}(x) is the consistency
function. With an exact one, each of these keeps the law of x_t:

    multistep     x_t = alpha_t f(x_s, s) + sigma_t z                                     clean, then noise afresh
    gamma         x_t = alpha_t / alpha_m G_{s->m}(x_s) + gamma sigma_t z,      rho_m = sqrt(1 - gamma^2) rho_t

gamma = 0 is the deterministic flow map, gamma = 1 multistep consistency sampling. The trajectory parameterization
G_{s->m} = alpha_m g + sigma_m (x - alpha_s g) / sigma_s, an estimate g of x_0 that depends on where one goes, turns
the gamma step into

    x_t = alpha_t g + sqrt(1 - gamma^2) sigma_t (x_s - alpha_s g) / sigma_s + gamma sigma_t z,

a table in g, and with the denoiser in place of g the DDIM member of noise gamma sigma_t. A network that answers F is
made a consistency function by f = c_skip x + c_out F, which is x itself at the end of time.

Tables are what asks the model for an estimate of x_0 at (x, s): `gamma_sampling`. A map of two times stands beside:
`sample_flow_map`. For data with a closed form `flow_map` is exact. Sources: PODD-02, 15, 32, 38, 118 (Song et al. 2023;
Kim et al. 2024; Luo et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, points, real_array, real_scalar
from refdiff.model import ExactModel, without_offset
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import flow_step
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, sqrt
from refdiff.samplers.order import reference_flow
from refdiff.samplers.propagation import flow
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

FlowMap = Callable[[Array, float, float], Array]  # (x (n, d), s, t) -> G_{s->t}(x)
Boundary = Callable[[Point], tuple[Number, Number]]  # c_skip and c_out at a point


def gamma_sampling(
    process: AffineProcess | Schedule, times: ArrayLike, *, gamma: float = 1.0, boundary: Boundary | None = None
) -> Tableau:
    """Jump towards the data, then noise again: the model answers an estimate of x_0, of its table's prediction slot.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0. The last
            step is like the others: noise of gamma sigma_t, which is none at sigma = 0.
        gamma: the share of fresh noise, in [0, 1]: 1 is multistep consistency sampling, 0 draws nothing.
        boundary: c_skip and c_out of a network F with f = c_skip x + c_out F; none where the model answers f itself.

    Raises:
        ValueError: gamma outside [0, 1].
        TypeError: a boundary that is no function.
    """
    gamma = real_scalar("gamma", gamma, low=0, high=1)
    if boundary is not None and not callable(boundary):
        raise TypeError(f"boundary must be a function of a Point, got {boundary!r}")
    name = "consistency sampling" if gamma == 1 else f"gamma sampling, gamma = {gamma:g}"
    rec = Recorder(name, process, times, "denoiser")
    kept = sqrt((1 - gamma) * (1 + gamma))
    x = rec.start
    for s, t in rec.steps:
        g = rec.evaluate(x, s)
        if boundary is not None:
            skip, out = boundary(s)
            g = skip * x + out * g
        x = flow_step(x, g, s, t, kept * t.sigma) + rec.noise(gamma * t.sigma)
    return rec.finish(x)


def consistency_boundary(sigma_data: float = 0.5, sigma_min: float = 0.002) -> Boundary:
    """c_skip and c_out of Song et al. (2023) for a network on x / alpha at noise level rho = sigma / alpha.

    c_skip = sd^2 / ((rho - e)^2 + sd^2) / alpha and c_out = sd (rho - e) / sqrt(rho^2 + sd^2), with sd = sigma_data and
    e = sigma_min the level at which f is the identity on x / alpha. At alpha = 0 they are 0 and sd.
    """
    sd, least = real_scalar("sigma_data", sigma_data, low=0, open_low=True), real_scalar("sigma_min", sigma_min, low=0)

    def weights(p: Point) -> tuple[Number, Number]:
        # times alpha above and below the line, where rho may be infinite
        gap = p.sigma - least * p.alpha
        skip = sd**2 * p.alpha / (gap**2 + (sd * p.alpha) ** 2)
        return skip, sd * gap / sqrt(p.sigma**2 + (sd * p.alpha) ** 2)

    return weights


def lcm_boundary(sigma_data: float = 0.5, timestep_scaling: float = 10.0, timesteps: float = 1.0) -> Boundary:
    """c_skip = sd^2 / (tau^2 + sd^2) and c_out = tau / sqrt(tau^2 + sd^2) of latent consistency models.

    sd is sigma_data and tau = timestep_scaling times the timestep; `timesteps` turns a time of the process into one
    (1000 for a process with T = 1 that stands for a table of 1000 betas).
    """
    sd = real_scalar("sigma_data", sigma_data, low=0, open_low=True)
    scaling = real_scalar("timestep_scaling", timestep_scaling, low=0) * real_scalar("timesteps", timesteps, low=0)

    def weights(p: Point) -> tuple[Number, Number]:
        tau = scaling * p.t
        return sd**2 / (tau**2 + sd**2), tau / sqrt(tau**2 + sd**2)

    return weights


# ---------------------------------------------------------------------- exact flow maps, and sampling with them


def flow_map(model: ExactModel) -> FlowMap:
    """G of data with a closed form: affine for a Gaussian, by DOP853 at tolerance 1e-13 for a mixture."""
    law, process = model.distribution, without_offset(model).affine
    covariance, basis = law.cov(), np.eye(law.dim)
    variances = np.diagonal(covariance)
    aligned = not (covariance - np.diag(variances)).any()
    if law.count > 1 or (process.per_axis and not aligned):
        return lambda x, s, t: np.array(x, dtype=float) if s == t else reference_flow(model, np.asarray(x), s, t)
    if not aligned:
        values, basis = np.linalg.eigh(covariance)
        variances = np.maximum(values, 0.0)
    mean = law.mean() @ basis

    def exact(x: Array, s: float, t: float) -> Array:
        gain, offset = flow(process.motion(s), process.motion(t), mean, variances)
        return np.asarray((gain * (x @ basis) + offset) @ basis.T)

    return exact


def consistency_function(model: ExactModel) -> Callable[[Array, float], Array]:
    """f(x, s) = G_{s->0}(x), which a table of `gamma_sampling` with gamma = 1 runs on."""
    carry = flow_map(model)
    return lambda x, s: carry(x, s, 0.0)


def sample_flow_map(
    carry: FlowMap,
    process: AffineProcess | Schedule,
    times: ArrayLike,
    x: ArrayLike,
    seed: int | np.random.Generator = 0,
    *,
    gamma: float = 1.0,
) -> Array:
    """Gamma sampling with a flow map of two times: by G to the cleaner m, then noise from m to t.

    Args:
        carry: (x (n, d), s, t) -> G_{s->t}(x).
        process, times: a process that is the same on all axes, and the decreasing grid (n + 1,); alpha > 0 at its times
            but the first.
        x: points at the first time, shape (..., d).
        seed: for the noise: an int or a generator.
        gamma: the share of fresh noise, in [0, 1]. Where no time is as clean as m, time 0 is m.

    Returns:
        Points at the last time, shape (..., d).

    Raises:
        ValueError: gamma outside [0, 1], x that is one number, one schedule for each axis, or a map whose answer has
            another shape.
    """
    gamma, rng = real_scalar("gamma", gamma, low=0, high=1), generator(seed)
    rec = Recorder("flow map", process, times)
    rec.scalar("a flow map")
    schedule, grid = rec.affine.schedules[0], [point.t for point in rec.points]
    start = real_array("x", x)
    if start.ndim == 0:
        raise ValueError("x must have shape (..., d), got one number")
    rows, restore = points("x", x, start.shape[-1])
    for s, t in pairwise(grid):
        c, middle = schedule.coefficients(t), t
        if gamma == 1:
            middle = 0.0
        elif gamma > 0 and c.sigma > 0:
            cleanest = schedule.coefficients(0.0).log_snr
            middle = schedule.time_of_log_snr(min(c.log_snr - 0.5 * np.log1p(-(gamma**2)), cleanest))
        answer = np.asarray(carry(rows, s, float(middle)), dtype=float)
        if answer.shape != rows.shape:
            raise ValueError(f"carry must answer with the shape of its points, {rows.shape}, got {answer.shape}")
        m = schedule.coefficients(middle)
        # what is missing of sigma_t: gamma sigma_t, or less where there is no time of noise rho_m or of none
        fresh = c.alpha * np.sqrt(max(float((c.sigma / c.alpha) ** 2 - (m.sigma / m.alpha) ** 2), 0.0))
        rows = c.alpha / m.alpha * answer + fresh * rng.standard_normal(rows.shape)
    return restore(rows)


FAMILIES = (
    # no order: the denoiser is not the flow map, and each step forgets how it got there
    Family("lcm", gamma_sampling, None, "n", "PODD-15 (Luo et al. 2023)", {"gamma": 1.0}, starts_pure=True),
    Family("ctm-gamma-0.5", gamma_sampling, None, "n", "PODD-38 (Kim et al. 2024)", {"gamma": 0.5}, starts_pure=True),
)
