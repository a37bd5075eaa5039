r"""Layers of normalizing flows with a closed inverse: affine, entrywise and triangular maps.

    affine        x = A z + b                           log |det| = log |det A|
    entrywise     x_i = s(z_i),  s monotone             log |det| = sum_i log |s'(z_i)|
    triangular    x_i = e^(a_i(z)) z_i + b_i(z)         log |det| = sum_i a_i(z):  a_i, b_i look only at earlier entries

Points have shape (..., d) and results follow their leading shape (float32 in, float32 out).
Sources: PODB-17, PODD-70; Dinh et al. 2015 and 2017, Papamakarios et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, answered, points, real_array, whole_number
from refdiff.operators import Operator

Function = Callable[[Array], ArrayLike]


@dataclass(frozen=True, eq=False)
class Affine:
    """x = A z + b.

    Args:
        gain: A, a scalar, a diagonal (d,) or an invertible matrix (d, d).
        offset: b, shape (d,).

    Raises:
        ValueError: A has no inverse within the precision of its entries, or does not act on R^d.

    Examples:
        >>> from refdiff.normalizing import Affine
        >>> layer = Affine(2.0, [1.0])
        >>> print(layer.forward([[3.0]]), layer.inverse([[7.0]]), layer.log_det([[3.0]]).round(6))  # log 2
        [[7.]] [[3.]] [0.693147]
    """

    gain: Operator
    offset: Array

    def __init__(self, gain: ArrayLike, offset: ArrayLike) -> None:
        a, b = operators.operator("gain", gain), real_array("offset", offset, ndim=(1,))
        whole_number("the length of offset", len(b), low=1)
        operators.fits("gain", a, len(b))
        if a.ndim == 2 and a.shape[0] != a.shape[1]:
            raise ValueError(f"gain must be square, got shape {a.shape}")
        if (a == 0).any() if a.ndim < 2 else np.linalg.cond(a) * np.finfo(float).eps >= 1:
            raise ValueError(f"gain must have an inverse, got {a.tolist()}")
        object.__setattr__(self, "gain", a)
        object.__setattr__(self, "offset", b)

    @property
    def dim(self) -> int:
        """d."""
        return len(self.offset)

    def forward(self, z: ArrayLike) -> Any:
        """A z + b for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(operators.apply(self.gain, rows) + self.offset)

    def inverse(self, x: ArrayLike) -> Any:
        """A^-1 (x - b) for x of shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        left = rows - self.offset
        return restore(np.asarray(np.linalg.solve(self.gain, left.T).T if self.gain.ndim == 2 else left / self.gain))

    def log_det(self, z: ArrayLike) -> Any:
        """log |det A| for every z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        if self.gain.ndim == 2:
            value = np.linalg.slogdet(self.gain)[1]
        else:
            value = np.log(np.abs(np.broadcast_to(self.gain, (self.dim,)))).sum()
        return restore(np.full(len(rows), value))

    def jacobian(self, z: ArrayLike) -> Any:
        """A for every z of shape (..., d), shape (..., d, d)."""
        rows, restore = points("z", z, self.dim)
        return restore(np.tile(operators.dense(self.gain, self.dim), (len(rows), 1, 1)))


@dataclass(frozen=True, eq=False)
class Entrywise:
    """x_i = s(z_i) for one monotone function s of R onto R.

    Args:
        dim: d.
        function, inverted, derivative: s, s^-1 and s', each from (n, d) to (n, d), entry by entry.
    """

    dim: int
    function: Function
    inverted: Function
    derivative: Function

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)

    def _of(self, name: str, rows: Array) -> Array:
        return answered(name, getattr(self, name)(rows), rows.shape)

    def forward(self, z: ArrayLike) -> Any:
        """s(z) for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(self._of("function", rows))

    def inverse(self, x: ArrayLike) -> Any:
        """s^-1(x) for x of shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        return restore(self._of("inverted", rows))

    def log_det(self, z: ArrayLike) -> Any:
        """sum_i log |s'(z_i)| for z of shape (..., d), -inf where a volume vanishes."""
        rows, restore = points("z", z, self.dim)
        with np.errstate(divide="ignore"):
            return restore(np.log(np.abs(self._of("derivative", rows))).sum(axis=1))

    def jacobian(self, z: ArrayLike) -> Any:
        """diag(s'(z_i)) for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(self._of("derivative", rows)[:, :, None] * np.eye(self.dim))


@dataclass(frozen=True, eq=False)
class Triangular:
    """x_i = e^(a_i(z)) z_i + b_i(z), where a_i and b_i look only at entries that come before i.

    Entries come in `depth` blocks, one after the other, and look only at earlier blocks: two blocks are an affine
    coupling (NICE, RealNVP), d blocks an autoregressive map. With as many passes of z <- e^(-a(z)) (x - b(z)) as there
    are blocks the inverse is exact, and log |det| = sum_i a_i(z) without any matrix.

    Args:
        dim: d.
        conditioner: z (n, d) -> (a, b), each (n, d).
        depth: the number of blocks.
        differential: z (n, d) -> (da/dz, db/dz), each (n, d, d), for `jacobian` only.

    Examples:
        >>> import numpy as np
        >>> from refdiff.normalizing import Triangular
        >>> def coupling(z):  # x_1 = z_1, x_2 = e^z_1 z_2
        ...     return np.stack([0 * z[:, 0], z[:, 0]], axis=1), 0 * z
        >>> layer = Triangular(2, coupling, depth=2)
        >>> print(layer.forward([[np.log(3), 2.0]]).round(6), layer.log_det([[np.log(3), 2.0]]).round(6))
        [[1.098612 6.      ]] [1.098612]
    """

    dim: int
    conditioner: Callable[[Array], tuple[ArrayLike, ArrayLike]]
    depth: int
    differential: Callable[[Array], tuple[ArrayLike, ArrayLike]] | None = None

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)
        whole_number("depth", self.depth, low=1, high=self.dim)

    def _parts(self, rows: Array) -> tuple[Array, Array]:
        a, b = self.conditioner(rows)
        return answered("conditioner", a, rows.shape), answered("conditioner", b, rows.shape)

    def forward(self, z: ArrayLike) -> Any:
        """e^a z + b for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        a, b = self._parts(rows)
        return restore(np.exp(a) * rows + b)

    def inverse(self, x: ArrayLike) -> Any:
        """The z of x of shape (..., d), block after block.

        Raises:
            ValueError: one more pass moves z, so that the blocks are not what they are said to be.
        """
        rows, restore = points("x", x, self.dim)
        z = np.zeros_like(rows)
        for last in range(self.depth + 1):
            a, b = self._parts(z)
            before, z = z, np.exp(-a) * (rows - b)
            # entries of finished blocks are formed from the same numbers again: 1e-9 is far above what is left
            if last == self.depth and (np.abs(z - before) > 1e-9 * (np.abs(z) + np.exp(-a) * np.abs(b))).any():
                raise ValueError(f"conditioner must look only at earlier blocks, got more than depth = {self.depth}")
        return restore(z)

    def log_det(self, z: ArrayLike) -> Any:
        """sum_i a_i(z) for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(self._parts(rows)[0].sum(axis=1))

    def jacobian(self, z: ArrayLike) -> Any:
        """diag(e^a) + diag(e^a z) da/dz + db/dz for z of shape (..., d).

        Raises:
            ValueError: the differential is not given.
        """
        if self.differential is None:
            raise ValueError("differential must be given for a jacobian, got None")
        rows, restore = points("z", z, self.dim)
        stretch = np.exp(self._parts(rows)[0])
        shape = (len(rows), self.dim, self.dim)
        da, db = (answered("differential", part, shape) for part in self.differential(rows))
        return restore(stretch[:, :, None] * np.eye(self.dim) + (stretch * rows)[:, :, None] * da + db)
