r"""Unit normals by counter: Philox-4x32-10, then Box and Muller.

The stream is that of refdiff.random, where the formulas stand: words and uniforms bit by bit, normals up to the
rounding of log, sqrt, sine and cosine. The key is the seed, the counter (particle, draw, g), and one counter gives the
normals of the axes 2g and 2g + 1:

    words             four 32-bit words
    unit              the upper 53 of 64 bits as a uniform in (0, 1]
    normal_pair       z_{2g} = r cos(2 pi v), z_{2g+1} = r sin(2 pi v), r = sqrt(-2 log u)
    normals_block     a block (d, lanes): lane i is particle first + i
    fill_normals      rows (n, d) of any particles, by blocks of LANES rows; `normals` calls it

Words are kept in 64 bits, whose products LLVM takes as one multiplication of 32 bits per lane; nothing branches, so
the loops over lanes vectorise. Into float32 arrays go the same normals, rounded.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refdiff.kernels.numba.compiling import blocks, compiled, inlined, wide_vectors
from refdiff.kernels.numba.vector_math import log, sincos_turns

Word = np.uint64  # 32 bits, with room for a product

LANES = 64  # rows of a block of fill_normals: its two axes of scratch take 1 KiB

_M0, _M1 = Word(0xD2511F53), Word(0xCD9E8D57)
_W0, _W1 = Word(0x9E3779B9), Word(0xBB67AE85)
_LOW = Word(0xFFFFFFFF)
_HALF = Word(32)
_DOWN, _UP, _ONE = Word(11), Word(21), Word(1)
_GRID = 2.0**-53


@inlined
def words(k0: Word, k1: Word, particle: Word, draw: Word, group: Word) -> tuple[Word, Word, Word, Word]:
    """Philox-4x32-10 of the counter (particle, draw, group) under the key (k0, k1); all of them uint64."""
    c0, c1, c2, c3 = particle & _LOW, particle >> _HALF, draw, group
    for _ in range(10):
        first, second = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ k0, second & _LOW, (first >> _HALF) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@inlined
def unit(low: Word, high: Word) -> float:
    """(floor((high 2^32 + low) / 2^11) + 1) / 2^53, in (0, 1], without rounding."""
    return np.float64(np.int64(((high << _UP) | (low >> _DOWN)) + _ONE)) * _GRID


@inlined
def normal_pair(k0: Word, k1: Word, particle: Word, draw: Word, group: Word) -> tuple[float, float]:
    """The normals of axes 2 group and 2 group + 1; all arguments uint64."""
    w0, w1, w2, w3 = words(k0, k1, particle, draw, group)
    radius = math.sqrt(-2.0 * log(unit(w0, w1)))
    sine, cosine = sincos_turns(unit(w2, w3))
    return radius * cosine, radius * sine


@inlined
def normals_block(key0: Any, key1: Any, first_particle: Any, draw: Any, out: NDArray[Any]) -> None:
    """Fill out (d, lanes) with the normals of one draw; lane i is particle first_particle + i.

    key0 and key1 are the low and the high 32 bits of the seed; out is float64 or float32. Whole numbers may be int64
    or uint64; the sum of one of each is a float64 for Numba as for NumPy, which has lost digits and is refused.
    """
    wide_vectors()
    dim, lanes = out.shape
    k0, k1, start, turn = Word(key0), Word(key1), Word(first_particle | 0), Word(draw)
    for group in range(dim // 2):
        for i in range(lanes):
            first, second = normal_pair(k0, k1, start + Word(i), turn, Word(group))
            out[2 * group, i] = first
            out[2 * group + 1, i] = second
    if dim % 2 == 1:
        for i in range(lanes):
            first, _ = normal_pair(k0, k1, start + Word(i), turn, Word(dim // 2))
            out[dim - 1, i] = first


@compiled
def fill_normals(
    first: int, last: int, key0: int, key1: int, particles: NDArray[Word], draw: int, out: NDArray[Any]
) -> None:
    """Rows LANES first .. LANES last of out (n, d): row i holds the normals of particles[i] (uint64), one draw."""
    wide_vectors()
    rows, dim = out.shape
    k0, k1, turn = Word(key0), Word(key1), Word(draw)
    pair = np.empty((2, LANES))
    for block in range(first, last):
        start = LANES * block
        size = min(LANES, rows - start)
        for group in range((dim + 1) // 2):
            for i in range(size):
                pair[0, i], pair[1, i] = normal_pair(k0, k1, particles[start + i], turn, Word(group))
            if 2 * group + 1 < dim:
                for i in range(size):
                    out[start + i, 2 * group] = pair[0, i]
                    out[start + i, 2 * group + 1] = pair[1, i]
            else:
                for i in range(size):
                    out[start + i, dim - 1] = pair[0, i]


def normals(seed: int, particles: NDArray[Word], draw: int, dim: int) -> NDArray[np.float64]:
    """Unit normals (n, dim) of the particles (n,), one draw, in threads.

    Examples:
        >>> import numpy as np
        >>> from refdiff import random
        >>> from refdiff.kernels.numba.philox import normals
        >>> particles = np.arange(100, dtype=np.uint64)
        >>> np.allclose(normals(0, particles, 3, 2), random.normals(0, 100, 3, 2))
        True
    """
    out = np.empty((len(particles), dim))
    if len(particles):
        blocks(fill_normals, -(-len(particles) // LANES), seed & 0xFFFFFFFF, seed >> 32, particles, draw, out)
    return out
