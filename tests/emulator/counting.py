"""What kernels do to numbers, counted: `real` becomes a class that counts, and the emulator counts bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from emulator import building

KINDS = ("add", "multiply", "fused", "divide", "select", "exp2", "root", "log")
REAL = "typedef double real;"
COUNTED = f'#include "{building.HERE}/counted.h"\ntypedef Counted real;'


@contextmanager
def counting() -> Iterator[Callable[[], dict[str, int]]]:
    """Kernels that are compiled inside count; what is given back says what was done since it was last asked.

    Beside KINDS it has the bytes read and written in shared and in global memory: `shared` and `read`, `written`.
    """
    used: dict[int, ctypes.CDLL] = {}

    def library(
        source: str, options: tuple[str, ...], of: Callable[..., ctypes.CDLL] = building.library
    ) -> ctypes.CDLL:
        assert source.count(REAL) == 1, "the source has one type of numbers"
        found = of(source.replace(REAL, COUNTED), options)
        used[id(found)] = found
        return found

    def asked() -> dict[str, int]:
        total = dict.fromkeys((*KINDS, "read", "written", "shared"), 0)
        for one in used.values():
            for name, names in (("counted", KINDS), ("emulate_bytes", ("read", "written", "shared", ""))):
                function = getattr(one, name)
                function.restype = ctypes.POINTER(ctypes.c_uint64)
                places = function()
                for i, kind in enumerate(names):
                    total[kind or "shared"] += places[i]
                    places[i] = 0
        return total

    with patch.object(building, "library", library):
        yield asked
