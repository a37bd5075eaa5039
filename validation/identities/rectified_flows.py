r"""Rectified flow: what the exact velocity of an interpolant makes of the pairs that it is fitted to.

    dz/dt = E[x_1 - x_0 | x_t = z]:     rectify(x_0, x_1) = (z_0, z_1),     z_t has the law of x_t at each time

Between Gaussians the map is (S_1 S_0^-1)^(1/2) for independent pairs, on the line F_1^-1 F_0 for any. The text's second
rectification joins pairs by t z_0 + (1 - t) z_1, whose velocity leads elsewhere when it is followed from z_0; between
centred Gaussians on the line nothing is seen of that. The second parts of all checks are SciPy's: steps of the matrix
equation, roots of matrices, Gauss-Hermite nodes that are carried. Sources: PODB-47..49, PODB-96, TOPB-71.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import sqrtm

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, monotone_map, random_mixture
from refdiff.dynamics import field_flow
from refdiff.interpolants import InterpolantModel, brownian, linear, rectify, reflow, trigonometric
from refdiff.transport import PairLaw, component_pairs, gaussian_pairs, independent, optimal_map
from refdiff.validation.cases import Case
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, square_root
from refdiff.validation.numeric import hermite

TOPIC = "Rectified flow"


def stepped(slope: Callable[[float], Array], dim: int) -> Array:
    """M(1) (dim, dim) of M' = slope(t) M, M(0) = I, by SciPy's steps of 1e-12."""
    found = solve_ivp(
        lambda t, m: (slope(t) @ m.reshape(dim, dim)).ravel(), (0, 1), np.eye(dim).ravel(), "DOP853", rtol=1e-12,
        atol=1e-13,
    )  # fmt: skip
    return np.asarray(found.y[:, -1].reshape(dim, dim))


def dependent(rng: np.random.Generator, p: Gaussian, q: Gaussian, size: float = 0.6) -> PairLaw:
    """Gaussian pairs of p and q with a random cross-covariance of correlations of that `size`."""
    turn = np.linalg.qr(rng.standard_normal((p.dim, p.dim)))[0]
    return gaussian_pairs(p, q, size * square_root(p.cov()) @ turn @ square_root(q.cov()))


@identity(
    "Rectified independent Gaussians",
    topic=TOPIC,
    formula=r"v_t(x) = \dot m_t + \big(t \Sigma_1 - (1 - t) \Sigma_0\big)\big((1 - t)^2 \Sigma_0 + t^2 \Sigma_1"
    r"\big)^{-1}(x - m_t)\ \Rightarrow\ T = (\Sigma_1 \Sigma_0^{-1})^{1/2},\quad T \Sigma_0 T^\top = \Sigma_1",
    covers=["PODB-96", "TOPB-71", "PODB-47"],
    over="once",
    evidence=QUADRATURE,
    control="the optimal map, which is symmetric",
)
def gaussian_map(case: Case, wrong: bool) -> list[Sides]:
    """The model's velocity, SciPy's steps of the matrix equation and its root, and the cost, in two and four axes."""
    rng, sides = case.rng, []
    for d in (2, 4):
        p, q, t = gaussian(rng, d), gaussian(rng, d), float(rng.uniform(0.2, 0.8))
        a, b = p.cov(), q.cov()
        flow = rectify(independent(p, q))
        found = flow.channel().gain if not wrong else np.asarray(optimal_map(p, q).gain)

        def slope(u: float, a: Array = a, b: Array = b) -> Array:
            return np.asarray((u * b - (1 - u) * a) @ np.linalg.inv((1 - u) ** 2 * a + u**2 * b))

        x = flow.model.sample(4, t, rng)
        centre = (1 - t) * p.mean() + t * q.mean()
        root = np.real(sqrtm(b @ np.linalg.inv(a)))
        sides += [
            Sides(flow.velocity(x, t), q.mean() - p.mean() + (x - centre) @ slope(t).T),
            Sides(found, stepped(slope, d)),
            Sides(found, root),
            Sides(found @ a @ found.T, b),
            Sides(flow.pairs().cost(), ((p.mean() - q.mean()) ** 2).sum() + np.trace(a + b - 2 * root @ a)),
        ]
    return sides


@identity(
    "Rectified and optimal are the same where covariances commute",
    topic=TOPIC,
    formula=r"(\Sigma_1 \Sigma_0^{-1})^{1/2} = \Sigma_0^{-1/2}\big(\Sigma_0^{1/2} \Sigma_1 \Sigma_0^{1/2}\big)^{1/2}"
    r"\Sigma_0^{-1/2}\iff \Sigma_0 \Sigma_1 = \Sigma_1 \Sigma_0",
    covers=["PODB-96"],
    over="once",
    control="covariances that do not commute: diag(1, 4) and the same turned by 45 degrees, 1.1655 for 0.9446",
)
def commuting(case: Case, wrong: bool) -> list[Sides]:
    """Shared axes; and the fixed case (1, 4) against its turn by 45 degrees, whose costs have closed forms.

    In the plane tr M^(1/2) = (tr M + 2 det(M)^(1/2))^(1/2) and M^(1/2) = (M + det(M)^(1/2) I) / tr M^(1/2), so that
    both costs are radicals: 10 - 20 / 5.125^(1/2) = 1.1655 rectified, 10 - 2 20.5^(1/2) = 0.9446 optimal.
    """
    rng = case.rng
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    values = rng.uniform(0.2, 2.0, (2, 3))
    p, q = (Gaussian(rng.standard_normal(3), (axes * part) @ axes.T) for part in values)
    one, turned = np.diag([1.0, 4.0]), np.array([[2.5, 1.5], [1.5, 2.5]])
    if wrong:
        p, q = Gaussian(np.zeros(2), one), Gaussian(np.zeros(2), turned)
    fixed = independent(Gaussian(np.zeros(2), one), Gaussian(np.zeros(2), turned))
    # eigenvalues of S_1 S_0^-1 have the sum 25/8 and the product 1: its root is (S_1 S_0^-1 + I) / sqrt(25/8 + 2)
    share = (np.trace(turned) + np.trace(one)) / np.sqrt(25 / 8 + 2)
    best = np.sqrt(np.trace(turned @ one) + 2 * 4.0)
    least = np.trace(one + turned) - 2 * best
    return [
        Sides(rectify(independent(p, q)).channel().gain, optimal_map(p, q).gain),
        Sides(rectify(fixed).pairs().cost(), 10 - 2 * share),
        Sides(fixed.cost() - least, 2 * best),
    ]


@identity(
    "On the line all rectified flows are one map",
    topic=TOPIC,
    formula=r"\frac{dz}{dt} = v(z, t)\ \Rightarrow\ z_1 = F_1^{-1}(F_0(z_0))",
    covers=["PODB-47"],
    over="once",
    evidence=QUADRATURE,
    tolerance=1e-8,  # some tens of steps of 1e-10
    control="the affine map that has the mean and the variance of the second law",
)
def quantile_map(case: Case, wrong: bool) -> list[Sides]:
    """Adaptive steps of the velocities of three interpolants of mixtures, and of dependent pairs, against quantiles."""
    rng = case.rng
    p, q = (random_mixture(1, 2, rng, "full", spread=0.8).convolve(0.1) for _ in range(2))
    z = p.sample(4, rng)
    masses = np.outer(p.weights, q.weights)
    least = masses.min() / 2
    masses = masses + least * np.array([[1.0, -1.0], [-1.0, 1.0]])
    wanted = monotone_map(p, q, z)
    if wrong:
        wanted = q.mean() + np.sqrt(q.cov()[0, 0] / p.cov()[0, 0]) * (z - p.mean())
    models = [InterpolantModel(independent(p, q), path) for path in (linear(), trigonometric(), brownian(0.3))]
    models.append(InterpolantModel(component_pairs(p, q, masses), linear()))
    return [Sides(field_flow(model.field(), z, 0.0, 1.0).x, wanted) for model in models]


@identity(
    "Rectified points have the law of the interpolant at each time, and not its law of two times",
    topic=TOPIC,
    formula=r"\operatorname{Law}(z_t) = \operatorname{Law}(x_t)\ \forall t,\qquad"
    r" \operatorname{Cov}(z_0, z_1) = \Sigma_0 T^\top \neq \operatorname{Cov}(x_0, x_1)",
    covers=["PODB-48", "PODB-47"],
    over="once",
    evidence=QUADRATURE,
    tolerance=1e-7,  # tens of steps of 1e-9, and twice the logarithm's
    control="the velocity of independent pairs followed for dependent ones",
)
def marginals(case: Case, wrong: bool) -> list[Sides]:
    """log p along the flow by the divergence, against p_t: a coupling by components, under a path of sines."""
    rng = case.rng
    p, q = (random_mixture(2, 2, rng, "full", spread=0.8).convolve(0.1) for _ in range(2))
    diagonal = np.diag(p.weights)
    q = GaussianMixture.full(q.means, q.covariances.dense(2), p.weights)
    pairs, t = component_pairs(p, q, diagonal), float(rng.uniform(0.4, 0.8))
    model = InterpolantModel(pairs, trigonometric())
    followed = InterpolantModel(independent(p, q), trigonometric()) if wrong else model
    z = p.sample(2, rng)
    found = field_flow(followed.field(), z, 0.0, t, rtol=1e-9, log_density=True)
    one, two = gaussian(rng, 2), gaussian(rng, 2)
    root = np.real(sqrtm(two.cov() @ np.linalg.inv(one.cov())))
    return [
        Sides(p.logpdf(z) + found.log_density_change, model.log_density(found.x, t), scale=1 + np.abs(p.logpdf(z))),
        Sides(rectify(independent(one, two)).pairs().cross_covariance(), one.cov() @ root.T),
    ]


# ---------------------------------------------------------------------- once more


@identity(
    "Reflow joins pairs by lines from the first to the second",
    topic=TOPIC,
    formula=r"z_t = (1 - t) z_0 + t \hat z_1,\quad v = \mathbb{E}[\hat z_1 - z_0|z_t]\ \Rightarrow\ z_1 \sim"
    r" p_{\mathrm{tgt}}",
    covers=["PODB-49"],
    refutes=["PODB-49"],
    over="once",
    evidence=QUADRATURE,
    tolerance=1e-8,  # some tens of steps of 1e-10, at a few hundred points
    control="z_t = t z_0 + (1 - t) z_1 with the same target, as printed: N(0, 1) to N(2, 1) ends with mean 1.246",
)
def printed_path(case: Case, wrong: bool) -> list[Sides]:
    """Gauss-Hermite nodes of N(0, 1) carried to N(2, 1), to a mixture, and once more along the rectified pairs."""
    rng = case.rng
    p, z = Gaussian([0.0], 1.0), hermite(40)[0][:, None]
    chance = hermite(40)[1]
    weights, means = rng.dirichlet([3.0, 3.0]), rng.uniform(0.5, 1.5, (2, 1)) * [[1.0], [-1.0]]
    ends = (Gaussian([2.0], 1.0), GaussianMixture.isotropic(means, [0.6, 1.4], weights))
    sides = []
    for q in ends:
        pairs = independent(p, q)
        # printed: E[x_1 - x_0 | t x_0 + (1 - t) x_1 = x], minus the velocity of the pairs the other way round
        back = InterpolantModel(pairs.swapped(), linear())
        model = InterpolantModel(pairs, linear())

        def slope(t: float, x: Array, back: InterpolantModel = back, model: InterpolantModel = model) -> Array:
            at = x[:, None]
            return np.asarray(-back.velocity(at, t) if wrong else model.velocity(at, t))[:, 0]

        x = solve_ivp(slope, (0, 1), z[:, 0], "DOP853", rtol=1e-10, atol=1e-11).y[:, -1]
        if isinstance(q, Gaussian):  # moments of an affine map by the nodes; of others the map itself
            sides += [Sides(chance @ x, q.mean()[0]), Sides(chance @ (x - chance @ x) ** 2, q.cov()[0, 0])]
        else:
            sides.append(Sides(x[10:-10], monotone_map(p, q, z)[10:-10, 0]))
    lines, t = reflow(independent(p, ends[1])), float(rng.uniform(0.2, 0.8))
    inner = z[10:-10]
    end = monotone_map(p, ends[1], inner)
    first, second = (t, 1 - t) if wrong else (1 - t, t)
    return [*sides, Sides(lines.velocity(first * inner + second * end, t), end - inner)]


@identity(
    "Gaussian pairs are fixed after one rectification",
    topic=TOPIC,
    formula=r"v_t = C_t \Sigma_t^{-1} x,\ C_t = (1 - t)(K^\top - \Sigma_0) + t(\Sigma_1 - K),\quad \pi^{(2)} ="
    r" \pi^{(1)};\quad x_1 = \rho R_\theta x_0 + \xi:\ \theta' = \frac{\rho \sin\theta \arccos(\rho \cos\theta)}"
    r"{\sqrt{1 - (\rho \cos\theta)^2}}",
    covers=["PODB-49"],
    over="once",
    evidence=QUADRATURE,
    control="the velocity of independent pairs, K = 0, in place of the cross-covariance",
)
def gaussian_reflow(case: Case, wrong: bool) -> list[Sides]:
    """SciPy's steps for any cross-covariance, the second rectification of the first, and noisy rotations."""
    rng, d = case.rng, 3
    p, q = gaussian(rng, d), gaussian(rng, d)
    pairs = dependent(rng, p, q)
    a, b, k = p.cov(), q.cov(), pairs.cross_covariance()
    known = np.zeros((d, d)) if wrong else k

    def slope(t: float) -> Array:
        sigma = (1 - t) ** 2 * a + t**2 * b + t * (1 - t) * (known + known.T)
        return np.asarray(((1 - t) * (known.T - a) + t * (b - known)) @ np.linalg.inv(sigma))

    first = rectify(pairs)
    m = first.channel().gain
    again = InterpolantModel(first.pairs(), linear())
    t = float(rng.uniform(0.2, 0.8))
    x = again.sample(3, t, rng)
    rho, theta = float(rng.uniform(0.2, 0.95)), float(rng.uniform(0.3, 3.0))
    c, unit = rho * np.cos(theta), Gaussian(np.zeros(2), 1.0)
    angle = rho * np.sin(theta) * np.arccos(c) / np.sqrt(1 - c * c)
    noisy = gaussian_pairs(
        unit, unit, rho * np.array([[np.cos(theta), np.sin(theta)], [-np.sin(theta), np.cos(theta)]])
    )
    return [
        Sides(m, stepped(slope, d)),
        Sides(m @ a @ m.T, b),
        Sides(rectify(first.pairs()).channel().gain, m),
        # v of the new pairs is constant along their lines
        Sides(again.velocity(x, t), np.linalg.solve((1 - t) * np.eye(d) + t * m, (x - t * first.channel().offset).T).T
              @ (m - np.eye(d)).T + first.channel().offset),
        Sides(rectify(noisy).channel().gain, [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]),
    ]  # fmt: skip
