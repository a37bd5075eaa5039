r"""Why a flow map exists: tangents, Picard's construction, Lipschitz constants and what they bound.

    picture    the tangent of an exact path is the field wherever it passes
    Picard     x_{n+1}(t) = x_0 + int_{t_0}^t v(x_n(u), u) du:  for v = a(t) x exactly  x_0 sum_{j <= n} (int a)^j / j!
    bound      |Psi(x) - Psi(y)| <= |x - y| exp int Lip,     Lip(t) = sup_x |dv/dx|

For Gaussian components of one covariance c^2 I, V = alpha^2 c^2 + sigma^2, a = V' / (2 V), the field's Jacobian is

    dv/dx = a I + kappa Cov_r(m),   kappa = (alpha / V) (alpha' - a alpha),

with the means m_k weighed by the responsibilities; of two at distance r the covariance is largest halfway, r^2 / 4. So
Lip = max(|a|, |a + kappa r^2 / 4|) is known, finite on [0, T] as long as V_0 = c^2 > 0, and for a point mass it is
sigma' / sigma, whose integral from 0 is infinite: the theorem does not reach the data of a training set.
"""

from __future__ import annotations

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.dynamics.gaussian_flow import gaussian_flow
from refdiff.dynamics.quantiles import quantile_flow
from refdiff.model import ExactModel
from refdiff.validation.cases import ModelCase, ProcessCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, legendre
from refdiff.validation.steps import FINE, time_scale

TOPIC = "Flow maps"
WIDTH, APART = 0.5, 3.0  # of the two components, and their distance


def closed(case: ModelCase) -> bool:
    """Whether the flow map of the data has a closed form."""
    return case.law.dim == 1 or (case.law.count == 1 and not case.law.covariances.singular)


@identity(
    "The tangent of an exact path is the field",
    topic=TOPIC,
    formula=r"\frac{d}{du}\Psi_{t\to u}(x) = v(\Psi_{t\to u}(x), u)",
    covers=["PODD-50", "PODD-02"],
    control="the field at the start of the path, a solver's arrow, kept along it",
    evidence=DERIVATIVE,
    needs=lambda case: smooth(case) and closed(case),
)
def tangents(case: ModelCase, wrong: bool) -> list[Sides]:
    """Paths by quantiles or in closed form, differenced in time, against the model's velocity at three times of one."""

    def at(u: float) -> Array:
        if case.law.dim == 1:
            return quantile_flow(case.model, case.x, case.t, u)
        law = Gaussian(case.law.mean(), case.law.cov())
        channel = gaussian_flow(law, case.process, case.t, u)
        return operators.apply(channel.gain, case.x) + channel.offset

    sides = []
    for u in np.linspace(case.t, case.s, 4)[:3]:
        here = ModelCase(case.name, case.seed, case.law, case.process, case.s, float(u))
        step = FINE * time_scale(here)
        v = case.model.velocity(*((case.x, case.t) if wrong else (at(float(u)), float(u))))
        # a difference over a step h loses eps |x| / h
        sides.append(
            Sides(derivative(at, float(u), step), v, np.abs(v).max() + 1e-8 * np.abs(at(float(u))).max() / step)
        )
    return sides


def cumulative(nodes: Array) -> Array:
    """c_ij (n + 1, n), the integrals of the Lagrange polynomials of Gauss nodes (n,) on [0, 1] to each node and 1."""
    ends = np.append(nodes, 1.0)
    count = len(nodes)
    # Legendre polynomials are orthogonal over the nodes, and their integrals are differences of their neighbours
    basis = np.polynomial.legendre.legvander(2 * nodes - 1, count)
    beyond = np.polynomial.legendre.legvander(2 * ends - 1, count)
    weights = legendre(count)[1]
    degrees = np.arange(1, count)
    integrals = np.empty((count + 1, count))
    integrals[:, 0] = ends
    integrals[:, 1:] = (beyond[:, 2:] - beyond[:, : count - 1]) / (2 * (2 * degrees + 1))
    return np.asarray(integrals @ ((2 * np.arange(count) + 1)[:, None] * (basis[:, :count] * weights[:, None]).T))


@identity(
    "Picard's iterates",
    topic=TOPIC,
    formula=r"x_{n+1}(t) = x_0 + \int_{t_0}^t v(x_n, u)\,du:\quad v = a(t)\,x \Rightarrow x_n = x_0\sum_{j\le n}"
    r" \frac{A^j}{j!},\ A = \tfrac12\log\frac{V_t}{V_{t_0}};\qquad x_n \to \Psi_{t_0\to t}(x_0)",
    covers=["PODD-51", "PODD-60"],
    control="the geometric sum of A^j: contraction by the length of the interval alone",
    evidence=QUADRATURE,
    over="processes",
    needs=smooth,
    most=6,
)
def picard_iterates(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Each iterate on Gauss nodes with the model's velocity against the partial sum; the limit for a mixture."""
    nodes, _ = legendre(16)
    start, end = case.t, case.s + 0.75 * (case.t - case.s)
    integrals, times = (end - start) * cumulative(nodes), start + (end - start) * nodes
    sides = []
    # the series ends what the control says; a mixture has none
    for law in (Gaussian([0.0], WIDTH**2), pair())[: 1 if wrong else 2]:
        model = ExactModel(law, case.process)
        x0 = model.sample(3, start, case.rng)
        x = np.repeat(x0[None], len(nodes) + 1, axis=0)
        first, last = (float(model.marginal(t).cov()[0, 0]) for t in (start, end))
        total, term, partial = 0.5 * np.log(last / first), 1.0, 1.0
        for n in range(1, 7 if law.count == 1 else 17):
            v = np.stack([model.velocity(one, float(t)) for one, t in zip(x[:-1], times, strict=True)])
            x = x0 + np.einsum("ij,jnd->ind", integrals, v)
            term *= total / (1 if wrong else n)
            partial += term
            if law.count == 1:
                sides.append(Sides(x[-1], partial * x0, np.abs(x0).max()))
        if law.count > 1:
            sides.append(Sides(x[-1], quantile_flow(model, x0, start, end), np.abs(x0).max()))
    return sides


def pair() -> GaussianMixture:
    """Two equal components of that WIDTH at that distance, APART."""
    return GaussianMixture.isotropic([[-APART / 2], [APART / 2]], WIDTH**2, [0.5, 0.5])


def lipschitz(case: ProcessCase, t: float, turning: bool = True) -> tuple[float, float]:
    """a and a + kappa r^2 / 4 of the pair at time t, between which dv/dx lies; both a where `turning` is left out."""
    c = case.schedule.coefficients(t)
    v = float(c.alpha**2 * WIDTH**2 + c.sigma**2)
    a = float(c.alpha * c.dalpha * WIDTH**2 + c.dvariance / 2) / v
    kappa = float(c.alpha / v * (c.dalpha - a * c.alpha))
    return a, a + kappa * APART**2 / 4 * turning


@identity(
    "The Lipschitz constant of a mixture's flow, and its bound",
    topic=TOPIC,
    formula=r"\mathrm{Lip}(t) = \max\big(|a|, |a + \tfrac14\kappa r^2|\big),\ a = \frac{\dot V}{2V},\ \kappa ="
    r" \frac{\alpha}{V}(\dot\alpha - a\alpha);\qquad |\Psi(x) - \Psi(y)| \le |x - y|\, e^{\int \mathrm{Lip}},\quad"
    r" |v(x, t)| \le |v(0, t)| + \mathrm{Lip}(t)\,|x|",
    covers=["PODD-52", "PODD-51"],
    control="the constant of each component, the turning of the responsibilities left out",
    evidence=QUADRATURE,
    over="processes",
    needs=smooth,
)
def lipschitz_bound(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The closed constant against a supremum over a grid, its two parts along the two paths that they are exact on.

    Halfway between the components a path stays there, and far out only one of them is felt.
    """
    model, sides = ExactModel(pair(), case.process), []
    early, late = (case.schedule.coefficients(t) for t in (case.s, case.t))
    before, after = (float(c.alpha**2 * WIDTH**2 + c.sigma**2) for c in (late, early))
    for t in (case.s, case.t):
        c = case.schedule.coefficients(t)
        # log odds of the components from -40 to 40
        x = float(c.alpha**2 * WIDTH**2 + c.sigma**2) / (float(c.alpha) * APART) * np.linspace(-40, 40, 401)[:, None]
        a, turned = lipschitz(case, t, turning=not wrong)
        constant = max(abs(a), abs(turned))
        sides.append(Sides(np.abs(model.velocity_jacobian(x, t)).max(), constant, constant))
        excess = np.abs(model.velocity(x, t)) - np.abs(model.velocity([[0.0]], t)) - constant * np.abs(x)
        sides.append(Sides(np.maximum(excess, 0.0), 0.0, constant * np.abs(x).max()))
    u, w = legendre(64)
    # in t^(1/2), as sigma may start like t^(1/2)
    roots = np.sqrt(case.t) + (np.sqrt(case.s) - np.sqrt(case.t)) * u
    parts = np.array([lipschitz(case, float(r**2), turning=not wrong) for r in roots]) * 2 * roots[:, None]
    outside, halfway = (np.sqrt(case.s) - np.sqrt(case.t)) * (w @ parts)
    density = float(model.log_density([0.0], case.t) - model.log_density([0.0], case.s))
    sides.append(Sides([outside, halfway], [0.5 * np.log(after / before), density], 1 + abs(density)))
    total = abs(np.sqrt(case.s) - np.sqrt(case.t)) * (w @ np.abs(parts).max(axis=1))
    x = model.sample(8, case.t, case.rng)
    moved, unit = quantile_flow(model, x, case.t, case.s), np.eye(8)
    stretch = np.log(np.abs(moved - moved.T + unit) / np.abs(x - x.T + unit))
    # where the larger part changes, Lip has a kink, which the rule feels by some 1e-4: as much is given to the bound
    sides.append(Sides(np.maximum(np.abs(stretch) - 1.001 * total, 0.0), 0.0, 1.0 + total))
    return sides
