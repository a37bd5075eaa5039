r"""Sinkhorn's iteration between points: what its plans are, how fast it gets there, and what it never loses.

The turns of f and g are monotone, commute with adding a constant, and so contract the oscillation of a difference of
potentials; by how much at least follows from the largest differences of costs alone, and near the solution from the
plan's second singular value. The value between is cost and divergence, whatever points carry the weights.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.spatial.distance import cdist

from refdiff.arguments import Array
from refdiff.distributions import Empirical
from refdiff.metrics import optimal_coupling
from refdiff.transport import sinkhorn
from refdiff.validation.cases import Case
from refdiff.validation.identities.entropic_gaussians import TOPIC
from refdiff.validation.identity import Sides, identity
from refdiff.validation.numeric import derivative, extrapolate

# of PODB-74 for standard deviations 1 and 1/2 and eps = 1/2, for half of the squared distance and all of it
GOLDEN = (5**0.5 - 1) / 4, 0.390388203202207
LITTLE = 1 / 12  # eps at which all but the optimal pairs are out of reach
STOP = 1e-13  # marginal errors at which roundings are all that is left


def two(rng: np.random.Generator, n: int, m: int, dim: int) -> tuple[Empirical, Empirical]:
    """Two sets of `n` and `m` weighted points in `dim` dimensions."""
    sets = ((rng.standard_normal((count, dim)), rng.dirichlet(np.full(count, 5.0))) for count in (n, m))
    return tuple(Empirical(x, w) for x, w in sets)  # type: ignore[return-value]


def grid(scale: float) -> Empirical:
    """Gauss and Hermite's 40 points for N(0, `scale`^2)."""
    z, w = np.polynomial.hermite_e.hermegauss(40)
    return Empirical(scale * z[:, None], w / w.sum())


def turn(costs: Array, weights: Array, g: Array, epsilon: float) -> Array:
    """-eps log sum_j b_j exp((g_j - c_ij) / eps), plainly.

    Args:
        costs: c, shape (n, m).
        weights: b, shape (m,).
        g: potentials, shape (m,).
        epsilon: eps.
    """
    return np.asarray(-epsilon * np.log(np.exp((g - costs) / epsilon) @ weights))


@identity(
    "Sinkhorn's plan of grids is that of the Gaussians they stand for",
    topic=TOPIC,
    formula=r"\gamma_{ij} = a_i b_j\, e^{(f_i + g_j - c_{ij}) / \varepsilon},\quad"
    r" \operatorname{Cov}_\gamma(x, y) = \tfrac12 \big(\sqrt{4 \sigma_0^2 \sigma_1^2 + \varepsilon'^2}"
    r" - \varepsilon'\big)",
    covers=["PODB-74", "PODB-75"],
    over="once",
    control="|x - y|^2 taken for half of it",
)
def grids(case: Case, wrong: bool) -> list[Sides]:  # noqa: ARG001
    """Two costs by their golden numbers; with 40 points errors of the quadrature are below rounding."""
    p, q = grid(1.0), grid(0.5)
    found = []
    for cost, number in zip(("half-squared", "squared"), GOLDEN[::-1] if wrong else GOLDEN, strict=True):
        masses = sinkhorn(p, q, 0.5, cost=cost, tolerance=STOP).coupling()
        found.append(Sides(p.means[:, 0] @ masses @ q.means[:, 0], number))
    return found


@identity(
    "A plan has its marginals, its value, and one of many pairs of potentials",
    topic=TOPIC,
    formula=r"\sum_j \gamma_{ij} = a_i,\ \sum_i \gamma_{ij} = b_j,\quad"
    r" \sum_i a_i f_i + \sum_j b_j g_j = \mathbb{E}_\gamma c + \varepsilon\, \mathrm{KL}(\gamma \| p \otimes q),\quad"
    r" (f + t, g - t) \mapsto \gamma",
    covers=["PODB-75"],
    over="once",
    tolerance=1e-11,  # potentials of a plan whose marginals are off by 1e-13, over the gap of its singular values
    control="(f + t, g + t) taken for the same plan",
)
def plans(case: Case, wrong: bool) -> list[Sides]:
    """Costs of any order, a matrix, sets of any sizes; starts apart by a constant and by anything end in one plan."""
    rng, found = case.rng, []
    for dim, cost in ((1, "half-squared"), (3, 1.0), (2, "matrix")):
        p, q = two(rng, 23, 17, dim)
        costs = {
            "half-squared": cdist(p.means, q.means, "sqeuclidean") / 2,
            "matrix": rng.random((23, 17)),
        }.get(str(cost), cdist(p.means, q.means))
        plan = sinkhorn(p, q, 0.4, cost=costs if cost == "matrix" else cost, tolerance=STOP)
        other = sinkhorn(p, q, 0.4, cost=costs, tolerance=STOP, start=rng.standard_normal(17), accelerated=False)
        shift = 0.3
        f, g = plan.f + shift, plan.g + (shift if wrong else -shift)
        masses = np.exp((f[:, None] + g - costs) / 0.4) * np.outer(p.weights, q.weights)
        parts = masses * np.log(masses / np.outer(p.weights, q.weights))
        found += [
            Sides(masses.sum(axis=1), p.weights),
            Sides(masses.sum(axis=0), q.weights),
            Sides(masses, other.coupling()),
            Sides(plan.value, (masses * costs).sum() + 0.4 * parts.sum()),
            Sides([plan.mean_cost(), plan.kl()], [(masses * costs).sum(), parts.sum()]),
        ]
    return found


@identity(
    "Little and much noise in plans of points",
    topic=TOPIC,
    formula=r"\varepsilon \to 0:\ V_\varepsilon - V_0 \sim \varepsilon\, \mathrm{KL}(\gamma_0 \| p \otimes q),\quad"
    r" \varepsilon \to \infty:\ V_\varepsilon = \mathbb{E} c - \tfrac{1}{2 \varepsilon} \mathbb{E}\, \bar c^2 + \dots",
    covers=["PODB-75"],
    over="once",
    tolerance=1e-4,  # e^-12 of some pairs that are not optimal; at the other end four halvings leave 1e-8
    control="the entropy of p for that divergence; E c of the optimal plan for that of the product",
)
def ends(case: Case, wrong: bool) -> list[Sides]:
    """Points at whole numbers: pairs that are not optimal lack 1 at least, and weigh e^-12; centred costs."""
    rng, found = case.rng, []
    for n, m in ((6, 5), (4, 9)):
        x, y = (rng.permutation(13)[:count, None] - 6.0 for count in (n, m))
        p, q = (Empirical(z, rng.dirichlet(np.full(len(z), 5.0))) for z in (x, y))
        best = optimal_coupling(p, q, 2.0)
        a, b = p.weights, q.weights
        lost = -(a @ p.log_weights) if wrong else best.masses @ np.log(best.masses / (a[best.rows] * b[best.columns]))
        # the dual value errs by the square of what marginals do, over the gap
        near = sinkhorn(p, q, LITTLE, tolerance=1e-6)
        costs = (x - y.T) ** 2 / 2
        centred = costs - a @ costs - (costs @ b)[:, None] + a @ costs @ b
        levels = 10 * costs.max() * 2.0 ** np.arange(5)
        middle = 0.5 * best.cost if wrong else a @ costs @ b
        far = [np.asarray(level * (sinkhorn(p, q, level, tolerance=1e-14).value - middle)) for level in levels]
        found += [
            Sides((near.value - 0.5 * best.cost) / LITTLE, lost),
            Sides(extrapolate(far), -0.5 * (a @ centred**2 @ b)),
        ]
    return found


@identity(
    "Sinkhorn's turns contract by the largest difference of costs",
    topic=TOPIC,
    formula=r"\operatorname{osc}(T g - T h) \le \tanh\big(\tfrac{\Delta}{4 \varepsilon}\big) \operatorname{osc}(g - h),"
    r"\quad \Delta = \max (c_{ij} + c_{kl} - c_{il} - c_{kj})",
    covers=["PODB-75"],
    over="once",
    control="a sixteenth for a quarter of the largest difference",
)
def contractions(case: Case, wrong: bool) -> list[Sides]:
    """Differences of potentials of all sizes, and the two points at which the bound is attained."""
    rng, found = case.rng, []
    for epsilon in (0.3, 1.0, 4.0):
        costs = cdist(rng.standard_normal((11, 2)), rng.standard_normal((8, 2)))
        b = rng.dirichlet(np.ones(8))
        steps = costs[:, None] - costs
        largest = (steps.max(axis=2) - steps.min(axis=2)).max()
        bound = np.tanh(largest / (16 if wrong else 4) / epsilon)
        worst = 0.0
        for size in (0.01, 1.0, 10.0):
            g = rng.standard_normal((40, 8))
            h = g + size * rng.standard_normal((40, 8))
            moved = [turn(costs, b, u, epsilon) - turn(costs, b, v, epsilon) for u, v in zip(g, h, strict=True)]
            worst = max(worst, *(np.ptp(m) / np.ptp(v - u) for m, u, v in zip(moved, g, h, strict=True)))
        found.append(Sides(max(0.0, worst - bound), 0.0, scale=1.0))
        # two points of each set, potentials nearly equal: the rate is the bound itself
        slope = derivative(partial(_two_points, epsilon), 0.0, 0.02 * epsilon)
        found.append(Sides(0.5 * slope, np.tanh(2 / (16 if wrong else 4) / epsilon)))
    return found


def _two_points(epsilon: float, t: float) -> Array:
    """How far apart potentials f are for g = (t, -t) and costs 0 of equal and 1 of other points."""
    f = turn(np.array([[0.0, 1.0], [1.0, 0.0]]), np.full(2, 0.5), np.array([t, -t]), epsilon)
    return np.asarray(f[1] - f[0])


@identity(
    "Sinkhorn converges with the square of the plan's second singular value",
    topic=TOPIC,
    formula=r"\lim_k \frac{\| g_{k+1} - g_k \|}{\| g_k - g_{k-1} \|} = s_2^2,\quad"
    r" s_1 = 1 \ge s_2 \ge \dots \text{ of } \frac{\gamma_{ij}}{\sqrt{a_i b_j}}",
    covers=["PODB-75"],
    over="once",
    tolerance=1e-6,  # where the third value has died out: steps are then some 1e-8 and known to 1e-15
    control="the singular value itself",
)
def rates(case: Case, wrong: bool) -> list[Sides]:
    """Plain turns against the singular values of the plan; marginal errors fall at each."""
    rng, found = case.rng, []
    for epsilon in (0.3, 1.0):
        p, q = two(rng, 12, 10, 1)
        plan = sinkhorn(p, q, epsilon, tolerance=1e-14)
        scaled = plan.coupling() / np.sqrt(np.outer(p.weights, q.weights))
        value = np.linalg.svd(scaled, compute_uv=False)
        costs, g = cdist(p.means, q.means, "sqeuclidean") / 2, np.zeros(10)
        steps = list[float]()
        while not steps or steps[-1] > 1e-8:
            f = turn(costs, q.weights, g, epsilon)
            new = turn(costs.T, p.weights, f, epsilon)
            steps.append(float(np.sqrt(q.weights @ (new - g) ** 2)))
            g = new
        found.append(Sides(steps[-1] / steps[-2], value[1] if wrong else value[1] ** 2))
        found.append(Sides(value[0], 1.0))
        errors = sinkhorn(p, q, epsilon, accelerated=False, annealed=False).errors
        found.append(Sides(max(0.0, np.diff(errors).max(initial=0.0)), 0.0, scale=1.0))
    return found
