"""Second derivatives of the mixture at one time, on the device: outputs and their divergences.

With outputs o_k and gradients g_k of the components' logits, div o = sum_k r_k (tr B_k + (o_k - o).(g_k - g)), in the
two sweeps of kernels.numba.second_order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.kernels.cuda.device import cupy, kernel, launch
from refdiff.kernels.cuda.mixture import MOST, Mixture, arguments, numbers, parts, shared_bytes, slices, times


def divergence(x: Any, mixture: Mixture, at: Any) -> tuple[Any, Any]:
    """Outputs (n, d) and their divergences (n,) at points x (n, d), contiguous, and one time `at` (5, 1 or d).

    Where all logits are beyond the numbers of the type both are NaN.

    Raises:
        MemoryError: not even the sums of one point over parts of the components fit.
    """
    if x.shape[1] > MOST:
        from refdiff.kernels.cuda import wide

        return wide.divergence(x, mixture, at)
    xp, (size, many) = cupy(), parts(len(mixture.means))
    out, div = xp.empty(x.shape, x.dtype), xp.empty(len(x), x.dtype)
    defined = numbers(mixture, at.shape[-1] == 1, x.itemsize)
    law, when = arguments(mixture, defined), times(at, defined, x.dtype)
    shared = shared_bytes(defined, x.itemsize, len(mixture.means))
    if many == 1:
        chosen = kernel("second_order", "divergence", x.dtype, **defined)
        launch(chosen, len(x), x, np.int64(len(x)), *law, when, out, div, shared=shared)
        return out, div
    names = ("first_parts", "settle_parts", "second_parts", "conclude_parts")
    first, settle, second, conclude = (kernel("second_order_parts", name, x.dtype, **defined) for name in names)
    width = 2 + centres(defined)
    for rows in slices(x, (many + 1) * width, f"a mixture of {len(mixture.means)} components"):
        points, found = x[rows], xp.empty((many, width, len(x[rows])), x.dtype)
        n, averages = np.int64(len(points)), xp.empty((width, len(points)), x.dtype)
        launch(first, len(points), points, n, *law, when, np.int64(size), found, shared=shared, rows=many)
        launch(settle, len(points), n, np.int32(many), found, averages)
        launch(second, len(points), points, n, *law, when, np.int64(size), averages, found, shared=shared, rows=many)
        ends = np.int32(many), averages, found, out[rows], div[rows]
        launch(conclude, len(points), points, n, *law, when, *ends)
    return out, div


def centres(defined: dict[str, int]) -> int:
    """CENTRES of second_order.cuh: numbers of a point that are summed in the first sweep."""
    return defined["DIM"] * (1 if defined["ONE"] and defined["KIND"] != 2 else 2)
