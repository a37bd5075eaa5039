r"""What a perfect network would answer of an interpolant, for pairs whose law is a mixture.

With x_t = A x_0 + B x_1 + b + R z, the pair (x_0, x_1) from a `PairLaw`, x_t has the components N(c_k, M_k), and with
h_k = M_k^-1 (x - c_k), R_k = Cov(A' x_0 + B' x_1 | k) on x_t plus the noise's spread S,

    velocity       v = E[A' x_0 + B' x_1 + b' + R' z | x_t] = <c_k' + R_k h_k>            M_k' = R_k + R_k'
    rates          d log N_k / dt = h_k . v_k - tr M_k^-1 R_k
                   d v_k / dt = c_k'' + R_k' h_k - R_k M_k^-1 (c_k' + (R_k + R_k^T) h_k)

with <.> the mean under the responsibilities at x. v and p_t obey the continuity equation d_t p + div (p v) = 0, so v
carries the first law to the second; so do the equations dx = (v + H H' s / 2) dt + H dw with any noise H, dt > 0, and
back with the sign turned. Where x_1 ~ N(0, I) this is `ExactModel`, by another road. Sources: PODB-33, PODB-37,
PODB-40, PODB-62, DMI-61, TOPB-68; Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic interpolants".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator, points, real_array, whole_number
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.distributions.affine_means import affine_mean
from refdiff.distributions.blocks import plus, stored, total
from refdiff.distributions.covariances import Covariances
from refdiff.dynamics import VelocityField
from refdiff.interpolants.interpolant import Interpolant
from refdiff.moving import Moving
from refdiff.stochastic import StochasticEquation
from refdiff.transport import PairLaw


@dataclass(frozen=True, eq=False)
class InterpolantModel:
    """The exact marginals and velocities of pairs joined by an interpolant.

    Points x have shape (..., d) and results follow their leading shape (float32 in, float32 out); t is one time.

    Args:
        pairs: the law of (x_0, x_1).
        interpolant: how they are joined, an Interpolant.

    Raises:
        TypeError: pairs is no PairLaw, or interpolant no Interpolant.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.interpolants import InterpolantModel, linear
        >>> from refdiff.transport import independent
        >>> model = InterpolantModel(independent(Gaussian([0.0], 1.0), Gaussian([3.0], 1.0)), linear())
        >>> law = model.marginal(0.5)
        >>> print(law.mean(), law.cov(), model.velocity([1.5], 0.5))  # at its mean all move alike: 3 - 0
        [1.5] [[0.5]] [3.]
    """

    pairs: PairLaw
    interpolant: Interpolant

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, PairLaw):
            raise TypeError(f"pairs must be a PairLaw, got {self.pairs!r}")
        if not isinstance(self.interpolant, Interpolant):
            raise TypeError(f"interpolant must be an Interpolant, got {self.interpolant!r}")

    @property
    def dim(self) -> int:
        """d, the dimension of x."""
        return self.pairs.dim

    @property
    def T(self) -> float:
        """The final time."""
        return self.interpolant.T

    # ------------------------------------------------------------------ laws

    def marginal(self, t: float) -> GaussianMixture:
        """p_t, the law of x_t."""
        now = self.interpolant.at(t)
        return self.pairs.blend(now.first, now.second, now.offset, now.noise)

    def sample(self, n: int, t: float, seed: int | np.random.Generator) -> Array:
        """`n` draws of x_t, shape (n, d)."""
        return self.marginal(t).sample(n, seed)

    def interpolated(self, n: int, times: ArrayLike, seed: int | np.random.Generator) -> Array:
        """`n` pairs and their z, joined: x_t at the times (m,), shape (m, n, d).

        Their law at one time is p_t. Over many it is that of the interpolant, where curves cross.
        """
        rng, when = generator(seed), real_array("times", times, ndim=(1,))
        x, y = self.pairs.sample(whole_number("n", n), rng)
        z = rng.standard_normal(x.shape)
        found = np.empty((len(when), *x.shape))
        for i, t in enumerate(when.tolist()):
            now = self.interpolant.at(t)
            ends = operators.apply(now.first, x) + operators.apply(now.second, y)
            found[i] = ends + now.offset + operators.apply(operators.root(now.noise), z)
        return found

    def posterior(self, x: ArrayLike, t: float) -> GaussianMixture:
        """The law of the pair given one x_t = x of shape (d,), on R^2d."""
        now, d = self.interpolant.at(t), self.dim
        gain = np.hstack([operators.dense(now.first, d), operators.dense(now.second, d)])
        noise = operators.dense(now.noise, d)
        return Channel(gain, np.broadcast_to(now.offset, (d,)), noise).posterior(self.pairs.mixture(), x)

    # ------------------------------------------------------------------ predictions

    def log_density(self, x: ArrayLike, t: float) -> Any:
        """log p_t(x), shape (...)."""
        return self.marginal(t).logpdf(x)

    def score(self, x: ArrayLike, t: float) -> Any:
        """grad log p_t(x), shape (..., d)."""
        return self.marginal(t).score(x)

    def expected_first(self, x: ArrayLike, t: float) -> Any:
        """E[x_0 | x_t = x], shape (..., d)."""
        return self._expected(x, t, np.ones(()), np.zeros(()))

    def expected_second(self, x: ArrayLike, t: float) -> Any:
        """E[x_1 | x_t = x], shape (..., d)."""
        return self._expected(x, t, np.zeros(()), np.ones(()))

    def expected_noise(self, x: ArrayLike, t: float) -> Any:
        """E[z | x_t = x] = -V^(1/2) score, shape (..., d), with the symmetric root for R."""
        rows, restore = points("x", x, self.dim)
        return restore(-operators.apply(operators.root(self.interpolant.at(t).noise), self.score(rows, t)))

    def velocity(self, x: ArrayLike, t: float) -> Any:
        """E[dx_t/dt | x_t = x], shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        return restore(self._moving(t).velocity(rows))

    def conditional_velocity(self, x: ArrayLike, x0: ArrayLike, x1: ArrayLike, t: float) -> Any:
        """A' x_0 + B' x_1 + b' + S V^-1 (x - A x_0 - B x_1 - b), shape (..., d): the target of flow matching.

        Args:
            x: x_t, of the shape of the pair.
            x0, x1: the pair, each (..., d).
            t: the time.

        Raises:
            ValueError: shapes differ, or the noise is singular but not 0. Where it is 0, x is not looked at.
        """
        rows, restore = points("x", x, self.dim)
        (first, _), (second, _) = points("x0", x0, self.dim), points("x1", x1, self.dim)
        if not len(rows) == len(first) == len(second):
            raise ValueError(f"x, x0 and x1 must be as many points, got {len(rows)}, {len(first)} and {len(second)}")
        now = self.interpolant.at(t)
        _finite(now.dfirst, now.dsecond, now.spread, now.doffset)
        v = operators.apply(now.dfirst, first) + operators.apply(now.dsecond, second) + now.doffset
        if now.noise.any():
            if operators.singular(now.noise):
                raise ValueError(f"t must be a time with noise in every direction or none, got the noise {now.noise}")
            left = rows - operators.apply(now.first, first) - operators.apply(now.second, second) - now.offset
            v = v + operators.apply(now.spread, operators.apply(operators.inverse(now.noise), left))
        return restore(v)

    # ------------------------------------------------------------------ derivatives

    def velocity_jacobian(self, x: ArrayLike, t: float) -> Any:
        """dv/dx = <R_k M_k^-1> + Cov(v_k, -h_k), shape (..., d, d)."""
        rows, restore = points("x", x, self.dim)
        return restore(self._moving(t).jacobian(rows))

    def velocity_divergence(self, x: ArrayLike, t: float) -> Any:
        """div v, shape (...), without forming its matrix: along the flow, d log p / dt = -div v."""
        rows, restore = points("x", x, self.dim)
        return restore(self._moving(t).divergence(rows))

    def log_density_rate(self, x: ArrayLike, t: float) -> Any:
        """d/dt log p_t(x) at fixed x, shape (...)."""
        rows, restore = points("x", x, self.dim)
        return restore(self._moving(t).log_density_rate(rows))

    def velocity_rate(self, x: ArrayLike, t: float) -> Any:
        """dv/dt at fixed x, shape (..., d): <dv_k/dt> + Cov(v_k, d log N_k / dt).

        Raises:
            ValueError: the interpolant does not know its second rates.
        """
        rows, restore = points("x", x, self.dim)
        return restore(self._moving(t).velocity_rate(rows))

    def acceleration(self, x: ArrayLike, t: float) -> Any:
        """The rate of the velocity along the flow, dv/dt + (dv/dx) v, shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        carried = np.einsum("nij,nj->ni", self.velocity_jacobian(rows, t), self.velocity(rows, t))
        return restore(self.velocity_rate(rows, t) + carried)

    # ------------------------------------------------------------------ dynamics

    def field(self) -> VelocityField:
        """v as a field, for `field_flow`, `path`, `log_likelihood`: times from 0, the first law, to T, the second."""
        return VelocityField(
            self.velocity,
            self.dim,
            divergence=self.velocity_divergence,
            jvp=lambda x, t, u: np.einsum("nij,nj->ni", self.velocity_jacobian(x, t), u),
        )

    def equation(self, noise: Callable[[float], ArrayLike], *, backward: bool = False) -> StochasticEquation:
        """dx = (v + H H' s / 2) dt + H dw for dt > 0, or v - H H' s / 2 `backward`, dt < 0: marginals p_t for any H.

        Args:
            noise: t -> H, a scalar, (d,) or (d, m).
            backward: whether time runs from the second law to the first.
        """
        sign = -0.5 if backward else 0.5

        def drift(x: Array, t: float) -> Array:
            h = operators.operator("noise", noise(t))
            spread = h @ h.T if h.ndim == 2 else h * h
            v = np.asarray(self.velocity(x, t))
            return np.asarray(v + sign * operators.apply(spread, self.score(x, t))) if spread.any() else v

        columns = operators.operator("noise", noise(0.5 * self.T)).shape[1:]
        return StochasticEquation(drift, noise, self.dim, motions=columns[0] if columns else self.dim)

    def _moving(self, t: float) -> Moving:
        """The components of p_t as they move."""
        now, pairs = self.interpolant.at(t), self.pairs
        _finite(now.dfirst, now.dsecond, now.spread, now.doffset)
        place, rate = (now.first, now.second), (now.dfirst, now.dsecond)

        def second() -> tuple[Array, Covariances]:
            if now.d2first is None or now.d2second is None or now.dspread is None:
                raise ValueError("interpolant must know its second rates for accelerations")
            _finite(now.d2first, now.d2second, now.dspread, now.d2offset)
            bends, turned = pairs.regression((now.d2first, now.d2second), place)
            return bends + now.d2offset, total([turned, pairs.regression(rate, rate)[1], stored(now.dspread)])

        rates, gains = pairs.regression(rate, place)
        law = pairs.blend(now.first, now.second, now.offset, now.noise)
        return Moving(law, rates + now.doffset, plus(gains, now.spread), second)

    def _expected(self, x: ArrayLike, t: float, first: Array, second: Array) -> Any:
        """E[G x_0 + H x_1 | x_t = x] for G = `first` and H = `second`."""
        rows, restore = points("x", x, self.dim)
        now, pushed = self.interpolant.at(t), self.marginal(t)
        means, gains = self.pairs.regression((first, second), (now.first, now.second))
        return restore(affine_mean(pushed, means, gains, rows))


def _finite(*rates: Array) -> None:
    """Whether velocities can be asked for: at its ends an interpolant may start infinitely fast."""
    if not all(np.isfinite(rate).all() for rate in rates):
        raise ValueError(f"t must be a time at which the interpolant has finite rates, got {rates}")
