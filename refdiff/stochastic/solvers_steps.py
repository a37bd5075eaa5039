r"""One step of every method, for a force b and noise G over a step of length h with increment dw and area H.

    Euler-Maruyama   x + h b + G dw
    Milstein         Euler-Maruyama + sum_jk L^j G_k (dw_j dw_k - h delta_jk) / 2, L^j G_k of the slope of G, or as
                     [G_k(x + sqrt(h) G_j) - G_k(x)] / sqrt(h), which needs none
    Heun             y = x + h b(x) + G(x) dw,   x + h [b(x) + b(y)] / 2 + [G(x) + G(y)] dw / 2, in Stratonovich's sense
    exponential      e^z x + h phi_1(z) (b - F x) + phi_1(z) G dw + 12 (phi_1(z)/2 - phi_2(z)) G H,  z = h F and G at
                     the middle of the step: int e^{F (t - u)} G dw but for a variance of order h^5
    SRA, SRI         Runge-Kutta methods of strong order 3/2 (Roessler): tables of numbers below
    Platen           the explicit method of weak order 2 for noise of any kind (Kloeden and Platen, 15.1.3)

Platen's method asks for two-point variables V_jk = +-h: the signs of H_j H_k are such, independent of all increments.
Of three of them, V_12 V_13 V_23 = h^3 is no zero, which is of the order that weak order 2 leaves out.
Sources: PODD-62, PODD-64; Kloeden and Platen 1992; Roessler 2010 (SRA1, SRA3, SRIW1, SRID2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.operators import Operator
from refdiff.samplers.numbers import phi
from refdiff.stochastic.solvers_noise import Leg, transported

Step = Callable[[Leg, Array], Array]


def euler_maruyama(leg: Leg, x: Array) -> Array:
    """x + h b + G dw for points x (n, d) over a leg."""
    return x + leg.h * leg.force(x) + leg.scatter(leg.noise(x), leg.dw)


def milstein(leg: Leg, x: Array) -> Array:
    """Milstein's method with the slope of G, for points x (n, d) over a leg with commutative noise."""
    plain = euler_maruyama(leg, x)
    if leg.equation.additive:
        return plain
    g, slope = leg.noise(x), leg.equation.noise_slope(x, leg.s)
    if g.ndim == 2:
        return np.asarray(plain + 0.5 * g * slope * (leg.dw**2 - leg.h))
    return np.asarray(plain + 0.5 * np.einsum("njki,njk->ni", transported(g, slope), _products(leg)))


def explicit_milstein(leg: Leg, x: Array) -> Array:
    """Milstein's method with differences of G over sqrt(h), for points x (n, d) over a leg with commutative noise."""
    plain = euler_maruyama(leg, x)
    if leg.equation.additive:
        return plain
    g = leg.noise(x)
    if g.ndim == 2:
        change = leg.noise(x + leg.root * g) - g
        return plain + 0.5 * change / leg.root * (leg.dw**2 - leg.h)
    products = _products(leg)
    for j in range(leg.equation.motions):
        change = leg.noise(x + leg.root * g[:, :, j]) - g
        plain = plain + 0.5 / leg.root * np.einsum("nik,nk->ni", change, products[:, j])
    return plain


def _products(leg: Leg) -> Array:
    """dw_j dw_k - h delta_jk, shape (n, m, m)."""
    return np.asarray(leg.dw[:, :, None] * leg.dw[:, None, :] - leg.h * np.eye(leg.dw.shape[1]))


def heun(leg: Leg, x: Array) -> Array:
    """Heun's method for points x (n, d) over a leg of an equation in Ito's sense."""
    return _heun(leg, x, leg.stratonovich)


def stratonovich_heun(leg: Leg, x: Array) -> Array:
    """Heun's method for points x (n, d) over a leg of an equation in Stratonovich's sense."""
    return _heun(leg, x, leg.force)


def _heun(leg: Leg, x: Array, force: Callable[[Array, float], Array]) -> Array:
    first, scattered = force(x, 0.0), leg.scatter(leg.noise(x), leg.dw)
    y = x + leg.h * first + scattered
    return x + 0.5 * leg.h * (first + force(y, 1.0)) + 0.5 * (scattered + leg.scatter(leg.noise(y, 1.0), leg.dw))


def exponential(leg: Leg, x: Array) -> Array:
    """The exponential Euler method for points x (n, d) over a leg with additive noise."""
    growth, one, two = exponentials(leg.h * leg.linear(0.5))
    rest = leg.force(x) - operators.apply(leg.linear(), x)
    g = leg.noise(x, 0.5)
    first = operators.apply(one, leg.scatter(g, leg.dw))
    second = operators.apply(operators.add(6 * one, -12 * two), leg.scatter(g, leg.area))
    return operators.apply(growth, x) + leg.h * operators.apply(one, rest) + first + second


def exponentials(z: Operator) -> tuple[Operator, Operator, Operator]:
    """e^z, phi_1(z) = int_0^1 e^{uz} du and phi_2(z) = int_0^1 (1 - u) e^{uz} du of an operator z on R^d."""
    if z.ndim < 2:
        growth, one, two = (np.asarray(phi(k, z)) for k in range(3))
        return growth, one, two
    from scipy.linalg import expm  # late: it takes longer to import than all of this package

    d, nothing, unit = len(z), np.zeros_like(z), np.eye(len(z))
    rows = expm(np.block([[z, unit, nothing], [nothing, nothing, unit], [nothing, nothing, nothing]]))[:d]
    return rows[:, :d], rows[:, d : 2 * d], rows[:, 2 * d :]


# ---------------------------------------------------------------------- Roessler's tables


class RungeKutta(NamedTuple):
    """A stochastic Runge-Kutta method: rows of weights, as Roessler names them.

    drift_times, drift_drift, drift_noise: c0, A0 and B0, of the stages at which the drift is evaluated.
    noise_times, noise_drift, noise_noise: c1, A1 and B1, of the stages at which G is; A1 and B1 are empty for SRA.
    drift: alpha.   noise: beta1, beta2, ...: of dw, chi (SRA) or of dw, (dw^2 - h) / 2 sqrt(h), chi and
    (dw^3 - 3 h dw) / 6 h (SRI).
    """

    drift_times: tuple[float, ...]
    drift_drift: tuple[tuple[float, ...], ...]
    drift_noise: tuple[tuple[float, ...], ...]
    noise_times: tuple[float, ...]
    noise_drift: tuple[tuple[float, ...], ...]
    noise_noise: tuple[tuple[float, ...], ...]
    drift: tuple[float, ...]
    noise: tuple[tuple[float, ...], ...]


SRA1 = RungeKutta((0, 3 / 4), ((), (3 / 4,)), ((), (3 / 2,)), (1, 0), (), (), (1 / 3, 2 / 3), ((1, 0), (-1, 1)))
SRA3 = RungeKutta(
    (0, 1, 1 / 2),
    ((), (1,), (1 / 4, 1 / 4)),
    ((), (0,), (1, 1 / 2)),
    (1, 0, 0),
    (),
    (),
    (1 / 6, 1 / 6, 2 / 3),
    ((1, 0, 0), (-1, 1, 0)),
)
SRI1 = RungeKutta(
    (0, 3 / 4, 0, 0),
    ((), (3 / 4,), (0, 0), (0, 0, 0)),
    ((), (3 / 2,), (0, 0), (0, 0, 0)),
    (0, 1 / 4, 1, 1 / 4),
    ((), (1 / 4,), (1, 0), (0, 0, 1 / 4)),
    ((), (1 / 2,), (-1, 0), (-5, 3, 1 / 2)),
    (1 / 3, 2 / 3, 0, 0),
    ((-1, 4 / 3, 2 / 3, 0), (-1, 4 / 3, -1 / 3, 0), (2, -4 / 3, -2 / 3, 0), (-2, 5 / 3, -2 / 3, 1)),
)
SRI2 = RungeKutta(
    (0, 1, 1 / 2, 0),
    ((), (1,), (1 / 4, 1 / 4), (0, 0, 0)),
    ((), (0,), (1, 1 / 2), (0, 0, 0)),
    (0, 1 / 4, 1, 1 / 4),
    ((), (1 / 4,), (1, 0), (0, 0, 1 / 4)),
    ((), (-1 / 2,), (1, 0), (2, -1, 1 / 2)),
    (1 / 6, 1 / 6, 2 / 3, 0),
    ((-1, 4 / 3, 2 / 3, 0), (1, -4 / 3, 1 / 3, 0), (2, -4 / 3, -2 / 3, 0), (-2, 5 / 3, -2 / 3, 1)),
)


def additive_runge_kutta(table: RungeKutta) -> Step:
    """The step of an SRA method, given by its table."""

    def step(leg: Leg, x: Array) -> Array:
        noises = [leg.noise(x, c) for c in table.noise_times]
        forces: list[Array] = []
        for i, c in enumerate(table.drift_times):
            y = x + leg.h * _sum(table.drift_drift[i], forces)
            for weight, g in zip(table.drift_noise[i], noises, strict=False):
                y = y + weight * leg.scatter(g, leg.chi) if weight else y
            forces.append(leg.force(y, c))
        total = x + leg.h * _sum(table.drift, forces)
        for g, of_dw, of_chi in zip(noises, *table.noise, strict=True):
            total = total + leg.scatter(g, of_dw * leg.dw + of_chi * leg.chi) if of_dw or of_chi else total
        return total

    return step


def diagonal_runge_kutta(table: RungeKutta) -> Step:
    """The step of an SRI method, given by its table, for diagonal noise or one motion."""
    rows = (table.drift, *table.drift_drift, *table.noise_drift)
    asked = [any(len(row) > i and row[i] != 0 for row in rows) for i in range(len(table.drift))]

    def step(leg: Leg, x: Array) -> Array:
        h, dw = leg.h, leg.dw
        integrals = (dw, 0.5 * (dw**2 - h) / leg.root, leg.chi, dw * (dw**2 - 3 * h) / (6 * h))
        unit = np.full_like(dw, leg.root)
        forces: list[Array] = []
        spread: list[Array] = []  # G chi
        steps: list[Array] = []  # G sqrt(h)
        total = x
        for i, c in enumerate(table.noise_times):
            y = x + h * _sum(table.drift_drift[i], forces) + _sum(table.drift_noise[i], spread)
            forces.append(leg.force(y, table.drift_times[i]) if asked[i] else np.zeros_like(x))
            z = x + h * _sum(table.noise_drift[i], forces) + _sum(table.noise_noise[i], steps)
            g = leg.noise(z, c)
            weighted = sum((row[i] * value for row, value in zip(table.noise, integrals, strict=True)), 0.0 * dw)
            total = total + h * table.drift[i] * forces[i] + leg.scatter(g, weighted)
            spread.append(leg.scatter(g, leg.chi))
            steps.append(leg.scatter(g, unit))
        return total

    return step


def _sum(weights: tuple[float, ...], terms: list[Array]) -> Array | float:
    """sum_j w_j v_j of the terms that there are."""
    total: Array | float = 0.0
    for weight, term in zip(weights, terms, strict=False):
        total = total + weight * term if weight else total
    return total


# ---------------------------------------------------------------------- weak order 2


def platen(leg: Leg, x: Array) -> Array:
    """Platen's explicit method of weak order 2 for points x (n, d) over a leg, noise of any kind."""
    h, root, first, g = leg.h, leg.root, leg.force(x), leg.noise(x)
    moved, scattered = x + h * first, leg.scatter(g, leg.dw)
    drift = x + 0.5 * h * (first + leg.force(moved + scattered, 1.0))
    if leg.equation.additive:
        return drift + 0.5 * (scattered + leg.scatter(leg.noise(x, 1.0), leg.dw))
    if g.ndim == 2:
        up, down = leg.noise(moved + root * g, 1.0), leg.noise(moved - root * g, 1.0)
        return drift + 0.25 * (up + down + 2 * g) * leg.dw + 0.25 * (up - down) * (leg.dw**2 - h) / root
    return drift + _platen_noise(leg, x, moved, g)


def _platen_noise(leg: Leg, x: Array, moved: Array, g: Array) -> Array:
    """The noise of Platen's method where G is matrices g (n, d, m)."""
    h, root, m = leg.h, leg.root, leg.equation.motions
    signs = np.sign(leg.area)
    total = np.zeros_like(x)
    for r in range(m):
        own = g[:, :, r] * root
        for j in range(m):
            start, part = (moved, 1.0) if r == j else (x, 0.0)
            up, down = (leg.noise(start + sign * own, part)[:, :, j] for sign in (1, -1))
            v = -h if r == j else (1 if r < j else -1) * h * signs[:, r] * signs[:, j]
            base = (2 if r == j else -2) * g[:, :, j]
            total = total + 0.25 * (up + down + base) * leg.dw[:, j, None]
            total = total + 0.25 * (up - down) / root * (leg.dw[:, r] * leg.dw[:, j] + v)[:, None]
    return total
