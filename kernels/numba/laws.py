r"""Mixtures as kernels take them, the numbers of their components at one time, and the room to work on a block.

At a time with a, q, mu, beta, gamma (the rows of `at`) a variance v becomes

    spread   T = a^2 v + q          slope   b = (beta v + gamma) / T          pull   mu - b a

and the logits of an isotropic mixture are offset_k + precision_k |x - a m_k|^2 in base 2, with the precision
-log2(e) / (2 T_k) and the offset log2(e) (log w_k - d/2 log T_k).
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from refdiff.kernels.numba.compiling import inlined, shared, wide_vectors
from refdiff.kernels.numba.lanes import aligned
from refdiff.kernels.numba.tiles import LANES
from refdiff.kernels.numba.vector_math import LOG2_E, log

# Components of a tile: 32 rows of 128 float64 are 32 kB, two thirds of a core's first cache.
TILE = 32

# means (K, d), variances (K or 1, 1 or d), log_weights (K,) all finite, bases (0, 1 or K, d, d). With one basis for all
# components the means are given in it. A Tree is a Mixture of variances (K or 1, 1), no bases, and what `pruning` made
# of it, leaves (L + 1,) int64 and boxes (2 L - 1, 2, d + 2): a type of its own, so that others do not compile pruning.
Mixture = namedtuple("Mixture", "means variances log_weights bases")
Tree = namedtuple("Tree", "means variances log_weights bases leaves boxes")

# What a block needs besides its points: rows of logits, tables of a tile, numbers of each lane, points in a basis.
Work = namedtuple(
    "Work",
    "rows centres precisions slopes pulls offsets lengths spread "
    "top total shrink rescale squares turned spare slope_sums",
)


@shared
def workspace(x: Any, dim: int, axes: int) -> Any:
    """Room for `evaluate` on blocks of points of the type of x, for `axes` numbers T_k of each component."""
    kind = x.dtype
    return Work(
        aligned((TILE, LANES), kind),
        aligned((TILE, dim), kind),
        aligned((TILE, axes), kind),
        aligned((TILE, axes), kind),
        aligned((TILE, dim), kind),
        aligned((TILE,), kind),
        aligned((TILE,), kind),
        aligned((dim,), kind),
        aligned((LANES,), kind),
        aligned((LANES,), kind),
        aligned((LANES,), kind),
        aligned((LANES,), kind),
        aligned((LANES,), kind),
        aligned((dim, LANES), kind),
        aligned((dim, LANES), kind),
        aligned((dim, LANES), kind),
    )


@inlined
def spread(at: Any, s: int, v: Any) -> Any:
    """T of a variance, by column s of `at`, shape (5, 1 or d)."""
    return at[0, s] * at[0, s] * v + at[1, s]


@inlined
def slope(at: Any, s: int, v: Any, t: Any) -> Any:
    """b of a variance v with T = t, by column s of `at`, shape (5, 1 or d)."""
    return (at[3, s] * v + at[4, s]) / t


@inlined
def pull(at: Any, s: int, b: Any) -> Any:
    """mu - b a of a slope b, by column s of `at`, shape (5, 1 or d)."""
    return at[2, s] - b * at[0, s]


@shared
def fill_tables(mixture: Any, at: Any, begin: int, size: int, work: Any) -> None:
    """Centres a m_k, precisions, offsets, slopes b_k and pulls (mu - b_k a) m_k of some components, isotropic.

    Args:
        mixture: a Mixture or a Tree with variances (K or 1, 1).
        at: shape (5, 1).
        begin, size: the components begin .. begin + size - 1, a tile at most.
        work: a workspace, whose tables are filled.
    """
    wide_vectors()
    means, variances, log_weights = mixture.means, mixture.variances, mixture.log_weights
    dim, kind = means.shape[1], means.dtype.type
    for k in range(size):
        v = variances[0 if variances.shape[0] == 1 else begin + k, 0]
        t = spread(at, 0, v)
        work.precisions[k, 0] = kind(-0.5 * LOG2_E) / t
        work.slopes[k, 0] = b = slope(at, 0, v, t)
        work.offsets[k] = t
        for j in range(dim):
            work.centres[k, j] = at[0, 0] * means[begin + k, j]
            work.pulls[k, j] = pull(at, 0, b) * means[begin + k, j]
    for k in range(size):
        work.offsets[k] = kind(LOG2_E) * (log_weights[begin + k] - kind(0.5 * dim) * log(work.offsets[k]))
