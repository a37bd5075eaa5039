r"""Proportional fitting: half bridges by turns, on Gaussians, points and chains.

On the line the precision of x_0 given x_1 moves by a Moebius map with the fixed points l+ > 0 > l-, so that its cross
ratio with them shrinks by r^4 in every cycle, exactly and from the first one on.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, kl_divergence
from refdiff.interpolants import InterpolantModel
from refdiff.schedules import VPLinear
from refdiff.schroedinger import ReferenceBridges, proportional_fitting, refit, reversed_chains
from refdiff.transport import PairLaw, point_pairs, sinkhorn
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, well_conditioned
from refdiff.validation.numeric import derivative, extrapolate

TOPIC = "Schroedinger bridges"


def reference(case: Case, dim: int) -> Channel:
    """A random reference x_0 -> x_1 with noise in every direction, in `dim` dimensions."""
    rng = case.rng
    root = well_conditioned(rng, dim)
    return Channel(well_conditioned(rng, dim), rng.standard_normal(dim), root @ root.T)


@identity(
    "Every cycle of proportional fitting on the line",
    topic=TOPIC,
    formula=r"\frac{\lambda_n - \lambda_+}{\lambda_n - \lambda_-} = \rho^{4n}\,\frac{\lambda_0 - \lambda_+}{\lambda_0 -"
    r" \lambda_-},\qquad \lambda_n^{-1} = \mathrm{Var}(x_0|x_1),\quad \rho = \frac{c}{s_0 s_1}",
    covers=["PODB-92", "PODB-82"],
    control="rho^2 in place of rho^4",
    over="once",
)
def cross_ratio(case: Case, wrong: bool) -> list[Sides]:
    """Iterates of the library against the Moebius map and the quadratic equation of its fixed points."""
    sides, rng = [], case.rng
    golden = (0.3, 1.0, 2.0, 0.25, 0.5)
    drawn = (*rng.standard_normal(1), *rng.uniform(0.3, 2, 1), *rng.standard_normal(1), *rng.uniform(0.3, 2, 2))
    for m, s, n, t, epsilon in (golden, drawn):
        plans = proportional_fitting(Gaussian([m], s), Gaussian([n], t), float(epsilon), 6).plans
        both = np.array([plan.mixture().cov() for plan in plans[::2]])
        precision = both[:, 1, 1] / np.linalg.det(both)
        width = np.sqrt(1 / s**2 + 4 * t / (s * epsilon**2))
        high, low = (1 / s + width) / 2, (1 / s - width) / 2
        c = (-epsilon + np.sqrt(epsilon**2 + 4 * s * t)) / 2
        rate = (c * c / (s * t)) ** (1 if wrong else 2)
        ratio = (precision - high) / (precision - low)
        sides.append(Sides(ratio[1:], rate * ratio[:-1], 1.0))
        found = proportional_fitting(Gaussian([m], s), Gaussian([n], t), float(epsilon), 0)
        sides.append(Sides([found.mean_rates[0], found.covariance_rates[0]], [c * c / (s * t), (c * c / (s * t)) ** 2]))
    known = proportional_fitting(Gaussian([0.3], 1.0), Gaussian([2.0], 0.25), 0.5, 0)
    sides.append(Sides([*known.mean_rates, *known.covariance_rates], [0.3819660112501052, 0.1458980337503155]))
    return sides


@identity(
    "Rates of proportional fitting",
    topic=TOPIC,
    formula=r"e \to G\tilde{G} e,\quad E \to G\tilde{G} E (G\tilde{G})^\top,\qquad \mathrm{spec}\, G\tilde{G} ="
    r" \rho_i^2,\quad G = C^\top S^{-1},\ \tilde{G} = C T^{-1}",
    covers=["PODB-92"],
    control="means at the rate of covariances, covariances at that of means",
    over="once",
    evidence=DERIVATIVE,
)
def rates(case: Case, wrong: bool) -> list[Sides]:
    """Stencils of a cycle of half bridges at its fixed point against regressions of the limit, in 1, 2 and 5 axes."""
    rng, sides = case.rng, []
    for dim in (1, 2, 5):
        p, q = gaussian(rng, dim), gaussian(rng, dim)
        found = proportional_fitting(p, q, reference(case, dim), 0)
        limit, cross = found.limit, found.limit.cross_covariance()
        there, back = np.linalg.solve(p.cov(), cross).T, np.linalg.solve(q.cov(), cross.T).T
        cycle = there @ back
        values = np.sort(np.linalg.eigvals(cycle).real)[::-1]
        sides.append(Sides(found.mean_rates, values, 1.0))
        e, root = rng.standard_normal(dim), well_conditioned(rng, dim)
        change = 0.1 * root @ root.T

        def moved(
            h: float, p: Gaussian = p, q: Gaussian = q, e: Array = e, change: Array = change, limit: PairLaw = limit
        ) -> Array:
            start = Gaussian(q.mean() + h * e, q.cov() + h * change)
            plan = refit(refit(limit, second=start), first=p)
            halves = plan.second, refit(refit(plan, second=q), first=p).second
            return np.array([np.append(half.mean(), half.cov().ravel()) for half in halves])

        before, after = derivative(moved, 0.0, 0.02)
        first, second = before[:dim], before[dim:].reshape(dim, dim)
        expected = cycle @ first, cycle @ second @ cycle.T
        if wrong:
            expected = cycle @ cycle @ first, cycle @ second
        sides.append(Sides(after, np.append(expected[0], expected[1].ravel()), np.abs(before).max()))
    return sides


@identity(
    "What a half step of proportional fitting wins",
    topic=TOPIC,
    formula=r"\mathrm{KL}(P^*\|P^n) - \mathrm{KL}(P^*\|P^{n+1}) = \mathrm{KL}(P^{n+1}\|P^n) = v_n,\quad"
    r" v_{n+2} \le v_n,\quad v_{2m} \le \mathrm{KL}(P^*\|P^0) / (m + 1)",
    covers=["PODB-92", "PODB-90"],
    control="the divergence of the marginal from the right one",
    over="once",
)
def pythagoras(case: Case, wrong: bool) -> list[Sides]:
    """Divergences of joint laws against those of marginals, and what the sum of them bounds."""
    rng, sides = case.rng, []
    for dim in (1, 3):
        p, q = gaussian(rng, dim), gaussian(rng, dim)
        found = proportional_fitting(p, q, reference(case, dim), 8)
        joint = [plan.mixture() for plan in found.plans]
        fall = np.array([kl_divergence(found.limit.mixture(), law) for law in joint])
        steps = np.array([kl_divergence(later, law) for law, later in pairwise(joint)])
        violated = found.marginal_divergences()[:-1].sum(axis=1)
        if wrong:
            violated = np.array([kl_divergence(a.first, p) + kl_divergence(a.second, q) for a in found.plans[:-1]])
        sides += [Sides(fall[:-1] - fall[1:], violated, fall[0]), Sides(steps, violated, fall[0])]
        for one in (violated[::2], violated[1::2]):
            excess = np.maximum(one * np.arange(1, len(one) + 1) - fall[0], 0.0)
            sides += [Sides(excess, 0.0, fall[0]), Sides(np.maximum(np.diff(one), 0.0), 0.0, fall[0])]
    return sides


@identity(
    "Proportional fitting of points is Sinkhorn's algorithm",
    topic=TOPIC,
    formula=r"\gamma^{n+1}_{ij} = \gamma^n_{ij}\, b_j / \sum_k \gamma^n_{kj}\ \text{and by turns}:\quad \gamma_{ij} \to"
    r" a_i b_j e^{(f_i + g_j - c_{ij}) / \varepsilon}",
    covers=["PODB-92", "PODB-75"],
    control="pairs that begin without the reference",
    over="once",
    evidence=QUADRATURE,
)
def points(case: Case, wrong: bool) -> Sides:
    """Weights of pairs, reweighted by turns, against the potentials of the library's Sinkhorn iteration."""
    rng, epsilon = case.rng, 0.8
    x, y = rng.standard_normal((4, 2)), rng.standard_normal((6, 2))
    p, q = Empirical(x, rng.dirichlet(np.full(4, 3.0))), Empirical(y, rng.dirichlet(np.full(6, 3.0)))
    kernel = np.exp(-((x[:, None] - y) ** 2).sum(axis=-1) / (2 * epsilon))
    masses = np.multiply.outer(p.weights, q.weights) * (1.0 if wrong else kernel)
    rows, columns = (part.ravel() for part in np.indices(masses.shape))
    plan = point_pairs(x[rows], y[columns], masses.ravel() / masses.sum())
    for _ in range(80):
        plan = refit(refit(plan, first=p), second=q)
    return Sides(plan.first.weights.reshape(masses.shape), sinkhorn(p, q, epsilon, tolerance=1e-12).coupling())


@identity(
    "Reversed by turns",
    topic=TOPIC,
    formula=r"b^{2n+1}_- = b^{2n}_-,\quad b^{2n+2}_+ = b^{2n+1}_+,\qquad b_+ - b_- = D\,\nabla\log p_t",
    covers=["PODB-92", "PODB-81"],
    control="the drift of the other direction is the one that is kept",
    over="once",
)
def reversals(case: Case, wrong: bool) -> list[Sides]:
    """Drifts of the pairs of proportional fitting, joined by the reference's bridges, from one iterate to the next."""
    rng, sides = case.rng, []
    p, q, t = gaussian(rng, 2), gaussian(rng, 2), float(rng.uniform(0.2, 0.8))
    for process in (0.7, VPLinear(0.5, 3.0)):
        bridges = ReferenceBridges(process)
        half = 0.5 * bridges.process.diffusion(t)
        x, drifts = rng.standard_normal((4, 2)), []
        for plan in proportional_fitting(p, q, bridges.overall, 4).plans:
            model = InterpolantModel(plan, bridges)
            v, osmotic = model.velocity(x, t), half * model.score(x, t)
            drifts.append((v + osmotic, v - osmotic))
        for n in range(4):
            kept = (n + 1 + wrong) % 2  # of even n the backward drift
            sides.append(Sides(drifts[n + 1][kept], drifts[n][kept]))
    return sides


@identity(
    "The bridge of Euler's chain",
    topic=TOPIC,
    formula=r"N\,(c_N - c) \to \frac{dc}{dw}\frac{dw}{dh},\quad w = \frac{A s_0 s_1}{\Sigma},\ A_h = e^{-\beta/2}\Big(1"
    r" - \frac{\beta^2 h}{8}\Big),\ \Sigma_h = 1 - e^{-\beta} + h\Big(\frac{\beta^2 e^{-\beta}}{4} + \frac{\beta (1 -"
    r" e^{-\beta})}{4}\Big)",
    covers=["PODB-92"],
    control="exact kernels' noise with Euler's gain",
    over="once",
    evidence=ORDER,
    most=1,
)
def eulers_chain(case: Case, wrong: bool) -> list[Sides]:
    """Chains of N Euler steps, reversed by turns to the end, against the first order of their gain and noise."""
    rng = case.rng
    beta, s, t = 2.0, float(rng.uniform(0.3, 1)), float(rng.uniform(0.3, 1))
    p, q = Gaussian([0.2], s), Gaussian([-0.4], t)
    gain, noise = np.exp(-beta / 2), 1 - np.exp(-beta)
    w = gain * np.sqrt(s * t) / noise
    of_noise = (beta**2 * np.exp(-beta) + beta * noise) / 4
    rate = w * (-(beta**2) / 8 - (0.0 if wrong else of_noise / noise))
    root = np.sqrt(1 + 4 * w * w)
    r = 2 * w / (1 + root)
    found = []
    for steps in (4, 8, 16):
        chains = reversed_chains(p, q, VPLinear(beta, beta), np.linspace(0, 1, steps + 1), 8, kernels="euler")
        found.append(steps * (chains.forward_pairs().cross_covariance()[0] - r * np.sqrt(s * t)))
    slope = np.sqrt(s * t) * r / (w * root)  # r = w (1 - r^2): dr / dw = r / (w (1 + 4 w^2)^(1/2))
    return [Sides(extrapolate(found), slope * rate)]


@identity(
    "What reversals with fixed noise lead to",
    topic=TOPIC,
    formula=r"\mathrm{Var}\,x_k = s_0^2\,(s_1^2/s_0^2)^{k/(N+1)},\qquad \mathrm{Cov}(x_0, x_N) = s_0^2\prod_k\sqrt{R -"
    r" \varepsilon h / \mathrm{Var}\,x_k},\quad R = (s_1^2/s_0^2)^{1/(N+1)}",
    covers=["PODB-92"],
    control="the bridge of the chain, which noise of Bayes' rule leads to",
    over="once",
    evidence=QUADRATURE,
    most=1,
)
def fixed_noise(case: Case, wrong: bool) -> list[Sides]:
    """A chain of E[x_k | x_{k+1}] with the noise of the reference, after many cycles, against its fixed point."""
    rng, epsilon, steps = case.rng, 0.9, 3
    s, t = (float(v) for v in rng.uniform(0.4, 1.0, 2))
    p, q = Gaussian([0.2], s), Gaussian([-0.4], t)
    reversal = "bayes" if wrong else "state"
    chain = reversed_chains(p, q, epsilon, np.linspace(0, 1, steps + 1), 70, reversal=reversal).forward[-1]
    ratio = (t / s) ** (1 / (steps + 1))
    variances = s * ratio ** np.arange(steps + 1)
    found = [chain.marginal(k, p).cov()[0, 0] for k in range(steps + 1)]
    gain = np.prod(np.sqrt(ratio - epsilon / steps / variances[:-1]))

    def covariance(n: int) -> Array:
        ratio = (t / s) ** (1 / (n + 1))
        return np.array([s * np.prod(np.sqrt(ratio - epsilon / n / (s * ratio ** np.arange(n))))])

    never = np.sqrt(s * t) * np.exp(-0.5 * epsilon * (1 / s - 1 / t) / np.log(t / s))  # where more steps lead
    many = extrapolate([covariance(n) for n in (64, 128, 256, 512, 1024)])
    return [Sides(found, variances), Sides(s * chain.kernel(steps).gain, s * gain), Sides(many, never)]
