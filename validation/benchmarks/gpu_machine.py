r"""What a GPU can do, measured beside the workloads: the ceilings that their fractions are of.

    flops          two for each of a thread's independent chains of fused multiply-adds, in registers
    exponentials   exp2 by exp2, in registers, in chains of a thread
    bytes          read plus written when an array far larger than caches is copied
    products       2 m^3 / seconds of a product of two m x m matrices by cuBLAS, which may use tensor cores for float64

all in one type of numbers, each the fastest of a few short runs: a ceiling is what is possible.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from refdiff.kernels.cuda.device import cupy, options

THREADS, BLOCKS = 256, 16  # of a block, and for each multiprocessor
CHAINS = 8  # independent results of a thread: four cycles of latency and more are hidden
LOOPS = 4096
MATRIX = 8192
COPIED = 1 << 30  # bytes, beyond all caches
TRIES = 3

SOURCE = r"""
#ifdef SINGLE
typedef float real;
#else
typedef double real;
#endif
#define CHAINS 8

extern "C" __global__ void multiply_adds(int loops, real a, real b, real* out) {
    real x[CHAINS];
#pragma unroll
    for (int c = 0; c < CHAINS; ++c) x[c] = real(threadIdx.x + c);
#pragma unroll 16  // of as many steps a loop's own instructions take a fiftieth of those that begin
    for (int i = 0; i < loops; ++i)
#pragma unroll
        for (int c = 0; c < CHAINS; ++c) x[c] = fma(a, x[c], b);
    real sum = 0;
#pragma unroll
    for (int c = 0; c < CHAINS; ++c) sum += x[c];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

extern "C" __global__ void exponentials(int loops, real* out) {
    real x[CHAINS];
#pragma unroll
    for (int c = 0; c < CHAINS; ++c) x[c] = real(c) / CHAINS;
    for (int i = 0; i < loops; ++i)
#pragma unroll
        for (int c = 0; c < CHAINS; ++c) x[c] = exp2(-x[c]);
    real sum = 0;
#pragma unroll
    for (int c = 0; c < CHAINS; ++c) sum += x[c];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
"""


class DeviceLimits(NamedTuple):
    """Operations, exponentials, bytes and operations of matrix products per second."""

    flops: float
    exponentials: float
    bytes: float
    products: float

    @property
    def words(self) -> dict[str, str]:
        """What each is called, and what it measures."""
        return {"flops": "multiply-adds", "exponentials": "exp2", "bytes": "copy", "products": "cuBLAS"}


class DeviceMachine:
    """The limits of the current device for one type of numbers, each time they are asked for.

    Args:
        dtype: float64 or float32.
        clock: seconds, when what was asked for is done.
        scale: shrinks what is measured, for tests.
    """

    def __init__(self, dtype: Any, clock: Callable[[], float], scale: float = 1.0) -> None:
        self.dtype, self.clock = np.dtype(dtype), clock
        self._loops = max(2, int(LOOPS * scale))
        self._size = max(16, int(MATRIX * scale))
        self._copied = max(1024, int(COPIED * scale) // self.dtype.itemsize)
        self._blocks = max(1, int(BLOCKS * scale)) * int(cupy().cuda.Device().attributes["MultiProcessorCount"])
        self._threads = THREADS if scale == 1.0 else 32

    def __call__(self) -> DeviceLimits:
        """Measure all four."""
        steps = float(self._blocks * self._threads * CHAINS * self._loops)
        a, b, c = self._matrices
        x, y = self._large
        real = self.dtype.type
        fma = self._best(lambda: self._launch("multiply_adds", real(0.999), real(0.5)))
        exp = self._best(lambda: self._launch("exponentials"))
        copy = self._best(lambda: y.__setitem__(..., x))
        product = self._best(lambda: cupy().matmul(a, b, out=c))
        return DeviceLimits(2 * steps / fma, steps / exp, 2.0 * x.nbytes / copy, 2.0 * self._size**3 / product)

    def _launch(self, name: str, *numbers: Any) -> None:
        self._module.get_function(name)(
            (self._blocks,), (self._threads,), (np.int32(self._loops), *numbers, self._sums), shared_mem=0
        )

    def _best(self, run: Callable[[], object]) -> float:
        """The least seconds of a few runs."""
        seconds = []
        for _ in range(TRIES):
            start = self.clock()
            run()
            seconds.append(self.clock() - start)
        return min(seconds)

    @cached_property
    def _module(self) -> Any:
        return cupy().RawModule(code=SOURCE, options=options(self.dtype), backend="nvrtc")

    @cached_property
    def _sums(self) -> Any:
        return cupy().empty(self._blocks * self._threads, dtype=self.dtype)

    @cached_property
    def _matrices(self) -> tuple[Any, Any, Any]:
        xp, rng = cupy(), np.random.default_rng(0)
        row = xp.asarray(rng.standard_normal(self._size).astype(self.dtype))
        a = row[:, None] * row[None, :]
        return a, a.copy(), xp.empty(a.shape, dtype=self.dtype)

    @cached_property
    def _large(self) -> tuple[Any, Any]:
        return cupy().zeros(self._copied, dtype=self.dtype), cupy().empty(self._copied, dtype=self.dtype)
