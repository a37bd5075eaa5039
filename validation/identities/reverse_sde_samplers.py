r"""Samplers of reverse-time equations as tables, on Gaussian data of variance v: P = alpha^2 v + sigma^2.

Backward in time, d tau = -dt, the equation with a share k of noise is linear, with rate b and gain Phi to the end e:

    dx = b (x - alpha m) dtau - alpha' m dtau + k g dw,      b = -f - (1 + k^2) g^2 / (2 P)
    Phi(u -> e) = exp int b dtau = (alpha_e / alpha_u)^{-k^2} (P_e / P_u)^{(1 + k^2) / 2}

Over n equal steps of h = D / n Euler-Maruyama has, with V its variance and mu its mean at the end,

    n (V - P_e)            ->  D int Phi^2 (b^2 P - P'' / 2) dt
    n (mu - alpha_e m)     -> -D int Phi alpha'' m / 2 dt
    n^2 E |x - x_exact|^2  ->  D^2 { int [(c w - w' / 2)^2 + w'^2 / 12] dtau + Phi_T^2 P_T c_T^2 }

For k = 1 and alpha = 1 the first integrand is -(g^2 / P^2)' P_e^2 / 2, which leaves the ends. In the third line one
Brownian path drives both, w = g Phi is what an increment does at the end, and c the rate at which a product
of Euler factors falls behind its exponential.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.processes import BetaTable, beta_table
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.propagation import propagate
from refdiff.samplers.reverse_sde import (
    ancestral,
    euler_maruyama,
    exponential_euler_maruyama,
    reverse_diffusion,
    stochastic_runge_kutta,
)
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients, Schedule, VEPower, VPLinear
from refdiff.validation.cases import Case, ProcessCase, TableCase
from refdiff.validation.identities.kernel_sde import growth, panels, smooth
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, extrapolate, legendre

TOPIC = "Reverse-time samplers"
COUNTS = (8, 16, 32, 64)


def row(tableau: Tableau) -> tuple[Array, Array, Array]:
    """Weights of the state before, of the score there, and of the normal, in every step of a one-stage sampler."""
    noise = tableau.noise[1:, 0] if tableau.draws else np.zeros(tableau.stages - 1)
    return tableau.states[1:, 0], tableau.outputs[1:, 0], noise


def end(case: ProcessCase) -> float:
    """A time at most 0.7 in lambda before case.t: rates that grow over decades stay of one size on the way."""
    lam = min(float(case.schedule.log_snr(case.t)) + 0.7, float(case.schedule.log_snr(case.s)))
    return float(case.schedule.time_of_log_snr(lam))


def variance(c: Coefficients, data: float) -> Array:
    """P = alpha^2 v + sigma^2."""
    return np.asarray(c.alpha**2 * data + c.sigma**2)


def gain(schedule: Schedule, u: Array | float, e: float, data: float, k: float) -> Array:
    """Phi(u -> e) in closed form."""
    here, there = schedule.coefficients(u), schedule.coefficients(e)
    ratio = variance(there, data) / variance(here, data)
    return np.asarray((here.alpha / there.alpha) ** k**2 * ratio ** ((1 + k**2) / 2))


def rate(c: Coefficients, data: float, k: float) -> Array:
    """b = -f - (1 + k^2) g^2 / (2 P)."""
    return np.asarray(-c.f - (1 + k**2) / 2 * c.g2 / variance(c, data))


def after(tableau: Tableau, mean: float, data: float) -> tuple[float, float]:
    """Mean and variance at the end of a one-stage sampler with the exact score of N(mean, data), by recursion."""
    c = Coefficients(*(part[:-1] for part in tableau.coefficients))
    p, (x, s, z) = variance(c, data), row(tableau)
    m, v = float(c.alpha[0] * mean), float(p[0])
    for kept, pull, added in zip((x - s / p).tolist(), (s / p * c.alpha * mean).tolist(), (z**2).tolist(), strict=True):
        m, v = kept * m + pull, kept**2 * v + added
    return m, v


@identity(
    "Moments of Euler-Maruyama backward in time",
    topic=TOPIC,
    formula=r"x \leftarrow x - h \left[f x - \tfrac{1+k^2}{2} g^2 \nabla \log p\right] + k g \sqrt{h}\, z:\quad"
    r" V \leftarrow \left(1 - h f - \tfrac{1+k^2}{2} \tfrac{h g^2}{P}\right)^2 V + k^2 g^2 h",
    covers=["PODA-419", "PODA-420", "PODD-62"],
    over="processes",
    control="the drift of the probability flow with the noise of the reverse equation",
)
def moments(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The table of the sampler, propagated, against the recursion of mean and variance."""
    data, mean, times = 0.5, 0.8, np.linspace(case.t, case.s, 8)
    c = case.schedule.coefficients(times[:-1])
    for k in (0.0, 0.6, 1.0):
        found = propagate(euler_maruyama(case.process, times, noise=k), Gaussian([mean], data))
        m, v, h = c.alpha[0] * mean, variance(c, data)[0], times[0] - times[1]
        size = abs(m)
        for j in range(7):
            pull = (1 + (0 if wrong else k**2)) / 2 * h * c.g2[j] / variance(c, data)[j]
            kept = 1 - h * c.f[j] - pull
            m, v = kept * m + pull * c.alpha[j] * mean, kept**2 * v + k**2 * c.g2[j] * h
            size = (1 + abs(h * c.f[j]) + pull) * size + pull * c.alpha[j] * mean
        yield Sides(found.output.mean(), m, scale=size)
        yield Sides(found.output.cov(), v, scale=size**2 / mean**2 + v)


@identity(
    "Leading errors of Euler-Maruyama's mean and variance",
    topic=TOPIC,
    formula=r"n\,(V - P_e) \to D \int \Phi^2 \left(b^2 P - \tfrac12 P''\right) dt,\quad"
    r" n\,(\mu - \alpha_e m) \to -\tfrac{D}{2} \int \Phi\, \alpha'' m\, dt",
    covers=["PODA-419", "PODA-420", "TOPA-77", "PODD-62"],
    over="processes",
    evidence=ORDER,
    control="the curvature of P left out",
    needs=smooth,
)
def leading_error(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The sampler's law at four numbers of steps, extrapolated, against integrals of the schedule."""
    data, mean, e = 0.5, 0.8, end(case)
    length, (u, weights) = case.t - e, panels(case.schedule, e, case.t)
    c, there = case.schedule.coefficients(u), case.schedule.coefficients(e)
    bend = 2 * (c.dalpha**2 + c.alpha * c.d2alpha) * data + c.d2variance
    for k in (0.0, 1.0):
        laws = [
            (n, *after(euler_maruyama(case.process, np.linspace(case.t, e, n + 1), noise=k), mean, data))
            for n in COUNTS
        ]
        spreads = [np.asarray(n * (v - variance(there, data))) for n, _, v in laws]
        means = [np.asarray(n * (m - there.alpha * mean)) for n, m, _ in laws]
        phi, b = gain(case.schedule, u, e, data, k), rate(c, data, k)
        square, curve = length * phi**2 * b**2 * variance(c, data), length * phi**2 * bend / 2
        yield Sides(
            extrapolate(spreads), weights @ (square - (0 if wrong else curve)), weights @ (square + np.abs(curve))
        )
        drift = length * phi * mean / 2 * c.d2alpha
        # where alpha is constant the mean stays as it is
        yield Sides(extrapolate(means), -weights @ drift, scale=weights @ np.abs(drift) or there.alpha * mean)


@identity(
    "Why Euler-Maruyama looks second order where g vanishes at the data",
    topic=TOPIC,
    formula=r"\alpha = 1:\quad n\,(V - P_e) \to \frac{D}{2} \left( g_e^2 - g_T^2 \frac{P_e^2}{P_T^2} \right)",
    covers=["PODA-419"],
    over="once",
    evidence=ORDER,
    control="without the term of the noisy end",
)
def boundary_term(case: Case, wrong: bool) -> list[Sides]:
    """The leading error of an exploding process is a boundary term: it is nearly 0 for sigma = t down to t = 0."""
    data, reach, low = case.rng.uniform(0.2, 1), case.rng.uniform(1, 2), case.rng.uniform(0.1, 0.3)
    sides = []
    for e in (low, 0.0):
        errors = []
        for n in (32, 64, 128, 256):
            table = euler_maruyama(VEPower(T=reach), np.linspace(reach, e, n + 1))
            errors.append(np.asarray(n * (after(table, 0.0, data)[1] - data - e * e)))
        shrink = 0 if wrong else ((data + e * e) / (data + reach * reach)) ** 2
        constant = (reach - e) / 2 * (2 * e - 2 * reach * shrink)
        sides.append(Sides(extrapolate(errors), constant, scale=(reach - e) * (e + reach * shrink) + data))
    return sides


@identity(
    "Strong order of Euler-Maruyama backward in time",
    topic=TOPIC,
    formula=r"n^2\, \mathbb{E}|x_n - x|^2 \to D^2 \left\{ \int \left[(c w - \tfrac12 w')^2 + \tfrac1{12} w'^2\right]"
    r" d\tau + \Phi_T^2 P_T c_T^2 \right\},\quad w = g \Phi",
    covers=["PODA-402", "PODD-62"],
    over="processes",
    evidence=ORDER,
    control="without w'^2 / 12, what a step does not see of the path inside",
    needs=smooth,
)
def strong_error(case: ProcessCase, wrong: bool) -> Sides:
    """Exact and numerical solution driven by one path: the table's weights of each increment against w, squared."""
    schedule, data, e, t = case.schedule, 0.5, end(case), case.t
    nodes, weights = legendre(8)

    def response(u: Array) -> Array:
        return np.asarray(np.sqrt(schedule.g2(u)) * gain(schedule, u, e, data, 1.0))

    errors = []
    for n in COUNTS:
        times = np.linspace(t, e, n + 1)
        states, outputs, noise = row(euler_maruyama(schedule, times))
        factors = states - outputs / variance(schedule.coefficients(times[:-1]), data)
        later, h = np.append(np.cumprod(factors[:0:-1])[::-1], 1.0), (t - e) / n
        miss = (noise / np.sqrt(h) * later)[:, None] - response(times[1:, None] + h * nodes)
        start = (factors.prod() - gain(schedule, t, e, data, 1.0)) ** 2 * variance(schedule.coefficients(t), data)
        errors.append(n**2 * (h * (miss**2 @ weights).sum() + start))
    u, w = panels(schedule, e, t)
    x, y = legendre(24)
    inner = schedule.coefficients(e + (u[:, None] - e) * x)
    squares = (u - e) * (rate(inner, data, 1.0) ** 2 @ y)
    here, first, last = (rate(schedule.coefficients(at), data, 1.0) for at in (u, t, e))
    slope = -derivative(lambda v: response(u * (1 + v)) / u, 0.0, 0.01)
    behind = -(last + here) / 2 - squares / 2
    whole = -(last - first) / 2 - w @ here**2 / 2
    inside = (behind * response(u) - slope / 2) ** 2 + (0 if wrong else slope**2 / 12)
    start = gain(schedule, t, e, data, 1.0) ** 2 * variance(schedule.coefficients(t), data) * whole**2
    return Sides(extrapolate(errors), (t - e) ** 2 * (w @ inside + start))


@identity(
    "Four samplers of the reverse equation differ in second order",
    topic=TOPIC,
    formula=r"\text{weights of } x, S \text{ and the variance, less Euler-Maruyama's, over } h^2:\quad"
    r"\text{ancestral } \tfrac{f'+f^2}{2},\, -\tfrac{(g^2)'}{2},\,"
    r" f g^2 - \tfrac{(g^2)'}{2} - g^2 \tfrac{(\sigma^2)'}{\sigma^2};\ "
    r"\text{reverse diffusion } \tfrac{f'-f^2}{2},\, f g^2 - \tfrac{(g^2)'}{2},\, f g^2 - \tfrac{(g^2)'}{2};\ "
    r"\text{exponential } \tfrac{f'+f^2}{2},\, -\tfrac{f g^2 + (g^2)'}{2},\, -f g^2 - \tfrac{(g^2)'}{2}",
    covers=["TOPA-77", "TOPA-88"],
    over="processes",
    evidence=ORDER,
    control="the sign of f^2 in the weight of x",
    needs=smooth,
)
def second_order(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """One step of each table at six lengths, extrapolated, against derivatives of f and g^2."""
    schedule, t = case.schedule, case.t
    reach = min(t, schedule.T - t)
    c, df, dg2 = (
        schedule.coefficients(t),
        *(derivative(part, t, reach / 50) for part in (schedule.f, schedule.g2)),
    )
    turn, fg, half = -(c.f**2) if wrong else c.f**2, c.f * c.g2, dg2 / 2
    expected = {
        ancestral: ((df + turn) / 2, -half, fg - half - c.g2 * c.dvariance / c.sigma**2),
        reverse_diffusion: ((df - turn) / 2, fg - half, fg - half),
        exponential_euler_maruyama: ((df + turn) / 2, -fg / 2 - half, -fg - half),
    }
    sizes = (
        np.abs(df) + c.f**2 + np.abs(c.f) / reach,
        *[abs(fg) + abs(dg2) + c.g2 * (1 / reach + c.dvariance / c.sigma**2)] * 2,
    )
    for build, constants in expected.items():
        gaps = []
        for h in reach / 40 / 2.0 ** np.arange(6):
            (x, s, z), (x0, s0, z0) = (row(one(schedule, [t, t - h])) for one in (build, euler_maruyama))
            gaps.append(np.concatenate([x - x0, s - s0, z**2 - z0**2]) / h**2)
        for found, constant, size in zip(extrapolate(gaps), constants, sizes, strict=True):
            yield Sides(found, constant, scale=size)


@identity(
    "Exponential Euler-Maruyama is the equation with its score frozen",
    topic=TOPIC,
    formula=r"x_t = E x_s + \tfrac{1+k^2}{2} S \int_t^s E(u \to t)\, g_u^2\, du"
    r" + k \int_t^s E(u \to t)\, g_u\, dw,\quad E(u \to t) = e^{-\int_t^u f} = \alpha_t / \alpha_u",
    covers=["PODD-55", "PODB-65"],
    over="processes",
    evidence=QUADRATURE,
    control="the noise prediction frozen in place of the score: DDIM's weight",
)
def frozen_score(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The table's weights against quadratures of f and g^2, that know neither alpha nor sigma."""
    whole, u, weights, to_end = growth(case.schedule, case.s, case.t)
    back, g2 = to_end / whole, case.schedule.g2(u)
    ratio = case.schedule.sigma(case.t) / case.schedule.sigma(u) if wrong else 1.0
    for k in (0.0, 0.7, 1.0):
        x, s, z = row(exponential_euler_maruyama(case.process, [case.t, case.s], noise=k))
        yield Sides(x, 1 / whole)
        yield Sides(s, (1 + k**2) / 2 * weights @ (back * g2 * ratio))
        yield Sides(z**2, k**2 * weights @ (back**2 * g2))


@identity(
    "Score-SDE's samplers in the numbers of a table",
    topic=TOPIC,
    formula=r"(2 - \sqrt{1-\beta})\, x + \beta S + \sqrt{\beta} z,\qquad"
    r" \frac{x + \beta S}{\sqrt{1-\beta}} + \sqrt{\beta}\, z\ \text{ or }\ \sqrt{\tilde\beta}\, z",
    covers=["TOPA-88"],
    refutes=["TOPA-88"],
    over="tables",
    control="sigma_t = beta-tilde: the variance taken for the standard deviation, as (L1006) prints",
    needs=lambda case: bool((case.table.betas[-1] < 1) and case.table.steps <= 1000),
)
def chain(case: TableCase, wrong: bool) -> list[Sides]:
    """The samplers on ten neighbouring pairs of indices, against betas and the posterior of the table."""
    table, sides = case.table, []
    picked = np.unique(np.linspace(1, table.steps, 10).astype(int))
    picked = picked[table.betas[picked - 1] > 0]
    b, tilde = table.betas[picked - 1], table.posterior().variance[picked - 1]
    found = {
        build: np.array([np.ravel(row(make(table, i))) for i in picked]).T
        for build, make in {
            "reverse": lambda process, i: reverse_diffusion(process, [i, i - 1]),
            "small": lambda process, i: ancestral(process, [i, i - 1]),
            "large": lambda process, i: ancestral(process, [i, i - 1], variance="large"),
        }.items()
    }
    kept = np.sqrt(1 - b)
    small = tilde if wrong else np.sqrt(tilde)
    for name, x, s, z in (
        ("reverse", 2 - kept, b, np.sqrt(b)),
        ("small", 1 / kept, b / kept, small),
        ("large", 1 / kept, b / kept, np.sqrt(b)),
    ):
        # a small beta is a difference of two log abar, which are known to eps of their size
        digits = b + np.abs(np.log(np.append(1.0, table.alpha_bar)[picked]))
        sides += [Sides(found[name][0], x), Sides(found[name][1], s, scale=digits / kept)]
        sides += [Sides(found[name][2], z, scale=np.sqrt(b) + digits / np.sqrt(b))]
    return sides


@identity(
    "DDPM is Euler-Maruyama only to first order in beta",
    topic=TOPIC,
    formula=r"\frac{1}{\beta^2} \left( \tfrac{1}{\sqrt{1-\beta}} - 1 - \tfrac{\beta}{2} \right) \to \tfrac38,\quad"
    r" \frac{1}{\beta^2} \left( \tfrac{\beta}{\sqrt{1-\beta}} - \beta \right) \to \tfrac12,\quad"
    r" \frac{\sigma^2(i)}{\beta_i} = \frac{1 - \bar\alpha_{i-1}^2}{1 - \bar\alpha_i^2}",
    covers=["PODA-422"],
    refutes=["PODA-422"],
    over="once",
    evidence=ORDER,
    control="DDPM a special case of Euler-Maruyama: no gap at all, and noise of variance beta",
)
def not_euler_maruyama(case: Case, wrong: bool) -> list[Sides]:
    """One step of both tables at shrinking beta, and the noise at four indices of Ho's table."""
    largest, gaps = case.rng.uniform(0.05, 0.2), []
    for beta in largest / 2.0 ** np.arange(7):
        euler = euler_maruyama(VPLinear(beta, beta), [1.0, 0.0])
        chain = BetaTable(np.array([beta]))
        step = to_prediction(ddpm(chain, [1, 0], variance="beta", final_noise=True), "score")
        (x, s, z), (x0, s0, z0) = row(step), row(euler)
        gaps.append(np.concatenate([x - x0, s - s0, z - z0]) / beta**2)
    limits = np.array([0.375, 0.5, 0.0])
    table, shares = beta_table.linear(), []
    for i in (1, 2, 10, 100):
        noise = ddpm(table, [i, i - 1]).noise[1]
        shares.append(float((noise**2).sum()) / table.betas[i - 1])
    left = np.append(1.0, table.alpha_bar)
    before, after = 1 - left[[0, 1, 9, 99]], 1 - left[[1, 2, 10, 100]]
    return [
        Sides(extrapolate(gaps), 0 * limits if wrong else limits, scale=1.0),
        Sides(shares, np.ones(4) if wrong else before / after, scale=1.0),
    ]


@identity(
    "Weak order two with two evaluations in a step",
    topic=TOPIC,
    formula=r"\lim_{n\to\infty} \log_2 \frac{V_n - P_e}{V_{2n} - P_e} = 2",
    covers=[],
    over="once",
    evidence=ORDER,
    control="Euler-Maruyama",
)
def weak_order(case: Case, wrong: bool) -> Iterator[Sides]:
    """The exact variance of stochastic Heun's and SRA1's output at four numbers of steps."""
    schedule, data = VPLinear(case.rng.uniform(0.1, 1), case.rng.uniform(3, 6)), case.rng.uniform(0.2, 0.5)
    for method in ("heun", "sra1"):
        errors = []
        for n in (16, 32, 64, 128):
            times = np.linspace(0.9, 0.3, n + 1)
            table = euler_maruyama(schedule, times) if wrong else stochastic_runge_kutta(schedule, times, method=method)
            found = propagate(table, Gaussian([0.0], data))
            errors.append((found.output.cov() - found.target().cov()).item())
        ratios = np.log2(np.array(errors[:-1]) / errors[1:])
        yield Sides(extrapolate([np.asarray(one) for one in ratios]), 2.0)
