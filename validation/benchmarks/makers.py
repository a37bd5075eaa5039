r"""Problems made from sizes: what a workload's kind and sizes mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.processes import LinearProcess
from refdiff.samplers.times import karras, uniform
from refdiff.schedules import VEPower, VPLinear
from refdiff.validation.benchmarks.mixtures import Mixture
from refdiff.validation.benchmarks.problems import (
    FIRST_TIME,
    SIDE,
    SIGMA_MAX,
    SIGMA_MIN,
    TURNING,
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
)


def probability_flow(*, n: int, K: int, d: int, steps: int, seed: int = 0) -> ProbabilityFlow:
    """From N(0, 80^2 I) on the grid of EDM: rho = 7, from 80 to 0.002 and to 0."""
    rng = np.random.default_rng(seed + 1)
    sigmas = karras(VEPower(), steps, end=SIGMA_MIN, append_clean=True)
    return ProbabilityFlow(Mixture.random(d, K, seed), SIGMA_MAX * rng.standard_normal((n, d)), sigmas)


def multistep(*, n: int, K: int, d: int, steps: int, seed: int = 0) -> Multistep:
    """As `probability_flow`."""
    return Multistep(*vars(probability_flow(n=n, K=K, d=d, steps=steps, seed=seed)).values())


def flow_map(*, n: int, K: int, d: int, rtol: float = 1e-10, seed: int = 0) -> FlowMap:
    """From N(0, 80^2 I) at 80 to 0.002."""
    rng = np.random.default_rng(seed + 1)
    x = SIGMA_MAX * rng.standard_normal((n, d))
    return FlowMap(Mixture.random(d, K, seed), x, SIGMA_MAX, SIGMA_MIN, rtol, rtol)


def reverse_diffusion(*, n: int, K: int, d: int, steps: int, seed: int = 0) -> ReverseDiffusion:
    """From N(0, I) at t = 1 to 0.001 in equal steps, beta from 0.1 to 20."""
    process = VPLinear()
    times = uniform(process, steps, end=FIRST_TIME)
    c = process.coefficients(times[:-1])
    x = np.random.default_rng(seed + 1).standard_normal((n, d))
    return ReverseDiffusion(Mixture.random(d, K, seed), x, times, c.alpha, c.sigma**2, c.f, c.g2, seed + 2)


def ancestral(*, n: int, K: int, d: int, steps: int, seed: int = 0) -> Ancestral:
    """Where `reverse_diffusion` is, by Bayes' posterior of x_t given x_s and x_0."""
    process = VPLinear()
    times = uniform(process, steps, end=FIRST_TIME)
    c = process.coefficients(times)
    (a, to), v, left = (c.alpha[:-1], c.alpha[1:]), c.sigma[:-1] ** 2, c.sigma[1:] ** 2
    fresh = v - (a / to) ** 2 * left  # the variance that x_s has beside x_t
    kept, share = a / to * left / v, to * fresh / v
    x = np.random.default_rng(seed + 1).standard_normal((n, d))
    weights = kept + share / a, share * v / a, np.sqrt(fresh * left / v)
    return Ancestral(Mixture.random(d, K, seed), x, times, a, v, *weights, seed + 2)


def point_set_score(*, n: int, K: int, d: int, sigma: float, seed: int = 0) -> PointSetScore:
    """K points near a plane of 32 dimensions, as images are near few, and n noised points among them.

    With 3072 coordinates one point takes all the weight at sigma = 0.5, some share it at 2, all at 20.
    """
    x, points = _points(n, K, d, seed)
    return PointSetScore(Mixture(points, np.zeros(K), np.full(K, -np.log(K))), x, sigma)


@lru_cache(maxsize=1)  # the same points for all levels
def _points(n: int, K: int, d: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    rank = min(32, d)
    points = rng.standard_normal((K, rank)) @ (rng.standard_normal((rank, d)) / (4 * np.sqrt(rank)))
    for rows in np.array_split(points, max(1, K // 1000)):  # no second array of this size
        rows += 0.05 * rng.standard_normal(rows.shape)
    return points[rng.integers(K, size=n)] + rng.standard_normal((n, d)), points


def denoiser(*, n: int, K: int, d: int, sigma: float, seed: int = 0) -> Denoiser:
    """At draws from N(0, (4 + sigma^2) I), where the noised means are."""
    x = np.sqrt(4 + sigma * sigma) * np.random.default_rng(seed + 1).standard_normal((n, d))
    return Denoiser(Mixture.random(d, K, seed), x, sigma)


def divergence(*, n: int, K: int, d: int, sigma: float, seed: int = 0) -> Divergence:
    """Where `denoiser` is asked."""
    return Divergence(*vars(denoiser(n=n, K=K, d=d, sigma=sigma, seed=seed)).values())


def discrepancy(*, n: int, d: int, energy: bool = False, seed: int = 0) -> Discrepancy:
    """n draws of N(0, I) and n of N(m, I), |m| = 1, under a Gaussian kernel of length sqrt(d)."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((n, d)) + 1 / np.sqrt(d)
    return Discrepancy(Mixture(y, np.full(n, float(d)), np.full(n, -np.log(n))), x, float(np.sqrt(d)), energy)


def log_density(*, n: int, K: int, d: int, seed: int = 0) -> LogDensity:
    """At draws from N(0, 4 I), where the means are."""
    x = 2 * np.random.default_rng(seed + 1).standard_normal((n, d))
    return LogDensity(Mixture.random(d, K, seed), x)


def pair_sums(*, n: int, d: int, seed: int = 0) -> PairSums:
    """n draws of N(0, I) with themselves, under a Gaussian kernel as wide as half of their mean squared distance."""
    x = np.random.default_rng(seed).standard_normal((n, d))
    return PairSums(Mixture(x, np.full(n, float(d)), np.full(n, -np.log(n))), x)


def entropic_plans(*, n: int, d: int, epsilon: float, tolerance: float = 1e-6, seed: int = 0) -> EntropicPlans:
    """n draws of N(0, I) against n of N(m, I / 4), |m| = sqrt(2)."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), 0.5 * rng.standard_normal((n, d)) + np.sqrt(2 / d)
    return EntropicPlans(Mixture(y, np.zeros(n), np.full(n, -np.log(n))), x, epsilon, tolerance)


def grid_density(*, cells: int, K: int, error: float, seed: int = 0) -> GridDensity:
    """Components of deviation 1/2 around the middle of the square, until half a unit of time."""
    rng = np.random.default_rng(seed)
    mixture = Mixture(2 * rng.standard_normal((K, 2)), np.full(K, 0.25), np.log(rng.dirichlet(np.ones(K))))
    line = SIDE * ((2 * np.arange(cells) + 1) / cells - 1)
    x = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1)
    law = GaussianMixture.isotropic(mixture.means, mixture.variances, np.exp(mixture.log_weights))
    end = np.exp(LinearProcess(TURNING, np.sqrt(2) * np.eye(2), T=1.0).kernel(0.5).push(law).logpdf(x))
    seen = end > 0.01 * end.max()
    start = np.exp(law.logpdf(x))
    return GridDensity(mixture, x[seen], start, np.flatnonzero(seen), np.array(TURNING), 0.5, error)


MAKERS: Mapping[str, Callable[..., Problem]] = MappingProxyType(
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


def make(name: str, **sizes: Any) -> Problem:
    """A problem of this kind and these sizes."""
    return MAKERS[name](**sizes)
