r"""Reverse steps in closed form: data of one point, and Gaussian data.

For data N(0, s^2 I) one step back from x_t is N(G x_t, V) with, for a step x_t = sqrt(1 - beta) x_{t-1} + N(0, c beta)
and v the variance of x_{t-1},

    G = sqrt(1 - beta) v / ((1 - beta) v + c beta),      V = c beta v / ((1 - beta) v + c beta)

s = 0 gives DDPM's small variance, s^2 = c its large one, V < c beta exactly when v < c.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture
from refdiff.validation.cases import Case, TableCase
from refdiff.validation.identities.forward_kernels import ASYMPTOTIC, respaced, signal_and_noise
from refdiff.validation.identity import Sides, identity

TOPIC = "Reverse kernels"


@identity(
    "Data of one point: the reverse chain ends on it",
    topic=TOPIC,
    formula=r"p_0 = \delta_{x_*}:\quad p(x_{t-1} \mid x_t) ="
    r" \mathcal{N}\big(\tfrac{\alpha_t \bar\beta_{t-1}^2}{\bar\beta_t^2}"
    r" x_t + \tfrac{\bar\alpha_{t-1} \beta_t^2}{\bar\beta_t^2} x_*,\ \sigma_t^2 I\big),\quad"
    r" \sigma_t^2 = \tfrac{\bar\beta_{t-1}^2 \beta_t^2}{\bar\beta_t^2}",
    covers=["TOPA-36", "TOPA-01"],
    refutes=["TOPA-36"],
    over="tables",
    control="the variance taken for the standard deviation that L546 calls it",
)
def one_point(case: TableCase, wrong: bool) -> list[Sides]:
    """Bayes' rule on the pushed point at every step of a coarse chain; all steps together forget x_T and find x_*."""
    chosen, kept, betas = respaced(case.table, 6)
    alpha, variance = (value[np.append(0, chosen)] for value in signal_and_noise(case.table))
    point, whole, sides = Empirical([[0.7, -1.3]]), Channel(), []
    for i in range(len(betas) - 1, -1, -1):
        before = Channel(alpha[i], 0.0, variance[i]).push(point)
        back = Channel(np.sqrt(kept[i]), 0.0, betas[i]).reverse(before)
        std = np.sqrt(variance[i] * betas[i] / variance[i + 1])
        sides += [
            Sides(np.sqrt(back.noise), std**2 if wrong else std),
            Sides(back.gain, np.sqrt(kept[i]) * variance[i] / variance[i + 1]),
            Sides(back.offset, alpha[i] * betas[i] / variance[i + 1] * point.mean()),
        ]
        whole = back.compose(whole)
    return [*sides, Sides(whole.gain, 0.0), Sides(whole.noise, 0.0), Sides(whole.offset, point.mean())]


@identity(
    "Standard normal data: the reverse step is the forward step",
    topic=TOPIC,
    formula=r"\tfrac{\|x_t - \alpha_t x_{t-1}\|^2}{\beta_t^2} + \|x_{t-1}\|^2 - \|x_t\|^2"
    r" = \tfrac{\|x_{t-1} - \alpha_t x_t\|^2}{\beta_t^2},\quad"
    r" p(x_{t-1} \mid x_t) = \mathcal{N}(\alpha_t x_t, \beta_t^2 I)",
    covers=["TOPA-37"],
    refutes=["TOPA-37"],
    over="tables",
    control="sigma_t = beta_t^2, as printed in L556",
)
def standard_normal(case: TableCase, wrong: bool) -> list[Sides]:
    """The reversed channel and the exponent at random points, against (alpha_t x_t, beta_t^2)."""
    _, kept, betas = respaced(case.table)
    x, y = case.rng.standard_normal((2, len(betas), 3))
    gain, variance = np.sqrt(kept)[:, None], betas[:, None]
    backs = [Channel(np.sqrt(k), 0.0, b).reverse(Gaussian(np.zeros(3), 1.0)) for k, b in zip(kept, betas, strict=True)]
    forward, backward = (y - gain * x) ** 2 / variance, (x - gain * y) ** 2 / variance
    return [
        Sides([back.gain for back in backs], np.sqrt(kept)),
        Sides(np.sqrt([back.noise for back in backs]), betas if wrong else np.sqrt(betas)),
        Sides(forward + x**2 - y**2, backward, scale=forward + x**2 + y**2),
    ]


@identity(
    "The two special reverse variances",
    topic=TOPIC,
    formula=r"p_0 = \delta:\ \sigma_t = \bar\beta_{t-1} \beta_t / \bar\beta_t;"
    r"\qquad p_0 = \mathcal{N}(0, I):\ \sigma_t = \beta_t",
    covers=["TOPA-26", "PODA-216"],
    refutes=["TOPA-26"],
    over="tables",
    control="beta_{t-1} without its bar, as printed in L433",
    needs=lambda case: case.table.steps > 1,
)
def special_variances(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """N(0, s^2 I) pushed to t - 1 and the step reversed on it, for s = 0 and s = 1."""
    alpha, variance = signal_and_noise(case.table)
    b = case.table.betas
    for t in {2, 1 + case.table.steps // 2, case.table.steps}:
        step = Channel(np.sqrt(1 - b[t - 1]), 0.0, b[t - 1])
        point = np.sqrt((b[t - 2] if wrong else variance[t - 1]) * b[t - 1] / variance[t])
        for spread, std in ((0.0, point), (1.0, np.sqrt(b[t - 1]))):
            before = Gaussian(np.zeros(2), alpha[t - 1] ** 2 * spread + variance[t - 1])
            yield Sides(np.sqrt(step.reverse(before).noise), std)


@identity(
    "Gaussian data: the exact reverse step",
    topic=TOPIC,
    formula=r"q(x_0 \mid x_1) = \mathcal{N}\big(\sqrt{1-\beta}\, s_0^2 x_1 / V_1,\ \beta s_0^2 \sigma^2 / V_1\big),"
    r"\quad V_1 = (1-\beta) s_0^2 + \beta \sigma^2",
    covers=["PHY-49", "PHY-51", "PHY-25"],
    over="once",
    control="the variance of the forward step, beta sigma^2",
)
def gaussian_reverse(case: Case, wrong: bool) -> list[Sides]:
    """The joint of (x_0, x_1) as one map of two noises, conditioned; and the variance that x_1 sends back."""
    beta, spread = case.rng.uniform(0.1, 0.9), case.rng.uniform(0.2, 4.0)
    stack = np.array([[np.sqrt(spread), 0.0], [np.sqrt((1 - beta) * spread), np.sqrt(beta * ASYMPTOTIC)]])
    joint = Gaussian(np.zeros(2), stack @ stack.T)
    total = (1 - beta) * spread + beta * ASYMPTOTIC
    given = joint.conditional([1], [1.3])
    variance = beta * ASYMPTOTIC * (1.0 if wrong else spread / total)
    return [
        Sides(joint.cov(), [[spread, np.sqrt(1 - beta) * spread], [np.sqrt(1 - beta) * spread, total]]),
        Sides(given.mean(), np.sqrt(1 - beta) * spread * 1.3 / total),
        Sides(given.cov(), variance),
        Sides((1 - beta) * spread**2 / total + variance, spread),
    ]


@identity(
    "Reverse noise against forward noise, Gaussian data",
    topic=TOPIC,
    formula=r"\mathrm{std}(x_{t-1} \mid x_t) = \sqrt{\sigma^2 \beta} \big/ \sqrt{1 + \beta(\sigma^2 / s_0^2 - 1)}"
    r"\ <\ \sqrt{\sigma^2 \beta}\ \Leftrightarrow\ \sigma^2 > s_0^2",
    covers=["PHY-53"],
    refutes=["PHY-53"],
    over="once",
    control="greater when sigma^2 > s_0^2, as printed in L325",
)
def reverse_noise_ratio(case: Case, wrong: bool) -> list[Sides]:
    """Reversed channels for narrow and wide data, one step and many, against the ratio and the sign of its excess."""
    spreads = ASYMPTOTIC * np.array([0.04, 0.3, 0.9, 1.1, 4.0])
    beta, abar = case.rng.uniform(0.05, 0.6), case.rng.uniform(0.1, 0.9)
    before = np.append(spreads, abar * spreads + (1 - abar) * ASYMPTOTIC)  # of the data, and later in the chain
    step = Channel(np.sqrt(1 - beta), 0.0, beta * ASYMPTOTIC)
    std = np.array([np.sqrt(step.reverse(Gaussian([0.0], v)).noise) for v in before])
    forward = np.sqrt(beta * ASYMPTOTIC)
    excess = np.sign(ASYMPTOTIC - before) if wrong else np.sign(before - ASYMPTOTIC)
    return [Sides(std, forward / np.sqrt(1 + beta * (ASYMPTOTIC / before - 1))), Sides(np.sign(std - forward), excess)]


@identity(
    "The reverse chain retraces the marginals",
    topic=TOPIC,
    formula=r"q(x_{t-1}) = \int q(x_{t-1} \mid x_t)\, q(x_t)\, dx_t,\quad t = T, \dots, 1",
    covers=["PHY-29b", "PHY-51"],
    over="tables",
    control="the clock one step late: each reverse kernel used after its time",
    needs=lambda case: case.table.steps > 2,
)
def retraced(case: TableCase, wrong: bool) -> list[Sides]:
    """Exact reverse kernels of a coarse chain applied from q(x_T) down, against the forward marginals."""
    _, kept, betas = respaced(case.table)
    root = case.rng.standard_normal((3, 3))
    steps = [Channel(np.sqrt(k), 0.0, ASYMPTOTIC * b) for k, b in zip(kept, betas, strict=True)]
    # 0.3 keeps the condition number near 30: conditioning loses that factor to rounding
    laws: list[GaussianMixture] = [Gaussian(np.arange(3.0), root @ root.T + 0.3 * np.eye(3))]
    for step in steps:
        laws.append(step.push(laws[-1]))
    back = [step.reverse(law) for step, law in zip(steps, laws[:-1], strict=True)]
    if wrong:
        back = [*back[1:], back[-1]]
    law, sides = laws[-1], []
    for kernel, target in zip(reversed(back), reversed(laws[:-1]), strict=True):
        law = kernel.push(law)
        sides += [Sides(law.cov(), target.cov()), Sides(law.mean(), target.mean(), scale=3.0)]
    return sides
