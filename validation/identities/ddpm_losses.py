r"""The losses of a reverse step: regressions on x_s, on the clean data and on the noise, and their exact relations.

Pointwise, with x_t = r x_s + sqrt(b) eps_t = alpha_t x_0 + sigma_t eps and the means written through a network,

    |x_s - mu|^2 = b / r^2 |eps_t - net|^2,      |x_0 - D|^2 = sigma_t^2 / alpha_t^2 |eps - net|^2,
    KL( q(x_s|x_t,x_0) || p_phi(x_s|x_t) ) = |x_0 - D|^2 (SNR_s - SNR_t) / 2

and in expectation a regression on a random target is the regression on its conditional mean plus a variance that no
network can change. The noise of the step and the rest of the noise turn into (eps, w) by a reflection of the plane,
w independent of x_t: integrating w out is what turns the loss on eps_t into the loss on eps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.predictions import convert
from refdiff.validation.cases import ModelCase, TableCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identities.ddim_family import table_steps
from refdiff.validation.identities.ddpm_posterior import long
from refdiff.validation.identities.forward_kernels import moments_of_chain, path
from refdiff.validation.identities.kernel_sde import panels
from refdiff.validation.identities.reverse_kernels import Step
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import cubature
from refdiff.validation.numeric import hermite

TOPIC = "DDPM losses"


# ---------------------------------------------------------------------- weights


@identity(
    "Weights of the bound: clean data, noise and SNR",
    topic=TOPIC,
    formula=r"\frac{A^2}{2\tilde\beta_t} = \tfrac12(\mathrm{SNR}_{t-1} - \mathrm{SNR}_t)"
    r" = w_t \frac{\bar\alpha_t}{1-\bar\alpha_t},\quad w_t = \frac{\beta_t}{2(1-\beta_t)(1-\bar\alpha_{t-1})}"
    r" = \frac{\beta_t^2}{2\tilde\beta_t\,\alpha_t(1-\bar\alpha_t)}",
    covers=["DMI-26", "TOPA-15", "PODA-217", "PODA-218", "PODA-220", "PODB-09"],
    refutes=["DMI-26"],
    over="tables",
    control="sqrt(1 - alpha_t) where sqrt(1 - alpha_bar_t) belongs, as printed twice",
    needs=long,
)
def weights_of_bound(case: TableCase, wrong: bool) -> list[Sides]:
    """BetaTable's posterior, the drop of the signal-to-noise ratio of the chain, and the two printed weights."""
    step, posterior, beta = table_steps(case), case.table.posterior(), case.table.betas[1:]
    snr = (step.alpha_t**2 / step.v_t)[:-1], (step.alpha_t**2 / step.v_t)[1:]
    of_x0 = posterior.of_x0[1:] ** 2 / (2 * posterior.variance[1:])
    of_noise = beta / (2 * (1 - beta) * step.v_s[1:])
    under = beta if wrong else step.v_t[1:]
    luo = beta**2 / (2 * posterior.variance[1:] * (1 - beta) * under)
    return [
        Sides(of_x0, 0.5 * (snr[0] - snr[1]), scale=snr[0]),
        Sides(of_x0, of_noise * snr[1], scale=of_x0),
        Sides(of_noise, luo, scale=of_noise),
    ]


@identity(
    "Divergence of a step as a weighted noise loss",
    topic=TOPIC,
    formula=r"\mathrm{KL}(q(x_{t-1}|x_t,x_0) \| p_\theta(x_{t-1}|x_t)) = w_t \|\epsilon - \hat\epsilon\|^2",
    covers=["DMI-26", "TOPA-15", "PODA-217", "PODA-218"],
    over="tables",
    control="the factor 1/2 of the Gaussian divergence left out",
    needs=long,
)
def step_divergence(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """Bayes' posterior given x_0 against the DDPM kernel of a wrong network, at the second, middle and last step."""
    step, rng = table_steps(case), case.rng
    for i in (1, case.table.steps // 2, case.table.steps - 1):
        beta = case.table.betas[i]
        x0, noise, network = rng.standard_normal((3, 3))
        xt = step.alpha_t[i] * x0 + np.sqrt(step.v_t[i]) * noise
        before = Gaussian(step.alpha_s[i] * x0, step.v_s[i])
        posterior = Channel(np.sqrt(1 - beta), 0.0, beta).posterior(before, xt)
        mean = (xt - beta / np.sqrt(step.v_t[i]) * network) / np.sqrt(1 - beta)
        weight = beta / ((1 if wrong else 2) * (1 - beta) * step.v_s[i])
        gap = np.abs(noise - network).max()
        # the means agree to rounding of x; their difference is beta / sigma_t times the noises' difference
        loss = weight * ((noise - network) ** 2).sum()
        size = loss * (1 + np.abs(xt).max() * np.sqrt(step.v_t[i]) / (beta * gap))
        yield Sides(kl_divergence(posterior, Gaussian(mean, posterior.cov())), loss, scale=size)


@identity(
    "Divergence of a step as an SNR-weighted regression",
    topic=TOPIC,
    formula=r"\mathrm{KL}(q(x_s|x_t,x_0) \| q(x_s|x_t,\hat x_0))"
    r" = \tfrac12(\mathrm{SNR}_s - \mathrm{SNR}_t)\|x_0 - \hat x_0\|^2",
    covers=["PODB-09", "PODA-217", "PODA-220"],
    control="alpha / sigma in place of its square",
)
def snr_regression(case: ModelCase, wrong: bool) -> Sides:
    """Two posteriors by Gaussian conditioning on channels, for any schedule, axis by axis where they differ."""
    step, between, to_s = Step.of(case), case.process.channel(case.s, case.t), case.process.kernel(case.s)
    x0, xt = case.law.sample(1, case.rng)[0], case.x[0]
    guess = x0 + case.rng.standard_normal(case.law.dim)
    laws = [between.posterior(to_s.at(point), xt) for point in (x0, guess)]
    snr = step.alpha_s**2 / step.v_s, step.alpha_t**2 / step.v_t
    drop = np.sqrt(snr[0]) - np.sqrt(snr[1]) if wrong else snr[0] - snr[1]
    loss = 0.5 * (drop * (x0 - guess) ** 2).sum()
    # the two means agree to rounding of B x_t + A x_0
    size = np.abs(step.of_xt * xt).max() + np.abs(step.of_x0 * x0).max()
    slack = loss * size / np.min(np.abs(step.of_x0) * np.abs(x0 - guess).max())
    return Sides(kl_divergence(*laws), loss, scale=loss + slack)


@identity(
    "Continuous-time loss of Gaussian data",
    topic=TOPIC,
    formula=r"-\tfrac12\int_s^t \mathrm{SNR}'(\tau)\,\mathbb{E}\|x_0 - D\|^2 d\tau"
    r" = \tfrac12\log\frac{\det(I + \mathrm{SNR}_s S)}{\det(I + \mathrm{SNR}_t S)}",
    covers=["PODB-10"],
    evidence=QUADRATURE,
    control="the derivative of log SNR in place of the derivative of SNR",
    # a table's rate jumps at its indices; per axis there is no single SNR
    needs=lambda case: isinstance(case.law, Gaussian) and smooth(case),
)
def continuous_loss(case: ModelCase, wrong: bool) -> Sides:
    """Bayes' mean squared error integrated over time by Gauss-Legendre panels against two determinants."""
    schedule = case.process.schedules[0]
    times, widths = panels(schedule, case.s, case.t, 2)
    rate = 2 * schedule.dlog_snr(times) * (1.0 if wrong else np.exp(2 * schedule.log_snr(times)))
    zero = np.zeros(case.law.dim)
    mse = np.array([case.process.kernel(float(t)).posterior_variance(case.law, zero) for t in times])
    snr = np.exp(2 * schedule.log_snr(np.array([case.s, case.t])))
    ends = np.linalg.slogdet(np.eye(case.law.dim) + snr[:, None, None] * case.law.cov())[1]
    return Sides(-0.5 * (widths * rate) @ mse, 0.5 * (ends[0] - ends[1]))


# ---------------------------------------------------------------------- pointwise


@identity(
    "Losses on x_{t-1}, on the clean data and on the noise, sample by sample",
    topic=TOPIC,
    formula=r"\|\mu - x_{t-1}\|^2 = \frac{\beta_t}{\alpha_t}\|\epsilon_t - \epsilon_\theta\|^2,\quad"
    r"\|x_0 - \bar\mu\|^2 = \frac{1-\bar\alpha_t}{\bar\alpha_t}\|\epsilon - \epsilon_\theta\|^2",
    covers=["TOPA-06", "TOPA-32", "DMI-28"],
    refutes=["TOPA-32"],
    over="tables",
    control="(3.12) as printed: the network multiplied by sqrt(1 - alpha_bar_t)",
    needs=long,
)
def pointwise(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """Random data, noises and network outputs at three steps; the clean data from the network by conversion."""
    step, rng = table_steps(case, moments_of_chain), case.rng
    for i in (1, case.table.steps // 2, case.table.steps - 1):
        beta, alpha, sigma = case.table.betas[i], step.alpha_t[i], np.sqrt(step.v_t[i])
        x0, rest, noise, network = rng.standard_normal((4, 5, 3))
        before = step.alpha_s[i] * x0 + np.sqrt(step.v_s[i]) * rest
        after = np.sqrt(1 - beta) * before + np.sqrt(beta) * noise
        mean = (after - np.sqrt(beta) * network) / np.sqrt(1 - beta)
        clean = convert(network, after, i + 1.0, case.table, "noise", "denoiser")
        total = (after - alpha * x0) / sigma
        gap = total - (sigma if wrong else 1.0) * network
        one_step = (np.abs(after) + np.abs(network) + np.abs(noise)) / np.sqrt(1 - beta)
        to_clean = np.abs(x0) + (np.abs(total) + np.abs(network)) * sigma / alpha
        yield Sides(before - mean, np.sqrt(beta / (1 - beta)) * (network - noise), scale=one_step)
        yield Sides(x0 - clean, sigma / alpha * (network - total), scale=to_clean)
        yield Sides((x0 - clean) ** 2, (sigma / alpha * gap) ** 2, scale=to_clean**2)


@identity(
    "The noise split one step back, and its rotation",
    topic=TOPIC,
    formula=r"x_t = \bar\alpha_t x_0 + \alpha_t \bar\beta_{t-1} \bar\epsilon_{t-1} + \beta_t \epsilon_t,\quad"
    r" R = \frac{1}{\bar\beta_t}\begin{pmatrix} \alpha_t\bar\beta_{t-1} & \beta_t \\ \beta_t & -\alpha_t\bar\beta_{t-1}"
    r"\end{pmatrix},\quad R^2 = I,\ \det R = -1",
    covers=["TOPA-07", "TOPA-08"],
    refutes=["TOPA-07"],
    over="tables",
    control="alpha_t x_0 in place of alpha-bar_t x_0, as (1.9) prints",
)
def noise_rotation(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """All steps, one-step amplitudes against the schedule's; Cov(eps_t, eps-bar_t) from the law of x_t."""
    step, beta = table_steps(case), case.table.betas
    x0, rest, noise = case.rng.standard_normal((3, case.table.steps))
    one, sigma = np.sqrt(1 - beta), np.sqrt(step.v_t)
    after = one * (step.alpha_s * x0 + np.sqrt(step.v_s) * rest) + np.sqrt(beta) * noise
    front = one if wrong else step.alpha_t
    size = np.abs(x0) + np.abs(rest) + np.abs(noise)
    yield Sides(after, front * x0 + one * np.sqrt(step.v_s) * rest + np.sqrt(beta) * noise, scale=size)
    kept = one * np.sqrt(step.v_s)
    rotation = np.array([[kept, np.sqrt(beta)], [np.sqrt(beta), -kept]]).transpose(2, 0, 1) / sigma[:, None, None]
    yield Sides(rotation @ rotation, np.broadcast_to(np.eye(2), rotation.shape))
    yield Sides(np.linalg.det(rotation), -np.ones(len(beta)))
    total, other = np.einsum("nij,jn->in", rotation, np.array([rest, noise]))
    yield Sides(total, (after - step.alpha_t * x0) / sigma, scale=size / sigma)
    yield Sides(noise, (np.sqrt(beta) * total - kept * other) / sigma, scale=size)
    for i in {0, case.table.steps // 2, case.table.steps - 1}:
        # (eps_t, x_t) given x_0: x_t is eps_t pushed through a channel with the rest of the noise
        joint = path(Gaussian([0.0], 1.0), [Channel(np.sqrt(beta[i]), 0.0, (1 - beta[i]) * step.v_s[i])])
        yield Sides(joint.cov()[0, 1] / np.sqrt(joint.cov()[1, 1]), np.sqrt(beta[i]) / sigma[i])


# ---------------------------------------------------------------------- in expectation


def smooth_network(x: Array, phase: float) -> Array:
    """A smooth test network with a phase, on x of any shape."""
    result: Array = 0.8 * np.sin(1.3 * x + phase)
    return result


@identity(
    "Variance-reduced loss, its constant and its weight in the bound",
    topic=TOPIC,
    formula=r"\mathbb{E}\|\epsilon_t-\epsilon_\theta\|^2 = \frac{\beta_t^2}{\bar\beta_t^2}"
    r"\mathbb{E}\left\|\epsilon - \tfrac{\bar\beta_t}{\beta_t}\epsilon_\theta\right\|^2"
    r" + \frac{\alpha_t^2\bar\beta_{t-1}^2}{\bar\beta_t^2},\quad"
    r"-\Delta\,\mathbb{E}\log q = \frac{\beta_t^4}{2\alpha_t^2\bar\beta_t^2\sigma_t^2}\Delta\,\mathbb{E}\|\cdot\|^2",
    covers=["TOPA-09", "TOPA-21", "TOPA-22"],
    refutes=["TOPA-22"],
    over="tables",
    evidence=QUADRATURE,
    control="the printed weight beta_t^4 / (alpha_t^2 sigma_t^4)",
    needs=long,
)
def variance_reduced(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """Two-dimensional Gauss-Hermite over (rest of the noise, eps_t) against one dimension over eps; x_0 = -1 or 1."""
    step, (z, w) = table_steps(case), hermite(64)
    for i in (1, case.table.steps // 2, case.table.steps - 1):
        beta, v_s, v_t = case.table.betas[i], step.v_s[i], step.v_t[i]
        spread = beta  # the sampler's own variance sigma_t^2
        likelihood: list[float] = []
        reduced: list[float] = []
        size = 0.0
        for phase in (0.4, 1.1):
            split = joint = surprise = 0.0
            for x0 in (-1.0, 1.0):
                before = step.alpha_s[i] * x0 + np.sqrt(v_s) * z[:, None]
                after = np.sqrt(1 - beta) * before + np.sqrt(beta) * z[None, :]
                net = smooth_network(after, phase)
                mean = (after - np.sqrt(beta) * net) / np.sqrt(1 - beta)
                square = (before - mean) ** 2 / (2 * spread) + 0.5 * np.log(2 * np.pi * spread)
                surprise += 0.5 * float(w @ square @ w)
                split += 0.5 * float(w @ (z[None, :] - net) ** 2 @ w)
                total = smooth_network(step.alpha_t[i] * x0 + np.sqrt(v_t) * z, phase)
                joint += 0.5 * float(w @ (z - np.sqrt(v_t / beta) * total) ** 2)
            yield Sides(split, beta / v_t * joint + (1 - beta) * v_s / v_t, scale=1.0)
            likelihood.append(surprise)
            reduced.append(joint)
            size += abs(surprise)
        weight = beta**2 / ((1 - beta) * spread**2) if wrong else beta**2 / (2 * (1 - beta) * v_t * spread)
        yield Sides(likelihood[0] - likelihood[1], weight * (reduced[0] - reduced[1]), scale=size)


@identity(
    "Regression on a sample, on its mean, and on its mean given the clean data",
    topic=TOPIC,
    formula=r"\mathbb{E}\|f-x_s\|^2 = \mathbb{E}\|f-\mathbb{E}[x_s|x_t]\|^2"
    r" + \mathbb{E}\,\mathrm{tr}\,\mathrm{Cov}[x_s|x_t] = \mathbb{E}\|f - A x_0 - B x_t\|^2 + \mathrm{tr}\,v",
    covers=["PHY-32", "PHY-34", "PHY-38", "TOPA-92"],
    refutes=["PHY-34"],
    control="the three losses called equal, as printed",
    needs=lambda case: isinstance(case.law, Gaussian) and case.law.dim <= 16,
)
def regressions(case: ModelCase, wrong: bool) -> list[Sides]:
    """An affine f on Gaussian data: cubature over the law of (x_0, x_s, x_t), conditional means by Bayes."""
    step, d, between = Step.of(case), case.law.dim, case.process.channel(case.s, case.t)
    before = case.model.marginal(case.s)
    joint = path(Gaussian(case.law.mean(), case.law.cov()), [case.process.kernel(case.s), between])
    x0, xs, xt = np.split(cubature(joint)[0], 3, axis=1)
    f = 0.7 * xt @ case.rng.standard_normal((d, d)) + 0.3

    def loss(target: Array) -> float:
        return float(((f - target) ** 2).sum(axis=1).mean())

    variance = between.posterior_variance(before, before.mean()) if not wrong else 0.0
    clean = 0.0 if wrong else case.process.kernel(case.t).posterior_variance(case.law, np.zeros(d))
    known = 0.0 if wrong else np.broadcast_to(step.variance, (d,)).sum()
    return [
        Sides(loss(xs), loss(between.posterior_mean(before, xt)) + variance),
        Sides(loss(xs), loss(step.of_x0 * x0 + step.of_xt * xt) + known),
        Sides(loss(x0), loss(case.model.denoiser(xt, case.t)) + clean),
    ]
