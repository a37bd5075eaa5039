r"""Two sweeps over the components: what responsibility-weighted second moments of outputs and gradients stand on.

For a block of points x, with o_k = mu m_k + B_k t_k, g_k = -T_k^-1 t_k and t_k = x - a m_k as in `mixture`,

    first sweep    o = sum_k r_k o_k,    g = sum_k r_k g_k,    the largest logit
    second sweep   r_k anew,    o_k - o,    g_k - g

so that no two large numbers meet in a sum of products, and what rounding moves o and g by enters it only squared.
Where all components have one covariance, both fields are one:

    o_k - o = (mu - B a)(m_k - c),    g_k - g = a T^-1 (m_k - c),    c = sum_k r_k m_k
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from refdiff.kernels.numba.compiling import inlined, shared, wide_vectors
from refdiff.kernels.numba.lanes import aligned
from refdiff.kernels.numba.laws import TILE, Mixture, pull, slope, spread, workspace
from refdiff.kernels.numba.mixture import evaluate
from refdiff.kernels.numba.tiles import LANES, accumulate, logits, products, weighted_logits
from refdiff.kernels.numba.vector_math import LOG2_E, exp2_nonpositive, log

GROUP = 4  # components whose fields lie in memory at a time: 2 x 256 kB of float64 where d = 64, half of a second cache

# What a block needs besides the workspace of `evaluate`: parameters of another output; points, o, c and g on the axes
# of the covariances; for a tile of components mu m_k, b_k, 1 / T_k, (mu - b_k a) a / T_k, S_k q / T_k and tr B_k, and
# rows of its results; numbers of each lane; averages over the components; fields o_k - o, g_k - g of a group.
Second = namedtuple(
    "Second",
    "base others turned output mean gradient targets slopes gaps weights rests traces rows total lane averages "
    "left right none",
)


@shared
def workspace_second(x: Any, mixture: Any, at: Any, group: int = 1) -> Any:
    """Room for `evaluate_divergence` on points of the type of x, or for what takes `group` components at a time."""
    kind, dim = x.dtype, mixture.means.shape[1]
    axes = dim if mixture.bases.shape[0] > 0 else max(mixture.variances.shape[1], at.shape[1])
    return Second(
        workspace(x, dim, axes),
        aligned((5, at.shape[1]), kind),
        aligned((dim, LANES), kind),
        aligned((dim, LANES), kind),
        aligned((dim, LANES), kind),
        aligned((dim, LANES), kind),
        aligned((TILE, dim), kind),
        aligned((TILE, axes), kind),
        aligned((TILE, axes), kind),
        aligned((TILE, axes), kind),
        aligned((TILE, axes), kind),
        aligned((TILE,), kind),
        aligned((TILE, LANES), kind),
        aligned((LANES,), kind),
        aligned((LANES,), kind),
        aligned((axes, LANES), kind),
        aligned((group, dim, LANES), kind),
        aligned((group, dim, LANES), kind),
        np.empty((0, dim, dim), kind),
    )


# ---------------------------------------------------------------------- bases


@inlined
def on_axes(x: Any, mixture: Any, work: Any) -> Any:
    """Points and mixture in the one basis of all components, if there is one: there covariances are diagonal."""
    if mixture.bases.shape[0] != 1:
        return x, mixture
    forward(x, mixture.bases[0], work.turned)
    parts = Mixture(mixture.means, mixture.variances, mixture.log_weights, work.none)
    return work.turned, parts


@inlined
def forward(x: Any, basis: Any, out: Any) -> None:
    """U' x, the coordinates in a basis."""
    out[:] = 0
    accumulate(x, basis, 0, len(basis), out)


@inlined
def back(x: Any, basis: Any, out: Any) -> None:
    """U x, out of a basis."""
    out[:] = 0
    products(x, basis, len(basis), out)


# ---------------------------------------------------------------------- the first sweep


@inlined
def _others(at: Any, work: Any, mu: float, gamma: float) -> Any:
    """Parameters of another output at the same time."""
    for s in range(at.shape[1]):
        work.others[0, s], work.others[1, s] = at[0, s], at[1, s]
        work.others[2, s], work.others[3, s], work.others[4, s] = mu, 0, gamma
    return work.others


@shared
def find_centres(x: Any, mixture: Any, at: Any, work: Any) -> None:
    """o and g at x; where all components have one covariance, c and from it o and g."""
    none = work.total[:0]
    if mixture.variances.shape[0] > 1:
        evaluate(x, mixture, _others(at, work, 0, -1), work.base, work.gradient, none)
        evaluate(x, mixture, at, work.base, work.output, none)
        return
    evaluate(x, mixture, _others(at, work, 1, 0), work.base, work.mean, none)
    for j in range(x.shape[0]):
        s, v = 0 if at.shape[1] == 1 else j, mixture.variances[0, 0 if mixture.variances.shape[1] == 1 else j]
        t = spread(at, s, v)
        b = slope(at, s, v, t)
        for i in range(LANES):
            c = work.mean[j, i]
            delta = x[j, i] - at[0, s] * c
            work.output[j, i] = at[2, s] * c + b * delta
            work.gradient[j, i] = -delta / t


# ---------------------------------------------------------------------- the second sweep


@shared
def _tables(mixture: Any, at: Any, work: Any, begin: int, size: int) -> None:
    """Numbers of the components begin .. begin + size - 1, on the axes of their covariances."""
    variances, dim, axes = mixture.variances, mixture.means.shape[1], work.slopes.shape[1]
    one, flat, still = variances.shape[0] == 1, variances.shape[1] == 1, at.shape[1] == 1
    base, kind = work.base, mixture.means.dtype.type
    bits, half, copies = kind(LOG2_E), kind(0.5), kind(dim // axes)
    for k in range(size):
        for j in range(axes):
            v, s = variances[0 if one else begin + k, 0 if flat else j], 0 if still else j
            base.spread[j] = t = spread(at, s, v)
            base.precisions[k, j] = bits * -half / t
            work.gaps[k, j] = kind(1) / t
            work.slopes[k, j] = b = slope(at, s, v, t)
            work.weights[k, j] = pull(at, s, b) * at[0, s] / t
            work.rests[k, j] = v / t * at[1, s]
        for j in range(axes):
            base.spread[j] = log(base.spread[j])
        trace, total_log = kind(0), kind(0)
        for j in range(axes):
            trace += work.slopes[k, j]
            total_log += base.spread[j]
        work.traces[k] = copies * trace
        base.offsets[k] = bits * (mixture.log_weights[begin + k] - half * copies * total_log)
        for j in range(dim):
            s, m = 0 if still else j, mixture.means[begin + k, j]
            base.centres[k, j] = at[0, s] * m
            work.targets[k, j] = at[2, s] * m


@inlined
def logit_rows(x: Any, mixture: Any, at: Any, work: Any, begin: int, size: int, top: Any) -> None:
    """Logits of the components begin .. begin + size - 1 in base 2, the largest so far into top, and the tables."""
    base = work.base
    _tables(mixture, at, work, begin, size)
    if mixture.bases.shape[0] > 1:
        for k in range(size):
            _logit_row(x, mixture, work, begin + k, k, top)
    elif base.precisions.shape[1] == 1:
        logits(x, base.centres, base.precisions, base.offsets, size, base.rows, top)
    else:
        weighted_logits(x, base.centres, base.precisions, base.offsets, size, base.rows, top)


@shared
def _logit_row(x: Any, mixture: Any, work: Any, number: int, k: int, top: Any) -> None:
    """The same for one component, row k of the tables, with a basis of its own; t_k in it is left in base.turned."""
    base, row = work.base, work.base.rows[k]
    for j in range(x.shape[0]):
        for i in range(LANES):
            base.spare[j, i] = x[j, i] - base.centres[k, j]
    forward(base.spare, mixture.bases[number], base.turned)
    row[:] = 0
    for e in range(x.shape[0]):
        for i in range(LANES):
            row[i] += base.turned[e, i] * base.turned[e, i] * base.precisions[k, e]
    for i in range(LANES):
        row[i] += base.offsets[k]
        top[i] = max(top[i], row[i])


@inlined
def powers(rows: Any, size: int, top: Any, total: Any) -> None:
    """Logits become responsibilities, up to a factor 1 / total: 2^(l - top)."""
    # What is too small to be felt is 0: what it would be multiplied with grows like the logits. Float32 ends at 2^-126.
    least, zero = rows.dtype.type(-500), rows.dtype.type(0)
    for k in range(size):
        row = rows[k]
        for i in range(LANES):
            fall = row[i] - top[i]
            r = exp2_nonpositive(fall) if fall >= least else zero
            row[i] = r
            total[i] += r


@shared
def find_fields(x: Any, mixture: Any, at: Any, work: Any, begin: int, size: int) -> None:
    """o_k - o and g_k - g of a group of components, in work.left and work.right, and their responsibilities."""
    wide_vectors()
    base, turns, dim, one = work.base, mixture.bases.shape[0], x.shape[0], mixture.variances.shape[0] == 1
    if turns == 0:
        logit_rows(x, mixture, at, work, begin, size, work.lane)
    else:
        _tables(mixture, at, work, begin, size)
    for k in range(size):
        left, right = work.left[k], work.right[k]
        if turns > 0:
            _logit_row(x, mixture, work, begin + k, k, work.lane)
            basis = mixture.bases[begin + k]
            for e in range(dim):
                for i in range(LANES):
                    base.spare[e, i] = work.slopes[k, e] * base.turned[e, i]
                    base.turned[e, i] *= -work.gaps[k, e]
            back(base.spare, basis, left)
            back(base.turned, basis, right)
        for j in range(dim):
            s = 0 if work.slopes.shape[1] == 1 else j
            p, b, target, centre = work.gaps[k, s], work.slopes[k, s], work.targets[k, j], base.centres[k, j]
            if turns > 0:
                for i in range(LANES):
                    left[j, i] += target - work.output[j, i]
                    right[j, i] -= work.gradient[j, i]
            elif one:
                column = 0 if at.shape[1] == 1 else j
                for i in range(LANES):
                    delta = mixture.means[begin + k, j] - work.mean[j, i]
                    left[j, i] = pull(at, column, b) * delta
                    right[j, i] = at[0, column] * p * delta
            else:
                for i in range(LANES):
                    t = x[j, i] - centre
                    left[j, i] = (target - work.output[j, i]) + b * t
                    right[j, i] = -(work.gradient[j, i] + p * t)
    powers(base.rows, size, base.top, work.total)
