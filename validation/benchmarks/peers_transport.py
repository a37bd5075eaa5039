r"""Entropic plans of points by other libraries, and by scaling a matrix that is held.

SciPy      u = 1 / K (b v),  v = 1 / K' (a u) with K = exp(-c / eps), products by BLAS: the reference
POT        ot.bregman.sinkhorn_log on a matrix of costs, and ot.bregman.empirical_sinkhorn without one
OTT        a PointCloud in logarithms, whole or in batches, plain or with its momentum
geomloss   its softmin, on tensors or on KeOps' lazy ones, in turns

All stop at the same sum of marginal errors, as near as they let one say so: POT tests the Euclidean norm, which of n
equal errors is 1 / sqrt(n) of the sum, every ten iterations; OTT the sum, every five or ten; geomloss' softmin is given
the test of refdiff, which costs nothing. Costs are half of squared distances.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from refdiff.arguments import Array
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.problems import EntropicPlans

MOST = 100_000  # iterations
FINE = 1e-3  # of the tolerance: where the reference stops
LARGEST = 2**25  # pairs of points that libraries with matrices are asked for


def _potentials(f: Any, g: Any) -> Array:
    """f of the pair (f, g) whose means, over points of equal weight, are equal."""
    f, g = np.asarray(f, dtype=float), np.asarray(g, dtype=float)
    return np.asarray(f - 0.5 * (f.mean() - g.mean()))


def _costs(problem: EntropicPlans, n: int) -> Array:
    costs = np.asarray(cdist(problem.x[:n], problem.mixture.means, "sqeuclidean"))
    costs *= 0.5
    return costs


def reference(problem: EntropicPlans) -> Array:
    """Scaling to a finer tolerance."""
    return _scaling(problem, FINE * problem.tolerance, len(problem.x))


def scipy_candidates(problem: EntropicPlans, threads: int) -> list[Candidate]:  # noqa: ARG001
    """Scaling; threads are those of BLAS."""
    return [Candidate("", partial(_scaling, problem, problem.tolerance), len(problem.x))]


def _scaling(problem: EntropicPlans, tolerance: float, n: int) -> Array:
    """Scaling of a matrix whose rows are first scaled to a maximum of 1.

    Raises:
        RuntimeError: it does not end, or numbers run out.
    """
    kernel = _costs(problem, n)
    kernel *= -1 / problem.epsilon
    least = kernel.max(axis=1)
    kernel -= least[:, None]
    np.exp(kernel, out=kernel)
    m = kernel.shape[1]
    v = np.ones(m)
    for _ in range(MOST):
        u = m / (kernel @ v)
        new = n / (u @ kernel)
        error = np.abs(v / new - 1).mean()
        if error <= tolerance:
            return _potentials(problem.epsilon * (np.log(u) - least), problem.epsilon * np.log(v))
        v = new
    raise RuntimeError(f"the marginal error is {error:.3g} after {MOST} iterations")


# ---------------------------------------------------------------------- POT


def pot(problem: EntropicPlans, threads: int) -> list[Candidate]:  # noqa: ARG001
    """A matrix of costs, or batches of rows."""
    n, found = len(problem.x), []
    if n * problem.mixture.count <= LARGEST:
        found.append(Candidate("sinkhorn_log", partial(_pot, problem, False), n))
    return [*found, Candidate("empirical_sinkhorn, lazy", partial(_pot, problem, True), n)]


def _pot(problem: EntropicPlans, lazy: bool, n: int) -> Array:
    import ot  # type: ignore[import-not-found,unused-ignore]

    x, y = problem.x[:n], problem.mixture.means
    a, b = np.full(n, 1 / n), np.full(len(y), 1 / len(y))
    stop = problem.tolerance / np.sqrt(len(y))
    if lazy:  # its cost is the squared distance, and it tests the sum of errors
        f, g = ot.bregman.empirical_sinkhorn(
            x, y, 2 * problem.epsilon, a, b, numIterMax=MOST, stopThr=problem.tolerance, isLazy=True, batchSize=256
        )
    else:
        log = ot.bregman.sinkhorn_log(
            a, b, _costs(problem, n), problem.epsilon, numItermax=MOST, stopThr=stop, log=True
        )
        f, g = log[1]["log_u"], log[1]["log_v"]
    # scalings of a matrix of masses
    return _potentials(problem.epsilon * (f - np.log(a)), problem.epsilon * (g - np.log(b)))


# ---------------------------------------------------------------------- OTT


def ott(problem: EntropicPlans, threads: int) -> list[Candidate]:  # noqa: ARG001
    """Whole or in batches, plain or with momentum once it has settled."""
    from jax.interpreters import batching  # type: ignore[import-not-found,unused-ignore]

    n, found = len(problem.x), []
    for batch in (None, 1024):
        if batch is None and n * problem.mixture.count > LARGEST:
            continue
        # its batches ask JAX for a function that newer versions do not have
        if batch is not None and not hasattr(batching, "is_vmappable"):
            continue
        for momentum in (False, True):
            label = f"{'whole' if batch is None else f'batches of {batch}'}{', momentum' if momentum else ''}"
            found.append(Candidate(label, _ott(problem, batch, momentum), n))
    return found


def _ott(problem: EntropicPlans, batch: int | None, momentum: bool) -> Callable[[int], Array]:
    import jax  # type: ignore[import-not-found,unused-ignore]
    from ott.geometry.pointcloud import PointCloud  # type: ignore[import-not-found,unused-ignore]
    from ott.problems.linear.linear_problem import LinearProblem  # type: ignore[import-not-found,unused-ignore]
    from ott.solvers.linear.acceleration import Momentum  # type: ignore[import-not-found,unused-ignore]
    from ott.solvers.linear.sinkhorn import Sinkhorn  # type: ignore[import-not-found,unused-ignore]

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")

    @jax.jit  # type: ignore[untyped-decorator,unused-ignore]
    def solve(x: Any, y: Any) -> Any:
        solver = Sinkhorn(
            lse_mode=True,
            threshold=problem.tolerance,
            norm_error=1,
            inner_iterations=5,
            max_iterations=MOST,
            momentum=Momentum(start=20) if momentum else None,
        )
        out = solver(LinearProblem(PointCloud(x, y, epsilon=2 * problem.epsilon, batch_size=batch)))
        return out.f, out.g

    def go(n: int) -> Array:
        f, g = solve(problem.x[:n], problem.mixture.means)  # of the squared distance, for masses and not densities
        m = problem.mixture.count
        return _potentials(
            0.5 * np.asarray(f) + problem.epsilon * np.log(n), 0.5 * np.asarray(g) + problem.epsilon * np.log(m)
        )

    return go


# ---------------------------------------------------------------------- geomloss


def geomloss(problem: EntropicPlans, threads: int) -> list[Candidate]:
    """Tensors, or KeOps."""
    n, found = len(problem.x), []
    if n * problem.mixture.count <= LARGEST:
        found.append(Candidate("tensorized", partial(_geomloss, problem, False, threads), n))
    return [*found, Candidate("online", partial(_geomloss, problem, True, threads), n)]


def _geomloss(problem: EntropicPlans, online: bool, threads: int, n: int) -> Array:
    import torch  # type: ignore[import-not-found,unused-ignore]
    from geomloss._legacy import sinkhorn_samples as samples  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(threads)
    eps, x, y = problem.epsilon, torch.from_numpy(problem.x[None, :n]), torch.from_numpy(problem.mixture.means[None])
    m = y.shape[1]
    if online:
        softmin, there, back = samples.softmin_online_lazytensor, (x, y), (y, x)
    else:
        costs = torch.from_numpy(_costs(problem, n)[None])
        softmin, there, back = samples.softmin_tensorized, costs, costs.transpose(1, 2).contiguous()
    g = torch.zeros((1, m), dtype=torch.float64)
    for _ in range(MOST):
        f = softmin(eps, there, g / eps - np.log(m))
        new = softmin(eps, back, f / eps - np.log(n))
        if float(torch.expm1((g - new) / eps).abs().mean()) <= problem.tolerance:
            break
        g = new
    return _potentials(f[0].numpy(), g[0].numpy())
