r"""Ancestral samplers: the tables of `ddpm` against the papers' letters, Bayes' rule, and laws in closed form.

A table's step from s to t < s has the weight kappa on x_s, gamma on the denoiser and a noise variance v. On Gaussian
data N(m, c) with V = alpha^2 c + sigma^2 the gain of such a step is alpha_s / alpha_t V_t / V_s for every grid, and the
exact noise is sigma_{s|t}^2 V_t / V_s. A choice v = sigma_{s|t}^2 u with u = (sigma_t^2 / sigma_s^2)^(1-w) is off by

    h^2 g^2 (V'/V - (1 - w) (sigma^2)' / sigma^2),      carried to the end by    alpha^2 V_end^2 / (alpha_end^2 V^2),

which gives the leading constant of the output's variance for every interpolated variance w: 0 posterior, 1 beta.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.propagation import propagate
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import FlowMatching, Schedule, Trigonometric, VPCosine, VPLinear
from refdiff.validation.cases import Case, ModelCase, ProcessCase, TableCase
from refdiff.validation.identities.forward_kernels import moments_of_chain, respaced
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.laws import noised_variance
from refdiff.validation.numeric import extrapolate, legendre

TOPIC = "Ancestral samplers"
PARTS = np.array([1.0, 0.8, 0.35, 0.1, 0.0])  # of the way from case.s to case.t


def descending(case: ProcessCase) -> Array:
    """Five uneven times from case.t to case.s, shape (5,)."""
    return np.asarray(case.s + PARTS * (case.t - case.s))


def chain(case: TableCase) -> tuple[Array, Array, Array, Array]:
    """Times (n + 1,) from noise to data on a sub-grid of indices, its 1 - beta and beta (n,), and 1 - abar (n + 1,)."""
    chosen, kept, betas = respaced(case.table, 25)
    _, noise = moments_of_chain(case.table)
    indices = np.append(0, chosen)[::-1]
    return indices.astype(float), kept[::-1], betas[::-1], noise[indices]


@identity(
    "DDPM's table in Ho's letters, on any sub-grid",
    topic=TOPIC,
    formula=r"x_{t-1} = \tfrac{1}{\sqrt{1-\beta_t}}"
    r"\big(x_t - \tfrac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\hat\epsilon\big) + \sigma_t z,\quad"
    r" \sigma_t^2 \in \{\tilde\beta_t = \tfrac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t} \beta_t,\ \beta_t\}",
    covers=["DMI-23", "PODA-225", "PHY-46", "PHY-47", "TOPA-49", "TOPA-50"],
    refutes=["PHY-47"],
    over="tables",
    control="noise of the asymptotic variance, as (47) reads",
    needs=lambda case: case.table.betas[-1] < 1,
)
def hos_letters(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """The noise form of the table built from log-SNRs, against cumulative products of the table of betas."""
    times, kept, betas, noise = chain(case)
    tilde = betas * noise[1:] / noise[:-1]
    for kind, variance in (("posterior", tilde), ("beta", betas)):
        table = to_prediction(ddpm(case.table, times, variance=kind, final_noise=True), "noise")
        added = table.noise[1:, 0] if table.stochastic else np.zeros(len(betas))
        yield Sides(table.states[1:, 0], 1 / np.sqrt(kept))
        yield Sides(-table.outputs[1:, 0], betas / np.sqrt(noise[:-1]) / np.sqrt(kept))
        yield Sides(added**2, np.ones_like(betas) if wrong else variance, np.where(variance > 0, variance, betas))


@identity(
    "An ancestral step is Bayes' rule with x_0 frozen",
    topic=TOPIC,
    formula=r"q(x_t \mid x_s, x_0) \propto q(x_s \mid x_t)\, q(x_t \mid x_0),\quad x_0 = D(x_s, s)",
    covers=["PODB-11", "PODA-226", "PODC9-13"],
    refutes=["PODA-226"],
    control="weights that add up to one, as an interpolation's would (L1101)",
)
def frozen_bayes(case: ModelCase, wrong: bool) -> list[Sides]:
    """Weights and noise of a one-step table against the reversed channel, from a point pushed to the target time."""
    table, dim = ddpm(case.process, [case.t, case.s]), case.law.dim
    point = case.rng.standard_normal((1, dim))
    before = case.process.kernel(case.s).push(Empirical(point))
    back = case.process.channel(case.s, case.t).reverse(before)
    gamma = 1 - table.states[1, 0] if wrong else table.outputs[1, 0]
    return [
        Sides(table.states[1, 0], back.gain),
        Sides(gamma * point[0], back.offset, scale=np.abs(before.means).max()),
        Sides(table.noise[1, 0] ** 2, back.noise),
    ]


@identity(
    "The mean of an ancestral step is the true conditional mean",
    topic=TOPIC,
    formula=r"\kappa x_s + \gamma D(x_s, s) = \mathbb{E}[x_t \mid x_s]"
    r" = \tfrac{\alpha_t}{\alpha_s}\big(x_s + \sigma_{s|t}^2 \nabla \log p_s(x_s)\big)",
    covers=["DMI-23", "PODB-11"],
    control="half the score, the step of the probability flow",
    needs=lambda case: case.law.dim <= 16,
    most=12,
)
def conditional_mean(case: ModelCase, wrong: bool) -> list[Sides]:
    """The table run on the exact denoiser without its noise, against the score, and against the reversed mixture."""
    table = ddpm(case.process, [case.t, case.s])
    found = run(table, case.model, case.x, normals=np.zeros((1, *case.x.shape)))
    step, marginal = case.process.channel(case.s, case.t), case.model.marginal(case.s)
    score = case.model.score(case.x, case.t) * (0.5 if wrong else 1.0)
    moved = operators.apply(step.noise, score)
    size = (np.abs(case.x).max() + np.abs(moved).max()) / np.min(step.gain)
    by_law = np.array([step.posterior(marginal, row).mean() for row in case.x])
    return [Sides(found, (case.x + moved) / step.gain, scale=size), Sides(found, by_law, scale=size)]


@identity(
    "DDPM without its noise is not DDIM",
    topic=TOPIC,
    formula=r"\sigma_t = 0:\quad \frac{\kappa_{\mathrm{DDPM}}}{\kappa_{\mathrm{DDIM}}} = e^{\lambda_s - \lambda_t} < 1,"
    r"\qquad \prod_i G_i = \frac{\alpha_T}{\alpha_0} \frac{V_0}{V_T}\ \text{on every grid}",
    covers=["DMI-23", "DMI-52"],
    refutes=["DMI-23", "DMI-52"],
    over="processes",
    control="zero noise in DDPM's kernel taken for DDIM: the same weight on x",
    most=12,
)
def silent(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Two tables against the log-SNRs; the propagated gain of the silent one against the product, which telescopes."""
    times, data = descending(case), 0.3
    table, flow = ddpm(case.process, times, variance=np.zeros(4)), ddim(case.process, times)
    lam, c = case.schedule.log_snr(times), case.schedule.coefficients(times[[0, -1]])
    # weights of x_s beside that of the denoiser
    left = table.states[1:, 0] / flow.states[1:, 0]
    total = noised_variance(c, data)
    gain = propagate(table, Gaussian([0.4], data)).channel().gain
    return [
        Sides(left, np.ones(4) if wrong else np.exp(lam[:-1] - lam[1:])),
        Sides(gain, c.alpha[0] / c.alpha[1] * total[1] / total[0]),
    ]


@identity(
    "DDPM's output on Gaussian data, by a recursion of one variance",
    topic=TOPIC,
    formula=r"V_{i-1} = k_i^2 V_i + \sigma_i^2,\quad"
    r" k_i = \tfrac{\mathrm{Cov}(x_{i-1}, x_i)}{\mathrm{Var}\,x_i} = \sqrt{1-\beta_i}\,\tfrac{V^*_{i-1}}{V^*_i}",
    covers=["PODA-225", "PHY-47", "DMI-23"],
    refutes=["PHY-47"],
    over="tables",
    control="noise of the asymptotic variance at every step, as (47) reads",
    needs=lambda case: case.table.steps > 1 and case.table.betas[-1] < 1,
)
def output_variance(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """`propagate` on the table, from N(0, 1), against the recursion in the variances of the forward chain."""
    times, kept, betas, noise = chain(case)
    tilde = betas * noise[1:] / noise[:-1]
    for data in (0.25, 1.0, 4.0):
        true = [data]
        for k, b in zip(kept[::-1], betas[::-1], strict=True):
            true.append(k * true[-1] + b)
        ahead = np.array(true[::-1])
        for kind, added in (("posterior", tilde), ("beta", betas)):
            table = ddpm(case.table, times, variance=kind, final_noise=True)
            found = propagate(table, Gaussian([0.0], data), Gaussian([0.0], 1.0)).output.cov()
            value = 1.0
            for i, fresh in enumerate(np.ones_like(betas) if wrong else added):
                value = (np.sqrt(kept[i]) * ahead[i + 1] / ahead[i]) ** 2 * value + fresh
            yield Sides(found, value)


@identity(
    "The two data that DDPM samples exactly on every grid",
    topic=TOPIC,
    formula=r"p_0 = \delta:\ \sigma^2 = \tilde\beta;\qquad"
    r" \mathrm{Var}\,x_t = \mathrm{const}:\ \sigma^2 = \beta;\qquad \text{output} = p_t",
    covers=["PODB-11", "PODA-225", "TOPA-88", "TOPA-26"],
    refutes=["TOPA-88"],
    over="processes",
    control="the variance taken for the standard deviation, as L1022 has it",
    most=12,
)
def exact_data(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The propagated law of four uneven steps against p_t, for one point and, on VP processes, N(0, 1)."""
    times = descending(case)
    c = case.schedule.coefficients(times)
    preserving = bool(np.abs(c.alpha**2 + c.sigma**2 - 1).max() < 1e-12)
    for kind, law in (("posterior", Gaussian([0.7], 0.0)), ("beta", Gaussian([0.0], 1.0))):
        if kind == "beta" and not preserving:
            continue
        table = ddpm(case.process, times, variance=kind)
        if wrong:
            table = ddpm(case.process, times, variance=table.noise[1:, 0] ** 4)
        found = propagate(table, law)
        yield Sides(found.output.mean(), found.target().mean(), scale=1.0)
        yield Sides(found.output.cov(), found.target().cov())


def some_schedule(case: Case) -> Schedule:
    """A smooth schedule that is not the same for every draw."""
    u = case.rng.uniform(0, 1)
    each = [VPLinear(0.1 + u, 8 + 8 * u), FlowMatching(), Trigonometric(0.5 + u), VPCosine()]
    return each[case.seed % len(each)]


@identity(
    "Leading constant of DDPM's variance error, for every interpolated variance",
    topic=TOPIC,
    formula=r"\lim_{h\to0} \frac{V_h(s) - V(s)}{h} = \frac{V_s^2}{\alpha_s^2} \int_s^t \frac{\alpha^2 g^2}{V^2}"
    r"\Big(\frac{V'}{V} - (1-w) \frac{(\sigma^2)'}{\sigma^2}\Big)\,d\tau,\quad"
    r"\log \sigma_i^2 = w \log \beta_i + (1-w) \log \tilde\beta_i",
    covers=["PODB-11", "PODA-225"],
    over="once",
    evidence=ORDER,
    control="w^2 in place of w, which is right at both ends",
)
def leading_constant(case: Case, wrong: bool) -> Iterator[Sides]:
    """Propagated laws of 8 to 64 equal steps, extrapolated, against the integral of the local defects."""
    schedule, data = some_schedule(case), 0.4
    low, high = 0.15 * schedule.T, 0.8 * schedule.T
    nodes, weights = legendre(64)
    c = schedule.coefficients(low + (high - low) * nodes)
    total = noised_variance(c, data)
    rate = 2 * c.alpha * c.dalpha * data + c.dvariance
    end = schedule.coefficients(low)
    ahead = noised_variance(end, data) / end.alpha
    for w in (0.0, 0.4, 1.0):
        errors = []
        for n in (8, 16, 32, 64):
            table = ddpm(schedule, np.linspace(high, low, n + 1), variance="interpolated", v=w)
            found = propagate(table, Gaussian([0.0], data))
            errors.append((found.output.cov() - found.target().cov())[0, 0] * n / (high - low))
        defect = rate / total - (1 - (w**2 if wrong else w)) * c.dvariance / c.sigma**2
        limit = ahead**2 * (high - low) * (weights @ (c.alpha**2 * c.g2 / total**2 * defect))
        size = ahead**2 * (high - low) * (weights @ np.abs(c.alpha**2 * c.g2 / total**2 * defect))
        yield Sides(extrapolate([np.asarray(e) for e in errors]), limit, scale=size)


def controlled(schedule: VPLinear, times: Array, exchanged: bool) -> Tableau:
    """The update of (96): x <- (sqrt(1 - b) + b) x + b score + sqrt(b) z with b = beta dt, beta and score at the start.

    `schedule` gives beta, `times` (n + 1,) run from noise to data, and `exchanged` asks for the score at T - t.
    """
    rec = Recorder("reverse update with control", schedule, times, "score")
    x = rec.start
    for s, t in rec.steps:
        b = s.coefficients.g2 * (s.t - t.t)
        score = rec.evaluate(x, rec.at(schedule.T - s.t) if exchanged else s)
        x = (np.sqrt(1 - b) + b) * x + b * score + rec.noise(np.sqrt(b))
    return rec.finish(x)


@identity(
    "Reverse update with control: leading constant of its variance error",
    topic=TOPIC,
    formula=r"x \leftarrow (\sqrt{1-\beta h} + \beta h)\, x + \beta h\, \nabla \log p_t(x) + \sqrt{\beta h}\, z:\quad"
    r"\lim_{h\to0} \frac{V_h - V}{h} = \frac{V_0^2}{\alpha_0^2} \int \frac{\alpha^2}{V^2} (1 - V)"
    r"\Big(\frac{\beta^2}{V} + \frac{\beta^2}{2} - \frac{\beta'}{2}\Big)\,dt",
    covers=["PHY-96"],
    over="once",
    evidence=ORDER,
    control="the clock of the scores run the wrong way: the score of T - t",
)
def control_update(case: Case, wrong: bool) -> Sides:
    """The update as a table, propagated and extrapolated, against the integral; the limit drift is Anderson's."""
    rng = case.rng
    schedule, data = VPLinear(rng.uniform(0.1, 0.5), rng.uniform(4, 10)), rng.uniform(0.2, 0.6)
    nodes, weights = legendre(64)
    c = schedule.coefficients(nodes)
    total = noised_variance(c, data)
    slope = schedule.beta_max - schedule.beta_min
    defect = (1 - total) * (c.g2**2 / total + c.g2**2 / 2 - slope / 2)
    limit = data**2 * (weights @ (c.alpha**2 / total**2 * defect))
    errors = []
    for n in (16, 32, 64, 128):
        found = propagate(controlled(schedule, np.linspace(1.0, 0.0, n + 1), wrong), Gaussian([0.0], data))
        errors.append(np.asarray((found.output.cov() - data)[0, 0] * n))
    return Sides(extrapolate(errors), limit)
