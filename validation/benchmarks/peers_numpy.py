r"""NumPy and SciPy: the plain implementation that everyone could write, and the reference answers.

Points are done in chunks whose (K, n) temporaries stay in cache. The reference answers are those of the forms
`axes` and `cdist`, which subtract before they square and lose nothing; for the flow map they are of a tolerance far
below the asked one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from refdiff.arguments import Array
from refdiff.validation.benchmarks import formulas, peers_grid, peers_transport
from refdiff.validation.benchmarks.formulas import Arrays
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.problems import (
    Ancestral,
    EntropicPlans,
    FlowMap,
    GridDensity,
    LogDensity,
    PairSums,
    PointSetScore,
    ProbabilityFlow,
    Problem,
    ReverseDiffusion,
    kind,
)
from refdiff.validation.benchmarks.teams import chunk_sizes, combinations, in_team

# SciPy's solvers refuse 100 roundings and less; at so many points one integration takes seconds.
REFERENCE_RTOL, REFERENCE_POINTS = 1e-13, 64
# Points whose steps are chosen together: few waste no steps on each other, many pay less for Python.
TOGETHER = (64, 512, 4096)

Solve = Callable[[Problem, slice, str], Array]


def candidates(problem: Problem, threads: int) -> list[Candidate]:
    """NumPy's ways to do a problem."""
    n = len(problem.x)
    if isinstance(problem, PointSetScore):  # all logits at once, which are few
        return [Candidate("matrix products", lambda points: point_set_score(problem, slice(0, points)), n)]
    solve = SOLVE[kind(problem)]

    def build(form: str, size: int, team: int) -> Callable[[int], Array]:
        return lambda points: np.concatenate(
            in_team(lambda part: solve(problem, part, form), min(n, points), size, team)
        )

    sizes = chunk_sizes(n, problem.mixture.count)
    chosen = [form for form in formulas.forms(problem.mixture.dim) if form != "sums"]
    if isinstance(problem, FlowMap):
        chosen, sizes = chosen[:1], sorted({min(n, size) for size in TOGETHER})
    return combinations(build, chosen, sizes, (1, threads), n)


def scipy_candidates(problem: Problem, threads: int) -> list[Candidate]:
    """SciPy's own functions where it has them."""
    if not isinstance(problem, (LogDensity, PairSums)):  # solve_ivp on NumPy's formulas is all that SciPy adds
        return candidates(problem, threads)
    n, mixture = len(problem.x), problem.mixture
    weights, summed = np.exp(mixture.log_weights), isinstance(problem, PairSums)

    def part(rows: slice) -> Array:
        logits = cdist(problem.x[rows], mixture.means, "sqeuclidean")
        logits *= -0.5 / mixture.variances
        if summed:
            return np.asarray(np.exp(logits, out=logits) @ weights)
        logits += mixture.log_weights - mixture.dim / 2 * np.log(2 * np.pi * mixture.variances)
        return np.asarray(logsumexp(logits, axis=1))

    def build(form: str, size: int, team: int) -> Callable[[int], Array]:  # noqa: ARG001
        return lambda points: np.concatenate(in_team(part, min(n, points), size, team))

    return combinations(
        build, ["cdist" if summed else "cdist, logsumexp"], chunk_sizes(n, mixture.count), (1, threads), n
    )


def reference(problem: Problem, threads: int) -> Array:
    """The answer, or that for the first points, by the most accurate route."""
    if isinstance(problem, GridDensity):
        return peers_grid.closed(problem)
    if isinstance(problem, EntropicPlans):
        return peers_transport.reference(problem)
    if isinstance(problem, PointSetScore):
        return point_set_score(problem, slice(0, len(problem.x)))
    if isinstance(problem, FlowMap):
        return flow_map(problem, slice(0, REFERENCE_POINTS), "axes", REFERENCE_RTOL)
    if isinstance(problem, (ReverseDiffusion, Ancestral)):  # a sample that is independent of NumPy's as a contender
        problem = replace(problem, seed=problem.seed + 1)
    n, solve = len(problem.x), SOLVE[kind(problem)]
    size, form = (
        chunk_sizes(n, problem.mixture.count)[0],
        "axes" if problem.mixture.dim <= formulas.FEW_AXES else "cdist",
    )
    return np.concatenate(in_team(lambda part: solve(problem, part, form), n, size, threads))


# ---------------------------------------------------------------------- one chunk of each problem


def probability_flow(problem: ProbabilityFlow, part: slice, form: str) -> Array:
    """Heun steps, and Euler's to sigma = 0, which is the denoiser."""
    denoise = partial(_denoise, Arrays.of(problem.mixture, np.asarray), form)
    x, sigmas = np.ascontiguousarray(problem.x[part].T), problem.sigmas
    for s, t in pairwise(sigmas[:-1]):
        x = formulas.heun_step(denoise, x, s, t)
    return np.asarray(denoise(x, sigmas[-2]).T)


def flow_map(problem: FlowMap, part: slice, form: str, rtol: float | None = None) -> Array:
    """SciPy's DOP853 on a chunk, whose points share their steps.

    Raises:
        RuntimeError: SciPy gives up.
    """
    denoise = partial(_denoise, Arrays.of(problem.mixture, np.asarray), form)
    rows = problem.x[part]
    shape = rows.T.shape

    def velocity(sigma: float, y: Array) -> Array:
        x = y.reshape(shape)
        return np.asarray((x - denoise(x, sigma)) / sigma).ravel()

    found = solve_ivp(
        velocity,
        (problem.start, problem.end),
        rows.T.ravel(),
        method="DOP853",
        t_eval=[problem.end],
        rtol=problem.rtol if rtol is None else rtol,
        atol=problem.atol if rtol is None else rtol,
    )
    if not found.success:
        raise RuntimeError(f"solve_ivp: {found.message}")
    return np.asarray(found.y[:, -1].reshape(shape).T)


def reverse_diffusion(problem: ReverseDiffusion, part: slice, form: str) -> Array:
    """Euler-Maruyama with normals of the chunk's own generator."""
    law = Arrays.of(problem.mixture, np.asarray)
    rng = np.random.default_rng([problem.seed, part.start])
    x = np.ascontiguousarray(problem.x[part].T)
    steps = -np.diff(problem.times)
    for h, alpha, variance, f, g2 in zip(steps, problem.alpha, problem.variance, problem.f, problem.g2, strict=True):
        s = formulas.score(np, law, x, alpha, variance, form)
        x = formulas.euler_maruyama_step(s, x, h, f, g2, rng.standard_normal(x.shape))
    return np.asarray(x.T)


def ancestral(problem: Ancestral, part: slice, form: str) -> Array:
    """DDPM's steps with normals of the chunk's own generator."""
    law, rng = Arrays.of(problem.mixture, np.asarray), np.random.default_rng([problem.seed, part.start])
    x = np.ascontiguousarray(problem.x[part].T)
    for alpha, variance, kept, moved, added in problem.rows:
        s = formulas.score(np, law, x, alpha, variance, form)
        x = kept * x + moved * s + added * rng.standard_normal(x.shape)
    return np.asarray(x.T)


def log_density(problem: LogDensity, part: slice, form: str) -> Array:
    """log p of a chunk."""
    law = Arrays.of(problem.mixture, np.asarray)
    return np.asarray(formulas.log_density(np, law, np.ascontiguousarray(problem.x[part].T), form))


def pair_sums(problem: PairSums, part: slice, form: str) -> Array:
    """The sums of a chunk."""
    law = Arrays.of(problem.mixture, np.asarray)
    return np.asarray(formulas.pair_sums(np, law, np.ascontiguousarray(problem.x[part].T), form))


def point_set_score(problem: PointSetScore, part: slice) -> Array:
    """(sum_k r_k m_k - x) / sigma^2 with |m|^2 - 2 x.m by products of matrices; all logits are kept, n x K numbers."""
    x, points, variance = problem.x[part], problem.mixture.means, problem.sigma**2
    logits = x @ points.T
    logits -= 0.5 * np.einsum("kd,kd->k", points, points)
    logits /= variance
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return np.asarray((logits @ points - x) / variance)


def _denoise(law: Arrays, form: str, x: Array, sigma: float) -> Any:
    return formulas.denoiser(np, law, x, sigma, form)


SOLVE: dict[str, Callable[..., Array]] = {
    "probability_flow": probability_flow,
    "flow_map": flow_map,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "log_density": log_density,
    "pair_sums": pair_sums,
}
