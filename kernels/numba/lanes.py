"""Points as blocks of lanes, and back.

Copies are loops: Numba's assignment of one array to another brings along the text of its error messages, which takes
seconds to compile.
"""

from __future__ import annotations

from typing import Any

from refdiff.kernels.numba.compiling import inlined
from refdiff.kernels.numba.tiles import LANES


@inlined
def load(points: Any, first: int, x: Any) -> Any:
    """Rows first.. of points (n, d) as a block x; the last row again where there are no more. How many there were."""
    count = min(LANES, points.shape[0] - first)
    for i in range(LANES):
        for j in range(points.shape[1]):
            x[j, i] = points[first + min(i, count - 1), j]
    return count


@inlined
def store(x: Any, count: int, first: int, points: Any) -> None:
    """The first `count` lanes of a block as rows first.. of points (n, d)."""
    for i in range(count):
        for j in range(points.shape[1]):
            points[first + i, j] = x[j, i]


@inlined
def store_line(line: Any, count: int, first: int, numbers: Any) -> None:
    """The first `count` entries of a line as the entries first.. of numbers."""
    for i in range(count):
        numbers[first + i] = line[i]


@inlined
def copy(source: Any, out: Any) -> None:
    """One block into another."""
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[j, i] = source[j, i]
