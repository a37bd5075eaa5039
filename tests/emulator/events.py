"""What a device is asked beside kernels: events, which all have happened here, its properties, and draws."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

PROPERTIES = {"name": b"emulator", "major": 0, "minor": 0, "multiProcessorCount": 2, "totalGlobalMem": 8 * 2**30}


class Event:
    """A moment, at which all that was asked for before is done."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        return None


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds, in float32's digits."""
    if start.seconds is None or end.seconds is None:
        raise RuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
    return float(np.float32(1e3 * (end.seconds - start.seconds)))


class Generator:
    """Normals on the device."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def standard_normal(self, size: Any, dtype: Any = float) -> Any:
        from emulator import cupy

        return cupy.asarray(self._rng.standard_normal(size).astype(dtype))


class random:
    """What is drawn on the device."""

    default_rng = Generator
