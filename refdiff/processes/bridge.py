r"""Bridges: a state of a chain given a later and an earlier one.

    x_i = A x_h + b + N(0, C),   x_j = G x_i + g + N(0, N):      x_i | x_j, x_h  =  P x_j + Q x_h + c + N(0, V)

    P = C G' (G C G' + N)^-1,    Q = (I - P G) A,    c = (I - P G) b - P g,    V = (I - P G) C

The DDPM posterior q(x_{t-1} | x_t, x_0), its stride-l form and the Brownian bridge are this. For scalars and diagonals
I - P G is N / (G C G' + N) = V / C, a ratio without cancellation, so that the weight of x_0 late in a chain keeps its
digits. Sources: PHY-25, PHY-26, PHY-29, TOPA-26, TOPA-28, PODA-403, RDX-05.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_array, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.operators import Operator


class Bridge(NamedTuple):
    """x_i = P x_j + Q x_h + c + N(0, V): a state of a chain given a later one and an earlier one.

    Attributes:
        of_end, of_start: P and Q, scalars, diagonals (d,) or matrices (d, d).
        offset: c, a scalar or (d,).
        noise: V, a variance, variances (d,) or a covariance (d, d).
    """

    of_end: Operator
    of_start: Operator
    offset: Array
    noise: Operator

    def mean(self, end: ArrayLike, start: ArrayLike) -> Any:
        """E[x_i | x_j, x_h] for x_j = `end` and x_h = `start` of shape (..., d), shape (..., d).

        Raises:
            ValueError: they have different shapes, or another dimension than the bridge.
        """
        last, restore = points("end", end, np.shape(end)[-1] if np.ndim(end) else 0)
        first, _ = points("start", start, last.shape[1])
        if np.shape(end) != np.shape(start):
            raise ValueError(f"start must have the shape of end, {np.shape(end)}, got {np.shape(start)}")
        for name, part in (("of_end", self.of_end), ("of_start", self.of_start)):
            operators.fits(name, part, last.shape[1])
        return restore(operators.apply(self.of_end, last) + operators.apply(self.of_start, first) + self.offset)

    def given(self, start: ArrayLike) -> Channel:
        """The channel x_j -> x_i for one x_h = `start` of shape (d,)."""
        first = real_array("start", start, ndim=(1,))
        operators.fits("of_start", self.of_start, len(first))
        return Channel(self.of_end, operators.apply(self.of_start, first) + self.offset, self.noise)

    def channel(self, dim: int) -> Channel:
        """The channel (x_j, x_h) -> x_i from R^(2d) to R^d, d = `dim`: its gain is the matrix (P, Q), (d, 2 d)."""
        dim = whole_number("dim", dim, low=1)
        both = np.hstack([operators.dense(part, dim) for part in (self.of_end, self.of_start)])
        return Channel(both, np.broadcast_to(self.offset, (dim,)), self.noise)

    @staticmethod
    def between(first: Channel, later: Channel) -> Bridge:
        """The bridge of `first`, the channel x_h -> x_i, and `later`, the channel x_i -> x_j.

        Where x_h alone determines x_i (no noise in `first`), x_j adds nothing. Q is exact to rounding of itself for
        scalars and diagonals, to rounding of A for matrices.

        Raises:
            ValueError: the law of x_j given x_h is singular although that of x_i is not.
        """
        zero = np.zeros(())
        if not first.noise.any():
            return Bridge(zero, first.gain, first.offset, zero)
        dim = dimension("first and later", (first, later))
        # around the mean of x_i, A x_h + b; one coordinate stands for all where both are scalars
        back = later.reverse(Gaussian(np.zeros(dim or 1), first.noise))
        if max(part.ndim for part in (first.noise, later.gain, later.noise)) < 2:
            ones = np.ones(np.broadcast_shapes(back.noise.shape, first.noise.shape))
            kept = np.divide(back.noise, first.noise, out=ones, where=first.noise > 0)
        else:
            kept = np.eye(len(back.noise)) - operators.product(back.gain, later.gain)
        shift = np.broadcast_to(first.offset, kept.shape[:1]) if kept.ndim == 2 else first.offset
        offset = operators.apply(kept, shift) + (back.offset if dim else back.offset[0])
        return Bridge(back.gain, operators.product(kept, first.gain), offset, back.noise)


def dimension(name: str, channels: Sequence[Channel]) -> int | None:
    """d of `channels` (called `name` in messages), or None where all are made of scalars.

    Raises:
        ValueError: one is not square, or two act on different dimensions.
    """
    # a square gain has its rows and its columns in common with offset and noise
    sizes = {size for one in channels for part in (one.gain, one.offset, one.noise) for size in part.shape}
    if len(sizes) > 1:
        raise ValueError(f"{name} must act on one dimension, got {sorted(sizes)}")
    return next(iter(sizes), None)
