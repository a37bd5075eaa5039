r"""Analytic-DPM: DDIM steps with the variance that x_0, known only in the mean, leaves behind.

    x_t = kappa x_s + gamma D + (c^2 + gamma^2 V)^(1/2) z
    kappa = sqrt(sigma_t^2 - c^2) / sigma_s,    gamma = alpha_t - alpha_s kappa,    c = eta sigma_t sqrt(1 - q)

With V = Cov[x_0 | x_s] this is mean and covariance of the exact kernel, for every eta. The papers replace it by

    isotropic        V = E tr Cov[x_0 | x_s] / d = sigma^2 / alpha^2 (1 - E |eps*|^2 / d) <= sigma^2 / alpha^2, Var x_0
    diagonal, full   V = E diag Cov[x_0 | x_s],  E Cov[x_0 | x_s]                         numbers: a table
    NPR-DPM          V(x) = E[(x_0 - D)^2 | x_s = x], axis by axis                        of the state: beside the table
    SN-DPM           V(x) = sigma^2 / alpha^2 (E[eps^2 | x_s = x] - eps_D^2)              the same where D is exact

Here V is exact (analytic_moments.py), where a text fits it. Sources: TOPA-90..110, PODC9-16.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator, one_of, points, real_array
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel, without_offset
from refdiff.operators import Operator
from refdiff.processes import AffineProcess
from refdiff.samplers.analytic_moments import Mean, answer, averaged_covariance, conditional_variance
from refdiff.samplers.ancestral import mean_weights
from refdiff.samplers.ddim import per_step, posterior_std
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, root
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

SHAPES = ("isotropic", "diagonal", "full")
# ---------------------------------------------------------------------- the table


def analytic_dpm(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    law: GaussianMixture | None = None,
    moments: ArrayLike | Callable[[Point], ArrayLike] | None = None,
    covariance: str = "isotropic",
    eta: ArrayLike = 1.0,
    data_range: tuple[float, float] | None = None,
    final_noise: bool = False,
    draws: int = 10_000,
    seed: int | np.random.Generator | None = None,
) -> Tableau:
    """Analytic-DPM on any grid: a step from p_s has the mean and the (averaged) covariance of p_t.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0.
        law: the law of the data, for the exact moments; give either this or `moments`.
        moments: V at the first n times, isotropic (n,), diagonal (n, d) or full (n, d, d), or a function of the Point
            that answers one of them: estimates in place of the exact ones.
        covariance: isotropic, diagonal or full, with a law.
        eta: the share of the DDPM posterior's standard deviation in the kernel that V is added to, one number or one
            for each step; eta = sigma_s / sigma_t makes beta of it, where beta fits into sigma_t^2.
        data_range: (a, b) of the data. V is clipped to sigma^2 / alpha^2 and to (b - a)^2 / 4, unless it is full.
        final_noise: whether noise is added in a step to sigma = 0 too. The paper adds none; without it the data's
            variance lacks alpha_t^2 V at the end.
        draws, seed: see `averaged_covariance`.

    Raises:
        ValueError: both or neither of law and moments, moments that do not fit the grid or are negative, eta so large
            that a step's noise exceeds sigma_t.

    Source: TOPA-91, TOPA-96, TOPA-99, TOPA-102, TOPA-103 (Bao et al. 2022, Analytic-DPM).
    """
    one_of("covariance", covariance, SHAPES)
    rec = Recorder("Analytic-DPM", process, times, "denoiser")
    shares = per_step("eta", eta, len(rec.steps), negative=False)
    ceiling = np.inf if data_range is None else _quarter(data_range)
    starts = [s for s, _ in rec.steps]
    if moments is not None and law is None:
        left = _given(moments, starts)
    elif law is not None and moments is None:
        left = _exact(ExactModel(law, process), starts, covariance, draws, seed)
    else:
        raise ValueError("law or moments must be given, and not both")
    x = rec.start
    for (s, t), part, own in zip(rec.steps, shares, left, strict=True):
        kappa, gamma = mean_weights(s, t, part)
        v = own if own.ndim == 2 else np.asarray(np.minimum(own, np.minimum(s.rho**2, ceiling)))
        noisy = np.asarray(final_noise or t.sigma > 0, dtype=float)
        weight = operators.product(noisy, _root(part * posterior_std(s, t), gamma, v))
        d = rec.evaluate(x, s)
        x = kappa * x + gamma * d + rec.noise(weight)
    return rec.finish(x)


def _quarter(data_range: tuple[float, float]) -> float:
    ends = real_array("data_range", data_range, ndim=(1,))
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise ValueError(f"data_range must be (a, b) with a < b, got {data_range}")
    return float((ends[1] - ends[0]) ** 2 / 4)


def _given(moments: ArrayLike | Callable[[Point], ArrayLike], starts: list[Point]) -> list[Operator]:
    if callable(moments):
        found = [np.asarray(moments(s)) for s in starts]  # mpmath numbers, in arrays of objects, pass
        return [v if v.dtype == object else operators.covariance("moments", v) for v in found]
    return [operators.covariance("moments", v) for v in per_step("moments", moments, len(starts), ndim=(1, 2, 3))]


def _exact(
    model: ExactModel, starts: list[Point], covariance: str, draws: int, seed: int | np.random.Generator | None
) -> list[Operator]:
    rng = None if seed is None else generator(seed)
    matrices = [averaged_covariance(model, s.t, draws=draws, seed=rng) for s in starts]
    if covariance == "full":
        return matrices
    variances = [np.diagonal(matrix) for matrix in matrices]
    return [np.asarray(v.mean()) for v in variances] if covariance == "isotropic" else variances


def _root(c: Number, gamma: Number, v: Operator) -> Operator:
    """(c^2 + gamma^2 V)^(1/2), symmetric where V is a matrix, or several (..., d, d)."""
    if v.ndim < 2:
        return np.asarray(root(c**2 + gamma**2 * v))
    dim = v.shape[-1]
    scale = np.broadcast_to(gamma, (dim,))
    values, vectors = np.linalg.eigh(scale[:, None] * v * scale + operators.dense(np.asarray(c**2), dim))
    result: Array = (vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return result


def standard_normal(point: Point) -> Array:
    """Cov[x_0 | x] for data N(0, I) at a point: sigma^2 / (alpha^2 + sigma^2), a scalar or (d,)."""
    return np.asarray(point.sigma**2 / (point.alpha**2 + point.sigma**2))


# ---------------------------------------------------------------------- beside the table: variances of the state


def state_dependent_dpm(
    model: ExactModel,
    times: ArrayLike,
    x: ArrayLike,
    seed: int | np.random.Generator | None = None,
    *,
    covariance: str = "npr",
    denoiser: Mean | None = None,
    eta: ArrayLike = 1.0,
    final_noise: bool = False,
    normals: ArrayLike | None = None,
) -> Array:
    """NPR-DPM and SN-DPM: the steps of Analytic-DPM with the variance V(x) of the state they start from.

    No table holds this: the noise is not linear. A step from p_s has the mean and (with full) the covariance of p_t.

    Args:
        model: the exact model, whose exact moments take the place of the papers' second network.
        times: the decreasing grid; it may start where alpha = 0 and end where sigma = 0.
        x: where to start, shape (..., d).
        seed: for the normals: an int or a generator.
        covariance: npr, sn (a negative variance is taken as zero), or full: E[(x_0 - D)(x_0 - D)' | x].
        denoiser: the mean D of the steps, (x, t) -> D for points (n, d), where it is not the exact one.
        eta, final_noise: as for `analytic_dpm`.
        normals: the normals themselves, shape (n, ..., d), in place of a seed.

    Returns:
        The output (..., d), as float32 when x is float32.

    Raises:
        ValueError: an unknown covariance; not one of seed and normals; what `analytic_dpm` refuses.

    Source: TOPA-103, TOPA-107..109 (Bao et al. 2022, Estimating the optimal covariance with imperfect mean).
    """
    one_of("covariance", covariance, ("npr", "sn", "full"))
    steps = Recorder("NPR-DPM", without_offset(model).process, times).steps
    rows, restore = points("x", x, model.dim)
    shares = per_step("eta", eta, len(steps), negative=False)
    if normals is not None and seed is None:
        z = real_array("normals", normals)
        if z.shape != (len(steps), *np.shape(x)):
            raise ValueError(f"normals must have shape {(len(steps), *np.shape(x))}, got {z.shape}")
        drawn = iter(z.reshape(len(steps), *rows.shape))
    elif seed is not None and normals is None:
        rng = generator(seed)
        drawn = (rng.standard_normal(rows.shape) for _ in steps)
    else:
        raise ValueError("seed or normals must be given, and not both")
    for (s, t), part, noise in zip(steps, shares, drawn, strict=True):
        kappa, gamma = mean_weights(s, t, part)
        best = np.asarray(model.denoiser(rows, s.t))
        mean = best if denoiser is None else answer(denoiser, rows, s.t)
        c, noisy = part * posterior_std(s, t), final_noise or t.sigma > 0
        if covariance == "full":
            off = mean - best
            v = model.posterior_covariance(rows, s.t) + off[:, :, None] * off[:, None, :]
            added = np.einsum("nij,nj->ni", _root(c, gamma, v), noise)
        else:
            variance = conditional_variance(model, rows, s.t, covariance, denoiser=denoiser)
            added = root(c**2 + gamma**2 * np.maximum(variance, 0.0)) * noise
        rows = kappa * rows + gamma * mean + noisy * added
    return restore(rows)


# Weak order 1: with the moments of standard normal data the step is exact for these, and off by h^2 for others. With
# those of Gaussian data themselves the sampler is exact on every grid, and has no order.
FAMILIES = tuple(
    Family(name, analytic_dpm, 1, "n", "TOPA-91 (Bao et al. 2022)", options, starts_pure=True)
    for name, options in (
        ("analytic-dpm", {"moments": standard_normal}),
        ("analytic-dpm-ddim", {"moments": standard_normal, "eta": 0.0}),
    )
)
