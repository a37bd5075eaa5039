r"""Forward kernels: what noising does to points and laws, and how its steps compose.

    x_t | x_s ~ N(g x_s, q),     g = alpha_t / alpha_s,     q = sigma_t^2 - g^2 sigma_s^2
    (s -> u) then (u -> t) is (s -> t):     g = g_2 g_1,     q = q_2 + g_2^2 q_1
    x_t = sqrt(abar_t) x_0 + sum_k w_k eps_k,     w_k^2 = beta_k prod_{j>k} (1 - beta_j),     abar_t + sum_k w_k^2 = 1
    Cov(x_s, x_t | x_0) = g sigma_s^2,   so the past and the future of x_u are independent given x_u and x_0

A table of betas here is the chain x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(c beta_i) eps_i, where c is the variance the
chain forgets its data for (1 in DDPM, sigma^2 in PHY). The steps are multiplied out one by one; the closed forms come
from the schedule's own alpha and sigma.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from refdiff import operators
from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.processes import BetaTable
from refdiff.validation.cases import Case, ModelCase, TableCase
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.numeric import products_after

TOPIC = "Forward kernels"
ASYMPTOTIC = 1.7  # the c of a chain whose limit is N(0, c)


def signal_and_noise(table: BetaTable) -> tuple[Array, Array]:
    """sqrt(abar_i) and 1 - abar_i for i = 0..N, both (N + 1,), from the table's schedule."""
    c = table.coefficients(np.arange(table.steps + 1))
    return c.alpha, c.sigma**2


def moments_of_chain(table: BetaTable) -> tuple[Array, Array]:
    """sqrt(abar_i) and 1 - abar_i, both (N + 1,), from v <- (1 - beta) v + beta: positive terms, no logarithm."""
    signal, noise = [1.0], [0.0]
    for beta in table.betas:
        signal.append(signal[-1] * np.sqrt(1 - beta))
        noise.append((1 - beta) * noise[-1] + beta)
    return np.array(signal), np.array(noise)


def path(start: Gaussian, channels: Iterable[Channel]) -> Gaussian:
    """The joint law of (x, y, z, ...) when x ~ start and every channel acts on the variable before."""
    law: GaussianMixture = start
    last = start.dim
    for channel in channels:
        gain = operators.dense(channel.gain, last)
        rows, dim = len(gain), law.dim
        pick = np.eye(dim)[dim - last :]
        offset = np.append(np.zeros(dim), np.broadcast_to(channel.offset, (rows,)))
        noise = block_diag(np.zeros((dim, dim)), operators.dense(channel.noise, rows))
        law, last = law.affine(np.vstack([np.eye(dim), gain @ pick]), offset).convolve(noise), rows
    return Gaussian(law.mean(), law.cov())


def noise_weights(kept: Array, betas: Array) -> Array:
    """The weights (N, N) of eps_1..eps_N in x_1..x_N, a row a step, as the chain makes them; kept = 1 - betas (N,)."""
    weights = np.zeros((len(betas), len(betas)))
    for i, beta in enumerate(betas):
        weights[i] = np.sqrt(kept[i]) * weights[i - 1] if i else 0.0
        weights[i, i] = np.sqrt(beta)
    return weights


def respaced(table: BetaTable, count: int = 9) -> tuple[NDArray[np.intp], Array, Array]:
    """At most `count` indices 1 = i_1 < .. < N (n,), and 1 - beta = abar_{i_j} / abar_{i_{j-1}} and beta on them (n,).

    The beta of a long step is so close to 1 that 1 - beta by subtraction would lose its digits.
    """
    chosen = np.unique(np.geomspace(1, table.steps, count).round().astype(np.intp))
    before, after = table.total[np.append(0, chosen[:-1])], table.total[chosen]
    return chosen, np.exp(before - after), -np.expm1(before - after)


@identity(
    "Two steps are one step (Chapman-Kolmogorov)",
    topic=TOPIC,
    formula=r"g_{t|s} = g_{t|u}\, g_{u|s}, \qquad \sigma^2_{t|s} = \sigma^2_{t|u} + g_{t|u}^2\, \sigma^2_{u|s}",
    covers=["PODB-06", "TOPA-04", "DMI-17", "PODD-85"],
    control="the first step's noise carried by g in place of g^2",
)
def chapman_kolmogorov(case: ModelCase, wrong: bool) -> list[Sides]:
    """Channels composed, from a middle time and from the data, against the schedule's direct kernels."""
    middle = case.s + case.rng.uniform(0.2, 0.8) * (case.t - case.s)
    first, second = case.process.channel(case.s, middle), case.process.channel(middle, case.t)
    sides = []
    for start, step, direct in (
        (first, second, case.process.channel(case.s, case.t)),
        (case.process.kernel(case.s), case.process.channel(case.s, case.t), case.process.kernel(case.t)),
    ):
        both = step.compose(start)
        noise = step.noise + step.gain * start.noise if wrong else both.noise
        sides += [Sides(both.gain, direct.gain), Sides(noise, direct.noise)]
    return sides


@identity(
    "The marginal is the data blurred: quadrature of the convolution",
    topic=TOPIC,
    formula=r"p_t(x) = \int \mathcal{N}(x; \alpha_t x_0, \sigma_t^2)\, p_0(x_0)\, dx_0",
    covers=["PODB-01", "PODB-28", "PODA-406", "TOPA-35", "DMI-18"],
    evidence=QUADRATURE,
    control="sigma in place of sigma^2 as the kernel's variance",
    needs=lambda case: case.law.dim == 1 and not case.law.covariances.singular,
)
def convolution(case: ModelCase, wrong: bool) -> Sides:
    """The trapezoid rule, exponentially accurate on the line, against the pushed mixture's density."""
    c = case.process.coefficients(case.t)
    alpha, sigma = c.alpha.item(), c.sigma.item()
    variance = sigma if wrong else sigma**2
    prior_std = np.sqrt(case.law.covariances.dense(1)).ravel()
    # the integrand is a sum of Gaussians in x_0 no narrower than this; a spacing of half that leaves exp(-8 pi^2)
    width = (prior_std.min() ** -2 + alpha**2 / sigma**2) ** -0.5
    reach = np.abs(case.law.means).max() + 9 * prior_std.max()
    nodes = np.arange(-reach, reach, width / 2)[:, None]
    kernel = np.exp(-0.5 * (case.x[:, 0] - alpha * nodes) ** 2 / variance) / np.sqrt(2 * np.pi * variance)
    density = (kernel * np.exp(case.law.logpdf(nodes))[:, None]).sum(axis=0) * width / 2
    exact = np.exp(case.model.log_density(case.x, case.t))
    return Sides(density, exact, scale=exact)


@identity(
    "A mixture stays a mixture, component by component",
    topic=TOPIC,
    formula=r"p_t = \sum_k w_k\, \mathcal{N}(\alpha_t m_k,\ \alpha_t^2 S_k + \sigma_t^2 I)",
    covers=["PODB-01", "PODA-406", "TOPA-35", "DMI-18"],
    control="alpha S_k in place of alpha^2 S_k",
    needs=lambda case: case.law.dim <= 5,
)
def mixture_marginal(case: ModelCase, wrong: bool) -> Sides:
    """Matrices and determinants written out, against data pushed to s and on to t."""
    c, law = case.process.coefficients(case.t), case.law
    alpha, variance = np.broadcast_to(c.alpha, law.dim), np.broadcast_to(c.sigma**2, law.dim)
    squared = np.outer(alpha, alpha)
    spread = (np.sqrt(squared) if wrong else squared) * law.covariances.dense(law.dim) + np.diag(variance)
    offset = case.x[:, None, :] - alpha * law.means
    distance = (offset * np.linalg.solve(spread, offset[..., None])[..., 0]).sum(axis=-1)
    logs = law.log_weights - 0.5 * (distance + np.linalg.slogdet(2 * np.pi * spread)[1])
    pushed = case.process.channel(case.s, case.t).push(case.model.marginal(case.s)).logpdf(case.x)
    return Sides(np.logaddexp.reduce(logs, axis=1), pushed, scale=1 + np.abs(logs).min(axis=1))


@identity(
    "The moments of the chain, step by step",
    topic=TOPIC,
    formula=r"m_i = \sqrt{1-\beta_i}\, m_{i-1},\; v_i = (1-\beta_i) v_{i-1} + \beta_i"
    r"\ \Rightarrow\ m_i = \sqrt{\bar\alpha_i},\; v_i = 1 - \bar\alpha_i",
    covers=["DMI-16", "DMI-17", "DMI-18", "PODA-210", "PODA-211", "TOPA-02", "TOPA-04", "PHY-10", "PHY-19"],
    over="tables",
    control="beta, which is a variance, used as a standard deviation",
)
def step_by_step(case: TableCase, wrong: bool) -> list[Sides]:
    """N steps multiplied out against sqrt(abar) and 1 - abar, each relative to itself; windows of three steps."""
    alpha, variance = signal_and_noise(case.table)
    b = case.table.betas
    m, v = moments_of_chain(case.table)
    if wrong:
        for i, beta in enumerate(b):
            v[i + 1] = (1 - beta) * v[i] + beta**2
    # variance 1 stays 1: alpha^2 + beta^2 = 1 in the notation of TOPA and PODA
    sides = [Sides(m, alpha, scale=alpha), Sides(v, variance, scale=variance), Sides(m**2 + v, 1.0)]
    if len(b) >= 3:
        first, second, third = b[:-2], b[1:-1], b[2:]
        merged = (1 - third) * ((1 - second) * first + second) + third
        sides.append(Sides(merged, 1 - (1 - third) * (1 - second) * (1 - first)))
    return sides


@identity(
    "The weights of the unrolled noise",
    topic=TOPIC,
    formula=r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sum_k w_k \varepsilon_k,\quad"
    r" w_k^2 = \beta_k \prod_{j>k} (1-\beta_j),\quad \bar\alpha_t + \sum_k w_k^2 = 1",
    covers=["TOPA-03", "PHY-15", "PHY-16", "PHY-18", "PHY-19"],
    refutes=["TOPA-03"],
    over="tables",
    control="the weights themselves summed to 1, as printed",
)
def unrolled_weights(case: TableCase, wrong: bool) -> list[Sides]:
    """Weights carried through the chain against the products of footnote and text, and their squares against 1."""
    chosen, kept, betas = respaced(case.table, 60)
    alpha, variance = signal_and_noise(case.table)
    carried = noise_weights(kept, betas)
    power = 1 if wrong else 2
    sides = [
        Sides(alpha[chosen] ** power + (carried**power).sum(axis=1), 1.0),
        Sides((carried**2).sum(axis=1), variance[chosen], scale=variance[chosen]),
    ]
    for t in {1, len(betas) // 2, len(betas)} - {0}:
        factors = kept[:t]
        after = products_after(factors)  # prod_{j>k}^t (1 - beta_j)
        sides.append(Sides(carried[t - 1, :t], np.sqrt(betas[:t] * after)))
        if factors.all():  # the form of the text divides by sqrt(1 - beta_k)
            sides.append(Sides(carried[t - 1, :t] ** 2, betas[:t] / factors * np.cumprod(factors[::-1])[::-1]))
    return sides


@identity(
    "The covariance of the chain",
    topic=TOPIC,
    formula=r"\Sigma_t = \bar\alpha_t \Sigma_0 + (1 - \bar\alpha_t)\, \sigma^2 I,"
    r"\quad \Sigma_0 = \sigma^2 I \Rightarrow \Sigma_t = \sigma^2 I",
    covers=["PHY-13", "PHY-13b", "PHY-10", "PHY-60"],
    refutes=["PHY-13b"],
    over="tables",
    control="the coefficients exchanged, as printed in the text and in the caption of Fig. 4",
)
def covariance_recursion(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """A data covariance, and the stationary one, pushed through the steps of the chain, against its closed form."""
    chosen, kept, betas = respaced(case.table)
    alpha, variance = signal_and_noise(case.table)
    root, stationary = case.rng.standard_normal((3, 3)), ASYMPTOTIC * np.eye(3)
    of_data, of_noise = alpha[chosen] ** 2, variance[chosen]
    if wrong:
        of_data, of_noise = of_noise, of_data
    for start in (root @ root.T, stationary):
        law: GaussianMixture = Gaussian(np.zeros(3), start)
        pushed = []
        for factor, beta in zip(kept, betas, strict=True):
            law = Channel(np.sqrt(factor), 0.0, ASYMPTOTIC * beta).push(law)
            pushed.append(law.cov())
        closed = of_data[:, None, None] * start + of_noise[:, None, None] * stationary
        yield Sides(np.array(pushed), stationary if start is stationary else closed)


@identity(
    "Two times of the chain are correlated as a Markov chain's",
    topic=TOPIC,
    formula=r"\operatorname{Cov}(x_t, x_s \mid x_0) = \sigma^2 \sqrt{\bar\alpha_t / \bar\alpha_s}\,"
    r" (1 - \bar\alpha_s) I,\quad s \le t",
    covers=["PHY-21", "PHY-23", "PODA-212"],
    over="tables",
    control="one noise shared by all times, sigma_s sigma_t",
)
def cross_covariance(case: TableCase, wrong: bool) -> list[Sides]:
    """W W' of the chain's own noise weights, against the closed form and its determinant."""
    chosen, kept, betas = respaced(case.table)
    weights = noise_weights(kept, betas)
    joint = ASYMPTOTIC * weights @ weights.T
    closed = ASYMPTOTIC * _closed_covariance(case.table, chosen, shared=wrong)
    std = np.sqrt(np.diag(joint))
    sides = [Sides(joint, closed, scale=np.outer(std, std))]
    if len(chosen) > 1:
        i, j = 0, len(chosen) - 1
        before, after = case.table.total[chosen[i]], case.table.total[chosen[j]]
        determinant = joint[i, i] * joint[j, j] - joint[i, j] ** 2
        factors = ASYMPTOTIC**2 * np.expm1(-before) * np.expm1(before - after)
        sides.append(Sides(determinant, factors, scale=joint[i, i] * joint[j, j]))
    return sides


@identity(
    "Past and future are independent given the present",
    topic=TOPIC,
    formula=r"\operatorname{Cov}(x_i, x_j \mid x_l, x_0) = 0,\ i < l < j;"
    r"\quad \operatorname{Cov}(x_{1:T} \mid x_0)^{-1}\ \text{tridiagonal}",
    covers=["PHY-11"],
    over="tables",
    control="one noise shared by all times, sigma_s sigma_t",
    needs=lambda case: case.table.steps > 2,
)
def markov(case: TableCase, wrong: bool) -> list[Sides]:
    """Schur complements of the closed covariance against 0, and the tridiagonal precision of the steps times it."""
    chosen, kept, betas = respaced(case.table)
    joint = _closed_covariance(case.table, chosen, shared=wrong)
    steps = np.eye(len(betas)) - np.diag(np.sqrt(kept[1:]), -1)
    precision = steps.T @ np.diag(1 / betas) @ steps
    identity_matrix = Sides(precision @ joint, np.eye(len(betas)), scale=np.abs(precision) @ np.abs(joint))
    i, l, j = np.array([(i, l, j) for j in range(len(betas)) for l in range(j) for i in range(l)]).T
    explained = joint[i, l] * joint[l, j] / joint[l, l]
    return [identity_matrix, Sides(joint[i, j], explained, scale=np.sqrt(joint[i, i] * joint[j, j]))]


@identity(
    "A chain without alpha^2 + beta^2 = 1",
    topic=TOPIC,
    formula=r"\bar\beta_t^2 = \alpha_t^2 \bar\beta_{t-1}^2 + \beta_t^2 = \sum_k \beta_k^2 \prod_{j>k} \alpha_j^2",
    covers=["TOPA-24", "TOPA-04"],
    over="once",
    control="1 - abar^2, which needs the constraint",
)
def free_chain(case: Case, wrong: bool) -> list[Sides]:
    """Channels with random gains and noises composed one by one, against the sum over the noises."""
    gains, stds = case.rng.uniform(0.4, 1.3, 12), case.rng.uniform(0.1, 0.9, 12)
    chain = reduce(lambda done, step: step.compose(done), map(Channel, gains, np.zeros(12), stds**2))
    after = products_after(gains)
    merged = 1 - gains.prod() ** 2 if wrong else (stds**2 * after**2).sum()
    return [Sides(chain.gain, gains.prod()), Sides(chain.noise, merged)]


def _closed_covariance(table: BetaTable, chosen: NDArray[np.intp], shared: bool) -> Array:
    """sqrt(abar_j / abar_i) (1 - abar_i) for i <= j, or what one shared noise would give."""
    alpha, variance = signal_and_noise(table)
    early, late = np.minimum.outer(chosen, chosen), np.maximum.outer(chosen, chosen)
    if shared:
        return np.asarray(np.sqrt(variance[early] * variance[late]))
    ratio = np.where(early == late, 1.0, alpha[late] / alpha[early])
    return np.asarray(ratio * variance[early])
