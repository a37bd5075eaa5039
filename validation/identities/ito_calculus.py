r"""Ito's formula: along paths, on average, for products, and for log p_t along the noising itself.

    x_N^2 = x_0^2 + 2 sum x dx + sum dx^2                  whatever the path: what the ordinary chain rule leaves out
    d/dt E h = E[d_t h + b . grad h + 1/2 tr(D Hess h)]    Gaussian moments against quadrature of the generator
    d(x . y) = x . dy + y . dx + tr(G_x G_y') dt           d b(t) d(t) dt for one noise in d dimensions

For h = log p_t the Fokker-Planck equation takes d_t out: L log p = -div f + tr(D Hess log p) + |grad log p|_D^2 / 2.
The source's E[x_t dw_t] = E[x_t] E[dw_t] holds because dw_t is the increment ahead, and its E x_t^2 = sigma^2 t for
x_0 = 0, neither of which it says. Its (dx)^2 = g^2 dt + O(dt^(3/2)) is true of no step: (dw)^2 - dt has mean 0 and
deviation sqrt(2) dt, of the order of dt itself, and it is in the sum over 1 / dt steps only that it is lost.
"""

from __future__ import annotations

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.path_measures.ito import Smooth, covariation, generator, ito_residual
from refdiff.processes import LinearProcess
from refdiff.stochastic import StochasticEquation, forward_equation
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase, ProcessCase
from refdiff.validation.identity import DERIVATIVE, ORDER, Sides, identity
from refdiff.validation.laws import cubature, noised_variance

TOPIC = "Ito's calculus"


def square(dim: int) -> Smooth:
    """|x|^2 on R^d, d = `dim`."""
    return Smooth(
        lambda x, t: (x * x).sum(axis=1),
        lambda x, t: 2 * x,
        lambda x, t: np.broadcast_to(2 * np.eye(dim), (len(x), dim, dim)),
    )


@identity(
    "The ordinary chain rule fails for a square",
    topic=TOPIC,
    formula=r"x_N^2 = x_0^2 + 2 \sum x_i \Delta x_i + \sum \Delta x_i^2;\quad dx = \sigma\, dw:\ "
    r"d(x^2) = 2 x \sigma\, dw + \sigma^2 dt,\ \mathbb{E} x_t^2 = x_0^2 + \sigma^2 t",
    covers=["PODD-80"],
    over="once",
    control="d(x^2) = 2 x dx: the square would keep its mean",
)
def square_of_a_path(case: Case, wrong: bool) -> list[Sides]:
    """Any path has the discrete identity; its mean over Brownian increments by nodes that are exact for polynomials."""
    rng, dim, sigma, steps = case.rng, 3, case.rng.uniform(0.5, 2.0), 4
    equation = StochasticEquation(lambda x, t: np.zeros_like(x), lambda t: sigma, dim)
    times = np.append(0.0, np.cumsum(rng.uniform(0.1, 0.5, steps)))
    paths = rng.standard_normal((steps + 1, 5, dim)).cumsum(axis=0)
    left = ito_residual(equation, square(dim), paths, times, second_order=not wrong)
    growth = covariation(paths, paths) - dim * sigma**2 * times[-1]
    # one coordinate, one increment a step: three nodes each average polynomials of degree 5
    z, w = numeric.product_rule(numeric.hermite(3), steps)
    start = rng.standard_normal()
    walk = start + np.cumsum(sigma * np.sqrt(np.diff(times)) * z, axis=1)
    walks = np.concatenate([np.full((len(z), 1), start), walk], axis=1).T[:, :, None]
    one = StochasticEquation(lambda x, t: np.zeros_like(x), lambda t: sigma, 1)
    residual = ito_residual(one, square(1), walks, times, second_order=not wrong)
    # its variance sum 2 D^2 h^2 is what makes it fall like the square root of the step
    spread = (2 * sigma**4 * np.diff(times) ** 2).sum()
    return [
        Sides(left, growth, scale=covariation(paths, paths) + 1),
        Sides(w @ walks[-1, :, 0] ** 2, start**2 + sigma**2 * times[-1]),
        Sides(w @ residual, 0.0, scale=sigma**2 * times[-1]),
        Sides(w @ residual**2, spread, scale=spread),
    ]


def wave(slope: complex, shift: float, bend: float) -> Smooth:
    """The real part of exp(slope x + shift t) on the line, its second derivative times `bend`."""

    def derivative(x: Array, t: float, order: int) -> Array:
        return np.asarray(np.real(slope**order * np.exp(slope * x[:, 0] + shift * t)))

    return Smooth(
        lambda x, t: derivative(x, t, 0),
        lambda x, t: derivative(x, t, 1)[:, None],
        lambda x, t: bend * derivative(x, t, 2)[:, None, None],
        lambda x, t: shift * derivative(x, t, 0),
    )


@identity(
    "Ito's formula on the line, on average",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} \mathbb{E} h(x_t, t) = \mathbb{E}\left[\partial_t h + f h_x + \tfrac12 g^2 h_{xx}\right],"
    r"\quad h = e^{a x + b t},\ \sin(a x + b t)",
    covers=["PODD-81"],
    over="processes",
    control="without the second-order term",
)
def mean_rate(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Characteristic functions of Gaussian data, differentiated by the rates of their moments, against quadrature."""
    rng, t = case.rng, case.t
    c, data = case.schedule.coefficients(t), Gaussian([rng.normal()], rng.uniform(0.3, 1.5))
    mean, variance = c.alpha * data.mean()[0], float(noised_variance(c, data.cov()[0, 0]))
    dmean = c.f * mean
    dvariance = 2 * c.f * variance + c.g2
    equation = forward_equation(case.process, 1)
    z, w = numeric.hermite(60)
    x = (mean + np.sqrt(variance) * z)[:, None]
    found = []
    for slope in (0.8 / np.sqrt(variance), 0.8j / np.sqrt(variance)):
        shift = 0.3 / case.process.T
        # E exp(slope x + shift t), an exponential or a wave
        whole = np.exp(slope * mean + slope**2 * variance / 2 + shift * t)
        rate = whole * (slope * dmean + slope**2 * dvariance / 2 + shift)

        h = wave(slope, shift, 0.0 if wrong else 1.0)
        size = np.abs(whole) * (np.abs(slope) * np.abs(dmean) + np.abs(slope) ** 2 * c.g2 + np.abs(shift))
        size = size + w @ np.abs(equation.drift_at(x, t) * h.gradient_at(x, t)).sum(axis=1)
        found.append(Sides(w @ generator(equation, h, x, t), np.real(rate), scale=size))
    return found


@identity(
    "Ito's formula in several dimensions: quadratics of linear equations",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} \mathbb{E}\, x^\top B x = \mathbb{E}\left[2 x^\top B (F x + u) + \mathrm{tr}(D B)\right]"
    r" = \mathrm{tr}(B \dot P) + 2 m^\top B \dot m",
    covers=["PODD-82", "PODD-88"],
    over="once",
    evidence=DERIVATIVE,
    control="D = I in tr(D B)",
)
def quadratics(case: Case, wrong: bool) -> list[Sides]:
    """The generator by cubature over a Gaussian against a stencil in time of the moments of exact channels."""
    rng, dim = case.rng, 3
    root, noise, b = rng.standard_normal((3, dim, dim))
    b = b + b.T
    process = LinearProcess(root - 2 * np.eye(dim), noise, force=rng.standard_normal(dim))
    law = Gaussian(rng.standard_normal(dim), np.eye(dim) + noise @ noise.T / 4)
    equation = forward_equation(process, dim)
    if wrong:
        equation = StochasticEquation(equation.drift, lambda t: np.ones(()), dim)
    t = 0.3
    x, w = cubature(process.channel(0.0, t).push(law))
    h = Smooth(
        lambda y, t: np.einsum("ni,ij,nj->n", y, b, y),
        lambda y, t: 2 * y @ b,
        lambda y, t: np.broadcast_to(2 * b, (len(y), dim, dim)),
    )

    def mean_square(time: float) -> float:
        pushed = process.channel(0.0, time).push(law)
        return float(np.trace(b @ pushed.cov()) + pushed.mean() @ b @ pushed.mean())

    values = generator(equation, h, x, t)
    rate = numeric.derivative(lambda u: np.array(mean_square(t + u)), 0.0, 0.01)
    return [Sides(w @ values, rate, scale=w @ np.abs(values))]


@identity(
    "Ito's formula for the log density along the noising",
    topic=TOPIC,
    formula=r"\mathcal{L} \log p_t = \partial_t \log p_t + f \cdot \nabla \log p_t + \tfrac12 g^2 \Delta \log p_t"
    r" = -\nabla \cdot f + g^2 \Delta \log p_t + \tfrac12 g^2 |\nabla \log p_t|^2",
    covers=["PODD-82"],
    control="the ordinary chain rule: no second-order term in the generator",
)
def log_density(case: ModelCase, wrong: bool) -> Sides:
    """Component rates in time, drift and Hessian by the library's generator, against score and Hessian alone."""
    c, x, t, dim = case.process.coefficients(case.t), case.x, case.t, case.law.dim
    h = Smooth.log_density(case.model)
    if wrong:
        h = Smooth(h.value, h.gradient, lambda y, u: np.zeros((*y.shape, dim)), h.rate)
    left = generator(forward_equation(case.process, dim), h, x, t)
    s, bend = case.model.score(x, t), np.einsum("nii->ni", case.model.hessian(x, t))
    f, g2 = np.broadcast_to(c.f, dim), np.broadcast_to(c.g2, dim)
    right = (-f + g2 * bend + 0.5 * g2 * s**2).sum(axis=1)
    size = np.abs(f) * (1 + np.abs(x * s)) + g2 * (np.abs(bend) + s**2)
    return Sides(left, right, scale=size.sum(axis=1))


@identity(
    "Ito's product rule",
    topic=TOPIC,
    formula=r"d(x^\top y) = (dx)^\top y + x^\top dy + D\, b(t)\, d(t)\, dt;\quad dx = -a x\, dt + b\, dw,\ "
    r"dy = -c y\, dt + d\, dw:\ \mathbb{E}\, x^\top y = e^{-(a + c) t} x_0^\top y_0"
    r" + D b d \tfrac{1 - e^{-(a + c) t}}{a + c}",
    covers=["PODD-83"],
    over="once",
    control="without the correction, as for independent noises",
)
def product_rule(case: Case, wrong: bool) -> list[Sides]:
    """Both as one linear equation with one noise, whose exact channel has the cross-covariance; and along any path."""
    rng, dim, t = case.rng, 3, case.rng.uniform(0.5, 2.0)
    a, c, b, d = rng.uniform(0.3, 1.5, 4)
    both = LinearProcess(np.diag(np.repeat([-a, -c], dim)), np.vstack([b * np.eye(dim), d * np.eye(dim)]), T=float(t))
    x0, y0 = rng.standard_normal((2, dim))
    step = both.channel(0.0, float(t))
    mean = operators.apply(step.gain, np.append(x0, y0))
    cross = mean[:dim] @ mean[dim:] + np.trace(step.noise[:dim, dim:])
    rate = a + c
    correction = 0.0 if wrong else dim * b * d * -np.expm1(-rate * t) / rate
    x, y = rng.standard_normal((2, 6, 4, dim))
    sums = (np.diff(x, axis=0) * y[:-1] + x[:-1] * np.diff(y, axis=0)).sum(axis=(0, 2))
    whole = (x[-1] * y[-1] - x[0] * y[0]).sum(axis=1)
    return [
        Sides(cross, np.exp(-rate * t) * (x0 @ y0) + correction, scale=np.abs(cross) + 1),
        Sides(whole, sums + (0.0 if wrong else covariation(x, y)), scale=(np.abs(x) * np.abs(y)).sum()),
    ]


@identity(
    "A squared increment is dt on average only",
    topic=TOPIC,
    formula=r"(\Delta x)^2 = g^2 \Delta t\, (1 + \zeta),\ \mathbb{E} \zeta \to 0,\ \mathbb{E} \zeta^2 \to 2;\quad"
    r" \sum (\Delta x)^2 - g^2 T = O(\sqrt{\Delta t})",
    covers=["PODD-81"],
    refutes=["PODD-81"],
    over="once",
    evidence=ORDER,
    control="(dx)^2 = g^2 dt + O(dt^(3/2)) at each step, as printed: a spread that vanishes beside dt",
)
def squared_increment(case: Case, wrong: bool) -> list[Sides]:
    """Steps of a bent drift, by quadrature over their noise; the sum over a unit of time has 1 / h of them."""
    rng, start = case.rng, case.rng.standard_normal()
    slope, g = rng.uniform(0.5, 2.0, 2)
    z, w = numeric.hermite(8)
    means, spreads, sums = [], [], []
    for h in 0.02 / 2.0 ** np.arange(5):
        dx = np.sin(slope * start) * h + g * np.sqrt(h) * z
        zeta = dx**2 / (g**2 * h) - 1
        means.append(np.array(w @ zeta))
        spreads.append(np.array(w @ zeta**2))
        sums.append(np.array(w @ (dx**2 - g**2 * h) ** 2 / h**2))  # the variance of 1 / h steps, over h
    return [
        Sides(numeric.extrapolate(means), 0.0, scale=1.0),
        Sides(numeric.extrapolate(spreads), 0.0 if wrong else 2.0, scale=2.0),
        Sides(numeric.extrapolate(sums), 2 * g**4),
    ]
