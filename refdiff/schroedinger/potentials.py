r"""Potentials of bridges: mixtures, point sets and sums of exponentials of quadratics, moved by a linear process.

    Psi(x, t)    = int p(x_T = y | x_t = x) Psi_T(y) dy          Psi_T = sum_j v_j N(y; b_j, B_j), B_j = 0 for points
    Psihat(x, t) = int p(x_t = x | x_0 = z) Psihat_0(dz)         or sum_j exp(-1/2 y' Q_j y + q_j . y + r_j)

A potential that is a law (up to a factor, which no bridge sees) moves as laws do, by a channel (K, k, N): backwards
it is the density of its blur by N at K x + k. An exponential of a quadratic moves by

    int N(y; m, N) e^(-1/2 y' Q y + q . y + r) dy = exp(-1/2 m' C m + c . m + e),      C = (I + Q N)^-1 Q,
    c = (I + Q N)^-1 q,     e = r + 1/2 q' (I + N Q)^-1 N q - 1/2 log det(I + N Q)

for any Q, of any sign, with Q + N^-1 > 0: one potential of a bridge grows wherever its marginal is wide beside the
other one. Q = 0 is the constant 1, of the reference itself. Sources: PODB-79, PODB-83, PODB-89, DMI-10; Korotin,
Gushchin and Burnaev 2024, "Light Schroedinger bridge", for potentials adjusted by e^(|y|^2 / 2 eps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, whole_number
from refdiff.backends import numba_pays
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.distributions.covariances import Dense
from refdiff.distributions.mixture import law
from refdiff.distributions.moments import log_total
from refdiff.metrics.compared import is_points
from refdiff.operators import Operator
from refdiff.path_measures import Quadratic

INFINITE = "{what} must be finite, got the exponential of a quadratic that grows faster than {beside} falls"


@dataclass(frozen=True, eq=False)
class ExponentialSum:
    """sum_k exp(-1/2 x' Q_k x + q_k . x + r_k), Q_k of any sign.

    Build one with `of`, `flat`, `density` or `adjusted`; the constructor itself takes parts that are consistent.

    Attributes:
        curvatures: Q_k, shape (K, d, d).
        slopes: q_k, shape (K, d).
        constants: r_k, shape (K,).
    """

    curvatures: Array
    slopes: Array
    constants: Array

    @staticmethod
    def of(terms: Quadratic | Sequence[Quadratic]) -> ExponentialSum:
        """The sum of the exponentials of these quadratics, the `terms`.

        Raises:
            TypeError: one is no Quadratic.
            ValueError: there is none, or their dimensions differ.
        """
        many = (terms,) if isinstance(terms, Quadratic) else tuple(terms)
        for one in many:
            if not isinstance(one, Quadratic):
                raise TypeError(f"terms must be Quadratics, got {one!r}")
        if len({one.dim for one in many}) != 1:
            raise ValueError(f"terms must be Quadratics of one dimension, got {[one.dim for one in many]}")
        return ExponentialSum(
            np.stack([one.curvature for one in many]),
            np.stack([one.slope for one in many]),
            np.array([one.constant for one in many]),
        )

    @staticmethod
    def flat(dim: int) -> ExponentialSum:
        """The constant 1 on R^d, d = `dim`."""
        d = whole_number("dim", dim, low=1)
        return ExponentialSum(np.zeros((1, d, d)), np.zeros((1, d)), np.zeros(1))

    @staticmethod
    def density(mixture: GaussianMixture) -> ExponentialSum:
        """The density of a law, the `mixture`.

        Raises:
            ValueError: it has none.
        """
        if mixture.covariances.singular:
            raise ValueError(f"mixture must have a density, got {mixture!r}")
        d, drawn = mixture.dim, np.isfinite(mixture.log_weights)
        inverse = np.broadcast_to(mixture.covariances.inverse().dense(d), (mixture.count, d, d))[drawn]
        means = mixture.means[drawn]
        slopes = np.einsum("kij,kj->ki", inverse, means)
        sizes = np.broadcast_to(mixture.covariances.log_det(d), mixture.count)[drawn] + d * np.log(2 * np.pi)
        constants = mixture.log_weights[drawn] - 0.5 * (np.einsum("ki,ki->k", means, slopes) + sizes)
        return ExponentialSum(inverse, slopes, constants)

    @staticmethod
    def adjusted(mixture: GaussianMixture, noise: ArrayLike) -> ExponentialSum:
        """The density of a law times e^(y' N^-1 y / 2): any covariances serve, however wide beside the noise N.

        Args:
            mixture: the law, of which the plan given x_0 = 0 is a copy where K x + k = 0.
            noise: N of the reference from 0 to T, a variance, (d,) or (d, d).

        Raises:
            ValueError: the law has no density, or N is singular.
        """
        n = operators.covariance("noise", noise)
        operators.fits("noise", n, mixture.dim)
        if operators.singular(n):
            raise ValueError(f"noise must reach every direction, got {n}")
        found = ExponentialSum.density(mixture)
        wider = found.curvatures - operators.dense(operators.inverse(n), mixture.dim)
        return ExponentialSum(wider, found.slopes, found.constants)

    @property
    def dim(self) -> int:
        """d, the dimension."""
        return int(self.slopes.shape[1])

    @property
    def count(self) -> int:
        """K, the number of terms."""
        return len(self.slopes)

    def __getitem__(self, chosen: slice) -> ExponentialSum:
        return ExponentialSum(self.curvatures[chosen], self.slopes[chosen], self.constants[chosen])

    # ------------------------------------------------------------------ values

    def terms(self, x: Array) -> Array:
        """The quadratics at points x (n, d), shape (n, K)."""
        bent = np.einsum("ni,kij,nj->nk", x, self.curvatures, x, optimize=True)
        return np.asarray(-0.5 * bent + x @ self.slopes.T + self.constants)

    def log_value(self, x: ArrayLike) -> Any:
        """The logarithm at points x (..., d), shape (...)."""
        rows, restore = points("x", x, self.dim)
        return restore(log_total(self.terms(rows)))

    def gradient(self, x: ArrayLike) -> Any:
        """The gradient of the logarithm at points x (..., d), shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        terms = self.terms(rows)
        share = np.exp(terms - log_total(terms)[:, None])
        pulled = np.einsum("nk,kij,nj->ni", share, self.curvatures, rows, optimize=True)
        return restore(share @ self.slopes - pulled)

    # ------------------------------------------------------------------ moved and multiplied

    def before(self, step: Channel) -> ExponentialSum:
        """x -> int p(y | x) h(y) dy of a channel, the `step` x -> y.

        Raises:
            ValueError: it is infinite.
        """
        d = self.dim
        gain, noise = operators.dense(step.gain, d), operators.dense(step.noise, d)
        offset = np.broadcast_to(step.offset, (d,))
        logs = self._widened(noise)
        mixed = np.eye(d) + self.curvatures @ noise
        c = _symmetric(np.asarray(np.linalg.solve(mixed, self.curvatures), dtype=float))
        slopes = np.linalg.solve(mixed, self.slopes[..., None])[..., 0]
        spread = np.linalg.solve(np.swapaxes(mixed, 1, 2), np.broadcast_to(noise, c.shape))
        constants = self.constants + 0.5 * np.einsum("ki,kij,kj->k", self.slopes, spread, self.slopes) - 0.5 * logs
        constants = constants - 0.5 * np.einsum("i,kij,j->k", offset, c, offset) + slopes @ offset
        return ExponentialSum(gain.T @ c @ gain, (slopes - c @ offset) @ gain, constants)

    def after(self, step: Channel) -> ExponentialSum:
        """y -> int p(y | x) h(x) dx of a channel, the `step` x -> y.

        Raises:
            ValueError: it is infinite, or the channel forgets a direction of x.
        """
        d = self.dim
        gain = operators.dense(step.gain, d)
        if operators.singular(gain):
            raise ValueError(f"step must keep every direction of x, got the gain {gain}")
        back = np.linalg.inv(gain)
        size = float(np.linalg.slogdet(gain)[1])
        carried = ExponentialSum(back.T @ self.curvatures @ back, self.slopes @ back, self.constants - size)
        return carried.before(Channel(1.0, -np.broadcast_to(step.offset, (d,)), step.noise))

    def times(self, other: ExponentialSum) -> ExponentialSum:
        """The product with another one: all pairs of terms, those of this one running fastest."""
        each = zip(_parts(self), _parts(other), strict=True)
        return ExponentialSum(*((b[:, None] + a[None]).reshape(-1, *a.shape[1:]) for a, b in each))

    def law(self) -> tuple[float, GaussianMixture]:
        """The logarithm of its integral, and the law that it is a multiple of.

        Raises:
            ValueError: the integral is infinite.
        """
        try:
            roots = np.linalg.cholesky(self.curvatures)
        except np.linalg.LinAlgError:
            raise ValueError(INFINITE.format(what="the integral of a potential", beside="nothing")) from None
        means = np.asarray(np.linalg.solve(self.curvatures, self.slopes[..., None])[..., 0], dtype=float)
        log_det = 2 * np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
        logs = self.constants + 0.5 * ((self.slopes * means).sum(axis=1) + self.dim * np.log(2 * np.pi) - log_det)
        total = float(log_total(logs[None])[0])
        spreads = np.asarray(np.linalg.inv(self.curvatures), dtype=float)
        return total, law(logs - total, means, Dense(_symmetric(spreads)))

    def tilted(self, given: GaussianMixture) -> tuple[float, GaussianMixture]:
        """The logarithm of E h(x) for x of the law `given`, singular or not, and that law weighted by h.

        Components of the law run fastest.

        Raises:
            ValueError: the expectation is infinite.
        """
        d, (k, j) = self.dim, (given.count, self.count)
        spreads = np.broadcast_to(given.covariances.dense(d), (k, d, d))
        logs, means, covs = np.empty((j, k)), np.empty((j, k, d)), np.empty((j, k, d, d))
        for i, (spread, mean) in enumerate(zip(spreads, given.means, strict=True)):
            logs[:, i] = given.log_weights[i] + self.before(Channel(1.0, 0.0, spread)).terms(mean[None])[0]
            mixed = np.eye(d) + spread @ self.curvatures
            means[:, i] = np.linalg.solve(mixed, (mean + self.slopes @ spread)[..., None])[..., 0]
            covs[:, i] = _symmetric(np.linalg.solve(mixed, np.broadcast_to(spread, (j, d, d))))
        total = float(log_total(logs.reshape(1, -1))[0])
        return total, law(logs.ravel() - total, means.reshape(-1, d), Dense(covs.reshape(-1, d, d)))

    def given(self, step: Channel) -> list[Channel]:
        """x -> y of each term, for a channel x -> y, the `step`, weighted by h(y)."""
        d, found = self.dim, []
        gain, noise = operators.dense(step.gain, d), operators.dense(step.noise, d)
        offset = np.broadcast_to(step.offset, (d,))
        for curvature, slope in zip(self.curvatures, self.slopes, strict=True):
            mixed = np.eye(d) + noise @ curvature
            spread = np.linalg.solve(mixed, noise)
            shift = np.linalg.solve(mixed, offset + noise @ slope)
            found.append(Channel(np.linalg.solve(mixed, gain), shift, _symmetric(spread)))
        return found

    def _widened(self, noise: Array) -> Array:
        """log det (I + R Q_k R), R R = `noise` (d, d), shape (K,).

        Raises:
            ValueError: one of these matrices is not positive, and a Gaussian integral infinite.
        """
        root = operators.root(noise)
        values = np.linalg.eigvalsh(_symmetric(np.eye(self.dim) + root @ self.curvatures @ root))
        if (values <= 0).any():
            raise ValueError(INFINITE.format(what="a potential at other times", beside="the density of the noise"))
        return np.asarray(np.log(values).sum(axis=1))


Potential: TypeAlias = GaussianMixture | ExponentialSum


def of_points(potential: Potential) -> TypeGuard[GaussianMixture]:
    """Whether the `potential` is a law of points."""
    return isinstance(potential, GaussianMixture) and is_points(potential)


# ---------------------------------------------------------------------- at a time


def inside(potential: Potential, t: float, own: float) -> float:
    """The time t, at which a `potential` that is a law without density has no value where t is its `own`.

    Raises:
        ValueError: it is.
    """
    if t == own and isinstance(potential, GaussianMixture) and potential.covariances.singular:
        raise ValueError(f"t must not be that of an end without density, as of points, got {t}")
    return t


def earlier(potential: Potential, step: Channel, x: Array) -> tuple[Array, Array]:
    """log Psi (n,) and its gradient (n, d) at points x (n, d), for the `potential` at the end of a `step`."""
    if isinstance(potential, ExponentialSum):
        now = potential.before(step)
        return np.asarray(now.log_value(x)), np.asarray(now.gradient(x))
    logs, scores = _blurred(potential, step.noise, operators.apply(step.gain, x) + step.offset)
    return logs, np.asarray(operators.apply(step.gain.T, scores))


def later(potential: Potential, step: Channel, x: Array) -> tuple[Array, Array]:
    """log Psihat (n,) and its gradient (n, d) at points x (n, d), for the `potential` at the start of a `step`."""
    if isinstance(potential, ExponentialSum):
        now = potential.after(step)
        return np.asarray(now.log_value(x)), np.asarray(now.gradient(x))
    return _blurred(potential.affine(step.gain, step.offset), step.noise, x)


def _blurred(potential: GaussianMixture, noise: Operator, x: Array) -> tuple[Array, Array]:
    """log density (n,) and score (n, d) of a law blurred by a noise, at points x (n, d): both from one kernel."""
    if noise.ndim < 2 and numba_pays(len(x), potential.count, potential.dim):
        from refdiff import compiled  # late: Numba takes a third of a second to import

        rows = np.broadcast_arrays(1.0, noise, 0.0, 0.0, -1.0)
        when = np.array(rows, dtype=float).reshape(5, -1)
        if compiled.applies(potential, when):
            scores, logs = compiled.evaluate(potential, x, when)
            return logs, np.asarray(compiled.finite(scores))
    seen = potential.convolve(noise)
    return np.asarray(seen.logpdf(x)), np.asarray(seen.score(x))


def _parts(one: ExponentialSum) -> tuple[Array, Array, Array]:
    return one.curvatures, one.slopes, one.constants


def _symmetric(matrices: Array) -> Array:
    return np.asarray(0.5 * (matrices + np.swapaxes(matrices, -1, -2)))
