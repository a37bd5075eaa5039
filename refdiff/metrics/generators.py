r"""The convex functions of f-divergences, weighted so that nothing overflows and nothing cancels.

    D_f(p || q) = int q f(p / q) = E_m h(l),     m = (p + q) / 2,   l = log p - log q,   h(l) = 2 f(e^l) / (1 + e^l)

for f convex with f(1) = 0; where f'(1) = 0 too, as can be had by adding a multiple of u - 1, h is never negative and
of second order in l. Where q has no mass p adds f'(inf), and where p has none q adds f(0). One family holds most:

    f_a(u) = (u^a - a u + a - 1) / (a (a - 1)),   f_a'' = u^(a - 2)

    a = 1 KL      a = 0 reverse KL      a = 1/2 four squared Hellinger      a = 2 half of chi-squared

The others are bounded: with u = tanh(l / 2), Jensen-Shannon is h = u l / 2 + log(1 - u^2) / 2 and total variation |u|.
Sources: PODA-104; Liese and Vajda 2006, "On divergences and informations in statistics and information theory".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from scipy.special import expit, exprel, log_expit

from refdiff.arguments import Array, answered, real_scalar

Function = Callable[[Array], Array]
Weighted = Callable[[Array, "Array | float"], Array]

TERMS = 16  # of a series in a l for |a l| <= 1/2: what follows is below 1e-16 of the first
NEAR = 0.5


@dataclass(frozen=True)
class FDivergence:
    """An f-divergence.

    Attributes:
        name: what it is called.
        weighted: h(l) e^r, from l and r (n,) to (n,): r is far below 0 where h itself is no number.
        at_zero: f(0), which may be infinite.
        slope: the limit of f(u) / u, which may be infinite.
        alpha: a, where f is a multiple of f_a, and `factor` that multiple.
    """

    name: str
    weighted: Weighted
    at_zero: float
    slope: float
    alpha: float | None = None
    factor: float = 1.0


def alpha_divergence(alpha: float, name: str | None = None, factor: float = 1.0) -> FDivergence:
    """A `factor` times D_a for any real a = `alpha`, called `name`.

    Raises:
        ValueError: alpha is not finite, or the factor not positive.
    """
    a = real_scalar("alpha", alpha)
    factor = real_scalar("factor", factor, low=0, open_low=True)
    at_zero, slope = (factor / one if one > 0 else np.inf for one in (a, 1 - a))
    name = f"alpha {a:g}" if name is None else name
    return FDivergence(name, partial(_alpha, a=a, factor=factor), at_zero, slope, a, factor)


def own_divergence(f: Function, at_zero: float = np.inf, slope: float = np.inf, name: str = "own") -> FDivergence:
    """The divergence of any convex f.

    Args:
        f: from ratios u > 0, (n,), to (n,), with f(1) = 0. Where it bends, sums over a lattice err by h^2 of their
            spacing, as much as they change.
        at_zero: f(0), or its limit.
        slope: the limit of f(u) / u for large u.
        name: what it is called.

    Raises:
        ValueError: f(1) is not 0, or f not convex on some points between e^-8 and e^8.
    """
    u = np.exp(np.linspace(-8, 8, 257))
    values = answered("f", f(u), u.shape, finite=True)
    size = np.abs(values).max()
    if abs(values[128]) > 1e-12 * size:
        raise ValueError(f"f must be 0 at 1, got {values[128]}")
    slopes = np.diff(values) / np.diff(u)
    if (np.diff(slopes) < -1e-9 * np.abs(slopes).max()).any():
        raise ValueError("f must be convex, got slopes that fall")

    def weighted(l: Array, r: Array | float) -> Array:
        # beyond the range of floats u is as large as it can be, and 2 / (1 + u) makes nothing of it
        ratio = np.exp(np.clip(l, -700, 700))
        return np.asarray(2 * expit(-l) * answered("f", f(ratio), ratio.shape) * np.exp(r))

    return FDivergence(name, weighted, at_zero, slope)


def _alpha(l: Array, r: Array | float, a: float, factor: float) -> Array:
    """h of f_a: the difference of two integrals of e^(a t), or its series where they meet."""
    near = np.abs(l) * max(1.0, abs(a)) <= NEAR
    small = np.where(near, l, 0.0)
    term, geometric, series = 0.5 * small**2, 1.0, np.zeros_like(l)
    for n in range(2, TERMS):  # sum_n l^n / n! (1 + a + ... + a^(n - 2))
        series += term * geometric
        term, geometric = term * small / (n + 1), 1.0 + a * geometric
    far = np.where(near, 1.0, l)
    with np.errstate(over="ignore", invalid="ignore"):
        difference = far * (_grown(far, (a - 1) * far, r) - _grown(-far, a * far, r))
        # two infinite terms: the result is beyond the range of floats
        difference = np.where(np.isnan(difference), np.inf, difference)
    return factor * 2 * np.where(near, expit(-small) * series * np.exp(r), difference)


def _grown(l: Array, x: Array, r: Array | float) -> Array:
    """exprel(x) e^r / (1 + e^-l), with e^x taken out where x > 0: the whole may be small where e^x is no number."""
    return np.asarray(np.exp(log_expit(l) + np.maximum(x, 0.0) + r) * exprel(-np.abs(x)))


def _jensen_shannon(l: Array, r: Array | float) -> Array:
    u = np.tanh(0.5 * l)
    near = np.abs(l) < 1
    logs = np.where(near, np.log1p(-(np.where(near, u, 0.0) ** 2)), np.log(4) + log_expit(l) + log_expit(-l))
    return np.asarray(0.5 * (u * l + logs) * np.exp(r))


def _total_variation(l: Array, r: Array | float) -> Array:
    return np.asarray(np.abs(np.tanh(0.5 * l)) * np.exp(r))


NAMED: Mapping[str, FDivergence] = MappingProxyType(
    {
        one.name: one
        for one in (
            alpha_divergence(1.0, "kl"),
            alpha_divergence(0.0, "reverse-kl"),
            alpha_divergence(0.5, "hellinger", 0.25),
            alpha_divergence(2.0, "chi-squared", 2.0),
            FDivergence("js", _jensen_shannon, 0.5 * np.log(2), 0.5 * np.log(2)),
            FDivergence("total-variation", _total_variation, 0.5, 0.5),
        )
    }
)
