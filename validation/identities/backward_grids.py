r"""What finite volumes inherit: the backward equation's duality, scale functions, and the loss of divergence.

    duality      sum_i p_i(s) u_i(s) = sum_i p_i(t) phi_i            u(x, s) = E[phi(x_t) | x_s = x]
    kernels      E[cos(k . x_t) | x_s = x] = e^(-k'Ck/2) cos(k . (A x + b))      the channel from s to t
    first ends   P(b before a | x) = int_a^x e^(phi) / int_a^b e^(phi), phi' = -2 f / g^2;  E tau = (x - a)(b - x) / g^2
    H-theorem    -d KL(p | q) / dt on cells  ->  E |grad log p/q|^2_D / 2

Grids on one side, closed forms and lattices of laws on the other; what is left of second order is extrapolated.
"""

from __future__ import annotations

import numpy as np

from refdiff import operators
from refdiff.distributions import Gaussian
from refdiff.dynamics import divergence_rate
from refdiff.fokker_planck import (
    FokkerPlanck,
    Grid,
    divergence_loss,
    evolve,
    expectation,
    hitting_probability,
    mean_hitting_time,
)
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, LinearProcess, Process
from refdiff.schedules import VPLinear
from refdiff.validation.cases import Case
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.laws import gaussian, well_conditioned
from refdiff.validation.numeric import extrapolate

TOPIC = "Densities and expectations on grids"


def on_line_and_plane(rng: np.random.Generator) -> list[tuple[Process, int]]:
    """A scalar process on the line and one with matrices in the plane, whose noise is correlated."""
    noise = np.array([[1.0, 0.0], [0.3, 0.9]])
    return [(AffineProcess(VPLinear(1.0, 3.0)), 1), (LinearProcess(-0.7 * well_conditioned(rng, 2), noise), 2)]


@identity(
    "Expectations of later payments and densities have one product at all times",
    topic=TOPIC,
    formula=r"\partial_t p = A p,\ -\partial_t u = A^\top u:\quad \langle p_s, u_s \rangle"
    r" = \langle p_t, \varphi \rangle",
    covers=["RDX-B8", "PODD-84"],
    over="once",
    control="u carried by A itself, as densities are",
)
def duality(case: Case, wrong: bool) -> list[Sides]:
    """Steps of `evolve` forth and of `expectation` back, each linear method, with walls of every kind."""
    rng, found = case.rng, []
    times = np.array([0.2, 0.3, 0.5])
    for process, dim in on_line_and_plane(rng):
        for walls in ("no-flux", "absorbing", "periodic"):
            grid = Grid(np.full(dim, -3.0), np.full(dim, 3.0), 24 if dim == 1 else 10)
            operator = FokkerPlanck.of(process, grid, boundary=walls)
            p, phi = rng.exponential(size=grid.shape), rng.standard_normal(grid.shape)
            for method in ("euler", "crank-nicolson", "tr-bdf2", "exponential"):
                density = evolve(operator, p, times, step=0.05, method=method).densities
                carry = evolve(operator, phi, times, step=0.05, method=method).densities if wrong else None
                u = expectation(operator, phi, times[::-1], step=0.05, method=method) if carry is None else carry
                products = [float((density[k] * u[2 - k]).sum()) for k in range(3)]
                size = float((density[2] * np.abs(phi)).sum())
                found += [Sides(one, products[2], scale=size) for one in products[:2]]
    return found


@identity(
    "The backward equation of a kernel",
    topic=TOPIC,
    formula=r"u(x, s) = \mathbb{E}[\varphi(x_t) | x_s = x]:\quad -\partial_s u = f \cdot \nabla u"
    r" + \tfrac12 \nabla \cdot D \nabla u",
    covers=["RDX-B8"],
    over="once",
    evidence=ORDER,
    control="twice the noise",
)
def kernels(case: Case, wrong: bool) -> list[Sides]:
    """A cosine paid at t, on two grids extrapolated, against the characteristic function of the channel."""
    rng, found = case.rng, []
    s, t = 0.3, 0.5
    for process, dim in on_line_and_plane(rng):
        link, k = process.channel(s, t), rng.uniform(0.5, 1.0, dim)
        noise = operators.dense(link.noise, dim) * (2 if wrong else 1)
        values, x = [], np.zeros((0, dim))
        for every in (1, 3):  # every third centre of the finer grid is one of the coarser
            grid = Grid(np.full(dim, -6.0), np.full(dim, 6.0), (40 if dim == 1 else 32) * every)
            u = expectation(FokkerPlanck.of(process, grid), np.cos(grid.points @ k), [t, s], step=0.05 / every)[-1]
            kept = (slice(every // 2, None, every),) * dim
            x = grid.points[kept]
            inside = (np.abs(x) < 2).all(axis=-1)
            values.append(u[kept][inside])
        moved = operators.apply(link.gain, x[inside]) + link.offset
        exact = np.exp(-0.5 * k @ noise @ k) * np.cos(moved @ k)
        found.append(Sides(extrapolate(values, ratio=3.0, first=2), exact, scale=1.0))
    return found


@identity(
    "Which end is reached first, and when",
    topic=TOPIC,
    formula=r"P(\tau_b < \tau_a | x) = \frac{\int_a^x e^{\phi}}{\int_a^b e^{\phi}},\ \phi' = -\frac{2 f}{g^2},"
    r"\quad \mathbb{E}\,\tau = \frac{(x - a)(b - x)}{g^2}",
    covers=["RDX-B8"],
    over="once",
    control="the scale function of the drift's other sign",
)
def first_end(case: Case, wrong: bool) -> list[Sides]:
    """A constant drift, for which fitted fluxes are exact, and none, for which second differences are."""
    rng, n = case.rng, 40
    drift, noise = rng.uniform(0.5, 1.5), rng.uniform(0.5, 2.0)
    grid = Grid([-1.0], [1.5], n)
    x = grid.points[:, 0]
    ends = np.arange(n) == n - 1, np.arange(n) == 0

    def steady(b: float) -> FokkerPlanck:
        return FokkerPlanck(grid, lambda y, _: np.full_like(y, b), lambda *_: noise, steady=True)

    chance = hitting_probability(steady(drift), *ends)
    scale = np.expm1((1 if wrong else -1) * 2 * drift * (x - x[0]) / noise)
    # the solution of A'u = 0 has the condition of n^2 differences
    return [
        Sides(chance, scale / scale[-1], scale=n),
        Sides(mean_hitting_time(steady(0.0), ends[0] | ends[1]), (x - x[0]) * (x[-1] - x) / noise, scale=n),
    ]


@identity(
    "Cells lose divergence as the equation does",
    topic=TOPIC,
    formula=r"\sum_{i \ne j} A_{ij} p_j (r_{ij} - 1 - \log r_{ij}) \to \tfrac12\, \mathbb{E}\,"
    r"\nabla \log \tfrac{p}{q} \cdot D\, \nabla \log \tfrac{p}{q}",
    covers=["RDX-46", "PODD-76"],
    over="once",
    evidence=ORDER,
    control="D in place of D / 2",
)
def cells_lose(case: Case, wrong: bool) -> list[Sides]:
    """Two Gaussians on three grids, extrapolated, against the closed rate."""
    rng, found, t = case.rng, [], 0.2
    for process, dim in on_line_and_plane(rng):
        # both near the origin: far from it the drift is more than the noise of a cell, and fluxes are of first order
        p, other = (Gaussian(rng.uniform(-0.5, 0.5, dim), gaussian(rng, dim).cov()).convolve(1.0) for _ in range(2))
        q = other.convolve(p.cov())  # the wider one: where nothing is left of p neighbours differ by factors
        laws = [process.kernel(t).push(law) for law in (p, q)]
        rate = -divergence_rate(ExactModel(p, process), q, t).value
        values = []
        for count in (48, 96, 192):
            grid = Grid.around(laws[0], count, 1e-10)  # what q has beyond, p does not see
            first, second = (grid.averages(law) for law in laws)
            values.append(np.asarray(divergence_loss(FokkerPlanck.of(process, grid), first, second, t)))
        found.append(Sides(extrapolate(values, first=2, step=2), (2.0 if wrong else 1.0) * rate))
    return found
