r"""Kinetic energies of paths between two laws, and the clock that spends least.

    conditional  int rho'^2 dt E |x_1 - x_0|^2            least for rho = t
    marginal     int k(rho) rho'^2 dt, k = E |v|^2        least for sqrt(k) rho' = const, (int sqrt(k) drho)^2

The printed Euler-Lagrange equation (kappa rho')' = 0 forgets that kappa is k at rho: its rule rho' ~ 1 / kappa spends
int k drho, which is what rho = t spends. N(0, 1) to N(0, 4): 5 - pi either way, (3 - 4 / sqrt 5)^2 at best, W_2^2 = 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture, wasserstein
from refdiff.distributions.quantiles import monotone_map
from refdiff.expectations import Quadrature
from refdiff.interpolants import (
    Curve,
    InterpolantModel,
    conditional_energy,
    energy_bounds,
    energy_density,
    linear,
    marginal_energy,
    matching_gap,
    optimal_schedule,
    over_time,
)
from refdiff.transport import gaussian_pairs, independent
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, square_root
from refdiff.validation.numeric import derivative, legendre
from refdiff.validation.pairs import line

TOPIC = "Flow matching"


def _power(p: float) -> Curve:
    """t^p with its rates."""
    return lambda t: (t**p, p * t ** (p - 1), p * (p - 1) * t ** max(p - 2, 0.0))


def to_gaussian(m: float, s: float) -> InterpolantModel:
    """N(0, 1) to N(m, s^2) on the line, independent, in a straight line."""
    return InterpolantModel(independent(Gaussian([0.0], 1.0), Gaussian([m], s * s)), linear())


@identity(
    "Conditional kinetic energy of a clock",
    topic=TOPIC,
    formula=r"\mathcal{K}[\rho] = (d + \operatorname{tr}\operatorname{Cov} x_0 + \|\mathbb{E} x_0\|^2) \int_0^1"
    r" \rho'^2\,dt,\qquad \rho = t^p: \int_0^1 \rho'^2\,dt = \frac{p^2}{2p - 1} \ge 1",
    covers=["PODB-63", "PODB-61"],
    over="laws",
    control="p / (2 p - 1)",
    evidence=QUADRATURE,
    needs=lambda case: case.law.dim <= 16,
)
def conditional(case: LawCase, wrong: bool) -> list[Sides]:
    """The model's second moments integrated in time, for data of any storage and five clocks, against the product."""
    law, d = case.law, case.law.dim
    size = d + np.trace(law.cov()) + (law.mean() ** 2).sum()
    pairs, sides = independent(law, Gaussian(np.zeros(d), 1.0)), []
    for p in (1.0, 2.0, 3.0, 4.0, 6.0):
        found = conditional_energy(InterpolantModel(pairs, linear().retimed(_power(p)))).value
        sides.append(Sides(found, size * (p if wrong else p * p) / (2 * p - 1)))
    return sides


@identity(
    "The clock of least marginal energy",
    topic=TOPIC,
    formula=r"E[\rho] = \int \rho'^2 k(\rho)\,dt:\quad (\sqrt{k(\rho)}\,\rho')' = 0,\quad \min E = \Big(\int_0^1"
    r" \sqrt{k}\,d\rho\Big)^2 = \Big(1 + s - \frac{2s}{\sqrt{1 + s^2}}\Big)^2 \text{ for } \mathcal{N}(0, s^2)",
    covers=["PODB-64"],
    refutes=["PODB-64"],
    over="once",
    control="the printed rule rho' ~ 1 / kappa for the least",
    evidence=QUADRATURE,
)
def least(case: Case, wrong: bool) -> list[Sides]:
    """Energies of the model's flows: golden numbers, closed forms, and what the printed rule spends instead."""
    rng = case.rng
    sides, power = [], 1.0 if wrong else 0.5
    for s in (2.0, 0.3 + rng.random(), 1.5 + 2 * rng.random()):
        model = to_gaussian(0.0, s)
        best = (1 + s - 2 * s / np.sqrt(1 + s * s)) ** 2
        sides.append(Sides(optimal_schedule(model, power=power, tolerance=1e-13).energy.value, best))
    model = to_gaussian(0.5, 3.0)
    sides.append(Sides(optimal_schedule(model, power=power, tolerance=1e-13).energy.value, 4.803742870421, 1.0))
    # the printed rule spends what the first clock does, int k drho, whatever the two laws are
    m, s = rng.standard_normal(), 0.5 + 2 * rng.random()
    plain = m * m + 1 + s * s - s * np.pi / 2
    sides.append(Sides(marginal_energy(to_gaussian(m, s)).value, plain))
    sides.append(Sides(optimal_schedule(to_gaussian(m, s), power=1.0, tolerance=1e-13).energy.value, plain))
    return sides


@identity(
    "At the best clock a flow spends evenly",
    topic=TOPIC,
    formula=r"\rho' \propto k(\rho)^{-1/2}:\qquad k(\rho(t))\,\rho'(t)^2 = \min E\ \text{ at all } t",
    covers=["PODB-64"],
    refutes=["PODB-64"],
    over="once",
    control="the printed clock rho' ~ 1 / kappa",
    evidence=DERIVATIVE,
)
def even(case: Case, wrong: bool) -> list[Sides]:
    """Rates of the clock by stencils, densities of energy of the interpolant at its times, of mixtures too."""
    rng = case.rng
    # the second one aside: where k nearly vanishes the clock nearly jumps
    p, q = (random_mixture(1, 2, rng, "full", spread=0.8).convolve(0.3).affine(1.0, shift) for shift in (0.0, 3.0))
    sides = []
    for model, route in ((to_gaussian(0.7, 2.0), None), (InterpolantModel(independent(p, q), linear()), Quadrature())):
        found = optimal_schedule(model, route, power=1.0 if wrong else 0.5)
        retimed = InterpolantModel(model.pairs, linear().retimed(found.clock))
        size = float(marginal_energy(model, route).value)
        for t in (0.15, 0.5, 0.8):
            rho, rate, _ = found.clock(t)
            slope = derivative(_first(found.clock), t, 0.002)
            sides.append(Sides(slope, rate, 1.0))
            spent = energy_density(model, rho, route).value * rate**2
            sides.append(Sides(energy_density(retimed, t, route).value, spent, size))
            sides.append(Sides(spent, found.energy.value, size))
    return sides


@identity(
    "Energies of flows between two laws in their order",
    topic=TOPIC,
    formula=r"W_2^2 \le \Big(\int_0^1 \sqrt{k}\Big)^2 \le \int_0^1 \mathbb{E}\|v_t\|^2\,dt = \mathbb{E}\|x_1 - x_0\|^2"
    r" - \int_0^1 \mathbb{E}\|x_1 - x_0 - v_t\|^2\,dt \le \mathbb{E}\|x_1 - x_0\|^2",
    covers=["PODB-64", "PODB-97"],
    over="once",
    control="the energy of the flow for the cost of the pairs",
    evidence=QUADRATURE,
)
def order(case: Case, wrong: bool) -> list[Sides]:
    """Closed distances and costs, energies and gaps by integrals; the differences that must not be negative are cut."""
    rng = case.rng
    sides = []
    p, q = gaussian(rng, 3), gaussian(rng, 3)
    cross = 0.6 * rng.random() * square_root(p.cov()) @ square_root(q.cov()).T
    mixtures = [random_mixture(1, 2, rng, "full", spread=0.8).convolve(0.3) for _ in range(2)]
    found = [
        (InterpolantModel(gaussian_pairs(p, q, cross), linear()), None, wasserstein(p, q) ** 2),
        # sums a digit finer are good to the square of this
        (InterpolantModel(independent(*mixtures), linear()), Quadrature(1e-6), _line_distance(*mixtures)),
    ]
    for model, route, distance in found:
        bounds = energy_bounds(model, route)
        assert bounds.transport is not None
        assert bounds.conditional is not None
        marginal, cost = float(bounds.marginal.value), model.pairs.cost()
        gap = _unexplained(model, route)
        chain = [distance, float(bounds.retimed.value), marginal, cost]
        sides += [
            Sides(bounds.transport.value, distance, cost),
            Sides(bounds.conditional.value, cost),
            Sides(marginal, (marginal if wrong else cost) - gap, cost),
            Sides(np.minimum(np.diff(chain), 0.0), np.zeros(3), cost),
        ]
    return sides


def _first(clock: Curve) -> Callable[[float], Array]:
    return lambda t: np.asarray(clock(t)[0])


def _unexplained(model: InterpolantModel, route: Quadrature | None) -> float:
    """int C dt."""
    return float(over_time(lambda t: matching_gap(model, t, route=route), scale=model.pairs.cost()).value)


def _line_distance(p: GaussianMixture, q: GaussianMixture) -> float:
    """W_2^2 by the monotone map."""
    x, share = line(p)
    kept = share > 1e-25
    return float(share[kept] @ (monotone_map(p, q, x[kept])[:, 0] - x[kept, 0]) ** 2)


@identity(
    "Marginal energies of straight lines between Gaussians",
    topic=TOPIC,
    formula=r"\int_0^1 \mathbb{E}\|v_t\|^2\,dt = \mathbb{E}\|x_1 - x_0\|^2 - \tfrac{\pi}{2}\operatorname{tr}(T"
    r" \Sigma_0),\quad T = (\Sigma_1 \Sigma_0^{-1})^{1/2}",
    covers=["PODB-64", "PODB-97"],
    over="once",
    control="the optimal map's T for that of the flow",
    evidence=QUADRATURE,
)
def between_gaussians(case: Case, wrong: bool) -> list[Sides]:
    """Energies of the model, integrated, against the square root of a product, for covariances that do not commute."""
    rng = case.rng
    p, q = gaussian(rng, 3), gaussian(rng, 3)
    model = InterpolantModel(independent(p, q), linear())
    t = _root(q.cov() @ np.linalg.inv(p.cov()))
    flow = np.trace(t @ p.cov())
    if wrong:
        half = square_root(p.cov())
        flow = np.trace(square_root(half @ q.cov() @ half))
    u, w = legendre(64)
    energy = sum(share * energy_density(model, float(one)).value for one, share in zip(u, w, strict=True))
    right = model.pairs.cost() - np.pi / 2 * flow
    return [Sides(energy, right), Sides(marginal_energy(model).value, right)]


def _root(a: Array) -> Array:
    """The square root of a matrix with positive eigenvalues."""
    values, vectors = np.linalg.eig(a)
    return np.asarray(((vectors * np.sqrt(values)) @ np.linalg.inv(vectors)).real)
