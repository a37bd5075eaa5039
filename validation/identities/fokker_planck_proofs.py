r"""The proofs of the continuity and Fokker-Planck equations, line by line: forms, boxes, test functions, clocks.

    two forms       -div(f p) + (g^2 / 2) lap p = -div(v p),  v = f - (g^2 / 2) grad log p,   Var[x_(t+h) | x_t] = g^2 h
    a box           d/dt int_V p = -oint_dV j . n,            -div j is what flows in
    in the weak     d/dt E phi = E[d_t phi + grad phi . f + (g^2 / 2) lap phi],   int lap phi p = + int phi lap p
    the flow        (Psi_(s -> t))_# p_s = p_t both ways; in the clock T - t the velocity has the other sign
    the criterion   d/dt int phi p = int p grad phi . v for all phi  <=>  p is what v carries

The right sides are sums over boxes, edges and bumps, closed characteristic functions, and solvers of moment equations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.dynamics import flow
from refdiff.fokker_planck.currents import outflow
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, LinearProcess, Process, critically_damped_langevin
from refdiff.schedules import FlowMatching, VEPower, VPLinear
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase, ProcessCase
from refdiff.validation.conditions import differentiable, smooth
from refdiff.validation.expectations import grid, small
from refdiff.validation.identities.fokker_planck import TOPIC, panels
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import covariances, cubature, gaussian, smallest_std, well_conditioned
from refdiff.validation.numeric import dot

# ---------------------------------------------------------------------- two forms


@identity(
    "Two forms of the Fokker-Planck equation",
    topic=TOPIC,
    formula=r"-\nabla \cdot (f p) + \tfrac12 g^2 \Delta p"
    r" = -\nabla \cdot \big( (f - \tfrac12 g^2 \nabla \log p)\, p \big)",
    covers=["PODD-76", "PODD-107"],
    control="g^2 in place of g^2 / 2 in the velocity, the drift of the reverse equation",
)
def two_forms(case: ModelCase, wrong: bool) -> Sides:
    """Divided by p: scores and Hessians against Bayes' velocity and its divergence."""
    c, model, x, t = case.process.coefficients(case.t), case.model, case.x, case.t
    s, bend = model.score(x, t), np.einsum("nii->ni", model.hessian(x, t))
    f, g2 = (np.broadcast_to(part, s.shape) for part in (c.f, c.g2))
    left = -f - f * x * s + 0.5 * g2 * (bend + s**2)
    right = -model.velocity_divergence(x, t) - dot(model.velocity(x, t), s)
    if wrong:
        right = right + 0.5 * (g2 * (bend + s**2)).sum(axis=1)
    size = np.abs(f) + np.abs(f * x * s) + 0.5 * g2 * (np.abs(bend) + s**2)
    return Sides(left.sum(axis=1), right, scale=size.sum(axis=1) + np.abs(model.velocity_divergence(x, t)))


@identity(
    "Variance and diffusivity of a short step",
    topic=TOPIC,
    formula=r"\tfrac1h \operatorname{Var}[x_{t+h} | x_t] \to g^2,\quad"
    r" \tfrac{1}{2 h} \mathbb{E}[(x_{t+h} - x_t)^2 | x_t] \to \tfrac12 g^2,\ \text{the factor of } \Delta p",
    covers=["PODD-76"],
    refutes=["PODD-76"],
    over="processes",
    evidence=ORDER,
    control="a variance of g^2 h / 2, as printed",
    needs=smooth,
)
def short_step(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Channels of shorter and shorter steps against the coefficients of the equation."""
    g2, x = float(case.process.diffusion(case.t)), case.rng.standard_normal()
    # within a step the rates change by a fortieth of the way to either end
    steps = min(case.t, case.process.T - case.t) / 40 / 2.0 ** np.arange(6)
    links = [case.process.channel(case.t, case.t + h) for h in steps]
    variances = [link.noise / h for link, h in zip(links, steps, strict=True)]
    squares = [(link.noise + ((link.gain - 1) * x) ** 2) / (2 * h) for link, h in zip(links, steps, strict=True)]
    return [
        Sides(numeric.extrapolate(variances), (0.5 if wrong else 1.0) * g2),
        Sides(numeric.extrapolate(squares), 0.5 * g2),
    ]


# ---------------------------------------------------------------------- a box


def box_of(case: ModelCase) -> tuple[Array, Array]:
    """Corners (d,) of a box near a draw, as wide as a component is along its narrowest axis, or twice that."""
    rng, d = case.rng, case.law.dim
    std = smallest_std(case.model.marginal(case.t))
    middle = case.x[0] + std * rng.uniform(-1, 1, d)
    half = std * rng.uniform(0.5, 1.0, d)
    return middle - half, middle + half


@identity(
    "Mass of a box and flux through its faces",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} \int_V p\,dV = -\oint_{\partial V} j \cdot n\,dS,\quad"
    r" j = p v = p f - \tfrac12 g^2 \nabla p",
    covers=["PODD-77"],
    refutes=["PODD-77"],
    evidence=QUADRATURE,
    tolerance=1e-10,
    control="-div j as what flows out, as printed, so that the rate is the flux through the faces with a plus",
    needs=lambda case: differentiable(case, 3) and case.law.count <= 64,
    most=16,
)
def box(case: ModelCase, wrong: bool) -> list[Sides]:
    """Component rates in time summed over a box, against both forms of the current summed over its faces."""
    model, t = case.model, case.t
    low, high = box_of(case)
    c, here = case.process.coefficients(t), model.marginal(t)
    peak = here.logpdf((low + high) / 2)

    def density(x: Array) -> Array:
        return np.asarray(np.exp(here.logpdf(x) - peak))[:, None]

    def ito(x: Array) -> Array:
        return np.asarray(density(x) * (c.f * x - 0.5 * c.g2 * here.score(x)))

    u, w = numeric.product_rule(numeric.legendre(20), case.law.dim)
    x = low + (high - low) * u
    w = w * np.prod(high - low) * density(x)[:, 0]
    rate, size = w @ model.log_density_rate(x, t), w @ np.abs(model.log_density_rate(x, t))
    sign = 1.0 if wrong else -1.0
    # beside the rate, what flows through all faces together in either direction
    size += outflow(lambda y: np.abs(ito(y)) * np.sign(y - (low + high) / 2), low, high, 20)
    return [
        Sides(rate, sign * outflow(lambda y: density(y) * model.velocity(y, t), low, high, 20), scale=size),
        Sides(rate, sign * outflow(ito, low, high, 20), scale=size),
    ]


# ---------------------------------------------------------------------- test functions


@identity(
    "Test functions that move: Ito's generator and its adjoint",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt}\mathbb{E}\varphi = \mathbb{E}\big[\partial_t\varphi + \nabla\varphi \cdot f"
    r" + \tfrac12 g^2 \Delta\varphi\big] = \int (\varphi\,\partial_t p + p\,\partial_t \varphi),\quad"
    r" \int \Delta\varphi\,p = \int \varphi\,\Delta p",
    covers=["PODD-84"],
    refutes=["PODD-84"],
    evidence=QUADRATURE,
    control="int lap phi p = -int phi lap p and E dphi = 0, as printed",
    needs=lambda case: small(case) and differentiable(case, 2),
    most=12,
)
def moving_test_functions(case: ModelCase, wrong: bool) -> list[Sides]:
    """phi = cos(k . x + t / tau): closed characteristic functions against sums over x_t; and phi = |x|^2 by moments."""
    c, model, t, d = case.process.coefficients(case.t), case.model, case.t, case.law.dim
    here, nodes = model.marginal(t), grid(case, t)
    k = case.rng.standard_normal(d) / np.sqrt(np.diag(here.cov()))
    omega = 1 / t
    f, g2 = (np.broadcast_to(part, (d,)) for part in (c.f, c.g2))
    rate, size = _closed_rate(case, k, omega)
    x, phase = nodes.x, nodes.x @ k + 1.0
    phi, slope = np.cos(phase), -np.sin(phase)[:, None] * k
    bend = np.einsum("nii->ni", model.hessian(x, t)) + nodes.score**2  # d_i^2 p / p
    sign = -1.0 if wrong else 1.0
    parts = [omega * -np.sin(phase), dot(slope, f * x), -0.5 * (k**2 @ g2) * phi]
    size += float(sum(nodes.mean(np.abs(part)) for part in parts))
    on_density = phi * (-f - f * x * nodes.score + 0.5 * sign * g2 * bend).sum(axis=1)
    by_parts = nodes.mean(phi[:, None] * g2 * bend)
    drawn = 2 * f * (np.diag(here.cov()) + here.mean() ** 2)
    squares = drawn + g2
    return [
        Sides(rate, nodes.mean(np.sum(parts, axis=0)), scale=size),
        Sides(rate, nodes.mean(parts[0] + on_density), scale=size + nodes.mean(np.abs(on_density))),
        Sides(-g2 * k**2 * nodes.mean(phi), sign * by_parts, scale=nodes.mean(np.abs(g2 * bend))),
        Sides(_rate_of_squares(case), 0.0 * squares if wrong else squares, scale=np.abs(drawn) + g2),
    ]


def _closed_rate(case: ModelCase, k: Array, omega: float) -> tuple[float, float]:
    """d/dt E cos(k . x_t + omega (t' - t) + 1) at t' = t by characteristic functions, and the size of its terms."""
    c, law, d = case.process.coefficients(case.t), case.law, case.law.dim
    a, da, dv, sigma = (np.broadcast_to(part, (d,)) for part in (c.alpha, c.dalpha, c.dvariance, c.sigma))
    s = covariances(law)
    variance = np.einsum("i,kij,j->k", k * a, s, k * a) + k**2 @ sigma**2
    growth = 2 * np.einsum("i,kij,j->k", k * a, s, k * da) + k**2 @ dv
    terms = np.exp(1j * (law.means @ (k * a) + 1.0) - 0.5 * variance)
    rates = 1j * (law.means @ (k * da) + omega) - 0.5 * growth
    return float(law.weights @ np.real(rates * terms)), float(law.weights @ np.abs(rates))


def _rate_of_squares(case: ModelCase) -> Array:
    """d/dt E x_i^2 = 2 alpha alpha' E x_0i^2 + (sigma^2)', shape (d,)."""
    c, law = case.process.coefficients(case.t), case.law
    return np.asarray(2 * c.alpha * c.dalpha * (np.diag(law.cov()) + law.mean() ** 2) + c.dvariance)


# ---------------------------------------------------------------------- the flow, in both clocks


def every_kind(rng: np.random.Generator) -> list[tuple[Process, int]]:
    """Scalar, per-axis and matrix processes with their dimension, the last with a force and no symmetry."""
    skewed = -0.3 * well_conditioned(rng, 3)
    pushed = LinearProcess(skewed, well_conditioned(rng, 3), 1.0, force=rng.standard_normal(3))
    return [
        (AffineProcess(VPLinear()), 3),
        (AffineProcess(FlowMatching()), 2),
        (AffineProcess([VPLinear(), VEPower(0.5, T=1.0)]), 2),
        (critically_damped_langevin(1), 2),
        (pushed, 3),
    ]


@identity(
    "The probability flow keeps the marginals in both clocks",
    topic="Equal marginals and the probability flow",
    formula=r"\dot x = \tilde f(x, t):\ (\Psi_{s \to t})_\# p_s = p_t;\quad"
    r" \tau = T - t:\ \tfrac{dx}{d\tau} = -\tilde f(x, T - \tau),"
    r"\ \partial_\tau \tilde p = \nabla \cdot (\tilde f \tilde p)",
    covers=["PODD-107"],
    over="once",
    evidence=QUADRATURE,
    control="the velocity of the backward clock with the sign of the forward one",
)
def both_clocks(case: Case, wrong: bool) -> list[Sides]:
    """Points that carry a Gaussian's moments through an affine flow, by DOP853, against the pushed law."""
    rng, found = case.rng, []
    for process, dim in every_kind(rng):
        data = gaussian(rng, dim)
        model, (s, t) = ExactModel(data, process), np.array([0.4, 0.6]) * process.T
        for start, end in ((s, t), (t, s)):
            points, weights = cubature(model.marginal(start))
            back = end < start
            sign = -1.0 if back and not wrong else 1.0

            def rate(clock: float, y: Array, model: ExactModel = model, back: bool = back, sign: float = sign) -> Array:
                at = model.process.T - clock if back else clock
                return np.asarray(sign * model.velocity(y.reshape(-1, model.dim), at)).ravel()

            span = (process.T - start, process.T - end) if back else (start, end)
            moved = (
                solve_ivp(rate, span, points.ravel(), "DOP853", rtol=1e-10, atol=1e-11).y[:, -1].reshape(points.shape)
            )
            law = model.marginal(end)
            centred = moved - weights @ moved
            size = np.trace(law.cov()) + law.mean() @ law.mean() + np.trace(model.marginal(start).cov())
            found += [
                Sides(weights @ moved, law.mean(), scale=np.sqrt(size)),
                Sides((weights[:, None] * centred).T @ centred, law.cov(), scale=size),
            ]
    return found


# ---------------------------------------------------------------------- the criterion


def bump(centre: Array, width: float) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """exp(-|x - c|^2 / 2 w^2) and its gradient as functions of points (n, d): centre c (d,) and width w, a scalar."""

    def value(x: Array) -> Array:
        return np.asarray(np.exp(-0.5 * np.square((x - centre) / width).sum(axis=1)))

    return value, lambda x: -(x - centre) / width**2 * value(x)[:, None]


@identity(
    "Mass conservation is the continuity equation in the weak sense",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} \int p\,\varphi = \int p\,\nabla\varphi \cdot v \ \Leftrightarrow\ p = (\Psi_t)_\# p_0",
    covers=["PODD-112"],
    evidence=QUADRATURE,
    tolerance=1e-10,
    control="the drift of the reverse equation, f - g^2 grad log p, as the velocity",
    needs=lambda case: differentiable(case, 2) and case.law.count <= 64,
    most=12,
)
def criterion(case: ModelCase, wrong: bool) -> Sides:
    """Component rates in time against the velocity, both under a Gaussian bump near a draw."""
    model, x0, t = case.model, case.x[0], case.t
    here, c = model.marginal(t), case.process.coefficients(t)
    std = smallest_std(here)
    phi, slope = bump(x0, 1.5 * std)
    line = numeric.ticks(-12.0, 12.0, 1 / 8) * std  # e^-32 of the bump at its ends; the step as in `Grid`
    x = x0 + numeric.lattice(*[line] * case.law.dim)
    x = x[np.square(x - x0).sum(axis=1) < line[-1] ** 2]
    w = np.exp(here.logpdf(x) - here.logpdf(x0))
    v = c.f * x - c.g2 * here.score(x) if wrong else model.velocity(x, t)
    rate, carried = phi(x) * model.log_density_rate(x, t), dot(slope(x), v)
    return Sides(w @ rate, w @ carried, scale=w @ (np.abs(rate) + np.abs(carried)))


@identity(
    "What a velocity carries solves the continuity equation, and nothing else does",
    topic=TOPIC,
    formula=r"\int p_s(y)\,\varphi(\Psi_{s \to t}(y))\,dy = \int p_t\,\varphi,\quad"
    r" p_t(\Psi(y))\,|\det \nabla \Psi(y)| = p_s(y)",
    covers=["PODD-112"],
    evidence=QUADRATURE,
    control="a determinant of 1, as if v were free of divergence",
    needs=lambda case: differentiable(case, 1) and case.law.count <= 3 and case.t / case.process.T < 0.5,
    most=3,
)
def characteristics(case: ModelCase, wrong: bool) -> list[Sides]:
    """Points through the flow from s to t, with their volumes, against bumps' closed integrals and densities at t."""
    model, end = case.model, case.model.marginal(case.t)
    y, w = panels(model.marginal(case.s))
    start = model.log_density(y[:, None], case.s)
    kept = w * np.exp(start) > 1e-14 * np.max(w * np.exp(start))
    y, w, start = y[kept], w[kept], start[kept]
    moved = flow(model, y[:, None], case.s, case.t, log_density=True, rtol=1e-11, atol=1e-12)
    width = float(np.sqrt(end.cov()[0, 0]))
    centres = end.mean()[0] + width * np.array([-1.0, 0.0, 1.0])
    found = [w * np.exp(start) @ bump(np.array([m]), width)[0](moved.x) for m in centres]
    closed = np.sqrt(2 * np.pi) * width * np.exp(end.convolve(width**2).logpdf(centres[:, None]))
    change = np.zeros(len(y)) if wrong else np.asarray(moved.log_density_change)
    middle = np.abs(y - y @ (w * np.exp(start))) < 3 * np.sqrt(model.marginal(case.s).cov()[0, 0])
    at_end = end.logpdf(moved.x)
    return [
        Sides(found, closed, scale=1.0),
        Sides((start + change)[middle], at_end[middle], scale=1 + np.abs(at_end[middle])),
    ]
