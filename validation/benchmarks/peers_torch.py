r"""PyTorch: eager and compiled, on chunks; loops in the style of k-diffusion, azula's sampler, and torchsde.

Eager operations are spread over threads by PyTorch, or a team of threads runs chunks with one thread each. What is
compiled is one step: the loop over steps would be unrolled. k-diffusion's loop passes one noise level for each point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]

from refdiff.arguments import Array
from refdiff.validation.benchmarks import formulas
from refdiff.validation.benchmarks.formulas import Arrays
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.problems import (
    LogDensity,
    PairSums,
    PointSetScore,
    ProbabilityFlow,
    Problem,
    ReverseDiffusion,
    kind,
)
from refdiff.validation.benchmarks.teams import chunk_sizes, combinations, in_team

# Components in one product of matrices with all queries: 256 x 2048 logits are 4 MB.
COMPONENTS = (512, 2048, 8192)

Work = Callable[[slice], Any]


def eager(problem: Problem, threads: int) -> list[Candidate]:
    """Operations as they are written."""
    torch.set_num_threads(threads)
    if isinstance(problem, PointSetScore):
        return _point_set(problem)
    return _candidates(problem, threads, WORK[kind(problem)], formulas.forms(problem.mixture.dim), (1, threads))


def compiled(problem: Problem, threads: int) -> list[Candidate]:
    """One step compiled by torch.compile, for chunks of one size and the rest."""
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 64
    forms = [form for form in formulas.forms(problem.mixture.dim) if form != "axes"]
    through = partial(torch.compile, dynamic=False)
    work = partial(WORK[kind(problem)], through=through)
    sizes = chunk_sizes(len(problem.x), problem.mixture.count)[::2]  # each size is compiled: seconds to a minute
    return _candidates(problem, threads, work, forms, (1,), sizes)


def kdiffusion_style(problem: Problem, threads: int) -> list[Candidate]:
    """k-diffusion's loop around a denoiser that takes rows and one noise level for each."""
    torch.set_num_threads(threads)
    forms = [form for form in formulas.forms(problem.mixture.dim) if form != "sums"]
    return _candidates(problem, threads, kdiffusion_loop, forms, (1, threads))


def azula(problem: Problem, threads: int) -> list[Candidate]:
    """azula's HeunSampler around the exact denoiser."""
    torch.set_num_threads(threads)
    forms = [form for form in formulas.forms(problem.mixture.dim) if form != "sums"]
    return _candidates(problem, threads, azula_loop, forms, (1, threads))


def torchsde(problem: Problem, threads: int) -> list[Candidate]:
    """torchsde's sdeint, method euler."""
    torch.set_num_threads(threads)
    forms = [form for form in formulas.forms(problem.mixture.dim) if form != "sums"]
    sizes = chunk_sizes(len(problem.x), problem.mixture.count)[1:]  # its Brownian motion costs as much for few points
    return _candidates(problem, threads, torchsde_solve, forms, (1, threads), sizes)


def _candidates(
    problem: Problem,
    threads: int,
    work: Callable[..., Work],
    forms: Sequence[str],
    teams: Sequence[int],
    sizes: Sequence[int] | None = None,
) -> list[Candidate]:
    n = len(problem.x)

    def build(form: str, size: int, team: int) -> Callable[[int], Array]:
        chunk = work(problem, form)
        return lambda points: _run(chunk, min(n, points), size, team, threads)

    return combinations(build, forms, sizes or chunk_sizes(n, problem.mixture.count), teams, n)


def _run(chunk: Work, n: int, size: int, team: int, threads: int) -> Array:
    """All chunks; a team's threads use one thread each for PyTorch's own operations."""

    def alone(part: slice) -> Any:
        with torch.inference_mode():
            return chunk(part)

    if team == 1:
        return np.asarray(torch.cat(in_team(alone, n, size, 1)))
    torch.set_num_threads(1)
    try:
        return np.asarray(torch.cat(in_team(alone, n, size, team, lambda: torch.set_num_threads(1))))
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------------- work on one chunk

Through = Callable[[Any], Any]


def as_it_is(function: Any) -> Any:
    """Not compiled."""
    return function


def probability_flow(problem: ProbabilityFlow, form: str, through: Through = as_it_is) -> Work:
    """Heun steps on columns."""
    law, x, sigmas = Arrays.of(problem.mixture, torch.tensor), torch.tensor(problem.x), torch.tensor(problem.sigmas)

    def denoise(y: Any, s: Any) -> Any:
        return formulas.denoiser(torch, law, y, s, form)

    last = through(denoise)
    step = through(lambda y, s, t: formulas.heun_step(denoise, y, s, t))

    def work(part: slice) -> Any:
        y = x[part].T.contiguous()
        for s, t in pairwise(sigmas[:-1]):
            y = step(y, s, t)
        return last(y, sigmas[-2]).T

    return work


def reverse_diffusion(problem: ReverseDiffusion, form: str, through: Through = as_it_is) -> Work:
    """Euler-Maruyama on columns, each chunk with its own generator."""
    law, x = Arrays.of(problem.mixture, torch.tensor), torch.tensor(problem.x)
    table = torch.tensor(
        np.stack([-np.diff(problem.times), problem.f, problem.g2, problem.alpha, problem.variance], axis=1)
    )

    def plain(y: Any, row: Any, z: Any) -> Any:
        s = formulas.score(torch, law, y, row[3], row[4], form)
        return formulas.euler_maruyama_step(s, y, row[0], row[1], row[2], z)

    step = through(plain)

    def work(part: slice) -> Any:
        generator = torch.Generator(x.device).manual_seed(problem.seed + part.start)
        y = x[part].T.contiguous()
        for row in table:
            y = step(y, row, torch.randn(y.shape, generator=generator, dtype=y.dtype))
        return y.T

    return work


def log_density(problem: LogDensity, form: str, through: Through = as_it_is) -> Work:
    """log p of a chunk."""
    law, x = Arrays.of(problem.mixture, torch.tensor), torch.tensor(problem.x)
    function = through(lambda y: formulas.log_density(torch, law, y, form))
    return lambda part: function(x[part].T.contiguous())


def pair_sums(problem: PairSums, form: str, through: Through = as_it_is) -> Work:
    """The sums of a chunk."""
    law, x = Arrays.of(problem.mixture, torch.tensor), torch.tensor(problem.x)
    function = through(lambda y: formulas.pair_sums(torch, law, y, form))
    return lambda part: function(x[part].T.contiguous())


WORK: dict[str, Callable[..., Work]] = {
    "probability_flow": probability_flow,
    "reverse_diffusion": reverse_diffusion,
    "log_density": log_density,
    "pair_sums": pair_sums,
}


def _point_set(problem: PointSetScore) -> list[Candidate]:
    """Products of matrices of all queries and some points, with running peaks and sums."""
    points, x, variance = torch.from_numpy(problem.mixture.means), torch.tensor(problem.x), problem.sigma**2
    half = 0.5 * torch.linalg.vecdot(points, points)  # once, as a user who asks often would

    def solve(size: int, n: int) -> Array:
        y = x[:n]
        peak = torch.full((n, 1), -torch.inf, dtype=y.dtype)
        total, mean = torch.zeros_like(peak), torch.zeros_like(y)
        with torch.inference_mode():
            for rows, h in zip(points.split(size), half.split(size), strict=True):
                logits = torch.addmm(-h, y, rows.T).div_(variance)
                higher = torch.maximum(peak, logits.amax(1, keepdim=True))
                e = logits.sub_(higher).exp_()
                scale = (peak - higher).exp()
                total = total * scale + e.sum(1, keepdim=True)
                mean.mul_(scale).addmm_(e, rows)
                peak = higher
            return np.asarray((mean / total - y) / variance)

    sizes = sorted({min(len(points), size) for size in (*COMPONENTS, len(points))})
    return [Candidate(f"matmul, {size} points at a time", partial(solve, size), len(x)) for size in sizes]


# ---------------------------------------------------------------------- other libraries' loops


def kdiffusion_loop(problem: ProbabilityFlow, form: str) -> Work:
    """The loop of k-diffusion's sample_heun without churn: rows, a noise level a point, to_d."""
    law, x, sigmas = Arrays.of(problem.mixture, torch.tensor), torch.tensor(problem.x), torch.tensor(problem.sigmas)

    def model(y: Any, sigma: Any) -> Any:
        return formulas.denoiser(torch, law, y.T, sigma[0], form).T

    def to_d(y: Any, sigma: Any, denoised: Any) -> Any:
        return (y - denoised) / sigma

    def work(part: slice) -> Any:
        y = x[part]
        s_in = y.new_ones([y.shape[0]])
        for i in range(len(sigmas) - 1):
            d = to_d(y, sigmas[i], model(y, sigmas[i] * s_in))
            dt = sigmas[i + 1] - sigmas[i]
            if sigmas[i + 1] == 0:
                y = y + d * dt
            else:
                y_2 = y + d * dt
                d_2 = to_d(y_2, sigmas[i + 1], model(y_2, sigmas[i + 1] * s_in))
                y = y + (d + d_2) / 2 * dt
        return y

    return work


class _Exact:
    """What azula's samplers ask of a denoiser: a schedule of (alpha, sigma), and a posterior with a mean."""

    def __init__(self, problem: ProbabilityFlow, form: str) -> None:
        self.law, self.form = Arrays.of(problem.mixture, torch.tensor), form
        self.sigmas = torch.tensor(problem.sigmas)

    def schedule(self, t: Any) -> tuple[Any, Any]:
        """alpha = 1 and the noise level; azula's time runs from 1 to 0 over the positive noise levels."""
        place = torch.round((1 - t) * (len(self.sigmas) - 2)).long()
        return torch.ones((), dtype=torch.float64), self.sigmas[place]

    def __call__(self, y: Any, t: Any) -> Any:
        from azula.denoise import DiracPosterior  # type: ignore[import-not-found,unused-ignore]

        return DiracPosterior(formulas.denoiser(torch, self.law, y.T, self.schedule(t)[1], self.form).T)


def azula_loop(problem: ProbabilityFlow, form: str) -> Work:
    """azula's HeunSampler over the positive noise levels, and the denoiser: Euler's step to 0."""
    from azula.sample import HeunSampler  # type: ignore[import-not-found,unused-ignore]

    denoiser, x = _Exact(problem, form), torch.tensor(problem.x)
    sampler = HeunSampler(denoiser, steps=len(problem.sigmas) - 2, silent=True, dtype=torch.float64)

    def work(part: slice) -> Any:
        return denoiser(sampler(x[part]), torch.zeros((), dtype=torch.float64)).mean

    return work


class _Reverse:
    """The reverse equation as torchsde wants it: rows, time upward from -T, the noise the same on all axes."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, problem: ReverseDiffusion, form: str) -> None:
        self.law, self.form = Arrays.of(problem.mixture, torch.tensor), form
        self.first, self.h = -float(problem.times[0]), float(-np.diff(problem.times)[0])
        self.table = torch.tensor(np.stack([problem.f, problem.g2, problem.alpha, problem.variance], axis=1))

    def _row(self, t: Any) -> Any:
        return self.table[min(len(self.table) - 1, round((float(t) - self.first) / self.h))]

    def f(self, t: Any, y: Any) -> Any:
        """The drift upward in -t."""
        f, g2, alpha, variance = self._row(t)
        return g2 * formulas.score(torch, self.law, y.T, alpha, variance, self.form).T - f * y

    def g(self, t: Any, y: Any) -> Any:
        """The amplitude of the noise."""
        return self._row(t)[1].sqrt().expand_as(y)


def torchsde_solve(problem: ReverseDiffusion, form: str) -> Work:
    """sdeint with Euler's steps of the grid and its own Brownian motion."""
    from torchsde import sdeint  # type: ignore[import-not-found,unused-ignore]

    equation, x = _Reverse(problem, form), torch.tensor(problem.x)
    ends = torch.tensor([-problem.times[0], -problem.times[-1]])
    # a step too many, of rounding's size, would come of a step that is too short
    step = float(np.nextafter(equation.h, 1))

    def work(part: slice) -> Any:
        return sdeint(equation, x[part], ends, method="euler", dt=step)[-1]

    return work
