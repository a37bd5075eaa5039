r"""Stationary laws of channels: m = A m + b,  S = A S A' + C.

A channel with a gain of spectral radius below 1 keeps exactly one Gaussian, and brings every law to it:

    Cov(x_n) - S = A^n (Cov(x_0) - S) A'^n,      scalars:  S = C / (1 - a^2),  m = b / (1 - a)

Sources: PHY-60, TOPA-24, TOPA-16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.operators import Operator
from refdiff.processes.bridge import dimension


class Moments(NamedTuple):
    """A mean, a scalar or (d,), and a covariance in any storage; or what is left of differences of both."""

    mean: Array
    covariance: Operator


def radius(link: Channel) -> float:
    """The spectral radius of the gain of `link`, |A|."""
    matrix = operators.dense(link.gain, dimension("link", (link,)) or 1)
    return float(np.abs(np.linalg.eigvals(matrix) if link.gain.ndim == 2 else np.diagonal(matrix)).max())


def stationary(link: Channel) -> Moments:
    """The mean and covariance that `link` keeps, in its storage.

    Raises:
        ValueError: its gain has a spectral radius of 1 or more.
    """
    largest = radius(link)
    if largest >= 1:
        raise ValueError(f"link must have a gain with a spectral radius below 1, got {largest}")
    a, b, c = link.gain, link.offset, link.noise
    if max(a.ndim, c.ndim) < 2:
        return Moments(np.asarray(b / (1 - a)), np.asarray(c / ((1 - a) * (1 + a))))
    from scipy.linalg import solve_discrete_lyapunov  # late, as `scipy.spatial` in covariances

    dim = dimension("link", (link,)) or 1
    matrix = operators.dense(a, dim)
    spread = solve_discrete_lyapunov(matrix, operators.dense(c, dim))
    mean = np.linalg.solve(np.eye(dim) - matrix, np.broadcast_to(b, (dim,)))
    return Moments(np.asarray(mean, dtype=np.float64), 0.5 * (spread + spread.T))


def common(links: Sequence[Channel]) -> Moments:
    """The mean and covariance that all `links` keep.

    They are solved for in the link that forgets fastest, and the others are asked whether they keep them, up to the
    rounding of that solution: eps / (1 - |A|^2).

    Raises:
        ValueError: no link has a gain with a spectral radius below 1, or links keep different laws.
    """
    radii = [radius(link) for link in links]
    best = int(np.argmin(radii))
    found = stationary(links[best])
    gap = (1 - radii[best]) * (1 + radii[best])
    slack = 64 * (dimension("links", links) or 1) * np.finfo(float).eps * (1 + 1 / gap)
    for i, link in enumerate(links, 1):
        after = operators.add(operators.sandwich(link.gain, found.covariance), link.noise)
        moved = operators.add(after, -found.covariance)
        drift = operators.apply(link.gain, found.mean) + link.offset - found.mean
        size = np.abs(found.mean).max() + np.abs(link.offset).max()
        if (np.abs(moved) > slack * np.abs(after).max()).any() or (np.abs(drift) > slack * size).any():
            raise ValueError(f"links must keep one law, but link {i} does not keep that of link {best + 1}")
    return found
