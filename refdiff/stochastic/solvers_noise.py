r"""What kinds of noise there are, and a step of a grid as methods see it.

    additive      G(t)
    diagonal      one motion for each axis, G_i depends on x_i and t alone
    scalar        one motion
    commutative   L^j G_k = L^k G_j for all motions j, k, with L^j G_k = sum_l G_lj dG_k / dx_l
    general       no such rule: a strong order above 1/2 needs areas between the motions, which no path here has

An equation in Ito's sense with the force b (drift in the direction of travel) is one in Stratonovich's sense with the
force b - sum_j L^j G_j / 2. Sources: PODD-62, PODD-64; Kloeden and Platen 1992 (sections 4.9 and 10.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.operators import Operator
from refdiff.stochastic.equation import StochasticEquation

KINDS = ("additive", "diagonal", "scalar", "commutative", "general")
SYMMETRIC = 1e-6  # relative, of what central differences of ten digits commute to
BESIDE = 1e-3  # how far off noise is probed: near, as roots of x and of 1 - x have an end


def noise_kind(equation: StochasticEquation, x: Array, t: float) -> str:
    """The kind of an equation's noise, one of KINDS, as probed at points x (n, d), beside them, and time t.

    Raises:
        ValueError: the noise answers with a diagonal (n, d) whose entries depend on other axes: such noise must be
            given as matrices (n, d, d).
    """
    if equation.additive:
        return "additive"
    g = equation.noise_at(x, t)
    if g.ndim == 2:
        _each_axis_alone(equation, x, t, g)
        return "diagonal"
    if equation.motions == 1:
        return "scalar"
    # beside x too: where chains start, at 0 say, much commutes that does not elsewhere
    x = np.concatenate([x, x + BESIDE * (1 + np.abs(x)) * (2 + np.cos(np.arange(x.size).reshape(x.shape)))])
    g = equation.noise_at(x, t)
    moved = transported(g, equation.noise_slope(x, t))
    gap = np.abs(moved - np.swapaxes(moved, 1, 2)).max(initial=0.0)
    # the slope of what does not change is rounding: 1e-11 |G| on lengths of 1 and more
    rounding = 1e-8 * np.abs(g).max(initial=0.0) ** 2
    return "commutative" if gap <= SYMMETRIC * np.abs(moved).max(initial=0.0) + rounding else "general"


def _each_axis_alone(equation: StochasticEquation, x: Array, t: float, g: Array) -> None:
    """Move half of the axes, by every binary digit of their numbers and both ways: what stays must not change."""
    for digit in range(max(equation.dim - 1, 0).bit_length()):
        for chosen in (0, 1):
            moves = (np.arange(equation.dim) >> digit & 1) == chosen
            there = equation.noise_at(x + np.where(moves, BESIDE * (1 + np.abs(x)), 0.0), t)
            if (np.abs(there - g)[:, ~moves] > 1e-12 * np.abs(g).max(initial=0.0)).any():
                raise ValueError("noise must answer with matrices (n, d, d) where G_i depends on other axes than its "
                                 "own, got a diagonal (n, d)")  # fmt: skip


def transported(g: Array, slope: Array) -> Array:
    """L^j G_k for matrices g (n, d, m) of slope (n, d, m, d): shape (n, m, m, d), by j, then k."""
    return np.asarray(np.einsum("nlj,nikl->njki", g, slope))


@dataclass(frozen=True, eq=False)
class Leg:
    """A step from time s to time t of either sign, for points (n, d), with what the path does meanwhile.

    Args:
        equation: what is solved.
        s, t: where the step starts and ends.
        dw: the increment of the path, shape (n, m).
        area: its space-time area H, shape (n, m).
    """

    equation: StochasticEquation
    s: float
    t: float
    dw: Array
    area: Array

    @property
    def h(self) -> float:
        """|t - s|."""
        return abs(self.t - self.s)

    @property
    def root(self) -> float:
        """sqrt(h)."""
        return float(np.sqrt(self.h))

    @property
    def chi(self) -> Array:
        """int (w_u - w_s) du / h = dw / 2 + H, shape (n, m)."""
        return 0.5 * self.dw + self.area

    def time(self, part: float) -> float:
        """The time after `part` of the step; its ends exactly."""
        return self.s if part == 0 else self.t if part == 1 else self.s + part * (self.t - self.s)

    def force(self, x: Array, part: float = 0.0) -> Array:
        """The drift at x (n, d) after `part` of the step, in the direction of travel."""
        b = self.equation.drift_at(x, self.time(part))
        return b if self.t > self.s else -b

    def stratonovich(self, x: Array, part: float = 0.0) -> Array:
        """The force at x (n, d), after `part` of the step, of the same equation in Stratonovich's sense."""
        if self.equation.additive:
            return self.force(x, part)
        g, slope = self.noise(x, part), self.equation.noise_slope(x, self.time(part))
        own = g * slope if g.ndim == 2 else np.einsum("nlj,nijl->ni", g, slope)
        return self.force(x, part) - 0.5 * own

    def linear(self, part: float = 0.0) -> Operator:
        """F after `part` of the step, in the direction of travel."""
        f = self.equation.linear_at(self.time(part))
        return f if self.t > self.s else -f

    def noise(self, x: Array, part: float = 0.0) -> Operator:
        """G at x (n, d) after `part` of the step: an operator where additive, else (n, d) or (n, d, m)."""
        return self.equation.noise_at(x, self.time(part))

    def scatter(self, g: Operator, v: Array) -> Array:
        """G v, shape (n, d), for the noise g as `noise` answers and v (n, m)."""
        if self.equation.additive:
            return operators.apply(g, v)
        return g * v if g.ndim == 2 else np.einsum("nij,nj->ni", g, v)
