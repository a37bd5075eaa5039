r"""JAX on the CPU: jit, scan over steps, vmap over points or the formulas on columns; diffrax's solvers.

One program does a chunk from the first step to the last. XLA spreads large operations over threads; for small chunks
a team of threads calls the program side by side. Random bits are drawn inside, by Threefry or by the cheaper Philox.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax  # type: ignore[import-not-found,unused-ignore]
import jax.numpy as jnp  # type: ignore[import-not-found,unused-ignore]
import numpy as np

from refdiff.arguments import Array
from refdiff.validation.benchmarks import formulas
from refdiff.validation.benchmarks.formulas import Arrays
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.problems import FlowMap, LogDensity, ProbabilityFlow, Problem, ReverseDiffusion, kind
from refdiff.validation.benchmarks.teams import chunk_sizes, combinations, in_team

jax.config.update("jax_enable_x64", True)

# (points, key) -> results, a jitted function of rows
Program = Callable[[Any, Any], Any]

GENERATORS = ("threefry2x32", "rbg")
# Points of one integration: with vmap each has its own steps, but all wait for the last one of the chunk.
TOGETHER = (16, 256, 4096)
MAX_STEPS = 1 << 14


def plain(problem: Problem, threads: int) -> list[Candidate]:
    """jit of scan of the formulas."""
    jax.config.update("jax_platforms", "cpu")
    forms = [*formulas.forms(problem.mixture.dim), "vmap"]
    if isinstance(problem, ReverseDiffusion):
        forms = [f"{form}, {generator}" for form in forms[1:] for generator in GENERATORS]
    sizes = chunk_sizes(len(problem.x), problem.mixture.count)
    return _candidates(problem, PROGRAMS[kind(problem)], forms, sizes, (1, threads))


def diffrax(problem: Problem, threads: int) -> list[Candidate]:
    """diffrax's diffeqsolve."""
    jax.config.update("jax_platforms", "cpu")
    n = len(problem.x)
    if isinstance(problem, FlowMap):
        forms = [f"{solver}, {how}" for solver in ("Dopri8", "Dopri5") for how in ("vmap", "shared steps")]
        return _candidates(problem, diffrax_flow, forms, sorted({min(n, s) for s in TOGETHER}), (1, threads))
    forms = [f"sums, {generator}" for generator in GENERATORS]
    return _candidates(problem, diffrax_sde, forms, chunk_sizes(n, problem.mixture.count), (1, threads))


def _candidates(
    problem: Any,
    program: Callable[[Any, str], Program],
    forms: Sequence[str],
    sizes: Sequence[int],
    teams: Sequence[int],
) -> list[Candidate]:
    n, made = len(problem.x), {form: program(problem, form) for form in forms}

    def build(form: str, size: int, team: int) -> Callable[[int], Array]:
        function = made[form]
        keys = jax.random.split(jax.random.key(getattr(problem, "seed", 0), impl=_generator(form)), n)

        def chunk(part: slice) -> Array:
            return np.asarray(function(problem.x[part], keys[part.start]))

        return lambda points: np.concatenate(in_team(chunk, min(n, points), size, team))

    return combinations(build, forms, sizes, teams, n)


def _generator(form: str) -> str:
    return next((name for name in GENERATORS if name in form), GENERATORS[0])


def _on_columns(solve: Callable[[Any, Any], Any]) -> Program:
    """A program of rows from one of columns."""
    return jax.jit(lambda x, key: solve(x.T, key).T)  # type: ignore[no-any-return,unused-ignore]


# ---------------------------------------------------------------------- plain JAX


def probability_flow(problem: ProbabilityFlow, form: str) -> Program:
    """A scan of Heun steps; of one point under vmap where the form says so."""
    law, sigmas = Arrays.of(problem.mixture, jnp.asarray), jnp.asarray(problem.sigmas)

    def denoise(x: Any, s: Any) -> Any:
        return _one_denoiser(law, x, s) if form == "vmap" else formulas.denoiser(jnp, law, x, s, form)

    def solve(x: Any, key: Any) -> Any:  # noqa: ARG001
        pairs = jnp.stack([sigmas[:-2], sigmas[1:-1]], axis=1)
        x = jax.lax.scan(lambda y, p: (formulas.heun_step(denoise, y, p[0], p[1]), None), x, pairs)[0]
        return denoise(x, sigmas[-2])

    return jax.jit(jax.vmap(solve, (0, None))) if form == "vmap" else _on_columns(solve)


def _one_denoiser(law: Arrays, x: Any, sigma: Any) -> Any:
    """E[x_0 | x] of one point (d,)."""
    spread = law.variances + sigma * sigma
    apart = x - law.means
    logits = law.log_weights - law.means.shape[1] / 2 * jnp.log(spread) - 0.5 * (apart * apart).sum(1) / spread
    r = jax.nn.softmax(logits)
    return r @ (law.means + (law.variances / spread)[:, None] * apart)


def _one_score(law: Arrays, x: Any, alpha: Any, variance: Any) -> Any:
    """grad log p of one point (d,)."""
    spread = alpha * alpha * law.variances + variance
    apart = x - alpha * law.means
    logits = law.log_weights - law.means.shape[1] / 2 * jnp.log(spread) - 0.5 * (apart * apart).sum(1) / spread
    return -(jax.nn.softmax(logits) / spread) @ apart


def reverse_diffusion(problem: ReverseDiffusion, form: str) -> Program:
    """A scan of Euler-Maruyama steps that split their key and draw."""
    law, single = Arrays.of(problem.mixture, jnp.asarray), form.startswith("vmap")
    steps = -np.diff(problem.times)
    table = jnp.asarray(np.stack([steps, problem.f, problem.g2, problem.alpha, problem.variance], axis=1))

    def score(x: Any, alpha: Any, variance: Any) -> Any:
        if single:
            return jax.vmap(_one_score, (None, 1, None, None), 1)(law, x, alpha, variance)
        return formulas.score(jnp, law, x, alpha, variance, form.split(",")[0])

    def solve(x: Any, key: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            y, key = state
            key, used = jax.random.split(key)
            z = jax.random.normal(used, y.shape, y.dtype)
            s = score(y, row[3], row[4])
            return (formulas.euler_maruyama_step(s, y, row[0], row[1], row[2], z), key), None

        return jax.lax.scan(step, (x, key), table)[0][0]

    return _on_columns(solve)


def log_density(problem: LogDensity, form: str) -> Program:
    """log p of a chunk."""
    law = Arrays.of(problem.mixture, jnp.asarray)

    def one(x: Any) -> Any:
        spread, apart = law.variances, x - law.means
        logits = law.log_weights - law.means.shape[1] / 2 * jnp.log(2 * jnp.pi * spread)
        return jax.nn.logsumexp(logits - 0.5 * (apart * apart).sum(1) / spread)

    if form == "vmap":
        return jax.jit(lambda x, key: jax.vmap(one)(x))  # type: ignore[no-any-return,unused-ignore]
    return jax.jit(lambda x, key: formulas.log_density(jnp, law, x.T, form))  # type: ignore[no-any-return,unused-ignore]


PROGRAMS: dict[str, Callable[[Any, str], Program]] = {
    "probability_flow": probability_flow,
    "reverse_diffusion": reverse_diffusion,
    "log_density": log_density,
}


# ---------------------------------------------------------------------- diffrax


def diffrax_flow(problem: FlowMap, variant: str) -> Program:
    """An adaptive Runge-Kutta pair, one point at a time under vmap, or with steps shared by the chunk."""
    import diffrax as dx  # type: ignore[import-not-found,unused-ignore]

    solver, how = variant.split(", ")
    law = Arrays.of(problem.mixture, jnp.asarray)
    form = "sums" if problem.mixture.dim <= formulas.FEW_AXES else "matmul"
    control = dx.PIDController(rtol=problem.rtol, atol=problem.atol)

    def velocity(sigma: Any, x: Any, args: Any) -> Any:  # noqa: ARG001
        found = _one_denoiser(law, x, sigma) if how == "vmap" else formulas.denoiser(jnp, law, x, sigma, form)
        return (x - found) / sigma

    def solve(x: Any, key: Any) -> Any:  # noqa: ARG001
        return dx.diffeqsolve(
            dx.ODETerm(velocity),
            getattr(dx, solver)(),
            problem.start,
            problem.end,
            None,  # the controller's own first step
            x,
            stepsize_controller=control,
            max_steps=MAX_STEPS,
        ).ys[0]

    return jax.jit(jax.vmap(solve, (0, None))) if how == "vmap" else _on_columns(solve)


def diffrax_sde(problem: ReverseDiffusion, form: str) -> Program:
    """Euler-Maruyama with UnsafeBrownianPath, the one of diffrax's paths that only draws."""
    import diffrax as dx
    import lineax as lx  # type: ignore[import-not-found,unused-ignore]

    law, count = Arrays.of(problem.mixture, jnp.asarray), len(problem.times) - 1
    first, h = float(problem.times[0]), float(-np.diff(problem.times)[0])
    table = jnp.asarray(np.stack([problem.f, problem.g2, problem.alpha, problem.variance], axis=1))
    distances = form.split(",")[0]

    def row(t: Any) -> Any:
        """The coefficients at a time of the grid."""
        return table[jnp.clip(jnp.round((first - t) / h).astype(int), 0, count - 1)]

    def solve(x: Any, key: Any) -> Any:
        shape = x.shape

        def drift(t: Any, y: Any, args: Any) -> Any:  # noqa: ARG001
            f, g2, alpha, variance = row(t)
            z = y.reshape(shape)
            return (f * z - g2 * formulas.score(jnp, law, z, alpha, variance, distances)).ravel()

        def amplitude(t: Any, y: Any, args: Any) -> Any:  # noqa: ARG001
            return lx.DiagonalLinearOperator(jnp.full(y.shape, jnp.sqrt(row(t)[1])))

        path = dx.UnsafeBrownianPath((x.size,), key)
        terms = dx.MultiTerm(dx.ODETerm(drift), dx.ControlTerm(amplitude, path))
        found = dx.diffeqsolve(
            terms,
            dx.Euler(),
            first,
            float(problem.times[-1]),
            None,
            x.ravel(),
            stepsize_controller=dx.StepTo(jnp.asarray(problem.times)),
            adjoint=dx.DirectAdjoint(),
            max_steps=count,
        )
        return found.ys[0].reshape(shape)

    return _on_columns(solve)
