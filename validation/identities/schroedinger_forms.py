r"""One Gaussian bridge in every form: flow, equation, static plan, the limit of proportional fitting, a Markov process.

    flow       dx = v dt from p                               p_t
    equation   dx = b+ dt + G dw from p, or b- from q         p_t, and the law of (x_0, x_T)
    plan       pairs of gamma joined by the bridges of R      p_t, and the law of (x_0, x_T)
    fitting    R reweighted at its two ends by turns          all of it, on a grid of the line

The joint law of a flow is another one: its pairs lie on a map. Of all couplings joined by the bridges of R those of
Schroedinger alone are Markov.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from refdiff import operators
from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, wasserstein
from refdiff.interpolants import InterpolantModel
from refdiff.processes import AffineProcess, Process
from refdiff.schedules import VPLinear
from refdiff.schroedinger import BrownianReference, GaussianBridge
from refdiff.stochastic import StochasticEquation, exact_moments
from refdiff.transport import PairLaw, independent
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identities.schroedinger_gaussian import TOPIC, bridges, some
from refdiff.validation.identities.schroedinger_limits import plain_transport
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import diagonal_log_normal

SPACING, REACH = 0.04, 9.0  # of grids, where sums of Gaussians of standard deviations from 0.4 converge to rounding
FITS = 400  # turns after which a plan does not change: its error shrinks by less than 0.9 in each


class Fitted(NamedTuple):
    """Masses on a grid: x (n,), p and q (n,), and gamma (n, n) = p(x) u(x) R(y | x) v(y)."""

    x: Array
    p: Array
    q: Array
    u: Array
    v: Array
    plan: Array


def kernel(way: Channel, x: Array, y: Array) -> Array:
    """The densities R(y_j | x_i) of a channel (`way`) on the line, from points x (n,) to points y (m,), (n, m)."""
    mean = float(way.gain) * x + float(np.squeeze(way.offset))
    return np.exp(diagonal_log_normal(y[None, :, None], mean[:, None, None], np.reshape(way.noise, 1)))


def fitted(p: Gaussian, q: Gaussian, way: Channel) -> Fitted:
    """The reference from p, a channel (`way`), reweighted at its ends by turns until both are p and q."""
    x = numeric.ticks(-REACH, REACH, SPACING)
    one, two = (np.exp(law.logpdf(x[:, None])) * SPACING for law in (p, q))
    between = kernel(way, x, x)
    v = np.ones(len(x))
    for _ in range(FITS):
        u = 1 / (between @ (v * SPACING))
        v = two / SPACING / ((one * u) @ between)
    return Fitted(x, one, two, u, v, (one * u)[:, None] * between * v * SPACING)


def one_axis() -> dict[str, tuple[Process, float]]:
    """References on the line, and the noise rate of the Brownian motion with the same plans."""
    schedule = VPLinear(0.5, 3.0)
    c = schedule.coefficients(1.0)
    return {"Brownian": (BrownianReference(0.7), 0.7), "VP": (AffineProcess(schedule), float(c.sigma**2 / c.alpha))}


@cache
def grids() -> dict[str, tuple[GaussianBridge, Fitted]]:
    """Bridges on the line, in closed form and on a grid."""
    p, q = Gaussian([-0.8], 1.0), Gaussian([1.1], 0.36)
    return {
        name: (GaussianBridge(p, q, process), fitted(p, q, process.channel(0.0, process.T)))
        for name, (process, _) in one_axis().items()
    }


@identity(
    "Proportional fitting tends to the closed form",
    topic=TOPIC,
    formula=r"\gamma = p(x)\, u(x)\, R(y | x)\, v(y):\quad \mathrm{Cov}_\gamma = \tfrac12 \big(\sqrt{e^2 + 4 s_0^2"
    r" s_1^2} - e\big),\ e = \frac{\sigma_T^2}{\alpha_T};\quad p_t = \Psi \hat\Psi,\ \Psi = R_{t,T} v,\ \hat\Psi ="
    r" R_{0,t}^\top (p u)",
    covers=["PODB-79", "PODB-82", "PODB-86", "PODB-92"],
    over="once",
    evidence=QUADRATURE,
    control="e = sigma^2 / alpha^2",
)
def fitting_limit(case: Case, wrong: bool) -> list[Sides]:  # noqa: ARG001
    """Masses on a grid: plan, value, marginal, drift and both potentials in the middle, for Brownian motion and VP."""
    found, t = [], 0.4
    for name, (bridge, fit) in grids().items():
        e = one_axis()[name][1]
        way = bridge.interpolant.overall
        e = float(way.noise / way.gain**2) if wrong else e
        m, n = fit.p @ fit.x, fit.q @ fit.x
        cross = (fit.x - m) @ fit.plan @ (fit.x - n)
        s0, s1 = np.sqrt(bridge.p.cov()[0, 0]), np.sqrt(bridge.q.cov()[0, 0])
        found.append(Sides(cross, 0.5 * (np.hypot(e, 2 * s0 * s1) - e)))
        found.append(Sides(cross, bridge.pairs.cross_covariance()[0, 0]))
        value = fit.p @ np.log(fit.u) + fit.q @ np.log(fit.v)
        found.append(Sides(value, bridge.cost))
        x = np.array([-1.0, 0.2, 1.3])
        ahead = kernel(bridge.process.channel(t, bridge.T), x, fit.x) @ (fit.v * SPACING)
        behind = (fit.p * fit.u) @ kernel(bridge.process.channel(0.0, t), fit.x, x)
        found.append(Sides(np.log(ahead * behind), bridge.marginal(t).logpdf(x[:, None])))
        for grown, mine in zip((ahead, behind), bridge.log_potentials(x[:, None], t), strict=True):
            found.append(Sides(np.log(grown[1:] / grown[0]), mine[1:] - mine[0]))
        found.append(Sides(_pull(bridge, fit, x, t), bridge.forward_pull(x[:, None], t)[:, 0]))
    return found


def _pull(bridge: GaussianBridge, fit: Fitted, x: Array, t: float) -> Array:
    """grad log Psi at points x (n,): a mean over ends weighted by R v."""
    way = bridge.process.channel(t, bridge.T)
    weights = kernel(way, x, fit.x) * fit.v
    gaps = fit.x - float(way.gain) * x[:, None] - float(np.squeeze(way.offset))
    return np.asarray(float(way.gain / way.noise) * (weights * gaps).sum(axis=1) / weights.sum(axis=1))


@identity(
    "One bridge in every form",
    topic=TOPIC,
    formula=r"\dot x = v,\quad dx = b^+ dt + G\, dw,\quad dx = b^- dt + G\, dw\ (dt < 0),\quad \gamma \times R^{xy},"
    r"\quad \lim\ \text{IPF}:\qquad x_t \sim p_t",
    covers=["PODB-76", "PODB-80", "PODB-81", "PODB-82", "PODB-99"],
    over="once",
    evidence=QUADRATURE,
    control="noise added to the flow without the osmotic drift",
)
def one_object(case: Case, wrong: bool) -> list[Sides]:
    """Means and covariances at one time: of an integrated flow map, of moments both ways, of pairs, of a grid."""
    t, found = 0.4, []
    _, (line, fit) = next(iter(grids().items()))
    weights = fit.p * fit.u
    here = np.log(weights @ kernel(line.process.channel(0.0, t), fit.x, fit.x)) + np.log(
        kernel(line.process.channel(t, line.T), fit.x, fit.x) @ (fit.v * SPACING)
    )
    density = np.exp(here) * SPACING
    mean = density @ fit.x
    found.append(_close(line, t, [[mean]], [[density @ (fit.x - mean) ** 2]]))
    for bridge in (line, list(some(case.rng).values())[1]):
        for backward, law, start in ((False, bridge.p, 0.0), (True, bridge.q, bridge.T)):
            equation = bridge.equation(backward=backward)
            if wrong:
                equation = StochasticEquation(bridge.velocity, equation.noise, bridge.dim)
            moments = exact_moments(equation, start, t, law.mean(), law.cov())
            found.append(_close(bridge, t, *moments))
            if wrong:
                return found
        found.append(_close(bridge, t, *_carried(bridge, t)))
        pairs = InterpolantModel(bridge.pairs, bridge.interpolant).marginal(t)
        found.append(_close(bridge, t, pairs.mean(), pairs.cov()))
    return found


def _close(bridge: GaussianBridge, t: float, mean: object, cov: object) -> Sides:
    """A mean and a covariance against those of the bridge, at a time."""
    law, dim = bridge.marginal(t), bridge.dim
    left = np.vstack([np.reshape(np.asarray(mean, dtype=float), (1, dim)), np.asarray(cov, dtype=float)])
    return Sides(left, np.vstack([law.mean()[None], law.cov()]))


def _carried(bridge: GaussianBridge, t: float) -> tuple[Array, Array]:
    """The moments at a time of what the affine flow of the current velocity makes of p."""
    dim = bridge.dim
    start = np.vstack([np.zeros((1, dim)), np.eye(dim)])

    def rates(u: float, state: Array) -> Array:
        return np.asarray(bridge.velocity(state.reshape(dim + 1, dim), u)).ravel()

    ends = solve_ivp(rates, (0.0, t), start.ravel(), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1].reshape(dim + 1, dim)
    slope = (ends[1:] - ends[0]).T
    return np.asarray(ends[0] + slope @ bridge.p.mean()), np.asarray(slope @ bridge.p.cov() @ slope.T)


@identity(
    "The equation joins the ends as the plan does, the flow does not",
    topic=TOPIC,
    formula=r"\mathrm{Cov}(x_0, x_T) = C\ \text{of}\ dx = b^{\pm} dt + G\, dw;\quad \dot x = v:\ x_T = T(x_0),\ "
    r"\mathbb{E} |x_T - x_0|^2 \geq W_2^2,\quad d = 1:\ T\ \text{optimal}",
    covers=["PODB-76", "PODB-99"],
    over="once",
    control="the map of the flow for the coupling of the equation",
)
def joint_ends(case: Case, wrong: bool) -> list[Sides]:
    """Transitions of both equations by Gauss steps, and the flow of a bridge on the line, which is monotone."""
    found = []
    for bridge in some(case.rng).values():
        if isinstance(bridge.process, BrownianReference):
            continue
        if wrong:
            ahead = bridge.p.cov() @ plain_transport(bridge.p, bridge.q)[1]
            return [Sides(ahead, bridge.pairs.cross_covariance())]
        way, back = bridge.affine().transition(0.0, bridge.T), bridge.affine(backward=True).transition(bridge.T, 0.0)
        ahead = bridge.p.cov() @ operators.dense(way.gain, 2).T
        found.append(Sides(ahead, bridge.pairs.cross_covariance()))
        found.append(Sides(operators.dense(back.gain, 2) @ bridge.q.cov(), bridge.pairs.cross_covariance()))
    line = grids()["Brownian"][0]
    mean, cov = _carried(line, line.T)
    squared = (mean - line.p.mean()) @ (mean - line.p.mean()) + np.square(np.sqrt(cov) - np.sqrt(line.p.cov())).sum()
    found.append(Sides(squared, wasserstein(line.p, line.q) ** 2))
    return found


@identity(
    "Among mixtures of bridges the Markov one is Schroedinger's",
    topic=TOPIC,
    formula=r"\mathrm{Cov}(x_s, x_u) = \mathrm{Cov}(x_s, x_t)\, \Sigma_t^{-1}\, \mathrm{Cov}(x_t, x_u),\quad s < t < u,"
    r"\quad \Pi = \gamma \times R^{xy}",
    covers=["PODB-76", "PODB-82"],
    over="once",
    control="independent ends, joined by the same bridges",
)
def markov_mixture(case: Case, wrong: bool) -> list[Sides]:
    """Covariances of two times from the pairs and the bridges alone: no transition of the bridge is used."""
    found, times = [], (0.2, 0.5, 0.9)
    for bridge in bridges(case.rng).values():
        pairs = independent(bridge.p, bridge.q) if wrong else bridge.pairs
        first, second = (_two_times(bridge, pairs, times[i], times[i + 1]) for i in (0, 1))
        middle = pairs.blend(*_blend(bridge, times[1])).cov()
        product = first @ np.linalg.solve(middle, second)
        found.append(Sides(_two_times(bridge, pairs, times[0], times[2]), product))
    return found


def _blend(bridge: GaussianBridge, t: float) -> tuple[Array, Array, Array, Array]:
    link = bridge.interpolant.link(t)
    return link.of_start, link.of_end, link.offset, link.noise


def _two_times(bridge: GaussianBridge, pairs: PairLaw, s: float, t: float) -> Array:
    """Cov(x_s, x_t) of pairs joined by bridges of the reference: of their means, and within a bridge."""
    joint = pairs.mixture().cov()
    one, two = (np.hstack([operators.dense(part, 2) for part in _blend(bridge, u)[:2]]) for u in (s, t))
    process, end = bridge.process, bridge.T
    before, between, after = process.channel(0.0, s), process.channel(s, t), process.channel(t, end)
    c, k, g = (operators.dense(part, 2) for part in (before.noise, between.gain, after.gain))
    whole, now = (operators.dense(process.channel(0.0, u).noise, 2) for u in (end, t))
    inside = c @ k.T - c @ k.T @ g.T @ np.linalg.solve(whole, g @ now)
    return np.asarray(one @ joint @ two.T + inside)


@identity(
    "Covariances leave their ends as drifts say",
    topic=TOPIC,
    formula=r"\Sigma_0' = B S_0 + S_0 B^\top + D,\ b^+(x, 0) = B x + ..,\quad \Sigma_T' = B S_1 + S_1 B^\top - D,\ "
    r"b^-(x, T) = B x + ..",
    covers=["PODB-82"],
    over="once",
    control="without D",
)
def near_the_ends(case: Case, wrong: bool) -> list[Sides]:
    """From the drifts at both ends, and from the rates of pinned bridges and the plan."""
    found, unit = [], np.eye(2)
    for bridge in bridges(case.rng).values():
        for t, drift, sign, law in (
            (0.0, bridge.forward_drift, 1.0, bridge.p),
            (bridge.T, bridge.backward_drift, -1.0, bridge.q),
        ):
            centre = np.asarray(drift(law.mean(), t))
            slope = (np.asarray(drift(law.mean() + unit, t)) - centre).T @ law.cov()
            rate = slope + slope.T + (0.0 if wrong else sign) * operators.dense(bridge.process.diffusion(t), 2)
            now = bridge.interpolant.at(t)
            moved = [operators.dense(part, 2) for part in (now.first, now.second, now.dfirst, now.dsecond)]
            ends, rates = np.hstack(moved[:2]), np.hstack(moved[2:])
            half = rates @ bridge.pairs.mixture().cov() @ ends.T + operators.dense(now.spread, 2)
            found.append(Sides(rate, half + half.T))
    return found


@identity(
    "Laws without a density at either end",
    topic=TOPIC,
    formula=r"S_0, S_1\ \text{singular}:\quad C = F U \frac{2 s}{1 + \sqrt{1 + 4 s^2}} V^\top G^\top,\quad F^\top"
    r" A^\top \Sigma^{-1} G = U s V^\top;\quad b^+ dt + G\, dw\ \text{keeps}\ p_t",
    covers=["PODB-82", "PODB-86"],
    over="once",
    evidence=QUADRATURE,
    control="the plan of laws with as much density as 1e-2 of noise gives",
)
def singular_ends(case: Case, wrong: bool) -> list[Sides]:
    """Limits of laws with a little noise; moments of the equation from a time at which there is a density."""
    rng, found = case.rng, []
    flat, line = rng.standard_normal((2, 3, 2))[0], rng.standard_normal((3, 1))
    p, q = Gaussian(rng.standard_normal(3), flat @ flat.T), Gaussian(rng.standard_normal(3), line @ line.T)
    bridge = GaussianBridge(p, q, 0.6)

    def blurred(e: float) -> Array:
        one, two = (Gaussian(law.mean(), law.cov() + e * np.eye(3)) for law in (p, q))
        return GaussianBridge(one, two, 0.6).pairs.cross_covariance()

    limit = blurred(1e-2) if wrong else numeric.extrapolate([blurred(2.0**-k * 1e-4) for k in range(5)])
    found.append(Sides(limit, bridge.pairs.cross_covariance()))
    first, last = bridge.marginal(0.1), bridge.marginal(0.9)
    mean, cov = exact_moments(bridge.equation(), 0.1, 0.9, first.mean(), first.cov())
    return [*found, Sides(mean, last.mean()), Sides(cov, last.cov())]
