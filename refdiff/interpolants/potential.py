r"""Potential rectification: flows of the gradient field that fits pairs best, for Gaussians (Rectify-perp).

    w_t = argmin over gradients of E |dx_t/dt - w(x_t)|^2:     w = c' + S (x - c),  S = S^T,  S P + P S = P'

Only the laws of x_t enter, and w carries them as v does, with the least energy of all fields that do. With lines,

    E |x_1 - x_0|^2 - E |z_1 - z_0|^2  =  S(Z) + L,    L = int E |dx_t/dt - w|^2 dt = V + int E |v - w|^2 dt >= V

so the quadratic cost falls until w leaves nothing, and then x_1 = M x_0 with M symmetric and without negative
eigenvalues: of Gaussian pairs that do not meet, optimal ones alone are fixed. Near the optimal T the antisymmetric part
G of M shrinks, with X = (1 - t) I + t T, by

    G -> G - int_0^1 B_t dt,     S_0 X^2 B + B X^2 S_0 = S_0 T G + G T S_0,

in the plane by 1 - phi cot(phi), cos(phi) = tr(T S_0) / (tr S_0 tr S_1)^(1/2), and what the cost has above W_2^2 by its
square. But rotations of N(0, I) by theta leave L = 2 theta sin(theta), which goes to 0 as theta goes to pi while their
cost 4 (1 - cos(theta)) goes to its largest: a small loss says nothing of the distance from the optimum. Sources:
PODB-52, PODB-98; Liu 2022, "Rectified flow: a marginal preserving approach to optimal transport"; Hertrich, Chambolle
and Delon 2025, "On the relation between rectified flows and optimal transport".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_scalar
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.dynamics import covariance_flow
from refdiff.expectations import Estimate, name_of
from refdiff.interpolants.interpolant import linear
from refdiff.interpolants.model import InterpolantModel
from refdiff.interpolants.straightness import Account, closed, unexplained
from refdiff.transport import PairLaw, image_pairs, optimal_map

NODES = 40  # of the integral of a rate over time, which is a rational function of it


@dataclass(frozen=True, eq=False)
class PotentialCoupling:
    """Gaussian z_0 with the points that the best gradient field takes them to.

    Build one with `rectify_potential`. Points have shape (..., d), and results follow them (float32 in, float32 out).

    Attributes:
        model: an InterpolantModel of one Gaussian pair.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: the pairs are no Gaussian ones, or x_0 has no density.
    """

    model: InterpolantModel

    def __post_init__(self) -> None:
        if not isinstance(self.model, InterpolantModel):
            raise TypeError(f"model must be an InterpolantModel, got {self.model!r}")
        if self.model.pairs.count != 1:
            raise ValueError(
                f"model must have Gaussian pairs, got {self.model.pairs!r}: others have no closed potential"
            )
        if self.source.covariances.singular:
            raise ValueError(NO_DENSITY.format(what="the law at the time 0"))

    @property
    def dim(self) -> int:
        """d."""
        return self.model.dim

    @property
    def T(self) -> float:
        """The final time."""
        return self.model.T

    @property
    def source(self) -> GaussianMixture:
        """The law of z_0."""
        return self.model.marginal(0.0)

    def slope(self, t: float) -> Array:
        """S_t, shape (d, d), at the time t.

        Raises:
            ValueError: x_t has no density.
        """
        return self._rates(t)[2]

    def velocity(self, x: ArrayLike, t: float) -> Array:
        """w at the points x and the time t, shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        centre = self.model.marginal(t).means[0]
        return restore(self._drift(t) + (rows - centre) @ self.slope(t).T)

    def channel(self, t: float | None = None) -> Channel:
        """The flow from 0 to t, the final time where left out, as a channel without noise.

        Raises:
            ValueError: t is outside [0, T], or x_t has no density on the way.
        """
        end = self.T if t is None else real_scalar("t", t, low=0, high=self.T)

        def rates(when: float) -> tuple[Array, Array]:
            p, _, s = self._rates(when) if when < self.T else (self._covariance(when), None, np.zeros(()))
            return p, s * p if s.ndim < 2 else s @ p

        gain = covariance_flow(rates, 0.0, end) if end else np.eye(self.dim)
        return Channel(gain, self.model.marginal(end).means[0] - gain @ self.source.means[0])

    def forward(self, z: ArrayLike, t: float | None = None) -> Array:
        """Where the points z of the time 0 are at the time t, the final one where left out, shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        channel = self.channel(t)
        return restore(rows @ channel.gain.T + channel.offset)

    def with_jacobian(self, z: ArrayLike, t: float | None = None) -> tuple[Array, Array]:
        """`forward` of z and t with its derivative, shapes (..., d) and (..., d, d)."""
        rows, restore = points("z", z, self.dim)
        channel = self.channel(t)
        slopes = np.broadcast_to(channel.gain, (len(rows), self.dim, self.dim)).copy()
        return restore(rows @ channel.gain.T + channel.offset), restore(slopes)

    def inverse(self, x: ArrayLike, t: float | None = None) -> Array:
        """Where the points x of the time t, the final one where left out, come from, shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        channel = self.channel(t)
        return restore((rows - channel.offset) @ np.linalg.inv(channel.gain).T)

    def pairs(self) -> PairLaw:
        """The coupling as a law of pairs."""
        return image_pairs(self.source, self.channel())

    def loss(self) -> Estimate:
        """L = int E |dx_t/dt - w|^2 dt, times in units of T: 0 for pairs that a gradient field joins without crossing.

        Raises:
            ValueError: the integral is infinite, as along Brownian bridges.
        """

        def turned(t: float) -> float:
            p, q, s = self._rates(t)
            part = np.linalg.solve(p, q.T).T - s
            return float(np.trace(part @ p @ part.T))

        left, rest = self._over_time(turned), unexplained(self.model)
        return Estimate(rest.value + left.value, rest.error + left.error, rest.route)

    def account(self) -> Account:
        """The costs before and after, and what the difference went into, with L in the place of the variance.

        Raises:
            ValueError: as of `loss`.
        """

        def speed(t: float) -> float:
            p, _, s = self._rates(t)
            drift = self._drift(t)
            return float(np.trace(s @ p @ s) + drift @ drift)

        energy, after = self._over_time(speed), self.pairs().cost()
        # w integrates to z_T - z_0, so that S is the energy less the cost
        bend = Estimate(energy.value - after, energy.error, energy.route)
        return Account(closed(self.model.pairs.cost()), closed(after), bend, self.loss())

    def _over_time(self, function: Callable[[float], float]) -> Estimate:
        """T int function dt, by halves where lines nearly meet, and to rounding of the cost where there is nothing."""
        from scipy.integrate import quad  # late: a fifth of a second to import

        floor = 1e-14 * self.model.pairs.cost() / self.T
        value, error = quad(function, 0.0, self.T, epsabs=floor, epsrel=1e-12, limit=400, full_output=1)[:2]
        return Estimate(self.T * value, self.T * error, name_of(None))

    def _drift(self, t: float) -> Array:
        """c_t'."""
        now, pairs = self.model.interpolant.at(t), self.model.pairs
        moved = operators.apply(now.dfirst, pairs.first.means[0]) + operators.apply(now.dsecond, pairs.second.means[0])
        return np.asarray(moved + now.doffset)

    @cached_property
    def _whole(self) -> Array:
        """Cov(x_0, x_1) on R^2d."""
        return np.asarray(self.model.pairs.mixture().covariances.dense(2 * self.dim)[0])

    def _covariance(self, t: float) -> Array:
        return np.asarray(self.model.marginal(t).covariances.dense(self.dim)[0])

    def _rates(self, t: float) -> tuple[Array, Array, Array]:
        """P, Q = Cov(dx_t/dt, x_t) and S."""
        now, d = self.model.interpolant.at(t), self.dim
        parts = (now.first, now.second, now.dfirst, now.dsecond, now.noise, now.spread)
        a, b, da, db, v, s = (operators.dense(part, d) for part in parts)
        shared = self._whole @ np.hstack([a, b]).T
        p, q = np.hstack([a, b]) @ shared + v, np.hstack([da, db]) @ shared + s
        values, axes = np.linalg.eigh(p)
        if values[0] <= d * np.finfo(float).eps * values[-1]:
            raise ValueError(NO_DENSITY.format(what=f"the law at the time {t}"))
        slope = (axes.T @ (q + q.T) @ axes) / np.add.outer(values, values)
        return p, q, np.asarray(axes @ slope @ axes.T)


def rectify_potential(given: InterpolantModel | PairLaw) -> PotentialCoupling:
    """The flow coupling of the best gradient field.

    Args:
        given: an InterpolantModel of one Gaussian pair, or such a PairLaw, to be joined by lines.

    Raises:
        TypeError: given is neither.
        ValueError: the pairs are no Gaussian ones, or x_0 has no density.
    """
    model = InterpolantModel(given, linear()) if isinstance(given, PairLaw) else given
    if not isinstance(model, InterpolantModel):
        raise TypeError(f"given must be an InterpolantModel or a PairLaw, got {given!r}")
    return PotentialCoupling(model)


def potential_rate(p: Gaussian, q: Gaussian) -> float:
    """The factor by which one potential rectification shrinks what a map of p to q has above the optimal one.

    Costs approach W_2^2 by its square. It is 0 on the line, and where all rotations are undone at once.

    Args:
        p: the first law, with a density.
        q: the second law, with a density.

    Raises:
        TypeError: p or q is no Gaussian.
        ValueError: dimensions differ, or a law has no density.
    """
    for name, law in (("p", p), ("q", q)):
        if not isinstance(law, Gaussian):
            raise TypeError(f"{name} must be a Gaussian, got {law!r}")
        if law.covariances.singular:
            raise ValueError(NO_DENSITY.format(what=f"the covariance of {name}"))
    d, unit = p.dim, np.eye(p.dim)
    best, s = operators.dense(optimal_map(p, q).gain, d), p.cov()
    below, after = np.tril_indices(d, -1), np.zeros((d * (d - 1) // 2,) * 2)
    nodes, weights = (part / 2 for part in np.polynomial.legendre.leggauss(NODES))
    for k, (i, j) in enumerate(zip(*below, strict=True)):
        turn = np.outer(unit[i], unit[j]) - np.outer(unit[j], unit[i])
        felt = s @ best @ turn + turn @ best @ s
        found = turn.copy()
        for t, weight in zip(nodes + 0.5, weights, strict=True):
            x = (1 - t) * unit + t * best
            left = s @ x @ x
            found -= weight * np.linalg.solve(np.kron(left, unit) + np.kron(unit, left), felt.ravel()).reshape(d, d)
        after[:, k] = found[below]
    return float(np.abs(np.linalg.eigvals(after)).max(initial=0.0))
