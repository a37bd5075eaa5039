"""JAX on one device: the programs of `peers_jax` made there, with chunks that fill a GPU; answers stay there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

# before JAX looks: memory that it takes beforehand is missing to the others
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax  # type: ignore[import-not-found,unused-ignore]
import jax.numpy as jnp  # type: ignore[import-not-found,unused-ignore]

from refdiff.validation.benchmarks import formulas, peers_jax
from refdiff.validation.benchmarks.formulas import Arrays
from refdiff.validation.benchmarks.gpu_cupy import TEMPORARIES
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.peers_jax import GENERATORS, Program, _generator, _on_columns
from refdiff.validation.benchmarks.problems import Ancestral, Denoiser, Multistep, Problem, ReverseDiffusion, kind
from refdiff.validation.benchmarks.teams import chunk_sizes, chunks, combinations

jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 where the others compute in float32

TOGETHER = (4096, 65536)  # points of one integration under vmap, whose steps go on until the last point is done


def plain(problem: Problem, threads: int, platform: str = "gpu") -> list[Candidate]:  # noqa: ARG001
    """jit of scan of the formulas."""
    forms = list(formulas.forms(problem.mixture.dim))
    if isinstance(problem, (ReverseDiffusion, Ancestral)):
        forms = [f"{form}, {generator}" for form in forms[1:] or forms for generator in GENERATORS]
    sizes = chunk_sizes(len(problem.x), problem.mixture.count, TEMPORARIES)
    return _candidates(problem, PROGRAMS[kind(problem)], forms, sizes, platform)


def diffrax(problem: Problem, threads: int, platform: str = "gpu") -> list[Candidate]:  # noqa: ARG001
    """diffrax's diffeqsolve of each point."""
    sizes = sorted({min(len(problem.x), size) for size in TOGETHER})
    return _candidates(problem, peers_jax.diffrax_flow, ["Dopri8, vmap", "Dopri5, vmap"], sizes, platform)


def _candidates(
    problem: Any, program: Callable[[Any, str], Program], forms: Sequence[str], sizes: Sequence[int], platform: str
) -> list[Candidate]:
    n, device = len(problem.x), jax.devices(platform)[0]
    with jax.default_device(device):
        x, made = jnp.asarray(problem.x), {form: program(problem, form) for form in forms}

    def build(form: str, size: int, team: int) -> Callable[[int], Any]:  # noqa: ARG001
        with jax.default_device(device):
            key = jax.random.key(getattr(problem, "seed", 0), impl=_generator(form))

        def run(points: int) -> Any:
            with jax.default_device(device):
                parts = chunks(min(n, points), size)
                found = [made[form](x[part], jax.random.fold_in(key, part.start)) for part in parts]
                return jnp.concatenate(found).block_until_ready()

        return run

    return combinations(build, forms, sizes, (1,), n)


def denoiser(problem: Denoiser, form: str) -> Program:
    """E[x_0 | x] of a chunk."""
    law = Arrays.of(problem.mixture, jnp.asarray)
    return _on_columns(lambda x, key: formulas.denoiser(jnp, law, x, problem.sigma, form))


def divergence(problem: Denoiser, form: str) -> Program:
    """The divergence of the velocity on a chunk."""
    law = Arrays.of(problem.mixture, jnp.asarray)
    return _on_columns(lambda x, key: formulas.divergence(jnp, law, x, problem.sigma, form))


def multistep(problem: Multistep, form: str) -> Program:
    """A scan of steps of DPM-Solver++(2M)."""
    law, rows = Arrays.of(problem.mixture, jnp.asarray), jnp.asarray(problem.rows)

    def denoise(x: Any, sigma: Any) -> Any:
        return formulas.denoiser(jnp, law, x, sigma, form)

    def solve(x: Any, key: Any) -> Any:  # noqa: ARG001
        return jax.lax.scan(lambda state, row: (formulas.multistep(denoise, *state, *row), None), (x, x), rows)[0][0]

    return _on_columns(solve)


def ancestral(problem: Ancestral, form: str) -> Program:
    """A scan of DDPM's steps that split their key and draw."""
    law, rows = Arrays.of(problem.mixture, jnp.asarray), jnp.asarray(problem.rows)

    def solve(x: Any, key: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            y, key = state
            key, used = jax.random.split(key)
            s = formulas.score(jnp, law, y, row[0], row[1], form.split(",")[0])
            return (row[2] * y + row[3] * s + row[4] * jax.random.normal(used, y.shape, y.dtype), key), None

        return jax.lax.scan(step, (x, key), rows)[0][0]

    return _on_columns(solve)


PROGRAMS: dict[str, Callable[[Any, str], Program]] = {
    **peers_jax.PROGRAMS,
    "ancestral": ancestral,
    "denoiser": denoiser,
    "divergence": divergence,
    "multistep": multistep,
}
