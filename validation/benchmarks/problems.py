r"""What is computed, as plain arrays that every library can take.

An isotropic mixture of K components in R^d, noised to x = alpha x_0 + sigma eps, has

    T_k = alpha^2 v_k + sigma^2,     log(w_k N_k) = log w_k - d/2 log(2 pi T_k) - |x - alpha m_k|^2 / 2 T_k
    D(x) = sum_k r_k (m_k + alpha v_k / T_k (x - alpha m_k)),     grad log p(x) = -sum_k r_k (x - alpha m_k) / T_k

with responsibilities r_k. The problems ask for one of these many times, or once at many points:

    ProbabilityFlow    dx/dsigma = (x - D(x)) / sigma,  Heun on a fixed grid (alpha = 1)
    FlowMap            the same equation, between two noise levels, to a tolerance
    ReverseDiffusion   dx = (f x - g^2 grad log p) dt + g dw,  Euler-Maruyama on a fixed grid (VP)
    PointSetScore      grad log p of points without variance, at one noise level (alpha = 1)
    LogDensity         log p of the mixture itself
    PairSums           sum_k w_k exp(-|x - m_k|^2 / 2 v), the rows of which a discrepancy of samples is made
    EntropicPlans      potentials of the coupling of x and the m_k with least E |x - y|^2 / 2 + eps KL(. || product)
    GridDensity        the law of dx = F x dt + sqrt(2) dw from that mixture, on the cells of a square

Useful work counts what no method can avoid per evaluation of n points: 4 n K d floating-point operations (a distance
and a weighted mean, one multiply-add for each element of each), n K exponentials, and the points read and written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.processes import LinearProcess
from refdiff.samplers.times import karras, uniform
from refdiff.schedules import VEPower, VPLinear
from refdiff.validation.benchmarks.mixtures import Mixture

# EDM's range of noise levels (Karras et al. 2022); score-SDE's smallest time.
SIGMA_MAX, SIGMA_MIN, FIRST_TIME = 80.0, 0.002, 1e-3
# Half the side of the square, beyond which less than 1e-7 of any density is; a drift with as much turning as decay.
SIDE, TURNING = 8.0, ((-1.0, 1.5), (-1.5, -1.0))

AnyProblem = TypeVar("AnyProblem", bound="Problem")


class Work(NamedTuple):
    """Useful floating-point operations, exponentials and bytes; None where their number depends on the method."""

    flops: float | None = None
    exponentials: float | None = None
    bytes: float | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """A mixture and points x (n, d) at which, or from which, something is computed."""

    mixture: Mixture
    x: Array

    @property
    def sizes(self) -> dict[str, int]:
        """n, K and d."""
        return {"n": len(self.x), "K": self.mixture.count, "d": self.mixture.dim}

    @property
    def evaluations(self) -> int | None:
        """How many times the mixture is evaluated at n points; None where the method decides."""
        return None

    @property
    def work(self) -> Work:
        """What no method can avoid."""
        if self.evaluations is None:
            return Work()
        products = self.evaluations * len(self.x) * self.mixture.count
        return Work(4.0 * products * self.mixture.dim, float(products), 2.0 * self.x.nbytes)

    @property
    def allowed(self) -> float | None:
        """The relative error that the problem asks for; None where the workload says it."""
        return None

    def part(self: AnyProblem, n: int) -> AnyProblem:
        """The same for the first n points."""
        return replace(self, x=self.x[:n])


@dataclass(frozen=True, eq=False)
class ProbabilityFlow(Problem):
    """Heun's method on noise levels `sigmas`, decreasing to 0; the last step is Euler's."""

    sigmas: Array

    @property
    def sizes(self) -> dict[str, int]:
        """n, K, d and the number of steps."""
        return {**super().sizes, "steps": len(self.sigmas) - 1}

    @property
    def evaluations(self) -> int:
        """Two a step, but one in the last."""
        return 2 * (len(self.sigmas) - 1) - 1


@dataclass(frozen=True, eq=False)
class FlowMap(Problem):
    """The probability flow from noise level `start` down to `end`, local errors within rtol |x| + atol."""

    start: float
    end: float
    rtol: float
    atol: float


@dataclass(frozen=True, eq=False)
class ReverseDiffusion(Problem):
    """Euler-Maruyama from times[0] down to times[-1]; alpha, variance (sigma^2), f and g2 at times[:-1]."""

    times: Array
    alpha: Array
    variance: Array
    f: Array
    g2: Array
    seed: int

    @property
    def sizes(self) -> dict[str, int]:
        """n, K, d and the number of steps."""
        return {**super().sizes, "steps": len(self.times) - 1}

    @property
    def evaluations(self) -> int:
        """One a step."""
        return len(self.times) - 1


@dataclass(frozen=True, eq=False)
class PointSetScore(Problem):
    """The score at x of the points m_k noised to a level sigma."""

    sigma: float

    @property
    def evaluations(self) -> int:
        """One."""
        return 1

    @property
    def work(self) -> Work:
        """As elsewhere, and the points of the set are read, which are as large as x."""
        return super().work._replace(bytes=self.mixture.means.nbytes + 2.0 * self.x.nbytes)


@dataclass(frozen=True, eq=False)
class LogDensity(Problem):
    """log p(x), shape (n,)."""

    @property
    def evaluations(self) -> int:
        """One."""
        return 1

    @property
    def work(self) -> Work:
        """Distances only: half of the operations, and one number written for each point."""
        flops, exponentials, _ = super().work
        assert flops is not None
        return Work(flops / 2, exponentials, self.x.nbytes + 8.0 * len(self.x))


@dataclass(frozen=True, eq=False)
class PairSums(Problem):
    """Sums of a kernel of variance v over all pairs of x and the means, shape (n,); v is every component's."""

    @property
    def evaluations(self) -> int:
        """One."""
        return 1

    @property
    def work(self) -> Work:
        """Distances only, as for a log density, and both sets of points are read."""
        flops, exponentials, _ = super().work
        assert flops is not None
        return Work(flops / 2, exponentials, self.x.nbytes + self.mixture.means.nbytes + 8.0 * len(self.x))


@dataclass(frozen=True, eq=False)
class EntropicPlans(Problem):
    """Potentials of x, shape (n,), of the plan between x and the means, all of equal weight.

    Of all (f + t, g - t), those with means that are equal. The marginal error, a sum, is to be at most `tolerance`.
    """

    epsilon: float
    tolerance: float


@dataclass(frozen=True, eq=False)
class GridDensity(Problem):
    """The density at a time on cells of [-SIDE, SIDE]^2 from `start` (cells, cells), that at their centres at time 0.

    `x` are the centres where it will be at least a hundredth of its peak, and `places` their flat numbers; there the
    relative error is to be at most `error`. `drift` is F, which turns: nothing separates into one axis and the other.
    """

    start: Array
    places: NDArray[np.intp]
    drift: Array
    time: float
    error: float

    @property
    def sizes(self) -> dict[str, int]:
        """The cells along each axis, and K."""
        return {"cells": len(self.start), "K": self.mixture.count}

    @property
    def allowed(self) -> float:
        """As asked."""
        return self.error


# ---------------------------------------------------------------------- made from sizes


def probability_flow(*, n: int, K: int, d: int, steps: int, seed: int = 0) -> ProbabilityFlow:
    """From N(0, 80^2 I) on the grid of EDM: rho = 7, from 80 to 0.002 and to 0."""
    rng = np.random.default_rng(seed + 1)
    sigmas = karras(VEPower(), steps, end=SIGMA_MIN, append_clean=True)
    return ProbabilityFlow(Mixture.random(d, K, seed), SIGMA_MAX * rng.standard_normal((n, d)), sigmas)


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
        "probability_flow": probability_flow,
        "flow_map": flow_map,
        "reverse_diffusion": reverse_diffusion,
        "point_set_score": point_set_score,
        "log_density": log_density,
        "pair_sums": pair_sums,
        "entropic_plans": entropic_plans,
        "grid_density": grid_density,
    }
)


def kind(problem: Problem) -> str:
    """The name of a problem's kind, as in `MAKERS`."""
    return KINDS[type(problem)]


KINDS: Mapping[type[Problem], str] = MappingProxyType(
    {
        ProbabilityFlow: "probability_flow",
        FlowMap: "flow_map",
        ReverseDiffusion: "reverse_diffusion",
        PointSetScore: "point_set_score",
        LogDensity: "log_density",
        PairSums: "pair_sums",
        EntropicPlans: "entropic_plans",
        GridDensity: "grid_density",
    }
)


def make(name: str, **sizes: Any) -> Problem:
    """A problem of this kind and these sizes."""
    return MAKERS[name](**sizes)
