r"""Normalizing flows: bijections, their compositions, and the density that one makes of another.

    x = f(z),  z ~ base:     log p(x) = log p_base(z) - log |det df/dz|   at z = f^-1(x)
    f = f_L o ... o f_1:     log |det df/dz| = sum_k log |det df_k/dz_{k-1}|,   z_0 = z,  z_k = f_k(z_{k-1})
    maximum likelihood:      E_data log p = E log p_base(z) - E log |det df/dz| = -H(data) - KL(data || p),
                             KL(data || p) = KL(f^-1 # data || base)

A bijection is anything with `dim`, `forward`, `inverse`, `log_det` and `jacobian`: `layers`, `planar`, `residual` and
`euler_layers` have them. Points z and x have shape (..., d) and results follow their leading
shape (float32 in, float32 out). Sources: PODB-17..19, PODD-70..72; Tabak and Turner 2013, Rezende and Mohamed 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, points, real_array


@runtime_checkable
class Bijection(Protocol):
    """A smooth map of R^d onto itself that has an inverse."""

    @property
    def dim(self) -> int:
        """d."""

    def forward(self, z: ArrayLike) -> Any:
        """x = f(z) for z of shape (..., d)."""

    def inverse(self, x: ArrayLike) -> Any:
        """z = f^-1(x) for x of shape (..., d)."""

    def log_det(self, z: ArrayLike) -> Any:
        """log |det df/dz| at z of shape (..., d), shape (...)."""

    def jacobian(self, z: ArrayLike) -> Any:
        """df/dz at z of shape (..., d), shape (..., d, d)."""


@runtime_checkable
class Base(Protocol):
    """A law with a density that can be drawn from; a Gaussian or GaussianMixture is one."""

    @property
    def dim(self) -> int:
        """d."""

    def logpdf(self, x: ArrayLike) -> Any:
        """log p(x) for x of shape (..., d), shape (...)."""

    def sample(self, n: int, seed: int | np.random.Generator) -> Array:
        """n draws, by a seed, shape (n, d)."""


@dataclass(frozen=True, eq=False)
class Inverse:
    """The inverse of a bijection, as a bijection.

    Args:
        of: the bijection that is turned round.

    Raises:
        TypeError: it is no bijection.
    """

    of: Bijection

    def __post_init__(self) -> None:
        _is_bijection("of", self.of)

    @property
    def dim(self) -> int:
        """d."""
        return self.of.dim

    def forward(self, z: ArrayLike) -> Any:
        """f^-1(z) for z of shape (..., d)."""
        return self.of.inverse(z)

    def inverse(self, x: ArrayLike) -> Any:
        """f(x) for x of shape (..., d)."""
        return self.of.forward(x)

    def log_det(self, z: ArrayLike) -> Any:
        """-log |det df| at f^-1(z), for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(-self.of.log_det(self.of.inverse(rows)))

    def jacobian(self, z: ArrayLike) -> Any:
        """The inverse matrix of df at f^-1(z), for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(np.linalg.inv(self.of.jacobian(self.of.inverse(rows))))


@dataclass(frozen=True, eq=False)
class Composition:
    """f_L o ... o f_1: the first layer acts first.

    Args:
        layers: f_1, ..., f_L, bijections of one dimension d, at least one.

    Raises:
        TypeError: a layer is no bijection.
        ValueError: no layer, or layers of different dimensions.

    Examples:
        >>> from refdiff.normalizing import Affine, Composition
        >>> both = Composition([Affine(2.0, [1.0]), Affine(0.5, [3.0])])  # (2 z + 1) / 2 + 3
        >>> print(both.forward([[1.0]]), both.log_det([[1.0]]).round(6) + 0.0)
        [[4.5]] [0.]
    """

    layers: tuple[Bijection, ...]

    def __init__(self, layers: Sequence[Bijection]) -> None:
        object.__setattr__(self, "layers", tuple(layers))
        for layer in self.layers:
            _is_bijection("layers", layer)
        dims = [layer.dim for layer in self.layers]
        if not dims or len(set(dims)) > 1:
            raise ValueError(f"layers must be bijections of one dimension, at least one, got dimensions {dims}")

    @property
    def dim(self) -> int:
        """d."""
        return self.layers[0].dim

    def forward(self, z: ArrayLike) -> Any:
        """x = z_L for z = z_0 of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        for layer in self.layers:
            rows = layer.forward(rows)
        return restore(rows)

    def inverse(self, x: ArrayLike) -> Any:
        """z = z_0 for x = z_L of shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        for layer in reversed(self.layers):
            rows = layer.inverse(rows)
        return restore(rows)

    def log_dets(self, z: ArrayLike) -> Any:
        """log |det df_k/dz_{k-1}| of every layer for z of shape (..., d), shape (..., L)."""
        rows, restore = points("z", z, self.dim)
        found = []
        for layer in self.layers:
            found.append(layer.log_det(rows))
            rows = layer.forward(rows)
        return restore(np.stack(found, axis=-1))

    def log_det(self, z: ArrayLike) -> Any:
        """The sum of those of the layers, for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        return restore(self.log_dets(rows).sum(axis=-1))

    def jacobian(self, z: ArrayLike) -> Any:
        """The product of those of the layers, the last on the left, for z of shape (..., d)."""
        rows, restore = points("z", z, self.dim)
        product = np.tile(np.eye(self.dim), (len(rows), 1, 1))
        for layer in self.layers:
            product = layer.jacobian(rows) @ product
            rows = layer.forward(rows)
        return restore(product)


@dataclass(frozen=True)
class MeanLogLikelihood:
    """E_data log p(x), which maximum likelihood makes as large as it can, and its two parts.

    Args:
        base: E_data log p_base(f^-1(x)).
        volume: -E_data log |det df/dz|.
    """

    base: float
    volume: float

    @property
    def value(self) -> float:
        """E_data log p(x), in nats for a point."""
        return self.base + self.volume

    @property
    def loss(self) -> float:
        """The negative log-likelihood for a point."""
        return -self.value


@dataclass(frozen=True, eq=False)
class PushForward:
    """The law of x = f(z), z ~ base.

    Args:
        base: a law with a density, for example a Gaussian.
        bijection: f.

    Raises:
        TypeError: base is no law, or bijection is none.
        ValueError: the two have different dimensions.

    Examples:
        >>> import numpy as np
        >>> from refdiff import Gaussian
        >>> from refdiff.normalizing import Affine, PushForward
        >>> law = PushForward(Gaussian([0.0], 1.0), Affine(2.0, [1.0]))
        >>> np.allclose(law.logpdf([[0.3]]), Gaussian([1.0], 4.0).logpdf([[0.3]]))
        True
    """

    base: Base
    bijection: Bijection

    def __post_init__(self) -> None:
        _is_bijection("bijection", self.bijection)
        if not isinstance(self.base, Base):
            raise TypeError(f"base must have dim, logpdf and sample, got {self.base!r}")
        if self.base.dim != self.bijection.dim:
            raise ValueError(f"bijection must have the dimension {self.base.dim} of base, got {self.bijection.dim}")

    @property
    def dim(self) -> int:
        """d."""
        return self.base.dim

    def logpdf(self, x: ArrayLike) -> Any:
        """log p(x) = log p_base(z) - log |det df/dz| at z = f^-1(x), for x of shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        base, volume = self._parts(rows)
        return restore(base + volume)

    def sample(self, n: int, seed: int | np.random.Generator) -> Array:
        """f of n draws from the base by a seed, shape (n, d)."""
        return np.asarray(self.bijection.forward(self.base.sample(n, seed)))

    def carried(self, z: ArrayLike) -> tuple[Any, Any]:
        """x = f(z) and log p(x) for z of shape (..., d): no inverse is needed where z is known."""
        rows, restore = points("z", z, self.dim)
        log_p = self.base.logpdf(rows) - self.bijection.log_det(rows)
        return restore(self.bijection.forward(rows)), restore(log_p)

    def likelihood(self, x: ArrayLike, weights: ArrayLike | None = None) -> MeanLogLikelihood:
        """The mean of log p over data x (..., d), with weights (...) that sum to 1; equal ones when left out.

        Raises:
            ValueError: no point; weights of another shape, negative, or with another sum.
        """
        rows, _ = points("x", x, self.dim)
        lead = np.shape(x)[:-1]
        if not len(rows):
            raise ValueError(f"x must have at least one point, got shape {np.shape(x)}")
        w = np.full(lead, 1 / len(rows)) if weights is None else real_array("weights", weights)
        if w.shape != lead:
            raise ValueError(f"weights must have shape {lead}, got {w.shape}")
        # 1e-6: weights that passed through float32
        if (w < 0).any() or abs(w.sum() - 1) > 1e-6:
            raise ValueError(f"weights must be >= 0 and sum to 1, got the least {w.min()} and the sum {w.sum()}")
        base, volume = self._parts(rows)
        return MeanLogLikelihood(float(w.ravel() @ base), float(w.ravel() @ volume))

    def _parts(self, rows: Array) -> tuple[Array, Array]:
        """log p_base(z) and -log |det df/dz| of rows (n, d) of x."""
        z = self.bijection.inverse(rows)
        return np.asarray(self.base.logpdf(z)), -np.asarray(self.bijection.log_det(z))


def _is_bijection(name: str, value: Any) -> None:
    if not isinstance(value, Bijection):
        raise TypeError(f"{name} must have dim, forward, inverse, log_det and jacobian, got {value!r}")
