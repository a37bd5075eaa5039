r"""Underdamped (kinetic) Langevin dynamics of positions x and momenta p, and the flows that its schemes are made of.

    dx = M^-1 p dt,   dp = [grad log pi(x) - Gamma M^-1 p] dt + sqrt(2) Gamma^(1/2) dw      keeps pi(x) N(p; 0, M)

M is the mass and Gamma the friction, numbers, diagonals (d,) or matrices (d, d). The right side is a sum, and each part
has an exact flow over a time h:

    A   x + h M^-1 p                       moving freely
    B   p + h grad log pi(x)               a kick
    O   e^(-Gamma M^-1 h) p + noise        the Ornstein-Uhlenbeck part, which keeps N(0, M)
    U   A and O together: free flight with friction and noise
    E   U and B together, with the force where it begins

A scheme is a word: BAOAB takes B and A for h/2, O for h, A and B for h/2; every letter gets h in equal parts.
Palindromes of A, B, O have weak order 2; E alone is the exponential Euler method of Cheng et al., of order 1. All flows
are functions of one symmetric matrix G = M^(-1/2) Gamma M^(-1/2), for q = M^(-1/2) p:

    q <- e^(-Gh) q + sqrt(1 - e^(-2Gh)) z,       y = int q dt:   phi_1 = (1 - e^(-gh)) / g,
    Var y = 2 int_0^h (1 - e^(-gs))^2 / g ds,    Cov(y, q) = (1 - e^(-gh))^2 / g

Sources: PODA-307, RDX-43; Leimkuhler and Matthews 2013; Cheng, Chatterji, Bartlett and Jordan 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_scalar
from refdiff.operators import Operator
from refdiff.samplers.numbers import phi

LETTERS = {"A": 0, "B": 0, "O": 1, "U": 2, "E": 2}  # and the normals that each needs
SCHEMES = ("OBABO", "BAOAB", "ABOBA", "AOBOA", "OABAO", "BOAOB", "UBU", "BUB", "E")


class Flight(NamedTuple):
    """U or E over a time h: x <- x + drift p + far F + cross z1 + apart z2,  p <- decay p + near F + spread z1.

    F is the force where it begins (0 for U), z1 and z2 normals; all six are operators: (), (d,) or (d, d).
    """

    drift: Operator
    far: Operator
    cross: Operator
    apart: Operator
    decay: Operator
    near: Operator
    spread: Operator


@dataclass(frozen=True, eq=False)
class Kinetics:
    """The mass and the friction of kinetic Langevin dynamics.

    Args:
        mass: M, positive definite: a number, (d,) or (d, d).
        friction: Gamma, positive semi-definite, in the same storages.

    Raises:
        ValueError: M is singular, Gamma has a negative eigenvalue, or they act on different dimensions.
    """

    mass: Operator
    friction: Operator

    def __init__(self, mass: ArrayLike = 1.0, friction: ArrayLike = 1.0) -> None:
        m, g = operators.covariance("mass", mass), operators.covariance("friction", friction)
        if operators.singular(m):
            raise ValueError("mass must be positive definite, got a singular one")
        sizes = {name: len(part) for name, part in (("mass", m), ("friction", g)) if part.ndim}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"mass and friction must act on the same dimension, got {sizes}")
        dim = next(iter(sizes.values()), 1)
        if 2 in (m.ndim, g.ndim):
            m, g = operators.dense(m, dim), operators.dense(g, dim)
        object.__setattr__(self, "mass", m)
        object.__setattr__(self, "friction", g)

    def fits(self, dim: int) -> Kinetics:
        """Itself, if it acts on R^dim.

        Raises:
            ValueError: it does not.
        """
        operators.fits("mass", self.mass, dim)
        operators.fits("friction", self.friction, dim)
        return self

    @cached_property
    def root(self) -> Operator:
        """M^(1/2), which makes momenta of normals."""
        return operators.root(self.mass)

    @cached_property
    def inverse(self) -> Operator:
        """M^-1, which makes velocities of momenta."""
        return operators.inverse(self.mass)

    def ornstein_uhlenbeck(self, h: float) -> tuple[Operator, Operator]:
        """The operators (decay, spread) of the flow O over a time h >= 0: p <- decay p + spread z."""
        rates, _ = self._rates
        return self._left(np.exp(-h * rates), -1), self._left(np.sqrt(-np.expm1(-2 * h * rates)), 0)

    def flight(self, h: float) -> Flight:
        """The flows U and E over a time h > 0."""
        rates, _ = self._rates
        u = real_scalar("h", h, low=0, open_low=True) * rates
        mixed, far = h * phi(1, -u), h * h * phi(2, -u)
        momentum = -np.expm1(-2 * u)
        # 2 int (1 - e^(-gs))^2 / g: the series of phi_3 takes what cancels where g h is small
        position = h**3 * rates * (8 * phi(3, -2 * u) - 4 * phi(3, -u))
        std = np.sqrt(momentum)
        cross = rates * mixed * mixed / np.where(std > 0, std, 1.0)
        apart = np.sqrt(np.maximum(position - cross * cross, 0.0))
        return Flight(
            drift=self._right(mixed, -1),
            far=self._right(far, -1),
            cross=self._right(cross, 0),
            apart=self._right(apart, 0),
            decay=self._left(np.exp(-u), -1),
            near=self._left(mixed, -1),
            spread=self._left(std, 0),
        )

    @cached_property
    def _rates(self) -> tuple[Array, Array | None]:
        """The eigenvalues of G, and its eigenvectors where it is a matrix."""
        if self.mass.ndim < 2:
            return np.asarray(self.friction / self.mass), None
        inverse = operators.inverse(self.root)
        g = inverse @ self.friction @ inverse
        values, vectors = np.linalg.eigh((g + g.T) / 2)
        return np.maximum(values, 0.0), vectors

    def _function(self, values: Array) -> Operator:
        vectors = self._rates[1]
        return values if vectors is None else np.asarray((vectors * values) @ vectors.T)

    def _left(self, values: Array, power: int) -> Operator:
        """M^(1/2) f(G) M^(power/2), of f at the eigenvalues of G."""
        found = operators.product(self.root, self._function(values))
        return operators.product(found, operators.inverse(self.root)) if power else found

    def _right(self, values: Array, power: int) -> Operator:
        """M^(-1/2) f(G) M^(power/2)."""
        inverse = operators.inverse(self.root)
        found = operators.product(inverse, self._function(values))
        return operators.product(found, inverse) if power else found


def letters(scheme: str) -> list[tuple[str, float]]:
    """The flows of a `scheme` in their order, each with its part of the step.

    Raises:
        ValueError: a letter is none of A, B, O, U, E, or the flows do not make up the whole equation once.
    """
    word = scheme.upper() if isinstance(scheme, str) else ""
    known = set(word)
    whole = ({"A", "B", "O"}, {"U", "B"}, {"E"})
    if known not in whole:
        raise ValueError(f"scheme must be a word of A, B and O, of U and B, or of E, as {', '.join(SCHEMES)}, "
                         f"got {scheme!r}")  # fmt: skip
    return [(letter, 1 / word.count(letter)) for letter in word]
