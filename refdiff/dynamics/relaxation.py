r"""Laws on their way to equilibrium under dx = (F x + u) dt + G dw, D = G G': currents, divergence, entropy.

    v = F x + u - (D/2) grad log p,   J = p v,   d_t p = -div J                        the probability current
      = -(D/2) grad log(p / pi) + Q grad log pi,      pi = N(-F^-1 u, Sigma)           what relaxes, what circulates
    d KL(p | pi) / dt = -E |grad log(p / pi)|^2_(D/2)                                  circulation has no part in it
    entropy production = E |v|^2_(D/2)^-1 = E |grad log(p / pi)|^2_(D/2) + E |Q grad log pi|^2_(D/2)^-1

The two parts of v are orthogonal, so the production is the loss of divergence (excess) plus what keeps the current
going (housekeeping). Where D is singular and v leaves its range the production is infinite, unless the coordinates
that feel no noise and those that do have different parity under reversal of time, as positions and velocities: then
only the part of v that keeps its sign counts (Spinney and Ford 2012). A Gaussian N(m, P) has all of this in closed
form; v, J and the housekeeping have closed forms for every mixture. Sources: RDX-44, RDX-45, RDX-46, RDX-48, PHY-82.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_array, real_scalar
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.dynamics.equilibrium import circulation, coefficients, signs_of, stationary_covariance
from refdiff.processes import transition

# A current outside the range of D by less than this, relative to F or u, is rounding of their products.
OUTSIDE = 1e-12
LEAVES = (
    "diffusion must reach all that moves, got a current outside its range: the entropy production is infinite unless"
    " `parity` tells positions from velocities"
)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The equation dx = (F x + u) dt + G dw, D = G G', with constant coefficients, and what laws do under it.

    Args:
        drift: F, a matrix (d, d), a diagonal (d,) or a number; Hurwitz where an equilibrium is asked for.
        diffusion: D, in the same storages, positive semi-definite.
        offset: u, a number or shape (d,).

    Raises:
        ValueError: the shapes do not fit, or D has a negative eigenvalue.
    """

    drift: Array
    diffusion: Array
    offset: Array

    def __init__(self, drift: ArrayLike, diffusion: ArrayLike, offset: ArrayLike = 0.0) -> None:
        f, d = coefficients(drift, diffusion)
        u = real_array("offset", offset, ndim=(0, 1))
        if u.ndim and u.shape != (len(f),):
            raise ValueError(f"offset must have shape ({len(f)},), got {u.shape}")
        for name, part in (("drift", f), ("diffusion", d), ("offset", np.broadcast_to(u, len(f)))):
            object.__setattr__(self, name, part)

    @property
    def dim(self) -> int:
        """d, the dimension of x."""
        return len(self.drift)

    @cached_property
    def stationary(self) -> Gaussian:
        """pi = N(-F^-1 u, Sigma).

        Raises:
            ValueError: F is not Hurwitz.
        """
        sigma = stationary_covariance(self.drift, self.diffusion)
        return Gaussian(-np.linalg.solve(self.drift, self.offset), sigma)

    @cached_property
    def circulation(self) -> Array:
        """Q = -D/2 - F Sigma, shape (d, d), antisymmetric.

        Raises:
            ValueError: F is not Hurwitz.
        """
        return circulation(self.drift, self.diffusion)

    def channel(self, t: float) -> Channel:
        """The channel x_0 -> x_t after a time t >= 0.

        Raises:
            ValueError: t is negative.
        """
        t = real_scalar("t", t, low=0)
        root = operators.root(self.diffusion)
        equation = transition.Linear(lambda _: self.drift, lambda _: self.offset, lambda _: root)
        return transition.constant(equation, t).channel

    # ------------------------------------------------------------------ currents

    def velocity(self, law: GaussianMixture, x: ArrayLike) -> Array:
        """v = F x + u - (D/2) grad log p at points x (..., d) of a `law` p, shape (..., d): that of probability flow.

        Raises:
            ValueError: the law has no density, or another dimension.
        """
        rows, restore = points("x", x, self._same("law", law).dim)
        return restore(rows @ self.drift.T + self.offset - law.score(rows) @ self.diffusion / 2)

    def current(self, law: GaussianMixture, x: ArrayLike) -> Array:
        """J = p v at points x (..., d) of a `law` p, shape (..., d), which is 0 where p underflows.

        Raises:
            ValueError: the law has no density, or another dimension.
        """
        rows, restore = points("x", x, self._same("law", law).dim)
        return restore(np.exp(law.logpdf(rows))[:, None] * self.velocity(law, rows))

    def circulating_velocity(self, x: ArrayLike) -> Array:
        """Q grad log pi = -Q Sigma^-1 (x - m) at points x (..., d), shape (..., d): v when p = pi.

        Raises:
            ValueError: F is not Hurwitz, or Sigma is singular.
        """
        rows, restore = points("x", x, self.dim)
        return restore(self.stationary.score(rows) @ self.circulation.T)

    # ------------------------------------------------------------------ divergence and entropy

    def divergence_rate(self, law: Gaussian) -> float:
        """d KL(p | pi) / dt = -E |grad log(p / pi)|^2_(D/2) of a Gaussian `law` p, in nats per unit of time.

        Raises:
            TypeError: the law is not a Gaussian.
            ValueError: p or pi is singular, F is not Hurwitz, or the dimensions differ.

        Examples:
            >>> from refdiff import Gaussian
            >>> from refdiff.dynamics import Relaxation
            >>> unit = Relaxation([[-1.0]], [[2.0]])  # keeps N(0, 1); means go like e^-t, KL = m^2 / 2
            >>> print(round(float(unit.divergence_rate(Gaussian([1.0], 1.0))), 6))
            -1.0
        """
        mean, spread = self._moments(law)
        target = self.stationary
        if target.covariances.singular:
            raise ValueError(NO_DENSITY.format(what="the stationary covariance"))
        sigma = target.cov()
        # Sigma^-1 - P^-1 from P - Sigma, so that near equilibrium the difference is formed once
        slope = np.asarray(np.linalg.solve(sigma, np.linalg.solve(spread, spread - sigma).T))
        shift = np.asarray(np.linalg.solve(sigma, mean - target.mean()))
        return -_mean_square(self.diffusion / 2, slope, shift, spread)

    def entropy_rate(self, law: Gaussian) -> float:
        """d H(p) / dt = tr F + tr(D P^-1) / 2 of a Gaussian `law` p = N(m, P), in nats per unit of time.

        Raises:
            TypeError: the law is not a Gaussian.
            ValueError: P is singular, or of another dimension.
        """
        _, spread = self._moments(law)
        return float(np.trace(self.drift) + np.trace(np.linalg.solve(spread, self.diffusion)) / 2)

    def entropy_production(self, law: Gaussian, parity: ArrayLike | None = None) -> float:
        """E |v|^2 in the inverse of D/2 for a Gaussian `law`: how fast one tells the process from its reversal, >= 0.

        It is the limit of KL(path | reversed path) / dt. With `parity`, shape (d,), coordinates of -1 change their
        sign in reversed time and v loses its part that does too, (F - P F P) x / 2, P = diag(parity).

        Raises:
            TypeError: the law is not a Gaussian.
            ValueError: the law is singular, D mixes parities, or what is left of v leaves the range of D.
        """
        mean, spread = self._moments(law)
        signs = signs_of(parity, self.dim)
        turned = np.outer(signs, signs)
        if (self.diffusion * (turned < 0)).any():
            raise ValueError("diffusion must not correlate coordinates of different parity")
        drift, offset = (self.drift + turned * self.drift) / 2, (self.offset + signs * self.offset) / 2
        slope = drift + np.linalg.solve(spread, self.diffusion).T / 2
        inverse, null = self._inverse()
        if _outside(null, drift, self.drift) or _outside(null, offset, self.offset):
            raise ValueError(LEAVES)
        return _mean_square(inverse, slope, drift @ mean + offset, spread)

    def housekeeping(self, law: GaussianMixture) -> float:
        """E |Q grad log pi|^2 in the inverse of D/2 for any `law`: the entropy production that keeps circulation going.

        Raises:
            TypeError: law is none of this library's.
            ValueError: F is not Hurwitz, Sigma is singular, or Q leaves the range of D.
        """
        law, target = self._same("law", law), self.stationary
        if target.covariances.singular:
            raise ValueError(NO_DENSITY.format(what="the stationary covariance"))
        inverse, null = self._inverse()
        if _outside(null, self.circulation, self.circulation):
            raise ValueError(LEAVES)
        slope = np.asarray(np.linalg.solve(target.cov(), self.circulation.T).T)
        return _mean_square(inverse, slope, slope @ (law.mean() - target.mean()), law.cov())

    def _inverse(self) -> tuple[Array, Array]:
        """The pseudo-inverse of D/2 (d, d), and the axes (d, m) along which there is no noise."""
        values, axes = np.linalg.eigh(self.diffusion)
        seen = values > 8 * self.dim * np.finfo(float).eps * max(values[-1], 0.0)
        return (axes[:, seen] * (2 / values[seen])) @ axes[:, seen].T, axes[:, ~seen]

    def _moments(self, law: Gaussian) -> tuple[Array, Array]:
        """m and P of a Gaussian with a density."""
        if not isinstance(law, Gaussian):
            raise TypeError(f"law must be a Gaussian, got {law!r}")
        if self._same("law", law).covariances.singular:
            raise ValueError(NO_DENSITY.format(what="the covariance of the law"))
        return law.mean(), law.cov()

    def _same(self, name: str, law: GaussianMixture) -> GaussianMixture:
        """The law, if it is one on R^d."""
        if not isinstance(law, GaussianMixture):
            raise TypeError(f"{name} must be a Gaussian, GaussianMixture or Empirical, got {law!r}")
        if law.dim != self.dim:
            raise ValueError(f"{name} must have dimension {self.dim}, got {law.dim}")
        return law


def _mean_square(weight: Array, slope: Array, shift: Array, spread: Array) -> float:
    """E |slope (x - m) + shift|^2_weight for x of mean m and this covariance."""
    return float((weight @ slope @ spread * slope).sum() + shift @ weight @ shift)


def _outside(null: Array, part: Array, whole: Array) -> bool:
    """Whether a part of the drift moves along axes without noise, by more than rounding of the whole."""
    return bool(np.abs(null.T @ part).max(initial=0.0) > OUTSIDE * np.abs(whole).max(initial=0.0))
