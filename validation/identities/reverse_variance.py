r"""The variance of a reverse step: how far Cov[x_s | x_t] is from a fixed number, and what that costs.

For every member kappa, lambda, sigma of the DDIM family the exact kernel, with x_0 averaged out, has

    Cov[x_s | x_t] = sigma^2 I + lambda^2 Cov[x_0 | x_t],
    Cov[x_0 | x_t] = sigma_t^2 / alpha_t^2 (I + sigma_t^2 hess log p_t)

and the best isotropic number in its place is the average over p_t, sigma^2 + lambda^2 s^2 with (Analytic-DPM)

    s^2 = E tr Cov[x_0 | x_t] / d = Var x_0 - E |D - E x_0|^2 / d = sigma_t^2 / alpha_t^2 (1 - E |eps*|^2 / d).

The three forms of s^2 share no code here: Bayes' posterior variance, the denoiser, and the score of p_t. On Gaussian
data whole chains of reverse steps are recursions of one variance, which gives samplers' errors in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, kl_divergence
from refdiff.validation.cases import LawCase, ModelCase, ProcessCase, TableCase
from refdiff.validation.conditions import scalar, smooth
from refdiff.validation.expectations import grid, small
from refdiff.validation.identities.ddim_family import member
from refdiff.validation.identities.ddpm_posterior import long
from refdiff.validation.identities.forward_kernels import moments_of_chain
from refdiff.validation.identities.reverse_kernels import Step
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import cubature, noised_variance
from refdiff.validation.numeric import extrapolate, legendre

TOPIC = "Variance of the reverse step"


@identity(
    "Reverse covariance of every DDIM member",
    topic=TOPIC,
    formula=r"\mathrm{Cov}[x_s \mid x_t] = \sigma^2 I + \lambda^2\,\mathrm{Cov}[x_0 \mid x_t]",
    covers=["TOPA-89", "TOPA-90", "TOPA-91", "TOPA-101"],
    refutes=["TOPA-91"],
    control="the variance sigma^2 + lambda^2 Cov read as a standard deviation, as the text calls it",
    needs=lambda case: case.law.dim <= 16,
)
def family_covariance(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """Mean and covariance of the kernel pushed through the posterior law, against the denoiser and its covariance."""
    step, dim = Step.of(case), case.law.dim
    for xt in case.x[:2]:
        clean, known = case.model.posterior(xt, case.t), case.model.posterior_covariance(xt, case.t)
        denoised = case.model.denoiser(xt, case.t)
        for share in (0.0, 0.3, 1.0):
            of_xt, of_x0, noise = member(step, share)
            law, spread = Channel(of_x0, of_xt * xt, noise).push(clean), np.broadcast_to(of_x0, (dim,))
            expected = noise * np.eye(dim) + np.outer(spread, spread) * known
            size = np.abs(of_x0 * case.law.means).max() + np.abs(of_xt * xt).max()
            yield Sides(law.mean(), of_xt * xt + of_x0 * denoised, scale=size)
            # the components' means are exact to rounding of `size`, and their spread is at most this
            largest = np.abs(expected).max()
            scale = largest + size * np.sqrt(largest)
            yield Sides(law.cov(), expected @ expected if wrong else expected, scale=scale)


@identity(
    "Posterior covariance from shifted second moments",
    topic=TOPIC,
    formula=r"\mathrm{Cov}[x_0|x_t] = \mathbb{E}[(x_0-\mu_0)(x_0-\mu_0)^\top|x_t] - (\bar\mu-\mu_0)(\bar\mu-\mu_0)^\top"
    r" = \tfrac{1}{\alpha_t^2} \mathbb{E}[(x_t-\alpha_t x_0)(\cdot)^\top|x_t]"
    r" - \tfrac{\sigma_t^2}{\alpha_t^2} \epsilon^* \epsilon^{*\top}",
    covers=["TOPA-93", "TOPA-97"],
    control="a network that is 10 % off, whose cross terms the formula drops",
    needs=lambda case: case.law.dim <= 16 and scalar(case),
)
def shifted_moments(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """Raw second moments summed over the posterior's components; the subtracted square from the score of p_t."""
    c = case.process.coefficients(case.t)
    for xt in case.x[:2]:
        law, shift = case.model.posterior(xt, case.t), case.rng.standard_normal(case.law.dim)
        known = case.model.posterior_covariance(xt, case.t)
        about = law.means - shift
        raw = law.covariances.average(law.weights[None], law.dim)[0] + (law.weights[:, None] * about).T @ about
        centre = case.model.denoiser(xt, case.t) * (1.1 if wrong else 1.0) - shift
        yield Sides(known, raw - np.outer(centre, centre), scale=np.abs(raw).max())
        residual = xt - c.alpha * law.means
        second = c.alpha**2 * law.covariances.average(law.weights[None], law.dim)[0]
        second = second + (law.weights[:, None] * residual).T @ residual
        noise = case.model.noise(xt, case.t) * (1.1 if wrong else 1.0)
        found = (second - c.sigma**2 * np.outer(noise, noise)) / c.alpha**2
        # residuals and the score are differences of x_t and means, exact to rounding of x_t
        size = np.abs(second).max() + np.abs(residual).max() * np.abs(xt).max()
        yield Sides(known, found, scale=size / c.alpha**2)


@identity(
    "Analytic-DPM: the averaged posterior covariance, four ways",
    topic=TOPIC,
    formula=r"\Sigma_t = \mathbb{E}\,\mathrm{Cov}[x_0|x_t]"
    r" = \mathbb{E}(x_0-\mu_0)(x_0-\mu_0)^\top - \mathbb{E}(\bar\mu-\mu_0)(\bar\mu-\mu_0)^\top"
    r" = \tfrac{\sigma_t^2}{\alpha_t^2}(I - \mathbb{E}\,\epsilon^*\epsilon^{*\top})"
    r" = \tfrac{\sigma_t^2}{\alpha_t^2}(I + \sigma_t^2\,\mathbb{E}\nabla^2 \log p_t)",
    covers=["TOPA-23", "TOPA-94", "TOPA-95", "TOPA-98", "TOPA-99", "TOPA-101", "PODA-219"],
    evidence=QUADRATURE,
    control="the score in place of the noise prediction: sigma^2 missing in E eps* eps*'",
    needs=small,
)
def averaged_covariance(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' covariance, the spread of the denoiser about any centre, the noise prediction and the Hessian over p_t."""
    nodes, c, d = grid(case, case.t), case.process.coefficients(case.t), case.law.dim
    sigma, ratio = np.broadcast_to(c.sigma, (d,)), np.broadcast_to(c.sigma / c.alpha, (d,))
    bayes = np.einsum("n,nij->ij", nodes.weights, nodes.answer("posterior_covariance"))
    bend = np.einsum("n,nij->ij", nodes.weights, nodes.answer("hessian"))
    shift = 0.3 * np.ones(d)
    second = case.law.cov() + np.outer(shift, shift)
    spread = nodes.answer("denoiser") - case.law.mean() - shift
    noise = nodes.score if wrong else nodes.answer("noise")
    return [
        Sides(bayes, second - nodes.square(spread), scale=np.abs(second).max()),
        Sides(bayes, np.outer(ratio, ratio) * (np.eye(d) - nodes.square(noise)), scale=ratio.max() ** 2),
        Sides(bayes, np.outer(ratio, ratio) * (np.eye(d) + np.outer(sigma, sigma) * bend), scale=ratio.max() ** 2),
    ]


@identity(
    "Bounds of the optimal reverse variance",
    topic=TOPIC,
    formula=r"\bar\sigma_t^2 \le \min\left(\tfrac{\sigma_t^2}{\alpha_t^2},\ \mathrm{Var}\,x_0\right),\quad"
    r"\mathrm{Var}\,x_0 \le \tfrac{(b - a)^2}{4},\quad"
    r"\bar\sigma_s^2 \le \bar\sigma_t^2,\quad \tilde\beta + \gamma^2\,\tfrac{\sigma_t^2}{\alpha_t^2} = \tfrac{b}{r^2}",
    covers=["TOPA-34", "TOPA-96", "TOPA-99"],
    control="beta_t as the upper end of the reverse variance, which only data of variance at most 1 respect",
    needs=lambda case: case.law.dim == 1,
)
def bounds(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """What exceeds a bound is zero: the average of Bayes' variance grows with time; the upper end is an identity."""
    step = Step.of(case)
    earlier, found = (float(nodes.mean(nodes.variance)[0]) for nodes in (grid(case, case.s), grid(case, case.t)))
    noise_bound, data_bound = (step.v_t / step.alpha_t**2).item(), case.law.cov()[0, 0]
    pairs = [(found, noise_bound), (found, data_bound), (earlier, found)]
    if isinstance(case.law, Empirical):
        pairs.append((data_bound, np.ptp(case.law.means) ** 2 / 4))
    for low, high in pairs:
        yield Sides(max(low - high, 0.0), 0.0, scale=high)
    top = step.variance + step.of_x0**2 * step.v_t / step.alpha_t**2
    yield Sides(top, step.fresh if wrong else step.fresh / step.ratio**2)


@identity(
    "Matching moments maximises the likelihood",
    topic=TOPIC,
    formula=r"\mathrm{KL}(p \| N_{m,V}) = \mathrm{KL}(p \| N_*) + \mathrm{KL}(N_* \| N_{m,V}),\quad"
    r" N_* = N(\mathbb{E}x, \mathrm{Cov}\,x)",
    covers=["TOPA-100"],
    over="laws",
    control="the divergence taken the other way round, KL(N || N_*)",
    needs=lambda case: case.law.dim <= 16,
)
def matched_moments(case: LawCase, wrong: bool) -> Sides:
    """E_p log N_*/N by an exact cubature of quadratics within every component, against the Gaussian divergence."""
    law, (nodes, weights) = case.law, cubature(case.law)
    best = Gaussian(law.mean(), law.cov())
    other = Gaussian(law.mean() + 0.4, 1.7 * law.cov() + 0.2 * np.eye(law.dim))
    near, far = best.logpdf(nodes), other.logpdf(nodes)
    divergence = kl_divergence(other, best) if wrong else kl_divergence(best, other)
    return Sides(weights @ (near - far), divergence, scale=weights @ (np.abs(near) + np.abs(far)))


@identity(
    "Reverse variance of a short step",
    topic=TOPIC,
    formula=r"\lim_{h\to0} \frac{1}{h} \frac{b_{t-h,t} V_{t-h}}{V_t} = g^2(t)",
    covers=["TOPA-88"],
    refutes=["TOPA-88"],
    over="processes",
    evidence=ORDER,
    control="sigma_t = g^2 dt: the variance taken for the standard deviation, as (L1022) prints",
    # at an index of a table the rate jumps; s and t of these cases may be indices
    needs=smooth,
)
def short_step(case: ProcessCase, wrong: bool) -> Sides:
    """The channel of the step reversed by Gaussian conditioning, extrapolated, against g^2 of the schedule."""
    data, lengths = 0.5, (case.t - case.s) / 2.0 ** np.arange(7, 13)
    rates = []
    for h in lengths:
        kernel = case.process.kernel(case.t - h)
        before = Gaussian([0.0], kernel.gain**2 * data + kernel.noise)
        variance = case.process.channel(case.t - h, case.t).reverse(before).noise
        rates.append((np.sqrt(variance) if wrong else variance) / h)
    return Sides(extrapolate(rates), case.schedule.g2(case.t))


@identity(
    "Reverse chain of Gaussian data returns the data's variance",
    topic=TOPIC,
    formula=r"V_{t-1} = c_t^2 V_t + \beta_t \frac{V^*_{t-1}}{V^*_t},\quad"
    r" c_t = \frac{1 - \beta_t / V^*_t}{\sqrt{1-\beta_t}}\ \Rightarrow\ V_0 = V^*_0",
    covers=["TOPA-12", "TOPA-38", "PHY-47", "PODA-225", "PODA-216"],
    refutes=["PHY-47"],
    over="tables",
    control="noise of the asymptotic variance at every step, as (47) reads",
    needs=long,
)
def reverse_chain(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """The whole chain with the exact noise, and with the two noises that are exact for one law each."""
    _, noise = moments_of_chain(case.table)
    beta, tilde = case.table.betas, case.table.posterior().variance
    for data, choice in ((0.25, "exact"), (1.0, "exact"), (4.0, "exact"), (1.0, "beta"), (0.0, "beta tilde")):
        true = data * np.append(1.0, case.table.alpha_bar) + noise
        exact = beta * true[:-1] / true[1:]
        added = np.ones_like(beta) if wrong else {"exact": exact, "beta": beta, "beta tilde": tilde}[choice]
        value = true[-1]
        for i in reversed(range(case.table.steps)):
            slope = (1 - beta[i] / true[i + 1]) / np.sqrt(1 - beta[i])
            value = slope**2 * value + added[i]
        yield Sides(value, data, scale=1.0)


def variance_after(case: ProcessCase, count: int, data: float) -> float:
    """Variance at case.s of the ancestral sampler, `count` equal steps from the true law of Gaussian data at case.t."""
    c = case.schedule.coefficients(np.linspace(case.s, case.t, count + 1))
    step = Step(c.alpha[:-1], c.alpha[1:], c.sigma[:-1] ** 2, c.sigma[1:] ** 2)
    true = noised_variance(c, data)
    slope = step.of_x0 * data * step.alpha_t / true[1:] + step.of_xt
    value = true[-1]
    for k in reversed(range(count)):
        value = slope[k] ** 2 * value + step.variance[k]
    return float(value)


@identity(
    "Ancestral sampler: leading constant of its variance error",
    topic=TOPIC,
    formula=r"\lim_{h\to0} \frac{V_h(s) - V(s)}{h} = -\frac{V_s^2}{\alpha_s^2} \int_s^t"
    r" \frac{c\,\alpha_\tau^4 g_\tau^4}{\sigma_\tau^2 V_\tau^3}\,d\tau",
    covers=["PODB-11", "PODB-08", "PODA-225"],
    over="processes",
    evidence=ORDER,
    control="g^2 in place of g^4, as if each step lost its variance at first order in its length",
    # between the indices of a table the rate jumps: no expansion in powers of h
    needs=smooth,
)
def leading_constant(case: ProcessCase, wrong: bool) -> Sides:
    """The sampler's affine recursion, extrapolated, against the A^2 Var[x_0 | x_t] of its steps as an integral."""
    data, width = 0.5, case.t - case.s
    start = case.schedule.coefficients(case.s)
    true = noised_variance(start, data)
    counts = [16, 32, 64, 128, 256]
    errors = [np.asarray((variance_after(case, n, data) - true) * n / width) for n in counts]
    nodes, weights = legendre(64)
    c = case.schedule.coefficients(case.s + width * nodes)
    total = noised_variance(c, data)
    density = data * c.alpha**4 * (c.g2 if wrong else c.g2**2) / (c.sigma**2 * total**3)
    return Sides(extrapolate(errors), -((true / start.alpha) ** 2) * width * (weights @ density))
