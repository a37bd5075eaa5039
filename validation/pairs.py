r"""Laws of pairs for identities, and expectations over them that share no density with what they check.

nodes      sums over (x_0, x_1, z), exact for polynomials of degree 7 of each component: Gauss-Hermite
line       sums over x_t on the line against a density, trapezoidal, which converge to rounding
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture
from refdiff.interpolants import Interpolant
from refdiff.transport import PairLaw, component_pairs, gaussian_pairs, image_pairs, independent
from refdiff.validation.laws import covariances, square_root, well_conditioned
from refdiff.validation.numeric import hermite, product_rule, ticks


class Nodes(NamedTuple):
    """Pairs x0, x1 and their noise z, each (n, d), with weights (n,)."""

    x0: Array
    x1: Array
    z: Array
    weights: Array

    def joined(self, way: Interpolant, t: float) -> Array:
        """x_t (n, d) of a way to join them, an interpolant of numbers, at the time t."""
        now = way.at(t)
        return np.asarray(now.first * self.x0 + now.second * self.x1 + np.sqrt(now.noise) * self.z + now.offset)

    def rates(self, way: Interpolant, t: float) -> Array:
        """dx_t/dt (n, d) of a way to join them, an interpolant of numbers, at the time t."""
        now = way.at(t)
        moved = now.dfirst * self.x0 + now.dsecond * self.x1 + now.doffset
        return np.asarray(moved + (now.spread / np.sqrt(now.noise) * self.z if now.noise > 0 else 0.0))


def nodes(pairs: PairLaw, count: int = 4) -> Nodes:
    """Gauss-Hermite nodes of pairs and noise, `count` along each of 3 d axes, exact for degree 2 count - 1."""
    d, whole = pairs.dim, pairs.mixture()
    z, w = product_rule(hermite(count), 3 * d)
    roots = np.stack([square_root(s) for s in covariances(whole)])
    both = whole.means[:, None, :] + np.einsum("kij,nj->kni", roots, z[:, : 2 * d])
    flat = both.reshape(-1, 2 * d)
    noise = np.tile(z[:, 2 * d :], (whole.count, 1))
    return Nodes(flat[:, :d], flat[:, d:], noise, np.outer(whole.weights, w).ravel())


def line(law: GaussianMixture) -> tuple[Array, Array]:
    """Points (n, 1) and weights p(x) dx (n,) of a law on the line, a thirtieth of its least deviation apart."""
    spread = np.sqrt(covariances(law)[:, 0, 0])
    step, reach = spread.min() / 30, 9 * spread
    x = ticks((law.means[:, 0] - reach).min(), (law.means[:, 0] + reach).max(), step)[:, None]
    density = sum(
        w * np.exp(-0.5 * ((x[:, 0] - m) / s) ** 2) / (s * np.sqrt(2 * np.pi))
        for w, m, s in zip(law.weights, law.means[:, 0], spread, strict=True)
    )
    return x, np.asarray(density * step)


def several(rng: np.random.Generator, dim: int) -> dict[str, PairLaw]:
    """Couplings of every make in `dim` dimensions, with a density in between, drawn from `rng`."""
    p, q = (random_mixture(dim, count, rng, "full", spread=0.8).convolve(0.4) for count in (2, 3))
    points = Empirical(rng.standard_normal((4, dim)), rng.dirichlet(np.ones(4)))
    share = rng.random()
    corner = np.zeros((2, 3))
    left, right = p.weights.copy(), q.weights.copy()
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
        corner[i, j] = min(left[i], right[j])
        left[i], right[j] = left[i] - corner[i, j], right[j] - corner[i, j]
    first, second = (random_mixture(dim, 1, rng, "full").cov() for _ in range(2))
    cross = 0.6 * np.linalg.cholesky(first) @ np.linalg.cholesky(second).T
    turn = well_conditioned(rng, dim)
    return {
        "independent": independent(p, q),
        "by components": component_pairs(p, q, share * corner + (1 - share) * np.outer(p.weights, q.weights)),
        "points with a mixture": independent(points, q),
        "a mixture with points": independent(p, points),
        "Gaussians": gaussian_pairs(Gaussian(np.zeros(dim), first), Gaussian(np.ones(dim), second), cross),
        "a noisy image": image_pairs(p, Channel(turn, np.ones(dim), 0.3)),
    }
