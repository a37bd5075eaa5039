r"""The Gaussian kernels x_t -> x_s that keep p(x | x_0), and runs without noise on Gaussian data.

    pi(x_s | x_t, x_0) = N(a x_0 + b x_t, c^2),   b = sqrt(sigma_s^2 - c^2) / sigma_t,   a = alpha_s - alpha_t b

has int pi p_t(x_t | x_0) dx_t = p_s(x_s | x_0) for every 0 <= c <= sigma_s, s < t: the mean is alpha_s x_0 and the
variance b^2 sigma_t^2 + c^2 = sigma_s^2. Bayes' posterior is the member with the largest c of the sampler's family,
c = (sigma_s / sigma_t) sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2). With x* in place of x_0 and without noise a
step on Gaussian data of standard deviation s multiplies the standardised point by cos(theta_t - theta_s), tan theta =
sigma / (alpha s): a run multiplies the cosines of its steps, which makes DDIM of first order with a known constant.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching
from refdiff.validation.cases import Case, ModelCase, ProcessCase
from refdiff.validation.conditions import one_gaussian
from refdiff.validation.identities.ddim_coordinates import step
from refdiff.validation.identities.ddim_family import member
from refdiff.validation.identities.reverse_kernels import Step
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.numeric import extrapolate

TOPIC = "DDIM family"


@identity(
    "Every member of the DDIM family keeps the kernel",
    topic=TOPIC,
    formula=r"\pi(x_s|x_t,x_0) = \mathcal{N}(a x_0 + b x_t, c^2),\ b = \frac{\sqrt{\sigma_s^2 - c^2}}{\sigma_t},\ a"
    r" = \alpha_s - \alpha_t b:"
    r"\quad \int \pi\, p_t(x_t|x_0)\,dx_t = p_s(x_s|x_0),\qquad c^2 ="
    r" \eta^2\frac{\sigma_s^2}{\sigma_t^2}\Big(\sigma_t^2 -"
    r" \frac{\alpha_t^2}{\alpha_s^2}\sigma_s^2\Big)",
    covers=["PODC9-14", "PODC9-15"],
    refutes=["PODC9-15"],
    over="processes",
    control="times exchanged as printed: sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2 and sigma_t / sigma_s",
    most=12,
)
def family(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Channels pushed from t to s, in one step and in two; the variance of eta = 1 against Bayes' posterior."""
    process, x0 = case.process, case.rng.standard_normal(3)

    def kernel(late: float, early: float, share: float) -> Channel:
        kappa, lam, noise = member(Step.of(replace(case, s=early, t=late)), share)
        return Channel(kappa, lam * x0, np.broadcast_to(noise, 3))

    a, b = process.coefficients(case.t), process.coefficients(case.s)
    middle, law = (case.s + case.t) / 2, process.kernel(case.t).at(x0)
    sides = []
    for share in (0.0, *case.rng.random(2), 1.0):
        once = kernel(case.t, case.s, share).push(law)
        twice = kernel(middle, case.s, share).push(kernel(case.t, middle, share / 2).push(law))
        for found in (once, twice):
            sides += [Sides(found.mean(), b.alpha * x0, np.abs(x0).max()), Sides(found.cov(), b.sigma**2 * np.eye(3))]
    c2 = b.sigma**2 / a.sigma**2 * (a.sigma**2 - (a.alpha / b.alpha) ** 2 * b.sigma**2)
    if wrong:
        c2 = a.sigma**2 / b.sigma**2 * (b.sigma**2 - (b.alpha / a.alpha) ** 2 * a.sigma**2)
    bayes = process.channel(case.s, case.t).reverse(process.kernel(case.s).at(x0))
    return [*sides, Sides(c2, bayes.noise, b.sigma**2)]


@identity(
    "The posterior given the clean point returns the kernel",
    topic=TOPIC,
    formula=r"p(x_s|x_t,x_0) = \frac{p(x_t|x_s)\,p(x_s|x_0)}{p(x_t|x_0)}:\quad \int"
    r" p(x_s|x_t,x_0)\,p_t(x_t|x_0)\,dx_t = p_s(x_s|x_0)",
    covers=["PODC9-13"],
    refutes=["PODC9-13"],
    control="p(x_s|x_t) for p(x_s|x_t, x_0), as for a chain that were Markov in this order",
    needs=lambda case: case.law.count == 1,
)
def posterior_kernel(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' channel from t back to s, for one x_0, applied to the kernel of t."""
    process, x0 = case.process, case.law.mean() + case.rng.standard_normal(case.law.dim)
    early = process.kernel(case.s).at(x0)
    marginal = case.model.marginal(case.s)
    prior = Gaussian(marginal.mean(), marginal.cov()) if wrong else early
    back = process.channel(case.s, case.t).reverse(prior)
    found = back.push(process.kernel(case.t).at(x0))
    # the noisier kernel is squeezed back by the gain: what rounds is the gain times it
    size = early.cov().max() + np.abs(back.gain).max() ** 2 * process.kernel(case.t).at(x0).cov().max()
    return [Sides(found.mean(), early.mean(), np.abs(x0).max()), Sides(found.cov(), early.cov(), size)]


# ---------------------------------------------------------------------- Gaussian data


@identity(
    "Steps on Gaussian data multiply by cosines",
    topic=TOPIC,
    formula=r"\frac{x_s - \alpha_s m}{\sqrt{V_s}} = \cos(\theta_t - \theta_s)\,\frac{x_t - \alpha_t"
    r" m}{\sqrt{V_t}},\quad"
    r" \tan\theta = \frac{\sigma}{\alpha s},\quad V = \alpha^2 s^2 + \sigma^2",
    covers=["PODC9-11"],
    control="the angle without the standard deviation of the data",
    needs=one_gaussian,
)
def cosines(case: ModelCase, wrong: bool) -> Sides:
    """Four steps with the exact denoiser against the product of cosines on every principal axis."""
    values, axes = np.linalg.eigh(case.law.cov())
    std, mean = np.sqrt(np.clip(values, 0.0, None)), case.law.mean()
    x, factor = case.x, np.ones(case.law.dim)
    times = np.linspace(case.t, case.s, 5)
    every = [case.process.coefficients(when) for when in times]
    angles = [np.arctan2(c.sigma, c.alpha * (1 if wrong else std)) for c in every]
    size = np.zeros(())
    for i, (when, c, d) in enumerate(zip(times, every, every[1:], strict=False)):
        denoiser = case.model.denoiser(x, when)
        # alpha_s D + sigma_s (x - alpha_t D) / sigma_t
        added = [d.alpha * np.abs(denoiser), d.sigma / c.sigma * (np.abs(x) + c.alpha * np.abs(denoiser))]
        size = np.maximum(size, np.max(added))
        x, factor = step(c, d, x, denoiser), factor * np.cos(angles[i] - angles[i + 1])
    a, b = every[0], every[-1]
    stretch = factor * np.sqrt((b.alpha**2 * values + b.sigma**2) / (a.alpha**2 * values + a.sigma**2))
    exact = b.alpha * mean + (case.x - a.alpha * mean) @ axes * stretch @ axes.T
    return Sides(x, exact, size)


def shrinkage(case: Case, counts: list[int]) -> list[Array]:
    """(x_0 - m) / (s x_1), scalars, after runs over equal angles on the straight path in these counts of steps."""
    mean, std = case.rng.standard_normal(), 0.3 + case.rng.random()
    model = ExactModel(Gaussian([mean], std**2), FlowMatching())

    def run(count: int) -> Array:
        theta = np.linspace(np.pi / 2, 0, count + 1)
        times = std * np.sin(theta) / (np.cos(theta) + std * np.sin(theta))
        times[0] = 1.0
        x = np.ones((1, 1))
        for t, s in pairwise(times):
            x = step(model.affine.coefficients(t), model.affine.coefficients(s), x, model.denoiser(x, t))
        return np.asarray((x - mean) / std)

    return [run(count) for count in counts]


@identity(
    "DDIM from noise to data on the grid of equal angles",
    topic=TOPIC,
    formula=r"\frac{x_0 - m}{s\,x_1} = \cos^N\frac{\pi}{2N};\qquad N = 1:\ x_0 = m",
    covers=["PODC9-11"],
    over="once",
    control="the angle pi / N",
)
def equal_angles(case: Case, wrong: bool) -> list[Sides]:
    """Runs of 1, 2, 5 and 16 steps against the power of one cosine; a single step collapses to the mean."""
    counts = [1, 2, 5, 16]
    angle = np.pi / (1 if wrong else 2)
    return [Sides(r, np.cos(angle / n) ** n, 1.0) for n, r in zip(counts, shrinkage(case, counts), strict=True)]


@identity(
    "DDIM is of first order, with this constant",
    topic=TOPIC,
    formula=r"N\Big(1 - \frac{x_0 - m}{s\,x_1}\Big) \to \frac{\pi^2}{8}",
    covers=["PODC9-12", "PODC9-11"],
    over="once",
    control="half the constant",
    evidence=ORDER,
)
def first_order(case: Case, wrong: bool) -> Sides:
    """Runs of 8 to 64 steps, extrapolated in powers of 1/N: the exact flow map has the ratio 1."""
    counts = [8, 16, 32, 64]
    lost = [n * (1 - r) for n, r in zip(counts, shrinkage(case, counts), strict=True)]
    return Sides(extrapolate(lost), np.pi**2 / (16 if wrong else 8))
