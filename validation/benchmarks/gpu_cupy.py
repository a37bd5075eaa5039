"""The formulas on arrays of CuPy, what everyone could write without a kernel, in chunks whose temporaries fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

from refdiff.kernels.cuda.device import cupy
from refdiff.validation.benchmarks import formulas
from refdiff.validation.benchmarks.formulas import Arrays
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.problems import (
    Ancestral,
    Denoiser,
    Discrepancy,
    EntropicPlans,
    LogDensity,
    Multistep,
    PointSetScore,
    ProbabilityFlow,
    Problem,
    ReverseDiffusion,
    kind,
)
from refdiff.validation.benchmarks.teams import chunk_sizes, chunks, combinations

# Numbers of the largest temporary: 32 MB, which second-level caches hold, to 512 MB of float64
TEMPORARIES = (1 << 22, 1 << 24, 1 << 26)
MOST_PAIRS = 1 << 28  # costs held as a matrix
TURNS, EVERY = 20_000, 10  # Sinkhorn's turns at most, and after how many the marginal error is looked at

Solve = Callable[[Any, str], Any]  # (rows on the device, form) -> answers


def candidates(problem: Problem, threads: int) -> list[Candidate]:  # noqa: ARG001
    """CuPy's ways to do a problem."""
    xp, n = cupy(), len(problem.x)
    x, solve = xp.asarray(problem.x), SOLVE[kind(problem)](problem)
    if isinstance(problem, (Discrepancy, EntropicPlans)):  # of all points together
        return [Candidate(form, partial(_whole, solve, x, form), n) for form in _forms(problem)]

    def build(form: str, size: int, team: int) -> Callable[[int], Any]:  # noqa: ARG001
        return lambda points: xp.concatenate([solve(x[part], form) for part in chunks(min(n, points), size)])

    return combinations(build, _forms(problem), chunk_sizes(n, problem.mixture.count, TEMPORARIES), (1,), n)


def _whole(solve: Solve, x: Any, form: str, points: int) -> Any:  # noqa: ARG001
    return solve(x, form)


def _forms(problem: Problem) -> list[str]:
    if isinstance(problem, (PointSetScore, EntropicPlans)):
        return ["matmul"]
    if isinstance(problem, Discrepancy) and problem.energy:  # a point's distance to itself is 0 by differences only
        return ["axes"]
    return [form for form in formulas.forms(problem.mixture.dim) if form != "sums"]


def _law(problem: Problem) -> Arrays:
    return Arrays.of(problem.mixture, cupy().asarray)


def denoiser(problem: Denoiser) -> Solve:
    """E[x_0 | x]."""
    xp, law = cupy(), _law(problem)
    return lambda x, form: formulas.denoiser(xp, law, x.T, problem.sigma, form).T


def divergence(problem: Denoiser) -> Solve:
    """The divergence of the velocity."""
    xp, law = cupy(), _law(problem)
    return lambda x, form: formulas.divergence(xp, law, x.T, problem.sigma, form)


def log_density(problem: LogDensity) -> Solve:
    """log p."""
    xp, law = cupy(), _law(problem)
    return lambda x, form: formulas.log_density(xp, law, x.T, form)


def probability_flow(problem: ProbabilityFlow) -> Solve:
    """Heun steps on columns."""
    xp, law, sigmas = cupy(), _law(problem), [float(sigma) for sigma in problem.sigmas]

    def solve(x: Any, form: str) -> Any:
        def denoise(y: Any, sigma: float) -> Any:
            return formulas.denoiser(xp, law, y, sigma, form)

        y = xp.ascontiguousarray(x.T)
        for s, t in pairwise(sigmas[:-1]):
            y = formulas.heun_step(denoise, y, s, t)
        return denoise(y, sigmas[-2]).T

    return solve


def multistep(problem: Multistep) -> Solve:
    """Steps of DPM-Solver++(2M) on columns."""
    xp, law, rows = cupy(), _law(problem), problem.rows.tolist()

    def solve(x: Any, form: str) -> Any:
        def denoise(y: Any, sigma: float) -> Any:
            return formulas.denoiser(xp, law, y, sigma, form)

        y = before = xp.ascontiguousarray(x.T)
        for row in rows:
            y, before = formulas.multistep(denoise, y, before, *row)
        return y.T

    return solve


def ancestral(problem: Ancestral) -> Solve:
    """DDPM's steps on columns, with CuPy's generator."""
    xp, law, rows = cupy(), _law(problem), problem.rows.tolist()
    rng = xp.random.default_rng(problem.seed)

    def solve(x: Any, form: str) -> Any:
        y = xp.ascontiguousarray(x.T)
        for alpha, variance, kept, moved, added in rows:
            s = formulas.score(xp, law, y, alpha, variance, form)
            y = kept * y + moved * s + added * rng.standard_normal(y.shape, dtype=y.dtype)
        return y.T

    return solve


def reverse_diffusion(problem: ReverseDiffusion) -> Solve:
    """Euler-Maruyama on columns, with CuPy's generator."""
    xp, law = cupy(), _law(problem)
    rng = xp.random.default_rng(problem.seed)
    steps = (problem.times[:-1] - problem.times[1:], problem.alpha, problem.variance, problem.f, problem.g2)
    rows = [[float(value) for value in row] for row in zip(*steps, strict=True)]

    def solve(x: Any, form: str) -> Any:
        y = xp.ascontiguousarray(x.T)
        for h, alpha, variance, f, g2 in rows:
            s = formulas.score(xp, law, y, alpha, variance, form)
            y = formulas.euler_maruyama_step(s, y, h, f, g2, rng.standard_normal(y.shape, dtype=y.dtype))
        return y.T

    return solve


def point_set_score(problem: PointSetScore) -> Solve:
    """All logits of a chunk by a product, and a product back."""
    xp, variance = cupy(), float(problem.sigma) ** 2
    points = xp.asarray(problem.mixture.means)
    half = 0.5 * (points * points).sum(1)

    def solve(x: Any, form: str) -> Any:  # noqa: ARG001
        logits = (xp.matmul(x, points.T) - half) / variance
        e = xp.exp(logits - xp.amax(logits, 1)[:, None])
        return (xp.matmul(e, points) / e.sum(1)[:, None] - x) / variance

    return solve


def discrepancy(problem: Discrepancy) -> Solve:
    """Sums of all pairs, a chunk of rows at a time."""
    xp, y = cupy(), cupy().asarray(problem.mixture.means).T
    n = len(problem.x)
    alone = 0.0 if problem.energy else 1.0  # k(x, x)

    def total(a: Any, b: Any, form: str) -> float:
        sums = [
            formulas.kernel_rows(xp, a[:, part], b, problem.length, problem.energy, form).sum()
            for part in chunks(n, chunk_sizes(n, n, TEMPORARIES)[-1])
        ]
        return float(sum(float(one) for one in sums))

    def solve(x: Any, form: str) -> Any:
        columns = xp.ascontiguousarray(x.T)
        within = sum((total(a, a, form) - n * alone) / (n * (n - 1)) for a in (columns, y))
        return xp.asarray([within - 2 * total(columns, y, form) / n**2])

    return solve


def entropic_plans(problem: EntropicPlans) -> Solve:
    """Turns in logarithms on a matrix of costs that is held.

    Raises:
        MemoryError: the matrix is too large to be held.
        RuntimeError: it does not end.
    """
    xp, y, epsilon = cupy(), cupy().asarray(problem.mixture.means), problem.epsilon
    n, m = len(problem.x), len(problem.mixture.means)
    if n * m > MOST_PAIRS:
        raise MemoryError(f"a matrix of {n} x {m} costs takes {8 * n * m / 1e9:.0f} GB")

    def soft(logits: Any, axis: int) -> Any:
        top = xp.amax(logits, axis, keepdims=True)
        return xp.ravel(top + xp.log(xp.exp(logits - top).sum(axis, keepdims=True)))

    def solve(x: Any, form: str) -> Any:  # noqa: ARG001
        costs = 0.5 * ((x * x).sum(1)[:, None] + (y * y).sum(1)) - xp.matmul(x, y.T)
        costs *= -1 / epsilon
        g = xp.zeros(m, dtype=x.dtype)
        for turn in range(TURNS):
            f = -soft(costs + (g - math.log(m)), 1)
            new = -soft(costs + (f - math.log(n))[:, None], 0)
            if turn % EVERY == 0 and float(abs(1 - xp.exp(g - new)).mean()) <= problem.tolerance:
                return epsilon * (f - 0.5 * (f.mean() - g.mean()))
            g = new
        raise RuntimeError(f"it does not end in {TURNS} turns")

    return solve


SOLVE: dict[str, Callable[[Any], Solve]] = {
    "ancestral": ancestral,
    "denoiser": denoiser,
    "discrepancy": discrepancy,
    "divergence": divergence,
    "entropic_plans": entropic_plans,
    "log_density": log_density,
    "multistep": multistep,
    "point_set_score": point_set_score,
    "probability_flow": probability_flow,
    "reverse_diffusion": reverse_diffusion,
}
