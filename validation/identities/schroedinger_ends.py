r"""One end given: half bridges, diffusion models as bridges, and what their prior misses at finite time.

    Psi = 1:  Psihat = p_t, forwards the reference, backwards Anderson's reversal; no cost, and p_T where it gets to
    min_{P_0 = p} KL(P || R) = KL(p || R_0),     min_{P_T = q} KL(P || R) = KL(q || R_T)
    two data points +-1, alpha^2 + sigma^2 = 1:  excess kurtosis of x_T = -2 alpha^4,  KL(p_T || N(0, 1)) ~ alpha^8 / 12

The mixture p_T keeps the data's shape to all orders in alpha; a bridge ends in the prior at any T.
"""

from __future__ import annotations

import numpy as np

from refdiff import operators
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, kl_divergence, random_mixture
from refdiff.expectations import Quadrature
from refdiff.metrics import divergence
from refdiff.model import ExactModel
from refdiff.processes import Process
from refdiff.schedules import VPLinear
from refdiff.schroedinger import (
    GaussianBridge,
    OneSidedBridge,
    backward_half_bridge,
    forward_half_bridge,
)
from refdiff.stochastic import forward_equation, marginal_family
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import differentiable
from refdiff.validation.identities.bridges_pinned import references
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, smallest_std
from refdiff.validation.steps import FINE, time_scale

TOPIC = "Schroedinger bridges"
NORMAL = Gaussian([0.0], 1.0)


@identity(
    "A diffusion model is the bridge with Psi = 1",
    topic=TOPIC,
    formula=r"\Psi = 1,\ \hat\Psi = p_t:\quad \partial_t p_t = -\nabla \cdot (f p_t) + \tfrac12 \mathrm{tr}(D"
    r" \nabla^2 p_t),\quad b^+ = f,\quad b^- = f - D \nabla \log p_t",
    covers=["PODB-89"],
    evidence=DERIVATIVE,
    control="half of the noise in the equation of Psihat, as if it were a flow's",
    needs=lambda case: differentiable(case, 3) and case.law.count <= 8,
    most=10,
)
def diffusion_model(case: ModelCase, wrong: bool) -> list[Sides]:
    """Stencils of log p_t in time and space; the bridge with the potential 1 against the exact model's equations."""
    model, t, x = case.model, case.t, case.x[:3]
    # the law at time 0, where exploding schedules have some noise already
    bridge = forward_half_bridge(model.marginal(0.0), case.process, case.process.T)
    flat = bridge.forward_pull(x, t)
    forward, reverse = forward_equation(case.process, case.law.dim), marginal_family(model)
    d = operators.dense(case.process.diffusion(t), case.law.dim)
    free, score = forward.drift_at(x, t), model.score(x, t)
    h = FINE * smallest_std(model.marginal(t))
    bends = numeric.jacobian(lambda y: np.asarray(model.score(y, t)), x, h)
    terms = np.stack(
        [
            numeric.derivative(lambda u: np.asarray(model.log_density(x, t + u)), 0.0, FINE * time_scale(case)),
            (free * score).sum(axis=1),
            np.full(len(x), np.trace(operators.dense(case.process.drift(t), case.law.dim))),
            -(0.25 if wrong else 0.5) * np.einsum("ij,nij->n", d, bends),
            -(0.25 if wrong else 0.5) * np.einsum("ni,ij,nj->n", score, d, score),
        ]
    )
    backward = free - operators.apply(d, score)
    return [
        Sides(terms.sum(axis=0), 0.0, scale=np.abs(terms).sum(axis=0)),
        Sides(flat, 0.0, 1.0),
        Sides(bridge.forward_drift(x, t), free, scale=1 + np.abs(free).max()),
        Sides(reverse.drift_at(x, t), backward, scale=np.abs(backward).max() + np.abs(free).max()),
        Sides(bridge.backward_drift(x, t), backward, scale=np.abs(backward).max() + np.abs(free).max()),
    ]


@identity(
    "A bridge costs nothing where the reference goes anyway",
    topic=TOPIC,
    formula=r"\mathrm{SB}(p, q) = \min_{P_0 = p, P_T = q} \mathrm{KL}(P \| R) \ge \mathrm{KL}(q \| R_T),\ R_0 = p:\quad"
    r" \mathrm{SB}(p, R_T) = 0,\quad \mathrm{SB}(p, q) = \mathrm{KL}(q \| R_T) +"
    r" \mathbb{E}_q\, \mathrm{KL}(P(x_0 | x_T) \| R(x_0 | x_T))",
    covers=["PODB-89"],
    over="once",
    control="the cost as KL(q || R_T) alone, that of the backward half bridge, which does not start from p",
)
def free_bridge(case: Case, wrong: bool) -> list[Sides]:
    """The cost of Gaussian bridges to R_T and to another law, against divergences of pairs from the other end."""
    p, q, found = gaussian(case.rng, 2), gaussian(case.rng, 2), []
    for process in references(case.rng).values():
        end = process.kernel(process.T).push(p)
        assert isinstance(end, Gaussian)
        other = GaussianBridge(p, q, process)
        reverse = process.kernel(process.T).reverse(p)
        pairs = other.pairs.mixture()
        # x_0 given x_T of the bridge: a regression and what it leaves
        cov, mean = pairs.cov(), pairs.mean()
        gain = np.linalg.solve(cov[2:, 2:], cov[2:, :2]).T
        left = cov[:2, :2] - gain @ cov[2:, :2]
        gap = operators.dense(reverse.gain, 2)
        shift = mean[:2] - gap @ mean[2:] - reverse.offset
        noise = operators.dense(reverse.noise, 2)
        within = kl_divergence(Gaussian(np.zeros(2), left), Gaussian(np.zeros(2), noise))
        turned = gain - gap
        square = np.trace(np.linalg.solve(noise, turned @ cov[2:, 2:] @ turned.T)) + shift @ np.linalg.solve(
            noise, shift
        )
        conditional = 0.0 if wrong else within + 0.5 * float(square)
        found.append(Sides(GaussianBridge(p, end, process).cost, 0.0, 1.0))
        found.append(Sides(other.cost, kl_divergence(q, end) + conditional, 1 + other.cost))
    return found


def gaussian_pairs_of(start: Gaussian, process: Process) -> Gaussian:
    """The law of (x_0, x_T) of a process from a Gaussian."""
    joint = forward_half_bridge(start, process).pairs.mixture()
    return Gaussian(joint.mean(), joint.cov())


@identity(
    "Half bridges and what they cost",
    topic=TOPIC,
    formula=r"\min_{P_0 = p} \mathrm{KL}(P \| R) = \mathrm{KL}(p \| R_0),\ P = p\, R(\cdot | x_0);\quad"
    r" \min_{P_T = q} \mathrm{KL}(P \| R) = \mathrm{KL}(q \| R_T),\ P = q\, R(\cdot | x_T)",
    covers=["PODB-90"],
    over="once",
    control="each at the cost of the other end's law",
)
def half_bridges(case: Case, wrong: bool) -> list[Sides]:
    """Divergences of pairs on R^4 against those of one end, and of other laws with that end against the chain rule."""
    p, q, start, found = gaussian(case.rng, 2), gaussian(case.rng, 2), gaussian(case.rng, 2), []
    for process in references(case.rng).values():
        free, end = gaussian_pairs_of(start, process), process.kernel(process.T).push(start)
        assert isinstance(end, Gaussian)
        ends = kl_divergence(p, start), kl_divergence(q, end)
        forward = forward_half_bridge(p, process).pairs.mixture()
        backward = backward_half_bridge(q, start, process).pairs.mixture()
        costs = tuple(kl_divergence(Gaussian(one.mean(), one.cov()), free) for one in (forward, backward))
        found += [Sides(a, b, 1 + b) for a, b in zip(costs, reversed(ends) if wrong else ends, strict=True)]
        # of all laws with P_0 = p: the bridge to q costs as much more as its steering
        both = GaussianBridge(p, q, process)
        joint = both.pairs.mixture()
        whole = kl_divergence(Gaussian(joint.mean(), joint.cov()), free)
        found.append(Sides(whole, ends[0] + both.cost, 1 + whole))
    return found


@identity(
    "Half bridges from mixtures",
    topic=TOPIC,
    formula=r"P = q\, R(\cdot | x_T):\quad p_0(x) = R_0(x) \int \frac{q(y)}{R_T(y)}\, p(y | x)\, dy,\quad"
    r" \mathrm{KL}(P \| R) = \mathrm{KL}(q \| R_T)",
    covers=["PODB-90"],
    over="once",
    evidence=QUADRATURE,
    control="the first law as if nothing had happened, R_0",
)
def mixed_half_bridges(case: Case, wrong: bool) -> list[Sides]:
    """The first law by averaging plans over q, against Doob's weight; the divergence by sums over pairs on the line."""
    start = GaussianMixture.isotropic([[-1.0], [1.2]], [0.4, 0.5], case.rng.dirichlet([4.0, 4.0]))
    q = GaussianMixture.isotropic([[-0.4], [0.9]], [0.5, 0.6], case.rng.dirichlet([4.0, 4.0]))
    half, end = backward_half_bridge(q, start, VPLinear(0.5, 2.0)), ExactModel(start, VPLinear(0.5, 2.0)).marginal(1.0)
    step = half.process.kernel(1.0)
    h = 0.05
    x = numeric.ticks(-7.0, 7.0, h)[:, None]
    kernel = np.exp(np.stack([step.at(one).logpdf(x) for one in x]))
    weights = q.logpdf(x) - end.logpdf(x)
    first = start.logpdf(x) if wrong else start.logpdf(x) + np.log(kernel @ np.exp(weights) * h)
    masses = np.exp(start.logpdf(x))[:, None] * kernel * np.exp(weights) * h * h
    middle = np.abs(x[:, 0]) < 3
    made = half.log_density(x[middle], 0.0, Quadrature(1e-11)).value
    return [
        Sides(np.exp(made), np.exp(first[middle])),
        Sides(float((masses * weights).sum()), divergence(q, end, "kl", Quadrature(1e-11)).value),
    ]


def excess_kurtosis(law: GaussianMixture) -> float:
    """E (x - m)^4 / v^2 - 3 of a law on the line, by Gauss-Hermite sums over its components."""
    z, w = numeric.hermite(8)
    x = law.means[:, :1] + np.sqrt(law.covariances.dense(1)[:, 0]) * z
    left = x - law.mean()
    second, fourth = (float(law.weights @ (left**k @ w)) for k in (2, 4))
    return fourth / second**2 - 3


@identity(
    "Noised data keep their shape at any finite time",
    topic=TOPIC,
    formula=r"p_T = \int \mathcal{N}(x; \alpha_T x_0, \sigma_T^2)\, p_{\mathrm{data}}(dx_0):\quad"
    r" x_0 = \pm 1,\ \alpha^2 + \sigma^2 = 1:\ \frac{\mathbb{E} x_T^4}{(\mathbb{E} x_T^2)^2} - 3 = -2 \alpha_T^4",
    covers=["PODB-91"],
    refutes=["PODB-91"],
    over="once",
    control="p_T as printed: a Gaussian with parameters of the data, of excess kurtosis 0",
)
def kept_shape(case: Case, wrong: bool) -> list[Sides]:
    """Fourth moments of x_T for two points and for a mixture, by sums over p_T and from the cumulants of the data."""
    two, found = Empirical([[-1.0], [1.0]]), []
    data = random_mixture(1, 3, case.rng)
    for t in (0.3, 0.6, 1.0):
        schedule = VPLinear(0.2, 2.0 + case.rng.random())
        alpha = float(schedule.alpha(t))
        law = ExactModel(two, schedule).marginal(t)
        found.append(Sides(excess_kurtosis(law), 0.0 if wrong else -2 * alpha**4, 1.0))
        # fourth cumulants of independent terms add up, and a Gaussian's is 0
        spread = alpha**2 * float(data.cov()[0, 0])
        total = spread + float(schedule.sigma(t)) ** 2
        expected = 0.0 if wrong else excess_kurtosis(data) * (spread / total) ** 2
        found.append(Sides(excess_kurtosis(ExactModel(data, schedule).marginal(t)), expected, 1.0))
    return found


@identity(
    "How far noised data are from their prior",
    topic=TOPIC,
    formula=r"x_0 = \pm 1,\ \alpha^2 + \sigma^2 = 1:\quad \mathrm{KL}(p_T \| \mathcal{N}(0, 1)) ="
    r" \tfrac{1}{12} \alpha_T^8 + O(\alpha_T^{10}) > 0",
    covers=["PODB-91"],
    over="once",
    evidence=ORDER,
    control="the rate alpha^4 / 4 of data whose variance does not match",
)
def mismatch_rate(case: Case, wrong: bool) -> list[Sides]:  # noqa: ARG001
    """Sums over the line of p_T log(p_T / N(0, 1)) for falling alpha, divided by alpha^8 and extrapolated."""
    x = numeric.ticks(-12.0, 12.0, 0.02)[:, None]
    ratios, squares = [], np.array([0.08, 0.04, 0.02, 0.01])
    for square in squares:
        law = Empirical([[-1.0], [1.0]]).affine(np.sqrt(square)).convolve(1 - square)
        # log cosh(a x / s^2) - a^2 (x^2 + 1) / (2 s^2) - log s keeps its digits where logarithms of densities cancel
        logs = np.log1p(np.cosh(np.sqrt(square) * x[:, 0] / (1 - square)) - 1)
        logs = logs - square * (x[:, 0] ** 2 + 1) / (2 * (1 - square)) - 0.5 * np.log1p(-square)
        ratios.append(np.asarray((np.exp(law.logpdf(x)) * logs).sum() * 0.02 / square**4))
    limit = numeric.extrapolate(ratios)
    return [Sides(limit, 0.25 if wrong else 1 / 12, 1 / 12)]


def semi_discrete(data: Empirical, prior: Gaussian, process: Process, turns: int = 400) -> OneSidedBridge:
    """The bridge of points on the line and a prior: weights u of the points by turns, with sums over the prior.

    Args:
        data: the points and their weights.
        prior: the law of x_T.
        process: the reference.
        turns: how many.
    """
    y = numeric.ticks(-9.0, 9.0, 0.07)[:, None]
    w = np.exp(prior.logpdf(y)) * 0.07
    kernel = np.stack([process.kernel(process.T).at(one).logpdf(y) for one in data.means])
    u = data.log_weights
    for _ in range(turns):
        past = np.logaddexp.reduce(u[:, None] + kernel, axis=0)
        made = np.exp(u[:, None] + kernel - past) @ w
        u = u + data.log_weights - np.log(made)
    weights = np.exp(u - u.max())
    return OneSidedBridge(prior, Empirical(data.means, weights), process, given="second")


@identity(
    "A bridge ends in its prior at finite time",
    topic=TOPIC,
    formula=r"P_T = \mathcal{N}(0, 1),\ \hat\Psi_0 = \sum_i u_i \delta_{x_i}:\quad \mathbb{E}_{y \sim P_T}"
    r" \frac{u_i\, p(y | x_i)}{\sum_k u_k\, p(y | x_k)} = a_i,\quad u = a\ \text{for two points}\ \pm 1",
    covers=["PODB-91", "PODB-89"],
    over="once",
    evidence=QUADRATURE,
    control="the reversal of the diffusion from the prior, u = a, which misses the data",
)
def ends_in_its_prior(case: Case, wrong: bool) -> list[Sides]:
    """The law of x_0 that the backward equation makes of N(0, 1), by lattices; two symmetric points need no turn."""
    process, found = VPLinear(0.2, 1.5), []
    points = np.array([[-1.5], [0.2], [1.0]]) + 0.2 * case.rng.random((3, 1))
    data = Empirical(points, case.rng.dirichlet(np.full(3, 4.0)))
    for one in (Empirical([[-1.0], [1.0]]), data):
        bridge = OneSidedBridge(NORMAL, one, process, given="second")  # two symmetric points need no turn
        if one is data and not wrong:
            bridge = semi_discrete(one, NORMAL, bridge.process)
        y = numeric.ticks(-9.0, 9.0, 0.05)[:, None]
        density = np.exp(NORMAL.logpdf(y)) * 0.05
        made = density @ np.stack([np.asarray(bridge.conditional_plan(at).weights) for at in y])
        found.append(Sides(made, one.weights))
    return found
