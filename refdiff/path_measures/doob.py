r"""Doob's h-transform: paths conditioned on, or weighted by, where they end.

    h(x, t) = E[phi(x_e) | x_t = x],    d_t h + L h = 0           dP^h/dP = h(x_e, e) / h(x_s, s)
    dx = [b + D grad log h] dt + G dw                             b - D grad log h where time runs to data

For linear processes, (K, k, N) the channel from t to e, and an end

    weighted by a mixture density phi    h = (phi * N(0, N))(K x + k), x_e | x_t = x by Bayes     `EndWeight`
    pinned                               the same with phi a point                            `bridges.PinnedBridge`
    of a law q, all paths from one x_s   h = q_t(x) / p(x | x_s), q_t = q pushed through the bridges   `EndLaw`

and in each case grad log h = K' N^-1 (E[x_e | x_t = x] - K x - k): the pull of the bridge to the expected end. The last
makes any law from a point (Schroedinger and Foellmer's process, at the least KL(P^h || P) = KL(q || p_e)). Reversed
diffusion with h = p(x_0 | x_t = x) is the reversal for the data point x_0: that posterior is Doob's transform.
Sources: PODB-07, PODB-76, PODB-80, PODA-213, PODD-89; Doob 1957; Foellmer 1985.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, answered, points, real_array, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.objectives.reverse import whole
from refdiff.path_measures.bridges import between, bridge_paths, end_pull
from refdiff.processes import Process
from refdiff.schedules import Schedule
from refdiff.stochastic.equation import StochasticEquation
from refdiff.stochastic.families import forward_equation


class Weight(Protocol):
    """A function h > 0 of points and time, by its logarithm."""

    def log_h(self, x: ArrayLike, t: float) -> Any:
        """log h at points x (..., d) of a time t, shape (...)."""

    def gradient(self, x: ArrayLike, t: float) -> Any:
        """grad log h at points x (..., d) of a time t, shape (..., d)."""


def doob(
    equation: StochasticEquation, gradient: Callable[[Array, float], ArrayLike], *, to_data: bool = False
) -> StochasticEquation:
    """dx = [b + D grad log h] dt + G dw, or b - D grad log h where time runs to data.

    Args:
        equation: dx = b dt + G dw.
        gradient: (x, t) -> grad log h at points x (n, d), shape (n, d).
        to_data: whether time runs backwards, dt < 0.

    Raises:
        TypeError: no equation, or gradient is no function.
    """
    if not isinstance(equation, StochasticEquation):
        raise TypeError(f"equation must be a StochasticEquation, got {equation!r}")
    if not callable(gradient):
        raise TypeError(f"gradient must be a function, got {gradient!r}")
    sign = -1.0 if to_data else 1.0

    def drift(x: Array, t: float) -> Array:
        pull = answered("gradient", gradient(x, t), x.shape, finite=True)
        d = equation.covariance_rate(x, t)
        moved = np.einsum("nij,nj->ni", d, pull) if d.ndim == 3 else d * pull if not equation.additive else None
        return equation.drift_at(x, t) + sign * (operators.apply(d, pull) if moved is None else moved)

    return StochasticEquation(drift, equation.noise, equation.dim, equation.additive, equation.motions)


@dataclass(frozen=True, eq=False)
class EndWeight:
    """A linear process whose paths are weighted by phi(x_e), phi the density of a law, or pinned to points.

    Args:
        process: a Process or a Schedule.
        law: phi, a mixture with or without a density: an Empirical pins the end to its points.
        e: the end, T unless given.

    Raises:
        TypeError: no process, or no law.
        ValueError: a time outside [0, T], or dimensions that do not fit.
    """

    process: Process
    law: GaussianMixture
    e: float

    def __init__(self, process: Process | Schedule, law: GaussianMixture, e: float | None = None) -> None:
        _fill(self, process, law, e)

    def log_h(self, x: ArrayLike, t: float) -> Any:
        """log h = log (phi * N(0, N))(K x + k) at points x (..., d), shape (...)."""
        rows, restore = points("x", x, self.law.dim)
        step, seen = self._seen(t)
        return restore(seen.logpdf(operators.apply(step.gain, rows) + step.offset))

    def gradient(self, x: ArrayLike, t: float) -> Any:
        """grad log h = K' grad log (phi * N(0, N))(K x + k) at points x (..., d) of a time t, shape (..., d)."""
        rows, restore = points("x", x, self.law.dim)
        step, seen = self._seen(t)
        return restore(operators.apply(step.gain.T, seen.score(operators.apply(step.gain, rows) + step.offset)))

    def equation(self) -> StochasticEquation:
        """dx = [F x + u + D grad log h] dt + G dw."""
        return doob(forward_equation(self.process, self.law.dim), self.gradient)

    def end_law(self, start: ArrayLike, s: float = 0.0) -> GaussianMixture:
        """The law of x_e for paths from x_s = start (d,): phi reweighted by p(x_e | x_s), at its time s."""
        step = self.process.channel(real_scalar("s", s, low=0, high=self.e), self.e)
        x = real_array("start", start, ndim=(1,))
        seen = Channel(1.0, 0.0, step.noise)
        return seen.posterior(self.law, operators.apply(step.gain, x) + step.offset)

    def marginal(self, t: float, start: ArrayLike, s: float = 0.0) -> GaussianMixture:
        """The law of x_t for paths from x_s = start (d,), s <= t <= e."""
        return _through_bridges(self.process, self.end_law(start, s), real_array("start", start), s, t, self.e)

    def sample(
        self, times: ArrayLike, start: ArrayLike, n: int, seed: int | np.random.Generator, s: float = 0.0
    ) -> Array:
        """`n` exact paths from x_s = start (d,) at increasing times (m,) in [s, e] by a `seed`, shape (m, n, d)."""
        return _sampled(self.process, self.end_law(start, s), times, start, n, seed, s, self.e)

    def _seen(self, t: float) -> tuple[Channel, GaussianMixture]:
        """The channel to the end, and phi blurred by its noise."""
        step = self.process.channel(real_scalar("t", t, low=0, high=self.e), self.e)
        return step, self.law.convolve(step.noise)


@dataclass(frozen=True, eq=False)
class EndLaw:
    """A linear process from one point x_s, transformed so that x_e follows a law.

    Args:
        process: a Process or a Schedule.
        law: q, a mixture with or without a density.
        start: x_s, shape (d,).
        s: its time.
        e: the end, T unless given.

    Raises:
        TypeError: no process, or no law.
        ValueError: times or dimensions that do not fit.

    Examples:
        >>> from refdiff import Gaussian, VEPower
        >>> from refdiff.path_measures import EndLaw
        >>> foellmer = EndLaw(VEPower(power=0.5, T=1.0), Gaussian([1.0], 1.0), [0.0])  # from 0 to N(1, 1)
        >>> print(foellmer.gradient([[0.7]], 0.5).round(6), foellmer.marginal(0.5).mean().round(6))  # 1 for all x
        [[1.]] [0.5]
    """

    process: Process
    law: GaussianMixture
    e: float
    start: Array
    s: float

    def __init__(
        self,
        process: Process | Schedule,
        law: GaussianMixture,
        start: ArrayLike,
        s: float = 0.0,
        e: float | None = None,
    ) -> None:
        _fill(self, process, law, e)
        point = real_array("start", start, ndim=(1,))
        if len(point) != law.dim:
            raise ValueError(f"start must have shape ({law.dim},) like the law, got {point.shape}")
        object.__setattr__(self, "start", point)
        object.__setattr__(self, "s", real_scalar("s", s, low=0, high=self.e))

    def log_h(self, x: ArrayLike, t: float) -> Any:
        """log h = log q_t(x) - log p(x | x_s) at points x (..., d) of a time t > s, shape (...)."""
        rows, restore = points("x", x, self.law.dim)
        now = real_scalar("t", t, low=self.s, high=self.e, open_low=True)  # at s there is no density but at the start
        before = self.process.channel(self.s, now).at(self.start)
        return restore(self.marginal(now).logpdf(rows) - before.logpdf(rows))

    def gradient(self, x: ArrayLike, t: float) -> Any:
        """grad log h = K' N^-1 (E[x_e | x_t = x] - K x - k) at points x (..., d) of a time t < e, shape (..., d).

        At the time s it is that of the start itself, where all paths are. Late on the way, where it is a small
        difference over a small N, it is taken as that of two scores, grad log q_t - grad log p(x | x_s), if q has a
        density; these cancel early.
        """
        rows, restore = points("x", x, self.law.dim)
        now = real_scalar("t", t, low=self.s, high=self.e)
        if now > 0.5 * (self.s + self.e) and not self.law.covariances.singular:
            before = self.process.channel(self.s, now).at(self.start)
            return restore(self.marginal(now).score(rows) - before.score(rows))
        if now == self.s:  # nothing is known of the end yet
            expected = np.broadcast_to(self.law.mean(), rows.shape)
        else:
            link = between(self.process, self.s, now, self.e).given(self.start)
            expected = link.posterior_mean(self.law, rows)
        return restore(end_pull(self.process, rows, now, self.e, expected))

    def equation(self) -> StochasticEquation:
        """dx = [F x + u + D grad log h] dt + G dw, for times in [s, e)."""
        return doob(forward_equation(self.process, self.law.dim), self.gradient)

    def marginal(self, t: float) -> GaussianMixture:
        """q_t, the law of x_t, s <= t <= e."""
        return _through_bridges(self.process, self.law, self.start, self.s, t, self.e)

    def sample(self, times: ArrayLike, n: int, seed: int | np.random.Generator) -> Array:
        """`n` exact paths at increasing times (m,) in [s, e] by a `seed`, shape (m, n, d)."""
        return _sampled(self.process, self.law, times, self.start, n, seed, self.s, self.e)


def _fill(found: Any, process: Process | Schedule, law: GaussianMixture, e: float | None) -> None:
    """The process, the law at the end and its time, checked."""
    process = whole(process)
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"law must be a Gaussian, GaussianMixture or Empirical, got {law!r}")
    if process.axes not in (None, law.dim):
        raise ValueError(f"law must have dimension {process.axes} like the process, got {law.dim}")
    late = process.T if e is None else real_scalar("e", e, low=0, high=process.T, open_low=True)
    for name, value in (("process", process), ("law", law), ("e", late)):
        object.__setattr__(found, name, value)


def _through_bridges(
    process: Process, law: GaussianMixture, start: Array, s: float, t: float, e: float
) -> GaussianMixture:
    """The law of x_t for paths from x_s = start whose x_e follows a law and which are bridges between."""
    now = real_scalar("t", t, low=s, high=e)
    if now == e:
        return law
    if now == s:
        return Gaussian(start, 0.0)
    return between(process, s, now, e).given(start).push(law)


def _sampled(
    process: Process,
    law: GaussianMixture,
    times: ArrayLike,
    start: ArrayLike,
    n: int,
    seed: int | np.random.Generator,
    s: float,
    e: float,
) -> Array:
    """Ends drawn from a law, and bridges to them, shape (m, n, d)."""
    rng = np.random.default_rng(seed) if not isinstance(seed, np.random.Generator) else seed
    count = whole_number("n", n, low=1)
    ends = law.sample(count, rng)
    starts = np.broadcast_to(real_array("start", start, ndim=(1,)), ends.shape)
    return bridge_paths(process, starts, ends, times, s, e, rng)
