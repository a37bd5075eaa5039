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

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.processes import BetaTable
from refdiff.validation.cases import LawCase, ModelCase, ProcessCase, TableCase
from refdiff.validation.identities.ddim_family import member
from refdiff.validation.identities.ddpm_posterior import Step, long, moments_of_chain
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import extrapolate, legendre

TOPIC = "Variance of the reverse step"


@identity(
    "Reverse covariance of every DDIM member",
    topic=TOPIC,
    formula=r"\mathrm{Cov}[x_s \mid x_t] = \sigma^2 I + \lambda^2\,\mathrm{Cov}[x_0 \mid x_t]",
    covers=["TOPA-89", "TOPA-90", "TOPA-91", "TOPA-92", "TOPA-101"],
    refutes=["TOPA-91"],
    control="the variance sigma^2 + lambda^2 Cov read as a standard deviation, as the text calls it",
    needs=lambda case: case.law.dim <= 16,
)
def family_covariance(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """Mean and covariance of the kernel pushed through the posterior law, against the denoiser and its covariance."""
    step, dim = Step.of(case), case.law.dim
    for share in (0.0, 0.3, 1.0):
        of_xt, of_x0, noise = member(step, share)
        for xt in case.x[:2]:
            law = Channel(of_x0, of_xt * xt, noise).push(case.model.posterior(xt, case.t))
            spread = np.broadcast_to(of_x0, (dim,))
            expected = noise * np.eye(dim) + np.outer(spread, spread) * case.model.posterior_covariance(xt, case.t)
            mean = of_xt * xt + of_x0 * case.model.denoiser(xt, case.t)
            size = np.abs(of_x0 * case.law.means).max() + np.abs(of_xt * xt).max()
            yield Sides(law.mean(), mean, scale=size)
            yield Sides(law.cov(), expected @ expected if wrong else expected, scale=np.max(noise) + size**2)


@identity(
    "Posterior covariance from shifted second moments",
    topic=TOPIC,
    formula=r"\mathrm{Cov}[x_0|x_t] = \mathbb{E}[(x_0-\mu_0)(x_0-\mu_0)^\top|x_t] - (\bar\mu-\mu_0)(\bar\mu-\mu_0)^\top"
    r" = \tfrac{1}{\alpha_t^2} \mathbb{E}[(x_t-\alpha_t x_0)(\cdot)^\top|x_t]"
    r" - \tfrac{\sigma_t^2}{\alpha_t^2} \epsilon^* \epsilon^{*\top}",
    covers=["TOPA-93", "TOPA-97"],
    control="a network that is 10 % off, whose cross terms the formula drops",
    needs=lambda case: case.law.dim <= 16 and not case.process.per_axis,
)
def shifted_moments(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """Raw second moments summed over the posterior's components; the subtracted square from the score of p_t."""
    c = case.process.coefficients(case.t)
    for xt in case.x[:2]:
        law, shift = case.model.posterior(xt, case.t), case.rng.standard_normal(case.law.dim)
        about = law.means - shift
        raw = law.covariances.average(law.weights[None], law.dim)[0] + (law.weights[:, None] * about).T @ about
        centre = case.model.denoiser(xt, case.t) * (1.1 if wrong else 1.0) - shift
        yield Sides(case.model.posterior_covariance(xt, case.t), raw - np.outer(centre, centre), np.abs(raw).max())
        residual = xt - c.alpha * law.means
        second = c.alpha**2 * law.covariances.average(law.weights[None], law.dim)[0]
        second = second + (law.weights[:, None] * residual).T @ residual
        noise = case.model.noise(xt, case.t) * (1.1 if wrong else 1.0)
        found = (second - c.sigma**2 * np.outer(noise, noise)) / c.alpha**2
        # residuals and the score are differences of x_t and means, exact to rounding of x_t
        size = np.abs(second).max() + np.abs(residual).max() * np.abs(xt).max()
        yield Sides(case.model.posterior_covariance(xt, case.t), found, scale=size / c.alpha**2)


def averages(case: ModelCase, t: float, values: list[Array], x: Array) -> list[float]:
    """Averages over p_t of values at equally spaced x (n, 1): the trapezoid rule, exponentially exact on the line."""
    density = np.exp(case.model.log_density(x, t))
    return [float(density @ value) * (x[1, 0] - x[0, 0]) for value in values]


def line(case: ModelCase, t: float) -> Array:
    """Nodes (n, 1) that reach 10 standard deviations beyond every component of p_t."""
    law = case.model.marginal(t)
    reach = 10 * np.sqrt(law.covariances.dense(1)[:, 0, 0])
    low, high = (law.means[:, 0] - reach).min(), (law.means[:, 0] + reach).max()
    return np.linspace(low, high, int(np.clip(8 * 10 * (high - low) / reach.min(), 500, 20000)))[:, None]


@identity(
    "Analytic-DPM: the averaged posterior variance, four ways",
    topic=TOPIC,
    formula=r"\bar\sigma_t^2 = \tfrac1d\mathbb{E}\,\mathrm{tr}\,\mathrm{Cov}[x_0|x_t]"
    r" = \mathrm{Var}\,x_0 - \tfrac1d\mathbb{E}\|\bar\mu - \mathbb{E}x_0\|^2"
    r" = \tfrac{\sigma_t^2}{\alpha_t^2}(1 - \tfrac1d\mathbb{E}\|\epsilon^*\|^2)",
    covers=["TOPA-23", "TOPA-94", "TOPA-95", "TOPA-98", "TOPA-99", "TOPA-101", "PODA-219"],
    evidence=QUADRATURE,
    control="the score in place of the noise prediction: sigma^2 missing in E |eps*|^2",
    needs=lambda case: case.law.dim == 1,
)
def averaged_variance(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' variance, the spread of the denoiser about any centre, the noise prediction and the Hessian over p_t."""
    model, x, c = case.model, line(case, case.t), case.process.coefficients(case.t)
    shift = case.law.mean() + 0.3
    denoised, score = model.denoiser(x, case.t), model.score(x, case.t)
    noise = score if wrong else model.noise(x, case.t)
    values = [model.process.kernel(case.t).posterior_variance(case.law, x), (denoised[:, 0] - shift) ** 2]
    values += [noise[:, 0] ** 2, model.hessian(x, case.t)[:, 0, 0]]
    bayes, spread, power, bend = averages(case, case.t, values, x)
    second, ratio = case.law.cov()[0, 0] + 0.3**2, (c.sigma**2 / c.alpha**2).item()
    return [
        Sides(bayes, second - spread, scale=second),
        Sides(bayes, ratio * (1 - power), scale=ratio),
        Sides(bayes, ratio * (1 + (c.sigma**2).item() * bend), scale=ratio),
    ]


@identity(
    "Bounds of the optimal reverse variance",
    topic=TOPIC,
    formula=r"\bar\sigma_t^2 \le \min\left(\tfrac{\sigma_t^2}{\alpha_t^2},\ \mathrm{Var}\,x_0\right),\quad"
    r"\bar\sigma_s^2 \le \bar\sigma_t^2,\quad \tilde\beta + \gamma^2\,\tfrac{\sigma_t^2}{\alpha_t^2} = \tfrac{b}{r^2}",
    covers=["TOPA-34", "TOPA-96", "TOPA-99"],
    control="beta_t as the upper end of the reverse variance, which only data of variance at most 1 respect",
    needs=lambda case: case.law.dim == 1,
)
def bounds(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """What exceeds a bound is zero: the average of Bayes' variance grows with time; the upper end is an identity."""
    step, grown = Step.of(case), []
    for t in (case.s, case.t):
        x = line(case, t)
        grown += averages(case, t, [case.process.kernel(t).posterior_variance(case.law, x)], x)
    found = grown[1]
    noise_bound, data_bound = (step.v_t / step.alpha_t**2).item(), case.law.cov()[0, 0]
    # averages are exact to rounding relative to the largest value that is averaged
    yield Sides(max(found - noise_bound, 0.0), 0.0, scale=noise_bound + data_bound)
    yield Sides(max(found - data_bound, 0.0), 0.0, scale=noise_bound + data_bound)
    yield Sides(max(grown[0] - found, 0.0), 0.0, scale=noise_bound + data_bound)
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
    law, dim = case.law, case.law.dim
    best = Gaussian(law.mean(), law.cov())
    other = Gaussian(law.mean() + 0.4, 1.7 * law.cov() + 0.2 * np.eye(dim))
    roots = np.linalg.cholesky(law.covariances.dense(dim) * dim)
    offsets = np.concatenate([np.swapaxes(roots, 1, 2), -np.swapaxes(roots, 1, 2)], axis=1)
    nodes = law.means[:, None] + np.broadcast_to(offsets, (law.count, 2 * dim, dim))
    gain = (best.logpdf(nodes) - other.logpdf(nodes)).mean(axis=1)
    size = np.abs(best.logpdf(nodes)).max() + np.abs(other.logpdf(nodes)).max()
    divergence = kl_divergence(other, best) if wrong else kl_divergence(best, other)
    return Sides(law.weights @ gain, divergence, scale=size)


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
    needs=lambda case: not isinstance(case.schedule, BetaTable),
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
    "Reverse kernel of a point mass and of the standard normal",
    topic=TOPIC,
    formula=r"p_0 = \delta_{x_*}:\ \mathrm{var} = \tilde\beta_t;\qquad"
    r"p_0 = N(0, I):\ q(x_{t-1} \mid x_t) = N(\sqrt{\alpha_t} x_t, \beta_t I)",
    covers=["TOPA-26", "TOPA-36", "TOPA-37", "PODA-216"],
    refutes=["TOPA-26", "TOPA-36", "TOPA-37"],
    over="tables",
    control="the three misprints: beta_{t-1} without its bar, a variance called sigma_t, and sigma_t = beta_t^2",
    needs=lambda case: case.table.steps > 1,
)
def special_laws(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """Channels reversed by Gaussian conditioning against beta-tilde and beta, at the second, middle and last step."""
    table, posterior = case.table, case.table.posterior()
    for i in (1, table.steps // 2, table.steps - 1):
        beta, bar = table.betas[i], table.alpha_bar[i - 1]
        forward = Channel(np.sqrt(1 - beta), 0.0, beta)
        point = forward.reverse(Gaussian([0.7 * np.sqrt(bar)], -np.expm1(-table.total[i])))
        normal = forward.reverse(Gaussian([0.0], 1.0))
        lost_bar = table.betas[i - 1] * beta / -np.expm1(-table.total[i + 1])
        yield Sides(point.noise, lost_bar if wrong else posterior.variance[i])
        yield Sides(np.sqrt(point.noise), posterior.variance[i] if wrong else np.sqrt(posterior.variance[i]))
        yield Sides(point.offset, posterior.of_x0[i] * 0.7, scale=np.sqrt(bar))
        yield Sides(normal.gain, np.sqrt(1 - beta), scale=1.0)
        yield Sides(normal.noise, beta**2 if wrong else beta)


@identity(
    "Reverse chain of Gaussian data returns the data's variance",
    topic=TOPIC,
    formula=r"V_{t-1} = c_t^2 V_t + \beta_t \frac{V^*_{t-1}}{V^*_t},\quad"
    r"c_t = \frac{1 - \beta_t / V^*_t}{\sqrt{1-\beta_t}}\ \Rightarrow\ V_0 = V^*_0",
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
    true = c.alpha**2 * data + c.sigma**2
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
    needs=lambda case: not isinstance(case.schedule, BetaTable),
)
def leading_constant(case: ProcessCase, wrong: bool) -> Sides:
    """The sampler's affine recursion, extrapolated, against the A^2 Var[x_0 | x_t] of its steps as an integral."""
    data, width = 0.5, case.t - case.s
    start = case.schedule.coefficients(case.s)
    true = start.alpha**2 * data + start.sigma**2
    counts = [64, 128, 256, 512, 1024]
    errors = [np.asarray((variance_after(case, n, data) - true) * n / width) for n in counts]
    nodes, weights = legendre(64)
    c = case.schedule.coefficients(case.s + width * nodes)
    total = c.alpha**2 * data + c.sigma**2
    density = data * c.alpha**4 * (c.g2 if wrong else c.g2**2) / (c.sigma**2 * total**3)
    return Sides(extrapolate(errors), -((true / start.alpha) ** 2) * width * (weights @ density))
