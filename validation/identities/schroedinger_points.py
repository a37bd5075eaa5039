r"""Schroedinger bridges of point sets and of mixtures: potentials from Sinkhorn's weights, or chosen.

    u_i sum_j K_ij v_j = a_i,   v_j sum_i u_i K_ij = b_j,   K_ij = p(y_j | x_i)
    Psi = sum_j v_j p(x_T = y_j | x_t = x),  Psihat = sum_i u_i p(x_t = x | x_0 = x_i),  p_t = Psi Psihat

Weights and sums are plain here, or mixtures of pinned bridges, stencils and integrals over time; the library's are
kernels and closed forms. Mixing the bridges of components is no bridge of mixtures:
it costs more, by a divergence.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture
from refdiff.path_measures import EndWeight
from refdiff.processes import Process
from refdiff.schroedinger import ExponentialSum, GaussianBridge, MixtureBridge, point_bridge, point_plan
from refdiff.stochastic import forward_equation
from refdiff.transport import PairLaw
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identities.bridges_pinned import references
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import lattice

TOPIC = "Schroedinger bridges"
# of stencils: shares of two ends change over their noise by their distance, some tenths of a unit
STEP = 0.002


def two_sets(rng: np.random.Generator, dim: int = 2) -> tuple[Empirical, Empirical]:
    """Two sets of 4 and 5 points in `dim` dimensions, with weights, by `rng`."""
    x, y = rng.standard_normal((4, dim)), 0.5 + rng.standard_normal((5, dim))
    return Empirical(x, rng.dirichlet(np.full(4, 3.0))), Empirical(y, rng.dirichlet(np.full(5, 3.0)))


def plain_weights(p: Empirical, q: Empirical, log_kernel: Array) -> tuple[Array, Array]:
    """log u (n,) and log v (m,) by turns, until nothing changes beyond rounding, for a `log_kernel` (n, m)."""
    v = np.zeros(q.count)
    for _ in range(4000):
        u = p.log_weights - logsumexp(log_kernel + v, axis=1)
        before, v = v, q.log_weights - logsumexp(log_kernel + u[:, None], axis=0)
        if np.abs(v - before).max() < 1e-15:
            break
    return u, v


def log_kernel(process: Process, s: float, t: float, x: Array, y: Array) -> Array:
    """log p(x_t = y | x_s = x) at all pairs of x (n, d) and y (m, d), shape (n, m)."""
    return np.array([process.channel(s, t).at(one).logpdf(y) for one in x])


@identity(
    "Potentials of points multiply to a mixture of pinned bridges",
    topic=TOPIC,
    formula=r"\Psi = \sum_j v_j\, p(y_j | x),\ \hat\Psi = \sum_i u_i\, p(x | x_i):\quad \Psi \hat\Psi ="
    r" \sum_{ij} u_i K_{ij} v_j\, \mathcal{N}(x; P y_j + Q x_i + c, V),\quad"
    r" \sum_j u_i K_{ij} v_j = a_i,\ \sum_i u_i K_{ij} v_j = b_j",
    covers=["PODB-79", "PODB-83"],
    over="once",
    tolerance=1e-11,  # Sinkhorn's marginal error of 1e-12 is met by that of the plain turns
    control="the weights a and b themselves in the place of u and v",
)
def product_of_potentials(case: Case, wrong: bool) -> list[Sides]:
    """The library's potentials and mixture against plain sums with plain weights, and both marginals."""
    found, (p, q) = [], two_sets(case.rng)
    for process in references(case.rng).values():
        bridge = point_bridge(p, q, process, tolerance=1e-12)
        kernel = log_kernel(process, 0.0, 1.0, p.means, q.means)
        u, v = (p.log_weights, q.log_weights) if wrong else plain_weights(p, q, kernel)
        masses = np.exp(u[:, None] + kernel + v)
        found += [Sides(masses.sum(axis=1), p.weights), Sides(masses.sum(axis=0), q.weights)]
        for t in (0.2, 0.8):
            x = bridge.sample([t], 4, case.rng)[0]
            forward = logsumexp(v + log_kernel(process, t, 1.0, x, q.means), axis=1)
            backward = logsumexp(u[:, None] + log_kernel(process, 0.0, t, p.means, x), axis=0)
            right, scale = bridge.model.log_density(x, t), 1 + np.abs(forward) + np.abs(backward)
            found.append(Sides(forward + backward, right, scale))
            found.append(Sides(bridge.log_density(x, t), right, scale))
    return found


def system_terms(bridge: MixtureBridge, x: Array, t: float) -> tuple[Array, Array]:
    """The terms d_t, f . grad (and div f), tr(D Hess) / 2, |grad|_D^2 / 2 of log Psi and log Psihat, each (5, n)."""
    process, dim = bridge.process, bridge.dim
    d = operators.dense(process.diffusion(t), dim)
    free = forward_equation(process, dim).drift_at(x, t)
    divergence = np.trace(operators.dense(process.drift(t), dim))

    def terms(which: int) -> Array:
        def value(y: Array, u: float) -> Array:
            return np.asarray(bridge.log_potentials(y, u)[which])

        slopes = numeric.jacobian(lambda y: value(y, t), x, STEP)
        # the Hessian by stencils of the library's gradient, which is compared with those of its values
        pull = bridge.forward_pull if which == 0 else bridge.backward_pull
        bends = numeric.jacobian(lambda y: np.asarray(pull(y, t)), x, STEP)
        return np.stack(
            [
                numeric.derivative(lambda h: value(x, t + h), 0.0, STEP),
                (free * slopes).sum(axis=1),
                np.full(len(x), divergence),
                0.5 * np.einsum("ij,nij->n", d, bends),
                0.5 * np.einsum("ni,ij,nj->n", slopes, d, slopes),
            ]
        )

    return terms(0), terms(1)


@identity(
    "The Schroedinger system of points and of mixtures",
    topic=TOPIC,
    formula=r"\partial_t \Psi = -f \cdot \nabla \Psi - \tfrac12 \mathrm{tr}(D \nabla^2 \Psi),\quad"
    r" \partial_t \hat\Psi = -\nabla \cdot (f \hat\Psi) + \tfrac12 \mathrm{tr}(D \nabla^2 \hat\Psi),\quad"
    r" (\Psi, \hat\Psi) \to (k \Psi, \hat\Psi / k)",
    covers=["PODB-79", "PODB-83"],
    over="once",
    evidence=DERIVATIVE,
    control="the second equation's sign of the Laplacian in the first",
)
def schroedinger_system(case: Case, wrong: bool) -> list[Sides]:
    """Stencils in time and space of both logarithms, for points, mixtures and growing potentials on each reference."""
    found, (p, q), t = [], two_sets(case.rng), 0.5
    first, second = random_mixture(2, 2, case.rng, "full"), random_mixture(2, 3, case.rng, "isotropic")
    for name, process in references(case.rng).items():
        bridges: list[MixtureBridge] = [point_bridge(p, q, process)]
        if name == "matrices":
            bridges.append(MixtureBridge(first, second, process))
        if name == "Brownian motion":
            bridges.append(MixtureBridge(first, ExponentialSum.adjusted(second, 1.0), process))
        for bridge in bridges:
            x = bridge.sample([t], 2, case.rng)[0]
            forward, backward = system_terms(bridge, x, t)
            sign = -1.0 if wrong else 1.0
            left = forward[0] + forward[1] + sign * (forward[3] + forward[4])
            found.append(Sides(left, 0.0, scale=np.abs(forward).sum(axis=0)))
            left = backward[:3].sum(axis=0) - backward[3:].sum(axis=0)
            found.append(Sides(left, 0.0, scale=np.abs(backward).sum(axis=0)))
    return found


@identity(
    "The potentials' gauge",
    topic=TOPIC,
    formula=r"(\Psi, \hat\Psi) \to (k \Psi, \hat\Psi / k):\quad p_t = \Psi \hat\Psi,\ b^\pm \text{ unchanged}",
    covers=["PODB-79"],
    over="once",
    control="both potentials multiplied by k",
)
def gauge(case: Case, wrong: bool) -> list[Sides]:
    """Potentials times e^3 and e^-3: the same density and the same drifts."""
    found, k, t, start = [], 3.0, 0.4, ExponentialSum.density(random_mixture(2, 2, case.rng, "full"))
    end = ExponentialSum.density(random_mixture(2, 3, case.rng, "full"))

    def scaled(one: ExponentialSum, by: float) -> ExponentialSum:
        return ExponentialSum(one.curvatures, one.slopes, one.constants + by)

    for process in references(case.rng).values():
        plain = MixtureBridge(start, end, process)
        other = MixtureBridge(scaled(start, k if wrong else -k), scaled(end, k), process)
        x = plain.sample([t], 4, case.rng)[0]
        scale = 1 + np.abs(plain.log_potentials(x, t)).max()
        found.append(Sides(other.log_potentials(x, t)[0] - k, plain.log_potentials(x, t)[0], scale))
        found.append(Sides(other.log_mass, plain.log_mass, 1 + abs(plain.log_mass)))
        found += [Sides(one(x, t), two(x, t)) for one, two in (
            (other.forward_drift, plain.forward_drift), (other.backward_drift, plain.backward_drift),
        )]  # fmt: skip
    return found


@identity(
    "Drifts of a bridge of points pull to expected ends",
    topic=TOPIC,
    formula=r"b^+ = F x + u + D K^\top N^{-1} (\mathbb{E}[x_T | x_t] - K x - k),\quad F = 0:\quad"
    r" b^+ = \frac{\mathbb{E}[x_T | x_t] - x}{T - t},\ b^- = \frac{x - \mathbb{E}[x_0 | x_t]}{t}",
    covers=["PODB-80", "PODB-81", "PODB-83"],
    over="once",
    control="the ends expected of the product of both weights, without Sinkhorn",
)
def expected_ends(case: Case, wrong: bool) -> list[Sides]:
    """Bayes' rule over the pairs of points, and the two drifts of the potentials."""
    found, (p, q) = [], two_sets(case.rng)
    for name, process in references(case.rng).items():
        bridge = point_bridge(p, q, process, tolerance=1e-12)
        for t in (0.3, 0.8):
            x, step = bridge.sample([t], 4, case.rng)[0], process.channel(t, 1.0)
            if wrong:
                logs = q.log_weights + log_kernel(process, t, 1.0, x, q.means)
                end = np.exp(logs - logsumexp(logs, axis=1, keepdims=True)) @ q.means
            else:
                end = bridge.model.expected_second(x, t)
            left = end - operators.apply(step.gain, x) - step.offset
            noise = operators.dense(step.noise, 2)
            pull = operators.apply(step.gain.T, np.linalg.solve(noise, left.T).T)
            free = forward_equation(process, 2).drift_at(x, t)
            drift = free + operators.apply(process.diffusion(t), pull)
            found.append(Sides(bridge.forward_drift(x, t), drift, scale=np.abs(drift).max() + np.abs(free).max()))
            if name == "Brownian motion":
                start = bridge.model.expected_first(x, t)
                found.append(Sides(bridge.backward_drift(x, t), (x - start) / t))
                found.append(Sides(bridge.forward_drift(x, t), (end - x) / (1 - t)))
    return found


@identity(
    "The divergence of a bridge of points is that of its plan",
    topic=TOPIC,
    formula=r"\mathrm{KL}(P \| R^h) = \mathrm{KL}(\gamma \| R^h_{0T}) = \mathrm{KL}(a \| a') + \tfrac12 \mathbb{E}"
    r" \int_0^T |\nabla \log \Psi - \nabla \log h|_D^2\, dt,\quad h = \sum_j b_j\, p(y_j | x)",
    covers=["PODB-76", "PODB-77", "PODB-83"],
    refutes=["PODB-77"],
    over="once",
    evidence=QUADRATURE,
    control="without the divergence of the first laws, as printed",
)
def static_and_dynamic(case: Case, wrong: bool) -> list[Sides]:
    """Sums over pairs against integrals over p_t and time; the reference is weighted by where it ends."""
    rng = case.rng
    # far enough apart for their shares to part early: those of near ends do so within little time, late
    x, y = (np.array(at)[:, None] + 0.2 * rng.random((len(at), 1)) for at in ([-1.5, 0.0, 1.5], [-1.0, 2.0]))
    p, q = Empirical(x, rng.dirichlet(np.full(3, 3.0))), Empirical(y, rng.dirichlet(np.full(2, 3.0)))
    other = rng.dirichlet(np.full(p.count, 3.0))
    bridge = point_bridge(p, q, 0.8, tolerance=1e-13)
    weight = EndWeight(bridge.process, q)
    kernel = log_kernel(bridge.process, 0.0, 1.0, p.means, q.means) + q.log_weights
    free = np.log(other)[:, None] + kernel - logsumexp(kernel, axis=1, keepdims=True)
    masses = point_plan(p, q, 0.8, tolerance=1e-13).coupling()
    divergence = float((masses * (np.log(masses) - free)).sum())

    def rate(t: float) -> float:
        law = bridge.marginal(t)
        # shares of two ends change over eps (1 - t) / 2, less than a deviation of p_t but not where p_t is large
        spread = float(np.sqrt(law.covariances.dense(1)[0, 0, 0]))
        x = np.arange(law.means.min() - 9 * spread, law.means.max() + 9 * spread, spread / 8)[:, None]
        gap = bridge.forward_pull(x, t) - weight.gradient(x, t)
        return float(0.8 * (np.exp(law.logpdf(x)) * gap[:, 0] ** 2).sum() * spread / 8)

    nodes, w = numeric.legendre(48)
    times, speed = np.sin(0.5 * np.pi * nodes) ** 2, 0.5 * np.pi * np.sin(np.pi * nodes)
    energy = 0.5 * float((w * speed) @ np.array([rate(t) for t in times]))
    start = 0.0 if wrong else float(p.weights @ np.log(p.weights / other))
    return [Sides(divergence, start + energy)]


def component_mixture(bridge: MixtureBridge) -> PairLaw:
    """The marginals of a bridge of mixtures joined by the bridges of their components, by equal shares of both."""
    p, q = bridge.marginal(0.0), bridge.marginal(bridge.T)
    parts = [(i, j) for i in range(p.count) for j in range(q.count)]
    each = []
    for i, j in parts:
        one, two = (Gaussian(law.means[k], law.covariances[k : k + 1].operator()) for law, k in ((p, i), (q, j)))
        each.append(GaussianBridge(one, two, bridge.process, bridge.T).pairs)
    logs = np.array([p.log_weights[i] + q.log_weights[j] for i, j in parts])
    first, second = (
        GaussianMixture.full([pair.means[0] for pair in side], [pair.cov() for pair in side], np.exp(logs))
        for side in ([one.first for one in each], [one.second for one in each])
    )
    cross = np.stack([np.broadcast_to(one.cross.dense(1)[0], (1, 1)) for one in each])
    return PairLaw(first, second, type(first.covariances)(cross))


@identity(
    "A mixture of bridges between components is no bridge",
    topic=TOPIC,
    formula=r"\pi = \sum_{ij} w_{ij} \gamma_{ij}:\quad \mathrm{KL}(\pi \| R_{0T}) ="
    r" \mathrm{KL}(\gamma \| R_{0T}) + \mathrm{KL}(\pi \| \gamma),\quad \pi_0 = \gamma_0,\ \pi_T = \gamma_T",
    covers=["PODB-76"],
    over="once",
    evidence=QUADRATURE,
    control="no gap: mixing the bridges of components taken for the bridge of the mixtures",
)
def components_cost_more(case: Case, wrong: bool) -> list[Sides]:
    """Sums over the plane of pairs on the line: the plan of chosen potentials, and one with the same marginals."""
    first = GaussianMixture.isotropic([[-1.2], [0.8]], [0.4, 0.6], case.rng.dirichlet([4.0, 4.0]))
    second = GaussianMixture.isotropic([[-0.7], [1.4]], [0.5, 0.4], case.rng.dirichlet([4.0, 4.0]))
    bridge = MixtureBridge(first, second, 0.7)
    gamma, pi = bridge.pairs.mixture(), component_mixture(bridge).mixture()
    h = 0.06  # a fifth of the least deviation of a component of either
    x = lattice(np.arange(-6.0, 6.0, h), np.arange(-6.0, 6.0, h))
    logs, others = gamma.logpdf(x), pi.logpdf(x)
    free = bridge.marginal(0.0).logpdf(x[:, :1]) - 0.5 * (x[:, 1] - x[:, 0]) ** 2 / 0.7 - 0.5 * np.log(1.4 * np.pi)
    mine, theirs, gap = (
        float((np.exp(one) * (one - two)).sum() * h * h) for one, two in ((logs, free), (others, free), (others, logs))
    )
    same = [Sides(pi.marginal([k]).logpdf(x[:9, :1]), gamma.marginal([k]).logpdf(x[:9, :1])) for k in (0, 1)]
    return [Sides(theirs, mine + (0.0 if wrong else gap)), *same]


@identity(
    "Bridges of points with much noise",
    topic=TOPIC,
    formula=r"\epsilon \to \infty:\quad \epsilon \Big(\frac{\gamma_{ij}}{a_i b_j} - 1\Big) \to"
    r" (x_i - \bar x) \cdot (y_j - \bar y)",
    covers=["PODB-83"],
    over="once",
    evidence=ORDER,
    control="points that are not centred",
)
def much_noise(case: Case, wrong: bool) -> Sides:
    """Masses over products of weights at falling 1 / eps, extrapolated: -c / eps less its margins, to first order."""
    p, q = two_sets(case.rng)
    values = []
    for epsilon in (100.0, 200.0, 400.0, 800.0):
        masses = point_plan(p, q, epsilon, tolerance=1e-13).coupling()
        values.append(epsilon * (masses / np.outer(p.weights, q.weights) - 1))
    x, y = (one.means if wrong else one.means - one.mean() for one in (p, q))
    return Sides(numeric.extrapolate(values), x @ y.T)
