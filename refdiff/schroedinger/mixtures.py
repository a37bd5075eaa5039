r"""Schroedinger bridges made from their potentials: exact in every marginal, and so the truth for solvers.

    dP = Psihat_0(x_0) R(. | x_0) Psi_T(x_T) / Z,          p_t = Psi Psihat,      R the reference
    dx = [F x + u + D grad log Psi] dt + G dw              forwards from p_0
    dx = [F x + u - D grad log Psihat] dt + G dw, dt < 0   backwards from p_T

Any P of this form is the Schroedinger bridge of its own two ends. With potentials that are mixtures, point sets or sums
of exponentials of quadratics all products are of Gaussians: with S_ij = K A_i K' + N + B_j the pair of the components
N(a_i, A_i) and N(b_j, B_j) has the mass u_i v_j N(b_j; K a_i + k, S_ij) and a Gaussian law of (x_0, x_T). The bridge of
two given mixtures is not of this form, though that of many points drawn from them (`point_bridge`) tends to it; mixing
the bridges of their components costs more.
Psi is `second` moved backwards, without a factor; Psihat is `first` moved forwards, over Z.
Sources: PODB-76, PODB-79, PODB-80, PODB-81, PODB-83; Korotin, Gushchin and Burnaev 2024, "Light Schroedinger bridge";
Gushchin et al. 2023, "Building the bridge of Schroedinger: a continuous entropic optimal transport benchmark".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator, points, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.distributions.mixture import law
from refdiff.distributions.moments import log_total
from refdiff.dynamics import VelocityField
from refdiff.interpolants import InterpolantModel
from refdiff.path_measures import bridge_paths
from refdiff.processes import Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.plans import ends_drawn, ends_given, joined, meetings, plan_given, stacked
from refdiff.schroedinger.potentials import ExponentialSum, Potential, earlier, inside, later, of_points
from refdiff.schroedinger.reference import ReferenceBridges, reference_process
from refdiff.stochastic import StochasticEquation, forward_equation
from refdiff.transport import PairLaw


@dataclass(frozen=True, eq=False)
class MixtureBridge:
    """The Schroedinger bridge with given potentials, of the marginals that these make.

    Points x have shape (..., d) and results follow their leading shape (float32 in, float32 out); t is one time.

    Args:
        first: Psihat_0 up to a factor: a mixture or point set, or an ExponentialSum.
        second: Psi_T up to a factor, likewise.
        process: the reference R, a Process or a Schedule, or the noise rate of Brownian motion.
        T: the end: that of the process, or 1, unless given.

    Raises:
        TypeError: potentials or a reference that are none.
        ValueError: dimensions that differ, or an end that is none.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.schroedinger import MixtureBridge
        >>> bridge = MixtureBridge(Gaussian([0.0], 1.0), Gaussian([0.0], 1.0), 1.0)
        >>> print(bridge.marginal(0.0).cov().round(6))  # of N(x; 0, 1) N(x; 0, 1 + 1)
        [[0.666667]]
    """

    first: Potential
    second: Potential
    process: Process
    T: float

    def __init__(
        self, first: Potential, second: Potential, process: Process | Schedule | float, T: float | None = None
    ) -> None:
        for name, one in (("first", first), ("second", second)):
            if not isinstance(one, (GaussianMixture, ExponentialSum)):
                raise TypeError(f"{name} must be a mixture, a point set or an ExponentialSum, got {one!r}")
        if first.dim != second.dim:
            raise ValueError(f"second must have the dimension {first.dim} of first, got {second.dim}")
        fill(self, process, T, first.dim)
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "second", second)

    def __repr__(self) -> str:
        return f"MixtureBridge({self.first.count} x {self.second.count} on R^{self.dim}, T = {self.T:g})"

    @property
    def dim(self) -> int:
        """d, the dimension."""
        return self.first.dim

    # ------------------------------------------------------------------ laws

    @cached_property
    def log_mass(self) -> float:
        """log Z, of Psihat_0 R Psi_T as given."""
        if of_points(self.first):
            logs, _ = earlier(self.second, self._step(0.0, self.T), self.first.means)
            return float(log_total((self.first.log_weights + logs)[None])[0])
        return float(log_total(np.array([[mass for mass, _ in self._plan]]))[0])

    @cached_property
    def pairs(self) -> PairLaw:
        """The law of (x_0, x_T), all pairs of components: those of `first` run fastest."""
        channels = ends_given(self._step(0.0, self.T), self.second)
        return stacked(self._plan, channels)

    @cached_property
    def model(self) -> InterpolantModel:
        """The pairs joined by the reference's pinned bridges: the same marginals and current velocity by another road.

        Raises:
            ValueError: noise does not reach every direction by T.
        """
        return InterpolantModel(self.pairs, ReferenceBridges(self.process, self.T))

    def marginal(self, t: float) -> GaussianMixture:
        """p_t, the law of x_t: the products of all components of Psi and Psihat."""
        now = self._time(t)
        if now == 0 and of_points(self.first):
            return self._points(self.first, earlier(self.second, self._step(0.0, self.T), self.first.means)[0])
        if now == self.T and of_points(self.second):
            return self._points(self.second, later(self.first, self._step(0.0, self.T), self.second.means)[0])
        if now == self.T:
            return self.pairs.second
        return joined(list(meetings(self._first_at(now), self._step(now, self.T), self.second)))

    def conditional_plan(self, x: ArrayLike) -> GaussianMixture:
        """The law of x_T given one x_0 = x of shape (d,), also where p_0 has no mass."""
        where, _ = points("x", x, self.dim)
        return plan_given(self._step(0.0, self.T), self.second, where)

    def sample_pairs(self, n: int, seed: int | np.random.Generator) -> tuple[Array, Array]:
        """`n` independent pairs (x_0, x_T) by a `seed`, each (n, d), without a list of all pairs of points."""
        rng = generator(seed)
        if not (of_points(self.first) and of_points(self.second)):
            return self.pairs.sample(n, rng)
        x = self.marginal(0.0).sample(n, rng)
        return x, ends_drawn(self._step(0.0, self.T), self.second, x, rng)

    def sample(self, times: ArrayLike, n: int, seed: int | np.random.Generator) -> Array:
        """`n` exact paths at increasing times (m,) in [0, T] by a `seed`: a pair and a bridge, shape (m, n, d)."""
        rng = generator(seed)
        x, y = self.sample_pairs(whole_number("n", n, low=1), rng)
        return bridge_paths(self.process, x, y, times, 0.0, self.T, rng)

    # ------------------------------------------------------------------ potentials

    def log_potentials(self, x: ArrayLike, t: float) -> tuple[Any, Any]:
        """log Psi and log Psihat at points x (..., d), each (...).

        Raises:
            ValueError: there is none, as of points at their own time.
        """
        rows, restore = points("x", x, self.dim)
        (forward, _), (backward, _) = self._forward(rows, t), self._backward(rows, t)
        return restore(forward), restore(backward - self.log_mass)

    def forward_pull(self, x: ArrayLike, t: float) -> Any:
        """grad log Psi at points x (..., d), shape (..., d); t < T where the end is a point set."""
        rows, restore = points("x", x, self.dim)
        return restore(self._forward(rows, t)[1])

    def backward_pull(self, x: ArrayLike, t: float) -> Any:
        """grad log Psihat at points x (..., d), shape (..., d); t > 0 where the start is a point set."""
        rows, restore = points("x", x, self.dim)
        return restore(self._backward(rows, t)[1])

    def log_density(self, x: ArrayLike, t: float) -> Any:
        """log p_t = log Psi + log Psihat at points x (..., d), shape (...): sums over components, not over pairs."""
        forward, backward = self.log_potentials(x, t)
        return forward + backward

    def score(self, x: ArrayLike, t: float) -> Any:
        """grad log p_t at points x (..., d), shape (..., d)."""
        return self.forward_pull(x, t) + self.backward_pull(x, t)

    # ------------------------------------------------------------------ dynamics

    def forward_drift(self, x: ArrayLike, t: float) -> Any:
        """F x + u + D grad log Psi at points x (..., d), shape (..., d); t < T where the end is a point set."""
        rows, restore = points("x", x, self.dim)
        return restore(drifting(self.process, rows, t, self._forward(rows, t)[1]))

    def backward_drift(self, x: ArrayLike, t: float) -> Any:
        """F x + u - D grad log Psihat at points x (..., d), dt < 0, shape (..., d); t > 0 of a point set."""
        rows, restore = points("x", x, self.dim)
        return restore(drifting(self.process, rows, t, -self._backward(rows, t)[1]))

    def velocity(self, x: ArrayLike, t: float) -> Any:
        """The current velocity, the mean of both drifts, at points x (..., d), shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        forward, backward = self._forward(rows, t)[1], self._backward(rows, t)[1]
        return restore(drifting(self.process, rows, t, 0.5 * (forward - backward)))

    def osmotic_velocity(self, x: ArrayLike, t: float) -> Any:
        """Half of the difference of both drifts, D grad log p_t / 2, at points x (..., d), shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        pull = self._forward(rows, t)[1] + self._backward(rows, t)[1]
        return restore(0.5 * operators.apply(self.process.diffusion(t), pull))

    def equation(self, *, backward: bool = False) -> StochasticEquation:
        """dx = b dt + G dw with the forward drift, dt > 0, or with the `backward` one, dt < 0."""
        base = forward_equation(self.process, self.dim)
        drift = self.backward_drift if backward else self.forward_drift
        return StochasticEquation(lambda x, t: np.asarray(drift(x, t)), base.noise, self.dim, linear=base.linear)

    def field(self) -> VelocityField:
        """The current velocity as a field: its flow has the marginals p_t."""
        return VelocityField(self.velocity, self.dim)

    # ------------------------------------------------------------------ parts

    @cached_property
    def _plan(self) -> list[tuple[float, GaussianMixture]]:
        return list(meetings(self.first, self._step(0.0, self.T), self.second))

    def _points(self, given: GaussianMixture, logs: Array) -> GaussianMixture:
        """The points of one potential with the logarithms (n,) of the other one there."""
        return law(given.log_weights + logs - self.log_mass, given.means, given.covariances)

    def _time(self, t: float) -> float:
        return real_scalar("t", t, low=0, high=self.T)

    def _step(self, s: float, t: float) -> Channel:
        return self.process.channel(s, t)

    def _first_at(self, t: float) -> Potential:
        step = self._step(0.0, t)
        return step.push(self.first) if isinstance(self.first, GaussianMixture) else self.first.after(step)

    def _forward(self, x: Array, t: float) -> tuple[Array, Array]:
        """log Psi and its gradient."""
        return earlier(self.second, self._step(inside(self.second, self._time(t), self.T), self.T), x)

    def _backward(self, x: Array, t: float) -> tuple[Array, Array]:
        """log Psihat Z and its gradient."""
        return later(self.first, self._step(0.0, inside(self.first, self._time(t), 0.0)), x)


def drifting(process: Process, x: Array, t: float, pull: Array) -> Array:
    """F x + u + D pull of a `process` at points x (n, d) of a time t, for a `pull` (n, d), shape (n, d)."""
    free = operators.apply(process.drift(t), x) + process.force(t)
    return np.asarray(free + operators.apply(process.diffusion(t), pull))


def fill(found: Any, process: Process | Schedule | float, T: float | None, dim: int) -> None:
    """The reference and the end of a bridge on R^d, d = `dim`, checked, in the fields of `found`.

    Raises:
        ValueError: the reference is on another number of axes.
    """
    whole, end = reference_process(process, T)
    if whole.axes not in (None, dim):
        raise ValueError(f"process must have {dim} axes like the potentials, got {whole.axes}")
    object.__setattr__(found, "process", whole)
    object.__setattr__(found, "T", end)
