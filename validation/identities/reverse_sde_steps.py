r"""One step of the samplers of the reverse equation, weight by weight.

    x_t = X x_s + Y S(x_s) + Z z               X = 1 - h f,  Y = g^2 h,  Z^2 = g^2 h       for Euler-Maruyama

The others agree with these to first order in h = s - t and differ in the second. With a beta of a table in place of
g^2 h, f = -beta / 2 and h = 1, DDPM's weights 1 / sqrt(1 - beta), beta / sqrt(1 - beta) differ from Euler-Maruyama's
by 3/8 beta^2 and 1/2 beta^2, and its noise near the data is not even close.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refdiff.arguments import Array
from refdiff.processes import BetaTable, beta_table
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.reverse_sde import ancestral, euler_maruyama, exponential_euler_maruyama, reverse_diffusion
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import VPLinear
from refdiff.validation.cases import Case, ProcessCase, TableCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identities.kernel_sde import growth
from refdiff.validation.identities.reverse_sde_samplers import TOPIC, row
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, extrapolate


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
    most=11,
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
    expected: dict[Callable[..., Tableau], tuple[Array, Array, Array]] = {
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
    covers=["PODC9-09"],
    refutes=["PODC9-09"],
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
    control="sigma_t = g^2 dt: the variance taken for the standard deviation, as (L1022) prints",
    needs=lambda case: bool((case.table.betas[-1] < 1) and case.table.steps <= 1000),
)
def chain(case: TableCase, wrong: bool) -> list[Sides]:
    """The samplers on ten neighbouring pairs of indices, against betas and the posterior of the table."""
    table, sides = case.table, []
    picked = np.unique(np.linspace(1, table.steps, 10).astype(int))
    picked = picked[table.betas[picked - 1] > 0]
    b, tilde = table.betas[picked - 1], table.posterior().variance[picked - 1]
    builds: dict[str, Callable[[int], Tableau]] = {
        "reverse": lambda i: reverse_diffusion(table, [i, i - 1]),
        "small": lambda i: ancestral(table, [i, i - 1]),
        "large": lambda i: ancestral(table, [i, i - 1], variance="large"),
    }
    found = {name: np.array([np.ravel(row(build(i))) for i in picked]).T for name, build in builds.items()}
    kept = np.sqrt(1 - b)
    for name, x, s, z in (
        ("reverse", 2 - kept, b, b if wrong else np.sqrt(b)),
        ("small", 1 / kept, b / kept, np.sqrt(tilde)),
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
