r"""The DDPM posterior and the reverse kernels that follow from it, for any schedule and any law.

A step s < t has the ratio r = alpha_t / alpha_s and the fresh variance b = sigma_t^2 - r^2 sigma_s^2:

    q(x_s | x_t, x_0) = N( A x_0 + B x_t, v ),   A = alpha_s b / sigma_t^2,  B = r sigma_s^2 / sigma_t^2,
                                                 v = b sigma_s^2 / sigma_t^2
    q(x_s | x_t)      = int q(x_s | x_t, x_0) p(x_0 | x_t) dx_0        mean A D + B x_t = (x_t - b / sigma_t eps*) / r
                                                 covariance  v + A^2 Cov[x_0 | x_t]

The second route is Bayes' rule on channels (Gaussian conditioning, component by component), which knows none of the
letters above. DDPM's tables are the case sigma^2 = 1 - alpha^2 (beta, beta-tilde); with x_t = alpha x_0 +
sqrt(S (1 - alpha_bar)) eps the chain has the asymptotic variance S of the physics text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.processes import BetaTable
from refdiff.validation.cases import Case, ModelCase, ProcessCase, TableCase
from refdiff.validation.identity import Sides, identity

TOPIC = "DDPM posterior and reverse kernels"


@dataclass(frozen=True, eq=False)
class Step:
    """The letters of one step s < t, each a scalar, a diagonal (d,), or one entry for each of many steps.

    Attributes:
        alpha_s, alpha_t: signal factors.   v_s, v_t: noise variances sigma^2.
    """

    alpha_s: Array
    alpha_t: Array
    v_s: Array
    v_t: Array

    @staticmethod
    def of(case: ModelCase | ProcessCase) -> Step:
        """The step from case.t to case.s."""
        here, there = case.process.coefficients(case.s), case.process.coefficients(case.t)
        return Step(here.alpha, there.alpha, here.sigma**2, there.sigma**2)

    @cached_property
    def ratio(self) -> Array:
        """r = alpha_t / alpha_s."""
        return self.alpha_t / self.alpha_s

    @cached_property
    def fresh(self) -> Array:
        """b = sigma_t^2 - r^2 sigma_s^2, the variance of the noise that the step adds."""
        return self.v_t - self.ratio**2 * self.v_s

    @property
    def of_x0(self) -> Array:
        """A."""
        return self.alpha_s * self.fresh / self.v_t

    @property
    def of_xt(self) -> Array:
        """B."""
        return self.ratio * self.v_s / self.v_t

    @property
    def variance(self) -> Array:
        """v."""
        return self.fresh * self.v_s / self.v_t


def moments_of_chain(table: BetaTable) -> tuple[Array, Array]:
    """sqrt(alpha_bar_i) and 1 - alpha_bar_i, i = 0..N, from v <- (1 - beta) v + beta: positive terms, no logarithm."""
    signal, noise = [1.0], [0.0]
    for beta in table.betas:
        signal.append(signal[-1] * np.sqrt(1 - beta))
        noise.append((1 - beta) * noise[-1] + beta)
    return np.array(signal), np.array(noise)


def long(case: TableCase) -> bool:
    """A table with a posterior that is not a point mass, and alpha > 0 up to its end."""
    return case.table.steps > 1 and case.table.betas[-1] < 1


# ---------------------------------------------------------------------- given x_0


@identity(
    "DDPM posterior from precisions",
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

    The two coefficients sum to (a + b) / (1 + a b) < 1, a = sqrt(alpha_bar_{t-1}), b = sqrt(alpha_t).
    """
    signal, noise = moments_of_chain(case.table)
    beta, posterior = case.table.betas[1:], case.table.posterior()
    variance = 1 / ((1 - beta) / beta + 1 / noise[1:-1])
    of_xt = variance * np.sqrt(1 - beta) / beta
    of_x0 = variance * signal[1:-1] / noise[1:-1]
    if wrong:
        of_xt, of_x0 = of_xt * noise[2:] / np.sqrt(beta), of_x0 * np.sqrt(noise[2:])
    a, b = signal[1:-1], np.sqrt(1 - beta)
    found = [(posterior.of_x0[1:], of_x0), (posterior.of_xt[1:], of_xt), (posterior.variance[1:], variance)]
    found.append(((a + b) / (1 + a * b), of_x0 + of_xt))
    return [Sides(left, right, scale=np.abs(left)) for left, right in found]


@identity(
    "Bayes' rule for a step, given x_0",
    topic=TOPIC,
    formula=r"q(x_s \mid x_t, x_0)\, q(x_t \mid x_0) = q(x_t \mid x_s)\, q(x_s \mid x_0)",
    covers=["TOPA-27", "DMI-19", "PODA-213", "PODA-215", "PODB-07"],
    control="the forward variance b in place of the posterior variance b sigma_s^2 / sigma_t^2",
)
def bayes_given_x0(case: ModelCase, wrong: bool) -> Sides:
    """Log densities with their normalisers; x_s is drawn from the posterior."""
    rng, step = case.rng, Step.of(case)
    to_s, to_t, between = case.process.kernel(case.s), case.process.kernel(case.t), case.process.channel(case.s, case.t)
    left, right = [], []
    for x0 in case.law.sample(3, rng):
        xt = to_t.at(x0).sample(1, rng)[0]
        law = Gaussian(step.of_x0 * x0 + step.of_xt * xt, step.fresh if wrong else step.variance)
        xs = law.sample(1, rng)[0]
        left.append([law.logpdf(xs), to_t.logpdf(xt, x0)])
        right.append([between.logpdf(xt, xs), to_s.logpdf(xs, x0)])
    # a quadratic |x - m|^2 / sigma^2 of order 1 is as exact as its x / sigma
    reach = case.law.dim * (1 + np.abs(step.of_xt * case.x).max() / np.sqrt(np.min(step.variance)))
    return Sides(np.sum(left, 1), np.sum(right, 1), scale=np.abs(left).max() + np.abs(right).max() + reach)


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
        spread: S.   bar: alpha_bar_t.   weights: x - sqrt(bar) x_0 = weights @ steps_noise, lower triangular (T, T).
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
        kept = np.sqrt(1 - self.betas)
        rows = [[np.prod(kept[i + 1 : t + 1]) if i <= t else 0.0 for i in range(self.steps)] for t in range(self.steps)]
        return np.array(rows) * np.sqrt(self.spread * self.betas)

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


# ---------------------------------------------------------------------- x_0 averaged out


@identity(
    "Reverse mean: the plug-in of the denoiser is exact",
    topic=TOPIC,
    formula=r"\mathbb{E}[x_s \mid x_t] = A\,\mathbb{E}[x_0 \mid x_t] + B\,x_t",
    covers=["TOPA-30", "PODB-08", "PODA-220", "PODA-226", "PODB-11"],
    control="A and B that sum to 1, an affine interpolation of x_t and the clean prediction",
)
def plug_in_mean(case: ModelCase, wrong: bool) -> Sides:
    """Bayes on the channel s -> t with prior p_s against Bayes on the kernel 0 -> t with prior p_0."""
    step = Step.of(case)
    left = case.process.channel(case.s, case.t).posterior_mean(case.model.marginal(case.s), case.x)
    from_x0 = (1 - step.of_xt if wrong else step.of_x0) * case.model.denoiser(case.x, case.t)
    return Sides(left, from_x0 + step.of_xt * case.x, scale=np.abs(from_x0).max() + np.abs(step.of_xt * case.x).max())


@identity(
    "Reverse mean: one-step Tweedie",
    topic=TOPIC,
    formula=r"\mathbb{E}[x_s \mid x_t] = \frac{x_t - (b/\sigma_t)\,\epsilon^*}{\alpha_t/\alpha_s},\quad"
    r"\mathbb{E}[\epsilon_t \mid x_t] = \frac{\sqrt{b}}{\sigma_t}\,\mathbb{E}[\bar\epsilon \mid x_t]",
    covers=["TOPA-05", "TOPA-10", "TOPA-33", "DMI-23", "PODA-218", "PODA-219", "PODA-225", "TOPA-38b"],
    control="the network of the total noise used where the step noise belongs: sqrt(b) eps*",
)
def step_tweedie(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes on the channel s -> t against the score of p_t; and the posterior mean of the step's own noise."""
    step = Step.of(case)
    mean = case.process.channel(case.s, case.t).posterior_mean(case.model.marginal(case.s), case.x)
    noise = case.model.noise(case.x, case.t)
    shift = np.sqrt(step.fresh) * noise if wrong else step.fresh / np.sqrt(step.v_t) * noise
    size = np.abs(case.x).max() + np.abs(shift).max()
    step_noise = (case.x - step.ratio * mean) / np.sqrt(step.fresh)
    return [
        Sides(mean, (case.x - shift) / step.ratio, scale=size / np.min(step.ratio)),
        Sides(step_noise, shift / np.sqrt(step.fresh), scale=size / np.sqrt(np.min(step.fresh))),
    ]


@identity(
    "Reverse kernel as a mixture, three ways",
    topic=TOPIC,
    formula=r"q(x_s \mid x_t) = \frac{q(x_t \mid x_s)\,p_s(x_s)}{p_t(x_t)}"
    r" = \int q(x_s \mid x_t, x_0)\,p(x_0 \mid x_t)\,dx_0",
    covers=["TOPA-27", "TOPA-90", "PODA-213", "PODA-214", "PHY-24", "DMI-38"],
    control="the posterior given x_0 with x_0 replaced by its posterior mean",
)
def reverse_mixture(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """Bayes' quotient of densities, Bayes on components, and the DDPM posterior pushed through p(x_0 | x_t)."""
    step, between, before = Step.of(case), case.process.channel(case.s, case.t), case.model.marginal(case.s)
    for xt in case.x[:1]:
        by_components = between.posterior(before, xt)
        clean = case.model.posterior(xt, case.t)
        if wrong:
            clean = Gaussian(clean.mean(), 0.0)
        averaged = Channel(step.of_x0, step.of_xt * xt, step.variance).push(clean)
        xs = by_components.sample(3, case.rng)
        terms = [[between.logpdf(xt, x)[()], before.logpdf(x), -case.model.log_density(xt, case.t)] for x in xs]
        # a log density is a log det and a quadratic, which is as exact as its x / std
        reach = (np.abs(xs).max() / np.sqrt(np.min(step.variance)) + 1) * case.law.dim
        yield Sides(np.sum(terms, axis=1), by_components.logpdf(xs), scale=np.abs(terms).max() + reach)
        yield Sides(averaged.logpdf(xs), by_components.logpdf(xs), scale=np.abs(terms).max() + reach)


@identity(
    "Reverse covariance: law of total covariance and second-order Tweedie",
    topic=TOPIC,
    formula=r"\mathrm{Cov}[x_s \mid x_t] = v I + A^2\,\mathrm{Cov}[x_0 \mid x_t]"
    r" = \frac{b}{r^2}\left(I + b\,\nabla^2 \log p_t\right)",
    covers=["TOPA-38b", "TOPA-91", "PODA-216", "PODB-08"],
    control="the posterior variance v alone, as if the data were known",
    needs=lambda case: case.law.count * case.law.dim**2 <= 10**6,
)
def reverse_covariance(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes on the channel s -> t against Bayes on the kernel 0 -> t, and against the Hessian of log p_t."""
    step, eye = Step.of(case), np.eye(case.law.dim)
    x = case.x[:3]
    left = case.process.channel(case.s, case.t).posterior_cov(case.model.marginal(case.s), x)
    # per axis, A^2 C means A C A and b / r^2 sits on the diagonal
    a, r, b = (np.broadcast_to(value, (case.law.dim,)) for value in (step.of_x0, step.ratio, step.fresh))
    spread = np.outer(a, a) * case.model.posterior_covariance(x, case.t)
    curved = (b[:, None] * eye + np.outer(b, b) * case.model.hessian(x, case.t)) / np.outer(r, r)
    return [
        Sides(left, step.variance * eye + (0.0 if wrong else spread)),
        Sides(left, curved, scale=np.max(b / r**2) + np.abs(curved).max()),
    ]
