r"""Flows on the line: quantiles go to quantiles, paths keep their order, and the velocity is a ratio.

    F_t(x_t) = F_s(x_s),     v = -(d_t F_t) / p_t,     dx_t / dx_s = p_s(x_s) / p_t(x_t) = exp int_s^t d_x v du  >  0

On the line the continuity equation leaves no freedom: every velocity that carries p_s to p_t is this one, and the flow
is the increasing map, optimal for every convex cost. The library's quantiles know no differential equation and the
integrations here, SciPy's at tolerance 1e-13, no distribution function. Where the data are one point all paths meet
there at sigma = 0: the hypothesis of the corollary, one Lipschitz constant up to the end, is not met.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, monotone_map
from refdiff.dynamics.jacobians import flow_jacobian
from refdiff.dynamics.quantiles import quantile_flow
from refdiff.model import ExactModel
from refdiff.validation.cases import ModelCase, ProcessCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import cdf
from refdiff.validation.numeric import derivative, legendre
from refdiff.validation.steps import FINE, time_scale

TOPIC = "Flow maps"


def on_the_line(case: ModelCase) -> bool:
    """Whether the data are on the line, and rates do not jump."""
    return case.law.dim == 1 and smooth(case)


def integrated(case: ModelCase, x: Array, start: float, end: float) -> Array:
    """Where SciPy's DOP853 takes points (n, 1) of the time `start` to `end`, at its least tolerance."""

    def slope(t: float, y: Array) -> Array:
        return np.asarray(case.model.velocity(y[:, None], t)[:, 0])

    found = solve_ivp(slope, (start, end), x[:, 0], "DOP853", rtol=1e-13, atol=1e-15)
    return np.asarray(found.y[:, -1:])


@identity(
    "On the line the flow is the quantile map",
    topic=TOPIC,
    formula=r"\Psi_{t\to s} = F_s^{-1}\circ F_t,\qquad F_s(\Psi_{t\to s}(x)) = F_t(x)",
    covers=["TOPB-55", "PODD-118"],
    control="the affine map between the two means and standard deviations, which is that of Gaussian data",
    evidence=QUADRATURE,
    # 40 to 80 steps of 1e-13, magnified by the flow: 7e-13 of the size of x were measured
    tolerance=5e-12,
    needs=on_the_line,
)
def quantile_law(case: ModelCase, wrong: bool) -> list[Sides]:
    """The library's map against an integration at tolerance 1e-13, and distribution functions on both sides of it."""
    before, after = (case.model.marginal(t) for t in (case.t, case.s))
    # both tails, too
    x = np.concatenate([case.x[:2], before.mean() + np.array([[-5.0], [5.0]]) * np.sqrt(before.cov())])
    moved = quantile_flow(case.model, x, case.t, case.s)
    if wrong:
        moved = after.mean() + np.sqrt(after.cov() / before.cov()) * (x - before.mean())
    size = np.abs(x).max() + np.abs(moved).max()
    return [
        Sides(moved, integrated(case, x, case.t, case.s), size),
        Sides(cdf(after, moved), cdf(before, x), 1.0),
        Sides(moved[:2], monotone_map(before, after, x[:2]), size),
    ]


@identity(
    "On the line the velocity is determined by the densities",
    topic=TOPIC,
    formula=r"v(x, t) = -\frac{\partial_t F_t(x)}{p_t(x)}",
    covers=["TOPB-55"],
    control="the distribution function's rate with the other sign, mass that moves against the current",
    evidence=DERIVATIVE,
    needs=on_the_line,
)
def velocity_from_mass(case: ModelCase, wrong: bool) -> Sides:
    """The model's velocity against a difference in time of the distribution function."""
    rate = derivative(lambda t: cdf(case.model.marginal(t), case.x), case.t, FINE * time_scale(case))
    density = np.exp(case.model.log_density(case.x, case.t))
    flux = case.model.velocity(case.x, case.t)[:, 0] * density
    # a difference of F over a step h loses eps / h; 1 / h is at most some 25 / time_scale
    return Sides(flux, (1 if wrong else -1) * rate[:, 0], np.abs(flux).max() + 1e-2 / time_scale(case))


@identity(
    "Paths keep their order, and by how much they close in",
    topic=TOPIC,
    formula=r"x < y \Rightarrow \Psi(x) < \Psi(y),\qquad \frac{\partial\Psi_{t\to s}}{\partial x} ="
    r" \exp\int_t^s \partial_x v\,du = \frac{p_t(x)}{p_s(\Psi(x))} > 0",
    covers=["PODD-53", "TOPB-55"],
    control="the slope of one Euler step, 1 + (s - t) dv/dx, under which paths may cross",
    evidence=QUADRATURE,
    needs=on_the_line,
    most=4,
)
def order_of_paths(case: ModelCase, wrong: bool) -> list[Sides]:
    """Ranks of a fine grid after the quantile map; the slope from the variational equation and from two densities."""
    before, x = case.model.marginal(case.t), case.x[:2]
    end = quantile_flow(case.model, x, case.t, case.s)
    ratio = np.exp(case.model.log_density(x, case.t) - case.model.log_density(end, case.s))
    if wrong:
        return [Sides(1 + (case.s - case.t) * case.model.velocity_jacobian(x, case.t)[:, 0, 0], ratio, np.abs(ratio))]
    grid = before.mean() + np.linspace(-4, 4, 400)[:, None] * np.sqrt(before.cov())
    steps = np.diff(quantile_flow(case.model, grid, case.t, case.s)[:, 0])
    found = flow_jacobian(case.model, x, case.t, case.s, rtol=1e-10, atol=1e-12)
    slope = found.jacobian[:, 0, 0]
    return [
        Sides(np.sign(steps), np.ones(len(steps))),
        Sides(slope, ratio, np.abs(ratio)),
        Sides(np.log(np.abs(slope)), found.log_volume, 1.0 + np.abs(found.log_volume)),
    ]


@identity(
    "All paths of a point mass meet at its end",
    topic=TOPIC,
    formula=r"p_0 = \delta_m:\quad \Psi_{t\to s}(x) = \alpha_s m + \frac{\sigma_s}{\sigma_t}(x - \alpha_t m),\qquad"
    r" \int_s^t \frac{\dot\sigma}{\sigma}\,du = \log\frac{\sigma_t}{\sigma_s} \to \infty",
    covers=["PODD-53", "PODD-52", "PODD-118"],
    control="a Gaussian of variance 1 in place of the point, whose paths keep apart up to the end",
    evidence=QUADRATURE,
    over="processes",
    needs=smooth,
)
def meeting_point(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The quantile map of a single point against the closed one; the Lipschitz constant's integral has no limit."""
    schedule, m = case.schedule, 0.7
    model = ExactModel(Gaussian([m], 1.0 if wrong else 0.0), case.process)
    early, late = schedule.coefficients(case.s), schedule.coefficients(case.t)
    x = late.alpha * m + late.sigma * np.array([[-3.0], [0.5], [4.0]])
    moved = quantile_flow(model, x, case.t, case.s)
    closed = early.alpha * m + early.sigma / late.sigma * (x - late.alpha * m)
    u, w = legendre(24)
    # in t^(1/2), as sigma may start like t^(1/2)
    roots = np.sqrt(case.s) + (np.sqrt(case.t) - np.sqrt(case.s)) * u
    lipschitz = [float(model.velocity_jacobian(x[:1], float(r**2))[0, 0, 0]) * 2 * r for r in roots]
    total = (np.sqrt(case.t) - np.sqrt(case.s)) * (w @ lipschitz)
    return [
        Sides(moved, closed, np.abs(x).max()),
        Sides(total, np.log(late.sigma / early.sigma), 1 + np.abs(np.log(late.sigma / early.sigma))),
    ]
