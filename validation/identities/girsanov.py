r"""Girsanov's theorem and what follows from it for laws of paths: ratios, their means, likelihoods by reweighting.

    log dP/dQ = int theta' dw_Q - 1/2 int |theta|^2 dt = int theta' dw_P + 1/2 int |theta|^2 dt,    theta = G^+ (b - c)

The source prints the first form and says that both equations share "the same w". The noise that drives an observed path
is another one under each of them, w_P = w_Q - int theta dt, and with that of the numerator the printed formula is off
by exp(-int |theta|^2 dt): its logarithm has the mean -KL under P, and its mean under P is 1 where that of the ratio is
E_P dP/dQ >= 1. Nor is the formula a ratio for any two drifts: with a drift of 1 / x, which keeps paths from 0, against
none its mean is less than 1, since paths of the numerator reach 0 and those of the denominator do not. Left sides are
the library's sums; right sides are densities of steps, quadrature over their noises and Gaussian chains.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import erf

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.path_measures.girsanov import girsanov, log_ratio
from refdiff.processes import Chain
from refdiff.stochastic import StochasticEquation
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import log_normal, well_conditioned

TOPIC = "Laws of paths"

Drift = Callable[[Array, float], Array]


def drifts(rng: np.random.Generator, dim: int, size: float = 1.0) -> tuple[Drift, Drift]:
    """Two drifts on R^d, d = `dim`, that are not affine, from random matrices of a size."""
    one, other = size * rng.standard_normal((2, dim, dim)) / np.sqrt(dim)

    def b(x: Array, t: float) -> Array:
        return np.asarray(np.sin(x @ one.T + t) - x)

    def c(x: Array, t: float) -> Array:
        return np.asarray(np.cos(x @ other.T) * (1 + t))

    return b, c


def walked(equation: StochasticEquation, start: Array, times: Array, noises: Array) -> Array:
    """The chain of an `equation` at `times` (N + 1,) from start (n, d) driven by unit `noises` (N, n, m)."""
    path = [start]
    for t, h, z in zip(times[:-1], np.diff(times), noises, strict=True):
        x = path[-1]
        path.append(x + h * equation.drift_at(x, t) + np.sqrt(abs(h)) * equation.scattered(x, t, z))
    return np.stack(path)


def noises(rng: np.random.Generator, dim: int) -> dict[str, StochasticEquation]:
    """Equations on R^d, d = `dim`, without drift, one for each kind of noise, with roots of full rank."""
    variances, matrix = rng.uniform(0.5, 2.0, dim), well_conditioned(rng, dim)

    def still(x: Array, t: float) -> Array:  # noqa: ARG001
        return np.zeros_like(x)

    def of_axes(x: Array, t: float) -> Array:
        return (1.5 + np.sin(x + t)) * variances

    def of_state(x: Array, t: float) -> Array:  # noqa: ARG001
        return (1.5 + np.sin(x[:, :1, None])) * matrix

    return {
        "number": StochasticEquation(still, lambda t: 0.7 + t, dim),
        "axes": StochasticEquation(still, lambda t: variances * (1 + t), dim),
        "matrix": StochasticEquation(still, lambda t: matrix, dim),
        "axes of the state": StochasticEquation(still, of_axes, dim, additive=False),
        "matrix of the state": StochasticEquation(still, of_state, dim, additive=False),
    }


def with_drift(equation: StochasticEquation, drift: Drift) -> StochasticEquation:
    """The noise of an `equation` with another drift."""
    return StochasticEquation(drift, equation.noise, equation.dim, equation.additive, equation.motions)


def constant(drift: Array, g: Array) -> StochasticEquation:
    """dx = b dt + G dw of a constant drift b (d,) and noise g (d, d)."""
    return StochasticEquation(lambda x, t: np.broadcast_to(drift, x.shape), lambda t: g, len(drift))


def step_densities(equation: StochasticEquation, paths: Array, times: Array) -> tuple[Array, Array]:
    """sum log N(x_{i+1}; x_i + b h, D |h|) of an `equation` for paths (N + 1, n, d) at `times`, and the terms' size."""
    total, size = np.zeros(paths.shape[1]), np.zeros(paths.shape[1])
    for i, h in enumerate(np.diff(times)):
        x = paths[i]
        d = equation.covariance_rate(x, times[i])
        if not equation.additive and d.ndim == 2:
            d = d[:, :, None] * np.eye(equation.dim)
        elif d.ndim < 2:
            d = np.diag(np.broadcast_to(d, equation.dim))
        mean = x + h * equation.drift_at(x, times[i])
        terms = np.array([log_normal(y, m, s) for y, m, s in zip(paths[i + 1], mean, np.broadcast_to(
            d * abs(h), (len(x), equation.dim, equation.dim)), strict=True)])  # fmt: skip
        total += terms
        size += np.abs(terms)
    return total, size


@identity(
    "Girsanov's sum is the ratio of the steps' densities",
    topic=TOPIC,
    formula=r"\sum_i \theta_i^\top \Delta w_i - \tfrac12 |\theta_i|^2 h = \log \prod_i"
    r" \frac{\mathcal{N}(x_{i+1};\, x_i + b h,\, D h)}{\mathcal{N}(x_{i+1};\, x_i + c h,\, D h)},"
    r"\quad \theta = G^{-1} (b - c),\ \Delta w = G^{-1} (\Delta x - c h)",
    covers=["PODD-89"],
    refutes=["PODD-89"],
    over="once",
    control="the printed sign with the noise that is Brownian for the numerator",
)
def ratio_of_steps(case: Case, wrong: bool) -> list[Sides]:
    """Five kinds of noise, both directions of time; coarse steps, since it holds for any."""
    rng, found = case.rng, []
    for dim in (1, 3):
        b, c = drifts(rng, dim)
        for equation in noises(rng, dim).values():
            for times in (np.cumsum(rng.uniform(0.05, 0.3, 7)), np.linspace(1.0, 0.2, 6)):
                p, q = with_drift(equation, b), with_drift(equation, c)
                z = rng.standard_normal((len(times) - 1, 4, dim))
                paths = walked(q, rng.standard_normal((4, dim)), times, z)
                parts = girsanov(p, q, paths, times)
                left = parts.integral_of_numerator - 0.5 * parts.energy if wrong else parts.log_ratio
                (one, size), (other, more) = (step_densities(each, paths, times) for each in (p, q))
                found.append(Sides(left, one - other, scale=size + more + parts.energy))
    return found


@identity(
    "Girsanov's ratio where noise does not reach every direction",
    topic=TOPIC,
    formula=r"G \in \mathbb{R}^{d \times m},\ m < d:\quad"
    r" b - c \in \mathrm{range}\, G\ \Rightarrow\ \theta = G^+ (b - c),"
    r"\qquad b - c \notin \mathrm{range}\, G\ \Rightarrow\ P \perp Q",
    covers=["PODD-89"],
    over="once",
    control="a finite ratio, by the pseudo-inverse, where the drifts differ in a direction without noise",
)
def singular_noise(case: Case, wrong: bool) -> list[Sides]:
    """Langevin's form: forces differ, velocities do not; against densities of the coordinates that are driven."""
    rng, dim, motions = case.rng, 4, 2
    axes, mixed = np.linalg.qr(rng.standard_normal((dim, dim)))[0], well_conditioned(rng, motions)
    g = axes[:, :motions] @ mixed
    force, common = drifts(rng, dim)
    push = rng.standard_normal((dim, motions))
    times = np.linspace(0.0, 1.0, 6)
    q = StochasticEquation(common, lambda t: g, dim, motions=motions)
    outside = axes[:, motions]
    p = StochasticEquation(
        lambda x, t: common(x, t) + np.sin(force(x, t) @ push) @ g.T, lambda t: g, dim, motions=motions
    )
    apart = StochasticEquation(lambda x, t: p.drift_at(x, t) + outside, lambda t: g, dim, motions=motions)
    paths = walked(q, rng.standard_normal((3, dim)), times, rng.standard_normal((5, 3, motions)))
    total, size = np.zeros(3), np.zeros(3)
    for i, h in enumerate(np.diff(times)):
        x, d = paths[i], mixed @ mixed.T * h
        steps = [(paths[i + 1] - x - h * each.drift_at(x, times[i])) @ axes[:, :motions] for each in (p, q)]
        logs = [log_normal(step, np.zeros(motions), d) for step in steps]
        total += logs[0] - logs[1]
        size += np.abs(logs[0]) + np.abs(logs[1])
    # paths of Q belong to Q alone: they have no density under the other law; and the other way round
    theirs = walked(apart, paths[0], times, rng.standard_normal((5, 3, motions)))
    alone = np.append(log_ratio(apart, q, paths, times), log_ratio(apart, q, theirs, times))
    signs = np.where(np.isinf(alone), np.sign(alone), 0.0)
    return [
        Sides(log_ratio(p, q, paths, times), total, scale=size),
        Sides(signs, 0.0 if wrong else np.repeat([-1.0, 1.0], 3), scale=1.0),
    ]


@identity(
    "Constant drifts: the ratio of paths is that of their ends",
    topic=TOPIC,
    formula=r"b, c\ \text{constant}:\quad \log\tfrac{dP}{dQ} = \log\frac{\mathcal{N}(x_T;\, x_0 + b T,\, D T)}"
    r"{\mathcal{N}(x_T;\, x_0 + c T,\, D T)},\quad \text{printed with}\ w^P:\ \text{less}\ |\delta|_{D^{-1}}^2 T",
    covers=["PODD-89"],
    refutes=["PODD-89"],
    over="once",
    control="the printed sign with the noise that is Brownian for the numerator: .64 off for the source's numbers",
)
def constant_drifts(case: Case, wrong: bool) -> list[Sides]:
    """Any path, also one of neither law; and delta = .8, T = g = 1."""
    rng, found = case.rng, []
    for dim, horizon in ((1, 1.0), (3, 1.7)):
        b, c = rng.standard_normal((2, dim))
        g = well_conditioned(rng, dim)
        if dim == 1:
            b, c, g = np.array([0.8]), np.zeros(1), np.eye(1)
        p, q = (constant(each, g) for each in (b, c))
        times = np.linspace(0.0, horizon, 8)
        paths = np.concatenate([np.zeros((1, 3, dim)), rng.standard_normal((7, 3, dim))])
        parts = girsanov(p, q, paths, times)
        left = parts.integral_of_numerator - 0.5 * parts.energy if wrong else parts.log_ratio
        one, other = (log_normal(paths[-1], m * horizon, g @ g.T * horizon) for m in (b, c))
        found.append(Sides(left, one - other, scale=np.abs(one) + np.abs(other) + parts.energy))
        if dim == 1:
            found.append(Sides(parts.energy, 0.64))
    return found


@identity(
    "Means of the ratio and of its logarithm",
    topic=TOPIC,
    formula=r"\mathbb{E}_Q \tfrac{dP}{dQ} = 1,\quad \mathbb{E}_Q[f \tfrac{dP}{dQ}] = \mathbb{E}_P f,"
    r"\quad \mathbb{E}_P \log\tfrac{dP}{dQ} = \tfrac12 \mathbb{E}_P \int |\theta|^2 dt = \mathrm{KL}(P \| Q)",
    covers=["PODD-89", "PODD-91"],
    refutes=["PODD-89"],
    over="once",
    evidence=QUADRATURE,
    control="the printed sign with the noise of the numerator: a mean logarithm of -KL",
)
def means_of_the_ratio(case: Case, wrong: bool) -> list[Sides]:
    """Two coarse steps with bent drifts, by Gauss-Hermite over their noises; P's paths and Q's have other nodes."""
    rng, times = case.rng, np.array([0.0, 0.1, 0.25])
    (b, c), noise = drifts(rng, 1, 0.5), rng.uniform(1.0, 1.5)
    p, q = (StochasticEquation(each, lambda t: noise + t, 1) for each in (b, c))
    z, w = numeric.product_rule(numeric.hermite(60), 2)
    start = np.full((len(z), 1), rng.standard_normal())
    under_p, under_q = (walked(each, start, times, z.T[:, :, None]) for each in (p, q))
    of_p, of_q = (girsanov(p, q, paths, times) for paths in (under_p, under_q))
    logs = of_p.integral_of_numerator - 0.5 * of_p.energy if wrong else of_p.log_ratio
    ratio = np.exp(of_q.log_ratio)
    # the divergence of the chain, step by step: half of a squared distance of means
    energy = 0.0
    for i, h in enumerate(np.diff(times)):
        gap = p.drift_at(under_p[i], times[i]) - q.drift_at(under_p[i], times[i])
        energy += 0.5 * h * w @ (gap[:, 0] / (noise + times[i])) ** 2
    return [
        Sides(w @ ratio, 1.0),
        Sides(w @ (ratio * np.sin(under_q[-1, :, 0])), w @ np.sin(under_p[-1, :, 0]), scale=1.0),
        Sides(w @ logs, energy),
        Sides(w @ of_p.integral_of_numerator, 0.0, scale=np.sqrt(energy)),
    ]


@identity(
    "A model's likelihood by reweighting the noising",
    topic=TOPIC,
    formula=r"p_\phi(x_0) = \int \frac{dP_\phi}{dP}(x_{0:T})\, p(x_{0:T})\, dx_{(0,T]},"
    r"\quad \log p_\phi(x_0) \ge \mathbb{E}_{P(\cdot|x_0)} \log\frac{dP_\phi}{dP(\cdot|x_0)}",
    covers=["PODD-92"],
    refutes=["PODD-92"],
    over="once",
    evidence=QUADRATURE,
    control="the printed factor p_T(x_T) under the integral, which P_phi has in it already",
)
def likelihood_by_reweighting(case: Case, wrong: bool) -> list[Sides]:
    """Two steps on the line: quadrature over the noising from x_0 against the model's chain pushed; then the bound."""
    rng = case.rng
    data = Gaussian([rng.standard_normal()], rng.uniform(0.3, 1.0))
    noising = Chain.su(rng.uniform(0.7, 0.9, 2), rng.uniform(0.4, 0.6, 2))
    back = [Channel(rng.uniform(0.6, 0.9), rng.normal(scale=0.3), rng.uniform(0.5, 0.8)) for _ in range(2)]
    prior, x0 = Gaussian([0.2], 1.2), data.sample(1, rng)[0]
    modelled = back[0].push(back[1].push(prior))
    z, w = numeric.product_rule(numeric.hermite(80), 2)
    path = [np.broadcast_to(x0, (len(z), 1))]
    for i, link in enumerate(noising.links):
        path.append(link.gain * path[-1] + np.sqrt(link.noise) * z[:, i : i + 1])
    log_noised = sum(link.logpdf(path[i + 1], path[i]) for i, link in enumerate(noising.links))
    log_model = prior.logpdf(path[2]) + sum(one.logpdf(path[i], path[i + 1]) for i, one in enumerate(back))
    ratio = log_model - log_noised  # to P given x_0: p_0(x_0) cancels against the p(x_0) under the integral
    last = noising.marginal(2, data).logpdf(path[2]) if wrong else 0.0
    exact = modelled.logpdf(x0)
    # paths given x_0 under both: Gaussians of (x_1, x_2)
    joint = Chain([back[1], back[0]]).joint(prior)  # of (x_2, x_1, x_0)
    posterior = joint.conditional([2], x0)
    given = noising.joint(Gaussian(x0, 0.0))
    swapped = Gaussian(given.means[0][[2, 1]], given.cov()[np.ix_([2, 1], [2, 1])])
    gap = kl_divergence(swapped, Gaussian(posterior.means[0], posterior.cov()))
    return [
        Sides(np.log(w @ np.exp(ratio + last)), exact, scale=1.0),
        Sides(exact - w @ ratio, gap, scale=w @ np.abs(ratio)),
    ]


@identity(
    "Girsanov's exponential is no ratio without a condition",
    topic=TOPIC,
    formula=r"dx = \tfrac{dt}{x} + dw\ (Q),\ dx = dw\ (P):\quad"
    r" \exp\big(\int \theta\, dw - \tfrac12 \int \theta^2 dt\big) = \frac{x_0}{x_T},"
    r"\quad \mathbb{E}_Q \frac{x_0}{x_T} = \mathrm{erf}\frac{x_0}{\sqrt{2 T}} < 1",
    covers=["PODD-89"],
    refutes=["PODD-89"],
    over="once",
    evidence=QUADRATURE,
    control="a likelihood ratio for any two drifts, as printed: a mean of 1",
)
def without_condition(case: Case, wrong: bool) -> list[Sides]:
    """The radius of three-dimensional Brownian motion against a line of it, which reaches 0: mass is lost."""
    start, horizon = case.rng.uniform(0.5, 1.0), case.rng.uniform(0.7, 1.5)
    std = np.sqrt(horizon)
    centre = np.array([start, 0.0, 0.0])
    # E 1 / |x| in spherical coordinates around 0, where 1 / r cancels in r^2 dr; the angle by its cosine
    cosine, weight = numeric.legendre(60)
    axis = 2 * cosine - 1

    def shell(r: Array) -> Array:
        points = np.stack([r[:, None] * axis, r[:, None] * np.sqrt(1 - axis**2), 0 * r[:, None] * axis], axis=-1)
        density = np.exp(log_normal(points.reshape(-1, 3), centre, horizon * np.eye(3))).reshape(len(r), -1)
        return np.asarray(4 * np.pi * r * (density @ weight))

    mean = start * float(numeric.integral(shell, 0.0, start + 9 * std, 80))
    # a step's exponent less log x_0 / x_1 has mean 0 and variance h^2 / (2 x^4): over a path the sum is log x_0 / x_T
    radius = StochasticEquation(lambda x, t: 1 / x, lambda t: 1.0, 1)
    z, w = numeric.hermite(30)
    first, second = [], []
    for h in 2e-3 * start**2 / 2.0 ** np.arange(5):
        path = walked(radius, np.full((len(z), 1), start), np.array([0.0, h]), z[None, :, None])
        exponent = log_ratio(constant(np.zeros(1), np.eye(1)), radius, path, np.array([0.0, h]))
        apart = exponent - np.log(start / path[1, :, 0])
        first.append(np.array(w @ apart / h))
        second.append(np.array(w @ apart**2 / h**2))
    return [
        Sides(mean, 1.0 if wrong else erf(start / np.sqrt(2 * horizon))),
        Sides(numeric.extrapolate(first), 0.0, scale=1 / start**2),
        Sides(numeric.extrapolate(second), 0.5 / start**4),
    ]
