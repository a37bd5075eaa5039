r"""A law whose optimal map to N(0, I) is known, and is not the map of its probability flow: Lavenant and Santambrogio.

    u = |x|^2 / 2 + e phi,   phi = x_1 x_2 + x_1^4,    grad u # p_0 = N(0, I),    0 < e < 1
    det D^2 u = 1 + 12 e x_1^2 - e^2,     log p_0 = log det D^2 u - |grad u|^2 / 2 - log 2 pi

u is strongly convex for these e only: for e < 0 the determinant turns negative far out, for e >= 1 at 0. If the flows
S_t of dx = -x dt + sqrt(2) dw, with S_inf # p_0 = N(0, I), made T_t = S_t o S_inf^-1 optimal for all t, then S_inf =
grad u and the rate of DT_t at t = 0 would be symmetric,

    [D^2 log p_0, D^2 u] = 0,       but at x = 0 it is [[0, k], [-k, 0]],   k = 24 e^2 / (1 - e^2)

Sources: PODB-95, PODB-73; Lavenant and Santambrogio 2022, "The flow map of the Fokker-Planck equation does not provide
optimal transport".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, points, real_scalar, whole_number


@dataclass(frozen=True)
class PerturbedGaussian:
    """The law p_0 in the plane, and its optimal map grad u to N(0, I) with its inverse.

    Args:
        epsilon: e, between 0 and 1.

    Raises:
        ValueError: it is not, so that u is not convex.
    """

    epsilon: float

    def __post_init__(self) -> None:
        if not 0 < real_scalar("epsilon", self.epsilon) < 1:
            raise ValueError(f"epsilon must lie between 0 and 1, where u is convex, got {self.epsilon}")

    @property
    def dim(self) -> int:
        """2."""
        return 2

    # ------------------------------------------------------------------ the map

    def potential(self, x: ArrayLike) -> Any:
        """u(x) for x of shape (..., 2), shape (...)."""
        rows, restore = points("x", x, 2)
        one, two = rows.T
        return restore(0.5 * (one**2 + two**2) + self.epsilon * (one * two + one**4))

    def forward(self, z: ArrayLike) -> Any:
        """grad u at z of shape (..., 2)."""
        rows, restore = points("z", z, 2)
        one, two = rows.T
        return restore(np.stack([one + self.epsilon * (two + 4 * one**3), two + self.epsilon * one], axis=1))

    def inverse(self, x: ArrayLike) -> Any:
        """z with grad u(z) = x, for x of shape (..., 2): the root of 4 e z_1^3 + (1 - e^2) z_1 = x_1 - e x_2."""
        rows, restore = points("x", x, 2)
        e = self.epsilon
        # a z^3 + b z = c with a, b > 0 has one root, z = 2 s sinh(asinh(3 c / (2 b s)) / 3), s^2 = b / (3 a)
        b, c = (1 - e) * (1 + e), rows[:, 0] - e * rows[:, 1]
        s = np.sqrt(b / (12 * e))
        one = 2 * s * np.sinh(np.arcsinh(1.5 * c / (b * s)) / 3)
        return restore(np.stack([one, rows[:, 1] - e * one], axis=1))

    def jacobian(self, z: ArrayLike) -> Any:
        """D^2 u at z of shape (..., 2), shape (..., 2, 2)."""
        rows, restore = points("z", z, 2)
        found = np.full((len(rows), 2, 2), self.epsilon)
        found[:, 0, 0], found[:, 1, 1] = 1 + 12 * self.epsilon * rows[:, 0] ** 2, 1.0
        return restore(found)

    def log_det(self, z: ArrayLike) -> Any:
        """log det D^2 u at z of shape (..., 2), shape (...)."""
        rows, restore = points("z", z, 2)
        return restore(np.log(self._determinant(rows)))

    # ------------------------------------------------------------------ the law

    def logpdf(self, x: ArrayLike) -> Any:
        """log p_0(x) for x of shape (..., 2), shape (...)."""
        rows, restore = points("x", x, 2)
        image = self.forward(rows)
        return restore(np.log(self._determinant(rows)) - 0.5 * (image**2).sum(axis=1) - np.log(2 * np.pi))

    def hessian(self, x: ArrayLike) -> Any:
        """D^2 log p_0 at x of shape (..., 2), shape (..., 2, 2)."""
        rows, restore = points("x", x, 2)
        e, one = self.epsilon, rows[:, 0]
        slope, image, det = self.jacobian(rows), self.forward(rows), self._determinant(rows)
        # D^2 (|grad u|^2 / 2) = (D^2 u)^2 + sum_i d_i u D^2 d_i u, of which only d_1^3 u = 24 e x_1 is not 0
        found = -slope @ slope
        found[:, 0, 0] += 24 * e / det - (24 * e * one / det) ** 2 - 24 * e * one * image[:, 0]
        return restore(found)

    def sample(self, n: int, seed: int | np.random.Generator) -> Array:
        """`n` independent draws by a `seed`, shape (n, 2)."""
        return np.asarray(self.inverse(generator(seed).standard_normal((whole_number("n", n), 2))))

    def commutator(self, x: ArrayLike) -> Any:
        """[D^2 log p_0, D^2 u] at x of shape (..., 2), shape (..., 2, 2)."""
        rows, restore = points("x", x, 2)
        h, m = self.hessian(rows), self.jacobian(rows)
        return restore(h @ m - m @ h)

    def _determinant(self, rows: Array) -> Array:
        e = self.epsilon
        return np.asarray((1 - e) * (1 + e) + 12 * e * rows[:, 0] ** 2)
