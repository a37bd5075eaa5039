r"""The mixture sum_k w_k N(x; a m_k, T_k), T_k = a S_k a + q, at one time, for a block of points.

With t = x - a m_k, every prediction of an exact model is a choice of three numbers mu, beta, gamma:

    logits   l_k = log w_k - (t' T_k^-1 t + log det T_k) / 2,    r = softmax(l),   log p = logsumexp(l) - d/2 log 2pi
    output   o = sum_k r_k (mu m_k + B_k t),                     B_k = (beta S_k + gamma) T_k^-1

    denoiser (1, a, 0)   score (0, 0, -1)   noise (0, 0, s)   velocity (a', a a', q'/2)   v (-s, -s a, s a),  s^2 = q

Lanes are points: a block is x of shape (d, LANES). Components come in tiles that stay in cache, with the largest logit
so far and a rescaling where it grows (an online log-sum-exp), so no array of points times components exists. A
point's result depends neither on its neighbours in the block nor on the number of threads.

Covariances are variances (K or 1, 1 or d), in a basis of their own where `bases` holds orthogonal matrices: one for
all components, S_k = U diag(v_k) U', or one for each. One decomposition serves all times, as T_k keeps the basis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from refdiff.kernels.numba.compiling import FAST, compiled, inlined, reordered, shared, wide_vectors
from refdiff.kernels.numba.lanes import aligned, borrowed, keep, load, store, store_line
from refdiff.kernels.numba.laws import TILE, Tree, fill_tables, pull, slope, spread, workspace
from refdiff.kernels.numba.pruning import evaluate_pruned, pays
from refdiff.kernels.numba.tiles import (
    LANES,
    absorb,
    absorb_sloped,
    accumulate,
    inner_logits,
    logits,
    products,
    weighted_logits,
)
from refdiff.kernels.numba.vector_math import HALF_LOG_2PI, LN2, LOG2_E, exp2_nonpositive, log

# From so many axes on |t|^2 = |x|^2 - 2 a m.x + |a m|^2 is faster than the squares of differences. Its rounding errors
# are relative to |x|^2 + |a m|^2 <= 2 |t|^2 + 3 |a m|^2, those of the differences to |t|^2, which is d T for points of
# the component. So it serves where |a m|^2 <= d T for all components of a tile, whatever x is: some 8 times the error.
INNER = 12


def evaluate(x: Any, mixture: Any, at: Any, work: Any, out: Any, logp: Any) -> None:
    """Output and log density at the points of a block.

    Args:
        x: points, shape (d, LANES).
        mixture: a Mixture or a Tree.
        at: a, q, mu, beta, gamma, shape (5, 1 or d).
        work: a workspace.
        out: for o, shape (d, LANES).
        logp: for log p, shape (LANES,), or (0,) where it is not wanted.
    """
    (_in_tree if isinstance(mixture, Tree) else _in_mixture)(x, mixture, at, work, out, logp)


def _in_tree(x: Any, mixture: Any, at: Any, work: Any, out: Any, logp: Any) -> None:
    if at.shape[1] == 1 and pays(mixture, at):
        evaluate_pruned(x, mixture, at, work, out, logp)
    else:
        evaluate_all(x, mixture, at, work, out, logp)


def _in_mixture(x: Any, mixture: Any, at: Any, work: Any, out: Any, logp: Any) -> None:
    wide_vectors()
    dim, turns = x.shape[0], mixture.bases.shape[0]
    work.top[:] = np.finfo(x.dtype).min  # finite: a logit of -inf less this one is -inf, and no NaN
    work.total[:] = 0
    work.shrink[:] = 0
    if turns == 0:
        out[:] = 0
        if mixture.variances.shape[1] == 1 and at.shape[1] == 1:
            _scalar(x, mixture, at, work, out)
        else:
            _axes(x, mixture, at, work, out)
    elif turns == 1:
        work.turned[:] = 0
        accumulate(x, mixture.bases[0], 0, dim, work.turned)
        work.spare[:] = 0
        _axes(work.turned, mixture, at, work, work.spare)
        out[:] = 0
        products(work.spare, mixture.bases[0], dim, out)
    else:
        out[:] = 0
        _full(x, mixture, at, work, out)
    half, ln2 = x.dtype.type(dim * HALF_LOG_2PI), x.dtype.type(LN2)
    for i in range(len(logp)):
        logp[i] = ln2 * work.top[i] + log(work.total[i]) - half


evaluate_all = shared(_in_mixture)


@overload(evaluate, jit_options={"error_model": "numpy", "fastmath": FAST, "nogil": True})
def _(x: Any, mixture: Any, at: Any, work: Any, out: Any, logp: Any) -> None:  # noqa: ARG001
    # its signature is the function's, for Numba compares them; what it returns is the code to compile
    return _in_tree if mixture.instance_class is Tree else _in_mixture  # type: ignore[return-value]


@inlined
def _keep_top(work: Any) -> None:
    for i in range(LANES):
        work.rescale[i] = work.top[i]


@inlined
def _bring_up(work: Any, out: Any) -> None:
    """What has been summed, relative to the old largest logit, made relative to the new one, by `rescale`."""
    wide_vectors()
    grown = False
    for i in range(LANES):
        grown |= work.rescale[i] < work.top[i]
    if not grown:
        work.rescale[:] = 1
        return
    least = out.dtype.type(-500)  # as in tiles: no products that are subnormal numbers
    for i in range(LANES):
        fall = work.rescale[i] - work.top[i]
        work.rescale[i] = exp2_nonpositive(fall) if fall > least else 0
        work.total[i] *= work.rescale[i]
        work.shrink[i] *= work.rescale[i]
    for j in range(out.shape[0]):
        line = out[j]
        for i in range(LANES):
            line[i] *= work.rescale[i]


@inlined
def _square_lengths(x: Any, squares: Any) -> None:
    wide_vectors()
    squares[:] = 0
    for j in range(x.shape[0]):
        line = x[j]
        for i in range(LANES):
            squares[i] += line[i] * line[i]


@reordered
def _square_length(row: Any) -> Any:
    total = row.dtype.type(0)
    for j in range(len(row)):
        total += row[j] * row[j]
    return total


@shared
def _turned_inner(size: int, work: Any) -> Any:
    """Whether the tables of a tile have been made those of inner products, where these are as good as differences."""
    wide_vectors()
    dim, kind = work.centres.shape[1], work.centres.dtype.type
    least = kind(-0.5 * LOG2_E) * dim
    for k in range(size):
        work.lengths[k] = _square_length(work.centres[k])
        if not work.precisions[k, 0] * work.lengths[k] >= least:
            return False
    for k in range(size):
        scale = -2 * work.precisions[k, 0]
        for j in range(dim):
            work.centres[k, j] *= scale
        work.offsets[k] += work.precisions[k, 0] * work.lengths[k]
    return True


@shared
def _scalar(x: Any, mixture: Any, at: Any, work: Any, out: Any) -> None:
    """T_k = T_k I: one precision, slope b_k and pull mu - b_k a for each component, or one of each for all."""
    wide_vectors()
    means, one = mixture.means, mixture.variances.shape[0] == 1
    count, dim = means.shape
    if dim >= INNER:
        _square_lengths(x, work.squares)
    for begin in range(0, count, TILE):
        size = min(TILE, count - begin)
        fill_tables(mixture, at, begin, size, work)
        _keep_top(work)
        if dim >= INNER and _turned_inner(size, work):
            inner_logits(x, work.centres, work.precisions, work.offsets, work.squares, size, work.rows, work.top)
        else:
            logits(x, work.centres, work.precisions, work.offsets, size, work.rows, work.top)
        if begin > 0:
            _bring_up(work, out)
        if one:
            absorb(work.rows[:size], work.top, means[begin : begin + size], work.total, out)
        else:
            absorb_sloped(work.rows[:size], work.top, work.slopes, work.pulls, work.total, work.shrink, out)
    if one:
        b = work.slopes[0, 0]
        for i in range(LANES):
            work.shrink[i] = b
            work.rescale[i] = pull(at, 0, b) / work.total[i]
    else:
        for i in range(LANES):
            work.shrink[i] /= work.total[i]
            work.rescale[i] = 1 / work.total[i]
    for j in range(dim):
        line, xj = out[j], x[j]
        for i in range(LANES):
            line[i] = line[i] * work.rescale[i] + xj[i] * work.shrink[i]


@shared
def _axes(x: Any, mixture: Any, at: Any, work: Any, out: Any) -> None:
    """T_k = diag(T_kj): a precision, a slope b_kj and a pull (mu_j - b_kj a_j) m_kj for each axis."""
    wide_vectors()
    means, variances, log_weights = mixture.means, mixture.variances, mixture.log_weights
    count, dim = means.shape
    one, flat, still = variances.shape[0] == 1, variances.shape[1] == 1, at.shape[1] == 1
    half, bits = x.dtype.type(0.5), x.dtype.type(LOG2_E)
    work.slope_sums[:] = 0
    for begin in range(0, count, TILE):
        size = min(TILE, count - begin)
        for k in range(size):
            for j in range(dim):
                v, s = variances[0 if one else begin + k, 0 if flat else j], 0 if still else j
                work.spread[j] = t = spread(at, s, v)
                work.precisions[k, j] = bits * -half / t
                work.slopes[k, j] = b = slope(at, s, v, t)
                m = means[begin + k, j]
                work.centres[k, j] = at[0, s] * m
                work.pulls[k, j] = pull(at, s, b) * m
            for j in range(dim):
                work.spread[j] = log(work.spread[j])
            total_log = x.dtype.type(0)
            for j in range(dim):
                total_log += work.spread[j]
            work.offsets[k] = bits * (log_weights[begin + k] - half * total_log)
        _keep_top(work)
        weighted_logits(x, work.centres, work.precisions, work.offsets, size, work.rows, work.top)
        if begin > 0:
            _bring_up(work, out)
            for j in range(dim):
                for i in range(LANES):
                    work.slope_sums[j, i] *= work.rescale[i]
        absorb(work.rows[:size], work.top, work.pulls, work.total, out)
        if not one:
            accumulate(work.rows[:size], work.slopes, 0, dim, work.slope_sums)
    for j in range(dim):
        line, xj, b = out[j], x[j], work.slope_sums[j]
        if one:
            for i in range(LANES):
                line[i] = line[i] / work.total[i] + work.slopes[0, j] * xj[i]
        else:
            for i in range(LANES):
                line[i] = (line[i] + b[i] * xj[i]) / work.total[i]


@shared
def _full(x: Any, mixture: Any, at: Any, work: Any, out: Any) -> None:
    """T_k = U_k diag(T_ke) U_k': one component at a time, in its own basis."""
    wide_vectors()
    means, variances, log_weights, bases = mixture.means, mixture.variances, mixture.log_weights, mixture.bases
    count, dim = means.shape
    half, bits = x.dtype.type(0.5), x.dtype.type(LOG2_E)
    for k in range(count):
        basis = bases[k]
        for j in range(dim):
            c = at[0, 0] * means[k, j]
            for i in range(LANES):
                work.spare[j, i] = x[j, i] - c
        work.turned[:] = 0
        accumulate(work.spare, basis, 0, dim, work.turned)
        row = work.rows[0]
        row[:] = 0
        log_det = x.dtype.type(0)
        for e in range(dim):
            v = variances[k, 0 if variances.shape[1] == 1 else e]
            t = spread(at, 0, v)
            log_det += log(t)
            p = 1 / t
            work.slopes[0, e] = slope(at, 0, v, t)
            for i in range(LANES):
                row[i] += work.turned[e, i] * work.turned[e, i] * p
        _keep_top(work)
        for i in range(LANES):
            row[i] = bits * (log_weights[k] - half * (log_det + row[i]))
            work.top[i] = max(work.top[i], row[i])
        _bring_up(work, out)
        for i in range(LANES):
            row[i] = exp2_nonpositive(row[i] - work.top[i])
            work.total[i] += row[i]
        for j in range(dim):
            m, b = at[2, 0] * means[k, j], work.slopes[0, j]
            for i in range(LANES):
                out[j, i] += row[i] * m
                work.turned[j, i] *= row[i] * b
        products(work.turned, basis, dim, out)
    for j in range(dim):
        for i in range(LANES):
            out[j, i] /= work.total[i]


# ---------------------------------------------------------------------- arrays of points


@compiled
def predict(first: int, last: int, points: Any, mixture: Any, at: Any, out: Any, logp: Any) -> None:
    """Outputs (n, d) and log densities (n,) at points (n, d), for the blocks first .. last - 1 of LANES points."""
    dim, kind = points.shape[1], points.dtype
    x, o, l = aligned((dim, LANES), kind), aligned((dim, LANES), kind), aligned((LANES,), kind)
    owned = workspace(points, dim, max(mixture.variances.shape[1], at.shape[1]))
    work, law, numbers = borrowed(owned), borrowed(mixture), borrowed(at)
    for block in range(first, last):
        count = load(points, block * LANES, x)
        evaluate(borrowed(x), law, numbers, work, borrowed(o), borrowed(l))
        store(o, count, block * LANES, out)
        store_line(l, count, block * LANES, logp)
    keep(owned)
