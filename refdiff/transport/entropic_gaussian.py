r"""Entropic transport of Gaussians in closed form, for every quadratic cost and covariances of any rank.

    min over couplings of E c(x, y) + eps KL(gamma || p x q),     c(x, y) = (y - A x - b)' N^-1 (y - A x - b) / 2

With S = F F' and R = G G' the covariances of p and q, and the singular values F' A' N^-1 G = U diag(s) V', the optimal
coupling is Gaussian, and all of it is in the numbers

    rho = (eps^2 + 4 s^2)^(1/2),    k = 2 s / (eps + rho),    1 - k^2 = 2 eps / (eps + rho)

    C = Cov(x, y) = F U diag(k) V' G'       correlations k: 1 where eps -> 0, s / eps -> 0 where eps -> infinity
    I(x; y)       = sum log(1 + s k / eps) / 2
    E c + eps I   = least E c  +  sum [ s (1 - k) + eps log(1 + s k / eps) / 2 ]
    y given x     = N(n + W N^-1 A (x - m), eps W),    W = G V diag(2 / (eps + rho)) V' G'

No term is a difference of larger ones, whatever eps and the ranks are. For A = I and N = I it is the usual closed
form, C = (S^(1/2) D S^(-1/2) - eps I) / 2 with D = (4 S^(1/2) R S^(1/2) + eps^2 I)^(1/2). Only A' N^-1 decides the
coupling: what else is in c is a function of x plus one of y. c / eps is -log of the density of y = A x + b +
N(0, eps N) given x, up to a constant: of all couplings this one is closest to p followed by that process.

Sources: PODB-74, PODB-82, PODB-86; Janati, Muzellec, Peyre and Cuturi 2020, "Entropic optimal transport between
unbalanced Gaussian measures has a closed form"; Mallasto, Gerolin and Minh 2022; del Barrio and Loubes 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_scalar
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.distributions.blocks import plus
from refdiff.operators import Operator
from refdiff.transport.gaussian_maps import EPS, factor
from refdiff.transport.pairs import NOTHING, PairLaw

HALF_SQUARED = Channel(noise=1.0)  # c = |x - y|^2 / 2


@dataclass(frozen=True, eq=False)
class QuadraticPotential:
    """x -> value + slope . (x - centre) + (x - centre)' H (x - centre) / 2.

    Attributes:
        centre: where it is expanded, shape (d,).
        value: its value there.
        slope: its gradient there, shape (d,).
        hessian: H, a number, (d,) or a symmetric (d, d).
    """

    centre: Array
    value: float
    slope: Array
    hessian: Operator

    def __call__(self, x: ArrayLike) -> Any:
        """Its values at points x (..., d), shape (...)."""
        rows, restore = points("x", x, len(self.centre))
        w = rows - self.centre
        return restore(self.value + w @ self.slope + 0.5 * (w * operators.apply(self.hessian, w)).sum(axis=1))

    def gradient(self, x: ArrayLike) -> Any:
        """Its gradients at points x (..., d), shape (..., d)."""
        rows, restore = points("x", x, len(self.centre))
        return restore(self.slope + operators.apply(self.hessian, rows - self.centre))


@dataclass(frozen=True, eq=False)
class GaussianPlan:
    """The entropic coupling of two Gaussians.

    Args:
        p: N(m, S), of any rank.
        q: N(n, R), of any rank.
        epsilon: eps >= 0, the weight of the entropy; at 0 it is the limit, the optimal coupling without entropy that
            leaves independent what the cost does not decide.
        channel: A, b and N of the cost, |x - y|^2 / 2 unless given. |x - y|^2 is Channel(noise=0.5), a Brownian
            reference over a time T is Channel(noise=T); the noise of a reference process with `epsilon` = 1 is N.

    Raises:
        TypeError: p or q is no Gaussian, or channel no Channel.
        ValueError: dimensions that differ, a negative epsilon, or a singular N.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.transport import GaussianPlan
        >>> plan = GaussianPlan(Gaussian([0.0], 1.0), Gaussian([0.0], 1.0), 1.5)  # correlation r: 1 - r^2 = eps r
        >>> print(plan.pairs().cross_covariance().round(6))
        [[0.5]]
    """

    p: Gaussian
    q: Gaussian
    epsilon: float
    channel: Channel = HALF_SQUARED

    def __post_init__(self) -> None:
        for name, one in (("p", self.p), ("q", self.q)):
            if not isinstance(one, Gaussian):
                raise TypeError(f"{name} must be a Gaussian, got {one!r}")
        if not isinstance(self.channel, Channel):
            raise TypeError(f"channel must be a Channel, got {self.channel!r}")
        d, c = self.p.dim, self.channel
        if self.q.dim != d:
            raise ValueError(f"q must have the dimension {d} of p, got {self.q.dim}")
        for name, part in (("gain", c.gain), ("offset", c.offset), ("noise", c.noise)):
            operators.fits(f"channel's {name}", part, d)
            if part.shape[:1] not in ((), (d,)):
                raise ValueError(f"channel must have {d} outputs like inputs, got a {name} of shape {part.shape}")
        if operators.singular(c.noise):
            raise ValueError(f"channel must have noise in all directions for a cost, got {c.noise}")
        object.__setattr__(self, "epsilon", real_scalar("epsilon", self.epsilon, low=0))

    # ------------------------------------------------------------------ the coupling

    def pairs(self) -> PairLaw:
        """The coupling as a law of pairs."""
        (f, g), (u, _, vt), k = self._factors, self._axes, _correlations(self.singular_values, self.epsilon)
        if not self._dense:
            return PairLaw(self.p, self.q, plus(NOTHING, np.asarray(u * k * f * g)))
        r = len(k)
        return PairLaw(self.p, self.q, plus(NOTHING, np.asarray((f @ u[:, :r] * k) @ (g @ vt[:r].T).T)))

    def forward(self) -> Channel:
        """The law of y given x as a channel, for eps > 0; at x outside the support of p, that of the potentials."""
        e = self._positive
        w, back = self._second_weights, self._pull
        gain = operators.product(w, operators.product(back, self.channel.gain))
        m, n = self.p.means[0], self.q.means[0]
        return Channel(gain, n - operators.apply(gain, m), e * w)

    def backward(self) -> Channel:
        """The law of x given y as a channel, for eps > 0."""
        e = self._positive
        w, back = self._first_weights, self._pull
        gain = operators.product(w, operators.product(_adjoint(self.channel.gain), back))
        m, n = self.p.means[0], self.q.means[0]
        return Channel(gain, m - operators.apply(gain, n), e * w)

    def potential(self, x: ArrayLike) -> Any:
        """f at points x (..., d), shape (...), for eps > 0."""
        return self.f(x)

    def barycentric(self, x: ArrayLike) -> Any:
        """E[y | x] for x of shape (..., d), for eps > 0: the entropic map."""
        rows, restore = points("x", x, self.p.dim)
        way = self.forward()
        return restore(operators.apply(way.gain, rows) + way.offset)

    # ------------------------------------------------------------------ numbers

    @property
    def value(self) -> float:
        """The least E c + eps KL(gamma || p x q), which is E f + E g."""
        return self.least_cost + float(noise_of_axes(self.singular_values, self.epsilon)[0].sum())

    def mean_cost(self) -> float:
        """E c(x, y)."""
        return self.least_cost + float(_left_over(self.singular_values, self.epsilon).sum())

    def kl(self) -> float:
        """KL(gamma || p x q), the mutual information of x and y; infinite at eps = 0 unless they are independent."""
        return float(0.5 * _log_excess(self.singular_values, self.epsilon).sum())

    @property
    def singular_values(self) -> Array:
        """s, shape (r,) in no order with r <= d: those that are 0 up to rounding are 0, or left out."""
        return self._axes[1]

    # ------------------------------------------------------------------ potentials

    @property
    def f(self) -> QuadraticPotential:
        """The potential of x: gamma = p q exp((f + g - c) / eps), for eps > 0; E_p f = E_q g."""
        _, a = self._positive, self.channel.gain
        pull = operators.product(_adjoint(a), self._pull)
        inner = operators.product(pull, operators.product(self._second_weights, _adjoint(pull)))
        hessian = operators.add(operators.product(pull, a), -inner)
        slope = -operators.apply(pull, self._gap)
        return self._potential(self.p, slope, hessian)

    @property
    def g(self) -> QuadraticPotential:
        """The potential of y, for eps > 0."""
        _, n = self._positive, self._pull
        pull = operators.product(n, self.channel.gain)
        inner = operators.product(pull, operators.product(self._first_weights, _adjoint(pull)))
        return self._potential(self.q, operators.apply(n, self._gap), operators.add(n, -inner))

    def _potential(self, law: Gaussian, slope: Array, hessian: Operator) -> QuadraticPotential:
        h = 0.5 * (hessian + hessian.T) if hessian.ndim == 2 else hessian
        bend = float((operators.dense(h, law.dim) * law.cov()).sum())
        slope = np.broadcast_to(slope, (law.dim,))
        return QuadraticPotential(law.means[0], 0.5 * self.value - 0.5 * bend, slope, h)

    # ------------------------------------------------------------------ parts

    @property
    def _positive(self) -> float:
        if self.epsilon == 0:
            raise ValueError("epsilon must be positive here: at 0 there are optimal maps (optimal_map), and not always")
        return self.epsilon

    @property
    def _dense(self) -> bool:
        c = self.channel
        return max(part.ndim for part in (self.p.covariance, self.q.covariance, c.gain, c.noise)) == 2

    @cached_property
    def _pull(self) -> Operator:
        """N^-1."""
        return operators.inverse(self.channel.noise)

    @cached_property
    def _gap(self) -> Array:
        """n - A m - b, shape (d,)."""
        m, n = self.p.means[0], self.q.means[0]
        return np.asarray(n - operators.apply(self.channel.gain, m) - self.channel.offset)

    @cached_property
    def _factors(self) -> tuple[Array, Array]:
        """F and G: matrices (d, r), or standard deviations (d,) where everything is diagonal."""
        d, s, r = self.p.dim, self.p.covariance, self.q.covariance
        if not self._dense:
            return np.broadcast_to(np.sqrt(s), d), np.broadcast_to(np.sqrt(r), d)
        return factor(s, d), factor(r, d)

    @cached_property
    def _axes(self) -> tuple[Array, Array, Array]:
        """U, s and V' of F' A' N^-1 G; on diagonals signs (d,), s (d,) and 1."""
        f, g = self._factors
        if not self._dense:
            across = f * (self.channel.gain * self._pull) * g
            return np.sign(across), np.abs(across), np.ones(())
        pull, back = (operators.dense(part, len(g)) for part in (self._pull, _adjoint(self.channel.gain)))
        pulled = back @ pull @ g
        u, s, vt = np.linalg.svd(f.T @ pulled)
        size = np.linalg.norm(f) * np.linalg.norm(pulled)
        return u, np.where(s > 8 * len(g) * EPS * size, s, 0.0), vt

    @cached_property
    def _second_weights(self) -> Operator:
        """W = G V diag(2 / (eps + rho)) V' G'."""
        return self._weights(self._factors[1], self._axes[2].T)

    @cached_property
    def _first_weights(self) -> Operator:
        """F U diag(2 / (eps + rho)) U' F'."""
        return self._weights(self._factors[0], self._axes[0])

    def _weights(self, root: Array, axes: Array) -> Operator:
        if not self._dense:
            w = root**2 * 2 / (self.epsilon + np.hypot(self.epsilon, 2 * self.singular_values))
            parts = (self.p.covariance, self.q.covariance, self.channel.gain, self.channel.noise)
            return np.asarray(w[0]) if max(part.ndim for part in parts) == 0 else w
        s = np.zeros(root.shape[1])
        s[: len(self.singular_values)] = self.singular_values
        turned = root @ axes
        return np.asarray((turned * (2 / (self.epsilon + np.hypot(self.epsilon, 2 * s)))) @ turned.T)

    @cached_property
    def least_cost(self) -> float:
        """The least E c: |L^-1 (n - A m - b)|^2 / 2 + |L^-1 (A F U - G V)|_F^2 / 2 with N = L L'."""
        (f, g), (u, _, vt), c = self._factors, self._axes, self.channel
        if not self._dense:
            squares = self._gap**2 + (np.abs(c.gain) * f - g) ** 2
            return float(0.5 * (squares * self._pull).sum())
        noise = operators.dense(c.noise, len(g))
        white = np.linalg.inv(np.linalg.cholesky(noise))
        one, two = white @ operators.dense(c.gain, len(g)) @ f @ u, white @ g @ vt.T
        r = len(self.singular_values)
        columns = [one[:, :r] - two[:, :r], one[:, r:], two[:, r:], (white @ self._gap)[:, None]]
        return float(0.5 * sum((part**2).sum() for part in columns))


def noise_of_axes(s: Array, epsilon: float) -> tuple[Array, Array]:
    """What noise adds to the least cost at singular values s (r,), and what correlations take from the independent one.

    The first, F = s (1 - k) + eps log(1 + s k / eps) / 2, is s (1 - e^-a) + eps (log(s / eps) + a) / 2 with
    a = asinh(eps / (2 s)), so that its derivative in eps is (log(s / eps) + a) / 2, the information. The second is
    s - F = s k - eps log(1 + s k / eps) / 2. eps is `epsilon`.
    """
    if epsilon == 0:
        return np.zeros(s.shape), s
    half = 0.5 * epsilon * _log_excess(s, epsilon)
    return np.asarray(_left_over(s, epsilon) + half), np.asarray(s * _correlations(s, epsilon) - half)


def _correlations(s: Array, e: float) -> Array:
    """k, for `e` the eps."""
    return np.asarray(np.divide(2 * s, e + np.hypot(e, 2 * s), out=np.zeros(s.shape), where=s > 0))


def _left_over(s: Array, e: float) -> Array:
    """s (1 - k), for `e` the eps."""
    rho = np.hypot(e, 2 * s)
    bracket = 1 + np.divide(e, rho + 2 * s, out=np.zeros(s.shape), where=s > 0)
    return np.asarray(s * bracket * np.divide(e, e + rho, out=np.zeros(s.shape), where=s > 0))


def _log_excess(s: Array, e: float) -> Array:
    """log(1 + s k / eps) = -log(1 - k^2), for `e` the eps."""
    if e == 0:
        return np.where(s > 0, np.inf, 0.0)
    rho = np.hypot(e, 2 * s)
    small = s < e
    below = np.log1p(2 * np.where(small, s / max(e, 1e-300), 0.0) ** 2 / (1 + rho / e)) if small.any() else 0.0
    return np.where(small, below, np.log((e + rho) / 2) - np.log(e))


def _adjoint(a: Operator) -> Operator:
    """A'."""
    return a.T if a.ndim == 2 else a
