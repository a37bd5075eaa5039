r"""Equilibrium of matrix SDEs with constant coefficients: what relaxes, what circulates, and what circulation is not.

    F Sigma + Sigma F' = -D,    F = -(D/2 + Q) Sigma^-1,    F Q + Q F' = (F D - D F')/2
    J^c = Q grad rho,    div J^c = 0

The source concludes that circulation keeps particles from equilibrium. It does the opposite: in the norm of Sigma^-1 no
start of a circulating equation is, at any time, farther from equilibrium than the worst one without circulation, the
rate may rise to the mean of the rates of Q = 0, and critically damped Langevin dynamics, whose noise touches half of
the coordinates, gets there by circulation alone. Second routes: transitions over a long time, Lyapunov's equation,
stencils of densities, divergences of whole paths from their reversals.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import solve_continuous_lyapunov

from refdiff.arguments import Array
from refdiff.dynamics import Relaxation, equilibrium
from refdiff.validation import laws
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, Sides, identity
from refdiff.validation.numeric import divergence, jacobian

TOPIC = "Approach to equilibrium"


def langevin(mass: float = 0.25, friction: float = 1.0, rate: float = 4.0) -> tuple[Array, Array]:
    """F and D (2, 2) of Langevin dynamics of a position and its momentum; this mass and friction damp critically."""
    drift = rate * np.array([[0.0, 1 / mass], [-1.0, -friction / mass]])
    return drift, np.diag([0.0, 2 * friction * rate])


def turns(rng: np.random.Generator, dim: int) -> Array:
    """A random antisymmetric matrix (dim, dim)."""
    a = rng.standard_normal((dim, dim))
    return np.asarray((a - a.T) / 2)


def systems(case: Case) -> list[tuple[Array, Array]]:
    """F and D (d, d) for d = 1..6, each F with a symmetric part below -0.3, and Langevin dynamics."""
    rng, found = case.rng, []
    for dim in range(1, 7):
        a, g = rng.standard_normal((2, dim, dim)) / np.sqrt(dim)
        found.append((turns(rng, dim) - a @ a.T - 0.3 * np.eye(dim), g @ g.T))
    return [*found, langevin(), langevin(*rng.uniform(0.3, 1.5, 3))]


def parts(case: Case) -> Iterator[tuple[Array, Array, Array]]:
    """D, Q and Sigma (d, d) for d = 1..6, and the source's kind of example in the plane, D = 2 I."""
    rng = case.rng
    for dim in range(1, 7):
        d, sigma = (laws.covariances(laws.gaussian(rng, dim))[0] for _ in range(2))
        yield d, turns(rng, dim), sigma
    for q in (0.0, 0.5, 2.0, 10.0):
        yield 2 * np.eye(2), np.array([[0.0, q], [-q, 0.0]]), np.diag([1.0, 10.0])


@identity(
    "A drift is relaxation and circulation",
    topic=TOPIC,
    formula=r"F \Sigma = -\tfrac12 D - Q,\quad \Sigma F^{\mathsf T} = -\tfrac12 D + Q,\quad"
    r" F = -(\tfrac12 D + Q) \Sigma^{-1}",
    covers=["RDX-41", "RDX-43"],
    over="once",
    control="the sign of Q, F = -(D/2 - Q) Sigma^-1",
)
def decomposition(case: Case, wrong: bool) -> Iterator[Sides]:
    """Sigma from a transition over a long time, Q from its own equation; drifts of parts by Lyapunov's equation."""
    for f, d in systems(case):
        slowest = -equilibrium.spectral_abscissa(f)
        # |e^(tF)|^2 < 1e-17 with the polynomial in t that equal rates bring
        reached, q = Relaxation(f, d).channel(60 / slowest).noise, equilibrium.circulation(f, d)
        q = -q if wrong else q
        yield Sides(equilibrium.stationary_covariance(f, d), reached)
        yield Sides(f @ reached, -d / 2 - q)
        yield Sides(reached @ f.T, -d / 2 + q)
    for d, q, sigma in parts(case):
        f = equilibrium.equilibrating_drift(d, -q if wrong else q, sigma)
        kept = solve_continuous_lyapunov(f, -d)
        yield Sides(kept, sigma)
        yield Sides(-d / 2 - f @ kept, q, scale=np.abs(d).max() + np.abs(q).max())


@identity(
    "The equation of the circulation",
    topic=TOPIC,
    formula=r"F Q + Q F^{\mathsf T} = \tfrac12 (F D - D F^{\mathsf T})",
    covers=["RDX-42"],
    over="once",
    control="without the half",
)
def circulation_equation(case: Case, wrong: bool) -> Iterator[Sides]:
    """Q from Sigma put into the equation, and its solution; one for every Q that a drift was made of."""
    made = [(equilibrium.equilibrating_drift(d, q, sigma), d) for d, q, sigma in parts(case)]
    for f, d in [*systems(case), *made]:
        sigma = solve_continuous_lyapunov(f, -d)
        q = -d / 2 - f @ sigma
        right = (f @ d - d @ f.T) * (1.0 if wrong else 0.5)
        size = np.linalg.norm(f, 2) * (np.abs(d).max() + np.linalg.norm(f, 2) * np.linalg.norm(sigma, 2))
        yield Sides(f @ q + q @ f.T, right, scale=size)
        yield Sides(equilibrium.circulation(f, d), q, scale=size)


@identity(
    "What is left in equilibrium circulates",
    topic=TOPIC,
    formula=r"J^c = -Q \Sigma^{-1} x\, \rho = Q \nabla \rho,\quad \nabla \cdot J^c = 0;\qquad"
    r" \text{Langevin: } \Sigma = \operatorname{diag}(1, M),\ Q = \beta \begin{pmatrix} 0 & -1 \\ 1 & 0 \end{pmatrix}",
    covers=["RDX-45", "RDX-44"],
    over="once",
    evidence=DERIVATIVE,
    control="-Q grad rho, which turns the other way",
)
def circulating(case: Case, wrong: bool) -> Iterator[Sides]:
    """J of the stationary law against Q grad rho by a stencil of the density; the divergence of J by another."""
    for f, d in systems(case)[1:]:
        yield from _turning(Relaxation(f, d), case.rng, -1.0 if wrong else 1.0)
    mass, friction, rate = case.rng.uniform(0.3, 2.0, 3)
    f, d = langevin(mass, friction, rate)
    yield Sides(equilibrium.stationary_covariance(f, d), np.diag([1.0, mass]))
    yield Sides(equilibrium.circulation(f, d), rate * np.array([[0.0, -1.0], [1.0, 0.0]]))
    yield Sides(np.sort(np.linalg.eigvals(langevin()[0]).real), np.full(2, -8.0), scale=1.0)


def _turning(motion: Relaxation, rng: np.random.Generator, sign: float) -> Iterator[Sides]:
    """The stationary current against `sign` Q grad rho, and its divergence."""
    end = motion.stationary
    std = laws.smallest_std(end)
    x, h = end.sample(4, rng), 0.02 * std
    q = -motion.diffusion / 2 - motion.drift @ solve_continuous_lyapunov(motion.drift, -motion.diffusion)
    flux, density = motion.current(end, x), np.exp(end.logpdf(x))
    gradient = jacobian(lambda y: np.asarray(np.exp(end.logpdf(y))), x, h)
    size = (density * np.abs(x).max() * np.linalg.norm(motion.drift, 2) * np.linalg.cond(end.cov())).max()
    yield Sides(flux, sign * gradient @ q.T, scale=size)
    yield Sides(motion.circulating_velocity(x) * density[:, None], flux, scale=size)
    yield Sides(divergence(lambda y: motion.current(end, y), x, h), 0.0, scale=size / std)


@identity(
    "Circulation brings equilibrium about",
    topic=TOPIC,
    formula=r"\max_Q \min \operatorname{Re} \operatorname{eig}(-F) = \tfrac{1}{2d} \operatorname{tr} D \Sigma^{-1},"
    r"\quad \big\| e^{-t (D/2 + Q) \Sigma^{-1}} \big\|_{\Sigma^{-1}} \le"
    r" \big\| e^{-t D \Sigma^{-1} / 2} \big\|_{\Sigma^{-1}}",
    covers=["RDX-46"],
    refutes=["RDX-46"],
    over="once",
    control="Q = 0, which L265 holds to be best",
)
def circulation_helps(case: Case, wrong: bool) -> Iterator[Sides]:
    """Eigenvalues with the fastest Q against the mean rate; norms, rates in the plane and Langevin's with any Q."""
    for d, q, sigma in parts(case):
        best = np.zeros_like(d) if wrong else equilibrium.fastest_circulation(d, sigma)
        f = equilibrium.equilibrating_drift(d, best, sigma)
        rates = np.linalg.eigvals(f).real
        yield Sides(rates, np.full(len(d), -np.trace(np.linalg.solve(sigma, d)) / (2 * len(d))))
        still, turning = (equilibrium.equilibrating_drift(d, part, sigma) for part in (0 * q, q))
        times = np.geomspace(0.01, 30, 12)
        excess = equilibrium.growth(turning, times, sigma) - equilibrium.growth(still, times, sigma)
        yield Sides(np.maximum(excess, 0), 0.0, scale=1.0)
    for q in case.rng.uniform(0, 3, 3):  # F = -(I + Q) diag(1, 1/10) has trace -1.1 and determinant (1 + q^2)/10
        f = equilibrium.equilibrating_drift(2.0, [[0.0, q], [-q, 0.0]], [1.0, 10.0])
        square = 0.3025 - (1 + q * q) / 10
        # the root amplifies the rounding of its argument, without bound where the two rates are equal
        root = np.sqrt(abs(square))
        yield Sides(equilibrium.spectral_abscissa(f), -0.55 + root * (square > 0), scale=1 + 1 / root)
    f, d = langevin()
    frozen = equilibrium.equilibrating_drift(d, np.zeros((2, 2)), [1.0, 0.25])
    yield Sides(equilibrium.spectral_abscissa(frozen), 0.0, scale=1.0)  # without circulation positions stand still


@identity(
    "A drift that is a function of its noise does not circulate",
    topic=TOPIC,
    formula=r"F = \varphi(D) \Rightarrow F D = D F^{\mathsf T} \Rightarrow Q = 0,\ F \Sigma = -\tfrac12 D;\quad"
    r" F = -\tfrac12 D \Rightarrow \Sigma = I",
    covers=["RDX-47", "RDX-31"],
    over="once",
    control="a turning beside the function of D, which keeps Sigma = I and F + F' = -D but circulates",
)
def no_circulation(case: Case, wrong: bool) -> Iterator[Sides]:
    """Sigma by Lyapunov's equation and Q by its own for -D/2 and for -(D + D^2), both with d = 1..6."""
    rng = case.rng
    for dim in range(2, 7):
        d = laws.covariances(laws.gaussian(rng, dim))[0]
        for f, sigma in ((-d / 2, np.eye(dim)), (-d - d @ d, np.linalg.inv(2 * (np.eye(dim) + d)))):
            f = f + turns(rng, dim) if wrong else f
            found = solve_continuous_lyapunov(f, -d)
            yield Sides(found, sigma)
            yield Sides(f @ found, -d / 2)
            yield Sides(equilibrium.circulation(f, d), 0.0, scale=np.abs(d).max())
            yield Sides(equilibrium.is_reversible(f, d), 1.0)
        # where D has no rank Sigma = I is not reached, which L267 does not say: axes without noise stay at x_0
        axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0][:, : dim - 1]
        yield Sides(Relaxation(-axes @ axes.T / 2, axes @ axes.T).channel(80.0).noise, axes @ axes.T)
