r"""The components of p_t as they move in time, for rates at a fixed point and divergences.

    N(c_k, T_k),  c_k = A m_k + b,  T_k = A S_k A' + C,      h = T^-1 (x - c)
    dh/dt = -T^-1 (c' + T' h)      d log N / dt = (h'T'h - tr T^-1 T') / 2 + h'c'
    v_k = A' mu_k + b' + S h       mu_k = m_k + S_k A' h, the denoiser of a component (S without index as in `Motion`)

Sources: PODB-54, PODC9-08, TOPA-67.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions.covariances import Diagonal, tiles
from refdiff.distributions.mixture import GaussianMixture
from refdiff.distributions.moments import Field
from refdiff.processes.motion import Process


class Moving:
    """The components of `law` under `process` at time t.

    Attributes:
        law: the data, with components N(m_k, S_k).   pushed: p_t.   m: the motion of the process.
    """

    def __init__(self, law: GaussianMixture, process: Process, t: float) -> None:
        self.law, self.pushed = law, process.kernel(t).push(law)
        self.m = process.motion(t)

    def parts(self, x: Array) -> Iterator[tuple[Array, Array]]:
        """Rows of x (n, d), a part at a time, with their responsibilities (n, K)."""
        return ((part, self.pushed.posterior_weights(part)) for part in self.pushed.parts(x))

    def gradients(self, x: Array, ks: slice) -> Array:
        """h_k of the components ks at points x (n, d), shape (n, k, d)."""
        return -self.pushed.gradients(x)(ks)

    def centre_rate(self, ks: slice) -> Array:
        """c_k' of the components ks, shape (k, d)."""
        return operators.apply(self.m.dgain, self.law.means[ks]) + self.m.offset.rate

    def spread_rate(self, u: Array, ks: slice) -> Array:
        """T_k' u for u (n, k, d), of the components ks."""
        m, s = self.m, self.law.covariances
        moved = operators.apply(m.dgain, s.multiply(operators.apply(m.gain.T, u), ks))
        moved = moved + operators.apply(m.gain, s.multiply(operators.apply(m.dgain.T, u), ks))
        return np.asarray(moved + operators.apply(m.spread + m.spread.T, u))

    def log_rates(self, x: Array) -> Array:
        """d/dt log N(x; c_k, T_k) at points x (n, d), shape (n, K)."""
        law, dim = self.law, self.law.dim
        result = np.empty((len(x), law.count))
        for ks in tiles(len(x), law.count, dim):
            h = self.gradients(x, ks)
            result[:, ks] = np.einsum("nkd,nkd->nk", h, 0.5 * self.spread_rate(h, ks) + self.centre_rate(ks))
        return np.asarray(result - 0.5 * self._log_det_rate())

    def _log_det_rate(self) -> Array:
        """d/dt log det T_k = tr T_k^-1 T_k', shape (K or 1,)."""
        inverse, s, dim, m = self.pushed.covariances.inverse(), self.law.covariances, self.law.dim, self.m
        if isinstance(inverse, Diagonal) and isinstance(s, Diagonal):
            rates = inverse.variances * 2 * (m.gain * m.dgain * s.variances + m.spread)
            return rates[:, 0] * dim if rates.shape[1] == 1 else rates.sum(axis=1)
        gain, dgain = (operators.dense(part, dim) for part in (m.gain, m.dgain))
        moved = dgain @ s.dense(dim) @ gain.T + operators.dense(m.spread, dim)
        return np.asarray(2 * np.einsum("kij,kji->k", inverse.dense(dim), moved))

    def velocities(self, x: Array) -> Field:
        """v_k = A' mu_k + b' + S h_k at points x (n, d), with mu_k the component denoisers, as a field (n, k, d)."""

        def velocity(ks: slice) -> Array:
            h, m = self.gradients(x, ks), self.m
            carried = operators.apply(m.dgain, self._means(h, ks)) + m.offset.rate
            return np.asarray(carried + operators.apply(m.spread, h))

        return velocity

    def velocity_rates(self, x: Array) -> Field:
        """d/dt v_k at points x (n, d), as a field (n, k, d).

        Raises:
            ValueError: a process that does not know the rates of its coefficients.
        """
        m, s = self.m, self.law.covariances
        bend, dspread = m.d2gain, m.dspread
        if bend is None or dspread is None:
            raise ValueError("process must know F', u' and D' for accelerations: give it `rates`")

        def rate(ks: slice) -> Array:
            h = self.gradients(x, ks)
            dh = -self.pushed.covariances.solve(self.centre_rate(ks) + self.spread_rate(h, ks), ks)
            dmu = s.multiply(operators.apply(m.dgain.T, h) + operators.apply(m.gain.T, dh), ks)
            turned = operators.apply(bend, self._means(h, ks)) + operators.apply(dspread, h) + m.offset.acceleration
            return np.asarray(turned + operators.apply(m.dgain, dmu) + operators.apply(m.spread, dh))

        return rate

    def _means(self, h: Array, ks: slice) -> Array:
        """mu_k = m_k + S_k A' h_k."""
        return np.asarray(self.law.means[ks] + self.law.covariances.multiply(operators.apply(self.m.gain.T, h), ks))
