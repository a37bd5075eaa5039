r"""Gradient flows of free energies in Wasserstein's geometry, and their proximal steps, for Gaussians.

    F(q) = E (x - c)' P (x - c) / 2 + E (x - x')' Q (x - x') / 4 - theta H(q),      x, x' ~ q independent
    flow    dx/dt = -g(x),   g = P (x - c) + Q (x - E x) + theta grad log q,        dF/dt = -E |g|^2
    step    J(q) = argmin_r { F(r) + W_2(q, r)^2 / (2 tau) },     y + tau g_J(y) = x for the optimal pairs (x, y)

The step of Jordan, Kinderlehrer and Otto is the implicit Euler step of the particles. For q = N(a, B), with R = P + Q
and K = I + tau R, both are closed in any dimension, whether the matrices commute or not:

    flow    c + e^(-t P) (a - c),   e^(-t R) B e^(-t R) + theta R^-1 (I - e^(-2 t R))
    step    c + (I + tau P)^-1 (a - c),    K^(-1/2) D K^(-1/2),   D = (E^(1/2) + (E + 4 tau theta I)^(1/2))^2 / 4,
            E = K^(-1/2) B K^(-1/2)

since D and E commute: E = (D - tau theta)^2 D^-1. KL(q || N(m, S)) is P = S^-1, c = m, theta = 1; heat flow P = 0; a
potential alone theta = 0, where points stay points. Sources: TOPB-77, TOPB-79; Jordan, Kinderlehrer and Otto 1998;
Ambrosio, Gigli and Savare 2008, "Gradient flows", theorem 4.0.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_array, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions import entropy as entropy_of
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.operators import Operator
from refdiff.transport.geometry import kinetic_energy


@dataclass(frozen=True, eq=False)
class FreeEnergy:
    """F, of a quadratic potential, a quadratic interaction and an entropy.

    Args:
        curvature: P, a number, (d,) or a symmetric (d, d); it need not be positive.
        centre: c, a number or (d,).
        temperature: theta >= 0.
        interaction: Q, a number, (d,) or a symmetric (d, d); positive where it attracts.
        constant: what is added to F.

    Raises:
        ValueError: matrices that are not symmetric or of another dimension, or a negative temperature.
    """

    curvature: Operator
    centre: Array
    temperature: float
    interaction: Operator
    constant: float

    def __init__(
        self,
        curvature: ArrayLike = 0.0,
        centre: ArrayLike = 0.0,
        temperature: float = 1.0,
        interaction: ArrayLike = 0.0,
        constant: float = 0.0,
    ) -> None:
        parts = {name: _symmetric(name, value) for name, value in (("curvature", curvature),
                                                                   ("interaction", interaction))}  # fmt: skip
        c = real_array("centre", centre, ndim=(0, 1))
        sizes = {len(part) for part in (*parts.values(), c) if part.ndim}
        if len(sizes) > 1:
            raise ValueError(f"curvature, centre and interaction must have one dimension, got {sorted(sizes)}")
        for name, part in parts.items():
            object.__setattr__(self, name, part)
        object.__setattr__(self, "centre", c)
        object.__setattr__(self, "temperature", real_scalar("temperature", temperature, low=0))
        object.__setattr__(self, "constant", real_scalar("constant", constant))

    @staticmethod
    def divergence(target: GaussianMixture) -> FreeEnergy:
        """KL(q || target) for a Gaussian `target` with a density, as a free energy of q.

        Raises:
            TypeError: the target is no Gaussian.
            ValueError: it has no density.
        """
        _gaussian("target", target)
        if target.covariances.singular:
            raise ValueError(NO_DENSITY.format(what="target's covariance"))
        log_det = float(target.covariances.log_det(target.dim)[0])
        precision = operators.inverse(np.asarray(target.covariances.operator()))
        return FreeEnergy(precision, target.means[0], constant=0.5 * (target.dim * np.log(2 * np.pi) + log_det))

    # ------------------------------------------------------------------ the energy and its slope

    def value(self, law: GaussianMixture) -> float:
        """F of a Gaussian `law`; infinite for one without a density at a positive temperature.

        Raises:
            TypeError: the law is no Gaussian.
            ValueError: it has another dimension.
        """
        self._checked(law)
        shift = law.means[0] - self.centre
        bent = operators.apply(self.curvature, shift)
        spread = np.asarray(law.covariances.operator())
        inner = self.constant + 0.5 * float((shift * bent).sum()) + 0.5 * _trace(self._stiffness, spread, law.dim)
        if not self.temperature:
            return inner
        return np.inf if law.covariances.singular else inner - self.temperature * entropy_of(law)

    def gradient(self, law: GaussianMixture) -> Channel:
        """g = P (x - c) + Q (x - E x) + theta grad log q at a Gaussian `law`, the slope of F, as a channel.

        The explicit step of the flow is `exponential_map(law, gradient(law), -tau)`.

        Raises:
            TypeError: the law is no Gaussian.
            ValueError: it has another dimension, or no density at a positive temperature.
        """
        self._checked(law)
        gain = self._stiffness
        if self.temperature:
            if law.covariances.singular:
                raise ValueError(NO_DENSITY.format(what="law's covariance"))
            precision = operators.inverse(np.asarray(law.covariances.operator()))
            gain = _sum(gain, -self.temperature * precision)
        mean = operators.apply(self.curvature, law.means[0] - self.centre)
        return Channel(gain, mean - operators.apply(gain, law.means[0]))

    def dissipation(self, law: GaussianMixture) -> float:
        """E |g|^2 at a Gaussian `law`, minus the rate of F along the flow."""
        return kinetic_energy(law, self.gradient(law))

    @property
    def convexity(self) -> float:
        """lambda, the least eigenvalue of P and P + Q: F is so convex along geodesics, and distances shrink at it."""
        return min(float(_values(part).min()) for part in (self.curvature, self._stiffness))

    # ------------------------------------------------------------------ flow and steps

    def flow(self, law: GaussianMixture, t: float) -> Gaussian:
        """The Gaussian `law` after a time t >= 0 of the gradient flow.

        Raises:
            TypeError: the law is no Gaussian.
            ValueError: it has another dimension, or t is negative.
        """
        self._checked(law)
        now = real_scalar("t", t, low=0)
        mean = self.centre + operators.apply(_function(self.curvature, lambda p: np.exp(-now * p)), self._shift(law))
        shrink = _function(self._stiffness, lambda r: np.exp(-now * r))
        # theta (1 - e^(-2 t r)) / r, which is 2 theta t where r = 0
        noise = _function(self._stiffness, lambda r: 2 * now * self.temperature * _relative(2 * now * r))
        return Gaussian(mean, _sum(operators.sandwich(shrink, np.asarray(law.covariances.operator())), noise))

    def step(self, law: GaussianMixture, tau: float) -> Gaussian:
        """argmin { F(r) + W_2(law, r)^2 / (2 tau) }, from a Gaussian `law`, a Gaussian.

        Args:
            law: where the step begins; it may be singular.
            tau: > 0, so small that I + tau P and I + tau (P + Q) are positive.

        Raises:
            TypeError: the law is no Gaussian.
            ValueError: it has another dimension, or tau is not positive or too large where F is concave.
        """
        self._checked(law)
        h = real_scalar("tau", tau, low=0, open_low=True)
        if 1 + h * self.convexity <= 0:
            raise ValueError(f"tau must be below {-1 / self.convexity:.6g}, where there is a least, got {tau}")
        heat = h * self.temperature
        mean = self.centre + operators.apply(_function(self.curvature, lambda p: 1 / (1 + h * p)), self._shift(law))
        back = _function(self._stiffness, lambda r: 1 / np.sqrt(1 + h * r))
        e = operators.sandwich(back, np.asarray(law.covariances.operator()))
        d = _function(e, lambda v: 0.25 * (np.sqrt(np.maximum(v, 0)) + np.sqrt(np.maximum(v, 0) + 4 * heat)) ** 2)
        return Gaussian(mean, operators.sandwich(back, d))

    def steps(self, law: GaussianMixture, tau: float, count: int) -> list[Gaussian]:
        """`count` + 1 laws, each a `step` of length tau from the one before, the first of them the Gaussian `law`."""
        self._checked(law)
        found = [Gaussian(law.means[0], np.asarray(law.covariances.operator()))]
        for _ in range(whole_number("count", count)):
            found.append(self.step(found[-1], tau))
        return found

    # ------------------------------------------------------------------ parts

    @property
    def _stiffness(self) -> Operator:
        """R = P + Q."""
        return _sum(self.curvature, self.interaction)

    def _shift(self, law: GaussianMixture) -> Array:
        return np.asarray(law.means[0] - self.centre)

    def _checked(self, law: GaussianMixture) -> None:
        _gaussian("law", law)
        for name in ("curvature", "centre", "interaction"):
            operators.fits(name, getattr(self, name), law.dim)


def _gaussian(name: str, law: GaussianMixture) -> None:
    if not isinstance(law, GaussianMixture) or law.count != 1:
        raise TypeError(f"{name} must be a Gaussian, got {law!r}")


def _symmetric(name: str, value: ArrayLike) -> Operator:
    a = operators.operator(name, value)
    if a.ndim == 2 and (a.shape[0] != a.shape[1] or np.abs(a - a.T).max() > 1e-8 * np.abs(a).max()):
        raise ValueError(f"{name} must be symmetric, got {a.tolist()}")
    return 0.5 * (a + a.T) if a.ndim == 2 else a


def _sum(a: Operator, b: Operator) -> Operator:
    """A + B, symmetric as both are."""
    if max(a.ndim, b.ndim) < 2:
        return np.asarray(a + b)
    total = operators.add(a, b)
    return 0.5 * (total + total.T)


def _values(a: Operator) -> Array:
    return np.asarray(np.linalg.eigvalsh(a) if a.ndim == 2 else np.atleast_1d(a))


def _function(a: Operator, function: Callable[[Array], Array]) -> Operator:
    """A function of a symmetric operator, by its eigenvalues."""
    if a.ndim < 2:
        return np.asarray(function(a))
    values, axes = np.linalg.eigh(0.5 * (a + a.T))
    return np.asarray((axes * function(values)) @ axes.T)


def _relative(x: Array) -> Array:
    """(1 - e^-x) / x, 1 at 0."""
    safe = np.where(x == 0, 1.0, x)
    return np.where(x == 0, 1.0, -np.expm1(-safe) / safe)


def _trace(a: Operator, s: Operator, dim: int) -> float:
    """tr A S."""
    if max(a.ndim, s.ndim) < 2:
        return float(np.broadcast_to(a * s, (dim,)).sum())
    return float((operators.dense(a, dim) * operators.dense(s, dim)).sum())
