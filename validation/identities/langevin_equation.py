r"""Langevin's equation, the law that it keeps, and how it gets there.

    dx = (M + Q) grad log p dt + div(M + Q) dt + sqrt(2) M^(1/2) dw     keeps p for all M(x) >= 0, Q(x)' = -Q(x)
    sigma in place of sqrt(2):   d_t p = (sigma^2 / 2 - 1) lap p, and N(m, S) goes over into N(m, sigma^2 S / 2)
    along an axis of variance S:   m + e^(-t/S) (m_0 - m),   S + (V_0 - S) e^(-2t/S)
    d/dt KL(q_t | p) = -E_q |grad log(q / p)|^2 = -|dq/dt|^2 in W2:   steepest descent

The source has the law approached exponentially fast for every energy that is smooth and confines. It is where p obeys
Poincare's inequality, and for (1 + x^2)^(a/2) with a < 1 it does not: Muckenhoupt's product grows like x^(2 - 2a).
Without noise the same drift goes down to a minimum and stays: not Newton's motion, as it says, which keeps its energy
and never rests, but what is left of that with much friction and little mass.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import expm

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, wasserstein
from refdiff.dynamics import Relaxation
from refdiff.langevin import Preconditioner, langevin_equation, wells_of
from refdiff.stochastic import StochasticEquation
from refdiff.validation import laws, numeric
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identities.langevin_steps import skew, spd
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import dot
from refdiff.validation.steps import FINE, relative_density

TOPIC = "Langevin's equation"


def change(equation: StochasticEquation, case: LawCase) -> Array:
    """d_t p / p at the points of a case (n,) whose law p is, by stencils of drift, noise and log density."""
    law, x, h = case.law, case.x, FINE * laws.smallest_std(case.law)
    ratio, dim = relative_density(law, x), law.dim

    def flux(y: Array) -> Array:
        spread = equation.covariance_rate(y, 0.0) / 2
        pushed = equation.drift_at(y, 0.0) * ratio(y)[:, None]
        if equation.additive:
            gradient = numeric.jacobian(ratio, y, h)
            return pushed - gradient * spread if spread.ndim < 2 else pushed - gradient @ spread
        if spread.ndim == 2:
            spread = spread[:, :, None] * np.eye(dim)

        def weighted(z: Array) -> Array:
            found = equation.covariance_rate(z, 0.0) / 2
            found = found[:, :, None] * np.eye(dim) if found.ndim == 2 else found
            return np.asarray(found * ratio(z)[:, None, None])

        return np.asarray(pushed - np.einsum("nijj->ni", numeric.jacobian(weighted, y, h)))

    return -numeric.divergence(flux, x, h)


@identity(
    "Langevin's equation keeps its law",
    topic=TOPIC,
    formula=r"\partial_t \rho = -\nabla \cdot (\rho \nabla \log p) + \tfrac{\sigma^2}{2} \Delta \rho = 0"
    r" \text{ at } \rho = p:\quad \left(\tfrac{\sigma^2}{2} - 1\right) \Delta p = 0,\quad \sigma = \sqrt 2",
    covers=["PODA-307", "PODA-306"],
    over="laws",
    evidence=DERIVATIVE,
    control="sigma = 1",
    needs=lambda case: case.law.dim <= 3,
    most=4,
)
def stationary(case: LawCase, wrong: bool) -> Iterator[Sides]:
    """The right side by stencils, for no preconditioner and for a matrix with circulation."""
    std, dim = laws.smallest_std(case.law), case.law.dim
    size = dot(case.law.score(case.x), case.law.score(case.x)) + dim / std**2
    rng = case.rng
    for by in (Preconditioner(), Preconditioner(spd(rng, dim), skew(rng, dim))):
        equation = langevin_equation(case.law, by)
        root = np.asarray(equation.noise_at(case.x, 0.0)) / (np.sqrt(2) if wrong else 1.0)
        changed = StochasticEquation(equation.drift, lambda t, root=root: root, dim)
        yield Sides(change(changed, case), 0.0, scale=5 * size)


@identity(
    "A preconditioner that depends on the point needs its divergence",
    topic=TOPIC,
    formula=r"dx = \left[(M + Q) \nabla \log p + \nabla \cdot (M + Q)\right] dt + \sqrt{2}\, M^{1/2} dw:\quad"
    r" \partial_t p = 0",
    covers=["PODA-307"],
    over="laws",
    evidence=DERIVATIVE,
    control="without the divergence",
    needs=lambda case: case.law.dim <= 3,
    most=3,
)
def preconditioned(case: LawCase, wrong: bool) -> Sides:
    """M = I + v v' with v = sin(w x + c), Q = q(x) times a constant one, and their divergences by hand."""
    law, dim, rng = case.law, case.law.dim, case.rng
    wave = 0.5 / laws.smallest_std(law)
    shift, turn = rng.uniform(0, 3, dim), skew(rng, dim)

    def v(x: Array) -> tuple[Array, Array]:
        return 0.7 * np.sin(wave * x + shift), 0.7 * wave * np.cos(wave * x + shift)

    def matrix(x: Array) -> Array:
        at, _ = v(x)
        return np.asarray(np.eye(dim) + at[:, :, None] * at[:, None, :])

    def turning(x: Array) -> Array:
        return np.asarray(np.cos(wave * x.sum(axis=1))[:, None, None] * turn)

    def spread(x: Array) -> Array:
        at, slope = v(x)
        of_m = at * slope + at * slope.sum(axis=1, keepdims=True)
        return np.asarray(of_m - wave * np.sin(wave * x.sum(axis=1))[:, None] * turn.sum(axis=1))

    by = Preconditioner(matrix, turning, np.zeros_like if wrong else spread)
    size = dot(law.score(case.x), law.score(case.x)) + dim / laws.smallest_std(law) ** 2
    return Sides(change(langevin_equation(law, by), case), 0.0, scale=5 * size)


@identity(
    "Langevin's equation on a Gaussian is an Ornstein-Uhlenbeck process",
    topic=TOPIC,
    formula=r"m_t = m + e^{-t/S} (m_0 - m),\quad V_t = S + (V_0 - S)\, e^{-2t/S},\quad"
    r" \sigma \ne \sqrt 2: V_t \to \tfrac{\sigma^2}{2} S",
    covers=["PODA-307"],
    over="once",
    control="e^(-t/S) for the variance too",
)
def relaxing(case: Case, wrong: bool) -> Iterator[Sides]:
    """The exact channel of the linear equation, matrices among them, against exponentials along the axes."""
    rng = case.rng
    for dim in (1, 3):
        law, sigma, t = laws.gaussian(rng, dim), rng.uniform(0.5, 2), rng.uniform(0.1, 1.0)
        s = laws.covariances(law)[0]
        k = np.linalg.inv(s)
        start = laws.gaussian(rng, dim)
        motion = Relaxation(-k, sigma**2 * np.eye(dim), k @ law.mean())
        found = motion.channel(t).push(start)
        values, axes = np.linalg.eigh(s)
        first, second = ((axes * np.exp(-c * t / values)) @ axes.T for c in (1, 2))
        yield Sides(found.mean(), law.mean() + first @ (start.mean() - law.mean()), scale=1.0)
        ahead = np.eye(dim) if wrong else first
        yield Sides(found.cov(), sigma**2 / 2 * (s - s @ second) + first @ laws.covariances(start)[0] @ ahead)
        yield Sides(motion.stationary.cov(), sigma**2 / 2 * s)


@identity(
    "Exponential convergence needs more than a smooth energy that confines",
    topic=TOPIC,
    formula=r"E = (1 + x^2)^{a/2},\ a < 1:\quad \int_x^\infty e^{-E} \int_0^x e^{E} \sim a^{-2} x^{2 - 2a} \to \infty,"
    r"\quad \text{so that no rate is positive}",
    covers=["PODA-307"],
    refutes=["PODA-307"],
    over="once",
    evidence=ORDER,
    control="a product that stays bounded, as convergence at a rate asks for",
)
def no_rate(case: Case, wrong: bool) -> Iterator[Sides]:
    """Muckenhoupt's product by quadrature in units of 1 / E', which both integrals live on."""
    a = case.rng.uniform(0.4, 0.7)
    nodes, weights = numeric.legendre(64)
    t, w = (40 * np.arange(8)[:, None] / 8 + 5 * nodes).ravel(), np.tile(5 * weights, 8)

    def product(x: float) -> float:
        slope = a * x * (1 + x * x) ** (a / 2 - 1)

        def energy(y: Array) -> Array:
            # E(y) - E(x) without the cancellation of two large numbers
            return np.asarray((1 + x * x) ** (a / 2) * np.expm1(a / 2 * np.log1p((y - x) * (y + x) / (1 + x * x))))

        outer, inner = w @ np.exp(-energy(x + t / slope)), w @ np.exp(energy(x - t / slope))
        return float(outer * inner / slope**2)

    far = 10.0 ** (6 / a)
    yield Sides(product(100 * far) / product(far), 1.0 if wrong else 100 ** (2 - 2 * a))
    yield Sides(product(far), far ** (2 - 2 * a) / a**2)


@identity(
    "Langevin is steepest descent of the divergence",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} \mathrm{KL}(q_t \| p) = -\mathbb{E}_q |\nabla \log (q / p)|^2"
    r" = -\lim_{t \to 0} \frac{W_2^2(q_0, q_t)}{t^2}",
    covers=["PODA-308", "PODA-307"],
    over="once",
    evidence=QUADRATURE,
    control="half the Fisher divergence",
)
def descent(case: Case, wrong: bool) -> Iterator[Sides]:
    """d_t q by Fokker and Planck against log(q / p), summed over the line; velocities; speeds of Gaussians in W2."""
    rng, half = case.rng, 0.5 if wrong else 1.0
    for _ in range(3):
        p, q = (
            GaussianMixture.isotropic(rng.uniform(-2, 2, (2, 1)), rng.uniform(0.5, 1.0, 2), [0.3, 0.7]) for _ in "pq"
        )
        x, step = laws.line(p, q)
        weight, s, u = step * np.exp(q.logpdf(x)), p.score(x)[:, 0], q.score(x)[:, 0]
        rate = q.laplacian(x) + u**2 - p.laplacian(x) - u * s  # d_t q / q
        yield Sides(weight @ (rate * (q.logpdf(x) - p.logpdf(x))), -half * weight @ (u - s) ** 2)
    law, start = laws.gaussian(rng, 3), laws.gaussian(rng, 3)
    k = np.linalg.inv(laws.covariances(law)[0])
    motion = Relaxation(-k, 2 * np.eye(3), k @ law.mean())
    first = 1e-2 / float(np.linalg.eigvalsh(k)[-1])
    times = [first / 2**i for i in range(7)]
    speeds = [np.array(wasserstein(start, _gaussian(motion, start, t)) / t) for t in times]
    yield Sides(motion.divergence_rate(start), -half * numeric.extrapolate(speeds) ** 2)


def _gaussian(motion: Relaxation, start: Gaussian, t: float) -> GaussianMixture:
    return motion.channel(t).push(start)


@identity(
    "Downhill without noise",
    topic=TOPIC,
    formula=r"dx = -\nabla E\, dt:\quad \tfrac{dE}{dt} = -|\nabla E|^2,\quad x_t \to \text{a minimum};\quad"
    r" \lim_{\epsilon \to 0} x_t \text{ of } \epsilon \ddot x = -\nabla E - \dot x",
    covers=["PODA-308"],
    refutes=["PODA-308"],
    over="once",
    evidence=ORDER,
    control="Newton's motion with the same force, x'' = -grad E, which turns at the other side of the valley",
)
def downhill(case: Case, wrong: bool) -> Iterator[Sides]:
    """Motion with a mass that tends to 0 in a quadratic valley; a path to the bottom of a mixture's well."""
    rng, t = case.rng, case.rng.uniform(0.5, 1.5)
    k = np.linalg.inv(laws.covariances(laws.gaussian(rng, 2))[0])
    x0, zero, one = rng.standard_normal((2, 5)), np.zeros((2, 2)), np.eye(2)
    ends = []
    for mass in (1e-3, 5e-4, 2.5e-4, 1.25e-4):
        drift = np.block([[zero, one], [-k, zero]]) if wrong else np.block([[zero, one], [-k / mass, -one / mass]])
        ends.append((expm(t * drift) @ np.concatenate([x0, 0 * x0]))[:2])
    yield Sides(numeric.extrapolate(ends), expm(-t * k) @ x0, scale=1.0)
    law = GaussianMixture.isotropic([[-2.0], [2.0]], rng.uniform(0.5, 1.0, 2), [0.4, 0.6])
    x = rng.uniform(-4, 4, (6, 1))
    top = wells_of(law).tops[0]
    for _ in range(300):
        x = numeric.runge_kutta(lambda y, _: law.score(y), x, 0.0, 0.1)
    bottoms = wells_of(law).bottoms
    assert not np.isclose(x, top).any()
    yield Sides(x[:, 0], bottoms[np.abs(x - bottoms).argmin(axis=1)])
