r"""What x_t leaves open of x_0, in closed form: the moments that Analytic-DPM, NPR-DPM and SN-DPM fit.

    averaged over p_t     E Cov[x_0 | x_t];   for a mean D that is not exact, the mean square error
                          E (x_0 - D)(x_0 - D)' = E Cov[x_0 | x_t] + E (D - D*)(D - D*)'
    at a point            E[(x_0 - D)^2 | x_t = x]                                        NPR-DPM
                          sigma^2 / alpha^2 (E[eps^2 | x_t = x] - eps_D^2)                SN-DPM, the same where D = D*

An average of the noise's square, sigma^2 / alpha^2 (1 - E eps_D^2), is that error for D = D*, and not in general.
Sources: TOPA-90, TOPA-96, TOPA-102, TOPA-107..109 (Bao et al. 2022, Analytic-DPM; Bao et al. 2022, Estimating the
optimal covariance with imperfect mean).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, one_of, points, real_array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel, without_offset

Mean = Callable[[Array, float], ArrayLike]  # a denoiser (x, t) -> D

# Trapezoidal sums over a component end 8.5 standard deviations out (2e-17 of its mass) and have this many nodes in the
# least standard deviation: two components at any distance then leave an error of e^-31 and e^-22 of the terms.
REACH, FINE = 8.5, {1: 10, 2: 6}
MOST = 40_000_000  # nodes times components (at least ten, for the memory of the nodes): some seconds
ROWS = 4096  # points whose covariance matrices are held at a time


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
    if (model.affine.coefficients(t).sigma == 0).any():
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
                off = answer(denoiser, part, t) - model.denoiser(part, t)
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
    one_of("kind", kind, ("npr", "sn"))
    rows, restore = points("x", x, model.dim)
    exact = np.asarray(np.diagonal(model.posterior_covariance(rows, t), axis1=1, axis2=2))
    if denoiser is None:
        return restore(exact)
    best, mean = without_offset(model).denoiser(rows, t), answer(denoiser, rows, t)
    alpha = model.affine.coefficients(t).alpha
    if kind == "npr":
        return restore(exact + (mean - best) ** 2)
    if (alpha == 0).any():
        raise ValueError(f"t must have alpha > 0 for sn with a denoiser that is not the exact one, got {t}")
    # sigma^2 / alpha^2 (eps*^2 - eps_D^2), as a difference of denoisers
    return restore(exact + (mean - best) * (2 * rows / alpha - mean - best))


def answer(denoiser: Mean, x: Array, t: float) -> Array:
    """What a denoiser answers at points (n, d).

    Raises:
        ValueError: an answer of another shape.
    """
    found = real_array("denoiser(x, t)", denoiser(x, t))
    if found.shape != x.shape:
        raise ValueError(f"denoiser must answer with the shape of its points, {x.shape}, got {found.shape}")
    return found
