r"""Reverse kernels: one step back, given the data point or averaged over it.

A step s < t has the ratio r = alpha_t / alpha_s and the fresh variance b = sigma_t^2 - r^2 sigma_s^2. Bayes' rule for
the Markov chain gives, for any schedule and any law,

    q(x_s | x_t, x_0) = q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0) = N( A x_0 + B x_t, v ),
                        A = alpha_s b / sigma_t^2,   B = r sigma_s^2 / sigma_t^2,   v = b sigma_s^2 / sigma_t^2
    q(x_s | x_t)      = q(x_t | x_s) p_s(x_s) / p_t(x_t) = int q(x_s | x_t, x_0) p(x_0 | x_t) dx_0
                        mean        A D + B x_t = (x_t + b grad log p_t) / r
                        covariance  v + A^2 Cov[x_0 | x_t] = b / r^2 (1 + b hess log p_t)

The letters come from alpha and sigma alone; the second route is Gaussian conditioning of channels, component by
component, which knows none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.distributions.covariances import Diagonal
from refdiff.validation.cases import ModelCase, ProcessCase
from refdiff.validation.identities.forward_kernels import path
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import diagonal_log_normal

TOPIC = "Reverse kernels"


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


# ---------------------------------------------------------------------- given x_0


@identity(
    "The posterior between two times",
    topic=TOPIC,
    formula=r"q(x_s \mid x_t, x_0) = \mathcal{N}(A x_0 + B x_t,\ v I),\quad"
    r" A = \tfrac{\alpha_s b}{\sigma_t^2},\ B = \tfrac{r \sigma_s^2}{\sigma_t^2},"
    r"\ v = \tfrac{b \sigma_s^2}{\sigma_t^2}",
    covers=["PODB-07", "PHY-25", "PHY-26", "PODA-215"],
    control="sigma_s / sigma_t in place of their squares",
    most=12,
)
def posterior_between(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """Letters against the dense joint of (x_s, x_t) given x_0 conditioned, and against the channel turned round."""
    step, dim, xt = Step.of(case), case.law.dim, case.x[0]
    x0 = case.law.sample(1, case.rng)[0]
    of_xt = step.of_xt * np.sqrt(step.v_t / step.v_s) if wrong else step.of_xt
    mean, variance = of_xt * xt + step.of_x0 * x0, np.broadcast_to(step.variance, (dim,))
    to_s, to_t = case.process.kernel(case.s).at(x0), case.process.kernel(case.t).at(x0)
    between = case.process.channel(case.s, case.t)
    given = path(to_s, [between]).conditional(range(dim, 2 * dim), xt)
    size = np.abs(step.alpha_s * x0).max() + np.abs(xt).max()
    yield Sides(given.mean(), mean, scale=size)
    yield Sides(given.cov(), np.diag(variance), scale=np.max(step.v_s))
    back = between.reverse(to_s)
    yield Sides(back.gain, of_xt)
    yield Sides(back.offset, step.of_x0 * x0, scale=size)
    yield Sides(back.noise, step.variance)
    # averaged over x_t given x_0 it is the kernel of x_s again
    yield Sides(back.push(to_t).mean(), to_s.mean(), scale=size)
    yield Sides(back.push(to_t).cov(), to_s.cov())
    start = case.process.coefficients(0.0)
    if not np.any(start.sigma):  # from s = 0 it lands on x_0
        home = case.process.kernel(case.t).reverse(Gaussian(start.alpha * x0, start.sigma**2))
        for found, expected in ((home.gain, 0.0), (home.noise, 0.0), (home.offset, x0)):
            yield Sides(found, expected)


@identity(
    "Bayes' rule for a step, given x_0",
    topic=TOPIC,
    formula=r"q(x_s \mid x_t, x_0)\, q(x_t \mid x_0) = q(x_t \mid x_s)\, q(x_s \mid x_0)",
    covers=["PODB-05", "TOPA-27", "DMI-19", "PODA-213", "PHY-25"],
    control="the normaliser q(x_t | x_0) taken at time s",
    most=12,
)
def bayes_quotient(case: ModelCase, wrong: bool) -> Sides:
    """Three channel densities at points x_s that are not special, against the density in letters."""
    process, step, x0, xt = case.process, Step.of(case), case.law.sample(1, case.rng)[0], case.x[0]
    mean = step.of_x0 * x0 + step.of_xt * xt
    xs = mean + 3 * np.sqrt(step.variance) * case.rng.standard_normal((5, case.law.dim))
    likelihood = np.array([process.channel(case.s, case.t).logpdf(xt, x) for x in xs])
    prior, evidence = process.kernel(case.s).logpdf(xs, x0), process.kernel(case.s if wrong else case.t).logpdf(xt, x0)
    size = np.abs(likelihood) + np.abs(prior) + np.abs(evidence) + case.law.dim
    return Sides(likelihood + prior - evidence, diagonal_log_normal(xs, mean, step.variance), scale=size)


# ---------------------------------------------------------------------- x_0 averaged out


@identity(
    "The reverse kernel as a mixture, three ways",
    topic=TOPIC,
    formula=r"q(x_s \mid x_t) = \frac{q(x_t \mid x_s)\,p_s(x_s)}{p_t(x_t)}"
    r" = \int q(x_s \mid x_t, x_0)\,p(x_0 \mid x_t)\,dx_0",
    covers=["TOPA-27", "TOPA-90", "PODA-213", "PODA-214", "PHY-24", "DMI-38"],
    control="the posterior given x_0 with x_0 replaced by its posterior mean",
    most=12,
)
def reverse_mixture(case: ModelCase, wrong: bool) -> list[Sides]:
    """The quotient of densities, Bayes on components, and the posterior given x_0 pushed through p(x_0 | x_t)."""
    step, between, before = Step.of(case), case.process.channel(case.s, case.t), case.model.marginal(case.s)
    xt, clean = case.x[0], case.model.posterior(case.x[0], case.t)
    if wrong:
        clean = Gaussian(clean.mean(), 0.0)
    averaged = Channel(step.of_x0, step.of_xt * xt, step.variance).push(clean)
    by_components = between.posterior(before, xt)
    xs = by_components.sample(4, case.rng)
    likelihood = np.array([between.logpdf(xt, x) for x in xs])
    prior, evidence = before.logpdf(xs), case.model.log_density(xt, case.t)
    size = np.abs(likelihood) + np.abs(prior) + np.abs(evidence) + case.law.dim
    return [
        Sides(averaged.logpdf(xs), likelihood + prior - evidence, scale=size),
        Sides(averaged.logpdf(xs), by_components.logpdf(xs), scale=size),
    ]


@identity(
    "The reverse mixture in precision form",
    topic=TOPIC,
    formula=r"p(x_s \mid x_t, k) ="
    r" \mathcal{N}\Big(v_k\big(\tfrac{\alpha_s m_k}{V_{k,s}} + \tfrac{g x_t}{q}\big), v_k\Big),"
    r"\quad \tfrac{1}{v_k} = \tfrac{1}{V_{k,s}} + \tfrac{g^2}{q},\quad V_{k,s} = \alpha_s^2 s_k^2 + \sigma_s^2",
    covers=["PODA-213"],
    control="the precision of the forward step without g^2",
    needs=lambda case: isinstance(case.law.covariances, Diagonal),
)
def precision_form(case: ModelCase, wrong: bool) -> list[Sides]:
    """Variances, means and weights of the conditioned mixture, against precisions added up."""
    here, there = case.process.coefficients(case.s), case.process.coefficients(case.t)
    step, xt, law = case.process.channel(case.s, case.t), case.x[0], case.law
    assert isinstance(law.covariances, Diagonal)
    before = here.alpha**2 * law.covariances.variances + here.sigma**2
    after = np.broadcast_to(there.alpha**2 * law.covariances.variances + there.sigma**2, law.means.shape)
    variance = 1 / (1 / before + (1 if wrong else step.gain**2) / step.noise)
    means = variance * (here.alpha * law.means / before + step.gain * xt / step.noise)
    logs = law.log_weights + diagonal_log_normal(xt, there.alpha * law.means, after)
    weights = np.exp(logs - np.logaddexp.reduce(logs))
    found = step.posterior(case.model.marginal(case.s), xt)
    assert isinstance(found.covariances, Diagonal)
    # a log density of size L is known to L eps, and so is a weight relative to itself
    return [
        Sides(found.covariances.variances, variance),
        Sides(found.means, means, scale=np.abs(found.means).max() + np.abs(xt).max()),
        Sides(found.weights, weights, scale=1 + np.abs(logs).min()),
    ]


@identity(
    "Reverse mean: the plug-in of the denoiser is exact",
    topic=TOPIC,
    formula=r"\mathbb{E}[x_s \mid x_t] = A\,\mathbb{E}[x_0 \mid x_t] + B\,x_t",
    covers=["TOPA-30", "PODB-08", "PODA-220", "PODA-226"],
    control="A and B that sum to 1, an affine interpolation of x_t and the clean prediction",
    most=12,
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
    covers=["TOPA-05", "TOPA-10", "TOPA-33", "DMI-23", "PODA-218", "TOPA-38b"],
    control="the network of the total noise used where the step noise belongs: sqrt(b) eps*",
    most=12,
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
    "Reverse covariance: law of total covariance and second-order Tweedie",
    topic=TOPIC,
    formula=r"\mathrm{Cov}[x_s \mid x_t] = v I + A^2\,\mathrm{Cov}[x_0 \mid x_t]"
    r" = \frac{b}{r^2}\left(I + b\,\nabla^2 \log p_t\right)",
    covers=["TOPA-38b", "TOPA-91", "PODA-216", "PODB-08"],
    control="the posterior variance v alone, as if the data were known",
    needs=lambda case: case.law.count * case.law.dim**2 <= 10**6,
    most=12,
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
