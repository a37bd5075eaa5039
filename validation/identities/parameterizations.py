r"""The four predictions, and how they turn into one another.

    denoiser   x* = E[x_0 | x]              score      s* = grad log p_t(x)
    noise      eps* = E[eps | x]            velocity   v* = E[alpha' x_0 + sigma' eps | x]

With x = alpha x_0 + sigma eps and W = alpha' sigma - alpha sigma' (negative while the signal-to-noise ratio falls):

    eps* = -sigma s*           x* = (x + sigma^2 s*) / alpha          v* = f x - g^2 s* / 2
    x* = (sigma v* - sigma' x) / W       eps* = (alpha' x - alpha v*) / W

Bayes' rule gives x* and the log density gives s*; each conversion starts from one and is compared with the other.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.predictions import PREDICTIONS, convert
from refdiff.schedules import Coefficients
from refdiff.validation.cases import ModelCase
from refdiff.validation.conditions import preserving, scalar
from refdiff.validation.identity import Sides, identity

TOPIC = "Parameterizations"


class Heads(NamedTuple):
    """Values (n, d) of the four predictions, denoiser, noise, score and velocity, at points x."""

    denoiser: Array
    noise: Array
    score: Array
    velocity: Array


def from_denoiser(c: Coefficients, x: Array, denoiser: Array) -> Heads:
    """The heads (n, d) that belong to a denoiser (n, d) where x = alpha x_0 + sigma eps, with the coefficients c."""
    noise = (x - c.alpha * denoiser) / c.sigma
    return Heads(denoiser, noise, -noise / c.sigma, c.dalpha * denoiser + c.dsigma * noise)


def from_score(c: Coefficients, x: Array, score: Array) -> Heads:
    """The heads (n, d) that belong to a score (n, d), with the coefficients c."""
    return Heads((x + c.sigma**2 * score) / c.alpha, -c.sigma * score, score, c.f * x - c.g2 / 2 * score)


def sizes(c: Coefficients, x: Array, denoiser: Array) -> Heads:
    """The size of the terms that make each head of `from_denoiser`, scalars or (d,) as the coefficients c are."""
    signal, state = np.abs(denoiser).max(), np.abs(x).max()
    noise = (state + c.alpha * signal) / c.sigma
    return Heads(
        np.asarray(c.sigma * noise / c.alpha),
        np.asarray(noise),
        np.asarray(noise / c.sigma),
        np.asarray(np.abs(c.dalpha) * signal + np.abs(c.dsigma) * noise + np.abs(c.f) * state),
    )


def gap(c: Coefficients) -> Array:
    """W = alpha' sigma - alpha sigma', a scalar or (d,) as the coefficients c are."""
    return np.asarray(c.dalpha * c.sigma - c.alpha * c.dsigma)


@identity(
    "Conversions between the four predictions",
    topic=TOPIC,
    formula=r"\epsilon^* = -\sigma s^*,\quad x^* = \frac{x + \sigma^2 s^*}{\alpha},\quad"
    r" v^* = \alpha' x^* + \sigma' \epsilon^* = f x - \tfrac{1}{2} g^2 s^*",
    covers=["PODB-56", "PODA-329", "PODA-221", "DMI-28"],
    refutes=["PODB-56"],
    control="v* = alpha x* + sigma eps*, without the primes",
    most=12,
)
def conversions(case: ModelCase, wrong: bool) -> list[Sides]:
    """Every head from Bayes' denoiser against every head from the differentiated log density."""
    c, x, denoiser = case.process.coefficients(case.t), case.x, case.model.denoiser(case.x, case.t)
    bayes, slope = from_denoiser(c, x, denoiser), from_score(c, x, case.model.score(x, case.t))
    if wrong:
        bayes = bayes._replace(velocity=c.alpha * bayes.denoiser + c.sigma * bayes.noise)
    return [Sides(*sides) for sides in zip(bayes, slope, sizes(c, x, denoiser), strict=True)]


@identity(
    "Predictions recovered from the velocity",
    topic=TOPIC,
    formula=r"x^* = \frac{\sigma v^* - \sigma' x}{W},\quad \epsilon^* = \frac{\alpha' x - \alpha v^*}{W},\quad"
    r" s^* = \frac{\alpha v^* - \alpha' x}{\sigma W},\quad W = \alpha'\sigma - \alpha\sigma'",
    covers=["PODB-56"],
    control="W with a plus sign",
    most=12,
)
def from_velocity(case: ModelCase, wrong: bool) -> list[Sides]:
    """The velocity built from Bayes' denoiser is inverted; the noise and the score come from the log density."""
    c, x, model = case.process.coefficients(case.t), case.x, case.model
    denoiser, score = model.denoiser(x, case.t), model.score(x, case.t)
    v, w = from_denoiser(c, x, denoiser).velocity, gap(c) + (2 * c.alpha * c.dsigma if wrong else 0)
    size = sizes(c, x, denoiser).velocity
    state = np.abs(c.dsigma) * np.abs(x).max()
    noise = c.alpha * size / np.abs(gap(c))
    return [
        Sides((c.sigma * v - c.dsigma * x) / w, (x + c.sigma**2 * score) / c.alpha, (c.sigma * size + state) / -gap(c)),
        Sides((c.dalpha * x - c.alpha * v) / w, -c.sigma * score, noise),
        Sides((c.alpha * v - c.dalpha * x) / (c.sigma * w), score, noise / c.sigma),
    ]


@identity(
    "Every prediction from every other",
    topic=TOPIC,
    formula=r"x = \alpha D + \sigma e:\quad D,\ e,\ s = -e/\sigma,\ v = \alpha' D + \sigma' e,"
    r"\ v_{\mathrm{SH}} = \alpha e - \sigma D",
    covers=["PODB-56", "DMI-28"],
    control="the v of Salimans and Ho taken for the velocity",
    needs=lambda case: case.law.dim <= 5,
    most=12,
)
def every_pair(case: ModelCase, wrong: bool) -> list[Sides]:
    """`convert` on all ordered pairs of five, each started from and compared with the exact model."""
    c, x, model = case.process.coefficients(case.t), case.x, case.model
    exact = {name: getattr(model, name)(x, case.t) for name in PREDICTIONS}
    size = sizes(c, x, exact["denoiser"])._asdict()
    size["v_prediction"] = c.sigma * np.abs(exact["denoiser"]).max() + c.alpha * size["noise"]
    # how far each moves when the denoiser moves by 1: an error of the source arrives multiplied by a ratio of these
    reach = {
        "denoiser": np.ones(()),
        "noise": c.alpha / c.sigma,
        "score": c.alpha / c.sigma**2,
        "velocity": -gap(c) / c.sigma,
        "v_prediction": (c.alpha**2 + c.sigma**2) / c.sigma,
    }
    sides = []
    for source, target in permutations(PREDICTIONS, 2):
        if wrong and source != "v_prediction":
            continue
        found = convert(exact[source], x, case.t, case.process, "velocity" if wrong else source, target)
        sides.append(Sides(found, exact[target], size[target] + reach[target] / reach[source] * size[source]))
    return sides


@identity(
    "Five forms of the probability-flow velocity",
    topic=TOPIC,
    formula=r"v^* = f x - \sigma\lambda'\epsilon^* = \tfrac{\sigma'}{\sigma} x + \alpha\lambda' x^*"
    r" = f x + \sigma^2\lambda' s^* = \alpha' x^* + \sigma'\epsilon^*",
    covers=["PODB-57", "PODC9-02"],
    control="lambda as the whole log signal-to-noise ratio: lambda' doubled",
    most=12,
)
def five_forms(case: ModelCase, wrong: bool) -> list[Sides]:
    """Forms with the Bayes denoiser against forms with the score; lambda' is the schedule's own."""
    c, x, model = case.process.coefficients(case.t), case.x, case.model
    slope = np.array([schedule.dlog_snr(case.t) for schedule in case.process.schedules])
    slope = (2 if wrong else 1) * (slope if case.process.per_axis else slope[0])
    bayes = from_denoiser(c, x, model.denoiser(x, case.t))
    noise = -c.sigma * model.score(x, case.t)
    forms = [
        c.f * x - c.sigma * slope * noise,
        c.dsigma / c.sigma * x + c.alpha * slope * bayes.denoiser,
        c.f * x - c.sigma * slope * bayes.noise,
        c.f * x + c.g2 / (2 * c.sigma) * bayes.noise,
        c.f * x - c.g2 / 2 * model.score(x, case.t),
    ]
    size = sizes(c, x, bayes.denoiser).velocity
    return [Sides(form, bayes.velocity, size) for form in forms]


# ---------------------------------------------------------------------- the variance-preserving path


@identity(
    "Velocity of the variance-preserving path",
    topic=TOPIC,
    formula=r"v^* = -\tfrac{1}{2}\beta\,(x + s^*) = \frac{\dot{\bar\alpha}}{2\bar\alpha}(x + s^*)",
    covers=["DMI-71"],
    refutes=["DMI-71"],
    control="-(alpha_bar' / 2 alpha_bar) (x + sqrt(1 - alpha_bar) s), the straight line with rho = sqrt(1 - alpha_bar)",
    needs=preserving,
)
def vp_velocity(case: ModelCase, wrong: bool) -> Sides:
    """alpha' x* + sigma' eps* with the Bayes denoiser against the score form; alpha_bar = alpha^2."""
    c, x, model = case.process.coefficients(case.t), case.x, case.model
    denoiser, score = model.denoiser(x, case.t), model.score(x, case.t)
    half = 2 * c.alpha * c.dalpha / (2 * c.alpha**2)
    right = -half * (x + c.sigma * score) if wrong else half * (x + score)
    return Sides(from_denoiser(c, x, denoiser).velocity, right, sizes(c, x, denoiser).velocity)


@identity(
    "Flow-matching target of the variance-preserving path",
    topic=TOPIC,
    formula=r"\mathbb{E}\Big[\frac{\dot{\bar\alpha}}{2\sqrt{\bar\alpha}} X_0"
    r" - \frac{\dot{\bar\alpha}}{2\sqrt{1-\bar\alpha}} Z\,\Big|\,x\Big] = f x - \tfrac{1}{2} g^2 s^*",
    covers=["DMI-81"],
    refutes=["DMI-81"],
    control="rho' (Z - X_0) with rho = sqrt(1 - alpha_bar)",
    needs=preserving,
)
def vp_target(case: ModelCase, wrong: bool) -> Sides:
    """The average of the conditional target over the Bayes posterior against the drift of the probability flow."""
    c, x, model = case.process.coefficients(case.t), case.x, case.model
    bar, rate = c.alpha**2, 2 * c.alpha * c.dalpha
    denoiser = model.denoiser(x, case.t)
    noise = (x - c.alpha * denoiser) / c.sigma
    of_noise = -rate / (2 * c.sigma)
    of_clean = -of_noise if wrong else rate / (2 * np.sqrt(bar))
    flow = c.f * x - c.g2 / 2 * model.score(x, case.t)
    return Sides(of_clean * denoiser + of_noise * noise, flow, sizes(c, x, denoiser).velocity)


@identity(
    "One-point estimate of the score",
    topic=TOPIC,
    formula=r"\hat s = -\epsilon/\sigma = -(x - \alpha x_0)/\sigma^2:\quad \mathbb{E}[\hat s|x] = \nabla\log p_t(x),"
    r"\quad \operatorname{Cov}[\hat s|x] = \frac{\alpha^2}{\sigma^4}\operatorname{Cov}[x_0|x]"
    r" = \nabla^2\log p_t + \sigma^{-2} I",
    covers=["PODD-10"],
    control="divided by sigma in place of sigma^2",
    # the posterior is a law of its own for every point
    needs=lambda case: case.law.dim <= 5 and scalar(case),
)
def one_point_score(case: ModelCase, wrong: bool) -> list[Sides]:
    """Moments of the estimate under the posterior law of x_0 at one point against derivatives of the log density."""
    c, x = case.process.coefficients(case.t), case.x[0]
    power = c.sigma if wrong else c.sigma**2
    estimate = case.model.posterior(x, case.t).affine(c.alpha / power, -x / power)
    size = sizes(c, x, estimate.mean() * power / c.alpha).score
    flat = np.eye(case.law.dim) / c.sigma**2
    hessian = case.model.hessian(x, case.t)
    return [
        Sides(estimate.mean(), case.model.score(x, case.t), size),
        Sides(estimate.cov(), hessian + flat, np.abs(hessian).max() + size**2 + flat.max()),
    ]
