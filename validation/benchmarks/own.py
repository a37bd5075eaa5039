"""refdiff's own side of each problem, through nothing but its public interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numba import config

from refdiff import backends
from refdiff.arguments import Array
from refdiff.distributions import Empirical, GaussianMixture
from refdiff.dynamics import flow
from refdiff.fokker_planck import FokkerPlanck, Grid, evolve
from refdiff.metrics import energy_distance, gaussian_kernel, mmd_squared
from refdiff.metrics.pairs import row_sums
from refdiff.model import ExactModel
from refdiff.processes import LinearProcess
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp_multistep
from refdiff.samplers.edm import edm_heun
from refdiff.samplers.reverse_sde import euler_maruyama
from refdiff.samplers.running import run
from refdiff.schedules import VEPower, VPLinear
from refdiff.transport import sinkhorn
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.mixtures import Mixture
from refdiff.validation.benchmarks.problems import (
    SIDE,
    SIGMA_MAX,
    Ancestral,
    Denoiser,
    Discrepancy,
    Divergence,
    EntropicPlans,
    FlowMap,
    GridDensity,
    LogDensity,
    Multistep,
    PairSums,
    PointSetScore,
    ProbabilityFlow,
    Problem,
    ReverseDiffusion,
    kind,
)

# Steps in time whose error is about that in space; with three quarters of them the sum is beyond what is allowed.
GRID_STEPS = 20
TYPICAL = 320  # points that say what more of them take: 20 groups


def candidates(problem: Problem, threads: int) -> list[Candidate]:  # noqa: ARG001
    """One: refdiff chooses its own blocks, and takes the threads that the process was started with."""
    solve = SOLVE[kind(problem)](problem)
    backend = "numpy" if config.DISABLE_JIT else "numba"  # kernels run by the interpreter take hours

    def go(points: int) -> Array:
        with backends.use(backend):
            return solve(problem.x[:points])

    return [Candidate("", go)]


def numpy_candidates(problem: Problem, threads: int) -> list[Candidate]:  # noqa: ARG001
    """One: the same call without kernels, the route that kernels are checked against.

    It takes points in groups, one after the other, so that some of them say what all take.
    """
    solve = SOLVE[kind(problem)](problem)

    def go(points: int) -> Array:
        with backends.use("numpy"):
            return solve(problem.x[:points])

    label = f"{TYPICAL} points, seconds scaled" if len(problem.x) > TYPICAL else ""
    return [Candidate(label, go, most=TYPICAL)]


def law(mixture: Mixture) -> GaussianMixture:
    """The mixture of a problem."""
    return GaussianMixture.isotropic(mixture.means, mixture.variances, np.exp(mixture.log_weights))


def probability_flow(problem: ProbabilityFlow) -> Callable[[Array], Array]:
    """EDM's Heun sampler as a table."""
    process = VEPower(T=SIGMA_MAX)
    table, model = edm_heun(process, problem.sigmas), ExactModel(law(problem.mixture), process)
    return lambda x: run(table, model, x)


def multistep(problem: Multistep) -> Callable[[Array], Array]:
    """DPM-Solver++(2M) as a table."""
    process = VEPower(T=SIGMA_MAX)
    table = dpm_solver_pp_multistep(process, problem.sigmas)
    model = ExactModel(law(problem.mixture), process)
    return lambda x: run(table, model, x)


def ancestral(problem: Ancestral) -> Callable[[Array], Array]:
    """DDPM's sampler as a table."""
    process = VPLinear()
    table, model = ddpm(process, problem.times), ExactModel(law(problem.mixture), process)
    return lambda x: run(table, model, x, problem.seed)


def reverse_diffusion(problem: ReverseDiffusion) -> Callable[[Array], Array]:
    """Euler-Maruyama as a table."""
    process = VPLinear()
    table, model = euler_maruyama(process, problem.times), ExactModel(law(problem.mixture), process)
    return lambda x: run(table, model, x, problem.seed)


def flow_map(problem: FlowMap) -> Callable[[Array], Array]:
    """The adaptive flow with steps for each block of particles."""
    model = ExactModel(law(problem.mixture), VEPower(T=SIGMA_MAX))

    def solve(x: Array) -> Array:
        found = flow(model, x, problem.start, problem.end, method="dop853", rtol=problem.rtol, atol=problem.atol)
        return found.x

    return solve


def point_set_score(problem: PointSetScore) -> Callable[[Array], Array]:
    """The score of the exact model of the points."""
    model = ExactModel(Empirical(problem.mixture.means), VEPower(T=SIGMA_MAX))
    return lambda x: model.score(x, problem.sigma)


def log_density(problem: LogDensity) -> Callable[[Array], Array]:
    """The log density at time 0."""
    model = ExactModel(law(problem.mixture), VEPower())
    return lambda x: model.log_density(x, 0.0)


def denoiser(problem: Denoiser) -> Callable[[Array], Array]:
    """The denoiser of the exact model."""
    model = ExactModel(law(problem.mixture), VEPower(T=SIGMA_MAX))
    return lambda x: model.denoiser(x, problem.sigma)


def divergence(problem: Divergence) -> Callable[[Array], Array]:
    """The divergence of the flow's velocity."""
    model = ExactModel(law(problem.mixture), VEPower(T=SIGMA_MAX))
    return lambda x: model.velocity_divergence(x, problem.sigma)


def discrepancy(problem: Discrepancy, of: Callable[[Array], Array] = np.asarray) -> Callable[[Array], Array]:
    """MMD^2 or the energy distance, with the error that comes with it; `of` makes arrays of the points' kind."""
    y, kernel = of(problem.mixture.means), gaussian_kernel(problem.length)

    def solve(x: Array) -> Array:
        found = energy_distance(x, y) if problem.energy else mmd_squared(x, y, kernel)
        return np.array([found.value])

    return solve


def pair_sums(problem: PairSums) -> Callable[[Array], Array]:
    """The rows of a Gaussian kernel, and of its square, which a standard error takes."""
    kernel = gaussian_kernel(np.sqrt(problem.mixture.variances[0]))
    weights = np.exp(problem.mixture.log_weights)
    return lambda x: row_sums(kernel, x, problem.mixture.means, weights)[0]


def entropic_plans(problem: EntropicPlans, of: Callable[[Array], Array] = np.asarray) -> Callable[[Array], Array]:
    """Sinkhorn's turns as far as asked; `of` makes arrays of the points' kind."""
    y = of(problem.mixture.means)
    return lambda x: sinkhorn(x, y, problem.epsilon, tolerance=problem.tolerance).f


def grid_density(problem: GridDensity) -> Callable[[Array], Array]:
    """Finite volumes, TR-BDF2 along the axes by turns; rates are made anew in every run."""
    process = LinearProcess(problem.drift, np.sqrt(2) * np.eye(2), T=1.0)
    grid = Grid([-SIDE, -SIDE], [SIDE, SIDE], problem.start.shape)

    def solve(x: Array) -> Array:
        operator, times = FokkerPlanck.of(process, grid), [0.0, problem.time]
        found = evolve(operator, problem.start, times, step=problem.time / GRID_STEPS, method="tr-bdf2")
        return np.asarray(found.densities[-1].ravel()[problem.places[: len(x)]])

    return solve


SOLVE: Mapping[str, Callable[[Any], Callable[[Array], Array]]] = MappingProxyType(
    {
        "ancestral": ancestral,
        "denoiser": denoiser,
        "discrepancy": discrepancy,
        "divergence": divergence,
        "probability_flow": probability_flow,
        "multistep": multistep,
        "flow_map": flow_map,
        "reverse_diffusion": reverse_diffusion,
        "point_set_score": point_set_score,
        "log_density": log_density,
        "pair_sums": pair_sums,
        "entropic_plans": entropic_plans,
        "grid_density": grid_density,
    }
)
