r"""DDPM's posterior, for tables of betas and for chains with an asymptotic variance.

    q(x_{t-1} | x_t, x_0) = N( A x_0 + B x_t, beta~_t ),   beta~_t = beta_t (1 - abar_{t-1}) / (1 - abar_t)
    A = sqrt(abar_{t-1}) beta_t / (1 - abar_t),            B = sqrt(1 - beta_t) (1 - abar_{t-1}) / (1 - abar_t)
    A x_0 + B x_t = ( x_t - beta_t / sqrt(1 - abar_t) eps ) / sqrt(1 - beta_t),   x_t = sqrt(abar_t) x_0 + ... eps

The table's own products are compared with precisions that add and with the moments of the chain, step by step. With
x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(S beta_t) eps_t the chain has the asymptotic variance S of the physics text; there
the dense law of all its times is conditioned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.validation.cases import Case, TableCase
from refdiff.validation.identities.forward_kernels import moments_of_chain, noise_weights
from refdiff.validation.identity import Sides, identity

TOPIC = "Reverse kernels"


def long(case: TableCase) -> bool:
    """A table with a posterior that is not a point mass, and alpha > 0 up to its end."""
    return case.table.steps > 1 and case.table.betas[-1] < 1


@identity(
    "DDPM's posterior from precisions",
    topic=TOPIC,
    formula=r"\tfrac{\alpha_t}{\beta_t} + \tfrac{1}{1-\bar\alpha_{t-1}} = \tfrac{1}{\tilde\beta_t},\quad"
    r"\tilde\mu = \tilde\beta_t \left(\tfrac{\sqrt{\alpha_t}}{\beta_t} x_t"
    r" + \tfrac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}} x_0\right),\quad A + B = \tfrac{a + b}{1 + ab}",
    covers=["DMI-19", "DMI-20", "TOPA-28", "TOPA-29", "PODA-215", "PODA-226", "PHY-29"],
    refutes=["TOPA-28"],
    over="tables",
    control="the denominators of (3.9): beta_t and sqrt(1 - alpha_bar_t) where 1 - alpha_bar_t belongs",
    needs=lambda case: case.table.steps > 1,
)
def precisions(case: TableCase, wrong: bool) -> list[Sides]:
    """BetaTable's products against precisions that add, with 1 - alpha_bar from the chain's own recursion.

    At t = 1 the posterior is x_0 itself. The two coefficients sum to (a + b) / (1 + a b) < 1 from t = 2 on, with
    a = sqrt(alpha_bar_{t-1}) and b = sqrt(alpha_t).
    """
    signal, noise = moments_of_chain(case.table)
    beta, posterior = case.table.betas[1:], case.table.posterior()
    precision = (1 - beta) / beta + 1 / noise[1:-1]
    of_xt = np.sqrt(1 - beta) / beta / precision
    of_x0 = signal[1:-1] / noise[1:-1] / precision
    if wrong:
        of_xt, of_x0 = of_xt * noise[2:] / np.sqrt(beta), of_x0 * np.sqrt(noise[2:])
    a, b = signal[1:-1], np.sqrt(1 - beta)
    found = [
        (posterior.of_x0[1:], of_x0),
        (posterior.of_xt[1:], of_xt),
        (posterior.variance[1:], 1 / precision),
        (noise[2:], precision * beta * noise[1:-1]),
        ((a + b) / (1 + a * b), posterior.of_x0[1:] + posterior.of_xt[1:]),
    ]
    first = Sides([posterior.of_x0[0], posterior.of_xt[0], posterior.variance[0]], [1.0, 0.0, 0.0])
    return [first, *(Sides(left, right, scale=np.abs(left)) for left, right in found)]


@identity(
    "Posterior mean from the noise",
    topic=TOPIC,
    formula=r"\tilde\mu = \frac{1}{\sqrt{\alpha_t}}\left(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}} \epsilon\right)",
    covers=["DMI-21", "DMI-31", "TOPA-33", "PODA-218"],
    refutes=["TOPA-33"],
    over="tables",
    control="the coefficients of (3.13): 1 / alpha_bar_t and (1 - alpha_bar_t) / sqrt(1 - alpha_bar_t)",
    needs=long,
)
def mean_from_noise(case: TableCase, wrong: bool) -> list[Sides]:
    """Coefficients of (x_0, eps) in A x_0 + B x_t and in the noise form, with x_t = alpha x_0 + sigma eps."""
    signal, noise = moments_of_chain(case.table)
    beta, posterior = case.table.betas, case.table.posterior()
    sigma = np.sqrt(noise[1:])
    front, weight = (1 / signal[1:], noise[1:] / sigma) if wrong else (1 / np.sqrt(1 - beta), beta / sigma)
    return [
        Sides(posterior.of_x0 + posterior.of_xt * signal[1:], front * signal[1:], scale=signal[:-1]),
        Sides(posterior.of_xt * sigma, front * (sigma - weight), scale=front * sigma),
    ]


@identity(
    "Posterior between any two times of a chain",
    topic=TOPIC,
    formula=r"\mu = \frac{\sqrt{\bar\alpha_{u}}\,(1-\bar\alpha_t/\bar\alpha_u) x_0"
    r" + \sqrt{\bar\alpha_t/\bar\alpha_u}\,(1-\bar\alpha_u) x_t}{1-\bar\alpha_t},\quad"
    r"\mathrm{var} = S\,\frac{(1-\bar\alpha_t/\bar\alpha_u)(1-\bar\alpha_u)}{1-\bar\alpha_t}",
    covers=["PHY-26", "PHY-29"],
    over="once",
    control="the asymptotic variance S left out of the posterior variance",
)
def stride_posterior(case: Case, wrong: bool) -> Iterator[Sides]:
    """Conditioning the dense joint law of the whole chain given x_0, for all pairs of times."""
    chain = Noising.random(case)
    for t in range(1, chain.steps):
        given = chain.given_x0().conditional([t], [chain.x[t]])
        for u in range(t):
            jump = chain.bar[t] / chain.bar[u]
            mean = np.sqrt(chain.bar[u]) * (1 - jump) * chain.x0 + np.sqrt(jump) * (1 - chain.bar[u]) * chain.x[t]
            variance = (1 - jump) * (1 - chain.bar[u]) / (1 - chain.bar[t]) * (1 if wrong else chain.spread)
            yield Sides(given.mean()[u], mean / (1 - chain.bar[t]), scale=abs(chain.x0) + abs(chain.x[t]))
            yield Sides(given.cov()[u, u], variance)


@identity(
    "Clean data and reverse mean from the merged noise",
    topic=TOPIC,
    formula=r"x_0 = \frac{x_t - \sigma\sqrt{1-\bar\alpha_t}\,\epsilon}{\sqrt{\bar\alpha_t}},\quad"
    r"\mu = \frac{1}{\sqrt{1-\beta_t}}\left[x_t - \frac{\sigma\beta_t}{\sqrt{1-\bar\alpha_t}} \epsilon\right]",
    covers=["PHY-39", "PHY-41", "PHY-46"],
    refutes=["PHY-39", "PHY-46"],
    over="once",
    control="the asymptotic standard deviation sigma dropped, as printed",
)
def merged_noise(case: Case, wrong: bool) -> Iterator[Sides]:
    """A path made from independent step noises, whose merged noise is read off the weights of the steps."""
    chain = Noising.random(case)
    sigma = 1.0 if wrong else np.sqrt(chain.spread)
    for t in range(1, chain.steps):
        merged = chain.weights[t] @ chain.steps_noise / np.sqrt(chain.spread * (1 - chain.bar[t]))
        beta, given = chain.betas[t], chain.given_x0().conditional([t], [chain.x[t]])
        scale = abs(chain.x0) + abs(chain.x[t]) + sigma * abs(merged)
        clean = (chain.x[t] - sigma * np.sqrt(1 - chain.bar[t]) * merged) / np.sqrt(chain.bar[t])
        yield Sides(chain.x0, clean, scale=scale / np.sqrt(chain.bar[t]))
        mean = (chain.x[t] - sigma * beta / np.sqrt(1 - chain.bar[t]) * merged) / np.sqrt(1 - beta)
        yield Sides(given.mean()[t - 1], mean, scale=scale / np.sqrt(1 - beta))


@dataclass(frozen=True, eq=False)
class Noising:
    """A path x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(S beta_t) eps_t on the line, and the weights of its noises.

    Attributes:
        spread: S.   x0: where it starts.   bar: alpha_bar_t.
        weights: x - sqrt(bar) x_0 = weights @ steps_noise, lower triangular (T, T).
    """

    betas: Array
    spread: float
    x0: float
    steps_noise: Array

    @staticmethod
    def random(case: Case, steps: int = 6) -> Noising:
        """A chain of random betas."""
        rng = case.rng
        return Noising(rng.uniform(0.05, 0.6, steps), rng.uniform(1.5, 3.0), rng.normal(), rng.standard_normal(steps))

    @property
    def steps(self) -> int:
        """T."""
        return len(self.betas)

    @cached_property
    def bar(self) -> Array:
        """alpha_bar_1..alpha_bar_T."""
        return np.asarray(np.cumprod(1 - self.betas), dtype=np.float64)

    @cached_property
    def weights(self) -> Array:
        """The lower triangle of the steps' noises in x_1..x_T."""
        return np.asarray(noise_weights(1 - self.betas, self.betas) * np.sqrt(self.spread))

    @cached_property
    def x(self) -> Array:
        """x_1..x_T, step by step."""
        path = [self.x0]
        for beta, noise in zip(self.betas, self.steps_noise, strict=True):
            path.append(np.sqrt(1 - beta) * path[-1] + np.sqrt(self.spread * beta) * noise)
        return np.array(path[1:])

    def given_x0(self) -> Gaussian:
        """The law of (x_1..x_T) given x_0."""
        return Gaussian(np.sqrt(self.bar) * self.x0, self.weights @ self.weights.T)
