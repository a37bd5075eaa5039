r"""Transitions of linear SDEs dx = [F(t) x + u(t)] dt + G(t) dw, to rounding, for matrices that need not commute.

    x_b | x_a  ~  N(K x_a + k, W W'),      k = int_a^b K(b, t) u dt,      W W' = int_a^b K(b, t) G G' K(b, t)' dt

with d/dt K(b, t) = -K(b, t) F, K(b, b) = I. Gauss collocation with n nodes x_j and weights w_j on a step of length h
takes Y_j ~ K(b, a + h x_j) from the linear equations Y_i = I + h sum_j c_ij Y_j F_j, c_ij = int_{x_i}^1 l_j, and

    K = I + h sum_j w_j Y_j F_j        k = h sum_j w_j Y_j u_j        W = [sqrt(h w_j) Y_j G_j]_j

It is one step of a Gauss method for (K, k, W W') together: all three are of order 2 n. The covariance is there as a
root, so it is positive semi-definite, and its small directions keep their digits; K is orthogonal where F is
antisymmetric; and for constant F it is the diagonal Pade approximant of e^(hF). Steps are joined as channels are.
Van Loan's block exponential, the usual formula for constant coefficients, holds e^(-hF) besides: where e^(hF) decays it
loses as many digits as that has zeros.
Of many equations at once F, u and G have leading axes, and so do K, k and W: they share the steps.
Backwards (b < a) the noise is that of reversed time: W W' is the integral from b to a. Sources: RDX-02..05, PODD-86.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel

NODES = 8
# Steps of constant coefficients have |F| h at most this: the error of the [8/8] approximant is then below 1e-19.
LONGEST = 1.0
# One step and its two halves may differ by this: the halves, which are kept, err by 2^-16 of it where F and G are
# smooth, and by this itself at a jump.
AGREE = 1e-13
# Halvings after which a step is taken as it is: what is left around a jump of F or G is rounding.
HALVINGS = 45
# Steps after which F and G are no functions of time that steps resolve: stiff ones take some thousands.
MOST = 20_000

Matrix = Callable[[float], Array]


class Transition(NamedTuple):
    """x -> N(K x + k, W W'), with gain K (..., d, d), offset k (..., d) and root W (..., d, m)."""

    gain: Array  # K, (..., d, d)
    offset: Array  # k, (..., d)
    root: Array  # W, (..., d, m) with m <= d

    def after(self, earlier: Transition) -> Transition:
        """This transition after an earlier one."""
        gain, offset, root = self
        both = np.concatenate([gain @ earlier.root, root], axis=-1)
        moved = (gain @ earlier.offset[..., None])[..., 0]
        return Transition(gain @ earlier.gain, moved + offset, narrow(both))

    @property
    def channel(self) -> Channel:
        """The transition as a channel, of one equation."""
        return Channel(self.gain, self.offset, self.root @ self.root.T)


class Linear(NamedTuple):
    """An equation as functions of time: drift F (..., d, d), force u (..., d) and noise G (..., d, m)."""

    drift: Matrix
    force: Matrix
    noise: Matrix


def identity(dim: int) -> Transition:
    """No time at all, in `dim` dimensions."""
    return Transition(np.eye(dim), np.zeros(dim), np.zeros((dim, 1)))


def step(equation: Linear, start: float, end: float) -> Transition:
    """The transition of an equation from start to end in one step of the Gauss method."""
    nodes, weights, integrals = _gauss()
    h, times = end - start, start + (end - start) * nodes
    drifts, noises = (np.stack([part(float(t)) for t in times], axis=-3) for part in (equation.drift, equation.noise))
    forces = np.stack([equation.force(float(t)) for t in times], axis=-2)
    lead, dim = drifts.shape[:-3], drifts.shape[-1]
    # the transposed equations Y_i' = I + h sum_j c_ij F_j' Y_j', all nodes at once
    inner = np.einsum("ij,...jba->...iajb", integrals, drifts).reshape(*lead, NODES * dim, NODES * dim)
    kept = np.linalg.solve(np.eye(NODES * dim) - h * inner, np.tile(np.eye(dim), (NODES, 1)))
    kept = kept.reshape(*lead, NODES, dim, dim).swapaxes(-1, -2)
    root = np.sqrt(abs(h) * weights)[:, None, None] * (kept @ noises)
    return Transition(
        np.eye(dim) + h * np.einsum("j,...jab,...jbc->...ac", weights, kept, drifts),
        h * np.einsum("j,...jab,...jb->...a", weights, kept, forces),
        narrow(root.swapaxes(-3, -2).reshape(*lead, dim, -1)),
    )


def constant(equation: Linear, length: float) -> Transition:
    """The transition over a length of time, of an equation that does not change: one short step, doubled."""
    size = abs(length) * float(np.abs(equation.drift(0.0)).sum(axis=-2).max())
    doublings = max(0, int(np.ceil(np.log2(size / LONGEST)))) if size > LONGEST else 0
    found = step(equation, 0.0, length / 2**doublings)
    for _ in range(doublings):
        found = found.after(found)
    return found


def steps(equation: Linear, start: float, end: float, least: float = 0.0) -> list[tuple[float, Transition]]:
    """Where the steps of an equation from start to end lead, and their transitions: halving them changes nothing.

    Args:
        equation: F, u and G.
        start, end: the times, in either order.
        least: the standard deviation below which digits of the noise are of no use.

    Raises:
        ValueError: F or G change from one time to the next at all times, as noise does.
    """
    found: list[tuple[float, Transition]] = []
    waiting = [(start, end, step(equation, start, end), 0)]
    while waiting:
        a, b, whole, depth = waiting.pop()
        middle = a + (b - a) / 2
        first, second = step(equation, a, middle), step(equation, middle, b)
        if depth >= HALVINGS or _agree(whole, second.after(first), least):
            found += [(middle, first), (b, second)]
            if len(found) > MOST:
                raise ValueError(f"drift and noise must be smooth but at jumps: {MOST} steps from t = {start} to {end} "
                                 f"lead to {b}")  # fmt: skip
        else:
            waiting += [(middle, b, second, depth + 1), (a, middle, first, depth + 1)]
    return found


def over(equation: Linear, start: float, end: float, least: float = 0.0) -> Transition:
    """The transition of an equation from start to end, in as many steps as it takes, with `least` as in `steps`.

    Raises:
        ValueError: see `steps`.
    """
    whole, *rest = (part for _, part in steps(equation, start, end, least))
    for part in rest:
        whole = part.after(whole)
    return whole


def narrow(root: Array) -> Array:
    """A root of the same covariance with at most d columns, lower triangular: (..., d, m) to (..., d, min(d, m))."""
    return root if root.shape[-1] <= root.shape[-2] else _lower(root)


def triangular(root: Array) -> Array:
    """The lower triangular root with a diagonal >= 0 of the same covariance: (d, m) to (d, d).

    It is unique where the covariance is regular, so that it does not jump from one time to the next.
    """
    dim = len(root)
    wide = np.pad(root, [(0, 0), (0, max(0, dim - root.shape[1]))])
    lower = _lower(wide)
    return np.asarray(lower * np.where(np.diag(lower) < 0, -1.0, 1.0))


def _lower(root: Array) -> Array:
    """L of root = L Q, with Q of orthonormal rows: (..., d, m) to (..., d, min(d, m))."""
    return np.asarray(np.linalg.qr(root.swapaxes(-1, -2), mode="r")).swapaxes(-1, -2)


def _agree(one: Transition, other: Transition, least: float) -> bool:
    """Whether two transitions differ by rounding alone, each covariance in units of its standard deviations."""
    std = np.maximum(np.linalg.norm(other.root, axis=-1), least)
    spread = np.abs(one.root @ one.root.swapaxes(-1, -2) - other.root @ other.root.swapaxes(-1, -2))
    length = np.abs(other.gain).max(initial=1.0)
    return bool(
        np.abs(one.gain - other.gain).max() <= AGREE * length
        and np.abs(one.offset - other.offset).max() <= AGREE * np.abs(other.offset).max()
        and (spread <= AGREE * std[..., :, None] * std[..., None, :]).all()
    )


@cache
def _gauss() -> tuple[Array, Array, Array]:
    """Nodes and weights on [0, 1] (n,), and c_ij (n, n), the integrals of l_j from x_i to 1."""
    nodes, weights = (part / 2 for part in np.polynomial.legendre.leggauss(NODES))
    nodes = nodes + 0.5
    # l_j is known at the nodes of a rule on [x_i, 1], which integrates its degree n - 1 exactly
    inner = nodes[:, None] + (1 - nodes[:, None]) * nodes  # (i, m)
    gaps = inner[:, None, :, None] - nodes  # (i, 1, m, k)
    others = ~np.eye(NODES, dtype=bool)
    ratio = np.where(others[:, None, :], gaps / np.where(others, nodes[:, None] - nodes, 1.0)[:, None, :], 1.0)
    lagrange = ratio.prod(axis=-1)  # (i, j, m)
    return nodes, weights, (1 - nodes[:, None]) * (lagrange @ weights)
