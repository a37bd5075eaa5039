r"""Which rectified couplings are optimal, and what a loss of 0 says of it.

    rotations      x_1 = A x_0, A A' = I:       straight, fixed, and 2 tr(I - A) away from the optimum
    bounds         W_2^2 <= int E|v|^2 = E|x_1 - x_0|^2 - V <= E|x_1 - x_0|^2 <= energy of any other paths
    gradients      S Sigma + Sigma S = dSigma/dt;  loss of a rotation 2 theta sin(theta), 0 at pi, where the gap is 8
    pieces         supports that stay apart: any pairing of them by lines is a fixed point with gradient velocity

Sources: PODB-52, PODB-97, PODB-98.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm, solve_continuous_lyapunov

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, wasserstein
from refdiff.distributions.covariances import Diagonal
from refdiff.interpolants import (
    InterpolantModel,
    account,
    conditional_energy,
    linear,
    marginal_energy,
    potential_rate,
    rectify,
    rectify_potential,
    trigonometric,
)
from refdiff.transport import PairLaw, gaussian_pairs, image_pairs, optimal_map, optimal_pairs, point_pairs
from refdiff.validation.cases import Case
from refdiff.validation.identities.rectified_costs import moments, over_unit, rotation
from refdiff.validation.identities.rectified_flows import dependent
from refdiff.validation.identities.wasserstein_bounds import below
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, square_root

TOPIC = "Rectified flow"


@identity(
    "Rotations are straight and not optimal",
    topic=TOPIC,
    formula=r"x_1 = A x_0,\ A^\top A = I:\quad v_t = (A - I)\big((1 - t)I + tA\big)^{-1} x,\quad S = V = 0,\quad"
    r" \mathbb{E}\|x_1 - x_0\|^2 = 2\operatorname{tr}(I - A) = 4(1 - \cos\theta)\ \text{in the plane}",
    covers=["PODB-52"],
    over="once",
    evidence=QUADRATURE,
    control="the optimal coupling of N(0, I) with itself, whose cost is 0, taken for what is fixed",
)
def rotations(case: Case, wrong: bool) -> list[Sides]:
    """Rotations of five axes by expm, and of the plane, under the library's rectify and account."""
    rng, d = case.rng, 5
    skew = rng.standard_normal((d, d)) / 2
    turn, t, unit = expm(skew - skew.T), float(rng.uniform(0.2, 0.8)), Gaussian(np.zeros(d), 1.0)
    pairs = gaussian_pairs(unit, unit, turn.T)
    found, flow = account(pairs), rectify(pairs)
    x = flow.model.sample(3, t, rng)
    theta, plane = float(rng.uniform(0.5, 2.8)), Gaussian(np.zeros(2), 1.0)
    return [
        Sides(flow.velocity(x, t), x @ np.linalg.inv((1 - t) * np.eye(d) + t * turn).T @ (turn - np.eye(d)).T),
        Sides(flow.channel().gain, np.eye(d) if wrong else turn),
        Sides([found.straightness.value, found.variance.value], 0.0, scale=found.before.value),
        Sides([found.before.value, found.after.value], 2 * np.trace(np.eye(d) - turn)),
        Sides(gaussian_pairs(plane, plane, rotation(theta).T).cost(), 4 * (1 - np.cos(theta))),
        Sides(wasserstein(unit, unit), 0.0, scale=1.0),
    ]


@identity(
    "Conditional flows bound the transport from above, lines best",
    topic=TOPIC,
    formula=r"W_2^2 \le \mathbb{E}\|z_1 - z_0\|^2 \le \int_0^1\mathbb{E}\|v\|^2 dt = \mathbb{E}\|x_1 - x_0\|^2 - V"
    r" \le \mathbb{E}\|x_1 - x_0\|^2 \le \mathbb{E}\int_0^1\|\Psi_t'\|^2 dt",
    covers=["PODB-97"],
    over="once",
    evidence=QUADRATURE,
    control="the energy of the flow taken for that of its conditional paths: V left out",
)
def bounds(case: Case, wrong: bool) -> list[Sides]:
    """The chain for dependent Gaussians, its middle by covariances, its end for sines in closed form."""
    rng = case.rng
    p, q = gaussian(rng, 3), gaussian(rng, 3)
    pairs = dependent(rng, p, q)
    model, found = InterpolantModel(pairs, linear()), account(pairs)
    shift = ((p.mean() - q.mean()) ** 2).sum()

    def speed(t: float) -> float:
        sigma, c = moments(pairs, t)
        return float(np.trace(c @ np.linalg.solve(sigma, c.T)) + shift)

    energy = over_unit(speed)
    cost, v = found.before.value, 0.0 if wrong else found.variance.value
    sines = conditional_energy(InterpolantModel(pairs, trigonometric())).value
    # int |u (x_1 cos - x_0 sin)|^2 dt = u^2 (|x_0|^2 + |x_1|^2) / 2 - u x_0.x_1, u = pi / 2
    u, k = np.pi / 2, np.trace(pairs.cross_covariance()) + p.mean() @ q.mean()
    squares = np.trace(p.cov() + q.cov()) + (p.mean() ** 2).sum() + (q.mean() ** 2).sum()
    return [
        Sides(energy, cost - v),
        Sides(marginal_energy(model).value, energy),
        Sides(conditional_energy(model).value, cost),
        Sides(sines, u * u * squares / 2 - u * k),
        Sides(energy - found.after.value, found.straightness.value, scale=cost),
        below(wasserstein(p, q) ** 2, found.after.value),
        below(found.after.value, energy),
        below(energy, cost),
        below(cost, sines),
    ]


@identity(
    "Gradient fields of Gaussians by Lyapunov's equation",
    topic=TOPIC,
    formula=r"w = S_t x,\ S_t \Sigma_t + \Sigma_t S_t = C_t + C_t^\top:\quad \mathbb{E}\|x_1 - x_0\|^2 -"
    r" \int_0^1\mathbb{E}\|x_1 - x_0 - w\|^2 dt = \int_0^1\mathbb{E}\|w\|^2 dt \ge \mathbb{E}\|z_1 - z_0\|^2",
    covers=["PODB-98"],
    over="once",
    evidence=QUADRATURE,
    control="the velocity that no constraint restricts, C Sigma^-1",
)
def potentials(case: Case, wrong: bool) -> list[Sides]:
    """SciPy's Lyapunov solver, the loss by its definition, the exact account, and what optimal pairs leave."""
    rng, d = case.rng, 3
    p, q = gaussian(rng, d), gaussian(rng, d)
    pairs = dependent(rng, p, q)
    flow, t = rectify_potential(pairs), float(rng.uniform(0.2, 0.8))
    a, b, k = p.cov(), q.cov(), pairs.cross_covariance()
    sigma, c = moments(pairs, t)

    def lyapunov(u: float) -> tuple[Array, Array, Array]:
        s, now = moments(pairs, u)
        return s, now, solve_continuous_lyapunov(s, now + now.T)

    def loss(u: float) -> float:
        s, now, w = lyapunov(u)
        return float(np.trace(a + b - k - k.T - 2 * now @ w + w @ s @ w))

    def energy(u: float) -> float:
        s, _, w = lyapunov(u)
        return float(np.trace(w @ s @ w))

    found = np.linalg.solve(sigma, c.T).T if wrong else flow.slope(t)
    best, cost = optimal_pairs(p, q), pairs.cost()
    return [
        Sides(found, solve_continuous_lyapunov(sigma, c + c.T)),
        Sides(flow.loss().value, over_unit(loss)),
        Sides(flow.pairs().second.cov(), b),
        # the energy of w is what the loss leaves of the cost, and S what the new cost leaves of the energy
        Sides(cost - flow.loss().value, over_unit(energy) + ((p.mean() - q.mean()) ** 2).sum()),
        below(flow.pairs().cost(), cost - flow.loss().value),
        Sides(rectify_potential(best).channel().gain, optimal_map(p, q).gain),
        Sides(rectify_potential(best).loss().value, 0.0, scale=best.cost()),
    ]


@identity(
    "The rate at which potential rectification approaches the optimum",
    topic=TOPIC,
    formula=r"M_{k+1} - T = (1 - \varphi\cot\varphi)(M_k - T) + O(\|M_k - T\|^2),\quad \cos\varphi ="
    r" \frac{\operatorname{tr}(T\Sigma_0)}{\sqrt{\operatorname{tr}\Sigma_0 \operatorname{tr}\Sigma_1}}",
    covers=["PODB-98"],
    over="once",
    evidence=DERIVATIVE,
    control="the rate at which costs approach W_2^2, its square",
)
def rate(case: Case, wrong: bool) -> list[Sides]:
    """Two maps on either side of the optimal one, rectified: the slope of what they differ by from it."""
    rng = case.rng
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    best, s = np.asarray(optimal_map(p, q).gain), p.cov()
    phi = np.arccos(np.trace(best @ s) / np.sqrt(np.trace(s) * np.trace(q.cov())))
    closed, root, small = 1 - phi / np.tan(phi), square_root(q.cov()), 1e-4
    maps = [root @ rotation(side * small) @ np.linalg.solve(root, best) for side in (1.0, -1.0)]
    after = [rectify_potential(image_pairs(p, Channel(m, q.mean() - m @ p.mean()))).channel().gain for m in maps]
    before, slope = maps[0] - maps[1], after[0] - after[1]
    return [
        Sides(potential_rate(p, q), closed),
        Sides(slope, (closed**2 if wrong else closed) * before, scale=np.abs(before).max()),
    ]


@identity(
    "A small loss is no small distance from the optimum",
    topic=TOPIC,
    formula=r"\text{rotations of } \mathcal{N}(0, s^2 I):\quad \min_\varphi \mathcal{L} = 2 s^2\theta\sin\theta \to 0,"
    r"\quad \mathbb{E}\|x_1 - x_0\|^2 - W_2^2 = 4 s^2(1 - \cos\theta) \to 8 s^2\qquad (\theta \to \pi)",
    covers=["PODB-98"],
    over="once",
    evidence=QUADRATURE,
    control="the gap taken to be below the loss, as the conjecture suggests",
)
def small_loss(case: Case, wrong: bool) -> list[Sides]:
    """The library's loss of rotations up to pi - 0.01; gradients undo all of them at once."""
    scale, sides = float(case.rng.uniform(0.5, 2.0)), []
    law = Gaussian(np.zeros(2), scale**2)
    for theta in (0.5, 1.0, 2.0, 3.0, np.pi - 0.01):
        pairs = gaussian_pairs(law, law, scale**2 * rotation(theta).T)
        flow = rectify_potential(pairs)
        loss, gap = flow.loss().value, pairs.cost()
        sides += [
            Sides(loss, 2 * scale**2 * theta * np.sin(theta)),
            Sides(gap, 4 * scale**2 * (1 - np.cos(theta))),
            Sides(flow.channel().gain, np.eye(2)),
        ]
        if wrong:
            sides.append(below(gap, loss))
    return sides


@identity(
    "Where supports stay apart every pairing by lines is a fixed point",
    topic=TOPIC,
    formula=r"v(x_t, t) = x_1^k - x_0^k = \nabla(x \cdot (x_1^k - x_0^k))\ \text{near piece } k,\quad \mathcal{L} = 0,"
    r"\quad \mathbb{E}\|x_1 - x_0\|^2 - W_2^2 = -(x_0^1 - x_0^2)\cdot(x_1^1 - x_1^2) > 0",
    covers=["PODB-98"],
    over="once",
    control="pieces as wide as they are apart",
)
def pieces(case: Case, wrong: bool) -> list[Sides]:
    """Two points that pass each other, whose swap is cheaper; the same as two narrow blobs, by the exact model."""
    rng = case.rng
    gap, turn = rng.standard_normal(2), float(rng.uniform(0.6, 0.9)) * np.pi
    apart = float(rng.uniform(0.7, 1.4)) * rotation(turn) @ gap  # more than a right angle from where they began
    start, end = np.array([gap, -gap]) / 2, np.array([apart, -apart]) / 2 + rng.standard_normal(2)
    pairs, best = point_pairs(start, end), optimal_pairs(Empirical(start), Empirical(end))
    times = np.linspace(0.0, 1.0, 21)
    nearest = min(float(np.linalg.norm((1 - t) * gap + t * apart)) for t in times)
    width = nearest if wrong else nearest / 40  # e^(-20^2 / 2) of the mass of one piece reaches the other
    first, second = (GaussianMixture.isotropic(means, np.full(2, width**2)) for means in (start, end))
    model = InterpolantModel(PairLaw(first, second, Diagonal(np.full((1, 1), width**2))), linear())
    sides = [Sides(pairs.cost() - best.cost(), -gap @ apart, scale=pairs.cost())]
    for t in times[1:-1:4].tolist():
        for k in range(2):
            x = (1 - t) * start[k] + t * end[k] + width * rng.standard_normal((3, 2))
            sides += [
                Sides(model.velocity(x, t), np.tile(end[k] - start[k], (3, 1)), scale=np.abs(end - start).max()),
                Sides(model.velocity_jacobian(x, t) * width, np.zeros((3, 2, 2)), scale=np.abs(end - start).max()),
            ]
    return sides
