r"""The space of Gaussians under W_2: curved, and yet with ways along which distances and free energies are convex.

    W_2(p_t, r)^2 >= (1 - t) W_2(p, r)^2 + t W_2(q, r)^2 - t (1 - t) W_2(p, q)^2         along the shortest way
    W_2(p_t, r)^2  = (1 - t) W_2(p, r)^2 + t W_2(q, r)^2 - t (1 - t) E_r |T_p - T_q|^2  along the one seen from r
    F(p_t)        <= (1 - t) F(p) + t F(q) - lambda t (1 - t) W_2(p, q)^2 / 2

for F = KL(. || exp(-V)), V'' >= lambda. The first says which way the curvature is; proofs of proximal steps go the
second way. Sources: PODB-71, PODB-72.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.metrics import wasserstein
from refdiff.transport import (
    Displacement,
    FreeEnergy,
    generalized_geodesic,
    kinetic_energy,
    least_velocity,
    optimal_pairs,
)
from refdiff.validation.cases import Case
from refdiff.validation.identities.displacements import TOPIC, printed_map
from refdiff.validation.identities.metrics_transport import at_most
from refdiff.validation.identity import DERIVATIVE, Sides, identity
from refdiff.validation.laws import cubature, gaussian
from refdiff.validation.numeric import derivative, extrapolate


def square(p: object, q: object) -> float:
    """W_2(p, q)^2 of two Gaussians."""
    assert isinstance(p, Gaussian)
    assert isinstance(q, Gaussian)
    return float(wasserstein(p, q).value ** 2)


@identity(
    "Squared distances are curved along shortest ways and convex along those seen from the other end",
    topic=TOPIC,
    formula=r"\mathcal{W}_2^2(p_t, r) \ge (1 - t) \mathcal{W}_2^2(p, r) + t\, \mathcal{W}_2^2(q, r) - t (1 - t)"
    r" \mathcal{W}_2^2(p, q),\quad \mathcal{W}_2^2(p_t^r, r) = \ldots - t (1 - t)\, \mathbb{E}_r \|T_p - T_q\|^2",
    covers=["PODB-71", "PODB-72"],
    over="once",
    control="W_2(p, q) for the distance of the maps, as in a flat space",
)
def curved(case: Case, wrong: bool) -> list[Sides]:
    """Covariances that do not commute; on the line and for those that do both are equal."""
    rng, sides = case.rng, []
    for dim in (1, 2, 4):
        p, q, r = (gaussian(rng, dim) for _ in range(3))
        t = float(rng.uniform(0.2, 0.8))
        flat = (1 - t) * square(p, r) + t * square(q, r) - t * (1 - t) * square(p, q)
        here, size = Displacement(optimal_pairs(p, q)).marginal(t), square(p, r) + square(q, r)
        sides.append(at_most(flat, square(here, r)) if dim > 1 else Sides(flat, square(here, r), scale=size))
        nodes, weights = cubature(r)
        one, two = (law.mean() + (nodes - r.mean()) @ printed_map(r, law) for law in (p, q))
        apart = weights @ ((one - two) ** 2).sum(axis=1)
        if dim > 1:
            bent = square(p, q) if wrong else apart
            known = (1 - t) * square(p, r) + t * square(q, r) - t * (1 - t) * bent
            sides.append(Sides(square(generalized_geodesic(r, p, q, t), r), known, scale=size))
        sides.append(at_most(square(p, q), float(apart)))
    p, q, r = (Gaussian(rng.standard_normal(3), rng.uniform(0.1, 2, 3)) for _ in range(3))
    flat = 0.6 * square(p, r) + 0.4 * square(q, r) - 0.24 * square(p, q)
    return [*sides, Sides(flat, square(Displacement(optimal_pairs(p, q)).marginal(0.4), r))]


@identity(
    "Free energies are convex along shortest ways",
    topic=TOPIC,
    formula=r"F(p_t) \le (1 - t) F(p) + t F(q) - \tfrac{\lambda}{2} t (1 - t) \mathcal{W}_2^2(p, q),\quad \tfrac{d}{dt}"
    r" F(p_t) = \mathbb{E}\, v_t \cdot \nabla \tfrac{\delta F}{\delta p}",
    covers=["PODB-72"],
    over="once",
    evidence=DERIVATIVE,
    control="lambda the largest curvature of the potential, where it is the least",
)
def convex(case: Case, wrong: bool) -> list[Sides]:
    """KL to a Gaussian, along both kinds of way; shifts along the flattest axis meet the bound; slopes by stencils."""
    rng, sides = case.rng, []
    for dim in (2, 3):
        target, p, q, r = (gaussian(rng, dim) for _ in range(4))
        energy, values = FreeEnergy.divergence(target), 1 / np.linalg.eigvalsh(target.cov())
        rate = float(values.max() if wrong else values.min())
        shifted = p.affine(1.0, np.linalg.eigh(target.cov())[1][:, -1])
        assert isinstance(shifted, Gaussian)
        for end in (q, shifted):
            way = Displacement(optimal_pairs(p, end))
            for t in (0.3, 0.6):
                between = (1 - t) * energy.value(p) + t * energy.value(end)
                slack = 0.5 * rate * t * (1 - t)
                sides += [
                    at_most(energy.value(way.marginal(t)), between - slack * way.cost()),
                    at_most(energy.value(generalized_geodesic(r, p, end, t)), between - slack * way.cost()),
                ]
        way = Displacement(optimal_pairs(p, q))
        here = way.marginal(0.4)
        nodes, weights = cubature(here)
        pull = here.score(nodes) - target.score(nodes)
        slope = derivative(lambda t, way=way, energy=energy: np.asarray(energy.value(way.marginal(t))), 0.4, 0.01)  # type: ignore[misc]
        sides.append(Sides(slope, weights @ (way.velocity(nodes, 0.4) * pull).sum(axis=1)))
    return sides


@identity(
    "Bures' metric is the least energy of a moving Gaussian",
    topic=TOPIC,
    formula=r"\min_v \mathbb{E} \|v\|^2 = \|\dot m\|^2 + \operatorname{tr} L S L,\quad L S + S L = \dot S,\quad"
    r" \lim_h \mathcal{W}_2^2(p_t, p_{t + h}) / h^2",
    covers=["PODB-72"],
    over="once",
    evidence=DERIVATIVE,
    control="the field x -> dS S^-1 (x - m) / 2 + dm, which moves the law so too",
)
def metric(case: Case, wrong: bool) -> list[Sides]:
    """A curve that is no shortest way: the limit of distances, whose square has the second derivative 2 |v|^2."""
    rng, sides = case.rng, []
    for dim in (1, 2, 4):
        p, turn, shift = gaussian(rng, dim), rng.standard_normal((dim, dim)) / 3, rng.standard_normal(dim)

        def at(h: float, p: Gaussian = p, turn: Array = turn, shift: Array = shift) -> Gaussian:
            moved = p.affine(np.eye(p.dim) + h * turn, h * shift)
            assert isinstance(moved, Gaussian)
            return moved

        rate = turn @ p.cov() + p.cov() @ turn.T
        mean = turn @ p.mean() + shift
        best = least_velocity(p, mean, rate)
        gain = 0.5 * rate @ np.linalg.inv(p.cov()) if wrong and dim > 1 else np.asarray(best.gain)
        nodes, weights = cubature(p)
        energy = weights @ ((mean + (nodes - p.mean()) @ np.broadcast_to(gain, (dim, dim)).T) ** 2).sum(axis=1)
        bent = [float(square(p, at(h)) + square(p, at(-h))) / (2 * h * h) for h in (0.08, 0.04, 0.02, 0.01)]
        sides += [Sides(energy, _limit(bent)), Sides(kinetic_energy(p, best), _limit(bent))]
    return sides


def _limit(values: list[float]) -> float:
    """The limit of values at h, h/2, ... whose error is in even powers."""
    return float(extrapolate([np.asarray(one) for one in values], first=2, step=2))
