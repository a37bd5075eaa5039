r"""The diffusion Schroedinger bridge (DSB): equations reversed by turns, and the chains that networks are trained on.

Continuous time: the iterates of `proportional_fitting` with the reference's bridges put between their ends are
processes, each the reversal of the last one started at the right marginal. Of P^0, P^2, .. the forward drift is kept
by the next reversal, of P^1, P^3, .. the backward one, and Nelson's formula leads from one to the other,

    b_forward - b_backward = D grad log p_t,      p_t the marginal of this iterate

N steps: x_{k+1} = F_k x_k + f_k + N(0, N_k), from the exact kernels of the reference or from Euler's. Backward links
x_k = B x_{k+1} + b + N(0, V) of the chain that is reversed, whose marginals are N(m_k, S_k), are

    bayes    B = S_k F' S_{k+1}^-1,   V = S_k - B F S_k                             half bridges of the chain, exactly
    state    B the same,              V = N_k                                       E[x_k | x_{k+1}] is what is learnt
    drift    B = I + F (G - I), G the B above,   V = N_k               E[x_{k+1} + F x_k - F x_{k+1} | x_{k+1}] is

and so with forward and backward exchanged. Bayes' steps with exact kernels are proportional fitting itself, for any N,
and with Euler's kernels the fitting of Euler's chain, O(1/N) away. Fixed noise moves an iterate by O(1/N) too, out of
the reciprocal class of the reference, which is in its first chain only: nothing leads back, every process between p and
q being its own double reversal. The errors of n cycles add up to O(n/N), and more cycles do not lead to the bridge. On
the line, with equal noises, the limit of `state` is known: S_k and the backward variances keep one ratio R exactly
where S_(k+1) = R S_k, so that

    S_k = s (t / s)^(k / (N + 1)),    Cov(x_0, x_N) -> (s t)^(1/2) exp(-(eps / 2) (1/s - 1/t) / log(t / s)),   N -> inf

whatever the drift of the reference: marginals off by O(1/N), and a covariance that stays away from the bridge's. That
is as long as the link's noise is less than R S_k for every k < N, so for large N; a link with more forgets all.
Sources: PODB-92, PODB-81; De Bortoli, Thornton, Heng and Doucet 2021, "Diffusion Schroedinger bridge".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, one_of, real_array, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.processes import Chain, Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.reference import reference_process
from refdiff.transport import PairLaw, image_pairs

KERNELS = ("exact", "euler")
REVERSALS = ("bayes", "state", "drift")


@dataclass(frozen=True, eq=False)
class ReversedChains:
    """Chains reversed by turns.

    Attributes:
        first, second: p, which forward chains start from, and q, which backward chains start from.
        forward: the chains x_0 -> x_N of the even half steps, the reference's first.
        backward: the chains x_N -> x_0 of the odd half steps, each the reversal of the forward chain of its place.
    """

    first: Gaussian
    second: Gaussian
    forward: tuple[Chain, ...]
    backward: tuple[Chain, ...]

    def forward_pairs(self, n: int = -1) -> PairLaw:
        """The law of (x_0, x_N) of forward chain `n`, the last unless given."""
        chain = self.forward[n]
        return image_pairs(self.first, chain.kernel(chain.steps))

    def backward_pairs(self, n: int = -1) -> PairLaw:
        """The law of (x_0, x_N) of backward chain `n`, the last unless given."""
        chain = self.backward[n]
        return image_pairs(self.second, chain.kernel(chain.steps)).swapped()


def reversed_chains(
    p: Gaussian,
    q: Gaussian,
    reference: Process | Schedule | float,
    times: ArrayLike,
    cycles: int,
    *,
    kernels: str = "exact",
    reversal: str = "bayes",
) -> ReversedChains:
    """The diffusion Schroedinger bridge of Gaussians in discrete time: `cycles` times backward and forward again.

    Args:
        p, q: the laws at the first and the last time, Gaussians with a density.
        reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        times: increasing, from 0 to the end of the reference's paths, shape (N + 1,).
        cycles: how often.
        kernels: the reference's links: exact, or euler for x + (F x + u) h + N(0, D h).
        reversal: bayes, state or drift.

    Raises:
        TypeError: p or q is no Gaussian, or the reference none.
        ValueError: an unknown word, times that do not increase from 0, dimensions that differ, or a law without a
            density.
    """
    when = real_array("times", times, ndim=(1,))
    if len(when) < 2 or when[0] != 0 or (np.diff(when) <= 0).any():
        raise ValueError(f"times must increase from 0, at least two of them, got {when}")
    one_of("kernels", kernels, KERNELS)
    one_of("reversal", reversal, REVERSALS)
    process, _ = reference_process(reference, float(when[-1]))
    for name, one in (("p", p), ("q", q)):
        if not isinstance(one, Gaussian):
            raise TypeError(f"{name} must be a Gaussian, got {one!r}")
        if one.covariances.singular or process.axes not in (None, one.dim) or one.dim != p.dim:
            raise ValueError(f"{name} must have a density in one dimension with p and the reference, got {one!r}")
    links = [_link(process, s, t, kernels, p.dim) for s, t in pairwise(when.tolist())]
    noises = [link.noise for link in links]
    forward, backward = [Chain(links)], list[Chain]()
    for _ in range(whole_number("cycles", cycles)):
        backward.append(_reversal(forward[-1], p, noises[::-1], reversal))
        forward.append(_reversal(backward[-1], q, noises, reversal))
    return ReversedChains(p, q, tuple(forward), tuple(backward))


def _link(process: Process, s: float, t: float, kernels: str, dim: int) -> Channel:
    """The reference's link from s to t, its exact kernel or Euler's."""
    if kernels == "exact":
        return process.channel(s, t)
    h = t - s
    gain = operators.add(np.ones(dim), h * process.drift(s))
    return Channel(gain, h * process.force(s), h * process.diffusion(s))


def _reversal(chain: Chain, law: Gaussian, noises: list[Array], reversal: str) -> Chain:
    """The links back of a chain that starts at `law`, with these noises in their order, where they are kept."""
    exact = chain.reversed(law)
    if reversal == "bayes":
        return exact
    found = []
    for link, back, noise in zip(chain.links[::-1], exact.links, noises, strict=True):
        gain, offset = back.gain, back.offset
        if reversal == "drift":  # x + F (E[x_k | x] - x)
            offset = operators.apply(link.gain, np.broadcast_to(offset, (law.dim,)))
            moved = operators.add(gain, -np.ones(law.dim))
            gain = operators.add(np.ones(law.dim), operators.product(link.gain, moved))
        found.append(Channel(gain, offset, noise))
    return Chain(found)
