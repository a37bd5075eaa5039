r"""What one Gaussian can be of a kernel with several peaks.

The reverse kernel of a small step is nearly Gaussian. With f = log p_s, x_t = x and a step that adds the variance b,
p(x_s | x_t) has the cumulants k_n = b^n f^(n)(x) (1 + O(b)), n > 2, beside the variance b, so that

    skewness  b^(3/2) f'''       excess  b^2 f''''       KL(p(x_s | x_t) || N(moments))  =  b^3 f'''^2 / 12 + O(b^4)

and peaks come apart where 1 / b falls below the curvature f'' of a valley. Of all kernels the best one is the mixture
over x_0 itself, of all Gaussian ones that with its moments: divergences to the others add up by Pythagoras. A Gaussian
that is fitted the other way round, as an autoencoder's is, sits on one of two peaks and misses log 2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, kl_divergence
from refdiff.model import ExactModel
from refdiff.objectives import posterior_logpdf, posterior_step
from refdiff.schedules import FlowMatching, Schedule, SubVP, VEPower, VPCosine
from refdiff.validation.cases import Case
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import diagonal_log_normal, line
from refdiff.validation.numeric import derivative, extrapolate, second_derivative

TOPIC = "Peaked kernels"


def divergence(log_p: Array, log_q: Array, cell: float) -> float:
    """KL(p || q) from `log_p` and `log_q` (n,) on a grid with this `cell`; where p vanishes so does its part."""
    p = np.exp(log_p)
    return float(cell * p @ np.where(p > 0, log_p - log_q, 0.0))


@identity(
    "A conditional divergence is a marginal one and a conditional information, at every point",
    topic=TOPIC,
    formula=r"\sum_i r_i \mathrm{KL}(p(x_s|x_t,x_i) \| p_\phi) = \sum_i r_i \mathrm{KL}(p(x_s|x_t,x_i) \| p(x_s|x_t))"
    r" + \mathrm{KL}(p(x_s|x_t) \| p_\phi),\quad p(x_s|x_t) = \sum_i r_i\, p(x_s|x_t,x_i)",
    covers=["PODD-100", "PODA-214", "PODA-213"],
    over="once",
    evidence=QUADRATURE,
    control="the Gaussian with the moments of p(x_s | x_t) as the optimum in its place",
)
def conditional_divergence(case: Case, wrong: bool) -> Iterator[Sides]:
    """Point sets under four schedules: posteriors of single points, Bayes' mixture of their law, two other models."""
    rng = case.rng
    schedules: tuple[Schedule, ...] = (VPCosine(), FlowMatching(), SubVP(), VEPower(T=2.0))
    for schedule in schedules:
        law = Empirical(rng.normal(0, 1.5, (4, 1)), rng.uniform(0.3, 1, 4))
        model = ExactModel(law, schedule)
        s, t = np.array([0.35, 0.7]) * schedule.T
        xt = model.sample(1, t, rng)
        step, between, before = posterior_step(model.process, s, t, 1), model.process.channel(s, t), model.marginal(s)
        posterior = between.posterior(before, xt[0])
        grid, cell = line(posterior)
        each = [diagonal_log_normal(grid, step.mean(x, xt[0]), step.posterior) for x in law.means]
        share = model.marginal(t).responsibilities(xt[0])
        exact = posterior_logpdf(between, before, grid, np.broadcast_to(xt, grid.shape))
        yield Sides(share @ np.exp(each), np.exp(exact))
        matched = Gaussian(posterior.mean(), posterior.cov())
        best = matched.logpdf(grid) if wrong else exact
        width = float(np.sqrt(posterior.cov()[0, 0]))
        peaks = posterior.mean() + width * rng.normal(0, 1, (2, 1))
        for other in (Gaussian(peaks[0], 1.7 * width**2), GaussianMixture.isotropic(peaks, width**2, [0.3, 0.7])):
            log_other = other.logpdf(grid)
            left = share @ [divergence(one, log_other, cell) for one in each]
            known = share @ [divergence(one, best, cell) for one in each]
            yield Sides(left, known + divergence(best, log_other, cell), scale=left + abs(known))
            if isinstance(other, Gaussian):  # by Pythagoras the matched Gaussian is the best of them
                apart = kl_divergence(matched, other)
                to_matched = divergence(exact, matched.logpdf(grid), cell)
                yield Sides(divergence(exact, log_other, cell), to_matched + apart, scale=apart + to_matched)


@identity(
    "The reverse kernel of a small step is nearly Gaussian",
    topic=TOPIC,
    formula=r"\mathrm{KL}(p(x_s|x_t) \| N(\mathrm{moments})) / b^3 \to (\partial^3 \log p_s)^2 / 12,\quad"
    r"\mathrm{skewness} / b^{3/2} \to \partial^3 \log p_s,\quad \mathrm{excess} / b^2 \to \partial^4 \log p_s",
    covers=["PODA-227", "TOPA-17"],
    over="once",
    evidence=ORDER,
    control="1/6 in place of 1/12, the constant of a squared skewness without the factor 1/2 of a divergence",
)
def nearly_gaussian(case: Case, wrong: bool) -> list[Sides]:
    """Sums over Bayes' quotient on a grid for b = b_0, b_0 / 2, ..., extrapolated, against derivatives of log p_s."""
    rng, found = case.rng, []
    law = GaussianMixture.isotropic(rng.normal(0, 1, (3, 1)), rng.uniform(0.3, 0.8, 3), rng.uniform(0.5, 1, 3))
    x = law.sample(1, rng)[0, 0]
    for b in 0.02 * 0.5 ** np.arange(6):
        channel = Channel(1.0, 0.0, b)
        grid, cell = x + np.sqrt(b) * np.linspace(-12, 12, 601)[:, None], np.sqrt(b) * 24 / 600
        # q(x_t | x_s) p_s(x_s) / p_t(x_t), the quotient itself
        log_p = channel.logpdf(np.array([x]), grid) + law.logpdf(grid) - channel.push(law).logpdf([x])
        p = cell * np.exp(log_p)
        mean = p @ grid[:, 0]
        second, third, fourth = (p @ (grid[:, 0] - mean) ** k for k in (2, 3, 4))
        gap = divergence(log_p, diagonal_log_normal(grid, mean, second), cell)
        found.append(np.array([gap / b**3, third / second**1.5 / b**1.5, (fourth / second**2 - 3) / b**2]))

    def curvature(u: float) -> Array:
        return np.asarray(law.hessian([u])[0, 0])

    h = 0.02
    skew, excess = derivative(curvature, x, h), second_derivative(curvature, x, h)
    limits = np.array([skew**2 / (6 if wrong else 12), skew, excess])
    return [Sides(extrapolate(found), limits, scale=np.array([(1 + skew**2) / 12, 1 + abs(skew), 1 + abs(excess)]))]


@identity(
    "Peaks come apart where the step's precision falls below the curvature of a valley",
    topic=TOPIC,
    formula=r"\nabla^2 \log p(x_s|x_t) = \nabla^2 \log p_s(x_s) - \frac{r^2}{b} I;\quad"
    r" p_s = \tfrac12 N(\pm m, v),\ x_t = 0: \text{two peaks for } b > \frac{v^2}{m^2 - v}\ (r = 1)",
    covers=["PODA-227", "TOPA-17"],
    over="once",
    control="the bound v^2 / m^2, of a valley without the width of its peaks",
)
def peaks(case: Case, wrong: bool) -> list[Sides]:
    """Hessians of Bayes' mixture and of p_s; at, below and above the bound the former's sign says how many peaks."""
    rng = case.rng
    v = rng.uniform(0.2, 1)
    m = np.sqrt(v) * rng.uniform(1.5, 3)
    law = GaussianMixture.isotropic([[-m], [m]], v)
    bound = v**2 / (m**2 if wrong else m**2 - v)
    sides = []
    for b in (0.5 * bound, bound, 2 * bound):
        bent = Channel(1.0, 0.0, b).posterior(law, [0.0]).hessian([0.0])
        sides.append(Sides(bent, law.hessian([0.0]) - 1 / b, scale=1 / b))
        sides.append(Sides(bent * b, b / bound - 1, scale=1.0))
    spread = GaussianMixture.full(rng.normal(0, 1, (3, 2)), np.eye(2) * rng.uniform(0.3, 1, (3, 1, 1)))
    r, b = rng.uniform(0.5, 1), rng.uniform(0.2, 2)
    channel, points = Channel(r, 0.0, b), rng.normal(0, 1, (4, 2))
    found = channel.posterior(spread, rng.normal(0, 1, 2)).hessian(points)
    sides.append(Sides(found, spread.hessian(points) - r**2 / b * np.eye(2), scale=np.abs(found).max() + 1 / b))
    return sides


@identity(
    "One Gaussian for two peaks: the encoder's gap",
    topic=TOPIC,
    formula=r"x = z^2 + s\epsilon: \ \log p(x) - \mathrm{ELBO}(q) = \mathrm{KL}(q \| p(z|x)),\quad"
    r" 12 v^2 - (4x - 2s^2) v + s^2 = 0,\ m^2 = x - 3v - \tfrac{s^2}{2},\quad \min_q \mathrm{KL} \to \log 2\ (s \to 0)",
    covers=["PODA-209", "PODA-202"],
    over="once",
    evidence=ORDER,
    control="the symmetric stationary point m = 0, between the peaks",
)
def two_peaks(case: Case, wrong: bool) -> Iterator[Sides]:
    """Moments of q against sums over the posterior on a grid; the optimum against a minimiser; its limit."""
    x, gaps = case.rng.uniform(1, 2), []
    z = np.linspace(-3, 3, 24001)
    cell = z[1] - z[0]
    widths = 0.2 * 0.5 ** np.arange(6)
    for s in widths:
        m, v = _stationary(x, s, between=wrong)
        log_joint = -(0.5 * z**2 + (x - z**2) ** 2 / (2 * s**2) + np.log(2 * np.pi * s))
        evidence = np.log(cell * np.exp(log_joint).sum())
        gap = divergence(diagonal_log_normal(z[:, None], np.array(m), np.array(v)), log_joint - evidence, cell)
        gaps.append(np.asarray(gap))
        yield Sides(evidence - _elbo(x, m, v, s), gap, scale=1.0)
    s = widths[0]
    best = minimize(lambda u: -_elbo(x, u[0], np.exp(u[1]), s), [1.0, -4.0], method="Nelder-Mead", tol=1e-12)
    yield Sides(-best.fun, _elbo(x, *_stationary(x, s, between=wrong), s))
    # an expansion in s^2
    yield Sides(extrapolate(gaps, ratio=4.0), np.log(2.0))


def _elbo(x: float, m: float, v: float, s: float) -> float:
    """The bound for q = N(m, v), by the moments of q."""
    second, fourth = m**2 + v, m**4 + 6 * m**2 * v + 3 * v**2
    energy = second / 2 + (x**2 - 2 * x * second + fourth) / (2 * s**2) + np.log(2 * np.pi * s)
    return float(0.5 * np.log(2 * np.pi * np.e * v) - energy)


def _stationary(x: float, s: float, between: bool) -> tuple[float, float]:
    """m and v at which the bound is stationary: on one peak, or at m = 0, where 1 / v = 1 + (6 v - 2 x) / s^2."""
    if between:
        half = 2 * x - s**2
        return 0.0, float((half + np.sqrt(half**2 + 24 * s**2)) / 12)
    half = 4 * x - 2 * s**2
    v = 2 * s**2 / (half + np.sqrt(half**2 - 48 * s**2))
    return float(np.sqrt(x - 3 * v - s**2 / 2)), float(v)
