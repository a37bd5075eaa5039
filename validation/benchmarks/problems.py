r"""What is computed, as plain arrays that every library can take.

An isotropic mixture of K components in R^d, noised to x = alpha x_0 + sigma eps, has

    T_k = alpha^2 v_k + sigma^2,     log(w_k N_k) = log w_k - d/2 log(2 pi T_k) - |x - alpha m_k|^2 / 2 T_k
    D(x) = sum_k r_k (m_k + alpha v_k / T_k (x - alpha m_k)),     grad log p(x) = -sum_k r_k (x - alpha m_k) / T_k

with responsibilities r_k. The problems ask for one of these many times, or once at many points:

    ProbabilityFlow    dx/dsigma = (x - D(x)) / sigma,  Heun on a fixed grid (alpha = 1)
    FlowMap            the same equation, between two noise levels, to a tolerance
    Multistep          the same by DPM-Solver++(2M), one evaluation a step
    ReverseDiffusion   dx = (f x - g^2 grad log p) dt + g dw,  Euler-Maruyama on a fixed grid (VP)
    Ancestral          DDPM's sampler on that grid, with the variances of Bayes' posterior
    PointSetScore      grad log p of points without variance, at one noise level (alpha = 1)
    LogDensity         log p of the mixture itself
    PairSums           sum_k w_k exp(-|x - m_k|^2 / 2 v), the rows of which a discrepancy of samples is made
    EntropicPlans      potentials of the coupling of x and the m_k with least E |x - y|^2 / 2 + eps KL(. || product)
    Discrepancy        E k(x, x') + E k(y, y') - 2 E k(x, y) of two samples, x and the means, over different points
    GridDensity        the law of dx = F x dt + sqrt(2) dw from that mixture, on the cells of a square
    Denoiser           D at one noise level (alpha = 1), and Divergence, that of the flow's velocity there

Useful work counts what no method can avoid per evaluation of n points: 4 n K d floating-point operations (a distance
and a weighted mean, one multiply-add for each element of each), n K exponentials, and the points read and written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
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
class Multistep(ProbabilityFlow):
    """DPM-Solver++(2M) on the same noise levels; the first step and the last one have order 1."""

    @property
    def evaluations(self) -> int:
        """One a step."""
        return len(self.sigmas) - 1

    @property
    def rows(self) -> Array:
        """For each step from s to t: s, t / s, and how far D is extrapolated, log(s / t) / (2 log(r / s)), from r."""
        s, t = self.sigmas[:-1].astype(float), self.sigmas[1:].astype(float)
        further = np.zeros(len(s))
        further[1:-1] = np.log(s[1:-1] / t[1:-1]) / (2 * np.log(s[:-2] / s[1:-1]))
        return np.stack([s, t / s, further], axis=1).astype(self.sigmas.dtype)


@dataclass(frozen=True, eq=False)
class FlowMap(Problem):
    """The probability flow from noise level `start` down to `end`, local errors within rtol |x| + atol."""

    start: float
    end: float
    rtol: float
    atol: float


@dataclass(frozen=True, eq=False)
class Stepped(Problem):
    """From times[0] down to times[-1] with one evaluation a step; alpha and variance (sigma^2) at times[:-1]."""

    times: Array
    alpha: Array
    variance: Array

    @property
    def sizes(self) -> dict[str, int]:
        """n, K, d and the number of steps."""
        return {**super().sizes, "steps": len(self.times) - 1}

    @property
    def evaluations(self) -> int:
        """One a step."""
        return len(self.times) - 1


@dataclass(frozen=True, eq=False)
class ReverseDiffusion(Stepped):
    """Euler-Maruyama; f and g2 at times[:-1]."""

    f: Array
    g2: Array
    seed: int


@dataclass(frozen=True, eq=False)
class Ancestral(Stepped):
    """DDPM's sampler.

    A step is kept x + moved grad log p + added z: the mean and the deviation of x_t given x_s = x and
    x_0 = (x + sigma^2 grad log p) / alpha.
    """

    kept: Array
    moved: Array
    added: Array
    seed: int

    @property
    def rows(self) -> Array:
        """For each step alpha, sigma^2, and the weights of x, the score and z."""
        return np.stack([self.alpha, self.variance, self.kept, self.moved, self.added], axis=1)


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
class Denoiser(Problem):
    """D at x and one noise level sigma, shape (n, d)."""

    sigma: float

    @property
    def evaluations(self) -> int:
        """One."""
        return 1


@dataclass(frozen=True, eq=False)
class Divergence(Denoiser):
    """The divergence of (x - D(x)) / sigma, shape (n,): the sums of the denoiser, and one of squared distances."""


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
class Discrepancy(Problem):
    """MMD^2 of x and the means, n of each, shape (1,), or the energy distance; `length` is the Gaussian kernel's."""

    length: float
    energy: bool

    @property
    def work(self) -> Work:
        """Distances and kernels of all pairs but those of a point with itself, each pair of one sample once."""
        n, d = self.x.shape
        pairs = 2.0 * n * n - n
        return Work(2 * pairs * d, 0.0 if self.energy else pairs, 2.0 * self.x.nbytes)


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


def kind(problem: Problem) -> str:
    """The name of a problem's kind, as in `makers.MAKERS`: that of its class, in small letters."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(problem).__name__).lower()
