"""Laws of pairs of every make, for tests of what is computed with them."""

from dataclasses import dataclass

import mixtures
import numpy as np

from refdiff import Gaussian
from refdiff.channels import Channel
from refdiff.distributions import random_mixture
from refdiff.interpolants import Blend, brownian, linear, trigonometric
from refdiff.transport import component_pairs, gaussian_pairs, image_pairs, independent, point_pairs

TURN = np.array([[0.3, -1.1], [0.8, 0.5]])
SHIFT = np.array([1.0, -0.5])


def plan(rng, rows, columns):
    """Masses with these sums: a mean of the product and the plan that fills from a corner."""
    corner, left, right = np.zeros((len(rows), len(columns))), rows.copy(), columns.copy()
    for i, j in [(i, j) for i in range(len(rows)) for j in range(len(columns))]:
        corner[i, j] = min(left[i], right[j])
        left[i] -= corner[i, j]
        right[j] -= corner[i, j]
    share = rng.random()
    return share * corner + (1 - share) * np.outer(rows, columns)


def build(kind, seed=0):
    """A law of pairs on R^2 x R^2 of each make."""
    rng = np.random.default_rng(seed)
    p, q = mixtures.law("full", 2, 3, seed), mixtures.law("isotropic", 2, 2, seed + 1)
    one, other = random_mixture(2, 1, rng, "full"), random_mixture(2, 1, rng, "full")
    root = 0.8 * np.linalg.cholesky(one.cov()) @ np.linalg.cholesky(other.cov()).T
    points = mixtures.law("points", 2, 5, seed)
    return {
        "independent": lambda: independent(p, q),
        "isotropic": lambda: independent(mixtures.law("isotropic", 2, 3, seed), q),
        "diagonal": lambda: independent(mixtures.law("diagonal", 2, 3, seed), mixtures.law("one diagonal", 2, 2, 1)),
        "shared": lambda: independent(mixtures.law("shared", 2, 3, seed), mixtures.law("shared", 2, 2, 1)),
        "components": lambda: component_pairs(p, q, plan(rng, p.weights, q.weights)),
        "Gaussians": lambda: gaussian_pairs(Gaussian(one.means[0], one.cov()), Gaussian([1, 2], other.cov()), root),
        "Gaussians, numbers": lambda: gaussian_pairs(Gaussian([0, 1], 2.0), Gaussian([1, 2], [0.5, 1.0]), -0.6),
        "points with points": lambda: independent(points, mixtures.law("points", 2, 4, 9)),
        "points with a mixture": lambda: independent(points, p),
        "pairs of points": lambda: point_pairs(points.means, points.means @ TURN + SHIFT, points.weights),
        "a noisy image": lambda: image_pairs(p, Channel(TURN, SHIFT, [0.3, 0.0])),
        "a map": lambda: image_pairs(p, Channel(TURN, SHIFT, 0.0)),
        "a scaling": lambda: image_pairs(mixtures.law("diagonal", 2, 3, seed), Channel([1.7, -0.3], SHIFT, 0.0)),
        "a noisy image of points": lambda: image_pairs(points, Channel(TURN, SHIFT, 0.4)),
        "a map to a point": lambda: image_pairs(p, Channel(0.0, SHIFT, 0.0)),
    }[kind]()


KINDS = (
    "independent",
    "isotropic",
    "diagonal",
    "shared",
    "components",
    "Gaussians",
    "Gaussians, numbers",
    "points with points",
    "points with a mixture",
    "pairs of points",
    "a noisy image",
    "a map",
    "a scaling",
    "a noisy image of points",
    "a map to a point",
)


@dataclass(frozen=True)
class Turning:
    """A quarter turn on the way, an offset, and noise that is a matrix: all that a Blend can have."""

    T: float = 2.0

    def at(self, t):
        u, w = t / self.T, np.pi / (2 * self.T)
        turn = np.array([[np.cos(w * t), -np.sin(w * t)], [np.sin(w * t), np.cos(w * t)]])
        spin = w * np.array([[0.0, -1.0], [1.0, 0.0]])
        base = np.array([[0.5, 0.2], [0.2, 0.3]])
        bump, rate, bend = u * (1 - u), (1 - 2 * u) / self.T, -2 / self.T**2
        # any S with S + S' = V' is a spread: here one that is not symmetric
        skew = np.array([[0.0, 0.1], [-0.1, 0.0]])
        return Blend(
            (1 - u) * turn,
            np.array([u, u**2]),
            bump * base,
            (1 - u) * spin @ turn - turn / self.T,
            np.array([1.0, 2 * u]) / self.T,
            rate * base / 2 + bump * skew,
            (1 - u) * spin @ spin @ turn - 2 * spin @ turn / self.T,
            np.array([0.0, 2.0]) / self.T**2,
            bend * base / 2 + rate * skew,
            np.array([np.sin(t), t]),
            np.array([np.cos(t), 1.0]),
            np.array([-np.sin(t), 0.0]),
        )


JOININGS = {
    "linear": linear(),
    "trigonometric with noise": trigonometric(0.5),
    "Brownian": brownian(0.6),
    "turning": Turning(),
}
