r"""Charges in any dimension, and the same with one dimension more: the field of Poisson flow models.

    F(x) = -E (x - y) / (S_d |x - y|^d) = grad E G,    G = |x - y|^(2 - d) / ((d - 2) S_d)
    lifted, data y at height t = 0:    F = -E (x - y, t) / (S_(d + 1) R^(d + 1)),    R^2 = |x - y|^2 + t^2

S_d is the area of the unit sphere in d dimensions, and G = -log |x - y| / 2 pi in two; forces of the library are
without S_d, and away from charges. A shell has no field inside, so that a flow along F never gets there; with a height
over the data it does, half of all lines of force go up through every plane, and they are the flow dx/dt = F_x / F_t,
which on the line keeps the Cauchy mixture's distribution function. Potentials, sums over spheres and distribution
functions are the other routes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import gamma, roots_gegenbauer

from refdiff.arguments import Array
from refdiff.metrics import inverse_power, pair_field
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import divergence, dot, extrapolate, jacobian
from refdiff.validation.steps import FINE

TOPIC = "Fields of charges"
# Of the distance to the nearest charge: the ninth derivative of r^-3 is 7e6 r^-8 times the first, of which a difference
# has 1 / 630 of step^8 too much: 7e-8 of the slope with FINE, 1e-11 with a third of it.
STEP = FINE / 3


def area(dim: int) -> float:
    """The area of the unit sphere in `dim` dimensions; 2 on the line."""
    return float(2 * np.pi ** (dim / 2) / gamma(dim / 2))


def potential(x: Array, y: Array, weights: Array) -> Array:
    """sum_i w_i G at points x (n, d) for charges y (m, d) with weights (m,), shape (n,)."""
    dim, r = x.shape[1], np.sqrt(((x[:, None] - y) ** 2).sum(axis=2))
    each = -np.log(r) / (2 * np.pi) if dim == 2 else r ** (2 - dim) / ((dim - 2) * area(dim))
    return np.asarray(each @ weights)


def gravity(power: float, x: Array, y: Array, weights: Array) -> Array:
    """F (n, d) at points x (n, d) for charges y (m, d) with `weights` (m,), with the exponent `power` in place of d."""
    return np.asarray(-pair_field(inverse_power(power), x, y, weights) / area(x.shape[1]))


def sphere(dim: int, count: int = 28) -> tuple[Array, Array]:
    """Points (m, dim) of the unit sphere and masses (m,), a rule exact for polynomials of degree 2 `count` - 1."""
    if dim == 2:
        turns = np.pi * np.arange(2 * count) / count
        return np.stack([np.cos(turns), np.sin(turns)], axis=1), np.full(2 * count, 0.5 / count)
    (z, heights), (below, masses) = roots_gegenbauer(count, dim / 2 - 1), sphere(dim - 1, count)
    circles = np.sqrt(1 - z * z)[:, None, None] * below
    up = np.broadcast_to(z[:, None, None], (*circles.shape[:2], 1))
    return np.concatenate([circles, up], axis=2).reshape(-1, dim), np.outer(heights / heights.sum(), masses).ravel()


def directions(rng: np.random.Generator, count: int, dim: int) -> Array:
    """Unit vectors (count, dim)."""
    drawn = rng.standard_normal((count, dim))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def nearest(x: Array, y: Array) -> float:
    """The least distance between points x (n, d) and y (m, d)."""
    return float(np.linalg.norm(x[:, None] - y, axis=2).min())


@identity(
    "The field of charges is the slope of their potential, with one line of force for each unit",
    topic=TOPIC,
    formula=r"F = -\sum_i w_i \frac{x - y_i}{S_d \|x - y_i\|^d} = \nabla \sum_i w_i G,\quad \nabla \cdot F = 0"
    r"\ (x \ne y_i),\quad \oint F \cdot n\, dA = -\sum_{\mathrm{inside}} w_i",
    covers=["TOPB-26"],
    over="once",
    evidence=DERIVATIVE,
    control="the exponent d + 1 of the lifted field, which has sources everywhere",
)
def charges(case: Case, wrong: bool) -> Iterator[Sides]:
    """Stencils of the potential and of the field; sums over a sphere with two charges inside and two outside."""
    rng = case.rng
    for dim in (1, 2, 3, 5):
        y, w = rng.normal(0, 1, (4, dim)), rng.uniform(0.3, 1, 4)
        x, power = 2 * directions(rng, 3, dim), dim + 1 if wrong else dim
        h, found = STEP * nearest(x, y), gravity(power, x, y, w)
        size = np.abs(found).max() + np.abs(potential(x, y, w)).max() * STEP / h
        yield Sides(found, jacobian(partial(potential, y=y, weights=w), x, h), scale=size)
        sources = divergence(partial(gravity, power, y=y, weights=w), x, h)
        yield Sides(sources, np.zeros(3), scale=size * STEP / h)
    for dim in (2, 3, 4):
        normals, masses = sphere(dim)
        y, w = directions(rng, 4, dim) * [[0.2], [0.5], [2.0], [3.0]], rng.uniform(0.3, 1, 4)
        flux = area(dim) * (masses @ dot(gravity(dim + 1 if wrong else dim, normals, y, w), normals))
        yield Sides(flux, -w[:2].sum(), scale=w.sum())


@identity(
    "Far charges are one charge at their mean, up to a quadrupole",
    topic=TOPIC,
    formula=r"R^2 \left( -S_d R^{d-1} F(\bar y + R u) - u \right) \to \mathbb{E}\left[ -d\,(u \cdot v)\, v"
    r" + \tfrac{d}{2} \left( (d+2)(u \cdot v)^2 - \|v\|^2 \right) u \right],\quad v = y - \bar y",
    covers=["TOPB-27"],
    over="once",
    evidence=ORDER,
    control="about the origin, where a dipole is left",
)
def far_charges(case: Case, wrong: bool) -> Iterator[Sides]:
    """The field of seven charges at R = 8, 16, ..., 256, extrapolated, against moments of where they are."""
    rng = case.rng
    for dim in (1, 2, 3, 5):
        y, w = rng.normal(0.5, 0.5, (7, dim)), rng.dirichlet(np.ones(7))
        mean, u = w @ y, directions(rng, 3, dim)
        v, centre = y - mean, np.zeros(dim) if wrong else mean
        found = [
            r**2 * (-area(dim) * r ** (dim - 1) * gravity(dim, centre + r * u, y, w) - u)
            for r in 8.0 * 2 ** np.arange(6)
        ]
        along, lengths = u @ v.T, dot(v, v)
        closed = -dim * (along * w) @ v + dim / 2 * ((((dim + 2) * along**2 - lengths) @ w)[:, None] * u)
        yield Sides(extrapolate(found), closed, scale=dim**2 * (w @ lengths))


@identity(
    "A shell has no field inside, and that of a point outside",
    topic=TOPIC,
    formula=r"F(x) = 0\ (\|x - c\| < \rho),\qquad F(x) = -\frac{x - c}{S_d \|x - c\|^d}\ (\|x - c\| > \rho)",
    covers=["TOPB-28"],
    over="once",
    control="the exponent d + 1, whose field goes through the shell",
)
def shells(case: Case, wrong: bool) -> Iterator[Sides]:
    """Sums over a ring, a sphere and a sphere in four dimensions, up to half its radius and from twice of it on."""
    rng = case.rng
    for dim in (2, 3, 4):
        points, masses = sphere(dim)
        centre, radius, u = rng.normal(0, 1, dim), rng.uniform(0.5, 2), directions(rng, 3, dim)
        power, charges = dim + 1 if wrong else dim, centre + radius * points
        size = 1 / (area(dim) * radius ** (dim - 1))
        inside = gravity(power, centre + radius * np.array([[0.0], [0.3], [0.5]]) * u, charges, masses)
        yield Sides(inside, np.zeros((3, dim)), scale=size)
        away = radius * np.array([[2.0], [3.0], [10.0]])
        yield Sides(
            gravity(power, centre + away * u, charges, masses), -u / (area(dim) * away ** (dim - 1)), scale=size
        )


@identity(
    "The field at a height over the data",
    topic=TOPIC,
    formula=r"F(x, t) = -\frac{1}{S_{d+1}} \mathbb{E}\left[ \frac{(x - x_0, t)}{R^{d+1}} \right]"
    r" = \nabla_{(x, t)} \mathbb{E}\,G,\quad R^2 = \|x - x_0\|^2 + t^2,\quad \nabla \cdot F = 0\ (t > 0),"
    r"\quad \int F_t\, dx = -\tfrac12",
    covers=["TOPB-29"],
    over="once",
    evidence=DERIVATIVE,
    control="the exponent d, of charges in the space of the data",
)
def lifted(case: Case, wrong: bool) -> Iterator[Sides]:
    """Softened forces and heights against stencils of the potential in d + 1 dimensions; planes over the line."""
    rng = case.rng
    for dim in (1, 2, 3):
        y, w, t = rng.normal(0, 1, (5, dim)), rng.dirichlet(np.ones(5)), rng.uniform(0.3, 1.5)
        x, power = rng.normal(0, 1, (3, dim)), dim if wrong else dim + 1
        plane, above = np.column_stack([y, np.zeros(5)]), np.column_stack([x, np.full(3, t)])
        found = gravity(power, above, plane, w)
        slope = jacobian(partial(potential, y=plane, weights=w), above, STEP * t)
        size = np.abs(found).max() + np.abs(potential(above, plane, w)).max() / t
        yield Sides(found, slope, scale=size)
        soft = -pair_field(inverse_power(power, t), x, y, w) / area(dim + 1)
        yield Sides(soft, slope[:, :dim], scale=size)
        sources = divergence(partial(gravity, power, y=plane, weights=w), above, STEP * t)
        yield Sides(sources, np.zeros(3), scale=size / t)
    y, w = rng.normal(0, 1, (5, 1)), rng.dirichlet(np.ones(5))
    for t in (0.3, 3.0):  # in x = tan u, where sums err by e^(-800 Im u), tan u = y + i t: e^-23 where y is 3
        u = np.pi * ((np.arange(400) + 0.5) / 400 - 0.5)
        above = np.column_stack([np.tan(u), np.full(400, t)])
        up = gravity(1 if wrong else 2, above, np.column_stack([y, np.zeros(5)]), w)[:, 1]
        yield Sides(np.pi / 400 * (up / np.cos(u) ** 2).sum(), -0.5)


@identity(
    "Lines of force are a flow",
    topic=TOPIC,
    formula=r"\frac{dx}{dt} = \frac{F_x}{F_t} = \frac{x - D}{t},\quad D = \frac{\sum_i w_i k_i x_i}{\sum_i w_i k_i},"
    r"\ k_i = (\|x - x_i\|^2 + t^2)^{-\frac{d+1}{2}};\quad d = 1:\ \sum_i w_i \arctan \frac{x - x_i}{t}"
    r"\text{ is constant}",
    covers=["TOPB-30"],
    over="once",
    evidence=QUADRATURE,
    control="the exponent d, of charges in the space of the data",
)
def lines(case: Case, wrong: bool) -> Iterator[Sides]:
    """Ratios of fields against means over kernels; SciPy's integration from t = 40 to 0.02; one point, straight."""
    rng = case.rng

    def slope(t: float, x: Array, y: Array, w: Array) -> Array:
        dim = y.shape[1]
        above, plane = np.column_stack([x, np.full(len(x), t)]), np.column_stack([y, np.zeros(len(y))])
        field = gravity(dim if wrong else dim + 1, above, plane, w)
        return np.asarray(field[:, :dim] / field[:, dim:])

    for dim in (1, 2, 3):
        y, w, x, t = rng.normal(0, 1, (5, dim)), rng.dirichlet(np.ones(5)), rng.normal(0, 2, (4, dim)), 0.7
        kernels = w * (((x[:, None] - y) ** 2).sum(axis=2) + t**2) ** (-(dim + 1) / 2)
        mean = kernels @ y / kernels.sum(axis=1, keepdims=True)
        yield Sides(slope(t, x, y, w), (x - mean) / t)
        one, far = y[:1], 40 * x
        # straight: a step of any size to the data is exact
        yield Sides(far - 40 * slope(40.0, far, one, np.ones(1)), np.broadcast_to(one, x.shape), scale=100.0)
    (y, w), (start, end) = (rng.normal(0, 1, (3, 1)), rng.dirichlet(np.ones(3))), (40.0, 0.02)
    x = start * np.tan(np.pi * rng.uniform(-0.4, 0.4, 4))

    def rate(s: float, x: Array) -> Array:  # in s = log t
        return np.asarray(np.exp(s) * slope(np.exp(s), x[:, None], y, w)[:, 0])

    found = solve_ivp(rate, (np.log(start), np.log(end)), x, "DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    below = [np.arctan((z[:, None] - y[:, 0]) / t) @ w / np.pi for z, t in zip((found, x), (end, start), strict=True)]
    yield Sides(below[0], below[1], scale=1.0)
