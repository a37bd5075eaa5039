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
convergence stays global.

Where eps is small h is so near 1 that turns of any kind are slow. If the matrix of masses can be held, Newton's steps
follow turns: with rows that are right the dual value as a function of g alone has the gradient and -Hessian

    b - c,      H = (diag(c) - M' diag(1 / a) M) / eps,      c_j = sum_i m_ij

a graph's Laplacian, whose diagonal is summed without a difference. Along a direction d the Hessian changes by factors
e^(t z) at most, z = (max d - min d) / eps, as third cumulants are at most z times variances: t = log(1 + z) / z is the
step for which the dual value surely rises the most, and tends to Newton's own where d is short. Where d is long t is
doubled for as long as the value, which is concave, rises.

Sources: PODB-75; Young 1971, "Iterative solution of large linear systems"; Thibault, Chizat, Dossal and Papadakis 2021,
"Overrelaxed Sinkhorn-Knopp algorithm for regularized optimal transport"; Brauer, Clason, Lorenz and Wirth 2017, "A
Sinkhorn-Newton method for entropic optimal transport"; Sun and Tran-Dinh 2019, "Generalized self-concordant functions".
"""

from __future__ import annotations

from collections.abc import Callable
from math import log1p, sqrt
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.backends import array_module, on_device
from refdiff.transport.soft_minima import Side

SETTLED = 0.1  # convergence l has settled where 1 - l changes by this part of it
LARGEST = 1.999  # of w: beyond, roundings take over
MORE = 2.0  # 2 - w falls by this factor at a time
LONG = 4.0  # times that errors fall by e where w is the best or more, after which less is tried
HELD = 2**11  # points of both laws for Newton's steps, which solve for as many unknowns as q has
LATE = 10  # turns before them, or a quarter of the points of q: what a step costs in turns
FLAT = 1e-12  # what is added to H in units of its diagonal, as its smallest eigenvalues may be lost to rounding
PATIENCE = 10  # steps that may not help


class Turns:
    """Potentials and their updates.

    Args:
        rows: sums over y for each x.
        columns: sums over x for each y.
        g: potentials to start from, shape (m,).
        accelerated: whether updates may go beyond.
        masses: answers with m, shape (n, m), to potentials f and g and eps, for Newton's steps; without it there are
            none.

    Attributes:
        a, b: weights, shapes (n,) and (m,).
        f, g: potentials, shapes (n,) and (m,).
        newton: whether steps of Newton's follow turns.
        total: the mass of the plan, on a GPU an array of one number.
        errors: marginal errors met so far.
    """

    def __init__(
        self, rows: Side, columns: Side, g: Array, accelerated: bool,
        masses: Callable[[Array, Array, float], Array] | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.columns, self.accelerated, self._masses = rows, columns, accelerated, masses
        self.newton = accelerated and masses is not None and len(g) + len(columns.log_weights) <= HELD
        exp, single = array_module(g).exp, g.dtype == np.float32
        self.a, self.b = exp(columns.log_weights), exp(rows.log_weights)
        self.f, self.g = 0 * self.a, g
        self.total: Any = 1.0
        self.errors = list[float]()
        self._eps, self._single = float(np.finfo(g.dtype).eps), single

    def until(self, epsilon: float, tolerance: float, most: int) -> int:
        """Update for eps = `epsilon` until the marginal error is within a tolerance, `most` times at most; how many."""
        pace, left, lost, late = Pace(), 0.0, 0, max(LATE, len(self.b) // 4)
        self.f, self.total = epsilon * self.rows.minima(self.g, epsilon, self.f / epsilon), 1.0
        for count in range(1, most + 1):
            new = epsilon * self.columns.minima(self.f, epsilon, self.g / epsilon)
            lacks = (self.g - new) / epsilon
            self.errors.append(float(left + _distance(self.b, lacks)))
            # Newton's steps, and any in float32, end here or nowhere, once the error is one of roundings of potentials
            if self._single or (self.newton and count > late):
                lost += self.errors[-1] <= 4 * self._eps * self.largest / epsilon
            if self.errors[-1] <= tolerance or count == most or lost > PATIENCE:
                return count
            if self.newton and count > late:
                # from where a turn leads: steps are short in log r, which may be anything where weights are tiny
                self.g, self.f = new, epsilon * self.rows.minima(new, epsilon, self.f / epsilon)
                self._newton(epsilon)
                left = 0.0
                continue
            w = float(pace.next(_norm(self.b, lacks))) if self.accelerated else 1.0
            self.g, left, _ = updated(self.b, self.g, lacks, epsilon, w)
            lacks = (self.f - epsilon * self.rows.minima(self.g, epsilon, self.f / epsilon)) / epsilon
            self.f, left, self.total = updated(self.a, self.f, lacks, epsilon, w)
        return most

    @property
    def largest(self) -> float:
        """The largest |f_i| or |g_j|."""
        return max(float(abs(self.f).max()), float(abs(self.g).max()))

    def _newton(self, epsilon: float) -> None:
        """A step of Newton's from potentials of which f is right, to such potentials."""
        step = epsilon * self._direction(epsilon)
        far = float(step.max() - step.min()) / epsilon
        t, best, first = (log1p(far) / far if far > 0 else 1.0), -np.inf, self.g
        while True:
            g = first + t * step
            f = epsilon * self.rows.minima(g, epsilon, self.f / epsilon)
            value = self.a @ f + self.b @ g
            if not value > best:  # no number, either
                break
            self.f, self.g, best = f, g, value
            if t == 1 or far <= 1:
                break
            t = min(1.0, 2 * t)
        self.total = 1.0

    def _direction(self, epsilon: float) -> Array:
        """H^-1 (b - c) in units of eps, with the mean 0."""
        assert self._masses is not None
        xp, masses = array_module(self.g), self._masses(self.f, self.g, epsilon)
        sums = masses.sum(axis=0)
        links = (masses / self.a[:, None]).T @ masses
        links -= xp.diag(xp.diag(links))
        size, lacking = 1 / xp.sqrt(xp.maximum(sums, self.b)), self.b - sums
        hessian = xp.diag(links.sum(axis=1) * size**2 + FLAT) - links * xp.outer(size, size)
        step = size * _solved(hessian, size * lacking)
        return step - self.b @ step  # type: ignore[no-any-return]


class Pace:
    """How far updates go, from how fast norms fall.

    Attributes:
        w: how far.
        waited: iterations since w was changed, or since it was last asked whether it is too large.
        norm, rate: the last norm, and to the one before.
        first: the norm after what was begun with another w.
    """

    def __init__(self) -> None:
        self.w, self.waited = 1.0, 0
        self.norm = self.rate = self.first = np.inf

    def next(self, norm: float) -> float:
        """w, after an iteration that met this norm of log r."""
        rate, before = norm / self.norm if self.norm > 0 else 0.0, self.rate
        self.norm, self.rate, self.waited = norm, rate, self.waited + 1
        time = self.waited * (2 - self.w)
        # what was begun with another w dies out like (w - 1)^k
        if time < 2:
            self.first = norm
        elif self.w - 1 < rate < 1 and abs(rate - before) <= SETTLED * (1 - rate):
            h = (rate + self.w - 1) ** 2 / (rate * self.w**2)
            # a plateau looks like h = 1
            best = min(LARGEST, 2 / (1 + np.sqrt(max(0.0, 1 - h))), 2 - (2 - self.w) / MORE)
            if best - self.w > SETTLED * (2 - self.w):
                self.w, self.waited = best, 0
        elif time > LONG and self.w > 1:
            # from the best w on convergence is w - 1, whatever h: only less tells how much is too much
            if norm < self.first * np.exp(-0.5 * (time - 2)):
                self.w = max(1.0, 2 - 2 * (2 - self.w))
            self.waited = 0
        return self.w


def _solved(matrix: Any, right: Any) -> Any:
    """The solution for a positive definite matrix (m, m) and a right side (m,)."""
    if on_device(matrix):
        return array_module(matrix).linalg.solve(matrix, right)
    from scipy.linalg import solve  # late: it takes longer to import than all of this package

    return solve(matrix, right, assume_a="pos")


def updated(weights: Array, old: Array, lacks: Array, epsilon: float, w: float) -> tuple[Array, Any, Any]:
    """old - w eps log r, the marginal error that this leaves, and the mass of the plan.

    Args:
        weights: a, shape (n,).
        old: potentials, shape (n,).
        lacks: log r, shape (n,).
        epsilon: eps.
        w: how far.
    """
    xp = array_module(lacks)
    if w > 1:
        with np.errstate(over="ignore", invalid="ignore"):
            plain = weights @ (xp.expm1(lacks) - lacks)
            while w > 1 and not _gain(weights, lacks, w) >= 0.5 * w * (2 - w) * plain:
                w = 1 + (w - 1) / 2 if w > 1.05 else 1.0
    left = (1 - w) * lacks
    return old - w * epsilon * lacks, _distance(weights, left) if w > 1 else 0.0, weights @ xp.exp(left)


def _gain(weights: Array, lacks: Array, w: float) -> Any:
    expm1 = array_module(lacks).expm1
    return weights @ (expm1(lacks) - expm1((1 - w) * lacks) - w * lacks)


def _distance(weights: Array, lacks: Array) -> Any:
    with np.errstate(over="ignore"):
        return weights @ abs(array_module(lacks).expm1(lacks))


def _norm(weights: Array, lacks: Array) -> float:
    most = 1e100 if lacks.dtype == np.float64 else 1e15  # whose squares are no overflow
    return sqrt(float(weights @ array_module(lacks).minimum(abs(lacks), most) ** 2))
