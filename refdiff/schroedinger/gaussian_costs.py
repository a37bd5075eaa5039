r"""What a Gaussian bridge costs, taken apart: motion, Fisher information, entropies; and little noise.

With the current velocity v and the score s of p_t, b+ = v + D s / 2 and d H(p_t)/dt = E div v = -E v . s turn the cost
of steering, 1/2 int E |b+ - F x - u|^2 dt in D^-1, into one of densities and flows,

    KL(P || R) = 1/2 int E |v - F x - u|^2 dt + 1/8 int E |s|_D^2 dt + [H(p) + int tr F dt - H(q)] / 2     R_0 = p

for sqrt(eps) w: eps KL = int (E |v|^2 / 2 + eps^2 E |s|^2 / 8) dt + eps [H(p) - H(q)] / 2, the least of
it over all flows from p to q: Benamou and Brenier's problem with Fisher's information. Nothing here inverts D.

As the noise eps D falls, with x_T = A x_0 + b + N(0, eps Sigma), the cost c = |y - A x - b|^2 / 2 in Sigma^-1 and the
singular values s_i of S_0^(1/2) A' Sigma^-1 S_1^(1/2),

    2 eps KL = 2 OT_c + eps [H(p) + log |det A| - H(q)] + eps^2/4 sum 1/s_i - eps^4/192 sum 1/s_i^3 + O(eps^6)

KL itself diverges like 1 / eps. There is no term eps log eps, since that of the entropic cost, which counts from p x q,
is that of the noise: for sqrt(eps) w on [0, T], A = I, Sigma = T I, it is 2 eps T KL -> W_2^2. Sources: PODB-77,
PODB-78, PODB-85, PODB-87, PODB-88; Chen, Georgiou and Pavon 2016, "On the relation between optimal transport and
Schroedinger bridges"; Gentil, Leonard and Ripani 2017; Conforti and Tamanini 2021 (expansions).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refdiff import operators
from refdiff.arguments import real_scalar
from refdiff.distributions import Gaussian, entropy
from refdiff.processes import Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.gaussian import GaussianBridge
from refdiff.schroedinger.reference import ReferenceBridges, total
from refdiff.transport import GaussianPlan

TOLERANCE = 1e-12  # of integrals over time, relative


class Energies(NamedTuple):
    """Rates of a bridge at one time, in nats per unit of time.

    Attributes:
        kinetic: E |v - F x - u|^2 / 2 in D^-1, with the current velocity v.
        fisher: E |grad log p_t|_D^2 / 8.
    """

    kinetic: float
    fisher: float


class Action(NamedTuple):
    """The cost of a bridge in four parts, in nats.

    Attributes:
        kinetic: the integral of `Energies.kinetic`.
        fisher: the integral of `Energies.fisher`.
        entropies: [H(p) - H(q)] / 2.
        volume: int tr F dt / 2 = log |det A| / 2, what the reference itself makes of volumes.
    """

    kinetic: float
    fisher: float
    entropies: float
    volume: float

    @property
    def value(self) -> float:
        """Their sum, KL(P || R) with R_0 = p."""
        return self.kinetic + self.fisher + self.entropies + self.volume


class LittleNoise(NamedTuple):
    """2 eps KL(P || R) = limit + first eps + second eps^2 + fourth eps^4 + O(eps^6) for references with noise eps D.

    Attributes:
        limit: 2 OT_c: W_2^2 for sqrt(eps) w on [0, 1].
        first: H(p) + log |det A| - H(q).
        second: sum 1/s_i / 4.
        fourth: -sum 1/s_i^3 / 192.
    """

    limit: float
    first: float
    second: float
    fourth: float

    def at(self, epsilon: float) -> float:
        """The expansion at an `epsilon`."""
        e = real_scalar("epsilon", epsilon, low=0)
        return self.limit + e * (self.first + e * (self.second + e * e * self.fourth))


def energies(bridge: GaussianBridge, t: float) -> Energies:
    """The rates of motion and information of a `bridge` at a time t in [0, T] with a density.

    Of Brownian motion their difference is the same at all times.

    Raises:
        TypeError: no GaussianBridge.
        ValueError: t is outside, or p_t has no density.
    """
    now = real_scalar("t", t, low=0, high=_bridge(bridge).T)
    (one, shift), (two, _) = bridge.system.forward(now), bridge.system.backward(now)
    d, law, dim = operators.dense(bridge.process.diffusion(now), bridge.dim), bridge.marginal(now), bridge.dim
    apart, both = (operators.dense(part, dim) for part in (total(one, -two), total(one, two)))
    kinetic = shift @ d @ shift / 2 + np.trace(d @ apart @ law.cov() @ apart) / 8
    return Energies(float(kinetic), float(np.trace(d @ both) / 8))


def action(bridge: GaussianBridge) -> Action:
    """The cost of a `bridge` as motion, information, entropies and volume.

    Raises:
        TypeError: no GaussianBridge.
        ValueError: p or q has no density.
    """
    from scipy.integrate import quad_vec  # late, as elsewhere: slow to import

    ends = entropy(_bridge(bridge).p) - entropy(bridge.q)
    whole, _ = quad_vec(lambda t: np.array(energies(bridge, t)), 0.0, bridge.T, epsabs=0.0, epsrel=TOLERANCE)
    return Action(float(whole[0]), float(whole[1]), 0.5 * ends, 0.5 * _log_volume(bridge.interpolant, bridge.dim))


def little_noise(
    p: Gaussian, q: Gaussian, process: Process | Schedule | float = 1.0, T: float | None = None
) -> LittleNoise:
    """What 2 eps KL(P || R) of Gaussian bridges tends to, and how, as the noise eps D of their reference vanishes.

    Args:
        p, q: Gaussians with densities.
        process: the reference at eps = 1: a Process, a Schedule, or the rate of Brownian motion.
        T: the end; the process's own unless given, 1 of Brownian motion.

    Raises:
        TypeError: p or q is no Gaussian, or process no reference.
        ValueError: dimensions that differ, or laws without density.
    """
    bridges = ReferenceBridges(process, T)
    optimal = GaussianPlan(p, q, 0.0, bridges.overall)
    first = entropy(p) + _log_volume(bridges, p.dim) - entropy(q)
    s = optimal.singular_values
    return LittleNoise(2 * optimal.value, first, float((1 / s).sum() / 4), float(-(s**-3.0).sum() / 192))


def _log_volume(bridges: ReferenceBridges, dim: int) -> float:
    return float(np.linalg.slogdet(operators.dense(bridges.overall.gain, dim))[1])


def _bridge(bridge: GaussianBridge) -> GaussianBridge:
    if not isinstance(bridge, GaussianBridge):
        raise TypeError(f"bridge must be a GaussianBridge, got {bridge!r}")
    return bridge
