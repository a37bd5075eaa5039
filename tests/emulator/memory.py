"""Memory of a device: arrays that begin and end with pages which nothing may touch, and hold NaN until written."""

from __future__ import annotations

import ctypes
import math
import mmap
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
LINE = 16  # bytes: what a vector of numbers is aligned to
EMPTY = 0xFF  # a NaN in every floating type
NOTHING = 0  # PROT_NONE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def protect(page: int) -> None:
    """Let nothing touch the page at this address.

    Raises:
        OSError: the system does not.
    """
    if _libc.mprotect(page, PAGE, NOTHING) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


class Block:
    """Some bytes, which end where a page ends, but for fewer than LINE."""

    def __init__(self, size: int) -> None:
        inner = max(1, -(-size // PAGE)) * PAGE
        self.pages = mmap.mmap(-1, inner + 2 * PAGE)
        self.bytes = np.frombuffer(self.pages, dtype=np.uint8)
        base = self.bytes.ctypes.data
        for guard in (base, base + PAGE + inner):
            protect(guard)
        self.inner = self.bytes[PAGE : PAGE + inner]
        self.first = inner - -(-size // LINE) * LINE
        self.last = self.first + size
        self.inner[:] = EMPTY

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """The bytes as an array."""
        kind, count = np.dtype(dtype), math.prod(shape)
        return self.inner[self.first : self.first + count * kind.itemsize].view(kind).reshape(shape)

    def intact(self) -> bool:
        """Whether what lies before and behind the bytes was not written."""
        return bool((self.inner[: self.first] == EMPTY).all() and (self.inner[self.last :] == EMPTY).all())
