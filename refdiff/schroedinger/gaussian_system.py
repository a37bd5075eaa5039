r"""The Schroedinger system of two Gaussians: its potentials and transitions, from one matrix a time.

With the channels x_T = A x_0 + b + N(0, Sigma), x_T = K x_t + k + N(0, N) and x_t = L x_0 + l + N(0, C) of a reference,
the covariance W of x_T given x_0 under the bridge, pi = Sigma^-1 (n - A m - b), and

    B = W + N - W Sigma^-1 N      Gamma = -Hess log Psi = K' B^-1 (I - W Sigma^-1) K,    E grad log Psi = K' pi
    log Psi(m_t) = [pi' (Sigma - N) pi - log det Sigma^-1 B] / 2                       x_T | x_t ~ N(., N B^-1 W)

no inverse of a covariance of the two laws or of p_t is taken: Psi_T = exp(-y' (W^-1 - Sigma^-1) y / 2 + ..), carried
back by the reference's Gaussian kernels. On the other side p_t^-1 = Gamma + Gamma^, where the late

    Gamma^ = -Hess log Psihat = C^-1 - H V (I + J V)^-1 H',    H = C^-1 L,  J = L' C^-1 Cov(x_t | x_0, x_T) H

with V the covariance of x_0 given x_T is the same without the difference of precisions that are large where the second
law is narrow. Sources: PODB-79, PODB-80, PODB-81, PODB-82.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.operators import Operator, product
from refdiff.path_measures.bridges import between
from refdiff.schroedinger.reference import ReferenceBridges, total
from refdiff.transport import GaussianPlan, PairLaw

ONE = np.ones(())


@dataclass(frozen=True, eq=False)
class GaussianSystem:
    """The potentials and transitions of a Gaussian bridge; times are checked by those who ask.

    Args:
        interpolant: the bridges of the reference.
        plan: the entropic coupling of its ends.
    """

    interpolant: ReferenceBridges
    plan: GaussianPlan

    @cached_property
    def pairs(self) -> PairLaw:
        """The law of (x_0, x_T)."""
        return self.plan.pairs()

    @cached_property
    def gap(self) -> Array:
        """n - A m - b, shape (d,)."""
        a = self.interpolant.overall
        return np.asarray(self.plan.q.means[0] - operators.apply(a.gain, self.plan.p.means[0]) - a.offset)

    @cached_property
    def costate(self) -> Array:
        """pi = Sigma^-1 (n - A m - b), shape (d,)."""
        return np.asarray(operators.apply(self.interpolant.precision, self.gap))

    @cached_property
    def given_first(self) -> Operator:
        """W, the covariance of x_T given x_0."""
        return self.plan.forward().noise

    @cached_property
    def given_second(self) -> Operator:
        """V, the covariance of x_0 given x_T."""
        return self.plan.backward().noise

    def marginal(self, t: float) -> Gaussian:
        """The law p_t of a time t."""
        link = self.interpolant.link(t)
        found = self.pairs.blend(link.of_start, link.of_end, link.offset, link.noise)
        return Gaussian(found.means[0], found.covariances.operator())

    def mean(self, t: float) -> Array:
        """m_t = L m + l + C K' pi of a time t, shape (d,)."""
        step, pull = self.interpolant.process.channel(0.0, t), operators.apply(self._way(t).gain.T, self.costate)
        free = operators.apply(step.gain, self.plan.p.means[0]) + step.offset
        return np.asarray(free + operators.apply(step.noise, pull))

    # ------------------------------------------------------------------ potentials

    def forward(self, t: float) -> tuple[Operator, Array]:
        """Gamma and K' pi, shape (d,), of a time t.

        Raises:
            ValueError: t is the end, and the second law has no density.
        """
        k = self._way(t).gain
        rest = product(total(ONE, -product(self.given_first, self.interpolant.precision)), k)
        gain = symmetric(product(k.T, product(self._inverted(t), rest)))
        return gain, np.asarray(operators.apply(k.T, self.costate))

    def backward(self, t: float) -> tuple[Operator, Array]:
        """-Hess log Psihat, and the mean of grad log Psihat, shape (d,), of a time t.

        Raises:
            ValueError: t is the start, and the first law has no density.
        """
        step, way = self.interpolant.process.channel(0.0, t), self._way(t)
        shift = np.asarray(-operators.apply(way.gain.T, self.costate))
        if 2 * t > self.interpolant.T and not operators.singular(step.noise):
            inverse, v = operators.inverse(step.noise), self.given_second
            pulled = product(inverse, step.gain)
            kept = total(ONE, -product(self.interpolant.link(t).of_end, way.gain))
            seen = product(step.gain.T, product(kept.T, pulled))
            inner = product(v, operators.inverse(total(ONE, product(seen, v))))
            return symmetric(total(inverse, -operators.sandwich(pulled, inner))), shift
        spread = self.marginal(t).covariances
        if spread.singular:
            raise ValueError(f"t must be a time at which the law has a density, got {t}")
        return total(spread.inverse().operator(), -self.forward(t)[0]), shift

    def log_height(self, t: float) -> float:
        """log Psi at the mean of p_t, of a time t, with 0 at the mean of p_0."""
        overall, dim = self.interpolant.overall, self.plan.p.dim
        ratio = operators.dense(product(self.interpolant.precision, self._mixed(t)), dim)
        gone = operators.dense(total(overall.noise, -self._way(t).noise), dim)
        return float(0.5 * (self.costate @ gone @ self.costate - np.linalg.slogdet(ratio)[1]))

    # ------------------------------------------------------------------ transitions

    def channel(self, s: float, t: float) -> Channel:
        """The channel from x_s to x_t, s < t."""
        w, step, inner = self.given_first, self._way(s), self._inverted(s)
        gain = product(w, product(inner.T, step.gain))
        offset = self.plan.q.means[0] - operators.apply(gain, self.mean(s))
        to_end = Channel(gain, offset, symmetric(product(step.noise, product(inner, w))))
        if t == self.interpolant.T:
            return to_end
        link = between(self.interpolant.process, s, t, self.interpolant.T)
        after = Channel(link.of_end, link.offset, link.noise).compose(to_end)
        return Channel(total(after.gain, link.of_start), after.offset, after.noise)

    def reverse(self, s: float, t: float) -> Channel:
        """The channel from x_t to x_s, s < t, by Bayes' rule; by least squares where the law of x_t is singular."""
        forward, law = self.channel(s, t), self.marginal(s)
        after = forward.push(law)
        if not after.covariances.singular:
            return forward.reverse(law)
        before, gain = law.cov(), operators.dense(forward.gain, law.dim)
        back = before @ gain.T @ np.linalg.pinv(after.cov(), hermitian=True)
        left = before - back @ after.cov() @ back.T
        return Channel(back, law.means[0] - back @ after.means[0], symmetric(left))

    # ------------------------------------------------------------------ parts

    @cached_property
    def _way(self) -> Callable[[float], Channel]:
        """t -> the channel from x_t to x_T, which one drift asks for three times."""
        return lru_cache(maxsize=1)(lambda t: self.interpolant.process.channel(t, self.interpolant.T))

    def _mixed(self, t: float) -> Operator:
        """B."""
        w, left = self.given_first, self._way(t).noise
        return total(w, left, -product(w, product(self.interpolant.precision, left)))

    def _inverted(self, t: float) -> Operator:
        mixed = self._mixed(t)
        if operators.singular(mixed):
            raise ValueError(f"t must be before the end of a law without density, got {t} of T = {self.interpolant.T}")
        return operators.inverse(mixed)


def symmetric(a: Operator) -> Operator:
    """An operator `a` without the rounding of its antisymmetric part."""
    return 0.5 * (a + a.T) if a.ndim == 2 else a
