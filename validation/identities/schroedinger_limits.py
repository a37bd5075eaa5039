r"""What Gaussian bridges cost and tend to: entropic and optimal transport, little noise, much noise.

    eps T KL(P || R) = EOT + (eps T d / 2) log(2 pi eps T) - eps T H(q),   c = |x - y|^2 / 2
    2 eps T KL(P || R) = W_2^2 + e (H(p) - H(q)) + e^2/4 sum 1/s_i - e^4/192 sum 1/s_i^3 + ..,   e = eps T

with s_i the singular values of S_0^(1/2) S_1^(1/2): KL itself diverges. The current velocity tends to that of optimal
transport like eps^2, and the drift like eps, by the osmotic part eps grad log p_t / 2.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, entropy, kl_divergence
from refdiff.processes import AffineProcess
from refdiff.schedules import VPLinear
from refdiff.schroedinger import GaussianBridge, little_noise
from refdiff.transport import GaussianPlan, gaussian_pairs, independent
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identities.bridges_pinned import references
from refdiff.validation.identities.schroedinger_gaussian import TOPIC, bridges, pair
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.laws import gaussian, square_root, well_conditioned

LOG_2PI = float(np.log(2 * np.pi))


def cross_covariance(p: Gaussian, q: Gaussian, e: float) -> Array:
    """S^(1/2) [(4 S^(1/2) R S^(1/2) + e^2)^(1/2) - e] S^(-1/2) / 2 of covariances S, R (d, d), by symmetric roots."""
    root = square_root(p.cov())
    inner = square_root(4 * root @ q.cov() @ root + e * e * np.eye(p.dim))
    return np.asarray(0.5 * (root @ inner @ np.linalg.inv(root) - e * np.eye(p.dim)))


def plain_transport(p: Gaussian, q: Gaussian) -> tuple[float, Array, Array]:
    """W_2^2, the optimal map's matrix (d, d) and the singular values (d,) of S^(1/2) R^(1/2), by symmetric roots."""
    root = square_root(p.cov())
    inner = square_root(root @ q.cov() @ root)
    back = np.linalg.inv(root)
    shift = q.mean() - p.mean()
    squared = shift @ shift + np.trace(p.cov()) + np.trace(q.cov()) - 2 * np.trace(inner)
    return float(squared), np.asarray(back @ inner @ back), np.asarray(np.linalg.eigvalsh(inner), dtype=np.float64)


@identity(
    "Closed form of the Gaussian bridge",
    topic=TOPIC,
    formula=r"C = \tfrac12 S_0^{1/2} [(4 S_0^{1/2} S_1 S_0^{1/2} + e^2)^{1/2} - e] S_0^{-1/2},\ e = \varepsilon T:\quad"
    r" \Sigma_t = (1 - s)^2 S_0 + s^2 S_1 + s (1 - s) (C + C^\top + e),\ s = t / T",
    covers=["PODB-82", "PODB-85", "PODB-99"],
    refutes=["PODB-85"],
    over="once",
    control="the plan of |x - y|^2, which pairs with twice the noise: covariances .3904 for .3090",
)
def closed_form(case: Case, wrong: bool) -> list[Sides]:
    """Matrices by symmetric roots against singular values; the drift by the regression of x_T on x_t."""
    rng, epsilon, end = case.rng, 0.6, 1.7
    p, q, e, t = gaussian(rng, 3), gaussian(rng, 3), epsilon * end, 0.7
    bridge, x, s = GaussianBridge(p, q, epsilon, end), rng.standard_normal((4, 3)), t / end
    c = cross_covariance(p, q, e / 2 if wrong else e)
    cov = (1 - s) ** 2 * p.cov() + s**2 * q.cov() + s * (1 - s) * (c + c.T + e * np.eye(3))
    mean = (1 - s) * p.mean() + s * q.mean()
    expected = q.mean() + (x - mean) @ np.linalg.solve(cov, (1 - s) * c + s * q.cov())
    golden = Gaussian([0.0], 1.0), Gaussian([2.0], 0.25)
    half = GaussianPlan(*golden, 0.5, Channel(noise=0.5)).pairs().cross_covariance()
    return [
        Sides(bridge.pairs.cross_covariance(), c),
        Sides(bridge.marginal(t).cov(), cov),
        Sides(bridge.marginal(t).mean(), mean),
        Sides(bridge.forward_drift(x, t), (expected - x) / (end - t)),
        Sides(GaussianBridge(*golden, 0.5).pairs.cross_covariance(), half if wrong else (np.sqrt(5) - 1) / 4),
        Sides(half, 0.390388203202207),
    ]


@identity(
    "Static and dynamic problem have one value",
    topic=TOPIC,
    formula=r"\varepsilon T\, \mathrm{KL}(P \| R) = \mathbb{E}\, \tfrac12 |x_0 - x_T|^2 + \varepsilon T\,"
    r" \mathrm{KL}(\gamma \| p \otimes q) + \tfrac{\varepsilon T d}{2} \log(2 \pi \varepsilon T) - \varepsilon T H(q)",
    covers=["PODB-85", "PODB-99"],
    refutes=["PODB-85"],
    over="once",
    control="the cost |x - y|^2 of Figure 7.3",
)
def static_is_dynamic(case: Case, wrong: bool) -> list[Sides]:
    """From eps = 1 to 1e-4, with the coupling by symmetric roots and divergences of Gaussians."""
    rng, found = case.rng, []
    p, q, end = gaussian(rng, 2), gaussian(rng, 2), 1.3
    for epsilon in (1.0, 1e-1, 1e-2):
        e = epsilon * end
        coupling = gaussian_pairs(p, q, cross_covariance(p, q, e))
        cost = coupling.cost() * (1.0 if wrong else 0.5)
        shared = e * kl_divergence(pair(coupling), pair(independent(p, q)))
        terms = np.array([cost, shared, e * np.log(2 * np.pi * e), -e * entropy(q)])
        left = e * GaussianBridge(p, q, epsilon, end).cost
        found.append(Sides(left, terms.sum(), scale=np.abs(terms).max() / epsilon))
    return found


@identity(
    "The reference determines the cost, and the pairing the plan",
    topic=TOPIC,
    formula=r"c(x, y) = -\log p_T(y | x):\quad \mathrm{KL}(P \| R) = \mathbb{E}_\gamma\, c + \mathrm{KL}(\gamma \| p"
    r" \otimes q) - H(q);\quad A^\top N^{-1} = \tilde A^\top \tilde N^{-1} \Rightarrow \gamma = \tilde\gamma",
    covers=["PODB-86"],
    over="once",
    control="references with the same noise, and another gain",
)
def reference_cost(case: Case, wrong: bool) -> list[Sides]:
    """Every kind of reference; noise is exchanged and the gain with it; one axis of OU against Brownian motion."""
    rng, found = case.rng, []
    for bridge in bridges(rng).values():
        way, joint = bridge.interpolant.overall, pair(bridge.pairs)
        a, n = in_the_plane(way.gain), in_the_plane(way.noise)
        left = np.hstack([-a, np.eye(2)])
        gap = left @ joint.mean() - way.offset
        spread = left @ joint.cov() @ left.T + np.outer(gap, gap)
        cost = 0.5 * (np.trace(np.linalg.solve(n, spread)) + np.linalg.slogdet(n)[1]) + LOG_2PI
        shared = kl_divergence(joint, pair(independent(bridge.p, bridge.q)))
        found.append(Sides(bridge.cost, cost + shared - entropy(bridge.q), scale=abs(cost) + shared + 1))
        other = well_conditioned(rng, 2)
        other = other @ other.T
        turned = Channel(a if wrong else other @ np.linalg.solve(n, a), rng.standard_normal(2), other)
        plan = GaussianPlan(bridge.p, bridge.q, 1.0, turned).pairs()
        found.append(Sides(plan.cross_covariance(), bridge.pairs.cross_covariance()))
    c = VPLinear(0.5, 3.0).coefficients(1.0)
    s0, s1 = rng.uniform(0.3, 2.0, 2)
    one, two = Gaussian([0.3], s0**2), Gaussian([-0.4], s1**2)
    e = float(c.sigma**2 / c.alpha)
    known = (np.hypot(e, 2 * s0 * s1) - e) / 2
    found.append(Sides(GaussianBridge(one, two, VPLinear(0.5, 3.0)).pairs.cross_covariance(), known))
    found.append(Sides(GaussianBridge(one, two, e).pairs.cross_covariance(), known))
    return found


def in_the_plane(a: Array) -> Array:
    """An operator on the plane as a matrix (2, 2)."""
    return a if a.ndim == 2 else np.eye(2) * a


@identity(
    "A reference that forgets leaves the ends independent",
    topic=TOPIC,
    formula=r"\alpha_T \to 0:\quad \mathrm{Cov}(x_0, x_T) = \frac{\alpha_T}{\sigma_T^2} S_0 S_1 + O(\alpha_T^3);\quad"
    r" \varepsilon \to \infty:\ \varepsilon\, \mathrm{Cov}(x_0, x_T) \to S_0 S_1",
    covers=["PODB-82", "PODB-86"],
    over="once",
    evidence=ORDER,
    control="S_0 alone",
)
def forgetting(case: Case, wrong: bool) -> list[Sides]:
    """Extrapolation in alpha^2 of longer and longer VP references, and in 1 / eps^2 of Brownian ones."""
    rng = case.rng
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    limit = p.cov() if wrong else p.cov() @ q.cov()
    longer, louder = [], []
    for k in range(3):
        process = AffineProcess(VPLinear(4.0, 4.0, T=1.0 + 0.5 * np.log(2.0) * k))  # alpha = e^(-2 T) halves
        c = process.coefficients(process.T)
        longer.append(GaussianBridge(p, q, process).pairs.cross_covariance() * c.sigma**2 / c.alpha)
        epsilon = 10.0 * 2**k
        louder.append(epsilon * GaussianBridge(p, q, epsilon).pairs.cross_covariance())
    return [Sides(numeric.extrapolate(values, 2.0, 2, 2), limit) for values in (longer, louder)]


@identity(
    "Little noise: the rate at which the cost tends to the distance",
    topic=TOPIC,
    formula=r"2 e\, \mathrm{KL}(P \| R) = W_2^2 + e\, [H(p) - H(q)] + \tfrac{e^2}{4} \sum s_i^{-1}"
    r" - \tfrac{e^4}{192} \sum s_i^{-3} + O(e^6),\quad e = \varepsilon T",
    covers=["PODB-88", "PODB-99"],
    refutes=["PODB-88"],
    over="once",
    evidence=ORDER,
    control="the limit of KL itself, as printed, without the factor 2 eps T",
)
def little_noise_rate(case: Case, wrong: bool) -> list[Sides]:
    """What is left after each term, divided by the power of the next and extrapolated, for T = 2."""
    rng, end = case.rng, 2.0
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    squared, _, s = plain_transport(p, q)
    terms, steps = [squared, entropy(p) - entropy(q), (1 / s).sum() / 4, -(s**-3.0).sum() / 192], s.min() / 4
    noise = [steps * 2.0**-k for k in range(5)]
    scaled = [(1.0 if wrong else 2 * e) * GaussianBridge(p, q, e / end, end).cost for e in noise]
    found = [Sides(numeric.extrapolate([np.asarray(one) for one in scaled[1:]]), terms[0])]
    left = [one - terms[0] - terms[1] * e for one, e in zip(scaled, noise, strict=True)]
    found.append(Sides(left[3] / noise[3] ** 2, terms[2] + terms[3] * noise[3] ** 2))
    last = [np.asarray((one - terms[2] * e**2) / e**4) for one, e in zip(left[:3], noise, strict=False)]
    found.append(Sides(numeric.extrapolate(last, 2.0, 2, 2), terms[3]))
    mine = little_noise(p, q, 1.0, end)
    found.append(Sides(np.array(mine)[:3] * [end, 1.0, 1 / end], terms[:3]))
    return found


@identity(
    "Little noise in a general reference: optimal steering",
    topic=TOPIC,
    formula=r"D \to \epsilon D:\quad 2 \epsilon\, \mathrm{KL}(P \| R) \to \min_\gamma \mathbb{E} |x_T - A x_0 -"
    r" b|_{\Sigma^{-1}}^2 + \epsilon\, [H(p) + \log |\det A| - H(q)] + ..",
    covers=["PODB-86", "PODB-88"],
    over="once",
    evidence=ORDER,
    control="entropies without the volume that the reference takes",
)
def general_little_noise(case: Case, wrong: bool) -> list[Sides]:
    """In coordinates with Sigma = 1 it is the plain distance from the law that the drift makes of p."""
    rng, found = case.rng, []
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    for process in references(rng).values():
        way = process.channel(0.0, process.T)
        white = np.linalg.inv(square_root(in_the_plane(way.noise)))
        moved = p.affine(in_the_plane(way.gain), np.broadcast_to(way.offset, (2,)))
        one, two = (law.affine(white, np.zeros(2)) for law in (moved, q))
        squared, _, s = plain_transport(Gaussian(one.mean(), one.cov()), Gaussian(two.mean(), two.cov()))
        first = entropy(p if wrong else Gaussian(moved.mean(), moved.cov())) - entropy(q)
        noise = [s.min() / 8 * 2.0**-k for k in range(4)]
        # a plan with noise e is that of a reference with e D: its divergence is that of the coupling
        scaled = []
        for e in noise:
            plan = GaussianPlan(p, q, 1.0, Channel(way.gain, way.offset, e * way.noise))
            free = Gaussian(np.zeros(2), e * in_the_plane(way.noise))
            within = kl_divergence(Gaussian(np.zeros(2), in_the_plane(plan.forward().noise)), free)
            gain, a = in_the_plane(plan.forward().gain), in_the_plane(way.gain)
            off = np.outer(*[q.mean() - a @ p.mean() - way.offset] * 2) + (gain - a) @ p.cov() @ (gain - a).T
            scaled.append(2 * e * within + np.trace(np.linalg.solve(in_the_plane(way.noise), off)))
        slopes = [np.asarray((value - squared) / e) for value, e in zip(scaled, noise, strict=True)]
        found.append(Sides(numeric.extrapolate(slopes), first, scale=1 + abs(first)))
        found.append(Sides(little_noise(p, q, process).first, first, scale=1 + abs(first)))
    return found


@identity(
    "Little noise: velocity and drift tend to those of transport",
    topic=TOPIC,
    formula=r"v^\varepsilon = v^0 + O(\varepsilon^2),\quad b^+ = v^0 + \tfrac{\varepsilon}{2} \nabla \log p_t^0"
    r" + O(\varepsilon^2),\quad v^0 = (M - I)((1 - t) I + t M)^{-1} (x - m_t) + m_1 - m_0",
    covers=["PODB-88"],
    over="once",
    evidence=ORDER,
    control="eps grad log p in the place of half of it: noise sqrt(2 eps) dw",
)
def drifts_tend_to_transport(case: Case, wrong: bool) -> list[Sides]:
    """The matrix M of the optimal map by symmetric roots, against extrapolated velocities and drifts."""
    rng, t = case.rng, 0.35
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    x = rng.standard_normal((4, 2))
    _, matrix, s = plain_transport(p, q)
    between = (1 - t) * np.eye(2) + t * matrix
    law = p.affine(between, t * (q.mean() - matrix @ p.mean()))
    still = (x - law.mean()) @ np.linalg.solve(between.T, matrix.T - np.eye(2)) + q.mean() - p.mean()
    noise = [0.2 * s.min() * 2.0**-k for k in range(4)]
    flows = [np.asarray(GaussianBridge(p, q, e).velocity(x, t)) for e in noise]
    slopes = [(np.asarray(GaussianBridge(p, q, e).forward_drift(x, t)) - still) / e for e in noise]
    score = law.score(x)
    return [
        Sides(numeric.extrapolate(flows, 2.0, 2, 2), still),
        Sides(numeric.extrapolate(slopes), (1.0 if wrong else 0.5) * score),
    ]
