r"""Schroedinger bridges of Gaussians in closed form, for Brownian and every linear reference, in any dimension.

    min KL(P || R),   P_0 = p = N(m, S_0),  P_T = q = N(n, S_1)       R: dx = [F x + u] dt + G dw,  D = G G'

P joins the entropic coupling of p and q, whose cost is -log R(x_T | x_0), by the bridges of R, and steers R by the
potentials of the Schroedinger system, p_t = Psi Psihat, which are exponentials of quadratics:

    b+ = F x + u + D grad log Psi    (dt > 0)             current velocity  v = (b+ + b-) / 2, the probability flow
    b- = F x + u - D grad log Psihat    (dt < 0)          osmotic velocity      (b+ - b-) / 2 = D grad log p_t / 2
    KL(P || R) = KL(p || R_0) + E_p KL(P(x_T | x_0) || R(x_T | x_0)) = KL(p || R_0) + 1/2 int E |grad log Psi|_D^2 dt

Covariances of any rank do: from a point it is Foellmer's process, to a point the pinned bridge, for all t < T.
The bridge is Markov, and Gaussian: its transitions both ways are channels. Sources: PODB-76..82, PODB-85, PODB-86,
PODD-91; Chen, Georgiou and Pavon 2016, "Optimal transport over a linear dynamical system"; Bunne, Hsieh, Cuturi and
Krause 2023, "The Schroedinger bridge between Gaussian measures has a closed form".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator, points, real_array, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.dynamics import VelocityField
from refdiff.interpolants import InterpolantModel
from refdiff.operators import Operator, product
from refdiff.path_measures import AffineEquation, bridge_paths
from refdiff.processes import Chain, Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.gaussian_system import GaussianSystem
from refdiff.schroedinger.reference import ReferenceBridges, total
from refdiff.stochastic import StochasticEquation
from refdiff.transport import GaussianPlan, PairLaw

ONE = np.ones(())
TIMES = 32  # that an equation remembers: it is asked for drift and force one after the other


@dataclass(frozen=True, eq=False)
class GaussianBridge:
    """The Schroedinger bridge from one Gaussian to another.

    Points x have shape (..., d) and results follow their leading shape (float32 in, float32 out); t is one time.

    Args:
        p: the law at time 0, a Gaussian of any rank.
        q: the law at time T, a Gaussian of any rank.
        process: the reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.

    Attributes:
        plan: the law of (x_0, x_T) as an entropic coupling, with its potentials.
        interpolant: the bridges of the reference.

    Raises:
        TypeError: p or q is no Gaussian, or process no reference.
        ValueError: dimensions that differ, numbers out of range, or noise that does not reach every direction by T.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.schroedinger import GaussianBridge
        >>> bridge = GaussianBridge(Gaussian([0.0], 0.0), Gaussian([1.0], 1.0), 1.0)  # dx = dt + dw does it
        >>> print(bridge.forward_drift([0.3], 0.5).round(6), round(float(bridge.cost), 6))  # int |drift|^2 / 2
        [1.] 0.5
    """

    p: Gaussian
    q: Gaussian
    interpolant: ReferenceBridges
    plan: GaussianPlan

    def __init__(self, p: Gaussian, q: Gaussian, process: Process | Schedule | float, T: float | None = None) -> None:
        bridges = ReferenceBridges(process, T)
        plan = GaussianPlan(p, q, 1.0, bridges.overall)
        axes = bridges.process.axes
        if axes not in (None, p.dim):
            raise ValueError(f"p must have dimension {axes} like the process, got {p.dim}")
        for name, value in (("p", p), ("q", q), ("interpolant", bridges), ("plan", plan)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"GaussianBridge(R^{self.dim}, {self.process!r}, T = {self.T:g})"

    @property
    def dim(self) -> int:
        """d, the dimension of x."""
        return self.p.dim

    @property
    def T(self) -> float:
        """The final time."""
        return self.interpolant.T

    @property
    def process(self) -> Process:
        """The reference."""
        return self.interpolant.process

    @cached_property
    def system(self) -> GaussianSystem:
        """The Schroedinger system: Hessians of the potentials, transitions."""
        return GaussianSystem(self.interpolant, self.plan)

    @property
    def pairs(self) -> PairLaw:
        """The law of (x_0, x_T)."""
        return self.system.pairs

    @cached_property
    def model(self) -> InterpolantModel:
        """The pairs joined by the reference's bridges: marginals, current velocity, score."""
        return InterpolantModel(self.pairs, self.interpolant)

    # ------------------------------------------------------------------ laws

    def marginal(self, t: float) -> Gaussian:
        """p_t, the law of x_t."""
        return self.system.marginal(t)

    def joint(self, times: ArrayLike) -> Gaussian:
        """The law of x at increasing times (n,), one after the other in R^(n d).

        Raises:
            ValueError: times that do not increase within [0, T].
        """
        grid = real_array("times", times, ndim=(1,))
        if len(grid) < 1 or (np.diff(grid) <= 0).any() or grid[0] < 0 or grid[-1] > self.T:
            raise ValueError(f"times must increase within [0, {self.T}], got {grid}")
        first = self.marginal(float(grid[0]))
        if len(grid) == 1:
            return first
        return Chain([self.channel(s, t) for s, t in pairwise(grid.tolist())]).joint(first)

    def channel(self, s: float, t: float) -> Channel:
        """The channel from x_s to x_t, in either order: the bridge is Markov.

        Where x_s has no density, it is one that is right on the support of p_s.
        """
        start, end = (real_scalar(name, u, low=0, high=self.T) for name, u in (("s", s), ("t", t)))
        if start == end:
            return Channel()
        return self.system.reverse(end, start) if end < start else self.system.channel(start, end)

    def conditional_plan(self, x: ArrayLike) -> Gaussian:
        """The law of x_T given one x_0 = x of shape (d,), also where p has no mass.

        Raises:
            ValueError: x is not one point.
        """
        rows, _ = points("x", x, self.dim)
        if len(rows) != 1:
            raise ValueError(f"x must be one point, got {len(rows)}")
        return self.channel(0.0, self.T).at(rows[0])

    def sample_pairs(self, n: int, seed: int | np.random.Generator) -> tuple[Array, Array]:
        """`n` independent pairs (x_0, x_T) by a `seed`, each (n, d)."""
        return self.pairs.sample(n, seed)

    def sample(self, times: ArrayLike, n: int, seed: int | np.random.Generator) -> Array:
        """`n` exact paths at increasing times (m,) in [0, T] by a `seed`, shape (m, n, d)."""
        rng = generator(seed)
        starts, ends = self.sample_pairs(whole_number("n", n, low=1), rng)
        return bridge_paths(self.process, starts, ends, times, 0.0, self.T, rng)

    def log_density(self, x: ArrayLike, t: float) -> Any:
        """log p_t at points x (..., d), shape (...)."""
        return self.marginal(t).logpdf(x)

    def score(self, x: ArrayLike, t: float) -> Any:
        """grad log p_t at points x (..., d), shape (..., d)."""
        return self.marginal(t).score(x)

    # ------------------------------------------------------------------ the Schroedinger system

    def log_potentials(self, x: ArrayLike, t: float) -> tuple[Any, Any]:
        """log Psi and log Psihat at points x (..., d), each (...): log p_t is their sum; Psi is 1 at (m, 0).

        Raises:
            ValueError: p_t has no density, as at the end of a law without one.
        """
        rows, restore = points("x", x, self.dim)
        now = real_scalar("t", t, low=0, high=self.T)
        law = self.marginal(now)
        total_log, (gain, shift), w = law.logpdf(rows), self.system.forward(now), rows - law.means[0]
        forward = self.system.log_height(now) + w @ shift - 0.5 * (w * operators.apply(gain, w)).sum(axis=1)
        return restore(np.asarray(forward)), restore(np.asarray(total_log - forward))

    def forward_pull(self, x: ArrayLike, t: float) -> Any:
        """grad log Psi at points x (..., d), shape (..., d): what paths are steered by, times G'.

        Raises:
            ValueError: t = T, and q has no density.
        """
        rows, restore = points("x", x, self.dim)
        gain, shift = self.system.forward(real_scalar("t", t, low=0, high=self.T))
        return restore(np.asarray(shift - operators.apply(gain, rows - self.system.mean(t))))

    def backward_pull(self, x: ArrayLike, t: float) -> Any:
        """grad log Psihat at points x (..., d), shape (..., d).

        Raises:
            ValueError: t = 0, and p has no density.
        """
        rows, restore = points("x", x, self.dim)
        gain, shift = self.system.backward(real_scalar("t", t, low=0, high=self.T))
        return restore(np.asarray(shift - operators.apply(gain, rows - self.system.mean(t))))

    # ------------------------------------------------------------------ drifts and velocities

    def forward_drift(self, x: ArrayLike, t: float) -> Any:
        """b+ = F x + u + D grad log Psi at points x (..., d), shape (..., d)."""
        return self._moved(x, t, backward=False)

    def backward_drift(self, x: ArrayLike, t: float) -> Any:
        """b- = F x + u - D grad log Psihat at points x (..., d), shape (..., d): b+ - D grad log p_t."""
        return self._moved(x, t, backward=True)

    def velocity(self, x: ArrayLike, t: float) -> Any:
        """The current velocity (b+ + b-) / 2 at points x (..., d), shape (..., d): the probability flow's."""
        rows, restore = points("x", x, self.dim)
        return restore(0.5 * (self._moved(rows, t, backward=False) + self._moved(rows, t, backward=True)))

    def osmotic_velocity(self, x: ArrayLike, t: float) -> Any:
        """(b+ - b-) / 2 = D grad log p_t / 2 at points x (..., d), shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        d = self.process.diffusion(real_scalar("t", t, low=0, high=self.T))
        return restore(0.5 * operators.apply(d, self.score(rows, t)))

    def affine(self, *, backward: bool = False) -> AffineEquation:
        """The bridge as an equation with affine drift: dx = b+ dt + G dw, or b- and dt < 0 where time runs `backward`.

        G is the symmetric root of D, shape () or (d,) or (d, d).
        """

        @lru_cache(maxsize=TIMES)
        def parts(t: float) -> tuple[Operator, Array]:
            gain, shift = self.system.backward(t) if backward else self.system.forward(t)
            d = self.process.diffusion(t) * (-1.0 if backward else 1.0)
            around = shift + operators.apply(gain, self.system.mean(t))
            linear = total(self.process.drift(t), -product(d, gain))
            return linear, np.asarray(self.process.force(t) + operators.apply(d, around))

        return AffineEquation(
            lambda t: parts(t)[0],
            lambda t: parts(t)[1],
            lambda t: operators.root(self.process.diffusion(t)),
            self.dim,
        )

    def equation(self, *, backward: bool = False) -> StochasticEquation:
        """dx = b+ dt + G dw, or dx = b- dt + G dw with dt < 0 where time runs `backward`."""
        affine = self.affine(backward=backward)

        def drift(x: Array, t: float) -> Array:
            return np.asarray(self._moved(x, t, backward=backward))

        return StochasticEquation(drift, affine.noise_at, self.dim, linear=affine.linear_at)

    def field(self) -> VelocityField:
        """The current velocity as a field: its flow from p has the law p_t at every time."""
        return self.model.field()

    # ------------------------------------------------------------------ what it costs

    @property
    def cost(self) -> float:
        """KL(P || R) for a reference that starts with p, in nats: infinite where q has no density.

        E_p KL(P(x_T | x_0) || R(x_T | x_0)), the divergence of the coupling from that of R.
        """
        given = self.system.given_first
        if Gaussian(self.q.means[0], given).covariances.singular:
            return np.inf
        a, s = self.interpolant.overall.gain, self.interpolant.precision
        kept = product(total(ONE, -product(given, s)), a)
        within = kl_divergence(*(Gaussian(np.zeros(self.dim), c) for c in (given, self.interpolant.overall.noise)))
        spread = _trace(product(s, operators.sandwich(kept, self.p.covariance)), self.dim)
        return float(within + 0.5 * (spread + self.system.costate @ self.system.gap))

    def divergence(self, start: Gaussian) -> float:
        """KL(P || R) = KL(p || R_0) + `cost` for a reference that starts with the law R_0 = `start`.

        Raises:
            TypeError: start is no Gaussian.
            ValueError: another dimension, or a law without density.
        """
        return kl_divergence(self.p, start) + self.cost

    def effort(self, t: float) -> float:
        """E |G' grad log Psi|^2 / 2 at a time t, nats per unit of time: its integral is the cost."""
        now = real_scalar("t", t, low=0, high=self.T)
        (gain, shift), d = self.system.forward(now), self.process.diffusion(now)
        spread = operators.sandwich(gain, self.marginal(now).covariance)
        return float(0.5 * (shift @ operators.apply(d, shift) + _trace(product(d, spread), self.dim)))

    # ------------------------------------------------------------------ parts

    def _moved(self, x: ArrayLike, t: float, *, backward: bool) -> Any:
        """b+ or b- at points x (..., d)."""
        rows, restore = points("x", x, self.dim)
        now = real_scalar("t", t, low=0, high=self.T)
        gain, shift = self.system.backward(now) if backward else self.system.forward(now)
        pull = shift - operators.apply(gain, rows - self.system.mean(now))
        steered = operators.apply(self.process.diffusion(now), pull)
        free = operators.apply(self.process.drift(now), rows) + self.process.force(now)
        return restore(np.asarray(free - steered if backward else free + steered))


def _trace(a: Operator, dim: int) -> float:
    return float(np.trace(operators.dense(a, dim)))
