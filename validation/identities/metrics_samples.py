r"""Kernels, energy and estimates from samples.

    MMD^2  = E k(x, x') + E k(y, y') - 2 E k(x, y) = int |phi_p - phi_q|^2 dL    for k(r) = int cos(w r) L(dw)
    energy = 2 E |x - y| - E |x - x'| - E |y - y'| = 2 int (F - G)^2             on the line

A law on few points has few samples: all are drawn, each with its chance, and means and variances of estimates are sums.
Sources: PODA-104, PODA-102; Gretton et al. 2012, "A kernel two-sample test"; Szekely and Rizzo 2013, "Energy
statistics".
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture
from refdiff.metrics import (
    Kernel,
    energy_distance,
    gaussian_kernel,
    inverse_multiquadric_kernel,
    laplace_kernel,
    mmd_squared,
    rational_quadratic_kernel,
)
from refdiff.metrics.similarities import DISTANCE
from refdiff.validation.cases import Case
from refdiff.validation.identities.metrics_transport import TOPIC, at_most, line_mixture
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import cdf, covariances
from refdiff.validation.numeric import integral, lattice

KERNELS = (
    gaussian_kernel(0.8),
    laplace_kernel(0.8),
    rational_quadratic_kernel(0.8, 0.7),
    inverse_multiquadric_kernel(0.8),
    DISTANCE,
)


def characteristic(law: GaussianMixture, w: Array) -> Array:
    """E e^(i w x) of a law on the line, for w (n,), shape (n,)."""
    variances = covariances(law)[:, 0, 0]
    return np.asarray(np.exp(1j * np.outer(w, law.means[:, 0]) - 0.5 * np.outer(w * w, variances)) @ law.weights)


@identity(
    "MMD by characteristic functions",
    topic=TOPIC,
    formula=r"\mathrm{MMD}^2 = \int |\varphi_p - \varphi_q|^2\,d\Lambda,\quad"
    r" e^{-r^2 / 2 L^2}: \Lambda = \mathcal{N}(0, L^{-2}),\ e^{-r / L}: \Lambda = \mathrm{Cauchy}(L^{-1})",
    covers=["PODA-104"],
    over="once",
    evidence=QUADRATURE,
    control="frequencies of deviation L in place of 1 / L",
)
def bochner(case: Case, wrong: bool) -> list[Sides]:
    """Mixtures on the line: closed forms and integrals over scales against integrals over frequencies."""
    rng, found = case.rng, []
    p, q = line_mixture(rng), line_mixture(rng)
    for length in (0.4, 1.7):
        width = length if wrong else 1 / length

        def gap(w: Array) -> Array:
            return np.abs(characteristic(p, w) - characteristic(q, w)) ** 2

        def normal(w: Array, width: float = width) -> Array:
            return np.asarray(2 * gap(w) * np.exp(-0.5 * (w / width) ** 2) / (width * np.sqrt(2 * np.pi)))

        def cauchy(w: Array, width: float = width) -> Array:
            return 2 * gap(w) * width / (np.pi * (width**2 + w**2))

        # the least deviation of a component is above 0.4: beyond 24 its characteristic function is below e^-46
        for kernel, density in ((gaussian_kernel(length), normal), (laplace_kernel(length), cauchy)):
            pieces = [integral(density, a, a + 1.0, 32) for a in np.arange(24.0)]
            found.append(Sides(mmd_squared(p, q, kernel).value, np.sum(pieces)))
    return found


@identity(
    "MMD of a Gaussian kernel is a distance of smoothed densities",
    topic=TOPIC,
    formula=r"\mathrm{MMD}^2 = (\pi L^2)^{d/2}\, 2^{d/2} \int (\tilde p - \tilde q)^2,"
    r"\quad \tilde p = p * \mathcal{N}(0, \tfrac12 L^2 I)",
    covers=["PODA-104"],
    over="once",
    evidence=QUADRATURE,
    control="densities smoothed by the kernel's own variance L^2",
)
def smoothed(case: Case, wrong: bool) -> list[Sides]:
    """Matrix and point-set laws in the plane: the closed form of the library against sums over a lattice."""
    rng, length = case.rng, 0.9
    p, q = random_mixture(2, 2, rng, "full"), Empirical(rng.standard_normal((3, 2)), rng.dirichlet(np.ones(3)))
    noise = length**2 / (1 if wrong else 2)
    a, b = p.convolve(noise), q.convolve(noise)
    ticks = np.arange(-13, 13, 0.125)
    x = lattice(ticks, ticks)
    square = float(((np.exp(a.logpdf(x)) - np.exp(b.logpdf(x))) ** 2).sum() * 0.125**2)
    return [Sides(mmd_squared(p, q, gaussian_kernel(length)).value, 2 * np.pi * length**2 * square)]


@identity(
    "Energy distance on the line",
    topic=TOPIC,
    formula=r"2\, \mathbb{E} |x - y| - \mathbb{E} |x - x'| - \mathbb{E} |y - y'| = 2 \int (F - G)^2\,dx",
    covers=["PODA-104"],
    over="once",
    evidence=QUADRATURE,
    control="without the 2: Cramer's distance",
)
def energy(case: Case, wrong: bool) -> list[Sides]:
    """An integral over scales against one over the line for mixtures, and sorted sums against steps for points."""
    rng = case.rng
    p, q = line_mixture(rng), line_mixture(rng)

    def square(x: Array) -> Array:
        return np.asarray((cdf(p, x) - cdf(q, x)) ** 2)

    total = np.sum([integral(square, a, a + 0.5, 24) for a in np.arange(-12, 12, 0.5)])
    x, y = rng.standard_normal((20, 1)), rng.standard_normal((15, 1)) + 0.4
    a, b = Empirical(x, rng.dirichlet(np.ones(20))), Empirical(y)
    ends = np.sort(np.concatenate([x[:, 0], y[:, 0]]))
    middle = 0.5 * (ends[1:] + ends[:-1])
    steps = [(law.means[:, 0] <= middle[:, None]) @ law.weights for law in (a, b)]
    factor = 1 if wrong else 2
    return [
        Sides(energy_distance(p, q).value, factor * total),
        Sides(energy_distance(a, b).value, factor * np.diff(ends) @ (steps[0] - steps[1]) ** 2),
        at_most(energy_distance(p, q).value, 2 * np.abs(cdf(p, ends) - cdf(q, ends)).max() * 24),
    ]


def all_samples(rng: np.random.Generator, dim: int, count: int) -> tuple[Empirical, Array, Array]:
    """A weighted law of three points, every sample of it (m, count, dim), and the chances (m,)."""
    law = Empirical(rng.standard_normal((3, dim)), rng.dirichlet(np.ones(3) * 2))
    labels = lattice(*[np.arange(3)] * count)
    return law, law.means[labels], law.weights[labels].prod(axis=1)


def rows_of(kernel: Kernel, p: Empirical, q: Empirical) -> Array:
    """k(x_i, y_j) of the points of p and q, (n, m)."""
    return kernel.values(((p.means[:, None] - q.means) ** 2).sum(axis=2))


@identity(
    "The unbiased estimate of MMD, over all samples",
    topic=TOPIC,
    formula=r"\mathbb{E} U = \mathrm{MMD}^2,\quad \operatorname{Var} U = \tfrac4n \operatorname{Var} a"
    r" + \tfrac4m \operatorname{Var} b + \tfrac{2 \zeta_{xx}}{n (n - 1)} + \tfrac{2 \zeta_{yy}}{m (m - 1)}"
    r" + \tfrac{4 \zeta_{xy}}{n m}",
    covers=["PODA-102"],
    over="once",
    control="the first order alone",
)
def unbiased(case: Case, wrong: bool) -> list[Sides]:
    """Samples of 3 and 2 points from laws of three points each, all 243 of them, for three kernels."""
    rng, found = case.rng, []
    (p, xs, chance), (q, ys, other) = all_samples(rng, 2, 3), all_samples(rng, 2, 2)
    n, m = xs.shape[1], ys.shape[1]
    for kernel in (KERNELS[0], KERNELS[2], DISTANCE):
        values = np.array([[mmd_squared(x, y, kernel).value for y in ys] for x in xs])
        mean = chance @ values @ other
        variance = chance @ (values - mean) ** 2 @ other
        u, v = p.weights, q.weights
        kxx, kyy, kxy = rows_of(kernel, p, p), rows_of(kernel, q, q), rows_of(kernel, p, q)
        a, b = kxx @ u - kxy @ v, kyy @ v - u @ kxy
        first = 4 / n * (u @ a**2 - (u @ a) ** 2) + 4 / m * (v @ b**2 - (v @ b) ** 2)
        left = [
            r @ (k - (k @ c)[:, None] - r @ k + r @ k @ c) ** 2 @ c
            for k, r, c in ((kxx, u, u), (kyy, v, v), (kxy, u, v))
        ]
        second = 2 * left[0] / (n * (n - 1)) + 2 * left[1] / (m * (m - 1)) + 4 * left[2] / (n * m)
        size = np.abs(values).max()
        found += [
            Sides(mean, mmd_squared(p, q, kernel).value, scale=size),
            Sides(variance, first + (0 if wrong else second), scale=size**2),
        ]
    return found


@identity(
    "One sample against a law",
    topic=TOPIC,
    formula=r"U = \tfrac{1}{n (n - 1)} \sum_{i \ne j} k(x_i, x_j) - \tfrac2n \sum_i \mathbb{E} k(x_i, y)"
    r" + \mathbb{E} k(y, y'),\quad \mathbb{E} U = \mathrm{MMD}^2,"
    r"\quad \mathbb{E} V = \mathrm{MMD}^2 + \tfrac1n \big(k(0) - \mathbb{E} k(x, x')\big)",
    covers=["PODA-102"],
    over="once",
    evidence=QUADRATURE,
    control="the biased estimate, with pairs of a point and itself",
)
def against_a_law(case: Case, wrong: bool) -> list[Sides]:
    """All samples of three points against a mixture with full covariances: closed, and by integrals over scales."""
    rng, found = case.rng, []
    law, (p, xs, chance) = random_mixture(2, 2, rng, "full"), all_samples(rng, 2, 3)
    for kernel in (KERNELS[0], KERNELS[3], DISTANCE):
        biased = chance @ [mmd_squared(Empirical(x), law, kernel).value for x in xs]
        plain = chance @ [mmd_squared(x, law, kernel).value for x in xs]
        own = p.weights @ rows_of(kernel, p, p) @ p.weights
        exact = mmd_squared(p, law, kernel).value
        found += [
            Sides(biased if wrong else plain, exact, scale=1.0),
            Sides(biased, exact + (kernel.at_zero - own) / 3, scale=1.0),
        ]
    return found


@identity(
    "Kernels that do not see a difference",
    topic=TOPIC,
    formula=r"k = -|x - y|^2:\ \mathbb{E} \ldots = 2 |\mathbb{E} x - \mathbb{E} y|^2,"
    r"\quad \mathrm{MMD}^2(p, q) \approx \tfrac{1}{L^2} |\mathbb{E} x - \mathbb{E} y|^2\ (L \to \infty)",
    covers=["PODA-104"],
    over="once",
    evidence=QUADRATURE,
    tolerance=1e-5,  # the next term is of the size of the squares of the laws over L^2 = 1e7
    control="half of it, the constant of the exponent",
)
def wide_kernels(case: Case, wrong: bool) -> list[Sides]:
    """A kernel far wider than the laws compares their means only: it does not tell laws of equal means apart."""
    rng, length = case.rng, 3e3
    p, q = Gaussian(rng.standard_normal(3), 1.0), random_mixture(3, 3, rng, "full").affine(0.3, [2.0, -1.0, 1.5])
    gap = p.mean() - q.mean()
    return [
        Sides(mmd_squared(p, q, kernel).value, (0.5 if wrong else 1.0) * gap @ gap / length**2)
        for kernel in (gaussian_kernel(length), rational_quadratic_kernel(length, 2.0))
    ]
