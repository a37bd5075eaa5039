"""Second derivatives of the mixture at one time, on the device: outputs and their divergences."""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.kernels.cuda.device import cupy, kernel, launch
from refdiff.kernels.cuda.mixture import arguments, numbers, shared_bytes, times


def divergence(x: Any, mixture: Any, at: Any) -> tuple[Any, Any]:
    """Outputs (n, d) and their divergences (n,) at points x (n, d), contiguous, and one time `at` (5, 1 or d)."""
    xp = cupy()
    out, div = xp.empty(x.shape, x.dtype), xp.empty(len(x), x.dtype)
    defined = numbers(mixture, at.shape[-1] == 1, x.itemsize)
    chosen = kernel("second_order", "divergence", x.dtype, **defined)
    law, when = arguments(mixture, defined), times(at, defined, x.dtype)
    launch(chosen, len(x), x, np.int64(len(x)), *law, when, out, div, shared=shared_bytes(defined, x.itemsize))
    return out, div
