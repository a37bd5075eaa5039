"""Modules and kernels as CuPy has them, on the emulator, and what a test asks of it."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from emulator import building

ORDERS = {"random": 0, "forward": 1, "backward": -1}


class State:
    """What a test asks about, or wants otherwise: how threads take turns, how much memory there is, what was copied."""

    def __init__(self) -> None:
        self.order, self.seed = "random", 1
        self.total = 8 * 2**30
        self.copies = {"to": 0, "from": 0}  # of arrays
        self.waits = 0  # for single numbers
        self.launches: list[tuple[str, tuple[int, ...], tuple[int, ...], int]] = []


state = State()


def of_device(value: Any) -> bool:
    """Whether this is an array of the stand-in."""
    return hasattr(value, "_block")


class RawModule:
    """Kernels of a source, compiled at the first call."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), **_: Any) -> None:
        self._code, self._options = code, tuple(options)

    def get_function(self, name: str) -> Kernel:
        if name not in building.KERNEL.findall(self._code):
            raise AttributeError(f"the source has no kernel {name}")
        return Kernel(self, name)


class Kernel:
    """One kernel."""

    def __init__(self, module: RawModule, name: str) -> None:
        self._module, self.name = module, name
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise ValueError(f"a block has at most {self.max_dynamic_shared_size_bytes} bytes, not {shared_mem}")
        sides = [tuple(int(side) for side in (*given, 1, 1)[:3]) for given in (grid, block)]
        if any(side < 1 for given in sides for side in given) or sides[0][0] >= 2**31 or max(sides[0][1:]) >= 2**16:
            raise ValueError(f"cudaErrorInvalidConfiguration: {sides}")
        held = [_argument(one) for one in args]
        addresses = (ctypes.c_void_p * len(held))(*(ctypes.addressof(one) for one in held))
        sizes = (ctypes.c_int * len(held))(*(ctypes.sizeof(one) for one in held))
        extents = (ctypes.c_size_t * (2 * len(held)))(*(place for one in args for place in _extent(one)))
        library = building.library(self._module._code, self._module._options)
        call = getattr(library, f"emulate_{self.name}")
        if math.prod(sides[1]) > (most := _most_threads(library, self.name)):
            raise ValueError(f"CUDA_ERROR_INVALID_VALUE: {self.name} is compiled for blocks of at most {most} threads")
        counts = [(ctypes.c_uint * 3)(*given) for given in sides]
        state.launches.append((self.name, *sides, shared_mem))
        order, size = ORDERS[state.order], ctypes.c_size_t(shared_mem)
        wrong = call(
            *counts, size, ctypes.c_uint(state.seed), ctypes.c_int(order), addresses, sizes, extents, len(held)
        )
        if wrong is not None:
            raise RuntimeError(f"{self.name}: {wrong.decode()}")
        for place, one in enumerate(args):
            if of_device(one) and not one._block.intact():
                raise RuntimeError(f"{self.name}: argument {place} was written before its beginning or behind its end")


def _most_threads(library: ctypes.CDLL, name: str) -> int:
    """What the kernel says of itself by launch bounds, if it does."""
    try:
        return ctypes.c_int.in_dll(library, f"most_threads_{name}").value
    except ValueError:
        return 2**31


def _argument(value: Any) -> Any:
    """A value as CuPy passes it: arrays as addresses, numbers with the size of their type."""
    if of_device(value):
        if not value.flags.c_contiguous:
            raise ValueError("kernels here take contiguous arrays")
        return ctypes.c_void_p(value._host.ctypes.data)
    if isinstance(value, np.generic):
        return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())
    if isinstance(value, bool):
        return ctypes.c_bool(value)
    if isinstance(value, int):
        return ctypes.c_longlong(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    raise TypeError(f"Unsupported type {type(value)}")


def _extent(value: Any) -> tuple[int, int]:
    """Where an array begins, and its bytes."""
    return (value._host.ctypes.data, value.nbytes) if of_device(value) else (0, 0)
