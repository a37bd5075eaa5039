r"""Displacement interpolation: the shortest way from one law to another, and what it costs.

    x_t = (1 - t) x_0 + t x_1,   (x_0, x_1) optimal,          v_t(x_t) = x_1 - x_0
    W_2(p, q)^2 = min { int_0^1 E |v_t(x_t)|^2 dt : d_t p_t + div (p_t v_t) = 0, p_0 = p, p_1 = q }

Its energy E |v_t|^2 is the same at all times, W_2^2: there is no factor 1/2. No two paths meet inside, so that from p_t
there are maps to both ends even where p and q have none: v_t = (T_{t->1} - id) / (1 - t) = (id - T_{t->0}) / t.

    Gaussians, points    `Displacement`, of the mixture of pairs that is optimal
    the line             `LineDisplacement`, of quantiles: any two laws

Beyond [0, 1] the same lines go on. They are shortest as long as they do not meet: for Gaussians with the map A while
(1 - t) I + t A > 0, `extent`. Sources: PODB-72; McCann 1997, "A convexity principle for interacting gases"; Benamou and
Brenier 2000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_scalar
from refdiff.distributions import GaussianMixture
from refdiff.expectations import Quadrature
from refdiff.metrics import wasserstein
from refdiff.metrics.compared import is_points, same_space
from refdiff.operators import Operator
from refdiff.transport.gaussian_maps import optimal_map, optimal_pairs
from refdiff.transport.pairs import PairLaw
from refdiff.transport.quantile_means import QuantileMean

CLOSE = 0.25  # times from an end below which a displacement is not told from where it has led


def displacement(p: GaussianMixture, q: GaussianMixture) -> Displacement | LineDisplacement:
    """The shortest way from p, at t = 0, to q, at t = 1: of Gaussians, of point sets, of any laws on the line.

    Raises:
        TypeError: p or q is no law.
        ValueError: dimensions differ, or mixtures in more than one dimension, which have none in closed form.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.transport import displacement
        >>> halfway = displacement(Gaussian([0.0], 1.0), Gaussian([2.0], 9.0)).marginal(0.5)
        >>> print(halfway.mean().round(6), halfway.cov().round(6))  # means and standard deviations go in lines
        [1.] [[4.]]
    """
    same_space(p, q)
    alike = (p.count == 1 and q.count == 1) or (is_points(p) and is_points(q))
    if p.dim > 1 or alike:
        return Displacement(optimal_pairs(p, q))
    return LineDisplacement(p, q)


@dataclass(frozen=True, eq=False)
class Displacement:
    """The way of an optimal coupling that is a mixture of pairs: of Gaussians, or of points.

    Args:
        pairs: an optimal PairLaw, as `optimal_pairs` returns; of Gaussians singular ones too.

    Raises:
        TypeError: pairs is no PairLaw.
        ValueError: they are Gaussian and cost more than W_2^2; of points nothing is checked.
    """

    pairs: PairLaw

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, PairLaw):
            raise TypeError(f"pairs must be a PairLaw, got {self.pairs!r}")
        if self.pairs.count == 1:
            p, q = self.pairs.first, self.pairs.second
            least, found = float(wasserstein(p, q).value ** 2), self.cost()
            spread = sum(float(law.covariances.average_trace(np.ones((1, 1)), law.dim)[0]) for law in (p, q))
            # of singular Gaussians traces of roots are known to a root of rounding
            if found - least > 1e-7 * (least + spread):
                raise ValueError(f"pairs must be optimal, got a cost of {found:.6g} where {least:.6g} is the least")

    @property
    def dim(self) -> int:
        """d."""
        return self.pairs.dim

    def cost(self) -> float:
        """W_2(p, q)^2, the energy at every time."""
        return self.pairs.cost()

    @property
    def extent(self) -> tuple[float, float]:
        """The times between which the line of Gaussians is shortest: -1 / (largest A - 1) and 1 / (1 - smallest A).

        Raises:
            ValueError: they are no Gaussians, or no map A leads from the first to the second.
        """
        gain = optimal_map(*self._gaussians()).gain
        values = np.linalg.eigvalsh(gain) if gain.ndim == 2 else np.atleast_1d(gain)
        least, most = float(values.min()), float(values.max())
        return (-1 / (most - 1) if most > 1 else -np.inf), (1 / (1 - least) if least < 1 else np.inf)

    def marginal(self, t: float) -> GaussianMixture:
        """p_t for any t; beyond `extent` it is a law still, but not on a shortest way."""
        now = real_scalar("t", t)
        return self.pairs.blend(1 - now, now)

    def velocity(self, x: ArrayLike, t: float) -> Any:
        """v_t(x) for x of shape (..., d) and t within `extent`.

        Raises:
            ValueError: the laws are no Gaussians (points have no others near them: their velocities are x_1 - x_0), t
                is an end from which there is no map, or lies beyond `extent`.
        """
        rows, restore = points("x", x, self.dim)
        centre, speed, slope = self._moving(t)
        return restore(speed + operators.apply(slope, rows - centre))

    def image(self, x: ArrayLike, start: float, end: float) -> Any:
        """Where points x (..., d) of p_start are at the time `end`, both within `extent`, for Gaussians.

        Raises:
            ValueError: the laws are no Gaussians, there is no map from the start, or a time lies beyond `extent`.
        """
        first, last = self._within("start", start), self._within("end", end)
        rows, restore = points("x", x, self.dim)
        return restore(rows + (last - first) * self.velocity(rows, first))

    def energy(self, t: float) -> float:
        """E |v_t(x_t)|^2 at the time t, for Gaussians, from the velocity there.

        Raises:
            ValueError: the laws are no Gaussians, or there is no velocity at t.
        """
        _, speed, slope = self._moving(t)
        spread = self.marginal(t).covariances.sandwich(slope)
        return float((speed**2).sum() + spread.average_trace(np.ones((1, 1)), self.dim)[0])

    def _moving(self, t: float) -> tuple[Array, Array, Operator]:
        """m_t, its velocity and the symmetric B with v_t(x) = m_t' + B (x - m_t)."""
        (p, q), now = self._gaussians(), self._within("t", t)
        # towards the end that is farther away: nothing is divided by a small time
        end, left = (q, 1 - now) if now <= 0.5 else (p, -now)
        here = self.marginal(now)
        gain = optimal_map(here, end).gain
        slope = operators.add(gain, -operators.dense(np.ones(()), self.dim) if gain.ndim == 2 else -np.ones(()))
        return here.means[0], (end.means[0] - here.means[0]) / left, slope / left

    def _within(self, name: str, t: float) -> float:
        """A time at which the lines have not met."""
        now = real_scalar(name, t)
        if not 0 <= now <= 1:
            low, high = self.extent
            if not low < now < high:
                raise ValueError(f"{name} must lie between {low:.6g} and {high:.6g}, where the lines meet, got {now}")
        return now

    def _gaussians(self) -> tuple[GaussianMixture, GaussianMixture]:
        if self.pairs.count != 1:
            raise ValueError(f"pairs must be Gaussian for maps and velocities, got {self.pairs!r}")
        return self.pairs.first, self.pairs.second


@dataclass(frozen=True, eq=False)
class LineDisplacement:
    """The way between any two laws on the line, Q_t = (1 - t) F^-1 + t G^-1.

    Args:
        p: the law at t = 0.
        q: the law at t = 1; one of both has a density.

    Raises:
        TypeError: p or q is no law.
        ValueError: one is not on the line.
    """

    p: GaussianMixture
    q: GaussianMixture

    def __post_init__(self) -> None:
        self.marginal(0.5)

    @property
    def dim(self) -> int:
        """1."""
        return 1

    def marginal(self, t: float) -> QuantileMean:
        """p_t, with quantiles, distribution function and density, for t in [0, 1]."""
        now = real_scalar("t", t, low=0, high=1)
        return QuantileMean([self.p, self.q], [1 - now, now])

    def velocity(self, x: ArrayLike, t: float) -> Any:
        """v_t(x) for x of shape (..., 1), 0 <= t <= 1; in a gap that a map leaves, one between its ends'.

        Raises:
            ValueError: t is an end at which the law has points of positive mass, from which there is no map.
        """
        now, (rows, restore) = real_scalar("t", t, low=0, high=1), points("x", x, 1)
        here = self.marginal(now)
        found = here.origin(rows)
        if here.base == 0:  # of small times x - X has no digits: its map has
            return restore((rows - found) / now if now >= CLOSE else here.carried(1, rows) - found)
        return restore((found - rows) / (1 - now) if 1 - now >= CLOSE else found - here.carried(0, rows))

    def image(self, x: ArrayLike, start: float, end: float) -> Any:
        """Where points x (..., 1) of p_start are at the time `end`, both in [0, 1]."""
        first, last = (real_scalar(name, t, low=0, high=1) for name, t in (("start", start), ("end", end)))
        rows, restore = points("x", x, 1)
        return restore(rows + (last - first) * self.velocity(rows, first))

    def energy(self, t: float, rule: Quadrature | None = None) -> float:
        """E |v_t(x_t)|^2 at the time t in [0, 1], by a rule over quantiles, of the tolerance 1e-9 unless given."""
        # what is added leaves a tolerance to laws that are equal, whose velocities are differences of rounding
        least = 1e-12 * float(self.p.cov()[0, 0] + self.q.cov()[0, 0])
        here = self.marginal(t)
        return here.average(lambda x: np.asarray(self.velocity(x[:, None], t))[:, 0] ** 2 + least, rule) - least

    def cost(self, rule: Quadrature | None = None) -> float:
        """W_2(p, q)^2 from quantiles, by a rule of the tolerance 1e-9 unless given."""
        return float(wasserstein(self.p, self.q, 2.0, Quadrature() if rule is None else rule).value ** 2)
