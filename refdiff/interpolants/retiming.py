r"""Clocks by which a flow with the energy density k spends more evenly.

    rho' = c k(rho)^(-p),   c T = int k^p drho,      int k(rho) rho'^2 dt = int k^p drho int k^(1-p) drho / T

k is a polynomial on [0, T]. It may touch 0, as where a Gaussian is narrowest on its way: k^p has a corner there and the
clock a moment of infinite rate, so that integrals go from one extremum of k to the next by tanh-sinh rules, which do
not mind what happens at their ends. Sources: PODB-64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev

from refdiff.arguments import Array, real_scalar
from refdiff.expectations import Estimate


@dataclass(frozen=True, eq=False)
class Retiming:
    """A clock rho with rho' ~ k(rho)^(-p), from [0, T] to [0, T].

    Attributes:
        density: k on [0, T] in Chebyshev polynomials of 2 rho / T - 1, shape (n,).
        power: p.
        T: the final time of both clocks.
        knots: 0, the extrema of k and T, shape (m,).
        spent: int_0 k^p up to each of them, shape (m,).
        energy: int k(rho) rho'^2 dt, what the flow spends at the times of the clock.
    """

    density: Array
    power: float
    T: float
    knots: Array
    spent: Array
    energy: Estimate

    @staticmethod
    def of(density: Array, power: float, T: float, slack: float, route: str) -> Retiming:
        """The clock for a density of energy.

        Args:
            density: k on [0, T] in Chebyshev polynomials, shape (n,).
            power: p.
            T: the final time.
            slack: what k may err by.
            route: how it was found, as of `Estimate`.
        """
        knots = _extrema(density, T)
        legs = list(zip(knots[:-1].tolist(), knots[1:].tolist(), strict=True))

        def whole(p: float, extra: float) -> Array:
            return np.array([_integral(density, p, T, a, b, extra) for a, b in legs])

        parts = whole(power, 0.0)
        energy, more = (float(whole(power, e).sum() * whole(1 - power, e).sum() / T) for e in (0.0, slack))
        spent = np.concatenate([[0.0], np.cumsum(parts)])
        return Retiming(density, power, T, knots, spent, Estimate(energy, abs(more - energy), route))

    def clock(self, t: float) -> tuple[float, float, float]:
        """rho, rho' and rho'' at a time t in [0, T], for `ScalarInterpolant.retimed`; infinite rates where k = 0.

        Raises:
            ValueError: t is outside.
        """
        now = real_scalar("t", t, low=0, high=self.T)
        rho = self._at(now / self.T * float(self.spent[-1]))
        u, p = 2 * rho / self.T - 1, self.power
        k = max(float(chebyshev.chebval(u, self.density)), 0.0)
        slope = float(chebyshev.chebval(u, chebyshev.chebder(self.density))) * 2 / self.T
        if k == 0:
            return rho, np.inf, np.inf
        rate = float(self.spent[-1]) / self.T * k**-p
        return rho, rate, -p * rate**2 * slope / k

    def _at(self, share: float) -> float:
        """rho where int_0^rho k^p is this share."""
        from scipy.optimize import brentq

        j = int(np.clip(np.searchsorted(self.spent, share) - 1, 0, len(self.knots) - 2))
        a, b, before = float(self.knots[j]), float(self.knots[j + 1]), float(self.spent[j])
        if share <= before or share >= self.spent[j + 1]:
            return a if share <= before else b
        return float(
            brentq(lambda r: before + _integral(self.density, self.power, self.T, a, r) - share, a, b, xtol=1e-15)
        )


def _extrema(density: Array, T: float) -> Array:
    """0, where k is least or largest in between, and T."""
    roots = chebyshev.chebroots(chebyshev.chebder(density)) if len(density) > 2 else np.zeros(0)
    # a double root of k' splits into a complex pair by the root of its rounding
    real = roots.real[(np.abs(roots.imag) < 1e-6) & (np.abs(roots.real) < 1)]
    return np.unique(np.concatenate([[0.0], T * (real + 1) / 2, [T]]))


@cache
def _rule() -> tuple[Array, Array]:
    """Nodes and weights of the tanh-sinh rule on [0, 1], good to rounding for what is analytic within."""
    u = np.arange(-70, 71) / 20
    s = np.pi / 2 * np.sinh(u)
    return 0.5 * (1 + np.tanh(s)), np.pi / 80 * np.cosh(u) / np.cosh(s) ** 2


def _integral(density: Array, p: float, T: float, a: float, b: float, extra: float = 0.0) -> float:
    """int_a^b (k + extra)^p drho."""
    nodes, weights = _rule()
    k = np.maximum(chebyshev.chebval(2 * (a + (b - a) * nodes) / T - 1, density), 0.0) + extra
    return float((b - a) * (weights @ k**p))
