r"""Bridges with a law at one end and a potential at the other: half bridges, diffusion models, benchmarks for solvers.

    x_0 ~ p,   x_T | x_0 ~ p(y | x_0) Psi_T(y) / Psi(x_0, 0)          given the first law
    x_T ~ q,   x_0 | x_T ~ Psihat_0(x) p(x_T | x) / Psihat(x_T, T)    given the second one

Each is the Schroedinger bridge of its own two ends, since Psihat_0 = p / Psi(., 0). Its steering, its pairs and its
paths are exact for any law, one that can only be sampled well among them; the law of the other end is a mixture where
the law given is of points or the potential has one term, and an expectation elsewhere.

    Psi_T = 1                    the reference from p: the forward half bridge, KL(P || R) = KL(p || R_0), a diffusion
                                 model with Psihat = p_t, whose backward drift is F x + u - D grad log p_t
    Psihat_0 = R_0, given q      the reference weighted by its end: the backward half bridge, KL(P || R) = KL(q || R_T)
    Psi_T a mixture times e^(|y|^2 / 2 eps T)    the benchmark of Gushchin et al., solved by LightSB

Sources: PODB-89, PODB-90, PODB-91, PODB-92; Gushchin et al. 2023, "Building the bridge of Schroedinger: a continuous
entropic optimal transport benchmark"; Korotin, Gushchin and Burnaev 2024, "Light Schroedinger bridge".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator, one_of, points, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.mixture import law as law_of
from refdiff.distributions.moments import log_total
from refdiff.dynamics import VelocityField
from refdiff.expectations import Estimate, Route, expectation
from refdiff.path_measures import bridge_paths
from refdiff.processes import Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.mixtures import MixtureBridge, drifting, fill
from refdiff.schroedinger.plans import ends_drawn, ends_given, plan_given, turned
from refdiff.schroedinger.potentials import ExponentialSum, Potential, earlier, inside, later, of_points
from refdiff.stochastic import StochasticEquation, forward_equation
from refdiff.transport import PairLaw
from refdiff.transport.pairs import image_pairs

SIDES = ("first", "second")


@dataclass(frozen=True, eq=False)
class OneSidedBridge:
    """The Schroedinger bridge from a law, steered by a potential at the other end.

    Points x have shape (..., d) and results follow their leading shape (float32 in, float32 out); t is one time.

    Args:
        law: p or q, a mixture with or without a density.
        potential: Psi_T or Psihat_0 up to a factor: a mixture or point set, or an ExponentialSum.
        process: the reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.
        given: "first" where the law is p, of x_0; "second" where it is q, of x_T.

    Raises:
        TypeError: a law, a potential or a reference that is none.
        ValueError: dimensions that differ, a side that is none, or a reference that forgets x_0, where x_T is given.
    """

    law: GaussianMixture
    potential: Potential
    process: Process
    T: float
    given: str

    def __init__(
        self,
        law: GaussianMixture,
        potential: Potential,
        process: Process | Schedule | float,
        T: float | None = None,
        *,
        given: str = "first",
    ) -> None:
        if not isinstance(law, GaussianMixture):
            raise TypeError(f"law must be a Gaussian, GaussianMixture or Empirical, got {law!r}")
        if not isinstance(potential, (GaussianMixture, ExponentialSum)):
            raise TypeError(f"potential must be a mixture, a point set or an ExponentialSum, got {potential!r}")
        if law.dim != potential.dim:
            raise ValueError(f"potential must have the dimension {law.dim} of the law, got {potential.dim}")
        fill(self, process, T, law.dim)
        side = one_of("given", given, SIDES)
        for name, value in (("law", law), ("potential", potential), ("given", side)):
            object.__setattr__(self, name, value)
        _ = self.away  # a reference that cannot be turned round is refused here

    def __repr__(self) -> str:
        return f"OneSidedBridge(R^{self.dim}, {self.given} law given, {self.potential.count} terms, T = {self.T:g})"

    @property
    def dim(self) -> int:
        """d, the dimension."""
        return self.law.dim

    @cached_property
    def away(self) -> Channel:
        """From the end whose law is given to the other one: x_0 -> x_T, or p(x_T | x) as a density of x."""
        step = self.process.channel(0.0, self.T)
        return step if self.given == "first" else turned(step, self.dim)

    # ------------------------------------------------------------------ laws

    def conditional_plan(self, x: ArrayLike) -> GaussianMixture:
        """The law of the other end given x of shape (d,) at the end whose law is given."""
        where, _ = points("x", x, self.dim)
        return plan_given(self.away, self.potential, where)

    def closed(self) -> MixtureBridge:
        """The bridge with its other potential, where the law is of points.

        Raises:
            ValueError: the law has variances.
        """
        if not of_points(self.law):
            raise ValueError(f"law must be of points for a closed form, got {self.law!r}")
        step = self.process.channel(0.0, self.T)
        known, _ = (earlier if self.given == "first" else later)(self.potential, step, self.law.means)
        logs = self.law.log_weights - known
        mine = law_of(logs - log_total(logs[None])[0], self.law.means, self.law.covariances)
        first, second = (mine, self.potential) if self.given == "first" else (self.potential, mine)
        return MixtureBridge(first, second, self.process, self.T)

    @cached_property
    def pairs(self) -> PairLaw:
        """The law of (x_0, x_T), where it is a mixture.

        Raises:
            ValueError: it is none, as the law is not of points and the potential has more than one term.
        """
        if of_points(self.law):
            return self.closed().pairs
        found = image_pairs(self.law, self._one_term(self.away, self.potential))
        return found if self.given == "first" else found.swapped()

    def marginal(self, t: float) -> GaussianMixture:
        """p_t, the law of x_t: that given at its own time, elsewhere where `pairs` are a mixture."""
        now = real_scalar("t", t, low=0, high=self.T)
        if now == self._own:
            return self.law
        if of_points(self.law):
            return self.closed().marginal(now)
        forward = self.given == "first"
        step = self.process.channel(0.0, now) if forward else turned(self.process.channel(now, self.T), self.dim)
        return self._one_term(step, self._carried(now)).push(self.law)

    def sample_pairs(self, n: int, seed: int | np.random.Generator) -> tuple[Array, Array]:
        """`n` independent pairs (x_0, x_T) by a `seed`, each (n, d): exact for every law."""
        rng = generator(seed)
        known = self.law.sample(whole_number("n", n, low=1), rng)
        made = ends_drawn(self.away, self.potential, known, rng)
        return (known, made) if self.given == "first" else (made, known)

    def sample(self, times: ArrayLike, n: int, seed: int | np.random.Generator) -> Array:
        """`n` exact paths at increasing times (m,) in [0, T] by a `seed`, shape (m, n, d)."""
        rng = generator(seed)
        x, y = self.sample_pairs(n, rng)
        return bridge_paths(self.process, x, y, times, 0.0, self.T, rng)

    # ------------------------------------------------------------------ potentials

    def log_potential(self, x: ArrayLike, t: float) -> Any:
        """log Psi, or log Psihat where the second law is given, at points x (..., d), shape (...): for every law."""
        rows, restore = points("x", x, self.dim)
        return restore(self._known(rows, t)[0])

    def log_potentials(self, x: ArrayLike, t: float, route: Route | None = None) -> tuple[Any, Any]:
        """log Psi and log Psihat at points x (..., d), each (...): one of them by the density and its `route`."""
        rows, restore = points("x", x, self.dim)
        known, density = self._known(rows, t)[0], self.log_density(rows, t, route)
        other = np.asarray(density.value if isinstance(density, Estimate) else density) - known
        return (restore(known), restore(other)) if self.given == "first" else (restore(other), restore(known))

    def log_density(self, x: ArrayLike, t: float, route: Route | None = None) -> Any:
        """log p_t at points x (..., d), shape (...); by a route an Estimate, with its error.

        Args:
            x: the points.
            t: the time.
            route: how E p(x_t = x | x_0), or given x_T, is taken over the law; none where `pairs` are a mixture.
        """
        rows, restore = points("x", x, self.dim)
        if (law := self._closed_at(t, route)) is not None:
            logs = restore(np.asarray(law.logpdf(rows)))
            return logs if route is None else Estimate(logs, np.zeros_like(logs), "closed")
        found = expectation(self.law, lambda known: np.exp(self._given(known, rows, t)), route)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs, error = np.log(found.value), np.asarray(found.error) / found.value
        return Estimate(restore(logs), restore(error), found.route)

    def score(self, x: ArrayLike, t: float, route: Route | None = None) -> Any:
        """grad log p_t at points x (..., d), shape (..., d), by a `route` where `pairs` are no mixture."""
        rows, restore = points("x", x, self.dim)
        if (law := self._closed_at(t, route)) is not None:
            return restore(np.asarray(law.score(rows)))
        pull = self._known(rows, t)[1]

        def both(known: Array) -> Array:
            share = np.exp(self._given(known, rows, t))[..., None]
            return np.concatenate([share, share * (pull + self._free(known, rows, t)[1])], axis=-1)

        found = np.asarray(expectation(self.law, both, route).value)
        return restore(found[:, 1:] / found[:, :1])

    # ------------------------------------------------------------------ dynamics: away from the law without a density

    def forward_pull(self, x: ArrayLike, t: float, route: Route | None = None) -> Any:
        """grad log Psi at points x (..., d), shape (..., d): given the second law, by the score and its `route`."""
        rows, restore = points("x", x, self.dim)
        return restore(self._pull(rows, t, "first", route))

    def backward_pull(self, x: ArrayLike, t: float, route: Route | None = None) -> Any:
        """grad log Psihat at points x (..., d), shape (..., d): given the first law, by the score and its `route`."""
        rows, restore = points("x", x, self.dim)
        return restore(self._pull(rows, t, "second", route))

    def forward_drift(self, x: ArrayLike, t: float, route: Route | None = None) -> Any:
        """F x + u + D grad log Psi at points x (..., d), shape (..., d), by a `route` as of `forward_pull`."""
        rows, restore = points("x", x, self.dim)
        return restore(drifting(self.process, rows, t, self._pull(rows, t, "first", route)))

    def backward_drift(self, x: ArrayLike, t: float, route: Route | None = None) -> Any:
        """F x + u - D grad log Psihat at points x (..., d), shape (..., d), by a `route` as of `backward_pull`."""
        rows, restore = points("x", x, self.dim)
        return restore(drifting(self.process, rows, t, -self._pull(rows, t, "second", route)))

    def velocity(self, x: ArrayLike, t: float, route: Route | None = None) -> Any:
        """The current velocity, the mean of both drifts, at points x (..., d), shape (..., d), by a `route` or not."""
        rows, restore = points("x", x, self.dim)
        pull = self._known(rows, t)[1] - 0.5 * np.asarray(self.score(rows, t, route))
        return restore(drifting(self.process, rows, t, pull if self.given == "first" else -pull))

    def equation(self, *, backward: bool = False, route: Route | None = None) -> StochasticEquation:
        """dx = b dt + G dw with the forward drift, dt > 0, or with the `backward` one, dt < 0.

        Args:
            backward: whether time runs backwards; away from the law that is given, the drift is closed for every law.
            route: how the score is taken on the way to that law where `pairs` are no mixture.

        Raises:
            ValueError: there is no route where one is needed.
        """
        if backward == (self.given == "first") and route is None and not of_points(self.law):
            self._one_term(self.away, self.potential)
        drift = self.backward_drift if backward else self.forward_drift
        base = forward_equation(self.process, self.dim)
        return StochasticEquation(lambda x, t: np.asarray(drift(x, t, route)), base.noise, self.dim, linear=base.linear)

    def field(self, route: Route | None = None) -> VelocityField:
        """The current velocity as a field, by a `route` where `pairs` are no mixture."""
        return VelocityField(lambda x, t: self.velocity(x, t, route), self.dim)

    # ------------------------------------------------------------------ parts

    @property
    def _own(self) -> float:
        """The time of the law that is given."""
        return 0.0 if self.given == "first" else self.T

    def _one_term(self, step: Channel, potential: Potential) -> Channel:
        """The channel from the end whose law is given, for a potential of one term at the end of a `step`.

        Raises:
            ValueError: it has more than one.
        """
        channels = ends_given(step, potential)
        if len(channels) > 1:
            raise ValueError("potential must have one term, or the law be of points, for a closed form, got "
                             f"{len(channels)} terms: give a route, or ask sample_pairs")  # fmt: skip
        return channels[0]

    def _carried(self, t: float) -> Potential:
        """The potential at a time, t > 0 where the second law is given and t < T of points."""
        kept = self.potential
        if self.given == "second":
            step = self.process.channel(0.0, t)
            return step.push(kept) if isinstance(kept, GaussianMixture) else kept.after(step)
        step = self.process.channel(t, self.T)
        if t == self.T or isinstance(kept, ExponentialSum):
            return kept if isinstance(kept, GaussianMixture) else kept.before(step)
        return ExponentialSum.density(kept.convolve(step.noise)).before(Channel(step.gain, step.offset))

    def _closed_at(self, t: float, route: Route | None) -> GaussianMixture | None:
        """p_t where no route is needed or given."""
        return self.marginal(t) if route is None or t == self._own else None

    def _pull(self, x: Array, t: float, side: str, route: Route | None) -> Array:
        """The gradient of log Psi, from the "first" law, or of log Psihat, from the "second" one."""
        known = self._known(x, t)[1]
        return known if side == self.given else np.asarray(self.score(x, t, route)) - known

    def _known(self, x: Array, t: float) -> tuple[Array, Array]:
        """The logarithm of the potential at a time and its gradient."""
        now = inside(self.potential, real_scalar("t", t, low=0, high=self.T), self.T - self._own)
        if self.given == "first":
            return earlier(self.potential, self.process.channel(now, self.T), x)
        return later(self.potential, self.process.channel(0.0, now), x)

    def _given(self, known: Array, x: Array, t: float) -> Array:
        """log p(x_t = x | known end) at points x (m, d) for ends (n, d), shape (n, m)."""
        start = self._known(known, self._own)[0]
        return np.asarray(self._free(known, x, t)[0] + self._known(x, t)[0] - start[:, None])

    def _free(self, known: Array, x: Array, t: float) -> tuple[Array, Array]:
        """log p(x | x_0) or log p(x_T | x) for ends (n, d) and points x (m, d), (n, m), with its gradient at x."""
        step = self.process.channel(0.0, t) if self.given == "first" else self.process.channel(t, self.T)
        start, end = (known[:, None], x[None]) if self.given == "first" else (x[None], known[:, None])
        left = end - operators.apply(step.gain, start) - step.offset
        noise = Gaussian(np.zeros(self.dim), step.noise)
        pull = np.asarray(noise.score(left))
        return np.asarray(noise.logpdf(left)), pull if self.given == "first" else -operators.apply(step.gain.T, pull)


def forward_half_bridge(
    p: GaussianMixture, process: Process | Schedule | float, T: float | None = None
) -> OneSidedBridge:
    """Of all P with P_0 = p the nearest to R: R started from p, at KL(P || R) = KL(p || R_0).

    Args:
        p: the law of x_0.
        process: the reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.

    Raises:
        TypeError: p is no law, or process no reference.
    """
    if not isinstance(p, GaussianMixture):
        raise TypeError(f"p must be a Gaussian, GaussianMixture or Empirical, got {p!r}")
    return OneSidedBridge(p, ExponentialSum.flat(p.dim), process, T)


def backward_half_bridge(
    q: GaussianMixture, start: GaussianMixture, process: Process | Schedule | float, T: float | None = None
) -> OneSidedBridge:
    """Of all P with P_T = q the nearest to R: R reversed from q, at KL(P || R) = KL(q || R_T).

    Args:
        q: the law of x_T.
        start: R_0, the law that R starts from.
        process: the reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.
    """
    return OneSidedBridge(q, start, process, T, given="second")
