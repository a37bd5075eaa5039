r"""Regressions of a chain whose noise has the variance S, x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(S beta_t) eps_t.

With x_t = sqrt(abar_t) x_0 + sqrt(S (1 - abar_t)) eps, in any dimension and for any data,

    f*    = E[x_{t-1} | x_t] = ( x_t - sqrt(S) beta_t / sqrt(1 - abar_t) eps* ) / sqrt(1 - beta_t)
    eps*  = E[eps | x_t]     = -sqrt(S (1 - abar_t)) grad log q(x_t)
    E |f - E[x_{t-1} | x_0, x_t]|^2  =  S beta_t^2 / ((1 - beta_t)(1 - abar_t))  E |eps - eps_theta|^2
    min E |eps - eps_theta|^2        =  d - S (1 - abar_t) E |grad log q(x_t)|^2

The text prints f and the weight without sqrt(S) and S, right for S = 1 only; its own chain has S.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.validation.cases import Case
from refdiff.validation.identities.forward_kernels import path
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import cubature

TOPIC = "Noise regressions"


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain on R^d: `betas` beta_1..beta_T, shape (T,), and `spread`, the variance S of the noise."""

    betas: Array
    spread: float

    @staticmethod
    def random(case: Case, steps: int = 4) -> Chain:
        """So many `steps` of random betas, and S away from 1."""
        return Chain(case.rng.uniform(0.05, 0.6, steps), case.rng.uniform(1.5, 3.0))

    @property
    def bar(self) -> Array:
        """abar_0 = 1, ..., abar_T, shape (T + 1,)."""
        return np.append(1.0, np.cumprod(1 - self.betas))

    def to(self, t: int) -> Channel:
        """From x_0 to x_t."""
        return Channel(np.sqrt(self.bar[t]), 0.0, self.spread * (1 - self.bar[t]))

    def step(self, t: int) -> Channel:
        """From x_{t-1} to x_t."""
        return Channel(np.sqrt(1 - self.betas[t - 1]), 0.0, self.spread * self.betas[t - 1])

    def joint(self, data: GaussianMixture, t: int) -> tuple[Array, Array, Array]:
        """Nodes (n, d) of (x_0, x_{t-1}, x_t) for Gaussian data and t > 1, of equal weight, exact for quadratics."""
        law = path(Gaussian(data.mean(), data.cov()), [self.to(t - 1), self.step(t)])
        return tuple(np.split(cubature(law)[0], 3, axis=1))  # type: ignore[return-value]


@identity(
    "The minimiser of the empirical loss is the mean of x_{t-1}",
    topic=TOPIC,
    formula=r"\hat L_t = \tfrac1N \sum_i |f(x_{t,i}) - x_{t-1,i}|^2:\quad f^*(x) = \mathbb{E} x_{t-1} +"
    r" \mathrm{Cov}(x_{t-1}, x_t) V_t^{-1} (x - \mathbb{E} x_t)",
    covers=["PHY-35", "PHY-32"],
    over="once",
    control="the step undone, x_t / sqrt(1 - beta_t)",
)
def empirical_loss(case: Case, wrong: bool) -> Iterator[Sides]:
    """Least squares over N points with the moments of Gaussian data, against Bayes' rule and against x_{t-1} itself."""
    chain, rng = Chain.random(case), case.rng
    drawn = random_mixture(3, 1, rng, "full")
    data = Gaussian(drawn.means[0], drawn.cov())
    for t in range(2, len(chain.betas) + 1):
        _, before, after = chain.joint(data, t)
        fit = np.linalg.lstsq(np.column_stack([after, np.ones(len(after))]), before, rcond=None)[0]
        back = chain.step(t).reverse(chain.to(t - 1).push(data))
        gain = np.eye(3) / np.sqrt(1 - chain.betas[t - 1]) if wrong else back.gain
        yield Sides(fit[:-1].T, gain, scale=1.0)
        yield Sides(fit[-1], back.offset, scale=np.abs(before).max())
        # what the minimum leaves is the variance of x_{t-1} given x_t: single points are not fitted
        left = ((after @ fit[:-1] + fit[-1] - before) ** 2).sum(axis=1).mean()
        yield Sides(left, np.trace(back.noise), scale=np.trace(data.cov()))


@identity(
    "A mean written through the noise, for noise of any variance",
    topic=TOPIC,
    formula=r"\mathbb{E}[x_{t-1}|x_t] = \frac{1}{\sqrt{1-\beta_t}}"
    r" \Big[ x_t - \frac{\sigma\beta_t}{\sqrt{1-\bar\alpha_t}} \epsilon^* \Big],"
    r"\quad \epsilon^* = -\sigma\sqrt{1-\bar\alpha_t}\,\nabla\log q(x_t)",
    covers=["PHY-42", "PHY-41"],
    refutes=["PHY-42"],
    over="once",
    control="sigma dropped from the coefficient of the noise, as printed",
)
def written_through_noise(case: Case, wrong: bool) -> Iterator[Sides]:
    """Bayes' mean of a step of a mixture and Bayes' noise, against each other; the noise also by the score."""
    chain, rng = Chain.random(case), case.rng
    law = random_mixture(3, 4, rng, "full")
    for t in range(1, len(chain.betas) + 1):
        pushed, bar, beta = chain.to(t).push(law), chain.bar[t], chain.betas[t - 1]
        x = pushed.sample(5, rng)
        clean = chain.to(t).posterior_mean(law, x)
        noise = (x - np.sqrt(bar) * clean) / np.sqrt(chain.spread * (1 - bar))
        size = (np.abs(x).max() + np.abs(clean).max()) / np.sqrt(chain.spread * (1 - bar))
        yield Sides(noise, -np.sqrt(chain.spread * (1 - bar)) * pushed.score(x), scale=size)
        front = (1.0 if wrong else np.sqrt(chain.spread)) * beta / np.sqrt(1 - bar)
        mean = chain.step(t).posterior_mean(chain.to(t - 1).push(law), x)
        yield Sides(mean, (x - front * noise) / np.sqrt(1 - beta), scale=np.abs(x).max() + front * size)
        # and back
        yield Sides((x - np.sqrt(1 - beta) * mean) / front, noise, scale=size + np.abs(x).max() / front)


@identity(
    "The loss on the mean as a weighted loss on the noise, and what is left of it",
    topic=TOPIC,
    formula=r"\mathbb{E}\|f - \mathbb{E}[x_{t-1}|x_0,x_t]\|^2 = \frac{\sigma^2\beta_t^2}{(1-\beta_t)(1-\bar\alpha_t)}"
    r" \mathbb{E}\|\epsilon - \epsilon_\theta\|^2,\quad"
    r" \min \mathbb{E}\|\epsilon - \epsilon_\theta\|^2 = d - \sigma^2 (1-\bar\alpha_t)\,\mathbb{E}\|\nabla\log q\|^2",
    covers=["PHY-43", "PHY-38"],
    refutes=["PHY-43"],
    over="once",
    control="sigma^2 dropped from the weight, as printed",
)
def weighted_losses(case: Case, wrong: bool) -> Iterator[Sides]:
    """Affine networks on Gaussian data over exact nodes; the least loss by least squares, by the score and closed."""
    chain, rng, d = Chain.random(case), case.rng, 3
    drawn = random_mixture(d, 1, rng, "full")
    data = Gaussian(drawn.means[0], drawn.cov())
    averages = []
    for t in range(2, len(chain.betas) + 1):
        bar, before, beta = chain.bar[t], chain.bar[t - 1], chain.betas[t - 1]
        x0, _, xt = chain.joint(data, t)
        noise = (xt - np.sqrt(bar) * x0) / np.sqrt(chain.spread * (1 - bar))
        mean = (beta * np.sqrt(before) * x0 + np.sqrt(1 - beta) * (1 - before) * xt) / (1 - bar)
        network = 0.3 * xt @ rng.standard_normal((d, d)) + rng.standard_normal(d)
        f = (xt - np.sqrt(chain.spread) * beta / np.sqrt(1 - bar) * network) / np.sqrt(1 - beta)
        weight = (1.0 if wrong else chain.spread) * beta**2 / ((1 - beta) * (1 - bar))
        loss = ((noise - network) ** 2).sum(axis=1).mean()
        yield Sides(((f - mean) ** 2).sum(axis=1).mean(), weight * loss)
        features = np.column_stack([xt, np.ones(len(xt))])
        fit = np.linalg.lstsq(features, noise, rcond=None)[0]
        least = ((noise - features @ fit) ** 2).sum(axis=1).mean()
        score = chain.to(t).push(data).score(xt)
        yield Sides(least, d - chain.spread * (1 - bar) * (score**2).sum(axis=1).mean(), scale=d)
        values = np.linalg.eigvalsh(data.cov())
        averages.append([least, (bar * values / (bar * values + chain.spread * (1 - bar))).sum()])
    # the average over the times: its minimum is the average of the minima
    yield Sides(*np.mean(averages, axis=0), scale=d)
