r"""Optimal transport: couplings and their duals, quantiles on the line, Gaussian maps, and bounds between distances.

    W_p(p, q)^p = min E |x - y|^p = max { E f(x) + E g(y) : f(x) + g(y) <= |x - y|^p }
    line        W_p^p = int_0^1 |F^-1 - G^-1|^p du,   W_1 = int |F - G| dx
    Gaussians   T = S_0^(-1/2) (S_0^(1/2) S_1 S_0^(1/2))^(1/2) S_0^(-1/2) is symmetric, W_2^2 = E |x - T x|^2

Sources: PODB-70, PODB-71, TOPB-59.
"""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
from scipy.optimize import brentq

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, GaussianMixture
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.metrics import optimal_coupling, sliced_wasserstein, wasserstein
from refdiff.metrics.transport import directions
from refdiff.validation.cases import Case
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import cdf, covariances, gaussian, square_root
from refdiff.validation.numeric import legendre

TOPIC = "Metrics"
RULE = Quadrature(1e-11)
ORDERS = (1.0, 1.5, 2.0, 3.0)


def line_mixture(rng: np.random.Generator, reach: float = 2.0) -> GaussianMixture:
    """Three components on the line, drawn from `rng`, with means up to `reach` from 0."""
    means, weights = rng.uniform(-reach, reach, (3, 1)), rng.dirichlet(np.ones(3) * 4)
    return GaussianMixture.isotropic(means, rng.uniform(0.2, 0.9, 3), weights)


def at_most(less: float, more: float) -> Sides:
    """That the number `less` is not above `more`."""
    return Sides(max(less - more, 0.0), 0.0, scale=max(abs(less), abs(more)))


@identity(
    "A coupling, its dual and all permutations",
    topic=TOPIC,
    formula=r"\min_\pi \tfrac1n \sum_i \|x_i - y_{\pi(i)}\|^p"
    r" = \max \tfrac1n \sum_i (f_i + g_i),\quad f_i + g_j \le \|x_i - y_j\|^p",
    covers=["PODB-70"],
    over="once",
    control="each point to the nearest one that is left, in turn",
)
def duality(case: Case, wrong: bool) -> list[Sides]:
    """Six points: the least of 720 permutations, the cost, the dual value; no pair breaks the constraint."""
    rng, found = case.rng, []
    for dim in (1, 2, 5):
        for order in ORDERS:
            x, y = rng.standard_normal((2, 6, dim))
            cost = np.linalg.norm(x[:, None] - y, axis=2) ** order
            best = optimal_coupling(Empirical(x), Empirical(y), order)
            f, g = best.potentials
            least = min(cost[np.arange(6), list(pi)].mean() for pi in permutations(range(6)))
            left, greedy = list(range(6)), 0.0
            for row in cost:
                nearest = left.pop(int(np.argmin(row[left])))
                greedy += row[nearest] / 6
            found += [
                Sides(greedy if wrong else best.cost, least),
                Sides(f.mean() + g.mean(), least, scale=cost.max()),
                Sides(max((f[:, None] + g - cost).max(), 0.0), 0.0, scale=cost.max()),
            ]
    return found


@identity(
    "Plans of weighted points have their marginals",
    topic=TOPIC,
    formula=r"\sum_j m_{ij} = a_i,\ \sum_i m_{ij} = b_j,\quad"
    r" \sum_{ij} m_{ij} |x_i - y_j|^p = \int_0^1 |F^{-1} - G^{-1}|^p\,du",
    covers=["PODB-70"],
    over="once",
    control="the independent coupling, which has the marginals too",
)
def plans(case: Case, wrong: bool) -> list[Sides]:
    """On the line: equal ranks against quantiles on the merged ladder of weights, for ties and weights of all sizes."""
    rng, found = case.rng, []
    for n, m in ((1, 4), (7, 7), (30, 11)):
        x, y = np.round(rng.standard_normal((n, 1)), 1), np.round(rng.standard_normal((m, 1)) + 0.7, 1)
        p, q = Empirical(x, rng.exponential(size=n) ** 3), Empirical(y, rng.exponential(size=m))
        for order in ORDERS:
            best = optimal_coupling(p, q, order)
            levels = np.sort(
                np.concatenate([[0.0], *[np.cumsum(law.weights[np.argsort(law.means[:, 0])]) for law in (p, q)]])
            )
            u = 0.5 * (levels[1:] + levels[:-1])
            at = [_quantile(law, u) for law in (p, q)]
            ranks = float(np.diff(levels) @ np.abs(at[0] - at[1]) ** order)
            independent = float(p.weights @ np.abs(x - y.T) ** order @ q.weights)
            found += [
                Sides(independent if wrong else best.cost, ranks),
                Sides(np.bincount(best.rows, best.masses, n), p.weights, scale=1.0),
                Sides(np.bincount(best.columns, best.masses, m), q.weights, scale=1.0),
            ]
    return found


def _quantile(law: GaussianMixture, u: Array) -> Array:
    order = np.argsort(law.means[:, 0])
    below = np.cumsum(law.weights[order])
    return np.asarray(law.means[order[np.minimum((u[:, None] > below).sum(axis=1), law.count - 1)], 0])


@identity(
    "W1 is the area between distribution functions",
    topic=TOPIC,
    formula=r"\int_0^1 |F^{-1}(u) - G^{-1}(u)|\,du = \int |F(x) - G(x)|\,dx",
    covers=["PODB-70", "TOPB-59"],
    over="once",
    evidence=QUADRATURE,
    control="the area with its sign, the difference of the means",
)
def areas(case: Case, wrong: bool) -> list[Sides]:
    """Quantiles by the library against Gauss-Legendre between the crossings of two distribution functions."""
    rng, found = case.rng, []
    for _ in range(2):
        p, q = line_mixture(rng), line_mixture(rng)

        def gap(x: Array | float, p: GaussianMixture = p, q: GaussianMixture = q) -> Array:
            return cdf(p, x) - cdf(q, x)

        x = np.linspace(-12, 12, 4001)
        signs = np.flatnonzero(gap(x[1:]) * gap(x[:-1]) < -1e-26)  # above rounding
        knots = np.concatenate([np.arange(-12, 13.0), [brentq(gap, x[i], x[i + 1], xtol=1e-15) for i in signs]])
        knots = np.unique(knots)
        nodes, weights = legendre(32)
        pieces = gap(knots[:-1, None] + np.diff(knots)[:, None] * nodes) @ weights * np.diff(knots)
        found.append(Sides(wasserstein(p, q, 1, RULE).value, abs(pieces.sum()) if wrong else np.abs(pieces).sum()))
    return found


@identity(
    "The optimal map of Gaussians is symmetric",
    topic=TOPIC,
    formula=r"\mathcal{W}_2^2 = \mathbb{E} \|x - T x\|^2,\quad T = S_0^{-1/2}"
    r" \big(S_0^{1/2} S_1 S_0^{1/2}\big)^{1/2} S_0^{-1/2} = T^\top \succ 0,\quad T S_0 T = S_1",
    covers=["PODB-71"],
    over="once",
    control="S_1^(1/2) S_0^(-1/2), which sends p to q too, but is no gradient",
)
def gradients(case: Case, wrong: bool) -> list[Sides]:
    """The cost of the map and of its inverse against the library's distance both ways; any rotation costs more."""
    rng, found = case.rng, []
    for dim in (2, 3, 8):
        p, q = gaussian(rng, dim), gaussian(rng, dim)
        s, t, shift = covariances(p)[0], covariances(q)[0], p.means[0] - q.means[0]
        root, other = square_root(s), square_root(t)
        inverse = np.linalg.inv(root)
        best = inverse @ square_root(root @ t @ root) @ inverse
        tried = other @ inverse if wrong else best
        square = wasserstein(p, q).value ** 2

        def cost(a: Array, spread: Array, shift: Array = shift, dim: int = dim) -> float:
            return float(shift @ shift + np.trace((np.eye(dim) - a) @ spread @ (np.eye(dim) - a).T))

        turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        found += [
            Sides(cost(tried, s), square),
            Sides(tried @ s @ tried.T, t),
            Sides(tried, tried.T),
            Sides(cost(np.linalg.inv(tried), t), wasserstein(q, p).value ** 2),
            at_most(square, cost(other @ turn @ inverse, s)),
        ]
    return found


@identity(
    "Distances in order",
    topic=TOPIC,
    formula=r"|\mathbb{E} x - \mathbb{E} y| \le \mathcal{W}_1 \le \mathcal{W}_p \le \mathcal{W}_q\ (p \le q),"
    r"\quad \mathcal{S}\mathcal{W}_2 \le \mathcal{W}_2 / \sqrt{d} \le \big(\mathbb{E} \|x - y\|^2\big)^{1/2}",
    covers=["TOPB-59", "PODB-70"],
    over="once",
    evidence=QUADRATURE,
    control="a sliced distance compared with W_2 / d",
)
def in_order(case: Case, wrong: bool) -> list[Sides]:
    """Laws on the line, points in the plane and in space; directions are those of a frame, so that none is drawn."""
    rng, found = case.rng, []
    p, q = line_mixture(rng), line_mixture(rng)
    values = [abs(float(p.mean()[0] - q.mean()[0])), *(wasserstein(p, q, order, RULE).value for order in ORDERS)]
    found += [at_most(less, more) for less, more in pairwise(values)]
    for dim in (2, 3):
        x, y = rng.standard_normal((2, 12, dim))
        shift = x + np.eye(dim)[0]
        for one, two in ((x, y), (x, shift)):
            a, b = Empirical(one), Empirical(two)
            frame = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
            sliced = np.sqrt(np.mean([wasserstein(a.affine(v[None]), b.affine(v[None])).value ** 2 for v in frame]))
            whole = wasserstein(a, b).value
            found += [
                at_most(sliced, whole / (dim if wrong else np.sqrt(dim))),
                at_most(whole, float(np.sqrt(((one[:, None] - two) ** 2).sum(axis=2).mean()))),
            ]
    return found


@identity(
    "Sliced distances along drawn directions",
    topic=TOPIC,
    formula=r"\mathcal{S}\mathcal{W}_2^2 = \mathbb{E}_\theta \mathcal{W}_2^2(\theta \cdot x, \theta \cdot y),"
    r"\quad = \tfrac1d \|\mu - \nu\|^2 + (s - t)^2 \text{ for } \mathcal{N}(\mu, s^2 I), \mathcal{N}(\nu, t^2 I)",
    covers=["PODB-70"],
    over="once",
    control="the whole distance, without the 1/d",
)
def sliced(case: Case, wrong: bool) -> list[Sides]:
    """The library's mean over its own directions against the closed form along each of them."""
    rng, found = case.rng, []
    for dim in (1, 2, 6):
        m, s, t = rng.standard_normal(dim), *rng.uniform(0.3, 2.0, 2)
        p, q, route = Gaussian(np.zeros(dim), s**2), Gaussian(m, t**2), MonteCarlo(30, case.seed)
        along = directions(dim, route) @ m
        square = (m @ m if wrong else np.mean(along**2)) + (s - t) ** 2
        found.append(Sides(sliced_wasserstein(p, q, route).value ** 2, square))
    return found
