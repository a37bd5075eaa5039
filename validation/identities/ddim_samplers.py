r"""DDIM and its relatives as tables, against the closed forms of their weights, laws and first-order errors.

On Gaussian data of standard deviation s a step multiplies the standardised point by the cosine of the difference of its
angles, tan theta = sigma / (alpha s), in either direction. With a = 1 + k^2, h = lambda_t - lambda_s, u = tan^2 theta,
the family of reverse SDEs with a frozen denoiser loses, in one step from the exact law,

    V_t - Var(x_t) = alpha_t^2 s^2 u_s / (1 + u_s) (1 - e^{-a h})^2

and over n equal steps of lambda, with Lambda their sum and ends marked 1 (noise) and 0 (data),

    n (std / std* - 1)  ->  -Lambda a / (4 (1 + u_0)) (1 - r^a)            frozen denoiser,  r = (1 + u_0) / (1 + u_1)
                             Lambda a / (4 (1 + u_0)) (u_0 - u_1 r^a)      frozen noise

For k = 1 the second one vanishes from pure noise to clean data. With k = 0 both are DDIM's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.processes import BetaTable, beta_table
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim, ddim_inversion, ddim_round_trip, gddim
from refdiff.samplers.propagation import propagate
from refdiff.samplers.tableau import Tableau
from refdiff.samplers.times import uniform_log_snr
from refdiff.validation.cases import ProcessCase, TableCase
from refdiff.validation.conditions import smooth, whole_process
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import noised_variance
from refdiff.validation.numeric import extrapolate

TOPIC = "DDIM sampler"


def spread(start: float, end: float, steps: int, rng: np.random.Generator) -> Array:
    """Random times, shape (steps + 1,), from start to end, none close to its neighbours."""
    moved = np.concatenate([[0.0], rng.uniform(-0.4, 0.4, steps - 1), [0.0]])
    u = (np.arange(steps + 1) + moved) / steps
    return np.asarray(start * (1 - u) + end * u)


def between(case: ProcessCase, steps: int, rng: np.random.Generator) -> Array:
    """Random times, shape (steps + 1,), from case.t down to case.s."""
    return spread(case.t, case.s, steps, rng)


def weights(tableau: Tableau) -> tuple[Array, Array]:
    """The weights (n,) of the state before and of its output in the n steps of a one-stage method."""
    return tableau.states[1:, 0], tableau.outputs[1:, 0]


# ---------------------------------------------------------------------- the table


@identity(
    "Weights of DDIM for every prediction",
    topic=TOPIC,
    formula=r"\hat x_0: \frac{\sigma_t}{\sigma_s},\ \alpha_t - \alpha_s\frac{\sigma_t}{\sigma_s};\quad"
    r"\hat\epsilon: \frac{\alpha_t}{\alpha_s},\ -\sigma_t(e^h - 1);\quad "
    r"s: \frac{\alpha_t}{\alpha_s},\ \sigma_s^2\Big(\frac{\alpha_t}{\alpha_s} - \frac{\sigma_t}{\sigma_s}\Big);\quad "
    r"v: \frac{\alpha_s\alpha_t + \sigma_s\sigma_t}{R},\ \frac{\alpha_s\sigma_t - \alpha_t\sigma_s}{R}",
    covers=["PODC9-08", "TOPA-47", "DMI-35"],
    over="processes",
    control="e^h - 1 with h half as large: lambda as the whole log signal-to-noise ratio",
)
def table_weights(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The table, converted from its denoiser to the other predictions, against the formulas of the text."""
    times = between(case, 5, case.rng)
    table, c = ddim(case.process, times), case.schedule.coefficients(times)
    a, b, s, t = c.alpha[:-1], c.alpha[1:], c.sigma[:-1], c.sigma[1:]
    h, norm = np.diff(c.log_snr), a**2 + s**2
    one, none = np.ones(5), np.zeros(5)
    # the weights, and D's of x and of the output: D = (x - s eps) / a = (x + s^2 score) / a = (a x - s v) / R
    expected = {
        "denoiser": (t / s, b - a * t / s, none, one),
        "noise": (b / a, -t * np.expm1(h / 2 if wrong else h), 1 / a, s / a),
        "score": (b / a, s**2 * (b / a - t / s), 1 / a, s**2 / a),
        "v_prediction": ((a * b + s * t) / norm, (a * t - b * s) / norm, a / norm, s / norm),
    }
    for prediction, (of_state, of_output, in_state, in_output) in expected.items():
        states, outputs = weights(to_prediction(table, prediction))
        # D's own weight is b - a t / s
        yield Sides(states, of_state, t / s + b * in_state)
        yield Sides(outputs, of_output, b * in_output)


@identity(
    "DDIM with eta = 1 has the weights of the DDPM posterior",
    topic=TOPIC,
    formula=r"x_{t-1} = \frac{\sqrt{\bar\alpha_{t-1}}\beta_t}{1-\bar\alpha_t}\hat x_0 +"
    r" \frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}x_t + \sqrt{\tilde\beta_t}\,z",
    covers=["DMI-33", "DMI-36", "TOPA-45", "DMI-37", "TOPA-48", "TOPA-49", "TOPA-50"],
    over="tables",
    control="sqrt(beta) in place of sqrt(beta-tilde)",
)
def posterior_weights(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """The sampler's table on all indices and on some, against the posterior of the table and of the table of those."""
    size = case.table.steps
    few = np.arange(1, min(size, 40) + 1)
    some = np.append(np.sort(case.rng.choice(size - 1, min(4, size - 1), replace=False)) + 1, size)
    for visited in (few, some):
        table = BetaTable(case.table.betas[: len(few)])
        if visited is some:
            table = beta_table.from_alpha_bar(case.table.alpha_bar[some - 1])
        found, posterior = ddim(case.table, np.append(visited[::-1], 0), eta=1), table.posterior()
        states, outputs = weights(found)
        # the table of some indices is made from alpha_bar, with its rounding over 1 - alpha_bar
        bound = 1 / -np.expm1(-table.total[1:]) if visited is some else 1.0
        yield Sides(outputs[::-1], posterior.of_x0, scale=bound)
        # sqrt(1 - beta) of such a table may be small, and only its square keeps the digits
        yield Sides(states[::-1] ** 2, posterior.of_xt**2, scale=bound)
        fresh = found.noise[1:].sum(axis=1)[::-1]
        yield Sides(fresh**2, table.betas if wrong else posterior.variance, scale=bound)


# ---------------------------------------------------------------------- laws


STD = np.array([0.2, 1.0, 3.0])  # of the data in the checks below


def angles(case: ProcessCase, times: Array, std: Array = STD) -> tuple[Array, Array]:
    """arctan(sigma / (alpha std)) and the deviation of x_t at times (m,), for each axis of std (d,): (m, d)."""
    c = case.schedule.coefficients(times)
    alpha, sigma = c.alpha[:, None], c.sigma[:, None]
    return np.arctan2(sigma, alpha * std), np.sqrt(alpha**2 * std**2 + sigma**2)


@identity(
    "A run multiplies by a product of cosines",
    topic=TOPIC,
    formula=r"\frac{x_0 - \alpha_0 m}{\sqrt{V_0}} = \prod_{i=1}^N \cos(\theta_i - \theta_{i-1})\,"
    r"\frac{x_T - \alpha_T m}{\sqrt{V_T}},\quad \tan\theta = \frac{\sigma}{\alpha s},\qquad N = 1, 4, 16, 64",
    covers=["PODC9-11", "DMI-35"],
    over="processes",
    control="the angle without the standard deviation of the data",
    needs=whole_process,
    most=6,
)
def cosines(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The exact law of runs over random grids of all of [0, T], for three axes at once."""
    law = Gaussian(case.rng.standard_normal(3), STD**2)
    for steps in (1, 4, 16, 64):
        times = spread(case.process.T, 0.0, steps, case.rng)
        theta, root = angles(case, times, np.ones(3) if wrong else STD)
        _, root = angles(case, times)
        found = propagate(ddim(case.process, times), law)
        gain = np.cos(np.diff(theta, axis=0)).prod(axis=0) * root[-1] / root[0]
        yield Sides(found.channel().gain, gain, scale=root[-1] / root[0])
        yield Sides(found.output.mean(), found.target().mean(), scale=3 + root[-1])


@identity(
    "Inversion multiplies by the same cosines",
    topic=TOPIC,
    formula=r"\frac{x_T - \alpha_T m}{\sqrt{V_T}} = \prod_i \cos(\theta_i - \theta_{i-1})\,"
    r"\frac{x_0 - \alpha_0 m}{\sqrt{V_0}},\qquad"
    r"\text{and back:}\ \prod_i \cos^2(\theta_i - \theta_{i-1})",
    covers=["DMI-35", "TOPA-47"],
    over="processes",
    control="a round trip that returns: the encoder's factor the reciprocal of the decoder's",
    needs=whole_process,
    most=6,
)
def inversion(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The exact laws of the encoder and of the round trip over random grids of all of [0, T]."""
    law = Gaussian(case.rng.standard_normal(3), STD**2)
    for steps in (1, 8, 20):
        times = spread(0.0, case.process.T, steps, case.rng)
        theta, root = angles(case, times)
        shrunk = np.cos(np.diff(theta, axis=0)).prod(axis=0)
        # a single step between data and pure noise shrinks to a point, and has no reciprocal
        coded = 1 / np.maximum(shrunk, 1e-3) if wrong else shrunk
        gain = propagate(ddim_inversion(case.process, times), law).channel().gain
        yield Sides(gain, coded * root[-1] / root[0], scale=root[-1] / root[0])
        yield Sides(propagate(ddim_round_trip(case.process, times), law).channel().gain, shrunk * coded, scale=1.0)


@identity(
    "Every noise keeps the marginals of one point",
    topic=TOPIC,
    formula=r"\hat x_0 = x_0,\ 0 \le c_i \le \sigma_i:\quad x_i \sim \mathcal{N}(\alpha_i x_0, \sigma_i^2)"
    r"\ \text{at every stage}",
    covers=["DMI-32", "DMI-34", "TOPA-40", "TOPA-41", "TOPA-42", "PODC9-14"],
    over="processes",
    control="the noise added to the deterministic step, whose direction is not shortened",
    needs=whole_process,
    most=8,
)
def one_point(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """Laws of all stages for data that are one point, with random noises and with all of sigma."""
    times, x0 = between(case, 5, case.rng), case.rng.standard_normal(2)
    c = case.schedule.coefficients(times)
    for share in (0.0, case.rng.uniform(0, 1, 5), 1.0):
        table = ddim(case.process, times, noise=np.broadcast_to(share * c.sigma[1:], 5))
        if wrong:
            table = replace(ddim(case.process, times), noise=table.noise, normals=table.normals)
        found = propagate(table, Gaussian(x0, 0.0))
        for k in range(1, 6):
            yield Sides(found.law(k).mean(), c.alpha[k] * x0, scale=3.0)
            yield Sides(np.diag(found.law(k).cov()), c.sigma[k] ** 2)


@identity(
    "What is lost in variance, step by step",
    topic=TOPIC,
    formula=r"\mathrm{Var}(x_t) + \Big(\alpha_t - \alpha_s\frac{\sqrt{\sigma_t^2-c^2}}{\sigma_s}\Big)^2"
    r"\,\mathbb{E}\,\mathrm{Cov}(x_0|x_s) = V_t,\qquad "
    r"V_t - \mathrm{Var}(x_t) = \alpha_t^2 s^2 \frac{u_s}{1+u_s}\big(1 - e^{-(1+k^2)h}\big)^2",
    covers=["PODC9-16", "DMI-36", "PODC9-15"],
    over="processes",
    control="the lost term left out: the step taken to keep the variance",
    most=11,
)
def lost_variance(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """One step of eta = 0, 1/2, 1 and of k = 0, 1/2, 1, 2 on three axes, propagated, against Bayes and closed forms."""
    law, times = Gaussian(np.zeros(3), STD**2), [case.t, case.s]
    a, b = (case.schedule.coefficients(t) for t in times)
    true, u = noised_variance(b, STD**2), (a.sigma / (a.alpha * STD)) ** 2
    posterior = np.diag(case.process.kernel(case.t).posterior(law, np.zeros(3)).cov())
    for eta in (0.0, 0.5, 1.0):
        noise = case.process.channel(case.s, case.t).noise * (eta * b.sigma / a.sigma) ** 2
        weight = b.alpha - a.alpha * np.sqrt(b.sigma**2 - noise) / a.sigma
        found = np.diag(propagate(ddim(case.process, times, eta=eta), law).output.cov())
        yield Sides(found + (0 if wrong else weight**2 * posterior), true)
    for k in (0.0, 0.5, 1.0, 2.0):
        lost = b.alpha**2 * STD**2 * u / (1 + u) * np.expm1((1 + k**2) * (a.log_snr - b.log_snr)) ** 2
        found = np.diag(propagate(gddim(case.process, times, stochasticity=k), law).output.cov())
        yield Sides(found + (0 if wrong else lost), true)


@identity(
    "Frozen predictions in the family of reverse equations",
    topic=TOPIC,
    formula=r"dx = \Big[f x - \tfrac{1+k^2}{2} g^2 s\Big]dt + k g\,dw:\quad "
    r"s = \frac{\alpha\hat x - x}{\sigma^2}:\ e^{-k^2 h}\frac{\sigma_t}{\sigma_s},\ \sigma_t^2(1 - e^{-2k^2h});\quad "
    r"s = -\frac{\hat\epsilon}{\sigma}:\ -(1+k^2)\sigma_t(e^h-1),\ k^2\sigma_t^2(e^{2h}-1)",
    covers=["PODC9-15"],
    over="processes",
    evidence=QUADRATURE,
    control="the variance of eta = k in place of k's own",
    needs=lambda case: whole_process(case) and smooth(case),
)
def frozen(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """One step against the moments of the linear equation by an eighth-order Runge-Kutta method; k = 1 by Bayes."""
    times = [case.t, case.s]
    for k in (0.5, 2.0):

        def moments(t: float, y: Array, k: float = k) -> Array:
            """Rates of: multiples of x and of the frozen denoiser, variance; the same with the noise frozen."""
            c = case.schedule.coefficients(t)
            pull = (1 + k**2) / 2 * c.g2 / c.sigma**2
            fresh = k**2 * c.g2
            clean = (c.f + pull) * y[0], (c.f + pull) * y[1] - pull * c.alpha, 2 * (c.f + pull) * y[2] - fresh
            return np.array([*clean, c.f * y[3], c.f * y[4] + pull * c.sigma, 2 * c.f * y[5] - fresh])

        solved = solve_ivp(moments, times, [1.0, 0, 0, 1, 0, 0], method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
        for j, prediction in enumerate(("denoiser", "noise")):
            table = to_prediction(gddim(case.process, times, stochasticity=k, frozen=prediction), prediction)
            found = np.array([table.states[1, 0], table.outputs[1, 0], table.noise[1, 0] ** 2])
            if wrong and prediction == "denoiser":
                found[2] = (ddim(case.process, times, eta=min(k, 1.0)).noise[1, 0]) ** 2
            yield Sides(found, solved[3 * j : 3 * j + 3], scale=np.abs(solved).max())
    bayes = case.process.channel(case.s, case.t).reverse(case.process.kernel(case.s).at([1.0]))
    table = gddim(case.process, times)
    found = np.array([table.states[1, 0], table.outputs[1, 0], table.noise[1, 0] ** 2])
    yield Sides(found, np.ravel([bayes.gain, bayes.offset[0], np.ravel(bayes.noise)[0]]), scale=1.0)


@identity(
    "Errors of first order in equal steps of log-SNR",
    topic=TOPIC,
    formula=r"n\Big(\frac{\mathrm{std}}{\mathrm{std}^*} - 1\Big) \to"
    r" -\frac{\Lambda a}{4(1+u_0)}(1 - r^a)\ (\hat x \text{ frozen}),\quad"
    r" \frac{\Lambda a}{4(1+u_0)}(u_0 - u_1 r^a)\ (\hat\epsilon \text{ frozen}),"
    r"\quad a = 1 + k^2,\ r = \frac{1+u_0}{1+u_1}",
    covers=["PODC9-12", "TOPA-47", "DMI-35", "RDX-09"],
    over="processes",
    evidence=ORDER,
    control="a = 1 for every k",
    needs=whole_process,
    most=6,
)
def first_order(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """Propagated runs of 8 to 32 steps, extrapolated, with data between the noises of the two ends."""
    a, b = (case.schedule.coefficients(t) for t in (case.t, case.s))
    variance, length = float(a.sigma * b.sigma / (a.alpha * b.alpha)), b.log_snr - a.log_snr
    law = Gaussian([0.0], variance)
    u1, u0 = ((c.sigma / c.alpha) ** 2 / variance for c in (a, b))
    for k, prediction in ((0.0, "denoiser"), (1.0, "denoiser"), (1.0, "noise")):
        power = 1.0 if wrong else 1 + k**2
        front, fall = length * power / (4 * (1 + u0)), ((1 + u0) / (1 + u1)) ** power
        limit = -front * (1 - fall) if prediction == "denoiser" else front * (u0 - u1 * fall)
        errors = []
        for n in (8, 16, 32):
            times = uniform_log_snr(case.process, n, start=case.t, end=case.s)
            found = propagate(gddim(case.process, times, stochasticity=k, frozen=prediction), law)
            errors.append(n * (np.sqrt(found.output.cov() / found.target().cov()) - 1))
        yield Sides(extrapolate(errors), limit, scale=abs(front))
