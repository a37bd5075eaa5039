r"""How slowly Langevin mixes between modes.

    L f = f'' + (log p)' f',     the spectral gap lambda_1 = 1 / relaxation time,   var f_t <= e^(-2 lambda_1 t) var f
    unit variances at +-m        lambda_1 -> (2 / pi)^(3/2) m e^(-m^2 / 2):  by the height m^2 / 2 of the barrier
    Eyring and Kramers           sqrt(U''(a) |U''(s)|) / 2 pi e^-B each way, which is that times sqrt(pi / 2)
    a chain of step eta          1 - lambda_2 = eta lambda_1 + O(eta^2), adjusted or not
    points +-m under noise       sigma^2 times the relaxation time of unit modes at +-m / sigma

The source says extremely long; this is how long. Kramers' formula is that of one energy at falling temperature: the top
between two modes that move apart is cosh(m x) and no parabola.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigvalsh

from refdiff.arguments import Array
from refdiff.distributions import Empirical, GaussianMixture
from refdiff.langevin import (
    adjusted_chain,
    passage_time,
    relaxation_rates,
    relaxation_times,
    spectral_gap,
    unadjusted_chain,
    wells_of,
)
from refdiff.model import ExactModel
from refdiff.schedules import VEPower
from refdiff.validation import laws, numeric
from refdiff.validation.cases import Case
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity

TOPIC = "Mixing of Langevin chains"


def modes(distance: float) -> GaussianMixture:
    """Two modes of unit variance at +-distance, as likely as each other."""
    return GaussianMixture.isotropic([[-distance], [distance]], 1.0)


def sinc(count: int, h: float) -> Array:
    """-d^2/dx^2 of the sinc functions at so many nodes with spacing h, shape (count, count)."""
    apart = np.subtract.outer(np.arange(float(count)), np.arange(float(count)))
    with np.errstate(divide="ignore"):
        return np.where(apart == 0, np.pi**2 / 3, 2 * (-1.0) ** apart / apart**2) / h**2


def schroedinger(law: GaussianMixture, count: int) -> Array:
    """The least eigenvalues of -d^2/dx^2 + s^2 / 4 + s' / 2, shape (count,), on a sinc grid: those of -L."""
    std = np.sqrt(laws.covariances(law)[:, 0, 0])
    low, high = (law.means[:, 0] - 11 * std).min(), (law.means[:, 0] + 11 * std).max()
    # the score has its poles at pi s^2 / 2 m from the line: e^(-2 pi (pi / 6.6) 14) = 1e-18 at m = 3.3 s
    h = std.min() / 14
    x = numeric.ticks(low, high, h)
    potential = law.score(x[:, None])[:, 0] ** 2 / 4 + law.laplacian(x[:, None]) / 2
    return np.asarray(eigvalsh(sinc(len(x), h) + np.diag(potential), subset_by_index=(0, count - 1)))


@identity(
    "The spectrum of Langevin's generator",
    topic=TOPIC,
    formula=r"-f'' - (\log p)' f' = \lambda f \iff -\psi'' + \left(\tfrac14 s^2 + \tfrac12 s'\right) \psi"
    r" = \lambda \psi,\ \psi = \sqrt p\, f;\quad"
    r" \tfrac{1}{\lambda} g(x) = \int F(x \wedge y) (1 - F(x \vee y)) \frac{g(y)}{p(y)} dy",
    covers=["PODA-309", "PODA-306"],
    over="once",
    evidence=QUADRATURE,
    control="the rate of dx = grad log p dt / 2 + dw, half of it",
)
def spectrum(case: Case, wrong: bool) -> Iterator[Sides]:
    """Currents and their Green's function against a Schroedinger operator on a sinc grid."""
    rng = case.rng
    for count in (1, 2, 3):
        means, variances = rng.uniform(-2.5, 2.5, (count, 1)), rng.uniform(0.5, 1.2, count)
        law = GaussianMixture.isotropic(means, variances, rng.uniform(0.3, 1, count))
        wanted = schroedinger(law, 4)
        yield Sides(relaxation_rates(law, 3), (0.5 if wrong else 1.0) * wanted[1:], scale=wanted[3])
        yield Sides(wanted[0], 0.0, scale=wanted[3])


@identity(
    "Modes that move apart mix exponentially slowly",
    topic=TOPIC,
    formula=r"\tfrac12 \mathcal{N}(-m, 1) + \tfrac12 \mathcal{N}(m, 1):\quad"
    r" \lim_{m \to \infty} \frac{\lambda_1 e^{m^2/2}}{m} = \left(\tfrac{2}{\pi}\right)^{3/2}",
    covers=["PODA-309"],
    over="once",
    evidence=ORDER,
    control="Eyring and Kramers' prefactor, for a parabola at the top",
    most=1,
)
def separation(case: Case, wrong: bool) -> Iterator[Sides]:  # noqa: ARG001
    """The gap, and twice one over the mean time from mode to mode, extrapolated in 1 / m^2."""
    far = (5.0, 10.0, 20.0)
    gaps = [wells_of(modes(m)).relaxation_rate() if wrong else spectral_gap(modes(m)) for m in far]
    for rates in (gaps, [2 / passage_time(modes(m), -m, m) for m in far]):
        scaled = [np.array(rate * np.exp(m * m / 2) / m) for rate, m in zip(rates, far, strict=True)]
        yield Sides(numeric.extrapolate(scaled, first=2, step=2), (2 / np.pi) ** 1.5)


@identity(
    "Discrete chains mix no faster between modes",
    topic=TOPIC,
    formula=r"\lim_{\eta \to 0} \frac{1 - \lambda_2(\eta)}{\eta} = \lambda_1",
    covers=["PODA-309", "PODA-306"],
    over="once",
    evidence=ORDER,
    most=1,
    control="twice the rate, as where eta / 2 and sqrt(eta) are read for eta and sqrt(2 eta)",
)
def discrete(case: Case, wrong: bool) -> Iterator[Sides]:
    """Second eigenvalues of transition matrices, extrapolated to step 0, against the generator's."""
    m, weight = case.rng.uniform(1.0, 1.6), case.rng.uniform(0.3, 0.5)
    law = GaussianMixture.isotropic([[-m], [m]], 1.0, [weight, 1 - weight])
    gap = spectral_gap(law)
    factor, steps = 2.0 if wrong else 1.0, (0.2, 0.1, 0.05, 0.025)
    plain = [np.array((1 - unadjusted_chain(law, eta).second_eigenvalue) / eta) for eta in steps]
    yield Sides(numeric.extrapolate(plain), factor * gap)
    # rejections are of order eta^(3/2): the error goes in powers of sqrt(eta) from eta on
    ruled = [np.array((1 - adjusted_chain(law, eta).second_eigenvalue) / eta) for eta in steps]
    yield Sides(numeric.extrapolate(ruled, ratio=np.sqrt(2), first=2), factor * gap)


@identity(
    "Noise takes the barrier away",
    topic=TOPIC,
    formula=r"x_\sigma = x_0 + \sigma \varepsilon,\ x_0 = \pm m:\quad"
    r" \tau(\sigma) = \sigma^2\, \tau_1(m / \sigma),\quad \tau_1(r) = \tfrac{1}{\lambda_1}"
    r" \text{ of } \pm r",
    covers=["PODA-309"],
    over="once",
    evidence=QUADRATURE,
    control="the time at the data's own barrier",
)
def annealed(case: Case, wrong: bool) -> Sides:
    """Relaxation times along an exploding process, against those of unit modes by the sinc grid."""
    m = case.rng.uniform(2.0, 3.0)
    model = ExactModel(Empirical([[-m], [m]]), VEPower(T=100.0))
    sigmas = np.array([0.9, 1.5, 3.0, 60.0])
    found = relaxation_times(model, sigmas) / sigmas**2
    wanted = np.array([1 / schroedinger(modes(m / (0.9 if wrong else sigma)), 2)[1] for sigma in sigmas])
    return Sides(found, wanted)


@identity(
    "It is the distance between modes that slows Langevin, not the number of dimensions",
    topic=TOPIC,
    formula=r"\lambda_1\left(\tfrac12 \mathcal{N}(-u, I) + \tfrac12 \mathcal{N}(u, I)\right) \text{ in } \mathbb{R}^d"
    r" = \lambda_1\left(\tfrac12 \mathcal{N}(-|u|, 1) + \tfrac12 \mathcal{N}(|u|, 1)\right) \text{ on the line}",
    covers=["PODA-309"],
    over="once",
    evidence=ORDER,
    control="modes that are |u| apart from 0 along every axis: then the distance grows with the dimension",
    most=1,
)
def dimensions(case: Case, wrong: bool) -> Sides:
    """The least eigenvalues of Schroedinger's operator in the plane, for modes across the grid, against the line's."""
    angle, size = case.rng.uniform(0.3, 1.2), 1.4
    u = size * np.array([np.cos(angle), np.sin(angle)])
    law = GaussianMixture.isotropic([-u, u], 1.0)
    h = 0.55  # exp(-pi^2 / 2 h^2) = 1e-7 of functions as wide as the square root of a density
    x = numeric.ticks(-6.6, 6.6, h)
    line, one, points = sinc(len(x), h), np.eye(len(x)), numeric.lattice(x, x)
    potential = numeric.dot(law.score(points), law.score(points)) / 4 + law.laplacian(points) / 2
    found = eigvalsh(np.kron(line, one) + np.kron(one, line) + np.diag(potential), subset_by_index=(0, 1))
    return Sides(found[1], spectral_gap(modes(np.sqrt(2) * size if wrong else size)))
