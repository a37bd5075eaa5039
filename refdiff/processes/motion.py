r"""What a noising process is: channels between times, and how its channel from clean data moves.

    x_t = A x_0 + b + R eps,      C = R R'               at one time: `Motion`
    dx_t/dt  on average given x_t:   A' D + b' - S grad log p,   S = F C + D/2,  S + S' = C'     D = E[x_0 | x_t]

The second line is the probability flow F x + u - D grad log p / 2 without a division: Tweedie's A D = x - b + C grad
log p takes F = A' A^-1 out of it, so that A = 0 and C = 0 are ordinary points.

Freeze x_0. What is left, y_t = x_t - A_t x_0 - b_t ~ N(0, C_t), obeys on the way to data, for every k >= 0,

    dy = (F + (1 + k^2)/2 D C^-1) y dt + k G dw
    y_t = Psi y_s + N(0, C_t - Psi C_s Psi'),   t < s                                     `noise_channel(s, t, k)`

k = 0 is the flow map of a point mass, k = 1 the posterior p(x_t | x_s, x_0). Sources: RDX-09, RDX-16..20b, PODB-06.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.operators import Operator


class Offset(NamedTuple):
    """The offset b_t as `value`, its rate b'_t and acceleration b''_t, each a scalar or (d,)."""

    value: Array
    rate: Array
    acceleration: Array


NO_OFFSET = Offset(*(np.zeros(()) for _ in range(3)))


class Motion(NamedTuple):
    """x_t = A x_0 + b + R eps at one time, with rates; each part but the offset is an operator: (), (d,) or (d, d).

    gain is A, dgain A' and d2gain A''; noise is C = R R' and root R; spread is S = F C + D/2 and dspread S'.
    d2gain and dspread are None where the process does not know the rates of its coefficients.
    """

    gain: Operator  # A
    dgain: Operator  # A'
    d2gain: Operator | None
    noise: Operator  # C
    root: Operator  # R
    spread: Operator  # S = F C + D/2, half of C' but for an antisymmetric part
    dspread: Operator | None
    offset: Offset = NO_OFFSET


@runtime_checkable
class Process(Protocol):
    """A linear Gaussian noising process on [0, T], data at 0: dx = [F(t) x + u(t)] dt + dw with covariance D(t) dt."""

    @property
    def T(self) -> float:
        """The final time."""

    @property
    def axes(self) -> int | None:
        """d, or None for a process that acts on any dimension."""

    @property
    def centred(self) -> Process:
        """The process of x - b_t."""

    def kernel(self, t: float) -> Channel:
        """The channel from clean data to time t."""

    def channel(self, s: float, t: float) -> Channel:
        """The channel from time s to time t, s <= t."""

    def noise_channel(self, s: float, t: float, stochasticity: float = 0.0) -> Channel:
        """The channel from y_s to y_t, y = x - A x_0 - b, of the family of equations with k = stochasticity >= 0."""

    def offset(self, t: float) -> Offset:
        """b, b' and b''."""

    def motion(self, t: float) -> Motion:
        """The channel from clean data with its rates."""

    def drift(self, t: float) -> Operator:
        """F(t)."""

    def force(self, t: float) -> Array:
        """u(t) = b' - F b, a number or (d,)."""

    def diffusion(self, t: float) -> Operator:
        """D(t) = G G'."""
