r"""Reflow: rectifying a coupling that is a map already, z_1 = Phi(z_0).

    x_t = X_t(z) = (1 - t) z + t Phi(z):     v(x, t) = E[z_1 - z_0 | x_t = x] = Phi(z) - z,   z = X_t^-1(x)

where X_t has an inverse, found here by Newton's steps with the derivative DX_t = (1 - t) I + t DPhi. Then the flow of v
are the lines X_t themselves: the coupling is a fixed point, straight, with nothing left to regress, after one step and
not in a limit. DX_t is regular for all t < 1 exactly where DPhi has no negative eigenvalue, and X_t is a bijection
where that is so for all z (Hadamard): on the line always, for Gaussians always but after lines that meet, for mixtures
as `crossing_time` says. Where lines do cross, v is a mean over all z with X_t(z) = x; that is refused.
Sources: PODB-49, PODB-52; Liu, Gong and Liu 2022, "Flow straight and fast", section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, points, real_scalar
from refdiff.distributions import GaussianMixture
from refdiff.interpolants.affine_flows import meeting
from refdiff.interpolants.rectified import rectify
from refdiff.transport import PairLaw, point_pairs

ATTEMPTS = 100  # evaluations of the coupling for one time: a dozen are usual
SHORTEST = 2.0**-20  # part of a Newton step below which the root is not near
LEAST = 2.0**-10  # part of the way that the continuation in t goes at least
# a Newton step this long, relative to 1 + |z|, is the last: what it leaves is its square times a curvature
LAST = 1e-7


@runtime_checkable
class MapCoupling(Protocol):
    """A coupling that is a map Phi of z_0, as `FlowCoupling` is one, and `StraightFlow`."""

    @property
    def dim(self) -> int:
        """d."""

    @property
    def T(self) -> float:
        """The final time."""

    @property
    def source(self) -> GaussianMixture:
        """The law of z_0."""

    def forward(self, z: ArrayLike, t: float | None = None) -> Array:
        """Where points z (..., d) of the time 0 are at the time t, the final one where left out, shape (..., d)."""

    def with_jacobian(self, z: ArrayLike, t: float | None = None) -> tuple[Array, Array]:
        """`forward` of z and t with its derivative, shapes (..., d) and (..., d, d)."""

    def inverse(self, x: ArrayLike, t: float | None = None) -> Array:
        """Where points x (..., d) of the time t, the final one where left out, come from, shape (..., d)."""

    def velocity(self, x: ArrayLike, t: float) -> Array:
        """The velocity at points x (..., d) of the time t, shape (..., d)."""


@dataclass(frozen=True, eq=False)
class StraightFlow:
    """The rectified flow of a map: straight lines from z_0 to Phi(z_0), in unit time.

    Build one with `reflow`. Points z and x have shape (..., d), and results follow them (float32 in, float32 out).

    Attributes:
        coupling: the map Phi, a FlowCoupling or another MapCoupling.
    """

    coupling: MapCoupling

    @property
    def dim(self) -> int:
        """d."""
        return self.coupling.dim

    @property
    def T(self) -> float:
        """The final time, 1."""
        return 1.0

    @property
    def source(self) -> GaussianMixture:
        """The law of z_0."""
        return self.coupling.source

    def forward(self, z: ArrayLike, t: float | None = None) -> Array:
        """(1 - t) z + t Phi(z), shape (..., d), at the points z and the time t, 1 where left out."""
        rows, restore = points("z", z, self.dim)
        when = _unit_time(t)
        return restore(rows if when == 0 else (1 - when) * rows + when * self.coupling.forward(rows))

    def with_jacobian(self, z: ArrayLike, t: float | None = None) -> tuple[Array, Array]:
        """`forward` of z and t with its derivative (1 - t) I + t DPhi, shapes (..., d) and (..., d, d)."""
        rows, restore = points("z", z, self.dim)
        when = _unit_time(t)
        ends, slopes = self.coupling.with_jacobian(rows)
        return restore((1 - when) * rows + when * ends), restore((1 - when) * np.eye(self.dim) + when * slopes)

    def jacobian(self, z: ArrayLike, t: float | None = None) -> Array:
        """(1 - t) I + t DPhi(z), shape (..., d, d), at the time t, 1 where left out."""
        return self.with_jacobian(z, t)[1]

    def crossing_time(self, z: ArrayLike) -> Array:
        """When the line of each z first meets others nearby, 1 / (1 + |eigenvalue < 0| of DPhi); inf where never.

        inf for all z of the law says that X_t is a bijection for all t, and that the velocity is exact.
        """
        rows, restore = points("z", z, self.dim)
        ratio = meeting(self.coupling.with_jacobian(rows)[1])
        with np.errstate(invalid="ignore"):
            return restore(np.where(np.isinf(ratio), np.inf, ratio / (1 + ratio)))

    def inverse(self, x: ArrayLike, t: float | None = None) -> Array:
        """The z with (1 - t) z + t Phi(z) = x, shape (..., d), for the time t, 1 where left out.

        Raises:
            ValueError: t is outside [0, 1], the line of z has met others before t, or no z is found.
        """
        rows, restore = points("x", x, self.dim)
        return restore(self._starts(rows, _unit_time(t))[0])

    def velocity(self, x: ArrayLike, t: float) -> Array:
        """Phi(z) - z at the z with (1 - t) z + t Phi(z) = x, shape (..., d).

        Raises:
            ValueError: t is outside [0, 1], the line of z has met others before t, or no z is found.
        """
        rows, restore = points("x", x, self.dim)
        z, ends = self._starts(rows, _unit_time(t))
        return restore(ends - z)

    def pairs(self, z: ArrayLike) -> PairLaw:
        """The coupling of points z (n, d) as a law of pairs."""
        rows, _ = points("z", z, self.dim)
        return point_pairs(rows, self.coupling.forward(rows))

    # ------------------------------------------------------------------ Newton's steps

    def _starts(self, x: Array, t: float) -> tuple[Array, Array]:
        """z and Phi(z) for x (n, d): by continuation from X_0 = I, in steps of t that Newton's steps can follow."""
        if t == 0 or not len(x):
            return x, self.coupling.forward(x)
        if t == 1:
            return self.coupling.inverse(x), x
        found, now, step = _Found(x.copy(), x, x), 0.0, t
        while now < t:
            then = min(t, now + step)
            onward = self._solved(found.z, x, then)
            if onward is not None:
                found, now, step = onward, then, 2 * step
            elif (step := step / 2) < LEAST * t:
                raise ValueError(f"coupling must join points by lines that do not meet, found no z for x at t = {then}")
        ratio = meeting(found.slopes)
        met = np.flatnonzero(ratio * (1 - t) <= t)
        if met.size:
            where, when = found.z[met[0]], ratio[met[0]] / (1 + ratio[met[0]])
            raise ValueError(f"coupling must join points by lines that do not meet, got one from {where} that does at "
                             f"t = {when:.6g}")  # fmt: skip
        return found.z, found.ends

    def _solved(self, guess: Array, x: Array, t: float) -> _Found | None:
        """The roots of X_t(z) = x near a guess (n, d), by damped Newton steps; None where they do not converge."""
        count, dim = x.shape
        found = _Found(np.empty((count, dim)), np.empty((count, dim)), np.empty((count, dim, dim)))
        base, size, step, part = guess.copy(), np.full(count, np.inf), np.zeros((count, dim)), np.ones(count)
        left = np.arange(count)
        for _ in range(ATTEMPTS):
            z = base[left] - part[left, None] * step[left]
            ends, slopes = self.coupling.with_jacobian(z)
            off = (1 - t) * z + t * ends - x[left]
            residual = np.linalg.norm(off, axis=1)
            closer = residual < size[left]
            part[left[~closer]] /= 2
            if (part[left] < SHORTEST).any():
                return None
            good = left[closer]
            try:
                whole = (1 - t) * np.eye(dim) + t * slopes[closer]
                step[good] = np.linalg.solve(whole, off[closer][:, :, None])[:, :, 0]
            except np.linalg.LinAlgError:
                return None
            base[good], size[good], part[good] = z[closer], residual[closer], 1.0
            last = np.linalg.norm(step[good], axis=1) <= LAST * (1 + np.linalg.norm(base[good], axis=1))
            done, rows = good[last], np.flatnonzero(closer)[last]
            found.z[done], found.slopes[done] = base[done] - step[done], slopes[rows]
            found.ends[done] = ends[rows] - np.einsum("nij,nj->ni", slopes[rows], step[done])
            left = np.setdiff1d(left, done)
            if not left.size:
                return found
        return None


@dataclass(frozen=True)
class _Found:
    """z (n, d), Phi(z) and DPhi nearby."""

    z: Array
    ends: Array
    slopes: Array


def reflow(given: MapCoupling | PairLaw) -> StraightFlow:
    """The rectified flow of a coupling that is a map.

    Args:
        given: a FlowCoupling or another MapCoupling; a PairLaw is rectified first.

    Raises:
        TypeError: given is neither.
        ValueError: what `rectify` refuses.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.interpolants import rectify, reflow
        >>> from refdiff.transport import independent
        >>> straight = reflow(rectify(independent(Gaussian([0.0], 1.0), Gaussian([3.0], 4.0))))
        >>> print(straight.forward([[1.0]], 0.5).round(6), straight.velocity([[3.0]], 0.5).round(6))  # from 1 to 5
        [[3.]] [[4.]]
    """
    coupling = rectify(given) if isinstance(given, PairLaw) else given
    if not isinstance(coupling, MapCoupling):
        raise TypeError(f"given must be a MapCoupling or a PairLaw, got {given!r}")
    return StraightFlow(coupling)


def _unit_time(t: float | None) -> float:
    return 1.0 if t is None else real_scalar("t", t, low=0, high=1)
