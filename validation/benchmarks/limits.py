r"""What this machine can do, measured beside the workloads: the ceilings that their fractions are of.

    dgemm     2 m^3 / seconds of a product of two m x m float64 matrices by NumPy's linear algebra
    exp       exponentials per second on arrays that stay in the cache of a core, on all threads: the fastest of
              numpy.exp and refdiff's own kernel
    copy      bytes read plus bytes written per second when arrays far larger than caches are copied, on all threads

Each is the fastest of a few short runs: a ceiling is what is possible, not what is usual.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from refdiff.arguments import Array

MATRIX = 1024  # 2 GFLOP, 24 MB: tens of milliseconds on one core
IN_CACHE = 4096  # two arrays of it are 64 KB
REPEATED = 400
COPIED = 64 << 20  # bytes for each thread, beyond most last-level caches' share
TRIES = 3


class Limits(NamedTuple):
    """Operations, exponentials and bytes per second, as in `problems.Work`."""

    flops: float
    exponentials: float
    bytes: float

    @property
    def words(self) -> dict[str, str]:
        """What each is called, and what it measures."""
        return {"flops": "dgemm", "exponentials": "exp", "bytes": "copy"}


class Machine:
    """The limits of some threads of this machine, each time they are asked for.

    Args:
        threads: how many threads work at a time; the linear algebra below NumPy uses its own number.
        scale: shrinks what is measured, for tests.
    """

    def __init__(self, threads: int, scale: float = 1.0) -> None:
        self.threads = threads
        self._size = max(16, int(MATRIX * scale))
        self._times = max(1, int(REPEATED * scale))
        self._copied = max(1024, int(COPIED * scale) // 8)

    def __call__(self) -> Limits:
        """Measure all three."""
        a, b, c = self._matrices
        product = _best(lambda: np.matmul(a, b, out=c))
        with ThreadPoolExecutor(self.threads) as pool:
            together = partial(_together, pool)
            exp = min(_best(partial(together, run, self._small)) for run in self._exponentials)
            copy = _best(partial(together, _copy, self._large))
        return Limits(
            2.0 * self._size**3 / product,
            self.threads * self._times * IN_CACHE / exp,
            self.threads * 2.0 * 8 * self._copied / copy,
        )

    @cached_property
    def _matrices(self) -> tuple[Array, Array, Array]:
        rng = np.random.default_rng(0)
        a, b = (rng.standard_normal((self._size, self._size)) for _ in range(2))
        return a, b, np.empty_like(a)

    @cached_property
    def _small(self) -> list[tuple[Array, Array]]:
        """Arguments like those of a mixture, from far below 0 up to 0; one pair of arrays for each thread."""
        return [(np.linspace(-30, 0, IN_CACHE), np.empty(IN_CACHE)) for _ in range(self.threads)]

    @cached_property
    def _large(self) -> list[tuple[Array, Array]]:
        return [(np.ones(self._copied), np.zeros(self._copied)) for _ in range(self.threads)]

    @cached_property
    def _exponentials(self) -> list[Callable[[Array, Array], Any]]:
        def by_numpy(x: Array, out: Array) -> None:
            for _ in range(self._times):
                np.exp(x, out=out)

        found: list[Callable[[Array, Array], Any]] = [by_numpy]
        if (kernel := _own_exp()) is not None:
            found.append(lambda x, out: kernel(x, out, self._times))
        return found


def _own_exp() -> Callable[[Array, Array, int], None] | None:
    """refdiff's exp on arrays, some times over, without the interpreter's lock; None where nothing is compiled."""
    import numba
    from numba import config

    from refdiff.kernels.numba.compiling import FAST
    from refdiff.kernels.numba.vector_math import exp

    if config.DISABLE_JIT:
        return None

    def loop(x: Array, out: Array, times: int) -> None:
        for _ in range(times):
            for i in range(x.size):
                out[i] = exp(x[i])

    # as kernels are compiled, and here, not while it is measured
    kernel: Callable[[Array, Array, int], None] = numba.njit(nogil=True, error_model="numpy", fastmath=FAST)(loop)
    kernel(np.zeros(1), np.zeros(1), 1)
    return kernel


def _copy(x: Array, out: Array) -> None:
    np.copyto(out, x)


def _together(pool: ThreadPoolExecutor, run: Callable[[Array, Array], Any], arrays: list[tuple[Array, Array]]) -> None:
    """One call for each pair of arrays, at the same time."""
    list(pool.map(lambda pair: run(*pair), arrays))


def _best(run: Callable[[], object]) -> float:
    """The least seconds of a few runs."""
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
