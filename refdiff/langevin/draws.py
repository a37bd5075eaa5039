r"""The random numbers of chains by counter, one draw after the other.

    draw k of chain i:    random.normals(seed, [particle + i], k, d),      random.uniforms(seed, [particle + i], k, 1)

A draw is used for normals or for uniforms, never for both, which are made of the same words. Source: random.py.
"""

from __future__ import annotations

import numpy as np

from refdiff import random
from refdiff.arguments import Array, whole_number


class Draws:
    """Normals and uniforms of chains by counter, a draw after the other.

    Args:
        seed: an int in [0, 2^64), or a generator, from which a key is drawn.
        x: where the chains are, shape (n, d).
        particle: the number of the first chain.
        draw: the number of the first draw.
    """

    def __init__(self, seed: int | np.random.Generator, x: Array, particle: int, draw: int) -> None:
        self.key, first = random.seed_key(seed), whole_number("particle", particle)
        self.chains, self.dim = range(first, first + len(x)), x.shape[1]
        self.next = whole_number("draw", draw)

    def normals(self) -> Array:
        """The next normals, shape (n, d)."""
        self.next += 1
        return random.normals(self.key, self.chains, self.next - 1, self.dim)

    def uniforms(self) -> Array:
        """The next uniforms in (0, 1], one for each chain, shape (n,)."""
        self.next += 1
        return random.uniforms(self.key, self.chains, self.next - 1, 1)[:, 0]
