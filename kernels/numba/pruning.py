r"""Isotropic mixtures at small noise, where only near components matter.

Components come in an order in which each leaf of a binary tree holds a short run of them, and every node of the tree
knows the box of its (m_k, v_k, log w_k). With T = a^2 v + q, no component of a node has a larger logit at x than

    u = max log w - d/2 log min T - D^2 / (2 max T),      D = the distance of x from the node's box of a m_k,

and one component of it, evaluated, has no larger logit than the largest. Level by level from the root, a lane drops
the nodes with u < (largest logit found so far) - c. The leaves that remain are swept in their order. As u is a bound,

    c = log K + log(1/eps) + 10 + log(max T / min T) / 2

leaves out less than rho = eps e^-10 of the sum: log p changes by less than rho. The output is an average of
o_k = mu m_k + B_k t_k, t_k = x - a m_k, and changes by the sum of r_k (o_k - o) over what is left out. There
r_k |t_k| <= r_k (|t_0| + sqrt(2 T s)) for t_0 of the largest logit and a logit smaller by s >= c: e^-s sqrt(2 s) falls
with s, so the change is below rho (|B| |t_0| + |B| sqrt(2 T c) + |mu| |m_k - m_0|), where sqrt(2 c) < 12 is 2000 times
less than e^10. So it is below eps of the scale on which the output itself is rounded, for a far x too, where |t_0| is
large; the last term of c covers components so narrow that |B_k| sqrt(T_k) is larger than that of the others.

What a lane drops depends on its own x only, and a lane gets nothing from a leaf that is swept for other lanes: those
that want it are gathered into vectors of their own. So no result depends on the neighbours in a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refdiff.kernels.numba.compiling import shared, wide_vectors
from refdiff.kernels.numba.laws import fill_tables, spread
from refdiff.kernels.numba.narrow_tiles import VECTOR_BYTES, leaf_logits, leaf_sums
from refdiff.kernels.numba.tiles import LANES
from refdiff.kernels.numba.vector_math import HALF_LOG_2PI, LN2, LOG2_E, exp2_nonpositive, log

LEAF = 32  # components of a leaf at most, as of a tile of `mixture`
MASK = 64  # lanes that are swept together: the bits of a mask
SPARE = 10.0  # by so much e-fold is what a lane leaves out smaller than a rounding of the sum


def leaves(
    means: NDArray[Any], variances: NDArray[Any], log_weights: NDArray[Any], largest: int = LEAF
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """The tree of a mixture's components, by halves along the widest axis.

    Args:
        means: shape (K, d).
        variances: shape (K or 1, 1).
        log_weights: shape (K,).
        largest: components of a leaf at most.

    Returns:
        order: the components' order, shape (K,); the rest is for components in this order.
        starts: leaf l holds the components starts[l] .. starts[l + 1] - 1; shape (L + 1,), L a power of 2.
        boxes: least and largest (m, v, log w) of each node, shape (2 L - 1, 2, d + 2): of the root first, and of the
            children 2 i + 1 and 2 i + 2 of node i; the last L are those of the leaves.
    """
    count = len(means)
    parts = [np.arange(count)]
    while len(parts[0]) > largest or len(parts[-1]) > largest:
        halves = []
        for part in parts:
            here = means[part]
            axis = np.argmax(here.max(axis=0) - here.min(axis=0))
            middle = len(part) // 2
            # a stable sort: equal points stay in their order
            split = np.argsort(here[:, axis], kind="stable")
            halves += [np.sort(part[split[:middle]]), np.sort(part[split[middle:]])]
        parts = halves
    order = np.concatenate(parts)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    spread = np.broadcast_to(variances, (count, 1))[order]
    rows = np.concatenate([means[order], spread, log_weights[order, None]], axis=1)
    level = np.stack([np.minimum.reduceat(rows, starts[:-1]), np.maximum.reduceat(rows, starts[:-1])], axis=1)
    levels = [level]
    while len(level) > 1:
        level = np.stack([np.minimum(level[::2, 0], level[1::2, 0]), np.maximum(level[::2, 1], level[1::2, 1])], axis=1)
        levels.append(level)
    return order.astype(np.int64), starts.astype(np.int64), np.ascontiguousarray(np.concatenate(levels[::-1]))


# ---------------------------------------------------------------------- which leaves a lane needs


@shared
def _bounds(x: Any, box: Any, at: Any, bound: Any) -> None:
    """Bounds, in bits, of the logits of a node's components in each lane."""
    wide_vectors()
    dim, kind = x.shape[0], x.dtype.type
    a = at[0, 0]
    bound[:] = 0
    for j in range(dim):
        low, high = min(a * box[0, j], a * box[1, j]), max(a * box[0, j], a * box[1, j])
        line = x[j]
        for i in range(MASK):
            gap = max(low - line[i], line[i] - high)
            gap = gap if not gap < 0 else kind(0)  # what is not a number stays so
            bound[i] += gap * gap
    highest = kind(LOG2_E) * (box[1, dim + 1] - kind(0.5 * dim) * log(spread(at, 0, box[0, dim])))
    # the sums, of dim + 2 roundings here and in the logits, may be off by so much
    scale = kind(-0.5 * LOG2_E) / spread(at, 0, box[1, dim]) * (1 - kind(4 * dim + 16) * np.finfo(x.dtype).eps)
    for i in range(MASK):
        bound[i] = highest + scale * bound[i]


@shared
def _raise(x: Any, mixture: Any, at: Any, k: int, wanted: Any, best: Any, spare: Any) -> None:
    """The largest logit found so far, in the lanes that want it: that of component k, less its rounding errors."""
    wide_vectors()
    dim, kind = x.shape[0], x.dtype.type
    a, t = at[0, 0], spread(at, 0, mixture.variances[0 if mixture.variances.shape[0] == 1 else k, 0])
    spare[:] = 0
    for j in range(dim):
        c, line = a * mixture.means[k, j], x[j]
        for i in range(MASK):
            spare[i] += (line[i] - c) * (line[i] - c)
    offset = kind(LOG2_E) * (mixture.log_weights[k] - kind(0.5 * dim) * log(t))
    scale = kind(-0.5 * LOG2_E) / t * (1 + kind(4 * dim + 16) * np.finfo(x.dtype).eps)
    for i in range(MASK):
        logit = offset + scale * spare[i]
        best[i] = logit if ((wanted >> np.uint64(i)) & np.uint64(1)) != 0 and logit > best[i] else best[i]


@shared
def _wanted(mask: Any, bound: Any, best: Any, top: Any, cutoff: float) -> Any:
    """The lanes of a mask in which a node cannot be left out, as bits."""
    wide_vectors()
    kept = np.uint64(0)
    for i in range(MASK):
        # not the other way round: nothing is left out for what is not a number
        kept |= np.uint64(not bound[i] < max(best[i], top[i]) - cutoff) << np.uint64(i)
    return kept & mask


@shared
def cutoff_bits(mixture: Any, at: Any) -> Any:
    """c of this module, in bits."""
    count, dim = mixture.means.shape
    root = mixture.boxes[0]
    ratio = spread(at, 0, root[1, dim]) / spread(at, 0, root[0, dim])
    kind = mixture.means.dtype.type
    return kind(LOG2_E) * (log(kind(count)) - log(np.finfo(mixture.means.dtype).eps / 2) + SPARE + log(ratio) / 2)


@shared
def _search(x: Any, mixture: Any, at: Any, cutoff: Any, nodes: Any, masks: Any, best: Any, spare: Any) -> int:
    """The leaves that some lane needs, in their order, as nodes with masks of lanes. How many there are.

    nodes and masks have two rows, of the level that is read and of the one that is written; the result is in row 0.
    """
    starts, boxes = mixture.leaves, mixture.boxes
    total = len(starts) - 1
    bound, least = np.empty_like(best), np.empty_like(best)
    best[:], least[:] = -np.inf, -np.inf
    nodes[0, 0], masks[0, 0] = 0, ~np.uint64(0)
    count, level = 1, 1  # nodes in the list, nodes of a whole level
    while level < total:
        found, level = 0, 2 * level
        for n in range(count):
            node, mask = nodes[0, n], masks[0, n]
            _bounds(x, boxes[node], at, bound)
            mask = _wanted(mask, bound, best, least, cutoff)
            if mask == 0:
                continue
            for child in range(2 * node + 1, 2 * node + 3):
                place, span = child - (level - 1), total // level
                middle = (starts[place * span] + starts[(place + 1) * span]) // 2
                _raise(x, mixture, at, middle, mask, best, spare)
                nodes[1, found], masks[1, found] = child, mask
                found += 1
        count = found
        for n in range(count):
            nodes[0, n], masks[0, n] = nodes[1, n], masks[1, n]
    return count


# ---------------------------------------------------------------------- the sweep


@shared
def _gather(x: Any, lanes: Any, count: int, width: int, into: Any) -> None:
    for j in range(x.shape[0]):
        for i in range(width):
            into[j, i] = x[j, lanes[min(i, count - 1)]]


@shared
def _sweep(x: Any, mixture: Any, at: Any, cutoff: Any, work: Any, sums: Any, tops: Any, totals: Any, out: Any) -> None:
    """Largest logits, and the sums that `evaluate_within` divides, at MASK points; sums are of slopes."""
    wide_vectors()
    dim, kind = x.shape[0], x.dtype.type
    vector = VECTOR_BYTES // x.itemsize
    leaf_count = len(mixture.leaves) - 1
    nodes, masks = np.empty((2, leaf_count), np.int64), np.empty((2, leaf_count), np.uint64)
    best, bound, lanes = np.empty(MASK, x.dtype), np.empty(MASK, x.dtype), np.empty(MASK, np.int64)
    top, total, shrink = (np.empty(MASK, x.dtype), np.empty(MASK, x.dtype), np.empty(MASK, x.dtype))
    for n in range(_search(x, mixture, at, cutoff, nodes, masks, best, bound)):
        leaf = nodes[0, n] - (leaf_count - 1)
        _bounds(x, mixture.boxes[nodes[0, n]], at, bound)
        mask = _wanted(masks[0, n], bound, best, tops, cutoff)
        if mask == 0:
            continue
        count = 0
        for i in range(MASK):
            if (mask >> np.uint64(i)) & np.uint64(1):
                lanes[count] = i
                count += 1
        width = -(-count // vector) * vector
        points, outputs = work.turned[:, :width], work.spare[:, :width]
        _gather(x, lanes, count, width, points)
        _gather(out, lanes, count, width, outputs)
        for i in range(width):
            lane = lanes[min(i, count - 1)]
            top[i] = work.rescale[i] = tops[lane]
            total[i], shrink[i] = totals[lane], sums[lane]
        begin = mixture.leaves[leaf]
        size = mixture.leaves[leaf + 1] - begin
        fill_tables(mixture, at, begin, size, work)
        rows = work.rows[:size, :width]
        leaf_logits(points, work, size, rows, top[:width])
        for i in range(width):
            fall = work.rescale[i] - top[i]
            # no products that are subnormal numbers
            work.rescale[i] = exp2_nonpositive(fall) if fall > kind(-500) else kind(0)
            total[i] *= work.rescale[i]
            shrink[i] *= work.rescale[i]
        for j in range(dim):
            for i in range(width):
                outputs[j, i] *= work.rescale[i]
        leaf_sums(rows, top[:width], work.slopes, work.pulls, total[:width], shrink[:width], outputs)
        for i in range(count):
            tops[lanes[i]], totals[lanes[i]], sums[lanes[i]] = top[i], total[i], shrink[i]
        for j in range(dim):
            for i in range(count):
                out[j, lanes[i]] = outputs[j, i]


@shared
def evaluate_within(x: Any, mixture: Any, at: Any, cutoff: Any, work: Any, out: Any, logp: Any) -> None:
    """`mixture.evaluate` without leaves whose logits are smaller than the largest one by a cutoff, in bits."""
    wide_vectors()
    dim, kind = x.shape[0], x.dtype.type
    work.top[:], work.total[:], work.shrink[:] = np.finfo(x.dtype).min, 0, 0
    out[:] = 0
    for i in range(0, LANES, MASK):
        j = i + MASK
        _sweep(x[:, i:j], mixture, at, cutoff, work, work.shrink[i:j], work.top[i:j], work.total[i:j], out[:, i:j])
    for j in range(dim):
        for i in range(LANES):
            out[j, i] = (out[j, i] + x[j, i] * work.shrink[i]) / work.total[i]
    for i in range(len(logp)):
        logp[i] = kind(LN2) * work.top[i] + log(work.total[i]) - kind(dim * HALF_LOG_2PI)


@shared
def evaluate_pruned(x: Any, mixture: Any, at: Any, work: Any, out: Any, logp: Any) -> None:
    """`mixture.evaluate` of an isotropic mixture with a tree, without the leaves that cannot matter."""
    evaluate_within(x, mixture, at, cutoff_bits(mixture, at), work, out, logp)


@shared
def pays(mixture: Any, at: Any) -> Any:
    """Whether pruning is likely to be faster than a sweep of everything: measured on normal components.

    A component is felt as far as sqrt(2 T c). The tree pays while that is less than a sixth of the widest side of all
    means, and from some 2000 components on.
    """
    dim = mixture.means.shape[1]
    if len(mixture.leaves) * LEAF < 2048:
        return False
    a, root, widest = at[0, 0], mixture.boxes[0], mixture.means.dtype.type(0)
    for j in range(dim):
        widest = max(widest, abs(a) * (root[1, j] - root[0, j]))
    return 72 * spread(at, 0, root[1, dim]) * LN2 * cutoff_bits(mixture, at) < widest * widest
