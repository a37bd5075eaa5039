r"""Sums of a kernel over pairs of points, a row for every point of the first set.

    S_i = sum_j w_j k(x_i, y_j),      T_i = sum_j w_j k(x_i, y_j)^2

NumPy works through tiles, kernels take over where `backends` says so, and no array of all pairs exists. Distances on
the line need no pairs: sorted, sum_j w_j |x_i - y_j| follows from sums of w_j and w_j y_j up to x_i. On a GPU pairs are
taken all the same: sums of sorted points there would depend on how a parallel scan went.
Sources: PODA-102, the means over samples that these sums are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.backends import numba_pays, on_device
from refdiff.distributions.covariances import TILE
from refdiff.metrics.similarities import DISTANCE, Kernel


def row_sums(kernel: Kernel, x: Any, y: Any, weights: Any) -> tuple[Any, Any]:
    """S and T, (n,), at points x (n, d) for points y (m, d) with `weights` (m,), of a `kernel`.

    Contiguous arrays of CuPy of one type are answered by float64 on their device. Terms are computed in their type, and
    none is lost in sums of float32.

    Raises:
        MemoryError: sums for a part of the points do not fit on the device.
        ValueError: float32 cannot hold the scale of the kernel.
    """
    if on_device(x):
        return _on_device(kernel, x, y, weights)
    if kernel is DISTANCE and x.shape[1] == 1:
        return _on_the_line(x[:, 0], y[:, 0], weights)
    if numba_pays(len(x), len(y), x.shape[1]):
        from refdiff.kernels.numba import pair_sums  # late: Numba takes a third of a second to import
        from refdiff.kernels.numba.compiling import blocks
        from refdiff.kernels.numba.tiles import LANES

        name, scale, power = kernel.compiled
        kind, sums, squares = getattr(pair_sums, name), np.empty(len(x)), np.empty(len(x))
        centre = y.mean(axis=0)  # lengths of points are not to be those of their middle
        x, y = np.ascontiguousarray(x - centre), np.ascontiguousarray(y - centre)
        settings = kind, scale, power, pair_sums.by_products(y, kind, scale)
        weights = np.ascontiguousarray(weights)
        blocks(pair_sums.row_sums, -(-len(x) // LANES), x, y, weights, *settings, sums, squares)
        return (-sums if kernel is DISTANCE else sums), squares
    from scipy.spatial.distance import cdist  # late: a quarter of the time to import this package

    result = np.zeros((2, len(x)))
    step = max(1, TILE // len(y))
    for rows in (slice(start, start + step) for start in range(0, len(x), step)):
        values = kernel.values(np.asarray(cdist(x[rows], y, "sqeuclidean")))
        result[0, rows] = values @ weights
        result[1, rows] = values**2 @ weights
    return result[0], result[1]


def _on_device(kernel: Kernel, x: Any, y: Any, weights: Any) -> tuple[Any, Any]:
    from refdiff.kernels.cuda import pair_sums  # late: nothing but GPUs needs it

    name, scale, power = kernel.compiled
    device_scale(f"the {kernel.name} kernel's length", scale, x.dtype)
    found = pair_sums.row_sums(getattr(pair_sums, name), scale, power, x, y, weights)
    return (-found[:, 0] if kernel is DISTANCE else found[:, 0]), found[:, 1]


def device_scale(name: str, scale: float, dtype: Any) -> None:
    """Check that the type `dtype` of points holds what their squared distances are multiplied with.

    Raises:
        ValueError: it does not, with a message that names what the scale comes from (`name`).
    """
    least, most = (float(end) for end in (np.finfo(dtype).tiny, np.finfo(dtype).max))  # a float32 would round the scale
    if not least <= abs(scale) <= most:
        raise ValueError(f"{name} must be one that {dtype} can hold, got a scale {scale:.3g} of squared distances")


def _on_the_line(x: Array, y: Array, weights: Array) -> tuple[Array, Array]:
    order = np.argsort(y)
    # about a middle: sums of w and w y do not cancel more than they must
    middle = y[order[len(y) // 2]]
    x, y, w = x - middle, y[order] - middle, weights[order]
    mass, first = (np.concatenate([[0.0], np.cumsum(part)]) for part in (w, w * y))
    below = np.searchsorted(y, x)
    sums = x * (2 * mass[below] - mass[-1]) - (2 * first[below] - first[-1])
    squares = mass[-1] * x * x - 2 * x * first[-1] + w @ (y * y)
    return -sums, squares
