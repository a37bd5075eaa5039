r"""Analytic-DPM: DDIM steps with the variance that x_0, known only in the mean, leaves behind.

    x_t = kappa x_s + gamma D + (c^2 + gamma^2 V)^(1/2) z
    kappa = sqrt(sigma_t^2 - c^2) / sigma_s,    gamma = alpha_t - alpha_s kappa,    c = eta sigma_t sqrt(1 - q)

With V = Cov[x_0 | x_s] this is mean and covariance of the exact kernel, for every eta. The papers replace it by

    isotropic        V = E tr Cov[x_0 | x_s] / d = sigma^2 / alpha^2 (1 - E |eps*|^2 / d) <= sigma^2 / alpha^2, Var x_0
    diagonal, full   V = E diag Cov[x_0 | x_s],  E Cov[x_0 | x_s]                         numbers: a table
    NPR-DPM          V(x) = E[(x_0 - D)^2 | x_s = x], axis by axis                        of the state: beside the table
    SN-DPM           V(x) = sigma^2 / alpha^2 (E[eps^2 | x_s = x] - eps_D^2)              the same where D is exact

Here V is exact, where a text fits it. For a mean D that is not exact, V is the mean square error E (x_0 - D)(x_0 - D)',
which an average of the noise's square, 1 - E eps_D^2, is not. Sources: TOPA-90..110, PODC9-16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator, one_of, points, real_array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.operators import Operator
from refdiff.processes import AffineProcess
from refdiff.samplers.ancestral import mean_weights, per_step, share
from refdiff.samplers.ddim import posterior_std
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, root
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

SHAPES = ("isotropic", "diagonal", "full")
Mean = Callable[[Array, float], ArrayLike]  # a denoiser (x, t) -> D

# Trapezoidal sums over a component end 8.5 standard deviations out (2e-17 of its mass) and have this many nodes in the
# least standard deviation: two components at any distance then leave an error of e^-31 and e^-22 of the terms.
REACH, FINE = 8.5, {1: 10, 2: 6}
MOST = 40_000_000  # nodes times components (at least ten, for the memory of the nodes): some seconds
ROWS = 4096  # points whose covariance matrices are held at a time


# ---------------------------------------------------------------------- moments


def averaged_covariance(
    model: ExactModel,
    t: float,
    *,
    denoiser: Mean | None = None,
    draws: int = 10_000,
    seed: int | np.random.Generator | None = None,
) -> Array:
    """E Cov[x_0 | x_t], shape (d, d); with another denoiser, its mean square error E (x_0 - D)(x_0 - D)'.

    In closed form for Gaussian data (with the exact denoiser), by trapezoidal sums against p_t in one and two
    dimensions, to about 1e-13 and 1e-9 of the largest variance; as an average over seeded draws of x_t otherwise,
    which leaves a relative error near draws^(-1/2).

    Args:
        model, t: the exact model, and a time with sigma > 0.
        denoiser: (x, t) -> D for points x (n, d), where it is not the exact one.
        draws, seed: of x_t, where the average is not a sum; unused where it is.

    Raises:
        ValueError: no seed where there is neither a closed form nor an affordable sum.
    """
    t = real_scalar("t", t, low=0, high=model.process.T)
    if (model.process.coefficients(t).sigma == 0).any():
        raise ValueError(f"t must have sigma > 0, got {t}")
    draws = whole_number("draws", draws, low=1)
    if model.distribution.count == 1 and denoiser is None:
        return _semi_definite(model.posterior_covariance(model.marginal(t).mean(), t))
    nodes = _nodes(model.marginal(t))
    if nodes is None:
        if seed is None:
            raise ValueError(f"seed must be given where the average is over draws, as for {model.distribution!r}")
        x = model.sample(draws, t, generator(seed))
        nodes = iter([(x, np.full(len(x), 1 / len(x)))])
    total = np.zeros((model.dim, model.dim))
    for x, weights in nodes:
        for rows in np.array_split(np.arange(len(x)), -(-len(x) // ROWS)):
            part, w = x[rows], weights[rows]
            total += np.einsum("n,nij->ij", w, model.posterior_covariance(part, t))
            if denoiser is not None:
                off = _answer(denoiser, part, t) - model.denoiser(part, t)
                total += (w[:, None] * off).T @ off
    return _semi_definite(total)


def _semi_definite(matrix: Array) -> Array:
    """A covariance without what rounding, relative to the data's covariance, left below zero."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def _nodes(law: GaussianMixture) -> Iterator[tuple[Array, Array]] | None:
    """Points and weights for p_t; None where there would be too many.

    In one box around all components, or in one for each along its principal axes, whichever has fewer points: the
    components of a noisy time overlap, those of an early one lie apart.
    """
    if law.dim > 2:
        return None
    matrices = np.broadcast_to(law.covariances.dense(law.dim), (law.count, law.dim, law.dim))
    values, vectors = np.linalg.eigh(matrices)
    std = np.sqrt(values)
    step, reach = std.min() / FINE[law.dim], REACH * np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    low, high = (law.means - reach).min(axis=0), (law.means + reach).max(axis=0)
    whole, each = np.ceil((high - low) / step), np.ceil(REACH * std / step)  # each: on either side of the mean
    if min(together := (whole + 1).prod(), apart := (2 * each + 1).prod(axis=1).sum()) * max(law.count, 10) > MOST:
        return None

    def component(k: int) -> tuple[Array, Array]:
        z = _product([REACH / n * np.arange(-n, n + 1) for n in each[k]])
        weights = np.exp(-0.5 * (z**2).sum(axis=1))
        return law.means[k] + (std[k] * z) @ vectors[k].T, law.weights[k] * weights / weights.sum()

    if apart < together:
        return (component(k) for k in range(law.count))
    x = _product([a + (b - a) / n * np.arange(n + 1) for a, b, n in zip(low, high, whole, strict=True)])
    weights = np.exp(law.logpdf(x))
    return iter([(x, weights / weights.sum())])


def _product(lines: list[Array]) -> Array:
    """All points with these coordinates, shape (n, d)."""
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, len(lines))


def conditional_variance(
    model: ExactModel, x: ArrayLike, t: float, kind: str = "npr", *, denoiser: Mean | None = None
) -> Array:
    """V(x), axis by axis: what NPR-DPM and SN-DPM regress on, in closed form, shape (..., d).

    npr: E[(x_0 - D)^2 | x_t = x].    sn: sigma^2 / alpha^2 (E[eps^2 | x_t = x] - eps_D^2), which may be negative.
    The two differ by 2 sigma^2 / alpha^2 eps_D (eps_D - eps*), zero for the exact denoiser.

    Args:
        model: the exact model.
        x, t: points (..., d) and a time with sigma > 0.
        kind: npr or sn.
        denoiser: the mean D of the sampler, (x, t) -> D, where it is not the exact one.

    Raises:
        ValueError: sn with a denoiser that is not the exact one, at alpha = 0, where it is infinite.

    Source: TOPA-107..109 (Bao et al. 2022, Estimating the optimal covariance with imperfect mean).
    """
    if kind not in ("npr", "sn"):
        raise ValueError(f"kind must be npr or sn, got {kind!r}")
    rows, restore = points("x", x, model.dim)
    exact = np.asarray(np.diagonal(model.posterior_covariance(rows, t), axis1=1, axis2=2))
    if denoiser is None:
        return restore(exact)
    best, mean, alpha = model.denoiser(rows, t), _answer(denoiser, rows, t), model.process.coefficients(t).alpha
    if kind == "npr":
        return restore(exact + (mean - best) ** 2)
    if (alpha == 0).any():
        raise ValueError(f"t must have alpha > 0 for sn with a denoiser that is not the exact one, got {t}")
    # sigma^2 / alpha^2 (eps*^2 - eps_D^2), as a difference of denoisers
    return restore(exact + (mean - best) * (2 * rows / alpha - mean - best))


def _answer(denoiser: Mean, x: Array, t: float) -> Array:
    found = real_array("denoiser(x, t)", denoiser(x, t))
    if found.shape != x.shape:
        raise ValueError(f"denoiser must answer with the shape of its points, {x.shape}, got {found.shape}")
    return found


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
        process, times: the process and the decreasing grid; it may start where alpha = 0 and end where sigma = 0.
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
    if (law is None) == (moments is None):
        raise ValueError("law or moments must be given, and not both")
    one_of("covariance", covariance, SHAPES)
    rec = Recorder("Analytic-DPM", process, times, "denoiser")
    shares = _shares(eta, len(rec.steps))
    ceiling = np.inf if data_range is None else _quarter(data_range)
    starts = [s for s, _ in rec.steps]
    left = _given(moments, starts) if law is None else _exact(ExactModel(law, process), starts, covariance, draws, seed)
    x = rec.start
    for (s, t), part, own in zip(rec.steps, shares, left, strict=True):
        kappa, gamma = mean_weights(s, t, part)
        v = own if own.ndim == 2 else np.asarray(np.minimum(own, np.minimum(s.rho**2, ceiling)))
        noisy = np.asarray(final_noise or t.sigma > 0, dtype=float)
        weight = operators.product(noisy, _root(part * posterior_std(s, t), gamma, v))
        d = rec.evaluate(x, s)
        x = kappa * x + gamma * d + rec.noise(weight)
    return rec.finish(x)


def _shares(eta: ArrayLike, steps: int) -> Array:
    shares = share("eta", eta, steps)
    if (shares < 0).any():
        raise ValueError(f"eta must not be negative, got {shares.min()}")
    return shares


def _quarter(data_range: tuple[float, float]) -> float:
    low, high = real_array("data_range", data_range, ndim=(1,)) if len(data_range) == 2 else (0.0, 0.0)
    if not low < high:
        raise ValueError(f"data_range must be (a, b) with a < b, got {data_range}")
    return float((high - low) ** 2 / 4)


def _given(moments: ArrayLike | Callable[[Point], ArrayLike] | None, starts: list[Point]) -> list[Operator]:
    if callable(moments):
        found = [np.asarray(moments(s)) for s in starts]  # mpmath numbers, in arrays of objects, pass
        return [v if v.dtype == object else operators.covariance("moments", v) for v in found]
    if moments is None:
        raise ValueError("moments must be given without a law")
    return [operators.covariance("moments", v) for v in per_step("moments", moments, len(starts), (1, 2, 3))]


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
    """Cov[x_0 | x] for data N(0, I): sigma^2 / (alpha^2 + sigma^2)."""
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
    if covariance not in ("npr", "sn", "full"):
        raise ValueError(f"covariance must be npr, sn or full, got {covariance!r}")
    if (seed is None) == (normals is None):
        raise ValueError("seed or normals must be given, and not both")
    steps = Recorder("NPR-DPM", model.process, times).steps
    rows, restore = points("x", x, model.dim)
    shares = _shares(eta, len(steps))
    if normals is not None:
        z = real_array("normals", normals)
        if z.shape != (len(steps), *np.shape(x)):
            raise ValueError(f"normals must have shape {(len(steps), *np.shape(x))}, got {z.shape}")
        drawn = iter(z.reshape(len(steps), *rows.shape))
    else:
        rng = generator(seed)  # type: ignore[arg-type]
        drawn = (rng.standard_normal(rows.shape) for _ in steps)
    for (s, t), part, noise in zip(steps, shares, drawn, strict=True):
        kappa, gamma = mean_weights(s, t, part)
        best = np.asarray(model.denoiser(rows, s.t))
        mean = best if denoiser is None else _answer(denoiser, rows, s.t)
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
