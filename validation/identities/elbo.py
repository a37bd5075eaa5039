r"""Variational bounds of latent chains, on linear-Gaussian models where every term has a closed form.

    joint KL     KL(p(x_0:T) || p_phi(x_0:T)) = KL(p_T || prior) + sum_i E KL( p(x_{i-1}|x_i) || p_phi(x_{i-1}|x_i) )
    bound at x_0 -log p_phi(x_0) + KL( q(x_1:T|x_0) || p_phi(x_1:T|x_0) ) = I + II + III,
                 I = KL(q(x_T|x_0) || prior),  II = -E log p_phi(x_0|x_1),
                 III = sum_{i>=2} E KL( q(x_{i-1}|x_i, x_0) || p_phi(x_{i-1}|x_i) )

The left sides are one divergence of two dense path laws, the right sides are sums over steps whose expectations are
exact cubatures of quadratics (`laws.cubature`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, entropy, kl_divergence, random_mixture
from refdiff.distributions.mixture import GaussianMixture
from refdiff.validation.cases import Case, ModelCase, TableCase
from refdiff.validation.identities.forward_kernels import path
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import cubature

TOPIC = "Variational bounds"


def average(function: Callable[[Array], float], law: GaussianMixture) -> float:
    """E f(x) for a quadratic function of a point (d,) over a Gaussian."""
    return float(np.mean([function(x) for x in cubature(law)[0]]))


def average_kl(p: Channel, q: Channel, law: GaussianMixture) -> float:
    """E KL(p(.|x) || q(.|x)) over the Gaussian `law` of x."""
    return average(lambda x: kl_divergence(p.at(x), q.at(x)), law)


def perturbed(channel: Channel, rng: np.random.Generator) -> Channel:
    """A channel near a given one: other gain, offset and noise."""
    dim = len(np.atleast_1d(channel.offset))
    gain = operators.dense(channel.gain, dim) + 0.2 * rng.standard_normal((dim, dim))
    noise = 1.3 * operators.dense(channel.noise, dim) + 0.1 * np.eye(dim)
    return Channel(gain, channel.offset + 0.2 * rng.standard_normal(dim), noise)


@dataclass(frozen=True, eq=False)
class Chain:
    """A noising chain of Gaussian data and a model of it: model[i] sends x_{i+1} to x_i."""

    data: Gaussian
    forward: list[Channel]
    prior: Gaussian
    model: list[Channel]

    @staticmethod
    def random(case: Case, exact: bool = False, dim: int = 2, steps: int = 4) -> Chain:
        """Random data on R^dim, and betas; reverse kernels that are exact, or near the exact ones."""
        rng = case.rng
        law = random_mixture(dim, 1, rng, "full", spread=0.7)
        data = Gaussian(law.mean(), law.cov())
        forward = [Channel(np.sqrt(1 - beta), 0.0, beta) for beta in rng.uniform(0.1, 0.6, steps)]
        found = Chain(data, forward, Gaussian(np.zeros(dim), 1.0), [])
        reverse = [channel.reverse(found.marginal(i)) for i, channel in enumerate(forward)]
        return Chain(data, forward, found.prior, reverse if exact else [perturbed(back, rng) for back in reverse])

    def marginal(self, i: int, start: Gaussian | None = None) -> Gaussian:
        """The law of x_i, from the data or from a given law of x_0."""
        law: GaussianMixture = self.data if start is None else start
        for channel in self.forward[:i]:
            law = channel.push(law)
        return Gaussian(law.mean(), law.cov())

    def joint(self) -> Gaussian:
        """The noising law of (x_0..x_T)."""
        return path(self.data, self.forward)

    def modelled(self) -> GaussianMixture:
        """The model's law of (x_0..x_T)."""
        backwards = np.arange(len(self.model) + 1)[::-1, None] * self.data.dim + np.arange(self.data.dim)
        return path(self.prior, self.model[::-1]).marginal(backwards.ravel())

    def bound(self, x0: Array, doubled: bool = False) -> float:
        """I + II + III at x0 (d,); `doubled` starts the sum III at i = 1, its point mass blurred to a width of 1e-4."""
        start = Gaussian(x0, 1e-8 if doubled else 0.0)
        total = kl_divergence(self.marginal(len(self.forward), start), self.prior)
        total += average(lambda x1: -float(self.model[0].logpdf(x0, x1)), self.marginal(1, start))
        for i in range(0 if doubled else 1, len(self.forward)):
            posterior = self.forward[i].reverse(self.marginal(i, start))
            total += average_kl(posterior, self.model[i], self.marginal(i + 1, start))
        return total


# ---------------------------------------------------------------------- diffusion chains


@identity(
    "Joint divergence of two chains, step by step",
    topic=TOPIC,
    formula=r"\mathrm{KL}(p(x_{0:T}) \| q(x_{0:T})) = \mathrm{KL}(p_T \| q_T)"
    r" + \sum_t \mathbb{E}_{p_t} \mathrm{KL}(p(x_{t-1}|x_t) \| q(x_{t-1}|x_t))",
    covers=["TOPA-18", "TOPA-19", "TOPA-20", "PODA-224"],
    over="once",
    control="divergences at the mean of x_t, the expectation over x_t left out",
)
def joint_divergence(case: Case, wrong: bool) -> Iterator[Sides]:
    """One dense divergence of path laws against the reverse kernels of every step, and against the step at x_0.

    The second form says by how much the bound on KL(p_0 || p_phi(x_0)) is loose: by another divergence.
    """
    chain = Chain.random(case)
    left = kl_divergence(chain.joint(), chain.modelled())
    right = kl_divergence(chain.marginal(len(chain.forward)), chain.prior)
    for i, (channel, model) in enumerate(zip(chain.forward, chain.model, strict=True)):
        back, after = channel.reverse(chain.marginal(i)), chain.marginal(i + 1)
        right += average_kl(back, model, Gaussian(after.mean(), 0.0) if wrong else after)
    yield Sides(left, right)
    joint, modelled, first = chain.joint(), chain.modelled(), range(chain.data.dim)

    def rest(x0: Array) -> float:
        return kl_divergence(joint.conditional(first, x0), modelled.conditional(first, x0))

    yield Sides(left, kl_divergence(chain.data, modelled.marginal(first)) + average(rest, chain.data))


@identity(
    "Variational bound at a data point",
    topic=TOPIC,
    formula=r"-\log p_\phi(x_0) + \mathrm{KL}(q(x_{1:T}|x_0) \| p_\phi(x_{1:T}|x_0))"
    r" = \mathrm{I} + \mathrm{II} + \sum_{i\ge2} \mathbb{E}\,\mathrm{KL}(q(x_{i-1}|x_i,x_0) \| p_\phi(x_{i-1}|x_i))",
    covers=["DMI-24", "DMI-25", "DMI-29", "PODA-217", "PODA-222", "PODA-223"],
    refutes=["PODA-223", "PODA-217"],
    over="once",
    control="the sum from i = 1, which counts the reconstruction twice, with its infinite term blurred to a finite one",
)
def bound_at_point(case: Case, wrong: bool) -> Iterator[Sides]:
    """Dense path laws conditioned on x_0 against the sum over steps; log p_phi(x_0) also by pushing the prior."""
    chain, dim = Chain.random(case), 2
    joint, modelled, x0 = chain.joint(), chain.modelled(), chain.data.sample(1, case.rng)[0]
    likelihood = modelled.marginal(range(dim)).logpdf(x0)
    gap = kl_divergence(joint.conditional(range(dim), x0), modelled.conditional(range(dim), x0))
    yield Sides(gap - likelihood, chain.bound(x0, doubled=wrong), scale=gap + abs(likelihood))
    generated: GaussianMixture = chain.prior
    for channel in chain.model[::-1]:
        generated = channel.push(generated)
    yield Sides(likelihood, generated.logpdf(x0))


@identity(
    "Bound of exact reverse kernels",
    topic=TOPIC,
    formula=r"\mathbb{E}\,(\mathrm{I} + \mathrm{II} + \mathrm{III}) = H(p_0) + \mathrm{KL}(p_T \| N(0, I))",
    covers=["DMI-24", "PODA-223", "TOPA-19"],
    over="once",
    control="the sign of the entropy, of the data turned",
)
def exact_kernels(case: Case, wrong: bool) -> Sides:
    """The bound averaged over Gaussian data, x_0 by x_0, when the model reverses the chain exactly."""
    chain = Chain.random(case, exact=True)
    rest = kl_divergence(chain.marginal(len(chain.forward)), chain.prior)
    return Sides(average(chain.bound, chain.data), rest + (-1 if wrong else 1) * entropy(chain.data))


@identity(
    "DDPM bound of Gaussian data in closed form",
    topic=TOPIC,
    formula=r"\mathrm{VB} = \tfrac12[\bar\alpha_T (c-1) - \log(1-\bar\alpha_T)] + \tfrac12 \log(2\pi e v_1)"
    r" + \sum_{t\ge2} w_t \frac{\bar\alpha_t c}{V_t},\quad w_t = \frac{\beta_t}{2\alpha_t(1-\bar\alpha_{t-1})}",
    covers=["DMI-24", "DMI-25", "DMI-26", "DMI-27", "PODA-217"],
    over="tables",
    control="the reconstruction term II left out, 'commonly neglected'",
    needs=lambda case: 1 < case.table.steps <= 20,
)
def gaussian_bound(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """The epsilon-loss of the exact predictor, weighted, against the dense divergence of the paths plus the entropy."""
    beta, bar = case.table.betas, case.table.alpha_bar
    before = np.append(1.0, bar[:-1])
    for data in (0.25, 1.0, 4.0):
        after, prior_v = bar * data + 1 - bar, before * data + 1 - before
        # the DDPM mean with the exact predictor, beta-tilde for i >= 2 and the true variance for the decoder
        variance = np.append(data * beta[0] / after[0], (beta * (1 - before) / (1 - bar))[1:])
        slopes = np.sqrt(1 - beta) * prior_v / after
        model = [Channel(k, 0.0, v) for k, v in zip(slopes, variance, strict=True)]
        forward = [Channel(np.sqrt(1 - b), 0.0, b) for b in beta]
        law = Gaussian([0.0], data)
        modelled = path(Gaussian([0.0], 1.0), model[::-1]).marginal(range(len(beta), -1, -1))
        divergence = kl_divergence(path(law, forward), modelled)
        first = 0.5 * (bar[-1] * (data - 1) - np.log1p(-bar[-1]))
        second = 0.0 if wrong else 0.5 * np.log(2 * np.pi * np.e * variance[0])
        third = (beta / (2 * (1 - beta)) * bar * data / after)[1:] / (1 - bar[:-1])
        yield Sides(divergence + entropy(law), first + second + third.sum(), scale=third.sum() + abs(second))


@identity(
    "Marginal and conditional divergence differ by a constant",
    topic=TOPIC,
    formula=r"\mathbb{E}\,\mathrm{KL}(p(x_s|x_t) \| p_\phi) = \mathbb{E}\,\mathrm{KL}(p(x_s|x_t,x_0) \| p_\phi)"
    r" - I(x_s; x_0 \mid x_t)",
    covers=["PODA-214"],
    control="the mutual information left out",
    needs=lambda case: isinstance(case.law, Gaussian) and case.law.dim <= 16,
)
def marginal_conditional(case: ModelCase, wrong: bool) -> Sides:
    """Both divergences from an arbitrary Gaussian kernel, averaged exactly; the constant from two determinants."""
    to_s, between = case.process.kernel(case.s), case.process.channel(case.s, case.t)
    after, dim = case.model.marginal(case.t), case.law.dim
    back = between.reverse(Gaussian(case.model.marginal(case.s).mean(), case.model.marginal(case.s).cov()))
    noise = operators.dense(back.noise, dim)
    gain = 0.9 * operators.dense(back.gain, dim)
    scale = np.sqrt(np.trace(noise) / dim)
    model = Channel(gain, back.offset + 0.3 * scale, 1.2 * noise + 0.1 * scale**2 * np.eye(dim))
    left = average_kl(back, model, after)

    def given(point: Array) -> float:
        x0, xt = point[:dim], point[dim:]
        return kl_divergence(between.reverse(to_s.at(x0)).at(xt), model.at(xt))

    conditional = average(given, path(Gaussian(case.law.mean(), case.law.cov()), [case.process.kernel(case.t)]))
    known = operators.dense(between.reverse(to_s.at(case.law.mean())).noise, dim)
    information = 0.5 * (np.linalg.slogdet(noise)[1] - np.linalg.slogdet(known)[1])
    # a quadratic q of a difference of means m is exact to sqrt(q) |m| / std
    reach = np.abs(cubature(after)[0]).max() * np.abs(gain).max() + np.abs(back.offset).max()
    slack = np.sqrt(conditional * np.linalg.norm(np.linalg.inv(noise), 2)) * reach
    return Sides(left, conditional - (0.0 if wrong else information), scale=conditional + information + slack)
