r"""Fokker-Planck equations solved on grids, which know the drift and the noise and no density but the first one.

    d p / dt = A p          A of finite volumes: rates between cells, of second order in their sides h
    p_t(h) = p_t + c h^2 + O(h^4)   extrapolated over grids of which each halves the cells of the one before

against closed forms averaged over the cells: rates of mixtures under matrices in both forms of the equation, reversals
of every noise, a noise that depends on the state in three senses, and the score that is left on the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import ndtr
from scipy.stats import gamma

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.fokker_planck import FokkerPlanck, Grid, evolve, grid_score, stationary
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, Process, ornstein_uhlenbeck
from refdiff.schedules import VPLinear
from refdiff.stochastic import StochasticEquation, marginal_family
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identities.fokker_planck import TOPIC
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.steps import FINE

LEVELS = 3  # grids, each with half the cells of the next


def coarsened(values: Array, shape: tuple[int, ...]) -> Array:
    """Means over blocks of cells, shape (*shape), of values on a finer grid of whole multiples of that shape."""
    for axis, n in enumerate(shape):
        split = (*values.shape[:axis], n, values.shape[axis] // n, *values.shape[axis + 1 :])
        values = values.reshape(split).mean(axis=axis + 1)
    return values


def refined(lower: Array, upper: Array, cells: int, answer: Callable[[Grid], Array], first: int = 1) -> Array:
    """The limit of an answer (*cells) on grids of more and more cells of a box, as means over `cells` coarse ones.

    The box has the corners `lower` and `upper` (d,). The first grid has `first` times as many cells: extrapolation asks
    for cells in which the drift is no more than the noise.
    """
    dim = len(lower)
    found = [coarsened(answer(Grid(lower, upper, cells * first * 2**k)), (cells,) * dim) for k in range(LEVELS)]
    return numeric.extrapolate(found, first=2, step=2)


def processes_of(case: Case) -> Iterator[tuple[Process, GaussianMixture]]:
    """A process of rates on the line, one of a matrix and one with correlated noise, with mixtures."""
    rng = case.rng
    line = GaussianMixture.isotropic(rng.uniform(-1.5, 1.5, (2, 1)), rng.uniform(0.5, 1.0, 2))
    yield AffineProcess(VPLinear(0.5, 3.0)), line
    turn = rng.uniform(0.5, 1.5)
    for noise in (np.eye(2), np.array([[1.0, 0.0], [rng.uniform(0.3, 0.5), 0.9]])):
        plane = GaussianMixture.isotropic(rng.uniform(-1, 1, (2, 2)), rng.uniform(0.8, 1.2, 2))
        yield ornstein_uhlenbeck([[1.0, turn], [-turn, 1.0]], noise=noise), plane


@identity(
    "Both forms of the Fokker-Planck equation on grids",
    topic=TOPIC,
    formula=r"\partial_t p = -\nabla \cdot (f p) + \tfrac12 \sum_{ij} D_{ij} \partial_i \partial_j p"
    r" = -\nabla \cdot \big( (f - \tfrac12 D \nabla \log p)\, p \big)",
    covers=["PODD-76", "PODD-107", "DMI-56", "PODB-14"],
    over="once",
    evidence=ORDER,
    control="D / 2 in place of D, infinitesimal variance taken for diffusivity",
)
def forms(case: Case, wrong: bool) -> Iterator[Sides]:
    """Finite volumes in the limit of small cells against stencils in time of masses of cells."""
    for process, law in processes_of(case):
        model, t = ExactModel(law, process), 0.4
        here = model.marginal(t)
        std = np.sqrt(np.diag(here.cov()))
        lower, upper = here.mean() - 4 * std, here.mean() + 4 * std
        cells = 10 if model.dim == 1 else 8
        coarse = Grid(lower, upper, cells)
        exact = numeric.derivative(lambda u: coarse.averages(model.marginal(u)), t, FINE)  # noqa: B023
        forward = FokkerPlanck.of(process, coarse)
        noise = 0.5 if wrong else 1.0

        def rate(grid: Grid, carried: bool) -> Array:
            """A p of the equation with its noise, or `carried` by the velocity with none, in central differences."""
            if carried:
                operator = FokkerPlanck(grid, model.velocity, lambda *_: 0.0, fit="central", boundary="absorbing")  # noqa: B023
            else:
                operator = FokkerPlanck(
                    grid,
                    forward.drift,  # noqa: B023
                    lambda x, u: noise * np.asarray(forward.diffusion(x, u)),  # noqa: B023
                )
            return np.asarray((operator.matrix(t) @ grid.averages(here).ravel()).reshape(grid.shape))  # noqa: B023

        # walls are no part of the equation: cells beside them are left out
        inner = (slice(1, -1),) * model.dim
        size = np.abs(exact).max()
        for carried in (False, True):
            found = refined(lower, upper, cells, lambda grid, carried=carried: rate(grid, carried), 4)  # type: ignore[misc]
            yield Sides(found[inner], exact[inner], scale=size)


@identity(
    "Reversals of every noise on grids",
    topic=TOPIC,
    formula=r"\partial_s p_{T-s} = \nabla \cdot \big( (v - \tfrac{k^2}{2} g^2 \nabla \log p_{T-s})\, p_{T-s} \big)"
    r" + \tfrac{k^2}{2} g^2 \Delta p_{T-s}",
    covers=["PODD-108", "PODD-107", "PODB-67", "PODA-413"],
    refutes=["PODD-108"],
    over="once",
    evidence=ORDER,
    control="the drift of the proof, its sign turned, for k = 1",
)
def reversals(case: Case, wrong: bool) -> Iterator[Sides]:
    """Densities of noise carried to data by sweeps, in the limit of small cells and steps, against closed forms."""
    rng = case.rng
    law = GaussianMixture.isotropic(rng.uniform(-1.5, 1.5, (2, 1)), rng.uniform(0.5, 1.0, 2))
    model, ends = ExactModel(law, VPLinear(0.5, 3.0)), (0.45, 0.3)
    before, after = (model.marginal(t) for t in ends)
    box = Grid.around([before, after], 16, 1e-10)

    sign = -1.0 if wrong else 1.0
    for k in (1.0,) if wrong else (0.5, 1.0, 2.0):
        family = marginal_family(model, k)

        def carried(grid: Grid, family: StochasticEquation = family) -> Array:
            """The density of data, by a linear method, whose errors are even in the step."""
            operator = FokkerPlanck(grid, lambda x, t: sign * family.drift_at(x, t), family.covariance_rate)
            step = (ends[0] - ends[1]) * 4 / grid.shape[0]
            return np.asarray(evolve(operator, before, ends, step=step, method="crank-nicolson").densities[-1])

        exact = box.averages(after)
        yield Sides(refined(box.lower, box.upper, 16, carried), exact)


@identity(
    "Noise of the state on grids",
    topic=TOPIC,
    formula=r"dx = r x\,dt + s x\,dw:\; \partial_t p = -\partial_x (r x p) + \tfrac12 \partial_x^2 (s^2 x^2 p);\quad"
    r" dx = \kappa (m - x)\,dt + s \sqrt{x}\,dw:\; p_\infty \sim x^{2 \kappa m / s^2 - \theta} e^{-2 \kappa x / s^2}",
    covers=["DMI-59"],
    refutes=["DMI-59"],
    over="once",
    evidence=ORDER,
    control="a Fick flux, div(D grad p) / 2, the printed form",
)
def noise_of_the_state(case: Case, wrong: bool) -> Iterator[Sides]:
    """Geometric Brownian motion against the lognormal, and square-root noise in each sense against its Gamma law."""
    rng = case.rng
    r, s, t = rng.uniform(-0.3, 0.3), rng.uniform(0.25, 0.35), 0.3
    spread = 0.15
    lower, upper = np.array([0.25]), np.array([2.65])

    def lognormal(grid: Grid, time: float) -> Array:
        """Means on cells of exp N((r - s^2 / 2) t, spread + s^2 t)."""
        z = (np.log(grid.faces(0)) - (r - s**2 / 2) * time) / np.sqrt(spread**2 + s**2 * time)
        return np.asarray(np.diff(ndtr(z)) / grid.volume)

    def carried(grid: Grid) -> Array:
        sense = "fick" if wrong else "ito"
        operator = FokkerPlanck(grid, lambda x, _: r * x, lambda x, _: s**2 * x**2, sense, steady=True)
        return np.asarray(evolve(operator, lognormal(grid, 0.0), [0, t], step=t, method="exponential").densities[-1])

    yield Sides(refined(lower, upper, 24, carried), lognormal(Grid(lower, upper, 24), t))
    rate, middle = rng.uniform(1.0, 2.0), rng.uniform(2.0, 3.0)
    for sense, theta in (("ito", 1.0), ("stratonovich", 0.5), ("fick", 0.0)):
        shown = "fick" if wrong else sense
        # 2 kappa m / s^2 = 8: smooth at zero to more orders than are extrapolated
        law = gamma(9 - theta, scale=middle / 8)

        def still(grid: Grid, shown: str = shown) -> Array:
            noise = rate * middle / 4
            return stationary(FokkerPlanck(grid, lambda x, _: rate * (middle - x), lambda x, _: noise * x, shown))

        top = np.array([law.isf(1e-10)])
        coarse = Grid(0.0, top, 24)
        yield Sides(refined(np.zeros(1), top, 24, still), np.diff(law.cdf(coarse.faces(0))) / coarse.volume)


@identity(
    "Scores of densities on grids",
    topic=TOPIC,
    formula=r"\frac{\log p_{i+1} - \log p_{i-1}}{2 h} = \partial_x \log p + O(h^2)",
    covers=["PODD-76", "DMI-57"],
    over="once",
    evidence=ORDER,
    control="differences of p in place of log p",
)
def scores(case: Case, wrong: bool) -> Iterator[Sides]:
    """Scores of means over cells, which are read off at centres that all grids share, against the closed score."""
    for dim in (1, 2):
        law = GaussianMixture.isotropic(case.rng.uniform(-1, 1, (2, dim)), case.rng.uniform(0.8, 1.2, 2))
        std = np.sqrt(np.diag(law.cov()))
        lower, upper = law.mean() - 2 * std, law.mean() + 2 * std
        found = []
        for k in range(1, LEVELS + 1):
            # thirds keep their middles
            grid = Grid(lower, upper, 9 * 3**k)
            p = grid.averages(law)
            one = grid_score(grid, np.exp(p) if wrong else p)
            every = (slice((3**k - 1) // 2, None, 3**k),) * dim
            found.append(one[every])
        inner = (slice(1, -1),) * dim
        exact = law.score(Grid(lower, upper, 9).points)
        yield Sides(numeric.extrapolate(found, ratio=3.0, first=2, step=2)[inner], exact[inner])
