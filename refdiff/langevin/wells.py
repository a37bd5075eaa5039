r"""Wells of a mixture on the line, and how long Langevin takes between them: exactly, and as Kramers and Arrhenius say.

    dx = -M U' dt + sqrt(2 M) dw,  U = -log p:     E_a tau_b = int_a^b F(y) / (M p(y)) dy,   a < b

is the mean time from a until b is reached first, F the distribution function. Where a well at a is left across a
barrier at s it is, up to a share that vanishes with the barrier's height, one over the rate of Eyring and Kramers,

    k = M sqrt(U''(a) |U''(s)|) / (2 pi) e^-(U(s) - U(a))

and the chain that jumps between neighbouring wells at these rates has the law of the wells for its equilibrium, and its
second eigenvalue for the slowest rate of relaxation. The formula is that of one energy at falling temperatures. Modes
of unit variance moving apart to +-m are another limit: their barrier gets sharper as it grows, and near its top p is
cosh(m x), no parabola. The rate of relaxation tends to (2 / pi)^(3/2) m e^(-m^2 / 2), sqrt(pi / 2) less than Kramers.
Sources: PODA-309, PODA-103; Kramers 1940; Bovier, Gayrard and Klein 2005.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from refdiff.arguments import Array, real_scalar
from refdiff.distributions import GaussianMixture, log_cdf
from refdiff.langevin.line import panels, stds

FINE = 24  # places in the least standard deviation at which the sign of the score is looked at
MOST = 1_000_000  # places


@dataclass(frozen=True, eq=False)
class Wells:
    """Minima of U = -log p on the line, from left to right, and the maxima between them.

    Attributes:
        bottoms: minima of U, shape (k,).
        tops: maxima of U, shape (k - 1,).
        law: the mixture.
    """

    bottoms: Array
    tops: Array
    law: GaussianMixture

    @property
    def barriers(self) -> tuple[Array, Array]:
        """How high the tops are above the wells left of them and right of them, each (k - 1,)."""
        u, v = self._energy(self.bottoms), self._energy(self.tops)
        return v - u[:-1], v - u[1:]

    def rates(self, mobility: float = 1.0) -> tuple[Array, Array]:
        """Kramers' rates across each top, from the left to the right and back, each (k - 1,).

        Args:
            mobility: M > 0.
        """
        m = real_scalar("mobility", mobility, low=0, open_low=True)
        bent = self._bending(self.bottoms)
        top, (left, right) = np.abs(self._bending(self.tops)), self.barriers
        scale = m / (2 * np.pi)
        return (
            scale * np.sqrt(bent[:-1] * top) * np.exp(-left),
            scale * np.sqrt(bent[1:] * top) * np.exp(-right),
        )

    def relaxation_rate(self, mobility: float = 1.0) -> float:
        """The slowest rate of the chain that jumps at Kramers' rates, inf for a single well; `mobility` is M > 0."""
        if len(self.bottoms) == 1:
            return np.inf
        right, left = self.rates(mobility)
        # the rates satisfy detailed balance: currents over the tops have the same spectrum, without the eigenvalue 0
        beside = -np.sqrt(left[:-1] * right[1:])
        return float(np.linalg.eigvalsh(np.diag(right + left) + np.diag(beside, 1) + np.diag(beside, -1))[0])

    def _energy(self, x: Array) -> Array:
        return np.asarray(-self.law.logpdf(x[:, None]))

    def _bending(self, x: Array) -> Array:
        return np.asarray(-self.law.hessian(x[:, None])[:, 0, 0])


def wells_of(law: GaussianMixture) -> Wells:
    """The wells of a mixture on the line; those nearer than 1/24 of the least standard deviation count as one.

    Args:
        law: a mixture with a density, d = 1.

    Raises:
        TypeError: no law.
        ValueError: it is not on the line, has no density, or its modes are too narrow for their distance.

    Examples:
        >>> from refdiff import GaussianMixture
        >>> from refdiff.langevin import wells_of
        >>> wells = wells_of(GaussianMixture.isotropic([[-3.0], [3.0]], 1.0))
        >>> print(wells.bottoms.round(2), wells.tops.round(6) + 0.0)
        [-3.  3.] [0.]
    """
    std = stds(law)
    step = float(std.min()) / FINE
    low, high = float(law.means.min()) - step, float(law.means.max()) + step  # U falls towards the means from outside
    if (high - low) / step > MOST:
        raise ValueError(f"law must need at most {MOST} places to be looked at, got {(high - low) / step:.3g}")
    x = np.linspace(low, high, int((high - low) / step) + 3)
    s = law.score(x[:, None])[:, 0]
    found = [_root(law, x[i], x[i + 1]) for i in np.flatnonzero((s[:-1] > 0) != (s[1:] > 0))]
    return Wells(np.array(found[0::2]), np.array(found[1::2]), law)


def passage_time(law: GaussianMixture, start: float, end: float, mobility: float = 1.0) -> float:
    """The mean time that Langevin on the line takes from `start` until it first reaches `end`.

    Args:
        law: the target, a mixture with a density, d = 1.
        start, end: points, in either order.
        mobility: M > 0.

    Raises:
        TypeError: no law.
        ValueError: it is not on the line, has no density, or its score is too steep between its modes.
    """
    a, b = real_scalar("start", start), real_scalar("end", end)
    m = real_scalar("mobility", mobility, low=0, open_low=True)
    stds(law)
    if a == b:
        return 0.0
    y, weights, _ = panels(law, min(a, b), max(a, b))
    with np.errstate(over="ignore"):  # a time beyond the range of numbers is infinite
        return float(weights @ np.exp(log_cdf(law, y, upper=b < a) - law.logpdf(y)) / m)


def _root(law: GaussianMixture, low: float, high: float) -> float:
    return float(brentq(lambda y: float(law.score([[y]])[0, 0]), low, high, xtol=1e-15, rtol=1e-15))
