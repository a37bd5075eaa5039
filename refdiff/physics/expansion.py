r"""The expansion of diffusion from a point, which does not know how fast it diffuses.

    one point      p = N(x_0, C),  v = C' C^-1 (x - x_0) / 2;      C = s I:  v = s' (x - x_0) / (2 s)
    s = beta t     v = (x - x_0) / (2 t),  x_t = x_0 + sqrt(t / t_0) (x_{t_0} - x_0)       for every constant beta
    any law        p = p_0 * N(0, C),  v = -C' grad log p / 2 = C' C^-1 (x - E[x_0 | x]) / 2

Flux and density depend on beta, the velocity of a point that spreads does not. Of laws only a point has this: E[x_0 |
x] would have to be the same for every s, but it is the mean for s to infinity and the nearest point of the law for s to
0. A beta that varies shows in v, through s'/s; in the clock log s every schedule has v = (x - E[x_0 | x]) / 2. As s
goes to 0, v goes to infinity off the law, and is 0 on a point itself, where a source has infinity as well.
Sources: PHY-91, PHY-85.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_array, real_scalar
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.operators import Operator


def expansion_velocity(law: GaussianMixture, x: ArrayLike, variance: ArrayLike, rate: ArrayLike) -> Array:
    """v = -C' grad log p / 2 at points x (..., d), shape (..., d), p the `law` convolved with N(0, C).

    Args:
        law: p_0, a point set too where C is not singular.
        x: the points.
        variance: C, a variance, variances (d,) or a covariance (d, d).
        rate: C', in the same storages, symmetric; with C = s it is s', with C for it v is that of the clock log s.

    Raises:
        TypeError: law is none of this library's.
        ValueError: p has no density, or C or C' does not fit it or is negative.
    """
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"law must be a Gaussian, GaussianMixture or Empirical, got {law!r}")
    c, grows = operators.covariance("variance", variance), operators.covariance("rate", rate)
    for name, part in (("variance", c), ("rate", grows)):
        operators.fits(name, part, law.dim)
    rows, restore = points("x", x, law.dim)
    if operators.singular(c):  # C^-1 (x - E[x_0 | x]) is 0/0 there, and p_0 itself has to have a score
        return restore(-operators.apply(grows, law.convolve(c).score(rows)) / 2)
    left = rows - Channel(noise=c).posterior_mean(law, rows)
    return restore(operators.apply(_solved(grows, c, law.dim), left) / 2)


def point_velocity(x: ArrayLike, t: float, start: ArrayLike = 0.0) -> Array:
    """v = (x - x_0) / (2 t) at points x (..., d), shape (..., d): a point that spreads with any constant beta.

    Args:
        x: the points.
        t: the time since they all were at x_0, > 0.
        start: x_0, shape (d,) or a number.

    Raises:
        ValueError: t is not positive, or x_0 has another dimension.

    Examples:
        >>> from refdiff.physics import point_velocity
        >>> print(point_velocity([[6.0]], 1.5))  # x / (2 t)
        [[2.]]
    """
    origin, rows, restore = _origin(x, start)
    return restore((rows - origin) / (2 * real_scalar("t", t, low=0, open_low=True)))


def point_path(x: ArrayLike, t: float, end: float, start: ArrayLike = 0.0) -> Array:
    """x_0 + sqrt(end / t) (x - x_0), shape (..., d): where the velocity takes points x (..., d) of time t.

    Args:
        x: the points.
        t: their time, > 0.
        end: the time that is asked about, >= 0.
        start: x_0, shape (d,) or a number.

    Raises:
        ValueError: a time is negative, t is 0, or x_0 has another dimension.
    """
    origin, rows, restore = _origin(x, start)
    ratio = real_scalar("end", end, low=0) / real_scalar("t", t, low=0, open_low=True)
    return restore(origin + np.sqrt(ratio) * (rows - origin))


def point_law(t: float, beta: float, start: ArrayLike) -> Gaussian:
    """N(x_0, beta t I), which does depend on `beta`.

    Args:
        t: the time since all was at x_0.
        beta: the variance that comes in per unit of time.
        start: x_0, shape (d,).

    Raises:
        ValueError: t or beta is negative.
    """
    return Gaussian(start, real_scalar("beta", beta, low=0) * real_scalar("t", t, low=0))


def _origin(x: ArrayLike, start: ArrayLike) -> tuple[Array, Array, Callable[[Array], Array]]:
    """x_0, the points as rows, and the way back to their shape."""
    array = real_array("x", x)
    if array.ndim == 0:
        raise ValueError("x must have shape (..., d), got one number")
    rows, restore = points("x", x, array.shape[-1])
    origin = real_array("start", start, ndim=(0, 1))
    operators.fits("start", origin, array.shape[-1])
    return origin, rows, restore


def _solved(a: Operator, c: Operator, dim: int) -> Operator:
    """A C^-1."""
    if max(a.ndim, c.ndim) < 2:
        return a / c
    return np.asarray(np.linalg.solve(operators.dense(c, dim), operators.dense(a, dim).T).T)
