r"""Laws people reach for: rings, grids, checkerboards, moons, rolls, random mixtures, and their own samples.

All are exact members of the closed world (mixtures or point sets); random ones take an explicit seed. Lengths (radius,
spacing, std, noise: a standard deviation) are in the unit of the coordinates. Sources: the usual toy data of the field
(swiss_roll and two_moons as in scikit-learn).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, real_array, real_scalar, whole_number
from refdiff.distributions.mixture import Empirical, GaussianMixture


def ring(count: int = 8, radius: float = 4.0, std: float = 0.3) -> GaussianMixture:
    """`count` equal isotropic Gaussians of standard deviation `std` on a circle of this radius in the plane.

    Examples:
        >>> from refdiff.distributions import ring
        >>> law = ring(count=8, radius=4.0, std=0.3)  # Cov = (radius^2 / 2 + std^2) I
        >>> print(law.cov().round(6))
        [[8.09 0.  ]
         [0.   8.09]]
    """
    count, radius = whole_number("count", count, low=1), real_scalar("radius", radius, low=0)
    angle = 2 * np.pi * np.arange(count) / count
    means = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return GaussianMixture.isotropic(means, real_scalar("std", std, low=0) ** 2)


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.2, dim: int = 2) -> GaussianMixture:
    """side^dim equal isotropic Gaussians of standard deviation `std`, `spacing` apart on a centred cubic grid."""
    side, dim = whole_number("side", side, low=1), whole_number("dim", dim, low=1)
    axis = real_scalar("spacing", spacing) * (np.arange(side) - (side - 1) / 2)
    means = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    return GaussianMixture.isotropic(means, real_scalar("std", std, low=0) ** 2)


def checkerboard(n: int, seed: int | np.random.Generator, squares: int = 4) -> Empirical:
    """`n` points uniform on the dark squares of a board of `squares` x `squares` unit squares, centred."""
    n, squares, rng = whole_number("n", n, low=1), whole_number("squares", squares, low=2), generator(seed)
    dark = np.argwhere(np.indices((squares, squares)).sum(axis=0) % 2 == 0)
    corner = dark[rng.integers(len(dark), size=n)]
    return Empirical(corner + rng.random((n, 2)) - squares / 2)


def two_moons(n: int, seed: int | np.random.Generator, noise: float = 0.05) -> Empirical:
    """`n` points on two interleaved half circles of radius 1, the second shifted by (1, 1/2) and turned, plus noise."""
    n, rng = whole_number("n", n, low=1), generator(seed)
    std = real_scalar("noise", noise, low=0)
    angle = np.pi * rng.random(n)
    second = rng.random(n) < 0.5
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    moons = np.where(second[:, None], np.array([1.0, 0.5]) - upper, upper)
    return Empirical(moons + std * rng.standard_normal((n, 2)))


def swiss_roll(n: int, seed: int | np.random.Generator, noise: float = 0.05, dim: int = 3) -> Empirical:
    """`n` points on the roll (t cos t, height, t sin t), t in [1.5 pi, 4.5 pi], height in [0, 21]; dim 2: no height."""
    n, dim, rng = whole_number("n", n, low=1), whole_number("dim", dim, low=2, high=3), generator(seed)
    std = real_scalar("noise", noise, low=0)
    turn = 1.5 * np.pi * (1 + 2 * rng.random(n))
    height = 21 * rng.random(n)
    roll = np.stack([turn * np.cos(turn), height, turn * np.sin(turn)], axis=1)[:, [0, 1, 2] if dim == 3 else [0, 2]]
    return Empirical(roll + std * rng.standard_normal((n, dim)))


def random_mixture(
    dim: int, count: int, seed: int | np.random.Generator, covariance: str = "isotropic", spread: float = 2.0
) -> GaussianMixture:
    """A seeded random mixture of `count` components on R^dim: `covariance` is isotropic, diagonal, shared or full.

    Means are N(0, spread^2 I), weights a flat Dirichlet draw, variances log-uniform in [0.1, 1] (as eigenvalues
    in a random basis for the dense kinds).

    Raises:
        ValueError: there is no such kind of covariance.
    """
    dim, count, rng = whole_number("dim", dim, low=1), whole_number("count", count, low=1), generator(seed)
    build, shape = {
        "isotropic": (GaussianMixture.isotropic, (count,)),
        "diagonal": (GaussianMixture.diagonal, (count, dim)),
        "shared": (GaussianMixture.shared, (dim,)),
        "full": (GaussianMixture.full, (count, dim)),
    }.get(str(covariance), (None, ()))
    if build is None:
        raise ValueError(f"covariance must be isotropic, diagonal, shared or full, got {covariance!r}")
    means = real_scalar("spread", spread, low=0) * rng.standard_normal((count, dim))
    weights = rng.dirichlet(np.ones(count))
    variances = 10 ** -rng.random(shape)
    return build(means, _turned(variances, rng) if covariance in ("shared", "full") else variances, weights)


def _turned(variances: Array, rng: np.random.Generator) -> Array:
    """Matrices with these eigenvalues (..., d) in random orthonormal bases."""
    basis, _ = np.linalg.qr(rng.standard_normal((*variances.shape, variances.shape[-1])))
    return np.asarray(basis @ (variances[..., None] * np.swapaxes(basis, -1, -2)))


def from_samples(points: ArrayLike, weights: ArrayLike | None = None, bandwidth: float = 0.0) -> GaussianMixture:
    """The law of given points (n, d): the point set itself, or a Gaussian kernel of std `bandwidth` on each point.

    Args:
        points, weights: as of `Empirical`, weights (n,) equal when left out.

    Examples:
        >>> from refdiff.distributions import from_samples
        >>> law = from_samples([[0.0], [2.0]], bandwidth=0.5)  # variance 1 of the points, and 1/4 of the kernel
        >>> print(law, law.cov())
        GaussianMixture(2 x R^1, diagonal) [[1.25]]
    """
    array = real_array("points", points, ndim=(2,))
    std = real_scalar("bandwidth", bandwidth, low=0)
    return Empirical(array, weights) if std == 0 else GaussianMixture.isotropic(array, std**2, weights)
