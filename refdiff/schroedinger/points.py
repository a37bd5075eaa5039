r"""The Schroedinger bridge of two point sets, from the weights of Sinkhorn.

    K_ij = p(y_j | x_i),   u_i sum_j K_ij v_j = a_i,   v_j sum_i u_i K_ij = b_j,      gamma_ij = u_i K_ij v_j
    Psi(x, t) = sum_j v_j N(y_j; A x + k, N)          Psihat(x, t) = sum_i u_i N(x; B x_i + h, C)
    b+ = F x + u + D A' N^-1 (sum_j w_j(x, t) y_j - A x - k),   w_j the share of j in Psi
    p_t = Psi Psihat = sum_ij gamma_ij N(P y_j + Q x_i + c, V),     the pinned bridges of all pairs

with (A, k, N) the channel of the reference from t to T and (B, h, C) that from 0 to t: the exact drift for data, as the
empirical score is in diffusion. A linear reference is Brownian motion for Sinkhorn, with N^-1/2 (A x_i + k) and N^-1/2
y_j in the place of the points and eps = 1. As eps -> 0 paths become straight lines between the points that an optimal
coupling pairs; as eps -> infinity x_0 and x_T become independent. The first marginal is exact, and the second one as
good as Sinkhorn's. Sources: PODB-74, PODB-76, PODB-79, PODB-80, PODB-81, PODB-83.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.distributions.mixture import law
from refdiff.distributions.moments import log_total
from refdiff.dynamics import VelocityField
from refdiff.interpolants import InterpolantModel
from refdiff.processes import Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.mixtures import MixtureBridge
from refdiff.schroedinger.potentials import earlier, of_points
from refdiff.schroedinger.reference import reference_process
from refdiff.stochastic import StochasticEquation
from refdiff.transport import EntropicPlan, PairLaw, sinkhorn


@dataclass(frozen=True, eq=False)
class PointBridge:
    """The Schroedinger bridge from one point set to another.

    Points x have shape (..., d) and results follow their leading shape (float32 in, float32 out); t is one time.

    Args:
        p: the law at time 0, of points.
        q: the law at time T, of points.
        process: the reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.
        tolerance: of Sinkhorn's marginal error.
        max_iterations: of Sinkhorn.

    Attributes:
        plan: Sinkhorn's plan: of the points p, moved to T, and q where the noise to there is one number, its eps;
            else of these in units of the noise.
        bridge: what is made from its potentials.

    Raises:
        TypeError: p or q is no law, or process no reference.
        ValueError: a law with variances, dimensions that differ, or noise that does not reach every direction by T.
        Unconverged: Sinkhorn stays above the tolerance.
    """

    p: GaussianMixture
    q: GaussianMixture
    plan: EntropicPlan
    bridge: MixtureBridge

    def __init__(
        self,
        p: GaussianMixture,
        q: GaussianMixture,
        process: Process | Schedule | float,
        T: float | None = None,
        *,
        tolerance: float = 1e-9,
        max_iterations: int = 10_000,
    ) -> None:
        for name, one in (("p", p), ("q", q)):
            if not isinstance(one, GaussianMixture):
                raise TypeError(f"{name} must be a law of points, got {one!r}")
            if not of_points(one):
                raise ValueError(f"{name} must be a law of points, without variances, got {one!r}")
        whole, end = reference_process(process, T)
        free = MixtureBridge(p, q, whole, end)  # of potentials yet to be weighted: dimensions are checked
        step = whole.channel(0.0, end)
        if operators.singular(step.noise):
            raise ValueError(f"process must have noise that reaches every direction by T = {end}, got {step.noise}")
        x, y, epsilon = operators.apply(step.gain, p.means) + step.offset, q.means, 1.0
        if step.noise.ndim == 0:
            epsilon = float(step.noise)
        else:
            white = operators.inverse(operators.root(step.noise))
            x, y = operators.apply(white, x), operators.apply(white, y)
        one, two = law(p.log_weights, x, p.covariances), law(q.log_weights, y, q.covariances)
        plan = sinkhorn(one, two, epsilon, tolerance=tolerance, max_iterations=max_iterations)
        second = _weighted(q, q.log_weights + plan.g / epsilon)
        past, _ = earlier(second, step, p.means)
        first = _weighted(p, p.log_weights - past)
        values = {"p": p, "q": q, "plan": plan, "bridge": MixtureBridge(first, second, whole, free.T)}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"PointBridge({self.p.count} x {self.q.count} points in R^{self.dim}, T = {self.T:g})"

    @property
    def dim(self) -> int:
        """d, the dimension."""
        return self.p.dim

    @property
    def T(self) -> float:
        """The end."""
        return self.bridge.T

    @property
    def process(self) -> Process:
        """The reference."""
        return self.bridge.process

    # ------------------------------------------------------------------ laws

    @property
    def pairs(self) -> PairLaw:
        """The law of (x_0, x_T): all n m pairs of points, those of p fastest."""
        return self.bridge.pairs

    @property
    def model(self) -> InterpolantModel:
        """The pairs joined by the reference's pinned bridges: the same marginals and current velocity."""
        return self.bridge.model

    def marginal(self, t: float) -> GaussianMixture:
        """p_t, the law of x_t, a mixture over pairs of points."""
        return self.bridge.marginal(t)

    def given_start(self, x: ArrayLike) -> GaussianMixture:
        """The law of x_T given one x_0 = x of shape (d,), a point of p or not."""
        return self.bridge.given_start(x)

    def sample_pairs(self, n: int, seed: int | np.random.Generator) -> tuple[Array, Array]:
        """`n` independent pairs (x_0, x_T) by a `seed`, each (n, d)."""
        return self.bridge.sample_pairs(n, seed)

    def sample(self, times: ArrayLike, n: int, seed: int | np.random.Generator) -> Array:
        """`n` exact paths at increasing times (m,) in [0, T] by a `seed`, shape (m, n, d)."""
        return self.bridge.sample(times, n, seed)

    # ------------------------------------------------------------------ potentials and dynamics

    def log_potentials(self, x: ArrayLike, t: float) -> tuple[Any, Any]:
        """log Psi and log Psihat at points x (..., d) of a time 0 < t < T, each (...)."""
        return self.bridge.log_potentials(x, t)

    def forward_pull(self, x: ArrayLike, t: float) -> Any:
        """grad log Psi at points x (..., d) of a time t < T, shape (..., d)."""
        return self.bridge.forward_pull(x, t)

    def backward_pull(self, x: ArrayLike, t: float) -> Any:
        """grad log Psihat at points x (..., d) of a time t > 0, shape (..., d)."""
        return self.bridge.backward_pull(x, t)

    def log_density(self, x: ArrayLike, t: float) -> Any:
        """log p_t = log Psi + log Psihat at points x (..., d) of a time 0 < t < T, shape (...)."""
        return self.bridge.log_density(x, t)

    def score(self, x: ArrayLike, t: float) -> Any:
        """grad log p_t at points x (..., d) of a time 0 < t < T, shape (..., d)."""
        return self.bridge.score(x, t)

    def forward_drift(self, x: ArrayLike, t: float) -> Any:
        """b+ at points x (..., d) of a time t < T, shape (..., d): near T it pulls to a point like 1 / (T - t)."""
        return self.bridge.forward_drift(x, t)

    def backward_drift(self, x: ArrayLike, t: float) -> Any:
        """b- at points x (..., d) of a time t > 0, dt < 0, shape (..., d)."""
        return self.bridge.backward_drift(x, t)

    def velocity(self, x: ArrayLike, t: float) -> Any:
        """The current velocity (b+ + b-) / 2 at points x (..., d) of a time 0 < t < T, shape (..., d)."""
        return self.bridge.velocity(x, t)

    def osmotic_velocity(self, x: ArrayLike, t: float) -> Any:
        """(b+ - b-) / 2 = D grad log p_t / 2 at points x (..., d) of a time 0 < t < T, shape (..., d)."""
        return self.bridge.osmotic_velocity(x, t)

    def equation(self, *, backward: bool = False) -> StochasticEquation:
        """dx = b+ dt + G dw for times in [0, T), or with b- and dt < 0 in (0, T] where time runs `backward`."""
        return self.bridge.equation(backward=backward)

    def field(self) -> VelocityField:
        """The current velocity as a field, for times in (0, T)."""
        return self.bridge.field()


def _weighted(given: GaussianMixture, logs: Array) -> GaussianMixture:
    """The points of a law with other log weights (n,), made to sum to 1."""
    return law(logs - log_total(logs[None])[0], given.means, given.covariances)
