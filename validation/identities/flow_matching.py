r"""Flow matching between any two laws: what is regressed, what moves, and which marginals are kept.

Pairs of mixtures coupled in any way, point sets with mixtures, Gaussians with any cross-covariance, maps with noise:
with numbers a, b, c or with none x_t = a x_0 + b x_1 + c z is a mixture, its velocity a weighted mean of affine fields.
Here these are held against sums over pairs that know no density, against stencils of the density in space and time,
against Bayes' rule in the frame of a noising process, and against where the flow takes points.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, random_mixture
from refdiff.distributions.quantiles import monotone_map
from refdiff.dynamics import field_flow
from refdiff.interpolants import (
    InterpolantModel,
    ScalarInterpolant,
    brownian,
    carry,
    from_schedule,
    linear,
    trigonometric,
)
from refdiff.processes import AffineProcess
from refdiff.transport import PairLaw, independent
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import scalar, smooth
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, divergence, dot, extrapolate, lattice
from refdiff.validation.pairs import line, nodes, several

TOPIC = "Flow matching"
WAYS = {"linear": linear(), "noisy": linear(0.4), "trigonometric": trigonometric(0.3), "Brownian": brownian(0.5)}


def models(case: Case, dim: int, *ways: str) -> list[InterpolantModel]:
    """Every coupling of a case in `dim` dimensions with these ways to join it."""
    rng = case.rng
    return [InterpolantModel(pairs, WAYS[way]) for pairs in several(rng, dim).values() for way in ways]


# ---------------------------------------------------------------------- paths and regression


@identity(
    "Interpolated trajectories lead from one end to the other",
    topic=TOPIC,
    formula=r"x_t = \phi_t(x_0, x_T),\quad \phi_0 = x_0,\ \phi_T = x_T:\qquad \frac{dx_t}{dt} ="
    r" \frac{\partial\phi_t}{\partial t}(x_0, x_T)",
    covers=["TOPB-67", "DMI-60"],
    refutes=["TOPB-67"],
    over="once",
    control="phi_t(x_t, x_0) as printed: the path starts from x_t and ends in x_0",
    evidence=DERIVATIVE,
)
def trajectories(case: Case, wrong: bool) -> list[Sides]:
    """Ends and stencils of paths of drawn pairs against the two points and the conditional velocity."""
    rng = case.rng
    sides = []
    for model in models(case, 2, "linear", "Brownian"):
        x0, x1 = model.pairs.sample(4, rng)
        z, t = rng.standard_normal(x0.shape), 0.2 + 0.6 * rng.random()

        def path(u: float, model: InterpolantModel = model, x0: Array = x0, x1: Array = x1, z: Array = z) -> Array:
            now = model.interpolant.at(u)
            first, second = (now.first * x0 + now.second * x1, x0) if wrong else (x0, x1)
            return np.asarray(now.first * first + now.second * second + np.sqrt(now.noise) * z)

        rate = model.conditional_velocity(path(t), x0, x1, t)
        size = np.abs(x0).max() + np.abs(x1).max() + np.abs(rate).max()
        sides += [Sides(path(0.0), x0, size), Sides(path(1.0), x1, size), Sides(derivative(path, t, 0.01), rate, size)]
    return sides


@identity(
    "The velocity is what regression on pairs finds",
    topic=TOPIC,
    formula=r"\mathbb{E}\,\psi(x_t) \frac{\partial\phi_t}{\partial t}(x_0, x_1) = \mathbb{E}\,\psi(x_t) v(x_t, t)"
    r"\quad \text{for every } \psi",
    covers=["TOPB-68", "DMI-61", "PODB-33"],
    over="once",
    control="the velocity of independent pairs for those of another coupling",
    evidence=QUADRATURE,
)
def regression(case: Case, wrong: bool) -> list[Sides]:
    """Sums over pairs and noise, exact for polynomials psi, against sums over x_t of psi v with the model's v."""
    rng = case.rng
    sides = []
    for model in models(case, 1, "noisy", "Brownian"):
        t, found = 0.2 + 0.6 * rng.random(), nodes(model.pairs)
        x, share = line(model.marginal(t))
        moved, rates = found.joined(model.interpolant, t), found.rates(model.interpolant, t)
        used = InterpolantModel(_unpaired(model.pairs), model.interpolant) if wrong else model
        v = used.velocity(x, t)
        scale = float(np.sqrt(share @ x[:, 0] ** 2))
        for power in range(5):
            tests = ((moved[:, 0] / scale) ** power, (x[:, 0] / scale) ** power)
            size = found.weights @ (np.abs(tests[0]) * (1 + np.abs(rates[:, 0])))
            sides.append(Sides(found.weights @ (tests[0] * rates[:, 0]), share @ (tests[1] * v[:, 0]), size))
    return sides


def _unpaired(pairs: PairLaw) -> PairLaw:
    """Independent pairs of the same two laws."""
    return independent(pairs.first, pairs.second)


@identity(
    "Two targets of rectified flow are one on every path",
    topic=TOPIC,
    formula=r"x_t = (1 - t) x_0 + t x_1:\quad x_1 - x_0 = \frac{x_t - x_0}{t},\qquad v(x, t) = \frac{x -"
    r" \mathbb{E}[x_0 \mid x_t = x]}{t} = \frac{\mathbb{E}[x_1 \mid x_t = x] - x}{1 - t}",
    covers=["TOPB-69", "TOPB-52"],
    over="once",
    control="(x_t - x_0) / (1 - t)",
)
def two_targets(case: Case, wrong: bool) -> list[Sides]:
    """Targets of drawn pairs, and the model's regression of the velocity against its means of either end."""
    rng = case.rng
    sides = []
    for model in models(case, 2, "linear"):
        t, (x0, x1) = 0.2 + 0.2 * rng.random(), model.pairs.sample(4, rng)
        x = (1 - t) * x0 + t * x1
        over = 1 - t if wrong else t
        size = (np.abs(x0).max() + np.abs(x).max()) / t
        v, first, second = model.velocity(x, t), model.expected_first(x, t), model.expected_second(x, t)
        scale = (np.abs(x).max() + np.abs(first).max() + np.abs(second).max()) / t
        sides += [Sides(x1 - x0, (x - x0) / over, size), Sides(v, (x - first) / over, scale)]
        sides.append(Sides(v, (second - x) / (1 - t), scale))
    return sides


# ---------------------------------------------------------------------- what is kept


@identity(
    "The velocity between two mixtures obeys the continuity equation on a grid",
    topic=TOPIC,
    formula=r"\partial_t p_t + \nabla\!\cdot(p_t v_t) = 0",
    covers=["PODB-37", "DMI-61", "PODB-34"],
    over="once",
    control="the velocity of independent pairs for those of another coupling",
    evidence=DERIVATIVE,
    tolerance=1e-8,  # an 8th-order stencil a hundredth of the narrowest component wide, in values of about 1
)
def on_a_grid(case: Case, wrong: bool) -> list[Sides]:
    """Fluxes p v and densities on a lattice over the plane, differenced along both axes and in time."""
    rng = case.rng
    sides, h = [], 0.005
    axis = np.linspace(-3, 3, 13)
    for pairs in several(rng, 2).values():
        model, t = InterpolantModel(pairs, WAYS["noisy"]), 0.5
        used = InterpolantModel(_unpaired(pairs), WAYS["noisy"]) if wrong else model
        x = model.marginal(t).mean() + lattice(axis, axis)

        density = partial(_density, model)
        spread = divergence(partial(_flux, density, used, t), x, h)
        sides.append(Sides(derivative(partial(density, x), t, h), -spread, 1.0))
    return sides


def _flux(density: Callable[[Array, float], Array], model: InterpolantModel, t: float, x: Array) -> Array:
    return np.asarray(density(x, t)[:, None] * model.velocity(x, t))


def _density(model: InterpolantModel, x: Array, t: float) -> Array:
    return np.asarray(np.exp(model.log_density(x, t)))


@identity(
    "The flow has the marginals of the interpolant, not its paths",
    topic=TOPIC,
    formula=r"\dot z_t = \mathbb{E}[\partial_t \phi_t \mid x_t = z_t],\ z_0 = x_0:\qquad \mathbb{E}\,\varphi(z_t) ="
    r" \mathbb{E}\,\varphi(x_t),\qquad \mathbb{E}\,z_0 z_t \ne \mathbb{E}\,x_0 x_t",
    covers=["TOPB-70", "PODB-36"],
    refutes=["TOPB-70"],
    over="once",
    control="the pathwise reading: E z_0 z_t = E x_0 x_t",
    evidence=QUADRATURE,
)
def kept(case: Case, wrong: bool) -> list[Sides]:
    """Nodes of a sum over the source carried by the flow, against moments and a cosine in closed form."""
    rng = case.rng
    # a trapezoidal sum: the map has its poles where the density of the target vanishes in the complex plane
    z = np.linspace(-8.5, 8.5, 137)
    w, sides = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0]), []
    source, target = Gaussian([0.3], 0.8), random_mixture(1, 3, rng, "full", spread=0.8).convolve(0.5)
    start, t = 0.3 + np.sqrt(0.8) * z[:, None], 0.35 + 0.3 * rng.random()
    for way in ("linear", "Brownian"):
        model = InterpolantModel(independent(source, target), WAYS[way])
        moved = field_flow(model.field(), start, 0.0, t, rtol=1e-12, atol=1e-13, batch=256).x[:, 0]
        law = model.marginal(t)
        mean, variance = law.means[:, 0], law.covariances.dense(1)[:, 0, 0]
        closed = {
            "mean": (moved, law.weights @ mean),
            "square": (moved**2, law.weights @ (mean**2 + variance)),
            "cube": (moved**3, law.weights @ (mean**3 + 3 * mean * variance)),
            "cosine": (np.cos(moved), law.weights @ (np.cos(mean) * np.exp(-variance / 2))),
        }
        sides += [Sides(w @ value, known, w @ np.abs(value)) for value, known in closed.values()]
        if wrong:
            now = model.interpolant.at(t)
            second = now.first * (0.3**2 + 0.8) + now.second * 0.3 * float(target.mean()[0])
            sides.append(Sides(w @ (start[:, 0] * moved), second, w @ np.abs(start[:, 0] * moved)))
    return sides


@identity(
    "Fixed steps carry one mixture to another with the order of their method",
    topic=TOPIC,
    formula=r"\frac{x^{(h)} - F_1^{-1}(F_0(x_0))}{x^{(h/2)} - F_1^{-1}(F_0(x_0))} \to 2^p:\quad p = 1 \text{ Euler},\ 2"
    r" \text{ Heun},\ 4 \text{ Runge-Kutta}",
    covers=["TOPB-70", "PODB-36"],
    over="once",
    control="an order more",
    evidence=ORDER,
    tolerance=5e-3,  # three halvings from 24 steps on leave h^3 of an order
    most=2,
)
def orders(case: Case, wrong: bool) -> list[Sides]:
    """Errors against the quantile map of the two laws, at halved steps, their logarithms extrapolated to none."""
    rng, sides = case.rng, []
    # wider and aside, so that errors are far above rounding
    source, target = (random_mixture(1, 2, rng, "full", spread=0.5).convolve(0.5).affine(a, a) for a in (1.0, 2.0))
    model = InterpolantModel(independent(source, target), linear())
    x = source.mean() + np.linspace(-1, 1, 5)[:, None]
    there = monotone_map(source, target, x)
    for method, order, first in (("euler", 1, 24), ("heun", 2, 24), ("rk4", 4, 24)):
        steps = [first * 2**i for i in range(4)]
        ends = [carry(model, x, np.linspace(0, 1, n + 1), method=method) for n in steps]
        errors = [np.sqrt(np.mean((end - there) ** 2)) for end in ends]
        found = extrapolate([np.log2(a / b) for a, b in pairwise(errors)])
        sides.append(Sides(found, order + wrong, 1.0))
    return sides


@identity(
    "Equations with any noise keep the marginals of an interpolant",
    topic=TOPIC,
    formula=r"dx = (v \pm \tfrac{1}{2} H H^{\mathsf{T}} \nabla\log p_t)\,dt + H\,dw:\quad \partial_t p_t ="
    r" -\nabla\!\cdot(b\,p_t) \pm \tfrac{1}{2} \operatorname{tr} H H^{\mathsf{T}} \nabla^2 p_t",
    covers=["PODB-67", "DMI-61"],
    over="once",
    control="the drift of the other direction of time",
    evidence=DERIVATIVE,
)
def any_noise(case: Case, wrong: bool) -> list[Sides]:
    """Drifts as the equations have them, their divergence by stencils, against the rate of the log density."""
    rng = case.rng
    sides = []
    for model in models(case, 2, "noisy", "Brownian"):
        t, h = 0.3 + 0.4 * rng.random(), rng.standard_normal((2, 3)) / 2
        x, spread = model.sample(3, t, rng), h @ h.T
        score, law = model.score(x, t), model.marginal(t)
        bent = np.einsum("ij,nij->n", spread, law.hessian(x) + score[:, :, None] * score[:, None, :])
        for backward in (False, True):
            drift = partial(_drift, model, h, backward != wrong, t)
            b, grown = drift(x), divergence(drift, x, 0.01)
            rate = -grown - dot(b, score) + (-0.5 if backward else 0.5) * bent
            size = np.abs(grown).max() + np.abs(b).max() * np.abs(score).max() + np.abs(bent).max()
            sides.append(Sides(model.log_density_rate(x, t), rate, size))
    return sides


def _drift(model: InterpolantModel, h: Array, backward: bool, t: float, x: Array) -> Array:
    return model.equation(lambda _: h, backward=backward).drift_at(x, t)


# ---------------------------------------------------------------------- in the frame of a noising process


def as_interpolants(process: AffineProcess, case: ModelCase) -> list[InterpolantModel]:
    """alpha x_0 + sigma x_1 with x_1 ~ N(0, I), and alpha x_0 + sigma z with noise on the way: two roads to p_t."""
    schedule = process.schedules[0]
    noise = Gaussian(np.zeros(case.law.dim), 1.0)

    def variance(t: float) -> tuple[float, float, float]:
        c = schedule.coefficients(t)
        return float(c.sigma**2), float(c.dvariance), float(2 * (c.dsigma**2 + c.sigma * c.d2sigma))

    pairs, way = independent(case.law, noise), from_schedule(schedule)
    alone = ScalarInterpolant(way.first, lambda _: (0.0, 0.0, 0.0), variance, T=schedule.T)
    return [InterpolantModel(pairs, way), InterpolantModel(pairs, alone)]


@identity(
    "Conditional and marginal velocity of the probability flow",
    topic=TOPIC,
    formula=r"v_t(x|x_0) = f x - \tfrac{g^2}{2} \nabla\log p_t(x|x_0) = \alpha' x_0 + \tfrac{\sigma'}{\sigma}(x -"
    r" \alpha x_0),\qquad v_t(x) = f x - \tfrac{g^2}{2} \nabla\log p_t(x) = \mathbb{E}[v_t(x|x_0) \mid x_t = x]",
    covers=["PODB-29", "PODB-38", "TOPB-52"],
    control="g^2 in place of g^2 / 2",
    tolerance=1e-10,  # f and g^2 / sigma^2 are of size 1 / (1 - t) and 1 / t at the ends, and cancel to sigma' / sigma
    needs=scalar,
    most=12,
)
def probability_flow(case: ModelCase, wrong: bool) -> list[Sides]:
    """f, g and scores of the kernel and the marginal, against conditional and marginal velocities of interpolants."""
    rng = case.rng
    c, x, t = case.process.coefficients(case.t), case.x, case.t
    x0, (joined, alone) = case.law.sample(len(x), rng), as_interpolants(case.process, case)
    half = c.g2 * (1.0 if wrong else 0.5)
    single = c.f * x + half * (x - c.alpha * x0) / c.sigma**2
    whole = c.f * x - half * case.model.score(x, t)
    size = np.abs(c.f * x).max() + np.abs(single).max() + np.abs(whole).max()
    direct = c.dalpha * x0 + c.dsigma / c.sigma * (x - c.alpha * x0)
    size += np.abs(c.dalpha * x0).max()
    return [
        Sides(single, direct, size),
        Sides(single, alone.conditional_velocity(x, x0, x0, t), size),
        Sides(whole, joined.velocity(x, t), size),
        Sides(whole, alone.velocity(x, t), size),
    ]


@identity(
    "Time derivative of the optimal velocity",
    topic=TOPIC,
    formula=r"\partial_t v^* = \alpha'' x^* + \sigma'' \epsilon^* + \alpha' \partial_t x^* + \sigma' \partial_t"
    r" \epsilon^* \quad \text{at fixed } x",
    covers=["PODB-62"],
    control="without the curvature of the schedule, which linear ones alone do not have",
    evidence=DERIVATIVE,
    needs=smooth,
    most=12,
)
def velocity_rate(case: ModelCase, wrong: bool) -> list[Sides]:
    """Stencils of the two posterior means in time against the rates of both interpolants in closed form."""
    c, x, t, model = case.process.coefficients(case.t), case.x, case.t, case.model
    # where posterior means turn: within a hundredth of the time at which their noise was another one
    h = 0.01 * min(t, case.process.T - t)
    means = [np.asarray(f(x, t)) for f in (model.denoiser, model.noise)]
    rates = [derivative(partial(f, x), t, h) for f in (model.denoiser, model.noise)]
    bend = 0.0 if wrong else c.d2alpha * means[0] + c.d2sigma * means[1]
    found = bend + c.dalpha * rates[0] + c.dsigma * rates[1]
    size = np.abs(c.d2alpha * means[0]).max() + np.abs(c.d2sigma * means[1]).max()
    size += np.abs(c.dalpha * rates[0]).max() + np.abs(c.dsigma * rates[1]).max()
    # rounding of the stencil: what is differenced over h
    size += 1e-3 * (np.abs(c.dalpha * means[0]).max() + np.abs(c.dsigma * means[1]).max()) / h
    return [Sides(one.velocity_rate(x, t), found, size) for one in as_interpolants(case.process, case)]
