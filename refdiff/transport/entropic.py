r"""Entropic transport between laws: the coupling that is as cheap as a given amount of noise allows.

    gamma = argmin over couplings of E |x - y|^2 / 2 + eps KL(gamma || p x q)

of Gaussians in closed form, see `entropic_gaussian`. Sources: PODB-74, PODB-84.
"""

from __future__ import annotations

from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.transport.entropic_gaussian import HALF_SQUARED, GaussianPlan, QuadraticPotential
from refdiff.transport.pairs import PairLaw


def entropic_pairs(p: Gaussian, q: Gaussian, epsilon: float, channel: Channel = HALF_SQUARED) -> PairLaw:
    """The entropic coupling of two Gaussians p and q as a law of pairs.

    Args:
        p, q, epsilon, channel: as of `GaussianPlan`; without a channel the cost is |x - y|^2 / 2.
    """
    return GaussianPlan(p, q, epsilon, channel).pairs()


def entropic_cost(p: Gaussian, q: Gaussian, epsilon: float, channel: Channel = HALF_SQUARED) -> float:
    """The least E c + eps KL(gamma || p x q): p, q, epsilon and channel as of `entropic_pairs`."""
    return GaussianPlan(p, q, epsilon, channel).value


def entropic_potentials(
    p: Gaussian, q: Gaussian, epsilon: float, channel: Channel = HALF_SQUARED
) -> tuple[QuadraticPotential, QuadraticPotential]:
    """f and g with gamma = p q exp((f + g - c) / eps) and E_p f = E_q g, half the entropic cost.

    Args:
        p, q, epsilon, channel: as of `entropic_pairs`, with a positive epsilon.
    """
    plan = GaussianPlan(p, q, epsilon, channel)
    return plan.f, plan.g


def entropic_map(p: Gaussian, q: Gaussian, epsilon: float, channel: Channel = HALF_SQUARED) -> Channel:
    """x -> E[y | x], the barycentric projection: p, q, epsilon > 0 and channel as of `entropic_pairs`."""
    way = GaussianPlan(p, q, epsilon, channel).forward()
    return Channel(way.gain, way.offset)
