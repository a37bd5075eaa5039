"""PyTorch on one device: the programs of `peers_torch` made there, with chunks that fill a GPU; answers stay there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]

from refdiff.validation.benchmarks import formulas, peers_torch
from refdiff.validation.benchmarks.formulas import Arrays
from refdiff.validation.benchmarks.gpu_cupy import TEMPORARIES
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.peers_torch import Through, Work, as_it_is
from refdiff.validation.benchmarks.problems import (
    Ancestral,
    Denoiser,
    Discrepancy,
    Multistep,
    PointSetScore,
    Problem,
    kind,
)
from refdiff.validation.benchmarks.teams import chunk_sizes, chunks, combinations


def eager(problem: Problem, threads: int, device: str = "cuda") -> list[Candidate]:  # noqa: ARG001
    """Operations as they are written."""
    forms = [form for form in formulas.forms(problem.mixture.dim) if form != "sums"]
    return _candidates(problem, device, forms, as_it_is, TEMPORARIES)


def compiled(problem: Problem, threads: int, device: str = "cuda") -> list[Candidate]:  # noqa: ARG001
    """One step compiled by torch.compile."""
    torch._dynamo.config.recompile_limit = 64
    forms = [form for form in formulas.forms(problem.mixture.dim) if form != "axes"]
    return _candidates(problem, device, forms, partial(torch.compile, dynamic=False), TEMPORARIES[::2])


def _candidates(
    problem: Problem, device: str, forms: Sequence[str], through: Through, temporaries: Sequence[int]
) -> list[Candidate]:
    n, work = len(problem.x), WORK[kind(problem)]
    if isinstance(problem, Discrepancy):  # as gpu_cupy: differences where roots of small numbers are taken
        forms = ["axes"] if problem.energy else [form for form in forms if form != "sums"]

    def build(form: str, size: int, team: int) -> Callable[[int], Any]:  # noqa: ARG001
        with torch.device(device):
            chunk = work(problem, form, through)

        def run(points: int) -> Any:
            with torch.inference_mode(), torch.device(device):
                found = [chunk(part) for part in chunks(min(n, points), size)]
                answer = sum(found) if isinstance(problem, Discrepancy) else torch.cat(found)
            if device == "cuda":
                torch.cuda.synchronize()
            return answer

        return run

    if isinstance(problem, PointSetScore):
        forms = ["matmul"]
    ways = combinations(build, forms, chunk_sizes(n, problem.mixture.count, temporaries), (1,), n)
    return [one._replace(least=n) for one in ways] if isinstance(problem, Discrepancy) else ways


def denoiser(problem: Denoiser, form: str, through: Through = as_it_is) -> Work:
    """E[x_0 | x] of a chunk."""
    law, x = Arrays.of(problem.mixture, torch.tensor), torch.tensor(problem.x)
    function = through(lambda y: formulas.denoiser(torch, law, y, problem.sigma, form))
    return lambda part: function(x[part].T.contiguous()).T


def divergence(problem: Denoiser, form: str, through: Through = as_it_is) -> Work:
    """The divergence of the velocity on a chunk."""
    law, x = Arrays.of(problem.mixture, torch.tensor), torch.tensor(problem.x)
    function = through(lambda y: formulas.divergence(torch, law, y, problem.sigma, form))
    return lambda part: function(x[part].T.contiguous())


def multistep(problem: Multistep, form: str, through: Through = as_it_is) -> Work:
    """Steps of DPM-Solver++(2M) on columns."""
    law, x, rows = Arrays.of(problem.mixture, torch.tensor), torch.tensor(problem.x), torch.tensor(problem.rows)

    def denoise(y: Any, s: Any) -> Any:
        return formulas.denoiser(torch, law, y, s, form)

    step = through(lambda y, before, row: formulas.multistep(denoise, y, before, row[0], row[1], row[2]))

    def work(part: slice) -> Any:
        y = before = x[part].T.contiguous()
        for row in rows:
            y, before = step(y, before, row)
        return y.T

    return work


def ancestral(problem: Ancestral, form: str, through: Through = as_it_is) -> Work:
    """DDPM's steps on columns, each chunk with its own generator."""
    law, x, rows = Arrays.of(problem.mixture, torch.tensor), torch.tensor(problem.x), torch.tensor(problem.rows)

    def plain(y: Any, row: Any, z: Any) -> Any:
        return row[2] * y + row[3] * formulas.score(torch, law, y, row[0], row[1], form) + row[4] * z

    step = through(plain)

    def work(part: slice) -> Any:
        generator = torch.Generator(x.device).manual_seed(problem.seed + part.start)
        y = x[part].T.contiguous()
        for row in rows:
            y = step(y, row, torch.randn(y.shape, generator=generator, dtype=y.dtype))
        return y.T

    return work


def point_set_score(problem: PointSetScore, form: str, through: Through = as_it_is) -> Work:  # noqa: ARG001
    """All logits of a chunk by a product, and a product back."""
    points, x, variance = torch.tensor(problem.mixture.means), torch.tensor(problem.x), float(problem.sigma) ** 2
    half = 0.5 * (points * points).sum(1)

    def score(y: Any) -> Any:
        r = torch.softmax(torch.addmm(-half, y, points.T) / variance, 1)
        return (r @ points - y) / variance

    function = through(score)
    return lambda part: function(x[part])


def discrepancy(problem: Discrepancy, form: str, through: Through = as_it_is) -> Work:
    """A chunk of rows' part of the sums of all pairs."""
    x, y = torch.tensor(problem.x).T.contiguous(), torch.tensor(problem.mixture.means).T.contiguous()
    n, alone = len(problem.x), 0.0 if problem.energy else 1.0

    def total(a: Any, b: Any) -> Any:
        return formulas.kernel_rows(torch, a, b, problem.length, problem.energy, form).sum()

    sums = through(lambda a, b: (total(a, x) + total(b, y)) / (n * (n - 1)) - 2 * total(a, y) / n**2)

    def work(part: slice) -> Any:
        a, b = x[:, part], y[:, part]
        return (sums(a, b) - 2 * alone * a.shape[1] / (n * (n - 1))).reshape(1)

    return work


WORK: dict[str, Callable[..., Work]] = {
    "ancestral": ancestral,
    "denoiser": denoiser,
    "discrepancy": discrepancy,
    "divergence": divergence,
    "log_density": peers_torch.log_density,
    "multistep": multistep,
    "point_set_score": point_set_score,
    "probability_flow": peers_torch.probability_flow,
    "reverse_diffusion": peers_torch.reverse_diffusion,
}
