r"""The device: sources of kernels as modules of CuPy, launches, and how much memory there is.

A module is one source compiled for one type of numbers and, where its loops over axes are unrolled, for one number of
axes; CuPy keeps what it compiled on disk. Everything runs in the current stream of the device that holds the arrays,
and nothing waits for it but what has to know a number. Arrays here are CuPy's, whose types cannot be written down where
CuPy is not installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 128  # of a block
WAVES = 32  # blocks of a launch for each multiprocessor: beyond, threads take several points in turn

_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)
_modules: dict[tuple[Any, ...], Callable[[str], Any]] = {}  # kernels by name


def cupy() -> Any:
    """CuPy, which whoever has an array of its has imported."""
    return sys.modules["cupy"]


@cache
def source(name: str) -> str:
    """A source with what it includes in place, each file once, so that CuPy's files on disk depend on all of it."""
    seen: set[str] = set()

    def text(file: str) -> str:
        if file in seen:
            return ""
        seen.add(file)
        found = Path(__file__).with_name(file).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda match: text(match[1]), found)

    return text(f"{name}.cu")


def options(dtype: Any, **numbers: int) -> tuple[str, ...]:
    """What NVRTC is told: the type of numbers, and numbers that a source is compiled for, as DIM=3."""
    single = ("-DSINGLE",) if np.dtype(dtype) == np.float32 else ()
    return ("-std=c++17", *single, *(f"-D{name}={value}" for name, value in sorted(numbers.items())))


def kernel(name: str, function: str, dtype: Any, **numbers: int) -> Any:
    """A kernel of the source `name` for float64 or float32, compiled with `numbers` defined."""
    key = (id(cupy()), name, options(dtype, **numbers))
    if key not in _modules:
        # CuPy would look for the module and ask the driver for the function each time
        _modules[key] = cache(cupy().RawModule(code=source(name), options=key[2], backend="nvrtc").get_function)
    return _modules[key](function)


def launch(kernel: Any, items: int, *arguments: Any, shared: int = 0, threads: int = THREADS, rows: int = 1) -> None:
    """Run a kernel on so many items, a thread for each until there are WAVES blocks a multiprocessor.

    Args:
        kernel: an answer of `kernel`.
        items: how many; nothing happens where there are none.
        arguments: arrays, contiguous, and NumPy scalars of the types that the kernel wants.
        shared: bytes of shared memory of a block.
        threads: of a block.
        rows: blocks in the second direction of the grid.
    """
    if items > 0:
        most = WAVES * cupy().cuda.Device().attributes["MultiProcessorCount"]
        kernel((min(-(-items // threads), most), rows), (threads,), arguments, shared_mem=shared)


def free_bytes() -> int:
    """What can be allocated on the current device: what the driver has, and what CuPy keeps for reuse."""
    return int(cupy().cuda.runtime.memGetInfo()[0] + cupy().get_default_memory_pool().free_bytes())


def rows_at_once(rows: int, row_bytes: int, fixed: int, what: str) -> int:
    """How many of so many rows fit in half of the memory that is free, beside `fixed` bytes.

    Raises:
        MemoryError: not one does; it says how much `what` needs.
    """
    free = free_bytes()
    most = (free // 2 - fixed) // row_bytes
    if rows and most < 1:
        raise MemoryError(
            f"{what} needs {fixed + row_bytes} bytes on the GPU for one row, and {free // 2} may be used, "
            "half of what is free"
        )
    return int(min(rows, most))
