"""Uniforms and unit normals by counter on the device: the stream of refdiff.random."""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.kernels.cuda.device import cupy, kernel, launch


def words(key: int, particles: Any, draw: int, group: int) -> Any:
    """Philox-4x32-10 of the counters (particle, draw, group), uint32 (n, 4), for particles (n,), uint64."""
    out = cupy().empty((len(particles), 4), dtype=np.uint32)
    numbers = np.int64(len(particles)), np.uint64(key), np.uint32(draw), np.uint32(group)
    launch(kernel("philox", "words", np.float64), len(particles), particles, *numbers, out)
    return out


def uniforms(key: int, particles: Any, draw: int, dim: int) -> Any:
    """Uniforms in (0, 1], float64 (n, dim), of particles (n,), uint64."""
    return _filled("uniforms", key, particles, draw, dim, np.float64)


def normals(key: int, particles: Any, draw: int, dim: int, dtype: Any = np.float64) -> Any:
    """Unit normals, (n, dim) of float64 or float32, of particles (n,), uint64."""
    return _filled("normals", key, particles, draw, dim, dtype)


def _filled(name: str, key: int, particles: Any, draw: int, dim: int, dtype: Any) -> Any:
    out = cupy().empty((len(particles), dim), dtype=dtype)
    numbers = np.int64(len(particles)), np.int32(dim), np.uint64(key), np.uint32(draw)
    items = len(particles) * ((dim + 1) // 2)
    launch(kernel("philox", name, dtype), items, particles, *numbers, out)
    return out
