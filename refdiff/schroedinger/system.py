r"""The Schroedinger system as a test of anyone's potentials, and what a bridge costs by its potentials.

    d_t Psi    = -f . grad Psi - 1/2 tr(D Hess Psi)              Psi Psihat = p at 0,  q at T
    d_t Psihat = -div(f Psihat) + 1/2 tr(D Hess Psihat)          f = F x + u

The first for l = log Psi is d_t l + f . grad l + 1/2 tr(D Hess l) + 1/2 |grad l|_D^2 = 0, and so on. Residuals are
relative to the sum of the sizes of the terms: 1 means that nothing cancels. (k Psi, Psihat / k) has those of (Psi,
Psihat). Along the bridge log Psi is a martingale but for what steering costs,

    E log Psi(x_t, t) - E log Psi(x_s, s) = 1/2 E int_s^t |grad log Psi|_D^2 = KL(P || R) on [s, t], R started from p_s

which is infinite at T where the end has no density, as a point set. Sources: PODB-76, PODB-77, PODB-79; Chen, Georgiou
and Pavon 2016, "On the relation between optimal transport and Schroedinger bridges".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, answered, points, real_scalar
from refdiff.distributions import GaussianMixture
from refdiff.expectations import Estimate, Route, expectation
from refdiff.processes import Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.gaussian import GaussianBridge
from refdiff.schroedinger.mixtures import MixtureBridge
from refdiff.schroedinger.potentials import earlier, of_points
from refdiff.schroedinger.reference import reference_process
from refdiff.stochastic import forward_equation

LogPotentials = Callable[[Array, float], tuple[Any, Any]]
# 8th-order central differences: f' ~ sum_k c_k (f_k - f_-k) / h,  f'' ~ (sum_k e_k (f_k + f_-k) + e_0 f_0) / h^2
FIRST = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
SECOND, CENTRE = (8 / 5, -1 / 5, 8 / 315, -1 / 560), -205 / 72


class Residuals(NamedTuple):
    """What is left of an equation for each of both potentials, relative to the sizes of its terms.

    Attributes:
        forward: of log Psi, shape (...); or of the marginal at 0.
        backward: of log Psihat, shape (...); or of the marginal at T.
    """

    forward: Any
    backward: Any


@dataclass(frozen=True, eq=False)
class SchroedingerSystem:
    """The equations that the potentials of a bridge from p to q obey.

    Args:
        p: the law at time 0, with a density.
        q: the law at time T, with a density.
        process: the reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.

    Raises:
        TypeError: p or q is no law, or process no reference.
        ValueError: dimensions that differ.
    """

    p: GaussianMixture
    q: GaussianMixture
    process: Process
    T: float

    def __init__(
        self, p: GaussianMixture, q: GaussianMixture, process: Process | Schedule | float, T: float | None = None
    ) -> None:
        for name, one in (("p", p), ("q", q)):
            if not isinstance(one, GaussianMixture):
                raise TypeError(f"{name} must be a Gaussian, GaussianMixture or Empirical, got {one!r}")
        if p.dim != q.dim:
            raise ValueError(f"q must have the dimension {p.dim} of p, got {q.dim}")
        whole, end = reference_process(process, T)
        for name, value in (("p", p), ("q", q), ("process", whole), ("T", end)):
            object.__setattr__(self, name, value)

    def residuals(
        self, log_potentials: LogPotentials, x: ArrayLike, t: float, *, step: float = 0.01, lapse: float | None = None
    ) -> Residuals:
        """Of both equations at points x (..., d) and a time t, each (...), by central differences of order 8.

        Args:
            log_potentials: (x, t) -> log Psi and log Psihat at points (n, d), each (n,), as bridges answer.
            x: the points.
            t: the time, four lapses away from 0 and T.
            step: of the differences in x, a fiftieth of the length over which the potentials bend.
            lapse: of those in time, T / 200 unless given.
        """
        rows, restore = points("x", x, self.p.dim)
        h = real_scalar("step", step, low=0, open_low=True)
        k = real_scalar("lapse", self.T / 200 if lapse is None else lapse, low=0, high=self.T / 8, open_low=True)
        now = real_scalar("t", t, low=4 * k, high=self.T - 4 * k)
        free = forward_equation(self.process, self.p.dim).drift_at(rows, now)
        root = operators.dense(operators.root(self.process.diffusion(now)), self.p.dim)
        divergence = float(np.trace(operators.dense(self.process.drift(now), self.p.dim)))
        rate = _slope(lambda s: _both(log_potentials, rows, now + s), k)
        carried = _slope(lambda s: _both(log_potentials, rows + s * free, now), h / (1 + np.abs(free).max()))
        bent, square = np.zeros_like(rate), np.zeros_like(rate)
        for direction in root.T[root.any(axis=0)]:
            size = h / float(np.linalg.norm(direction))

            def along(s: float, direction: Array = direction) -> Array:
                return _both(log_potentials, rows + s * direction, now)

            bent += 0.5 * _bend(along, size)
            square += 0.5 * _slope(along, size) ** 2
        terms = np.stack([rate, carried, np.full_like(rate, divergence), bent, square])
        # rate + f . grad (+ div f of Psihat) +- the two terms of noise
        signs = np.array([[1.0, 1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, -1.0, -1.0]])
        weighed = signs.T[:, :, None] * terms
        found = np.abs(weighed.sum(axis=0)) / np.maximum(np.abs(weighed).sum(axis=0), np.finfo(float).tiny)
        return Residuals(restore(found[0]), restore(found[1]))

    def end_residuals(self, log_potentials: LogPotentials, x: ArrayLike) -> Residuals:
        """log Psi + log Psihat - log p at 0 and - log q at T, at points x (..., d), each (...).

        Args:
            log_potentials: (x, t) -> log Psi and log Psihat at points (n, d), each (n,).
            x: the points.
        """
        rows, restore = points("x", x, self.p.dim)
        sums = (_both(log_potentials, rows, t).sum(axis=0) for t in (0.0, self.T))
        first, last = (total - law.logpdf(rows) for total, law in zip(sums, (self.p, self.q), strict=True))
        return Residuals(restore(first), restore(last))


def steering_cost(
    bridge: MixtureBridge | GaussianBridge, route: Route | None = None, start: float = 0.0, end: float | None = None
) -> Estimate:
    """E log Psi(x_t, t) - E log Psi(x_s, s) of a bridge: what it costs on [s, t], KL(P || R) for R started from p_s.

    Args:
        bridge: a MixtureBridge or a GaussianBridge.
        route: how expectations over mixtures p_s and p_t are taken; over points and Gaussians' bridges none is needed.
        start, end: s and t, 0 and T unless given.

    Raises:
        TypeError: it is neither.
        ValueError: times out of order, or no route where one is needed.
    """
    last = _known(bridge).T
    late = real_scalar("end", last if end is None else end, low=0, high=last)
    early = real_scalar("start", start, low=0, high=late)
    if late == last and early < late and _pinned(bridge):
        return Estimate(np.inf, 0.0, "closed")
    sides = [_height(bridge, t, route) for t in (early, late)]
    return Estimate(float(sides[1].value - sides[0].value), float(sides[0].error + sides[1].error), sides[1].route)


def steering_effort(bridge: MixtureBridge | GaussianBridge, t: float, route: Route | None = None) -> Estimate:
    """E |grad log Psi|_D^2 / 2 of a bridge at a time t, nats per unit of time: its integral is the cost.

    Args:
        bridge: a MixtureBridge or a GaussianBridge.
        t: the time.
        route: how the expectation over a mixture p_t is taken; over points and Gaussians' bridges none is needed.

    Raises:
        TypeError: it is neither.
        ValueError: t is outside, or there is no route where one is needed.
    """
    now = real_scalar("t", t, low=0, high=_known(bridge).T)
    if isinstance(bridge, GaussianBridge):
        return Estimate(bridge.effort(now), 0.0, "closed")
    d = bridge.process.diffusion(now)

    def rate(x: Array) -> Array:
        pull = np.asarray(bridge.forward_pull(x, now))
        return np.asarray(0.5 * (pull * operators.apply(d, pull)).sum(axis=1))

    return _mean(bridge, now, rate, route)


def _known(bridge: Any) -> MixtureBridge | GaussianBridge:
    if not isinstance(bridge, MixtureBridge | GaussianBridge):
        raise TypeError(f"bridge must be a MixtureBridge or a GaussianBridge, got {bridge!r}")
    return bridge


def _pinned(bridge: MixtureBridge | GaussianBridge) -> bool:
    """Whether some paths end in a null set."""
    if isinstance(bridge, GaussianBridge):
        return bool(np.isinf(bridge.cost))
    return isinstance(bridge.second, GaussianMixture) and bridge.second.covariances.singular


def _height(bridge: MixtureBridge | GaussianBridge, t: float, route: Route | None) -> Estimate:
    """E log Psi at a time."""
    if isinstance(bridge, MixtureBridge):
        return _mean(bridge, t, lambda x: _log_psi(bridge, x, t), route)
    bent = operators.dense(operators.product(bridge.system.forward(t)[0], bridge.marginal(t).covariance), bridge.dim)
    return Estimate(bridge.system.log_height(t) - 0.5 * float(np.trace(bent)), 0.0, "closed")


def _log_psi(bridge: MixtureBridge, x: Array, t: float) -> Array:
    """log Psi alone, which there is where the first law is of points and t = 0."""
    return earlier(bridge.second, bridge.process.channel(t, bridge.T), x)[0]


def _mean(bridge: MixtureBridge, t: float, function: Callable[[Array], Array], route: Route | None) -> Estimate:
    law = bridge.marginal(t)
    if of_points(law):
        return Estimate(float(law.weights @ function(law.means)), 0.0, "closed")
    if route is None:
        raise ValueError(f"route must be given for an expectation over {law!r}")
    return expectation(law, function, route)


def _both(log_potentials: LogPotentials, x: Array, t: float) -> Array:
    """log Psi and log Psihat at points x (n, d), shape (2, n)."""
    return answered("log_potentials", np.stack(log_potentials(x, t)), (2, len(x)), finite=True)


def _slope(function: Callable[[float], Array], h: float) -> Array:
    return np.asarray(sum(c * (function(k * h) - function(-k * h)) for k, c in enumerate(FIRST, 1)) / h)


def _bend(function: Callable[[float], Array], h: float) -> Array:
    sides = sum(c * (function(k * h) + function(-k * h)) for k, c in enumerate(SECOND, 1))
    return np.asarray((sides + CENTRE * function(0.0)) / h**2)
