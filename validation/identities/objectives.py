r"""The library's bounds and losses against path laws, determinants and integrals that know none of them.

With data x beside latents x_{t_0}, ..., x_{t_L} (all of them noisy) the bound sums the steps i = 1..L; where the first
latent is taken for the data, the step i = 1 is the divergence of a point and counts the reconstruction twice.

The continuous loss of any linear process is information: with J = A' C^-1 A and J' = -A' C^-1 D C^-1 A,

    -1/2 int tr(J' E Cov[x_0 | x_t]) dt  =  1/2 log det(I + S J_s) - 1/2 log det(I + S J_t)

for Gaussian data, so that it forgets all of the process but J at its ends, also where these matrices do not commute.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.model import ExactModel
from refdiff.objectives import (
    Quadrature,
    continuous_loss,
    discrete_loss,
    importance_sampling,
    posterior_step,
    signal_to_noise,
    variational_bound,
)
from refdiff.processes import AffineProcess, LinearProcess, Process
from refdiff.schedules import FlowMatching, Schedule, VPLinear
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identities.elbo import Chain, average, perturbed
from refdiff.validation.identities.forward_kernels import path
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, well_conditioned
from refdiff.validation.numeric import derivative, legendre

TOPIC = "Objectives"


def processes(rng: np.random.Generator, dim: int) -> list[Process]:
    """On R^dim: a matrix SDE that does not commute with itself, with a force; one schedule per axis, with an offset."""
    f, g, force = rng.normal(0, 0.5, (2, dim, dim)), well_conditioned(rng, dim), rng.normal(0, 1, dim)
    turn = 0.2 * rng.normal(0, 1, (dim, dim))
    schedules: list[Schedule] = [VPLinear(0.1, 5.0 + axis) if axis % 2 else FlowMatching() for axis in range(dim)]
    return [
        LinearProcess(lambda t: f[0] + t * f[1], lambda t: g + np.sin(3 * t) * turn, force=force),
        AffineProcess(schedules, lambda t: (t * force, force, 0 * force)),
    ]


@identity(
    "The bound with the clean data beside the latents",
    topic=TOPIC,
    formula=r"-\mathrm{ELBO} = \mathbb{E}_{p(x_0|x)}[-\log p_\phi(x|x_0)] + \mathrm{KL}(p(x_L|x) \| p_{prior})"
    r" + \sum_{i=1}^L \mathbb{E}\,\mathrm{KL}(p(x_{i-1}|x_i,x) \| p_\phi(x_{i-1}|x_i))"
    r" = \mathrm{KL}(p(x_{0:L}|x) \| p_\phi(x_{0:L}|x)) - \log p_\phi(x)",
    covers=["PODD-101", "PODA-223", "PODA-222"],
    over="once",
    control="the first latent renamed to the data and the sum still from i = 1: its point, blurred to 1e-4, once more",
)
def latents_beside_data(case: Case, wrong: bool) -> Iterator[Sides]:
    """`variational_bound` for two processes and any covariances against dense path laws conditioned on x."""
    rng, dim = case.rng, 2
    for process in processes(rng, dim):
        data, times = gaussian(rng, dim), np.array([0.2, 0.5, 0.9]) * process.T
        model, prior = ExactModel(data, process), gaussian(rng, dim)
        forward = [process.kernel(times[0]), *(process.channel(*pair) for pair in pairwise(times.tolist()))]
        back = [
            channel.reverse(law) for channel, law in zip(forward, [data, *map(model.marginal, times)], strict=False)
        ]
        spreads = [operators.dense(perturbed(one, rng).noise, dim) for one in back]
        chain = Chain(data, forward, prior, [Channel(b.gain, b.offset, w) for b, w in zip(back, spreads, strict=True)])
        joint, modelled, x = chain.joint(), chain.modelled(), data.sample(1, rng)[0]
        likelihood = modelled.marginal(range(dim)).logpdf(x)
        gap = kl_divergence(joint.conditional(range(dim), x), modelled.conditional(range(dim), x))
        found = variational_bound(model, times, x, variances=spreads[1:], decoder=spreads[0], prior=prior)
        total = found.total
        if wrong:
            total += kl_divergence(Gaussian(x, 1e-8), chain.model[0].at(model.process.kernel(times[0]).at(x).mean()))
        yield Sides(gap - likelihood, total, scale=gap + abs(likelihood))
        whole = variational_bound(model, times, variances=spreads[1:], decoder=spreads[0], prior=prior)
        expected = average(chain.bound, data)
        yield Sides(expected, whole.total + (total - found.total), scale=abs(expected) + gap)


@identity(
    "Coefficients of a posterior step under any linear process",
    topic=TOPIC,
    formula=r"q(x_s|x_t,x_0) = N(A x_0 + B x_t + c, V),\quad A = F^{-1} N T^{-1} F A_s,\ T = F C_s F' + N,\quad"
    r" A' V^{-1} A = J_s - J_t,\ J = A_t' C_t^{-1} A_t",
    covers=["PODB-07", "PODA-215", "PODB-09"],
    over="once",
    control="the law of x_s given x_t alone",
)
def coefficients(case: Case, wrong: bool) -> Iterator[Sides]:
    """Dense conditioning of (x_0, x_s, x_t), and the difference of two signal-to-noise matrices."""
    rng, dim = case.rng, 3
    for process in processes(rng, dim):
        s, t = np.array([0.3, 0.55]) * process.T
        data, step = gaussian(rng, dim), posterior_step(process, s, t, dim)
        joint = path(data, [process.kernel(s), process.channel(s, t)])
        x0, xt = data.sample(1, rng)[0], rng.normal(0, 1, dim)
        if wrong:
            given = joint.marginal(range(dim, 3 * dim)).conditional(range(dim, 2 * dim), xt)
        else:
            given = joint.conditional([*range(dim), *range(2 * dim, 3 * dim)], np.concatenate([x0, xt]))
        size = np.abs(xt).max() + np.abs(x0).max() + 1
        yield Sides(given.mean(), step.mean(x0, xt), scale=size)
        yield Sides(given.cov(), operators.dense(step.posterior, dim))
        a, v = (operators.dense(part, dim) for part in (step.of_x0, step.posterior))
        early, late = (operators.dense(signal_to_noise(process, u), dim) for u in (s, t))
        yield Sides(a.T @ np.linalg.solve(v, a), early - late, scale=np.abs(early).max() * np.linalg.cond(v))


@identity(
    "Information between two times of any linear process",
    topic=TOPIC,
    formula=r"-\tfrac12\int_s^t \mathrm{tr}(J'\,\mathbb{E}\,\mathrm{Cov}[x_0|x_\tau])\,d\tau"
    r" = \tfrac12\log\frac{\det(I + S J_s)}{\det(I + S J_t)},\quad J' = -A' C^{-1} D C^{-1} A",
    covers=["PODB-10"],
    over="once",
    evidence=QUADRATURE,
    control="the diffusion D left out of J'",
)
def information(case: Case, wrong: bool) -> Iterator[Sides]:
    """Gauss-Legendre over dense posterior covariances against `continuous_loss`, on average and at a data point."""
    rng, dim, (u, w) = case.rng, 3, legendre(32)
    for process in processes(rng, dim):
        data = gaussian(rng, dim)
        model, (s, t) = ExactModel(data, process), np.array([0.3, 0.9]) * process.T
        x0 = data.sample(1, rng)[0]
        at_point = mean = 0.0
        for tau, weight in zip(s + (t - s) * u, (t - s) * w, strict=True):
            kernel = process.kernel(float(tau))
            a, c = operators.dense(kernel.gain, dim), operators.dense(kernel.noise, dim)
            known, spread = np.linalg.solve(c, a), operators.dense(process.diffusion(float(tau)), dim)
            rate = 0.5 * weight * known.T @ (np.eye(dim) if wrong else spread) @ known
            left = np.linalg.inv(np.linalg.inv(data.cov()) + a.T @ known)
            gain = left @ known.T
            bias = (np.eye(dim) - gain @ a) @ (x0 - data.mean())
            mean += np.trace(rate @ left)
            at_point += bias @ rate @ bias + np.trace(rate @ gain @ c @ gain.T)
        yield Sides(mean, continuous_loss(model, s, t).value)
        yield Sides(at_point, continuous_loss(model, s, t, x0).value)


@identity(
    "The discrete loss is the bound's sum of steps",
    topic=TOPIC,
    formula=r"\tfrac12\sum_i \mathbb{E}(x_0 - D)'(J_{i-1} - J_i)(x_0 - D)"
    r" = \sum_{i\ge2}\mathbb{E}\,\mathrm{KL}(q(x_{i-1}|x_i,x_0) \| p(x_{i-1}|x_i)),\ W = V",
    covers=["PODB-09", "PODB-10", "PODA-217"],
    evidence=QUADRATURE,
    control="the large variances, of the step forwards",
    needs=lambda case: isinstance(case.law, Gaussian) or case.law.dim == 1,
    most=6,
)
def discrete(case: ModelCase, wrong: bool) -> list[Sides]:
    """Differences of signal-to-noise ratios against posteriors of steps; mixtures by quadrature, to its tolerance."""
    route = None if isinstance(case.law, Gaussian) else Quadrature(1e-10)
    times, x0 = np.linspace(case.s, case.t, 4), case.law.sample(1, case.rng)
    sides = []
    for points in (None, x0):
        steps = variational_bound(
            case.model, times, points, variances="large" if wrong else "small", decoder=1.0, route=route
        )
        loss = discrete_loss(case.model, times, points, route=route).value
        # differences of SNRs cancel to the size of the first
        ratio = operators.dense(signal_to_noise(case.process, case.s), case.law.dim).max() * np.trace(case.law.cov())
        sides.append(Sides(loss, steps.diffusion, scale=loss + 1e-6 * ratio))
    return sides


@identity(
    "The loss at a data point has the mean squared error for its rate",
    topic=TOPIC,
    formula=r"\frac{d}{ds} L(s, t; x_0) = \tfrac12 \mathrm{SNR}'(s)\, \mathbb{E}[|x_0 - D(x_s)|^2 | x_0]",
    covers=["PODB-10"],
    evidence=DERIVATIVE,
    control="the mean squared error on average over the data",
    needs=lambda case: isinstance(case.law, Gaussian) and smooth(case),
    most=8,
)
def rate_of_loss(case: ModelCase, wrong: bool) -> Sides:
    """A stencil of the closed loss against the errors of the model's denoiser over exact nodes of the noise."""
    x0, c = case.law.sample(1, case.rng)[0], case.process.coefficients(case.s)
    found = derivative(lambda u: continuous_loss(case.model, u, case.t, x0).value, case.s, 0.01 * case.s)
    z = np.sqrt(case.law.dim) * np.concatenate([np.eye(case.law.dim), -np.eye(case.law.dim)])
    start = case.law.sample(len(z), case.rng) if wrong else x0
    x = c.alpha * start + c.sigma * z
    error = ((start - case.model.denoiser(x, case.s)) ** 2).sum(axis=1).mean()
    ratio = np.exp(2 * c.log_snr)
    rate = 2 * case.process.schedules[0].dlog_snr(case.s) * ratio
    return Sides(found, 0.5 * rate * error, scale=abs(rate * error) + abs(found))


@identity(
    "Weights of exact kernels are the density of the data",
    topic=TOPIC,
    formula=r"\log w = \log p_T(x_T) + \sum_i \log \frac{q(x_{i-1}|x_i)}{q(x_i|x_{i-1})} = \log p_0(x_0)"
    r" \quad \text{on every path}",
    covers=["DMI-30", "DMI-38", "PODA-213", "TOPA-27"],
    control="the prior N(0, I) in place of p_T",
    needs=lambda case: not case.law.covariances.singular and case.law.dim <= 16,
    most=12,
)
def constant_weights(case: ModelCase, wrong: bool) -> Sides:
    """`importance_sampling` on paths of four times, every weight against the log density of the data."""
    x0 = case.law.sample(2, case.rng)
    prior = Gaussian(np.zeros(case.law.dim), 1.0) if wrong else None
    found = importance_sampling(case.model, np.linspace(case.s, case.t, 4), x0, 5, case.seed, prior=prior)
    exact: Array = case.law.logpdf(x0)
    # densities of steps back and forth, of which some 10 d remain after d log(2 pi b) / 2 are taken from each other
    size = 40 * case.law.dim + np.abs(exact).max()
    return Sides(found.log_weights, exact[:, None], scale=size)
