"""Coefficients of matrix equations, numbers or functions of time, as functions whose values are checked.

They are objects and no closures, so that a process of matrices goes to other processes by pickle, as one with functions
of a module does. Source: RDX-01.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array

Coefficient = ArrayLike | Callable[[float], ArrayLike]
Rates = Callable[[float], tuple[ArrayLike, ArrayLike, ArrayLike]]


@dataclass(frozen=True, eq=False)
class OfTime:
    """A coefficient as a function of time.

    Attributes:
        name: what messages call it.
        value: the array, or the user's function of time.
        ndim: how many dimensions values have.
        shape: theirs, or () for any square one.
    """

    name: str
    value: Array | Callable[[float], ArrayLike]
    ndim: int
    shape: tuple[int, ...] = ()

    def __call__(self, t: float) -> Array:
        """The value at time t.

        Raises:
            ValueError: it has another shape, is empty or is not finite.
        """
        return self._checked(self.value(t)) if callable(self.value) else self.value

    @staticmethod
    def of(name: str, value: Coefficient, ndim: int, *shape: int) -> OfTime:
        """A user's `value`, called `name`, with `ndim` dimensions and this shape, checked where it is an array.

        Raises:
            ValueError: as for its values.
        """
        if callable(value):
            return OfTime(name, value, ndim, shape)
        fixed = OfTime(name, np.zeros(0), ndim, shape)._checked(value)
        fixed.setflags(write=False)
        return OfTime(name, fixed, ndim, shape)

    def _checked(self, found: ArrayLike) -> Array:
        array = real_array(self.name, found, ndim=(self.ndim,))
        if array.size == 0:
            raise ValueError(f"{self.name} must not be empty, got shape {array.shape}")
        if array.shape != self.shape if self.shape else array.shape[0] != array.shape[1]:
            wanted = f"have shape {self.shape}" if self.shape else "be square"
            raise ValueError(f"{self.name} must {wanted}, got shape {array.shape}")
        return array


@dataclass(frozen=True, eq=False)
class WithoutForce:
    """`rates`, F', u' and D' in `dim` dimensions, with 0 for u'."""

    rates: Rates
    dim: int

    def __call__(self, t: float) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
        """F', 0 and D' at time t."""
        drift, _, diffusion = self.rates(t)
        return drift, np.zeros(self.dim), diffusion


def columns(noise: Coefficient) -> tuple[int, ...]:
    """(m,), as many columns as the matrix `noise` has at time 0: all times have the same."""
    return real_array("noise", noise(0.0) if callable(noise) else noise, ndim=(2,)).shape[1:]
