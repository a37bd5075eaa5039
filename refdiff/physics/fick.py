r"""Fick's law: what spreads flows from where there is much of it to where there is little.

    J = -D grad p,      v = J / p = -D grad log p                       flux and velocity of diffusion alone
    J = p (u - D grad log p)                                            with a control, a velocity u on top of it
    d_t p = -div J = div(D grad p),   d_t log p = tr(D H) + s' D s      s, H gradient and Hessian of log p

D is the diffusivity of physics, half of the D = G G' of a stochastic equation: each coordinate's variance grows by
2 D t. It is a number, one for each axis (d,) or a matrix (d, d). Sources: PHY-01..05, PHY-78.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_array
from refdiff.distributions import GaussianMixture
from refdiff.operators import Operator


def diffusive_velocity(law: GaussianMixture, x: ArrayLike, diffusivity: ArrayLike) -> Array:
    """v = -D grad log p at points x (..., d) of a `law` p, shape (..., d), for a `diffusivity` D.

    Raises:
        TypeError: law is none of this library's.
        ValueError: the law has no density, or D is negative or of another dimension.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.physics import diffusive_velocity
        >>> print(diffusive_velocity(Gaussian([0.0], 4.0), [[2.0]], 3.0))  # -D score = D x / variance
        [[1.5]]
    """
    d = _diffusivity(law, diffusivity)
    rows, restore = points("x", x, law.dim)
    return restore(-operators.apply(d, law.score(rows)))


def flux(law: GaussianMixture, x: ArrayLike, diffusivity: ArrayLike, control: ArrayLike = 0.0) -> Array:
    """J = p (u - D grad log p) at points x (..., d) of a `law` p, shape (..., d); 0 where p underflows.

    Args:
        law: p.
        x: the points.
        diffusivity: D.
        control: u at the points, shape (..., d), or one velocity (d,) or number everywhere.

    Raises:
        TypeError: law is none of this library's, or u no numbers.
        ValueError: the law has no density, D does not fit it, or u not the points.
    """
    d = _diffusivity(law, diffusivity)
    rows, restore = points("x", x, law.dim)
    u = real_array("control", control)
    if u.ndim > 1:
        if u.shape != np.shape(x):
            raise ValueError(f"control must have the shape of x, {np.shape(x)}, got {u.shape}")
        u = u.reshape(rows.shape)
    else:
        operators.fits("control", u, law.dim)
    total = u - operators.apply(d, law.score(rows))
    return restore(np.exp(law.logpdf(rows))[:, None] * total)


def spreading_rate(law: GaussianMixture, x: ArrayLike, diffusivity: ArrayLike) -> Array:
    """div(D grad p) / p = tr(D H) + s' D s at points x (..., d) of a `law` p, shape (...): d_t log p of diffusion.

    With the `diffusivity` D = 1 it is lap p / p; with half of a kernel's covariance, the bias of a density estimate.

    Raises:
        TypeError: law is none of this library's.
        ValueError: the law has no density, or D is negative or of another dimension.
    """
    d = _diffusivity(law, diffusivity)
    rows, restore = points("x", x, law.dim)
    s = law.score(rows)
    if d.ndim == 0:
        bend = d * law.laplacian(rows)
    else:
        bend = np.einsum("ij,nji->n", operators.dense(d, law.dim), law.hessian(rows))
    return restore(bend + (s * operators.apply(d, s)).sum(axis=1))


def _diffusivity(law: GaussianMixture, diffusivity: ArrayLike) -> Operator:
    """D, if it is one for this law."""
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"law must be a Gaussian, GaussianMixture or Empirical, got {law!r}")
    d = operators.covariance("diffusivity", diffusivity)
    operators.fits("diffusivity", d, law.dim)
    return d
