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
from refdiff.samplers.propagation import propagate
from refdiff.samplers.reverse_sde import (
    euler_maruyama,
    stochastic_runge_kutta,
)
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients, Schedule, VEPower, VPLinear
from refdiff.validation.cases import Case, ProcessCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identities.kernel_sde import panels
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.laws import noised_variance
from refdiff.validation.numeric import derivative, extrapolate, legendre, products_after

TOPIC = "Reverse-time samplers"
COUNTS = (8, 16, 32, 64)


def row(tableau: Tableau) -> tuple[Array, Array, Array]:
    """Weights (n,) of the state before, the score there, and the normal, in the n steps of a one-stage sampler."""
    noise = tableau.noise[1:, 0] if tableau.draws else np.zeros(tableau.stages - 1)
    return tableau.states[1:, 0], tableau.outputs[1:, 0], noise


def end(case: ProcessCase) -> float:
    """A time at most 0.7 in lambda before case.t: rates that grow over decades stay of one size on the way."""
    lam = min(float(case.schedule.log_snr(case.t)) + 0.7, float(case.schedule.log_snr(case.s)))
    return float(case.schedule.time_of_log_snr(lam))


def gain(schedule: Schedule, u: Array | float, e: float, data: float, k: float) -> Array:
    """Phi(u -> e) in closed form, of the shape of u."""
    here, there = schedule.coefficients(u), schedule.coefficients(e)
    ratio = noised_variance(there, data) / noised_variance(here, data)
    return np.asarray((here.alpha / there.alpha) ** k**2 * ratio ** ((1 + k**2) / 2))


def rate(c: Coefficients, data: float, k: float) -> Array:
    """b = -f - (1 + k^2) g^2 / (2 P), of the shape of the coefficients."""
    return np.asarray(-c.f - (1 + k**2) / 2 * c.g2 / noised_variance(c, data))


def after(tableau: Tableau, mean: float, data: float) -> tuple[float, float]:
    """Mean and variance at the end of a one-stage sampler with the exact score of N(mean, data), by recursion."""
    c = Coefficients(*(part[:-1] for part in tableau.scalars))
    p, (x, s, z) = noised_variance(c, data), row(tableau)
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
        m, v, h = c.alpha[0] * mean, noised_variance(c, data)[0], times[0] - times[1]
        size = abs(m)
        for j in range(7):
            pull = (1 + (0 if wrong else k**2)) / 2 * h * c.g2[j] / noised_variance(c, data)[j]
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
    covers=["PODA-419", "TOPA-77", "PODD-62"],
    over="processes",
    evidence=ORDER,
    control="the curvature of P left out",
    needs=smooth,
    most=8,
)
def leading_error(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """The sampler's law at four numbers of steps, extrapolated, against integrals of the schedule."""
    data, mean, e = 0.5, 0.8, end(case)
    length, (u, weights) = case.t - e, panels(case.schedule, e, case.t)
    c, there = case.schedule.coefficients(u), case.schedule.coefficients(e)
    bend = 2 * (c.dalpha**2 + c.alpha * c.d2alpha) * data + c.d2variance
    for k in (0.6, 1.0):
        laws = [
            (n, *after(euler_maruyama(case.process, np.linspace(case.t, e, n + 1), noise=k), mean, data))
            for n in COUNTS
        ]
        spreads = [np.asarray(n * (v - noised_variance(there, data))) for n, _, v in laws]
        means = [np.asarray(n * (m - there.alpha * mean)) for n, m, _ in laws]
        phi, b = gain(case.schedule, u, e, data, k), rate(c, data, k)
        square, curve = length * phi**2 * b**2 * noised_variance(c, data), length * phi**2 * bend / 2
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
    control="P_e / P_T without its square",
)
def boundary_term(case: Case, wrong: bool) -> list[Sides]:
    """The leading error of an exploding process is a boundary term: it is nearly 0 for sigma = t down to t = 0."""
    data, reach, low = case.rng.uniform(0.2, 1), case.rng.uniform(1, 2), case.rng.uniform(0.1, 0.3)
    sides = []
    for e in (low, 0.0):
        errors = []
        for n in (16, 32, 64, 128):
            table = euler_maruyama(VEPower(T=reach), np.linspace(reach, e, n + 1))
            errors.append(np.asarray(n * (after(table, 0.0, data)[1] - data - e * e)))
        shrink = ((data + e * e) / (data + reach * reach)) ** (1 if wrong else 2)
        constant = (reach - e) / 2 * (2 * e - 2 * reach * shrink)
        sides.append(Sides(extrapolate(errors), constant, scale=(reach - e) * (e + reach * shrink)))
    return sides


@identity(
    "Strong order of Euler-Maruyama backward in time",
    topic=TOPIC,
    formula=r"n^2\, \mathbb{E}|x_n - x|^2 \to D^2 \left\{ \int \left[(c w - \tfrac12 w')^2 + \tfrac1{12} w'^2\right]"
    r" d\tau + \Phi_T^2 P_T c_T^2 \right\},\quad w = g \Phi",
    covers=["PODD-62", "PODA-419"],
    over="processes",
    evidence=ORDER,
    control="without w', what a step does not see of the path inside",
    needs=smooth,
    most=11,
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
        factors = states - outputs / noised_variance(schedule.coefficients(times[:-1]), data)
        later, h = products_after(factors), (t - e) / n
        miss = (noise / np.sqrt(h) * later)[:, None] - response(times[1:, None] + h * nodes)
        behind = factors.prod() - gain(schedule, t, e, data, 1.0)
        start = behind**2 * noised_variance(schedule.coefficients(t), data)
        errors.append(n**2 * (h * (miss**2 @ weights).sum() + start))
    u, w = panels(schedule, e, t)
    x, y = legendre(24)
    inner = schedule.coefficients(e + (u[:, None] - e) * x)
    squares = (u - e) * (rate(inner, data, 1.0) ** 2 @ y)
    here, first, last = (rate(schedule.coefficients(at), data, 1.0) for at in (u, t, e))
    reach = np.minimum(u, schedule.T - u)
    slope = 0.0 if wrong else -derivative(lambda v: response(u + v * reach) / reach, 0.0, 1 / 50)
    behind = -(last + here) / 2 - squares / 2
    whole = -(last - first) / 2 - w @ here**2 / 2
    inside = (behind * response(u) - slope / 2) ** 2 + slope**2 / 12
    start = gain(schedule, t, e, data, 1.0) ** 2 * noised_variance(schedule.coefficients(t), data) * whole**2
    return Sides(extrapolate(errors), (t - e) ** 2 * (w @ inside + start))


@identity(
    "Weak orders, one of Euler-Maruyama and two of Runge-Kutta",
    topic=TOPIC,
    formula=r"\lim_{n\to\infty} \log_2 \frac{V_n - P_e}{V_{2n} - P_e} = p",
    covers=["PODD-62", "PODA-419"],
    over="once",
    evidence=ORDER,
    control="the orders exchanged",
)
def weak_order(case: Case, wrong: bool) -> Iterator[Sides]:
    """The exact variance of the output at four numbers of steps, of Euler-Maruyama, stochastic Heun and SRA1."""
    # a constant rate: the leading constants have one sign for all data narrower than the noise
    beta, data = case.rng.uniform(1, 3), case.rng.uniform(0.2, 0.6)
    schedule = VPLinear(beta, beta)
    for method, order in (("euler", 1), ("heun", 2), ("sra1", 2)):
        errors = []
        for n in (8, 16, 32, 64):
            times = np.linspace(0.9, 0.3, n + 1)
            table = (
                euler_maruyama(schedule, times)
                if method == "euler"
                else stochastic_runge_kutta(schedule, times, method=method)
            )
            found = propagate(table, Gaussian([0.0], data))
            errors.append((found.output.cov() - found.target().cov()).item())
        ratios = np.log2(np.array(errors[:-1]) / errors[1:])
        yield Sides(extrapolate([np.asarray(one) for one in ratios]), 3.0 - order if wrong else float(order))
