r"""Neural ODEs: where they take a law, and gradients of a loss along them by the adjoint equation.

    x(T) = x(0) + int_0^T v dt,   x(0) ~ prior at t = 0, data at t = T (the clock of the source's footnote)
    a' = -(dv/dx)' a - dl/dx,     dL/dx_0 = a(0),   dL/dtheta = int_0^T (dv/dtheta)' a + dl/dtheta dt,
    dL/dT = a.v + l at T,         dL/dt_0 = -(a.v + l) at t_0
    log p(x, T) = log prior(z) - int_0^T div v dt:   a loss of the way back from x to z

Second routes: derivatives of the matrix exponential, forward sensitivities with Jacobians, stencils of closed laws.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm, expm_frechet

from refdiff.arguments import Array
from refdiff.dynamics import (
    Integrand,
    ParametricField,
    adjoint,
    discrete_adjoint,
    linear_field,
    node_likelihood,
    tanh_field,
)
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import one_gaussian, smooth
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import cubature, gaussian, gaussian_flow, log_normal, noised_variance
from refdiff.validation.numeric import derivative, extrapolate, legendre

TOPIC = "Normalizing flows"
DURATION = 1.1


# ---------------------------------------------------------------------- where the points go


def instants(case: ModelCase) -> list[tuple[float, float]]:
    """Times and weights for an integral from s to t, on panels that halve towards s: schedules bend on the scale of s.

    A pole at twice a panel's length from its middle leaves 7.9^-32 = 2e-29 with 16 nodes, one at its length 3.7^-32.
    """
    nodes, weights = legendre(16)
    cuts = case.s + (case.t - case.s) * np.append(0.0, 0.5 ** np.arange(5)[::-1])
    starts, lengths = cuts[:-1, None], np.diff(cuts)[:, None]
    return list(zip((starts + lengths * nodes).ravel().tolist(), (lengths * weights).ravel().tolist(), strict=True))


@identity(
    "Sampling from a neural ODE with the exact field",
    topic=TOPIC,
    formula=r"x(T) = x(0) + \int_0^T v(x(t), t)\, dt:\quad p(\cdot, 0) = p_{prior} \Rightarrow p(\cdot, T) = p_{data}",
    covers=["PODB-27", "PODB-22"],
    refutes=["PODB-22"],
    evidence=QUADRATURE,
    control="the law at t = 0 for the data's, as printed ('the terminal distribution at t = 0')",
    needs=lambda case: one_gaussian(case) and smooth(case) and case.law.dim <= 16,
)
def sampling(case: ModelCase, wrong: bool) -> list[Sides]:
    """Velocities integrated along closed paths from the noisier law: where they end, and the law that they make there.

    The node's clock runs against diffusion time: its 0 is t, its T is s.
    """
    model, schedule = case.model, case.process.schedules[0]
    before, after = model.marginal(case.t), model.marginal(case.s)
    x, weights = cubature(before)
    integral, size = np.zeros_like(x), np.zeros_like(x)
    for u, weight in instants(case):
        v = model.velocity(gaussian_flow(case.law, schedule, case.t, u, x), u)
        integral, size = integral + weight * v, size + weight * np.abs(v)
    ends = x if wrong else x - integral
    mean = weights @ ends
    spread = (weights[:, None] * (ends - mean)).T @ (ends - mean)
    reach = np.abs(x).max() + size.max()
    return [
        Sides(x - integral, gaussian_flow(case.law, schedule, case.t, case.s, x), scale=reach),
        Sides(mean, after.mean(), scale=reach),
        Sides(spread, after.cov(), scale=reach**2),
    ]


@identity(
    "Volume of the flow of Gaussian data",
    topic=TOPIC,
    formula=r"\det \partial_x \Psi_{s \to t} = \prod_i \sqrt{V_i(t) / V_i(s)} = \exp \int_s^t \nabla \cdot v\, du",
    covers=["PODD-72", "PODB-27"],
    evidence=QUADRATURE,
    control="the ratio of variances without the root",
    needs=lambda case: one_gaussian(case) and smooth(case) and case.law.dim <= 16,
)
def volume(case: ModelCase, wrong: bool) -> Sides:
    """The divergence of the model's velocity, the same at every point, summed over time against eigenvalues."""
    schedule, values = case.process.schedules[0], np.maximum(np.linalg.eigvalsh(case.law.cov()), 0.0)
    v = [noised_variance(schedule.coefficients(u), values) for u in (case.s, case.t)]
    total = sum(weight * float(case.model.velocity_divergence(case.x[0], u)) for u, weight in instants(case))
    exact = np.log(v[1] / v[0]).sum()
    return Sides(total, exact if wrong else exact / 2, scale=1 + np.abs(np.log(v[1] / v[0])).sum())


# ---------------------------------------------------------------------- gradients


def transposed(field: ParametricField) -> ParametricField:
    """The field with (dv/dx) a for (dv/dx)' a."""

    def pull(x: Array, t: float, a: Array) -> tuple[Array, Array]:
        in_x, _ = field.jacobians(x, t)
        return np.einsum("nij,nj->ni", in_x, a), field.pulled(x, t, a)[1]

    return ParametricField(field.dim, field.parameters, field.velocity, pull, field.divergence)


def block(theta: Array, dim: int) -> Array:
    """[[W, b], [0, 0]] of theta = (W, b), W of shape (dim, dim): its exponential moves (x, 1)."""
    rows = np.concatenate([theta[: dim * dim].reshape(dim, dim), theta[dim * dim :, None]], axis=1)
    return np.concatenate([rows, np.zeros((1, dim + 1))])


@identity(
    "Adjoint of a linear neural ODE",
    topic=TOPIC,
    formula=r"\dot x = W x + b:\quad \frac{dL}{d\theta} = \int_0^T a^\top \partial_\theta v\, dt"
    r" = \nabla L^\top\, D \exp(T M)[T \partial_\theta M] \binom{x_0}{1}",
    covers=["PODB-26"],
    over="once",
    evidence=QUADRATURE,
    control="a' = -(dv/dx) a, without the transpose",
)
def linear(case: Case, wrong: bool) -> list[Sides]:
    """The adjoint by DOP853, both ways to hold states, against Frechet derivatives of the matrix exponential."""
    rng, d = case.rng, 3
    theta, x = 0.7 * rng.standard_normal(d * d + d), rng.standard_normal((4, d))
    field = linear_field(theta[: d * d].reshape(d, d), theta[d * d :])
    m, ends = DURATION * block(theta, d), np.append(x, np.ones((4, 1)), axis=1)
    whole = expm(m)
    reached = (ends @ whole.T)[:, :d]
    slopes = []
    for e in np.eye(len(theta)):
        moved = ends @ expm_frechet(m, DURATION * block(e, d), compute_expm=False).T
        slopes.append((moved[:, :d] * reached).sum(axis=1))
    rate = (reached * (reached @ theta[: d * d].reshape(d, d).T + theta[d * d :])).sum(axis=1)
    sides = []
    for states in ("stored", "again"):
        chosen = transposed(field) if wrong else field
        found = adjoint(chosen, x, 0.0, DURATION, lambda y: y, states=states, rtol=1e-12, atol=1e-13)
        sides += [
            Sides(found.x, reached),
            Sides(found.point, reached @ whole[:d, :d]),
            Sides(found.parameters, np.stack(slopes, axis=1)),
            Sides(found.end, rate, scale=np.abs(reached).max() ** 2 * 3),
            Sides(found.start, -rate, scale=np.abs(reached).max() ** 2 * 3),
        ]
    return sides


def network(rng: np.random.Generator, dim: int, width: int = 4) -> ParametricField:
    """A network on R^dim of one layer of that width with time in it, drawn from `rng`."""
    parts = [(dim, width), (width, dim), (width,), (width,)]
    return tanh_field(*(0.8 * rng.standard_normal(shape) for shape in parts))


def forward_sensitivity(field: ParametricField, cost: Integrand, x: Array, end: float) -> Array:
    """[dL/dx_0, dL/dtheta] of |x(end)|^2 / 2 + int cost dt along the field, for one point x (d,), carried forward."""
    d, p = field.dim, field.parameters

    def slope(t: float, state: Array) -> Array:
        at, moved = state[None, :d], state[d : d + d * (d + p)].reshape(d, d + p)
        (in_x,), (in_theta,) = field.jacobians(at, t)
        (cost_x,), (cost_theta,) = (np.asarray(part) for part in cost.gradient(at, t))
        rates = in_x @ moved + np.append(np.zeros((d, d)), in_theta, axis=1)
        return np.concatenate(
            [field.slope(at, t)[0], rates.ravel(), cost_x @ moved + np.append(np.zeros(d), cost_theta)]
        )

    state = np.concatenate([x, np.append(np.eye(d), np.zeros((d, p)), axis=1).ravel(), np.zeros(d + p)])
    y = solve_ivp(slope, (0.0, end), state, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    return np.asarray(y[:d] @ y[d : d + d * (d + p)].reshape(d, d + p) + y[d + d * (d + p) :])


@identity(
    "Adjoint of terminal and running losses",
    topic=TOPIC,
    formula=r"a' = -(\partial_x v)^\top a - \partial_x l,\quad \frac{dL}{d\theta}"
    r" = \int_0^T (\partial_\theta v)^\top a + \partial_\theta l\, dt",
    covers=["PODB-26"],
    over="once",
    evidence=QUADRATURE,
    control="the running loss's own gradient in x left out of a'",
)
def running(case: Case, wrong: bool) -> list[Sides]:
    """A network with time in it and div v for the running loss, against forward sensitivities with full Jacobians."""
    field = network(case.rng, 2)
    cost, x = field.divergence, case.rng.standard_normal((2, 2))
    assert cost is not None
    used = Integrand(cost.value, lambda y, t: (0 * y, cost.gradient(y, t)[1])) if wrong else cost
    found = adjoint(field, x, 0.0, DURATION, lambda y: y, used, rtol=1e-12, atol=1e-13)
    exact = np.stack([forward_sensitivity(field, cost, one, DURATION) for one in x])
    return [Sides(found.point, exact[:, :2]), Sides(found.parameters, exact[:, 2:])]


@identity(
    "Discretise then differentiate tends to the adjoint",
    topic=TOPIC,
    formula=r"x_{k+1} = x_k + h\,v_\theta(x_k):\quad \nabla L_h \to \nabla L,\quad"
    r" |\nabla L_h - \nabla L| / |\nabla L_{h/2} - \nabla L| \to 2",
    covers=["PODB-26", "PODB-22"],
    over="once",
    evidence=ORDER,
    control="(dv/dx) w in the recursion, without the transpose",
)
def discrete(case: Case, wrong: bool) -> list[Sides]:
    """Reverse recursions of Euler's steps, extrapolated in their number, against the adjoint; and their first order."""
    field = network(case.rng, 2)
    x = case.rng.standard_normal((2, 2))
    duration = DURATION / 3  # 16 steps on which Euler's expansion has set in
    exact = adjoint(field, x, 0.0, duration, lambda y: y, field.divergence, rtol=1e-12, atol=1e-13)
    steps = (16, 32, 64, 128, 256)
    used = transposed(field) if wrong else field
    found = [discrete_adjoint(used, x, 0.0, duration, n, lambda y: y, field.divergence) for n in steps]
    sides = [
        Sides(extrapolate([one.point for one in found]), exact.point),
        Sides(extrapolate([one.parameters for one in found]), exact.parameters),
    ]
    gaps = [float(np.linalg.norm(one.parameters - exact.parameters)) for one in found]
    sides.append(Sides(extrapolate([np.asarray(a / b) for a, b in pairwise(gaps)]), 2.0))
    return sides


@identity(
    "Gradient of a neural ODE's likelihood",
    topic=TOPIC,
    formula=r"\nabla_\theta \log p_\theta(x, T)"
    r" = \nabla_\theta \left[\log p_{prior}(z) - \int_0^T \nabla \cdot v_\theta\, dt\right]",
    covers=["PODB-26", "PODB-18"],
    over="once",
    evidence=DERIVATIVE,
    control="without the gradient of the divergence",
)
def likelihood(case: Case, wrong: bool) -> list[Sides]:
    """The adjoint of a linear field against stencils of the closed Gaussian density, in theta, x and T."""
    rng, d = case.rng, 2
    theta, x = 0.7 * rng.standard_normal(d * d + d), rng.standard_normal((3, d))
    prior = gaussian(rng, d)

    def log_p(at: Array, y: Array, duration: float) -> Array:
        whole = expm(duration * block(at, d))
        gain, shift = whole[:d, :d], whole[:d, d]
        return log_normal(y, gain @ prior.mean() + shift, gain @ prior.cov() @ gain.T)

    def along(e: Array, y: Array | None = None) -> Callable[[float], Array]:
        """In theta along e, or in x along y."""
        return lambda u: log_p(theta + u * e, x if y is None else x + u * y, DURATION)

    field = linear_field(theta[: d * d].reshape(d, d), theta[d * d :])
    if wrong:
        zeros = Integrand(
            lambda y, _: np.full(len(y), np.trace(theta[: d * d].reshape(d, d))),
            lambda y, _: (0 * y, np.zeros((len(y), len(theta)))),
        )
        field = ParametricField(d, len(theta), field.velocity, field.pull, zeros)
    value, found = node_likelihood(field, prior, x, 0.0, DURATION, rtol=1e-12, atol=1e-13)
    in_theta = np.stack([derivative(along(e), 0.0, 0.01) for e in np.eye(len(theta))], axis=1)
    in_x = np.stack([derivative(along(0 * theta, y), 0.0, 0.02) for y in np.eye(d)], axis=1)
    return [
        Sides(value, log_p(theta, x, DURATION)),
        Sides(found.parameters, in_theta),
        Sides(found.point, in_x),
        Sides(
            found.start, derivative(lambda u: log_p(theta, x, DURATION + u), 0.0, 0.01), scale=np.abs(in_theta).max()
        ),
    ]
