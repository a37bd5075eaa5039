r"""The control problem of a bridge run backwards: what it costs to steer -f, and what that leaves out.

    d_t log Psihat = -f . grad log Psihat - div f + (g^2 / 2)(Lap log Psihat + |grad log Psihat|^2)

The term div f makes -f a reference with a running cost: with u* = g^2 grad log Psihat, tau = T - t,

    KL(P || R) = min_u E int (|u|^2 / (2 g^2) + div f) d tau + H(p) - H(q),     dy = (-f + u) d tau + g dw,  q -> p

Without it ("same quadratic energy with the reversed clock") u* is the minimizer where div f does not depend on x, as
for linear references, and the value is another one. On a circle with f = a + b sin x the minimizer is another one too:
u* has the energy 0.6907 there, and the least one is 0.6750.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.linalg import expm

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import entropy
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identities.schroedinger_gaussian import TOPIC, some
from refdiff.validation.identity import QUADRATURE, Sides, identity

# on the circle: Fourier coefficients of what is here fall below rounding before the 32nd, and an odd number has
# no wave that differentiation does not see
POINTS = 65
TURNS = 300  # of fitting, each of which shrinks the error by the second eigenvalue of the kernel, squared


@identity(
    "The cost of a bridge, counted backwards",
    topic=TOPIC,
    formula=r"\mathrm{KL}(P \| R) = \tfrac12 \mathbb{E} \int_0^T |\nabla \log \hat\Psi|_D^2\, dt + \int_0^T"
    r" \mathrm{tr} F\, dt + H(p) - H(q)",
    covers=["PODB-81"],
    refutes=["PODB-81"],
    over="once",
    evidence=QUADRATURE,
    control="the quadratic energy and the entropies alone",
)
def backward_cost(case: Case, wrong: bool) -> list[Sides]:
    """Gauss-Legendre sums of the energy of the backward pull, for linear references."""
    found = []
    nodes, weights = numeric.legendre(40)
    bridge = list(some(case.rng).values())[1]
    energy, volume = 0.0, 0.0
    for t, w in zip(nodes * bridge.T, weights * bridge.T, strict=True):
        gain, shift = bridge.system.backward(float(t))
        d = operators.dense(bridge.process.diffusion(float(t)), 2)
        matrix = operators.dense(gain, 2)
        energy += 0.5 * w * (shift @ d @ shift + np.trace(d @ matrix @ bridge.marginal(float(t)).cov() @ matrix))
        volume += w * np.trace(operators.dense(bridge.process.drift(float(t)), 2))
    ends = entropy(bridge.p) - entropy(bridge.q)
    found.append(Sides(energy + ends + (0.0 if wrong else volume), bridge.cost))
    return found


class Circle(NamedTuple):
    """A reference dx = (a + b sin x) dt + g dw on the circle, and two laws.

    Attributes:
        x: the points, shape (n,).
        slope: d/dx of what is known at the points, shape (n, n).
        f, div: the drift and its divergence there, each (n,).
        g2: g^2.
        p, q: the densities at time 0 and 1, each (n,).
    """

    x: Array
    slope: Array
    f: Array
    div: Array
    g2: float
    p: Array
    q: Array

    @property
    def cell(self) -> float:
        """The length of the circle that a point stands for."""
        return 2 * np.pi / POINTS

    def generator(self, direction: float, potential: Array) -> Array:
        """f d/dx + g^2 / 2 d^2/dx^2 - `potential` (n,), shape (n, n): -f where the `direction` is -1, not 1."""
        return np.asarray(
            direction * self.f[:, None] * self.slope + self.g2 / 2 * self.slope @ self.slope - np.diag(potential)
        )


@cache
def circle() -> Circle:
    """The reference and two laws, with Fourier's differentiation matrix."""
    k = np.arange(POINTS)
    x = 2 * np.pi * k / POINTS
    gap = k[:, None] - k
    with np.errstate(divide="ignore"):
        slope = np.where(gap == 0, 0.0, 0.5 * (-1.0) ** gap / np.sin(np.pi * np.where(gap == 0, 1, gap) / POINTS))
    p, q = (np.exp(c * np.cos(x - centre)) for c, centre in ((1.2, 1.0), (0.8, 4.0)))
    cell = 2 * np.pi / POINTS
    return Circle(x, slope, 0.4 + 0.9 * np.sin(x), 0.9 * np.cos(x), 0.8, p / p.sum() / cell, q / q.sum() / cell)


def fitted(kernel: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Phi_0^ (n,) and Phi_1 (n,) with Phi_0^ (K Phi_1) = `first` and Phi_1 (K' Phi_0^) = `second`, K the `kernel`."""
    late = np.ones(len(first))
    for _ in range(TURNS):
        early = first / (kernel @ late)
        late = second / (kernel.T @ early)
    return np.asarray(early), np.asarray(late)


@identity(
    "Reversed control needs the divergence of the drift",
    topic=TOPIC,
    formula=r"u^* = g^2 \nabla \log \hat\Psi = \arg\min_u \mathbb{E} \int \Big(\frac{|u|^2}{2 g^2} + \nabla \cdot"
    r" f\Big) d\tau,\quad dy = (-f + u)\, d\tau + g\, dw,\ q \to p;\quad f = a + b \sin x",
    covers=["PODB-79", "PODB-81"],
    refutes=["PODB-81"],
    over="once",
    evidence=QUADRATURE,
    control="the problem as printed, with the quadratic energy alone",
)
def backward_control(case: Case, wrong: bool) -> list[Sides]:  # noqa: ARG001
    """Both problems on the circle by proportional fitting: the kernel's transpose, and -f with a running cost."""
    c, t = circle(), 0.35  # T = 1
    still = np.zeros(POINTS)
    ahead = c.generator(1.0, still)
    early, late = fitted(expm(ahead), c.p, c.q)
    hat = expm(t * ahead).T @ early
    # backwards in time from q: Feynman and Kac's kernel of -f with the cost div f, or as printed
    back = c.generator(-1.0, still if wrong else c.div)
    _, end = fitted(expm(back), c.q, c.p)
    other = expm(t * back) @ end
    found = [Sides(c.slope @ np.log(hat), c.slope @ np.log(other))]
    cost = c.cell * (c.q @ np.log(late) - c.p @ np.log(expm(ahead) @ late))
    nodes, weights = numeric.legendre(24)
    energy = volume = 0.0
    for u, w in zip(nodes, weights, strict=True):
        potential = expm(u * ahead).T @ early
        law = potential * (expm((1 - u) * ahead) @ late)
        energy += w * c.cell * law @ (c.slope @ np.log(potential)) ** 2 * c.g2 / 2
        volume += w * c.cell * law @ c.div
    ends = c.cell * (c.q @ np.log(c.q) - c.p @ np.log(c.p))
    found.append(Sides(energy + ends + (0.0 if wrong else volume), cost))
    return found
