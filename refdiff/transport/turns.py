r"""Sinkhorn's updates in turns, over-relaxed where that is safe.

    f_i' = -eps log sum_j b_j exp((g_j - c_ij) / eps),      r_i = exp((f_i - f_i') / eps) = (sum_j m_ij) / a_i
    f   <-  f + w (f' - f),      which leaves rows with r_i^(1 - w) of what they should have

and g with columns likewise. So the marginal error of a pair (f, g) is known when either is next computed, at no cost:
sum_i a_i |r_i - 1| of what is about to be updated, and sum_j b_j |r_j^(1 - w) - 1| of what was last.

Near the solution both turns together multiply an error by the squared singular values of the plan, as an operator from
L2(b) to L2(a); with h the second of them, w = 1 converges like h^k and w = 2 / (1 + sqrt(1 - h)) like (w - 1)^k. From
what convergence l is seen at a smaller w, h follows: l h w^2 = (l + w - 1)^2, Young's formula. The dual value rises by

    eps sum_i a_i (r_i - r_i^(1 - w) - w log r_i)       ~  w (2 - w) of what w = 1 gives

of which all is known before the update: w is lowered where it is less than half of that. So no update does harm, and
convergence stays global. Sources: PODB-75; Young 1971, "Iterative solution of large linear systems"; Thibault, Chizat,
Dossal and Papadakis 2021, "Overrelaxed Sinkhorn-Knopp algorithm for regularized optimal transport".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.transport.soft_minima import Side

SETTLED = 0.1  # convergence l has settled where 1 - l changes by this part of it
LARGEST = 1.999  # of w: beyond, roundings take over


class Turns:
    """Potentials and their updates.

    Args:
        rows: sums over y for each x.
        columns: sums over x for each y.
        g: potentials to start from, shape (m,).
        accelerated: whether updates may go beyond.

    Attributes:
        a, b: weights, shapes (n,) and (m,).
        f, g: potentials, shapes (n,) and (m,).
        total: the mass of the plan.
        errors: marginal errors met so far.
    """

    def __init__(self, rows: Side, columns: Side, g: Array, accelerated: bool) -> None:
        self.rows, self.columns, self.accelerated = rows, columns, accelerated
        self.a, self.b = np.exp(columns.log_weights), np.exp(rows.log_weights)
        self.f, self.g = np.zeros(len(self.a)), g
        self.total, self.errors = 1.0, list[float]()

    def until(self, epsilon: float, tolerance: float, most: int) -> int:
        """Update for eps = `epsilon` until the marginal error is within a tolerance, `most` times at most; how many."""
        pace, left = Pace(), 0.0
        self.f, self.total = epsilon * self.rows.minima(self.g, epsilon, self.f / epsilon), 1.0
        for count in range(1, most + 1):
            new = epsilon * self.columns.minima(self.f, epsilon, self.g / epsilon)
            lacks = (self.g - new) / epsilon
            self.errors.append(left + _distance(self.b, lacks))
            if self.errors[-1] <= tolerance or count == most:
                return count
            w = pace.next(float(np.sqrt(self.b @ np.minimum(np.abs(lacks), 1e100) ** 2))) if self.accelerated else 1.0
            self.g, left, _ = updated(self.b, self.g, lacks, epsilon, w)
            lacks = (self.f - epsilon * self.rows.minima(self.g, epsilon, self.f / epsilon)) / epsilon
            self.f, left, self.total = updated(self.a, self.f, lacks, epsilon, w)
        return most


class Pace:
    """How far updates go, from how fast norms fall.

    Attributes:
        w: how far.
        waited: iterations since w was changed.
        norm, rate: the last norm, and to the one before.
    """

    def __init__(self) -> None:
        self.w, self.waited = 1.0, 0
        self.norm = self.rate = np.inf

    def next(self, norm: float) -> float:
        """w, after an iteration that met this norm of log r."""
        rate, before = norm / self.norm if self.norm > 0 else 0.0, self.rate
        self.norm, self.rate, self.waited = norm, rate, self.waited + 1
        # what was begun with another w dies out like (w - 1)^k
        if self.waited * (2 - self.w) < 2 or not self.w - 1 < rate < 1:
            return self.w
        if abs(rate - before) <= SETTLED * (1 - rate):
            h = (rate + self.w - 1) ** 2 / (rate * self.w**2)
            best = min(LARGEST, 2 / (1 + np.sqrt(max(0.0, 1 - h))))
            if best - self.w > SETTLED * (2 - self.w):
                self.w, self.waited = best, 0
        return self.w


def updated(weights: Array, old: Array, lacks: Array, epsilon: float, w: float) -> tuple[Array, float, float]:
    """old - w eps log r, the marginal error that this leaves, and the mass of the plan.

    Args:
        weights: a, shape (n,).
        old: potentials, shape (n,).
        lacks: log r, shape (n,).
        epsilon: eps.
        w: how far.
    """
    if w > 1:
        with np.errstate(over="ignore", invalid="ignore"):
            plain = weights @ (np.expm1(lacks) - lacks)
            while w > 1 and not _gain(weights, lacks, w) >= 0.5 * w * (2 - w) * plain:
                w = 1 + (w - 1) / 2 if w > 1.05 else 1.0
    left = (1 - w) * lacks
    return old - w * epsilon * lacks, _distance(weights, left) if w > 1 else 0.0, float(weights @ np.exp(left))


def _gain(weights: Array, lacks: Array, w: float) -> Any:
    return weights @ (np.expm1(lacks) - np.expm1((1 - w) * lacks) - w * lacks)


def _distance(weights: Array, lacks: Array) -> float:
    with np.errstate(over="ignore"):
        return float(weights @ np.abs(np.expm1(lacks)))
