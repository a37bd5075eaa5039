r"""Benamou and Brenier: the least energy of a flow from one law to another is the squared distance between them.

    x_t = (1 - t) x + t T(x),   v_t(x_t) = T(x) - x,     int |v_t|^2 dp_t = W_2^2 at every t       (there is no 1/2)

Gaussians by their maps, laws on the line by their quantiles; the densities follow from det DT_t, and the Monge-Ampere
equation is that of t = 1. Sources: PODB-72, PODB-73.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, monotone_map
from refdiff.expectations import Quadrature
from refdiff.interpolants import InterpolantModel, linear
from refdiff.metrics import wasserstein
from refdiff.transport import (
    Displacement,
    LineDisplacement,
    PerturbedGaussian,
    independent,
    kinetic_energy,
    least_velocity,
    optimal_pairs,
)
from refdiff.validation.cases import Case
from refdiff.validation.identities.interpolants import continuity
from refdiff.validation.identities.metrics_transport import at_most
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import covariances, cubature, gaussian, log_normal, square_root
from refdiff.validation.numeric import integral, jacobian, lattice

TOPIC = "Transport"


def printed_map(p: Gaussian, q: Gaussian) -> Array:
    """S^(-1/2) (S^(1/2) R S^(1/2))^(1/2) S^(-1/2) of two Gaussians with densities, shape (d, d)."""
    root, other = square_root(covariances(p)[0]), covariances(q)[0]
    inverse = np.linalg.inv(root)
    return np.asarray(inverse @ square_root(root @ other @ root) @ inverse)


def mild(rng: np.random.Generator) -> GaussianMixture:
    """A mixture on the line, drawn from `rng`, whose maps to another one bend on no short length."""
    return GaussianMixture.isotropic(rng.uniform(-1.5, 1.5, (2, 1)), rng.uniform(0.3, 0.8, 2), rng.dirichlet([9, 9]))


@identity(
    "Displacement interpolation has the energy of the squared distance at all times",
    topic=TOPIC,
    formula=r"\mathcal{W}_2^2 = \int \|v_t\|^2 p_t\,dx,\quad v_t(x) = n - m + (T - I) \big((1 - t) I + t T\big)^{-1}"
    r" (x - m_t)",
    covers=["PODB-72"],
    over="once",
    control="the factor 1/2 of much of the literature",
)
def energies(case: Case, wrong: bool) -> list[Sides]:
    """The library's velocities, from maps between p_t and its ends, against the printed map; averages by cubature."""
    rng, sides = case.rng, []
    for dim in (1, 2, 5):
        p, q = gaussian(rng, dim), gaussian(rng, dim)
        slope, way, shift = printed_map(p, q), Displacement(optimal_pairs(p, q)), q.mean() - p.mean()
        square = shift @ shift + np.trace((slope - np.eye(dim)) @ p.cov() @ (slope - np.eye(dim)))
        sides.append(Sides(square, wasserstein(p, q).value ** 2))
        for t in (0.0, 0.3, 0.8, 1.0):
            now, here = (1 - t) * np.eye(dim) + t * slope, way.marginal(t)
            gain, (nodes, weights) = (slope - np.eye(dim)) @ np.linalg.inv(now), cubature(here)
            found = way.velocity(nodes, t)
            size = np.abs(slope).max() + np.abs(np.linalg.inv(slope)).max()
            sides += [
                Sides(here.cov(), now @ p.cov() @ now.T),
                Sides(found, shift + (nodes - here.mean()) @ gain.T, scale=size * np.abs(nodes).max()),
                Sides(gain, gain.T, scale=size),
                Sides((0.5 if wrong else 1.0) * weights @ (found**2).sum(axis=1), square, scale=square * size),
            ]
    return sides


@identity(
    "No other way between two Gaussians has less energy",
    topic=TOPIC,
    formula=r"\int_0^1 \mathbb{E} \|v_t\|^2\,dt \ge \mathcal{W}_2^2,\quad \text{at the times}\ \rho_t:"
    r"\ \int_0^1 \dot\rho_t^2\,dt\ \mathcal{W}_2^2",
    covers=["PODB-72"],
    over="once",
    control="the energy of the same laws at other times taken to be the same",
)
def least(case: Case, wrong: bool) -> list[Sides]:
    """At the times t^2, 4/3 of it; blended covariances with their least fields; the flow of independent pairs."""
    rng, sides = case.rng, []
    for dim in (1, 2, 4):
        p, q = gaussian(rng, dim), gaussian(rng, dim)
        way, square = Displacement(optimal_pairs(p, q)), wasserstein(p, q).value ** 2
        shift, model = q.mean() - p.mean(), InterpolantModel(independent(p, q), linear())

        def retimed(t: float, way: Displacement = way) -> float:
            nodes, weights = cubature(way.marginal(t * t))
            return float(weights @ ((2 * t * way.velocity(nodes, t * t)) ** 2).sum(axis=1))

        def blended(t: float, p: Gaussian = p, q: Gaussian = q, shift: Array = shift) -> float:
            here = Gaussian((1 - t) * p.mean() + t * q.mean(), (1 - t) * p.cov() + t * q.cov())
            return kinetic_energy(here, least_velocity(here, shift, q.cov() - p.cov()))

        def matched(t: float, model: InterpolantModel = model) -> float:
            nodes, weights = cubature(model.marginal(t))
            return float(weights @ (model.velocity(nodes, t) ** 2).sum(axis=1))

        total = [_over_time(one) for one in (retimed, blended, matched)]
        sides += [Sides(total[0], (1 if wrong else 4 / 3) * square), *(at_most(square, one) for one in total[1:])]
    return sides


def _over_time(energy: Callable[[float], float]) -> float:
    return float(integral(lambda ts: np.array([energy(float(t)) for t in ts]), 0.0, 1.0, 24))


@identity(
    "Displacement on the line: one energy, one distance, by quantiles and by densities",
    topic=TOPIC,
    formula=r"\int v_t(x)^2 p_t(x)\,dx = \int_0^1 \big(F^{-1} - G^{-1}\big)^2 du,\quad \frac{1}{p_t(x_t)} ="
    r" \frac{1 - t}{p(x)} + \frac{t}{q(T x)}",
    covers=["PODB-72", "PODB-70"],
    over="once",
    evidence=QUADRATURE,
    control="T(x) - x at x itself, where it is the velocity at x_t",
    most=1,
)
def on_the_line(case: Case, wrong: bool) -> list[Sides]:
    """Mixtures: sums over a grid of places against quantiles."""
    rng = case.rng
    p, q = mild(rng), mild(rng)
    way, square = LineDisplacement(p, q), wasserstein(p, q, 2.0, Quadrature(1e-11)).value ** 2
    x, t = np.linspace(-7.5, 7.5, 301)[:, None], float(rng.uniform(0.2, 0.8))
    density = np.exp(way.marginal(t).logpdf(x)) * 0.05
    found = monotone_map(p, q, x) - x if wrong else way.velocity(x, t)
    start = x[100:200:5]
    image = monotone_map(p, q, start)
    mixed = (1 - t) / np.exp(p.logpdf(start)) + t / np.exp(q.logpdf(image))
    return [
        Sides(density @ found[:, 0] ** 2, square),
        Sides(density.sum(), 1.0),
        Sides(np.exp(-way.marginal(t).logpdf((1 - t) * start + t * image)) / mixed, 1.0),
    ]


@identity(
    "Displacement interpolation obeys the continuity equation",
    topic=TOPIC,
    formula=r"\partial_t p_t + \nabla\!\cdot(p_t v_t) = 0,\quad p_t = \big((1 - t)\,\mathrm{id} + t T\big)_\sharp p",
    covers=["PODB-72"],
    over="once",
    evidence=DERIVATIVE,
    control="the velocity T(x) - x at x, not carried to x_t",
    most=2,
)
def continuous(case: Case, wrong: bool) -> list[Sides]:
    """Gaussians in the plane and mixtures on the line, by stencils in time and space."""
    rng = case.rng
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    way, line = Displacement(optimal_pairs(p, q)), LineDisplacement(mild(rng), mild(rng))
    x, y, t = way.marginal(0.4).sample(3, rng), rng.uniform(-1, 1, (2, 1)), 0.4
    slope = printed_map(p, q)
    return [
        continuity(
            lambda z, u: way.marginal(u).logpdf(z),
            lambda z, u: q.mean() + (z - p.mean()) @ slope - z if wrong else way.velocity(z, u),
            x,
            t,
        ),
        continuity(
            lambda z, u: line.marginal(u).logpdf(z),
            lambda z, u: monotone_map(line.p, line.q, z) - z if wrong else line.velocity(z, u),
            y,
            t,
        ),
    ]


@identity(
    "The Monge-Ampere equation",
    topic=TOPIC,
    formula=r"p_\text{tgt}(\nabla\psi(x)) \det \nabla^2 \psi(x) = p_\text{src}(x)",
    covers=["PODB-73", "PODB-71"],
    over="once",
    evidence=DERIVATIVE,
    control="source and target exchanged",
)
def monge_ampere(case: Case, wrong: bool) -> list[Sides]:
    """Gaussians in closed form, mixtures on the line and a quartic potential by stencils; that one's mass on a grid."""
    rng, sides = case.rng, []
    for dim in (1, 3, 8):
        p, q = gaussian(rng, dim), gaussian(rng, dim)
        x, slope = p.sample(6, rng), printed_map(p, q)
        image = q.mean() + (x - p.mean()) @ slope
        source, target = log_normal(x, p.mean(), p.cov()), log_normal(image, q.mean(), q.cov())
        stretch = np.linalg.slogdet(slope)[1]
        sides.append(_matched(source, target, stretch, wrong))
    one, two = mild(rng), mild(rng)
    x = one.sample(6, rng)
    steep = np.log(jacobian(lambda z: monotone_map(one, two, z), x, 0.02)[:, 0, 0])
    sides.append(_matched(one.logpdf(x), two.logpdf(monotone_map(one, two, x)), steep, wrong))
    law = PerturbedGaussian(float(rng.uniform(0.05, 0.4)))
    x = law.sample(6, rng)
    image = jacobian(law.potential, x, 0.05)
    bent = np.linalg.slogdet(jacobian(law.forward, x, 0.05))[1]
    target = log_normal(image, np.zeros(2), np.eye(2))
    axis = np.arange(-7.5, 7.5, 0.08)
    mass = np.exp(law.logpdf(lattice(axis, axis))).sum() * 0.08**2
    return [*sides, _matched(np.asarray(law.logpdf(x)), target, bent, wrong), Sides(mass, 1.0)]


def _matched(source: Array, target: Array, stretch: Array, wrong: bool) -> Sides:
    first, second = (target, source) if wrong else (source, target)
    return Sides(first, second + stretch, scale=np.abs(first).max() + np.abs(second).max() + np.abs(stretch).max())
