r"""Derivatives of the probability flow's velocity: in space, in time at a fixed point, and along a path.

    in space      grad v = f I - (g^2 / 2) H,  H the Hessian of log p_t: symmetric where f and g are numbers, tr = div v
    in time       d_t^2 p = -div(p d_t v + v d_t p): the continuity equation, once more differentiated
    along a path  dv/dt = d_t v + (grad v) v,  the acceleration
    average       u(x, s, t) = (Psi_{s->t}(x) - x) / (t - s) = v + (t - s) / 2 dv/dt + O((t - s)^2)
    secant        g*(x, s, t) = x - s u(x, s, t) -> x - s v(x, s),  E[x_0|x] for sigma = t and alpha = 1 or 1 - t

The model forms them from moments over the components; the second routes are stencils of the velocity and of the
density, the Hessian, and short Runge-Kutta steps, whose own error is two orders beyond the acceleration.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.validation import numeric
from refdiff.validation.cases import ModelCase
from refdiff.validation.conditions import differentiable
from refdiff.validation.identity import DERIVATIVE, ORDER, Sides, identity
from refdiff.validation.laws import smallest_std
from refdiff.validation.numeric import dot
from refdiff.validation.steps import FINE, relative_density, relative_rate, time_scale

TOPIC = "Equal marginals and the probability flow"


@identity(
    "Velocity Jacobian from the Hessian",
    topic=TOPIC,
    formula=r"\nabla v = f I - \tfrac12 g^2 \nabla^2 \log p = (\nabla v)^\top,"
    r"\quad \operatorname{tr} \nabla v = \nabla \cdot v",
    covers=["TOPB-19"],
    control="g^2 in place of g^2 / 2",
    needs=lambda case: case.law.dim <= 16,
)
def jacobian_from_hessian(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' moments in the Jacobian and in the divergence against the Hessian of the log density."""
    c, model, x, t, d = case.process.coefficients(case.t), case.model, case.x[:3], case.t, case.law.dim
    f, g2, dalpha, dvariance = (np.broadcast_to(value, (d,)) for value in (c.f, c.g2, c.dalpha, c.dvariance))
    jacobian, hessian = model.velocity_jacobian(x, t), model.hessian(x, t)
    curved = (1.0 if wrong else 0.5) * g2[:, None] * hessian
    size = np.diag(np.abs(f)) + np.abs(curved) + 0.5 * np.abs(dvariance)[:, None] * np.abs(hessian)
    size = (size + np.abs(dalpha[:, None] * model.denoiser_jacobian(x, t))).max(axis=(1, 2))
    sides = [
        Sides(jacobian, np.diag(f) - curved, scale=size[:, None, None]),
        Sides(np.einsum("nii->n", jacobian), model.velocity_divergence(x, t), scale=d * size),
    ]
    if not case.process.per_axis:
        sides.append(Sides(jacobian, np.swapaxes(jacobian, 1, 2), scale=size[:, None, None]))
    return sides


@identity(
    "Velocity differentiated in space and time",
    topic=TOPIC,
    formula=r"\partial_j v_i,\ \partial_t v:\quad \partial_t^2 p = -\nabla \cdot (p\,\partial_t v + v\,\partial_t p)",
    covers=["DMI-55", "TOPB-20"],
    evidence=DERIVATIVE,
    control="a velocity that stands still: without the rate of v",
    needs=lambda case: differentiable(case, 2) and case.law.count <= 8,
)
def differentiated(case: ModelCase, wrong: bool) -> list[Sides]:
    """Stencils of the velocity; the second derivative of the density in time against the rate of its flux."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x[:3], case.t
    here, duration = model.marginal(t), FINE * time_scale(case)
    # the Jacobian bends on half the length of the density
    std, ratio, h = smallest_std(here), relative_density(here, x), FINE / 2 * smallest_std(here)

    def moved(y: Array) -> Array:
        """The rate of the flux p v at y."""
        rate = 0.0 if wrong else model.velocity_rate(y, t)
        return np.asarray(ratio(y)[:, None] * (rate + model.velocity(y, t) * model.log_density_rate(y, t)[:, None]))

    at_x, by_space = model.log_density(x, t), numeric.jacobian(lambda y: model.velocity(y, t), x, h)
    twice = numeric.second_derivative(lambda u: np.exp(model.log_density(x, t + u) - at_x), 0.0, duration)
    dv, s = model.velocity_rate(x, t), model.score(x, t)
    # the two terms of the velocity cancel at rest; a derivative in space brings a score or the inverse of a deviation,
    # one in time the fastest rate
    parts = np.abs(c.dalpha * model.denoiser(x, t)) + 0.5 * np.abs(c.dvariance * s)
    bend, pace = np.abs(s) + 1 / std, parts * FINE / duration
    return [
        Sides(model.velocity_jacobian(x, t), by_space, scale=np.max(np.abs(c.f)) + np.max(c.g2) / std**2),
        Sides(dv, numeric.derivative(lambda u: model.velocity(x, t + u), 0.0, duration), scale=pace.max()),
        Sides(
            relative_rate(lambda u: model.log_density(x, t + u), duration),
            -np.einsum("nii->n", by_space) - dot(model.velocity(x, t), s),
            scale=dot(parts, bend).max(),
        ),
        Sides(twice, -numeric.divergence(moved, x, h), scale=dot(np.abs(dv) + pace, bend).max()),
    ]


def average_velocity(case: ModelCase, h: float) -> Array:
    """u(x, t, t - h), shape (n, d), by one step of the classical Runge-Kutta method, which errs by O(h^4)."""
    return (case.x - numeric.runge_kutta(case.model.velocity, case.x, case.t, -h)) / h


@identity(
    "Secant of the flow and the acceleration",
    topic=TOPIC,
    formula=r"g^*(x, s, t) = x + \tfrac{s}{s - t} \int_s^t v\,du"
    r" = x - s\,v(x, s) + \tfrac{s (s - t)}{2} \tfrac{d}{ds} v(x_s, s) + O((s - t)^2)",
    covers=["PODD-33"],
    refutes=["PODD-33"],
    evidence=ORDER,
    control="x - v for the limit, as the source writes at one place",
    needs=lambda case: differentiable(case, 3),
    most=12,
)
def secant(case: ModelCase, wrong: bool) -> list[Sides]:
    """Short steps of the flow, extrapolated, against velocity and acceleration; the limit against Bayes' denoiser."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x, case.t
    v, steps = model.velocity(x, t), 0.05 * time_scale(case) / 2.0 ** np.arange(4)
    averages = [average_velocity(case, h) for h in steps]
    slopes = [(v - average) / h for average, h in zip(averages, steps, strict=True)]
    bends = np.abs(model.velocity_rate(x, t)) + np.einsum(
        "nij,nj->ni", np.abs(model.velocity_jacobian(x, t)), np.abs(v)
    )
    limit = x - (1.0 if wrong else t) * v
    sides = [
        Sides(numeric.extrapolate([x - t * average for average in averages]), limit, scale=np.abs(x) + t * np.abs(v)),
        Sides(numeric.extrapolate(slopes), model.acceleration(x, t) / 2, scale=bends.max()),
    ]
    # sigma proportional to t and alpha - t alpha' = 1: EDM's schedule and flow matching's
    if np.allclose([t * c.dsigma / c.sigma, c.alpha - t * c.dalpha], 1, rtol=1e-12, atol=0):
        sides.append(Sides(limit, model.denoiser(x, t), scale=(np.abs(x) + t * np.abs(v)).max()))
    return sides
