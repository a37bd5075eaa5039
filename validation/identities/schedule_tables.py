r"""Schedules as such: tables of betas, the named families, and what their ends mean.

    abar_t = prod_{i <= t} (1 - beta_i),   SNR_t = abar_t / b_t,   beta~_t = beta_t b_{t-1} / b_t with b = 1 - abar
    KL(N(a x_0, v I) || N(0, I)) = (d (v - 1 - log v) + a^2 |x_0|^2) / 2          what is left of the data at the end
    alpha_T = exp int_0^T f                                                       0 only if f is unbounded

Su's table beta_t = 0.02 t / T has log sqrt(abar_t) = sum_k log(1 - 0.02 k / T) / 2, near -5 (t / T)^2 at T = 1000.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod

import numpy as np
from scipy.special import bernoulli, comb

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.distributions.divergences import kl_divergence
from refdiff.processes import AffineProcess, beta_table
from refdiff.schedules import FlowMatching, Transformed, VEGeometric, VEPower, VPCosine, VPLinear
from refdiff.validation.cases import Case, TableCase
from refdiff.validation.identities.forward_kernels import moments_of_chain, signal_and_noise
from refdiff.validation.identities.kernel_sde import panels
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.numeric import hermite

TOPIC = "Schedules"


@identity(
    "Schedule quantities of a table",
    topic=TOPIC,
    formula=r"\bar\alpha_t = \prod_{i \le t} (1 - \beta_i),\quad \beta_t = 1 - \bar\alpha_t / \bar\alpha_{t-1},\quad"
    r" \tilde\beta_t = \beta_t \tfrac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t},\quad \mathrm{SNR}_t \text{ decreasing}",
    covers=["DMI-14"],
    over="tables",
    control="1 - abar_t for 1 - abar_{t-1} in beta~_t",
)
def quantities(case: TableCase, wrong: bool) -> list[Sides]:
    """Products against the table's logarithms; the log signal-to-noise ratio is twice the schedule's lambda."""
    b, table = case.table.betas, case.table
    products = np.append(1.0, np.cumprod(1 - b))
    alpha, variance = signal_and_noise(table)
    noise = moments_of_chain(table)[1]
    before = noise[1:] if wrong else noise[:-1]
    regular = slice(1, len(b) + (alpha[-1] > 0))  # indices with finite log SNR
    log_snr = np.log(products[regular] / noise[regular])
    return [
        Sides(table.alpha_bar, products[1:], scale=products[1:]),
        Sides(-np.expm1(-np.diff(table.total)), b, scale=b),
        Sides(table.posterior().variance, b * before / noise[1:], scale=b),
        Sides(2 * table.log_snr(np.arange(len(b) + 1)[regular]), log_snr, scale=1 + np.abs(log_snr)),
        Sides((np.diff(alpha**2 / variance) < 0)[1:].mean() if len(b) > 1 else 1.0, 1.0),
    ]


@identity(
    "What is left of the data at the end",
    topic=TOPIC,
    formula=r"\mathrm{KL}\big(q(x_T \mid x_0) \,\|\, \mathcal{N}(0, I)\big) = \tfrac12 \big[ d(1 - \bar\alpha_T)"
    r" + \bar\alpha_T \|x_0\|^2 - d - d \log(1 - \bar\alpha_T) \big]",
    covers=["DMI-15", "PODA-211", "TOPA-25"],
    over="tables",
    control="the standard deviation of the kernel in place of its variance",
)
def terminal_divergence(case: TableCase, wrong: bool) -> list[Sides]:
    """Gauss-Hermite averages of the log ratio (exact: it is quadratic), and the divergence of Gaussians, against it."""
    alpha, variance = (value[-1] for value in signal_and_noise(case.table))
    x0, spread = case.rng.standard_normal(3), 0.36
    z, weights = hermite(8)
    sides = []
    # one data point, then data N(x0, s^2 I), whose marginal has variance v = abar s^2 + 1 - abar
    for data in (0.0, spread):
        excess, v = alpha**2 * (data - 1), alpha**2 * data + variance  # v - 1 and v
        used = np.sqrt(v) - 1 if wrong else excess
        closed = 0.5 * (3 * (used - np.log1p(used)) + alpha**2 * x0 @ x0)
        x = alpha * x0[:, None] + np.sqrt(v) * z
        log_ratio = 0.5 * (x**2 - z**2 - np.log(v))
        found = kl_divergence(Gaussian(alpha * x0, v), Gaussian(np.zeros(3), 1.0))
        sides += [
            Sides((log_ratio @ weights).sum(), closed, scale=(0.5 * (x**2 + z**2) @ weights).sum()),
            # v is known to rounding of 1, and so is its excess over 1
            Sides(found, closed, scale=abs(excess) + alpha**2 * x0 @ x0),
        ]
    return sides


@identity(
    "Su's table in whole numbers",
    topic=TOPIC,
    formula=r"\bar\alpha_T^2 = \prod_{t=1}^{T} \Big( 1 - \frac{0.02\, t}{T} \Big)",
    covers=["TOPA-13"],
    refutes=["TOPA-13"],
    over="once",
    control="the table of Ho et al., which L306 says this is",
)
def su_table(case: Case, wrong: bool) -> list[Sides]:
    """Exact fractions, rounded once, against the table, for several T; and the quoted values for T = 1000."""
    sides = []
    for steps in (10, 100, int(case.rng.integers(200, 1000)), 1000):
        table = beta_table.linear(steps) if wrong else beta_table.su(steps)
        exact = Fraction(prod(50 * steps - t for t in range(1, steps + 1)), (50 * steps) ** steps)
        sides.append(Sides(table.alpha_bar[-1], float(exact)))
    # ten digits of the signal factor and the end rates, beta_t^2 in the notation of the source
    full = beta_table.linear(1000) if wrong else beta_table.su(1000)
    quoted = Sides(round(np.sqrt(full.alpha_bar[-1]), 12), 6.482030852e-3)
    return [*sides, quoted, Sides(full.betas[[0, -1]], [2e-5, 0.02])]


def power_sum(t: Array, n: int) -> Array:
    """1^n + ... + t^n for t (m,) by Faulhaber's formula, with the Bernoulli number B_1 = +1/2."""
    numbers = bernoulli(n) * (-1.0) ** np.arange(n + 1)
    terms = (comb(n + 1, i) * numbers[i] * t ** (n + 1 - i) for i in range(n + 1))
    return np.asarray(sum(terms) / (n + 1))


@identity(
    "How far Su's signal factor falls",
    topic=TOPIC,
    formula=r"\log \bar\alpha_t = \tfrac12 \sum_{k=1}^{t} \log\Big(1 - \frac{0.02 k}{T}\Big)"
    r" = -\frac{0.005\, t(t+1)}{T} - \sum_{n \ge 2} \frac{1}{2n} \Big(\frac{0.02}{T}\Big)^n \sum_{k=1}^{t} k^n",
    covers=["TOPA-14", "TOPA-54", "TOPA-55"],
    refutes=["TOPA-14"],
    over="once",
    control="abar_T = 10^-5 as printed in L324, in place of e^-5",
)
def su_decay(case: Case, wrong: bool) -> list[Sides]:
    """The table's logarithms against the power series, by Faulhaber's formula, for several T.

    All terms of the series are negative: the leading one is an upper bound at every t.
    """
    shift, sides = np.log(1e-5) + 5 if wrong else 0.0, []
    for steps in (100, 1000, int(case.rng.integers(300, 2000))):
        t = np.arange(1.0, steps + 1)
        log_signal = -0.5 * beta_table.su(steps).total[1:]
        leading = -0.005 * t * (t + 1) / steps
        # the terms from n = 9 on add 0.02^9 T / 180 < 6e-15
        rest = -sum((0.02 / steps) ** n / (2 * n) * power_sum(t, n) for n in range(2, 9))
        sides += [Sides(log_signal, leading + rest + shift), Sides((log_signal < leading).all(), 1.0)]
    return sides


@identity(
    "The continuous schedule e^(-5 s^2)",
    topic=TOPIC,
    formula=r"\bar\alpha(s) = e^{-5 s^2},\ f = -10 s,\ g^2 = 20 s;\qquad s \to s^2:\ e^{-5 s},\ f = -5,\ g^2 = 10",
    covers=["TOPA-55"],
    refutes=["TOPA-55"],
    over="once",
    control="exp(-0.005 t^2 / T), the same only for T = 1000",
)
def su_continuous(case: Case, wrong: bool) -> list[Sides]:
    """The variance-preserving SDE with beta from 0 to 20, and on the clock sqrt(s), against the exponentials."""
    schedule, s = VPLinear(0.0, 20.0), case.rng.uniform(0.05, 1.0, 7)
    steps = 100
    assumed = np.exp(-0.005 * (s * steps) ** 2 / steps) if wrong else np.exp(-5 * s**2)
    even = Transformed(schedule, lambda u: (np.sqrt(u), 0.5 / np.sqrt(u), -0.25 * u**-1.5)).coefficients(s)
    return [
        Sides(schedule.alpha(s), assumed),
        Sides(schedule.f(s), -10 * s),
        Sides(schedule.g2(s), 20 * s),
        Sides(even.alpha, np.exp(-5 * s)),
        Sides(even.f, -5.0),
        Sides(even.g2, 10.0),
    ]


@identity(
    "Three kernels and their SDEs",
    topic=TOPIC,
    formula=r"\text{VE: } f = 0,\ g^2 = (\sigma^2)';\quad \text{VP: } f = -\tfrac12\beta,\ g^2 = \beta,\ "
    r"\alpha = e^{-B/2};\quad \text{FM: } f = \tfrac{-1}{1-t},\ g^2 = \tfrac{2t}{1-t}",
    covers=["PODB-02", "PODA-424", "TOPA-74"],
    over="once",
    control="g^2 = 2 t for the straight path, without its drift's share",
)
def three_kernels(case: Case, wrong: bool) -> list[Sides]:
    """The families' coefficients against their closed forms at random times."""
    t, low, high = case.rng.uniform(0.02, 0.98, 6), case.rng.uniform(0.05, 0.5), case.rng.uniform(5.0, 20.0)
    vp, ve, straight = (q.coefficients(t) for q in (VPLinear(low, high), VEPower(0.75, 1.0), FlowMatching()))
    beta, total = low + t * (high - low), low * t + 0.5 * t**2 * (high - low)
    return [
        Sides([ve.alpha, ve.f, ve.sigma], [np.ones(6), np.zeros(6), t**0.75]),
        Sides(ve.g2, 1.5 * np.sqrt(t)),
        Sides([vp.alpha, vp.sigma**2], [np.exp(-total / 2), 1 - np.exp(-total)]),
        Sides([vp.f, vp.g2], [-beta / 2, beta]),
        Sides([straight.alpha, straight.sigma], [1 - t, t]),
        Sides([straight.f, straight.g2], [-1 / (1 - t), 2 * t if wrong else 2 * t / (1 - t)]),
    ]


@identity(
    "The geometric variance-exploding kernel starts where its SDE starts",
    topic=TOPIC,
    formula=r"\int_0^t g^2 = \sigma_t^2 - \sigma_0^2,\quad g = \sigma_t \sqrt{2 \log(\sigma_{\max} / \sigma_{\min})},"
    r"\quad \sigma_t = \sigma_{\min} (\sigma_{\max} / \sigma_{\min})^t",
    covers=["PODA-423", "TOPA-74"],
    refutes=["PODA-423"],
    over="once",
    evidence=QUADRATURE,
    control="sigma_t^2, which prior and NCSN use beside that kernel",
)
def exploding(case: Case, wrong: bool) -> list[Sides]:
    """g^2 of either convention integrated from the start, against the variance of the clean-start kernel."""
    small, large, t = 0.01 * case.rng.uniform(0.5, 2), case.rng.uniform(10, 60), case.rng.uniform(0.01, 0.5)
    blurred, clean = VEGeometric(small, large), VEGeometric(small, large, clean_start=True)
    u, weights = panels(blurred, 0.0, t)
    sigma = small * (large / small) ** t
    g2 = 2 * (small * (large / small) ** u) ** 2 * np.log(large / small)
    return [
        Sides(blurred.g2(u), g2, scale=g2),
        Sides(weights @ clean.g2(u), sigma**2 if wrong else sigma**2 - small**2),
        Sides(clean.sigma(t) ** 2, sigma**2 - small**2),
        Sides(blurred.sigma(t), sigma),
    ]


@identity(
    "An end without signal needs an infinite drift",
    topic=TOPIC,
    formula=r"\alpha_T = e^{\int_0^T f};\quad \text{straight: } (1-t) f = -1,\ (1-t) g^2 = 2t;\quad"
    r" \text{cosine: } f = -\tfrac{\pi}{2} \tan \tfrac{\pi t}{2},\ g^2 = \pi \tan \tfrac{\pi t}{2}",
    covers=["PODB-04", "TOPA-71"],
    refutes=["PODB-04"],
    over="once",
    control="sigma^(2t) in place of (sigma^2)', as printed in L2669",
)
def singular_end(case: Case, wrong: bool) -> list[Sides]:
    """Drift and diffusion as t -> T against closed forms, the ends of time, and what a bounded drift leaves over."""
    left = 2.0 ** -case.rng.integers(2, 40, 8).astype(float)  # powers of two: 1 - t is exact
    t, angle = 1 - left, np.pi / 2 * left
    sides = []
    for schedule, drift, diffusion in (
        (FlowMatching(), -np.ones(8), 2 * t),
        (VPCosine(s=0.0), -angle / np.tan(angle), 2 * angle / np.tan(angle)),
    ):
        c, start, end = schedule.coefficients(t), schedule.coefficients(0.0), schedule.coefficients(1.0)
        g2 = c.sigma ** (2 * t) - 2 * c.f * c.sigma**2 if wrong else c.g2
        sides += [
            Sides(c.f * left, drift),
            Sides(g2 * left, diffusion),
            Sides([start.alpha, start.sigma, end.alpha, end.sigma], [1.0, 0.0, 0.0, 1.0]),
            Sides(np.isinf([end.f, end.g2]).all(), 1.0),
        ]
    bounded = VPLinear(0.0, 20.0)
    u, weights = panels(bounded, 0.0, 1.0)
    return [*sides, Sides(np.exp(weights @ bounded.f(u)), bounded.alpha(1.0)), Sides(bounded.alpha(1.0), np.exp(-5.0))]


@identity(
    "Table 4.1, row by row",
    topic=TOPIC,
    formula=r"\text{VE: } f = 0,\ g^2 = \tfrac{d\sigma^2}{dt},\ N(x_0, \sigma_t^2 - \sigma_0^2);\quad"
    r" \text{VP: } f = -\tfrac12 \beta,\ g^2 = \beta,\ N(x_0 e^{-B/2}, 1 - e^{-B});\quad"
    r" \text{prior: } N(0, \sigma_T^2),\ N(0, 1)",
    covers=["PODA-426"],
    over="once",
    evidence=QUADRATURE,
    control="g = d sigma / dt for the root of d sigma^2 / dt",
)
def table_of_sdes(case: Case, wrong: bool) -> list[Sides]:
    """The rows f and g integrated as moment equations give the row of kernels; the library's schedules are both.

    The prior row leaves out what is left of x_0, and for VE the start sigma_0: by these divergences.
    """
    rng, t, x0 = case.rng, case.rng.uniform(0.2, 1.0), case.rng.uniform(0.5, 2.0)
    small, large = rng.uniform(0.05, 0.2), rng.uniform(3, 10)
    low, high = rng.uniform(0.1, 0.5), rng.uniform(8, 15)
    ve, vp = VEGeometric(small, large, clean_start=True), VPLinear(low, high)
    u, weights = panels(ve, 0.0, t)
    rate = np.log(large / small)
    sigma = small * np.exp(rate * u)
    g = rate * sigma if wrong else np.sqrt(2 * rate) * sigma  # sigma' and sqrt(2 sigma sigma')
    beta, total = low + u * (high - low), low * u + u**2 * (high - low) / 2
    b = low * t + t**2 * (high - low) / 2
    # variances by P' = 2 f P + g^2
    exploding, preserving = weights @ g**2, weights @ (beta * np.exp(total - b))
    ratio = 1 - (small / large) ** 2
    ve_cost = (ratio - 1 - np.log(ratio) + (x0 / large) ** 2) / 2
    end = (low + high) / 2
    vp_cost = (-np.exp(-end) - np.log1p(-np.exp(-end)) + x0**2 * np.exp(-end)) / 2
    sides = [
        Sides([ve.f(u), vp.f(u)], [np.zeros(len(u)), -beta / 2]),
        Sides(ve.g2(u), g**2, scale=g**2),
        Sides(vp.g2(u), beta),
        Sides([exploding, preserving], [small**2 * np.expm1(2 * rate * t), -np.expm1(-b)], scale=1.0),
    ]
    for schedule, mean, variance, prior, cost in (
        (ve, x0, exploding, large**2, ve_cost),
        (vp, x0 * np.exp(-b / 2), preserving, 1.0, vp_cost),
    ):
        kernel, last = (AffineProcess(schedule).kernel(time).at([x0]) for time in (t, 1.0))
        sides += [
            Sides(kernel.mean()[0], mean),
            Sides(kernel.cov()[0, 0], variance),
            Sides(kl_divergence(last, Gaussian([0.0], prior)), cost),
        ]
    return sides
