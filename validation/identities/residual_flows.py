r"""Planar and residual flows: determinants, inverses, and the series that estimates the one and the rate of the other.

    planar      det(I + h' u w') = 1 + u.w h',   one to one with tanh iff u.w >= -1:  y + c tanh y has slope 1 + c at 0
    residual    log det(I + J) = sum_k (-1)^(k+1) tr J^k / k,   what n terms leave out is reached at J = -q I
    inverse     z_{k+1} = x - g(z_k):  z_k - z* = (-J)^k (z_0 - z*) for g = J z
    roulette    E sum_{k <= N} t_k / P(N >= k) = sum_k t_k
    Euler       log det(I + h J) = h tr J - h^2 tr J^2 / 2 + O(h^3):  sum_k -> int div v dt

Second routes: determinants by LU of stencils, counts of roots, matrix powers, sums over all lengths.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm

from refdiff.arguments import Array
from refdiff.dynamics import linear_field
from refdiff.normalizing import Planar, Residual, Roulette, euler_layers, tanh_residual
from refdiff.normalizing.log_determinants import power_terms, probe_terms, remainder
from refdiff.normalizing.planar import TANH
from refdiff.samplers import propagate
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import one_gaussian, smooth
from refdiff.validation.identities.normalizing_flows import TOPIC, network
from refdiff.validation.identity import DERIVATIVE, ORDER, Sides, identity
from refdiff.validation.laws import gaussian_flow, noised_variance
from refdiff.validation.numeric import extrapolate

STEPS = (4, 8, 16, 32)


def contraction(rng: np.random.Generator, dim: int, norm: float) -> Array:
    """A random matrix (dim, dim) of that spectral norm, drawn from `rng`."""
    j = rng.standard_normal((dim, dim))
    return np.asarray(norm * j / np.linalg.norm(j, 2))


# ---------------------------------------------------------------------- planar flows


@identity(
    "Determinant of a planar flow",
    topic=TOPIC,
    formula=r"f(z) = z + u\,h(w^\top z + b):\quad |\det \partial f / \partial z| = |1 + u^\top w\, h'(w^\top z + b)|",
    covers=["PODB-20"],
    over="once",
    evidence=DERIVATIVE,
    control="|u| |w| for u.w",
)
def planar(case: Case, wrong: bool) -> list[Sides]:
    """The closed logarithm against LU of a stencil of the map, and of the map's own matrix, in one to seven axes."""
    rng, sides = case.rng, []
    for dim in (1, 2, 7):
        u, w = rng.standard_normal((2, dim))
        f, z = Planar.constrained(u, w, 0.4), rng.standard_normal((6, dim))
        closed = f.log_det(z)
        if wrong:
            closed = np.log1p(np.linalg.norm(f.u) * np.linalg.norm(f.w) * TANH.derivative(z @ f.w + f.b))
        jacobian = numeric.jacobian(f.forward, z, 0.02 / max(1.0, float(np.linalg.norm(w))))
        size = np.linalg.cond(jacobian)
        sides.append(Sides(closed, np.linalg.slogdet(jacobian)[1], scale=size))
        sides.append(Sides(closed, np.linalg.slogdet(f.jacobian(z))[1], scale=size))
    return sides


@identity(
    "Where a planar flow is one to one",
    topic=TOPIC,
    formula=r"\#\{z: f(z) = x\} = 1 \ \forall x \iff u^\top w \ge -1 \quad (h = \tanh)",
    covers=["PODB-20"],
    over="once",
    control="u.w > -2",
)
def one_to_one(case: Case, wrong: bool) -> list[Sides]:
    """The condition against the number of preimages of the worst point, counted as sign changes on a fine line."""
    c = np.concatenate([[-3.0, -1.7, -1.01, -0.99, -0.5, 0.0, 4.0], case.rng.uniform(-3, 3, 20)])
    # y + c tanh y is odd: if it has several roots for any r, it has three at 0; the outer ones are beyond 0.1 at -1.01
    y = 1e-3 * (np.arange(8000) - 3999.5)
    values = y + c[:, None] * np.tanh(y)
    roots = (np.diff(np.sign(values), axis=1) != 0).sum(axis=1)
    told = c > -2 if wrong else np.array([TANH.invertible(float(one)) for one in c])
    sides = [Sides(told, roots == 1)]
    for one in c[told & (roots == 1)]:
        f = Planar(np.array([one, 0.3]), np.array([1.0, 0.0]), 0.2)
        x = case.rng.standard_normal((5, 2))
        sides.append(Sides(f.forward(f.inverse(x)), x, scale=np.abs(x).max() + abs(one)))
    return sides


@identity(
    "A planar flow made invertible",
    topic=TOPIC,
    formula=r"\hat u = u + (m(u^\top w) - u^\top w) \frac{w}{|w|^2},\quad \hat u^\top w = m(u^\top w)"
    r" = -1 + \log(1 + e^{u^\top w}) > -1",
    covers=["PODB-20"],
    over="once",
    control="m - u.w along w / |w|, as if w had length one",
)
def constrained(case: Case, wrong: bool) -> list[Sides]:
    """The product and the volume at the plane b = -w.z, where 1 + u.w h' is least, against log(1 + e^(u.w))."""
    sides = []
    for dim in (1, 3, 6):
        u, w = 2 * case.rng.standard_normal((2, dim))
        f, product = Planar.constrained(u, w), float(u @ w)
        target = np.log1p(np.exp(product))
        found = 1 + f.product
        if wrong:
            found = 1 + float(w @ (u + (target - 1 - product) * w / np.linalg.norm(w)))
        size = 1 + np.linalg.norm(u) * np.linalg.norm(w)
        sides.append(Sides(found, target, scale=size))
        sides.append(Sides(np.exp(f.log_det(np.zeros(dim))), target, scale=size))
    return sides


# ---------------------------------------------------------------------- residual flows


@identity(
    "Log determinant of a residual flow by its series",
    topic=TOPIC,
    formula=r"\log |\det(I + J)| = \log \det(I + J) = \sum_{k=1}^\infty \frac{(-1)^{k+1}}{k} \mathrm{tr} J^k",
    covers=["PODB-21"],
    over="once",
    control="without the signs: -log det(I - J)",
)
def series(case: Case, wrong: bool) -> list[Sides]:
    """Sixty terms at norm 0.6 against LU, of matrices and of networks, by powers and by probes of all signs."""
    rng, sides = case.rng, []
    signs = np.where(np.arange(16)[:, None] >> np.arange(4) & 1, 1.0, -1.0)
    for dim in (1, 3, 8):
        j = contraction(rng, dim, 0.6)
        sign, exact = np.linalg.slogdet(np.eye(dim) + j)
        terms = power_terms(j, 60)
        sides += [Sides((np.abs(terms) if wrong else terms).sum(), exact, scale=dim), Sides(sign, 1.0)]
    f, z = tanh_residual(*network(rng, 4, 0.6)), rng.standard_normal((5, 4))
    exact = np.linalg.slogdet(f.jacobian(z))[1]
    for found in (f.log_det_series(z, 60), f.log_det_probes(z, signs, 60), f.log_det(z)):
        sides.append(Sides(found, exact, scale=4.0))
    return sides


@identity(
    "What a cut-off series leaves out",
    topic=TOPIC,
    formula=r"\Big|\sum_{k>n} t_k\Big| \le D \sum_{k>n} \frac{q^k}{k} \le \frac{D\,q^{n+1}}{(n+1)(1-q)},"
    r"\quad J = -q I \text{ reaches the first}",
    covers=["PODB-21"],
    over="once",
    control="q^n / n, one term early",
)
def left_out(case: Case, wrong: bool) -> list[Sides]:
    """The bound against the remainder of -q I, and how far others go beyond either bound: not at all."""
    rng, sides = case.rng, []
    for dim, q, n in ((1, 0.9, 3), (3, 0.6, 5), (5, 0.98, 12)):
        bound = remainder(q, n - 1 if wrong else n, dim)
        worst = power_terms(-q * np.eye(dim), n).sum() - dim * np.log1p(-q)
        sides.append(Sides(abs(worst), bound, scale=dim * (1 - np.log1p(-q))))
        matrices = np.stack([contraction(rng, dim, q) for _ in range(20)])
        gaps = np.abs(np.linalg.slogdet(np.eye(dim) + matrices)[1] - power_terms(matrices, n).sum(axis=1))
        sides.append(Sides(np.maximum(gaps - bound, 0.0), np.zeros(20), scale=dim))
        sides.append(Sides(max(remainder(q, n, dim) - dim * q ** (n + 1) / ((n + 1) * (1 - q)), 0.0), 0.0, scale=dim))
    return sides


@identity(
    "Fixed-point inverse of a residual flow and its rate",
    topic=TOPIC,
    formula=r"z_{k+1} = x - g(z_k):\quad z_k - z^* = (-J)^k (z_0 - z^*),\quad"
    r" |z_k - z^*| \le \frac{q^k}{1 - q} |z_1 - z_0|",
    covers=["PODB-21"],
    over="once",
    control="z <- x + g(z)",
)
def fixed_point(case: Case, wrong: bool) -> list[Sides]:
    """Iterates of linear fields against matrix powers; of networks against Newton's method and the bound."""
    rng, count = case.rng, 12
    j, x = contraction(rng, 4, 0.8), rng.standard_normal((5, 4))
    line = Residual(4, lambda z: z @ (-j if wrong else j).T, lambda z: np.tile(j, (len(z), 1, 1)), 0.8)
    solution = np.linalg.solve(np.eye(4) + j, x.T).T
    powers = np.stack([np.linalg.matrix_power(-j, k) for k in range(count + 1)])
    exact = solution + np.einsum("kij,nj->kni", powers, x - solution)
    f = tanh_residual(*network(rng, 4, 0.8))
    z = x.copy()
    for _ in range(60):  # Newton's steps from x: q < 1 keeps them bounded, the last ones double the digits
        z = z - np.linalg.solve(f.jacobian(z), (f.forward(z) - x)[:, :, None])[:, :, 0]
    path = f.iterates(x, count)
    first = np.linalg.norm(path[1] - path[0], axis=1)
    bounds = np.stack([f.inverse_error(first, k) for k in range(count + 1)])
    beyond = np.maximum(np.linalg.norm(path - z, axis=2) - bounds, 0.0)
    return [
        Sides(line.iterates(x, count), exact, scale=np.abs(x).max() * 5),
        Sides(f.inverse(x), z, scale=np.abs(x).max() * 5),
        Sides(beyond, np.zeros_like(beyond), scale=np.abs(x).max() * 5),
    ]


@identity(
    "Random lengths of the series without bias",
    topic=TOPIC,
    formula=r"\mathbb{E} \sum_{k \le N} \frac{t_k}{P(N \ge k)} = \sum_k t_k,\quad"
    r" \mathbb{E} S^2 = \sum_k \frac{t_k (t_k + 2 \sum_{j>k} t_j)}{P(N \ge k)}",
    covers=["PODB-21"],
    over="once",
    control="the terms without the weights 1 / P(N >= k)",
)
def roulette(case: Case, wrong: bool) -> list[Sides]:
    """Sums over all lengths by their chances against LU and the closed variance, with exact traces and one probe."""
    j, count = contraction(case.rng, 4, 0.4), 300
    probe = case.rng.choice([-1.0, 1.0], size=4)
    lengths, sides = np.arange(count + 1), []
    inverse = [np.linalg.matrix_power(-j, k) for k in range(1, count + 1)]
    quadratic = -sum(probe @ p @ probe / k for k, p in enumerate(inverse, 1))
    for rule in (Roulette(0.5, 2), Roulette(0.8, 0)):
        survival = np.append(1.0, rule.reached(count))
        chances = survival - np.append(survival[1:], 0.0)
        traces, products = power_terms(j, count), probe_terms(lambda v: v @ j, probe, count)
        for terms, exact in ((traces, np.linalg.slogdet(np.eye(4) + j)[1]), (products, quadratic)):
            drawn = rule.estimate(terms, lengths)
            if wrong:
                drawn = np.append(0.0, np.cumsum(terms))
            sides.append(Sides(chances @ drawn, exact, scale=1.0))
            sides.append(Sides(chances @ (drawn - exact) ** 2, rule.variance(terms), scale=1.0))
    return sides


# ---------------------------------------------------------------------- Euler's method, layer by layer


@identity(
    "Density of Euler's method on the probability flow",
    topic=TOPIC,
    formula=r"x_{k+1} = x_k + h\,v(x_k, t_k):\quad \log p(x_L) = \log p(x_0) - \sum_k \log |\det(I + h\,\partial_x v)|",
    covers=["PODD-71", "PODD-72", "PODB-22"],
    control="h div v for the logarithm of the determinant",
    needs=lambda case: one_gaussian(case) and case.law.dim <= 16,
)
def euler_density(case: ModelCase, wrong: bool) -> Sides:
    """Layers of the model's velocity against the Gaussian law that the sampler's table gives, for Gaussian data."""
    model, times = case.model, np.linspace(case.t, case.s, 4)
    layers = euler_layers(model.velocity, model.velocity_jacobian, times, case.law.dim)
    first, table = model.marginal(case.t), runge_kutta(case.process, times, method="euler")
    z, total = case.x, np.zeros(len(case.x))
    for t, step, layer in zip(times[:-1], np.diff(times), layers.layers, strict=True):
        total = total + (step * model.velocity_divergence(z, float(t)) if wrong else layer.log_det(z))
        z = layer.forward(z)
    output = propagate(table, case.law).output
    exact = output.logpdf(z)
    worst = np.linalg.cond(output.cov()) + np.linalg.cond(first.cov())
    return Sides(first.logpdf(case.x) - total, exact, scale=np.abs(exact) + case.law.dim + worst)


@identity(
    "Euler layers tend to the flow with order one",
    topic=TOPIC,
    formula=r"x_L \to \Psi_{t \to s}(x),\quad \sum_k \log \det(I + h\,\partial_x v) \to \int_t^s \nabla \cdot v\, du"
    r" = \tfrac12 \sum_i \log \frac{V_i(s)}{V_i(t)}",
    covers=["PODB-22", "PODB-27"],
    evidence=ORDER,
    control="the volumes of the inverse layers, which belong to the way back",
    needs=lambda case: one_gaussian(case) and smooth(case) and case.law.dim <= 5,
    most=4,
)
def many_layers(case: ModelCase, wrong: bool) -> list[Sides]:
    """Stacks of more and more layers, extrapolated, against the closed flow of Gaussian data."""
    model, schedule = case.model, case.process.schedules[0]
    # a way on which the spreads change by a factor of no more than two
    end = case.t - 0.2 * (case.t - case.s)
    points, volumes = [], []
    for n in STEPS:
        layers = euler_layers(model.velocity, model.velocity_jacobian, np.linspace(case.t, end, n + 1), case.law.dim)
        z, total = case.x[:2], np.zeros(2)
        for layer in layers.layers:
            total, z = total + layer.log_det(z), layer.forward(z)
        points.append(z)
        volumes.append(total)
    values = np.asarray(np.linalg.eigvalsh(case.law.cov()), dtype=np.float64)
    ratio = noised_variance(schedule.coefficients(end), values) / noised_variance(schedule.coefficients(case.t), values)
    exact = gaussian_flow(case.law, schedule, case.t, end, case.x[:2])
    if wrong:
        volumes = [-total for total in volumes]
    moved = float(np.abs(exact - case.x[:2]).max())
    return [
        Sides(extrapolate(points), exact, scale=moved + 1e-9 * np.abs(exact).max()),
        Sides(extrapolate(volumes), np.full(2, np.log(ratio).sum() / 2), scale=np.abs(np.log(ratio)).max()),
    ]


@identity(
    "Error of residual layers on a linear field",
    topic=TOPIC,
    formula=r"h^{-1} \left[(I + h W)^{T/h} x - e^{T W} x\right] \to -\tfrac{T}{2} W^2 e^{T W} x",
    covers=["PODB-22"],
    over="once",
    evidence=ORDER,
    control="+T/2",
)
def linear_error(case: Case, wrong: bool) -> Sides:
    """Layers of a linear field less the matrix exponential, divided by the step and extrapolated."""
    rng, duration = case.rng, 0.8
    w, x = contraction(rng, 4, 1.2), rng.standard_normal((3, 4))
    field = linear_field(w, np.zeros(4))
    truth = x @ expm(duration * w).T
    errors = []
    for n in (8, 16, 32, 64, 128):
        times = np.linspace(0.0, duration, n + 1)
        layers = euler_layers(field.velocity, lambda y, _: np.tile(w, (len(y), 1, 1)), times, 4, lipschitz=1.2)
        errors.append((layers.forward(x) - truth) * n / duration)
    limit = duration / 2 * truth @ (w @ w).T
    return Sides(extrapolate(errors), limit if wrong else -limit)
