r"""Samplers of bridges, edits by noise and dual encoders: what they do to Gaussians, in closed form.

bridge sampler   x_s - x_t has the mean (s - t) b_-(x_t, t) at k = 1, for Brownian references: b_- = (x - D) / t
SDEdit           k = 0 keeps KL(noised source || noised target), along an axis the output is g alpha_t (x - m) + m + ..
dual encoders    the flows of two bridges with Psi = 1, there and back
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.dynamics.translation import gaussian_translation
from refdiff.interpolants import InterpolantModel, brownian
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.samplers import run
from refdiff.schedules import FlowMatching, VPLinear
from refdiff.schroedinger import (
    GaussianBridge,
    bridge_channels,
    bridge_denoiser,
    bridge_sampler,
    edit_channel,
    edit_curve,
    end_pairs,
)
from refdiff.transport import image_pairs, independent, optimal_map
from refdiff.validation.cases import Case
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.laws import gaussian, square_root
from refdiff.validation.numeric import extrapolate

TOPIC = "Schroedinger bridges"


@identity(
    "A step of a bridge sampler is the backward drift",
    topic=TOPIC,
    formula=r"\mathbb{E}[x_s|x_t] - x_t = (s - t)\, b_-(x_t, t),\quad b_- = \frac{x_t - \mathbb{E}[x_0|x_t]}{t},\quad"
    r" \mathrm{Var} = \varepsilon\,\frac{s(t-s)}{t}",
    covers=["PODB-81", "PODB-82"],
    control="the forward drift",
    over="once",
)
def posterior_step(case: Case, wrong: bool) -> list[Sides]:
    """One step of the table, without and with noise, against the drift of the Gaussian bridge."""
    rng, epsilon = case.rng, 0.6
    bridge = GaussianBridge(gaussian(rng, 2), gaussian(rng, 2), epsilon)
    s, t = np.sort(rng.uniform(0.1, 0.9, 2)).tolist()
    table = bridge_sampler(brownian(epsilon), [1.0, t, s])
    x = bridge.marginal(t).sample(4, rng)
    normals = np.zeros((2, 4, 2))
    mean = run(table, bridge_denoiser(bridge.model), x, normals=normals, given={1: x})
    drift = bridge.forward_drift(x, t) if wrong else bridge.backward_drift(x, t)
    normals[1] = 1.0
    noisy = run(table, bridge_denoiser(bridge.model), x, normals=normals, given={1: x})
    return [Sides((mean - x) / (s - t), drift), Sides((noisy - mean) ** 2, epsilon * s * (t - s) / t)]


@identity(
    "What a Schroedinger bridge's end adds",
    topic=TOPIC,
    formula=r"\mathbb{E}[x_0 | x_t, x_T] = \mathbb{E}[x_0 | x_t]\ \text{for pairs of the bridge}",
    covers=["PODB-82"],
    control="independent pairs, which are not Markov when bridges join them",
    over="once",
)
def markov_pairs(case: Case, wrong: bool) -> Sides:
    """Bayes' rule given both states against Bayes' rule given one."""
    rng, epsilon, t = case.rng, 0.6, 0.4
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    pairs = independent(p, q) if wrong else GaussianBridge(p, q, epsilon).pairs
    model = InterpolantModel(pairs, brownian(epsilon))
    x, y = model.sample(4, t, rng), q.sample(4, rng)
    return Sides(bridge_denoiser(model, y)(x, t), bridge_denoiser(model)(x, t))


@identity(
    "The order of bridge samplers",
    topic=TOPIC,
    formula=r"n\,(\mathrm{Var}\,y_n - s_0^2) \to C,\qquad y_n\ \text{after}\ n\ \text{steps},\ t_i = \cos^2"
    r"\frac{\pi i}{2n}",
    covers=["PODB-81"],
    control="a model that is not shown the end, for independent pairs at k = 0",
    over="once",
    evidence=ORDER,
    most=1,
)
def sampler_order(case: Case, wrong: bool) -> Sides:
    """Errors of exact laws times the number of steps, extrapolated from two lists of numbers to one constant."""
    rng, epsilon = case.rng, 0.6
    pairs = independent(Gaussian([0.3], rng.uniform(0.4, 1.0)), Gaussian([1.0], rng.uniform(0.4, 1.0)))
    model = InterpolantModel(pairs, brownian(epsilon))

    def error(n: int) -> Array:
        times = np.append(np.cos(np.arange(n) * np.pi / (2 * n)) ** 2, 0.0)
        table = bridge_sampler(brownian(epsilon), times, 0.0)
        made = bridge_channels(table, model, given_end=not wrong)[-1].push(pairs.second)
        return np.asarray(n * (made.cov() - pairs.first.cov())[0])

    return Sides(*(extrapolate([error(n) for n in counts]) for counts in ((6, 12, 24, 48), (8, 16, 32, 64))))


@identity(
    "Divergence of edits by noise",
    topic=TOPIC,
    formula=r"\mathrm{KL}(y\|\mathrm{target}) = \mathrm{KL}(q_t\|p_t)\ \text{by the flow},\qquad q_t, p_t\ \text{the"
    r" noised source and target}",
    covers=["PODB-69"],
    control="the reverse equation, which loses more",
    over="once",
)
def edits(case: Case, wrong: bool) -> list[Sides]:
    """Divergences of outputs in closed form against those of the noised laws; both fall with the time."""
    rng, sides = case.rng, []
    source, target = gaussian(rng, 3), gaussian(rng, 3)
    for schedule in (VPLinear(), FlowMatching()):
        model, times = ExactModel(target, schedule), np.array([0.1, 0.4, 0.7])
        noised = [
            kl_divergence(*(model.process.kernel(t).push(law) for law in (source, target))) for t in times.tolist()
        ]
        found = edit_curve(source, model, times, 1.0 if wrong else 0.0).kl
        sides += [Sides(found, noised), Sides(np.maximum(np.diff(found), 0.0), 0.0, 1.0)]
    return sides


@identity(
    "Edits by noise along an axis",
    topic=TOPIC,
    formula=r"y = m + g\alpha(x - m) + \mathcal{N}(0, g^2\sigma^2 + s - g^2 P),\quad g = \alpha^{k^2} (s/P)^{(1 +"
    r" k^2)/2},\quad P = \alpha^2 s + \sigma^2",
    covers=["PODB-69"],
    control="the flow's gain for every k",
    over="once",
)
def edited_axis(case: Case, wrong: bool) -> list[Sides]:
    """Noising and denoising, as channels of the library, against the closed form on the axes of the target."""
    rng, sides = case.rng, []
    target, process = gaussian(rng, 2), AffineProcess(VPLinear(0.5, 5.0))
    values, axes = np.linalg.eigh(target.cov())
    t = float(rng.uniform(0.2, 0.9))
    c = process.coefficients(t)
    noised = c.alpha**2 * values + c.sigma**2
    for k in (0.0, 0.5, 1.0):
        power = 0.0 if wrong else k * k
        g = c.alpha**power * (values / noised) ** ((1 + power) / 2)
        channel = edit_channel(ExactModel(target, process), t, k)
        gain, noise = (axes * g * c.alpha) @ axes.T, (axes * (g**2 * c.sigma**2 + values - g**2 * noised)) @ axes.T
        sides += [Sides(channel.gain, gain), Sides(channel.noise, noise, 1.0)]
        sides.append(Sides(channel.gain @ target.mean() + channel.offset, target.mean(), 1.0))
    return sides


@identity(
    "Dual encoders are the flows of two bridges",
    topic=TOPIC,
    formula=r"q = R_T \# p\ \Rightarrow\ \Psi = 1,\quad y = \Phi_1^{-1}(\Phi_0(x)),\ \Phi\ \text{the flow of}\ (b_+ +"
    r" b_-)/2;\qquad \mathbb{E}|y - x|^2 \ge W_2^2(x, y)",
    covers=["PODB-69", "PODB-89"],
    control="bridges to N(0, I), which are no diffusions",
    over="once",
    most=2,
)
def dual_bridges(case: Case, wrong: bool) -> list[Sides]:
    """Flows of the two Gaussian bridges, from their pairs alone, against the translation of the two models."""
    rng, sides, flows = case.rng, [], []
    schedule = VPLinear(0.5, 3.0)
    laws = gaussian(rng, 2), gaussian(rng, 2)
    for law in laws:
        noise = AffineProcess(schedule).kernel(1.0).push(law)
        end = Gaussian(noise.mean(), noise.cov())
        bridge = GaussianBridge(law, Gaussian(np.zeros(2), 1.0) if wrong else end, schedule)
        if not wrong:
            sides.append(Sides(bridge.forward_pull(law.sample(3, rng), 0.5), 0.0, 1.0))
        flows.append(np.linalg.solve(law.cov(), end_pairs(bridge.model, lambda _: 0.0).cross_covariance()).T)
    channel = gaussian_translation(ExactModel(laws[0], schedule), ExactModel(laws[1], schedule))
    sides.append(Sides(np.linalg.solve(flows[1], flows[0]), channel.gain))
    if wrong:
        return sides
    made = channel.push(laws[0])
    best = optimal_map(laws[0], Gaussian(made.mean(), made.cov()))
    costs = [image_pairs(laws[0], way).cost() for way in (channel, best)]
    return [*sides, Sides(max(costs[1] - costs[0], 0.0), 0.0, costs[1])]


@identity(
    "The flow of a bridge lies between the optimal map and dual encoders",
    topic=TOPIC,
    formula=r"\varepsilon \to 0:\ \Phi_\varepsilon = T + O(\varepsilon^2),\qquad \varepsilon \to \infty:"
    r"\ \Phi_\varepsilon \to S_1^{1/2} S_0^{-1/2}\ \text{as}\ \log\varepsilon / \varepsilon^2",
    covers=["PODB-69", "PODB-88"],
    control="the two maps exchanged",
    over="once",
    evidence=ORDER,
    tolerance=1e-6,  # what is left of the next order, at the noises that are used
    most=1,
)
def flows_of_bridges(case: Case, wrong: bool) -> list[Sides]:
    """Probability flows of Brownian bridges with little and with much noise against products of symmetric roots."""
    rng = case.rng
    first, second = (Gaussian(rng.standard_normal(2), gaussian(rng, 2).cov() + 0.3 * np.eye(2)) for _ in range(2))

    def flow(epsilon: float) -> Array:
        model = GaussianBridge(first, second, epsilon).model
        return np.asarray(np.linalg.solve(first.cov(), end_pairs(model, lambda _: 0.0).cross_covariance()).T)

    a, b = square_root(first.cov()), square_root(second.cov())
    encoders = b @ np.linalg.inv(a)
    best = np.linalg.solve(a, square_root(a @ second.cov() @ a)) @ np.linalg.inv(a)
    if wrong:
        best, encoders = encoders, best
    # noise is little or much beside the singular values of both roots
    scales = np.linalg.svd(a @ b, compute_uv=False)
    little = extrapolate([flow(level * scales[-1]) for level in (0.08, 0.04, 0.02)], first=2, step=2)
    return [Sides(little, best, 1.0), Sides(flow(2000.0 * scales[0]), encoders, 1.0)]
