r"""Brenier's theorem from its two sides: what optimal pairs do under permutations, and the potentials behind the map.

    E f + E g = W_2^2 / 2,   f(x) + g(y) <= |x - y|^2 / 2,   equal where y = T(x) = x - grad f(x)
    sum_i |x_i - T(x_i)|^2 <= sum_i |x_i - T(x_pi(i))|^2  for every permutation

and barycentres, where the mean of the maps is the identity. Sources: PODB-70, PODB-71.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian
from refdiff.metrics import wasserstein
from refdiff.transport import (
    Displacement,
    c_transform,
    cyclical_gap,
    gaussian_barycentre,
    monotone_gap,
    optimal_map,
    optimal_pairs,
    optimal_potentials,
    point_barycentre,
)
from refdiff.validation.cases import Case
from refdiff.validation.identities.displacements import TOPIC, printed_map
from refdiff.validation.identities.metrics_transport import at_most
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import cubature, gaussian, square_root


@identity(
    "Kantorovich's potentials of Gaussians",
    topic=TOPIC,
    formula=r"\mathbb{E}_p f + \mathbb{E}_q g = \tfrac12 \mathcal{W}_2^2,\quad f(x) + g(y) \le \tfrac12 \|x - y\|^2,"
    r"\quad g = f^c,\quad T = \mathrm{id} - \nabla f",
    covers=["PODB-70", "PODB-71"],
    over="once",
    control="the squared distance for its half",
)
def duality(case: Case, wrong: bool) -> list[Sides]:
    """Means of the potentials by cubature; the printed map from their gradient, back from that of the other."""
    rng, sides = case.rng, []
    for dim in (1, 2, 6):
        p, q = gaussian(rng, dim), gaussian(rng, dim)
        (f, g), slope = optimal_potentials(p, q), printed_map(p, q)
        (x, a), (y, b) = cubature(p), cubature(q)
        image, square = q.mean() + (x - p.mean()) @ slope, wasserstein(p, q).value ** 2
        half, size = 0.5 * ((x - image) ** 2).sum(axis=1), np.linalg.cond(slope) * (1 + square)
        slack = (f(x)[:, None] + g(y) - 0.5 * ((x[:, None] - y) ** 2).sum(axis=2)).max()
        sides += [
            Sides(a @ f(x) + b @ g(y), (1.0 if wrong else 0.5) * square, scale=size),
            Sides(f(x) + g(image), half, scale=size),
            Sides(x - f.gradient(x), image, scale=size),
            Sides(image - g.gradient(image), x, scale=size),
            Sides(c_transform(f)(y), g(y), scale=size),
            Sides(max(slack, 0.0), 0.0, scale=size),
        ]
    return sides


@identity(
    "Optimal pairs are cyclically monotone, and monotone ones need not be optimal",
    topic=TOPIC,
    formula=r"\sum_i \|x_i - T x_i\|^2 \le \sum_i \|x_i - T x_{\pi(i)}\|^2;\quad R_\theta\ \text{on an}\ n\text{-gon:}"
    r"\ 2 r^2 \big(\cos(\theta - \tfrac{2\pi}{n}) - \cos\theta\big)",
    covers=["PODB-71"],
    over="once",
    control="pairs that no exchange of two improves taken for optimal",
)
def cyclical(case: Case, wrong: bool) -> list[Sides]:
    """All 720 permutations of six points; a rotation by less than a right angle gains by turning the corners round."""
    rng, sides = case.rng, []
    for dim in (1, 2, 4):
        p, q = gaussian(rng, dim), gaussian(rng, dim)
        x, slope = p.sample(6, rng), printed_map(p, q)
        y = q.mean() + (x - p.mean()) @ slope
        costs = ((x[:, None] - y) ** 2).sum(axis=2)
        least = min(costs[np.arange(6), list(pi)].mean() for pi in permutations(range(6)))
        sides += [Sides(np.trace(costs) / 6, least), Sides(cyclical_gap(x, y), 0.0, scale=least)]
    n, radius = int(rng.integers(5, 9)), float(rng.uniform(0.5, 2.0))
    theta = float(rng.uniform(2 * np.pi / n, 0.45 * np.pi))
    angles = 2 * np.pi * np.arange(n) / n
    x, y = (radius * np.stack([np.cos(a), np.sin(a)], axis=1) for a in (angles, angles + theta))
    turns = np.arange(n)
    gain = 2 * radius**2 * (np.cos(theta - 2 * np.pi * turns / n).max() - np.cos(theta))
    sides.append(Sides(max(-monotone_gap(x, y), 0.0), 0.0, scale=radius**2))
    sides.append(Sides(cyclical_gap(x, y), 0.0 if wrong else gain, scale=radius**2))
    return sides


@identity(
    "Optimal couplings of singular Gaussians, with a map and without one",
    topic=TOPIC,
    formula=r"T = R^{1/2} \big(R^{1/2} S R^{1/2}\big)^{+1/2} R^{1/2},\quad \mathbb{E}\|x - y\|^2 = \|m - n\|^2 +"
    r" \operatorname{tr}\big(S + R - 2 (S^{1/2} R S^{1/2})^{1/2}\big)",
    covers=["PODB-71"],
    over="once",
    control="the map from p to the shadow of q on the range of S",
)
def singular(case: Case, wrong: bool) -> list[Sides]:
    """S of rank r and R of rank s <= r, and the other way round, where the coupling has no map."""
    rng, sides = case.rng, []
    for dim, rank, lower in ((2, 1, 1), (4, 3, 2), (5, 5, 2)):
        f, g = rng.standard_normal((dim, rank)), rng.standard_normal((dim, lower))
        p, q = Gaussian(rng.standard_normal(dim), f @ f.T), Gaussian(rng.standard_normal(dim), g @ g.T)
        shift = ((p.mean() - q.mean()) ** 2).sum()
        # tr (S^(1/2) R S^(1/2))^(1/2) is the sum of singular values of F' G
        square = shift + np.trace(p.cov() + q.cov()) - 2 * np.linalg.svd(f.T @ g, compute_uv=False).sum()
        gain = np.asarray(optimal_map(p, q).gain)
        if wrong:
            frame = np.linalg.svd(f, full_matrices=False)[0]
            gain = frame @ frame.T @ gain
        values, axes = np.linalg.eigh(g.T @ p.cov() @ g)
        printed = g @ ((axes / np.sqrt(values)) @ axes.T) @ g.T  # G (G' S G)^(-1/2) G'
        moved = np.linalg.norm((np.eye(dim) - gain) @ f) ** 2 + shift
        sides += [
            Sides(gain, printed),
            Sides(gain @ p.cov() @ gain.T, q.cov()),
            Sides(moved, square),
            Sides(optimal_pairs(p, q).cost(), square),
            Sides(optimal_pairs(q, p).cost(), square),
        ]
    return sides


@identity(
    "At a barycentre the mean of the maps is the identity",
    topic=TOPIC,
    formula=r"S = \sum_i w_i \big(S^{1/2} S_i S^{1/2}\big)^{1/2},\quad \sum_i w_i T_i = I,\quad V = \sum_i w_i"
    r" \mathcal{W}_2^2 = \max \sum_i w_i \operatorname{tr}(S_i - B_i^{-1} S_i)",
    covers=["PODB-71"],
    over="once",
    control="the mean of the covariances",
)
def barycentres(case: Case, wrong: bool) -> list[Sides]:
    """The fixed point by printed roots, V beside its lower bound; two laws on the shortest way; points: dual."""
    rng, sides = case.rng, []
    for dim, count in ((1, 2), (2, 3), (4, 5)):
        laws, w = [gaussian(rng, dim) for _ in range(count)], rng.dirichlet(3 * np.ones(count))
        best = gaussian_barycentre(laws, w)
        s: Array = np.einsum("i,ijk->jk", w, [one.cov() for one in laws]) if wrong else best.law.cov()
        root, law = square_root(s), Gaussian(best.law.mean(), s)
        again = sum(one * square_root(root @ part.cov() @ root) for one, part in zip(w, laws, strict=True))
        maps = sum(one * printed_map(law, part) for one, part in zip(w, laws, strict=True))
        value = sum(one * wasserstein(law, part).value ** 2 for one, part in zip(w, laws, strict=True))
        sides += [Sides(again, s), Sides(maps, np.eye(dim)), Sides(value, best.bound)]
        turn = np.eye(dim) + 0.1 * rng.standard_normal((dim, dim))
        other = best.law.affine(turn)
        sides.append(at_most(best.value, sum(one * wasserstein(other, part).value ** 2 for one, part in zip(
            w, laws, strict=True))))  # fmt: skip
    p, q, t = gaussian(rng, 3), gaussian(rng, 3), float(rng.uniform(0.2, 0.8))
    there = Displacement(optimal_pairs(p, q)).marginal(t)
    sets = [Empirical(rng.standard_normal((3, 2))) for _ in range(3)]
    tuples = point_barycentre(sets)
    return [
        *sides,
        Sides(gaussian_barycentre([p, q], [1 - t, t]).law.cov(), there.cov()),
        Sides(tuples.value, tuples.bound),
        Sides(tuples.value, sum(wasserstein(tuples.law, one).value ** 2 for one in sets) / 3),
    ]
