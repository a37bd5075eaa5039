r"""What a smooth map makes of a density, and of the likelihood of data.

    x = f(z):      p(x) = p_0(f^-1(x)) |det df^-1/dx|,      p_0(z) = p(f(z)) |det df/dz|
                   p(x) = int delta(x - f(z)) p_0(z) dz:    the map in the delta goes the way that the points go
    stacks         log |det| = sum of those of the layers, each where its own point is
    likelihood     E log p(x) = -H(data) - KL(data || p),   KL(data || p) = KL(f^-1 # data || p_0)

The maps are those of `refdiff.normalizing`; second routes are closed laws, sums over lines that know no determinant of
the map, and stencils of the map itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import logsumexp

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence
from refdiff.normalizing import (
    Affine,
    Bijection,
    Composition,
    Entrywise,
    Inverse,
    Planar,
    PushForward,
    Triangular,
    tanh_residual,
)
from refdiff.validation import numeric
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import cdf, covariances, line, log_normal, square_root, well_conditioned
from refdiff.validation.numeric import extrapolate, legendre

TOPIC = "Normalizing flows"


def sinh_map(dim: int) -> Entrywise:
    """x_i = sinh(z_i) on R^dim."""
    return Entrywise(dim, np.sinh, np.arcsinh, np.cosh)


def network(rng: np.random.Generator, dim: int, norm: float, width: int = 5) -> tuple[Array, Array, Array]:
    """A, W and a bias of shapes (d, k), (k, d), (k,) with |A|_2 |W|_2 = norm, d = dim, k = width, drawn from `rng`."""
    a, w = rng.standard_normal((dim, width)), rng.standard_normal((width, dim))
    return a / np.linalg.norm(a, 2), norm * w / np.linalg.norm(w, 2), rng.standard_normal(width)


def triangular(rng: np.random.Generator, dim: int) -> Triangular:
    """An autoregressive map of R^dim, drawn from `rng`: each axis stretched and moved by functions of those before."""
    a, b = (np.tril(0.7 * rng.standard_normal((dim, dim)), -1) for _ in range(2))
    return Triangular(
        dim,
        lambda z: (np.sin(z @ a.T), z @ b.T),
        dim,
        lambda z: (a * np.cos(z @ a.T)[:, :, None], np.tile(b, (len(z), 1, 1))),
    )


@dataclass(frozen=True, eq=False)
class Stack:
    """One layer of every kind on R^dim, from a case's random numbers, and points z (n, dim)."""

    case: Case
    dim: int = 4

    @cached_property
    def flow(self) -> Composition:
        """The layers in turn."""
        rng, d = self.case.rng, self.dim
        u, w, offset = rng.standard_normal((3, d))
        layers: list[Bijection] = [
            Planar.constrained(u, w, 0.3),
            Affine(well_conditioned(rng, d), offset),
            tanh_residual(*network(rng, d, 0.7)),
            triangular(rng, d),
        ]
        return Composition(layers)

    @cached_property
    def z(self) -> Array:
        """Points of the base."""
        return 0.7 * np.random.default_rng([self.case.seed, 1]).standard_normal((5, self.dim))


# ---------------------------------------------------------------------- one map


@identity(
    "Change of variables by an affine map",
    topic=TOPIC,
    formula=r"p_1(y) = p_0(\Psi^{-1}(y)) |\det \partial \Psi^{-1} / \partial y|,\quad"
    r" p_0(x) = p_1(\Psi(x)) |\det \partial_x \Psi(x)|,\quad \Psi(x) = A x + b",
    covers=["PODB-17", "PODD-70"],
    over="laws",
    control="the determinant of the map for that of its inverse",
    needs=lambda case: case.law.count * case.law.dim <= 512,
)
def affine(case: LawCase, wrong: bool) -> list[Sides]:
    """The push-forward of a mixture against the mixture of the moved Gaussians, by eigenvectors of A S A'."""
    law, d = case.law, case.law.dim
    a, b = well_conditioned(case.rng, d), law.mean()
    f = Affine(a, b)
    y = f.forward(case.x)
    means, matrices = law.means @ a.T + b, a @ covariances(law) @ a.T
    logs = np.stack([log_normal(y, m, s) for m, s in zip(means, matrices, strict=True)], axis=1)
    moved = logsumexp(logs + law.log_weights, axis=1)
    turn = 2 * f.log_det(case.x) if wrong else 0.0
    # a quadratic form is rounded by its condition: that of A S A' is at most 9 times that of S
    worst = max(np.linalg.cond(s) for s in matrices)
    size = np.abs(logs).max(axis=1) + d + worst
    return [
        Sides(PushForward(law, f).logpdf(y) + turn, moved, scale=size),
        Sides(law.logpdf(case.x), moved + f.log_det(case.x) - turn, scale=size),
    ]


@identity(
    "Mapped densities have the mass of their preimages",
    topic=TOPIC,
    formula=r"\int_{f(a)}^{f(b)} p_0(f^{-1}(x)) |(f^{-1})'(x)|\, dx = P_0(a < z < b)",
    covers=["PODB-17", "PODD-70"],
    over="laws",
    evidence=QUADRATURE,
    control="no determinant",
    needs=lambda case: case.law.dim == 1,
)
def mass(case: LawCase, wrong: bool) -> list[Sides]:
    """Panels in x against the distribution function of the base, for a sinh, a planar map and a stack of both."""
    law, rng = case.law, case.rng
    std = np.sqrt(covariances(law)[:, 0, 0])
    low, high = (law.means[:, 0] - 9 * std).min(), (law.means[:, 0] + 9 * std).max()
    unit = Affine(2 / (high - low), [-(high + low) / (high - low)])  # sinh of the unit of the law
    planar = Planar.constrained([3.0], [rng.uniform(1, 2)], 0.2)
    nodes, weights = legendre(24)
    # a panel is half the least deviation, and no map bends on less than a sixteenth of the whole
    cuts = np.linspace(low, high, 2 + max(64, int((high - low) / (0.5 * std.min()))))
    sides = []
    for f in (Composition([unit, sinh_map(1)]), Composition([unit, planar]), Composition([unit, planar, sinh_map(1)])):
        edges = f.forward(cuts[:, None])[:, 0]
        x = edges[:-1, None] + np.diff(edges)[:, None] * nodes
        flow = PushForward(law, f)
        log_p = law.logpdf(f.inverse(x.reshape(-1, 1))) if wrong else flow.logpdf(x.reshape(-1, 1))
        masses = np.diff(edges) * (np.exp(log_p).reshape(x.shape) @ weights)
        sides.append(Sides(np.cumsum(masses), cdf(law, cuts[1:]) - cdf(law, low), scale=1.0))
    return sides


@identity(
    "Density as an average of delta functions",
    topic=TOPIC,
    formula=r"\int \delta(y - \Psi(x))\, p_0(x)\, dx = p_0(\Psi^{-1}(y)) |\det \partial \Psi^{-1}(y)|",
    covers=["PODD-70", "PODD-72"],
    refutes=["PODD-72"],
    over="once",
    evidence=ORDER,
    control="the inverse map in the delta, as it is printed: for 2x and N(0, 1) 0.1080 in place of 0.1760 at 1",
)
def delta(case: Case, wrong: bool) -> list[Sides]:
    """Narrow Gaussians for the delta, summed over x and extrapolated to no width, against the push-forward."""
    law = Gaussian([0.0], 1.0)
    y = np.array([1.0, -0.4, 0.1])
    sides = []
    for f in (Affine(2.0, [0.0]), Affine(-case.rng.uniform(0.4, 0.7), [0.3]), sinh_map(1)):
        x = np.linspace(-9, 9, 18001)[:, None]
        image = (f.inverse(x) if wrong else f.forward(x))[:, 0]
        values = []
        for width in 0.2 / 2.0 ** np.arange(5):
            kernel = np.exp(-(((y[:, None] - image) / width) ** 2) / 2) / (np.sqrt(2 * np.pi) * width)
            values.append(kernel @ np.exp(law.logpdf(x)) * 1e-3)
        sides.append(Sides(extrapolate(values, first=2, step=2), np.exp(PushForward(law, f).logpdf(y[:, None]))))
    return sides


# ---------------------------------------------------------------------- many maps


@identity(
    "Log determinants of a stack add up",
    topic=TOPIC,
    formula=r"\log p(x_L) = \log p_0(x_0) - \sum_k \log |\det \partial f_k / \partial x_{k-1}|",
    covers=["PODB-19", "PODD-71"],
    over="once",
    evidence=DERIVATIVE,
    control="every layer's determinant at x_0",
)
def stack(case: Case, wrong: bool) -> list[Sides]:
    """The sum over layers of all kinds against the determinant of a stencil of the whole map, and its density."""
    made = Stack(case)
    f, z = made.flow, made.z
    total = sum(layer.log_det(z) for layer in f.layers) if wrong else f.log_det(z)
    jacobian = numeric.jacobian(f.forward, z, 0.01)
    volume = np.linalg.slogdet(jacobian)[1]
    base = Gaussian(np.zeros(made.dim), 1.0)
    x, log_p = PushForward(base, f).carried(z)
    return [
        Sides(total, volume, scale=np.linalg.cond(jacobian)),
        Sides(PushForward(base, f).logpdf(x), log_p, scale=np.linalg.cond(jacobian)),
        Sides(Inverse(f).log_det(x), -volume, scale=np.linalg.cond(jacobian)),
        Sides(f.jacobian(z), jacobian),
    ]


# ---------------------------------------------------------------------- likelihood


def differential_entropy(law: GaussianMixture) -> float:
    """-int p log p of a law on the line, by a sum."""
    x, step = line(law)
    log_p = law.logpdf(x)
    return float(-step * np.exp(log_p) @ log_p)


@identity(
    "Likelihood of a flow is minus entropy and divergence",
    topic=TOPIC,
    formula=r"\mathbb{E} \log p_\phi(x) = -H(p_{data}) - \mathrm{KL}(f^{-1}_\# p_{data} \| p_{prior})",
    covers=["PODB-18"],
    over="laws",
    evidence=QUADRATURE,
    control="without the volume term",
    needs=lambda case: case.law.dim == 1,
)
def likelihood(case: LawCase, wrong: bool) -> Sides:
    """The mean of log p over the data, summed in x, against the divergence of the data carried back, summed in z."""
    law, prior = case.law, Gaussian([0.1], 1.3)
    scale = float(np.sqrt(law.cov()[0, 0]))
    # a slope between 1 and 1.9 in the middle: data, their preimage and the model on comparable scales
    bent = Planar([0.9 * scale], [1 / scale], -law.mean()[0] / scale)
    f = Composition([Affine(scale, law.mean()), bent])
    x, step = line(law)
    weights = step * np.exp(law.logpdf(x))
    found = PushForward(prior, f).likelihood(x, weights / weights.sum())
    back = PushForward(law, Inverse(f))
    # in z on panels that follow the preimage, where the law of z has its bends
    cuts = f.inverse(np.linspace(x[0, 0], x[-1, 0], 2 + len(x) // 8)[:, None])[:, 0]
    nodes, node_weights = legendre(16)
    z = (cuts[:-1, None] + np.diff(cuts)[:, None] * nodes).reshape(-1, 1)
    log_q = back.logpdf(z)
    w = (np.diff(cuts)[:, None] * node_weights).ravel() * np.exp(log_q)
    divergence = w @ (log_q - prior.logpdf(z))
    entropy = differential_entropy(law)
    left = found.base if wrong else found.value
    return Sides(left, -entropy - divergence, scale=abs(entropy) + divergence + 1)


@identity(
    "Likelihood of an exact flow is minus the entropy",
    topic=TOPIC,
    formula=r"f_\# p_{prior} = p_{data}:\quad \max_\phi \mathbb{E} \log p_\phi = -H(p_{data})"
    r" = -\tfrac12 \log \det(2 \pi e \Sigma)",
    covers=["PODB-18"],
    over="laws",
    control="the entropy itself: the objective taken as a loss",
    needs=lambda case: case.law.count * case.law.dim <= 512,
)
def exact_likelihood(case: LawCase, wrong: bool) -> list[Sides]:
    """An affine flow with the law's moments, exact for a Gaussian; others, of all laws, fall short by a divergence."""
    law, d = case.law, case.law.dim
    f = Affine(square_root(law.cov()), law.mean())
    prior = Gaussian(np.zeros(d), 1.0)
    half = np.linalg.slogdet(2 * np.pi * np.e * law.cov())[1] / 2
    # the 2 d K points have the moments of the mixture: log p of an affine flow is quadratic
    roots = np.stack([square_root(s) for s in covariances(law)]) * np.sqrt(d)
    nodes = (law.means[:, None, :] + np.concatenate([roots, -roots], axis=1)).reshape(-1, d)
    weights = np.repeat(law.weights, 2 * d) / (2 * d)
    found = PushForward(prior, f).likelihood(nodes, weights)
    size = abs(found.base) + abs(found.volume) + d * np.linalg.cond(law.cov())
    sides = [Sides(found.value, half if wrong else -half, scale=size)]
    moments, rng = Gaussian(law.mean(), law.cov()), case.rng
    for near in (0.01, 0.3):
        gain = f.gain @ (np.eye(d) + near * rng.standard_normal((d, d)) / d)
        other = Affine(gain, f.offset + near * f.gain @ rng.standard_normal(d))
        loss = kl_divergence(moments, prior.affine(other.gain, other.offset))
        sides.append(Sides(PushForward(prior, other).likelihood(nodes, weights).value, -half - loss, scale=size + loss))
    return sides
