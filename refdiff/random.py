r"""Random numbers by counter: a number belongs to a place, and not to a turn.

Philox-4x32-10 encrypts a counter (c0, c1, c2, c3) of four 32-bit words under a key (k0, k1) in ten rounds

    (c0, c1, c2, c3)  ->  (hi(M1 c2) ^ c1 ^ k0,  lo(M1 c2),  hi(M0 c0) ^ c3 ^ k1,  lo(M0 c0))

with hi and lo the halves of a 64-bit product; between rounds W0 is added to k0 and W1 to k1. Here

    (k0, k1) = the seed, low word first;   (c0, c1) = the particle, low word first;   c2 = the draw;   c3 = g

so one call answers for the axes 2g and 2g + 1 of one draw for one particle, and no split of a batch, no order and no
number of threads changes what it answers. The four words w make two uniforms and, by Box and Muller, two normals:

    u_{2g} = (floor((w1 2^32 + w0) / 2^11) + 1) / 2^53,      u_{2g+1} the same of w3 and w2
    z_{2g} = r cos(2 pi u_{2g+1}),   z_{2g+1} = r sin(2 pi u_{2g+1}),   r = sqrt(-2 log u_{2g})

u lies in (0, 1] on the grid of 2^-53, every point of which is a float64: nothing rounds, and log 0 does not occur. The
least u, 2^-53, makes |z| <= sqrt(106 log 2) = 8.572 (beyond it a normal has the mass 1e-17), and u = 1 is no point of
(0, 1) but a harmless radius 0. Kernels give the same words and uniforms bit by bit, and normals up to a few ulps.

Sources: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"; Box and Muller 1958.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff import backends
from refdiff.arguments import Array, whole_number

Words = NDArray[np.uint64]  # 32-bit words, in 64 bits: room for their products

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, in units of 2^-32
ROUNDS = 10

SEEDS = 2**64
DRAWS = 2**32
PARTICLES = 2**64

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_BLOCK = 1 << 13  # counters at a time: their words stay in cache


def philox(counter: ArrayLike, key: ArrayLike, rounds: int = ROUNDS) -> NDArray[np.uint32]:
    """Philox-4x32 itself.

    Args:
        counter: words c0..c3, shape (..., 4).
        key: words k0 and k1, shape (..., 2).
        rounds: how many; the paper finds seven enough for all tests of BigCrush, and takes ten.

    Returns:
        The encrypted words, uint32 of shape (..., 4), the leading shapes broadcast.

    Raises:
        TypeError: counter or key are no whole numbers.
        ValueError: they are no words in [0, 2^32), or their shapes do not fit.

    Examples:
        >>> from refdiff.random import philox
        >>> print([f"{word:08x}" for word in philox([0, 0, 0, 0], [0, 0])])  # the published answer of Philox-4x32-10
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c, k = _words("counter", counter, 4), _words("key", key, 2)
    try:
        np.broadcast_shapes(c.shape[:-1], k.shape[:-1])
    except ValueError:
        raise ValueError(f"counter and key must broadcast, got shapes {c.shape} and {k.shape}") from None
    made = _rounds(c[..., 0], c[..., 1], c[..., 2], c[..., 3], k[..., 0], k[..., 1], whole_number("rounds", rounds))
    return np.stack(np.broadcast_arrays(*made), axis=-1).astype(np.uint32)


def seed_key(seed: int | np.random.Generator) -> int:
    """The 64-bit key of a seed: an int is its own key, a generator gives its next 64 bits."""
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(SEEDS, dtype=np.uint64))
    return whole_number("seed", seed, high=SEEDS - 1)


def uniforms(seed: int | np.random.Generator, particles: ArrayLike | range, draw: int, dim: int) -> Array:
    """Uniforms u in (0, 1], multiples of 2^-53.

    Args:
        seed: an int in [0, 2^64), or a generator, from which a key is drawn once.
        particles: the particles' numbers, shape (n,); or n, for the particles 0..n-1. Where they are an array of CuPy,
            so is the answer.
        draw: which draw, in [0, 2^32).
        dim: d, how many for each particle.

    Returns:
        shape (n, d). Row i depends on seed, particles[i] and draw alone, its first axes not on how many there are.
    """
    if backends.on_device(particles):
        return _on_device("uniforms", seed, particles, draw, dim)  # type: ignore[no-any-return]
    return np.ascontiguousarray(_pairs(seed, particles, draw, dim)[:, :dim])


def normals(seed: int | np.random.Generator, particles: ArrayLike | range, draw: int, dim: int) -> Array:
    """Unit normals, shape (n, d), for particles and dim as of `uniforms`; Numba and GPUs give them up to a few ulps.

    Examples:
        >>> from refdiff.random import normals
        >>> batch = normals(0, 100, draw=3, dim=2)
        >>> print((normals(0, [17], draw=3, dim=2) == batch[17]).all())  # alone or among others
        True
    """
    if backends.on_device(particles):
        return _on_device("normals", seed, particles, draw, dim)  # type: ignore[no-any-return]
    if backends.current() == "numba":
        from refdiff.kernels.numba import philox  # late: Numba takes a third of a second to import

        return philox.normals(*_place(seed, particles, draw, dim))
    u = _pairs(seed, particles, draw, dim)
    z = np.empty_like(u)
    for rows in _slices(len(u), u.shape[1] // 2):
        z[rows, 0::2], z[rows, 1::2] = box_muller(u[rows, 0::2], u[rows, 1::2])
    return np.ascontiguousarray(z[:, :dim])


def unit(low: Words, high: Words) -> Array:
    """The upper 53 bits of 32-bit words low and high (kept in uint64) as multiples of 2^-53 in (0, 1], any shape."""
    bits = (high << np.uint64(21)) | (low >> np.uint64(11))
    return (bits + np.uint64(1)).astype(np.float64) * 2.0**-53


def box_muller(u: Array, v: Array) -> tuple[Array, Array]:
    """Two independent unit normals from uniforms u, v in (0, 1] of any shape: (r cos(2 pi v), r sin(2 pi v))."""
    radius = np.sqrt(-2.0 * np.log(u))
    cosine, sine = _turn(v)
    return radius * cosine, radius * sine


def _on_device(name: str, seed: int | np.random.Generator, particles: Any, draw: int, dim: int) -> Any:
    """Uniforms or normals, as `name` says, of particles that are an array of CuPy: another one."""
    from refdiff.kernels.cuda import device, philox

    if particles.dtype.kind not in "iu":
        raise TypeError(f"particles must be whole numbers in [0, 2^64), got dtype {particles.dtype}")
    if particles.ndim != 1:
        raise ValueError(f"particles must have shape (n,), got {particles.shape}")
    if particles.dtype.kind == "i" and particles.size and int(particles.min()) < 0:
        raise ValueError(f"particles must not be negative, got {int(particles.min())}")
    draw, dim = whole_number("draw", draw, high=DRAWS - 1), whole_number("dim", dim, low=1)
    with particles.device:
        own = device.cupy().ascontiguousarray(particles, dtype=np.uint64)
        return getattr(philox, name)(seed_key(seed), own, draw, dim)


def _place(
    seed: int | np.random.Generator, particles: ArrayLike | range, draw: int, dim: int
) -> tuple[int, NDArray[np.uint64], int, int]:
    """The key, the particles' numbers, the draw and the dimension, checked."""
    numbers = _particles(particles)
    draw, dim = whole_number("draw", draw, high=DRAWS - 1), whole_number("dim", dim, low=1)
    return seed_key(seed), numbers, draw, dim


def _pairs(seed: int | np.random.Generator, particles: ArrayLike | range, draw: int, dim: int) -> Array:
    """Uniforms for each particle, of all axes of its last group: one more than asked when dim is odd."""
    key, numbers, draw, dim = _place(seed, particles, draw, dim)
    c2, k0, k1 = (np.asarray(word, dtype=np.uint64) for word in (draw, key & 0xFFFFFFFF, key >> 32))
    groups = np.arange((dim + 1) // 2, dtype=np.uint64)
    out = np.empty((len(numbers), 2 * len(groups)))
    for rows in _slices(len(numbers), len(groups)):
        own = numbers[rows, None]
        w = _rounds(own & _LOW, own >> _HALF, c2, groups, k0, k1, ROUNDS)
        out[rows, 0::2] = unit(w[0], w[1])
        out[rows, 1::2] = unit(w[2], w[3])
    return out


def _rounds(c0: Words, c1: Words, c2: Words, c3: Words, k0: Words, k1: Words, rounds: int) -> tuple[Words, ...]:
    for _ in range(rounds):
        first, second = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ k0, second & _LOW, (first >> _HALF) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + np.uint64(WEYL[0])) & _LOW, (k1 + np.uint64(WEYL[1])) & _LOW
    return c0, c1, c2, c3


def _turn(u: Array) -> tuple[Array, Array]:
    """cos(2 pi u) and sin(2 pi u).

    u - q / 4 with q the nearest quarter is exact and at most 1/8, so both are right to a few ulps also where they
    vanish; 2 pi u itself would be rounded, and off by 1e-15 there.
    """
    quarter = np.rint(4.0 * u)
    angle = 2.0 * np.pi * (u - 0.25 * quarter)
    cosine, sine = np.cos(angle), np.sin(angle)
    odd = quarter % 2 == 1
    turned, other = np.where(odd, sine, cosine), np.where(odd, cosine, sine)
    # quarters 0..4: the cosine is c, -s, -c, s, c and the sine s, c, -s, -c, s
    return np.where((quarter == 1) | (quarter == 2), -turned, turned), np.where(quarter // 2 == 1, -other, other)


def _slices(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // columns)
    return (slice(first, first + step) for first in range(0, rows, step))


def _words(name: str, value: ArrayLike, count: int) -> Words:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold whole numbers, got dtype {array.dtype}")
    if array.ndim == 0 or array.shape[-1] != count:
        raise ValueError(f"{name} must have shape (..., {count}), got {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= 2**32):
        raise ValueError(f"{name} must hold words in [0, 2^32), got {array.min()}..{array.max()}")
    return array.astype(np.uint64)


def _particles(value: ArrayLike | range) -> NDArray[np.uint64]:
    if isinstance(value, (int, np.integer)):
        return np.arange(whole_number("particles", value), dtype=np.uint64)
    if isinstance(value, range) and len(value) and value.step == 1:
        if value.start < 0 or value.stop > PARTICLES:
            raise ValueError(f"particles must lie in [0, 2^64), got {value}")
        return np.uint64(value.start) + np.arange(len(value), dtype=np.uint64)
    array = np.asarray(value)
    if array.size == 0:
        return np.zeros(0, dtype=np.uint64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"particles must be whole numbers in [0, 2^64), got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"particles must have shape (n,), got {array.shape}")
    if array.min() < 0:
        raise ValueError(f"particles must not be negative, got {array.min()}")
    return array.astype(np.uint64)
