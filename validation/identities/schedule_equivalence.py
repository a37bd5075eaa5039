r"""One path, many schedules: every alpha, sigma is the straight path, rescaled and run on another clock.

    x_t = c(t) x^straight_tau,   c = alpha + sigma,   tau = sigma / c          p_t(x) = c^-d p^straight_tau(x / c)
    x_t = R(t) x^arc_u,          R = hypot(alpha, sigma / sigma_d),   tan u = sigma / (sigma_d alpha)

Velocities map with the path, v_t(x) = c' x / c + c tau' v^straight_tau(x / c), so flow maps between two
signal-to-noise ratios do not depend on the schedule. Each side below is the exact model of another schedule: one
Bayes computation at (x, t), one at (x / c, tau).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.schedules import (
    Alignment,
    FlowMatching,
    Schedule,
    SubVP,
    Transformed,
    Trigonometric,
    VEPower,
    VPLinear,
)
from refdiff.validation.cases import Case, ModelCase, ProcessCase
from refdiff.validation.conditions import scalar, spread_out
from refdiff.validation.identities.parameterizations import gap, sizes
from refdiff.validation.identity import Sides, identity

TOPIC = "Equivalence of schedules"


# ---------------------------------------------------------------------- the straight path and the arc


@identity(
    "Every schedule is the straight path, rescaled",
    topic=TOPIC,
    formula=r"v_t(x) = \frac{c'}{c} x + c\tau' v^{\mathrm{FM}}_\tau(x/c),\quad c = \alpha + \sigma,\ \tau = \sigma/c,"
    r"\quad c\tau' = \frac{\alpha\sigma' - \sigma\alpha'}{\alpha + \sigma}",
    covers=["PODB-58", "DMI-65"],
    control="the velocity of the straight path without the factor c tau'",
    needs=scalar,
    most=12,
)
def straight(case: ModelCase, wrong: bool) -> list[Sides]:
    """Velocity, score and log density of the case's model against the flow-matching model at (x / c, tau)."""
    c, x, model = case.process.coefficients(case.t), case.x, case.model
    alignment = Alignment(FlowMatching(), case.process.schedules[0])
    tau, scale = alignment.tau(case.t), alignment.scale(case.t)
    other = ExactModel(case.law, FlowMatching())
    speed = 1 if wrong else -gap(c) / (c.alpha + c.sigma)
    moved = (c.dalpha + c.dsigma) / scale * x + speed * other.velocity(x / scale, tau)
    size = sizes(c, x, model.denoiser(x, case.t))
    density = other.log_density(x / scale, tau) - model.dim * np.log(scale)
    growth = np.abs((c.dalpha + c.dsigma) / scale) * np.abs(x).max()
    return [
        Sides(tau, c.sigma / (c.alpha + c.sigma)),
        Sides(scale, c.alpha + c.sigma),
        Sides(model.velocity(x, case.t), moved, size.velocity + growth),
        Sides(model.score(x, case.t), other.score(x / scale, tau) / scale, size.score),
        # log p adds up log weights, squared distances and log determinants of this size
        Sides(model.log_density(x, case.t), density, np.abs(density).max() + _exponents(case)),
    ]


@identity(
    "Every schedule is the trigonometric path, rescaled",
    topic=TOPIC,
    formula=r"x_t = R\,x^{\mathrm{trig}}_u,\quad R = \sqrt{\alpha^2 + \sigma^2/\sigma_d^2},"
    r"\ \tan u = \frac{\sigma}{\sigma_d\alpha}:\quad v_t(x) = \frac{R'}{R} x + R u' v^{\mathrm{trig}}_u(x/R),"
    r"\quad s_t(x) = s^{\mathrm{trig}}_u(x/R) / R",
    covers=["PODB-59", "PODD-22"],
    control="tan u = sigma_d sigma / alpha",
    needs=lambda case: scalar(case) and case.law.count < 100 and spread_out(case),
    most=12,
)
def arc(case: ModelCase, wrong: bool) -> list[Sides]:
    """The case's model against the model of the arc with the standard deviation of the data, and with 1."""
    c, x, model = case.process.coefficients(case.t), case.x, case.model
    size = sizes(c, x, model.denoiser(x, case.t))
    sides = []
    for sigma_d in (1.0, float(np.sqrt(np.trace(case.law.cov()) / case.law.dim))):
        other = ExactModel(case.law, Trigonometric(sigma_d))
        noise, dnoise = c.sigma / sigma_d, c.dsigma / sigma_d
        angle = float(np.arctan2(c.sigma * sigma_d if wrong else noise, c.alpha))
        scale = np.hypot(c.alpha, noise)
        growth = (c.alpha * c.dalpha + noise * dnoise) / scale
        speed = (c.alpha * dnoise - noise * c.dalpha) / scale**2
        alignment = Alignment(Trigonometric(sigma_d), case.process.schedules[0])
        moved = growth / scale * x + scale * speed * other.velocity(x / scale, angle)
        sides += [
            Sides(alignment.tau(case.t), angle),
            Sides(alignment.scale(case.t), scale),
            Sides(model.score(x, case.t), other.score(x / scale, angle) / scale, size.score),
            Sides(model.velocity(x, case.t), moved, size.velocity + np.abs(growth / scale) * np.abs(x).max()),
        ]
    return sides


@identity(
    "Velocity and denoiser on the arc",
    topic=TOPIC,
    formula=r"x^*(x,u) = \cos u\,x - \sin u\,v^*(x,u),\quad"
    r" x_w = \cos(u - w)\,x_u - \sin(u - w)\,v^* = \alpha_w x^* + \sigma_w\epsilon^*",
    covers=["PODD-23"],
    control="the sign of c_out: cos u x + sin u v*",
    needs=lambda case: scalar(case) and spread_out(case),
)
def arc_prediction(case: ModelCase, wrong: bool) -> list[Sides]:
    """Consistency-model coefficients c_skip = cos, c_out = -sigma_d sin on F = v* / sigma_d, against Bayes' rule."""
    c, sign = case.process.coefficients(case.t), 1 if wrong else -1
    sigma_d = float(np.sqrt(np.trace(case.law.cov()) / case.law.dim))
    schedule = Trigonometric(sigma_d)
    u, w = (float(schedule.time_of_log_snr(case.process.log_snr(when))) for when in (case.t, case.s))
    x, model = case.x / np.hypot(c.alpha, c.sigma / sigma_d), ExactModel(case.law, schedule)
    here, there = schedule.coefficients(u), schedule.coefficients(w)
    denoiser = model.denoiser(x, u)
    network = model.velocity(x, u) / sigma_d
    step = there.alpha * denoiser + there.sigma * (x - here.alpha * denoiser) / here.sigma
    size = np.abs(x).max() + sizes(here, x, denoiser).velocity
    return [
        Sides(np.cos(u) * x + sign * sigma_d * np.sin(u) * network, denoiser, size),
        Sides(np.cos(u - w) * x + sign * sigma_d * np.sin(u - w) * network, step, size),
    ]


@identity(
    "Data of the arc's own scale stand still",
    topic=TOPIC,
    formula=r"x_0 \sim \mathcal{N}(0, \sigma_d^2 I):\quad v^* = 0,\ f^*(x) = x;\qquad"
    r" \mathcal{N}(m, s^2 I): v^* = -\sin u\, m + \frac{(\sigma_d^2 - s^2)\sin u\cos u}{V_u}(x - \cos u\, m)",
    covers=["PODD-22"],
    control="V = cos^2 s^2 + sin^2, without sigma_d",
    over="once",
)
def still_arc(case: Case, wrong: bool) -> list[Sides]:
    """The exact model of an isotropic Gaussian against the derivative of its mean and standard deviation."""
    rng = case.rng
    m, sigma_d, s, u = rng.standard_normal(3), 0.5 + rng.random(), 0.3 + rng.random(), 0.2 + rng.random()
    x = rng.standard_normal((4, 3))
    moving, still = (ExactModel(Gaussian(*parts), Trigonometric(sigma_d)) for parts in ((m, s**2), (0 * m, sigma_d**2)))
    variance = (np.cos(u) * s) ** 2 + (np.sin(u) * (1 if wrong else sigma_d)) ** 2
    slope = (sigma_d**2 - s**2) * np.sin(u) * np.cos(u) / variance
    return [
        Sides(still.velocity(x, u), 0 * x, np.abs(x).max()),
        Sides(moving.velocity(x, u), slope * (x - np.cos(u) * m) - np.sin(u) * m),
    ]


def _exponents(case: ModelCase) -> float:
    """The largest squared Mahalanobis distance that a responsibility of the case weighs."""
    law = case.model.marginal(case.t)
    return float(law.covariances.squared_distance(case.x, law.means).max())


# ---------------------------------------------------------------------- schedules made from schedules


def _straight_parts(schedule: Schedule) -> tuple[Callable[[Array], Any], Callable[[Array], Any]]:
    """The clock tau and the scale c that make flow matching into `schedule`, each with two derivatives."""

    def scale(t: Array) -> tuple[Array, Array, Array]:
        c = schedule.coefficients(t)
        return c.alpha + c.sigma, c.dalpha + c.dsigma, c.d2alpha + c.d2sigma

    def clock(t: Array) -> tuple[Array, Array, Array]:
        c = schedule.coefficients(t)
        total, dtotal, _ = scale(t)
        rate = -gap(c) / total**2
        bend = (c.alpha * c.d2sigma - c.sigma * c.d2alpha) / total**2 - 2 * rate * dtotal / total
        return c.sigma / total, rate, bend

    return clock, scale


@identity(
    "A schedule rebuilt from flow matching",
    topic=TOPIC,
    formula=r"(\alpha, \sigma)(t) = c(t)\,(1 - \tau, \tau)\big|_{\tau(t)},\qquad"
    r" f = \frac{c'}{c} + \tau' f^{\mathrm{FM}},\quad g^2 = c^2 \tau' g^2_{\mathrm{FM}}",
    covers=["PODB-58"],
    over="processes",
    control="the diffusion coefficient without the square of the scale",
)
def rebuilt(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Every coefficient of the transformed straight path against the family's own closed forms."""
    original = case.schedule.coefficients(case.t)
    clock, scale = _straight_parts(case.schedule)
    made = Transformed(FlowMatching(), clock, scale, case.schedule.T).coefficients(case.t)
    total, dtotal, d2total = (float(part) for part in scale(np.asarray(case.t)))
    tau, dtau, d2tau = (float(part) for part in clock(np.asarray(case.t)))
    if wrong:
        made = made._replace(g2=made.g2 / total)
    # the chain rule adds c'' x, c' tau' and c tau'' of the straight path, whose own derivatives are +-1
    first = np.abs(dtotal) + total * dtau
    second = np.abs(d2total) + 2 * np.abs(dtotal) * dtau + total * np.abs(d2tau)
    square = total * second + first**2
    size = {"f": np.abs(dtotal) / total + dtau / (1 - tau), "dvariance": total * first, "d2variance": square}
    for name in ("alpha", "sigma"):
        size |= {name: total, f"d{name}": first, f"d2{name}": second}
    size["log_snr"] = 1 + np.abs(np.log(original.alpha)) + np.abs(np.log(original.sigma))
    return [Sides(part, getattr(original, name), size.get(name, original.g2)) for name, part in made._asdict().items()]


@identity(
    "Any two schedules: velocities through the signal-to-noise ratio",
    topic=TOPIC,
    formula=r"v_t(x) = \frac{c'}{c} x + c\tau' v^{\mathrm{source}}_\tau(x/c),"
    r"\quad \tau' = \frac{\lambda'(t)}{\lambda'_{\mathrm{source}}(\tau)},"
    r"\quad \frac{c'}{c} = f(t) - \tau' f_{\mathrm{source}}(\tau)",
    covers=["PODB-58"],
    control="the source's drift without tau'",
    needs=lambda case: scalar(case) and case.law.count < 100,
    most=12,
)
def two_schedules(case: ModelCase, wrong: bool) -> list[Sides]:
    """The case's velocity against those of three other families at the time of equal signal-to-noise ratio."""
    target, x, model = case.process.schedules[0], case.x, case.model
    c, size = target.coefficients(case.t), sizes(target.coefficients(case.t), x, model.denoiser(x, case.t)).velocity
    sides = []
    # both ends of these reach every ratio that a case has
    for source in (VPLinear(1e-3, 40.0), SubVP(1e-3, 40.0), VEPower(2.0, 1e4)):
        alignment = Alignment(source, target)
        tau, scale = float(alignment.tau(case.t)), alignment.scale(case.t)
        there = source.coefficients(tau)
        speed = target.dlog_snr(case.t) / source.dlog_snr(tau)
        growth = c.f - (1 if wrong else speed) * there.f
        other = scale * speed * ExactModel(case.law, source).velocity(x / scale, tau)
        terms = (np.abs(c.f) + 2 * np.abs(speed * there.f)) * np.abs(x).max()
        sides.append(Sides(model.velocity(x, case.t), growth * x + other, size + terms))
    return sides
