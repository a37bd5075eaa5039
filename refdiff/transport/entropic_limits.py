r"""What noise adds to the cost of transport: series for little and for much of it, and other people's regularisers.

    V_eps = W + eps sum [1 + log(s / eps)] / 2 + eps^2 sum 1 / (8 s) - eps^4 sum 1 / (384 s^3) + ...      eps < 2 min s
    V_eps = E_pq c - sum s^2 / (2 eps) + sum s^4 / (4 eps^3) - ...                                       eps > 2 max s

for Gaussians with the singular values s > 0 of `GaussianPlan`. From dV / d eps = KL(gamma || p x q), which is
sum [log(s / eps) + asinh(eps / (2 s))] / 2 = sum log((1 + (1 + 4 s^2 / eps^2)^(1/2)) / 2) / 2: the series of both, of
alternating falling terms, so that the first that is left out bounds the rest. In words, for laws with densities and
|x - y|^2 / 2: V = W_2^2 / 2 - (d eps / 2) log(2 pi eps) + eps (H(p) + H(q)) / 2 + (eps^2 / 8) int_0^1 I(p_t) dt + ...,
H entropies and I the Fisher information along the shortest way: between densities V - W is (d / 2) eps log(1 / eps) and
more, never of order eps, as every map has KL = infinity. For points V - W = eps min KL, over optimal couplings, but for
what falls like e^(-gap / eps).

Whatever the regulariser is written in, it is eps KL(gamma || p x q) with half of the squared distance and another eps:

    lambda for |x - y|^2            eps = lambda / 2           Brownian motion of variance r t on [0, T]   eps = r T
    - lambda H(gamma)               the same coupling, as KL(gamma || p x q) = -H(gamma) + H(p) + H(q)
    lambda (log gamma - 1)          the same coupling, lambda less

Sources: PODB-74, PODB-84, PODB-87; Pal 2019, "On the difference between entropic cost and the optimal transport cost";
Conforti and Tamanini 2021, "A formula for the time derivative of the entropic cost"; Weed 2018, "An explicit analysis
of the entropic penalty in linear programming".
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import numpy as np

from refdiff.arguments import one_of, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.transport.entropic_gaussian import HALF_SQUARED, GaussianPlan

REFERENCES = ("product", "entropy", "entropy less one")


class Series(NamedTuple):
    """The sum of some terms.

    Attributes:
        value: the sum.
        bound: what the rest is not larger than.
    """

    value: float
    bound: float


def little_noise(p: Gaussian, q: Gaussian, epsilon: float, terms: int = 1, channel: Channel = HALF_SQUARED) -> Series:
    """The entropic cost of Gaussians as a series in eps, with `terms` powers eps^2, eps^4, ... after its beginning.

    Args:
        p, q, epsilon, channel: as of `GaussianPlan`, 0 < epsilon <= 2 min s.
        terms: how many.

    Raises:
        TypeError: p or q is no Gaussian.
        ValueError: there is more noise than the series converges for.
    """
    plan, count = GaussianPlan(p, q, epsilon, channel), whole_number("terms", terms)
    e, s = plan.epsilon, plan.singular_values[plan.singular_values > 0]
    if not 0 < e <= 2 * s.min(initial=np.inf):
        raise ValueError(f"epsilon must lie in (0, {2 * s.min(initial=np.inf):g}], got {e}")
    z = 0.5 * e / s
    found = plan.least_cost + 0.5 * e * float((1 + np.log(s / e)).sum())
    powers = [float((-1) ** n * comb(2 * n, n) / 4**n / ((2 * n + 1) * (2 * n + 2)) * (s * z ** (2 * n + 2)).sum())
              for n in range(count + 1)]  # fmt: skip
    return Series(found + sum(powers[:-1]), abs(powers[-1]))


def much_noise(p: Gaussian, q: Gaussian, epsilon: float, terms: int = 1, channel: Channel = HALF_SQUARED) -> Series:
    """The entropic cost of Gaussians as a series in 1 / eps, with `terms` powers 1 / eps, 1 / eps^3, ...

    Args:
        p, q, epsilon, channel: as of `GaussianPlan`, epsilon >= 2 max s.
        terms: how many; without one it is the cost of independent x and y.

    Raises:
        TypeError: p or q is no Gaussian.
        ValueError: there is less noise than the series converges for.
    """
    plan, count = GaussianPlan(p, q, epsilon, channel), whole_number("terms", terms)
    e, s = plan.epsilon, plan.singular_values
    if e < 2 * s.max(initial=0.0) or e == 0:
        raise ValueError(f"epsilon must be at least {2 * s.max(initial=0.0):g} and positive, got {e}")
    powers = [float((-1) ** n * comb(2 * n, n) / (4 * n * (2 * n - 1)) * (s * (s / e) ** (2 * n - 1)).sum())
              for n in range(1, count + 2)]  # fmt: skip
    return Series(plan.least_cost + float(s.sum()) + sum(powers[:-1]), abs(powers[-1]))


@dataclass(frozen=True)
class Regulariser:
    """The objective scale E |x - y|^2 + weight R(gamma) in units of this library.

    Args:
        weight: lambda > 0, of R.
        scale: of the squared distance: 1 / 2 here, 1 in most programs, 1 / (2 T) for Brownian motion on [0, T].
        reference: "product" for R = KL(gamma || p x q), "entropy" for R = -H(gamma), the integral or sum of
            gamma log gamma, "entropy less one" for that of gamma (log gamma - 1).

    Raises:
        ValueError: the weight or the scale is not positive, or there is no such reference.
    """

    weight: float
    scale: float = 0.5
    reference: str = "product"

    def __post_init__(self) -> None:
        real_scalar("weight", self.weight, low=0, open_low=True)
        real_scalar("scale", self.scale, low=0, open_low=True)
        one_of("reference", self.reference, REFERENCES)

    @property
    def epsilon(self) -> float:
        """eps: the coupling is that of E |x - y|^2 / 2 + eps KL(gamma || p x q)."""
        return 0.5 * self.weight / self.scale

    def objective(self, value: float, p_entropy: float = 0.0, q_entropy: float = 0.0) -> float:
        """The least objective from the least E |x - y|^2 / 2 + eps KL.

        Args:
            value: the latter, for eps = `epsilon`.
            p_entropy, q_entropy: H(p) and H(q), of masses or of densities as R is; not asked for R = KL.
        """
        shift = 0.0 if self.reference == "product" else p_entropy + q_entropy + (self.reference != "entropy")
        return 2 * self.scale * value - self.weight * shift
