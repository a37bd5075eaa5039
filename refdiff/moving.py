r"""The components of p_t as they move in time, for velocities, their derivatives and rates at a fixed point.

    N(c_k, M_k),   M_k' = R_k + R_k',   h_k = M_k^-1 (x - c_k),   G_k = R_k M_k^-1
    v_k = c_k' + R_k h_k              what carries the component: v = <v_k>,  dv/dx = <G_k> - Cov(v_k, h_k)
    d log N_k / dt = h_k . v_k - tr G_k
    d v_k / dt = c_k'' + R_k' h_k - G_k (c_k' + (R_k + R_k^T) h_k)

with <.> the mean under the responsibilities at x, and R_k' the rate of R_k in the last line. Of a process x_t = A x_0 +
b + noise, R_k = A' S_k A^T + S (S without index as in `Motion`); of an interpolant it is what `InterpolantModel` says.
Sources: PODB-37, PODB-54, PODC9-08, TOPA-67.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions.affine_means import affine_mean
from refdiff.distributions.blocks import between, plus, slopes, stored, total, traces, transposed
from refdiff.distributions.covariances import Covariances, tiles
from refdiff.distributions.mixture import GaussianMixture
from refdiff.distributions.moments import Field, Fields, average, cross, cross_trace, gather
from refdiff.processes.motion import Process


@dataclass(frozen=True, eq=False)
class Moving:
    """The components N(c_k, M_k) of `law` at one time, asked at checked points x (n, d).

    Attributes:
        law: p_t.
        rates: c_k', shape (K, d).
        gains: R_k, shape (K or 1, d, d) as a block.
        second: asks for c_k'' and the rate of R_k, or raises where they are not known.
    """

    law: GaussianMixture
    rates: Array
    gains: Covariances
    second: Callable[[], tuple[Array, Covariances]]

    @staticmethod
    def under(law: GaussianMixture, process: Process, t: float) -> Moving:
        """The components of data from a `law` under a `process` at time t."""
        m, s = process.motion(t), law.covariances

        def second() -> tuple[Array, Covariances]:
            if m.d2gain is None or m.dspread is None:
                raise ValueError("process must know F', u' and D' for accelerations: give it `rates`")
            bends = operators.apply(m.d2gain, law.means) + m.offset.acceleration
            return bends, total([between(m.d2gain, s, m.gain), between(m.dgain, s, m.dgain), stored(m.dspread)])

        rates = operators.apply(m.dgain, law.means) + m.offset.rate
        return Moving(process.kernel(t).push(law), rates, plus(between(m.dgain, s, m.gain), m.spread), second)

    # ------------------------------------------------------------------ of the law

    def velocity(self, x: Array) -> Array:
        """v, shape (n, d)."""
        return affine_mean(self.law, self.rates, self.gains, x)

    def jacobian(self, x: Array) -> Array:
        """dv/dx, shape (n, d, d)."""
        dim, within = self.law.dim, self._slopes()
        return gather(within.average(r, dim) + cross(r, self._fields(part), dim) for part, r in self._parts(x))

    def divergence(self, x: Array) -> Array:
        """div v, shape (n,), without forming its matrix."""
        dim, within = self.law.dim, traces(self._slopes(), self.law.dim)

        def one(part: Array, r: Array) -> Array:
            return r @ np.broadcast_to(within, (self.law.count,)) + cross_trace(r, self._fields(part), dim)

        return gather(one(part, r) for part, r in self._parts(x))

    def log_density_rate(self, x: Array) -> Array:
        """d/dt log p_t(x), shape (n,)."""
        return gather((r * self.log_rates(part)).sum(axis=1) for part, r in self._parts(x))

    def velocity_rate(self, x: Array) -> Array:
        """dv/dt, shape (n, d): <dv_k/dt> + Cov(v_k, d log N_k / dt).

        Raises:
            ValueError: second rates are not known.
        """
        dim = self.law.dim

        def one(part: Array, r: Array) -> Array:
            rates = self.log_rates(part)
            shifted = r * (rates - (r * rates).sum(axis=1, keepdims=True))
            return average(r, self.velocity_rates(part), dim) + average(shifted, self.velocities(part), dim)

        return gather(one(part, r) for part, r in self._parts(x))

    # ------------------------------------------------------------------ of its components

    def velocities(self, x: Array) -> Field:
        """v_k as a field (n, k, d)."""
        both = self._fields(x)
        return lambda ks: both(ks)[0]

    def log_rates(self, x: Array) -> Array:
        """d/dt log N(x; c_k, M_k), shape (n, K)."""
        count, dim = self.law.count, self.law.dim
        result, both = np.empty((len(x), count)), self._fields(x)
        for ks in tiles(len(x), count, dim):
            v, g = both(ks)
            result[:, ks] = -np.einsum("nkd,nkd->nk", g, v)
        return np.asarray(result - traces(self._slopes(), dim))

    def velocity_rates(self, x: Array) -> Field:
        """d/dt v_k as a field (n, k, d).

        Raises:
            ValueError: second rates are not known.
        """
        bends, drifts = self.second()
        gradients, back = self.law.gradients(x), transposed(self.gains)

        def rate(ks: slice) -> Array:
            h = -gradients(ks)
            moved = self.rates[ks] + self.gains.multiply(h, ks) + back.multiply(h, ks)
            dh = -self.law.covariances.solve(moved, ks)
            return np.asarray(bends[ks] + drifts.multiply(h, ks) + self.gains.multiply(dh, ks))

        return rate

    # ------------------------------------------------------------------ parts

    def _parts(self, x: Array) -> Iterator[tuple[Array, Array]]:
        """Rows of x, a part at a time, with their responsibilities (n, K)."""
        return ((part, self.law.posterior_weights(part)) for part in self.law.parts(x))

    def _fields(self, x: Array) -> Fields:
        """v_k and -h_k."""
        gradients = self.law.gradients(x)

        def both(ks: slice) -> tuple[Array, Array]:
            g = gradients(ks)
            return self.rates[ks] - self.gains.multiply(g, ks), g

        return both

    def _slopes(self) -> Covariances:
        """G_k, the derivative of v_k."""
        return slopes(self.gains, self.law.covariances, self.law.dim)
