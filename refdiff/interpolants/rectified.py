r"""Rectified flow: the coupling that the exact velocity of an interpolant makes of the one that it is fitted to.

    v(x, t) = E[dx_t/dt | x_t = x],     dz/dt = v(z, t),  z_0 = x_0:     rectify(x_0, x_1) = (z_0, z_T),  z_T = Phi(z_0)

z_t has the law of x_t at every time, and pairs of times another one: z_T is a function of z_0. A map carries p_0 to p_T
and has an inverse, and a derivative from the variational equation. Where there is a closed form it is taken:

    affine      Gaussian pairs, and pairs that are an affine image of a law: `affine_flow`
    the line    z_t = F_t^-1(F_0(z_0)), whatever the pairs and the path: components of p_0 and p_t have the same weights
    otherwise   steps of dz/dt = v to a tolerance

Sources: PODB-47, PODB-48, PODB-96, TOPB-69, TOPB-71; Liu, Gong and Liu 2022, "Flow straight and fast".
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
from refdiff.distributions import GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.distributions.quantiles import equal_mass, standardized
from refdiff.dynamics import VelocityField, field_flow
from refdiff.dynamics.stepping import Steps
from refdiff.interpolants.affine_flows import affine_flow
from refdiff.interpolants.interpolant import linear
from refdiff.interpolants.model import InterpolantModel
from refdiff.transport import PairLaw, image_pairs, point_pairs

ATTEMPTS = 10_000  # steps after which a flow is given up, as elsewhere


@dataclass(frozen=True, eq=False)
class FlowCoupling:
    """z_0 ~ p_0 with the points that the flow of an interpolant's velocity takes it to.

    Build one with `rectify`. Points z and x have shape (..., d), and results follow them (float32 in, float32 out).

    Attributes:
        model: the InterpolantModel whose velocity it follows.
        method: of the steps, where there is no closed form: dop853, or dopri5 for loose tolerances.
        rtol, atol: of each step, as of `field_flow`.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: a tolerance too small, a first law without a density, or lines of Gaussian pairs that meet.
    """

    model: InterpolantModel
    method: str = "dop853"
    rtol: float = 1e-10
    atol: float = 1e-12

    def __post_init__(self) -> None:
        if not isinstance(self.model, InterpolantModel):
            raise TypeError(f"model must be an InterpolantModel, got {self.model!r}")
        Steps(self.method, self.rtol, self.atol, ATTEMPTS)
        affine = self._affine  # which says what has no flow
        if affine is None and self.source.covariances.singular:
            raise ValueError(NO_DENSITY.format(what="the law at the time 0"))

    @property
    def dim(self) -> int:
        """d, the dimension of z."""
        return self.model.dim

    @property
    def T(self) -> float:
        """The final time."""
        return self.model.T

    @property
    def source(self) -> GaussianMixture:
        """The law of z_0."""
        return self.model.marginal(0.0)

    @property
    def target(self) -> GaussianMixture:
        """The law of z_T."""
        return self.model.marginal(self.T)

    @property
    def is_affine(self) -> bool:
        """Whether the flow is affine, so that `channel` and `pairs` are closed forms."""
        return self._affine is not None

    @cached_property
    def _affine(self) -> Callable[[float], Channel] | None:
        return affine_flow(self.model)

    # ------------------------------------------------------------------ the map

    def forward(self, z: ArrayLike, t: float | None = None) -> Array:
        """Where the points z of the time 0 are at the time t, the final one where left out, shape (..., d).

        Raises:
            ValueError: t is outside [0, T], or p_t has no density and the flow to it no closed form.
        """
        return self._moved("z", z, self._until(t), back=False)

    def inverse(self, x: ArrayLike, t: float | None = None) -> Array:
        """Where the points x of the time t, the final one where left out, come from, shape (..., d).

        Raises:
            ValueError: t is outside [0, T], or p_t has no density and the flow to it no inverse in closed form.
        """
        end = self._until(t)
        if self._affine is None or (end and operators.singular(self._affine(end).gain)):
            self._has_density(end)
        return self._moved("x", x, end, back=True)

    def jacobian(self, z: ArrayLike, t: float | None = None) -> Array:
        """dz_t / dz_0 at the points z of the time 0, shape (..., d, d), for t as of `forward`."""
        return self.with_jacobian(z, t)[1]

    def with_jacobian(self, z: ArrayLike, t: float | None = None) -> tuple[Array, Array]:
        """`forward` and `jacobian` of z and t together, by the variational equation dJ/dt = (dv/dx) J where by steps.

        Raises:
            ValueError: as of `forward`; on the line p_t needs a density.
        """
        rows, restore = points("z", z, self.dim)
        end, d = self._until(t), self.dim
        if self._affine is not None or d == 1:
            moved = self._moved("z", rows, end, back=False)
            return restore(moved), restore(self._slopes(rows, moved, end))
        self._has_density(end)
        model = self.model

        def rates(state: Array, now: float) -> Array:
            at, slopes = state[:, :d], state[:, d:].reshape(-1, d, d)
            turned = model.velocity_jacobian(at, now) @ slopes
            return np.hstack([model.velocity(at, now), turned.reshape(len(at), -1)])

        unit = np.broadcast_to(np.eye(d).ravel(), (len(rows), d * d))
        field = VelocityField(rates, d + d * d)
        # the RMS over d + d^2 numbers bounds that over d of them in tolerances smaller by sqrt(d + 1)
        rtol, atol = max(self.rtol / np.sqrt(d + 1), 3e-14), self.atol / np.sqrt(d + 1)
        found = field_flow(field, np.hstack([rows, unit]), 0.0, end, method=self.method, rtol=rtol, atol=atol).x
        return restore(found[:, :d]), restore(found[:, d:].reshape(-1, d, d))

    def log_det(self, z: ArrayLike, t: float | None = None) -> Array:
        """log |det dz_t / dz_0| = log p_0(z) - log p_t(z_t) at the points z, shape (...), for t as of `forward`."""
        rows, restore = points("z", z, self.dim)
        end = self._until(t)
        if self._affine is not None:
            gain = operators.dense(self._affine(end).gain, self.dim) if end else np.eye(self.dim)
            return restore(np.full(len(rows), np.linalg.slogdet(gain)[1]))
        moved = self._moved("z", rows, end, back=False)
        return restore(np.asarray(self.model.log_density(rows, 0.0) - self.model.log_density(moved, end)))

    def velocity(self, x: ArrayLike, t: float) -> Array:
        """v at the points x and the time t, shape (..., d)."""
        return np.asarray(self.model.velocity(x, t))

    # ------------------------------------------------------------------ as a law of pairs

    def channel(self, t: float | None = None) -> Channel:
        """The flow from 0 to t, the final time where left out, as a channel without noise.

        Raises:
            ValueError: the flow is not affine, or t outside [0, T].
        """
        if self._affine is None:
            raise ValueError(f"model must have an affine flow, got {self.model.pairs!r}: take its `forward`")
        return self._affine(self._until(t))

    def pairs(self, z: ArrayLike | None = None) -> PairLaw:
        """The coupling as a law of pairs: in closed form where the flow is affine, else of points z (n, d).

        Raises:
            ValueError: there are no points, and the flow is not affine.
        """
        if z is None:
            return image_pairs(self.source, self.channel())
        rows, _ = points("z", z, self.dim)
        return point_pairs(rows, self.forward(rows))

    def sample(self, n: int, seed: int | np.random.Generator) -> tuple[Array, Array]:
        """`n` pairs (z_0, z_T) by a `seed`, each (n, d)."""
        z = self.source.sample(n, seed)
        return z, self.forward(z)

    # ------------------------------------------------------------------ routes

    def _until(self, t: float | None) -> float:
        return self.T if t is None else real_scalar("t", t, low=0, high=self.T)

    def _has_density(self, t: float) -> None:
        if self.model.marginal(t).covariances.singular:
            raise ValueError(NO_DENSITY.format(what=f"the law at the time {t}"))

    def _moved(self, name: str, where: ArrayLike, t: float, *, back: bool) -> Array:
        rows, restore = points(name, where, self.dim)
        if t == 0 or not len(rows):
            return restore(rows)
        if self._affine is not None:
            channel = self._affine(t)
            if back:
                return restore(operators.apply(operators.inverse(channel.gain), rows - channel.offset))
            return restore(operators.apply(channel.gain, rows) + channel.offset)
        if self.dim == 1:
            first, last = (self.model.marginal(when) for when in ((t, 0.0) if back else (0.0, t)))
            return restore(equal_mass(last, standardized(first, rows))[:, None])
        self._has_density(t)
        start, end = (t, 0.0) if back else (0.0, t)
        options = {"method": self.method, "rtol": self.rtol, "atol": self.atol, "max_steps": ATTEMPTS}
        return restore(field_flow(self.model.field(), rows, start, end, **options).x)  # type: ignore[arg-type]

    def _slopes(self, rows: Array, moved: Array, t: float) -> Array:
        """dz_t / dz_0 where it has a closed form, shape (n, d, d)."""
        if self._affine is not None:
            gain = operators.dense(self._affine(t).gain, self.dim) if t else np.eye(self.dim)
            return np.broadcast_to(gain, (len(rows), self.dim, self.dim)).copy()
        self._has_density(t)
        ratio = np.exp(self.model.log_density(rows, 0.0) - self.model.log_density(moved, t))
        return np.asarray(ratio).reshape(-1, 1, 1)


def rectify(
    given: InterpolantModel | PairLaw, *, method: str = "dop853", rtol: float = 1e-10, atol: float = 1e-12
) -> FlowCoupling:
    """The flow coupling of an interpolant's exact velocity.

    Args:
        given: an InterpolantModel, or a PairLaw to be joined by lines.
        method: of the steps, where there is no closed form: dop853, or dopri5 for loose tolerances.
        rtol, atol: of each step, as of `field_flow`.

    Raises:
        TypeError: given is neither.
        ValueError: a tolerance too small, a first law without a density, or lines of Gaussian pairs that meet.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.interpolants import rectify
        >>> from refdiff.transport import independent
        >>> way = rectify(independent(Gaussian([0.0], 1.0), Gaussian([3.0], 4.0))).channel()
        >>> print(way.gain.round(6), way.offset.round(6))  # on the line the optimal map, 3 + 2 x
        2.0 [3.]
    """
    if isinstance(given, PairLaw):
        given = InterpolantModel(given, linear())
    if not isinstance(given, InterpolantModel):
        raise TypeError(f"given must be an InterpolantModel or a PairLaw, got {given!r}")
    return FlowCoupling(given, method, rtol, atol)
