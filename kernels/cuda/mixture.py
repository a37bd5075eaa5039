r"""The mixture sum_k w_k N(x; a m_k, T_k), T_k = a S_k a + q, at one time, on the device: outputs and log densities.

A choice of three numbers mu, beta, gamma is a prediction, as kernels.numba.mixture says. Points in few axes take a
thread each, whose coordinates are registers.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np

from refdiff.kernels.cuda.device import THREADS, cupy, kernel, launch, rows_at_once

MOST = 16  # axes of a point in registers
POOL = 40 * 1024  # bytes of shared memory for a tile: what every device has is 48 KiB
# Components of a part, whose sums are made apart: 10,000 points and 1,000 components keep 300 blocks busy, and writing
# and reading the sums costs a few hundredths of making them. Beyond MOST_PARTS parts have more components.
PART, MOST_PARTS = 256, 1024
WORKSPACE = 2**28  # bytes of the sums of parts at most, or those of one point

# means (K, d), variances (K or 1, 1 or d), log_weights (K,) all finite, bases (0, 1 or K, d, d): arrays of one type on
# the device. With one basis for all components means are given in it.
Mixture = namedtuple("Mixture", "means variances log_weights bases")


def numbers(mixture: Mixture, still: bool, itemsize: int) -> dict[str, int]:
    """What a source with mixture.cuh is compiled for.

    Args:
        mixture: the mixture, of MOST axes at most.
        still: whether a, q, mu, beta and gamma are the same on all axes.
        itemsize: bytes of a number.
    """
    dim, turns = mixture.means.shape[1], len(mixture.bases)
    kind = 2 if turns > 1 else 1 if turns or mixture.variances.shape[1] > 1 or not still else 0
    tile = min(THREADS, POOL // _row(dim, kind, itemsize))
    one = int(len(mixture.variances) == 1)
    return {"DIM": dim, "KIND": kind, "ONE": one, "TURNED": int(turns == 1), "TILE": tile}


def shared_bytes(defined: dict[str, int], itemsize: int, count: int = THREADS) -> int:
    """Of a block that evaluates a mixture of `count` components: the numbers of a time, and a tile of them, or all."""
    dim, kind = defined["DIM"], defined["KIND"]
    at = _whole(5 * (dim if kind == 1 else 1) * itemsize)
    return at + min(defined["TILE"], count) * _row(dim, kind, itemsize)


def _row(dim: int, kind: int, itemsize: int) -> int:
    """Bytes of a component, ROW of laws.cuh."""
    return _whole((dim + 4, 4 * dim + 1, dim * dim + 3 * dim + 1)[kind] * itemsize)


def _whole(size: int) -> int:
    """So many bytes up to a multiple of 16."""
    return -(-size // 16) * 16


def arguments(mixture: Mixture, defined: dict[str, int]) -> tuple[Any, ...]:
    """LAW_ARGUMENTS of laws.cuh."""
    width = 1 if defined["KIND"] == 0 else defined["DIM"]
    variances = cupy().ascontiguousarray(cupy().broadcast_to(mixture.variances, (len(mixture.variances), width)))
    return (mixture.means, variances, mixture.log_weights, mixture.bases, np.int64(len(mixture.means)))


def times(at: Any, defined: dict[str, int], dtype: Any) -> Any:
    """Numbers of times (..., 5, 1 or d), NumPy's, as kernels take them, on the device."""
    width = defined["DIM"] if defined["KIND"] == 1 else 1
    return cupy().asarray(np.ascontiguousarray(np.broadcast_to(at, (*at.shape[:-1], width))).astype(dtype))


def parts(count: int) -> tuple[int, int]:
    """Components of a part, and how many parts: of nothing else, so that no batch and no device changes a sum."""
    size = PART * max(1, -(-count // (PART * MOST_PARTS)))
    return size, max(1, -(-count // size))


def slices(x: Any, numbers: int, what: str) -> Iterator[slice]:
    """Rows of x whose so many numbers each fit in the memory for them."""
    row = numbers * int(x.dtype.itemsize)
    step = max(1, min(rows_at_once(len(x), row, 0, what), WORKSPACE // row))
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))


def predict(x: Any, mixture: Mixture, at: Any) -> tuple[Any, Any]:
    """Outputs (n, d) and log densities (n,) at points x (n, d), which are contiguous, and one time `at` (5, 1 or d).

    Where all logits are beyond the numbers of the type the density is 0, its logarithm -inf, and the output NaN.

    Raises:
        MemoryError: not even the sums of one point over parts of the components fit.
    """
    if x.shape[1] > MOST:
        from refdiff.kernels.cuda import wide

        return wide.predict(x, mixture, at)
    xp, count = cupy(), len(mixture.means)
    out, logp = xp.empty(x.shape, x.dtype), xp.empty(len(x), x.dtype)
    defined = numbers(mixture, at.shape[-1] == 1, x.itemsize)
    law, when = arguments(mixture, defined), times(at, defined, x.dtype)
    size, many = parts(count)
    shared = shared_bytes(defined, x.itemsize, count)
    if many == 1:
        chosen = kernel("mixture", "predict", x.dtype, **defined)
        launch(chosen, len(x), x, np.int64(len(x)), *law, when, out, logp, shared=shared)
        return out, logp
    sums, merge = (kernel("mixture_parts", name, x.dtype, **defined) for name in ("sum_parts", "merge_parts"))
    width = 2 + summed(defined)
    for rows in slices(x, many * width, f"a mixture of {count} components"):
        n, points = np.int64(len(x[rows])), x[rows]
        found = xp.empty((many, width, int(n)), x.dtype)
        launch(sums, int(n), points, n, *law, when, np.int64(size), found, shared=shared, rows=many)
        launch(merge, int(n), points, n, *law, when, np.int32(many), found, out[rows], logp[rows])
    return out, logp


def summed(defined: dict[str, int]) -> int:
    """SUMMED of mixture.cuh: of an output, numbers of a point that are summed over components."""
    dim, kind = defined["DIM"], defined["KIND"]
    return dim if defined["ONE"] or kind == 2 else 2 * dim if kind else dim + 1
