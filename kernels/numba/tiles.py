r"""The contractions in which almost all time is spent, on tiles of components.

With x of shape (d, lanes), a row for every axis and a column for every point:

    logits           l[k, i]   = offset_k + p_k sum_j (x[j, i] - c[k, j])^2,      top_i = max(top_i, l[k, i])
    inner_logits     l[k, i]   = offset_k + p_k squares_i + sum_j c[k, j] x[j, i],    likewise
    weighted_logits  l[k, i]   = offset_k + sum_j p[k, j] (x[j, i] - c[k, j])^2,  likewise
    absorb           l[k, i]   = 2^(l[k, i] - top_i) = r,   total_i += r,   out[j, i] += m[k, j] r
    absorb_sloped    the same, and shrink_i += slope_k r
    accumulate       out[j, i] += sum_k m[k, j] l[k, i]
    products         out[k, i] += sum_j c[k, j] x[j, i]

Each is a matrix multiplication or looks like one. Every result depends on its own lane only. Squares of differences
do not cancel; |x|^2 - 2 x.c + |c|^2, which `inner_logits` is for, takes one instruction of three less, and loses
digits wherever x is near a large c. Without compilation (NUMBA_DISABLE_JIT=1) NumPy does the same.
"""

from numba import config

LANES = 128  # of a block: a multiple of what a tile holds on any machine

if config.DISABLE_JIT:
    from refdiff.kernels.numba.plain_tiles import (
        absorb,
        absorb_sloped,
        accumulate,
        inner_logits,
        logits,
        products,
        weighted_logits,
    )
else:
    from refdiff.kernels.numba.simd_tiles import (
        absorb,
        absorb_sloped,
        accumulate,
        inner_logits,
        logits,
        products,
        weighted_logits,
    )

__all__ = ["LANES", "absorb", "absorb_sloped", "accumulate", "inner_logits", "logits", "products", "weighted_logits"]
