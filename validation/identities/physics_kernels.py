r"""Kernel estimates of densities and of classes: what smoothing does, and what few points do beside it.

    classes     sum_j pi_j p_j f_c = pi_c p_c,  f^ the same of p^_j = 1/N_j sum_i N(x; X_i, H)
    smoothing   H -> 0:  (f_c[p * k] - f_c[p]) -> f_c (r_c - sum_j f_j r_j),   r_j = tr(H grad grad p_j) / 2 p_j
    counting    E f^ is not f[E p^]: the gap is of the order 1 / N
    errors      MISE = [R(k) - int (p * k)^2] / N + int (p * k - p)^2

The exact expectation of f^ is one integral of Laplace transforms; with one point of each class it is a double integral,
and with two it is a quadruple one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture, random_mixture
from refdiff.physics import (
    class_posterior,
    counting_bias,
    expected_posterior,
    mean_squared_error,
    mise,
    smoothed_posterior,
    smoothing_bias,
)
from refdiff.validation import laws
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import dot, extrapolate
from refdiff.validation.steps import FINE, relative_rate

TOPIC = "Densities and scores"


@identity(
    "The bias of a class posterior from wide kernels",
    topic=TOPIC,
    formula=r"f + \frac{h^2 f (1 - f)}{2} \Big( \frac{\Delta \rho_1}{\rho_1} - \frac{\Delta \rho_2}{\rho_2} \Big)"
    r" + O(h^4),\qquad f_c \big( r_c - \textstyle\sum_j f_j r_j \big),\; r_j = \frac{h^2 \Delta \rho_j}{2 \rho_j}",
    covers=["PHY-102"],
    over="once",
    evidence=ORDER,
    control="Laplacians of the logarithms in place of Laplacians over densities",
)
def smoothing(case: Case, wrong: bool) -> Iterator[Sides]:
    """Posteriors of densities under narrower and narrower kernels, extrapolated; two classes as printed, and three."""
    rng = case.rng
    for dim, count in ((1, 2), (2, 2), (3, 3)):
        classes, priors = (
            [random_mixture(dim, 2, rng, "full", 1.0) for _ in range(count)],
            rng.dirichlet(np.ones(count)),
        )
        priors = np.ones(2) if count == 2 else priors
        x = np.concatenate([law.sample(2, rng) for law in classes])
        plain = class_posterior(classes, x, priors)
        widths = min(laws.smallest_std(law) for law in classes) / 8 / 2.0 ** np.arange(5)
        gaps = [(smoothed_posterior(classes, x, h**2, priors) - plain) / h**2 for h in widths]
        bends = [law.laplacian(x) + (0.0 if wrong else dot(law.score(x), law.score(x))) for law in classes]
        size = max(np.abs(bend).max() for bend in bends)
        limit = extrapolate(gaps, first=2, step=2)
        if count == 2:
            printed = plain[:, 0] * (1 - plain[:, 0]) / 2 * (bends[0] - bends[1])
            yield Sides(limit[:, 0], printed, scale=size)
        else:
            yield Sides(limit, smoothing_bias(classes, x, 1.0, priors) * (0.5 if wrong else 1.0), scale=size)


def by_pairs(first: GaussianMixture, second: GaussianMixture, x: Array, h2: float, points: int) -> float:
    """E f^ at one x (1,) on the line, by sums over all points.

    Args:
        first: the class of 1 or 2 `points`.
        second: the class of one point.
        x: where.
        h2: H.
        points: how many.
    """
    y, step = laws.line(first, second)
    y = y[:: max(1, len(y) // 200 if points == 2 else 1)]
    step = float(y[1, 0] - y[0, 0])
    masses = [np.exp(law.logpdf(y)) * step for law in (first, second)]
    k = np.exp(-((y[:, 0] - x[0]) ** 2) / (2 * h2))
    if points == 1:
        return float(masses[0] @ (k[:, None] / (k[:, None] + k)) @ masses[1])
    total = 0.0
    for mass, one in zip(masses[0], k, strict=True):
        pair = (one + k) / 2
        total += float(mass * (masses[0] @ (pair[:, None] / (pair[:, None] + k)) @ masses[1]))
    return total


@identity(
    "The expected class posterior of few points",
    topic=TOPIC,
    formula=r"\mathbb{E} \frac{\hat\rho_1}{\hat\rho_1 + \hat\rho_2}"
    r" = \int_0^\infty \mathbb{E}[\hat\rho_1 e^{-s \hat\rho_1}]\, \mathbb{E}[e^{-s \hat\rho_2}]\, ds"
    r" \ne \frac{\mathbb{E} \hat\rho_1}{\mathbb{E} \hat\rho_1 + \mathbb{E} \hat\rho_2}",
    covers=["PHY-102"],
    refutes=["PHY-102"],
    over="once",
    evidence=QUADRATURE,
    control="(100) as printed: the ratio of expectations",
)
def few_points(case: Case, wrong: bool) -> Iterator[Sides]:
    """The integral over s against sums over all points of both classes, with one and with two points of the first."""
    rng = case.rng
    first, second = (random_mixture(1, 1, rng, spread=1.0) for _ in range(2))
    least = min(laws.smallest_std(law) for law in (first, second))
    x, h2 = first.sample(1, rng)[0], 1.5 * least**2
    for points in (1, 2):
        told = smoothed_posterior([first, second], x, h2) if wrong else expected_posterior(
            [first, second], x, h2, [points, 1])  # fmt: skip
        yield Sides(told[0], by_pairs(first, second, x, h2, points), scale=1.0)


@identity(
    "The gap between the expectation of a ratio and the ratio of expectations",
    topic=TOPIC,
    formula=r"N \Big( \mathbb{E} \hat f_c - \frac{\mathbb{E} \hat\rho_c}{\sum_j \mathbb{E} \hat\rho_j} \Big) \to"
    r" f_c \big( \textstyle\sum_j f_j^2 a_j - f_c a_c \big),\quad"
    r" a_j = N \frac{\mathrm{Var}\, \hat\rho_j}{(\mathbb{E} \hat\rho_j)^{2}}",
    covers=["PHY-102"],
    over="once",
    evidence=ORDER,
    control="no gap, as printed in (100)",
    most=1,
)
def gap(case: Case, wrong: bool) -> Sides:
    """The exact expectation for more and more points, extrapolated, against the second derivatives of the ratio."""
    rng = case.rng
    classes = [random_mixture(1, 1, rng, spread=0.5) for _ in range(3)]
    x, h2, priors = classes[0].sample(1, rng), 0.5 * laws.smallest_std(classes[0]) ** 2, rng.dirichlet(5 * np.ones(3))
    plain = smoothed_posterior(classes, x, h2, priors)
    counts = (100, 200, 400, 800)
    found = [n * (expected_posterior(classes, x, h2, (n, 2 * n, n), priors) - plain) for n in counts]
    leading = counting_bias(classes, x, h2, (1, 2, 1), priors)
    return Sides(extrapolate(found), 0 * leading if wrong else leading, scale=np.abs(leading).max())


def log_later(law: GaussianMixture, x: Array, d: float, after: float, contracts: bool, u: float) -> Array:
    """The log density at x (n, d) of a `law` that has diffused (D = `d`) for `after` + u, and `contracts` with u."""
    return law.affine(np.exp(-u / 2) if contracts else 1.0).convolve(2 * d * (after + u)).logpdf(x)


@identity(
    "The bias of a class posterior is a difference of rates, where nothing drifts",
    topic=TOPIC,
    formula=r"\frac{\Delta \rho_1}{\rho_1} - \frac{\Delta \rho_2}{\rho_2} = \frac1D \Big("
    r" \frac{1}{\rho_1} \frac{\partial \rho_1}{\partial t} - \frac{1}{\rho_2} \frac{\partial \rho_2}{\partial t} \Big),"
    r"\quad \partial_t \rho_j = D \Delta \rho_j",
    covers=["PHY-102"],
    over="once",
    evidence=DERIVATIVE,
    control="the rates of the source's own update (54), which contracts besides",
)
def rates(case: Case, wrong: bool) -> Iterator[Sides]:
    """Stencils in time of both densities, which diffuse and, in the control, contract, against the bias in space."""
    rng, d = case.rng, 0.3
    for dim in (1, 3):
        classes = [random_mixture(dim, 2, rng, "full", 1.0) for _ in range(2)]
        x, h = classes[0].sample(4, rng), FINE * min(laws.smallest_std(law) for law in classes) ** 2
        here = [law.convolve(20 * d * h) for law in classes]
        told = [relative_rate(partial(log_later, law, x, d, 10 * h, wrong), h) / d for law in classes]
        f = class_posterior(here, x)
        bias = smoothing_bias(here, x, 2.0)[:, 0] / (f[:, 0] * f[:, 1])
        size = max(np.abs(law.laplacian(x)).max() + dot(law.score(x), law.score(x)).max() for law in here)
        yield Sides(told[0] - told[1], bias, scale=size)


@identity(
    "The integrated error of a kernel estimate",
    topic=TOPIC,
    formula=r"\mathbb{E} \int (\hat\rho - \rho)^2 dx = \tfrac1N \Big[ \tfrac{1}{\sqrt{4 \pi}\, h}"
    r" - \int (\rho * k_h)^2 dx \Big] + \int (\rho * k_h - \rho)^2 dx",
    covers=["PHY-97", "PHY-99"],
    over="once",
    evidence=QUADRATURE,
    control="the kernel of (97), of variance h in place of h^2",
)
def integrated_error(case: Case, wrong: bool) -> Iterator[Sides]:
    """Sums over pairs of components against the pointwise error, which knows kernels only, summed over a grid."""
    rng = case.rng
    law = random_mixture(1, 3, rng)
    for h in laws.smallest_std(law) * np.array([0.05, 0.3, 0.9]):
        x, step = laws.line(law.convolve(h**2), law)
        summed = mean_squared_error(law, x, h**2, 25).sum() * step
        yield Sides(mise(law, h if wrong else h**2, 25), summed)
